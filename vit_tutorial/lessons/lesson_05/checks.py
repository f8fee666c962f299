"""The exercises of lesson 05: the encoder block."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial.lessons.exercises import (
    Wrong,
    call,
    compare,
    describe,
    exercise,
    expect_tensor,
    require_gradients,
)
from vit_tutorial.lessons.lesson_05 import mistakes
from vit_tutorial.lessons.own_pieces import layer_norm

FLOAT64 = torch.float64

# ---- 05.1 ----------------------------------------------------------------------------------------


@exercise(
    "05.1",
    title="LayerNorm",
    difficulty=2,
    minutes=12,
    hints=(
        "By hand there were four steps: mean, deviations, variance, division. Every "
        "token needs a mean of its own, so along which axis is it taken? (The last one, whatever "
        "stands in front.)",
        "A mean of shape (..., D) with its last axis gone no longer fits to x. `keepdim=True` "
        "leaves that axis in place, with length 1.",
        "The variance is the mean of the squared deviations. `eps` is added to it before the root "
        "is taken. At the end each entry is multiplied by its weight, then its bias is added.",
    ),
)
def my_layer_norm(answer: Any) -> str:
    """Check `my_layer_norm(x, weight, bias, eps)`: (..., D), (D,), (D,) -> (..., D)."""
    inputs: list[tuple] = []
    for shape, dtype, eps in [
        ((2, 3, 4), FLOAT64, 1e-6),
        ((4, 4, 4), FLOAT64, 1e-2),  # no axis is told by its length
        ((3, 5), FLOAT64, 1e-6),
        ((7,), FLOAT64, 0.5),
        ((2, 3, 2, 6), FLOAT64, 1e-1),
        ((1, 1, 8), FLOAT64, 1e-6),
        ((2, 5, 12), torch.float32, 1e-6),
    ]:
        x = 2 * torch.randn(shape, dtype=dtype) + torch.randn(shape[-1], dtype=dtype)
        inputs.append((x, *torch.randn(2, shape[-1], dtype=dtype), eps))
    weight, bias = torch.randn(2, 6, dtype=FLOAT64)
    small = 1e-3 * torch.randn(2, 4, 6, dtype=FLOAT64)  # where eps matters
    inputs.append((small, weight, bias, 1e-6))
    inputs.append((torch.full((1, 3, 6), 2.0, dtype=FLOAT64), weight, bias, 1e-6))  # no spread
    inputs.append((1e4 + torch.randn(2, 3, 6, dtype=FLOAT64), weight, bias, 1e-6))
    turned = torch.randn(6, 4, 2, dtype=FLOAT64).permute(2, 1, 0)  # not contiguous
    inputs.append((turned, weight, bias, 1e-6))
    inputs.append((torch.randn(2, 4, 6, dtype=FLOAT64).requires_grad_(), weight, bias, 1e-6))
    compare(answer, layer_norm, inputs, mistakes.LAYER_NORMS)
    return (
        f"Equal to the library's for {len(inputs)} inputs: one token or a batch, tiny or huge, and "
        f"all entries the same."
    )


# ---- 05.2 ----------------------------------------------------------------------------------------


@exercise(
    "05.2",
    title="GELU",
    difficulty=1,
    minutes=6,
    hints=(
        "It is a product of two things: the number itself, and the share of a normal distribution "
        "that lies below it.",
        "The formula for that share stands above, and PyTorch has erf for whole tensors. Try your "
        "Phi alone first: it must be 0.5 at 0 and close to 1 at 3.",
    ),
)
def my_gelu(answer: Any) -> str:
    """Check `my_gelu(x)`: any shape, the exact GELU."""
    inputs: list[tuple] = [
        (torch.linspace(-6, 6, 97, dtype=FLOAT64),),
        (torch.randn(2, 3, 4, dtype=FLOAT64),),
        (torch.randn(2, 5),),
        (torch.tensor(0.7, dtype=FLOAT64),),  # one number
        (torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4], dtype=FLOAT64),),
        (torch.randn(4, 3, dtype=FLOAT64).T,),
        (torch.randn(3, dtype=FLOAT64).requires_grad_(),),
    ]
    compare(answer, F.gelu, inputs, mistakes.GELUS)
    return "The exact GELU, from -10,000 to 10,000, to the last digit that counts."


# ---- 05.3 ----------------------------------------------------------------------------------------


@exercise(
    "05.3",
    title="The MLP",
    difficulty=1,
    minutes=8,
    hints=(
        "Three steps: a linear layer that widens, the GELU, a linear layer that comes back to D.",
        "`nn.Linear` keeps its weight as (out, in), and computes x times its transpose, plus the "
        "bias. So fc1_weight is (hidden, D): which way round must it be for (B, T, D) @ ...?",
        "Nothing follows the second layer: no GELU, and no addition of x. That is left to the "
        "block.",
    ),
)
def my_mlp(answer: Any) -> str:
    """Check `my_mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)`: (B, T, D) -> (B, T, D)."""
    inputs: list[tuple] = []
    for shape, hidden, dtype in [
        ((2, 5, 6), 24, FLOAT64),
        ((3, 4, 4), 4, FLOAT64),  # square: a transposition fits, and is wrong
        ((1, 1, 3), 8, FLOAT64),
        ((2, 7, 8), 12, torch.float32),
        ((4, 6), 9, FLOAT64),  # tokens without a batch
    ]:
        inputs.append(
            (2 * torch.randn(shape, dtype=dtype), *_mlp_weights(shape[-1], hidden, dtype))
        )
    turned = torch.randn(2, 6, 5, dtype=FLOAT64).transpose(1, 2)
    inputs.append((turned, *_mlp_weights(6, 10, FLOAT64)))
    inputs.append((turned.clone().requires_grad_(), *_mlp_weights(6, 10, FLOAT64)))
    compare(answer, mistakes.mlp, inputs, mistakes.MLPS)
    return (
        f"Equal to the library's layers for {len(inputs)} inputs, also where all widths are the "
        f"same and a transposition would go unnoticed."
    )


def _mlp_weights(width: int, hidden: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return random weights as a network has them: of layers that keep the size of numbers."""
    return (
        torch.randn(hidden, width, dtype=dtype) / width**0.5,
        torch.randn(hidden, dtype=dtype),
        torch.randn(width, hidden, dtype=dtype) / hidden**0.5,
        torch.randn(width, dtype=dtype),
    )


# ---- 05.4 ----------------------------------------------------------------------------------------


@exercise(
    "05.4",
    title="The block",
    difficulty=2,
    minutes=10,
    hints=(
        "Follow the upper drawing from left to right, and write a line for each plus sign.",
        "The first line makes a new x: the old one plus what attention returns. What is attention "
        "given: the stream itself, or what a norm has made of it?",
        "The second line is the same with the other norm and the MLP, and it starts from the new "
        "x. Make a new tensor each time: `+=` would change the caller's.",
    ),
)
def my_block(answer: Any) -> str:
    """Check `my_block(x, norm1, attention, norm2, mlp)`, pre-norm, with callables."""
    inputs: list[tuple] = []
    for shape, dtype in [((2, 5, 6), FLOAT64), ((3, 3, 4), FLOAT64), ((1, 9, 8), torch.float32)]:
        pieces = _pieces(shape[-1], dtype)
        inputs.append((3 * torch.randn(shape, dtype=dtype), *pieces))
    width = 6
    pieces = _pieces(width, FLOAT64)
    inputs.append((torch.randn(2, width, 5, dtype=FLOAT64).transpose(1, 2), *pieces))
    inputs.append((torch.randn(2, 4, width, dtype=FLOAT64).requires_grad_(), *pieces))
    _require_four_uses(answer, inputs[0][0])
    compare(answer, mistakes.block, inputs, mistakes.BLOCKS)
    return (
        "Each piece is used once, in its place, and both halves are added: the library's pre-norm "
        "layer does the same."
    )


def _pieces(width: int, dtype: torch.dtype) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Return two different norms, a layer that mixes tokens, and one that treats each alone."""
    weights = torch.randn(6, width, dtype=dtype)
    norm1 = _affine_norm(weights[0], weights[1])
    norm2 = _affine_norm(weights[2], weights[3])
    mix = torch.randn(width, width, dtype=dtype)
    inner = _mlp_weights(width, 2 * width, dtype)

    def attention(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x @ mix, x.sin())

    return norm1, attention, norm2, lambda x: mistakes.mlp(x, *inner)


def _affine_norm(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: F.layer_norm(x, weight.shape, weight, bias, 1e-6)


def _require_four_uses(answer: Callable, x: Tensor) -> None:
    """See that each of the four pieces is called exactly once."""
    names = ("norm1", "attention", "norm2", "mlp")
    uses = dict.fromkeys(names, 0)

    def counting(name: str, piece: Callable) -> Callable:
        def counted(*arguments: Any) -> Any:
            if len(arguments) != 1 or not isinstance(arguments[0], Tensor):
                raise Wrong(f"`{name}` takes one tensor and returns one of the same shape.")
            uses[name] += 1
            return piece(arguments[0])

        return counted

    pieces = _pieces(x.shape[-1], x.dtype)
    expect_tensor(
        call(
            answer, x, *(counting(name, piece) for name, piece in zip(names, pieces, strict=True))
        ),
        x,
    )
    for first, second in (("norm1", "norm2"), ("norm2", "norm1")):
        if uses[first] == 2 and not uses[second]:
            raise Wrong(
                f"`{first}` is used twice and `{second}` never: each half has a norm of its own, "
                f"with its own weights."
            )
    for name, count in uses.items():
        if not count:
            raise Wrong(f"`{name}` is never called.")
        if count > 1:
            raise Wrong(f"`{name}` is called {count} times: it is costly, and once is enough.")


# ---- 05.5 ----------------------------------------------------------------------------------------

SIZES = [(12, 3, 48), (16, 4, 32), (8, 1, 8)]
NO_LAYER = "Expected an nn.TransformerEncoderLayer, got {}."


@exercise(
    "05.5",
    title="The library's block",
    difficulty=2,
    minutes=10,
    hints=(
        "Each line that the cell above printed as a departure is one argument of "
        "`nn.TransformerEncoderLayer`. `help(nn.TransformerEncoderLayer)` names them all.",
        "The sizes come from your arguments; the rest is the same for every block: where the batch "
        "is, where the norms are, which activation, how much dropout, which eps.",
        '`activation="gelu"` is the exact GELU. The eps of the norms is called `layer_norm_eps`, '
        "and the course uses 1e-6.",
    ),
)
def my_encoder_layer(answer: Any) -> str:
    """Check `my_encoder_layer(dim, num_heads, hidden_dim)`: PyTorch's layer, set up as ours."""
    layers = [call(answer, *size) for size in SIZES]
    faults: list[str] = []
    for layer, size in zip(layers, SIZES, strict=True):
        if isinstance(layer, type):
            raise Wrong(NO_LAYER.format("the class itself; make one with your sizes"))
        if not isinstance(layer, nn.TransformerEncoderLayer):
            raise Wrong(NO_LAYER.format(describe(layer)))
        for fault in _departures(layer, *size):
            if fault not in faults:
                faults.append(fault)
    if faults:
        raise Wrong("\n".join(faults))
    for layer in layers:
        if not layer.training:
            raise Wrong("Leave the layer as it comes, in training mode: its user decides.")
    return f"All of its settings are those of our block, for {len(SIZES)} sizes."


def _departures(layer: nn.TransformerEncoderLayer, dim: int, heads: int, hidden: int) -> list[str]:
    """Say in what a library layer differs from a block of these sizes."""
    attention, faults = layer.self_attn, []
    if (attention.embed_dim, attention.num_heads) != (dim, heads):
        faults.append(
            f"For dim = {dim} and num_heads = {heads}, the layer has width "
            f"{attention.embed_dim} and {attention.num_heads} heads."
        )
    if layer.linear1.out_features != hidden:
        faults.append(
            f"The MLP is {layer.linear1.out_features} wide inside instead of {hidden}: the default "
            f"knows nothing of your `hidden_dim`."
        )
    if not attention.batch_first:
        faults.append(
            "The layer takes the first axis for the tokens: images of one batch would attend to "
            "each other."
        )
    if not layer.norm_first:
        faults.append("The norms stand behind the additions (post-norm); ours is pre-norm.")
    probe = torch.tensor([-2.0, -1.0, 0.5, 1.0], dtype=FLOAT64)
    activated = layer.activation(probe)
    if torch.equal(activated, probe.relu()):
        faults.append("The activation is a ReLU, the default; ours is a GELU.")
    elif not torch.allclose(activated, F.gelu(probe), atol=1e-12):
        faults.append("The activation is not the exact GELU: the tanh approximation?")
    rates = [layer.dropout.p, layer.dropout1.p, layer.dropout2.p, attention.dropout]
    if any(rates):
        faults.append(f"Dropout is on, with p = {max(rates):g}: in training, outputs are random.")
    epsilons = {layer.norm1.eps, layer.norm2.eps}
    if epsilons != {1e-6}:
        faults.append(f"The norms have eps = {max(epsilons):g} instead of 1e-6.")
    if layer.linear1.bias is None:
        faults.append("The layer has no biases; ours has.")
    return faults


# ---- 05.6 ----------------------------------------------------------------------------------------

IMAGES = 4000  # enough to tell 0.7 from 0.75


@exercise(
    "05.6",
    title="Drop path",
    difficulty=3,
    minutes=15,
    hints=(
        "First the easy case: outside training, what must come back? The same where p is 0.",
        "One coin for each image: `torch.rand` gives numbers from 0 to 1, and a share p of them is "
        "below p. What shape must the coins have, so that each decides over all of its image?",
        "Images that are kept are divided by the probability of being kept: then the mean over "
        "many runs is x. Coins for any number of axes: as many as images, then a 1 for each of "
        "the others.",
    ),
)
def my_drop_path(answer: Any) -> str:
    """Check `my_drop_path(x, p, training)`: whole images of a branch dropped, the others scaled."""
    _require_the_same(answer, 0.3, False)
    _require_the_same(answer, 0.0, True)
    for p in (0.25, 0.6):
        _check_rate(answer, p)
    _check_coins(answer)
    for shape in ((64, 3), (64, 2, 3, 2), (64,)):
        x = torch.rand(shape, dtype=FLOAT64) + 1
        expect_tensor(call(answer, x, 0.5, True), x)
    x = torch.rand(64, 2, 3).requires_grad_()
    expect_tensor(call(answer, x, 0.5, True), x)
    require_gradients(answer, (x, 0.5, True))
    return (
        f"In {IMAGES:,} images the right share is dropped, each as a whole, and the mean is kept; "
        f"outside training nothing happens."
    )


def _require_the_same(answer: Callable, p: float, training: bool) -> None:
    x = torch.randn(32, 5, 3, dtype=FLOAT64)
    output = expect_tensor(call(answer, x, p, training), x)
    if torch.allclose(output, x):
        return
    where = "Outside training" if not training else "With p = 0"
    if torch.allclose(output, (1 - p) * x):
        raise Wrong(
            "Outside training you multiply by 1 - p. Since the images that are kept are enlarged "
            "in training, nothing is left to do: x must come back as it is."
        )
    if (output == 0).any():
        raise Wrong(
            f"{where}, something is dropped: two forward passes of a finished network would differ."
            if not training
            else "With p = 0 nothing may be dropped."
        )
    raise Wrong(f"{where}, x must come back as it is.")


def _check_rate(answer: Callable, p: float) -> None:
    """Check what is dropped, how often, and what the rest is multiplied by."""
    x = torch.rand(IMAGES, 3, 2, dtype=FLOAT64) + 1  # no zeros of its own
    for _ in range(40):  # one coin for all can fall on the same side often
        output = expect_tensor(call(answer, x, p, True), x)
        dropped = output == 0
        if dropped.any():
            break
    else:
        raise Wrong(f"In training with p = {p:g}, nothing is dropped.")
    by_image = dropped.flatten(1)
    if not (by_image.all(1) | ~by_image.any(1)).all():
        if (dropped.all(2) | ~dropped.any(2)).all():
            raise Wrong("Single tokens are dropped: an image must be dropped or kept as a whole.")
        raise Wrong(
            "Single entries are dropped: that is dropout. Drop path drops or keeps the whole "
            "branch of an image."
        )
    share = by_image.all(1).double().mean().item()
    if share == 1.0:
        raise Wrong("All images of the batch are dropped together: each needs a coin of its own.")
    margin = 5 * (p * (1 - p) / IMAGES) ** 0.5
    if abs(share - (1 - p)) < margin:
        raise Wrong(
            f"Kept and dropped are swapped: p is the probability to drop, but for p = {p:g} a "
            f"share of {share:.2f} was dropped."
        )
    if abs(share - p) > margin:
        raise Wrong(f"For p = {p:g}, a share of {share:.2f} of the images was dropped.")
    factors = (output / x)[~dropped]
    for factor, cause in (
        (1.0, "The images that are kept are not enlarged: then the branch's mean shrinks with p."),
        (1 - p, "The images that are kept are multiplied by 1 - p; the mean must be x again."),
        (1 / p, "The images that are kept are divided by p: that is the share of the others."),
    ):
        if torch.allclose(factors, torch.full_like(factors, factor)):
            raise Wrong(cause)
    if not torch.allclose(factors, torch.full_like(factors, 1 / (1 - p))):
        raise Wrong(
            f"Of those kept, the first is multiplied by {factors[0]:.4g} for p = {p:g}; the mean "
            f"over many runs must be x."
        )


def _check_coins(answer: Callable) -> None:
    """Check that images have coins of their own, new ones in each call."""
    x = torch.ones(200, 1, 1, dtype=FLOAT64)
    first, second = (call(answer, x, 0.5, True)[:, 0, 0] == 0 for _ in range(2))
    if torch.equal(first, second):
        raise Wrong("Two calls drop the same images: is the random generator set to a seed inside?")
