"""Lesson 05: right answers, each another way; wrong ones and the cause that must be named."""

import random

import torch
import torch.nn.functional as F
from torch import nn

# ---- 05.1 ----------------------------------------------------------------------------------------


def norm_by_var_mean(x, weight, bias, eps):
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return torch.addcmul(bias, (x - mean) * torch.rsqrt(variance + eps), weight)


def norm_by_squares(x, weight, bias, eps):
    centred = x - x.sum(-1, keepdim=True) / x.shape[-1]
    spread = ((centred * centred).sum(-1) / x.shape[-1] + eps) ** 0.5
    return centred / spread[..., None] * weight + bias


def norm_in_a_loop(x, weight, bias, eps):
    def one(token):
        mean = sum(token) / len(token)
        variance = sum((entry - mean) ** 2 for entry in token) / len(token)
        return (token - mean) / (variance + eps).sqrt() * weight + bias

    tokens = x.reshape(-1, x.shape[-1])
    return torch.stack([one(token) for token in tokens]).reshape(x.shape)


def norm(axis=-1, correction=0, outside=False, use=lambda d, s, w, b: d / s * w + b):
    def wrong(x, weight, bias, eps):
        deviations = x - x.mean(dim=axis, keepdim=True)
        variance = x.var(dim=axis, keepdim=True, correction=correction)
        spread = variance.sqrt() + eps if outside else torch.sqrt(variance + eps)
        return use(deviations, spread, weight, bias)

    return wrong


def norm_over_tokens(x, weight, bias, eps):
    turned = x.transpose(-1, -2) if x.ndim > 1 else x
    centred = turned - turned.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    result = centred / spread
    return (result.transpose(-1, -2) if x.ndim > 1 else result) * weight + bias


def norm_with_one_mean(x, weight, bias, eps):
    return (x - x.mean()) / (x.var(unbiased=False) + eps).sqrt() * weight + bias


def norm_in_place(x, weight, bias, eps):
    with torch.no_grad():
        x -= x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


# ---- 05.2 and 05.3 -------------------------------------------------------------------------------


def gelu_by_ndtr(x):
    return x * torch.special.ndtr(x)


def gelu_by_erfc(x):
    return 0.5 * x * torch.erfc(-x * 0.5**0.5)


def gelu_by_distribution(x):
    return torch.distributions.Normal(0.0, 1.0).cdf(x) * x


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def mlp_by_hand(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    hidden = x @ fc1_weight.T + fc1_bias
    return gelu_by_ndtr(hidden) @ fc2_weight.T + fc2_bias


def mlp_by_einsum(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    hidden = F.gelu(torch.einsum("...d,hd->...h", x, fc1_weight).add(fc1_bias))
    return torch.einsum("...h,dh->...d", hidden, fc2_weight).add(fc2_bias)


def mlp_unit_by_unit(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    total = fc2_bias.expand(x.shape)
    for reads, bias, writes in zip(fc1_weight, fc1_bias, fc2_weight.T, strict=True):
        total = total + F.gelu((x * reads).sum(-1, keepdim=True) + bias) * writes
    return total


def mlp_with(activation):
    return lambda x, w1, b1, w2, b2: activation(x @ w1.T + b1) @ w2.T + b2


def mlp_not_transposed(x, w1, b1, w2, b2):
    return F.gelu(x @ w1 + b1) @ w2 + b2


# ---- 05.4 ----------------------------------------------------------------------------------------


def block_in_two_lines(x, norm1, attention, norm2, mlp):
    x = x + attention(norm1(x))
    return x + mlp(norm2(x))


def block_in_names(x, norm1, attention, norm2, mlp):
    talk = attention(norm1(x))
    think = mlp(norm2(x + talk))
    return sum([talk, think], start=x)


def block_in_a_loop(x, norm1, attention, norm2, mlp):
    for norm, half in ((norm1, attention), (norm2, mlp)):
        x = torch.add(half(norm(x)), x)
    return x


def block_in_place(x, norm1, attention, norm2, mlp):
    x += attention(norm1(x))
    x += mlp(norm2(x))
    return x


def one_norm(x, norm1, attention, norm2, mlp):
    x = x + attention(norm1(x))
    return x + mlp(norm1(x))


def other_norm(x, norm1, attention, norm2, mlp):
    x = x + attention(norm2(x))
    return x + mlp(norm2(x))


def post_norm(x, norm1, attention, norm2, mlp):
    x = norm1(x + attention(x))
    return norm2(x + mlp(x))


def on_the_stream(x, norm1, attention, norm2, mlp):
    x = norm1(x)
    x = x + attention(x)
    x = norm2(x)
    return x + mlp(x)


def behind_the_halves(x, norm1, attention, norm2, mlp):
    x = x + norm1(attention(x))
    return x + norm2(mlp(x))


def chain(x, norm1, attention, norm2, mlp):
    return mlp(norm2(attention(norm1(x))))


def attention_not_added(x, norm1, attention, norm2, mlp):
    x = attention(norm1(x))
    return x + mlp(norm2(x))


def mlp_not_added(x, norm1, attention, norm2, mlp):
    x = x + attention(norm1(x))
    return mlp(norm2(x))


def side_by_side(x, norm1, attention, norm2, mlp):
    return x + attention(norm1(x)) + mlp(norm2(x))


def input_twice(x, norm1, attention, norm2, mlp):
    y = x + attention(norm1(x))
    return x + mlp(norm2(y))


def think_first(x, norm1, attention, norm2, mlp):
    x = x + mlp(norm2(x))
    return x + attention(norm1(x))


def norms_swapped(x, norm1, attention, norm2, mlp):
    return block_in_two_lines(x, norm2, attention, norm1, mlp)


def attention_twice(x, norm1, attention, norm2, mlp):
    return x + attention(norm1(x)) + mlp(norm2(x + attention(norm1(x))))


def no_second_norm(x, norm1, attention, norm2, mlp):
    x = x + attention(norm1(x))
    return x + mlp(x)


def as_modules(x, norm1, attention, norm2, mlp):
    y = norm1(x)
    return x + attention(y, y, y)


# ---- 05.5 ----------------------------------------------------------------------------------------

SETTINGS = dict(
    activation="gelu", batch_first=True, norm_first=True, dropout=0.0, layer_norm_eps=1e-6
)


def layer_by_names(dim, num_heads, hidden_dim):
    return nn.TransformerEncoderLayer(dim, num_heads, hidden_dim, **SETTINGS)


def layer_by_function(dim, num_heads, hidden_dim):
    return nn.TransformerEncoderLayer(
        dim, num_heads, hidden_dim, 0, lambda x: F.gelu(x), 1e-6, True, True
    )


def layer_by_module(dim, num_heads, hidden_dim):
    return nn.TransformerEncoderLayer(
        dim, num_heads, hidden_dim, **SETTINGS | {"activation": nn.GELU()}
    )


def layer_with(**changes):
    return lambda d, h, m: nn.TransformerEncoderLayer(d, h, m, **SETTINGS | changes)


# ---- 05.6 ----------------------------------------------------------------------------------------


def drop_path_by_rand(x, p, training):
    if not training:
        return x
    keep = torch.rand(len(x)) >= p
    return x * keep.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)) / (1 - p)


def drop_path_by_dropout(x, p, training):
    coins = torch.ones(x.shape[:1] + (1,) * (x.ndim - 1), dtype=x.dtype)
    return x * F.dropout(coins, p, training)


def drop_path_by_loop(x, p, training):
    if not training or p == 0:
        return x.clone()
    return torch.stack([image / (1 - p) if random.random() > p else image * 0 for image in x])


def drop_path_by_where(x, p, training):
    if training:
        keep = torch.bernoulli(torch.full(x.shape[:1], 1 - p)).bool()
        for _ in range(x.ndim - 1):
            keep = keep.unsqueeze(-1)
        return torch.where(keep, x / (1 - p), torch.zeros_like(x))
    return x


def dropped(shape_of=lambda x: (len(x),) + (1,) * (x.ndim - 1), scale=lambda p: 1 / (1 - p)):
    """Drop by coins of a shape and scale what is left."""

    def wrong(x, p, training):
        if not training or p == 0:
            return x
        return x * (torch.rand(shape_of(x)) >= p).to(x.dtype) * scale(p)

    return wrong


def always(x, p, training):
    return drop_path_by_rand(x, p, True)


def never(x, p, training):
    return x


def scaled_in_eval(x, p, training):
    if not training:
        return x * (1 - p)
    return x * (torch.rand(len(x)) >= p).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def kept_with_p(x, p, training):
    if not training or p == 0:
        return x
    keep = (torch.rand(len(x)) < p).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return x * keep / p


def same_every_time(x, p, training):
    torch.manual_seed(0)
    return drop_path_by_rand(x, p, training)


def for_three_axes(x, p, training):
    if not training or p == 0:
        return x
    return x * (torch.rand(len(x), 1, 1) >= p).to(x.dtype) / (1 - p)


def drops_in_place(x, p, training):
    if training:
        x[torch.rand(len(x)) < p] = 0
        x /= 1 - p
    return x


RIGHT = {
    "05.1": [norm_by_var_mean, norm_by_squares, norm_in_a_loop],
    "05.2": [gelu_by_ndtr, gelu_by_erfc, gelu_by_distribution],
    "05.3": [mlp_by_hand, mlp_by_einsum, mlp_unit_by_unit],
    "05.4": [block_in_two_lines, block_in_names, block_in_a_loop],
    "05.5": [layer_by_names, layer_by_function, layer_by_module],
    "05.6": [drop_path_by_rand, drop_path_by_dropout, drop_path_by_loop, drop_path_by_where],
}

WRONG = {
    "05.1": {
        "unbiased": (norm(correction=1), "sum of squares by D - 1"),
        "eps outside": (norm(outside=True), "^`eps` stands outside the root"),
        "unbiased, eps outside": (
            norm(correction=1, outside=True),
            "D - 1.* And `eps` stands outside",
        ),
        "over tokens": (norm_over_tokens, "normalise over the tokens"),
        "over the batch": (norm(axis=0), "normalise over the batch"),
        "one mean for all": (norm_with_one_mean, "One mean and variance for everything"),
        "no eps": (lambda x, w, b, e: norm()(x, w, b, 0.0), "`eps` is left out"),
        "no root": (norm(use=lambda d, s, w, b: d / s**2 * w + b), "the root is missing"),
        "mean kept": (
            lambda x, w, b, e: x / (x.var(-1, correction=0, keepdim=True) + e).sqrt() * w + b,
            "mean is not subtracted",
        ),
        "no weight": (norm(use=lambda d, s, w, b: d / s + b), "`weight` is not used"),
        "no bias": (norm(use=lambda d, s, w, b: d / s * w), "`bias` is not used"),
        "neither": (norm(use=lambda d, s, w, b: d / s), "`weight` and `bias` are not used"),
        "bias first": (norm(use=lambda d, s, w, b: (d / s + b) * w), "bias is added before"),
        "square of x": (
            lambda x, w, b, e: (
                (x - x.mean(-1, keepdim=True)) / ((x * x).mean(-1, keepdim=True) + e) ** 0.5 * w + b
            ),
            "mean square of x itself",
        ),
        "RMSNorm": (
            lambda x, w, b, e: x / ((x * x).mean(-1, keepdim=True) + e) ** 0.5 * w + b,
            "Nothing is subtracted",
        ),
        "no keepdim": (
            lambda x, w, b, e: (x - x.mean(-1)) / (x.var(-1, correction=0) + e).sqrt() * w + b,
            "stopped with RuntimeError",
        ),
        "in place": (norm_in_place, "changes `x`"),
        "three arguments": (lambda x, w, b: x, "must take 4 arguments"),
    },
    "05.2": {
        "tanh": (tanh_gelu, "tanh approximation"),
        "library's tanh": (lambda x: F.gelu(x, approximate="tanh"), "tanh approximation"),
        "sigmoid": (lambda x: x * torch.sigmoid(1.702 * x), "sigmoid approximation"),
        "ReLU": (lambda x: x.clamp(min=0), "This is a ReLU"),
        "SiLU": (lambda x: x / (1 + torch.exp(-x)), "This is SiLU"),
        "Phi alone": (lambda x: (1 + torch.erf(x / 2**0.5)) / 2, "still to be multiplied by x"),
        "no root of 2": (lambda x: x * (1 + torch.erf(x)) / 2, "erf of x / √2"),
        "no half": (lambda x: x * (1 + torch.erf(x / 2**0.5)), "half is missing"),
        "no one": (lambda x: 0.5 * x * torch.erf(x / 2**0.5), "1 is missing"),
        "erf": (lambda x: x * torch.erf(x / 2**0.5), "by erf, not by Phi"),
        "density": (
            lambda x: x * torch.distributions.Normal(0, 1).log_prob(x).exp(),
            "height of the bell curve",
        ),
        "a float": (lambda x: 0.5, "Expected a tensor"),
    },
    "05.3": {
        "ReLU": (mlp_with(F.relu), "activation is a ReLU"),
        "tanh": (mlp_with(tanh_gelu), "tanh approximation"),
        "linear": (mlp_with(lambda x: x), "No activation"),
        "GELU at the end too": (
            lambda x, *w: F.gelu(mlp_by_hand(x, *w)),
            "follows the second layer too",
        ),
        "GELU at the end": (
            lambda x, w1, b1, w2, b2: F.gelu((x @ w1.T + b1) @ w2.T + b2),
            "belongs between the two",
        ),
        "GELU first": (
            lambda x, w1, b1, w2, b2: (F.gelu(x) @ w1.T + b1) @ w2.T + b2,
            "comes before the first layer",
        ),
        "residual": (lambda x, *w: x + mlp_by_hand(x, *w), "the block does that"),
        "no biases": (lambda x, w1, b1, w2, b2: F.gelu(x @ w1.T) @ w2.T, "biases are left out"),
        "no first bias": (
            lambda x, w1, b1, w2, b2: F.gelu(x @ w1.T) @ w2.T + b2,
            "first bias is left out",
        ),
        "no second bias": (
            lambda x, w1, b1, w2, b2: F.gelu(x @ w1.T + b1) @ w2.T,
            "second bias is left out",
        ),
        "bias behind": (
            lambda x, w1, b1, w2, b2: (F.gelu(x @ w1.T) + b1) @ w2.T + b2,
            "added behind the GELU",
        ),
        "not transposed": (mlp_not_transposed, "stopped with RuntimeError"),
    },
    "05.4": {
        "one norm": (one_norm, "`norm1` is used twice and `norm2` never"),
        "the other norm": (other_norm, "`norm2` is used twice and `norm1` never"),
        "post-norm": (post_norm, "This is post-norm"),
        "on the stream": (on_the_stream, "stream itself is normalised"),
        "norms behind": (behind_the_halves, "norms come after attention"),
        "no additions": (chain, "Nothing is added"),
        "attention not added": (attention_not_added, "first half is not added"),
        "MLP not added": (mlp_not_added, "second half is not added"),
        "side by side": (side_by_side, "Both halves read the block's input"),
        "input twice": (input_twice, "what attention added is lost"),
        "MLP first": (think_first, "talk, then think"),
        "norms swapped": (norms_swapped, "norms are swapped"),
        "attention twice": (attention_twice, "`norm1` is called 2 times"),
        "no second norm": (no_second_norm, "`norm2` is never called"),
        "in place": (block_in_place, "changes `x`"),
        "three tensors": (as_modules, "`attention` takes one tensor"),
        "nothing returned": (lambda x, a, b, c, d: None, "returned None"),
    },
    "05.5": {
        "defaults": (
            lambda d, h, m: nn.TransformerEncoderLayer(d, h),
            r"2048 wide[^$]*first axis[^$]*post-norm[^$]*ReLU[^$]*p = 0.1[^$]*eps = 1e-05",
        ),
        "sequence first": (layer_with(batch_first=False), "first axis for the tokens"),
        "post-norm": (layer_with(norm_first=False), "post-norm"),
        "ReLU": (layer_with(activation="relu"), "ReLU, the default"),
        "tanh": (layer_with(activation=tanh_gelu), "not the exact GELU"),
        "dropout": (layer_with(dropout=0.1), "Dropout is on, with p = 0.1"),
        "eps": (layer_with(layer_norm_eps=1e-5), "eps = 1e-05 instead"),
        "no biases": (layer_with(bias=False), "no biases"),
        "wide": (
            lambda d, h, m: nn.TransformerEncoderLayer(d, h, **SETTINGS),
            "2048 wide inside instead of 48",
        ),
        "fixed sizes": (
            lambda d, h, m: nn.TransformerEncoderLayer(12, 3, m, **SETTINGS),
            "For dim = 16 and num_heads = 4, the layer has width 12 and 3 heads",
        ),
        "the class": (lambda d, h, m: nn.TransformerEncoderLayer, "the class itself"),
        "attention alone": (
            lambda d, h, m: nn.MultiheadAttention(d, h, batch_first=True),
            "object of type MultiheadAttention",
        ),
        "eval": (lambda *size: layer_by_names(*size).eval(), "training mode"),
    },
    "05.6": {
        "not scaled": (dropped(scale=lambda p: 1), "not enlarged"),
        "scaled down": (dropped(scale=lambda p: 1 - p), "multiplied by 1 - p; the mean"),
        "divided by p": (dropped(scale=lambda p: 1 / p), "divided by p"),
        "root": (dropped(scale=lambda p: (1 - p) ** -0.5), "the first is multiplied by 1.155"),
        "entries": (dropped(shape_of=lambda x: x.shape), "Single entries are dropped"),
        "library's dropout": (F.dropout, "Single entries are dropped"),
        "tokens": (
            dropped(shape_of=lambda x: (*x.shape[:2], *[1] * (x.ndim - 2))),
            "Single tokens are dropped",
        ),
        "one coin": (dropped(shape_of=lambda x: (1,) * x.ndim), "dropped together"),
        "in eval": (always, "Outside training, something is dropped"),
        "never": (never, "nothing is dropped"),
        "eval scaled": (scaled_in_eval, "Outside training you multiply by 1 - p"),
        "swapped": (kept_with_p, "Kept and dropped are swapped"),
        "swapped alone": (
            lambda x, p, t: dropped()(x, 1 - p if p else 0, t),
            "Kept and dropped are swapped",
        ),
        "a seed inside": (same_every_time, "Two calls drop the same images"),
        "three axes only": (for_three_axes, r"Expected the shape \(64, 3\)"),
        "in place": (drops_in_place, "changes `x`"),
        "cut off": (
            lambda x, p, t: drop_path_by_rand(x, p, t).detach(),
            "no gradient reaches `x`",
        ),
        "a function": (lambda x, p, t: nn.Identity(), "Expected a tensor"),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "05.1": ("mean(dim=-1, keepdim=True)", "addcmul", "variance + eps"),
    "05.2": ("x * (1 +", "torch.erf(", "ndtr"),
    "05.3": ("@ fc1_weight", ".T", "F.linear"),
    "05.4": ("attention(norm1(x))", "mlp(norm2(x))"),
    "05.5": ("batch_first=True", "norm_first=True", "dropout=0"),
    "05.6": ("torch.rand(len", "/ (1 - p)", "bernoulli"),
}
