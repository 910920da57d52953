"""The executed notebook that lies beside a result: cleaned of where it ran, kept with its digest, told if it differs.

A stage's numbers do not depend on it, so nothing is trained again for its sake.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import html
import json
import math
import re
import sys
import tempfile
from pathlib import Path

from kr_utils import InputError, owned, stages
from kr_utils.runs import locks
from kr_utils.runs.finished import Done
from kr_utils.runs.identity import fingerprint

NAME, RECORD = "notebook.ipynb", "notebook.json"


def at_work(final: Path) -> Path:
    """Where papermill writes while the stage runs; it stays there if the stage fails."""
    return final.with_name(f"{final.name}.failed.ipynb")


def places(parameters: dict) -> dict[str, str]:
    """Folder -> what stands for it in a copy: those that a notebook was given, and those of this computer."""
    named = {"runs": "runs_dir", "figures": "figures_dir", "data": "data_root", "bundle": "out"}
    found = {str(parameters.get(key, "")): f"<{name}>" for name, key in named.items()}
    with contextlib.suppress(RuntimeError):  # there is no home folder
        found.setdefault(str(Path.home()), "<home>")
    found.setdefault(sys.prefix, "<python>")
    found.setdefault(sys.base_prefix, "<python>")
    found.setdefault(str(stages.ROOT), "<repository>")
    found.setdefault(tempfile.gettempdir(), "<temporary>")
    return {folder: name for folder, name in found.items() if len(folder) > 1}


def clean(text: str, names: dict[str, str]) -> str:
    """A notebook's JSON without the paths of `names`, in outputs, parameters and metadata, and without hosts.

    Parameters
    ----------
    names : as `places` gives them
    """
    forms = {form: name for folder, name in names.items() for form in _forms(folder)}
    longest = sorted(forms, key=len, reverse=True)  # a folder inside another one goes first
    # Neither part of a longer path nor of a longer name.
    paths = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, longest))})(?![\w-])")

    def cleaned(value):
        if isinstance(value, str):
            return locks.TOLD.sub("another process", paths.sub(lambda match: forms[match[0]], value))
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        return {key: cleaned(item) for key, item in value.items()} if isinstance(value, dict) else value

    return json.dumps(cleaned(json.loads(text)), indent=1, ensure_ascii=False) + "\n"


def _forms(folder: str) -> set[str]:
    """A path as it may stand in a notebook: in code (as papermill, Python or JSON quote it), in HTML, resolved."""
    forms = set()
    for path in {folder, str(Path(folder).resolve())}:
        quoted = path.encode("unicode_escape").decode()
        forms |= {path, quoted.replace('"', '\\"'), repr(path)[1:-1], json.dumps(path)[1:-1], html.escape(path)}
    return forms


def keep(done: Done, parameters: dict) -> None:
    """Move the copy of the run that made `done` into its folder, cleaned, with a record of its digest.

    After a kill at any line of this, the same call does the rest.
    """
    copy = at_work(done.path)
    text = clean(owned.read_text(copy), places(parameters))
    record = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "result": fingerprint(done.manifest)}
    owned.write(done.path / NAME, text)
    owned.write(done.path / RECORD, json.dumps(record) + "\n")
    owned.remove(copy)


def hand_on(old: Done | None, folder: Path, manifest: dict) -> None:
    """Take the executed notebook of the result that is being replaced along, where both hold the very same files.

    A stage that is run again in JupyterLab has no copy of its own, and comes out as it was.
    """
    if old is None or told(old):
        return
    if {name: stamp[1] for name, stamp in manifest["files"].items()} == {
        name: stamp[1] for name, stamp in old.manifest["files"].items()
    }:
        text = owned.read_text(old.path / NAME)
        record = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "result": fingerprint(manifest)}
        owned.write(folder / NAME, text)
        owned.write(folder / RECORD, json.dumps(record) + "\n")


def scrub(copy: Path, parameters: dict) -> None:
    """Clean a copy where it lies: that of a stage that failed."""
    with contextlib.suppress(OSError, ValueError):  # there may be none, or half of one
        owned.write(copy, clean(owned.read_text(copy), places(parameters)))


def recover(done: Done, parameters: dict) -> None:
    """Keep the copy that a killed driver left, if it is of this result and not of a later attempt that failed."""
    copy = at_work(done.path)
    try:
        about = json.loads(owned.read_text(copy))["metadata"]["papermill"]
        began, started = (datetime.datetime.fromisoformat(t) for t in (about["start_time"], done.manifest["started"]))
        written = datetime.datetime.fromtimestamp(copy.stat().st_mtime, datetime.UTC)
        # The manifest's time is in whole seconds, cut off.
        if not about.get("exception") and began - datetime.timedelta(seconds=1) <= started <= written:
            keep(done, parameters)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise


def took(done: Done) -> float:
    """Seconds that a stage took as the driver tells them, its kernel's start included.

    Of one that was run in JupyterLab, or whose copy is not its own, as its manifest has them: from when the notebook
    had loaded its libraries.
    """
    seconds = done.manifest["seconds"]
    try:
        about = json.loads(owned.read_text(done.path / NAME))["metadata"]["papermill"]
        began, started = (datetime.datetime.fromisoformat(t) for t in (about["start_time"], done.manifest["started"]))
        before, whole = (started - began).total_seconds(), float(about["duration"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return seconds
    # The manifest's time is in whole seconds, cut off; the work of starts that were killed is in its seconds alone
    own = math.isfinite(whole) and -1 <= before <= whole
    return max(seconds + before, whole) if own else seconds


def told(done: Done) -> str:
    """What is wrong with the executed notebook beside a result, in words; "" where nothing is."""
    copy = done.path / NAME
    try:
        if not copy.is_file():
            return "its executed notebook is missing (deleted, or the stage was run in JupyterLab)"
        record = json.loads(owned.read_text(done.path / RECORD))
        with owned.reading(copy) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        own = record == {"sha256": digest, "result": fingerprint(done.manifest)}
    except PermissionError:
        return "its executed notebook, or the record of it, may not be read"
    except (OSError, ValueError, RecursionError):
        own = False
    return "" if own else "its executed notebook was edited, or is of another run"
