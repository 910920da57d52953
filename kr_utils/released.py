"""The synthetic images of a bundle: from which random numbers each came, in which split it is, and what it doubles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kr_utils import generator, recycling, sampling
from kr_utils.data import SPLITS, Split
from kr_utils.dataset_file import digests_of

HELD_BACK = 10  # one image in so many goes to validation, and one to test


@dataclass(frozen=True)
class Images:
    """What is handed out, image by image, sorted by class.

    images : uint8 [N, C, H, W]; labels : int64 [N], the class that was asked for
    soft : float32 [N, K], the Teachers' mean probabilities for the image as it is
    seed, index : image i is drawn again from (the Generator, the knobs, labels[i], seed, index[i])
    """

    images: np.ndarray
    labels: np.ndarray
    soft: np.ndarray
    seed: int
    index: np.ndarray

    @property
    def split(self) -> np.ndarray:
        """0, 1 or 2 for train, val or test, int [N]; see `splits`."""
        return splits(self.labels)


def drawn_from(model: generator.Generator, knobs: recycling.Knobs, made: Split, seed: int) -> np.ndarray:
    """The index of the random numbers that each image of a stream's first set came from, int64 [N].

    Image i came from index i, or under a filter from that of a later attempt. Each is drawn again and compared to the
    last bit, so that what this returns has been shown, not remembered.

    Raises
    ------
    RuntimeError
        An image is none of its attempts: it cannot be drawn again.
    """
    found = np.full(len(made), -1, dtype=np.int64)
    for attempt in range(recycling.MAX_ROUNDS):
        missing = np.flatnonzero(found < 0)
        if len(missing) == 0:
            return found
        index = missing + attempt * recycling.ATTEMPT
        again = sampling.sample(model, made.labels[missing], seed=seed, indices=index, **knobs.sampler())
        same = (again == made.images[missing].cpu()).flatten(1).all(1).numpy()
        found[missing[same]] = index[same]
    if (found < 0).any():
        raise RuntimeError(f"image {int(np.argmin(found))} could not be drawn again from its seed")
    return found


def splits(labels: np.ndarray) -> np.ndarray:
    """0, 1 or 2 for train, val or test, int [N]: of each class the last tenth is test, the tenth before it validation.

    Only for readers that want three splits: all of them are synthetic.

    labels : [N], at least three of each class
    """
    split = np.zeros(len(labels), dtype=np.int64)
    for k in np.unique(labels):
        own = np.flatnonzero(labels == k)
        few = max(1, len(own) // HELD_BACK)
        split[own[-2 * few :]], split[own[-few:]] = SPLITS.index("val"), SPLITS.index("test")
    return split


def doubles(released: np.ndarray, real: dict[str, np.ndarray]) -> dict[str, int]:
    """How many released images have exactly the pixels of another one.

    Parameters
    ----------
    released : uint8 [N, C, H, W]; real : split -> its images, mirrored ones included

    Returns
    -------
    "each other" (beyond the first of its kind), and each split -> images
    """
    own = digests_of(released)
    found = {"each other": len(own) - len(set(own))}
    for split, images in real.items():
        known = set(digests_of(images))
        found[split] = sum(digest in known for digest in own)
    return found
