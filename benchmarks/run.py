#!/usr/bin/env python3
"""The loop's speed against what people would otherwise use, side by side in one run: `make bench`.

Each case alternates reference and ours several times and prints the ratio of the times, median and range. Where
accuracy could differ it is printed beside the ratio: the validation CAS (digits) of short Students, on fixed
synthetic sets of 500 images with the Teacher's soft labels.
"""

from __future__ import annotations

import argparse
import gc
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from kr_utils import (
    audit,
    captured,
    classifier,
    consistency,
    data,
    generator,
    panels,
    precision,
    profiles,
    recycling,
    sampling,
    selection,
    stages,
)
from kr_utils.runs import machine

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RECIPE = classifier.Recipe(width=16, depth=8, batch=64, lr=0.1, weight_decay=5e-4)
PAINTING = generator.Training(steps=10, batch=128, lr=1e-3, ema_decay=0.995, label_dropout=0.1)
AUGMENT = classifier.Augmentation(3, True, False, 0.25)
KINDS = (torch.float32, torch.bfloat16)


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(reference: Callable, ours: Callable, rounds: int) -> dict:
    """Times of both, alternating."""
    reference(), ours()  # warm up
    return ratios([(seconds(reference), seconds(ours)) for _ in range(rounds)])


def ratios(pairs: list[tuple[float, float]]) -> dict:
    each = [a / b for a, b in pairs]
    a, b = (statistics.median(column) for column in zip(*pairs))
    return {"reference": a, "ours": b, "ratio": statistics.median(each), "low": min(each), "high": max(each)}


def pictures(n: int, side: int = 28, classes: int = 2) -> data.Split:
    """Random images: speed does not depend on what they show."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8, generator=rng)
    return data.Split(images, torch.arange(n) % classes)


class Digits:
    """What the cases about sampling share: Teacher, our Generator (many-step and few-step), the reference network."""

    def __init__(self, quick: bool):
        import reference

        self.ds = data.load("digits")
        budget, tuning = profiles.PROFILES["quick"].generator, profiles.PROFILES["quick"].tuning
        self.teacher = classifier.build(10, 1, 16, 8, 0).to(DEVICE)
        self.augment = classifier.Augmentation.for_dataset(self.ds.info, 8, 0.25)
        train, val = self.ds.train.to(DEVICE), self.ds.val.to(DEVICE)
        training = classifier.Training(RECIPE, 2 if quick else 40, self.augment)
        classifier.fit(self.teacher, lambda e: train, val, training, seed=0)
        sizes = {"width": budget.width, "levels": budget.levels, "layers": budget.layers, "fold": budget.fold}
        self.model = generator.build(10, self.ds.train.images, **sizes, seed=0).to(DEVICE)
        self.reference = generator.build(10, self.ds.train.images, **sizes, seed=0).unet.to(DEVICE)
        share = 0.05 if quick else 1
        painting = replace(PAINTING, steps=int(share * budget.steps), lr=budget.lr)
        generator.fit(self.model, self.ds.train, painting, seed=0)
        self.few = generator.Generator(**(self.model.config | {"consistency": True})).to(DEVICE)
        self.few.load_state_dict(self.model.state_dict())
        leaping = replace(PAINTING, steps=int(share * tuning.few_steps), lr=tuning.few_lr)
        generator.fit(self.few, self.ds.train, leaping, seed=0, loss_function=consistency.loss)
        arrays = (self.ds.train.images.numpy(), self.ds.train.labels.numpy())
        # Twice our steps: the reference has no EMA and needs longer to the same images.
        reference.train_diffusion(self.reference, *arrays, steps=int(2 * share * budget.steps), batch=128, fold=2)

    def cas(self, images: torch.Tensor, labels: torch.Tensor, students: int) -> float:
        made, found = data.Split(images, labels).to(DEVICE), []
        training = classifier.Training(RECIPE, 15, self.augment, self.teacher)
        for k in range(students):
            model = classifier.build(10, 1, RECIPE.width, RECIPE.depth, k).to(DEVICE)
            classifier.fit(model, lambda epoch: made, None, training, seed=k)
            found.append(classifier.accuracy(model, self.ds.val))
        return statistics.mean(found)


def case_sampling(quick: bool) -> list[dict]:
    import reference

    digits, rows = Digits(quick), []
    block = sampling.BLOCK[DEVICE]
    labels, many = torch.arange(block) % 10, torch.arange(500) % 10
    settings = {"12 steps": (digits.model, 12), "8 steps": (digits.model, 8)}  # 8: what Tuning chose for digits
    settings |= {"2 steps": (digits.few, 2), "1 step": (digits.few, 1)}
    ours = {}
    for name, (model, n) in () if quick else settings.items():
        ours[name] = digits.cas(sampling.sample(model, many, seed=1, steps=n), many, 3)
    for steps, goal in ((1000, {"cpu": 50, "cuda": 100}), (50, {"cpu": 50, "cuda": 50})):

        def plain(wanted=labels, steps=steps):
            return reference.sample(digits.reference, wanted, (4, 4, 4), steps=steps, fold=2)

        theirs = None if quick else digits.cas(plain(many), many, 3)

        def draw(model, n):
            return sampling.sample(model, labels, seed=0, steps=n)

        for setting in settings.values():
            draw(*setting)  # warm up
        rounds = [
            (seconds(plain), *(seconds(lambda s=s: draw(*s)) for s in settings.values()))
            for _ in range(1 if quick else 3)
        ]
        what = "DDPM, 1000 steps" if steps == 1000 else "DDIM, 50 steps"
        for k, name in enumerate(settings, 1):
            note = "CAS not compared (--quick)"
            if not quick:
                note = f"CAS reference {100 * theirs:.1f}, ours {100 * ours[name]:.1f}"
            found = ratios([(row[0], row[k]) for row in rounds])
            few = steps == 1000 or settings[name][0] is digits.few  # the goal beside DDIM is the few-step Generator's
            wanted = f">= {goal[DEVICE]}" if few else "report"
            rows.append({"case": f"sampling: {what} / ours, {name}", "goal": wanted, **found, "note": note})
    return rows


def case_generator(quick: bool) -> list[dict]:
    import reference

    split, sizes = pictures(1024), {"width": 64, "levels": 2, "layers": 1, "fold": 2}
    ours = generator.build(2, split.images, **sizes, seed=0).to(DEVICE)
    theirs = generator.build(2, split.images, **sizes, seed=0).unet.to(DEVICE)
    steps = 3 if quick else 10
    training = replace(PAINTING, steps=steps, hflip=True)
    arrays = (split.images.numpy(), split.labels.numpy())
    found = compare(
        lambda: reference.train_diffusion(theirs, *arrays, steps=steps, batch=128, fold=2),
        lambda: generator.fit(ours, split, training, seed=0),
        2 if quick else 5,
    )
    rate = achieved(ours, found["ours"] / steps)
    goals = {"cpu": (">= 2", ">= 40 %"), "cuda": (">= 3", ">= 30 %")}[DEVICE]
    note = f"{128 * steps / found['ours']:.0f} images/s, with EMA and flips; 28x28, fold 2, {sizes['levels']} levels"
    return [{"case": "Generator training: diffusers' example / ours", "goal": goals[0], **found, "note": note},
            {"case": "Generator step: share of the matrix-multiply rate", "goal": goals[1], **rate}]  # fmt: skip


def case_compile(quick: bool) -> list[dict]:
    """What the rule in kr_utils/precision.py rests on: what compiling the Generator costs, and what it saves a step."""
    if quick:
        return []
    split = pictures(512)
    model = generator.build(2, split.images, width=64, levels=2, layers=1, fold=2, seed=0).to(DEVICE)
    clean, labels = model.encode(split.images[:128].to(DEVICE)), split.labels[:128].to(DEVICE)
    rng = torch.Generator(device=DEVICE).manual_seed(0)
    network = precision.compiled(model, (clean, torch.ones(128, device=DEVICE), labels), steps=10**12)

    def step(used):
        generator.edm_loss(used, model, clean, labels, 0.0, rng).backward()
        model.zero_grad(set_to_none=True)

    step(model)
    cost = seconds(lambda: step(network))
    found = compare(lambda: [step(model) for _ in range(5)], lambda: [step(network) for _ in range(5)], 5)
    saved = (found["reference"] - found["ours"]) / 5
    after = f"repaid after {cost / saved:.0f} steps" if saved > 0 else "never repaid"
    note = f"compiling took {cost:.0f} s: {after}; 28x28, fold 2, batch 128"
    return [{"case": "Generator forward and backward: eager / compiled", "goal": "report", **found, "note": note}]


def case_precision(quick: bool) -> list[dict]:
    """What the other rule in kr_utils/precision.py rests on: a training step in float32 and in bfloat16."""
    if quick:
        return []
    split = pictures(64)
    model = generator.build(2, split.images, width=64, levels=2, layers=1, fold=2, seed=0).to(DEVICE)
    network = classifier.build(2, 1, 16, 14, 0).to(DEVICE, memory_format=torch.channels_last)
    inputs = classifier.normalise(split.images.to(DEVICE)).contiguous(memory_format=torch.channels_last)
    clean, labels = model.encode(split.images[:16].to(DEVICE)), split.labels.to(DEVICE)
    rng = torch.Generator(device=DEVICE).manual_seed(0)

    def classify(kind: torch.dtype) -> torch.Tensor:
        with torch.autocast(DEVICE, dtype=kind, enabled=kind is KINDS[1]):
            logits = network(inputs)
        return torch.nn.functional.cross_entropy(logits.float(), labels)

    def denoise(kind: torch.dtype) -> torch.Tensor:
        chosen = torch.autocast(DEVICE, dtype=kind, enabled=kind is KINDS[1])
        with mock.patch.object(generator, "autocast", return_value=chosen):
            return generator.edm_loss(model, model, clean, labels[:16], 0.0, rng)

    rows = []
    for name, loss in (("Generator, batch 16", denoise), ("ResNet-14 of width 16, batch 64", classify)):
        plain, half = (lambda kind=kind, loss=loss: [loss(kind).backward() for _ in range(5)] for kind in KINDS)
        note = f"28x28; the rule takes {'bfloat16' if precision.autocast(DEVICE)._enabled else 'float32'} here"
        rows.append({"case": f"{name}: float32 / bfloat16", "goal": "report", **compare(plain, half, 5), "note": note})
    return rows


def achieved(model: generator.Generator, step_seconds: float) -> dict:
    from torch.utils.flop_counter import FlopCounterMode

    x = model.encode(pictures(128).images).to(DEVICE)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(x, torch.ones(128, device=DEVICE), torch.zeros(128, dtype=torch.long, device=DEVICE))
    n = 2048 if DEVICE == "cpu" else 8192
    square, best = torch.randn(n, n, device=DEVICE), {}
    for kind in KINDS:  # whichever this hardware multiplies faster
        a = square.to(kind)
        best[str(kind)[6:]] = min(seconds(lambda a=a: a @ a) for _ in range(5))
    fastest = min(best, key=best.get)
    rate, top = 3 * counter.get_total_flops() / step_seconds, 2 * n**3 / best[fastest]
    note = f"{rate / 1e9:.0f} of {top / 1e9:.0f} GFLOP/s ({fastest}), data loading and optimiser included"
    return {"ratio": rate / top, "percent": True, "note": note}


def case_epoch(quick: bool) -> list[dict]:
    import reference

    split, batch = pictures(1024), 128
    ours, theirs = (classifier.build(2, 1, 16, 14, 0).to(DEVICE) for _ in range(2))
    on_device, val = split.to(DEVICE), pictures(64).to(DEVICE)
    training = classifier.Training(replace(RECIPE, batch=batch), 1, AUGMENT)
    found = compare(
        lambda: reference.train_classifier(theirs, split.images.numpy(), split.labels.numpy(), epochs=1, batch=batch),
        lambda: classifier.fit(ours, lambda epoch: on_device, val, training, seed=0),
        2 if quick else 5,
    )
    goal = {"cpu": ">= 1.2", "cuda": ">= 5"}[DEVICE]
    note = "ResNet-14 of width 16, 1024 images 28x28; ours augments and validates, the reference does not"
    return [{"case": "Teacher epoch: MedMNIST's loop / ours", "goal": goal, **found, "note": note}]


def student(few, teacher, n: int, period: int | None, epochs: int, side: int = 28, depth: int = 14) -> Callable:
    """A GKD training of `epochs` epochs on a stream that regenerates every `period`; sampling is part of the work."""
    counts = np.array([n - n // 2, n // 2])
    val = pictures(64, side).to(DEVICE)

    training = classifier.Training(replace(RECIPE, depth=depth, batch=128), epochs, AUGMENT, teacher)

    def work():
        stream = recycling.SyntheticStream(few, recycling.Knobs(steps=1), counts, seed=0, period=period)
        network = classifier.build(2, 1, RECIPE.width, depth, 0).to(DEVICE)
        classifier.fit(network, stream, val, training, seed=0)

    return work


def few_step(side: int = 28) -> generator.Generator:
    model = generator.build(2, pictures(8, side).images, width=64, levels=2, layers=1, fold=2, seed=0).to(DEVICE)
    model.config["consistency"] = True
    return model.eval()


def case_gkd(quick: bool) -> list[dict]:
    few, epochs, rows = few_step(), 3 if quick else 6, []
    for members in (1, 4):
        teachers = (classifier.build(2, 1, 16, 14, k).to(DEVICE) for k in range(1, members + 1))
        teacher = classifier.Ensemble(teachers).eval()
        works = [student(few, teacher, 512, period, epochs) for period in (1, None)]
        note = f"{epochs} epochs each, 512 images 28x28, one-step Generator, labelled by {members} Teacher(s); "
        note += "the fixed set is sampled once, in its time"
        found = compare(*works, 2 if quick else 5)
        case = f"GKD, {members} Teacher(s): new images every epoch / a fixed set"
        rows.append({"case": case, "goal": "<= 1.2", **found, "note": note})
    return rows


def case_graphs(quick: bool) -> list[dict]:
    """What a CUDA graph saves of the steps of the `laptop` budget; on the CPU there are none."""
    if DEVICE == "cpu":
        return []
    split, rows, rounds = pictures(1500).to(DEVICE), [], 2 if quick else 5
    teacher = classifier.Ensemble(classifier.build(2, 1, 16, 14, k) for k in range(1, 5)).to(DEVICE)
    recipe = replace(RECIPE, erase=0.25)
    real = classifier.Training(recipe, 6 if quick else 40, AUGMENT)
    gkd = replace(real, teacher=teacher, temperature=4.0)
    painting = replace(PAINTING, steps=100 if quick else 1000, batch=16)

    def classify(training):
        network = classifier.build(2, 1, 16, 14, 0).to(DEVICE)
        return classifier.fit(network, lambda epoch: split, None, training, seed=0)[-1]["train_loss"]

    def paint():
        model = generator.build(2, split.images.cpu(), width=64, levels=2, layers=1, fold=2, seed=0).to(DEVICE)
        return generator.fit(model, split, painting, seed=0)[-1]["loss"]

    works = {"a real classifier": lambda: classify(real), "a Student of four Teachers": lambda: classify(gkd)}
    for name, work in (works | {"the Generator": paint}).items():

        def eager(work=work):
            with mock.patch.object(captured, "WARM_UP", 10**9):
                return work()

        note = "the same loss to the last bit" if eager() == work() else "ANOTHER LOSS"
        rows.append(
            {"case": f"{name}: eager / CUDA graph", "goal": "report", **compare(eager, work, rounds), "note": note}
        )
    return rows


def case_sweep(quick: bool) -> list[dict]:
    """The CPU's way: a selection sweep in processes of one thread each, against one after another."""
    if DEVICE == "cuda":
        return []
    digits = data.load("digits")
    teacher = classifier.build(10, 1, 16, 8, 0)
    model = generator.build(10, digits.train.images, width=64, levels=1, layers=1, fold=2, seed=0)
    training = classifier.Training(RECIPE, 5 if quick else 15, classifier.Augmentation(1), teacher)
    shared = {"training": training, "counts": np.full(10, 100), "period": 10, "seed": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.safetensors"
        generator.save(model, path)
        jobs = [(path, recycling.Knobs(steps=8))] * 2
        with selection.Search(digits.val, students=4, **shared) as search:

            def singly():
                for _, knobs in jobs:
                    for k in range(4):
                        selection.short_student((model, knobs, k), digits.val, **shared)

            found = compare(singly, lambda: search(jobs), 1 if quick else 3)
    note = f"8 short Students on digits, {torch.get_num_threads()} processes; the processes were warm"
    return [{"case": "selection sweep: one by one / in processes", "goal": "report", **found, "note": note}]


def case_size(quick: bool) -> list[dict]:
    few, teacher = few_step(), classifier.build(2, 1, 16, 8, 1).to(DEVICE).eval()
    sizes = (512, 2048) if quick else (1024, 4096, 16384)
    times = {}
    for n in sizes:
        work = student(few, teacher, n, 1, 1, depth=8)
        work()
        times[n] = min(seconds(work) for _ in range(1 if n > 5000 or quick else 3))
    each = {n: times[n] / n for n in sizes}
    note = ", ".join(f"{n}: {1e3 * each[n]:.2f} ms an image" for n in sizes)
    ratio = each[sizes[-1]] / each[sizes[0]]
    return [
        {"case": f"cost per image, {sizes[-1]} / {sizes[0]} images", "goal": "<= 1.05", "ratio": ratio, "note": note}
    ]


def case_stage(quick: bool) -> list[dict]:
    """A stage that does nothing but open and store, run by the driver, against papermill on an empty notebook."""
    import nbformat
    import papermill

    from kr_utils.driver import execute, plan

    start = nbformat.read(stages.NOTEBOOKS / "00_start_here.ipynb", 4)
    parameters = next(cell for cell in start.cells if "parameters" in cell.metadata.get("tags", []))
    code = """
from pathlib import Path
from kr_utils import profiles, runs, stages
stages.NOTEBOOKS = Path(".").resolve()
budget, told = profiles.budget("start", profile, overrides), {"dataset": dataset, "profile": profile, "seed": seed}
runs.begin("start", budget, checksum="", runs_dir=runs_dir, **told).finish({})"""
    kernel = {"kernelspec": start.metadata.kernelspec}
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")], metadata=kernel)
    idle = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(code)], metadata=kernel)
    usual = stages.NOTEBOOKS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        nbformat.write(empty, root / "empty.ipynb")
        nbformat.write(idle, root / "00_start_here.ipynb")
        try:
            stages.NOTEBOOKS = root
            given = {
                "root": root / "runs",
                "figures": root / "figures",
                "overrides": {},
                "until": "start",
                "force": True,
            }

            def ours():
                (job,) = plan.plan("smoke", ["digits"], [0], {"digits": ""}, **given)
                execute.execute(job)

            def plain():
                papermill.execute_notebook(root / "empty.ipynb", root / "out.ipynb", progress_bar=False)

            found = compare(ours, plain, 3 if quick else 7)
        finally:
            stages.NOTEBOOKS = usual
    found["reference"], found["ours"] = found["ours"], found["reference"]  # the ratio wanted is ours to theirs
    return [
        {"case": "a stage that does nothing / papermill on an empty notebook", "goal": "<= 1.3", **found, "note": ""}
    ]


def case_run(quick: bool) -> list[dict]:
    """The whole quick run on digits, in processes of its own."""
    if quick:
        return []
    with tempfile.TemporaryDirectory() as folder:
        code = """if True:
            import resource, subprocess, sys, time
            started = time.time()
            code = subprocess.run([sys.executable, *sys.argv[1:]]).returncode
            print(time.time() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, code)"""
        call = [sys.executable, "-c", code, ROOT / "run_all.py", "--runs-dir", folder, "--figures-dir", f"{folder}/f"]
        out = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    took, memory, failed = out.split()[-3:]
    if failed != "0":
        raise SystemExit(out)
    note = f"largest process {gigabytes(int(memory)):.1f} GB"
    return [{"case": "whole quick run on digits, minutes", "goal": "<= 3", "ratio": float(took) / 60, "note": note}]


def gigabytes(most: int) -> float:
    """The largest memory of a process as `getrusage` tells it: in bytes on macOS, in kilobytes elsewhere."""
    return most / (2**30 if sys.platform == "darwin" else 2**20)


def case_estimate(quick: bool) -> list[dict]:
    """What a first --dry-run says of each stage on digits, against what the stages then take."""
    profile = "smoke" if quick else "quick"
    with tempfile.TemporaryDirectory() as folder:
        call = [sys.executable, ROOT / "run_all.py", "--profile", profile]
        call += ["--runs-dir", folder, "--figures-dir", f"{folder}/f"]
        told, took = (
            subprocess.run([*call, *more], capture_output=True, text=True, cwd=ROOT, check=True).stdout
            for more in (["--dry-run"], [])
        )

    # "run    digits seed 0  01_teacher: not run yet  (about 12 s)"; "[2/8] digits seed 0  01_teacher  done in 13 s"
    units = {"s": 1, "min": 60, "h": 3600}
    said = {
        name: float(n) * units[unit] for name, n, unit in re.findall(r"(\d\d_\w+):.*\(about ([\d.]+) (\w+)\)", told)
    }
    done = {name: float(n) for name, n in re.findall(r"(\d\d_\w+)  done in (\d+) s", took)}
    pairs = {name: (said[name], done[name]) for name in done}
    note = ", ".join(f"{name[:2]} {a / b:.2f}" for name, (a, b) in pairs.items())
    sums = [sum(column) for column in zip(*pairs.values())]
    factors = [a / b for a, b in pairs.values()]
    found = {
        "reference": sums[0],
        "ours": sums[1],
        "ratio": sums[0] / sums[1],
        "low": min(factors),
        "high": max(factors),
    }
    return [
        {"case": f"{profile} run on digits: seconds estimated / taken", "goal": "0.67 to 1.5", **found, "note": note}
    ]


def case_panels(quick: bool) -> list[dict]:
    """From a knob to the new picture, for the slowest panel at its dearest setting."""
    model, shown = generator.build(2, pictures(8, 28).images, width=64, levels=2, layers=1, fold=2, seed=0).eval(), []
    with mock.patch.object(panels, "display", shown.append):
        panels.sampler_panel(model, ("a", "b"), interactive=True)
    _, guidance, steps, churn, _ = shown[-1].children
    guidance.value, steps.value = guidance.max, steps.max - 1
    each = []
    for value in [1.0, 2.0] if quick else [1.0, 2.0, 3.0, 4.0, 5.0]:
        each.append(seconds(lambda value=value: setattr(churn, "value", value)))
    took = statistics.median(each)
    return [{"case": "a panel's answer to a knob, seconds", "goal": "<= 1", "ratio": took, "note": "sampler, 28x28"}]


def case_audit(quick: bool) -> list[dict]:
    """A cell of the release matrix with its intervals, against scikit-learn's AUC of the same number of draws."""
    import reference

    inside = audit.halves(200 if quick else 900, 16, 0)
    scores = np.random.default_rng(0).normal(size=inside.shape) + 0.1 * inside
    draws = 10 if quick else 300

    def ours() -> None:
        audit.pooled(scores, inside, draws=draws)

    def plain() -> None:
        reference.bootstrap_auc(scores, inside, draws=3 * audit.CLUSTERED_DRAWS + draws)

    found = compare(plain, ours, rounds=1 if quick else 5)
    note = f"{inside.size} decisions; ours measures the rates at few false alarms and the advantage, too"
    return [{"case": "a cell of the audit: AUC by scikit-learn / ours", "goal": "report", **found, "note": note}]


CASES = {name[5:]: function for name, function in globals().items() if name.startswith("case_")}


def line(row: dict) -> list[str]:
    percent = row.get("percent")
    number = (lambda v: f"{100 * v:.0f} %") if percent else (lambda v: f"{v:.2f}" if v < 20 else f"{v:.0f}")
    spread = f" [{number(row['low'])}, {number(row['high'])}]" if "low" in row else ""
    times = f"{row['reference']:.2f} / {row['ours']:.2f}" if "reference" in row else ""
    return [row["case"], times, number(row["ratio"]) + spread, row["goal"], row["note"]]


def keep(path: Path, text: str) -> None:
    """Put the table into a Markdown file, between its markers; what people wrote around them stays."""
    before, after = "# Benchmarks\n\n", "\n"
    if path.is_file() and "<!-- table -->" in (old := path.read_text()):
        before, after = old.split("<!-- table -->")[0], old.split("<!-- /table -->")[1]
    path.write_text(f"{before}<!-- table -->\n{text}\n<!-- /table -->{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and images, no CAS, no whole run; minutes")
    parser.add_argument("--only", default="", help=f"cases, comma-separated: {', '.join(CASES)}")
    parser.add_argument("--out", default="", help="also write the table to this Markdown file")
    args = parser.parse_args()
    wanted = [name for name in args.only.split(",") if name] or list(CASES)
    unknown = [name for name in wanted if name not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    header = ["case", "seconds, reference / ours", "ratio [range]", "goal", "note"]
    hardware, versions = machine.hardware(), machine.versions()
    about = f"{hardware['cpu']}, {hardware['cores']} cores, threads: {hardware['threads']}, "
    about += f"GPU: {hardware['gpu'] or 'none'}; "
    about += ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "diffusers", "papermill"))
    print(about, flush=True)
    rows, started = [], time.time()
    for name in wanted:
        for row in CASES[name](args.quick):
            rows.append(line(row))
            print(" | ".join(rows[-1]), flush=True)
    about += f"; commit {machine.git_commit()}; {(time.time() - started) / 60:.0f} minutes"
    print(about)
    if args.out:
        body = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
        keep(Path(args.out), "\n".join([f"`make bench`. {about}.", "", *body]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
