"""Every command in this process: what it prints, what it writes, and how it refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import randomize
from PIL import Image

from vit_tutorial import VisionTransformer, ViTConfig, cli, data, evaluate, load_checkpoint
from vit_tutorial.cli import main
from vit_tutorial.weights import Card, save_checkpoint

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def tiny(tmp_path):
    """A checkpoint for 16x16 colour images."""
    config = ViTConfig(img_size=16, patch_size=4, num_classes=3, embed_dim=16, depth=2, num_heads=2)
    model = randomize(VisionTransformer(config)).float()
    card = Card("tiny", config, tuple(COLOURS), (0.5,) * 3, (0.25,) * 3, data="plain colours")
    save_checkpoint(model, tmp_path / "tiny", card)
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.fixture
def folder(tmp_path):
    """Nine images of three classes, in several sizes."""
    generator = np.random.default_rng(1)
    for place, (name, colour) in enumerate(COLOURS.items()):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(place + 2):
            noisy = np.clip(np.array(colour) + generator.normal(0, 60, (20 + i, 24, 3)), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / "mine" / name / f"{i}.png")
    return tmp_path / "mine"


def refused(capsys, *arguments: object) -> str:
    """Run a command that must fail: exit code 2, one line on stderr, nothing on stdout."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"vit-tutorial {arguments[0]}: ")
    assert "Traceback" not in err
    return err


# ---- train and evaluate ----


def test_train_writes_a_checkpoint_whose_card_says_how_and_evaluate_agrees(tmp_path, capsys):
    out = tmp_path / "mine.safetensors"
    arguments = ["--recipe", "digits", "--data", "digits", "--out", str(out)]
    assert main(["train", *arguments, "--epochs", "1", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    model, card = load_checkpoint(out)
    assert card.name == "mine"
    assert card.classes == tuple("0123456789")
    assert card.data == "scikit-learn digits"
    assert (card.training["epochs"], card.training["seed"]) == (1, 3)
    assert card.training["command"].startswith(
        "vit-tutorial train --recipe digits --data digits --epochs 1 --seed 3"
    )
    assert {"hardware", "date", "commit", "seconds"} <= set(card.training)
    assert card.evaluation["n"] == 360
    assert card.evaluation["correct"] > 45  # guessing gives 36
    assert printed == (
        f"{card.evaluation['correct']} of 360 images of scikit-learn digits named rightly: "
        f"{card.evaluation['accuracy']:.2f}%\n"
    )

    assert main(["evaluate", "--checkpoint", str(out), "--data", "digits"]) == 0
    assert capsys.readouterr().out == printed
    options = ["--json", "--batch-size", "33"]
    assert main(["evaluate", "--checkpoint", str(out), "--data", "digits", *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {key: card.evaluation[key] for key in ("accuracy", "n", "correct")}
    assert evaluate(model, data.digits("test"), card.mean, card.std).correct == answer["correct"]


def test_evaluate_measures_a_folder_of_ones_own(tiny, folder, capsys):
    arguments = ["evaluate", "--checkpoint", str(tiny), "--data", str(folder)]
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    model, card = load_checkpoint(tiny)
    images = data.image_folder(folder, 16)
    expected = evaluate(model, images, card.mean, card.std)
    assert answer == {"accuracy": expected.accuracy, "n": 9, "correct": expected.correct}
    assert main(arguments) == 0
    sentence = f"{expected.correct} of 9 images of mine named rightly: {expected.accuracy:.2f}%\n"
    assert capsys.readouterr().out == sentence


def test_a_folder_with_fewer_classes_is_matched_by_name(tiny, folder, capsys):
    for file in (folder / "blue").iterdir():
        file.unlink()
    (folder / "blue").rmdir()
    assert main(["evaluate", "--checkpoint", str(tiny), "--data", str(folder), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    model, card = load_checkpoint(tiny)
    images = data.image_folder(folder, 16).relabelled(card.classes)
    assert set(images.labels.tolist()) == {1, 2}  # green and red keep the numbers of the card
    assert answer["correct"] == evaluate(model, images, card.mean, card.std).correct


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--checkpoint": "bananas"}, "no file bananas.safetensors"),
        ({"--data": "nowhere"}, 'expected "cifar10", "digits" or an image folder'),
        ({"--batch-size": "0"}, "batch_size must be at least 1, got 0"),
        ({"--device": "abacus"}, "--device abacus cannot be used on this machine"),
    ],
)
def test_evaluate_refuses_in_one_line(changes, sentence, tiny, folder, capsys):
    given = {"--checkpoint": tiny, "--data": folder, **changes}
    error = refused(capsys, "evaluate", *(part for pair in given.items() for part in pair))
    assert sentence in error


def test_evaluate_refuses_classes_that_the_network_does_not_know(tiny, folder, capsys):
    (folder / "red").rename(folder / "pink")
    error = refused(capsys, "evaluate", "--checkpoint", tiny, "--data", folder)
    assert "pink" in error
    assert "it knows blue, green, red" in error


def test_evaluate_refuses_a_damaged_checkpoint(tiny, folder, capsys):
    tiny.write_bytes(tiny.read_bytes()[:100])
    assert "not a whole safetensors file" in refused(
        capsys, "evaluate", "--checkpoint", tiny, "--data", folder
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_before_any_work(tiny, folder, capsys):
    error = refused(capsys, "evaluate", "--checkpoint", tiny, "--data", folder, "--device", "cuda")
    assert "--device cuda cannot be used" in error


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--recipe": "cake"}, "--recipe must be one of digits, laptop, got 'cake'"),
        ({"--epochs": "0"}, "epochs must be 1, 2, ..., got 0"),
        ({"--epochs": "-4"}, "got -4"),
        ({"--data": "nowhere"}, 'expected "cifar10", "digits" or an image folder'),
        ({"--device": "abacus"}, "--device abacus cannot be used"),
    ],
)
def test_train_refuses_in_one_line_and_writes_nothing(changes, sentence, tmp_path, capsys):
    out = tmp_path / "new.safetensors"
    given = {"--recipe": "digits", "--data": "digits", "--out": out, **changes}
    error = refused(capsys, "train", *(part for pair in given.items() for part in pair))
    assert sentence in error
    assert not list(tmp_path.iterdir())


def test_missing_arguments_and_unknown_commands_are_usage_errors(capsys):
    for arguments in ([], ["train"], ["evaluate", "--data", "digits"], ["fly"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "usage: vit-tutorial" in capsys.readouterr().err


# ---- explain ----


def test_explain_writes_a_picture_beside_the_photograph_and_says_what_it_sees(tiny, photo, capsys):
    before = photo.read_bytes()
    assert main(["explain", str(photo), "--checkpoint", str(tiny)]) == 0
    out = capsys.readouterr().out
    picture = photo.with_name("photo.explained.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(picture) as image:
        size = image.size
    assert 900 < size[0] < 2400
    assert 400 < size[1] < 900
    assert photo.read_bytes() == before
    names = {"photo.jpg", "photo.explained.png", "tiny.safetensors", "tiny.json"}
    assert {path.name for path in photo.parent.iterdir()} == names
    shares = [line.split()[0] for line in out.splitlines()[:3]]
    assert sum(float(share.rstrip("%")) for share in shares) == pytest.approx(100, abs=0.2)
    assert {line.split()[1] for line in out.splitlines()[:3]} == set(COLOURS)
    assert "It knows blue, green, red, and must name one of them" in out
    assert out.endswith(f"Picture: {picture}\n")


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
def test_explain_shows_another_picture_for_another_fit(fit, tiny, photo, tmp_path, capsys):
    out = tmp_path / "out.png"
    arguments = [str(photo), "--checkpoint", str(tiny), "--fit", fit, "--out", str(out)]
    assert main(["explain", *arguments]) == 0
    with Image.open(out) as image:
        assert image.format == "PNG"
    assert not photo.with_name("photo.explained.png").exists()
    capsys.readouterr()


def test_explain_reads_grey_networks_and_grey_photographs(tmp_path, capsys):
    config = ViTConfig(
        img_size=8, patch_size=4, in_chans=1, num_classes=2, embed_dim=8, depth=1, num_heads=2
    )
    card = Card("grey", config, ("a", "b"), (0.5,), (0.25,), data="none")
    save_checkpoint(randomize(VisionTransformer(config)), tmp_path / "grey", card)
    Image.new("L", (30, 20), 90).save(tmp_path / "grey.png")
    arguments = [str(tmp_path / "grey.png"), "--checkpoint", str(tmp_path / "grey")]
    assert main(["explain", *arguments]) == 0
    assert (tmp_path / "grey.explained.png").is_file()
    capsys.readouterr()


def test_explain_refuses_in_one_line(tiny, photo, tmp_path, capsys):
    note = tmp_path / "note.txt"
    note.write_text("no picture")
    before = {path.name for path in tmp_path.iterdir()}
    for arguments, sentence in [
        ([tmp_path / "none.jpg", "--checkpoint", tiny], "there is no file"),
        ([note, "--checkpoint", tiny], "not an image that Pillow can read"),
        ([tmp_path, "--checkpoint", tiny], "got the folder"),
        ([photo, "--checkpoint", "bananas"], "no file bananas.safetensors"),
        ([photo, "--checkpoint", tiny, "--fit", "squeeze"], 'fit must be "crop", "pad"'),
        ([photo, "--checkpoint", tiny, "--out", tmp_path / "no" / "a.png"], "No such file"),
    ]:
        assert sentence in refused(capsys, "explain", *arguments)
    assert {path.name for path in tmp_path.iterdir()} == before


# ---- doctor ----


def test_doctor_prints_a_line_per_check_and_finds_all_well(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_CHECKS", {"sun": lambda: "shines", "moon": lambda: "is up"})
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == "✓ sun: shines\n✓ moon: is up\nAll is well.\n"


def test_doctor_goes_on_after_a_broken_check_and_says_so(monkeypatch, capsys):
    def broken() -> str:
        raise RuntimeError("wrong wheel")

    monkeypatch.setattr(cli, "_CHECKS", {"wheels": broken, "moon": lambda: "is up"})
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == (
        "✗ wheels: wrong wheel\n✓ moon: is up\nSomething needs a look: see the lines with ✗.\n"
    )


@pytest.mark.parametrize("name", cli._CHECKS)
def test_each_check_passes_here(name, capsys):
    assert cli._check(name, cli._CHECKS[name])
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
        assert cli._check("networks", cli._check_checkpoints) is well
        out = capsys.readouterr().out
        assert out.startswith("✓" if well else "✗")
        assert well or f"digits names {true} of 360 rightly, its card says {stated}" in out


def test_the_command_answers_help_without_loading_torch():
    code = (
        "import sys; sys.argv = ['vit-tutorial', '--help']\n"
        "from vit_tutorial.cli import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("doctor", "train", "evaluate", "explain"):
        assert command in done.stdout


def test_an_old_consoles_alphabet_does_not_stop_the_doctor():
    code = (
        "from vit_tutorial import cli; cli._CHECKS = {'sun': lambda: 'shines'}; "
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
