"""The values of a notebook's first cell: what it leaves open comes from settings.toml, and each is checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

from kr_utils import InputError, paths, shown, stages

SETTINGS = "settings.toml"  # beside the notebooks: one file for all of a session
FOLDERS = ("data_root", "runs_dir", "figures_dir", "out")
# A bundle has a folder of its own, which no session fixes
USUAL = {"dataset": "digits", "profile": "quick", "seed": 0} | {name: "" for name in FOLDERS if name != "out"}
OPEN = ("", -1)  # values of the first cell that leave the choice to settings.toml
EXAMPLES = {"dataset": '"digits"', "profile": '"quick"', "overrides": 'a dict such as {"epochs": 60}, or {}'}
EXAMPLES |= {"terms": 'a text such as "CC BY 4.0", or ""'}
KINDS = {"dataset": str, "profile": str, "overrides": dict, "terms": str}
SWITCHES = ("interactive", "retrain", "with_generator", "despite_leaks")
MOST_SEED = 2**31 - 1


def fill(values: dict) -> dict:
    """Give a notebook's open parameters, "" and a seed of -1, their values in place, and check all of them.

    settings.toml is for people: where `interactive` is False, as in a run of the driver, it is not read.

    Parameters
    ----------
    values : the notebook's `globals()`

    Returns
    -------
    what `runs.begin` is to be told: dataset, profile, seed, folders, retrain, as far as the notebook has them

    Raises
    ------
    InputError
        As `check`; or settings.toml is not valid, or names something that is no setting.
    """
    session = settings() if values.get("interactive", True) is True else {}
    for name, usual in USUAL.items():
        if name in values and type(values[name]) in (str, int) and values[name] in OPEN:
            values[name] = session.get(name, usual)
    check(values)
    told = ("dataset", "profile", "seed", "data_root", "runs_dir", "retrain")
    return {name: values[name] for name in told if name in values}


def settings() -> dict:
    """What settings.toml beside the notebooks says; nothing where there is none, or of what it leaves empty."""
    path = stages.NOTEBOOKS / SETTINGS
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f'{path}: cannot be read ({reason}); write lines such as dataset = "digits"') from error

    if unknown := sorted(set(found) - set(USUAL)):
        raise InputError(f"{path}: {shown(unknown[0])} is no setting; there are: {', '.join(USUAL)}")
    for name, value in found.items():
        if type(value) is not type(USUAL[name]):
            kind = "a whole number" if name == "seed" else "a text in quotes"
            raise InputError(f"{path}: {name} is {shown(value)}; give {kind}")
    return {name: value for name, value in found.items() if value != ""}


def check(values: Mapping[str, object]) -> None:
    """Refuse a parameter of the wrong kind or out of range; which names exist is for others to say.

    Parameters
    ----------
    values : name -> value; what is no parameter of a notebook is left alone, so that `globals()` may be given

    Raises
    ------
    InputError
        Names the parameter, its value, and what to give instead.
    """
    for name, kind in KINDS.items():
        if name in values and not isinstance(values[name], kind):
            raise InputError(f"{name} is {shown(values[name])}; give {EXAMPLES[name]}")

    seed = values.get("seed", 0)
    if type(seed) is not int or not 0 <= seed <= MOST_SEED:
        raise InputError(f"seed is {shown(seed)}; give a whole number from 0 to {MOST_SEED}")
    for name in SWITCHES:
        if not isinstance(values.get(name, True), bool):
            raise InputError(f"{name} is {shown(values[name])}; give True or False")

    for name in FOLDERS:
        paths.chosen(values.get(name, ""), name, "", ".")
