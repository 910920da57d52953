"""The rows of results (one per dataset, seed and method) and the tables that a reader sees.

10 makes the rows of finished runs, checks their arithmetic and adds them to results.csv;
`python -m kr_utils.results` puts the tables of figures/published/*/results.csv, and of the audits beside them, into
figures/README.md, between its two markers.
"""

from __future__ import annotations

import argparse
import html
import io
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from kr_utils import (
    InputError,
    audited,
    belief,
    data,
    intervals,
    metrics,
    owned,
    paths,
    profiles,
    results_file,
    stages,
)
from kr_utils.intervals import Run
from kr_utils.results_file import METHODS

UNEVEN = 1.5  # recall is shown per class where the most frequent class has this many times the rarest one's test images
MIA = ("auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "blind_at_1pct_fpr", "advantage")
EXACT = 1e-9  # two ways to the same number differ by rounding only
CLOSE = 1e-6  # and where float32 or the ten digits of results.csv come between
# Epochs, sizes and recipes were tried on training and validation images of these (digits': perhaps on test images)
BUDGETS_MADE_ON = ("blood_rebuilt", "breastmnist", "digits", "pneumonia_rebuilt", "retinamnist")
STAR = "(*)"  # beside the names of these

# What brings what -> the Student with it, the Student without it, in words
CONTRASTS = {
    "Generator": ("gkd", "textures", "images of the Generator instead of random textures"),
    "class": ("gkd", "no_class", "images of the class that is asked for instead of any"),
    "synthetic, not real": ("gkd", "real_images", "synthetic images instead of the real ones"),
    "Teachers' labels": (
        "gkd",
        "hard_regenerated",
        "the Teachers' probabilities instead of the class that was asked for",
    ),
    "softness": ("gkd", "teacher_argmax", "the Teachers' probabilities instead of their most likely class"),
    "relabelling": ("teacher_argmax", "hard_regenerated", "the Teachers' class instead of the one that was asked for"),
    "prior": ("hard_prior", "hard_regenerated", "classes as frequent as in the real set instead of equally frequent"),
    "regeneration": ("gkd", "soft_fixed", "new images every period instead of the same ones"),
}


# ------------------------------------------------------------------ rows


Interval = tuple[float, float, float]  # mean over seeds, low, high


def table_of(found: Mapping[tuple[str, int], Run], profile: str) -> pd.DataFrame:
    """A row per dataset, seed and method of finished runs: accuracy, gaps, attacks, and where they come from.

    What an interval over seeds and images needs of every image is in the runs only, so that it is computed here and
    stored in each row of a dataset and method (`results_file.TWO_WAY`).

    Parameters
    ----------
    found : (dataset, seed) -> stage -> finished stage

    Raises
    ------
    InputError
        A run's stages contradict one another, or seeds of a dataset were run with different budgets.
    """
    # Rows with their origin
    records = []
    for (name, seed), run in found.items():
        check_run(name, seed, run)
        attack_print = run["membership"].manifest["fingerprint"]
        for row in rows_of(run):
            source = "teacher" if row["method"] in results_file.REAL else "distillation"
            prints = {"fingerprint": run[source].manifest["fingerprint"]}
            prints["mia_fingerprint"] = attack_print if "mia_auc" in row else None
            records.append(origin(name, seed, run, source, profile) | row | prints)

    # Seeds of a dataset count together
    table = pd.DataFrame(records)
    groups = table.groupby("dataset", sort=False)
    differ = groups.settings.nunique().gt(1) | groups.method.value_counts().groupby("dataset").nunique().gt(1)
    if differ.any():  # or their interval over seeds would mean nothing
        raise InputError(f"the seeds of {differ.idxmax()} were run with different budgets; rerun them alike")
    own = {name: [run for (other, _), run in found.items() if other == name] for name in groups.groups}
    return pd.concat([with_intervals(rows, own[name]) for name, rows in groups], ignore_index=True)


def with_intervals(rows: pd.DataFrame, runs: list[Run]) -> pd.DataFrame:
    """A dataset's rows with the intervals over its seeds and images, in columns such as gap_two_low and gap_two_high.

    Raises
    ------
    InputError
        What the runs stored of the single images does not add up to the numbers that they stored.
    """
    rows, found = rows.copy(), intervals.of_accuracies(runs)
    for method, more in intervals.of_attacks(runs).items():
        found[method] |= more

    for method, numbers in found.items():
        for key, (mean, low, high) in numbers.items():
            if abs(mean - mean_of(rows, method, key)) > CLOSE:
                told = f"{rows.dataset.iloc[0]}, {method}: {key} is {mean_of(rows, method, key):.6f}, but {mean:.6f}"
                raise InputError(f"{told} by what is stored of every image; run_all.py with --force makes it again")
            rows.loc[rows.method == method, [f"{key}_two_low", f"{key}_two_high"]] = low, high
    return rows


def check_run(name: str, seed: int, run: Run) -> None:
    """Refuse a run whose numbers do not belong together: a gap that is not CAS minus real, other test images."""
    teacher, student, attack = (run[stage].metrics for stage in ("teacher", "distillation", "membership"))
    real, together = teacher["test_accuracy"], teacher["ensemble_test_accuracy"]

    def refuse(method: str, why: str) -> None:
        again = f"`python run_all.py --datasets {name} --seeds {seed} --force` with its profile makes it again"
        raise InputError(f"{name}, seed {seed}, {method}: {why}; {again}")

    # The baselines that 05 compared with are those that 01 stored.
    each = teacher["test_accuracies"]
    if len(each) != teacher["members"] or abs(np.mean(each) - real) > EXACT:
        refuse("real", f"a mean accuracy of {real:.4f} is not that of its {teacher['members']} classifiers")
    for method, was, now in (
        ("real", student["real_test_accuracy"], real),
        ("ensemble", student["ensemble_test_accuracy"], together),
    ):
        if abs(was - now) > EXACT:
            refuse(method, f"05 compared with a real accuracy of {was:.4f}, but 01 has {now:.4f}")

    # Every gap is the Student's accuracy less its baseline.
    every = dict(student["ablation"])
    every["gkd"] = {"cas": student["cas"], "gap": student["cas_gap"], "ensemble_gap": student["ensemble_gap"]}
    for method, row in every.items():
        for key, baseline, words in (("gap", real, "real"), ("ensemble_gap", together, "the real ensemble's")):
            if abs(row[key] - (row["cas"] - baseline)) > EXACT:
                right = row["cas"] - baseline
                refuse(method, f"the {key} is {row[key]:+.4f}, but CAS less {words} accuracy is {right:+.4f}")
    if any(every["gkd"][key] != every["soft_regenerated"][key] for key in every["gkd"]):
        refuse("gkd", "CAS and gaps are not those of soft_regenerated in the ablation")

    # All numbers are of the same images.
    for method, matrix, accuracy in (
        ("real", teacher["test_confusion"], real),
        ("ensemble", teacher["ensemble_test_confusion"], together),
        ("gkd", student["cas_confusion"], student["cas"]),
    ):
        if not np.allclose(np.sum(matrix, axis=1), teacher["test_counts"], atol=1e-6):
            refuse(method, "01 and 05 saw other test images")
        if abs(np.trace(matrix) / np.sum(matrix) - accuracy) > CLOSE:
            refuse(method, f"accuracy {accuracy:.4f} is not that of its confusion matrix")
    rows = {"real": attack["real"]["loss"], "gkd": attack["student"]["loss"], "images": attack["images"]}
    if len({(row["members"], row["non_members"]) for row in rows.values()}) > 1:
        refuse("gkd", "06 attacked real training, Student and synthetic images with other members")


def rows_of(run: Run) -> list[dict]:
    """What was measured in a run, a row per method; the ablation's soft_regenerated is `gkd`."""
    teacher, student, attack = (run[stage].metrics for stage in ("teacher", "distillation", "membership"))
    alone, together = teacher["test_accuracy"], teacher["ensemble_test_accuracy"]

    # Real training: one classifier, and all of them together
    real = {"method": "real", "accuracy": alone, "auc": teacher["test_auc"]}
    real |= {"val_accuracy": teacher["val_accuracy"], "recall": _joined(teacher["test_recall"])}
    ensemble = {"method": "ensemble", "accuracy": together, "auc": teacher["ensemble_test_auc"]}
    ensemble |= {"val_accuracy": teacher["ensemble_val_accuracy"], "recall": _joined(teacher["ensemble_test_recall"])}
    for row in (real, ensemble):
        row |= {"classifiers": teacher["members"], "gap": row["accuracy"] - alone}
        row["ensemble_gap"] = row["accuracy"] - together

    # The Students
    kept = [f"{which}{end}" for which in ("gap", "ensemble_gap") for end in ("", "_low", "_high")]
    rest = [
        {"method": method, "accuracy": row["cas"], "val_accuracy": row["val_cas"]}
        | {key: row[key] for key in (*kept, "agreement")}
        for method, row in student["ablation"].items()
    ]
    gkd = next(row for row in rest if row["method"] == "soft_regenerated")
    gkd |= {"method": "gkd", "auc": student["cas_auc"], "recall": _joined(student["cas_recall"])}
    gkd |= {key: student["knobs"][key] for key in ("few", "temperature", "hard_weight")}
    gkd["teacher_agreement"] = student["teacher_agreement"]

    # What was attacked
    return [
        real | _attack_on_model(attack, "real"),
        ensemble,
        gkd | _attack_on_images(attack) | _attack_on_model(attack, "student"),
        *(row for row in rest if row is not gkd),
    ]


def _attack_on_model(attack: dict, who: str) -> dict:
    row = {f"mia_{key}": attack[who]["loss"][key] for key in MIA}
    for pair, found in attack["shift"][who].items():
        row |= {f"mia_{pair}_{key}": found[key] for key in ("auc", "auc_low", "auc_high")}
    row |= {"aop": attack[f"{who}_aop"], "generalisation_gap": attack[f"{who}_generalisation_gap"]}
    return row | {"mia_controls": belief.controls(attack, "models") or None}


def _attack_on_images(attack: dict) -> dict:
    row = {f"images_{key}": attack["images"][key] for key in MIA}
    row |= {f"images_minus_{who}": attack[f"images_minus_{who}"]["difference"] for who in ("control", "student")}
    row |= {key: attack[key] for key in ("released", "nearest", "nearest_test", "nearer_than_any_test")}
    row |= {key: attack["images"][key] for key in ("members", "non_members")}
    return row | {"images_controls": belief.controls(attack, "images") or None}


def _joined(shares: list[float]) -> str:
    return ";".join(f"{share:.4f}" for share in shares)


def origin(name: str, seed: int, run: Run, source: str, profile: str) -> dict:
    """Where a row's numbers come from: data, options of the command, time, hardware, commits.

    source : the stage that made the row's accuracy
    """
    made, teacher = run[source].manifest, run["teacher"].metrics
    return {
        # The data
        "profile": profile,
        "dataset": name,
        "title": plain_text(run["start"].metrics["title"]),
        "seed": seed,
        "resnet18": data.INFO[name].resnet18 if name in data.INFO else None,
        "classes": plain_text(";".join(c.replace(";", ",") for c in teacher["class_names"])),
        "test_images": ";".join(map(str, teacher["test_counts"])),
        # The work
        "lambda": run["membership"].metrics["lambda"],
        "minutes": sum(run[stage].manifest["seconds"] for stage in stages.USUAL if stage in run) / 60,
        "threads": made["hardware"]["threads"],
        "hardware": plain_text(audited.machine(made)),
        "commit": made["git_commit"],
        "mia_commit": run["membership"].manifest["git_commit"],
        "settings": profiles.changes({stage: run[stage].budget for stage in stages.USUAL if stage in run}, profile),
    }


def plain_text(text: str) -> str:
    """A text for a cell of results.csv: no control characters, nothing that a spreadsheet takes for a formula."""
    kept = "".join(" " if unicodedata.category(sign) in results_file.CONTROL else sign for sign in text)
    return f"'{kept}" if kept[:1] in results_file.FORMULA else kept


def as_csv(table: pd.DataFrame, profile: str) -> str:
    """The text of results.csv; InputError where the form or the arithmetic of any row, new or earlier, is wrong."""
    text = table.to_csv(index=False, lineterminator="\n", float_format="%.10g")
    results_file.check(text, "the table of all rows", profile)
    return text


# ------------------------------------------------------------------ tables


def number(value: Interval, scale: float = 100, digits: int = 1, sign: str = "") -> str:
    """A mean and its interval, "82.7 [79.5, 85.9]"; without the interval where its ends are nan."""
    if pd.isna(value[0]):
        return "not estimable"
    mean, low, high = (scale * v for v in value)
    bounds = "" if np.isnan(low) else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return f"{mean:{sign}.{digits}f}{bounds}"


def mean_of(rows: pd.DataFrame, method: str, key: str) -> float:
    """Mean over a dataset's seeds of a column, or of one of the differences that only their intervals are stored of."""
    if key == "gkd_minus":
        return mean_of(rows, "gkd", "accuracy") - mean_of(rows, method, "accuracy")
    if key == "minus_hard":
        return mean_of(rows, method, "accuracy") - mean_of(rows, "hard_regenerated", "accuracy")
    if key == "mia_minus_real":
        return mean_of(rows, method, "mia_auc") - mean_of(rows, "real", "mia_auc")
    known = rows[rows.method == method][key].astype(float).dropna()
    return float(known.mean()) if len(known) else float("nan")


def interval(rows: pd.DataFrame, method: str, key: str) -> Interval:
    """A dataset's mean over seeds, and its interval over seeds and images; nan where there is none."""
    own = rows[rows.method == method]
    if own.empty or f"{key}_two_low" not in own:
        return float("nan"), float("nan"), float("nan")
    low, high = (float(own[f"{key}_two_{end}"].iloc[0]) for end in ("low", "high"))
    return mean_of(rows, method, key), low, high


def cell(rows: pd.DataFrame, method: str, key: str, scale: float = 100, digits: int = 1, sign: str = "") -> str:
    """A cell of a table: the mean over seeds with its interval over seeds and images."""
    return number(interval(rows, method, key), scale, digits, sign)


def mean_cell(rows: pd.DataFrame, method: str, key: str, scale: float = 100, digits: int = 1, sign: str = "") -> str:
    """A cell of a table: the mean over seeds alone."""
    return number((mean_of(rows, method, key), float("nan"), float("nan")), scale, digits, sign)


def values(rows: pd.DataFrame, method: str, key: str) -> list[float]:
    """A column of one method's rows, a value per seed."""
    return rows[rows.method == method][key].astype(float).tolist()


def empty_gaps(rows: pd.DataFrame) -> list[str]:
    """Words for the gaps of a dataset that say nothing, one for each seed where neither classifier has learned."""
    pairs = rows[rows.method.isin(results_file.ATTACKED)].groupby("seed", sort=False)
    words = [belief.empty_gap(*_of_classes(pair)) for _, pair in pairs]
    return [word for word in words if word]


def unlearned(table: pd.DataFrame) -> str:
    """For an alt text: who says one class only, or is no better than the most frequent one; "" where all have learned.

    " BreastMNIST, seed 0: real training says one class only, soft, regenerated (GKD) says one class only."
    """
    told = []
    for _, title, rows in _datasets(table):
        for seed, known in rows[rows.method.isin(results_file.LEARNED)].groupby("seed", sort=False):
            counts, accuracies, recalls = _of_classes(known)
            words = [belief.unlearned(counts, *pair) for pair in zip(accuracies, recalls)]
            found = [f"{METHODS[method]} {word}" for method, word in zip(known.method, words) if word]
            told += [f" {title}, seed {seed}: {', '.join(found)}."] if found else []
    return "".join(told)


def _of_classes(rows: pd.DataFrame) -> tuple[list[int], list[float], list[list[float]]]:
    """Test images of each class; each row's accuracy and recall per class."""
    counts = [int(n) for n in rows.test_images.iloc[0].split(";")]
    return counts, list(rows.accuracy), [[float(r) for r in line.split(";")] for line in rows.recall]


def _words(found: list[str], seeds: int) -> str:
    """Words of some seeds as they stand behind the number of all of them."""
    if not found:
        return ""
    share = f": {len(found)} of {seeds} seeds" if len(found) < seeds else ""
    return f" ({' or '.join(dict.fromkeys(found))}{share})"


def doubted(table: pd.DataFrame, which: str) -> list[str]:
    """A line for each run whose attacks are not to be believed, with the reasons.

    which : "mia", the attacks on the classifiers, or "images"; rows from before the controls were kept give no line
    """
    return [
        f"{belief.MARK} not to be believed: {title} (profile {profile}), seed {row.seed}: {why}"
        for profile, title, rows in _datasets(table)
        for row, why in _doubts(rows, which)
    ]


def _doubts(rows: pd.DataFrame, which: str) -> list[tuple]:
    if f"{which}_controls" not in rows:
        return []
    gkd = rows[rows.method == "gkd"]
    told = [(row, row[f"{which}_controls"]) for _, row in gkd.iterrows()]
    return [(row, why) for row, why in told if not pd.isna(why) and why != belief.HELD]


def marked(rows: pd.DataFrame, which: str, text: str) -> str:
    """A number of a dataset's attacks, with the mark beside it where those of a seed are not to be believed."""
    return belief.marked(text, _doubts(rows, which))


def _datasets(table: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    groups = table.groupby(["profile", "dataset"], sort=False)
    return [(profile, rows.title.iloc[0], rows) for (profile, _), rows in groups]


def accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Real training against the GKD Student, one row per profile and dataset; percent and points of the test split."""
    out = []
    for profile, title, rows in _datasets(table):
        seeds, published = rows.seed.nunique(), rows.resnet18.iloc[0]
        few = mean_of(rows, "gkd", "few")

        # Percent, and points where a gap stands
        out.append(
            {
                "profile": profile,
                "dataset": f"{title} {STAR}" if rows.dataset.iloc[0] in BUDGETS_MADE_ON else title,
                "seeds": seeds,
                "MedMNIST's ResNet-18, real": "" if pd.isna(published) else f"{100 * published:.1f}",
                "real": cell(rows, "real", "accuracy"),
                "real ensemble": cell(rows, "ensemble", "accuracy"),
                "Student (CAS)": cell(rows, "gkd", "accuracy"),
                "CAS gap": cell(rows, "gkd", "gap", digits=2, sign="+") + _words(empty_gaps(rows), seeds),
                "gap to the ensemble": cell(rows, "gkd", "ensemble_gap", digits=2, sign="+"),
                "few-step": "" if np.isnan(few) else f"{few * seeds:.0f} of {seeds} seeds",
                "minutes per seed": f"{np.mean(values(rows, 'gkd', 'minutes')):.0f}",
            }
        )
    return pd.DataFrame(out)


def ablation(table: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of every method in percent, mean over seeds; in brackets the Student's agreement with the Teachers.

    Agreement is the share of test images on which Student and Teachers say the same class.
    """
    shown = {method: name for method, name in METHODS.items() if method in set(table.method)}
    out = []
    for profile, title, rows in _datasets(table):
        row = {"profile": profile, "dataset": title}
        for method, name in shown.items():
            accuracy_, agreement = (mean_of(rows, method, key) for key in ("accuracy", "agreement"))
            same = "" if np.isnan(agreement) else f" ({100 * agreement:.0f})"
            row[name] = "not run" if np.isnan(accuracy_) else f"{100 * accuracy_:.1f}{same}"
        out.append(row)
    return pd.DataFrame(out)


def contrasts(rows: pd.DataFrame) -> dict[str, Interval]:
    """Of one dataset: what brings what -> difference of two Students' accuracies, nan where one was not trained."""
    stored = {
        name: (less, "gkd_minus") if more == "gkd" else (more, "minus_hard")
        for name, (more, less, _) in CONTRASTS.items()
    }
    return {name: interval(rows, *place) for name, place in stored.items()}


def brings(table: pd.DataFrame) -> pd.DataFrame:
    """What brings what: points of test accuracy, a column per line of `CONTRASTS`, with intervals."""
    out = []
    for profile, title, rows in _datasets(table):
        told = {
            name: "not run" if np.isnan(value[0]) else number(value, sign="+")
            for name, value in contrasts(rows).items()
        }
        out.append({"profile": profile, "dataset": title} | told)
    return pd.DataFrame(out)


def brings_told(table: pd.DataFrame) -> list[str]:
    """A sentence for each line of `CONTRASTS` and each profile: on which datasets the interval excludes zero."""
    lines = []
    for profile, rows_ in table.groupby("profile", sort=False):
        every = {title: contrasts(rows) for _, title, rows in _datasets(rows_)}
        for name, (more, less, words) in CONTRASTS.items():
            known = {title: found[name] for title, found in every.items() if not np.isnan(found[name][0])}
            sides = {
                "raises the accuracy on": [title for title, (_, low, _) in known.items() if low > 0],
                "lowers the accuracy on": [title for title, (_, _, high) in known.items() if high < 0],
                "cannot be told from zero on": [t for t, (_, low, high) in known.items() if low <= 0 <= high],
            }
            found = "; ".join(f"{side} {', '.join(titles)}" for side, titles in sides.items() if titles)
            pair = f"{METHODS[more]} minus {METHODS[less]}"
            lines += [f"{name}, profile {profile} ({words}: {pair}): {found}."] if known else []
        lines += _asked_share_told(profile, rows_)
    return lines


def _asked_share_told(profile: str, rows_: pd.DataFrame) -> list[str]:
    """In which runs three of the `CONTRASTS` hold two ideas: Tuning gave GKD's labels a share of the asked class."""
    with_controls = rows_[rows_.method == "textures"][["dataset", "seed"]]
    gkd = rows_[rows_.method == "gkd"].merge(with_controls, on=["dataset", "seed"])
    where = [f"{row.title} (seed {row.seed}: {row.hard_weight:g})" for row in gkd.itertuples() if row.hard_weight > 0]
    others = "; ".join(METHODS[name] for name in ("textures", "no_class", "teacher_argmax"))
    told = f"Generator, class and softness, profile {profile}, hold a second difference on {', '.join(where)}"
    told += f": the asked class has this share of GKD's labels, and none of the others' ({others})."
    return [told] if where else []


def attacks(table: pd.DataFrame) -> pd.DataFrame:
    """The loss attack under the paper-like protocol, a row per dataset and classifier; generalisation gap in points.

    Numbers that are not to be believed carry the mark; `doubted` has the reasons.
    """
    out = []
    for profile, title, rows in _datasets(table):

        def told(text: str, rows=rows) -> str:
            return marked(rows, "mia", text)

        for method, who in (("real", "one real classifier"), ("gkd", "GKD Student")):
            row = {"profile": profile, "dataset": title, "attacked": who}
            row["train - test"] = mean_cell(rows, method, "generalisation_gap", sign="+")
            for key, pair in (("mia_auc", "train-test"), ("mia_val_test_auc", "validation-test")):
                row[f"AUC, {pair}"] = told(cell(rows, method, key, 1, 3))
            row["AUC, train-validation"] = told(cell(rows, method, "mia_train_val_auc", 1, 3))
            minus = cell(rows, "gkd", "mia_minus_real", 1, 3, "+")
            row["AUC, Student - real"] = told(minus) if method == "gkd" else ""
            row["TPR at 1 % FPR"] = told(mean_cell(rows, method, "mia_tpr_at_1pct_fpr", digits=2))
            row["blind"] = mean_cell(rows, method, "mia_blind_at_1pct_fpr", digits=2)
            row[f"AOP (λ={rows['lambda'].iloc[0]:g})"] = told(mean_cell(rows, method, "aop", 1, 3))
            out.append(row)
    return pd.DataFrame(out)


def shift_told(table: pd.DataFrame) -> list[str]:
    """A sentence for each dataset and attacked classifier: how much of its AUC may be the splits' difference."""
    pairs = ("mia_auc", "mia_val_test_auc", "mia_train_val_auc")
    return [
        f"{title} (profile {profile}), {who}: {belief.of_shift(*(interval(rows, method, key) for key in pairs))}."
        for profile, title, rows in _datasets(table)
        for method, who in (("real", "one real classifier"), ("gkd", "GKD Student"))
    ]


def images(table: pd.DataFrame) -> pd.DataFrame:
    """The nearest-image attack on the synthetic images; without the datasets whose rows are older than it."""
    out = []
    for profile, title, rows in _datasets(table):
        gkd = rows[rows.method == "gkd"]
        if "images_auc" not in rows or gkd.images_auc.isna().any():
            continue  # its rows are from before this attack was built
        chance = np.mean(gkd.members / (gkd.non_members + 1))
        nearer = f"{gkd.nearer_than_any_test.mean():.1f} of {gkd.members.iloc[0]:.0f} (by chance {chance:.1f})"

        numbers = {
            "AUC": cell(rows, "gkd", "images_auc", 1, 3),
            "TPR at 1 % FPR": mean_cell(rows, "gkd", "images_tpr_at_1pct_fpr", digits=2),
            "blind": mean_cell(rows, "gkd", "images_blind_at_1pct_fpr", digits=2),
            "AUC, images - Student": cell(rows, "gkd", "images_minus_student", 1, 3, "+"),
            "AUC, images - split control": cell(rows, "gkd", "images_minus_control", 1, 3, "+"),
            "training images nearer than every test image": nearer,
        }
        row = {"profile": profile, "dataset": title, "synthetic images": f"{gkd.released.iloc[0]:.0f}"}
        out.append(row | {name: marked(rows, "images", text) for name, text in numbers.items()})
    return pd.DataFrame(out)


def recalls(table: pd.DataFrame) -> pd.DataFrame:
    """Recall per class in percent, mean over seeds, of the datasets whose classes are uneven; empty if none is.

    Their mean over classes, the balanced accuracy, is each dataset's last row.
    """
    out = []
    for profile, title, rows in _datasets(table):
        named = rows[rows.method.isin(["real", "gkd"])]
        counts = [int(n) for n in named.test_images.iloc[0].split(";")]
        if max(counts) < UNEVEN * min(counts):
            continue
        recall = {
            m: np.mean([[float(v) for v in r.split(";")] for r in named[named.method == m].recall], axis=0)
            for m in ("real", "gkd")
        }
        classes = data.class_words(named.dataset.iloc[0], named.classes.iloc[0].split(";"))
        for k, (name, count) in enumerate(zip(classes, counts)):
            shares = {"real": f"{100 * recall['real'][k]:.0f}", "Student": f"{100 * recall['gkd'][k]:.0f}"}
            out.append({"profile": profile, "dataset": title, "class": name, "test images": count, **shares})
        shares = {who: f"{100 * recall[m].mean():.1f}" for who, m in (("real", "real"), ("Student", "gkd"))}
        whole = {"class": "mean over classes (balanced accuracy)", "test images": sum(counts)}
        out.append({"profile": profile, "dataset": title, **whole, **shares})
    return pd.DataFrame(out)


def labels(table: pd.DataFrame) -> dict[str, str]:
    """Dataset -> its title, with the dataset's name where two have the same title; for one profile's figures."""
    titles = dict(zip(table.dataset, table.title))
    twice = [title for title in titles.values() if list(titles.values()).count(title) > 1]
    return {name: f"{title} ({name})" if title in twice else title for name, title in titles.items()}


def sized(table: pd.DataFrame) -> dict[str, str]:
    """Dataset -> what stands behind a figure's numbers: its title, seeds and test images."""
    names, told = labels(table), {}
    for name, rows in table.groupby("dataset"):
        seeds, images = rows.seed.nunique(), sum(_of_classes(rows[rows.method == "real"])[0])
        told[name] = f"{names[name]}: {seeds} seed{'s' * (seeds > 1)}, {images:,} test images"
    return told


def dots(table: pd.DataFrame, methods: Iterable[str], key: str) -> dict[str, list[Interval]]:
    """For a figure: dataset -> a column's mean and interval for each method, nan where it was not run."""
    names = labels(table)
    return {names[name]: [interval(rows, method, key) for method in methods] for name, rows in table.groupby("dataset")}


def in_words(names: Iterable[str], series: Mapping[str, list[Interval]], sign: str = "") -> str:
    """What a figure of `plots.dots` shows, for its alt text: "A: x 1.0 [0.5, 1.5], y ...; B: ..."."""
    names = list(names)
    return "; ".join(
        f"{one}: " + ", ".join(f"{name} {number(v, sign=sign)}" for name, v in zip(names, values) if not np.isnan(v[0]))
        for one, values in series.items()
    )


def points(table: pd.DataFrame) -> list[dict]:
    """For `plots.utility_privacy`: accuracy and loss-attack AUC with intervals; the mark where it is not believed."""
    names, out = labels(table), []
    for name, rows in table.groupby("dataset"):
        pair = {
            who: (interval(rows, method, "accuracy"), interval(rows, method, "mia_auc"))
            for who, method in (("real", "real"), ("student", "gkd"))
        }
        out.append({"dataset": marked(rows, "mia", names[name])} | pair)
    return out


def settings_told(rows: list[dict]) -> list[str]:
    """Each setting of Tuning in words: guidance, solver steps, and whatever else differs from setting to setting.

    rows : of 04's scores.csv
    """
    tried = {"churn": "churn", "threshold": "filter", "temperature": "temperature", "hard_weight": "asked label"}
    differs = [name for name in tried if len({row[name] for row in rows}) > 1]

    def told(row: dict) -> str:
        drawn = f"{row['steps']:g} step{'s' * (row['steps'] != 1)}" + " of the few-step Generator" * bool(row["few"])
        more = [f"{tried[name]} {row[name]:g}" for name in differs if row[name]]
        return ", ".join([f"guidance {row['guidance']:g}", drawn, *more])

    return [told(row) for row in rows]


def overall(table: pd.DataFrame) -> str:
    """One sentence: the means over datasets of the mean gaps, and their Student-t intervals over datasets."""
    datasets = _datasets(table)
    one, together = (
        number(metrics.mean_interval([mean_of(rows, "gkd", key) for _, _, rows in datasets]), digits=2, sign="+")
        for key in ("gap", "ensemble_gap")
    )
    empty = [title for _, title, rows in datasets if empty_gaps(rows)]
    n = len(datasets)
    words = f" It counts gaps that say nothing: {', '.join(empty)}." if empty else ""
    return f"Mean CAS gap over {n} dataset{'s' * (n > 1)}: {one} points; to the real ensemble {together}.{words}"


def _everyday(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of clothes, digits or animals; the others are medical."""
    return rows.dataset.isin([name for name, info in data.INFO.items() if info.source != "medmnist"])


def aims(table: pd.DataFrame, audits: Iterable[dict]) -> pd.DataFrame:
    """What this project set out to show, what was measured, and whether that reaches it: a row per aim and profile.

    audits : as `audited.read` gives them
    """
    out = []

    def row(profile: str, aim: str, found: Mapping[str, str], reached: str) -> None:
        if found:
            told = "; ".join(f"{title} {words}".strip() for title, words in found.items())
            out.append({"profile": profile, "aim": aim, "measured": told, "reached": reached})

    def against(least: float, found: Iterable[Interval]) -> str:
        """Whether all of these are at least so large."""
        means, lows = zip(*((mean, low) for mean, low, _ in found))
        return "yes" if min(lows) >= least else "by the mean, not by the interval" if min(means) >= least else "no"

    for profile, every in table.groupby("profile", sort=False):
        names = labels(every)
        medical = {names[name]: rows for name, rows in every[~_everyday(every)].groupby("dataset", sort=False)}

        # Accuracy
        gaps = {title: interval(rows, "gkd", "gap") for title, rows in medical.items()}
        aimed = (("gap", "one real classifier", 0.005), ("ensemble_gap", "the real ensemble", -0.005))
        for key, of, least in aimed if medical else ():
            mean = metrics.mean_interval([mean_of(rows, "gkd", key) for rows in medical.values()])
            told = {"": f"{number(mean, digits=2, sign='+')}, {len(medical)} set{'s' * (len(medical) > 1)}"}
            aim = f"gap to {of}, mean over medical sets: {100 * least:+.1f} points or more"
            row(profile, aim, told, against(least, [mean]))
        digits = {"": interval(every[every.dataset == "digits"], "gkd", "gap")} if "digits" in names else {}
        for aim, least, found in (
            ("gap to one real classifier on no medical set below -1.0", -0.01, gaps),
            ("gap to one real classifier on digits: -0.3 points or more", -0.003, digits),
        ):
            told = {title: number(gap, digits=2, sign="+") for title, gap in found.items()}
            row(profile, aim, told, against(least, found.values()) if found else "")

        # Is it the Generator, and is the baseline fair?
        brought = {title: contrasts(rows)["Generator"] for title, rows in medical.items()}
        brought = {title: each for title, each in brought.items() if not np.isnan(each[0])}
        shown = sum(low > 0 for _, low, _ in brought.values())
        aim = "the Generator's images teach more than textures, beyond the interval, on four medical sets"
        reached = "yes" if shown >= 4 else f"on {shown} of {len(brought)}"
        row(profile, aim, {title: number(each, sign="+") for title, each in brought.items()}, reached)
        real = {title: (interval(rows, "real", "accuracy"), rows.resnet18.iloc[0]) for title, rows in medical.items()}
        real = {title: pair for title, pair in real.items() if pd.notna(pair[1])}
        told = {title: f"{number(found)}, published {100 * known:.1f}" for title, (found, known) in real.items()}
        reached = "yes" if all(found[0] >= known for found, known in real.values()) else "within the interval"
        reached = reached if all(found[2] >= known for found, known in real.values()) else "no"
        row(profile, "real training reaches MedMNIST's ResNet-18", told, reached)

    # Leakage
    for found in audits:
        title, doubts = f"{found['title']}, seed {found['seed']}:", found["doubts"]["audit"]
        main = {row["artefact"]: row for row in found["matrix"] if row["attack"] == "lira" and row["auc"] is not None}
        if {"student", "real"} <= set(main):
            mine, real = main["student"], main["real"]
            apart = found.get("differences", {}).get("student", {}).get("auc_high", mine["auc_high"] - real["auc_low"])
            reached = (
                "yes" if apart < 0 else "by the number, not by the interval" if mine["auc"] < real["auc"] else "no"
            )
            told = {title: belief.marked(f"{mine['auc']:.3f} against {real['auc']:.3f}", doubts)}
            aim = "in an audit the Student's AUC is below real training's"
            row(found["profile"], aim, told, "not judged" if doubts else reached)
    return pd.DataFrame(out)


def _with_and_without_everyday(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """All rows; and, where some are of clothes, digits or animals, the others: the paper's sets are mostly medical."""
    everyday = _everyday(rows)
    without = " and ".join(escape(title) for title in rows[everyday].title.unique())
    return [("", rows), *([(f", without {without}", rows[~everyday])] if without else [])]


def command(rows: pd.DataFrame) -> str:
    """What makes the rows of one profile and dataset again."""
    seeds = ",".join(str(k) for k in sorted(set(rows.seed)))
    options = rows.settings.iloc[0] if rows.settings.notna().all() else ""  # pandas reads an empty one as missing
    whose = {"--profile": rows.profile.iloc[0], "--datasets": rows.dataset.iloc[0], "--seeds": seeds}
    return f".venv/bin/{stages.command(whose | {'--threads': min(rows.threads)})}{options}"


def provenance(table: pd.DataFrame) -> list[str]:
    """A line per profile and dataset: the command, the hardware, the commit."""
    lines = []
    for _, title, rows in _datasets(table):
        # With other threads sums are in another order, and the last digits differ
        others = ["seeds with other threads too"] if rows.threads.nunique() > 1 else []
        where = [*sorted(set(rows.hardware.map(escape))), *others]
        made = [rows.commit, *([rows.mia_commit] if "mia_commit" in rows else [])]
        commits = sorted({short(c) for c in pd.concat(made).dropna()})
        made_by = ", ".join(commits) or "unknown"
        lines.append(f"{escape(title)}: `{command(rows)}`; {'; '.join(where)}; commit {made_by}")
    return lines


def short(commit: str) -> str:
    """The first ten digits of a commit, and whether the code had changes that were not committed."""
    return str(commit)[:10] + "+changes" * str(commit).endswith("+changes")


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; what is in its cells cannot end them, nor become a link, a picture or HTML."""
    cells = [[escape(str(value)) for value in line] for line in [frame.columns, *frame.to_numpy()]]
    lines = [cells[0], ["---"] * len(frame.columns), *cells[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def escape(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    # The signs of code, emphasis, cells and formulas; what makes a link of the brackets before it; bare addresses.
    signs = r"[\\`*_|~$@]|(?<=\])[(\[:]|:(?=//)|(?<=www)\."
    text = re.sub(signs, r"\\\g<0>", " ".join(text.splitlines()))
    return html.escape(text, quote=False)


ACCURACIES = (
    "Accuracy on real test images in percent; gaps in points: Student minus one real classifier (the mean of a seed's "
    "real classifiers) and minus the real ensemble of them. In brackets here and below: 95 % interval over seeds and "
    "test images (both drawn anew, the images shared by the seeds); with one seed over images only. The validation "
    "accuracies in results.csv are optimistic: the same images chose epochs, checkpoint and settings."
)
ATTACKS = (
    "The loss attack (paper-like protocol) on one real classifier of a seed and on the Student; train - test accuracy "
    "in points, TPR in percent, AUC 0.5 is chance. Validation and test images are both outsiders: an AUC between them "
    "is a difference of the splits, and looks like membership. Student - real: the same members and non-members. "
    "Blind: the TPR expected of an attack that only guesses, (k + 1) / (n + 1) with k false alarms allowed of n "
    "non-members."
)


def section(table: pd.DataFrame) -> str:
    """All tables of the given rows, in Markdown."""
    starred = set(table.dataset) & set(BUDGETS_MADE_ON)
    star = f"{escape(STAR)}: budgets were tried on this set, so that its numbers may be optimistic." if starred else ""
    parts = [
        f"{ACCURACIES} {star}".strip(),
        markdown(accuracy(table)),
        *(
            f"{escape(overall(rows))} (profile `{name}`{which}; Student's t over datasets)"
            for name, every in table.groupby("profile", sort=False)
            for which, rows in _with_and_without_everyday(every)
            if rows.dataset.nunique() > 1
        ),
        # Which idea brings what
        "The ablation, test accuracy in percent, mean over seeds; in brackets the percentage of test images on which "
        "Student and Teachers say the same class:",
        markdown(ablation(table)),
        "What brings what: differences of two Students' accuracies in points.",
        markdown(brings(table)),
        "\n".join(f"* {escape(line)}" for line in brings_told(table)),
        # What leaks
        ATTACKS,
        markdown(attacks(table)),
        *(escape(line) for line in doubted(table, "mia")),
        "\n".join(f"* {escape(line)}" for line in shift_told(table)),
    ]

    # Only where a row has it
    if len(released := images(table)):
        parts += [
            "The synthetic images themselves, attacked by distance: is a training image nearer to one of them than a "
            "test image is? The differences are paired; the split control is the same attack with validation images in "
            "their place. Copies would show as training images nearer than every test image.",
            markdown(released),
            *(escape(line) for line in doubted(table, "images")),
        ]
    if len(uneven := recalls(table)):
        parts += ["Recall per class in percent, where classes are uneven, mean over seeds:", markdown(uneven)]
    return "\n\n".join([*parts, "\n".join(f"* {line}" for line in provenance(table))]) + "\n"


AIMS = (
    "What was aimed at, and what was reached. In brackets 95 % intervals, that of a mean over sets by Student's t over "
    "these sets. Medical are all sets but clothes, digits and animals."
)
AUDITS = (
    "Audits (notebooks 07 and 08): the whole pipeline is made again on random halves of one pool, and each is the "
    "target in turn. AUC, the detectable AUC (one that would be seen four times out of five) and the TPR in percent "
    "are of the attack in brackets; the largest AUC is of the attack that found most, chosen after the fact. Accuracy "
    "is on ordinary non-members, in percent, of networks that were told wrong labels of the canaries; members - others "
    "is by how many points it is higher on members, detectable TPR what would have been seen. docs/privacy.md "
    "has what the words mean; the evidence is that of all attacks on the row, its picture has each cell's."
)


def audit_section(audits: Iterable[dict]) -> str:
    """The tables of audits, as `audited.read` gives them, in Markdown; "" for none."""
    parts = []
    for found in audits:
        head, *more = (escape(line) for line in audited.told(found))
        parts += [f"**{head}**", markdown(audited.table(found)), "\n".join(f"* {line}" for line in more)]
        if len(curve := audited.volumes(found)):
            parts += [
                "Students by how many different synthetic images they saw, all with the same steps:",
                markdown(curve),
            ]
        pipelines = [short(commit) for commit in audited.commits(found)]
        commits = short(found["commit"] or "unknown") + f" (pipelines: {', '.join(pipelines)})" * bool(pipelines)
        made = f"`{audited.command(found)}`; {escape(audited.machines(found))}; commit {escape(commits)}"
        parts.append(f"* {escape(found['title'])}: {made}")
    return "\n\n".join([AUDITS, *parts]) + "\n" if parts else ""


def accumulate(table: pd.DataFrame, path: Path, stale: Iterable[str] = ()) -> tuple[pd.DataFrame, list[str]]:
    """The rows of `table`, and those of an earlier results.csv for datasets that are not in it.

    Seeds of one dataset are not put together from here and from earlier: they may be of different code.

    stale : datasets whose runs are here, but not to be shown: their earlier rows are not, either

    Returns
    -------
    all rows, by dataset; a line per dataset that was kept or of which seeds are left out

    Raises
    ------
    InputError
        The file is not a table of results.
    """
    text = results_file.load(path, table.profile.iloc[0])
    if text is None:
        return table.sort_values("dataset", kind="stable", ignore_index=True), []
    earlier = parsed(text)

    # What becomes of each dataset of the file
    lines = []
    for name, rows in earlier.groupby("dataset"):
        lost = sorted(set(rows.seed) - set(table[table.dataset == name].seed))
        if name in stale and name not in set(table.dataset):
            lines.append(f"{name}: the rows of the earlier results.csv are left out, for its runs here are stale")
        elif name not in set(table.dataset):
            commits = ", ".join(sorted({short(commit) for commit in rows.commit.dropna()}))
            lines.append(f"{name}: {rows.seed.nunique()} seeds kept of the earlier results.csv (commit {commits})")
        elif lost:
            seeds = ", ".join(map(str, lost))
            lines.append(f"{name}: seeds {seeds} of the earlier results.csv are left out, for no such run is here")
    kept = earlier[~earlier.dataset.isin([*table.dataset, *stale])]
    every = pd.concat([table, kept] if len(kept) else [table])
    return every.sort_values("dataset", kind="stable", ignore_index=True), lines


def parsed(text: str) -> pd.DataFrame:
    """The rows of a checked results.csv; texts stay texts where they look like numbers ("12345678e1234567") or "NA"."""
    numeric = ("count", "share", "difference", "amount")
    texts = {name: str for name, (kind, _) in results_file.COLUMNS.items() if kind not in numeric}
    return pd.read_csv(io.StringIO(text), dtype=texts, keep_default_na=False, na_values=[""])


def folders(figures: Path) -> list[Path]:
    """The profiles' folders below the figures folder, without that of `smoke`, whose numbers mean nothing."""
    return [folder for folder in paths.listed(figures) if folder.name != "smoke"]


def read(figures: Path) -> pd.DataFrame:
    """The rows of all profiles' results.csv below the figures folder."""
    tables = [folder / "results.csv" for folder in folders(figures)]
    texts = [text for path in tables if (text := results_file.load(path, path.parent.name)) is not None]
    if not texts:
        raise InputError(
            f"{figures}: no table of results in any profile's folder; run_all.py writes one there with --figures-dir"
        )
    return pd.concat([parsed(text) for text in texts], ignore_index=True)


def all_tables(figures: Path) -> tuple[pd.DataFrame, str]:
    """The rows of all profiles, and in Markdown the tables of these and of the audits beside them."""
    table = read(figures)
    audits = [found for folder in folders(figures) for found in audited.read(folder)]
    found = aims(table, audits)
    reached = f"{AIMS}\n\n{markdown(found)}\n" if len(found) else ""
    return table, "\n".join(part for part in (section(table), audit_section(audits), reached) if part)


def into(text: str, tables: str) -> str:
    """The README with its results replaced; InputError unless it has both markers, once."""
    begin, end = "<!-- results -->\n", "<!-- /results -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"it needs one line {begin.strip()!r} and, below, one {end!r}; the tables go between them")
    return text[: text.index(begin)] + begin + tables + text[text.index(end) :]


def update(readme: Path) -> pd.DataFrame:
    """Put the tables of published/*/results.csv beside it, and of the audits, into a README.md; returns the rows.

    Raises
    ------
    InputError
        It is a link, or cannot be read or written, or the tables or the markers are wrong: it stays as it was.
    """
    # What it says now
    if readme.is_symlink():
        raise InputError(f"{readme}: a link; nothing is written through links: name the folder of the file itself")
    try:
        before = owned.read_text(readme)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not a text in UTF-8"
        raise InputError(f"{readme}: {why}; name the folder that README.md and the tables are in") from error

    # What it is to say
    table, tables = all_tables(readme.parent / "published")
    try:
        after = into(before, tables)
    except InputError as error:
        raise InputError(f"{readme}: {error}") from None

    try:
        owned.write(readme, after)
    except OSError as error:
        raise InputError(f"{readme}: cannot be written ({error.strerror}); it is as it was") from error
    return table


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kr_utils.results",
        description="Put the tables of figures/published/*/results.csv into figures/README.md.",
    )
    parser.add_argument("folder", nargs="?", default="figures", help="with README.md in it (default: figures)")

    given = parser.parse_args(argv).folder
    try:
        readme = paths.absolute(given, "folder") / "README.md"
        table = update(readme)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{readme}: results of {', '.join(table.profile.unique())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
