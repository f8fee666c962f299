"""Every command in this process: what it prints, what it writes, and how it refuses."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import randomize
from PIL import Image

from vit_tutorial import (
    VisionTransformer,
    ViTConfig,
    data,
    evaluate,
    explain,
    load_checkpoint,
    plots,
    train,
)
from vit_tutorial.cli import main
from vit_tutorial.methods import METHODS
from vit_tutorial.weights import Card, save_checkpoint

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


@pytest.fixture
def tiny(tmp_path):
    """A checkpoint for 16x16 colour images, which names 5 of the 9 in `folder` rightly."""
    config = ViTConfig(img_size=16, patch_size=4, num_classes=3, embed_dim=16, depth=2, num_heads=2)
    model = randomize(VisionTransformer(config), seed=23).float()
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
    assert main(["train", *arguments, "--epochs", "3", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    model, card = load_checkpoint(out)
    assert card.name == "mine"
    assert card.classes == tuple("0123456789")
    assert card.data == "scikit-learn digits"
    assert (card.training["epochs"], card.training["seed"]) == (3, 3)
    assert card.training["command"] == (
        "vit-tutorial train --recipe digits --data digits --epochs 3 --seed 3 "
        + " ".join(f"--{way} {card.training[way]}" for way in ("precision", "attention", "threads"))
    )
    assert {"hardware", "date", "commit", "seconds"} <= set(card.training)
    assert card.evaluation["n"] == 360
    assert card.evaluation["correct"] > 45  # guessing gives 36
    assert card.fingerprint == data.digits("train").fingerprint()
    assert printed == (
        f"{card.evaluation['correct']} of 360 test images of scikit-learn digits classified "
        f"correctly: "
        f"{card.evaluation['accuracy']:.2f}%\n"
    )

    assert main(["evaluate", "--checkpoint", str(out), "--data", "digits"]) == 0
    sentence, report = capsys.readouterr().out.split("\n\n", 1)
    assert sentence.startswith(printed.rstrip())
    assert "\nNone of them is known to be among the 1437 trained on." in sentence
    assert len(report.splitlines()) == 12  # a head, a line for each digit, and the mean
    options = ["--json", "--batch-size", "33"]
    assert main(["evaluate", "--checkpoint", str(out), "--data", "digits", *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer.pop("data"), answer.pop("split")) == ("scikit-learn digits", "test")
    assert answer.pop("trained_on") == 0
    result = evaluate(model, data.digits("test"), card.mean, card.std)
    assert answer.pop("interval") == list(result.interval)
    assert answer == {key: card.evaluation[key] for key in ("accuracy", "n", "correct")}
    assert result.correct == answer["correct"]


def test_evaluate_measures_a_folder_of_ones_own_in_several_sizes(tiny, folder, capsys):
    arguments = ["evaluate", "--checkpoint", str(tiny), "--data", str(folder)]
    assert main([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    model, card = load_checkpoint(tiny)
    expected = evaluate(model, data.image_folder(folder, 16), card.mean, card.std)
    low, high = expected.interval
    assert json.loads(out) == {
        "accuracy": expected.accuracy,
        "n": 9,
        "correct": expected.correct,
        "interval": [low, high],
        "data": "mine",
        "split": "",
        "trained_on": None,
    }
    assert main(arguments) == 0
    assert capsys.readouterr() == (
        f"{expected.correct} of 9 images of mine classified correctly: {expected.accuracy:.2f}% "
        f"(95% interval: {low:.2f}% to {high:.2f}%)\n"
        "Data unknown: the card does not say whether these images were trained on.\n\n"
        f"{expected.report()}\n",
        "",
    )


def test_evaluate_draws_the_confusion(tiny, folder, tmp_path, monkeypatch, capsys):
    drawn = []
    draw = plots.confusion_matrix
    monkeypatch.setattr(
        "vit_tutorial.plots.confusion_matrix", lambda *given: drawn.append(given) or draw(*given)
    )
    picture = tmp_path / "confusion.png"
    picture.write_text("an older one")
    arguments = ["evaluate", "--checkpoint", str(tiny), "--data", str(folder)]
    assert main([*arguments, "--confusion", str(picture)]) == 0
    assert capsys.readouterr().out.endswith(f"\nPicture: {picture}\n")
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
    model, card = load_checkpoint(tiny)
    expected = evaluate(model, data.image_folder(folder, 16), card.mean, card.std)
    ((confusion, classes),) = drawn
    assert confusion.tolist() == expected.confusion.tolist()
    assert classes == card.classes
    assert main([*arguments, "--confusion", str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 9


@pytest.mark.parametrize(
    ("place", "sentence"),
    [("no/a.png", "No such file"), ("mine", "it is a folder"), ("tiny.json/a.png", "Not a dir")],
)
def test_a_confusion_that_cannot_be_written_is_refused_before_any_work(
    place, sentence, tiny, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("vit_tutorial.evaluation.evaluate", None)  # would fail when called
    arguments = ["--checkpoint", tiny, "--data", folder, "--confusion", tmp_path / place]
    before = set(tmp_path.rglob("*"))
    error = refused(capsys, "evaluate", *arguments)
    assert f"{tmp_path / place} cannot be written: {sentence}" in error
    assert set(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_older_picture(tiny, folder, tmp_path, monkeypatch, capsys):
    def fill(figure, path, **_):
        path.write_bytes(b"half a pict")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fill)
    picture = tmp_path / "confusion.png"
    picture.write_text("an older one")
    arguments = ["--checkpoint", tiny, "--data", folder, "--confusion", picture]
    assert "No space left on device" in refused(capsys, "evaluate", *arguments)
    assert picture.read_text() == "an older one"
    assert not list(tmp_path.glob("*.partial"))


def test_broken_images_are_left_out_and_named(tiny, folder, capsys):
    (folder / "red" / "broken.jpg").write_bytes(b"no image")
    (folder / "green" / "empty.png").touch()
    assert main(["evaluate", "--checkpoint", str(tiny), "--data", str(folder), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["n"] == 9
    assert err.startswith("2 files left out: ")
    assert "broken.jpg" in err
    assert "empty.png" in err
    assert err.count("\n") == 2  # the other says that the data are unknown
    assert main(["evaluate", "--checkpoint", str(tiny), "--data", str(folder)]) == 1
    capsys.readouterr()
    arguments = ["--checkpoint", tiny, "--data", folder, "--on-error", "raise"]
    assert "not an image that Pillow can read" in refused(capsys, "evaluate", *arguments)


def test_a_class_folder_without_images_is_refused(tiny, folder, capsys):
    for file in (folder / "green").iterdir():
        file.unlink()
    error = refused(capsys, "evaluate", "--checkpoint", tiny, "--data", folder)
    assert f"{folder / 'green'} holds no image that can be read" in error


def test_one_class_is_enough(tiny, folder, tmp_path, capsys):
    for name in ("blue", "green"):
        shutil.rmtree(folder / name)
    picture = tmp_path / "confusion.png"
    arguments = ["--checkpoint", str(tiny), "--data", str(folder), "--confusion", str(picture)]
    assert main(["evaluate", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[4:]}
    assert list(rows) == ["red", "mean", "Picture:"]
    model, card = load_checkpoint(tiny)
    images = data.image_folder(folder, 16).relabelled(card.classes)
    share = evaluate(model, images, card.mean, card.std).accuracy / 100
    assert 0 < share < 1  # some are taken for a class of which there are no images
    assert rows["red"] == rows["mean"]
    assert (rows["red"][0], rows["red"][1], rows["red"][3]) == ("1.000", f"{share:.3f}", "4")
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_grey_images_are_read_for_a_network_of_colours(tiny, folder, tmp_path, capsys):
    for file in folder.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    arguments = ["evaluate", "--checkpoint", str(tiny), "--data", str(folder), "--json"]
    assert main(arguments) == 0
    grey = capsys.readouterr()
    for file in folder.rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    assert main(arguments) == 0
    assert capsys.readouterr() == grey
    assert json.loads(grey.out)["n"] == 9


def test_classes_in_another_order_are_matched_by_name(tiny, folder, capsys):
    """The network's classes need not be in the order of the alphabet, as folders are."""
    arguments = ["evaluate", "--checkpoint", str(tiny), "--data", str(folder), "--json"]
    model, card = load_checkpoint(tiny)
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        same, _ = load_checkpoint(tiny)  # the same network, its answers in another order
        same.head.weight.data, same.head.bias.data = (p[order] for p in model.head.parameters())
        classes = tuple(card.classes[i] for i in order)
        save_checkpoint(same, tiny.with_name("same"), replace(card, classes=classes))
        arguments[2] = str(tiny.with_name("same"))
        assert main(arguments) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert 0 < found[0]["correct"] < 9


def test_a_folder_with_fewer_classes_is_matched_by_name(tiny, folder, capsys):
    shutil.rmtree(folder / "blue")
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
    assert "not a complete safetensors file" in refused(
        capsys, "evaluate", "--checkpoint", tiny, "--data", folder
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_before_any_work(tiny, folder, capsys):
    error = refused(capsys, "evaluate", "--checkpoint", tiny, "--data", folder, "--device", "cuda")
    assert "--device cuda cannot be used" in error


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"--recipe": "cake"},
            "must be one of smoke, digits, laptop, overnight, ",
        ),
        ({"--epochs": "0"}, "epochs must be 1, 2, ..., got 0"),
        ({"--epochs": "-4"}, "got -4"),
        ({"--data": "nowhere"}, 'expected "cifar10", "digits" or an image folder'),
        ({"--device": "abacus"}, "--device abacus cannot be used"),
        ({"--batch-size": "0"}, "batch_size must be 1, 2, ..., got 0"),
        ({"--minutes": "0.0001"}, "one epoch takes about"),
    ],
)
def test_train_refuses_in_one_line_and_writes_nothing(changes, sentence, tmp_path, capsys):
    out = tmp_path / "new.safetensors"
    given = {"--recipe": "digits", "--data": "digits", "--out": out, **changes}
    error = refused(capsys, "train", *(part for pair in given.items() for part in pair))
    assert sentence in error
    assert not list(tmp_path.iterdir())


def test_the_first_of_several_processes_measures_the_epochs_for_all(tmp_path, monkeypatch, capsys):
    """Each would find another number, and then wait for the others for ever."""
    monkeypatch.setattr("vit_tutorial.train.epochs_within", lambda *_: 9)
    monkeypatch.setattr("vit_tutorial.distributed.broadcast", lambda number: number - 8)
    out = tmp_path / "new.safetensors"
    arguments = ["train", "--recipe", "digits", "--data", "digits", "--device", "cpu"]
    assert main([*arguments, "--out", str(out), "--minutes", "1"]) == 0
    assert "1 epochs fit into 1 minutes" in capsys.readouterr().out
    assert load_checkpoint(out)[1].training["epochs"] == 1


@pytest.mark.parametrize(
    ("rank", "told"),
    [(0, "Stopped. The same command with --resume goes on from where the run was last saved.\n"),
     (1, "")],
)  # fmt: skip
def test_of_several_processes_that_are_stopped_the_first_says_so(
    rank, told, tmp_path, monkeypatch, capsys
):
    (tmp_path / "begun.state").touch()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vit_tutorial.cli._train_on", stop)
    monkeypatch.setattr("vit_tutorial.distributed.rank", lambda: rank)
    monkeypatch.setattr("vit_tutorial.distributed.world_size", lambda: 2)
    arguments = ["train", "--recipe", "digits", "--data", "digits", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "begun.safetensors")]) == 130
    assert capsys.readouterr().err == told
    assert main([*arguments, "--out", str(tmp_path / "never.safetensors")]) == 130
    assert capsys.readouterr().err == "", "there is nothing to go on with"


def test_minutes_fix_the_epochs_and_resume_keeps_them(tmp_path, monkeypatch, capsys):
    """The number that was measured is stored: a second measurement would give another."""
    monkeypatch.setattr("vit_tutorial.train.epochs_within", lambda minutes, *_: int(minutes * 4))
    arguments = ["train", "--recipe", "digits", "--data", "digits", "--device", "cpu"]
    arguments += ["--out", str(tmp_path / "new.safetensors")]

    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vit_tutorial.run.Run.end_epoch", stop)
        assert main([*arguments, "--minutes", "0.5"]) == 130
    said, told = capsys.readouterr()
    assert "2 epochs fit into 0.5 minutes on this machine." in said
    assert "The same command with --resume goes on from here." in told
    error = refused(capsys, *arguments, "--epochs", "5", "--resume")
    assert "new.safetensors goes on as it was begun, with epochs=2, got --epochs 5" in error
    error = refused(capsys, *arguments, "--seed", "5", "--resume")
    assert "goes on as it was begun, with seed=0, got --seed 5" in error
    error = refused(capsys, *arguments, "--threads", "3", "--resume")
    assert "goes on as it was begun, with threads=0, got --threads 3" in error
    monkeypatch.setattr("vit_tutorial.train.epochs_within", lambda *_: pytest.fail("measured anew"))
    assert main([*arguments, "--minutes", "0.5", "--resume"]) == 0, "the same command, literally"
    card = load_checkpoint(tmp_path / "new")[1]
    assert card.training["epochs"] == 2
    assert "--epochs 2" in card.training["command"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "new.csv",
        "new.json",
        "new.safetensors",
    ]


def smoke(folder, out, *more) -> list[str]:
    arguments = ["train", "--recipe", "smoke", "--data", str(folder), "--batch-size", "4"]
    return [*arguments, "--out", str(out), "--device", "cpu", *more]


def test_train_takes_a_folder_as_people_have_it(folder, tmp_path, capsys):
    """Grey, palette, CMYK and transparent images, many sizes, and one that is broken."""
    Image.new("L", (7, 90), 30).save(folder / "blue" / "grey.png")
    Image.new("P", (64, 33), 7).save(folder / "blue" / "palette.gif")
    Image.new("CMYK", (40, 41), (0, 90, 90, 0)).save(folder / "red" / "print.jpg")
    Image.new("RGBA", (32, 32), (0, 255, 0, 9)).save(folder / "green" / "glass.png")
    (folder / "green" / "broken.png").write_bytes(b"no image")
    (folder / "green" / "notes.txt").write_text("no image, and not taken for one")
    assert main(smoke(folder, tmp_path / "new.safetensors")) == 1
    out, err = capsys.readouterr()
    assert "2 files left out" in err
    assert "broken.png" in err
    assert "held-out images of mine classified correctly" in out
    card = load_checkpoint(tmp_path / "new")[1]
    assert card.classes == tuple(COLOURS)
    assert card.evaluation["n"] == 3  # one of each class
    (folder / "green" / "broken.png").unlink()
    assert main(smoke(folder, tmp_path / "new.safetensors")) == 0, "notes are no fault"


def test_a_folder_of_ones_own_needs_no_recipe(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vit_tutorial.cli.FEWEST_STEPS", 75)
    command = ["train", "--data", str(folder), "--out", str(tmp_path / "new"), "--device", "cpu"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "The recipe is laptop: " in said
    assert "The batch size is 1, not 128: there are 6 images to train on." in said
    assert "It takes 13 epochs, not 12: one has few steps." in said
    training = load_checkpoint(tmp_path / "new")[1].training
    assert training["epochs"] == 13
    assert "--recipe laptop --data mine --epochs 13" in training["command"]
    assert main([*command, "--epochs", "1"]) == 0
    assert "epochs, not" not in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "new")[1].training["epochs"] == 1


@pytest.mark.parametrize("out", ["", ".", "/"])
def test_a_checkpoint_needs_a_name_before_any_work_is_done(out, folder, capsys):
    assert "expected the name of a file" in refused(capsys, *smoke(folder, out))


@pytest.fixture
def trained(folder, tmp_path, capsys):
    """A network of the smoke recipe, trained on `folder` without a word on how."""
    arguments = ["--recipe", "smoke", "--data", str(folder), "--device", "cpu"]
    assert main(["train", *arguments, "--out", str(tmp_path / "new.safetensors")]) == 0
    return tmp_path / "new.safetensors", *capsys.readouterr()


def test_a_few_images_are_trained_on_without_flags(trained):
    out, printed, _ = trained
    assert "The batch size is 1, not 128: there are 6 images to train on." in printed
    card = load_checkpoint(out)[1]
    assert card.training["batch_size"] == 1
    assert "of 3 held-out images of mine classified correctly" in printed
    assert (card.evaluation["data"], card.evaluation["split"]) == ("mine", "held-out")


def test_evaluate_counts_the_held_out_images_of_the_folder_that_was_trained_on(
    trained, folder, capsys
):
    out, printed, _ = trained
    arguments = ["evaluate", "--checkpoint", str(out), "--data", str(folder)]
    assert main(arguments) == 0
    again = capsys.readouterr().out
    assert again.startswith(printed.splitlines()[-1])
    assert "None of them is known to be among the 6 trained on." in again


def test_evaluate_says_how_many_images_it_was_trained_on(trained, folder, tmp_path, capsys):
    """The folder has grown: it is split in another way than before, and so counted as a whole."""
    Image.new("RGB", (20, 20), (9, 9, 9)).save(folder / "blue" / "more.png")
    arguments = ["evaluate", "--checkpoint", str(trained[0]), "--data", str(folder)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "of 10 images of mine classified correctly" in printed
    assert "Careful: the network was trained on 6 of these images" in printed
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["trained_on"] == 6
    assert "Careful" in err


def test_named_splits_are_named_and_a_leak_between_them_is_said(folder, tmp_path, capsys):
    for name in COLOURS:
        (tmp_path / "set" / "Val" / name).mkdir(parents=True)
        shutil.copy(folder / name / "0.png", tmp_path / "set" / "Val" / name)
    shutil.move(folder, tmp_path / "set" / "Train")
    assert main(smoke(tmp_path / "set", tmp_path / "new.safetensors")) == 0
    printed = capsys.readouterr().out
    assert "of 3 images of set/Val classified correctly" in printed
    assert "Careful: the network was trained on 3 of these images" in printed
    assert load_checkpoint(tmp_path / "new")[1].data == "set/Train"


def test_train_and_evaluate_open_twelve_bits_by_their_range(folder, tmp_path, capsys):
    for file in folder.rglob("*.png"):
        grey = np.asarray(Image.open(file).convert("L")).astype(np.uint16)
        Image.fromarray(grey * 16).save(file)
    assert main(smoke(folder, tmp_path / "dark")) == 0
    error = capsys.readouterr().err
    assert "value_range=(0, 4095)" in error
    assert "(and 8 more like it)" in error
    value_range = ["--value-range", "0", "4080"]
    assert main(smoke(folder, tmp_path / "new", *value_range)) == 0
    card = load_checkpoint(tmp_path / "new")[1]
    assert card.mean[0] > 10 * load_checkpoint(tmp_path / "dark")[1].mean[0]
    assert card.training["command"].endswith(" --value-range 0 4080")
    printed = capsys.readouterr().out.splitlines()[-1]
    arguments = ["--checkpoint", str(tmp_path / "new"), "--data", str(folder), *value_range]
    assert main(["evaluate", *arguments]) == 0
    assert capsys.readouterr().out.startswith(printed)


def test_train_refuses_folders_from_which_nothing_can_be_learnt(folder, tmp_path, capsys):
    (folder / "empty").mkdir()
    assert "empty" in refused(capsys, *smoke(folder, tmp_path / "new"))
    (folder / "empty").rmdir()
    (folder / "blue" / "0.png").unlink()
    error = refused(capsys, *smoke(folder, tmp_path / "new"))
    assert "mine has one image of blue: a class needs two" in error
    for name in ("green", "blue"):
        shutil.rmtree(folder / name)
    error = refused(capsys, *smoke(folder, tmp_path / "new"))
    assert "a network learns to tell classes apart, mine has only red" in error
    assert not list(tmp_path.glob("new*"))


def test_a_full_disk_at_the_end_of_a_training_loses_nothing(folder, tmp_path, monkeypatch, capsys):
    """No file may grow beyond 100 bytes when the checkpoint is written; then there is room."""
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    make_checkpoint = train.make_checkpoint

    def on_a_full_disk(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            return make_checkpoint(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    command = smoke(folder, tmp_path / "new.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(train, "make_checkpoint", on_a_full_disk)
        assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "new.safetensors cannot be written" in error
    assert "--resume" in error
    assert sorted(path.name for path in tmp_path.glob("new*")) == ["new.csv", "new.state"]
    assert main([*command, "--resume"]) == 0
    assert load_checkpoint(tmp_path / "new")[1].evaluation["n"] == 3


def test_a_reader_that_goes_away_ends_a_command_without_complaint(tiny, folder):
    """As `head -1` does, which has then read enough."""
    command = [sys.executable, "-m", "vit_tutorial", "evaluate", "--checkpoint", tiny]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*command, "--data", folder], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_command_without_a_console_works(tiny, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["evaluate", "--checkpoint", str(tiny), "--data", str(folder)]) == 0


def test_missing_arguments_and_unknown_commands_are_usage_errors(capsys):
    for arguments in ([], ["train"], ["evaluate", "--data", "digits"], ["fly"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert "usage: vit-tutorial" in capsys.readouterr().err


# ---- explain ----


def test_explain_writes_a_picture_beside_the_photograph_and_says_what_it_sees(tiny, photo, capsys):
    before = photo.read_bytes()
    assert main(["explain", str(photo), "--model", str(tiny)]) == 0
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
    assert f"Picture: {picture}\n" in out


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
def test_explain_shows_another_picture_for_another_fit(fit, tiny, photo, tmp_path, capsys):
    out = tmp_path / "out.png"
    arguments = [str(photo), "--model", str(tiny), "--fit", fit, "--out", str(out)]
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
    arguments = [str(tmp_path / "grey.png"), "--model", str(tmp_path / "grey")]
    assert main(["explain", *arguments]) == 0
    assert (tmp_path / "grey.explained.png").is_file()
    capsys.readouterr()


def test_explain_refuses_in_one_line(tiny, photo, tmp_path, capsys):
    note = tmp_path / "note.txt"
    note.write_text("no picture")
    before = {path.name for path in tmp_path.iterdir()}
    for arguments, sentence in [
        ([tmp_path / "none.jpg", "--model", tiny], "there is no file"),
        ([note, "--model", tiny], "not an image that Pillow can read"),
        ([tmp_path, "--model", tiny], "got the folder"),
        ([photo, "--model", "bananas"], "no file bananas.safetensors"),
        ([photo, "--model", tiny, "--fit", "squeeze"], 'fit must be "crop", "pad"'),
        ([photo, "--model", tiny, "--query", "cls"], "query must be a token from 0 to"),
        ([photo, "--model", tiny, "--query", "0,9"], "grid, got (0, 9)"),
        ([photo, "--model", tiny, "--out", tmp_path / "no" / "a.png"], "No such file"),
    ]:
        assert sentence in refused(capsys, "explain", *arguments)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_explain_makes_a_sheet_of_several_images_and_a_picture_beside_each(
    tiny, photo, tmp_path, capsys
):
    other = tmp_path / "other.png"
    Image.new("RGB", (50, 30), "green").save(other)
    sheet = tmp_path / "sheet.png"
    assert main(["explain", str(photo), str(other), "--model", str(tiny), "--out", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert image.format == "PNG"
    assert not other.with_name("other.explained.png").exists()
    assert main(["explain", str(photo), str(other), "--model", str(tiny)]) == 0
    assert other.with_name("other.explained.png").is_file()
    assert capsys.readouterr().out.count("Picture: ") == 3


@pytest.mark.parametrize("method", [*METHODS, "last-layer", "grad-cam"])
def test_explain_knows_every_method(method, tiny, photo, tmp_path, capsys):
    out = tmp_path / "out.png"
    arguments = [str(photo), "--model", str(tiny), "--out", str(out), "--method", method]
    assert main(["explain", *arguments]) == 0
    assert out.is_file()
    page = tmp_path / "page.html"
    assert main(["explain", *arguments[:4], str(page), "--method", method]) == 0
    capsys.readouterr()


def test_explain_writes_pages_and_moving_pictures(tiny, photo, tmp_path, capsys):
    other = tmp_path / "other.png"
    Image.new("RGB", (50, 30), "green").save(other)
    both, model = [str(photo), str(other)], ["--model", str(tiny)]
    assert main(["explain", *both, *model, "--out", str(tmp_path / "all.html")]) == 0
    text = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert text.count('"answer":') == 2
    assert main(["explain", *both, *model, "--out", str(tmp_path / "pages")]) == 0
    pages = {path.name for path in (tmp_path / "pages").iterdir()}
    assert pages == {"photo.html", "other.html"}
    (tmp_path / "more").mkdir()
    Image.new("RGB", (50, 30), "red").save(tmp_path / "more" / "other.jpg")
    both = [str(other), str(tmp_path / "more" / "other.jpg")]
    assert main(["explain", *both, *model, "--out", str(tmp_path / "two")]) == 0
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"other.html", "other_2.html"}
    assert main(["explain", str(photo), *model, "--out", str(tmp_path / "a.gif")]) == 0
    with Image.open(tmp_path / "a.gif") as image:
        assert image.format == "GIF"
    capsys.readouterr()


def test_explain_looks_from_where_it_is_asked_to(tiny, photo, tmp_path, capsys):
    pictures = {}
    for query in (None, "head", "0", "patches", "all", "1", "0,0", "1,1"):
        out = tmp_path / "out.png"
        asked = [] if query is None else ["--query", query]
        assert main(["explain", str(photo), "--model", str(tiny), "--out", str(out), *asked]) == 0
        pictures[query] = np.asarray(Image.open(out)).tobytes()
    capsys.readouterr()
    assert pictures[None] == pictures["head"] == pictures["0"]  # it reads CLS
    assert pictures["1"] == pictures["0,0"]
    assert len(set(pictures.values())) == 5
    page = tmp_path / "page.html"
    assert (
        main(["explain", str(photo), "--model", str(tiny), "--out", str(page), "--query", "1,1"])
        == 0
    )


def test_explain_reads_larger_images_for_a_finer_map(tiny, photo, tmp_path, capsys):
    out = tmp_path / "fine.html"
    arguments = [str(photo), "--model", str(tiny), "--size", "16", "--out", str(out)]
    assert main(["explain", *arguments]) == 0
    rows = load_checkpoint(tiny)[0].resized(16).config.grid[0]
    assert f'"rows":{rows},' in out.read_text(encoding="utf-8")
    capsys.readouterr()


def test_explain_takes_a_class_a_fusion_of_heads_and_a_share_to_discard(
    tiny, photo, tmp_path, capsys, monkeypatch
):
    asked = []
    real = explain.explain
    keep = lambda *a, **options: asked.append(options) or real(*a, **options)  # noqa: E731
    monkeypatch.setattr(explain, "explain", keep)
    pictures = {}
    for options in (
        (),
        ("--target", "green"),
        ("--target", "2"),
        ("--target", "red", "--method", "legrad"),
        ("--head-fusion", "min"),
        ("--discard", "0.5"),
    ):
        out = tmp_path / "out.png"
        assert main(["explain", str(photo), "--model", str(tiny), "--out", str(out), *options]) == 0
        pictures[options] = np.asarray(Image.open(out)).tobytes()
    capsys.readouterr()
    assert len(set(pictures.values())) == 6
    expected = [
        ("rollout", None, "mean", 0),
        ("chefer", "green", "mean", 0),
        ("chefer", "2", "mean", 0),
        ("legrad", "red", "mean", 0),
        ("rollout", None, "min", 0),
        ("rollout", None, "mean", 0.5),
    ]
    names = ("method", "target", "head_fusion", "discard_ratio")
    assert [tuple(options[name] for name in names) for options in asked] == expected
    page = tmp_path / "page.html"
    command = ["explain", str(photo), "--model", str(tiny), "--out", str(page)]
    assert main([*command, "--target", "green"]) == 0
    text = page.read_text(encoding="utf-8")
    assert '"target":"green"' in text
    assert '"show":"Chefer"' in text


def test_explain_says_what_it_cannot_do(tiny, photo, tmp_path, capsys):
    asked, note = [photo, "--model", tiny], tmp_path / "note"
    note.write_text("a file in the way")
    for arguments, sentence in [
        ([*asked, "--method", "magic"], "method must be one of last_layer, rollout, chefer"),
        ([*asked, "--method", "magic", "--out", tmp_path / "a.html"], "method must be one of"),
        ([*asked, "--out", tmp_path / "a.tiff"], "must be a .png, an .html, a .gif or a folder"),
        ([*asked, "--out", note], "must be a .png, an .html, a .gif or a folder"),
        ([*asked, "--out", note / "a.png"], "note"),
        ([photo, photo, "--model", tiny, "--out", tmp_path / "a.gif"], "shows one image, got 2"),
        ([*asked, "--target", "grene"], "target must be a class (green) or its number from 0 to 2"),
        ([*asked, "--target", "red", "--method", "rollout"], "'rollout' does not use target"),
        ([*asked, "--discard", "0.5", "--method", "chefer"], "does not use discard_ratio, got 0.5"),
        ([*asked, "--head-fusion", "max", "--method", "last_layer"], "does not use head_fusion"),
        ([*asked, "--query", "0", "--method", "legrad"], "'legrad' does not use query, got 0"),
        ([*asked, "--head-fusion", "sum"], "head_fusion must be one of mean, max, min"),
        ([*asked, "--discard", "1"], "discard_ratio must be in 0..1, 1 excluded, got 1.0"),
        ([photo, "--model", "foo:bar"], "torchvision:NAME, timm:NAME or hf:NAME, got 'foo:bar'"),
    ]:
        assert sentence in refused(capsys, "explain", *arguments)


def test_explain_writes_pages_into_a_folder_of_any_name(tiny, photo, tmp_path, capsys):
    out = tmp_path / "v1.2"
    out.mkdir()
    assert main(["explain", str(photo), "--model", str(tiny), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == f"Written: {out / 'photo.html'}"
    assert (out / "photo.html").is_file()


@pytest.fixture
def five(photo, tmp_path):
    """Five files of which the third is no image, whatever it is called."""
    for name in "abde":
        shutil.copy(photo, tmp_path / f"{name}.jpg")
    photo.unlink()
    (tmp_path / "c.jpg").write_bytes(b"no image")
    return [str(tmp_path / f"{name}.jpg") for name in "abcde"]


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ([], {f"{name}.explained.png" for name in "abde"}),
        (["sheet.png"], {"sheet.png"}),
        (["all.html"], {"all.html"}),
        (["pages"], {f"pages/{name}.html" for name in "abde"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else "",
)
def test_explain_does_the_others_where_one_cannot_be_read(
    out, expected, tiny, five, tmp_path, capsys
):
    before = set(tmp_path.rglob("*"))
    where = ["--out", str(tmp_path / out[0])] if out else []
    assert main(["explain", *five, "--model", str(tiny), *where]) == 1
    made = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    assert {path.relative_to(tmp_path).as_posix() for path in made} == expected
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("vit-tutorial explain: left out: ")
    assert "c.jpg: not an image that Pillow can read" in error
    if out == ["all.html"]:
        assert (tmp_path / "all.html").read_text(encoding="utf-8").count('"answer":') == 4


def test_explain_keeps_apart_what_differs_in_its_ending(tiny, photo, tmp_path, capsys):
    Image.new("RGB", (50, 30), "green").save(tmp_path / "photo.png")
    assert main(["explain", str(photo), str(tmp_path / "photo.png"), "--model", str(tiny)]) == 0
    made = {path.name for path in tmp_path.glob("*.explained.png")}
    assert made == {"photo.explained.png", "photo.png.explained.png"}
    capsys.readouterr()


def test_explain_refuses_where_none_can_be_read(tiny, five, tmp_path, capsys):
    for name in "abde":
        (tmp_path / f"{name}.jpg").write_bytes(b"no image")
    for out in ([], ["--out", str(tmp_path / "a.png")], ["--out", str(tmp_path / "a.html")]):
        assert main(["explain", *five, "--model", str(tiny), *out]) == 2
        assert capsys.readouterr().err.count("not an image") == 5
    assert not list(tmp_path.glob("a.png")) + list(tmp_path.glob("a.html"))


def test_explain_expands_patterns_as_a_shell_does(tiny, five, tmp_path, capsys):
    (tmp_path / "a[1].jpg").write_bytes((tmp_path / "a.jpg").read_bytes())  # is a file itself
    patterns = [str(tmp_path / "[bd].jpg"), str(tmp_path / "a[1].jpg")]
    assert main(["explain", *patterns, "--model", str(tiny)]) == 0
    made = {path.name for path in tmp_path.glob("*.explained.png")}
    assert made == {"b.explained.png", "d.explained.png", "a[1].explained.png"}
    capsys.readouterr()
    error = refused(capsys, "explain", tmp_path / "*.bmp", "--model", tiny)
    assert "there is no file that matches" in error


@pytest.mark.parametrize("out", ["", "all.html"])
def test_explain_opens_twelve_bits_by_their_range(out, tiny, tmp_path, capsys):
    deep = np.random.default_rng(0).integers(0, 4096, (40, 60)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    plain = np.rint(deep / 4095 * 255).astype(np.uint8)
    (tmp_path / "plain").mkdir()
    Image.fromarray(plain).save(tmp_path / "plain" / "deep.png")
    made = []
    for folder, more in ((tmp_path, ["--value-range", "0", "4095"]), (tmp_path / "plain", [])):
        where = ["--out", str(folder / out)] if out else []
        photo = str(folder / "deep.png")
        assert main(["explain", photo, "--model", str(tiny), *more, *where]) == 0
        made.append((folder / (out or "deep.explained.png")).read_bytes())
    assert made[0] == made[1]
    capsys.readouterr()


# ---- help ----


@pytest.mark.parametrize(
    ("asked", "named"),
    [(["--help"], ["doctor", "train", "evaluate", "explain"]), (["explain", "--help"], METHODS)],
)
def test_the_command_answers_help_without_loading_torch(asked, named):
    code = (
        "import sys\n"
        "from vit_tutorial.cli import main\n"
        f"try: main({asked})\n"
        "finally: assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in named:
        assert name in done.stdout


@pytest.mark.parametrize("module", ["vit_tutorial", "vit_tutorial.cli"])
def test_python_dash_m_is_the_same_command(module):
    for arguments, code, stream in ((["--help"], 0, "stdout"), (["fly"], 2, "stderr")):
        command = [sys.executable, "-m", module, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert getattr(done, stream).startswith("usage: vit-tutorial ")
