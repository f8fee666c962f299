"""The learner's own functions: found in their notebooks, judged, and at work in a network."""

import copy
import importlib
import json
import re
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from torch.testing import assert_close

from vit_tutorial.lessons import own_pieces as module
from vit_tutorial.lessons.exercises import exercises_of
from vit_tutorial.lessons.own_pieces import PACKAGE, STEPS, own_pieces
from vit_tutorial.model import Attention, Block, Mlp, PatchEmbed, VisionTransformer, ViTConfig

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "notebooks" / "src").glob("0[1-6]_*.py"))
LESSONS = [path.name[:2] for path in SOURCES]
lesson = importlib.import_module("render")

RIGHT = """\
def my_head(tokens, weight, bias, pool):
    x = tokens[:, 0] if pool == "cls" else tokens.mean(1)
    return F.linear(x, weight, bias)
"""
STUB = "def my_head(tokens, weight, bias, pool):\n    raise NotImplementedError  # your code here\n"
CHECK = 'check("06.1", my_head)'


def write(folder, *cells, name="06_trial.ipynb", exercise=None):
    """Write a notebook of code cells; the metadata `exercise` is given to all of them."""
    metadata = {"exercise": exercise} if exercise else {}
    made = [
        {"cell_type": "code", "metadata": metadata, "outputs": [], "source": cell.splitlines(True)}
        for cell in cells
    ]
    made.append({"cell_type": "markdown", "metadata": {}, "source": ["def my_vit("]})
    (folder / name).write_text(json.dumps({"cells": made, "metadata": {}}), encoding="utf-8")


def why(folder, name="my_head"):
    return own_pieces(folder=folder).all[name].why


# ---- The package's pieces ----


def test_the_packages_pieces_are_the_packages_network():
    config = ViTConfig(
        img_size=(8, 12), patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=5
    )
    vit = randomize(VisionTransformer(config))
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    own = own_pieces(folder="/nowhere")
    assert own.yours == []

    def norm(x, m):
        return own.my_layer_norm(x, m.weight, m.bias, m.eps)

    def block(m):
        qkv, proj, fc1, fc2 = m.attn.qkv, m.attn.proj, m.mlp.fc1, m.mlp.fc2
        return lambda x: own.my_block(
            x,
            lambda x: norm(x, m.norm1),
            lambda x: own.my_multi_head(x, qkv.weight, qkv.bias, proj.weight, proj.bias, 3),
            lambda x: norm(x, m.norm2),
            lambda x: own.my_mlp(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias),
        )

    conv = vit.patch_embed.proj
    logits = own.my_vit(
        images,
        lambda images: own.my_patch_embed(images, conv.weight, conv.bias),
        lambda x: own.my_add_cls(x, vit.cls_token),
        lambda x: own.my_add_positions(x, vit.pos_embed),
        [block(m) for m in vit.blocks],
        lambda x: norm(x, vit.norm),
        lambda x: own.my_head(x, vit.head.weight, vit.head.bias, "cls"),
    )
    assert_close(logits, vit(images))
    eye, zero = torch.eye(12).double(), torch.zeros(12).double()
    assert_close(own.my_head(images[0], eye, zero, "mean"), images[0].mean(1))


def test_each_of_the_packages_pieces_passes_the_check_of_its_exercise():
    """So that a learner's piece and its substitute may change places."""
    for name, id in ids_of_pieces().items():
        verdict = module.judge(id, PACKAGE[name])
        assert verdict.mark == "✓", f"{name}, {id}: {verdict.message}"


# ---- Finding and judging ----


def test_a_right_piece_is_yours_and_a_stub_is_the_packages(tmp_path):
    write(tmp_path, "import torch.nn.functional as F", RIGHT, CHECK)
    own = own_pieces(folder=tmp_path)
    assert own.yours == ["my_head"]
    assert own.my_head is not PACKAGE["my_head"]
    assert own.all["my_head"].why == "06.1 is right"
    assert re.search(r"my_head +yours +06.1 is right\n", str(own))
    assert "my_vit            the package's  no notebook beside this one holds it" in str(own)
    assert str(own).endswith("1 of 12 pieces are yours.")

    write(tmp_path, "import torch.nn.functional as F", STUB, CHECK)
    own = own_pieces(folder=tmp_path)
    assert (own.yours, own.my_head) == ([], PACKAGE["my_head"])
    assert own.all["my_head"].why == "06.1 is not done yet"


def test_a_wrong_piece_is_named_with_its_cause(tmp_path):
    write(tmp_path, RIGHT.replace("[:, 0]", "[:, -1]"), "import torch.nn.functional as F", CHECK)
    assert why(tmp_path) == '06.1 is wrong: "cls": this is the last token; CLS stands in front.'
    assert own_pieces(folder=tmp_path).my_head is PACKAGE["my_head"]
    write(tmp_path, RIGHT, CHECK)  # F is not imported
    assert "06.1 is wrong: Your line 3, `return F.linear(x, weight, bias)`" in why(tmp_path)
    assert len(why(tmp_path)) <= module.LONGEST_REASON
    write(tmp_path, RIGHT + "    return (", CHECK)
    assert re.fullmatch(r"06.1 is no Python: .*, line 4 of its cell", why(tmp_path))
    write(tmp_path, "@missing\n" + RIGHT, CHECK)
    assert why(tmp_path) == "06.1 does not run without the cells above it"


def test_nothing_else_of_a_notebook_is_executed(tmp_path):
    helper = "def linear(x, w, b):\n    return F.linear(x, w, b * ONE)\n"
    write(
        tmp_path,
        "import sys\n\nif True:\n    %pip install nothing\nraise SystemExit",
        "!rm -r /\nprint('drawn')\nONE = 1.0\nboom = 1 / 0",
        "import torch.nn.functional as F, no_such_library",
        "import torch.nn.functional as F\n" + helper,
        RIGHT.replace("F.linear", "linear"),
        "@missing\ndef unrelated():\n    pass",
        CHECK,
    )
    assert own_pieces(folder=tmp_path).yours == ["my_head"]


def test_the_last_definition_counts_as_in_a_run_from_the_top(tmp_path):
    write(tmp_path, "import torch.nn.functional as F", STUB, CHECK, RIGHT)
    assert own_pieces(folder=tmp_path).yours == ["my_head"]


def test_an_exercise_is_known_by_its_check_or_by_its_cell(tmp_path):
    write(tmp_path, "import torch.nn.functional as F\n" + RIGHT, exercise="06.1")
    assert why(tmp_path) == "06.1 is right"
    write(tmp_path, "import torch.nn.functional as F\n" + RIGHT)
    assert why(tmp_path) == 'no line check("NN.k", my_head) tells which exercise it is'
    write(tmp_path, RIGHT, 'check("06.99", my_head)')
    assert why(tmp_path).startswith("no line check(")


def test_only_lessons_are_read_and_broken_files_are_passed_over(tmp_path):
    right = ("import torch.nn.functional as F\n" + RIGHT, CHECK)
    write(tmp_path, *right, name="06_trial.before-reset-1.ipynb")
    write(tmp_path, *right, name="notes.ipynb")
    (tmp_path / "05_broken.ipynb").write_text("{", encoding="utf-8")
    (tmp_path / "07_other.ipynb").write_text("[]", encoding="utf-8")
    assert own_pieces(folder=tmp_path).yours == []
    write(tmp_path, *right)
    assert own_pieces(folder=tmp_path).yours == ["my_head"]


def test_functions_of_this_notebook_come_before_those_on_disk(tmp_path):
    write(tmp_path, STUB, CHECK)

    def my_head(tokens, weight, bias, pool):
        return PACKAGE["my_head"](tokens, weight, bias, pool)

    own = own_pieces(my_head, folder=tmp_path)
    assert own.my_head is my_head
    assert own.yours == ["my_head"]
    with pytest.raises(ValueError, match="not a piece: lower; pieces are my_patchify, "):
        own_pieces(str.lower)
    with pytest.raises(AttributeError, match="no piece called my_tail"):
        _ = own.my_tail
    assert copy.copy(own).yours == ["my_head"]


# ---- A step of a larger piece ----


def test_a_right_step_works_inside_the_packages_larger_piece(monkeypatch):
    calls = []

    def my_gelu(x):
        calls.append(x.shape)
        return F.gelu(x)

    monkeypatch.setitem(module.EXERCISES, "my_gelu", "05.0")
    monkeypatch.setattr(module, "judge", lambda id, function: module_verdict("✓"))
    own = own_pieces(my_gelu, folder="/nowhere")
    mlp = randomize(Mlp(4, 8))
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    weights = mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias
    assert_close(own.my_mlp(x, *weights), mlp(x))
    assert calls == [(2, 3, 8)]
    assert own.yours == ["my_gelu"]
    assert own.all["my_gelu"].why == "05.0 is right; it works inside the package's my_mlp"


def module_verdict(mark):
    return importlib.import_module("vit_tutorial.lessons.exercises").Verdict(mark, "")


def test_the_steps_are_arguments_of_the_packages_pieces():
    attention, patches = randomize(Attention(6, 2)), randomize(PatchEmbed((4, 4), 2, 1, 6))
    x, images = torch.randn(2, 5, 6).double(), torch.randn(2, 1, 4, 4).double()
    parts = [p for layer in (attention.qkv, attention.proj) for p in (layer.weight, layer.bias)]
    assert_close(PACKAGE["my_multi_head"](x, *parts, 2), attention(x))
    assert_close(
        PACKAGE["my_multi_head"](x, *parts, 2, attention=PACKAGE["my_attention"]), attention(x)
    )
    tokens = PACKAGE["my_patch_embed"](images, patches.proj.weight, patches.proj.bias)
    assert_close(tokens, patches(images))
    block = randomize(Block(6, 2, 8))
    assert_close(PACKAGE["my_block"](x, block.norm1, block.attn, block.norm2, block.mlp), block(x))
    assert {small for small, _ in STEPS.values()} < set(PACKAGE)


# ---- The lessons ----


def ids_of_pieces():
    """The exercise of each piece, as the lessons' sources say that there are."""
    found = {}
    for source in SOURCES:
        text = source.read_text(encoding="utf-8")
        known = {task.id for task in exercises_of(source.name[:2])}
        found |= {name: id for id, name in module.CHECK.findall(text) if id in known}
    return {name: id for name, id in found.items() if name in PACKAGE}


@pytest.mark.parametrize("solved", [False, True])
def test_all_pieces_are_found_in_the_solved_lessons_and_none_in_the_open_ones(solved, tmp_path):
    """All of them as soon as all lessons are there."""
    expected = ids_of_pieces()
    if LESSONS == ["01", "02", "03", "04", "05", "06"]:
        assert expected.keys() == PACKAGE.keys()
    assert {name: expected[name] for name in module.EXERCISES} == module.EXERCISES
    for source in SOURCES:
        text = nbformat.writes(lesson.render(source, solved))
        (tmp_path / f"{source.stem}.ipynb").write_text(text, encoding="utf-8")
    own = own_pieces(folder=tmp_path)
    assert own.yours == [name for name in PACKAGE if solved and name in expected]
    for name, id in expected.items():
        assert own.all[name].why.startswith(f"{id} is {'right' if solved else 'not done yet'}")


@pytest.mark.skipif(len(LESSONS) < 6, reason="not all of the lessons are there")
@pytest.mark.parametrize("solved", [False, True])
def test_the_committed_notebook_was_run_beside_all_others(solved):
    """Its code does not change when another lesson does; what it says of the pieces may."""
    text = lesson.notebook_path(SOURCES[-1], solved).read_text(encoding="utf-8")
    assert f"{len(PACKAGE) if solved else 0} of {len(PACKAGE)} pieces are yours." in text
    assert "349 of 360 test images correct" in text
