"""Maps beside those of the packages that other people use, with the same weights and images."""

import pytest
import torch
import torchvision
from conftest import pictures, randomize
from torch.testing import assert_close

from vit_tutorial import from_library, record_attention, relevance


def test_legrad_is_torchcams():
    methods = pytest.importorskip("torchcam.methods")
    theirs = randomize(
        torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=48,
            num_classes=5,
        )
    )  # fmt: skip
    ours, images = from_library(theirs).double().eval(), pictures(2, (32, 32))
    for layers in ([0, 1, 2], [1, 2]):
        with methods.LeGrad(theirs, [theirs.encoder.layers[n] for n in layers]) as extractor:
            scores = theirs(images)
            (expected,) = extractor([3, 1], scores, normalized=False)
        record = record_attention(
            ours, images, layers=layers, gradients_of=lambda y: torch.stack([y[0, 3], y[1, 1]])
        )
        assert_close(record.logits, scores.detach())
        assert_close(relevance(record, method="legrad"), expected.detach(), rtol=1e-9, atol=1e-15)
