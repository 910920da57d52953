"""Selection: the rules by hand, and that nothing which selects can see a test split."""

import ast
import dataclasses
import errno
import inspect
import json
import multiprocessing.synchronize
import tempfile

import numpy as np
import pytest
import torch
from conftest import RECIPE

from kr_utils import classifier, generator, recycling, sampling, selection, stages


def row(cas, cost=10, loss=1.0, correct=None, **knobs):
    correct = np.array(correct if correct is not None else [1.0] * round(100 * cas) + [0.0] * round(100 - 100 * cas))
    base = dataclasses.asdict(recycling.Knobs()) | knobs
    losses = np.array(loss) if np.ndim(loss) else np.full(len(correct), float(loss))
    return base | {"cas": cas, "val_loss": losses.mean(), "cost": cost, "correct": correct, "loss": losses}


def test_best_has_the_lowest_loss_of_those_that_accuracy_cannot_tell_apart():
    top = row(0.52, loss=2.0, correct=[1, 0] * 48 + [1, 1, 1, 1])
    near = row(0.50, loss=1.0, correct=[0, 1] * 48 + [1, 0, 1, 0])  # two points below, standard error 10
    far = row(0.20, loss=0.1)
    assert selection.best([top, near, far]) is near
    assert selection.best([top, far]) is top


def test_gap_and_its_standard_error_by_hand():
    top, other = row(0.75, correct=[1, 1, 1, 0]), row(0.25, correct=[1, 0, 0, 0])
    gap, error = selection.gap_to(top, other)
    assert gap == 0.5
    assert error == pytest.approx(np.std([0, 1, 1, 0], ddof=1) / 2)


def test_the_cheapest_that_is_as_good():
    near = row(0.49, cost=4, correct=[1, 0] * 49 + [0, 1])
    far = row(0.20, cost=1)
    top = row(0.51, cost=20, correct=[1, 0] * 49 + [1, 1])
    assert selection.cheapest([top, near, far]) is near
    assert selection.cheapest([top, far]) is top
    assert selection.cheapest([far]) is far


@pytest.mark.parametrize(("excess", "chosen"), [(0.01, 4), (0.03, 20)])
def test_the_cheapest_may_not_have_a_higher_loss_than_noise_explains(excess, chosen):
    losses = 1.0 + excess + 0.2 * np.array([1, -1] * 50)  # standard error 0.02
    rows = [row(0.5, cost=20, loss=1.0), row(0.5, cost=4, loss=losses)]
    assert selection.cheapest(rows)["cost"] == chosen


def test_tune_scores_each_setting_once_and_searches_around_the_best():
    seen = []

    def evaluate(several):
        seen.extend(several)
        return [one(knobs) for knobs in several]

    def one(knobs):
        quality = 0.5 + 0.1 * (knobs.guidance == 2) + 0.1 * (knobs.steps == 9) + 0.1 * (knobs.churn == 3)
        quality += 0.1 * (knobs.threshold == 0.5) + 0.05 * (knobs.hard_weight == 0.5)
        return row(quality, cost=knobs.steps * (1 + (knobs.guidance != 1)), **knobs.__dict__)

    rounds = [{"guidance": (1, 2), "steps": (3, 9)}, {"churn": (0, 3)}, {"threshold": (0.5, 0.9)}]
    start = recycling.Knobs(temperature=4.0)
    many, rows = selection.tune(evaluate, rounds, start)
    assert many == recycling.Knobs(2, 9, 3, 0.5, temperature=4.0)
    assert len(seen) == len(set(seen)) == len(rows) == 4 + 1 + 2, "churn 0 was already scored"
    assert all(k.guidance == 2 and k.steps == 9 for k in seen[4:])

    # A search goes on from the rows of an earlier one
    chosen, more = selection.tune(evaluate, [{"temperature": (1.0, 4.0), "hard_weight": (0.0, 0.5)}], start, rows)
    assert chosen == dataclasses.replace(many, temperature=chosen.temperature, hard_weight=0.5)
    assert more[:7] == rows
    assert len(more) == len(seen) == 7 + 3, "the setting that it begins with was already scored"


def shared(teacher, epochs=5):
    training = classifier.Training(RECIPE, epochs, classifier.Augmentation(1), teacher)
    return {"training": training, "counts": np.full(10, 60), "period": 2, "seed": 0}


def test_score_prefers_a_generator_that_shows_the_classes(digits, teacher, tiny_generator, monkeypatch):
    """Real images, drawn by class, against noise: validation CAS must tell them apart, and count the cost."""
    pools = [digits.train.images[digits.train.labels == k] for k in range(10)]
    rng = np.random.default_rng(0)

    def real(model, labels, **knobs):
        return digits.train.images.new_tensor(np.stack([pools[k][rng.integers(len(pools[k]))] for k in labels]))

    def noise(model, labels, **knobs):
        return digits.train.images.new_tensor(rng.integers(0, 256, (len(labels), 1, 8, 8)))

    rows = {}
    for name, sampler in (("real", real), ("noise", noise)):
        monkeypatch.setattr(sampling, "sample", sampler)
        knobs = recycling.Knobs(guidance=2.0, steps=5)
        jobs = [(tiny_generator, knobs, k) for k in range(2)]
        students = [selection.short_student(job, digits.val, **shared(teacher)) for job in jobs]
        rows[name] = selection.summarise(knobs, students)
    assert rows["real"]["cas"] > 0.7
    assert rows["real"]["cas"] > rows["noise"]["cas"] + 0.2
    assert rows["real"]["cost"] == 10
    assert rows["real"]["correct"].shape == (200,)
    assert rows["real"]["cas"] == pytest.approx(rows["real"]["correct"].mean())


@pytest.fixture(scope="session")
def generator_file(tiny_generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("generator") / "g.safetensors"
    generator.save(tiny_generator, path)
    return path


def test_worker_processes_give_what_one_process_gives(digits, teacher, generator_file):
    """To the last bit: a Student has one thread wherever it is trained. Rows come in the candidates' order."""
    candidates = [(generator_file, recycling.Knobs(steps=n)) for n in (1, 2, 3)]
    short = shared(teacher, epochs=1)
    threads = torch.get_num_threads()
    found = {}
    for number in (1, 2):
        seen = []
        torch.set_num_threads(number)
        try:
            with selection.Search(digits.val, students=2, **short) as search:
                found[number] = search(candidates, seen.append)
        finally:
            torch.set_num_threads(threads)
        assert [row["steps"] for row in seen] == [1, 2, 3]
    for one, two in zip(found[1], found[2]):
        for name in selection.PER_IMAGE:
            assert np.array_equal(one.pop(name), two.pop(name))
        assert one == two


def no_shared_memory(monkeypatch, tmp_path):
    """As where /dev/shm cannot be written: no semaphore, so no queue and no pool."""

    def refuse(self, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)


def long_tmpdir(monkeypatch, tmp_path):
    """torch would send tensors through a Unix socket in TMPDIR, and its path may have 108 bytes."""
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.mark.parametrize("cause", [no_shared_memory, long_tmpdir])
def test_without_worker_processes_one_gives_the_same_scores(
    cause, digits, teacher, generator_file, monkeypatch, tmp_path, capsys
):
    candidates = [(generator_file, recycling.Knobs(steps=n)) for n in (1, 2)]
    short = shared(teacher, epochs=1)
    threads = torch.get_num_threads()
    found = {}
    for number in (1, 2):
        torch.set_num_threads(number)
        try:
            with monkeypatch.context() as patched, selection.Search(digits.val, students=1, **short) as search:
                if number == 2:
                    cause(patched, tmp_path)
                found[number] = search(candidates)
            assert torch.get_num_threads() == number
        finally:
            torch.set_num_threads(threads)
    told = capsys.readouterr().out
    assert told.count("no worker processes here (") == told.count("one job after the other, with the same results")
    assert told.count("no worker processes here") == (cause is no_shared_memory)
    for one, two in zip(found[1], found[2], strict=True):
        for name in selection.PER_IMAGE:
            assert np.array_equal(one.pop(name), two.pop(name))
        assert one == two


def test_a_short_student_follows_the_temperature_and_hard_weight_of_its_knobs(digits, teacher, tiny_generator):
    losses, short = set(), shared(teacher, epochs=1)
    for labels in ({}, {"temperature": 4.0}, {"hard_weight": 1.0}):
        knobs = recycling.Knobs(steps=1, **labels)
        losses.add(selection.short_student((tiny_generator, knobs, 0), digits.val, **short)["loss"].mean().item())
    assert len(losses) == 3


SELECTING = [
    selection.short_student,
    selection.Search.__init__,
    selection.Search.__call__,
    selection.best,
    selection.cheapest,
    selection.tune,
    classifier.fit,
]
SELECTING += [generator.fit, recycling.SyntheticStream.__init__]


@pytest.mark.parametrize("function", SELECTING, ids=lambda f: f.__qualname__)
def test_no_selecting_function_takes_a_test_split(function):
    names = inspect.signature(function).parameters
    assert not [name for name in names if "test" in name]


def test_selecting_modules_and_notebooks_never_touch_the_test_split():
    for module in (selection, recycling):
        tree = ast.parse(inspect.getsource(module))
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "test"], module.__name__
    for stage in ("generator", "checkpoints", "tuning"):
        path = stages.NOTEBOOKS / f"{stages.STAGES[stage][0]}.ipynb"
        cells = json.loads(path.read_text())["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        words = {n.attr for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Attribute)}
        words |= {
            n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant) and isinstance(n.value, str)
        }
        assert "test" not in words, path.name


def test_in_notebooks_01_and_05_the_test_split_is_read_after_all_training():
    for stage in ("teacher", "distillation"):
        path = stages.NOTEBOOKS / f"{stages.STAGES[stage][0]}.ipynb"
        cells = ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        last_fit = max(k for k, c in enumerate(cells) if "beside.train(" in c)
        readers = [k for k, c in enumerate(cells) if "ds.test" in c or "data.SPLITS" in c or ".real_logits(" in c]
        assert readers
        assert min(readers) > last_fit, f"{path.name}: cell {min(readers)} reads test before training ends"
