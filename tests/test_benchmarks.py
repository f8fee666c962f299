"""The benchmarks that train: what they change, keep and skip; and the tables made from results."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from conftest import stored
from test_train import stripes

from vit_tutorial import ImageSet, VisionTransformer, ViTConfig, load_checkpoint
from vit_tutorial.recipes import RECIPES, Recipe, TrainConfig

accuracy: ModuleType = importlib.import_module("accuracy")
ablation: ModuleType = importlib.import_module("ablation")
train_step: ModuleType = importlib.import_module("train_step")
vit_and_cnn: ModuleType = importlib.import_module("vit_and_cnn")
compress: ModuleType = importlib.import_module("compress")
build: ModuleType = importlib.import_module("build")

SMALL = Recipe(
    ViTConfig(
        img_size=8, patch_size=4, in_chans=1, num_classes=2, embed_dim=8, depth=1, num_heads=2
    ),
    TrainConfig(epochs=1, batch_size=16, lr=1e-2),
    about="",
)


@pytest.fixture
def root(results_root, monkeypatch):
    """Results and runs land in an empty folder; the data are stripes, the recipe is a small one."""
    monkeypatch.setattr(accuracy, "load_train_test", lambda *_, **__: (stripes(), stripes(20)))
    monkeypatch.setitem(RECIPES, "small", SMALL)
    return results_root


@pytest.fixture
def trained(monkeypatch):
    """The configs that were trained, in order."""
    seen = []
    fit = accuracy.fit

    def noted(model, train, test, config, **options):
        seen.append((model.config, config, len(train), len(test)))
        return fit(model, train, test, config, **options)

    monkeypatch.setattr(accuracy, "fit", noted)
    return seen


# ---- settings ----


def test_settings_have_the_kind_of_their_field():
    found = accuracy.parse_settings(["lr=0.003", "depth=6", "flip=true", "pool=mean", "ema=0"])
    assert found == {"lr": 0.003, "depth": 6, "flip": True, "pool": "mean", "ema": 0.0}
    assert {name: type(value) for name, value in found.items()} == {
        "lr": float,
        "depth": int,
        "flip": bool,
        "pool": str,
        "ema": float,
    }
    changed = accuracy.with_settings(SMALL, found)
    assert changed.model == replace(SMALL.model, depth=6, pool="mean")
    assert changed.train == replace(SMALL.train, lr=0.003, flip=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["lr"], "--set expects NAME=VALUE, got 'lr'"),
        (["speed=9"], r"--set knows no 'speed'; it knows attention, .*, weight_decay"),
        (["seed=3"], "--set knows no 'seed'"),
        (["num_classes=3"], "--set knows no 'num_classes'"),
        (["depth=6.5"], "--set depth must be an integer, got '6.5'"),
        (["lr=fast"], "--set lr must be a number, got 'fast'"),
        (["flip=yes"], "--set flip must be true or false, got 'yes'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_setting_is_explained(settings, said):
    with pytest.raises(ValueError, match=said):
        accuracy.parse_settings(settings)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["large"], "the recipes are smoke, .*, got 'large'"),
        (["small", "--seeds", "0"], "--seeds must be 1 or more, got 0"),
        (["small", "--set", "lr=-1"], "lr must be positive, got -1"),
    ],
    ids=["recipe", "seeds", "value"],
)
def test_bad_input_is_one_sentence(root, capsys, words, said):
    assert accuracy.main([*words, "--data", "x"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert len(error.splitlines()) == 1
    assert re.match(said, error)


# ---- accuracy ----


def test_what_is_measured_has_a_name_of_its_own():
    base = accuracy.Experiment(SMALL, stripes(), stripes(20))
    same = replace(base, recipe=replace(SMALL, train=replace(SMALL.train, seed=7), about="else"))
    others = [
        replace(base, recipe=accuracy.with_settings(SMALL, {name: value}))
        for name, value in (("lr", 0.5), ("epochs", 2), ("pool", "mean"), ("drop_path", 0.1))
    ]
    others += [replace(base, train=stripes(32)), replace(base, test=stripes(10))]
    others += [replace(base, train=replace(stripes(), name="dots")), replace(base, minutes=1.0)]
    assert same.key == base.key
    assert len({base.key, *(other.key for other in others)}) == 1 + len(others)


def test_the_row_is_that_of_the_last_epochs(root):
    """Against the same two trainings made by hand; no run is left on disk."""
    command = ["small", "--data", "some/stripes", "--seeds", "2", "--epochs", "3"]
    torch.manual_seed(3)  # the stripes are drawn when they are loaded
    assert accuracy.main(command) == 0
    result = stored(root, "accuracy_small")
    (row,) = result["rows"]

    torch.manual_seed(3)
    train, test = stripes(), stripes(20)
    accuracies = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = VisionTransformer(SMALL.model)
        rows = accuracy.fit(model, train, test, replace(SMALL.train, epochs=3, seed=seed))
        accuracies.append(rows[-1]["test_accuracy"])
    assert row["test_accuracies"] == pytest.approx(accuracies, abs=0.005)
    assert row["test_accuracy_mean"] == pytest.approx(sum(accuracies) / 2, abs=0.01)
    spread = abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert row["test_accuracy_std"] == pytest.approx(spread, abs=0.01)
    assert (row["recipe"], row["seeds"], row["epochs"]) == ("small", [0, 1], 3)
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    each = sum(row["seconds_each"]) / 2
    assert row["images_per_second"] == pytest.approx(3 * 64 / each, rel=0.3)
    assert result["data"] == "stripes"
    assert "some/" not in result["command"]
    assert result["command"].startswith(".venv/bin/python benchmarks/accuracy.py small ")
    assert not list(root.rglob("*.state"))


def test_the_last_epoch_counts_and_not_the_best(root, monkeypatch):
    rows = [
        {"test_accuracy": a, "seconds": s} for a, s in ((60.0, 5.0), (99.0, 9.0), (71.25, 12.5))
    ]
    monkeypatch.setattr(accuracy, "fit", lambda *_, **__: rows)
    assert accuracy.main(["small", "--data", "stripes"]) == 0
    (row,) = stored(root, "accuracy_small")["rows"]
    assert (row["test_accuracy_mean"], row["test_accuracy_std"]) == (71.25, None)
    assert row["seconds"] == 12.5


def test_seeds_that_are_there_are_kept_unless_something_else_is_measured(root, trained):
    command = ["small", "--data", "stripes", "--seeds"]
    torch.manual_seed(3)
    accuracy.main([*command, "1"])
    accuracy.main([*command, "3"])
    assert [config.seed for _, config, *_ in trained] == [0, 1, 2]
    before = stored(root, "accuracy_small")
    accuracy.main([*command, "2"])
    assert stored(root, "accuracy_small") == before
    assert before["rows"][0]["seeds"] == [0, 1, 2]
    accuracy.main([*command, "1", "--epochs", "2"])
    assert stored(root, "accuracy_small")["rows"][0]["seeds"] == [0]


def test_a_stopped_run_goes_on_where_it_was(root, trained, monkeypatch, capsys):
    """Stopped after the second of three epochs: the third alone is trained, with the same end."""
    command = ["small", "--data", "stripes", "--minutes", "5"]
    monkeypatch.setattr(accuracy, "epochs_within", lambda *_: 3)
    assert accuracy.main([*command, "--name", "whole"]) == 0
    whole = stored(root, "accuracy_whole")["rows"][0]

    fit = accuracy.fit

    def stopped(*args, **options):
        def stop(row):
            epochs.append(row["epoch"])
            if len(epochs) == 2:
                raise KeyboardInterrupt

        return fit(*args, **options, on_epoch=stop)

    epochs: list[int] = []
    monkeypatch.setattr(accuracy, "fit", stopped)
    monkeypatch.setattr("vit_tutorial.train.SAVE_EVERY", 0.0)
    assert accuracy.main(command) == 130
    assert "same command" in capsys.readouterr().err
    assert len(list(root.rglob("*.state"))) == 1
    monkeypatch.setattr(accuracy, "epochs_within", lambda *_: 99)  # must not be asked again
    assert accuracy.main(command) == 0
    assert epochs == [1, 2, 2, 3]  # the stop came before the second epoch was saved
    again = stored(root, "accuracy_small")["rows"][0]
    assert (again["epochs"], again["test_accuracies"]) == (3, whole["test_accuracies"])


def test_a_sweep_leaves_the_test_set_and_the_results_alone(root, trained, capsys):
    command = ["small", "--data", "stripes", "--split", "validation", "--set", "lr=0.003"]
    assert accuracy.main(command) == 0
    _, config, in_train, in_test = trained[0]
    assert (in_train, in_test, config.lr) == (57, 7, 0.003)  # a tenth of 64
    printed = json.loads(capsys.readouterr().out)
    assert printed["recipe"] == "small, lr=0.003"
    assert printed["split"] == "validation"
    assert not (root / "benchmarks/results").exists()
    assert accuracy.main([*command, "--name", "lower"]) == 0
    assert stored(root, "accuracy_lower")["rows"][0]["split"] == "validation"


# ---- ablation ----


@pytest.mark.parametrize("name", ["digits", "laptop", "overnight", "classroom", "flagship"])
def test_every_change_is_one_thing_and_really_one(name):
    recipe = RECIPES[name]
    listed = ablation.changes(recipe)
    assert listed[0].settings == {}
    assert len({change.name for change in listed}) == len(listed)
    for change in listed[1:]:
        changed = accuracy.with_settings(recipe, change.settings)
        assert changed != recipe, change.name
        before, after = ({**vars(r.train), **vars(r.model)} for r in (recipe, changed))
        assert {k for k in before if before[k] != after[k]} <= set(change.settings)
        VisionTransformer(changed.model)
    names = [change.name for change in listed]
    assert ("without crop and flip" in names) == (name != "digits")
    assert ("with TrivialAugment" in names) == (name in ("digits", "laptop"))


def test_the_ablation_skips_what_is_done_and_says_what_was_not_measured(root, trained):
    command = ["--recipe", "small", "--data", "digits", "--seeds", "1"]
    torch.manual_seed(3)
    assert ablation.main(command) == 0
    rows = stored(root, "ablation_digits")["rows"]
    done = [row["change"] for row in rows if row["measured"]]
    assert done == [
        "the recipe",
        "with crop and flip",
        "with dropped patches",
        "with Muon",
        "positions: none",
        "positions: sincos",
        "positions: rope",
        "pooling: mean",
        "patch size: 8",
    ]
    assert len(trained) == len(done)
    assert {model.pos_embed for model, *_ in trained} == {"none", "learned", "sincos", "rope"}
    assert "without label smoothing" in [r["change"] for r in rows if not r["measured"]]
    for row in rows:
        if row["measured"]:
            gap = row["test_accuracy_mean"] - rows[0]["test_accuracy_mean"]
            assert row["difference"] == pytest.approx(gap, abs=0.005)

    assert ablation.main(command) == 0
    assert len(trained) == len(done)
    path = root / "benchmarks/results/ablation_digits.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    lost = next(row for row in result["rows"] if row["change"] == "pooling: mean")
    for field in [name for name in lost if name not in ("recipe", "change", "settings")]:
        del lost[field]
    lost["measured"] = False
    path.write_text(json.dumps(result), encoding="utf-8")  # as if it had been stopped before
    assert ablation.main([*command, "--all"]) == 0
    assert all(row["measured"] for row in stored(root, "ablation_digits")["rows"])
    again = [(model, config) for model, config, *_ in trained[len(done) :]]
    assert len(again) == len(rows) - len(done) + 1
    assert sum(model.pool == "mean" for model, _ in again) == 1


# ---- ViT and CNN ----


CHOICES = ({"optimizer": "adamw", "lr": 1e9}, {"optimizer": "muon", "lr": 1e-3})


@pytest.fixture
def small_pair(root, monkeypatch):
    """Two small networks, few steps, few questions; what `fit` trained, in order."""
    sets = stripes(200), stripes(40)
    monkeypatch.setattr(vit_and_cnn, "load_train_test", lambda *_, **__: sets)
    networks = {
        "vit": SMALL.model,
        "resnet": vit_and_cnn.ResNetConfig(1, width=4, stages=2, in_chans=1, num_classes=2),
    }
    monkeypatch.setattr(vit_and_cnn, "NETWORKS", networks)
    training = TrainConfig(epochs=1, label_smoothing=0.0)
    small = {"STEPS": {0.1: 4, 1.0: 6}, "CHOICES": CHOICES, "CHOICE_STEPS": 4, "SIZES": (12,),
             "SHIFTS": (1, 2), "OCCLUDED": (0.5,), "PIECES": (4,), "SIGMAS": (1.0,),
             "TRAINING": training}  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(vit_and_cnn, name, value)
    trained = []
    fit = vit_and_cnn.fit

    def noted(model, train, test, config, **options):
        chosen = (config.optimizer, config.lr)
        trained.append((type(model).__name__, len(train), chosen, config.seed))
        assert test is None, "the test set has no say"
        return fit(model, train, test, config, **options)

    monkeypatch.setattr(vit_and_cnn, "fit", noted)
    return trained


def test_both_networks_are_trained_alike_and_asked_the_same(root, small_pair, capsys):
    command = ["--data", "some/stripes", "--seeds", "2"]
    assert vit_and_cnn.main(command) == 0
    result = stored(root, "vit_and_cnn")
    assert "some/" not in result["command"]
    rows = {row["what"]: row for row in result["rows"]}
    assert list(rows) == [
        "10%", "100%", "shuffled 4×4", "shifted 1", "shifted 2", "occluded 50%", "size 12",
        "hybrid 1",
    ]  # fmt: skip
    assert (rows["10%"]["images"], rows["100%"]["images"]) == (20, 200)
    for row in result["rows"]:
        number = {"images": "", "hybrid": "_share"}.get(row["part"], "_kept")
        ours, theirs = (row[f"{name}{number}_each"] for name in ("vit", "resnet"))
        gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
        assert row["difference"] == pytest.approx(sum(gaps) / 2, abs=0.01)
        reach = 12.706 * abs(gaps[0] - gaps[1]) / 2  # Student's t with one degree of freedom
        assert row["difference_high"] - row["difference"] == pytest.approx(reach, abs=0.1)
    assert {chosen for *_, chosen, _ in small_pair} == {("muon", 1e-3), ("adamw", 1e9)}
    finals = small_pair[-2:]
    assert [name for name, *_ in finals] == ["VisionTransformer", "ResNet"]
    assert finals[0][1:] == finals[1][1:] == (200, ("muon", 1e-3), 1)
    assert set(rows["100%"]["vit_tried"]) == {"muon 0.001", "adamw 1e+09"}
    assert set(rows["100%"]["vit_tried_long"]) == {"muon 0.001"}
    assert rows["100%"]["vit_choice"] == "muon 0.001"
    card = load_checkpoint(root / "runs/benchmarks/cifar10_resnet", vit_and_cnn.ResNet)[1]
    assert (card.training["command"], card.training["seed"]) == (result["command"], 0)
    assert not list(root.rglob("*.state"))


@pytest.mark.parametrize(
    ("at_length", "rate"),
    [
        ({1e-2: 60.0, 3e-3: 59.0}, 1e-2),
        ({1e-2: 60.0, 3e-3: 63.0, 1e-3: 62.0}, 3e-3),
        ({1e-2: 60.0, 3e-3: 63.0, 1e-3: 64.0}, 1e-3),
    ],
)
def test_from_the_best_short_training_smaller_rates_are_tried_as_long_as_they_pay(
    monkeypatch, at_length, rate
):
    def tried(_, name, share, steps, choice):
        if steps > vit_and_cnn.CHOICE_STEPS:
            assert choice["optimizer"] == "muon"
            return at_length[choice["lr"]]
        return 50.0 - abs(choice["lr"] - 1e-2) - 10 * (choice["optimizer"] == "adamw")

    monkeypatch.setattr(vit_and_cnn, "tried", tried)
    comparison = vit_and_cnn.Comparison(stripes(8), stripes(8), 1, 1.0, "")
    choice, short, full = vit_and_cnn.chosen(comparison, "vit", 1.0)
    assert choice == {"optimizer": "muon", "lr": rate}
    assert set(short) == {vit_and_cnn.choice_name(choice) for choice in vit_and_cnn.CHOICES}
    assert full == {f"muon {rate:g}": found for rate, found in at_length.items()}


def test_what_was_trained_is_not_trained_again(root, small_pair):
    command = ["--data", "stripes", "--seeds"]
    vit_and_cnn.main([*command, "1"])
    count = len(small_pair)
    first = stored(root, "vit_and_cnn")["rows"]
    vit_and_cnn.main([*command, "2"])
    assert {seed for *_, seed in small_pair[count:]} == {1}
    both = stored(root, "vit_and_cnn")["rows"]
    assert both[0]["vit_each"][:1] == first[0]["vit_each"]
    assert first[0]["difference_low"] is None
    vit_and_cnn.main([*command, "1", "--longer", "2"])
    assert {seed for *_, seed in small_pair[count + 4 :]} == {0}


def test_questions_are_put_to_changed_images_and_kept_means_still_right():
    """A network that says the mean of the pixels: its answers can be worked out by hand."""

    class Bright(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            level = self.weight * x.mean(dim=(1, 2, 3))
            return torch.stack([-level, level], dim=1)

    images = torch.full((40, 1, 32, 32), 10, dtype=torch.uint8)
    images[1::2] = 250
    labels = torch.tensor([0, 1, 0, 0]).repeat(10)  # every fourth one is named wrongly
    test = ImageSet(images, labels, ("dark", "bright"), "levels")
    found = vit_and_cnn.robustness(Bright(), test, (0.5,), (0.25,))
    assert found["shuffled, 4×4"] == {"right": 75.0, "kept": 100.0}
    assert found["occluded, 75%"] == {"right": 75.0, "kept": 100.0}
    assert found["size, 64"] == {"right": 75.0, "kept": 100.0}
    joined = found["hybrid, 2"]
    assert joined["coarse"] + joined["fine"] == pytest.approx(100), "only two classes"
    assert joined["coarse"] > 60, "the coarse image has the brightness"
    assert {name.partition(", ")[0] for name in found} == {
        "shuffled", "shifted", "occluded", "size", "hybrid"
    }  # fmt: skip


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--longer", "0"]])
def test_a_comparison_of_nothing_is_refused(root, capsys, words):
    assert vit_and_cnn.main(["--data", "x", *words]) == 2
    assert "--seeds must be 1 or more and --longer above 0" in capsys.readouterr().err


# ---- smaller and faster ----


@pytest.fixture
def small_network(root, monkeypatch):
    """A small network in the place of the bundled one; what `fit` trained, in order."""
    torch.manual_seed(0)
    model = VisionTransformer(replace(SMALL.model, depth=2, patch_size=2)).eval()
    about = SimpleNamespace(mean=(0.5,), std=(0.25,))
    monkeypatch.setattr(compress, "load_checkpoint", lambda _: (model, about))
    sets = stripes(48), stripes(40)
    monkeypatch.setattr(compress, "load_train_test", lambda *_, **__: sets)
    small = {"BATCH": 4, "ROUNDS": 2, "SHARES": (0.5,), "MERGED": (1,), "LENGTHS": (3, 5),
             "TRAINING": TrainConfig(epochs=1, batch_size=16, label_smoothing=0.0)}  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(compress, name, value)
    trained = []
    fit = compress.fit

    def noted(network, train, test, config, **options):
        assert test is None, "the test set has no say"
        taught = "objective" in options
        trained.append((network.config.depth, taught, config.seed, config.epochs))
        return fit(network, train, test, config, **options)

    monkeypatch.setattr(compress, "fit", noted)
    return model, trained


def test_every_smaller_network_is_asked_and_timed(root, small_network):
    threads = torch.get_num_threads()
    try:
        assert compress.main(["--data", "some/stripes", "--seeds", "2", "--epochs", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    model, trained = small_network
    result = stored(root, "compress")
    assert "some/" not in result["command"]
    rows = {row["what"]: row for row in result["rows"]}
    assert [row["table"] for row in result["rows"]].count("students") == 3
    kinds = {row["kind"] for row in result["rows"] if row["table"] == "networks"}
    assert kinds == {"none", "precision", "heads", "tokens", "layers"}
    original = rows["as it is"]
    assert (original["n"], original["ratio_median"], original["difference"]) == (40, 1, 0)
    assert original["bytes"] == compress.num_bytes(model)
    for row in result["rows"]:
        assert row["ratio_low"] <= row["ratio_median"] <= row["ratio_high"]
        if row["table"] == "networks":
            assert row["accuracy"] == pytest.approx(100 * row["correct"] / 40)
            gap = row["accuracy"] - original["accuracy"]
            assert row["difference"] == pytest.approx(gap, abs=0.02)
    assert rows["bfloat16"]["bytes"] == original["bytes"] / 2
    assert rows["8 bits, ours"]["bytes"] < original["bytes"]
    gone = rows["50% of the heads gone, by importance"]
    assert gone["bytes"] == compress.num_bytes(compress.prune_heads(model, {0: [0], 1: [0]}))
    student = rows["half the layers, teacher"]
    assert student["bytes"] == rows["half the layers, not trained"]["bytes"]
    assert student["seeds"] == [0, 1]
    assert student["test_accuracy_mean"] == pytest.approx(
        sum(student["test_accuracies"]) / 2, abs=0.01
    )
    assert [tokens for row in result["rows"] if (tokens := row.get("tokens"))] == [3, 5]
    assert trained == [(1, taught, seed, 1) for seed in (0, 1) for taught in (False, False, True)]
    assert not list(root.rglob("*.state"))


def test_a_student_that_was_trained_is_not_trained_again(root, small_network, monkeypatch):
    _, trained = small_network
    threads = torch.get_num_threads()
    command = ["--data", "stripes", "--epochs", "2", "--images", "32"]
    try:
        compress.main([*command, "--seeds", "1"])
        compress.main([*command, "--seeds", "2"])
        assert [seed for _, _, seed, _ in trained] == [0, 0, 0, 1, 1, 1]
        first = stored(root, "compress")
        assert first["rows"][0]["n"] == 32
        compress.main([*command, "--seeds", "0"])
    finally:
        torch.set_num_threads(threads)
    assert not [row for row in stored(root, "compress")["rows"] if row["table"] == "students"]
    assert len(trained) == 6


@pytest.mark.parametrize("stop", ["importance", "times", "asked", "attention", "trained"])
def test_a_stopped_compression_measures_everything_once(root, small_network, monkeypatch, stop):
    done = []

    def counted(name, stop_at):
        work = getattr(compress, name)

        def noted(*given, **options):
            if stop_at is not None and done.count(name) == stop_at and "stopped" not in done:
                done.append("stopped")
                raise KeyboardInterrupt
            found = work(*given, **options)
            done.append(name)
            return found

        monkeypatch.setattr(compress, name, noted)

    at = {"importance": 0, "times": 0, "asked": 4, "attention": 1, "trained": 1}[stop]
    names = {"importance": "importance", "times": "time_in_turns", "asked": "evaluate",
             "attention": "time_in_turns", "trained": "fit"}  # fmt: skip
    for name in ("importance", "time_in_turns", "evaluate", "fit"):
        counted(name, at if name == names[stop] else None)
    command = ["--data", "stripes", "--seeds", "1", "--epochs", "1"]
    threads = torch.get_num_threads()
    try:
        assert compress.main(command) == 130
        assert compress.main(command) == 0
    finally:
        torch.set_num_threads(threads)
    rows = stored(root, "compress")["rows"]
    networks = [row for row in rows if row["table"] == "networks"]
    assert {name: done.count(name) for name in set(done)} == {
        "stopped": 1,
        "importance": 1,
        "time_in_turns": 1 + len(compress.LENGTHS),
        "evaluate": len(networks) + len(compress.STUDENTS),
        "fit": len(compress.STUDENTS),
    }
    students = [row for row in rows if row["table"] == "students"]
    cut = next(row for row in networks if row["what"] == "half the layers, not trained")
    for row in students:
        assert (row["ms"], row["ratio_low"]) == (cut["ms"], cut["ratio_low"]), "one network, once"
    left = list((root / "runs" / "benchmarks").glob("compress_*.json"))
    assert len(left) == len(students), "only what was trained is kept for good"


def test_a_student_goes_on_where_its_training_was_stopped(root, small_network, monkeypatch):
    resumed, stopped = [], []
    fit, command = compress.fit, ["--data", "stripes", "--seeds", "1", "--epochs", "3"]

    def stopped_once(network, train, test, config, **options):
        def stop(row):
            if not stopped and row["epoch"] == 2:
                stopped.append(row)
                raise KeyboardInterrupt

        rows = fit(network, train, test, config, on_epoch=stop, **options)
        resumed.append(options["resume"])
        return rows

    threads = torch.get_num_threads()
    try:
        compress.main(command)
        whole = {row["what"]: row for row in stored(root, "compress")["rows"]}
        for path in (root / "runs" / "benchmarks").glob("compress_*"):
            path.unlink()
        monkeypatch.setattr(compress, "fit", stopped_once)
        assert [compress.main(command), compress.main(command)] == [130, 0]
    finally:
        torch.set_num_threads(threads)
    assert resumed == [True, False, False]
    again = {row["what"]: row for row in stored(root, "compress")["rows"]}
    for what in compress.STUDENTS:
        assert again[what]["test_accuracies"] == whole[what]["test_accuracies"]


@pytest.mark.parametrize("words", [["--seeds", "-1"], ["--epochs", "0"], ["--threads", "0"]])
def test_a_compression_of_nothing_is_refused(root, small_network, capsys, words):
    assert compress.main(["--data", "x", *words]) == 2
    assert "--epochs and --threads 1 or more" in capsys.readouterr().err


# ---- training step ----

STEP = ViTConfig(embed_dim=16, depth=1, num_heads=2, mlp_ratio=2.0)


@pytest.mark.parametrize("library", ["timm", "torchvision", "Hugging Face"])
def test_the_compared_networks_do_equal_work(library):
    theirs = train_step.build(library, STEP)
    count = train_step.require_equal_work(library, theirs, STEP)
    assert count == sum(p.numel() for p in VisionTransformer(STEP).parameters())
    for other in ({"depth": 2}, {"num_heads": 4}, {"mlp_ratio": 4.0}):
        with pytest.raises(ValueError, match="other networks"):
            train_step.require_equal_work(library, theirs, replace(STEP, **other))


@pytest.mark.parametrize("library", ["ours", "Hugging Face"])
def test_a_step_is_one_of_adamw_against_the_cross_entropy(library):
    torch.manual_seed(0)
    model = VisionTransformer(STEP) if library == "ours" else train_step.build(library, STEP)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    logits = model.train()(images)
    logits = logits if library == "ours" else logits.logits
    (-logits.log_softmax(1)[torch.arange(8), labels].mean()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    train_step.stepper(model, images, labels)()
    for name, after in model.named_parameters():
        gradient, start = gradients[name], before[name]
        expected = start * (1 - 1e-4 * 0.05) - 1e-4 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(after.detach(), expected, rtol=1e-4, atol=2e-5)


def test_all_take_turns_and_the_ratio_is_of_the_same_block():
    order = []
    steppers = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = train_step.time_in_turns(steppers, 2, "cpu")
    assert "".join(order) == "aaabbbccc" + 3 * ("aabbcc" + "ccbbaa") + "aabbcc"
    assert [len(times) for times in seconds.values()] == [7, 7, 7]
    row = train_step.compare([1.0, 2.0, 4.0], [2.0, 3.0, 2.0], batch_size=10)
    assert row["ratio_median"] == 1.5
    assert (row["ratio_low"], row["ratio_high"]) == (0.5, 2.0)
    assert (row["images_per_second"], row["their_images_per_second"]) == (5, 5)


# ---- tables ----


def write(root: Path, name: str, rows: list[dict], data: str | None = "made up") -> None:
    folder = root / "benchmarks/results"
    folder.mkdir(parents=True, exist_ok=True)
    result = {"hardware": "a chip", "command": f"run {name}", "data": data, "rows": rows}
    (folder / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")


def tables(root: Path, *names: str) -> list[str]:
    page = root / "README.md"
    page.write_text("".join(f"<!-- table: {name} -->\n<!-- /table -->\n" for name in names))
    return build.page_with_tables(page, root).splitlines()


RECIPE_ROW = {
    "recipe": "large",
    "split": "test",
    "patch_size": 4,
    "embed_dim": 256,
    "depth": 12,
    "parameters": 9_500_000,
    "test_accuracy_mean": 95.04,
    "test_accuracy_std": 0.126,
    "seeds": [0, 1, 2],
    "epochs": 400,
    "seconds": 485.0,
}


def test_recipes_stand_in_one_table_from_small_to_large(tmp_path):
    small = {"recipe": "small", "parameters": 300_000, "test_accuracy_std": None, "seeds": [0]}
    write(tmp_path, "accuracy_large", [RECIPE_ROW])
    write(tmp_path, "accuracy_small", [{**RECIPE_ROW, **small, "seconds": 61.2}])
    write(tmp_path, "accuracy_trial", [{**RECIPE_ROW, "split": "validation", "recipe": "trial"}])
    lines = tables(tmp_path, "recipes")
    first = lines.index(
        "| small | width 256, depth 12, patch 4, 300,000 parameters | made up | 400 | 1 | "
        "95.0% | 61 s | a chip |"
    )
    assert lines[first + 1] == (
        "| large | width 256, depth 12, patch 4, 9,500,000 parameters | made up | 400 | 3 | "
        "95.0 ± 0.1% | 8 min | a chip |"
    )
    assert lines[first + 2 : first + 7] == ["", "Measured by", "", "- `run accuracy_small`",
                                            "- `run accuracy_large`"]  # fmt: skip
    assert not any("trial" in line for line in lines)


def test_the_ablation_table_says_what_was_not_measured(tmp_path):
    rows = [
        {**RECIPE_ROW, "change": "the recipe", "measured": True, "difference": 0.0},
        {**RECIPE_ROW, "change": "without it", "measured": True, "difference": -3.26},
        {"change": "with Muon", "settings": "optimizer=muon", "measured": False},
    ]
    write(tmp_path, "ablation_cifar10", rows)
    lines = tables(tmp_path, "ablation_cifar10")
    assert "| the recipe | 400 | 3 | 95.0 ± 0.1% | +0.0 |" in lines
    assert "| without it | 400 | 3 | 95.0 ± 0.1% | -3.3 |" in lines
    assert "| with Muon | – | – | not measured | – |" in lines


def test_ratios_and_the_network_they_are_about(tmp_path):
    ratio = {"against": "timm", "ratio_median": 1.038, "ratio_low": 0.9, "ratio_high": 1.2}
    step = {"ours": "compiled", "version": "1.0", "images_per_second": 46_000}
    network = {"embed_dim": 256, "depth": 12, "batch_size": 1024, "precision": "bfloat16"}
    write(tmp_path, "train_step_gpu", [{**ratio, **step, **network,
                                        "their_images_per_second": 44_000}], None)  # fmt: skip
    speed = {"images_per_second": 9_000, "images_per_second_against": 1_200}
    write(tmp_path, "data_path", [{**ratio, **speed, "device": "cpu", "batch_size": 128}])
    text = "\n".join(tables(tmp_path, "train_step_gpu", "data_path"))
    assert "(width 256, depth 12, batches of 1024; median and range)**" in text
    assert "| compiled | timm (1.0) | ×1.04 (0.90–1.20) | 46,000 | 44,000 |" in text
    assert "Measured on a chip: `run train_step_gpu`" in text
    assert "**Batches of 128 images drawn and augmented, no network (on: cpu)**" in text
    assert "| timm | ×1.04 (0.90–1.20) | 9,000 | 1,200 |" in text


def test_the_tables_of_vit_and_cnn_each_take_their_own_rows(tmp_path):
    seeds = {"difference": -3.21, "difference_low": -4.0, "difference_high": -2.44}
    one = {"difference": 1.0, "difference_low": None, "difference_high": None}
    numbers = {f"{name}{kind}_{field}": value for name in ("vit", "resnet")
               for kind in ("", "_right", "_kept", "_coarse", "_fine")
               for field, value in (("mean", 50.04), ("std", 0.5))}  # fmt: skip
    best = {"vit_choice": "muon 0.003", "resnet_choice": "adamw 0.01"}
    rows = [
        {"table": "images", "what": "1%", "images": 500, "steps": 1320, **numbers, **best, **seeds},
        {"table": "asked", "what": "size 64", **numbers, "vit_kept_std": None, **one},
        {"table": "hybrid", "what": "hybrid 1", "setting": "1", **numbers, **seeds},
    ]
    write(tmp_path, "vit_and_cnn", rows)
    lines = tables(tmp_path, *(f"vit_and_cnn.{part}" for part in ("images", "asked", "hybrid")))
    several = "50.0 ± 0.5%"
    assert (f"| 1% (500) | 1,320 | {several} | {several} | -3.2 (-4.0 to -2.4) | muon 0.003 "
            "| adamw 0.01 |") in lines  # fmt: skip
    assert f"| size 64 | {several} | {several} | 50.0% | {several} | +1.0 |" in lines
    assert lines.count(f"| 1 | {several} | {several} | {several} | {several} "
                       "| -3.2 (-4.0 to -2.4) |") == 1  # fmt: skip


def test_a_file_that_changed_makes_the_readme_out_of_date(tmp_path):
    names = ("accuracy_small", "ablation_cifar10", "train_step_cpu", "data_path")
    assert "**Recipes" not in "".join(tables(tmp_path, "recipes", *names[1:]))
    row = {**RECIPE_ROW, "change": "x", "measured": True, "difference": 0.0, "against": "y",
           "ratio_median": 1.0, "ratio_low": 1.0, "ratio_high": 1.0, "ours": "z", "version": "1",
           "images_per_second": 1, "their_images_per_second": 1, "batch_size": 1,
           "images_per_second_against": 1, "device": "cpu",
           "precision": "float32"}  # fmt: skip
    for name in names:
        page = tmp_path / "README.md"
        page.write_text(build.page_with_tables(page, tmp_path), encoding="utf-8")
        assert "README.md: its tables are out of date" not in build.drift(tmp_path)
        write(tmp_path, name, [row])
        assert "README.md: its tables are out of date" in build.drift(tmp_path)
