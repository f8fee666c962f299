"""Files that are written completely or not at all."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Generator[Path]:
    """Give the name of a file beside `path` to write to; it becomes `path` when all went well.

    Where it did not, what was at `path` before is still there, and no half-written file is left.

    Examples:
        >>> with atomic_write(getfixture("tmp_path") / "notes.txt") as beside:
        ...     _ = beside.write_text("all of it")
        >>> (getfixture("tmp_path") / "notes.txt").read_text()
        'all of it'
    """
    beside = path.with_name(path.name + ".partial")
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
