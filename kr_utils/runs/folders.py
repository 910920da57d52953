"""The folders of a stage, and how they are put in order after a kill.

`<stage>` is finished, `<stage>.partial` is at work and holds the saved states in `state/`, `<stage>.old` is on
its way out. A stage is finished from the moment its partial folder has a valid manifest (written last, by one
rename); what follows only gives it its name, and whoever comes next does it where a kill prevented it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from kr_utils import InputError
from kr_utils.runs.files import write_atomic

STATE = "state"  # the folder of saved states inside a partial folder
MARKER = "stage.json"  # in it: what the states belong to


def partial(final: Path) -> Path:
    """Where the stage works before it is finished."""
    return final.with_name(final.name + ".partial")


def old(final: Path) -> Path:
    """Where the result goes that is being replaced."""
    return final.with_name(final.name + ".old")


def places(final: Path) -> list[Path]:
    """Where to look for a finished result, best first: a kill may have left it under another name."""
    return [partial(final), final, old(final)]


def settle(final: Path, complete: Callable[[Path], bool]) -> None:
    """Give the finished result its name and remove what it replaces; right after a kill at any line of this function.

    complete : whether a folder holds a whole result (its manifest is valid)
    """
    if complete(partial(final)):
        shutil.rmtree(partial(final) / STATE, ignore_errors=True)
        if final.exists():
            shutil.rmtree(old(final), ignore_errors=True)
            final.rename(old(final))
        partial(final).rename(final)
    elif not final.exists() and complete(old(final)):
        old(final).rename(final)
    shutil.rmtree(old(final), ignore_errors=True)


def open_partial(final: Path, owner: dict, why: Callable[[dict], str]) -> tuple[float, int]:
    """Make the partial folder ready: kept if its states were made by the same `owner`, else emptied.

    Parameters
    ----------
    owner : plain JSON; what a state depends on
    why : the owner of the states found -> what is different now, in words

    Returns
    -------
    seconds of work in the states that are kept, and which start of the stage this is (1, 2, ...)
    """
    folder = partial(final)
    marker = folder / STATE / MARKER
    seconds, starts = 0.0, 1
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        states = list(marker.parent.rglob("*.safetensors"))
        if found["owner"] == owner and states:
            saved = max(path.stat().st_mtime for path in states)
            seconds, starts = found["seconds"] + max(0.0, saved - found["started"]), found["starts"] + 1
        elif states:
            print(f"{final.name}: its unfinished work is not used ({why(found['owner'])}); it starts anew", flush=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # no marker, or not one of ours: nothing to go on from
    if starts == 1:
        if marker.is_file():
            marker.unlink()  # first: a half-emptied folder must not have an owner
        shutil.rmtree(folder, ignore_errors=True)
    marker.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.rglob("*.tmp"):
        leftover.unlink()
    text = json.dumps({"owner": owner, "started": time.time(), "seconds": seconds, "starts": starts})
    write_atomic(marker, text)
    return seconds, starts


def interval() -> float:
    """Seconds between two saved states: the variable KR_SAVE_SECONDS, else 60; 0 saves at every chance."""
    text = os.environ.get("KR_SAVE_SECONDS", "").strip() or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"KR_SAVE_SECONDS is {text[:40]!r}; give seconds between saved states, such as 60")
    return seconds
