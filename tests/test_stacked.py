"""Classifiers trained side by side: the same networks as one by one, up to rounding."""

import copy

import pytest
import torch

from kr_utils import classifier, data, stacked


@pytest.mark.parametrize("soft", [False, True], ids=["hard labels", "soft labels"])
def test_side_by_side_is_one_by_one(digits, teacher, soft):
    """Different images, seeds and initial weights for each; in float64, so that only mistakes make a difference."""
    parts = [data.Split(digits.train.images[i::3][:200], digits.train.labels[i::3][:200]) for i in range(3)]
    judge = copy.deepcopy(teacher).double() if soft else None
    options = {"epochs": 3, "batch": 64, "lr": 0.05, "weight_decay": 5e-4, "teacher": judge}
    options |= {"augment": classifier.Augmentation(1, erase=0.25)}
    networks = [classifier.build(10, 1, 8, 8, seed).double() for seed in (5, 6, 7)]
    together = [copy.deepcopy(network) for network in networks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "normalise", lambda images: images.double() / 127.5 - 1)
        for k, network in enumerate(networks):
            classifier.fit(network, lambda epoch, k=k: parts[k], None, seed=k, **options)
        streams = [lambda epoch, k=k: parts[k] for k in range(3)]
        stacked.fit(together, streams, seeds=range(3), **options)
    for one, other in zip(networks, together):
        for (name, a), b in zip(one.state_dict().items(), other.state_dict().values()):
            assert torch.allclose(a.double(), b.double(), atol=1e-5), name
    assert not torch.allclose(together[0].head.weight, together[1].head.weight, atol=1e-2)
