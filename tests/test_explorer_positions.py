"""The explorer of positions: what Python checks and sends, and how the page answers."""

import base64
import json

import numpy as np
import pytest

from vit_tutorial import PositionExplorer
from vit_tutorial.explorer.positions import MAX_PATCHES
from vit_tutorial.plots import heat_colours

GRID = (3, 5)  # not square, or swapped rows and columns would go unseen


def cosines(seed: int = 0, patches: int = 15) -> np.ndarray:
    """Cosine similarities of random vectors."""
    vectors = np.random.default_rng(seed).normal(size=(patches, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def explorer() -> PositionExplorer:
    return PositionExplorer({"learned": cosines(0), "sin-cos": cosines(1)}, GRID, query=(1, 2))


# ---- Python's part ----


def test_tables_are_sent_once_as_bytes():
    made = explorer()
    sent = np.frombuffer(made.tables, dtype=np.float32).reshape(2, 15, 15)
    np.testing.assert_allclose(sent, [cosines(0), cosines(1)], atol=1e-6)
    palette = np.frombuffer(made.palette, dtype=np.uint8).reshape(256, 3)
    assert np.array_equal(palette, heat_colours())
    assert (made.grid, made.kinds, made.kind, made.query) == (
        GRID,
        ["learned", "sin-cos"],
        "learned",
        (1, 2),
    )


def test_it_starts_in_the_middle_unless_told():
    assert PositionExplorer({"a": cosines()}, GRID).query == (1, 2)
    assert PositionExplorer({"a": cosines()}, GRID, query=(0, 0)).query == (0, 0)


def test_a_cell_may_move_the_query_and_change_the_kind():
    made = explorer()
    made.query, made.kind = (2, 4), "sin-cos"
    assert (made.query, made.kind) == ((2, 4), "sin-cos")


def test_rounding_beyond_one_is_cut_off():
    sent = np.frombuffer(PositionExplorer({"a": cosines() * 1.0005}, GRID).tables, np.float32)
    assert sent.max() == 1


@pytest.mark.parametrize("grid", [(3,), (3, 0), 15, (1, 1), (MAX_PATCHES, 2), "35", None])
def test_a_grid_that_is_none_is_refused(grid):
    with pytest.raises(ValueError, match=r"grid must be \(rows, columns\), of 2 to 1024 patches"):
        PositionExplorer({"a": cosines()}, grid)


@pytest.mark.parametrize(("tables", "came"), [({}, "none"), (cosines(), "ndarray")])
def test_tables_without_names_are_refused(tables, came):
    with pytest.raises(ValueError, match=f"expected tables by name.*got {came}"):
        PositionExplorer(tables, GRID)


@pytest.mark.parametrize("shape", [(16, 16), (15,), (1, 15, 15)])
def test_a_table_of_another_size_is_refused(shape):
    with pytest.raises(ValueError, match=r"'a': a grid of 3x5 patches .*\(15, 15\).*got \("):
        PositionExplorer({"a": np.zeros(shape)}, GRID)


@pytest.mark.parametrize("table", [cosines() * 2, np.full((15, 15), np.nan)])
def test_numbers_that_are_no_cosines_are_refused(table):
    with pytest.raises(ValueError, match=r"cosine similarities lie in -1..1, got"):
        PositionExplorer({"a": table}, GRID)


@pytest.mark.parametrize("query", [(3, 0), (0, 5), (-1, 0)])
def test_a_query_outside_the_grid_is_refused(query):
    made = explorer()
    with pytest.raises(ValueError, match=r"query must be a patch .* 3x5 grid"):
        made.query = query
    with pytest.raises(ValueError, match="query must be a patch"):
        PositionExplorer({"a": cosines()}, GRID, query=query)
    assert made.query == (1, 2)


def test_a_kind_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"kind must be one of \['learned', 'sin-cos'\], got 'x'"):
        explorer().kind = "x"


def test_it_is_named_shortly():
    assert repr(explorer()) == "PositionExplorer: learned, sin-cos, on 3x5 patches"


# ---- The page's part, without Jupyter: the same module, fed a model of a few lines ----

PAGE = """
<!doctype html><meta charset="utf-8"><style>%(css)s</style>
<body style="margin: 16px"><div id="view"></div><script type="module">
const { default: widget } = await import("data:text/javascript;base64,%(module)s");
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const state = %(state)s;
state.tables = bytes(state.tables);
state.palette = bytes(state.palette);
const listeners = {};
window.saved = [];
window.model = {
  get: (name) => state[name],
  set: (name, value) => {
    state[name] = value;
    (listeners["change:" + name] || []).forEach((f) => f());
  },
  on: (name, f) => (listeners[name] ??= []).push(f),
  off: (name, f) => (listeners[name] = listeners[name].filter((g) => g !== f)),
  save_changes: () => window.saved.push([state.kind, ...state.query]),
};
window.listening = () => Object.values(listeners).flat().length;
window.end = await widget.render({ model, el: document.getElementById("view") });
window.ready = true;
</script>
"""


def standalone(made: PositionExplorer) -> str:
    """Return a page with the explorer and no kernel."""
    state = {"grid": made.grid, "kinds": made.kinds, "query": made.query, "kind": made.kind}
    for name in ("tables", "palette"):
        state[name] = base64.b64encode(getattr(made, name)).decode()
    module = base64.b64encode(PositionExplorer._esm.encode()).decode()
    return PAGE % {"css": PositionExplorer._css, "module": module, "state": json.dumps(state)}


@pytest.fixture
def page(open_file, tmp_path):
    (tmp_path / "page.html").write_text(standalone(explorer()), encoding="utf-8")
    page = open_file(tmp_path / "page.html")
    page.wait_for_function("window.ready")
    return page


def test_a_saved_page_works_alone(open_file, tmp_path):
    made = explorer()
    made.save_html(tmp_path / "positions.html")
    row, column = made.query
    table = np.frombuffer(made.tables, dtype=np.float32).reshape(-1, 15, 15)[0]
    assert words(open_file(tmp_path / "positions.html")) == expected_words(table, row, column)


def words(page) -> str:
    return page.locator(".pe-words").text_content()


def expected_words(table: np.ndarray, row: int, column: int) -> str:
    """What must be said of a patch, worked out apart from the page."""
    line = table[row * GRID[1] + column].copy()
    line[row * GRID[1] + column] = np.nan
    said = []
    for pick, how in ((np.nanargmax, "most"), (np.nanargmin, "least")):
        r, c = divmod(int(pick(line)), GRID[1])
        value = f"{line[r * GRID[1] + c]:.2f}".replace("-", "\u2212")
        said.append(f"{how} like row {r}, column {c} ({value})")
    return f"Row {row}, column {column} is {said[0]} and {said[1]}."


def point_at(page, stage: int, row: int, column: int) -> None:
    """Move the pointer to the middle of a patch, in the large map (0) or among the small (1)."""
    box = page.locator(".pe-stage").nth(stage).bounding_box()
    x = box["x"] + (column + 0.5) * box["width"] / GRID[1]
    page.mouse.move(x, box["y"] + (row + 0.5) * box["height"] / GRID[0])


def test_the_number_stands_in_words(page):
    assert words(page) == expected_words(cosines(0), 1, 2)


@pytest.mark.parametrize("stage", [0, 1])
def test_the_pointer_moves_the_query(page, stage):
    for row, column in ((0, 0), (2, 4), (1, 3)):
        point_at(page, stage, row, column)
        assert words(page) == expected_words(cosines(0), row, column)


def test_python_hears_where_the_pointer_came_to_rest_and_not_of_every_move(page):
    moves = """(stage, [rows, columns]) => {  // all in one go, however slow this computer is
      const box = stage.getBoundingClientRect();
      const clientY = box.y + (2.5 * box.height) / rows;
      for (let column = 0; column < columns; column++) {
        const clientX = box.x + ((column + 0.5) * box.width) / columns;
        stage.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));
      }
      return saved.length;
    }"""
    assert page.locator(".pe-stage").first.evaluate(moves, GRID) == 0, "not while it moves"
    page.wait_for_function("saved.length > 0")
    assert page.evaluate("saved") == [["learned", 2, 4]]


def test_arrow_keys_move_the_query_and_stop_at_the_edge(page):
    page.locator(".pe-stage").first.focus()
    page.keyboard.press("ArrowRight")
    assert words(page) == expected_words(cosines(0), 1, 3)
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    assert words(page) == expected_words(cosines(0), 2, 3)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert words(page) == expected_words(cosines(0), 1, 0)
    page.keyboard.press("End")
    assert words(page) == expected_words(cosines(0), 1, 4)


def test_two_patches_are_compared_by_pointer_and_by_keys(page):
    def said(first, second):
        value = cosines(0)[first[0] * 5 + first[1], second[0] * 5 + second[1]]
        number = f"{value:.2f}".replace("-", "\u2212")
        return "Row {}, column {} and row {}, column {}: similarity {}.".format(
            *first, *second, number
        )

    point_at(page, 0, 0, 1)
    page.mouse.down()
    page.mouse.up()
    point_at(page, 0, 2, 4)
    assert words(page) == said((0, 1), (2, 4))
    page.keyboard.press("Escape")
    assert words(page) == expected_words(cosines(0), 0, 1)
    page.keyboard.press("Shift+ArrowDown")
    assert words(page) == said((0, 1), (1, 1))
    page.keyboard.press("Shift+ArrowRight")
    assert words(page) == said((0, 1), (1, 2))
    page.keyboard.press("ArrowLeft")
    assert words(page) == said((0, 0), (1, 2))


def test_buttons_change_the_kind(page):
    page.get_by_role("button", name="sin-cos").click()
    point_at(page, 0, 0, 4)
    assert words(page) == expected_words(cosines(1), 0, 4)
    pressed = page.locator("button[aria-pressed=true]").all_text_contents()
    assert pressed == ["sin-cos"]
    assert page.evaluate("saved[0][0]") == "sin-cos"


def test_a_cell_that_sets_the_query_moves_the_picture(page):
    page.evaluate("model.set('query', [2, 0])")
    assert words(page) == expected_words(cosines(0), 2, 0)


def test_colours_are_those_of_the_numbers(page):
    """The pixel in the middle of every patch of the large map, against the palette."""
    point_at(page, 0, 0, 3)
    pixels = page.evaluate(
        """([rows, columns]) => {
          const canvas = document.querySelector(".pe-stage canvas");
          const pen = canvas.getContext("2d");
          const [w, h] = [canvas.width / columns, canvas.height / rows];
          return Array.from({ length: rows * columns }, (_, i) => [...pen.getImageData(
            (i % columns + 0.5) * w, (Math.floor(i / columns) + 0.5) * h, 1, 1).data].slice(0, 3));
        }""",
        list(GRID),
    )
    table = cosines(0).astype(np.float32)
    shares = (table[3] - table.min()) / (table.max() - table.min())
    assert np.abs(np.array(pixels) - heat_colours()[np.rint(255 * shares).astype(int)]).max() <= 3


def test_every_control_keeps_its_keys_from_jupyterlab(page):
    missing = page.evaluate(
        """() => [...document.querySelectorAll("#view button, #view [tabindex]")]
          .filter((control) => control.dataset.lmSuppressShortcuts !== "true").length"""
    )
    assert missing == 0


def test_nothing_listens_on_when_a_view_is_closed(page):
    assert page.evaluate("listening()") == 2
    assert page.evaluate("end(), listening()") == 0
