"""How many parameters a network has and how many operations it takes: by PyTorch, by formula.

PyTorch's numbers are what answers of lesson 06 are compared with. The formulas know how to go
wrong, so that a wrong answer can be told its cause.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vit_tutorial.lessons.exercises import Wrong, as_integer, compare_numbers, describe
from vit_tutorial.model import VisionTransformer, ViTConfig

CONFIGS = [
    ViTConfig(depth=4),
    ViTConfig(img_size=224, patch_size=16, embed_dim=48, depth=2, num_heads=6, mlp_ratio=4.0),
    ViTConfig(img_size=(32, 48), patch_size=8, in_chans=1, embed_dim=48, depth=2, num_heads=4),
    ViTConfig(img_size=8, patch_size=2, embed_dim=24, depth=3, num_heads=3, pool="mean"),
    ViTConfig(pos_embed="none", depth=3, embed_dim=60, num_heads=2, num_classes=3, mlp_ratio=1.5),
    ViTConfig(pos_embed="sincos", depth=1, embed_dim=32, num_heads=1, in_chans=2, mlp_ratio=2.6),
    ViTConfig(img_size=(16, 8), pos_embed="rope", pool="mean", embed_dim=64, num_heads=8, depth=2),
    ViTConfig(
        img_size=(24, 12), patch_size=6, pos_embed="rope", embed_dim=16, num_heads=2, depth=1
    ),
]
PARAMETER_FAULTS = {
    "no_bias": "The linear layers have biases, too: one number per output.",
    "no_qkv_bias": "The projection to queries, keys and values has a bias, too: 3 * D numbers.",
    "no_patch_bias": "The patch projection has a bias, too.",
    "no_head_bias": "The classifier has a bias, too: one number per class.",
    "no_head": "The classifier is not counted.",
    "no_patch": "The patch projection is not counted.",
    "tables": (
        'Sin-cos positions and rotations are computed, not learned: only pos_embed="learned" has '
        "positions to count."
    ),
    "no_positions": "The learned positions are not counted.",
    "patch_rows": "The positions have a row for CLS too: T rows, not N.",
    "always_cls": 'With pool="mean" there is no CLS token to count.',
    "no_cls": 'With pool="cls" the CLS token itself is D numbers more.',
    "no_final": "The final norm is not counted: a network of L blocks has 2 * L + 1 norms.",
    "one_norm": "A block has two norms, not one.",
    "no_norms": "The norms are not counted: each has 2 * D numbers.",
    "norm_d": "A norm has a weight and a bias: 2 * D numbers, not D.",
    "four": "The hidden layer of the MLP is `hidden_dim` wide, which is not always 4 * D.",
    "head_dim_d": (
        "Every head has queries, keys and values as wide as D in your count; heads share D "
        "among them, so their number does not matter."
    ),
    "no_proj": "Attention has an output projection, too: D * D numbers and a bias.",
    "only_q": "Attention has queries, keys and values: three projections, not one.",
    "one_block": "Only one block is counted.",
    "square": "An image need not be square: its grid has rows and columns.",
    "one_channel": "A patch has C channels: the projection reads C * P * P numbers.",
}
FLOP_FAULTS = {
    "macs": "These are multiply-adds; each is two operations, a product and a sum.",
    "no_scores": "The scores q k^T and the mixing of v are products of matrices, too.",
    "no_mix": "After the softmax the weights mix the values: one more product, T x T by T x d.",
    "scores_d": "The scores are computed in every head: h times T * T * d, which is T * T * D.",
    "scores_dh": (
        "Each head works on d = D / h numbers, not on D: the number of heads does not matter."
    ),
    "linear_scores": "Every token looks at every token: T * T scores, not T.",
    "no_cls": "The CLS token goes through the blocks, too: T tokens, not N.",
    "patch_t": "The patch projection sees the N patches; CLS is no patch.",
    "no_patch": "The patch projection is not counted.",
    "head_t": "The classifier reads one vector per image, not all tokens.",
    "no_head": "The classifier is not counted.",
    "one_mlp": "The MLP has two linear layers.",
    "four": "The hidden layer of the MLP is `hidden_dim` wide, which is not always 4 * D.",
    "no_proj": "Attention has an output projection, too.",
    "only_q": "Attention has queries, keys and values: three projections, not one.",
    "one_block": "Only one block is counted.",
    "square": "An image need not be square: its grid has rows and columns.",
    "one_channel": "A patch has C channels: the projection reads C * P * P numbers.",
    "parameters": "That is the number of parameters; each is used once per token.",
}


def _sizes(c: ViTConfig, faults: tuple[str, ...]) -> tuple[int, int, int, int, int]:
    """Return N, CLS tokens, numbers in a patch, and the widths of a token and of the MLP."""
    rows, columns = (c.grid[0], c.grid[0]) if "square" in faults else c.grid
    numbers = (1 if "one_channel" in faults else c.in_chans) * c.patch_size**2
    hidden = 4 * c.embed_dim if "four" in faults else c.hidden_dim
    return rows * columns, int(c.pool == "cls"), numbers, c.embed_dim, hidden


def parameters(c: ViTConfig, *faults: str) -> int:
    """Count with faults, to recognise them."""
    patches, cls, numbers, dim, hidden = _sizes(c, faults)
    bias = "no_bias" not in faults
    norm = 0 if "no_norms" in faults else dim if "norm_d" in faults else 2 * dim
    wide = dim * c.num_heads if "head_dim_d" in faults else dim
    qkv = (1 if "only_q" in faults else 3) * wide * (dim + (bias and "no_qkv_bias" not in faults))
    proj = 0 if "no_proj" in faults else wide * dim + bias * dim
    mlp = 2 * dim * hidden + bias * (hidden + dim)
    norms = norm if "one_norm" in faults else 2 * norm
    total = (1 if "one_block" in faults else c.depth) * (qkv + proj + mlp + norms)
    if "no_patch" not in faults:
        total += dim * (numbers + (bias and "no_patch_bias" not in faults))
    if "no_head" not in faults:
        total += c.num_classes * (dim + (bias and "no_head_bias" not in faults))
    if "no_cls" not in faults:
        total += dim if "always_cls" in faults else cls * dim
    if (c.pos_embed == "learned" or "tables" in faults) and "no_positions" not in faults:
        total += (patches + (cls if "patch_rows" not in faults else 0)) * dim
    return total + (0 if "no_final" in faults else norm)


def flops(c: ViTConfig, *faults: str) -> int:
    """Count with faults, to recognise them."""
    if "parameters" in faults:
        return parameters(c)
    patches, cls, numbers, dim, hidden = _sizes(c, faults)
    tokens = patches + (0 if "no_cls" in faults else cls)
    linear = (1 if "only_q" in faults else 3) * dim * dim
    linear += 0 if "no_proj" in faults else dim * dim
    linear += (1 if "one_mlp" in faults else 2) * dim * hidden
    width = c.head_dim if "scores_d" in faults else dim
    width *= c.num_heads if "scores_dh" in faults else 1
    tables = (1 if "no_mix" in faults else 2) * tokens * width
    tables *= 0 if "no_scores" in faults else 1 if "linear_scores" in faults else tokens
    total = (1 if "one_block" in faults else c.depth) * (tokens * linear + tables)
    if "no_patch" not in faults:
        total += (tokens if "patch_t" in faults else patches) * numbers * dim
    if "no_head" not in faults:
        total += (tokens if "head_t" in faults else 1) * dim * c.num_classes
    return (1 if "macs" in faults else 2) * total


def torch_parameters(c: ViTConfig) -> int:
    """Count the parameters of PyTorch's own layers, on a device that holds no numbers."""
    norm = nn.LayerNorm(c.embed_dim, device="meta")
    modules: list[nn.Module] = [
        nn.Conv2d(c.in_chans, c.embed_dim, c.patch_size, device="meta"),
        norm,
        nn.Linear(c.embed_dim, c.num_classes, device="meta"),
    ]
    modules += [
        nn.TransformerEncoderLayer(c.embed_dim, c.num_heads, c.hidden_dim, device="meta")
        for _ in range(c.depth)
    ]
    total = sum(p.numel() for module in modules for p in module.parameters())
    prefix = c.embed_dim if c.pool == "cls" else 0
    return total + prefix + (c.num_tokens * c.embed_dim if c.pos_embed == "learned" else 0)


class _Products(TorchFunctionMode):
    """Add up the operations of all products of matrices, by the shapes that come along.

    PyTorch has `FlopCounterMode` for it, which takes seconds to be imported; a test compares them.
    """

    total = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (F.linear, torch.conv2d, F.conv2d):
            self.total += 2 * out.numel() * args[1][0].numel()
        elif func == F.scaled_dot_product_attention:
            q, k, _ = args  # the scores, then their product with the values
            self.total += 2 * k.shape[-2] * (q.numel() + out.numel())
        return out


@cache
def torch_flops(c: ViTConfig) -> int:
    """Count what PyTorch runs for one image."""
    model, images = VisionTransformer(c), torch.zeros(1, c.in_chans, *c.image_hw)
    with torch.no_grad(), _Products() as products:
        model(images)
    return products.total


def by_part(c: ViTConfig) -> tuple[dict[str, int], dict[str, int]]:
    """Share out the parameters of a network, and its operations for one image, among its parts.

    Examples:
        >>> numbers, operations = by_part(ViTConfig())
        >>> sum(numbers.values()) == parameters(ViTConfig())
        True
        >>> sum(operations.values()) == flops(ViTConfig())
        True
    """
    tokens, dim = c.num_tokens, c.embed_dim
    attention = c.depth * 4 * dim * (dim + 1)
    mlp = c.depth * (2 * dim * c.hidden_dim + c.hidden_dim + dim)
    norms_classifier = (2 * c.depth + 1) * 2 * dim + c.num_classes * (dim + 1)
    numbers = {"attention, projections": attention, "attention, T×T": 0, "MLP": mlp}
    numbers["norms, classifier"] = norms_classifier
    operations = {
        "attention, projections": c.depth * 8 * tokens * dim * dim,
        "attention, T×T": c.depth * 4 * tokens * tokens * dim,
        "MLP": c.depth * 4 * tokens * dim * c.hidden_dim,
        "norms, classifier": 2 * dim * c.num_classes,
    }
    before = "patches, positions"
    return (
        {before: parameters(c) - sum(numbers.values()), **numbers},
        {before: flops(c) - sum(operations.values()), **operations},
    )


def judge_count(answer: Any, reference: Callable, formula: Callable, faults: dict[str, str]) -> str:
    """Compare an answer with PyTorch's numbers, network by network.

    Raises:
        Wrong: one differs; the message names the cause where one or two faults explain all.
    """
    causes = {
        " ".join(faults[name] for name in names): partial(_with_faults, formula, names)
        for names in [*((name,) for name in faults), *combinations(faults, 2)]
    }
    compare_numbers(answer, reference, [(c,) for c in CONFIGS], causes, _case, _as_count)
    return f"Right for {len(CONFIGS)} networks, counted by PyTorch itself."


def _with_faults(formula: Callable, names: tuple[str, ...], config: ViTConfig) -> int:
    return formula(config, *names)


def _as_count(output: Any) -> int:
    """Return an int, plain or in a tensor; a float comes of a division, and is no count."""
    if isinstance(output, float) or (isinstance(output, Tensor) and output.is_floating_point()):
        raise Wrong(
            f"Expected a whole number, an int, got {describe(output)}. Every length in the "
            f"config is whole: `hidden_dim`, `num_tokens` and the others."
        )
    return as_integer(output)


def _case(c: ViTConfig) -> str:
    height, width = c.image_hw
    return (
        f"For images {height}x{width}x{c.in_chans}, P={c.patch_size}, D={c.embed_dim}, depth "
        f'{c.depth}, {c.num_heads} heads, hidden {c.hidden_dim}, pos_embed="{c.pos_embed}", '
        f'pool="{c.pool}", {c.num_classes} classes'
    )
