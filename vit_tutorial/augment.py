"""Random changes that leave the label true, for a whole batch at once, drawn per image."""

import torch
from torch import Tensor


def draw_crop_flip(
    count: int, padding: int, flip: bool, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw one shift and one flip per image: (B, 2) whole pixels in +-`padding`, and (B,) bool.

    Raises:
        ValueError: a negative count or padding.
    """
    if count < 0 or padding < 0:
        raise ValueError(f"count and padding must not be negative, got {count} and {padding}")
    shift = torch.randint(-padding, padding + 1, (count, 2), generator=generator)
    flipped = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
    return shift, flipped


def crop_flip(images: Tensor, shift: Tensor, flipped: Tensor) -> Tensor:
    """Shift each image by (down, right) pixels and mirror some: (B, C, H, W) -> (B, C, H, W).

    The same as padding by reflection, cropping and flipping, but as one gather of pixels.

    Raises:
        ValueError: shapes that do not fit, or a shift that reaches past the reflected border.

    Examples:
        >>> row = torch.tensor([[[[1, 2, 3]]]])
        >>> crop_flip(row, torch.tensor([[0, 1]]), torch.tensor([False])).flatten().tolist()
        [2, 3, 2]
    """
    if images.ndim != 4:
        raise ValueError(f"expected images of shape (B, C, H, W), got {tuple(images.shape)}")
    batch, _, height, width = images.shape
    if shift.shape != (batch, 2) or flipped.shape != (batch,):
        raise ValueError(
            f"{batch} images need shifts of shape ({batch}, 2) and flips of shape ({batch},), "
            f"got {tuple(shift.shape)} and {tuple(flipped.shape)}"
        )
    if batch and (shift.abs().amax(0) >= torch.tensor([height, width], device=shift.device)).any():
        raise ValueError(f"a shift must be smaller than the image ({height}x{width} pixels)")
    # the source row of every target row, and the source column of every target column
    rows = torch.arange(height, device=shift.device) + shift[:, :1]  # (B, H)
    columns = torch.arange(width, device=shift.device) + shift[:, 1:]  # (B, W)
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    rows, columns = (_reflect(rows, height), _reflect(columns, width))
    batch_index = torch.arange(batch, device=shift.device)[:, None, None]
    return images.movedim(1, -1)[batch_index, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Fold indices outside 0..size-1 back inside, the border pixel itself not repeated."""
    return (size - 1) - ((size - 1) - index.abs()).abs()
