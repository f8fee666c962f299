"""Fetch one known file from the first server that delivers it, and prove that it is that file.

Servers are slow, stop half-way, or answer with a login page. So: several sources, a partial file
that is continued rather than begun again, and a checksum before anything else reads the file.
"""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm


class SourceError(OSError):
    """One source cannot deliver; the next may."""


def download(
    sources: Sequence[str],
    target: Path,
    *,
    size: int,
    md5: str,
    stall: float = 15.0,
    slow: float = 500_000,
) -> Path:
    """Fetch `target` from the first of the `sources` (URLs) that delivers `size` bytes with `md5`.

    What has arrived is kept beside the target as `.part` and continued, by the next source or the
    next call. A source that sends nothing for `stall` seconds, or less than `slow` bytes a second
    over as long, is left for the next one; once all have been tried, slow ones get another chance.

    Returns:
        The target, which appears only whole and checked.

    Raises:
        OSError: no source delivered the file; says what each one did.
    """
    if target.exists() and _md5(target) == md5:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    complaints = []
    for lowest_speed in (slow, 0):
        for source in sources:
            for _ in range(2):  # a damaged file may stem from an earlier source: once more, afresh
                resumed = part.exists()
                try:
                    _fetch(source, part, size, stall, lowest_speed)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    complaints.append(f"{source} ({error})")
                    break
                if _md5(part) == md5:
                    os.replace(part, target)
                    return target
                part.unlink()
                if not resumed:
                    complaints.append(f"{source} (sent a file with another checksum)")
                    break
