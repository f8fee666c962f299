"""The benchmark of lesson 13: who sees which labels, what is kept, and where it goes on."""

import importlib
from dataclasses import replace
from functools import partial
from types import ModuleType

import conftest
import pytest
import torch
from test_train import stripes

from vit_tutorial import ViTConfig
from vit_tutorial.mae import MAEConfig
from vit_tutorial.recipes import TrainConfig

benchmark: ModuleType = importlib.import_module("without_labels")
tables: ModuleType = importlib.import_module("tables")

stored = partial(conftest.stored, name="without_labels")
ENCODER = ViTConfig(
    img_size=8, in_chans=1, num_classes=2, embed_dim=8, depth=1, num_heads=2, pos_embed="sincos"
)


@pytest.fixture
def root(results_root, monkeypatch):
    """Results and runs land in an empty folder; networks, data and trainings are small."""
    monkeypatch.setattr(benchmark, "load_train_test", lambda *_, **__: (stripes(200), stripes(40)))
    network = MAEConfig(ENCODER, decoder_dim=8, decoder_depth=1, decoder_heads=2)
    monkeypatch.setattr(benchmark.Experiment, "__init__", _small(benchmark.Experiment, network))
    monkeypatch.setattr(benchmark, "PRETRAINING", TrainConfig(epochs=2, batch_size=50))
    few = TrainConfig(epochs=2, batch_size=10)
    monkeypatch.setattr(benchmark, "TRAINING", {"10%": few, "50%": few})
    monkeypatch.setattr(benchmark, "SHARES", {"10%": 0.1, "50%": 0.5})
    rates = [{"lr": 1e-3}, {"lr": 2e-3}]
    monkeypatch.setattr(
        benchmark, "CANDIDATES", {"fine-tuned": rates, "from scratch": [{"lr": 1e-3}]}
    )
    return results_root


def _small(kind, network):
    made = kind.__init__

    def init(self, train, test, network=network, pretraining=None, command=""):
        made(self, train, test, network, pretraining or benchmark.PRETRAINING, command)

    return init


@pytest.fixture
def trained(monkeypatch):
    """What was trained, in order: the kind of network, the config, images, and the objective."""
    seen = []
    fit = benchmark.fit

    def noted(model, train, test, config, **options):
        seen.append((type(model).__name__, config, train, test, options.get("objective")))
        return fit(model, train, test, config, **options)

    monkeypatch.setattr(benchmark, "fit", noted)
    return seen


def test_labels_are_drawn_from_each_class_alike_and_anew():
    whole = stripes(400)
    draws = [benchmark.few_labels(whole, 0.1, draw) for draw in (0, 1, 0)]
    for few in draws:
        assert torch.bincount(few.labels).tolist() == [20, 20]
    assert torch.equal(draws[0].images, draws[2].images)
    assert not torch.equal(draws[0].images, draws[1].images)


def test_all_is_measured_once_and_the_same_command_goes_on(root, trained, capsys):
    assert benchmark.main(["--data", "stripes", "--draws", "1"]) == 0
    kinds = [kind for kind, *_ in trained]
    # pretraining; for two shares three candidates; then two trainings each
    assert kinds == ["MaskedAutoencoder"] + ["VisionTransformer"] * (2 * 3 + 2 * 2)
    pretraining = trained[0]
    assert pretraining[3] is None, "no test accuracy"
    assert pretraining[4] is benchmark.reconstruction
    assert all(test is None for _, _, _, test, _ in trained), "the test set is asked at the end"
    assert [len(train) for _, _, train, *_ in trained[1:]] == [18] * 3 + [90] * 3 + [20] * 2 + [
        100
    ] * 2, "rates are chosen on a part of the training set"
    for at in (7, 9):  # fine-tuned and from scratch have the same images and as many steps
        (_, one, few, *_), (_, other, same, *_) = trained[at], trained[at + 1]
        assert torch.equal(few.images, same.images)
        assert replace(one, lr=other.lr) == other
    first = stored(root)
    assert [row["row"] for row in first["rows"]] == [
        f"{share} {method}" for share in ("10%", "50%") for method in benchmark.METHODS
    ]
    assert [row["steps"] for row in first["rows"]] == [None, None, 4, 4, None, None, 20, 20]
    assert first["rows"][0]["seeds"] == [0]
    assert (root / "runs/benchmarks/cifar10_mae.safetensors").exists()

    trained.clear()
    assert benchmark.main(["--data", "stripes", "--draws", "1"]) == 0
    assert trained == []
    assert stored(root)["rows"] == first["rows"]
    assert benchmark.main(["--data", "stripes", "--draws", "3"]) == 0
    assert len(trained) == 2 * 2 * 2, "two more draws, nothing else"
    row = stored(root)["rows"][3]
    assert row["seeds"] == [0, 1, 2]
    assert row["test_accuracies"][0] == first["rows"][3]["test_accuracies"][0]
    assert row["test_accuracy_std"] is not None
    for share in ("10%", "50%"):  # every method beside the one it is compared with, draw by draw
        rows = {r["method"]: r for r in stored(root)["rows"] if r["labels"] == share}
        for method, other in benchmark.AGAINST.items():
            pairs = zip(*(rows[name]["test_accuracies"] for name in (method, other)), strict=True)
            gaps = torch.tensor([one - two for one, two in pairs], dtype=torch.float64)
            reach = 4.303 * gaps.std() / 3**0.5  # Student's t with two degrees of freedom
            assert rows[method]["against"] == other
            assert rows[method]["difference"] == pytest.approx(gaps.mean().item(), abs=0.01)
            low = rows[method]["difference_low"]
            assert low == pytest.approx((gaps.mean() - reach).item(), abs=0.02)
        assert "against" not in rows["from scratch"]


def test_a_stopped_pretraining_goes_on(root, monkeypatch, capsys):
    fit = benchmark.fit

    def stopped(*args, **options):
        def stop(row):
            raise KeyboardInterrupt

        return fit(*args, **options, on_epoch=stop)

    monkeypatch.setattr("vit_tutorial.train.SAVE_EVERY", 0.0)
    monkeypatch.setattr(benchmark, "fit", stopped)
    assert benchmark.main(["--data", "stripes"]) == 130
    assert "same command" in capsys.readouterr().err
    (state,) = root.rglob("*.state")
    assert not list(root.rglob("*.safetensors"))
    resumed = []

    def noted(*args, **options):
        resumed.append(options.get("resume"))
        return fit(*args, **options)

    monkeypatch.setattr(benchmark, "fit", noted)
    assert benchmark.main(["--data", "stripes", "--draws", "1"]) == 0
    assert resumed[0] is True
    assert state.with_suffix(".safetensors").exists()


def test_fine_tuning_starts_from_what_was_pretrained_and_a_probe_leaves_it(root, monkeypatch):
    experiment = benchmark.Experiment(stripes(200), stripes(40))
    torch.manual_seed(5)
    mae = benchmark.MaskedAutoencoder(experiment.network)
    starts = []

    def noted(model, few, test, config):
        starts.append(model.blocks[0].attn.qkv.weight.detach().clone())
        return 50.0, 1.0

    monkeypatch.setattr(benchmark, "trained", noted)
    own = mae.encoder.blocks[0].attn.qkv.weight.detach().clone()
    for method in benchmark.METHODS:
        accuracy, _ = benchmark.measure(method, "10%", 0, {}, mae, experiment)
        assert 0 <= accuracy <= 100
    scratch, fine_tuned = starts
    assert torch.equal(fine_tuned, own)
    assert not torch.equal(scratch, own)
    assert torch.equal(mae.encoder.blocks[0].attn.qkv.weight, own)


def test_the_card_says_how_well_hidden_patches_are_known(root):
    experiment = benchmark.Experiment(stripes(200), stripes(40))
    benchmark.pretrain(experiment)
    _, card = benchmark.load_checkpoint(
        root / "runs/benchmarks/cifar10_mae", benchmark.MaskedAutoencoder
    )
    assert card.evaluation["n"] == 40
    assert 0 < card.evaluation["own_mean_colour_error"] < 2
    assert card.training["epochs"] == 2


def test_bad_input_is_one_sentence(root, capsys):
    assert benchmark.main(["--data", "x", "--draws", "0"]) == 2
    assert capsys.readouterr().err == "--draws must be 1 or more, got 0\n"


def test_the_command_repeats_the_measurement_and_names_no_folder(root):
    benchmark.main(["--data", "/somewhere/stripes", "--draws", "1", "--data-name", "My stripes"])
    command = stored(root)["command"]
    assert command.endswith("without_labels.py --data stripes --draws 1 --data-name 'My stripes'")


def test_the_table_shows_every_row(root):
    benchmark.main(["--data", "stripes", "--draws", "1"])
    text = tables.results_table(root, "without_labels")
    assert text.count("| 10% (20)") == len(benchmark.METHODS)
    assert "| fine-tuned | 4 |" in text
    assert "| from scratch | +" in text or "| from scratch | -" in text
