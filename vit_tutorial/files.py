"""Files that are written completely or not at all, and by one process at a time."""

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


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
    Others may read it as they may any new file, whatever wrote it.

    Examples:
        >>> with atomic_write(getfixture("tmp_path") / "notes.txt") as partial:
        ...     _ = partial.write_text("all of it")
        >>> (getfixture("tmp_path") / "notes.txt").read_text()
        'all of it'
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors lets nobody else read what it writes
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError) and error.filename == str(partial):
            error.filename, error.filename2 = str(path), None  # as whoever asked for it knows it
        raise


@contextmanager
def one_at_a_time(path: Path, wait: bool = True) -> Generator[None]:
    """Let one process at a time make the file or folder `path`; the others wait for their turn.

    Or they are refused, if they do not want to `wait`. A process that is killed is in nobody's way.

    Raises:
        ValueError: another process makes it, and this one does not wait.
    """
    lock = FileLock(path.with_name(path.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except NotImplementedError:  # a file system without locks, as some of networks are
        yield
        return
    except Timeout:
        if not Path(lock.lock_file).exists():  # nothing can be written there, as `path` will show
            yield
            return
        if not wait:
            raise ValueError(f"another process writes {path} just now") from None
        print(f"Another process makes {path.name}: waiting for it.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # while it is held: who waits for a file that is gone tries again
            Path(lock.lock_file).unlink()
        lock.release()
