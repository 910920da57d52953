"""Panels for the live notebook (ipywidgets), each with a static twin for executed copies.

A panel shows what is already computed or samples a few images; it never trains. Its knobs are reached by Tab and moved
by the arrow keys, and what the picture shows stands below it in words, which are its alt text too.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from IPython.display import Javascript, display
from matplotlib.figure import Figure

from kr_utils import attacks, metrics, plots

if TYPE_CHECKING:
    from kr_utils import generator

# ipywidgets gives the handle of a slider no name; it appears in the page some time after this was sent
NAMES = """
let tries = 0;
const timer = setInterval(() => {
  for (const slider of document.querySelectorAll(".widget-slider")) {
    const label = slider.querySelector(".widget-label"), handle = slider.querySelector("[role=slider]");
    if (label && handle) handle.setAttribute("aria-label", label.textContent);
  }
  if (++tries > 20) clearInterval(timer);
}, 500);
"""

Drawn = tuple[Figure, str]  # a picture, and what it shows in words


def live(name: str, knobs: Sequence, draw: Callable[..., Drawn]) -> None:
    """Show widgets and the picture that `draw` makes of their values, again whenever one of them changes.

    Parameters
    ----------
    name : of the panel, for a screen reader
    knobs : ipywidgets with a description
    """
    import ipywidgets as widgets

    picture = widgets.HTML()

    def redraw(_=None) -> None:
        figure, words = draw(*(knob.value for knob in knobs))
        image, told = base64.b64encode(plots.png(figure)).decode(), html.escape(words)
        picture.value = (
            f'<img alt="{told}" src="data:image/png;base64,{image}" style="max-width: 100%">'
            f'<p role="status" aria-label="{html.escape(name)}">{told}</p>'
        )

    for knob in knobs:
        knob.style.description_width, knob.layout.width = "9em", "30em"
        knob.observe(redraw, names="value")
    redraw()
    display(Javascript(NAMES))
    display(widgets.VBox([*knobs, picture]))


def static(*drawn: Drawn) -> None:
    """The twin of a panel in an executed copy: some of its pictures, each with its words."""
    for figure, words in drawn:
        plots.show(figure, words)
        print(words)


# ------------------------------------------------------------------ the Generator


def sample_grid(
    model: generator.Generator, label: int, guidance: float, steps: int, churn: float, seed: int, n: int = 8
):
    """uint8 [n, C, H, W]: images 0..n-1 of the seed, so that a change of one knob changes nothing else."""
    from kr_utils import sampling  # not above: most notebooks have no use for it, and it takes seconds

    labels = torch.full((n,), label, dtype=torch.int64)
    return sampling.preview(model, labels, seed=seed, guidance=guidance, steps=steps, churn=churn).numpy()


def sampler_panel(model: generator.Generator, class_names: tuple[str, ...], interactive: bool, seed: int = 0) -> None:
    """Sample the Generator: class, guidance, solver steps, churn."""
    from kr_utils import sampling

    def draw(label: int, guidance: float, steps: int, churn: float) -> Drawn:
        images = sample_grid(model, label, guidance, steps, churn, seed)
        cost = sampling.evaluations({"guidance": guidance, "steps": steps, "churn": churn})
        words = f"{class_names[label]}: guidance {guidance:g}, {steps} steps, churn {churn:g}. "
        return plots.rows_of_images({"": images}), f"{words}Each image took {cost} network evaluations."

    if not interactive:
        return static(draw(0, 1.0, 3, 0.0), draw(0, 1.0, 12, 0.0), draw(0, 3.0, 12, 0.0))
    import ipywidgets as widgets

    label = widgets.Dropdown(options=[(name, k) for k, name in enumerate(class_names)], description="class")
    guidance = widgets.FloatSlider(1.0, min=0.5, max=6, step=0.5, description="guidance", continuous_update=False)
    steps = widgets.IntSlider(12, min=1, max=18, description="steps", continuous_update=False)
    churn = widgets.FloatSlider(0.0, min=0, max=8, step=1, description="churn", continuous_update=False)
    return live("sampler", [label, guidance, steps, churn], draw)


def denoising_panel(model: generator.Generator, class_names: tuple[str, ...], interactive: bool, seed: int = 0) -> None:
    """Walk down the path from noise to image: what the sampler has, and what the network takes for the clean image."""
    from kr_utils import sampling

    classes = torch.arange(8) % len(class_names)
    path = sampling.trajectory(model, classes, seed=seed)

    def draw(step: int) -> Drawn:
        sigma, noisy, clean = path[step]
        rows = {"sampler": noisy.numpy(), "network": clean.numpy()}
        words = f"Before step {step + 1} of {len(path) - 1}, at noise level {sigma:.2f}: "
        last = f"After the last of {len(path) - 1} steps: the images are done."
        told = "above the noisy images, below what the network takes for the clean ones."
        return plots.rows_of_images(rows), words + told if step < len(path) - 1 else last

    if not interactive:
        return static(draw(0), draw(len(path) // 2), draw(len(path) - 1))
    import ipywidgets as widgets

    step = widgets.IntSlider(0, min=0, max=len(path) - 1, description="steps done", continuous_update=False)
    return live("denoising", [step], draw)


def checkpoints_panel(images: dict[int, np.ndarray], rows: Sequence[dict], chosen: int, interactive: bool) -> None:
    """Each checkpoint's images beside its scores.

    images : step -> uint8 [N, C, H, W]; rows : with step, cas, val_loss, below and error (`selection.gap_to`)
    """

    def draw(step: int) -> Drawn:
        row = next(row for row in rows if row["step"] == step)
        good = row["below"] <= 2 * row["error"]
        words = f"Checkpoint at step {step}: CAS {100 * row['cas']:.1f} %, "
        words += f"{100 * row['below']:.1f} ± {100 * row['error']:.1f} points below the highest, "
        words += f"{'as good as that' if good else 'too far below'}; validation loss {row['val_loss']:.3f}"
        return plots.rows_of_images({"": images[step]}), words + (" (chosen)." if step == chosen else ".")

    steps = [row["step"] for row in rows]
    if not interactive:
        return static(*map(draw, dict.fromkeys((steps[0], chosen, steps[-1]))))
    import ipywidgets as widgets

    step = widgets.SelectionSlider(options=steps, value=chosen, description="checkpoint", continuous_update=False)
    return live("checkpoints", [step], draw)


# ------------------------------------------------------------------ the Student


def labels_panel(images: np.ndarray, logits: np.ndarray, class_names: tuple[str, ...], interactive: bool) -> None:
    """The Teachers' soft labels of some images at a temperature.

    images : uint8 [N, C, H, W]; logits : the Teachers', [N, K]
    """

    def draw(which: int, temperature: float) -> Drawn:
        values = metrics.softmax(logits[which : which + 1] / temperature)[0]
        first, second = np.argsort(values, kind="stable")[::-1][:2]
        words = f"Image {which + 1} at temperature {temperature:g}: {100 * values[first]:.0f} % {class_names[first]}, "
        words += f"{100 * values[second]:.0f} % {class_names[second]}."
        return plots.probabilities(images[which], values, class_names, f"image {which + 1}"), words

    if not interactive:
        return static(draw(0, 1.0), draw(0, 4.0))
    import ipywidgets as widgets

    which = widgets.Dropdown(options=[(f"image {k + 1}", k) for k in range(len(images))], description="image")
    temperature = widgets.FloatLogSlider(
        1.0, min=-1, max=2, step=0.1, base=10, description="temperature", continuous_update=False
    )
    return live("soft labels", [which, temperature], draw)


# ------------------------------------------------------------------ the attacks


def threshold_panel(scored: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], interactive: bool) -> None:
    """Move the attacker's threshold, down to no false accusation at all.

    scored : model title -> attack -> (member scores, non-member scores)
    """

    def draw(model: str, attack: str, alarms: float) -> Drawn:
        members, others = scored[model][attack]
        # The lowest threshold at which no more outsiders are accused (`metrics.tpr_at_fpr`): above the next one
        allowed, ranked = int(alarms / 100 * len(others) + 1e-9), np.sort(others)[::-1]
        level = float(np.nextafter(ranked[allowed], np.inf) if allowed < len(others) else min(*members, *others))
        tpr, fpr = float((members >= level).mean()), float((others >= level).mean())
        words = f"{model}, {attacks.TITLES[attack]}: of 1,000 members {1000 * tpr:.0f} are found, and of 1,000 others "
        words += f"{1000 * fpr:.0f} are accused wrongly (advantage {tpr - fpr:+.2f})."
        return plots.threshold(members, others, level, f"{attacks.TITLES[attack]} score"), words

    if not interactive:
        return static(*(draw(title, "loss", 1.0) for title in scored))
    import ipywidgets as widgets

    model = widgets.Dropdown(options=list(scored), description="model")
    attack = widgets.Dropdown(options=[(attacks.TITLES[a], a) for a in attacks.ATTACKS], description="attack")
    # On a log scale, for what matters is at few false alarms
    alarms = widgets.FloatLogSlider(
        10, min=-1, max=2, step=0.1, base=10, description="false alarms (%)", continuous_update=False
    )
    return live("threshold", [model, attack, alarms], draw)


def lira_panel(
    phi: np.ndarray, inside: np.ndarray, canary: np.ndarray, shown: Sequence[int], interactive: bool
) -> None:
    """A record's scores in pipelines with and without it, and what online LiRA makes of the attacked pipeline's.

    The shadows are all pipelines but the target and its twin, and each side has one variance for all records, as LiRA
    has below 64 pipelines.

    Parameters
    ----------
    phi : scaled logits [N, n]; inside : bool [N, n], of `audit.halves`; canary : bool [n]
    shown : the records of the static twin; the first is where the live panel begins
    """
    from kr_utils import shadow_attacks

    def draw(target: int, record: int) -> Drawn:
        shadows = ~np.isin(np.arange(len(phi)), (target, target ^ 1))
        sides = [inside[shadows] == side for side in (True, False)]
        inner, outer = (phi[shadows, record][side[:, record]] for side in sides)
        words, spreads = f"{'canary' if canary[record] else 'record'} {record}, target {target}: ", (1.0, 1.0)
        if len(phi) >= shadow_attacks.LEAST["lira"]:
            spreads = [_pooled_spread(phi[shadows], side) for side in sides]
            score = shadow_attacks.lira(phi, inside, target)[record]
            words += f"score {score:+.1f}, the target speaks as {'a member' if score > 0 else 'a non-member'} would"
        else:
            words += "too few shadows on both sides"
        words += f"; in truth it is {'a member' if inside[target, record] else 'a non-member'}"
        title = words.replace(" as ", " as\n")
        return plots.in_and_out((inner, outer), spreads, phi[target, record], "score log(p / (1 - p))", title), words

    if not interactive:
        return static(*(draw(0, int(record)) for record in shown))
    import ipywidgets as widgets

    target = widgets.IntSlider(0, min=0, max=len(phi) - 1, description="target", continuous_update=False)
    first = int(shown[0])
    record = widgets.IntSlider(first, min=0, max=phi.shape[1] - 1, description="record", continuous_update=False)
    return live("record", [target, record], draw)


def _pooled_spread(phi: np.ndarray, side: np.ndarray) -> float:
    """Standard deviation about the records' own means, one for all records; phi [N, n], side : bool [N, n]."""
    count = side.sum(0)
    mean = (phi * side).sum(0) / np.maximum(count, 1)
    own = ((phi - mean) ** 2 * side).sum(0) / np.maximum(count, 1)
    return max(float(own[count > 0].mean() ** 0.5), 1e-3)


def record_panel(
    images: np.ndarray,
    scored: dict[str, tuple[np.ndarray, np.ndarray]],
    interactive: bool,
    what: str = "training image",
) -> None:
    """One record at a time, the most exposed first: how few outsiders look as much like a member, artefact by artefact.

    Parameters
    ----------
    images : of the members, uint8 [N, C, H, W]
    scored : artefact -> (scores of these members [N], scores of outsiders)
    """
    # Share of outsiders with a score at least as high
    rates = {
        name: 1 - np.searchsorted(np.sort(others), members, side="left") / len(others)
        for name, (members, others) in scored.items()
    }
    floor = min(1 / len(others) for _, others in scored.values())
    order = np.argsort(np.min(list(rates.values()), axis=0), kind="stable")

    def draw(place: int) -> Drawn:
        mine = {name: float(rate[order[place - 1]]) for name, rate in rates.items()}
        worst = min(mine, key=mine.get)
        words = f"Rank {place} of {len(order)}: {what} {order[place - 1]}. It is given away most by {worst}: "
        words += f"{1000 * mine[worst]:.0f} of 1,000 outsiders look at least as much like a member."
        return plots.record(images[order[place - 1]], mine, floor, f"{what} {order[place - 1]}"), words

    if not interactive:
        return static(draw(1), draw(len(order)))
    import ipywidgets as widgets

    place = widgets.IntSlider(1, min=1, max=len(order), description="rank", continuous_update=False)
    return live("record", [place], draw)
