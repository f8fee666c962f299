"""What lesson 10 does to images before it asks two networks about them."""

import pytest
import torch

from vit_tutorial.lessons.lesson_10.changes import blurred, hybrids, occluded, shifted, shuffled


def noise(count: int = 6, channels: int = 3, size: tuple[int, int] = (8, 12)) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, *size), dtype=torch.uint8)


# ---- changed images ----


def test_shuffled_pieces_are_all_there_and_each_image_has_its_own_order():
    images = torch.arange(6 * 8 * 12).reshape(6, 1, 8, 12)
    for piece in (2, 4):
        changed = shuffled(images, piece, seed=1)
        assert torch.equal(changed.flatten(1).sort().values, images.flatten(1).sort().values)
        rows = {tuple(row) for row in (changed - images[:, :, :1, :1]).flatten(1).tolist()}
        assert len(rows) == 6, "no two in the same order"
        for r in range(0, 8, piece):
            for c in range(0, 12, piece):
                part = changed[:, 0, r : r + piece, c : c + piece]
                steps = part - part[:, :1, :1]
                expected = torch.arange(piece)[:, None] * 12 + torch.arange(piece)
                assert (steps == expected).all(), "inside, a piece is as it was"
    assert torch.equal(shuffled(images, 4, seed=1), shuffled(images, 4, seed=1))
    assert torch.equal(shuffled(images[..., :8], 8), images[..., :8])


def test_a_shift_moves_by_that_many_pixels_in_one_of_four_ways():
    images = noise(40, size=(9, 11))
    changed, ways = shifted(images, 2, seed=5), set()
    for before, after in zip(images, changed, strict=True):
        inner = {
            "up": (before[:, 2:], after[:, :-2]),
            "down": (before[:, :-2], after[:, 2:]),
            "left": (before[:, :, 2:], after[:, :, :-2]),
            "right": (before[:, :, :-2], after[:, :, 2:]),
        }
        moved = [way for way, (a, b) in inner.items() if torch.equal(a, b)]
        assert len(moved) == 1
        ways.update(moved)
    assert ways == {"up", "down", "left", "right"}
    assert torch.equal(shifted(images, 0), images)


def test_what_enters_with_a_shift_is_a_mirror_image():
    row = torch.tensor([[[[1, 2, 3, 4]]]], dtype=torch.uint8).expand(30, 1, 4, 4)
    enters = {tuple(image[0, 0].tolist()) for image in shifted(row, 1)}
    assert enters == {(1, 2, 3, 4), (2, 3, 4, 3), (2, 1, 2, 3)}


@pytest.mark.parametrize("pixels", [-1, 8])
def test_a_shift_stays_within_the_image(pixels):
    with pytest.raises(ValueError, match=f"pixels must be from 0 to below 8, got {pixels}"):
        shifted(noise(), pixels)


def test_a_share_of_the_patches_is_hidden_and_a_larger_one_hides_them_too():
    images = noise(5).clamp(max=200)
    fill = torch.tensor([201.0, 202.0, 203.0])
    before = torch.zeros(5, 1, 8, 12, dtype=torch.bool)
    for share, count in ((0, 0), (1 / 6, 1), (0.5, 3), (1, 6)):
        changed = occluded(images, share, 4, fill, seed=2)
        hidden = (changed == fill[:, None, None].to(torch.uint8)).all(dim=1, keepdim=True)
        assert (hidden.sum(dim=(1, 2, 3)) == 16 * count).all()
        assert torch.equal(changed * ~hidden, images * ~hidden), "the rest is as it was"
        assert (hidden | ~before).all()
        before = hidden
    with pytest.raises(ValueError, match=r"share must be in 0..1, got 1.5"):
        occluded(images, 1.5, 4, fill)


def test_a_hybrid_has_the_colour_of_one_image_and_the_edges_of_the_other():
    flat, striped = torch.full((1, 1, 16, 16), 200), torch.full((1, 1, 16, 16), 60)
    striped[..., ::2] += 40
    coarse, fine = flat.to(torch.uint8), striped.to(torch.uint8)
    joined = hybrids(coarse, fine, 2.0).float()
    assert joined.mean().item() == pytest.approx(200, abs=2)
    step = (joined[..., 4:12:2] - joined[..., 5:13:2]).mean().item()
    assert step == pytest.approx(40, abs=2)
    same = noise(2, size=(16, 16))
    assert (hybrids(same, same, 1.0).int() - same.int()).abs().max() <= 1


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_a_blur_is_torchvisions(sigma):
    from torchvision.transforms.functional import gaussian_blur

    images = torch.rand(2, 3, 20, 24, dtype=torch.float64)
    side = 2 * round(4 * sigma) + 1
    expected = gaussian_blur(images, kernel_size=[side, side], sigma=[sigma, sigma])
    torch.testing.assert_close(blurred(images, sigma), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0, -1])
def test_a_hybrid_needs_a_blur_and_images_of_one_shape(sigma):
    with pytest.raises(ValueError, match="images of one shape and a positive sigma"):
        hybrids(noise(), noise(), sigma)
    with pytest.raises(ValueError, match="images of one shape"):
        hybrids(noise(), noise(3), 1.0)


def test_what_was_given_is_left_alone():
    images = noise(4, size=(16, 16))
    before = images.clone()
    shuffled(images, 4), shifted(images, 3), hybrids(images, images.flip(0), 1.0)
    occluded(images, 0.5, 4, torch.zeros(3))
    assert torch.equal(images, before)
