"""Figures: what is drawn is what was given, and the same figure gives the same bytes."""

import numpy as np
import pytest
from matplotlib.text import Text

from kr_utils import plots


def test_tile_places_every_image_in_reading_order():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(2, 2).repeat(2, 3)
    canvas = plots.tile(images, 3)
    assert canvas.shape == (1, 5, 8)
    assert [canvas[0, y, x] for y, x in ((0, 0), (0, 3), (0, 6), (3, 0), (3, 3))] == [0, 1, 2, 3, 4]
    assert (canvas[0, 2] == 255).all()
    assert (canvas[0, 3:, 6:] == 255).all(), "an empty place is white"


def test_class_grid_takes_images_of_the_right_class_and_survives_a_short_class():
    images = np.zeros((5, 3, 4, 4), np.uint8)
    labels = np.array([1, 0, 1, 1, 0])
    images[:, 0] = np.arange(10, 15)[:, None, None]
    figure = plots.class_grid({"real": images}, {"real": labels}, ("a", "b", "c"), 3)
    drawn = figure.axes[0].images[0].get_array()
    assert [drawn[0, 0, 0], drawn[0, 5, 0], drawn[5, 0, 0], drawn[5, 10, 0]] == [11, 14, 10, 13]
    assert (drawn[10:] == 255).all(), "class c has no image"


def test_pairs_stand_above_each_other_with_their_distance():
    upper, lower = (np.full((3, 1, 4, 4), value, np.uint8) for value in (10, 20))
    upper[1] = 11
    figure = plots.pairs(upper, lower, ("training", "synthetic"), np.array([1.2, 2.6, 30]))
    drawn = [axis.images[0].get_array()[0, 0] for axis in figure.axes]
    assert drawn == [10, 11, 10, 20, 20, 20]
    assert [axis.get_xlabel() for axis in figure.axes] == ["", "", "", "1", "3", "30"]
    assert [figure.axes[k].get_ylabel() for k in (0, 3)] == ["training", "synthetic"]


def test_saved_figures_are_reproducible_and_carry_alt_text(tmp_path):
    for folder in ("a", "b"):
        paths = plots.save(plots.pipeline(), tmp_path / folder, "p", "what it shows")
    assert [p.name for p in paths] == ["p.png", "p.pdf", "p.txt"]
    for name in ("p.png", "p.pdf", "p.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert (tmp_path / "a/p.txt").read_text() == "what it shows\n"


def test_what_the_numbers_of_settings_stand_for_is_written_below_nothing_else():
    rows = [{"cost": 8.0 * k, "cas": 0.8 + 0.01 * k} for k in (1, 2, 3)]
    figure = plots.tuning_front({"digits": (rows, rows[1], rows)}, [f"setting {k}" for k in "abc"])
    figure.draw_without_rendering()
    label = figure.axes[0].xaxis.label
    assert label.get_text().splitlines()[-3:] == ["1: setting a", "2: setting b", "3: setting c"]
    assert not label.get_window_extent().overlaps(figure.legends[0].get_window_extent())
    assert all(label.get_window_extent().y1 < text.get_window_extent().y0 for text in figure.axes[0].texts)


def test_dots_are_in_percent_on_their_lines_with_whiskers_only_where_known():
    nan = float("nan")
    series = {"d": [(0.01, -0.02, 0.03), (nan, nan, nan)], "e": [(-0.05, nan, nan), (0.0, 0.0, 0.0)]}
    figure = plots.dots(["first", "second"], series, "points", "t", zero=True)
    axis = figure.axes[0]
    (d, e), bars = axis.containers, [container[2][0].get_segments() for container in axis.containers]
    assert d[0].get_xdata()[0] == pytest.approx(1)
    assert np.isnan(d[0].get_xdata()[1]), "no dot where nothing was run"
    assert e[0].get_xdata().tolist() == pytest.approx([-5, 0])
    assert [x for x, _ in bars[0][0]] == pytest.approx([-2, 3])
    assert np.ptp([x for x, _ in bars[1][0]]) == 0, "no whisker without an interval"
    assert all(k - 0.5 < y < k + 0.5 for line in (d, e) for k, y in enumerate(line[0].get_ydata()))
    assert [label.get_text() for label in axis.get_yticklabels()] == ["first", "second"]
    assert axis.get_ylim() == (1.5, -0.5), "the first line is the upper one"


def test_confusion_shows_every_count():
    figure = plots.confusion(np.array([[5, 1], [0, 7]]), ("a", "b"))
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["1", "5", "7"]


def test_roc_states_the_auc_of_what_it_draws():
    figure = plots.roc({"m": ([np.array([2.0, 3])], [np.array([0.0, 1])], "real")}, "t")
    assert "m: AUC 1.000" in [t.get_text() for t in figure.legends[0].get_texts()]
    assert figure.axes[0].get_xscale() == "log"
    assert not figure.axes[0].collections, "one seed has no band"


def test_a_roc_of_several_seeds_is_their_mean_in_a_band_from_the_lowest_to_the_highest():
    others = np.arange(100) / 100
    seeds = [np.full(50, 2.0), np.concatenate([np.full(10, 2.0), np.full(40, -1.0)])]  # finds all, and one in five
    figure = plots.roc({"m": (seeds, [others, others], "real")}, "t")
    axis = figure.axes[0]
    mean = axis.lines[0].get_ydata()
    assert mean[len(mean) // 2] == pytest.approx(0.6)
    assert mean[-1] == 1, "at the right end everybody is accused"
    edge = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (edge.min(), edge.max()) == (pytest.approx(0.2), 1)
    assert "m: AUC 0.600" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_real_training_and_student_differ_in_grey_and_no_legend_lies_over_data():
    value = (0.8, 0.7, 0.9), (0.5, 0.4, 0.6)
    figures = [plots.utility_privacy([{"dataset": "d", "real": value, "student": value}])]
    real, student = [line for line in figures[0].axes[0].lines if len(line.get_xdata()) and line.get_marker() == "o"]
    assert (real.get_markerfacecolor(), student.get_markerfacecolor()) == ("white", plots.COLOURS["student"])
    scores = np.linspace(0, 1, 30)
    figures += [plots.curves({"a": ([1, 2], [3, 4])}, "x", "y"), plots.roc({"m": ([scores], [scores], "real")}, "t")]
    figures.append(plots.in_and_out((scores, scores), (1, 1), 0.5, "x", "t"))
    for figure in figures:
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert not any(legend.overlaps(axis.get_window_extent()) for axis in figure.axes)
        assert not any(axis.get_legend() for axis in figure.axes)


def test_checkpoints_show_the_star_the_loss_that_decides_and_who_is_as_good():
    keys = ("step", "cas", "val_loss", "below", "error")
    rows = [
        dict(zip(keys, row)) for row in ((10, 0.5, 0.9, 0.2, 0.05), (20, 0.7, 0.4, 0, 0), (30, 0.65, 0.3, 0.05, 0.04))
    ]
    figure = plots.checkpoint_curve({"d": (rows, 30)})
    for axis, at in zip(figure.axes, (65, 0.3)):
        star = next(line for line in axis.lines if line.get_marker() == "*")
        assert star.get_xydata().tolist() == [[30, at]]
        good, bad = [line for line in axis.lines if line.get_linestyle() == "None" and line is not star][-2:]
        assert good.get_xdata().tolist() == [20, 30]
        assert bad.get_xdata().tolist() == [10]
        assert bad.get_markerfacecolor() == "white"


def drawn_texts(figure):
    """Every text of a figure that is drawn."""
    figure.draw_without_rendering()
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def test_names_are_drawn_as_they_are_written_and_nothing_is_a_formula():
    name, images = "$x^{$ 5 $ a_b\\frac", np.zeros((2, 1, 4, 4), np.uint8)
    scores = np.linspace(0.01, 1, 200)
    figures = [
        plots.class_grid({name: images}, {name: np.array([0, 1])}, (name, "b$"), 1),
        plots.roc({name: ([scores], [scores / 2], "real")}, name),
        plots.threshold(scores, scores**9, 0.5, name),
        plots.threshold(scores, scores, 0.5, name),  # less than a decade
    ]
    for figure in figures:
        texts = drawn_texts(figure)
        assert not any(text.get_parse_math() for text in texts)
        assert not [text.get_text() for text in texts if "mathdefault" in text.get_text()]
        assert name in [text.get_text() for text in texts] or figure is figures[1]
    assert {"0.01", "0.1", "1"} <= {label.get_text() for label in figures[1].axes[0].get_xticklabels()}
    assert [label.get_text() for label in figures[3].axes[0].get_yticklabels(which="both") if label.get_text()]


def test_numbers_of_the_plane_cover_neither_one_another_nor_a_point():
    """Nine Students of nearly the same accuracy and leakage, as on digits."""
    close = [(0.59 + 0.003 * k, 0.98 + 0.001 * (k % 3)) for k in range(9)]
    points = [{"auc": x, "auc_low": x, "auc_high": x, "accuracy": y, "name": f"s{k}", "key": "student"}
              for k, (x, y) in enumerate([*close, (0.5, 0.2), (1.0, 0.97)])]  # fmt: skip
    axis = plots.privacy_plane(points, "AUC").axes[0]
    axis.figure.draw_without_rendering()
    numbers = {text.get_text(): Text.get_window_extent(text) for text in axis.texts}  # without its line
    assert set(numbers) == {str(k) for k in range(1, 12)}
    boxes = list(numbers.values())
    assert not any(one.overlaps(other) for k, one in enumerate(boxes) for other in boxes[:k])
    places = axis.transData.transform([(p["auc"], 100 - 100 * p["accuracy"]) for p in points])
    assert places[0, 1] > places[-2, 1], "more accurate stands higher"
    shown = {label.get_text() for label in axis.get_yticklabels() if label.get_text()}
    assert {"98", "95", "90", "80"} <= shown, "accuracies, not errors"
    for accuracies in ((1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (0.5, 0.5)):
        points = [points[0] | {"accuracy": accuracy} for accuracy in accuracies]
        axis = plots.privacy_plane(points, "AUC").axes[0]
        axis.figure.draw_without_rendering()
        bottom, top = axis.get_ylim()
        assert bottom > top
        ticks = zip(axis.get_yticks(), [label.get_text() for label in axis.get_yticklabels()])
        shown = [float(text) for at, text in ticks if text and top <= at <= bottom]
        assert all(0 <= value <= 100 for value in shown)
    assert not any(box.contains(*place) for box in boxes for place in places)
