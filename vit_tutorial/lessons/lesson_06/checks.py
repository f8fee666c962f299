"""The exercises of lesson 06: the whole network."""

from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial.lessons import counting
from vit_tutorial.lessons.exercises import (
    Wrong,
    call,
    compare,
    compare_numbers,
    describe,
    exercise,
)
from vit_tutorial.lessons.lesson_06 import mistakes
from vit_tutorial.model import VisionTransformer, ViTConfig

# ---- 06.1 The classifier ------------------------------------------------------------------


@exercise(
    "06.1",
    title="The classifier",
    difficulty=1,
    minutes=8,
    hints=(
        "First make one vector per image, of shape (B, D): a token, or a mean over tokens. Which "
        "of the three dimensions must go?",
        'With pool="cls" it is the token in front. With pool="mean" there is no such token, and '
        "every token is a patch.",
        "Then the classifier is a linear layer, one row of `weight` per class. `F.linear` takes "
        "the weight as it is.",
    ),
)
def my_head(answer: Any) -> str:
    """Check `my_head(tokens, weight, bias, pool) -> logits`."""

    def head(pick: Callable, mean: Callable, read: Callable) -> Callable:
        return lambda x, w, b, pool: read((pick if pool == "cls" else mean)(x), w, b)

    causes = {
        f"{a} {b} {c}".replace("  ", " ").strip(): head(pick, mean, read)
        for (pick, a), (mean, b), (read, c) in product(
            mistakes.CLS_PICKS, mistakes.MEAN_PICKS, mistakes.READINGS
        )
        if a or b or c
    }
    inputs = [
        (tokens, weight, bias, pool)
        for tokens, weight, bias in _head_inputs()
        for pool in ("cls", "mean")
    ]
    compare(answer, _torch_head, inputs, causes)
    return f"Right for all {len(inputs)} inputs, with CLS and with the mean, equal to `nn.Linear`."


def _head_inputs() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    yield torch.randn(2, 5, 4), torch.randn(3, 4), torch.randn(3)
    yield torch.randn(3, 7, 5).double(), torch.randn(5, 5).double(), torch.randn(5).double()
    strided = torch.randn(4, 6, 3).transpose(1, 2)  # (4, 3, 6)
    yield strided, torch.randn(6, 2).T, torch.randn(2)
    yield (100 * torch.randn(1, 9, 8)).requires_grad_(), torch.randn(10, 8), torch.randn(10)


def _torch_head(tokens: Tensor, weight: Tensor, bias: Tensor, pool: str) -> Tensor:
    linear = nn.Linear(weight.shape[1], weight.shape[0]).to(weight.dtype)
    linear.load_state_dict({"weight": weight, "bias": bias})
    if pool == "cls":
        return linear(tokens.select(1, 0))
    return linear(F.adaptive_avg_pool1d(tokens.mT, 1).squeeze(2))


# ---- 06.2 The whole network ----------------------------------------------------------------------


class _Mix(nn.Module):
    """A stand-in for a block: its order with others matters."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(dim, dim).double())

    def forward(self, x: Tensor) -> Tensor:
        return x + (x @ self.matrix).tanh().flip(1)


def _vit_inputs() -> Iterator[tuple]:
    for batch, tokens, dim, depth in ((2, 4, 3, 3), (1, 6, 4, 1), (3, 5, 2, 6)):
        images = torch.randn(batch, tokens, dim, 1).double().requires_grad_(batch == 3)
        cls, table = torch.randn(1, 1, dim).double(), 2 * torch.randn(1, tokens + 1, dim).double()
        matrix = torch.randn(dim, 3).double()
        yield (
            images,
            lambda images: 3 * images.squeeze(3),
            lambda x, cls=cls: torch.cat([cls.expand(len(x), -1, -1), x], dim=1),
            _positions(table),
            nn.ModuleList(_Mix(dim) for _ in range(depth)),
            lambda x: F.layer_norm(x, x.shape[-1:]),
            lambda x, matrix=matrix: (x[:, 0] @ matrix) * 5 + 1,
        )


def _positions(table: Tensor) -> Callable:
    def add_positions(x: Tensor) -> Tensor:
        if x.ndim == 3 and x.shape[1] == table.shape[1] - 1:
            raise Wrong(
                f"`add_positions` has {table.shape[1]} positions and got {x.shape[1]} tokens: CLS "
                f"has a position too, so it must be there before positions are added."
            )
        return x + table

    return add_positions


@exercise(
    "06.2",
    title="The whole network",
    difficulty=2,
    minutes=10,
    hints=(
        "Follow the table of shapes above: each row is one call, and gets what the row before "
        "returned.",
        "There is a position for CLS too. So which comes first, CLS or positions?",
        "The blocks come in a list, in order: each gets the tokens that the one before returned. "
        "What stands between the last block and the classifier?",
    ),
)
def my_vit(answer: Any) -> str:
    """Check `my_vit(images, patch_embed, add_cls, add_positions, blocks, norm, head)`."""
    inputs = list(_vit_inputs())

    def right(i: Tensor, *pieces: Any) -> Tensor:
        embed, cls, positions, blocks, norm, head = pieces
        return mistakes.chain(i, [embed, cls, positions, *blocks, norm, head])

    compare(answer, right, inputs, mistakes.VITS)
    depths = ", ".join(str(len(arguments[4])) for arguments in inputs)
    return f"Every piece in its place, for stacks of {depths} blocks: a Vision Transformer."


# ---- 06.3 Starting values ------------------------------------------------------------------------

UNTOUCHED = 7.0


@exercise(
    "06.3",
    title="Starting values",
    difficulty=2,
    minutes=12,
    hints=(
        "`model.named_parameters()` gives pairs of a name and a parameter. There are four cases: "
        "sort them by the end of the name and by the number of dimensions.",
        "The weight of a LayerNorm is the one kind called weight that has a single dimension. The "
        "patch projection has a name of its own.",
        "`torch.nn.init` has a function for each case; their names end in an underscore, because "
        "they work in place. For the patch projection: how many numbers go into one output?",
    ),
)
def my_init(answer: Any) -> str:
    """Check `my_init(model) -> model`, by the spread of what it sets."""
    configs = [
        ViTConfig(img_size=16, patch_size=8, embed_dim=80, depth=1, num_heads=2),
        ViTConfig(
            img_size=(8, 16), patch_size=4, in_chans=1, embed_dim=96, depth=2, num_heads=2,
            pos_embed="none", pool="mean",
        ),
    ]  # fmt: skip
    count = 0
    for config in configs:
        model = VisionTransformer(config)
        for parameter in model.parameters():
            nn.init.constant_(parameter, UNTOUCHED)
        output = call(answer, model)
        if not isinstance(output, nn.Module):
            raise Wrong(f"Return the model itself, got {describe(output)}.")
        for name, parameter in output.named_parameters():
            _judge_start(name, parameter.detach(), config)
            count += 1
    return f"All {count} parameters of two networks start as they should."


def _judge_start(name: str, values: Tensor, config: ViTConfig) -> None:
    mean, std = values.mean().item(), values.std().item()
    if (values == UNTOUCHED).any():
        raise Wrong(f"`{name}` is left as it was.")
    if name.endswith("bias") or values.ndim == 1:
        wanted, kind = (0, "a bias") if name.endswith("bias") else (1, "the gain of a LayerNorm")
        if not (values == wanted).all():
            raise Wrong(f"`{name}` is {kind} and starts at {wanted}; yours is {_spread(values)}.")
        return
    inputs = values[0].numel()
    is_patch = name == "patch_embed.proj.weight"
    wanted = inputs**-0.5 if is_patch else 0.02
    slack = 0.05 + 2.5 / values.numel() ** 0.5  # few numbers tell their spread less exactly
    if abs(std / wanted - 1) > slack:
        outputs = len(values)
        causes = {
            wanted**2: "this is its square: `std` is a standard deviation, not a variance",
            wanted**0.5: "this is its square root",
            0.0: "all the same numbers: then no two of them would ever learn different things",
        }
        if is_patch:
            causes[0.02] = "its own rule is 1 / sqrt(C * P * P): tokens with the pixels' variance"
            causes[outputs**-0.5] = "you count its outputs D; the sum runs over its inputs"
            causes[values.shape[-1] ** -1.0] = "each sum runs over all C channels of the patch"
        else:
            causes[inputs**-0.5] = "only the patch projection follows its inputs"
        near = [c for value, c in causes.items() if abs(std - value) <= slack * max(value, 1e-6)]
        cause = f": {near[0]}" if near else ""
        raise Wrong(f"`{name}` should have std {wanted:.3g}, yours has {std:.3g}{cause}.")
    if abs(mean) > 5 * wanted / values.numel() ** 0.5:
        raise Wrong(f"`{name}` should have mean 0, yours has {mean:.3g}.")
    # 1.8 for equal chances, 3 for a normal distribution
    if values.numel() > 1000 and ((values - mean) / std).pow(4).mean() < 2.4:
        raise Wrong(f"`{name}` has the right std, but should be normal, not uniform.")


def _spread(values: Tensor) -> str:
    if (values == values[0]).all():
        return f"{values[0].item():.3g}"
    return f"{values.min().item():.3g} to {values.max().item():.3g}"


# ---- 06.4 A list of blocks -----------------------------------------------------------------------


@exercise(
    "06.4",
    title="Repair the encoder",
    difficulty=2,
    minutes=8,
    hints=(
        "How often is `make_block` called? How often must it be?",
        "In Python, `[thing] * 3` is a list that holds one thing three times, not three things.",
        "Besides: a network finds its parameters only in modules that it knows. A plain list is "
        "none; `torch.nn` has one that is.",
    ),
)
def my_blocks(answer: Any) -> str:
    """Check `my_blocks(make_block, depth)`: a module of `depth` independent blocks."""
    for depth in (3, 1, 6):
        calls = 0

        def make_block() -> nn.Module:
            nonlocal calls
            calls += 1
            return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

        blocks = call(answer, make_block, depth)
        _judge_blocks(blocks, depth, calls)
    return "Every block has its own numbers, and the network knows them all."


def _judge_blocks(blocks: Any, depth: int, calls: int) -> None:
    if isinstance(blocks, list | tuple | Iterator):
        raise Wrong(
            "A plain list, or something like it: a network does not look into it. It would find 0 "
            "parameters to train, to save or to move to another device."
        )
    if not isinstance(blocks, nn.Module):
        raise Wrong(f"Expected a module that holds the blocks, got {describe(blocks)}.")
    try:
        items = list(blocks)  # type: ignore[call-overload]
    except TypeError:
        raise Wrong(f"{depth} blocks to be called one by one, got one module.") from None
    if len(items) != depth:
        raise Wrong(f"Expected {depth} blocks, got {len(items)}.")
    count = sum(parameter.numel() for parameter in blocks.parameters())
    if depth > 1 and len({id(block) for block in items}) < depth:
        raise Wrong(
            f"All {depth} places hold the same block: {count} parameters instead of "
            f"{depth * 28}. It trains, but as one layer that runs {depth} times."
        )
    if count < depth * 28:
        raise Wrong(
            f"{depth} blocks share their numbers: {count} parameters instead of {depth * 28}. A "
            f"shallow copy copies the box, not what is in it."
        )
    starts = [next(block.parameters()).detach() for block in items]
    if any(torch.equal(a, b) for a, b in combinations(starts, 2)):
        raise Wrong(
            f"Every block starts with the same numbers, copied from one: `make_block` was called "
            f"{calls} times for {depth} blocks. Each should draw its own."
        )


# ---- 06.5 The floor ------------------------------------------------------------------------------


@exercise(
    "06.5",
    title="The floor under a loss",
    difficulty=2,
    minutes=8,
    hints=(
        "The surest thing a softmax can say is 1 for the right class and 0 for all others. These "
        "are the numbers that the loss takes for logits.",
        "So the loss makes shares of them once more. How large is exp(0), and how many times does "
        "it stand in the sum below the fraction?",
        "The loss is minus the natural logarithm of the right class's share. Compare with the "
        "number that the cell above found for ten classes.",
    ),
)
def loss_floor(answer: Any) -> str:
    """Check `loss_floor(num_classes) -> float`."""

    def floor(classes: int) -> float:
        label = torch.tensor([0])
        return F.cross_entropy(F.one_hot(label, classes).double(), label).item()

    inputs = [(10,), (2,), (3,), (100,), (1000,)]
    compare_numbers(answer, floor, inputs, mistakes.FLOORS, lambda c: f"For {c} classes")
    counts = ", ".join(str(classes) for (classes,) in sorted(inputs))
    return f"Equal to `F.cross_entropy` for {counts} classes."


# ---- 06.6 and 06.7 Counting ----------------------------------------------------------------------


@exercise(
    "06.6",
    title="How many parameters?",
    difficulty=2,
    minutes=15,
    hints=(
        "Go through the network in order: patch projection, CLS, positions, a block, final norm, "
        "classifier. A linear layer from m to n has m * n weights and n biases.",
        "A block is two norms, the projections of attention (to 3 * D, and back from D to D) and "
        "the two layers of the MLP. Which parts are there only for some configs?",
        "Learned positions have a row for every token, CLS included. The number of heads changes "
        "nothing. And after the last block there is one more norm.",
    ),
)
def count_parameters(answer: Any) -> str:
    """Check `count_parameters(config) -> int`."""
    return counting.judge_count(
        answer, counting.torch_parameters, counting.parameters, counting.PARAMETER_FAULTS
    )


@exercise(
    "06.7",
    title="How many operations?",
    difficulty=3,
    minutes=15,
    hints=(
        "A product of an (m, n) and an (n, l) matrix is 2 * m * n * l operations. A linear layer "
        "is such a product with m tokens. Count only these products, and go through the network.",
        "Which products of a block have weights in them, and run once per token? Which two have "
        "none, and grow with T * T?",
        "Patch projection: N patches. Blocks: T tokens. Classifier: one vector. For the scores, "
        "add up all heads: h heads of width d are as wide as D.",
    ),
)
def count_flops(answer: Any) -> str:
    """Check `count_flops(config) -> int`."""
    return counting.judge_count(answer, counting.torch_flops, counting.flops, counting.FLOP_FAULTS)
