"""Cross-validation folds of a dataset's training and validation images, each stored as a set of its own.

A fold's "test" images are a held-out part of train + validation; its "train" and "val" images are the rest. The
source's test images are dropped in `read`, before anything is chosen: nothing that is made here can hold one of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kr_utils import InputError, data, dataset_file, own_images, owned, paths

LEAST_VAL = 60  # validation images of a fold, where there are that many: fewer choose nothing


@dataclass(frozen=True)
class Source:
    """Training and validation images of a set, and how it is described. There is no place for test images.

    images : uint8 [N, H, W, C]; labels : int64 [N]
    val_share : the part of the N images that are the publisher's validation images
    patients : int64 [N], whose each image is; None where that is not known
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    mirror: str  # a key of `data.MIRROR`
    licence: str
    images: np.ndarray
    labels: np.ndarray
    val_share: float
    patients: np.ndarray | None = None


@dataclass(frozen=True)
class Cut:
    """How folds are made: how many, at most how many training images each, from which random numbers."""

    splits: int = 3
    most_train: int = 1500
    seed: int = 0


def read(name: str, root: str | Path = "", described: str | Path = "", mirror: str = "") -> Source:
    """Training and validation images of a published set, of one described beside its images, or of an undescribed file.

    Parameters
    ----------
    name : as `run_all.py --datasets` takes it, or <name>.npz in the data folder
    root : the data folder
    described : a folder with <name>.json, for images that have no description beside them
    mirror : without any description, which mirror images keep their label; classes are then called "class 0", ...

    Raises
    ------
    InputError
        The name is unknown, its file is damaged, or it is described twice or not at all.
    """
    path = data.data_root(root) / f"{name}.npz"
    known = name in data.INFO or name in data.REFUSED or path.with_suffix(".json").is_file()
    if mirror and not known and not path.is_file():
        raise InputError(f"{path}: no such file; name the folder that it is in (--data-root or KR_DATA)")
    if mirror and known:
        raise InputError(f"{name}:{mirror}: {name} is described already; leave out the part from the colon on")

    # The library reads, and checks all three splits; two of them are kept
    if known or not path.is_file():
        ds = data.load(name, root)
        pairs = [(split.images.permute(0, 2, 3, 1).numpy(), split.labels.numpy()) for split in (ds.train, ds.val)]
        whose = [ds.groups[part] for part in ("train", "val") if ds.groups]
        return _source(name, ds.info, ds.class_names, pairs, whose)
    arrays = dataset_file.read_npz(path)
    about = paths.absolute(described, "--describe") / f"{name}.json" if str(described) else None
    info = _described(path, about, mirror, arrays)
    arrays = dataset_file.validate(arrays, info.classes, (1, 3), str(path))
    pairs = [(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "val")]
    whose = [arrays[key] for key in dataset_file.GROUPS[:2] if key in arrays]
    return _source(name, info, info.class_names, pairs, whose)


def _described(path: Path, about: Path | None, mirror: str, arrays: dict[str, np.ndarray]) -> data.Info:
    """What is known of images without a description beside them, from another folder or from the command."""
    if about and about.is_file():
        if mirror:
            raise InputError(f"{path.stem}:{mirror}: {about} says more; leave out the part from the colon on")
        return data.describe(about)
    words = ", ".join(data.MIRROR)
    if mirror not in data.MIRROR:
        raise InputError(
            f"{path}: no description; write {path.stem}:MIRROR, where MIRROR says which mirror images keep their label "
            f"({words}), or name a folder with {path.stem}.json (--describe; docs/running.md)"
        )
    labels = arrays.get("train_labels", np.zeros(0, int))
    if labels.dtype.kind not in "iu" or not 1 <= labels.max(initial=0) < 1000:
        raise InputError(f"{path}: train_labels must be whole numbers 0..K-1 of 2 to 1000 classes")
    names = tuple(f"class {k}" for k in range(int(labels.max()) + 1))
    return data.Info(path.stem, "own", len(names), 0, "see its source", class_names=names, **data.MIRROR[mirror])


def _source(name: str, info: data.Info, class_names: tuple[str, ...], pairs: list, whose: list) -> Source:
    """pairs : images and labels of train and of val; whose : the patients of both, or nothing"""
    mirror = "both" if info.vflip else "left-right" if info.hflip else "none"
    images, labels = (np.concatenate(parts) for parts in zip(*pairs))
    val_share = len(pairs[1][1]) / len(labels)
    patients = np.concatenate(whose) if whose else None
    return Source(name, info.title, tuple(class_names), mirror, info.licence, images, labels, val_share, patients)


def fold_names(name: str, splits: int) -> list[str]:
    """breastmnist_cv1of3, ...: the names under which a set's folds are stored."""
    names = [f"{name}_cv{k + 1}of{splits}" for k in range(splits)]
    if not data.OWN_NAME.fullmatch(names[0]):
        raise InputError(
            f"{name!r}: its folds would be called {names[0]!r}, which is no name for a set; rename the file"
        )
    return names


def same_pixels(images: np.ndarray) -> np.ndarray:
    """A number for each image, int [N]; images with the very same pixels have the same one."""
    return np.unique(images.reshape(len(images), -1), axis=0, return_inverse=True)[1].ravel()


def spread(strata: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Choose n of the items at random, of each stratum its share, and at least one; bool [M]."""
    kinds, place, count = np.unique(strata, return_inverse=True, return_counts=True)
    share = n * count / len(strata)
    wanted = np.floor(share).astype(int).clip(1)
    wanted[np.argsort(wanted - share, kind="stable")[: max(0, n - wanted.sum())]] += 1
    wanted[wanted.argmax()] -= wanted.sum() - n  # what strata that get one in any case have too much

    # The first ones of each stratum, in a random order
    chosen = np.zeros(len(strata), dtype=bool)
    for k in range(len(kinds)):
        chosen[rng.permutation(np.flatnonzero(place == k))[: wanted[k]]] = True
    return chosen


def split(source: Source, cut: Cut) -> list[dict[str, np.ndarray]]:
    """Of each fold, which images of the source are its train, val and test: ascending indices.

    Each class is dealt to the folds one image after another: their held-out parts differ by at most one image of it,
    and together they are all images, each once. Images with the very same pixels are never parted, nor those of one
    patient where patients are known: then patients are dealt, one after another. What is not held out gives the
    validation images (the source's share of them, at least 60, at most half), then at most `most_train` training
    images.

    Raises
    ------
    InputError
        A class has too few different images, or patients.
    """
    rng = np.random.default_rng(cut.seed)
    alike = same_pixels(source.images)
    different = np.unique(alike, return_index=True)[1]  # the first image of each
    group, strata = _together(source, alike, different)
    rare = np.zeros(len(source.class_names), int)
    for k in range(len(rare)):
        rare[k] = len(np.unique(group[different][source.labels[different] == k]))
    if rare.min() - -(-rare.min() // cut.splits) < 2 or rare.min() < cut.splits:
        kind = "different images" if source.patients is None else "patients"
        word = f"{rare.min()} {kind} in train and validation together"
        raise InputError(
            f"{source.name}: class {rare.argmin()} has {word}; too few for {cut.splits} splits, take fewer"
        )

    # Hold out
    shuffled = rng.permutation(len(strata))
    dealt = shuffled[np.argsort(strata[shuffled], kind="stable")]
    held = np.empty(len(strata), dtype=int)
    held[dealt] = np.arange(len(strata)) % cut.splits

    # Share out the rest
    parts = []
    for k in range(cut.splits):
        rest = np.flatnonzero(held != k)
        images = int(np.isin(group[different], rest).sum())
        n_val = max(round(source.val_share * images), LEAST_VAL) * len(rest) / images
        n_val = min(round(n_val), len(rest) // 2)
        in_val = spread(strata[rest], n_val, rng)
        val, train = rest[in_val], rest[~in_val]
        groups = {"train": train, "val": val, "test": np.flatnonzero(held == k)}
        parts.append({name: np.flatnonzero(np.isin(group, chosen)) for name, chosen in groups.items()})
        if len(parts[k]["train"]) > cut.most_train:  # there are more than enough: each different image once
            inside = different[np.isin(group[different], train)]
            kept = inside[spread(source.labels[inside], min(cut.most_train, len(inside)), rng)]
            parts[k]["train"] = np.sort(kept)

        # A patient of several classes counts as none of them
        for name, index in parts[k].items():
            counts = np.bincount(source.labels[index], minlength=len(rare))
            if not counts.all():
                lacks = f"class {counts.argmin()} has no {name} image in fold {k + 1} of {cut.splits}"
                raise InputError(f"{source.name}: {lacks}; its patients are too few, take fewer splits")
    return parts


def _together(source: Source, alike: np.ndarray, different: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images stay together, int [N] from 0; and what each such group counts as when classes are spread evenly.

    A group of the same pixels counts as the class of its first image; a patient as the class of all of them, or, with
    several, as one of those that have several.
    """
    if source.patients is None:
        return alike, source.labels[different]
    group = own_images.joined(np.unique(source.patients, return_inverse=True)[1], alike)
    of = np.zeros((group.max() + 1, len(source.class_names)), bool)
    of[group, source.labels] = True
    return group, np.where(of.sum(1) == 1, of.argmax(1), len(source.class_names))


def write(source: Source, cut: Cut, folder: Path) -> dict[str, str]:
    """Store every fold as `<name>.npz` with its description; name -> checksum of what was stored.

    A fold that is there already is left as it is.

    Raises
    ------
    InputError
        The folder holds other images under a fold's name: cells that were made from them would no longer count.
    """
    owned.make(folder)
    for k, (name, parts) in enumerate(zip(fold_names(source.name, cut.splits), split(source, cut))):
        arrays = {f"{part}_images": source.images[index] for part, index in parts.items()}
        arrays |= {f"{part}_labels": source.labels[index] for part, index in parts.items()}
        if source.patients is not None:
            arrays |= {f"{part}_groups": source.patients[index] for part, index in parts.items()}
        about = {
            "title": f"{source.title}, fold {k + 1} of {cut.splits}"[:100],
            "class_names": list(source.class_names),
        }
        _store(folder / f"{name}.npz", arrays, about | {"mirror": source.mirror, "licence": source.licence})
    return {name: data.check(name, folder) for name in fold_names(source.name, cut.splits)}


def _store(path: Path, arrays: dict[str, np.ndarray], about: dict) -> None:
    """Write images and description, or find the very same there; the description last, as a set counts from then on."""
    described = path.with_suffix(".json")
    if path.is_file() and described.is_file():
        there = dataset_file.validate(dataset_file.read_npz(path), len(about["class_names"]), (1, 3), str(path))
        if dataset_file.checksum(there) == dataset_file.checksum(arrays) and json.loads(described.read_text()) == about:
            return
        raise InputError(f"{path}: another fold of this name, from other images or options; name another --work folder")
    with owned.writing(path) as file:
        np.savez_compressed(file, **arrays)
    owned.write(described, json.dumps(about, indent=1) + "\n")
