"""The comparison of recorded networks with themselves: what is wrong is seen to be wrong."""

import json
from dataclasses import replace
from importlib.metadata import version

import coverage
import networks
import pytest
import torch
from conftest import pictures, tiny_model
from torch import nn

from vit_tutorial import record_attention


def compared(model, change=lambda record: record, gradients=lambda found: found):
    """Say in what a record that a test has changed differs from its network."""
    images = pictures()
    record = record_attention(model, images, gradients_of=0)
    own = coverage.own_of(model, images, record)
    with torch.no_grad():
        plain = model(images)
    return coverage.differences(change(record), own, gradients(record.gradients), plain)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_right_record_differs_in_nothing(pool):
    assert compared(tiny_model(pool=pool)) == []


def other_weights(record):
    first, second, third = record.weights
    return replace(record, weights=[first, (second + 1e-3) / (1 + 9e-3), third])


WRONG = {
    "weights": (other_weights, "weights of layer 1 differ"),
    "order": (lambda r: replace(r, weights=r.weights[::-1]), "weights of layer 0 differ"),
    "heads": (lambda r: replace(r, weights=[w.flip(1) for w in r.weights]), "layer 0 differ"),
    "images": (lambda r: replace(r, weights=[w.flip(0) for w in r.weights]), "layer 0 differ"),
    "a layer too few": (lambda r: replace(r, weights=r.weights[:2]), "of 1 calls are missing"),
    "heads joined": (
        lambda r: replace(r, weights=[w.mean(1, keepdim=True) for w in r.weights]),
        "other heads than the network has",
    ),
    "logits": (lambda r: replace(r, logits=r.logits.flip(1)), "differ from those of a plain pass"),
    "no place": (lambda r: replace(r, num_prefix=0, grid=(1, 7)), "token 0 sees nothing"),
    "columns": (lambda r: replace(r, grid=r.grid[::-1]), "its cell is at"),
    "box": (lambda r: replace(r, box=(3.0, 0.0, 27.0, 16.0)), "its cell is at"),
    "a part of the image": (lambda r: replace(r, box=(0.0, 0.0, 24.0, 8.0)), "its cell is at"),
    "head": (lambda r: replace(r, head_reads=(1, 2)), "the head reads .0. ... .1., not head"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_seen(name):
    change, sentence = WRONG[name]
    with pytest.raises(AssertionError, match=sentence):
        assert "; ".join(compared(tiny_model(), change)) == ""


def test_wrong_gradients_are_seen():
    found = compared(tiny_model(), gradients=lambda found: [-g for g in found])
    assert found[0] == "gradients of layer 0 differ"


def test_whatever_a_library_shows_is_used_first(monkeypatch):
    images = pictures(2, (32, 32))
    for library, name, source in (
        ("timm", "vit_tiny_patch16_224", "hooks"),
        ("vit-pytorch", "simple_vit.SimpleViT", "hooks"),
        ("transformers", "ViTForImageClassification", "output_attentions"),
    ):
        model, images = networks.network(library, name)
        record = record_attention(model, images)
        assert coverage.own_of(model, images, record).source == source
    assert not model.training


def test_each_softmax_is_seen_once():
    scores = torch.randn(1, 2, 3, 3)
    with coverage._calls() as seen:
        nn.functional.softmax(scores, dim=-1)
        torch.softmax(scores, -1)
        scores.softmax(-1)
        nn.functional.scaled_dot_product_attention(*[torch.randn(1, 2, 3, 4)] * 3)
    assert [each.shape for each in seen] == [(1, 2, 3, 3)] * 4


def test_noise_reaches_what_begins_at_zero():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Parameter(torch.zeros(4))

    model = Gated()
    networks._disturb(model)
    assert (model.gate != 0).all()


def test_a_network_that_takes_too_long_or_fails_is_a_row():
    child = coverage.Child()
    try:
        row = child.ask("timm", "vit_tiny_patch16_224", limit=0.01)
        assert (row["outcome"], row["why"]) == ("too slow", "more than 0 s")
        row = child.ask("timm", "no such network")
        assert row["outcome"] == "crash"
    finally:
        child.close()


def test_of_what_is_refused_the_sentence_is_tried():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = tiny_model(), tiny_model()

        def forward(self, images):
            return self.left(images) + self.right(images)

    images = pictures()
    with pytest.raises(ValueError, match="side by side") as refusal:
        record_attention(Two(), images)
    assert coverage._instead(Two(), images, str(refusal.value)) == "model.left, model.right"


def test_the_tables_join_what_became_of_the_networks():
    rows = [
        {"library": "timm", "family": "vit", "network": "a", "outcome": "recorded", "why": "",
         "compared": ["weights"]},
        {"library": "timm", "family": "vit", "network": "b", "outcome": "recorded", "why": "",
         "compared": ["head"]},
        {"library": "timm", "family": "swin", "network": "c", "outcome": "refused",
         "why": "c attends within windows or at several resolutions", "instead": "token Grad-CAM"},
    ]  # fmt: skip
    counts, works, refused = coverage.tables(rows)
    assert (counts["recorded"], counts["refused"], counts["wrong"]) == (2, 1, 0)
    assert (works["count"], works["result"], works["compared"]) == (2, "works", ["head", "weights"])
    assert (refused["result"], refused["instead"]) == (
        "windows, or several resolutions",
        "token Grad-CAM",
    )


@pytest.mark.sweep
def test_no_network_of_the_libraries_is_recorded_wrongly():
    """All of them: about half an hour on two cores."""
    known = coverage.installed()
    rows = coverage.sweep([(library, name) for library in known for name in known[library]])
    assert [row for row in rows if row["outcome"] in ("wrong", "crash")] == []
    measured = json.loads((coverage.ROOT / "benchmarks/results/coverage.json").read_text())["rows"]
    same = {
        row["library"]
        for row in measured
        if row["table"] == "counts" and row["version"] == version(row["library"])
    }
    works = {
        (row["library"], row["network"])
        for row in measured
        if row.get("outcome") == "recorded" and row["library"] in same
    }
    assert works <= {(r["library"], r["network"]) for r in rows if r["outcome"] == "recorded"}


def test_a_view_that_the_border_cuts_off_has_its_middle_where_the_whole_would():
    corner = coverage.Seen((23.0, 201.0), (0.0, 178.0), (46.0, 224.0))
    assert coverage._middle_of_whole(corner, (92.0, 92.0), (224, 224)) == [0.0, 224.0]
    inside = coverage.Seen((50.0, 60.0), (4.0, 0.0), (96.0, 92.0))
    assert coverage._middle_of_whole(inside, (92.0, 92.0), (224, 224)) == [50.0, 60.0]
