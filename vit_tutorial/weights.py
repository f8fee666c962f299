"""Checkpoints.

A checkpoint is two files side by side: NAME.safetensors, the weights in half precision, and
NAME.json, a card that says what they are and how good they are.
"""

import errno
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vit_tutorial.cnn import ResNet, ResNetConfig
from vit_tutorial.files import atomic_write, companion
from vit_tutorial.hardware import plain_key, plain_state, unwrapped
from vit_tutorial.mae import MAEConfig, MaskedAutoencoder
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.modern import ModernConfig, ModernViT

BUNDLED = Path(__file__).parent / "checkpoints"
NETWORKS: dict[type, type[nn.Module]] = {
    ViTConfig: VisionTransformer,
    ModernConfig: ModernViT,
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
    load_state(model, _without_prefix(model, state), what)
    return model, card


def _without_prefix(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove from the names of weights what stands before the model's own, as in "model."."""
    state = {plain_key(name): value for name, value in state.items()}
    first = next(iter(model.state_dict()))
    ends = [name for name in state if name.endswith(f".{first}")]
    prefix = ends[0].removesuffix(first) if ends else ""
    plain = {name.removeprefix(prefix): value for name, value in state.items()}
    return plain if len(plain) == len(state) else state  # not where two would have one name


def load_state(model: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load `state`.

    Raises:
        ValueError: it does not fit, in one sentence.
    """
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
