"""A classifier trained with differential privacy (DP-SGD, Abadi et al. 2016): what any defence must be compared with.

Opacus clips each example's gradient, adds noise and accounts for it. The network is the project's ResNet with group
normalisation: statistics of a batch would mix its examples.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kr_utils import classifier, resume
from kr_utils.data import Split

GROUPS = 8  # of channels, or the largest part of it that divides their number
CLIP = 1.0  # largest norm of an example's gradient
BATCH = 512  # or all images: noise is added once a batch, and large ones stand it best
LR = 0.5


@dataclass(frozen=True)
class Spent:
    """What a training cost: (epsilon, delta)-differential privacy, the noise that bought it, its steps."""

    epsilon: float
    delta: float
    noise: float
    steps: int


class Block(nn.Module):
    """`classifier.Block` without operations in place, which Opacus' hooks do not survive."""

    def __init__(self, block: classifier.Block):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = block.conv1, block.bn1, block.conv2, block.bn2
        self.shortcut = block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def build(classes: int, channels: int, width: int, depth: int, seed: int) -> nn.Module:
    """`classifier.build` with group normalisation in the place of batch normalisation."""
    model = classifier.build(classes, channels, width, depth, seed)
    model.features = nn.Sequential(*(Block(m) if isinstance(m, classifier.Block) else m for m in model.features))
    for parent in [*model.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(math.gcd(GROUPS, child.num_features), child.num_features))
    return model


def fit(
    model: nn.Module,
    split: Split,
    *,
    epsilon: float,
    epochs: int,
    seed: int,
    on_epoch: Callable[[dict], None] | None = None,
    state: resume.State | None = None,
) -> Spent:
    """Train in place, so that the result is (epsilon, 1 / (10 N))-differentially private in one image with its label.

    Batches are drawn by Poisson sampling, without augmentation. What an attacker sees of several networks of one
    pipeline adds up; the promise is of this one.

    Parameters
    ----------
    model : of `build`; split : images uint8 [N, C, H, W] and labels [N]
    epsilon : > 0, of the whole training; epochs : passes over the images, on average
    state : where the trained network is saved, to be read back; a training that was killed begins again
    """
    at = resume.restore(state, {"model": model}, spent=None)
    if at.spent is not None:
        return Spent(**at.spent)
    from opacus import PrivacyEngine

    # Opacus takes loaders
    device = next(model.parameters()).device
    images = classifier.normalise(split.images)
    rng = torch.Generator().manual_seed(seed)
    size, delta = min(len(split), BATCH), 0.1 / len(split)
    data = torch.utils.data.TensorDataset(images, split.labels)
    loader = torch.utils.data.DataLoader(data, batch_size=size, generator=rng)
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)

    # Noise for the epsilon that is wanted; drawn so that the same seed gives the same bytes, not for secrecy
    noise_rng = torch.Generator(device=device).manual_seed(seed + 1)
    wanted = {"target_epsilon": epsilon, "target_delta": delta, "epochs": epochs, "max_grad_norm": CLIP}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = PrivacyEngine(accountant="prv")
        private, optimiser, loader = engine.make_private_with_epsilon(
            module=model.train(), optimizer=optimiser, data_loader=loader, noise_generator=noise_rng, **wanted
        )

        # Plain SGD: momentum would carry the noise along
        steps = 0
        for epoch in range(epochs):
            for x, y in loader:
                loss = F.cross_entropy(private(x.to(device)), y.to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                steps += 1
            if on_epoch:
                on_epoch({"epoch": epoch + 1, "train_loss": loss.item()})
        spent = engine.get_epsilon(delta)

    # The hooks go, the weights stay
    private.remove_hooks()
    for parameter in model.parameters():
        for name in ("grad_sample", "summed_grad"):
            if hasattr(parameter, name):
                delattr(parameter, name)
    model.eval()
    cost = Spent(float(spent), delta, float(optimiser.noise_multiplier), steps)
    resume.offer(state, {"model": model}, SimpleNamespace(spent=asdict(cost)), now=True)
    return cost
