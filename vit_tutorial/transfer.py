"""A trained network put to another task: its features, a probe, a new head, and labels for pixels.

Names as in lesson 11. *Features* are what the head of a network reads, one vector for each image;
*patch tokens* are what stands behind each patch. Fine-tuning needs no code of its own: `with_head`
and then `train.fit`, with `TrainConfig.layer_decay` for lower rates in lower layers.
"""

import copy
import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from vit_tutorial.files import atomic_write
from vit_tutorial.images import normalize
from vit_tutorial.model import VisionTransformer
from vit_tutorial.modes import evaluating

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C: large binds little


def with_head(model: VisionTransformer, head: int | nn.Linear) -> VisionTransformer:
    """Copy a network, with another head in place of its own.

    Args:
        model: stays as it is.
        head: a linear layer, such as a probe's; or a number of classes, for a new head of zeros
            (Dosovitskiy et al. 2020, arXiv 2010.11929, section 3.2): the first output is then the
            same for all classes, and the loss ln C.

    Raises:
        ValueError: no classes, or a linear layer of another width than the tokens.

    Examples:
        >>> from vit_tutorial.weights import load_checkpoint
        >>> vit, _ = load_checkpoint("digits")
        >>> with_head(vit, 3)(torch.zeros(1, 1, 8, 8)).tolist()
        [[0.0, 0.0, 0.0]]
    """
    dim = model.config.embed_dim
    if isinstance(head, nn.Linear):
        if head.in_features != dim or head.bias is None:
            raise ValueError(
                f"tokens of width {dim} need a head Linear({dim}, classes) with a bias, got {head}"
            )
    else:
        if isinstance(head, bool) or not isinstance(head, int) or head < 1:
            raise ValueError(f"expected a linear layer or a number of classes, got {head!r}")
        head = nn.Linear(dim, head)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    config = replace(model.config, num_classes=head.out_features)
    ours = type(model)(config).to(model.head.weight)  # same dtype and device
    state = model.state_dict()
    state |= {f"head.{name}": value for name, value in head.state_dict().items()}
    ours.load_state_dict(state)
    return ours.train(model.training)


def renormalised(
    model: VisionTransformer,
    old: tuple[Sequence[float], Sequence[float]],
    new: tuple[Sequence[float], Sequence[float]],
) -> VisionTransformer:
    """Copy a network that reads images normalised by `old`, for images normalised by `new`.

    The logits stay the same: x = (z * new_std + new_mean - old_mean) / old_std goes into the patch
    projection, which is linear. So pretrained weights can be given to whatever normalises by the
    statistics of its own training set, as `train.fit` does.

    Args:
        model: stays as it is.
        old: mean and std per channel, in units of 0..1, that the network was trained with.
        new: those that its images will be normalised with.

    Raises:
        ValueError: statistics of another number of channels, or a std that is not above 0.
    """
    channels = model.config.in_chans
    proj = model.patch_embed.proj
    tables = torch.tensor([*old, *new], dtype=torch.float64) if _alike(old, new) else None
    if tables is None or tables.shape[1] != channels or not (tables[[1, 3]] > 0).all():
        raise ValueError(
            f"the network reads {channels} channels, and needs as many means and standard "
            f"deviations above 0; got {old} and {new}"
        )
    old_mean, old_std, new_mean, new_std = tables.to(proj.weight.device)
    weight = proj.weight.detach().double()  # (D, C, P, P)
    shift = torch.einsum("dcpq,c->d", weight, (new_mean - old_mean) / old_std)
    state = model.state_dict()
    state["patch_embed.proj.weight"] = weight * (new_std / old_std)[:, None, None]
    state["patch_embed.proj.bias"] = state["patch_embed.proj.bias"] + shift
    ours = copy.deepcopy(model)
    ours.load_state_dict(state)  # in the precision that it has
    return ours


def _alike(*pairs: tuple[Sequence[float], Sequence[float]]) -> bool:
    return len({len(numbers) for pair in pairs for numbers in pair}) == 1


# ---- Features ------------------------------------------------------------------------------------


def features(
    model: VisionTransformer,
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    patches: bool = False,
    cache: str | Path | None = None,
    batch_size: int = 250,
) -> Tensor:
    """Compute what the head reads of each image: uint8 (n, C, H, W) -> (n, D), on the CPU.

    In evaluation mode, without gradients, on the device of the model.

    Args:
        model: stays as it is, and in the mode that it is in.
        images: of the size that the network reads.
        mean: per channel, as the network reads images (see `images.normalize`).
        std: likewise.
        patches: the tokens of all patches instead, (n, N, D), after the final norm.
        cache: a folder in which the result is kept. It is called by a checksum of all that it
            depends on, so what was kept for other weights or images is never taken for this. A
            damaged file is computed anew, with a warning.
        batch_size: how many images go through the network at once.

    Raises:
        ValueError: no images, or images that the network does not read.
    """
    if not len(images):
        raise ValueError("there are no images to compute features of")
    if cache is None:
        return _compute(model, images, mean, std, patches, batch_size)
    key = _checksum(model, images, mean, std, patches)
    path = Path(cache).expanduser() / f"{key}.safetensors"
    if path.exists():
        cached = _read_cached(path, key)
        if cached is not None:
            return cached
        warnings.warn(f"{path.name} is damaged, and computed anew", stacklevel=2)
    computed = _compute(model, images, mean, std, patches, batch_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as beside:
        save_file({"features": computed}, beside, metadata={"key": key, "sum": _sum(computed)})
    return computed


def _compute(
    model: VisionTransformer,
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    patches: bool,
    batch_size: int,
) -> Tensor:
    first, parts = next(model.parameters()), []
    with evaluating(model), tqdm(total=len(images), unit="img", delay=2) as bar:
        for batch in images.split(batch_size):
            pixels = normalize(batch.to(first.device), mean, std).to(first.dtype)
            tokens = model.forward_features(pixels)  # (b, T, D)
            if patches:
                parts.append(tokens[:, model.config.num_prefix :].cpu())
            else:
                parts.append(model.forward_head(tokens, pre_logits=True).cpu())
            bar.update(len(batch))
    return torch.cat(parts)


def _checksum(
    model: VisionTransformer,
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    patches: bool,
) -> str:
    """Sum up all that features depend on: config, weights, pixels, normalisation, kind."""
    digest = hashlib.sha256(repr((model.config, tuple(mean), tuple(std), patches)).encode())
    for name, value in [*model.state_dict().items(), ("images", images)]:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:32]


def _sum(value: Tensor) -> str:
    return hashlib.sha256(_bytes(value)).hexdigest()


def _bytes(value: Tensor) -> memoryview:
    flat = value.detach().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy())  # bfloat16, too, which NumPy does not know


def _read_cached(path: Path, key: str) -> Tensor | None:
    """Read kept features; None where the file is damaged or not what its name says."""
    try:
        with safe_open(path, framework="pt") as file:
            cached, metadata = file.get_tensor("features"), file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return cached if metadata == {"key": key, "sum": _sum(cached)} else None


# ---- A probe -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear layer on features, how tightly it was bound, and how that was chosen.

    `scores` holds for each strength the accuracy in percent on features that were left out, one
    number for each fold: (folds,). It is empty where there was no choice.
    """

    head: nn.Linear
    strength: float
    scores: dict[float, Tensor]


def linear_probe(
    features: Tensor,
    labels: Tensor,
    num_classes: int | None = None,
    *,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
) -> LinearProbe:
    """Fit a linear layer to features (n, D) by logistic regression.

    It is scikit-learn's, on standardised features. Its strength C is chosen by cross-validation,
    with the standardisation measured anew in every fold; of equally good ones the smallest, which
    binds the most. The standardisation is then folded into the layer, which takes features as they
    are. The head has the type of the features; the computation is in float64.

    Args:
        features: one row for each image.
        labels: (n,), from 0.
        num_classes: by default one more than the highest label.
        strengths: a single one needs no cross-validation.
        folds: fewer, where a class has fewer examples.

    Raises:
        ValueError: features or labels of another shape, features that are no numbers, a class
            without an example, a single class, or too few examples for cross-validation.

    Examples:
        >>> probe = linear_probe(
        ...     torch.tensor([[0.0], [1.0], [4.0], [5.0]]),
        ...     torch.tensor([0, 0, 1, 1]),
        ...     strengths=[1.0],
        ... )
        >>> probe.head(torch.tensor([[0.0], [5.0]])).argmax(dim=1)
        tensor([0, 1])
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = _require_examples(features, labels, num_classes)
    rows, names = features.double().cpu().numpy(), labels.cpu().numpy()

    def pipeline(strength: float):
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))

    scores = {}
    if len(strengths) > 1:
        least = int(counts.min())
        if least < 2 or folds < 2:
            raise ValueError(
                f"cross-validation needs two folds and two examples of each class or more, got "
                f"{folds} folds and {least} of class {int(counts.argmin())}; with "
                f"strengths=[0.1] no choice is needed"
            )
        cuts = StratifiedKFold(min(folds, least), shuffle=True, random_state=0)
        for strength in sorted(strengths):
            accuracies = cross_val_score(pipeline(strength), rows, names, cv=cuts)
            scores[strength] = torch.from_numpy(100 * accuracies)
    best = max(scores, key=lambda s: round(scores[s].mean().item(), 6), default=strengths[0])
    fitted = pipeline(best).fit(rows, names)
    scaler, regression = fitted[0], fitted[1]
    weight, bias = regression.coef_, regression.intercept_
    if len(counts) == 2:  # one row for both classes, the logit of the second one against the first
        weight, bias = np.stack([-weight[0], weight[0]]) / 2, np.stack([-bias[0], bias[0]]) / 2
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    head = nn.Linear(features.shape[1], len(counts))
    head.weight.data, head.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    return LinearProbe(head.to(features), best, scores)


def _require_examples(features: Tensor, labels: Tensor, num_classes: int | None) -> Tensor:
    """Count the examples of each class, once it is clear that a probe can learn from them."""
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"expected features (n, D) and labels (n,), got {tuple(features.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError("some features are NaN or infinite")
    if labels.is_floating_point() or labels.min() < 0:
        raise ValueError(f"labels must be integers from 0, got {labels.dtype} {labels.min()}")
    count = int(labels.max()) + 1 if num_classes is None else num_classes
    if labels.max() >= count:
        raise ValueError(f"{count} classes have labels 0 to {count - 1}, got {labels.max()}")
    counts = torch.bincount(labels, minlength=count)
    if count < 2 or not counts.all():
        missing = [str(label) for label in range(count) if not counts[label]]
        reason = f"class {', '.join(missing)} has no example" if missing else "there is only one"
        raise ValueError(f"a probe learns to tell classes apart: {reason}")
    return counts


# ---- Labels for pixels ---------------------------------------------------------------------------


class PatchSegmenter(nn.Module):
    """Name the class of every pixel: images (B, C, H, W) -> logits (B, num_classes, H, W).

    One linear layer names every patch by its token, and the coarse map of logits is enlarged to the
    size of the image, smoothly (the linear decoder of Strudel et al. 2021, arXiv 2105.05633).

    Args:
        encoder: any ViT of ours; it is used, not copied, and its own head stays idle.
        num_classes: of pixels, the background among them.

    Raises:
        ValueError: fewer than two classes.

    Examples:
        >>> from vit_tutorial.weights import load_checkpoint
        >>> vit, _ = load_checkpoint("cifar10")
        >>> PatchSegmenter(vit, num_classes=3)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, encoder: VisionTransformer, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"pixels need two classes or more to choose from, got {num_classes}")
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.embed_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, num_classes, H, W)."""
        tokens = self.encoder.forward_features(images)  # (B, T, D)
        return self.decode(tokens[:, self.encoder.config.num_prefix :])

    def decode(self, patch_tokens: Tensor) -> Tensor:
        """Map the tokens of all patches (B, N, D) to (B, num_classes, H, W)."""
        rows, columns = self.encoder.config.grid
        coarse = rearrange(self.head(patch_tokens), "b (r s) k -> b k r s", r=rows, s=columns)
        return F.interpolate(coarse, size=self.encoder.config.image_hw, mode="bilinear")


def class_ious(predicted: Tensor, true: Tensor, num_classes: int) -> Tensor:
    """Compare maps of classes: for each class, the pixels in both over those in either.

    Intersection over union, counted over all images together: (n, H, W) twice -> (num_classes,).
    NaN for a class that is in neither; `nanmean` of it is the mean IoU.

    Raises:
        ValueError: maps of different shapes, or classes out of range.

    Examples:
        >>> class_ious(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]), num_classes=3)
        tensor([0.5000, 0.5000,    nan])
    """
    if predicted.shape != true.shape or not true.numel():
        raise ValueError(
            f"expected two maps of one shape, got {tuple(predicted.shape)} and {tuple(true.shape)}"
        )
    for name, map_ in (("predicted", predicted), ("true", true)):
        if map_.is_floating_point() or not 0 <= map_.min() <= map_.max() < num_classes:
            raise ValueError(
                f"{name} classes must be integers from 0 to {num_classes - 1}, got "
                f"{map_.dtype} from {map_.min()} to {map_.max()}"
            )
    pairs = torch.bincount((true * num_classes + predicted).flatten(), minlength=num_classes**2)
    table = pairs.view(num_classes, num_classes).float()  # rows are true
    both = table.diagonal()
    return both / (table.sum(dim=0) + table.sum(dim=1) - both)
