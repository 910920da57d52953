"""The tables of results: from the rows of results.csv (one per dataset, seed and method) to what a reader sees.

`python -m kr_utils.results` puts them into README.md, between its two markers, from figures/*/results.csv alone; 08
shows the same tables and adds a profile's rows to that file.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from kr_utils import InputError, metrics

METHODS = {
    "real": "real",
    "hard_fixed": "hard, fixed",
    "soft_fixed": "soft, fixed",
    "hard_regenerated": "hard, regenerated",
    "gkd": "soft, regenerated (GKD)",
    "soft_few": "soft, every epoch, few-step",
}
# What the tables need of a row; 08 writes some more.
COLUMNS = ["profile", "dataset", "title", "seed", "method", "resnet18", "classes", "test_images", "lambda", "minutes"]
COLUMNS += ["threads", "hardware", "commit", "settings", "accuracy", "gap", "recall", "mia_auc", "mia_tpr_at_1pct_fpr"]
COLUMNS += ["aop", "generalisation_gap", "fingerprint", "mia_fingerprint"]
TEXTS = dict.fromkeys(
    ["commit", "mia_commit", "fingerprint", "mia_fingerprint"], str
)  # 12345678e1234567 is not a number
UNEVEN = 1.5  # recall is shown per class where the most frequent class has this many times the rarest one's test images


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


def _datasets(table: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    return [(*key, rows) for key, rows in table.groupby(["profile", "title"], sort=False)]


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
                "CAS gap": cell(gaps, digits=2, sign="+"),
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
    """The loss attack under the paper-like protocol on both classifiers; generalisation gap in points."""
    out = []
    for profile, title, rows in _datasets(table):
        row = {"profile": profile, "dataset": title}
        for method, who in (("real", "real"), ("gkd", "Student")):
            row[f"train - test, {who}"] = cell(values(rows, method, "generalisation_gap"), sign="+")
            row[f"AUC, {who}"] = cell(values(rows, method, "mia_auc"), 1, 3)
            row[f"TPR at 1 % FPR, {who}"] = cell(values(rows, method, "mia_tpr_at_1pct_fpr"))
            row[f"AOP (λ={rows['lambda'].iloc[0]:g}), {who}"] = cell(values(rows, method, "aop"), 1, 3)
        real, student = (np.array(values(rows, method, "mia_auc")) for method in ("real", "gkd"))
        row["AUC, Student - real"] = cell(list(student - real), 1, 3, "+")
        # Rows kept from before this attack was built do not have it.
        out.append(row)
    return pd.DataFrame(out)


def images(table: pd.DataFrame) -> pd.DataFrame:
    """The nearest-image attack on the synthetic images; without the datasets whose rows are older than it."""
    out = []
    for profile, title, rows in _datasets(table):
        gkd = rows[rows.method == "gkd"]
        if "images_auc" not in rows or gkd.images_auc.isna().any():
            continue
        chance = np.mean(gkd.members / (gkd.non_members + 1))
        out.append(
            {
                "profile": profile,
                "dataset": title,
                "synthetic images": f"{gkd.released.iloc[0]:.0f}",
                "AUC": cell(list(gkd.images_auc), 1, 3),
                "TPR at 1 % FPR": cell(list(gkd.images_tpr_at_1pct_fpr)),
                "AUC, images - Student": cell(list(gkd.images_minus_student), 1, 3, "+"),
                "AUC, images - split control": cell(list(gkd.images_minus_control), 1, 3, "+"),
                "training images nearer than every test image": f"{gkd.nearer_than_any_test.mean():.1f} of "
                f"{gkd.members.iloc[0]:.0f} (by chance {chance:.1f})",
            }
        )
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
    n = len(gaps)
    return f"Mean CAS gap over {n} dataset{'s' * (n > 1)}: {cell(gaps, digits=2, sign='+')} points."


def provenance(table: pd.DataFrame) -> list[str]:
    """A line per profile and dataset: the command, the hardware, the commit."""
    lines = []
    for profile, title, rows in _datasets(table):
        seeds = ",".join(str(k) for k in sorted(set(rows.seed)))
        options = rows.settings.iloc[0] if rows.settings.notna().all() else ""  # pandas reads an empty one as missing
        command = f"python run_all.py --profile {profile} --datasets {rows.dataset.iloc[0]} --seeds {seeds}"
        threads = sorted(set(rows.threads))  # with others, sums are in another order and the last digits differ
        command += f" --threads {threads[0]}{options}"
        where = [*sorted(set(rows.hardware)), *(["seeds with other threads too"] if len(threads) > 1 else [])]
        made = [rows.commit, *([rows.mia_commit] if "mia_commit" in rows else [])]
        commits = sorted({short(c) for c in pd.concat(made).dropna()})
        lines.append(f"{title}: `{command}`; {'; '.join(where)}; commit {', '.join(commits) or 'unknown'}")
    return lines


def short(commit: str) -> str:
    """The first ten digits of a commit, and whether the code had changes that were not committed."""
    return str(commit)[:10] + "+changes" * str(commit).endswith("+changes")


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown."""
    lines = [frame.columns, ["---"] * len(frame.columns), *frame.astype(str).to_numpy()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(table: pd.DataFrame) -> str:
    """All tables of the given rows, in Markdown."""
    parts = [
        "Accuracy on real test images in percent, gap in points (Student minus real). In brackets: 95 % "
        "interval over seeds (Student's t); its bounds are not cut where they leave the possible range.",
        markdown(accuracy(table)),
        *(
            f"{overall(rows)} (profile `{name}`)"
            for name, rows in table.groupby("profile", sort=False)
            if rows.title.nunique() > 1
        ),
        "The ablation, test accuracy in percent, mean over seeds:",
        markdown(ablation(table)),
        "The loss attack (paper-like protocol); train - test in points, TPR in percent, AUC 0.5 is chance. "
        "Student - real is paired: the same members and non-members of a seed.",
        markdown(attacks(table)),
    ]
    if len(released := images(table)):
        parts += [
            "The synthetic images themselves, attacked by distance: is a training image nearer to one of them than a "
            "test image is? The differences are paired; the split control is the same attack with validation images in "
            "their place. Copies would show as training images nearer than every test image.",
            markdown(released),
        ]
    if len(uneven := recalls(table)):
        parts += ["Recall per class in percent, where classes are uneven, mean over seeds:", markdown(uneven)]
    return "\n\n".join([*parts, "\n".join(f"* {line}" for line in provenance(table))]) + "\n"


def of_one_code(found: dict[tuple[str, int], dict]) -> tuple[dict[tuple[str, int], dict], list[str]]:
    """The runs made by the same code as the newest one of their dataset, and a line for each other run.

    found : (dataset, seed) -> stage -> finished stage, as `runs.find` gives them
    """
    code = {key: {s: done.manifest["ingredients"]["code"] for s, done in run.items()} for key, run in found.items()}
    by_age = sorted(found, key=lambda key: found[key]["membership"].manifest["started"])
    newest = {key[0]: key for key in by_age}
    older = [key for key in found if code[key] != code[newest[key[0]]]]
    lines = [f"{name}, seed {k}: left out, for older code made it; run it again" for name, k in older]
    return {key: run for key, run in found.items() if key not in older}, lines


def accumulate(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of `table`, and those of an earlier results.csv for datasets that are not in it.

    Seeds of one dataset are not put together from here and from earlier: they may be of different code.

    Returns
    -------
    all rows, by dataset; a line per dataset that was kept or of which seeds are left out

    Raises
    ------
    InputError
        The file is not a table of results.
    """
    if not path.exists():
        return table.sort_values("dataset", kind="stable", ignore_index=True), []
    try:
        earlier = pd.read_csv(path, dtype=TEXTS)
    except (OSError, ValueError) as error:  # pandas' and the decoder's errors are ValueErrors
        raise InputError(f"{path}: not a table of results ({str(error).splitlines()[0][:80]}); move it away") from None
    if missing := [name for name in COLUMNS if name not in earlier.columns]:
        raise InputError(f"{path}: not a table of results (no column {missing[0]}); move it away")
    lines = []
    for name, rows in earlier.groupby("dataset"):
        lost = sorted(set(rows.seed) - set(table[table.dataset == name].seed))
        if name not in set(table.dataset):
            commits = ", ".join(sorted({short(commit) for commit in rows.commit.dropna()}))
            lines.append(f"{name}: {rows.seed.nunique()} seeds kept of the earlier results.csv (commit {commits})")
        elif lost:
            seeds = ", ".join(map(str, lost))
            lines.append(f"{name}: seeds {seeds} of the earlier results.csv are left out, for no such run is here")
    kept = earlier[~earlier.dataset.isin(table.dataset)]
    every = pd.concat([table, kept] if len(kept) else [table])
    return every.sort_values("dataset", kind="stable", ignore_index=True), lines


def read(figures: Path) -> pd.DataFrame:
    """The rows of all profiles' results.csv below the figures folder, without those of `smoke`, which mean nothing."""
    paths = sorted(path for path in figures.glob("*/results.csv") if path.parent.name != "smoke")
    return pd.concat([pd.read_csv(path, dtype=TEXTS) for path in paths], ignore_index=True)


def into(text: str, tables: str) -> str:
    """The README with its results replaced."""
    return re.sub(r"(<!-- results -->\n).*?(<!-- /results -->)", lambda m: m[1] + tables + m[2], text, flags=re.S)


def main(root: Path) -> None:
    readme, table = root / "README.md", read(root / "figures")
    readme.write_text(into(readme.read_text(encoding="utf-8"), section(table)), encoding="utf-8")
    print(f"README.md: results of {', '.join(table.profile.unique())}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
