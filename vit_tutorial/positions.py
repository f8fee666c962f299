"""Where a patch is: sin-cos tables, rotary angles, a learned table moved to another grid, likeness.

Attention treats its tokens as a set, so the order has to be written into them. Everything here
starts from `patch_coordinates`: one (row, column) pair per patch, in reading order. Built step by
step in lesson 03.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def patch_coordinates(grid: tuple[int, int], trained_grid: tuple[int, int] | None = None) -> Tensor:
    """List the (row, column) of every patch in reading order: (N, 2), unit: one patch.

    With `trained_grid` the same picture is laid over the coordinates of another grid: patch centres
    are scaled, so that a model sees no position outside the range that it was trained on
    ("position interpolation", Chen et al. 2023, arXiv 2306.15595).

    Examples:
        >>> patch_coordinates((2, 3)).tolist()
        [[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]
        >>> patch_coordinates((1, 4), trained_grid=(1, 2))[:, 1].tolist()
        [-0.25, 0.25, 0.75, 1.25]
    """
    rows, columns = (
        (torch.arange(new, dtype=torch.get_default_dtype()) + 0.5) * (old / new) - 0.5
        for new, old in zip(grid, trained_grid or grid, strict=True)
    )
    return torch.cartesian_prod(rows, columns)


def sincos_1d(positions: Tensor, dim: int, base: float = 10_000.0) -> Tensor:
    """Turn each position into a vector of sines and cosines: (n,) -> (n, dim).

    Entries 2i and 2i+1 are sin and cos of position / base^(2i / dim) (Vaswani et al. 2017, arXiv
    1706.03762, section 3.5).

    Raises:
        ValueError: an odd `dim`.

    Examples:
        >>> sincos_1d(torch.tensor([0.0]), dim=4).tolist()
        [[0.0, 1.0, 0.0, 1.0]]
    """
    if dim % 2:
        raise ValueError(f"dim must be even (a sine and a cosine per frequency), got {dim}")
    frequencies = base ** (-torch.arange(0, dim, 2, dtype=positions.dtype) / dim)  # (dim/2,)
    angles = positions[:, None] * frequencies  # (n, dim/2)
    return rearrange([angles.sin(), angles.cos()], "two n i -> n (i two)")


def sincos_2d(coordinates: Tensor, dim: int, base: float = 10_000.0) -> Tensor:
    """Encode rows in the first half of the vector and columns in the second: (N, 2) -> (N, dim).

    Each half is `sincos_1d`. Used by MAE (He et al. 2021, arXiv 2111.06377, appendix A.1).

    Raises:
        ValueError: a `dim` that is no multiple of 4.

    Examples:
        >>> sincos_2d(patch_coordinates((2, 3)), dim=8).shape
        torch.Size([6, 8])
    """
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4 (sin and cos, row and column), got {dim}")
    rows, columns = coordinates.unbind(dim=1)
    return torch.cat([sincos_1d(rows, dim // 2, base), sincos_1d(columns, dim // 2, base)], dim=1)


def rope_2d(coordinates: Tensor, head_dim: int, base: float = 100.0) -> Tensor:
    """Give the rotation angle of every pair of channels: (N, 2) -> (N, head_dim/2), radians.

    Axial 2-D rotary positions: the first half of the pairs turns with the row, the second with the
    column, at frequencies base^(-i / (head_dim/4)) (Su et al. 2021, arXiv 2104.09864, equation 15;
    two dimensions and base 100: Heo et al. 2024, arXiv 2403.13298, section 3.2).

    Raises:
        ValueError: a `head_dim` that is no multiple of 4.

    Examples:
        >>> rope_2d(patch_coordinates((1, 3)), head_dim=4).tolist()
        [[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]]
    """
    if head_dim % 4:
        raise ValueError(f"head_dim must be a multiple of 4 (pairs, row, column), got {head_dim}")
    quarter = head_dim // 4
    frequencies = base ** (-torch.arange(quarter, dtype=coordinates.dtype) / quarter)
    return rearrange(coordinates[:, :, None] * frequencies, "n two i -> n (two i)")


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate channel pairs (2i, 2i+1) of every token by its angles: (..., T, d) -> (..., T, d).

    `angles` is (T, d/2), or (..., T, d/2) to broadcast. Rotating queries and keys makes their
    product depend on the difference of two positions only (Su et al. 2021, equation 16).

    Raises:
        ValueError: `angles` of another shape than (T, d/2) at its end.

    Examples:
        >>> quarter_turn = torch.tensor([[torch.pi / 2]])
        >>> rotate(torch.tensor([[1.0, 0.0]]), quarter_turn).round().abs().tolist()
        [[0.0, 1.0]]
    """
    if angles.shape[-2:] != (x.shape[-2], x.shape[-1] // 2):
        raise ValueError(
            f"x of shape {tuple(x.shape)} needs angles (T, d/2), got {tuple(angles.shape)}"
        )
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = rearrange(x, "... t (i two) -> two ... t i", two=2)
    turned = [first * cos - second * sin, first * sin + second * cos]
    return rearrange(turned, "two ... t i -> ... t (i two)")


def resample_table(
    table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix: int = 0
) -> Tensor:
    """Stretch a learned position table over another grid: (1, T, D) -> (1, T', D).

    The entries of prefix tokens (CLS) are kept; those of the patches are an image of D channels and
    are interpolated bicubically (Dosovitskiy et al. 2020, arXiv 2010.11929, section 3.2).

    Raises:
        ValueError: a table whose length is not `num_prefix` + rows * columns of `old_grid`.

    Examples:
        >>> resample_table(torch.zeros(1, 1 + 8 * 8, 16), (8, 8), (12, 10), num_prefix=1).shape
        torch.Size([1, 121, 16])
    """
    rows, columns = old_grid
    if table.ndim != 3 or table.shape[:2] != (1, num_prefix + rows * columns):
        raise ValueError(
            f"a {rows}x{columns} grid with {num_prefix} prefix tokens has a table of shape "
            f"(1, {num_prefix + rows * columns}, D), got {tuple(table.shape)}"
        )
    if tuple(new_grid) == tuple(old_grid):
        return table.clone()
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    image = rearrange(patches, "one (r c) d -> one d r c", r=rows)
    if image.dtype != torch.float64:
        image = image.float()  # half precision cannot be interpolated on a CPU
    one_column = new_grid[1] == 1  # laid on its side: PyTorch 2.11 gets a single column wrong
    size = tuple(reversed(new_grid)) if one_column else tuple(new_grid)
    image = image.mT.contiguous() if one_column else image
    image = F.interpolate(image, size=size, mode="bicubic", antialias=True)
    image = image.mT if one_column else image
    patches = rearrange(image, "one d r c -> one (r c) d").to(table.dtype)
    return torch.cat([prefix, patches], dim=1)


def position_similarity(table: Tensor, num_prefix: int = 0) -> Tensor:
    """Compare every position with every other: (T, D) or (1, T, D) -> cosine similarity (N, N).

    Entry (i, j) is the cosine of the angle between the vectors of patches i and j: 1 where they
    point the same way, 0 where they are orthogonal. The `num_prefix` rows in front (CLS)
    have no position in the image and are left out. A row of zeros has similarity 0.

    Raises:
        ValueError: a table of another shape, or one without a row for a patch.

    Examples:
        >>> table = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
        >>> position_similarity(table, num_prefix=1).tolist()
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    rows = table[0] if table.ndim == 3 and len(table) == 1 else table
    if rows.ndim != 2 or not 0 <= num_prefix < len(rows):
        raise ValueError(
            f"expected a table (T, D) or (1, T, D) with more than {num_prefix} prefix rows, "
            f"got {tuple(table.shape)}"
        )
    patches = rows[num_prefix:].detach()
    patches = patches if patches.dtype == torch.float64 else patches.float()
    directions = F.normalize(patches, dim=1)
    return directions @ directions.mT
