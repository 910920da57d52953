"""The form of a dataset's file: read without pickle, checked to the last label, refused in one line."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import warnings
import zipfile
from itertools import combinations
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kr_utils import InputError

SPLITS = ("train", "val", "test")
KEYS = tuple(f"{split}_{part}" for split in SPLITS for part in ("images", "labels"))
GROUPS = tuple(f"{split}_groups" for split in SPLITS)  # whose patient each image is, where that is known
MAX_BYTES = 32 * 2**30  # of memory, above which an archive is refused unread
COPIES = 2  # of the images: as the file holds them, and in torch's layout
LONGEST_HEADER = 2**17  # bytes of an array's header; numpy itself refuses more than 10,000
PIECE = 2**20  # bytes that are unpacked at a time
SMALLEST, LARGEST = 4, 512  # side of an image in pixels
FEWEST = 20  # images of a split that are left without those of train; with fewer an attack says nothing


def checksum(arrays: dict[str, np.ndarray], described: str = "") -> str:
    """SHA-256 over names, shapes and bytes of the arrays: independent of how a file was compressed.

    described : what else a user's own set consists of (classes, mirror images), as text
    """
    digest = hashlib.sha256(described.encode())
    for key in sorted(arrays):
        digest.update(f"{key}{arrays[key].shape}{arrays[key].dtype}".encode())
        digest.update(np.ascontiguousarray(arrays[key]).data)
    return digest.hexdigest()


def validate(
    arrays: dict[str, np.ndarray], classes: int, channels: tuple[int, ...], where: str
) -> dict[str, np.ndarray]:
    """Check the six arrays of a dataset and bring them into one form.

    Parameters
    ----------
    arrays : `<split>_images` uint8 [N, H, W] or [N, H, W, C]; `<split>_labels` integer [N] or [N, 1]; perhaps
        `<split>_groups` integer [N] or [N, 1] of all three: images of one patient have the same number
    classes : how many the dataset declares
    channels : the numbers of channels that it may have
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
        if images.ndim != 4 or images.shape[-1] not in channels:
            shape, few = _shape(images), " or ".join(map(str, channels))
            raise InputError(f"{where}: {split}_images is {shape}; expected N x H x W with {few} channel(s)")

        # Labels: one whole number per image
        if labels.dtype.kind not in "iu":
            raise InputError(f"{where}: {split}_labels is {labels.dtype}; labels must be whole numbers")
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 1:
            shape = _shape(labels)
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
        sizes.add(images.shape[1:])
        out[f"{split}_images"], out[f"{split}_labels"] = images, labels.astype(np.int64)

    # The splits together
    if len(sizes) > 1:
        found = ", ".join("x".join(map(str, size)) for size in sorted(sizes))
        raise InputError(f"{where}: the splits differ in image size ({found}); all must be the same")
    for split in SPLITS:  # recall, AUC and the grid of images need every class in every split
        empty = np.flatnonzero(np.bincount(out[f"{split}_labels"], minlength=classes) == 0)
        if len(empty):
            kind = "training" if split == "train" else split
            raise InputError(f"{where}: class {empty[0]} has no {kind} image; every class 0..{classes - 1} needs one")
    grey = out["train_images"]
    if grey.min() == grey.max():
        raise InputError(f"{where}: every pixel of train_images is {grey.min()}; there is nothing to learn")
    return out | _groups(arrays, out, where)


def _shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape)) or "a single number"


def _groups(arrays: dict[str, np.ndarray], out: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The patients' numbers as int64 [N], or nothing where there are none."""
    if not any(key in arrays for key in GROUPS):
        return {}
    found = {}
    for split, key in zip(SPLITS, GROUPS):
        groups = arrays.get(key)
        if groups is not None and groups.ndim == 2 and groups.shape[1] == 1:
            groups = groups[:, 0]
        if groups is None or groups.dtype.kind not in "iu" or groups.shape != out[f"{split}_labels"].shape:
            raise InputError(f"{where}: {key} must be whole numbers, one per {split} image; store all three or none")
        found[key] = groups.astype(np.int64)
    return found


def digests_of(images: np.ndarray) -> list[bytes]:
    """16 bytes for the pixels of each image [N, ...]: two that differ share them in 1 of 10^38 cases."""
    rows = map(np.ascontiguousarray, images)  # one at a time: a copy of all takes memory
    return [hashlib.blake2b(row.data, digest_size=16).digest() for row in rows]


def shared_images(arrays: dict[str, np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """Images that stand in two splits with exactly the same pixels.

    Parameters
    ----------
    arrays : as `validate` returns them

    Returns
    -------
    (one split, a later split) -> int [K, 2], a row per image of the later split that is in the first one too: its
    index there (the first, if there are several) and its index in the later split
    """
    places: dict[str, dict[bytes, int]] = {}
    digests = {}
    for split in SPLITS:
        digests[split] = digests_of(arrays[f"{split}_images"])
        places[split] = {digest: i for i, digest in reversed([*enumerate(digests[split])])}
    found = {}
    for first, later in combinations(SPLITS, 2):
        pairs = [(places[first][digest], i) for i, digest in enumerate(digests[later]) if digest in places[first]]
        found[first, later] = np.array(pairs, dtype=int).reshape(-1, 2)
    return found


def require_new_images(shared: dict[tuple[str, str], np.ndarray], sizes: dict[str, int], where: str) -> None:
    """InputError if so many images of a split are in train too that hardly one is left that no model has seen."""
    for split in ("val", "test"):
        copies = len(shared["train", split])
        if copies and sizes[split] - copies < FEWEST:
            raise InputError(
                f"{where}: {copies} of {sizes[split]} {split} images are in train too, pixel by pixel; "
                f"at least {FEWEST} must be new; split the images again, each into one split only"
            )


def tell_shared(shared: dict[tuple[str, str], np.ndarray], most: int = 3) -> str:
    """How many images stand in two splits, and the first few, in one line; "" if there is none."""
    words = []
    for (first, later), pairs in shared.items():
        if len(pairs):
            examples = ", ".join(f"{first} {i} = {later} {j}" for i, j in pairs[:most])
            more = ", ..." if len(pairs) > most else ""
            words.append(f"{len(pairs)} of {later} in {first} too ({examples}{more})")
    return f"the same pixels in two splits: {'; '.join(words)}; those in train do not count as non-members" * bool(
        words
    )


def tell_patients(arrays: dict[str, np.ndarray]) -> str:
    """How many patients have images in two splits, in one line; "" if there is none, or patients are not known."""
    words = []
    for first, later in combinations(SPLITS, 2):
        whose = [arrays.get(f"{split}_groups", ()) for split in (first, later)]
        if count := len(np.intersect1d(*whose)):
            words.append(f"{count} of {later} in {first} too")
    told = f"the same patients in two splits: {'; '.join(words)}; their images still count as new ones: accuracy "
    return f"{told}and attacks look other than they are; cut the splits by patient" * bool(words)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, never unpickling; InputError if it is damaged or holds objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            # A member "a.npy" is the array "a"; a second one of that name would be read by some and not by others.
            members = [item for item in archive.infolist() if item.filename.removesuffix(".npy") in KEYS + GROUPS]
            names = [item.filename.removesuffix(".npy") for item in members]
            if twice := [name for name in names if names.count(name) > 1]:
                raise InputError(f"{path}: holds {twice[0]} twice; write the file again, each array once")

            # Their sizes are declared, and nothing has been read yet.
            size, limit = sum(item.file_size for item in members), memory_limit() // COPIES
            if size > limit:
                most = f"more than the {limit / 2**30:.1f} GiB that can be read here"
                raise InputError(f"{path}: declares {size / 2**30:.1f} GiB unpacked, {most}; use a smaller file")

            return {name: _array(_unpack(archive, item, path), f"{path}: {name}") for name, item in zip(names, members)}
    except (InputError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{path}: you may not read this file; get permission or name another folder") from error
    except Exception as error:  # zip, zlib, numpy's and even Python's parser fail in many ways on damaged bytes
        raise InputError(f"{path}: damaged or not an npz file ({one_line(error)}); fetch it again") from error


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of an npz file, from their headers; InputError if one is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {}
            for key in KEYS:
                with archive.open(f"{key}.npy") as file:
                    shapes[key] = _header(io.BytesIO(file.read(LONGEST_HEADER)))[0]
            return shapes
    except Exception as error:  # as many kinds as in `read_npz`
        raise InputError(f"{path}: damaged or not an npz file ({one_line(error)}); fetch it again") from error


def _unpack(archive: zipfile.ZipFile, item: zipfile.ZipInfo, path: Path) -> bytearray:
    """All bytes of a member; whatever is packed in it, never more than it declares."""
    if item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
        raise InputError(f"{path}: {item.filename} is packed in another way than numpy does; write it with numpy.savez")
    raw = bytearray()  # it grows: nothing is taken for what is only declared
    with archive.open(item) as file:
        while piece := file.read(min(PIECE, item.file_size - len(raw))):
            raw += piece
        # Only at the end of all bytes does zipfile compare the checksum.
        if len(raw) < item.file_size or file.read(1):
            raise InputError(f"{path}: {item.filename} is not as long as the file says; fetch it again")
    return raw


def _array(raw: bytearray, where: str) -> np.ndarray:
    """The array that a member holds, read-only; all of its bytes belong to it."""
    file = io.BytesIO(raw[:LONGEST_HEADER])
    if raw[:6] != np.lib.format.MAGIC_PREFIX:
        raise InputError(f"{where} is no array but raw bytes; write the file with numpy.savez")
    shape, fortran, dtype = _header(file)
    if dtype.hasobject:
        raise InputError(f"{where} is not readable without pickle; store plain numeric arrays")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(raw) - file.tell():
        raise InputError(f"{where} is not as long as its header says; write the file again with numpy.savez")
    return np.frombuffer(memoryview(raw).toreadonly(), dtype, offset=file.tell()).reshape(
        shape, order="F" if fortran else "C"
    )


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and kind of the array that a file begins with."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy only warns of a header that it has to guess at
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        return readers[np.lib.format.read_magic(file)](file)


def memory_limit(
    cgroups: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup"), most: int = MAX_BYTES
) -> int:
    """Bytes of memory that this process may use: the least of machine, container and the user's own limits.

    A reader that unpacks more would be killed without a word.

    Parameters
    ----------
    cgroups : where control groups are mounted (version 2, or version 1 with a folder for each controller)
    process : the groups of this process, lines of number:controllers:path
    most : bytes, whatever the machine has
    """
    limits = [most]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not POSIX
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))

    # The user's limits (ulimit -v, ulimit -d).
    with contextlib.suppress(ImportError):  # Windows
        import resource

        soft = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        limits += [value for value in soft if value != resource.RLIM_INFINITY]

    # The container's: each group from this process's own up to the root may have one.
    groups = ["0::/", "0:memory:/"]  # within a container the own group is the root that is seen
    with contextlib.suppress(OSError):
        groups += process.read_text().splitlines()
    for line in groups:
        _, controllers, name = [*line.split(":", 2), "?", "?"][:3]
        if controllers not in ("", "memory"):
            continue
        place = cgroups / controllers
        for folder in [place / name.strip("/"), *(place / name.strip("/")).parents]:
            with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
                file = "memory.limit_in_bytes" if controllers else "memory.max"
                limits.append(int((folder / file).read_text()))
            if folder == place:
                break
    return min(limits)


def one_line(error: Exception) -> str:
    """The error's first line, short; its kind where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
