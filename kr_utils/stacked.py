"""Several classifiers trained side by side as one stacked network: what keeps a GPU busy with small networks.

The same loop as `classifier.fit`, over a leading axis of K models with their own seeds and training sets;
`torch.func.vmap` turns their convolutions into grouped ones. The results are those of K single trainings up to
rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kr_utils import classifier
from kr_utils.data import Split
from kr_utils.precision import autocast


class Stack:
    """K networks in training as one: parameters and buffers [K, ...], forward [K, N, C, H, W] -> [K, N, classes]."""

    def __init__(self, models: Sequence[nn.Module]):
        self.parameters, self.buffers = torch.func.stack_module_state(list(models))
        self.skeleton = copy.deepcopy(models[0]).to("meta").train()

    def __call__(self, inputs: Tensor) -> Tensor:
        def one(parameters: dict, buffers: dict, x: Tensor) -> Tensor:
            return torch.func.functional_call(self.skeleton, (parameters, buffers), (x,))

        return torch.func.vmap(one)(self.parameters, self.buffers, inputs)

    def state(self, k: int) -> dict[str, Tensor]:
        """A copy of network k's state."""
        return {name: value[k].detach().clone() for name, value in (self.parameters | self.buffers).items()}


def fit(
    models: Sequence[nn.Module],
    streams: Sequence[Callable[[int], Split]],
    *,
    epochs: int,
    batch: int,
    lr: float,
    weight_decay: float,
    augment: classifier.Augmentation,
    seeds: Sequence[int],
    teacher: nn.Module | None = None,
    temperature: float = 1.0,
) -> None:
    """Train all models in place and keep their last epoch: `classifier.fit` without validation for K models at once.

    Parameters
    ----------
    streams : one per model; their sets must be equally large
    seeds : one per model, for order and augmentation
    teacher : if given, targets are its softmax at `temperature` (GKD)
    """
    device = next(models[0].parameters()).device
    sources = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
    batches = max(1, len(streams[0](0)) // batch)
    stack = Stack(models)
    optimiser, schedule = classifier.sgd(stack.parameters.values(), lr, weight_decay, epochs * batches)
    for epoch in range(epochs):
        sets = [stream(epoch) for stream in streams]
        orders = [
            torch.randperm(len(s), generator=g, device=device).tensor_split(batches) for s, g in zip(sets, sources)
        ]
        for step in range(batches):
            picks = [order[step] for order in orders]
            images = torch.stack([augment(s.images[i], g) for s, i, g in zip(sets, picks, sources)])
            inputs = classifier.normalise(images)
            logits = stack(inputs)  # not in bfloat16: vmap's batch normalisation wants one type
            with torch.no_grad(), autocast(device, inputs.shape[3]):
                taught = teacher(inputs.flatten(0, 1)).to(inputs.dtype) if teacher else None
            if teacher is None:
                wanted = torch.stack([s.labels[i] for s, i in zip(sets, picks)])
                loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")
            else:
                loss = classifier.gkd_loss(logits.flatten(0, 1), taught, None, temperature) * taught.shape[0]
            optimiser.zero_grad(set_to_none=True)
            (loss / images.shape[1]).backward()  # the sum over models of each one's mean
            optimiser.step()
            schedule.step()
    for k, model in enumerate(models):
        model.load_state_dict(stack.state(k))
        model.eval()
