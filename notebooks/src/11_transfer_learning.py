# %% [markdown]
# # 11 · Transfer learning
#
# **What is a trained network worth for a task that it was never trained for?**
#
# Your task is hardly ever one of CIFAR-10's. It has other classes, and you have tens of labelled images, not tens of
# thousands. This lesson takes a network that somebody has trained on something else, puts it to work on a new task, the
# cheapest way first, and ends with a network of your own that explains what it sees.
#
# **You will**
#
# - turn an image into features, and classify with nothing but their means,
# - train a linear probe, and measure what it is worth beside cheap baselines,
# - see what a wrong normalisation costs,
# - fine-tune all layers, for a short and for a long time, and find out what pays,
# - look at the smallest class, which accuracy does not show,
# - save a network for your own folder of images, and see where it looks,
# - *deeper:* prove that other libraries' ViTs become ours without loss, rewrite a patch projection, give each layer a
#   learning rate, see through Hugging Face's `Trainer`, and classify every pixel.

# %%
from vit_tutorial import plots

plots.network_map("head")

# %% [markdown]
# ## Six surfaces, or your own images
#
# The new task: what is the surface in this picture made of? Six photographs that come with
# [scikit-image](https://scikit-image.org), in grey: bricks, grass and gravel (CC0), old coins (Brooklyn Museum) and
# tissue under a microscope (CMMI; both without known copyright restrictions), and stars (Hubble Deep Field, NASA,
# public domain). We cut square pieces of many sizes out of them: pieces of the left half to train, of the right half to
# test, so that no pixel of a test piece has been seen in training.
#
# Or take **your own images**: write the name of a folder into `MY_FOLDER`, and run the lesson on it. It holds one
# folder of images for each class, named like the class, with five images or more in each. Where it has two folders
# `train` and `test` with such folders in them, these are kept; else a fifth of the images is held out as test set, at
# random. Notes among the images are passed over, with a warning. The text below tells what was seen with the surfaces;
# with your folder the code is the same, and the numbers are yours.

# %%
import copy
import math
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

# %%
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data as photographs
from torch import nn
from torch.testing import assert_close

# %%
from vit_tutorial import VisionTransformer, evaluate, fit, load_vit, normalize
from vit_tutorial.data import channel_stats, load_train_test
from vit_tutorial.transfer import features, linear_probe, renormalised, with_head

# %%
MY_FOLDER = ""  # for example "my_photos"
NETWORK = "cifar10"  # later perhaps "torchvision:vit_b_16"
FULL = False  # True: more draws, and large networks of other libraries (downloads)

# %%
PHOTOS = {"brick": "brick", "coins": "coins", "grass": "grass", "gravel": "gravel",
          "stars": "hubble_deep_field", "tissue": "immunohistochemistry"}  # fmt: skip


def cut(photo, side, count, random):
    """Cut square pieces out of the left half (side 0) or the right half (1) of a photograph."""
    half, pieces = photo.width // 2, []
    for _ in range(count):
        piece_size = int(random.integers(40, 100))
        left = side * half + int(random.integers(half - piece_size + 1))
        top = int(random.integers(photo.height - piece_size + 1))
        pieces.append(photo.crop((left, top, left + piece_size, top + piece_size)))
    return pieces


# %%
def write_surfaces(folder, count=30):
    """Write a folder of images like one of your own: many sizes, some of them in colour."""
    random = np.random.default_rng(0)
    for name, photo in PHOTOS.items():
        grey = Image.fromarray(getattr(photographs, photo)()).convert("L")
        for side, split in enumerate(("train", "test")):
            (folder / split / name).mkdir(parents=True)
            for number, piece in enumerate(cut(grey, side, count, random)):
                mode = "RGB" if number % 3 == 0 else "L"
                piece.convert(mode).save(folder / split / name / f"{number:02}.png")
    return folder


# %%
keeper = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # goes when the lesson ends
place = Path(keeper.name)
folder = Path(MY_FOLDER).expanduser() if MY_FOLDER else write_surfaces(place / "surfaces")


# %%
def in_words(error):
    """What an error says, without the names of folders on this machine."""
    return str(error).replace(f"{folder.parent}{os.sep}", "")


# %% [markdown]
# Folders of images are never tidy. `load_train_test` reads any mode (grey, colour, transparent) as colour. Images of
# several sizes it refuses, until you say which size you want. (A file that cannot be read stops it, too:
# `on_error="skip"` leaves such files out, and names them.)

# %%
try:
    train, test = load_train_test(folder)
except ValueError as error:
    print(in_words(error))

# %% [markdown]
# Which size? The one that the network reads. `load_vit` loads a ViT by its name, and tells how it reads images: their
# size, mean and standard deviation, and the names of its classes. Here it is the course's own network of lesson 00,
# trained on CIFAR-10.

# %%
vit, reading = load_vit(NETWORK)
size, normalisation = reading.size, (reading.mean, reading.std)
print(f"it reads {size} pixels, and knows {', '.join(reading.classes[:10])}")

# %%
train, test = load_train_test(folder, img_size=size)
num_classes, smallest = len(train.classes), int(train.labels.bincount().min())
if test.split == "held-out":
    print("The folder has no test set: a fifth is held out, at random. No training sees it.")

# %%
for part in (train, test):
    counts = part.labels.bincount(minlength=num_classes).tolist()
    each = ", ".join(f"{n} {name}" for n, name in zip(counts, part.classes, strict=True))
    print(f"{len(part)} {part.described}: {each}")
print(f"The smallest class has {smallest} training images; no experiment draws more of any class.")

# %%
rows = {}
for label, name in list(enumerate(train.classes))[:6]:
    seven = train.images[train.labels == label][:7].permute(0, 2, 3, 1).numpy()
    empty = np.full((7 - len(seven), *seven.shape[1:]), 255, np.uint8)  # where a class has fewer
    rows[name] = np.concatenate([seven, empty])
plots.augmentation_gallery(rows)

# %% [markdown]
# This is all that the network will see: 32×32 pixels of the training images, seven of each class. The surfaces have no
# colour, and none of the six is among the ten classes that the network knows.

# %% claim="none of the six is among the ten classes that the network knows"
assert len(reading.classes) == 10
assert len(train.classes) == 6
assert not {*train.classes} & {*reading.classes}

# %% claim="32×32 pixels of the training images"
assert train.images.shape[1:] == (3, 32, 32)

# %% claim="The surfaces have no colour"
assert (train.images.amax(dim=1) == train.images.amin(dim=1)).all()

# %% [markdown] deeper=true
# ## Networks of other libraries
#
# There is no need to train the network yourself. torchvision, timm and Hugging Face give away ViTs that have seen
# millions of images. They call their parts by other names, and mean the same: `load_vit` gives the network as *ours*,
# with everything that the lessons before have built for it.
#
# Do they really mean the same? Weights of large networks cannot be had without a network connection. But the proof does
# not need them: it needs the libraries' *code*. So we take their ViTs small, put random numbers into every parameter
# (a fresh network has zeros in places where a mistake could hide), and compare the logits in float64.

# %%
import torchvision

from vit_tutorial import from_library
from vit_tutorial.pretrained import load_network

small = {"torchvision": torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=7)}
try:
    from timm.models import VisionTransformer as TimmViT

    small["timm"] = TimmViT(32, 8, embed_dim=16, depth=2, num_heads=2, num_classes=7)
except ImportError:
    print("timm is not installed: pip install timm")

# %%
try:
    import transformers

    their_config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_labels=7,
    )  # fmt: skip
    small["Hugging Face"] = transformers.ViTForImageClassification(their_config)
except ImportError:
    print("Hugging Face's library is not installed: pip install transformers")

# %%
torch.manual_seed(0)
x = torch.randn(4, 3, 32, 32).double()
largest_differences = {}
for name, theirs in small.items():
    theirs = theirs.double().eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    expected = theirs(x)
    expected = getattr(expected, "logits", expected)  # Hugging Face hands over more than logits
    largest_differences[name] = (from_library(theirs)(x) - expected).abs().max().item()
    print(f"{name:13} largest difference {largest_differences[name]:.0e}")

# %% [markdown]
# Rounding, and nothing else. The names of networks, by the way, belong to a library. **A common mistake** takes a name
# of one library for the other:

# %% claim="Rounding, and nothing else."
assert 1 <= len(largest_differences) <= 3
assert max(largest_differences.values()) < 1e-12

# %%
for name in ("torchvision:vit_base_patch16_224", "vit_b_16"):
    try:
        load_vit(name)
    except (ValueError, FileNotFoundError) as error:
        print(error)

# %% [markdown]
# `vit_base_patch16_224` is timm's name; torchvision's is `vit_b_16`, and here the library stands in front of it, with a
# colon. With `FULL = True` the next cell loads the same architecture from all three (about 1 GB to download, once), and
# compares our logits with theirs on the cat.

# %%
LARGE = ("torchvision:vit_b_16", "timm:vit_base_patch16_224", "hf:google/vit-base-patch16-224")
for name in LARGE if FULL else ():
    try:
        theirs, _ = load_network(name)
        ours, theirs_reading = load_vit(name)
    except ValueError as error:
        print(error)
        continue
    cat = Image.fromarray(photographs.chelsea()).resize((224, 224))
    cat = torch.from_numpy(np.array(cat)).permute(2, 0, 1)[None]
    cat = normalize(cat, theirs_reading.mean, theirs_reading.std)
    with torch.inference_mode():
        logits, expected = ours(cat), theirs(cat)
    difference = (logits - getattr(expected, "logits", expected)).abs().max()
    print(f"{name}: {theirs_reading.classes[logits.argmax()]}, difference {difference:.0e}")

# %% [markdown]
# ## Features: the network as a list of numbers
#
# What is worth keeping of a network that knows ten classes, if you want others? Everything but the last layer. The head
# is one linear layer, and it reads a single token, CLS after the final norm. These numbers are the **features** of the
# image:
#
# $$\text{logits} = W f + b, \qquad f \text{: the features, D numbers}$$
#
# By hand, for one image:

# %%
one = normalize(test.images[:1], *normalisation)
with torch.no_grad():
    tokens = vit.forward_features(one)  # (1, T, D), after the final norm
    f = tokens[0, 0] if vit.config.pool == "cls" else tokens[0].mean(dim=0)  # (D,)
    assert_close(vit.head.weight @ f + vit.head.bias, vit(one)[0])
print(f"{tuple(vit.head.weight.shape)} weights read {len(f)} features:", f[:4].numpy().round(2))

# %% [markdown]
# The package's `features` does this for many images, in batches. Now the simplest classifier there is, without any
# training. For each class, take the mean of the features of its examples. A new image belongs to the class whose mean
# is nearest.


# %% exercise="11.1"
def my_nearest_mean(features, labels, queries):
    """Classify each query by the class whose mean is nearest (straight-line distance).

    features: (n, D), labels: (n,), from 0 to K - 1; every class occurs, some more often than others.
    queries: (m, D).
    Returns (m,), whole numbers.
    """
    ### BEGIN SOLUTION
    classes = range(int(labels.max()) + 1)
    means = torch.stack([features[labels == c].mean(dim=0) for c in classes])  # (K, D)
    distances = (queries[:, None] - means).norm(dim=-1)  # (m, K)
    return distances.argmin(dim=1)
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("11.1", my_nearest_mean)
# hint("11.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** (m, 1, D) minus (K, D) gives all differences by broadcasting, and the norm leaves one distance for each pair.
#
# **The common wrong answer** takes the largest product, `queries @ means.T`. That favours a class whose mean is long,
# even where another mean is nearer. Without the lengths the two are not the same question.

# %% [markdown]
# The features of all images, by the trained network and by three of the same shape that have learned nothing. Beside
# them two that need no network: the list of the pixels (grey, at half the size), and a single number, the mean of all
# pixels. (scikit-learn's `NearestCentroid` is the same classifier.)
#
# **Predict.** Put the four in order. Is an untrained network better or worse than none?

# %%
from sklearn.neighbors import NearestCentroid

splits = {"train": train.images, "test": test.images}
trained = {k: features(vit, x, *normalisation, cache=place / "kept") for k, x in splits.items()}

# %%
untrained = []
for seed in range(3):
    torch.manual_seed(seed)
    fresh = VisionTransformer(vit.config).eval()
    untrained.append({k: features(fresh, x, *normalisation) for k, x in splits.items()})

# %%
pixels = {k: F.avg_pool2d(x.float().mean(1), 2).flatten(1) / 255 for k, x in splits.items()}
brightness = {k: x.float().mean(dim=(1, 2, 3))[:, None] / 255 for k, x in splits.items()}
feature_sets = {  # one for each network
    "trained": [trained], "untrained": untrained, "pixels": [pixels], "brightness": [brightness]
}  # fmt: skip

# %%
by_mean = {}
for name, sets in feature_sets.items():
    by_mean[name] = [
        100 * NearestCentroid().fit(x["train"], train.labels).score(x["test"], test.labels)
        for x in sets
    ]
    width = sets[0]["train"].shape[1]
    print(f"{name:10} {width:3} numbers:", *(f"{accuracy:.1f}%" for accuracy in by_mean[name]))

# %% [markdown]
# The trained network is ahead, and by little. Brightness alone classifies three quarters of the test images correctly,
# because stars are dark and tissue is bright: none of the untrained networks does better with its 128 numbers, nor do
# the pixels with 256. Nobody would have known without measuring it. So **the cheap ways are measured first**: what they
# reach already is no merit of the network.

# %% claim="The trained network is ahead, and by little."
others = by_mean["untrained"] + by_mean["pixels"] + by_mean["brightness"]
assert 1 < by_mean["trained"][0] - max(others) < 6

# %% claim="Brightness alone classifies three quarters of the test images correctly"
assert 73 < by_mean["brightness"][0] < 77

# %% claim="stars are dark and tissue is bright"
by_class = [brightness["train"][train.labels == c].mean() for c in range(6)]
assert train.classes[int(np.argmin(by_class))] == "stars"
assert train.classes[int(np.argmax(by_class))] == "tissue"

# %% claim="none of the untrained networks does better with its 128 numbers, nor do the pixels with 256"
assert max(by_mean["untrained"]) < by_mean["brightness"][0] + 1.8
assert by_mean["pixels"][0] < by_mean["brightness"][0] - 2
assert [untrained[0]["test"].shape[1], pixels["test"].shape[1]] == [128, 256]

# %% [markdown] deeper=true
# ## Compute once
#
# The network does not change, the images do not change, so there is no reason to compute the same numbers twice: with
# `cache=` they are kept in a folder. But a cache must never be believed by its name alone. This one calls a file by a
# checksum of all that the numbers depend on: config, weights, pixels, mean and deviation. Change any of them, and it
# looks for another file. Compared with a plain loop, and with one weight changed a little:

# %%
sample = test.images[:40]
with torch.no_grad():
    tokens = torch.cat([vit.forward_features(normalize(x[None], *normalisation)) for x in sample])
looped = tokens[:, 0] if vit.config.pool == "cls" else tokens.mean(dim=1)
assert_close(features(vit, sample, *normalisation), looped)

# %%
changed = copy.deepcopy(vit)
changed.head.bias.data[0] += 1e-6
kept, seconds = [], []
for network in (vit, vit, changed):
    began = time.perf_counter()
    features(network, sample, *normalisation, cache=place / "sample")
    seconds.append(time.perf_counter() - began)
    kept.append(len(list((place / "sample").iterdir())))
    print(f"{1000 * seconds[-1]:6.1f} ms, files kept: {kept[-1]}")

# %% [markdown]
# The second time it only reads. The changed network gets a file of its own, although the bias of the head does not even
# enter the features: computing once too often is the mistake that costs nothing but time.

# %% claim="The second time it only reads."
assert seconds[1] < seconds[0]

# %% claim="The changed network gets a file of its own"
assert kept == [1, 1, 2]

# %% [markdown]
# ## A linear probe
#
# Means treat every feature alike. A layer that is *learned* can weigh them. Because only this layer is learned, and
# everything below stays frozen, it is called a **linear probe**. What is learned is logistic regression: cross-entropy
# on the logits, plus a penalty on large weights (regularisation). A number C says how much the examples count against
# that penalty: with a small C the weights stay small. (The package calls it `strength`.)
#
# Features come in different sizes, and one penalty for all is only fair if they are **standardised** first: subtract
# the mean μ over the examples, divide by the standard deviation σ. Afterwards, though, nobody wants to carry μ and σ
# around. And one need not. By hand, one feature with μ = 100, σ = 20, weight 3 and bias 1: the layer gives
# 3 · (f − 100) / 20 + 1, and that is 0.15 · f − 14.

# %%
for f in (120.0, 100.0, 37.0):
    print(f"{3 * (f - 100) / 20 + 1:6.2f} = 0.15 · {f:g} - 14 = {0.15 * f - 14:.2f}")


# %% exercise="11.2"
def my_folded(weight, bias, mean, std):
    """Fold the standardisation in front of a linear layer into the layer.

    weight: (K, D) and bias: (K,), of a layer that reads standardised features.
    mean: (D,) and std: (D,), with which features are standardised; std is above 0.
    Returns a new weight (K, D) and a new bias (K,), for features as they are.
    """
    ### BEGIN SOLUTION
    new_weight = weight / std  # each column by its own deviation
    return new_weight, bias - new_weight @ mean
    ### END SOLUTION


# %%
check("11.2", my_folded)
# hint("11.2")

# %% [markdown] solved_only=true
# **Why.** W((f − μ) / σ) + b = (W / σ) f + (b − (W / σ) μ). An affine map in front of a linear layer is always part
# of the layer.
#
# **The common wrong answer** shifts by `weight @ mean`, with the old weight: the mean has to be divided by σ, too.

# %% [markdown]
# The package's `linear_probe` takes scikit-learn's logistic regression, chooses C by cross-validation (each of five
# parts of the training examples is left out once and predicted; the test set has no say), folds, and gives a plain
# `nn.Linear`. That folding loses nothing is proven on the test images, against scikit-learn's own probabilities:

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

probe = linear_probe(trained["train"], train.labels)

# %%
theirs = make_pipeline(StandardScaler(), LogisticRegression(C=probe.strength, max_iter=5000))
exact = {split: rows.double() for split, rows in trained.items()}
theirs.fit(exact["train"].numpy(), train.labels.numpy())
ours = linear_probe(exact["train"], train.labels, strengths=[probe.strength]).head
expected = torch.from_numpy(theirs.predict_proba(exact["test"].numpy()))
assert_close(ours(exact["test"]).softmax(dim=1).detach(), expected)
plots.probe_curve(probe.scores, probe.strength)

# %% [markdown]
# On the left the weights are held small, and the layer says less than it could. From 0.1 to 10 the curve is flat: the
# means differ less than the folds scatter, so C need not be hit exactly.

# %% claim="On the left the weights are held small, and the layer says less than it could."
mean = {strength: scores.mean().item() for strength, scores in probe.scores.items()}
assert mean[1e-4] < mean[0.1] - 5
assert mean[1e-4] < mean[1e-2]

# %% claim="the means differ less than the folds scatter"
flat = [probe.scores[strength] for strength in (0.1, 1.0, 10.0)]
means = [scores.mean().item() for scores in flat]
assert max(means) - min(means) < 0.7 * min(scores.std().item() for scores in flat)

# %% [markdown]
# **Predict.** Ten examples of each class, and nothing is learned but this layer. How many of 100 test pieces will be
# classified correctly? And how many by a probe on an untrained network? Guessing gives 17. Write both down.
#
# Which examples are drawn matters when there are few, so we draw three times. (C stays at 0.1 here: with two examples
# there is nothing to choose it by. No class is asked for more examples than the smallest one has.)


# %%
def draw(labels, count, seed):
    """Draw `count` images of each class, or all of a class that has fewer: their indices."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == c][:count] for c in labels.unique()])


# %%
def probe_head(rows, chosen, labels=train.labels):
    """The layer that a probe learns from the chosen rows."""
    return linear_probe(rows[chosen], labels[chosen], strengths=[0.1]).head


# %%
def probed(rows, count, seed, train_labels=train.labels, test_labels=test.labels):
    """Accuracy in percent of a probe that learns from `count` examples of each class."""
    head = probe_head(rows["train"], draw(train_labels, count, seed), train_labels)
    return 100 * (head(rows["test"]).argmax(dim=1) == test_labels).double().mean().item()


# %%
DRAWS = range(10 if FULL else 3)
COUNTS = [count for count in (2, 5, 10, 20) if count <= smallest] or [smallest]

# %%
curves = {
    name: np.array([[probed(sets[s % len(sets)], k, s) for k in COUNTS] for s in DRAWS])
    for name, sets in feature_sets.items()
}

# %%
for name, values in curves.items():
    print(f"{name:10}", "  ".join(f"{mean:5.1f}" for mean in values.mean(axis=0)))
plots.few_label_curves(COUNTS, curves)

# %% [markdown]
# (A dot is a draw, a line the mean of three; each draw has another untrained network.) From ten examples on, the
# trained network is ahead in each draw: it does with ten what untrained ones do with twenty. That is what transfer is
# worth here, half of the labels. Without the untrained networks, all of the height of the curve would have been called
# the merit of the training. The pixels stay near one half, however many examples they get: a wall that is shifted by
# three pixels is another list of pixels, and the same wall.

# %% claim="From ten examples on, the trained network is ahead in each draw"
ahead = curves["trained"] - curves["untrained"]
assert (ahead[:, 2:] > 0.5).all()

# %% claim="it does with ten what untrained ones do with twenty"
assert abs(curves["trained"][:, 2].mean() - curves["untrained"][:, 3].mean()) < 3

# %% claim="The pixels stay near one half, however many examples they get"
assert (abs(curves["pixels"].mean(axis=0) - 50) < 6).all()

# %% [markdown]
# ## When it does not help
#
# Does a trained network always help? Take another task: handwritten digits, enlarged to the size that the network reads
# and put into the three colour channels. The pixels, again, are just a list.
#
# **Predict.** Which will be better for the digits, the features or the pixels?

# %%
from vit_tutorial.data import digits

scans = {"train": digits("train")[:200], "test": digits("test")[:150]}
digit_sets = {"trained": {}, "pixels": {}}
for split, part in scans.items():
    enlarged = part.resized(size).images.repeat(1, 3, 1, 1)
    digit_sets["trained"][split] = features(vit, enlarged, *normalisation)
    digit_sets["pixels"][split] = part.images.flatten(1) / 255
labels = [part.labels for part in scans.values()]
on_digits = {
    name: np.array([[probed(rows, k, s, *labels) for k in (2, 10)] for s in range(4)])
    for name, rows in digit_sets.items()
}
for name, values in on_digits.items():
    for column, count in enumerate((2, 10)):
        each = "  ".join(f"{value:.1f}" for value in values[:, column])
        print(f"{name:8} {count:2} examples of each: {each}")

# %% [markdown]
# Four draws, and the pixels win in each. The scans are centred and equally large, so place means something: a pixel that
# is dark in a 7 is dark in most of them. The network has been trained for the opposite, to recognise a cat wherever it
# sits. **Transfer helps where what the old task had to learn is what the new one needs.** Nobody can say beforehand how
# much. So measure, and always measure the cheap alternatives (pixels, an untrained network) beside it.

# %% claim="Four draws, and the pixels win in each."
assert (on_digits["pixels"] > on_digits["trained"]).all()
assert (on_digits["pixels"] - on_digits["trained"])[:, 1].mean() > 2.5

# %% [markdown]
# ## Feeding it as it was fed
#
# A network expects its images normalised as in its training. Nothing complains if they are not: the shapes are right,
# and numbers come out.
#
# **Predict.** The probe has been fitted. Now the test images are normalised in other ways: with 0.5 and 0.5, as many
# ViTs of timm and Hugging Face want it; with ImageNet's numbers; only divided by 255; not even that. Which of these
# hurts, and how much?

# %%
ways = {
    "as it was trained": normalisation,
    "0.5 and 0.5": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "only divided by 255": ((0.0,) * 3, (1.0,) * 3),
    "0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
}

# %%
fed = {}
for name, (mean, std) in ways.items():
    predicted = probe.head(features(vit, test.images, mean, std)).argmax(dim=1)
    fed[name] = 100 * (predicted == test.labels).double().mean().item()
    print(f"{name:20} {fed[name]:.1f}%")

# %% [markdown]
# ImageNet's numbers are near CIFAR-10's, and cost so little that it could be chance. That is how such a mistake lives
# for years without being noticed. 0.5 and 0.5 cost more than a quarter of the accuracy, and with the last two the
# network all but guesses. So take mean and deviation from where the weights come from, never from memory: `load_vit`
# hands them over together.

# %% claim="ImageNet's numbers are near CIFAR-10's, and cost so little that it could be chance."
right = [
    probe.head(features(vit, test.images, *ways[way])).argmax(dim=1) == test.labels
    for way in ("as it was trained", "ImageNet's")
]
gap = right[0].double() - right[1].double()
assert gap.mean() - 1.96 * gap.std() / len(gap) ** 0.5 < 0
assert abs(fed["ImageNet's"] - fed["as it was trained"]) < 5
assert np.abs(np.subtract(ways["ImageNet's"], normalisation)).max() < 0.05

# %% claim="0.5 and 0.5 cost more than a quarter of the accuracy"
assert fed["0.5 and 0.5"] < 0.7 * fed["as it was trained"]

# %% claim="with the last two the network all but guesses"
assert max(fed["only divided by 255"], fed["0 to 255"]) < 27

# %% [markdown] deeper=true
# ## The same answers, normalised another way
#
# There is one more trap, and it is in our own trainer. `fit` measures mean and deviation on *its* training images, and
# that is right for a network that starts from nothing. But pretrained weights expect the old numbers. Repair it by the
# thought of exercise 11.2. Let z be what the trainer hands over, $z = (p - \mu_{new}) / \sigma_{new}$ for a pixel p,
# and $x = (p - \mu_{old}) / \sigma_{old}$ what the weights expect. Then
#
# $$x = \frac{\sigma_{new}}{\sigma_{old}} z + \frac{\mu_{new} - \mu_{old}}{\sigma_{old}},$$
#
# for each channel on its own. And what is the first thing that happens to x? The patch projection. It is linear.


# %% exercise="11.3"
def my_renormalised(weight, bias, old_mean, old_std, new_mean, new_std):
    """Change a patch projection that reads images normalised in the old way so that it reads the new way.

    weight: (D, C, P, P) and bias: (D,). The other four: (C,), per channel; deviations are above 0.
    A patch normalised in the new way must give the token that it gave in the old way.
    Returns the new weight (D, C, P, P) and the new bias (D,).
    """
    ### BEGIN SOLUTION
    per_channel = (1, -1, 1, 1)
    new_weight = weight * (new_std / old_std).view(per_channel)
    shift = ((new_mean - old_mean) / old_std).view(per_channel)  # what is added to every pixel
    return new_weight, bias + (weight * shift).sum(dim=(1, 2, 3))
    ### END SOLUTION


# %%
check("11.3", my_renormalised)
# hint("11.3")

# %% [markdown] solved_only=true
# **Why.** The projection is a sum over channels and pixels of weight times x. Put the formula for x in: the factor goes
# to the weights of its channel, and the constant, times *all* weights of the channel, to the bias.
#
# **The common wrong answer** writes `weight * ratio` without giving the ratio its axis. PyTorch then lays it along the
# last axis, the columns of the patch. It only runs where a patch is as wide as there are channels, and then it is wrong
# in silence.

# %% [markdown]
# The package's `renormalised` does this to a whole network. **Proof** in float64: the same pieces, normalised by their
# own statistics, get the same logits.

# %%
own = channel_stats(train.images)
raw = test.images[:40].double() / 255
old_mean, old_std, new_mean, new_std = (
    torch.tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in (*normalisation, *own)
)
exact = copy.deepcopy(vit).double()
with torch.no_grad():
    rewritten = renormalised(exact, normalisation, own)
    assert_close(rewritten((raw - new_mean) / new_std), exact((raw - old_mean) / old_std))
    off = (exact((raw - new_mean) / new_std) - exact((raw - old_mean) / old_std)).abs().max().item()
print("CIFAR-10's deviation", np.round(normalisation[1], 3), "here", np.round(own[1], 3))
print(f"without it, a logit changes by up to {off:.1f}")

# %% claim="get the same logits"
with torch.no_grad():
    same = rewritten((raw - new_mean) / new_std) - exact((raw - old_mean) / old_std)
assert same.abs().max() < 1e-9
assert off > 0.5

# %% [markdown]
# ## Fine-tuning
#
# So far the network itself has learned nothing. In **fine-tuning** all of its layers go on learning, on the new task,
# from where they are. First it gets a new head. Dosovitskiy et al. 2020 (arXiv 2010.11929, section 3.2) start it with
# zeros; one may also put a linear probe's head on, and go on from there (Kumar et al. 2022, arXiv 2202.10054).

# %% definition="vit_tutorial.transfer.with_head"

# %% [markdown]
# **Predict.** With a head of zeros, what is the loss on the first batch? And what is the gradient of the layers *below*
# the head in the very first step?

# %%
begin = with_head(vit, num_classes)
loss = F.cross_entropy(begin(normalize(train.images[:50], *normalisation)), train.labels[:50])

# %%
loss.backward()
head_gradient = begin.head.weight.grad.norm().item()
below = begin.blocks[0].attn.qkv.weight.grad.norm().item()
print(f"loss {loss.item():.4f}, ln {num_classes} = {math.log(num_classes):.4f}")
print(f"length of the gradient: of the head {head_gradient:.3f}, below it {below:.3f}")

# %% [markdown]
# Exactly ln K for K classes, and exactly 0: a head that is all zeros hands nothing down. So the first gradients move
# the head alone, and the body begins to learn only once the head has an opinion.

# %% claim="Exactly ln K for K classes, and exactly 0"
assert abs(loss.item() - math.log(num_classes)) < 1e-5
assert below == 0
assert head_gradient > 0.5

# %% [markdown]
# Now the comparison. Ten examples of each class, three draws of them. On each draw three networks are trained with the
# same images in the same order and at one rate: one **from scratch**, the pretrained one with a **head of zeros**, and
# the pretrained one with the **probe's head**. All three twice: for 2 epochs, 12 steps, and for 10 epochs, 60 steps.
# (`renormalised` rewrites the patch projection for the images as `fit` normalises them; how, the deeper section above
# tells. The rate was chosen for none of them.)
#
# **Predict.** Put the three in order, with the linear probe among them: after 12 steps, and after 60.

# %%
from IPython.utils.capture import capture_output
from tqdm.auto import tqdm

from vit_tutorial import TrainConfig

PER_CLASS = min(10, smallest)


def starting_points(chosen):
    """The probe that these images give, and the three networks that go on learning from them."""
    start = renormalised(vit, normalisation, channel_stats(train[chosen].images))
    head = probe_head(trained["train"], chosen)
    return {
        "linear probe": with_head(start, head),
        "from scratch": VisionTransformer(replace(vit.config, num_classes=num_classes)),
        "head of zeros": with_head(start, num_classes),
        "probe's head": with_head(start, head),
    }


# %%
def fine_tune(network, images, epochs, seed, **choices):
    """Train all layers, as `fit` does, and return the network."""
    config = TrainConfig(
        epochs=epochs, batch_size=min(10, len(images)), lr=1e-3, flip=True, seed=seed,
        precision="float32", **choices,
    )  # fmt: skip
    with capture_output():  # no bar for each of them
        fit(network, images, None, config)
    return network.eval()


def accuracy_of(network, chosen):
    return evaluate(network, test, *channel_stats(train[chosen].images)).accuracy


# %%
EPOCHS = (2, 10)
networks, accuracies = {}, {}
for seed in tqdm(DRAWS, leave=False):
    chosen = draw(train.labels, PER_CLASS, seed)
    for epochs in EPOCHS:
        torch.manual_seed(seed)
        for name, network in starting_points(chosen).items():
            if name != "linear probe":
                fine_tune(network, train[chosen], epochs, seed)
            networks[name, epochs, seed] = network
            accuracies[name, epochs, seed] = accuracy_of(network, chosen)

# %%
steps = [epochs * (len(chosen) // min(10, len(chosen))) for epochs in EPOCHS]
names = list(starting_points(chosen))
runs = {
    name: np.array([[accuracies[name, epochs, seed] for epochs in EPOCHS] for seed in DRAWS])
    for name in names
}
by_steps = {"Fine-tuning": ("steps", [str(n) for n in steps], runs)}
plots.setting_curves(by_steps, "accuracy, %", chance=100 / num_classes)

# %%
for name in names[1:]:
    for column, count in enumerate(steps):
        ahead = runs[name][:, column] - runs["linear probe"][:, column]
        each = "  ".join(f"{gain:+5.1f}" for gain in ahead)
        print(f"{name:14} after {count:3} steps, ahead of the probe: {each}")

# %% [markdown]
# A line is the mean of three draws, a band holds all three. After 12 steps a head of zeros has not caught up with the
# probe, and whoever stops here concludes that fine-tuning does not pay. After 60 steps both fine-tuned networks are
# ahead of the probe in every draw, by five to six points on average, and the two heads end level. The probe's head is
# never the worse choice: after 12 steps it is ahead of the head of zeros in every draw. From scratch stays behind even
# the probe, with 60 images and 60 steps. **So a short training says little about a long one: train until longer no
# longer helps, and compare then.**
#
# Three draws show the order of what differs by several points in each of them. `FULL = True` makes them ten.

# %% claim="After 12 steps a head of zeros has not caught up with the probe"
ahead = runs["head of zeros"] - runs["linear probe"]
assert ahead[:, 0].mean() < -0.5

# %% claim="After 60 steps both fine-tuned networks are ahead of the probe in every draw"
for name in ("head of zeros", "probe's head"):
    ahead = (runs[name] - runs["linear probe"])[:, 1]
    assert ahead.min() > 1
    assert 4 < ahead.mean() < 8

# %% claim="the two heads end level"
assert abs((runs["probe's head"] - runs["head of zeros"])[:, 1].mean()) < 2.5

# %% claim="after 12 steps it is ahead of the head of zeros in every draw"
assert (runs["probe's head"] - runs["head of zeros"])[:, 0].min() > 0.5

# %% claim="From scratch stays behind even the probe, with 60 images and 60 steps."
assert (runs["from scratch"] - runs["linear probe"]).max() < -3
assert len(chosen) == 60
assert steps == [12, 60]

# %% claim="a short training says little about a long one"
gains = runs["head of zeros"] - runs["linear probe"]
assert (gains[:, 1] - gains[:, 0]).min() > 2

# %% [markdown] deeper=true
# ## Lower rates in lower layers
#
# How much should the body move? An old idea says: lower layers have learned what is of use for any picture (edges, in
# lesson 02), upper ones what is of use for the old task. So let each layer learn more slowly than the one above it
# (**layer-wise learning rates**; for ViTs e.g. Bao et al. 2021, arXiv 2106.08254). With L blocks, numbered 0 to L − 1,
# a rate η and a decay d between 0 and 1:
#
# | part | its rate |
# |---|---|
# | head, final norm | η |
# | block i | η · d^(L − i) |
# | CLS, positions, patch projection | η · d^(L + 1) |
#
# By hand, L = 4 and d = 0.5: the last block learns at η/2, the one before at η/4, block 0 at η/16 and the patch
# projection at η/32.


# %% exercise="11.4"
def my_layer_rates(names, depth, rate, decay):
    """Give each parameter of a ViT its learning rate.

    names: of the parameters, as in `named_parameters()`: "cls_token", "pos_embed",
    "patch_embed.proj.weight", "blocks.0.norm1.weight", ..., "norm.bias", "head.weight".
    depth: the number of blocks. rate and decay: see the table.
    Returns a dictionary from every name to its rate.
    """
    ### BEGIN SOLUTION
    rates = {}
    for name in names:
        first, *rest = name.split(".")
        if first == "blocks":
            power = depth - int(rest[0])
        else:
            power = 0 if first in ("norm", "head") else depth + 1
        rates[name] = rate * decay**power
    return rates
    ### END SOLUTION


# %%
check("11.4", my_layer_rates)
# hint("11.4")

# %% [markdown] solved_only=true
# **Why.** Splitting at the dots tells `norm` from `norm1`, and `blocks.1` from `blocks.11`.
#
# **The common wrong answer** asks `"norm" in name` or `name.startswith("blocks.1")`. With twelve blocks the last
# ones then learn at the rate of block 1, and nothing says so.

# %% [markdown]
# In the package it is a choice of `TrainConfig`, `layer_decay`, which splits the groups of lesson 07:

# %%
import re

from vit_tutorial.optimizers import parameter_groups

# %% definition="vit_tutorial.optimizers.groups_by_layer"

# %%
groups = groups_by_layer(parameter_groups(vit, 0.05), vit, layer_decay=0.7)
sizes = {}
for group in groups:
    sizes.setdefault(group["lr_scale"], []).extend(p.numel() for p in group["params"])
for scale, numbers in sorted(sizes.items()):
    print(f"{sum(numbers):7,} parameters learn at {scale:.2f} of the rate")

# %% [markdown]
# Does it pay here? The probe's head on the same draws, for the same 60 steps, with decay 0.7:

# %%
slower = []
for seed in DRAWS:
    chosen = draw(train.labels, PER_CLASS, seed)
    torch.manual_seed(seed)
    network = starting_points(chosen)["probe's head"]
    fine_tune(network, train[chosen], EPOCHS[1], seed, layer_decay=0.7)
    networks["slower below", EPOCHS[1], seed] = network
    slower.append(accuracy_of(network, chosen))
cost = np.array(slower) - runs["probe's head"][:, 1]
print("lower rates below, against one rate:", "  ".join(f"{gain:+.1f}" for gain in cost))

# %% [markdown]
# It costs two points and more in each draw. One reason may be that this task is far from the old one (no animals, no
# colour), so that lower layers have something to learn, too; that was not measured. For large networks the papers
# report gains. It is a choice to be measured, like any other.

# %% claim="It costs two points and more in each draw."
assert cost.max() < -1
assert cost.mean() < -1.8

# %% [markdown]
# ## Accuracy and the smallest class
#
# Real folders hold many images of one class and a handful of another. To see what that does, take all but three training
# images of one class away: of the one that the probe recognises worst. *Recall* is the share of a class's test images
# that is classified correctly (lesson 07), and accuracy is the mean of the recalls, each weighted by its class's share
# of the images.
#
# **Predict.** The probe learns from 153 images, three of them of this class. What is its accuracy on images with the
# same shares? And the recall of the small class?


# %%
def recalls(logits, labels=test.labels):
    """The share of each class that is classified correctly: (num_classes,)."""
    correct = (logits.argmax(dim=1) == labels).double()
    return torch.stack([correct[labels == c].mean() for c in range(num_classes)])


rare = int(recalls(probe.head(trained["test"])).argmin())
uneven = []
for seed in DRAWS:
    order = draw(train.labels, len(train), seed)  # all of them, shuffled
    three = order[train.labels[order] == rare][:3]
    chosen = torch.cat([order[train.labels[order] != rare], three])
    shares = train.labels[chosen].bincount().double() / len(chosen)
    logits = probe_head(trained["train"], chosen)(trained["test"]).detach()
    for shift in (0, shares.log()):
        recall = recalls(logits - shift)
        uneven.append([100 * (shares * recall).sum(), 100 * recall[rare], 100 * recall.mean()])

# %%
uneven = np.array(uneven).reshape(len(DRAWS), 2, 3).mean(axis=0)  # (2, 3)
print(f"{len(chosen)} training images, {len(three)} of them {train.classes[rare]}")
for name, (accuracy, recall, mean_recall) in zip(("as it is", "shifted"), uneven, strict=True):
    print(
        f"{name:9} accuracy {accuracy:.1f}%, recall of {train.classes[rare]} {recall:.1f}%, "
        f"mean recall {mean_recall:.1f}%"
    )

# %% [markdown]
# "As it is": the accuracy is above nine in ten, which nobody would object to, and the small class is hardly ever
# recognised. The layer has learned that the class is rare. So **show the recall of the smallest class beside the
# accuracy**, always. And the rarity can be taken out again, without any training: subtract from each logit the
# logarithm of its class's share of the training images ("shifted"; logit adjustment, Menon et al. 2020, arXiv
# 2007.07314). The recall of the small class rises to more than a half, and the accuracy pays about two points for it.
# Which of the two is better depends on what a missed image costs you, and no number here knows that.

# %% claim="the accuracy is above nine in ten, which nobody would object to, and the small class is hardly ever"
assert uneven[0, 0] > 93
assert uneven[0, 1] < 20

# %% claim="The recall of the small class rises to more than a half, and the accuracy pays about two points for it."
assert uneven[1, 1] > 52
assert -4.5 < uneven[1, 0] - uneven[0, 0] < -0.5
assert uneven[1, 2] > uneven[0, 2] + 4

# %% [markdown]
# ## A network of your own
#
# Now put together what has come out ahead: all training images, the probe's head, and then all layers at one rate. A
# thousand images are enough for a small folder, each seen several times; a large one is gone through three times.

# %%
own = channel_stats(train.images)
epochs = max(3, round(1000 / len(train)))
torch.manual_seed(0)
tuned = with_head(renormalised(vit, normalisation, own), probe.head)
fine_tune(tuned, train, epochs, seed=0)
result = evaluate(tuned, test, *own)
before = evaluate(with_head(vit, probe.head), test, *normalisation)

# %%
bars = {"linear probe": before, "fine-tuned": result}
bars = {name: (one.accuracy, *one.interval) for name, one in bars.items()}
plots.interval_bars(bars, f"accuracy on {len(test)} test images, %", chance=100 / num_classes)

# %%
least = int(train.labels.bincount().argmin())
recall = recalls(F.one_hot(result.predictions, num_classes))
for what, label in {"smallest class": least, "lowest recall": int(recall.argmin())}.items():
    count = int((test.labels == label).sum())
    print(f"{what}, {train.classes[label]}: recall {recall[label]:.0%} of {count} test images")

# %%
plots.confusion_matrix(result.confusion.numpy(), result.classes)

# %% [markdown]
# A bar is the 95% interval for the count of test images (lesson 07). Beside the accuracy stand two recalls: of the
# smallest class, and of the class that has the lowest. (All six are equally large here, so the smallest is the first.
# In your folder it is a real one.) Where the surfaces are confused, it is gravel that is taken for grass.
#
# Saving takes one line, `save_checkpoint`. The weights alone would be of little use: which mean, which deviation, which
# size, which classes? All of this goes into a *card* beside them. With your own folder the two files land beside this
# notebook, else in the lesson's temporary folder.

# %% claim="it is gravel that is taken for grass"
wrong = result.confusion - result.confusion.diag().diag()
row, column = divmod(int(wrong.argmax()), num_classes)
assert train.classes[row] == "gravel"
assert train.classes[column] == "grass"

# %% claim="so the smallest is the first"
assert least == 0
assert train.labels.bincount().unique().tolist() == [30]

# %%
from vit_tutorial import load_checkpoint, save_checkpoint
from vit_tutorial.weights import Card

path = (Path() if MY_FOLDER else place) / "tuned.safetensors"
card = Card(
    name="tuned", config=tuned.config, classes=train.classes, mean=own[0], std=own[1],
    data=train.name, fingerprint=train.fingerprint(),
)  # fmt: skip
save_checkpoint(tuned, path, card)
loaded, card = load_checkpoint(path)
again = evaluate(loaded, test, card.mean, card.std)
print(f"{path.name}, {path.stat().st_size / 1e6:.1f} MB: {again.accuracy:.1f}% of the test images")

# %% [markdown]
# Saved in half precision, it is as accurate as before. And where does it look? A question with a known answer (as in
# lesson 09): a picture whose left half is one class and whose right half another, with the map asked for one of them and
# then for the other. Here are the first two classes; a photograph of yours would do as well.

# %% claim="Saved in half precision, it is as accurate as before."
assert abs(again.accuracy - result.accuracy) < 0.7

# %%
from vit_tutorial import record_attention, relevance


def halves(one, other):
    """The left half of one image beside the right half of another, (C, H, W)."""
    middle = one.shape[2] // 2
    return torch.cat([one[..., :middle], other[..., middle:]], dim=2)


def map_for(image, label):
    """Chefer's relevance for a class: (rows, columns)."""
    pixels = normalize(image[None], card.mean, card.std)
    record = record_attention(loaded, pixels, gradients_of=lambda logits: logits[:, label])
    return relevance(record, method="chefer")[0].detach()


# %%
examples = [test.images[test.labels == c] for c in (0, 1)]
picture = halves(examples[0][0], examples[1][0])
maps = [map_for(picture, label).numpy() for label in (0, 1)]
plots.map_row(
    picture.permute(1, 2, 0).numpy(), maps, list(train.classes[:2]), form=plots.in_numbers
)

# %% [markdown]
# Above, where the map falls on the picture; below, the map itself, a cell for each patch. One picture proves nothing.
# So all pairs of two classes, two pictures each, both questions: which share of the map lies on the half that was asked
# for?

# %%
from itertools import permutations

shares = []  # of the map, in the half that was asked for
for a, b in list(permutations(range(num_classes), 2))[:30]:
    for number in (0, -1):
        picture = halves(*(test.images[test.labels == c][number] for c in (a, b)))
        for label, part in ((a, 0), (b, 1)):
            heat = map_for(picture, label).chunk(2, dim=1)
            total = sum(half.sum() for half in heat)
            shares.append(float(heat[part].sum() / total) if total > 0 else 0.5)
shares = 100 * np.array(shares).reshape(-1, 2).mean(axis=1)  # one number for each picture
error = shares.std(ddof=1) / len(shares) ** 0.5
print(f"{len(shares)} pictures: {shares.mean():.0f}% ± {1.96 * error:.0f} of the map (50: blind)")

# %% [markdown]
# Three fifths, where a map that knows nothing of the question would have one half: the saved network looks, on the
# whole, at what it is asked for, and not sharply. (Every token has mixed with the others. Lesson 09 tells how far such
# a map can be trusted.)
#
# Now **play**. Open images of your own in it, by dropping them on the picture or with its chooser.

# %% claim="Three fifths, where a map that knows nothing of the question would have one half"
assert 56 < shares.mean() < 68
assert shares.mean() - 1.96 * error > 53

# %%
from vit_tutorial import AttentionExplorer

picture = halves(examples[0][0], examples[1][0])
explorer = AttentionExplorer(loaded, picture, card, name="two halves", target=train.classes[0])
explorer.show = "chefer"
explorer

# %% [markdown]
# | key | what it does |
# |---|---|
# | pointer, arrow keys | choose the patch that looks |
# | *shows* | rollout, one head, or a map for the class |
#
# The file is a network like any other of the course. In a terminal, with your own photographs:
#
# ```sh
# vit-tutorial explain --model tuned.safetensors my_photo.jpg --target brick
# vit-tutorial explain --model tuned.safetensors my_photos/*/*.jpg --out pages
# vit-tutorial evaluate --checkpoint tuned.safetensors --data my_photos
# ```
#
# The first draws a picture beside the photograph, the second writes a page to explore for each, the third measures
# the network and says if it has seen these images in training. From Python it is `load_checkpoint("tuned.safetensors")`.

# %% claim="The first draws a picture beside the photograph, the second writes a page to explore for each"
import io
from contextlib import redirect_stdout

from vit_tutorial.cli import main

first, pages = place / "first.png", place / "pages"
Image.fromarray(picture.permute(1, 2, 0).numpy()).save(first)
command = ["explain", "--model", str(path), str(first)]
with redirect_stdout(io.StringIO()):
    codes = [main([*command, "--target", train.classes[0]]), main([*command, "--out", str(pages)])]
assert codes == [0, 0]
assert first.with_suffix(".explained.png").stat().st_size > 1000
assert len(list(pages.glob("*.html"))) >= 1

# %% claim="the third measures the network and says if it has seen these images in training"
import io
import json
from contextlib import redirect_stderr, redirect_stdout

from vit_tutorial.cli import main

printed = io.StringIO()
with redirect_stdout(printed), redirect_stderr(io.StringIO()):
    assert main(["evaluate", "--checkpoint", str(path), "--data", str(folder), "--json"]) == 0
measured_there = json.loads(printed.getvalue())
assert abs(measured_there["accuracy"] - again.accuracy) < 0.01
assert measured_there["trained_on"] == 0

# %% [markdown] deeper=true
# ## Hugging Face's Trainer, and ten plain lines
#
# Many networks come with a trainer of their own. Hugging Face's `Trainer` does what `fit` does, for any of their
# models. What is inside is no secret, and by now you can see through it: the same model and the same images, once with
# `Trainer` and once with a plain loop. All images are one batch here, so that their order cannot matter.
#
# (This needs two more libraries. Where one is missing, the next cell says so, and the lesson goes on.)

# %%
from importlib.util import find_spec

missing = [name for name in ("transformers", "accelerate") if find_spec(name) is None]
if missing:
    print("Not all of this section can run here. For the rest: pip install", *missing)

# %%
chosen = draw(train.labels, PER_CLASS, seed=0)
images = normalize(train.images[chosen], *normalisation).double()
labels = train.labels[chosen]

# %%
if "transformers" not in missing:
    torch.manual_seed(0)
    their_config = transformers.ViTConfig(
        image_size=tuple(images.shape[-2:]), patch_size=8, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, num_labels=num_classes,
    )  # fmt: skip
    theirs = transformers.ViTForImageClassification(their_config).double()
    without = theirs(pixel_values=images).loss
    with_labels = theirs(pixel_values=images, labels=labels).loss.item()
    expected = F.cross_entropy(theirs(images).logits, labels).item()
    print("given pixels alone, its loss is ", without)
    print("given pixels and labels:        ", with_labels)
    print("cross-entropy of its logits:    ", expected)

# %% [markdown]
# **A common mistake**: such a model computes its loss itself, but only if it is given the labels. Else the loss is
# `None`, and the error appears a line later, in `backward`, where nobody looks for labels.
#
# **Predict.** Ten steps by each of the two. Will the weights be the same?

# %% claim="only if it is given the labels. Else the loss is"
assert without is None
assert abs(with_labels - expected) < 1e-12

# %%
if not missing:
    transformers.logging.set_verbosity_error()
    by_hand, by_trainer = copy.deepcopy(theirs), copy.deepcopy(theirs)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(10):
        loss = by_hand(pixel_values=images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()

# %%
if not missing:
    choices = transformers.TrainingArguments(
        str(place / "trainer"), max_steps=10, per_device_train_batch_size=len(images),
        learning_rate=1e-3, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0,
        optim="adamw_torch", report_to=[], save_strategy="no", logging_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    rows = [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    trainer = transformers.Trainer(by_trainer, choices, train_dataset=rows)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()

# %%
if not missing:
    apart = {}
    for name, other in {
        "by hand and by Trainer": by_trainer,
        "by hand and the start": theirs,
    }.items():
        pairs = zip(by_hand.parameters(), other.parameters(), strict=True)
        apart[name] = max((a - b).abs().max().item() for a, b in pairs)
        print(f"{name}: weights differ by at most {apart[name]:.0e}")

# %% [markdown]
# The same weights, up to rounding. `Trainer` adds what long runs need (saving, resuming, several GPUs), and each of its
# arguments is a line that you have met in lesson 07. Which of the two you take is a matter of taste. But look closely
# at how the result is measured. Two mistakes there are as common as the one with the labels.

# %% claim="The same weights, up to rounding."
assert apart["by hand and by Trainer"] < 1e-9
assert apart["by hand and the start"] > 1e-3


# %% exercise="11.5"
def my_test_loop(model, batches):
    """Measure a model that is called as Hugging Face's are.

    model(pixel_values=..., labels=...) gives an object with .logits (b, K) and .loss, the mean over
    the b images of the batch; without labels .loss is None. It is in evaluation mode already.
    batches: a list of dictionaries {"pixel_values": (b, C, H, W), "labels": (b,)}; b differs.
    Returns the mean loss over all images (a plain number), the predicted classes (n,) and the true
    ones (n,), in the order of the images. No gradients are recorded.
    """
    ### BEGIN SOLUTION
    total, predictions, labels = 0.0, [], []
    with torch.no_grad():
        for batch in batches:
            output = model(**batch)
            total += output.loss.item() * len(batch["labels"])
            predictions.append(output.logits.argmax(dim=1))
            labels.append(batch["labels"])
    predictions, labels = torch.cat(predictions), torch.cat(labels)
    return total / len(labels), predictions, labels
    ### END SOLUTION


# %%
check("11.5", my_test_loop)
# hint("11.5")

# %% [markdown] solved_only=true
# **Why.** Two lists with two names. The loss of a batch is a mean, so it counts as often as the batch has images.
#
# **The common wrong answer** lets the two lists run into one, and compares predictions with themselves: 100% accuracy,
# a fine report, and nothing measured. If a first result is perfect, look for this first.

# %% [markdown] deeper=true
# ## A class for every pixel
#
# So far we kept one token and threw the others away. But every patch has a token, and lesson 08 has shown that it knows
# of its surroundings. So a head on the *patch* tokens should be able to say what is where. That is **segmentation**: a
# class for every pixel. A small task for it, made of what we have: a handwritten digit, in any colour, somewhere on a
# piece of a photograph. Which pixels belong to the digit? (Coffee, by Rachel Michetti, and rocket, by SpaceX, CC0; the
# astronaut Eileen Collins, by NASA, and Chelsea, by Stéfan van der Walt, public domain.)


# %%
NAMES = ("coffee", "rocket", "astronaut", "chelsea")


def compose(scans, count, seed):
    """Put digits on photographs: uint8 images (count, C, S, S), and true classes (count, S, S)."""
    random, S, half = np.random.default_rng(seed), size, size // 2
    photos = [Image.fromarray(getattr(photographs, name)()) for name in NAMES]
    images, masks = [], torch.zeros(count, S, S, dtype=torch.long)
    for mask in masks:
        photo = photos[random.integers(len(photos))]
        wide = int(random.integers(40, 129))
        left, top = (int(random.integers(whole - wide + 1)) for whole in photo.size)
        ground = photo.crop((left, top, left + wide, top + wide)).resize((S, S))
        ink = scans.images[random.integers(len(scans)), 0].numpy()
        ink = Image.fromarray(ink).resize((half, half))
        row, column = random.integers(S - half + 1, size=2).tolist()
        colour = Image.new("RGB", (half, half), tuple(random.integers(256, size=3).tolist()))
        ground.paste(colour, (column, row), ink)
        inside = torch.from_numpy(np.array(ink) > 100).long()
        mask[row : row + half, column : column + half] = inside
        images.append(torch.from_numpy(np.array(ground)).permute(2, 0, 1))
    return torch.stack(images), masks


# %%
pictures, masks = compose(digits("train"), 200, seed=0)
test_pictures, test_masks = compose(digits("test"), 80, seed=1)
print(f"{masks.float().mean():.0%} of the pixels belong to a digit")

# %% [markdown]
# The head is one linear layer again, this time on each patch token. It gives one number for each class and patch, and
# there are more pixels than patches. By hand: four patches in a row, each two pixels wide, for which the layer gives 0,
# 0, 4, 4. From the middle of one patch to the middle of the next we go in a straight line:

# %%
row = torch.tensor([0.0, 0, 4, 4]).view(1, 1, 1, 4)
enlarged_row = F.interpolate(row, size=(1, 8), mode="bilinear")[0, 0, 0].tolist()
print(enlarged_row)

# %% [markdown]
# So an edge can lie *inside* a patch, wherever the line of one class crosses that of another.

# %% claim="an edge can lie *inside* a patch"
assert enlarged_row == [0, 0, 0, 1, 3, 4, 4, 4]

# %%
from einops import rearrange
from torch import Tensor

# %% definition="vit_tutorial.transfer.PatchSegmenter"

# %% [markdown]
# How good is a map of classes? Counting right pixels will not do: where 9 of 10 are background, "background everywhere"
# has 90%. So one asks of each class: of all pixels that *are* it or were *predicted* to be it, which share is both?
# This is **intersection over union**, IoU, and its mean over the classes is the mean IoU. By hand: a digit has 6
# pixels, 5 pixels were predicted to be digit, 4 of them correctly. Intersection 4, union 6 + 5 − 4 = 7, IoU 4/7.


# %% exercise="11.6"
def my_mean_iou(predicted, true, num_classes):
    """Mean IoU over all images together.

    predicted, true: (n, H, W), whole numbers from 0 to num_classes - 1. In `true`, 255 marks pixels
    that nobody could label: they do not count, whatever was predicted there.
    Classes that occur in neither map (among the pixels that count) are left out of the mean.
    Returns one number, a tensor of shape (), float32, from 0 to 1.
    """
    ### BEGIN SOLUTION
    counts = true != 255
    predicted, true = predicted[counts], true[counts]
    ious = []
    for c in range(num_classes):
        either = ((predicted == c) | (true == c)).sum()
        if either > 0:
            ious.append(((predicted == c) & (true == c)).sum() / either)
    return torch.stack(ious).mean()
    ### END SOLUTION


# %%
check("11.6", my_mean_iou)
# hint("11.6")

# %% [markdown] solved_only=true
# **Why.** Count intersections and unions over *all* images, then divide, then take the mean over classes.
#
# **The common wrong answer** takes the mean of each image's IoU. A picture with three pixels of a class then counts as
# much as one that is full of it. Another one gives 0 to a class that is in neither map, and so punishes the network for
# not seeing what is not there.

# %% [markdown]
# The package's, from one table of counts. (No 255 here.)

# %% definition="vit_tutorial.transfer.class_ious"

# %% [markdown]
# First the cheap answers: "background everywhere", and a map that knows exactly which share of each patch is digit,
# and nothing finer.

# %%
nothing = class_ious(torch.zeros_like(test_masks), test_masks, 2)
print(
    f"background everywhere: IoU {nothing[0]:.2f} and {nothing[1]:.2f}, mean {nothing.mean():.2f}"
)
true_shares = F.one_hot(test_masks, 2).permute(0, 3, 1, 2).float()  # (n, 2, S, S)
true_shares = F.avg_pool2d(true_shares, vit.config.patch_size)
enlarged = F.interpolate(true_shares, size=test_masks.shape[1:], mode="bilinear").argmax(dim=1)
ceiling = class_ious(enlarged, test_masks, 2).mean().item()
print(f"true share of each patch: mean {ceiling:.2f}")

# %% [markdown]
# Even the second stays far below 1: strokes are thinner than patches, and an enlarged map of patches is blurred. Keep
# that number in mind before you blame a network.
#
# The encoder stays frozen, so its tokens are computed once. Only the head learns, for 60 steps, on the trained encoder
# and on two untrained ones.

# %% claim="Even the second stays far below 1"
assert 0.6 < ceiling < 0.88


# %%
def learn_pixels(encoder, at=(15, 60)):
    """Train a segmenter's head on a frozen encoder: step -> maps of the test pictures."""
    torch.manual_seed(0)
    tokens, test_tokens = (
        features(encoder, x, *normalisation, patches=True) for x in (pictures, test_pictures)
    )
    segmenter, maps = PatchSegmenter(encoder, num_classes=2), {}
    optimizer = torch.optim.AdamW(segmenter.head.parameters(), lr=2e-2)
    for step in range(1, max(at) + 1):
        batch = torch.randint(len(pictures), (50,))
        loss = F.cross_entropy(segmenter.decode(tokens[batch]), masks[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in at:
            maps[step] = segmenter.decode(test_tokens).argmax(dim=1)
    return maps


# %%
encoders = {"trained": vit}
for seed in (0, 1):
    torch.manual_seed(seed)
    encoders[f"untrained {seed}"] = VisionTransformer(vit.config).eval()
maps = {name: learn_pixels(encoder) for name, encoder in encoders.items()}
ious = {}
for name, by_step in maps.items():
    ious[name] = [class_ious(one, test_masks, 2).mean().item() for one in by_step.values()]
    print(f"{name:11} step 15: {ious[name][0]:.2f}   step 60: {ious[name][1]:.2f}")

# %%
rows = {"true": test_masks, "step 15": maps["trained"][15], "step 60": maps["trained"][60]}
rows["untrained,\nstep 60"] = maps["untrained 0"][60]
plots.label_maps(
    test_pictures[:6].permute(0, 2, 3, 1).numpy(),
    {name: one[:6].numpy() for name, one in rows.items()},
    ["background", "digit"],
)

# %% [markdown]
# A linear layer on tokens of a network that was trained for "frog" and "ship" finds digits on photographs, not far from
# what patches of this size allow. On an untrained encoder it hardly finds any: its mean IoU is near that of "background
# everywhere". **The encoder is more than a classifier**: what it makes of an image serves other heads. With other heads
# people find and count objects, estimate depth, describe pictures in words, or do several of these with one encoder.

# %% claim="finds digits on photographs, not far from what patches of this size allow"
assert ious["trained"][1] > 0.62
assert ceiling - ious["trained"][1] < 0.14

# %% claim="its mean IoU is near that of \"background everywhere\""
for name in ("untrained 0", "untrained 1"):
    assert abs(ious[name][1] - nothing.mean().item()) < 0.1
    assert ious[name][1] < ious["trained"][1] - 0.1

# %% [markdown]
# ## What we now have
#
# | what | shape |
# |---|---|
# | images, at the size that the network reads | (n, C, H, W) uint8 |
# | features: what the head reads | (n, D) |
# | patch tokens | (n, N, D) |
# | a probe, a new head | weight (K, D), bias (K,) |
# | a patch projection, renormalised | weight (D, C, P, P), bias (D,) |
# | a network of your own | `tuned.safetensors` and its card |
#
# An order to work in: the pixels and an untrained network, to know what is cheap; a linear probe on features that are
# kept; then the probe's head and all layers, for long enough, at one rate first. Beside the accuracy, the recall of the
# smallest class. And a network never travels alone: its mean, its deviation, its image size and its classes come with
# it.

# %% [markdown] deeper=true
# ## The questions people ask
#
# **"Must my images have 224 pixels?"** A network reads the size that it was trained with, and its positions can be
# resampled for another (`resized`, lesson 03). The same pieces at twice the size, where each patch shows a quarter of
# what it showed:

# %%
correct = {}
for pixel_count in (size, 2 * size):
    parts = load_train_test(folder, img_size=pixel_count) if pixel_count > size else (train, test)
    parts = [part[draw(part.labels, 10, seed=0)] for part in parts]
    rows = [features(vit.resized(pixel_count), part.images, *normalisation) for part in parts]
    head = linear_probe(rows[0], parts[0].labels, strengths=[0.1]).head
    correct[pixel_count] = int((head(rows[1]).argmax(dim=1) == parts[1].labels).sum())
    print(f"{pixel_count} pixels: {correct[pixel_count]} of {len(parts[1])} correct")

# %% [markdown]
# It runs, and so few images cannot tell the two apart. It takes four times the tokens.
#
# **"May I cut up photographs and split the pieces at random?"** Then pieces of the same place land on both sides, and
# you may be measuring memory. With the surfaces, cross-validation did just that above, on pieces of the left halves;
# the test set is cut from the right ones:

# %% claim="so few images cannot tell the two apart"
assert abs(correct[32] - correct[64]) <= 6

# %%
inside = probe.scores[probe.strength].mean().item()
low, high = before.interval
print(f"cross-validation on the training images: {inside:.1f}%")
print(f"test images: {before.accuracy:.1f}%, between {low:.1f}% and {high:.1f}%")

# %% [markdown]
# A linear layer on a frozen network has little room to remember places, and here the two do not differ by more than
# chance. A network that is trained for long has. You will not know without a test set from elsewhere. And even the
# other half is the same photograph: of *other* bricks nothing has been measured here.
#
# **"My checkpoint has ten classes, and my data have six."** Then nothing can be measured, and an error says so.
# `with_head` is the way out.

# %% claim="here the two do not differ by more than chance"
assert low < inside < high

# %%
try:
    evaluate(vit, test, *normalisation)
except ValueError as error:
    print(in_words(error))

# %% [markdown]
# **"All my images are of one kind."** Then there is nothing to tell apart: make a second folder, of everything else.

# %%
try:
    linear_probe(trained["train"][:20], torch.zeros(20, dtype=torch.long))
except ValueError as error:
    print(error)

# %% [markdown]
# **"Can I keep the features and still augment?"** Not for nothing: each changed image has features of its own, which
# must be computed, too. How far are they from the old ones, and does a probe gain by them? Our network was trained with
# mirrored images, and never with turned ones:

# %%
changes = {"mirrored": train.images.flip(3), "turned by 90°": train.images.rot90(1, dims=(2, 3))}
alike, gained = {}, {}
for name, changed in changes.items():
    rows = features(vit, changed, *normalisation)
    alike[name] = F.cosine_similarity(rows, trained["train"]).mean().item()
    gained[name] = []
    for seed in DRAWS:
        chosen = draw(train.labels, PER_CLASS, seed)
        both = torch.cat([trained["train"][chosen], rows[chosen]])
        head = probe_head(both, slice(None), train.labels[chosen].repeat(2))
        accuracy = 100 * recalls(head(trained["test"]))[test.labels].mean().item()
        gained[name].append(accuracy - runs["linear probe"][seed, 0])
    each = "  ".join(f"{gain:+.1f}" for gain in gained[name])
    print(f"{name:14} cosine with itself unchanged {alike[name]:.2f}, the probe gains: {each}")

# %% [markdown]
# A mirrored image is nearly the same to this network, and adds next to nothing. A turned one is far less alike, and
# adds little more: a point at most.
#
# **"Does fine-tuning forget?"** The old head, put back on the fine-tuned bodies: of a hundred pieces of other
# photographs, for how many does the network still give the class that it gave before?

# %% claim="A mirrored image is nearly the same to this network, and adds next to nothing."
assert alike["mirrored"] > 0.95
assert max(abs(gain) for gain in gained["mirrored"]) < 2.3

# %% claim="A turned one is far less alike, and adds little more"
assert alike["turned by 90°"] < 0.75
assert abs(np.mean(gained["turned by 90°"])) < 2.3

# %%
from vit_tutorial import fit_image, open_image

random = np.random.default_rng(0)
pieces = [p for n in NAMES for p in cut(Image.fromarray(getattr(photographs, n)()), 0, 25, random)]
pieces = torch.stack([fit_image(open_image(np.array(p)), size).pixels for p in pieces])
agreement = {}
with torch.no_grad():
    old = vit(normalize(pieces, *normalisation)).argmax(dim=1)
    for name, epochs, seed in networks:
        if name in ("head of zeros", "probe's head", "slower below"):
            statistics = channel_stats(train[draw(train.labels, PER_CLASS, seed)].images)
            body = with_head(networks[name, epochs, seed], vit.head)
            new = body(normalize(pieces, *statistics)).argmax(dim=1)
            agreement[name, epochs, seed] = 100 * (new == old).double().mean().item()

# %%
for name, epochs in dict.fromkeys(key[:2] for key in agreement):
    each = "  ".join(f"{agreement[name, epochs, seed]:.0f}%" for seed in DRAWS)
    print(f"{name:14} {epochs:2} epochs: the same class for {each}")

# %% [markdown]
# What is not asked for any more fades: after 10 epochs of fine-tuning less is left than after 2, in each draw. Lower
# rates below keep more of it.
#
# **"What would a large network give?"** With `FULL = True` the next cell takes torchvision's ViT-B/16 (86 million
# parameters, trained on ImageNet) to CIFAR-10: features of 2,000 training and 1,000 test images at 224×224 pixels, kept
# in `data/features`, and a linear probe. On a CPU this takes about an hour once, on a GPU a minute. (Downloads: 330 MB
# and 170 MB.)

# %% claim="after 10 epochs of fine-tuning less is left than after 2, in each draw"
for name in ("head of zeros", "probe's head"):
    assert all(agreement[name, 10, seed] < agreement[name, 2, seed] for seed in DRAWS)

# %% claim="Lower rates below keep more of it."
assert all(
    agreement["slower below", 10, seed] > agreement["probe's head", 10, seed] for seed in DRAWS
)

# %%
if FULL:
    from vit_tutorial.data import cifar10, data_root
    from vit_tutorial.hardware import best_device

    try:
        large, large_reading = load_vit("torchvision:vit_b_16")
        large = large.to(best_device())
        parts = [cifar10("train")[:2000], cifar10("test")[:1000]]
        large_normalisation = (large_reading.mean, large_reading.std)
        rows = [
            features(
                large, part.resized(224).images, *large_normalisation,
                cache=data_root() / "features",
            )
            for part in parts
        ]  # fmt: skip
        head = linear_probe(rows[0], parts[0].labels).head
        accuracy = (head(rows[1]).argmax(dim=1) == parts[1].labels).float().mean()
        print(f"linear probe on ViT-B/16: {accuracy:.1%} on {len(parts[1])} test images")
    except (ValueError, OSError) as error:
        print(error)

# %% [markdown]
# ## A stretch
#
# - **Your own.** Put a folder into `MY_FOLDER`, keep 20% of it away as `test` before you look at anything, and go
#   through the lesson once. Then change `NETWORK`.
# - **k nearest neighbours.** Keep all features, and let the k training images with the most similar features (cosine)
#   vote. It needs no training at all. For which number of examples is it ahead of the linear probe?
# - **Which layer?** Probe the mean of the patch tokens after every block instead of the last one (hooks: lesson 05).
#   Where do the surfaces do best, where the digits? Is it the same layer?
# - **A better segmenter.** Fine-tune the encoder too, with a tenth of the rate; or let the head give all P² pixels of a
#   patch instead of one number for it. How near do you come to the ceiling, and can you pass it?
