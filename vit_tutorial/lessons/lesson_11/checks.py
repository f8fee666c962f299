"""The exercises of lesson 11: transfer learning."""

from collections.abc import Callable
from numbers import Real
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial.lessons.exercises import Wrong, call, compare, describe, exercise, expect_tensor
from vit_tutorial.lessons.lesson_11 import mistakes

# ---- 11.1 ----------------------------------------------------------------------------------------


def _groups(counts: tuple[int, ...], width: int, scale: float = 1.0, offset: float = 0.0) -> tuple:
    """Features of classes with so many examples each, in mixed order, and queries among them."""
    labels = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels))]
    centres = 1.5 * torch.randn(len(counts), width) * torch.arange(1, len(counts) + 1)[:, None]
    features = centres[labels] + torch.randn(len(labels), width)
    queries = centres.mean(dim=0) + 3 * torch.randn(80, width)
    return features * scale + offset, labels, queries * scale + offset


@exercise(
    "11.1",
    title="The nearest mean",
    difficulty=1,
    minutes=8,
    hints=(
        "First one mean for each class. `features[labels == c]` picks the examples of class c.",
        "Then the distance of every query to every mean, a table (m, C). Give each of the two an "
        "axis of its own, so that broadcasting makes all pairs.",
        "The smallest distance in each row has a place. The place is the class.",
    ),
)
def my_nearest_mean(answer: Any) -> str:
    """Check `my_nearest_mean(features (n, D), labels (n,), queries (m, D)) -> (m,)`."""
    inputs = [
        _groups((5, 5, 5), 4),
        _groups((1, 20, 3), 2),
        _groups((30, 2, 2, 9), 6),
        _groups((8, 3), 3, offset=20.0),
        _groups((4, 6, 5, 7, 2), 8, scale=1e-3),
        _groups((2, 7), 1),
        _groups((1, 1, 1), 5),
    ]
    features, labels, queries = _groups((6, 4, 11), 5)
    features[:, 0] *= 10  # one axis that counts for most
    inputs += [(features.double(), labels, queries[:1].double())]
    inputs += [(features, labels, queries)]
    compare(answer, mistakes.nearest_mean, inputs, mistakes.NEAREST)
    return (
        f"Right for {len(inputs)} sets of two to five classes, also where one class has a single "
        f"example and another has thirty."
    )


# ---- 11.2 and 11.3 -------------------------------------------------------------------------------


def _layer_of(answer: Callable) -> Callable[..., Tensor]:
    """Call an answer that returns a weight and a bias, and make one tensor of them."""

    def joined(weight: Tensor, bias: Tensor, *others: Tensor) -> Tensor:
        result = call(answer, weight, bias, *others)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Wrong(f"Return two tensors, the weight and the bias; got {describe(result)}.")
        parts = []
        for name, part, like in zip(("weight", "bias"), result, (weight, bias), strict=True):
            try:
                parts.append(expect_tensor(part, like))
            except Wrong as wrong:
                raise Wrong(f"Your new {name}: {wrong}") from None
        return torch.cat([parts[0].flatten(1), parts[1][:, None]], dim=1)

    return joined


@exercise(
    "11.2",
    title="Fold it in",
    difficulty=2,
    minutes=10,
    hints=(
        "Write down what the old layer says of one feature f: w times (f minus μ) over σ, plus b. "
        "Multiply it out. What stands in front of f?",
        "What does not depend on f goes into the bias, once for every feature: a sum.",
        "In the weight (K, D) a column belongs to a feature. Along which axis does PyTorch lay a "
        "tensor (D,)?",
    ),
)
def my_folded(answer: Any) -> str:
    """Check `my_folded(weight (K, D), bias (K,), mean (D,), std (D,)) -> weight, bias`."""
    inputs = [
        (
            torch.randn(classes, width, dtype=dtype),
            torch.randn(classes, dtype=dtype),
            torch.randn(width, dtype=dtype) * 3 + 1,
            torch.rand(width, dtype=dtype) * 2 + 0.3,
        )
        for classes, width, dtype in (
            (3, 5, torch.float32),
            (2, 1, torch.float32),
            (4, 4, torch.float64),  # as many classes as features: no shape betrays an axis
            (1, 6, torch.float64),
            (6, 6, torch.float32),
        )
    ]
    inputs += [(torch.ones(1, 1) * 3, torch.ones(1), torch.tensor([100.0]), torch.tensor([20.0]))]
    compare(_layer_of(answer), mistakes.joined(mistakes.folded), inputs, mistakes.FOLDED)
    return f"Right for {len(inputs)} layers: what was in front of them is now in them."


@exercise(
    "11.3",
    title="The same answers, normalised another way",
    difficulty=3,
    minutes=15,
    hints=(
        "Start with one pixel of one channel: put the formula for x in where the projection says "
        "weight times x. Which part multiplies z, which part is a constant?",
        "The factor belongs to a channel. In (D, C, P, P) that is the second axis, so give the "
        "tensor (C,) two more axes behind it.",
        "The constant is the same for all pixels of a channel, and each pixel has its own weight. "
        "So for the bias, add up over three axes. With which weight, the old or the new one? Look "
        "at the formula: is the constant inside the factor of z?",
    ),
)
def my_renormalised(answer: Any) -> str:
    """Check `my_renormalised(weight, bias, old_mean, old_std, new_mean, new_std)`."""
    inputs: list[tuple] = [
        (
            torch.randn(width, channels, patch, patch, dtype=dtype),
            torch.randn(width, dtype=dtype),
            *(
                torch.rand(channels, dtype=dtype) * scale + low
                for scale, low in ((0.8, 0.1), (0.3, 0.1), (0.8, 0.1), (0.3, 0.1))
            ),
        )
        for width, channels, patch, dtype in (
            (5, 3, 3, torch.float64),  # as wide as there are channels: no shape betrays an axis
            (4, 3, 3, torch.float32),
            (4, 2, 2, torch.float64),
            (6, 4, 4, torch.float64),
            (3, 3, 3, torch.float64),
        )
    ]
    same_mean = [t.clone() for t in inputs[0]]
    same_mean[4] = same_mean[2].clone()
    same_std = [t.clone() for t in inputs[0]]
    same_std[5] = same_std[3].clone()
    inputs += [tuple(same_mean), tuple(same_std)]
    others = [
        tuple(torch.rand(*shape, dtype=torch.float64) + 0.1 for shape in shapes)
        for shapes in (
            ((4, 1, 4, 4), (4,), (1,), (1,), (1,), (1,)),  # grey
            ((7, 3, 4, 4), (7,), (3,), (3,), (3,), (3,)),
        )
    ]
    right = mistakes.joined(mistakes.renormalised)
    compare(_layer_of(answer), right, inputs, mistakes.RENORMALISED)
    compare(_layer_of(answer), right, others, mistakes.RENORMALISED)
    return (
        f"Right for {len(inputs) + len(others)} projections of one to four channels: the tokens "
        f"stay the same."
    )


# ---- 11.4 ----------------------------------------------------------------------------------------


def _parameter_names(depth: int, cls: bool = True) -> list[str]:
    """The names of a ViT's parameters, in their order."""
    both = ("weight", "bias")
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    names = ["cls_token", "pos_embed"] if cls else []
    names += [f"patch_embed.proj.{kind}" for kind in both]
    names += [f"blocks.{i}.{part}.{kind}" for i in range(depth) for part in parts for kind in both]
    return names + [f"{part}.{kind}" for part in ("norm", "head") for kind in both]


@exercise(
    "11.4",
    title="A rate for each layer",
    difficulty=2,
    minutes=12,
    hints=(
        "A name is a path with dots: what is its first part? For a block, what is the second?",
        "Three kinds of first parts: those of the table's three rows. Which power of the decay "
        "does each row have?",
        'Test your function with twelve blocks, and look at "blocks.11.norm1.weight" and at '
        '"norm.weight": a name that begins like another one, and a name that another one holds.',
    ),
)
def my_layer_rates(answer: Any) -> str:
    """Check `my_layer_rates(names, depth, rate, decay) -> {name: rate}`."""

    def in_order(names: list[str], depth: int, rate: float, decay: float) -> Tensor:
        rates = call(answer, names, depth, rate, decay)
        if not isinstance(rates, dict):
            raise Wrong(f"Return a dictionary from names to rates; got {describe(rates)}.")
        missing = [name for name in names if name not in rates]
        extra = [name for name in rates if name not in names]
        if missing or extra:
            fault = f"{missing[0]} has no rate" if missing else f"{extra[0]} is no parameter"
            raise Wrong(f"Every name needs a rate, and nothing else: {fault}.")
        return mistakes.as_tensor(rates, names)

    def right(names: list[str], depth: int, rate: float, decay: float) -> Tensor:
        return mistakes.as_tensor(mistakes.layer_rates(names, depth, rate, decay), names)

    inputs: list[tuple] = [
        (_parameter_names(12), 12, 1e-3, 0.75),
        (_parameter_names(4), 4, 1.0, 0.5),
        (_parameter_names(1, cls=False), 1, 2e-4, 0.9),
        (_parameter_names(24)[::-1], 24, 0.5, 0.65),
        (["head.weight", "pos_embed", "blocks.2.norm1.bias", "norm.bias"], 3, 0.1, 0.3),
        (_parameter_names(6), 6, 1e-3, 1.0),
    ]
    compare(in_order, right, inputs, mistakes.RATES)
    return f"Right for {len(inputs)} networks of one to 24 blocks."


# ---- 11.5 ----------------------------------------------------------------------------------------


class _Theirs(nn.Module):
    """A small model that is called as Hugging Face's are, and remembers how."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(12, classes)
        nn.init.normal_(self.head.weight)

    def forward(
        self, pixel_values: Tensor | None = None, labels: Tensor | None = None
    ) -> SimpleNamespace:
        """Classify images (b, 3, 2, 2)."""
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        logits = self.head(pixel_values.flatten(1))
        loss = _Loss() if labels is None else F.cross_entropy(logits, labels)
        return SimpleNamespace(loss=loss, logits=logits)


class _Loss:
    """What stands for None where no labels were given: any use of it names the cause."""

    def _refuse(self, *_: Any) -> Any:
        raise Wrong(
            "The model was not given the labels, so its loss is None: hand over both parts of the "
            "batch, by name."
        )

    __add__ = __radd__ = __mul__ = __rmul__ = __truediv__ = __float__ = _refuse

    def __getattr__(self, name: str) -> Any:
        self._refuse()


@exercise(
    "11.5",
    title="Measure what was asked",
    difficulty=2,
    minutes=12,
    hints=(
        "A batch is a dictionary whose names are those that the model wants: `model(**batch)` "
        "hands over all of it.",
        "Two lists with two names, one for what the model said and one for what is true; join each "
        "at the end.",
        "The loss of a batch is a mean over its images. What must it be multiplied by before the "
        "batches are added up, and what is the sum divided by?",
    ),
)
def my_test_loop(answer: Any) -> str:
    """Check `my_test_loop(model, batches) -> loss, predictions, labels`."""

    def in_a_row(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
        result = call(answer, model, batches)
        if not isinstance(result, tuple | list) or len(result) != 3:
            raise Wrong(
                f"Return three things: the mean loss, the predicted and the true classes; got "
                f"{describe(result)}."
            )
        loss, predictions, labels = result
        if isinstance(loss, _Loss):
            loss._refuse()
        if isinstance(loss, Tensor) and loss.requires_grad:
            raise Wrong("Gradients are recorded: the loss still holds the graph of every batch.")
        if not isinstance(loss, Real) and not (isinstance(loss, Tensor) and loss.ndim == 0):
            raise Wrong(f"The mean loss is a plain number; got {describe(loss)}.")
        true = torch.cat([batch["labels"] for batch in batches])
        for name, classes in (("predicted", predictions), ("true", labels)):
            try:
                expect_tensor(classes, true)
            except Wrong as wrong:
                raise Wrong(f"The {name} classes of {len(true)} images: {wrong}") from None
        return mistakes.measured(float(loss), predictions, labels)

    inputs = []
    for classes, sizes in ((3, (4, 4, 1)), (5, (7,)), (2, (3, 6, 2, 5)), (4, (2, 2, 2, 1))):
        batches = [
            {"pixel_values": torch.randn(b, 3, 2, 2), "labels": torch.randint(classes, (b,))}
            for b in sizes
        ]
        batches[-1]["pixel_values"] *= 4  # the last batch has another loss than the others
        inputs += [(_Theirs(classes).eval(), batches)]
    compare(in_a_row, mistakes.test_loop, inputs, mistakes.LOOPS)
    return (
        f"Right for {len(inputs)} sets of batches of different sizes: the loss is that of all "
        f"images, and predictions and truth are two things."
    )


# ---- 11.6 ----------------------------------------------------------------------------------------


def _maps(n: int, size: tuple[int, int], classes: tuple[int, ...], right: float) -> tuple:
    """Two maps of the classes named, alike in a share of the pixels."""
    names = torch.tensor(classes)
    weights = torch.arange(1, len(classes) + 1).float() ** 2  # some classes are rare
    true = names[torch.multinomial(weights, n * size[0] * size[1], replacement=True)]
    other = names[torch.randint(len(classes), true.shape)]
    predicted = torch.where(torch.rand(true.shape) < right, true, other)
    return predicted.view(n, *size), true.view(n, *size)


@exercise(
    "11.6",
    title="Mean IoU",
    difficulty=3,
    minutes=15,
    hints=(
        "Throw the pixels marked 255 away first, from both maps. What is left may be one long row.",
        "For one class: a pixel is in the intersection if both maps say so, and in the union if "
        "one of them does. Count both over all images.",
        "A class whose union is 0 occurs nowhere. It must not enter the mean, neither as 0 nor as "
        "1.",
    ),
)
def my_mean_iou(answer: Any) -> str:
    """Check `my_mean_iou(predicted (n, H, W), true (n, H, W), num_classes) -> ()`."""
    inputs: list[tuple] = [
        (*_maps(3, (5, 6), (0, 1, 2), 0.6), 3),
        (*_maps(1, (4, 4), (0, 1), 0.8), 2),
        (*_maps(4, (3, 7), (0, 2, 3), 0.5), 6),  # 1, 4 and 5 occur nowhere
    ]
    uneven_predicted, uneven_true = _maps(3, (6, 6), (0, 1, 2), 0.7)
    uneven_true[0] = 0  # a picture in which two classes are missing
    uneven_true[1, :5] = 2
    inputs += [(uneven_predicted, uneven_true, 3)]
    marked_predicted, marked_true = _maps(2, (6, 5), (0, 1, 2), 0.6)
    marked_true[:, 2:4] = 255
    marked_true[0, 0] = 255
    inputs += [(marked_predicted, marked_true, 3)]
    only_called = torch.where(uneven_predicted == 1, 3, uneven_predicted)
    inputs += [(only_called, uneven_true.clamp(max=1), 4)]  # 2 and 3 are called and nowhere true
    nowhere_but_there = uneven_predicted.clone()
    hidden = uneven_true.clone()
    nowhere_but_there[2, 0] = 4
    hidden[2, 0] = 255  # class 4 is called only where nothing counts
    inputs += [(nowhere_but_there, hidden, 5)]
    inputs += [(uneven_true, uneven_true, 3)]
    compare(answer, mistakes.mean_iou, inputs, mistakes.IOUS)
    return (
        f"Right for {len(inputs)} pairs of maps, with classes that are rare, absent, only called, "
        f"or called only where nothing counts."
    )
