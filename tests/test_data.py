"""Datasets: the real ones have the published form, and bad files are refused in one line."""

import hashlib

import numpy as np
import pytest
import torch
from conftest import med_arrays
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kr_utils import InputError, data, validation


def test_digits_are_split_by_a_fixed_stratified_cut(digits):
    assert [len(s) for s in (digits.train, digits.val, digits.test)] == [1000, 200, 597]
    assert digits.train.images.shape == (1000, 1, 8, 8)
    assert digits.train.images.dtype == torch.uint8
    assert int(digits.train.images.max()) == 255
    for split in (digits.train, digits.val, digits.test):
        share = np.bincount(split.labels, minlength=10) / len(split)
        assert abs(share - 0.1).max() < 0.012
    rows = torch.cat([s.images.flatten(1) for s in (digits.train, digits.val, digits.test)])
    assert len(rows) == 1797
    assert data.check("digits") == digits.checksum == data.load("digits").checksum


def test_the_splits_share_no_image(digits):
    seen = [{hashlib.sha256(i.numpy().tobytes()).digest() for i in getattr(digits, s).images} for s in data.SPLITS]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_real_breastmnist_and_retinamnist(medical):
    breast, retina = data.load("breastmnist", medical), data.load("retinamnist", medical)
    assert [len(s) for s in (breast.train, breast.val, breast.test)] == [546, 78, 156]
    assert [len(s) for s in (retina.train, retina.val, retina.test)] == [1080, 120, 400]
    assert breast.shape == (1, 28, 28)
    assert retina.shape == (3, 28, 28)
    assert breast.class_names == ("malignant", "normal, benign")
    assert len(retina.class_names) == 5


def test_channels_survive_the_change_of_layout(tmp_path):
    arrays = med_arrays(classes=5, channels=3, n=(10, 6, 6))
    np.savez(tmp_path / "retinamnist.npz", **arrays)
    loaded = data.load("retinamnist", str(tmp_path))
    assert torch.equal(loaded.train.images[3, 2], torch.from_numpy(arrays["train_images"][3, :, :, 2]))


def test_flips_are_declared_only_where_labels_survive():
    assert not data.INFO["digits"].hflip
    for name in ("organamnist", "organcmnist", "organsmnist"):
        assert not data.INFO[name].hflip, f"{name} has left and right organs among its classes"
    assert data.INFO["breastmnist"].hflip
    assert not data.INFO["breastmnist"].vflip
    assert data.INFO["pathmnist"].vflip


def test_every_single_label_medmnist_set_agrees_with_the_package():
    from medmnist import INFO as published

    flat = {k for k, v in published.items() if not k.endswith("3d") and "multi-label" not in v["task"]}
    assert flat == {name for name, info in data.INFO.items() if info.source == "medmnist"}
    for name in flat:
        assert data.INFO[name].classes == len(published[name]["label"])
        assert data.INFO[name].channels == published[name]["n_channels"]
        assert data.INFO[name].licence == published[name]["license"]


def test_checksum_depends_on_content_not_on_compression(tmp_path):
    arrays = med_arrays()
    sums = []
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "breastmnist.npz", **arrays)
        sums.append(data.check("breastmnist", str(tmp_path)))
    arrays["train_images"][0, 0, 0] ^= 1
    np.savez(tmp_path / "breastmnist.npz", **arrays)
    assert sums[0] == sums[1] != data.check("breastmnist", str(tmp_path))


def change(**replaced):
    return lambda arrays: arrays.update(replaced)


def relabel(split, index, value):
    def apply(arrays):
        labels = arrays[f"{split}_labels"].astype(np.int64)
        labels[index] = value
        arrays[f"{split}_labels"] = labels

    return apply


BAD = {
    "missing array": (lambda a: a.pop("val_labels"), "no array 'val_labels'"),
    "float images": (lambda a: a.update(train_images=a["train_images"] / 255), "float64, not uint8"),
    "int16 images": (lambda a: a.update(test_images=a["test_images"].astype(np.int16)), "int16, not uint8"),
    "three channels": (change(train_images=np.zeros((12, 28, 28, 3), np.uint8)), "expected N x H x W with 1 channel"),
    "flat images": (change(train_images=np.zeros((12, 784), np.uint8)), "train_images is 12x784"),
    "float labels": (lambda a: a.update(val_labels=a["val_labels"] * 1.0), "labels must be whole numbers"),
    "one-hot labels": (change(train_labels=np.zeros((12, 2), np.uint8)), "expected one label per image"),
    "counts differ": (lambda a: a.update(test_labels=a["test_labels"][:-1]), "6 images but 5 labels"),
    "label too large": (relabel("val", 2, 2), "val_labels holds 2; labels must be 0..1"),
    "label negative": (relabel("test", 0, -1), "test_labels holds -1; labels must be 0..1"),
    "empty class": (lambda a: a.update(train_labels=a["train_labels"] * 0), "class 1 has no training image"),
    "sizes differ": (change(val_images=np.zeros((6, 32, 32), np.uint8)), "differ in image size"),
    "one image": (lambda a: a.update(val_images=a["val_images"][:1], val_labels=a["val_labels"][:1]), "at least 2"),
    "1x1 pixels": (change(train_images=np.zeros((12, 1, 1), np.uint8)), "images are 1x1"),
    "object labels": (lambda a: a.update(train_labels=np.array([None] * 12, object)), "not readable without pickle"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused_in_one_line_naming_the_file(case, tmp_path):
    arrays, (damage, words) = med_arrays(), BAD[case]
    damage(arrays)
    path = tmp_path / "breastmnist.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError) as error:
        data.check("breastmnist", str(tmp_path))
    message = str(error.value)
    assert words in message
    assert str(path) in message
    assert "\n" not in message


@settings(max_examples=40, deadline=None)
@example(cut=0.0, flips=[(170, 16)])  # numpy hands a damaged header to Python's tokenizer
@given(cut=st.floats(0, 0.98), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4))
def test_damaged_files_never_pass_silently_or_crash(cut, flips, tmp_path_factory):
    """Truncate anywhere, flip any bytes: either an InputError, or (flips in dead bytes) the same content."""
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "breastmnist.npz"
    np.savez_compressed(path, **med_arrays())
    good, raw = data.check("breastmnist", str(folder)), bytearray(path.read_bytes())
    for place, value in flips:
        raw[place % len(raw)] ^= value
    path.write_bytes(raw if flips else raw[: int(len(raw) * cut)])
    try:
        assert data.check("breastmnist", str(folder)) == good
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either outcome is right)


def test_a_zip_bomb_is_refused_by_its_declared_size(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "breastmnist.npz", **med_arrays())
    monkeypatch.setattr(validation, "MAX_BYTES", 10_000)
    with pytest.raises(InputError, match="declares"):
        data.check("breastmnist", str(tmp_path))


@pytest.mark.parametrize("name", ["chestmnist", "nosuch", "../x", "", "x" * 300, "breastmnist.npz"])
def test_names_that_are_no_dataset(name):
    with pytest.raises(InputError) as error:
        data.require_name(name)
    assert len(str(error.value)) < 400
    assert name != "chestmnist" or "multi-label" in str(error.value)


def test_absent_and_offline_says_which_file_to_put_where(tmp_path, monkeypatch):
    import medmnist

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(medmnist.BreastMNIST, "__init__", offline)
    with pytest.raises(InputError, match=r"put breastmnist\.npz .* into") as error:
        data.check("breastmnist", str(tmp_path))
    assert str(tmp_path) in str(error.value)


def test_a_data_root_that_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KR_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="KR_DATA points to"):
        data.data_root()
    with pytest.raises(InputError, match="--data-root points to"):
        data.data_root(str(tmp_path / "else"))
