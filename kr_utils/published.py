"""Published files: which ones a dataset needs, their MD5 sums, and fetching them from their publisher."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import os
import sys
import tempfile
from pathlib import Path

from kr_utils import InputError
from kr_utils.dataset_file import one_line

# Of the unpacked files, which torchvision does not check: it knows the sums of the packed ones only.
FASHION = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
SIZES = (64, 128, 224)  # pixels a side that MedMNIST publishes its sets at too, as breastmnist_64 and so on
PUBLISHERS = {"medmnist": "MedMNIST v2 (https://medmnist.com)", "torchvision": "torchvision.datasets"}


@functools.cache
def medmnist_info() -> dict[str, dict]:
    """medmnist's table INFO, read from its source: importing the package brings torch and makes a folder at home."""
    found = [path for place in sys.path if (path := Path(place, "medmnist/info.py")).is_file()]
    for node in ast.parse(found[0].read_text(encoding="utf-8")).body if found else []:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "INFO":
            return ast.literal_eval(node.value)
    raise InputError("medmnist is not installed with its table INFO; install what requirements.txt names")


def at_size(name: str) -> tuple[str, int]:
    """("breastmnist", 64) of "breastmnist_64"; a name without one of `SIZES` at its end is at 28 pixels."""
    base, _, size = name.rpartition("_")
    return (base, int(size)) if base and size in map(str, SIZES) else (name, 28)


def torchvision_class(name: str):
    """torchvision's reader of a dataset."""
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashionmnist": datasets.FashionMNIST}[name]


def files(name: str) -> dict[str, set[str]]:
    """The files of a published dataset: path below the data folder -> MD5 sums of its published forms."""
    if name == "fashionmnist":
        return {f"FashionMNIST/raw/{file}": {md5} for file, md5 in FASHION.items()}
    if name in ("cifar10", "cifar100"):
        cls = torchvision_class(name)
        parts = [*cls.train_list, *cls.test_list, (cls.meta["filename"], cls.meta["md5"])]
        return {f"{cls.base_folder}/{file}": {md5} for file, md5 in parts}
    base, size = at_size(name)
    return {f"{name}.npz": {medmnist_info()[base]["MD5" if size == 28 else f"MD5_{size}"]}}


def source(name: str) -> str:
    """What to fetch and from whom, for a person."""
    if name in ("fashionmnist", "cifar10", "cifar100"):
        folder = "FashionMNIST/raw/*-ubyte" if name == "fashionmnist" else torchvision_class(name).base_folder
        return f"{folder} from {PUBLISHERS['torchvision']}"
    return f"{name}.npz from {PUBLISHERS['medmnist']}"


def absent(name: str, folder: Path) -> list[str]:
    """Those of a dataset's `files` that are not in the data folder.

    Raises
    ------
    InputError
        The folder may not be looked into, or something else stands where a file should be.
    """
    missing = []
    for file in files(name):
        path = folder / file
        try:
            if path.is_file():
                continue
            stands = path.exists() or path.is_symlink()
        except PermissionError as error:
            raise InputError(f"{folder}: you may not look into this folder; get permission or name another") from error
        if stands:
            what = "a folder, device or broken link, not a file"
            raise InputError(f"{path}: {what}; put the published {path.name} there")
        missing.append(file)
    return missing


def verify(name: str, folder: Path, otherwise: str = "") -> None:
    """Compare a dataset's files with the published MD5 sums; InputError for one that differs.

    otherwise : what else may be done about an npz file than to fetch it again, in words
    """
    for file, sums in files(name).items():
        path = folder / file
        try:
            found = _md5(path)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"{path}: cannot be read ({reason}); get permission or name another folder") from error
        if found not in sums:
            if other := _other_size(name, found):
                raise InputError(f"{path}: the published file of another size; rename it to {other}.npz")
            way = "delete it to fetch it again" + (f", or {otherwise}" if file.endswith(".npz") and otherwise else "")
            raise InputError(f"{path}: damaged or not the published file (MD5 {found}); {way}")


def _other_size(name: str, md5: str) -> str:
    """The name under which MedMNIST publishes a file, if it is the same set at another size; else ""."""
    base, _ = at_size(name)
    sums = {value: key for key, value in medmnist_info().get(base, {}).items() if key.startswith("MD5")}
    return base + sums[md5].removeprefix("MD5") if md5 in sums else ""


def fetch(name: str, folder: Path) -> None:
    """Fetch the files that are absent: download aside, compare with the published MD5 sums, move into place.

    Half a file or a log-in page never stands under a published name, and goes with the temporary folder.

    Raises
    ------
    InputError
        No network, no such folder, no room, or what came is not the published file.
    """
    missing = absent(name, folder)
    if not missing:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as aside, contextlib.redirect_stdout(None):
            _download(name, aside)
            for file in missing:
                if _md5(Path(aside, file)) not in files(name)[file]:
                    raise InputError(f"what came as {file} is not the published file")
            for file in missing:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(aside, file), folder / file)
    except Exception as error:  # any failure of the network, the mirror or the checksum ends the same way
        if isinstance(error.__context__, KeyboardInterrupt):  # medmnist catches even that
            raise KeyboardInterrupt from error
        reason = f"not found and not downloadable ({one_line(error)})"
        raise InputError(f"{reason}; put {source(name)} into {folder}") from error


def _download(name: str, folder: str) -> None:
    """The publisher's own download."""
    if name in ("fashionmnist", "cifar10", "cifar100"):
        torchvision_class(name)(folder, download=True)
        return
    import medmnist

    base, size = at_size(name)
    getattr(medmnist, medmnist.INFO[base]["python_class"])(split="train", download=True, root=folder, size=size)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
