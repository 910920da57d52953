"""The Generator: EDM's equations by known answers, a sampler whose images depend on their own numbers only."""

import numpy as np
import pytest
import torch

from kr_utils import data, generator, profiles, sampling


def test_folding_and_scaling_are_undone_exactly():
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    for fold in (1, 2):
        model = generator.Generator(4, (3, 8, 8), width=8, levels=1, layers=1, fold=fold)
        latents = model.encode(images)
        assert latents.shape == (5, 3 * fold**2, 8 // fold, 8 // fold)
        assert latents.abs().max() <= 1
        assert torch.equal(model.decode(latents), images)


def test_a_fold_that_does_not_divide_is_dropped():
    model = generator.build(2, torch.zeros(3, 1, 7, 7, dtype=torch.uint8), width=8, levels=2, layers=1, fold=2, seed=0)
    assert model.fold == 1


def test_the_training_target_inverts_the_preconditioning(digits, monkeypatch):
    """If the network hit its target exactly, EDM's denoiser (eq. 7) would return the clean image."""
    model = generator.build(10, digits.train.images, width=8, levels=1, layers=1, fold=2, seed=0)
    seen = {}

    def record(self, noisy, sigma, labels):
        seen.update(noisy=noisy, sigma=sigma, labels=labels)
        return torch.zeros_like(noisy) + 0 * next(self.parameters()).sum()

    def loss(output, target):
        seen["target"] = target
        return ((output - target) ** 2).mean()

    monkeypatch.setattr(generator.Generator, "forward", record)
    monkeypatch.setattr(generator.F, "mse_loss", loss)
    one = data.Split(digits.train.images[:1], digits.train.labels[:1])
    training = generator.Training(steps=1, batch=8, lr=1e-4, ema_decay=0.9, label_dropout=0.5)
    generator.fit(model, one, training, seed=0)
    sigma = seen["sigma"].view(-1, 1, 1, 1)
    denoised = model.scheduler().precondition_outputs(seen["noisy"], seen["target"], sigma)
    assert torch.allclose(denoised, model.encode(digits.train.images[:1]).expand_as(denoised), atol=1e-4)
    assert torch.allclose(denoised, model.denoised(seen["noisy"], seen["sigma"], seen["target"]), atol=1e-5)
    assert set(seen["labels"].tolist()) == {int(digits.train.labels[0]), 10}, "some labels are dropped, some kept"
    # EDM weights the loss so that an untrained (zero) network has a loss of about one at every noise level.
    assert 0.2 < (seen["target"] ** 2).mean().item() < 3


@pytest.mark.parametrize(
    ("steps", "churn", "error"), [(8, 0.0, 0.05), (16, 0.0, 0.04), (40, 0.0, 0.03), (40, 5.0, 0.03)]
)
def test_the_sampler_reproduces_a_gaussian(steps, churn, error, monkeypatch):
    """For data N(0, s^2) the ideal denoiser is known: x s^2 / (s^2 + sigma^2). Sampling with it must give N(0, s^2)."""
    s = 0.25
    model = generator.Generator(2, (1, 8, 8), width=8, levels=1, layers=1, fold=1, sigma_data=0.5)

    def ideal(self, x, sigma, labels):
        sigma = sigma.view(-1, 1, 1, 1)
        denoised = x * s**2 / (s**2 + sigma**2)
        c_skip = 0.25 / (sigma**2 + 0.25)
        return (denoised - c_skip * x) * (sigma**2 + 0.25).sqrt() / (sigma * 0.5)

    monkeypatch.setattr(generator.Generator, "forward", ideal)
    images = sampling.sample(model, torch.zeros(200, dtype=torch.int64), seed=0, steps=steps, churn=churn)
    pixels = images.float() / 127.5 - 1
    assert pixels.std().item() == pytest.approx(s, rel=error)
    assert pixels.mean().item() == pytest.approx(0, abs=0.01)


def test_guidance_extrapolates_between_no_class_and_class(monkeypatch):
    """Outputs 1 (class) and 0 (no class): guidance w must give w, and scale 1 must not ask for the second."""
    model, calls = generator.Generator(2, (1, 8, 8), width=8, levels=1, layers=1), []

    def constant(self, x, sigma, labels):
        calls.append(len(x))
        return (labels < 2).float().view(-1, 1, 1, 1).expand_as(x)

    monkeypatch.setattr(generator.Generator, "forward", constant)
    x, level, labels = torch.zeros(3, 1, 8, 8), torch.ones(3), torch.tensor([0, 1, 0])
    for w in (1.0, 2.5):
        assert torch.allclose(generator.guided(model, x, level, labels, w), torch.full_like(x, w))
    assert calls == [3, 6]


@pytest.mark.parametrize(("guidance", "churn"), [(1.0, 0.0), (2.0, 0.0), (1.0, 5.0), (2.0, 5.0)])
def test_the_stated_cost_is_the_number_of_network_evaluations(tiny_generator, monkeypatch, guidance, churn):
    seen, forward = [], generator.Generator.forward

    def count(self, x, *rest):
        seen.append(len(x))
        return forward(self, x, *rest)

    monkeypatch.setattr(generator.Generator, "forward", count)
    knobs = {"steps": 4, "guidance": guidance, "churn": churn}
    sampling.sample(tiny_generator, torch.arange(5), seed=0, **knobs)
    assert sum(seen) == sampling.BLOCK["cpu"] * sampling.evaluations(knobs)


@pytest.mark.parametrize("churn", [0.0, 6.0])
def test_an_image_depends_on_its_own_numbers_only(tiny_generator, churn):
    labels = torch.arange(150) % 10
    options = {"seed": 5, "steps": 4, "churn": churn}
    whole = sampling.sample(tiny_generator, labels, **options)
    assert torch.equal(whole[:70], sampling.sample(tiny_generator, labels[:70], **options)), "fewer images"
    for pick in ([3], [149, 17, 20], list(range(60, 140))):
        alone = sampling.sample(tiny_generator, labels[pick], indices=pick, **options)
        assert torch.equal(whole[pick], alone), "other company, other places in the block"


def test_same_seed_same_bytes_other_seed_other_images(tiny_generator):
    labels = torch.arange(20) % 10
    first, again, other = (sampling.sample(tiny_generator, labels, seed=s, steps=4) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first != other).float().mean() > 0.5


def test_every_knob_changes_the_images(tiny_generator):
    labels = torch.arange(10)
    base = {"seed": 0, "steps": 6, "guidance": 1.0, "churn": 0.0}
    reference = sampling.sample(tiny_generator, labels, **base)
    for knob in ({"steps": 7}, {"guidance": 3.0}, {"churn": 8.0}):
        assert not torch.equal(reference, sampling.sample(tiny_generator, labels, **(base | knob))), knob
    relabelled = sampling.sample(tiny_generator, labels.flip(0), **base)
    assert not torch.equal(reference, relabelled), "the class label is used"


def test_noise_of_different_images_and_seeds_is_unrelated():
    draws = np.stack([s.standard_normal(4000) for seed in (0, 1) for s in sampling.noise_rngs(seed, [0, 1, 2**40])])
    correlation = np.corrcoef(draws) - np.eye(6)
    assert np.abs(correlation).max() < 0.07
    assert draws.std() == pytest.approx(1, abs=0.02)


def small_fit(digits, seed, **more):
    model = generator.build(10, digits.train.images, width=16, levels=1, layers=1, fold=2, seed=seed)
    options = {"steps": 8, "batch": 32, "lr": 1e-3, "ema_decay": 0.9, "label_dropout": 0.1, "checkpoints": 4} | more
    kept = {}

    def keep(step, current):
        kept[step] = torch.cat([p.detach().flatten().clone() for p in current.parameters()])

    history = generator.fit(model, digits.train, generator.Training(**options), seed=seed, on_checkpoint=keep)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), kept, history


def test_training_is_reproducible_and_uses_its_seed(digits):
    first, again, other = (small_fit(digits, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_checkpoints_are_equally_spaced_and_the_last_is_the_result(digits):
    final, kept, history = small_fit(digits, 0)
    assert list(kept) == [2, 4, 6, 8] == generator.checkpoint_steps(8, 4)
    assert torch.equal(kept[8], final)
    assert not torch.equal(kept[6], final)
    assert history[-1]["step"] == 8
    # Handing out a checkpoint (EMA weights) must not disturb training.
    assert torch.equal(small_fit(digits, 0, checkpoints=1)[0], final)


@pytest.mark.parametrize(
    ("images", "most", "steps"),
    [(546, 5000, 2500), (1080, 5000, 2500), (1600, 5000, 3500), (54000, 5000, 5000), (1600, 0, 3500), (8, 0, 2500)],
)
def test_a_large_set_gets_more_steps_within_a_limit(images, most, steps):
    assert generator.steps_for(2500, images, batch=16, passes=35, most_steps=most) == steps


def test_a_budget_without_passes_is_its_steps():
    budget = profiles.PROFILES["quick"].generator
    assert generator.steps_for(budget.steps, 10**6, batch=budget.batch, passes=budget.passes) == budget.steps


def test_checkpoint_steps_with_more_checkpoints_than_steps():
    assert generator.checkpoint_steps(3, 10) == [1, 2, 3]


def test_mirroring_acts_on_pixels_not_on_folded_blocks():
    model = generator.Generator(2, (1, 8, 8), width=8, levels=1, layers=1, fold=2)
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    out = model.decode(generator._mirror(model.encode(images), 2, True, False, torch.Generator().manual_seed(0)))
    same = (out == images).flatten(1).all(1)
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 10 < same.sum() < 54


def test_it_learns_the_mean_brightness_of_a_class(digits):
    """Two classes, black and white: after a short training the label decides the brightness."""
    images = torch.cat([torch.full((50, 1, 8, 8), 20), torch.full((50, 1, 8, 8), 235)]).to(torch.uint8)
    labels = torch.arange(100) // 50
    model = generator.build(2, images, width=16, levels=1, layers=1, fold=2, seed=0)
    training = generator.Training(steps=150, batch=32, lr=3e-3, ema_decay=0.9, label_dropout=0.1)
    generator.fit(model, data.Split(images, labels), training, seed=0)
    means = sampling.sample(model, torch.tensor([0] * 20 + [1] * 20), seed=0).float().mean((1, 2, 3))
    assert means[:20].mean() < 70
    assert means[20:].mean() > 185


def test_saved_and_loaded_generators_agree(tiny_generator, tmp_path):
    generator.save(tiny_generator, tmp_path / "g.safetensors")
    loaded = generator.load(tmp_path / "g.safetensors")
    assert loaded.config == tiny_generator.config
    labels = torch.arange(6)
    images = [sampling.sample(g, labels, seed=1, steps=3) for g in (tiny_generator, loaded)]
    assert torch.equal(*images)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (3, 32, 32), (1, 7, 9)])
def test_networks_of_every_image_form_sample(shape):
    model = generator.build(3, torch.zeros(4, *shape, dtype=torch.uint8), width=8, levels=3, layers=1, fold=2, seed=0)
    assert sampling.sample(model, torch.arange(3), seed=0, steps=2).shape == (3, *shape)


def test_no_labels_no_images(tiny_generator):
    assert sampling.sample(tiny_generator, torch.zeros(0, dtype=torch.int64), seed=0).shape == (0, 1, 8, 8)
    with pytest.raises(ValueError, match="steps is 0"):
        sampling.sample(tiny_generator, torch.arange(2), seed=0, steps=0)


def test_the_network_sees_images_less_their_mean():
    """Dark images, drawn from few solver steps by the exact denoiser of one grey level: the level comes back."""
    dark = torch.full((50, 1, 8, 8), 40, dtype=torch.uint8)
    dark[::2] += 20
    model = generator.build(2, dark, width=8, levels=1, layers=1, fold=2, seed=0)
    assert model.mean.flatten().tolist() == [pytest.approx(50 / 127.5 - 1, abs=1e-6)]
    assert model.sigma_data == pytest.approx(10 / 127.5, rel=0.01)
    latents = model.encode(dark)
    assert latents.mean().abs() < 1e-3
    assert torch.equal(model.decode(latents), dark)
