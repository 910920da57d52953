"""The Generator's form follows the size of the images; memory and disk are told, and what cannot fit is refused."""

from dataclasses import replace

import pytest
import torch
from conftest import med_arrays, own_set

import run_all
from kr_utils import InputError, generator, profiles, resolution
from kr_utils.driver import estimate, work

# (profile's levels, fold) -> at 28, 64, 128 and 224 pixels, told by hand
FORMS = {
    (1, 2): [(1, 2), (1, 4), (2, 4), (3, 4)],  # smoke and quick
    (2, 2): [(2, 2), (2, 4), (3, 4), (4, 4)],  # laptop
    (3, 1): [(3, 1), (3, 2), (3, 4), (4, 4)],  # paper
}


@pytest.mark.parametrize("budget", FORMS)
def test_levels_and_folding_at_medmnists_sizes(budget):
    assert [resolution.form(*budget, side, side) for side in (28, 64, 128, 224)] == FORMS[budget]


def test_every_profile_is_among_them():
    assert {(p.generator.levels, p.generator.fold) for p in profiles.PROFILES.values()} == set(FORMS)


@pytest.mark.parametrize("side", [(8, 8), (12, 14), (28, 28), (32, 32), (28, 32), (4, 4)])
def test_up_to_the_usual_size_a_budget_is_taken_as_it_is(side):
    for levels, fold in FORMS:
        assert resolution.form(levels, fold, *side) == (levels, fold)
    assert resolution.form(3, 8, 28, 28) == (3, 1), "and a folding that does not divide is dropped, as ever"
    assert resolution.form(2, 2, 27, 15) == (2, 1)


def test_a_large_image_that_cannot_be_folded_by_four_is_folded_as_often_as_it_can_be():
    assert resolution.form(1, 2, 66, 66) == (1, 2)
    assert resolution.form(1, 2, 65, 64) == (1, 1)
    assert resolution.form(2, 2, 100, 80) == (3, 4)
    assert resolution.form(1, 8, 64, 64) == (2, 8), "a larger folding that was asked for stays"


@pytest.mark.parametrize("side", [64, 128, 224])
def test_generators_are_built_so_and_step(side):
    images = torch.randint(0, 256, (2, 1, side, side), dtype=torch.uint8)
    model = generator.build(2, images, width=8, levels=1, layers=1, fold=2, seed=0)
    levels, fold = resolution.form(1, 2, side, side)
    assert (model.fold, len(model.unet.down_blocks)) == (fold, levels)
    with torch.no_grad():
        out = model(model.encode(images), torch.ones(2), torch.tensor([0, 1]))
    assert out.shape == (2, 16, side // 4, side // 4)
    assert torch.equal(model.decode(model.encode(images)), images)


WEIGHTS = 7491.813675592013


def test_the_weights_of_a_28_pixel_generator_are_those_of_before():
    """Its first random weights, summed by the code before there was a rule."""
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    model = generator.build(2, images, width=16, levels=2, layers=1, fold=2, seed=0)
    assert model.config["fold"] == 2
    assert len(model.unet.down_blocks) == 2
    assert sum(p.double().abs().sum().item() for p in model.parameters()) == pytest.approx(WEIGHTS, rel=1e-9)


@pytest.mark.parametrize(
    ("side", "fold", "taken", "good"),
    [
        (28, 3, 1, "1, 2, 4, 7, 14"), (28, 5, 1, "1, 2, 4, 7, 14"), (28, 8, 1, "1, 2, 4, 7, 14"),
        (15, 2, 1, "1, 3, 5, 15"), (64, 3, 1, "1, 2, 4, 8, 16"), (66, 4, 2, "1, 2, 3, 6, 11"),
    ],
)  # fmt: skip
def test_a_folding_that_was_asked_for_and_would_be_dropped_is_refused_before_the_plan(
    side, fold, taken, good, tmp_path, monkeypatch, capsys
):
    own_set(tmp_path, med_arrays((30, 25, 25), size=side))
    argv = ["--profile", "smoke", "--datasets", "mine", "--data-root", str(tmp_path), "--set", f"generator.fold={fold}"]
    words = f"error: --set generator.fold={fold}: mine's {side} x {side} pixels cannot be folded so, and {taken} would "
    words += f"be taken; give one of {good}\n"
    for more in (["--dry-run"], []):
        assert run_all.main([*argv, *more]) == 2
        told = capsys.readouterr()
        assert told.err == words
        assert "fold 2" not in told.out
    assert not (tmp_path / "runs").exists()
    for each in good.split(", "):
        assert run_all.main([*argv[:-1], f"generator.fold={each}", "--dry-run"]) == 0
        budget = profiles.budget("generator", "smoke", {"fold": each})
        assert resolution.form(budget.levels, budget.fold, side, side)[1] >= budget.fold
    capsys.readouterr()


def test_a_profile_s_folding_gives_way_and_the_dry_run_says_so(tmp_path, capsys):
    own_set(tmp_path, med_arrays((30, 25, 25), size=15))
    assert run_all.main(["--profile", "smoke", "--datasets", "mine", "--data-root", str(tmp_path), "--dry-run"]) == 0
    assert "mine: 15 x 15 pixels: Generator of 1 level, folding 1 (1 and 2 at 28)" in capsys.readouterr().out


# ------------------------------------------------------------------ what it needs

SPEED = {
    "rates": dict.fromkeys(work.KINDS, 1e-3), "device": "cpu",
    "classifier": {"parameters": 1e5, "flops": 1e6, "saved": 1e5},
    "generator": {"parameters": 1e6, "flops": 1e8, "saved": 1e7},
}  # fmt: skip


def needed(side=28, images=1000, speed=SPEED, profile="laptop", threads=1):
    return estimate.room(profiles.PROFILES[profile], work.Sizes(images, 9, 9, 2, 1, side, side), speed, threads)


def test_memory_is_counted_by_hand():
    memory, disk = needed(images=100_000, side=64)
    raw, train = (100_018) * 64 * 64, 100_000 * 64 * 64
    assert memory == pytest.approx(0.8e9 + 2 * raw + 12 * train + 20 * 1e6 + 16 * 1e7), "the Generator's training"
    assert disk == pytest.approx(4 * (8 * 1e6 + 13 * 1e5) + 2 * 1500 * 64 * 64)
    laptop = profiles.PROFILES["laptop"]
    few = replace(laptop, tuning=replace(laptop.tuning, few_steps=1))
    more = estimate.room(few, work.Sizes(100_000, 9, 9, 2, 1, 64, 64), SPEED, 1)[1] - disk
    assert more == pytest.approx(4 * 1e6), "the few-step Generator's weights"
    assert needed(224)[0] > needed(28)[0]
    assert needed(threads=8)[0] > needed(threads=2)[0] > needed(threads=1)[0], "a short Student for each thread"
    assert needed(speed=SPEED | {"device": "cuda"})[0] < needed()[0], "networks are in the GPU's own"


def test_what_does_not_fit_is_refused_with_both_numbers(tmp_path, monkeypatch):
    words = estimate.require_room("mine", (2e9, 5e6), tmp_path / "not" / "there")
    assert words == "mine: about 2.0 GB of memory, and 0.01 GB on disk a seed"
    monkeypatch.setattr(estimate.dataset_file, "memory_limit", lambda *_, **more: 10e9)
    with pytest.raises(InputError, match=r"mine: about 11.0 GB of memory.*; here are 10.0 GB of memory; take smaller"):
        estimate.require_room("mine", (11e9, 1e6), tmp_path)
    with pytest.raises(InputError, match=r"about 1.0 GB of memory, and 1e\+06 GB on disk.*GB on disk; take"):
        estimate.require_room("mine", (1e9, 1e15), tmp_path)


def test_a_dry_run_tells_form_and_gigabytes_and_a_run_refuses_before_it_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "speeds", lambda wanted, *args, **more: [SPEED] * len(wanted))
    arrays = med_arrays((30, 25, 25), size=64)
    own_set(tmp_path, arrays)
    argv = ["--profile", "smoke", "--datasets", "mine,digits", "--data-root", str(tmp_path)]
    assert run_all.main([*argv, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "mine: 64 x 64 pixels: Generator of 1 level, folding 4 (1 and 2 at 28)" in lines
    assert [line for line in lines if line.startswith("digits: ") and "GB of memory" in line]
    monkeypatch.setattr(estimate.dataset_file, "memory_limit", lambda *_, **more: 3e8)
    assert run_all.main([*argv, "--dry-run"]) == 2
    told = capsys.readouterr()
    assert "total: " in told.out, "the plan is told all the same"
    assert "here are 0.3 GB of memory" in told.err
    assert run_all.main(argv) == 2
    assert "error: mine: about" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
