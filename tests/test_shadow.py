"""Shadows: random halves, what they see and store, DP-SGD, and how the driver plans, resumes and tells them."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import own_set
from matplotlib.colors import to_rgb
from matplotlib.text import Text

import run_all
from kr_utils import InputError, audit, belief, classifier, data, dpsgd, evidence, plots, profiles, runs, shadow, stages
from kr_utils.driver import execute, plan, report, status

AUDIT = ("shadow", "audit")


@pytest.fixture(scope="module")
def cut():
    """The project's own digits, cut for eight pipelines."""
    ds = data.load("digits")
    return ds, shadow.pool(ds, 8, canaries=0.05, seed=3)


# ------------------------------------------------------------------ the pool


def test_each_record_is_in_half_of_the_pipelines_and_each_pipeline_has_half_of_the_records(cut):
    ds, pool = cut
    n = 2 * len(ds.train)
    assert pool.inside.shape == (8, n)
    assert (pool.inside.sum(0) == 4).all()
    assert np.abs(pool.inside.sum(1) - n / 2).max() <= 8, "but for the coins of 30 canaries"
    assert (pool.inside[0] != pool.inside[1]).all(), "a pair of halves completes one another"
    members = pool.members(2)
    assert len(members) == pool.inside[2].sum()
    assert torch.equal(members.images, pool.records.images[torch.from_numpy(pool.inside[2])])


def test_records_come_from_all_splits_and_are_never_the_same_picture(cut):
    ds, pool = cut
    place = {}
    for split in data.SPLITS:
        for image in getattr(ds, split).images.numpy():
            place.setdefault(image.tobytes(), split)
    every = [image.tobytes() for image in pool.every().images.numpy()]
    assert len(set(every)) == len(every), "neither twice in the pool nor in the pool and outside"
    assert {place[image] for image in every[: len(pool.canary)]} == set(data.SPLITS)
    assert len(pool.others) >= shadow.OTHERS * len(place) - 1 or len(pool.others) == len(ds.train)


def test_a_picture_that_stands_twice_counts_once():
    """Twice in one split, and in two splits: 40, 20 and 20 images, of which 39 + 10 + 20 are different."""
    rng = np.random.default_rng(0)
    images = {split: rng.integers(0, 256, (n, 1, 4, 4), dtype=np.uint8) for split, n in zip(data.SPLITS, (40, 20, 20))}
    images["train"][39], images["val"][:10] = images["train"][38], images["train"][:10]
    splits = {split: data.Split(torch.from_numpy(each), torch.arange(len(each)) % 10) for split, each in images.items()}
    ds = data.Dataset("mine", data.INFO["digits"], (), "", **splits)
    every = [image.tobytes() for image in shadow.pool(ds, 2, canaries=0.0, seed=0).every().images.numpy()]
    assert len(set(every)) == len(every) == 69


def of_patients(sizes: list[int]) -> data.Dataset:
    """Different images, so many of each patient, spread over the splits whatever their patient; classes in turn."""
    rng, owners = np.random.default_rng(0), np.repeat(np.arange(len(sizes)) + 70, sizes)
    where = rng.permutation(len(owners)) * 4 // len(owners)  # train gets two in four
    images, splits, groups = rng.integers(0, 256, (len(owners), 1, 4, 4), dtype=np.uint8), {}, {}
    for split, mine in zip(data.SPLITS, (where < 2, where == 2, where == 3)):
        inside = torch.from_numpy(images[mine])
        splits[split], groups[split] = data.Split(inside, torch.arange(len(inside)) % 10), owners[mine]
    return data.Dataset("mine", data.INFO["digits"], (), "", **splits, groups=groups)


@pytest.mark.parametrize("seed", range(4))
def test_a_patients_images_are_on_one_side_together(seed):
    ds = of_patients([1, 2, 3, 5, 9] * 12)
    owner = {
        image.tobytes(): int(whose)
        for split in data.SPLITS
        for image, whose in zip(getattr(ds, split).images.numpy(), ds.groups[split])
    }
    pool = shadow.pool(ds, 8, canaries=0.05, seed=seed)
    mine = np.array([owner[image.tobytes()] for image in pool.records.images.numpy()])
    outside = {owner[image.tobytes()] for image in pool.others.images.numpy()}
    assert not outside & set(mine.tolist()), "whoever is asked about has no image among those that nobody saw"
    assert 0.7 * len(owner) < len(mine) <= 0.8 * len(owner)
    ordinary = np.flatnonzero(~pool.canary)
    for whose in set(mine[ordinary].tolist()):
        sides = pool.inside[:, ordinary[mine[ordinary] == whose]]
        assert (sides == sides[:, :1]).all(), "in or out together"
    assert np.abs(pool.inside.sum(1) - len(mine) / 2).max() <= pool.canary.sum(), "halves all the same"

    # Who stands for whom in the intervals; a canary has a coin of its own
    assert len(set(pool.whose.tolist())) == len(set(mine[ordinary].tolist())) + pool.canary.sum()
    apart = [k for k in np.flatnonzero(pool.canary) for j in ordinary[mine[ordinary] == mine[k]]
             if (pool.inside[:, k] != pool.inside[:, j]).any()]  # fmt: skip
    assert apart
    fake = audit.shuffled(pool.inside, 1, pool.whose)
    turned = fake ^ pool.inside
    for whose in set(pool.whose.tolist()):
        assert (turned[:, pool.whose == whose] == turned[:, pool.whose == whose][:, :1]).all()


def test_one_patients_images_alone_are_no_pool():
    with pytest.raises(InputError, match="mine: an audit takes several patients on each side"):
        shadow.pool(of_patients([200, 1]), 2, canaries=0.05, seed=0)


def test_a_cell_of_the_matrix_counts_patients():
    rng, canary, whose = np.random.default_rng(0), np.arange(200) % 20 == 0, np.arange(200) // 10
    whose = np.where(canary, 100 + np.arange(200), whose)
    inside = audit.halves(200, 8, 0, groups=whose)
    scores = rng.normal(inside * rng.normal(0.5, 2, 21)[np.minimum(whose, 20)], 1)  # some patients leak
    row = evidence.row("real", "loss", scores, inside, canary, groups=whose, seed=0, draws=50)
    each = audit.pooled(scores[:, ~canary], inside[:, ~canary], groups=whose[~canary], seed=0, draws=50)
    assert {key: row[key] for key in each} == each
    alone = evidence.row("real", "loss", scores, inside, canary, seed=0, draws=50)
    assert alone["auc"] == row["auc"]
    assert alone["auc_error"] < row["auc_error"], "ten images of one patient tell less than ten patients"


def test_canaries_have_a_wrong_label_and_all_others_their_own(cut):
    ds, pool = cut
    truth = {}
    for split in data.SPLITS:
        part = getattr(ds, split)
        truth |= {image.tobytes(): int(label) for image, label in zip(part.images.numpy(), part.labels)}
    own = np.array([truth[image.tobytes()] for image in pool.records.images.numpy()])
    given = pool.records.labels.numpy()
    assert ((given != own) == pool.canary).all()
    assert pool.canary.sum() == round(0.05 * len(given))
    none = shadow.pool(ds, 8, canaries=0.0, seed=3)
    assert not none.canary.any()
    assert torch.equal(none.records.images, pool.records.images), "canaries change labels, not the pool"


def test_a_seed_gives_one_pool_and_another_seed_another(cut):
    ds, pool = cut
    again, other = (shadow.pool(ds, 8, canaries=0.05, seed=s) for s in (3, 4))
    assert (again.inside == pool.inside).all()
    assert torch.equal(again.records.images, pool.records.images)
    assert not torch.equal(other.records.images, pool.records.images)


# ------------------------------------------------------------------ views and losses


def test_views_are_the_image_itself_its_mirrors_and_its_smallest_shifts():
    both, none = data.INFO["pathmnist"], data.INFO["digits"]
    assert shadow.views(none, 1, 3) == [(False, False, 0, 0), (False, False, -1, 0), (False, False, 0, -1)]
    first = shadow.views(both, 1, 5)
    assert [view[:2] for view in first[:4]] == [(False, False), (True, False), (False, True), (True, True)]
    assert len(shadow.views(none, 1, 100)) == 9
    assert len(set(shadow.views(both, 2, 1000))) == 4 * 25


def test_a_view_moves_pixels_as_it_says_and_fills_with_zero():
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    assert torch.equal(shadow.seen(image, (False, False, 0, 0)), image)
    assert shadow.seen(image, (True, False, 0, 0)).flatten().tolist() == [3, 2, 1, 6, 5, 4, 9, 8, 7]
    assert shadow.seen(image, (False, True, 0, 0)).flatten().tolist() == [7, 8, 9, 4, 5, 6, 1, 2, 3]
    assert shadow.seen(image, (False, False, 1, 0)).flatten().tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert shadow.seen(image, (False, False, 0, -1)).flatten().tolist() == [2, 3, 0, 5, 6, 0, 8, 9, 0]


def test_logits_are_those_of_the_library_for_the_image_itself(teacher, digits):
    images = digits.test.images[:20]
    found = shadow.logits(teacher, images, shadow.views(digits.info, 1, 3))
    assert found.shape == (20, 3, 10)
    assert np.array_equal(found[:, 0], classifier.predict(teacher, images).numpy())
    assert not np.array_equal(found[:, 0], found[:, 1])


def test_a_denoising_loss_belongs_to_its_record_alone(tiny_generator, digits):
    part = data.Split(digits.test.images[:30], digits.test.labels[:30])
    found = shadow.denoising(tiny_generator, part, noises=2, seed=5)
    assert found.shape == (30, len(shadow.SIGMAS))
    order = torch.randperm(30)
    turned = shadow.denoising(
        tiny_generator, data.Split(part.images[order], part.labels[order]), noises=2, seed=5, batch=7
    )
    assert np.allclose(turned, found[order.numpy()], rtol=1e-4)
    assert (found > 0).all()
    assert (np.diff(found.mean(0)) > 0).all(), "more noise is harder to take away"


def test_a_generator_that_gives_back_the_clean_image_has_no_loss(tiny_generator, digits, monkeypatch):
    part = data.Split(digits.test.images[:5], digits.test.labels[:5])
    clean = tiny_generator.encode(part.images)
    monkeypatch.setattr(tiny_generator, "denoised", lambda noisy, sigma, raw: clean)
    assert not shadow.denoising(tiny_generator, part, noises=2, seed=0).any()
    monkeypatch.setattr(tiny_generator, "denoised", lambda noisy, sigma, raw: noisy)
    noise = shadow.denoising(tiny_generator, part, noises=40, seed=0)
    assert np.allclose(noise, np.square(shadow.SIGMAS), rtol=0.1), "what is left is the noise, of variance sigma^2"


# ------------------------------------------------------------------ DP-SGD


def private(seed=0, epsilon=8.0, changed=None):
    split = data.load("digits").train
    images = split.images.clone()
    if changed is not None:
        images[changed] = 255 - images[changed]
    model = dpsgd.build(10, 1, 8, 8, seed)
    spent = dpsgd.fit(model, data.Split(images, split.labels), epsilon=epsilon, epochs=4, seed=seed)
    return model, spent


def test_dp_sgd_spends_no_more_than_it_was_given_and_says_what():
    model, spent = private()
    assert 0.9 * 8 < spent.epsilon <= 8
    assert spent.delta == pytest.approx(0.1 / 300)
    assert spent.steps == 4, "batches of all 300"
    again, _ = private()
    other, strict = private(seed=1, epsilon=1.0)
    weights = [next(m.parameters()) for m in (model, again, other)]
    assert torch.equal(weights[0], weights[1]), "the same seed, the same bytes"
    assert not torch.equal(weights[0], weights[2])
    assert strict.noise > 2 * spent.noise, "a smaller epsilon takes more noise"
    assert strict.epsilon <= 1


def test_the_accountant_agrees_with_another_one():
    """Opacus' RDP bound is looser than its PRV, never below it; both for the noise that was used."""
    from opacus.accountants import RDPAccountant

    _, spent = private()
    rdp = RDPAccountant()
    rdp.history = [(spent.noise, 1.0, spent.steps)]
    assert spent.epsilon <= rdp.get_epsilon(delta=spent.delta) * 1.001
    assert rdp.get_epsilon(delta=spent.delta) < 2 * spent.epsilon


@pytest.mark.parametrize("width", [8, 12, 3])
def test_nothing_in_a_private_network_mixes_the_images_of_a_batch(width):
    model = dpsgd.build(10, 1, width, 8, 0)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    x = torch.randn(6, 1, 8, 8)
    model.train()
    assert torch.allclose(model(x)[:2], model(x[:2]), atol=1e-5)
    usual = classifier.build(10, 1, width, 8, 0)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in usual.parameters())


# ------------------------------------------------------------------ a whole shadow, in a kernel

SMALL = {"pipelines": 2, "queries": 2, "noises": 1, "ablation": 0, "controls": 0, "few": 0, "volumes": [1]}
SMALL |= {"dp_epochs": 1, "overfit_epochs": 2}
KNOBS = {"guidance": 1.0, "steps": 2, "churn": 0.0, "threshold": 0.0, "few": 0, "temperature": 1.0, "hard_weight": 0.0}


def a_set(folder, change=()):
    """A set of one's own of 8x8 images; `change` are (split, index) whose pixels are turned round."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in zip(data.SPLITS, (40, 24, 24)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    for split, index in change:
        arrays[f"{split}_images"][index] = 255 - arrays[f"{split}_images"][index]
    folder.mkdir()
    own_set(folder, arrays, mirror="none")
    return data.load("mine", folder)


def a_job(root, ds, folder, number=0):
    """The job of one shadow over a target that only says what it chose."""
    where = {"dataset": "mine", "profile": "smoke", "seed": 0, "checksum": ds.checksum, "runs_dir": root}
    chosen = {"checkpoints": {"checkpoint": 8}, "tuning": {"knobs": KNOBS, "few_guidance": 1.0}}
    for stage in ("teacher", "generator", "checkpoints", "tuning", "distillation"):
        opened = runs.begin(stage, profiles.budget(stage, "smoke"), **where)
        opened.finish(chosen.get(stage, {}))
    options = {"overrides": {"shadow": SMALL}, "root": root, "figures": root / "figures", "asked": AUDIT}
    jobs = plan.plan("smoke", ["mine"], [0], {"mine": ds.checksum}, data_root=str(folder), **options)
    return next(job for job in jobs if job.stage == stages.numbered("shadow", number))


def of_record(ds, pool, split, index):
    """Where an image of the set is among the records; None if it is outside."""
    image = getattr(ds, split).images[index]
    hits = (pool.every().images == image).flatten(1).all(1).nonzero()
    return int(hits[0])


@pytest.fixture(scope="module")
def shadow_run(tmp_path_factory):
    """A finished shadow of the small set, its set and its pool."""
    folder = tmp_path_factory.mktemp("shadow")
    ds = a_set(folder / "data")
    job = a_job(folder / "runs", ds, folder / "data")
    execute.execute(job, threads=1)
    return ds, shadow.pool(ds, 2, canaries=0.05, seed=0), runs.read(job.folder)


def different(one, other, apart):
    """Names of the stored arrays that differ in any record but `apart`."""
    names = []
    for name in one:
        same = one[name] == other[name]
        if one[name].ndim and len(same) > 2:
            same = np.delete(same, [k for k in apart if k < len(same)], axis=0)
        names += [name] * (not same.all())
    return set(names)


@pytest.mark.slow
@pytest.mark.parametrize("member", [True, False])
def test_a_pipeline_sees_its_members_and_nothing_else(shadow_run, tmp_path, member):
    """Another picture in the place of a member changes every network; in that of anybody else it changes none."""
    ds, pool, done = shadow_run
    n, inside = len(pool.canary), pool.inside[0]
    changed = [np.flatnonzero(inside)[0]] if member else [np.flatnonzero(~inside)[0], n]  # n is outside of the pool
    every = [(split, k) for split in data.SPLITS for k in range(len(getattr(ds, split)))]
    places = [place for place in every if of_record(ds, pool, *place) in changed]
    other = a_set(tmp_path / "data", places)
    assert other.checksum != ds.checksum
    job = a_job(tmp_path / "runs", other, tmp_path / "data")
    execute.execute(job, threads=1)

    again = runs.read(job.folder)
    before, after = (run.npz("records.npz") for run in (done, again))
    networks = {name for name in before if name.startswith(("logits_", "denoising", "nearest"))}
    assert len(networks) == 10, "eight classifiers, the Generator and its images"
    assert different(before, after, changed) == (networks if member else set())
    released = [run.npz("released.npz")["images"] for run in (done, again)]
    assert np.array_equal(*released) == (not member)


@pytest.mark.slow
def test_a_killed_shadow_goes_on_and_ends_in_the_same_bytes(shadow_run, tmp_path):
    ds, _, done = shadow_run
    a_set(tmp_path / "data")
    job = a_job(tmp_path / "runs", ds, tmp_path / "data")
    code = f"""
from pathlib import Path
from kr_utils import data
from kr_utils.driver import execute, plan
options = {{"overrides": {{"shadow": {SMALL}}}, "root": Path({str(tmp_path / "runs")!r}), "asked": {AUDIT}}}
jobs = plan.plan("smoke", ["mine"], [0], {{"mine": {ds.checksum!r}}}, figures=Path("x"),
                 data_root={str(tmp_path / "data")!r}, **options)
execute.execute(next(job for job in jobs if job.stage == "shadow-00"), threads=1)
"""
    environment = {**os.environ, "PYTHONPATH": str(stages.ROOT), "KR_SAVE_SECONDS": "0"}
    worker = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    state = job.folder.with_name(f"{job.folder.name}.partial") / "state"
    for _ in range(1200):  # until a Student is in training
        if list(state.glob("students/student/*.safetensors")) or worker.poll() is not None:
            break
        time.sleep(0.1)
    assert worker.poll() is None, "it was killed while it worked"
    for child in [*__import__("psutil").Process(worker.pid).children(recursive=True)]:
        child.kill()
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert runs.read(job.folder) is None

    lines = []
    execute.execute(job, lines.append, threads=1)
    again = runs.read(job.folder)
    assert again.manifest["starts"] == 2
    assert any("goes on from its state" in line for line in lines)
    for name in ("records.npz", "released.npz", "metrics.json"):
        assert again.digest(name) == done.digest(name), name


# ------------------------------------------------------------------ the driver


def make(root, pipelines=2, **more):
    asked, overrides = plan.audit_of(pipelines, more.pop("overrides", {}))
    options = {"overrides": overrides, "root": root, "figures": root / "figures", "asked": asked} | more
    return plan.plan("smoke", ["digits"], [0], {"digits": "c"}, **options)


def pretend(job):
    kind, number = stages.kind(job.stage), job.parameters.get("number")
    budget = profiles.budget(kind, "smoke", job.parameters["overrides"])
    where = {"dataset": job.dataset, "profile": "smoke", "seed": job.seed, "number": number}
    opened = runs.begin(
        kind, budget, checksum="" if job.stage == "compare" else "c", runs_dir=job.parameters["runs_dir"], **where
    )
    for done in opened.upstream.values():
        assert done.metrics
    special = {"compare": {"figures": {}}, "audit": {"words": "All is told."}}
    opened.finish(special.get(kind, {"number": 0}))


def to_run(jobs):
    return [job.stage for job in jobs if not job.reuse]


def test_a_run_without_an_audit_plans_nothing_of_it(tmp_path):
    assert [job.stage for job in make(tmp_path, 0)] == list(stages.USUAL)
    names = [job.stage for job in make(tmp_path, 4)]
    assert names[-6:] == ["shadow-00", "shadow-01", "shadow-02", "shadow-03", "audit", "compare"]
    assert [job.parameters["number"] for job in make(tmp_path, 4) if "number" in job.parameters] == [0, 1, 2, 3]
    folders = [job.folder.name for job in make(tmp_path, 4)][-6:-1]
    assert folders == ["07_shadow-00", "07_shadow-01", "07_shadow-02", "07_shadow-03", "08_audit"]


def test_another_number_of_pipelines_makes_all_of_them_stale_and_the_audit(tmp_path):
    for job in make(tmp_path, 2):
        pretend(job)
    assert to_run(make(tmp_path, 2)) == []
    assert to_run(make(tmp_path, 0)) == [], "what an audit left does not disturb a run without one"
    four = make(tmp_path, 4)
    assert to_run(four) == [*(f"shadow-{k:02d}" for k in range(4)), "audit", "compare"]
    reasons = {job.stage: job.reason for job in four}
    assert reasons["shadow-00"] == "pipelines 2 -> 4"
    assert reasons["shadow-03"] == "not run yet"
    assert reasons["audit"].startswith("pipelines 2 -> 4")


def test_an_audit_of_shadows_that_are_stale_is_no_part_of_a_run(tmp_path):
    for job in make(tmp_path, 2):
        pretend(job)
    shown, left_out = runs.find_current(tmp_path, "smoke")
    assert "audit" in shown["digits", 0]
    assert not [name for name in shown["digits", 0] if name.startswith("shadow")]
    job = next(job for job in make(tmp_path, 2) if job.stage == "shadow-01")
    opened = runs.begin("shadow", profiles.budget("shadow", "smoke"), dataset="digits", profile="smoke", seed=0,
                        checksum="c", runs_dir=tmp_path, number=1)  # fmt: skip
    opened.finish({"other": 1})
    assert job.reuse
    shown, left_out = runs.find_current(tmp_path, "smoke")
    assert "audit" not in shown["digits", 0], "it was made from another shadow"
    assert left_out == {}, "and the run stands without it"


def test_an_audit_without_its_pipelines_says_how_to_make_them(tmp_path):
    for job in make(tmp_path, 0)[:-1]:
        pretend(job)
    where = {"dataset": "digits", "profile": "smoke", "seed": 0, "checksum": "c", "runs_dir": tmp_path}
    with pytest.raises(InputError, match=r"08_audit needs the results of 07_shadow-00 .*--audit 2`"):
        runs.begin("audit", profiles.budget("audit", "smoke"), **where)
    with pytest.raises(InputError, match=r"number is '2'; of 2 pipelines give one from 0 to 1"):
        runs.begin("shadow", profiles.budget("shadow", "smoke"), number=2, **where)


@pytest.mark.parametrize("text", ["3", "-2", "1001", "x", "1002", "2.0"])
def test_a_number_of_pipelines_that_cannot_be_halved_is_refused(text, capsys):
    with pytest.raises(SystemExit) as error:
        run_all.main(["--audit", text])
    assert error.value.code == 2
    assert "--audit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--set", "shadow.pipelines=5"], "shadow.pipelines is 5; it must be even"),
        (["--audit", "4", "--set", "audit.pipelines=2"], "--set audit.pipelines=2 and --audit 4 differ"),
        (["--until", "audit"], "--until audit: 08_audit runs only when it is asked for"),
        (["--audit", "4", "--until", "membership"], "--until membership ends before 07_shadow and 08_audit, which"),
        (["--audit", "--until", "start"], "which --audit asks for; leave one of the two out"),
        (["--set", "shadow.canaries=0"], "--set shadow.canaries: 07_shadow does not run without --audit; add it"),
        (["--set", "audit.draws=50"], "--set audit.draws: 08_audit does not run without --audit; add it, or leave"),
        (["--set", "release.images=50"], "--set release.images: 09_release does not run without --release NAME;"),
    ],
)
def test_contradictions_are_refused_in_one_line(argv, words, capsys):
    assert run_all.main(["--profile", "smoke", "--dry-run", *argv]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_an_audit_may_end_with_its_pipelines(tmp_path, capsys):
    argv = ["--profile", "smoke", "--dry-run", "--runs-dir", str(tmp_path / "runs"), "--audit", "4"]
    for until, last in (("shadow", "07_shadow-03"), ("audit", "08_audit")):
        assert run_all.main([*argv, "--until", until, "--set", "audit.draws=50"]) == 0
        assert f"{last}: not run yet" in capsys.readouterr().out.splitlines()[-2]


def test_a_dry_run_tells_how_many_pipelines_and_the_profile_s_number_is_the_default(tmp_path, capsys):
    argv = ["--profile", "smoke", "--dry-run", "--runs-dir", str(tmp_path / "runs")]
    assert run_all.main([*argv, "--audit"]) == 0
    assert "total: 11 of 11 stages to run" in capsys.readouterr().out
    assert run_all.main([*argv, "--audit", "6", "--seeds", "0,1"]) == 0
    out = capsys.readouterr().out
    assert "total: 22 of 22 stages to run" in out, "the first seed is audited: 2 x 7 + 6 + 1 + 1"
    assert "digits seed 1  07_shadow" not in out


def test_the_table_of_states_counts_pipelines(tmp_path, capsys):
    jobs = make(tmp_path, 4)
    for job in jobs[:-3]:
        pretend(job)
    console = report.Reporter(jobs).console
    console.width = 200
    status.status(tmp_path, "smoke", [], console)
    out = capsys.readouterr().out
    assert "3 done, 1 missing" in out
    assert "audit" not in out, "nothing of it is there yet"
    pretend(jobs[-3])
    pretend(jobs[-2])
    assert report.audited(make(tmp_path, 4)) == ["digits seed 0, audit: All is told."]
    header, _, row = status.times(tmp_path, "smoke", [])[:3]
    assert "| shadow | audit | sum |" in header
    assert header.count("|") == row.count("|")


def test_a_live_table_counts_what_is_running():
    row = {"teacher": "done 0:03", "shadow-00": "done 0:09", "shadow-01": "0:02", "shadow-02": ""}
    words = {"teacher": "done", "shadow-00": "done", "shadow-01": "running", "shadow-02": "waiting"}
    assert report.together(row, words) == {"teacher": "done 0:03", "shadow": "1 done, 1 running, 1 waiting"}


# ------------------------------------------------------------------ evidence and its pictures


def simulated(n=120, pipelines=8, lift=0.0, seed=0):
    """Logits [N, n, 1, 3] of networks whose members are `lift` more certain, and who was in which."""
    from kr_utils import audit

    rng = np.random.default_rng(seed)
    inside, labels = audit.halves(n, pipelines, seed), rng.integers(0, 3, n)
    z = rng.normal(size=(pipelines, n, 1, 3)) + 2 * rng.normal(size=(1, n, 1, 3))
    z[:, np.arange(n), 0, labels] += 3 + lift * inside
    outside = rng.normal(size=(pipelines, 50, 1, 3)), rng.integers(0, 3, 50)
    return z, labels, inside, outside


def test_strong_attacks_see_what_weak_ones_hardly_do_and_nothing_where_nothing_is():
    z, labels, inside, outside = simulated(lift=1.5)
    nobody = np.zeros(len(labels), dtype=bool)
    found = evidence.on_classifiers(z, labels, inside, outside)
    auc = {name: evidence.row("real", name, s, inside, nobody, seed=0, draws=50)["auc"] for name, s in found.items()}
    assert auc["lira"] > auc["loss"] + 0.05 > 0.6
    assert auc["rmia"] > auc["loss"]
    z, labels, inside, outside = simulated(lift=0.0)
    for name, scores in evidence.on_classifiers(z, labels, inside, outside).items():
        row = evidence.row("real", name, scores, inside, nobody, seed=0, draws=50)
        assert abs(row["auc"] - 0.5) < 4 * row["auc_error"] + 0.002, name


def test_too_few_pipelines_give_no_number_rather_than_a_bad_one():
    z, labels, inside, outside = simulated(pipelines=2)
    found = evidence.on_classifiers(z, labels, inside, outside)
    assert {name for name, scores in found.items() if scores is None} == {
        "labels", "lira", "lira-one-sided", "lira-likelihood", "rmia", "rmia-offline",
    }  # fmt: skip
    assert evidence.row("real", "lira", None, inside, np.zeros(120, bool))["auc"] is None
    assert evidence.main_attack(found) == "loss"


def test_canaries_are_counted_apart():
    rng = np.random.default_rng(0)
    inside = simulated()[2]
    canary = np.arange(120) < 30
    scores = rng.normal(size=inside.shape) + 5 * (inside & canary)
    row = evidence.row("real", "loss", scores, inside, canary, seed=0, draws=50)
    assert row["canary_auc"] > 0.99
    assert abs(row["auc"] - 0.5) < 0.1
    assert row["canary_epsilon"] > 1
    assert row["members"] == inside[:, 30:].sum()


def test_planted_copies_are_near_and_only_members_are_copied():
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)
    inside = np.zeros((2, 60), dtype=bool)
    inside[0, :30] = inside[1, 30:] = True
    usual = np.full((2, 60), 40.0)
    distance, counted = evidence.copied(records, usual, inside, share=0.1, seed=0)
    copied = counted & inside
    assert copied.sum() == 6
    assert (distance[copied] < 20).all()
    assert (distance <= usual).all()
    assert (counted | inside).all(), "every non-member is counted"


def row(evidence_="leaks", artefact="real", attack="loss", auc=0.7):
    return {"artefact": artefact, "attack": attack, "auc": auc, "auc_low": 0.6, "auc_high": 0.8, "tpr_1": 0.05,
            "evidence": evidence_, "accuracy": 0.9, "canary_auc": None, "detectable_auc": 0.53}  # fmt: skip


def test_the_matrix_has_a_cell_for_each_pair_and_three_fills_that_differ_in_grey():
    rows = [row(), row("no evidence", attack="lira"), row("no power", artefact="student", auc=None)]
    figure = plots.release_matrix(**evidence.picture(rows, {}), title="t")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["real training", "GKD Student"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["loss", "LiRA"]
    assert {text.get_text() for text in axis.texts} == {"0.70", "5.0 %", "—"}
    greys = [to_rgb(plots.EVIDENCE[kind][0]) for kind in ("leaks", "no evidence")]
    dark, light = (0.299 * r + 0.587 * g + 0.114 * b for r, g, b in greys)
    assert light - dark > 0.4
    assert plots.EVIDENCE["no power"][2], "hatched"


def test_other_figures_name_what_they_show():
    points = [
        {"name": "1x", "volume": 1.0, "auc": 0.55, "auc_low": 0.5, "auc_high": 0.6, "accuracy": 0.9, "key": "real"}
    ]
    figures = [
        plots.volume_curve(
            [*points, points[0] | {"name": "1.03x", "volume": 1.03}, points[0] | {"name": "5x", "volume": 5.0}],
            {"real training": (0.6, 0.95)},
        ),
        plots.privacy_plane(points, "AUC"),
        plots.in_and_out((np.array([1.0, 2.0]), np.array([0.0, 0.5])), (1, 1), 1.5, "x", "t"),
    ]
    words = [" ".join(text.get_text() for text in figure.findobj(Text)) for figure in figures]
    axis = figures[0].axes[0]
    axis.figure.draw_without_rendering()
    places = {text.get_text(): text.get_window_extent() for text in axis.texts}
    assert set(places) == {"1x", "1.03x", "5x"}
    assert places["1x"].x1 < places["1.03x"].x0, "they would lie on one another"
    assert "real training" in words[0]
    assert "1  1x" in words[1]
    assert "shadows without it" in words[2]


def test_artefacts_have_names_and_an_order():
    names = ["images", "student-hard_fixed", "dp-sgd-1", "real", "student", "dp-sgd", "generator"]
    assert evidence.in_order(names) == [
        "real",
        "dp-sgd",
        "dp-sgd-1",
        "student",
        "student-hard_fixed",
        "generator",
        "images",
    ]
    assert evidence.title("student-hard_fixed") == "Student (hard fixed)"
    assert evidence.title("dp-sgd-1") == "DP-SGD, epsilon 1"
    spent = {"dp-sgd": {"epsilon": 0.9937}, "dp-sgd-8": {"epsilon": 7.9966}}
    assert [evidence.title(name, spent) for name in ("dp-sgd", "dp-sgd-8", "real")] == [
        "DP-SGD, epsilon 1",
        "DP-SGD, epsilon 8",
        "real training",
    ]
    measured = (("real", 0.7, 0.9), ("dp-sgd", 0.5, 0.2), ("dp-sgd-8", 0.52, 0.8))
    matrix = [{"artefact": name, "attack": "lira", "auc": auc, "accuracy": right} for name, auc, right in measured]
    assert evidence.references(matrix, spent) == {"real training": (0.7, 0.9), "DP-SGD, epsilon 8": (0.52, 0.8)}


def test_a_failed_control_takes_the_audit_s_word():
    caught = {"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9, "auc_error": 0.02}
    blind = {"auc": 0.5, "auc_low": 0.45, "auc_high": 0.55, "auc_error": 0.02}
    positive, negative = {"loss": caught, "lira": caught, "labels": blind}, {"loss": blind}
    assert belief.of_audit(positive, negative, caught) == []
    assert belief.missed(positive) == ["labels"]
    assert "lira missed" in belief.of_audit(positive | {"lira": blind}, negative, caught)[0]
    assert "loss attack found members in noise" in belief.of_audit(positive, {"loss": caught}, caught)[0]
    assert "planted copies were not found" in belief.of_audit(positive, negative, blind)[0]
    assert belief.of_audit(positive | {"lira": {"auc": None}}, negative, caught) == [], "two pipelines have no LiRA"


def test_shadows_of_another_audit_are_refused(tmp_path):
    folder = tmp_path / "my runs"
    for job in make(folder, 4):
        pretend(job)
    where = {"dataset": "digits", "profile": "smoke", "seed": 0, "checksum": "c", "runs_dir": folder}
    budget = profiles.budget("audit", "smoke")
    assert runs.begin("audit", replace(budget, pipelines=4), **where)
    with pytest.raises(InputError, match=r"07_shadow-00 was made for an audit of 4 pipelines, not of 2") as refused:
        runs.begin("audit", budget, **where)
    command = f"--profile smoke --datasets digits --seeds 0 --runs-dir '{folder}' --audit 2"
    assert command in str(refused.value), "the reader's own folders"


def test_every_profile_has_an_audit_of_the_size_that_is_documented():
    sizes = {name: (p.shadow.pipelines, p.audit.pipelines) for name, p in profiles.PROFILES.items()}
    assert sizes == {"smoke": (2, 2), "quick": (16, 16), "laptop": (16, 16), "paper": (64, 64)}
    assert replace(profiles.PROFILES["quick"].shadow, canaries=0.0).canaries == 0
    assert json.dumps(plan.audit_of(0, {})) == "[[], {}]"
