"""Few-step generation: the trained Generator learns to leap from noise to an image in one or two network evaluations.

Consistency tuning as in Geng et al. 2024 (Easy Consistency Tuning, arXiv 2406.14548), which goes on from a trained
diffusion model: D(x, t), the denoised image, becomes the *end of the path* through x, by asking that two points of
one path with noise levels t > r end alike, with r moved closer to t as training proceeds. Whether a
Student learns as well from such images is for Tuning to say (notebook 04).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kr_utils import generator

if TYPE_CHECKING:
    from kr_utils.data import Split
    from kr_utils.resume import State

# Noise levels of training are log-normal with these parameters (as Geng et al.).
P_MEAN, P_STD = -1.1, 2.0
STAGES = 6  # r / t goes from at most 1/2 (0 at small t: plain denoising) to 1 - 1/64 in this many stages
GUIDED_FROM = 3  # a guide starts at this stage, from which on r is never 0: it knows no image that a path ends at


@dataclass(frozen=True)
class Guide:
    """A frozen Generator whose guided paths are followed, so that the guidance is in the few-step one's weights.

    guidance : scale w of classifier-free guidance, as `sampling.sample` takes it
    """

    model: generator.Generator
    guidance: float

    @torch.no_grad()
    def step(self, x: Tensor, t: Tensor, r: Tensor, labels: Tensor) -> Tensor:
        """From noise level t [N] down its path to r [N] > 0: one step of Heun's method."""
        here = self._slope(x, t, labels)
        down = (r - t).view(-1, 1, 1, 1)
        there = self._slope(x + down * here, r, labels)
        return x + down * (here + there) / 2

    def _slope(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        raw = generator.guided(self.model, x, sigma, labels, self.guidance)
        return (x - self.model.denoised(x, sigma, raw)) / sigma.view(-1, 1, 1, 1)


def nearer(t: Tensor, progress: float, first: int = 1) -> Tensor:
    """The level r < t whose image D(x, t) must match, at `progress` in [0, 1) of training (after Geng et al.).

    first : the stage to begin with, 1 to `STAGES`
    """
    stage = first + int((STAGES + 1 - first) * progress)
    return (t * (1 - (1 + 8 * torch.sigmoid(-t)) / 2**stage)).clamp_min(0)


def loss(
    network: Callable,
    model: generator.Generator,
    clean: Tensor,
    labels: Tensor,
    progress: float,
    rng: torch.Generator,
    guide: Guide | None = None,
) -> Tensor:
    """The consistency loss, for `generator.fit`: distance of D at t to D at r (held fixed), divided by t - r.

    guide : makes the point at r (consistency distillation); None: it is the same image under the same noise
    """
    # Two levels t > r of one path
    device = clean.device
    t = torch.exp(P_MEAN + P_STD * torch.randn(len(clean), generator=rng, device=device))
    t = t.clamp(generator.SIGMA_MIN, generator.SIGMA_MAX)
    r = nearer(t, progress, GUIDED_FROM if guide else 1)
    noise = torch.randn(clean.shape, generator=rng, device=device)
    noisy = clean + t.view(-1, 1, 1, 1) * noise

    # Where the path ends, seen from r (held fixed) and from t
    with torch.no_grad():
        near = clean + r.view(-1, 1, 1, 1) * noise  # at r = 0 the image itself, which `denoised` returns unchanged
        near = guide.step(noisy, t, r, labels) if guide else near
        target = model.denoised(near, r, network(near, r.clamp_min(1e-3), labels))
    found = model.denoised(noisy, t, network(noisy, t, labels))

    distance = ((found - target).pow(2).flatten(1).sum(1) + 1e-8).sqrt()  # not squared: robust to what cannot be known
    return (distance / (t - r)).mean()


def tuned(
    model: generator.Generator,
    split: Split,
    training: generator.Training,
    *,
    guidance: float,
    seed: int,
    on_step: Callable[[dict], None] | None = None,
    state: State | None = None,
) -> generator.Generator:
    """The few-step Generator that a trained one becomes by this loss; `model` itself stays as it is.

    Parameters
    ----------
    split : the images that `model` was trained on
    guidance : scale of the paths that are followed; 1 follows those of the images under noise
    seed, on_step, state : as `generator.fit` takes them
    """
    few = copy.deepcopy(model)
    few.config["consistency"] = True
    guide = Guide(model, guidance) if guidance != 1 else None
    follow = functools.partial(loss, guide=guide)
    generator.fit(few, split, training, seed=seed, loss_function=follow, on_step=on_step, state=state)
    return few


def levels(steps: int) -> list[float]:
    """Noise levels at which a few-step sampler evaluates the network: EDM's eq. 5 without its end (rho = 7)."""
    high, low = generator.SIGMA_MAX ** (1 / 7), generator.SIGMA_MIN ** (1 / 7)
    return [(high + i / steps * (low - high)) ** 7 for i in range(steps)]
