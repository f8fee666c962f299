"""Augmentation against torchvision, image by image, and against plain loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import functional as reference

from vit_tutorial.augment import (
    BINS,
    OPERATIONS,
    crop_flip,
    draw_crop_flip,
    draw_erase,
    draw_mix,
    draw_trivial_augment,
    erase,
    mix,
    mix_targets,
    trivial_augment,
)


def pictures(count: int, channels: int = 3, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """Smooth pictures with noise: edges, gradients, few and many levels."""
    coarse = torch.rand(count, channels, 4, 4)
    smooth = F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    contrast = torch.rand(count, 1, 1, 1)
    noisy = smooth * contrast + 0.2 * torch.rand(count, channels, *size)
    return (255 * noisy.clamp(0, 1)).to(torch.uint8)


# ---- shift and mirror ----


@pytest.mark.parametrize("shape", [(9, 3, 6, 6), (9, 1, 5, 8)])
def test_crop_flip_is_padding_by_reflection_then_a_crop_then_a_mirror(shape):
    images = torch.randint(0, 256, shape).to(torch.uint8)
    shift, flipped = draw_crop_flip(9, 4, True)
    result = crop_flip(images, shift, flipped)
    assert result.dtype == torch.uint8
    height, width = shape[2:]
    for image, (down, right), mirror, found in zip(images, shift, flipped, result, strict=True):
        padded = F.pad(image[None].double(), (4, 4, 4, 4), mode="reflect")[0]
        expected = padded[:, 4 + down : 4 + down + height, 4 + right : 4 + right + width]
        expected = expected.flip(2) if mirror else expected
        assert_close(found.double(), expected, rtol=0, atol=0)


def test_no_shift_and_no_mirror_leave_the_images_alone():
    images = pictures(6)
    shift, flipped = draw_crop_flip(6, padding=0, flip=False)
    assert torch.equal(crop_flip(images, shift, flipped), images)
    assert crop_flip(images[:0], shift[:0], flipped[:0]).shape == (0, 3, 32, 32)


def test_shifts_cover_the_whole_range_evenly_and_each_axis_for_itself():
    shift, flipped = draw_crop_flip(4000, 2, True)
    for axis in (0, 1):
        counts = torch.bincount(shift[:, axis] + 2, minlength=5)
        assert len(counts) == 5
        assert (counts - 800).abs().max() < 120  # more than four standard deviations
    assert (shift[:, 0] == shift[:, 1]).float().mean() == pytest.approx(0.2, abs=0.04)
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.04)
    assert not draw_crop_flip(100, 2, False)[1].any()


# ---- TrivialAugment ----


def by_torchvision(name: str, image: torch.Tensor, strength: float) -> torch.Tensor:
    """Do with torchvision's functions what TrivialAugmentWide does with them."""
    affine = dict(angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0])
    degrees = math.degrees(math.atan(strength))
    nearest = InterpolationMode.NEAREST
    if name == "ShearX":
        affine["shear"] = [degrees, 0.0]
    if name == "ShearY":
        affine["shear"] = [0.0, degrees]
    if name.startswith("Shear"):
        return reference.affine(image, **affine, interpolation=nearest, center=[0, 0])
    if name.startswith("Translate"):
        affine["translate"] = [int(strength), 0] if name[-1] == "X" else [0, int(strength)]
        return reference.affine(image, **affine, interpolation=nearest)
    factor = 1.0 + strength
    return {
        "Identity": lambda: image,
        "Rotate": lambda: reference.rotate(image, angle=strength, interpolation=nearest),
        "Brightness": lambda: reference.adjust_brightness(image, factor),
        "Color": lambda: reference.adjust_saturation(image, factor),
        "Contrast": lambda: reference.adjust_contrast(image, factor),
        "Sharpness": lambda: reference.adjust_sharpness(image, factor),
        "Posterize": lambda: reference.posterize(image, bits=8 - round(strength)),
        "Solarize": lambda: reference.solarize(image, threshold=strength),
        "AutoContrast": lambda: reference.autocontrast(image),
        "Equalize": lambda: reference.equalize(image),
    }[name]()


def test_the_operations_and_their_ranges_are_torchvisions():
    space = transforms.TrivialAugmentWide()._AUGMENTATION_SPACE
    assert list(OPERATIONS) == list(space)
    for name, (magnitudes, signed) in space.items():
        operation, theirs = OPERATIONS[name], magnitudes(BINS, 32, 32)
        assert operation.signed == signed
        if theirs is None:
            continue
        ours = torch.linspace(operation.weakest, operation.strongest, BINS)
        if name == "Posterize":  # torchvision names the bits that stay
            ours = 8 - ours.round()
        if name == "Solarize":  # and a share of the brightest
            ours = ours / 255
        assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchvisions_within_one_level_at_every_strength(name, channels):
    operation = OPERATIONS[name]
    strengths = torch.linspace(operation.weakest, operation.strongest, BINS)
    strengths = torch.cat([strengths, -strengths]) if operation.signed else strengths
    images = pictures(len(strengths), channels, size=(32, 24))
    moves = name.startswith(("Shear", "Translate", "Rotate"))
    for image, strength, found in zip(
        images, strengths, operation.apply(images, strengths), strict=True
    ):
        expected = by_torchvision(name, image, strength.item())
        off = (found.int() - expected.int()).abs()
        if moves:  # where two pixels are equally near, rounding decides
            assert (off.amax(dim=0) > 0).sum() <= 4, (name, strength)
        else:
            assert off.max() <= 1, (name, strength)
        assert found.dtype == torch.uint8


def test_operations_on_flat_and_tiny_images():
    """Nothing to stretch, nothing to equalise, no neighbours: as torchvision, and no NaN."""
    for image in (
        torch.full((3, 8, 8), 77, dtype=torch.uint8),
        torch.zeros(3, 2, 2, dtype=torch.uint8),
        torch.randint(0, 256, (3, 1, 5)).to(torch.uint8),
    ):
        for name in ("AutoContrast", "Equalize", "Sharpness", "Contrast"):
            found = OPERATIONS[name].apply(image[None], torch.tensor([0.5]))[0]
            expected = by_torchvision(name, image, 0.5)
            assert (found.int() - expected.int()).abs().max() <= 1, name


def test_a_batch_is_treated_image_by_image_as_drawn():
    images, names = pictures(40), list(OPERATIONS)
    draw = draw_trivial_augment(40, share=0.8)
    found = trivial_augment(images, draw)
    used = []
    for part, chosen in enumerate(draw.order.tensor_split(14)):
        name = names[(draw.first + part) % 14]
        operation = OPERATIONS[name]
        for i in chosen.tolist():
            used.append(name)
            reach = operation.strongest - operation.weakest
            strength = operation.weakest + reach * draw.bins[i] / (BINS - 1)
            sign = -1 if operation.signed and draw.negative[i] else 1
            alone = operation.apply(images[i : i + 1], (sign * strength)[None])[0]
            assert torch.equal(found[i], alone if draw.changed[i] else images[i])
    assert len(used) == 40
    assert {used.count(name) for name in names} == {2, 3}
    assert not torch.equal(found, images)


def test_every_operation_has_its_turn_also_in_small_batches():
    names = list(OPERATIONS)
    counts = torch.zeros(14)
    for _ in range(2800):
        draw = draw_trivial_augment(3)
        for part, chosen in enumerate(draw.order.tensor_split(14)):
            counts[names.index(names[(draw.first + part) % 14])] += len(chosen)
    assert counts.sum() == 8400
    assert (counts - 600).abs().max() < 110  # four and a half standard deviations


def test_draws_are_even_and_follow_the_seed():
    torch.manual_seed(1)
    draw = draw_trivial_augment(31_000, share=0.3)
    assert (torch.bincount(draw.bins, minlength=BINS) - 1000).abs().max() < 150
    assert draw.changed.float().mean() == pytest.approx(0.3, abs=0.015)
    assert draw.negative.float().mean() == pytest.approx(0.5, abs=0.015)
    torch.manual_seed(1)
    again = draw_trivial_augment(31_000, share=0.3)
    for first, second in zip(draw, again, strict=True):
        assert np.array_equal(first, second)
    assert not torch.equal(draw_trivial_augment(31_000).bins, draw.bins)


def test_a_share_of_nothing_changes_nothing_and_empty_batches_pass():
    images = pictures(5)
    assert torch.equal(trivial_augment(images, draw_trivial_augment(5, share=0.0)), images)
    assert trivial_augment(images[:0], draw_trivial_augment(0)).shape == (0, 3, 32, 32)


# ---- erasing ----


def test_erased_rectangles_have_the_areas_and_shapes_of_the_paper():
    keep = draw_erase(4000, (64, 64), share=0.5)
    assert keep.shape == (4000, 1, 64, 64)
    lost = ~keep[:, 0]
    hit = lost.flatten(1).any(dim=1)
    assert hit.float().mean() == pytest.approx(0.5, abs=0.035)
    heights = lost[hit].any(dim=2).sum(dim=1).double()
    widths = lost[hit].any(dim=1).sum(dim=1).double()
    areas = lost[hit].flatten(1).sum(dim=1).double()
    assert_close(areas, heights * widths)  # one whole rectangle each
    share = areas / 64**2
    assert share.min() > 0.015
    assert share.max() < 0.36
    assert share.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.015)
    ratio = (heights / widths).log()
    assert ratio.abs().max() < math.log(3.3) + 0.2
    assert ratio.mean() == pytest.approx(0, abs=0.06)
    places = lost[hit].double().mean(dim=0)  # the middle is hit most, every corner sometimes
    assert places[0, 0] > 0
    assert places[-1, -1] > 0
    quarters = [places[:32, :32], places[:32, 32:], places[32:, :32], places[32:, 32:]]
    for quarter in quarters:
        assert quarter.mean() == pytest.approx(share.mean().item(), rel=0.06)


def test_erasing_puts_the_mean_colour():
    pixels = torch.randn(6, 3, 8, 8)
    keep = draw_erase(6, (8, 8), share=1.0)
    found = erase(pixels, keep)
    assert torch.equal(found[keep.expand_as(found)], pixels[keep.expand_as(found)])
    assert (found[~keep.expand_as(found)] == 0).all()
    assert (~keep).flatten(1).any(dim=1).all()
    assert draw_erase(6, (8, 8), share=0.0).all()


# ---- mixing ----


def test_mixing_is_a_loop_over_images_and_pixels():
    pixels = torch.randn(12, 3, 6, 5, dtype=torch.float64)
    targets = torch.rand(12, 4, dtype=torch.float64).softmax(dim=1)
    partner, weight = draw_mix(12, (6, 5), mixup=0.5, cutmix=0.5)
    mixed, mixed_targets = mix(pixels, partner, weight), mix_targets(targets, partner, weight)
    for i, j in enumerate(partner.tolist()):
        own, other, w = pixels[i].numpy(), pixels[j].numpy(), weight[i, 0].double().numpy()
        expected = np.empty_like(own)
        for row in range(6):
            for column in range(5):
                share = w[row, column]
                expected[:, row, column] = (
                    share * own[:, row, column] + (1 - share) * other[:, row, column]
                )
        assert_close(mixed[i].numpy(), expected)
        share = w.sum() / 30
        wanted = share * targets[i].numpy() + (1 - share) * targets[j].numpy()
        assert_close(mixed_targets[i].numpy(), wanted, rtol=1e-6, atol=1e-6)
    assert_close(mixed_targets.sum(dim=1), torch.ones(12, dtype=torch.float64))


def kinds(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tell for each image whether it is left whole, blended, or pasted into."""
    flat = weight.flatten(1)
    whole = (flat == 1).all(dim=1)
    even = (flat == flat[:, :1]).all(dim=1) & ~whole
    return whole, even & (flat[:, 0] > 0), ~whole & ~(even & (flat[:, 0] > 0))


def test_shares_of_mixup_and_cutmix_are_those_asked_for():
    partner, weight = draw_mix(8000, (16, 16), mixup=0.3, cutmix=0.5)
    whole, blended, pasted = (kind.float().mean().item() for kind in kinds(weight))
    # a box may be too small for a pixel (about 1 in 100), then the image is whole
    assert blended == pytest.approx(0.3, abs=0.025)
    assert pasted == pytest.approx(0.5, abs=0.03)
    assert whole == pytest.approx(0.2, abs=0.03)
    assert sorted(partner.tolist()) == list(range(8000))
    assert (draw_mix(50, (4, 4), mixup=0.0, cutmix=0.0)[1] == 1).all()


def test_blends_follow_the_beta_distribution():
    _, weight = draw_mix(20_000, (1, 1), mixup=1.0, cutmix=0.0)
    drawn = weight.flatten().double()
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.004)  # of Beta(a, a)


def test_pasted_rectangles_are_cut_at_the_border_around_a_middle_that_is_anywhere():
    """The area that is kept, without the border, would be uniform; with it, more is kept."""
    _, weight = draw_mix(20_000, (64, 64), mixup=0.0, cutmix=1.0)
    lost = (weight[:, 0] == 0).double()
    heights, widths = lost.amax(dim=2).sum(dim=1), lost.amax(dim=1).sum(dim=1)
    assert_close(lost.sum(dim=(1, 2)), heights * widths)
    # E[lost] = E over u of the mean part of a side that is inside, squared; by numbers:
    generator = np.random.default_rng(0)
    u, middle = generator.random((2, 400_000)), generator.random((2, 400_000))
    half = np.sqrt(1 - u[0]) / 2
    inside = np.minimum(middle + half, 1) - np.maximum(middle - half, 0)
    assert lost.mean().item() == pytest.approx((inside[0] * inside[1]).mean(), abs=0.01)


# ---- bad input ----


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: draw_crop_flip(-1, 0, False), "must not be negative, got -1 and 0"),
        (lambda: draw_crop_flip(2, -3, False), "must not be negative, got 2 and -3"),
        (
            lambda: crop_flip(torch.zeros(1, 8, 8), torch.zeros(1, 2), torch.zeros(1)),
            r"\(B, C, H, W\), got \(1, 8, 8\)",
        ),
        (
            lambda: crop_flip(torch.zeros(2, 1, 8, 8), torch.zeros(3, 2), torch.zeros(2)),
            r"shifts of shape \(2, 2\).* got \(3, 2\) and \(2,\)",
        ),
        (
            lambda: crop_flip(torch.zeros(2, 1, 8, 8), torch.zeros(2, 2), torch.zeros(3)),
            r"flips of shape \(2,\), got \(2, 2\) and \(3,\)",
        ),
        (lambda: draw_trivial_augment(-1), "count must not be negative, got -1"),
        (lambda: draw_trivial_augment(4, share=1.5), "share must be in 0..1, got 1.5"),
        (
            lambda: trivial_augment(pictures(3), draw_trivial_augment(4)),
            "expected 4 uint8 images, got 3 of torch.uint8",
        ),
        (
            lambda: trivial_augment(pictures(4).float(), draw_trivial_augment(4)),
            "expected 4 uint8 images, got 4 of torch.float32",
        ),
        (lambda: draw_erase(4, (8, 8), share=-0.1), "share must be in 0..1, got -0.1"),
        (lambda: draw_mix(4, (8, 8), mixup=0.6, cutmix=0.6), "together must be in 0..1, got 1.2"),
        (lambda: draw_mix(4, (8, 8), mixup=2.0, cutmix=0.0), "mixup must be in 0..1, got 2.0"),
    ],
)
def test_augmentation_names_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
