"""Classifiers trained side by side: the same networks as one by one, up to rounding."""

import copy
import dataclasses

import pytest
import torch

from kr_utils import classifier, data, stacked

LABELS = {
    "hard": None,
    "soft": {},
    "softer": {"temperature": 4.0},
    "mixed": {"temperature": 2.0, "hard_weight": 0.5},
}


@pytest.mark.parametrize("labels", LABELS)
def test_side_by_side_is_one_by_one(digits, teacher, labels):
    """Different images, seeds and initial weights for each; in float64, so that only mistakes make a difference."""
    parts = [data.Split(digits.train.images[i::3][:200], digits.train.labels[i::3][:200]) for i in range(3)]
    recipe = classifier.Recipe(width=8, depth=8, batch=64, lr=0.05, weight_decay=5e-4)
    training = classifier.Training(recipe, 3, classifier.Augmentation(1, erase=0.25))
    if LABELS[labels] is not None:
        training = dataclasses.replace(training, teacher=copy.deepcopy(teacher).double(), **LABELS[labels])
    networks = [classifier.build(10, 1, 8, 8, seed).double() for seed in (5, 6, 7)]
    stack = [copy.deepcopy(network) for network in networks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "normalise", lambda images: images.double() / 127.5 - 1)
        for k, network in enumerate(networks):
            classifier.fit(network, lambda epoch, k=k: parts[k], None, training, seed=k)
        streams = [lambda epoch, k=k: parts[k] for k in range(3)]
        stacked.fit(stack, streams, training, seeds=range(3))
    for one, other in zip(networks, stack):
        for (name, a), b in zip(one.state_dict().items(), other.state_dict().values()):
            assert torch.allclose(a.double(), b.double(), atol=1e-5), name
    assert not torch.allclose(stack[0].head.weight, stack[1].head.weight, atol=1e-2)
