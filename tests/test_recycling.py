"""The Student's stream: sizes, regeneration, filter, and that it can be made again."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kr_utils import classifier, data, recycling, resume, sampling


@given(
    n=st.integers(1, 500),
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=50),
    balance=st.sampled_from(["uniform", "prior"]),
)
def test_class_counts_sum_to_n_and_are_the_nearest_whole_numbers(n, labels, balance):
    counts = recycling.class_counts(n, torch.tensor(labels), 5, balance)
    share = np.full(5, n / 5) if balance == "uniform" else n * np.bincount(labels, minlength=5) / len(labels)
    assert counts.sum() == n
    assert (np.abs(counts - share) < 1).all()


def test_unknown_balance():
    with pytest.raises(ValueError, match="uniform"):
        recycling.class_counts(5, torch.tensor([0]), 1, "even")


def stream(model, period, knobs=None, seed=0, **more):
    knobs = knobs or recycling.Knobs(steps=2)
    return recycling.SyntheticStream(model, knobs, np.full(10, 3), seed=seed, period=period, **more)


def test_a_set_lasts_a_period_and_then_all_images_are_new(tiny_generator):
    made = []
    source = stream(tiny_generator, 3, on_set=lambda number, rate: made.append((number, rate)))
    sets = [source(epoch) for epoch in range(7)]
    assert made == [(0, 1.0), (1, 1.0), (2, 1.0)]
    assert sets[0] is sets[2]
    assert (sets[0].images != sets[3].images).flatten(1).any(1).all()
    assert np.bincount(sets[0].labels).tolist() == [3] * 10


def test_without_regeneration_one_set_serves_all_epochs(tiny_generator):
    assert stream(tiny_generator, None)(0) is not None
    source = stream(tiny_generator, None)
    assert source(0) is source(99)
    other = stream(tiny_generator, 1)
    first = other(0)
    assert other.fixed()(7) is first


def test_any_set_can_be_made_again_out_of_order(tiny_generator):
    forward = stream(tiny_generator, 1)
    wanted = [forward(epoch).images for epoch in range(4)]
    for epoch in (3, 1):
        assert torch.equal(stream(tiny_generator, 1)(epoch).images, wanted[epoch])
    assert not torch.equal(stream(tiny_generator, 1, seed=1)(3).images, wanted[3])


def test_a_small_memory_changes_nothing_but_work(tiny_generator, monkeypatch):
    roomy = stream(tiny_generator, 1)
    expected = [roomy(epoch).images for epoch in (0, 1, 0)]
    monkeypatch.setattr(recycling, "CACHE_BYTES", 1)
    tight = stream(tiny_generator, 1)
    for epoch, images in zip((0, 1, 0), expected):
        assert torch.equal(tight(epoch).images, images)
    assert len(tight.sets) == 1
    monkeypatch.setattr(recycling, "CACHE_BYTES", 2 * 30 * 64)
    drawn = []
    half = stream(tiny_generator, 1, on_set=lambda number, rate: drawn.append(number))
    for epoch in (0, 1, 2, 3, 0, 1, 2, 3):
        half(epoch)
    assert drawn.count(0) == 1, "a second pass finds the early sets"


def test_the_shortest_period_is_one_epoch(tiny_generator):
    with pytest.raises(ValueError, match="period is 0"):
        stream(tiny_generator, 0)


class Sampler:
    """Counts draws; image k has brightness 10 * draw number, so attempts can be told apart."""

    def __init__(self):
        self.calls = []

    def __call__(self, model, labels, *, seed, indices, **knobs):
        self.calls.append(list(indices))
        return torch.full((len(labels), 1, 8, 8), 10 * len(self.calls), dtype=torch.uint8)


def confident(values):
    """A Teacher that gives class 0 the probability `values[brightness]`."""

    def predict(model, images):
        p = torch.tensor([values[int(image[0, 0, 0])] for image in images])
        return torch.stack([p, 1 - p], 1).log()

    return predict


def test_a_threshold_nobody_passes_ends_and_keeps_the_best_attempt(monkeypatch, teacher):
    sampler = Sampler()
    monkeypatch.setattr(sampling, "sample", sampler)
    monkeypatch.setattr(classifier, "predict", confident({10: 0.2, 20: 0.5, 30: 0.4, 40: 0.1}))
    knobs = recycling.Knobs(threshold=0.9)
    made, accepted, draws = recycling.synthesise(
        None, knobs, torch.zeros(3, dtype=torch.int64), seed=0, teacher=teacher
    )
    assert len(sampler.calls) == recycling.MAX_ROUNDS
    assert (made.images == 20).all()
    assert accepted == 0
    assert draws == recycling.MAX_ROUNDS, "the true cost, however few pass"
    assert len({index for call in sampler.calls for index in call}) == 12, "every attempt has its own random numbers"


def test_only_rejected_images_are_drawn_again(monkeypatch, teacher):
    sampler = Sampler()
    monkeypatch.setattr(sampling, "sample", sampler)
    monkeypatch.setattr(classifier, "predict", confident({10: 0.2, 20: 0.95}))
    labels = torch.tensor([0, 1, 0])  # class 1 has probability 0.8 at once
    made, accepted, draws = recycling.synthesise(None, recycling.Knobs(threshold=0.7), labels, seed=0, teacher=teacher)
    assert [len(call) for call in sampler.calls] == [3, 2]
    assert made.images[:, 0, 0, 0].tolist() == [20, 10, 20]
    assert made.labels.tolist() == [0, 1, 0]
    assert accepted == pytest.approx(3 / 5)
    assert draws == pytest.approx(5 / 3)


def test_a_filter_needs_a_teacher(tiny_generator):
    with pytest.raises(ValueError, match="Teacher"):
        recycling.synthesise(tiny_generator, recycling.Knobs(steps=1, threshold=0.5), torch.arange(3), seed=0)


def test_a_filtered_set_is_more_to_the_teachers_taste(tiny_generator, teacher):
    def belief(threshold):
        knobs = recycling.Knobs(steps=2, threshold=threshold)
        made, _, _ = recycling.synthesise(tiny_generator, knobs, torch.arange(60) % 10, seed=0, teacher=teacher)
        return classifier.predict(teacher, made.images).softmax(1).gather(1, made.labels[:, None]).mean()

    assert belief(0.6) > belief(0.0)


def test_textures_have_mean_spread_and_spectrum_of_the_images_and_nothing_else(digits):
    real = digits.train.images
    drawn = recycling.textures(real, 400, seed=0)
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (400, 1, 8, 8)

    # Clipping to bytes moves both a little
    assert drawn.float().mean().item() == pytest.approx(real.float().mean().item(), abs=12)
    one, other = (np.fft.fft2(x.numpy().astype(float) - x.float().mean().item()) for x in (real, drawn))
    power = [np.log((np.abs(waves) ** 2).mean((0, 1)) + 1) for waves in (one, other)]
    assert np.corrcoef(power[0].ravel(), power[1].ravel())[0, 1] > 0.95
    phases = np.exp(1j * np.angle(other)).mean((0, 1))
    assert np.abs(phases[1:, 1:]).max() < 0.25, "the place of a stroke is chance"


def test_textures_of_colour_images_keep_how_channels_go_together():
    rng = np.random.default_rng(0)
    grey = rng.normal(128, 20, (300, 1, 6, 6))
    real = torch.from_numpy(
        np.concatenate([grey, 256 - grey, rng.normal(128, 20, grey.shape)], 1).clip(0, 255).astype("u1")
    )
    drawn = recycling.textures(real, 500, seed=1).double()
    together = np.corrcoef(drawn.movedim(1, 0).flatten(1))
    assert together[0, 1] < -0.97
    assert abs(together[0, 2]) < 0.05


def test_a_texture_depends_on_its_own_number_only(digits):
    whole = recycling.textures(digits.train.images[:100], 8, seed=3)
    assert torch.equal(whole[5:], recycling.textures(digits.train.images[:100], 3, seed=3, first=5))
    epochs = recycling.texture_stream(digits.train.images[:100], 4, seed=3, period=2)
    assert torch.equal(epochs(1).images, whole[:4])
    assert torch.equal(epochs(2).images, whole[4:])


def test_relabelled_images_have_the_teachers_most_likely_class(tiny_generator, teacher):
    source = stream(tiny_generator, 2)
    again = recycling.relabelled(source, teacher)
    assert torch.equal(again(0).images, source(0).images)
    assert torch.equal(again(0).labels, classifier.predict(teacher, source(0).images).argmax(1))
    assert not torch.equal(again(2).images, again(1).images)


def test_cycled_epochs_go_through_all_images(digits):
    few = type(digits.train)(digits.train.images[:10], torch.arange(10))
    epochs = recycling.cycled(few, 7)
    assert torch.cat([epochs(e).labels for e in range(3)]).tolist() == [k % 10 for k in range(21)]
    assert torch.equal(epochs(1).images[0], few.images[7])


def test_images_can_be_drawn_without_a_class(tiny_generator):
    unasked = recycling.SyntheticStream(tiny_generator, recycling.Knobs(steps=2), [0] * 10 + [5], seed=0, period=1)
    none = torch.full((5,), tiny_generator.classes)
    assert torch.equal(unasked(0).images, sampling.sample(tiny_generator, none, seed=0, steps=2))


# ------------------------------------------------------------------ the beginning of a stream


class InOrder:
    """A stream of sets of six images of class 0, then two of class 1; the images tell their set's number."""

    def __init__(self, period):
        self.period, self.asked = period, []

    def __call__(self, epoch):
        self.asked.append(epoch)
        number = epoch // self.period if self.period else 0
        return data.Split(torch.full((8, 1, 2, 2), number, dtype=torch.uint8), torch.tensor([0] * 6 + [1] * 2))


@pytest.mark.parametrize(("count", "of_set", "of_class"), [(4, [4], [3, 1]), (8, [8], [6, 2]), (12, [8, 4], [9, 3])])
@pytest.mark.parametrize("period", [1, 3])
def test_the_first_images_have_the_classes_of_a_whole_set(count, of_set, of_class, period):
    found = recycling.first_images(InOrder(period), count, seed=1)
    assert torch.bincount(found.images[:, 0, 0, 0]).tolist() == of_set
    assert torch.bincount(found.labels).tolist() == of_class
    again = recycling.first_images(InOrder(period), count, seed=2)
    assert sorted(again.labels.tolist()) == sorted(found.labels.tolist())


def test_the_first_images_come_in_random_order():
    labels = recycling.first_images(InOrder(2), 64, seed=1).labels.tolist()
    assert labels != sorted(labels)
    assert labels[:8] != [0] * 6 + [1] * 2


def test_a_volume_goes_round_its_images_and_looks_them_up_in_each_process():
    volume = recycling.Volume(InOrder(2), 12, 8, seed=1)
    assert not volume.stream.asked, "nothing is drawn before it is asked for"
    elsewhere = pickle.loads(pickle.dumps(volume))
    whole = recycling.first_images(InOrder(2), 12, seed=1)
    for one in (volume, elsewhere):
        seen = torch.cat([one(epoch).images for epoch in range(3)])
        assert torch.equal(seen, torch.cat([whole.images, whole.images]))
        assert one.stream.asked == [0, 2], "each set once"


def test_a_training_goes_on_whatever_its_stream_has_drawn_beyond(tiny_generator, digits, tmp_path, capsys):
    """Another process trained it, and knew of fewer sets or of more."""
    recipe = classifier.Recipe(width=8, depth=8, batch=16, lr=0.1, weight_decay=5e-4)
    how, epochs = classifier.Training(recipe, 2, classifier.Augmentation()), []

    def trained(state, drawn):
        source = stream(tiny_generator, 1)
        for epoch in drawn:
            source(epoch)
        model = classifier.build(10, 1, 8, 8, 0)
        classifier.fit(model, source, None, how, seed=0, state=state, on_epoch=epochs.append)
        return source.accepted

    first = trained(resume.State(tmp_path), ())
    assert len(epochs) == 2
    for drawn in ((), (0,), (0, 1, 2, 3)):
        again = trained(resume.State(tmp_path), drawn)
        assert first.items() <= again.items()
    assert len(epochs) == 2, "it was trained once"
    assert "not used" not in capsys.readouterr().out
