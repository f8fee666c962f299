"""What is done to images before two networks are asked about them: lesson 10 and its benchmark.

All take and return uint8 images (n, C, H, W), and leave those that they were given alone. What is
random is drawn for each image, from a seed: two networks are asked about the very same pictures.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vit_tutorial.augment import crop_flip
from vit_tutorial.model import patchify, unpatchify

MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))  # up, down, left, right


def shuffled(images: Tensor, piece: int, seed: int = 0) -> Tensor:
    """Cut each image into squares of `piece` pixels and lay them anew, in a random order.

    Raises:
        ValueError: pieces that do not divide the images.
    """
    pieces = patchify(images, piece)  # (n, N, C*P*P)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(pieces.shape[:2], generator=generator).argsort(dim=1)  # (n, N)
    moved = pieces.gather(1, order[:, :, None].expand_as(pieces))
    return unpatchify(moved, piece, (images.shape[2] // piece, images.shape[3] // piece))


def shifted(images: Tensor, pixels: int, seed: int = 0) -> Tensor:
    """Move each image by `pixels` up, down, left or right; what enters is a mirror image.

    Raises:
        ValueError: a negative number of pixels, or as many as the image has.
    """
    if not 0 <= pixels < min(images.shape[2:]):
        raise ValueError(f"pixels must be from 0 to below {min(images.shape[2:])}, got {pixels}")
    generator = torch.Generator().manual_seed(seed)
    way = torch.randint(len(MOVES), (len(images),), generator=generator)
    still = torch.zeros(len(images), dtype=torch.bool)
    return crop_flip(images, pixels * torch.tensor(MOVES)[way], still)


def occluded(images: Tensor, share: float, patch_size: int, fill: Tensor, seed: int = 0) -> Tensor:
    """Paint a share of each image's patches in one colour, `fill` (C,): (n, C, H, W).

    With the same seed the patches of a smaller share are among those of a larger one.

    Raises:
        ValueError: a share outside 0 to 1, or patches that do not divide the images.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in 0..1, got {share}")
    patches = patchify(images, patch_size)  # (n, N, C*P*P)
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.rand(patches.shape[:2], generator=generator).argsort(dim=1).argsort(dim=1)
    hidden = ranks < round(share * patches.shape[1])  # (n, N)
    colour = fill.to(torch.uint8).repeat_interleave(patch_size**2)  # (C*P*P,)
    grid = images.shape[2] // patch_size, images.shape[3] // patch_size
    return unpatchify(torch.where(hidden[:, :, None], colour, patches), patch_size, grid)


def hybrids(coarse: Tensor, fine: Tensor, sigma: float) -> Tensor:
    """Join what is coarse in one image to what is fine in another: twice (n, C, H, W) -> the same.

    Coarse is what a Gaussian blur with deviation `sigma` (pixels) leaves, fine what it takes away
    (Oliva, Torralba & Schyns 2006, ACM Transactions on Graphics 25, 527-532).

    Raises:
        ValueError: images of different shapes, or a sigma that is not positive.
    """
    if coarse.shape != fine.shape or not sigma > 0:
        raise ValueError(
            f"expected images of one shape and a positive sigma, got {tuple(coarse.shape)}, "
            f"{tuple(fine.shape)} and {sigma}"
        )
    low, high = (blurred(images.float(), sigma) for images in (coarse, fine))
    return (low + fine - high).round().clamp(0, 255).to(torch.uint8)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Blur images (n, C, H, W) with a Gaussian of deviation `sigma`; borders are mirrored.

    It is cut off after 4 deviations, or where the mirror image ends.

    Examples:
        >>> round(blurred(torch.ones(1, 1, 5, 5), sigma=1.0).mean().item(), 4)
        1.0
    """
    for dim, size in ((2, images.shape[2]), (3, images.shape[3])):  # one direction at a time
        reach = min(round(4 * sigma), size - 1)
        weights = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
        kernel = (
            (weights / weights.sum()).to(images).view(1, 1, *((-1, 1) if dim == 2 else (1, -1)))
        )
        pad = (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0)
        flat = F.pad(images.flatten(0, 1)[:, None], pad, mode="reflect")  # (n*C, 1, ...)
        images = F.conv2d(flat, kernel).view(images.shape)
    return images
