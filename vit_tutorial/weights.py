"""Checkpoints, and weights from other libraries.

A checkpoint is two files side by side: NAME.safetensors, the weights in half precision, and
NAME.json, a card that says what they are and how good they are.
"""

import errno
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vit_tutorial.cnn import ResNet, ResNetConfig
from vit_tutorial.files import atomic_write, companion
from vit_tutorial.hardware import plain_key, plain_state, unwrapped
from vit_tutorial.mae import MAEConfig, MaskedAutoencoder
from vit_tutorial.model import VisionTransformer, ViTConfig

BUNDLED = Path(__file__).parent / "checkpoints"
NETWORKS: dict[type, type[nn.Module]] = {
    ViTConfig: VisionTransformer,
    ResNetConfig: ResNet,
    MAEConfig: MaskedAutoencoder,
}
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Card:
    """What a checkpoint is: everything needed to use it, to judge it and to make it again.

    `config` is that of the network, whose kind it tells (see `NETWORKS`). `mean` and `std` are per
    channel, in units of 0..1 (see `images.normalize`); with `size` and `classes` they say how the
    network reads images, as an `images.Reading` does. `evaluation` is measured from the
    half-precision file: data, split, n, correct, accuracy in percent, batch_size, dtype, device.
    `fingerprint` is that of the training images, see `ImageSet.fingerprint`; empty: data unknown.

    Raises:
        ValueError: names for another number of classes, or statistics of another number of
            channels, than the config has, or statistics that are no numbers.
    """

    name: str
    config: Any
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str  # what it was trained on, as results call it
    training: dict[str, Any] = field(default_factory=dict)  # command, seed, epochs, seconds, ...
    evaluation: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)  # of what it was trained on

    def __post_init__(self) -> None:
        if len(self.classes) != self.config.num_classes:
            raise ValueError(
                f"the network tells {self.config.num_classes} classes apart, "
                f"the card names {len(self.classes)}"
            )
        if not len(self.mean) == len(self.std) == self.config.in_chans:
            raise ValueError(
                f"the network reads {self.config.in_chans} channels, the card gives "
                f"{len(self.mean)} means and {len(self.std)} standard deviations"
            )
        if not all(math.isfinite(number) for number in self.mean) or not all(
            0 < number < math.inf for number in self.std
        ):
            raise ValueError(
                f"the card's means must be numbers, its standard deviations numbers above 0, got "
                f"{self.mean} and {self.std}"
            )

    @property
    def size(self) -> int | tuple[int, int] | None:
        """Pixels of the images that the network reads; None where it takes any size."""
        return getattr(self.config, "img_size", None)

    @classmethod
    def read(cls, path: Path) -> "Card":
        """Read a card from its JSON file.

        Raises:
            ValueError: a file that is no card.
        """
        try:
            fields = dict(json.loads(path.read_text(encoding="utf-8")))
            kinds = {network.__name__: config for config, network in NETWORKS.items()}
            kind = kinds[fields.pop("network", "VisionTransformer")]
            fields["config"] = kind(**fields["config"])
            for name in ("classes", "mean", "std"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not the card of a checkpoint: {error}") from error

    def write(self, path: Path) -> None:
        """Write the card as JSON, beside first and then renamed."""
        name, *fields = asdict(self).items()
        fields = dict([name, ("network", NETWORKS[type(self.config)].__name__), *fields])
        text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
        with atomic_write(path) as beside:
            beside.write_text(text, encoding="utf-8")


def bundled() -> list[str]:
    """Name the checkpoints that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def save_checkpoint(model: nn.Module, path: str | Path, card: Card) -> None:
    """Write `path`.safetensors in half precision, and `card` beside it.

    A network that is compiled or data-parallel, as a whole or in parts, is saved as itself. What
    was at `path` before is replaced once the new files have been read back.

    Raises:
        ValueError: a network of another library, a card that describes another network, or weights
            that half precision cannot hold, or that this network cannot be loaded from.
        OSError: the files cannot be written.
    """
    path, model = companion(path, ".safetensors"), unwrapped(model)
    card_path = companion(path, ".json")
    if type(model) not in NETWORKS.values():
        raise ValueError(
            f"a card is for a {', '.join(kind.__name__ for kind in NETWORKS.values())} of this "
            f"course, got {type(model).__module__}.{type(model).__name__}: `from_library` copies "
            f"the ViTs of timm, torchvision and Transformers"
        )
    if card.config != model.config:
        raise ValueError(f"the card describes {card.config}, the model is {model.config}")
    for place in (path, card_path):  # or one of the two files would be replaced without the other
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, "there is a folder of that name", str(place))
    state = {name: value.detach().cpu() for name, value in plain_state(model).items()}
    state = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"not finite in half precision: {', '.join(broken)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as beside, atomic_write(card_path) as card_beside:
        save_file({name: value.contiguous() for name, value in state.items()}, beside)
        card.write(card_beside)
        written, _ = _read(beside, card_beside, "not saved: this network and its card")
        for name, value in written.state_dict().items():
            if not value.equal(state[name].to(value)):
                raise OSError(
                    f"{name} comes back from {path} with other values: is the disk sound?"
                )


def load_checkpoint(
    name_or_path: str | Path,
    kind: type[Network] = VisionTransformer,  # ty: ignore[invalid-parameter-default]
) -> tuple[Network, Card]:
    """Load a bundled checkpoint by name, or any by its file: the model (float32, eval) and card.

    Raises:
        FileNotFoundError: no such checkpoint, or weights without a card.
        ValueError: files that are damaged or do not belong together, or another kind of network.
    """
    path = companion(name_or_path, ".safetensors")
    if str(name_or_path) in bundled():
        path = BUNDLED / f"{name_or_path}.safetensors"
    if not path.is_file() and Path(name_or_path).is_file():
        raise ValueError(
            f"{name_or_path} is no .safetensors file: load its weights into the network by the "
            f"library that wrote it, and write both by `save_checkpoint`"
        )
    for file in (path, companion(path, ".json")):
        if not file.is_file():
            raise FileNotFoundError(
                f"no file {file}; a checkpoint is one of the bundled ones "
                f"({', '.join(bundled())}) or a .safetensors file with its .json card beside it"
            )
    model, card = _read(path, companion(path, ".json"), f"{path} and its card", kind)
    if not isinstance(model, kind):
        raise ValueError(
            f"{path.stem} is a {type(model).__name__}, and a {kind.__name__} is expected here"
        )
    return model.eval(), card


def _read(
    path: Path, card_path: Path, what: str, kind: type[nn.Module] = nn.Module
) -> tuple[nn.Module, Card]:
    """Read the two files of a checkpoint; of another kind of network, its weights are not loaded.

    The weights may bear the names that they have in a larger network, with something before them.
    """
    card = Card.read(card_path)
    model = NETWORKS[type(card.config)](card.config)
    if not isinstance(model, kind):
        return model, card
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path} holds NaN or infinity in {', '.join(broken[:6])}: it is damaged")
    _load(model, _without_prefix(model, state), what)
    return model, card


def _without_prefix(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove from the names of weights what stands before the model's own, as in "model."."""
    state = {plain_key(name): value for name, value in state.items()}
    first = next(iter(model.state_dict()))
    ends = [name for name in state if name.endswith(f".{first}")]
    prefix = ends[0].removesuffix(first) if ends else ""
    plain = {name.removeprefix(prefix): value for name, value in state.items()}
    return plain if len(plain) == len(state) else state  # not where two would have one name


def from_library(model: nn.Module) -> VisionTransformer:
    """Copy a plain ViT of timm, torchvision or Hugging Face Transformers into ours; same logits.

    Takes timm's `VisionTransformer`, torchvision's `VisionTransformer` and
    `transformers.ViTForImageClassification`, compiled or not. The head may have been replaced by
    a linear layer for other classes, alone or in a `Sequential`, with dropout or without; dropout
    is not taken over. Type and device are kept.

    Raises:
        ValueError: another kind of model, or a part that a plain ViT does not have.
    """
    model = unwrapped(model)
    library = type(model).__module__.split(".")[0]
    if (library, type(model).__name__) not in _READERS:
        known = ", ".join(f"{library}'s {name}" for library, name in _READERS)
        raise ValueError(
            f"expected one of {known}; got {library}'s {type(model).__name__}, "
            f"whose parts have no counterpart in a plain ViT"
        )
    config, state = _READERS[library, type(model).__name__](model)
    ours = VisionTransformer(config).to(state["head.weight"])
    _load(ours, state, f"this {library} model and a plain ViT")
    return ours.train(model.training)


def _from_timm(model: Any) -> tuple[ViTConfig, dict[str, Tensor]]:
    block: Any = unwrapped(model.blocks[0])
    proj = model.patch_embed.proj
    activation = getattr(getattr(block, "mlp", None), "act", None)
    plain = {
        "plain pre-norm blocks": type(block).__name__ == "Block",
        "exact GELU": isinstance(activation, nn.GELU) and activation.approximate == "none",
        "no norm before the blocks": isinstance(model.norm_pre, nn.Identity),
        "a norm after the blocks": not isinstance(model.norm, nn.Identity),
        "CLS token read by the head, or mean of all tokens without one": (
            (model.global_pool, model.has_class_token) in (("token", True), ("avg", False))
        ),
        "no norm after pooling": isinstance(model.fc_norm, nn.Identity),
        "position added to CLS too": not model.no_embed_class,
    }
    _require_plain("timm", plain)
    state, num_classes = _with_one_head("timm", model, "head")
    config = ViTConfig(
        img_size=tuple(model.patch_embed.img_size),
        patch_size=_square(proj.kernel_size),
        in_chans=proj.in_channels,
        num_classes=num_classes,
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
        pos_embed="none" if model.pos_embed is None else "learned",
        pool="cls" if model.has_class_token else "mean",
        norm_eps=model.norm.eps,
    )
    return config, state


def _from_torchvision(model: Any) -> tuple[ViTConfig, dict[str, Tensor]]:
    block: Any = unwrapped(model.encoder.layers[0])
    plain = {"a patch projection of one convolution": isinstance(model.conv_proj, nn.Conv2d)}
    _require_plain("torchvision", plain)
    state, num_classes = _with_one_head("torchvision", model, "heads")
    config = ViTConfig(
        img_size=model.image_size,
        patch_size=model.patch_size,
        in_chans=model.conv_proj.in_channels,
        num_classes=num_classes,
        embed_dim=model.hidden_dim,
        depth=len(model.encoder.layers),
        num_heads=block.num_heads,
        mlp_ratio=model.mlp_dim / model.hidden_dim,
        norm_eps=block.ln_1.eps,
    )
    return config, _rename(state, _TORCHVISION_KEYS)


def _from_huggingface(model: Any) -> tuple[ViTConfig, dict[str, Tensor]]:
    theirs = model.config
    plain = {"exact GELU": theirs.hidden_act == "gelu", "bias in q, k and v": theirs.qkv_bias}
    _require_plain("Hugging Face", plain)
    state, num_classes = _with_one_head("Hugging Face", model, "classifier")
    image_size = theirs.image_size
    config = ViTConfig(
        img_size=image_size if isinstance(image_size, int) else tuple(image_size),
        patch_size=_square(theirs.patch_size),
        in_chans=theirs.num_channels,
        num_classes=num_classes,
        embed_dim=theirs.hidden_size,
        depth=theirs.num_hidden_layers,
        num_heads=theirs.num_attention_heads,
        mlp_ratio=theirs.intermediate_size / theirs.hidden_size,
        norm_eps=theirs.layer_norm_eps,
    )
    state = _rename(state, _HUGGINGFACE_KEYS)
    for i in range(config.depth):  # they keep three matrices where we keep one
        for kind in ("weight", "bias"):
            parts = [state.pop(f"blocks.{i}.attn.{part}.{kind}") for part in "qkv"]
            state[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    return config, state


_READERS: dict[tuple[str, str], Callable[[Any], tuple[ViTConfig, dict[str, Tensor]]]] = {
    ("timm", "VisionTransformer"): _from_timm,
    ("torchvision", "VisionTransformer"): _from_torchvision,
    ("transformers", "ViTForImageClassification"): _from_huggingface,
}
_TORCHVISION_KEYS = {
    r"class_token": "cls_token",
    r"encoder\.pos_embedding": "pos_embed",
    r"conv_proj": "patch_embed.proj",
    r"encoder\.layers\.encoder_layer_(\d+)": r"blocks.\1",
    r"ln_([12])": r"norm\1",
    r"self_attention\.in_proj_": "attn.qkv.",
    r"self_attention\.out_proj": "attn.proj",
    r"mlp\.0": "mlp.fc1",
    r"mlp\.3": "mlp.fc2",
    r"encoder\.ln": "norm",
}
_HUGGINGFACE_KEYS = {  # the names of Transformers 5, and those of 4 where they differ
    r"vit\.embeddings\.cls_token": "cls_token",
    r"vit\.embeddings\.position_embeddings": "pos_embed",
    r"vit\.embeddings\.patch_embeddings\.projection": "patch_embed.proj",
    r"vit\.(?:encoder\.layer|layers)\.(\d+)": r"blocks.\1",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)": r"attn.\1",
    r"attention\.(?:output\.dense|o_proj)": "attn.proj",
    r"intermediate\.dense": "mlp.fc1",
    r"(blocks\.\d+)\.output\.dense": r"\1.mlp.fc2",
    r"vit\.layernorm": "norm",
}


def _with_one_head(library: str, model: Any, name: str) -> tuple[dict[str, Tensor], int]:
    """Return the weights, those of the head as "head.", and for how many classes it is."""
    head = unwrapped(getattr(model, name))
    parts: list[Any] = [part for part in head.modules() if not isinstance(part, nn.Sequential)]
    parts = [part for part in parts if not isinstance(part, nn.Dropout | nn.Identity)]
    state = plain_state(model)
    if not parts:
        raise ValueError(
            f"this {library} ViT has no head: give it one, as in model.{name} = "
            f"nn.Linear(width, classes)"
        )
    one = len(parts) == 1 and isinstance(parts[0], nn.Linear)
    _require_plain(library, {"a head of one linear layer": one})
    weight, bias = parts[0].weight.detach(), parts[0].bias
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
    return {**state, "head.weight": weight, "head.bias": bias}, len(weight)


def _rename(state: dict[str, Tensor], rules: dict[str, str]) -> dict[str, Tensor]:
    """Apply every rule to every key, in order."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules.items():
            key = re.sub(rf"(?:^|(?<=\.)){pattern}", replacement, key)
        renamed[key] = value
    return renamed


def _load(model: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load `state`, or say in one sentence what does not fit."""
    own = model.state_dict()
    problems = [f"{key} is missing" for key in own.keys() - state.keys()]
    problems += [f"{key} is unexpected" for key in state.keys() - own.keys()]
    problems += [
        f"{key} has shape {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if problems:
        raise ValueError(f"{what} do not fit together: {'; '.join(sorted(problems)[:6])}")
    model.load_state_dict(state)


def _require_plain(library: str, plain: dict[str, bool]) -> None:
    missing = [name for name, holds in plain.items() if not holds]
    if missing:
        raise ValueError(f"expected a {library} ViT with {', '.join(missing)}; this one differs")


def _square(size: int | tuple[int, ...]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"expected square patches, got {size}")
    return sides.pop()
