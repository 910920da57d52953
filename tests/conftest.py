"""Shared fixtures: small real data, a tiny trained Generator, isolated run folders."""

import copy
import errno
import json
import os
import subprocess
import sys
import time
import types

# Beside another test process each has one thread: two on each core would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file

from kr_utils import classifier, data, generator, metrics, stages

ROOT = stages.ROOT

# In CI the same examples every time: new ones are for people to find, who can act on them.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_collection_modifyitems(items):
    """Files with slow tests first: with two files at a time, none then waits long for the other's last one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No test reads the user's data or writes into the user's runs."""
    monkeypatch.setenv("KR_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KR_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("KR_MEASURE", "0")  # a --dry-run takes a second, not twenty
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


LABELS = np.repeat([0, 1], [10, 30])  # of the test images of a made-up run


def saying(first, second, certain=2.0):
    """Logits [40, 2] of a classifier that is right about so many images of each class, the first ones."""
    said = 1 - LABELS
    said[:first], said[10 : 10 + second] = 0, 1
    return certain * np.eye(2)[said].astype(np.float32)


ABLATION = {
    "hard_fixed": (2, 24), "soft_fixed": (5, 24), "hard_regenerated": (4, 25), "soft_regenerated": (6, 24),
    "textures": (0, 27),
}  # fmt: skip


def finished_run(seed=0, ablation=ABLATION):
    """What the store hands out of a finished run, as far as rows and tables need it: 40 test images of two classes.

    ablation : Student -> how many of 10 and of 30 images it is right about
    """
    # What was predicted
    rng = np.random.default_rng(seed)
    logits = {"teacher": {"test": np.stack([saying(4, 27), saying(6, 27, 3)])}, "distillation": {}}
    for name, right in ablation.items():
        key = "test" if name == "soft_regenerated" else f"test_{name}"
        logits["distillation"][key] = saying(*right)
    cas = {name: sum(right) / 40 for name, right in ablation.items()}

    # What was attacked: 100 members, 30 validation images, 40 others
    names = ("real_loss", "student_loss", "images_nearest", "images_fewer", "split_control")
    scores = {f"{n}_{side}": rng.normal(0.3 * (side == "in"), 1, size) for n in names
              for side, size in (("in", 100), ("out", 40), ("val", 30))}  # fmt: skip
    auc = {n: metrics.attack_auc(scores[f"{n}_in"], scores[f"{n}_out"]) for n in names}
    row = {"tpr_at_1pct_fpr": None, "blind_at_1pct_fpr": None, "advantage": 0.1, "members": 100, "non_members": 40}
    row |= {"auc_low": 0.4, "auc_high": 0.8}
    shift = {
        who: {
            "val_test": {"auc": metrics.attack_auc(scores[f"{who}_loss_val"], scores[f"{who}_loss_out"])},
            "train_val": {"auc": metrics.attack_auc(scores[f"{who}_loss_in"], scores[f"{who}_loss_val"])},
        }
        for who in ("real", "student")
    }
    for found in shift.values():
        for each in found.values():
            each |= {"auc_low": 0.2, "auc_high": 0.9}

    # Numbers, as the notebooks store them
    rows = {
        name: {"cas": value, "val_cas": 0.7, "gap": value - 0.8, "gap_low": -0.5, "gap_high": 0.4, "epoch": 3}
        | {"ensemble_gap": value - 0.825, "ensemble_gap_low": -0.5, "ensemble_gap_high": 0.4, "agreement": 0.9}
        for name, value in cas.items()
    }
    (first, second), mine = ablation["soft_regenerated"], rows["soft_regenerated"]
    stored = {
        "start": {"title": "Digits"},
        "teacher": {
            "members": 2, "test_accuracy": 0.8, "test_accuracies": [0.775, 0.825], "test_auc": 0.9,
            "val_accuracy": 0.82, "test_recall": [0.5, 0.9], "test_confusion": [[5.0, 5.0], [3.0, 27.0]],
            "test_counts": [10, 30], "ensemble_val_accuracy": 0.83, "ensemble_test_accuracy": 0.825,
            "ensemble_test_auc": 0.91, "ensemble_test_recall": [0.6, 0.9],
            "ensemble_test_confusion": [[6, 4], [3, 27]], "class_names": ["a;b", "=c"],
        },
        "generator": {}, "checkpoints": {}, "tuning": {},
        "distillation": {
            "cas": mine["cas"], "cas_gap": mine["gap"], "ensemble_gap": mine["ensemble_gap"], "cas_auc": 0.85,
            "cas_recall": [first / 10, second / 30],
            "cas_confusion": [[first, 10 - first], [30 - second, second]],
            "real_test_accuracy": 0.8, "ensemble_test_accuracy": 0.825, "ablation": rows, "teacher_agreement": 0.6,
            "knobs": {"guidance": 1.0, "few": 1, "temperature": 2.0, "hard_weight": 0.5},
        },
        "membership": {
            "real": {"loss": row | {"auc": auc["real_loss"]}}, "student": {"loss": row | {"auc": auc["student_loss"]}},
            "images": row | {"auc": auc["images_nearest"]}, "lambda": 2.0, "shift": shift,
            "real_aop": 0.5, "student_aop": 0.5, "real_generalisation_gap": 0.1, "student_generalisation_gap": 0.05,
            "images_minus_control": {"difference": auc["images_fewer"] - auc["split_control"]},
            "images_minus_student": {"difference": auc["images_nearest"] - auc["student_loss"]},
            "released": 100, "nearest": 3.0, "nearest_test": 4.0, "nearer_than_any_test": 1,
            "believed": True, "doubts": {"models": [], "images": []},
        },
    }  # fmt: skip
    files = {(stage, "logits.npz"): arrays for stage, arrays in logits.items()}
    files["membership", "scores.npz"] = scores | {"labels_test": LABELS}

    def done(stage, numbers):
        machine = {"cpu": "CPU", "gpu": None, "threads": 1}
        manifest = {"hardware": machine, "versions": {"torch": "2"}, "git_commit": None, "seconds": 60.0}
        manifest["fingerprint"] = f"{stage}{seed}"
        return types.SimpleNamespace(
            metrics=copy.deepcopy(numbers), manifest=manifest, budget={}, npz=lambda name: files[stage, name]
        )

    return {stage: done(stage, numbers) for stage, numbers in stored.items()}


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
