"""The doctor: a line for each check, whatever is broken."""

import os
import subprocess
import sys

import pytest
from conftest import randomize

from vit_tutorial import VisionTransformer, ViTConfig, data, doctor, evaluate
from vit_tutorial.cli import main
from vit_tutorial.weights import Card


def test_doctor_prints_a_line_per_check_and_finds_all_well(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_CHECKS", {"sun": lambda: "shines", "moon": lambda: "is up"})
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == "✓ sun: shines\n✓ moon: is up\nAll is well.\n"


def test_doctor_goes_on_after_a_broken_check_and_says_so(monkeypatch, capsys):
    def broken() -> str:
        raise RuntimeError("wrong wheel")

    monkeypatch.setattr(doctor, "_CHECKS", {"wheels": broken, "moon": lambda: "is up"})
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == (
        "✗ wheels: wrong wheel\n✓ moon: is up\nSomething needs a look: see the lines with ✗.\n"
    )


@pytest.mark.parametrize("name", doctor._CHECKS)
def test_each_check_passes_here(name, capsys):
    assert doctor._check(name, doctor._CHECKS[name])
    assert capsys.readouterr().out.startswith(f"✓ {name}: ")


def test_the_check_of_the_networks_notices_another_count(monkeypatch, capsys, tmp_path):
    config = ViTConfig(
        img_size=8, patch_size=4, in_chans=1, num_classes=10, embed_dim=8, depth=1, num_heads=2
    )
    model = randomize(VisionTransformer(config)).float()
    test = data.digits("test")
    true = evaluate(model, test, (0.5,), (0.25,)).correct
    for stated, well in ((true, True), (true + 7, False)):
        card = Card(
            "digits", config, test.classes, (0.5,), (0.25,), "digits", {}, {"correct": stated}
        )
        monkeypatch.setattr(
            "vit_tutorial.weights.load_checkpoint", lambda name, card=card: (model.eval(), card)
        )
        assert doctor._check("networks", doctor._check_checkpoints) is well
        out = capsys.readouterr().out
        assert out.startswith("✓" if well else "✗")
        assert (
            well or f"digits has {true} of 360 test images correct, its card says {stated}" in out
        )


def test_an_old_consoles_alphabet_does_not_stop_the_doctor():
    code = (
        "from vit_tutorial import cli, doctor; doctor._CHECKS = {'sun': lambda: 'shines'}; "
        "raise SystemExit(cli.main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "sun: shines" in done.stdout
