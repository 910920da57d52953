"""May this be handed out? Rules over the numbers that earlier stages stored; each refusal is one line.

Plain dicts in, words or an InputError out, and nothing heavy: the driver asks before anything runs, and notebook 09
asks again.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from kr_utils import InputError, belief, paths, profiles, stages

FEWEST = 3  # images of each class: one for each of three splits
SPARE = 2**26  # bytes of disk that a bundle may need beside its images
MATRIX = ("artefact", "attack", "auc", "auc_low", "auc_high", "evidence")  # of 08, what is relied on in each row
LEAKS, NO_POWER = "leaks", "no power"  # the evidence of a row in which the audit found some, or could not have


def check(run: Mapping[str, Mapping], generator: bool = False, despite_leaks: bool = False) -> None:
    """Refuse a run that is not to be handed out.

    Parameters
    ----------
    run : stage -> its stored metrics; of 05 and 06, and of "audit" where there is one
    generator : whether the Generator's weights are to go with it
    despite_leaks : hand out what an audit found to leak

    Raises
    ------
    InputError
        A Student that says one class only; controls that failed, of 06 or of the audit; a leak.
    """
    if one := only_class(run["distillation"]["cas_confusion"]):
        raise InputError(
            f"the Student says class {one - 1} of every test image: it has learned nothing that could be handed out; "
            "give the run more budget"
        )
    for which in ("models", "images"):
        believed(belief.doubt(run["membership"], which), which)
    if why := belief.doubt(run.get("audit") or {}, "audit"):
        raise InputError(
            f"the audit (08) is not to be believed ({why}), so a card could say nothing of it; run it again with more "
            "pipelines (--audit N)"
        )
    if (found := leaks(run.get("audit"), generator)) and not despite_leaks:
        raise InputError(
            f"08_audit found leaks: {'; '.join(found)}; do not hand this out, or say --despite-leaks, and the card "
            "says so on top"
        )


def packages() -> None:
    """Refuse where a package that only a release needs is not installed."""
    try:
        import huggingface_hub  # noqa: F401  (only tried, as all four)
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"a release needs the package {error.name}: pip install -r requirements.txt") from error


def worth_it(profile: str) -> None:
    """Refuse the profile whose numbers mean nothing."""
    if profile == "smoke":
        raise InputError("a smoke run checks the plumbing and its numbers mean nothing; release one of another profile")


def believed(why: str, which: str = "images") -> None:
    """Refuse attacks whose controls failed; why : the reasons, "" for none."""
    if why:
        raise InputError(f"the attacks on the {which} are not to be believed ({why}); a card would have nothing to say")


def no_copies(images: int, despite_leaks: bool = False) -> None:
    """Refuse synthetic images that are training images; images : how many are."""
    if images and not despite_leaks:
        raise InputError(
            f"{images} of the drawn images are training images, pixel by pixel; do not hand this out, or say "
            "--despite-leaks, and the card says so on top"
        )


def only_class(confusion: Sequence[Sequence[int]]) -> int:
    """1 + the only class that a classifier ever says, 0 where it says several.

    confusion : rows are true classes, columns what it says
    """
    said = [k for k, column in enumerate(zip(*confusion)) if sum(column)]
    return said[0] + 1 if len(said) == 1 else 0


def leaks(audit: Mapping | None, generator: bool = False) -> list[str]:
    """The attacks by which an audit found that an artefact of the bundle leaks, in words; none without an audit.

    Raises
    ------
    InputError
        The audit's numbers are not of the form that is known here.
    """
    return [
        f"{row['artefact']} to {row['attack']} (AUC {belief.numbers(row['auc'], row['auc_low'], row['auc_high'])})"
        for row in matrix(audit)
        if row["artefact"] in handed_out(generator) and row["evidence"] == LEAKS
    ]


def unjudged(audit: Mapping | None, generator: bool = False) -> list[str]:
    """What is handed out and in which the audit could not have seen a leak: no attack on it had any power."""
    powerful = {row["artefact"] for row in matrix(audit) if row["evidence"] != NO_POWER}
    return [name for name in handed_out(generator) if name not in powerful]


def handed_out(generator: bool = False) -> tuple[str, ...]:
    """What a bundle consists of, as an audit calls it; generator : whether the Generator's weights are in it."""
    return ("student", "images", "generator")[: 2 + generator]


def matrix(audit: Mapping | None) -> list[dict]:
    """The rows of an audit, an attack on an artefact each; InputError where one lacks what is relied on."""
    if audit is None:
        return []
    rows = audit.get("matrix")
    if not isinstance(rows, list) or any(key not in row for row in rows for key in MATRIX):
        raise InputError(f"08_audit has no matrix with {', '.join(MATRIX)} in each row; run it again")
    return rows


def fresh(stale: Mapping[str, str], command: str) -> None:
    """Refuse stages that are missing or not what would be made now.

    Parameters
    ----------
    stale : stage -> what is wrong with it, in words; command : what makes them again, an audit included
    """
    if stale:
        stage, why = next(iter(stale.items()))
        name = stages.notebook(stage)
        raise InputError(f"a bundle is made of finished stages, and {name} is not one: {why}; run `{command}` first")


def command(budgets: Mapping[str, Mapping], where: Mapping, folders: Mapping[str, str] = MappingProxyType({})) -> str:
    """The command that makes a run up to 06, or up to 08 where it was audited, with the settings that it was made with.

    Parameters
    ----------
    budgets : as `budgets` gives them; where : dataset, profile and seed
    folders : option of the command line -> folder, or "" for the usual one
    """
    several = budgets.get("audit", {}).get("pipelines")
    last = "--until membership" if several is None else f"--audit {several} --until audit"
    own = {
        stage: {name: value for name, value in budget.items() if name != "pipelines"}  # how many, --audit says
        for stage, budget in budgets.items()
        if stage in profiles.STAGES
    }
    common = f"--datasets {where['dataset']} --profile {where['profile']} --seeds {where['seed']}"
    given = [f"{option} {shlex.quote(folder)}" for option, folder in folders.items() if folder]
    settings = profiles.changes(own, where["profile"])
    return f"{' '.join(['python run_all.py', common, *given])}{settings} {last}"


def budgets(made: Mapping) -> dict[str, Mapping]:
    """Stage -> its budget, of finished stages; those of an audit's pipelines as the audit tells it."""
    found = {stage: done.manifest["ingredients"]["budget"] for stage, done in made.items()}
    shadow = made["audit"].stored.get("shadow") if "audit" in made else None
    return found | ({"shadow": shadow} if isinstance(shadow, dict) else {})


def images_of_classes(counts: Sequence[int]) -> None:
    """Refuse so few images of a class that it cannot be in three splits; counts : of each class."""
    if min(counts) < FEWEST:
        least = "ask for more images, or for a uniform balance (--set release.balance=uniform)"
        raise InputError(
            f"{sum(counts)} images are too few: class {list(counts).index(min(counts))} would have {min(counts)}, and "
            f"needs {FEWEST}; {least}"
        )


def unfinished(place: Path) -> Path:
    """Where the bundle of `place` is while it is written; whoever ends that process deletes it."""
    return place.with_name(f".{place.name}.partial")


def folder(out: str | Path, kept: Mapping[str, Path], images: int, values: int) -> Path:
    """The absolute folder that a bundle may be written to: new or empty, outside the project's own, with space left.

    Parameters
    ----------
    out : as it was given; kept : what a folder of the project holds -> where it is
    images : how many there will be; values : pixel values of each

    Raises
    ------
    InputError
        It may not.
    """
    place = paths.absolute(out, "--out")
    for what, root in kept.items():
        if place == root or root in place.parents or place in root.parents:
            raise InputError(
                f"--out {place}: a bundle is not written into or around the folder of {what}; name another"
            )

    # What is there, and above it
    if place.exists() and not place.is_dir():
        raise InputError(f"--out {place}: a file, where the bundle's folder belongs; name another folder")
    if paths.listed(place):
        raise InputError(f"--out {place}: not empty, and nothing is replaced; name a new folder")
    above = place.parent
    if not above.is_dir():
        raise InputError(f"--out {place}: there is no folder {above}; make it first")
    try:
        with tempfile.TemporaryDirectory(prefix=".kr-", dir=above):
            pass
        free = shutil.disk_usage(above).free
    except OSError as error:
        raise InputError(f"--out {place}: {above} cannot be written to ({error.strerror}); name another") from error

    # A small file takes a block of the disk; the npz holds all images again
    needed = images * (max(4096, 2 * values) + values) + SPARE
    if free < needed:
        told = f"about {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
        raise InputError(f"--out {place}: {told}; make room or ask for fewer images")
    return place
