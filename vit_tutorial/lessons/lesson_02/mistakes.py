"""Lesson 02: the right functions, from the library, and the mistakes that its checks know by name.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# ---- Right ---------------------------------------------------------------------------------------


def convolved(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Embed patches: (B, C, H, W), (D, C, P, P), (D,) -> (B, N, D)."""
    return F.conv2d(images, weight, bias, stride=weight.shape[-1]).flatten(2).transpose(1, 2)


def as_kernel(weight: Tensor, p: int) -> Tensor:
    """Turn rows of (row, column, channel) into kernels: (D, P*P*C) -> (D, C, P, P)."""
    return torch.stack([row.unflatten(0, (p * p, -1)).T.unflatten(1, (p, p)) for row in weight])


def normed(maps: Tensor) -> Tensor:
    """Normalise tokens: (B, D, rows, columns) -> (B, N, D)."""
    tokens = maps.flatten(2).transpose(1, 2)
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def with_cls(tokens: Tensor, cls_token: Tensor) -> Tensor:
    """Put CLS in front: (B, N, D), (1, 1, D) -> (B, N + 1, D)."""
    return torch.stack([torch.vstack([cls_token[0], image]) for image in tokens])


def kept_mean(tokens: Tensor, keep: Tensor) -> Tensor:
    """Average the kept tokens of each image: (B, N, D), bool (B, N) -> (B, D)."""
    return torch.stack([image[kept].mean(dim=0) for image, kept in zip(tokens, keep, strict=True)])


# ---- Wrong ---------------------------------------------------------------------------------------

# 02.1
COUNTS: dict[str, Callable[[int, int, int, int, int], int]] = {
    "The biases are missing: one for each of the D numbers of a token.": (
        lambda h, w, p, c, d: d * c * p * p
    ),
    "You count the weights once for every patch. All patches go through the same layer: however "
    "many there are, its weights are stored once.": (
        lambda h, w, p, c, d: (d * c * p * p + d) * (h // p) * (w // p)
    ),
    "You count the weights once for every patch, and the biases are missing. All patches go "
    "through the same layer: however many there are, its weights are stored once.": (
        lambda h, w, p, c, d: d * c * p * p * (h // p) * (w // p)
    ),
    "The channels are missing: how many numbers has a patch?": lambda h, w, p, c, d: d * p * p + d,
    "A patch is P pixels wide and P pixels high: how many numbers has it?": (
        lambda h, w, p, c, d: d * c * p + d
    ),
    "One bias in all is too few: each of the D numbers of a token has its own.": (
        lambda h, w, p, c, d: d * c * p * p + 1
    ),
    "The bias belongs to the numbers of the token, not to those of the patch.": (
        lambda h, w, p, c, d: d * c * p * p + c * p * p
    ),
    "Each filter has a weight for every number of the patch and one bias. You gave it a bias for "
    "every channel.": lambda h, w, p, c, d: d * c * p * p + d * c,
    "You counted the numbers of the tokens, which the layer computes, not those that it learns.": (
        lambda h, w, p, c, d: d * (h // p) * (w // p)
    ),
    "You count a filter as large as the image. It is as large as one patch.": (
        lambda h, w, p, c, d: d * c * h * w + d
    ),
}


def _embed(
    patches: str = "b c (r p) (s q) -> b (r s) (c p q)", rows: str = "d c p q -> d (c p q)"
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Embed with patches, and filters, flattened as the patterns say."""

    def embed(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        p = weight.shape[-1]
        return F.linear(rearrange(images, patches, p=p, q=p), rearrange(weight, rows), bias)

    return embed


def _plain_reshape(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    patches = images.reshape(len(images), -1, weight[0].numel())
    return patches @ weight.flatten(1).T + bias


def _reshaped_weight(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    p = weight.shape[-1]
    patches = F.unfold(images, p, stride=p).mT
    return patches @ weight.reshape(-1, len(weight)) + bias


def _reshaped_result(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    maps = F.conv2d(images, weight, bias, stride=weight.shape[-1])
    return maps.reshape(len(maps), -1, len(weight))


# 02.2
EMBEDS: dict[str, Callable] = {
    "The bias is missing: each of the D numbers gets its own added.": (
        lambda images, weight, bias: convolved(images, weight, torch.zeros_like(bias))
    ),
    "The axes of the result are (B, D, N): the tokens should be rows, (B, N, D).": (
        lambda images, weight, bias: convolved(images, weight, bias).transpose(1, 2)
    ),
    "The images were reshaped without moving a number, so your patches are stripes. Cut them as in "
    "lesson 01.": _plain_reshape,
    "Patches and filters are flattened in different orders: the pixels of your patches stand "
    "channel by channel for each pixel, those of the filters one channel after the other. The same "
    "number must meet the same pixel.": _embed("b c (r p) (s q) -> b (r s) (p q c)"),
    "Patches and filters are flattened in different orders: rows and columns of pixels are swapped "
    "in one of them.": _embed("b c (r p) (s q) -> b (r s) (c q p)"),
    "The patches are counted down the columns; they are counted along the rows.": (
        _embed("b c (r p) (s q) -> b (s r) (c p q)")
    ),
    "The filters are turned upside down and left to right. That is what a mathematician calls a "
    "convolution; networks use the filter as it is.": (
        lambda images, weight, bias: convolved(images, weight.flip(2, 3), bias)
    ),
    "`reshape` to (C*P*P, D) does not transpose: it cuts the filters up and sets them anew. "
    "Flatten each filter first, then swap the two axes.": _reshaped_weight,
    "The numbers are right, and in the wrong tokens: the filters' axis was in front of the grid, "
    "and a reshape does not move it behind.": _reshaped_result,
    "The channels were added up before the filter was applied. Each channel has weights of its "
    "own.": (
        lambda images, weight, bias: convolved(
            images.sum(1, keepdim=True), weight.sum(1, keepdim=True), bias
        )
    ),
}

# 02.3
KERNELS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "The shape is right, but a reshape moved no number. In a row of `weight` the channels of the "
    "first pixel come first; in a kernel all of channel 0 does.": (
        lambda weight, p: weight.reshape(len(weight), -1, p, p)
    ),
    "The channels are still last: a kernel is (D, C, P, P).": (
        lambda weight, p: weight.reshape(len(weight), p, p, -1)
    ),
    "Rows and columns of pixels are swapped.": (
        lambda weight, p: rearrange(weight, "d (p q c) -> d c q p", p=p, q=p)
    ),
    "The filters and the channels are swapped: the first axis is D.": (
        lambda weight, p: rearrange(weight, "d (p q c) -> c d p q", p=p, q=p)
    ),
    "You read the row as one channel after the other and the columns of pixels before the rows. It "
    "is pixel by pixel, and for each pixel its channels.": (
        lambda weight, p: rearrange(weight, "d (c q p) -> d c p q", p=p, q=p)
    ),
    "You split a row into (row, channel, column). It is (row, column, channel).": (
        lambda weight, p: rearrange(weight, "d (p c q) -> d c p q", p=p, q=p)
    ),
}


def _tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).mT


def _scaled(x: Tensor, dims: tuple[int, ...], correction: int = 0) -> Tensor:
    """Normalise over some dimensions."""
    variance, mean = torch.var_mean(x, dims, correction=correction, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt()


# 02.4
NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "The norm went along the last axis of the convolution's result, which is a row of the image. "
    "The D numbers of a token stand in axis 1 there: move them to the end first.": (
        lambda maps: _tokens(_scaled(maps, (3,)))
    ),
    "The norm went down the columns of the image: axis 2 of the convolution's result. The D "
    "numbers of a token stand in axis 1.": lambda maps: _tokens(_scaled(maps, (2,))),
    "Each filter's answers were normalised over the grid. A token must be normalised by itself, "
    "over its own D numbers.": lambda maps: _tokens(_scaled(maps, (2, 3))),
    "The whole image was normalised at once: all tokens share one mean. Each token has its own.": (
        lambda maps: _tokens(_scaled(maps, (1, 2, 3)))
    ),
    "The norm runs over the batch too: that is batch normalisation. Each token by itself, over its "
    "own D numbers.": lambda maps: _tokens(_scaled(maps, (0, 2, 3))),
    "The numbers are in the wrong tokens: a `reshape` to (B, N, D) does not move the axis of the D "
    "numbers behind the grid.": (
        lambda maps: _scaled(maps.reshape(len(maps), -1, maps.shape[1]), (2,))
    ),
    "The tokens are in order, but not normalised: mean 0, variance 1.": _tokens,
    "The mean is subtracted, but the variance is not 1: divide by its root.": (
        lambda maps: _tokens(maps - maps.mean(1, keepdim=True))
    ),
    "Divided by D - 1, as `torch.var` and `torch.std` do by default. LayerNorm divides by D.": (
        lambda maps: _tokens(_scaled(maps, (1,), correction=1))
    ),
    "The mean and the variance are right, but the tokens are counted down the columns.": (
        lambda maps: _scaled(maps.transpose(2, 3).flatten(2).mT, (2,))
    ),
    "The axes of the result are (B, D, N): the tokens should be rows, (B, N, D).": (
        lambda maps: _scaled(maps.flatten(2), (1,))
    ),
}

# 02.5 and 02.6
CLS_PLACES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "CLS stands at the end. It belongs in front: the classifier reads token 0, and row 0 of the "
    "positions is its own.": lambda tokens, cls: torch.stack(
        [torch.vstack([image, cls[0]]) for image in tokens]
    ),
    "You added CLS to every token. It is a token of its own: there is one more afterwards.": (
        lambda tokens, cls: tokens + cls
    ),
    "CLS took the place of the first patch, which is lost.": (
        lambda tokens, cls: torch.stack([torch.vstack([cls[0], image[1:]]) for image in tokens])
    ),
    "CLS took the place of the last patch: all patches must stay.": (
        lambda tokens, cls: torch.stack([torch.vstack([cls[0], image[:-1]]) for image in tokens])
    ),
    "The token in front is zero. It must be `cls_token`, which the network learns.": (
        lambda tokens, cls: with_cls(tokens, torch.zeros_like(cls))
    ),
    "The token in front is the mean of the patches. CLS knows nothing of the image yet: it is "
    "`cls_token`, the same for every image.": (
        lambda tokens, cls: torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)
    ),
    "Only the first image got a CLS token of its own numbers; the others got zeros.": (
        lambda tokens, cls: torch.stack(
            [torch.vstack([cls[0] * (k == 0), image]) for k, image in enumerate(tokens)]
        )
    ),
}


def _times(tokens: Tensor, keep: Tensor) -> Tensor:
    return tokens * keep[..., None]


# 02.7
MEANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "All tokens are averaged, those that should be left out too: `keep` has no effect.": (
        lambda tokens, keep: tokens.mean(dim=1)
    ),
    "NaN times 0 is NaN: what is left out must not take part at all, not even multiplied by 0.": (
        lambda tokens, keep: _times(tokens, keep).sum(1) / keep.sum(1, keepdim=True)
    ),
    "This is the sum of the kept tokens. The mean divides by how many they are.": (
        lambda tokens, keep: tokens.masked_fill(~keep[..., None], 0).sum(1)
    ),
    "You divide by N, the number of all tokens. Divide by how many were kept.": (
        lambda tokens, keep: tokens.masked_fill(~keep[..., None], 0).mean(1)
    ),
    "You divide by the number of tokens kept in the whole batch. Each image has its own.": (
        lambda tokens, keep: tokens.masked_fill(~keep[..., None], 0).sum(1) / keep.sum()
    ),
    "You average the tokens that should be left out: True means keep.": (
        lambda tokens, keep: (
            tokens.masked_fill(keep[..., None], 0).sum(1) / (~keep).sum(1, keepdim=True)
        )
    ),
    "All images of the batch got the same mean: `tokens[keep]` takes the kept tokens of all images "
    "together.": lambda tokens, keep: tokens[keep].mean(0).expand(len(tokens), -1),
    "You take the first tokens, as many as are kept. Those kept may stand anywhere.": (
        lambda tokens, keep: torch.stack(
            [image[: int(n)].mean(0) for image, n in zip(tokens, keep.sum(1), strict=True)]
        )
    ),
}
