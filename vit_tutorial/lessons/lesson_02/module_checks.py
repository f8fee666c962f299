"""Lesson 02: what a learner's module must have, return and learn; PyTorch's errors, explained."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial.lessons.exercises import Wrong, add_cause, call, expect_tensor
from vit_tutorial.lessons.lesson_02 import mistakes

# A part of PyTorch's message -> what is behind it, in this lesson.
TORCH_ERRORS = {
    "must have same number of dimensions": "The tensors you join have different numbers of axes: "
    "tokens are (B, N, D), so CLS must be (B, 1, D), with the middle axis.",
    "Sizes of tensors must match except in dimension 1": "`torch.cat` repeats nothing: one CLS "
    "token does not fit a batch of several images. It must be (B, 1, D) first.",
    "Sizes of tensors must match except in dimension 0": "You join along axis 0, the images. The "
    "tokens are axis 1.",
    "Sizes of tensors must match except in dimension 2": "You join along axis 2, the numbers of a "
    "token. The tokens are axis 1.",
    "The expanded size of the tensor": "`expand` can only repeat axes of length 1, and -1 keeps an "
    "axis that is there already: count the axes of what you expand.",
    "Given normalized_shape": "The norm wants D numbers in the last axis, and there stand the "
    "columns of the grid: move the D numbers of a token to the end first.",
}


def with_explained_errors(answer: Callable) -> Callable:
    """Add in the lesson's words what is behind it when PyTorch says that shapes do not fit."""

    @wraps(answer)
    def explained(*arguments: Any) -> Any:
        try:
            return answer(*arguments)
        except RuntimeError as error:
            for part, cause in TORCH_ERRORS.items():
                if part in str(error):
                    add_cause(error, cause)
            raise

    return explained


def require_parameters(model: nn.Module, p: int, c: int, d: int) -> None:
    """See that a module has the parameters of a patch embedding and of CLS, and no others.

    Raises:
        Wrong: it has not; the message says which and why.
    """
    parameters = dict(model.named_parameters())
    names = ", ".join(f"{name} {tuple(value.shape)}" for name, value in parameters.items())
    if "cls_token" not in parameters:
        kept = getattr(model, "cls_token", None)
        if isinstance(kept, list | tuple | dict):
            raise Wrong(
                "`cls_token` is inside a Python list, tuple or dictionary, where PyTorch does not "
                "look for parameters. Put it directly on `self`."
            )
        if "cls_token" in dict(model.named_buffers()):
            raise Wrong("`cls_token` is a buffer: saved, but not learned. It must be a parameter.")
        if isinstance(kept, Tensor):
            raise Wrong(
                "`cls_token` is a plain tensor, not a parameter: it would be neither trained nor "
                "saved. Either it was never one, or something done after `nn.Parameter(...)`, as "
                "`.to(...)` or `* 0.02`, made a new tensor of it."
            )
        raise Wrong(
            f"No parameter is called cls_token; PyTorch finds {names or 'none at all'}. It is "
            f"found when `__init__` puts an `nn.Parameter` on `self` under that name."
        )
    shape = tuple(parameters["cls_token"].shape)
    if shape != (1, 1, d):
        if len(shape) == 3 and shape[1:] == (1, d):
            raise Wrong(
                f"`cls_token` has the shape {shape}: {shape[0]} CLS tokens, one for each *place* "
                f"in a batch. There is one for all images: (1, 1, {d})."
            )
        raise Wrong(f"Expected a `cls_token` of shape (1, 1, {d}), got {shape}.")
    count = sum(value.numel() for value in parameters.values())
    expected = d * c * p * p + d + d
    if count != expected:
        raise Wrong(
            f"A patch embedding and a CLS token have {expected} parameters for these sizes, yours "
            f"have {count}: {names}."
        )


def require_tokens(model: nn.Module, c: int, height: int, width: int) -> None:
    """See that a module returns CLS and the patches, for batches of any size.

    Raises:
        Wrong: it does not; the message says what it returns instead.
    """
    forward = with_explained_errors(model.forward)
    weight = next(x for name, x in model.named_parameters() if x.ndim in (2, 4))
    bias = next(x for name, x in model.named_parameters() if x.ndim == 1)
    cls = dict(model.named_parameters())["cls_token"]
    before = set(dict(model.named_parameters()))
    for b in (2, 1, 5):
        images = torch.randn(b, c, height, width)
        tokens = call(forward, images)
        if extra := set(dict(model.named_parameters())) - before:
            raise Wrong(
                f"`forward` makes new parameters ({', '.join(extra)}): they start afresh for every "
                f"batch, and the optimiser never heard of them. Make them in `__init__`."
            )
        p = weight.shape[-1] if weight.ndim == 4 else int((weight.shape[1] / c) ** 0.5)
        patches = F.unfold(images, p, stride=p).mT @ weight.flatten(1).T + bias
        right = mistakes.with_cls(patches, cls)
        expect_tensor(tokens, right)
        if torch.allclose(tokens, right, atol=1e-4):
            continue
        for cause, wrong in mistakes.CLS_PLACES.items():
            faulty = wrong(patches, cls)
            if faulty.shape == tokens.shape and torch.allclose(tokens, faulty, atol=1e-4):
                raise Wrong(cause)
        if not torch.allclose(tokens[:, 0], cls[0].expand(b, -1), atol=1e-4):
            raise Wrong("Token 0 is not `cls_token`, or not for every image of the batch.")
        raise Wrong(
            "CLS is in its place, but the tokens of the patches are wrong: are they in the right "
            "order, row by row, and are the D numbers of a token in the last axis?"
        )


def require_training(model: nn.Module, c: int, height: int, width: int) -> None:
    """See that gradients reach every parameter, and that all of it can be moved.

    Raises:
        Wrong: one gets none, or something is left behind.
    """
    images = torch.randn(3, c, height, width)
    model(images).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            raise Wrong(f"No gradient reaches `{name}`: it would never be learned.")
    try:
        moved = model.double()(images.double())
    except RuntimeError as error:
        add_cause(
            error,
            "This is after `.double()`, which moves all parameters to float64: something was left "
            "behind.",
        )
        raise
    if moved.dtype != torch.float64:
        raise Wrong("After `.double()` the tokens are not float64: something was left behind.")
