"""Sampling the Generator: every image has its own random numbers, so any part of a synthetic set can be made again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from kr_utils import consistency, generator

# Images per network evaluation. Always whole blocks, so that an image is the same to the last bit in any company.
BLOCK = {"cpu": 64, "cuda": 1024}


def noise_rngs(seed: int, indices: Sequence[int]) -> list[np.random.Generator]:
    """One counter-based random source per image: image i draws from key (seed, i) and from nothing else."""
    return [np.random.Generator(np.random.Philox(key=[seed, int(i)])) for i in indices]


@torch.inference_mode()
def sample(
    model: generator.Generator,
    labels: Tensor,
    *,
    seed: int,
    indices: Sequence[int] | None = None,
    guidance: float = 1.0,
    steps: int = 12,
    churn: float = 0.0,
) -> Tensor:
    """Generate one image per label.

    A consistency Generator leaps to the image, adds noise of the next lower level and leaps again, `steps` times
    (Song et al. 2023, algorithm 1); it has no use for churn. All others follow the ODE or SDE:

    Without churn: DPM-Solver++(2M), one network evaluation a step. With churn: EDM's stochastic
    sampler (algorithm 2), two evaluations a step: noise is added to rise from sigma to
    sigma * (1 + gamma), gamma = min(churn / steps, sqrt 2 - 1), then Heun's method steps down. A
    multistep solver cannot be used there: it would take the fresh noise for a trend.

    Parameters
    ----------
    labels : int64 [N], classes to draw
    seed, indices : image k depends on (weights, knobs, seed, indices[k], labels[k]) only, not on
        how many or which images are drawn with it; indices default to 0..N-1
    guidance : scale w of classifier-free guidance, F_none + w (F_class - F_none); 1 needs one network
        evaluation a step, any other value two
    steps : solver steps, >= 1
    churn : total stochasticity S_churn >= 0; 0 is deterministic given the initial noise

    Returns
    -------
    images : uint8 [N, C, H, W], on the CPU
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least one solver step is needed")
    model.eval()
    device = next(model.parameters()).device

    # Noise has the shape of folded images
    channels, height, side = model.shape
    fold = model.fold
    shape = (channels * fold**2, height // fold, side // fold)
    indices = np.arange(len(labels)) if indices is None else np.asarray(indices)

    block, parts = BLOCK[device.type], []
    for start in range(0, len(labels), block):
        wanted = len(labels[start : start + block])
        # A short last block is filled up with its first image: the arithmetic rounds alike for alike shapes only.
        chosen = np.arange(start, start + block)
        chosen[wanted:] = start
        given = labels[torch.from_numpy(chosen)].to(device)
        rngs = noise_rngs(seed, indices[chosen])

        def draw(rngs: list = rngs) -> Tensor:
            noise = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs])
            return torch.from_numpy(noise).to(device)

        def network(x: Tensor, sigma: float, given: Tensor = given) -> Tensor:
            return generator.guided(model, x, torch.full((len(x),), sigma, device=device), given, guidance)

        parts.append(model.decode(_solved(model, network, draw, steps, churn)[:wanted]).cpu())
    return torch.cat(parts) if parts else torch.empty((0, *model.shape), dtype=torch.uint8)


def _solved(model, network, draw, steps: int, churn: float) -> Tensor:
    """From noise to images, by one of three samplers."""
    if model.config["consistency"]:
        return _leaps(model, network, draw, steps)
    if churn:
        return _stochastic(model, network, draw, steps, churn)
    return _multistep(model, network, draw, steps)


def _schedule(model: generator.Generator, steps: int):
    scheduler = model.scheduler()
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    return scheduler, scheduler.sigmas.tolist()


def _multistep(model, network, draw, steps: int, seen: Callable = lambda sigma, x, raw: None) -> Tensor:
    """DPM-Solver++(2M) of diffusers; `seen` gets each step's noise level, noisy images and network output."""
    scheduler, sigmas = _schedule(model, steps)
    x = draw() * scheduler.init_noise_sigma
    for sigma, time in zip(sigmas, scheduler.timesteps):
        raw = network(x, sigma)
        seen(sigma, x, raw)
        x = scheduler.step(raw, time, x, return_dict=False)[0]
    return x


@torch.inference_mode()
def preview(
    model: generator.Generator,
    labels: Tensor,
    *,
    seed: int,
    guidance: float = 1.0,
    steps: int = 12,
    churn: float = 0.0,
) -> Tensor:
    """A few images for a look at them: those of `sample` up to rounding, and sooner, for no block is filled up."""
    draw, network = _unfilled(model, labels, seed, guidance)
    return model.decode(_solved(model, network, draw, steps, churn)).cpu()


@torch.inference_mode()
def trajectory(
    model: generator.Generator, labels: Tensor, *, seed: int, guidance: float = 1.0, steps: int = 12
) -> list[tuple[float, Tensor, Tensor]]:
    """The way from noise to image of `sample` without churn, step by step, for a look at it.

    Returns
    -------
    per step: the noise level, the noisy images before it and what the network takes for the clean ones (EDM eq. 7's D),
    both uint8 [N, C, H, W]; at last (0, images, images), where the images are those of `sample` up to rounding
    """
    draw, network = _unfilled(model, labels, seed, guidance)
    path = []

    def seen(sigma: float, x: Tensor, raw: Tensor) -> None:
        path.append((sigma, model.decode(x).cpu(), model.decode(model.denoised(x, torch.tensor(sigma), raw)).cpu()))

    images = model.decode(_multistep(model, network, draw, steps, seen)).cpu()
    return [*path, (0.0, images, images)]


def _unfilled(model: generator.Generator, labels: Tensor, seed: int, guidance: float) -> tuple[Callable, Callable]:
    """What draws noise for images 0 to N - 1, and the guided network, for just these."""
    device = next(model.parameters()).device
    channels, height, side = model.shape
    shape = (channels * model.fold**2, height // model.fold, side // model.fold)
    rngs, given = noise_rngs(seed, range(len(labels))), labels.to(device)

    def draw() -> Tensor:
        return torch.from_numpy(np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs])).to(device)

    def network(x: Tensor, sigma: float) -> Tensor:
        return generator.guided(model, x, torch.full((len(x),), sigma, device=device), given, guidance)

    return draw, network


def _stochastic(model, network, draw, steps: int, churn: float) -> Tensor:
    """EDM's algorithm 2: raise the noise, then Heun's method down to the next level."""

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - model.denoised(x, torch.tensor(sigma), network(x, sigma))) / sigma

    scheduler, sigmas = _schedule(model, steps)
    gamma = min(churn / steps, 2**0.5 - 1)
    x = draw() * scheduler.init_noise_sigma
    for sigma, lower in itertools.pairwise(sigmas):
        # Raise the noise (lines 4 to 6)
        raised = sigma * (1 + gamma)
        x = x + (raised**2 - sigma**2) ** 0.5 * draw()

        # One Euler step down (lines 7 and 8), then Heun's correction (9 to 11)
        here = slope(x, raised)
        ahead = x + (lower - raised) * here
        if lower > 0:
            ahead = x + (lower - raised) * (here + slope(ahead, lower)) / 2
        x = ahead
    return x


def _leaps(model, network, draw, steps: int) -> Tensor:
    """Multistep consistency sampling: leap to the image, add noise of the next lower level, leap again."""
    x = 0.0
    for sigma in consistency.levels(steps):
        x = x + sigma * draw()
        x = model.denoised(x, torch.tensor(sigma), network(x, sigma))
    return x


def evaluations(knobs: dict) -> int:
    """Network evaluations per image of these sampling knobs (guidance, steps, churn): the cost of a setting."""
    per_step = int(knobs["steps"]) * (2 if knobs["churn"] else 1) - (1 if knobs["churn"] else 0)
    return per_step * (1 if knobs["guidance"] == 1 else 2)
