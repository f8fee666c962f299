"""Checkpoints survive the way to disk and back, and other libraries' weights give equal logits."""

import json
import os
import warnings
from collections.abc import Callable
from functools import partial

import conftest
import pytest
import torch
from conftest import randomize
from safetensors.torch import load_file, save_file
from skimage import data as photographs
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

from vit_tutorial import (
    VisionTransformer,
    data,
    fit_image,
    load_checkpoint,
    normalize,
    save_checkpoint,
    train,
    weights,
)
from vit_tutorial.cnn import ResNet, ResNetConfig
from vit_tutorial.hardware import plain_state, unwrapped
from vit_tutorial.mae import MaskedAutoencoder
from vit_tutorial.weights import BUNDLED, Card, bundled

SMALL = {**conftest.SMALL, "depth": 2}
tiny_model = partial(conftest.tiny_model, depth=2)


def pictures(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 16, 24), dtype=torch.float64)


def card_of(model: VisionTransformer, **changes) -> Card:
    fields = dict(
        name="tiny",
        config=model.config,
        classes=tuple("abcde"),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.1),
        data="random pixels",
        training={"seed": 3, "command": "none"},
        evaluation={"n": 4, "correct": 1},
    )
    return Card(**{**fields, **changes})


@pytest.fixture
def saved(tmp_path):
    """A checkpoint on disk that some test is going to spoil."""
    model = tiny_model()
    save_checkpoint(model, tmp_path / "tiny", card_of(model))
    return tmp_path / "tiny.safetensors"


# ---- there and back ----


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["none", "learned", "sincos", "rope"])
def test_a_checkpoint_comes_back_as_it_was_in_half_precision(pos_embed, pool, tmp_path):
    model = tiny_model(pos_embed=pos_embed, pool=pool).resized((24, 16))
    card = card_of(model)
    save_checkpoint(model, tmp_path / "folder" / "tiny", card)
    loaded, read = load_checkpoint(tmp_path / "folder" / "tiny.safetensors")
    assert read == card
    assert read.config == model.config == loaded.config
    assert read.config.trained_grid == (2, 3)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    rounded = model.half().float()
    for name, value in rounded.state_dict().items():
        assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    images = pictures(4, 3, 24, 16).float()
    logits = loaded(images)
    assert_close(logits, VisionTransformer.forward(rounded, images), rtol=1e-2, atol=1e-2)
    assert_close(load_checkpoint(tmp_path / "folder" / "tiny")[0](images), logits, rtol=0, atol=0)


def test_files_hold_half_precision_tensors_and_a_card_people_can_read(saved):
    with open(saved, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F16"}
    text = saved.with_suffix(".json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "name": "tiny"')
    assert json.loads(text)["classes"] == list("abcde")
    assert sorted(p.name for p in saved.parent.iterdir()) == ["tiny.json", "tiny.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_others_may_read_a_checkpoint_as_they_may_any_new_file(tmp_path):
    model, before = tiny_model(), os.umask(0o022)
    try:
        save_checkpoint(model, tmp_path / "tiny", card_of(model))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_a_name_with_a_dot_keeps_it(tmp_path):
    model = tiny_model()
    save_checkpoint(model, tmp_path / "v1.5", card_of(model))
    assert (tmp_path / "v1.5.safetensors").is_file()
    assert load_checkpoint(tmp_path / "v1.5")[1].name == "tiny"


@pytest.mark.parametrize("step", ["save_file", "card"])
def test_a_write_that_fails_leaves_the_old_checkpoint_whole(step, saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.parent.iterdir()}

    def disk_full(first, second, *rest):
        path = second if step == "save_file" else first
        path.write_bytes(b"half a file")
        raise OSError("No space left on device")

    if step == "save_file":
        monkeypatch.setattr(weights, "save_file", disk_full)
    else:
        monkeypatch.setattr(
            Card, "write", lambda card, path: disk_full(path.with_suffix(".partial"), None)
        )
    other = randomize(tiny_model(), seed=1)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(other, saved, card_of(other))
    assert {name: (saved.parent / name).read_bytes() for name in before} == before


# ---- wrapped networks ----


def compiled(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():  # PyTorch's own, of its parts
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.compile(network, backend="eager")


def partly(network: nn.Module, wrap: Callable) -> nn.Module:
    network.blocks[1] = wrap(network.blocks[1])
    network.head = wrap(network.head)
    return network


WRAPPED = {
    "compiled": compiled,
    "data-parallel": nn.DataParallel,
    "averaged": lambda network: AveragedModel(network),
    "all of it": lambda network: AveragedModel(nn.DataParallel(compiled(network))),
    "compiled in parts": lambda network: partly(network, compiled),
    "parts on several devices": lambda network: partly(network, nn.DataParallel),
    "compiled in place": lambda network: network.compile(backend="eager") or network,
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapped_network_is_saved_as_itself(kind, tmp_path):
    model = tiny_model()
    before = {name: value.half().float() for name, value in model.state_dict().items()}
    card = card_of(model)
    save_checkpoint(WRAPPED[kind](model), tmp_path / "tiny", card)
    assert set(load_file(tmp_path / "tiny.safetensors")) == set(before)
    assert_close(load_checkpoint(tmp_path / "tiny")[0].state_dict(), before, rtol=0, atol=0)


def test_a_wrapped_network_is_measured_and_saved(tmp_path):
    model = tiny_model().float()
    images = torch.randint(0, 256, (20, 3, 16, 24), dtype=torch.uint8)
    test = data.ImageSet(images, torch.arange(20) % 5, tuple("abcde"), "noise", "test")
    cards = [
        train.make_checkpoint(wrap(model), tmp_path / "tiny", card_of(model), test)
        for wrap in (unwrapped, nn.DataParallel)
    ]
    assert cards[0] == cards[1]
    assert (cards[0].evaluation["data"], cards[0].evaluation["split"]) == ("noise", "test")


def test_a_part_that_is_called_module_is_no_wrapper():
    network = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    assert unwrapped(network) is network
    assert list(plain_state(network)) == list(network.state_dict())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module.net._orig_mod."])
def test_what_others_put_before_the_names_is_understood(prefix, saved):
    expected = load_checkpoint(saved)[0].state_dict()
    save_file({prefix + name: value for name, value in load_file(saved).items()}, saved)
    assert_close(load_checkpoint(saved)[0].state_dict(), expected, rtol=0, atol=0)
    save_file({**load_file(saved), "criterion.weight": torch.zeros(1)}, saved)
    with pytest.raises(ValueError, match=r"do not fit together: criterion\.weight is unexpected$"):
        load_checkpoint(saved)


def test_of_two_networks_in_one_file_none_is_taken(saved):
    """As where an average of the weights lies beside them."""
    state = load_file(saved)
    averaged = {f"ema.{name}": value + 1 for name, value in state.items()}
    for beside in (state, {f"model.{name}": value for name, value in state.items()}):
        save_file({**averaged, **beside}, saved)
        with pytest.raises(ValueError, match=r"do not fit together: .* is unexpected"):
            load_checkpoint(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_loaded(value, saved):
    state = load_file(saved)
    state["head.bias"][1] = value
    save_file(state, saved)
    with pytest.raises(ValueError, match=r"holds NaN or infinity in head\.bias: it is damaged"):
        load_checkpoint(saved)


def test_a_file_of_another_kind_is_answered_with_the_remedy_and_not_opened(saved):
    other = saved.with_suffix(".pth")
    other.write_bytes(b"a pickle could run any program")
    with pytest.raises(ValueError, match=r"tiny\.pth is no \.safetensors file: .*save_checkpoint"):
        load_checkpoint(other)


@pytest.mark.parametrize("what", ["weights missing", "cut short", "other values"])
def test_what_cannot_be_read_back_does_not_replace_a_good_file(what, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}
    model = randomize(tiny_model(), seed=1)

    def badly(state, path):
        state = dict(state)
        if what == "weights missing":
            del state["head.bias"]
        if what == "other values":
            state["head.bias"] = state["head.bias"] + 1
        save_file(state, path)
        if what == "cut short":
            path.write_bytes(path.read_bytes()[:-20])

    monkeypatch.setattr(weights, "save_file", badly)
    sentence = {
        "weights missing": r"not saved: .*head\.bias is missing",
        "cut short": "not a complete safetensors file",
        "other values": r"head\.bias comes back .* with other values",
    }[what]
    with pytest.raises((ValueError, OSError), match=sentence):
        save_checkpoint(model, saved, card_of(model))
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before


def test_a_folder_in_the_place_of_the_weights_leaves_the_old_card(tmp_path):
    model = tiny_model()
    (tmp_path / "tiny.safetensors").mkdir()
    (tmp_path / "tiny.json").write_text("an older one")
    with pytest.raises(OSError, match="there is a folder of that name"):
        save_checkpoint(model, tmp_path / "tiny", card_of(model))
    assert (tmp_path / "tiny.json").read_text() == "an older one"


# ---- what is refused ----


def test_a_network_of_another_library_is_not_saved_with_a_card(tmp_path):
    with pytest.raises(ValueError, match=r"got torch\..*Linear: `from_library` copies"):
        save_checkpoint(nn.Linear(2, 2), tmp_path / "theirs", card_of(tiny_model()))
    assert not list(tmp_path.iterdir())


def test_a_card_of_another_network_is_not_written(tmp_path):
    model, other = tiny_model(), tiny_model(depth=1)
    with pytest.raises(ValueError, match=r"the card describes .*depth=1.* the model is .*depth=2"):
        save_checkpoint(model, tmp_path / "tiny", card_of(other))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ("a", "b")}, "tells 5 classes apart, the card names 2"),
        ({"mean": (0.5,)}, "reads 3 channels, the card gives 1 means and 3 standard"),
        ({"std": (0.5,) * 4}, "3 means and 4 standard deviations"),
        ({"std": (0.5, 0.0, 0.5)}, "standard deviations numbers above 0"),
        ({"mean": (0.5, float("nan"), 0.5)}, "means must be numbers"),
    ],
)
def test_a_card_must_fit_its_own_network(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        card_of(tiny_model(), **change)


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_weights_that_half_precision_cannot_hold_are_not_written(value, tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.blocks[1].mlp.fc2.bias[3] = value
    with pytest.raises(
        ValueError, match=r"not finite in half precision: blocks\.1\.mlp\.fc2\.bias"
    ):
        save_checkpoint(model, tmp_path / "tiny", card_of(model))
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_is_answered_with_the_bundled_ones(monkeypatch):
    monkeypatch.setattr(weights, "bundled", lambda: ["apples", "pears"])
    with pytest.raises(FileNotFoundError, match=r"bananas\.safetensors.*apples, pears"):
        load_checkpoint("bananas")


def test_weights_without_their_card_are_refused(saved):
    saved.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*tiny\.json"):
        load_checkpoint(saved)


@pytest.mark.parametrize("size", [0, 5, 300, -10])
def test_a_file_cut_short_is_refused(size, saved):
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        '"card"',
        "null",
        '{"config": 3}',
        '{"config": {"wings": 2}}',
        "\xff",
    ],
)
def test_a_file_that_is_no_card_is_refused(text, saved):
    saved.with_suffix(".json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"tiny\.json is not the card of a checkpoint"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            ["config", "num_heads"],
            5,
            "is not the card .* 24 is no multiple of num_heads 5",
        ),
        (["network"], "Oracle", "is not the card of a checkpoint: .*Oracle"),
        (["classes"], ["a"], "is not the card .* 5 classes apart, the card names 1"),
        (["config", "depth"], 1, r"do not fit together: blocks\.1\.attn\.proj\.bias is unexpected"),
        (["config", "depth"], 3, r"do not fit together: blocks\.2\.\S+ is missing"),
        (["config", "pool"], "mean", "cls_token is unexpected; pos_embed has shape"),
        (["config", "mlp_ratio"], 3.0, r"fc1\.bias has shape \(48,\) instead of \(72,\)"),
        (["config", "pos_embed"], "none", "pos_embed is unexpected"),
    ],
)
def test_weights_and_card_that_do_not_belong_together_are_refused(path, value, sentence, saved):
    fields = json.loads(saved.with_suffix(".json").read_text())
    place = fields
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    saved.with_suffix(".json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=sentence):
        load_checkpoint(saved)


def test_another_kind_of_network_is_named_on_its_card(tmp_path):
    model = randomize(ResNet(ResNetConfig(1, width=4, stages=2, num_classes=5)))
    model.stem_norm.num_batches_tracked.fill_(70_001)  # more than half precision can hold
    model.stem_norm.running_mean.normal_()
    save_checkpoint(model, tmp_path / "small", card_of(model))
    loaded, card = load_checkpoint(tmp_path / "small", ResNet)
    assert card == card_of(model)
    assert json.loads((tmp_path / "small.json").read_text())["network"] == "ResNet"
    assert not loaded.training
    for name, value in model.half().float().state_dict().items():
        assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"small is a ResNet, and a VisionTransformer is expected"):
        load_checkpoint(tmp_path / "small")


# ---- the checkpoints in the package ----


KINDS = {
    "cifar10": VisionTransformer,
    "cifar10_mae": MaskedAutoencoder,
    "cifar10_resnet": ResNet,
    "digits": VisionTransformer,
}


def test_these_checkpoints_come_with_the_package():
    assert set(bundled()) == set(KINDS)


@pytest.mark.parametrize("name", bundled())
def test_a_bundled_checkpoint_is_small_and_its_card_complete(name):
    assert (BUNDLED / f"{name}.safetensors").stat().st_size <= 6e6
    model, card = load_checkpoint(name, KINDS[name])
    config = card.config.encoder if name == "cifar10_mae" else card.config
    assert card.name == name
    assert model.config == card.config
    assert len(card.classes) == len(set(card.classes)) == config.num_classes
    assert all(0 < value < 1 for value in (*card.mean, *card.std))
    assert card.data
    for key in ("command", "seed", "epochs", "date", "commit", "hardware"):
        assert str(card.training[key]), key
    assert card.evaluation["data"]
    assert card.fingerprint["images"] > len(card.fingerprint["some"].split()) == data.SAMPLE
    image_hw = (32, 32) if name == "cifar10_resnet" else config.image_hw
    with torch.inference_mode():
        assert model(torch.randn(2, config.in_chans, *image_hw)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "least"), [("cifar10", 68), ("cifar10_resnet", 60), ("digits", 96)]
)
def test_a_bundled_classifier_says_how_often_it_is_right(name, least):
    result = load_checkpoint(name, KINDS[name])[1].evaluation
    for key in ("data", "n", "correct", "accuracy", "batch_size", "dtype", "device"):
        assert str(result[key]), key
    assert result["accuracy"] == pytest.approx(100 * result["correct"] / result["n"])
    assert result["accuracy"] >= least


def test_the_bundled_autoencoder_knows_more_of_photographs_than_their_mean():
    """Four photographs that it has never seen, against the error of one colour for all of each."""
    mae, card = load_checkpoint("cifar10_mae", MaskedAutoencoder)
    names = ("chelsea", "astronaut", "coffee", "rocket")
    pixels = torch.stack([fit_image(getattr(photographs, name)(), 32).pixels for name in names])
    images = normalize(pixels, card.mean, card.std).repeat(16, 1, 1, 1)  # each with 16 draws
    torch.manual_seed(0)
    with torch.inference_mode():
        error = mae(images).item()
    assert error < 0.7 * images.var(dim=(2, 3)).mean()
    assert card.evaluation["hidden_error"] == pytest.approx(0.26, abs=0.02)


def test_the_digits_measured_again_give_the_count_on_the_card():
    model, card = load_checkpoint("digits")
    test = data.digits("test")
    result = train.evaluate(model, test, card.mean, card.std, card.evaluation["batch_size"])
    assert (result.n, result.correct) == (card.evaluation["n"], card.evaluation["correct"])
    assert card.evaluation["data"] == test.name
    assert data.same_data(card.fingerprint, data.digits("train").fingerprint())
    assert test.count_of(card.fingerprint) == 0
