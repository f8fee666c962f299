"""Lesson 02: right answers, each another way; wrong ones and the cause that must be named."""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import nn

from vit_tutorial import patchify

# ---- 02.1: how many parameters ----


def count_by_formula(height, width, patch_size, in_chans, dim):
    return dim * (in_chans * patch_size**2 + 1)


def count_by_layer(height, width, patch_size, in_chans, dim):
    layer = nn.Linear(in_chans * patch_size * patch_size, dim, device="meta")
    return sum(parameter.numel() for parameter in layer.parameters())


def count_by_tensors(height, width, patch_size, in_chans, dim):
    return torch.tensor([dim, in_chans, patch_size, patch_size]).prod() + dim


# ---- 02.2: patch embedding ----


def embed_by_linear(images, weight, bias):
    return F.linear(patchify(images, weight.shape[2]), weight.flatten(1), bias)


def embed_by_einsum(images, weight, bias):
    p = weight.shape[-1]
    blocks = rearrange(images, "b c (r p) (s q) -> b (r s) c p q", p=p, q=p)
    return einsum(blocks, weight, "b n c p q, d c p q -> b n d") + bias


def embed_by_loops(images, weight, bias):
    p, tokens = weight.shape[-1], []
    for top in range(0, images.shape[2], p):
        for left in range(0, images.shape[3], p):
            patch = images[:, None, :, top : top + p, left : left + p]
            tokens.append((patch * weight).sum(dim=(2, 3, 4)) + bias)
    return torch.stack(tokens, dim=1)


def embed_by_unfold(images, weight, bias):
    p = weight.shape[-1]
    return (weight.flatten(1) @ F.unfold(images, p, stride=p)).mT + bias


def embed_by_conv(images, weight, bias):
    return F.conv2d(images, weight, bias, stride=weight.shape[-1]).flatten(2).mT


def embed_by_module(images, weight, bias):
    layer = nn.Conv2d(images.shape[1], len(bias), weight.shape[-1], stride=weight.shape[-1])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer.to(images.dtype)(images).flatten(2).mT


def embed_plain(images, weight, bias):
    return images.reshape(len(images), -1, weight[0].numel()) @ weight.flatten(1).T + bias


def embed_reshaped_weight(images, weight, bias):
    return patchify(images, weight.shape[-1]) @ weight.reshape(-1, len(weight)) + bias


def embed_pixels_first(images, weight, bias):
    p = weight.shape[-1]
    patches = rearrange(images, "b c (r p) (s q) -> b (r s) (p q c)", p=p, q=p)
    return patches @ weight.flatten(1).T + bias


def embed_detached(images, weight, bias):
    return embed_by_linear(images, weight.detach(), bias)


def embed_frozen(images, weight, bias):
    return torch.tensor(embed_by_linear(images, weight, bias).tolist(), dtype=images.dtype)


def embed_fixed_size(images, weight, bias):
    patches = patchify(images, 4)
    return patches @ weight.flatten(1).T + bias


def embed_in_place(images, weight, bias):
    weight.data *= 2
    return embed_by_linear(images, weight, bias)


# ---- 02.3: a kernel from a linear layer ----


def kernel_by_reshape(weight, patch_size):
    split = weight.reshape(len(weight), patch_size, patch_size, -1)
    return split.permute(0, 3, 1, 2)


def kernel_by_stride(weight, patch_size):
    channels = weight.shape[1] // patch_size**2
    planes = [weight[:, c::channels] for c in range(channels)]
    return torch.stack([p.reshape(-1, patch_size, patch_size) for p in planes], dim=1)


def kernel_by_einops(weight, patch_size):
    return rearrange(weight, "d (p q c) -> d c p q", p=patch_size, q=patch_size)


def kernel(text):
    return lambda weight, p: rearrange(weight, text, p=p, q=p)


def kernel_plain(weight, p):
    return weight.reshape(weight.shape[0], -1, p, p)


def kernel_three_channels(weight, p):
    split = weight.reshape(-1, p, p, 3)
    return split.permute(0, 3, 1, 2)


# ---- 02.4: tokens, then the norm ----


def norm_by_layer(maps):
    tokens = rearrange(maps, "b d r s -> b (r s) d")
    return nn.LayerNorm(tokens.shape[2], eps=1e-6, dtype=maps.dtype)(tokens)


def norm_by_hand(maps):
    tokens = maps.flatten(2).transpose(1, 2)
    middle = tokens - tokens.mean(dim=-1, keepdim=True)
    return middle / (middle.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def norm_before_moving(maps):
    variance, mean = torch.var_mean(maps, dim=1, keepdim=True, correction=0)
    return ((maps - mean) * torch.rsqrt(variance + 1e-6)).flatten(2).mT


def norm_of_columns(maps):
    return F.layer_norm(maps, maps.shape[-1:], eps=1e-6).flatten(2).mT


def norm_with_d_of_columns(maps):
    return F.layer_norm(maps, (maps.shape[1],), eps=1e-6).flatten(2).mT


def norm_of_a_reshape(maps):
    return F.layer_norm(maps.reshape(len(maps), -1, maps.shape[1]), (maps.shape[1],), eps=1e-6)


def norm_of_everything(maps):
    return F.layer_norm(maps, maps.shape[1:], eps=1e-6).flatten(2).mT


def norm_of_filters(maps):
    return F.instance_norm(maps, eps=1e-6).flatten(2).mT


def norm_of_the_batch(maps):
    return F.batch_norm(maps, None, None, training=True, eps=1e-6).flatten(2).mT


def norm_unbiased(maps):
    x = maps.flatten(2).mT
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()


def norm_unbiased_without_epsilon(maps):
    tokens = maps.flatten(2).mT
    return (tokens - tokens.mean(-1, keepdim=True)) / tokens.std(-1, keepdim=True)


def norm_default_epsilon(maps):
    return F.layer_norm(maps.flatten(2).mT, (maps.shape[1],))


# ---- 02.5: CLS in front ----


def cls_by_repeat(tokens, cls_token):
    return torch.cat((cls_token.repeat(tokens.shape[0], 1, 1), tokens), 1)


def cls_by_einops(tokens, cls_token):
    first = repeat(cls_token, "1 1 d -> b 1 d", b=len(tokens))
    return torch.hstack([first, tokens])


def cls_by_padding(tokens, cls_token):
    wide = F.pad(tokens, (0, 0, 1, 0))
    first = F.pad(cls_token, (0, 0, 0, tokens.shape[1]))
    return wide + first


def cls_at_the_end(tokens, cls_token):
    return torch.cat([tokens, cls_token.expand(len(tokens), -1, -1)], dim=1)


def cls_not_expanded(tokens, cls_token):
    return torch.cat([cls_token, tokens], dim=1)


def cls_two_axes(tokens, cls_token):
    return torch.cat([cls_token[0].expand(len(tokens), -1), tokens], dim=1)


def cls_one_axis(tokens, cls_token):
    return torch.cat([cls_token[0, 0].expand(len(tokens), -1, -1), tokens], dim=1)


def cls_along_the_batch(tokens, cls_token):
    return torch.cat([cls_token, tokens], dim=0)


def cls_replaces(tokens, cls_token):
    changed = tokens.clone()
    changed[:, 0] = cls_token[0, 0]
    return torch.cat([changed], dim=1)


def cls_replaces_the_first(tokens, cls_token):
    return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens[:, 1:]], dim=1)


def cls_of_zeros(tokens, cls_token):
    return torch.cat([torch.zeros_like(tokens[:, :1]), tokens], dim=1)


def cls_is_the_mean(tokens, cls_token):
    return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)


def cls_detached(tokens, cls_token):
    return torch.cat([cls_token.detach().expand(len(tokens), -1, -1), tokens], dim=1)


def cls_sized_by_a_batch(tokens, cls_token):
    return torch.cat([cls_token.expand(2, -1, -1), tokens], dim=1)


# ---- 02.6: a module ----


class ByConvolution(nn.Module):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)

    def tokens(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)

    def forward(self, images):
        tokens = self.tokens(images)
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)


class ByLinear(nn.Module):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__()
        self.patch_size = patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.embed = nn.Linear(in_chans * patch_size**2, dim)

    def forward(self, images):
        tokens = self.embed(patchify(images, self.patch_size))
        return torch.cat([self.cls_token.repeat(len(tokens), 1, 1), tokens], dim=1)


class Nested(nn.Module):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__()
        convolution = nn.Conv2d(in_chans, dim, patch_size, patch_size)
        self.patches = nn.Sequential(convolution, nn.Flatten(2))
        self.register_parameter("cls_token", nn.Parameter(torch.ones(1, 1, dim)))

    def forward(self, images):
        tokens = self.patches(images).mT
        return torch.hstack((self.cls_token.expand_as(tokens[:, :1]), tokens))


class Scaled(ByConvolution):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__(patch_size, in_chans, dim)
        del self.cls_token
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim)) * 0.02


class Moved(ByConvolution):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__(patch_size, in_chans, dim)
        del self.cls_token
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)).to(torch.float64).to(torch.float32)


class Listed(ByConvolution):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__(patch_size, in_chans, dim)
        del self.cls_token
        self.cls_token = [nn.Parameter(torch.zeros(1, 1, dim))]

    def forward(self, images):
        tokens = self.tokens(images)
        return torch.cat([self.cls_token[0].expand(len(tokens), -1, -1), tokens], dim=1)


class Buffered(ByConvolution):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__(patch_size, in_chans, dim)
        del self.cls_token
        self.register_buffer("cls_token", torch.zeros(1, 1, dim))


class OtherName(ByConvolution):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__(patch_size, in_chans, dim)
        self.cls = self.cls_token
        del self.cls_token


class SizedByBatch(ByConvolution):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__(patch_size, in_chans, dim)
        self.cls_token = nn.Parameter(torch.zeros(32, 1, dim))


class TwoAxes(ByConvolution):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__(patch_size, in_chans, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, dim))


class WithPositions(ByConvolution):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__(patch_size, in_chans, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, 7, dim))


class MadeInForward(ByConvolution):
    def forward(self, images):
        tokens = self.tokens(images)
        self.another = nn.Parameter(torch.zeros(len(tokens), 1, tokens.shape[2]))
        return torch.cat([self.another, tokens], dim=1)


class AtTheEnd(ByConvolution):
    def forward(self, images):
        tokens = self.tokens(images)
        return torch.cat([tokens, self.cls_token.expand(len(tokens), -1, -1)], dim=1)


class NoBatch(ByConvolution):
    def forward(self, images):
        return torch.cat([self.cls_token, self.tokens(images)], dim=1)


class Scrambled(ByConvolution):
    def forward(self, images):
        maps = self.proj(images)
        tokens = maps.reshape(len(maps), -1, maps.shape[1])
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)


class WithoutCls(ByConvolution):
    def forward(self, images):
        return self.tokens(images)


class Frozen(ByConvolution):
    def forward(self, images):
        tokens = self.tokens(images)
        return torch.cat([self.cls_token.data.expand(len(tokens), -1, -1), tokens], dim=1)


class KeepsATable(ByConvolution):
    def __init__(self, patch_size, in_chans, dim):
        super().__init__(patch_size, in_chans, dim)
        self.zero = torch.zeros(1, 1, dim)

    def forward(self, images):
        tokens = self.tokens(images)
        first = F.linear(self.zero, torch.eye(self.zero.shape[-1])) + self.cls_token
        tokens = torch.bmm(tokens, torch.eye(tokens.shape[2]).expand(len(tokens), -1, -1))
        return torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)


# ---- 02.7: the mean of some ----


def mean_by_where(tokens, keep):
    kept = torch.where(keep.unsqueeze(-1), tokens, torch.zeros_like(tokens))
    return kept.sum(dim=1) / keep.sum(dim=1, keepdim=True)


def mean_by_loop(tokens, keep):
    return torch.stack([tokens[b, keep[b]].mean(dim=0) for b in range(len(tokens))])


def mean_by_nanmean(tokens, keep):
    return tokens.masked_fill(~keep[:, :, None], float("nan")).nanmean(dim=1)


def mean_times_mask(tokens, keep):
    return (tokens * keep[:, :, None]).sum(1) / keep.sum(1)[:, None]


def zeroed(tokens, keep):
    return tokens.masked_fill(~keep[:, :, None], 0)


RIGHT = {
    "02.1": [count_by_formula, count_by_layer, count_by_tensors],
    "02.2": [embed_by_linear, embed_by_einsum, embed_by_loops, embed_by_unfold],
    "02.3": [kernel_by_reshape, kernel_by_stride, kernel_by_einops],
    "02.4": [norm_by_layer, norm_by_hand, norm_before_moving, norm_default_epsilon],
    "02.5": [cls_by_repeat, cls_by_einops, cls_by_padding],
    "02.6": [ByConvolution, ByLinear, Nested],
    "02.7": [mean_by_where, mean_by_loop, mean_by_nanmean],
}

WRONG = {
    "02.1": {
        "no bias": (lambda h, w, p, c, d: d * c * p * p, "biases are missing"),
        "every patch": (
            lambda h, w, p, c, d: (c * p * p + 1) * d * (h // p) * (w // p),
            "once for every patch",
        ),
        "every patch, no bias": (lambda h, w, p, c, d: c * h * w * d, "and the biases are missing"),
        "no channels": (lambda h, w, p, c, d: d * (p * p + 1), "channels are missing"),
        "P once": (lambda h, w, p, c, d: d * (c * p + 1), "pixels wide and P pixels high"),
        "one bias": (lambda h, w, p, c, d: d * c * p * p + 1, "One bias in all"),
        "bias of the patch": (lambda h, w, p, c, d: (d + 1) * c * p * p, "not to those of the pat"),
        "bias per channel": (lambda h, w, p, c, d: d * c * (p * p + 1), "bias for every channel"),
        "tokens": (lambda h, w, p, c, d: d * (h // p) * (w // p), "numbers of the tokens"),
        "whole image": (lambda h, w, p, c, d: d * c * h * w + d, "as large as the image"),
        "something": (lambda h, w, p, c, d: d, r"D = 96 it should be 4,704; got 96, 4,608 too few"),
        "fraction": (lambda h, w, p, c, d: d / 7, "one whole number, got the float"),
        "a pair": (lambda h, w, p, c, d: (d * c * p * p, d), "got a tuple of length 2"),
    },
    "02.2": {
        "no bias": (lambda i, w, b: patchify(i, w.shape[-1]) @ w.flatten(1).T, "bias is missing"),
        "not transposed": (lambda i, w, b: embed_by_linear(i, w, b).mT, r"axes .* are \(B, D, N\)"),
        "plain reshape": (embed_plain, "patches are stripes"),
        "pixels first": (embed_pixels_first, "flattened in different orders: the pixels"),
        "rows and columns": (
            lambda i, w, b: embed_by_linear(i, w.transpose(2, 3), b),
            "rows and columns of pixels are swapped",
        ),
        "down the columns": (
            lambda i, w, b: embed_by_linear(i.transpose(2, 3), w.transpose(2, 3), b),
            "down the columns",
        ),
        "flipped": (lambda i, w, b: embed_by_linear(i, w.flip(2, 3), b), "upside down"),
        "reshaped weight": (embed_reshaped_weight, "does not transpose"),
        "reshaped result": (
            lambda i, w, b: embed_by_linear(i, w, b).mT.reshape(len(i), -1, len(w)),
            "in the wrong tokens",
        ),
        "grey": (
            lambda i, w, b: embed_by_linear(i.sum(1, keepdim=True), w.sum(1, keepdim=True), b),
            "channels were added up",
        ),
        "convolution": (embed_by_conv, "come from a convolution"),
        "detached": (embed_detached, "no gradient reaches `weight`"),
        "frozen": (embed_frozen, "no gradient reaches `images`, `weight`, `bias`"),
        "module": (embed_by_module, "no gradient reaches `weight`"),
        "fixed size": (embed_fixed_size, "stopped with"),
        "in place": (embed_in_place, "changes `weight`"),
    },
    "02.3": {
        "plain": (kernel_plain, "a reshape moved no number"),
        "channels last": (kernel("d (p q c) -> d p q c"), "channels are still last"),
        "rows and columns": (kernel("d (p q c) -> d c q p"), "Rows and columns"),
        "transposed": (kernel("d (p q c) -> c d p q"), "filters and the channels are swapped"),
        "columns first": (kernel("d (c q p) -> d c p q"), "columns of pixels before the rows"),
        "wrong split": (kernel("d (p c q) -> d c p q"), r"into \(row, channel, column\)"),
        "three channels": (kernel_three_channels, "stopped with"),
    },
    "02.4": {
        "columns": (norm_of_columns, "which is a row of the image"),
        "D of columns": (norm_with_d_of_columns, "there stand the columns of the grid"),
        "rows": (lambda m: norm_of_columns(m.mT.contiguous().mT), "which is a row of the image"),
        "down": (
            lambda m: F.layer_norm(m.mT, m.shape[2:3], eps=1e-6).mT.flatten(2).mT,
            "down the columns of the image",
        ),
        "reshape": (norm_of_a_reshape, "in the wrong tokens"),
        "everything": (norm_of_everything, "whole image was normalised"),
        "filters": (norm_of_filters, "answers were normalised over the grid"),
        "batch": (norm_of_the_batch, "batch normalisation"),
        "no norm": (lambda m: m.flatten(2).mT, "not normalised"),
        "mean only": (lambda m: (m - m.mean(1, keepdim=True)).flatten(2).mT, "variance is not 1"),
        "unbiased": (norm_unbiased, "Divided by D - 1"),
        "no epsilon": (norm_unbiased_without_epsilon, "Divided by D - 1"),
        "by columns": (lambda m: norm_by_layer(m.mT), "counted down the columns"),
        "not moved": (lambda m: norm_by_layer(m).mT, r"are \(B, D, N\)"),
    },
    "02.5": {
        "at the end": (cls_at_the_end, "stands at the end"),
        "not expanded": (cls_not_expanded, "one CLS token does not fit a batch"),
        "two axes": (cls_two_axes, "different numbers of axes"),
        "one axis": (cls_one_axis, "can only repeat axes of length 1"),
        "along the batch": (cls_along_the_batch, "along axis 0, the images"),
        "along the width": (
            lambda t, c: torch.cat([c.expand(len(t), -1, -1), t], dim=2),
            "along axis 2",
        ),
        "added": (lambda t, c: t + c, "added CLS to every token"),
        "first replaced": (cls_replaces_the_first, "took the place of the first patch"),
        "in the first's place": (cls_replaces, "took the place of the first patch"),
        "last replaced": (
            lambda t, c: cls_by_repeat(t, c)[:, :-1],
            "took the place of the last patch",
        ),
        "zeros": (cls_of_zeros, "token in front is zero"),
        "mean": (cls_is_the_mean, "mean of the patches"),
        "padded": (
            lambda t, c: F.pad(t, (0, 0, 1, 0)) + F.pad(c, (0, 0, 0, t.shape[1], 0, len(t) - 1)),
            "Only the first image",
        ),
        "detached": (cls_detached, "no gradient reaches `cls_token`"),
        "for two": (cls_sized_by_a_batch, "one CLS token does not fit|stopped with"),
    },
    "02.6": {
        "scaled": (Scaled, "plain tensor, not a parameter"),
        "moved": (Moved, r"as `.to\(...\)`"),
        "in a list": (Listed, "inside a Python list"),
        "buffer": (Buffered, "is a buffer"),
        "other name": (OtherName, "No parameter is called cls_token; PyTorch finds .*cls"),
        "sized by batch": (SizedByBatch, r"32 CLS tokens, one for each \*place\*"),
        "two axes": (TwoAxes, r"of shape \(1, 1, 10\), got \(1, 10\)"),
        "more parameters": (WithPositions, "have 500 parameters for these sizes, yours have 570"),
        "in forward": (MadeInForward, "`forward` makes new parameters"),
        "at the end": (AtTheEnd, "stands at the end"),
        "no batch": (NoBatch, "one CLS token does not fit a batch"),
        "scrambled": (Scrambled, "tokens of the patches are wrong"),
        "without": (WithoutCls, r"shape \(2, 7, 10\), got \(2, 6, 10\)"),
        "frozen": (Frozen, "No gradient reaches `cls_token`"),
        "left behind": (KeepsATable, "something was left behind"),
        "an object": (ByConvolution(4, 3, 8), "Expected the class|changes|got"),
        "a function": (lambda p, c, d: ByConvolution(p, c, d), "Expected the class"),
    },
    "02.7": {
        "all": (lambda t, k: t.mean(1), "`keep` has no effect"),
        "times the mask": (mean_times_mask, "NaN times 0 is NaN"),
        "sum": (lambda t, k: zeroed(t, k).sum(1), "sum of the kept"),
        "by N": (lambda t, k: zeroed(t, k).mean(1), "divide by N"),
        "whole batch": (lambda t, k: zeroed(t, k).sum(1) / k.sum(), "kept in the whole batch"),
        "the others": (lambda t, k: mean_by_where(t, ~k), "should be left out: True means keep"),
        "flat": (lambda t, k: t[k].mean(0).expand(len(t), -1), "got the same mean"),
        "first ones": (
            lambda t, k: torch.stack([a[: b.sum()].mean(0) for a, b in zip(t, k, strict=True)]),
            "first tokens, as many",
        ),
        "one for all": (lambda t, k: t[k].mean(0), r"shape \(2, 4\), got \(4,\)"),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "02.1": ("p**2", "patch_size**2", "in_chans *", "d * c"),
    "02.2": ("flatten(1)", "F.linear", "@ "),
    "02.3": ("-> d c p q", "permute(0, 3"),
    "02.4": ("flatten(2)", "b d r s ->", "eps=1e-6"),
    "02.5": ("expand(len", "repeat(len", "torch.cat(["),
    "02.6": ("torch.zeros(1, 1", "nn.Conv2d(", "expand(len"),
    "02.7": ("masked_fill(~", "keep.sum(1", "keep.sum(dim", "torch.where(keep"),
}
