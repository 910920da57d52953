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
    """K networks of one architecture as one: parameters [K, ...], forward [K, N, ...] -> [K, N, classes]."""

    def __init__(self, models: Sequence[nn.Module]):
        self.parameters, self.buffers = torch.func.stack_module_state(list(models))
        self.skeleton = copy.deepcopy(models[0]).to("meta")

    def __call__(self, inputs: Tensor, training: bool) -> Tensor:
        self.skeleton.train(training)

        def one(parameters: dict, buffers: dict, x: Tensor) -> Tensor:
            return torch.func.functional_call(self.skeleton, (parameters, buffers), (x,))

        return torch.func.vmap(one)(self.parameters, self.buffers, inputs)

    def state(self, k: int) -> dict[str, Tensor]:
        """A copy of network k's state."""
        return {name: value[k].detach().clone() for name, value in (self.parameters | self.buffers).items()}

    @torch.inference_mode()
    def predict(self, images: Tensor, batch: int = 1024) -> Tensor:
        """Logits [K, N, classes] of uint8 images [N, C, H, W], in eval mode."""
        count = len(next(iter(self.parameters.values())))
        parts = [classifier.normalise(part) for part in images.split(batch)]
        return torch.cat([self(part.expand(count, *part.shape), False).float() for part in parts], dim=1)


def fit(
    models: Sequence[nn.Module],
    streams: Sequence[Callable[[int], Split]],
    val: Split,
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
    """Train all models in place and keep each one's best epoch on validation: `classifier.fit` for K models at once.

    Parameters
    ----------
    streams : one per model; their sets must be equally large
    seeds : one per model, for order and augmentation
    teacher : if given, targets are its softmax at `temperature` (GKD)
    """
    device, count = next(models[0].parameters()).device, len(models)
    sources = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
    batches = max(1, len(streams[0](0)) // batch)
    stack = Stack(models)
    optimiser, schedule = classifier.sgd(stack.parameters.values(), lr, weight_decay, epochs * batches)
    best, kept = [(-1.0, 0.0)] * count, [stack.state(k) for k in range(count)]
    labels = val.labels.to(device)
    for epoch in range(epochs):
        sets = [stream(epoch) for stream in streams]
        orders = [
            torch.randperm(len(s), generator=g, device=device).tensor_split(batches) for s, g in zip(sets, sources)
        ]
        for step in range(batches):
            picks = [order[step] for order in orders]
            images = torch.stack([augment(s.images[i], g) for s, i, g in zip(sets, picks, sources)])
            inputs = classifier.normalise(images)
            logits = stack(inputs, True)  # not in bfloat16: vmap's batch normalisation wants one type
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
        guesses = stack.predict(val.images.to(device))
        for k in range(count):
            accuracy = (guesses[k].argmax(1) == labels).double().mean().item()
            score = (accuracy, -F.cross_entropy(guesses[k], labels).item())
            if epoch == 0 or score > best[k]:
                best[k], kept[k] = score, stack.state(k)
    for model, state in zip(models, kept):
        model.load_state_dict(state)
        model.eval()
