"""The form of a dataset's file: read without pickle, checked to the last label, refused in one line."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np

from kr_utils import InputError

SPLITS = ("train", "val", "test")
KEYS = tuple(f"{split}_{part}" for split in SPLITS for part in ("images", "labels"))
MAX_BYTES = 16 * 2**30  # declared size above which an archive is refused unread
SMALLEST, LARGEST = 4, 512  # side of an image in pixels


def checksum(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over names, shapes and bytes of the arrays: independent of how a file was compressed."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key}{arrays[key].shape}{arrays[key].dtype}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).data)
    return digest.hexdigest()


def validate(arrays: dict[str, np.ndarray], classes: int, channels: int, where: str) -> dict[str, np.ndarray]:
    """Check the six arrays of a dataset and bring them into one form.

    Parameters
    ----------
    arrays : `<split>_images` uint8 [N, H, W] or [N, H, W, C]; `<split>_labels` integer [N] or [N, 1]
    classes, channels : what the dataset declares
    where : the file, named in every error

    Raises
    ------
    InputError
        Missing array, wrong dtype or shape, label out of range, unequal counts, a class without an
        image, too few images, all pixels alike, images too small or of differing sizes.
    """
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise InputError(f"{where}: no array {missing[0]!r}; a MedMNIST file holds {', '.join(KEYS)}")

    out, sizes = {}, set()
    for split in SPLITS:
        # Images: kind, axes, channels
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8:
            raise InputError(f"{where}: {split}_images is {images.dtype}, not uint8; store pixels as 0..255")
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[-1] != channels:
            shape = "x".join(map(str, images.shape))
            raise InputError(f"{where}: {split}_images is {shape}; expected N x H x W with {channels} channel(s)")

        # Labels: one whole number per image
        if labels.dtype.kind not in "iu":
            raise InputError(f"{where}: {split}_labels is {labels.dtype}; labels must be whole numbers")
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1:
            shape = "x".join(map(str, labels.shape))
            raise InputError(f"{where}: {split}_labels is {shape}; expected one label per image (N or N x 1)")
        if len(images) != len(labels):
            raise InputError(f"{where}: {split} has {len(images)} images but {len(labels)} labels; they must match")

        # Enough images, of usable sizes, with known classes
        if len(images) < 2:
            raise InputError(f"{where}: {split} has {len(images)} image(s); at least 2 are needed")
        if not SMALLEST <= min(images.shape[1:3]) <= max(images.shape[1:3]) <= LARGEST:
            size, range_ = f"{images.shape[1]}x{images.shape[2]}", f"{SMALLEST} to {LARGEST}"
            raise InputError(f"{where}: {split} images are {size}; each side must have {range_} pixels")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            bad = low if low < 0 else high
            raise InputError(f"{where}: {split}_labels holds {bad}; labels must be 0..{classes - 1}")

        sizes.add(images.shape[1:3])
        out[f"{split}_images"], out[f"{split}_labels"] = images, labels.astype(np.int64)

    # The splits together
    if len(sizes) > 1:
        raise InputError(f"{where}: the splits differ in image size ({sorted(sizes)}); all must be the same")
    for split in SPLITS:  # recall, AUC and the grid of images need every class in every split
        empty = np.flatnonzero(np.bincount(out[f"{split}_labels"], minlength=classes) == 0)
        if len(empty):
            kind = "training" if split == "train" else split
            raise InputError(f"{where}: class {empty[0]} has no {kind} image; every class 0..{classes - 1} needs one")
    grey = out["train_images"]
    if grey.min() == grey.max():
        raise InputError(f"{where}: every pixel of train_images is {grey.min()}; there is nothing to learn")
    return out


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, never unpickling; InputError if it is damaged or holds objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > (limit := min(MAX_BYTES, _memory())):
            most = f"more than the {limit / 2**30:.1f} GiB that can be read here"
            raise InputError(f"{path}: declares {size / 2**30:.1f} GiB unpacked, {most}; use a smaller file")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in KEYS if key in archive.files}  # nothing else is even opened
        if raw := [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]:
            raise InputError(f"{path}: {raw[0]} is no array but raw bytes; write the file with numpy.savez")
        return arrays
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path}: you may not read this file; get permission or name another folder") from error
    except Exception as error:  # zip, zlib, numpy's and even Python's parser fail in many ways on damaged bytes
        if isinstance(error, ValueError) and "pickle" in str(error):  # numpy's word for an object array
            raise InputError(f"{path}: not readable without pickle; store plain numeric arrays") from error
        raise InputError(f"{path}: damaged or not an npz file ({one_line(error)}); fetch it again") from error


def _memory() -> int:
    """Bytes of memory in this machine; a reader that unpacks more would be killed without a word."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not POSIX
        return MAX_BYTES


def one_line(error: Exception) -> str:
    """The error's first line, short; its kind where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
