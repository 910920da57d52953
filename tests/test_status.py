"""What --status says of results whose data was replaced, or that were built on damaged ones: as --dry-run does."""

import re
import shutil

import pytest
from conftest import med_arrays, own_set

import run_all
from kr_utils import data, profiles, runs, stages
from kr_utils.driver import plan, status

USUAL = [stage for stage in stages.USUAL if stage != "compare"]
BOOKS = {stages.folder(stage): stage for stage in stages.USUAL}


def make(root, figures, dataset, checksum, seeds=(0,)):
    """A finished run and its comparison, as the notebooks would write them."""
    options = {"overrides": {}, "root": root, "figures": figures}
    for job in plan.plan("smoke", [dataset], list(seeds), {dataset: checksum}, **options):
        where = {"dataset": job.dataset, "profile": "smoke", "seed": job.seed, "runs_dir": root}
        checksum_ = "" if job.stage == "compare" else checksum
        opened = runs.begin(job.stage, profiles.budget(job.stage, "smoke"), checksum=checksum_, **where)
        for done in opened.upstream.values():
            assert done.metrics  # it reads this of all of them
        opened.finish({"number": job.seed})


def said(option, place, capsys, *more):
    """Lines that the driver prints."""
    folders = ["--runs-dir", place / "runs", "--figures-dir", place / "figures"]
    assert run_all.main([str(word) for word in ("--profile", "smoke", option, *folders, *more)]) == 0
    return capsys.readouterr().out.splitlines()


def not_done(lines):
    """Stage -> why, of those that a status does not call done, as far as a line says why."""
    found = {}
    for line in lines:
        if match := re.match(r"(?:stale|missing): \w+ seed \d+  (\w+)[,;] (.*)", line):
            found[BOOKS[match[1]]] = match[2]
        if match := re.match(r"compare: (?!done)\w+,? ?(.*)", line):
            found["compare"] = match[1]
    return found


def to_run(lines):
    """Stage -> why, of those that a dry run would run."""
    found = [re.match(r"run +.*  ?(\d\d_\w+): (.*?)(?:  \(.*)?$", line) for line in lines]
    return {BOOKS[match[1]]: match[2] for match in found if match}


# ----------------------------------------------------------------------- data


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A set of one's own with a finished run; the folder of all."""
    monkeypatch.delenv("KR_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no data there
    (tmp_path / "data").mkdir()
    own_set(tmp_path / "data", med_arrays((30, 25, 25)))
    make(tmp_path / "runs", tmp_path / "figures", "mine", data.check("mine", tmp_path / "data"))
    return tmp_path


REPLACED = {
    "other images": lambda folder: own_set(folder, med_arrays((30, 25, 25), seed=1)),
    "another title": lambda folder: own_set(folder, med_arrays((30, 25, 25)), title="Ours"),
    "other mirrors": lambda folder: own_set(folder, med_arrays((30, 25, 25)), mirror="none"),
}


@pytest.mark.parametrize("change", REPLACED)
@pytest.mark.parametrize("by", ["--data-root", "KR_DATA"])
def test_results_of_replaced_data_are_stale(change, by, mine, capsys, monkeypatch):
    more = ["--data-root", mine / "data"] if by == "--data-root" else []
    if by == "KR_DATA":
        monkeypatch.setenv("KR_DATA", str(mine / "data"))
    dry = ["--datasets", "mine", *more]
    assert not_done(said("--status", mine, capsys, *more)) == to_run(said("--dry-run", mine, capsys, *dry)) == {}

    REPLACED[change](mine / "data")
    told, planned = not_done(said("--status", mine, capsys, *more)), to_run(said("--dry-run", mine, capsys, *dry))
    assert set(told) == set(planned) == set(stages.USUAL)
    assert {told[stage] for stage in USUAL} == {planned[stage] for stage in USUAL} == {"the data changed"}
    assert told["compare"] == "it shows mine seed 0 as it no longer stands"
    *_, row, _, star = said("--times", mine, capsys, "--status", *more)
    assert row.count("*") == len(USUAL)
    assert "data" in star


@pytest.mark.parametrize("gone", ["nowhere named", "the file is away", "the file is damaged", "the folder is away"])
def test_nothing_is_said_of_data_that_are_not_at_hand(gone, mine, capsys, monkeypatch):
    own_set(mine / "data", med_arrays((30, 25, 25), seed=1))
    if gone != "nowhere named":
        monkeypatch.setenv("KR_DATA", str(mine / "data"))
    if gone == "the file is away":
        (mine / "data/mine.npz").unlink()
    if gone == "the file is damaged":
        (mine / "data/mine.npz").write_bytes(b"PK")
    if gone == "the folder is away":
        shutil.rmtree(mine / "data")
    assert not_done(said("--status", mine, capsys)) == {}


def test_a_data_folder_that_is_named_and_is_none_is_refused(mine, capsys):
    assert run_all.main(["--status", "--data-root", str(mine / "nowhere")]) == 2
    assert "which is not a folder; create it or name another" in capsys.readouterr().err


def test_digits_are_at_hand_and_a_published_set_that_was_never_fetched_is_not(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KR_DATA", str(tmp_path))
    for name in ("digits", "breastmnist"):
        make(tmp_path / "runs", tmp_path / "figures", name, "of another day")
    lines = said("--status", tmp_path, capsys)
    assert len([line for line in lines if re.match("stale: digits seed 0 .*, the data changed", line)]) == len(USUAL)
    assert not [line for line in lines if line.startswith("stale: breastmnist")]


def test_a_data_file_is_read_once_for_all_seeds_and_only_where_there_are_results(mine, capsys, monkeypatch):
    own_set(mine / "data", med_arrays((30, 25, 25)), name="other")
    make(mine / "runs", mine / "figures", "mine", data.check("mine", mine / "data"), seeds=(1, 2))
    (mine / "runs/smoke/other/seed0").mkdir(parents=True)
    read, check = [], data.check
    monkeypatch.setattr(data, "check", lambda name, root: read.append(name) or check(name, root))
    assert not_done(said("--status", mine, capsys, "--data-root", mine / "data")) == {}
    assert read == ["mine"]


def test_seeds_of_data_that_were_replaced_since_are_not_shown_with_newer_ones(tmp_path, monkeypatch):
    root, figures = tmp_path / "runs", tmp_path / "figures"
    make(root, figures, "digits", "old", seeds=(0, 1))
    assert set(runs.find_current(root, "smoke")[0]) == {("digits", 0), ("digits", 1)}
    make(root, figures, "digits", "new", seeds=(2,))
    shown, left_out = runs.find_current(root, "smoke")
    assert set(shown) == {("digits", 2)}
    words = "00_start_here: it was made from other data than seed 2, which is newer"
    assert left_out == {("digits", 0): words, ("digits", 1): words}


# --------------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("whole")
    make(place / "runs", place / "figures", "digits", data.check("digits"))
    return place


def append(folder):
    with open(folder / "metrics.json", "a") as file:
        file.write("x\n")


DAMAGE = {
    "a longer file": append,
    "a broken manifest": lambda folder: (folder / "manifest.json").write_text("{"),
    "a missing file": lambda folder: (folder / "metrics.json").unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("damaged", [*([stage] for stage in stages.USUAL), ["teacher", "generator"]], ids=str)
def test_what_is_built_on_damage_is_not_done_for_status_nor_for_a_dry_run(kind, damaged, whole, tmp_path, capsys):
    shutil.copytree(whole / "runs", tmp_path / "runs")
    assert not_done(said("--status", tmp_path, capsys)) == to_run(said("--dry-run", tmp_path, capsys)) == {}
    for stage in damaged:
        DAMAGE[kind](runs.stage_dir(tmp_path / "runs", "smoke", "digits", 0, stage))
    told, planned = not_done(said("--status", tmp_path, capsys)), to_run(said("--dry-run", tmp_path, capsys))
    assert set(told) == set(planned)
    assert {told[stage] for stage in damaged if stage != "compare"} <= {plan.DAMAGED}
    if damaged == ["distillation"]:
        assert told["membership"] == "it was made from 05_distillation, which is missing or damaged"
    if damaged != ["compare"]:
        stars = said("--times", tmp_path, capsys, "--status")[2].count("*")
        assert stars == len(set(told) - {*damaged, "compare"}), "what is built on it has a star"


@pytest.mark.parametrize("stage", USUAL)
def test_a_stage_that_was_deleted_leaves_what_was_made_from_it_stale(stage, whole, tmp_path, capsys):
    shutil.copytree(whole / "runs", tmp_path / "runs")
    shutil.rmtree(runs.stage_dir(tmp_path / "runs", "smoke", "digits", 0, stage))
    told, planned = not_done(said("--status", tmp_path, capsys)), to_run(said("--dry-run", tmp_path, capsys))
    assert {*told, stage} == set(planned)


def test_what_is_built_on_a_result_that_may_not_be_read_is_not_called_stale(whole, tmp_path, capsys, monkeypatch):
    shutil.copytree(whole / "runs", tmp_path / "runs")
    stands = runs.finished.files.stands

    def refuse(path, *args, **more):
        if path.parent.name == "05_distillation":
            raise PermissionError(13, "Permission denied", str(path))
        return stands(path, *args, **more)

    monkeypatch.setattr(runs.finished.files, "stands", refuse)
    lines = said("--status", tmp_path, capsys)
    assert "not readable" in "".join(lines)
    assert "membership" not in not_done(lines)


def test_a_comparison_whose_figures_are_gone_is_not_done(whole, tmp_path, capsys):
    shutil.copytree(whole / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/smoke/10_compare")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/cas.png").write_text("drawn")
    opened = runs.begin("compare", profiles.budget("compare", "smoke"), profile="smoke", runs_dir=tmp_path / "runs")
    for done in opened.upstream.values():
        assert done.metrics
    opened.finish({}, outside=runs.digests(tmp_path / "figures", ["cas.png"]))
    assert not_done(said("--status", tmp_path, capsys)) == {}
    (tmp_path / "figures/cas.png").unlink()
    told = not_done(said("--status", tmp_path, capsys))
    assert told == to_run(said("--dry-run", tmp_path, capsys))
    assert told == {"compare": "its figures are not in the figures folder as it made them"}
    status.status(tmp_path / "runs", "smoke", [])
    assert not_done(capsys.readouterr().out.splitlines()) == {}, "where nobody names them, nobody looks"
