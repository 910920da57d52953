"""On a GPU, the forward and backward pass of a training step as one CUDA graph.

Networks for images of 28 pixels are so small that a GPU waits for Python, which launches some hundreds of kernels a
step one by one. A graph launches them all at once; the arithmetic is the same.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

WARM_UP = 3  # steps before a graph is captured: libraries set themselves up in them


@functools.cache
def _stream() -> torch.cuda.Stream:
    """One for all: libraries keep a workspace for every stream that they ever saw."""
    return torch.cuda.Stream()


class Gradients:
    """Call it with a batch: the loss, detached, and the gradients of `parameters` as `loss.backward()` leaves them.

    On a GPU the first `WARM_UP` batches of a shape are computed as usual, the later ones by a graph that was captured
    with them (PyTorch's "CUDA graphs", whole-network capture): kernels and memory are fixed, only the inputs change.

    Parameters
    ----------
    loss_of : tensors of a batch -> scalar loss, without random numbers and without a look at any value on the way
    parameters : what is trained; no other computation with them may be alive, its gradients would go another way
    capture : False computes every batch as usual
    """

    def __init__(self, loss_of: Callable[..., Tensor], parameters: Iterable[Tensor], *, capture: bool = True):
        self.loss_of, self.parameters = loss_of, list(parameters)
        self.seen: dict[tuple, int] = {}
        self.graphs: dict[tuple, tuple] = {}
        self.beside = _stream() if capture and self.parameters[0].is_cuda else None

    def __call__(self, *batch: Tensor) -> Tensor:
        if self.beside is None:
            return self._eager(batch)

        # Warm up on another stream, as capture asks for
        shape = tuple(part.shape for part in batch)
        if self.seen.setdefault(shape, 0) < WARM_UP:
            self.seen[shape] += 1
            self.beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.beside):
                loss = self._eager(batch)
            torch.cuda.current_stream().wait_stream(self.beside)
            return loss

        # Replay; the gradients of a graph are its own tensors
        if shape not in self.graphs:
            why = ""
            try:
                self.graphs[shape] = self._captured(batch)
            except RuntimeError as error:  # of an operation that cannot be captured; none has been executed
                why = str(error).splitlines()[0]
            if why:
                print(f"no CUDA graph here ({why}): step by step, with the same results")
                self.close()
                self.beside = None
                return self._eager(batch)
        graph, inputs, loss, gradients = self.graphs[shape]
        for own, given in zip(inputs, batch):
            own.copy_(given)
        graph.replay()
        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = gradient
        return loss.clone()

    def _eager(self, batch: tuple[Tensor, ...]) -> Tensor:
        loss = self.loss_of(*batch)
        self._forget()
        loss.backward()
        return loss.detach()

    def _captured(self, batch: tuple[Tensor, ...]) -> tuple:
        inputs, graph = [part.clone() for part in batch], torch.cuda.CUDAGraph()
        self._forget()
        gc.collect()  # not during capture, where nothing of CUDA may be given back
        gc.disable()
        try:
            with torch.cuda.graph(graph, stream=self.beside, capture_error_mode="thread_local"):
                loss = self.loss_of(*inputs)
                loss.backward()
        finally:
            gc.enable()
        return graph, inputs, loss.detach(), [parameter.grad for parameter in self.parameters]

    def close(self) -> None:
        """Give back the memory of the graphs and of the gradients."""
        self.graphs.clear()
        self._forget()

    def _forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
