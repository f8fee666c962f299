"""Augmentation against torchvision, image by image, and against plain loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch.overrides import TorchFunctionMode
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


@pytest.mark.parametrize("padding", [4, 17])  # 17: further than the images are wide
@pytest.mark.parametrize("shape", [(9, 3, 6, 6), (9, 1, 5, 8), (9, 2, 1, 7)])
def test_crop_flip_is_padding_by_reflection_then_a_crop_then_a_mirror(shape, padding):
    images = torch.randint(0, 256, shape).to(torch.uint8)
    shift, flipped = draw_crop_flip(9, padding, True)
    result = crop_flip(images, shift, flipped)
    assert result.dtype == torch.uint8
    height, width = shape[2:]
    border = ((0, 0), (padding, padding), (padding, padding))
    for image, (down, right), mirror, found in zip(images, shift, flipped, result, strict=True):
        padded = np.pad(image.numpy(), border, mode="reflect")
        top, left = padding + down, padding + right
        expected = padded[:, top : top + height, left : left + width]
        expected = expected[:, :, ::-1] if mirror else expected
        assert np.array_equal(found.numpy(), expected)


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
    found = operation.apply(images, strengths)
    expected = torch.stack(
        [by_torchvision(name, image, s.item()) for image, s in zip(images, strengths, strict=True)]
    )
    off = (found.int() - expected.int()).abs()
    assert found.dtype == torch.uint8
    if name == "Rotate":  # by 45 degrees two diagonals get halfway between pixels: anyone's guess
        tied = (strengths.abs() % 90 - 45).abs() < 0.01
        assert tied.sum() == 4
        assert (off[tied].amax(dim=1) > 0).sum(dim=(1, 2)).max() <= 2 * 24
        off = off[~tied]
    assert off.max() <= 1
    share = {"Color": 0.01, "Contrast": 0.01, "Sharpness": 0.02, "AutoContrast": 0.12}
    assert (off > 0).float().mean() <= share.get(name, 0)  # the others are exact


def test_stretched_contrast_is_the_whole_part_of_the_exact_quotient():
    """For every seventh pair of levels; torchvision rounds some of them to one less."""
    low, high = torch.triu_indices(256, 256, offset=1)[:, ::7]
    own = low + (torch.rand(len(low)) * (high - low + 1)).long()
    images = torch.stack([low, high, own], dim=1).to(torch.uint8)[:, None, None]  # (n, 1, 1, 3)
    found = OPERATIONS["AutoContrast"].apply(images, torch.zeros(len(low)))[:, 0, 0]
    expected = torch.stack([0 * low, 0 * low + 255, (own - low) * 255 // (high - low)], dim=1)
    assert torch.equal(found.long(), expected)


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


@pytest.mark.parametrize("channels", [3, 1])
def test_a_batch_is_treated_image_by_image_as_drawn(channels):
    images, names = pictures(40, channels, size=(20, 32)), list(OPERATIONS)
    before = images.clone()
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
    assert torch.equal(images, before)
    assert len(used) == 40
    assert {used.count(name) for name in names} == {2, 3}
    assert not torch.equal(found, images)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_every_operation_has_its_turn_also_in_small_batches(count):
    batches = 8400 // count
    counts = torch.zeros(14)
    for _ in range(batches):
        draw = draw_trivial_augment(count)
        for part, chosen in enumerate(draw.order.tensor_split(14)):
            counts[(draw.first + part) % 14] += len(chosen)
    assert counts.sum() == batches * count
    assert (counts - batches * count / 14).abs().max() < 110  # four and a half deviations


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


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_crop_flip(50, 4, True),
        lambda: (draw_erase(50, (8, 8), share=0.5),),
        lambda: draw_mix(50, (8, 8), mixup=0.5, cutmix=0.5),
    ],
)
def test_other_draws_follow_the_seed_too(draw):
    torch.manual_seed(1)
    first, other = draw(), draw()
    torch.manual_seed(1)
    for a, b, c in zip(first, draw(), other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_a_share_of_nothing_changes_nothing_and_empty_batches_pass():
    images = pictures(5)
    assert torch.equal(trivial_augment(images, draw_trivial_augment(5, share=0.0)), images)
    assert trivial_augment(images[:0], draw_trivial_augment(0)).shape == (0, 3, 32, 32)
    assert draw_erase(0, (8, 8), share=1.0).shape == (0, 1, 8, 8)
    partner, weight = draw_mix(0, (32, 32), mixup=0.5, cutmix=0.5)
    assert mix(images[:0].float(), partner, weight).shape == (0, 3, 32, 32)
    assert mix_targets(torch.zeros(0, 4), partner, weight).shape == (0, 4)


def test_a_single_image_is_its_own_partner():
    image, target = torch.rand(1, 3, 8, 8), torch.tensor([[0.0, 1.0]])
    draw = draw_mix(1, (8, 8), mixup=0.5, cutmix=0.5)
    assert_close(mix(image, *draw), image)
    assert_close(mix_targets(target, *draw), target)


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
    places = lost[hit].double().mean(dim=0)
    quarters = [places[:32, :32], places[:32, 32:], places[32:, :32], places[32:, 32:]]
    for quarter in quarters:
        assert quarter.mean() == pytest.approx(share.mean().item(), rel=0.06)


def test_rectangles_reach_every_pixel_of_a_wide_image_and_fit_into_it():
    lost = ~draw_erase(3000, (12, 48), share=1.0)[:, 0]
    assert (lost.sum(dim=0) > 0).all()
    heights, widths = lost.any(dim=2).sum(dim=1), lost.any(dim=1).sum(dim=1)
    assert heights.max() == 12  # cut to fit
    assert torch.equal(lost.sum(dim=(1, 2)), heights * widths)
    assert_close(lost.double().mean(dim=0), lost.flip(1, 2).double().mean(dim=0), rtol=0, atol=0.06)


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
    drawn = weight.flatten().double().numpy()
    assert stats.kstest(drawn, stats.beta(0.8, 0.8).cdf).pvalue > 0.01
    for other in (0.7, 0.9, 1.0):  # as many draws tell from these
        assert stats.kstest(drawn, stats.beta(other, other).cdf).pvalue < 0.01


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_pasted_rectangles_are_cut_at_the_border_around_a_middle_that_is_anywhere(size):
    """The area that is kept, without the border, would be uniform; with it, more is kept."""
    _, weight = draw_mix(20_000, size, mixup=0.0, cutmix=1.0)
    lost = (weight[:, 0] == 0).double()
    heights, widths = lost.amax(dim=2).sum(dim=1), lost.amax(dim=1).sum(dim=1)
    assert_close(lost.sum(dim=(1, 2)), heights * widths)
    # E[lost] = E over u of the mean part of a side that is inside, squared; by numbers:
    generator = np.random.default_rng(0)
    u, middle = generator.random((2, 400_000)), generator.random((2, 400_000))
    half = np.sqrt(1 - u[0]) / 2
    inside = np.minimum(middle + half, 1) - np.maximum(middle - half, 0)
    assert lost.mean().item() == pytest.approx((inside[0] * inside[1]).mean(), abs=0.01)
    assert (heights / size[0]).mean().item() == pytest.approx(inside[0].mean(), abs=0.015)
    assert (widths / size[1]).mean().item() == pytest.approx(inside[1].mean(), abs=0.015)


# ---- nothing waits for a GPU ----


class NoCopies(TorchFunctionMode):
    """Refuse what copies numbers of Python or of the CPU to another device: a GPU is waited for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy), func
        result = func(*args, **(kwargs or {}))
        from_cpu = any(isinstance(value, torch.Tensor) and value.is_cpu for value in args)
        to_device = isinstance(result, torch.Tensor) and not result.is_cpu
        assert not (from_cpu and to_device), func
        return result


def test_nothing_is_looked_at_and_nothing_is_copied_on_the_way():
    """On the device `meta` there are no numbers: whoever looks at one gets an error."""
    images = torch.empty(40, 3, 32, 32, dtype=torch.uint8, device="meta")
    with NoCopies():
        changed = crop_flip(images, *draw_crop_flip(40, 4, True, device="meta"))
        changed = trivial_augment(changed, draw_trivial_augment(40, 0.5, device="meta"))
        pixels = erase(changed.float(), draw_erase(40, (32, 32), 0.5, device="meta"))
        draw = draw_mix(40, (32, 32), 0.5, 0.5, device="meta")
        mixed = mix(pixels, *draw)
        targets = mix_targets(torch.empty(40, 10, device="meta"), *draw)
    assert changed.dtype == torch.uint8
    assert (mixed.shape, mixed.device.type) == (images.shape, "meta")
    assert (targets.shape, targets.device.type) == ((40, 10), "meta")


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
            r"expected shift of shape \(2, 2\), got \(3, 2\)",
        ),
        (
            lambda: crop_flip(torch.zeros(2, 1, 8, 8), torch.zeros(2, 2), torch.zeros(3)),
            r"expected flipped of shape \(2,\), got \(3,\)",
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
        (lambda: draw_erase(4, (8, 8), share=math.nan), "share must be in 0..1, got nan"),
        (
            lambda: erase(torch.zeros(4, 3, 8, 8), torch.ones(4, 8, 8, dtype=torch.bool)),
            r"expected keep of shape \(4, 1, 8, 8\), got \(4, 8, 8\)",
        ),
        (
            lambda: mix(torch.zeros(4, 3, 4, 4), torch.arange(4), torch.zeros(4)),
            r"expected weight of shape \(4, 1, 4, 4\), got \(4,\)",
        ),
        (
            lambda: mix(torch.zeros(4, 3, 4, 4), torch.arange(5), torch.zeros(4, 1, 4, 4)),
            r"expected partner of shape \(4,\), got \(5,\)",
        ),
        (
            lambda: mix(pictures(2), torch.arange(2), torch.zeros(2, 1, 32, 32)),
            "expected pixels as floating-point numbers, got torch.uint8",
        ),
        (
            lambda: mix_targets(torch.eye(2), torch.arange(2), torch.zeros(3, 1, 4, 4)),
            r"expected weight of shape \(2, 1, 4, 4\), got \(3, 1, 4, 4\)",
        ),
        (
            lambda: mix_targets(torch.eye(2).long(), torch.arange(2), torch.zeros(2, 1, 4, 4)),
            "expected targets as floating-point numbers, got torch.int64",
        ),
        (lambda: draw_mix(4, (8, 8), mixup=0.6, cutmix=0.6), "together must be in 0..1, got 1.2"),
        (lambda: draw_mix(4, (8, 8), mixup=2.0, cutmix=0.0), "mixup must be in 0..1, got 2.0"),
    ],
)
def test_augmentation_names_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
