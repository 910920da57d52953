"""What a Student sees, epoch by epoch: synthetic sets that are regenerated, filtered and soft-labelled."""

from __future__ import annotations

import copy
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from kr_utils import beside, classifier, generator, resume, sampling
from kr_utils.data import Split

MAX_ROUNDS = 4  # of resampling under a filter threshold: bounded, never "until full"
ATTEMPT = 2**40  # between the indices of two attempts at an image
CACHE_BYTES = 2 * 2**30
LASTING = 2  # first sets of a stream that a finished stage keeps, to look at again; the others follow from the seed
LASTING_BYTES = 2**28  # and larger ones do, too
CHUNK = 16  # blocks of images between two chances to save a set that is being drawn


@dataclass(frozen=True)
class Knobs:
    """Settings of generation and of labelling, the object of Tuning.

    guidance : classifier-free guidance scale, 1 is none; steps : solver steps; churn : S_churn of EDM
    threshold : an image is kept if the Teacher gives its class at least this probability (GaFi's filter)
    few : 1 where the few-step Generator draws the images, which has its guidance in it
    temperature : T > 0 of the soft labels; hard_weight : share of the asked label in the loss, 0 to 1
    """

    guidance: float = 1.0
    steps: int = 12
    churn: float = 0.0
    threshold: float = 0.0
    few: int = 0
    temperature: float = 1.0
    hard_weight: float = 0.0

    def sampler(self) -> dict:
        """The part that `sampling.sample` takes."""
        return {"guidance": self.guidance, "steps": self.steps, "churn": self.churn}

    def labels(self) -> dict:
        """The part that `classifier.Training` takes."""
        return {"temperature": self.temperature, "hard_weight": self.hard_weight}


def class_counts(n: int, train_labels: Tensor, classes: int, balance: str) -> np.ndarray:
    """How many of n synthetic images each class gets, int [K], summing to n.

    balance : "uniform" (as GaFi) or "prior" (as the real training set); remainders go to the largest
        fractions, then to the lowest class.
    """
    if balance not in ("uniform", "prior"):
        raise ValueError(f"balance is {balance!r}; use 'uniform' or 'prior'")
    real = np.bincount(train_labels.cpu().numpy(), minlength=classes)
    share = np.full(classes, n / classes) if balance == "uniform" else n * real / real.sum()
    counts = np.floor(share).astype(int)
    rest = np.argsort(counts - share, kind="stable")[: n - counts.sum()]
    counts[rest] += 1
    return counts


@torch.inference_mode()
def synthesise(
    model: generator.Generator,
    knobs: Knobs,
    labels: Tensor,
    *,
    seed: int,
    first: int = 0,
    teacher: nn.Module | None = None,
) -> tuple[Split, float, float]:
    """One synthetic image per label, filtered if `knobs.threshold` > 0.

    A rejected image is drawn again at most `MAX_ROUNDS` times in all; what is never accepted keeps its
    best attempt, so that the classes stay as asked.

    Returns
    -------
    split : images uint8 [N, C, H, W] and labels, on the CPU
    accepted : share of all drawn images that passed the filter (1.0 without one)
    draws : images drawn per image kept, 1 to `MAX_ROUNDS`
    """
    # One attempt per image
    indices = np.arange(first, first + len(labels), dtype=np.int64)
    images = sampling.sample(model, labels, seed=seed, indices=indices, **knobs.sampler())
    if knobs.threshold <= 0:
        return Split(images, labels), 1.0, 1.0
    if teacher is None:
        raise ValueError("a filter threshold needs the Teacher")

    def confidence(pictures: Tensor, wanted: Tensor) -> Tensor:
        probabilities = classifier.predict(teacher, pictures).softmax(1).cpu()
        return probabilities.gather(1, wanted[:, None])[:, 0]

    # Draw again what the Teacher does not believe; the best attempt so far stays
    best = confidence(images, labels)
    drawn, passed = len(labels), int((best >= knobs.threshold).sum())
    for again in range(1, MAX_ROUNDS):
        missing = torch.nonzero(best < knobs.threshold)[:, 0]
        if len(missing) == 0:
            break

        # A far-away index is a new random number for the same slot, whatever was drawn before it.
        retry = indices[missing.numpy()] + again * ATTEMPT
        wanted = labels[missing]
        fresh = sampling.sample(model, wanted, seed=seed, indices=retry, **knobs.sampler())
        found = confidence(fresh, wanted)

        # Keep what is better
        better = found > best[missing]
        images[missing[better]], best[missing[better]] = fresh[better], found[better]
        drawn, passed = drawn + len(missing), passed + int((found >= knobs.threshold).sum())
    return Split(images, labels), passed / drawn, drawn / len(labels)


class SyntheticStream:
    """The stream of a Student's training sets: call it with an epoch number, get that epoch's `Split`.

    Set number b serves epochs b * period to (b + 1) * period - 1 and consists of images b * n to
    (b + 1) * n - 1 of the seed's endless sequence, so it can be made again at any time. As many sets as
    fit in `CACHE_BYTES` stay in memory, for the ablation shows the same ones to several Students.

    Parameters
    ----------
    model : the Generator; the sets stay on its device
    counts : images per class and set, int [K]; one more entry is of images that are drawn without a class
    period : epochs between regenerations; None never regenerates
    teacher : filters the images where the knobs have a threshold
    on_set : called with each new set's number and the share of drawn images that passed the filter
    state : where a set that takes long to draw is saved on the way; None saves nothing
    keep : all sets stay in `state` when they are drawn, so that copies of the stream in other processes find them
        there; the first ones do in any case
    """

    def __init__(
        self,
        model: generator.Generator,
        knobs: Knobs,
        counts: np.ndarray,
        *,
        seed: int,
        period: int | None,
        teacher: nn.Module | None = None,
        on_set: Callable[[int, float], None] | None = None,
        state: resume.State | None = None,
        keep: bool = False,
    ):
        if period is not None and period < 1:
            raise ValueError(f"period is {period}; the shortest regeneration period is 1 epoch")
        self.model, self.knobs, self.seed, self.period = model, knobs, seed, period
        self.teacher, self.on_set, self.state, self.keep = teacher, on_set, state, keep
        self.device = next(model.parameters()).device
        self.labels = torch.repeat_interleave(torch.arange(len(counts)), torch.as_tensor(counts))
        self.size = len(self.labels)
        self.sets: dict[int, Split] = {}
        self.accepted: dict[int, float] = {}
        self.draws: dict[int, float] = {}

    def __call__(self, epoch: int) -> Split:
        number = 0 if self.period is None else epoch // self.period
        if number not in self.sets:
            made, rate, draws = self.draw(number)
            while self.sets and (self.keep or (len(self.sets) + 1) * made.images.numel() > CACHE_BYTES):
                self.sets.popitem()  # the newest: the early ones will be asked for again by the next Student
            self.sets[number], self.accepted[number] = made.to(self.device), rate
            self.draws[number] = draws
            if self.on_set:
                self.on_set(number, rate)
        return self.sets[number]

    def sets_in(self, epochs: int) -> int:
        """How many sets so many epochs see."""
        return 1 if self.period is None else -(-epochs // self.period)

    def draw(self, number: int) -> tuple[Split, float, float]:
        """As `synthesise`, in chunks; where one ends and the interval has passed, the set so far is saved."""
        n, state = len(self.labels), self.state and self.state.part(f"set{number}")
        lasting = number < LASTING and n * math.prod(self.model.config["shape"]) <= LASTING_BYTES
        kept = self.state.part(f"kept{number}") if self.state and (self.keep or lasting) else None
        for older in range(1, number) if state and not self.keep else ():  # the first is asked for again
            self.state.part(f"set{older}").clear()

        def usable(at) -> bool:
            """Whether what is saved are images of this set."""
            shape = tuple(self.model.config["shape"])
            fits = all(made.dtype == torch.uint8 and tuple(made.shape[1:]) == shape for made in at.images)
            return fits and sum(map(len, at.images)) <= n and 0 <= at.passed <= at.drawn

        # It may be drawn already, by another process or before this one
        if kept and (found := kept.load(lambda tree: usable(SimpleNamespace(**tree)) and len(tree["images"][0]) == n)):
            return Split(found["images"][0], self.labels), found["passed"] / found["drawn"], found["drawn"] / n

        # Chunk by chunk, from where a killed process was
        at = resume.restore(state, {}, usable, images=[], passed=0, drawn=0)
        chunk = CHUNK * sampling.BLOCK[self.device.type]
        for start in range(sum(map(len, at.images)), n, chunk):
            labels, first = self.labels[start : start + chunk], number * n + start
            made, rate, draws = synthesise(
                self.model, self.knobs, labels, seed=self.seed, first=first, teacher=self.teacher
            )
            at.images.append(made.images)
            at.drawn += round(draws * len(labels))
            at.passed += round(rate * draws * len(labels))
            resume.offer(state, {}, at)
        images = torch.cat(at.images)
        if kept:
            mark = {} if lasting else {resume.PASSING: True}
            kept.save({"images": [images], "passed": at.passed, "drawn": at.drawn} | mark)
            state.clear()
        if self.state:
            self.state.part(f"figures{number}").save({"passed": at.passed, "drawn": at.drawn})
        return Split(images, self.labels), at.passed / at.drawn, at.drawn / n

    def figures(self, number: int) -> tuple[float, float] | None:
        """As `draw`, without the images, of a set that was drawn already; None where there is none."""
        at = self.state.part(f"figures{number}").load() if self.state else None
        return at and (at["passed"] / at["drawn"], at["drawn"] / self.size)

    def __getstate__(self) -> dict:
        """For another process: it finds the sets in `state`, and nobody listens there."""
        return {**vars(self), "sets": {}, "on_set": None}

    def state_dict(self) -> dict:
        """What cannot be drawn again for nothing: the filter's figures of each set. The images follow from the seed.

        As a text: a saved state fits a stream that has drawn more sets since, or fewer.
        """
        return {"figures": json.dumps([[number, rate, self.draws[number]] for number, rate in self.accepted.items()])}

    def load_state_dict(self, saved: dict) -> None:
        for number, rate, draws in json.loads(saved["figures"]):
            self.accepted[number], self.draws[number] = rate, draws

    def fixed(self) -> SyntheticStream:
        """The same first set for every epoch: the ablation's stream without regeneration."""
        same = copy.copy(self)
        same.period, same.sets = None, dict(self.sets)
        return same


def draw_beside(
    workers: beside.Workers,
    epochs: int | Mapping[str, int],
    *,
    on_set: Callable[[str, int, float], None] = lambda name, number, accepted: None,
) -> None:
    """Draw what Students will see in so many epochs, set by set side by side; the streams must `keep` it.

    On a GPU nothing is drawn in advance: a set is there as soon as it is asked for.

    Parameters
    ----------
    workers : they share streams (name -> `SyntheticStream`)
    epochs : of all streams, or of each by its name
    on_set : called with a stream's name, the number of the set, and the share of its images that passed the filter
    """
    streams: dict[str, SyntheticStream] = workers.shared["streams"]
    seen = epochs if isinstance(epochs, Mapping) else dict.fromkeys(streams, epochs)
    jobs = [(name, number) for name, stream in streams.items() for number in range(stream.sets_in(seen[name]))]
    drawn = workers(_draw_one, jobs, ended=lambda job: streams[job[0]].figures(job[1]) is not None)
    for (name, number), (accepted, draws) in zip(jobs, drawn if workers.on_cpu else ()):
        streams[name].accepted[number], streams[name].draws[number] = accepted, draws
        on_set(name, number, accepted)


def _draw_one(shared: dict, job: tuple[str, int], tell: Callable) -> tuple[float, float]:
    name, number = job
    stream = shared["streams"][name]
    return stream.figures(number) or stream.draw(number)[1:]


# ------------------------------------------------------------------ controls: is it recycling, or only distillation?


class Periodic:
    """A training set for each period of epochs: `make(number)`, of which the last one is remembered."""

    def __init__(self, make: Callable[[int], Split], period: int, size: int):
        self.make, self.period, self.size = make, period, size
        self.number, self.split = -1, None

    def __call__(self, epoch: int) -> Split:
        if epoch // self.period != self.number:
            self.number = epoch // self.period
            self.split = self.make(self.number)
        return self.split


def relabelled(stream: SyntheticStream, teacher: nn.Module) -> Periodic:
    """The same images, each with the Teacher's most likely class as its hard label."""
    return Periodic(functools.partial(_relabelled, stream, teacher), stream.period, stream.size)


def _relabelled(stream: SyntheticStream, teacher: nn.Module, number: int) -> Split:
    drawn = stream(number * stream.period)
    return Split(drawn.images, classifier.predict(teacher, drawn.images).argmax(1))


def cycled(split: Split, size: int) -> Periodic:
    """Epochs of `size` images, one after the other through a set that may be smaller or larger."""
    return Periodic(functools.partial(_cycled, split, size), 1, size)


def _cycled(split: Split, size: int, epoch: int) -> Split:
    place = torch.arange(epoch * size, (epoch + 1) * size, device=split.labels.device) % len(split)
    return Split(split.images[place], split.labels[place])


class Volume:
    """A Student's epochs of a stream's beginning only: of `size` images each, one after the other through `count`.

    The images are those of `first_images`, looked up when they are asked for, also in another process.
    """

    def __init__(self, stream: SyntheticStream, count: int, size: int, *, seed: int):
        self.stream, self.count, self.size, self.seed = stream, count, size, seed

    def __call__(self, epoch: int) -> Split:
        return _cycled(self.images, self.size, epoch)

    @functools.cached_property
    def images(self) -> Split:
        return first_images(self.stream, self.count, seed=self.seed)


def first_images(stream: SyntheticStream, count: int, *, seed: int) -> Split:
    """`count` images from the beginning of a stream, in random order.

    They are whole sets, and of the last one every so-many-th image, for the images of a set stand class by class.
    """
    parts: list[Split] = []
    while (missing := count - sum(map(len, parts))) > 0:
        part = stream(len(parts) * (stream.period or 1))
        place = torch.arange(min(missing, len(part)), device=part.labels.device)
        spread = place * len(part) // len(place)
        parts.append(Split(part.images[spread], part.labels[spread]))
    images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    return Split(images[order], labels[order])


def textures(images: Tensor, n: int, *, seed: int, first: int = 0) -> Tensor:
    """Images of no Generator: Gaussian random fields with the mean, spread and spectrum of real ones.

    Every frequency has the real images' mean power, across channels their mean cross-power; all else is chance.

    Parameters
    ----------
    images : uint8 [N, C, H, W]
    n : how many; image i depends on (images, seed, first + i) only

    Returns
    -------
    uint8 [n, C, H, W]
    """
    # Mean power of each frequency, channel by channel: [H, W, C, C]
    real = images.cpu().numpy().astype(np.float64)
    mean = real.mean((0, 2, 3))[:, None, None]
    waves = np.fft.fft2(real - mean)
    power = np.einsum("nchw,ndhw->hwcd", waves, waves.conj()) / len(real)
    root = np.linalg.cholesky(power + 1e-6 * np.eye(len(mean)))

    # White noise with that power
    shape = real.shape[1:]
    noise = np.stack([rng.standard_normal(shape) for rng in sampling.noise_rngs(seed, range(first, first + n))])
    drawn = np.einsum("hwcd,ndhw->nchw", root, np.fft.fft2(noise)) / (shape[1] * shape[2]) ** 0.5
    return torch.from_numpy((np.fft.ifft2(drawn).real + mean).round().clip(0, 255).astype(np.uint8))


def texture_stream(images: Tensor, size: int, *, seed: int, period: int) -> Periodic:
    """New textures every `period` epochs; their label, 0, means nothing: they are for soft labels only."""
    return Periodic(functools.partial(_texture_set, images, size, seed), period, size)


def _texture_set(images: Tensor, size: int, seed: int, number: int) -> Split:
    drawn = textures(images, size, seed=seed, first=number * size).to(images.device)
    return Split(drawn, torch.zeros(size, dtype=torch.int64, device=images.device))
