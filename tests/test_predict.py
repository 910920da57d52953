"""predict.py of a bundle prepares an image as the import prepared the training images, or says what it guessed."""

import json
import struct
import zlib

import numpy as np
import pytest
from conftest import med_arrays, own_set
from PIL import Image

import run_all
from kr_utils import bundle, data, own_images, pictures, predict

SIDES = ((60, 90), (90, 60), (57, 56), (28, 28), (75, 75))  # height, width; all but the fourth are resized


def noise(seed, shape, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint8 if high <= 256 else np.uint16)


def twelve_bits(seed, shape):
    """Of 16 bits the lower 12; black and white are single pixels, so that nothing goes beyond when it is resized."""
    pixels = noise(seed, shape, 1000, 3000)
    pixels[3, 4], pixels[10, 20] = 0, 4095
    return pixels


@pytest.fixture
def folder(tmp_path):
    """Images of two classes: grey, in colour, of 12 bits in 16, transparent, with a palette, turned, too small."""
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "src" / name).mkdir(parents=True)
        for i, side in enumerate(SIDES):
            seed, place = 100 * k + 10 * i, tmp_path / "src" / name
            Image.fromarray(noise(seed, side)).save(place / f"grey{i}.png")
            Image.fromarray(noise(seed + 1, (*side, 3))).save(place / f"colour{i}.png")
            Image.fromarray(twelve_bits(seed + 2, side)).save(place / f"deep{i}.png")
            Image.fromarray(noise(seed + 3, (*side, 4))).save(place / f"clear{i}.png")
            Image.fromarray(noise(seed + 4, (*side, 2))).save(place / f"clear-grey{i}.png")
            Image.fromarray(noise(seed + 5, (*side, 3))).quantize(8).save(place / f"palette{i}.png")
            turned = Image.Exif()
            turned[0x0112] = 6
            for end in (".png", ".tif"):
                Image.fromarray(noise(seed + 6 + len(end), side)).save(place / f"turned{i}{end}", exif=turned)
        Image.fromarray(noise(1000 + k, (20, 26, 3))).save(place / "small.png")
    return tmp_path / "src"


@pytest.mark.parametrize("colour", ["auto", "grey"])
@pytest.mark.parametrize("fit", pictures.FITS)
def test_every_file_of_an_import_gives_the_pixels_that_the_import_made_of_it(fit, colour, folder, tmp_path):
    (tmp_path / "data").mkdir()
    wanted = own_images.Wanted(folder, "mine", fit=fit, colour=colour)
    own_images.bring_in(wanted, tmp_path / "data", tell=lambda line: None)
    found = data.load("mine", tmp_path / "data")
    imported = sorted(image.tobytes() for split in data.SPLITS for image in getattr(found, split).images.numpy())

    how = bundle.prepared("mine", tmp_path / "data")
    assert how == {"fit": fit, "bits": 12}
    read = {str(path.relative_to(folder)): predict.read(path, found.shape, how) for path in folder.rglob("*.*")}
    assert sorted(pixels.tobytes() for pixels, _ in read.values()) == imported
    assert not [said for _, said in read.values() if "guess" in said], "all is known"
    words = {"pad": "padded with black", "crop": "cut in the middle and resized", "stretch": "stretched"}
    assert read["cat/grey0.png"][1] == f"90 x 60, {words[fit]} to 28 x 28"
    assert read["cat/grey3.png"][1] == ""
    assert read["cat/clear4.png"][1] == "transparent, laid on black; 75 x 75, resized to 28 x 28"


def test_what_is_not_known_of_the_training_images_is_guessed_and_said(tmp_path):
    def read(pixels, how, **options):
        Image.fromarray(pixels).save(tmp_path / "a.png", **options)
        return predict.read(tmp_path / "a.png", (1, 28, 28), how)

    # Oblong, of 16 bits, transparent
    grey = noise(0, (28, 56))
    pixels, said = read(grey, {})
    stretched = Image.fromarray(grey).resize((28, 28), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels[0], np.asarray(stretched))
    assert said == f"56 x 28, stretched to 28 x 28{predict.GUESS}"
    deep = noise(1, (28, 28), 0, 65536)
    for how in ({}, {"fit": "pad"}):  # the second had no image of 16 bits
        pixels, said = read(deep, how)
        assert np.array_equal(pixels[0], deep >> 8)
        assert said == f"of 16 bits, all taken to be used{predict.GUESS}"
    clear = noise(2, (28, 28, 2))
    clear[..., 1] = 255 * (clear[..., 1] > 99)
    pixels, said = read(clear, {})
    assert np.array_equal(pixels[0], clear[..., 0] * (clear[..., 1] > 0))
    assert said == f"transparent, laid on black{predict.GUESS}"

    # Nothing to guess
    clear[..., 1] = 255
    assert read(clear, {})[1] == ""
    assert read(noise(3, (40, 40)), {})[1] == "40 x 40, resized to 28 x 28"
    assert read(noise(3, (40, 20)), {"fit": "crop"})[1] == "20 x 40, cut in the middle and resized to 28 x 28"
    bright = np.full((28, 28), 4096, np.uint16)
    assert (read(bright, {"fit": "pad", "bits": 12})[0] == 255).all(), "brighter than white is white"


def deep_colours(path):
    """A PNG with three channels of 16 bits, of which Pillow keeps the higher 8."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packed = zlib.compress(28 * (b"\0" + bytes(28 * 6)))
    header = struct.pack(">IIBBBBB", 28, 28, 16, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def test_numbers_without_black_and_white_are_refused(tmp_path):
    deep_colours(tmp_path / "colours.png")
    for name, kind in (("float", np.float32), ("whole", np.int32)):
        Image.fromarray(np.zeros((28, 28), kind)).save(tmp_path / f"{name}.tif")
    for path in tmp_path.iterdir():
        with pytest.raises(ValueError, match="signed, 32-bit or floating-point pixels, or several channels of 16 bits"):
            predict.read(path, (1, 28, 28), {})


def test_only_the_import_of_a_folder_says_how_files_became_images(tmp_path, capsys):
    assert bundle.prepared("digits") == {}
    images = own_set(tmp_path, med_arrays((60, 30, 30)))
    assert bundle.prepared("mine", tmp_path) == {}
    argv = ["--import", str(images), "--name", "other", "--fit", "crop", "--size", "28"]
    argv += ["--data-root", str(tmp_path)]
    assert run_all.main(argv) == 0, capsys.readouterr().err
    assert bundle.prepared("other", tmp_path) == {}, "the arrays came as they are"

    # A description that somebody edited
    about = json.loads((tmp_path / "other.json").read_text())
    for source in ("x", {}, {"fit": "x"}, {"fit": ["pad"]}):
        (tmp_path / "other.json").write_text(json.dumps(about | {"import": about["import"] | {"source": source}}))
        assert bundle.prepared("other", tmp_path) == {}
    for bits in (True, 7, 17, "12", None):
        source = {"layout": "<class>/*", "fit": "pad", "bits": bits}
        (tmp_path / "other.json").write_text(json.dumps(about | {"import": about["import"] | {"source": source}}))
        assert bundle.prepared("other", tmp_path) == {"fit": "pad"}
