"""Panels for the live notebook (ipywidgets) with a static twin for executed copies.

A panel shows what is already computed or samples a few images; it never trains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display

from kr_utils import attacks, plots

if TYPE_CHECKING:
    from kr_utils import generator


def sample_grid(
    model: generator.Generator, label: int, guidance: float, steps: int, churn: float, seed: int, n: int = 8
):
    """uint8 [n, C, H, W]: images 0..n-1 of the seed, so that a change of one knob changes nothing else."""
    from kr_utils import sampling  # not above: most notebooks have no use for it, and it takes seconds

    labels = torch.full((n,), label, dtype=torch.int64)
    return sampling.sample(model, labels, seed=seed, guidance=guidance, steps=steps, churn=churn).numpy()


def sampler_panel(model: generator.Generator, class_names: tuple[str, ...], interactive: bool, seed: int = 0) -> None:
    """Sample the Generator: class, guidance, solver steps, churn. Static twin: three settings, one above the other."""
    # Static twin
    if not interactive:
        settings = [(1.0, 3), (1.0, 12), (3.0, 12)]
        _, axes = plt.subplots(len(settings), 1, figsize=(5, 0.9 * len(settings) + 0.4), squeeze=False)
        for axis, (guidance, steps) in zip(axes[:, 0], settings, strict=True):
            images = sample_grid(model, 0, guidance, steps, 0.0, seed)
            plots.show_image(axis, plots.tile(images, len(images)))
            axis.set_title(f"{class_names[0]}: guidance {guidance:g}, {steps} steps", fontsize=9)
        plt.show()
        return
    import ipywidgets as widgets

    # Knobs
    picture = widgets.Output()
    label = widgets.Dropdown(options=[(name, k) for k, name in enumerate(class_names)], description="class")
    guidance = widgets.FloatSlider(1.0, min=0.5, max=6, step=0.5, description="guidance", continuous_update=False)
    steps = widgets.IntSlider(12, min=1, max=40, description="steps", continuous_update=False)
    churn = widgets.FloatSlider(0.0, min=0, max=20, step=2, description="churn", continuous_update=False)

    # The picture follows the knobs
    def redraw(_=None) -> None:
        images = sample_grid(model, label.value, guidance.value, steps.value, churn.value, seed)
        with picture:
            picture.clear_output(wait=True)
            figure, axis = plt.subplots(figsize=(5, 1))
            plots.show_image(axis, plots.tile(images, len(images)))
            display(figure)
            plt.close(figure)

    for widget in (label, guidance, steps, churn):
        widget.observe(redraw, names="value")
    redraw()
    display(widgets.VBox([label, guidance, steps, churn, picture]))


def threshold_panel(scored: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], interactive: bool) -> None:
    """Move the attacker's threshold over the scores of members and non-members.

    scored : model title -> attack -> (member scores, non-member scores). Static twin: the loss attack
    on every model, threshold at the median score.
    """

    def middle(pair: tuple[np.ndarray, np.ndarray]) -> float:
        return float(np.median(np.concatenate(pair)))

    # Static twin
    if not interactive:
        for title, by_attack in scored.items():
            figure = plots.score_histogram(*by_attack["loss"], middle(by_attack["loss"]), f"loss score, {title}")
            display(figure)
            plt.close(figure)
        return
    import ipywidgets as widgets

    # Knobs
    picture = widgets.Output()
    model = widgets.Dropdown(options=list(scored), description="model")
    attack = widgets.Dropdown(options=[(attacks.TITLES[a], a) for a in attacks.ATTACKS], description="attack")
    # The slider moves over quantiles, for scores crowd near their maximum.
    quantile = widgets.FloatSlider(0.5, min=0, max=1, step=0.01, description="quantile", continuous_update=False)

    # The picture follows the knobs
    def redraw(_=None) -> None:
        pair = scored[model.value][attack.value]
        level = float(np.quantile(np.concatenate(pair), quantile.value))
        with picture:
            picture.clear_output(wait=True)
            figure = plots.score_histogram(*pair, level, f"{attacks.TITLES[attack.value]} score, {model.value}")
            display(figure)
            plt.close(figure)

    for widget in (model, attack, quantile):
        widget.observe(redraw, names="value")
    redraw()
    display(widgets.VBox([widgets.HBox([model, attack]), quantile, picture]))


def record_panel(
    phi: np.ndarray, inside: np.ndarray, canary: np.ndarray, shown: dict[str, int], interactive: bool
) -> None:
    """A record's scores in pipelines with and without it, and LiRA's verdict on the target. Static twin: some records.

    phi : [N, n]; inside : bool [N, n]; canary : bool [n]; shown : name -> record, of the static twin
    """

    def figure(target: int, record: int):
        shadows = np.arange(len(phi)) != target
        inner, outer = (phi[shadows & (inside[:, record] == side), record] for side in (True, False))
        if not len(inner) or not len(outer):
            return None
        nearer = abs(phi[target, record] - inner.mean()) < abs(phi[target, record] - outer.mean())
        said, truth = ("a member" if side else "a non-member" for side in (nearer, inside[target, record]))
        what = f"{'canary' if canary[record] else 'record'} {record}, target {target}"
        title = f"{what}: the target speaks as\n{said} would; in truth it is {truth}"
        return plots.in_and_out(inner, outer, phi[target, record], "score log(p / (1 - p))", title)

    def draw(target: int, record: int) -> None:
        if (made := figure(target, record)) is None:
            print("with two pipelines there is no shadow on both sides")
            return
        display(made)
        plt.close(made)

    # Static twin
    if not interactive:
        for record in shown.values():
            draw(0, int(record))
        return
    import ipywidgets as widgets

    # Knobs
    picture = widgets.Output()
    target = widgets.IntSlider(0, min=0, max=len(phi) - 1, description="target", continuous_update=False)
    record = widgets.IntSlider(
        int(next(iter(shown.values()))), min=0, max=phi.shape[1] - 1, description="record", continuous_update=False
    )

    # The picture follows the knobs
    def redraw(_=None) -> None:
        with picture:
            picture.clear_output(wait=True)
            draw(target.value, record.value)

    for widget in (target, record):
        widget.observe(redraw, names="value")
    redraw()
    display(widgets.VBox([widgets.HBox([target, record]), picture]))
