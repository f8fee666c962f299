"""The drawing of the whole network."""

import re
from xml.etree import ElementTree

import pytest
import torch
from conftest import words_in
from matplotlib.patches import FancyBboxPatch

from vit_tutorial import load_checkpoint, plots
from vit_tutorial.model import patchify
from vit_tutorial.plots.overview import PARTS, SHAPES


def test_the_numbers_below_are_those_of_the_network_of_lesson_00():
    model, card = load_checkpoint("cifar10")
    flows = {}
    for name in ("patch_embed", "norm", "blocks.0"):
        module = model.get_submodule(name)
        module.register_forward_hook(
            lambda _, args, out, name=name: flows.update({name: (args, out)})
        )
    images = torch.zeros(1, 3, 32, 32)
    logits = model(images)
    cut = patchify(images, model.config.patch_size)
    into, out = flows["blocks.0"][0][0], flows["norm"][0][0]
    shapes = [images.shape[1:], cut.shape[1:], into.shape[1:], into.shape[1:], out.shape[1:]]
    expected = [", ".join(map(str, shape)) for shape in [*shapes, logits.shape[1:]]]
    assert [numbers for *_, numbers in SHAPES] == expected
    assert len(model.blocks) > 1
    assert card.classes[3] == "cat"


@pytest.mark.parametrize("here", [None, *PARTS])
def test_the_part_that_a_lesson_is_about_is_marked(here):
    drawing = plots.network_map(here)
    (axes,) = drawing.figure.axes
    edges = [p for p in axes.patches if isinstance(p, FancyBboxPatch) and p.get_linewidth() == 2]
    assert len(edges) == (here is not None)
    words = words_in(drawing.figure)
    assert ("you are here" in words) == (here is not None)
    if here is not None:
        left, bottom, width, height = PARTS[here]
        box = edges[0].get_bbox()
        assert box.bounds == pytest.approx((left, bottom, width, height))
        assert drawing.words.endswith(f"You are here: {here}.")


def test_a_notebook_gets_it_as_svg_with_words_for_those_who_do_not_see_it():
    drawing = plots.network_map("attention")
    bundle = drawing._repr_mimebundle_()
    assert bundle["text/plain"] == drawing.words
    svg = bundle["image/svg+xml"]
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert "max-width: 100%" in root.get("style", "")
    assert root[0].tag.endswith("title")
    assert root[0].text == drawing.words
    assert "attention" in "".join(root.itertext())
    assert plots.network_map("attention").svg() == svg
    assert not re.search("/(home|root|tmp|work)/", svg)
    assert len(svg) < 50_000


def test_an_unknown_part_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"expected a part .*attention.*, got 'tail'"):
        plots.network_map("tail")
