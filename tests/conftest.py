"""Shared fixtures: small real data, a tiny trained Generator, isolated run folders."""

import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file

from kr_utils import classifier, data, generator, stages

ROOT = stages.ROOT

# In CI the same examples every time: new ones are for people to find, who can act on them.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No test reads the user's data or writes into the user's runs."""
    monkeypatch.setenv("KR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KR_FIGURES", str(tmp_path / "figures"))
    torch.manual_seed(1234)


@pytest.fixture(scope="session")
def digits():
    """With more to train on than the project's own cut has, so that short trainings learn something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "DIGITS", (1000, 200, 597))
        return data.load("digits")


RECIPE = classifier.Recipe(width=8, depth=8, batch=64, lr=0.1, weight_decay=5e-4)


@pytest.fixture(scope="session")
def teacher(digits):
    """A Teacher that has learned digits a little (about 90 %)."""
    model = classifier.build(10, 1, 8, 8, seed=0)
    training = classifier.Training(RECIPE, 6, classifier.Augmentation(1))
    classifier.fit(model, lambda epoch: digits.train, digits.val, training, seed=0)
    return model


@pytest.fixture(scope="session")
def tiny_generator(digits):
    """A Generator after 40 steps: cheap, and no longer the zero function."""
    model = generator.build(10, digits.train.images, width=16, levels=1, layers=1, fold=2, seed=0)
    training = generator.Training(steps=40, batch=32, lr=2e-3, ema_decay=0.9, label_dropout=0.1)
    generator.fit(model, digits.train, training, seed=0)
    return model


@pytest.fixture
def medical():
    """Folder with real MedMNIST files; skipped where there is none, an error where KR_REQUIRE_DATA is set."""
    folder = os.environ.get("KR_DATA", "")
    if folder and os.path.isfile(os.path.join(folder, "breastmnist.npz")):
        return folder
    assert not os.environ.get("KR_REQUIRE_DATA"), "KR_DATA must name a folder with breastmnist.npz"
    pytest.skip("set KR_DATA to a folder with breastmnist.npz and retinamnist.npz to run this")


def med_arrays(n=(12, 6, 6), classes=2, channels=None, size=28, seed=0):
    """The six arrays of a valid MedMNIST-like file."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, count in zip(data.SPLITS, n):
        shape = (count, size, size) if channels is None else (count, size, size, channels)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    return arrays


def own_set(folder, arrays, name="mine", **changes):
    """A user's own dataset, its images and the JSON file that describes them; returns the path of the images."""
    classes = 1 + int(arrays["train_labels"].max())
    about = {"title": "Mine", "class_names": [f"class {k}" for k in range(classes)], "mirror": "left-right"}
    (folder / f"{name}.json").write_text(json.dumps(about | {"licence": "my own"} | changes))
    np.savez(folder / f"{name}.npz", **arrays)
    return folder / f"{name}.npz"


def assert_no_pickle_inside(folder):
    """Every file below the folder is of a known, plain kind and reads back as that; nothing is a pickle."""
    for path in filter(os.path.isfile, folder.rglob("*")):
        raw = path.read_bytes()
        assert raw[:1] != b"\x80", f"{path} starts as a pickle does"
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                assert all(archive[key].dtype.kind in "biufU" for key in archive.files), path
        elif path.suffix == ".safetensors":
            assert load_file(path), path
        elif path.suffix in (".json", ".ipynb"):
            json.loads(raw)
        elif path.suffix in (".png", ".pdf"):
            assert raw.startswith((b"\x89PNG", b"%PDF")), path
        else:
            assert path.suffix in (".csv", ".md", ".txt") or (path.suffix == ".lock" and not path.stat().st_size), (
                f"{path}: what is this?"
            )
            raw.decode("utf-8")


# ------------------------------------------------------------------ the driver as a process


def call(*args):
    return [sys.executable, str(ROOT / "run_all.py"), "--profile", "smoke", *map(str, args)]


def environment(tmp_path, **more):
    here = {"KR_RUNS": str(tmp_path / "runs"), "KR_FIGURES": str(tmp_path / "figures"), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **here, **more}


def kernels(tmp_path):
    """Living kernels that work for this test."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("KR_RUNS") == str(tmp_path / "runs") and "ipykernel" in " ".join(
                process.cmdline()
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition, what, seconds=600):
    end = time.time() + seconds
    while not (found := condition()):
        assert time.time() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


@pytest.fixture
def start(tmp_path):
    """A function that starts a process with its output in a file; whatever still lives at the end is killed."""
    started = []

    def begin(command, log, **more):
        with open(tmp_path / log, "w") as file:
            env = environment(tmp_path, **more)
            process = subprocess.Popen(command, stdout=file, stderr=file, env=env, cwd=tmp_path, start_new_session=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        for child in [*children(process.pid), process]:
            child.kill()
        process.wait()


def children(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def closed(folder, monkeypatch):
    """Nobody may list this folder: the tests may run as root, who may list every one."""
    scandir = os.scandir

    def refuse(path="."):
        if os.fspath(path) == str(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
