"""Lesson 04: right answers, each another way; wrong ones and the cause that must be named."""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange

# ---- 04.1 ----


def softmax_by_logsumexp(scores):
    return (scores - scores.logsumexp(dim=-1, keepdim=True)).exp()


def softmax_by_rows(scores):
    rows = scores.reshape(-1, scores.shape[-1])
    done = [torch.exp(row - max(row)) / sum(torch.exp(row - max(row))) for row in rows]
    return torch.stack(done).reshape(scores.shape)


def softmax_in_place_on_its_own(scores):
    e = scores - scores.max(-1).values.unsqueeze(-1)
    e = e.exp()
    e = e / e.sum(-1)[..., None]
    return e


def changes_its_scores(scores):
    scores -= scores.amax(dim=-1, keepdim=True)
    return scores.softmax(dim=-1)


def cuts_the_graph(scores):
    return scores.detach().softmax(dim=-1)


def detaches_its_sum(scores):
    exponentials = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True).detach()


# ---- 04.2 and 04.3 ----


def attention_by_einsum(q, k, v):
    scores = einsum(q, k, "... i d, ... j d -> ... i j") * q.size(-1) ** -0.5
    return einsum(scores.softmax(-1), v, "... i j, ... j d -> ... i d")


def attention_by_queries(q, k, v):
    outputs = []
    for i in range(q.shape[-2]):
        scores = (q[..., i : i + 1, :] * k).sum(-1) / math.sqrt(q.shape[-1])
        outputs.append((softmax_by_logsumexp(scores)[..., None] * v).sum(-2))
    return torch.stack(outputs, dim=-2)


def attention_scaled_queries(q, k, v):
    q = q / math.sqrt(q.shape[-1])
    return torch.softmax(q.matmul(k.mT), -1).matmul(v)


def turns_all_axes_round(q, k, v):
    turned = k.T
    return torch.softmax(torch.matmul(q, turned) / q.shape[-1] ** 0.5, -1).matmul(v)


def masked_by_where(q, k, v, allowed):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return torch.where(allowed, scores, float("-inf")).softmax(-1) @ v


def masked_by_addition(q, k, v, allowed):
    bias = torch.zeros(allowed.shape, dtype=q.dtype)
    bias[~allowed] = -1e9
    return ((q @ k.mT) / q.shape[-1] ** 0.5 + bias).softmax(-1) @ v


def masked_by_queries(q, k, v, allowed):
    rows = []
    for i, keys in enumerate(allowed):
        scores = q[..., i : i + 1, :] @ k[..., keys, :].mT / q.shape[-1] ** 0.5
        rows.append(scores.softmax(-1) @ v[..., keys, :])
    return torch.cat(rows, dim=-2)


def w(q, k, scale=None):
    return (q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1)


def fills_its_mask(q, k, v, allowed):
    allowed[:] = True
    return w(q, k) @ v


# ---- 04.4 and 04.5 ----


def split_by_einops(x, h):
    return rearrange(x, "b t (h d) -> b h t d", h=h)


def split_by_slices(x, h):
    d = x.shape[-1] // h
    return torch.stack([x[:, :, i * d : (i + 1) * d] for i in range(h)], dim=1)


def head_after_head(x, wqkv, bqkv, wo, bo, h):
    q, k, v = F.linear(x, wqkv, bqkv).chunk(3, dim=-1)
    d = x.shape[-1] // h
    outs = []
    for i in range(h):
        part = slice(i * d, (i + 1) * d)
        outs.append(attention_by_einsum(q[..., part], k[..., part], v[..., part]))
    return torch.cat(outs, dim=-1) @ wo.T + bo


def three_layers(x, wqkv, bqkv, wo, bo, h):
    q, k, v = (
        (x @ m.T + b).unflatten(-1, (h, -1)).transpose(1, 2)
        for m, b in zip(wqkv.chunk(3), bqkv.chunk(3), strict=True)
    )
    out = F.scaled_dot_product_attention(q, k, v)
    return F.linear(out.transpose(1, 2).flatten(2), wo, bo)


def multi(split=split_by_einops, scale=None, join="b h t d -> b t (h d)", order=(0, 1, 2), dim=-1):
    def attention(x, wqkv, bqkv, wo, bo, h):
        parts = F.linear(x, wqkv, bqkv).chunk(3, dim=-1)
        q, k, v = (split(parts[i], h) for i in order)
        factor = q.shape[-1] ** -0.5 if scale is None else scale(x.shape[-1], q.shape[-1])
        out = (q @ k.mT * factor).softmax(dim) @ v
        out = out.reshape(x.shape) if join is None else rearrange(out, join)
        return F.linear(out, wo, bo)

    return attention


def viewed(x, h):
    return x.reshape(x.shape[0], h, x.shape[1], x.shape[2] // h)


def dealt(x, h):
    return rearrange(x, "b t (d h) -> b h t d", h=h)


def three_inside(x, wqkv, bqkv, wo, bo, h):
    q, k, v = rearrange(F.linear(x, wqkv, bqkv), "b t (h three d) -> three b h t d", three=3, h=h)
    return F.linear(rearrange(w(q, k) @ v, "b h t d -> b t (h d)"), wo, bo)


def over_the_batch(x, wqkv, bqkv, wo, bo, h):  # sequence-first code fed a batch-first tensor
    layer = torch.nn.MultiheadAttention(x.shape[-1], h, dtype=x.dtype)
    layer.in_proj_weight.data, layer.in_proj_bias.data = wqkv, bqkv
    layer.out_proj.weight.data, layer.out_proj.bias.data = wo, bo
    return layer(x, x, x)[0]


def over_the_heads(x, wqkv, bqkv, wo, bo, h):
    q, k, v = rearrange(F.linear(x, wqkv, bqkv), "b t (three h d) -> three b t h d", three=3, h=h)
    return F.linear((w(q, k) @ v).flatten(2), wo, bo)


def scaled_late(x, wqkv, bqkv, wo, bo, h):
    q, k, v = (split_by_einops(p, h) for p in F.linear(x, wqkv, bqkv).chunk(3, -1))
    out = w(q, k, 1) / q.shape[-1] ** 0.5 @ v
    return F.linear(rearrange(out, "b h t d -> b t (h d)"), wo, bo)


# ---- 04.6 ----


def looks_by_coordinates(grid, step):
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1]))
    wanted = places + torch.tensor(step)
    found = (wanted[:, None] == places[None]).all(-1)
    found[~found.any(-1)] = torch.eye(len(places), dtype=torch.bool)[~found.any(-1)]
    return found.float()


def looks_by_numbers(grid, step):
    numbers = torch.arange(grid[0] * grid[1]).view(grid)
    table = torch.zeros(numbers.numel(), numbers.numel())
    for r in range(grid[0]):
        for c in range(grid[1]):
            y, x = r + step[0], c + step[1]
            if y < 0 or x < 0 or y >= grid[0] or x >= grid[1]:
                y, x = r, c
            table[numbers[r, c], numbers[y, x]] = 1
    return table


def looks(move):
    def table(grid, step):
        rows, columns = grid
        out = torch.zeros(rows * columns, rows * columns)
        for r in range(rows):
            for c in range(columns):
                y, x = move(r, c, step, rows, columns)
                if 0 <= y < rows and 0 <= x < columns:
                    out[r * columns + c, y * columns + x] = 1
        return out

    return table


def along_the_sequence(grid, step):
    count = grid[0] * grid[1]
    out = torch.zeros(count, count)
    for i in range(count):
        j = i + step[0] * grid[1] + step[1]
        out[i, j if 0 <= j < count else i] = 1
    return out


RIGHT = {
    "04.1": [softmax_by_logsumexp, softmax_by_rows, softmax_in_place_on_its_own],
    "04.2": [attention_by_einsum, attention_by_queries, attention_scaled_queries],
    "04.3": [masked_by_where, masked_by_addition, masked_by_queries],
    "04.4": [split_by_einops, split_by_slices],
    "04.5": [head_after_head, three_layers, multi()],
    "04.6": [looks_by_coordinates, looks_by_numbers],
}

WRONG = {
    "04.1": {
        "no subtraction": (lambda s: s.exp() / s.exp().sum(-1, keepdim=True), "NaN for large"),
        "columns": (lambda s: F.softmax(s, dim=0), "column adds up to 1"),
        "dim 1": (lambda s: F.softmax(s, dim=min(1, s.ndim - 1)), "last one for a table only"),
        "dim -2": (lambda s: F.softmax(s, dim=-2 if s.ndim > 1 else 0), "axis before the last"),
        "columns, unstable": (
            lambda s: s.exp() / s.exp().sum(0, keepdim=True),
            "wrong axis, and NaN",
        ),
        "one sum": (lambda s: s.exp() / s.exp().sum(), "its own sum"),
        "one softmax": (lambda s: s.flatten().softmax(0).view_as(s), "All numbers together add"),
        "one maximum": (
            lambda s: (s - s.max()).exp() / (s - s.max()).exp().sum(-1, keepdim=True),
            "largest of all scores",
        ),
        "mean": (
            lambda s: (
                (s - s.mean(-1, keepdim=True)).exp()
                / (s - s.mean(-1, keepdim=True)).exp().sum(-1, keepdim=True)
            ),
            "subtract the mean",
        ),
        "minimum": (
            lambda s: (
                (s - s.amin(-1, keepdim=True)).exp()
                / (s - s.amin(-1, keepdim=True)).exp().sum(-1, keepdim=True)
            ),
            "subtract the smallest",
        ),
        "cut off": (
            lambda s: s.clamp(-80, 80).exp() / s.clamp(-80, 80).exp().sum(-1, keepdim=True),
            "cutting changes",
        ),
        "no sum": (lambda s: (s - s.amax(-1, keepdim=True)).exp(), "nothing makes them add up"),
        "no exponential": (lambda s: s / s.sum(-1, keepdim=True), "where is the exponential"),
        "logarithms": (lambda s: s.log_softmax(-1), "logarithms"),
        "in place": (changes_its_scores, "changes `scores`"),
        "detached": (cuts_the_graph, "no gradient reaches `scores`"),
        "half detached": (detaches_its_sum, "the gradient of `scores` is not: on one of its ways"),
    },
    "04.2": {
        "no scale": (lambda q, k, v: w(q, k, 1) @ v, "Nothing scales"),
        "by d": (lambda q, k, v: w(q, k, 1 / q.shape[-1]) @ v, "divide the scores by d"),
        "times": (lambda q, k, v: w(q, k, q.shape[-1] ** 0.5) @ v, "You multiply"),
        "by T": (lambda q, k, v: w(q, k, q.shape[-2] ** -0.5) @ v, "number of tokens T"),
        "late": (lambda q, k, v: w(q, k, 1) / q.shape[-1] ** 0.5 @ v, "scale after the softmax"),
        "swapped": (lambda q, k, v: w(k, q) @ v, "q and k are swapped"),
        "columns": (
            lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-2) @ v,
            "columns do: softmax over the wrong axis",
        ),
        "dim 0": (lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(0) @ v, "first axis"),
        "dim 1": (lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(1) @ v, "no batch"),
        "no softmax": (lambda q, k, v: q @ k.mT / q.shape[-1] ** 0.5 @ v, "There is no softmax"),
        "keys": (lambda q, k, v: w(q, k) @ k, "blended with the keys"),
        "weights": (lambda q, k, v: w(q, k), "These are the weights"),
        "on its side": (lambda q, k, v: w(q, k).mT @ v, "on its side"),
        "unstable": (
            lambda q, k, v: (lambda e: e / e.sum(-1, keepdim=True) @ v)(
                (q @ k.mT / q.shape[-1] ** 0.5).exp()
            ),
            "NaN for large",
        ),
        "a table only": (turns_all_axes_round, "stopped"),
        "detached": (
            lambda q, k, v: w(q, k).detach() @ v.detach(),
            "no gradient reaches `q`, `k`, `v`",
        ),
        "one detached": (lambda q, k, v: w(q, k.detach()) @ v, "no gradient reaches `k`:"),
    },
    "04.3": {
        "0 after": (lambda q, k, v, a: w(q, k).masked_fill(~a, 0) @ v, "0 after the softmax"),
        "inverted": (
            lambda q, k, v, a: (
                (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(a, -torch.inf).softmax(-1) @ v
            ),
            "inverted",
        ),
        "ignored": (lambda q, k, v, a: w(q, k) @ v, "mask does nothing"),
        "0 before": (
            lambda q, k, v, a: (q @ k.mT / q.shape[-1] ** 0.5 * a).softmax(-1) @ v,
            "score of 0 forbids nothing",
        ),
        "on its side": (
            lambda q, k, v, a: (
                (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~a.T, -torch.inf).softmax(-1) @ v
            ),
            "on its side",
        ),
        "renormalised": (
            lambda q, k, v, a: w(q, k) * a / (w(q, k) * a).sum(-1, keepdim=True) @ v,
            "On paper this is right",
        ),
        "added": (
            lambda q, k, v, a: (q @ k.mT / q.shape[-1] ** 0.5 + a).softmax(-1) @ v,
            "numbers 0 and 1",
        ),
        "0 times infinity": (
            lambda q, k, v, a: (q @ k.mT / q.shape[-1] ** 0.5 + (~a) * -torch.inf).softmax(-1) @ v,
            "0 times infinity",
        ),
        "no scale": (
            lambda q, k, v, a: (q @ k.mT).masked_fill(~a, -torch.inf).softmax(-1) @ v,
            "scale is missing",
        ),
        "in place": (fills_its_mask, "changes `allowed`"),
    },
    "04.4": {
        "view": (viewed, "a reshape alone moves nothing"),
        "not swapped": (lambda x, h: x.reshape(*x.shape[:2], h, -1), "heads must come before"),
        "dealt": (dealt, "dealt out in turn"),
        "d before T": (
            lambda x, h: rearrange(x, "b t (h d) -> b h d t", h=h),
            "last two axes are swapped",
        ),
        "heads first": (
            lambda x, h: rearrange(x, "b t (h d) -> h b t d", h=h),
            "Heads in front of the batch",
        ),
        "a list": (lambda x, h: x.chunk(h, dim=-1), "Expected a tensor"),
    },
    "04.5": {
        "view": (multi(split=viewed), "split by a reshape alone"),
        "join": (multi(join=None), "joined by a reshape alone"),
        "view and join": (multi(split=viewed, join=None), "joined the same way"),
        "by D": (multi(scale=lambda width, d: width**-0.5), "square root of D"),
        "no scale": (multi(scale=lambda width, d: 1), "Nothing scales"),
        "by d": (multi(scale=lambda width, d: 1 / d), "You divide by d:"),
        "late": (scaled_late, "scale after the softmax"),
        "columns": (multi(dim=-2), "Columns add up to 1"),
        "over heads": (multi(dim=1), "axis of the heads: it belongs along the keys"),
        "q and k": (multi(order=(1, 0, 2)), "q and k are swapped"),
        "k and v": (multi(order=(0, 2, 1)), "yours is another"),
        "v k q": (multi(order=(2, 1, 0)), "values, keys, queries"),
        "three inside": (three_inside, "head by head"),
        "dealt": (multi(split=dealt, join="b h t d -> b t (d h)"), "dealt out to the heads"),
        "joined in turn": (multi(join="b h t d -> b t (d h)"), "joined as"),
        "over the batch": (over_the_batch, "over the batch"),
        "between heads": (over_the_heads, "over the heads: the axes"),
        "no proj": (
            lambda x, a, b, c, d, h: three_layers(
                x, a, b, torch.eye(x.shape[-1], dtype=x.dtype), 0 * d, h
            ),
            "last linear layer is missing",
        ),
        "proj on its side": (
            lambda x, a, b, c, d, h: three_layers(x, a, b, c.T, d, h),
            "on its side",
        ),
        "no proj bias": (lambda x, a, b, c, d, h: three_layers(x, a, b, c, 0 * d, h), "proj_bias"),
        "no qkv bias": (lambda x, a, b, c, d, h: three_layers(x, a, 0 * b, c, d, h), "qkv_bias"),
        "one head": (lambda x, a, b, c, d, h: three_layers(x, a, b, c, d, 1), "only one head"),
        "detached": (lambda *given: three_layers(*given).detach(), "no gradient reaches"),
    },
    "04.6": {
        "in the sequence": (along_the_sequence, "step in the sequence"),
        "round the edge": (
            looks(lambda r, c, s, rows, cols: ((r + s[0]) % rows, (c + s[1]) % cols)),
            "round the edge",
        ),
        "nowhere": (looks(lambda r, c, s, rows, cols: (r + s[0], c + s[1])), "looks at nothing"),
        "at the border": (
            looks(
                lambda r, c, s, rows, cols: (
                    min(max(r + s[0], 0), rows - 1),
                    min(max(c + s[1], 0), cols - 1),
                )
            ),
            "stop at the border",
        ),
        "opposite": (lambda g, s: looks_by_numbers(g, (-s[0], -s[1])), "opposite way"),
        "on its side": (lambda g, s: looks_by_numbers(g, s).T, "on its side"),
        "right, down": (lambda g, s: looks_by_numbers(g, s[::-1]), "the row first"),
        "grid swapped": (lambda g, s: looks_by_numbers(g[::-1], s), "grid are swapped"),
        "whole numbers": (lambda g, s: looks_by_numbers(g, s).long(), "numbers of type"),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "04.1": ("amax", "keepdim", "logsumexp", ".exp("),
    "04.2": ("transpose(", ".mT", "q @ k", "@ v", "softmax(dim=-1)"),
    "04.3": ("masked_fill", "torch.where", "-inf", "~allowed"),
    "04.4": ("transpose(", "chunk", "rearrange(", "b t (h d) -> b h t d"),
    "04.5": ("chunk", "F.linear", "transpose(", "rearrange(", "b h t d -> b t (h d)"),
    "04.6": ("divmod", "//", "%", "columns +", "eye"),
}
