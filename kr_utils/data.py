"""Datasets: from a name to validated uint8 images and int64 labels in three splits.

`check` and `read_arrays` need only numpy, so the driver can refuse a bad file before anything heavy
is imported; `load` wraps the same arrays as torch tensors.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kr_utils import InputError, paths
from kr_utils.dataset_file import SPLITS, checksum, one_line, read_npz, validate

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Info:
    """What must be known of a dataset before its file is opened."""

    title: str
    source: str  # "sklearn", "medmnist" or "torchvision"
    classes: int
    channels: int
    licence: str
    hflip: bool = False  # does a left-right mirror image keep its label?
    vflip: bool = False
    resnet18: float | None = None  # MedMNIST v2's published test accuracy at 28 px


def _med(title: str, classes: int, channels: int, resnet18: float, **more) -> Info:
    return Info(title, "medmnist", classes, channels, more.pop("licence", "CC BY 4.0"), resnet18=resnet18, **more)


BOTH = {"hflip": True, "vflip": True}
INFO: dict[str, Info] = {
    # A mirrored digit is another sign; 8x8 pixels, shipped inside scikit-learn.
    "digits": Info("Digits", "sklearn", 10, 1, "CC BY 4.0 (UCI)"),
    # Tissue under a microscope has no up or left: both flips keep the label.
    "pathmnist": _med("PathMNIST", 9, 3, 0.907, **BOTH),
    "dermamnist": _med("DermaMNIST", 7, 3, 0.735, licence="CC BY-NC 4.0", **BOTH),
    "bloodmnist": _med("BloodMNIST", 8, 3, 0.958, **BOTH),
    "tissuemnist": _med("TissueMNIST", 8, 1, 0.676, **BOTH),
    # Anatomy with a fixed up, but no left or right in the label.
    "octmnist": _med("OCTMNIST", 4, 1, 0.743, hflip=True),
    "pneumoniamnist": _med("PneumoniaMNIST", 2, 1, 0.854, hflip=True),
    "retinamnist": _med("RetinaMNIST", 5, 3, 0.524, **BOTH),
    "breastmnist": _med("BreastMNIST", 2, 1, 0.863, hflip=True),
    # femur-left against femur-right, kidney-left against kidney-right: no mirror images.
    "organamnist": _med("OrganAMNIST", 11, 1, 0.935),
    "organcmnist": _med("OrganCMNIST", 11, 1, 0.900),
    "organsmnist": _med("OrganSMNIST", 11, 1, 0.782),
    "cifar10": Info("CIFAR-10", "torchvision", 10, 3, "not stated by its authors", hflip=True),
    "cifar100": Info("CIFAR-100", "torchvision", 100, 3, "not stated by its authors", hflip=True),
    "fashionmnist": Info("Fashion-MNIST", "torchvision", 10, 1, "MIT", hflip=True),
}
REFUSED = {
    "chestmnist": "is multi-label (several findings in one image); Knowledge Recycling needs one class per image"
}


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W] and labels int64 [N], as tensors."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    name: str
    info: Info
    class_names: tuple[str, ...]
    checksum: str  # SHA-256 of the arrays
    train: Split
    val: Split
    test: Split

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.train.images.shape[1:])


def require_name(name: str) -> Info:
    """The dataset's `Info`; InputError for an unknown or refused name."""
    if not isinstance(name, str):
        raise InputError(f"dataset is {str(name)[:60]!r}, which is no text; choose one of: {', '.join(INFO)}")
    if name in REFUSED:
        raise InputError(f"dataset {name!r} {REFUSED[name]}; choose one of: {', '.join(INFO)}")
    if name not in INFO:
        raise InputError(f"unknown dataset {name[:60]!r}; choose one of: {', '.join(INFO)}")
    return INFO[name]


def data_root(given: str = "") -> Path:
    """Where data files are looked for: `given`, else the variable KR_DATA, else ~/.cache/knowledge-recycling."""
    chosen, origin = given or os.environ.get("KR_DATA", ""), "--data-root" if given else "KR_DATA"
    folder = paths.absolute(chosen or "~/.cache/knowledge-recycling", origin)
    if chosen and not folder.is_dir():
        raise InputError(f"{origin} points to {chosen!r}, which is not a folder; create it or name another")
    return folder


def load(name: str, root: str = "") -> Dataset:
    """Read, validate and return a dataset.

    Parameters
    ----------
    name : a key of `INFO`
    root : folder of data files; see `data_root`. A missing file is downloaded into it by the package
        that publishes the dataset (medmnist, torchvision), which verifies its checksum.

    Raises
    ------
    InputError
        Unknown name; file absent and not downloadable; file damaged or of the wrong form.
    """
    import torch

    arrays = read_arrays(name, root)
    splits = {}
    for split in SPLITS:
        images = np.ascontiguousarray(arrays[f"{split}_images"].transpose(0, 3, 1, 2))
        splits[split] = Split(torch.from_numpy(images), torch.from_numpy(arrays[f"{split}_labels"].copy()))
    info = INFO[name]
    return Dataset(name, info, _class_names(name, info), checksum(arrays), **splits)


def check(name: str, root: str = "") -> str:
    """Validate a dataset's files without torch; return the checksum of its content."""
    return checksum(read_arrays(name, root))


def read_arrays(name: str, root: str = "") -> dict[str, np.ndarray]:
    """Validated arrays `<split>_images` uint8 [N, H, W, C] and `<split>_labels` int64 [N]."""
    info = require_name(name)
    if info.source == "sklearn":
        arrays, where = _read_digits(), "scikit-learn"
    elif info.source == "medmnist":
        path = _medmnist_file(name, data_root(root))
        arrays, where = read_npz(path), str(path)
    else:
        folder = data_root(root)
        arrays, where = _read_torchvision(name, folder), str(folder)
    return validate(arrays, info.classes, info.channels, where)


def _class_names(name: str, info: Info) -> tuple[str, ...]:
    if info.source == "medmnist":
        from medmnist import INFO as published

        return tuple(published[name]["label"][str(i)] for i in range(info.classes))
    if name == "fashionmnist":
        from torchvision.datasets import FashionMNIST

        return tuple(FashionMNIST.classes)
    if name == "cifar10":
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return tuple(str(i) for i in range(info.classes))


def _cut(labels: np.ndarray, sizes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Stratified index sets of the given sizes, the same for every run."""
    from sklearn.model_selection import train_test_split

    rest, parts = np.arange(len(labels)), []
    for size in sizes[:-1]:
        part, rest = train_test_split(rest, train_size=size, stratify=labels[rest], random_state=seed)
        parts.append(np.sort(part))
    return [*parts, np.sort(rest)]


def _read_digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    arrays = {}
    for split, index in zip(SPLITS, _cut(bunch.target, (1000, 200, 597)), strict=True):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[index], bunch.target[index]
    return arrays


def _medmnist_file(name: str, root: Path) -> Path:
    path = root / f"{name}.npz"
    try:
        if path.is_file():
            return path
        stands = path.exists() or path.is_symlink()
    except PermissionError as error:
        raise InputError(f"{root}: you may not look into this folder; get permission or name another") from error
    if stands:
        raise InputError(f"{path}: a folder, device or broken link, not a file; put MedMNIST's {name}.npz there")

    def download() -> None:
        import medmnist

        cls = getattr(medmnist, medmnist.INFO[name]["python_class"])
        cls(split="train", download=True, root=str(root), size=28)

    _fetch(download, root, f"{name}.npz from MedMNIST v2 (https://medmnist.com)")
    return path


def _read_torchvision(name: str, root: Path) -> dict[str, np.ndarray]:
    """CIFAR and Fashion-MNIST through torchvision, which verifies each file before reading it.

    CIFAR is published as Python pickles: torchvision opens them only after their MD5 has matched.
    """
    from torchvision import datasets

    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashionmnist": datasets.FashionMNIST}[name]

    def both(download: bool) -> list:
        return [cls(str(root), train=train, download=download) for train in (True, False)]

    try:
        train, test = both(download=False)
    except RuntimeError:  # torchvision's "not found or corrupted"
        folder = "FashionMNIST/raw/*-ubyte" if name == "fashionmnist" else cls.base_folder
        train, test = _fetch(lambda: both(download=True), root, folder)
    except Exception as error:  # torchvision's readers also fail with AssertionError, KeyError, struct.error
        raise InputError(f"{root}: {cls.__name__} files are damaged ({one_line(error)}); fetch them again") from error
    images, labels = np.asarray(train.data), np.asarray(train.targets)
    # No official validation split: a tenth of train, stratified, is cut off by a fixed seed.
    keep, held = _cut(labels, (len(labels) - len(labels) // 10, len(labels) // 10))
    parts = {"train": (images[keep], labels[keep]), "val": (images[held], labels[held])}
    parts["test"] = (np.asarray(test.data), np.asarray(test.targets))
    return {f"{split}_{part}": a for split, pair in parts.items() for part, a in zip(("images", "labels"), pair)}


def _fetch(download, root: Path, what: str):
    """Run a publisher's own download; offline, say which file to put where."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(None):
            return download()
    except Exception as error:  # any failure of the network, the mirror or the checksum ends the same way
        raise InputError(f"not found and not downloadable ({one_line(error)}); put {what} into {root}") from error
