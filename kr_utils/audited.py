"""What is kept of an audit beside the tables of results: figures/<profile>/audit-<dataset>-<seed>.json, and its tables.

10 writes one file per audited run, with the numbers of 08 and where they come from; `kr_utils.results` puts the tables
of those in figures/published/ into figures/README.md.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from kr_utils import InputError, belief, evidence, owned, paths, profiles, results_file, stages
from kr_utils.intervals import Run

# Of the metrics of 08
KEPT = ("matrix", "differences", "volume", "worst", "pipelines", "pool", "canaries", "lambda", "doubts", "words")
KEPT += ("spent", "made_on", "commits", "worst_by_luck")


def to_keep(title: str, run: Run) -> dict:
    """What the file of an audited run says.

    Parameters
    ----------
    title : of the dataset
    run : stage -> finished stage, the audit among them
    """
    done = run["audit"]
    made, profile = done.manifest, done.manifest["parameters"]["profile"]
    origin = {"title": title, "hardware": machine(made), "threads": made["hardware"]["threads"]}
    origin |= {key: made["parameters"][key] for key in ("profile", "dataset", "seed")}
    origin |= {"fingerprint": made["fingerprint"], "commit": made["git_commit"]}

    # How many pipelines there are, --audit says
    budgets = {stage: run[stage].budget for stage in stages.USUAL if stage in run}
    asked = {"shadow": done.metrics["shadow"], "audit": done.budget}
    for stage, budget in asked.items():
        budgets[stage] = {key: value for key, value in budget.items() if key != "pipelines"}
    kept = {key: done.metrics[key] for key in KEPT}
    kept["made_on"] = [_in_words(**place) for place in kept["made_on"]]
    return origin | {"settings": profiles.changes(budgets, profile)} | kept


def machine(manifest: dict) -> str:
    """Where a stage was made: processor, GPU, version of torch."""
    hardware = manifest["hardware"]
    return _in_words(hardware["cpu"], hardware["gpu"], manifest["versions"]["torch"])


def _in_words(cpu: str, gpu: str | None, torch: str) -> str:
    return f"{cpu}, GPU {gpu or 'none'}, torch {torch}"


def text(found: dict) -> str:
    """The file's content; the same audit gives the same bytes."""
    return json.dumps(found, indent=1, sort_keys=True, allow_nan=False) + "\n"


def read(folder: Path) -> list[dict]:
    """The audits that a folder of figures keeps, by dataset and seed.

    Raises
    ------
    InputError
        A file of that name is not what 10 writes: the message names it.
    """
    out = []
    for path in (path for path in paths.listed(folder) if path.match("audit-*.json")):
        try:
            found = json.loads(owned.read_text(path, results_file.LARGEST))
            told(found), table(found), volumes(found), machines(found), commits(found)
            if not re.fullmatch(r"[\w ./,=-]+", command(found)):  # it stands in the tables as code
                raise ValueError
            if not isinstance(found["words"], str):
                raise TypeError
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: not an audit that 10 wrote ({type(error).__name__}); move it away") from None
        out.append(found)
    return sorted(out, key=lambda found: (found["dataset"], found["seed"]))


def table(found: dict) -> pd.DataFrame:
    """A row per artefact: what its main attack found, and beside it the attack that found most, and canaries.

    found : a file's content, or the metrics of 08. Accuracy is that on ordinary non-members in percent, TPR in percent.
    """
    out, doubts = [], found["doubts"]["audit"]
    for artefact in evidence.in_order(list(dict.fromkeys(row["artefact"] for row in found["matrix"]))):
        own = [row for row in found["matrix"] if row["artefact"] == artefact]
        kind, top = evidence.strongest(own)
        if top is None:
            continue  # there were too few pipelines for any attack on it
        main = evidence.main_row(own)
        canaries, least = main["canary_auc"], main["detectable_auc"]
        classifies = artefact not in ("images", "generator")  # these two have no accuracy

        # Numbers of attacks, which failed controls mark
        numbers = {
            "AUC": f"{_auc(main)} ({evidence.ATTACKS[main['attack']]})",
            "detectable AUC": "" if least is None else f"{least:.3f}",
            "TPR at 1 % FPR": _rate(main["tpr_1"]),
            "detectable TPR": "" if main["detectable_tpr_1"] is None else _rate(main["detectable_tpr_1"]),
            "TPR at 0.1 % FPR": _rate(main["tpr_01"]),
            "largest AUC": f"{top['auc']:.3f} ({evidence.ATTACKS[top['attack']]})",
            "AUC on canaries": "" if canaries is None else f"{canaries:.3f}",
            f"AOP (λ={found['lambda']:g})": f"{main['aop']:.3f}" if classifies and main["aop"] is not None else "",
        }

        # And those of the artefact itself
        row = {"artefact": evidence.title(artefact, found["spent"].get("0"))}
        row["accuracy"] = f"{100 * main['accuracy']:.1f}" if classifies else ""
        row["members - others"] = f"{100 * main['gap']:+.1f}" if main["gap"] is not None else ""
        out.append(
            row
            | {name: belief.marked(cell, doubts) if cell else "" for name, cell in numbers.items()}
            | {"evidence (any attack)": kind}
        )
    return pd.DataFrame(out)


def volumes(found: dict) -> pd.DataFrame:
    """A row per volume of synthetic images, in real sets of the same size: AUC of the main attack, accuracy."""
    return pd.DataFrame(
        [
            {
                "synthetic images per real one": f"{point['volume']:.3g}{' (GKD)' * (point['name'] == 'student')}",
                "AUC": belief.marked(_auc(point), found["doubts"]["audit"]),
                "accuracy": f"{100 * point['accuracy']:.1f}",
            }
            for point in evidence.by_volume(found["volume"])
        ]
    )


def told(found: dict) -> list[str]:
    """What stands around the tables: the audit's size and controls, its two sentences, its worst cases."""
    doubts = found["doubts"]["audit"]
    size = f"{found['pipelines']} pipelines, {found['pool']} records, {found['canaries']} of them canaries"
    head = f"{found['title']} (profile {found['profile']}, seed {found['seed']}): {size}; {belief.told(doubts)}."
    by_luck = found.get("worst_by_luck", {})  # none in the file of an older 10
    worst = "; ".join(
        f"{evidence.title(name)} {belief.marked(_auc(row), doubts)}"
        + (f" (with memberships that nobody had {_auc(by_luck[name])})" if name in by_luck else "")
        for name, row in found["worst"].items()
    )
    lines = [f"AUC on the twentieth of the records that leak most: {worst}."] if worst else []
    return [head, found["words"], *against_real(found), *lines]


def against_real(found: dict) -> list[str]:
    """The Student beside real training, in one line; none where the file is of an older 10."""
    row, doubts = found.get("differences", {}).get("student"), found["doubts"]["audit"]
    if not row:
        return []
    leak, right = ([row[f"{key}{end}"] for end in ("", "_low", "_high")] for key in ("auc", "accuracy"))
    attack = evidence.ATTACKS[evidence.main_row([r for r in found["matrix"] if r["artefact"] == "student"])["attack"]]
    return [
        f"The Student less real training, on the same records: AUC {belief.marked(belief.signed(*leak), doubts)} "
        f"({attack}), accuracy {belief.signed(*(100 * value for value in right), digits=1)} points."
    ]


def name(found: dict) -> str:
    """The name of an audit's file."""
    return f"audit-{found['dataset']}-{found['seed']}.json"


def command(found: dict) -> str:
    """The command that makes an audit again."""
    whose = {"--profile": found["profile"], "--datasets": found["dataset"], "--seeds": found["seed"]}
    how = {"--audit": found["pipelines"], "--threads": found["threads"]}
    return f".venv/bin/{stages.command(whose | how)}{found['settings']}"


def machines(found: dict) -> str:
    """Where the pipelines were made, and the attacks if elsewhere."""
    made = found.get("made_on", [found["hardware"]])
    return "; ".join(made) + f" (attacks: {found['hardware']})" * (made != [found["hardware"]])


def commits(found: dict) -> list[str]:
    """Of the code that made the pipelines; none where the file is of an older 10."""
    return [str(commit) for commit in found.get("commits", [])]


def _auc(row: dict) -> str:
    return belief.numbers(*(row[f"auc{end}"] for end in ("", "_low", "_high")))


def _rate(value: float | None) -> str:
    return "not estimable" if value is None else f"{100 * value:.1f}"
