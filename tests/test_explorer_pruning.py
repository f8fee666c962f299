"""The explorer of heads that can be taken away: the network in the browser is the one in Python."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import words_in

from vit_tutorial import ImageSet, PruningExplorer, VisionTransformer, ViTConfig
from vit_tutorial.compress import prune_heads
from vit_tutorial.explorer.pruning import picture
from vit_tutorial.images import normalize

CLASSES = ("ant", "bee", "cat")
SIDE = (6, 8)  # not square, or swapped rows and columns go unseen
ABOUT = SimpleNamespace(classes=CLASSES, mean=(0.4, 0.5), std=(0.3, 0.2))
SCORES = {"first": [[0, 1, 2], [3, 4, 5]], "last": [[5, 4, 3], [2, 1, 0]]}


def network(**changes) -> VisionTransformer:
    torch.manual_seed(0)
    config = {"img_size": SIDE, "patch_size": 2, "in_chans": 2, "num_classes": 3, "embed_dim": 18,
              "depth": 2, "num_heads": 3, **changes}  # fmt: skip
    model = VisionTransformer(ViTConfig(**config)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)
    return model


def pictures(count: int = 40) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 2, *SIDE), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 3, CLASSES, "noise")


def explorer(**changes) -> PruningExplorer:
    return PruningExplorer(network(**changes), pictures(), ABOUT, SCORES)


def logits_without(gone: list[int], **changes) -> torch.Tensor:
    layers = {layer: [n % 3 for n in gone if n // 3 == layer] for layer in (0, 1)}
    pixels = normalize(pictures().images, ABOUT.mean, ABOUT.std)
    with torch.no_grad():
        return prune_heads(network(**changes), layers)(pixels)


# ---- Python's part ----


def test_what_is_right_is_counted_with_the_heads_that_are_left():
    made = explorer()
    for gone in ([], [0], [1, 5], [0, 2, 3, 4]):
        said = logits_without(gone).argmax(dim=1)
        assert made.correct(gone) == int((said == pictures().labels).sum())
    assert made.whole == made.correct([])
    made.gone = [5, 1]
    assert made.gone == [1, 5]
    assert made.correct() == made.correct([1, 5])


def test_rules_take_the_smallest_first_and_leave_a_head_in_each_layer():
    made = explorer()
    assert made.orders == {"first": [0, 1, 3, 4], "last": [5, 4, 2, 1]}


def test_images_to_look_at_are_of_different_classes():
    assert explorer().candidates == [0, 1, 2, 3, 4, 5, 6, 7]
    labels = torch.tensor([0] * 20 + [1, 2])
    images = ImageSet(pictures(22).images, labels, CLASSES, "noise")
    made = PruningExplorer(network(), images, ABOUT, SCORES)
    assert made.candidates[:4] == [0, 20, 21, 1]
    assert made.shown == 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gone", [6], r"heads are numbered 0 to 5, got \[6\]"),
        ("gone", [-1, 2], "heads are numbered"),
        ("gone", [3, 4, 5], "layer 1 must keep one of its 3 heads"),
        ("shown", 40, "shown must be from 0 to 39, got 40"),
    ],
)
def test_a_setting_that_is_not_there_is_refused(name, value, said):
    with pytest.raises(ValueError, match=said):
        setattr(explorer(), name, value)


@pytest.mark.parametrize(
    ("model", "images", "rules", "said"),
    [
        (prune_heads(network(), {0: [1]}), pictures(), SCORES, "same number of heads"),
        (network(in_chans=3), pictures(), SCORES, r"expected images \(n, 3, 6, 8\), got \(40, 2"),
        (network(embed_dim=1536), pictures(), SCORES, "billion multiply-adds.* at most [0-9]"),
        (network(), pictures(), {"a": [[0, 1, 2]]}, r"\(2, 3\), got \(1, 3\)"),
    ],
)
def test_what_a_browser_cannot_run_is_refused(model, images, rules, said):
    with pytest.raises(ValueError, match=said):
        PruningExplorer(model, images, ABOUT, rules)


def test_one_channel_is_ink_on_white():
    assert picture(np.array([[[0, 255]]], np.uint8)).tolist() == [[[255] * 3, [0] * 3]]
    assert picture(np.array([[[1]], [[2]], [[3]]], np.uint8)).tolist() == [[[1, 2, 3]]]


def test_the_figure_says_what_the_browser_shows():
    torch.manual_seed(0)
    images = ImageSet(pictures().images[:, :1], pictures().labels, CLASSES, "noise")
    about = SimpleNamespace(classes=CLASSES, mean=(0.4,), std=(0.3,))
    made = PruningExplorer(network(in_chans=1), images, about, SCORES)
    made.gone, made.shown = [1, 3], 4
    words = words_in(made.figure())
    assert f"{made.correct()} of 40 images correct ({made.correct([])} with all heads)" in words
    assert any(text.endswith("(it is bee)") for text in words)
    assert repr(made) == "PruningExplorer: 6 heads, 40 images"


# ---- The page's part, without Jupyter ----


@pytest.fixture
def open_page(open_file, tmp_path):
    def opens(made: PruningExplorer):
        made.save_html(tmp_path / "heads.html")
        page = open_file(tmp_path / "heads.html")
        page.wait_for_selector(".pr-head")
        return page

    return opens


def counted(page) -> str:
    page.wait_for_selector(".pr-score:not(.pr-counting)")
    return page.locator(".pr-score-words").text_content()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool": "mean"},
        {"pos_embed": "none"},
        {"pos_embed": "sincos", "embed_dim": 24},
        {"pos_embed": "rope", "embed_dim": 24},
    ],
)
def test_what_the_page_counts_is_what_python_counts(open_page, changes):
    """With heads taken away one after another, from the last layer and from the first."""
    made = explorer(**changes)
    page = open_page(made)
    for head, gone in ((5, [5]), (1, [1, 5]), (5, [1]), (3, [1, 3])):
        page.locator(".pr-head").nth(head).click()
        logits = logits_without(gone, **changes)
        right = int((logits.argmax(dim=1) == pictures().labels).sum())
        assert counted(page).startswith(f"{right} of 40 right"), gone
        share = logits[made.shown].softmax(dim=0).max()
        assert f", {share:.0%} (it is" in page.locator(".pr-words").text_content()


def test_weights_that_half_precision_holds_are_carried_in_it():
    exact = network()
    for parameter in exact.parameters():
        parameter.data = parameter.data.half().float()
    sizes = [
        len(PruningExplorer(vit, pictures(), ABOUT, SCORES).weights) for vit in (exact, network())
    ]
    assert sizes[0] < 0.7 * sizes[1]


def test_a_click_takes_a_head_away_and_counts_again(open_page):
    made = explorer()
    page = open_page(made)
    assert counted(page).startswith(f"{made.correct([])} of 40 right")
    for head, gone in ((1, [1]), (5, [1, 5]), (0, [0, 1, 5]), (1, [0, 5])):
        page.locator(".pr-head").nth(head).click()
        said = counted(page)
        assert said.startswith(f"{made.correct(gone)} of 40 right"), gone
        assert f"with all heads {made.correct([])}" in said
        pressed = page.locator(".pr-head[aria-pressed=true]").count()
        assert pressed == len(gone)
    whole = sum(value.numel() for value in network().parameters())
    left = prune_heads(network(), {0: [0], 1: [2]})
    share = sum(value.numel() for value in left.parameters()) / whole
    assert f"{share:.0%} of the parameters" in said


def test_the_last_head_of_a_layer_stays(open_page):
    page = open_page(explorer())
    for head in (3, 4, 5):
        page.locator(".pr-head").nth(head).click()
    assert page.locator(".pr-head[aria-pressed=true]").count() == 2
    assert "Layer 1 must keep a head." in page.locator(".pr-words").text_content()
    page.locator(".pr-head").nth(3).click()
    assert "must keep" not in page.locator(".pr-words").text_content()


def test_the_slider_follows_a_rule(open_page):
    made = explorer()
    page = open_page(made)
    page.get_by_role("button", name="last").click()
    page.locator(".pr-slider").fill("3")
    assert counted(page).startswith(f"{made.correct([5, 4, 2])} of 40 right")
    assert page.locator(".pr-count").text_content() == "3 of 6"
    page.get_by_role("button", name="first").click()
    assert counted(page).startswith(f"{made.correct([0, 1, 3])} of 40 right")
    assert page.locator(".pr-slider").get_attribute("max") == "4"


def test_another_image_has_its_own_answer(open_page):
    made = explorer()
    page = open_page(made)
    page.locator(".pr-head").nth(2).click()
    counted(page)
    for image in (0, 3, 7):
        page.locator(".pr-other").nth(image).click()
        shares = logits_without([2])[image].softmax(dim=0)
        words = page.locator(".pr-words").text_content()
        best = int(shares.argmax())
        assert words.startswith(f"says {CLASSES[best]}, ")
        percent = int(words.partition("%")[0].rpartition(" ")[2])
        assert percent == pytest.approx(100 * shares[best].item(), abs=0.6)
        assert f"(it is {CLASSES[image % 3]})" in words


def test_keys_go_from_head_to_head_and_stay_away_from_jupyterlab(open_page):
    page = open_page(explorer())
    page.locator(".pr-head").nth(0).focus()
    for key, label in (
        ("ArrowRight", "layer 0, head 1"),
        ("ArrowDown", "layer 1, head 1"),
        ("ArrowLeft", "layer 1, head 0"),
        ("ArrowUp", "layer 0, head 0"),
    ):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == label
    page.keyboard.press("Space")
    assert page.locator(".pr-head").nth(0).get_attribute("aria-pressed") == "true"
    missing = page.evaluate(
        """() => [...document.querySelectorAll("#widget button, #widget input")]
          .filter((control) => control.dataset.lmSuppressShortcuts !== "true").length"""
    )
    assert missing == 0


def test_a_page_that_starts_without_some_heads_knows_the_score_of_all(open_page):
    made = explorer()
    made.gone = [0, 4]
    said = counted(open_page(made))
    assert said.startswith(f"{made.correct([0, 4])} of 40 right")
    assert f"with all heads {made.correct([])}" in said
