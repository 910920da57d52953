"""A shadow: one whole pipeline on a random half of a pool, and what an attacker would want to know of it.

The pool, who is in which half, the fixed views under which records are shown to a classifier, the noises under which
they are shown to a Generator. Which networks a shadow has, notebook 07 says; attacks.py and shadow_attacks.py make
scores of what is stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kr_utils import InputError, audit, classifier, generator, sampling, seeds
from kr_utils.data import SPLITS, Dataset, Info, Split
from kr_utils.dataset_file import digests_of

SIGMAS = (0.1, 0.2, 0.5, 1.0)  # noise levels of the attack on a Generator's weights, in pixels of [-1, 1]
OTHERS = 0.2  # share of all images, at least, that no pipeline sees


@dataclass(frozen=True)
class Pool:
    """The records of an audit, and who is in which half.

    records : images uint8 [n, C, H, W] and the labels [n] that pipelines are given: those of canaries are wrong
    others : images that no pipeline sees
    inside : bool [N, n], whether pipeline i sees record j; each record is in exactly N/2
    canary : bool [n]
    whose : int64 [n], a number per patient, whose images are in or out together; per record where the set names no
        patients, and for each canary
    """

    records: Split
    others: Split
    inside: np.ndarray
    canary: np.ndarray
    whose: np.ndarray

    def members(self, number: int) -> Split:
        """All that pipeline `number` sees of real images."""
        seen = torch.from_numpy(np.flatnonzero(self.inside[number]))
        return Split(self.records.images[seen], self.records.labels[seen])

    def every(self) -> Split:
        """The records, then the others: whose scores are stored."""
        parts = (self.records, self.others)
        return Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def pool(ds: Dataset, pipelines: int, *, canaries: float, seed: int) -> Pool:
    """A pool at random from all three splits, cut into halves.

    A half has as many images as the target's training set, where there are enough: fewer leak more, more leak less. At
    least one image in five is left out of every half. Members and non-members come from the same draw, so that no
    difference between the splits can look like membership. Of images with the same pixels the first one counts.
    Patients, where the set names them, are drawn whole: else a non-member's other images might be among the members.

    Parameters
    ----------
    pipelines : N, even
    canaries : share of the pool whose labels are wrong, each in or out by a fair coin; 0: none
    seed : the same seed, the same pool and halves

    Raises
    ------
    InputError
        Too few images or patients.
    """
    # All different images, in random order, a patient's together
    images = torch.cat([getattr(ds, split).images for split in SPLITS])
    labels = torch.cat([getattr(ds, split).labels for split in SPLITS])
    first: dict[bytes, int] = {}
    for k, digest in enumerate(digests_of(images.numpy())):
        first.setdefault(digest, k)
    order = np.random.default_rng(seeds.derive(seed, "pool")).permutation(np.array(list(first.values())))
    patient = np.concatenate([ds.groups[split] for split in SPLITS])[order] if ds.groups else np.arange(len(order))
    _, place, patient = np.unique(patient, return_index=True, return_inverse=True)
    together = np.argsort(place[patient], kind="stable")
    order, patient = order[together], patient[together]

    # The pool ends with a patient's last image; then the others
    n = min(2 * len(ds.train), int((1 - OTHERS) * len(order))) // 2 * 2
    while 0 < n < len(order) and patient[n - 1] == patient[n]:
        n -= 1
    if len(np.unique(patient[:n])) < 2:
        raise InputError(f"{ds.name}: an audit takes several patients on each side; too many images are one patient's")
    m = min(len(order) - n, len(ds.train))
    chosen, rest = (torch.from_numpy(part) for part in (order[:n], order[n : n + m]))
    given, canary = labels[chosen].clone(), np.zeros(n, dtype=bool)

    # Wrong labels, then halves
    coins, whose = None, patient[:n].astype(np.int64)
    if canaries:
        coins, wrong = audit.canaries(given.numpy(), ds.info.classes, seeds.derive(seed, "canaries"), share=canaries)
        canary[coins], given[torch.from_numpy(coins)] = True, torch.from_numpy(np.asarray(wrong, dtype=np.int64))
        whose[coins] = len(place) + np.arange(len(coins))  # a coin of its own, whatever the patient's side
    strata = labels[chosen].numpy()
    inside = audit.halves(n, pipelines, seeds.derive(seed, "halves"), strata=strata, groups=whose, coins=coins)
    return Pool(Split(images[chosen], given), Split(images[rest], labels[rest]), inside, canary, whose)


# ------------------------------------------------------------------ how a record is shown


def views(info: Info, shift: int, queries: int) -> list[tuple[bool, bool, int, int]]:
    """Fixed changes that keep the label: (left-right, top-bottom, rows down, columns right), the image itself first.

    Mirror images come first, then shifts from the smallest on, as training draws them.

    Parameters
    ----------
    shift : largest, in pixels; queries : how many, fewer where there are no more
    """
    flips = [*itertools.product((False, True)[: 1 + info.vflip], (False, True)[: 1 + info.hflip])]
    steps = sorted(itertools.product(range(-shift, shift + 1), repeat=2), key=lambda s: (abs(s[0]) + abs(s[1]), s))
    return [(left, up, *step) for step in steps for up, left in flips][:queries]


def seen(images: Tensor, view: tuple[bool, bool, int, int]) -> Tensor:
    """Uint8 images [N, C, H, W] under a view of `views`; what comes in at a border is 0, as in training."""
    left, up, down, right = view
    axes = [axis for axis, wanted in ((3, left), (2, up)) if wanted]
    height, width = images.shape[2:]
    reach = max(abs(down), abs(right))
    padded = F.pad(images.flip(axes), [reach] * 4)
    return padded[:, :, reach - down : reach - down + height, reach - right : reach - right + width]


def logits(model: nn.Module, images: Tensor, shown: Sequence[tuple[bool, bool, int, int]]) -> np.ndarray:
    """What a classifier says of images under each view, in eval mode: float32 [N, Q, K]."""
    return np.stack([classifier.predict(model, seen(images, view)).cpu().numpy() for view in shown], axis=1)


@torch.inference_mode()
def denoising(model: generator.Generator, split: Split, *, noises: int, seed: int, batch: int = 256) -> np.ndarray:
    """How far a Generator's denoised image is from the real one: mean squared error over pixels and noises.

    The same noises for every record and every pipeline, so that they differ in what the Generator remembers.

    Parameters
    ----------
    split : images uint8 [N, C, H, W] and the labels that the Generator was given; noises : per noise level

    Returns
    -------
    float32 [N, levels], a column per level of `SIGMAS`
    """
    device = next(model.parameters()).device
    found = []
    for images, labels in zip(split.images.split(batch), split.labels.split(batch)):
        clean, given = model.encode(images.to(device)), labels.to(device)
        errors = torch.zeros(len(clean), len(SIGMAS), device=device)
        for rng, (place, level) in itertools.product(sampling.noise_rngs(seed, range(noises)), enumerate(SIGMAS)):
            noise = torch.from_numpy(rng.standard_normal(clean.shape[1:], dtype=np.float32)).to(device)
            sigma = torch.full((len(clean),), level, device=device)
            noisy = clean + level * noise
            back = model.denoised(noisy, sigma, model(noisy, sigma, given))
            errors[:, place] += (back - clean).square().mean((1, 2, 3)) / noises
        found.append(errors.cpu().numpy())
    return np.concatenate(found)
