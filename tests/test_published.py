"""Published files: fetched aside, compared with their MD5 sums, moved into place; or nothing of them stays."""

import hashlib
import io
import shutil
import subprocess
import sys
from pathlib import Path

import medmnist
import numpy as np
import pytest
from conftest import med_arrays

import run_all
from kr_utils import InputError, data, published


def packed(seed=0):
    """The bytes of a made-up MedMNIST file."""
    file = io.BytesIO()
    np.savez(file, **med_arrays(seed=seed))
    return file.getvalue()


class Mirror:
    """medmnist's own downloader, answering from memory with what it is told to."""

    def __init__(self, monkeypatch, answers):
        self.answers, self.folders = list(answers), []
        mirror = self

        def download(self, split, download, root, size):
            mirror.folders.append(root)
            answer = mirror.answers.pop(0)
            if isinstance(answer, bytes):
                with open(f"{root}/breastmnist.npz", "wb") as file:
                    file.write(answer)
            else:
                with open(f"{root}/breastmnist.npz", "wb") as file:
                    file.write(packed()[:1000])
                try:
                    raise answer
                except BaseException:  # as medmnist does, which catches Ctrl-C too
                    raise RuntimeError("\n   Automatic download failed!\n   Please download it manually.") from None

        monkeypatch.setattr(medmnist.BreastMNIST, "__init__", download)
        table = {"breastmnist": {"MD5": hashlib.md5(packed()).hexdigest(), "label": {"0": "a", "1": "b"}}}
        monkeypatch.setattr(published, "medmnist_info", lambda: table)


FAILURES = {
    "another file": (packed(seed=1), "what came as breastmnist.npz is not the published file"),
    "a log-in page": (b"<html>Please log in</html>", "what came as breastmnist.npz is not the published file"),
    "half a file": (packed()[: len(packed()) // 2], "what came as breastmnist.npz is not the published file"),
    "nothing": (b"", "what came as breastmnist.npz is not the published file"),
    "a broken connection": (OSError("reset by peer"), "Automatic download failed!"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_failed_does_not_stay_and_is_fetched_again(case, tmp_path, monkeypatch):
    answer, words = FAILURES[case]
    mirror = Mirror(monkeypatch, [answer, answer, packed()])
    for _ in range(2):
        with pytest.raises(InputError, match="not found and not downloadable") as error:
            data.check("breastmnist", str(tmp_path))
        assert words in str(error.value)
        assert str(error.value).endswith(f"put breastmnist.npz from MedMNIST v2 (https://medmnist.com) into {tmp_path}")
        assert "\n" not in str(error.value)
        assert not list(tmp_path.iterdir()), "nothing is left to train on"
    loaded = data.load("breastmnist", str(tmp_path))
    assert len(mirror.folders) == 3
    assert len(loaded.test) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["breastmnist.npz"]
    assert (tmp_path / "breastmnist.npz").read_bytes() == packed()


def test_a_download_stands_beside_its_target_until_it_is_verified(tmp_path, monkeypatch):
    """On the same file system, or the last step would be a copy that can be interrupted."""
    mirror = Mirror(monkeypatch, [packed()])
    data.check("breastmnist", str(tmp_path))
    data.check("breastmnist", str(tmp_path))
    assert len(mirror.folders) == 1, "what is there is not fetched again"
    assert mirror.folders[0].startswith(f"{tmp_path}/.breastmnist-")


def test_ctrl_c_ends_a_download(tmp_path, monkeypatch):
    Mirror(monkeypatch, [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        data.check("breastmnist", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_never_replaced(tmp_path, monkeypatch):
    mirror = Mirror(monkeypatch, [])
    path = tmp_path / "breastmnist.npz"
    path.write_bytes(packed(seed=1))
    with pytest.raises(InputError, match="damaged or not the published file"):
        data.check("breastmnist", str(tmp_path))
    assert path.read_bytes() == packed(seed=1)
    assert not mirror.folders


@pytest.mark.parametrize("home", [True, False])
def test_looking_fetches_nothing_and_says_what_would_be_fetched(home, tmp_path, capsys, monkeypatch):
    """--dry-run, --status and --list, with a data folder and with the usual one, which is not there yet."""
    mirror = Mirror(monkeypatch, [])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KR_DATA", raising=False)
    folder = tmp_path / ".cache/knowledge-recycling" if home else tmp_path
    argv = ["--profile", "smoke", "--datasets", "breastmnist,digits", "--until", "teacher"]
    argv += [] if home else ["--data-root", str(tmp_path)]
    for more in ("--dry-run", "--status", "--list"):
        assert run_all.main([*argv, more]) == 0
        lines = capsys.readouterr().out.splitlines()
        if more == "--dry-run":
            what = "breastmnist.npz from MedMNIST v2 (https://medmnist.com)"
            assert lines[0] == f"fetch  breastmnist: {what} into {folder}"
            assert lines[1:4] == [
                "run    breastmnist seed 0  00_start_here: its data file is not here yet",
                "run    breastmnist seed 0  01_teacher: its data file is not here yet",
                "run    digits seed 0  00_start_here: not run yet",
            ]
    assert not list(tmp_path.iterdir())
    assert not mirror.folders


def idx(images, labels):
    """The two files of a part of Fashion-MNIST."""
    sizes = (
        [value.to_bytes(4, "big") for value in (2051, *images.shape)],
        [value.to_bytes(4, "big") for value in (2049, len(labels))],
    )
    return b"".join(sizes[0]) + images.tobytes(), b"".join(sizes[1]) + labels.tobytes()


@pytest.fixture
def fashion(monkeypatch):
    """Fashion-MNIST, made up: its files and its test arrays."""
    rng, made = np.random.default_rng(0), {}
    for part, count in (("train", 300), ("t10k", 100)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        made |= dict(zip((f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"), idx(images, labels)))
    monkeypatch.setattr(published, "FASHION", {name: hashlib.md5(raw).hexdigest() for name, raw in made.items()})
    return made, images, labels


def test_fashionmnist_is_read_as_published_and_not_with_one_label_changed(fashion, tmp_path):
    made, images, labels = fashion
    folder = tmp_path / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    for name, raw in made.items():
        (folder / name).write_bytes(raw)
    loaded = data.load("fashionmnist", str(tmp_path))
    assert (loaded.test.images[:, 0].numpy() == images).all()
    assert (loaded.test.labels.numpy() == labels).all()
    assert [len(split) for split in (loaded.train, loaded.val, loaded.test)] == [270, 30, 100]
    raw = made["t10k-labels-idx1-ubyte"]
    (folder / "t10k-labels-idx1-ubyte").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte: damaged or not the published file"):
        data.check("fashionmnist", str(tmp_path))


def test_of_several_files_only_the_missing_ones_are_put_in_place(fashion, tmp_path, monkeypatch):
    made, _, _ = fashion
    here = tmp_path / "FashionMNIST/raw/t10k-labels-idx1-ubyte"
    here.parent.mkdir(parents=True)
    here.write_bytes(made[here.name])
    inode = here.stat().st_ino

    def download(root, download):
        folder = tmp_path / root / "FashionMNIST/raw"
        folder.mkdir(parents=True)
        for name, raw in made.items():
            (folder / name).write_bytes(raw)
            (folder / f"{name}.gz").write_bytes(b"packed")

    monkeypatch.setattr(published, "torchvision_class", lambda name: download)
    assert len(data.to_fetch("fashionmnist", str(tmp_path))) == 3
    published.fetch("fashionmnist", tmp_path)
    published.verify("fashionmnist", tmp_path)
    assert here.stat().st_ino == inode
    assert {path.name for path in here.parent.iterdir()} == set(made)


def test_the_sums_are_the_publishers_and_reading_them_imports_no_torch():
    from torchvision.datasets import CIFAR100, FashionMNIST

    assert published.medmnist_info() == medmnist.INFO
    for name, info in data.INFO.items():
        if info.source == "medmnist":
            for at, key in [(name, "MD5")] + [(f"{name}_{size}", f"MD5_{size}") for size in published.SIZES]:
                assert published.files(at) == {f"{at}.npz": {medmnist.INFO[name][key]}}
    packs = {url.removesuffix(".gz") for url, _ in FashionMNIST.resources}
    assert {path.split("/")[-1] for path in published.files("fashionmnist")} == packs
    names = {"train", "test", "meta"}
    assert {path for path in published.files("cifar100")} == {f"{CIFAR100.base_folder}/{name}" for name in names}
    code = "import sys; from kr_utils import published; published.files('octmnist'); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_real_files_are_the_published_ones(medical):
    for name in ("breastmnist", "retinamnist"):
        published.verify(name, data.data_root(medical))


# ------------------------------------------------------------------ other sizes


@pytest.mark.parametrize("size", published.SIZES)
def test_medmnist_at_other_sizes_has_names_of_its_own(size, tmp_path, capsys):
    name = f"breastmnist_{size}"
    info = data.require_name(name)
    assert (info.title, info.classes, info.hflip) == (f"BreastMNIST ({size} px)", 2, True)
    assert info.resnet18 is None, "the accuracy was published for 28 pixels"
    (line,) = data.to_fetch(name, str(tmp_path))
    assert line.startswith(f"{name}.npz from MedMNIST v2")
    assert not data.may_be_own(name)
    for wrong in (f"digits_{size}", f"cifar10_{size}", "breastmnist_28", "breastmnist_96"):
        with pytest.raises(InputError, match="unknown dataset"):
            data.require_name(wrong, str(tmp_path))
    with pytest.raises(InputError, match="is multi-label"):
        data.require_name(f"chestmnist_{size}")


def test_a_set_at_another_size_is_read_fetched_and_compared_as_such(tmp_path, monkeypatch):
    """Made at 64 pixels here, with its own sum in the publisher's table."""
    arrays = med_arrays((60, 30, 40), size=64)
    np.savez(tmp_path / "made.npz", **arrays)
    md5 = hashlib.md5((tmp_path / "made.npz").read_bytes()).hexdigest()
    table = {"breastmnist": published.medmnist_info()["breastmnist"] | {"MD5_64": md5}}
    monkeypatch.setattr(published, "medmnist_info", lambda: table)
    asked = []

    class Published:
        def __init__(self, split, download, root, size):
            asked.append(size)
            shutil.copy(tmp_path / "made.npz", Path(root, f"breastmnist_{size}.npz"))

    monkeypatch.setattr(medmnist, "BreastMNIST", Published)
    (tmp_path / "data").mkdir()
    loaded = data.load("breastmnist_64", str(tmp_path / "data"))
    assert asked == [64]
    assert (loaded.shape, loaded.class_names) == ((1, 64, 64), ("malignant", "normal, benign"))
    assert data.sizes("breastmnist_64", str(tmp_path / "data"))["height"] == 64

    # Under the name of another size it is told what it is
    (tmp_path / "data/breastmnist_64.npz").rename(tmp_path / "data/breastmnist.npz")
    with pytest.raises(InputError, match=r"the published file of another size; rename it to breastmnist_64.npz"):
        data.check("breastmnist", str(tmp_path / "data"))
