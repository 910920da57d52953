"""Few-step generation: for Gaussian data the consistency function is known in closed form."""

import itertools

import pytest
import torch

from kr_utils import consistency, generator, sampling

S = 0.25  # standard deviation of the data


def gaussian(consistent):
    """A Generator whose forward pass is exact for data N(0, S^2): the path through x ends at x S / sqrt(S^2 + t^2)."""

    class Exact(generator.Generator):
        def forward(self, noisy, sigma, labels):
            sigma = sigma.view(-1, 1, 1, 1)
            end = noisy * S / (S**2 + sigma**2).sqrt()
            data = self.sigma_data
            return (end - noisy * data**2 / (sigma**2 + data**2)) * (sigma**2 + data**2).sqrt() / (sigma * data)

    return Exact(2, (1, 8, 8), width=8, levels=1, layers=1, consistency=consistent)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_exact_function_samples_the_data_in_any_number_of_steps(steps):
    images = sampling.sample(gaussian(True), torch.zeros(300, dtype=torch.int64), seed=0, steps=steps)
    pixels = images.float() / 127.5 - 1
    assert pixels.std().item() == pytest.approx(S, rel=0.02)
    assert pixels.mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("progress", [0.3, 0.99])
def test_the_exact_function_has_no_loss_and_any_other_has(progress):
    """On one path (one image, one noise) only the exact function of *that* path's data ends alike; here N(0, 0)."""
    rng = torch.Generator().manual_seed(0)
    clean = torch.zeros(64, 1, 8, 8)
    labels = torch.zeros(64, dtype=torch.int64)
    model = gaussian(True)

    def to_zero(noisy, sigma, labels):  # the data are all zero, so every path ends at zero
        sigma, data = sigma.view(-1, 1, 1, 1), model.sigma_data
        return -noisy * data / (sigma * (sigma**2 + data**2).sqrt())

    assert consistency.loss(to_zero, model, clean, labels, progress, rng).item() < 0.05
    assert consistency.loss(model, model, clean, labels, progress, rng).item() > 0.1


def test_the_two_levels_move_together():
    t = torch.tensor([0.02, 0.5, 3.0, 20.0])
    assert (consistency.nearer(t, 0.0) <= t / 2).all()
    assert (consistency.nearer(t, 0.0)[:2] == 0).all(), "r = 0: the target is the image itself"
    gaps = [(t - consistency.nearer(t, p)) / t for p in (0.0, 0.2, 0.5, 0.99)]
    for wide, narrow in itertools.pairwise(gaps):
        assert (narrow <= wide).all()
    assert (gaps[-1] < 0.15).all()
    assert (gaps[-1] > 0).all()


def test_levels_fall_from_the_top():
    assert consistency.levels(1) == pytest.approx([generator.SIGMA_MAX])
    four = consistency.levels(4)
    assert four == sorted(four, reverse=True)
    assert four[0] == pytest.approx(generator.SIGMA_MAX)
    assert four[-1] > generator.SIGMA_MIN


def test_tuning_makes_one_step_images_that_look_like_the_data(tiny_generator, digits, tmp_path):
    """Before, one leap from pure noise ends in a grey average; after, pixels spread almost as in the data."""
    generator.save(tiny_generator, tmp_path / "g.safetensors")
    model = generator.load(tmp_path / "g.safetensors")
    labels = torch.arange(64) % 10

    def spread(model):
        model.config["consistency"] = True
        return sampling.sample(model, labels, seed=3, steps=1).float().std(0).mean().item()

    before = spread(model)
    training = generator.Training(steps=150, batch=32, lr=2e-3, ema_decay=0.9, label_dropout=0.1)
    generator.fit(model, digits.train, training, seed=0, loss_function=consistency.loss)
    real = digits.train.images[:64].float().std(0).mean().item()
    assert abs(spread(model) - real) < 0.5 * abs(before - real)
    generator.save(model, tmp_path / "few.safetensors")
    assert generator.load(tmp_path / "few.safetensors").config["consistency"] is True


def test_a_guide_follows_the_exact_path_and_extrapolates_between_no_class_and_class(monkeypatch):
    """For Gaussian data the path is known: x at t lies at x sqrt(S^2 + r^2) / sqrt(S^2 + t^2) when it comes to r."""

    class Denoiser(generator.Generator):
        def forward(self, noisy, sigma, labels):
            sigma, data = sigma.view(-1, 1, 1, 1), self.sigma_data
            wanted = noisy * S**2 / (S**2 + sigma**2) + (labels < 2).view(-1, 1, 1, 1) * 0.5 * sigma
            return (wanted - noisy * data**2 / (sigma**2 + data**2)) * (sigma**2 + data**2).sqrt() / (sigma * data)

    model = Denoiser(2, (1, 8, 8), width=8, levels=1, layers=1)
    x, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 1.0, 5.0])
    r, none = 0.95 * t, torch.full((3,), 2)
    exact = x * ((S**2 + r**2) / (S**2 + t**2)).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(consistency.Guide(model, 1.0).step(x, t, r, none), exact, rtol=1e-3, atol=1e-4)

    # A class pulls by 0.5 sigma: half of the way down, w times as far
    shift = {w: consistency.Guide(model, w).step(x, t, r, torch.zeros(3).long()) - exact for w in (1.0, 3.0)}
    assert torch.allclose(shift[3.0], 3 * shift[1.0], atol=1e-3)
    assert torch.allclose(shift[1.0].mean((1, 2, 3)), 0.5 * (t - r), rtol=0.05)


def test_the_guidance_goes_into_the_weights(tiny_generator, digits):
    """Under a guide the target at r is another point of another path: another loss, and r is never 0."""
    clean, labels = tiny_generator.encode(digits.train.images[:16]), digits.train.labels[:16]
    losses = set()
    for guide in (None, consistency.Guide(tiny_generator, 1.0), consistency.Guide(tiny_generator, 3.0)):
        rng = torch.Generator().manual_seed(0)
        losses.add(consistency.loss(tiny_generator, tiny_generator, clean, labels, 0.5, rng, guide).item())
    assert len(losses) == 3
    t = torch.tensor([0.02, 0.5, 3.0, 20.0])
    assert (consistency.nearer(t, 0.0, consistency.GUIDED_FROM) > 0.3 * t).all()
