"""Augmentation against padding, cropping and flipping; the loop against what it promises."""

import dataclasses
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from torch import nn
from torch.testing import assert_close

from vit_tutorial import ImageSet, VisionTransformer, ViTConfig, evaluate, fit, load_checkpoint
from vit_tutorial.augment import crop_flip, draw_crop_flip
from vit_tutorial.data import channel_stats, normalize
from vit_tutorial.train import (
    RECIPES,
    Evaluation,
    TrainConfig,
    lr_factor,
    make_checkpoint,
    parameter_groups,
)
from vit_tutorial.weights import Card

TINY = ViTConfig(
    img_size=8, patch_size=4, in_chans=1, num_classes=2, embed_dim=8, depth=1, num_heads=2
)
QUICK = TrainConfig(epochs=2, batch_size=16, lr=1e-2)


def stripes(count: int = 64, seed: int = 0, channels: int = 1) -> ImageSet:
    """Lying or standing stripes on noise: a shift or a mirror leaves the label true."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 100, (count, channels, 8, 8), generator=generator)
    labels = torch.arange(count) % 2
    images[labels == 0, :, ::2] += 150
    images[labels == 1, :, :, ::2] += 150
    return ImageSet(images.to(torch.uint8), labels, ("lying", "standing"), "stripes")


def new_model(config: ViTConfig = TINY, seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(config)


# ---- augmentation ----


@pytest.mark.parametrize("shape", [(9, 3, 6, 6), (9, 1, 5, 8)])
def test_crop_flip_is_padding_by_reflection_then_a_crop_then_a_mirror(shape):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    shift, flipped = draw_crop_flip(9, 4, True, generator)
    result = crop_flip(images, shift, flipped)
    assert result.dtype == torch.uint8
    height, width = shape[2:]
    for image, (down, right), mirror, found in zip(images, shift, flipped, result, strict=True):
        padded = F.pad(image[None].double(), (4, 4, 4, 4), mode="reflect")[0]
        expected = padded[:, 4 + down : 4 + down + height, 4 + right : 4 + right + width]
        expected = expected.flip(2) if mirror else expected
        assert_close(found.double(), expected, rtol=0, atol=0)


def test_no_shift_and_no_mirror_leave_the_images_alone():
    images = stripes(6).images
    shift, flipped = draw_crop_flip(6, padding=0, flip=False)
    assert torch.equal(crop_flip(images, shift, flipped), images)
    assert crop_flip(images[:0], shift[:0], flipped[:0]).shape == (0, 1, 8, 8)


def test_draws_cover_the_whole_range_evenly_and_each_axis_for_itself():
    shift, flipped = draw_crop_flip(4000, 2, True, torch.Generator().manual_seed(1))
    for axis in (0, 1):
        counts = torch.bincount(shift[:, axis] + 2, minlength=5)
        assert len(counts) == 5
        assert (counts - 800).abs().max() < 120  # more than four standard deviations
    assert (shift[:, 0] == shift[:, 1]).float().mean() == pytest.approx(0.2, abs=0.04)
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.04)
    assert not draw_crop_flip(100, 2, False)[1].any()


def test_draws_are_the_same_for_the_same_seed_and_new_for_another():
    first, again, other = (
        draw_crop_flip(50, 4, True, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)
    )
    assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: draw_crop_flip(-1, 0, False), "must not be negative, got -1 and 0"),
        (lambda: draw_crop_flip(2, -3, False), "must not be negative, got 2 and -3"),
        (
            lambda: crop_flip(torch.zeros(1, 8, 8), torch.zeros(1, 2), torch.zeros(1)),
            r"\(B, C, H, W\), got \(1, 8, 8\)",
        ),
        (
            lambda: crop_flip(torch.zeros(2, 1, 8, 8), torch.zeros(3, 2), torch.zeros(2)),
            r"shifts of shape \(2, 2\).* got \(3, 2\) and \(2,\)",
        ),
        (
            lambda: crop_flip(torch.zeros(2, 1, 8, 8), torch.zeros(2, 2), torch.zeros(3)),
            r"flips of shape \(2,\), got \(2, 2\) and \(3,\)",
        ),
        (
            lambda: crop_flip(
                torch.zeros(1, 1, 4, 8), torch.tensor([[4, 0]]), torch.zeros(1, dtype=torch.bool)
            ),
            r"smaller than the image \(4x8 pixels\)",
        ),
    ],
)
def test_augmentation_names_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


# ---- schedule and parameter groups ----


def test_the_rate_rises_linearly_to_its_highest_then_falls_as_a_cosine_to_zero():
    factors = [lr_factor(step, 200, warmup=0.1) for step in range(201)]
    assert_close(factors[:20], [(step + 1) / 20 for step in range(20)])
    assert factors[20] == 1 == max(factors)
    for step in range(20, 201):
        assert factors[step] == pytest.approx(math.cos((step - 20) / 180 * math.pi / 2) ** 2)
    assert factors[-1] == pytest.approx(0)
    assert factors[-2] > 0


def test_without_a_warm_up_the_rate_starts_at_its_highest():
    assert lr_factor(0, 10, warmup=0.0) == 1


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_every_parameter_is_in_one_group_and_only_matrices_decay(pos_embed, pool):
    model = VisionTransformer(replace(TINY, pos_embed=pos_embed, pool=pool, embed_dim=16))
    decayed, others = parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    members = [*decayed["params"], *others["params"]]
    assert sorted(map(id, members)) == sorted(map(id, model.parameters()))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sorted(names[id(p)] for p in decayed["params"]) == [
        "blocks.0.attn.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.mlp.fc1.weight",
        "blocks.0.mlp.fc2.weight",
        "head.weight",
        "patch_embed.proj.weight",
    ]


# ---- fit ----


def test_fit_learns_what_can_be_learnt_and_tells_each_epoch():
    seen = []
    model = new_model()
    train, test = stripes(), stripes(40, seed=1)
    rows = fit(model, train, test, replace(QUICK, epochs=8), on_epoch=seen.append)
    assert rows == seen
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert rows[-1]["test_accuracy"] == 100
    assert rows[-1]["test_accuracy"] == evaluate(model, test, *channel_stats(train.images)).accuracy
    assert sorted(row["seconds"] for row in rows) == [row["seconds"] for row in rows]


def trained_bytes(config: TrainConfig, seed: int = 0) -> bytes:
    model = new_model(seed=seed)
    rows = fit(model, stripes(), stripes(16, seed=1), config)
    state = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return state + str([row["loss"] for row in rows]).encode()


def test_the_same_seed_gives_the_same_network_to_the_bit():
    config = replace(QUICK, crop_padding=2, flip=True)
    torch.manual_seed(11)
    first = trained_bytes(config)
    torch.manual_seed(12)  # numbers drawn elsewhere do not matter
    assert trained_bytes(config) == first
    assert trained_bytes(replace(config, seed=1)) != first
    assert trained_bytes(config, seed=1) != first


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 1.1e-2},
        {"weight_decay": 0.5},
        {"warmup": 0.5},
        {"label_smoothing": 0.3},
        {"clip_norm": 1e-3},
        {"crop_padding": 1},
        {"flip": True},
        {"batch_size": 8},
    ],
    ids=str,
)
def test_every_choice_of_the_config_reaches_the_training(change):
    assert trained_bytes(replace(QUICK, **change)) != trained_bytes(QUICK)


def test_the_first_step_is_adamw_on_the_smoothed_loss_written_out():
    """One batch, one step: its size is the learning rate, its direction the gradient's sign."""
    config = TrainConfig(epochs=1, batch_size=64, lr=1e-3, warmup=0.0, weight_decay=0.1)
    train = stripes()
    model, by_hand = new_model(), new_model()
    (row,) = fit(model, train, stripes(4), config)

    logits = by_hand(normalize(train.images, *channel_stats(train.images)))
    log_p = logits.log_softmax(dim=1)
    right = log_p[torch.arange(64), train.labels]
    loss = -(0.95 * right + 0.05 * log_p.mean(dim=1)).mean()
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in by_hand.parameters()]).norm()
    for (name, after), before in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        gradient = before.grad * min(1.0, 1.0 / (norm + 1e-6))
        decay = 0.1 if before.ndim > 1 and name not in ("cls_token", "pos_embed") else 0.0
        step = gradient / (gradient.abs() + 1e-8)  # Adam's first step: m / (sqrt(v) + eps)
        expected = before * (1 - 1e-3 * decay) - 1e-3 * step
        assert_close(after.detach(), expected.detach(), rtol=1e-3, atol=2e-5)


def test_fit_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = stripes()
    before = train.images.clone(), torch.get_rng_state(), torch.is_grad_enabled()
    threads, model = torch.get_num_threads(), new_model().eval()
    state = torch.get_rng_state()
    fit(model, train, stripes(16), replace(QUICK, crop_padding=2, flip=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(train.images, before[0])
    assert (torch.is_grad_enabled(), torch.get_num_threads()) == (before[2], threads)
    assert not list(tmp_path.iterdir())
    hooks = [value for m in model.modules() for name, value in vars(m).items() if "hook" in name]
    assert not any(hook for hook in hooks if isinstance(hook, dict))


def test_fit_takes_any_network():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    rows = fit(net, stripes(), stripes(16, seed=1), replace(QUICK, epochs=6))
    assert rows[-1]["test_accuracy"] == 100


def test_too_few_images_are_refused_before_any_work():
    with pytest.raises(ValueError, match="8 training images do not fill one batch of 16"):
        fit(new_model(), stripes(8), stripes(8), QUICK)


def test_a_loss_that_is_no_number_stops_with_advice():
    model = new_model()
    nn.init.constant_(model.head.weight, float("nan"))
    with pytest.raises(FloatingPointError, match=r"loss is nan after epoch 1: try a lower lr than"):
        fit(model, stripes(), stripes(16), QUICK)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("clip_norm", -1.0),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("crop_padding", -1),
        ("warmup", 1.0),
        ("warmup", -0.1),
        ("label_smoothing", 1.0),
    ],
)
def test_a_choice_outside_its_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        TrainConfig(**{"epochs": 1, name: value})


def test_recipes_say_what_they_are_about():
    assert set(RECIPES) >= {"digits", "laptop"}
    for recipe in RECIPES.values():
        assert recipe.about
        VisionTransformer(recipe.model)
    assert RECIPES["laptop"].model == ViTConfig(
        img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3, mlp_ratio=2.0
    )


# ---- evaluate ----


def count_by_hand(model, test, mean, std) -> int:
    """One image after the other."""
    correct = 0
    for image, label in zip(test.images, test.labels, strict=True):
        pixels = (image.double() / 255 - torch.tensor(mean).view(-1, 1, 1)) / std[0]
        correct += int(model(pixels[None].float())[0].argmax() == label)
    return correct


@pytest.mark.parametrize("batch_size", [1, 7, 30, 500])
def test_evaluate_counts_the_images_named_rightly(batch_size):
    model, test = randomize(new_model()).float(), stripes(30)
    expected = count_by_hand(model, test, (0.4,), (0.2,))
    assert 0 < expected < 30
    result = evaluate(model, test, (0.4,), (0.2,), batch_size)
    assert result == Evaluation(expected, 30)
    assert result.accuracy == pytest.approx(100 * expected / 30)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_restores_the_mode_and_looks_in_evaluation_mode(training):
    class Mood(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images):  # right in evaluation mode, wrong in training mode
            lying = images[:, 0].mean(2).var(1) > images[:, 0].mean(1).var(1)
            lying = ~lying if self.training else lying
            return torch.stack([lying, ~lying], dim=1).float()

    model = Mood().train(training)
    assert evaluate(model, stripes(10), (0.5,), (0.2,)).correct == 10
    assert model.training is training
    with pytest.raises(ValueError, match="2 classes apart, three has 3"):
        evaluate(model, replace(stripes(10), classes=("a", "b", "c"), name="three"), (0.5,), (0.2,))
    assert model.training is training


@pytest.mark.parametrize(
    ("test", "batch_size", "sentence"),
    [
        (stripes(4)[:0], 500, "stripes holds no images"),
        (stripes(4), 0, "batch_size must be at least 1, got 0"),
        (stripes(4, channels=3), 500, r"1 means .* got \(4, 3, 8, 8\)"),
    ],
)
def test_evaluate_names_bad_input(test, batch_size, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(new_model(), test, (0.5,), (0.2,), batch_size)


# ---- a checkpoint with its number ----


def test_the_cards_count_is_that_of_the_written_file(tmp_path):
    """Half precision changes answers here: the card must tell the file's count."""
    model = randomize(new_model()).float()
    with torch.no_grad():  # rounded, both are equal, and the first wins
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.1, 0.100001]))
    test = replace(stripes(200), labels=(torch.arange(200) < 150).long())
    card = Card("tiny", TINY, test.classes, (0.5,), (0.2,), data="stripes", training={"seed": 5})
    written = make_checkpoint(model, tmp_path / "tiny", card, test, batch_size=64)
    shipped, read = load_checkpoint(tmp_path / "tiny")
    assert read == written
    assert dataclasses.replace(read, evaluation={}) == card
    fresh = evaluate(shipped, test, read.mean, read.std, 64)
    assert read.evaluation == {
        "data": "stripes",
        "correct": fresh.correct,
        "n": 200,
        "accuracy": fresh.accuracy,
        "batch_size": 64,
        "dtype": "float32",
        "device": "cpu",
    }
    assert evaluate(model, test, (0.5,), (0.2,)).correct == 150
    assert fresh.correct == 50
