"""The benchmarks of lesson 14: what they compare, and what they write."""

import importlib
from types import ModuleType

import pytest
import torch
from conftest import stored
from torch import nn

from vit_tutorial.model import ViTConfig
from vit_tutorial.recipes import RECIPES, Recipe, TrainConfig

scaling: ModuleType = importlib.import_module("scaling")
batch_size: ModuleType = importlib.import_module("batch_size")
tables: ModuleType = importlib.import_module("tables")

TINY = ViTConfig(img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=2)


# ---- scaling.py ----


def test_a_ratio_above_one_says_that_two_processes_are_faster():
    row = scaling.compared([1.0, 2.0, 4.0], [2.0, 3.0, 2.0], batch_size=10)
    assert (row["ratio_median"], row["ratio_low"], row["ratio_high"]) == (1.5, 0.5, 2.0)
    assert (row["images_per_second"], row["images_per_second_against"]) == (5, 5)
    assert (row["step_ms"], row["step_ms_against"]) == (2000, 2000)


def test_it_starts_two_processes_of_one_thread_each(monkeypatch):
    seen = {}

    def run(command, env, check):
        seen.update(command=command, threads=env["OMP_NUM_THREADS"])
        return type("Done", (), {"returncode": 3})

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(scaling.subprocess, "run", run)
    assert scaling.main(["--seconds", "0.5"]) == 3
    assert seen["command"][1:] == [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        scaling.__file__, "--seconds", "0.5",
    ]  # fmt: skip
    assert seen["threads"] == "1"


def test_both_ways_are_timed_in_turns_and_written(results_root, monkeypatch, tmp_path):
    """In one process, which is a group of its own."""
    monkeypatch.setitem(RECIPES, "small", Recipe(TINY, TrainConfig(epochs=1), ""))
    monkeypatch.setattr(scaling, "NETWORKS", {"small": 4})
    monkeypatch.setenv("WORLD_SIZE", "1")
    address = (tmp_path / "store").as_uri()
    torch.distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    try:
        threads = torch.get_num_threads()
        assert scaling.main(["--seconds", "0.001"]) == 0
    finally:
        torch.set_num_threads(threads)
        torch.distributed.destroy_process_group()
    rows = stored(results_root, "scaling_cpu")["rows"]
    assert [row["what"] for row in rows] == ["small, 1 thread", "small, 2 threads"]
    assert all(row["ratio_low"] <= row["ratio_median"] <= row["ratio_high"] for row in rows)
    table = tables.results_table(results_root, "scaling_cpu")
    assert "| small, " in table
    assert "one process, 2 threads" in table


# ---- batch_size.py ----


@pytest.mark.parametrize("optimizer", ["plain descent", "SGD", "AdamW"])
def test_a_training_learns_and_can_be_repeated(optimizer, monkeypatch):
    monkeypatch.setattr(batch_size, "NETWORK", TINY)
    data = batch_size.digits("train")[:64]
    rate = batch_size.RATES[optimizer]
    one, two = (batch_size.trained(optimizer, 16, rate, 0.2, 0, data) for _ in range(2))
    other = batch_size.trained(optimizer, 16, rate, 0.0, 0, data)
    rows = [nn.utils.parameters_to_vector(m.parameters()) for m in (one, two, other)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    torch.manual_seed(0)
    fresh = batch_size.VisionTransformer(TINY)
    assert batch_size.loss_on(one, data, data) < batch_size.loss_on(fresh, data, data)


def test_plain_descent_goes_along_the_gradient_as_long_as_it_is(monkeypatch):
    monkeypatch.setattr(batch_size, "NETWORK", TINY)
    monkeypatch.setattr(batch_size, "EPOCHS", 1)
    monkeypatch.setattr(batch_size, "lr_factor", lambda step, total, warmup: 1.0)
    data = batch_size.digits("train")[:16]
    torch.manual_seed(0)
    fresh = batch_size.VisionTransformer(TINY)
    pixels = batch_size.normalize(data.images, *batch_size.channel_stats(data.images))
    nn.functional.cross_entropy(fresh(pixels), data.labels).backward()
    gradient = torch.cat([p.grad.flatten() for p in fresh.parameters()])
    assert gradient.norm() > 1.1  # long enough to be clipped where that is done
    start = nn.utils.parameters_to_vector(fresh.parameters())
    for optimizer, length in (("plain descent", gradient.norm()), ("SGD", 1.0)):
        model = batch_size.trained(optimizer, 16, 0.1, 0.0, 0, data)  # one step
        step = start - nn.utils.parameters_to_vector(model.parameters())
        torch.testing.assert_close(
            step / 0.1, gradient * length / gradient.norm(), rtol=1e-2, atol=1e-5
        )


def test_rules_are_powers_of_the_ratio_and_every_row_is_written(results_root, monkeypatch):
    seen = []

    def trained(optimizer, batch, rate, warmup, seed, data):
        seen.append((optimizer, batch, round(rate, 6), warmup, seed))
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    monkeypatch.setattr(batch_size, "trained", trained)
    threads = torch.get_num_threads()
    assert batch_size.main(["--seeds", "2"]) == 0
    torch.set_num_threads(threads)
    rows = {row["what"]: row for row in stored(results_root, "batch_size_digits")["rows"]}
    assert len(rows) == 3 * (1 + 2 * 3)
    base = batch_size.RATES["AdamW"]
    assert rows["AdamW, 512, kept"]["lr"] == base
    assert rows["AdamW, 512, root"]["lr"] == pytest.approx(4 * base)
    assert rows["AdamW, 512, linear"]["lr"] == pytest.approx(16 * base)
    assert rows["SGD, 128, kept"]["steps"] == 8 * 1024 // 128
    assert {(warmup, seed) for *_, warmup, seed in seen} == {
        (warmup, seed) for warmup in (0.0, 0.2, 0.5) for seed in (0, 1)
    }
    for row in rows.values():
        assert row["loss_warm_low"] <= row["loss_warm"] <= row["loss_warm_high"]
        assert row["change_warm"] == pytest.approx(row["loss_warm"] - row["loss_cold"], abs=2e-4)
        assert row["change_warm_low"] <= row["change_warm"] <= row["change_warm_high"]
    table = tables.results_table(results_root, "batch_size_digits")
    assert "| AdamW | 512 | linear | 0.032 | 16 |" in table


def test_too_few_seeds_are_refused(capsys):
    assert batch_size.main(["--seeds", "1"]) == 2
    assert "--seeds must be 2 or more, got 1" in capsys.readouterr().err
