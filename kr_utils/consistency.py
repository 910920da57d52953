"""Few-step generation: the trained Generator learns to leap from noise to an image in one or two network evaluations.

Consistency tuning as in Geng et al. 2024 (Easy Consistency Tuning, arXiv 2406.14548), which goes on from a trained
diffusion model: D(x, t), the denoised image, becomes the *end of the path* through x, by asking that two points of
one path with noise levels t > r end alike, with r moved closer to t as training proceeds. On digits its one-step
images taught as well as those of 12 solver steps (benchmarks/results.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kr_utils import generator

# Noise levels of training are log-normal with these parameters (as Geng et al.).
P_MEAN, P_STD = -1.1, 2.0
STAGES = 6  # r / t goes from at most 1/2 (0 at small t: plain denoising) to 1 - 1/64 in this many stages


def nearer(t: Tensor, progress: float) -> Tensor:
    """The level r < t whose image D(x, t) must match, at `progress` in [0, 1) of training (after Geng et al.)."""
    stage = 1 + int(STAGES * progress)
    return (t * (1 - (1 + 8 * torch.sigmoid(-t)) / 2**stage)).clamp_min(0)


def loss(
    network: Callable,
    model: generator.Generator,
    clean: Tensor,
    labels: Tensor,
    progress: float,
    rng: torch.Generator,
) -> Tensor:
    """The consistency loss, for `generator.fit`: distance of D at t to D at r (held fixed), divided by t - r."""
    # Two levels t > r of one path: the same image, the same noise
    device = clean.device
    t = torch.exp(P_MEAN + P_STD * torch.randn(len(clean), generator=rng, device=device))
    t = t.clamp(generator.SIGMA_MIN, generator.SIGMA_MAX)
    r = nearer(t, progress)
    noise = torch.randn(clean.shape, generator=rng, device=device)

    # Where the path ends, seen from r (held fixed) and from t
    with torch.no_grad():
        near = clean + r.view(-1, 1, 1, 1) * noise  # at r = 0 the image itself, which `denoised` returns unchanged
        target = model.denoised(near, r, network(near, r.clamp_min(1e-3), labels))
    noisy = clean + t.view(-1, 1, 1, 1) * noise
    found = model.denoised(noisy, t, network(noisy, t, labels))

    distance = ((found - target).pow(2).flatten(1).sum(1) + 1e-8).sqrt()  # not squared: robust to what cannot be known
    return (distance / (t - r)).mean()


def levels(steps: int) -> list[float]:
    """Noise levels at which a few-step sampler evaluates the network: EDM's eq. 5 without its end (rho = 7)."""
    high, low = generator.SIGMA_MAX ** (1 / 7), generator.SIGMA_MIN ** (1 / 7)
    return [(high + i / steps * (low - high)) ** 7 for i in range(steps)]
