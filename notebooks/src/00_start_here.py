# %% [markdown]
# # 00 · Start here
#
# **A network looks at a photograph of a cat. What does it see, what does it say, and where did it look?**
#
# A Vision Transformer (ViT) cuts an image into patches, lets every patch look at every other, and names
# what it sees. In this course you build one by hand, piece by piece, and prove each piece right. Today you
# meet a finished one. It comes with the course, and everything below runs on an ordinary laptop without internet.
#
# **Have you one evening only?** Then open [A ViT in one evening](a_vit_in_one_evening.ipynb) instead: from the photograph to
# a network of your own, in 90 minutes with a break.

# %% [markdown]
# ## How the lessons work
#
# A lesson is a notebook. Run a cell with **Shift + Enter**; run them in order, top to bottom. Change
# anything you like: what you have open is your own copy, and `python3 course.py reset 00` brings the
# original back. A section marked *deeper* may be left out.
#
# You will be asked to **predict** before you run a cell. Do it, even when you are unsure: a wrong guess
# that you made yourself is the fastest way to learn. **Exercises** are cells with a gap for your code,
# followed by `check(...)`, which tells you what is wrong, and `hint(...)`, which gives one hint at a time.
# The solved notebooks lie in `notebooks/solutions`.
#
# First, is everything in place?

# %%
from vit_tutorial.doctor import doctor

all_is_well = doctor()

# %% [markdown]
# ## The whole network
#
# This is what the course builds. In every lesson you will find the drawing again, with a mark where you are.

# %%
from vit_tutorial import plots

plots.network_map()

# %% [markdown]
# From left to right: the image is cut into **patches**. Each becomes a **token**, a vector of numbers, and is told its
# **position**. In front stands one more token, **CLS**, from which the answer is read at the end. The long part is the
# **encoder**: several **blocks** (or *layers*), all alike, one after the other. In each, **attention** lets every token
# collect something from all others. It does so in several **heads** side by side; a head is one way of asking.
#
# ## A network and a photograph
#
# The network is called `cifar10`, after the 50,000 small images that it learned from. Its *card* says what
# it is and how good it is.

# %%
from vit_tutorial import load_checkpoint

vit, card = load_checkpoint("cifar10")
print("classes:   ", ", ".join(card.classes))
print("parameters:", f"{sum(p.numel() for p in vit.parameters()):,}")
print("trained on:", card.data)
print("accuracy:  ", f"{card.evaluation['accuracy']:.1f}% of {card.evaluation['n']:,} test images")

# %% [markdown]
# The photograph is Chelsea the cat, by Stéfan van der Walt (CC0), from scikit-image.
#
# The network was trained for 32×32 pixels. `fit_image` takes the largest square from the middle and shrinks
# it. Here is what comes out, every pixel a square: this is *all* that the network gets.

# %%
import numpy as np
from skimage import data as photographs

from vit_tutorial import fit_image, open_image

photo = open_image(photographs.chelsea())
fitted = fit_image(photo, 32)
pixels = fitted.pixels.permute(1, 2, 0).numpy()  # (H, W, C) = (32, 32, 3)
plots.pixel_row([np.asarray(photo), pixels], ["the photograph", "what the network gets"])

# %% [markdown]
# **Predict.** The network tells ten classes apart. Which will it name for this image, and how sure will it
# be: about 30%, 60%, or 90%?

# %%
from vit_tutorial import normalize

images = normalize(fitted.pixels[None], card.mean, card.std)  # (B, C, H, W) = (1, 3, 32, 32)
logits = vit(images)  # (1, 10): one number per class
shares = logits.softmax(dim=1)[0]  # made positive, adding up to 1
plots.probabilities(card.classes, shares.tolist())

# %% [markdown]
# For so few pixels that is not bad: a cat it is, though a dog gets a quarter. Two things to keep in mind whenever you read such
# bars: the network **must** name one of its ten classes, and the numbers add up to 1 but promise nothing. Three pictures of
# things that it has never heard of:

# %% claim="a cat it is, though a dog gets a quarter"
assert [card.classes[c] for c in shares.topk(2).indices] == ["cat", "dog"]
assert 0.24 < shares[card.classes.index("dog")] < 0.3

# %%
answers = {}
for name in ("rocket", "astronaut", "coffee"):
    other = fit_image(getattr(photographs, name)(), 32)
    answer = vit(normalize(other.pixels[None], card.mean, card.std)).softmax(dim=1)[0]
    answers[name] = card.classes[answer.argmax()], answer.max().item()
    print(f"{name:9} is taken for: {answers[name][0]} ({answers[name][1]:.0%})")

# %% [markdown]
# It is surer that the astronaut is a truck than that Chelsea is a cat.
#
# ## Where did it look?
#
# The network cuts the 32×32 pixels into 8×8 patches of 4×4 pixels. With CLS these are 65 tokens. In each block every
# token collects from all tokens, and the **attention weights** say how much from which.

# %% claim="surer that the astronaut is a truck than that Chelsea is a cat"
assert answers["astronaut"][0] == "truck"
assert answers["astronaut"][1] > shares.max() + 0.05

# %%
from vit_tutorial import record_attention

record = record_attention(vit, images)
print("patches:       ", record.grid)
print("layers:        ", len(record.weights))
print("one layer:     ", tuple(record.weights[0].shape), "= (images, heads, tokens, tokens)")
print("a row adds up to", round(record.weights[0][0, 0, 0].sum().item(), 4))

# %% [markdown]
# The first row of each 65×65 matrix is what CLS collects. Its 64 numbers for the patches, laid back over the photograph,
# make a map; there is one per layer and head.
#
# **Predict.** The network has 6 layers of 4 heads. Chelsea's eyes take up six patches: four on the left (rows 2 and 3,
# columns 2 and 3, counted from 0), two on the right (rows 3 and 4, column 6). In how many of these 24 maps is the strongest
# patch one of them?

# %%
import torch

cls_rows = torch.stack([weights[0, :, 0, 1:] for weights in record.weights])  # (layers, heads, 64)
maps = cls_rows.unflatten(-1, record.grid)  # (layers, heads, 8, 8)
rows = [f"layer {layer}" for layer in range(len(maps))]
for name, largest in zip(rows, maps.flatten(2).amax(dim=2), strict=True):
    print(name, "largest shares of a patch:", "  ".join(f"{share:3.0%}" for share in largest))
eyes = [18, 19, 26, 27, 30, 38]  # row · 8 + column
on_eyes = torch.isin(maps.flatten(2).argmax(dim=2), torch.tensor(eyes)).sum().item()
print(f"strongest patch on an eye: {on_eyes} of 24 maps; by chance {24 * len(eyes) / 64:.0f}")
columns, seen = [f"head {head}" for head in range(4)], np.asarray(fitted.view())
plots.map_grid(seen, maps.numpy(), rows, columns, "What CLS attends to")

# %% [markdown]
# In 5 of 24, where chance would give 2. The heads look at different places. In the last layer, head 2 looks at the forehead,
# while heads 1 and 3 take their largest share, about a third, from one corner patch each; head 1 of layer 0 spreads over most
# of the picture, and no patch gets more than 7%. What heads are good for is a question for lesson 08; whether such a map
# tells the truth about the network's *reasons* is one for lesson 09.
#
# **Play.** The network itself runs in the page below. Point at a patch: what does *it* look at? Choose *Hide
# patches*, brush over the cat, and watch the answer. Then drop a picture of your own on it. (It opens on all layers together,
# which is explained below. Under *shows* you find single heads.)

# %% claim="In 5 of 24, where chance would give 2"
assert on_eyes == 5
assert round(24 * len(eyes) / maps[0, 0].numel()) == 2

# %% claim="head 2 looks at the forehead"
assert maps[5, 2, :3].sum() > 0.5

# %% claim="heads 1 and 3 take their largest share, about a third, from one corner patch each"
assert maps[5, 1].argmax() == 7
assert maps[5, 3].argmax() == 56
assert all(0.26 < maps[5, head].max() < 0.36 for head in (1, 3))

# %% claim="no patch gets more than 7%"
assert 0.05 < maps[0, 1].max() < 0.07

# %% claim="The heads look at different places"
assert maps.flatten(2).argmax(dim=2).unique().numel() > 12

# %%
from vit_tutorial import live

page = live("cifar10")
page

# %% [markdown]
# One of its views, as a still picture: four patches are hidden.

# %%
page.figure(hidden=[19, 20, 27, 28])

# %% [markdown]
# On the right, what it says, and as a line what it said before: with four patches between its eyes grey, the cat has become
# a dog. The map beside it is explained below. (Grey is a colour too, and not the same as nothing: lesson
# 09 tells the two apart.)
#
# A single layer tells little: what CLS collects from a token in layer 3, that token has collected from others in the layers
# before. **Attention rollout** (Abnar & Zuidema 2020, arXiv 2005.00928) takes the mean of each layer's heads, lets
# every token keep half of itself, and multiplies these matrices over all layers. So it follows attention all the way from CLS
# down to the patches.

# %% claim="the cat has become a dog"
hidden = images.clone()
hidden[:, :, 8:16, 12:20] = 0  # the mean colour
assert card.classes[vit(hidden).argmax()] == "dog"

# %%
from vit_tutorial import rollout

followed = rollout(record)[0]  # (8, 8)
plots.explanation(np.asarray(photo), fitted.box, card.classes, shares.tolist(), followed.numpy())

# %% [markdown]
# Brightest are the bridge of the nose and the muzzle beside it; the nose itself gets no more than an even share. And all
# patches are close together: an even share is 1.6%, and the largest is 2.0%.
#
# ## Your turn

# %% claim="Brightest are the bridge of the nose and the muzzle beside it"
best = {divmod(i, 8) for i in followed.flatten().topk(5).indices.tolist()}
assert best == {(6, 3), (5, 4), (5, 5), (5, 3), (5, 2)}

# %% claim="the nose itself gets no more than an even share"
assert followed[6, 4:6].max() < 0.0156

# %% claim="the largest is 2.0%"
assert 0.0195 < followed.max() < 0.0205


# %% exercise="00.1"
def strongest_patch(weights, grid):
    """Find the patch that CLS attends to most.

    weights: (T,) what CLS attends to; weights[0] is CLS itself, then the patches, row by row.
    grid: (rows, columns) of patches, not always square.
    Returns (row, column).
    """
    ### BEGIN SOLUTION
    index = weights[1:].argmax().item()
    return divmod(index, grid[1])
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("00.1", strongest_patch)
# hint("00.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** `weights[1:]` leaves CLS out, so that index 0 is the first patch. Patches are counted row by row:
# each row has `columns` of them, so the row is the whole part of `index / columns` and the column the rest.
#
# **The common wrong answer** divides by the number of *rows*. On a square grid that is the same, so nobody
# notices until the first photograph that is wider than high.

# %% [markdown]
# ## Your own photograph
#
# Drag an image file into the list of files on the left, put its name between the quotation marks, and run
# the cell. Any format and any shape will do. Until then it shows a cup of coffee (photograph by Rachel
# Michetti, CC0).

# %%
from vit_tutorial import AttentionExplorer

MY_PHOTO = ""  # for example "my_dog.jpg"

mine = open_image(MY_PHOTO or photographs.coffee())
explorer = AttentionExplorer(vit, mine, card, fit="pad", name="my photograph")
explorer

# %%
mine_fitted = fit_image(mine, 32, fit="pad")  # the whole picture, with grey bars
mine_record = record_attention(vit, normalize(mine_fitted.pixels[None], card.mean, card.std))
mine_shares = mine_record.logits.softmax(dim=1)[0].tolist()
mine_followed = rollout(mine_record)[0].numpy()
plots.explanation(np.asarray(mine), mine_fitted.box, card.classes, mine_shares, mine_followed)

# %% [markdown]
# Cropped to its middle, the coffee was a truck; with all of the picture and bars of grey above and below, it is an automobile.
# It is neither, and how a picture is made to fit changes what is made of it.

# %% claim="Cropped to its middle, the coffee was a truck; with all of the picture and bars of grey"
assert answers["coffee"][0] == "truck"
assert card.classes[np.argmax(mine_shares)] == "automobile"
# %% [markdown] deeper=true
# ## A larger image
#
# Patches of 4×4 pixels on a 64×64 image: 256 of them instead of 64. Every part of the network takes any
# number of tokens, except one: it has learned positions for 64 patches. `resized` stretches them like an image.
#
# **Predict.** The photograph is now four times as detailed. Will the network be better or worse at it?

# %%
large_vit = vit.resized(64)
large = fit_image(photo, 64)
large_record = record_attention(large_vit, normalize(large.pixels[None], card.mean, card.std))
large_shares = large_record.logits.softmax(dim=1)[0]
large_followed = rollout(large_record)[0].numpy()
print("patches:", large_record.grid, " tokens:", large_record.num_tokens)
plots.explanation(np.asarray(photo), large.box, card.classes, large_shares.tolist(), large_followed)

# %% [markdown]
# The map is finer, though its brightest patch now lies at the right edge, just below the upper right corner, and the network
# is surer of its cat than before.
# But one photograph proves nothing; a
# test set does. Here is the digits network, measured on its 360 test images at their own size and at larger
# ones. It takes a few seconds.

# %% claim="its brightest patch now lies at the right edge, just below the upper right corner"
assert divmod(large_followed.argmax().item(), 16) == (1, 15)

# %% claim="the network is surer of its cat than before"
cat = card.classes.index("cat")
assert large_shares[cat] > shares[cat] + 0.03

# %%
from vit_tutorial import evaluate
from vit_tutorial.data import digits

digits_vit, digits_card = load_checkpoint("digits")
test, accuracies = digits("test"), []
for size in (8, 12, 16, 24):
    model, larger = digits_vit.resized(size), test.resized(size)
    accuracies.append(evaluate(model, larger, digits_card.mean, digits_card.std).accuracy)
    print(f"{size:2} pixels, {size**2 // 4:3} patches: {accuracies[-1]:5.1f}% right")

# %% [markdown]
# At twice the size and more, only about half are right. And the photograph network on 10,000 test images
# ({{results.input_size.data}}):
#
# | image size | tokens | right | time, compared with 32×32 |
# |---|---|---|---|
# | 32×32, as trained | {{results.input_size.rows[0].tokens}} | {{results.input_size.rows[0].test_accuracy:.1f}}% | 1 |
# | 40×40 | {{results.input_size.rows[1].tokens}} | {{results.input_size.rows[1].test_accuracy:.1f}}% | {{results.input_size.rows[1].time_ratio_median:.1f}} |
# | 48×48 | {{results.input_size.rows[2].tokens}} | {{results.input_size.rows[2].test_accuracy:.1f}}% | {{results.input_size.rows[2].time_ratio_median:.1f}} |
# | 64×64 | {{results.input_size.rows[3].tokens}} | {{results.input_size.rows[3].test_accuracy:.1f}}% | {{results.input_size.rows[3].time_ratio_median:.1f}} |
#
# (Enlarged from 32×32 pixels, so the larger images hold no more detail; measured by
# `benchmarks/input_size.py` on {{results.input_size.hardware}}.)
#
# So these networks *accept* any multiple of the patch size and are right less often all the same. A likely reason: each patch now shows a smaller
# piece of the world than any patch that they learned from. (After some training at the new size, larger images do help:
# Touvron et al. 2019, arXiv 1906.06423.) "A ViT does not care about the input size" is a common mistake. Lesson 03 takes the
# positions apart.

# %% claim="At twice the size and more, only about half are right"
assert all(42 < accuracy < 55 for accuracy in accuracies[2:])
assert accuracies[0] > 95

# %% claim="*accept* any multiple of the patch size and are right less often all the same"
import itertools
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "input_size.json"
measured = [row["test_accuracy"] for row in json.loads(stored.read_text())["rows"]]
assert all(larger < before - 2 for before, larger in itertools.pairwise(measured))

# %% [markdown]
# ## What we now have
#
# | what | shape | here |
# |---|---|---|
# | image, normalised | (B, C, H, W) | (1, 3, 32, 32) |
# | tokens: CLS and patches | (B, T, D) | (1, 65, 128) |
# | attention weights of one layer | (B, h, T, T) | (1, 4, 65, 65) |
# | rollout | (B, rows, columns) | (1, 8, 8) |
# | logits | (B, classes) | (1, 10) |
#
# B images in the batch, C channels, H×W pixels, T tokens of width D, h heads. These letters mean the same in
# every lesson.
#
# ## A stretch
#
# Add the rocket to the explorer: `explorer.add(photographs.rocket(), name="rocket")`. In which layer do the heads find its
# edge? Then flip Chelsea (`photo.transpose(0)`) and look again: does the attention flip with it? Lesson 03 has a
# reason for what you see.
