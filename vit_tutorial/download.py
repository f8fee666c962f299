"""Fetch one known file from the first server that delivers it, and prove that it is that file.

Servers are slow, stop half-way, or answer with a login page. So there are several sources, what has
arrived is continued rather than begun again, and a checksum stands before any use of the file.
"""

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from vit_tutorial.files import one_at_a_time


def fetch(
    sources: Sequence[str],
    target: Path,
    *,
    size: int,
    md5: str,
    stall: float = 15.0,
    slow: float = 300_000.0,
) -> None:
    """Fetch `target` from the first of several URLs that delivers `size` bytes with that checksum.

    What has arrived lies beside the target, its name ending in `.part`, until it is complete and
    checked; the next source, or the next call after an interruption, continues it. Of several
    processes that fetch it at the same time one does, and the others wait for it.

    Args:
        sources: URLs, in the order in which to try them.
        target: Where the file goes. If it is there and correct, it is not fetched.
        size: Its length in bytes.
        md5: Its checksum in hexadecimal digits.
        stall: A source that sends no data for so many seconds is left for the next one.
        slow: So is one that sends fewer bytes per second; it gets a second turn, without hurry, if
            no other one is faster.

    Raises:
        OSError: no source delivered the file (the message says what each one did), or it could not
            be written.
    """
    if target.exists() and checksum(target) == md5:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(target):
        if not (target.exists() and checksum(target) == md5):  # another one may have fetched it
            _fetch(sources, target, size, md5, stall, slow)


def _fetch(
    sources: Sequence[str], target: Path, size: int, md5: str, stall: float, slow: float
) -> None:
    """Try one source after the other."""
    part = target.with_name(target.name + ".part")
    reasons: dict[str, str] = {}
    turns = deque((source, slow) for source in sources)
    while turns:
        source, lowest_speed = turns.popleft()
        resumed = part.exists()
        try:
            _continue(source, part, size, stall, lowest_speed)
        except _TooSlow as error:
            reasons[source] = str(error)
            turns.append((source, 0.0))
        except _SOURCE_FAILED as error:
            reasons[source] = _reason(error, stall)
        else:
            if checksum(part) == md5:
                os.replace(part, target)
                return
            part.unlink()
            reasons[source] = "the checksum is wrong"
            if resumed:  # perhaps only the earlier part was wrong: the same source again, afresh
                turns.appendleft((source, lowest_speed))
    tried = "; ".join(f"{source}: {reason}" for source, reason in reasons.items())
    raise OSError(f"{target.name} could not be downloaded. Tried {tried}")


def checksum(path: Path) -> str:
    """Compute the MD5 checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


class _BadSource(OSError):
    """The source does not deliver what it should."""


class _TooSlow(_BadSource):
    """The source delivers, but at a crawl."""


# Not OSError itself: a full disk is no reason to try another server.
_SOURCE_FAILED = (
    _BadSource,
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)


def _continue(source: str, part: Path, size: int, stall: float, lowest_speed: float) -> None:
    """Continue `part` up to `size` bytes, from where it is."""
    done = part.stat().st_size if part.exists() else 0
    if done == size:
        return
    done = done if done < size else 0
    headers = {"User-Agent": "vit-tutorial"} | ({"Range": f"bytes={done}-"} if done else {})
    request = urllib.request.Request(source, headers=headers)
    with urllib.request.urlopen(request, timeout=stall) as response:
        if done and response.status == 206:  # partial content, as requested
            if not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
                raise _BadSource("it continues at another offset than requested")
        else:
            done = 0
        if response.length is not None and done + response.length != size:
            raise _BadSource(f"it has {done + response.length:,} bytes instead of {size:,}")
        host = urllib.parse.urlsplit(source).hostname
        bar = tqdm(
            total=size, initial=done, unit="B", unit_scale=True, desc=f"{part.stem} ({host})"
        )
        with bar, part.open("ab" if done else "wb") as file:
            since, fresh = time.monotonic(), 0
            # read1 returns what is there; read would wait for a full chunk from a dripping server
            while done < size and (chunk := response.read1(min(1 << 16, size - done))):
                file.write(chunk)
                bar.update(len(chunk))
                done, fresh = done + len(chunk), fresh + len(chunk)
                elapsed = time.monotonic() - since
                if elapsed >= stall:
                    if fresh / elapsed < lowest_speed:
                        raise _TooSlow(f"only {fresh / elapsed / 1000:.0f} kB/s")
                    since, fresh = time.monotonic(), 0
    if done < size:
        raise _BadSource(f"it broke off after {done:,} of {size:,} bytes")


def _reason(error: Exception, stall: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        with error:
            return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no data for {stall:g} seconds"
    return str(cause) or type(cause).__name__
