"""The loop and its optimizers against what they promise; stopping and going on is in test_run."""

import copy
import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from conftest import randomize
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.testing import assert_close

from vit_tutorial import ImageSet, VisionTransformer, ViTConfig, evaluate, fit, load_checkpoint
from vit_tutorial.compute import Compute
from vit_tutorial.data import channel_stats
from vit_tutorial.images import normalize
from vit_tutorial.recipes import RECIPES, TrainConfig
from vit_tutorial.run import Run
from vit_tutorial.train import (
    MEASUREMENTS,
    augment_batch,
    epochs_within,
    make_checkpoint,
    update,
    visible_patches,
)
from vit_tutorial.weights import Card

TINY = ViTConfig(
    img_size=8, patch_size=4, in_chans=1, num_classes=2, embed_dim=8, depth=1, num_heads=2
)
QUICK = TrainConfig(epochs=2, batch_size=16, lr=1e-2)
USUAL = Compute("float32", "fused", threads=torch.get_num_threads())


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


# ---- patches that are left out ----


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["none", "learned", "sincos", "rope"])
def test_a_network_sees_the_visible_patches_alone_wherever_they_stand(pos_embed, pool):
    config = replace(TINY, img_size=(8, 12), embed_dim=8, pos_embed=pos_embed, pool=pool, depth=2)
    model, images = randomize(new_model(config)), torch.randn(3, 1, 8, 12, dtype=torch.float64)
    every = torch.stack([torch.randperm(6) for _ in images])
    assert_close(model(images, every), model(images))  # a patch knows its place in any order
    visible, hidden = every[:, :4], every[:, 4:]
    logits = model(images, visible)
    for one in range(3):  # each image has its own
        assert_close(model(images[one : one + 1], visible[one : one + 1]), logits[one : one + 1])
        for patch, matters in [(int(p), False) for p in hidden[one]] + [(int(visible[one, 0]), 1)]:
            row, column = divmod(patch, 3)
            changed = images.clone()
            changed[one, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
            same = torch.equal(model(changed, visible), logits)
            assert same != bool(matters)
    fewer = model.forward_features(images, visible)
    assert fewer.shape == (3, 4 + config.num_prefix, 8)


def test_every_step_draws_other_patches_and_the_clean_ones_see_all():
    config = replace(QUICK, patch_drop=0.7, clean=0.5)  # 8 steps, the last 4 clean
    wide = replace(TINY, img_size=(8, 40))  # 20 patches, of which 6 are seen
    seen, model = [], new_model(wide)

    def keep(module, inputs):
        seen.append(inputs[0].detach().clone())

    model.blocks[0].register_forward_pre_hook(keep)
    train = replace(stripes(), images=stripes().images.repeat(1, 1, 1, 5))
    fit(model, train, None, config)
    assert [x.shape[1] for x in seen] == [7, 7, 7, 7, 21, 21, 21, 21]
    run = Run(model, config, train)
    drawn = []
    for run.step in range(4):
        run.seed()
        drawn.append(visible_patches(run, 16))
        assert all(len(set(row.tolist())) == 6 for row in drawn[-1])
        assert drawn[-1].min() >= 0
        assert drawn[-1].max() < 20
    assert len({tuple(row.tolist()) for visible in drawn for row in visible}) == 64


def test_patches_are_dropped_by_networks_that_can():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match=r"patch_drop is for the Vis.* Sequential cannot"):
        fit(net, stripes(), None, replace(QUICK, patch_drop=0.5))


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
        {"optimizer": "muon"},
        {"trivial_augment": 1.0},
        {"erase": 0.5},
        {"mixup": 0.5},
        {"cutmix": 0.5},
        {"ema": 0.5},
        {"clean": 0.5},
        {"patch_drop": 0.5},
        {"precision": "bfloat16"},
        {"attention": "plain"},
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


def test_training_on_a_cpu_leaves_the_chance_of_gpus_alone(monkeypatch):
    model, train = new_model(), stripes()
    for absent in (torch.cuda, torch.xpu):
        monkeypatch.setattr(absent, "manual_seed_all", lambda seed: pytest.fail("was seeded"))
    fit(model, train, None, replace(QUICK, crop_padding=2, flip=True))


def test_fit_takes_any_network():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    rows = fit(net, stripes(), stripes(16, seed=1), replace(QUICK, epochs=6))
    assert rows[-1]["test_accuracy"] == 100


def test_too_few_images_are_refused_before_any_work():
    with pytest.raises(ValueError, match="8 training images do not fill one batch of 16"):
        fit(new_model(), stripes(8), stripes(8), QUICK)


def test_a_channel_that_is_the_same_everywhere_is_named():
    train = stripes(channels=3)
    train.images[:, 1] = 7
    with pytest.raises(ValueError, match=r"channel 1 is 7 in all pixels .*: leave it out"):
        fit(new_model(replace(TINY, in_chans=3)), train, None, QUICK)


def test_a_loss_that_is_no_number_stops_with_advice():
    model = new_model()
    nn.init.constant_(model.head.weight, float("nan"))
    with pytest.raises(
        FloatingPointError, match=r"loss is nan in epoch 1, .* 0.69: try a lower lr than 0.01"
    ):
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
        ("ema", 1.0),
        ("erase", -0.1),
        ("trivial_augment", 1.1),
        ("clean", float("nan")),
        ("layer_decay", 0.0),
        ("layer_decay", 1.1),
        ("optimizer", "sgd"),
    ],
)
def test_a_choice_outside_its_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must .*got {value!r}"):
        TrainConfig(**{"epochs": 1, name: value})


def test_mixup_and_cutmix_share_the_images():
    with pytest.raises(ValueError, match=r"not be more than 1 together, got 0.6 and 0.5"):
        TrainConfig(epochs=1, mixup=0.6, cutmix=0.5)


def test_a_loss_far_above_guessing_stops_with_advice():
    model = new_model()
    nn.init.constant_(model.head.bias, 0)
    model.head.bias.data[0] = 50.0  # sure of the first class, whatever it sees
    with pytest.raises(FloatingPointError, match=r"the loss is 2\d.* in epoch 1, that of guessing"):
        fit(model, stripes(), stripes(16), replace(QUICK, lr=1e-6))


def test_recipes_say_what_they_are_about():
    names = ["smoke", "digits", "laptop", "overnight", "classroom", "flagship"]
    assert list(RECIPES) == names
    for recipe in RECIPES.values():
        assert recipe.about
        VisionTransformer(recipe.model)
    assert RECIPES["laptop"].model == ViTConfig(
        img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3, mlp_ratio=2.0, pool="mean"
    )


# ---- other objectives, averages, clean steps ----


class Copier(nn.Module):
    """Repeats pixels (B, 1, 8, 8), once it has learnt to."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels * self.scale


def test_another_objective_is_learnt_from_images_of_one_class_and_measured_on_none():
    train = replace(stripes(), labels=torch.zeros(64, dtype=torch.int64), classes=("stripes",))
    model = Copier()
    rows = fit(
        model,
        train,
        None,
        replace(QUICK, epochs=40, lr=0.1),
        objective=lambda network, pixels, targets: (network(pixels) - pixels).square().mean(),
    )
    assert_close(model.scale.item(), 1.0, rtol=1e-2, atol=0)
    assert rows[-1]["loss"] < rows[0]["loss"] / 100
    assert not any("test_accuracy" in row for row in rows)


def test_another_objective_may_be_large_but_must_be_a_number():
    def large(network, pixels, targets):
        return network(pixels).mean() + 1e6

    rows = fit(Copier(), stripes(), None, QUICK, objective=large)
    assert rows[-1]["loss"] > 1e5
    for broken in (math.nan, math.inf):

        def bad(network, pixels, targets, loss=broken):
            return network(pixels).mean() + loss

        with pytest.raises(FloatingPointError, match=f"the loss is {broken} in epoch 1: try a lo"):
            fit(Copier(), stripes(), None, QUICK, objective=bad)


def test_the_average_is_the_exponential_one_and_becomes_the_network():
    """Against the formula, step by step: a = d a + (1 - d) w, from the end of the warm-up on."""
    config = TrainConfig(epochs=3, batch_size=16, lr=1e-2, warmup=0.25, ema=0.8)
    model, train = new_model(), stripes()
    weights: list[torch.Tensor] = []

    def update_and_keep(run, loss):
        update(run, loss)
        weights.append(run.model.head.weight.detach().clone())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vit_tutorial.train.update", update_and_keep)
        rows = fit(model, train, stripes(16), config)
    assert len(weights) == 12  # 3 epochs of 4 steps, 3 of them warm-up
    average = weights[3]
    for weight in weights[4:]:
        average = 0.8 * average + 0.2 * weight
    assert_close(model.head.weight.detach(), average)
    measured = evaluate(model, stripes(16), *channel_stats(train.images)).accuracy
    assert rows[-1]["test_accuracy"] == measured


def test_a_rows_accuracy_is_that_of_the_averaged_network():
    """The average is made here, from the weights after each step; it learns more slowly."""
    model, train, test = new_model(), stripes(), stripes(40, seed=1)
    average, measured = [], []

    def follow(*_):
        weights = [p.detach().clone() for p in model.parameters()]
        average[:] = [0.95 * a + 0.05 * w for a, w in zip(average or weights, weights, strict=True)]

    def measure(row):
        averaged = copy.deepcopy(model)
        for parameter, value in zip(averaged.parameters(), average, strict=True):
            parameter.data = value
        stats = channel_stats(train.images)
        measured.append([evaluate(net, test, *stats).accuracy for net in (averaged, model)])

    handle = register_optimizer_step_post_hook(follow)
    config = replace(QUICK, epochs=8, warmup=0.0, ema=0.95)
    rows = fit(model, train, test, config, on_epoch=measure)
    handle.remove()
    of_the_average, of_the_last_step = zip(*measured, strict=True)
    assert of_the_average != of_the_last_step
    assert tuple(row["test_accuracy"] for row in rows) == of_the_average


def test_clean_steps_come_last_and_are_not_disturbed():
    train = stripes()
    config = TrainConfig(
        epochs=10, batch_size=64, trivial_augment=1.0, erase=1.0, cutmix=1.0, clean=0.3
    )
    run = Run(new_model(), config, train)
    plain = normalize(train.images, *map(torch.tensor, channel_stats(train.images)))
    hard = nn.functional.one_hot(train.labels, 2).float()
    for step in range(10):
        run.step = step
        pixels, targets = augment_batch(run, train.images, train.labels)
        assert torch.equal(pixels, plain) == (step >= 7)
        assert torch.equal(targets, hard) == (step >= 7)
        assert_close(targets.sum(dim=1), torch.ones(64))


def test_the_accuracy_is_measured_about_so_many_times_and_at_the_end(monkeypatch):
    assert MEASUREMENTS == 40
    monkeypatch.setattr("vit_tutorial.train.MEASUREMENTS", 4)
    train = stripes(16)
    for epochs, due in {1: [1], 4: [1, 2, 3, 4], 5: [2, 4, 5], 11: [3, 6, 9, 11]}.items():
        rows = fit(new_model(), train, train, TrainConfig(epochs=epochs, batch_size=16))
        assert [row["epoch"] for row in rows if "test_accuracy" in row] == due


def test_a_network_that_was_loaded_is_trained_in_training_mode():
    seen = []
    model = new_model(replace(TINY, drop_path=0.5)).eval()
    model.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    fit(model, stripes(), None, QUICK)
    assert all(seen)


@pytest.mark.parametrize(
    ("classes", "test_classes", "sentence"),
    [
        (("a", "b", "c"), ("a", "b", "c"), "has num_classes=2, .* has 3 classes"),
        (("a", "b"), ("b", "a"), "must have the classes of .*, in the same order: a, b; got b, a"),
    ],
)
def test_classes_that_do_not_fit_are_named_before_the_training(classes, test_classes, sentence):
    train, test = replace(stripes(), classes=classes), replace(stripes(), classes=test_classes)
    for ask in (fit, lambda *given: epochs_within(1, *given)):
        with pytest.raises(ValueError, match=sentence):
            ask(new_model(), train, test, QUICK)


def test_too_few_images_are_named_before_anything_is_measured():
    with pytest.raises(ValueError, match="8 training images do not fill one batch of 16"):
        epochs_within(1, new_model(), stripes(8), stripes(8), QUICK)


# ---- how long it takes ----


class Clock:
    """A clock that stands still but for what the test says."""

    def __init__(self, monkeypatch, step: float, measuring: float) -> None:
        self.now = 0.0
        monkeypatch.setattr("vit_tutorial.train.time.perf_counter", lambda: self.now)
        monkeypatch.setattr("vit_tutorial.train.train_step", lambda *_: self.spend(step))
        monkeypatch.setattr("vit_tutorial.train.evaluate", lambda *_: self.spend(measuring))

    def spend(self, seconds: float) -> None:
        self.now += seconds


def test_epochs_within_fills_the_time_and_counts_the_measurements(monkeypatch):
    """4 steps of 3 s and a measurement of 40 s for 40 test images out of 20: 12 + 80 s."""
    Clock(monkeypatch, step=3.0, measuring=40.0)
    monkeypatch.setattr("vit_tutorial.train.PROBE_IMAGES", 20)
    arguments = new_model(), stripes(64), stripes(40), QUICK
    per_epoch = 4 * 3.0 + 40.0 * 2
    for minutes in (5, 10, 60):
        epochs = epochs_within(minutes, *arguments)
        assert epochs * per_epoch <= 60 * minutes
        assert (epochs + 1.5) * per_epoch > 0.95 * 60 * minutes - 3
    # 1000 minutes: only forty measurements or so, however many epochs
    epochs = epochs_within(1000, *arguments)
    assert epochs > 4000
    with pytest.raises(ValueError, match=r"one epoch takes about 1.5 minutes here, .* 1 minutes"):
        epochs_within(1, *arguments)


def test_epochs_within_knows_that_the_clean_steps_take_longer(monkeypatch):
    """A quarter of the steps sees all patches, at 9 s instead of 5: 6 s on average."""
    clock = Clock(monkeypatch, step=0.0, measuring=0.0)

    def train_step(network, run, *_):
        clock.spend(9.0 if run.clean else 5.0)
        run.step += 1

    monkeypatch.setattr("vit_tutorial.train.train_step", train_step)
    config = replace(QUICK, patch_drop=0.5, clean=0.25)
    epochs = epochs_within(1000, new_model(), stripes(64), stripes(16), config)
    assert epochs == int((0.97 * 60_000 - 5) / (4 * 6.0))


def test_epochs_within_tries_the_share_of_a_process(monkeypatch):
    """Four processes have a quarter of a batch each, which takes less time than all of it."""
    clock, asked = Clock(monkeypatch, step=3.0, measuring=40.0), []

    def train_step(network, run, images, labels):
        asked.append((network, images, labels))
        clock.spend(3.0)

    monkeypatch.setattr("vit_tutorial.train.train_step", train_step)
    monkeypatch.setattr("vit_tutorial.train.world_size", lambda: 4)
    monkeypatch.setattr("vit_tutorial.train.rank", lambda: 1)
    monkeypatch.setattr("vit_tutorial.train.data_parallel", lambda model: "parallel")
    data = stripes(64)
    epochs_within(10, new_model(), data, stripes(16), QUICK, USUAL)
    for network, images, labels in asked:
        assert network == "parallel"
        assert torch.equal(images, data.images[1:16:4])
        assert torch.equal(labels, data.labels[1:16:4])


def test_epochs_within_leaves_the_network_alone():
    model = new_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert epochs_within(5, model, stripes(), stripes(16), QUICK) >= 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


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
        "split": "",
        "correct": fresh.correct,
        "n": 200,
        "accuracy": fresh.accuracy,
        "batch_size": 64,
        "dtype": "float32",
        "device": "cpu",
    }
    assert evaluate(model, test, (0.5,), (0.2,)).correct == 150
    assert fresh.correct == 50
