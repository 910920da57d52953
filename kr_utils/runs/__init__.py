"""The store: stages at work, finished stages, and what explains them (manifests).

Notebooks use the doors below; `runs/` never imports torch, and knows nothing of the method.
"""

from kr_utils.owned import write as write_atomic
from kr_utils.paths import figures_root, runs_root, stage_dir
from kr_utils.runs.files import digests
from kr_utils.runs.finished import Done, NotReadable, find, find_current, outdated, plain, read, settle, stale
from kr_utils.runs.machine import this_machine
from kr_utils.runs.progress import progress
from kr_utils.runs.stage import Stage, begin

__all__ = [
    "Done",
    "NotReadable",
    "Stage",
    "begin",
    "digests",
    "figures_root",
    "find",
    "find_current",
    "outdated",
    "plain",
    "progress",
    "read",
    "runs_root",
    "settle",
    "stage_dir",
    "stale",
    "this_machine",
    "write_atomic",
]
