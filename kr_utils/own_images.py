"""The door in: a folder of images, or an npz in MedMNIST's layout, becomes a dataset with a name.

own_files.py says which images there are, pictures.py reads each; here they are split by patient, checked as every
dataset is, and written as `<name>.npz` and `<name>.json` into the data folder. The source is only read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kr_utils import InputError, data, own_files, paths, pictures, shown
from kr_utils.dataset_file import (
    COPIES,
    FEWEST,
    GROUPS,
    KEYS,
    SPLITS,
    checksum,
    digests_of,
    memory_limit,
    read_npz,
    require_new_images,
    shared_images,
    tell_patients,
    tell_shared,
    validate,
)

SIZES = (28, 64, 128, 224)  # pixels a side
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}  # of the images, as MedMNIST cuts its own
LARGE = 0.02  # of all images, above which a patient is placed before the others
COLOURS = ("auto", "grey", "rgb")
COLOURED = 16  # grey levels that an image's channels differ by somewhere, if it is one in colour
SEED = 0  # of the cut: the same folder always gives the same splits
EVERY = 10  # seconds between two lines about how far it is
FORM = 1  # of the key `import`


@dataclass(frozen=True)
class Wanted:
    """What a person asks for.

    source : a folder, or an npz file
    name : of the dataset; title, licence : "" for the name, and for "not stated"
    table : a CSV, for a folder; class_names : for an npz file, whose labels are numbers
    size : pixels a side, one of `SIZES`; 0 is 28 for a folder, and an npz file's own
    mirror : a key of `data.MIRROR`; colour : one of `COLOURS`; fit : one of `pictures.FITS`
    replace : whether another set of this name may go
    dry : only tell, and write nothing
    """

    source: Path
    name: str
    title: str = ""
    licence: str = ""
    table: Path | None = None
    class_names: tuple[str, ...] = ()
    size: int = 0
    mirror: str = "none"
    colour: str = "auto"
    fit: str = "pad"
    replace: bool = False
    dry: bool = False


Tell = Callable[[str], None]


def bring_in(wanted: Wanted, root: str | Path, tell: Tell = print, progress: Tell = lambda line: None) -> None:
    """Import what is wanted into the data folder, or find that it is there already.

    Parameters
    ----------
    root : as for `data.data_root`; the folder is made if only it is missing
    tell : is given a line about everything that was found, left out, changed, moved and written
    progress : is given a line every ten seconds

    Raises
    ------
    InputError
        Whatever stands in the way; nothing has been written then.
    """
    # Names and places, before anything is read
    if not data.may_be_own(wanted.name):
        rule = "1 to 40 small letters, digits and _, and not that of a published dataset or a notebook"
        raise InputError(f"--name is {shown(wanted.name)}; a name is {rule}")
    folder = data.data_root(root, new=True)
    target = folder / f"{wanted.name}.npz"
    about = {"title": wanted.title or wanted.name, "class_names": ["0", "1"], "mirror": wanted.mirror}
    about["licence"] = wanted.licence or "not stated"
    data.require_text(about["title"], "--title")
    data.require_text(about["licence"], "--licence")
    _require_apart(wanted.source, folder, target)

    # Images, labels and patients in three splits
    read = _from_folder if wanted.source.is_dir() else _from_npz
    arrays, names, source = read(wanted, tell, progress)
    about["class_names"] = names
    data.described(about, target.with_suffix(".json"))  # what is not refused by its cause before
    arrays = validate(arrays, len(names), (1, 3), str(wanted.source))
    shared = shared_images(arrays)
    require_new_images(shared, {split: len(arrays[f"{split}_labels"]) for split in SPLITS}, str(wanted.source))
    _tell_splits(arrays, names, shared, tell)

    # How it came about: told in the description
    _, height, width, channels = arrays["train_images"].shape
    patients = {split: len(np.unique(arrays[key])) for split, key in zip(SPLITS, GROUPS) if key in arrays}
    counts = {split: np.bincount(arrays[f"{split}_labels"], minlength=len(names)).tolist() for split in SPLITS}
    about[data.IMPORTED] = {
        "form": FORM,
        "checksum": checksum(arrays),
        "images": {"height": height, "width": width, "channels": channels},
        "counts": counts,
        "patients": patients or None,
        "source": source,
    }
    run = f"run_all.py --datasets {wanted.name}" + (f" --data-root {shlex.quote(str(root))}" if str(root) else "")
    _write(wanted, target, arrays, about, tell)
    tell(f"then: {run} --profile laptop --dry-run")


def _require_apart(source: Path, folder: Path, target: Path) -> None:
    """InputError if the source is not there, or if what is written would come into it."""
    if not source.exists():
        raise InputError(f"--import {source}: no such folder or file; name the folder of your images")
    if not source.is_dir() and (not source.is_file() or source.suffix.lower() != ".npz"):
        raise InputError(f"--import {source}: neither a folder nor an npz file; name one")
    if source.is_dir() and folder.is_relative_to(source):
        raise InputError(f"--import {source}: the data folder {folder} lies in it; name another with --data-root")
    if source == target:
        raise InputError(f"--import {source}: would be written over itself; choose another --name or --data-root")


# ------------------------------------------------------------------ reading


def _from_folder(wanted: Wanted, tell: Tell, progress: Tell) -> tuple[dict, list[str], dict]:
    """Arrays, class names and what the description says of the source."""
    if wanted.class_names:
        raise InputError("--class-names is for an npz file; a folder's classes are its folders, or a table's labels")
    found = own_files.find(wanted.source, wanted.table)
    size, items = wanted.size or SIZES[0], found.items
    counts = Counter(item.label for item in items)
    words = ", ".join(f"{name} {counts[name]:,}" for name in found.classes[:10])
    more = ", ..." if len(found.classes) > 10 else ""
    tell(f"found: {len(items):,} images of {len(found.classes)} classes ({words}{more}), layout {found.layout}")
    for line in found.told:
        tell(line)
    for label in found.classes:
        first = next(item.name for item in items if item.label == label)
        by_table = found.layout == "a table"
        where = f"{wanted.table}: the label" if by_table else f"{wanted.source}: the class folder"
        data.require_text(label, f"{where} of {shown(first)}")
    _require_room(wanted.source, len(items), size)

    # Each image by its rules
    read, odd = _read_all(wanted, items, size, progress)
    for kind, names in odd.items():
        what = "left out" if kind in pictures.LEFT_OUT else "noted"
        tell(f"{what}: {own_files.few(names, 'image')} {_rule(kind, wanted.fit)}")
    kept = [(item, picture) for item, picture in zip(items, read) if picture.pixels is not None]
    if len(kept) < len(items) / 2:
        kind = max(odd, key=lambda kind: len(odd[kind]) * (kind in pictures.LEFT_OUT))
        why = next((f": {p.why}" for p in read if p.odd == (kind,) and p.why), "")
        raise InputError(
            f"{wanted.source}: {len(items) - len(kept):,} of {len(items):,} images cannot be used, "
            f"{own_files.few(odd[kind], 'image')} {pictures.RULES[kind]}{why}; look at the files"
        )
    _require_some_of_each(wanted.source, items, [item for item, _ in kept])
    images, bits = _together([picture for _, picture in kept], [item.name for item, _ in kept], wanted.colour, tell)

    # Whose they are, and which split they are in
    labels = np.array([found.classes.index(item.label) for item, _ in kept])
    patients = _patients(kept, tell)
    groups = numbered(patients) if any(patients) else None
    given = [item.split for item, _ in kept]
    try:
        places = _places(images, labels, groups, given, found.classes, tell)
    except _FewError as error:
        by_file = {patient for (item, _), patient in zip(kept, patients) if patient and not item.patient}
        raise InputError(
            f"{wanted.source}: {error}{MARK.format(own_files.some(len(by_file), 'patient')) * bool(by_file)}"
        ) from error

    arrays = {}
    for number, split in enumerate(SPLITS):
        inside = places == number
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[inside], labels[inside]
        if groups is not None:
            arrays[f"{split}_groups"] = groups[inside]
    source = {"layout": found.layout, "files": len(items), "kept": len(kept), "fit": wanted.fit}
    source |= {"formats": dict(sorted(Counter(item.kind for item in items).items())), "resampling": "bicubic"}
    source |= {"odd": {kind: len(names) for kind, names in odd.items()}, "splits": "as given" if given[0] else "cut"}
    source |= {"bits": bits} if "deep" in odd else {}  # predict.py of a bundle needs to know
    return arrays, found.classes, source | {"seed": SEED, "shares": SHARES}


# Where patients are too few, and DICOM files have named them
MARK = (
    "; the DICOM files' PatientID names {}: if that is a mark of de-identification, name the patients in a table "
    "(--labels, columns file and patient), where a blank means that nobody knows: a patient of its own"
)


class _FewError(InputError):
    """A class has too few images or patients for its splits."""


def _patients(kept: list[tuple[own_files.Item, pictures.Picture]], tell: Tell) -> list[str]:
    """Whose each image is: as a table says, else as its own DICOM file does; "" where nobody knows."""
    found = [item.patient or own_files.composed(p.patient) * (not item.alone) for item, p in kept]
    by_file = [item.name for (item, _), patient in zip(kept, found) if patient and not item.patient]
    unknown = [item.name for (item, _), patient in zip(kept, found) if not patient]
    if by_file:
        some = "" if len(by_file) == len(kept) else f" ({own_files.few(by_file, 'image')})"
        tell(f"patients: as the DICOM files name them{some}, by their PatientID")
    if unknown and (any(found) or any(item.alone for item, _ in kept)):
        tell(f"without a patient: {own_files.few(unknown, 'image')}; each counts as a patient of its own")
    return found


def _require_some_of_each(where: Path, items: list[own_files.Item], kept: list[own_files.Item]) -> None:
    """InputError where nothing is left of a class, or of what a split was given of it."""
    there = Counter((item.split, item.label) for item in kept)
    for (split, label), count in Counter((item.split, item.label) for item in items).items():
        if not there[split, label]:
            of = f"class {shown(label)}{f' in {split}' * bool(split)}"
            raise InputError(
                f"{where}: {own_files.some(count, 'image')} of {of}, and none can be used: they are left out for what "
                f"is told above; mend them, or leave the class out"
            )


def _rule(kind: str, fit: str) -> str:
    done = {"pad": "padded with black to squares", "crop": "their middle is cut out", "stretch": "stretched to squares"}
    return f"{pictures.RULES[kind]}: {done[fit]} (--fit)" if kind == "oblong" else pictures.RULES[kind]


def _require_room(where: Path, images: int, size: int) -> None:
    """InputError if the images, in colour, would take more memory than a run could read back."""
    needed, limit = images * 3 * size**2, memory_limit() // COPIES
    if needed > limit:
        raise InputError(
            f"{where}: {images:,} images of {size} x {size} pixels take {needed / 2**30:.1f} GiB, more than the "
            f"{limit / 2**30:.1f} GiB that can be read here; import fewer, or smaller with --size"
        )


def _read_all(
    wanted: Wanted, items: list, size: int, progress: Tell
) -> tuple[list[pictures.Picture], dict[str, list[str]]]:
    """Every image, and kind of oddity -> names of those that have it, in the order of the rules."""
    began = told = time.monotonic()
    read, odd = [], {kind: [] for kind in pictures.RULES}
    for number, item in enumerate(items, 1):
        picture = pictures.read(wanted.source / item.name, item.kind, size, wanted.fit)
        if picture.pixels is not None and picture.pixels.min() == picture.pixels.max():
            picture = pictures.Picture(None, ("blank",))
        read.append(picture)
        for kind in picture.odd:
            odd[kind].append(item.name)

        # How far it is
        if (now := time.monotonic()) - told > EVERY:
            left = (now - began) / number * (len(items) - number)
            progress(f"read {number:,} of {len(items):,} images, about {left:.0f} s more")
            told = now
    return read, {kind: names for kind, names in odd.items() if names}


def _together(found: list[pictures.Picture], names: list[str], colour: str, tell: Tell) -> tuple[np.ndarray, int]:
    """uint8 [N, S, S] or [N, S, S, 3] of images uint8 or uint16, grey or in colour; and the bits that are used."""
    # 16 bits: one scale for all, or their brightness could not be compared
    bits = max([8, *(each.highest.bit_length() for each in found)])
    if any(each.pixels.dtype == np.uint16 for each in found):
        tell(f"16 bits: {bits} of them are used; the highest 8 are kept")
    pixels = [_in_eight(each, bits) for each in found]

    # Grey or colour
    coloured = [name for name, each in zip(names, pixels) if each.ndim == 3 and _in_colour(each)]
    rgb = colour == "rgb" or (colour == "auto" and bool(coloured))
    why = f"{own_files.few(coloured, 'image')} in colour" if coloured else "no image has any"
    forced = "" if colour == "auto" else f", --colour {colour}"
    tell(f"colour: {'RGB' if rgb else 'grey'} ({why}{forced})")
    return np.stack([_as_rgb(each) if rgb else _as_grey(each) for each in pixels]), bits


def _in_eight(picture: pictures.Picture, bits: int) -> np.ndarray:
    """uint8 of an image; of a uint16 one the highest 8 of so many bits, with white as the highest value."""
    if picture.pixels.dtype != np.uint16:
        return picture.pixels
    grey = np.minimum(picture.pixels >> (bits - 8), 255).astype(np.uint8)  # beside a negative one is 65535
    return 255 - grey if "negative" in picture.odd else grey


def _in_colour(image: np.ndarray) -> bool:
    """Whether some pixel's channels differ by more than a JPEG of a grey image makes them."""
    return bool((image.max(-1).astype(int) - image.min(-1)).max() > COLOURED)


def _as_rgb(image: np.ndarray) -> np.ndarray:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, -1)


def _as_grey(image: np.ndarray) -> np.ndarray:
    """ITU-R 601's weights, as Pillow has them."""
    return np.asarray(Image.fromarray(image).convert("L")) if image.ndim == 3 else image


def _from_npz(wanted: Wanted, tell: Tell, progress: Tell) -> tuple[dict, list[str], dict]:
    """As `_from_folder`, of a file in MedMNIST's layout: its splits stay as they are."""
    if wanted.table:
        raise InputError("--labels is for a folder; an npz file has its labels in it")
    arrays = read_npz(wanted.source)
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        held = f"a MedMNIST file holds {', '.join(KEYS)}"
        raise InputError(f"{wanted.source}: no array {missing[0]!r}; {held}")
    labels = [arrays[f"{split}_labels"] for split in SPLITS]
    if any(each.ndim == 2 and each.shape[1] > 1 for each in labels):
        raise InputError(f"{wanted.source}: several labels per image: multi-label sets cannot be used")

    # Names of the classes, and nothing that was asked for is passed over
    names = _class_names(wanted, labels, tell)
    if wanted.fit != "pad" and not wanted.size:
        raise InputError(f"--fit {wanted.fit} is for images that are made another size; add --size, or leave it out")
    arrays = validate(arrays, len(names), (1, 3), str(wanted.source))

    # Patients: who they are stays outside
    if GROUPS[0] in arrays:
        whose = numbered([str(number) for key in GROUPS for number in arrays[key]])
        arrays |= zip(GROUPS, np.split(whose, np.cumsum([len(arrays[key]) for key in GROUPS])[:-1]))

    # Colour and size, where others are wanted
    height, width = arrays["train_images"].shape[1:3]
    size = (wanted.size, wanted.size) if wanted.size else (height, width)
    if size != (height, width):
        tell(f"size: from {height} x {width} to {size[0]} x {size[1]} pixels")
        _require_room(wanted.source, sum(map(len, labels)), wanted.size)
    for split in SPLITS:
        images = arrays[f"{split}_images"]
        images = images[..., 0] if images.shape[-1] == 1 else images
        if size != (height, width):
            images = np.stack(
                [np.asarray(pictures.fitted(Image.fromarray(each), wanted.size, wanted.fit)) for each in images]
            )
        if wanted.colour != "auto":
            images = np.stack([(_as_rgb if wanted.colour == "rgb" else _as_grey)(each) for each in images])
        arrays[f"{split}_images"] = images
    with wanted.source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = {"layout": "npz", "sha256": digest, "splits": "as given", "size": [height, width], "fit": wanted.fit}
    return arrays, names, source


def _class_names(wanted: Wanted, labels: list[np.ndarray], tell: Tell) -> list[str]:
    """Those that were given, or else the labels' numbers; InputError if they do not fit."""
    highest = max((int(each.max()) for each in labels if each.size and each.dtype.kind in "iu"), default=1)
    if highest < 1:
        raise InputError(
            f"{wanted.source}: one class only (no label is above {highest}); a classifier needs at least two"
        )
    if highest > 999:
        raise InputError(f"{wanted.source}: a label is {highest}; labels must be 0..K-1, of at most 1000 classes")
    if not wanted.class_names:
        names = [str(number) for number in range(highest + 1)]
        tell(f"classes: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}; --class-names gives them names")
        return names

    # Given ones
    names = [own_files.composed(name) for name in wanted.class_names]
    for name in names:
        data.require_text(name, "--class-names")
    if len(names) != highest + 1:
        raise InputError(f"--class-names has {len(names)}, but the labels of {wanted.source} are 0 to {highest}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--class-names has {shown(twice[0])} twice; give each class a name of its own")
    return names


# ------------------------------------------------------------------ patients and splits


def numbered(patients: list[str]) -> np.ndarray:
    """int64 [N], from 0 by appearance: who a patient is stays outside. Unknown ones ("") are each alone."""
    known: dict[object, int] = {}
    keys = [patient or number for number, patient in enumerate(patients)]
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)


def _places(images, labels, groups, given: list[str], names: list[str], tell: Tell) -> np.ndarray:
    """The split of each image as a number: as it is given, or cut by patient; nobody stands in two."""
    # Images with the same pixels go together, and with them their patients
    alike = numbered([digest.hex() for digest in digests_of(images)])
    copies = len(alike) - len(np.unique(alike))
    if copies:
        first = {number: label for number, label in zip(alike[::-1], labels[::-1])}
        other = sum(first[number] != label for number, label in zip(alike, labels))
        some = f"{copies:,} image{'s are copies' if copies > 1 else ' is a copy'} of another"
        tell(f"the same pixels: {some} ({other:,} in another class); kept together")
    owners = np.arange(len(images)) if groups is None else groups
    blocks = joined(owners, alike)

    what = "different image" if groups is None else "patient"
    if not given[0]:
        return cut(blocks, labels, names, what=what)
    places = np.array([SPLITS.index(split) for split in given])
    lacking = [number for number in range(len(SPLITS)) if not (places == number).any()]

    # Who stands in two splits goes to the first of them, in which nothing is claimed of new patients
    first = np.full(blocks.max() + 1, len(SPLITS))
    np.minimum.at(first, blocks, places)
    moved = first[blocks] != places
    for number, split in enumerate(SPLITS):
        if count := int((moved & (places == number)).sum()):
            who = len(np.unique(owners[moved & (places == number)]))
            whose = f" of {own_files.some(who, 'patient')}" * (groups is not None)
            why = "their patient or pixels are in an earlier split too"
            tell(f"moved: {own_files.some(count, 'image')}{whose} out of {split}: {why}")

    # Every class must be left in every split that is given
    before, places = places, first[blocks]
    for number, split in enumerate(SPLITS):
        counts = np.bincount(labels[places == number], minlength=len(names))
        if number not in lacking and not counts.all():
            k = int(counts.argmin())
            gone = int(((before == number) & (labels == k)).sum())
            why = f" (all {gone:,} are moved)" if gone else ""
            instead = f", or give no {split}, which is then cut from train" if number else ""
            raise _FewError(
                f"class {shown(names[k])} has no image in {split}{why}; every class needs one in every split: add "
                f"some{instead}, or leave the class out"
            )
    if not lacking:
        return places

    # What is not given is cut from train
    missing = ", ".join(SPLITS[number] for number in lacking)
    tell(f"not given: {missing}; cut from train")
    inside = np.flatnonzero(places == 0)
    shares = {split: SHARES[split] * (number == 0 or number in lacking) for number, split in enumerate(SPLITS)}
    places[inside] = cut(np.unique(blocks[inside], return_inverse=True)[1], labels[inside], names, shares, what)
    return places


def joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int64 [N], from 0: images have the same number if a chain of equal entries of either array links them."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n, ones = int(first.max()) + 1, np.ones(len(first))
    graph = coo_matrix((ones, (first, n + second)), shape=(n + int(second.max()) + 1,) * 2)
    return np.unique(connected_components(graph, directed=False)[1][first], return_inverse=True)[1]


def cut(
    blocks: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    shares: dict[str, float] = SHARES,
    what: str = "patient",
) -> np.ndarray:
    """Cut images into splits, patient by patient, so that every class has its share of each.

    Iterative stratification (Sechidis et al. 2011) with patients in place of images: the class that is rarest among
    what is left hands its patients to the split that lacks most of it. scikit-learn's StratifiedGroupKFold may leave a
    split without a rare class.

    Parameters
    ----------
    blocks : int [N], the patient of each image, 0 .. B - 1
    labels : int [N]; names : of the classes, and what : a block is called, for errors
    shares : split -> share of the images; one of share 0 gets none

    Returns
    -------
    int [N], index in `SPLITS`; the same for every run

    Raises
    ------
    InputError
        A class that has fewer patients than there are splits.
    """
    count = np.zeros((blocks.max() + 1, len(names)), int)
    np.add.at(count, (blocks, labels), 1)
    shuffled = np.random.default_rng(SEED).permutation(len(count))
    wanted = [number for number, split in enumerate(SPLITS) if shares[split]]

    # A class whose patients do not go round
    owners = (count > 0).sum(0)
    if owners.min() < len(wanted):
        k, few = int(owners.argmin()), int(owners.min())
        of = f"{what}{'s' * (few != 1)}{' (copies of an image count as one)' * (what == 'patient')}"
        raise _FewError(
            f"class {shown(names[k])} has {few} {of}; at least {len(wanted)} are needed, one for each split: add some, "
            f"or leave the class out"
        )

    share = np.array([shares[SPLITS[number]] for number in wanted])
    lacks = share[:, None] / share.sum() * count.sum(0)
    place, left = np.full(len(count), -1), count.sum(0)

    def put(block: int, row: int) -> None:
        place[block] = row
        lacks[row] -= count[block]
        left[:] = left - count[block]

    # By chance, or large patients would all be trained on; but who has more than LARGE of the images comes first
    size = count[shuffled].sum(1)
    by_size = shuffled[np.argsort(np.where(size > LARGE * len(labels), size, 0), kind="stable")]

    # One small patient of each class for each split, rare classes first; else a rare class may miss one
    for k in np.argsort(owners, kind="stable"):
        mine = iter([block for block in by_size if count[block, k] and place[block] < 0])
        for row in sorted(range(len(wanted)), key=lambda row: share[row]):
            if not count[place == row, k].sum() and (block := next(mine, None)) is not None:
                put(block, row)

    # The rest, to whom most is lacking
    while left.any():
        k = int(np.where(left > 0, left, left.sum() + 1).argmin())
        for block in [block for block in by_size[::-1] if place[block] < 0 and count[block, k]]:
            put(block, int(np.lexsort((lacks.sum(1), lacks[:, k]))[-1]))
    return np.array(wanted)[place[blocks]]


def _tell_splits(arrays: dict, names: list[str], shared: dict, tell: Tell) -> None:
    for split, key in zip(SPLITS, GROUPS):
        labels = arrays[f"{split}_labels"]
        counts = np.bincount(labels, minlength=len(names))
        whose = f" of {own_files.some(len(np.unique(arrays[key])), 'patient')}" if key in arrays else ""
        words = ", ".join(f"{name} {count:,}" for name, count in list(zip(names, counts))[:10])
        few = f"; fewer than {FEWEST}, too few for attacks to be believed" if len(labels) < FEWEST else ""
        tell(
            f"{split}: {own_files.some(len(labels), 'image')}{whose} ({words}{', ...' if len(names) > 10 else ''}){few}"
        )
    for words in filter(None, (tell_shared(shared), tell_patients(arrays))):
        tell(words)


# ------------------------------------------------------------------ writing


def _write(wanted: Wanted, target: Path, arrays: dict, about: dict, tell: Tell) -> None:
    """Both files or none: made aside, then renamed, the description last; one without its images is refused later."""
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    described = target.with_suffix(".json")
    there = [path for path in (target, described) if os.path.lexists(path)]
    if len(there) == 2 and _is(target, described, text, arrays):
        tell(f"already there: {target}")
        return
    if there and not wanted.replace:
        raise InputError(f"{there[0]}: another set has this name; choose another --name, or add --replace")
    if odd := [path for path in there if not path.is_file() or path.is_symlink()]:
        raise InputError(f"{odd[0]}: a link or folder, not a file; move it away")
    if wanted.dry:
        tell(f"would write {target} and {described.name}")
        return

    # Aside first, in a folder of the same disk
    paths.writable(target.parent, "--data-root")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{wanted.name}-", dir=target.parent) as aside:
            made, old = (Path(aside, target.name), Path(aside, described.name)), Path(aside, "old")
            np.savez_compressed(made[0], **arrays)
            made[1].write_text(text, encoding="utf-8")
            for path in made:
                with path.open("rb+") as file:
                    os.fsync(file.fileno())

            # Into place; the old images come back if the description cannot follow
            with contextlib.suppress(OSError):  # nothing there, or a disk without second names
                os.link(target, old)
            os.replace(made[0], target)
            try:
                os.replace(made[1], described)
            except BaseException:
                os.replace(old, target) if old.exists() else target.unlink()
                raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{target}: cannot be written ({reason}); name a folder with space left") from error
    size = (target.stat().st_size + described.stat().st_size) / 1e6
    tell(f"written: {target} and {described.name}, {size:.2g} MB")


def _is(target: Path, described: Path, text: str, arrays: dict) -> bool:
    """Whether both files hold just this."""
    try:
        if described.read_text(encoding="utf-8") != text:
            return False
        found = read_npz(target)
        return checksum(validate(found, len(json.loads(text)["class_names"]), (1, 3), str(target))) == checksum(arrays)
    except (OSError, ValueError):
        return False
