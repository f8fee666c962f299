"""Recording: any library's network, its own weights to compare with, and nothing changed in it."""

import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
import transformers
import vit_pytorch
from conftest import pictures, randomize, tiny_model
from torch import nn
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, calls, record_attention, rollout
from vit_tutorial.attention import attention_entropy, attention_map, heat_map
from vit_tutorial.positions import rotate
from vit_tutorial.watching import NoGradient

pytestmark = pytest.mark.heart

# ---- this package's network ----


def weights_by_hand(model: VisionTransformer, images: torch.Tensor) -> tuple[list, list]:
    """Follow the forward pass with softmax written out: the weights and each block's attention."""
    x, weights, outputs = model.embed(images), [], []
    for block in model.blocks:
        heads, width = block.attn.num_heads, model.config.head_dim
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, width)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, h, T, d)
        if model.rope is not None:
            q, k = rotate(q, model.rope), rotate(k, model.rope)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / width**0.5
        exponential = (scores - scores.amax(-1, keepdim=True)).exp()
        weights.append(exponential / exponential.sum(-1, keepdim=True))
        seen = torch.einsum("bhij,bhjd->bihd", weights[-1], v).flatten(2)  # (B, T, D)
        outputs.append(seen @ block.attn.proj.weight.T + block.attn.proj.bias)
        x = x + outputs[-1]
        x = x + block.mlp(block.norm2(x))
    return weights, outputs


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["none", "learned", "sincos", "rope"])
def test_recorded_weights_are_those_of_the_model(pos_embed, pool):
    """softmax(q k^T / sqrt(d)), and A V W_o + b is what the attention layer really gave."""
    model, images = tiny_model(pos_embed=pos_embed, pool=pool), pictures()
    given = []
    hooks = [
        block.attn.register_forward_hook(lambda module, inputs, output: given.append(output))
        for block in model.blocks
    ]
    record = record_attention(model, images)
    for hook in hooks:
        hook.remove()
    weights, outputs = weights_by_hand(model, images)
    assert_close(record.weights, weights)
    assert_close(given[:3], outputs)  # then come the trials
    assert record.grid == (2, 3)
    assert record.num_prefix == (pool == "cls")
    assert list(record.layers) == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_logits_are_the_same_to_the_bit(pos_embed, dtype):
    model, images = tiny_model(pos_embed=pos_embed).to(dtype), pictures().to(dtype)
    with torch.no_grad():
        expected = model(images)
    record = record_attention(model, images)
    assert torch.equal(record.logits, expected)
    for weights in record.weights:
        assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert not weights.requires_grad
        tolerance = {"rtol": 0, "atol": 2e-2 if dtype.itemsize == 2 else 1e-6}
        assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **tolerance)


def everything_about(model: nn.Module) -> dict:
    """All that a recording might leave behind."""
    return {
        "state": {name: value.numpy().tobytes() for name, value in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "forwards": [type(module).forward for module in model.modules()],
        "hooks": [
            len(hooks)
            for module in model.modules()
            for name, hooks in vars(module).items()
            if name.endswith("_hooks")
        ],
        "gradients": [parameter.grad is None for parameter in model.parameters()],
        "frozen": [parameter.requires_grad for parameter in model.parameters()],
        "grad mode": torch.is_grad_enabled(),
        "attention": nn.functional.scaled_dot_product_attention,
    }


@pytest.mark.parametrize("gradients_of", [None, 2])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_on_the_model_changes(training, gradients_of):
    model = tiny_model().train(training)
    model.blocks[1].train(not training)  # a network that is half frozen stays so
    before = everything_about(model)
    record_attention(model, pictures(), gradients_of=gradients_of)
    assert everything_about(model) == before
    with pytest.raises(ValueError, match="expected images"):
        record_attention(model, torch.zeros(1, 3, 8, 8), gradients_of=gradients_of)
    assert everything_about(model) == before
    # and no recorder is left that would listen to later calls
    assert torch.overrides._get_current_function_mode() is None


def test_recording_is_done_in_evaluation_mode():
    model = tiny_model()
    expected = record_attention(model, pictures()).logits
    model.head = nn.Sequential(model.head, nn.Dropout(0.9))
    assert_close(record_attention(model.train(), pictures()).logits, expected, rtol=0, atol=0)


def test_only_the_asked_layers_are_kept():
    model, images = tiny_model(depth=4), pictures()
    every = record_attention(model, images, gradients_of=1)
    some = record_attention(model, images, layers=[1, 3], gradients_of=1)
    assert list(some.layers) == [1, 3]
    assert_close(some.weights, [every.weights[1], every.weights[3]], rtol=0, atol=0)
    assert_close(some.gradients, [every.gradients[1], every.gradients[3]])
    assert_close(some.logits, every.logits, rtol=0, atol=0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_grad_mode_changes_nothing(mode):
    model = tiny_model()
    expected = record_attention(model, pictures(), gradients_of=1)
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        plain = record_attention(model, pictures())
        found = record_attention(model, pictures(), gradients_of=1)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert_close(found.gradients, expected.gradients, rtol=0, atol=0)
    assert_close(plain.weights, expected.weights)
    assert plain.gradients is None


def test_an_image_alone_is_recorded_as_in_a_batch():
    model, images = tiny_model(), pictures(3)
    batch = record_attention(model, images, gradients_of=1)
    for i in range(3):
        alone = record_attention(model, images[i : i + 1], gradients_of=1)
        assert_close([w[0] for w in alone.weights], [w[i] for w in batch.weights])
        assert_close([g[0] for g in alone.gradients], [g[i] for g in batch.gradients])


# ---- gradients with respect to the weights ----


def score_from_weights(model, images, weights, class_index) -> torch.Tensor:
    """The logit as a function of the attention weights, everything else held as the model has it.

    Each layer's weights are taken as given; queries and keys no longer matter.
    """
    x = model.embed(images)
    for block, layer_weights in zip(model.blocks, weights, strict=True):
        size = (3, block.attn.num_heads, model.config.head_dim)
        v = block.attn.qkv(block.norm1(x)).unflatten(-1, size)[:, :, 2].transpose(1, 2)
        x = x + block.attn.proj((layer_weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return model.forward_head(model.norm(x))[:, class_index].sum()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_last_layers_gradients_are_finite_differences_of_the_score(pool):
    """Nothing comes after the last weights, so moving one entry moves only what it carries."""
    model, images = tiny_model(pool=pool), pictures(1)
    record = record_attention(model, images, gradients_of=3)
    weights, step = record.weights, 1e-5
    for head, query, key in [(0, 0, 0), (1, 0, 4), (0, 2, 5), (1, 5, 1)]:
        scores = []
        for sign in (1, -1):
            moved = weights[-1].clone()
            moved[0, head, query, key] += sign * step
            scores.append(score_from_weights(model, images, [*weights[:-1], moved], 3))
        slope = (scores[0] - scores[1]) / (2 * step)
        assert_close(record.gradients[-1][0, head, query, key], slope, rtol=1e-5, atol=1e-8)
    assert record.gradients[-1].abs().max() > 1e-3


def test_gradients_of_every_layer_are_those_of_a_network_written_out():
    """Earlier weights act through later queries and keys too: the oracle keeps the whole graph."""
    model, images = tiny_model(pos_embed="rope"), pictures()
    weights, _ = weights_by_hand(model, images)  # graphs of their own, joined through x
    x, kept = model.embed(images), []
    for block in model.blocks:
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, model.rope), rotate(k, model.rope)
        layer = ((q @ k.mT) / 12**0.5).softmax(-1)
        layer.retain_grad()
        kept.append(layer)
        x = x + block.attn.proj((layer @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    model.forward_head(model.norm(x))[:, 4].sum().backward()
    record = record_attention(model, images, gradients_of=4)
    assert_close(record.weights, weights)
    assert_close(record.gradients, [layer.grad for layer in kept])


def test_gradients_pair_with_their_own_layer():
    """Only the middle block's output reaches the stream: only its gradients are not zero."""
    model = tiny_model()
    for block in (model.blocks[0], model.blocks[2]):
        nn.init.zeros_(block.attn.proj.weight)
    sizes = [g.abs().max() for g in record_attention(model, pictures(), gradients_of=0).gradients]
    assert sizes[1] > 1e-3
    assert sizes[0] == sizes[2] == 0


def test_gradients_tell_classes_apart_and_follow_the_score():
    model, images = tiny_model(), pictures()
    first, second = (record_attention(model, images, gradients_of=k).gradients for k in (0, 1))
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(first, second, strict=True))
    difference = record_attention(
        model, images, gradients_of=lambda logits: 2 * logits[:, 0] - logits[:, 1]
    ).gradients
    assert_close(difference, [2 * a - b for a, b in zip(first, second, strict=True)])
    assert_close(record_attention(model, images, gradients_of=torch.tensor(1)).gradients, second)


def test_gradients_do_not_need_trainable_parameters():
    model = tiny_model()
    expected = record_attention(model, pictures(), gradients_of=1)
    model.requires_grad_(False)
    frozen = record_attention(model, pictures(), gradients_of=1)
    assert_close(frozen.gradients, expected.gradients)
    assert_close(frozen.logits, expected.logits)


def test_gradients_leave_the_logits_as_they_are():
    model, images = tiny_model(), pictures()
    with_gradients = record_attention(model, images, gradients_of=1)
    assert_close(with_gradients.logits, model(images).detach())
    assert not with_gradients.logits.requires_grad


# ---- bad input ----


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": [3]}, r"some of 0 to 2, rising, got \[3\]"),
        ({"layers": [-1]}, r"got \[-1\]"),
        ({"layers": []}, r"got \[\]"),
        ({"layers": [2, 0]}, r"rising, got \[2, 0\]"),  # rollout would join them in that order
        ({"layers": ["a"]}, r"got \['a'\]"),
        ({"gradients_of": 5}, "class from 0 to 4 .* got 5"),
        ({"gradients_of": -1}, "got -1"),
        ({"gradients_of": torch.tensor(9)}, "got tensor"),
        ({"gradients_of": "cat"}, "got 'cat'"),
        ({"gradients_of": 1.0}, "got 1.0"),
        ({"gradients_of": torch.tensor([1, 2])}, r"got tensor\(\[1, 2"),
        ({"gradients_of": lambda logits: torch.zeros(2)}, "depends on the logits"),
        ({"gradients_of": lambda logits: logits}, r"of shape \(2,\), got shape \(2, 5\)"),
        ({"gradients_of": lambda logits: 1.0}, "got float"),
        ({"layers": 2}, "a list of their numbers, got 2"),
    ],
)
def test_record_attention_names_bad_input(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        record_attention(tiny_model(), pictures(), **options)


# ---- the libraries' networks ----

TIMM = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, num_classes=5)


def timm_vit(**changes):
    return timm.models.VisionTransformer(**{**TIMM, **changes})


def timm_beit(**changes):
    return timm.models.Beit(**{**TIMM, **changes})


def timm_eva(**changes):
    return timm.models.Eva(**{**TIMM, **changes})


# name -> (network, size of an image, grid, number of prefix tokens)
FROM_TIMM = {
    "plain": (timm_vit, {}, 1),
    "without CLS": (dict(class_token=False, global_pool="avg"), {}, 0),
    "registers": (dict(reg_tokens=4, no_embed_class=True), {}, 5),
    "registers without CLS": (dict(class_token=False, reg_tokens=3, global_pool="avg"), {}, 3),
    "wide": (dict(img_size=(16, 64)), {"size": (16, 64)}, 1),
    "tall": (dict(img_size=(64, 16)), {"size": (64, 16)}, 1),
    "any size": (dict(dynamic_img_size=True), {"size": (48, 24)}, 1),
    "attention pool": (dict(class_token=False, global_pool="map"), {}, 0),
    "normalised queries": (dict(qk_norm=True, init_values=0.1), {}, 1),
    "post-norm": (dict(block_fn=timm.models.vision_transformer.ResPostBlock), {}, 1),
    "parallel": (dict(block_fn=timm.models.vision_transformer.ParallelScalingBlock), {}, 1),
    "norm before": (dict(pre_norm=True), {}, 1),
    "distilled": (timm.models.VisionTransformerDistilled, {}, 2),
    "BEiT": (timm_beit, {}, 1),
    "BEiT, shared bias": (
        lambda: timm_beit(use_shared_rel_pos_bias=True, use_rel_pos_bias=False),
        {},
        1,
    ),
    "EVA, rope": (lambda: timm_eva(use_rot_pos_emb=True), {}, 1),
    "EVA, registers": (lambda: timm_eva(use_rot_pos_emb=True, num_reg_tokens=2), {}, 3),
    "relative positions": (timm.models.VisionTransformerRelPos, {"size": (32, 32)}, 0),
}


def from_timm(name: str):
    """Make a small network with random weights, images for it, and what to expect."""
    how, about, num_prefix = FROM_TIMM[name]
    if isinstance(how, dict):
        model = timm_vit(**how)
    elif isinstance(how, type):
        model = how(**TIMM)
    else:
        model = how()
    size = about.get("size", (32, 32))
    return randomize(model), pictures(2, size), (size[0] // 8, size[1] // 8), num_prefix


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", FROM_TIMM)
def test_timms_networks_are_recorded_as_they_compute(name, fused):
    """Against the input of timm's own dropout of the weights, which only its plain way passes."""
    model, images, grid, num_prefix = from_timm(name)
    seen = []
    hooks = []
    attentions = [
        (path, module)
        for path, module in model.named_modules()
        if hasattr(module, "fused_attn") and not path.startswith("attn_pool")
    ]
    for _, module in attentions:
        module.fused_attn = False
        hooks.append(module.attn_drop.register_forward_hook(lambda m, i, o: seen.append(i[0])))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    for _, module in attentions:
        module.fused_attn = fused
    with torch.no_grad():
        logits = model(images)
    before = everything_about(model)
    record = record_attention(model, images)
    assert everything_about(model) == before
    assert torch.equal(record.logits, logits)
    assert (record.grid, record.num_prefix) == (grid, num_prefix)
    assert len(seen) == 3
    assert_close(record.weights, seen)


def hugging_face(name: str, implementation: str):
    """Make a small network with random weights: (network, images, prefix tokens)."""
    small = dict(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        attn_implementation=implementation,
    )
    config, model, num_prefix = {
        "ViT": ("ViTConfig", "ViTForImageClassification", 1),
        "DeiT": ("DeiTConfig", "DeiTForImageClassification", 2),
        "BEiT": ("BeitConfig", "BeitForImageClassification", 1),
        "DINOv2": ("Dinov2Config", "Dinov2ForImageClassification", 1),
        "DINOv2 with registers": (
            "Dinov2WithRegistersConfig",
            "Dinov2WithRegistersForImageClassification",
            5,
        ),
        "CLIP": ("CLIPVisionConfig", "CLIPVisionModel", 1),
        "SigLIP": ("SiglipVisionConfig", "SiglipVisionModel", 0),
    }[name]
    small |= {"use_relative_position_bias": True} if name == "BEiT" else {}
    network = getattr(transformers, model)(getattr(transformers, config)(**small))
    return randomize(network), pictures(2, (32, 32)), num_prefix


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "name", ["ViT", "DeiT", "BEiT", "DINOv2", "DINOv2 with registers", "CLIP", "SigLIP"]
)
def test_hugging_faces_networks_are_recorded_as_they_compute(name, implementation):
    """Against the weights that the same network returns where it can."""
    model, images, num_prefix = hugging_face(name, "eager")
    with torch.no_grad():
        expected = model(images, output_attentions=True).attentions
    same, _, _ = hugging_face(name, implementation)
    same.load_state_dict(model.state_dict())
    with torch.no_grad():
        plain = same(images)
    before = everything_about(same)
    record = record_attention(same, images)
    assert everything_about(same) == before
    assert (record.grid, record.num_prefix) == ((4, 4), num_prefix)
    assert_close(record.weights, list(expected))
    if "logits" in plain:
        assert torch.equal(record.logits, plain.logits)
    else:
        assert record.logits is None
    assert torch.isfinite(rollout(record)).all()


def torchvisions() -> nn.Module:
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=48,
        num_classes=5,
    )  # fmt: skip
    return randomize(model)


def test_torchvisions_network_is_recorded_as_it_computes():
    """Against nn.MultiheadAttention asked for its weights, on what each layer really got."""
    model, images = torchvisions(), pictures(2, (32, 32))
    given = []
    hooks = [
        layer.self_attention.register_forward_pre_hook(lambda m, inputs: given.append((m, inputs)))
        for layer in model.encoder.layers
    ]
    with torch.no_grad():
        logits = model(images)
    for hook in hooks:
        hook.remove()
    expected = [m(*inputs, average_attn_weights=False)[1].detach() for m, inputs in given]
    before = everything_about(model)
    record = record_attention(model, images)
    assert everything_about(model) == before
    assert_close(record.logits, logits)  # unwatched, nn.MultiheadAttention takes its fast path
    assert (record.grid, record.num_prefix) == ((4, 4), 1)
    assert_close(record.weights, expected)


@pytest.mark.parametrize("name", ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"])
def test_every_network_of_torchvision_can_be_recorded(name):
    """Its own constructors, with their patches, and fewer and narrower layers."""
    from torchvision.models import vision_transformer

    small = dict(num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8)
    original = vision_transformer._vision_transformer

    def smaller(**options):
        return original(**{**options, **small})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision_transformer, "_vision_transformer", smaller)
        model = getattr(torchvision.models, name)()
    patch_size = int(name[-2:])
    record = record_attention(model, torch.randn(1, 3, 224, 224))
    assert (record.grid, record.num_prefix) == ((224 // patch_size, 224 // patch_size), 1)


@pytest.mark.parametrize("fast_path", [True, False])
def test_an_encoder_of_torch_is_recorded_whether_it_has_a_fast_path_or_not(fast_path):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut = nn.Conv2d(3, 24, 8, 8)
            layer = nn.TransformerEncoderLayer(24, 2, 48, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(24, 5)

        def forward(self, images):
            return self.head(self.encoder(self.cut(images).flatten(2).mT).mean(1))

    model, images = randomize(Network()), pictures()
    torch.backends.mha.set_fastpath_enabled(fast_path)
    try:
        record = record_attention(model, images)
        with torch.no_grad():
            assert_close(record.logits, model(images))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    tokens = model.cut(images).flatten(2).mT
    first = model.encoder.layers[0]
    _, weights = first.self_attn(*[first.norm1(tokens)] * 3, average_attn_weights=False)
    assert_close(record.weights[0], weights.detach())
    assert (record.grid, record.num_prefix) == ((2, 3), 0)


@pytest.mark.parametrize("wanted", ["all heads", "mean", "none"])
def test_weights_that_a_network_itself_asks_for_are_still_given_to_it(wanted):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut = nn.Conv2d(3, 24, 8, 8)
            self.attention = nn.MultiheadAttention(24, 2, batch_first=True)

        def forward(self, images):
            x = self.cut(images).flatten(2).mT
            asked = dict(need_weights=wanted != "none", average_attn_weights=wanted == "mean")
            x, self.seen = self.attention(x, x, x, **asked)
            return x.mean(1)

    model, images = randomize(Network()), pictures()
    with torch.no_grad():
        expected, seen = model(images), model.seen
    record = record_attention(model, images)
    assert_close(record.logits, expected)
    assert_close(model.seen, seen)


def test_vit_pytorchs_network_is_recorded_as_it_computes():
    """It cuts patches by a linear layer, and its softmax is a module."""
    small = dict(dim=24, depth=3, heads=2, dim_head=12, mlp_dim=48, num_classes=5)
    for size, pool in (((32, 32), "cls"), ((16, 48), "mean")):
        model = vit_pytorch.ViT(image_size=size, patch_size=8, pool=pool, **small)
        model = model.double().eval() if pool == "mean" else randomize(model)
        images, seen = pictures(2, size), []
        hooks = [
            module.attend.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
            for module in model.modules()
            if hasattr(module, "attend")
        ]
        with torch.no_grad():
            logits = model(images)
        for hook in hooks:
            hook.remove()
        record = record_attention(model, images)
        assert torch.equal(record.logits, logits)
        assert_close(record.weights, seen)
        assert record.grid == (size[0] // 8, size[1] // 8)
        assert record.num_prefix == (pool == "cls")


@pytest.mark.parametrize("library", ["timm", "torchvision", "Hugging Face", "vit-pytorch"])
def test_gradients_of_any_network_are_finite_differences_of_its_score(library):
    """Nudge one weight of one layer where it is used, and see the logit move."""
    images = pictures(1, (32, 32))
    if library == "timm":
        model = from_timm("plain")[0]
    elif library == "torchvision":
        model = torchvisions()
    elif library == "Hugging Face":
        model = hugging_face("ViT", "sdpa")[0]
    else:
        model = randomize(vit_pytorch.ViT(image_size=32, patch_size=8, dim=24, depth=3, heads=2,
                                          dim_head=12, mlp_dim=48, num_classes=5))  # fmt: skip
    target = 1
    record = record_attention(model, images, gradients_of=target)
    assert_close(record.weights, record_attention(model, images).weights)

    class Nudge(torch.overrides.TorchFunctionMode):
        """Add to the weights of one layer, wherever they are computed."""

        def __init__(self, layer, place, by):
            super().__init__()
            self.layer, self.place, self.by, self.calls = layer, place, by, 0

        def changed(self, weights):
            if self.calls == self.layer:
                weights = weights.clone()
                weights[self.place] += self.by
            self.calls += 1
            return weights

        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is F.multi_head_attention_forward:
                (x, _, _, width, heads, w_in, b_in), w, b = args[:7], args[11], args[12]
                q, k, v = F.linear(x, w_in, b_in).chunk(3, dim=-1)
                q, k, v = (
                    p.transpose(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2) for p in (q, k, v)
                )
                weights = self.changed((q @ k.mT / (width // heads) ** 0.5).softmax(-1))
                out = (weights @ v).transpose(1, 2).flatten(2).transpose(0, 1)
                return F.linear(out, w, b), None
            if func is F.scaled_dot_product_attention:
                q, k, v = args[:3]
                return self.changed((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)) @ v
            result = func(*args, **(kwargs or {}))
            return self.changed(result) if func is F.softmax else result

    for layer, place in ((0, (0, 1, 3, 5)), (2, (0, 0, 0, 7))):
        scores = []
        for by in (1e-6, -1e-6):
            with torch.no_grad(), Nudge(layer, place, by):
                answer = model(images)
            scores.append(getattr(answer, "logits", answer)[0, target])
        slope = (scores[0] - scores[1]) / 2e-6
        assert_close(record.gradients[layer][place], slope, rtol=1e-5, atol=1e-8)


def own_gradients_by_hand(model, images, target) -> list[torch.Tensor]:
    """LeGrad's: the head scores the mean of all tokens that a block gives, written out."""
    x, found = model._pos_embed(model.patch_embed(images)).detach(), []
    for block in model.blocks:
        heads, width = block.attn.num_heads, block.attn.head_dim
        q, k, v = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, heads, width)).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / width**0.5
        weights = scores.softmax(-1).detach().requires_grad_()
        x = x + block.attn.proj(torch.einsum("bhij,bjhd->bihd", weights, v).flatten(2))
        x = x + block.mlp(block.norm2(x))
        mean = sum(x[:, token] for token in range(x.shape[1])) / x.shape[1]
        score = model.head(model.fc_norm(model.norm(mean)))[:, target].sum()
        found += torch.autograd.grad(score, weights)
        x = x.detach()
    return found


@pytest.mark.parametrize("pool", [{}, {"global_pool": "avg"}], ids=["token", "avg"])
def test_a_networks_own_gradients_are_those_of_its_heads_score_of_each_layers_mean(pool):
    model, images = randomize(timm_vit(**pool)), pictures(2, (32, 32))
    record = record_attention(model, images, gradients_of=2)
    expected = own_gradients_by_hand(model, images, 2)
    assert_close(list(record.own_gradients), expected)
    assert all((own != 0).flatten(3).any(3).all() for own in expected)  # each query has some
    some = record_attention(model, images, gradients_of=2, layers=[1])
    assert_close(list(some.own_gradients), expected[1:2])
    assert not torch.allclose(record.own_gradients[0], record.gradients[0])


def test_a_network_whose_blocks_head_or_norm_are_not_known_has_no_own_gradients():
    images = pictures(2, (32, 32))
    for model in (torchvisions(), randomize(timm_vit(global_pool="map", class_token=False))):
        assert record_attention(model, images, gradients_of=2).own_gradients is None


def test_a_network_without_logits_takes_a_function_of_its_output():
    model, images, _ = hugging_face("CLIP", "sdpa")
    record = record_attention(model, images, gradients_of=lambda out: out.pooler_output[:, 0])
    assert any(gradient.abs().max() > 0 for gradient in record.gradients)
    with pytest.raises(ValueError, match="gives no logits"):
        record_attention(model, images, gradients_of=0)


# ---- kinds of attention ----


class Custom(nn.Module):
    """One layer on patches of 8 pixels, with the attention that a test gives it."""

    def __init__(self, attend, order=lambda x: x):
        super().__init__()
        self.cut, self.qkv = nn.Conv2d(3, 24, 8, 8), nn.Linear(24, 72)
        self.attend, self.order = attend, order
        self.cls = nn.Parameter(torch.zeros(1, 1, 24))
        randomize(self)

    def forward(self, images):
        x = self.order(self.cut(images)).flatten(2).mT
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        return self.attend(q, k, v).mean(2).flatten(1)


def softmax_written_out(q, k, mask, scale):
    scores = np.einsum("bhid,bhjd->bhij", q.detach(), k.detach()) * scale
    exponential = np.exp(scores + mask)
    return torch.from_numpy(exponential / exponential.sum(-1, keepdims=True))


@pytest.mark.parametrize("kind", ["boolean", "added", "causal", "scaled", "shared heads"])
def test_every_option_of_fused_attention_is_understood(kind):
    """Masks, a scale and shared keys, against NumPy."""
    if kind == "shared heads" and "enable_gqa" not in str(F.scaled_dot_product_attention.__doc__):
        pytest.skip("PyTorch has shared heads from 2.5 on")
    allowed = torch.rand(7, 7) > 0.3
    allowed.fill_diagonal_(True)
    added = torch.randn(7, 7, dtype=torch.float64)
    options, mask, scale = {
        "boolean": ({"attn_mask": allowed}, np.where(allowed, 0, -np.inf), 12**-0.5),
        "added": ({"attn_mask": added}, added.numpy(), 12**-0.5),
        "causal": ({"is_causal": True}, np.triu(np.full((7, 7), -np.inf), 1), 12**-0.5),
        "scaled": ({"scale": 0.7}, 0, 0.7),
        "shared heads": ({"enable_gqa": True}, 0, 12**-0.5),
    }[kind]
    seen = {}

    def attend(q, k, v):
        if kind == "shared heads":
            k, v = k[:, :1], v[:, :1]
        seen["q"], seen["k"] = q, k.expand_as(q)
        return F.scaled_dot_product_attention(q, k, v, **options)

    model, images = Custom(attend), pictures()
    with torch.no_grad():
        logits = model(images)
    expected = softmax_written_out(seen["q"], seen["k"], mask, scale)
    record = record_attention(model, images)
    assert torch.equal(record.logits, logits)
    assert_close(record.weights, [expected])
    with_graph = record_attention(model, images, gradients_of=1)
    assert_close(with_graph.weights, [expected])
    assert_close(with_graph.logits, logits)


@pytest.mark.skipif(
    "enable_gqa" not in (F.scaled_dot_product_attention.__doc__ or ""),
    reason="PyTorch has shared heads from 2.5 on",
)
@pytest.mark.parametrize("gradients_of", [None, 1])
def test_query_heads_that_share_keys_are_neighbours(gradients_of):
    """Of six heads of queries, PyTorch gives 0, 1, 2 the first keys and 3, 4, 5 the second."""
    seen = {}

    def attend(q, k, v):
        q = torch.cat([q, 2 * q, -q], dim=1)  # (B, 6, T, d)
        seen["q"], seen["k"] = q, k
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    model, images = Custom(attend), pictures()
    with torch.no_grad():
        logits = model(images)
    q, k = seen["q"], seen["k"]
    record = record_attention(model, images, gradients_of=gradients_of)
    assert_close(record.logits, logits)
    for head in range(6):
        expected = softmax_written_out(q[:, head, None], k[:, head // 3, None], 0, 12**-0.5)
        assert_close(record.weights[0][:, head, None], expected)


@pytest.mark.parametrize("spelling", ["F", "torch", "method", "special", "module"])
@pytest.mark.parametrize("product", ["@", "matmul", "einsum"])
def test_plain_attention_is_seen_however_it_is_spelled(spelling, product):
    softmax = {
        "F": lambda x: F.softmax(x, dim=-1),
        "torch": lambda x: torch.softmax(x, -1),
        "method": lambda x: x.softmax(dim=3),
        "special": lambda x: torch.special.softmax(x, dim=-1),
        "module": nn.Softmax(dim=-1),
    }[spelling]
    multiply = {
        "@": lambda a, v: a @ v,
        "matmul": torch.matmul,
        "einsum": lambda a, v: torch.einsum("bhij,bhjd->bhid", a, v),
    }[product]

    def attend(q, k, v):
        weights = F.dropout(softmax(q @ k.mT / 12**0.5).to(q.dtype), 0.5, training=False)
        return multiply(weights.contiguous(), v)

    plain, fused = Custom(attend), Custom(F.scaled_dot_product_attention)
    fused.load_state_dict(plain.state_dict())
    record = record_attention(plain, pictures(), gradients_of=0)
    expected = record_attention(fused, pictures(), gradients_of=0)
    assert_close(record.weights, expected.weights)
    assert_close(record.gradients, expected.gradients)


def test_weights_are_recorded_before_a_dropout_that_a_network_leaves_on():
    """What is left of a row after dropout sums to something else than 1."""
    model = Custom(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5))
    weights = record_attention(model, pictures()).weights[0]
    assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


# ---- networks whose layers cannot be joined ----


def windows(q, k, v):
    parts = [x[:, :, 1:].unflatten(2, (2, 3)).transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    out = F.scaled_dot_product_attention(*parts)
    return out.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2, 3)


def talking_heads(q, k, v):
    weights = (q @ k.mT).softmax(-1)
    return torch.einsum("bhij,gh->bgij", weights, torch.ones(2, 2).double()) @ v


def class_attention(q, k, v):
    F.scaled_dot_product_attention(q, k, v)
    q = q + F.scaled_dot_product_attention(q[:, :, :1], k, v)
    return F.scaled_dot_product_attention(q[:, :, :1], k, v)


@pytest.mark.parametrize(
    ("attend", "sentence"),
    [
        (lambda q, k, v: v, "saw no attention in Custom: it has to call"),
        (windows, r"within windows .*maps: 4x 3x3; images: 2.*ViT, DeiT"),
        (talking_heads, "between the softmax and the values .*talking heads"),
        (class_attention, r"not all tokens attend to all \(1x7, 1x7, class or cross"),
    ],
    ids=["none", "windows", "talking heads", "class attention"],
)
def test_what_cannot_be_joined_is_refused_with_the_reason(attend, sentence):
    model = Custom(attend)
    before = everything_about(model)
    with pytest.raises(ValueError, match=sentence):
        record_attention(model, pictures())
    assert everything_about(model) == before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("swin_tiny_patch4_window7_224", "SwinTransformer attends within windows"),
        ("cait_xxs24_224", "Cait .*(talking heads|class or cross)"),
        ("pvt_v2_b0", "PyramidVisionTransformerV2 .*not all tokens attend to all"),
        ("resnet18", "saw no attention in ResNet"),
    ],
)
def test_networks_of_timm_that_cannot_be_joined_are_refused(name, sentence):
    model = timm.create_model(name)
    with pytest.raises(ValueError, match=sentence):
        record_attention(model, torch.randn(1, 3, 224, 224))


def test_tokens_in_another_order_are_found_out():
    """Column by column, from the end, and with the class token last."""

    def last(x):
        return torch.cat([x[:, :, 1:], x[:, :, :1]], dim=2)

    def class_token_last(q, k, v):
        return F.scaled_dot_product_attention(last(q), last(k), last(v))

    lines = "do not lie on a grid, row by row: those from token 1 on look at pixels"
    for model, sentence in (
        (Custom(F.scaled_dot_product_attention, order=lambda x: x.mT), lines),
        (Custom(F.scaled_dot_product_attention, order=lambda x: x.flip(2, 3)), lines),
        (Custom(class_token_last), "tokens 6 stand behind or between"),
    ):
        with pytest.raises(ValueError, match=sentence):
            record_attention(model, pictures())
    model = Custom(lambda q, k, v: (last(q) @ last(k).mT).softmax(-1) @ last(v))
    with pytest.raises(ValueError, match="tokens 6 stand behind or between"):
        record_attention(model, pictures())


def test_trials_are_made_once_for_each_model_and_size_and_anew_when_weights_change():
    model, passes = tiny_model(), []
    model.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    record_attention(model, pictures(5))
    assert passes[0] == 5
    trials = passes[1:]
    assert trials
    passes.clear()
    for _ in range(2):
        record_attention(model, pictures(5))
    assert passes == [5, 5]
    passes.clear()
    nn.init.ones_(model.head.bias)
    record_attention(model, pictures(5))
    assert passes == [5, *trials]
    passes.clear()
    other = tiny_model()
    other.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    record_attention(other, pictures(5))
    assert passes == [5, *trials]


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ("cat.jpg", "as a tensor .* got str: vit_tutorial.prepare opens a photograph"),
        (np.zeros((1, 3, 16, 24)), "got ndarray: torch.from_numpy"),
        (None, "got NoneType"),
        ([torch.zeros(3, 16, 24)], "got list"),
        (pictures()[0], r"images \(B, C, H, W\), got \(3, 16, 24\): images\[None\]"),
        (pictures()[:0], r"got \(0, 3, 16, 24\)"),
        (pictures().to_sparse(), "dense tensor"),
        (pictures().to("meta"), "device meta, where tensors hold no numbers"),
        (
            pictures().float(),
            "float32 on cpu .its own weights are torch.float64",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_are_no_images_for_the_model_is_named_with_the_remedy(images, sentence):
    with pytest.raises(ValueError, match=sentence):
        record_attention(tiny_model(), images)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("vit", "expected a model .* got str"),
        (VisionTransformer, "got the class VisionTransformer"),
        (tiny_model().to("meta"), "device meta"),
        (nn.Sequential(nn.LazyConv2d(3, 1), tiny_model()), "lazy layers"),
    ],
)
def test_what_is_no_model_to_record_is_named(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        record_attention(model, pictures())


def test_an_exported_network_is_refused_in_a_sentence():
    exported = torch.export.export(tiny_model(), (pictures(),)).module()
    with pytest.raises(ValueError, match=r"exported program, .* network that it was made of"):
        record_attention(exported, pictures())


def test_one_model_recorded_by_several_threads_is_left_as_it_was():
    model, images = tiny_model().train(), pictures()
    expected = record_attention(model, images, gradients_of=1)
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(record_attention, model, images, gradients_of=1) for _ in range(12)]
    for task in tasks:
        assert_close(task.result().gradients, expected.gradients)
    assert all(module.training for module in model.modules())


class Changed(nn.Module):
    """Our network, with something done to what it reads or to what it returns."""

    def __init__(self, before=lambda x: x, after=lambda y: y):
        super().__init__()
        self.net, self.before, self.after = tiny_model(), before, after

    def forward(self, images):
        return self.after(self.net(self.before(images)))


def test_images_that_a_network_changes_stay_as_they_are():
    images = pictures()
    record = record_attention(Changed(before=lambda x: x.mul_(2)), images)
    assert torch.equal(images, pictures())
    assert_close(record.weights, record_attention(tiny_model(), 2 * images).weights)


@pytest.mark.parametrize("answer", [None, "cat", 0.5, [], ["cat", "dog"]])
def test_a_network_that_returns_no_tensor_is_recorded(answer):
    record = record_attention(Changed(after=lambda y: answer), pictures())
    assert_close(record.weights, record_attention(tiny_model(), pictures()).weights)
    assert (record.logits, record.head_reads) == (None, ())


def test_a_network_that_cannot_be_differentiated_says_so():
    def in_place(x):
        return torch.mul(x, 2, out=torch.empty_like(x))

    model = Changed(after=in_place)
    assert record_attention(model, pictures()).default_query == 0
    with pytest.raises(NoGradient, match=r"runs without gradients only: .* out=\.\.\. arguments"):
        record_attention(model, pictures(), gradients_of=1)
    with pytest.raises(ValueError, match=r"Changed does not run on images .* KeyError: 'x'"):
        record_attention(Changed(after=lambda y: {}["x"]), pictures(), gradients_of=1)


@pytest.mark.parametrize(("bad", "layer"), [("parameters", 1), ("images", 0)])
def test_numbers_that_are_not_finite_are_refused(bad, layer):
    model, images = tiny_model(), pictures()
    if bad == "parameters":
        model.blocks[1].attn.qkv.weight.data[5, 5] = torch.nan
    else:
        images[1, 0, 9, 9] = torch.inf
    with pytest.raises(ValueError, match=f"layer {layer} are not all finite.* NaN or infinity"):
        record_attention(model, images)


def test_one_token_attends_to_itself():
    record = record_attention(tiny_model(img_size=8, pool="mean"), pictures(size=(8, 8)))
    assert record.grid == (1, 1)
    assert rollout(record).tolist() == [[[1.0]], [[1.0]]]


# ---- what is left behind ----


class Merging(nn.Linear):
    """A layer that adds a low-rank change to its weights in evaluation mode, as LoRA's do."""

    def __init__(self, inside, outside):
        super().__init__(inside, outside)
        self.down = nn.Parameter(torch.randn(2, inside))
        self.up = nn.Parameter(torch.randn(outside, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * (self.up @ self.down).detach()
            self.merged = not mode
        return self

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias)
        return y if self.merged else y + x @ self.down.T @ self.up.T


def merging_model() -> VisionTransformer:
    model = tiny_model().float().train()
    for block in model.blocks:
        block.attn.qkv = Merging(24, 72)
    return model


@pytest.mark.parametrize("gradients_of", [None, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_layers_that_merge_their_weights_are_unmerged_to_the_bit(gradients_of, fails):
    model, images = merging_model(), pictures().float()
    before = everything_about(model)
    expected = model(images).detach()
    torch.manual_seed(5)
    random = torch.get_rng_state()
    if fails:
        with pytest.raises(ValueError, match="layers must be"):
            record_attention(model, images, gradients_of=gradients_of, layers=[9])
    else:
        record = record_attention(model, images, gradients_of=gradients_of)
        assert_close(record.logits, expected, rtol=1e-3, atol=1e-4)
    assert everything_about(model) == before
    assert [block.attn.qkv.merged for block in model.blocks] == [False] * 3
    assert torch.equal(torch.get_rng_state(), random)
    model(images).sum().backward()
    assert all(block.attn.qkv.up.grad is not None for block in model.blocks)


@pytest.mark.parametrize("gradients_of", [None, 1])
def test_buffers_random_numbers_and_attributes_are_as_they_were(gradients_of):
    class Counting(nn.Module):
        """A network that counts its passes, draws numbers, and remembers what it saw."""

        def __init__(self):
            super().__init__()
            self.net = tiny_model()
            self.register_buffer("passes", torch.zeros(()))
            self.register_buffer("mean", torch.zeros(()))

        def forward(self, images):
            self.passes += 1
            self.mean = images.mean()
            self.seen = len(images)
            return self.net(images) + 0 * torch.rand(())

    model = Counting()
    with torch.no_grad():
        model(pictures(1))
    before, mean, random = everything_about(model), model.mean, torch.get_rng_state()
    record_attention(model, pictures(2), gradients_of=gradients_of)
    assert everything_about(model) == before
    assert model.mean is mean
    assert model.seen == 2  # of the pass itself, not of a trial
    assert torch.equal(torch.get_rng_state(), random)


# ---- what networks answer ----


class Answers(nn.Module):
    """Our network, with something made of its logits."""

    def __init__(self, form, **changes):
        super().__init__()
        self.net, self.form = tiny_model(**changes), form

    def forward(self, images):
        return self.form(self.net(images))


FORMS = {
    "tuple": lambda y: (y, [y]),
    "twice": lambda y: (y, y),
    "list": lambda y: [y],
    "logits": lambda y: {"features": y.repeat(1, 2), "logits": y},
    "out": lambda y: {"aux": -y, "out": y},
    "another name": lambda y: {"species": y},
    "features beside": lambda y: (y, torch.zeros(len(y), 3, 4)),
    "object": lambda y: transformers.modeling_outputs.ImageClassifierOutput(logits=y),
    "trailing axes": lambda y: y[..., None, None],
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("count", [1, 2])
def test_logits_are_found_in_what_a_network_returns(name, count):
    images = pictures(count)
    expected = record_attention(tiny_model(), images, gradients_of=2)
    record = record_attention(Answers(FORMS[name]), images, gradients_of=2)
    assert_close(record.logits, expected.logits)
    assert_close(record.gradients, expected.gradients)
    assert (record.output_kind, record.default_query) == ("logits", 0)
    assert_close(record.probabilities(), expected.logits.float().softmax(1))


@pytest.mark.parametrize("count", [1, 2])
def test_squeezed_logits_are_laid_out_by_image(count):
    images = pictures(count)
    single = record_attention(Answers(lambda y: y[:, :1]), images, gradients_of=0)
    squeezed = record_attention(Answers(lambda y: y[:, 0]), images, gradients_of=0)
    assert single.logits.shape == squeezed.logits.shape == (count, 1)
    assert_close(squeezed.logits, single.logits)
    assert_close(squeezed.gradients, single.gradients)
    record = record_attention(Answers(torch.squeeze), pictures(1), gradients_of=3)
    assert record.logits.shape == (1, 5)


def test_of_several_outputs_the_logits_are_asked_for():
    model, images = Answers(lambda y: (y @ y.new_ones(5, 7), y)), pictures()
    expected = record_attention(model.net, images, gradients_of=1)
    assert record_attention(model, images).logits is None
    with pytest.raises(ValueError, match=r"several tables .*\(2, 7\), \(2, 5\).*logits_of="):
        record_attention(model, images, gradients_of=1)
    for asked in ({"logits_of": 1}, {"logits_of": lambda out: out[1]}, {"num_classes": 5}):
        record = record_attention(model, images, gradients_of=1, **asked)
        assert_close(record.logits, expected.logits)
        assert_close(record.gradients, expected.gradients)
    with pytest.raises(ValueError, match="logits_of=2 is not in the model's output"):
        record_attention(model, images, logits_of=2)
    with pytest.raises(ValueError, match=r"must lead to a tensor \(B, num_classes\) with B = 2"):
        record_attention(model, images, logits_of=lambda out: out[1][0])


def small(y):
    """Logits that all lie between 0 and 1, as those of an untrained network may."""
    return y.abs() / (2 * y.abs().max())


@pytest.mark.parametrize(
    ("form", "kind", "probabilities"),
    [
        (lambda y: y.sigmoid(), "independent", lambda y: y.sigmoid()),
        (lambda y: torch.sigmoid(y)[:, :], "independent", lambda y: y.sigmoid()),
        (nn.Softmax(dim=1), "probabilities", lambda y: y.softmax(1)),
        (lambda y: F.log_softmax(y, 1), "logits", lambda y: y.softmax(1)),
        (lambda y: y[:, :1], "values", None),
        (lambda y: y[:, :1].sigmoid().squeeze(1), "independent", lambda y: y[:, :1].sigmoid()),
        (lambda y: y.softmax(1).clamp(1e-6, 1) * 1.0, "probabilities", lambda y: y.softmax(1)),
        (lambda y: y.exp() / y.exp().sum(1, keepdim=True), "probabilities", lambda y: y.softmax(1)),
        (lambda y: y.sigmoid_(), "independent", lambda y: y.sigmoid()),
        (lambda y: 1 / (1 + (-y).exp()), "independent", lambda y: y.sigmoid()),
        (lambda y: torch.special.expit(y).clone(), "independent", lambda y: y.sigmoid()),
        (small, "logits", lambda y: small(y).softmax(1)),
    ],
)  # fmt: skip
def test_outputs_are_named_as_what_they_are(form, kind, probabilities):
    record = record_attention(Answers(form), pictures())
    assert record.output_kind == kind
    if probabilities is None:
        assert record.probabilities() is None
    else:
        logits = record_attention(tiny_model(), pictures()).logits
        assert_close(record.probabilities(), probabilities(logits).float())


# ---- heads joined while recording ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("head_fusion", ["mean", "max", "min"])
def test_heads_joined_while_recording_are_those_joined_afterwards(head_fusion, dtype):
    model, images = tiny_model().to(dtype), pictures().to(dtype)
    every = record_attention(model, images)
    record = record_attention(model, images, head_fusion=head_fusion)
    assert [tuple(w.shape) for w in record.weights] == [(2, 1, 7, 7)] * 3
    loose = {} if dtype == torch.float64 else {"rtol": 1e-2, "atol": 1e-2}
    options = {"head_fusion": head_fusion, "discard_ratio": 0.3}
    assert_close(rollout(record, **options), rollout(every, **options), **loose)
    assert torch.equal(record.logits, every.logits)
    other = "max" if head_fusion == "mean" else "mean"
    with pytest.raises(ValueError, match=f"only the {head_fusion} of the heads was recorded"):
        rollout(record, head_fusion=other)


def test_no_head_alone_is_shown_of_heads_that_were_joined():
    record = record_attention(tiny_model(), pictures(), head_fusion="mean")
    every = record_attention(tiny_model(), pictures())
    assert_close(attention_map(record), attention_map(every))
    for ask in (lambda: attention_map(record, head=0), lambda: attention_entropy(record)):
        with pytest.raises(ValueError, match="only the mean of the heads was recorded"):
            ask()
    for options in ({"head_fusion": "sum"}, {"head_fusion": "mean", "gradients_of": 1}):
        with pytest.raises(ValueError, match="head_fusion must be one of mean, max, min, without"):
            record_attention(tiny_model(), pictures(), **options)


@pytest.mark.parametrize("asked", [{"head_fusion": "mean"}, {}, {"gradients_of": 1}])
def test_weights_of_one_layer_at_most_are_held_unless_they_are_read(asked, monkeypatch):
    model, alive, most = tiny_model(depth=6), [], []

    def computed(*args, **options):
        weights = original(*args, **options)
        alive.append(weakref.ref(weights))
        most.append(sum(one() is not None for one in alive))
        return weights

    original = calls.attention_weights
    monkeypatch.setattr(calls, "attention_weights", computed)
    record = record_attention(model, pictures(), **asked)
    for method in ("rollout", "chefer", "legrad") if record.gradients else ("rollout",):
        heat_map(record, method)
    assert len(most) >= 6
    assert max(most) == 1
    if record.head_fusion is None:
        assert record.weights[2] is record.weights[2]
        assert sum(one() is not None for one in alive) == 1
