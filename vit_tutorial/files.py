"""Files that are written completely or not at all."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


def companion(path: str | Path, suffix: str) -> Path:
    """Name a file of the network or run `path`, which may end with ".safetensors" or `suffix`.

    Raises:
        ValueError: a path without a name, such as a folder's.

    Examples:
        >>> companion("vit.v1", ".state").name, companion("vit.v1.safetensors", ".csv").name
        ('vit.v1.state', 'vit.v1.csv')
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise ValueError(f"expected the name of a file, got {str(path)!r}")
    return path.with_name(path.name.removesuffix(suffix).removesuffix(".safetensors") + suffix)


@contextmanager
def atomic_write(path: Path) -> Generator[Path]:
    """Give the name of a file beside `path` to write to; it becomes `path` when all went well.

    Where it did not, what was at `path` before is still there, and no half-written file is left.

    Examples:
        >>> with atomic_write(getfixture("tmp_path") / "notes.txt") as partial:
        ...     _ = partial.write_text("all of it")
        >>> (getfixture("tmp_path") / "notes.txt").read_text()
        'all of it'
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.filename == str(partial):
            error.filename, error.filename2 = str(path), None  # as whoever asked for it knows it
        raise
