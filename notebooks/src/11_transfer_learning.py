# %% [markdown]
# # 11 · Transfer learning
#
# **What is a trained network worth for a task that it was never trained for?**
#
# Your task is hardly ever one of CIFAR-10's. It has other classes, and you have tens of labelled images, not tens of
# thousands. This lesson takes a network that somebody has trained on something else, and puts it to work on a new task,
# in the cheapest way first. The same lines then work for the large networks that others give away.
#
# **You will**
#
# - load ViTs of three libraries through one function, and prove that nothing is lost on the way,
# - turn a network into numbers for each image, compute them once and keep them,
# - put a linear layer on them, and fold what stands around a layer into the layer,
# - see what a wrong normalisation costs, and repair it exactly,
# - fine-tune all layers, with one rate or with lower rates below, against training from scratch,
# - do the same with Hugging Face's `Trainer` and with ten plain lines, and get the same weights,
# - name the class of every pixel with the same network.

# %% [markdown]
# ## Six surfaces
#
# The new task: what is the surface in this picture made of? Six photographs that come with
# [scikit-image](https://scikit-image.org), in grey: bricks, grass and gravel (CC0), old coins (Brooklyn Museum) and
# tissue under a microscope (CMMI; both without known copyright restrictions), and stars (Hubble Deep Field, NASA,
# public domain). We cut square pieces of many sizes out of them: pieces of the left half to train, of the right half to
# test, so that no pixel of a test piece has been seen in training.
#
# Or take **your own images**: write the name of a folder into `MY_FOLDER`, and run the lesson on it. It holds one
# folder of images for each class, named like the class, either directly or in two folders `train` and `test`.

# %%
import copy
import math
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data as photographs
from torch import nn
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, evaluate, fit, normalize, plots
from vit_tutorial.data import channel_stats, load_train_test

MY_FOLDER = ""  # for example "my_photos"
NETWORK = "cifar10"  # later perhaps "torchvision:vit_b_16"
PHOTOS = {"brick": "brick", "coins": "coins", "grass": "grass", "gravel": "gravel",
          "stars": "hubble_deep_field", "tissue": "immunohistochemistry"}  # fmt: skip


# %%
def cut(photo, side, count, random):
    """Cut square pieces out of the left half (side 0) or the right half (1) of a photograph."""
    half, pieces = photo.width // 2, []
    for _ in range(count):
        size = int(random.integers(40, 100))
        left = side * half + int(random.integers(half - size + 1))
        top = int(random.integers(photo.height - size + 1))
        pieces.append(photo.crop((left, top, left + size, top + size)))
    return pieces


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
folder = Path(MY_FOLDER) if MY_FOLDER else write_surfaces(place / "surfaces")


def in_words(error):
    """What an error says, without the names of folders on this machine."""
    return str(error).replace(f"{folder.parent}{os.sep}", "")


# %% [markdown]
# Folders of images are never tidy. `load_train_test` reads any mode (grey, colour, transparent) as colour. Images of
# several sizes it refuses, until you say which size you want:

# %%
try:
    train, test = load_train_test(folder)
except ValueError as error:
    print(in_words(error))

# %%
train, test = load_train_test(folder, img_size=32)
print(f"{len(train)} to train, {len(test)} to test; {tuple(train.images.shape[1:])} each")
print("classes:", ", ".join(train.classes))

# %%
shown = min(7, *torch.bincount(test.labels).tolist())
plots.augmentation_gallery(
    {
        name: test.images[test.labels == c][:shown].permute(0, 2, 3, 1).numpy()
        for c, name in enumerate(test.classes[:6])
    }
)

# %% [markdown]
# This is all that the network will see: 32×32 pixels, and no colour. Our `cifar10` network knows ten kinds of animals
# and vehicles. None of the six is among them.
#
# **Predict.** Ten examples of each class, and nothing else is learned but one linear layer. How many of 100 test pieces
# will be named rightly? Guessing gives 17. Write your number down.
#
# ## One function for everybody's networks
#
# There is no need to train the network yourself. torchvision, timm and Hugging Face give away ViTs that have seen
# millions of images. They call their parts by other names, and mean the same. `load_vit` gives the network as *ours*,
# with everything that the lessons before have built for it, and tells how it reads images: their size, mean and
# standard deviation, and the names of its classes.

# %%
from typing import Any

from torch import Tensor

from vit_tutorial.pretrained import Reading, load_network
from vit_tutorial.weights import Card, from_library

# %% definition="vit_tutorial.pretrained.load_vit"

# %%
vit, reading = load_vit(NETWORK)
size = reading.size
if size != 32:
    train, test = load_train_test(folder, img_size=size)
print(f"images of {size} pixels, {len(reading.classes)} classes")
print("mean", [round(m, 3) for m in reading.mean], "deviation", [round(s, 3) for s in reading.std])

# %% [markdown]
# Do they really mean the same? Weights of large networks cannot be had without a network connection. But the proof does
# not need them: it needs the libraries' *code*. So we take their ViTs small, put random numbers into every parameter
# (a fresh network has zeros in places where a mistake could hide), and compare the logits in float64.

# %%
import torchvision

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

# %% [markdown]
# **Predict.** Two layers of attention, computed by another library in its own way. How large will the largest
# difference be: 0, about 1e-16, or about 1e-6?

# %%
torch.manual_seed(0)
x = torch.randn(4, 3, 32, 32).double()
for name, theirs in small.items():
    theirs = theirs.double().eval()
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter) / parameter[0].numel() ** 0.5
    expected = theirs(x)
    expected = getattr(expected, "logits", expected)  # Hugging Face hands over more than logits
    came = from_library(theirs)(x)
    assert_close(came, expected)
    print(f"{name:12} largest difference {(came - expected).abs().max():.0e}")

# %% [markdown]
# Rounding, and nothing else. The names of networks, by the way, belong to a library. **A common mistake** takes a name
# of one library for the other:

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
FULL = False

# %%
LARGE = ("torchvision:vit_b_16", "timm:vit_base_patch16_224", "hf:google/vit-base-patch16-224")
for name in LARGE if FULL else ():
    try:
        theirs, _ = load_network(name)
        ours, how = load_vit(name)
    except ValueError as error:
        print(error)
        continue
    cat = Image.fromarray(photographs.chelsea()).resize((224, 224))
    cat = normalize(torch.from_numpy(np.array(cat)).permute(2, 0, 1)[None], how.mean, how.std)
    with torch.inference_mode():
        said, expected = ours(cat), theirs(cat)
    difference = (said - getattr(expected, "logits", expected)).abs().max()
    print(f"{name}: {how.classes[said.argmax()]}, largest difference {difference:.0e}")

# %% [markdown]
# ## Features: the network as a list of numbers
#
# What is worth keeping of a network that names ten classes, if you want six others? Everything but the last layer. The
# head is one linear layer, and it reads a single token, CLS after the final norm. These numbers are the **features** of
# the image:
#
# $$\text{logits} = W f + b, \qquad f \text{: the features, D numbers}$$
#
# By hand, for one image:

# %%
one = normalize(test.images[:1], reading.mean, reading.std)
with torch.no_grad():
    tokens = vit.forward_features(one)  # (1, T, D), after the final norm
    f = tokens[0, 0] if vit.config.pool == "cls" else tokens[0].mean(dim=0)  # (D,)
    assert_close(vit.head.weight @ f + vit.head.bias, vit(one)[0])
print(
    f"{tuple(vit.head.weight.shape)} weights read {len(f)} features:", f[:4].numpy().round(2), "..."
)

# %% [markdown]
# For all images, in a loop:


# %%
@torch.no_grad()
def features_loop(model, images):
    """The features of each image, one after the other: uint8 (n, C, H, W) -> (n, D)."""
    rows = []
    for image in images:
        tokens = model.forward_features(normalize(image[None], reading.mean, reading.std))
        rows.append(tokens[0, 0] if model.config.pool == "cls" else tokens[0].mean(dim=0))
    return torch.stack(rows)


# %% [markdown]
# The package computes them in batches. And it can keep them: the network does not change, the images do not change, so
# there is no reason to compute the same numbers twice. (The next cell brings the names that the definitions use.)

# %%
import hashlib
import warnings
from collections.abc import Sequence

from safetensors.torch import save_file

from vit_tutorial.files import atomic_write
from vit_tutorial.transfer import _bytes, _compute, _read_cached, _sum

# %% definition="vit_tutorial.transfer._checksum"

# %% definition="vit_tutorial.transfer.features"

# %% [markdown]
# **Proof**, against the loop, and against what is kept on disk. **Predict.** Then one of 811,146 weights is changed
# a little. Will what was kept be used?

# %%
few_images, how = test.images[:40], (reading.mean, reading.std)
assert_close(features(vit, few_images, *how), features_loop(vit, few_images))
for what in ("first", "again", "one weight changed"):
    if what == "one weight changed":
        vit_b = copy.deepcopy(vit)
        vit_b.head.bias.data[0] += 1e-6
    began = time.perf_counter()
    kept = features(vit_b if "changed" in what else vit, few_images, *how, cache=place / "kept")
    milliseconds = 1000 * (time.perf_counter() - began)
    files = len(list((place / "kept").iterdir()))
    print(f"{what:20} {milliseconds:6.1f} ms, files kept: {files}")

# %% [markdown]
# A cache must never be believed by its name alone. Ours is called by a checksum of all that the numbers depend on:
# config, weights, pixels, mean and deviation. Change any of them, and it looks for another file. (The bias of the head
# does not even enter the features. Computing once too often is the mistake that costs nothing.)
#
# Now the simplest classifier there is, without any training. For each class, take the mean of the features of its
# examples. A new image belongs to the class whose mean is nearest.


# %% exercise="11.1"
def my_nearest_mean(features, labels, queries):
    """Name each query by the class whose mean is nearest (straight-line distance).

    features: (n, D), labels: (n,), from 0 to C - 1; every class occurs, some more often than others.
    queries: (m, D).
    Returns (m,), whole numbers.
    """
    ### BEGIN SOLUTION
    classes = range(int(labels.max()) + 1)
    means = torch.stack([features[labels == c].mean(dim=0) for c in classes])  # (C, D)
    distances = (queries[:, None] - means).norm(dim=-1)  # (m, C)
    return distances.argmin(dim=1)
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("11.1", my_nearest_mean)
# hint("11.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** (m, 1, D) minus (C, D) gives all differences by broadcasting, and the norm leaves one distance for each pair.
#
# **The common wrong answer** takes the largest product, `queries @ means.T`. That favours a class whose mean is long,
# even where another mean is nearer. Without the lengths the two are not the same question.

# %% [markdown]
# The features of all images, by the trained network and by one of the same shape that has learned nothing. Beside them
# two that need no network: the list of the pixels (at half the size, which is quicker), and a single number, the mean
# of all pixels.
#
# **Predict.** Put the four in order. Is an untrained network better or worse than none?

# %%
torch.manual_seed(0)
fresh = VisionTransformer(vit.config).eval()
both = {"train": train.images, "test": test.images}
found = {
    "trained on CIFAR-10": {k: features(vit, x, *how, cache=place) for k, x in both.items()},
    "untrained": {k: features(fresh, x, *how) for k, x in both.items()},
    "the pixels": {k: F.avg_pool2d(x.float().mean(1), 2).flatten(1) / 255 for k, x in both.items()},
    "brightness alone": {k: x.float().mean(dim=(1, 2, 3))[:, None] / 255 for k, x in both.items()},
}
for name, rows in found.items():
    classes = range(len(train.classes))
    means = torch.stack([rows["train"][train.labels == c].mean(dim=0) for c in classes])
    right = torch.cdist(rows["test"], means).argmin(dim=1) == test.labels
    print(
        f"{name:20} nearest mean of {rows['train'].shape[1]:4} numbers: {right.float().mean():.1%}"
    )

# %% [markdown]
# Brightness alone goes a long way: stars are dark, tissue is bright. Here it beats the pixels, and the untrained
# network as well. Nobody would have known without measuring it. So **the cheap ways are measured first**: what they
# reach already is no merit of the network. The untrained network is one of them, and it will do better below, where a
# layer can weigh its numbers.
#
# ## A linear probe
#
# Means treat every feature alike. A layer that is *learned* can weigh them. Because only this layer is learned, and
# everything below stays frozen, it is called a **linear probe**. What is learned is logistic regression: cross-entropy
# on the logits, plus a force that pulls the weights to zero. A number C says how much the examples count against that
# force: a small C binds tightly. (The package calls it `strength`.)
#
# Features come in different sizes, and one force for all is only fair if they are **standardised** first: subtract the
# mean μ over the examples, divide by the standard deviation σ. Afterwards, though, nobody wants to carry μ and σ
# around. By hand, one feature with μ = 100, σ = 20, weight 3 and bias 1, and an image with f = 120:
#
# **Predict.** The layer sees (120 − 100) / 20 = 1, and says 3 · 1 + 1 = 4. Which weight and which bias give 4 from
# the 120 directly, and the same for every other f?

# %%
mu, sigma, w, b = 100.0, 20.0, 3.0, 1.0
folded_w, folded_b = w / sigma, b - w * mu / sigma
for value in (120.0, 100.0, 37.0):
    print(f"{w * (value - mu) / sigma + b:7.2f} = {folded_w:g} · {value:g} + ({folded_b:g})")


# %% exercise="11.2"
def my_folded(weight, bias, mean, std):
    """Fold the standardisation in front of a linear layer into the layer.

    weight: (C, D) and bias: (C,), of a layer that reads standardised features.
    mean: (D,) and std: (D,), with which features are standardised; std is above 0.
    Returns a new weight (C, D) and a new bias (C,), for features as they are.
    """
    ### BEGIN SOLUTION
    new_weight = weight / std  # each column by its own deviation
    return new_weight, bias - new_weight @ mean
    ### END SOLUTION


# %%
check("11.2", my_folded)
# hint("11.2")

# %% [markdown] solved_only=true
# **Why.** W((f − μ) / σ) + b = (W / σ) f + (b − (W / σ) μ). An affine map in front of a linear layer is always part of
# the layer. You will need the same thought for images below.
#
# **The common wrong answer** shifts by `weight @ mean`, with the old weight: the mean has to be divided by σ, too.

# %% [markdown]
# The package's probe takes scikit-learn's logistic regression, chooses C by cross-validation (each of five parts of the
# training examples is left out once and predicted; the test set has no say), folds, and gives a plain `nn.Linear`.

# %%
from dataclasses import dataclass

from vit_tutorial.transfer import STRENGTHS, LinearProbe, _require_examples

# %% definition="vit_tutorial.transfer.linear_probe"

# %%
trained = found["trained on CIFAR-10"]
probe = linear_probe(trained["train"], train.labels)
plots.probe_curve(probe.scores, probe.strength)

# %% [markdown]
# On the left the force is strong, and the layer says less than it could. To the right the curve flattens: from 0.1 to
# 10 the means differ far less than the folds scatter, so C need not be hit exactly. The best one stands at the edge of
# what was tried. Much further right the layer is nearly free, and could learn its examples by heart: there are about as
# many features as examples.
#
# **Proof** that folding and conversion lose nothing: scikit-learn's own probabilities, on the test images.

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

theirs = make_pipeline(StandardScaler(), LogisticRegression(C=probe.strength, max_iter=5000))
exact = {split: rows.double() for split, rows in trained.items()}
theirs.fit(exact["train"].numpy(), train.labels.numpy())
ours = linear_probe(exact["train"], train.labels, strengths=[probe.strength]).head
expected = torch.from_numpy(theirs.predict_proba(exact["test"].numpy()))
assert_close(ours(exact["test"]).softmax(dim=1).detach(), expected)

# %% [markdown]
# Now your prediction. How good is the probe with 2, 5, 10 or 20 examples of each class? Which ones are drawn
# matters when there are few, so we draw four times. (C stays at 0.1 here: with two examples there is nothing to choose
# it by.)


# %%
def few(data, count, seed):
    """Draw `count` images of each class: their numbers."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    chosen = [order[data.labels[order] == c][:count] for c in range(len(data.classes))]
    return torch.cat(chosen)


def probed(rows, data, test_data, count, seed):
    """Accuracy in percent of a probe that learns from `count` examples of each class."""
    chosen = few(data, count, seed)
    head = linear_probe(rows["train"][chosen], data.labels[chosen], strengths=[0.1]).head
    return 100 * (head(rows["test"]).argmax(dim=1) == test_data.labels).float().mean().item()


# %%
COUNTS = (2, 5, 10, 20)
curves = {
    name: np.array([[probed(rows, train, test, k, seed) for k in COUNTS] for seed in range(4)])
    for name, rows in found.items()
}

# %%
for name, values in curves.items():
    pairs = zip(values.mean(axis=0), values.std(axis=0, ddof=1), strict=True)
    print(f"{name:20}", "   ".join(f"{mean:4.1f} ± {spread:.1f}" for mean, spread in pairs))
plots.few_label_curves(COUNTS, curves)

# %% [markdown]
# (The mean of four draws, and their standard deviation.) Read the picture from left to right as well: how many examples
# does the untrained network need for what the trained one does with five? That is what transfer is worth here. And the
# pixels stay near the bottom, however many examples they get: a wall that is shifted by three pixels is another list of
# pixels, and the same wall. The untrained network mixes every patch with the others, and so it does not care much where
# exactly a brick begins: that much is in the architecture alone.
#
# ## When it does not help
#
# Does a trained network always help? Take another task: handwritten digits, enlarged to 32×32 and put into the three
# colour channels, so that the same network can read them. The pixels, again, are just a list.
#
# **Predict.** Which will be better for the digits, the features or the pixels?

# %%
from vit_tutorial.data import digits

scans = {"train": digits("train")[:200], "test": digits("test")[:150]}
enlarged = {k: part.resized(size).images.repeat(1, 3, 1, 1) for k, part in scans.items()}
digit_rows = {
    "trained on CIFAR-10": {k: features(vit, x, *how) for k, x in enlarged.items()},
    "the pixels": {k: part.images.flatten(1) / 255 for k, part in scans.items()},
}
for name, rows in digit_rows.items():
    found_by = [
        [probed(rows, scans["train"], scans["test"], k, s) for k in (2, 10)] for s in range(4)
    ]
    mean, spread = np.mean(found_by, axis=0), np.std(found_by, axis=0, ddof=1)
    for count, m, deviation in zip((2, 10), mean, spread, strict=True):
        print(f"{name:20} {count:2} examples of each: {m:.1f} ± {deviation:.1f}")

# %% [markdown]
# The pixels win. The scans are centred and equally large, so place means something: a pixel that is dark in a 7 is dark
# in most of them. The network has been trained for the opposite, to name a cat wherever it sits. **Transfer helps
# where what the old task had to learn is what the new one needs.** Nobody can say beforehand how much. So measure, and
# always measure the cheap alternatives (pixels, an untrained network) beside it.
#
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
    "as it was trained": how,
    "0.5 and 0.5": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "only divided by 255": ((0.0,) * 3, (1.0,) * 3),
    "0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
}
for name, (mean, std) in ways.items():
    right = probe.head(features(vit, test.images[::3], mean, std)).argmax(dim=1) == test.labels[::3]
    print(f"{name:20} {right.float().mean():.1%}")

# %% [markdown]
# ImageNet's numbers are near CIFAR-10's, and hardly matter. That is how such a mistake lives for years without being
# noticed. The others show what it can cost. So take mean and deviation from where the weights
# come from, never from memory. `load_vit` hands them over together.
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

# %%
from vit_tutorial.transfer import _alike

# %% definition="vit_tutorial.transfer.renormalised"

# %% [markdown]
# **Proof** in float64. The same photograph pieces, normalised by the statistics of the surfaces:

# %%
own = channel_stats(train.images)
raw = few_images.double() / 255
numbers = torch.tensor([*how, *own], dtype=torch.float64)[..., None, None]  # (4, C, 1, 1)
old_way, new_way = (raw - numbers[0]) / numbers[1], (raw - numbers[2]) / numbers[3]
exact = copy.deepcopy(vit).double()
with torch.no_grad():
    assert_close(renormalised(exact, how, own)(new_way), exact(old_way))
print("CIFAR-10's deviation", np.round(how[1], 3), "the surfaces'", np.round(own[1], 3))

# %% [markdown]
# ## Fine-tuning
#
# So far the network itself has learned nothing. In **fine-tuning** all of its layers go on learning, on the new task,
# from where they are. First it gets a new head. Dosovitskiy et al. 2020 (arXiv 2010.11929, section 3.2) start it with
# zeros.
#
# **Predict.** With a head of zeros, what is the loss on the first batch? And what is the gradient of the layers *below*
# the head in the very first step?

# %% definition="vit_tutorial.transfer.with_head"

# %%
classes = len(train.classes)
begin = with_head(vit, classes)
loss = F.cross_entropy(begin(normalize(test.images[:50], *how)), test.labels[:50])
print(f"loss {loss.item():.4f}, ln {classes} = {math.log(classes):.4f}")

# %%
loss.backward()
print(f"norm of the head's gradient: {begin.head.weight.grad.norm():.3f}")
print(f"of a weight's below it: {begin.blocks[0].attn.qkv.weight.grad.norm():.3f}")

# %% [markdown]
# Exactly ln C, and exactly 0: a head that is all zeros hands nothing down. So the first gradients move the head alone,
# and the body begins to learn only once the head has an opinion. A head of random numbers would send noise down from
# the first step on.
#
# How much should the body move? Lower layers have learned what is of use for any picture (edges, in lesson 02), upper
# ones what is of use for the old task. So let each layer learn more slowly than the one above it (**layer-wise learning
# rates**; for ViTs e.g. Bao et al. 2021, arXiv 2106.08254). With L blocks, numbered 0 to L − 1, a rate η and a decay d
# between 0 and 1:
#
# | part | its rate |
# |---|---|
# | head, final norm | η |
# | block i | η · d^(L − i) |
# | CLS, positions, patch projection | η · d^(L + 1) |
#
# By hand, L = 4 and d = 0.5: the last block learns at η/2, the one before at η/4, ... **Predict.** At what rate does
# the patch projection learn?

# %%
for part, power in {"head": 0, "block 3": 1, "block 0": 4, "patch projection": 5}.items():
    print(f"{part:17} η · 0.5^{power} = η / {2**power}")


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
for scale in sorted({group["lr_scale"] for group in groups}):
    count = sum(p.numel() for g in groups if g["lr_scale"] == scale for p in g["params"])
    print(f"{count:7,} parameters learn at {scale:.2f} of the rate")

# %% [markdown]
# Now the comparison. Ten examples of each class, 12 steps for everybody, the same images in the same order, and one
# rate that was tuned for none of them. The last of the four puts the probe's head on first, and fine-tunes from there
# (Kumar et al. 2022, arXiv 2202.10054).
#
# **Predict.** Put them in order, and put the linear probe among them: from scratch; all layers; all layers, slower
# below; the probe first, then all layers.

# %%
from vit_tutorial import TrainConfig


def contenders(chosen):
    """The networks that learn from the chosen images, and the decay of each."""
    start = renormalised(vit, how, channel_stats(train[chosen].images))  # as `fit` will normalise
    head = linear_probe(trained["train"][chosen], train.labels[chosen], strengths=[0.1]).head
    return {
        "from scratch": (VisionTransformer(replace(vit.config, num_classes=classes)), 1.0),
        "linear probe": (with_head(start, head), None),
        "all layers": (with_head(start, classes), 1.0),
        "all layers, slower below": (with_head(start, classes), 0.7),
        "probe first, then all layers": (with_head(start, head), 0.7),
    }


# %%
def contest(seed):
    """Train them on one draw of ten images a class: name -> Evaluation, name -> network."""
    torch.manual_seed(seed)
    chosen, results, networks = few(train, 10, seed), {}, {}
    for name, (network, decay) in contenders(chosen).items():
        if decay is not None:
            config = TrainConfig(epochs=2, batch_size=min(10, len(chosen)), lr=1e-3, flip=True)
            config = replace(config, layer_decay=decay, seed=seed, precision="float32")
            fit(network, train[chosen], None, config)
        networks[name] = network
        results[name] = evaluate(network, test, *channel_stats(train[chosen].images))
    return results, networks


# %%
results, tuned = contest(seed=0)
measured = {name: (result.accuracy, *result.interval) for name, result in results.items()}
plots.interval_bars(measured, f"accuracy on {len(test)} test images, %", chance=100 / classes)

# %% [markdown]
# The bars are 95% intervals for the count of test images (lesson 07). What stands far apart is settled by them, and
# what overlaps is not. Training from scratch is far behind. Nothing beats the linear probe: a short fine-tuning from
# its head ends level with it, and a head of zeros has not caught up in so few steps. Lower rates below show no gain
# here. Nor do the bars know of the draw: ten other examples give another number. With `FULL = True` the next cell
# repeats all of it on four more draws.

# %%
draws = [results] + [contest(seed)[0] for seed in (range(1, 5) if FULL else ())]
for name in results if FULL else ():
    values = [draw[name].accuracy for draw in draws]
    print(f"{name:30} {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} over {len(draws)} draws")

# %% [markdown]
# What goes wrong, and where? Precision, recall and F1 of each class, and the confusion matrix, of the last one:

# %%
best = results["probe first, then all layers"]
print(best.report())

# %%
plots.confusion_matrix(best.confusion.numpy(), best.classes)

# %% [markdown]
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
chosen = few(train, 10, seed=0)
images, labels = normalize(train.images[chosen], *how).double(), train.labels[chosen]

# %%
if "transformers" not in missing:
    torch.manual_seed(0)
    their_config = transformers.ViTConfig(
        image_size=tuple(images.shape[-2:]), patch_size=8, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, num_labels=classes,
    )  # fmt: skip
    theirs = transformers.ViTForImageClassification(their_config).double()
    print("given pixels alone, its loss is ", theirs(pixel_values=images).loss)
    print(
        "given pixels and labels:        ", theirs(pixel_values=images, labels=labels).loss.item()
    )
    print("cross-entropy of its logits:    ", F.cross_entropy(theirs(images).logits, labels).item())

# %% [markdown]
# **A common mistake**: such a model computes its loss itself, but only if it is given the labels. Else the loss is
# `None`, and the error appears a line later, in `backward`, where nobody looks for labels.
#
# **Predict.** Ten steps by each of the two. Will the weights be the same?

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
    for name, other in {
        "by hand and by Trainer": by_trainer,
        "by hand and the start": theirs,
    }.items():
        pairs = zip(by_hand.parameters(), other.parameters(), strict=True)
        apart = max((a - b).abs().max().item() for a, b in pairs)
        print(f"{name}: weights differ by at most {apart:.0e}")
    said = trainer.predict(rows).predictions.argmax(axis=1)
    print(f"right on the training images: {(said == labels.numpy()).mean():.0%}")

# %% [markdown]
# If it ran: the same weights, up to rounding. `Trainer` adds what long runs need (saving, resuming, several GPUs), and
# each of its arguments is a line that you have met in lesson 07. Which of the two you take is a matter of taste. But
# look closely at how the result is measured. Two mistakes there are as common as the one with the labels.


# %% exercise="11.5"
def my_test_loop(model, batches):
    """Measure a model that is called as Hugging Face's are.

    model(pixel_values=..., labels=...) gives an object with .logits (b, classes) and .loss, the mean
    over the b images of the batch; without labels .loss is None. It is in evaluation mode already.
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

# %% [markdown]
# ## A class for every pixel
#
# So far we kept one token and threw the others away. But every patch has a token, and lesson 08 has shown that it knows
# of its surroundings. What is in these tokens? Each is a vector of D numbers. Take the three directions in which the
# tokens of one picture differ the most (principal components, as for the filters in lesson 08), and show the three
# numbers as red, green and blue. Patches of one colour have similar tokens.


# %%
def colours(tokens):
    """Tokens (N, D) as colours: three principal components, each from 0 to 1, (N, 3)."""
    centred = tokens - tokens.mean(dim=0)
    parts = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:3].T
    low, high = parts.quantile(0.02, dim=0), parts.quantile(0.98, dim=0)
    return ((parts - low) / (high - low)).clamp(0, 1)


@torch.no_grad()
def tokens_by_layer(model, images):
    """The patch tokens that enter the first block, and those after each: a list of (B, N, D)."""
    x, start = model.embed(images), model.config.num_prefix
    layers = [x[:, start:]]
    for block in model.blocks:
        x = block(x, model.rope)
        layers.append(x[:, start:])
    return layers


# %% [markdown]
# **Predict.** Nobody has ever told the network where a cup ends and the saucer begins. Will the cup have a colour of
# its own? In which layer?

# %%
from vit_tutorial import fit_image, flipbook, open_image

NAMES = ("coffee", "rocket", "astronaut", "chelsea")
side = 3 * size if size <= 64 else size  # small networks see more patches here than in training
large = vit.resized(side)
fitted = [fit_image(open_image(getattr(photographs, name)()), side) for name in NAMES]
views = [np.asarray(one.view().resize((288, 288))) for one in fitted]
layers = tokens_by_layer(large, normalize(torch.stack([one.pixels for one in fitted]), *how))
steps = ["patches and positions", *(f"after block {n}" for n in range(len(vit.blocks)))]


def draw(photograph, layer):
    """A photograph, and beside it its tokens as colours."""
    at = NAMES.index(photograph)
    tokens = colours(layers[steps.index(layer)][at]).reshape(*large.config.grid, 3)
    tokens = Image.fromarray(tokens.mul(255).byte().numpy())
    tokens = np.asarray(tokens.resize((288, 288), Image.Resampling.NEAREST))
    return np.concatenate([views[at], tokens], axis=1), f"{photograph}, {layer}"


# %% [markdown]
# Play: one slider goes through the layers. Colours are chosen anew for every picture, so only "same" and "different"
# mean something. (Coffee, by Rachel Michetti, and rocket, by SpaceX, CC0; the astronaut Eileen Collins, by NASA, and
# Chelsea, by Stéfan van der Walt, public domain.)

# %%
flipbook(draw, photograph=NAMES, layer=steps, start={"layer": steps[-1]})

# %% [markdown]
# Some of its pictures, side by side:

# %%
looks = (steps[0], steps[len(steps) // 2], steps[-1])
still = {}
for name in NAMES[:2]:
    still[name] = views[NAMES.index(name)]
    still |= {f"{name}, {layer}": draw(name, layer)[0][:, 288:] for layer in looks}
plots.photo_grid(list(still.values()), list(still))

# %% [markdown]
# Much of this is there before the first block: a patch token holds the colours of its patch, and the cup is white on a
# red saucer. The blocks change what goes together: after the last one, parts of the towers have the rocket's colour.
# Things come out, though the network was only ever asked for one word for a whole picture. So a head on the *patch*
# tokens should be able to say what is where. That is **segmentation**: a class for every pixel. A small task for it,
# made of what we have: a handwritten digit, in any colour, somewhere on a piece of a photograph. Which pixels belong to
# the digit?


# %%
def compose(scans, count, seed):
    """Put digits on photographs: uint8 images (count, 3, S, S), and true classes (count, S, S)."""
    random, S, P = np.random.default_rng(seed), size, size // 2
    photos = [Image.fromarray(getattr(photographs, name)()) for name in NAMES]
    images, masks = [], torch.zeros(count, S, S, dtype=torch.long)
    for mask in masks:
        photo = photos[random.integers(len(photos))]
        wide = int(random.integers(40, 129))
        left, top = (int(random.integers(whole - wide + 1)) for whole in photo.size)
        ground = photo.crop((left, top, left + wide, top + wide)).resize((S, S))
        ink = Image.fromarray(scans.images[random.integers(len(scans)), 0].numpy()).resize((P, P))
        row, column = random.integers(S - P + 1, size=2).tolist()
        colour = Image.new("RGB", (P, P), tuple(random.integers(256, size=3).tolist()))
        ground.paste(colour, (column, row), ink)
        mask[row : row + P, column : column + P] = torch.from_numpy(np.array(ink) > 100).long()
        images.append(torch.from_numpy(np.array(ground)).permute(2, 0, 1))
    return torch.stack(images), masks


# %%
pictures, masks = compose(digits("train"), 200, seed=0)
test_pictures, test_masks = compose(digits("test"), 80, seed=1)
print(f"{masks.float().mean():.0%} of the pixels belong to a digit")

# %% [markdown]
# The head is one linear layer again, this time on each patch token. It says one number for each class and patch, and
# there are more pixels than patches. By hand: four patches in a row, each two pixels wide, for which the layer says 0,
# 0, 4, 4. From the middle of one patch to the middle of the next we go in a straight line:

# %%
row = torch.tensor([0.0, 0, 4, 4]).view(1, 1, 1, 4)
print(F.interpolate(row, size=(1, 8), mode="bilinear")[0, 0, 0].tolist())

# %% [markdown]
# So an edge can lie *inside* a patch, wherever the line of one class crosses that of another.

# %%
from einops import rearrange

# %% definition="vit_tutorial.transfer.PatchSegmenter"

# %% [markdown]
# How good is a map of classes? Counting right pixels will not do: where 9 of 10 are background, "background everywhere"
# has 90%. So one asks of each class: of all pixels that *are* it or were *called* it, which share is both? This is
# **intersection over union**, IoU, and its mean over the classes is the mean IoU. By hand: a digit has 6 pixels, 5
# pixels were called digit, 4 of them rightly. Intersection 4, union 6 + 5 − 4 = 7, IoU 4/7.


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
# **Predict.** "Background everywhere", on our test pictures: what is the mean IoU of the two classes? And if every
# patch knew exactly which share of it is digit, and nothing finer: will that reach 1?

# %%
nothing = class_ious(torch.zeros_like(test_masks), test_masks, 2)
print(
    f"background everywhere: IoU {nothing[0]:.2f} and {nothing[1]:.2f}, mean {nothing.mean():.2f}"
)
shares = F.one_hot(test_masks, 2).permute(0, 3, 1, 2).float()  # (n, 2, S, S)
shares = F.avg_pool2d(shares, vit.config.patch_size)
enlarged = F.interpolate(shares, size=test_masks.shape[1:], mode="bilinear").argmax(dim=1)
print(f"true share of each patch: mean {class_ious(enlarged, test_masks, 2).mean():.2f}")

# %% [markdown]
# Strokes are thinner than patches, and an enlarged map of patches is blurred. Keep the second number in mind before you
# blame a network.
#
# The encoder stays frozen, so its tokens are computed once. Only the head learns, for 60 steps, on the trained and on
# the untrained encoder.


# %%
def learn_pixels(encoder, looks=(1, 4, 15, 60)):
    """Train a segmenter's head on a frozen encoder: step -> maps of the test pictures."""
    torch.manual_seed(0)
    seen = [features(encoder, x, *how, patches=True) for x in (pictures, test_pictures)]
    segmenter, maps = PatchSegmenter(encoder, num_classes=2), {}
    optimizer = torch.optim.AdamW(segmenter.head.parameters(), lr=2e-2)
    for step in range(1, max(looks) + 1):
        batch = torch.randint(len(pictures), (50,))
        loss = F.cross_entropy(segmenter.decode(seen[0][batch]), masks[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in looks:
            maps[step] = segmenter.decode(seen[1]).argmax(dim=1)
    return maps


# %%
encoders = {"trained": vit, "untrained": fresh}
maps = {name: learn_pixels(encoder) for name, encoder in encoders.items()}

# %%
for name, by_step in maps.items():
    ious = {step: class_ious(one, test_masks, 2).mean() for step, one in by_step.items()}
    print(f"{name:10}", "   ".join(f"step {step}: {iou:.2f}" for step, iou in ious.items()))

# %%
rows = {"true": test_masks, "step 15": maps["trained"][15], "step 60": maps["trained"][60]}
rows["untrained,\nstep 60"] = maps["untrained"][60]
plots.label_maps(
    test_pictures[:6].permute(0, 2, 3, 1).numpy(),
    {name: one[:6].numpy() for name, one in rows.items()},
    ["background", "digit"],
)

# %% [markdown]
# A linear layer on tokens of a network that was trained to say "frog" finds digits on photographs. **The encoder is
# more than a classifier**: what it makes of an image serves other heads. With other heads people find and count
# objects, estimate depth, describe pictures in words, or do several of these with one encoder. Serious ones read
# several layers, have more than one layer of their own, and fine-tune the encoder; the principle is the one you have
# just seen.
#
# ## What we now have
#
# | what | shape |
# |---|---|
# | images, at the size that the network reads | (n, C, H, W) uint8 |
# | features: what the head reads | (n, D) |
# | patch tokens | (n, N, D) |
# | a probe, a new head | weight (classes, D), bias (classes,) |
# | a patch projection, renormalised | weight (D, C, P, P), bias (D,) |
# | logits for pixels | (n, classes, H, W) |
# | IoU | (classes,) |
#
# An order to work in: the pixels and an untrained network, to know what is cheap; a linear probe on features that are
# kept; then, with examples enough, the probe's head and a fine-tuning with low rates below. And a network never travels
# alone: its mean, its deviation, its image size and its classes come with it.
#
# ## The questions people ask
#
# **"Must my images have 224 pixels?"** A network reads the size that it was trained with, and its positions can be
# resampled for another (`resized`, lesson 03). The same pieces at twice the size, where each patch shows a quarter of
# what it showed:

# %%
for pixels in (size, 2 * size):
    parts = load_train_test(folder, img_size=pixels) if pixels > size else (train, test)
    parts = [part[few(part, 5, seed=0)] for part in parts]
    rows = [features(vit.resized(pixels), part.images, *how) for part in parts]
    head = linear_probe(rows[0], parts[0].labels, strengths=[0.1]).head
    right = (head(rows[1]).argmax(dim=1) == parts[1].labels).sum()
    print(f"{pixels} pixels: {right} of {len(parts[1])} right")

# %% [markdown]
# **"May I cut up photographs and split the pieces at random?"** Then pieces of the same place land on both sides, and
# you may be measuring memory. Cross-validation did just that above, on pieces of the left halves; the test set is cut
# from the right ones:

# %%
inside = probe.scores[probe.strength].mean()
result = evaluate(with_head(vit, probe.head), test, *how)
low, high = result.interval
print(f"pieces of the same halves: {inside:.1f}%")
print(f"of the other halves: {result.accuracy:.1f}%, between {low:.1f}% and {high:.1f}%")

# %% [markdown]
# A linear layer on a frozen network has little room to remember places, and here the two do not differ by more than
# chance. A network that is trained for long has. You will not know without a test set from elsewhere. And even the
# other half is the same photograph: of *other* bricks nothing has been measured here.
#
# **"My checkpoint has ten classes, and my data have six."** Then nothing can be measured, and it is said. `with_head`
# is the way out.

# %%
try:
    evaluate(vit, test, *how)
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
# must be computed, too. How far are they from the old ones? Our network was trained with mirrored images, and never
# with turned ones:

# %%
changes = {
    "mirrored": train.images[:60].flip(3),
    "turned by 90°": train.images[:60].rot90(1, dims=(2, 3)),
}
for name, changed in changes.items():
    alike = F.cosine_similarity(features(vit, changed, *how), trained["train"][:60])
    print(f"{name:14} cosine with the features of the image as it was: {alike.mean():.3f}")

# %%
others = F.cosine_similarity(trained["train"][:60].roll(1, 0), trained["train"][:60])
print(f"{'another image':14} of the same class: {others.mean():.3f}")

# %% [markdown]
# What the network hardly notices any more cannot teach a probe much. What it does notice can.

# %% [markdown]
# **"Does fine-tuning forget?"** The old head, put back on the fine-tuned bodies: of a hundred pieces of the photographs
# above, for how many does it still say what it said before?

# %%
random = np.random.default_rng(0)
pieces = [p for n in NAMES for p in cut(Image.fromarray(getattr(photographs, n)()), 0, 25, random)]
pieces = torch.stack([fit_image(open_image(np.array(p)), size).pixels for p in pieces])
with torch.no_grad():
    before = vit(normalize(pieces, *how)).argmax(dim=1)
    for name in ("all layers", "all layers, slower below"):
        body = with_head(tuned[name], vit.head)
        after = body(normalize(pieces, *channel_stats(train[chosen].images))).argmax(dim=1)
        print(f"{name:25} the same answer for {(after == before).float().mean():.0%}")

# %% [markdown]
# What is not asked for any more fades. Low rates below keep more of it.
#
# **"What would a large network give?"** With `FULL = True` the next cell takes torchvision's ViT-B/16 (86 million
# parameters, trained on ImageNet) to CIFAR-10: features of 2,000 training and 1,000 test images at 224×224 pixels, kept
# in `data/features`, and a linear probe. On a CPU this takes about an hour once, on a GPU a minute. (Downloads: 330 MB
# and 170 MB.)

# %%
if FULL:
    from vit_tutorial.data import cifar10, data_root
    from vit_tutorial.hardware import best_device

    try:
        large, way = load_vit("torchvision:vit_b_16")
        large = large.to(best_device())
        sets = [cifar10("train")[:2000], cifar10("test")[:1000]]
        kept = data_root() / "features"
        rows = [
            features(large, part.resized(224).images, way.mean, way.std, cache=kept)
            for part in sets
        ]
        head = linear_probe(rows[0], sets[0].labels).head
        right = (head(rows[1]).argmax(dim=1) == sets[1].labels).float().mean()
        print(f"linear probe on ViT-B/16: {right:.1%} on {len(sets[1])} test images")
    except (ValueError, OSError) as error:
        print(error)

# %% [markdown]
# ## A stretch
#
# - **k nearest neighbours.** Keep all features, and let the k training images with the most similar features (cosine) vote. It
#   needs no training at all. For which number of examples does it beat the linear probe?
# - **Which layer?** Probe the mean of the patch tokens after every block instead of the last one (`tokens_by_layer`). Where do the
#   surfaces do best, where the digits? Is it the same layer?
# - **A better segmenter.** Fine-tune the encoder too, with a tenth of the rate; or let the head say all P² pixels of a patch
#   instead of one number for it. How near do you come to the ceiling, and can you pass it?
# - **Your own.** Put a folder into `MY_FOLDER`, keep 20% of it away as `test` before you look at anything, and go through the
#   lesson once. Then change `NETWORK`.
