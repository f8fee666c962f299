"""Where tokens look and which of them the head reads: measured, and the same as worked out."""

import pytest
import timm
import torch
import torch.nn.functional as F
import vit_pytorch
from conftest import pictures, randomize, tiny_model
from torch import nn
from torch.testing import assert_close
from torchvision.transforms import v2

from vit_tutorial import record_attention, rollout
from vit_tutorial.attention import attention_map, relevance
from vit_tutorial.probing import _reached_by_gradients, _reached_by_trials

pytestmark = pytest.mark.heart

TIMM = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5)


def timm_vit(**changes):
    return randomize(timm.models.VisionTransformer(**{**TIMM, **changes}))


class Cut(nn.Module):
    """One layer on tokens that a convolution makes of an image, as `before` has changed it."""

    def __init__(self, cut, before=None, after=None, attend=F.scaled_dot_product_attention):
        super().__init__()
        self.cut, self.before, self.after, self.attend = cut, before, after, attend
        self.qkv, self.head = nn.Linear(24, 72), nn.Linear(24, 5)
        randomize(self)

    def forward(self, images):
        x = self.cut(images if self.before is None else self.before(images)).flatten(2).mT
        x = x if self.after is None else self.after(x)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        return self.head(self.attend(q, k, v).transpose(1, 2).flatten(2).mean(1))


def conv(patch, stride=None, padding=0):
    return nn.Conv2d(3, 24, patch, stride or patch, padding)


# ---- where tokens look ----

# name -> (network, size of the images, grid, box: left, top, right, bottom)
PLACES = {
    "squares": (lambda: Cut(conv(8)), (32, 48), (4, 6), (0, 0, 48, 32)),
    "rectangles": (lambda: Cut(conv((4, 16))), (64, 64), (16, 4), (0, 0, 64, 64)),
    "columns": (lambda: Cut(conv((64, 2))), (64, 128), (1, 64), (0, 0, 128, 64)),
    "rows": (lambda: Cut(conv((2, 64))), (128, 64), (64, 1), (0, 0, 64, 128)),
    "one": (lambda: Cut(conv(16)), (16, 16), (1, 1), (0, 0, 16, 16)),
    "dropped borders": (lambda: Cut(conv(8)), (37, 52), (4, 6), (0, 0, 48, 32)),
    "overlapping": (lambda: Cut(conv(16, 10)), (96, 96), (9, 9), (3, 3, 93, 93)),
    "gaps": (lambda: Cut(conv(4, 8)), (64, 64), (8, 8), (-2, -2, 62, 62)),
    "padded": (lambda: Cut(conv(7, 4, 3)), (64, 64), (16, 16), (-1.5, -1.5, 62.5, 62.5)),
    "crop": (lambda: Cut(conv(8), v2.CenterCrop(32)), (48, 64), (4, 4), (16, 8, 48, 40)),
    "cut off": (lambda: Cut(conv(8), lambda x: x[..., 5:37, :40]), (64, 64), (4, 5),
                (0, 5, 40, 37)),
    "enlarged": (lambda: Cut(conv(8), nn.Upsample(scale_factor=2)), (32, 40), (8, 10),
                 (0, 0, 40, 32)),
    "unfolded": (lambda: Cut(nn.Sequential(nn.PixelUnshuffle(8), nn.Conv2d(192, 24, 1))), (32, 48),
                 (4, 6), (0, 0, 48, 32)),
    "large": (lambda: Cut(conv(14)), (224, 210), (16, 15), (0, 0, 210, 224)),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_tokens_are_found_where_they_look(name):
    make, size, grid, box = PLACES[name]
    model, images = make(), pictures(1, size)
    record = record_attention(model, images)
    assert record.grid == grid
    assert record.image_size == size
    assert_close(torch.tensor(record.box), torch.tensor([float(edge) for edge in box]))


@pytest.mark.parametrize("name", ["squares", "rectangles", "dropped borders", "crop", "cut off"])
def test_a_map_on_pixels_covers_what_a_gradient_says_that_its_token_sees(name):
    make, size, (rows, columns), _ = PLACES[name]
    model, images = make(), pictures(1, size).requires_grad_()
    record = record_attention(model, images.detach())
    seen = model.before(images) if model.before else images
    tokens = model.cut(seen).flatten(2)[0].T
    for token in (0, columns - 1, rows * columns // 2, rows * columns - 1):
        (gradient,) = torch.autograd.grad(tokens[token].sum(), images, retain_graph=True)
        one = torch.zeros(1, rows * columns)
        one[0, token] = 1
        drawn = record.on_pixels(one.view(1, rows, columns))
        assert drawn.shape == (1, *size)
        assert torch.equal(drawn[0] > 0, gradient[0].abs().sum(0) > 0)


@pytest.mark.parametrize(
    ("patch", "grid"), [((4, 16), (16, 4)), ((16, 4), (4, 16)), ((64, 2), (1, 32))]
)
def test_rectangles_cut_by_a_linear_layer_are_found(patch, grid):
    model = randomize(vit_pytorch.ViT(image_size=64, patch_size=patch, num_classes=5, dim=24,
                                      depth=2, heads=2, mlp_dim=48, dim_head=12))  # fmt: skip
    record = record_attention(model, pictures(2, (64, 64)))
    assert (record.grid, record.box) == (grid, (0, 0, 64, 64))


def test_a_network_that_resizes_and_crops_is_drawn_where_it_looks():
    """Of 64 pixels resized to 40 it sees the middle 32: 51.2 of the original, from 6.4 on."""
    inside = v2.Compose([v2.Resize(40, antialias=True), v2.CenterCrop(32)])
    model = Cut(conv(8), inside)
    record = record_attention(model, pictures(1, (64, 64)))
    assert record.grid == (4, 4)
    assert_close(torch.tensor(record.box), torch.tensor([6.4, 6.4, 57.6, 57.6]), rtol=0, atol=0.7)


def test_what_every_token_sees_whole_is_found_by_where_it_looks_most():
    class Mixed(nn.Module):
        """Each token sees all of the image a little."""

        def __init__(self):
            super().__init__()
            self.cut = conv(8)

        def forward(self, images):
            x = self.cut(images)
            return x + 0.3 * x.mean((2, 3), keepdim=True)

    record = record_attention(Cut(Mixed()), pictures(1, (64, 64)))
    assert record.grid == (8, 8)
    assert_close(torch.tensor(record.box), torch.tensor([0.0, 0, 64, 64]), rtol=0, atol=4.0)


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0, 1e-6, 255.0])
def test_images_of_one_colour_will_do(value):
    images = torch.full((1, 3, 32, 48), value)
    record = record_attention(Cut(conv(8)).float(), images)
    assert (record.grid, record.box) == ((4, 6), (0, 0, 48, 32))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantised_networks_are_found_too():
    model = timm.models.VisionTransformer(**{**TIMM, "img_size": (32, 64)}).eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    record = record_attention(quantised, pictures(1, (32, 64)).float())
    assert (record.grid, record.box, record.default_query) == ((4, 8), (0, 0, 64, 32), 0)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Cut(conv(8), lambda x: x * 0), "none changed with the image"),
        (Cut(conv(8), after=lambda x: x[:, torch.randperm(x.shape[1])]), "others in each pass"),
        (Cut(conv(8), after=lambda x: F.dropout(x, 0.5)), "others in each pass"),
        (Cut(conv(8), after=lambda x: x.flip(1)), "do not lie on a grid, row by row"),
        (Cut(conv(8), after=lambda x: x.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)),
         "row by row"),
        (Cut(conv(8), after=lambda x: torch.cat([x, x[:, :1] * 0], dim=1)),
         "tokens 16 stand behind"),
        (Cut(conv(8), after=lambda x: x + x.flip(1)), "several separate places"),
    ],
    ids=["blind", "shuffled", "dropped", "reversed", "columns", "registers behind", "two places"],
)  # fmt: skip
def test_tokens_without_a_place_are_refused(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        record_attention(model, pictures(1, (32, 32)))


class Reordered(nn.Module):
    """A timm network whose tokens change their order before some layers."""

    def __init__(self, change, back=None, layers=(1,), **options):
        super().__init__()
        self.vit, self.change, self.back, self.layers = timm_vit(**options), change, back, layers

    def forward(self, images):
        x = self.vit._pos_embed(self.vit.patch_embed(images))
        for number, block in enumerate(self.vit.blocks):
            x = self.change(x) if number in self.layers else x
            x = block(x)
            x = self.back(x) if self.back and number in self.layers else x
        return self.vit.forward_head(self.vit.norm(x))


def by_length(x):
    order = x[:, 1:].norm(dim=-1).argsort(dim=1) + 1
    return torch.cat([x[:, :1], x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))], dim=1)


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (by_length, None),
        (lambda x: torch.cat([x[:, :1], x[:, 1:].roll(1, 1)], dim=1), None),
        (lambda x: x.flip(1), lambda x: x.flip(1)),
        (lambda x: torch.cat([x[:, :1], x[:, 1:].flip(1)], dim=1), None),
    ],
    ids=["sorted", "shifted", "there and back", "reversed"],
)
@pytest.mark.parametrize("spelling", [True, False], ids=["fused", "plain"])
def test_tokens_that_change_their_order_between_layers_are_refused(change, back, spelling):
    model = Reordered(change, back)
    for block in model.vit.blocks:
        block.attn.fused_attn = spelling
    with pytest.raises(ValueError, match=r"another order between its layers .before call 1 of"):
        record_attention(model, pictures(2, (32, 32)))
    expected = record_attention(model.vit, pictures(2, (32, 32)))
    mixed = Reordered(lambda x: x * 1.5 + x.mean(1, keepdim=True))
    assert record_attention(mixed, pictures(2, (32, 32))).grid == expected.grid


def test_a_layer_whose_values_are_all_0_is_no_other_order():
    model = timm_vit()
    with torch.no_grad():
        for parameter in (model.blocks[-1].attn.qkv.weight, model.blocks[-1].attn.qkv.bias):
            parameter[48:] = 0
    record = record_attention(model, torch.randn(1, 3, 32, 32, dtype=torch.float64))
    assert (record.grid, record.num_prefix) == ((4, 4), 1)


def test_what_was_measured_is_measured_anew_when_a_setting_changes():
    model, images = timm_vit(), pictures(1, (32, 32))
    assert record_attention(model, images).default_query == 0
    model.global_pool = "avg"
    assert record_attention(model, images).default_query == "patches"
    model = Cut(conv(8))
    assert record_attention(model, images).grid == (4, 4)
    model.after = lambda x: x.flip(1)
    with pytest.raises(ValueError, match="row by row"):
        record_attention(model, images)


def one_by_one(q, k, v):
    images = zip(q, k, v, strict=True)
    return torch.stack([F.scaled_dot_product_attention(*image) for image in images])


def only_one(x):
    assert len(x) == 1
    return x


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Cut(conv(8), attend=one_by_one), "one image after the other"),
        (Cut(conv(8), before=only_one), "does not run on .* images at once"),
    ],
    ids=["one by one", "only one"],
)
def test_a_network_that_takes_one_image_at_a_time_is_refused_in_a_sentence(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        record_attention(model, pictures(1, (32, 32)))


def test_a_map_of_another_grid_is_not_drawn():
    record = record_attention(tiny_model(), pictures())
    with pytest.raises(ValueError, match=r"expected maps \(B, 2, 3\), got shape \(2, 3, 2\)"):
        record.on_pixels(torch.zeros(2, 3, 2))
    assert_close(
        record.on_pixels(rollout(record)),
        rollout(record).repeat_interleave(8, 1).repeat_interleave(8, 2),
    )


def test_a_network_whose_tokens_all_ask_the_same_is_found_by_its_values():
    model = timm_vit(img_size=(16, 32))
    for block in model.blocks:
        block.attn.qkv.weight.data[:48] = 0  # queries and keys: attention is uniform
        block.attn.qkv.bias.data[:48] = 0
    record = record_attention(model, pictures(2, (16, 32)))
    assert (record.grid, record.num_prefix, record.box) == ((2, 4), 1, (0, 0, 32, 16))
    assert_close(record.weights[0], torch.full_like(record.weights[0], 1 / 9))


# ---- which tokens the head reads ----


class Mean(nn.Module):
    """A timm network whose head reads the mean of some of its tokens."""

    def __init__(self, tokens):
        super().__init__()
        self.vit, self.tokens = timm_vit(reg_tokens=2), tokens

    def forward(self, images):
        return self.vit.head(self.vit.forward_features(images)[:, self.tokens].mean(1))


READS = {
    "CLS": (timm_vit, [0], 0),
    "BEiT": (lambda: randomize(timm.models.Beit(**TIMM)), range(1, 17), "patches"),
    "EVA": (lambda: randomize(timm.models.Eva(**TIMM, num_reg_tokens=2)), range(3, 19), "patches"),
    "registers": (
        lambda: timm_vit(class_token=False, reg_tokens=4, global_pool="avg"),
        range(4, 20),
        "patches",
    ),
    "no prefix": (lambda: timm_vit(class_token=False, global_pool="avg"), range(16), "all"),
    "attention pool": (lambda: timm_vit(class_token=False, global_pool="map"), range(16), "all"),
    "distilled": (
        lambda: randomize(timm.models.VisionTransformerDistilled(**TIMM)),
        [0, 1],
        "head",
    ),
    "one patch": (lambda: Mean([7]), [7], 7),
    "a register": (lambda: Mean([2]), [2], 2),
    "some": (lambda: Mean([0, 3, 4, 5]), [0, 3, 4, 5], "head"),
}


@pytest.mark.parametrize("name", READS)
def test_what_the_head_reads_is_found_and_looked_from(name):
    make, reads, query = READS[name]
    model, images = make(), pictures(2, (32, 32))
    record = record_attention(model, images, gradients_of=1)
    assert list(record.head_reads) == list(reads)
    assert record.default_query == query
    rows = rollout(record, query=None)[:, list(reads), record.num_prefix :].mean(1)
    assert_close(rollout(record), rows.unflatten(1, (4, 4)))
    assert_close(rollout(record), rollout(record, query=query))
    last = record.weights[-1].mean(1)[:, list(reads), record.num_prefix :].mean(1)
    assert_close(attention_map(record), last.unflatten(1, (4, 4)))
    for method in ("chefer", "grad_rollout"):
        each = [relevance(record, method=method, query=int(token)) for token in reads]
        if name != "no prefix" and name != "attention pool":  # where 0 stands for all
            assert_close(relevance(record, method=method), torch.stack(each).mean(0))


def test_the_means_can_be_asked_for():
    record = record_attention(tiny_model(), pictures(), gradients_of=1)
    table = rollout(record, query=None)[:, :, 1:]
    assert_close(rollout(record, query="all"), table.mean(1).unflatten(1, (2, 3)))
    assert_close(rollout(record, query="patches"), table[:, 1:].mean(1).unflatten(1, (2, 3)))
    patches = [relevance(record, query=(row, column)) for row in range(2) for column in range(3)]
    assert_close(relevance(record, query="patches"), torch.stack(patches).mean(0))
    with pytest.raises(ValueError, match=r"\"patches\" or \"all\".* got 'cls'"):
        attention_map(record, query="cls")


@pytest.mark.parametrize("name", READS)
def test_trials_find_what_gradients_find(name):
    """Where there are no gradients (quantised networks, inference mode)."""
    make, reads, _ = READS[name]
    model, image = make(), pictures(1, (32, 32))
    outputs = lambda output, count: [output]  # noqa: E731
    for find in (_reached_by_gradients, _reached_by_trials):
        assert find(model, image, [2], outputs) == tuple(reads)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_a_network_without_gradients_reads_is_found(mode):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = randomize(timm.models.Beit(**TIMM))

        def forward(self, images):
            with mode():
                return self.vit(images)

    assert record_attention(Frozen(), pictures(1, (32, 32))).default_query == "patches"


def test_an_output_of_an_earlier_layer_has_no_query_of_its_own():
    class Early(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = timm_vit()

        def forward(self, images):
            states = self.vit.forward_intermediates(images, intermediates_only=True)
            return states[1].mean((2, 3))

    record = record_attention(Early(), pictures(1, (32, 32)))
    with pytest.raises(ValueError, match="does not depend on the last recorded layer"):
        rollout(record)
    assert rollout(record, query="patches").shape == (1, 4, 4)
