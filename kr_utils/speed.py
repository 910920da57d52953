"""How fast this computer is at each kind of work that driver/work.py counts: a few steps of the method's own trainings.

    python -m kr_utils.speed < NETWORKS        (JSON in, JSON out; the driver calls it, which never loads torch itself)

Times are of a single image; what the images show makes no difference. Operations are counted, not timed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from kr_utils import attacks, captured, classifier, data, generator, sampling
from kr_utils.precision import autocast

SECONDS = 0.5  # that each kind of work is watched for
SHORT = ("train", "label", "predict", "draw")  # what a short Student needs
STEP = 1e11  # operations of a step above which a smaller batch stands for the whole one


class _EnoughError(Exception):
    """Ends a training that is only watched."""


def measure(networks: dict, device: str = "cpu") -> dict:
    """Seconds per unit of the `work.KINDS` that are done in this process, and what a GPU would need.

    Parameters
    ----------
    networks : recipe (of the classifier) and generator (width, levels, layers, fold, batch), as in their budgets;
        images (classes, channels, height, width)

    Returns
    -------
    rates : kind -> seconds; device : "cpu" or "cuda"
    classifier, generator : parameters, flops (of a forward pass of one image), saved (bytes that one image's forward
        pass in float32 keeps for the backward pass)
    """
    sums = {"classifier": counted(*_classifier(networks, 2)), "generator": counted(*_painter(networks, 2))}
    rates = passes(networks, sums, device)
    return {"rates": rates | _attacks(networks), "device": device, **sums}


def passes(networks: dict, sums: dict, device: str, kinds: tuple = ("paint",)) -> dict[str, float]:
    """Seconds per image of train, label, predict, draw and, where it is among `kinds`, paint."""
    classify, paint = sums["classifier"]["flops"], sums["generator"]["flops"]
    recipe = classifier.Recipe.from_budget(networks["recipe"])
    batch, model = _batch(recipe.batch, 3 * classify), _classifier(networks, 1)[0].to(device)
    split = _pictures(networks, 4 * batch if batch == recipe.batch else batch).to(device)
    augment = classifier.Augmentation(max(1, split.images.shape[2] // 8), True, False, recipe.erase)

    # A classifier's step, a Teacher's part in one, and a prediction
    training = classifier.Training(recipe, 10_000, augment)
    told = functools.partial(classifier.fit, model, lambda epoch: split, None, training, seed=0)
    rates = {"train": _watched(lambda on_epoch: told(on_epoch=on_epoch), device) / len(split)}
    inputs = classifier.normalise(split.images[:batch]).contiguous(memory_format=torch.channels_last)

    def label() -> None:
        with torch.no_grad(), autocast(device, inputs.shape[2]):
            model(inputs)

    rates["label"] = _repeated(label, device) / batch
    rates["predict"] = _repeated(lambda: classifier.predict(model, split.images), device) / len(split)

    # The Generator's evaluation in a sampler, and its training step
    painter = _painter(networks, 1)[0].to(device)
    rates["draw"] = _drawing(painter, paint, device)
    if "paint" in kinds:
        budget = networks["generator"]
        batch = _batch(budget["batch"], 3 * paint)
        training = generator.Training(39, batch, 1e-4, 0.9, 0.1, hflip=True)  # so few that each step is told
        images = _pictures(networks, max(batch, 64))
        step = _watched(lambda told: generator.fit(painter, images, training, seed=0, on_step=told), device)
        rates["paint"] = step / batch
    return rates


def _drawing(painter: generator.Generator, flops: float, device: str) -> float:
    """Seconds of one evaluation for one image: in the sampler, or of the network alone where a block takes long."""
    painter.eval()
    block, steps = sampling.BLOCK[device], 4
    if flops * block < STEP or device == "cuda":
        labels = torch.zeros(block, dtype=torch.int64)
        return _repeated(lambda: sampling.sample(painter, labels, seed=0, steps=steps), device) / (block * steps)
    few = _batch(block, flops)
    noise = torch.randn(painter.encode(torch.zeros(few, *painter.shape, dtype=torch.uint8)).shape)
    inputs = (noise, torch.ones(few), torch.zeros(few, dtype=torch.int64))

    def evaluate() -> None:
        with torch.inference_mode():
            painter(*inputs)

    return _repeated(evaluate, device) / few


def _batch(wanted: int, flops: float) -> int:
    """The batch of a measured step: as wanted, or as many images as a step of `STEP` operations has."""
    return int(min(wanted, max(2, STEP // flops)))


def _pictures(networks: dict, n: int) -> data.Split:
    about = networks["images"]
    rng = torch.Generator().manual_seed(0)
    shape = (n, about["channels"], about["height"], about["width"])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    return data.Split(images, torch.arange(n) % about["classes"])


def _classifier(networks: dict, n: int) -> tuple[torch.nn.Module, tuple]:
    """A new classifier, and inputs of n images for it."""
    about, recipe = networks["images"], networks["recipe"]
    model = classifier.build(about["classes"], about["channels"], recipe["width"], recipe["depth"], 0)
    return model, (classifier.normalise(_pictures(networks, n).images),)


def _painter(networks: dict, n: int) -> tuple[generator.Generator, tuple]:
    """A new Generator, and inputs of n images for it."""
    images, budget = _pictures(networks, n).images, networks["generator"]
    sizes = {key: budget[key] for key in ("width", "levels", "layers", "fold")}
    model = generator.build(networks["images"]["classes"], images, **sizes, seed=0)
    return model, (model.encode(images), torch.ones(n), torch.zeros(n, dtype=torch.int64))


def counted(model: torch.nn.Module, inputs: tuple) -> dict[str, float]:
    """parameters; flops and saved bytes of one image's forward pass in training, in float32 (a multiplication and an
    addition are two)."""
    kept: dict[int, int] = {}  # storage -> bytes: a tensor that several operations keep is held once

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = 4 * tensor.numel()
        return tensor

    # Parameters are kept too, and counted with the optimiser's
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    counter, hooks = FlopCounterMode(display=False), torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept)
    model.train()
    with counter, hooks:
        outputs = model(*inputs)
    del outputs
    n = len(inputs[0])
    saved = sum(size for place, size in kept.items() if place not in own) / n
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "flops": counter.get_total_flops() / n, "saved": saved}


def _watched(train: Callable[[Callable], object], device: str) -> float:
    """Least seconds between two calls of a training's callback: what the computer can do when nothing disturbs it."""
    times: list[float] = []
    least = 3 if device == "cpu" else captured.WARM_UP + 4  # on a GPU the first steps are made before there is a graph

    def told(row: dict) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        if len(times) >= least and times[-1] - times[0] > SECONDS:
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        train(told)
    return min(np.diff(times).tolist())


def _repeated(call: Callable[[], object], device: str) -> float:
    """Least seconds of one call; the first, which warms up, is left out."""
    call()
    times, ends = [], time.perf_counter() + SECONDS / 2
    while not times or time.perf_counter() < ends:
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def _attacks(networks: dict) -> dict[str, float]:
    """Seconds per compared pixel value and per resampled score."""
    rng, n, draws = np.random.default_rng(0), 500, 100
    images = _pictures(networks, n).images.numpy()
    compare = _repeated(lambda: attacks.nearest(images, images), "cpu") / (n**2 * images[0].size)
    scores = {"loss": (rng.standard_normal(n), rng.standard_normal(n))}
    return {"compare": compare, "resample": _repeated(lambda: attacks.audit(scores, 0, draws), "cpu") / (draws * 2 * n)}


_worker: dict = {}  # what a process that stands for a short Student was prepared with


def _prepare(together: Barrier) -> None:
    torch.set_num_threads(1)
    _worker["together"] = together


def _beside(networks: dict, sums: dict) -> dict[str, float]:
    """As `passes`, begun when each process of the pool has come to it."""
    _worker["together"].wait()
    return passes(networks, sums, "cpu", ())


def short_students(asked: list[dict], found: list[dict], workers: int) -> list[dict[str, float]]:
    """As `passes` of several networks: in as many processes, of one thread, as train short Students at a time."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _prepare, (context.Barrier(workers),)) as pool:
        several = [pool.starmap(_beside, [(each, sums)] * workers, chunksize=1) for each, sums in zip(asked, found)]
    return [{kind: median(rates[kind] for rates in each) for kind in each[0]} for each in several]


def main() -> None:
    """Read {began, networks: [...]}, print a list with the speed of each; `began` is when this process was started."""
    asked = json.load(sys.stdin)
    start = time.time() - asked["began"]
    device, threads = "cuda" if torch.cuda.is_available() else "cpu", torch.get_num_threads()
    found = [measure(networks, device) for networks in asked["networks"]]

    # Short Students: side by side on a CPU with several cores
    short = [each["rates"] for each in found]
    if device == "cpu" and threads > 1:
        short = short_students(asked["networks"], found, threads)
    for each, rates in zip(found, short):
        each["rates"] |= {f"short_{kind}": rates[kind] for kind in SHORT} | {"start": start}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
