"""One way in for any network: how it reads images, images made ready, one name for each method."""

import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from conftest import pictures, randomize, tiny_model, words_in
from PIL import Image
from torch import nn
from torch.testing import assert_close

from vit_tutorial import (
    AttentionExplorer,
    Reading,
    VisionTransformer,
    ViTConfig,
    load_checkpoint,
    prepare,
    record_attention,
    rollout,
)
from vit_tutorial.attention import (
    attention_map,
    heat_map,
    methods_for,
    relevance,
)
from vit_tutorial.cnn import ResNetConfig
from vit_tutorial.explain import contact_sheet, explain, write_pages
from vit_tutorial.images import class_index, name_of
from vit_tutorial.mae import MAEConfig
from vit_tutorial.methods import METHODS, OPTIONS, RELEVANCE_METHODS
from vit_tutorial.recording import record_activations
from vit_tutorial.weights import Card

ROOT = Path(__file__).parent.parent
CLASSES = ("ant", "bee", "cat")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
CONFIG = ViTConfig(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)


def photograph(width: int = 30, height: int = 20) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def network() -> VisionTransformer:
    return randomize(VisionTransformer(CONFIG))


class MyViT(nn.Module):
    """A network as somebody else writes one: PyTorch's layers, names of their own."""

    def __init__(self):
        super().__init__()
        self.to_patches = nn.Conv2d(3, 24, 16, 16)
        self.speaker = nn.Parameter(torch.randn(1, 1, 24))
        layer = nn.TransformerEncoderLayer(24, 3, 48, batch_first=True, norm_first=True)
        self.layers = nn.ModuleList([layer, nn.TransformerEncoderLayer(24, 3, batch_first=True)])
        self.answer = nn.Linear(24, 2)

    def forward(self, images):
        x = self.to_patches(images).flatten(2).mT
        x = torch.cat([self.speaker.expand(len(x), -1, -1), x], dim=1)
        for layer in self.layers:
            x = layer(x)
        return self.answer(x[:, 0])


# ---- how a network reads images ----


def test_the_readme_explains_a_network_of_ones_own(tmp_path, monkeypatch):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("### Your own model\n")[1]
    code = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)[1]
    lines = [line for line in code.splitlines() if line]
    assert len(lines) == 6
    photograph(90, 70).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    before = "\n".join(lines[:-2])  # the last two show something
    scope: dict = {"MyViT": MyViT}
    exec(before, scope)
    model, reading = scope["model"], scope["reading"]
    explanation = eval(lines[-2].split(".figure()")[0], scope)
    eval(lines[-1], scope)
    pixels = np.asarray(explanation.fitted.view().resize((64, 64), Image.Resampling.BICUBIC))
    assert (explanation.fitted.pixels.permute(1, 2, 0).numpy() == pixels).mean() > 0.9
    model.eval()
    normalised = (explanation.fitted.pixels[None] / 255 - 0.5) / 0.25
    probabilities = model(normalised).softmax(dim=1)[0].detach()
    best = int(probabilities.argmax())
    assert explanation.names[0] == reading.classes[best]
    assert explanation.probabilities[0] == pytest.approx(probabilities[best].item(), rel=1e-4)
    assert explanation.heat.shape == (4, 4)
    assert "Chefer" in " ".join(words_in(explanation.figure()))
    assert reading.classes[best] in (tmp_path / "photo.html").read_text(encoding="utf-8")


def test_a_card_says_what_a_reading_says():
    model, card = load_checkpoint("digits")
    reading = Reading(card.size, card.mean, card.std, card.classes)
    assert reading.size == model.config.img_size == 8
    for one, other in zip(prepare(photograph(), card), prepare(photograph(), reading), strict=True):
        assert torch.equal(getattr(one, "pixels", one), getattr(other, "pixels", other))
    assert explain(model, photograph(), card).names == explain(model, photograph(), reading).names


def test_the_card_of_a_network_for_any_size_has_none():
    resnet = Card("small", ResNetConfig(num_classes=3), CLASSES, MEAN, STD, "none")
    assert resnet.size is None
    with pytest.raises(ValueError, match="images of any size: choose one, as in size=224"):
        prepare(photograph(), resnet)
    assert prepare(photograph(), resnet, size=(5, 7))[1].shape == (1, 3, 5, 7)
    mae = Card("mae", MAEConfig(replace(CONFIG, img_size=(8, 12))), CLASSES, MEAN, STD, "none")
    assert mae.size == (8, 12)


# ---- an image made ready ----


def test_pixels_are_normalised_channel_by_channel():
    photo = photograph(8, 8)  # of the size that the network reads: no pixel is resampled
    fitted, pixels = prepare(photo, Reading(8, MEAN, STD, CLASSES))
    expected = (np.asarray(photo) / 255 - MEAN) / STD
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), expected, atol=1e-6)
    assert (fitted.pixels.permute(1, 2, 0).numpy() == np.asarray(photo)).all()


@pytest.mark.parametrize(("fit", "box"), [("crop", (5, 0, 25, 20)), ("resize", (0, 0, 30, 20))])
def test_the_fit_is_that_which_was_asked_for(fit, box):
    fitted, _ = prepare(photograph(), Reading(8, MEAN, STD, CLASSES), fit=fit)
    assert fitted.box == box


def test_the_networks_own_size_counts_more_than_its_readings_and_what_is_asked_for_most():
    reading, model = Reading(8, MEAN, STD, CLASSES), network()
    larger = model.resized((12, 16))
    unknown = SimpleNamespace(config=SimpleNamespace(img_size=None), parameters=lambda: iter(()))
    for given, size, shape in [
        (None, None, (8, 8)),
        (model, None, (8, 8)),
        (larger, None, (12, 16)),
        (nn.Identity(), None, (8, 8)),
        (unknown, None, (8, 8)),
        (larger, 20, (20, 20)),
    ]:
        assert prepare(photograph(), reading, given, size=size)[1].shape[2:] == shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pixels_have_the_type_of_the_networks_weights(dtype):
    reading = Reading(8, MEAN, STD, CLASSES)
    assert prepare(photograph(), reading)[1].dtype == torch.float32
    assert prepare(photograph(), reading, network().to(dtype))[1].dtype == dtype


def test_one_mean_makes_the_image_grey():
    fitted, pixels = prepare(photograph(8, 8), Reading(8, [0.5], [0.25], CLASSES))
    assert pixels.shape == (1, 1, 8, 8)
    grey = np.asarray(photograph(8, 8)) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(fitted.pixels[0], grey, atol=1)


def test_an_image_is_called_like_its_file(tmp_path):
    photograph().save(tmp_path / "cat.png")
    with Image.open(tmp_path / "cat.png") as opened:
        for named in (tmp_path / "cat.png", "a/cat.png", opened):
            assert name_of(named) == "cat.png"
    for unnamed in (photograph(), np.zeros((2, 2)), b"bytes"):
        assert name_of(unnamed) == "image"


# ---- one table of methods ----


def test_each_method_is_the_function_that_it_is_named_for():
    model, images = network(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    record = record_attention(model, images, gradients_of=1)
    assert methods_for(record) == list(METHODS)
    assert set(METHODS) == {"last_layer", "rollout", *RELEVANCE_METHODS}
    expected = {"last_layer": attention_map(record, layer=1), "rollout": rollout(record)}
    expected |= {method: relevance(record, method=method) for method in RELEVANCE_METHODS}
    for method in METHODS:
        assert_close(heat_map(record, method), expected[method], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"one of last_layer, rollout, .*, got 'last-layer'"):
        heat_map(record, "last-layer")


def test_without_gradients_and_without_a_known_head_there_are_fewer_methods():
    model, images = MyViT().eval(), torch.randn(2, 3, 64, 64)
    assert methods_for(record_attention(model, images)) == ["last_layer", "rollout"]
    graded = record_attention(model, images, gradients_of=1)
    assert methods_for(graded) == [method for method in METHODS if method != "legrad"]


# ---- explanations ----


@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_is_of_the_most_probable_class(method):
    model, reading = network(), Reading(8, MEAN, STD, CLASSES)
    explanation = explain(model, photograph(), reading, method=method)
    _, pixels = prepare(photograph(), reading, model)
    probabilities = model(pixels).softmax(dim=1)[0].detach()
    assert explanation.names == [CLASSES[i] for i in probabilities.argsort(descending=True)]
    expected = sorted(probabilities.tolist(), reverse=True)
    assert explanation.probabilities == pytest.approx(expected, rel=1e-6)
    graded = record_attention(model, pixels, gradients_of=int(probabilities.argmax()))
    assert_close(explanation.heat, heat_map(graded, method)[0].float())
    assert any(METHODS[method] in words for words in words_in(explanation.figure()))
    assert any(METHODS[method] in words for words in words_in(contact_sheet([explanation])))


@pytest.mark.parametrize("method", RELEVANCE_METHODS)
def test_another_class_may_be_explained(method, tmp_path):
    model, reading = network(), Reading(8, MEAN, STD, CLASSES)
    _, pixels = prepare(photograph(), reading, model)
    best = explain(model, photograph(), reading, method=method)
    for number, name in enumerate(CLASSES):
        graded = record_attention(model, pixels, gradients_of=number)
        for target in (name, number, name.upper(), str(number)):
            each = explain(model, photograph(), reading, method=method, target=target)
            assert each.target == name
            assert_close(each.heat, heat_map(graded, method)[0].float())
            assert (each.names, each.probabilities) == (best.names, best.probabilities)
    assert best.target == best.names[0]
    share = f"{name} ({each.probabilities[each.names.index(name)]:.0%})"
    assert any(f"{METHODS[method]} for {name}" in words for words in words_in(each.figure()))
    assert share in words_in(contact_sheet([best, each]))
    photograph().save(tmp_path / "photo.png")
    (page,) = write_pages(
        model, [tmp_path / "photo.png"], reading, tmp_path / "a.html", method=method,
        targets=["ant", "cat"],
    )  # fmt: skip
    text = page.read_text(encoding="utf-8")
    for name in ("ant", "cat"):
        assert f'"name":"photo.png: {name}"' in text
        assert f'"target":"{name}"' in text


def test_an_unknown_class_is_refused_with_those_that_come_near():
    assert class_index("bee", CLASSES) == 1
    names = ["tabby, tabby cat", "tiger cat", "tiger", *(f"class {n}" for n in range(20)), "7"]
    assert [class_index(each, names) for each in ("tiger", 2, "2", "7", 7)] == [2, 2, 2, 23, 7]
    near = r"target must be a class \(tabby, tabby cat\) or its number from 0 to 23, got 'tabby'"
    with pytest.raises(ValueError, match=near):
        class_index("tabby", names)
    with pytest.raises(ValueError, match=r"\(tiger\) or .*got 'tigre'"):
        class_index("tigre", names)
    with pytest.raises(ValueError, match=r"\(ant; bee; cat\).*from 0 to 2, got 3"):
        explain(network(), photograph(), Reading(8, MEAN, STD, CLASSES), method="chefer", target=3)


def test_heads_are_fused_and_the_least_left_out_as_asked(tmp_path):
    model, reading = network(), Reading(8, MEAN, STD, CLASSES)
    options = {"head_fusion": "max", "discard_ratio": 0.4}
    record = record_attention(model, prepare(photograph(), reading, model)[1])
    came = explain(model, photograph(), reading, **options).heat
    assert_close(came, rollout(record, **options)[0].float())
    assert not torch.allclose(came, rollout(record)[0].float())
    photograph().save(tmp_path / "photo.png")
    (page,) = write_pages(model, [tmp_path / "photo.png"], reading, tmp_path / "a.html", **options)
    text = page.read_text(encoding="utf-8")
    assert '"head_fusion":"max"' in text
    assert '"discard_ratio":0.4' in text
    for wrong in ({"head_fusion": "sum"}, {"discard_ratio": 0.99}):
        with pytest.raises(ValueError, match="a page fuses heads by mean, max, min and discards"):
            write_pages(model, [tmp_path / "photo.png"], reading, tmp_path / "a.html", **wrong)


@pytest.mark.parametrize("method", METHODS)
def test_an_option_that_a_method_does_not_use_is_refused(method, tmp_path):
    model, reading = network(), Reading(8, MEAN, STD, CLASSES)
    asked = {"target": "bee", "query": (0, 1), "head_fusion": "max", "discard_ratio": 0.5}
    for name, value in asked.items():
        used = explain(model, photograph(), reading, method=method)
        if method in OPTIONS[name][1]:
            other = explain(model, photograph(), reading, method=method, **{name: value})
            assert not torch.equal(used.heat, other.heat) or used.target == "bee"
            continue
        with pytest.raises(ValueError, match=f"'{method}' does not use {name}, got .*choose"):
            explain(model, photograph(), reading, method=method, **{name: value})
        pages = {"targets": [value]} if name == "target" else {name: value}
        with pytest.raises(ValueError, match=f"'{method}' does not use {name}"):
            write_pages(model, ["a.png"], reading, tmp_path / "a.html", method=method, **pages)


def test_a_network_with_windows_is_explained_on_its_last_grid():
    swin = timm.models.SwinTransformer(
        img_size=64, patch_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 2), window_size=4,
        num_classes=3,
    )  # fmt: skip
    model, reading = randomize(swin), Reading(64, MEAN, STD, CLASSES)
    pixels = prepare(photograph(), reading, model)[1]
    for number, name in enumerate(CLASSES):
        each = explain(model, photograph(), reading, method="token_grad_cam", target=name)
        record = record_activations(model, pixels, gradients_of=number)
        assert_close(each.heat, record.grad_cam()[0].float())
        assert each.heat.shape == (8, 8)
        words_in(each.figure())
    assert each.probabilities == pytest.approx(sorted(model(pixels).softmax(1)[0].tolist())[::-1])
    with pytest.raises(ValueError, match='on its last grid, by the method "token_grad_cam"'):
        explain(model, photograph(), reading)


def test_a_page_shows_the_method_that_was_asked_for(tmp_path):
    photograph().save(tmp_path / "photo.png")
    model, reading = network(), Reading(8, MEAN, STD, CLASSES)
    for method in METHODS:
        show = {"last_layer": "mean", "rollout": "rollout"}.get(method, METHODS[method])
        (page,) = write_pages(
            model, [tmp_path / "photo.png"], reading, tmp_path / "page.html", method=method
        )
        assert f'"show":"{show}"' in page.read_text(encoding="utf-8")


def test_what_cannot_be_explained_is_a_sentence():
    model, photo = network(), photograph()
    with pytest.raises(ValueError, match="MyViT does not tell 3 classes apart"):
        explain(MyViT(), photo, Reading(64, MEAN, STD, CLASSES))
    with pytest.raises(ValueError, match=r"method must be one of last_layer, .*, got 'magic'"):
        explain(model, photo, Reading(8, MEAN, STD, CLASSES), method="magic")


def test_a_method_that_was_named_but_not_written_shows_no_other_ones_map(monkeypatch):
    model = tiny_model()
    record = record_attention(model, pictures(1), gradients_of=0)
    for names in ("RELEVANCE_METHODS", None):
        with monkeypatch.context() as patch:
            patch.setitem(METHODS, "novel", "Novel")
            if names:
                patch.setattr(f"vit_tutorial.attention.{names}", (*RELEVANCE_METHODS, "novel"))
            with pytest.raises((NotImplementedError, KeyError), match="novel"):
                heat_map(record, "novel")


# ---- networks of other kinds ----


class Wrapped(nn.Module):
    """A network with something before it and something after it."""

    def __init__(self, before=nn.Identity(), after=nn.Identity(), **changes):  # noqa: B008
        super().__init__()
        config = replace(CONFIG, img_size=8, **changes)
        self.before, self.net, self.after = before, VisionTransformer(config), after
        randomize(self)

    def forward(self, images):
        return self.after(self.net(self.before(images)))


class Middle(nn.Module):
    """The middle 8 of 16 pixels."""

    def forward(self, images):
        return images[..., 4:12, 4:12]


def test_a_crop_inside_the_network_is_drawn_where_it_looks():
    reading = Reading(16, MEAN, STD, CLASSES)
    model = Wrapped(Middle())
    ramp = np.add.outer(5 * np.arange(32), 2 * np.arange(32)).astype(np.uint8)  # JPEG keeps it
    photo = Image.fromarray(np.stack([ramp] * 3, axis=-1))
    explanation = explain(model, photo, reading)
    assert explanation.box == (4, 4, 12, 12)
    lit = explanation.figure().axes[2].images[0].get_array().astype(int)
    outside = np.ones((32, 32), dtype=bool)
    outside[8:24, 8:24] = False  # what the patches cover: outside it is dark
    assert (lit[outside] <= 0.25 * np.asarray(photo)[outside] + 1).all()
    assert (lit[8:24, 8:24] > 0.25 * np.asarray(photo)[8:24, 8:24] + 1).mean() > 0.5
    _, pixels = prepare(photo, reading, model)
    alone = record_attention(model.net, pixels[..., 4:12, 4:12])
    assert_close(explanation.heat, rollout(alone)[0].float())
    made = AttentionExplorer(model, photo, reading)
    with Image.open(io.BytesIO(made.images[0])) as shown:
        expected = np.asarray(photo.crop((8, 8, 24, 24)).convert("RGB").resize(shown.size))
        assert shown.size == (16, 16)
        assert np.abs(np.asarray(shown).astype(int) - expected).max() <= 6


@pytest.mark.parametrize("method", ["rollout", "last_layer"])
def test_a_network_without_classes_is_explained_by_attention(method, tmp_path):
    reading = Reading(8, MEAN, STD, ())
    explanation = explain(network(), photograph(), reading, method=method)
    assert (explanation.names, explanation.lines()) == ([], [])
    assert explanation.heat.shape == (2, 2)
    words = " ".join(words_in(explanation.figure()))
    assert "Where it looked" in words
    assert "predicts" not in words
    words_in(contact_sheet([explanation]))
    with pytest.raises(ValueError, match="explains a class, and none is named"):
        explain(network(), photograph(), reading, method="chefer")
    made = AttentionExplorer(network(), photograph(), reading)
    assert (made.scenes[0]["answer"], made.scenes[0]["methods"]) == ("", [])


def test_a_regression_is_said_as_a_number():
    reading = Reading(8, MEAN, STD, ("age",))
    model = Wrapped(after=nn.Linear(3, 1))
    explanation = explain(model, photograph(), reading, method="chefer")
    _, pixels = prepare(photograph(), reading, model)
    value = model(pixels).item()
    assert explanation.lines() == [f"{value:6.4g}  age"]
    for words in (words_in(explanation.figure()), words_in(contact_sheet([explanation]))):
        assert f"age: {value:.4g}" in " ".join(words)
        assert "%" not in " ".join(words)
    assert (
        AttentionExplorer(model, photograph(), reading).scenes[0]["answer"] == f"age: {value:.4g}"
    )


def test_classes_that_are_each_for_itself_are_said_so():
    reading = Reading(8, MEAN, STD, CLASSES)
    model = Wrapped(after=nn.Sigmoid())
    _, pixels = prepare(photograph(), reading, model)
    shares = model(pixels)[0].detach()
    explanation = explain(model, photograph(), reading)
    assert explanation.probabilities == pytest.approx(sorted(shares.tolist(), reverse=True))
    best = CLASSES[int(shares.argmax())]
    answer = AttentionExplorer(model, photograph(), reading).scenes[0]["answer"]
    assert answer == f"most likely {best} ({shares.max():.0%}), each of 3 classes for itself"


def test_logits_in_a_tuple_beside_features_are_found_by_the_number_of_classes():
    reading = Reading(8, MEAN, STD, CLASSES)

    class Beside(nn.Module):
        def forward(self, y):
            return y.repeat(1, 4), y

    plain, tuples = Wrapped(), Wrapped(after=Beside())
    one, other = (explain(m, photograph(), reading, method="chefer") for m in (plain, tuples))
    assert one.lines() == other.lines()
    assert_close(one.heat, other.heat)


def test_a_backbone_without_gradients_shows_attention_and_says_why_no_more():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, images):
            with torch.no_grad():
                return self.net(images)

    reading = Reading(8, MEAN, STD, CLASSES)
    with pytest.warns(UserWarning, match="gradient cannot reach the attention"):
        made = AttentionExplorer(Frozen(), photograph(), reading)
    assert made.scenes[0]["methods"] == []
    assert "no gradient reaches the attention" in made.scenes[0]["answer"]
    with pytest.raises(ValueError, match="gradient cannot reach the attention"):
        explain(Frozen(), photograph(), reading, method="chefer")


@pytest.mark.parametrize("query", ["patches", "all", 2, (1, 0)])
def test_another_query_is_explained_and_shown_first(query, tmp_path):
    reading = Reading(8, MEAN, STD, CLASSES)
    record = record_attention(network(), prepare(photograph(), reading, network())[1])
    explanation = explain(network(), photograph(), reading, query=query)
    assert_close(explanation.heat, rollout(record, query=query)[0].float())
    made = AttentionExplorer(network(), photograph(), reading)
    made.look_from(query)
    assert_close(
        torch.from_numpy(made.values(show="rollout")[1:].copy()),
        rollout(record, query=query)[0].float().flatten(),
        rtol=0,
        atol=5e-3,
    )
    with pytest.raises(ValueError, match="query must be a token"):
        made.look_from("cls")
    write_pages(
        network(), [np.zeros((8, 8, 3), np.uint8)], reading, tmp_path / "a.html", query=query
    )


def test_no_token_that_the_head_does_not_read_is_called_cls():
    """A head that reads the patches' mean, behind a class token that it does not read."""

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, images):
            return self.net.head(self.net.forward_features(images)[:, 1:].mean(1))

    reading = Reading(8, MEAN, STD, CLASSES)
    made = AttentionExplorer(Patches(), photograph(), reading)
    facts = made.scenes[0]
    assert (facts["prefix_names"], facts["query"], made.query) == (["extra 1"], -2, -2)
    record = record_attention(Patches(), prepare(photograph(), reading, network())[1])
    expected = rollout(record, query=None)[0, 1:, 1:].mean(0)
    shown = torch.from_numpy(made.values(show="rollout")[1:].copy())
    assert_close(shown, expected.float(), rtol=0, atol=5e-3)
    assert "the mean of patches" in made._caption(made._view({"show": "mean"}))
