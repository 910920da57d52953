"""The rows of results (one per dataset, seed and method) and the tables that a reader sees.

08 makes the rows of finished runs, checks their arithmetic and adds them to results.csv;
`python -m kr_utils.results` puts the tables of figures/*/results.csv into README.md, between its two markers.
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
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kr_utils import InputError, belief, data, metrics, owned, paths, profiles, results_file
from kr_utils.results_file import METHODS

UNEVEN = 1.5  # recall is shown per class where the most frequent class has this many times the rarest one's test images
MIA = ("auc", "auc_low", "auc_high", "tpr_at_1pct_fpr", "advantage")
EXACT = 1e-9  # two ways to the same number differ by rounding only


# ------------------------------------------------------------------ rows


Run = Mapping[str, Any]  # stage -> its finished result with `manifest` and `metrics`, of one dataset and seed


def table_of(found: Mapping[tuple[str, int], Run], profile: str) -> pd.DataFrame:
    """A row per dataset, seed and method of finished runs: accuracy, gap, attacks, and where they come from.

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
            source = "teacher" if row["method"] == "real" else "distillation"
            prints = {"fingerprint": run[source].manifest["fingerprint"]}
            prints["mia_fingerprint"] = attack_print if "mia_auc" in row else None
            records.append(origin(name, seed, run, source, profile) | row | prints)

    # Seeds of a dataset count together
    table = pd.DataFrame(records)
    budgets = table.groupby("dataset").settings.nunique()
    if (budgets > 1).any():  # or their interval over seeds would mean nothing
        raise InputError(f"the seeds of {budgets.idxmax()} were run with different budgets; rerun them alike")
    return table


def check_run(name: str, seed: int, run: Run) -> None:
    """Refuse a run whose numbers do not belong together: a gap that is not CAS minus real, other test images."""
    teacher, student, attack = (run[stage].metrics for stage in ("teacher", "distillation", "membership"))
    real = teacher["test_accuracy"]

    def refuse(method: str, why: str) -> None:
        again = f"`python run_all.py --datasets {name} --seeds {seed} --force` with its profile makes it again"
        raise InputError(f"{name}, seed {seed}, {method}: {why}; {again}")

    # The baseline that 05 compared with is the one that 01 stored.
    if abs(student["real_test_accuracy"] - real) > EXACT:
        was = student["real_test_accuracy"]
        refuse("real", f"05 compared with a real accuracy of {was:.4f}, but 01 has {real:.4f}")

    # Every gap is the Student's accuracy less that baseline.
    gaps = {method: (row["cas"], row["gap"]) for method, row in student["ablation"].items()}
    gaps["gkd"] = (student["cas"], student["cas_gap"])
    for method, (cas, gap) in gaps.items():
        if abs(gap - (cas - real)) > EXACT:
            refuse(method, f"the gap is {gap:+.4f}, but CAS less real accuracy is {cas - real:+.4f}")
    if gaps["gkd"] != gaps["soft_regenerated"]:
        refuse("gkd", "CAS and gap are not those of soft_regenerated in the ablation")

    # All numbers are of the same images.
    for method, matrix, accuracy in (
        ("real", teacher["test_confusion"], real),
        ("gkd", student["cas_confusion"], student["cas"]),
    ):
        if np.sum(matrix, axis=1).tolist() != np.sum(teacher["test_confusion"], axis=1).tolist():
            refuse(method, "01 and 05 saw other test images")
        if abs(np.trace(matrix) / np.sum(matrix) - accuracy) > EXACT:
            refuse(method, f"accuracy {accuracy:.4f} is not that of its confusion matrix")
    rows = {"real": attack["real"]["loss"], "gkd": attack["student"]["loss"], "images": attack["images"]}
    if len({(row["members"], row["non_members"]) for row in rows.values()}) > 1:
        refuse("gkd", "06 attacked real training, Student and synthetic images with other members")


def rows_of(run: Run) -> list[dict]:
    """What was measured in a run, a row per method; the ablation's soft_regenerated is `gkd`."""
    teacher, student, attack = (run[stage].metrics for stage in ("teacher", "distillation", "membership"))

    # Real training
    real = {"method": "real", "accuracy": teacher["test_accuracy"], "auc": teacher["test_auc"], "gap": 0.0}
    real |= {"val_accuracy": teacher["val_accuracy"], "recall": _joined(teacher["test_recall"])}

    # The Students
    rest = [
        {"method": method, "accuracy": row["cas"], "val_accuracy": row["val_cas"]}
        | {key: row[key] for key in ("gap", "gap_low", "gap_high")}
        for method, row in student["ablation"].items()
    ]
    gkd = next(row for row in rest if row["method"] == "soft_regenerated")
    gkd |= {"method": "gkd", "auc": student["cas_auc"], "recall": _joined(student["cas_recall"])}

    # What was attacked
    return [
        real | _attack_on_model(attack, "real"),
        gkd | _attack_on_images(attack) | _attack_on_model(attack, "student"),
        *(row for row in rest if row is not gkd),
    ]


def _attack_on_model(attack: dict, who: str) -> dict:
    row = {f"mia_{key}": attack[who]["loss"][key] for key in MIA}
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
    # The machine
    made = run[source].manifest
    hardware = made["hardware"]
    where = f"{hardware['cpu']}, GPU {hardware['gpu'] or 'none'}, torch {made['versions']['torch']}"

    teacher = run["teacher"].metrics
    return {
        # The data
        "profile": profile,
        "dataset": name,
        "title": plain_text(run["start"].metrics["title"]),
        "seed": seed,
        "resnet18": data.INFO[name].resnet18 if name in data.INFO else None,
        "classes": plain_text(";".join(c.replace(";", ",") for c in teacher["class_names"])),
        "test_images": ";".join(map(str, np.sum(teacher["test_confusion"], axis=1))),
        # The work
        "lambda": run["membership"].metrics["lambda"],
        "minutes": sum(done.manifest["seconds"] for done in run.values()) / 60,
        "threads": hardware["threads"],
        "hardware": plain_text(where),
        "commit": made["git_commit"],
        "mia_commit": run["membership"].manifest["git_commit"],
        "settings": settings(run, profile),
    }


def settings(run: Run, profile: str) -> str:
    """What a run's budgets change in its profile, as --set options of the command."""
    words = []
    for stage, done in run.items():
        usual = vars(profiles.budget(stage, profile))
        for key, value in done.budget.items():
            listed = list(usual[key]) if isinstance(usual[key], tuple) else usual[key]  # JSON has no tuples
            if value != listed:
                text = ",".join(map(str, value)) if isinstance(value, list) else value
                words.append(f" --set {stage}.{key}={text}")
    return "".join(words)


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


def cell(values: list[float], scale: float = 100, digits: int = 1, sign: str = "") -> str:
    """Mean over seeds and its Student-t interval, "82.7 [79.5, 85.9]"; without the interval for one value."""
    values = [value for value in values if not pd.isna(value)]
    if not values:
        return "not estimable"
    mean, low, high = (scale * v for v in metrics.mean_interval(values))
    interval = "" if np.isnan(low) else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return f"{mean:{sign}.{digits}f}{interval}"


def paired_p(gaps: list[float]) -> float:
    """P value of the paired t-test of Student against real over seeds; nan below two seeds or without spread."""
    return float(stats.ttest_1samp(gaps, 0).pvalue) if len(gaps) > 1 and np.ptp(gaps) > 1e-9 else float("nan")


def values(rows: pd.DataFrame, method: str, key: str) -> list[float]:
    """A column of one method's rows, a value per seed."""
    return rows[rows.method == method][key].astype(float).tolist()


def empty_gaps(rows: pd.DataFrame) -> list[str]:
    """Words for the gaps of a dataset that say nothing, one for each seed where neither classifier has learned."""
    pairs = rows[rows.method.isin(results_file.ATTACKED)].groupby("seed", sort=False)
    counts = [int(n) for n in rows.test_images.iloc[0].split(";")]
    words = [
        belief.empty_gap(counts, list(pair.accuracy), [[float(r) for r in line.split(";")] for line in pair.recall])
        for _, pair in pairs
    ]
    return [word for word in words if word]


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
        gaps, p = values(rows, "gkd", "gap"), paired_p(values(rows, "gkd", "gap"))
        published = rows.resnet18.iloc[0]
        out.append(
            {
                "profile": profile,
                "dataset": title,
                "seeds": len(gaps),
                "MedMNIST's ResNet-18, real": "" if pd.isna(published) else f"{100 * published:.1f}",
                "real": cell(values(rows, "real", "accuracy")),
                "Student (CAS)": cell(values(rows, "gkd", "accuracy")),
                "CAS gap": cell(gaps, digits=2, sign="+") + _words(empty_gaps(rows), len(gaps)),
                "paired p": "" if np.isnan(p) else f"{p:.2f}",
                "minutes per seed": f"{np.mean(values(rows, 'gkd', 'minutes')):.0f}",
            }
        )
    return pd.DataFrame(out)


def ablation(table: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of every method in percent, mean over the seeds that have it: few-step is not always kept."""
    out = []
    for profile, title, rows in _datasets(table):
        row = {"profile": profile, "dataset": title}
        for method, name in METHODS.items():
            found, every = values(rows, method, "accuracy"), len(values(rows, "gkd", "accuracy"))
            share = f" ({len(found)} of {every} seeds)" if 0 < len(found) < every else ""
            row[name] = f"{100 * np.mean(found):.1f}{share}" if found else "not kept"
        out.append(row)
    return pd.DataFrame(out)


def attacks(table: pd.DataFrame) -> pd.DataFrame:
    """The loss attack under the paper-like protocol on both classifiers; generalisation gap in points.

    Numbers that are not to be believed carry the mark; `doubted` has the reasons.
    """
    out = []
    for profile, title, rows in _datasets(table):
        row = {"profile": profile, "dataset": title}

        def told(numbers: list[float], *form, rows=rows) -> str:
            return marked(rows, "mia", cell(numbers, *form))

        for method, who in (("real", "real"), ("gkd", "Student")):
            row[f"train - test, {who}"] = cell(values(rows, method, "generalisation_gap"), sign="+")
            row[f"AUC, {who}"] = told(values(rows, method, "mia_auc"), 1, 3)
            row[f"TPR at 1 % FPR, {who}"] = told(values(rows, method, "mia_tpr_at_1pct_fpr"))
            row[f"AOP (λ={rows['lambda'].iloc[0]:g}), {who}"] = told(values(rows, method, "aop"), 1, 3)
        real, student = (np.array(values(rows, method, "mia_auc")) for method in ("real", "gkd"))
        row["AUC, Student - real"] = told(list(student - real), 1, 3, "+")
        out.append(row)
    return pd.DataFrame(out)


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
            "AUC": cell(list(gkd.images_auc), 1, 3),
            "TPR at 1 % FPR": cell(list(gkd.images_tpr_at_1pct_fpr)),
            "AUC, images - Student": cell(list(gkd.images_minus_student), 1, 3, "+"),
            "AUC, images - split control": cell(list(gkd.images_minus_control), 1, 3, "+"),
            "training images nearer than every test image": nearer,
        }
        row = {"profile": profile, "dataset": title, "synthetic images": f"{gkd.released.iloc[0]:.0f}"}
        out.append(row | {name: marked(rows, "images", text) for name, text in numbers.items()})
    return pd.DataFrame(out)


def recalls(table: pd.DataFrame) -> pd.DataFrame:
    """Recall per class in percent, mean over seeds, of the datasets whose classes are uneven; empty if none is."""
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
        for k, (name, count) in enumerate(zip(named.classes.iloc[0].split(";"), counts)):
            shares = {"real": f"{100 * recall['real'][k]:.0f}", "Student": f"{100 * recall['gkd'][k]:.0f}"}
            out.append({"profile": profile, "dataset": title, "class": name, "test images": count, **shares})
    return pd.DataFrame(out)


def overall(table: pd.DataFrame) -> str:
    """One sentence: the mean over datasets of the mean CAS gap, and the interval over datasets."""
    gaps = [np.mean(values(rows, "gkd", "gap")) for _, _, rows in _datasets(table)]
    empty = [title for _, title, rows in _datasets(table) if empty_gaps(rows)]
    n = len(gaps)
    words = f" It counts gaps that say nothing: {', '.join(empty)}." if empty else ""
    return f"Mean CAS gap over {n} dataset{'s' * (n > 1)}: {cell(gaps, digits=2, sign='+')} points.{words}"


def provenance(table: pd.DataFrame) -> list[str]:
    """A line per profile and dataset: the command, the hardware, the commit."""
    lines = []
    for profile, title, rows in _datasets(table):
        seeds = ",".join(str(k) for k in sorted(set(rows.seed)))
        options = rows.settings.iloc[0] if rows.settings.notna().all() else ""  # pandas reads an empty one as missing
        command = f"python run_all.py --profile {profile} --datasets {rows.dataset.iloc[0]} --seeds {seeds}"
        threads = sorted(set(rows.threads))  # with others, sums are in another order and the last digits differ
        command += f" --threads {threads[0]}{options}"
        others = ["seeds with other threads too"] if len(threads) > 1 else []
        where = [*sorted(set(rows.hardware.map(escape))), *others]
        made = [rows.commit, *([rows.mia_commit] if "mia_commit" in rows else [])]
        commits = sorted({short(c) for c in pd.concat(made).dropna()})
        lines.append(f"{escape(title)}: `{command}`; {'; '.join(where)}; commit {', '.join(commits) or 'unknown'}")
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


def section(table: pd.DataFrame) -> str:
    """All tables of the given rows, in Markdown."""
    parts = [
        "Accuracy on real test images in percent, gap in points (Student minus real). In brackets: 95 % "
        "interval over seeds (Student's t); its bounds are not cut where they leave the possible range.",
        markdown(accuracy(table)),
        *(
            f"{escape(overall(rows))} (profile `{name}`)"
            for name, rows in table.groupby("profile", sort=False)
            if rows.dataset.nunique() > 1
        ),
        "The ablation, test accuracy in percent, mean over seeds:",
        markdown(ablation(table)),
        "The loss attack (paper-like protocol); train - test in points, TPR in percent, AUC 0.5 is chance. "
        "Student - real is paired: the same members and non-members of a seed.",
        markdown(attacks(table)),
        *(escape(line) for line in doubted(table, "mia")),
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


def read(figures: Path) -> pd.DataFrame:
    """The rows of all profiles' results.csv below the figures folder, without those of `smoke`, which mean nothing."""
    tables = [folder / "results.csv" for folder in paths.listed(figures) if folder.name != "smoke"]
    texts = [text for path in tables if (text := results_file.load(path, path.parent.name)) is not None]
    if not texts:
        raise InputError(f"{figures}: no table of results in any profile's folder; run `python run_all.py` first")
    return pd.concat([parsed(text) for text in texts], ignore_index=True)


def into(text: str, tables: str) -> str:
    """The README with its results replaced; InputError unless it has both markers, once."""
    begin, end = "<!-- results -->\n", "<!-- /results -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise InputError(f"it needs one line {begin.strip()!r} and, below, one {end!r}; the tables go between them")
    return text[: text.index(begin)] + begin + tables + text[text.index(end) :]


def update(readme: Path) -> pd.DataFrame:
    """Put the tables of figures/*/results.csv beside it into README.md; returns their rows.

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
        raise InputError(f"{readme}: {why}; name the folder that README.md and figures/ are in") from error

    # What it is to say
    table = read(readme.parent / "figures")
    try:
        after = into(before, section(table))
    except InputError as error:
        raise InputError(f"{readme}: {error}") from None

    try:
        owned.write(readme, after)
    except OSError as error:
        raise InputError(f"{readme}: cannot be written ({error.strerror}); it is as it was") from error
    return table


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kr_utils.results", description="Put the tables of figures/*/results.csv into README.md."
    )
    parser.add_argument("folder", nargs="?", default=".", help="with README.md and figures/ in it (default: this one)")

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
