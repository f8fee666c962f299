"""Folders of images as people have them: where the splits are, and what belongs to no data set.

They come zipped, one folder deeper than expected, with `val`, `Valid` or `TEST` beside `train`, and
with what Windows, macOS and storage systems leave in them.
"""

import re
import unicodedata
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Folder = Path | zipfile.Path

# what a split is called, in any case; of several the first that is there is taken
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation", "dev", "eval")
SYSTEM = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "lost+found"}
SYSTEM |= {"$recycle.bin", "system volume information"}
NOTES = {".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".log", ".db"}


@dataclass
class LeftOut:
    """What is not used of a folder, for a sentence: files that systems leave, others by name."""

    system: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """Name what was left out, at most ten of it; empty if there is nothing."""
        named = self.others[:10]
        if len(self.others) > 10:
            named.append(f"and {len(self.others) - 10} more")
        count = f"{len(self.others)} {'file' if len(self.others) == 1 else 'files'} left out: "
        parts = [count + "; ".join(named)] if self.others else []
        if self.system:
            kinds = ", ".join(sorted(set(self.system)))
            files = "file" if len(self.system) == 1 else "files"
            parts.append(f"{len(self.system)} hidden or system {files} left out: {kinds}")
        return "; ".join(parts)


def is_folder(source: str | Path) -> bool:
    """Tell whether a source is a folder, or the .zip of one."""
    path = Path(source).expanduser()
    return path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip")


@contextmanager
def opened(source: str | Path) -> Generator[Folder]:
    """Give the folder `source`, or the inside of the zip `source`, while the context lasts.

    Raises:
        ValueError: neither a folder nor a zip that can be read.
    """
    path = Path(source).expanduser()
    if not is_folder(source):
        raise ValueError(f"{source} is not a folder or a .zip of one")
    if path.is_dir():
        yield path
        return
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.flag_bits & 1 for entry in archive.infolist()):
                raise ValueError(f"{source} needs a password: unpack it, and give the folder")
            yield zipfile.Path(archive)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{source} cannot be read as a zip: {error}") from error


def contents(folder: Folder, left_out: LeftOut) -> list[Any]:
    """List what is in a folder, by name, without hidden files and those that systems leave."""
    kept = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.name.casefold() in SYSTEM:
            left_out.system.append(path.name)
        else:
            kept.append(path)
    return kept


def subfolders(folder: Folder) -> list[Any]:
    """List the visible folders in a folder, by name."""
    return [path for path in contents(folder, LeftOut()) if path.is_dir()]


def same_letters(name: str) -> str:
    """Write letters in one way (NFC) that systems store in two: é, or e and an accent."""
    return unicodedata.normalize("NFC", name)


def class_name(folder: Folder) -> str:
    """Return the name of the class that a folder is for."""
    return same_letters(folder.name)


def source_name(source: str | Path) -> str:
    """Return what results call a folder or a zip.

    Examples:
        >>> source_name("photos/pets.zip"), source_name("photos/pets.v2/")
        ('pets', 'pets.v2')
    """
    path = Path(source)
    path = path if path.name else path.resolve()
    return path.stem if path.suffix.lower() == ".zip" else path.name


def locate(folder: Folder) -> tuple[Folder, dict[str, Folder]]:
    """Find where the data are: the folder of classes or splits, and its splits; {} if it has none.

    Goes down where one folder holds all, as an unpacked zip often has it. With a "train" alone that
    is all the data, not yet split.

    Raises:
        ValueError: two splits of one name, but for upper and lower case.
    """
    splits = find_splits(folder)
    if not splits:
        inside = subfolders(folder)
        deeper = inside if len(inside) == 1 else [one for one in inside if find_splits(one)]
        if len(deeper) == 1 and subfolders(deeper[0]):
            return locate(deeper[0])
    return (splits["train"], {}) if set(splits) == {"train"} else (folder, splits)


def split_name(folder: Folder) -> str:
    """Return which split a folder is called after: "train" for `Train`, `train_set`, ...

    It is in TRAIN or in TEST, or else "".
    """
    name = re.sub(r"[ _-]?(set|data|images)$", "", class_name(folder).casefold())
    return name if name in TRAIN + TEST else ""


def find_splits(root: Folder) -> dict[str, Folder]:
    """Find the folders of the splits "train" and "test" in a folder, as far as they are there.

    Raises:
        ValueError: two folders of one name, but for upper and lower case.
    """
    called: dict[str, Folder] = {}
    for folder in contents(root, LeftOut()):
        name = split_name(folder)
        # one with images in it is a class, as of trains
        if name and folder.is_dir() and subfolders(folder):
            if name in called:
                raise ValueError(f"{root} has {called[name].name}/ and {folder.name}/: keep one")
            called[name] = folder
    splits = {}
    for split, names in (("train", TRAIN), ("test", TEST)):
        there = [called[name] for name in names if name in called]
        splits |= {split: there[0]} if there else {}
    return splits


def unused(root: Folder, splits: dict[str, Folder]) -> list[str]:
    """Name the folders beside the splits, which are not read."""
    used = {folder.name for folder in splits.values()}
    return [f"{folder.name}/" for folder in subfolders(root) if folder.name not in used]
