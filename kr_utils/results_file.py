"""The form of figures/<profile>/results.csv: checked before anything runs and again in 10, refused in one line.

Plain Python, so that the driver can refuse a table at once instead of after hours of work.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import unicodedata
from collections import defaultdict
from pathlib import Path

from kr_utils import InputError

METHODS = {
    "real": "real",
    "ensemble": "real ensemble",
    "hard_fixed": "hard, fixed",
    "soft_fixed": "soft, fixed",
    "hard_regenerated": "hard, regenerated",
    "gkd": "soft, regenerated (GKD)",
    "teacher_argmax": "Teachers' class, hard",
    "hard_prior": "hard, real prior",
    "no_class": "soft, no class",
    "textures": "soft, textures",
    "real_images": "soft, real images",
}
OLDER = ("soft_few",)  # methods of an older form of this table
ALL, ATTACKED, NONE = tuple(METHODS), ("real", "gkd"), ()
REAL = ("real", "ensemble")  # trained on real images; all others are Students
LEARNED = (*REAL, "gkd")  # these have a recall per class

# column -> (kind of value, methods whose rows must have one); a column that no method must have may be missing
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "profile": ("name", ALL),
    "dataset": ("name", ALL),
    "title": ("text", ALL),
    "seed": ("count", ALL),
    "method": ("name", ALL),
    "resnet18": ("share", ()),
    "classes": ("text", ALL),
    "test_images": ("counts", ALL),
    "lambda": ("amount", ALL),
    "minutes": ("amount", ALL),
    "threads": ("count", ALL),
    "hardware": ("text", ALL),
    "commit": ("commit", ()),
    "mia_commit": ("commit", ()),
    "settings": ("settings", ()),
    "fingerprint": ("name", ALL),
    "mia_fingerprint": ("name", ATTACKED),
    "accuracy": ("share", ALL),
    "val_accuracy": ("share", ()),
    "auc": ("share", ()),
    "gap": ("difference", ALL),
    "gap_low": ("difference", ()),
    "gap_high": ("difference", ()),
    **{f"ensemble_gap{end}": ("difference", () if end else ALL) for end in ("", "_low", "_high")},
    "classifiers": ("count", REAL),  # that were trained alike: `real` is their mean, `ensemble` what they say together
    "agreement": ("share", ()),
    "teacher_agreement": ("share", ()),
    "few": ("count", ()),
    "temperature": ("amount", ()),
    "hard_weight": ("share", ()),
    "recall": ("shares", LEARNED),
    "generalisation_gap": ("difference", ATTACKED),
    "aop": ("share", ATTACKED),
    **{f"mia_{key}": ("share", ATTACKED if key == "auc" else ()) for key in ("auc", "auc_low", "auc_high")},
    "mia_tpr_at_1pct_fpr": ("share", ()),
    "mia_blind_at_1pct_fpr": ("share", ()),
    **{
        f"mia_{pair}_auc{end}": ("share", () if end else ATTACKED)
        for pair in ("val_test", "train_val")
        for end in ("", "_low", "_high")
    },
    "mia_advantage": ("difference", ()),
    "mia_controls": ("text", ()),
    **{f"images_{key}": ("share", ()) for key in ("auc", "auc_low", "auc_high", "tpr_at_1pct_fpr")},
    "images_blind_at_1pct_fpr": ("share", ()),
    **{f"images_{key}": ("difference", ()) for key in ("advantage", "minus_control", "minus_student")},
    "images_controls": ("text", ()),
    **{key: ("count", ()) for key in ("released", "nearer_than_any_test", "members", "non_members")},
    **{key: ("amount", ()) for key in ("nearest", "nearest_test")},
}

# Numbers with an interval over all seeds and images of the dataset, in <number>_two_low and <number>_two_high, the same
# in all rows of a dataset and method -> kind of value, methods whose rows must have it.
TWO_WAY: dict[str, tuple[str, tuple[str, ...]]] = {
    "accuracy": ("share", ALL),
    "gap": ("difference", ALL),
    "ensemble_gap": ("difference", ALL),
    "gkd_minus": ("difference", tuple(m for m in METHODS if m not in REAL)),  # GKD less this Student
    "minus_hard": ("difference", tuple(m for m in METHODS if m not in REAL)),  # this Student less hard_regenerated
    "mia_auc": ("share", ATTACKED),
    "mia_val_test_auc": ("share", ATTACKED),
    "mia_train_val_auc": ("share", ATTACKED),
    "mia_minus_real": ("difference", ("gkd",)),
    "images_auc": ("share", ()),
    "images_minus_control": ("difference", ()),
    "images_minus_student": ("difference", ()),
}
BOUNDS = {f"{name}_two_{end}": TWO_WAY[name] for name in TWO_WAY for end in ("low", "high")}
COLUMNS |= BOUNDS
# A column of these may be empty in every row, but it must be there: the tables read it.
READ = ("resnet18", "commit", "settings", "mia_tpr_at_1pct_fpr", "mia_blind_at_1pct_fpr", "agreement", "few")
# What the table of the attack on the images reads: in a row that has images_auc none of these may be empty; and rates
# that few non-members leave empty, but their columns must be there.
IMAGES = ("images_minus_control", "images_minus_student", "released", "nearer_than_any_test", "members", "non_members")
IMAGES += tuple(
    f"images_{name}_two_{end}" for name in ("auc", "minus_control", "minus_student") for end in ("low", "high")
)
IMAGES_RATES = ("images_tpr_at_1pct_fpr", "images_blind_at_1pct_fpr")
NEWER = ("ensemble_gap", "classifiers")  # the first columns that the form before this one has not
REQUIRED = [name for name in COLUMNS if COLUMNS[name][1] or name in READ]

# kind -> (pattern of one value, smallest, largest, in words); no "inf", "nan" or "1_0" passes
NUMBER = r"-?\d+(\.\d+)?([eE][+-]?\d+)?"
KINDS = {
    "name": (r"[A-Za-z0-9_.-]+", None, None, "a name of letters, digits, _ and -"),
    "commit": (r"[0-9a-f]{7,64}(\+changes)?", None, None, "a commit"),
    "settings": (r"( --set [a-z_]+\.[a-z_0-9]+=[\w.,-]+)+", None, None, "options such as ' --set teacher.epochs=3'"),
    "text": (r"(?s:.+)", None, None, "a text"),
    "count": (r"\d{1,10}", 0, 2**31 - 1, "a whole number"),
    "share": (NUMBER, 0, 1, "a share from 0 to 1"),
    "difference": (NUMBER, -1, 1, "a difference from -1 to 1"),
    "amount": (NUMBER, 0, 1e9, "a number from 0"),
}
LISTS = {"shares": "share", "counts": "count"}  # values with ";" between them, one for each class
SAME = ("title", "resnet18", "classes", "lambda", "settings")  # in all rows of a dataset
CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories of what has no place in a text
FORMULA = tuple("=+-@")  # a spreadsheet computes what begins with one of these
LARGEST = 2**26  # bytes; a hundred datasets with a hundred seeds have a third of that


def load(path: Path, profile: str) -> str | None:
    """The checked text of a table of results, or None where there is none.

    Parameters
    ----------
    profile : the one that the table must be of

    Raises
    ------
    InputError
        It cannot be read, or is not a table that 10 wrote: the message names file, row and what to do.
    """
    try:
        if (text := _read(path)) is None:
            return None
        check(text, path, profile)
    except InputError as error:
        raise InputError(f"{error}; move it away, and 10 writes a new one from the runs that are here") from None
    return text


def _read(path: Path) -> str | None:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:  # it may be there, in a folder that this user may not enter
        raise _refused(path, f"cannot be read, {error.strerror}") from None

    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for ever
            raise _refused(path, "a folder, pipe or device")
        if found.st_size > LARGEST:
            raise _refused(path, f"{found.st_size / 2**20:.0f} MB are too much")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _refused(path, f"cannot be read, {error.strerror}") from None
    except UnicodeDecodeError:
        raise _refused(path, "no text in UTF-8") from None


def check(text: str, where: Path | str, profile: str) -> None:
    """Refuse a table whose columns, values, rows or arithmetic are not those of results.

    Parameters
    ----------
    text : the CSV
    where : its file, for the message
    """
    # Values, line by line
    runs: dict[tuple[str, int], dict[str, dict]] = defaultdict(dict)
    for line, row in _rows(text, where):
        here = f"line {line}"
        for column, value in row.items():
            if wrong := _wrong(column, value, row["method"]):
                raise _refused(where, f"{here}: {column} is {value[:40]!r}, {wrong}")

        # One row per run and method
        here += f" ({_name(row)})"
        if row["method"] in OLDER:
            raise _refused(where, f"of an older form: {here} has the method {row['method']}, which is no more")
        if row["method"] not in METHODS:
            raise _refused(where, f"{here}: no such method; there are {', '.join(METHODS)}")
        if row["profile"] != profile:
            raise _refused(where, f"{here}: of profile {row['profile']}, not {profile}")
        run = runs[row["dataset"], int(row["seed"])]
        if row["method"] in run:
            raise _refused(where, f"{here}: the second row of the same run and method")
        run[row["method"]] = row

    # Rows that belong together
    if not runs:
        raise _refused(where, "no rows")
    for run in runs.values():
        _check_run(run, where)
    _check_datasets([row for run in runs.values() for row in run.values()], where)


def _rows(text: str, where: Path | str):
    """Number of the line and values of each row, from the second line on."""
    try:
        # Columns
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(reader, [])
        if missing := [name for name in REQUIRED if name not in header]:
            older = "of an older form: " if missing[0] in NEWER else ""
            raise _refused(where, f"{older}no column {missing[0]}")
        if odd := [name for name in header if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name)]:
            raise _refused(where, f"a column {odd[0][:40]!r}, not a name of letters, digits and _")
        if doubled := [name for name in header if header.count(name) > 1]:
            raise _refused(where, f"two columns {doubled[0]}"[:80])

        # Rows
        for fields in reader:
            if len(fields) != len(header):
                raise _refused(where, f"line {reader.line_num}: {len(fields)} values for {len(header)} columns")
            yield reader.line_num, dict(zip(header, fields))
    except csv.Error as error:
        raise _refused(where, f"line {reader.line_num}: {error}") from None


def _wrong(column: str, value: str, method: str) -> str:
    """What is wrong with a value, in words that follow it; "" for nothing."""
    # Any text
    if any(unicodedata.category(sign) in CONTROL for sign in value):
        return "with a control character"

    # What its column asks for
    kind, methods = COLUMNS.get(column, ("text", ()))
    if not value:
        return "but must not be empty" if method in methods else ""
    for item in value.split(";") if kind in LISTS else [value]:
        pattern, low, high, words = KINDS[LISTS.get(kind, kind)]
        fits = re.fullmatch(pattern, item, re.ASCII)
        if not fits or (low is not None and not low <= float(item) <= high):
            return f"not {words}"
    if value[0] in FORMULA and not re.fullmatch(NUMBER, value, re.ASCII):
        return "which a spreadsheet would take for a formula"
    return ""


def _check_run(run: dict[str, dict], where: Path | str) -> None:
    """The arithmetic of a run: method -> its row."""
    # Its baseline
    some = next(iter(run.values()))
    if missing := [method for method in LEARNED if method not in run]:
        raise _refused(where, f"{_name(some | {'method': missing[0]})}: this row is missing")
    baselines = {"gap": ("real", "real training"), "ensemble_gap": ("ensemble", "the real ensemble")}

    for row in run.values():
        # The gaps
        accuracy = float(row["accuracy"])
        for column, (method, words) in baselines.items():
            gap, right_ = float(row[column]), accuracy - float(run[method]["accuracy"])
            if abs(gap - right_) > 1e-9:
                raise _refused(
                    where, f"{_name(row)}: {column} {gap:+.4f}, but accuracy less that of {words} is {right_:+.4f}"
                )

        # Counts of images
        counts = [int(n) for n in row["test_images"].split(";")]
        if row["test_images"] != some["test_images"] or len(counts) != len(row["classes"].split(";")):
            raise _refused(where, f"{_name(row)}: classes and test_images do not agree")
        alike = int(row["classifiers"]) if row["method"] == "real" else 1
        right = accuracy * sum(counts) * alike
        if not sum(counts) * alike or abs(right - round(right)) > 1e-3:
            raise _refused(where, f"{_name(row)}: accuracy {accuracy:g} is no share of {sum(counts)} images")

        # Recalls, which have four digits
        shares = [float(share) for share in row["recall"].split(";")] if row["recall"] else []
        if shares and len(shares) != len(counts):
            raise _refused(where, f"{_name(row)}: {len(shares)} recalls of {len(counts)} classes")
        if shares and abs(_mean(shares, counts) - accuracy) > 1e-4:
            raise _refused(where, f"{_name(row)}: accuracy {accuracy:g} is not what the recalls add up to")

        # The attack on the images, whole or not at all
        missing = [name for name in IMAGES if not row.get(name)]
        missing += [name for name in IMAGES_RATES if name not in row]
        if row.get("images_auc") and missing:
            raise _refused(where, f"{_name(row)}: images_auc without {missing[0]}")

        # Intervals
        for low in [name for name in row if name.endswith("_low") and row[name]]:
            if (high := row.get(low.replace("_low", "_high"))) and float(row[low]) > float(high):
                raise _refused(where, f"{_name(row)}: {low} is larger than its upper end")


def _mean(shares: list[float], counts: list[int]) -> float:
    return sum(share * count for share, count in zip(shares, counts)) / sum(counts)


def _check_datasets(rows: list[dict], where: Path | str) -> None:
    """What all rows of a dataset share, and all of a dataset and method."""
    first: dict[str, dict] = {}
    for row in rows:
        usual = first.setdefault(row["dataset"], row)
        for name in SAME:
            if row[name] != usual[name]:
                raise _refused(where, f"{_name(row)}: {name} is not that of the dataset's other rows")

    # Methods
    methods: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        methods[row["dataset"], row["seed"]].add(row["method"])
    for (dataset, seed), own in methods.items():
        if own != methods[dataset, first[dataset]["seed"]]:
            raise _refused(where, f"{dataset}, seed {seed}: its methods are not those of the dataset's other seeds")

    # Intervals over seeds
    like: dict[tuple[str, str], dict] = {}
    for row in rows:
        usual = like.setdefault((row["dataset"], row["method"]), row)
        if other := [name for name in BOUNDS if row.get(name) != usual.get(name)]:
            raise _refused(where, f"{_name(row)}: {other[0]} is not that of the method's other seeds")


def _name(row: dict) -> str:
    return f"{row['dataset']}, seed {row['seed']}, {row['method']}"[:80]


def _refused(where: Path | str, why: str) -> InputError:
    return InputError(f"{where}: not a table of results ({why})")
