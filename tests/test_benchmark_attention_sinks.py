"""The measure of attention sinks against plain loops, and against attention that is known."""

import importlib
import math
import statistics
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import attention_sinks
import pytest
import torch
from conftest import randomize, stored
from test_train import stripes
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, ViTConfig
from vit_tutorial.mae import MAEConfig, MaskedAutoencoder
from vit_tutorial.recording import record_attention

tables: ModuleType = importlib.import_module("tables")
SMALL = {"img_size": (8, 12), "patch_size": 4, "in_chans": 1, "embed_dim": 16, "num_heads": 2}


@pytest.fixture
def network(request, monkeypatch):
    monkeypatch.setattr(attention_sinks, "BATCH", 2)
    model = VisionTransformer(ViTConfig(**SMALL, depth=2, pool=request.param))
    return randomize(model).double().eval()


@pytest.mark.parametrize("network", ["cls", "mean"], indirect=True)
def test_shares_and_entropies_are_those_of_plain_loops(network):
    images = torch.randn(4, 1, 8, 12, dtype=torch.float64)
    corner, patches = attention_sinks.heads(network, images)
    record = record_attention(network, images)
    first = network.config.num_prefix
    for layer, weights in enumerate(record.weights):
        for head in range(2):
            shares, entropies = [], []
            for image in range(4):
                queries = [0] if first else range(6)
                given = [
                    sum(weights[image, head, q, first + n].item() for q in queries)
                    for n in range(6)
                ]
                given = [value / sum(given) for value in given]
                shares.append(given[0] + given[2] + given[3] + given[5])
                entropies.append(-sum(value * math.log(value) for value in given))
            assert_close(corner[layer, head].item(), sum(shares) / 4)
            assert_close(patches[layer, head].item(), math.exp(sum(entropies) / 4))


@pytest.mark.parametrize("network", ["cls"], indirect=True)
def test_uniform_attention_has_as_many_patches_as_there_are(network):
    for block in network.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight[:32])  # queries and keys
        torch.nn.init.zeros_(block.attn.qkv.bias[:32])
    corner, patches = attention_sinks.heads(network, torch.randn(2, 1, 8, 12).double())
    assert_close(patches, torch.full((2, 2), 6.0, dtype=torch.float64))
    assert_close(corner, torch.full((2, 2), 4 / 6, dtype=torch.float64))


@pytest.mark.parametrize("network", ["cls", "mean"], indirect=True)
def test_the_favourite_is_that_of_a_plain_loop(network):
    images = torch.randn(4, 1, 8, 12, dtype=torch.float64)
    record = record_attention(network, images)
    first, weights = network.config.num_prefix, record.weights[-1]
    for image, favourite in enumerate(attention_sinks.favourites(network, images).tolist()):
        given = [
            sum(weights[image, h, q, first + n].item() for h in range(2) for q in queries)
            for n in range(6)
            for queries in [[0] if first else range(6)]
        ]
        assert favourite == max(range(6), key=lambda n: given[n])


def test_corners_and_border_of_a_grid_by_hand():
    corners, border = attention_sinks.places((3, 4))
    assert corners == [0, 3, 8, 11]
    assert border == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]


def test_what_is_left_out_and_what_stays():
    kept = attention_sinks.stays((4, 5), 300)
    lost = {
        name: [set(range(20)) - set(row) for row in some.tolist()] for name, some in kept.items()
    }
    assert all(some.shape == (300, 16) for some in kept.values())
    assert all(len(gone) == 4 for of in lost.values() for gone in of)
    assert all(gone == {0, 4, 15, 19} for gone in lost[attention_sinks.CORNERS])
    edge = {1, 2, 3, 5, 9, 10, 14, 16, 17, 18}
    assert set.union(*lost[attention_sinks.BORDER]) == edge
    assert set.union(*lost[attention_sinks.RANDOM]) == set(range(20))
    counts = [sum(n in gone for gone in lost[attention_sinks.RANDOM]) for n in range(20)]
    assert all(30 < count < 95 for count in counts)  # 60 each, give or take
    again = attention_sinks.stays((4, 5), 300)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


class ByCorner(torch.nn.Module):
    """Gives class 0 three quarters as long as patch 0 stays, and a quarter without it."""

    config = ViTConfig(img_size=(8, 12), patch_size=2, in_chans=1, num_classes=2)

    def forward(self, images, visible=None):
        there = torch.ones(len(images)) if visible is None else (visible == 0).any(dim=1)
        chance = torch.where(there.bool(), 0.75, 0.25).double()
        return torch.stack([chance, 1 - chance], dim=1).log()


def test_differences_are_those_of_the_same_images(monkeypatch):
    monkeypatch.setattr(attention_sinks, "BATCH", 50)
    labels = torch.zeros(200, dtype=torch.long)
    images = torch.randn(200, 1, 8, 12)
    rows = {
        row["left_out"]: row
        for row in attention_sinks.rows_without("by corner", ByCorner(), images, labels)
    }
    drawn = attention_sinks.stays((4, 6), 200)[attention_sinks.RANDOM]
    share = sum(0 in row for row in drawn.tolist()) / 2  # percent that kept patch 0
    assert rows["nothing"]["accuracy"] == 100
    assert rows["the four corners"]["accuracy"] == 0
    assert rows["the four corners"]["true_class"] == 25
    assert rows["four random patches"]["accuracy"] == share
    assert "difference" not in rows["four random patches"]
    assert "change" not in rows["nothing"]
    assert rows["the four corners"]["change"] == -100
    assert rows["four random patches"]["change"] == pytest.approx(share - 100)
    assert rows["the four corners"]["rises"] == 0
    assert rows["the four corners"]["difference"] == pytest.approx(-share)
    turned = attention_sinks.rows_without("by corner", ByCorner(), images, 1 - labels)
    assert {row["left_out"]: row for row in turned}["the four corners"]["rises"] == 100
    gaps = [-1.0 if 0 in row else 0.0 for row in drawn.tolist()]
    error = 100 * statistics.stdev(gaps) / 200**0.5
    low, high = (rows["the four corners"][f"difference_{end}"] for end in ("low", "high"))
    assert (high - low) / 2 == pytest.approx(1.96 * error, abs=0.01)
    assert rows["the four corners"]["true_class_difference"] == pytest.approx(-share / 2, abs=0.01)
    low, high = (
        rows["the four corners"][f"true_class_difference_{end}"] for end in ("low", "high")
    )
    assert (high - low) / 2 == pytest.approx(1.96 * error / 2, abs=0.01)


def test_a_network_that_names_no_classes_is_asked_where_it_looks_only(results_root, monkeypatch):
    monkeypatch.setattr(attention_sinks, "BATCH", 20)
    monkeypatch.setattr(attention_sinks, "load_train_test", lambda *_, **__: (None, stripes(40)))
    encoder = ViTConfig(8, 2, 1, num_classes=2, embed_dim=8, depth=1, num_heads=2)
    networks = {
        "names": VisionTransformer(encoder),
        "fills": MaskedAutoencoder(MAEConfig(replace(encoder, pos_embed="sincos", pool="mean"))),
    }
    card = SimpleNamespace(mean=(0.5,), std=(0.25,))
    monkeypatch.setattr(attention_sinks, "load_checkpoint", lambda name, _: (networks[name], card))
    command = ["--data", "folder/of-images", "--images", "40", "--checkpoint", *networks]
    assert attention_sinks.main(command) == 0
    result = stored(results_root, "attention_sinks")
    assert "--data of-images" in result["command"]
    tables_of = [(row["table"], row["network"]) for row in result["rows"]]
    assert tables_of == [("looks", "names"), *[("dropped", "names")] * 4, ("looks", "fills")]
    assert [row["asked"] for row in result["rows"] if row["table"] == "looks"] == [
        "CLS",
        "mean of the patches",
    ]
    for name in ("attention_sinks.looks", "attention_sinks.dropped"):
        assert "| names |" in tables.results_table(results_root, name)
