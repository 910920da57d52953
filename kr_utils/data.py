"""Datasets: from a name to validated uint8 images and int64 labels in three splits.

`check` needs only numpy, so the driver can refuse a bad file before anything heavy is imported; `load` wraps the same
arrays as torch tensors. A name is that of a published dataset (`INFO`), or of a user's own: `<name>.npz` in the data
folder with `<name>.json` beside it (`describe`).
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kr_utils import InputError, paths, published, shown, stages
from kr_utils.dataset_file import (
    GROUPS,
    SPLITS,
    checksum,
    one_line,
    read_npz,
    read_shapes,
    require_new_images,
    shared_images,
    tell_patients,
    tell_shared,
    validate,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Info:
    """What must be known of a dataset before its file is opened."""

    title: str
    source: str  # "sklearn", "medmnist", "torchvision" or "own"
    classes: int
    channels: int
    licence: str
    hflip: bool = False  # does a left-right mirror image keep its label?
    vflip: bool = False
    resnet18: float | None = None  # MedMNIST v2's published test accuracy at 28 px
    class_names: tuple[str, ...] = ()  # of a user's own set; others' come from their publishers
    content: str = ""  # SHA-256 of the arrays of a set that was imported, as its description has it


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
DIGITS = (300, 200, 1297)  # few to train on: something to lose and to leak; many to test on: it can be seen
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
    shared: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # see `dataset_file.shared_images`
    groups: dict[str, np.ndarray] = field(default_factory=dict)  # split -> int64 [N], a number per patient; or empty

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return tuple(self.train.images.shape[1:])

    def new(self, split: str) -> np.ndarray:
        """Which images of "val" or "test" are in no training image, pixel by pixel: bool [N].

        Only these are non-members: a copy of a training image was in training, whatever split it is in.
        """
        new = np.ones(len(getattr(self, split)), dtype=bool)
        if ("train", split) in self.shared:
            new[self.shared["train", split][:, 1]] = False
        return new


OWN_NAME = re.compile("[a-z0-9_]{1,40}")
MIRROR = {"none": {}, "left-right": {"hflip": True}, "both": BOTH}
OWN_KEYS = ("title", "class_names", "mirror", "licence")
IMPORTED = "import"  # a fifth key, which own_images.py writes: how the set came about


def published_info(name: str) -> Info | None:
    """The `Info` of a published dataset, MedMNIST's also at 64, 128 and 224 pixels ("breastmnist_64"); else None."""
    base, size = published.at_size(name)
    if name in INFO or base not in INFO or INFO[base].source != "medmnist":
        return INFO.get(name)
    return replace(INFO[base], title=f"{INFO[base].title} ({size} px)", resnet18=None)


def require_name(name: str, root: str | Path = "") -> Info:
    """The `Info` of a published dataset, or of a user's own in the data folder `root`; InputError for another name."""
    choose = f"choose one of: {', '.join(INFO)}; or one of your own in the data folder"
    if not isinstance(name, str):
        raise InputError(f"dataset is {shown(name)}, which is no text; {choose}")
    if published.at_size(name)[0] in REFUSED:
        raise InputError(f"dataset {name!r} {REFUSED[published.at_size(name)[0]]}; {choose}")
    if info := published_info(name):
        return info
    if may_be_own(name):
        images = data_root(root) / f"{name}.npz"
        described = images.with_suffix(".json")
        if _stands(described):
            return describe(described)
        if _stands(images):
            keys = ", ".join(OWN_KEYS)
            raise InputError(f"{images}: no {name}.json beside it; describe the set there ({keys}; docs/running.md)")
        choose += f" {str(images.parent)!r}; name another with --data-root or KR_DATA"
    raise InputError(f"unknown dataset {name[:60]!r}; {choose} (docs/own-images.md)")


def own_sets(root: str | Path = "") -> dict[str, Info | InputError]:
    """Every set of the user's own in the data folder: its `Info`, or why it cannot be read.

    InputError where the folder may not be looked into.
    """
    found: dict[str, Info | InputError] = {}
    for path in paths.listed(data_root(root)):
        if path.suffix == ".json" and may_be_own(path.stem):
            try:
                found[path.stem] = describe(path)
            except InputError as error:
                found[path.stem] = error
    return found


def describe(path: Path) -> Info:
    """What the JSON file beside a user's own images says of them.

    An object of four keys: `title` (for tables and figures), `class_names` (a list; label i has the i-th name),
    `mirror` (which mirror images keep their label: "none", "left-right" or "both") and `licence`. An imported set has
    a fifth, `import` (own_images.py), of which only the checksum is read: that of the arrays.
    The number of channels comes from the images; here it is 0.

    Raises
    ------
    InputError
        No such file, no valid JSON, a key that is missing, unknown or given twice, a value of the wrong kind.
    """

    def once(pairs: list) -> dict:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key is given twice")
        return dict(pairs)

    # Read it, whatever it is.
    if not path.is_file():
        raise InputError(f"{path}: a folder, device or broken link, not a file; put a description of the set there")
    try:
        with path.open("rb") as file:
            raw = file.read(2**20 + 1)
        if len(raw) > 2**20:
            raise ValueError("more than a megabyte")
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=once)
    except PermissionError as error:
        raise InputError(f"{path}: you may not read this file; get permission or name another folder") from error
    except (OSError, ValueError, RecursionError) as error:
        wanted = f"write an object with the keys {', '.join(OWN_KEYS)}"
        raise InputError(f"{path}: not readable as JSON ({one_line(error)}); {wanted}") from error

    return described(value, path)


def described(value: object, path: Path) -> Info:
    """The `Info` that a description gives (see `describe`); InputError, naming `path`, for one of another form."""
    if not isinstance(value, dict) or set(value) - {IMPORTED} != set(OWN_KEYS):
        raise InputError(f"{path}: must be an object with the keys {', '.join(OWN_KEYS)}, no more and no less")
    names = value["class_names"]
    if not isinstance(names, list) or not 2 <= len(names) <= 1000 or len({str(name) for name in names}) < len(names):
        raise InputError(f"{path}: class_names must be a list of 2 to 1000 names, each once")
    for key, text in [("title", value["title"]), ("licence", value["licence"]), *(("class_names", n) for n in names)]:
        require_text(text, f"{path}: {key}")
    if not isinstance(value["mirror"], str) or value["mirror"] not in MIRROR:
        raise InputError(f"{path}: mirror is {shown(value['mirror'])}; use one of: {', '.join(MIRROR)}")

    # Of an import only what the images are compared with
    imported = value.get(IMPORTED, {"checksum": ""})
    content = imported.get("checksum") if isinstance(imported, dict) else None
    if not isinstance(content, str) or (IMPORTED in value and not re.fullmatch("[0-9a-f]{64}", content)):
        raise InputError(f"{path}: import must be an object with the checksum that run_all.py --import wrote")

    more = {"class_names": tuple(names), "content": content, **MIRROR[value["mirror"]]}
    return Info(value["title"], "own", len(names), 0, value["licence"], **more)


def require_text(text: object, where: str) -> None:
    """InputError, naming `where`, for what cannot be a title, a licence or the name of a class."""
    if not isinstance(text, str) or not len(text.strip()) <= 100 or not _printable(text):
        wanted = "give a text of 1 to 100 characters on one line, none of them invisible"
        raise InputError(f"{where} has {shown(text)}; {wanted}")


def may_be_own(name: str) -> bool:
    """Whether a dataset of one's own may have this name; runs/<profile>/ holds the comparison's folder, too."""
    taken = {notebook for notebook, _ in stages.STAGES.values()} | set(INFO) | set(REFUSED)
    return bool(OWN_NAME.fullmatch(name)) and not {name, published.at_size(name)[0]} & taken


def _stands(path: Path) -> bool:
    """Whether anything is there, a broken link too."""
    try:
        return path.exists() or path.is_symlink()
    except OSError as error:
        raise InputError(f"{path.parent}: you may not look into this folder; get permission or name another") from error


BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # fillers, which Unicode counts among letters and symbols


def _printable(text: str) -> bool:
    """Whether a text fits on a line, has nothing invisible in it (Cf: it may turn the direction), and can be seen."""
    kinds = [unicodedata.category(sign) for sign in text]
    seen = any(kind[0] in "LNPS" and sign not in BLANK for kind, sign in zip(kinds, text))
    return seen and not {"Cc", "Cf", "Cs", "Zl", "Zp"} & set(kinds)


def data_root(given: str | Path = "", new: bool = False) -> Path:
    """Where data files are looked for: `given`, else the variable KR_DATA, else ~/.cache/knowledge-recycling.

    new : whether a folder that is still to be made will do, in one that is there
    """
    try:
        usual = Path.home() / ".cache/knowledge-recycling"
    except RuntimeError:  # nobody knows of a home folder, and the digits need none
        usual = stages.ROOT / "data"
    folder, origin = paths.chosen(given, "--data-root", "KR_DATA", usual)
    if origin and not folder.is_dir() and not (new and not folder.exists() and folder.parent.is_dir()):
        raise InputError(f"{origin} points to {str(folder)!r}, which is not a folder; create it or name another")
    return folder


def load(name: str, root: str | Path = "") -> Dataset:
    """Read, validate and return a dataset.

    Parameters
    ----------
    name : a key of `INFO`, or the name of a user's own set
    root : folder of data files; see `data_root`. A published file that is missing is downloaded into it by the
        package that publishes the dataset (medmnist, torchvision), once its checksum has been verified.

    Raises
    ------
    InputError
        Unknown name; file absent and not downloadable; file damaged or of the wrong form; hardly an image of a
        split that is not in train too.
    """
    import torch

    with _in_memory(name, root):
        info, arrays, shared = _read(name, root)
        digest, splits = _checksum(info, arrays), {}
        for split in SPLITS:
            images = np.array(arrays[f"{split}_images"].transpose(0, 3, 1, 2), order="C")  # a copy, to be written to
            splits[split] = Split(torch.from_numpy(images), torch.from_numpy(arrays[f"{split}_labels"].copy()))
    groups = {split: arrays[key] for split, key in zip(SPLITS, GROUPS) if key in arrays}
    return Dataset(name, info, _class_names(name, info), digest, **splits, shared=shared, groups=groups)


def check(name: str, root: str | Path = "", tell: Callable[[str], None] | None = None) -> str:
    """Validate a dataset's files without torch; return the checksum of its content.

    tell : is given a line if there are images that stand in two splits, and one if there are patients
    """
    with _in_memory(name, root):
        info, arrays, shared = _read(name, root)
        for words in filter(None, (tell_shared(shared), tell_patients(arrays)) if tell else ()):
            tell(f"{name}: {words}")
        return _checksum(info, arrays)


def sizes(name: str, root: str | Path = "") -> dict[str, int]:
    """train, val and test (images of each), classes, channels, height and width of a dataset that passed `check`.

    Of an npz file only the headers of its arrays are read.
    """
    info = require_name(name, root)
    if info.source in ("sklearn", "torchvision"):
        with _in_memory(name, root):
            info, arrays, _ = _read(name, root)
        shapes = {key: array.shape for key, array in arrays.items()}
    else:
        shapes = read_shapes(data_root(root) / f"{name}.npz")
    counts = {split: shapes[f"{split}_images"][0] for split in SPLITS}
    height, width, channels = (*shapes["train_images"][1:], 1)[:3]
    return {**counts, "classes": info.classes, "channels": channels, "height": height, "width": width}


def to_fetch(name: str, root: str | Path = "") -> list[str]:
    """What `load` would download first, a line per missing file: name, publisher, where it would go."""
    if require_name(name, root).source in ("sklearn", "own"):
        return []
    folder, source = data_root(root), require_name(name, root).source
    return [f"{file} from {published.PUBLISHERS[source]} into {folder}" for file in published.absent(name, folder)]


@contextlib.contextmanager
def _in_memory(name: str, root: str | Path) -> Iterator[None]:
    """While a dataset is read: what does not fit is told in a line that names the file."""
    try:
        yield
    except MemoryError as error:
        where = _where(name, require_name(name, root).source, root)
        raise InputError(f"{where}: too large for the memory that is left here; use a smaller file") from error


def _where(name: str, source: str, root: str | Path) -> str:
    """The file or folder that a dataset is read from, for an error's line."""
    if source == "sklearn":
        return "scikit-learn"
    return str(data_root(root) if source == "torchvision" else data_root(root) / f"{name}.npz")


def _checksum(info: Info, arrays: dict[str, np.ndarray]) -> str:
    """Of the arrays; of a user's own set also of its description, which decides on mirror images and on names.

    Patients' numbers are arrays too: what attacks by patient say depends on them. How a set was imported is told in its
    description and left out here: no number depends on it but through pixels, labels and patients.
    """
    described = [info.title, info.class_names, info.hflip, info.vflip, info.licence]
    return checksum(arrays, json.dumps(described) if info.source == "own" else "")


def _read(name: str, root: str | Path) -> tuple[Info, dict[str, np.ndarray], dict[tuple[str, str], np.ndarray]]:
    """Info; validated arrays `<split>_images` uint8 [N, H, W, C] and `<split>_labels` int64 [N]; shared images."""
    info = require_name(name, root)
    folder = None if info.source == "sklearn" else data_root(root)
    if info.source in ("medmnist", "torchvision"):
        published.fetch(name, folder)
        published.verify(name, folder, _as_own(name, info, folder) if info.source == "medmnist" else "")

    # Each source has its own form.
    if info.source == "sklearn":
        arrays = _read_digits()
    elif info.source == "torchvision":
        arrays = _read_torchvision(name, folder)
    else:
        path = folder / f"{name}.npz"
        if info.source == "own" and not path.is_file():
            raise InputError(f"{path}: not a file; put the images that {name}.json describes there")
        arrays = read_npz(path)

    # From here on all are alike.
    where = _where(name, info.source, root)
    if info.content and checksum(arrays) != info.content:
        again = "import it again with --replace, or describe it by hand without the key import"
        raise InputError(f"{where}: not the images that {name}.json was written with; {again}")
    arrays = validate(arrays, info.classes, (info.channels,) if info.channels else (1, 3), where)
    info = replace(info, channels=arrays["train_images"].shape[-1])
    shared = shared_images(arrays)
    require_new_images(shared, {split: len(arrays[f"{split}_labels"]) for split in SPLITS}, where)
    return info, arrays, shared


def _as_own(name: str, info: Info, folder: Path) -> str:
    """How a file that is not the published one is used, in words: the command that imports it under another name."""
    mirror = "both" if info.vflip else "left-right" if info.hflip else "none"
    command = ["run_all.py", "--import", str(folder / f"{name}.npz"), "--name", f"{name}_own"[-40:].lstrip("_")]
    command += ["--title", f"{info.title}, own file", "--mirror", mirror, "--licence", info.licence]
    command += ["--class-names", *_class_names(name, info)]
    return f"import it under another name: {shlex.join(command)}"


def _class_names(name: str, info: Info) -> tuple[str, ...]:
    if info.source == "own":
        return info.class_names
    if info.source == "medmnist":
        labels = published.medmnist_info()[published.at_size(name)[0]]["label"]
        return tuple(labels[str(i)] for i in range(info.classes))
    if name == "fashionmnist":
        return tuple(published.torchvision_class(name).classes)
    if name == "cifar10":
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return tuple(str(i) for i in range(info.classes))


def class_words(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of classes as figures and tables show them: RetinaMNIST's are called 0 to 4, and are grades."""
    return tuple(f"grade {k}" if name.startswith("retinamnist") and k.isdigit() else k for k in classes)


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
    for split, index in zip(SPLITS, _cut(bunch.target, DIGITS), strict=True):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[index], bunch.target[index]
    return arrays


def _read_torchvision(name: str, folder: Path) -> dict[str, np.ndarray]:
    """CIFAR and Fashion-MNIST, whose files have been compared with their published MD5 sums.

    CIFAR is published as Python pickles: torchvision opens them, and compares the sums once more before it does.
    """
    if name == "fashionmnist":
        # The IDX format: a header of 16 bytes before the images, of 8 before the labels.
        raw = folder / "FashionMNIST/raw"
        train, test = (
            (
                np.fromfile(raw / f"{part}-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 28, 28),
                np.fromfile(raw / f"{part}-labels-idx1-ubyte", np.uint8, offset=8).astype(np.int64),
            )
            for part in ("train", "t10k")
        )
    else:
        cls = published.torchvision_class(name)
        both = [cls(str(folder), train=part, download=False) for part in (True, False)]
        train, test = ((np.asarray(part.data), np.asarray(part.targets)) for part in both)

    # No official validation split: a tenth of train, stratified, is cut off by a fixed seed.
    images, labels = train
    keep, held = _cut(labels, (len(labels) - len(labels) // 10, len(labels) // 10))
    parts = {"train": (images[keep], labels[keep]), "val": (images[held], labels[held]), "test": test}
    return {f"{split}_{part}": a for split, pair in parts.items() for part, a in zip(("images", "labels"), pair)}
