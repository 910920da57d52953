"""Which images a folder holds, and what is said of each: class, and where it is known, patient and split.

Three layouts: `train|val|test/<class>/*`, `<class>/*`, or any folder with a table (CSV). Nothing is decoded here, and
nothing is guessed: what can be read in two ways is refused.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from kr_utils import InputError, pictures, plain, shown
from kr_utils.dataset_file import SPLITS, one_line

MOST_FILES = 1_000_000  # in the folder
DEEPEST = 20  # folders below one another
MOST_TABLE = 2**28  # bytes of a table
SPLIT_NAMES = {**{name: name for name in SPLITS}, "valid": "val", "validation": "val"}
COLUMNS = {"file": "file", "file_name": "file", "label": "label", "patient": "patient", "split": "split"}
NUMBER = re.compile(r"-?\d{1,15}(\.\d+)?")  # as a label
WANTED = "file, label and, if known, patient and split"


@dataclass(frozen=True)
class Item:
    """One image file and what is known of it.

    alone : a table says that nobody knows the patient, whatever the file itself says
    """

    name: str  # below the folder, with "/"
    kind: str  # the format that its name promises
    label: str = ""
    patient: str = ""
    split: str = ""
    alone: bool = False


@dataclass(frozen=True)
class Found:
    """All images of a folder.

    layout : in words; classes : their names in the order of the labels
    told : lines for a person about what was passed over or read in a certain way
    """

    items: list[Item]
    classes: list[str]
    layout: str
    told: list[str] = field(default_factory=list)


def find(folder: Path, table: Path | None = None) -> Found:
    """The images of a folder, by name; InputError where their classes are not clear."""
    names, told = _listed(folder, table)
    lists = [name for name in names if name.rsplit("/", 1)[-1].upper() == "DICOMDIR"]
    if lists:
        told.append(f"passed over: {few(lists, 'list')} of DICOM files, no image")
    kinds = {name: kind for name in names if name not in lists and (kind := _kind(folder, name))}
    others = [name for name in names if name not in kinds and name not in lists]
    if others:
        told.append(f"passed over: {few(others, 'other file')}, no PNG, JPEG, TIFF, BMP or DICOM")
    if not kinds:
        what = f", but {_ends(others)}; convert them, or" if others else ";"
        raise InputError(f"{folder}: no PNG, JPEG, TIFF, BMP or DICOM file in it{what} name the folder of the images")
    dicom = [name for name, kind in kinds.items() if kind == "DICOM"]
    if dicom:
        pictures.require_pydicom(dicom[0], len(dicom))

    # What is known of them, from folders or from the table
    items = [Item(name, kind) for name, kind in kinds.items()]
    if table is None:
        items, layout = _by_folders(folder, items)
    else:
        items, layout = _by_table(folder, items, table, told)
    return Found(items, _classes(items, folder if table is None else table), layout, told)


def composed(text: str) -> str:
    """With each accent in one sign with its letter: some systems store two, and both look alike."""
    return unicodedata.normalize("NFC", text)


def some(count: int, what: str) -> str:
    """A number of things in words: "1 image", "1,200 images"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def few(names: list[str], what: str, most: int = 3) -> str:
    """A number of things and the first few of them, in words."""
    more = ", ..." if len(names) > most else ""
    return f"{some(len(names), what)} ({', '.join(plain(name) for name in names[:most])}{more})"


def _ends(names: list[str]) -> str:
    """What kinds of files there are, by the ends of their names, in words: "12 .webp, 1 .txt"."""
    ends = Counter(os.path.splitext(name)[1].lower() or "without an ending" for name in names).most_common()
    return ", ".join(f"{count:,} {plain(end)}" for end, count in ends[:3]) + ", ..." * (len(ends) > 3)


# ------------------------------------------------------------------ the folder


def _listed(folder: Path, table: Path | None) -> tuple[list[str], list[str]]:
    """Names of all files below a folder, sorted, and lines about what was passed over.

    Hidden ones (.DS_Store, the ._ twins of another system's disks, .git) are nobody's images.

    Raises
    ------
    InputError
        Too many files, a folder that may not be looked into, or a link or device: what is outside is not imported.
    """
    found, hidden, todo = [], 0, [(folder, "", 0)]
    own = {path for path in (table,) if path}
    while todo:
        here, above, depth = todo.pop()
        try:
            with os.scandir(here) as entries:
                there = list(entries)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{plain(str(here))}: cannot be looked into ({reason}); get permission") from error

        # Files are taken, folders wait, all else is hidden or refused
        for entry in there:
            name = f"{above}{entry.name}"
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                hidden += 1
            elif entry.is_symlink():
                _require_inside(folder, Path(entry.path), found, name)
            elif entry.is_dir(follow_symlinks=False):
                if depth == DEEPEST:
                    raise InputError(f"{plain(entry.path)}: more than {DEEPEST} folders deep; name a folder further in")
                todo.append((Path(entry.path), f"{name}/", depth + 1))
            elif not entry.is_file(follow_symlinks=False):
                raise InputError(f"{plain(entry.path)}: neither file nor folder; move it away")
            elif Path(entry.path) not in own:
                found.append(name)
        if len(found) > MOST_FILES:
            raise InputError(f"{folder}: more than {MOST_FILES:,} files; import a part of them")
    return sorted(found), [f"passed over: {some(hidden, 'hidden file or folder')}"] if hidden else []


def _require_inside(folder: Path, link: Path, found: list[str], name: str) -> None:
    """Take a link to a file of the same folder for that file; InputError for any other."""
    target = Path(os.path.realpath(link))
    told = f"{plain(str(link))}: a link"
    if not target.exists():
        raise InputError(f"{told} that leads nowhere; delete it")
    if not target.is_relative_to(folder):
        raise InputError(f"{told} out of the folder; put a copy in its place, or delete it")
    if not target.is_file():
        raise InputError(f"{told} to a folder; put that folder in its place, or delete it")
    found.append(name)


def _kind(folder: Path, name: str) -> str:
    """The format of an image, by the end of its name; "" for other files. DICOM files often have a number there."""
    end = os.path.splitext(name)[1].lower()
    if end in pictures.FORMATS:
        return pictures.FORMATS[end]
    return "DICOM" if re.fullmatch(r"(\.\d*)?", end) and pictures.is_dicom(folder / name) else ""


def _by_folders(folder: Path, items: list[Item]) -> tuple[list[Item], str]:
    """Split and class of each image from the folders that it is in."""
    tops = sorted({item.name.split("/")[0] for item in items if "/" in item.name})
    loose = [item.name for item in items if "/" not in item.name]
    if loose:
        words = few(loose, "image")
        raise InputError(f"{folder}: {words} in no class folder; move them into one, or name a table with --labels")

    # Folders of splits, or of classes
    splits = {top: SPLIT_NAMES.get(top.lower()) for top in tops}
    if all(splits.values()):
        if twice := [top for top in tops if [*splits.values()].count(splits[top]) > 1]:
            same = [plain(top) for top in twice if splits[top] == splits[twice[0]]]
            raise InputError(f"{folder}: {' and '.join(same)} mean the same split; keep one")
        if "train" not in splits.values():
            raise InputError(f"{folder}: folders {', '.join(tops)}, but none named train; add it")
        deep, layout = 3, "train|val|test/<class>/*"
    elif any(splits.values()):
        named = next(top for top in tops if splits[top])
        other = next(top for top in tops if not splits[top])
        raise InputError(
            f"{folder}: {plain(named)!r} names a split and {plain(other)!r} does not; keep folders of one kind"
        )
    else:
        deep, layout = 2, "<class>/*"

    wrong = [item.name for item in items if item.name.count("/") + 1 != deep]
    if wrong:
        raise InputError(
            f"{folder}: {few(wrong, 'image')} not directly in a class folder ({layout}); move them, or name a table "
            f"with --labels"
        )
    parts = [item.name.split("/") for item in items]
    labelled = [replace(item, label=composed(part[deep - 2].strip())) for item, part in zip(items, parts)]
    named: dict[tuple[str, ...], str] = {}
    for item, part in zip(labelled, parts):
        if (other := named.setdefault((*part[: deep - 2], item.label), part[deep - 2])) != part[deep - 2]:
            raise InputError(
                f"{folder}: class folders {shown(other)} and {shown(part[deep - 2])} have one name but for blanks or "
                f"for how an accent is stored; put their images into one"
            )
    _require_no_empty_class(folder, items, deep == 3)
    if deep == 2:
        return labelled, layout
    return [replace(item, split=splits[part[0]]) for item, part in zip(labelled, parts)], layout


def _require_no_empty_class(folder: Path, items: list[Item], parted: bool) -> None:
    """InputError for a class folder without an image, or one of a split: a forgotten copy, perhaps."""
    full = {os.path.dirname(item.name) for item in items}
    tops = {name.split("/")[0] for name in full}
    for above in sorted({os.path.dirname(name) for name in full} | {""}):
        for entry in sorted(os.scandir(folder / above), key=lambda entry: entry.name):
            name = f"{above}/{entry.name}" if above else entry.name
            odd = entry.name.startswith(".") or entry.name == "__MACOSX" or not entry.is_dir(follow_symlinks=False)
            odd |= parted and not above and entry.name.lower() not in SPLIT_NAMES
            if not odd and name not in full | tops:
                kind = "folder" if parted and not above else "class folder"
                inside = [file for *_, files in os.walk(entry.path) for file in files if not file.startswith(".")]
                what = f", but {_ends(inside)}; convert them to PNG" if inside else "; fill it"
                raise InputError(f"{folder}: {kind} {plain(name)!r} holds no image{what} or delete it")


# ------------------------------------------------------------------ the table


def _by_table(folder: Path, items: list[Item], table: Path, told: list[str]) -> tuple[list[Item], str]:
    """Class, patient and split of each image from a table; images that it does not name are passed over."""
    rows = _rows(table, told)
    named = _matched(folder, items, rows, table)
    labelled = "label" in rows[0][1]

    # A list of patients alone: the folders say the classes
    if not labelled:
        items, layout = _by_folders(folder, items)
    else:
        layout = "a table"
        if rest := [item.name for item in items if item.name not in named]:
            told.append(f"passed over: {few(rest, 'image')}, which {table.name} does not name")
        items = [replace(item, label=named[item.name][1]["label"]) for item in items if item.name in named]

    found = []
    for item in items:
        line, row = named.get(item.name, (0, {}))
        if labelled and not item.label:
            raise InputError(f"{table}: line {line} has no label; give each image one class")
        split = _split(row["split"], table, line) if row.get("split") else item.split
        patient = row.get("patient")
        found.append(replace(item, patient=patient or "", split=split, alone=patient == ""))

    # Half-told splits
    if 0 < (without := sum(not item.split for item in found)) < len(found):
        raise InputError(f"{table}: {without:,} of {len(found):,} images have no split; name it for all or for none")
    if found and found[0].split and not any(item.split == "train" for item in found):
        raise InputError(f"{table}: no image has the split train; name train, val or test")
    _require_one_label(found, table)
    return found, layout


def _rows(table: Path, told: list[str]) -> list[tuple[int, dict[str, str]]]:
    """(line, column -> text) of each row of a table."""
    text = _text(table, told)
    header = next((line for line in io.StringIO(text) if line.strip()), "")
    if not header:
        raise InputError(f"{table}: empty; write the columns {WANTED}")

    # The separator is the one that makes sense of the first line
    known, names = [], []
    for mark in (",", ";", "\t"):
        try:
            names = [name.strip().lower() for name in next(csv.reader([header], delimiter=mark), [])]
        except csv.Error as error:
            raise InputError(f"{table}: line 1 is no CSV ({one_line(error)}); write it again") from error
        known = [COLUMNS.get(name, "") for name in names]
        if "file" in known:
            break
    _require_columns(table, known, header)
    if rest := [name for name, key in zip(names, known) if not key and name]:
        told.append(f"passed over in {table.name}: {few(rest, 'column')}")

    rows, begun, reader = [], False, csv.reader(io.StringIO(text), delimiter=mark, strict=True)
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not begun:
                begun = True
                continue
            if len(cells) != len(names):
                raise InputError(f"{table}: line {reader.line_num} has {len(cells)} columns, the first {len(names)}")
            row = {key: cell if key == "file" else composed(cell.strip()) for key, cell in zip(known, cells) if key}
            if not row["file"].strip():
                raise InputError(f"{table}: line {reader.line_num} names no file; fill it or delete the line")
            rows.append((reader.line_num, row))
    except csv.Error as error:
        raise InputError(f"{table}: line {reader.line_num} is no CSV ({one_line(error)}); write it again") from error
    if not rows:
        raise InputError(f"{table}: a header and no image; add a line per image")
    return rows


def _text(table: Path, told: list[str]) -> str:
    """A table's text, from UTF-8, UTF-16 with its mark, or else Windows-1252, which is Latin-1 with more signs."""
    try:
        if not table.is_file():
            raise InputError(f"--labels {table}: no such file; name a CSV with the columns {WANTED}")
        with table.open("rb") as file:
            raw = file.read(MOST_TABLE + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"--labels {table}: cannot be read ({reason}); get permission or name another") from error
    if len(raw) > MOST_TABLE:
        raise InputError(f"--labels {table}: more than {MOST_TABLE >> 20} MB; name a CSV")

    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError:
        try:
            text = raw.decode("cp1252")
        except UnicodeDecodeError as error:
            raise InputError(f"--labels {table}: neither UTF-8, UTF-16 nor Windows-1252; save it as UTF-8") from error
        told.append(f"{table.name} is not UTF-8 and was read as Windows-1252 (Latin-1): look at the class names")
    if "\0" in text:
        raise InputError(f"--labels {table}: not a text (or UTF-16 without its mark); save it as a CSV in UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as Windows ends a line, and as Excel's "Macintosh" does


def _require_columns(table: Path, known: list[str], header: str) -> None:
    """InputError for a first line without what is needed, or with a column twice."""
    first = shown(header.strip())
    for key in ("file", "label", "patient", "split"):
        if known.count(key) > 1:
            raise InputError(f"{table}: column {key} is there twice in {first}; keep one")
    if "file" not in known:
        raise InputError(f"{table}: no column file in {first}; the columns are {WANTED}, separated by , ; or tabs")
    if "label" in known or {"patient", "split"} & set(known):
        return
    several = " Several columns of findings are multi-label, which Knowledge Recycling cannot use:" * (len(known) > 3)
    raise InputError(f"{table}: no column label in {first};{several} write one column label, one class per image")


def _matched(folder: Path, items: list[Item], rows: list, table: Path) -> dict[str, tuple[int, dict]]:
    """Name of a file -> (line, row) that names it."""
    there = {item.name for item in items}
    whole, last, lower = {}, {}, {}
    for name in sorted(there):
        whole.setdefault(composed(name), []).append(name)
        last.setdefault(composed(name).rsplit("/", 1)[-1], []).append(name)
        lower.setdefault(composed(name).lower(), name)

    named: dict[str, tuple[int, dict]] = {}
    for line, row in rows:
        # As it is written, or without the blanks around it; by its whole name, or by the last part alone
        written = [_relative(text, folder, table, line) for text in dict.fromkeys((row["file"], row["file"].strip()))]
        exact = [[name] for name in written if name in there]
        found = [whole.get(composed(name)) or last.get(composed(name), []) for name in written]
        meant = next(filter(None, exact + found), written[-1:])
        if len(meant) > 1:
            places, alike = ", ".join(plain(each) for each in meant[:3]), len({*map(composed, meant)}) == 1
            how = "they differ in how an accent is stored only, rename one" if alike else "write the folder too"
            raise InputError(f"{table}: line {line}: {shown(written[-1])} may be {places}; {how}")
        name = meant[0]
        if name not in there:
            raise InputError(f"{table}: line {line}: {_why_not_there(folder, name, lower)}")
        if name in named:
            same = named[name][1].get("label") == row.get("label")
            why = "keep one" if same else "two classes of one image are multi-label, which cannot be used; keep one"
            raise InputError(f"{table}: {shown(name)} is in lines {named[name][0]} and {line}; {why}")
        named[name] = line, row
    return named


def _relative(text: str, folder: Path, table: Path, line: int) -> str:
    """A file's name below the folder, with "/" between its parts."""
    name, where = text.replace("\\", "/"), composed(str(folder))
    if name.startswith("/"):
        name = composed(name)
    if re.match(r"[A-Za-z]:|//", name) or (name.startswith("/") and not Path(name).is_relative_to(where)):
        raise InputError(f"{table}: line {line}: {shown(text)} is not below {folder}; name files as seen from there")
    name = os.path.relpath(name, where) if name.startswith("/") else name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InputError(f"{table}: line {line}: {shown(text)} leads out of the folder; name files below it")
    return "/".join(parts)


def _why_not_there(folder: Path, name: str, lower: dict[str, str]) -> str:
    """What to do about a file that a table names and that is not among the images, in words."""
    if other := lower.get(composed(name).lower()):
        return f"no file {shown(name)}, but {shown(other)}; write small and capital letters as in the folder"
    if found := [each for each in lower.values() if os.path.splitext(each)[0] == name]:
        return f"no file {shown(name)}, but {shown(found[0])}; write the name with its ending"
    if os.path.lexists(folder / name) and name:
        return f"{shown(name)} is no PNG, JPEG, TIFF, BMP or DICOM file; convert it or delete the line"
    return f"no file {shown(name)} below {folder}; delete the line, or name the right folder"


def _split(text: str, table: Path, line: int) -> str:
    if text.lower() not in SPLIT_NAMES:
        raise InputError(f"{table}: line {line}: split is {shown(text)}; use train, val or test")
    return SPLIT_NAMES[text.lower()]


def _require_one_label(items: list[Item], table: Path) -> None:
    """InputError where a label is several: parts that are labels themselves, or the bar of "A|B"."""
    labels = {item.label for item in items}
    for item in items:
        parts = [part.strip() for part in re.split(r"[|,;+/&]", item.label)]
        if "|" in item.label or (len(parts) > 1 and set(parts) <= labels):
            raise InputError(
                f"{table}: {shown(item.name)} has the label {shown(item.label)}, several findings in one; multi-label "
                f"sets cannot be used: keep images of one class each"
            )


def _classes(items: list[Item], where: Path) -> list[str]:
    """Names of the classes: numbers by value (grades are plain classes), else by the alphabet."""
    counts = Counter(item.label for item in items)
    if len(counts) < 2:
        only = shown(next(iter(counts), ""))
        raise InputError(f"{where}: one class only ({only}); a classifier needs at least two")
    if len(counts) > 1000:
        raise InputError(f"{where}: {len(counts):,} classes, more than 1000; is the column label a class?")
    same = {}
    for label in counts:
        if (other := same.setdefault(label.casefold(), label)) != label:
            raise InputError(f"{where}: classes {shown(other)} and {shown(label)} differ in capitals only; write one")

    numbers, value = all(NUMBER.fullmatch(label) for label in counts), {}
    for label in filter(NUMBER.fullmatch, counts):
        if (other := value.setdefault(float(label), label)) != label:
            raise InputError(f"{where}: classes {shown(other)} and {shown(label)} are one number; write one")
    return sorted(counts, key=(lambda label: (float(label), label)) if numbers else None)
