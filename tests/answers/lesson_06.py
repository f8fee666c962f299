"""Lesson 06: right answers, each another way; wrong ones and the cause that must be named."""

import copy
import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import nn

# ---- 06.1 ----


def head_by_einsum(tokens, weight, bias, pool):
    if pool == "mean":
        token = torch.einsum("btd->bd", tokens) / tokens.shape[1]
    else:
        token = tokens.select(dim=1, index=0)
    return torch.einsum("bd,cd->bc", token, weight) + bias


def head_on_all_tokens_first(tokens, weight, bias, pool):
    logits = tokens @ weight.T + bias  # a mean and a linear layer may change places
    return logits[:, 0] if pool == "cls" else logits.mean(1)


def head(pick, mean, read=lambda x, w, b: F.linear(x, w, b)):
    return lambda tokens, weight, bias, pool: read(
        pick(tokens) if pool == "cls" else mean(tokens), weight, bias
    )


def first(x):
    return x[:, 0]


def mean(x):
    return x.mean(1)


# ---- 06.2 ----


def vit_by_reduce(images, patch_embed, add_cls, add_positions, blocks, norm, head):
    steps = [patch_embed, add_cls, add_positions, *blocks, norm, head]
    return reduce(lambda x, step: step(x), steps, images)


def vit_by_index(images, patch_embed, add_cls, add_positions, blocks, norm, head):
    tokens = patch_embed(images)
    tokens = add_cls(tokens)
    tokens = add_positions(tokens)
    for i in range(len(blocks)):
        tokens = blocks[i](tokens)
    tokens = norm(tokens)
    return head(tokens)


def vit(steps):
    """`steps` takes the pieces by their first letters and returns what is done, in order."""
    return lambda images, *pieces: reduce(lambda x, step: step(x), steps(*pieces), images)


def parallel(i, e, c, p, b, n, h):
    x = p(c(e(i)))
    for block in b:
        y = block(x)
    return h(n(y))


# ---- 06.3 ----


def init_by_module(model):
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            std = fan_in**-0.5 if name == "patch_embed.proj" else 0.02
            module.weight = nn.Parameter(torch.randn_like(module.weight) * std)
            module.bias.data.zero_()
    for name in ("cls_token", "pos_embed"):
        if isinstance(getattr(model, name, None), nn.Parameter):
            getattr(model, name).data.normal_(std=0.02)
    return model


def init(bias=0.0, gain=1.0, std=0.02, patch=None, draw=nn.init.normal_, skip="nothing"):
    def start(model):
        for name, p in model.named_parameters():
            if skip in name:
                continue
            if name.endswith("bias"):
                nn.init.constant_(p, bias)
            elif p.ndim == 1:
                nn.init.constant_(p, gain)
            else:
                is_patch = name == "patch_embed.proj.weight"
                patch_std = p[0].numel() ** -0.5 if patch is None else patch(p)
                draw(p, std=patch_std if is_patch else std)
        return model

    return start


def init_all_weights_alike(model):
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(p)
        elif name != "patch_embed.proj.weight":
            nn.init.normal_(p, std=0.02)
        else:
            nn.init.normal_(p, std=p[0].numel() ** -0.5)
    return model


def uniform(p, std):
    nn.init.uniform_(p, -std * 3**0.5, std * 3**0.5)


def shifted(p, std):
    nn.init.normal_(p, mean=std, std=std)


# ---- 06.4 ----


def blocks_by_append(make_block, depth):
    blocks = nn.ModuleList()
    for _ in range(depth):
        blocks.append(make_block())
    return blocks


def blocks_in_sequence(make_block, depth):
    return nn.Sequential(*[make_block() for _ in range(depth)])


class Hidden(nn.Module):
    """Holds its blocks in a plain list."""

    def __init__(self, make_block, depth):
        super().__init__()
        self.blocks = [make_block() for _ in range(depth)]

    def __iter__(self):
        return iter(self.blocks)


def shallow(make_block, depth):
    block = make_block()
    return nn.ModuleList([copy.copy(block) for _ in range(depth)])


def deep(make_block, depth):
    block = make_block()
    return nn.ModuleList([copy.deepcopy(block) for _ in range(depth)])


# ---- 06.5 ----


def floor_by_torch(num_classes):
    logits = torch.zeros(1, num_classes)
    logits[0, 0] = 1
    return F.cross_entropy(logits, torch.zeros(1, dtype=torch.int64))


def floor_by_sum(num_classes):
    return -1 + math.log(sum([math.exp(1)] + [1] * (num_classes - 1)))


# ---- 06.6 and 06.7 ----


def parameters_of_the_package(config):
    from vit_tutorial import VisionTransformer

    return sum(p.numel() for p in VisionTransformer(config).parameters())


def parameters_by_terms(c, **changed):
    """By formula, in terms that a wrong answer changes."""
    d, m = c.embed_dim, c.hidden_dim
    terms = dict(
        patch=d * c.in_chans * c.patch_size**2 + d,
        cls=d * c.num_prefix,
        positions=c.num_tokens * d if c.pos_embed == "learned" else 0,
        qkv=3 * (d * d + d),
        proj=d * d + d,
        mlp=d * m + m + m * d + d,
        norms=4 * d,
        final=2 * d,
        head=d * c.num_classes + c.num_classes,
        depth=c.depth,
    )
    terms |= {name: change(c) for name, change in changed.items()}
    block = terms["qkv"] + terms["proj"] + terms["mlp"] + terms["norms"]
    rest = terms["patch"] + terms["cls"] + terms["positions"] + terms["final"] + terms["head"]
    return terms["depth"] * block + rest


def parameters(**changed):
    return lambda config: parameters_by_terms(config, **changed)


def flops_by_terms(c, **changed):
    d, t = c.embed_dim, c.num_tokens
    terms = dict(
        factor=2,
        patch=c.num_patches * c.in_chans * c.patch_size**2 * d,
        linear=t * (4 * d * d + 2 * d * c.hidden_dim),
        tables=2 * t * t * d,
        head=d * c.num_classes,
        depth=c.depth,
    )
    terms |= {name: change(c) for name, change in changed.items()}
    block = terms["linear"] + terms["tables"]
    return terms["factor"] * (terms["patch"] + terms["depth"] * block + terms["head"])


def flops(**changed):
    return lambda config: flops_by_terms(config, **changed)


def flops_by_running(config):
    """With hooks on the layers, and one image."""
    from vit_tutorial import VisionTransformer
    from vit_tutorial.model import Attention

    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, Attention):
            total += 4 * config.num_tokens**2 * config.embed_dim
        else:
            total += 2 * output.numel() * module.weight[0].numel()

    model = VisionTransformer(config)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | Attention):
            module.register_forward_hook(count)
    model(torch.zeros(1, config.in_chans, *config.image_hw))
    return total


RIGHT = {
    "06.1": [head_by_einsum, head_on_all_tokens_first],
    "06.2": [vit_by_reduce, vit_by_index],
    "06.3": [init_by_module, init(), init(draw=nn.init.trunc_normal_)],
    "06.4": [blocks_by_append, blocks_in_sequence],
    "06.5": [floor_by_torch, floor_by_sum],
    "06.6": [parameters_of_the_package, parameters()],
    "06.7": [flops_by_running, flops()],
}

WRONG = {
    "06.1": {
        "first image": (head(lambda x: x[0], mean), "all tokens of the first image"),
        "last token": (head(lambda x: x[:, -1], mean), "last token; CLS stands in front"),
        "first patch": (head(lambda x: x[:, 1], mean), '"cls": this is the first patch'),
        "always mean": (head(mean, mean), '"cls": this takes the mean'),
        "always cls": (head(first, first), '"mean": this reads the first token'),
        "mean of patches": (head(first, lambda x: x[:, 1:].mean(1)), "no CLS token: all T tokens"),
        "mean of images": (head(first, lambda x: x.mean(0)), "mean over the images"),
        "sum": (head(first, lambda x: x.sum(1)), "the sum over the tokens"),
        "maximum": (head(first, lambda x: x.amax(1)), "the maximum over the tokens"),
        "no bias": (head(first, mean, lambda x, w, b: x @ w.T), "bias is missing"),
        "softmax": (
            head(first, mean, lambda x, w, b: F.linear(x, w, b).softmax(-1)),
            "A softmax is in your classifier",
        ),
        "log-softmax": (
            head(first, mean, lambda x, w, b: F.linear(x, w, b).log_softmax(-1)),
            "A log-softmax is in your classifier",
        ),
        "argmax": (head(first, mean, lambda x, w, b: F.linear(x, w, b).argmax(-1)), "all logits"),
        "two faults": (
            head(lambda x: x[:, -1], mean, lambda x, w, b: x @ w.T),
            "last token.* bias is missing",
        ),
        "not transposed": (head(first, mean, lambda x, w, b: x @ w + b), "RuntimeError"),
    },
    "06.2": {
        "no norm": (vit(lambda e, c, p, b, n, h: [e, c, p, *b, h]), "final norm is missing"),
        "norm first": (vit(lambda e, c, p, b, n, h: [e, c, p, n, *b, h]), "before the blocks; her"),
        "norm in each": (
            vit(lambda e, c, p, b, n, h: [e, c, p, *[f for one in b for f in (one, n)], h]),
            "after every block",
        ),
        "norm twice": (
            vit(lambda e, c, p, b, n, h: [e, c, p, n, *b, n, h]),
            "before the blocks too",
        ),
        "norm last": (vit(lambda e, c, p, b, n, h: [e, c, p, *b, h, n]), "norm comes after the cl"),
        "no blocks": (vit(lambda e, c, p, b, n, h: [e, c, p, n, h]), "blocks are missing"),
        "no positions": (vit(lambda e, c, p, b, n, h: [e, c, *b, n, h]), "positions are missing"),
        "positions before CLS": (
            vit(lambda e, c, p, b, n, h: [e, p, c, *b, n, h]),
            "CLS has a position too",
        ),
        "positions each time": (
            vit(lambda e, c, p, b, n, h: [e, c, *[f for one in b for f in (p, one)], n, h]),
            "added again for every block",
        ),
        "reversed": (vit(lambda e, c, p, b, n, h: [e, c, p, *list(b)[::-1], n, h]), "reverse"),
        "in parallel": (parallel, "same tokens, and only the last"),
        "one block": (vit(lambda e, c, p, b, n, h: [e, c, p, b[0], n, h]), "Only the first"),
        "one, repeated": (
            vit(lambda e, c, p, b, n, h: [e, c, p, *[b[0]] * len(b), n, h]),
            "first block runs every time",
        ),
        "residual": (
            vit(
                lambda e, c, p, b, n, h: [
                    *(e, c, p),
                    *[lambda x, one=one: x + one(x) for one in b],
                    *(n, h),
                ]
            ),
            "a block does so itself",
        ),
        "softmax": (
            vit(lambda e, c, p, b, n, h: [e, c, p, *b, n, h, lambda x: x.softmax(-1)]),
            "softmax comes after the classifier",
        ),
        "no head": (vit(lambda e, c, p, b, n, h: [e, c, p, *b, n]), "classifier is missing"),
        "no CLS": (vit(lambda e, c, p, b, n, h: [e, p, *b, n, h]), "CLS has a position too"),
    },
    "06.3": {
        "gain drawn": (init_all_weights_alike, "gain of a LayerNorm and starts at 1"),
        "gain 0": (init(gain=0.0), "gain of a LayerNorm and starts at 1; yours is 0"),
        "bias 1": (init(bias=1.0), "is a bias and starts at 0; yours is 1"),
        "variance": (init(std=0.02**2), "this is its square"),
        "root": (init(std=0.02**0.5), "this is its square root"),
        "zero": (init(std=0.0), "all the same numbers"),
        "patch 0.02": (init(patch=lambda p: 0.02), "its own rule is 1 / sqrt"),
        "patch by outputs": (init(patch=lambda p: len(p) ** -0.5), "you count its outputs"),
        "patch without root": (init(patch=lambda p: 1 / p[0].numel()), "this is its square"),
        "patch without channels": (init(patch=lambda p: 1 / p.shape[-1]), "all C channels"),
        "std 1": (init(std=1.0), "should have std 0.02, yours has "),
        "uniform": (init(draw=uniform), "normal, not uniform"),
        "mean": (init(draw=shifted), "should have mean 0"),
        "CLS forgotten": (init(skip="cls_token"), "`cls_token` is left as it was"),
        "norms forgotten": (init(skip="norm"), "norm1.weight` is left as it was"),
        "None": (lambda model: None, "returned None"),
        "a number": (lambda model: 3, "Return the model itself"),
    },
    "06.4": {
        "one, repeated": (
            lambda make, depth: nn.ModuleList([make()] * depth),
            "the same block: 28 parameters instead of 84",
        ),
        "one, repeated in sequence": (
            lambda make, depth: nn.Sequential(*[make()] * depth),
            "the same block",
        ),
        "plain list": (lambda make, depth: [make() for _ in range(depth)], "A plain list"),
        "generator": (lambda make, depth: (make() for _ in range(depth)), "A plain list"),
        "hidden list": (Hidden, "share their numbers: 0 parameters"),
        "shallow copies": (shallow, "share their numbers: 28 parameters"),
        "deep copies": (deep, "called 1 times for 3"),
        "one too few": (
            lambda make, depth: nn.ModuleList(make() for _ in range(depth - 1)),
            "Expected 3 blocks, got 2",
        ),
        "one block": (lambda make, depth: make(), "Expected 3 blocks, got 2"),
        "one layer": (lambda make, depth: nn.Linear(4, 4), "got one module"),
        "a number": (lambda make, depth: depth, "Expected a module that holds the blocks"),
    },
    "06.5": {
        "zero": (lambda c: 0.0, "without the extra softmax"),
        "ten": (lambda c: math.log((math.e + 9) / math.e), "ten classes only"),
        "start": (math.log, "where the loss starts"),
        "sign": (lambda c: math.log(math.e / (math.e + c - 1)), "The sign"),
        "share": (lambda c: math.e / (math.e + c - 1), "largest share"),
        "one too many": (lambda c: math.log((math.e + c) / math.e), "One class too many"),
        "base 10": (lambda c: math.log10((math.e + c - 1) / math.e), "base 10"),
        "base 2": (lambda c: math.log2((math.e + c - 1) / math.e), "base 2"),
        "sum alone": (lambda c: math.log(math.e + c - 1), "its own logit"),
        "guess": (lambda c: 1.5, "For 10 classes it should be 1.4612; got 1.5"),
        "a word": (lambda c: "low", "Expected one number"),
    },
    "06.6": {
        "no biases": (
            parameters(
                patch=lambda c: c.embed_dim * c.in_chans * c.patch_size**2,
                qkv=lambda c: 3 * c.embed_dim**2,
                proj=lambda c: c.embed_dim**2,
                mlp=lambda c: 2 * c.embed_dim * c.hidden_dim,
                head=lambda c: c.embed_dim * c.num_classes,
            ),
            "linear layers have biases",
        ),
        "no bias in qkv": (parameters(qkv=lambda c: 3 * c.embed_dim**2), "3 \\* D numbers"),
        "tables counted": (
            parameters(positions=lambda c: c.num_tokens * c.embed_dim),
            "computed, not learned",
        ),
        "positions of patches": (
            parameters(
                positions=lambda c: c.num_patches * c.embed_dim * (c.pos_embed == "learned")
            ),
            "a row for CLS too",
        ),
        "always CLS": (parameters(cls=lambda c: c.embed_dim), "no CLS token to count"),
        "no CLS": (parameters(cls=lambda c: 0), "D numbers more"),
        "no final norm": (parameters(final=lambda c: 0), r"2 \* L \+ 1 norms"),
        "one norm": (parameters(norms=lambda c: 2 * c.embed_dim), "two norms, not one"),
        "norms without bias": (
            parameters(norms=lambda c: 2 * c.embed_dim, final=lambda c: c.embed_dim),
            "not D",
        ),
        "hidden 4 D": (
            parameters(mlp=lambda c: 8 * c.embed_dim**2 + 5 * c.embed_dim),
            "not always 4",
        ),
        "heads of width D": (
            parameters(
                qkv=lambda c: 3 * c.embed_dim * c.num_heads * (c.embed_dim + 1),
                proj=lambda c: c.num_heads * c.embed_dim**2 + c.embed_dim,
            ),
            "as wide as D",
        ),
        "no output projection": (parameters(proj=lambda c: 0), "output projection"),
        "one block": (parameters(depth=lambda c: 1), "Only one block"),
        "square": (
            parameters(
                positions=lambda c: (
                    (c.grid[0] ** 2 + c.num_prefix) * c.embed_dim * (c.pos_embed == "learned")
                )
            ),
            "need not be square",
        ),
        "no channels": (
            parameters(patch=lambda c: c.embed_dim * (c.patch_size**2 + 1)),
            "has C channels",
        ),
        "two faults": (
            parameters(final=lambda c: 0, depth=lambda c: 1),
            r"2 \* L \+ 1 norms.* Only one block",
        ),
        "a float": (lambda c: float(parameters_by_terms(c)), "Expected a whole number"),
        "ViT-B": (lambda c: 86_567_656, "Right for 0 of 8 inputs.* too many"),
    },
    "06.7": {
        "multiply-adds": (flops(factor=lambda c: 1), "multiply-adds"),
        "no tables": (flops(tables=lambda c: 0), "mixing of v are products"),
        "no mixing": (flops(tables=lambda c: c.num_tokens**2 * c.embed_dim), "mix the values"),
        "one head": (flops(tables=lambda c: 2 * c.num_tokens**2 * c.head_dim), "in every head"),
        "heads of width D": (
            flops(tables=lambda c: 2 * c.num_tokens**2 * c.embed_dim * c.num_heads),
            "not on D",
        ),
        "linear in T": (flops(tables=lambda c: 2 * c.num_tokens * c.embed_dim), "scores, not T"),
        "no CLS": (
            flops(
                linear=lambda c: c.num_patches * c.embed_dim * (4 * c.embed_dim + 2 * c.hidden_dim),
                tables=lambda c: 2 * c.num_patches**2 * c.embed_dim,
            ),
            "T tokens, not N",
        ),
        "CLS is projected": (
            flops(patch=lambda c: c.num_tokens * c.in_chans * c.patch_size**2 * c.embed_dim),
            "CLS is no patch",
        ),
        "head on all": (
            flops(head=lambda c: c.num_tokens * c.embed_dim * c.num_classes),
            "one vector per image",
        ),
        "parameters": (parameters_by_terms, "number of parameters"),
        "one block": (flops(depth=lambda c: 1), "Only one block"),
        "no patches": (flops(patch=lambda c: 0), "patch projection is not counted"),
        "float": (lambda c: flops_by_terms(c) / 1, "Expected a whole number"),
    },
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {
    "06.1": ("[:, 0]", ".mean(", "tokens[", "@ weight"),
    "06.2": ("for block", "head(norm", "norm(x)", "add_positions(add_cls"),
    "06.3": ("normal_(", "zeros_", "ones_", "ndim", "endswith"),
    "06.4": ("for _ in", "make_block()", "ModuleList"),
    "06.5": ("math.log", "(num_classes - 1", "e + C", "log("),
    "06.6": ("4 * D * D", "12 *", "config.depth *", "3 * D * D"),
    "06.7": ("4 * T", "config.depth *", "8 * D", "T * D * D"),
}
