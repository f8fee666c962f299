"""The network in JavaScript is the one in Python: logits, attention, and gradients of attention."""

import copy
import random
import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import randomize
from safetensors.torch import save

from vit_tutorial import VisionTransformer, ViTConfig, record_attention
from vit_tutorial.attention import relevance
from vit_tutorial.compress import silence_heads
from vit_tutorial.positions import rotate

FORWARD = """
  return data.map(({ config, weights, pixels, size, options = {} }) => {
    let vit = new VisionTransformer(config, readSafetensors(weights));
    if (size) vit = vit.resized(size);
    return vit.forward(pixels, options);
  });
"""
MODULES = ["vit.js", "safetensors.js", "vit_backward.js"]
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def random_config(seed: int) -> tuple[ViTConfig, tuple[int, int] | None]:
    """A config of any kind, and for two of three another size of the image."""
    rng = random.Random(seed)
    patch = rng.choice((1, 2, 3, 4))
    positions = ("none", "learned", "sincos", "rope")[seed % 4]
    heads = rng.randint(1, 4)
    width = rng.choice((4, 8, 12)) if positions in ("rope", "sincos") else rng.randint(1, 9)

    def size() -> tuple[int, int]:
        return patch * rng.randint(1, 6), patch * rng.randint(1, 6)

    config = ViTConfig(
        img_size=size(), patch_size=patch, in_chans=rng.choice((1, 3)),
        num_classes=rng.randint(1, 7), embed_dim=width * heads, depth=rng.randint(1, 4),
        num_heads=heads, mlp_ratio=rng.choice((0.5, 1.3, 4)), pos_embed=positions,
        pool=("cls", "mean")[seed // 4 % 2], norm_eps=rng.choice((1e-6, 1e-3)),
    )  # fmt: skip
    return config, size() if seed % 3 else None


def checkpoint(model: VisionTransformer, kind: str = "F32") -> bytes:
    """The bytes of a file of its weights, which the model itself is rounded to."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(TYPES[kind]).double()
    state = {name: value.to(TYPES[kind]) for name, value in model.state_dict().items()}
    return save(state, metadata={"format": "pt"})


def network(**changes) -> VisionTransformer:
    config = {"img_size": (8, 12), "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3,
              "num_classes": 5, **changes}  # fmt: skip
    return randomize(VisionTransformer(ViTConfig(**config)))


def image_for(model: VisionTransformer, seed: int = 0) -> torch.Tensor:
    shape = 1, model.config.in_chans, *model.config.image_hw
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).double()


def case_of(model: VisionTransformer, **more) -> dict:
    pixels = image_for(model)[0].float().numpy()
    return {"config": asdict(model.config), "weights": checkpoint(model), "pixels": pixels, **more}


def attention_of(model: VisionTransformer, pixels: torch.Tensor) -> tuple[torch.Tensor, list]:
    """Logits of an image, and the weights (h, T, T) of every layer."""
    layers = []

    def note(attn, inputs):
        x, rope = inputs
        q, k, _ = attn.qkv(x)[0].unflatten(1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
        q, k = (q, k) if rope is None else (rotate(q, rope), rotate(k, rope))
        layers.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1))

    hooks = [block.attn.register_forward_pre_hook(note) for block in model.blocks]
    with torch.no_grad():
        logits = model(pixels)[0]
    for hook in hooks:
        hook.remove()
    return logits, layers


def require_equal(came: dict, model: VisionTransformer, pixels: torch.Tensor) -> None:
    """Logits and all attention weights, within 1e-5 of what Python computes in float64."""
    logits, layers = attention_of(model, pixels)
    near(came["logits"], logits)
    assert len(came["attention"]) == len(layers)
    for found, weights in zip(came["attention"], layers, strict=True):
        near(found, weights)


def near(found: np.ndarray, expected: torch.Tensor) -> None:
    assert found.size == expected.numel()
    np.testing.assert_allclose(found, expected.detach().numpy().ravel(), rtol=0, atol=1e-5)


def test_any_network_of_any_size_is_the_one_in_python(javascript):
    cases, expected = [], []
    for seed in range(24):
        config, size = random_config(seed)
        model = randomize(VisionTransformer(config), seed)
        weights = checkpoint(model, list(TYPES)[seed % 3])
        model = model.resized(size) if size else model
        pixels = image_for(model, seed)
        cases.append({"config": asdict(config), "weights": weights, "size": size,
                      "pixels": pixels[0].float().numpy()})  # fmt: skip
        expected.append((model, pixels))
    came = javascript(MODULES, FORWARD, cases)
    for answer, (model, pixels) in zip(came, expected, strict=True):
        require_equal(answer, model, pixels)


@pytest.mark.parametrize("pos_embed", ["learned", "sincos", "rope"])
def test_a_network_saved_at_another_size_than_it_was_trained_at(javascript, pos_embed):
    model = network(pos_embed=pos_embed).resized((16, 8))
    assert model.config.trained_grid == (2, 3)
    again = model.resized((4, 20))
    came = javascript(MODULES, FORWARD, [
        case_of(model), case_of(model, size=(4, 20), pixels=image_for(again)[0].float().numpy())
    ])  # fmt: skip
    require_equal(came[0], model, image_for(model))
    require_equal(came[1], again, image_for(again))


# ---- What can be changed in a forward pass ----


def without_positions(model):
    if model.rope is not None:
        model.rope.zero_()
    if model.pos_embed is not None:
        model.pos_embed.data[:, model.config.num_prefix :] = 0
    return model


def warmer(model, temperature):
    dim = model.config.embed_dim
    for block in model.blocks:
        block.attn.qkv.weight.data[:dim] /= temperature
        block.attn.qkv.bias.data[:dim] /= temperature
    return model


def skipping(model, layers):
    for layer in layers:
        for part in (model.blocks[layer].attn.proj, model.blocks[layer].mlp.fc2):
            part.weight.data.zero_()
            part.bias.data.zero_()
    return model


CHANGES = {
    "positions": ({"positions": False}, without_positions),
    "silenced": (
        {"silenced": {"0": [1], "2": [0, 2]}},
        lambda model: silence_heads(model, {0: [1], 2: [0, 2]}),
    ),
    "all heads": ({"silenced": {"1": [0, 1, 2]}}, lambda m: silence_heads(m, {1: [0, 1, 2]})),
    "skipped": ({"skipped": [0, 2]}, lambda model: skipping(model, [0, 2])),
    "temperature": ({"temperature": 2.5}, lambda model: warmer(model, 2.5)),
}


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_what_is_changed_is_what_a_changed_network_says(javascript, pos_embed, pool):
    model = network(pos_embed=pos_embed, pool=pool)
    cases = [case_of(model, options=options) for options, _ in CHANGES.values()]
    quick = [{**case, "options": {**case["options"], "attention": False}} for case in cases]
    came = javascript(MODULES, FORWARD, cases + quick)
    for n, (_, changed) in enumerate(CHANGES.values()):
        expected = changed(copy.deepcopy(model))
        require_equal(came[n], expected, image_for(model))
        assert came[len(cases) + n]["attention"] == [None] * 3
        near(came[len(cases) + n]["logits"], expected(image_for(model))[0])


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_patches_are_dropped_and_shuffled(javascript, pos_embed, pool):
    model = network(pos_embed=pos_embed, pool=pool)
    visible, order = [4, 0, 3], [2, 0, 1, 5, 4, 3]
    case = case_of(model)
    came = javascript(MODULES, FORWARD, [
        {**case, "options": {"visible": visible}},
        {**case, "options": {"order": order}},
        {**case, "options": {"order": order, "visible": visible}},
    ])  # fmt: skip
    pixels = image_for(model)
    patches = pixels.unflatten(2, (2, 4)).unflatten(4, (3, 4))  # (1, C, rows, P, columns, P)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, order].unflatten(1, (2, 3))
    shuffled = patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    require_equal(came[1], model, shuffled)
    for answer, seen in ((came[0], pixels), (came[2], shuffled)):
        near(answer["logits"], model(seen, visible=torch.tensor([visible]))[0])
        tokens = len(visible) + model.config.num_prefix
        assert [layer.size for layer in answer["attention"]] == 3 * [3 * tokens**2]


def test_a_pass_goes_on_from_any_layer(javascript):
    model = network()
    case = case_of(model)
    body = """
  const vit = new VisionTransformer(data.config, readSafetensors(data.weights));
  const streams = [0, 1, 2, 3].map(() => new Float32Array(7 * 24));
  vit.forward(data.pixels, { streams });
  const saved = streams.map((stream) => stream.slice());
  const later = [1, 2].map((l) => vit.forwardFrom(l, streams[l], { silenced: { 2: [1] } }));
  return { streams, saved, later };
"""
    came = javascript(MODULES, body, case)
    with torch.no_grad():
        x = model.embed(image_for(model))
        for block, stream in zip(model.blocks, came["saved"], strict=False):
            near(stream, x)
            x = block(x)
    near(came["saved"][3][:24], x[0, 0])  # of the last layer, the head reads CLS alone
    for saved, stream in zip(came["saved"], came["streams"], strict=True):
        np.testing.assert_array_equal(saved, stream)
    for later in came["later"]:
        near(later["logits"], silence_heads(model, {2: [1]})(image_for(model))[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("config.img_size = 30", "img_size 30x30 is no multiple of patch_size 4"),
        ("config.depth = 4", r"a tensor blocks.3.norm1.weight of shape \(24\), .* have none"),
        ("config.num_classes = 6", r"head.weight of shape \(6,24\), the weights have \(5,24\)"),
        ("pixels = pixels.slice(1)", r"an image \(3, 8, 12\), got 287 numbers"),
        ("options = { visible: [6] }", "patches are numbered 0 to 5"),
        ("weights = weights.slice(0, 4)", "expected the bytes of a .safetensors file"),
        ("weights = weights.slice(0, 9000)", "ends before .* does"),
    ],
)
def test_what_does_not_fit_together_is_refused(javascript, change, said):
    body = f"""
  let {{ config, weights, pixels }} = data;
  let options = {{}};
  {change};
  try {{
    new VisionTransformer(config, readSafetensors(weights)).forward(pixels, options);
    return "nothing";
  }} catch (error) {{
    return error.message;
  }}
"""
    assert re.search(said, javascript(MODULES, body, case_of(network())))


# ---- Chefer's rule ----

BACKWARD = """
  return data.map(({ config, weights, pixels, target, options }) => {
    const vit = new VisionTransformer(config, readSafetensors(weights));
    const record = attentionGradients(vit, pixels, target, options);
    return { ...record, relevance: chefer(vit.config, record) };
  });
"""
NETWORKS = [
    {"pos_embed": kind, "pool": pool, **more}
    for kind, pool, more in [
        ("learned", "cls", {}), ("none", "mean", {"in_chans": 1}), ("rope", "cls", {"depth": 1}),
        ("rope", "mean", {"mlp_ratio": 0.5}), ("sincos", "mean", {"depth": 4, "num_heads": 6}),
    ]
]  # fmt: skip


def require_equal_gradients(came: dict, model: VisionTransformer, target: int) -> None:
    record = record_attention(model, image_for(model), gradients_of=target)
    require_equal(came, model, image_for(model))
    assert record.gradients is not None
    for found, gradient in zip(came["gradients"], record.gradients, strict=True):
        near(found, gradient[0])
    query = 0 if model.config.num_prefix else "all"
    near(came["relevance"], relevance(record, method="chefer", query=query)[0])


def test_gradients_of_attention_and_chefers_map_are_those_of_python(javascript):
    models = [network(**changes) for changes in NETWORKS]
    cases = [case_of(model, target=n, options={}) for n, model in enumerate(models)]
    for target, (came, model) in enumerate(
        zip(javascript(MODULES, BACKWARD, cases), models, strict=True)
    ):
        require_equal_gradients(came, model, target)


@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_chefers_map_of_a_changed_network(javascript, pos_embed):
    model = network(pos_embed=pos_embed)
    cases = [case_of(model, target=2, options=options) for options, _ in CHANGES.values()]
    came = javascript(MODULES, BACKWARD, cases)
    for answer, (_, changed) in zip(came, CHANGES.values(), strict=True):
        require_equal_gradients(answer, changed(copy.deepcopy(model)), 2)
