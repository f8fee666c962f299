"""The exercises of lesson 08: looking inside."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vit_tutorial.lessons.exercises import Wrong, call, compare, exercise
from vit_tutorial.lessons.lesson_08 import mistakes


def _attention(*shape: int, sharpness: float = 2.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return weights (..., T, T) of random scores: rows that add up to 1."""
    return torch.randn(*shape, shape[-1], dtype=dtype).mul(sharpness).softmax(dim=-1)


# ---- 08.1 ----------------------------------------------------------------------------------------


@exercise(
    "08.1",
    title="One head, one patch",
    difficulty=1,
    minutes=8,
    hints=(
        "First the number of the token that asks. Patches are counted row by row, and the tokens "
        "before them come first.",
        "In weights[b, head, i, j] token i asks and token j is read. Which part of row i belongs "
        "to patches? The slice begins where the prefix ends.",
        "An even share of T tokens is 1/T. What must it be multiplied by to become 1?",
    ),
)
def my_head_map(answer: Any) -> str:
    """Check `my_head_map(weights, head, query, grid, num_prefix) -> (B, rows, columns)`."""
    inputs: list[tuple] = []
    for batch, heads, head, query, grid, prefix in (
        (2, 3, 1, (2, 1), (3, 4), 1),
        (1, 2, 0, (2, 1), (4, 3), 1),
        (3, 4, 3, (0, 1), (2, 5), 0),
        (2, 1, 0, (1, 0), (2, 3), 5),
        (2, 2, 1, (0, 0), (1, 6), 1),
        (1, 3, 2, (0, 0), (5, 1), 2),
        (2, 3, 2, (1, 2), (3, 3), 1),
    ):
        tokens = prefix + grid[0] * grid[1]
        inputs += [(_attention(batch, heads, tokens), head, query, grid, prefix)]
    inputs += [(_attention(2, 3, 9, dtype=torch.float64), 1, (1, 0), (2, 4), 1)]
    inputs += [(_attention(2, 3, 9).transpose(0, 1), 0, (0, 1), (2, 4), 1)]
    compare(answer, mistakes.head_map, inputs, mistakes.HEAD_MAPS)
    return (
        f"Right for {len(inputs)} records: grids high and wide, with no token, one and five before "
        f"the patches."
    )


# ---- 08.2 ----------------------------------------------------------------------------------------


@exercise(
    "08.2",
    title="Among how many tokens?",
    difficulty=1,
    minutes=8,
    hints=(
        "The entropy of a row is minus the sum of w times ln w, along the keys. That is a number "
        "for each image, head and query.",
        "Weights can be 0. What is 0 times minus infinity in floats? Lesson 04 had a function that "
        "knows the limit.",
        "The exponential comes before the mean. Which two of the three axes that are left does the "
        "mean run over?",
    ),
)
def my_shared_among(answer: Any) -> str:
    """Check `my_shared_among(weights (B, h, T, T)) -> (h,)`."""
    hard = torch.eye(5).expand(2, 3, 5, 5).clone()
    hard[0, 1, 2] = torch.tensor([0.5, 0.0, 0.0, 0.5, 0.0])
    few = _attention(2, 2, 6, sharpness=4.0, dtype=torch.float64)
    few = torch.where(few < 0.05, 0.0, few)
    few = few / few.sum(dim=-1, keepdim=True)
    inputs = [
        (_attention(2, 3, 7),),
        (_attention(1, 1, 4),),
        (_attention(3, 4, 5, sharpness=6.0),),
        (torch.full((2, 2, 8, 8), 1 / 8),),
        (hard,),
        (few,),
        (_attention(2, 3, 6, dtype=torch.float64),),
        (_attention(2, 3, 6).transpose(0, 1),),
    ]
    compare(answer, mistakes.shared_among, inputs, mistakes.SHARED)
    return (
        f"Right for {len(inputs)} records, from 1 token (a head that looks at one) to T (one that "
        f"looks at all alike), also where weights are exactly 0."
    )


# ---- 08.3 ----------------------------------------------------------------------------------------


@exercise(
    "08.3",
    title="Attention distance",
    difficulty=2,
    minutes=15,
    hints=(
        "Make the matrix of distances first, (N, N). It needs the row and the column of every "
        "patch: lesson 03 had a function that lists them.",
        "Cut the prefix off twice, from the queries and from the keys. What is left of a row does "
        "not add up to 1 any more.",
        "A weighted mean: multiply by the matrix of distances, sum over keys. Then the mean over "
        "what is neither a key nor a head.",
    ),
)
def my_attention_distance(answer: Any) -> str:
    """Check `my_attention_distance(weights (B, h, T, T), grid, num_prefix) -> (h,)`."""
    inputs: list[tuple] = []
    for batch, heads, grid, prefix in (
        (2, 3, (3, 4), 1),
        (1, 2, (4, 3), 0),
        (3, 1, (2, 5), 5),
        (2, 4, (1, 6), 1),
        (2, 2, (5, 1), 2),
        (1, 3, (3, 3), 1),
    ):
        inputs += [(_attention(batch, heads, prefix + grid[0] * grid[1]), grid, prefix)]
    to_cls = _attention(2, 2, 13, dtype=torch.float64)
    to_cls[:, 0, :, 0] += 4  # a head that looks at CLS, some queries more than others
    to_cls[:, 0, 5:, 0] += 20
    inputs += [(to_cls / to_cls.sum(dim=-1, keepdim=True), (4, 3), 1)]
    inputs += [(torch.full((1, 2, 12, 12), 1 / 12), (2, 6), 0)]
    inputs += [(torch.eye(9).expand(2, 2, 9, 9), (2, 4), 1)]
    inputs += [(_attention(2, 3, 7).transpose(0, 1), (2, 3), 1)]
    compare(answer, mistakes.attention_distance, inputs, mistakes.DISTANCES)
    return (
        f"Right for {len(inputs)} records: 0 for a head that looks at its own patch, the mean of "
        f"all pairs for one that looks everywhere alike, and a head that looks at CLS is not taken "
        f"for a near one."
    )


# ---- 08.4 ----------------------------------------------------------------------------------------


def _matrices(layers: int, tokens: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return fused matrices (layers, T, T) whose rows add up to anything, as those of a maximum."""
    sizes = torch.rand(layers, tokens, 1, dtype=dtype) * 3 + 0.2
    return _attention(layers, tokens, dtype=dtype) * sizes


@exercise(
    "08.4",
    title="Rollout",
    difficulty=2,
    minutes=15,
    hints=(
        "One layer first: mix its matrix with the identity, each with its weight, then divide each "
        "row by its own sum. Add up a row of the result: is it 1?",
        "A sum along the last axis loses that axis. Beside a matrix (T, T) it would then be taken "
        "for a row. There is an option that keeps the axis.",
        "Now the product. What does a path go through last, on its way up to the answer? That "
        "layer stands on the left. By hand, with the two layers of the text, CLS must get a "
        "quarter from b.",
    ),
)
def my_rollout(answer: Any) -> str:
    """Check `my_rollout(matrices (L, T, T), residual) -> (T, T)`."""
    looks_at = torch.tensor([[0, 2, 2], [1, 1, 2]])  # whom each token looks at, layer by layer
    by_hand = torch.eye(3)[looks_at]
    empty = _matrices(2, 4)
    empty[1, 2] = 0  # a row that lost everything
    inputs = [
        (by_hand, 0.5),
        (_matrices(1, 4), 0.3),
        (_matrices(2, 3), 0.5),
        (_matrices(3, 5), 0.8),
        (_matrices(5, 6, torch.float64), 0.25),
        (empty, 0.5),
        (_matrices(3, 4).mT, 0.6),
        (_attention(4, 5), 0.5),
    ]
    compare(answer, mistakes.rollout, inputs, mistakes.ROLLOUTS)
    return (
        f"Right for {len(inputs)} stacks of 1 to 5 layers, the two of the text among them, and for "
        f"rows that add up to anything."
    )


# ---- 08.5 ----------------------------------------------------------------------------------------


class _Multiplications(TorchFunctionMode):
    """Count the multiplications that PyTorch is asked for, while the context lasts."""

    PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot", "linear")
    BY_ENTRY = ("mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in self.PRODUCTS:
            self.count += result.numel() * args[0].shape[-1]
        elif name == "einsum" and isinstance(args[0], str):
            operands = args[1] if isinstance(args[1], list | tuple) else args[1:]
            if len(operands) == 2:  # of more, the order is PyTorch's
                self.count += _all_pairs(args[0], operands)
        elif name in self.BY_ENTRY:
            self.count += result.numel()
        return result


def _all_pairs(pattern: str, operands: Any) -> int:
    """Count the multiplications of a sum over two factors, "bi,bij->bj"."""
    sizes: dict[str, int] = {}
    axes = pattern.replace(" ", "").partition("->")[0].split(",")
    for letters, operand in zip(axes, operands, strict=True):
        sizes |= dict(
            zip(reversed(letters.replace("...", "")), reversed(operand.shape), strict=False)
        )
    return math.prod(sizes.values())


@exercise(
    "08.5",
    title="One row, and no more",
    difficulty=3,
    minutes=15,
    hints=(
        "In the product R = A' B' C' ..., only one row is asked for. Which row of A' does it need, "
        "which rows of B'?",
        "A row times (A' times B') is (the row times A') times B'. Start with the row that has a "
        "single 1, and let the matrices come one by one. Which one stands next to it?",
        "With a batch, a row is a tensor (B, 1, T), so that a matrix product with (B, T, T) treats "
        "each image alone. The skip connection needs no matrix: half of the row stays.",
    ),
)
def my_query_row(answer: Any) -> str:
    """Check `my_query_row(matrices (L, B, T, T), query) -> (B, T)`."""
    inputs: list[tuple] = []
    for depth, batch, tokens, query in ((3, 2, 5, 1), (1, 1, 4, 3), (5, 3, 4, 0), (2, 2, 6, 5)):
        inputs += [(_attention(depth, batch, tokens), query)]
    inputs += [(_attention(4, 2, 5, dtype=torch.float64), 2)]
    inputs += [(_attention(2, 3, 4).transpose(0, 1), 1)]
    compare(answer, mistakes.query_row, inputs, mistakes.ROWS)
    depth, batch, tokens = 4, 2, 48
    matrices = _attention(depth, batch, tokens)
    with _Multiplications() as multiplications:
        call(answer, matrices, 3)
    allowed = 8 * depth * batch * tokens**2
    if multiplications.count > allowed:
        raise Wrong(
            f"The numbers are right, but for {depth} layers of {tokens} tokens it took "
            f"{multiplications.count // (batch * tokens**2)} times T² multiplications an image, "
            f"where a row needs about {depth}: whole matrices are multiplied on the way."
        )
    times = multiplications.count / (batch * tokens**2 * depth)
    return (
        f"Right for {len(inputs)} stacks of layers, with {times:.1f} times T² multiplications an "
        f"image and layer; a product of two matrices takes T times T²."
    )


# ---- 08.6 ----------------------------------------------------------------------------------------


@exercise(
    "08.6",
    title="What the skip connection keeps",
    difficulty=2,
    minutes=10,
    hints=(
        "Join the heads entry by entry first: (B, T, T). What does a row of it add up to, for each "
        "of the three ways?",
        "Before the scaling the skip connection brings `residual` into a row, and attention brings "
        "(1 - residual) times the sum of the joined row. What is the first one's part of both?",
    ),
)
def my_kept_share(answer: Any) -> str:
    """Check `my_kept_share(weights (B, h, T, T), fusion, residual) -> (B, T)`."""
    inputs = [
        (_attention(2, heads, tokens), fusion, residual)
        for fusion in ("mean", "max", "min")
        for heads, tokens, residual in ((3, 5, 0.5), (1, 4, 0.3), (4, 6, 0.8), (2, 3, 0.0))
    ]
    inputs += [(_attention(2, 3, 4, dtype=torch.float64), "max", 0.5)]
    inputs += [(_attention(4, 3, 5).transpose(0, 1), "min", 0.25)]
    inputs += [(_attention(2, 2, 4), "max", 1.0)]
    compare(answer, mistakes.kept_share, inputs, mistakes.KEPT)
    return f"Right for {len(inputs)} records: `residual` for the mean, less for max, more for min."


# ---- 08.7 ----------------------------------------------------------------------------------------


@exercise(
    "08.7",
    title="Discard the smallest",
    difficulty=3,
    minutes=15,
    hints=(
        "Lay the matrix out as one row of T * T numbers and find the places of the smallest. How "
        "many go? A whole number, rounded down.",
        "A threshold cannot tell equal entries apart. A sort that gives places can, if it leaves "
        "equal ones in the order in which it found them: it has an option for that.",
        "CLS to CLS has the place 0 in that row. Take it out of the list of those that go, and "
        "put no other in. Work on a copy.",
    ),
)
def my_discard(answer: Any) -> str:
    """Check `my_discard(matrix (T, T), ratio) -> (T, T)`."""
    small_cls = _attention(5)
    small_cls[0, 0] = 1e-4
    steps = (_attention(6) * 20).round() / 20  # many equal ones
    inputs = [
        (_attention(4), 0.5),
        (_attention(5), 0.9),
        (small_cls, 0.3),
        (small_cls, 0.0),
        (steps, 0.6),
        (steps, 0.85),
        (torch.full((4, 4), 0.25), 0.5),
        (torch.full((3, 3), 1 / 3), 0.0),
        (_attention(3, dtype=torch.float64), 1.0),
        (_attention(5).T, 0.7),
        (_attention(3), 0.3),
    ]
    compare(answer, mistakes.discard, inputs, mistakes.DISCARDS)
    return (
        f"Right for {len(inputs)} matrices, also where all entries are equal; CLS to CLS has "
        f"stayed in all of them."
    )
