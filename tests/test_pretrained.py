"""Networks by name: libraries' own loaders, with their weights replaced by random ones."""

import builtins

import pytest
import timm
import torch
import torchvision
import transformers

from vit_tutorial import load_checkpoint
from vit_tutorial.pretrained import Reading, load_network
from vit_tutorial.weights import Card


def test_names_of_this_course_give_the_network_and_its_card():
    model, card = load_network("digits")
    expected, _ = load_checkpoint("digits")
    assert isinstance(card, Card)
    assert card.name == "digits"
    assert torch.equal(model.head.weight, expected.head.weight)


def test_torchvisions_networks_come_with_their_classes_and_numbers(monkeypatch):
    def random_one(name, weights):
        return torchvision.models.VisionTransformer(
            image_size=224, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8
        ).train()

    monkeypatch.setattr(torchvision.models, "get_model", random_one)
    model, reading = load_network("torchvision:vit_b_16")
    assert not model.training
    assert reading.size == 224
    assert reading.mean == (0.485, 0.456, 0.406)
    assert len(reading.classes) == 1000
    assert reading.classes[281] == "tabby"


def test_timms_networks_come_with_their_classes_and_numbers(monkeypatch):
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: make(name))
    _, reading = load_network("timm:vit_tiny_patch16_224")
    assert reading.size == (224, 224)
    assert reading.mean == (0.5, 0.5, 0.5)
    assert reading.classes[281].startswith("tabby")


def test_hugging_faces_networks_come_with_their_classes_and_numbers(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=32, patch_size=8, num_labels=3, id2label={0: "a", 1: "b", 2: "c"},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model, reading = load_network(f"hf:{tmp_path}")
    assert reading == Reading((32, 32), (0.5,) * 3, (0.5,) * 3, ("a", "b", "c"))
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)


@pytest.mark.parametrize(
    "name", ["torchvision:vit_b_16", "timm:vit_tiny_patch16_224", "hf:google/vit-base-patch16-224"]
)
def test_weights_that_cannot_be_had_are_a_sentence(name, monkeypatch, tmp_path):
    """Nothing can be reached from a test, and nothing is kept in an empty folder."""

    def nothing(*arguments, **options):
        raise OSError("could not connect")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", nothing)
    monkeypatch.setattr("timm.models._builder._resolve_pretrained_source", nothing)
    monkeypatch.setattr(transformers.AutoModelForImageClassification, "from_pretrained", nothing)
    with pytest.raises(ValueError, match=rf"the weights of {name} could not be downloaded .*kept"):
        load_network(name)


def test_unknown_names_say_what_is_known(monkeypatch):
    for name in ("foo:bar", "timm:"):
        with pytest.raises(
            ValueError, match=f"torchvision:NAME, timm:NAME or hf:NAME, got '{name}'"
        ):
            load_network(name)
    with pytest.raises(ValueError, match=r"torchvision:vit_x: .*vit_x"):
        load_network("torchvision:vit_x")
    with pytest.raises(FileNotFoundError, match="bananas"):
        load_network("bananas")
    found = builtins.__import__

    def without_timm(name, *rest):
        if name == "timm":
            raise ModuleNotFoundError("No module named 'timm'")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(ValueError, match="not installed: pip install timm"):
        load_network("timm:vit_tiny_patch16_224")
