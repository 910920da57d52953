"""Figures from plain arrays and dicts. Nothing here knows a model; every function returns a Figure.

None of them is registered with pyplot: panels draw in a thread of their own while cells run, and IPython shows every
figure that pyplot has open in whichever cell ends next.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import LogFormatter, LogLocator, NullLocator

from kr_utils import metrics, owned

style.use(["default", str(Path(__file__).with_name("kr.mplstyle"))])  # and nothing of a user's matplotlibrc
MARKERS = "osD^vPX"
COLOURS = {"real": "#0072B2", "ensemble": "#000000", "student": "#D55E00", "control": "#009E73", "chance": "#666666"}
TITLES = {
    "real": "real training",
    "ensemble": "real ensemble",
    "student": "GKD Student",
    "control": "overfitted (positive control)",
}


class Plain(LogFormatter):
    """Plain numbers on log axes, "0.01": matplotlib would write a formula, and a "$" begins none in these figures."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _plain_numbers(*axes) -> None:
    """On log axes, each the x or y axis of a plot."""
    for axis in axes:
        axis.set_major_formatter(Plain())
        axis.set_minor_formatter(Plain())


def save(figure: Figure, folder: Path, name: str, alt: str) -> list[Path]:
    """Write `<name>.png`, `<name>.pdf` and the alt text `<name>.txt`; the same figure gives the same bytes."""
    owned.make(folder)
    paths = [folder / f"{name}.{end}" for end in ("png", "pdf", "txt")]
    with owned.writing(paths[0]) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
    with owned.writing(paths[1]) as file:
        figure.savefig(file, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    owned.write(paths[2], alt.strip() + "\n")
    return paths


def show(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook, with a text for those who cannot see it."""
    from IPython.display import Image, display

    display(Image(png(figure)), metadata={"image/png": {"alt": alt.strip()}})


def png(figure: Figure) -> bytes:
    """The figure as it is shown on a screen."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi="figure", metadata={"Software": None})
    return file.getvalue()


def _subplots(rows: int = 1, columns: int = 1, figsize: tuple[float, float] | None = None, **options):
    """A figure and its axes, as `pyplot.subplots` gives them."""
    figure = Figure(figsize=figsize)
    return figure, figure.subplots(rows, columns, **options)


def rows_of_images(rows: dict[str, np.ndarray], title: str = "") -> Figure:
    """A row of uint8 images [N, C, H, W] per name, the name on its left."""
    columns = max(map(len, rows.values()))
    figure, axes = _subplots(len(rows), 1, figsize=(0.62 * columns + 1.2, 0.72 * len(rows) + 0.4), squeeze=False)
    for axis, (name, images) in zip(axes[:, 0], rows.items()):
        show_image(axis, tile(images, columns))
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    if title:
        axes[0, 0].set_title(title, fontsize=10)
    return figure


def titled(images: np.ndarray, titles: Sequence[str]) -> Figure:
    """A row of uint8 images [N, C, H, W], each below its title."""
    figure, axes = _subplots(1, len(titles), figsize=(1.1 * len(titles), 1.7), squeeze=False)
    for axis, image, title in zip(axes[0], images, titles, strict=True):
        show_image(axis, image)
        axis.set_title(title, fontsize=8)
    return figure


def show_image(axis, image: np.ndarray) -> None:
    """Draw one uint8 image [C, H, W] with 1 or 3 channels on an axis without ticks."""
    axis.imshow(np.moveaxis(image, 0, -1).squeeze(), vmin=0, vmax=255, cmap="gray")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Arrange uint8 images [N, C, H, W] in one image [C, H', W'], `columns` wide, white gaps between."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    canvas = np.full((channels, rows * (height + 1) - 1, columns * (width + 1) - 1), 255, np.uint8)
    for k, image in enumerate(images):
        y, x = (k // columns) * (height + 1), (k % columns) * (width + 1)
        canvas[:, y : y + height, x : x + width] = image
    return canvas


def class_grid(panels: dict[str, np.ndarray], labels: dict[str, np.ndarray], names: tuple[str, ...], per_class: int):
    """Side-by-side panels (say real and synthetic): one row per class, `per_class` images each.

    panels, labels : title -> images uint8 [N, C, H, W] and their labels [N]
    """
    # Sizes
    classes = len(names)
    side = next(iter(panels.values())).shape[-1]
    # Between 0.22 and 0.5 inches an image, so that a few large classes and many small ones both fit a page.
    inch = float(np.clip(side / 45, 0.22, 0.5))
    figure, axes = _subplots(
        1, len(panels), figsize=(len(panels) * (per_class * inch + 0.3) + 1.2, classes * inch + 0.5), squeeze=False
    )

    for column, (axis, (title, images)) in enumerate(zip(axes[0], panels.items(), strict=True)):
        # A row per class, filled up with white
        picked = []
        for k in range(classes):
            own = images[labels[title] == k][:per_class]
            blank = np.full((per_class - len(own), *images.shape[1:]), 255, np.uint8)
            picked.append(np.concatenate([own, blank]))
        show_image(axis, tile(np.concatenate(picked), per_class))
        axis.set_title(title)

        # Class names, once
        if column == 0:
            axis.set_yticks(np.arange(classes) * (side + 1) + side / 2, [_short(name) for name in names], fontsize=8)
            axis.tick_params(length=0)
    return figure


def pairs(upper: np.ndarray, lower: np.ndarray, titles: tuple[str, str], distances: np.ndarray) -> Figure:
    """Uint8 images [N, C, H, W], each above the one that belongs to it; below, their distance [N] in grey levels."""
    figure, axes = _subplots(2, len(upper), figsize=(1.0 * len(upper) + 1.2, 2.4), squeeze=False)
    for row, (images, title) in enumerate(zip((upper, lower), titles)):
        for axis, image in zip(axes[row], images, strict=True):
            show_image(axis, image)
        axes[row, 0].set_ylabel(title, fontsize=9)
    for axis, distance in zip(axes[1], distances, strict=True):
        axis.set_xlabel(f"{distance:.0f}", fontsize=9)
    return figure


def _short(name: str, length: int = 18) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def pipeline() -> Figure:
    """The stages of Knowledge Recycling and what flows between them."""
    figure, axis = _subplots(figsize=(9.6, 4.0))
    axis.set(xlim=(0, 12.4), ylim=(0, 5.3))
    axis.axis("off")

    # Boxes: left, bottom, width, text, colour
    boxes = {
        "real": (0.1, 2.0, 1.5, "Real\ntraining\nimages", "#E8E8E8"),
        "val": (5.5, 2.0, 1.6, "Real\nvalidation\nimages", "#E8E8E8"),
        "teacher": (2.5, 3.4, 1.9, "01 Teacher\nreal baseline", "#CFE3F3"),
        "generator": (2.5, 0.6, 1.9, "02 Generator\ndiffusion", "#CFE3F3"),
        "selection": (5.1, 0.6, 2.2, "03 Checkpoints\n04 Tuning\n(validation CAS)", "#D5EEDF"),
        "stream": (8.0, 0.6, 1.8, "Synthetic\nimages, new\nevery period", "#FBE3CC"),
        "student": (8.0, 3.4, 1.8, "05 Student\nGKD", "#FBE3CC"),
        "cas": (10.5, 3.4, 1.4, "CAS", "#FBE3CC"),
        "test": (10.5, 2.0, 1.4, "Real test\nimages", "#E8E8E8"),
        "attack": (10.5, 0.6, 1.4, "06 Attacks\non 01, 05 and\nthe images", "#F6D5D5"),
    }
    middle = {}
    for key, (x, y, width, text, colour) in boxes.items():
        axis.add_patch(FancyBboxPatch((x, y), width, 1.15, boxstyle="round,pad=0.06", fc=colour, ec="#444444", lw=1))
        axis.text(x + width / 2, y + 0.57, text, ha="center", va="center", fontsize=9)
        middle[key] = (x, x + width, y + 0.57)

    # Arrows
    arrow = {"arrowstyle": "-|>", "color": "#444444", "lw": 1.3, "shrinkA": 5, "shrinkB": 5}

    def link(start: tuple, end: tuple, text: str = "", at: tuple = (0, 0), **style) -> None:
        axis.annotate("", xy=end, xytext=start, arrowprops={**arrow, **style})
        if text:
            axis.text(*at, text, fontsize=8, color="#444444", ha="center")

    for target in ("teacher", "generator"):
        link((1.6, 2.57), (2.5, middle[target][2]))
    link((4.4, 1.17), (5.1, 1.17))
    link((7.3, 1.17), (8.0, 1.17))
    link((4.4, 3.97), (8.0, 3.97), "soft labels (Generative Knowledge Distillation)", (6.2, 4.1))
    link((3.6, 3.4), (5.3, 1.75), "soft labels,\nfilter", (3.75, 2.4))
    link((8.9, 1.75), (8.9, 3.4), "images", (9.3, 2.5))
    link((9.8, 3.97), (10.5, 3.97))
    link((9.5, 3.4), (10.5, 1.5))
    link((9.8, 1.17), (10.5, 1.17))
    link((6.3, 2.0), (6.3, 1.75), shrinkA=2, shrinkB=2)
    link((11.2, 3.15), (11.2, 3.4), shrinkA=2, shrinkB=2)
    link((11.2, 2.0), (11.2, 1.75), shrinkA=2, shrinkB=2)

    # What chooses an epoch; what else the attacks need, around everything
    dashed = {"ls": "--", "lw": 1}
    link((5.5, 2.57), (4.2, 3.4), "epoch", (5.15, 3.0), **dashed)
    link((7.1, 2.57), (8.2, 3.4), "epoch", (7.95, 2.7), **dashed)
    ways = (([3.45, 3.45, 12.25, 12.25], [4.6, 5.0, 5.0, 1.17], (11.9, 1.17), "attacked, too", (7.9, 5.08)),)
    ways += (([0.85, 0.85, 11.2], [1.95, 0.1, 0.1], (11.2, 0.6), "members", (6.2, 0.18)),)
    for x, y, end, text, at in ways:
        axis.plot(x, y, color=arrow["color"], **dashed)
        link((x[-1], y[-1]), end, text, at, **dashed, shrinkA=0)
    return figure


def curves(series: dict[str, tuple[list, list]], xlabel: str, ylabel: str, marks: dict[str, tuple] | None = None):
    """Lines by name: name -> (x, y); `marks` sets a star at a chosen point of each."""
    figure, axis = _subplots(figsize=(5.6, 3.2))
    for k, (name, (x, y)) in enumerate(series.items()):
        axis.plot(x, y, marker=MARKERS[k % 7], markevery=max(1, len(x) // 12), label=name)
    for name, (x, y) in (marks or {}).items():
        axis.plot([x], [y], "*", color="black", markersize=13, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    return figure


def confusion(matrix: np.ndarray, names: tuple[str, ...]) -> Figure:
    """Counts by true class (rows) and predicted class (columns), shaded by row share."""
    # Shaded by the share of each row
    matrix = np.asarray(matrix)
    size = 1.8 + 0.42 * len(names)
    figure, axis = _subplots(figsize=(size + 0.8, size))
    axis.imshow(matrix / np.maximum(matrix.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    axis.grid(False)

    # Counts, where there is room
    if len(names) <= 20:
        for i, j in np.ndindex(*matrix.shape):
            if matrix[i, j]:
                dark = matrix[i, j] > 0.5 * matrix[i].sum()
                axis.text(j, i, matrix[i, j], ha="center", va="center", fontsize=8, color="white" if dark else "black")

    # Axes
    short = [_short(name) for name in names]
    axis.set_xticks(range(len(names)), short, rotation=60, ha="right", fontsize=8)
    axis.set_yticks(range(len(names)), short, fontsize=8)
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def checkpoint_curve(groups: dict[str, tuple[list[dict], int]]) -> Figure:
    """Validation CAS, and below it the validation loss that decides, against training step.

    Parameters
    ----------
    groups : name -> (rows with step, cas, val_loss, below (the distance to the highest CAS) and error (its standard
        error); the chosen step). Filled dots are within two standard errors of the highest CAS, open ones are not.
    """
    figure, axes = _subplots(2, 1, figsize=(5.6, 4.4), sharex=True)
    for k, (name, (rows, chosen)) in enumerate(groups.items()):
        colour, marker, x = f"C{k}", MARKERS[k % 7], [row["step"] for row in rows]
        good = np.array([row["below"] <= 2 * row["error"] for row in rows])
        cas, loss = 100 * np.array([row["cas"] for row in rows]), np.array([row["val_loss"] for row in rows])
        axes[0].errorbar(x, cas, 200 * np.array([row["error"] for row in rows]), color=colour, capsize=3, label=name)
        axes[1].plot(x, loss, color=colour)

        # Filled where the CAS is as good as the highest; the star is the lowest loss among these
        for axis, values in zip(axes, (cas, loss)):
            axis.plot(np.array(x)[good], values[good], marker, color=colour, ls="")
            axis.plot(np.array(x)[~good], values[~good], marker, color=colour, ls="", markerfacecolor="white")
            at = x.index(chosen)
            axis.plot(x[at], values[at], "*", markersize=15, color=colour, markeredgecolor="black", zorder=3)

    for axis in axes:
        axis.ticklabel_format(useOffset=False, style="plain")
        axis.margins(0.06, 0.15)  # room for a star at the edge
    axes[0].set(ylabel="validation CAS (%)")
    axes[0].set_xlim(0, axes[0].get_xlim()[1])
    axes[1].set(ylabel="validation loss", xlabel="training step of the checkpoint")
    words = "Filled: as good as the highest CAS; star: lowest loss of these"
    axes[0].set_title(f"{words}\nwhiskers: two errors of the distance to the highest", fontsize=9)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure


def tuning_front(groups: dict[str, tuple[list[dict], dict, list[dict]]], settings: Sequence[str] = ()) -> Figure:
    """Validation CAS against cost, each setting with its number; name -> (all rows, chosen, rows on the front).

    settings : what each number stands for, written below
    """
    figure, axis = _subplots(figsize=(6.4, 3.8))
    for k, (name, (rows, chosen, front)) in enumerate(groups.items()):
        colour = f"C{k}"
        axis.plot(*_cost_cas(front), "-", color=colour, drawstyle="steps-post", label=f"{name}: the front")
        axis.plot(*_cost_cas(rows), MARKERS[k % 7], color=colour, label="settings, by their numbers")
        style = {"color": colour, "markersize": 15, "markeredgecolor": "black", "zorder": 3}
        axis.plot(*_cost_cas([chosen]), "*", label="chosen", **style)

        # Settings at the same place share a label; neighbours above one another have theirs on alternate sides
        places: dict[tuple[float, float], list[str]] = {}
        for number, (x, y) in enumerate(zip(*_cost_cas(rows)), 1):
            places.setdefault((x, round(y, 1)), []).append(str(number))
        for side, ((x, y), numbers) in enumerate(sorted(places.items())):
            left = side % 2
            where = {"xytext": (-10 if left else 10, -3), "ha": "right" if left else "left", "fontsize": 8}
            where |= {"bbox": {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none"}}  # the line passes behind
            axis.annotate(", ".join(numbers), (x, y), textcoords="offset points", **where)
    axis.set(xlabel="network evaluations per kept image", ylabel="validation CAS (%)")
    axis.ticklabel_format(useOffset=False, style="plain")
    axis.margins(0.12)
    axis.set_title("Tuning: accuracy against cost")
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    if settings:
        lines = "\n".join(f"{number}: {words}" for number, words in enumerate(settings, 1))
        figure.set_figheight(figure.get_figheight() + 0.19 * (len(settings) + 1))
        axis.set_xlabel(f"{axis.get_xlabel()}\n\n{lines}", loc="left", multialignment="left")
    return figure


def _cost_cas(rows: list[dict]) -> tuple[list[float], list[float]]:
    return [row["cost"] for row in rows], [100 * row["cas"] for row in rows]


def dots(names: list[str], series: dict[str, list[tuple]], xlabel: str, title: str, zero: bool = False) -> Figure:
    """A line per name, from above; on it a dot with its interval for each series, in percent.

    Parameters
    ----------
    series : name -> (value, low, high) as fractions, for each line; nan draws no dot, nan bounds no whisker
    zero : whether to mark zero, for differences
    """
    step = 0.8 / len(series)
    figure, axis = _subplots(figsize=(6.4, 1.5 + len(names) * max(0.28, 0.16 * len(series))))
    known = {TITLES[key]: COLOURS[key] for key in TITLES}

    # Stripes, so that the eye stays on its line
    for k in range(0, len(names), 2):
        axis.axhspan(k - 0.5, k + 0.5, color="#F2F2F2", lw=0, zorder=0)
    if zero:
        axis.axvline(0, color=COLOURS["chance"], lw=1, ls=":")

    for k, (name, values) in enumerate(series.items()):
        value, low, high = 100 * np.array(values, dtype=float).T
        y = np.arange(len(names)) + (k - (len(series) - 1) / 2) * step
        whiskers = np.nan_to_num([value - low, high - value]).clip(0)
        style = {"color": known.get(name, f"C{k}"), "markersize": 5, "lw": 1.2, "capsize": 2, "label": name}
        axis.errorbar(value, y, xerr=whiskers, fmt=MARKERS[k % 7], **style)

    axis.set_yticks(range(len(names)), [_short(name, 30) for name in names])
    axis.set(xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
    axis.grid(False, axis="y")
    axis.set_title(title)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure


def roc(curves_: dict[str, tuple[list[np.ndarray], list[np.ndarray], str]], title: str) -> Figure:
    """Attack ROC on log axes: the mean over seeds, and a band from the lowest to the highest seed.

    curves_ : name -> (scores of members, scores of non-members, key of `COLOURS`); an array per seed
    """
    figure, axis = _subplots(figsize=(4.6, 4.6))
    floor = min(1 / len(scores) for _, others, _ in curves_.values() for scores in others)

    # A curve per model: every seed's steps, read off on one grid
    grid = np.geomspace(floor, 1, 2000)
    for k, (name, (members, non_members, key)) in enumerate(curves_.items()):
        steps = [metrics.roc(inner, outer) for inner, outer in zip(members, non_members, strict=True)]
        tpr = np.array([y[np.searchsorted(x, grid * (1 + 1e-9), side="right") - 1] for x, y in steps])
        auc = np.mean([metrics.attack_auc(inner, outer) for inner, outer in zip(members, non_members)])
        style = {"color": COLOURS.get(key, key), "ls": ("-", "--", "-.", ":")[k % 4]}
        axis.plot(grid, tpr.mean(0), label=f"{name}: AUC {auc:.3f}", **style)
        if len(tpr) > 1:
            axis.fill_between(grid, tpr.min(0), tpr.max(0), color=style["color"], alpha=0.18, lw=0)

    # Chance, and log axes from one non-member on
    axis.plot(grid, grid, color=COLOURS["chance"], lw=1, label="chance")
    axis.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1.05))
    _plain_numbers(axis.xaxis, axis.yaxis)
    axis.set(xlabel="false-positive rate", ylabel="true-positive rate", title=title)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


def threshold(members: np.ndarray, non_members: np.ndarray, level: float, title: str) -> Figure:
    """An attack at one threshold: the scores on either side of it, and where that is on the ROC.

    members, non_members : scores, higher where the attacker thinks of a member; level : what is called one
    """
    figure, (left, right) = _subplots(1, 2, figsize=(8.4, 3.3), width_ratios=(3, 2))

    # Both histograms on the same edges, by decades: most images have scores of nearly zero, and there they differ
    pooled = np.append(np.concatenate([members, non_members]), level)
    top = float(np.abs(pooled).max()) or 1.0
    small = max(float(np.quantile(np.abs(pooled), 0.02)), top / 1e8)
    left.set_xscale("symlog", linthresh=small)
    bent = left.xaxis.get_transform()
    low, high = bent.transform(np.array([pooled.min(), pooled.max()]))
    rim = 0.02 * (high - low) + 0.01 * small  # of the transform, which is linear up to `small`
    edges = bent.inverted().transform(np.linspace(low - rim, high + rim, 40))
    for scores, name, key, line in ((members, "members", "real", "-"), (non_members, "others", "student", "--")):
        share = np.full(len(scores), 1 / len(scores))
        left.hist(scores, edges, weights=share, histtype="step", lw=2, ls=line, label=name, color=COLOURS[key])
    left.axvline(level, color="black", ls=":", lw=1.5)
    left.axvspan(level, edges[-1], color="#E4E4E4", lw=0, zorder=0)
    left.set(xlabel=title, ylabel="share of the images", xlim=(edges[0], edges[-1]))
    left.xaxis.get_major_locator().set_params(numticks=5)
    left.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}" if abs(value) >= 10 * small else "0" * (not value))
    left.set_title("grey: called a member", fontsize=10)

    # The ROC on log axes, down to a single false alarm
    tpr, fpr = (float((scores >= level).mean()) for scores in (members, non_members))
    floor = 1 / len(non_members)
    x, y = metrics.roc(members, non_members)
    right.plot(x, y, color=COLOURS["real"])
    line = np.geomspace(floor, 1, 50)
    right.plot(line, line, color=COLOURS["chance"], lw=1, ls="-.", label="chance")
    right.axvline(0.01, color=COLOURS["chance"], lw=1, ls=":", label="1 % FPR")
    right.plot(max(fpr, floor), max(tpr, floor), "ko", markersize=8, label="here")
    right.set(xscale="log", yscale="log", xlim=(floor * 0.8, 1.1), ylim=(floor * 0.8, 1.1))
    right.set(xlabel="false-positive rate", ylabel="true-positive rate")
    right.set_title(f"TPR {tpr:.3f} at FPR {fpr:.3f}", fontsize=10)
    _plain_numbers(right.xaxis, right.yaxis)
    figure.legend(fontsize=8, loc="outside lower center", ncols=5)
    return figure


def probabilities(image: np.ndarray, values: np.ndarray, names: tuple[str, ...], title: str) -> Figure:
    """An image uint8 [C, H, W], and beside it a bar per class for probabilities [K]."""
    figure, (left, right) = _subplots(1, 2, figsize=(6.4, max(1.9, 0.24 * len(names) + 0.9)), width_ratios=(1, 2))
    show_image(left, image)
    left.set_title(title, fontsize=10)
    right.barh(range(len(names)), values, color=COLOURS["real"])
    right.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=8)
    right.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="probability")
    right.grid(False, axis="y")
    return figure


def record(image: np.ndarray, rates: dict[str, float], floor: float, title: str) -> Figure:
    """An image, and for each artefact the false-positive rate at which an attacker would accuse it.

    rates : artefact -> share of outsiders that look at least as much like a member; floor : the smallest one there is
    """
    figure, (left, right) = _subplots(1, 2, figsize=(7.2, 0.42 * len(rates) + 1.7), width_ratios=(1, 3))
    show_image(left, image)
    left.set_title(title, fontsize=10)
    right.axvspan(floor * 0.5, 0.01, color="#F2F2F2", lw=0, zorder=0)
    right.axvline(0.01, color=COLOURS["chance"], lw=1, ls=":")
    right.plot([max(rate, floor * 0.7) for rate in rates.values()], range(len(rates)), "o", color=COLOURS["student"])
    right.set_yticks(range(len(rates)), [_short(name, 30) for name in rates], fontsize=9)
    right.set(xscale="log", xlim=(floor * 0.5, 1.2), ylim=(len(rates) - 0.5, -0.5))
    right.set(xlabel="false-positive rate that it takes (grey: below 1 %)")
    _plain_numbers(right.xaxis)
    return figure


def utility_privacy(points: list[dict]) -> Figure:
    """Test accuracy against attack AUC; a line joins real training and Student of one dataset.

    points : dicts with dataset, real and student, each (accuracy, AUC), both (value, low, high) as fractions; nan
        bounds draw no whisker
    """
    figure, axis = _subplots(figsize=(5.6, 4.1))

    # Real training, Student, and the way from one to the other
    for k, point in enumerate(points):
        places = {}
        for who in ("real", "student"):
            (y, y_ends), (x, x_ends) = ((value[0], np.array(value[1:])) for value in point[who])
            places[who] = x, 100 * y
            spread = {"xerr": [abs(x_ends[:1] - x), abs(x_ends[1:] - x)]}
            spread["yerr"] = [100 * abs(y_ends[:1] - y), 100 * abs(y_ends[1:] - y)]
            style = {"fmt": MARKERS[k % 7], "color": COLOURS[who], "markersize": 9, "elinewidth": 0.8, "capsize": 2}
            style |= {"markerfacecolor": "white"} if who == "real" else {}  # told apart in grey, too
            axis.errorbar(x, 100 * y, **spread, **style)
        axis.annotate("", places["student"], places["real"], arrowprops={"arrowstyle": "->", "color": "#666666"})

    # Chance, and the legend
    axis.axvline(0.5, color=COLOURS["chance"], lw=1, ls=":")
    for key in ("real", "student"):
        fill = {"markerfacecolor": "white"} if key == "real" else {}
        axis.plot([], [], "o", color=COLOURS[key], label=TITLES[key], **fill)
    for k, point in enumerate(points):
        axis.plot([], [], MARKERS[k % 7], color="#333333", label=point["dataset"])
    axis.plot([], [], ":", color=COLOURS["chance"], label="no leakage seen (AUC 0.5)")
    axis.set(xlabel="AUC of the loss attack (further left leaks less to it)", ylabel="test accuracy (%)")
    axis.margins(0.18)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure


EVIDENCE = {
    "leaks": ("#B2182B", "white", ""),  # of a middle AUC: see `SHADES`
    "no evidence": ("#C6DBEF", "black", ""),
    "no power": ("white", "#666666", "///"),
}

SHADES = ("#C24F3B", "#B2182B", "#4D0010")  # of a leak: AUC 0.5, 0.75 and 1


def release_matrix(cells: dict[tuple[str, str], dict], rows: list[str], columns: list[str], title: str) -> Figure:
    """What leaks from which artefact (a row each) to which attack: AUC, below it the TPR at 1 % FPR.

    Red: leaks, the darker the larger the AUC. Light: no evidence at this power. Hatched: no power. They are told apart
    in grey, too.

    Parameters
    ----------
    cells : (row, column) -> auc (None: the attack could not be made), tpr_1, evidence; other pairs stay empty
    """
    figure, axis = _subplots(figsize=(1.9 + 0.55 * len(columns), 1.5 + 0.46 * len(rows)))
    shades = LinearSegmentedColormap.from_list("leaks", SHADES)
    for (row, column), cell in cells.items():
        x, y = columns.index(column), rows.index(row)
        fill, ink, hatch = EVIDENCE[cell["evidence"]]
        fill = shades(2 * cell["auc"] - 1) if cell["evidence"] == "leaks" else fill
        box = {"fc": fill, "ec": "#BBBBBB" if hatch else "white", "hatch": hatch, "lw": 1}
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **box))

        # On hatching a number needs a ground
        text = "—" if cell["auc"] is None else f"{cell['auc']:.2f}"
        ground = {"bbox": {"fc": "white", "ec": "none", "pad": 1}} if hatch else {}
        axis.text(x, y - 0.12, text, ha="center", va="center", color=ink, fontsize=9, **ground)
        if cell["auc"] is not None and cell.get("tpr_1") is not None:
            axis.text(x, y + 0.27, f"{100 * cell['tpr_1']:.1f} %", ha="center", va="center", color=ink, fontsize=6.5)

    # Names, and what the fills mean
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="left", fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.xaxis.tick_top()
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axis.grid(False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    names = {"leaks": "leaks (darker: larger AUC)", "no evidence": "no evidence at this power", "no power": "no power"}
    marks = [
        Rectangle((0, 0), 1, 1, fc=EVIDENCE[k][0], hatch=EVIDENCE[k][2], ec="#888888", label=v)
        for k, v in names.items()
    ]
    marks.append(Line2D([], [], ls="", label="large: AUC; small: members found at 1 % false alarms"))
    figure.legend(handles=marks, fontsize=8, loc="outside lower center", ncols=2)
    figure.suptitle(title, fontsize=10)
    return figure


def volume_curve(points: list[dict], references: dict[str, tuple[float, float]], attack: str = "the attack") -> Figure:
    """Leakage and accuracy of Students against how many different synthetic images they saw.

    Parameters
    ----------
    points : volume (in multiples of the real images), auc, auc_low, auc_high, accuracy, name; by rising volume
    references : name -> (AUC, accuracy) of networks without synthetic images, drawn as lines across
    attack : its name
    """
    figure, axes = _subplots(1, 2, figsize=(8.4, 3.4))
    x = [point["volume"] for point in points]
    auc, accuracy = ([point[key] for point in points] for key in ("auc", "accuracy"))
    spread = np.array([[p["auc"] - p["auc_low"], p["auc_high"] - p["auc"]] for p in points]).T.clip(0)
    axes[0].errorbar(x, auc, spread, fmt="o-", color=COLOURS["student"], capsize=3, label="Student")
    axes[0].axhline(0.5, color=COLOURS["chance"], lw=1, ls=":", label="guessing")
    axes[1].plot(x, 100 * np.array(accuracy), "o-", color=COLOURS["student"])

    # What real training has, and names of the points
    for k, (name, (level, right)) in enumerate(references.items()):
        style = {"color": (COLOURS["real"], COLOURS["control"])[k % 2], "ls": ("--", "-.")[k % 2], "lw": 1.3}
        axes[0].axhline(level, label=name, **style)
        axes[1].axhline(100 * right, **style)
    for k, point in enumerate(points):
        close = x[k + 1 :] and x[k + 1] < 1.3 * x[k]  # then its name stands on the left
        where = {"xytext": (-4 if close else 4, 6), "ha": "right" if close else "left", "fontsize": 7}
        for axis, y in ((axes[0], point["auc"]), (axes[1], 100 * point["accuracy"])):
            axis.annotate(point["name"], (point["volume"], y), textcoords="offset points", **where)
    for axis, label in zip(axes, (f"AUC of {attack}", "accuracy on non-members (%)")):
        axis.set(xscale="log", xlabel="different synthetic images / real images", ylabel=label)
        _plain_numbers(axis.xaxis)
        axis.margins(0.18)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    return figure


def privacy_plane(points: list[dict], xlabel: str) -> Figure:
    """Accuracy against the attack's AUC, a numbered point per artefact: up is more useful, to the left leaks less.

    Accuracies stand on a log scale of their errors: most artefacts lie close together at the top, DP-SGD far below.

    points : name, auc, auc_low, auc_high, accuracy, key (of `COLOURS`)
    """
    figure, (axis, names) = _subplots(1, 2, figsize=(8.2, 4.4), width_ratios=(3, 1.3))
    keys = list(dict.fromkeys(point["key"] for point in points))
    for number, point in enumerate(points, 1):
        x, y, k = point["auc"], _error(point["accuracy"]), keys.index(point["key"])
        spread = [[max(0, x - point["auc_low"])], [max(0, point["auc_high"] - x)]]
        style = {"color": COLOURS[point["key"]], "fmt": MARKERS[k % 7], "capsize": 2, "markersize": 7, "lw": 1}
        axis.errorbar(x, y, xerr=spread, **style)

        # The list beside it
        height = 1 - (number - 0.5) / max(12, len(points))
        names.plot(0.03, height, MARKERS[k % 7], color=COLOURS[point["key"]], markersize=6)
        names.text(0.1, height, f"{number}  {point['name']}", va="center", fontsize=8)
    names.set(xlim=(0, 1), ylim=(0, 1))
    names.axis("off")
    axis.axvline(0.5, color=COLOURS["chance"], lw=1, ls=":")
    axis.set(xlabel=xlabel, ylabel="accuracy on non-members (%)")
    axis.margins(0.12)
    axis.set_yscale("log")
    least, most = (_error(f(point["accuracy"] for point in points)) for f in (max, min))
    axis.set_ylim(min(1.3 * most, 120), least / 1.3)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda error, _: f"{100 - error:g}" if error <= 100 else "")
    axis.yaxis.set_minor_locator(NullLocator())
    figure.draw_without_rendering()  # where the points come to lie
    _numbered(axis, np.array([[point["auc"], _error(point["accuracy"])] for point in points]))
    return figure


def _error(accuracy: float) -> float:
    """In percent, as the log scale of `privacy_plane` shows it: at least a tenth."""
    return max(100 - 100 * accuracy, 0.1)


def _numbered(axis: Axes, points: np.ndarray) -> None:
    """The numbers 1, 2, ... beside points [N, 2], each at the nearest place where it covers no point and no number."""
    places = axis.transData.transform(points) / axis.figure.dpi * 72
    angles = np.radians(45 + 30 * np.arange(12))
    taken = list(places)
    for number, (at, place) in enumerate(zip(points, places), 1):
        offsets = [r * np.array([np.cos(a), np.sin(a)]) for r in (12, 18, 25, 33, 42, 52) for a in angles]
        free = (o for o in offsets if min(np.hypot(*(np.array(taken) - place - o).T)) > 11)
        offset = next(free, offsets[0])
        taken.append(place + offset)
        line = {"arrowprops": {"arrowstyle": "-", "lw": 0.5, "color": "#999999"}} if np.hypot(*offset) > 13 else {}
        style = {"ha": "center", "va": "center", "fontsize": 8, "textcoords": "offset points"}
        axis.annotate(str(number), at, tuple(offset), **style, **line)


def in_and_out(
    sides: tuple[np.ndarray, np.ndarray], spreads: Sequence[float], target: float, xlabel: str, title: str
) -> Figure:
    """A record's scores in pipelines with it and without it, each with a Gaussian; the target's as a line.

    sides : scores with and without; spreads : the Gaussians' standard deviations
    """
    figure, axis = _subplots(figsize=(5.6, 3.0))
    low, high = np.min([*sides[0], *sides[1], target]), np.max([*sides[0], *sides[1], target])
    line = np.linspace(low - 0.2 * (high - low + 1), high + 0.2 * (high - low + 1), 200)
    for k, (name, colour) in enumerate((("with it", "real"), ("without it", "student"))):
        style, values, spread = {"color": COLOURS[colour], "ls": ("-", "--")[k]}, sides[k], spreads[k]
        if len(values):
            density = np.exp(-((line - np.mean(values)) ** 2) / (2 * spread**2)) / spread / (2 * np.pi) ** 0.5
            axis.plot(line, density, label=f"shadows {name}", **style)
        axis.plot(values, np.full(len(values), -0.03 * (k + 1)), ("|", "x")[k], color=COLOURS[colour], markersize=8)
    axis.axvline(target, color="black", lw=1.4, label="the target")
    axis.set(xlabel=xlabel, ylabel="density", title=title)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    return figure
