"""Folders as people have them: names of splits, zips, and what systems leave in them."""

import io
import os
import unicodedata
import zipfile

import pytest
from PIL import Image
from test_data import make_folder

from vit_tutorial import folders
from vit_tutorial.data import image_folder, load, load_train_test
from vit_tutorial.folders import UnreadableWarning

FIVE = {"cat": ["#010000", "#020000"], "dog": ["#030000", "#040000", "#050000"]}
TWO = {"cat": ["#060000"], "dog": ["#070000"]}


def reds(images) -> list[int]:
    """The colour of each image, which is its number."""
    return images.images[:, 0, 0, 0].tolist()


def zipped(folder, target, inside=""):
    """Pack a folder, with entries for its folders or (as many programs do) without."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, inside + path.relative_to(folder).as_posix())
    return target


@pytest.mark.parametrize("deeper", ["", "pets", "downloads/pets"])
@pytest.mark.parametrize(
    ("train_name", "test_name"),
    [
        ("train", "val"),
        ("Train", "VALID"),
        ("training", "validation"),
        ("Train_Set", "Test-Images"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_splits_are_found_by_any_of_their_names(packed, train_name, test_name, deeper, tmp_path):
    root = tmp_path / "mine"
    make_folder(root / deeper / train_name, **FIVE)
    make_folder(root / deeper / test_name, **TWO)
    source = zipped(root, tmp_path / "mine.zip") if packed else root
    train, test = load_train_test(source)
    assert (reds(train), reds(test)) == ([1, 2, 3, 4, 5], [6, 7])
    assert (train.name, test.name) == (f"mine/{train_name}", f"mine/{test_name}")
    assert reds(load(source, "test")) == [6, 7]
    assert train.classes == test.classes == ("cat", "dog")


def test_of_test_and_val_the_first_is_the_test_set_and_the_other_is_named(tmp_path):
    for number, name in enumerate(("train", "val", "test")):
        make_folder(tmp_path / "set" / name, cat=[f"#0{number}0000"], dog=["white"])
    with pytest.warns(UserWarning, match=r"not used of .*set: val/$"):
        train, test = load_train_test(tmp_path / "set")
    assert (reds(train)[0], reds(test)[0]) == (0, 2)


def test_a_class_may_be_called_like_a_split(tmp_path):
    """Photographs of trains are in `train`; a split has folders in it."""
    make_folder(tmp_path / "set", bus=["red"] * 5, train=["blue"] * 5)
    assert load(tmp_path / "set", "test").classes == ("bus", "train")
    assert len(load_train_test(tmp_path / "set")[0]) == 8


def test_train_alone_is_split_and_a_test_set_alone_is_refused_for_training(tmp_path):
    make_folder(tmp_path / "a" / "train", cat=["red"] * 10, dog=["blue"] * 10)
    train, test = load_train_test(tmp_path / "a")
    assert (len(train), len(test)) == (16, 4)
    make_folder(tmp_path / "b" / "val", **FIVE)
    assert len(load(tmp_path / "b", "test")) == 5
    with pytest.raises(ValueError, match=r"b has val/ and no train or training"):
        load_train_test(tmp_path / "b")


def test_splits_in_a_folder_beside_others_are_found(tmp_path):
    make_folder(tmp_path / "set" / "images" / "train", **FIVE)
    make_folder(tmp_path / "set" / "images" / "val", **TWO)
    (tmp_path / "set" / "annotations").mkdir()
    with pytest.warns(UserWarning, match=r"not used of .*set: annotations/$"):
        assert len(load_train_test(tmp_path / "set")[1]) == 2


def test_images_without_a_class_beside_train_are_named(tmp_path):
    make_folder(tmp_path / "set" / "train", cat=["red"] * 5, dog=["blue"] * 5)
    make_folder(tmp_path / "set", test=["red"] * 5)
    (tmp_path / "set" / "sample.csv").touch()
    with pytest.warns(UserWarning, match=r"not used of .*set: sample.csv, test/$"):
        train, held_out = load_train_test(tmp_path / "set")
    assert (len(train), len(held_out), held_out.split) == (8, 2, "held-out")


def test_each_split_may_be_one_folder_deeper(tmp_path):
    make_folder(tmp_path / "set" / "training_set" / "training_set", **FIVE)
    make_folder(tmp_path / "set" / "test_set" / "test_set", **TWO)
    train, test = load_train_test(tmp_path / "set")
    assert (reds(train), reds(test)) == ([1, 2, 3, 4, 5], [6, 7])
    assert (train.name, test.name) == ("set/training_set", "set/test_set")


def test_two_splits_of_one_name_are_refused(tmp_path):
    make_folder(tmp_path / "set" / "train", **FIVE)
    make_folder(tmp_path / "set" / "Train", **TWO)
    if len(list((tmp_path / "set").iterdir())) == 1:
        pytest.skip("this file system takes them for one")
    with pytest.raises(ValueError, match=r"Train/ and train/: keep one"):
        load_train_test(tmp_path / "set")


@pytest.mark.parametrize("packed", [False, True])
def test_what_systems_leave_and_notes_are_left_out_and_listed(packed, tmp_path):
    folder = make_folder(tmp_path / "pets", **FIVE)
    plain = image_folder(folder)
    for place in (".DS_Store", "cat/Thumbs.db", "cat/._0.png", "dog/desktop.ini", "dog/labels.csv"):
        (folder / place).write_bytes(b"\0")
    (folder / "notes.txt").write_text("beside the classes")
    for hidden in (".git", "__MACOSX", "__MACOSX/cat"):
        (folder / hidden).mkdir()
    (folder / "__MACOSX" / "cat" / "._1.png").write_bytes(b"\0")
    source = zipped(folder, tmp_path / "pets.zip") if packed else folder
    with pytest.warns(UserWarning, match="left out") as warned:
        images = image_folder(source)
    assert images.fingerprint() == plain.fingerprint()
    said = str(warned[0].message)
    assert "2 files left out: dog/labels.csv, which is no image; notes.txt beside" in said
    for name in (".DS_Store", "Thumbs.db", "._0.png", "desktop.ini", "__MACOSX"):
        assert name in said


def test_the_letters_of_a_class_may_be_stored_in_two_ways(tmp_path):
    """A Mac takes "\u00e9" apart into a letter and an accent."""
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert composed != apart
    make_folder(tmp_path / "set" / "train", **{composed: ["#010000"], "bar": ["#020000"]})
    make_folder(tmp_path / "set" / "val", **{apart: ["#030000"], "bar": ["#040000"]})
    train, test = load_train_test(tmp_path / "set")
    assert train.classes == test.classes == ("bar", composed)
    assert test.labels.tolist() == train.labels.tolist() == [0, 1]
    assert test.relabelled([apart, "bar"]).labels.tolist() == [1, 0]
    both = make_folder(tmp_path / "both", **{composed: ["#010000"], apart: ["#020000"]})
    if len(list(both.iterdir())) == 2:
        assert image_folder(both).classes == (composed,)
        assert len(image_folder(both)) == 2


def test_a_zip_that_cannot_be_read_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match=r"broken\.zip cannot be read as a zip"):
        load(tmp_path / "broken.zip", "test")
    packed = zipped(make_folder(tmp_path / "pets", **FIVE), tmp_path / "locked.zip")
    content = bytearray(packed.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1  # the flag of an entry that is encrypted
    packed.write_bytes(content)
    with pytest.raises(ValueError, match=r"locked\.zip needs a password"):
        image_folder(packed)


def test_a_broken_image_in_a_zip_is_named(tmp_path):
    folder = make_folder(tmp_path / "pets", **FIVE)
    (folder / "cat" / "broken.jpg").write_bytes(b"no image")
    packed = zipped(folder, tmp_path / "pets.zip", inside="pets/")
    with pytest.raises(ValueError, match=r"cat/broken\.jpg"):
        load(packed, "test")
    with pytest.warns(UserWarning, match=r"1 file left out: .*broken\.jpg"):
        assert len(load(packed, "test", on_error="skip")) == 5


def test_splits_without_classes_are_not_taken_for_classes(tmp_path):
    make_folder(tmp_path / "set", train=["red"] * 5, val=["blue"] * 5)
    with pytest.raises(ValueError, match=r"set has train/, val/ with images in them: expected"):
        load_train_test(tmp_path / "set")


def test_splits_given_as_classes_are_refused_with_the_remedy(tmp_path):
    make_folder(tmp_path / "set" / "train", **FIVE)
    make_folder(tmp_path / "set" / "val", **TWO)
    with pytest.raises(ValueError, match=r"splits train/, val/, .*`load_train_test`"):
        image_folder(tmp_path / "set")


def test_a_test_set_of_other_classes_names_both_sets(tmp_path):
    make_folder(tmp_path / "set" / "train", **FIVE)
    make_folder(tmp_path / "set" / "val", cat=["red"], cow=["blue"])
    with pytest.raises(ValueError, match=r"set/val has classes that set/train does not .*: cow;"):
        load_train_test(tmp_path / "set")


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_ordinary_file_is_left_out_and_never_waited_for(kind, tmp_path):
    folder = make_folder(tmp_path / "pets", **FIVE)
    try:
        if kind == "pipe":
            os.mkfifo(folder / "cat" / "x.png")
        else:
            (folder / "cat" / "x.png").symlink_to("nothing")
    except (AttributeError, OSError):
        pytest.skip("this system does not have it")
    with pytest.warns(UnreadableWarning, match=r"1 file left out: .*link to nothing, pipe.*x\.png"):
        assert len(image_folder(folder, on_error="skip")) == 5


def test_a_class_whose_name_is_no_text_is_refused(tmp_path):
    folder = make_folder(tmp_path / "pets", **FIVE)
    try:
        os.rename(folder / "cat", os.fsencode(folder) + b"/ca\xff")
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    with pytest.raises(ValueError, match=r"the name of the folder .* is not in UTF-8: rename it"):
        image_folder(folder)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cat\\0.png", "cat"),  # by old programs of Windows
        ("/cat/0.png", "cat"),
        ("./pets/cat/0.png", "cat"),
        ("C:\\pets\\cat\\0.png", "cat"),
        ("caf\u00e9/0.png", "caf\u00e9"),  # by macOS: UTF-8 without the flag that says so
    ],
)
def test_paths_in_a_zip_are_read_as_they_were_meant(written, meant, tmp_path):
    pixels = io.BytesIO()
    Image.new("RGB", (4, 4), "#010000").save(pixels, "PNG")
    place = tmp_path / "pets.zip"
    utf8 = written.encode()
    alias = "_" * len(utf8)  # zipfile would write the flag, and another separator
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr(alias, pixels.getvalue())
    place.write_bytes(place.read_bytes().replace(alias.encode(), utf8))
    assert image_folder(place).classes == (meant,)


def test_no_path_in_a_zip_leads_out_of_it(tmp_path):
    folder = make_folder(tmp_path / "pets", **FIVE)
    packed = zipped(folder, tmp_path / "pets.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("../../evil/0.png", b"no image")
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.warns(UserWarning, match=r"1 hidden or system file left out: \.\."):
        assert len(image_folder(packed)) == 5
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_zip_of_many_folders_is_listed_once(tmp_path, monkeypatch):
    """zipfile.Path goes through all names of the archive for each folder."""
    folder = make_folder(tmp_path / "pets", **{f"{i}": ["red"] for i in range(30)})
    packed, read = zipped(folder, tmp_path / "pets.zip"), []
    monkeypatch.setattr(folders, "_path_in_zip", lambda entry: read.append(entry) or entry.filename)
    assert len(image_folder(packed)) == len(read) == 30
