"""What the machine can do: half precision by capability, compilation with a way out."""

from functools import partial

import pytest
import torch
from conftest import randomize
from test_train import TINY, new_model
from torch.testing import assert_close

from vit_tutorial import VisionTransformer
from vit_tutorial.distributed import broadcast
from vit_tutorial.hardware import best_device, compiled, half_precision


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((9, 0), torch.bfloat16),  # H100, H200
        ((8, 0), torch.bfloat16),  # A100
        ((7, 5), torch.float16),  # T4: imitates bfloat16, slowly
        ((7, 0), torch.float16),  # V100
        ((6, 1), None),
    ],
)
def test_half_precision_follows_the_compute_capability(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert half_precision("cuda") is expected
    assert half_precision(torch.device("cuda", 1)) is expected


def test_a_cpu_is_asked_by_a_trial_not_by_its_name():
    assert half_precision("cpu") is None


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_best_device_is_the_first_that_is_there(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert best_device() == expected


@pytest.mark.parametrize("pos_embed", ["learned", "sincos", "rope"])
def test_half_precision_reaches_the_whole_stream(pos_embed):
    """One sum in float32 and all that follows would be float32, at twice the traffic."""
    config = dict(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    model = new_model(type(TINY)(**config, pos_embed=pos_embed))
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 8, 8))
    assert seen == [torch.bfloat16] * 2


@torch.no_grad()
def test_equal_blocks_are_compiled_once_and_compute_the_same(monkeypatch):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    model = VisionTransformer(type(TINY)(**{**vars(TINY), "depth": 3}))
    randomize(model)
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    expected = model(images)
    with compiled(model) as worked:
        assert worked
        graphs.clear()
        assert_close(model(images), expected)
        assert len(graphs) == 1  # three blocks
    assert all("forward" not in vars(block) for block in model.blocks)


def test_where_compiling_fails_a_warning_says_so_and_all_goes_on(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no working C++ compiler\nat line 7")

    monkeypatch.setattr(torch, "compile", broken)
    model, images = new_model(), torch.randn(2, 1, 8, 8)
    expected = model(images)
    context = compiled(model)
    with pytest.warns(UserWarning, match=r"does not work here.*: no working C\+\+ compiler$"):
        assert not context.__enter__()
    assert_close(model(images), expected)
    context.__exit__(None, None, None)


def test_nothing_is_compiled_unless_wanted(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_: pytest.fail("it compiles"))
    with compiled(new_model(), enabled=False) as worked:
        assert not worked


def test_one_process_alone_agrees_with_itself():
    assert broadcast(5) == 5
