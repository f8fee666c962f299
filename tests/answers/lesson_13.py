"""Lesson 13: right answers, each another way; wrong ones and the cause that must be named."""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

# ---- 13.1 ----


def masks_by_two_sorts(noise, num_visible):
    return noise.argsort(1).argsort(1) >= num_visible


def masks_by_topk(noise, num_visible):
    hidden = torch.ones_like(noise, dtype=torch.bool)
    return hidden.scatter(1, noise.topk(num_visible, dim=1, largest=False).indices, False)


def masks_by_counting(noise, num_visible):
    smaller = (noise[:, None, :] < noise[:, :, None]).sum(dim=2)
    return smaller > num_visible - 1


def masks_in_place(noise, num_visible):
    kept = noise.topk(num_visible, dim=1, largest=False).indices
    noise.zero_().scatter_(1, kept, 1)
    return noise == 0


# ---- 13.2 ----


def unshuffle_by_gather(encoded, mask_token, order):
    hidden = order.shape[1] - encoded.shape[1]
    masks = repeat(mask_token, "d -> b m d", b=len(encoded), m=hidden)
    places = repeat(order.argsort(dim=1), "b n -> b n d", d=len(mask_token))
    return torch.cat([encoded, masks], 1).gather(1, places)


def unshuffle_by_scatter(encoded, mask_token, order):
    full = mask_token.repeat(*order.shape, 1)
    places = order[:, : encoded.shape[1], None].expand_as(encoded)
    return full.scatter(1, places, encoded)


def unshuffle_by_a_product(encoded, mask_token, order):
    """One-hot rows times tokens."""
    table = F.one_hot(order, order.shape[1]).to(encoded)  # place, patch
    seen = table[:, : encoded.shape[1]]
    return seen.mT @ encoded + (1 - seen.sum(1))[..., None] * mask_token


def full_of(encoded, mask_token, order, masks_first=False):
    m = mask_token[None, None].repeat(len(order), order.shape[1] - encoded.shape[1], 1)
    return torch.cat([m, encoded] if masks_first else [encoded, m], dim=1)


def at(tokens, places):
    return torch.take_along_dim(tokens, places[..., None], dim=1)


def dealt_out(encoded, mask_token, order):
    hidden = masks_by_ranks(order, encoded.shape[1])
    full = mask_token.repeat(*order.shape, 1)
    return full.masked_scatter(~hidden[..., None], encoded.contiguous())


def masks_by_ranks(order, num_visible):
    return order.argsort(1) >= num_visible


# ---- 13.3 ----


def encode_by_indexing(vit, images, visible):
    x = vit.embed(images)
    prefix = x.shape[1] - vit.config.num_patches
    kept = torch.cat([torch.zeros(len(x), prefix, dtype=torch.int64), visible + prefix], dim=1)
    x = x[torch.arange(len(x))[:, None], kept]
    for block in vit.blocks:
        x = block(x, vit.rope)
    return vit.norm(x)


def encode_image_by_image(vit, images, visible):
    rows = []
    for image, places in zip(images, visible, strict=True):
        patches = vit.patch_embed(image[None])
        prefix = vit.config.num_prefix
        x = (patches + vit.pos_embed[:, prefix:])[:, places]
        if vit.config.pool == "cls":
            x = torch.cat([vit.cls_token + vit.pos_embed[:, :1], x], dim=1)
        for block in vit.blocks:
            x = block(x)
        rows.append(vit.norm(x)[0])
    return torch.stack(rows)


def encode_with_a_forbidden_rest(vit, images, visible):
    """Right, and nothing is saved: hidden tokens go along, and may not be read."""
    x, prefix = vit.embed(images), vit.config.num_prefix
    b, t = x.shape[:2]
    seen = torch.zeros(b, t, dtype=torch.bool).scatter(1, visible + prefix, True)
    seen[:, :prefix] = True
    for block in vit.blocks:
        y = block.norm1(x)
        q, k, v = rearrange(
            block.attn.qkv(y), "b t (n h d) -> n b h t d", n=3, h=block.attn.num_heads
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        x = x + block.attn.proj(rearrange(y, "b h t d -> b t (h d)"))
        x = x + block.mlp(block.norm2(x))
    x = vit.norm(x)
    return torch.cat([x[:, :prefix], at(x[:, prefix:], visible)], dim=1)


def encode_through_all_blocks(vit, images, visible):
    """As `encode_with_a_forbidden_rest`, through the blocks themselves: noticed by their length."""
    right = encode_by_indexing(vit, images, visible)
    vit.blocks[0](vit.embed(images))
    return right


def run(vit, x):
    for block in vit.blocks:
        x = block(x)
    return vit.norm(x)


def with_cls(vit, x, positions=True):
    if vit.config.pool != "cls":
        return x
    cls = vit.cls_token + vit.pos_embed[:, :1] if positions else vit.cls_token
    return torch.cat([cls.repeat(len(x), 1, 1), x], dim=1)


def positions_late(vit, images, visible):
    x = with_cls(vit, at(vit.patch_embed(images), visible), positions=False)
    return run(vit, x + vit.pos_embed[:, : x.shape[1]])


def no_positions(vit, images, visible):
    return run(vit, with_cls(vit, at(vit.patch_embed(images), visible), positions=False))


def numbers_of_tokens(vit, images, visible):
    x = vit.embed(images)
    return run(vit, torch.cat([x[:, : vit.config.num_prefix], at(x, visible)], dim=1))


def no_cls(vit, images, visible):
    return run(vit, at(vit.embed(images)[:, vit.config.num_prefix :], visible))


def seen_all(vit, images, visible):
    x, p = vit.forward_features(images), vit.config.num_prefix
    return torch.cat([x[:, :p], at(x[:, p:], visible)], dim=1)


def no_norm(vit, images, visible):
    norm, vit.norm = vit.norm, torch.nn.Identity()
    try:
        return encode_by_indexing(vit, images, visible)
    finally:
        vit.norm = norm


def zeroed(vit, images, visible):
    x, p = vit.embed(images), vit.config.num_prefix
    seen = torch.zeros(len(x), x.shape[1], 1, dtype=x.dtype)
    seen[:, :p] = 1
    x = run(vit, x * seen.scatter(1, visible[..., None] + p, 1.0))
    return torch.cat([x[:, :p], at(x[:, p:], visible)], dim=1)


# ---- 13.4 ----


def patches_of(images, size):
    return F.unfold(images, size, stride=size).mT


def loss_by_mse(predicted, images, patch_size, hidden, norm_pixels):
    wanted = patches_of(images, patch_size)
    if norm_pixels:
        wanted = F.layer_norm(wanted, wanted.shape[-1:], eps=1e-6)
    return F.mse_loss(predicted[hidden], wanted[hidden])


def loss_in_a_loop(predicted, images, patch_size, hidden, norm_pixels):
    errors = []
    columns = images.shape[3] // patch_size
    for b, n in hidden.nonzero().tolist():
        top, left = n // columns * patch_size, n % columns * patch_size
        patch = images[b, :, top : top + patch_size, left : left + patch_size].flatten()
        if norm_pixels:
            patch = patch - patch.mean()
            patch = patch / (patch.pow(2).mean() + 1e-6).sqrt()
        errors.append(((predicted[b, n] - patch) ** 2).mean())
    return torch.stack(errors).mean()


def some_loss(
    p, images, size, hidden, norm, mean=None, error=None, scale=None, cut=None, guess=None
):
    wanted = (cut or patches_of)(images, size)
    if norm:
        wanted = (scale or (lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-6)))(wanted)
        p = guess(p) if guess else p
    errors = (error or (lambda a, b: (a - b).pow(2).mean(-1)))(p, wanted)
    return (mean or (lambda e, h: e[h].mean()))(errors, hidden)


def faulty_loss(**parts):
    return lambda *arguments: some_loss(*arguments, **parts)


def standardised(x, eps=0.0, correction=0):
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, correction=correction) + eps)


# ---- 13.5 ----


def teacher_without_grad(teacher, student, momentum):
    with torch.no_grad():
        return [momentum * t + (1 - momentum) * s for t, s in zip(teacher, student, strict=True)]


def teacher_by_steps(teacher, student, momentum):
    new = [t.clone() for t in teacher]
    for t, s in zip(new, student, strict=True):
        t += (1 - momentum) * (s.detach() - t)
    return new


def teacher_in_place(teacher, student, momentum):
    for t, s in zip(teacher, student, strict=True):
        t.mul_(momentum).add_(s.detach(), alpha=1 - momentum)
    return teacher


# ---- 13.6 ----


def dino_by_cross_entropy(student, teacher, center, student_temp, teacher_temp):
    aims = ((teacher.detach() - center) / teacher_temp).softmax(-1)
    losses = []
    for i, aim in enumerate(aims):
        for j, said in enumerate(student):
            if i != j:
                losses.append(F.cross_entropy(said / student_temp, aim))
    return torch.stack(losses).mean()


def dino_by_einsum(student, teacher, center, student_temp, teacher_temp):
    with torch.no_grad():
        aims = torch.softmax((teacher - center) / teacher_temp, dim=2)
    logs = F.log_softmax(student / student_temp, dim=2)
    table = -torch.einsum("ibk,jbk->ij", aims, logs) / student.shape[1]
    other = 1 - torch.eye(len(aims), len(logs)).to(table)
    return (table * other).sum() / other.sum()


def dino(s, t, c, ts, tt, same=False, mean=True, logs=None, aims=None, between=None, detached=True):
    t = t.detach() if detached else t
    aim = (aims or (lambda t: ((t - c) / tt).softmax(-1)))(t)
    log = (logs or (lambda s: F.log_softmax(s / ts, -1)))(s)
    between = between or (lambda a, b: -(a * b).sum(-1).mean())
    pairs = [(a, b) for i, a in enumerate(aim) for j, b in enumerate(log) if same or i != j]
    losses = torch.stack([between(a, b) for a, b in pairs])
    return losses.mean() if mean else losses.sum()


def faulty_dino(**parts):
    return lambda s, t, c, ts, tt: dino(s, t, c, ts, tt, **parts)


RIGHT = {
    "13.1": [masks_by_two_sorts, masks_by_topk, masks_by_counting],
    "13.2": [unshuffle_by_gather, unshuffle_by_scatter, unshuffle_by_a_product],
    "13.3": [encode_by_indexing, encode_image_by_image, encode_with_a_forbidden_rest],
    "13.4": [loss_by_mse, loss_in_a_loop],
    "13.5": [teacher_without_grad, teacher_by_steps],
    "13.6": [dino_by_cross_entropy, dino_by_einsum],
}

WRONG = {
    "13.1": {
        "one sort": (lambda x, v: x.argsort(dim=-1) >= v, "inverse to each other"),
        "inverted": (lambda x, v: x.argsort(1).argsort(1) < v, "wrong way round"),
        "the largest stay": (
            lambda x, v: x.argsort(1, descending=True).argsort(1) >= v,
            "keeps the largest",
        ),
        "down the batch": (lambda x, v: x.argsort(0).argsort(0) >= v, "across the images"),
        "one for all": (
            lambda x, v: (x[0].argsort().argsort() >= v).repeat(len(x), 1),
            "the mask of the first one",
        ),
        "reading order": (
            lambda x, v: (torch.arange(x.shape[1]) >= v).repeat(len(x), 1),
            "reading order",
        ),
        "one too few": (
            lambda x, v: x >= x.kthvalue(v, dim=1, keepdim=True).values,
            "One patch too few",
        ),
        "one too many": (
            lambda x, v: x.argsort(1).argsort(1) > v,
            "One patch too many",
        ),
        "a threshold": (lambda x, v: x >= v / x.shape[1], "a fixed number"),
        "numbers": (lambda x, v: (x.argsort(1).argsort(1) >= v).float(), "type torch.bool"),
        "indices": (lambda x, v: x.argsort(1)[:, :v], r"Expected the shape \(2, 4\)"),
        "in place": (masks_in_place, "changes `noise`"),
    },
    "13.2": {
        "by the order": (lambda e, m, o: at(full_of(e, m, o), o), "shuffles them once more"),
        "not at all": (full_of, "still stand as they were"),
        "one order": (
            lambda e, m, o: full_of(e, m, o)[:, o[0].argsort()],
            "the order of the first one",
        ),
        "masks first": (
            lambda e, m, o: at(full_of(e, m, o, masks_first=True), o.argsort(1)),
            "mask tokens come first",
        ),
        "dealt out": (dealt_out, "dealt out in reading order"),
        "zeros": (lambda e, m, o: unshuffle_by_scatter(e, 0 * m, o), "stands 0"),
        "added": (lambda e, m, o: unshuffle_by_scatter(e + m, m, o), "added to the visible"),
        "the mean": (
            lambda e, m, o: at(
                torch.cat([e, e.mean(1, True).repeat(1, o.shape[1] - e.shape[1], 1)], 1),
                o.argsort(1),
            ),
            "mean of the visible",
        ),
        "only visible": (lambda e, m, o: e, r"Expected the shape \(2, 4, 3\)"),
    },
    "13.3": {
        "positions late": (positions_late, "after the patches were taken out"),
        "no positions": (no_positions, "have no positions"),
        "token numbers": (numbers_of_tokens, "yours count tokens"),
        "no CLS": (no_cls, "CLS token is lost"),
        "taken at the end": (seen_all, "have read the hidden ones"),
        "no norm": (no_norm, "final norm is missing"),
        "zeros": (zeroed, "thrown away at the end"),
        "zeros stay": (
            lambda vit, images, v: run(
                vit,
                vit.embed(images)
                * F.pad(
                    F.one_hot(v, vit.config.num_patches).sum(1), (vit.config.num_prefix, 0), value=1
                )[..., None],
            ),
            "a zero is a token as well",
        ),
        "CLS without its place": (
            lambda vit, images, v: run(
                vit,
                with_cls(
                    vit,
                    at(
                        vit.patch_embed(images) + vit.pos_embed[:, vit.config.num_prefix :],
                        v,
                    ),
                    positions=False,
                ),
            ),
            "has lost its position",
        ),
        "one mask": (
            lambda vit, images, v: encode_by_indexing(vit, images, v[0].repeat(len(v), 1)),
            "of the first one",
        ),
        "sorted": (
            lambda vit, images, v: encode_by_indexing(vit, images, v.sort(1).values),
            "in reading order",
        ),
        "nothing saved": (encode_through_all_blocks, "nothing is saved"),
    },
    "13.4": {
        "all": (faulty_loss(mean=lambda e, h: e.mean()), "visible ones too"),
        "the visible": (faulty_loss(mean=lambda e, h: e[~h].mean()), "hidden ones do not"),
        "divided by all": (
            faulty_loss(mean=lambda e, h: (e * h).sum() / h.numel()),
            "number of all patches",
        ),
        "by image": (
            faulty_loss(mean=lambda e, h: ((e * h).sum(1) / h.sum(1)).mean()),
            "image by image",
        ),
        "sum": (faulty_loss(mean=lambda e, h: (e * h).sum()), "added up; asked for"),
        "sum of pixels": (
            faulty_loss(error=lambda a, b: (a - b).pow(2).sum(-1)),
            "pixels are added up",
        ),
        "absolute": (faulty_loss(error=lambda a, b: (a - b).abs().mean(-1)), "absolute errors"),
        "root": (
            faulty_loss(error=lambda a, b: (a - b).pow(2).mean(-1).sqrt()),
            "A root too many",
        ),
        "never normalised": (
            lambda p, x, s, h, n: some_loss(p, x, s, h, False),
            "never normalised",
        ),
        "always normalised": (
            lambda p, x, s, h, n: some_loss(p, x, s, h, True),
            "always normalised",
        ),
        "the wrong way round": (
            lambda p, x, s, h, n: some_loss(p, x, s, h, not n),
            "wrong way round",
        ),
        "one less": (
            faulty_loss(
                scale=lambda x: (x - x.mean(-1, True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()
            ),
            "one less than",
        ),
        "no epsilon": (faulty_loss(scale=standardised), "one colour"),
        "outside": (
            faulty_loss(scale=lambda x: standardised(x, eps=1e-6)),
            "outside the root",
        ),
        "whole image": (
            faulty_loss(scale=lambda x: F.layer_norm(x, x.shape[-2:], eps=1e-6)),
            "the whole image",
        ),
        "both": (
            faulty_loss(guess=lambda p: F.layer_norm(p, p.shape[-1:], eps=1e-6)),
            "predictions are normalised",
        ),
        "mean only": (
            faulty_loss(scale=lambda x: x - x.mean(-1, True)),
            "Only the mean",
        ),
        "channels last": (
            faulty_loss(
                cut=lambda x, s: rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=s, q=s)
            ),
            "channel, row, column",
        ),
        "columns first": (
            faulty_loss(
                cut=lambda x, s: rearrange(x, "b c (h p) (w q) -> b (w h) (c p q)", p=s, q=s)
            ),
            "column by column",
        ),
    },
    "13.5": {
        "swapped": (lambda t, s, m: teacher_without_grad(s, t, m), "weights are swapped"),
        "a copy": (lambda t, s, m: [x.detach().clone() for x in s], "student at once"),
        "nothing": (lambda t, s, m: [x.clone() for x in t], "stays as it is"),
        "too much": (
            lambda t, s, m: [m * a + b.detach() for a, b in zip(t, s, strict=True)],
            "do not add up to 1",
        ),
        "not towards": (
            lambda t, s, m: [a + (1 - m) * b.detach() for a, b in zip(t, s, strict=True)],
            "its weights minus",
        ),
        "half": (
            lambda t, s, m: [(a + b.detach()) / 2 for a, b in zip(t, s, strict=True)],
            "plain mean",
        ),
        "gradients": (
            lambda t, s, m: [m * a + (1 - m) * b for a, b in zip(t, s, strict=True)],
            "carries the student's gradients",
        ),
        "in place": (teacher_in_place, "changes `teacher`"),
        "one tensor": (lambda t, s, m: t[0], "Expected a list of 2 tensors"),
        "the first": (
            lambda t, s, m: t[:1],
            "Expected a list of 2 tensors, got a list of length 1",
        ),
    },
    "13.6": {
        "same view": (faulty_dino(same=True), "compared with itself as well"),
        "only itself": (
            lambda s, t, c, ts, tt: torch.stack(
                [
                    F.cross_entropy(b / ts, ((a - c) / tt).softmax(-1).detach())
                    for a, b in zip(t, s[: len(t)], strict=True)
                ]
            ).mean(),
            "with no other",
        ),
        "sum": (faulty_dino(mean=False), "pairs are added up"),
        "temperatures": (
            lambda s, t, c, ts, tt: dino(s, t, c, tt, ts),
            "temperatures are swapped",
        ),
        "no centre": (lambda s, t, c, ts, tt: dino(s, t, 0 * c, ts, tt), "is not subtracted"),
        "centre added": (lambda s, t, c, ts, tt: dino(s, t, -c, ts, tt), "must be subtracted"),
        "student too": (lambda s, t, c, ts, tt: dino(s - c, t, c, ts, tt), "only the teacher"),
        "student only": (
            lambda s, t, c, ts, tt: dino(s - c, t, 0 * c, ts, tt),
            "and not from the teacher's",
        ),
        "centre late": (
            lambda s, t, c, ts, tt: dino(s, t, c * tt, ts, tt),
            "goes\\s+first",
        ),
        "multiplied": (
            lambda s, t, c, ts, tt: dino(s, t, c, 1 / ts, 1 / tt),
            "so divide",
        ),
        "roles": (
            faulty_dino(between=lambda a, b: -(b.exp() * a.log()).sum(-1).mean()),
            "roles are swapped",
        ),
        "sign": (faulty_dino(between=lambda a, b: (a * b).sum(-1).mean()), "sign is missing"),
        "over K": (faulty_dino(between=lambda a, b: -(a * b).mean()), "over the K entries"),
        "images": (faulty_dino(between=lambda a, b: -(a * b).sum()), "images are added up"),
        "divergence": (
            faulty_dino(between=lambda a, b: F.kl_div(b, a, reduction="batchmean")),
            "a divergence",
        ),
        "log of softmax": (
            lambda s, t, c, ts, tt: dino(
                s, t, c, ts, tt, logs=lambda s: (s / ts).softmax(-1).log()
            ),
            "a weight becomes 0",
        ),
        "by hand": (
            lambda s, t, c, ts, tt: dino(
                s,
                t,
                c,
                ts,
                tt,
                logs=lambda s: (s / ts).exp().div((s / ts).exp().sum(-1, True)).log(),
            ),
            "an exponential overflows",
        ),
        "teacher learns": (faulty_dino(detached=False), "flows back into the teacher"),
        "nobody learns": (
            lambda s, t, c, ts, tt: dino(s.detach(), t, c, ts, tt),
            "no gradient reaches the student",
        ),
        "a number": (
            lambda s, t, c, ts, tt: dino(s, t, c, ts, tt).item(),
            "could not use|Expected a tensor",
        ),
    },
}

SECRETS = {
    "13.1": ["argsort(dim=1).argsort", "topk", "kthvalue"],
    "13.2": ["order.argsort", ".gather(", ".scatter("],
    "13.3": ["num_prefix:]", "embed(images)[", "torch.cat"],
    "13.4": ["[hidden].mean", "layer_norm", "keepdim"],
    "13.5": ["1 - momentum", "detach", "no_grad"],
    "13.6": ["log_softmax", "detach", "i != j"],
}
