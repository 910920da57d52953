"""The folders of a stage, and how they are put in order after a kill.

`<stage>` is finished, `<stage>.partial` is at work and holds the saved states in `state/`, `<stage>.old` is on
its way out. A stage is finished from the moment its partial folder has a valid manifest (written last, by one
rename); what follows only gives it its name, and whoever comes next does it where a kill prevented it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from kr_utils import InputError, owned

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

    A result that was moved elsewhere and left a link stays where it is; only the link is replaced.

    complete : whether a folder holds a whole result (its manifest is valid)
    """
    # The new result stands: what had its name makes room.
    if _here(partial(final)) and complete(partial(final)):
        owned.remove(partial(final) / STATE)
        if _here(final):
            owned.remove(old(final))
            owned.rename(final, old(final))
        else:
            owned.remove(final)
        owned.rename(partial(final), final)

    # Or the old one does, on its way out when a kill came.
    elif not final.exists() and _here(old(final)) and complete(old(final)):
        owned.remove(final)
        owned.rename(old(final), final)

    owned.remove(old(final))


def _here(folder: Path) -> bool:
    """Whether it is a folder itself, not a link to one."""
    return folder.is_dir() and not folder.is_symlink()


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
        found = json.loads(owned.read_text(marker, owned.NOTE)) if _here(marker.parent) else None
        states = list(marker.parent.rglob("*.safetensors"))
        if found["owner"] == owner and states:
            seconds, starts = _so_far(found, max(path.stat().st_mtime for path in states))
        elif states:
            print(f"{final.name}: its unfinished work is not used ({why(found['owner'])}); it starts anew", flush=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        pass  # no marker, or not one of ours: nothing to go on from

    if starts == 1:
        if _here(folder) and _here(marker.parent):
            owned.remove(marker)  # first: a half-emptied folder must not have an owner
        owned.remove(folder)
    owned.make(marker.parent)
    for leftover in folder.rglob("*.tmp"):
        owned.remove(leftover)
    text = json.dumps({"owner": owner, "started": time.time(), "seconds": seconds, "starts": starts})
    owned.write(marker, text)
    return seconds, starts


def _so_far(found: dict, saved: float) -> tuple[float, int]:
    """What `open_partial` returns, from a marker and the time of the last state; ValueError for impossible numbers."""
    seconds = found["seconds"] + max(0.0, saved - found["started"])
    if type(found["starts"]) is not int or not 1 <= found["starts"] < 2**31:
        raise ValueError("not a number of starts")
    if not all(map(math.isfinite, (seconds, found["started"]))) or found["seconds"] < 0:
        raise ValueError("not a time")
    return seconds, found["starts"] + 1


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
