"""The values of a notebook's first cell: each of the right kind and within its range, before anything is read."""

from __future__ import annotations

from collections.abc import Mapping

from kr_utils import InputError, paths, shown

FOLDERS = ("data_root", "runs_dir", "figures_dir", "out")
SWITCHES = ("interactive", "with_generator", "despite_leaks")
EXAMPLES = {"dataset": '"digits"', "profile": '"quick"', "overrides": 'a dict such as {"epochs": 60}, or {}'}
EXAMPLES |= {"terms": 'a text such as "CC BY 4.0", or ""'}
KINDS = {"dataset": str, "profile": str, "overrides": dict, "terms": str}
MOST_SEED = 2**31 - 1


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
