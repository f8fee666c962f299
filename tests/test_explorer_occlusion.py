"""The explorer of hidden squares: what is asked of the networks, and how the page answers."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import contrast, words_in
from PIL import Image
from torch import nn

from vit_tutorial import OcclusionExplorer, VisionTransformer, ViTConfig, fit_image, normalize
from vit_tutorial.cnn import ResNet, ResNetConfig
from vit_tutorial.explorer.occlusion import MAX_PATCHES, squares

SIZE, PATCH, GRID = (12, 20), 4, (3, 5)  # not square, or swapped rows and columns go unseen
CLASSES = ("ant", "bee", "cat", "dog")
SIZES = (1, 2, 3)


def photograph(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8))


def networks() -> dict:
    torch.manual_seed(0)
    config = ViTConfig(img_size=SIZE, patch_size=PATCH, num_classes=4, embed_dim=16, depth=1,
                       num_heads=2)  # fmt: skip
    vit, cnn = VisionTransformer(config), ResNet(ResNetConfig(1, width=4, num_classes=4))
    for model in (vit, cnn):
        model.head.weight.data *= 60  # decided answers, that differ from square to square
    about = SimpleNamespace(classes=CLASSES, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    other = SimpleNamespace(classes=CLASSES, mean=(0.45, 0.45, 0.4), std=(0.25, 0.25, 0.25))
    return {"ViT": (vit.eval(), about), "CNN": (cnn.eval(), other)}


def explorer(**options) -> OcclusionExplorer:
    chosen = {"img_size": SIZE, "patch_size": PATCH, "sizes": SIZES, **options}
    return OcclusionExplorer(networks(), {"noise": photograph(), "more": photograph(1)}, **chosen)


def asked(name: str, image: int, size: int, place: tuple[int, int] | None) -> np.ndarray:
    """What a network says of an image with a square painted on it, worked out apart."""
    model, about = networks()[name]
    pixels = normalize(fit_image(photograph(image), SIZE).pixels[None], about.mean, about.std)
    if place is not None:
        row, column = place
        for r in range(row * PATCH, (row + size) * PATCH):
            pixels[0, :, r, column * PATCH : (column + size) * PATCH] = 0
    return model(pixels).softmax(1)[0].detach().numpy()


# ---- Python's part ----


def test_every_answer_is_that_of_the_picture_with_the_square_on_it():
    made = explorer()
    for image in (0, 1):
        for size in SIZES:
            for row in range(GRID[0] - size + 1):
                for column in range(GRID[1] - size + 1):
                    came = made.probabilities(image=image, size=size, place=(row, column))
                    for n, name in enumerate(("ViT", "CNN")):
                        right = asked(name, image, size, (row, column))
                        np.testing.assert_allclose(came[n], right, atol=1e-5)
        for n, name in enumerate(("ViT", "CNN")):
            whole = asked(name, image, 1, None)
            np.testing.assert_allclose(made.probabilities(image=image)[n], whole, atol=1e-5)


def test_squares_come_by_size_and_row_by_row():
    masks = squares(SIZE, PATCH, SIZES)
    assert len(masks) == 1 + 15 + 8 + 3
    assert not masks[0].any()
    first = [tuple(int(axis.min()) for axis in np.nonzero(mask)) for mask in masks[1:]]
    assert first[:6] == [(0, 0), (0, 4), (0, 8), (0, 12), (0, 16), (4, 0)]
    assert first[15:20] == [(0, 0), (0, 4), (0, 8), (0, 12), (4, 0)]
    assert [int(mask.sum()) for mask in masks[[1, 16, 24]]] == [16, 64, 144]


def test_falls_are_what_the_watched_class_loses():
    made = explorer()
    falls = made.falls(size=2, watched=3)
    assert falls.shape == (2, 2, 4)
    lost = made.probabilities(place=(-1, -1))[1, 3] - made.probabilities(size=2, place=(1, 2))[1, 3]
    assert falls[1, 1, 2] == pytest.approx(lost)
    assert (falls < 0).any(), "a class may also gain"


def test_a_square_at_the_border_is_moved_onto_the_grid():
    made = explorer()
    inside = made.probabilities(size=3, place=(0, 2))
    assert np.array_equal(made.probabilities(size=3, place=(2, 4)), inside)


def test_it_starts_with_no_square_and_the_first_networks_answer():
    made = explorer()
    assert (made.place, made.size, made.image) == ((-1, -1), 2, 0)
    assert made.watched == int(asked("ViT", 0, 1, None).argmax())
    assert made.grid == GRID
    assert made.greys == ["rgb(128, 102, 76)"] * 2
    assert repr(made) == "OcclusionExplorer: ViT, CNN on noise, more"
    assert made.caption().startswith("No square. ViT: ")


def test_one_image_and_a_grey_network_will_do():
    model = ResNet(ResNetConfig(1, width=4, in_chans=1, num_classes=4)).train()
    about = SimpleNamespace(classes=CLASSES, mean=(0.5,), std=(0.2,))
    made = OcclusionExplorer({"one": (model, about)}, photograph(), img_size=8, patch_size=4,
                             sizes=(1,))  # fmt: skip
    assert (made.titles, made.size, made.greys) == (["image"], 1, ["rgb(128, 128, 128)"])
    assert model.training, "it is left in the mode in which it came"


def test_pictures_are_as_sharp_as_the_original_but_not_huge():
    large = Image.fromarray(np.zeros((900, 1500, 3), np.uint8))
    made = OcclusionExplorer(networks(), large, img_size=SIZE, patch_size=PATCH, sizes=(1,))
    assert Image.open(io.BytesIO(made.pictures[0])).size == (480, 288)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"img_size": (10, 20)}, r"images of \(10, 20\) pixels cannot be cut into patches of 4"),
        ({"sizes": (1, 4)}, r"sizes must be integers from 1 to 3, .*got \(1, 4\)"),
        ({"sizes": (2, 1)}, "the smallest first"),
        ({"sizes": ()}, "sizes must be integers"),
        ({"img_size": 84}, f"at most {MAX_PATCHES} patches, got 21x21"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        explorer(**options)


def test_networks_must_name_the_same_classes():
    both = networks()
    other = SimpleNamespace(**{**vars(both["CNN"][1]), "classes": ("ant", "bee", "cat", "eel")})
    both["CNN"] = (both["CNN"][0], other)
    with pytest.raises(ValueError, match=r"the same classes: ViT has ant, bee, cat, dog.*CNN has"):
        OcclusionExplorer(both, photograph(), img_size=SIZE, patch_size=PATCH, sizes=(1,))
    many = SimpleNamespace(**{**vars(other), "classes": tuple("abcdefghijklmnopqrstu")})
    with pytest.raises(ValueError, match="at most 20 classes to show, got 21"):
        OcclusionExplorer({"a": (nn.Identity(), many)}, photograph())


def test_no_network_and_no_image_are_refused():
    for none in ({}, nn.Identity(), [nn.Identity()]):
        with pytest.raises(ValueError, match="expected 1 to 3 networks by name"):
            OcclusionExplorer(none, photograph())
    with pytest.raises(ValueError, match="expected at least one image, got none"):
        OcclusionExplorer(networks(), {}, img_size=SIZE, patch_size=PATCH, sizes=(1,))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("image", 2, "image must be from 0 to 1, got 2"),
        ("size", 4, r"size must be one of \[1, 2, 3\], got 4"),
        ("place", (3, 0), "place must be a patch .* 3x5 grid"),
        ("place", (0, -1), "place must be a patch"),
        ("watched", 4, "watched must be the index of a class, from 0 to 3, got 4"),
    ],
)
def test_a_setting_that_is_not_there_is_refused(name, value, said):
    made = explorer()
    with pytest.raises(ValueError, match=said):
        setattr(made, name, value)


def test_the_figure_says_what_the_browser_shows():
    made = explorer()
    figure = made.figure(place=(1, 2), size=1, watched=1)
    words = words_in(figure)
    assert "noise" in words
    assert made.caption(place=(1, 2), size=1) in words
    assert {"ViT", "CNN", "bee"} <= set(words)
    picture = figure.subfigs[0].axes[0].images[0].get_array()
    height, width = picture.shape[:2]
    inside = picture[round(1.5 * height / 3), round(2.5 * width / 5)]
    assert inside.tolist() == [128, 102, 76]
    assert words_in(made.figure())


# ---- The page's part, without Jupyter ----


@pytest.fixture
def page(open_file, tmp_path):
    explorer().save_html(tmp_path / "occlusion.html")
    page = open_file(tmp_path / "occlusion.html")
    page.wait_for_selector(".oe-track")
    return page


def test_the_bars_are_seen_on_a_light_page_and_on_a_dark_one(page):
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ground, *bars = page.evaluate(
            """() => [document.body, ...document.querySelectorAll(".oe-fill")]
            .map((node) => getComputedStyle(node).backgroundColor.match(/[\\d.]+/g))
            .map((colour) => colour.slice(0, 3).map((part) => part / 255))"""
        )
        assert len({tuple(bar) for bar in bars}) == 2
        for bar in bars:
            assert contrast(ground, bar) >= 3, "WCAG 2.1, for what is not text"


def said(page) -> str:
    return page.locator(".oe-words").text_content()


def point_at(page, row: float, column: float) -> None:
    box = page.locator(".oe-stage").bounding_box()
    x = box["x"] + column * box["width"] / GRID[1]
    page.mouse.move(x, box["y"] + row * box["height"] / GRID[0])


def test_the_pointer_hides_the_square_around_it(page):
    made = explorer()
    assert said(page) == made.caption()
    page.get_by_role("button", name="1×1").click()
    for row, column in ((0, 0), (2, 4), (1, 3)):
        point_at(page, row + 0.5, column + 0.5)
        assert said(page) == made.caption(size=1, place=(row, column))
    page.get_by_role("button", name="3×3").click()
    point_at(page, 1.5, 2.5)
    assert said(page) == made.caption(size=3, place=(0, 1))
    point_at(page, 2.9, 4.9)
    assert said(page) == made.caption(size=3, place=(0, 2)), "the square stays on the picture"
    page.mouse.move(900, 690)
    assert said(page) == made.caption(), "without the pointer, no square"


def test_a_click_holds_the_square(page):
    made = explorer()
    point_at(page, 0.9, 0.9)
    held = said(page)
    page.mouse.down()
    page.mouse.up()
    point_at(page, 2, 4)
    assert said(page) == held == made.caption(size=2, place=(0, 0))
    page.mouse.down()
    page.mouse.up()
    point_at(page, 2, 4)
    assert said(page) == made.caption(size=2, place=(1, 3))


def test_keys_move_size_and_remove_the_square(page):
    made = explorer()
    page.locator(".oe-stage").focus()
    page.keyboard.press("ArrowRight")
    assert said(page) == made.caption(size=2, place=(0, 1)), "it comes in the middle"
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert said(page) == made.caption(size=2, place=(1, 3))
    page.keyboard.press("1")
    page.keyboard.press("ArrowDown")
    assert said(page) == made.caption(size=1, place=(2, 3))
    page.keyboard.press("4")  # there is no such size
    assert said(page) == made.caption(size=1, place=(2, 3))
    page.keyboard.press("Escape")
    assert said(page) == made.caption()


def test_bars_numbers_and_lines_are_the_answers(page):
    made = explorer()
    page.locator(".oe-stage").focus()
    page.keyboard.press("ArrowRight")
    now, whole = made.probabilities(size=2, place=(0, 1)), made.probabilities()
    widths = page.evaluate(
        "[...document.querySelectorAll('.oe-fill')].map((bar) => parseFloat(bar.style.width))"
    )
    np.testing.assert_allclose(np.reshape(widths, (4, 2)), 100 * now.T, atol=1e-3)
    lines = page.evaluate(
        "[...document.querySelectorAll('.oe-mark')].map((line) => parseFloat(line.style.left))"
    )
    np.testing.assert_allclose(np.reshape(lines, (4, 2)), 100 * whole.T, atol=1e-3)
    numbers = page.locator(".oe-numbers div").all_text_contents()
    assert numbers == [f"{share:.0%}" for share in now.T.ravel()]
    best = page.locator(".oe-numbers .oe-best").count()
    assert best == 2, "each network's likeliest class is bold"


def test_a_class_can_be_watched_and_its_maps_follow(page):
    made = explorer()
    page.get_by_role("button", name="dog").click()
    fall = made.falls(watched=3, size=2)
    titles = page.locator(".oe-map").all_text_contents()
    assert titles == [
        f"{name}: up to {max(0, part.max()):.0%}"
        for name, part in zip(("ViT", "CNN"), fall, strict=True)
    ]
    assert '"dog" falls' in page.locator(".oe-map-title").text_content()
    sizes = page.evaluate(
        "[...document.querySelectorAll('.oe-map canvas')].map((c) => [c.width, c.height])"
    )
    assert sizes == [[4, 2], [4, 2]]
    pixels = page.evaluate(
        """() => { const c = document.querySelectorAll(".oe-map canvas")[1];
        return [...c.getContext("2d").getImageData(0, 0, 4, 2).data]; }"""
    )
    from vit_tutorial.plots import heat_colours

    shares = np.rint(255 * fall[1].clip(0) / max(fall.max(), 1e-9)).astype(int)
    colours = np.reshape(pixels, (2, 4, 4))[:, :, :3]
    assert np.abs(colours - heat_colours()[shares].astype(int)).max() <= 3


def test_the_other_picture_is_shown_and_asked_about(page):
    made = explorer()
    first = page.locator(".oe-photo").get_attribute("src")
    page.get_by_role("button", name="more").click()
    assert said(page) == made.caption(image=1)
    assert page.locator(".oe-photo").get_attribute("src") != first
    pressed = page.locator("button[aria-pressed=true]").all_text_contents()
    assert pressed[:2] == ["more", "2×2"]


def test_every_control_keeps_its_keys_from_jupyterlab(page):
    missing = page.evaluate(
        """() => [...document.querySelectorAll("#widget button, #widget [tabindex]")]
          .filter((control) => control.dataset.lmSuppressShortcuts !== "true").length"""
    )
    assert missing == 0
