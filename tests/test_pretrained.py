"""Networks by name: libraries' own loaders, with their weights replaced by random ones."""

import builtins

import pytest
import timm
import torch
import torchvision
import transformers
from conftest import randomize
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, load_checkpoint
from vit_tutorial.pretrained import Reading, load_network, load_vit
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


# ---- any library's ViT as ours ----


def torchvisions(monkeypatch, tmp_path):
    theirs = randomize(
        torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24,
            num_classes=7,
        )
    )  # fmt: skip
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: theirs)
    return "torchvision:vit_b_16", theirs, (0.485, 0.456, 0.406)


def timms(monkeypatch, tmp_path):
    theirs = randomize(
        timm.models.VisionTransformer(
            img_size=32, patch_size=8, depth=2, num_heads=2, embed_dim=16, mlp_ratio=2,
            num_classes=1000,
        )
    )  # fmt: skip
    theirs.pretrained_cfg = timm.create_model("vit_tiny_patch16_224").pretrained_cfg
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    return "timm:vit_tiny_patch16_224", theirs, (0.5, 0.5, 0.5)


@pytest.mark.parametrize("kind", ["Dinov2Model", "ViTModel", "ViTForMaskedImageModeling"])
def test_a_backbone_gets_no_head_of_random_numbers(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    about = getattr(transformers, "Dinov2Config" if "Dino" in kind else "ViTConfig")
    config = about(hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=48, image_size=28, patch_size=14)  # fmt: skip
    saved = getattr(transformers, kind)(config).eval()
    saved.save_pretrained(tmp_path)
    reader = transformers.ViTImageProcessor(size={"height": 28, "width": 28})
    reader.save_pretrained(tmp_path)
    for _ in range(2):
        model, reading = load_network(f"hf:{tmp_path}")
        assert reading.classes == ()
        kept = saved.state_dict()
        names = {name: name.split(".", 1)[1] if "Masked" in kind else name for name in kept}
        loaded = model.state_dict()
        found = [name for name in kept if names[name] in loaded]
        assert len(found) == len(loaded), "nothing in it is made up"
        for name in found:
            torch.testing.assert_close(loaded[names[name]], kept[name])


def hugging_faces(monkeypatch, tmp_path):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=32, patch_size=8, num_labels=7,
    )  # fmt: skip
    theirs = transformers.ViTForImageClassification(config)
    randomize(theirs).float().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    return f"hf:{tmp_path}", theirs.double(), (0.5, 0.5, 0.5)


@pytest.mark.parametrize("library", [torchvisions, timms, hugging_faces])
def test_any_librarys_vit_becomes_ours_with_the_same_logits(library, monkeypatch, tmp_path):
    name, theirs, mean = library(monkeypatch, tmp_path)
    ours, reading = load_vit(name)
    assert type(ours) is VisionTransformer
    assert not ours.training
    assert reading.mean == mean
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(images)
        expected = getattr(expected, "logits", expected)
        assert_close(ours.double()(images), expected)


def test_a_network_of_the_course_says_how_it_reads_images():
    vit, reading = load_vit("cifar10")
    expected, card = load_checkpoint("cifar10")
    assert_close(vit.head.weight, expected.head.weight, rtol=0, atol=0)
    assert (reading.size, reading.mean, reading.std) == (32, card.mean, card.std)
    assert reading.classes == card.classes


def test_weights_without_a_classifier_get_a_head_of_zeros(monkeypatch):
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: make(name, num_classes=0))
    ours, reading = load_vit("timm:vit_small_patch16_224.dino")
    assert reading.classes == ("none",)
    assert reading.mean == (0.485, 0.456, 0.406)
    assert ours(torch.zeros(1, 3, 224, 224)).tolist() == [[0.0]]
    with torch.no_grad():
        assert ours.forward_features(torch.zeros(1, 3, 224, 224)).std() > 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("resnet18", "got timm's ResNet"), ("vit_small_patch16_rope_mixed_224", "of fixed angles")],
)
def test_a_part_that_ours_do_not_have_is_named(name, sentence, monkeypatch):
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: make(name))
    with pytest.raises(ValueError, match=sentence):
        load_vit(f"timm:{name}")


def test_modern_parts_come_along(monkeypatch):
    theirs = randomize(timm.create_model("vit_small_patch14_reg4_dinov2", img_size=28, depth=1))
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: theirs)
    ours, reading = load_vit("timm:vit_small_patch14_reg4_dinov2")
    assert (ours.config.num_prefix, reading.classes) == (5, ("none",))
    images = torch.randn(1, 3, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        read = ours.forward_head(ours.forward_features(images), pre_logits=True)
        assert_close(read, theirs(images))


def test_of_clip_the_half_that_reads_images_is_taken(monkeypatch, tmp_path):
    sizes = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40)
    config = transformers.CLIPConfig(
        text_config=sizes, vision_config={**sizes, "image_size": 16, "patch_size": 8}
    )
    theirs = transformers.CLIPModel(config)
    theirs.save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    ).save_pretrained(tmp_path)
    ours, reading = load_vit(f"hf:{tmp_path}")
    assert (reading.size, reading.classes) == ((16, 16), ("none",))
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        read = ours.forward_head(ours.forward_features(images), pre_logits=True)
        assert_close(read, theirs.eval().vision_model(images).pooler_output)


def test_another_librarys_name_and_a_missing_library_are_a_sentence(monkeypatch):
    with pytest.raises(ValueError, match="vit_base_patch16_224"):  # timm's name
        load_vit("torchvision:vit_base_patch16_224")
    found = builtins.__import__

    def without(name, *rest):
        if name in ("timm", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for prefix, package in (("timm", "timm"), ("hf", "transformers")):
        with pytest.raises(ValueError, match=f"not installed: pip install {package}"):
            load_vit(f"{prefix}:anything")
