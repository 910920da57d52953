"""Datasets: the real ones have the published form, and bad files are refused in one line."""

import hashlib

import numpy as np
import torch
from conftest import med_arrays
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kr_utils import InputError, data


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
