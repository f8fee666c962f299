"""Networks by name, from this course or another library, with what each expects of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from vit_tutorial.images import Reading
from vit_tutorial.libraries import from_library
from vit_tutorial.model import VisionTransformer
from vit_tutorial.weights import Card, bundled, load_checkpoint
from vit_tutorial.zero_shot import ZeroShotClassifier

EXTRAS = {"timm": "timm", "hf": "transformers"}  # an optional library, and how it is installed


def load_network(name: str | Path, texts: Sequence[str] = ()) -> tuple[nn.Module, Card | Reading]:
    """Load a trained network, and how it reads images, ready for `AttentionExplorer`.

    Args:
        name: "cifar10", "digits" or a checkpoint file; or "torchvision:vit_b_16", "timm:NAME",
            "hf:NAME", whose weights are downloaded if they have not been before. A folder will do
            for NAME of hf.
        texts: what a CLIP or SigLIP of hf is to tell apart, as a `ZeroShotClassifier`.

    Raises:
        ValueError: an unknown name, a library that is not installed, weights that cannot be
            downloaded, texts for a network that reads none, or none for one that does.
    """
    library = str(name).partition(":")[0]
    if texts and library != "hf":
        raise ValueError(f"{name} reads no texts: a CLIP or SigLIP does, as hf:NAME")
    return _load(str(name), texts)


def _load(name: str, texts: Sequence[str] | None) -> tuple[nn.Module, Card | Reading]:
    """Load a network; `texts` are None where the half that reads them is not wanted."""
    library, colon, rest = name.partition(":")
    if name in bundled() or not colon or Path(name).suffix == ".safetensors":
        return load_checkpoint(name)
    loaders = {"torchvision": _from_torchvision, "timm": _from_timm, "hf": _from_hugging_face}
    if library not in loaders or not rest:
        raise ValueError(
            f"expected a checkpoint, or torchvision:NAME, timm:NAME or hf:NAME, got {name!r}"
        )
    try:
        model, reading = loaders[library](rest, *([texts] if library == "hf" else []))
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} needs a library that is not installed: pip install {EXTRAS[library]}"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(_why_not(name, error)) from error
    return model.eval(), reading


def load_vit(name: str | Path) -> tuple[VisionTransformer, Card | Reading]:
    """Load a trained ViT of any of the libraries as ours, and how it reads images.

    Weights that come without a classifier, as DINO's, get a head of zeros for one class, "none".

    Args:
        name: as for `load_network`: "cifar10", "digits", a checkpoint file, "torchvision:vit_b_16",
            "timm:NAME", "hf:NAME".

    Raises:
        ValueError: a network that cannot be had, or with a part that ours do not have.

    Examples:
        >>> vit, reading = load_vit("digits")
        >>> type(vit).__name__, reading.size, len(reading.classes)
        ('VisionTransformer', 8, 10)
    """
    model: Any
    model, reading = _load(str(name), texts=None)
    if not isinstance(model, VisionTransformer):
        model = from_library(model)
        if not reading.classes:
            reading = replace(reading, classes=("none",))
    return model.eval(), reading


def _why_not(name: str, error: Exception) -> str:
    """Say in a sentence why a network is not there, and what to do."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    words = f"{type(error).__name__} {reason}".lower()
    network = ("connect", "resolve", "offline", "urlopen", "timed out", "network", "hub", "cached")
    if isinstance(error, ValueError | RuntimeError) and not any(w in words for w in network):
        return f"{name}: {reason}"
    return (
        f"the weights of {name} could not be downloaded ({reason[:120]}): run the same line once "
        f"with a network, and they will be kept; {', '.join(bundled())} come with the course"
    )


def _from_torchvision(name: str) -> tuple[nn.Module, Reading]:
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name)["DEFAULT"]
    model = get_model(name, weights=weights)
    preset = weights.transforms()
    return model, Reading(
        preset.crop_size[0],
        tuple(preset.mean),
        tuple(preset.std),
        tuple(weights.meta["categories"]),
    )


def _from_timm(name: str) -> tuple[nn.Module, Reading]:
    import timm
    from timm.data import ImageNetInfo, infer_imagenet_subset

    model = timm.create_model(name, pretrained=True)
    config: dict[str, Any] = model.pretrained_cfg  # ty: ignore[invalid-assignment]
    classes = [f"class {number}" for number in range(model.num_classes)]  # ty: ignore
    subset = infer_imagenet_subset(model)
    if subset:
        names = ImageNetInfo(subset)
        classes = [names.index_to_description(number) for number in range(names.num_classes())]
    size = config["input_size"][1:]
    return model, Reading(tuple(size), tuple(config["mean"]), tuple(config["std"]), tuple(classes))


def _from_hugging_face(name: str, texts: Sequence[str] | None) -> tuple[nn.Module, Reading]:
    import transformers

    config = transformers.AutoConfig.from_pretrained(name)
    made_for = config.architectures or [""]
    reads_texts = hasattr(config, "text_config") and made_for[0].endswith("Model")
    if texts:
        whole = transformers.AutoModel.from_pretrained(name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name) if reads_texts else None
        model, classes = ZeroShotClassifier(whole, tokenizer, texts), list(texts)
    elif reads_texts and texts is None:
        model, classes = transformers.AutoModel.from_pretrained(name), []
    elif reads_texts:
        raise ValueError(
            f"a {made_for[0]} has no classes but what it is asked for: give texts, as "
            '--text "a cat" "a dog"'
        )
    else:
        model, classes = _with_the_head_that_was_saved(name, made_for[0])
    reader = transformers.AutoImageProcessor.from_pretrained(name)
    size = getattr(reader, "crop_size", None) or reader.size
    height = size["height"] if "height" in size else size["shortest_edge"]
    return model, Reading(
        (height, size.get("width", height)),
        tuple(reader.image_mean),
        tuple(reader.image_std),
        tuple(classes),
    )


def _with_the_head_that_was_saved(name: str, made_for: str) -> tuple[nn.Module, list[str]]:
    """Load a network and what it calls its classes: none, where no classifier was saved.

    Hugging Face would make one up at random, whose percentages look like any other.
    """
    from transformers import AutoModel, AutoModelForImageClassification

    if not made_for or "ForImageClassification" in made_for:
        model, found = AutoModelForImageClassification.from_pretrained(
            name, output_loading_info=True
        )
        if not found["missing_keys"]:
            labels = model.config.id2label
            return model, [labels[number] for number in sorted(labels)]
    model, found = AutoModel.from_pretrained(name, output_loading_info=True)
    if any("pooler" in key for key in found["missing_keys"]):
        model, found = AutoModel.from_pretrained(
            name, add_pooling_layer=False, output_loading_info=True
        )
    if found["missing_keys"]:
        raise ValueError(f"its file lacks {', '.join(sorted(found['missing_keys'])[:3])}, ...")
    return model, []
