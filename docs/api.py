"""Make pages from the docstrings: `python3 course.py docs [FOLDER]`.

pdoc shows of a package what its `__all__` names, and finds only what is imported already. Here it
gets the modules inside as well, and the names that `vit_tutorial` imports when they are first used.
"""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pdoc

ROOT = Path(__file__).resolve().parent.parent


def main(folder: str = str(ROOT / "build" / "api")) -> None:
    """Write a page for every public module of the package, and say which is the first."""
    open_up(import_module("vit_tutorial"))
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc("vit_tutorial", output_directory=Path(folder))
    print(f"The first page is {Path(folder, 'index.html')}")


def open_up(package: ModuleType) -> None:
    """Let pdoc see all of a package, and of the packages inside."""
    inside = [part for part in pkgutil.iter_modules(package.__path__) if part.name[0] != "_"]
    for part in inside:
        module = import_module(f"{package.__name__}.{part.name}")
        if part.ispkg:
            open_up(module)
    if names := getattr(package, "__all__", None):
        for name in names:
            setattr(package, name, getattr(package, name))
        modules = [part.name for part in inside if part.name not in names]
        setattr(package, "__all__", [*names, *modules])  # noqa: B010


if __name__ == "__main__":
    main(*sys.argv[1:])
