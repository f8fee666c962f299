"""How alike positions are: every one with every other, under the pointer or the arrow keys."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import traitlets

from vit_tutorial.explorer.page import Explorer, sources
from vit_tutorial.plots import heat_colours

MAX_PATCHES = 1024  # of a grid; a table then has a million numbers
ROUNDING = 1e-3  # how far a cosine may stray beyond 1


class PositionExplorer(Explorer):
    """Show tables of similarities between positions, one patch at a time and all at once.

    Args:
        similarities: name -> (N, N) cosine similarities of the N patches in reading order, as
            `positions.position_similarity` returns.
        grid: (rows, columns) of patches; N = rows * columns.
        query: the patch (row, column) that is compared with all; by default one in the middle.

    `query` and `kind` follow what is done in the browser, and a cell may set them.

    Raises:
        ValueError: no tables, a grid that they do not fit, or numbers that are no cosines; later,
            a `query` outside the grid or a `kind` that is not there.

    Examples:
        >>> explorer = PositionExplorer({"none alike": np.eye(6)}, grid=(2, 3), query=(0, 1))
        >>> explorer
        PositionExplorer: none alike, on 2x3 patches
        >>> explorer.query, explorer.kind
        ((0, 1), 'none alike')
    """

    _esm, _css = sources(__file__)
    grid = traitlets.Tuple(traitlets.Int(), traitlets.Int(), read_only=True).tag(sync=True)
    kinds = traitlets.List(traitlets.Unicode(), read_only=True).tag(sync=True)
    tables = traitlets.Bytes(read_only=True).tag(sync=True)  # float32, (kinds, N, N)
    palette = traitlets.Bytes(read_only=True).tag(sync=True)  # uint8, (256, 3)
    query = traitlets.Tuple(traitlets.Int(), traitlets.Int()).tag(sync=True)
    kind = traitlets.Unicode().tag(sync=True)

    def __init__(
        self,
        similarities: Mapping[str, Any],
        grid: tuple[int, int],
        query: tuple[int, int] | None = None,
    ) -> None:
        sizes = tuple(grid) if isinstance(grid, tuple | list) else ()
        if len(sizes) != 2 or min(sizes) < 1 or not 2 <= sizes[0] * sizes[1] <= MAX_PATCHES:
            raise ValueError(
                f"grid must be (rows, columns), of 2 to {MAX_PATCHES} patches, got {grid!r}"
            )
        if not isinstance(similarities, Mapping) or not similarities:
            actual = "none" if isinstance(similarities, Mapping) else type(similarities).__name__
            raise ValueError(
                f'expected tables by name, as in {{"learned": similarity}}, got {actual}'
            )
        tables = [_checked(name, table, sizes) for name, table in similarities.items()]
        kinds = [str(name) for name in similarities]
        self.set_trait("grid", sizes)
        self.set_trait("kinds", kinds)
        self.set_trait("tables", np.stack(tables).tobytes())
        self.set_trait("palette", heat_colours().tobytes())
        super().__init__(query=query or (sizes[0] // 2, sizes[1] // 2), kind=kinds[0])

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {', '.join(self.kinds)}, on {_sizes(self.grid)} patches"

    @traitlets.validate("query")
    def _query_is_on_the_grid(self, proposal: Any) -> tuple[int, int]:
        row, column = proposal["value"]
        if row not in range(self.grid[0]) or column not in range(self.grid[1]):
            raise ValueError(
                f"query must be a patch (row, column) of the {_sizes(self.grid)} grid, "
                f"counted from 0, got {(row, column)}"
            )
        return row, column

    @traitlets.validate("kind")
    def _kind_is_there(self, proposal: Any) -> str:
        if proposal["value"] not in self.kinds:
            raise ValueError(f"kind must be one of {self.kinds}, got {proposal['value']!r}")
        return proposal["value"]


def _sizes(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"


def _checked(name: str, table: Any, grid: tuple[int, int]) -> np.ndarray:
    """Return a table as float32 within -1..1, if it is one of cosines for this grid."""
    similarity = np.asarray(table, dtype=np.float32)
    patches = grid[0] * grid[1]
    if similarity.shape != (patches, patches):
        raise ValueError(
            f"{name!r}: a grid of {_sizes(grid)} patches has similarities of shape "
            f"({patches}, {patches}), without prefix tokens; got {similarity.shape}"
        )
    lowest, highest = similarity.min(), similarity.max()
    if not (lowest >= -1 - ROUNDING and highest <= 1 + ROUNDING):  # also refuses NaN
        raise ValueError(
            f"{name!r}: cosine similarities lie in -1..1, got {lowest:.3g} to {highest:.3g}"
        )
    return similarity.clip(-1, 1)
