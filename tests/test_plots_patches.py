"""Figures of patches: every pixel in its place, every number said, nonsense refused."""

import numpy as np
import pytest
import torch
from conftest import words_in
from matplotlib.figure import Figure

from vit_tutorial import patchify, plots

GENERATOR = np.random.default_rng(0)
PHOTO = GENERATOR.integers(0, 255, (8, 12, 3)).astype(np.uint8)  # never white


def shown(figure: Figure, axes: int = 0) -> np.ndarray:
    return np.asarray(figure.axes[axes].get_images()[0].get_array())


# ---- cut_up ----


def test_without_lines_and_in_order_a_picture_stays_as_it_is():
    assert np.array_equal(plots.cut_up(PHOTO, 4, line=0), PHOTO)


def test_lines_lie_between_the_patches_alone():
    drawn = plots.cut_up(PHOTO, 4, line=2)
    changed = (drawn != PHOTO).any(axis=2)
    assert np.flatnonzero(changed.all(axis=1)).tolist() == [3, 4]
    assert np.flatnonzero(changed.all(axis=0)).tolist() == [3, 4, 7, 8]
    assert (drawn[changed] == 255).all()
    assert changed.sum() == 2 * 12 + 4 * 8 - 2 * 4


def test_patches_are_moved_as_patchify_counts_them():
    order = [5, 0, 3, 1, 4, 2]
    moved = torch.from_numpy(plots.cut_up(PHOTO, 4, order, line=0)).permute(2, 0, 1)[None]
    image = torch.from_numpy(PHOTO).permute(2, 0, 1)[None]
    assert torch.equal(patchify(moved, 4), patchify(image, 4)[:, order])


@pytest.mark.parametrize(
    ("image", "patch_size", "order", "match"),
    [
        (PHOTO.astype(float), 4, None, "got float64"),
        (PHOTO[..., 0], 4, None, r"got uint8 \(8, 12\)"),
        (PHOTO, 5, None, "8x12 pixels cannot be cut into 5x5"),
        (PHOTO, 0, None, "cannot be cut into 0x0"),
        (PHOTO, 4, [0, 1, 2, 3, 4, 4], "each of the 6 patches once"),
        (PHOTO, 4, [0, 1], "each of the 6 patches once"),
    ],
)
def test_what_cannot_be_cut_up_is_refused(image, patch_size, order, match):
    with pytest.raises(ValueError, match=match):
        plots.cut_up(image, patch_size, order)


# ---- Figures ----


def test_the_grid_numbers_every_patch():
    words = set(words_in(plots.patch_grid(PHOTO, 4)))
    assert {"8×12 pixels", "2×3 patches of 4×4 pixels", *"012345"} <= words
    assert "6" not in words
    with pytest.raises(ValueError, match="cannot be cut"):
        plots.patch_grid(PHOTO, 3)


def test_the_numbers_of_a_patch_are_those_of_its_vector():
    patch = PHOTO[:4, :4].transpose(2, 0, 1)
    figure = plots.patch_numbers(patch)
    vector = patchify(torch.from_numpy(patch.copy())[None], 4)[0, 0]
    strip = [text.get_text() for text in figure.axes[-1].texts]
    assert strip == [str(value) for value in vector.tolist()]
    for channel in range(3):
        table = [text.get_text() for text in figure.axes[channel + 1].texts]
        assert table == [str(value) for value in patch[channel].ravel()]
    assert {"the patch, 4×4 pixels", "channel 2: blue", "32"} <= set(words_in(figure))
    for wrong in (PHOTO, patch[:1], patch.astype(float), patch[:, :2]):
        with pytest.raises(ValueError, match=r"expected uint8 \(3, P, P\)"):
            plots.patch_numbers(wrong)


def test_a_large_patch_has_no_numbers_in_its_vector():
    figure = plots.patch_numbers(PHOTO[:8, :8].transpose(2, 0, 1))
    assert not figure.axes[-1].texts


def test_tables_are_coloured_by_the_patch_of_each_number():
    owner = np.array([0, 1, 2, 3])
    first, second = np.array([[0, 1], [2, 3]]), np.array([[3, 1], [2, 0]])
    figure = plots.number_tables([first, second], owner, ["before", "after"], row_name="vector")
    assert np.array_equal(shown(figure)[0, 0], shown(figure, 1)[1, 1])
    assert np.array_equal(shown(figure)[1, 1], shown(figure, 1)[0, 0])
    assert {"before", "after", "vector 1", "patch 3"} <= set(words_in(figure))
    with pytest.raises(ValueError, match="2 tables need as many titles, got 1"):
        plots.number_tables([first, second], owner, ["before"])
    with pytest.raises(ValueError, match="0 to 3, got 0 to 4"):
        plots.number_tables([first], np.array([0, 1, 2, 4]), ["before"])


def test_sources_are_marked_in_their_channel():
    image = PHOTO.transpose(2, 0, 1)
    places = np.array([0, 13, 96 + 5])  # two of the red channel, one of the green
    figure = plots.patch_sources(image, [places], ["my way"], subject="patch 7")
    orange = (213, 94, 0)
    found = [np.argwhere((shown(figure, k) == orange).all(axis=2)).tolist() for k in range(3)]
    assert found == [[[0, 0], [1, 1]], [[0, 5]], []]
    words = set(words_in(figure))
    assert {"my way", "2 of its numbers", "1 of its numbers", "0 of its numbers"} <= words
    assert "Orange: where the numbers of patch 7 come from" in words
    with pytest.raises(ValueError, match="288 numbers has no such index"):
        plots.patch_sources(image, [np.array([288])], ["my way"])
    with pytest.raises(ValueError, match="1 ways need as many titles, got 2"):
        plots.patch_sources(image, [places], ["my way", "yours"])
    with pytest.raises(ValueError, match="expected uint8"):
        plots.patch_sources(PHOTO, [places], ["my way"])


def test_a_row_shows_patches_side_by_side():
    patches = PHOTO.reshape(2, 4, 3, 4, 3).swapaxes(1, 2).reshape(6, 4, 4, 3)
    figure = plots.patch_row(patches)
    strip = shown(figure)  # a gap of one pixel at each side of a patch
    assert strip.shape == (4, 6 * 6, 3)
    for i in range(6):
        assert np.array_equal(strip[:, 6 * i + 1 : 6 * i + 5], patches[i])
    assert {"patch number", "0", "5"} <= set(words_in(figure))
    with pytest.raises(ValueError, match=r"expected uint8 \(N, P, P, 3\)"):
        plots.patch_row(PHOTO)


def test_costs_are_said_at_every_point():
    figure = plots.token_cost([8, 16], [785, 197], "224×224")
    pairs, tokens = figure.axes[0].get_lines()
    assert tokens.get_ydata().tolist() == [785, 197]
    assert pairs.get_ydata().tolist() == [785**2, 197**2]
    words = set(words_in(figure))
    assert {"785", "616,225", "T = 197 tokens", "T² = 38,809 pairs"} <= words
    with pytest.raises(ValueError, match="2 patch sizes need as many T, got 1"):
        plots.token_cost([8, 16], [785], "224×224")


def test_what_no_patch_covers_is_crossed_out():
    figure = plots.patch_cover([PHOTO, PHOTO[:5, :9]], 4, ["whole", "with a rest"])
    assert {"whole", "2×3 = 6 patches", "1×2 = 2 patches"} <= set(words_in(figure))
    assert not figure.axes[0].patches
    below, beside = (patch.get_bbox().extents.tolist() for patch in figure.axes[1].patches)
    assert below == [-0.5, 3.5, 8.5, 4.5]
    assert beside == [7.5, -0.5, 8.5, 3.5]
    with pytest.raises(ValueError, match="2 pictures need as many titles, got 1"):
        plots.patch_cover([PHOTO, PHOTO], 4, ["one"])
    with pytest.raises(ValueError, match="expected a picture"):
        plots.patch_cover([PHOTO / 255], 4, ["one"])
