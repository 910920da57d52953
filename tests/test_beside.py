"""Jobs and trainings in worker processes: the same results in the same order, whatever happens to a process."""

import time

import numpy as np
import psutil
import pytest
import torch
from conftest import RECIPE

from kr_utils import beside, classifier, recycling, resume


@pytest.fixture
def threads():
    """Sets how many threads torch has, and so how many processes there are; as before at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def add(shared, job, tell):
    """A job: it prints, tells something, and waits the longer the earlier it comes."""
    number, wait = job
    print(f"job {number}", flush=True)
    time.sleep(wait)
    tell(10 * number)
    shared["list"].append(number)
    return shared["tensor"] + number, torch.get_num_threads()


def fail(shared, job, tell):
    if job == 1:
        raise ValueError("number 1 fails")
    return job


def sleep(shared, job, tell):
    tell("asleep")
    time.sleep(600)


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_jobs_order_after_what_was_told(count, threads, capsys):
    threads(count)
    shared, told = {"tensor": torch.arange(3), "list": []}, []
    jobs = [(k, 0.3 * (k == 0)) for k in range(4)]
    with beside.Workers(shared) as team:
        for (number, _), (tensor, used) in zip(jobs, team(add, jobs, lambda job, what: told.append((job[0], what)))):
            assert torch.equal(tensor, torch.arange(3) + number)
            assert used == 1, "one thread each, here or there"
            assert (number, 10 * number) in told
    assert sorted(told) == [(k, 10 * k) for k in range(4)]
    assert sorted(capsys.readouterr().out.split("\n")) == ["", *(f"job {k}" for k in range(4))]
    assert torch.get_num_threads() == count
    assert shared["list"] == ([0, 1, 2, 3] if count == 1 else []), "a process has a copy of its own"


@pytest.mark.parametrize("count", [1, 2])
def test_a_job_that_fails_says_why(count, threads):
    threads(count)
    with beside.Workers(None) as team:
        results = team(fail, [0, 1, 2])
        assert next(results) == 0
        with pytest.raises(ValueError, match="number 1 fails"):
            next(results)


def test_an_interrupt_waits_for_no_job(threads):
    """As Ctrl-C in a notebook: what is thrown where results are awaited ends the processes."""
    threads(2)

    def interrupt(job, what):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), beside.Workers(None) as team:
        list(team(sleep, [0, 1], interrupt))
    assert time.monotonic() - started < 60
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def fits(digits, teacher):
    """Two trainings of a kind: real images, and another order of them with the Teacher's labels."""
    few = type(digits.train)(digits.train.images[:200], digits.train.labels[:200])
    real = classifier.Training(RECIPE, 2, classifier.Augmentation(1))
    soft = classifier.Training(RECIPE, 2, classifier.Augmentation(1), teacher)
    sizes = (10, 1, 8, 8)
    return {"real": beside.Fit(sizes, 3, few, real), "soft": beside.Fit(sizes, 4, recycling.cycled(few, 130), soft)}


@pytest.mark.parametrize("count", [1, 2])
def test_classifiers_trained_beside_one_another_are_those_of_single_trainings(
    count, digits, teacher, threads, tmp_path
):
    threads(1)
    single = {}
    for name, fit in fits(digits, teacher).items():
        images = fit.images if callable(fit.images) else lambda epoch, same=fit.images: same
        model = classifier.build(*fit.sizes, fit.seed)
        single[name] = (model, classifier.fit(model, images, digits.val, fit.training, seed=fit.seed))

    threads(count)
    rows, state = [], resume.State(tmp_path, every=0)
    for _ in range(2):  # the second time all are read back
        with beside.Workers({"fits": fits(digits, teacher), "val": digits.val}) as team:
            trained = beside.train(team, state=state, on_epoch=lambda name, row: rows.append((name, row["epoch"])))
        assert list(trained) == ["real", "soft"]
        for name, (model, history) in trained.items():
            assert history == single[name][1]
            pairs = zip(model.state_dict().values(), single[name][0].state_dict().values())
            assert all(torch.equal(a, b) for a, b in pairs)
    assert sorted(rows) == [("real", 1), ("real", 2), ("soft", 1), ("soft", 2)]


@pytest.mark.parametrize("count", [1, 2])
def test_sets_drawn_beside_one_another_wait_in_files(count, tiny_generator, threads, tmp_path, monkeypatch):
    threads(1)
    knobs, counts = recycling.Knobs(steps=2), np.full(10, 7)
    alone = recycling.SyntheticStream(tiny_generator, knobs, counts, seed=5, period=2)
    threads(count)
    kept = {"state": resume.State(tmp_path), "keep": True}
    stream = recycling.SyntheticStream(tiny_generator, knobs, counts, seed=5, period=2, **kept)
    seen = []
    with beside.Workers({"streams": {"gkd": stream}}) as team:
        recycling.draw_beside(team, 5, on_set=lambda *row: seen.append(row))
    assert seen == [("gkd", 0, 1.0), ("gkd", 1, 1.0), ("gkd", 2, 1.0)]
    assert stream.accepted == {0: 1.0, 1: 1.0, 2: 1.0}

    # Nobody draws any more, and one set at a time is in memory
    threads(1)
    expected = [alone(epoch) for epoch in (0, 4, 2)]
    monkeypatch.setattr(recycling.sampling, "sample", None)
    for epoch, wanted in zip((0, 4, 2), expected):
        assert torch.equal(stream(epoch).images, wanted.images)
        assert torch.equal(stream(epoch).labels, wanted.labels)
    assert len(stream.sets) == 1
    assert torch.equal(stream.fixed()(4).images, expected[0].images)
