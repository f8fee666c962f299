"""The attention explorer: what Python sends, what a browser computes of it and how it answers."""

import base64
import io
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from browser import TWO_FRAMES
from conftest import randomize
from matplotlib.patches import Rectangle
from PIL import Image

from vit_tutorial import AttentionExplorer, VisionTransformer, ViTConfig, record_attention
from vit_tutorial.attention import relevance, rollout
from vit_tutorial.explorer import page as pages
from vit_tutorial.explorer.scene import PAGE
from vit_tutorial.images import Reading, fit_image, normalize
from vit_tutorial.methods import METHODS, RELEVANCE_METHODS
from vit_tutorial.plots import map_shares

SIZE, GRID = (12, 20), (3, 5)  # not square, or swapped rows and columns would go unseen
CLASSES = ("ant", "bee", "cat", "dog")


def network(**changes) -> VisionTransformer:
    config = {**dict(img_size=SIZE, patch_size=4, embed_dim=24, depth=3, num_heads=2), **changes}
    return randomize(VisionTransformer(ViTConfig(num_classes=4, **config))).float()


def reading(size=SIZE) -> Reading:
    return Reading(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), CLASSES)


def photograph(seed=0, size=(40, 24)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def explorer(**changes) -> AttentionExplorer:
    made = AttentionExplorer(network(**changes), photograph(), reading(), name="dots")
    made.show = "head"
    return made


def recorded(model=None):
    fitted = fit_image(photograph(), SIZE)
    pixels = normalize(fitted.pixels[None], reading().mean, reading().std)
    return record_attention(model or network(), pixels, gradients_of=None)


# ---- what Python sends ----


def test_weights_are_sent_within_a_part_in_510_of_their_rows_largest():
    made, record = explorer(), recorded()
    for sent, weights in zip(made.record().weights, record.weights, strict=True):
        allowed = weights.amax(-1, keepdim=True) / 510 * 1.001
        assert ((sent - weights).abs() <= allowed).all()
    assert made.record().grid == GRID
    came, right = rollout(made.record())[0], rollout(record)[0]
    assert (came - right).abs().max() < 0.006 * right.max()


def test_facts_say_what_is_shown():
    made = explorer()
    facts = made.scenes[0]
    fitted = fit_image(photograph(), SIZE)
    logits = network()(normalize(fitted.pixels[None], reading().mean, reading().std))
    chances = logits.softmax(1)[0]
    best = int(chances.argmax())
    assert facts["answer"] == f"named {CLASSES[best]} ({chances[best]:.0%}) among 4 classes"
    assert (facts["rows"], facts["columns"], facts["layers"], facts["heads"]) == (3, 5, 3, 2)
    assert facts["prefix_names"] == ["CLS"]
    assert facts["methods"] == list(METHODS.values())[2:]
    assert (made.layer, made.query, repr(made)) == (2, 0, "AttentionExplorer: dots")
    picture = Image.open(io.BytesIO(made.images[0]))
    assert picture.size == (facts["width"], facts["height"]) == fitted.view().size


@pytest.mark.parametrize("target", [None, "dog", 1])
def test_relevance_maps_are_for_the_asked_class(target):
    model = network()
    made = AttentionExplorer(model, photograph(), reading(), target=target)
    fitted = fit_image(photograph(), SIZE)
    pixels = normalize(fitted.pixels[None], reading().mean, reading().std)
    label = {None: int(model(pixels).argmax()), "dog": 3, 1: 1}[target]
    record = record_attention(model, pixels, gradients_of=label)
    assert made.scenes[0]["target"] == CLASSES[label]
    for method in RELEVANCE_METHODS:
        expected = relevance(record, method=method)[0].flatten()
        for name in (method, METHODS[method]):  # as it is typed, and as its button calls it
            np.testing.assert_allclose(made.values(show=name)[1:], expected, rtol=1e-5)


def test_a_class_that_is_not_there_is_refused():
    for target in ("cow", 4, -1):
        with pytest.raises(ValueError, match=r"target must be a class \(ant; bee; cat; dog\)"):
            AttentionExplorer(network(), photograph(), reading(), target=target)


def test_over_the_budget_the_mean_of_the_heads_is_sent():
    size = 3 * 16 * (16 + 4)
    picture = len(explorer().images[0])
    budget = (PAGE + 4 / 3 * (size + picture + 9)) / 1e6
    made = AttentionExplorer(network(), photograph(), reading(), budget_mb=budget)
    assert made.scenes[0]["heads"] == 1
    assert made.scenes[0]["head_note"].startswith("Every layer, the mean of 2 heads (all would")
    means = [layer.mean(1, keepdim=True) for layer in recorded().weights]
    for sent, mean in zip(made.record().weights, means, strict=True):
        assert (sent - mean).abs().max() < 1 / 500


def test_over_the_budget_of_that_layers_are_left_out_and_rollout_is_still_of_all():
    made = AttentionExplorer(network(), photograph(), reading(), budget_mb=0)
    facts = made.scenes[0]
    assert (facts["layers"], facts["layer_numbers"]) == (1, [2])
    assert facts["head_note"].startswith("1 of 3 layers, the mean of 2 heads")
    expected = rollout(recorded())[0].flatten()
    np.testing.assert_allclose(made.values(show="rollout")[1:], expected, rtol=1e-5)
    made.figure(show="rollout")
    assert made._caption(made._view({"show": "mean"})).startswith("Layer 2, mean")


def test_a_page_keeps_to_its_budget(tmp_path):
    for budget in (0.5, 0.65):
        model = network(img_size=160, patch_size=8)
        made = AttentionExplorer(model, photograph(), reading(160), budget_mb=budget)
        made.save_html(tmp_path / "page.html")
        assert (tmp_path / "page.html").stat().st_size <= 1e6 * budget
        assert made.scenes[0]["head_note"]


def test_a_network_without_cls_starts_with_the_mean_of_all():
    made = explorer(pool="mean")
    assert (made.query, made.scenes[0]["num_prefix"]) == (-1, 0)
    expected = made.record().weights[2][0].mean(0).mean(0)
    np.testing.assert_allclose(made.values(show="mean"), expected, rtol=1e-5)


def test_images_and_networks_can_be_added_and_are_told_apart():
    made = explorer()
    made.add(photograph(1), name="dots")
    made.add(photograph(1), model=network(depth=2), name="shallow")
    assert [scene["name"] for scene in made.scenes] == ["dots", "dots (2)", "shallow"]
    assert [scene["layers"] for scene in made.scenes] == [3, 3, 2]
    assert made.scene == 2
    assert len(made.weights) == len(made.largest) == len(made.images) == len(made.relevances) == 3


def test_an_image_from_the_browser_is_opened_or_refused_in_a_sentence():
    made, sent = explorer(), []
    made.send = sent.append
    file = io.BytesIO()
    photograph(2).save(file, "PNG")
    made.opened = {"name": "mine.png", "bytes": memoryview(file.getvalue())}
    assert [scene["name"] for scene in made.scenes] == ["dots", "mine.png"]
    made.opened = {"name": "broken.png", "bytes": file.getvalue()[:40]}
    assert len(made.scenes) == 2
    assert sent[0] == {"problem": ""}
    assert sent[1]["problem"].startswith("broken.png: ")


def test_what_is_not_there_cannot_be_shown():
    made = explorer()
    made.show = "legrad"
    assert made.show == "LeGrad"
    with pytest.raises(ValueError, match=r"show must be one of \['head', 'mean', 'rollout'.*'x'"):
        made.show = "x"
    with pytest.raises(Exception, match="head_fusion"):
        made.head_fusion = "sum"


# ---- what the browser computes ----

SETTINGS = [
    {"show": show, "layer": layer, "head": head, "query": query, "direction": direction}
    for show in ("head", "mean", "rollout")
    for layer, head in ((0, 1), (2, 0))
    for query in (0, 7, 15)
    for direction in ("from", "to")
]
SETTINGS += [
    {"show": "rollout", "layer": 2, "query": 3, "head_fusion": fusion, "discard_ratio": discard,
     "residual": residual}
    for fusion in ("mean", "max", "min")
    for discard in (0.0, 0.3, 0.9, 0.98)
    for residual in (0.0, 0.5, 1.0)
]  # fmt: skip
SETTINGS += [{"show": "Chefer"}, {"show": "LeGrad"}]

ASK = """async ({ module, facts, weights, largest, relevances, settings }) => {
  const { decodeWeights, makeScene, valuesOf, sentence } =
    await import("data:text/javascript;base64," + module);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const maps = new Float32Array(bytes(relevances).buffer);
  const size = facts.rows * facts.columns;
  const named = facts.methods.map((name, m) => [name, maps.subarray(m * size, (m + 1) * size)]);
  facts.relevances = Object.fromEntries(named);
  const scene = makeScene(facts, decodeWeights(bytes(weights), bytes(largest)));
  return settings.map((setting) => {
    const values = valuesOf(scene, setting);
    return { values: [...values], words: sentence(scene, setting, values) };
  });
}"""


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


@pytest.fixture
def ask(browser):
    """Ask the explorer's own module, in a browser, what it computes and says of settings."""
    view = browser.new_page()

    def go(made: AttentionExplorer, settings: list[dict]) -> list[dict]:
        def complete(setting: dict) -> dict:
            names = ("layer", "head", "query", "show", "residual", "head_fusion", "discard_ratio")
            at = {**{name: getattr(made, name) for name in names}, **setting}
            by = at.pop("direction", "from") == "to"
            return {**at, "fusion": at["head_fusion"], "discard": at["discard_ratio"], "by": by}

        parts = ("weights", "largest", "relevances")
        asked = {name: base64_of(getattr(made, name)[0]) for name in parts}
        asked |= {"module": base64_of(made._esm.encode()), "facts": made.scenes[0]}
        return view.evaluate(ASK, {**asked, "settings": [complete(one) for one in settings]})

    yield go
    view.close()


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_browser_computes_what_python_computes(pool, ask):
    made = explorer(pool=pool)
    settings = [one for one in SETTINGS if one.get("query", 0) < 15 or pool == "cls"]
    settings += [{"show": show, "query": -1} for show in ("head", "mean", "rollout")]
    if pool == "cls":
        settings = settings[:-3]
    for setting, came in zip(settings, ask(made, settings), strict=True):
        expected = made.values(**setting)
        np.testing.assert_allclose(came["values"], expected, atol=1e-5, err_msg=str(setting))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_only_what_cls_attends_to_in_itself_is_never_discarded(pool, ask):
    """The first entry of all is among the smallest: CLS keeps it, the first patch does not."""
    made = explorer(pool=pool)
    tokens = made.record().num_tokens
    shares = np.frombuffer(made.weights[0], np.uint8).reshape(3, 2, tokens, tokens).copy()
    shares[:, :, 0, 0] = 40
    made.weights = [shares.tobytes()]
    fused = made.record().weights[0][0].mean(0).numpy()
    limit = np.sort(fused, axis=None)[int(0.9 * fused.size) - 1]
    assert fused[0, 0] < limit
    left = np.where(fused > limit, fused, 0)[0]
    left[0] = 0 if pool == "mean" else fused[0, 0]
    row = 0.5 * left + 0.5 * np.eye(tokens)[0]
    (answer,) = ask(made, [{"show": "rollout", "layer": 0, "query": 0, "discard_ratio": 0.9}])
    np.testing.assert_allclose(answer["values"], row / row.sum(), atol=1e-5)


def in_percent(value: float) -> str:
    return f"{100 * value:.{2 if value < 0.00995 else 1 if value < 0.0995 else 0}f}%"


def test_the_browser_says_what_the_values_say(ask):
    made = explorer()
    settings = [
        {"show": "head", "layer": 1, "head": 1, "query": 0},
        {"show": "mean", "layer": 1, "query": 8},
        {"show": "head", "layer": 1, "head": 0, "query": 8, "direction": "to"},
        {"show": "rollout", "layer": 2, "query": 8},
        {"show": "Chefer"},
    ]
    said = [came["words"] for came in ask(made, settings)]

    def most(values, but=None):
        patches = values[1:].copy()
        if but is not None:
            patches[but - 1] = -1
        at = int(patches.argmax())
        return f"row {at // 5}, column {at % 5}", patches.max()

    values = [made.values(**setting) for setting in settings]
    place, share = most(values[0])
    rest = in_percent(values[0][1:].sum())
    assert said[0] == (
        f"Layer 1, head 1: CLS attends most to {place} ({in_percent(share)}). "
        f"All patches together get {rest}."
    )
    assert said[1].startswith("Layer 1, mean of its heads: row 1, column 2 attends most to ")
    place, share = most(values[2])
    assert said[2] == (
        f"Layer 1, head 0: row 1, column 2 is attended to most by {place} ({in_percent(share)})."
    )
    place, share = most(values[3], but=8)
    assert said[3] == (
        f"Rollout through layers 0 to 2: row 1, column 2 keeps {in_percent(values[3][8])} of "
        f"itself, and takes most from {place} ({in_percent(share)})."
    )
    assert said[4].startswith(f"Chefer for {made.scenes[0]['target']}: the patch in row ")


# ---- pages and pictures ----


def test_a_page_is_one_file_that_loads_nothing(tmp_path):
    made = explorer()
    path = tmp_path / "page.html"
    made.save_html(path)
    text = path.read_text(encoding="utf-8")
    assert f'content="{pages.POLICY}"' in text
    assert not re.search(r"""(src|href)=["'](?!data:|blob:)|https?:|import\s*\(|fetch\(""", text)
    assert "<iframe srcdoc=" in made.page()._repr_html_()
    assert made._repr_html_() == made.page()._repr_html_()


def test_a_name_cannot_break_out_of_the_page(tmp_path):
    made = AttentionExplorer(network(), photograph(), reading(), name="</script><b>x")
    assert "</script><b>" not in made.html()


def test_the_module_is_small_and_depends_on_nothing():
    code = AttentionExplorer._esm
    assert len(code.encode()) <= 60_000
    assert "import " not in code.replace("important", "")
    assert "</script" not in code


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old", encoding="utf-8")
    made = explorer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "page", lambda *parts: "\udc80")  # cannot be encoded
        with pytest.raises(UnicodeEncodeError):
            made.save_html(path)
    assert path.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    "setting",
    [
        {"show": "head", "query": 0},
        {"show": "mean", "query": 9},
        {"show": "rollout", "query": 3, "layer": 1},
        {"show": "LeGrad"},
    ],
    ids=lambda setting: setting["show"],
)
def test_pictures_show_the_setting(setting, tmp_path):
    made = explorer()
    made.save_png(tmp_path / "one.png", **setting)
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size[0] > 600
    figure = made.figure(**setting)
    photo, cells, atlas = figure.axes
    framed = setting["show"] != "LeGrad" and setting.get("query", 0) > 0
    for axes in (photo, cells):
        assert sum(isinstance(one, Rectangle) for one in axes.patches) == (2 if framed else 0)
    shares = map_shares(made.values(**setting)[1:].reshape(GRID))
    assert np.array_equal(cells.images[0].get_array(), shares)
    assert photo.get_title(loc="left").startswith("dots · named ")
    assert atlas.images[0].get_array().shape == (3 * 4, 2 * 6, 3)
    words = {
        "head": "Layer 2, head 0: what CLS attends to",
        "mean": "Layer 2, mean of its heads: what the patch in row 1, column 3 attends to",
        "rollout": "Rollout through layers 0 to 1: what the patch in row 0, column 2 attends to",
        "LeGrad": f"LeGrad for {made.scenes[0]['target']}",
    }
    assert figure.get_supxlabel() == words[setting["show"]]


@pytest.mark.parametrize(
    ("over", "frames"), [("layer", 3), ("head", 2), ("query", 15), ("discard_ratio", 10)]
)
def test_a_moving_picture_goes_through_all(over, frames, tmp_path):
    made = explorer()
    made.show = "rollout" if over == "discard_ratio" else "head"
    made.save_gif(tmp_path / "moving.gif", over=over)
    with Image.open(tmp_path / "moving.gif") as picture:
        assert picture.n_frames == frames
    with pytest.raises(ValueError, match="over must be one of layer, head, query, discard_ratio"):
        made.save_gif(tmp_path / "moving.gif", over="time")


# ---- in a browser ----


@pytest.fixture
def opened(open_file, tmp_path):
    """Open a page from its file, and wait until it has been drawn."""

    def go(*documents: str, width=1280, height=900, scheme="light"):
        path = tmp_path / "page.html"
        path.write_text("".join(documents), encoding="utf-8")
        view = open_file(path, width, height, scheme)
        for frame in view.frames[1:] or view.frames:
            frame.locator(".ae-words", has_text=re.compile(".")).first.wait_for()
        view.evaluate(TWO_FRAMES)
        return view

    return go


def words_of(view) -> str:
    """What the first picture says, once what was done before has been drawn."""
    view.evaluate(TWO_FRAMES)
    return view.locator(".ae-words").first.inner_text()


def test_a_saved_page_asks_for_nothing_and_has_no_problems(opened):
    view = opened(explorer().html())
    assert words_of(view).startswith("Layer 2, head 0: CLS attends most to row ")
    assert view.locator("h1").inner_text() == "Where it looks: dots"
    assert not view.locator(".ae-open").is_visible()


CONTRASTS = """() => {
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
    .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
    .reduce((sum, x, i) => sum + [0.2126, 0.7152, 0.0722][i] * x, 0);
  const page = light(getComputedStyle(document.body).backgroundColor);
  return [".ae-words", ".ex-note", ".ae-title", ".ae-label", "button"].map((name) => {
    const part = document.querySelector(`${name}:not([aria-pressed=true])`);
    const ink = light(getComputedStyle(part).color);
    return (Math.max(ink, page) + 0.05) / (Math.min(ink, page) + 0.05);
  });
}"""


def test_a_page_can_be_read_in_light_and_in_dark(opened, tmp_path):
    shades = []
    for scheme in ("light", "dark"):
        view = opened(explorer().html(), scheme=scheme)
        assert min(view.evaluate(CONTRASTS)) >= 4.5, "WCAG 2, for text"
        view.screenshot(path=tmp_path / f"{scheme}.png")
        with Image.open(tmp_path / f"{scheme}.png") as shot:
            shades.append(np.asarray(shot.convert("L"))[:8].mean())
    assert shades[0] > 240
    assert shades[1] < 40


def test_the_pointer_looks_from_the_patch_below_it_until_it_is_held(opened):
    view = opened(explorer().html())
    box = view.locator(".mv-stage").first.bounding_box()

    def at(row, column):
        return box["x"] + box["width"] * (column + 0.5) / 5, box["y"] + box["height"] * (
            row + 0.5
        ) / 3

    view.mouse.move(*at(1, 3))
    assert "row 1, column 3 attends most" in words_of(view)
    view.mouse.move(*at(2, 0))
    assert "row 2, column 0 attends most" in words_of(view)
    view.mouse.click(*at(2, 0))
    view.mouse.move(*at(0, 4))
    assert "row 2, column 0 attends most" in words_of(view)
    view.keyboard.press("Escape")
    view.mouse.move(*at(0, 3))
    assert "row 0, column 3 attends most" in words_of(view)
    outline = view.locator(".ex-outline").first.bounding_box()
    assert outline["x"] == pytest.approx(box["x"] + box["width"] * 3 / 5, abs=1.5)
    assert outline["y"] == pytest.approx(box["y"], abs=1.5)
    view.keyboard.press("ArrowDown")
    view.mouse.move(*at(2, 4))
    view.mouse.move(box["x"] - 20, box["y"] - 20)
    assert "row 1, column 3 attends most" in words_of(view), "the keys went on from there"


def test_every_setting_can_be_reached_by_keyboard(opened):
    view = opened(explorer().html())
    stage = view.locator(".mv-stage").first
    stage.focus()
    said = []
    for key in (
        "ArrowRight",
        "ArrowRight",
        "ArrowDown",
        "End",
        "Home",
        "[",
        ".",
        "m",
        "r",
        "c",
        "h",
    ):
        view.keyboard.press(key)
        said.append(words_of(view).split(" attends")[0].split(" keeps")[0])
    assert said == [
        "Layer 2, head 0: row 0, column 0",
        "Layer 2, head 0: row 0, column 1",
        "Layer 2, head 0: row 1, column 1",
        "Layer 2, head 0: row 1, column 4",
        "Layer 2, head 0: row 1, column 0",
        "Layer 1, head 0: row 1, column 0",
        "Layer 1, head 1: row 1, column 0",
        "Layer 1, mean of its heads: row 1, column 0",
        "Rollout through layers 0 to 1: row 1, column 0",
        "Rollout through layers 0 to 1: CLS",
        "Layer 1, head 1: CLS",
    ]
    names = set()
    for _ in range(40):  # Tab goes through everything that can be used
        view.keyboard.press("Tab")
        names.add(view.evaluate("document.activeElement.value ?? document.activeElement.role"))
    assert {"head", "mean", "rollout", "Chefer", "grid", "from", "magma", "0"} <= names


def test_the_grid_is_one_for_a_screen_reader(opened):
    view = opened(explorer().html())
    view.locator(".mv-stage").first.focus()
    view.keyboard.press("ArrowRight")
    view.keyboard.press("ArrowDown")
    assert "row 1, column 0" in words_of(view)
    found = view.evaluate(
        """() => {
          const grid = document.querySelector("[role=grid]");
          const cell = document.getElementById(grid.getAttribute("aria-activedescendant"));
          return [grid.getAttribute("aria-rowcount"), grid.getAttribute("aria-colcount"),
            cell.getAttribute("role"), cell.parentElement.getAttribute("aria-rowindex"),
            cell.getAttribute("aria-colindex"), cell.getAttribute("aria-label"),
            document.querySelectorAll("[aria-live=polite]").length];
        }"""
    )
    assert found == ["3", "5", "gridcell", "2", "1", "row 1, column 0", 1]
    unnamed = view.evaluate(
        """() => [...document.querySelectorAll("button, select, input")].filter((node) =>
          !(node.innerText || node.labels?.[0]?.innerText || node.ariaLabel)).length"""
    )
    assert unnamed == 0


PIXELS = """([name, rows, columns]) => {
  const canvas = document.querySelector(name);
  const pen = canvas.getContext("2d");
  return Array.from({ length: rows * columns }, (_, i) => Array.from(pen.getImageData(
    Math.floor(canvas.width * (i % columns + 0.5) / columns),
    Math.floor(canvas.height * (Math.floor(i / columns) + 0.5) / rows), 1, 1).data)); }"""


@pytest.mark.parametrize(("key", "show"), [("m", "mean"), ("r", "rollout")])
@pytest.mark.parametrize("photograph_as", ["spotlight", "overlay", "photograph"])
def test_the_page_shows_what_python_draws(key, show, photograph_as, opened):
    """The map itself, the photograph lit by it, in the middle of each patch; and the legend."""
    made = explorer()
    made.query, made.photograph = 9, photograph_as
    view = opened(made.html())
    view.locator(".mv-stage").first.press(key)
    assert words_of(view).startswith({"m": "Layer 2, mean", "r": "Rollout"}[key])
    made.show = show
    heat = made.values()[1:].reshape(GRID)
    shares = map_shares(heat)
    palette = np.frombuffer(made.palettes, dtype=np.uint8).reshape(4, 256, 3)[0].astype(int)
    raw = np.array(view.evaluate(PIXELS, [".mv-axes canvas", *GRID]))[:, :3]
    colours = palette[np.rint(255 * shares.ravel()).astype(int)]
    assert np.abs(raw - colours).max() <= 1
    low, high = np.percentile(heat, [5, 98.5])
    legend = view.locator(".mv-legend").first.inner_text().split()
    assert legend == ["≤", in_percent(low), "≥", in_percent(high)]
    lit = np.array(view.evaluate(PIXELS, [".mv-stage canvas", *GRID]))[:, :3]
    view.get_by_label("Photograph").select_option("photograph")
    view.evaluate(TWO_FRAMES)
    photo = np.array(view.evaluate(PIXELS, [".mv-stage canvas", *GRID]))[:, :3]
    share = shares.ravel()[:, None]
    grey = photo @ [[0.299], [0.587], [0.114]]
    expected = {
        "spotlight": share * photo + (1 - share) * 0.22 * grey,
        "overlay": photo + 0.8 * share * (colours - photo),
        "photograph": photo,
    }[photograph_as]
    assert np.abs(lit - expected).max() <= 4  # opacity is kept in 1/255


def test_the_strongest_patch_is_ringed_in_both(opened):
    made = explorer()
    view = opened(made.html())
    row, column = divmod(int(made.values()[1:].argmax()), 5)
    for stage in view.locator(".mv-stage").all()[:2]:
        box, ring = stage.bounding_box(), stage.locator(".mv-ring").bounding_box()
        assert ring["x"] == pytest.approx(box["x"] + box["width"] * column / 5, abs=1.5)
        assert ring["y"] == pytest.approx(box["y"] + box["height"] * row / 3, abs=1.5)


def test_when_the_pointer_leaves_what_was_looked_at_longer_comes_back(opened):
    view = opened(explorer().html())
    box = view.locator(".mv-stage").first.bounding_box()
    at = lambda column: (box["x"] + box["width"] * (column + 0.5) / 5, box["y"] + 10)  # noqa: E731
    view.mouse.move(*at(1))
    view.wait_for_timeout(600)
    for column in (2, 3, 4):  # on the way out
        view.mouse.move(*at(column))
    view.mouse.move(5, 5)
    assert "row 0, column 1 attends most" in words_of(view)


def test_a_finger_holds_where_it_taps_and_still_scrolls(open_file, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(explorer().html(), encoding="utf-8")
    view = open_file(path, 390, 844, "light", has_touch=True)
    view.locator(".ae-words", has_text=re.compile(".")).first.wait_for()
    stage = view.locator(".mv-stage").first
    assert "pan-y" in stage.evaluate("(node) => getComputedStyle(node).touchAction")
    stage.tap(position={"x": 10, "y": 10})
    assert "row 0, column 0 attends most" in words_of(view)
    stage.tap(position={"x": 10, "y": 10})
    assert "row 0, column 0 attends most" in words_of(view)
    assert view.locator(".ex-outline.ex-held").first.is_visible()


def test_a_file_is_made_small_in_the_browser(browser, tmp_path):
    """A drawing that Pillow cannot open, and a photograph of 20 megapixels."""
    view = browser.new_page()
    Image.new("RGB", (5200, 4000), "red").save(tmp_path / "large.png")
    (tmp_path / "drawing.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"></svg>', encoding="utf-8"
    )
    (tmp_path / "broken.png").write_bytes(b"no image")
    view.evaluate("""() => {
      const input = document.createElement("input");
      Object.assign(input, { type: "file", id: "given" });
      document.body.append(input); }""")
    module = base64_of((Path(pages.__file__).parent / "open_image.js").read_bytes())
    sizes = {}
    for name in ("large.png", "drawing.svg", "broken.png"):
        view.locator("#given").set_input_files(tmp_path / name)
        sizes[name] = view.evaluate(
            """async (module) => {
          const { openImage } = await import("data:text/javascript;base64," + module);
          const [file] = document.getElementById("given").files;
          try { return [...new Uint8Array(await openImage(file))]; }
          catch (error) { return error.message; } }""",
            module,
        )
    with Image.open(io.BytesIO(bytes(sizes["large.png"]))) as small:
        assert small.size == (1600, 1231)
        assert small.convert("RGB").getpixel((9, 9)) == (255, 0, 0)
    with Image.open(io.BytesIO(bytes(sizes["drawing.svg"]))) as drawing:
        assert drawing.size == (40, 20)
    assert "broken.png is not an image that this browser can read" in sizes["broken.png"]
    view.close()


def test_two_explorers_on_a_page_do_not_disturb_each_other(opened):
    page = explorer().page()._repr_html_()
    view = opened(page, page)
    first, second = (view.frame_locator("iframe").nth(n) for n in (0, 1))
    first.locator(".mv-stage").first.focus()
    view.keyboard.press("m")
    first.locator(".ae-words", has_text="Layer 2, mean of its heads").first.wait_for()
    assert second.locator(".ae-words").first.inner_text().startswith("Layer 2, head 0")


def test_explorers_live_on_in_a_converted_notebook(open_file, tmp_path):
    """Run by a kernel, converted by nbconvert, opened where there is neither, nor a network."""
    import nbclient
    import nbconvert
    import nbformat

    cells = [
        """
        import numpy as np
        from vit_tutorial import AttentionExplorer, flipbook, live, load_checkpoint
        network, card = load_checkpoint("digits")
        AttentionExplorer(network, np.eye(8), card, name="a line")
        """,
        "live(network, card)",
        """
        def grey(value):
            return np.full((4, 6, 3), value, dtype=np.uint8), f"A grey of {value}."
        flipbook(grey, value=[0, 128, 255])
        """,
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell)) for cell in cells]
    )
    nbclient.NotebookClient(notebook, timeout=None, store_widget_state=False).execute()
    exporter = nbconvert.HTMLExporter(require_js_url="", mathjax_url="")  # what it asks for itself
    (tmp_path / "notebook.html").write_text(exporter.from_notebook_node(notebook)[0], "utf-8")
    view = open_file(tmp_path / "notebook.html")
    attention, network, book = (view.frame_locator("iframe").nth(n) for n in range(3))
    attention.locator(".mv-stage").first.focus()
    view.keyboard.press("ArrowRight")
    attention.locator(".ae-words", has_text="row 0, column 0 keeps").first.wait_for()
    network.locator(".li-says", has_text="It looks where").wait_for()
    network.get_by_role("button", name="Positions off").click()
    network.locator(".li-says", has_text="Without your changes").wait_for()
    assert network.locator(".ex-problem").inner_text() == ""
    book.get_by_label("value").press("End")
    book.locator(".fb-words", has_text="A grey of 255.").wait_for()


@pytest.mark.parametrize("width", [700, 1280])
def test_a_pinned_patch_stays_by_the_one_that_moves(width, opened):
    made = explorer()
    made.add(photograph(1), name="other")
    made.scene = 0
    view = opened(made.html(), width=width)
    stage = view.locator(".mv-stage").first
    stage.focus()
    view.keyboard.press("ArrowRight")
    view.get_by_role("button", name="Pin this patch").click()
    stage.focus()
    view.keyboard.press("End")
    view.evaluate(TWO_FRAMES)
    texts = [box.inner_text() for box in view.locator(".ae-words").all()]
    assert "row 0, column 4" in texts[0]
    assert "row 0, column 0" in texts[1]
    places = [box.bounding_box() for box in view.locator(".ae-pane").all()]
    if width == 1280:  # beside it; below it where there is no room
        assert places[0]["y"] == places[1]["y"]
        assert places[0]["x"] + places[0]["width"] < places[1]["x"]
    else:
        assert places[0]["y"] + places[0]["height"] < places[1]["y"]
    assert max(place["x"] + place["width"] for place in places) <= width
    view.locator("select").first.select_option("1")  # another image beside the pinned one
    view.evaluate(TWO_FRAMES)
    titles = [box.inner_text() for box in view.locator(".ae-pane .ae-title").all()]
    assert titles[0].startswith("other")
    assert titles[1].startswith("Pinned: dots")
    view.get_by_role("button", name="Unpin").click()
    view.evaluate(TWO_FRAMES)
    assert not view.locator(".ae-pane").nth(1).is_visible()


def test_nothing_is_sent_while_one_explores_and_where_it_ended_once_one_leaves(opened):
    """The page's model counts what would go to the kernel."""
    document = (
        explorer()
        .html()
        .replace(
            "save_changes: () => {}",
            "save_changes: () => { window.saves = (window.saves ?? 0) + 1; }",
        )
    )
    view = opened(document)
    box = view.locator(".mv-stage").first.bounding_box()
    for step in range(20):
        view.mouse.move(box["x"] + 5 + 17 * step, box["y"] + 5 + 9 * step)
    view.get_by_role("button", name="Rollout", exact=True).click()
    for _ in range(5):
        view.keyboard.press("Tab")
    view.keyboard.press("ArrowRight")
    view.wait_for_timeout(400)
    assert view.evaluate("window.saves") is None
    view.mouse.move(1270, 890)
    view.wait_for_function("window.saves === 1")


@pytest.mark.parametrize("width", [360, 700, 1280])
def test_nothing_is_cut_off(width, opened):
    view = opened(explorer().html(), width=width)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    for box in view.locator(".ex-button, .ae-field, .ae-words, .mv-stage, .at-tiles").all():
        if box.is_visible():
            place = box.bounding_box()
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= width


def test_the_picture_is_as_large_as_the_window_has_room_for(opened):
    view = opened(explorer().html())
    widths = []
    for size in ((1280, 800), (1920, 1080), (700, 1080), (1280, 800)):
        view.set_viewport_size({"width": size[0], "height": size[1]})
        words_of(view)
        widths.append(view.locator(".mv-stage").first.bounding_box()["width"])
    assert widths[1] > 1.3 * widths[0]
    assert widths[2] < widths[3] == widths[0]
