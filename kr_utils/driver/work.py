"""How much work a stage is: image-passes through the networks and comparisons, counted from budgets and sizes alone.

Nothing is measured here and no network is made, so the driver can count without torch; speed.py says how long each kind
of work takes on a computer. What a stage does twice over (several Teachers, several Students) is counted as often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

# What is counted. Passes are single images through a network. Those called `short` are of short Students and of all
# else that runs side by side, each on one thread; they are counted for the one process that has the most of them.
KINDS = {
    "train": "classifier: forward, backward and the optimiser's share",
    "label": "classifier: a Teacher's forward pass within a training step",
    "predict": "classifier: forward",
    "paint": "Generator: forward, backward and the optimiser's share",
    "draw": "Generator: forward, in whole blocks of images",
    "short_train": "as train",
    "short_label": "as label",
    "short_predict": "as predict",
    "short_draw": "as draw",
    "compare": "pixel values that the nearest-image search compares",
    "resample": "scores that a bootstrap draws",
    "start": "starts of Python with all libraries; figures are counted in the same unit",
}
BLOCK = 64  # images that a Generator draws at a time on a CPU (sampling.BLOCK)
DRAWS = 1.5  # images drawn per image kept under a filter threshold, 1 to recycling.MAX_ROUNDS; not known beforehand

# Starts of Python per stage: the kernel's own, then what figures and files cost (measured in the smoke profile).
STARTS = {"start": 1.1, "teacher": 1.4, "generator": 1.6, "checkpoints": 1.5, "tuning": 1.8, "distillation": 1.8}
STARTS |= {"membership": 1.6, "shadow": 2.0, "audit": 3.0, "release": 3.0, "compare": 1.4}
DP_STEP = 4.5  # trainings of an image that one with a gradient of its own costs
FITTED = 8  # classifiers of an audit that attack models are fitted to
FIT = 0.2  # starts of Python that this costs for each pipeline
ATTACKED = 14  # cells of the release matrix per artefact, about, with those of its controls
CLUSTERED = 900  # draws that each cell needs for its standard error (audit.CLUSTERED_DRAWS)
LEVELS = 4  # noise levels at which a Generator is asked (shadow.SIGMAS)


@dataclass(frozen=True)
class Sizes:
    """Of a dataset: images per split, classes, and the form of an image."""

    train: int
    val: int
    test: int
    classes: int
    channels: int
    height: int
    width: int


def of_stage(stage: str, budgets, sizes: Sizes, workers: int = 1) -> dict[str, float]:
    """Kind of work -> how much of it a stage is; kinds that it has nothing of are left out.

    Parameters
    ----------
    budgets : a `profiles.Profile`, for a stage's work follows other stages' budgets too
    workers : processes that train classifiers and draw images side by side, >= 1
    """
    count = {"generator": _generator, "membership": _membership, "audit": _audit}
    count["release"] = _release
    found = {"start": STARTS[stage]}
    if stage in count:
        found |= count[stage](budgets, sizes)
    if stage == "teacher":
        found |= _teacher(budgets, sizes, workers)
    if stage == "distillation":
        found |= _distillation(budgets, sizes, workers)
    if stage == "shadow":
        found |= _shadow(budgets, sizes, workers)
    if stage == "checkpoints":
        candidates = [_evaluations(budgets.checkpoints.guidance, budgets.checkpoints.steps)]
        candidates *= budgets.generator.checkpoints
        found |= _search(budgets.checkpoints, [candidates], budgets, sizes, workers)
    if stage == "tuning":
        found |= _search(budgets.tuning, _candidates(budgets), budgets, sizes, workers) | _few_step(budgets)

    # Worker processes load the libraries too, each time they start
    if workers > 1:
        found["start"] += {"teacher": 1, "checkpoints": 1, "tuning": 1, "distillation": 2, "shadow": 2}.get(stage, 0)
    return {kind: amount for kind, amount in found.items() if amount}


def _teacher(budgets, sizes: Sizes, workers: int) -> dict[str, float]:
    epochs, every = _teacher_epochs(budgets, sizes), sizes.train + sizes.val + sizes.test
    members = -(-budgets.teacher.members // workers)  # of the busiest process
    beside = {"short_train": members * epochs * sizes.train, "short_predict": members * epochs * sizes.val}
    return beside | {"predict": budgets.teacher.members * (every + sizes.val)}


def _teacher_epochs(budgets, sizes: Sizes) -> int:
    budget = budgets.teacher
    limits = {key: getattr(budget, key) for key in ("batch", "least_steps", "most_steps")}
    return epochs_within(budget.epochs, sizes.train, **limits)


def _generator(budgets, sizes: Sizes) -> dict[str, float]:
    budget = budgets.generator
    steps = steps_for(budget.steps, sizes.train, batch=budget.batch, passes=budget.passes, most_steps=budget.most_steps)
    shown = 12 * (budget.checkpoints + 2) + 3 * 6  # steps of the images in the notebook, a block each
    return {"paint": steps * budget.batch, "draw": shown * BLOCK}


def _few_step(budgets) -> dict[str, float]:
    """Consistency tuning: one more pass forward, and the guide's two of Heun's method, with a class and without."""
    images = budgets.tuning.few_steps * budgets.generator.batch
    guided = any(scale != 1 for scale in budgets.tuning.guidance)
    return {"paint": images, "draw": images * (5 if guided else 1)}


def _search(budget, rounds: list[list[float]], budgets, sizes: Sizes, workers: int) -> dict[str, float]:
    """Short Students of candidates.

    rounds : evaluations per image of each candidate; a round waits for the one before it
    """
    images = budget.images or sizes.train
    sets = -(-budget.epochs // budget.period)
    seen = budget.epochs * images

    # The busiest process of each round
    students = sum(-(-len(each) * budget.students // workers) for each in rounds)
    drawn = sum(-(-len(each) * budget.students // workers) * sum(each) / len(each) for each in rounds if each)
    return {
        "short_train": students * seen,
        "short_label": students * seen * budgets.teacher.members,
        "short_predict": students * sizes.val,
        "short_draw": drawn * sets * _blocks(images),
    }


def _candidates(budgets) -> list[list[float]]:
    """Evaluations per image of Tuning's candidates, round by round: a later knob is searched around an earlier one."""
    budget = budgets.tuning
    grid = [_evaluations(w, steps) for w in budget.guidance for steps in budget.steps]
    steps, usual = median(budget.steps), median(grid)
    per_step = usual / steps  # 2 under guidance

    # Heun's method evaluates twice a step; a filter draws again
    churn = [(2 * steps - 1) * per_step if value else usual for value in budget.churn]
    threshold = [usual * (DRAWS if value else 1) for value in budget.threshold]
    few = [float(steps) for steps in budget.few] if budget.few_steps else []
    mixtures = [usual] * (len(budget.temperature) * len(budget.hard_weight) - 1)
    return [each for each in (grid, churn, threshold, few, mixtures) if each]


def _chosen(budgets, epochs: int) -> tuple[float, float]:
    """(evaluations per image, sets in so many epochs) of what Tuning may choose: its result is not known beforehand.

    In the middle between an ordinary setting and, where there is one, the few-step Generator, which draws new images
    every epoch.
    """
    tuning, sets = budgets.tuning, -(-epochs // budgets.distillation.period)
    many = median(_evaluations(w, steps) for w in tuning.guidance for steps in tuning.steps)
    if not tuning.few_steps:
        return many, sets
    few = median(tuning.few)
    each = (many + few) / 2
    return each, (many * sets + few * epochs) / 2 / each


def _distillation(budgets, sizes: Sizes, workers: int) -> dict[str, float]:
    budget = budgets.distillation
    images, batch = budget.images or sizes.train, budgets.teacher.batch
    least = _teacher_epochs(budgets, sizes) * max(1, sizes.train // batch)
    epochs = epochs_within(budget.epochs, images, batch=batch, least_steps=least)
    each, sets = _chosen(budgets, epochs)

    # The 2x2 ablation, half of it labelled by Teachers, and the controls, three of which are (see notebook 05)
    students, labelled = 4 + 5 * budget.controls, 2 + 3 * budget.controls
    seen, busiest = epochs * images, _busiest(students, workers)
    passes = {"short_train": students * seen, "short_label": labelled * seen * budgets.teacher.members}
    passes["short_predict"] = students * epochs * sizes.val + sets * budget.controls * images * budgets.teacher.members
    looks = students * sizes.test + sizes.train + sizes.val + sizes.test + images * budgets.teacher.members

    # The regenerated sets are shared; the controls with other classes, or none, draw their own
    families = 1 + 2 * budget.controls
    drawn = -(-families * sets // workers) * _blocks(images) * each
    return {kind: busiest * amount for kind, amount in passes.items()} | {"predict": looks, "short_draw": drawn}


def _busiest(jobs: float, workers: int) -> float:
    """The share of so many equal jobs that the busiest of the processes has."""
    return -(-jobs // workers) / jobs


def _membership(budgets, sizes: Sizes) -> dict[str, float]:
    budget = budgets.membership
    overfit, released = min(budget.overfit_images, sizes.train), min(budget.released, sizes.train)

    # Every real image against each set of released or of other images
    values = sizes.channels * sizes.height * sizes.width
    fewer = min(released, sizes.val)
    pairs = (sizes.train + sizes.test) * (3 * released + 2 * fewer)
    audits, differences = 2 * 3 + 1 + 5, 3  # attacks, the positive control, five sets of images
    return {
        "train": budget.overfit_epochs * overfit,
        "predict": overfit + 2 * sizes.test,
        "draw": _blocks(released) * _chosen(budgets, 1)[0],
        "compare": pairs * values,
        "resample": (audits * budget.draws + differences * 500) * (sizes.train + sizes.test),
    }


def _release(budgets, sizes: Sizes) -> dict[str, float]:
    budget = budgets.release

    # Each image is drawn again, to see that it can be; every real image against them and the controls
    values, fewer = sizes.channels * sizes.height * sizes.width, min(budget.images, sizes.val)
    return {
        "predict": budget.images * budgets.teacher.members,
        "draw": 2 * _blocks(budget.images) * _chosen(budgets, 1)[0],
        "compare": (sizes.train + sizes.test) * (2 * budget.images + fewer) * values,
        "resample": 4 * budget.draws * (sizes.train + sizes.test),
    }


def _halves(sizes: Sizes) -> tuple[int, int]:
    """(members of a pipeline, all images that it is asked about), as `shadow.pool` cuts them (nearly)."""
    total = sizes.train + sizes.val + sizes.test
    pool = min(2 * sizes.train, int(0.8 * total)) // 2 * 2
    return pool // 2, pool + min(total - pool, sizes.train)


def _shadow(budgets, sizes: Sizes, workers: int) -> dict[str, float]:
    budget, target = budgets.shadow, budgets.distillation
    n, asked = _halves(sizes)
    half, batch = replace(sizes, train=n), budgets.teacher.batch
    size, teachers = target.images or n, budgets.teacher.members

    # On real images: Teachers, one without augmentation, one that overfits; and DP-SGD, alone
    epochs = _teacher_epochs(budgets, half)
    private = n * DP_STEP * budget.dp_epochs * len(budget.epsilons)
    real = n * ((teachers + 1) * epochs + budget.overfit_epochs) * _busiest(teachers + 2, workers)

    # Students, most of them labelled by the Teachers
    long = epochs_within(target.epochs, size, batch=batch, least_steps=epochs * max(1, n // batch))
    soft = 1 + budget.ablation + budget.few + len(budget.volumes) + 3 * budget.controls
    hard = 2 * budget.ablation + 2 * budget.controls
    seen = long * size * _busiest(soft + hard, workers)
    each, sets = _chosen(budgets, long)
    own_sets = max(sets, -(-max(budget.volumes) * n // size))  # the volumes are the first images of the stream
    all_sets = own_sets + 2 * budget.controls * sets
    drawn = all_sets * _busiest(all_sets, workers) * _blocks(size) * each
    few = budget.few * bool(budgets.tuning.few_steps)
    drawn += few * long * _busiest(long, workers) * _blocks(size) * min(budgets.tuning.few)
    paint = _generator(budgets, half)["paint"] + few * _few_step(budgets)["paint"]

    # What is stored of each image
    networks = teachers + 3 + len(budget.epsilons) + soft + hard
    return {
        "train": private,
        "short_train": real + (soft + hard) * seen,
        "short_label": soft * seen * teachers,
        "predict": networks * asked * budget.queries,
        "paint": paint,
        "short_draw": drawn,
        "draw": few * _few_step(budgets)["draw"] + asked * budget.noises * LEVELS,
        "compare": asked * n * sizes.channels * sizes.height * sizes.width,
    }


def _audit(budgets, sizes: Sizes) -> dict[str, float]:
    shadow, several = budgets.shadow, budgets.audit.pipelines
    artefacts = 6 + len(shadow.epsilons) + 4 * shadow.ablation + 5 * shadow.controls + shadow.few + 2
    decisions = several * 2 * _halves(sizes)[0]
    draws = artefacts * (ATTACKED + 1) * (budgets.audit.draws + CLUSTERED)  # and once more beside real training
    return {"resample": draws * decisions, "start": STARTS["audit"] + FITTED * FIT * several}


def _evaluations(guidance: float, steps: int) -> float:
    """Of the network per image without churn, as `sampling.evaluations`."""
    return steps * (1 if guidance == 1 else 2)


def _blocks(images: int) -> int:
    """Images that are computed for so many: a last block is filled up."""
    return -(-images // BLOCK) * BLOCK


def epochs_within(epochs: int, images: int, *, batch: int, least_steps: int = 0, most_steps: int = 0) -> int:
    """As `classifier.epochs_within`, which needs torch."""
    each = max(1, images // batch)
    wanted = max(epochs, -(-least_steps // each))
    return max(1, min(wanted, most_steps // each)) if most_steps else wanted


def steps_for(steps: int, images: int, *, batch: int, passes: int, most_steps: int) -> int:
    """As `generator.steps_for`, which needs torch."""
    wanted = passes * images // batch
    return max(steps, min(wanted, most_steps or wanted))
