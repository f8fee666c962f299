"""Labelled images: from a server that misbehaves, from folders as people have them, and offline."""

import hashlib
import io
import json
import pickle
import re
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import vit_tutorial.data as data
from vit_tutorial.data import (
    ImageSet,
    channel_stats,
    cifar10,
    data_root,
    digits,
    hold_out,
    image_folder,
    load,
    load_train_test,
    require_cifar10,
    stratified,
)
from vit_tutorial.download import checksum, fetch
from vit_tutorial.images import normalize

# Downloads


class Server(ThreadingHTTPServer):
    """Serves `payload`, well or badly, and notes the requests: (kind, Range header)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.payload = np.random.default_rng(0).bytes(200_000)
        self.requests = []
        self.closing = threading.Event()

    def url(self, kind):
        return f"http://127.0.0.1:{self.server_address[1]}/{kind}/file.bin"

    def handle_error(self, request, client_address):
        pass  # clients that hang up are what is tested


class Handler(BaseHTTPRequestHandler):
    """Answers in the way that the first part of the path names."""

    def do_GET(self):
        server = self.server
        assert isinstance(server, Server)
        kind, payload = self.path.split("/")[1], server.payload
        asked = self.headers.get("Range")
        server.requests.append((kind, asked))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if kind == "missing":
            return self.send_error(404)
        if kind in ("norange", "page"):
            start = 0
        if kind == "page":
            payload = b"<html>Please log in.</html>"
        if kind == "wrong":
            payload = payload[::-1]
        if kind == "elsewhere" and start:
            start += 1
        body = payload[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(payload) - 1}/{len(payload)}")
        if kind not in ("unsized", "elsewhere"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "cut":
            body = body[: len(body) // 2]
        elif kind == "stall":
            self.wfile.write(body[:1000])
            server.closing.wait(20)
            body = b""
        elif kind == "drip":
            while body and not server.closing.wait(0.03):
                self.wfile.write(body[: len(server.payload) // 50])
                body = body[len(server.payload) // 50 :]
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def get(server, tmp_path):
    """Fetch from sources of the named kinds; returns the target."""

    def get(*kinds, **options):
        sources = [kind if "://" in kind else server.url(kind) for kind in kinds]
        options = {"stall": 60.0, "slow": 0.0} | options
        fetch(
            sources,
            tmp_path / "new" / "file.bin",
            size=len(server.payload),
            md5=hashlib.md5(server.payload).hexdigest(),
            **options,
        )
        return tmp_path / "new" / "file.bin"

    return get


def leave_part(tmp_path, content):
    part = tmp_path / "new" / "file.bin.part"
    part.parent.mkdir()
    part.write_bytes(content)
    return part


@pytest.mark.parametrize("kind", ["good", "norange", "unsized"])
def test_a_file_arrives_whole_with_a_progress_bar(kind, get, server, capsys):
    target = get(kind)
    assert target.read_bytes() == server.payload
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]  # no .part left
    progress = capsys.readouterr().err
    assert "file.bin (127.0.0.1)" in progress
    assert "100%" in progress


def test_a_file_that_is_there_is_not_fetched_again(get, server):
    get("good")
    get("good")
    assert len(server.requests) == 1


def test_a_damaged_file_is_replaced(get, server, tmp_path):
    get("good").write_bytes(b"damaged")
    assert get("good").read_bytes() == server.payload


def test_an_interrupted_download_is_continued(get, server, tmp_path):
    leave_part(tmp_path, server.payload[:50_000])
    assert get("good").read_bytes() == server.payload
    assert server.requests == [("good", "bytes=50000-")]


def test_a_server_that_cannot_continue_sends_it_all(get, server, tmp_path):
    leave_part(tmp_path, server.payload[:50_000])
    assert get("norange").read_bytes() == server.payload


def test_a_part_that_is_whole_needs_no_server(get, server, tmp_path):
    leave_part(tmp_path, server.payload)
    assert get("good").read_bytes() == server.payload
    assert server.requests == []


def test_a_part_that_is_too_long_is_begun_again(get, server, tmp_path):
    leave_part(tmp_path, server.payload + b"more")
    assert get("good").read_bytes() == server.payload
    assert server.requests == [("good", None)]


def test_a_damaged_part_is_begun_again_from_the_same_source(get, server, tmp_path):
    leave_part(tmp_path, b"x" * 50_000)
    assert get("good").read_bytes() == server.payload
    assert server.requests == [("good", "bytes=50000-"), ("good", None)]


def test_a_broken_connection_keeps_what_came_and_the_next_source_continues(get, server):
    assert get("cut", "good").read_bytes() == server.payload
    assert server.requests == [("cut", None), ("good", "bytes=100000-")]


def test_the_next_call_continues_a_download_that_broke_off(get, server, tmp_path):
    with pytest.raises(OSError, match="broke off after 100,000 of 200,000 bytes"):
        get("cut")
    part = tmp_path / "new" / "file.bin.part"
    assert part.read_bytes() == server.payload[:100_000]
    assert get("good").read_bytes() == server.payload
    assert server.requests[-1] == ("good", "bytes=100000-")


def test_a_stalled_server_is_left_for_the_next(get, server):
    assert get("stall", "good", stall=1.0).read_bytes() == server.payload
    assert server.requests == [("stall", None), ("good", "bytes=1000-")]


def test_a_slow_server_is_left_for_a_faster_one(get, server):
    assert get("drip", "good", stall=1.0, slow=1e6).read_bytes() == server.payload
    assert [kind for kind, _ in server.requests] == ["drip", "good"]
    assert server.requests[1][1] is not None  # what the slow one sent is kept


def test_a_slow_server_serves_if_there_is_no_faster_one(get, server):
    assert get("drip", "missing", stall=1.0, slow=1e6).read_bytes() == server.payload
    assert [kind for kind, _ in server.requests] == ["drip", "missing", "drip"]


@pytest.mark.parametrize("bad", ["missing", "wrong", "page", "http://127.0.0.1:1/refused"])
def test_a_source_that_fails_is_followed_by_the_next(bad, get, server):
    assert get(bad, "good").read_bytes() == server.payload
    assert server.requests[-1] == ("good", None)  # nothing wrong was kept


def test_a_server_that_continues_elsewhere_is_refused(get, server, tmp_path):
    leave_part(tmp_path, server.payload[:50_000])
    assert get("elsewhere", "good").read_bytes() == server.payload
    assert server.requests[-1] == ("good", "bytes=50000-")


def test_if_every_source_fails_the_message_says_what_each_did(get, tmp_path):
    refused = "http://127.0.0.1:1/refused"
    with pytest.raises(OSError, match=r"file\.bin could not be downloaded") as raised:
        get("missing", "wrong", "page", "stall", refused, stall=1.0)
    message = str(raised.value)
    for words in (
        r"/missing/file\.bin: HTTP 404 Not Found",
        r"/wrong/file\.bin: the checksum is wrong",
        r"/page/file\.bin: it has 27 bytes instead of 200,000",
        r"/stall/file\.bin: no data for 1 seconds",
        r"/refused: .*refused",
    ):
        assert re.search(words, message)
    assert "\n" not in message
    assert not (tmp_path / "new" / "file.bin").exists()


def test_a_wrong_file_is_never_left_behind(get, tmp_path):
    with pytest.raises(OSError, match="checksum"):
        get("wrong")
    assert list((tmp_path / "new").iterdir()) == []


FETCH = """
import sys
from pathlib import Path
from vit_tutorial.download import fetch
fetch([sys.argv[1]], Path(sys.argv[2]), size=200_000, md5=sys.argv[3], stall=60.0, slow=0.0)
"""


def test_of_two_processes_that_fetch_one_file_one_waits(server, start, tmp_path):
    """The server takes a second and a half; whoever comes second finds the file."""
    arguments = [server.url("drip"), tmp_path / "file.bin", hashlib.md5(server.payload).hexdigest()]
    command = [sys.executable, "-c", FETCH, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [start(*command, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [kind for kind, _ in server.requests] == ["drip"], "it was sent once"
    assert "Another process makes file.bin: waiting for it." in said[0][0] + said[1][0]
    assert (tmp_path / "file.bin").read_bytes() == server.payload
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_a_lock_that_a_killed_process_has_left_is_no_obstacle(get, server, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file.bin.lock").touch()
    assert get("good").read_bytes() == server.payload


def test_a_folder_that_cannot_be_written_is_not_blamed_on_the_servers(get, server, tmp_path):
    (tmp_path / "new").write_text("a file where the folder should be")
    with pytest.raises(FileExistsError):
        get("good", "good")
    assert server.requests == []


def test_the_sources_of_cifar10_are_encrypted_and_several():
    assert len(data.CIFAR10_SOURCES) >= 3
    for source in data.CIFAR10_SOURCES:
        assert source.startswith("https://")
        assert source.endswith("/cifar-10-python.tar.gz")
    assert data.CIFAR10_MD5 == torchvision.datasets.CIFAR10.tgz_md5


# CIFAR-10


class OldArray:
    """Pickles uint8 (n, 3072) the way NumPy did in 2009."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return old_array, (self.array.tobytes(), self.array.shape, OldType())


class OldType:
    def __reduce__(self):
        return np.dtype, ("u1", 0)  # a number instead of a bool: NumPy 2.4 warns


def old_array(content, shape, dtype):
    return np.frombuffer(content, dtype=dtype).reshape(shape)


@pytest.fixture
def imitation(server, monkeypatch, tmp_path):
    """An archive of CIFAR-10's form, its test images complete but black; torchvision knows it."""
    md5s, packed = {}, io.BytesIO()
    known = torchvision.datasets.CIFAR10

    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:

        def add(name, entry):
            content = pickle.dumps(entry, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            md5s[name] = hashlib.md5(content).hexdigest()

        for i in range(1, 6):
            add(f"data_batch_{i}", {"data": OldArray(np.zeros((2, 3072), "u1")), "labels": [i, 0]})
        pixels = np.zeros((10_000, 3072), "u1")
        pixels[:, 1024] = 7  # channel 1, row 0, column 0
        pixels[:, 1025] = 8  # channel 1, row 0, column 1
        add("test_batch", {"data": OldArray(pixels), "labels": list(range(10)) * 1000})
        add("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})

    monkeypatch.setattr(known, "train_list", [[n, md5s[n]] for n, _ in known.train_list])
    monkeypatch.setattr(known, "test_list", [["test_batch", md5s["test_batch"]]])
    monkeypatch.setattr(known, "meta", known.meta | {"md5": md5s["batches.meta"]})
    server.payload = packed.getvalue()
    monkeypatch.setattr(data, "CIFAR10_SOURCES", (server.url("good"),))
    monkeypatch.setattr(data, "CIFAR10_SIZE", len(server.payload))
    monkeypatch.setattr(data, "CIFAR10_MD5", hashlib.md5(server.payload).hexdigest())
    return server


def test_cifar10_is_fetched_once_checked_and_read(imitation, tmp_path):
    images = cifar10("test", root=tmp_path)
    assert images.images.shape == (10_000, 3, 32, 32)
    assert images.images.is_contiguous()
    assert images.images[5, :, 0, :2].tolist() == [[0, 0], [7, 8], [0, 0]]
    assert images.labels[:12].tolist() == [*range(10), 0, 1]
    assert images.classes[3] == "class 3"
    assert images.name == "CIFAR-10"
    assert len(cifar10("test", root=tmp_path, download=False)) == 10_000
    assert len(imitation.requests) == 1


def test_a_damaged_batch_is_never_unpickled_but_unpacked_again(imitation, tmp_path):
    cifar10("test", root=tmp_path)
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(pickle.dumps(Path("/")) + b"tampered")
    assert len(cifar10("test", root=tmp_path, download=False)) == 10_000
    assert len(imitation.requests) == 1


def test_an_archive_that_was_put_there_is_used_without_a_network(imitation, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(imitation.payload)
    assert len(cifar10("test", root=tmp_path, download=False)) == 10_000
    assert imitation.requests == []


def test_without_download_the_message_says_where_it_looked(imitation, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"not in .*{tmp_path.name}.*170 MB"):
        cifar10("test", root=tmp_path, download=False)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(imitation.payload[:-1])
    with pytest.raises(FileNotFoundError, match="170 MB"):
        cifar10("test", root=tmp_path, download=False)
    assert imitation.requests == []


def test_an_archive_with_a_wrong_checksum_is_never_unpacked(imitation, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CIFAR10_MD5", "0" * 32)
    with pytest.raises(OSError, match="checksum is wrong"):
        cifar10("test", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_contents_that_are_not_cifar10s_are_refused(imitation, tmp_path):
    with pytest.raises(ValueError, match="5000 train images of each of 10 classes, got"):
        cifar10("train", root=tmp_path)


def test_the_content_check_knows_cifar10s_statistics():
    labels = torch.arange(10).repeat(5000)
    sign = torch.arange(50_000) % 2 * 2 - 1  # two levels per channel: mean +- deviation
    mean = 255 * torch.tensor([[0.49140, 0.48216, 0.44653]])
    std = 255 * torch.tensor([[0.24703, 0.24349, 0.26159]])
    exact = mean + sign[:, None] * std  # (n, 3)
    images = (exact + torch.rand(50_000, 3)).floor().to(torch.uint8)[:, :, None, None]
    classes = tuple("0123456789")
    require_cifar10(ImageSet(images, labels, classes, "two levels"), "train")
    with pytest.raises(ValueError, match="means and deviations"):
        require_cifar10(ImageSet(images.flip(1), labels, classes, "channels swapped"), "train")
    labels[8] = 9
    with pytest.raises(ValueError, match="4999, 5001"):
        require_cifar10(ImageSet(images, labels, classes, "one mislabelled"), "train")


def test_the_data_folder_is_the_variable_the_checkout_or_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_TUTORIAL_DATA", str(tmp_path / "mine"))
    assert data_root() == tmp_path / "mine"
    monkeypatch.delenv("VIT_TUTORIAL_DATA")
    monkeypatch.setattr(data, "__file__", str(tmp_path / "vit_tutorial" / "data.py"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert data_root() == tmp_path / "home" / ".cache" / "vit-tutorial"
    (tmp_path / "data").mkdir()
    assert data_root() == tmp_path / "home" / ".cache" / "vit-tutorial"  # no checkout
    (tmp_path / "pyproject.toml").touch()
    assert data_root() == tmp_path / "data"
    monkeypatch.setattr(data.os, "access", lambda *_: False)
    assert data_root() == tmp_path / "home" / ".cache" / "vit-tutorial"


def test_cifar10_looks_in_the_data_folder(imitation, monkeypatch, tmp_path):
    monkeypatch.setenv("VIT_TUTORIAL_DATA", str(tmp_path / "mine"))
    assert len(load("cifar10", "test")) == 10_000
    assert (tmp_path / "mine" / "cifar-10-batches-py" / "test_batch").exists()


@pytest.mark.parametrize("function", [cifar10, digits, lambda split: load("digits", split)])
def test_an_unknown_split_is_refused(function):
    with pytest.raises(ValueError, match=r'"train" or "test", got .valid.'):
        function("valid")


# Folders


def make_folder(folder, **colours):
    """One subfolder per class; each colour one 6x4 image."""
    for name, values in colours.items():
        (folder / name).mkdir(parents=True)
        for i, value in enumerate(values):
            Image.new("RGB", (6, 4), value).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def pets(tmp_path):
    return make_folder(
        tmp_path / "pets", dog=["#100000", "#200000"], cat=["#300000"], ant=["#400000"]
    )


def test_a_folder_gives_its_classes_and_files_in_order(pets):
    images = image_folder(pets)
    assert images.classes == ("ant", "cat", "dog")
    assert images.labels.tolist() == [0, 1, 2, 2]
    assert images.images.shape == (4, 3, 4, 6)
    assert images.images[:, 0, 0, 0].tolist() == [0x40, 0x30, 0x10, 0x20]
    assert images.name == "pets"
    assert image_folder(str(pets), name="mine").name == "mine"


def test_images_of_a_folder_are_made_one_size(pets):
    Image.new("RGB", (50, 9), "#500000").save(pets / "cat" / "wide.jpg", quality=100)
    with pytest.raises(ValueError, match=r"wide\.jpg is 50x9 pixels, .* 6x4; img_size"):
        image_folder(pets)
    assert image_folder(pets, 8).images.shape == (5, 3, 8, 8)
    assert image_folder(pets, (4, 10), fit="pad").images[2, 0, 0, 0] == 128
    assert image_folder(pets, (4, 10), mode="L").images.shape == (5, 1, 4, 10)
    with pytest.raises(ValueError, match="img_size must be a positive int"):
        image_folder(pets, 0)
    with pytest.raises(ValueError, match='"crop", "pad" or "resize"'):
        image_folder(pets, 8, fit="cut")


def test_a_broken_file_is_refused_by_name(pets):
    (pets / "cat" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        image_folder(pets)


def test_a_broken_file_is_skipped_and_named_on_request(pets):
    (pets / "cat" / "broken.jpg").write_bytes(b"no image")
    (pets / "dog" / "empty.png").touch()
    with pytest.warns(UserWarning, match=r"2 files left out: .*broken\.jpg.*empty\.png"):
        images = image_folder(pets, on_error="skip")
    assert images.labels.tolist() == [0, 1, 2, 2]


def test_load_leaves_out_a_broken_file_on_request(pets):
    (pets / "cat" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        load(pets, "test")
    with pytest.warns(UserWarning, match=r"^1 file left out: .*broken\.jpg"):
        assert len(load(pets, "test", on_error="skip")) == 4


def test_many_broken_files_are_counted(pets):
    for i in range(13):
        (pets / "cat" / f"broken{i:02}.jpg").touch()
    with pytest.warns(UserWarning, match=r"13 files left out: .*and 3 more") as warned:
        image_folder(pets, on_error="skip")
    assert str(warned[0].message).count(".jpg: ") == 10


def test_one_class_is_enough(tmp_path):
    images = image_folder(make_folder(tmp_path / "one", cat=["red", "blue"]))
    assert images.classes == ("cat",)
    assert images.labels.tolist() == [0, 0]


def test_folders_without_classes_or_images_are_refused(tmp_path, pets):
    with pytest.raises(ValueError, match=r"nowhere is not a folder"):
        image_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"cat has no folders in it"):
        image_folder(pets / "cat")
    (pets / "bee").mkdir()
    with pytest.raises(ValueError, match=r"bee holds no image"):
        image_folder(pets)
    (pets / "bee" / "broken.png").touch()
    with pytest.raises(ValueError, match=r"bee holds no image"):
        image_folder(pets, on_error="skip")
    with pytest.raises(ValueError, match='"raise" or "skip"'):
        image_folder(pets, on_error="ignore")


def test_load_finds_the_split_inside_a_folder(tmp_path):
    make_folder(tmp_path / "set" / "train", cat=["#100000"], dog=["#200000"])
    make_folder(tmp_path / "set" / "test", dog=["#300000"])
    assert load(tmp_path / "set", "train").classes == ("cat", "dog")
    assert load(str(tmp_path / "set"), "test").classes == ("dog",)
    assert load(tmp_path / "set", "test").name == "set/test"
    assert load(tmp_path / "set", "test", name="mine").described == "images of mine/test"
    train, test = load_train_test(tmp_path / "set")
    assert test.classes == train.classes
    assert test.labels.tolist() == [1]  # numbered as in training, where dog is 1


def test_a_folder_without_splits_is_split(tmp_path):
    greys = [f"#{i:02x}{i:02x}{i:02x}" for i in range(40)]
    folder = make_folder(tmp_path / "set", cat=greys[:20], dog=greys[20:])
    train, test = load_train_test(folder)
    assert (len(train), len(test)) == (32, 8)
    assert torch.bincount(test.labels).tolist() == [4, 4]
    everything = torch.cat([train.images, test.images])[:, 0, 0, 0]
    assert everything.unique().numel() == 40
    assert train.described, test.described == ("train images of set", "held-out images of set")


def test_a_small_folder_keeps_an_image_of_each_class_for_the_test(tmp_path):
    """A fifth of nine images would be two, of three classes."""
    folder = make_folder(tmp_path / "set", **{n: ["red", "lime", "blue"] for n in "abc"})
    train, test = load_train_test(folder)
    assert train.labels.bincount().tolist() == [2, 2, 2]
    assert test.labels.bincount().tolist() == [1, 1, 1]
    (folder / "a" / "0.png").unlink()
    (folder / "a" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"set has one image of a: a class needs two"):
        load_train_test(folder)


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"image folder .* got 'imagenet'"):
        load("imagenet", "train")


# Digits, splits, sets


def test_digits_are_small_grey_and_split_in_proportion():
    train, test = digits("train"), digits("test")
    assert train.images.shape == (1437, 1, 8, 8)
    assert test.images.shape == (360, 1, 8, 8)
    assert train.images.max() == 255
    assert train.classes == tuple("0123456789")
    both = torch.bincount(train.labels) + torch.bincount(test.labels)
    share = torch.bincount(test.labels) / both
    assert (share - 0.2).abs().max() < 0.01
    torch.testing.assert_close(digits("test").images, test.images, rtol=0, atol=0)


def numbered(n, classes=2):
    """A set whose images are their own index."""
    images = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1)
    return ImageSet(images, torch.arange(n) % classes, tuple("abcdef"[:classes]), "numbered")


def test_a_held_out_part_is_disjoint_seeded_and_in_proportion():
    whole = numbered(60, classes=3)
    rest, held_out = hold_out(whole, 0.25, seed=3)
    assert torch.bincount(held_out.labels).tolist() == [5, 5, 5]
    indices = torch.cat([rest.images, held_out.images]).flatten()
    assert sorted(indices.tolist()) == list(range(60))
    assert (held_out.labels == held_out.images.flatten() % 3).all()
    again, other = hold_out(whole, 0.25, seed=3)[1], hold_out(whole, 0.25, seed=4)[1]
    assert again.images.equal(held_out.images)
    assert not other.images.equal(held_out.images)


@pytest.mark.parametrize(("n", "fraction"), [(60, 0.0), (60, 1.0), (60, -0.1), (3, 0.5)])
def test_a_split_that_cannot_be_is_refused(n, fraction):
    with pytest.raises(ValueError, match=r"."):
        hold_out(numbered(n, classes=3), fraction, seed=0)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), "uint8.*float32"),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), r"\(n, C, H, W\).*\(2, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(3).long(), r"\(2,\).*\(3,\)"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(2), "int64.*float32"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.tensor([0, 2]), "0 to 1.*0 to 2"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.tensor([-1, 0]), "got -1"),
    ],
)
def test_a_set_of_wrong_tensors_is_refused(images, labels, words):
    with pytest.raises(ValueError, match=words):
        ImageSet(images, labels, ("a", "b"), "wrong")


def test_a_set_is_sliced_and_relabelled_by_name():
    some = numbered(6)[2:5]
    assert some.images.flatten().tolist() == [2, 3, 4]
    assert some.relabelled(["b", "x", "a"]).labels.tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match="does not know: b; it knows a, c"):
        some.relabelled(["a", "c"])


def test_a_fingerprint_is_that_of_the_same_data_and_of_no_others():
    whole = numbered(20)
    assert numbered(20).fingerprint() == whole.fingerprint()
    first = whole.fingerprint()
    pixel = whole.images.clone()
    pixel[3] += 1
    for part, other in {
        "pixels": replace(whole, images=pixel),
        "labels": replace(whole, labels=1 - whole.labels),
        "classes": replace(whole, classes=("a", "c")),
    }.items():
        changed = {key for key, value in other.fingerprint().items() if value != first[key]}
        assert changed - {"some"} == {part}
    one = hashlib.sha256(bytes([7])).hexdigest()[:12]  # of the image whose only pixel is 7
    assert one in first["some"].split()
    assert whole[2:].fingerprint()["images"] == 18
    large = ImageSet(torch.zeros(2, 3, 4, 5).byte(), torch.zeros(2).long(), ("a",), "black")
    for place in ((0, 0, 0), (2, 3, 4), (1, 0, 2)):  # channel, row, column
        pixels = large.images.clone()
        pixels[1][place] = 1
        assert replace(large, images=pixels).fingerprint() != large.fingerprint(), place
    flat = replace(whole, images=whole.images.reshape(20, 1, 1, 1).repeat(1, 1, 2, 1))
    tall = replace(whole, images=whole.images.reshape(20, 1, 1, 1).repeat(1, 1, 1, 2))
    assert flat.fingerprint()["pixels"] != tall.fingerprint()["pixels"], "the shape counts"


def test_images_that_were_trained_on_are_found_again(monkeypatch):
    whole = numbered(60)
    assert whole.count_of(whole[:25].fingerprint()) == 25
    assert whole[25:].count_of(whole[:25].fingerprint()) == 0
    monkeypatch.setattr(data, "SAMPLE", 10)  # as of a set that is too large
    few = whole.fingerprint()
    assert len(few["some"].split()) == 10
    assert whole.count_of(few) == 10
    assert json.loads(json.dumps(few)) == few


def test_a_set_says_which_part_it_is():
    assert digits("test").described == "test images of scikit-learn digits"
    assert digits("train")[:5].described == "train images of scikit-learn digits"
    assert numbered(3).described == "images of numbered"


def test_a_set_is_resized():
    images = torch.full((3, 3, 8, 8), 200, dtype=torch.uint8)
    larger = ImageSet(images, torch.zeros(3).long(), ("a",), "grey").resized((12, 16))
    assert larger.images.shape == (3, 3, 12, 16)
    assert (larger.images == 200).all()
    images[..., :4], images[..., 4:] = 0, 255  # bicubic swings beyond both
    edge = ImageSet(images, torch.zeros(3).long(), ("a",), "edge").resized(24).images
    assert (edge[..., :9] < 32).all()
    assert (edge[..., 15:] > 223).all()
    with pytest.raises(ValueError, match="positive"):
        larger.resized(0)


# Numbers for the network


def test_pixels_are_float32_whatever_the_means_are():
    images = torch.randint(256, (2, 1, 3, 3), dtype=torch.uint8)
    means, stds = (torch.tensor([value], dtype=torch.float64) for value in (0.4, 0.2))
    pixels = normalize(images, means, stds)
    torch.testing.assert_close(pixels, ((images.double() / 255 - 0.4) / 0.2).float())


def test_normalized_pixels_have_the_stated_mean_and_deviation():
    images = torch.randint(0, 256, (20, 3, 6, 5), dtype=torch.uint8)
    mean, std = channel_stats(images)
    per_channel = (images.double() / 255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.tensor(mean), per_channel.mean(dim=1).float())
    torch.testing.assert_close(torch.tensor(std), per_channel.std(dim=1, correction=0).float())
    normal = normalize(images, mean, std)
    assert normal.dtype == torch.float32
    assert normal.shape == images.shape
    flat = normal.transpose(0, 1).flatten(1)
    torch.testing.assert_close(flat.mean(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(dim=1, correction=0), torch.ones(3))
    torch.testing.assert_close(normalize(images[0], mean, std), normal[0])
    as_tensors = normalize(images, torch.tensor(mean), torch.tensor(std))
    torch.testing.assert_close(as_tensors, normal, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 3, 4, 4), "float32"),
        (torch.zeros(2, 1, 4, 4).byte(), r"\(2, 1, 4, 4\)"),
        (torch.zeros(4, 4).byte(), r"\(4, 4\)"),
    ],
)
def test_pixels_that_cannot_be_normalized_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        normalize(images, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4).byte(), torch.zeros(0, 3, 4, 4).byte()]
)
def test_statistics_need_pixels(images):
    with pytest.raises(ValueError, match="expected uint8 images"):
        channel_stats(images)


def test_the_checksum_is_md5(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert checksum(tmp_path / "abc") == "900150983cd24fb0d6963f7d28e17f72"


# ---- parts of a training set ----


def test_each_class_keeps_its_share_and_none_is_lost():
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 3)[torch.randperm(143)]
    chosen = stratified(labels, 0.1, seed=3)
    assert labels[chosen].bincount().tolist() == [10, 4, 1]
    assert torch.equal(chosen, chosen.unique()), "sorted, and each once"
    assert torch.equal(chosen, stratified(labels, 0.1, seed=3))
    assert not torch.equal(chosen, stratified(labels, 0.1, seed=4))
    assert set(chosen.tolist()) <= set(stratified(labels, 0.5, seed=3).tolist())
    assert stratified(labels, 1).tolist() == list(range(143))


def test_every_image_has_the_same_chance():
    labels = torch.zeros(10, dtype=torch.long)
    times = sum(torch.bincount(stratified(labels, 0.5, seed), minlength=10) for seed in range(400))
    assert (times - 200).abs().max() < 50  # five standard deviations


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_is_above_nothing_and_no_more_than_all(share):
    with pytest.raises(ValueError, match="share must be above 0 and up to 1, got"):
        stratified(torch.zeros(4), share)
