"""What recorded attention says: maps of one layer, of all layers together, and for one class.

Needs torch alone. `recording.record_attention` reads the weights that all functions here take.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from vit_tutorial.calls import look
from vit_tutorial.methods import METHODS, RELEVANCE_METHODS, require_options
from vit_tutorial.recording import FUSIONS, Query, RecordedAttention


def heat_map(
    record: RecordedAttention, method: str, query: Query = "head", **options: Any
) -> Tensor:
    """Explain by one of `methods.METHODS`: (B, rows, columns).

    The methods of `relevance` explain the score that the record has gradients of. `query` and other
    options are those of `rollout`; `methods.OPTIONS` says which method has which.

    Raises:
        ValueError: an unknown method or query, an option that the method does not use, or a record
            without the gradients that it needs.
    """
    require_options(method, query=query, **options)
    if method in RELEVANCE_METHODS:
        return relevance(record, method=method, query=query)
    if method == "last_layer":
        return attention_map(record, query=query)
    return {"rollout": rollout}[method](record, query=query, **options)


def methods_for(record: RecordedAttention) -> list[str]:
    """Name the methods that a record holds all for: without gradients there are two."""
    missing = () if record.gradients else RELEVANCE_METHODS
    missing = missing if record.own_gradients else (*missing, "legrad")
    missing = missing if record.activations else (*missing, "token_grad_cam")
    return [method for method in METHODS if method not in missing]


def attention_map(
    record: RecordedAttention,
    layer: int = -1,
    head: int | None = None,
    query: Query = "head",
) -> Tensor:
    """Look up what one token attends to among the patches, in one layer: (B, rows, columns).

    Args:
        record: what `record_attention` returned.
        layer: which of the recorded layers, from 0, or from the end with -1, -2, ...
        head: one head, or None for the mean over all (or what was recorded of all together).
        query: as for `rollout`.

    Raises:
        ValueError: a layer, head or query that is not there.
    """
    depth = len(record.weights)
    if layer not in range(-depth, depth):
        raise ValueError(f"layer must be from {-depth} to {depth - 1}, got {layer}")
    weights = look(record.weights, layer)  # (B, h, T, T)
    if head is not None:
        _require_heads(record)
    if head is not None and head not in range(weights.shape[1]):
        raise ValueError(f"head must be from 0 to {weights.shape[1] - 1} or None, got {head}")
    weights = weights.mean(dim=1) if head is None else weights[:, head]
    return _on_the_grid(record, _start(record, query).to(weights) @ weights)


def rollout(
    record: RecordedAttention,
    *,
    head_fusion: str = "mean",
    discard_ratio: float = 0.0,
    residual: float = 0.5,
    query: Query | None = "head",
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
            is kept; of equal ones, each loses the same part).
        residual: weight of the skip connection, 0..1.
        query: "head": the tokens that the model's head reads, as `RecordedAttention` knows them
            (CLS, or the mean of the patches or of all tokens). Or "patches" or "all", the mean of
            these; a token's index; a patch's (row, column). Without prefix tokens, 0 means "all",
            too. None gives the whole matrix (B, T, T), prefix tokens included.
        layers: which of the recorded layers take part.

    Raises:
        ValueError: an option outside its range, or no layer left.
    """
    if head_fusion not in FUSIONS:
        raise ValueError(f'head_fusion must be "mean", "max" or "min", got {head_fusion!r}')
    if record.head_fusion not in (None, head_fusion):
        raise ValueError(
            f"only the {record.head_fusion} of the heads was recorded, so head_fusion cannot be "
            f"{head_fusion!r}: record_attention(..., head_fusion={head_fusion!r}), or without it"
        )
    if not 0 <= discard_ratio < 1:
        raise ValueError(f"discard_ratio must be in 0..1, 1 excluded, got {discard_ratio}")
    if not 0 <= residual <= 1:
        raise ValueError(f"residual must be in 0..1, got {residual}")
    numbers = range(len(record.weights))[layers] if isinstance(layers, slice) else ()
    if not numbers:
        raise ValueError(
            f"layers must be a slice that leaves some of the {len(record.weights)} recorded "
            f"layers, got {layers!r}"
        )

    fused = (_fuse(look(record.weights, n), head_fusion) for n in reversed(numbers))
    if discard_ratio:
        fused = (_discard(layer, discard_ratio, record.num_prefix > 0) for layer in fused)
    return _follow(record, fused, residual, query)


def _follow(
    record: RecordedAttention,
    layers: Iterable[Tensor],
    residual: float,
    query: Query | None,
) -> Tensor:
    """Go down through layers (B, T, T), the newest first, mixed with the identity, rows of sum 1.

    Rows times matrices, from the newest layer on: no product of two matrices is ever made.
    """
    row = _start(record, query)  # (1, T), or (T, T) for all queries
    for layer in layers:
        row = row.to(layer)
        total = (1 - residual) * layer.sum(dim=-1) + residual  # (B, T)
        share = row / total.clamp_min(1e-38)[:, None]
        passed = (1 - residual) * (share @ layer) + residual * share
        if residual == 0:  # a row that lost everything passes its token on unchanged
            passed = torch.where(total[:, None] > 0, passed, passed + row)
        row = passed
    return row if query is None else _on_the_grid(record, row)


def _start(record: RecordedAttention, query: Query | None) -> Tensor:
    """Return the row (1, T) that stands for a query before any layer; all rows (T, T) for None."""
    if query is None:
        return torch.eye(record.num_tokens, dtype=torch.double)
    if record.num_prefix == 0 and not isinstance(query, str | tuple | list) and query == 0:
        query = "all"  # there is no class token
    tokens = list(record.tokens(query))
    row = torch.zeros(1, record.num_tokens, dtype=torch.double)
    row[0, tokens] = 1 / len(tokens)
    return row


def _on_the_grid(record: RecordedAttention, row: Tensor) -> Tensor:
    """Lay the patches of rows (B, 1, T) out on their grid: (B, rows, columns)."""
    return row[:, 0, record.num_prefix :].reshape(-1, *record.grid)


def _fuse(weights: Tensor, head_fusion: str) -> Tensor:
    """Join the heads: (B, h, T, T) -> (B, T, T)."""
    return weights.mean(dim=1) if head_fusion == "mean" else getattr(weights, f"a{head_fusion}")(1)


def _discard(fused: Tensor, ratio: float, keep_cls: bool) -> Tensor:
    """Set the smallest `ratio` of each image's entries to 0, but never CLS -> CLS.

    Of equal ones, of which only some have to go, each loses the same part: what is left of them on
    average where chance decides which go.
    """
    flat = fused.flatten(1)  # (B, T*T)
    count = int(ratio * flat.shape[1])
    if not count:
        return fused
    values = flat.numpy(force=True).copy()
    values.partition(count - 1, axis=1)  # by NumPy: five times as fast as torch's kthvalue
    limit = torch.from_numpy(values[:, count - 1 : count]).to(flat)
    lost = flat <= limit
    if keep_cls:
        lost[:, 0] = False
    left = flat.masked_fill(lost, 0)
    equal = flat == limit  # more may be than have to go
    stay = (flat <= limit).sum(dim=1, keepdim=True) - count
    if stay.any():
        left = torch.where(lost & equal, flat * (stay / equal.sum(dim=1, keepdim=True)), left)
    return left.view_as(fused)


def relevance(
    record: RecordedAttention,
    *,
    method: str = "chefer",
    query: Query = "head",
) -> Tensor:
    """Show what speaks for the score that the record has gradients of: (B, rows, columns).

    With A a layer's weights, G the gradients of the score with respect to them, and the mean taken
    over heads:

    - "chefer": R = I, then R <- R + mean(max(G A, 0)) R for each layer; the query's row of R
      (Chefer, Gur & Wolf 2021, arXiv 2103.15679, equations 5 and 6).
    - "grad_rollout": rollout, with max(mean(G A), 0) in the place of the fused weights.
    - "legrad": mean(max(G', 0)) over queries, too, and then over layers; G' are the gradients of
      the score that the model's head gives to the mean of all tokens of the layer's own output
      (Bousselham et al. 2024, arXiv 2404.03214, whose code takes the last two layers unless told
      otherwise: record these alone for the same). It has no query.
    - "grad_cam": of the last recorded layer, max(mean(g A), 0) in the query's row; g is the mean
      of that row of a head's G, over patches (the baseline of Chefer et al. 2021, after Selvaraju
      et al. 2017).
    - "token_grad_cam": `RecordedActivations.grad_cam`, of the last norm. It has no query either.

    `query` is as for `rollout`. Values are in no unit and not scaled: compare within a map.

    Raises:
        ValueError: an unknown method, or a record without the gradients that it needs.
    """
    if method not in RELEVANCE_METHODS:
        raise ValueError(f"method must be one of {', '.join(RELEVANCE_METHODS)}, got {method!r}")
    if method == "token_grad_cam" and record.activations is not None:
        return record.activations().grad_cam()
    recorded = record.own_gradients if method == "legrad" else record.gradients
    if recorded is None and record.gradients is not None:
        raise ValueError(
            'method "legrad" needs a model with blocks, norm and forward_head, as those of this '
            "course and of timm, whose head does not pool by attention: from_library makes "
            "one of a torchvision or Hugging Face model"
        )
    if recorded is None:
        raise ValueError(
            f"method {method!r} needs gradients: record_attention(model, images, gradients_of=...)"
        )
    depth = range(len(record.weights))
    if method == "legrad":
        layers = [look(recorded, n).clamp_min(0).mean(dim=(1, 2)) for n in depth]  # (B, T)
        return _on_the_grid(record, torch.stack(layers).mean(dim=0)[:, None])
    if method == "grad_cam":
        start, weights = _start(record, query), look(record.weights, -1)
        row, slope = (start.to(x) @ x for x in (weights, look(recorded, -1)))  # (B, h, 1, T)
        heads = slope[..., record.num_prefix :].mean(dim=-1, keepdim=True)
        return _on_the_grid(record, (heads * row).mean(dim=1)).clamp_min(0)
    products = (look(record.weights, n) * look(recorded, n) for n in reversed(depth))
    if method == "grad_rollout":
        fused = (product.mean(dim=1).clamp_min(0) for product in products)
        return _follow(record, fused, 0.5, query)
    if method == "chefer":
        row = _start(record, query)
        for product in products:
            row = row.to(product)
            row = row + row @ product.clamp_min(0).mean(dim=1)
        return _on_the_grid(record, row)
    raise NotImplementedError(method)


def attention_distance(record: RecordedAttention) -> Tensor:
    """Measure how far each head looks: (L, h), in patches, the mean over images and queries.

    The distance from a patch to the patches that it attends to, weighted by its attention to them
    (Dosovitskiy et al. 2021, figure 7). Prefix tokens have no position and are left out.

    Raises:
        ValueError: layers with different numbers of heads, or of which only all heads together were
            recorded.
    """
    rows, columns = record.grid
    positions = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).double()  # (N, 2)
    between = torch.cdist(positions, positions)  # (N, N)
    layers = []
    for weights in _equal_heads(record):
        patches = weights[:, :, record.num_prefix :, record.num_prefix :]
        total = patches.sum(dim=-1).clamp_min(1e-38)
        distance = (patches * between.to(patches)).sum(dim=-1) / total  # (B, h, N)
        layers.append(distance.mean(dim=(0, 2)))
    return torch.stack(layers)


def attention_entropy(record: RecordedAttention) -> Tensor:
    """Measure how widely each head spreads: (L, h), in nats, the mean over images and queries.

    0 where every query attends to one token, ln T where all attend to all tokens evenly.

    Raises:
        ValueError: layers with different numbers of heads, or of which only all heads together were
            recorded.
    """
    layers = [torch.special.entr(w).sum(dim=-1) for w in _equal_heads(record)]  # (B, h, T)
    return torch.stack([entropy.mean(dim=(0, 2)) for entropy in layers])


def _require_heads(record: RecordedAttention) -> None:
    if record.head_fusion is not None:
        raise ValueError(
            f"only the {record.head_fusion} of the heads was recorded: record_attention without "
            "head_fusion keeps each"
        )


def _equal_heads(record: RecordedAttention) -> Iterator[Tensor]:
    """Go through layers that have equally many heads: (B, h, T, T)."""
    _require_heads(record)
    heads = []
    for number in range(len(record.weights)):
        weights = look(record.weights, number)
        heads.append(weights.shape[1])
        if len(set(heads)) > 1:
            raise ValueError(f"expected equally many heads in all layers, got {heads}")
        yield weights
