"""Manifests and states that somebody sealed: used, or told and passed over; never a raw error, never one for ever."""

import copy
import dataclasses
import json
import os

import pytest
import torch
from conftest import RECIPE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kr_utils import classifier, data, generator, profiles, recycling, resume, runs
from kr_utils.driver import plan, report, status
from kr_utils.runs import identity, locks

# ------------------------------------------------------------------- manifests

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=3) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished Teacher, and its manifest without the seal."""
    root = tmp_path_factory.mktemp("sealed")
    budget = profiles.budget("teacher", "smoke")
    opened = runs.begin(
        "teacher", budget, dataset="digits", profile="smoke", seed=0, checksum="c", runs_dir=root
    )  # fmt: skip
    final = opened.finish({"test_accuracy": 0.5})
    return root, final, runs.read(final).manifest


def places(value, path=()):
    """Every place in nested dicts and lists."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))


def forge(final, manifest):
    """Write a manifest with its right fingerprint and seal."""
    manifest = copy.deepcopy(manifest)
    if isinstance(manifest.get("ingredients"), dict):
        manifest["fingerprint"] = identity.fingerprint(manifest["ingredients"])
    text = json.dumps({**manifest, "seal": identity.fingerprint(manifest)})
    (final / "manifest.json").write_text(text)


def use(root, final):
    """All that the driver does with a finished stage; what it would print can be printed."""
    options = {"overrides": {}, "root": root, "figures": root}
    jobs = plan.plan("smoke", ["digits"], [0], {"digits": "c"}, until="generator", **options)
    jobs += plan.plan("smoke", ["digits"], [0], {"digits": "c"}, until="teacher", force=True, **options)
    said = [*report.dry_run(jobs), *status.state(final, driven=False), *map(plan.tidy, jobs)]
    said += [cell for row in report.results(jobs, {}) for cell in row]
    runs.stale(runs.find(root, "smoke").get(("digits", 0), {}))
    "\n".join(said).encode()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_sealed_manifest_of_any_content_is_used_or_is_none(made, monkeypatch, data):
    root, final, manifest = made
    forged = copy.deepcopy(manifest)
    *above, last = data.draw(st.sampled_from([*places(manifest)]))
    inner = forged
    for key in above:
        inner = inner[key]
    inner[last] = data.draw(JSON)
    forge(final, forged)
    try:
        use(root, final)
    finally:
        forge(final, manifest)
    assert runs.read(final), "the real one stands"


WRONG = {
    "seconds a text": {"seconds": "long"},
    "seconds without end": {"seconds": float("inf")},
    "more seconds than a float holds": {"seconds": 10**400},
    "started never": {"started": "yesterday"},
    "started before the first year": {"started": "0001-01-01T00:00:00+23:59"},
    "hardware without a GPU's place": {"hardware": {"cpu": "x", "threads": 1}},
    "cpu a number": {"hardware": {"cpu": 1, "gpu": None, "threads": 1}},
    "gpu a list": {"hardware": {"cpu": "x", "gpu": [], "threads": 1}},
    "threads a text": {"hardware": {"cpu": "x", "gpu": None, "threads": "1"}},
    "no version of torch": {"versions": {}},
    "upstream a list": {"ingredients": {"upstream": []}},
    "code a number": {"ingredients": {"code": 5}},
    "budget nothing": {"ingredients": {"budget": None}},
    "versions a text": {"versions": "all"},
    "a name that cannot be printed": {"git_commit": "\ud800"},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_sealed_manifest_of_wrong_types_is_no_result(made, case):
    root, final, manifest = made
    change = copy.deepcopy(WRONG[case])
    inner = {"ingredients": manifest["ingredients"] | change.pop("ingredients", {})}
    forge(final, {**manifest, **inner, **change})
    try:
        assert runs.read(final) is None
        use(root, final)
    finally:
        forge(final, manifest)


def test_notes_nested_without_end_are_no_notes(made, tmp_path):
    deep = "[" * 10**5
    root, final, _ = made
    note = locks.stage_path(final).with_suffix(".json")
    for path in (note, final.with_name("01_teacher.failed.ipynb"), final / "notebook.json"):
        path.write_text(deep)
    assert locks.read_note(locks.stage_path(final)) is None
    use(root, final)


# ---------------------------------------------------------------------- states


def network():
    return classifier.build(10, 1, 8, 8, seed=1)


def fit(digits, state, model):
    some = data.Split(digits.train.images[:20], digits.train.labels[:20])
    training = classifier.Training(dataclasses.replace(RECIPE, batch=10), 2, classifier.Augmentation(1))
    return classifier.fit(model, lambda epoch: some, some, training, seed=1, state=state)


def paint(digits, state, model):
    training = generator.Training(steps=4, batch=8, lr=2e-3, ema_decay=0.9, label_dropout=0.1)
    some = data.Split(digits.train.images[:50], digits.train.labels[:50])
    return generator.fit(model, some, training, seed=3, state=state)


def painter():
    images = torch.zeros(10, 1, 8, 8, dtype=torch.uint8) + torch.arange(10, dtype=torch.uint8)[:, None, None, None]
    return generator.build(10, images, width=16, levels=1, layers=1, fold=2, seed=0)


def change(*path, to):
    def changed(tree):
        inner = tree
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to
        return tree

    return changed


def first_moment(tree):
    tree["parts"]["optimiser"]["state"][0] = {"momentum_buffer": torch.zeros(3, 3)}
    return tree


FORGED = {
    "a list": lambda tree: [1, 2],
    "no parts": lambda tree: {"values": tree["values"]},
    "a part missing": lambda tree: {**tree, "parts": {"model": tree["parts"]["model"]}},
    "a part a text": change("parts", "model", to="weights"),
    "weights of another shape": change("parts", "model", "head.weight", to=torch.zeros(2, 2)),
    "no tensor for weights": change("parts", "model", "head.weight", to=1.5),
    "moments of another shape": first_moment,
    "no random state": change("parts", "rng", to=torch.zeros(3)),
    "schedule replaced": change("parts", "schedule", to={"step": 5}),
    "values a text": change("values", to="here"),
    "position a text": change("values", "epoch", to="one"),
    "position beyond the end": change("values", "epoch", to=9),
    "history of numbers": lambda tree: change("values", "history", to=[1] * tree["values"]["epoch"])(tree),
    "history of other columns": lambda tree: change("values", "history", to=[{"a": 1}] * tree["values"]["epoch"])(tree),
    "kept weights of another network": change("values", "kept", to={"a": torch.zeros(1)}),
    "an order of no image": lambda tree: change("values", "order", to=torch.full((20,), 10**6))(
        change("values", "total", to=torch.zeros(()))(tree)
    ),
}


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A finished training, its last state on the way as a tree, and its history."""
    state = resume.State(tmp_path_factory.mktemp("trained"), every=0)
    model = network()
    history = fit(digits, state, model)
    return model, on_the_way(state), history


def on_the_way(state):
    """The newest state of a training that is not over: one that is holds no optimiser."""
    return next(tree for _, tree in state.trees() if resume.OVER not in tree)


@pytest.mark.parametrize("case", FORGED)
def test_a_state_that_does_not_fit_is_told_and_dropped_and_the_training_starts_anew(
    case, digits, trained, tmp_path, capsys
):
    whole, tree, history = trained
    assert "head.weight" in tree["parts"]["model"]
    state = resume.State(tmp_path / "training")
    forged = FORGED[case](copy.deepcopy(tree))
    state.save(forged)
    capsys.readouterr()
    again = network()
    assert fit(digits, resume.State(tmp_path / "training", every=3600), again) == history
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("training: saved state 00000001.safetensors is not used: ")
    ours, theirs = again.state_dict(), whole.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    fit(digits, resume.State(tmp_path / "training"), network())
    assert "is trained already" in capsys.readouterr().out, "by the state that it left itself"


@pytest.mark.parametrize("case", [change("values", "step", to=99), change("values", "history", to=[[]]), first_moment])
def test_a_generator_starts_anew_too(case, digits, tmp_path, capsys):
    state = resume.State(tmp_path / "training", every=0)
    first = painter()
    history = paint(digits, state, first)
    tree = on_the_way(state)
    state.clear()
    state.save(case(tree))
    capsys.readouterr()
    again = painter()
    assert paint(digits, resume.State(tmp_path / "training", every=3600), again) == history
    assert "is not used" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), first.parameters(), strict=True))


@pytest.mark.parametrize("saved", [{"images": [1]}, {"images": [torch.zeros(3, 1, 4, 4)]}, {"drawn": -1}, {"more": 1}])
def test_a_set_of_images_that_does_not_fit_is_drawn_anew(saved, tiny_generator, tmp_path, capsys):
    def stream(state=None):
        import numpy as np

        knobs, counts = recycling.Knobs(steps=1), np.full(10, 1)
        return recycling.SyntheticStream(tiny_generator, knobs, counts, seed=5, period=2, state=state)

    state = resume.State(tmp_path)
    state.part("set0").save({"parts": {}, "values": {"images": [], "passed": 0, "drawn": 0} | saved})
    assert torch.equal(stream(state)(0).images, stream()(0).images)
    assert "set0: saved state 00000001.safetensors is not used" in capsys.readouterr().out


def test_a_state_that_cannot_be_deleted_is_told_and_passed_over(tmp_path, capsys):
    state = resume.State(tmp_path / "it")
    state.save({"parts": {}, "values": {"step": "one"}})
    os.rename(tmp_path / "it/00000001.safetensors", tmp_path / "it/²³.safetensors")
    assert resume.restore(state, {}, step=0).step == 0
    state.save({"parts": {}, "values": {"step": 1}})
    assert resume.restore(state, {}, step=0).step == 1
