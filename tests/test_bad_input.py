"""Bad input, everywhere it can come in: one line that says what, where and what to do; nothing is harmed.

Most cases go through the driver's own `main`; what would run a notebook is replaced by an error, so that a bad
input that is let through is seen.
"""

import io
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from conftest import RECIPE, med_arrays, own_set
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import run_all
from kr_utils import InputError, classifier, data, dataset_file, generator, profiles, runs, sampling, stages
from kr_utils.driver import execute, plan

ROOT = stages.ROOT
NOTHING = "0" * 64


def finish(stage="start", root="", seed=0, checksum=NOTHING, large=0, **overrides):
    """A finished stage, as its notebook would leave it; returns its folder."""
    budget = profiles.budget(stage, "smoke", overrides)
    where = {"dataset": "digits", "profile": "smoke", "seed": seed, "checksum": checksum, "runs_dir": root}
    opened = runs.begin(stage, budget, **where)
    opened.write_npz("logits.npz", test=np.arange(6.0))
    opened.file("weights.safetensors").write_bytes(bytes(large))
    return opened.finish({"accuracy": 0.5})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A runs folder with finished stages of digits, made once and copied by each test (git is asked for each stage)."""
    root = tmp_path_factory.mktemp("finished")
    checksum = data.check("digits")
    for stage in ("teacher", "generator", "checkpoints"):
        finish(stage, root, checksum=checksum, large=2**21 if stage == "teacher" else 0)
    return root


def snapshot(folder):
    """Every path below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def drive(argv, capsys):
    """The driver in this process: exit code, lines of standard output and of standard error."""
    try:
        code = run_all.main([str(word) for word in argv])
    except SystemExit as stop:  # argparse
        code = stop.code
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def started(*args, **kwargs):
    raise AssertionError("a stage was started")


# ------------------------------------------------------------------ data files


def npz(change=lambda arrays: None, **more):
    """Write MedMNIST-like arrays, changed."""

    def write(path):
        arrays = med_arrays(n=(64, 32, 32))
        arrays |= more
        change(arrays)
        np.savez(path, **arrays)

    return write


def edit(key, function):
    return npz(lambda arrays: arrays.update({key: function(arrays[key])}))


def relabel(split, value, dtype=np.int64):
    def change(arrays):
        labels = arrays[f"{split}_labels"].astype(dtype)
        labels[0] = value
        arrays[f"{split}_labels"] = labels

    return npz(change)


def resized(height, width):
    def change(arrays):
        for split in data.SPLITS:
            shape = (len(arrays[f"{split}_images"]), height, width)
            arrays[f"{split}_images"] = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    return npz(change)


def cut(split, count):
    def change(arrays):
        for part in ("images", "labels"):
            arrays[f"{split}_{part}"] = arrays[f"{split}_{part}"][:count]

    return npz(change)


def truncated(path):
    npz()(path)
    path.write_bytes(path.read_bytes()[:20_000])


def flipped(path):
    npz()(path)
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)


def zipped(name, content):
    """An otherwise good file in which one member is what it should not be."""

    def write(path):
        npz()(path)
        with zipfile.ZipFile(path) as old:
            members = {item: old.read(item) for item in old.namelist() if not item.startswith(name.split(".")[0])}
        with zipfile.ZipFile(path, "w") as new:
            for item, value in {**members, name: content}.items():
                new.writestr(item, value)

    return write


def header(shape):
    """An npy file that declares a shape and holds nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def bomb(path):
    """24 GiB declared, a few bytes stored: the sizes in the zip's directory are made up."""
    npz()(path)
    raw = bytearray(path.read_bytes())
    for found in re.finditer(b"PK\x01\x02", bytes(raw)):  # an entry of the directory; at 24 its unpacked size
        raw[found.start() + 24 : found.start() + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(raw)


def packed(how):
    """The same arrays, compressed as numpy never does."""

    def write(path):
        npz()(path)
        with zipfile.ZipFile(path) as old:
            members = {item: old.read(item) for item in old.namelist()}
        with zipfile.ZipFile(path, "w", how) as new:
            for item, value in members.items():
                new.writestr(item, value)

    return write


def saved(value):
    """The bytes of an npy file, with pickle if need be."""
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def more(name, tail):
    """An array, then bytes that nobody would look at."""

    def write(path):
        npz()(path)
        with zipfile.ZipFile(path) as archive:
            content = archive.read(name)
        zipped(name, content + tail)(path)

    return write


def twice(name, again):
    """A second member of the same name (or of one that numpy takes for the same)."""

    def write(path):
        npz()(path)
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile's own warning
            archive.writestr(again, archive.read(name))

    return write


def locked(path):
    """The bit that says that a member is encrypted."""
    npz()(path)
    raw = bytearray(path.read_bytes())
    for found in re.finditer(b"PK\x01\x02", bytes(raw)):
        raw[found.start() + 8] |= 1
    path.write_bytes(raw)


def copies(split, count):
    """The first images of a split are training images."""

    def change(arrays):
        arrays[f"{split}_images"][:count] = arrays["train_images"][:count]

    return npz(change)


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


FILES = {
    "truncated": (truncated, "damaged or not an npz file"),
    "empty": (lambda p: p.write_bytes(b""), "damaged or not an npz file"),
    "text": (lambda p: p.write_text("hello"), "damaged or not an npz file"),
    "a bit flipped": (flipped, "damaged or not an npz file (Bad CRC-32"),
    "npy instead of npz": (lambda p: p.write_bytes(saved(np.zeros(3))), "damaged or not an npz file"),
    "pickle": (lambda p: p.write_bytes(saved(Evil())), "damaged or not an npz file"),
    "object array": (npz(train_labels=np.array([None] * 64, object)), "not readable without pickle; store plain"),
    "code in an object array": (npz(val_labels=np.array([Evil()] * 32, object)), "not readable without pickle"),
    "raw member": (zipped("train_images", b"abc"), "train_images is no array but raw bytes"),
    "no numpy header": (
        zipped("train_images.npy", b"abc"),
        "train_images is no array but raw bytes; write the file with numpy.savez",
    ),
    "huge declared shape": (zipped("train_images.npy", header((10**12, 28, 28))), "train_images is not as long as"),
    "negative shape": (zipped("train_images.npy", header((-4, 28, 28))), "train_images is not as long as"),
    "bomb": (bomb, "GiB that can be read here; use a smaller file"),
    "packed by bzip2": (packed(zipfile.ZIP_BZIP2), "is packed in another way than numpy does"),
    "packed by lzma": (packed(zipfile.ZIP_LZMA), "is packed in another way than numpy does"),
    "missing array": (npz(lambda a: a.pop("val_labels")), "no array 'val_labels'; a MedMNIST file holds"),
    "other keys": (lambda p: np.savez(p, x=np.zeros(3), y=np.zeros(3)), "no array 'train_images'"),
    "float images": (edit("train_images", lambda a: a / 255), "train_images is float64, not uint8; store"),
    "NaN images": (edit("val_images", lambda a: a * np.nan), "val_images is float64, not uint8"),
    "int16 images": (edit("test_images", lambda a: a.astype(np.int16)), "test_images is int16, not uint8"),
    "bool images": (edit("test_images", lambda a: a > 9), "test_images is bool, not uint8"),
    "text images": (edit("test_images", lambda a: a.astype(str)), "test_images is <U3, not uint8"),
    "three channels": (edit("train_images", lambda a: np.stack([a] * 3, -1)), "differ in image size (28x28x1"),
    "flat images": (edit("train_images", lambda a: a.reshape(64, -1)), "train_images is 64x784; expected"),
    "video": (edit("train_images", lambda a: a[..., None, None]), "train_images is 64x28x28x1x1; expected"),
    "a number for images": (edit("train_images", lambda a: a[0, 0, 0]), "expected N x H x W"),
    "float labels": (edit("val_labels", lambda a: a * 1.0), "val_labels is float64; labels must be whole numbers"),
    "NaN labels": (edit("val_labels", lambda a: a * np.nan), "labels must be whole numbers"),
    "bool labels": (edit("val_labels", lambda a: a > 0), "val_labels is bool; labels must be whole numbers"),
    "text labels": (edit("val_labels", lambda a: a.astype(str)), "labels must be whole numbers"),
    "one-hot labels": (edit("train_labels", lambda a: np.eye(2, dtype=int)[a[:, 0]]), "expected one label per image"),
    "counts differ": (edit("test_labels", lambda a: a[:-1]), "test has 32 images but 31 labels"),
    "label too large": (relabel("val", 2), "val_labels holds 2; labels must be 0..1"),
    "label negative": (relabel("test", -1), "test_labels holds -1; labels must be 0..1"),
    "label huge": (relabel("test", 2**64 - 1, np.uint64), "labels must be 0..1"),
    "one class only": (edit("train_labels", lambda a: a * 0), "class 1 has no training image; every class 0..1"),
    "class missing in test": (edit("test_labels", lambda a: a * 0), "class 1 has no test image"),
    "no image": (cut("val", 0), "val has 0 image(s); at least"),
    "one test image": (cut("test", 1), "test has 1 image(s); at least"),
    "sizes differ": (edit("val_images", lambda a: a[:, :20]), "differ in image size"),
    "1x1": (resized(1, 1), "train images are 1x1; each side must have 4 to 512 pixels"),
    "a line of pixels": (resized(2, 28), "train images are 2x28; each side"),
    "huge images": (resized(4, 600), "train images are 4x600; each side"),
    "all black": (edit("train_images", lambda a: a * 0), "every pixel of train_images is 0"),
    "two channels": (
        edit("train_images", lambda a: np.stack([a] * 2, -1)),
        "expected N x H x W with 1 or 3 channel(s)",
    ),
    "channels differ": (
        edit("val_images", lambda a: np.stack([a] * 3, -1)),
        "the splits differ in image size (28x28x1, 28x28x3)",
    ),
    "bytes after an array": (more("val_labels.npy", b"x"), "val_labels is not as long as its header says"),
    "an array after an array": (
        more("val_labels.npy", saved(np.zeros(3))),
        "val_labels is not as long as its header says",
    ),
    "an array twice": (twice("test_images.npy", "test_images.npy"), "holds test_images twice"),
    "an array twice, by another name": (twice("test_images.npy", "test_images"), "holds test_images twice"),
    "encrypted": (locked, "damaged or not an npz file"),
    "header of Python 2": (
        zipped("val_labels.npy", saved(np.zeros((32, 1), int)).replace(b"(32, 1)", b"(32L,1)")),
        "damaged or not an npz file",
    ),
    "test images are training images": (copies("test", 32), "32 of 32 test images are in train too, pixel by pixel"),
    "hardly a new test image": (copies("test", 13), "13 of 32 test images are in train too"),
    "hardly a new validation image": (copies("val", 13), "13 of 32 val images are in train too"),
    "a folder": (lambda p: p.mkdir(), "not a file; put the images that mine.json describes there"),
    "a pipe": (os.mkfifo, "not a file; put the images"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "not a file"),
    "a loop of links": (lambda p: p.symlink_to(p), "not a file"),
    "a link to nothing": (lambda p: p.symlink_to("gone"), "not a file"),
    "absent": (lambda p: None, "not a file"),
}
# Under the name of a published dataset.
PUBLISHED = {
    "absent and offline": (lambda p: None, "not downloadable (no route to host); put breastmnist.npz from MedMNIST"),
    "my own images": (npz(), "damaged or not the published file (MD5 "),
    "half a file": (truncated, "delete it to fetch it again, or import it under another name: run_all.py --import"),
    "a log-in page": (lambda p: p.write_text("<html>Log in"), "damaged or not the published file"),
    "nothing in it": (lambda p: p.write_bytes(b""), "not the published file (MD5 d41d8cd98f00b204e9800998ecf8427e)"),
    "published as a folder": (lambda p: p.mkdir(), "a folder, device or broken link, not a file; put the published"),
    "published as a pipe": (os.mkfifo, "a folder, device or broken link"),
    "published as a device": (lambda p: p.symlink_to("/dev/zero"), "a folder, device or broken link"),
    "published as a loop of links": (lambda p: p.symlink_to(p), "a folder, device or broken link"),
    "published as a link to nothing": (lambda p: p.symlink_to("gone"), "a folder, device or broken link"),
}


def said(**changes):
    """Write a description, changed; None takes a key away."""

    def write(path):
        about = {"title": "Mine", "class_names": ["a", "b"], "mirror": "none", "licence": "my own"} | changes
        path.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))

    return write


# What describes a set of one's own.
DESCRIPTIONS = {
    "no description": (lambda p: None, "no mine.json beside it; describe the set there (title, class_names, mirror"),
    "description empty": (lambda p: p.write_text(""), "mine.json: not readable as JSON"),
    "description truncated": (lambda p: p.write_text('{"title": "Mi'), "mine.json: not readable as JSON"),
    "description not Unicode": (lambda p: p.write_bytes(b'{"title": "\xff"}'), "not readable as JSON"),
    "description nested without end": (lambda p: p.write_text("[" * 10**5), "not readable as JSON"),
    "description of a megabyte": (lambda p: p.write_text(" " * 2**20 + "{}"), "(more than a megabyte)"),
    "description a folder": (lambda p: p.mkdir(), "a folder, device or broken link, not a file"),
    "description a pipe": (os.mkfifo, "a folder, device or broken link, not a file"),
    "description a link to nothing": (lambda p: p.symlink_to("gone"), "a folder, device or broken link"),
    "description a list": (lambda p: p.write_text("[1]"), "must be an object with the keys title, class_names"),
    "description a word": (lambda p: p.write_text('"mine"'), "must be an object with the keys title"),
    "a key twice": (lambda p: p.write_text('{"title": "a", "title": "b"}'), "(a key is given twice)"),
    "no title": (said(title=None), "must be an object with the keys title"),
    "a key too many": (said(classes=2), "no more and no less"),
    "title a number": (said(title=5), "title has '5'; give a text of 1 to 100 characters on one line"),
    "title blank": (said(title="  "), "title has '  '; give a text"),
    "title of two lines": (said(title="a\nb"), "title has 'a\\nb'; give a text"),
    "title without end": (said(title="x" * 101), "title has 'xxx"),
    "title unseen": (said(title="\u200b"), "title has '\\u200b'; give a text"),
    "title that turns around": (said(title="a\u202eb"), "title has 'a\\u202eb'; give a text"),
    "title with a soft hyphen": (said(title="a\u00adb"), "none of them invisible"),
    "title of a filler": (said(title="\u3164"), "title has 'ㅤ'; give a text"),
    "title of a mark alone": (said(title="\ufe0f"), "title has '"),
    "class name unseen": (said(class_names=["a", "\u2060"]), "class_names has '\\u2060'; give a text"),
    "title half a sign": (said(title="\ud800"), "title has '\\ud800'"),
    "class names a text": (said(class_names="ab"), "class_names must be a list of 2 to 1000 names"),
    "one class name": (said(class_names=["a"]), "class_names must be a list of 2 to 1000 names"),
    "a class name twice": (said(class_names=["a", "a"]), "class_names must be a list of 2 to 1000 names, each once"),
    "too many class names": (said(class_names=[str(k) for k in range(1001)]), "class_names must be a list of 2 to"),
    "a class name a number": (said(class_names=["a", 1]), "class_names has '1'; give a text"),
    "a class name a list": (said(class_names=["a", ["b"]]), "class_names has \"['b']\"; give a text"),
    "a class name empty": (said(class_names=["a", ""]), "class_names has ''; give a text"),
    "a class without images": (said(class_names=["a", "b", "c"]), "class 2 has no training image"),
    "mirror unknown": (said(mirror="up"), "mirror is 'up'; use one of: none, left-right, both"),
    "mirror a list": (said(mirror=["none"]), "mirror is \"['none']\"; use one of"),
    "mirror true": (said(mirror=True), "mirror is 'True'; use one of"),
    "licence a number": (said(licence=4.0), "licence has '4.0'; give a text"),
}


@pytest.fixture
def offline(monkeypatch):
    import medmnist

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(medmnist.BreastMNIST, "__init__", refuse)


@pytest.fixture
def stays(tmp_path, monkeypatch, finished):
    """The working folder holds results that must stay as they are; and no stage may start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "execute", started)
    shutil.copytree(finished, tmp_path / "runs")
    before = snapshot(tmp_path / "runs")
    yield
    assert snapshot(tmp_path / "runs") == before
    assert not (tmp_path / "hacked").exists()


def check_refused(argv, words, capsys, code=2):
    """One error line with the words, and the exit code."""
    got, _, lines = drive(["--profile", "smoke", *argv], capsys)
    errors = [line for line in lines if "error: " in line]
    assert got == code, lines
    assert len(errors) == 1, lines
    assert len(lines) == 1 or lines[0].startswith("usage:"), lines  # argparse adds its usage
    assert words in errors[0]
    assert len(errors[0]) < 700
    assert "Traceback" not in "".join(lines)
    return errors[0]


@pytest.mark.parametrize("case", FILES)
def test_bad_files(case, tmp_path, capsys, stays, offline):
    """In a set of one's own, whose description is right."""
    write, words = FILES[case]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/mine.npz"
    said()(path.with_suffix(".json"))
    write(path)
    line = check_refused(["--datasets", "mine", "--data-root", path.parent], words, capsys)
    assert str(path) in line, "says where"


@pytest.mark.parametrize("case", PUBLISHED)
def test_bad_files_under_a_published_name(case, tmp_path, capsys, stays, offline):
    write, words = PUBLISHED[case]
    (tmp_path / "data").mkdir()
    path = tmp_path / "data/breastmnist.npz"
    said()(path.with_suffix(".json"))  # no description makes another file of this name right
    write(path)
    there = os.path.lexists(path)
    line = check_refused(["--datasets", "breastmnist", "--data-root", path.parent], words, capsys)
    assert str(path) in line or ("put breastmnist.npz" in line and str(path.parent) in line), "says where"
    assert sorted(p.name for p in path.parent.iterdir()) == ["breastmnist.json"] + ["breastmnist.npz"] * there


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_bad_descriptions(case, tmp_path, capsys, stays):
    write, words = DESCRIPTIONS[case]
    (tmp_path / "data").mkdir()
    npz()(tmp_path / "data/mine.npz")
    write(tmp_path / "data/mine.json")
    line = check_refused(["--datasets", "mine", "--data-root", tmp_path / "data"], words, capsys)
    assert str(tmp_path / "data/mine.") in line, "says where"
    code, lines, _ = drive(["--list", "--data-root", tmp_path / "data"], capsys)
    assert code == 0
    told = case == "a class without images" or [
        text for text in lines if text.startswith("  mine: your own, cannot be")
    ]
    assert told or case == "no description", "the list goes on, and says why"


def test_more_than_this_machine_can_hold_is_refused_unread(tmp_path, capsys, monkeypatch, stays):
    own_set(tmp_path, med_arrays())
    monkeypatch.setattr(dataset_file, "memory_limit", lambda: 10_000)
    monkeypatch.setattr(zipfile.ZipFile, "open", started)
    argv = ["--datasets", "mine", "--data-root", tmp_path]
    check_refused(argv, "GiB that can be read here", capsys)


def test_damaged_fashionmnist_is_refused(tmp_path, capsys, stays):
    """torchvision's own reader compares no checksum of unpacked files: one changed label would pass."""
    raw = tmp_path / "data/FashionMNIST/raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte").write_bytes(b"\x00\x00\xff\x09" + bytes(100))
    argv = ["--datasets", "fashionmnist", "--data-root", tmp_path / "data"]
    check_refused(argv, "train-images-idx3-ubyte: damaged or not the published file", capsys)


@pytest.mark.parametrize("closed", ["npz", "json", "folder"])
def test_a_file_that_one_may_not_read(closed):
    """As another user where the test runs as root, who may read everything; in a folder that all may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        npz()(folder / "mine.npz")
        said()(folder / "mine.json")
        folder.chmod(0o755)
        (folder / f"mine.{closed}" if closed != "folder" else folder).chmod(0)
        seen, told = os.pipe()
        child = os.fork()
        if not child:
            try:
                if os.getuid() == 0:
                    os.setgroups([])
                    os.setuid(65534)
                os.write(told, data.check("mine", name).encode())
            except Exception as error:  # its kind and line are compared below
                os.write(told, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(0)
        os.close(told)
        with os.fdopen(seen) as pipe:
            line = pipe.read()
        os.waitpid(child, 0)
        folder.chmod(0o755)
    assert line.startswith("InputError: ")
    assert name in line
    assert "get permission or name another" in line


@pytest.mark.parametrize("shape", [(4, 4), (12, 14), (27, 15), (8, 64)])
def test_what_is_odd_but_fine_trains_and_samples(shape, tmp_path):
    """Oblong, odd-sided and tiny images, and fewer of them than a batch holds."""
    rng, arrays = np.random.default_rng(0), med_arrays(n=(5, 2, 2))
    for split in data.SPLITS:
        images = rng.integers(0, 256, (len(arrays[f"{split}_labels"]), *shape), dtype=np.uint8)
        arrays[f"{split}_images"] = images
    own_set(tmp_path, arrays)
    ds = data.load("mine", str(tmp_path))
    assert ds.shape == (1, *shape)
    model = classifier.build(2, 1, 8, 8, seed=0)
    augment = classifier.Augmentation.for_dataset(ds.info, ds.shape[1], 0.25)
    history = classifier.fit(model, lambda e: ds.train, ds.val, classifier.Training(RECIPE, 2, augment), seed=0)
    assert all(np.isfinite(row["train_loss"]) for row in history)
    made = generator.build(2, ds.train.images, width=8, levels=3, layers=1, fold=1, seed=0)
    training = generator.Training(steps=2, batch=64, lr=1e-3, ema_decay=0.9, label_dropout=0.1, hflip=True)
    generator.fit(made, ds.train, training, seed=0)
    images = sampling.sample(made, torch.tensor([0, 1]), seed=0, steps=3)
    assert images.shape == (2, 1, *shape)
    assert images.float().std() > 0


# ----------------------------------------------------- names and numbers on the command line

OPTIONS = {
    "path as dataset": (["--datasets", "../x"], "unknown dataset '../x'; choose one of"),
    "absolute path as dataset": (["--datasets", "/etc/passwd"], "unknown dataset '/etc/passwd'"),
    "no dataset": (["--datasets", ","], "--datasets is empty"),
    "empty dataset": (["--datasets", ""], "--datasets is empty"),
    "slashes": (["--datasets", "digits/seed0"], "unknown dataset 'digits/seed0'"),
    "unicode": (["--datasets", "dıgits"], "unknown dataset 'dıgits'"),
    "300 characters": (["--datasets", "x" * 300], "unknown dataset 'xxx"),
    "a line break": (["--datasets", "digits\nerror: x"], "unknown dataset 'digits\\nerror: x'"),
    "own name with a dash": (["--datasets", "my-images"], "unknown dataset 'my-images'"),
    "own name of 41 characters": (["--datasets", "x" * 41], "or one of your own in the data folder"),
    "own name of a stage's folder": (["--datasets", "10_compare"], "unknown dataset '10_compare'"),
    "own name that is not there": (["--datasets", "mine"], "'; name another with --data-root or KR_DATA"),
    "capitals": (["--datasets", "Digits"], "unknown dataset 'Digits'"),
    "one good, one bad": (["--datasets", "digits,nosuch"], "unknown dataset 'nosuch'"),
    "multi-label": (["--datasets", "chestmnist"], "is multi-label"),
    "unknown profile": (["--profile", "huge"], "unknown profile 'huge'; choose one of"),
    "path as profile": (["--profile", "../../x"], "unknown profile '../../x'"),
    "empty profile": (["--profile", ""], "unknown profile ''"),
    "unknown until": (["--until", "dinner"], "unknown stage 'dinner' in --until; choose one of"),
    "empty until": (["--until", ""], "unknown stage ''"),
    "no such option": (["--nosuch"], "unrecognized arguments: --nosuch"),
    "a stray word": (["digits"], "unrecognized arguments: digits"),
    "option without value": (["--seeds"], "expected one argument"),
    "negative seed": (["--seeds", "-1"], "--seeds has '-1'; give whole numbers from 0 to 2147483647"),
    "word as seed": (["--seeds", "0,one"], "--seeds has 'one'"),
    "fraction as seed": (["--seeds", "1.5"], "--seeds has '1.5'"),
    "NaN as seed": (["--seeds", "nan"], "--seeds has 'nan'"),
    "huge seed": (["--seeds", str(2**31)], "--seeds has '2147483648'"),
    "5000 digits": (["--seeds", "9" * 5000], "--seeds has '9999"),
    "digits of another script": (["--seeds", "٣"], "--seeds has '٣'"),
    "no seed": (["--seeds", " "], "--seeds is empty"),
    "unknown field": (["--set", "generator.stepz=3"], "generator has no field 'stepz'; it has: steps"),
    "unknown stage": (["--set", "generatr.steps=3"], "unknown stage 'generatr'; choose one of"),
    "no value": (["--set", "generator.steps"], "write stage.field=value, such as"),
    "no field": (["--set", "generator=3"], "write stage.field=value"),
    "zero steps": (["--set", "generator.steps=0"], "generator.steps is 0; it must be above 0"),
    "no image to show": (["--set", "start.images=0"], "start.images is 0; it must be above 0"),
    "a page without end": (["--set", "start.images=101"], "it must be at most 100"),
    "no example": (["--set", "compare.examples=0"], "compare.examples is 0; it must be above 0"),
    "too few for an attack": (["--set", "membership.released=19"], "it must be at least 20"),
    "a network without layers": (["--set", "teacher.depth=2"], "teacher.depth is 2; it must be at least 8"),
    "a negative share": (["--set", "teacher.erase=-0.1"], "teacher.erase is -0.1; it must be at least 0"),
    "half a channel": (["--set", "teacher.width=16.5"], "it must be a whole number"),
    "a list for a number": (["--set", "teacher.epochs=1,2"], "teacher.epochs is '1,2'; it must be a whole number"),
    "true": (["--set", "teacher.epochs=True"], "teacher.epochs is 'True'; it must be a whole number"),
    "negative steps": (["--set", "generator.steps=-3"], "generator.steps is -3; it must be above 0"),
    "NaN": (["--set", "generator.lr=nan"], "generator.lr is 'nan'; it must be a number"),
    "infinity": (["--set", "generator.lr=1e400"], "generator.lr is '1e400'; it must be a number"),
    "wrong type": (["--set", "teacher.epochs=1.5"], "teacher.epochs is '1.5'; it must be a whole number"),
    "text": (["--set", "teacher.epochs=ten"], "teacher.epochs is 'ten'; it must be a whole number"),
    "hexadecimal": (["--set", "teacher.epochs=0x10"], "it must be a whole number"),
    "huge steps": (["--set", "generator.steps=1000000000000"], "that is more than any run can do"),
    "huge batch": (["--set", "generator.batch=1000000000"], "it must be at most 65536"),
    "huge depth": (["--set", "teacher.depth=600000002"], "teacher.depth is 600000002; that is more than any run"),
    "5000 digits as steps": (["--set", "generator.steps=" + "9" * 5000], "it must be a whole number"),
    "a share above one": (["--set", "teacher.erase=1.5"], "teacher.erase is 1.5; it must be at most 1"),
    "depth": (["--set", "teacher.depth=9"], "6n + 2 layers"),
    "NaN in a list": (["--set", "tuning.guidance=1,nan"], "tuning.guidance is 'nan'; it must be a number"),
    "empty list": (["--set", "tuning.guidance="], "tuning.guidance is ''; it must be a number"),
    "endless list": (["--set", "tuning.guidance=" + "1," * 5000 + "1"], "give one or more numbers (at most 1000)"),
    "wrong word": (["--set", "distillation.balance=even"], "use uniform or prior"),
    "the same field twice": (["--set", "teacher.epochs=1", "--set", "teacher.epochs=2"], "is given twice"),
    "code as number": (["--set", "teacher.epochs=__import__('os').system('touch hacked')"], "a whole number"),
    "code as word": (["--set", "distillation.balance=${HOME}$(touch hacked)"], "use uniform or prior"),
    "code as field": (["--set", "teacher.__class__=1"], "teacher has no field '__class__'"),
    "data root nowhere": (["--data-root", "/nonexistent/folder"], "--data-root points to '/nonexistent/folder'"),
    "data root a file": (["--data-root", str(ROOT / "LICENSE")], "which is not a folder; create it or name another"),
    "data root 5000 characters": (["--data-root", "x" * 5000], "cannot be a folder (File name too long)"),
    "data root of nobody": (["--data-root", "~no-such-user/x"], "cannot be a folder (Could not determine home"),
    "data root with a zero": (["--data-root", "a\0b"], "control character or no valid Unicode"),
    "data root not Unicode": (["--data-root", "a\udcffb"], "control character or no valid Unicode"),
    "runs folder below a file": (["--runs-dir", str(ROOT / "LICENSE/x")], "name a folder you may write to"),
    "runs folder a file": (["--runs-dir", str(ROOT / "LICENSE")], "LICENSE: not a folder; name a folder"),
    "runs folder a device": (["--runs-dir", "/dev/null"], "/dev/null: not a folder; name a folder"),
    "runs folder nobody can make": (["--runs-dir", "/proc/runs"], "/proc/runs: No such file or directory; name a"),
    "runs folder with a line break": (["--runs-dir", "a\nb"], "--runs-dir is 'a\\nb', with a control character"),
    "figures folder a file": (["--figures-dir", str(ROOT / "LICENSE")], "--figures-dir"),
    "figures folder 300 characters": (["--figures-dir", "x" * 300], "cannot be a folder (File name too long)"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_options(case, capsys, stays):
    argv, words = OPTIONS[case]
    check_refused(argv, words, capsys)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: place.symlink_to(place.parent.parent), "smoke: a link; nothing is written or deleted"),
        (lambda place: place.write_text("in the way"), "smoke: not a folder; move it away"),
    ],
    ids=["a link", "a file"],
)
def test_a_place_for_figures_that_10_could_not_use_is_refused_at_once(make, words, tmp_path, capsys, stays):
    (tmp_path / "figures").mkdir()
    make(tmp_path / "figures/smoke")
    check_refused(["--dry-run", "--figures-dir", "figures"], words, capsys)


@pytest.mark.parametrize("option", ["--runs-dir", "--figures-dir"])
@pytest.mark.parametrize("below", ["", "/x"])
@pytest.mark.parametrize("place", ["/dev/null", str(ROOT / "LICENSE")])
def test_a_dry_run_refuses_the_folders_that_a_run_would_refuse(option, place, below, capsys, stays):
    words = f"{option} {place}{below}: {f'{place} is ' if below else ''}not a folder; name a folder you may write to"
    check_refused(["--dry-run", option, place + below], words, capsys)
    if option == "--runs-dir":
        check_refused(["--status", option, place + below], words, capsys)


def test_a_dry_run_refuses_a_folder_that_may_not_be_written(tmp_path, capsys, monkeypatch, stays):
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **more: path != tmp_path and access(path, mode, **more))
    words = f"--runs-dir {tmp_path}/new/runs: {tmp_path} is not to be written by you; name a folder"
    check_refused(["--dry-run", "--runs-dir", str(tmp_path / "new/runs")], words, capsys)
    check_refused(["--dry-run", "--runs-dir", str(tmp_path)], f"{tmp_path}: it is not to be written by you;", capsys)
    assert drive(["--status", "--runs-dir", str(tmp_path)], capsys)[0] == 0, "what one may only read is told"


WORDS = ("--profile", "--datasets", "--seeds", "--data-root", "--runs-dir", "--figures-dir", "--until", "--set")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(st.sampled_from(WORDS), st.text(max_size=30)), max_size=3))
@example(pairs=[("--runs-dir", "\x00")])
@example(pairs=[("--figures-dir", "\ud800")])
@example(pairs=[("--data-root", "~\n")])
@example(pairs=[("--seeds", "²")])
def test_no_options_whatever_give_a_traceback(pairs, tmp_path, capsys, monkeypatch):
    """Accepted or refused, nothing else; a dry run of the smallest plan."""
    monkeypatch.chdir(tmp_path)
    argv = ["--profile=smoke", "--until=start", "--dry-run", *(f"{option}={value}" for option, value in pairs)]
    code, out, err = drive(argv, capsys)
    assert (code, bool(out), len([line for line in err if "error: " in line])) in ((0, True, 0), (2, False, 1)), err
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


VARIABLES = {
    "KR_DATA nowhere": ({"KR_DATA": "/nonexistent"}, "KR_DATA points to '/nonexistent', which is not a folder"),
    "KR_DATA a file": ({"KR_DATA": str(ROOT / "LICENSE")}, "KR_DATA points to"),
    "KR_DATA with a line break": ({"KR_DATA": "/tmp\n"}, "KR_DATA is '/tmp\\n', with a control character"),
    "KR_RUNS a file": ({"KR_RUNS": str(ROOT / "LICENSE")}, "LICENSE: not a folder; name a folder you may write to"),
    "KR_RUNS a loop": ({"KR_RUNS": "loop"}, "KR_RUNS is 'loop', which cannot be a folder ("),
    "KR_FIGURES a loop": ({"KR_FIGURES": "loop/x"}, "KR_FIGURES is 'loop/x', which cannot be a folder ("),
}


@pytest.mark.parametrize("case", VARIABLES)
def test_bad_environment(case, tmp_path, capsys, monkeypatch, stays):
    variables, words = VARIABLES[case]
    (tmp_path / "loop").symlink_to("loop")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_refused([], words, capsys)


def test_no_home_is_needed_for_digits(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", "/nonexistent")
    assert drive(["--profile", "smoke", "--dry-run"], capsys)[0] == 0


def test_the_table_is_long_enough():
    tables = (FILES, PUBLISHED, DESCRIPTIONS, OPTIONS, VARIABLES, DAMAGE, *(values for _, values, _ in PARAMETERS))
    assert sum(map(len, tables)) >= 250


# ------------------------------------------------------------ real processes


def process(argv, env=None, **more):
    """The driver as a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    call = [sys.executable, str(ROOT / "run_all.py"), *map(str, argv)]
    return subprocess.run(call, capture_output=True, text=True, env=env, timeout=600, **more)


def test_a_real_process_prints_the_line_and_with_debug_the_traceback(tmp_path):
    said()(tmp_path / "mine.json")
    truncated(tmp_path / "mine.npz")
    argv = ["--datasets", "mine", "--data-root", tmp_path]
    plain, debug = process(argv), process([*argv, "--debug"])
    assert plain.returncode == 2
    assert plain.stderr.startswith(f"error: {tmp_path}/mine.npz: damaged")
    assert len(plain.stderr.splitlines()) == 1
    assert "Traceback" in debug.stderr


def no_space():
    """All but the smallest writes fail from here on, as on a full disk (EFBIG for ENOSPC)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


def mounted(options, script, **more):
    """A shell script in a mount namespace of its own with a tmpfs on $MOUNT; None where that is not permitted."""
    call = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs {options} tmpfs "$MOUNT" || exit 99\n{script}']
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=600, **more)
    except FileNotFoundError:
        return None
    return None if done.returncode == 99 or "unshare" in done.stderr else done


@pytest.mark.parametrize("options", ["-o ro", "-o size=8k"])
def test_a_read_only_or_full_disk_is_refused_before_anything_runs(options, tmp_path):
    (tmp_path / "mount").mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MOUNT": str(tmp_path / "mount")}
    fill = "" if "ro" in options else 'head -c 9000 /dev/zero > "$MOUNT/fill" 2> /dev/null\n'
    program = shlex.join([sys.executable, f"{ROOT}/run_all.py"])
    script = f'{fill}exec {program} --profile smoke --runs-dir "$MOUNT"'
    out = mounted(options, script, env=env)
    if out is None:  # mounting is not permitted here: a limit on file size stands in for the disk
        out = process(["--profile", "smoke", "--runs-dir", tmp_path / "mount"], preexec_fn=no_space)
    assert out.returncode == 2, out.stderr
    assert len(out.stderr.splitlines()) == 1
    assert "name a folder you may write to, with space left" in out.stderr


def test_a_kernel_that_cannot_start_is_a_failed_stage(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    code, _, lines = drive(["--profile", "smoke", "--until", "start"], capsys)
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("failed: digits seed 0  00_start_here: 00_start_here.ipynb: ")
    assert "No such file or directory: '/nowhere/python'" in lines[0]


def test_what_nobody_thought_of_is_one_line_too(capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise MemoryError("no room\nfor two lines")

    monkeypatch.setattr(plan, "plan", broken)
    code, _, lines = drive(["--profile", "smoke", "--dry-run"], capsys)
    assert (code, lines) == (
        1,
        ["error: MemoryError: no room for two lines; what was finished is kept; see --debug"],
    )
    with pytest.raises(MemoryError):
        drive(["--profile", "smoke", "--dry-run", "--debug"], capsys)


# ------------------------------------------------------------------ artefacts


def rewrite(name, change):
    def damage(path):
        value = json.loads((path / name).read_text())
        change(value)
        (path / name).write_text(json.dumps(value))

    return damage


def flip(name, keep_time=False):
    """Change one byte in the middle; the size stays."""

    def damage(path):
        stat = (path / name).stat()
        raw = bytearray((path / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (path / name).write_bytes(raw)
        if keep_time:
            os.utime(path / name, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return damage


def shorten(name):
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-3])


def pipe(name):
    def damage(path):
        (path / name).unlink()
        os.mkfifo(path / name)

    return damage


DAMAGE = {
    "manifest gone": lambda p: (p / "manifest.json").unlink(),
    "manifest truncated": shorten("manifest.json"),
    "manifest of another kind": lambda p: (p / "manifest.json").write_text("[]"),
    "manifest nested without end": lambda p: (p / "manifest.json").write_text("[" * 10**5),
    "manifest not text": lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "manifest a folder": lambda p: [(p / "manifest.json").unlink(), (p / "manifest.json").mkdir()],
    "manifest a pipe": pipe("manifest.json"),
    "manifest of another version": rewrite("manifest.json", lambda m: m.update(format=1)),
    "seconds edited": rewrite("manifest.json", lambda m: m.update(seconds="long")),
    "commit edited": rewrite("manifest.json", lambda m: m.update(git_commit="0" * 40)),
    "seed edited": rewrite("manifest.json", lambda m: m["ingredients"].update(seed=5)),
    "files edited": rewrite("manifest.json", lambda m: m.update(files={})),
    "seal taken off": rewrite("manifest.json", lambda m: m.pop("seal")),
    "metrics gone": lambda p: (p / "metrics.json").unlink(),
    "metrics truncated": shorten("metrics.json"),
    "metrics edited": rewrite("metrics.json", lambda m: m.update(accuracy=0.9)),
    "arrays gone": lambda p: (p / "logits.npz").unlink(),
    "arrays empty": lambda p: (p / "logits.npz").write_bytes(b""),
    "arrays changed": flip("logits.npz"),
    "arrays a pipe": pipe("logits.npz"),
    "weights truncated": shorten("weights.safetensors"),
    "weights changed, size kept": flip("weights.safetensors"),
    "weights a folder": lambda p: [(p / "weights.safetensors").unlink(), (p / "weights.safetensors").mkdir()],
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_result_is_not_done_and_those_after_it_say_what_to_run(case, tmp_path, capsys, finished):
    shutil.copytree(finished, tmp_path / "runs")
    path, checksum = tmp_path / "runs/smoke/digits/seed0/01_teacher", data.check("digits")
    argv = ["--profile", "smoke", "--until", "checkpoints", "--dry-run"]
    plan = drive(argv, capsys)[1]
    assert [line.split()[0] for line in plan[:-1]] == ["run", "reuse", "reuse", "reuse"]
    DAMAGE[case](path)
    code, lines, errors = drive(argv, capsys)
    assert (code, errors) == (0, [])
    assert lines[1].startswith("run    digits seed 0  01_teacher: its files are incomplete")
    assert [line.split()[0] for line in lines[:-1]] == ["run", "run", "reuse", "reuse"]
    with pytest.raises(InputError) as error:
        finish("checkpoints", checksum=checksum)
    assert "needs the results of 01_teacher" in str(error.value)
    assert "run this notebook first, or `python run_all.py --profile smoke" in str(error.value)
    assert finish("teacher", checksum=checksum) == path, "it is made anew over the damaged one"
    assert runs.read(path)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["manifest.json", "metrics.json", "logits.npz", "weights.safetensors"]),
    place=st.floats(0, 0.999),
    bits=st.integers(0, 255),
)
def test_no_change_of_any_byte_passes(name, place, bits, finished, tmp_path_factory):
    """Truncated there (bits 0) or changed there: not done, or (a blank in the manifest) read as it was."""
    path = tmp_path_factory.mktemp("one") / "smoke/digits/seed0/01_teacher"
    shutil.copytree(finished / "smoke/digits/seed0/01_teacher", path)
    before, raw = runs.read(path), bytearray((path / name).read_bytes())
    assert before
    where = int(place * len(raw))
    raw = bytearray(raw[:where]) if not bits else raw[:where] + bytes([raw[where] ^ bits]) + raw[where + 1 :]
    (path / name).write_bytes(raw)
    after = runs.read(path)
    assert after is None or (name == "manifest.json" and after == before)


@pytest.mark.parametrize("name", ["seed1", "seed01", "seed²", "copy"])
def test_a_copied_or_renamed_result_explains_nothing(name, tmp_path):
    path = finish("teacher")
    shutil.copytree(path.parent, path.parent.with_name(name))
    assert runs.read(path.parent.with_name(name) / path.name) is None
    assert list(runs.find(tmp_path / "runs", "smoke")) == [("digits", 0)]
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "runs", moved)  # the whole runs folder may be moved
    assert runs.read(moved / path.relative_to(tmp_path / "runs"))


def test_weights_that_rotted_on_disk_are_found_when_they_are_loaded():
    """Same size, same time: only reading them tells."""
    path = finish("teacher", large=2**21)
    flip("weights.safetensors", keep_time=True)(path)
    done = runs.read(path)
    with pytest.raises(InputError, match=r"weights\.safetensors: damaged.*01_teacher\.ipynb again, or delete"):
        done.file("weights.safetensors")
    with pytest.raises(InputError, match="not of this result"):
        done.file("other.safetensors")
    assert done.npz("logits.npz")["test"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_large_file_is_not_read_again_while_its_time_stands(monkeypatch):
    path = finish("teacher", large=2**21)
    read = []
    stamp = runs.files.stamp
    monkeypatch.setattr(runs.files, "stamp", lambda file: [read.append(file.name), stamp(file)][1])
    assert runs.read(path)
    assert "weights.safetensors" not in read
    os.utime(path / "weights.safetensors")
    assert runs.read(path), "a copy has another time: its content decides"
    assert "weights.safetensors" in read


def test_a_file_where_a_result_should_be(tmp_path):
    final = finish("teacher")
    shutil.rmtree(final)
    final.write_text("in the way")
    assert runs.read(final) is None


# ------------------------------------------- what a notebook's first cell may hold

# Name, bad values, words of the refusal.
PARAMETERS = [
    ("dataset", ["../x", " ", "x" * 300], "choose one of"),
    ("dataset", [5, None, ["digits"], {}, b"digits"], "dataset is "),
    ("profile", ["../x", " ", "x" * 300], "unknown profile"),
    ("profile", [5, None, ["smoke"], {"smoke"}], "profile is "),
    ("seed", [-2, 2**31, 1.5, "0", None, True, float("nan"), [0], 10**5000], "give a whole number from 0"),
    ("overrides", [{"epochs": None}, {"epochs": 10**5000}, {1: 2}, {"epochs": 0}, {"epochs": [2]}], "teacher"),
    ("overrides", ["epochs=3", [1], None, 5], "overrides is "),
    ("data_root", ["/nonexistent"], "--data-root points to"),
    ("data_root", ["a\0b", "~no-such-user", 5, None, ["/tmp"], b"/tmp", True], "data_root is "),
    ("runs_dir", ["a\0b", "~no-such-user", "x" * 5000, "a\udcffb", 5, None, ["/tmp"], b"/tmp", 0], "runs_dir is "),
    ("interactive", ["no", 0, 1, None, []], "interactive is "),
    ("out", [5, None, "a\0b"], "out is "),
    ("with_generator", ["no", 1, None], "with_generator is "),
    ("terms", [5, None, ["MIT"]], "terms is "),
]


def cells(notebook, count=None):
    """Sources of a notebook's code cells."""
    found = nbformat.read(ROOT / "notebooks" / notebook, as_version=4)["cells"]
    return [cell["source"] for cell in found if cell["cell_type"] == "code"][:count]


@pytest.fixture(scope="module")
def shell():
    """IPython as it is below JupyterLab, without a kernel."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    hooks = sys.displayhook, sys.excepthook
    yield InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    sys.displayhook, sys.excepthook = hooks


@pytest.mark.parametrize(("name", "values", "words"), PARAMETERS, ids=lambda value: value if value.__hash__ else "")
def test_bad_parameters_in_a_notebook_are_one_line(name, values, words, tmp_path, capsys, shell):
    first, second = cells("01_teacher.ipynb", 2)
    for value in values:
        shell.user_ns[name] = value
        file = "dataset = 'breastmnist'\n" if name == "data_root" else ""  # digits need no folder
        shell.run_cell(f"keep = {name}\n{first}\nprofile = 'smoke'\n{file}{name} = keep")
        assert not shell.run_cell(second).success
        lines = capsys.readouterr().out.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("InputError: ")
        assert words in lines[0]
        assert len(lines[0]) < 700
    del shell.user_ns[name]  # not every notebook has it


@pytest.mark.parametrize("value", [None, 5, b"x", "a\0b"])
def test_a_bad_folder_of_figures_is_refused_before_anything_is_read(value, capsys, shell):
    first, second = cells("10_compare.ipynb", 2)
    shell.user_ns["value"] = value
    shell.run_cell(f"{first}\nfigures_dir = value")
    assert not shell.run_cell(second).success
    del shell.user_ns["figures_dir"]
    assert capsys.readouterr().out.startswith("InputError: figures_dir is ")


def test_every_notebook_checks_its_parameters_before_it_reads_anything():
    for notebook, _ in stages.STAGES.values():
        code = "\n".join(cells(f"{notebook}.ipynb"))
        reads = min(code.index(word) for word in ("data.load(", "runs.begin(", "profiles.budget(") if word in code)
        checks = max(code.find("parameters.check(globals())"), code.find("given = parameters.fill(globals())"))
        assert 0 < checks < reads, notebook


def test_no_folder_is_named_after_nothing(tmp_path, monkeypatch):
    """runs_dir=None once made notebooks/None/."""
    monkeypatch.chdir(tmp_path)
    budget = profiles.budget("start", "smoke")
    where = {"dataset": "digits", "profile": "smoke", "seed": 0, "checksum": NOTHING}
    with pytest.raises(InputError, match="runs_dir is 'None', not the name of a folder"):
        runs.begin("start", budget, **where, runs_dir=None)
    for root in (runs.runs_root, runs.figures_root, data.data_root):
        for value in (None, 5, b"x", ["x"]):
            with pytest.raises(InputError, match="not the name of a folder"):
                root(value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("notebook", ["03_checkpoints", "04_tuning", "05_distillation", "06_membership"])
def test_notebooks_out_of_order_name_all_missing_stages_and_the_command(notebook, capsys, shell, tmp_path):
    first, *rest = cells(f"{notebook}.ipynb")
    shell.run_cell(f"{first}\nprofile = 'smoke'")
    begins = next(number for number, cell in enumerate(rest) if "runs.begin(" in cell)
    for cell in rest[:begins]:
        assert shell.run_cell(cell).success
    assert not shell.run_cell(rest[begins]).success
    line = capsys.readouterr().out.strip()
    missing = stages.STAGES[stage_of(notebook)][1]
    names = [stages.STAGES[stage][0] for stage in missing]
    assert line == (
        f"InputError: {notebook} needs the results of {', '.join(names[:-1])} and {names[-1]} (digits, profile smoke, "
        f"seed 0): run these notebooks, in this order, first, or `python run_all.py --profile smoke --datasets digits "
        f"--seeds 0 --runs-dir {tmp_path}/runs --until {missing[-1]}` in {stages.ROOT}"
    )


def stage_of(notebook):
    return next(stage for stage, (name, _) in stages.STAGES.items() if name == notebook)


def test_comparing_nothing_says_what_to_run(capsys, shell):
    first, second = cells("10_compare.ipynb", 2)
    shell.run_cell(f"{first}\nprofile = 'smoke'")
    assert not shell.run_cell(second).success
    line = capsys.readouterr().out.strip()
    assert line == "InputError: no finished run of profile smoke: run `python run_all.py --profile smoke` first"
