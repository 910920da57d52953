"""A bundle to hand out, as its receiver meets it: real files, other people's readers, a browser, refusals."""

import base64
import csv
import getpass
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_no_pickle_inside
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from test_browser import CHROMIUM, FLAGS

import run_all
from kr_utils import (
    InputError,
    bundle,
    card,
    classifier,
    data,
    generator,
    releasable,
    runs,
    sampling,
    stages,
)
from kr_utils.driver import execute as driver_execute
from kr_utils.driver import plan
from kr_utils.runs import files as files_
from kr_utils.runs import identity

# The least that passes all refusals: a Student that has learned something, attacks whose controls hold
TINY = {
    "teacher": "members=2 width=8 epochs=10 least_steps=60",
    "generator": "steps=120 batch=32 width=16 checkpoints=2",
    "checkpoints": "epochs=1 students=1 steps=3 images=300",
    "tuning": "epochs=1 students=1 guidance=1 steps=4 churn=0 threshold=0.3 few_steps=0 images=300 hard_weight=0",
    "distillation": "epochs=4 images=300 controls=0",
    "membership": "overfit_images=64 overfit_epochs=60 released=300 draws=200",
}
COUNT = 130


def drive(*args, **environment):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    call = [sys.executable, str(ROOT / "run_all.py"), "--threads", "1", *map(str, args)]
    return subprocess.run(call, capture_output=True, text=True, env=env, cwd=ROOT, timeout=900)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with `runs`, a tiny run of digits, and `bundle`, made of it, with the Generator's weights."""
    folder = tmp_path_factory.mktemp("release")
    places = ["--runs-dir", folder / "runs", "--figures-dir", folder / "figures"]
    fields = [f"{stage}.{field}" for stage, given in TINY.items() for field in given.split()]
    settings = [word for field in fields for word in ("--set", field)]
    out = drive(*places, *settings, "--until", "membership")
    assert out.returncode == 0, out.stdout + out.stderr
    out = drive("--release", "digits", "--images", COUNT, "--with-generator", "--out", folder / "bundle", *places)
    assert out.returncode == 0, out.stdout + out.stderr
    assert out.stdout.splitlines()[-1] == f"bundle: {folder / 'bundle'}; read README.md in it before you hand it out"
    return folder


@pytest.fixture(scope="module")
def place(made):
    return made / "bundle"


def stored(made, stage, seed=0):
    return runs.read(made / "runs/quick/digits" / f"seed{seed}" / stages.STAGES[stage][0])


def rows(place):
    with open(place / "metadata.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------ the files


def test_a_bundle_has_these_files_and_each_is_as_its_checksum_says(place, made):
    top = {path.name for path in place.iterdir()}
    assert top == {
        "README.md", "SHA256SUMS", "config.json", "croissant.json", "generator.safetensors", "images", "metadata.csv",
        "predict.py", "report.html", "report.json", "student.onnx", "student.safetensors", "synthetic.json",
        "synthetic.npz",
    }  # fmt: skip
    listed = dict(line.split("  ")[::-1] for line in (place / "SHA256SUMS").read_text().splitlines())
    there = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert set(listed) == there - {"SHA256SUMS"}
    assert len(list(place.glob("images/*/*.png"))) == COUNT
    for name, digest in listed.items():
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest, name

    # What was handed out can be told from the run, too
    done = stored(made, "release")
    assert done.manifest["outside"] == {"SHA256SUMS": hashlib.sha256((place / "SHA256SUMS").read_bytes()).hexdigest()}
    assert {row["file"] for row in done.csv("files.csv")} == there
    assert not list(made.glob(".*partial"))


def test_a_changed_added_or_lost_file_is_found(place, tmp_path):
    copy = Path(shutil.copytree(place, tmp_path / "copy"))
    assert bundle.differing(copy) == []
    (copy / "config.json").write_text("{}")
    (copy / "more.txt").write_text("")
    (copy / "croissant.json").unlink()
    assert bundle.differing(copy) == ["config.json", "croissant.json", "more.txt"]


def test_pictures_arrays_and_table_hold_the_same_images(place):
    table = rows(place)
    assert len(table) == COUNT
    with np.load(place / "synthetic.npz", allow_pickle=False) as archive:
        arrays = dict(archive)
    for split in data.SPLITS:
        own = [(i, row) for i, row in enumerate(table) if row["split"] == split]
        assert [i for i, _ in own] == arrays[f"{split}_row"].tolist()
        for k, (_, row) in enumerate(own):
            with Image.open(place / row["file_name"]) as image:
                assert (image.mode, image.info) == ("L", {}), "pixels, and nothing else"
                assert np.array_equal(np.asarray(image), arrays[f"{split}_images"][k])
            assert int(row["label"]) == arrays[f"{split}_labels"][k, 0]
            assert row["file_name"].split("/")[1] == f"{row['label']}_{row['label']}", "the digits' names are their own"
            assert int(row["index"]) == arrays[f"{split}_index"][k]
            soft = np.array([row[f"soft_{c}"] for c in range(10)], np.float32)
            assert np.array_equal(soft, arrays[f"{split}_soft"][k]), "as written, so read"
            assert soft.sum() == pytest.approx(1, abs=1e-5)
    counts = np.bincount([int(row["label"]) for row in table])
    assert counts.tolist() == [13] * 10
    assert [sum(row["split"] == split for row in table) for split in data.SPLITS] == [110, 10, 10]


def test_every_image_is_drawn_again_from_seed_and_index_to_the_last_bit(place):
    """From what is in the bundle alone, in another order and in other company."""
    table = rows(place)
    knobs = json.loads((place / "report.json").read_text())["images"]["knobs"]
    sampler = {key: knobs[key] for key in ("guidance", "churn")} | {"steps": int(knobs["steps"])}
    model = generator.load(place / "generator.safetensors")
    order = np.random.default_rng(1).permutation(COUNT)[:70]
    labels = torch.tensor([int(table[i]["label"]) for i in order])
    (seed,) = {int(row["seed"]) for row in table}
    again = sampling.sample(model, labels, seed=seed, indices=[int(table[i]["index"]) for i in order], **sampler)
    for k, i in enumerate(order):
        assert np.array_equal(np.asarray(Image.open(place / table[i]["file_name"])), again[k, 0].numpy())


def test_the_images_are_not_those_that_the_student_saw(place, made):
    seen = {image.tobytes() for image in stored(made, "distillation").npz("synthetic.npz")["images"]}
    assert len(seen) == 300
    given = {np.asarray(Image.open(place / row["file_name"])).tobytes() for row in rows(place)}
    assert len(given) == COUNT
    assert not seen & given


def test_nothing_says_where_or_by_whom_it_was_made(place, made):
    """Folders in every file that is not packed; user and host as words, in texts (any two letters are in weights)."""
    folders = [
        str(made),
        str(ROOT),
        sys.prefix,
        str(Path.home()),
        "/home/",
        "/tmp/",
        "/usr/lib",
        "site-packages",
        '.py", line',
    ]
    people = [getpass.getuser() + "@", f"user {getpass.getuser()}", "USER", "HOME"]
    host = re.compile(rf"(?<![\w.-]){re.escape(socket.gethostname())}(?![\w-])")
    for path in filter(Path.is_file, place.rglob("*")):
        raw = re.sub(rb"base64,[A-Za-z0-9+/=]+", b"", path.read_bytes())
        if path.suffix not in (".png", ".npz"):
            assert [word for word in folders if word.encode() in raw] == [], path
        if path.suffix not in (".png", ".npz", ".safetensors", ".onnx"):
            text = raw.decode("utf-8")
            assert [word for word in people if word in text] == [], path
            assert not host.search(text), path
    assert_no_pickle_inside(place / "images")

    # What torch writes beside each node of an ONNX file
    import onnx

    proto = onnx.load(place / "student.onnx")
    assert len(proto.graph.node) > 10
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.initializer, *proto.graph.value_info):
        assert not part.metadata_props
        assert not part.doc_string


def test_archives_and_texts_tell_no_time_of_day(place):
    """A local time in one file and the same moment in UTC in another would tell the time zone."""
    import zipfile

    with zipfile.ZipFile(place / "synthetic.npz") as archive:
        assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    for name in ("README.md", "report.json", "report.html", "croissant.json"):
        assert not re.search(r"\d\d:\d\d|[+-]\d\d00\b", re.sub(r"base64,[^\"]+", "", (place / name).read_text())), name


def test_no_real_image_is_in_it(place):
    """Not in the report's pictures either: those of the closest pairs are the released ones."""
    ds = data.load("digits")
    real = {image.tobytes() for split in data.SPLITS for image in getattr(ds, split).images.numpy()}
    given = {np.asarray(Image.open(path)).tobytes() for path in place.glob("images/*/*.png")}
    assert not real & given
    pictures = re.findall(r'<img alt="[^"]+" src="data:image/png;base64,([^"]+)">', (place / "report.html").read_text())
    assert len(pictures) == 2
    for coded in pictures:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))))
        tiles = [shown[y : y + 8, x : x + 8] for y in range(0, len(shown), 9) for x in range(0, shown.shape[1], 9)]
        kinds = {tile.tobytes() for tile in tiles} - {bytes([255] * 64)}
        assert kinds <= given
        assert len(kinds) >= 8


# ------------------------------------------------------------------ the Student elsewhere


@pytest.fixture(scope="module")
def real_images():
    return data.load("digits").test.images.numpy()[:200]


def test_onnx_and_safetensors_say_what_the_stored_student_said(place, made, real_images):
    expected = stored(made, "distillation").npz("logits.npz")["test"][:200]
    loaded = classifier.predict(classifier.load(place / "student.safetensors"), torch.from_numpy(real_images)).numpy()
    assert np.abs(bundle.onnx_logits(place / "student.onnx", real_images) - loaded).max() < 1e-4
    assert np.abs(loaded - expected).max() < 1e-4
    assert np.ptp(loaded) > 1, "it says something"
    for few in (1, 3):
        assert bundle.onnx_logits(place / "student.onnx", real_images[:few]).shape == (few, 10)


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """Python of a new environment that has onnxruntime, numpy, Pillow and what they need; no network."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in ("numpy", "PIL", "onnxruntime", "flatbuffers", "google", "packaging"):
        origin = Path(next(iter(importlib.util.find_spec(name).submodule_search_locations)))
        (site / origin.name).symlink_to(origin)
        for more in origin.parent.glob(f"{'pillow' if name == 'PIL' else name}.libs"):
            (site / more.name).symlink_to(more)
    python = folder / "bin/python"
    found = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in found.stderr
    return python


def test_predict_runs_without_torch_and_says_the_same(place, without_torch, real_images, tmp_path):
    # As they are; in colour; enlarged; with 16 bits; turned, and said so; and something else
    for k in range(5):
        Image.fromarray(real_images[k, 0]).save(tmp_path / f"{k}.png")
    Image.fromarray(real_images[0, 0]).convert("RGB").save(tmp_path / "colour.png")
    Image.fromarray(real_images[1, 0]).resize((64, 64), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    Image.fromarray(real_images[2, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    turned = Image.Exif()
    turned[0x0112] = 3
    Image.fromarray(real_images[3, 0, ::-1, ::-1].copy()).save(tmp_path / "turned.png", exif=turned)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no")
    names = [*(f"{k}.png" for k in range(5)), "colour.png", "large.png", "deep.png", "turned.png"]

    call = [without_torch, "-I", place / "predict.py", "broken.png", *names, "absent.png"]
    out = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env={"HOME": str(tmp_path)})
    assert out.returncode == 1, "two files could not be read"
    assert [line.split(" cannot")[0] for line in out.stderr.splitlines() if line.startswith("error")] == [
        "error: broken.png", "error: absent.png"
    ]  # fmt: skip
    assert "note: large.png is 64 x 64, resized to 8 x 8\n" in out.stderr
    assert json.loads((place / "config.json").read_text())["prepared"] is None, "nobody imported the digits"
    assert "note: deep.png is of 16 bits, all taken to be used (a guess: config.json does not say" in out.stderr
    table = {row["file"]: row for row in csv.DictReader(io.StringIO(out.stdout))}
    assert list(table) == names

    # The same as in PyTorch
    student = classifier.load(place / "student.safetensors")
    expected = classifier.predict(student, torch.from_numpy(real_images[:5])).softmax(1).numpy()
    same = {"colour.png": 0, "deep.png": 2, "turned.png": 3} | {f"{k}.png": k for k in range(5)}
    for name, k in same.items():
        given = np.array([float(table[name][str(c)]) for c in range(10)])
        assert np.abs(given - expected[k]).max() < 1e-4, name
        assert table[name]["class"] == str(expected[k].argmax())


def test_predict_is_short_and_needs_three_packages(place):
    code = (place / "predict.py").read_text()
    assert code == (ROOT / "kr_utils/predict.py").read_text()
    lines = [line for line in code.splitlines() if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(lines) <= 90
    imported = set(re.findall(r"^(?:import|from) (\w+)", code, re.M))
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}


# ------------------------------------------------------------------ the card


def test_what_is_told_is_what_the_stages_stored(place, made):
    found = json.loads((place / "report.json").read_text())
    assert found == json.loads(json.dumps(stored(made, "release").stored)), "the report and the run's numbers"
    student, real = stored(made, "distillation").metrics, stored(made, "teacher").metrics
    assert found["student"]["accuracy"] == [student["cas"], student["cas_low"], student["cas_high"]]
    assert found["student"]["gap"][0] == pytest.approx(student["cas_gap"])
    assert found["student"]["gap"][1] == pytest.approx(student["gap_low"], abs=0.01)
    assert found["student"]["real"][0] == pytest.approx(real["test_accuracy"])
    assert [row[0] for row in found["student"]["recall"]] == pytest.approx(student["cas_recall"])
    counts = np.bincount(data.load("digits").test.labels)
    assert found["student"]["test_counts"] == counts.tolist()
    assert found["student"]["majority"] == counts.max() / counts.sum()
    assert found["attacks"]["student"] == stored(made, "membership").metrics["student"]
    named = ("teacher", "generator", "checkpoints", "tuning", "distillation", "membership")
    assert found["run"]["manifests"] == {stage: stored(made, stage).manifest["fingerprint"] for stage in named}
    assert found["dataset"]["licence"]["hub"] == "cc-by-4.0"


def test_the_attack_was_made_on_exactly_these_images(place):
    """The distances of the table, and the attack's AUC, from the files and the real images alone."""
    found = json.loads((place / "report.json").read_text())["attacks"]
    ds = data.load("digits")
    train, test = (split.images.numpy().reshape(len(split), -1).astype(float) for split in (ds.train, ds.test))
    test = test[ds.new("test")]
    given = bundle.read_images(place).reshape(COUNT, -1).astype(float)

    def away(one, other):
        return np.sqrt(((one[:, None] - other[None]) ** 2).mean(2))

    near, far = away(train, given), away(test, given)
    for row in found["closest"]:
        number = int(re.search(r"(\d+)\.png", row["file"])[1])
        assert row["distance"] == pytest.approx(near[:, number].min(), abs=1e-3)
        assert row["training"] == near[:, number].argmin()
    assert found["closest"][0]["distance"] == pytest.approx(near.min(), abs=1e-3)
    assert found["smallest"] == pytest.approx([near.min(), far.min()], abs=1e-3)
    inside, outside = -near.min(1), -far.min(1)
    auc = (inside[:, None] > outside).mean() + (inside[:, None] == outside).mean() / 2
    assert found["nearest"]["auc"] == pytest.approx(auc, abs=1e-3)
    assert found["nearest"]["members"] == len(train)
    assert found["copies_control"]["auc"] > 0.99


def test_card_and_page_say_on_top_that_no_audit_was_run_and_what_the_weights_mean(place):
    found = json.loads((place / "report.json").read_text())
    text, page = (place / "README.md").read_text(), (place / "report.html").read_text()
    assert found["first"][0].startswith("No audit was run on this.")
    assert any("The Generator's weights are in this bundle." in line for line in found["first"])
    assert any("no attack on them was run" in line for line in found["first"])
    for line in (*found["first"], *found["not_tested"]):
        assert line in text
        assert line.replace("'", "&#x27;") in page
    assert text.index(found["first"][0]) < text.index("## How good the Student is")
    told = card.percent(found["student"]["accuracy"])
    assert re.fullmatch(r"\d+\.\d \(\d+\.\d to \d+\.\d\)", told)
    assert told in text
    assert told in page
    assert "--set teacher.epochs=10" in text
    assert f"--release digits --profile quick --seeds 0 --images {COUNT} --with-generator --out FOLDER" in text


def test_the_command_on_the_card_is_the_run(made, place):
    """Given to the driver, it finds every stage made."""
    command = json.loads((place / "report.json").read_text())["run"]["commands"][0].split()
    out = drive(*command[2:], "--dry-run", "--runs-dir", made / "runs", KR_MEASURE="0")
    assert "total: 0 of 7 stages to run" in out.stdout, out.stdout + out.stderr


def test_hugging_face_reads_card_and_images(place, tmp_path, monkeypatch):
    from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData, metadata_load

    text = (place / "README.md").read_text()
    kinds = ((DatasetCard, DatasetCardData), (ModelCard, ModelCardData))
    for kind, about in kinds:
        read = kind(text, ignore_metadata_errors=False)
        assert isinstance(read.data, about)
        assert read.data.license == "cc-by-4.0"
    assert DatasetCard(text).data.size_categories == ["n<1K"]
    (result,) = ModelCard(text).data.eval_results
    found = json.loads((place / "report.json").read_text())
    assert result.metric_value == round(found["student"]["accuracy"][0], 4)
    assert metadata_load(place / "README.md")["pipeline_tag"] == "image-classification"

    # Offline, as files in a folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    datasets = pytest.importorskip("datasets")
    read = datasets.load_dataset("imagefolder", data_dir=str(place), cache_dir=str(tmp_path / "cache"))
    assert list(read) == ["train"]
    table = {Path(row["file_name"]).name: row for row in rows(place)}
    assert len(read["train"]) == COUNT
    for item in read["train"]:
        row = table[Path(item["image"].filename).name] if item["image"].filename else None
        assert np.asarray(item["image"]).shape == (8, 8)
        if row:
            assert (item["label"], item["index"]) == (int(row["label"]), int(row["index"]))
    assert sorted(read["train"]["index"]) == sorted(int(row["index"]) for row in table.values())


def test_croissant_is_valid_and_its_records_are_read(place, caplog):
    import mlcroissant

    read = mlcroissant.Dataset(str(place / "croissant.json"))
    assert read.metadata.ctx.issues.errors == set()
    assert read.metadata.ctx.issues.warnings == set()
    assert "not standard" not in caplog.text
    found = [*read.records("images")]
    assert [row["images/file_name"].decode() for row in found] == [row["file_name"] for row in rows(place)]
    assert found[3]["images/soft_2"] == pytest.approx(float(rows(place)[3]["soft_2"]), abs=1e-7)
    sums = dict(line.split("  ")[::-1] for line in (place / "SHA256SUMS").read_text().splitlines())
    listed = json.loads((place / "croissant.json").read_text())["distribution"]
    assert all(item["sha256"] == sums[item["name"]] for item in listed if "sha256" in item)


def test_this_project_takes_the_bundle_as_a_dataset(place):
    """Its folder is a data folder; `--import` of the folder or of the npz is another door to the same arrays."""
    read = data.load("synthetic", str(place))
    assert read.info.title == "Digits, synthetic"
    assert (len(read.train), len(read.val), len(read.test)) == (110, 10, 10)
    assert read.class_names == tuple("0123456789")
    given = bundle.read_images(place)
    with np.load(place / "synthetic.npz") as archive:
        assert np.array_equal(read.train.images.numpy(), given[archive["train_row"]])
    out = drive("--datasets", "synthetic", "--data-root", place, "--profile", "smoke", "--dry-run", KR_MEASURE="0")
    assert "total: 8 of 8 stages to run" in out.stdout, out.stderr


def test_the_report_opens_in_a_browser_and_asks_for_nothing(place):
    page = (place / "report.html").read_text()
    assert "http" not in re.sub(r"http-equiv", "", page)
    if CHROMIUM is None:
        assert not os.environ.get("KR_REQUIRE_BROWSER"), "chromium must be installed here"
        pytest.skip("install chromium to run this")
    from playwright.sync_api import sync_playwright

    asked, said = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        context = browser.new_context(offline=True, viewport={"width": 1000, "height": 800})
        tab = context.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto((place / "report.html").as_uri())
        assert tab.title() == "Digits: synthetic images and a Student"
        assert tab.locator("ul.first li").first.text_content().startswith("No audit was run on this.")
        sizes = tab.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.alt.length])")
        assert len(sizes) == 2
        assert all(done and width > 60 and alt > 10 for done, width, alt in sizes)
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it fits"
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []


# ------------------------------------------------------------------ refused, in one line, with nothing written


def refused(capsys, *argv):
    """The line that the driver says; it ends with 2 and shows no traceback."""
    assert run_all.main([*map(str, argv)]) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ")
    assert out.err.count("\n") == 1
    assert "Traceback" not in out.err
    assert len(out.err) < 1200, "the command that makes a run of 30 settings is the longest part"
    return out.err


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


CASES = [
    ("--profile smoke", "a smoke run checks the plumbing"),
    ("--seeds 0,1", "--release hands out one run; give one seed"),
    ("--seeds 3", "and 01_teacher is not one: not run yet; run `python run_all.py --datasets digits --profile quick "
     "--seeds 3 --runs-dir "),
    ("--set teacher.epochs=11", "01_teacher is not one: epochs 10 -> 11"),
    ("--set membership.draws=201", "06_membership is not one: draws 200 -> 201"),
    ("--images 19", "release.images is 19; it must be at least 20"),
    ("--images 29", "--images 29 are too few: each class needs 3"),
    ("--images 1000000", "it must be at most 100000"),
    ("--images many", "release.images is 'many'; it must be a whole number"),
    ("--images 40 --set release.images=50", "--set release.images is given twice"),
    ("--set release.balance=even", "use uniform or prior"),
    ("--terms MIT", "the bundle inherits it; leave out --terms"),
    ("--until tuning", "--until is not for --release"),
    ("--jobs 2", "--jobs is not for --release"),
    ("--datasets digits,breastmnist", "--datasets is not for --release"),
    ("--status", "--status is not for --release"),
    ("--force", "--force is not for --release"),
    ("--images=", "release.images is ''; it must be a whole number"),
    ("--audit", "--audit is not for --release"),
    ("--audit 4", "--audit is not for --release"),
    ("--list", "--list is not for --release"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "words"), CASES, ids=[case[0] for case in CASES])
def test_a_release_is_refused_in_one_line_and_nothing_is_written(more, words, made, tmp_path, capsys):
    before = tree(made)
    common = ["--release", "digits", "--out", tmp_path / "new", "--runs-dir", made / "runs"]
    assert words in refused(capsys, *common, *more.split())
    assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "figures"] == []
    assert tree(made) == before


def test_folders_that_a_bundle_is_not_written_to(made, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(made / "runs")
    cases = {
        "": "--release needs --out FOLDER",
        tmp_path / "full": "not empty, and nothing is replaced",
        tmp_path / "file": "a file, where the bundle's folder belongs",
        tmp_path / "file/below": "there is no folder",
        tmp_path / "no/such": "there is no folder",
        made / "runs/new": "not written into or around the folder of runs",
        tmp_path / "link/new": "not written into or around the folder of runs",
        made: "not written into or around the folder of runs",
        ROOT / "runs/new": "the repository",
        "a\tb": "with a control character",
        "x" * 300: "File name too long",
        "/proc/new": "cannot be written to",
    }
    before = tree(made)
    for place, words in cases.items():
        line = refused(capsys, "--release", "digits", "--out", place, "--runs-dir", made / "runs")
        assert words in line, (place, line)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**30 - 2**20, 2**20))
    line = refused(capsys, "--release", "digits", "--out", tmp_path / "new", "--runs-dir", made / "runs")
    assert re.search(r"about \d+ MB are needed, 1 MB are free; make room or ask for fewer images", line)
    assert tree(made) == before
    assert (tmp_path / "full/a.txt").read_text() == "mine"


@pytest.mark.parametrize("option", ["--out x", "--images 40", "--with-generator", "--despite-leaks", "--terms MIT"])
def test_options_of_a_release_mean_nothing_without_one(option, capsys):
    line = refused(capsys, *option.split())
    assert line == f"error: {option.split()[0]} is for a bundle; add --release NAME\n"


def resealed(folder, changed):
    """A finished stage of which some stored numbers are others, and which is whole all the same."""
    numbers = json.loads((folder / "metrics.json").read_text()) | changed
    (folder / "metrics.json").write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("seal")
    manifest["files"] = {name: files_.stamp(folder / name) for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "seal": identity.fingerprint(manifest)}))
    assert runs.read(folder)


def test_controls_that_failed_and_a_student_of_one_class_are_refused(made, tmp_path, capsys):
    root = Path(shutil.copytree(made / "runs", tmp_path / "r"))
    argv = ["--release", "digits", "--out", tmp_path / "new", "--runs-dir", root]
    last = root / "quick/digits/seed0/06_membership"
    whole = (last / "metrics.json").read_text()

    for which in ("models", "images"):
        resealed(last, {"doubts": json.loads(whole)["doubts"] | {which: ["it failed"]}})
        assert f"the attacks on the {which} are not to be believed (it failed)" in refused(capsys, *argv)
        resealed(last, json.loads(whole))

    # A Student of one class, and a stage that what follows was not made from
    resealed(root / "quick/digits/seed0/05_distillation", {"cas_confusion": [[9, *[0] * 9]] * 10})
    assert "the Student says class 0 of every test image" in refused(capsys, *argv)
    resealed(root / "quick/digits/seed0/04_tuning", {"number": 1})
    assert "05_distillation is not one: it was made from another 04_tuning" in refused(capsys, *argv)
    assert not (tmp_path / "new").exists()


def test_a_dry_run_of_a_release_writes_nothing(made, tmp_path, capsys):
    before = tree(made)
    argv = ["--release", "digits", "--out", tmp_path / "new", "--runs-dir", made / "runs", "--dry-run"]
    assert run_all.main([*map(str, argv)]) == 0
    first, total = capsys.readouterr().out.splitlines()
    assert first.startswith("run    digits seed 0  09_release: a bundle is asked for")
    assert total.startswith("total: 1 of 1 stages to run")
    assert tree(made) == before


def test_a_release_makes_no_run_stale_and_is_in_no_usual_plan(made, capsys):
    assert "release" in stages.STAGES
    assert plan.stages_until(None) == [stage for stage in stages.STAGES if stage not in stages.ON_REQUEST]
    with pytest.raises(InputError, match="09_release runs only when it is asked for"):
        plan.stages_until("release")
    found, left_out = runs.find_current(made / "runs", "quick")
    assert left_out == {}
    assert set(found["digits", 0]) == set(stages.USUAL) - {"compare"}
    assert run_all.main(["--status", "--profile", "quick", "--runs-dir", str(made / "runs")]) == 0
    assert "release" in capsys.readouterr().out
    assert run_all.main(["--status", "--profile", "quick", "--seeds", "7", "--runs-dir", str(made / "r")]) == 0
    assert "release" not in capsys.readouterr().out


def failing(error):
    """A stage in whose kernel this was raised, half a bundle on the disk."""

    def execute(job, *more):
        partial = releasable.unfinished(Path(job.parameters["out"]))
        (partial / "images").mkdir(parents=True)
        raise driver_execute.StageFailed("09_release.ipynb, cell 3: it was raised; see x") from error

    return execute


def test_what_the_notebook_refuses_ends_with_2_and_what_fails_with_1(made, tmp_path, capsys, monkeypatch):
    """Some things are known only once the images are drawn; whatever comes, nothing is left."""
    argv = ["--release", "digits", "--out", tmp_path / "new", "--runs-dir", made / "runs"]
    cell = {"cell_index": 3, "exec_count": 3, "source": "", "traceback": []}
    told = PapermillExecutionError(**cell, ename="InputError", evalue="31 images are too few: class 2\nmore")
    monkeypatch.setattr(driver_execute, "execute", failing(told))
    assert refused(capsys, *argv) == "error: 31 images are too few: class 2\n"

    full = PapermillExecutionError(**cell, ename="OSError", evalue="[Errno 28] No space left on device")
    monkeypatch.setattr(driver_execute, "execute", failing(full))
    assert run_all.main([*map(str, argv)]) == 1
    assert "failed: digits seed 0  09_release: 09_release.ipynb, cell 3" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name != "figures"]
