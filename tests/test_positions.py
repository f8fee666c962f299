"""Positions against references that share no code with them: plain math, complex numbers, timm."""

import math

import numpy as np
import pytest
import torch
from conftest import randomize, tiny_model
from timm.layers import resample_abs_pos_embed
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, ViTConfig
from vit_tutorial.positions import (
    patch_coordinates,
    position_similarity,
    resample_table,
    rope_2d,
    rotate,
    sincos_1d,
    sincos_2d,
)

pytestmark = pytest.mark.heart

SMALL = dict(img_size=(16, 24), patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5)
KINDS = ("none", "learned", "sincos", "rope")


def coordinates(*grid: int) -> torch.Tensor:
    return patch_coordinates((grid[0], grid[1])).double()


def vaswani(position: float, dim: int, base: float = 10_000.0) -> list[float]:
    """Equation by equation, from section 3.5 of the paper."""
    vector = []
    for i in range(dim // 2):
        angle = position / base ** (2 * i / dim)
        vector += [math.sin(angle), math.cos(angle)]
    return vector


# ---- coordinates ----


def test_coordinates_are_listed_row_by_row():
    expected = [[row, column] for row in range(3) for column in range(5)]
    assert patch_coordinates((3, 5)).tolist() == expected


def test_interpolated_patches_lie_where_the_same_part_of_the_picture_lay():
    """A point of the picture, as a share of its side, has the same coordinate on both grids."""
    new, old = (6, 3), (2, 4)
    for (row, column), found in zip(
        [(r, c) for r in range(6) for c in range(3)], patch_coordinates(new, old), strict=True
    ):
        share = (row + 0.5) / new[0], (column + 0.5) / new[1]
        assert_close(found.tolist(), [share[0] * old[0] - 0.5, share[1] * old[1] - 0.5])


def test_interpolated_coordinates_stay_inside_the_trained_picture():
    for new in ((1, 1), (3, 5), (50, 2)):
        found = patch_coordinates(new, trained_grid=(8, 12))
        assert found.min() >= -0.5
        assert (found < torch.tensor([7.5, 11.5])).all()


# ---- sines and cosines ----


@pytest.mark.parametrize("base", [10_000.0, 7.0])
def test_sincos_1d_is_the_formula_of_the_paper(base):
    positions = torch.tensor([0.0, 1.0, 2.5, -3.0, 40.0], dtype=torch.float64)
    expected = [vaswani(p, 10, base) for p in positions.tolist()]
    assert_close(sincos_1d(positions, 10, base), torch.tensor(expected, dtype=torch.float64))


def test_sincos_2d_holds_the_row_in_its_first_half_and_the_column_in_its_second():
    table = sincos_2d(coordinates(2, 5), dim=12)
    for token, (row, column) in enumerate((r, c) for r in range(2) for c in range(5)):
        expected = vaswani(row, 6) + vaswani(column, 6)
        assert_close(table[token], torch.tensor(expected, dtype=torch.float64))


def test_similarity_of_two_sincos_entries_depends_on_their_offset_only():
    table = sincos_2d(coordinates(4, 6), dim=16)
    similarity = (table @ table.T).unflatten(0, (4, 6)).unflatten(2, (4, 6))  # (r, c, r', c')
    assert_close(similarity[0, 0, 2, 1], similarity[1, 4, 3, 5])
    assert_close(similarity[0, 0, 2, 1], similarity[2, 1, 0, 0])


# ---- rotary positions ----


def test_rotation_is_multiplication_by_a_complex_number():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64, generator=generator)
    angles = torch.randn(6, 4, dtype=torch.float64, generator=generator) * 5
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)))
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    assert_close(rotate(x, angles), torch.view_as_real(turned).flatten(-2))


def test_rotation_keeps_the_length_of_every_vector():
    x = torch.randn(2, 15, 16, dtype=torch.float64)
    turned = rotate(x, rope_2d(coordinates(3, 5), 16))
    assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert (turned - x).abs().max() > 0.1


def test_angles_turn_the_first_half_with_the_row_and_the_second_with_the_column():
    angles = rope_2d(coordinates(3, 5), head_dim=12, base=50.0)
    for token, (row, column) in enumerate((r, c) for r in range(3) for c in range(5)):
        frequencies = [50.0 ** (-i / 3) for i in range(3)]
        expected = [row * f for f in frequencies] + [column * f for f in frequencies]
        assert_close(angles[token], torch.tensor(expected, dtype=torch.float64))


def test_rotated_scores_are_those_of_the_offset_alone():
    """The oracle: Re(q conj(k) e^(i (angle of q - angle of k))), summed over pairs."""
    q, k = torch.randn(2, 8, dtype=torch.float64)
    as_complex = [torch.view_as_complex(v.view(4, 2)) for v in (q, k)]
    place = coordinates(4, 5)
    angles = rope_2d(place, 8)
    scores = rotate(q.expand(20, 8), angles) @ rotate(k.expand(20, 8), angles).T
    for i in range(20):
        for j in range(20):
            offset = rope_2d((place[i] - place[j])[None], 8)[0]
            turn = torch.polar(torch.ones_like(offset), offset)
            assert_close(scores[i, j], (as_complex[0] * as_complex[1].conj() * turn).real.sum())


def test_rotation_keeps_the_type_of_the_tokens():
    angles = rope_2d(patch_coordinates((2, 2)), 8)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert rotate(torch.ones(4, 8, dtype=dtype), angles).dtype == dtype


# ---- resampled tables ----


@pytest.mark.parametrize("num_prefix", [0, 1, 2])
@pytest.mark.parametrize("new", [(9, 5), (2, 7), (1, 1), (6, 4)])
def test_resampled_table_is_timms(new, num_prefix):
    table = torch.randn(1, num_prefix + 4 * 6, 5, dtype=torch.float64)
    theirs = resample_abs_pos_embed(
        table.float(), list(new), old_size=[4, 6], num_prefix_tokens=num_prefix
    )
    ours = resample_table(table, (4, 6), new, num_prefix)
    assert ours.dtype == torch.float64
    assert_close(ours.float(), theirs)
    assert_close(ours[:, :num_prefix], table[:, :num_prefix], rtol=0, atol=0)


def test_a_table_that_rises_with_the_column_still_does_so_on_another_grid():
    rising = torch.arange(6.0).expand(4, 6).reshape(1, 24, 1)
    stretched = resample_table(rising, (4, 6), (3, 12)).reshape(3, 12)
    assert (stretched.diff(dim=1) > 0).all()
    assert_close(stretched[0], stretched[2])


def test_the_same_grid_gives_an_equal_table_in_memory_of_its_own():
    table = torch.randn(1, 7, 4)
    copy = resample_table(table, (2, 3), (2, 3), num_prefix=1)
    assert_close(copy, table, rtol=0, atol=0)
    assert copy.data_ptr() != table.data_ptr()


def test_a_half_precision_table_is_resampled_as_if_it_were_float32():
    table = torch.randn(1, 24, 4).half()
    expected = resample_table(table.float(), (4, 6), (5, 5)).half()
    assert_close(resample_table(table, (4, 6), (5, 5)), expected)


# ---- bad input ----


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: sincos_1d(torch.zeros(2), 5), "dim must be even .* got 5"),
        (lambda: sincos_2d(torch.zeros(4, 2), 6), "multiple of 4 .* got 6"),
        (lambda: rope_2d(torch.zeros(4, 2), 6), "multiple of 4 .* got 6"),
        (lambda: resample_table(torch.zeros(1, 6, 4), (2, 3), (4, 4), 1), r"\(1, 7, D\), got"),
        (lambda: resample_table(torch.zeros(6, 4), (2, 3), (4, 4)), r"got \(6, 4\)"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


# ---- in the network ----


def pictures(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.float64)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", KINDS)
def test_a_model_resized_to_its_own_size_is_the_same(pos_embed, pool):
    model = randomize(VisionTransformer(ViTConfig(**SMALL, pos_embed=pos_embed, pool=pool)))
    images = pictures(16, 24)
    assert_close(model.resized((16, 24))(images), model(images), rtol=0, atol=0)


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("pos_embed", KINDS)
def test_a_resized_model_reads_the_new_size_and_shares_nothing_with_the_old(pos_embed, pool):
    model = randomize(VisionTransformer(ViTConfig(**SMALL, pos_embed=pos_embed, pool=pool)))
    images = pictures(16, 24)
    before = model(images)
    larger = model.resized((40, 16))
    logits = larger(pictures(40, 16))
    assert logits.dtype == torch.float64
    assert logits.isfinite().all()
    assert larger.config.grid == (5, 2)
    assert not larger.training
    assert all(parameter.requires_grad for parameter in larger.parameters())
    model.blocks.requires_grad_(False)
    frozen = {name for name, p in model.resized((40, 16)).named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith("blocks")}
    with torch.no_grad():
        for parameter in larger.parameters():
            parameter.zero_()
    assert_close(model(images), before, rtol=0, atol=0)


@pytest.mark.parametrize("pos_embed", ["sincos", "rope"])
def test_computed_positions_resized_twice_are_those_resized_once(pos_embed):
    model = randomize(VisionTransformer(ViTConfig(**SMALL, pos_embed=pos_embed)))
    images = pictures(40, 32)
    twice = model.resized((80, 8)).resized((40, 32))
    assert_close(twice(images), model.resized((40, 32))(images), rtol=0, atol=0)
    back = twice.resized((16, 24))
    assert_close(back(images[:, :, :16, :24]), model(images[:, :, :16, :24]), rtol=0, atol=0)


def test_a_resized_model_holds_positions_of_the_trained_range():
    """Twice the patches: sin-cos entries lie between those that were trained, CLS keeps its own."""
    config = ViTConfig(**SMALL, pos_embed="sincos")
    larger = VisionTransformer(config).resized((32, 48))
    rows = (torch.arange(4) + 0.5) / 2 - 0.5
    columns = (torch.arange(6) + 0.5) / 2 - 0.5
    expected = sincos_2d(torch.cartesian_prod(rows, columns), 24)
    assert_close(larger.pos_embed[0, 1:], expected)
    assert_close(larger.pos_embed[0, 0], torch.zeros(24))


def test_a_learned_table_in_the_model_is_resampled_with_its_cls_entry_kept():
    model = randomize(VisionTransformer(ViTConfig(**SMALL)))
    expected = resample_abs_pos_embed(
        model.pos_embed.float(), [4, 2], old_size=[2, 3], num_prefix_tokens=1
    )
    assert_close(model.resized((32, 16)).pos_embed.float(), expected)


def test_a_half_precision_model_can_be_resized():
    model = VisionTransformer(ViTConfig(**SMALL)).half()
    assert model.resized((32, 48))(torch.zeros(1, 3, 32, 48).half()).isfinite().all()


def test_a_size_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="img_size 20 is no multiple of patch_size 8"):
        VisionTransformer(ViTConfig(**SMALL)).resized((16, 20))


@pytest.mark.parametrize(("old", "new"), [((4, 1), (6, 1)), ((4, 2), (6, 1)), ((6, 4), (1, 1))])
def test_one_column_is_resampled_as_the_same_row_is(old, new):
    table = torch.randn(1, old[0] * old[1], 5, dtype=torch.float64)
    turned = table.unflatten(1, old).transpose(1, 2).flatten(1, 2)
    column = resample_table(table, old, new)
    row = resample_table(turned, old[::-1], new[::-1])
    torch.testing.assert_close(column, row)
    flat = resample_table(torch.ones_like(table), old, new)
    torch.testing.assert_close(flat, torch.ones_like(flat))
    channels = [resample_table(table[..., [i]], old, new) for i in range(5)]  # one by one
    torch.testing.assert_close(column, torch.cat(channels, dim=2))


# ---- position similarity ----


def test_similarity_of_positions_is_the_cosine_of_their_angle():
    """Against angles in NumPy, in float64, one pair at a time."""
    rows = np.random.default_rng(0).normal(size=(7, 5)) * [[0.01], [3], [1], [100], [1], [5], [2]]
    came = position_similarity(torch.from_numpy(rows), num_prefix=2)
    for i in range(5):
        for j in range(5):
            a, b = rows[i + 2], rows[j + 2]
            angle = 2 * np.arctan2(
                np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)),
                np.linalg.norm(a / np.linalg.norm(a) + b / np.linalg.norm(b)),
            )
            np.testing.assert_allclose(came[i, j].item(), np.cos(angle), atol=1e-12)


def test_similarity_takes_a_models_table_as_it_is():
    model = tiny_model()
    with_batch = position_similarity(model.pos_embed, num_prefix=1)
    assert with_batch.shape == (6, 6)
    assert not with_batch.requires_grad
    assert_close(with_batch, position_similarity(model.pos_embed[0], num_prefix=1))
    assert_close(with_batch.diag(), torch.ones(6, dtype=torch.float64))
    assert position_similarity(torch.randn(3, 4).half()).dtype == torch.float32


def test_sincos_positions_are_alike_by_their_offset_alone():
    """Sums of cosines of differences; a shuffled table has no neighbours left."""
    places = patch_coordinates((5, 7))
    table = sincos_2d(places, dim=32).double()
    similarity = position_similarity(table)
    assert_close(similarity, similarity.mT)
    offsets = places[:, None] - places  # (N, N, 2)
    for down, right in ((0, 1), (1, 0), (2, -3), (4, 6)):
        same = similarity[(offsets == torch.tensor([down, right])).all(dim=-1)]
        assert len(same) == (5 - down) * (7 - abs(right))
        assert_close(same, same[:1].expand_as(same), atol=1e-6, rtol=0)
    beside = offsets.abs().sum(dim=-1) == 1
    apart = offsets.abs().sum(dim=-1) > 3
    shuffled = position_similarity(table[torch.randperm(35)])
    assert similarity[beside].mean() - similarity[apart].mean() > 0.15
    assert abs(shuffled[beside].mean() - shuffled[apart].mean()) < 0.05


def test_a_position_of_zeros_is_like_nothing():
    assert position_similarity(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("shape", "prefix"), [((5,), 0), ((2, 5, 3), 0), ((5, 3), 5), ((5, 3), -1)]
)
def test_a_table_that_is_none_is_refused(shape, prefix):
    with pytest.raises(ValueError, match=r"expected a table \(T, D\) or \(1, T, D\)"):
        position_similarity(torch.zeros(shape), num_prefix=prefix)
