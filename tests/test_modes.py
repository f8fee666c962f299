"""Whoever asks a network in evaluation mode leaves every part of it in its own mode."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import randomize
from torch import nn

from vit_tutorial import (
    AttentionExplorer,
    ImageSet,
    LiveExplorer,
    Reading,
    VisionTransformer,
    ViTConfig,
    evaluate,
    record_attention,
)
from vit_tutorial.compress import head_importance
from vit_tutorial.explain import explain
from vit_tutorial.faithfulness import maps_of_all_methods, perturb
from vit_tutorial.modes import evaluating
from vit_tutorial.transfer import features
from vit_tutorial.weights import Card

CLASSES = ("ant", "bee", "cat")
READING = Reading(8, (0.5,) * 3, (0.25,) * 3, CLASSES)
MEAN, STD = READING.mean, READING.std
BYTES = torch.randint(
    256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
)
PIXELS = BYTES / 128 - 1
LABELS = torch.tensor([0, 1, 2, 0, 1])
PHOTO = BYTES[0].permute(1, 2, 0).numpy()


def half_frozen() -> VisionTransformer:
    """A network in training, but for its first block; in training no two of its outputs agree."""
    config = ViTConfig(
        img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=3, num_heads=3, drop_path=0.5
    )
    model = randomize(VisionTransformer(config)).float().train()
    model.blocks[0].eval()
    return model


def modes_of(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


# ---- evaluating ----


def test_a_part_that_is_frozen_inside_a_network_in_training_stays_so():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Dropout())
    ).train()
    model[1].eval()
    before = modes_of(model)
    with evaluating(model):
        assert modes_of(model) == [False] * 5
    assert modes_of(model) == before == [True, True, False, True, True]
    with pytest.raises(RuntimeError, match="broken"), evaluating(model):
        raise RuntimeError("broken")
    assert modes_of(model) == before


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("gradients", [False, True])
def test_what_is_computed_are_ordinary_tensors_whatever_the_caller_does(mode, gradients):
    model = nn.Linear(2, 2)
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        with evaluating(model, gradients):
            outputs = model(torch.ones(1, 2))
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert outputs.requires_grad is gradients
    assert not outputs.is_inference()


# ---- all who ask a network ----

ASKED: dict[str, Callable[[VisionTransformer], torch.Tensor]] = {
    "evaluate": lambda model: evaluate(model, images(), MEAN, STD).confidences,
    "features": lambda model: features(model, BYTES, MEAN, STD),
    "record_attention": lambda model: record_attention(model, PIXELS).weights[-1],
    "gradients": lambda model: record_attention(model, PIXELS, gradients_of=1).gradients[-1],
    "perturb": lambda model: perturb(model, PIXELS, torch.rand(5, 2, 2), LABELS, steps=3).removed,
    "all methods": lambda model: maps_of_all_methods(model, PIXELS, LABELS)["legrad"],
    "head_importance": lambda model: head_importance(model, PIXELS, LABELS)[-1],
    "explain": lambda model: torch.tensor(explain(model, PHOTO, READING).probabilities),
    "AttentionExplorer": lambda model: numbers(AttentionExplorer(model, PHOTO, READING).values()),
    "beside LiveExplorer": lambda model: numbers(beside(model).hiding(0, 1)["other"]),
}


def images() -> ImageSet:
    return ImageSet(BYTES, LABELS, CLASSES, "noise")


def numbers(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.copy())


def beside(model: nn.Module) -> LiveExplorer:
    """Show a small network, and beside it the one that is asked."""
    config = ViTConfig(img_size=8, patch_size=4, num_classes=len(CLASSES), embed_dim=8, depth=1,
                       num_heads=2)  # fmt: skip
    card = Card("small", config, CLASSES, MEAN, STD, "")
    shown = VisionTransformer(config)
    return LiveExplorer(shown, card, {"photo": PHOTO}, beside={"other": (model, READING)})


@pytest.mark.parametrize("name", ASKED)
def test_a_network_in_training_is_asked_in_evaluation_mode_and_left_as_it_was(name):
    model = half_frozen()
    before, state = modes_of(model), copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    asked = ASKED[name](model)
    assert modes_of(model) == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    torch.manual_seed(3)  # of the maps that `perturb` gets
    torch.testing.assert_close(asked, ASKED[name](model.eval()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ASKED)
def test_after_an_error_every_part_is_in_its_own_mode(name):
    def fail(tokens: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")

    model = half_frozen()
    model.norm.forward = fail
    before = modes_of(model)
    with pytest.raises((RuntimeError, ValueError), match="broken"):
        ASKED[name](model)
    assert modes_of(model) == before
