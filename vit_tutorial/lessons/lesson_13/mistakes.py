"""Learning without labels as learners write it: what is right, and what goes wrong with its cause.

Each dictionary holds what to say -> a function that makes this mistake; `compare` tries them.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from vit_tutorial.model import VisionTransformer

# ---- 13.1 Which patches are hidden ---------------------------------------------------------------


def masks(noise: Tensor, num_visible: int) -> Tensor:
    """The right mask, from a threshold between two numbers of each row."""
    ordered = noise.sort(dim=1).values
    return noise > ordered[:, num_visible - 1 : num_visible]


def _ranks(noise: Tensor, dim: int = 1) -> Tensor:
    places = torch.empty_like(noise, dtype=torch.int64)
    count = torch.arange(noise.shape[dim]).expand_as(noise.movedim(dim, -1)).movedim(-1, dim)
    return places.scatter_(dim, noise.argsort(dim=dim), count)


MASKS: dict[str, Callable] = {
    "`argsort` tells which patch comes first, second, ...; you read it as the rank of each patch. "
    "The two are inverse to each other.": lambda noise, v: noise.argsort(dim=1) >= v,
    "It is the wrong way round: True is for the patches that are hidden.": (
        lambda noise, v: ~masks(noise, v)
    ),
    "The patches with the smallest numbers stay visible, yours hides them and keeps the largest.": (
        lambda noise, v: _ranks(-noise) >= v
    ),
    "You compare across the images of the batch: each image (a row) chooses on its own.": (
        lambda noise, v: _ranks(noise, dim=0) >= v
    ),
    "All images get the mask of the first one: each must have its own.": (
        lambda noise, v: masks(noise[:1], v).expand_as(noise)
    ),
    "The first patches in reading order stay: the numbers must choose.": (
        lambda noise, v: (torch.arange(noise.shape[1]) >= v).expand_as(noise)
    ),
    "One patch too few stays visible: count from 0, or look at < and <=.": (
        lambda noise, v: _ranks(noise) >= v - 1
    ),
    "One patch too many stays visible: count from 0, or look at < and <=.": (
        lambda noise, v: _ranks(noise) > v
    ),
    "You compare with a fixed number. That hides about the right share, not exactly so many in "
    "each image, and it expects numbers from 0 to 1.": (
        lambda noise, v: noise >= v / noise.shape[1]
    ),
}

# ---- 13.2 Back in place --------------------------------------------------------------------------


def unshuffle(encoded: Tensor, mask_token: Tensor, order: Tensor) -> Tensor:
    """The right tokens: the mask token everywhere, and then what was seen."""
    full = mask_token.expand(*order.shape, -1).clone()
    for image, (tokens, places) in enumerate(zip(encoded, order, strict=True)):
        full[image, places[: len(tokens)]] = tokens
    return full


def _joined(encoded: Tensor, mask_token: Tensor, order: Tensor, first: bool = False) -> Tensor:
    hidden = order.shape[1] - encoded.shape[1]
    masks = mask_token.expand(len(encoded), hidden, -1)
    return torch.cat([masks, encoded] if first else [encoded, masks], dim=1)


def _moved(tokens: Tensor, places: Tensor) -> Tensor:
    return torch.stack([image[indices] for image, indices in zip(tokens, places, strict=True)])


def _in_reading_order(encoded: Tensor, mask_token: Tensor, order: Tensor) -> Tensor:
    full = mask_token.expand(*order.shape, -1).clone()
    visible = order.argsort(dim=1) < encoded.shape[1]
    full[visible] = encoded.reshape(-1, encoded.shape[-1])
    return full


UNSHUFFLED: dict[str, Callable] = {
    "The tokens are moved by `order` itself, and that shuffles them once more. What undoes an "
    "order is its inverse.": lambda e, m, order: _moved(_joined(e, m, order), order),
    "The tokens still stand as they were shuffled, the visible ones first: they must go back to "
    "their places in the image.": _joined,
    "All images are put back by the order of the first one: each has its own.": (
        lambda e, m, order: _moved(_joined(e, m, order), order[:1].argsort(dim=1).expand_as(order))
    ),
    "The mask tokens come first when you join them, but the first patches of `order` are the "
    "visible ones.": lambda e, m, order: _moved(
        _joined(e, m, order, first=True), order.argsort(dim=1)
    ),
    "The visible tokens are dealt out in reading order. encoded[b, 0] belongs to patch "
    "order[b, 0], which need not be the first visible one.": _in_reading_order,
    "Where a patch is hidden stands 0, not the mask token.": (
        lambda e, m, order: unshuffle(e, torch.zeros_like(m), order)
    ),
    "The mask token is added to the visible tokens as well.": (
        lambda e, m, order: unshuffle(e + m, m, order)
    ),
    "The mean of the visible tokens stands where the mask token belongs: it must be learned, "
    "and the same for all.": lambda e, m, order: torch.stack(
        [
            unshuffle(image[None], image.mean(dim=0), row[None])[0]
            for image, row in zip(e, order, strict=True)
        ]
    ),
}

# ---- 13.3 Encode what is visible -----------------------------------------------------------------


def _blocks(vit: VisionTransformer, x: Tensor, norm: bool = True) -> Tensor:
    for block in vit.blocks:
        x = block(x)
    return vit.norm(x) if norm else x


def _parts(vit: VisionTransformer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of the patches without positions (B, N, D), and the table of positions (1, T, D)."""
    assert vit.pos_embed is not None
    return vit.patch_embed(images), vit.pos_embed.to(images)


def _with_cls(vit: VisionTransformer, patches: Tensor, position: bool = True) -> Tensor:
    if vit.config.pool != "cls":
        return patches
    assert vit.pos_embed is not None
    cls = vit.cls_token + (vit.pos_embed[:, :1] if position else 0)
    return torch.cat([cls.expand(len(patches), -1, -1), patches], dim=1)


def encode_visible(vit: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    """The right tokens."""
    patches, positions = _parts(vit, images)
    patches = patches + positions[:, vit.config.num_prefix :]
    return _blocks(vit, _with_cls(vit, _moved(patches, visible)))


def _positions_of_places(vit: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    patches, positions = _parts(vit, images)
    start, count = vit.config.num_prefix, visible.shape[1]
    patches = _moved(patches, visible) + positions[:, start : start + count]
    return _blocks(vit, _with_cls(vit, patches))


def _one_place_off(vit: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    """Take by patch numbers from tokens that begin with CLS."""
    tokens = vit.embed(images)
    prefix = vit.config.num_prefix
    return _blocks(vit, torch.cat([tokens[:, :prefix], _moved(tokens, visible)], dim=1))


def _cls_lost(vit: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    tokens = vit.embed(images)
    return _blocks(vit, _moved(tokens[:, vit.config.num_prefix :], visible))


def _zeros_instead(vit: VisionTransformer, images: Tensor, visible: Tensor, late: bool) -> Tensor:
    """Leave hidden tokens in as zeros; with `late` they are thrown away at the end."""
    tokens, prefix = vit.embed(images), vit.config.num_prefix
    seen = torch.zeros(tokens.shape[:2]).scatter_(1, visible + prefix, 1.0)
    seen[:, :prefix] = 1
    x = _blocks(vit, tokens * seen[..., None].to(tokens))
    return torch.cat([x[:, :prefix], _moved(x[:, prefix:], visible)], dim=1) if late else x


def _seen_all(vit: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    x, prefix = vit.forward_features(images), vit.config.num_prefix
    return torch.cat([x[:, :prefix], _moved(x[:, prefix:], visible)], dim=1)


def _without_norm(vit: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    patches, positions = _parts(vit, images)
    patches = patches + positions[:, vit.config.num_prefix :]
    return _blocks(vit, _with_cls(vit, _moved(patches, visible)), norm=False)


def _cls_without_position(vit: VisionTransformer, images: Tensor, visible: Tensor) -> Tensor:
    patches, positions = _parts(vit, images)
    patches = patches + positions[:, vit.config.num_prefix :]
    return _blocks(vit, _with_cls(vit, _moved(patches, visible), position=False))


ENCODED: dict[str, Callable] = {
    "The positions are added after the patches were taken out, so that a token gets the position "
    "of its place in the row and not of its place in the image.": _positions_of_places,
    "The tokens have no positions: nobody knows any more where a visible patch was.": (
        lambda vit, images, visible: _blocks(
            vit, _with_cls(vit, _moved(vit.patch_embed(images), visible), position=False)
        )
    ),
    "The numbers in `visible` are those of patches, and yours count tokens: with a CLS token in "
    "front, patch 0 is token 1.": _one_place_off,
    "The CLS token is lost: it is always visible, and stays in front.": _cls_lost,
    "Hidden tokens are set to 0 and still go through the blocks: a zero is a token as well, and "
    "the others attend to it. They must be left out.": lambda vit, images, visible: _zeros_instead(
        vit, images, visible, late=False
    ),
    "Hidden tokens are set to 0 and thrown away at the end: until then the others attend to them. "
    "They must be left out before the first block.": lambda vit, images, visible: _zeros_instead(
        vit, images, visible, late=True
    ),
    "All patches go through the blocks, and the visible ones are taken afterwards: by then they "
    "have read the hidden ones.": _seen_all,
    "The final norm is missing.": _without_norm,
    "The CLS token has lost its position: its row of the table comes first.": _cls_without_position,
    "All images show the patches of the first one: each has its own row in `visible`.": (
        lambda vit, images, visible: encode_visible(vit, images, visible[:1].expand_as(visible))
    ),
    "The tokens come in reading order; asked for is the order of `visible`.": (
        lambda vit, images, visible: encode_visible(vit, images, visible.sort(dim=1).values)
    ),
}

# ---- 13.4 The loss -------------------------------------------------------------------------------


def _cut(images: Tensor, size: int, pattern: str = "b c (r p) (s q) -> b (r s) (c p q)") -> Tensor:
    return rearrange(images, pattern, p=size, q=size)


def _normalised(patches: Tensor, correction: int = 0, eps: float = 1e-6) -> Tensor:
    var, mean = torch.var_mean(patches, dim=-1, keepdim=True, correction=correction)
    return (patches - mean) * (var + eps).rsqrt()


def _loss(
    pattern: str = "b c (r p) (s q) -> b (r s) (c p q)",
    norm: Callable[[Tensor], Tensor] = _normalised,
    when: Callable[[bool], bool] = bool,
    measure: Callable[[Tensor], Tensor] = lambda error: error.square().mean(dim=-1),
    mean: Callable[[Tensor, Tensor], Tensor] = lambda errors, hidden: (
        (errors * hidden).sum() / hidden.sum()
    ),
    guess: Callable[[Tensor], Tensor] = lambda predicted: predicted,
) -> Callable:
    """Build a loss of exchangeable parts, right by default."""

    def loss(p: Tensor, images: Tensor, size: int, hidden: Tensor, norm_pixels: bool) -> Tensor:
        targets = _cut(images, size, pattern)
        if when(norm_pixels):
            targets, p = norm(targets), guess(p)
        return mean(measure(p - targets), hidden)

    return loss


masked_loss = _loss()


def _by_image(images: Tensor) -> Tensor:
    """Normalise patches (B, N, C*P*P) by what all patches of an image have together."""
    var, mean = torch.var_mean(images, dim=(1, 2), keepdim=True, correction=0)
    return (images - mean) * (var + 1e-6).rsqrt()


LOSSES: dict[str, Callable] = {
    "All patches count, the visible ones too: only what was hidden is asked for.": _loss(
        mean=lambda errors, hidden: errors.mean()
    ),
    "The visible patches count and the hidden ones do not: `hidden` is True where a patch is "
    "hidden.": _loss(mean=lambda errors, hidden: errors[~hidden].mean()),
    "You divide by the number of all patches: visible ones are counted as errors of 0. Divide by "
    "the number of hidden ones.": _loss(mean=lambda errors, hidden: (errors * hidden).mean()),
    "You average image by image first. Every hidden patch of the batch counts the same, also where "
    "an image hides many of them.": _loss(
        mean=lambda errors, hidden: ((errors * hidden).sum(1) / hidden.sum(1)).mean()
    ),
    "The errors are added up; asked for is their mean over the hidden patches.": _loss(
        mean=lambda errors, hidden: errors[hidden].sum()
    ),
    "The squared errors of a patch's pixels are added up; take their mean.": _loss(
        measure=lambda error: error.square().sum(dim=-1)
    ),
    "These are absolute errors; asked for are squared ones.": _loss(
        measure=lambda error: error.abs().mean(dim=-1)
    ),
    "A root too many: the loss is the mean of the squares.": _loss(
        measure=lambda error: error.square().mean(dim=-1).sqrt()
    ),
    "The targets are never normalised: look at `norm_pixels`.": _loss(when=lambda norm: False),
    "The targets are always normalised: look at `norm_pixels`.": _loss(when=lambda norm: True),
    "`norm_pixels` is taken the wrong way round.": _loss(when=lambda norm: not norm),
    "The variance is divided by one less than the number of pixels; divide by their number.": _loss(
        norm=lambda patches: _normalised(patches, correction=1)
    ),
    "NaN: a patch of one colour has a variance of 0, and you divide by its root. That is what the "
    "1e-6 is for.": _loss(norm=lambda patches: _normalised(patches, eps=0.0)),
    "The 1e-6 stands outside the root; it belongs to the variance.": _loss(
        norm=lambda patches: (
            (patches - patches.mean(-1, keepdim=True))
            / (patches.std(-1, keepdim=True, correction=0) + 1e-6)
        )
    ),
    "You normalise by mean and variance of the whole image: each patch has its own.": _loss(
        norm=_by_image
    ),
    "The predictions are normalised as well: only the targets are. The network must get there by "
    "itself.": _loss(guess=_normalised),
    "Only the mean of a patch is subtracted: divide by its deviation, too.": _loss(
        norm=lambda patches: patches - patches.mean(dim=-1, keepdim=True)
    ),
    "The numbers of a patch stand in another order than the package's `patchify` gives: channel, "
    "row, column.": _loss("b c (r p) (s q) -> b (r s) (p q c)"),
    "The patches are counted column by column; they are counted row by row.": _loss(
        "b c (r p) (s q) -> b (s r) (c p q)"
    ),
}

# ---- 13.5 The teacher ----------------------------------------------------------------------------


def teacher_step(teacher: list[Tensor], student: list[Tensor], momentum: float) -> list[Tensor]:
    """The right average."""
    pairs = zip(teacher, student, strict=True)
    return [torch.lerp(new.detach(), old.detach(), momentum) for old, new in pairs]


TEACHERS: dict[str, Callable] = {
    "The weights are swapped: the teacher keeps the share `momentum` of itself, and takes the rest "
    "from the student.": lambda t, s, m: teacher_step(s, t, m),
    "The teacher becomes the student at once: it keeps nothing of itself.": (
        lambda t, s, m: [x.detach() for x in s]
    ),
    "The teacher stays as it is: it must take a little from the student.": (
        lambda t, s, m: [x.detach() for x in t]
    ),
    "The two shares do not add up to 1: the student's is what the teacher does not keep.": (
        lambda t, s, m: [m * a.detach() + b.detach() for a, b in zip(t, s, strict=True)]
    ),
    "This is a step of the size of the teacher's weights; the step is towards the student: its "
    "weights minus the teacher's.": lambda t, s, m: [
        a.detach() + (1 - m) * b.detach() for a, b in zip(t, s, strict=True)
    ],
    "It is the plain mean of both, whatever `momentum` says.": lambda t, s, m: [
        (a.detach() + b.detach()) / 2 for a, b in zip(t, s, strict=True)
    ],
}

# ---- 13.6 DINO's loss ----------------------------------------------------------------------------


def _dino(
    aim: Callable = lambda t, c, temp: ((t - c) / temp).softmax(dim=-1),
    say: Callable = lambda s, c, temp: (s / temp).log_softmax(dim=-1),
    keep: Callable = lambda i, j: i != j,
    distance: Callable = lambda weights, logs: -(weights * logs).sum(dim=-1).mean(),
    swap: bool = False,
    total: bool = False,
) -> Callable:
    """Build a loss of exchangeable parts, right by default."""

    def loss(s: Tensor, t: Tensor, center: Tensor, s_temp: float, t_temp: float) -> Tensor:
        s_temp, t_temp = (t_temp, s_temp) if swap else (s_temp, t_temp)
        losses = [
            distance(aim(t[i].detach(), center, t_temp), say(s[j], center, s_temp))
            for i in range(len(t))
            for j in range(len(s))
            if keep(i, j)
        ]
        return sum(losses) if total else sum(losses) / len(losses)

    return loss


dino_loss = _dino()

DINO_LOSSES: dict[str, Callable] = {
    "A view is compared with itself as well: only pairs of different views count.": _dino(
        keep=lambda i, j: True
    ),
    "A view is compared with itself and with no other: it is the other way round.": _dino(
        keep=lambda i, j: i == j
    ),
    "The pairs are added up; take their mean.": _dino(total=True),
    "The two temperatures are swapped.": _dino(swap=True),
    "The centre is not subtracted from the teacher's scores.": _dino(
        aim=lambda t, c, temp: (t / temp).softmax(dim=-1)
    ),
    "The centre is added to the teacher's scores; it must be subtracted.": _dino(
        aim=lambda t, c, temp: ((t + c) / temp).softmax(dim=-1)
    ),
    "The centre is subtracted from the student's scores as well: only the teacher is centred.": (
        _dino(say=lambda s, c, temp: ((s - c) / temp).log_softmax(dim=-1))
    ),
    "The centre is subtracted from the student's scores and not from the teacher's.": _dino(
        aim=lambda t, c, temp: (t / temp).softmax(dim=-1),
        say=lambda s, c, temp: ((s - c) / temp).log_softmax(dim=-1),
    ),
    "The centre is subtracted after the division by the temperature: it is a mean of scores, so it "
    "goes first.": _dino(aim=lambda t, c, temp: (t / temp - c).softmax(dim=-1)),
    "You multiply by the temperatures: a small one must make the weights sharper, so divide.": (
        _dino(
            aim=lambda t, c, temp: ((t - c) * temp).softmax(dim=-1),
            say=lambda s, c, temp: (s * temp).log_softmax(dim=-1),
        )
    ),
    "The roles are swapped: the teacher's weights say how much each logarithm of the student's "
    "counts.": _dino(
        distance=lambda weights, logs: -(logs.exp() * weights.log()).sum(dim=-1).mean()
    ),
    "The sign is missing: a cross-entropy is minus the sum of weights times logarithms.": _dino(
        distance=lambda weights, logs: (weights * logs).sum(dim=-1).mean()
    ),
    "The mean runs over the K entries, too: they are added up.": _dino(
        distance=lambda weights, logs: -(weights * logs).mean()
    ),
    "The images are added up; take their mean.": _dino(
        distance=lambda weights, logs: -(weights * logs).sum()
    ),
    "The teacher's entropy is subtracted: that is a divergence. Its gradient is the same, but "
    "asked for is the cross-entropy.": _dino(
        distance=lambda weights, logs: (
            torch.xlogy(weights, weights).sum(-1) - (weights * logs).sum(-1)
        ).mean()
    ),
    "NaN or infinite: of large scores an exponential overflows, or a weight becomes 0 before its "
    "logarithm is taken. PyTorch has one function for the logarithm of a softmax, which is safe.": (
        _dino(say=lambda s, c, temp: (s / temp).softmax(dim=-1).log())
    ),
}
