"""Datasets: the real ones have the published form, and bad files are refused in one line."""

import hashlib
import itertools
import json
import os
import resource
import time
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from conftest import closed, med_arrays, own_set
from hypothesis import example, given, settings
from hypothesis import strategies as st

import run_all
from kr_utils import InputError, data, dataset_file, metrics, stages


def test_digits_are_split_by_a_fixed_stratified_cut():
    digits = data.load("digits")
    assert [len(s) for s in (digits.train, digits.val, digits.test)] == [300, 200, 1297]
    assert digits.train.images.shape == (300, 1, 8, 8)
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
    own_set(tmp_path, arrays)
    loaded = data.load("mine", str(tmp_path))
    assert (loaded.info.channels, loaded.info.classes, loaded.shape) == (3, 5, (3, 28, 28))
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
    path = own_set(tmp_path, arrays)
    first = data.check("mine", str(tmp_path))
    np.savez_compressed(path, **arrays)
    assert data.check("mine", str(tmp_path)) == first
    arrays["train_images"][0, 0, 0] ^= 1
    np.savez(path, **arrays)
    assert data.check("mine", str(tmp_path)) != first


# ------------------------------------------------------------ sets of one's own


@pytest.mark.parametrize(
    ("mirror", "flips"), [("none", (False, False)), ("left-right", (True, False)), ("both", (True, True))]
)
def test_a_set_of_ones_own_is_what_its_description_says(mirror, flips, tmp_path):
    own_set(tmp_path, med_arrays(), title="Knees", class_names=["healthy", "torn"], mirror=mirror, licence="CC0")
    loaded = data.load("mine", str(tmp_path))
    assert (loaded.name, loaded.info.title, loaded.info.licence, loaded.info.source) == ("mine", "Knees", "CC0", "own")
    assert loaded.class_names == ("healthy", "torn")
    assert (loaded.info.hflip, loaded.info.vflip) == flips
    assert loaded.shape == (1, 28, 28)


@pytest.mark.parametrize(
    "change", [{"mirror": "none"}, {"title": "Yours"}, {"class_names": ["b", "a"]}, {"licence": "none"}]
)
def test_another_description_is_another_set(change, tmp_path):
    own_set(tmp_path, med_arrays())
    first = data.check("mine", str(tmp_path))
    assert data.load("mine", str(tmp_path)).checksum == first
    own_set(tmp_path, med_arrays(), **change)
    assert data.check("mine", str(tmp_path)) != first


@pytest.mark.parametrize("name", ["x", "0", "_", "my_knees_2", "x" * 40])
def test_names_of_ones_own(name, tmp_path, capsys):
    own_set(tmp_path, med_arrays(), name, title="Knees")
    assert run_all.main(["--list", "--data-root", str(tmp_path)]) == 0
    assert f"  {name}: your own, Knees, 2 classes" in capsys.readouterr().out.splitlines()
    argv = ["--profile", "smoke", "--datasets", name, "--data-root", str(tmp_path), "--dry-run"]
    assert run_all.main(argv) == 0
    assert f"run    {name} seed 0  00_start_here: not run yet" in capsys.readouterr().out


def test_a_data_folder_that_may_not_be_listed_is_told(tmp_path, monkeypatch, capsys):
    own_set(tmp_path, med_arrays())
    closed(tmp_path, monkeypatch)
    assert run_all.main(["--list", "--data-root", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    told = f"error: {tmp_path}: you may not look into this folder; get permission or name another\n"
    assert (out, err) == ("", told)


@pytest.mark.parametrize("name", ["breastmnist", "chestmnist", "digits", "10_compare", "Knees", "my-knees", "x" * 41])
def test_published_refused_and_odd_names_are_nobodys_own(name, tmp_path, capsys):
    own_set(tmp_path, med_arrays(), name)
    run_all.main(["--list", "--data-root", str(tmp_path)])
    assert "your own" not in capsys.readouterr().out
    if name != "digits":  # which needs no file
        with pytest.raises(InputError):
            data.check(name, str(tmp_path))


def test_files_that_were_rebuilt_run_under_names_of_their_own(medical, tmp_path):
    names = {"pneumonia_rebuilt": ("Pneumonia (rebuilt)", 2), "ham10000_lesions": ("HAM10000 lesions", 7)}
    for name, (title, classes) in names.items():
        about = {"title": title, "class_names": [f"c{k}" for k in range(classes)], "mirror": "both", "licence": "CC"}
        (tmp_path / f"{name}.json").write_text(json.dumps(about))
        (tmp_path / f"{name}.npz").symlink_to(f"{medical}/{name}.npz")
        told = []
        data.check(name, str(tmp_path), told.append)
        assert told == [
            "pneumonia_rebuilt: the same pixels in two splits: 8 of val in train too (train 1437 = val 61, "
            "train 1912 = val 105, train 2989 = val 172, ...); those in train do not count as non-members"
        ] * (name == "pneumonia_rebuilt")


# ------------------------------------------------------------ the same image in two splits


def with_copies(val=(), test=(), both=()):
    """Arrays of 60, 30 and 40 images; val and test hold (their index, train index), both (test index, val index)."""
    arrays = med_arrays(n=(60, 30, 40))
    for split, pairs in (("val", val), ("test", test)):
        for here, there in pairs:
            arrays[f"{split}_images"][here] = arrays["train_images"][there]
    for here, there in both:
        arrays["test_images"][here] = arrays["val_images"][there]
    return arrays


def test_images_in_two_splits_are_counted_named_and_no_non_members(tmp_path):
    arrays = with_copies(val=[(29, 3)], test=[(0, 59), (7, 3), (8, 59), (9, 0)], both=[(39, 5)])
    arrays["train_images"][50] = arrays["train_images"][3]  # a copy within a split: the first one is named
    own_set(tmp_path, arrays)
    told = []
    data.check("mine", str(tmp_path), told.append)
    assert told == [
        "mine: the same pixels in two splits: 1 of val in train too (train 3 = val 29); "
        "4 of test in train too (train 59 = test 0, train 3 = test 7, train 59 = test 8, ...); "
        "2 of test in val too (val 29 = test 7, val 5 = test 39); those in train do not count as non-members"
    ]
    loaded = data.load("mine", str(tmp_path))
    assert np.flatnonzero(~loaded.new("test")).tolist() == [0, 7, 8, 9]
    assert np.flatnonzero(~loaded.new("val")).tolist() == [29]
    assert len(loaded.test) == 40, "they stay in the published test set"


def test_a_mirrored_or_slightly_changed_image_is_another():
    arrays = with_copies(test=[(0, 1), (1, 2)])
    arrays["test_images"][0] = arrays["test_images"][0][:, ::-1]
    arrays["test_images"][1, 27, 27] ^= 1
    shared = dataset_file.shared_images(dataset_file.validate(arrays, 2, (1,), "here"))
    assert {pair: len(rows) for pair, rows in shared.items()} == {
        ("train", "val"): 0,
        ("train", "test"): 0,
        ("val", "test"): 0,
    }
    assert dataset_file.tell_shared(shared) == ""


def test_a_set_without_copies_says_nothing(digits):
    told = []
    data.check("digits", tell=told.append)
    assert told == []
    assert digits.new("test").all()
    assert digits.new("val").all()


@pytest.mark.parametrize(("copies", "refused"), [(20, False), (21, True), (40, True)])
def test_a_test_set_of_training_images_is_refused_where_hardly_one_is_new(copies, refused, tmp_path):
    """40 test images: with 20 copies just enough are new."""
    own_set(tmp_path, with_copies(test=[(k, k) for k in range(copies)]))
    if not refused:
        assert data.load("mine", str(tmp_path)).new("test").sum() == 20
        return
    with pytest.raises(InputError) as error:
        data.check("mine", str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}/mine.npz: {copies} of 40 test images are in train too, pixel by pixel; at least 20 must be new; "
        "split the images again, each into one split only"
    )


def test_a_small_test_set_without_copies_is_not_refused(tmp_path):
    own_set(tmp_path, med_arrays(n=(6, 4, 4)))
    assert data.load("mine", str(tmp_path)).new("test").all()


def test_real_breastmnist_has_one(medical):
    told = []
    data.check("breastmnist", medical, told.append)
    assert [line.split(" too ")[1].split(";")[0] for line in told] == ["(train 115 = test 76)"]
    assert np.flatnonzero(~data.load("breastmnist", medical).new("test")).tolist() == [76]


def test_a_hundred_thousand_images_are_compared_in_seconds():
    rng = np.random.default_rng(0)
    sizes = {"train": 80_000, "val": 10_000, "test": 10_000}
    arrays = {f"{split}_images": rng.integers(0, 256, (n, 16, 16, 1), dtype=np.uint8) for split, n in sizes.items()}
    arrays["test_images"][-1] = arrays["train_images"][-1]
    start = time.perf_counter()
    assert dataset_file.shared_images(arrays)["train", "test"].tolist() == [[79_999, 9_999]]
    assert time.perf_counter() - start < 5, "one by one it would be 8e8 comparisons"


def test_notebook_06_leaves_copies_out_of_the_attacks_and_not_out_of_the_accuracy(tmp_path, capsys):
    """The cells themselves, with logits in place of the models'."""
    own_set(tmp_path, with_copies(val=[(0, 0)], test=[(0, 1), (5, 2)]))
    rng, ds = np.random.default_rng(0), data.load("mine", str(tmp_path))
    logits = {split: rng.normal(size=(len(getattr(ds, split)), 2)) for split in data.SPLITS}
    notebook = json.loads((stages.NOTEBOOKS / "06_membership.ipynb").read_text(encoding="utf-8"))
    cells = {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"]}

    class Budget:
        draws, lam = 50, 2.0

    names = {"ds": ds, "stored": {"real": logits, "student": logits}, "seed": 0, "budget": Budget}
    exec("import numpy as np\nimport pandas as pd\nfrom kr_utils import attacks, metrics", names)
    for cell in ("cell-06", "cell-08", "cell-10", "cell-24"):
        exec(cells[cell], names)
    assert names["left_out"] == {"val": 1, "test": 2}
    assert {row["non_members"] for rows in names["audits"].values() for row in rows.values()} == {38}
    whole = metrics.accuracy(logits["test"], ds.test.labels.numpy())
    assert names["summary"]["real"]["test accuracy"] == whole

    exec(cells["cell-28"].split("flips =")[0], names)
    assert (len(names["train"]), len(names["validation"]), len(names["test"])) == (60, 29, 38)
    rest = [text for cell, text in cells.items() if cell not in ("cell-06", "cell-24", "cell-28")]
    asked = [line for text in rest for line in text.splitlines() if "ds.test" in line or "ds.val" in line]
    whole = ("classifier.accuracy", '"labels_test": ')
    assert all('new["test"]' in line or any(words in line for words in whole) for line in asked), asked


# ------------------------------------------------------------ damaged files


@settings(max_examples=40, deadline=None)
@example(cut=0.0, flips=[(170, 16)])  # numpy hands a damaged header to Python's tokenizer
@given(cut=st.floats(0, 0.98), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4))
def test_damaged_files_never_pass_silently_or_crash(cut, flips, tmp_path_factory):
    """Truncate anywhere, flip any bytes: either an InputError, or (flips in dead bytes) the same content."""
    folder = tmp_path_factory.mktemp("damaged")
    path = own_set(folder, med_arrays())
    np.savez_compressed(path, **med_arrays())
    good, raw = data.check("mine", str(folder)), bytearray(path.read_bytes())
    for place, value in flips:
        raw[place % len(raw)] ^= value
    path.write_bytes(raw if flips else raw[: int(len(raw) * cut)])
    try:
        assert data.check("mine", str(folder)) == good
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either outcome is right)


def test_no_flipped_bit_of_a_file_gives_other_images(tmp_path, monkeypatch):
    """Headers, data, directory: the same content or one line, nothing else, not even a warning."""
    path = tmp_path / "small.npz"
    np.savez(path, **med_arrays(n=(2, 2, 2), size=4))
    monkeypatch.setattr(dataset_file, "memory_limit", lambda: 2**30)  # asking costs more than reading

    def content():
        return dataset_file.checksum(dataset_file.validate(dataset_file.read_npz(path), 2, (1,), "here"))

    good, raw, seen = content(), path.read_bytes(), {"same": 0, "refused": 0}
    with path.open("r+b", buffering=0) as file, warnings.catch_warnings():
        warnings.simplefilter("error")
        for place, bit in itertools.product(range(len(raw)), range(8)):
            os.pwrite(file.fileno(), bytes([raw[place] ^ 1 << bit]), place)
            try:
                assert content() == good, f"bit {bit} of byte {place}"
                seen["same"] += 1
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017  (either outcome is right)
                seen["refused"] += 1
            os.pwrite(file.fileno(), raw[place : place + 1], place)
    assert seen["refused"] > seen["same"] > 0, "dates and versions of the members do not matter"


def test_a_member_is_never_unpacked_beyond_what_it_declares(tmp_path):
    """64 MB of zeros that call themselves a thousand bytes, with the checksum of these."""
    path, inside = tmp_path / "mine.npz", bytes(2**26)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", inside)
        archive.filelist[0].file_size, archive.filelist[0].CRC = 1000, zlib.crc32(inside[:1000])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="train_images"):
            dataset_file.read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_room_is_needed_for_the_copies_too(tmp_path, monkeypatch):
    own_set(tmp_path, med_arrays(n=(64, 32, 32)))
    size = sum(array.nbytes for array in med_arrays(n=(64, 32, 32)).values()) + 6 * 128  # with their headers
    monkeypatch.setattr(dataset_file, "memory_limit", lambda: 2 * size)
    assert data.load("mine", str(tmp_path))
    monkeypatch.setattr(dataset_file, "memory_limit", lambda: 2 * size - 2)
    with pytest.raises(InputError, match="that can be read here"):
        data.load("mine", str(tmp_path))


@pytest.mark.parametrize("place", ["read_npz", "validate", "shared_images", "_checksum"])
def test_too_little_memory_anywhere_is_one_line_that_names_the_file(place, tmp_path, monkeypatch):
    path = own_set(tmp_path, med_arrays(n=(64, 32, 32)))

    def full(*args):
        raise MemoryError("Unable to allocate 12.0 GiB")

    monkeypatch.setattr(data, place, full)
    for use in (data.check, data.load):
        with pytest.raises(InputError, match="too large for the memory that is left here") as error:
            use("mine", str(tmp_path))
        assert str(error.value).startswith(f"{path}: ")


def test_too_little_memory_for_torchs_copy_is_that_line_too(tmp_path, monkeypatch):
    path, real = own_set(tmp_path, med_arrays(n=(64, 32, 32))), np.array

    def array(value, *args, order="K", **options):
        if order == "C":
            np.empty(2**60, np.uint8)  # numpy's own MemoryError
        return real(value, *args, order=order, **options)

    monkeypatch.setattr(np, "array", array)
    with pytest.raises(InputError, match=f"^{path}: too large for the memory that is left here; use a smaller file$"):
        data.load("mine", str(tmp_path))


def test_the_published_bit_that_shifted_all_test_images_is_refused(medical, tmp_path):
    """Bit 0 of byte 446404 of breastmnist.npz lengthens the header of its test images by 48 of their pixels."""
    with open(f"{medical}/breastmnist.npz", "rb") as file:
        raw = bytearray(file.read())
    raw[446404] ^= 1
    (tmp_path / "breastmnist.npz").write_bytes(raw)
    with pytest.raises(InputError, match="not the published file"):
        data.check("breastmnist", str(tmp_path))
    with pytest.raises(InputError, match="damaged or not an npz file"):
        dataset_file.read_npz(tmp_path / "breastmnist.npz")


# ------------------------------------------------------------ memory


def group(folder, name, limit):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{limit}\n")


CGROUPS = {
    "version 2, seen from within": ("0::/", {"memory.max": 3000}, 3000),
    "version 2, own group": ("0::/user/me", {"user/me/memory.max": 2000, "user/memory.max": "max"}, 2000),
    "version 2, a group above": ("0::/user/me", {"user/me/memory.max": "max", "user/memory.max": 1000}, 1000),
    "version 1, seen from within": ("7:memory:/docker/1\n3:cpu:/", {"memory/memory.limit_in_bytes": 4000}, 4000),
    "version 1, own group": ("7:memory:/a", {"memory/a/memory.limit_in_bytes": 500}, 500),
    "another controller": ("7:cpu:/a", {"memory/a/memory.limit_in_bytes": 500, "cpu/a/memory.max": 5}, None),
    "no limit": ("0::/user", {"user/memory.max": "max"}, None),
    "nonsense": ("what is this?\n\n0::/x", {"x/memory.max": "many"}, None),
}


@pytest.mark.parametrize("case", CGROUPS)
def test_a_containers_limit_counts(case, tmp_path):
    own, files, limit = CGROUPS[case]
    (tmp_path / "own").write_text(own)
    for name, value in files.items():
        group(tmp_path / "groups", name, value)
    found = dataset_file.memory_limit(tmp_path / "groups", tmp_path / "own")
    none = dataset_file.memory_limit(tmp_path / "nowhere", tmp_path / "nothing")
    assert found == (limit or none)
    assert none > 2**28


@pytest.mark.parametrize("kind", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_the_users_own_limits_count(kind, tmp_path, monkeypatch):
    usual = resource.getrlimit
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (9000, -1) if asked == kind else usual(asked))
    assert dataset_file.memory_limit() == 9000
    own_set(tmp_path, med_arrays())
    with pytest.raises(InputError, match=r"more than the 0\.0 GiB that can be read here; use a smaller file"):
        data.check("mine", str(tmp_path))
