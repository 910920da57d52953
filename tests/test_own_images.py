"""The door in: folders, tables and npz files become datasets that hold just what went in; bad ones leave no trace."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from conftest import med_arrays, own_set
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_pictures import deep_png, dicom, png, tiff

import run_all
from kr_utils import InputError, data, own_files, own_images, pictures
from kr_utils.dataset_file import SPLITS, checksum, validate


def noise(seed, size=(28, 28)):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def put(folder, name, pixels, **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def classes(folder, count=10, names=("cat", "dog")):
    """So many noise images in each of some class folders."""
    for k, name in enumerate(names):
        for i in range(count):
            put(folder, f"{name}/{i:02}.png", noise(1000 * k + i))
    return folder


def table(path, rows, columns=("file", "label"), mark=",", **options):
    with open(path, "w", newline="", encoding=options.get("encoding", "utf-8")) as file:
        writer = csv.writer(file, delimiter=mark, lineterminator=options.get("ends", "\n"))
        writer.writerows([columns, *rows])
    return path


def flat(folder, count=20, **options):
    """A flat folder of noise and its table, two classes in turn."""
    rows = [(f"{i}.png", "ab"[i % 2]) for i in range(count)]
    for i, (name, _) in enumerate(rows):
        put(folder, name, noise(i))
    return table(folder / "labels.csv", rows, **options)


@pytest.fixture
def drive(tmp_path, capsys):
    """The command line, with a data folder of its own; returns exit code, lines told, and the one error."""
    (tmp_path / "data").mkdir()

    def call(*argv):
        code = run_all.main(["--data-root", str(tmp_path / "data"), *map(str, argv)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out.splitlines(), err.strip()

    return call


def snapshot(folder):
    """Every path below a folder with its bytes, kind and time of change."""
    return {
        str(p.relative_to(folder)): (p.lstat().st_mode, p.lstat().st_mtime_ns, p.is_file() and p.read_bytes())
        for p in sorted(folder.rglob("*"))
    }


def rows_of(arrays):
    """(pixels, label) of all images, whatever split."""
    return sorted(
        (image.tobytes(), int(label))
        for split in SPLITS
        for image, label in zip(arrays[f"{split}_images"], np.ravel(arrays[f"{split}_labels"]))
    )


# ------------------------------------------------------------------ what is refused


def rewritten(old, new):
    def change(src):
        path = src / "labels.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def raw_table(raw):
    return lambda src: (src / "labels.csv").write_bytes(raw)


def lonely(src):
    """Class folders, of which one has two images."""
    for path in sorted((src / "dog").iterdir())[2:]:
        path.unlink()


def moved(*pairs):
    def move(src):
        for old, new in pairs:
            (src / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(src / old, src / new)

    return move


def doubled(src):
    """All of dog's images have the same pixels."""
    for path in (src / "dog").iterdir():
        shutil.copy(src / "dog/00.png", path) if path.name != "00.png" else None


def many_patients(src):
    rows = [(f"{name}/{i:02}.png", f"{name} {i % 2}") for name in ("cat", "dog") for i in range(10)]
    table(src / "labels.csv", rows, ("file", "patient"))


def broken_half(src):
    for path in (src / "cat").iterdir():
        path.write_bytes(b"no image")
    (src / "dog/00.png").write_bytes(b"")


def outside(src):
    (src.parent / "secret.png").write_bytes((src / "cat/00.png").read_bytes())
    (src / "cat/link.png").symlink_to(src.parent / "secret.png")


FOLDERS = {
    # the folder
    "empty": (lambda src: [shutil.rmtree(src / name) for name in ("cat", "dog")], "no PNG, JPEG, TIFF, BMP or DICOM"),
    "only texts": (lambda src: [p.rename(p.with_suffix(".txt")) for p in src.rglob("*.png")],
                   "no PNG, JPEG, TIFF, BMP or DICOM file in it, but 20 .txt; convert them, or name"),
    "one class": (lambda src: shutil.rmtree(src / "dog"), "one class only ('cat')"),
    "an empty class": (lambda src: (src / "bird").mkdir(), "class folder 'bird' holds no image"),
    "a class of texts": (lambda src: put(src, "bird/a.png", noise(1)).rename(src / "bird/a.txt"),
                         "class folder 'bird' holds no image, but 1 .txt; convert them to PNG or delete it"),
    "two images of a class": (lonely, "class 'dog' has 2 different images; at least 3"),
    "capitals": (lambda src: put(src, "Cat/a.png", noise(5)), "classes 'Cat' and 'cat' differ in capitals only"),
    "accents": (
        moved(("cat", "L\u00e4sion"), ("dog", "La\u0308sion")), "have one name but for blanks or for how an accent"),
    "blanks": (moved(("dog", "cat ")), "class folders 'cat ' and 'cat' have one name but for blanks"),
    "one number": (moved(("cat", "1"), ("dog", "1.0")), "classes '1.0' and '1' are one number; write one"),
    "loose images": (moved(("cat/00.png", "00.png")), "1 image (00.png) in no class folder"),
    "too deep": (moved(("cat/00.png", "cat/more/00.png")), "1 image (cat/more/00.png) not directly in a class folder"),
    "splits beside classes": (moved(("cat", "train/cat")), "'train' names a split and 'dog' does not"),
    "no train": (moved(("cat", "val/cat"), ("dog", "val/dog")), "but none named train"),
    "a split twice": (moved(("cat", "val/cat"), ("dog", "valid/dog")), "val and valid mean the same split"),
    "a split twice beside another": (
        moved(("cat", "train/cat"), ("dog", "val/dog"), ("train/cat/00.png", "valid/dog/0.png")),
        "src: val and valid mean the same split"),
    "an empty split": (
        lambda src: [moved(("cat", "train/cat"), ("dog", "train/dog"))(src), (src / "Val").mkdir()],
        "folder 'Val' holds no image; fill it or delete it"),
    "an empty class in an empty split": (
        lambda src: [moved(("cat", "train/cat"), ("dog", "train/dog"))(src), (src / "val/cat").mkdir(parents=True)],
        "folder 'val' holds no image; fill it or delete it"),
    "an empty class beside a list of patients": (
        lambda src: [(src / "bird").mkdir(), many_patients(src)], "class folder 'bird' holds no image"),
    "a class in no test": (
        moved(("cat/00.png", "test/cat/00.png"), ("cat/01.png", "val/cat/01.png"), ("cat", "train/cat"),
              ("dog/00.png", "val/dog/00.png"), ("dog", "train/dog")),
        "class 'dog' has no image in test; every class needs one in every split: add some, or give no test, which is",
    ),
    "a link out of the folder": (outside, "link.png: a link out of the folder"),
    "a folder by a link": (lambda src: (src / "bird").symlink_to(src / "cat"), "a link to a folder"),
    "a link to nowhere": (lambda src: (src / "cat/x.png").symlink_to("nothing"), "a link that leads nowhere"),
    "a link up": (lambda src: (src / "up").symlink_to(src.parent), "a link out of the folder"),
    "a pipe": (lambda src: os.mkfifo(src / "cat/x.png"), "neither file nor folder"),
    "a class name of nothing": (moved(("cat", "\u200b")), "src: the class folder of '\\u200b/00.png' has"),
    "a class name too long": (moved(("cat", "c" * 101)), "give a text of 1 to 100 characters"),
    # the images
    "all copies of one": (doubled, "class 'dog' has 1 different image; at least"),
    "more than half broken": (broken_half, "11 of 20 images cannot be used, 11 images (cat/00.png, cat/01.png"),
    "a bomb": (lambda src: (src / "cat/b.png").write_bytes(png(60_000, 60_000, b"")), "b.png: declares more pixels"),
    "a large page": (lambda src: (src / "cat/b.png").write_bytes(png(8200, 8200, b"")), "8200 x 8200, more than 67"),
    "a lie": (lambda src: (src / "cat/b.png").write_bytes(png(99, 99, zlib.compress(b"x" * 500))), "fewer pixels than"),
    "only blank": (lambda src: [put(src, f"{c}/{i:02}.png", np.zeros((28, 28), np.uint8))
                                for c in ("cat", "dog") for i in range(10)], "20 of 20 images cannot be used"),
    # the patients
    "two patients a class": (many_patients, "class 'cat' has 2 patients"),
}  # fmt: skip
TABLES = {
    "nothing": (raw_table(b""), "labels.csv: empty; write the columns"),
    "a header": (raw_table(b"file,label\n"), "a header and no image"),
    "blank lines": (raw_table(b"\n\n  \n"), "empty; write the columns"),
    "no file column": (rewritten("file,label", "image,label"), "no column file in 'image,label'"),
    "no label column": (rewritten("file,label", "file,class"), "no column label in 'file,class'"),
    "a column of findings each": (raw_table(b"file,mass,nodule,effusion\n0.png,1,0,1\n"), "are multi-label"),
    "label twice": (raw_table(b"file,label,Label\n0.png,a,b\n"), "column label is there twice"),
    "another separator": (raw_table(b"file|label\n0.png|a\n"), "no column file in 'file|label'"),
    "a short line": (raw_table(b"file,label\n0.png,a\n1.png\n"), "line 3 has 1 columns, the first 2"),
    "a comma too many": (raw_table(b"file,label\n0.png,a,b\n"), "line 2 has 3 columns, the first 2"),
    "a name of many pages": (raw_table(b"file,label," + 200_000 * b"x" + b"\n0.png,a,b\n"), "line 1 is no CSV (field"),
    "a cell of many pages": (raw_table(b"file,label\n0.png," + 200_000 * b"x" + b"\n"), "line 2 is no CSV (field"),
    "a short line of old": (raw_table(b"file,label\r0.png,a\r1.png\r"), "line 3 has 1 columns, the first 2"),
    "an open quotation": (raw_table(b'file,label\n"0.png,a\n'), "is no CSV"),
    "no label": (raw_table(b"file,label\n0.png,a\n1.png,\n"), "line 3 has no label"),
    "no name": (raw_table(b"file,label\n,a\n"), "line 2 names no file"),
    "an unknown file": (rewritten("3.png", "33.png"), "line 5: no file '33.png' below"),
    "other capitals": (rewritten("3.png", "3.PNG"), "no file '3.PNG', but '3.png'; write small and capital"),
    "no ending": (rewritten("\n3.png", "\n3"), "no file '3', but '3.png'; write the name with its ending"),
    "a name of two files": (
        lambda src: [put(src, "\u00e4.png", noise(50)), put(src, "a\u0308/\u00e4.png", noise(51)),
                     put(src, "\u00e4/\u00e4.png", noise(52)), rewritten("3.png", "\u00e4/a\u0308.png")(src)],
        "they differ in how an accent is stored only, rename one"),
    "a name in two folders": (
        lambda src: [moved(("3.png", "x/3.png"))(src), put(src, "y/3.png", noise(50))],
        "line 5: '3.png' may be x/3.png, y/3.png; write the folder too"),
    "one number": (lambda src: [rewritten(",a", ",1")(src), rewritten(",b", ",01")(src)], "'1' and '01' are one"),
    "a file twice": (rewritten("3.png,b", "2.png,a"), "'2.png' is in lines 4 and 5; keep one"),
    "a file of two classes": (rewritten("3.png,b", "2.png,b"), "two classes of one image are multi-label"),
    "a bar": (rewritten("3.png,b", "3.png,a|b"), "has the label 'a|b', several findings in one"),
    "labels joined": (rewritten("3.png,b", "3.png,a+b"), "several findings in one"),
    "one class": (lambda src: rewritten(",b", ",a")(src), "one class only ('a')"),
    "capitals": (rewritten("3.png,b", "3.png,B"), "classes 'b' and 'B' differ in capitals only"),
    "out of the folder": (rewritten("3.png", "../3.png"), "'../3.png' leads out of the folder"),
    "an absolute path": (rewritten("3.png", "/etc/passwd"), "'/etc/passwd' is not below"),
    "a Windows drive": (rewritten("3.png", "C:\\x\\3.png"), "is not below"),
    "a server": (rewritten("3.png", "\\\\server\\3.png"), "is not below"),
    "a text as image": (rewritten("3.png", "labels.csv"), "'labels.csv' is no PNG, JPEG, TIFF, BMP or DICOM"),
    "zeros": (raw_table("file,label\n0.png,a\n".encode("utf-16-le")), "not a text (or UTF-16 without its mark)"),
    "no encoding": (raw_table(b"file,label\n0.png,\x81\n"), "neither UTF-8, UTF-16 nor Windows-1252"),
    "half UTF-16": (raw_table(b"\xff\xfef\0i\0l\0e\0\n"), "not a text (or UTF-16 without"),
    "an image as table": (lambda src: shutil.copy(src / "0.png", src / "labels.csv"), "labels.csv"),
    "an unknown split": (raw_table(b"file,label,split\n0.png,a,holdout\n"), "split is 'holdout'; use train, val"),
    "half a split": (raw_table(b"file,label,split\n0.png,a,train\n1.png,b,\n"), "1 of 2 images have no split"),
    "no train": (raw_table(b"file,label,split\n0.png,a,val\n1.png,b,test\n"), "no image has the split train"),
    "labels as numbers of everything": (
        lambda src: table(src / "labels.csv", [(f"{i}.png", i) for i in range(20)]), "has 1 different im"),
    "a folder": (lambda src: ((src / "labels.csv").unlink(), (src / "labels.csv").mkdir()), "no such file; name a CSV"),
    "nowhere": (lambda src: (src / "labels.csv").unlink(), "labels.csv: no such file"),
}  # fmt: skip


def refused(drive, tmp_path, words, *argv):
    before = snapshot(tmp_path)
    code, lines, error = drive(*argv)
    assert code == 2, (lines, error)
    assert error.startswith("error: ")
    assert error.count("\n") == 0
    assert words in error
    assert len(error) < 700
    assert snapshot(tmp_path) == before, "nothing is written, and nothing changed"


@pytest.mark.parametrize("case", FOLDERS)
def test_bad_folders(case, drive, tmp_path):
    make, words = FOLDERS[case]
    src = classes(tmp_path / "src")
    make(src)
    labels = ["--labels", src / "labels.csv"] if (src / "labels.csv").exists() else []
    refused(drive, tmp_path, words, "--import", src, "--name", "mine", *labels)


@pytest.mark.parametrize("case", TABLES)
def test_bad_tables(case, drive, tmp_path):
    make, words = TABLES[case]
    flat(tmp_path / "src")
    make(tmp_path / "src")
    argv = ["--import", tmp_path / "src", "--name", "mine", "--labels", tmp_path / "src/labels.csv"]
    refused(drive, tmp_path, words, *argv)


FILES = {
    "no image": (lambda a: a.pop("val_images"), "no array 'val_images'; a MedMNIST file holds"),
    "several findings": (lambda a: a.update(val_labels=np.zeros((6, 14), np.uint8)), "multi-label sets cannot be used"),
    "fractions": (lambda a: a.update(val_labels=np.zeros(6)), "labels must be whole numbers"),
    "floats": (lambda a: a.update(val_images=a["val_images"] / 255), "store pixels as 0..255"),
    "a class that is nowhere": (lambda a: a.update(test_labels=a["test_labels"] + 3), "has no training image"),
    "one class": (
        lambda a: [a.update({f"{s}_labels": 0 * a[f"{s}_labels"]}) for s in SPLITS],
        "x.npz: one class only (no label is above 0)",
    ),
    "thousands": (
        lambda a: a.update(val_labels=a["val_labels"].astype(int) * 5000),
        "x.npz: a label is 5000; labels must be 0..K-1",
    ),
    "one image alone": (lambda a: a.update(train_images=np.uint8(3)), "train_images is a single number; expected N x"),
    "one label alone": (lambda a: a.update(val_labels=np.int64(1)), "val_labels is a single number; expected one"),
    "groups of one split": (lambda a: a.update(val_groups=np.arange(6)), "store all three or none"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_npz_files(case, drive, tmp_path):
    make, words = FILES[case]
    arrays = med_arrays()
    make(arrays)
    np.savez(tmp_path / "x.npz", **arrays)
    refused(drive, tmp_path, words, "--import", tmp_path / "x.npz", "--name", "mine")


OPTIONS = {
    "no name": ([], "--import needs the name of the new dataset"),
    "a published name": (["--name", "breastmnist"], "--name is 'breastmnist'"),
    "a published name at another size": (["--name", "breastmnist_64"], "not that of a published dataset"),
    "a refused name": (["--name", "chestmnist_224"], "--name is 'chestmnist_224'"),
    "a notebook's name": (["--name", "10_compare"], "--name is '10_compare'"),
    "capitals": (["--name", "Mine"], "small letters, digits and _"),
    "a path": (["--name", "../mine"], "small letters, digits and _"),
    "an empty name": (["--name", ""], "--import needs the name"),
    "an invisible title": (["--name", "mine", "--title", "\u200b"], "error: --title has"),
    "a licence of two lines": (["--name", "mine", "--licence", "a\nb"], "error: --licence has"),
    "class names of folders": (["--name", "mine", "--class-names", "a", "b"], "--class-names is for an npz file"),
    "a dataset too": (["--name", "mine", "--datasets", "digits,mine"], "--datasets does not go with --import"),
    "a list too": (["--name", "mine", "--list"], "--list does not go with --import"),
    "an empty table": (["--name", "mine", "--labels", ""], "--labels is empty"),
    "a table nowhere": (["--name", "mine", "--labels", "nowhere.csv"], "no such file; name a CSV"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options(case, drive, tmp_path):
    argv, words = OPTIONS[case]
    refused(drive, tmp_path, words, "--import", classes(tmp_path / "src"), *argv)


def test_bad_options_of_an_npz(drive, tmp_path):
    np.savez(tmp_path / "x.npz", **med_arrays())
    for argv, words in [
        (["--fit", "crop"], "--fit crop is for images that are made another size; add --size, or leave it out"),
        (["--class-names", "no", "no"], "error: --class-names has 'no' twice"),
        (["--class-names", "a\u0308", "\u00e4"], "twice; give each class a name of its own"),
        (["--class-names", "no", "\u200b"], "error: --class-names has '"),
    ]:
        refused(drive, tmp_path, words, "--import", tmp_path / "x.npz", "--name", "mine", *argv)


def test_bad_sources_and_options_that_need_one(drive, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    for argv, words in [
        (["--import", tmp_path / "nowhere"], "no such folder or file"),
        (["--import", tmp_path / "a.zip"], "neither a folder nor an npz file"),
        (["--import", ""], "--import is empty"),
        (["--import", tmp_path], "the data folder"),
        (["--labels", "x.csv"], "--labels is for --import FOLDER"),
        (["--replace"], "--replace is for --import FOLDER"),
    ]:
        refused(drive, tmp_path, words, *argv, *(["--name", "mine"] if "--import" in argv else []))
    with pytest.raises(SystemExit):
        run_all.main(["--import", str(tmp_path), "--size", "32"])


def test_the_tables_are_long_enough():
    assert len(FOLDERS) + len(TABLES) + len(FILES) + len(OPTIONS) >= 80


def test_the_options_that_argparse_offers_are_those_of_the_method():
    """run_all.py has them as literals, to answer --help without numpy."""
    assert (run_all.SIZES, run_all.FITS, run_all.COLOURS) == (own_images.SIZES, pictures.FITS, own_images.COLOURS)
    assert tuple(data.MIRROR) == run_all.MIRRORS
    assert set(run_all.IMPORT) - {"labels"} | {"source", "table", "dry"} == set(own_images.Wanted.__annotations__)


def test_a_folder_that_may_not_be_read_and_too_many_files(drive, tmp_path, monkeypatch):
    src = classes(tmp_path / "src")
    monkeypatch.setattr(own_files, "MOST_FILES", 10)
    refused(drive, tmp_path, "more than 10 files; import a part", "--import", src, "--name", "mine")
    monkeypatch.undo()
    scandir = os.scandir

    def closed(path="."):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InputError, match="cannot be looked into"):
        own_files.find(src)


def test_a_file_of_more_than_a_gigabyte_is_refused_unread(drive, tmp_path, monkeypatch):
    src = classes(tmp_path / "src")
    monkeypatch.setattr(pictures, "MOST_BYTES", 2000)
    put(src, "dog/large.png", noise(0, (99, 99)))
    refused(
        drive, tmp_path, "large.png: no ordinary file, or one of more than a gigabyte", "--import", src, "--name", "x"
    )


def test_what_no_run_could_hold_is_refused_before_an_image_is_opened(drive, tmp_path, monkeypatch):
    src = classes(tmp_path / "src")
    monkeypatch.setattr(own_images, "memory_limit", lambda: 50_000)
    monkeypatch.setattr(pictures, "read", None)
    refused(drive, tmp_path, "20 images of 28 x 28 pixels take 0.0 GiB", "--import", src, "--name", "mine")


# ------------------------------------------------------------------ what comes in


def test_a_folder_of_classes_comes_in_as_it_is(drive, tmp_path):
    src = classes(tmp_path / "src", 40, ("2 severe", "10 none", "1 mild"))
    before = snapshot(src)
    argv = ["--import", src, "--name", "mine", "--title", "My images", "--mirror", "both", "--licence", "CC0"]
    code, lines, _ = drive(*argv)
    assert code == 0
    assert lines[0] == ("found: 120 images of 3 classes (1 mild 40, 10 none 40, 2 severe 40), layout <class>/*")
    assert lines[1] == "colour: grey (no image has any)"
    assert "train: 84 images (1 mild 28, 10 none 28, 2 severe 28)" in lines
    assert snapshot(src) == before

    loaded = data.load("mine", str(tmp_path / "data"))
    assert (loaded.info.title, loaded.info.licence, loaded.info.hflip, loaded.info.vflip) == (
        "My images",
        "CC0",
        True,
        True,
    )
    assert loaded.class_names == ("1 mild", "10 none", "2 severe")
    assert [len(getattr(loaded, split)) for split in SPLITS] == [84, 12, 24]
    assert loaded.groups == {}
    wanted = sorted((noise(1000 * k + i).tobytes(), label) for k, label in [(0, 2), (1, 1), (2, 0)] for i in range(40))
    assert rows_of(np.load(tmp_path / "data/mine.npz")) == wanted


def test_a_data_folder_that_is_not_there_yet_is_made_by_an_import_alone(drive, tmp_path):
    (tmp_path / "data").rmdir()
    options = ("--import", classes(tmp_path / "src", 40), "--name", "mine")
    assert drive(*options, "--dry-run")[0] == 0
    assert not (tmp_path / "data").exists()
    assert drive("--datasets", "mine")[0] == 2, "only an import makes it"
    code, _, error = drive(*options, "--data-root", tmp_path / "none/data")
    assert (code, "which is not a folder; create it" in error) == (2, True), "nor the one above it"
    assert drive(*options)[0] == 0
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"mine.npz", "mine.json"}


def test_the_description_says_how_it_came_about_and_nothing_of_where(drive, tmp_path):
    src = classes(tmp_path / "src", 12)
    put(src, "cat/big.jpg", noise(1, (90, 60)))
    (src / "cat/broken.png").write_bytes(b"nothing")
    (src / "notes.txt").write_text("hello")
    (src / "cat/.DS_Store").write_bytes(b"")
    code, lines, _ = drive("--import", src, "--name", "mine")
    assert code == 0
    assert "passed over: 1 hidden file or folder" in lines
    assert "passed over: 1 other file (notes.txt), no PNG, JPEG, TIFF, BMP or DICOM" in lines
    assert "left out: 1 image (cat/broken.png) cannot be decoded" in lines
    assert "noted: 1 image (cat/big.jpg) not square: padded with black to squares (--fit)" in lines
    text = (tmp_path / "data/mine.json").read_text()
    about = json.loads(text)
    assert about["import"]["source"]["odd"] == {"broken": 1, "oblong": 1}
    assert about["import"]["source"]["formats"] == {"JPEG": 1, "PNG": 25}
    assert about["import"]["images"] == {"height": 28, "width": 28, "channels": 1}
    assert np.sum([about["import"]["counts"][split] for split in SPLITS], 0).tolist() == [13, 12]
    assert str(tmp_path) not in text
    assert "big" not in text
    arrays = dict(np.load(tmp_path / "data/mine.npz"))
    assert about["import"]["checksum"] == checksum(validate(arrays, 2, (1, 3), "")), "of the arrays as they are used"


def test_splits_that_are_given_are_kept_and_what_is_missing_is_cut_from_train(drive, tmp_path):
    for split in ("Train", "test"):
        classes(tmp_path / "src" / split, 20)
        for path in sorted((tmp_path / "src" / split).rglob("*.png")):  # other images in each
            put(path.parent, path.name, noise(hash_of(path)))
    code, lines, _ = drive("--import", tmp_path / "src", "--name", "mine")
    assert code == 0
    assert "not given: val; cut from train" in lines
    loaded = data.load("mine", str(tmp_path / "data"))
    assert [len(getattr(loaded, split)) for split in SPLITS] == [34, 6, 40]
    tests = sorted(noise(hash_of(path)).tobytes() for path in (tmp_path / "src/test").rglob("*.png"))
    assert sorted(image.numpy().tobytes() for image in loaded.test.images) == tests


def hash_of(path):
    return zlib.crc32(str(path).encode())


def test_patients_and_pixels_in_two_given_splits_are_moved_and_told(drive, tmp_path):
    rows = []
    for i in range(60):
        split = "train" if i < 30 else "val" if i < 40 else "test"
        rows.append((f"{i}.png", "ab"[i % 2], f"P{i}", split))
        put(tmp_path / "src", f"{i}.png", noise(i))
    rows[45] = (*rows[45][:2], "P3", "test")  # patient of train
    rows[35] = (*rows[35][:2], "P50", "val")  # patient of test
    shutil.copy(tmp_path / "src/7.png", tmp_path / "src/55.png")  # pixels of train
    made = table(tmp_path / "t.csv", rows, ("file", "label", "patient", "split"))
    code, lines, _ = drive("--import", tmp_path / "src", "--name", "mine", "--labels", made)
    assert code == 0
    assert "the same pixels: 1 image is a copy of another (0 in another class); kept together" in lines
    why = "their patient or pixels are in an earlier split too"
    assert f"moved: 3 images of 3 patients out of test: {why}" in lines
    loaded = data.load("mine", str(tmp_path / "data"))
    assert [len(getattr(loaded, split)) for split in SPLITS] == [32, 11, 17]
    kept = [set(loaded.groups[split].tolist()) for split in SPLITS]
    assert not kept[0] & kept[1]
    assert not kept[1] & kept[2]
    assert not kept[0] & kept[2]
    assert all(len(pairs) == 0 for pairs in loaded.shared.values())


def test_sixteen_bits_share_one_scale(drive, tmp_path):
    """A dark image stays darker than a bright one: the brightest of all decides, 12 bits here."""
    for k, name in enumerate(("a", "b")):
        for i in range(5):
            put(tmp_path / "src", f"{name}/{i}.png", noise(10 * k + i).astype(np.uint16) * (16 if k else 2))
    code, lines, _ = drive("--import", tmp_path / "src", "--name", "mine")
    assert code == 0
    assert any(line.startswith("noted: 10 images (a/0.png, a/1.png, a/2.png, ...) of 16 bits") for line in lines)
    assert "16 bits: 12 of them are used; the highest 8 are kept" in lines
    assert json.loads((tmp_path / "data/mine.json").read_text())["import"]["source"]["bits"] == 12
    wanted = sorted(((noise(10 * k + i) // (1 if k else 8)).tobytes(), k) for k in range(2) for i in range(5))
    assert rows_of(np.load(tmp_path / "data/mine.npz")) == wanted


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_bits_are_counted_before_an_image_is_resized(bits, drive, tmp_path):
    """An interpolated edge would go beyond them, and all images would have half their brightness."""
    for k, name in enumerate(("a", "b")):
        for i in range(5):
            pixels = noise(10 * k + i, (64, 64)).astype(np.uint16)
            pixels[20 + i : 44, 20 : 44 - k] = 2**bits - 1
            put(tmp_path / "src", f"{name}/{i}.png", pixels)
    code, lines, _ = drive("--import", tmp_path / "src", "--name", "mine")
    assert code == 0
    assert f"16 bits: {bits} of them are used; the highest 8 are kept" in lines
    arrays = np.load(tmp_path / "data/mine.npz")
    assert all((arrays[f"{split}_images"].max((1, 2)) == 255).all() for split in SPLITS)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_tiffs_of_which_zero_is_white_are_inverted_whatever_their_bits(bits, drive, tmp_path):
    """In one set with others, in one scale; what is beside an oblong one is black."""
    high = (2**bits - 1) // 255
    for k, name in enumerate(("a", "b")):
        (tmp_path / f"src/{name}").mkdir(parents=True)
        for i in range(6):
            values = noise(10 * k + i, (20, 28)).astype(np.uint8 if bits == 8 else np.uint16) * high
            values[0, 0] = 2**bits - 1
            (tmp_path / f"src/{name}/{i}.tif").write_bytes(tiff(2**bits - 1 - values if i % 2 else values, i % 2))
    code, lines, _ = drive("--import", tmp_path / "src", "--name", "mine")
    assert code == 0
    names = "a/1.tif, a/3.tif, a/5.tif"
    assert any(line.startswith(f"noted: 6 images ({names}, ...) of which 0 is white") for line in lines)
    wanted = []
    for k in range(2):
        for i in range(6):
            square = np.zeros((28, 28), np.uint8)
            square[4:24] = (noise(10 * k + i, (20, 28)).astype(int) * high) >> (bits - 8)
            square[4, 0] = 255
            wanted.append((square.tobytes(), k))
    assert rows_of(np.load(tmp_path / "data/mine.npz")) == sorted(wanted)


@pytest.mark.parametrize(("colour", "channels"), [("auto", 3), ("grey", 1), ("rgb", 3)])
def test_one_image_in_colour_makes_a_set_in_colour_unless_it_is_forced(colour, channels, drive, tmp_path):
    src = classes(tmp_path / "src")
    put(src, "cat/coloured.png", noise(7, (28, 28, 3)))
    grey = noise(8)
    put(src, "cat/grey.png", np.repeat(grey[..., None], 3, -1))
    code, lines, _ = drive("--import", src, "--name", "mine", "--colour", colour)
    assert code == 0
    kind, forced = ("grey" if channels == 1 else "RGB"), "" if colour == "auto" else f", --colour {colour}"
    assert f"colour: {kind} (1 image (cat/coloured.png) in colour{forced})" in lines
    loaded = data.load("mine", str(tmp_path / "data"))
    assert loaded.shape == (channels, 28, 28)
    every = np.concatenate([getattr(loaded, split).images.numpy() for split in SPLITS])
    assert any((image == grey).all() for image in every)


def test_colour_of_sixteen_bits_is_left_out_by_name_or_refused(drive, tmp_path):
    src = classes(tmp_path / "src", 12)
    for i in range(3):
        (src / f"cat/deep{i}.png").write_bytes(deep_png(np.full((28, 28, 3), 4095 - i), 2))
    code, lines, _ = drive("--import", src, "--name", "mine")
    assert code == 0
    told = f"left out: 3 images (cat/deep0.png, cat/deep1.png, cat/deep2.png) {pictures.RULES['channels']}"
    assert told in lines
    assert "16 bits (colour or transparency), of which only 8 could be read: save them with 8 bits" in told
    for path in (src / "cat").glob("0*.png"):
        path.write_bytes(deep_png(np.full((28, 28, 3), 4095), 2))
    for path in (src / "dog").glob("0*.png"):
        path.write_bytes(deep_png(np.full((28, 28, 3), 4095), 2))
    refused(drive, tmp_path, "with several channels of 16 bits", "--import", src, "--name", "yours")


def test_colour_as_grey_in_all_images_is_grey(drive, tmp_path):
    """As an ultrasound machine exports it: three equal channels, and a JPEG's small errors."""
    for k, name in enumerate(("a", "b")):
        for i in range(6):
            smooth = np.asarray(Image.fromarray(noise(10 * k + i, (7, 7))).resize((28, 28)))
            put(tmp_path / "src", f"{name}/{i}.jpg", np.repeat(smooth[..., None], 3, -1), quality=80)
    assert drive("--import", tmp_path / "src", "--name", "mine")[0] == 0
    assert data.load("mine", str(tmp_path / "data")).shape == (1, 28, 28)


WRITINGS = {
    "an old Macintosh": {"ends": "\r"}, "Windows": {"ends": "\r\n"},
    "UTF-8": {}, "with its mark": {"encoding": "utf-8-sig"}, "UTF-16": {"encoding": "utf-16"},
    "semicolons": {"mark": ";"}, "tabs": {"mark": "\t", "columns": (" File ", "LABEL")},
    "the bundle's own": {"columns": ("file_name", "label")},
}  # fmt: skip


@pytest.mark.parametrize("case", WRITINGS)
def test_tables_as_people_write_them(case, drive, tmp_path):
    made = flat(tmp_path / "src", **WRITINGS[case])
    code, lines, _ = drive("--import", tmp_path / "src", "--name", "mine", "--labels", made)
    assert code == 0
    assert lines[0] == "found: 20 images of 2 classes (a 10, b 10), layout a table"
    wanted = sorted((noise(i).tobytes(), i % 2) for i in range(20))
    assert rows_of(np.load(tmp_path / "data/mine.npz")) == wanted


def test_a_table_in_latin_1_and_from_windows(drive, tmp_path):
    for i in range(12):
        put(tmp_path / "src", f"deep/er/{i}.png", noise(i))
    rows = "".join(f"deep\\er\\{i}.png;{'gutartig' if i % 2 else 'bösartig'};1\r\n" for i in range(11))
    (tmp_path / "t.csv").write_bytes(("file;label;age\r\n" + rows + "\r\n").encode("latin-1"))
    code, lines, _ = drive("--import", tmp_path / "src", "--name", "mine", "--labels", tmp_path / "t.csv")
    assert code == 0
    assert "t.csv is not UTF-8 and was read as Windows-1252 (Latin-1): look at the class names" in lines
    assert "passed over in t.csv: 1 column (age)" in lines
    assert "passed over: 1 image (deep/er/11.png), which t.csv does not name" in lines
    assert data.load("mine", str(tmp_path / "data")).class_names == ("bösartig", "gutartig")


def test_accents_may_be_stored_in_one_sign_or_in_two(drive, tmp_path):
    """As a Mac's disk has them, and as a table is typed: names of files, classes and patients."""
    one, two = "L\u00e4sion", "La\u0308sion"
    rows = []
    for i in range(24):
        put(tmp_path / "src", f"{two}/{(one, two)[i % 2]}{i}.png", noise(i))
        name = (f"{one}/{one}{i}.png", f"{one}{i}.png", f"{two}/{two}{i}.png", f"{tmp_path / 'src' / one / one}{i}.png")
        rows.append((name[i % 4], ("gut", one, "gut", two)[i % 4], f"{(one, two)[i // 2 % 2]}{i // 4}"))
    made = table(tmp_path / "t.csv", rows, ("file", "label", "patient"))
    code, lines, error = drive("--import", tmp_path / "src", "--name", "mine", "--labels", made)
    assert code == 0, error
    assert lines[0] == f"found: 24 images of 2 classes ({one} 12, gut 12), layout a table"
    assert len(np.unique(np.concatenate([*data.load("mine", str(tmp_path / "data")).groups.values()]))) == 6

    # Split folders of two systems
    for split, name in (("train", one), ("val", two), ("test", one)):
        for i in range(6):
            put(tmp_path / "parts", f"{split}/{name}/{i}.png", noise(hash_of((split, i))))
            put(tmp_path / "parts", f"{split}/gut/{i}.png", noise(hash_of((split, i, "gut"))))
    code, lines, _ = drive("--import", tmp_path / "parts", "--name", "yours")
    assert (code, lines[0]) == (0, f"found: 36 images of 2 classes ({one} 18, gut 18), layout train|val|test/<class>/*")


def test_blanks_around_a_name_may_be_written_or_not(drive, tmp_path):
    rows = []
    for i in range(24):
        put(tmp_path / "src", (f" x{i}.png", f"y{i}.png", f"z {i}.png")[i % 3], noise(i))
        rows.append(((f" x{i}.png", f" y{i}.png ", f"z {i}.png")[i % 3], "ab"[i % 2]))
    made = table(tmp_path / "t.csv", rows)
    code, lines, error = drive("--import", tmp_path / "src", "--name", "mine", "--labels", made)
    assert (code, lines[0]) == (0, "found: 24 images of 2 classes (a 12, b 12), layout a table"), error


def test_grades_are_plain_classes_in_the_order_of_their_numbers(drive, tmp_path):
    rows = [(f"{i}.png", (0, 1, 2, 10)[i % 4]) for i in range(24)]
    for i, (name, _) in enumerate(rows):
        put(tmp_path / "src", name, noise(i))
    made = table(tmp_path / "t.csv", rows)
    assert drive("--import", tmp_path / "src", "--name", "mine", "--labels", made)[0] == 0
    assert data.load("mine", str(tmp_path / "data")).class_names == ("0", "1", "2", "10")


def test_dicom_files_bring_their_patients_whatever_their_names(drive, tmp_path):
    for i in range(24):
        (tmp_path / f"src/{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        more = {"PatientID": f"Doe^{i // 4}", "WindowCenter": "128", "WindowWidth": "256"}
        dicom(tmp_path / f"src/{'ab'[i % 2]}/{['IM%04d', '1.2.840.%d', '%d.dcm'][i % 3] % i}", noise(i), **more)
    code, lines, _ = drive("--import", tmp_path / "src", "--name", "mine")
    assert code == 0
    assert "patients: as the DICOM files name them, by their PatientID" in lines
    loaded = data.load("mine", str(tmp_path / "data"))
    assert rows_of(np.load(tmp_path / "data/mine.npz")) == sorted((noise(i).tobytes(), i % 2) for i in range(24))
    assert sorted(np.bincount(np.concatenate([*loaded.groups.values()])).tolist()) == [4] * 6
    assert "Doe" not in (tmp_path / "data/mine.json").read_text()


def dicom_classes(folder, patient, count=12):
    for k, name in enumerate("ab"):
        for i in range(count):
            (folder / name).mkdir(parents=True, exist_ok=True)
            more = {"WindowCenter": "128", "WindowWidth": "256", "PatientID": patient(k, i)}
            dicom(folder / name / f"{i:02}.dcm", noise(100 * k + i), **more)
    return folder


def test_a_dicomdir_is_no_image(drive, tmp_path):
    src = dicom_classes(tmp_path / "src", lambda k, i: f"P{k}{i}")
    dicom(src / "DICOMDIR", noise(5))
    code, lines, _ = drive("--import", src, "--name", "mine")
    assert code == 0
    assert "passed over: 1 list (DICOMDIR) of DICOM files, no image" in lines


def test_whose_patients_count_is_told(drive, tmp_path):
    """A table's, else a DICOM file's own; a blank cell says that nobody knows."""
    src = dicom_classes(tmp_path / "src", lambda k, i: f"own{k}{i // 4}")
    rows = [(f"a/{i:02}.dcm", f"P{i // 6}" if i < 9 else " ") for i in range(12)]
    made = table(tmp_path / "t.csv", rows, ("file", "patient"))
    code, lines, error = drive("--import", src, "--name", "mine", "--labels", made)
    assert code == 0, error
    some = "12 images (b/00.dcm, b/01.dcm, b/02.dcm, ...)"
    assert f"patients: as the DICOM files name them ({some}), by their PatientID" in lines
    lone = "without a patient: 3 images (a/09.dcm, a/10.dcm, a/11.dcm); each counts as a patient of its own"
    assert lone in lines
    groups = np.concatenate([*data.load("mine", str(tmp_path / "data")).groups.values()])
    assert sorted(np.bincount(groups)) == [1, 1, 1, 3, 4, 4, 4, 6]


def test_one_mark_for_every_patient_is_named_and_a_table_gets_out_of_it(drive, tmp_path):
    src = dicom_classes(tmp_path / "src", lambda k, i: "ANONYMOUS")
    named = "class 'a' has 1 patient (copies of an image count as one); at least 3 are needed, one for each split"
    refused(drive, tmp_path, named, "--import", src, "--name", "mine")
    cause = "the DICOM files' PatientID names 1 patient: if that is a mark of de-identification, name the patients in"
    refused(drive, tmp_path, cause, "--import", src, "--name", "mine")
    made = table(tmp_path / "t.csv", [(f"{c}/{i:02}.dcm", "") for c in "ab" for i in range(12)], ("file", "patient"))
    code, lines, _ = drive("--import", src, "--name", "mine", "--labels", made)
    assert code == 0
    assert any(line.startswith("without a patient: 24 images (a/00.dcm, ") for line in lines)
    assert data.load("mine", str(tmp_path / "data")).groups == {}

    # In splits that are given, where all would go to train
    for split in ("train", "val", "test"):
        dicom_classes(tmp_path / "parts" / split, lambda k, i: "ANONYMOUS")
        for path in sorted((tmp_path / "parts" / split).rglob("*.dcm")):
            dicom(path, noise(hash_of(path)), PatientID="ANONYMOUS")
    words = "class 'a' has no image in val (all 12 are moved); every class needs one in every split: add some"
    refused(drive, tmp_path, words, "--import", tmp_path / "parts", "--name", "yours")


def test_a_class_of_which_nothing_is_left_is_told_as_such(drive, tmp_path):
    src = classes(tmp_path / "src", 20)
    for path in (src / "cat").iterdir():
        path.write_bytes(b"no image")
    for i in range(20, 30):
        put(src, f"dog/{i}.png", noise(i + 5000))
    refused(drive, tmp_path, "20 images of class 'cat', and none can be used", "--import", src, "--name", "mine")
    parts = tmp_path / "parts"
    for split in SPLITS:
        classes(parts / split, 6)
        for path in sorted((parts / split).rglob("*.png")):
            put(path.parent, path.name, noise(hash_of(path)))
    for path in (parts / "val/dog").iterdir():
        path.write_bytes(b"no image")
    refused(drive, tmp_path, "6 images of class 'dog' in val, and none can be used", "--import", parts, "--name", "x")
    shutil.rmtree(parts / "val")
    classes(parts / "test", 2, ("bird",))
    refused(drive, tmp_path, "class 'bird' has no image in train; every class", "--import", parts, "--name", "x")


def test_a_dry_run_tells_all_and_writes_nothing(drive, tmp_path):
    src = classes(tmp_path / "src")
    code, lines, _ = drive("--import", src, "--name", "mine", "--dry-run")
    assert code == 0
    assert lines[-2] == f"would write {tmp_path / 'data/mine.npz'} and mine.json"
    assert [*(tmp_path / "data").iterdir()] == []


# ------------------------------------------------------------------ npz files


def test_an_npz_keeps_its_splits_its_arrays_and_its_groups(drive, tmp_path):
    arrays = med_arrays((30, 12, 25), channels=3) | {
        f"{split}_groups": 7 * (np.arange(n) // 2) + 10**6 * k for k, (split, n) in enumerate(zip(SPLITS, (30, 12, 25)))
    }
    arrays["val_images"][3] = arrays["train_images"][5]
    np.savez(tmp_path / "x.npz", **arrays, notes=np.zeros(3))
    argv = ["--import", tmp_path / "x.npz", "--name", "mine", "--class-names", "no, none", "yes"]
    assert drive(*argv)[0] == 2, "12 validation images, one of them of train: fewer than 20 are new"
    arrays["val_images"][3] ^= 1
    np.savez(tmp_path / "x.npz", **arrays, notes=np.zeros(3))
    assert drive(*argv)[0] == 0
    loaded = data.load("mine", str(tmp_path / "data"))
    assert loaded.class_names == ("no, none", "yes")
    for split in SPLITS:
        images = getattr(loaded, split).images.numpy().transpose(0, 2, 3, 1)
        assert np.array_equal(images, arrays[f"{split}_images"])
    whose = [arrays[f"{split}_groups"] for split in SPLITS]
    assert np.array_equal(
        np.concatenate([loaded.groups[split] for split in SPLITS]),
        np.unique(np.concatenate(whose), return_inverse=True)[1],
    ), "the same patients, under other numbers"


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_patients_in_two_splits_of_an_npz_are_told_by_the_import_and_before_every_run(shape, drive, tmp_path):
    arrays = med_arrays((30, 12, 25))
    for split, low in (("train", 0), ("val", 28), ("test", 28)):
        n = len(arrays[f"{split}_labels"])
        arrays[f"{split}_groups"] = (1000 + 3 * (low + np.arange(n))).reshape(shape)
    np.savez(tmp_path / "x.npz", **arrays)
    told = "the same patients in two splits: 2 of val in train too; 2 of test in train too; 12 of test in val too; "
    code, lines, _ = drive("--import", tmp_path / "x.npz", "--name", "mine")
    assert code == 0
    assert any(line.startswith(told) for line in lines)
    groups = data.load("mine", str(tmp_path / "data")).groups
    assert groups["train"].tolist() == [*range(30)], "not the patients' own numbers"
    assert groups["val"].tolist() == [*range(28, 40)]
    assert groups["test"].tolist() == [*range(28, 53)]
    _, lines, _ = drive("--datasets", "mine", "--profile", "smoke", "--dry-run")
    assert any(told in line for line in lines)


def test_an_npz_at_another_size_and_without_colour(drive, tmp_path):
    arrays = med_arrays((30, 12, 25), channels=3, size=56)
    np.savez(tmp_path / "x.npz", **arrays)
    code, lines, _ = drive("--import", tmp_path / "x.npz", "--name", "mine", "--size", 28, "--colour", "grey")
    assert code == 0
    assert "size: from 56 x 56 to 28 x 28 pixels" in lines
    assert "classes: 0, 1; --class-names gives them names" in lines
    made = data.load("mine", str(tmp_path / "data"))
    assert made.shape == (1, 28, 28)
    one = Image.fromarray(arrays["test_images"][4]).resize((28, 28), Image.Resampling.BICUBIC).convert("L")
    assert np.array_equal(made.test.images[4, 0].numpy(), np.asarray(one))


# ------------------------------------------------------------------ once more, and other content


def test_the_same_again_is_already_there_and_other_content_needs_replace(drive, tmp_path):
    src = classes(tmp_path / "src")
    argv = ["--import", src, "--name", "mine"]
    assert drive(*argv)[0] == 0
    before = snapshot(tmp_path / "data")
    code, lines, _ = drive(*argv)
    assert (code, lines[-2]) == (0, f"already there: {tmp_path / 'data/mine.npz'}")
    assert snapshot(tmp_path / "data") == before
    put(src, "cat/00.png", noise(99))
    refused(drive, tmp_path, "another set has this name; choose another --name, or add --replace", *argv)
    refused(drive, tmp_path, "another set has this name", "--import", src, "--name", "mine", "--mirror", "both")
    first = data.check("mine", str(tmp_path / "data"))
    assert drive(*argv, "--replace")[0] == 0
    assert data.check("mine", str(tmp_path / "data")) != first
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"mine.npz", "mine.json"}


def test_what_a_person_put_there_by_hand_is_never_overwritten_unasked(drive, tmp_path):
    src = classes(tmp_path / "src")
    own_set(tmp_path / "data", med_arrays())
    refused(drive, tmp_path, "another set has this name", "--import", src, "--name", "mine")
    (tmp_path / "data/mine.json").unlink()
    refused(drive, tmp_path, "another set has this name", "--import", src, "--name", "mine")
    (tmp_path / "data/yours.json").symlink_to(tmp_path / "data/mine.npz")
    refused(drive, tmp_path, "a link or folder, not a file", "--import", src, "--name", "yours", "--replace")


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("at", ["savez", "first", "second"])
def test_both_files_or_none(at, there, drive, tmp_path, monkeypatch):
    """The disk is full, or a rename fails: what stood before stands."""
    src = classes(tmp_path / "src")
    if there:
        own_set(tmp_path / "data", med_arrays())
    before = snapshot(tmp_path / "data")
    replace, calls = os.replace, []

    def failing(*args):
        calls.append(args)
        if len(calls) == {"first": 1, "second": 2}.get(at):
            raise OSError(28, "No space left on device")
        return replace(*args)

    def full(*args, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(own_images.np, "savez_compressed", full) if at == "savez" else None
    monkeypatch.setattr(own_images.os, "replace", failing)
    code, _, error = drive("--import", src, "--name", "mine", "--replace")
    assert code == 2
    assert "cannot be written (No space left on device)" in error
    assert snapshot(tmp_path / "data") == before


def test_images_that_are_not_those_of_the_description_are_refused(drive, tmp_path):
    """A kill between the two renames, or a file that somebody changed."""
    src = classes(tmp_path / "src")
    assert drive("--import", src, "--name", "mine")[0] == 0
    arrays = dict(np.load(tmp_path / "data/mine.npz"))
    arrays["train_images"][0, 0, 0] ^= 1
    np.savez(tmp_path / "data/mine.npz", **arrays)
    with pytest.raises(InputError, match=r"not the images that mine.json was written with; import it again"):
        data.check("mine", str(tmp_path / "data"))
    about = json.loads((tmp_path / "data/mine.json").read_text())
    del about["import"]
    (tmp_path / "data/mine.json").write_text(json.dumps(about))
    assert data.check("mine", str(tmp_path / "data"))


@pytest.mark.parametrize("told", [None, 3, [], {}, {"checksum": 5}, {"checksum": "abc"}])
def test_a_key_import_of_another_form_is_refused(told, tmp_path):
    own_set(tmp_path, med_arrays(), **{"import": told})
    with pytest.raises(InputError, match="import must be an object with the checksum"):
        data.check("mine", str(tmp_path))


def test_what_belongs_to_a_sets_identity(drive, tmp_path):
    """Pixels, labels, patients and the four keys; how it came about does not: no number depends on it otherwise."""
    src = classes(tmp_path / "src")
    patients = table(tmp_path / "p.csv", [(f"{c}/{i:02}.png", f"{c}{i}") for c in ("cat", "dog") for i in range(10)],
                     ("file", "patient"))  # fmt: skip
    drive("--import", src, "--name", "plain")
    drive("--import", src, "--name", "again", "--title", "plain", "--fit", "crop")
    drive("--import", src, "--name", "whose", "--title", "plain", "--labels", patients)
    sums = {name: data.check(name, str(tmp_path / "data")) for name in ("plain", "again", "whose")}
    arrays = dict(np.load(tmp_path / "data/plain.npz"))
    about = json.loads((tmp_path / "data/plain.json").read_text())
    about.pop("import")
    own_set(tmp_path / "data", arrays, "hand", **about)
    assert sums["plain"] == sums["again"] == data.check("hand", str(tmp_path / "data"))
    assert sums["whose"] != sums["plain"]


DIGITS = "6a821eb7bbd3a710c6e7f2c6731396c804716b017f6949c9d6625cfb5b691704"
BREAST = "9f6ca57fcbf46b44ef1233d4f6abbf4eb4491410212924da7298890b60edc5c7"
MINE = "358d8167508e90d604ffe62965b4d64de038301c4976dcaeed31ed897300ae1b"  # conftest's, with four keys


def test_no_identity_of_before_has_changed(tmp_path, medical):
    """SHA-256 sums that the code before imports gave: what was run then is not run again for its data."""
    assert data.check("digits") == DIGITS
    assert data.check("breastmnist", medical) == BREAST
    own_set(tmp_path, med_arrays())
    assert data.check("mine", str(tmp_path)) == MINE


# ------------------------------------------------------------------ cutting


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_no_patient_is_cut_and_every_class_is_in_every_split(draw):
    classes_, patients = draw.draw(st.integers(2, 6)), draw.draw(st.integers(6, 60))
    of = draw.draw(st.lists(st.integers(1, 9), min_size=patients, max_size=patients))
    main = [draw.draw(st.integers(0, classes_ - 1)) for _ in range(patients)]
    blocks = np.repeat(np.arange(patients), of)
    labels = np.repeat(main, of)
    names = [f"class {k}" for k in range(classes_)]
    there = np.bincount(main, minlength=classes_)
    if there.min() < 3:
        with pytest.raises(InputError, match="at least 3 are needed, one for each split"):
            own_images.cut(blocks, labels, names)
        return
    places = own_images.cut(blocks, labels, names)
    assert np.array_equal(places, own_images.cut(blocks, labels, names)), "the same every time"
    for patient in range(patients):
        assert len(np.unique(places[blocks == patient])) == 1
    for k in range(classes_):
        assert set(places[labels == k]) == {0, 1, 2}
    assert abs((places == 0).mean() - 0.7) < 0.25 + 3 * classes_ * 9 / len(labels)


def test_single_images_are_cut_to_the_last_one():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    places = own_images.cut(np.arange(1000), labels, ["a", "b", "c"])
    for k, n in enumerate((700, 200, 100)):
        assert np.bincount(places[labels == k]).tolist() == [n * 7 // 10, n // 10, n // 5]


def test_patients_of_a_split_are_like_those_of_the_others():
    """Neither large nor small ones gather in training."""
    rng = np.random.default_rng(0)
    of = rng.integers(1, 9, 600)
    blocks = np.repeat(np.arange(600), of)
    places = own_images.cut(blocks, rng.integers(0, 2, len(blocks)), ["a", "b"])
    sizes = [np.mean(of[np.unique(blocks[places == split])]) for split in range(3)]
    assert max(sizes) - min(sizes) < 1
    assert np.bincount(places) / len(places) == pytest.approx([0.7, 0.1, 0.2], abs=0.01)


def test_a_chain_of_patients_and_pixels_is_one_block():
    patients, alike = np.array([0, 1, 1, 2, 3, 4]), np.array([0, 0, 1, 1, 2, 3])
    assert own_images.joined(patients, alike).tolist() == [0, 0, 0, 0, 1, 2]


def test_unknown_patients_are_each_alone():
    assert own_images.numbered(["x", "", "y", "x", ""]).tolist() == [0, 1, 2, 0, 3]


# ------------------------------------------------------------------ many


def test_a_hundred_thousand_files_are_listed_and_cut_in_seconds(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"src/{name}").mkdir(parents=True)
        first = tmp_path / f"src/{name}/00000.png"
        first.write_bytes(b"")
        folder = os.open(first.parent, os.O_DIRECTORY)
        for i in range(1, 50_000):
            os.close(os.open(f"{i:05}.png", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        os.close(folder)
    rows = [(f"{name}/{i:05}.png", f"P{i // 2}{name}") for name in "ab" for i in range(50_000)]
    made = table(tmp_path / "t.csv", rows, ("file", "patient"))
    began = time.process_time()
    found = own_files.find(tmp_path / "src", made)
    assert len(found.items) == 100_000
    groups = own_images.numbered([item.patient for item in found.items])
    labels = np.array([found.classes.index(item.label) for item in found.items])
    places = own_images.cut(groups, labels, found.classes)
    assert np.bincount(places).tolist() == [70_000, 10_000, 20_000]
    assert time.process_time() - began < 20


# ------------------------------------------------------------------ real images


def breast_folder(medical, folder):
    """900 PNGs of real ultrasound in two class folders, and a made-up list of 300 patients."""
    file = np.load(f"{medical}/breastmnist.npz")
    images = np.concatenate([file[f"{split}_images"] for split in SPLITS])
    labels = np.concatenate([file[f"{split}_labels"][:, 0] for split in SPLITS])
    images, labels = np.concatenate([images, images[:120, :, ::-1]]), np.concatenate([labels, labels[:120]])
    rng, rows = np.random.default_rng(1), []
    for i, (image, label) in enumerate(zip(images, labels)):
        path = put(folder / "src", f"{('malignant', 'benign')[label]}/{i:04}.png", image)
        rows.append((f"{path.parent.name}/{path.name}", f"P{rng.integers(300):03}"))
    return images, labels, rows, table(folder / "patients.csv", rows, ("file", "patient"))


def test_real_ultrasound_with_a_list_of_patients(medical, drive, tmp_path):
    images, labels, rows, patients = breast_folder(medical, tmp_path)
    argv = ["--import", tmp_path / "src", "--labels", patients, "--name", "breast_own", "--mirror", "left-right"]
    code, lines, _ = drive(*argv)
    assert code == 0
    assert lines[0] == "found: 900 images of 2 classes (benign 664, malignant 236), layout <class>/*"
    assert "the same pixels: 1 image is a copy of another (1 in another class); kept together" in lines

    # Every image is there once, with its label and its patient
    loaded = data.load("breast_own", str(tmp_path / "data"))
    assert sum(len(getattr(loaded, split)) for split in SPLITS) == 900
    whose = {}
    for image, label, (_, patient) in zip(images, labels, rows):
        whose.setdefault((image.tobytes(), 1 - label), set()).add(patient)
    number = {}
    for split in SPLITS:
        part = getattr(loaded, split)
        for image, label, group in zip(part.images.numpy(), part.labels.numpy(), loaded.groups[split]):
            (patient,) = whose.pop((image.tobytes(), int(label)))
            assert number.setdefault(int(group), patient) == patient
    assert whose == {}
    assert len(set(number.values())) == len(number) == len({patient for _, patient in rows})
    kept = [set(loaded.groups[split].tolist()) for split in SPLITS]
    assert sum(map(len, kept)) == len(set.union(*kept)), "nobody is in two splits"
    shares = [np.bincount(getattr(loaded, split).labels.numpy())[1] / len(getattr(loaded, split)) for split in SPLITS]
    assert shares == pytest.approx([236 / 900] * 3, abs=0.02)


def test_real_fundus_images_of_another_form_with_a_table(medical, drive, tmp_path):
    file = np.load(f"{medical}/retinamnist.npz")
    images = np.concatenate([file[f"{split}_images"] for split in SPLITS])[:1200]
    grades = np.concatenate([file[f"{split}_labels"][:, 0] for split in SPLITS])[:1200]
    names = ["none", "mild", "mild", "severe", "severe"]
    rows = [(f"{i}.png", names[grade]) for i, grade in enumerate(grades)]
    for (name, _), image in zip(rows, images):
        put(tmp_path / "src", name, np.asarray(Image.fromarray(image).resize((100, 80))))
    made = table(tmp_path / "t.csv", rows, mark=";", encoding="utf-16")
    code, lines, _ = drive("--import", tmp_path / "src", "--labels", made, "--name", "retina_own", "--mirror", "both")
    assert code == 0
    assert "noted: 1,200 images (0.png, 1.png, 10.png, ...) not square: padded with black to squares (--fit)" in lines
    loaded = data.load("retina_own", str(tmp_path / "data"))
    assert loaded.class_names == ("mild", "none", "severe")
    assert loaded.shape == (3, 28, 28)
    wanted = []
    for (name, label), _ in zip(rows, images):
        square = Image.new("RGB", (28, 28))
        square.paste(Image.open(tmp_path / "src" / name).resize((28, 22), Image.Resampling.BICUBIC), (0, 3))
        wanted.append((np.asarray(square).tobytes(), loaded.class_names.index(label)))
    assert rows_of(np.load(tmp_path / "data/retina_own.npz")) == sorted(wanted)


REBUILT = {
    "blood_rebuilt": ("Blood (rebuilt)", "both", "CC BY 4.0", (11959, 1712, 3421), (3, 28, 28), (
        "basophil", "eosinophil", "erythroblast", "immature granulocytes", "lymphocyte", "monocyte", "neutrophil",
        "platelet")),
    "pneumonia_rebuilt": ("Pneumonia (rebuilt)", "left-right", "CC BY 4.0", (4708, 524, 624), (1, 28, 28), (
        "normal", "pneumonia")),
    "ham10000_lesions": ("HAM10000 lesions", "both", "CC BY-NC 4.0", (4189, 597, 1198), (3, 28, 28), (
        "akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")),
}  # fmt: skip


@pytest.mark.parametrize("name", REBUILT)
def test_rebuilt_files_come_in_as_they_are(name, medical, drive, tmp_path):
    title, mirror, licence, sizes, shape, names = REBUILT[name]
    more = ["--title", title, "--mirror", mirror, "--licence", licence, "--class-names", *names]
    code, lines, _ = drive("--import", f"{medical}/{name}.npz", "--name", name, *more)
    assert code == 0
    assert any("8 of val in train too" in line for line in lines) == (name == "pneumonia_rebuilt")
    loaded, file = data.load(name, str(tmp_path / "data")), np.load(f"{medical}/{name}.npz")
    assert (loaded.info.title, loaded.class_names, loaded.shape) == (title, names, shape)
    assert tuple(len(getattr(loaded, split)) for split in SPLITS) == sizes
    for split in SPLITS:
        found = getattr(loaded, split)
        assert np.array_equal(found.labels.numpy(), np.ravel(file[f"{split}_labels"]))
        there = found.images.numpy().transpose(0, 2, 3, 1)
        assert np.array_equal(there, file[f"{split}_images"].reshape(there.shape))


def test_the_command_that_a_refusal_prints_works(medical, drive, tmp_path):
    """A file that is not the published one, under a published name."""
    arrays = dict(np.load(f"{medical}/breastmnist.npz"))
    arrays["train_labels"][0] ^= 1
    np.savez(tmp_path / "data/breastmnist.npz", **arrays)
    code, _, error = drive("--datasets", "breastmnist", "--dry-run")
    assert code == 2
    assert "damaged or not the published file" in error
    command = error.split("import it under another name: run_all.py ")[1]
    assert drive(*shlex.split(command))[0] == 0
    loaded = data.load("breastmnist_own", str(tmp_path / "data"))
    assert loaded.class_names == ("malignant", "normal, benign")
    assert (loaded.info.hflip, loaded.info.vflip, loaded.info.licence) == (True, False, "CC BY 4.0")
    assert loaded.info.resnet18 is None


@pytest.mark.slow
def test_an_imported_set_runs(medical, drive, tmp_path):
    """The real driver and notebooks, as far as the Generator."""
    _, _, _, patients = breast_folder(medical, tmp_path)
    drive("--import", tmp_path / "src", "--labels", patients, "--name", "breast_own")
    argv = ["--profile", "smoke", "--datasets", "breast_own", "--until", "generator", "--threads", "1"]
    env = {**os.environ, "KR_DATA": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, run_all.__file__, *argv], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/smoke/breast_own/seed0"
    manifest = json.loads((folder / "02_generator/manifest.json").read_text())
    assert manifest["ingredients"]["checksum"] == data.check("breast_own", str(tmp_path / "data"))
    assert np.load(folder / "02_generator/samples.npz")["images"].shape[-3:] == (1, 28, 28)
