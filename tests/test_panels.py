"""Panels, live and static, without a browser: real widgets, their real callbacks."""

import ipywidgets as widgets
import numpy as np
import pytest

from kr_utils import panels, plots


@pytest.fixture
def shown(monkeypatch):
    """What a panel displays."""
    seen = []
    monkeypatch.setattr(panels, "display", seen.append)
    monkeypatch.setattr(panels.plt, "show", lambda: seen.append("figure"))
    return seen


def find(box, kind):
    children = getattr(box, "children", ())
    return [c for c in children if isinstance(c, kind)] + [w for c in children for w in find(c, kind)]


def test_the_sampler_panel_redraws_when_a_knob_moves(tiny_generator, shown, monkeypatch):
    drawn = []
    original = panels.sample_grid
    monkeypatch.setattr(panels, "sample_grid", lambda *a: drawn.append(a[1:]) or original(*a))
    panels.sampler_panel(tiny_generator, tuple("abcdefghij"), interactive=True, seed=3)
    panel = shown[-1]
    (label,) = find(panel, widgets.Dropdown)
    guidance = next(w for w in find(panel, widgets.FloatSlider) if w.description == "guidance")
    label.value, guidance.value = 4, 2.0
    assert drawn == [(0, 1.0, 12, 0.0, 3), (4, 1.0, 12, 0.0, 3), (4, 2.0, 12, 0.0, 3)]


def test_the_static_twin_shows_a_figure_and_no_widget(tiny_generator, shown):
    panels.sampler_panel(tiny_generator, tuple("abcdefghij"), interactive=False)
    assert shown == ["figure"]


def test_only_the_knob_changes_between_two_grids(tiny_generator):
    first = panels.sample_grid(tiny_generator, 3, 1.0, 4, 0.0, seed=0)
    again = panels.sample_grid(tiny_generator, 3, 1.0, 4, 0.0, seed=0)
    other = panels.sample_grid(tiny_generator, 3, 4.0, 4, 0.0, seed=0)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def scored():
    rng = np.random.default_rng(0)
    pair = (rng.normal(1, 1, 100), rng.normal(0, 1, 80))
    return {"model": {"loss": pair, "confidence": pair, "entropy": (pair[0] + 5, pair[1] + 5)}}


def test_the_threshold_panel_states_the_rates_at_the_line(shown, monkeypatch):
    titles = []
    original = plots.score_histogram

    def record(members, non_members, threshold, xlabel):
        titles.append((threshold, xlabel))
        return original(members, non_members, threshold, xlabel)

    monkeypatch.setattr(plots, "score_histogram", record)
    panels.threshold_panel(scored(), interactive=True)
    panel = shown[-1]
    slider = find(panel, widgets.FloatSlider)[0]
    slider.value = 0.9
    find(panel, widgets.Dropdown)[1].value = "entropy"
    everything = np.concatenate(scored()["model"]["loss"])
    assert titles[1][0] == pytest.approx(np.quantile(everything, 0.9))
    assert titles[2][0] == pytest.approx(np.quantile(everything + 5, 0.9))
    assert "modified entropy" in titles[2][1]


def test_the_histogram_title_is_right():
    figure = plots.score_histogram(np.array([1.0, 2, 3, 4]), np.array([0.0, 1, 2, 3]), 2.5, "score")
    assert "TPR 0.50, FPR 0.25, advantage +0.25" in figure.axes[0].get_title(loc="left")
