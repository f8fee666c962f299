"""The measure of attention sinks against plain loops, and against attention that is known."""

import math

import attention_sinks
import pytest
import torch
from conftest import randomize
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, ViTConfig
from vit_tutorial.recording import record_attention

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
