"""Figures say what they must and stay closed; the sliders' picture and words follow."""

import io
import re
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import randomize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from vit_tutorial import VisionTransformer, ViTConfig, plots
from vit_tutorial.attention import record_attention, rollout
from vit_tutorial.data import normalize
from vit_tutorial.explorer import AttentionSliders, attention_sliders
from vit_tutorial.images import fit_image
from vit_tutorial.weights import Card

CLASSES = ("cat", "dog", "frog")
GENERATOR = np.random.default_rng(0)
PHOTO = GENERATOR.integers(0, 256, (12, 16, 3)).astype(np.uint8)
HEAT = GENERATOR.random((12, 16))


@pytest.fixture(autouse=True)
def _no_figure_is_left_open():
    plt.close("all")
    yield
    assert plt.get_fignums() == []


def words_in(figure: Figure) -> list[str]:
    """Every text that is drawn, in no order."""
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def drawn(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that is missing, a layout that does not fit
        figure.savefig(file, format="png", dpi=40)
    return file.getvalue()


# ---- overlay ----


def test_overlay_mixes_photograph_and_colour_by_the_heat():
    painted = plots.overlay(PHOTO, HEAT, strength=0.6)
    colours = matplotlib.colormaps["cividis"](np.rint(HEAT * 255).astype(int))[..., :3] * 255
    share = 0.6 * HEAT[..., None]
    expected = (1 - share) * PHOTO + share * colours
    assert painted.dtype == np.uint8
    assert np.abs(painted - expected).max() <= 0.51


def test_no_heat_leaves_the_photograph_untouched_and_full_heat_is_yellow():
    assert np.array_equal(plots.overlay(PHOTO, np.zeros((12, 16))), PHOTO)
    assert np.array_equal(plots.overlay(PHOTO, HEAT, strength=0.0), PHOTO)
    heat = np.zeros((12, 16))
    heat[3, 5] = 1
    painted = plots.overlay(PHOTO, heat, strength=1.0)
    assert painted[3, 5].tolist() == [254, 232, 56]
    painted[3, 5] = PHOTO[3, 5]
    assert np.array_equal(painted, PHOTO)


def test_overlay_changes_neither_of_its_inputs():
    photo, heat = PHOTO.copy(), HEAT.copy()
    plots.overlay(photo, heat)
    assert np.array_equal(photo, PHOTO)
    assert np.array_equal(heat, HEAT)


@pytest.mark.parametrize(
    ("photo", "heat", "options", "sentence"),
    [
        (PHOTO / 255, HEAT, {}, r"uint8 \(H, W, 3\), got float64"),
        (PHOTO[..., 0], HEAT, {}, r"got uint8 \(12, 16\)"),
        (PHOTO[..., :1], HEAT, {}, r"got uint8 \(12, 16, 1\)"),
        (PHOTO, HEAT.T, {}, r"\(12, 16\) needs heat of that shape, got \(16, 12\)"),
        (PHOTO, HEAT * 2, {}, "heat must lie in 0..1, got .* to 1.99"),
        (PHOTO, HEAT - 1, {}, "heat must lie in 0..1, got -"),
        (PHOTO, HEAT * np.nan, {}, "got nan"),
        (PHOTO, HEAT, {"strength": 1.5}, "strength must lie in 0..1, got 1.5"),
    ],
)
def test_overlay_names_bad_input(photo, heat, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        plots.overlay(photo, heat, **options)


# ---- figures ----


def test_probabilities_are_sorted_and_written_beside_their_bars():
    figure = plots.probabilities(CLASSES, [0.2, 0.7, 0.1], top=2)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat"]
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.2]
    assert [text.get_text() for text in axes.texts] == ["70%", "20%"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the most probable one on top
    assert drawn(figure)[:4] == b"\x89PNG"
    assert len(plots.probabilities(CLASSES, [0.2, 0.7, 0.1]).axes[0].patches) == 3


def test_an_explanation_shows_the_photograph_what_was_said_and_where_it_looked():
    heat = 5 + 5 * HEAT
    heat[:, :2] = heat[:, 14:] = 0  # what the network did not see
    figure = plots.explanation(PHOTO, (2, 0, 14, 12), CLASSES, [0.2, 0.7, 0.1], heat)
    given, says, looked = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "What it was given",
        "What it says",
        "Where it looked",
    ]
    assert "70%" in words_in(figure)
    assert np.array_equal(given.images[0].get_array(), PHOTO)
    seen = heat[:, 2:14]
    share = np.clip((heat - seen.min()) / (seen.max() - seen.min()), 0, 1)
    expected = plots.overlay(PHOTO, share)  # from the least to the greatest that it saw
    assert np.abs(looked.images[0].get_array().astype(int) - expected).max() <= 1
    for box in [patch for patch in given.patches if isinstance(patch, Rectangle)]:
        assert (*box.get_xy(), box.get_width(), box.get_height()) == (1.5, -0.5, 12, 12)
    assert len(given.patches) == 2
    assert len(says.patches) == 3
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert len(drawn(figure)) > 1000


def test_an_explanation_without_any_heat_is_the_photograph():
    figure = plots.explanation(PHOTO, (0, 0, 16, 12), CLASSES, [1, 0, 0], np.zeros((12, 16)))
    assert np.array_equal(figure.axes[2].images[0].get_array(), PHOTO)


def test_an_atlas_has_a_labelled_picture_per_layer_and_head_each_with_its_own_scale():
    scale = np.array([1, 10, 0.1, 3, 0, 2])[:, None, None]
    heats = (HEAT[None] * scale).reshape(2, 3, 12, 16)
    figure = plots.attention_atlas(PHOTO, heats, title="Every head")
    assert len(figure.axes) == 6
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == [
        "layer 0",
        "layer 1",
    ]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["head 0", "head 1", "head 2", "", "", ""]
    assert "Every head" in words_in(figure)
    pictures = [axes.images[0].get_array() for axes in figure.axes]
    assert np.abs(pictures[1].astype(int) - pictures[2]).max() <= 1
    assert np.array_equal(pictures[4], PHOTO)
    assert len(drawn(figure)) > 1000


def test_a_row_of_pictures_has_its_titles():
    figure = plots.photo_row([PHOTO, PHOTO[..., 0]], ["one", "two"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two"]
    assert len(drawn(figure)) > 1000


def test_an_explanation_frames_a_part_and_says_when_it_is_the_whole():
    part = plots.explanation(PHOTO, (2, 0, 14, 12), CLASSES, [1, 0, 0], HEAT).axes[0]
    assert (part.get_xlabel(), len(part.patches)) == ("inside the frame: what the network sees", 2)
    whole = plots.explanation(PHOTO, (0, -2, 16, 14), CLASSES, [1, 0, 0], HEAT).axes[0]
    assert (whole.get_xlabel(), len(whole.patches)) == ("the network sees all of it", 0)


def test_a_picture_of_greys_is_drawn_with_black_at_0_and_white_at_255():
    flat = np.full((4, 4), 100, np.uint8)
    image = plots.photo_row([flat], ["grey"]).axes[0].images[0]
    assert image.get_clim() == (0, 255)
    assert image.get_cmap().name == "gray"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: plots.probabilities(CLASSES, [1.0]), "3 classes need as many values, got 1"),
        (
            lambda: plots.explanation(PHOTO, (0, 0, 1, 1), CLASSES, [1.0], HEAT),
            "3 classes need as many values, got 1",
        ),
        (
            lambda: plots.explanation(PHOTO, (0, 0, 1, 1), CLASSES, [1, 0, 0], HEAT[:5]),
            r"got \(5, 16\)",
        ),
        (
            lambda: plots.explanation(PHOTO, (0, 0, 1, 1), CLASSES, [1, 0, 0], -HEAT),
            "heat must be 0 or more, got -",
        ),
        (
            lambda: plots.explanation(PHOTO, (0, 0, 1, 1), CLASSES, [1, 0, 0], HEAT * np.nan),
            "heat must be 0 or more, got nan",
        ),
        (lambda: plots.attention_atlas(PHOTO, np.ones((2, 2, 5, 5))), r"got \(5, 5\)"),
        (lambda: plots.attention_atlas(PHOTO, HEAT), r"\(layers, heads, H, W\), got \(12, 16\)"),
        (lambda: plots.photo_row([PHOTO], ["a", "b"]), "1 pictures need as many titles, got 2"),
    ],
)
def test_figures_name_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_colours_and_settings_of_others_are_left_alone():
    before = dict(matplotlib.rcParams)
    plots.probabilities(CLASSES, [0.2, 0.7, 0.1])
    plots.attention_atlas(PHOTO, HEAT[None, None])
    assert dict(matplotlib.rcParams) == before


# ---- the sliders ----


def enlarge(grid_map):
    return np.kron(grid_map, np.ones((4, 4), dtype=np.float32))


@pytest.fixture
def sliders() -> AttentionSliders:
    """Layer l, head h looks most at patch (l, h), with a known share."""
    heads = np.full((3, 2, 3, 4), 0.01, dtype=np.float32)
    for layer in range(3):
        for head in range(2):
            heads[layer, head, layer, head] = 0.4 + 0.1 * head
    rollouts = np.full((3, 3, 4), 0.02, dtype=np.float32)
    rollouts[[0, 1, 2], [2, 1, 0], 3] = 0.25
    return AttentionSliders(PHOTO, heads, rollouts, enlarge)


def shown(sliders: AttentionSliders) -> tuple[bytes, str]:
    return bytes(sliders.picture.value), sliders.words.value


def picture_of(heat: np.ndarray) -> np.ndarray:
    heat = enlarge(heat)
    return plots.overlay(PHOTO, heat / heat.max()).astype(int)


def test_sliders_open_on_the_last_layer_and_say_what_they_show(sliders):
    picture, words = shown(sliders)
    assert (sliders.layer.value, sliders.layer.max, sliders.head.max) == (2, 2, 1)
    assert words.startswith("Layer 2, head 0: most on the patch in row 2, column 0 (40.0%)")
    assert "all patches together 51.0%" in words
    decoded = np.asarray(Image.open(io.BytesIO(picture)))
    assert decoded.shape == PHOTO.shape
    # JPEG is not exact on noise: it only has to be nearest to its own picture
    gaps = [np.abs(decoded - picture_of(heat)).mean() for heat in sliders._heads[:, 0]]
    assert min(gaps) == gaps[2]


def test_every_control_changes_picture_and_words(sliders):
    states = [shown(sliders)]
    for control, value, sentence in [
        (sliders.layer, 0, "Layer 0, head 0: most on the patch in row 0, column 0 (40.0%)"),
        (sliders.head, 1, "Layer 0, head 1: most on the patch in row 0, column 1 (50.0%)"),
        (sliders.show, "rollout", "Rollout through layers 0 to 0: most on the patch in row 2, "),
        (sliders.layer, 1, "Rollout through layers 0 to 1: most on the patch in row 1, column 3"),
        (sliders.show, "mean of heads", "Layer 1, mean of its heads: most on the patch in row 1, "),
        (sliders.show, "one head", "Layer 1, head 1: most on the patch in row 1, column 1"),
    ]:
        control.value = value
        states.append(shown(sliders))
        assert states[-1][1].startswith(sentence)
    assert len({picture for picture, _ in states}) == len(states)
    assert len({words for _, words in states}) == len(states)


def test_the_mean_of_heads_is_their_mean(sliders):
    sliders.show.value = "mean of heads"
    assert "(25.5%)" in sliders.words.value  # (0.5 + 0.01) / 2


def test_the_head_slider_is_off_where_there_is_no_single_head(sliders):
    for show, disabled in [("rollout", True), ("one head", False), ("mean of heads", True)]:
        sliders.show.value = show
        assert sliders.head.disabled is disabled


@pytest.mark.parametrize(
    ("heads", "rollouts"),
    [((3, 2, 3, 4), (2, 3, 4)), ((3, 2, 3, 4), (3, 4, 3)), ((3, 3, 4), (3, 3, 4))],
)
def test_maps_that_do_not_belong_together_are_refused(heads, rollouts):
    with pytest.raises(ValueError, match=re.escape(f"got {heads} and {rollouts}")):
        AttentionSliders(PHOTO, np.zeros(heads), np.zeros(rollouts), enlarge)


def tiny(**changes) -> tuple[VisionTransformer, Card]:
    sizes = dict(img_size=(16, 24), patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    config = ViTConfig(**{**sizes, **changes})
    statistics = ((0.5,) * config.in_chans, (0.25,) * config.in_chans)
    card = Card("tiny", config, CLASSES, *statistics, data="none")
    return randomize(VisionTransformer(config)).float(), card


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
def test_the_sliders_show_what_was_recorded_on_the_photograph(fit, in_chans):
    model, card = tiny(in_chans=in_chans)
    photo = np.kron(PHOTO, np.ones((2, 3, 1), dtype=np.uint8))
    sliders = attention_sliders(model, card, photo, fit=fit)
    picture = Image.fromarray(photo).convert("L" if in_chans == 1 else "RGB")
    pixels = fit_image(picture, (16, 24), fit=fit).pixels
    record = record_attention(model, normalize(pixels[None], card.mean, card.std))
    for layer in (0, 1):
        expected = record.weights[layer][0, :, 0, 1:].unflatten(-1, (2, 3)).numpy()
        assert np.allclose(sliders._heads[layer], expected, atol=1e-6)
        joined = rollout(record, layers=slice(0, layer + 1))[0].numpy()
        assert np.allclose(sliders._rollouts[layer], joined, atol=1e-6)
    row, column = np.unravel_index(sliders._heads[1, 0].argmax(), (2, 3))
    assert f"row {row}, column {column} " in sliders.words.value
    before = shown(sliders)
    sliders.layer.value = 0
    assert shown(sliders)[0] != before[0]
    assert Image.open(io.BytesIO(before[0])).size == (48, 24)


def test_a_large_photograph_is_shown_no_larger_than_the_screen_needs():
    model, card = tiny()
    sliders = attention_sliders(model, card, Image.new("RGB", (2000, 1000), "red"))
    assert Image.open(io.BytesIO(sliders.picture.value)).size == (640, 320)


def test_sliders_take_a_model_of_another_precision():
    model, card = tiny()
    assert "row" in attention_sliders(model.double(), card, PHOTO).words.value


def test_sliders_need_a_cls_token_and_an_image(tmp_path):
    with pytest.raises(ValueError, match='pool must be "cls"'):
        attention_sliders(*tiny(pool="mean"), PHOTO)
    (tmp_path / "note.txt").write_text("no picture")
    with pytest.raises(ValueError, match=r"note\.txt"):
        attention_sliders(*tiny(), tmp_path / "note.txt")
    assert torch.is_grad_enabled()
