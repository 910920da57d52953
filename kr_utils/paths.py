"""Folders that people name: made absolute, tried by writing, refused in one line."""

from __future__ import annotations

import contextlib
import os
import tempfile
import unicodedata
from pathlib import Path

from kr_utils import InputError, shown, stages
from kr_utils.stages import ROOT


def absolute(text: str | Path, origin: str) -> Path:
    """The absolute path of a folder that need not exist yet; "~" is the only thing that is expanded.

    Parameters
    ----------
    origin : the option or variable that named it, for the message

    Raises
    ------
    InputError
        Control characters (they would break every line that names the folder), no valid Unicode, a loop of links,
        an unknown user after "~", a name too long for the file system.
    """
    shown = f"{origin} is {str(text)[:120]!r}"
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in str(text)):
        raise InputError(f"{shown}, with a control character or no valid Unicode; name a folder without")
    try:
        path = Path(text).expanduser().resolve()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no such "~user", or, to 3.12, a loop of links
        reason = getattr(error, "strerror", None) or str(error).split(" from ")[0]
        raise InputError(f"{shown}, which cannot be a folder ({reason}); name another") from error
    return path


def listed(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where there is no such folder.

    A glob would pass over what this user may not look into, as if nothing were there.

    Raises
    ------
    InputError
        It may not, or cannot, be looked into.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise InputError(f"{folder}: you may not look into this folder; get permission or name another") from error
    except OSError as error:
        raise InputError(f"{folder}: cannot be looked into ({error.strerror}); name another folder") from error


def writable(folder: Path, origin: str) -> None:
    """Make the folder and try to write into it (the trial leaves nothing); InputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{origin} {folder}: {reason}; name a folder you may write to, with space left") from error


def chosen(given: str | Path, option: str, variable: str, usual: str | Path) -> tuple[Path, str]:
    """The absolute folder that an option names, else a variable, else `usual`; and which of them named it, or "".

    InputError for what is neither text nor path: None would become a folder of that name.
    """
    if not isinstance(given, (str, Path)):
        raise InputError(f'{option} is {shown(given)}, not the name of a folder; give a text, or "" for the usual')
    origin = option if str(given) else variable if os.environ.get(variable) else ""
    return absolute(str(given) or os.environ.get(variable, "") or usual, origin or variable), origin


def runs_root(given: str | Path = "") -> Path:
    """`given`, else the variable KR_RUNS, else runs/ in the repository; absolute."""
    return chosen(given, "--runs-dir", "KR_RUNS", ROOT / "runs")[0]


def figures_root(given: str | Path = "") -> Path:
    """`given`, else the variable KR_FIGURES, else figures/ in the repository; absolute."""
    return chosen(given, "--figures-dir", "KR_FIGURES", ROOT / "figures")[0]


def stage_dir(root: Path, profile: str, dataset: str, seed: int, stage: str) -> Path:
    """The folder of a finished stage; `compare` belongs to the profile, every other stage to a dataset and seed."""
    name = stages.folder(stage)
    return root / profile / name if stage == "compare" else root / profile / dataset / f"seed{seed}" / name
