"""One image file, of whatever kind, as a square of pixels. What is odd about it has a rule, in `RULES`, and is told.

Pillow reads PNG, JPEG, TIFF and BMP; pydicom, where it is installed, DICOM.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kr_utils import InputError, plain
from kr_utils.dataset_file import PIECE, SMALLEST, one_line

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
FORMATS |= {".bmp": "BMP", ".dib": "BMP", ".dcm": "DICOM", ".dicom": "DICOM"}
MOST_PIXELS = 2**26  # of one image: 8192 x 8192; Pillow itself warns from 89 million on
MOST_BYTES = 2**30  # of one file
PNG, PNG_CHANNELS = b"\x89PNG\r\n\x1a\n", {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # how it begins; colour type -> channels
FITS = ("pad", "crop", "stretch")

# What is left out, and what is changed. A kind is told once, with its number and first examples.
LEFT_OUT = {
    "broken": "cannot be decoded",
    "codec": "packed in a way that pydicom needs another package for (its own documentation names it)",
    "range": "with signed, 32-bit or floating-point pixels, whose black and white nobody knows: save them with 8 or 16 "
    "bits, without sign",
    "channels": "with several channels of 16 bits (colour or transparency), of which only 8 could be read: save them "
    "with 8 bits, or as grey without transparency",
    "tiny": f"with a side of less than {SMALLEST} pixels",
    "blank": "with every pixel alike",
}
CHANGED = {
    "renamed": "of another format than the name says: read as what they are",
    "pages": "with several pictures in them (animated, pages, frames): the first one is taken",
    "turned": "turned as their EXIF orientation says",
    "bits": "of one bit per pixel: black is 0, white is 255",
    "palette": "with a palette: its colours are looked up",
    "alpha": "transparent: laid on black",
    "space": "in CMYK, YCbCr or LAB: converted to RGB",
    "deep": "of 16 bits: as many bits as the largest value of all of them has become 8",
    "negative": "of which 0 is white (TIFF's WhiteIsZero, DICOM's MONOCHROME1): inverted, so that white is highest",
    "window": "DICOM with a window: its first one is taken, after slope and intercept",
    "stretched": "DICOM without a window: from the smallest to the largest value of each, after slope and intercept",
    "oblong": "not square",
    "enlarged": "smaller than what is written: enlarged",
}
RULES = LEFT_OUT | CHANGED


@dataclass(frozen=True)
class Picture:
    """An image that was read, or only why it is left out.

    pixels : uint8 [S, S] or [S, S, 3], or uint16 [S, S] where it has more than 8 bits, and is then still to be
        inverted if it is "negative"; None where it is left out
    odd : keys of `RULES`
    patient : DICOM's own PatientID, or ""
    highest : the largest value of the file's own pixels, before their number was changed; only where they are uint16
    """

    pixels: np.ndarray | None
    odd: tuple[str, ...] = ()
    patient: str = ""
    why: str = ""  # what the reader said of a broken one
    highest: int = 0


class _LeftOutError(Exception):
    """Ends the reading of an image; its first argument is a key of `LEFT_OUT`."""


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, whatever its name."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read(path: Path, kind: str, size: int, fit: str) -> Picture:
    """Read one file as a square of `size` x `size` pixels.

    Parameters
    ----------
    kind : the format that its name promises, a value of `FORMATS`
    fit : what becomes of an image that is not square: "pad" it with black, "crop" its middle, or "stretch" it

    Raises
    ------
    InputError
        A file that may not be read, or that declares more than anybody would keep in one image: such a file is no
        accident. One that is only broken is left out.
    """
    odd: list[str] = []
    patient = ""
    try:
        with _opened(path) as file:
            if kind == "DICOM":
                image, patient = _dicom(file, path, odd)
            else:
                image = _decoded(file, path, kind, odd)
            if min(image.size) < SMALLEST:
                raise _LeftOutError("tiny")
            pixels = _fitted(image, size, fit, odd)
            highest = int(image.getextrema()[1]) if image.mode == "F" else 0
    except _LeftOutError as error:
        return Picture(None, error.args[:1], patient, *error.args[1:])
    except MemoryError as error:
        raise InputError(f"{_told(path)}: too large for the memory that is left here; move it away") from error
    return Picture(pixels, tuple(dict.fromkeys(odd)), patient, highest=highest)


def _told(path: Path) -> str:
    return plain(str(path))


def _opened(path: Path) -> BinaryIO:
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would let us wait for ever
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{_told(path)}: cannot be read ({reason}); get permission or move it away") from error
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
        os.close(number)
        raise InputError(f"{_told(path)}: no ordinary file, or one of more than a gigabyte; move it away")
    return open(number, "rb")


def _require_bounded(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        most = f"more than {MOST_PIXELS / 1e6:.0f} million pixels"
        raise InputError(f"{_told(path)}: declares {width} x {height}, {most}; cut it, shrink it or move it away")


# ------------------------------------------------------------------ Pillow


def _decoded(file: BinaryIO, path: Path, kind: str, odd: list[str]) -> Image.Image:
    """The first picture of a file, of mode L, RGB or F (16 bits)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts about metadata
            image = Image.open(file, formats=("PNG", "JPEG", "TIFF", "BMP"))
            _require_bounded(path, *image.size)
            _require_honest(image, file, path)
            if _without_range(image):
                raise _LeftOutError("range")
            if _deep_channels(image):
                raise _LeftOutError("channels")
            if {"MPO": "JPEG", "DIB": "BMP"}.get(image.format, image.format) != kind:
                odd.append("renamed")
            if getattr(image, "n_frames", 1) > 1:
                odd.append("pages")

            # A TIFF is turned as it is loaded, and then says no more of it
            if image.getexif().get(0x0112, 1) in range(2, 9):
                odd.append("turned")
            image.load()
            if image.format in ("JPEG", "MPO") and _ends_grey(image) and _ends_early(file):
                raise InputError(LIES.format(_told(path), "fewer"))
            if image.format == "TIFF" and image.tag_v2.get(262) == 0 and image.mode != "1":
                odd.append("negative")
            return _plain_mode(ImageOps.exif_transpose(image), odd)
    except (InputError, _LeftOutError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{_told(path)}: declares more pixels than Pillow opens; move it away") from error
    except UnidentifiedImageError as error:
        raise _LeftOutError("broken", "no PNG, JPEG, TIFF or BMP that Pillow knows") from error
    except Exception as error:  # each of Pillow's readers fails in its own ways on damaged bytes
        raise _LeftOutError("broken", one_line(error)) from error


LIES = "{}: holds {} pixels than it declares; write it again or move it away"


def _require_honest(image: Image.Image, file: BinaryIO, path: Path) -> None:
    """InputError for a PNG or plain TIFF that holds other pixels than it declares: Pillow shows black, or noise.

    Nothing is kept of what is unpacked; a file that ends too early, or is packed otherwise, is for Pillow to judge.
    """
    if image.format == "TIFF" and image.tag_v2.get(259, 1) == 1:
        declared = image.width * image.height * sum(image.tag_v2.get(258, (1,))) // 8
        if sum(image.tag_v2.get(279, image.tag_v2.get(325, (declared,)))) < declared:
            raise InputError(LIES.format(_told(path), "fewer"))
    if image.format != "PNG":
        return

    # Count what the chunks IDAT unpack to
    begin, unpacked, unpack, wanted = file.tell(), 0, zlib.decompressobj(), -1
    file.seek(len(PNG))
    while len(head := file.read(8)) == 8 and not unpack.eof:
        length, name = struct.unpack(">I4s", head)
        if name == b"IHDR":
            width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", file.read(13))
            wanted = sum(
                _rows_bytes(*each, bits * PNG_CHANNELS.get(colour, 1)) for each in _passes(width, height, interlaced)
            )
            file.seek(length - 13, os.SEEK_CUR)
        elif name == b"IDAT":
            piece = file.read(length)
            while piece and not unpack.eof:
                unpacked += len(unpack.decompress(piece, PIECE))
                piece = unpack.unconsumed_tail
        else:
            file.seek(length, os.SEEK_CUR)
        file.seek(4, os.SEEK_CUR)  # the chunk's own checksum

    file.seek(begin)
    if unpack.eof and unpacked != wanted:
        raise InputError(LIES.format(_told(path), "fewer" if unpacked < wanted else "more"))


def _without_range(image: Image.Image) -> bool:
    """Whether a TIFF's kind of numbers has no black and white of its own; those that happen to be in it say nothing."""
    if image.format != "TIFF":
        return False
    return max(image.tag_v2.get(258, (1,))) > 16 or max(image.tag_v2.get(339, (1,))) > 1


def _deep_channels(image: Image.Image) -> bool:
    """Whether a file has several channels of more than 8 bits: Pillow keeps the higher 8 of each, and says nothing."""
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (1,))
        return max(bits) > 8 and max(len(bits), image.tag_v2.get(277, 1)) > 1
    raw = image.tile[0][3] if image.format == "PNG" and image.tile else ""
    return not image.mode.startswith("I") and ";16" in str(raw if isinstance(raw, str) else raw[0])


def _ends_grey(image: Image.Image) -> bool:
    """Whether the last rows are the mid-grey with which libjpeg fills what a file does not hold."""
    last = np.asarray(image)[-8:]
    return bool((last == 128).all())


def _ends_early(file: BinaryIO) -> bool:
    """Whether a JPEG's end comes before its last row.

    With a few bits in place of the end a whole file is decoded as before, and libjpeg asks for more of one that lacks
    rows. A progressive one is not judged: it needs its end.
    """
    file.seek(0)
    raw = file.read()
    if b"\xff\xc2" in raw:
        return False
    try:
        Image.open(io.BytesIO(raw[: raw.rfind(b"\xff\xd9")] + b"\xff\x00" * 8), formats=("JPEG",)).load()
    except OSError:
        return True
    return False


def _passes(width: int, height: int, interlaced: int) -> list[tuple[int, int]]:
    """Width and height of the pictures that a PNG is stored as: one, or the seven of Adam7."""
    if not interlaced:
        return [(width, height)]
    grid = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
    return [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, dx, y, dy in grid]


def _rows_bytes(width: int, height: int, bits: int) -> int:
    """Bytes of so many rows, each with its filter's byte; none where there is no column."""
    return height * (1 + -(-width * bits // 8)) if width > 0 and height > 0 else 0


def _plain_mode(image: Image.Image, odd: list[str]) -> Image.Image:
    """Grey (L), colour (RGB), or grey of 16 bits (F); other modes by their rule."""
    mode = image.mode
    if mode.startswith("I"):
        odd.append("deep")
        values = np.asarray(image).astype(np.float32)
        if (clear := image.info.get("transparency")) is not None:
            odd.append("alpha")
            values[values == clear] = 0
        return Image.fromarray(values)

    # Transparency, also that of a PNG's single colour
    if mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        if mode in ("P", "PA"):
            odd.append("palette")
        seen = image.convert("RGBA")
        if seen.getchannel("A").getextrema()[0] < 255:
            odd.append("alpha")
        black = Image.new("RGBA", seen.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, seen).convert("RGB")

    if kind := {"1": "bits", "P": "palette"}.get(mode, "" if mode in ("L", "RGB") else "space"):
        odd.append(kind)
    return image if mode in ("L", "RGB") else image.convert("L" if mode == "1" else "RGB")


def fitted(image: Image.Image, size: int, fit: str, black: int = 0) -> Image.Image:
    """A square of `size` pixels, by bicubic interpolation over as many pixels as fall into one; as it is if it fits."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if fit == "stretch":
        return _resized(image, (size, size))
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return _resized(image, (size, size), (left, top, left + side, top + side))

    # Nothing is cut off, and nothing changes its form
    longest = max(width, height)
    inner = max(1, round(size * width / longest)), max(1, round(size * height / longest))
    square = Image.new(image.mode, (size, size), black)
    square.paste(_resized(image, inner), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return square


def _resized(image: Image.Image, size: tuple[int, int], box: tuple[float, ...] | None = None) -> Image.Image:
    """At an edge bicubic interpolation goes beyond what it is between; one of 16 bits stays in its own range."""
    made = image.resize(size, Image.Resampling.BICUBIC, box=box)
    return Image.fromarray(np.asarray(made).clip(*image.getextrema())) if image.mode == "F" else made


def _fitted(image: Image.Image, size: int, fit: str, odd: list[str]) -> np.ndarray:
    if image.width != image.height:
        odd.append("oblong")
    if max(image.size) < size:
        odd.append("enlarged")
    negative = image.mode == "F" and "negative" in odd  # others are inverted already
    found = np.asarray(fitted(image, size, fit, 65535 if negative else 0))
    return np.clip(np.rint(found), 0, 65535).astype(np.uint16) if image.mode == "F" else found


# ------------------------------------------------------------------ DICOM


def require_pydicom(first: str, count: int) -> None:
    """InputError where pydicom is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        many = f"{count} DICOM file{'s' * (count > 1)} ({plain(first)})"
        raise InputError(f"{many} need the package pydicom; pip install 'pydicom>=3,<4', or move them away") from error


def _dicom(file: BinaryIO, path: Path, odd: list[str]) -> tuple[Image.Image, str]:
    """The first frame of a DICOM file, of mode L or RGB, and its patient."""
    import pydicom
    from pydicom.pixels import pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's doubts about values that are not used here
            told = pydicom.dcmread(file)
            _require_bounded(path, int(told.Columns), int(told.Rows))
            if int(told.get("NumberOfFrames") or 1) > 1:
                odd.append("pages")
            try:
                values = pixel_array(told, index=0)
            except Exception as error:
                packed = told.file_meta.TransferSyntaxUID.is_compressed
                raise _LeftOutError("codec" if packed else "broken", one_line(error)) from error
            # Colours as they are, greys by their rules
            _bring_up(told)
            coloured = values.ndim == 3 or "PALETTE" in told.PhotometricInterpretation
            shades = _colour(values, told) if coloured else _grey(values, told, odd)
            return Image.fromarray(shades), str(told.get("PatientID") or "").strip()
    except (InputError, _LeftOutError, MemoryError):
        raise
    except Exception as error:  # as many ways to be damaged as there are readers
        raise _LeftOutError("broken", one_line(error)) from error


# Where an enhanced DICOM file, of several frames, has what others have at its top
IN_FRAMES = {
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}


def _bring_up(told) -> None:
    """Set window, slope and intercept of a file's first frame at its top: as the frame says, else as all frames do."""
    for key in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (told.get(key) or [])[:1]:
            for sequence, names in IN_FRAMES.items():
                for inner in (group.get(sequence) or [])[:1]:
                    for name in names:
                        if inner.get(name) is not None:
                            setattr(told, name, inner[name].value)


def _colour(values: np.ndarray, told) -> np.ndarray:
    """uint8 [H, W, 3]; pydicom has turned YBR into RGB already."""
    bits = int(told.BitsStored)
    if "PALETTE" in told.PhotometricInterpretation:
        from pydicom.pixels import apply_color_lut

        values = apply_color_lut(values, told)[..., :3]
        bits = 8 * values.dtype.itemsize
    return (values >> max(0, bits - 8)).astype(np.uint8)


def _grey(values: np.ndarray, told, odd: list[str]) -> np.ndarray:
    """uint8 [H, W]: slope and intercept (or its table), then the window, then what is white."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    padding = told.get("PixelPaddingValue")
    seen = values != padding if padding is not None else np.ones(values.shape, bool)
    values = np.asarray(apply_modality_lut(values, told), np.float64)

    # A table of grey values, a window (DICOM PS3.3, C.11.2.1.2), or the image's own range
    centre, width = (_first(told.get(key)) for key in ("WindowCenter", "WindowWidth"))
    if told.get("VOILUTSequence"):
        bits = int(told.VOILUTSequence[0].LUTDescriptor[2])
        share = apply_voi(values.astype(np.int64), told) / (2**bits - 1)
        odd.append("window")
    elif centre is not None and width is not None and width >= 1:
        share = _windowed(values, centre, width, str(told.get("VOILUTFunction") or "LINEAR"))
        odd.append("window")
    else:
        inside = values[seen] if seen.any() else values
        share = (values - inside.min()) / max(inside.max() - inside.min(), 1e-12)
        odd.append("stretched")

    grey = np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
    if told.PhotometricInterpretation == "MONOCHROME1":
        odd.append("negative")
        return 255 - grey
    return grey


def _first(value) -> float | None:
    """The first of several values; None where there is none."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Share of white of each value, by the function that the file names."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    return (values - (centre - 0.5)) / max(width - 1, 1e-12) + 0.5
