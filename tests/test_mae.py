"""The masked autoencoder: against a slow loop, and what may not matter does not."""

import json
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from conftest import randomize
from torch.testing import assert_close

from vit_tutorial.augment import draw_order
from vit_tutorial.mae import (
    Decoder,
    MAEConfig,
    MaskedAutoencoder,
    hidden_patches,
    pixel_targets,
    reconstruction,
    take,
)
from vit_tutorial.model import ViTConfig
from vit_tutorial.transfer import with_head

VIT = ViTConfig(
    img_size=(8, 12), patch_size=4, in_chans=2, num_classes=3, embed_dim=16, depth=2, num_heads=2
)
SMALL = MAEConfig(VIT, decoder_dim=8, decoder_depth=2, decoder_heads=2, mask_ratio=0.5)
VARIANTS = [
    replace(SMALL, encoder=replace(VIT, pos_embed=positions, pool=pool), norm_pixels=norm)
    for positions, pool, norm in (
        ("learned", "cls", False),
        ("sincos", "mean", True),
        ("learned", "mean", True),
        ("sincos", "cls", False),
    )
]
every_variant = pytest.mark.parametrize(
    "config", VARIANTS, ids=lambda c: f"{c.encoder.pos_embed}-{c.encoder.pool}-{c.norm_pixels}"
)


def network(config: MAEConfig = SMALL) -> MaskedAutoencoder:
    return randomize(MaskedAutoencoder(config))


def pictures(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 2, 8, 12, dtype=torch.float64)


def cut(image: torch.Tensor) -> list[torch.Tensor]:
    """The six patches of one image, channel by channel, in reading order."""
    return [image[:, r : r + 4, c : c + 4].flatten() for r in (0, 4) for c in (0, 4, 8)]


def slow_predictions(mae: MaskedAutoencoder, image: torch.Tensor, shown: list[int]) -> list:
    """Patch by patch, with nothing shuffled: the blocks see the visible tokens in reading order."""
    vit, decoder = mae.encoder, mae.decoder
    shown = sorted(shown)
    kernel = vit.patch_embed.proj.weight.flatten(1)
    has_cls = vit.config.pool == "cls"
    tokens = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]] if has_cls else []
    for number in shown:
        token = kernel @ cut(image)[number] + vit.patch_embed.proj.bias
        tokens.append(token + vit.pos_embed[0, number + has_cls])
    x = torch.stack(tokens)[None]
    for block in vit.blocks:
        x = block(x)
    encoded = list(F.linear(vit.norm(x), decoder.embed.weight, decoder.embed.bias)[0])
    full = [encoded.pop(0)] if has_cls else []
    for number in range(6):
        token = encoded[shown.index(number)] if number in shown else decoder.mask_token
        full.append(token + decoder.positions[number].double())
    x = torch.stack(full)[None]
    for block in decoder.blocks:
        x = block(x)
    return [decoder.to_pixels(decoder.norm(token)) for token in x[0, has_cls:]]


@every_variant
def test_loss_and_predictions_are_those_of_a_slow_loop(config):
    mae, images = network(config), pictures()
    order = draw_order(3, 6)
    found = mae.predict(images, order, 3)
    errors = []
    for at, image in enumerate(images):
        shown = order[at, :3].tolist()
        predicted = slow_predictions(mae, image, shown)
        assert_close(found[at], torch.stack(predicted))
        for number in set(range(6)) - set(shown):
            wanted = cut(image)[number]
            if config.norm_pixels:
                spread = wanted.var(correction=0) + 1e-6
                wanted = (wanted - wanted.mean()) / spread.sqrt()
            errors.append((predicted[number] - wanted).square().mean())
    assert_close(mae(images, order), torch.stack(errors).mean())


@every_variant
def test_with_all_patches_visible_it_is_the_plain_network(config):
    mae, images = network(config), pictures()
    in_order = torch.arange(6).expand(3, -1)
    expected = mae.encoder.forward_features(images)
    assert_close(mae.encode(images, in_order), expected)
    order, prefix = draw_order(3, 6), config.encoder.num_prefix
    shuffled = mae.encode(images, order)
    assert_close(shuffled[:, :prefix], expected[:, :prefix])
    assert_close(take(shuffled[:, prefix:], order.argsort(dim=1)), expected[:, prefix:])


def test_the_order_of_the_visible_and_of_the_hidden_patches_does_not_matter():
    mae, images = network(), pictures(2)
    order = torch.tensor([[4, 0, 3, 1, 2, 5], [1, 5, 0, 2, 4, 3]])
    other = torch.tensor([[0, 3, 4, 5, 1, 2], [5, 0, 1, 3, 4, 2]])
    assert_close(mae.predict(images, order, 3), mae.predict(images, other, 3))
    assert_close(mae(images, order), mae(images, other))


def test_what_is_hidden_is_not_seen():
    mae, images = network(), pictures(1)
    order = torch.tensor([[0, 2, 4, 1, 3, 5]])
    changed = images.clone()
    changed[:, :, 0:4, 4:8] += 100  # patch 1
    assert torch.equal(mae.predict(images, order, 3), mae.predict(changed, order, 3))
    assert mae(images, order) != mae(changed, order), "but it is asked for"
    changed = images.clone()
    changed[:, :, 0:4, 0:4] += 100  # patch 0
    assert not torch.allclose(mae.predict(images, order, 3), mae.predict(changed, order, 3))


def test_each_image_has_its_own_mask_and_is_treated_alone():
    mae, images = network(), pictures()
    order = draw_order(3, 6)
    together = mae.predict(images, order, 2)
    for at in range(3):
        assert_close(together[at], mae.predict(images[at : at + 1], order[at : at + 1], 2)[0])


def test_only_hidden_patches_are_in_the_loss():
    mae, images = network(), pictures(1)
    order = torch.tensor([[0, 2, 4, 1, 3, 5]])
    predicted = mae.predict(images, order, 3).detach().requires_grad_()
    mae.predict = lambda *_: predicted
    mae(images, order).backward()
    touched = predicted.grad.abs().sum(dim=-1)[0] > 0
    assert touched.tolist() == [False, True, False, True, False, True]


def test_the_masks_are_drawn_anew_and_evenly():
    torch.manual_seed(1)
    order = draw_order(4000, 6)
    assert torch.equal(order.sort(dim=1).values, torch.arange(6).expand(4000, -1))
    hidden = hidden_patches(order, 2)
    assert (hidden.sum(dim=1) == 4).all()
    assert (hidden.double().mean(dim=0) - 4 / 6).abs().max() < 0.04
    both = (hidden[:, 0] & hidden[:, 1]).double().mean()
    assert abs(both - 4 / 6 * 3 / 5) < 0.04, "as often as chance has both"
    mae, images = network(), pictures()
    assert mae(images) != mae(images)
    torch.manual_seed(3)
    first = mae(images)
    torch.manual_seed(3)
    assert torch.equal(mae(images), first)


def test_hidden_patches_stand_where_they_are_in_the_image():
    hidden = hidden_patches(torch.tensor([[2, 0, 3, 1], [1, 3, 0, 2]]), 2)
    assert hidden.tolist() == [[False, True, False, True], [True, False, True, False]]


@every_variant
def test_a_gradient_reaches_every_parameter_but_the_classifiers_head(config):
    mae = network(config).train()
    mae(pictures()).backward()
    silent = {n for n, p in mae.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == {"encoder.head.weight", "encoder.head.bias"}
    assert not mae.encoder.head.weight.requires_grad, "or several processes would wait for it"


def test_normalised_targets_are_free_of_brightness_and_contrast():
    images = torch.rand(2, 2, 8, 12, dtype=torch.float64)
    plain, same = pixel_targets(images, 4, True), pixel_targets(0.2 * images + 3, 4, True)
    assert_close(plain, same, rtol=1e-3, atol=1e-3)
    assert_close(plain.mean(dim=-1), torch.zeros(2, 6, dtype=torch.float64))
    assert torch.equal(pixel_targets(images, 4, False)[1, 4], cut(images[1])[4])
    assert pixel_targets(torch.ones(1, 2, 8, 12), 4, True).abs().max() == 0, "no contrast at all"


@every_variant
def test_a_reconstruction_keeps_what_is_visible_and_fills_the_rest(config):
    mae, images = network(config), pictures(1)
    order = torch.tensor([[4, 0, 3, 1, 2, 5]])
    filled = mae.reconstruct(images, order, 3)
    assert filled.shape == images.shape
    assert not filled.requires_grad
    expected = mae.predict(images, order, 3)[0]
    for number, (now, before) in enumerate(zip(cut(filled[0]), cut(images[0]), strict=True)):
        if number in (4, 0, 3):
            assert torch.equal(now, before)
        elif config.norm_pixels:
            deviation = (before.var(correction=0) + 1e-6).sqrt()
            assert_close(now, expected[number] * deviation + before.mean())
        else:
            assert_close(now, expected[number])


def test_a_reconstruction_may_show_more_or_less_than_the_training():
    mae, images = network(), pictures(2)
    order = draw_order(2, 6)
    assert torch.equal(mae.reconstruct(images, order, 6), images)
    assert not torch.equal(mae.reconstruct(images, order, 1), images)


@every_variant
def test_the_encoder_becomes_a_classifier(config):
    mae, images = network(config), pictures()
    model = with_head(mae.encoder, 7)
    assert model(images).shape == (3, 7)
    assert_close(model.forward_features(images), mae.encoder.forward_features(images))
    assert all(p.requires_grad for p in model.parameters())
    model.patch_embed.proj.weight.data.zero_()
    assert mae.encoder.patch_embed.proj.weight.any(), "a copy"


def test_muon_finds_the_matrices_of_both_parts():
    mae = network()
    matrices = {id(p) for p in mae.blocks.parameters() if p.ndim == 2}
    inside = [n for n, p in mae.named_parameters() if id(p) in matrices]
    assert len(inside) == 4 * 4
    assert {name.split(".")[0] for name in inside} == {"encoder", "decoder"}


def test_it_learns_what_the_rest_of_a_picture_says():
    """Stripes: whoever sees one patch of a row knows the others."""
    torch.manual_seed(0)
    mae = MaskedAutoencoder(replace(SMALL, mask_ratio=0.34))
    optimizer = torch.optim.AdamW(mae.parameters(), lr=5e-3)
    losses = []
    for _ in range(400):
        rows = torch.randn(32, 1, 2, 1).sign().repeat_interleave(4, dim=2)
        loss = reconstruction(mae, rows.expand(-1, 2, -1, 12), torch.zeros(32))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.7
    assert sum(losses[-20:]) / 20 < 0.05


def test_the_objective_does_not_look_at_the_labels():
    mae, images = network(), pictures()
    losses = []
    for labels in (torch.zeros(3), torch.tensor([2, 0, 1])):
        torch.manual_seed(0)
        losses.append(reconstruction(mae, images, labels))
    assert torch.equal(*losses)


def test_the_number_of_visible_patches_leaves_at_least_one_on_each_side():
    for ratio, visible in ((0.75, 16), (0.5, 32), (0.001, 63), (0.999, 1), (0.9, 6)):
        assert MAEConfig(ViTConfig(), mask_ratio=ratio).num_visible == visible


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder": ViTConfig(pos_embed="rope")}, "left out; got 'rope'"),
        ({"encoder": ViTConfig(pos_embed="none")}, "got 'none'"),
        ({"encoder": ViTConfig(img_size=4)}, "one patch cannot be both"),
        ({"decoder_dim": 0}, "decoder_dim must be a positive integer, got 0"),
        ({"decoder_depth": 1.5}, "decoder_depth must be a positive integer, got 1.5"),
        ({"decoder_heads": True}, "decoder_heads must be a positive integer, got True"),
        ({"decoder_dim": 10, "decoder_heads": 2}, "multiple of 4 .* got 10 and 2 heads"),
        ({"decoder_dim": 64, "decoder_heads": 3}, "got 64 and 3 heads"),
        ({"mask_ratio": 0.0}, "mask_ratio must be between 0 and 1, got 0.0"),
        ({"mask_ratio": 1.0}, "got 1.0"),
    ],
)
def test_a_config_that_cannot_work_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        MAEConfig(**change)


def test_an_order_that_does_not_fit_is_refused():
    mae, images = network(), pictures()
    with pytest.raises(ValueError, match=r"need an order \(3, 6\) .* got \(2, 6\) and 3"):
        mae.predict(images, draw_order(2, 6), 3)
    with pytest.raises(ValueError, match=r"1 to 6 visible patches, got \(3, 6\) and 0"):
        mae.predict(images, draw_order(3, 6), 0)
    with pytest.raises(ValueError, match=r"expected images of shape"):
        mae.predict(images[..., :8], draw_order(3, 6), 2)


def test_a_config_survives_json_and_knows_what_a_card_asks_for():
    again = MAEConfig(**json.loads(json.dumps(asdict(SMALL))))
    assert again == SMALL
    assert isinstance(again.encoder.img_size, tuple)
    assert (again.in_chans, again.num_classes) == (2, 3)


def test_positions_of_the_decoder_are_made_and_not_stored():
    decoder = Decoder(SMALL)
    assert "positions" not in decoder.state_dict()
    assert len(decoder.positions.unique(dim=0)) == 6
