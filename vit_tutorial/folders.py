"""Folders of images as people have them: where the splits are, and what belongs to no data set.

They come zipped, one folder deeper than expected, with `val`, `Valid` or `TEST` beside `train`, and
with what Windows, macOS and storage systems leave in them.
"""

import re
import unicodedata
import zipfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

# what a split is called, in any case; of several the first that is there is taken
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation", "dev", "eval")
SYSTEM = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "lost+found"}
SYSTEM |= {"$recycle.bin", "system volume information", "__pycache__"}
STREAMS = (":zone.identifier", ":encryptable")  # of NTFS, where Linux sees them as files
NOTES = {".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".log", ".db"}


class UnreadableWarning(UserWarning):
    """Some files of a folder cannot be read as images, and are left out."""


class Zipped:
    """A file or a folder in a zip, read from where it is, with what `data` needs of a `Path`."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive, self.path, self.name = archive, path, path.name
        self.entry: zipfile.ZipInfo | None = None  # of a file
        self.inside: dict[str, Zipped] = {}  # of a folder

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> "Zipped":
        """Return what is called `name` in this folder; where there is no such thing, it is made."""
        return self.inside.setdefault(name, Zipped(self.archive, self.path / name))

    def is_dir(self) -> bool:
        """Tell whether this is a folder."""
        return self.entry is None

    def is_file(self) -> bool:
        """Tell whether this is a file."""
        return self.entry is not None

    def iterdir(self) -> Iterator["Zipped"]:
        """Go through what is in this folder."""
        return iter(self.inside.values())

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open this file, to read its bytes."""
        return self.archive.open(self.entry or "")


Folder = Path | Zipped


@dataclass
class LeftOut:
    """What is not used of a folder, for a sentence: files that systems leave, others by name."""

    system: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # and what else is no image of a class
    unreadable: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """Name what was left out, at most ten of each kind; empty if there is nothing."""
        others, parts = [*self.unreadable, *self.notes], []
        if others:
            files = "file" if len(others) == 1 else "files"
            parts.append(f"{len(others)} {files} left out: {shortened(others, '; ')}")
        if self.system:
            files = "file" if len(self.system) == 1 else "files"
            kinds = shortened(sorted(set(self.system)))
            parts.append(f"{len(self.system)} hidden or system {files} left out: {kinds}")
        return "; ".join(parts)


def shortened(names: Iterable[str], separator: str = ", ") -> str:
    """Write out ten names, and how many more there are.

    Examples:
        >>> shortened("abcdefghijkl")
        'a, b, c, d, e, f, g, h, i, j, and 2 more'
    """
    names = list(names)
    more = [f"and {len(names) - 10} more"] if len(names) > 10 else []
    return separator.join(names[:10] + more)


def is_folder(source: str | Path) -> bool:
    """Tell whether a source is a folder, or the .zip of one."""
    path = Path(source).expanduser()
    return path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip")


@contextmanager
def opened(source: str | Path) -> Generator[Folder]:
    """Give the folder `source`, or the inside of the zip `source`, while the context lasts.

    Nothing is unpacked, so whatever the names in a zip are, no file is written.

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
            yield _tree(archive, path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{source} cannot be read as a zip: {error}") from error


def _tree(archive: zipfile.ZipFile, path: Path) -> Zipped:
    """Find the folders of a zip, whose entries are a flat list of paths."""
    root = Zipped(archive, path)
    for entry in archive.infolist():
        node = root
        for part in _path_in_zip(entry).split("/"):
            node = node.child(part) if part not in ("", ".") else node
        if not entry.is_dir() and not node.inside:
            node.entry = entry
    return root


def _path_in_zip(entry: zipfile.ZipInfo) -> str:
    """Read the path of an entry as it was meant, where another program than Python wrote it."""
    path = entry.filename
    if not entry.flag_bits & 0x800:  # macOS writes UTF-8 without the flag that says so
        with suppress(UnicodeError):
            path = path.encode("cp437").decode()
    return path if "/" in path else path.replace("\\", "/")  # as old programs of Windows do


def contents(folder: Folder, left_out: LeftOut) -> list[Any]:
    """List what is in a folder, by name, without hidden files and those that systems leave."""
    kept = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        name = path.name.casefold()
        if name.startswith(".") or name in SYSTEM or name.endswith(STREAMS):
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
    """Return the name of the class that a folder is for.

    Raises:
        ValueError: a name that is no text, as of bytes that are not in UTF-8.
    """
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name of the folder {folder} is not in UTF-8: rename it") from None
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


@dataclass
class Layout:
    """Where the data of a folder are: the folder of classes or of splits, and its splits if any.

    `beside` names what lies beside them, and is not used.
    """

    root: Folder
    splits: dict[str, Folder]
    beside: list[str]


def locate(folder: Folder) -> Layout:
    """Find where the data are, and of which splits.

    Goes down where one folder holds all, as an unpacked zip often has it. With a "train" alone that
    is all the data, not yet split.

    Raises:
        ValueError: two splits of one name, but for upper and lower case.
    """
    splits = find_splits(folder)
    if splits:
        beside = _names_beside(folder, splits.values())
        if set(splits) == {"train"}:
            return Layout(innermost(splits["train"]), {}, beside)
        return Layout(folder, splits, beside)
    inside = subfolders(folder)
    deeper = inside if len(inside) == 1 else [one for one in inside if find_splits(one)]
    if len(deeper) != 1 or not subfolders(deeper[0]):
        return Layout(folder, {}, [])
    found = locate(deeper[0])
    return Layout(found.root, found.splits, _names_beside(folder, deeper) + found.beside)


def innermost(folder: Folder) -> Folder:
    """Go down where one folder holds all the folders of classes, as in train/train/cat."""
    inside = subfolders(folder)
    one_holds_all = len(inside) == 1 and subfolders(inside[0])
    return innermost(inside[0]) if one_holds_all else folder


def _names_beside(folder: Folder, used: Iterable[Folder]) -> list[str]:
    names = {path.name: "/" if path.is_dir() else "" for path in folder.iterdir()}
    unused = sorted(names.keys() - {path.name for path in used})
    return [name + names[name] for name in unused]


def split_name(folder: Folder) -> str:
    """Return which split a folder is called after: "train" for `Train`, `train_set`, ...

    It is in TRAIN or in TEST, or else "".
    """
    name = re.sub(r"[ _-]?(set|data|images)$", "", same_letters(folder.name).casefold())
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
