"""The classifier: augmentation by known answers, training that learns, seeds that are used."""

import copy
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from kr_utils import classifier, data, metrics, profiles


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(n=64, side=8, channels=1):
    """Images whose pixels are all different and never zero."""
    return (
        torch.arange(1, channels * side * side + 1).to(torch.uint8).reshape(1, channels, side, side).repeat(n, 1, 1, 1)
    )


def test_no_augmentation_is_the_identity():
    images = torch.randint(0, 256, (16, 3, 9, 7), dtype=torch.uint8)
    assert torch.equal(classifier.Augmentation()(images, source()), images)


@pytest.mark.parametrize(("hflip", "vflip"), [(True, False), (False, True), (True, True)])
def test_flips_give_exactly_the_mirror_images(hflip, vflip):
    images = numbered()
    axes = [(False, False), (hflip, False), (False, vflip), (hflip, vflip)]
    allowed = {tuple(_flip(images[0], h, v).flatten().tolist()) for h, v in axes}
    out = classifier.Augmentation(hflip=hflip, vflip=vflip)(images, source())
    assert {tuple(image.flatten().tolist()) for image in out} == allowed


def _flip(image, h, v):
    return image.flip([axis for axis, wanted in ((2, h), (1, v)) if wanted])


def test_shifts_move_by_at_most_the_limit_and_reach_every_offset():
    images, shift = numbered(400), 2
    out = classifier.Augmentation(shift=shift)(images, source())
    padded = torch.nn.functional.pad(images[0], [shift] * 4)
    windows = {
        tuple(padded[:, y : y + 8, x : x + 8].flatten().tolist()): (y, x)
        for y in range(2 * shift + 1)
        for x in range(2 * shift + 1)
    }
    assert {windows[tuple(image.flatten().tolist())] for image in out} == set(windows.values())


def test_erasing_covers_the_stated_area_and_share():
    images = torch.full((3000, 1, 32, 32), 255, dtype=torch.uint8)
    out = classifier.Augmentation(erase=0.4)(images, source())
    share = (out == 127).float().mean((1, 2, 3))
    hit = share > 0
    assert hit.float().mean().item() == pytest.approx(0.4, abs=0.03)
    assert share[hit].min() > 0.005
    assert share.max() < 0.3
    one = out[hit][0, 0] == 127
    rows, columns = one.any(1).sum(), one.any(0).sum()
    assert one.sum() == rows * columns, "one rectangle"


@pytest.mark.parametrize(("temperature", "hard"), [(1.0, 0.0), (4.0, 0.0), (2.0, 0.3), (1.0, 1.0)])
def test_gkd_loss_against_numpy(temperature, hard):
    student, taught, labels = [*np.random.default_rng(0).normal(size=(2, 6, 4)).tolist(), [0, 1, 2, 3, 0, 1]]

    def log_softmax(rows):
        rows = np.array(rows)
        return rows - np.log(np.exp(rows).sum(1, keepdims=True))

    p = np.exp(log_softmax(np.array(taught) / temperature))
    soft = -(p * log_softmax(np.array(student) / temperature)).sum(1).mean() * temperature**2
    one_hot = -log_softmax(student)[np.arange(6), labels].mean()
    loss = classifier.gkd_loss(torch.tensor(student), torch.tensor(taught), torch.tensor(labels), temperature, hard)
    assert loss.item() == pytest.approx((1 - hard) * soft + hard * one_hot, abs=1e-5)


@pytest.mark.parametrize("epochs", [1, 8, 9, 10])
def test_every_number_of_steps_trains(digits, epochs):
    few = data.Split(digits.train.images[:20], digits.train.labels[:20])
    _, history = fit(digits, 0, epochs, data=few)
    assert history[-1]["steps"] == epochs


RECIPE = classifier.Recipe(width=8, depth=8, batch=100, lr=0.1, weight_decay=5e-4)


def fit(digits, seed, epochs=2, data=None, **more):
    model = classifier.build(10, 1, 8, 8, seed)
    training = classifier.Training(RECIPE, epochs, classifier.Augmentation(1, erase=0.2), **more)
    history = classifier.fit(model, lambda epoch: data or digits.train, digits.val, training, seed=seed)
    return model, history


def weights(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def test_same_seed_same_weights_other_seed_other_weights(digits):
    first, again, other = (weights(fit(digits, seed)[0]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_training_leaves_the_global_random_state_alone(digits):
    before = torch.get_rng_state()
    fit(digits, 0, epochs=1)
    assert torch.equal(before, torch.get_rng_state())


def test_it_learns_digits_and_keeps_the_latest_epoch_as_good_as_the_best(digits, teacher):
    assert classifier.accuracy(teacher, digits.test) > 0.85
    model, history = fit(digits, 0, epochs=5)
    accuracies = [row["val_accuracy"] for row in history]
    n, p = len(digits.val), max(accuracies)
    low = (p + 1 / (2 * n) - (p * (1 - p) / n + 1 / (4 * n**2)) ** 0.5) / (1 + 1 / n)  # Wilson 1927, z = 1
    wanted = max(k for k, value in enumerate(accuracies) if round(value * n) >= int(low * n))
    assert max(k for k, row in enumerate(history) if row["kept"]) == wanted
    assert classifier.accuracy(model, digits.val) == pytest.approx(accuracies[wanted])
    assert history[-1]["lr"] < 0.01 * 0.1


@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [
        ([0.5, 0.9, 0.6, 0.7], 1),
        ([0.5, 0.9, 0.86, 0.85], 2),  # 0.9 of 100 images: Wilson's bound is 0.866
        ([0.88, 0.95, 0.92, 0.91], 2),  # of 0.95: 0.923
        ([0.2, 0.4, 0.34, 0.35], 3),  # of 0.4: 0.352
        ([1.0, 1.0, 0.99, 0.98], 2),  # of 1: 0.990, and not 1
    ],
)
def test_known_choices_of_the_epoch(digits, monkeypatch, accuracies, kept):
    told, states = iter(accuracies), []

    def validate(model, val):
        states.append(weights(model))
        return {"val_loss": 0.0, "val_accuracy": next(told)}

    monkeypatch.setattr(classifier, "validate", validate)
    hundred = data.Split(digits.val.images[:100], digits.val.labels[:100])
    model = classifier.build(10, 1, 8, 8, 0)
    training = classifier.Training(RECIPE, len(accuracies), classifier.Augmentation())
    history = classifier.fit(model, lambda epoch: hundred, hundred, training, seed=0)
    assert max(k for k, row in enumerate(history) if row["kept"]) == kept
    assert torch.equal(weights(model), states[kept])


def test_without_validation_images_the_last_epoch_is_kept(digits):
    model = classifier.build(10, 1, 8, 8, 0)
    training = classifier.Training(RECIPE, 2, classifier.Augmentation(1, erase=0.2))
    history = classifier.fit(model, lambda epoch: digits.train, None, training, seed=0)
    looked_at, rows = fit(digits, 0, epochs=2)
    assert rows[-1]["kept"], "validation looks and touches nothing"
    assert torch.equal(weights(model), weights(looked_at))
    assert set(history[0]) == {"epoch", "steps", "lr", "train_loss"}


def test_a_student_of_soft_labels_follows_the_teacher_not_the_labels(digits, teacher):
    """With wrong hard labels, pure GKD still learns; hard labels teach the wrong classes."""
    wrong = data.Split(digits.train.images, (digits.train.labels + 1) % 10)
    recipe = dataclasses.replace(RECIPE, batch=64)
    scores = {}
    for name, more in {
        "soft": {"teacher": teacher},
        "hard": {},
        "mixed": {"teacher": teacher, "hard_weight": 1.0},
    }.items():
        model = classifier.build(10, 1, 8, 8, 3)
        training = classifier.Training(recipe, 6, classifier.Augmentation(1), **more)
        classifier.fit(model, lambda epoch: wrong, digits.val, training, seed=3)
        scores[name] = classifier.accuracy(model, digits.test)
    assert scores["soft"] > 0.8
    assert scores["hard"] < 0.3
    assert scores["mixed"] == scores["hard"], "hard_weight 1 is hard labels alone"


def test_temperature_changes_training(digits, teacher):
    cool, warm = (weights(fit(digits, 0, 1, teacher=teacher, temperature=t)[0]) for t in (1.0, 4.0))
    assert not torch.equal(cool, warm)


def test_prediction_is_in_eval_mode_and_does_not_depend_on_the_batch(digits, teacher):
    teacher.train()
    whole = classifier.predict(teacher, digits.test.images)
    parts = classifier.predict(teacher, digits.test.images, batch=7)
    assert teacher.training
    teacher.eval()
    assert torch.allclose(whole, parts, atol=1e-4)


LENGTH = ("members", "epochs", "least_steps", "most_steps")


def test_the_recipe_is_the_teachers_budget_without_its_length():
    budget = dataclasses.asdict(profiles.PROFILES["laptop"].teacher)
    recipe = classifier.Recipe.from_budget(budget)
    assert dataclasses.asdict(recipe) == {key: budget[key] for key in budget if key not in LENGTH}
    del budget["lr"]
    with pytest.raises(KeyError, match="lr"):
        classifier.Recipe.from_budget(budget)


@pytest.mark.parametrize(("images", "epochs"), [(546, 60), (4708, 54), (60_000, 4), (10**6, 1), (10, 60)])
def test_epochs_within_the_limit_of_steps(images, epochs):
    assert classifier.epochs_within(60, images, batch=64, most_steps=4000) == epochs
    assert epochs == 1 or epochs * max(1, images // 64) <= 4000


@pytest.mark.parametrize(("images", "epochs"), [(300, 250), (546, 125), (4708, 40), (10, 1000)])
def test_a_small_set_gets_the_steps_that_are_asked_for(images, epochs):
    found = classifier.epochs_within(40, images, batch=64, least_steps=1000, most_steps=4000)
    assert found == epochs
    assert found * max(1, images // 64) >= 1000


def test_without_a_limit_the_epochs_are_those_asked_for():
    assert classifier.epochs_within(200, 10**6, batch=128, most_steps=0) == 200


def test_saved_and_loaded_networks_agree(digits, teacher, tmp_path):
    classifier.save(teacher, tmp_path / "t.safetensors")
    loaded = classifier.load(tmp_path / "t.safetensors")
    assert loaded.config == teacher.config
    assert torch.equal(classifier.predict(loaded, digits.val.images), classifier.predict(teacher, digits.val.images))


@pytest.mark.parametrize("depth", [7, 9, 2])
def test_depths_that_no_resnet_has(depth):
    with pytest.raises(ValueError, match="6n"):
        classifier.ResNet(2, 1, depth=depth)


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 28), (3, 32)])
def test_any_image_form_passes_through(channels, side):
    model = classifier.build(7, channels, 8, 14, 0)
    assert model(torch.zeros(2, channels, side, side)).shape == (2, 7)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_projection_is_a_strided_1x1_convolution(stride):
    x = torch.randn(5, 8, 7, 9, generator=source()).contiguous(memory_format=torch.channels_last)
    layer = classifier.Projection(8, 16, stride)
    expected = torch.nn.functional.conv2d(x, layer.weight[:, :, None, None], stride=stride)
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_training_survives_narrow_networks_and_odd_batches():
    """In its own process: with convolutions as shortcuts, AVX-512 machines ended it within a few steps."""
    code = """if True:
        import torch
        from kr_utils import classifier, data
        torch.set_num_threads(2)
        images = torch.randint(0, 256, (61, 1, 28, 28), dtype=torch.uint8)
        split = data.Split(images, torch.arange(61) % 2)
        recipe = classifier.Recipe(width=8, depth=8, batch=61, lr=0.01, weight_decay=0)
        training = classifier.Training(recipe, 60, classifier.Augmentation())
        classifier.fit(classifier.build(2, 1, 8, 8, 0), lambda epoch: split, split, training, seed=0)"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_weights_files_have_the_same_bytes_in_every_process(tmp_path):
    """safetensors writes several entries of metadata in an order that changes from process to process."""
    code = "from pathlib import Path; import sys; from kr_utils import classifier as c; "
    code += "c.save(c.build(3, 1, 8, 8, 0), Path(sys.argv[1]))"
    for k in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{k}.safetensors")], check=True, timeout=120)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_an_ensemble_is_the_mean_of_its_members_probabilities(digits, teacher):
    other = classifier.build(10, 1, 8, 8, seed=9)
    both = classifier.Ensemble([teacher, copy.deepcopy(other)])
    images = digits.val.images[:20]
    logits = np.stack([classifier.predict(one, images).numpy() for one in (teacher, other)])
    assert np.allclose(classifier.predict(both, images), metrics.ensemble(logits), atol=1e-5)
    before = weights(other)
    classifier.fit(other, lambda epoch: digits.train, None, training_by(both), seed=0)
    assert not torch.equal(weights(other), before)
    assert not both.training, "its batch normalisation must not follow the Student's images"
    assert not any(member.training for member in both.members[:1])


def training_by(both):
    return classifier.Training(RECIPE, 1, classifier.Augmentation(), teacher=both)
