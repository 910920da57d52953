"""Every odd kind of image by its rule, on files that Pillow and pydicom wrote; pixels compared with what went in."""

import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from kr_utils import InputError, pictures

pydicom = pytest.importorskip("pydicom")
RAMP = np.arange(28 * 28, dtype=np.uint32).reshape(28, 28)
GREY = (RAMP % 251).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY.T], -1)


def read(path, kind="PNG", size=28, fit="pad"):
    return pictures.read(path, kind, size, fit)


def saved(path, image, **options):
    image.save(path, **options)
    return path


# ------------------------------------------------------------------ Pillow


@pytest.mark.parametrize("end", [".png", ".bmp", ".tif"])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "colour"])
def test_what_is_plain_and_fits_comes_out_bit_for_bit(end, pixels, tmp_path):
    path = saved(tmp_path / f"a{end}", Image.fromarray(pixels))
    found = read(path, pictures.FORMATS[end])
    assert found.odd == ()
    assert np.array_equal(found.pixels, pixels)


def test_exif_turns_an_image_as_it_was_seen(tmp_path):
    """A camera that was held upright stores the scene on its side, and says so."""
    for orientation, back in [(3, 2), (6, 1), (8, 3)]:  # 180, 90 to the right, 90 to the left
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = np.rot90(GREY, back)
        for end in (".png", ".tif"):
            path = saved(tmp_path / f"a{orientation}{end}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
            found = read(path, pictures.FORMATS[end])
            assert found.odd == ("turned",)
            assert np.array_equal(found.pixels, GREY), (orientation, end)


def test_transparency_lies_on_black(tmp_path):
    alpha = np.where(RAMP % 2, 255, 0).astype(np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(np.dstack([RGB, alpha])))
    found = read(path)
    assert found.odd == ("alpha",)
    assert np.array_equal(found.pixels, RGB * (alpha[..., None] > 0))
    opaque = read(saved(tmp_path / "b.png", Image.fromarray(np.dstack([RGB, 0 * alpha + 255]))))
    assert opaque.odd == ()
    assert np.array_equal(opaque.pixels, RGB)


def test_palette_and_single_bits(tmp_path):
    image = Image.fromarray((RAMP % 3).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 0, 7, 7, 7])
    found = read(saved(tmp_path / "a.png", image))
    assert found.odd == ("palette",)
    colours = np.array([[10, 20, 30], [200, 100, 0], [7, 7, 7]])
    assert np.array_equal(found.pixels, colours[RAMP % 3])
    found = read(saved(tmp_path / "b.png", Image.fromarray(RAMP % 2 == 1)))
    assert found.odd == ("bits",)
    assert np.array_equal(found.pixels, 255 * (RAMP % 2))


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (28, 28), (0, 255, 255, 0))  # no cyan, all of the others: red
    found = read(saved(tmp_path / "a.tif", image), "TIFF")
    assert found.odd == ("space",)
    assert found.pixels[3, 3].tolist() == [255, 0, 0]


def test_sixteen_bits_stay_until_all_are_known(tmp_path):
    values = (RAMP * 5).astype(np.uint16)  # up to 3915: twelve bits, as a detector has
    for end in (".png", ".tif"):
        found = read(saved(tmp_path / f"a{end}", Image.fromarray(values)), pictures.FORMATS[end])
        assert found.odd == ("deep",)
        assert found.pixels.dtype == np.uint16
        assert np.array_equal(found.pixels, values)


@pytest.mark.parametrize("fit", pictures.FITS)
def test_sixteen_bits_stay_in_their_own_range_when_they_are_resized(fit, tmp_path):
    """Bicubic interpolation goes beyond both sides of an edge, and 4095 is the highest value of twelve bits."""
    values = np.full((64, 90), 1000, np.uint16)
    values[20:44, 30:60] = 4095
    found = read(saved(tmp_path / "a.png", Image.fromarray(values)), fit=fit)
    assert found.highest == found.pixels.max() == 4095
    assert set(found.pixels[found.pixels < 1000]) == ({0} if fit == "pad" else set()), "black is only beside it"


@pytest.mark.parametrize(("kind", "channels"), [(4, 2), (2, 3), (6, 4)], ids=["grey+alpha", "RGB", "RGBA"])
def test_sixteen_bits_in_several_channels_are_left_out_and_not_cut(kind, channels, tmp_path):
    """Pillow would keep the higher byte: twelve bits would come in nearly black."""
    values = np.random.default_rng(0).integers(0, 4096, (28, 28, channels))
    values[..., channels - 1] = 65535  # where it is alpha, opaque
    (tmp_path / "a.png").write_bytes(deep_png(values, kind))
    assert Image.open(tmp_path / "a.png").mode in ("RGB", "RGBA")
    found = read(tmp_path / "a.png")
    assert (found.pixels, found.odd) == (None, ("channels",))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_so_are_those_of_a_tiff(channels, order, tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (28, 28, channels)).astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(values, order=order))
    assert Image.open(tmp_path / "a.tif").mode == "RGB"
    assert read(tmp_path / "a.tif", "TIFF").odd == ("channels",)
    (tmp_path / "b.tif").write_bytes(tiff((values // 16).astype(np.uint8), order=order))
    found = read(tmp_path / "b.tif", "TIFF")
    assert found.odd == ()
    assert np.array_equal(found.pixels, values[..., :3] // 16)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_tiff_of_which_zero_is_white_is_told(kind, tmp_path):
    """Pillow inverts those of 8 bits; of 16 nobody knows the white before all are read."""
    values = RAMP[:14].astype(kind)
    (tmp_path / "a.tif").write_bytes(tiff(values, white=True))
    found = read(tmp_path / "a.tif", "TIFF")
    assert set(found.odd) == {"negative", "oblong", *(["deep"] if kind is np.uint16 else [])}
    wanted = 255 - values if kind is np.uint8 else values
    assert np.array_equal(found.pixels[7:21], wanted)
    assert set(found.pixels[:7].ravel()) == ({0} if kind is np.uint8 else {65535}), "black beside it"


def test_a_transparent_value_of_sixteen_bits_is_black(tmp_path):
    values = (RAMP * 5 + 1).astype(np.uint16)
    found = read(saved(tmp_path / "a.png", Image.fromarray(values), transparency=int(values[3, 3])))
    assert found.odd == ("deep", "alpha")
    values[3, 3] = 0
    assert np.array_equal(found.pixels, values)


def test_floating_point_is_left_out(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(RAMP.astype(np.float32)))
    assert read(path, "TIFF").odd == ("range",)
    path = saved(tmp_path / "b.tif", Image.fromarray(RAMP.astype(np.int32) - 5))
    assert read(path, "TIFF").odd == ("range",)


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u4", "f4"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_kind_of_numbers_decides_and_not_those_that_are_in_it(kind, order, tmp_path):
    """Or the bright images of a set would be left out, and the dark ones kept."""
    for values in (RAMP % 100, RAMP * 100 if "4" in kind else RAMP % 99):
        (tmp_path / "a.tif").write_bytes(tiff(values.astype(kind), order=order))
        unknown = (kind, order) == ("u4", ">")  # to Pillow
        assert read(tmp_path / "a.tif", "TIFF").odd == ("broken" if unknown else "range",)


def test_of_several_pictures_the_first(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for end in (".png", ".tif"):
        found = read(
            saved(tmp_path / f"a{end}", frames[0], save_all=True, append_images=frames[1:]), pictures.FORMATS[end]
        )
        assert found.odd == ("pages",)
        assert np.array_equal(found.pixels, GREY)


def test_another_format_than_the_name_says(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(GREY), format="PNG")
    found = read(path, "JPEG")
    assert found.odd == ("renamed",)
    assert np.array_equal(found.pixels, GREY)


@pytest.mark.parametrize(
    "raw",
    [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(50), b"BM" + bytes(60), b"II*\0" + bytes(9)],
)
def test_rubbish_is_left_out(raw, tmp_path):
    (tmp_path / "a.png").write_bytes(raw)
    found = read(tmp_path / "a.png")
    assert (found.pixels, found.odd) == (None, ("broken",))
    assert found.why
    assert "<" not in found.why, "no object of Python's"


def test_half_a_file_is_left_out_wherever_it_ends(tmp_path):
    rng, out = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(out, "PNG")
    whole = out.getvalue()
    (tmp_path / "whole.png").write_bytes(whole)
    assert read(tmp_path / "whole.png").odd == ()
    for end in range(0, len(whole) - 60, 37):
        (tmp_path / "a.png").write_bytes(whole[:end])
        assert read(tmp_path / "a.png").odd == ("broken",), end


def png(width, height, packed, kind=0, bits=8):
    """A PNG that declares what it likes."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def deep_png(values, kind):
    """Of 16 bits, [H, W, C], which Pillow itself cannot write."""
    values = values.astype(">u2")
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    return png(values.shape[1], len(values), packed, kind, 16)


def tiff(values, white=False, order="<"):
    """A plain TIFF of any kind of numbers, [H, W] or [H, W, C]."""
    values = values.astype(values.dtype.newbyteorder(order))
    height, width, channels = (*values.shape, 1)[:3]
    kind, bits = {"u": 1, "i": 2, "f": 3}[values.dtype.kind], 8 * values.dtype.itemsize
    seen = 2 if channels > 1 else int(not white)
    extra = [(338, 0)] if channels == 4 else []
    behind = 8 + 2 + 12 * (10 + len(extra)) + 4  # where lists begin: bits and kinds of each channel, then the pixels
    lists = struct.pack(f"{order}{2 * channels}H", *[bits] * channels, *[kind] * channels) * (channels > 1)
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, seen), (273, behind + len(lists))]
    tags += [(277, channels), (278, height), (279, values.nbytes), *extra, (339, kind)]
    raw = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, value in tags:
        if channels > 1 and tag in (258, 339):
            raw += struct.pack(f"{order}HHII", tag, 3, channels, behind + 2 * channels * (tag == 339))
        else:
            raw += struct.pack(f"{order}HHII", tag, 4, 1, value)
    return raw + bytes(4) + lists + values.tobytes()


@pytest.mark.parametrize(
    ("width", "height", "words"),
    [(8000, 8000, "fewer pixels"), (9000, 9000, "million pixels"), (60_000, 60_000, "more pixels than Pillow opens")],
)
def test_a_bomb_is_refused_before_it_is_unpacked(width, height, words, tmp_path):
    (tmp_path / "a.png").write_bytes(png(width, height, zlib.compress(bytes(1000)), kind=2))
    with pytest.raises(InputError, match=words):
        read(tmp_path / "a.png")


def test_an_honest_empty_image_is_no_bomb(tmp_path):
    """Deflate packs a thousand equal bytes into one: such a page is dense, and true."""
    found = read(saved(tmp_path / "a.png", Image.new("L", (6000, 6000)), optimize=True))
    assert found.odd == ()
    assert not found.pixels.any()


@pytest.mark.parametrize(("rows", "words"), [(20, "fewer"), (41, "more")])
def test_a_png_that_lies_about_its_size_is_refused(rows, words, tmp_path):
    """Pillow opens both without a word."""
    (tmp_path / "a.png").write_bytes(png(40, 40, zlib.compress(bytes(41 * rows))))
    Image.open(tmp_path / "a.png").load()
    with pytest.raises(InputError, match=f"holds {words} pixels than it declares"):
        read(tmp_path / "a.png")


def patched(raw, old, new):
    assert raw.count(old) == 1
    return raw.replace(old, new)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_others_that_declare_twice_their_height_are_refused_too(kind, tmp_path):
    """Pillow shows grey or black for what is not there."""
    out, path = io.BytesIO(), tmp_path / "a"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 40), np.uint8)).save(out, kind)
    old, new = {
        "JPEG": (struct.pack(">BHH", 8, 60, 40), struct.pack(">BHH", 8, 120, 40)),
        "TIFF": (struct.pack("<HHII", 257, 4, 1, 60), struct.pack("<HHII", 257, 4, 1, 120)),
    }[kind]
    path.write_bytes(patched(out.getvalue(), old, new))
    Image.open(path).load()
    with pytest.raises(InputError, match="holds fewer pixels than it declares"):
        read(path, kind)


def test_a_photograph_on_mid_grey_is_whole(tmp_path):
    """As fundus images are often prepared: its last rows look as if they were missing."""
    grey = np.full((64, 64, 3), 128, np.uint8)
    grey[20:40, 20:40] = RGB[:20, :20]
    for options in ({}, {"progressive": True}, {"quality": 30}):
        assert read(saved(tmp_path / "a.jpg", Image.fromarray(grey), **options), "JPEG").odd == ()


@pytest.mark.parametrize("side", [(4, 4), (5, 9), (28, 28), (33, 40)])
@pytest.mark.parametrize("name", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16"])
def test_no_honest_png_is_refused_whatever_its_mode_and_size(side, name, tmp_path):
    values = np.random.default_rng(0).integers(0, 2**16, side[::-1], dtype=np.uint16)
    image = (
        Image.fromarray(values) if name == "I;16" else Image.fromarray((values % 256).astype(np.uint8)).convert(name)
    )
    for options in ({}, {"bits": 4} if name == "P" else {"compress_level": 0}):
        assert read(saved(tmp_path / "a.png", image, **options), size=4).pixels is not None


def test_an_interlaced_png_is_counted_in_its_seven_parts():
    for width, height in [(1, 1), (5, 9), (28, 28), (33, 17)]:
        passes = pictures._passes(width, height, 1)
        assert sum(w * h for w, h in passes if w > 0 and h > 0) == width * height


def test_sizes(tmp_path):
    """A black and a white half, oblong: the fit decides what is seen of it."""
    wide = np.repeat(np.array([[0] * 50 + [255] * 50], np.uint8), 40, 0)
    path = saved(tmp_path / "a.png", Image.fromarray(wide))
    padded, cropped, stretched = (read(path, size=20, fit=fit) for fit in pictures.FITS)
    assert padded.odd == cropped.odd == stretched.odd == ("oblong",)
    assert not padded.pixels[:6].any()
    assert not padded.pixels[14:].any()
    assert (padded.pixels[6:14, 12:] == 255).all()
    assert (cropped.pixels[:, 12:] == 255).all()
    assert not cropped.pixels[:, :8].any()
    assert np.array_equal(stretched.pixels[0], stretched.pixels[-1])
    assert read(saved(tmp_path / "b.png", Image.fromarray(GREY[:3])), size=20).odd == ("tiny",)
    assert read(saved(tmp_path / "c.png", Image.fromarray(GREY[:9, :9])), size=20).odd == ("enlarged",)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="no ordinary file"):
        read(tmp_path / "pipe.png")


def test_shrinking_is_the_mean_of_what_falls_together(tmp_path):
    """No pixel is skipped: a fine chequerboard becomes grey."""
    board = (255 * (np.indices((224, 224)).sum(0) % 2)).astype(np.uint8)
    found = read(saved(tmp_path / "a.png", Image.fromarray(board)))
    assert np.abs(found.pixels.astype(int) - 127.5).max() < 2


# ------------------------------------------------------------------ DICOM


def dicom(path, values, **more):
    """A real DICOM file, of secondary capture, uncompressed."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    many = values.ndim == 3 and values.shape[-1] != 3
    made.Rows, made.Columns = values.shape[1:3] if many else values.shape[:2]
    if many:
        made.NumberOfFrames = len(values)
    colour = values.ndim == 3 and not many
    made.SamplesPerPixel, made.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        made.PlanarConfiguration = 0
    bits = 8 * values.dtype.itemsize
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit, made.PixelRepresentation = bits - 1, int(values.dtype.kind == "i")
    made.PixelData = values.tobytes()
    for key, value in more.items():
        setattr(made, key, value)
    made.save_as(path, enforce_file_format=True)
    return path


def shade(share):
    return np.rint(255 * np.clip(share, 0, 1))


def test_dicom_without_a_window_has_its_own_range(tmp_path):
    values = (RAMP * 3 + 1000).astype(np.uint16)
    found = read(dicom(tmp_path / "a.dcm", values, PatientID="Doe^1"), "DICOM")
    assert found.odd == ("stretched",)
    assert found.patient == "Doe^1"
    assert np.array_equal(found.pixels, shade(RAMP / RAMP.max()))


def test_dicom_slope_intercept_and_window(tmp_path):
    """Hounsfield units: stored 0..783 are -1024..-241; a window of 400 around -600 shows -800..-400."""
    more = {
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "WindowCenter": ["-600", "0"],
        "WindowWidth": ["400", "9"],
    }
    found = read(dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16), **more), "DICOM")
    assert found.odd == ("window",)
    units = RAMP.astype(float) - 1024
    assert np.array_equal(found.pixels, shade((units + 600.5) / 399 + 0.5))
    assert found.pixels[0, 0] == 0
    assert found.pixels.max() == 255
    exact = read(dicom(tmp_path / "b.dcm", RAMP.astype(np.uint16), VOILUTFunction="LINEAR_EXACT", **more), "DICOM")
    assert np.abs(exact.pixels - shade((units + 800) / 400)).max() <= 1
    bent = read(dicom(tmp_path / "c.dcm", RAMP.astype(np.uint16), VOILUTFunction="SIGMOID", **more), "DICOM")
    assert np.array_equal(bent.pixels, shade(1 / (1 + np.exp(-4 * (units + 600) / 400))))


def test_an_enhanced_file_has_its_rules_in_its_frames(tmp_path):
    """Its window lies where each frame has its own, or where all have one; so do slope and intercept."""

    def groups(centre, width, slope=None):
        group, window, scale = (pydicom.dataset.Dataset() for _ in range(3))
        window.WindowCenter, window.WindowWidth = centre, width
        group.FrameVOILUTSequence = [window]
        if slope:
            scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = slope, "-1024", "HU"
            group.PixelValueTransformationSequence = [scale]
        return group

    frames = np.stack([RAMP, RAMP.T]).astype(np.uint16)
    shared = [groups("-800", "300", "0.5")]
    found = read(dicom(tmp_path / "a.dcm", frames, SharedFunctionalGroupsSequence=shared), "DICOM")
    assert found.odd == ("pages", "window")
    assert np.array_equal(found.pixels, shade((RAMP / 2 - 1024 + 800.5) / 299 + 0.5))
    each = [groups("-700", "200"), groups("0", "1")]
    path = dicom(
        tmp_path / "b.dcm", frames, SharedFunctionalGroupsSequence=shared, PerFrameFunctionalGroupsSequence=each
    )
    assert np.array_equal(read(path, "DICOM").pixels, shade((RAMP / 2 - 1024 + 700.5) / 199 + 0.5))
    empty = dicom(tmp_path / "c.dcm", frames, SharedFunctionalGroupsSequence=[])
    assert read(empty, "DICOM").odd == ("pages", "stretched")


def test_a_window_is_what_pydicom_makes_of_it(tmp_path):
    """An independent implementation of PS3.3 C.11.2.1.2, in the range of the values."""
    from pydicom.pixels import apply_modality_lut, apply_windowing

    more = {"RescaleSlope": "2", "RescaleIntercept": "-50", "WindowCenter": "400", "WindowWidth": "700"}
    path = dicom(tmp_path / "a.dcm", RAMP.astype(np.uint16), **more)
    told = pydicom.dcmread(path)
    low, high = -50, 2 * 65535 - 50
    theirs = apply_windowing(apply_modality_lut(told.pixel_array, told), told)
    assert np.abs(read(path, "DICOM").pixels - 255 * (theirs - low) / (high - low)).max() <= 0.51


def test_dicom_negative_signed_padded_frames_and_colour(tmp_path):
    values = (RAMP.astype(np.int16) - 300).astype(np.int16)
    negative = read(dicom(tmp_path / "a.dcm", values, PhotometricInterpretation="MONOCHROME1"), "DICOM")
    assert negative.odd == ("stretched", "negative")
    assert np.array_equal(negative.pixels, 255 - shade(RAMP / RAMP.max()))
    padded = values.copy()
    padded[0, 0] = -2000
    found = read(dicom(tmp_path / "b.dcm", padded, PixelPaddingValue=-2000), "DICOM")
    assert found.pixels[0, 0] == 0
    assert found.pixels[0, 2] == round(255 * 1 / (RAMP.max() - 1)), "the padding does not count in the range"
    frames = np.stack([GREY, 255 - GREY])
    first = read(dicom(tmp_path / "c.dcm", frames, WindowCenter="128", WindowWidth="256"), "DICOM")
    assert first.odd == ("pages", "window")
    assert np.array_equal(first.pixels, GREY)
    assert np.array_equal(read(dicom(tmp_path / "d.dcm", RGB), "DICOM").pixels, RGB)


def test_dicom_that_is_broken_packed_or_without_pixels_is_left_out(tmp_path):
    from pydicom.uid import JPEGLSLossless

    path = dicom(tmp_path / "a.dcm", GREY)
    path.write_bytes(path.read_bytes()[:-100])
    assert read(path, "DICOM").odd == ("broken",)
    path.write_bytes(b"no DICOM at all")
    assert read(path, "DICOM").odd == ("broken",)
    packed = pydicom.dcmread(dicom(tmp_path / "b.dcm", GREY))
    packed.file_meta.TransferSyntaxUID = JPEGLSLossless
    packed.PixelData = pydicom.encaps.encapsulate([b"some bytes"])
    packed.save_as(path)
    assert read(path, "DICOM").odd == ("codec",)
    whole = pydicom.dcmread(dicom(tmp_path / "c.dcm", GREY))
    del whole.PixelData
    whole.save_as(path)
    assert read(path, "DICOM").odd == ("broken",)
    with pytest.raises(InputError, match="million pixels"):
        read(dicom(path, GREY, Rows=60_000, Columns=60_000), "DICOM")


def test_without_pydicom_one_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r"2 DICOM files \(a.dcm\) need the package pydicom; pip install"):
        pictures.require_pydicom("a.dcm", 2)
