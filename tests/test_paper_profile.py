"""The `paper` profile's own networks take training steps on a CPU: small batches, but nothing else is smaller."""

from functools import partial

import pytest
import torch

from kr_utils import classifier, consistency, data, generator, profiles, sampling

PAPER = profiles.PROFILES["paper"]
BATCH = 8  # with a learning rate to match: that of batches of 128 would throw the weights about
RECIPE = classifier.Recipe(width=64, depth=20, batch=BATCH, lr=0.1 * BATCH / 128, weight_decay=1e-4, erase=0.25)
STEPS = 3


def pictures(n, classes=2):
    """Smooth blobs, bright or dark by class: a few steps can learn them."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    coarse = torch.rand(n, 1, 4, 4, generator=rng) * 60 + 120 * labels.view(-1, 1, 1, 1)
    return data.Split(torch.nn.functional.interpolate(coarse, size=28).to(torch.uint8), labels)


def size(model):
    return sum(p.numel() for p in model.parameters())


def changed(model, before):
    """Share of the weights' tensors that differ from `before`; every one must be finite."""
    assert all(p.isfinite().all() for p in model.parameters())
    pairs = list(zip(model.parameters(), before))
    return sum(not torch.equal(a.detach(), b) for a, b in pairs) / len(pairs)


def copies(model):
    return [p.detach().clone() for p in model.parameters()]


def new_classifier(seed):
    return classifier.build(2, 1, PAPER.teacher.width, PAPER.teacher.depth, seed)


def test_the_recipe_is_the_profile_s_but_for_its_batch():
    budget = PAPER.teacher
    assert (budget.width, budget.depth, budget.batch) == (RECIPE.width, RECIPE.depth, 128)
    assert budget.lr == RECIPE.lr * budget.batch / BATCH
    assert (budget.weight_decay, budget.erase) == (RECIPE.weight_decay, RECIPE.erase)


@pytest.mark.slow
def test_teacher_and_student_take_steps():
    """ResNet-20 of width 64, GaFi's: 4.3 million weights, sixteen times those of width 16."""
    split, augment = pictures(RECIPE.batch), classifier.Augmentation(3, True, False, RECIPE.erase)
    teacher = new_classifier(0)
    assert size(teacher) == 4_324_546
    before = copies(teacher)
    history = classifier.fit(teacher, lambda epoch: split, None, classifier.Training(RECIPE, STEPS, augment), seed=0)
    assert [row["steps"] for row in history] == [1, 2, 3]
    assert changed(teacher, before) == 1
    assert all(0 < row["train_loss"] < 10 for row in history)

    # A Student learns what the Teachers say
    student = new_classifier(1)
    before = copies(student)
    taught = classifier.Training(RECIPE, STEPS, augment, classifier.Ensemble([teacher, new_classifier(2)]))
    history = classifier.fit(student, lambda epoch: split, split, taught, seed=0)
    assert changed(student, before) == 1
    assert all(0 < row["train_loss"] < 10 and 0 <= row["val_accuracy"] <= 1 for row in history)


@pytest.fixture(scope="module")
def painter():
    """The Generator after three steps, its first history and the weights before it."""
    budget, split = PAPER.generator, pictures(2)
    sizes = {key: getattr(budget, key) for key in ("width", "levels", "layers", "fold")}
    model = generator.build(2, split.images, **sizes, seed=0)
    before = copies(model)
    training = generator.Training(STEPS, 2, 1e-3, 0.5, budget.label_dropout, hflip=True)
    return model, generator.fit(model, split, training, seed=0), before


@pytest.mark.slow
def test_the_generator_takes_steps_and_draws(painter):
    model, history, before = painter
    assert size(model) == 60_386_433
    assert model.unet.config.block_out_channels == (128, 256, 512)
    assert [row["step"] for row in history] == [1, 2, 3]
    assert all(0 < row["loss"] < 10 for row in history), "the untrained network has about 1"
    assert changed(model, before) > 0.9
    images = sampling.sample(model, torch.tensor([0]), seed=0, steps=1)
    assert images.shape == (1, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert images.unique().numel() > 10


@pytest.mark.slow
def test_the_few_step_generator_takes_steps(painter):
    few = generator.Generator(**(painter[0].config | {"consistency": True}))
    few.load_state_dict(painter[0].state_dict())
    before = copies(few)
    training = generator.Training(STEPS, 2, PAPER.tuning.few_lr, 0.5, 0.1)
    loss = partial(consistency.loss, guide=consistency.Guide(painter[0], 2.0))
    history = generator.fit(few, pictures(2), training, seed=0, loss_function=loss)
    assert all(0 < row["loss"] < 1e4 for row in history)
    assert changed(few, before) > 0.9
