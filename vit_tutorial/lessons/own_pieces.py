"""The learner's own functions, taken from their notebooks, checked, and ready for a network.

    own = own_pieces(my_head, my_vit)  # those of this notebook; the others lie beside it
    print(own)  # whose is what, and why
    own.my_block(x, norm1, attention, norm2, mlp)

Of a notebook only imports, functions, classes and plain constants are executed: it need not run
from top to bottom, and nothing is trained or drawn.
"""

import ast
import json
import linecache
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vit_tutorial.lessons.exercises import judge
from vit_tutorial.model import patchify

NOTEBOOK = re.compile(r"\d\d_\w+\.ipynb")  # not the copies that `course.py reset` keeps
CHECK = re.compile(r"""\bcheck\(\s*["'](\d\d\.\d+)["']\s*,\s*(\w+)\s*\)""")
MAGIC = re.compile(r"^(\s*)[%!].*", re.MULTILINE)
LONGEST_REASON = 100  # characters


# ---- The pieces, in the order of the network, as the package does them --------------------------


def patch_embed(
    images: Tensor, weight: Tensor, bias: Tensor, patchify: Callable = patchify
) -> Tensor:
    """Project every patch: (B, C, H, W), (D, C, P, P), (D,) -> (B, N, D)."""
    return F.linear(patchify(images, weight.shape[-1]), weight.flatten(1), bias)


def add_cls(tokens: Tensor, cls_token: Tensor) -> Tensor:
    """Put the CLS token in front: (B, N, D), (1, 1, D) -> (B, N + 1, D)."""
    return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens], dim=1)


def add_positions(tokens: Tensor, table: Tensor) -> Tensor:
    """Add the positions: (B, T, D), (1, T, D) -> (B, T, D).

    Raises:
        ValueError: a table of another shape, one that would be broadcast.
    """
    if table.shape != (1, *tokens.shape[1:]):
        raise ValueError(
            f"tokens {tuple(tokens.shape)} need a table {(1, *tokens.shape[1:])}, "
            f"got {tuple(table.shape)}"
        )
    return tokens + table


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise every token: (..., D) -> (..., D)."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix the values: (..., T, d) each -> (..., T, d)."""
    return F.scaled_dot_product_attention(q, k, v)


def multi_head(
    x: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    num_heads: int,
    attention: Callable = attention,
) -> Tensor:
    """Let tokens look at each other in several heads: (B, T, D) -> (B, T, D)."""
    qkv = F.linear(x, qkv_weight, qkv_bias)
    q, k, v = rearrange(qkv, "b t (three h d) -> three b h t d", three=3, h=num_heads)
    return F.linear(rearrange(attention(q, k, v), "b h t d -> b t (h d)"), proj_weight, proj_bias)


def mlp(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    gelu: Callable = F.gelu,
) -> Tensor:
    """Let each token think for itself: (B, T, D) -> (B, T, D)."""
    return F.linear(gelu(F.linear(x, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)


def block(x: Tensor, norm1: Callable, attention: Callable, norm2: Callable, mlp: Callable) -> Any:
    """Both halves, each added to the stream: (B, T, D) -> (B, T, D)."""
    x = x + attention(norm1(x))
    return x + mlp(norm2(x))


def head(tokens: Tensor, weight: Tensor, bias: Tensor, pool: str) -> Tensor:
    """Read the answer from CLS or from the mean: (B, T, D) -> (B, classes)."""
    return F.linear(tokens[:, 0] if pool == "cls" else tokens.mean(dim=1), weight, bias)


def vit(
    images: Tensor,
    patch_embed: Callable,
    add_cls: Callable,
    add_positions: Callable,
    blocks: Iterable[Callable],
    norm: Callable,
    head: Callable,
) -> Tensor:
    """Put the pieces together: (B, C, H, W) -> (B, classes)."""
    x = add_positions(add_cls(patch_embed(images)))
    for block in blocks:
        x = block(x)
    return head(norm(x))


PACKAGE: dict[str, Callable] = {
    "my_patchify": patchify,
    "my_patch_embed": patch_embed,
    "my_add_cls": add_cls,
    "my_add_positions": add_positions,
    "my_layer_norm": layer_norm,
    "my_attention": attention,
    "my_multi_head": multi_head,
    "my_gelu": F.gelu,
    "my_mlp": mlp,
    "my_block": block,
    "my_head": head,
    "my_vit": vit,
}
EXERCISES = {
    "my_patchify": "01.3",
    "my_patch_embed": "02.2",
    "my_add_cls": "02.5",
    "my_add_positions": "03.2",
    "my_layer_norm": "05.1",
    "my_attention": "04.2",
    "my_multi_head": "04.5",
    "my_gelu": "05.2",
    "my_mlp": "05.3",
    "my_block": "05.4",
    "my_head": "06.1",
    "my_vit": "06.2",
}
# A large piece -> a small one that is a step of it, and what the package's large one calls it.
STEPS = {
    "my_patch_embed": ("my_patchify", "patchify"),
    "my_multi_head": ("my_attention", "attention"),
    "my_mlp": ("my_gelu", "gelu"),
}


# ---- The learner's -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """A function that goes into the network, whose it is, and why."""

    name: str
    function: Callable
    is_yours: bool
    why: str


class Pieces:
    """Functions by name, as in `own.my_block(...)`; printed, a table of whose they are."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.all = {piece.name: piece for piece in pieces}

    def __getattr__(self, name: str) -> Callable:
        if name == "all" or name not in self.all:
            raise AttributeError(f"there is no piece called {name}")
        return self.all[name].function

    @property
    def yours(self) -> list[str]:
        """The names of those that the learner wrote."""
        return [piece.name for piece in self.all.values() if piece.is_yours]

    def __str__(self) -> str:
        rows = [("piece", "whose", "why")]
        for piece in self.all.values():
            rows.append((piece.name, "yours" if piece.is_yours else "the package's", piece.why))
        lines = [f"{name:18}{whose:15}{why}" for name, whose, why in rows]
        return "\n".join([*lines, f"{len(self.yours)} of {len(self.all)} pieces are yours."])


def own_pieces(*functions: Callable, folder: str | Path = ".") -> Pieces:
    """Collect the learner's pieces that pass their checks, and the package's for the others.

    Args:
        functions: those of this notebook, which need not be saved, known by their names, and each
            judged by the check of `EXERCISES`.
        folder: where the notebooks lie; by default the one this notebook runs in.

    Raises:
        ValueError: one of `functions` is no piece.
    """
    own = {
        getattr(function, "__name__", "a thing without a name"): function for function in functions
    }
    if unknown := own.keys() - PACKAGE.keys():
        raise ValueError(f"not a piece: {', '.join(unknown)}; pieces are {', '.join(PACKAGE)}")
    candidates = {name: (EXERCISES[name], function) for name, function in own.items()}
    for path in sorted(Path(folder).glob("*.ipynb")):
        if NOTEBOOK.fullmatch(path.name):
            candidates = {**_read(path, PACKAGE.keys() - own.keys()), **candidates}
    pieces = {name: _choose(name, candidates.get(name)) for name in PACKAGE}
    for large, (small, argument) in STEPS.items():
        if not pieces[small].is_yours:
            continue
        if pieces[large].is_yours:
            why = f"{pieces[small].why}; your {large} does this step by itself"
        else:
            why = f"{pieces[small].why}; it works inside the package's {large}"
            function = partial(pieces[large].function, **{argument: pieces[small].function})
            pieces[large] = replace(pieces[large], function=function)
        pieces[small] = replace(pieces[small], why=why)
    return Pieces([*pieces.values()])


def _choose(name: str, candidate: tuple[str, Any] | None) -> Piece:
    """Judge the learner's function, and fall back on the package's where it does not pass."""
    if candidate is None:
        return Piece(name, PACKAGE[name], False, "no notebook beside this one holds it")
    id, function = candidate
    if isinstance(function, SyntaxError):
        why = f"{id} is no Python: {function.msg}, line {function.lineno} of its cell"
        return Piece(name, PACKAGE[name], False, why)
    if function is None:
        return Piece(name, PACKAGE[name], False, f"{id} does not run without the cells above it")
    try:
        verdict = judge(id, function)
    except ValueError:
        why = f'no line check("NN.k", {name}) tells which exercise it is'
        return Piece(name, PACKAGE[name], False, why)
    if verdict.mark == "✓":
        return Piece(name, function, True, f"{id} is right")
    why = f"{id} is not done yet"
    if verdict.mark == "✗":
        why = f"{id} is wrong: {' '.join(verdict.message.split())}"
    shortened = why if len(why) <= LONGEST_REASON else why[: LONGEST_REASON - 4] + " ..."
    return Piece(name, PACKAGE[name], False, shortened)


def _read(path: Path, wanted: Iterable[str]) -> dict[str, tuple[str, Any]]:
    """Return those of the wanted functions that a notebook holds, with the exercises' ids.

    In place of a function stands the SyntaxError of its cell where that is no Python.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = [
            ("".join(cell["source"]), cell.get("metadata", {}).get("exercise"))
            for cell in notebook["cells"]
            if cell["cell_type"] == "code"
        ]
    except (OSError, ValueError, KeyError, TypeError):  # not a notebook
        return {}
    text = "\n".join(code for code, _ in cells)
    wanted = {name for name in wanted if re.search(rf"^def {name}\(", text, re.MULTILINE)}
    if not wanted:
        return {}
    ids = {name: id for id, name in CHECK.findall(text)}
    space: dict[str, Any] = {"__name__": path.stem}
    functions: dict[str, Any] = {}
    for number, (code, exercise) in enumerate(cells, 1):
        defined = wanted & set(re.findall(r"^def (\w+)\(", code, re.MULTILINE))
        for name in defined:
            ids.setdefault(name, exercise or "")
        try:
            _define(MAGIC.sub(r"\1pass", code), f"{path.name}, code cell {number}", space)
            functions.update({name: space.get(name) for name in defined})
        except SyntaxError as error:
            functions.update(dict.fromkeys(defined, error))
    return {name: (ids[name], functions[name]) for name in wanted}


def _define(code: str, filename: str, space: dict[str, Any]) -> None:
    """Execute the imports, functions, classes and constants of a cell; what fails is left out.

    Raises:
        SyntaxError: the cell is no Python.
    """
    # for messages that quote a line
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    for statement in ast.parse(code, filename).body:
        kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
        if isinstance(statement, kinds) or _is_constant(statement):
            try:
                exec(compile(ast.Module([statement], []), filename, "exec"), space)
            except Exception:  # it needs what only a run from the top would have made
                continue


def _is_constant(statement: ast.stmt) -> bool:
    """Tell whether a statement is like EPS = 1e-6."""
    if not isinstance(statement, ast.Assign):
        return False
    try:
        ast.literal_eval(statement.value)
    except ValueError:
        return False
    return True
