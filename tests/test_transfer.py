"""Transfer: the same answers after every change of clothes, and features that are never stale."""

import math
import warnings

import numpy as np
import pytest
import torch
from conftest import randomize
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close

from vit_tutorial import ImageSet, TrainConfig, VisionTransformer, ViTConfig, evaluate, fit
from vit_tutorial import transfer as module
from vit_tutorial.data import channel_stats, load_train_test
from vit_tutorial.images import normalize
from vit_tutorial.pretrained import load_vit
from vit_tutorial.transfer import (
    PatchSegmenter,
    class_ious,
    features,
    linear_probe,
    renormalised,
    with_head,
)
from vit_tutorial.weights import Card, save_checkpoint

MEAN, STD = (0.2, 0.5, 0.4), (0.3, 0.25, 0.1)


def network(pool="cls", **others):
    config = dict(img_size=(8, 12), patch_size=4, embed_dim=12, depth=2, num_heads=3, num_classes=5)
    return randomize(VisionTransformer(ViTConfig(**{**config, **others}, pool=pool)))


def pixels(count=7, size=(8, 12)):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (count, 3, *size), generator=generator, dtype=torch.uint8)


def examples(classes, count=60, width=6, seed=0):
    """Features in float64 of classes that overlap, on axes of very different scales."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    rows = centres[labels] + torch.randn(count, width, generator=generator, dtype=torch.float64)
    return rows * torch.logspace(-3, 3, width).double() + 100, labels


# ---- New heads, other normalisation --------------------------------------------------------------


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_new_head_says_nothing_and_the_body_stays(pool):
    model = network(pool).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    new = with_head(model, 3)
    assert new.training
    assert new.config.num_classes == 3
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    assert new(x).tolist() == [[0.0] * 3] * 2
    loss = nn.functional.cross_entropy(new(x), torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(math.log(3))
    assert_close(new.forward_features(x), model.forward_features(x))
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.fill_(7)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} is shared with the copy"


def test_a_probes_head_can_be_put_on():
    model, head = network(), nn.Linear(12, 4).double()
    new = with_head(model, head)
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    assert_close(new(x), head(model.forward_features(x)[:, 0]))
    assert new.config.num_classes == 4
    head.weight.data.zero_()
    assert new.head.weight.abs().max() > 0, "the head is copied"


@pytest.mark.parametrize(
    "head", [0, -1, 2.0, True, "ten", nn.Linear(11, 3), nn.Linear(12, 3, bias=False)]
)
def test_heads_that_do_not_fit_are_refused(head):
    with pytest.raises(ValueError, match=r"width 12|number of classes"):
        with_head(network(), head)


def test_another_normalisation_gives_the_same_answers():
    model, images = network(), pixels()
    new = ((0.7, 0.1, 0.3), (0.05, 0.6, 0.2))
    raw = images.double() / 255

    def as_read(mean, std):
        numbers = torch.tensor([mean, std], dtype=torch.float64)[..., None, None]
        return (raw - numbers[0]) / numbers[1]

    changed = renormalised(model, (MEAN, STD), new)
    assert_close(changed(as_read(*new)), model(as_read(MEAN, STD)))
    assert (changed(as_read(MEAN, STD)) - model(as_read(MEAN, STD))).abs().max() > 1e-3
    back = renormalised(changed, new, (MEAN, STD))
    assert_close(back.patch_embed.proj.weight, model.patch_embed.proj.weight)
    assert_close(back.patch_embed.proj.bias, model.patch_embed.proj.bias)


@pytest.mark.parametrize(
    "new", [((0.5,), (0.5,)), ((0.5,) * 3, (0.5,) * 2), ((0.5,) * 3, (0.5, 0.0, 0.5))]
)
def test_a_normalisation_of_other_channels_is_refused(new):
    with pytest.raises(ValueError, match="reads 3 channels"):
        renormalised(network(), (MEAN, STD), new)


def test_pretrained_weights_can_be_fitted_to_what_fit_normalises_itself():
    """`fit` measures its own mean and std; after one step of rate ~0 the answers are the old."""
    model = network().float()
    train = ImageSet(pixels(10), torch.arange(10) % 5, tuple("abcde"), "ten")
    own = channel_stats(train.images)
    ours = renormalised(model, (MEAN, STD), own)
    fit(ours, train, None, TrainConfig(epochs=1, batch_size=10, lr=1e-12))
    assert_close(
        ours(normalize(train.images, *own)),
        model(normalize(train.images, MEAN, STD)),
        rtol=1e-4,
        atol=1e-4,
    )


# ---- Features ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("batch_size", [3, 100])
def test_features_are_what_the_head_gets(pool, batch_size):
    model, images, got = network(pool), pixels(), []
    model.head.register_forward_pre_hook(lambda _, inputs: got.append(inputs[0]))
    model(normalize(images, MEAN, STD).double())
    found = features(model, images, MEAN, STD, batch_size=batch_size)
    assert_close(found, got[0].detach())
    assert not found.requires_grad
    found.requires_grad_().sum().backward()  # a head may be trained on it


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_patch_tokens_are_those_of_the_patches_alone(pool):
    model, images = network(pool), pixels(2)
    found = features(model, images, MEAN, STD, patches=True)
    assert found.shape == (2, 6, 12)
    assert_close(found, model.forward_features(normalize(images, MEAN, STD).double())[:, -6:])


def test_features_are_computed_in_evaluation_mode_and_the_mode_stays():
    model = network(drop_path=0.9).train()
    first = features(model, pixels(), MEAN, STD)
    assert model.training
    assert torch.equal(first, features(model, pixels(), MEAN, STD))
    with pytest.raises(ValueError, match="expected images of shape"):
        features(model, pixels(size=(8, 8)), MEAN, STD)
    assert model.training
    with pytest.raises(ValueError, match="no images"):
        features(model, pixels()[:0], MEAN, STD)


def test_what_is_kept_is_not_computed_again(tmp_path, monkeypatch):
    model, images = network(), pixels()
    first = features(model, images, MEAN, STD, cache=tmp_path / "new" / "folder")
    monkeypatch.setattr(model, "forward_features", lambda x: pytest.fail("computed again"))
    again = features(model, images, MEAN, STD, cache=tmp_path / "new" / "folder", batch_size=2)
    assert torch.equal(first, again)
    (file,) = (tmp_path / "new" / "folder").iterdir()
    assert file.suffix == ".safetensors"
    assert again.dtype == torch.float64


def test_what_was_kept_for_anything_else_is_not_taken(tmp_path):
    model, images = network(), pixels()
    one_pixel, one_weight = images.clone(), network()
    one_pixel[6, 2, 7, 11] ^= 1
    one_weight.blocks[1].mlp.fc2.bias.data[3] += 1e-9
    other_heads = network(num_heads=2)
    other_heads.load_state_dict(model.state_dict())  # the same weights, read in another way
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for settings in (
            (model, images, MEAN, STD, False),
            (model, one_pixel, MEAN, STD, False),
            (one_weight, images, MEAN, STD, False),
            (other_heads, images, MEAN, STD, False),
            (model, images, STD, STD, False),
            (model, images, MEAN, MEAN, False),
            (model, images, MEAN, STD, True),
            (model, images[:, :, :8, :].flip(0), MEAN, STD, False),
        ):
            *given, patches = settings
            expected = features(*given, patches=patches)
            assert torch.equal(features(*given, patches=patches, cache=tmp_path), expected)
    assert len(list(tmp_path.iterdir())) == 8


def test_a_damaged_file_is_computed_anew_and_repaired(tmp_path):
    model, images = network(), pixels()
    expected = features(model, images, MEAN, STD, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1  # a number, in a file whose form is right

    def of_something_else():
        save_file({"features": expected + 1}, file)

    def empty_folder_name():
        file.unlink()
        file.mkdir()

    for damage in (
        lambda: file.write_bytes(whole[:-5]),
        lambda: file.write_bytes(b""),
        lambda: file.write_bytes(b"not at all"),
        lambda: file.write_bytes(bytes(flipped)),
        of_something_else,
    ):
        damage()
        with pytest.warns(UserWarning, match=r"damaged, and computed anew"):
            assert torch.equal(features(model, images, MEAN, STD, cache=tmp_path), expected)
        assert torch.equal(load_file(file)["features"], expected)
        assert torch.equal(features(model, images, MEAN, STD, cache=tmp_path), expected)


def test_features_of_any_type_are_kept(tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = network().to(dtype)
        for _ in range(2):
            found = features(model, pixels(), MEAN, STD, cache=tmp_path)
            assert found.dtype == dtype


# ---- The probe -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_probe_is_scikit_learns_logistic_regression(classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = examples(classes)
    others, _ = examples(classes, seed=1)
    probe = linear_probe(rows, labels, strengths=[0.3])
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=5000))
    theirs.fit(rows.numpy(), labels.numpy())
    said = probe.head(others).softmax(dim=1).detach()
    assert_close(said, torch.from_numpy(theirs.predict_proba(others.numpy())))
    assert probe.strength == 0.3
    assert probe.scores == {}


def test_the_strength_is_chosen_as_by_scikit_learns_grid_search():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = examples(4, count=80)
    rows += torch.randn(80, 6, generator=torch.Generator().manual_seed(5)).double() * rows.std(0)
    strengths = [10.0, 1e-4, 0.05, 1.0]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)),
        {"logisticregression__C": sorted(strengths)},
        cv=StratifiedKFold(4, shuffle=True, random_state=0),
    ).fit(rows.numpy(), labels.numpy())
    probe = linear_probe(rows, labels, strengths=strengths, folds=4)
    assert probe.strength == search.best_params_["logisticregression__C"]
    means = [probe.scores[strength].mean().item() for strength in sorted(strengths)]
    assert means == pytest.approx(100 * search.cv_results_["mean_test_score"])
    assert list(probe.scores) == sorted(strengths)
    assert all(score.shape == (4,) for score in probe.scores.values())


def test_of_equally_good_strengths_the_one_that_binds_most_is_taken():
    rows = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    probe = linear_probe(rows, torch.tensor([0, 0, 0, 1, 1, 1]), strengths=[10, 0.1, 1])
    assert {score.mean().item() for score in probe.scores.values()} == {100.0}
    assert probe.strength == 0.1
    assert len(probe.scores[1]) == 3, "as many folds as the rarest class has examples"


def test_a_probe_does_not_care_in_which_units_features_come():
    rows, labels = examples(3)
    units = torch.logspace(4, -4, rows.shape[1]).double()
    one = linear_probe(rows, labels, strengths=[0.1])
    other = linear_probe(rows * units - 7, labels, strengths=[0.1])
    assert_close(one.head(rows), other.head(rows * units - 7), rtol=1e-4, atol=1e-4)


def test_a_feature_that_never_changes_does_no_harm_and_types_stay():
    rows, labels = examples(3)
    rows = torch.cat([rows, torch.full((60, 1), 3.0).double()], dim=1)
    probe = linear_probe(rows.float(), labels, strengths=[0.1])
    assert probe.head.weight.dtype == torch.float32
    assert probe.head(rows.float()).isfinite().all()
    assert probe.head.weight.shape == (3, 7)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f, y: (f, y[:-1]), "labels \\(n,\\)"),
        (lambda f, y: (f[:, None], y), "features \\(n, D\\)"),
        (lambda f, y: (f[:0], y[:0]), "expected features"),
        (lambda f, y: (f * math.nan, y), "NaN"),
        (lambda f, y: (f, y.float()), "integers"),
        (lambda f, y: (f, y - 1), "integers"),
        (lambda f, y: (f, y * 0), "there is only one"),
        (lambda f, y: (f, y, 2), "2 classes have labels 0 to 1, got 2"),
        (lambda f, y: (f, y, 5), "class 3, 4 has no example"),
        (lambda f, y: (f[:4], y[:4]), "1 of class 1; with strengths"),
    ],
)
def test_a_probe_says_what_it_cannot_learn_from(change, reason):
    with pytest.raises(ValueError, match=reason):
        linear_probe(*change(*examples(3)))


def test_probe_and_network_say_the_same():
    model, images = network().float(), pixels(20)
    labels = torch.arange(20) % 3
    found = features(model, images, MEAN, STD)
    probe = linear_probe(found, labels, strengths=[0.1])
    named = with_head(model, probe.head)(normalize(images, MEAN, STD)).argmax(dim=1)
    assert torch.equal(named, probe.head(found).argmax(dim=1))


# ---- Labels for pixels ---------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_logits_of_patches_are_enlarged_in_straight_lines(pool):
    model = PatchSegmenter(network(pool, img_size=(12, 20)), num_classes=2).double()
    images = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    tokens = model.encoder.forward_features(images)[:, -15:]
    coarse = model.head(tokens).mT.unflatten(2, (3, 5))
    said = model(images)
    assert said.shape == (2, 2, 12, 20)
    for image, k in np.ndindex(2, 2):  # straight lines between the middles of the patches
        table = coarse[image, k].detach().numpy()
        wide = [np.interp(np.arange(20), 4 * np.arange(5) + 1.5, row) for row in table]
        columns = np.stack(wide, axis=1)  # (20, 3)
        high = [np.interp(np.arange(12), 4 * np.arange(3) + 1.5, column) for column in columns]
        assert_close(said[image, k].detach(), torch.from_numpy(np.stack(high, axis=1)))
    assert_close(said, model.decode(tokens))


def test_a_segmenter_finds_an_object_by_its_patch_and_teaches_the_encoder():
    encoder = network(img_size=(8, 12)).float()
    model = PatchSegmenter(encoder, num_classes=2)
    images = torch.zeros(1, 3, 8, 12)
    images[:, :, 4:8, 8:12] = 3  # the last patch of the second row
    target = torch.zeros(1, 8, 12, dtype=torch.long)
    target[:, 4:8, 8:12] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert set(moved) <= {"head.weight", "head.bias"}
    assert class_ious(model(images).argmax(1), target, 2).min() > 0.6
    with pytest.raises(ValueError, match="two classes"):
        PatchSegmenter(encoder, 1)


def test_ious_are_scikit_learns():
    from sklearn.metrics import jaccard_score

    generator = torch.Generator().manual_seed(0)
    true = torch.randint(4, (3, 5, 6), generator=generator)
    predicted = torch.where(torch.rand(3, 5, 6, generator=generator) < 0.6, true, true.flip(1))
    theirs = jaccard_score(true.flatten(), predicted.flatten(), average=None)
    assert class_ious(predicted, true, 4).numpy() == pytest.approx(theirs)
    found = class_ious(predicted, true, 6)
    assert found[4:].isnan().all()
    assert found.nanmean().item() == pytest.approx(np.mean(theirs))
    alone = class_ious(torch.tensor([[[2]]]), torch.tensor([[[0]]]), 3)
    assert alone[[0, 2]].tolist() == [0, 0], "a class that is only named, or only true, has 0"
    assert alone[1].isnan()


@pytest.mark.parametrize(
    ("predicted", "true"),
    [
        (torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3).long()),
        (torch.zeros(1, 2, 2), torch.zeros(1, 2, 2).long()),
        (torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 3)),
        (torch.full((1, 2, 2), -1), torch.zeros(1, 2, 2).long()),
        (torch.zeros(0, 2, 2).long(), torch.zeros(0, 2, 2).long()),
    ],
)
def test_maps_that_cannot_be_compared_are_refused(predicted, true):
    with pytest.raises(ValueError, match=r"expected two maps|integers from 0 to 2"):
        class_ious(predicted, true, 3)


# ---- A folder of one's own -----------------------------------------------------------------------


def picture(path, mode, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 80).convert(mode).save(path)


def test_a_folder_of_all_sizes_and_modes_goes_all_the_way(tmp_path):
    modes = ("RGB", "L", "RGBA", "P", "1", "LA", "I;16")
    for split, count in (("train", 7), ("test", 2)):
        for name in ("cats", "dogs"):
            for at in range(count):
                mode = modes[at % len(modes)]
                path = tmp_path / split / name / f"{at}.png"
                if mode == "I;16":
                    Image.fromarray(np.full((30, 20), 40000, dtype=np.uint16)).save(path)
                else:
                    picture(path, mode, (13 + 5 * at, 40 - at))
    train, test = load_train_test(tmp_path, img_size=(8, 12))
    assert train.images.shape == (14, 3, 8, 12)
    model = network().float()
    found = features(model, train.images, MEAN, STD)
    probe = linear_probe(found, train.labels, strengths=[0.1])
    assert evaluate(with_head(model, probe.head), test, MEAN, STD).n == 4


def test_a_folder_of_one_class_and_one_of_many_sizes_are_a_sentence(tmp_path):
    for at in range(6):
        picture(tmp_path / "one" / "cats" / f"{at}.png", "RGB", (12, 8))
        picture(tmp_path / "sizes" / "cats" / f"{at}.png", "RGB", (12, 8 + at))
        picture(tmp_path / "sizes" / "dogs" / f"{at}.png", "RGB", (12, 8))
    with pytest.raises(ValueError, match="img_size makes them one size"):
        load_train_test(tmp_path / "sizes")
    train, test = load_train_test(tmp_path / "one")
    with pytest.raises(ValueError, match="only cats"):
        fit(with_head(network().float(), 1), train, test, TrainConfig(epochs=1, batch_size=2))
    with pytest.raises(ValueError, match="there is only one"):
        linear_probe(features(network(), train.images, MEAN, STD), train.labels)


def test_a_checkpoint_for_another_number_of_classes_is_a_sentence(tmp_path):
    model = network().float()
    test = ImageSet(pixels(6), torch.arange(6) % 3, tuple("abc"), "three kinds")
    with pytest.raises(ValueError, match="tells 5 classes apart, three kinds has 3"):
        evaluate(model, test, MEAN, STD)
    card = Card("mine", model.config, tuple("abcde"), MEAN, STD, "noise")
    save_checkpoint(model, tmp_path / "mine", card)
    text = (tmp_path / "mine.json").read_text()
    text = text.replace('"num_classes": 5', '"num_classes": 3').replace(
        '"a",\n    "b",\n    "c",\n    "d",\n    "e"', '"a",\n    "b",\n    "c"'
    )
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(ValueError, match=r"head.weight has shape \(5, 12\) instead of \(3, 12\)"):
        load_vit(str(tmp_path / "mine.safetensors"))


def test_kept_features_are_read_without_the_network(tmp_path, monkeypatch):
    """What the lesson promises: the second time costs no forward pass."""
    calls = []
    compute = module._compute
    monkeypatch.setattr(module, "_compute", lambda *rest: calls.append(1) or compute(*rest))
    for _ in range(3):
        features(network(), pixels(), MEAN, STD, cache=tmp_path)
    assert len(calls) == 1
