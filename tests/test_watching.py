"""Calls of attention are joined to layers only where each works on what the one before left."""

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import pictures, randomize, tiny_model
from einops import rearrange
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from vit_tutorial import record_attention, rollout
from vit_tutorial.attention import relevance
from vit_tutorial.watching import NoGradient

pytestmark = pytest.mark.heart

TIMM = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5)
SIZE = (32, 32)


def timm_vit(seed=0, **changes):
    return randomize(timm.models.VisionTransformer(**{**TIMM, **changes}), seed)


# ---- several networks in one ----


class Two(nn.Module):
    """Two networks, and what a forward pass does with them."""

    def __init__(self, run, **changes):
        super().__init__()
        self.first, self.second, self.run = timm_vit(**changes), timm_vit(7, **changes), run

    def forward(self, images):
        return self.run(self.first, self.second, images)


def with_teacher(student, teacher, images):
    with torch.no_grad():
        teacher(images)
    return student(images)


def in_turns(a, b, images):
    """Two networks, layer by layer in turns, as a library with two towers might run them."""
    x, y = (net._pos_embed(net.patch_embed(images)) for net in (a, b))
    for one, other in zip(a.blocks, b.blocks, strict=True):
        x, y = one(x), other(y)
    return a.head(x[:, 0]) + b.head(y[:, 0])


def branches(a, b, images):
    x = a.blocks[0](a._pos_embed(a.patch_embed(images)))
    return a.head(a.blocks[2](a.blocks[1](x))[:, 0]) + b.head(b.blocks[2](b.blocks[1](x))[:, 0])


STREAMS = {
    "ensemble": (lambda a, b, x: a(x) + b(x), "record `model.first` or `model.second`"),
    "of parts": (lambda a, b, x: torch.cat([a(x), b(x)], 1), "`model.first` or `model.second`"),
    "flipped": (lambda a, b, x: a(x) + a(x.flip(-1)), "record `model.first`"),
    "twice": (lambda a, b, x: (a(x) + a(x)) / 2, "record `model.first`"),
    "teacher": (with_teacher, "record `model.second` or `model.first`|`model.first` or `model.sec"),
    "in turns": (in_turns, "record `model.first` or `model.second`"),
    "branches": (branches, "has branches: its call of attention number 3"),
    "views": (
        lambda a, b, x: a(torch.cat([x, x.flip(-1)]))[:1],
        r"on 2 images instead of 1 \(several views .* record `model.first` on each view",
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("gradients_of", [None, 1])
def test_networks_side_by_side_are_refused_and_named(name, gradients_of):
    run, sentence = STREAMS[name]
    with pytest.raises(ValueError, match=sentence):
        record_attention(Two(run), pictures(1, SIZE), gradients_of=gradients_of)


@pytest.mark.parametrize("run", ["ensemble", "flipped"])
def test_networks_of_one_layer_are_told_apart_too(run):
    with pytest.raises(ValueError, match=r"not one network|has branches"):
        record_attention(Two(STREAMS[run][0], depth=1), pictures(1, SIZE))


def test_what_is_named_can_be_recorded():
    model, images = Two(STREAMS["ensemble"][0]), pictures(1, SIZE)
    alone = record_attention(timm_vit(7), images)
    assert_close(record_attention(model.second, images).weights, alone.weights)


def test_parts_without_a_name_in_python_are_named_so_that_they_are_found():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.nets = nn.ModuleList([timm_vit(), timm_vit(1)])

        def forward(self, images):
            return sum(net(images) for net in self.nets)

    with pytest.raises(ValueError, match=r'`model.get_submodule\("nets.0"\)` or'):
        record_attention(Listed(), pictures(1, SIZE))


def test_a_wrapper_around_one_network_is_that_network():
    """With what is not attention on both sides, without gradients, and in place."""

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.head = timm_vit(num_classes=0), nn.Linear(24, 5)
            randomize(self.head)

        def forward(self, images):
            with torch.inference_mode():
                features = self.net(images.mul(2).sub_(0.5))
            return self.head(features.clone())

    model, images = Wrapper(), pictures(2, SIZE)
    expected = record_attention(model.net, images * 2 - 0.5)
    assert_close(record_attention(model, images).weights, expected.weights)


def test_attention_side_by_side_in_a_block_is_heads_of_one_layer():
    block = timm.models.vision_transformer.ParallelThingsBlock
    model, images, seen = timm_vit(block_fn=block), pictures(2, SIZE), []
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
            module.attn_drop.register_forward_hook(lambda m, i, o: seen.append(i[0].detach()))
    with torch.no_grad():
        model(images)
    expected = [torch.cat(seen[n : n + 2], dim=1) for n in (0, 2, 4)]
    record = record_attention(model, images, gradients_of=1)
    assert_close(record.weights, expected)
    assert list(record.layers) == [0, 1, 2]
    assert [tuple(g.shape) for g in record.gradients] == [(2, 4, 17, 17)] * 3
    mean = record_attention(model, images, head_fusion="mean")
    assert_close(mean.weights, [w.mean(1, keepdim=True) for w in expected])


# ---- kinds of scores ----


class Attend(nn.Module):
    """Two layers on patches of 8 pixels, with the attention that a test gives them."""

    def __init__(self, attend):
        super().__init__()
        self.cut, self.attend = nn.Conv2d(3, 24, 8, 8), attend
        self.qkv = nn.ModuleList(nn.Linear(24, 72) for _ in range(2))
        self.head = nn.Linear(24, 5)
        randomize(self)

    def forward(self, images):
        x = self.cut(images).flatten(2).mT
        for qkv in self.qkv:
            q, k, v = qkv(x).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
            x = x + self.attend(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x.mean(1))


def folded(product, batch_first=True):
    """Heads and images on one axis, as `bmm` needs them."""

    def attend(q, k, v):
        if not batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        out = product(q, k, v).unflatten(0, (-1, 2) if batch_first else (2, -1))
        return out if batch_first else out.transpose(0, 1)

    return attend


def by_bmm(q, k, v):
    return torch.bmm(torch.bmm(q, k.mT).div(12**0.5).softmax(-1), v)


def by_baddbmm(q, k, v):
    bias = torch.zeros(1, 1, 1).to(q).expand(len(q), q.shape[1], k.shape[1])
    weights = F.softmax(torch.baddbmm(bias, q, k.mT, beta=0, alpha=12**-0.5), dim=-1)
    return torch.baddbmm(torch.zeros_like(q), weights, v)


def by_einsum(q, k, v):
    weights = (torch.einsum("bid,bjd->bij", q, k) / 12**0.5).softmax(dim=2)
    return torch.einsum("bjd,bij->bid", v, weights)


def viewed(q, k, v):
    """As some of Hugging Face's: five axes, or three again after the softmax."""
    weights = (q[:, :, None] @ k[:, :, None].mT / 12**0.5).softmax(-1)  # (B, h, 1, T, T)
    return (weights.view(-1, *weights.shape[-2:]) @ v.reshape(-1, *v.shape[2:])).view_as(v)


def by_named_axes(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, T, h, d)
    weights = (torch.einsum("bihd, bjhd -> bhij", q, k) / 12**0.5).softmax(-1)
    return torch.einsum("bjhd, bhij -> bhid", v, weights)


def cleaned(q, k, v):
    """Nothing is changed by these, where no row is masked."""
    weights = (q @ k.mT / 12**0.5).softmax(-1)
    weights = torch.nan_to_num(weights).masked_fill(weights.isnan(), 0.0)[:, :, :]
    return weights.expand(-1, -1, -1, -1).to(v.dtype) @ v


def dropped(q, k, v):
    return F.dropout((q @ k.mT / 12**0.5).softmax(-1), 1e-12, training=True).contiguous() @ v


def squared_beside(q, k, v):
    weights = (q @ k.mT / 12**0.5).softmax(-1)
    assert (weights @ weights).shape == weights.shape
    return weights @ v


SPELLINGS = {
    "bmm": folded(by_bmm),
    "baddbmm": folded(by_baddbmm),
    "einsum": folded(by_einsum),
    "fused": folded(F.scaled_dot_product_attention),
    "heads first": folded(by_bmm, batch_first=False),
    "fused, heads first": folded(F.scaled_dot_product_attention, batch_first=False),
    "five axes": viewed,
    "named axes": by_named_axes,
    "cleaned": cleaned,
    "dropout": dropped,
    "squared beside": squared_beside,
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", SPELLINGS)
def test_scores_of_any_shape_are_laid_out_by_image_and_head(name, count):
    plain, other = Attend(F.scaled_dot_product_attention), Attend(SPELLINGS[name])
    other.load_state_dict(plain.state_dict())
    images = pictures(count)
    expected = record_attention(plain, images, gradients_of=2)
    record = record_attention(other, images, gradients_of=2)
    assert_close(record.weights, expected.weights)
    assert_close(record.gradients, expected.gradients)
    assert record.head_reads == expected.head_reads
    fused = record_attention(other, images, head_fusion="max").weights
    assert_close(fused, [w.amax(1, keepdim=True) for w in expected.weights])


def windows(q, k, v):
    """Of two halves of the image, as `bmm` sees them."""
    q, k, v = (x.unflatten(2, (2, -1)).flatten(0, 2) for x in (q, k, v))
    return by_bmm(q, k, v).unflatten(0, (-1, 2, 2)).flatten(2, 3)


def many_windows(q, k, v, order="(y j x i)"):
    """Of 2x2 of the 8x8 patches of an image, as `bmm` sees them."""
    apart, together = f"b h {order} d", "(b y x h) (j i) d"
    sizes = dict(y=4, x=4, j=2, i=2, h=2)
    q, k, v = (rearrange(t, f"{apart} -> {together}", **sizes) for t in (q, k, v))
    return rearrange(by_bmm(q, k, v), f"{together} -> {apart}", **sizes)


def scattered_windows(q, k, v):
    """Of every fourth patch, as in MaxViT."""
    return many_windows(q, k, v, "(j y i x)")


def packed(q, k, v):
    """Images of several sizes in one tensor, as in NaViT."""
    q, k, v = (
        torch.nested.nested_tensor(list(x.transpose(1, 2)), layout=torch.jagged).transpose(1, 2)
        for x in (q, k, v)
    )
    return F.scaled_dot_product_attention(q, k, v)


def difference_of_weights(q, k, v):
    one, two = (((x @ k.mT).softmax(-1)) for x in (q, -q))
    return (one - 0.5 * two) @ v


def difference_of_outputs(q, k, v):
    one, two = (F.scaled_dot_product_attention(x, k, v.clone()) for x in (q, -q))
    return one - 0.5 * two


class Buffers:
    """Weights in memory that every layer, and every pass, writes to again."""

    def __init__(self, write):
        self.write, self.memory = write, {}

    def __call__(self, q, k, v):
        scores = q @ k.mT / 12**0.5
        if scores.requires_grad:  # as one has to, where memory is used again
            return scores.softmax(-1) @ v
        memory = self.memory.setdefault(scores.shape, torch.empty_like(scores))
        return self.write(scores, memory) @ v


@pytest.mark.parametrize(
    "write",
    [
        lambda scores, memory: torch.softmax(scores, -1, out=memory),
        lambda scores, memory: (torch.softmax(scores, -1, out=memory), memory)[1],
        lambda scores, memory: memory.copy_(scores.softmax(-1)),
        lambda scores, memory: torch.mul(scores, 1, out=memory).softmax(-1),
    ],
    ids=["softmax", "softmax by name", "copy", "scores"],
)
def test_memory_that_is_used_again_changes_no_weights(write):
    plain, other = Attend(F.scaled_dot_product_attention), Attend(Buffers(write))
    other.load_state_dict(plain.state_dict())
    for gradients_of in (None, 1):
        expected = record_attention(plain, pictures(), gradients_of=gradients_of)
        record = record_attention(other, pictures(), gradients_of=gradients_of)
        assert_close(record.weights, expected.weights)
        assert_close(record.logits, expected.logits)
        assert record.head_reads == expected.head_reads


def changed(change):
    def attend(q, k, v):
        return change((q @ k.mT).softmax(-1)) @ v

    return attend


@pytest.mark.parametrize("gradients_of", [None, 1])
@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.clone().mul_(0.5),
        lambda w: w.mul_(0.5),
        lambda w: w.masked_fill_(w < 0.1, 0),
        lambda w: torch.where(w < 0.1, 0, w),
        lambda w: w @ w,
        lambda w: w.mT,
        lambda w: 1 - w,
    ],
)
def test_weights_that_are_changed_before_they_are_used_are_refused(change, gradients_of):
    with pytest.raises(ValueError, match="changes its weights between the softmax and the values"):
        record_attention(Attend(changed(change)), pictures(), gradients_of=gradients_of)


def test_a_product_over_the_axis_of_what_asks_is_no_attention():
    """Each token would give to others instead of taking from them."""
    turned = lambda q, k, v: torch.einsum("bhij,bhid->bhjd", (q @ k.mT).softmax(-1), v)  # noqa: E731
    with pytest.raises(ValueError, match="multiplies no values with those of some softmax"):
        record_attention(Attend(turned), pictures())


class Cross(nn.Module):
    """As many queries as patches, which are no patches."""

    def __init__(self, asks):
        super().__init__()
        self.cut, self.asks = nn.Conv2d(3, 24, 8, 8), asks
        self.latents = nn.Parameter(torch.zeros(1, 6, 24))
        self.qkv, self.head = nn.Linear(24, 72), nn.Linear(24, 5)
        randomize(self)

    def forward(self, images):
        x = self.cut(images).flatten(2).mT
        asks = self.cut(images.flip(-1)).flatten(2).mT if self.asks == "view" else self.latents
        q = self.qkv(asks.expand_as(x))[..., :24]
        _, k, v = self.qkv(x).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        if self.asks == "layer":  # the second asks with what the first left
            y = F.scaled_dot_product_attention(y[:, None], k[:, None], v[:, None])[:, 0]
        return self.head(y.mean(1))


@pytest.mark.parametrize("asks", ["view", "latents", "layer"])
def test_cross_attention_of_equal_sizes_is_refused(asks):
    with pytest.raises(ValueError, match="Cross has cross attention, in its own forward"):
        record_attention(Cross(asks), pictures())


def test_what_runs_inside_a_transform_is_refused():
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = timm_vit()

        def forward(self, images):
            return torch.func.vmap(lambda image: self.net(image[None])[0])(images)

    for gradients_of in (None, 1):
        with pytest.raises(ValueError, match=r"inside a transform of torch.func \(vmap"):
            record_attention(Mapped(), pictures(2, SIZE), gradients_of=gradients_of)


@pytest.mark.parametrize(
    ("attend", "sentence"),
    [
        (windows, "several separate places .windows"),
        (many_windows, "several separate places .windows"),
        (scattered_windows, "several separate places .windows"),
        (packed, "nested tensors"),
        (difference_of_weights, "a difference of two"),
        (
            lambda q, k, v: F.scaled_dot_product_attention(q[..., :3, :], k, v).mean(
                2, keepdim=True
            ),
            r"not all tokens attend to all \(3x64: class or cross attention, a part of the tokens",
        ),
        (difference_of_outputs, "same values in one layer .* .differential attention"),
    ],
)
def test_what_is_no_map_of_all_tokens_is_refused(attend, sentence):
    with pytest.raises(ValueError, match=sentence):
        record_attention(Attend(attend), pictures(1, (64, 64)))


# ---- gradients that do not arrive ----


class Backbone(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.backbone, self.head, self.mode = timm_vit(num_classes=0), nn.Linear(24, 5), mode
        randomize(self.head)

    def forward(self, images):
        if self.mode == "detach":
            return self.head(self.backbone(images).detach())
        with self.mode():
            features = self.backbone(images)
        return self.head(features.clone())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, "detach"])
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_that_do_not_reach_the_attention_are_never_zero(mode, frozen):
    model = Backbone(mode).requires_grad_(not frozen)
    with pytest.raises(NoGradient, match="gradient cannot reach the attention"):
        record_attention(model, pictures(1, SIZE), gradients_of=1)
    assert torch.isfinite(rollout(record_attention(model, pictures(1, SIZE)))).all()


def test_layers_that_gradients_do_reach_can_be_recorded():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = timm_vit()

        def forward(self, images):
            with torch.no_grad():
                x = self.net.blocks[0](self.net._pos_embed(self.net.patch_embed(images)))
            for block in self.net.blocks[1:]:
                x = block(x)
            return self.net.forward_head(self.net.norm(x))

    model, images = Half(), pictures(1, SIZE)
    with pytest.raises(NoGradient, match="of layers 0: "):
        record_attention(model, images, gradients_of=1)
    record = record_attention(model, images, gradients_of=1, layers=[1, 2])
    expected = record_attention(model.net, images, gradients_of=1)
    assert_close(record.gradients, expected.gradients[1:])


@pytest.mark.parametrize("trainable", [True, False])
def test_checkpointing_changes_no_gradient(trainable):
    plain, images = timm_vit().requires_grad_(trainable), pictures(2, SIZE)
    expected = record_attention(plain, images, gradients_of=1)
    plain.set_grad_checkpointing(True)
    record = record_attention(plain, images, gradients_of=1)
    assert_close(record.weights, expected.weights)
    assert_close(record.gradients, expected.gradients)
    assert_close(list(record.own_gradients), list(expected.own_gradients))


def test_reentrant_checkpointing_is_refused_in_a_sentence():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = timm_vit()

        def forward(self, images):
            x = self.net._pos_embed(self.net.patch_embed(images))
            for block in self.net.blocks:
                x = checkpoint(block, x, use_reentrant=True)
            return self.net.head(x[:, 0])

    with pytest.raises(NoGradient, match="reentrant checkpointing"):
        record_attention(Own(), pictures(1, SIZE), gradients_of=1)


def test_legrads_gradients_are_computed_when_they_are_read():
    model, images, passes = tiny_model(), pictures(), []
    record_attention(model, images)  # the trials
    model.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    record = record_attention(model, images, gradients_of=1)
    relevance(record, method="chefer")
    assert passes == [2]
    relevance(record, method="legrad")
    relevance(record, method="legrad")
    assert passes == [2, 2]
    late = record_attention(model, images, gradients_of=1)
    nn.init.ones_(model.head.bias)
    with pytest.raises(ValueError, match="weights have changed since"):
        relevance(late, method="legrad")


def test_a_network_on_an_image_that_another_made_is_refused():
    run = lambda a, b, x: b(x * (1 + a(x).mean()))  # noqa: E731
    with pytest.raises(ValueError, match="one reads an image that another has made"):
        record_attention(Two(run), pictures(1, SIZE))


def test_what_a_network_makes_of_its_tokens_afterwards_does_not_matter():
    class Painter(nn.Module):
        """An image made of the tokens, as a decoder does it."""

        def __init__(self):
            super().__init__()
            self.net, self.paint = timm_vit(num_classes=0), nn.Conv2d(3, 3, 3, padding=1)
            randomize(self.paint)

        def forward(self, images):
            tokens = self.net.forward_features(images)[:, 1:]
            made = F.pixel_shuffle(tokens.mT.unflatten(2, (4, 4)).repeat(1, 8, 1, 1), 8)
            return {"image": self.paint(made)}

    model, images = Painter(), pictures(1, SIZE)
    record = record_attention(model, images)
    assert_close(record.weights, record_attention(model.net, images).weights)
    assert (record.logits, record.default_query) == (None, "patches")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="from PyTorch 2.6 on")
def test_a_compiled_network_is_recorded_as_it_is_written():
    model, images = timm_vit(), pictures(1, SIZE)
    expected = record_attention(model, images, gradients_of=1)
    record = record_attention(torch.compile(model, backend="eager"), images, gradients_of=1)
    assert_close(record.weights, expected.weights)
    assert_close(record.gradients, expected.gradients)
