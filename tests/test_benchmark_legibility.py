"""Lightness is measured a patch at a time, and what is drawn crisp is read as it is."""

import legibility
import numpy as np
from skimage.color import rgb2lab


def test_lightness_is_the_mean_over_the_pixels_of_a_patch():
    picture = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    light = legibility.lightness(picture, (3, 2))
    for row, column in np.ndindex(3, 2):
        patch = picture[2 * row : 2 * row + 2, 4 * column : 4 * column + 4]
        assert np.isclose(light[row, column], rgb2lab(patch)[..., 0].mean())


def test_the_map_itself_is_read_as_it_is_whatever_the_photograph():
    random = np.random.default_rng(1)
    side = legibility.SIDE
    photo = random.integers(0, 256, (side, side, 3)).astype(np.uint8)
    found = legibility.legibility(photo, random.random((8, 8)))
    assert found["map itself"] > 0.99
    assert found["spotlight"] > 0.9, "of noise all patches are equally light"
    white = np.full((side, side, 3), 255, np.uint8)
    assert legibility.legibility(white, random.random((8, 8)))["overlay"] < 0, "painted darker"
