"""Smaller and faster networks against slow, plain versions of the same, in float64."""

import copy
import math
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from torch import nn
from torch.testing import assert_close

from vit_tutorial import TrainConfig, VisionTransformer, ViTConfig, fit
from vit_tutorial.compress import (
    Int8Linear,
    TokenMerging,
    distillation,
    every_other_layer,
    export,
    head_importance,
    merge_matrix,
    num_bytes,
    prune_heads,
    quantized,
    ratio,
    save_onnx,
    silence_heads,
    time_in_turns,
    to_int8,
)
from vit_tutorial.data import digits

SMALL = ViTConfig(img_size=(12, 8), patch_size=2, num_classes=5, embed_dim=24, depth=3, num_heads=3)


def tiny(**changes) -> VisionTransformer:
    return randomize(VisionTransformer(replace(SMALL, **changes)))


def pictures(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 12, 8, dtype=torch.float64)


# ---- integers ----


def test_whole_numbers_are_within_half_a_step_of_the_values_and_reach_127():
    values = torch.randn(5, 7, 40, dtype=torch.float64) * torch.logspace(-6, 6, 5)[:, None, None]
    whole, scale = quantized(values)
    assert whole.dtype == torch.int8
    assert whole.abs().amax(dim=-1).eq(127).all()
    assert ((whole * scale - values).abs() <= 0.5000001 * scale).all()


def test_a_row_of_zeros_stays_one():
    whole, scale = quantized(torch.zeros(2, 3))
    assert_close((whole * scale).float(), torch.zeros(2, 3))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [40, 1500])  # 1500 products of 127 * 127 are too many for float32
def test_a_layer_in_8_bits_multiplies_whole_numbers_exactly(width, bias):
    layer = nn.Linear(width, 6, bias=bias)
    x = 3 * torch.randn(2, 5, width)
    x[0, 0], layer.weight.data[0] = 1.0, 1.0  # the largest sum that can be
    small = Int8Linear(layer)
    whole, scale = quantized(x)
    weight, weight_scale = quantized(layer.weight)
    exact = whole.long() @ weight.long().mT
    expected = exact.double() * scale.double() * weight_scale.double().squeeze(-1)
    if bias:
        expected = expected + layer.bias.double()
    assert_close(small(x), expected.float())
    assert_close(small(x), layer(x), rtol=0, atol=0.02 * layer(x).abs().max().item())


def test_a_network_in_8_bits_has_no_other_linear_layers_and_a_quarter_of_the_bytes():
    model = VisionTransformer(replace(SMALL, embed_dim=192)).eval()
    before = copy.deepcopy(model.state_dict())
    small = to_int8(model)
    assert not [m for m in small.modules() if isinstance(m, nn.Linear)]
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    outputs = sum(m.out_features for m in model.modules() if isinstance(m, nn.Linear))
    assert num_bytes(model) - num_bytes(small) == 3 * linear - 4 * outputs
    images = pictures().float()
    assert_close(small(images), model(images), rtol=0, atol=0.05 * model(images).std().item())
    assert not small(images).equal(model(images))
    for name, value in model.state_dict().items():
        assert value.equal(before[name])


# ---- heads ----


@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_importance_is_the_slope_along_a_gate_on_each_head(pos_embed):
    """Against gates that are there, moved a little up and down, for one image after the other."""
    model, images = tiny(pos_embed=pos_embed), pictures()
    labels = torch.tensor([4, 0, 2])

    def loss(layer: int, head: int, gate: float, image: int) -> float:
        gated = copy.deepcopy(model)
        with torch.no_grad():
            gated.blocks[layer].attn.proj.weight[:, 8 * head : 8 * head + 8] *= gate
            return F.cross_entropy(gated(images[image, None]), labels[image, None]).item()

    measured = head_importance(model, images, labels)
    assert [tuple(layer.shape) for layer in measured] == [(3,)] * 3
    for layer in range(3):
        for head in range(3):
            slopes = [
                (loss(layer, head, 1 + 1e-5, n) - loss(layer, head, 1 - 1e-5, n)) / 2e-5
                for n in range(3)
            ]
            expected = sum(map(abs, slopes)) / 3
            assert measured[layer][head].item() == pytest.approx(expected, rel=1e-5)


def test_measuring_importance_leaves_nothing_behind():
    model, images = tiny().requires_grad_(False), pictures()
    with torch.no_grad():
        head_importance(model, images, torch.tensor([4, 0, 2]))
    assert not images.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_pruned_head_says_as_little_as_one_that_is_not_read():
    model, images = tiny(), pictures()
    silent = copy.deepcopy(model)
    gone = {0: [1], 2: [2, 0]}
    for layer, heads in gone.items():
        for head in heads:
            silent.blocks[layer].attn.proj.weight.data[:, 8 * head : 8 * head + 8] = 0
    assert_close(silence_heads(model, gone)(images), silent(images), rtol=0, atol=0)
    assert_close(silence_heads(model, {})(images), model(images), rtol=0, atol=0)
    pruned = prune_heads(model, gone)
    assert_close(pruned(images), silent(images))
    assert [block.attn.num_heads for block in pruned.blocks] == [2, 3, 1]
    one_head = 8 * (3 * 24 + 3 + 24)
    assert num_bytes(model) - num_bytes(pruned) == 8 * 3 * one_head
    twice = prune_heads(prune_heads(model, {2: [2]}), {0: [1], 2: [0]})
    assert_close(twice(images), pruned(images))
    assert len(head_importance(pruned, images, torch.tensor([4, 0, 2]))[2]) == 1


@pytest.mark.parametrize(
    ("heads", "sentence"),
    [
        ({3: [0]}, "layers 0 to 2, got 3"),
        ({1: [3]}, r"layer 1 has heads 0 to 2, got \[3\]"),
        ({1: [0, 1, 2]}, "layer 1 must keep one of its 3 heads"),
    ],
)
def test_heads_that_are_not_there_or_all_of_a_layer_are_refused(heads, sentence):
    with pytest.raises(ValueError, match=sentence):
        prune_heads(tiny(), heads)
    if "must keep" not in sentence:
        with pytest.raises(ValueError, match=sentence):
            silence_heads(tiny(), heads)


# ---- tokens ----


def slow_groups(keys: torch.Tensor, r: int, prefix: int) -> list[list[int]]:
    """Which tokens become one, for one image, by sorting all pairs."""
    count = len(keys)
    pairs = []
    for even in range(0, count, 2):
        alike = {
            odd: float(keys[even] @ keys[odd] / keys[even].norm() / keys[odd].norm())
            for odd in range(1, count, 2)
        }
        if even >= prefix and alike:
            odd = max(alike, key=alike.__getitem__)
            pairs.append((alike[odd], even, odd))
    goes = {even: odd for _, even, odd in sorted(pairs, reverse=True)[:r]}
    stays = [token for token in range(count) if token not in goes]
    return [[t for t in range(count) if t == stay or goes.get(t) == stay] for stay in stays]


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 9, 10])
@pytest.mark.parametrize("r", [0, 1, 3, 50])
def test_the_most_alike_pairs_become_one(r, count, prefix):
    keys = torch.randn(4, count, 6, dtype=torch.float64)
    matrix = merge_matrix(keys, r, prefix)
    for image in range(4):
        groups = [row.nonzero().flatten().tolist() for row in matrix[image]]
        assert groups == slow_groups(keys[image], r, prefix)
    assert matrix.unique().tolist() in ([0, 1], [1])
    assert matrix.sum(dim=1).eq(1).all(), "every token is in one row"


@pytest.mark.parametrize(("r", "prefix"), [(-1, 1), (2, 2)])
def test_what_cannot_be_merged_is_refused(r, prefix):
    with pytest.raises(ValueError, match=f"got {r} and {prefix}"):
        merge_matrix(torch.randn(1, 6, 4), r, prefix)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_merging_nothing_changes_nothing(pool):
    model, images = tiny(pool=pool), pictures()
    assert_close(TokenMerging(model, 0)(images), model(images))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_tokens_that_are_equal_merge_without_a_trace(pool):
    """Where all patches are alike and have no place, it does not matter how many there are."""
    model = tiny(pool=pool, pos_embed="none")
    images = torch.randn(3, 3, 1, 1, dtype=torch.float64).expand(3, 3, 12, 8)
    tokens, _ = TokenMerging(model, 4).forward_features(images)
    assert tokens.shape[1] == SMALL.num_patches + (pool == "cls") - 3 * 4
    assert_close(TokenMerging(model, 4)(images), model(images))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_every_token_ends_in_one_row_and_cls_alone_in_the_first(pool):
    model, images = tiny(pool=pool), pictures()
    tokens, sources = TokenMerging(model, 5).forward_features(images)
    assert tokens.shape[:2] == sources.shape[:2]
    assert sources.sum(dim=1).eq(1).all()
    if pool == "cls":
        assert sources[:, 0].sum(dim=1).eq(1).all()
        assert sources[:, 0, 0].eq(1).all()
    assert not torch.allclose(TokenMerging(model, 5)(images), model(images))


def test_a_merged_token_is_the_mean_of_its_patches_and_counts_so_often():
    """One block by a slow loop: attention with every key repeated, then means of groups."""
    model, images = tiny(depth=1), pictures(2)
    block = model.blocks[0]
    kept = {}
    block.attn.qkv.register_forward_hook(lambda _, given, out: kept.setdefault("qkv", out))
    x = model.embed(images)
    after = x + block.attn(block.norm1(x))
    keys = kept["qkv"].detach().unflatten(-1, (3, 3, 8))[:, :, 1].mean(dim=2)
    rows = []
    for image in range(2):
        groups = slow_groups(keys[image], 4, 1)
        rows.append(torch.stack([after[image, group].mean(dim=0) for group in groups]))
    x = torch.stack(rows)
    x = x + block.mlp(block.norm2(x))
    assert_close(TokenMerging(model, 4)(images), model.head(model.norm(x)[:, 0]))


def test_rotary_positions_cannot_be_merged():
    with pytest.raises(ValueError, match="an angle for each patch"):
        TokenMerging(tiny(pos_embed="rope"), 2)


# ---- layers ----


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_a_student_has_every_other_layer(depth):
    model, images = tiny(depth=depth), pictures()
    x = model.embed(images)
    for number in range(0, depth, 2):
        x = model.blocks[number](x)
    student = every_other_layer(model)
    assert student.config == replace(model.config, depth=math.ceil(depth / 2))
    assert_close(student(images), model.head(model.norm(x)[:, 0]))
    student.head.weight.data.zero_()
    assert model.head.weight.abs().sum() > 0


def test_distillation_is_hintons_formula():
    teacher, student, images = tiny(), tiny(depth=1), pictures()
    targets = torch.eye(5, dtype=torch.float64)[[4, 0, 2]]
    p, q = (model(images).div(3.0).softmax(dim=-1) for model in (teacher, student))
    soft = sum((p[n] * (p[n] / q[n]).log()).sum() for n in range(3)) / 3 * 9
    hard = -(targets * student(images).log_softmax(dim=-1)).sum(dim=-1).mean()
    loss = distillation(teacher, temperature=3.0, share=0.7)(student, images, targets)
    assert_close(loss, 0.7 * soft + 0.3 * hard)
    itself = distillation(teacher, share=1.0)(teacher, images, targets)
    assert_close(itself, torch.zeros_like(itself))
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_learns_from_a_teacher_by_the_same_loop():
    train = digits("train")[:320]
    config = ViTConfig(img_size=8, patch_size=2, in_chans=1, embed_dim=16, depth=2, num_heads=2)
    teacher = VisionTransformer(config).eval()
    student = VisionTransformer(config)
    rows = fit(
        student,
        train,
        None,
        TrainConfig(epochs=8, batch_size=32, lr=5e-3),
        objective=distillation(teacher, share=1.0),
    )
    assert rows[-1]["loss"] < rows[0]["loss"] / 2


@pytest.mark.parametrize(("temperature", "share"), [(0, 0.5), (-1, 0.5), (2, 1.1), (2, -0.1)])
def test_temperature_and_share_have_their_ranges(temperature, share):
    with pytest.raises(ValueError, match=r"temperature > 0 and share in 0\.\.1"):
        distillation(nn.Identity(), temperature, share)


# ---- clock and export ----


def test_calls_are_timed_in_turns_there_and_back():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = time_in_turns(calls, rounds=3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    with pytest.raises(ValueError, match="at least one round, got 0"):
        time_in_turns(calls, rounds=0)


def test_a_ratio_compares_round_by_round():
    assert ratio([1.0, 2.0, 4.0], [2.0, 8.0, 4.0]) == (2.0, 1.0, 4.0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_program_is_the_network_for_any_number_of_images(pool):
    model = tiny(pool=pool, drop_path=0.5).train()
    model.blocks[0].eval()  # a part that is not trained
    modes = [module.training for module in model.modules()]
    program = export(model, pictures(2))
    assert [module.training for module in model.modules()] == modes
    model.eval()
    for count in (1, 5):
        images = pictures(count)
        assert_close(program.module()(images), model(images))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_an_exported_network_gives_the_same_logits_for_any_number_of_images(tmp_path, pool):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = VisionTransformer(replace(SMALL, pool=pool, drop_path=0.5)).train()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    images = pictures(2).float()
    assert save_onnx(model, images, tmp_path / "vit.onnx") < 1e-4
    assert all(module.training for module in model.modules())
    model.eval()
    assert [path.name for path in tmp_path.iterdir()] == ["vit.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "vit.onnx"))
    more = pictures(5).float()
    (logits,) = session.run(None, {"images": more.numpy()})
    assert_close(torch.from_numpy(logits), model(more), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_without_its_libraries_an_export_says_how_to_get_them(missing, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match="pip install onnx onnxscript onnxruntime"):
        save_onnx(tiny(), pictures(), tmp_path / "vit.onnx")
    assert not list(tmp_path.iterdir())
