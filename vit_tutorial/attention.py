"""Read what every head of every layer attends to, and follow it through the layers.

Needs torch alone. `record_attention` reads the weights, `rollout` joins the layers into one map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class RecordedAttention:
    """The attention weights of one forward pass, per layer (B, h, T, T): query rows sum to 1.

    `grid` is (rows, columns) of patches, `num_prefix` the number of tokens before them, `layers`
    the index of the block that each entry of `weights` came from, `logits` (B, num_classes) the
    model's output, and `gradients`, if asked for, d(score) / d(weights) in the same shapes.

    Raises:
        ValueError: weights that are not square maps over num_prefix + rows * columns tokens.
    """

    weights: list[Tensor]
    grid: tuple[int, int]
    num_prefix: int
    logits: Tensor | None = None
    gradients: list[Tensor] | None = None
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        tokens = self.num_prefix + self.grid[0] * self.grid[1]
        if not self.weights:
            raise ValueError("expected the attention weights of at least one layer, got none")
        for layer in self.weights:
            if layer.ndim != 4 or layer.shape[2:] != (tokens, tokens):
                raise ValueError(
                    f"a {self.grid[0]}x{self.grid[1]} grid with {self.num_prefix} prefix tokens "
                    f"has weights of shape (B, heads, {tokens}, {tokens}), "
                    f"got {tuple(layer.shape)}"
                )

    @property
    def num_tokens(self) -> int:
        """T, prefix tokens and patches."""
        return self.weights[0].shape[-1]

    def token(self, query: int | tuple[int, int]) -> int:
        """Turn a patch (row, column) into the index of its token; an index stays one.

        Raises:
            ValueError: a query outside the grid or the sequence.
        """
        rows, columns = self.grid
        if isinstance(query, tuple | list):
            if len(query) == 2 and query[0] in range(rows) and query[1] in range(columns):
                return self.num_prefix + int(query[0]) * columns + int(query[1])
        elif query in range(self.num_tokens):
            return int(query)
        raise ValueError(
            f"query must be a token from 0 to {self.num_tokens - 1} or a patch (row, column) of "
            f"the {rows}x{columns} grid, got {query!r}"
        )


def record_attention(
    model: nn.Module,
    images: Tensor,
    *,
    layers: Sequence[int] | None = None,
    gradients_of: int | Callable[[Tensor], Tensor] | None = None,
) -> RecordedAttention:
    """Run `model` on normalised images (B, C, H, W) and keep the attention weights of its layers.

    Every call of `F.scaled_dot_product_attention` is watched from outside: softmax(q k^T / sqrt(d))
    is computed beside it, the model's own computation goes on as always. Its logits stay the same
    to the bit and nothing on the model is changed. `layers` keeps only some blocks, in their order.

    `gradients_of` asks for gradients of a score with respect to the weights too: of one class's
    logit, or of a function of the logits (B, num_classes) -> (B,). The output is then computed
    from the recorded weights, so that gradients flow through them.

    Weights are float32 (float64 for a float64 model), recorded in evaluation mode.

    Raises:
        ValueError: a model that is not this package's `VisionTransformer`, layers that it does not
            have, a class that it does not know, or a score that does not depend on the logits.
    """
    config: Any = getattr(model, "config", None)
    if not all(hasattr(config, name) for name in ("grid", "num_prefix", "depth", "num_classes")):
        raise ValueError(
            f"expected a VisionTransformer of this package (weights.from_library makes one of a "
            f"timm, torchvision or Hugging Face model), got {type(model).__name__}"
        )
    wanted = list(range(config.depth)) if layers is None else list(layers)
    if not wanted or wanted != [layer for layer in range(config.depth) if layer in wanted]:
        raise ValueError(f"layers must be some of 0 to {config.depth - 1}, rising, got {wanted}")
    with_gradients = gradients_of is not None
    classes = range(config.num_classes)
    if with_gradients and not callable(gradients_of) and gradients_of not in classes:
        raise ValueError(
            f"gradients_of must be a class from 0 to {config.num_classes - 1} or a function of "
            f"the logits, got {gradients_of!r}"
        )

    score_of: Any = (
        gradients_of if callable(gradients_of) else lambda logits: logits[:, gradients_of]
    )

    recorder = _Recorder(keep_graph=with_gradients)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # in whatever mode the caller is: gradients need a graph, and inference tensors carry none
        with torch.inference_mode(False), torch.set_grad_enabled(with_gradients), recorder:
            logits = model(images.clone() if with_gradients else images)
            score = score_of(logits).sum() if with_gradients else None
    finally:
        for module, training in modes:
            module.training = training
    if len(recorder.weights) != config.depth:
        raise ValueError(
            f"expected one attention call from each of {config.depth} blocks, "
            f"saw {len(recorder.weights)}"
        )
    kept = [recorder.weights[layer] for layer in wanted]
    gradients = None
    if score is not None:
        if not score.requires_grad:
            raise ValueError("gradients_of must return a score that depends on the logits")
        gradients = [_upcast(g) for g in torch.autograd.grad(score, kept)]
    return RecordedAttention(
        [_upcast(weights.detach()) for weights in kept],
        grid=config.grid,
        num_prefix=config.num_prefix,
        logits=logits.detach(),
        gradients=gradients,
        layers=wanted,
    )


class _Recorder(TorchFunctionMode):
    """Watch every fused attention call and keep the weights that it does not return."""

    def __init__(self, keep_graph: bool) -> None:
        super().__init__()
        self.keep_graph = keep_graph
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args
        if kwargs:
            raise ValueError(f"expected plain attention, got the options {sorted(kwargs)}")
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        if self.keep_graph and not weights.requires_grad:  # a network whose weights are frozen
            weights.requires_grad_()
        self.weights.append(weights)
        return weights @ v if self.keep_graph else func(q, k, v)


def rollout(
    record: RecordedAttention,
    *,
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
    residual: float = 0.5,
    query: int | tuple[int, int] | None = 0,
    layers: slice = slice(None),
) -> Tensor:
    """Follow attention from one token down through all layers to the patches: (B, rows, columns).

    Attention rollout (Abnar & Zuidema 2020, arXiv 2005.00928, equation 1): each layer's heads are
    fused to A, the residual connection becomes A' = (1 - residual) A + residual I with rows scaled
    to sum 1, and the map is the query's row of A'_L ... A'_1, newest layer on the left.

    Args:
        record: what `record_attention` returned.
        head_fusion: "mean", or "max" or "min", which are no longer probabilities.
        discard_ratio: share of the smallest entries of each fused A that is set to 0 (CLS to CLS
            is kept).
        residual: weight of the skip connection, 0..1.
        query: a token's index (0: CLS), or a patch's (row, column). In a model without a CLS token
            0 means the mean over all queries, which is what its head reads. None gives the whole
            matrix (B, T, T), prefix tokens included.
        layers: which of the recorded layers take part.

    Raises:
        ValueError: an option outside its range, or no layer left.
    """
    if head_fusion not in ("mean", "max", "min"):
        raise ValueError(f'head_fusion must be "mean", "max" or "min", got {head_fusion!r}')
    if not 0 <= discard_ratio < 1:
        raise ValueError(f"discard_ratio must be in 0..1, 1 excluded, got {discard_ratio}")
    if not 0 <= residual <= 1:
        raise ValueError(f"residual must be in 0..1, got {residual}")
    if not isinstance(layers, slice) or not record.weights[layers]:
        raise ValueError(
            f"layers must be a slice that leaves some of the {len(record.weights)} recorded "
            f"layers, got {layers!r}"
        )

    steps = []
    identity = torch.eye(record.num_tokens).to(_upcast(record.weights[0]))
    for weights in record.weights[layers]:
        fused = _fuse(_upcast(weights), head_fusion)  # (B, T, T)
        if discard_ratio:
            fused = _discard(fused, discard_ratio, keep_cls=record.num_prefix > 0)
        mixed = (1 - residual) * fused + residual * identity
        total = mixed.sum(dim=-1, keepdim=True)
        # a row that lost everything passes its token on unchanged
        steps.append(torch.where(total > 0, mixed / total.clamp_min(1e-38), identity))

    if query is None:
        joined = identity.expand_as(steps[0])
        for step in steps:
            joined = step @ joined
        return joined
    reads_mean = record.num_prefix == 0 and query == 0
    row = identity.mean(dim=0) if reads_mean else identity[record.token(query)]
    row = row.expand(len(steps[0]), 1, -1)  # (B, 1, T)
    for step in reversed(steps):  # a vector times a matrix: cheaper than the whole product
        row = row @ step
    return row[:, 0, record.num_prefix :].reshape(-1, *record.grid)


def _fuse(weights: Tensor, head_fusion: str) -> Tensor:
    """Join the heads: (B, h, T, T) -> (B, T, T)."""
    return weights.mean(dim=1) if head_fusion == "mean" else getattr(weights, f"a{head_fusion}")(1)


def _discard(fused: Tensor, ratio: float, keep_cls: bool) -> Tensor:
    """Set the smallest `ratio` of each image's entries to 0, but never CLS -> CLS."""
    flat = fused.flatten(1)  # (B, T*T)
    smallest = flat.topk(int(ratio * flat.shape[1]), largest=False).indices
    kept = flat.scatter(1, smallest, 0)
    if keep_cls:
        kept[:, 0] = flat[:, 0]
    return kept.view_as(fused)


def _upcast(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 stay."""
    return x if x.dtype == torch.float64 else x.float()


def position_similarity(table: Tensor, num_prefix: int = 0) -> Tensor:
    """Compare every position with every other: (T, D) or (1, T, D) -> cosine similarity (N, N).

    Entry (i, j) is the cosine of the angle between the vectors of patches i and j: 1 where they
    point the same way, 0 where they have nothing in common. The `num_prefix` rows in front (CLS)
    have no place in the image and are left out. A row of zeros is like nothing: 0.

    Raises:
        ValueError: a table of another shape, or one without a row for a patch.

    Examples:
        >>> table = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
        >>> position_similarity(table, num_prefix=1).tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    rows = table[0] if table.ndim == 3 and len(table) == 1 else table
    if rows.ndim != 2 or not 0 <= num_prefix < len(rows):
        raise ValueError(
            f"expected a table (T, D) or (1, T, D) with more than {num_prefix} prefix rows, "
            f"got {tuple(table.shape)}"
        )
    directions = F.normalize(_upcast(rows[num_prefix:].detach()), dim=1)
    return directions @ directions.mT
