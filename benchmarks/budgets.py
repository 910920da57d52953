#!/usr/bin/env python3
"""What a change to the Student's budget does, on validation images only, over seeds: the numbers that budgets rest on.

    python benchmarks/budgets.py --datasets breastmnist --seeds 0,1,2 --try temperature=1 --try balance=prior,period=6

Trains the GKD Student of notebook 05 again on the Teacher, Generator and knobs of finished runs, once with each `--try`
(fields of the `distillation` budget), and sets it beside the run's own. No test split is read. Each row is printed as
it comes and kept in benchmarks/budgets.csv with the fingerprints of the stages it rests on; the table of all rows in
that file goes to benchmarks/budgets.md. A row that is there already is not measured again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from kr_utils import (  # noqa: E402
    InputError,
    classifier,
    data,
    fingerprints,
    generator,
    profiles,
    recycling,
    runs,
    seeds,
    workflow,
)

WHICH = ["profile", "dataset", "seed", "budget"]
NEEDS = ("teacher", "generator", "checkpoints", "tuning", "distillation")
OWN = "as it is"
MEASURES = {"val_accuracy": "accuracy, %", "val_loss": "loss", "divergence": "divergence from the Teacher"}


def scores(logits: torch.Tensor, wanted: torch.Tensor, labels: torch.Tensor) -> dict:
    """Accuracy, loss and divergence KL(Teacher || Student) on validation images; `logits` and the Teacher's, [N, K]."""
    found = {"val_accuracy": 100 * (logits.argmax(1) == labels).float().mean().item()}
    found["val_loss"] = F.cross_entropy(logits, labels).item()
    target, guess = wanted.log_softmax(1), logits.log_softmax(1)
    return found | {"divergence": F.kl_div(guess, target, reduction="batchmean", log_target=True).item()}


def train(stages: dict[str, runs.Done], ds: data.Dataset, budget: profiles.Distillation, seed: int) -> torch.Tensor:
    """The validation logits of a Student trained as in notebook 05, under `budget`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = classifier.load(stages["teacher"].file("teacher.safetensors"), device)
    recipe = stages["teacher"].manifest["ingredients"]["budget"]
    step = stages["checkpoints"].metrics["checkpoint"]
    size = budget.images or min(len(ds.train), budget.most_images or len(ds.train))
    stream = recycling.SyntheticStream(
        generator.load(stages["generator"].file(f"checkpoint-{step:07d}.safetensors"), device),
        recycling.Knobs(**stages["tuning"].metrics["knobs"]),
        recycling.class_counts(size, ds.train.labels, ds.info.classes, budget.balance),
        seed=seeds.derive(seed, "distillation"), period=budget.period, teacher=teacher, device=device,
    )  # fmt: skip
    student, _ = recycling.train_student(
        recipe, stream, ds.val.to(device), classes=ds.info.classes, channels=ds.shape[0], epochs=budget.epochs,
        augment=classifier.Augmentation.for_dataset(ds.info, ds.shape[1], recipe["erase"]),
        seed=seeds.derive(seed, "student"), teacher=teacher, temperature=budget.temperature,
        hard_weight=budget.hard_weight, device=device,
    )  # fmt: skip
    return classifier.predict(student, ds.val.images.to(device)).cpu()


def table(rows: pd.DataFrame) -> str:
    """Markdown: the mean of each measure over seeds, and its change from the profile's own budget on the same seeds."""
    head = ["profile", "dataset", "budget", "seeds", *MEASURES.values()]
    lines = [head, ["---"] * len(head)]
    for (profile, dataset), group in rows.groupby(["profile", "dataset"], sort=False):
        own = group[group.budget == OWN].set_index("seed")
        for budget, each in group.groupby("budget", sort=False):
            each = each.set_index("seed").sort_index()
            cells = [profile, dataset, budget, ", ".join(map(str, each.index))]
            for name in MEASURES:
                change = (each[name] - own[name]).dropna()  # seeds in both
                text = f"{each[name].mean():.3g}"
                if budget != OWN and len(change):
                    text += f" ({change.mean():+.2g}" + (f" ± {change.sem():.1g}" if len(change) > 1 else "") + ")"
                cells.append(text)
            lines.append(cells)
    note = "In brackets: the change from the profile's own budget on the same seeds, ± one standard error."
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + f"\n\n{note}\n"


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--profile", default="laptop")
    p.add_argument("--datasets", default="breastmnist")
    p.add_argument("--seeds", default="0,1,2")
    p.add_argument("--try", dest="tries", action="append", default=[], metavar="FIELD=VALUE,...")
    p.add_argument("--data-root", default="")
    p.add_argument("--runs-dir", default="")
    p.add_argument("--out", type=Path, default=ROOT / "benchmarks/budgets.csv")
    args = p.parse_args(argv)
    try:
        tries = {OWN: {}}
        for text in args.tries:
            settings = [f"distillation.{field}" for field in text.split(",")]
            tries[text] = workflow.parse_settings(settings, args.profile)["distillation"]
        rows = pd.read_csv(args.out, dtype=str) if args.out.exists() else pd.DataFrame()
        found = runs.find(runs.runs_root(args.runs_dir), args.profile)
        for dataset, seed in itertools.product(args.datasets.split(","), map(int, args.seeds.split(","))):
            stages, ds = found.get((dataset, seed), {}), data.load(dataset, args.data_root)
            for need in NEEDS:
                if need not in stages:
                    raise InputError(
                        f"{dataset} seed {seed} of profile {args.profile} has no {need}; run_all.py makes it"
                    )
            wanted = torch.from_numpy(stages["teacher"].npz("logits.npz")["val"])
            for text, fields in tries.items():
                row = dict(zip(WHICH, (args.profile, dataset, str(seed), text)))
                base = stages["distillation"].manifest["ingredients"]["budget"]
                row["fields"] = json.dumps(base | fields)
                row |= {stage: stages[stage].manifest["fingerprint"] for stage in NEEDS[:4]}
                known = rows[(rows[WHICH] == [row[key] for key in WHICH]).all(axis=1)] if len(rows) else rows
                if len(known) and all(known.iloc[0][key] == value for key, value in row.items()):
                    continue
                began = time.time()
                if text == OWN:
                    logits = torch.from_numpy(stages["distillation"].npz("logits.npz")["val"])
                else:
                    logits = train(stages, ds, profiles.Distillation(**base | fields), seed)
                row |= scores(logits, wanted, ds.val.labels) | {"minutes": (time.time() - began) / 60}
                row |= {"commit": fingerprints.git_commit(), "hardware": fingerprints.hardware()["cpu"]}
                print(
                    dataset, "seed", seed, text, {key: round(row[key], 4) for key in (*MEASURES, "minutes")}, flush=True
                )
                rows = pd.concat([rows.drop(known.index), pd.DataFrame([row])], ignore_index=True)
                rows.to_csv(args.out, index=False)
    except (InputError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import run

    rows = pd.read_csv(args.out)
    run.keep(args.out.with_suffix(".md"), table(rows))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
