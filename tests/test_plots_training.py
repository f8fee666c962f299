"""Figures of lesson 07: what is drawn, what it says, and what is refused."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import contrast, drawn
from matplotlib.colors import to_rgba

from vit_tutorial import plots

GENERATOR = np.random.default_rng(0)
ROWS = [
    {"epoch": 1, "loss": 2.0},
    {"epoch": 2, "loss": 1.5, "test_accuracy": 40.0},
    {"epoch": 3, "loss": 1.25, "test_accuracy": 55.5},
]
PICTURES = GENERATOR.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
GREY = PICTURES[..., 0]


def words_in(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend_of(owner) -> list[str]:
    return [text.get_text() for text in owner.get_legend().get_texts()]


# ---- curves ----


def test_a_training_is_drawn_as_loss_and_accuracy_with_what_guessing_gives():
    loss, accuracy = drawn(plots.training_curve(ROWS, chance=math.log(10))).axes
    assert np.array_equal(loss.lines[0].get_xydata(), [[1, 2.0], [2, 1.5], [3, 1.25]])
    assert np.array_equal(accuracy.lines[0].get_xydata(), [[2, 40.0], [3, 55.5]])
    assert words_in(loss) == ["1.25", "guessing"]
    assert words_in(accuracy) == ["55.5%", "guessing"]
    assert loss.lines[1].get_ydata() == pytest.approx([math.log(10)] * 2)
    assert accuracy.lines[1].get_ydata() == pytest.approx([10, 10])
    assert loss.get_ylim()[1] > math.log(10)
    assert loss.get_xlim() == accuracy.get_xlim()
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "cross-entropy")
    assert (accuracy.get_ylabel(), accuracy.get_ylim()) == ("percent", (0, 100))


def test_a_training_can_be_drawn_before_anything_was_measured():
    loss, accuracy = drawn(plots.training_curve(ROWS[:1])).axes
    assert words_in(loss) == ["2.00"]
    assert words_in(accuracy) == []


def test_a_band_says_what_is_normal_even_after_the_last_row():
    band = np.array([[30, 40, 50, 60, 70], [35, 45, 55, 65, 75]])
    loss, accuracy = drawn(plots.training_curve(ROWS, bands={"test_accuracy": band})).axes
    (area,) = accuracy.collections
    corners = area.get_paths()[0].vertices
    for epoch, (low, high) in enumerate(band.T, start=1):
        values = corners[corners[:, 0] == epoch, 1]
        assert (values.min(), values.max()) == (low, high)
    assert legend_of(accuracy) == ["normal"]
    assert loss.get_legend() is None
    assert loss.get_xlim()[1] > 5


def test_a_dot_stands_where_a_run_leaves_the_band_of_the_first_ones():
    first, others = [[1.0, 5.0], [3.0, 9.0]], [[2.0, 10.0], [4.0, 8.0]]
    axes = drawn(plots.runs_and_band(first, others, "accuracy")).axes[0]
    lines, dots = axes.lines[::2], axes.lines[1::2]
    assert [line.get_ydata().tolist() for line in lines] == [[0, 3], [2, 1]]  # means: 2 and 7
    assert [dot.get_xydata().tolist() for dot in dots] == [[[2, 3]], [[1, 2]]]
    corners = axes.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} == {(1, -1), (1, 1), (2, -2), (2, 2)}
    assert legend_of(axes) == ["band of the first 2", "each of the others", "outside"]


def test_the_accuracy_says_of_which_images_it_is():
    _, accuracy = drawn(plots.training_curve(ROWS, measured="Validation accuracy")).axes
    assert accuracy.get_title(loc="left") == "Validation accuracy"


def test_sick_runs_have_neutral_titles_and_the_same_axes():
    healthy = ([2.3, 1.0, 0.5, 0.1], [50.0, 90.0])
    sick = ([2.3, 99.0, math.nan, 1.0], [10.0, 20.0])
    runs = [{"rate too high": healthy}, {"this run": sick, "a healthy run": healthy}]
    figure = drawn(plots.sick_curves(runs, chance=math.log(10)))
    grid = np.array(figure.axes).reshape(2, 2)
    assert [axes.get_title(loc="left") for axes in grid[0]] == ["A", "B"]
    assert np.array_equal(grid[0, 1].lines[0].get_ydata(), sick[0], equal_nan=True)
    assert np.array_equal(grid[0, 1].lines[1].get_ydata(), healthy[0])
    assert grid[1, 0].lines[0].get_xydata().tolist() == [[2, 50], [4, 90]]  # spread to the end
    for row, top in zip(grid, (2 * math.log(10), 100), strict=True):
        assert [axes.get_ylim() for axes in row] == [(0, pytest.approx(top))] * 2
    assert len({axes.get_xlim() for axes in grid.flat}) == 1
    assert words_in(grid[0, 0]) == []
    assert words_in(grid[0, 1]) == ["↑ up to 99"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "this run",
        "a healthy run",
        "guessing",
    ]


def test_a_single_curve_needs_no_legend_that_would_name_the_cause():
    figure = drawn(plots.sick_curves([{"rate too high": ([2, 3], [10])}]))
    assert figure.legends == []


def test_the_finders_line_follows_its_dots_and_skips_what_is_no_number():
    rates = np.geomspace(1e-4, 1, 60)
    losses = 2.3 - np.linspace(0, 1, 60)  # a line is its own average, but at the ends
    losses[-2:] = math.inf, math.nan
    axes = drawn(plots.lr_finder_curve(rates, losses, 3e-3)).axes[0]
    dots, line, chosen = axes.lines
    assert np.array_equal(dots.get_xydata(), np.stack([rates, losses], axis=1)[:-2])
    assert line.get_ydata()[2:-2] == pytest.approx(losses[2:-4])
    assert set(chosen.get_xdata()) == {3e-3}
    assert words_in(axes) == ["chosen: 0.003"]
    assert (axes.get_xscale(), axes.get_xlim()) == ("log", (rates[0], rates[-1]))
    assert axes.get_ylim()[1] == pytest.approx(1.5 * 2.3)


# ---- bars ----


def test_ablations_are_sorted_and_bars_go_from_the_baseline_to_the_mean():
    values = [[70.0, 71.0], [60.0], [72.0, 75.0], [70.46, 70.52]]
    names = ["all", "no crop", "wider", "same"]
    axes = drawn(plots.ablation_bars(names, values, "all")).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "wider",
        "all",
        "same",
        "no crop",
    ]
    bars = axes.patches[1:]  # the first is the band of the baseline's seeds
    assert [bar.get_x() for bar in bars] == [70.5] * 4
    assert [bar.get_width() for bar in bars] == pytest.approx([3, 0, -0.01, -10.5])
    assert (axes.patches[0].get_x(), axes.patches[0].get_width()) == (70, 1)
    dots = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) and line.get_marker()
            == "o"]  # fmt: skip
    assert [list(seeds) for seeds in dots] == [values[2], values[0], values[3], values[1]]
    assert words_in(axes) == ["73.5", "+3.0", "70.5", "", "70.5", "0.0", "60.0", "−10.5"]
    low, high = axes.get_xlim()
    assert low < 60
    assert high > 75
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


# ---- confusion ----


def test_a_confusion_is_coloured_by_share_of_the_row_and_counted_in_the_cells():
    counts = np.array([[90, 10, 0], [0, 0, 0], [1, 3, 4]])
    figure = drawn(plots.confusion_matrix(counts, ["cat", "dog", "frog"]))
    axes = figure.axes[0]
    expected = [[0.9, 0.1, 0], [0, 0, 0], [1 / 8, 3 / 8, 1 / 2]]
    assert np.allclose(axes.images[0].get_array(), expected)
    assert axes.images[0].get_clim() == (0, 1)
    assert axes.images[0].get_cmap().name == "cividis"
    cells = {text.get_position()[::-1]: text for text in axes.texts[:9]}
    assert {place: text.get_text() for place, text in cells.items()} == {
        (row, column): str(counts[row, column]) for row, column in np.ndindex(3, 3)
    }
    assert {p for p, text in cells.items() if text.get_weight() == "bold"} == {(i, i) for i in
                                                                              range(3)}  # fmt: skip
    assert words_in(axes)[9:] == ["90%", "no images", "50%"]
    assert axes.get_title(loc="right") == "recall"
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in ticks] == ["cat", "dog", "frog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_every_count_can_be_read_on_its_colour():
    """Contrast by WCAG 2.1 of every number that is not 0 with its cell: 3:1 at the least."""
    shares = np.array([0.01, 0.05, 0.1, 0.2, 0.24, 0.26, 0.3, 0.5, 0.8, 1.0])
    counts = np.zeros((10, 10), int)
    counts[:, 0] = 100 * shares
    counts[:, 1] = 100 - counts[:, 0]
    axes = drawn(plots.confusion_matrix(counts, [str(i) for i in range(10)])).axes[0]
    picture = axes.images[0]
    for text in axes.texts[:100]:
        column, row = text.get_position()
        if counts[row, column]:
            cell = picture.cmap(picture.norm(counts[row, column] / 100))
            assert contrast(cell, to_rgba(text.get_color())) > 3


def test_one_class_and_a_hundred_can_be_drawn():
    one = drawn(plots.confusion_matrix([[7]], ["cat"]))
    assert words_in(one.axes[0]) == ["7", "100%"]
    many = drawn(plots.confusion_matrix(np.eye(100), [f"class {i}" for i in range(100)]))
    assert set(words_in(many.axes[0])) == {"100%"}
    assert max(many.get_size_inches()) < 10


# ---- pictures ----


@pytest.mark.parametrize("images", [PICTURES, GREY])
def test_the_worst_mistakes_come_first_with_what_was_said_and_what_is_true(images):
    truths, given = list("abcde"), list("vwxyz")
    figure = drawn(plots.worst_mistakes(images, truths, given, [0.5, 0.99, 0.7, 0.9, 0.6], most=3))
    assert [axes.get_title() for axes in figure.axes] == ["w, 99%", "y, 90%", "x, 70%"]
    assert [words_in(axes) for axes in figure.axes] == [["is: b"], ["is: d"], ["is: c"]]
    assert np.array_equal(figure.axes[0].images[0].get_array(), images[1])
    assert figure.axes[0].images[0].get_clim() == (0, 255)


def test_long_names_of_classes_get_room():
    names = ["soft-coated wheaten terrier"] * 5
    figure = drawn(plots.worst_mistakes(PICTURES, names, names, [0.9] * 5))
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.images]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


@pytest.mark.parametrize("operations", [2, 9])
def test_a_gallery_has_a_named_row_for_each_operation_and_nothing_overlaps(operations):
    rows = {f"operation {i}": np.roll(PICTURES, i, axis=0) for i in range(operations)}
    figure = drawn(plots.augmentation_gallery(rows, {"operation 1": ["-2", "-1", "0", "1", "2"]}))
    (axes,) = figure.axes
    assert len(axes.images) == 5 * operations
    for picture, expected in zip(axes.images, np.concatenate(list(rows.values())), strict=True):
        assert np.array_equal(picture.get_array(), expected)
    names = [text for text in axes.texts if "operation" in text.get_text()]
    assert [text.get_text() for text in names] == list(rows)
    captions = [text for text in axes.texts if text not in names]
    assert [text.get_text() for text in captions] == ["-2", "-1", "0", "1", "2"]
    boxes = [thing.get_window_extent() for thing in (*axes.images, *axes.texts)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    assert figure.get_size_inches()[0] < 9.3


def test_a_gallery_of_grey_images_needs_no_captions():
    (axes,) = drawn(plots.augmentation_gallery({"blur": GREY})).axes
    assert [image.get_clim() for image in axes.images] == [(0, 255)] * 5
    assert words_in(axes) == ["blur"]


# ---- refused ----


CURVE = {"run": ([1.0], [2.0])}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: plots.training_curve([]), "at least one row"),
        (lambda: plots.training_curve(ROWS, bands={"lr": [[1], [2]]}), r"got 'lr' \(2, 1\)"),
        (lambda: plots.training_curve(ROWS, bands={"loss": [[1, 2]]}), r"got 'loss' \(1, 2\)"),
        (lambda: plots.sick_curves([]), "got 0 runs"),
        (lambda: plots.sick_curves([CURVE, {}]), "one curve each, got 2 runs"),
        (lambda: plots.sick_curves([{"run": ([1.0], [])}]), r"got \[\(1, 0\)\]"),
        (lambda: plots.lr_finder_curve([1], [1]), r"got \(1,\) and \(1,\)"),
        (lambda: plots.lr_finder_curve([1, 2], [1]), r"got \(2,\) and \(1,\)"),
        (lambda: plots.lr_finder_curve([0, 2], [1, 1]), "above 0"),
        (lambda: plots.lr_finder_curve([1, 2], [math.nan] * 2), "a finite number, got none"),
        (lambda: plots.ablation_bars(["a"], [], "a"), r"1 names need .* got \[\]"),
        (lambda: plots.ablation_bars(["a", "b"], [[1], []], "a"), r"got \[1, 0\]"),
        (lambda: plots.ablation_bars(["a", "b"], [[1], [2]], "c"), "one of a, b, got 'c'"),
        (lambda: plots.confusion_matrix([[1, 2]], ["a"]), r"\(1, 1\), 0 or more, got \(1, 2\)"),
        (lambda: plots.confusion_matrix([[-1]], ["a"]), "0 or more"),
        (lambda: plots.confusion_matrix(np.zeros((0, 0)), []), "0 classes need"),
        (lambda: plots.worst_mistakes(PICTURES[:0], [], [], []), "n > 0"),
        (lambda: plots.worst_mistakes(PICTURES / 255, "abcde", "abcde", [1] * 5), "got float64"),
        (lambda: plots.worst_mistakes(PICTURES, "abcd", "abcde", [1] * 5), r"\(4, 5, 5\)"),
        (lambda: plots.worst_mistakes(np.moveaxis(PICTURES, 3, 1), "abcde", "abcde", [1] * 5),
         r"\(5, 3, 8, 8\)"),
        (lambda: plots.augmentation_gallery({}), "of one shape, got set"),
        (lambda: plots.runs_and_band([[1, 2]], [[1]], ""), r"got \(1, 2\) and \(1, 1\)"),
        (lambda: plots.augmentation_gallery({"a": PICTURES, "b": PICTURES[:2]}), "of one shape"),
        (lambda: plots.augmentation_gallery({"a": PICTURES}, {"b": "12345"}), "captions of 'b'"),
        (lambda: plots.augmentation_gallery({"a": PICTURES}, {"a": "1"}), "1 for 5 images"),
    ],
)  # fmt: skip
def test_figures_name_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_the_settings_of_others_are_left_alone():
    before = dict(plt.rcParams)
    plots.confusion_matrix([[1]], ["a"])
    plots.augmentation_gallery({"a": PICTURES})
    assert dict(plt.rcParams) == before
