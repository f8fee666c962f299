"""Labelled images as plain tensors: CIFAR-10, the digits, or a folder of your own.

Images stay uint8 until the moment they are used: a whole training set then fits in memory (CIFAR-10:
154 MB), and `normalize` turns a batch into what the network reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_tutorial.images import fit_image, open_image


@dataclass(frozen=True)
class ImageSet:
    """Images with labels: uint8 (n, C, H, W), int64 (n,), the class names, and a name for results.

    Raises:
        ValueError: images or labels of another type, length or range.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str

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


def load(
    source: str | Path, split: str, *, img_size: int | tuple[int, int] | None = None, mode: str = "RGB"
) -> ImageSet:
    """Load the "train" or "test" split of `cifar10`, of `digits`, or of a folder.

    A folder with a subfolder called like the split gives that one, any other folder all it holds.
    `img_size` and `mode` are for folders, see `image_folder`.

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
    return image_folder(inner, img_size, mode=mode, name=folder.name)


def load_train_test(
    source: str | Path, *, img_size: int | tuple[int, int] | None = None, mode: str = "RGB"
) -> tuple[ImageSet, ImageSet]:
    """Load both splits; a folder without subfolders `train` and `test` is split 80/20, seed 0.

    Raises:
        ValueError: as `load`, or a training set and a test set of other classes.
    """
    if Path(source).is_dir() and not all((Path(source) / s).is_dir() for s in ("train", "test")):
        return hold_out(load(source, "train", img_size=img_size, mode=mode), 0.2, seed=0)
    train, test = (load(source, s, img_size=img_size, mode=mode) for s in ("train", "test"))
    return train, test.relabelled(train.classes)


def cifar10(split: str, root: str | Path | None = None, download: bool = True) -> ImageSet:
    """Load CIFAR-10 (Krizhevsky 2009): 50,000 or 10,000 images of 32x32 pixels, ten classes."""
    raise NotImplementedError


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
    whole = ImageSet(
        images=(images * (255 / 16)).round().to(torch.uint8),
        labels=torch.from_numpy(labels).long(),
        classes=tuple("0123456789"),
        name="scikit-learn digits",
    )
    train, test = hold_out(whole, fraction=0.2, seed=0)
    return train if split == "train" else test


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
    `images.fit_image`. `mode` is "RGB", or "L" for grey. `on_error="skip"` leaves out files that cannot be read, and names them in
    a warning.

    Raises:
        ValueError: no class folders, an empty class, a broken file, or images of several sizes.
    """
    folder = Path(folder)
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    classes = sorted(d.name for d in folder.iterdir() if d.is_dir() and d.name[0] != ".")
    images, labels = [], []
    for label, class_name in enumerate(classes):
        for path in sorted((folder / class_name).iterdir()):
            image = open_image(path, mode=mode)
            size = img_size or (image.height, image.width)
            images.append(fit_image(image, size, fit=fit).pixels)
            labels.append(label)
    return ImageSet(torch.stack(images), torch.tensor(labels), tuple(classes), name or folder.name)


def hold_out(whole: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split into (the rest, a held-out fraction), each class in proportion.

    Raises:
        ValueError: a fraction outside 0 to 1, or a class too small to be split.
    """
    from sklearn.model_selection import train_test_split

    rest, held_out = train_test_split(
        torch.arange(len(whole)), test_size=fraction, random_state=seed, stratify=whole.labels
    )
    return whole[rest], whole[held_out]


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn uint8 pixels into what the network reads: (..., C, H, W) -> float32, same shape.

    Scales to 0..1, subtracts each channel's mean and divides by its standard deviation.

    Raises:
        ValueError: images that are not uint8, or another number of channels than of means.

    Examples:
        >>> normalize(torch.full((1, 1, 1), 255, dtype=torch.uint8), [0.5], [0.25]).item()
        2.0
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 pixels from 0 to 255, got {images.dtype}")
    if images.ndim < 3 or not images.shape[-3] == len(mean) == len(std):
        raise ValueError(
            f"{len(mean)} means and {len(std)} standard deviations need images of shape "
            f"(..., {len(mean)}, H, W), got {tuple(images.shape)}"
        )
    mean_, std_ = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (mean, std))
    return (images / 255 - mean_) / std_


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
