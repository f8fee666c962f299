"""The network in the page: what it says, what a person can do with it, and the test of its maps."""

import io
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from browser import TWO_FRAMES
from conftest import randomize, words_in
from PIL import Image
from scipy import stats

from vit_tutorial import ImageSet, VisionTransformer, ViTConfig, live
from vit_tutorial.cli import main
from vit_tutorial.cnn import ResNet, ResNetConfig
from vit_tutorial.compress import prune_heads
from vit_tutorial.explorer import LiveExplorer
from vit_tutorial.explorer.live import squares
from vit_tutorial.faithfulness import _baseline
from vit_tutorial.images import fit_image, normalize
from vit_tutorial.intervals import wilson_interval
from vit_tutorial.weights import Card, load_checkpoint

SIZE, GRID = (12, 20), (3, 5)  # not square, or swapped rows and columns would go unseen
CLASSES = ("ant", "bee", "cat", "dog")


def network(**changes) -> VisionTransformer:
    config = {**dict(img_size=SIZE, patch_size=4, embed_dim=24, depth=3, num_heads=2), **changes}
    return randomize(VisionTransformer(ViTConfig(num_classes=4, **config))).float().eval()


def card(model: VisionTransformer) -> Card:
    channels = model.config.in_chans
    return Card(
        "small", model.config, CLASSES, (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.25)[:channels], ""
    )


def photograph(seed=0, size=(40, 24)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 10, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def explorer(**changes) -> LiveExplorer:
    model = network(**changes)
    return LiveExplorer(model, card(model), {"dots": photograph(), "others": photograph(1)})


# ---- what the network is asked ----


ASKED = """
  const engine = await startEngine({ ...data, source: "" });
  const network = new LiveNetwork(engine, data.config, data.reading);
  const image = { width: 40, height: 24, channels: 4, data: data.image };
  await network.open(image, data.config.img_size);
  const answers = [];
  for (const changes of data.many) {
    answers.push(await network.probabilities({ ...UNTOUCHED, ...changes }));
  }
  const whole = await network.answer({ ...UNTOUCHED, hidden: [3], how: "drop" });
  return { answers: answers.map((one) => Float32Array.from(one)), visible: whole.visible };
"""


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_hidden_patches_are_what_python_hides(pool, browser, tmp_path):
    from javascript import in_chromium, program

    model = network(pool=pool)
    about = card(model)
    made = LiveExplorer(model, about, {"dots": photograph()})
    picture = photograph()
    order = np.random.default_rng(2).permutation(15).tolist()
    many = [{}, {"hidden": [0, 7, 14], "how": "mean"}, {"hidden": [1, 8], "how": "blur"},
            {"hidden": [4, 5, 6], "how": "drop"}, {"hidden": [2], "how": "drop", "order": order},
            {"hidden": [2, 9], "how": "mean", "order": order}]  # fmt: skip
    code = program(tmp_path, ["live_network.js", "vit_engine.js"], ASKED)
    image = np.asarray(picture.convert("RGBA")).ravel()
    given = {
        "config": made.config, "weights": made.weights, "image": image,
        "reading": {"mean": list(about.mean), "std": list(about.std)}, "many": many,
    }  # fmt: skip
    came = in_chromium(browser, code, given)
    pixels = normalize(fit_image(picture, SIZE).pixels[None], about.mean, about.std)
    for changes, answer in zip(many, came["answers"], strict=True):
        expected = reference(model, pixels, **changes)
        np.testing.assert_allclose(answer, expected, atol=1e-5, err_msg=json.dumps(changes))
    assert came["visible"] == [n for n in range(15) if n != 3]


@torch.no_grad()
def reference(model, pixels, hidden=(), how="mean", order=None):
    """Write out: fill the hidden patches, cut, shuffle, drop, and go through the parts by hand."""
    fill = _baseline(pixels, "blur") if how == "blur" else torch.zeros_like(pixels)
    pixels = pixels.clone()
    for patch in hidden if how != "drop" else ():
        row, column = divmod(patch, GRID[1])
        place = np.s_[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        pixels[place] = fill[place]
    tokens = model.patch_embed(pixels)[0]
    order = list(range(15)) if order is None else order
    tokens = tokens[order] + model.pos_embed[0, -15:]
    keep = [n for n in range(15) if not (how == "drop" and order[n] in hidden)]
    x = tokens[keep][None]
    if model.config.pool == "cls":
        x = torch.cat([model.cls_token + model.pos_embed[:, :1], x], dim=1)
    for block in model.blocks:
        x = block(x)
    x = model.norm(x)
    pooled = x[:, 0] if model.config.pool == "cls" else x.mean(dim=1)
    return model.head(pooled)[0].softmax(dim=0).numpy()


# ---- the test of a map ----


def test_areas_orders_and_intervals_are_right(browser, tmp_path):
    from javascript import in_chromium, program

    rng = np.random.default_rng(0)
    at = np.array([0, 0.25, 0.4, 0.9])
    random = rng.random((20, 4))
    body = """
      const found = summary({ map: data.map, reverse: data.reverse, random: data.random }, data.at);
      const orders = [];
      for (let n = 0; n < 400; n++) orders.push(orderOf(data.ties, randomNumbers(n)));
      return { found, orders, words: inWords(found, "cat") };
    """
    data = {"map": [0.9, 0.1, 0.1, 0.0], "reverse": [0.9, 0.9, 0.9, 0.1], "at": at.tolist(),
            "random": random.tolist(), "ties": [0.0, 3.0, 0.0, 1.0, 0.0]}  # fmt: skip
    came = in_chromium(browser, program(tmp_path, ["live_test.js"], body), data)
    areas = np.trapezoid(random, at, axis=1)
    low, high = stats.t.interval(0.95, 19, areas.mean(), stats.sem(areas))
    assert came["found"]["map"] == pytest.approx(np.trapezoid(data["map"], at))
    assert came["found"]["mean"] == pytest.approx(areas.mean())
    assert [came["found"]["low"], came["found"]["high"]] == pytest.approx([low, high], abs=1e-3)
    assert came["found"]["beaten"] == (np.trapezoid(data["map"], at) < areas).sum()
    assert {tuple(order[:2]) for order in came["orders"]} == {(1, 3)}
    places = np.array(came["orders"])[:, 2]
    assert min((places == n).sum() for n in (0, 2, 4)) > 90, "equal ones come in a random order"


@pytest.mark.parametrize(
    ("areas", "verdict"),
    [
        ({"map": 0.1, "reverse": 0.8, "beaten": 20}, "20 of 20 random orders: what the map names"),
        ({"map": 0.2, "reverse": 0.1, "beaten": 20}, "but in the reverse order sooner still"),
        ({"map": 0.6, "reverse": 0.5, "beaten": 0}, "0 of 20 random orders: on this picture"),
        ({"map": 0.4, "reverse": 0.5, "beaten": 18}, "too few to tell the map from chance"),
    ],
)  # fmt: skip
def test_a_verdict_needs_all_random_orders(areas, verdict, browser, tmp_path):
    from javascript import in_chromium, program

    code = program(tmp_path, ["live_test.js"], '  return inWords(data, "cat");')
    words = in_chromium(browser, code, {"mean": 0.4, "low": 0.3, "high": 0.5, **areas})
    assert verdict in words
    assert "at random 0.40 (95% interval of the mean 0.30 to 0.50)" in words


# ---- a square, other networks, many images ----


def other() -> tuple[torch.nn.Module, SimpleNamespace]:
    """Make a network of another kind, whose answers differ from square to square."""
    torch.manual_seed(0)
    model = ResNet(ResNetConfig(1, width=4, num_classes=4))
    model.head.weight.data *= 60
    return model.eval(), SimpleNamespace(classes=CLASSES, mean=(0.45,) * 3, std=(0.25,) * 3)


def beside(**changes) -> LiveExplorer:
    model = network(**changes)
    samples = {"dots": photograph(), "others": photograph(1)}
    return LiveExplorer(model, card(model), samples, beside={"CNN": other()})


def asked(model, about, seed, side=0, place=(0, 0)) -> np.ndarray:
    """Ask a network of a photograph with a square painted on it, pixel row by pixel row."""
    pixels = normalize(fit_image(photograph(seed), SIZE).pixels[None], about.mean, about.std)
    for row in range(4 * place[0], 4 * (place[0] + side)):
        pixels[0, :, row, 4 * place[1] : 4 * (place[1] + side)] = 0
    with torch.no_grad():
        return model(pixels).double().softmax(dim=1)[0].numpy()


def places(side: int) -> list[tuple[int, int]]:
    return [(r, c) for r in range(GRID[0] - side + 1) for c in range(GRID[1] - side + 1)]


def falls_by_hand(model, about, seed, side, target) -> np.ndarray:
    before, found = asked(model, about, seed)[target], [[] for _ in range(15)]
    for row, column in places(side):
        fall = before - asked(model, about, seed, side, (row, column))[target]
        for r in range(row, row + side):
            for c in range(column, column + side):
                found[5 * r + c].append(fall)
    return np.reshape([np.mean(falls) for falls in found], GRID)


def test_squares_come_by_side_and_row_by_row():
    masks = squares(SIZE, 4, (1, 2, 3))
    firsts = [tuple(int(axis.min()) // 4 for axis in np.nonzero(mask)) for mask in masks[1:]]
    assert not masks[0].any()
    assert firsts == [*places(1), *places(2), *places(3)]
    assert [int(mask.sum()) for mask in masks[[1, 16, 24]]] == [16, 64, 144]


def test_networks_beside_it_have_answered_for_every_square():
    made = beside()
    for n in (0, 1):
        table = np.frombuffer(made.answers[n], dtype=np.float32).reshape(1, -1, 4)
        wanted = [asked(*other(), n)]
        wanted += [asked(*other(), n, side, at) for side in (1, 2, 3) for at in places(side)]
        np.testing.assert_allclose(table[0], wanted, atol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_what_hiding_costs_is_the_mean_of_all_squares_over_a_patch(side):
    made, model = beside(), network()
    target = asked(model, card(model), 1).argmax()
    came = made.hiding(1, side)
    for name, (one, about) in {"this network": (model, card(model)), "CNN": other()}.items():
        expected = falls_by_hand(one, about, 1, side, target)
        np.testing.assert_allclose(came[name], expected, atol=1e-5)
    assert min(fall.min() for fall in came.values()) < 0, "hiding may also make surer"


def counted(count: int = 40, **changes) -> LiveExplorer:
    model = network(**changes)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, *SIZE), generator=generator, dtype=torch.uint8)
    chosen = ImageSet(images, torch.arange(count) % 4, CLASSES, "noise")
    scores = {"first": [[0, 1], [2, 3], [4, 5]], "last": [[5, 4], [3, 2], [1, 0]]}
    return LiveExplorer(model, card(model), {"dots": photograph()}, images=chosen, rules=scores)


def right_without(made: LiveExplorer, gone: list[int], **changes) -> int:
    """Count with heads removed, not silenced: another way to the same answers."""
    model = network(**changes)
    layers = {layer: [n % 2 for n in gone if n // 2 == layer] for layer in range(3)}
    model = prune_heads(model, {layer: heads for layer, heads in layers.items() if heads})
    about, images = card(network(**changes)), made._images
    with torch.no_grad():
        said = model(normalize(images.images, about.mean, about.std)).argmax(dim=1)
    return int((said == images.labels).sum())


def test_images_are_counted_without_some_heads():
    made = counted()
    assert made.orders == {"first": [0, 2, 4], "last": [5, 3, 1]}
    for gone in ([], [1], [0, 3, 5]):
        assert made.correct(gone) == right_without(made, gone)
    with pytest.raises(ValueError, match="there are no images to count"):
        explorer().correct()


def test_figures_say_what_the_page_shows():
    made = beside()
    rollout = made.figure(1, hidden=[6, 7])
    assert {"others", "rollout"} <= set(words_in(rollout))
    hiding = made.figure(hidden=[6, 7], side=2)
    photo = hiding.axes[0].images[0].get_array()  # its patches 6 and 7 are hidden
    height, width = (length / count for length, count in zip(photo.shape, GRID, strict=False))
    inside = photo[
        round(1.2 * height) : round(1.8 * height), round(1.2 * width) : round(2.8 * width)
    ]
    assert (inside == [128, 102, 76]).all(), "the mean colour"
    assert {"this network: hiding costs", "CNN: hiding costs", "CNN"} <= set(words_in(hiding))
    words = set(words_in(made.figure(hidden=[6, 7], side=2, name="ViT")))
    assert {"ViT: hiding costs", "CNN: hiding costs", "ViT", "CNN"} <= words
    assert not any("this network" in word for word in words)
    scales = [axes.images[0].get_array() for axes in hiding.axes[1:3]]
    falls = made.hiding(side=2)
    most = max(np.abs(fall).max() for fall in falls.values())
    for drawn, fall in zip(scales, falls.values(), strict=True):
        np.testing.assert_allclose(drawn, (fall / most + 1) / 2, atol=1e-9)
    silenced = counted()
    words = words_in(silenced.figure(silenced=[0, 3]))
    right, whole = silenced.correct([0, 3]), silenced.correct()
    assert f"{right} of 40 images right ({whole} without changes)" in words


def small_images() -> ImageSet:
    return ImageSet(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2).long(), CLASSES, "8x8"
    )


def with_letters() -> tuple[torch.nn.Module, SimpleNamespace]:
    model, about = other()
    return model, SimpleNamespace(**{**vars(about), "classes": tuple("abcd")})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": small_images()}, r"images \(n, 3, 12, 20\), got \(2, 3, 8, 8\)"),
        ({"rules": {"few": [[1, 2]]}}, r"a score for each head, \(3, 2\), got \(1, 2\)"),
        ({"beside": {"CNN": with_letters()}}, "this network has ant, bee, .*; CNN has a, b, c, d"),
    ],
)
def test_what_does_not_belong_together_is_refused(changes, said):
    model = network()
    with pytest.raises(ValueError, match=said):
        LiveExplorer(model, card(model), {"dots": photograph()}, **changes)


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"sample": 2}, "sample must be from 0 to 1, got 2"),
        ({"hidden": [3, 15]}, r"patches are numbered 0 to 14, got \[15\]"),
        ({"side": 4}, "a square of 4×4 patches has to lie on a grid of 3×5 and leave one"),
        ({"silenced": [6]}, "layer"),
    ],
)
def test_a_view_of_what_is_not_there_is_refused(view, said):
    with pytest.raises(ValueError, match=said):
        explorer().figure(**view)


def test_more_images_than_a_browser_counts_are_refused(monkeypatch):
    module = sys.modules["vit_tutorial.explorer.live"]  # the package has a function of this name
    monkeypatch.setattr(module, "MAX_WORK", 1e6)
    with pytest.raises(ValueError, match="too many for a browser: give at most"):
        counted()


# ---- the page ----


@pytest.fixture
def opened(open_file, tmp_path):
    """Open a saved page, without the hint unless it is asked for."""

    def go(made=None, width=1280, height=900, scheme="light", end="", still=True, **options):
        path = tmp_path / "page.html"
        path.write_text((made or explorer()).html(), encoding="utf-8")
        motion = {"reduced_motion": "reduce"} if still else {}
        view = open_file(path, width, height, scheme, end, **motion, **options)
        view.locator(".li-says", has_text="It says").wait_for()
        view.evaluate(TWO_FRAMES)
        return view

    return go


def says(view, text: str) -> str:
    """Wait until the answer has this in it."""
    view.locator(".li-says", has_text=text).wait_for()
    return view.locator(".li-says").inner_text()


def unchanged(view) -> str:
    """Wait until nothing is changed, and return the answer alone."""
    view.wait_for_function(
        """() => { const words = document.querySelector(".li-says").textContent;
        return words.startsWith("It says") && !words.includes("Without your changes"); }"""
    )
    return view.locator(".li-says").inner_text().split("%.")[0] + "%."


def expected_words(model, changes=None) -> str:
    about = card(model)
    pixels = normalize(fit_image(photograph(), SIZE).pixels[None], about.mean, about.std)
    shares = reference(model, pixels, **(changes or {}))
    return f"It says {CLASSES[shares.argmax()]}, {shares.max():.0%}."


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_explained_a_picture_before_anything_is_done(scheme, opened):
    view = opened(scheme=scheme)
    assert (
        says(view, "It looks where")
        == f"{expected_words(network())} It looks where the picture is bright."
    )
    assert view.locator("h1").inner_text() == "A network looks at your picture. Where?"
    assert (
        "Rollout through layers 0 to 2: CLS attends most to row"
        in view.locator(".li-words").inner_text()
    )
    view.locator(".li-answer + .ex-note", has_text="The network knows these classes").wait_for()
    found = Axe().run(view)
    assert found.violations_count == 0, found.generate_report()


def test_a_brush_hides_patches_and_one_step_back_shows_them(opened):
    view = opened()
    before = unchanged(view)
    view.get_by_role("button", name="Hide patches").click()
    box = view.locator(".mv-stage").first.bounding_box()
    at = lambda column: (box["x"] + box["width"] * (column + 0.5) / 5, box["y"] + box["height"] / 2)  # noqa: E731
    view.mouse.move(*at(1))
    view.mouse.down()
    view.mouse.move(*at(2), steps=4)
    view.mouse.move(*at(3), steps=4)
    view.mouse.up()
    expected = expected_words(network(), {"hidden": [6, 7, 8]})
    assert says(view, "Without your changes").startswith(expected)
    for how in ("blur", "drop"):
        view.get_by_label("hide with").select_option(how)
        wanted = expected_words(network(), {"hidden": [6, 7, 8], "how": how})
        says(view, wanted)
    view.get_by_role("button", name="Undo", exact=True).click()
    view.get_by_role("button", name="Undo", exact=True).click()
    view.get_by_role("button", name="Undo", exact=True).click()
    assert unchanged(view) == before


def test_all_of_it_is_reached_by_keyboard(opened):
    view = opened()
    reached = set()
    for _ in range(40):
        view.keyboard.press("Tab")
        reached.add(view.evaluate("document.activeElement.innerText"))
    assert {"Look", "Hide patches", "Silence heads", "Shuffle patches", "Test this map"} <= reached
    view.get_by_role("button", name="Hide patches").focus()
    view.keyboard.press("Enter")
    view.locator(".mv-stage").first.focus()
    view.keyboard.press("ArrowRight")
    view.keyboard.press("ArrowDown")
    view.keyboard.press("Space")
    assert says(view, "Without your changes").startswith(expected_words(network(), {"hidden": [6]}))
    view.keyboard.press("u")
    unchanged(view)


def test_heads_are_silenced_in_the_atlas_and_come_back(opened):
    view = opened()
    before = unchanged(view)
    view.get_by_role("button", name="Silence heads").click()
    view.get_by_role("button", name="layer 0").click()
    says(view, "Without your changes")
    assert view.get_by_role("button", name="layer 0").get_attribute("aria-pressed") == "true"
    view.get_by_role("button", name="layer 0").click()
    assert unchanged(view) == before
    tiles = view.locator(".at-tiles").bounding_box()
    view.mouse.click(tiles["x"] + 5, tiles["y"] + 5)
    says(view, "Without your changes")
    view.get_by_role("button", name="Undo all").click()
    assert unchanged(view) == before


def point_at(view, row: float, column: float) -> None:
    box = view.locator(".mv-stage").first.bounding_box()
    x, y = box["x"] + column * box["width"] / 5, box["y"] + row * box["height"] / 3
    view.mouse.move(x, y)


def test_a_square_follows_the_pointer_until_it_is_held(opened):
    view, model = opened(beside()), network()

    def hidden(side, place):
        patches = [5 * (place[0] + r) + place[1] + c for r in range(side) for c in range(side)]
        says(view, expected_words(model, {"hidden": patches}))
        shares = [f"{share:.0%}" for share in asked(*other(), 0, side, place)]
        numbers = view.locator(".li-answer .li-number").all_inner_texts()
        assert numbers[1::2] == shares, "the other network's answer is beside it"

    view.get_by_role("button", name="Hide a square").click()
    point_at(view, 0.1, 0.1)
    hidden(2, (0, 0))
    point_at(view, 2.9, 4.9)
    hidden(2, (1, 3))
    view.mouse.move(5, 5)
    unchanged(view)
    point_at(view, 1.0, 2.0)
    view.mouse.down()
    view.mouse.up()
    view.mouse.move(5, 5)
    hidden(2, (0, 1))
    view.locator(".mv-stage").first.focus()
    view.keyboard.press("ArrowRight")
    hidden(2, (0, 2))
    view.keyboard.press("3")
    hidden(3, (0, 2))
    view.keyboard.press("Escape")
    unchanged(view)
    assert view.get_by_role("button", name="Undo all").is_disabled()


def points(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f}"


def test_what_hiding_costs_is_drawn_for_both_networks(opened):
    made = beside(pool="mean")
    view = opened(made)
    view.locator(".li-sample").nth(1).click()
    view.get_by_label("shows").select_option("hiding")
    for side in (2, 3):
        view.get_by_label(re.compile("^square")).select_option(str(side))
        falls = made.hiding(1, side)
        most = max(np.abs(fall).max() for fall in falls.values())
        own = falls["this network"].ravel()
        words = view.locator(".li-words", has_text=f"Hiding {side}×{side} patches").inner_text()
        row, column = divmod(int(own.argmax()), 5)
        if own.max() >= 5e-4:
            alone = (own > own.max() - 1e-6).sum() == 1
            where = f"row {row}, column {column}" if alone else "several patches alike"
            assert f"over {where} costs" in words
            assert f"most: {points(own.max())} percentage points" in words
        else:
            assert "nothing anywhere." in words
        if own.min() <= -5e-4:
            assert words.endswith(f"surer, by up to {points(-own.min())}.")
        title = view.locator(".li-others .ex-note").inner_text()
        most_and_least = [100 * max(end, 0) for end in (falls["CNN"].max(), -falls["CNN"].min())]
        assert title.startswith("CNN: hiding costs ")
        assert title.endswith(
            "up to {:.0f} percentage points, and brings up to {:.0f}".format(*most_and_least)
        )
        pixels = view.evaluate(
            """() => { const c = document.querySelector(".li-others canvas");
            return [...c.getContext("2d").getImageData(0, 0, 5, 3).data]; }"""
        )
        shares = np.rint(255 * (falls["CNN"] / most + 1) / 2).astype(int)
        palette = np.frombuffer(made.diverging, np.uint8).reshape(256, 3).astype(int)
        assert np.abs(np.reshape(pixels, (3, 5, 4))[..., :3] - palette[shares]).max() <= 6


def numbers_beside(view) -> list[str]:
    return view.locator(".li-answer .li-number").all_inner_texts()[1::2]


def test_of_what_other_networks_were_not_asked_they_say_nothing(opened):
    view = opened(beside())
    assert numbers_beside(view) == [f"{share:.0%}" for share in asked(*other(), 0)]
    view.get_by_role("button", name="Shuffle patches").click()
    says(view, "Without your changes")
    assert numbers_beside(view) == ["–"] * 4, "the picture is shuffled"
    view.get_by_label("shows").select_option("hiding")
    view.locator(".li-words", has_text="percentage points").or_(
        view.locator(".li-words", has_text="nothing anywhere")
    ).wait_for()
    assert view.locator(".li-others").is_hidden()


def test_a_step_back_takes_the_square_away_and_what_comes_after_stays(opened):
    view = opened(beside())
    view.get_by_role("button", name="Hide a square").click()
    point_at(view, 1.0, 2.0)
    view.mouse.down()
    view.mouse.up()
    says(view, "Without your changes")
    view.get_by_role("button", name="Undo", exact=True).click()
    unchanged(view)
    point_at(view, 2.5, 4.5)
    says(view, "Without your changes")
    view.mouse.move(5, 5)
    unchanged(view)
    view.get_by_role("button", name="Positions off").click()
    view.keyboard.press("Escape")
    says(view, "Without your changes")
    off = view.get_by_role("button", name="Positions off")
    assert off.get_attribute("aria-pressed") == "true"


def test_what_was_done_to_the_network_stays_with_another_picture_and_a_slide_is_a_step(opened):
    made = counted()
    view = opened(made)
    view.get_by_role("button", name="Silence heads").click()
    view.get_by_label("how many").fill("2")
    says(view, "Without your changes")
    view.locator(".li-sample").first.click()
    assert view.get_by_label("how many").input_value() == "2"
    view.get_by_label("how many").fill("1")
    view.get_by_role("button", name="Undo", exact=True).click()
    view.wait_for_function("() => document.querySelector('.li-tools output')")
    assert view.get_by_label("how many").input_value() == "2"


def test_by_keyboard_any_head_is_silenced(opened):
    view = opened()
    view.get_by_role("button", name="Silence heads").click()
    view.locator(".at-tiles").focus()
    view.keyboard.press("ArrowUp")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Space")
    view.wait_for_function("() => location.hash.includes('silenced=3')")
    view.keyboard.press("Space")
    unchanged(view)


def test_one_patch_stays_whatever_an_address_asks_for(opened):
    every = ".".join(str(n) for n in range(15))
    view = opened(end=f"#picture=0.5&hidden={every}&how=drop")
    says(view, "Without your changes")
    kept = ".".join(str(n) for n in range(14))
    assert view.evaluate("location.hash") == f"#picture=0&hidden={kept}&how=drop"


def test_of_an_own_picture_other_networks_say_nothing(opened, tmp_path):
    view = opened(beside())
    photograph(3).save(tmp_path / "mine.png")
    view.locator(".li-open input").set_input_files(tmp_path / "mine.png")
    view.wait_for_function("() => !document.querySelector('.li-sample[aria-pressed=true]')")
    numbers = view.locator(".li-answer .li-number").all_inner_texts()
    assert numbers[1::2] == ["–"] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool": "mean"},
        {"pos_embed": "none"},
        {"pos_embed": "sincos"},
        {"pos_embed": "rope"},
    ],
)
def test_what_the_page_counts_is_what_python_counts(opened, changes):
    made = counted(**changes)
    view = opened(made)
    whole = made.correct()
    words = view.locator(".li-accuracy-words")
    words.filter(has_text=f"{whole} of 40 images right").wait_for()
    view.get_by_role("button", name="Silence heads").click()
    for rule, gone in (("first", [0, 2]), ("last", [5, 3, 1])):
        view.get_by_label("heads go").select_option(rule)
        view.get_by_label("how many").fill(str(len(gone)))
        right = right_without(made, gone, **changes)
        said = words.filter(has_text=f"{right} of 40 images right")
        said.wait_for()
        low, high = wilson_interval(right, 40)
        assert f"(95% interval {low:.1f} to {high:.1f}%)" in said.inner_text()
        assert f"Without your changes: {whole}." in said.inner_text()
        assert view.get_by_label("how many").get_attribute("max") == "3"


def test_the_address_keeps_what_was_changed(opened):
    end = "#picture=1&hidden=3.4.99&how=drop&positions=off&temperature=2&silenced=1.oops"
    view = opened(end=end)
    says(view, "Without your changes")
    assert view.locator(".li-sample").nth(1).get_attribute("aria-pressed") == "true"
    assert view.get_by_role("button", name="Positions off").get_attribute("aria-pressed") == "true"
    kept = view.evaluate("location.hash")
    assert kept == "#picture=1&hidden=3.4&how=drop&positions=off&silenced=1&temperature=2"
    view.get_by_role("button", name="Undo all").click()
    unchanged(view)
    view.evaluate("location.hash = '#picture=0&hidden=7'")  # as typed into the page that is open
    view.locator(".li-sample[aria-pressed=true]").first.wait_for()
    view.wait_for_function("() => document.querySelector('.li-sample').ariaPressed === 'true'")
    assert says(view, "Without your changes").startswith(expected_words(network(), {"hidden": [7]}))


@pytest.mark.parametrize("width", [390, 320])  # a phone, and a window of 1280 at 400%
def test_a_finger_hides_and_nothing_is_wider_than_the_window(width, opened):
    view = opened(width=width, height=844, has_touch=True)
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    view.get_by_role("button", name="Hide patches").tap()
    stage = view.locator(".mv-stage").first
    box = stage.bounding_box()
    stage.tap(position={"x": 0.1 * box["width"], "y": 0.1 * box["height"]})
    assert says(view, "Without your changes").startswith(expected_words(network(), {"hidden": [0]}))
    assert stage.evaluate("(node) => getComputedStyle(node).touchAction") == "none"
    view.get_by_role("button", name="Undo all").tap()
    unchanged(view)
    view.get_by_role("button", name="Hide a square").tap()
    for _ in range(2):  # the second tap on a square takes it away
        stage.tap(position={"x": 0.5 * box["width"], "y": 0.5 * box["height"]})
        says(view, "Without your changes")
    unchanged(view)
    assert view.evaluate("document.documentElement.scrollWidth") <= width


def test_where_colours_are_a_persons_own_what_is_pressed_and_the_marks_are_seen(opened):
    view = opened(forced_colors="active", scheme="dark")
    colour = "(node) => getComputedStyle(node).backgroundColor"
    view.get_by_role("button", name="Positions off").click()
    says(view, "Without your changes")
    pressed = view.get_by_role("button", name="Positions off").evaluate(colour)
    assert pressed != view.get_by_role("button", name="Shuffle patches").evaluate(colour)
    mark = view.locator(".li-mark").first
    assert mark.is_visible()
    assert mark.evaluate(colour) != view.locator("body").evaluate(colour)


def test_the_map_is_tested_against_random_orders(opened):
    view = opened()
    view.get_by_role("button", name="Test this map").click()
    view.locator(".li-test-words", has_text="Areas under the curves").wait_for()
    words = view.locator(".li-test-words").inner_text()
    assert re.search(r"than in \d+ of 20 random orders", words)
    assert view.locator(".li-test canvas").is_visible()


def test_the_hint_plays_once_and_gives_back_what_it_hid(opened):
    view = opened(still=False)
    says(view, "Without your changes")
    unchanged(view)
    view.locator(".li-note", has_text="Your turn").wait_for()


def test_the_hint_ends_as_soon_as_something_is_done(opened):
    view = opened(still=False)
    says(view, "Without your changes")
    view.get_by_role("button", name="Silence heads").click()
    unchanged(view)


def test_what_is_done_while_the_hint_plays_is_kept_and_the_hint_is_not(opened):
    view = opened(still=False)
    says(view, "Without your changes")
    view.get_by_role("button", name="Positions off").click()
    view.wait_for_function("() => location.hash === '#picture=0&positions=off'")
    view.wait_for_timeout(3000)  # longer than the hint hides anything
    assert view.evaluate("location.hash") == "#picture=0&positions=off"


def test_a_test_ends_when_something_else_is_asked(opened):
    view = opened()
    view.get_by_role("button", name="Test this map").click()
    view.get_by_role("button", name="Positions off").click()
    says(view, "Without your changes")
    view.wait_for_timeout(1500)
    assert view.locator(".li-test-words").inner_text() == ""


def test_a_digit_is_drawn(opened):
    view = opened(live("digits"))
    sheet = view.locator(".li-sheet canvas")
    sheet.scroll_into_view_if_needed()
    box = sheet.bounding_box()
    view.mouse.move(box["x"] + 110, box["y"] + 30)
    view.mouse.down()
    view.mouse.move(box["x"] + 110, box["y"] + 190, steps=10)
    view.mouse.up()
    says(view, "It says 1")
    assert view.locator(".li-sample[aria-pressed=true]").count() == 0
    view.get_by_role("button", name="Positions off").click()
    says(view, "Without your changes")
    assert view.evaluate("location.hash") == "", "an address cannot keep a drawing"
    drawn = view.locator(".li-answer").inner_text()
    view.get_by_role("button", name="Empty the sheet").click()
    view.wait_for_function(
        "drawn => document.querySelector('.li-answer').innerText !== drawn", arg=drawn
    )


def test_an_own_picture_is_opened_and_what_is_none_is_refused(opened, tmp_path):
    view = opened(end="#picture=1&hidden=3")
    photograph(3).save(tmp_path / "mine.png")
    (tmp_path / "notes.png").write_text("no image", encoding="utf-8")
    view.locator(".li-open input").set_input_files(tmp_path / "notes.png")
    view.locator(".ex-problem", has_text="notes.png is not an image").wait_for()
    view.locator(".li-open input").set_input_files(tmp_path / "mine.png")
    view.wait_for_function("() => !document.querySelector('.li-sample[aria-pressed=true]')")
    assert view.locator(".ex-problem").inner_text() == ""
    assert view.evaluate("location.hash") == "", "no address leads to a person's own picture"


HAND_OVER = """([kind, bytes]) => {
    const files = new DataTransfer();
    files.items.add(new File([new Uint8Array(bytes)], "mine.png", { type: "image/png" }));
    const about = { bubbles: true, cancelable: true };
    const event = kind === "paste"
        ? new ClipboardEvent(kind, { ...about, clipboardData: files })
        : new DragEvent(kind, { ...about, dataTransfer: files });
    document.querySelector(".li-says").dispatchEvent(event);
    return event.defaultPrevented;
}"""


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_own_picture_is_pasted_and_dropped(kind, opened):
    view = opened(made=explorer(), end="#picture=1&hidden=3")
    assert view.locator(".li-sample[aria-pressed=true]").count() == 1
    content = io.BytesIO()
    photograph(3).save(content, "PNG")
    prevented = view.evaluate(HAND_OVER, [kind, list(content.getvalue())])
    view.wait_for_function("() => !document.querySelector('.li-sample[aria-pressed=true]')")
    assert view.locator(".ex-problem").inner_text() == ""
    assert view.evaluate("location.hash") == "", "no address leads to a person's own picture"
    assert prevented == (kind == "drop"), "a browser would leave the page for a dropped file"
    view.evaluate(HAND_OVER, [kind, list(b"no image")])
    view.locator(".ex-problem", has_text="mine.png is not an image").wait_for()


def test_a_phone_is_asked_for_its_camera_or_its_pictures(opened):
    view = opened(width=390, height=800, has_touch=True, is_mobile=True)
    chooser = view.locator(".li-open input")
    assert chooser.get_attribute("accept").startswith("image/")
    assert chooser.get_attribute("capture") is None, "it would allow the camera alone"


# ---- Python and the command line ----


def test_bundled_networks_fit_into_3_megabytes(tmp_path, capsys):
    for name in ("cifar10", "digits"):
        assert main(["live", "--model", name, "--out", str(tmp_path / f"{name}.html")]) == 0
        assert (tmp_path / f"{name}.html").stat().st_size <= 3_000_000
        assert f"wrote {tmp_path / name}.html" in capsys.readouterr().out
    assert main(["live", "--out", str(tmp_path / "page.png")]) == 2
    assert "--out must end in .html" in capsys.readouterr().err
    assert main(["live", "--model", "nothing", "--out", str(tmp_path / "page.html")]) == 2
    assert not (tmp_path / "page.html").exists()


def test_what_a_page_cannot_run_is_refused():
    model, about = load_checkpoint("digits")
    with pytest.raises(
        ValueError, match="a page runs a plain VisionTransformer of vit_tutorial, got Linear"
    ):
        LiveExplorer(torch.nn.Linear(2, 2), about)
    with pytest.raises(ValueError, match="needs the card"):
        live(model)
    with pytest.raises(ValueError, match="tells 4 classes apart, its card names 10"):
        LiveExplorer(network(), about)


def test_only_a_page_of_its_own_uses_the_address():
    made = explorer()
    assert '"linked":true' in made.html()
    assert made.linked is False
    assert repr(made) == "LiveExplorer: dots, others"
