"""Several classifiers trained side by side as one stacked network: what keeps a GPU busy with small networks.

The same loop as `classifier.fit`, over a leading axis of K models with their own seeds and training sets;
`torch.func.vmap` turns their convolutions into grouped ones. The results are those of K single trainings up to
rounding.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kr_utils import captured, classifier
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
    training: classifier.Training,
    *,
    seeds: Sequence[int],
) -> None:
    """Train all models in place and keep their last epoch: `classifier.fit` without validation for K models at once.

    Parameters
    ----------
    streams : one per model; their sets must be equally large
    training : the same for all models; its Teacher, if there is one, labels the images of all
    seeds : one per model, for order and augmentation
    """
    device = next(models[0].parameters()).device
    rngs = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]
    recipe, epochs = training.recipe, training.epochs
    batches = max(1, len(streams[0](0)) // recipe.batch)
    stack = Stack(models)
    optimiser, schedule = classifier.sgd(stack.parameters.values(), recipe.lr, recipe.weight_decay, epochs * batches)
    gradients = captured.Gradients(functools.partial(_loss, stack, training), stack.parameters.values())

    for epoch in range(epochs):
        # Each model has its own images, in its own order
        sets = [stream(epoch) for stream in streams]
        orders = [torch.randperm(len(s), generator=rng, device=device) for s, rng in zip(sets, rngs)]
        orders = [order.tensor_split(batches) for order in orders]

        # One step of all models at a time
        for step in range(batches):
            picks = [order[step] for order in orders]
            images = torch.stack([training.augment(s.images[i], rng) for s, i, rng in zip(sets, picks, rngs)])
            labels = torch.stack([s.labels[i] for s, i in zip(sets, picks)])
            gradients(images, labels)
            optimiser.step()
            schedule.step()

    for k, model in enumerate(models):
        model.load_state_dict(stack.state(k))
        model.eval()


def _loss(stack: Stack, training: classifier.Training, images: Tensor, labels: Tensor) -> Tensor:
    """The sum over models of each one's mean loss; images uint8 [K, N, C, H, W], augmented, labels int64 [K, N]."""
    inputs, teacher = classifier.normalise(images), training.teacher
    logits = stack(inputs).flatten(0, 1)  # not in bfloat16: vmap's batch normalisation wants one type
    with torch.no_grad(), autocast(inputs.device, inputs.shape[3]):
        taught = teacher(inputs.flatten(0, 1)).to(inputs.dtype) if teacher else None
    if teacher is None:
        total = F.cross_entropy(logits, labels.flatten(), reduction="sum")
    else:
        mean = classifier.gkd_loss(logits, taught, labels.flatten(), training.temperature, training.hard_weight)
        total = mean * len(logits)
    return total / images.shape[1]
