# %% [markdown]
# # 03 · Positions
#
# **How does a network know where each patch was?**
#
# Cut a page into words, throw them into a bag, and much of what it said is lost. Is that so for the patches of a picture,
# too? Today you find out who notices, and how the places get into the numbers.
#
# **You will**
#
# - shuffle the patches of a photograph and see which network notices, and why,
# - add a learned vector for each place, and find out what a trained network wrote there,
# - *deeper:* derive the formula with sines and cosines, rotate queries and keys instead (RoPE), and stretch
#   positions over a larger image.

# %%
from vit_tutorial import plots

plots.network_map("positions")

# %% [markdown]
# ## A bag of patches
#
# Chelsea (photograph by Stéfan van der Walt, CC0), cut into 8×8 patches, and the same patches in a
# random order. Not a pixel is lost.
#
# Two networks will look at both. `vit` is the course's trained network; it has positions. `blind` has none
# (`pos_embed="none"`), and its weights are random.

# %%
import copy
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from skimage import data as photographs
from torch import Tensor
from torch.testing import assert_close

from vit_tutorial import (
    VisionTransformer,
    ViTConfig,
    fit_image,
    load_checkpoint,
    normalize,
)

torch.manual_seed(0)
order = torch.randperm(64)  # at place i will stand patch order[i]
large = fit_image(photographs.chelsea(), 256).pixels.permute(1, 2, 0).numpy()
pictures = [plots.cut_up(large, 32), plots.cut_up(large, 32, order.tolist())]
plots.photo_row(pictures, ["64 patches", "the same 64, shuffled"])

# %%
from vit_tutorial import patchify, unpatchify

vit, card = load_checkpoint("cifar10")
blind = VisionTransformer(ViTConfig(embed_dim=64, depth=4, num_heads=4, pos_embed="none")).eval()

images = normalize(fit_image(photographs.chelsea(), 32).pixels[None], card.mean, card.std)
shuffled = unpatchify(patchify(images, 4)[:, order], 4, (8, 8))  # (1, 3, 32, 32)

# %% claim="Not a pixel is lost"
for picture in (images, shuffled):
    assert picture.shape == (1, 3, 32, 32)
assert torch.equal(images.flatten().sort().values, shuffled.flatten().sort().values)
assert not torch.equal(images, shuffled)

# %% claim="`blind` has none"
assert blind.config.pos_embed == "none"
assert vit.config.pos_embed == "learned"

# %% [markdown]
# **Predict.** The network's answer is ten numbers, the logits. For each of the two networks: do they change
# a lot, a little, or not at all when the patches are shuffled?

# %%
networks = {"no positions, random weights": blind, "learned positions, trained": vit}
with torch.no_grad():
    pairs = {name: (model(images)[0], model(shuffled)[0]) for name, model in networks.items()}
for name, (before, after) in pairs.items():
    print(f"{name:29} largest change of a logit: {(before - after).abs().max():.7f}")
plots.logit_pairs(pairs, card.classes)

# %% [markdown]
# On the left every dot sits in its ring: what is left of a change, less than a millionth, is rounding. To this
# network the cat and the confetti are *the same picture*. On the right the logits move, one of them by 5, and
# the trained network says *bird*.
#
# The random weights are no excuse: what the next section proves holds for any weights, so no training could
# help.

# %% claim="less than a millionth, is rounding"
before, after = pairs["no positions, random weights"]
assert (before - after).abs().max() < 1e-6

# %% claim="the logits move, one of them by 5"
before, after = pairs["learned positions, trained"]
assert 4.5 < (before - after).abs().max() < 5.5
assert (before - after).abs().median() > 0.3

# %% claim="the trained network says *bird*"
before, after = pairs["learned positions, trained"]
assert card.classes[before.argmax()] == "cat"
assert card.classes[after.argmax()] == "bird"

# %% [markdown]
# ## Why it cannot notice
#
# Lesson 04 takes attention apart. Today one sentence will do: **every token becomes a weighted mean of all
# tokens, and the weight, before all are divided by their sum, depends on nothing but what the two tokens hold.**
#
# By hand, with three tokens of one number each, 0, 1 and 2. As the weight of token b for token a we take
# 2 to the power a·b, which is large where both are large.
#
# | token a | weights of 0, 1, 2 | weighted mean |
# |---|---|---|
# | 0 | 1, 1, 1 | (1·0 + 1·1 + 1·2) / 3 = 1 |
# | 1 | 1, 2, 4 | (1·0 + 2·1 + 4·2) / 7 = 10/7 ≈ 1.43 |
# | 2 | 1, 4, 16 | (1·0 + 4·1 + 16·2) / 21 = 36/21 ≈ 1.71 |
#
# And if they stand in the order 2, 0, 1?


# %%
def mix(tokens):
    """One step of attention with loops: each number becomes a weighted mean of all."""
    results = []
    for a in tokens:
        weights = [2 ** (a * b) for b in tokens]
        mean = sum(w * b for w, b in zip(weights, tokens, strict=True)) / sum(weights)
        results.append(round(mean, 2))
    return results


print("0, 1, 2 become", mix([0, 1, 2]))
print("2, 0, 1 become", mix([2, 0, 1]))

# %% [markdown]
# Each token gets the same result as before, wherever it stands: its sum has the same terms, added in another
# order. Shuffle what goes in, and what comes out is shuffled in the same way. Written with an order π (at
# place i stands token π(i)), for a function f of the tokens x:
#
# $$f(x_\pi) = f(x)_\pi \qquad \text{(the permutation law)}$$
#
# All else in a Transformer block treats each token by itself, so the whole block obeys the law. The test,
# for a block with random weights, vectorised and in float64:

# %% claim="Each token gets the same result as before"
assert mix([0, 1, 2]) == [1, 1.43, 1.71]
assert mix([2, 0, 1]) == [1.71, 1, 1.43]

# %%
block = copy.deepcopy(blind.blocks[0]).double()
tokens = torch.randn(2, 9, 64, dtype=torch.float64)  # (B, T, D)
pi = torch.randperm(9)
assert_close(block(tokens[:, pi]), block(tokens)[:, pi])
print("block(x[:, pi]) == block(x)[:, pi]")

# %% claim="the whole block obeys the law"
assert (block(tokens[:, pi]) - block(tokens)[:, pi]).abs().max() < 1e-12
assert (block(tokens[:, pi]) - block(tokens)).abs().max() > 0.1

# %% [markdown]
# A chain of blocks obeys it too. At the end the answer is read from the CLS token, which stands in front
# and was not shuffled, or from the mean of the patches, which has no order. Either way the logits cannot
# change. The order must come in with the tokens.
#
# You can turn this into a test that every position code should pass.

# %% claim="A chain of blocks obeys it too"
chain = copy.deepcopy(blind.blocks).double()
through = tokens
for link in chain:
    through = link(through)
other = tokens[:, pi]
for link in chain:
    other = link(other)
assert (other - through[:, pi]).abs().max() < 1e-12


# %% exercise="03.1"
def notices_order(network, tokens):
    """Find out whether a network notices the order of its patches.

    network: a function of tokens (B, T, D) that returns numbers (B, K).
    tokens: (B, T, D); token 0 is CLS, which always stays in front.
    Returns True if the output changes when the patches are put into a random order.
    """
    ### BEGIN SOLUTION
    shuffle = 1 + torch.randperm(tokens.shape[1] - 1)
    moved = torch.cat([tokens[:, :1], tokens[:, shuffle]], dim=1)
    return not torch.allclose(network(tokens), network(moved), atol=1e-5)
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("03.1", notices_order)
# hint("03.1")

# %% [markdown] solved_only=true
# **Why.** One random order is enough: with 16 patches it is the old order once in 16! ≈ 21,000,000,000,000
# times. `allclose` allows for rounding, because a sum in another order differs in its last digit.
#
# **The common wrong answer** uses `torch.equal`, sees that last digit, and reports that the blind network
# sees. The other one shuffles CLS along with the patches.

# %% [markdown]
# ## The simplest cure: a vector for each place
#
# Keep one vector for every place of the sequence, CLS included: `pos_embed`, of shape `(1, T, D)`, with T tokens
# of width D. Add row i to token i, in every image. The rows are parameters: they start small and random, and
# training changes them like any weight. This is what the ViT paper does (Dosovitskiy et al. 2020, arXiv
# 2010.11929), and what `vit` has.
#
# How long are they, beside the patches' vectors that they are added to?

# %%
print("pos_embed:", tuple(vit.pos_embed.shape), f"= {vit.pos_embed.numel():,} parameters")
x = vit.patch_embed(images)  # (1, 64, 128), what each patch holds
print("a patch, on average:", f"length {x.norm(dim=-1).mean():.1f}")
print("its position:       ", f"length {vit.pos_embed[:, 1:].norm(dim=-1).mean():.1f}")

# %% [markdown]
# On average a position is less than half as long as the patch's vector.

# %% claim="less than half as long as the patch's vector"
lengths = vit.pos_embed[:, 1:].norm(dim=-1).mean(), x.norm(dim=-1).mean()
assert lengths[0] < 0.48 * lengths[1]

# %% [markdown]
# **Predict.** Shuffle the patches, *and* shuffle the positions in the same way. What does the trained
# network say now?

# %%
moved = copy.deepcopy(vit)
moved.pos_embed.data[:, 1:] = vit.pos_embed.data[:, 1:][:, order]
with torch.no_grad():
    assert_close(moved(shuffled), vit(images), rtol=1e-4, atol=1e-4)
    print("as it is:         ", card.classes[vit(images).argmax()], vit(images).max().item())
    print(
        "both are shuffled:", card.classes[moved(shuffled).argmax()], moved(shuffled).max().item()
    )

# %% [markdown]
# It gives the answer that it gave for the cat in one piece. So `pos_embed` is *all* that the network knows of places.
#
# How much does it rest on them? The digits network (8×8 pixels, a grid of 4×4 patches) can be
# measured in a moment. We leave its weights alone and replace its positions.

# %% claim="It gives the answer that it gave for the cat in one piece"
with torch.no_grad():
    assert card.classes[moved(shuffled).argmax()] == "cat"
    assert (moved(shuffled) - vit(images)).abs().max() < 1e-3

# %%
from vit_tutorial import evaluate
from vit_tutorial.data import digits

digits_vit, digits_card = load_checkpoint("digits")
test = digits("test")
learned = digits_vit.pos_embed.detach()  # (1, 17, 64)


def accuracy_with(positions):
    """Percent of the test digits that the network names rightly with these positions."""
    model = copy.deepcopy(digits_vit)
    model.pos_embed.data = positions
    return evaluate(model, test, digits_card.mean, digits_card.std).accuracy


# %% [markdown]
# The last line below is a common mistake: a parameter of shape `(1, 1, D)` (or `(B, 1, D)`, or
# `(D,)`), one vector that PyTorch kindly repeats for every token.
#
# **Predict.** Which is worst: no positions, wrong positions, or one vector for all?


# %%
def reordered(places):  # the CLS row, then those of the patches in another order
    return torch.cat([learned[:, :1], learned[:, 1 + places]], dim=1)


swap = torch.arange(16).reshape(4, 4).mT.flatten()  # rows become columns
wrong = [accuracy_with(reordered(torch.randperm(16))) for _ in range(10)]
right = {
    "as learned": accuracy_with(learned),
    "all zero": accuracy_with(torch.zeros_like(learned)),  # CLS's, too
    "shuffled, mean of 10 orders": sum(wrong) / len(wrong),
    "shuffled, best of the 10": max(wrong),
    "rows and columns swapped": accuracy_with(reordered(swap)),
    "one vector for all": accuracy_with(learned.mean(dim=1, keepdim=True)),
}
for name, accuracy in right.items():
    print(f"{name:28} {accuracy:5.1f}% right")

# %% [markdown]
# Compare the third and fourth line with the second: wrong positions are worse than none, here even in the best of the ten
# orders. The network believes them. And one vector for all tells it no more about places than none. It has the right name, it
# trains, no error is raised; only a test such as yours finds it.
#
# Look at it yourself: below runs the trained network. Press *Positions off*, then *Shuffle patches*. Without
# positions, the second button changes nothing any more.

# %% claim="wrong positions are worse than none, here even in the best of the ten orders"
assert max(wrong) < right["all zero"] - 3
assert right["rows and columns swapped"] < right["all zero"] - 6
assert right["all zero"] < right["as learned"] - 40

# %% claim="one vector for all tells it no more about places than none"
assert abs(right["one vector for all"] - right["all zero"]) < 2

# %% claim="Without positions, the second button changes nothing any more"
off = copy.deepcopy(vit)
off.pos_embed.data.zero_()
with torch.no_grad():
    assert (off(images) - off(shuffled)).abs().max() < 1e-4

# %%
from vit_tutorial import live

live("cifar10")

# %% [markdown]
# ## What a network writes into its positions
#
# Training started from random rows, and nobody told the network which rows belong to neighbours. Has it found
# out? We compare rows by the **cosine** of the angle between them, (a·b) / (|a| |b|): 1 where two vectors point
# the same way, 0 at right angles, −1 where they are opposite. By hand: a = (3, 4) and b = (4, 3) have a·b = 24
# and lengths of 5 and 5, so their cosine is 24/25 = 0.96. Below, the patch outlined in each map is compared with
# all 64.
#
# **Predict.** Third map: which places look most like the one in the top left corner?

# %%
from vit_tutorial.positions import position_similarity

alike = position_similarity(vit.pos_embed, num_prefix=1)  # (64, 64), without CLS
places = [(3, 4), (5, 1), (0, 0)]
maps = {f"row {r}, column {c}": alike[8 * r + c].reshape(8, 8) for r, c in places}
plots.position_maps(maps, marks=places, unit="cosine similarity")

# %% [markdown]
# Each map is brightest around its own patch: places that are near are alike. This network has found the second
# dimension in a list that has only one.
#
# And it found something else. The top left corner is like the top *right* one; each map has a twin on the
# other side. In numbers:

# %% claim="places that are near are alike"
rows_columns = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
apart = torch.cdist(rows_columns, rows_columns)
assert alike[apart == 1].mean() > 0.6
assert alike[apart == 1].mean() > alike[apart > 3].mean() + 0.5

# %% claim="each map has a twin on the other side"
for r, c in places:
    assert alike[8 * r + c].reshape(8, 8)[r, 7 - c] > 0.6
assert alike[0, 7] > alike[0, 1] + 0.03

# %%
grid_alike = alike.reshape(8, 8, 8, 8)  # row, column of one; row, column of the other
r, c = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
left_right = grid_alike[r, c, r, 7 - c].mean().item()
up_down = grid_alike[r, c, 7 - r, c].mean().item()
neighbours = grid_alike[r, c, r, (c + 1).clamp(max=7)][:, :7].mean().item()
print(
    f"right neighbour {neighbours:.2f}, mirrored left-right {left_right:.2f}, up-down {up_down:.2f}"
)
print("trained with flipped images:", card.training["flip"])

# %% [markdown]
# On average a place is more like its mirror image than like its own neighbour! The card suggests why: during
# training half of the images, picked at random, were flipped left to right. A cat's left ear is as often on the
# right, so there is no use in knowing left from right. Up and down were never exchanged, and they stay apart.
#
# (A suggestion it remains. The test would be the same network, trained on the same photographs without flips.) In any case
# *where* the network looks hardly depends on the direction of a photograph:

# %% claim="a place is more like its mirror image than like its own neighbour"
assert left_right > neighbours + 0.05
assert card.training["flip"]

# %% claim="Up and down were never exchanged, and they stay apart"
assert up_down < left_right - 0.5

# %%
from vit_tutorial import record_attention, rollout

print("rollout, and that of the flipped photograph, flipped back:")
agree = {}
for name in ("chelsea", "astronaut", "coffee", "rocket"):
    pixels = fit_image(getattr(photographs, name)(), 32).pixels[None]
    photo = normalize(pixels, card.mean, card.std)
    here, there = (rollout(record_attention(vit, x))[0] for x in (photo, photo.flip(-1)))
    agree[name] = torch.stack([here.flatten(), there.flip(-1).flatten()]).corrcoef()[0, 1].item()
    print(f"{name:10} r = {agree[name]:.2f}")

# %% [markdown]
# That was the question at the end of lesson 00: flip Chelsea, and where the network looks flips along, in all four photographs.
#
# Such order is what *this* network has found. In the digits network, with 16 places and fewer images, not even neighbours are
# alike:

# %% claim="where the network looks flips along, in all four photographs"
assert min(agree.values()) > 0.85
maps_of = (rollout(record_attention(vit, x))[0].flatten() for x in (images, images.flip(-1)))
assert torch.stack([*maps_of]).corrcoef()[0, 1] < agree["chelsea"] - 0.2

# %%
digits_alike = position_similarity(learned, num_prefix=1).reshape(4, 4, 4, 4)
r, c = torch.meshgrid(torch.arange(4), torch.arange(3), indexing="ij")
beside = digits_alike[r, c, r, c + 1].mean().item()
below = digits_alike[c, r, c + 1, r].mean().item()
print(f"digits: right neighbour {beside:.2f}, the one below {below:.2f}")

# %% claim="In the digits network, with 16 places and fewer images, not even neighbours are alike"
assert beside < 0.1
assert below < 0.1
assert beside < neighbours - 0.4

# %% [markdown]
# ## Another image size
#
# There is a position for each of 64 patches. An image of 48×48 pixels has 144.

# %%
tokens = torch.zeros(1, 1 + 144, 128)
try:
    tokens + vit.pos_embed
except RuntimeError as error:
    print(error)

# %% [markdown]
# 145 tokens, 65 rows. The way out is to see the positions for what they became here: an *image* of 8×8 pixels with D
# channels, smooth because neighbours are alike. Images can be stretched; `vit.resized(48)` does it, and leaves the
# row of CLS as it is. It is not free: of 10,000 test images, enlarged to 48×48, the network gets
# {{results.input_size.rows[tokens=145].test_accuracy:.0f}}% right, and {{results.input_size.rows[tokens=65].test_accuracy:.0f}}% as
# they are (lesson 00, *A larger image*). Some training at the new size is what one adds. Here is one channel, stretched from 8×8 to 12×12 and to 6×10 patches: the bright place at
# the top and the dark ones at the sides stay where they were.

# %% claim="145 tokens, 65 rows"
assert tokens.shape[1] == 145
assert vit.pos_embed.shape[1] == 65

# %%
from vit_tutorial.positions import resample_table

channel = vit.pos_embed.detach()[..., 11:12]  # (1, 65, 1)
maps = {}
for grid in ((8, 8), (12, 12), (6, 10)):
    stretched = resample_table(channel, (8, 8), grid, num_prefix=1)
    maps[f"{grid[0]}×{grid[1]} patches"] = stretched[0, 1:, 0].reshape(grid)
plots.position_maps(maps, unit="entry 11 of the position")

# %% claim="the bright place at the top and the dark ones at the sides stay where they were"
for map_ in maps.values():
    rows, columns = map_.shape
    r, c = divmod(int(map_.argmax()), columns)
    assert r / rows < 0.25
    assert 0.3 < (c + 0.5) / columns < 0.7
    r, c = divmod(int(map_.argmin()), columns)
    assert 0.3 < (r + 0.5) / rows < 0.7
    assert c in (0, columns - 1)

# %% [markdown]
# ## What each kind is worth
#
# Positions need not be learned. Two formulas are in wide use: **sin-cos** adds fixed sines and cosines of row and
# column, **RoPE** acts inside attention, which is lesson 04 (both below, *deeper*). The
# same network, trained on the digits with each kind; five runs with different random seeds for each (mean ±
# standard deviation of the test accuracy):
#
# | positions | parameters | right |
# |---|---|---|
# | none | 0 | {{results.positions_digits.rows[pos_embed=none].test_accuracy_mean:.1f}} ± {{results.positions_digits.rows[pos_embed=none].test_accuracy_std:.1f}}% |
# | learned | 17 · 64 = 1,088 | {{results.positions_digits.rows[pos_embed=learned].test_accuracy_mean:.1f}} ± {{results.positions_digits.rows[pos_embed=learned].test_accuracy_std:.1f}}% |
# | sin-cos 2-D | 0 | {{results.positions_digits.rows[pos_embed=sincos].test_accuracy_mean:.1f}} ± {{results.positions_digits.rows[pos_embed=sincos].test_accuracy_std:.1f}}% |
# | RoPE 2-D | 0 | {{results.positions_digits.rows[pos_embed=rope].test_accuracy_mean:.1f}} ± {{results.positions_digits.rows[pos_embed=rope].test_accuracy_std:.1f}}% |
#
# (Measured by `benchmarks/positions.py` on {{results.positions_digits.hardware}}:
# {{results.positions_digits.data}}, {{results.positions_digits.rows[pos_embed=none].epochs}} epochs, 360 test images.)
#
# On photographs ({{results.positions_cifar10.data}}, a smaller network than lesson 00's, 96 wide with 4 layers,
# {{results.positions_cifar10.rows[pos_embed=none].epochs}} epochs) one run each gave
# {{results.positions_cifar10.rows[pos_embed=none].test_accuracy_mean:.1f}}% without positions,
# {{results.positions_cifar10.rows[pos_embed=learned].test_accuracy_mean:.1f}}% with learned ones,
# {{results.positions_cifar10.rows[pos_embed=sincos].test_accuracy_mean:.1f}}% with sin-cos and
# {{results.positions_cifar10.rows[pos_embed=rope].test_accuracy_mean:.1f}}% with RoPE. One run tells nothing about the
# order of the last three.
#
# Having positions matters far more than which kind. On the digits the learned ones are ahead of both formulas, by
# two or three points. And without any, the network still names about three digits in four: which strokes there are,
# though not where, says a lot. Trained without positions it does much better than one from which they are
# taken away afterwards, as we did above.

# %% claim="a smaller network than lesson 00's, 96 wide with 4 layers"
import json as _json
from pathlib import Path as _Path

import vit_tutorial as _package
from vit_tutorial.recipes import RECIPES as _recipes

_folder = _Path(_package.__file__).parents[1] / "benchmarks" / "results"
_rows = _json.loads((_folder / "positions_cifar10.json").read_text())["rows"]
_model = _recipes[_rows[0]["recipe"]].model
assert _model.embed_dim == 96
assert _model.depth == 4
assert _model.embed_dim < vit.config.embed_dim

# %% claim="Having positions matters far more than which kind"
import json as _json
from pathlib import Path as _Path

import vit_tutorial as _package

_folder = _Path(_package.__file__).parents[1] / "benchmarks" / "results"
for name, least in (("positions_digits", 15), ("positions_cifar10", 4)):
    rows = _json.loads((_folder / f"{name}.json").read_text())["rows"]
    mean = {row["pos_embed"]: row["test_accuracy_mean"] for row in rows}
    with_any = [mean[kind] for kind in ("learned", "sincos", "rope")]
    assert min(with_any) - mean["none"] > least
    assert max(with_any) - min(with_any) < 0.25 * (min(with_any) - mean["none"])

# %% claim="On the digits the learned ones are ahead of both formulas"
import json as _json
from pathlib import Path as _Path

import vit_tutorial as _package

_folder = _Path(_package.__file__).parents[1] / "benchmarks" / "results"
rows = {
    r["pos_embed"]: r for r in _json.loads((_folder / "positions_digits.json").read_text())["rows"]
}
for kind in ("sincos", "rope"):
    gap = rows["learned"]["test_accuracy_mean"] - rows[kind]["test_accuracy_mean"]
    error = (
        rows["learned"]["test_accuracy_std"] ** 2 + rows[kind]["test_accuracy_std"] ** 2
    ) ** 0.5
    assert 2 < gap < 4
    assert gap > 2.8 * error / 5**0.5  # t for two times five runs, unequal spreads

# %% claim="still names about three digits in four"
import json as _json
from pathlib import Path as _Path

import vit_tutorial as _package

_folder = _Path(_package.__file__).parents[1] / "benchmarks" / "results"
rows = _json.loads((_folder / "positions_digits.json").read_text())["rows"]
none = next(row["test_accuracy_mean"] for row in rows if row["pos_embed"] == "none")
assert 70 < none < 80
assert none > right["all zero"] + 20

# %% [markdown]
# ## What we now have
#
# | what | shape | here |
# |---|---|---|
# | patches, embedded | (B, N, D) | (1, 64, 128) |
# | positions, learned or by a formula | (1, T, D) | (1, 65, 128) |
# | tokens + positions | (B, T, D) | (1, 65, 128) |
# | positions for another grid | (1, T', D) | (1, 145, 128) |
# | similarity of positions | (N, N) | (64, 64) |
#
# N patches, T = N + 1 tokens with CLS, D the width of a token. Lesson 04 needs no more than this.

# %% [markdown] deeper=true
# ## Add them, and refuse what does not fit
#
# To add positions is one `+`. The exercise is about the mistake from above, which the `+` lets through.


# %% exercise="03.2"
def my_add_positions(tokens, positions):
    """Add its position to every token.

    tokens: (B, T, D).
    positions: (1, T, D), a row for each token; the same for every image.
    Returns (B, T, D), and leaves `tokens` as they are.
    Raises ValueError where the positions have any other shape.
    """
    ### BEGIN SOLUTION
    expected = (1, *tokens.shape[1:])
    if positions.shape != expected:
        raise ValueError(f"the positions must be {expected}, got {tuple(positions.shape)}")
    return tokens + positions
    ### END SOLUTION


# %%
check("03.2", my_add_positions)
# hint("03.2")

# %% [markdown] solved_only=true
# **Why.** The `+` alone is right whenever the shapes are. The two lines above it are there for the day when they
# are not: broadcasting would stretch a single row over all tokens without a word.
#
# **The common wrong answer** is `tokens += positions`: right numbers, but the caller's tokens are changed too,
# and whoever recorded them finds positions in them.

# %% [markdown] deeper=true
# ## How alike are two positions?
#
# The maps above need one function. Write it: the dot product of two vectors, divided by both of their lengths,
# for all pairs at once.


# %% exercise="03.3"
def my_similarity(positions):
    """Compare every position with every other.

    positions: (N, D), a row for each position.
    Returns (N, N): the cosine of the angle between row i and row j.
    """
    ### BEGIN SOLUTION
    directions = positions / positions.norm(dim=1, keepdim=True)
    return directions @ directions.mT
    ### END SOLUTION


# %%
check("03.3", my_similarity)
# hint("03.3")

# %% [markdown] solved_only=true
# **Why.** Dividing each row by its length first leaves vectors of length 1, and the dot product of two of
# those is their cosine. The matrix product takes all pairs at once.
#
# **The common wrong answer** leaves the lengths in. Then the longest row seems most like all the others.

# %% [markdown]
# The package's version leaves out the row of CLS first, and computes in float32 at least.

# %% definition="vit_tutorial.positions.position_similarity"

# %% [markdown] deeper=true
# ## A formula: a clock with many hands
#
# Could positions be *computed*? Let p = 0, 1, 2, ... be a position along a line. We want a vector for each p
# such that
#
# 1. no two positions have the same vector,
# 2. the numbers stay small, however large p is,
# 3. neighbours get similar vectors,
# 4. a step of m means the same everywhere, from 2 to 5 as from 42 to 45.
#
# The number p itself fails at 2: at p = 1000 it would drown everything else. Its binary digits stay small,
# but fail at 3:

# %%
for p in (6, 7, 8, 9):
    print(p, f"{p:04b}")

# %% [markdown]
# From 7 to 8 all four digits change. But the idea is good: the last digit changes at every step, the next one
# at every second, and so on, *from fast to slow*. What jumps must be made to turn. A clock does that: its
# hands turn smoothly, the fast one tells neighbours apart, the slow one tells morning from evening.
#
# A hand that turns by ω radians per step (ω is its **frequency**) stands at the angle ωp. Its tip, seen on a
# clock face that starts at 12 and runs clockwise, is at
#
# $$\left(\sin(\omega p),\; \cos(\omega p)\right).$$

# %% claim="From 7 to 8 all four digits change"
assert all(a != b for a, b in zip(f"{7:04b}", f"{8:04b}", strict=True))
assert sum(a != b for a, b in zip(f"{6:04b}", f"{7:04b}", strict=True)) == 1

# %%
hands = {}
for frequency in (1.0, 0.1):
    angles = [(p, frequency * p) for p in range(5)]
    hands[f"frequency {frequency}"] = [(math.sin(a), math.cos(a), str(p)) for p, a in angles]
plots.clock_hands(hands)

# %% [markdown]
# In four steps the fast hand turns by more than half of the circle; the slow one has hardly left 12.
#
# **Why a pair?** One sine is not enough, for two reasons. First, it is ambiguous: on a clock of which you see only
# how far the hand points to the right, one o'clock and five o'clock look the same.

# %% claim="turns by more than half of the circle"
fast, slow = (4 * frequency / (2 * math.pi) for frequency in (1.0, 0.1))
assert 0.5 < fast < 1
assert slow < 0.1
x, y, _ = hands["frequency 1.0"][4]
assert abs(math.hypot(x, y) - 1) < 1e-9

# %%
print("sine:  ", math.sin(0.5), math.sin(math.pi - 0.5))
print("cosine:", math.cos(0.5), math.cos(math.pi - 0.5))

# %% claim="one o'clock and five o'clock look the same"
one, five = (hour * math.pi / 6 for hour in (1, 5))
assert abs(math.sin(one) - math.sin(five)) < 1e-12
assert abs(math.cos(one) - math.cos(five)) > 1

# %% [markdown]
# Second, with the pair wish 4 comes true. The addition theorems say, for a step of m,
#
# $$\sin(\omega (p + m)) = \sin(\omega p)\cos(\omega m) + \cos(\omega p)\sin(\omega m),$$
# $$\cos(\omega (p + m)) = \cos(\omega p)\cos(\omega m) - \sin(\omega p)\sin(\omega m).$$
#
# On the right stand the old sine and the old cosine, and factors that depend on m alone. As a matrix:
#
# $$\begin{pmatrix} \sin \omega(p+m) \\ \cos \omega(p+m) \end{pmatrix} =
# \begin{pmatrix} \cos\omega m & \sin\omega m \\ -\sin\omega m & \cos\omega m \end{pmatrix}
# \begin{pmatrix} \sin \omega p \\ \cos \omega p \end{pmatrix}.$$
#
# The matrix is a **rotation**, and p does not occur in it. So one and the same linear layer can move every
# position by m. A sine alone could not: to know where a hand goes next, you must see all of it.

# %%
omega, m = 0.3, 3
turn = torch.tensor(
    [
        [math.cos(omega * m), math.sin(omega * m)],
        [-math.sin(omega * m), math.cos(omega * m)],
    ]
)
for p in (2, 42):
    hand = torch.tensor([math.sin(omega * p), math.cos(omega * p)])
    there = torch.tensor([math.sin(omega * (p + m)), math.cos(omega * (p + m))])
    print(f"{p} turned: {(turn @ hand).tolist()}   {p + m}: {there.tolist()}")

# %% claim="p does not occur in it"
for p in (2.0, 42.0, 1000.0):
    angle, later = omega * p, omega * (p + m)
    hand = torch.tensor([math.sin(angle), math.cos(angle)])
    there = torch.tensor([math.sin(later), math.cos(later)])
    assert (turn @ hand - there).abs().max() < 1e-5

# %% [markdown]
# It also follows how alike two hands are: sin(ωp) sin(ωp') + cos(ωp) cos(ωp') = cos(ω(p − p')). Only the
# *difference* of the positions is left. Wish 3 and wish 4 in one line.
#
# **Which frequencies?** A vector of dim numbers has room for dim/2 hands, i = 0, 1, ..., dim/2 − 1. Vaswani et
# al. (2017, arXiv 1706.03762) let the frequencies fall by the same factor from hand to hand, from 1 towards
# 1/10,000. Entries 2i and 2i + 1 of the vector are
#
# $$\text{PE}(p, 2i) = \sin(\omega_i\, p), \quad \text{PE}(p, 2i + 1) = \cos(\omega_i\, p), \qquad
# \omega_i = \frac{1}{10000^{\,2i/\text{dim}}} .$$
#
# A hand comes round after 2π/ω steps, its **wavelength**. With dim = 8 the fastest takes six steps, the slowest
# more than 6,000:

# %% claim="the fastest takes six steps, the slowest"
slowest = 10_000 ** (-2 * 3 / 8)
assert 6 < 2 * math.pi < 7
assert 6_000 < 2 * math.pi / slowest < 7_000

# %% claim="Only the *difference* of the positions is left"
for p, other in ((2, 5), (42, 45)):
    product = math.sin(omega * p) * math.sin(omega * other) + math.cos(omega * p) * math.cos(
        omega * other
    )
    assert abs(product - math.cos(omega * 3)) < 1e-12

# %%
for i in range(4):
    frequency = 10_000 ** (-2 * i / 8)
    print(f"hand {i}: frequency {frequency:.3f}, wavelength {2 * math.pi / frequency:8.1f} steps")

# %% [markdown]
# By hand, position p = 3 and dim = 4: the frequencies are 1 and 1/100, so the vector is
# (sin 3, cos 3, sin 0.03, cos 0.03) = (0.141, −0.990, 0.030, 1.000). With loops, and drawn for 60 positions:
# entry 0 comes round nine times, entry 6 has hardly begun to rise.


# %%
def sincos_loop(positions, dim):
    """The formula, number by number."""
    vectors = torch.zeros(len(positions), dim, dtype=torch.float64)
    for row, p in enumerate(positions):
        for i in range(dim // 2):
            angle = p / 10_000 ** (2 * i / dim)
            vectors[row, 2 * i] = math.sin(angle)
            vectors[row, 2 * i + 1] = math.cos(angle)
    return vectors


print(sincos_loop([3], 4))
plots.waves(sincos_loop(range(60), 8), shown=(0, 2, 4, 6))

# %% claim="(0.141, −0.990, 0.030, 1.000)"
by_hand = torch.tensor([0.141, -0.990, 0.030, 1.000], dtype=torch.float64)
assert (sincos_loop([3], 4)[0] - by_hand).abs().max() < 6e-4

# %% claim="entry 0 comes round nine times"
drawn = sincos_loop(range(60), 8)
assert int(59 / (2 * math.pi)) == 9
assert ((drawn[:-1, 0] < 0) & (drawn[1:, 0] >= 0)).sum() == 9
assert 0 < drawn[-1, 6] < 0.1

# %% [markdown]
# Now without loops.


# %% exercise="03.4"
def my_sincos_1d(positions, dim):
    """Turn positions into vectors of sines and cosines.

    positions: (n,) floating point numbers, not always 0, 1, 2.
    dim: the even length of a vector.
    Returns (n, dim): entries 2i and 2i + 1 are sine and cosine of position / 10000^(2i / dim).
    """
    ### BEGIN SOLUTION
    frequencies = 10_000 ** (-torch.arange(0, dim, 2, dtype=positions.dtype) / dim)  # (dim/2,)
    angles = positions[:, None] * frequencies  # (n, dim/2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
    ### END SOLUTION


# %%
check("03.4", my_sincos_1d)
# hint("03.4")

# %% [markdown] solved_only=true
# **Why.** `positions[:, None]` is a column, the frequencies are a row; their product holds all
# angles. `stack` with `dim=-1` makes pairs (sine, cosine), and `flatten` lays the pairs one after the other.
#
# **The common wrong answer** is `torch.cat([angles.sin(), angles.cos()], dim=1)`: all sines first. A network
# could be trained with it, but it is not the formula, and weights trained with one are lost with
# the other. The second one counts i where the formula has 2i.

# %% [markdown]
# The package's own:

# %% definition="vit_tutorial.positions.sincos_1d"

# %% [markdown]
# **Proof** that it agrees with the loops, and that the cosine of two positions depends on their difference
# alone: on each diagonal of the matrix of similarities all numbers are the same.

# %%
positions = torch.arange(50, dtype=torch.float64)
assert_close(sincos_1d(positions, 16), sincos_loop(range(50), 16))

alike_1d = position_similarity(sincos_1d(positions, 16))
assert_close(alike_1d[:-1, :-1], alike_1d[1:, 1:])
print("0 and 3:", alike_1d[0, 3].item(), "  40 and 43:", alike_1d[40, 43].item())

# %% claim="the cosine of two positions depends on their difference"
assert abs(alike_1d[0, 3] - alike_1d[40, 43]) < 1e-9
assert alike_1d[0, 1] > alike_1d[0, 3] + 0.1

# %% [markdown] deeper=true
# ## Two dimensions
#
# Patches have a number too, 0 to 63, so we could encode that. But patch 8 lies right below patch 0, and in a
# line they are eight steps apart. A patch has two coordinates, its row and its column. (`trained_grid` is for
# other image sizes, further down.)

# %% definition="vit_tutorial.positions.patch_coordinates"

# %%
print(patch_coordinates((2, 3)).tolist())

# %% [markdown]
# The remedy is plain: half of the vector for the row, the other half for the column.


# %% exercise="03.5"
def my_sincos_2d(grid, dim):
    """Encode the place of every patch of a grid.

    grid: (rows, columns), not always square.
    dim: length of a vector, a multiple of 4.
    Returns (rows * columns, dim), patches in reading order: the row in the first half of each vector
    and the column in the second, each encoded by sincos_1d.
    """
    ### BEGIN SOLUTION
    number = torch.arange(grid[0] * grid[1])
    row, column = number // grid[1], number % grid[1]
    halves = [sincos_1d(row.float(), dim // 2), sincos_1d(column.float(), dim // 2)]
    return torch.cat(halves, dim=1)
    ### END SOLUTION


# %%
check("03.5", my_sincos_2d)
# hint("03.5")

# %% [markdown] solved_only=true
# **Why.** Each half needs `dim // 2` entries of its own, so that both together have `dim`. Beside each other,
# not added: a sum could not tell (row 1, column 2) from (row 2, column 1).
#
# **The common wrong answer** adds two encodings of full width, with just that fault.

# %% [markdown]
# The package does the same.

# %% definition="vit_tutorial.positions.sincos_2d"

# %% [markdown]
# **Proof**, against the formula for the dot product instead of the vectors: it must be the sum, over all hands,
# of cos(ω · difference of rows) and cos(ω · difference of columns).

# %%
coordinates = patch_coordinates((8, 8)).double()
encoded = sincos_2d(coordinates, 128)
frequencies = 10_000 ** (-torch.arange(0, 64, 2).double() / 64)
difference = coordinates[:, None] - coordinates[None]  # (64, 64, 2)
expected = (difference[..., None] * frequencies).cos().sum(dim=(-1, -2))
assert_close(encoded @ encoded.mT, expected)

# %% [markdown]
# **Predict.** The patch in row 3, column 4 is compared with all others, once by 1-D positions and once by 2-D
# ones. What will the two maps look like: a spot, a stripe, a cross?

# %%
line = position_similarity(sincos_1d(torch.arange(64.0), 128))
flat = position_similarity(encoded)
maps = {"1-D, by number": line[28].reshape(8, 8), "2-D, by row and column": flat[28].reshape(8, 8)}
plots.position_maps(maps, marks=[(3, 4), (3, 4)], unit="cosine similarity")

# %% [markdown]
# Read in one dimension, the patch right above is less alike than one four columns away. In two dimensions the similarity falls in all directions.
#
# And note the scale: no two of the 64 places differ by much. Over 8 rows and 8 columns most hands hardly
# move:

# %% claim="less alike than one four columns away"
assert line[28, 20] < line[28, 24] - 0.01

# %% claim="In two dimensions the similarity falls in all directions"
map_ = flat[28].reshape(8, 8)
for r, c in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1)):
    steps = [map_[3 + i * r, 4 + i * c] for i in range(4)]
    assert all(steps[i] > steps[i + 1] + 1e-3 for i in range(3))

# %% claim="no two of the 64 places differ by much"
assert flat.min() > 0.7

# %%
spread = encoded.std(dim=0)  # of each entry, over the 64 places
print(f"{(spread < 0.05).sum()} of 128 entries have a standard deviation below 0.05")

# %% [markdown]
# The base of 10,000 comes from a network for text, where sequences are far longer than 8; here it leaves almost two thirds of the entries
# nearly constant. With a smaller base more hands would move, and the next method takes one.

# %% claim="leaves almost two thirds of the entries nearly constant"
assert 0.6 < (spread < 0.05).float().mean() < 0.667
assert (sincos_2d(coordinates, 128, base=100.0).std(dim=0) < 0.05).sum() < 0.5 * (
    spread < 0.05
).sum()

# %% [markdown] deeper=true
# ## Rotate instead of adding: RoPE
#
# *Read lesson 04 first.* There each token makes a **query** q, what it looks for, and a **key** k, what it can be
# found by, vectors of d numbers. How much one token attends to another grows with the **score** q·k.
#
# What we would like is a score that depends on *what* the two tokens hold and on the *step* from one to
# the other, and on nothing else. The clock shows how. Take d = 2. Turn the query by ω times its position p, the key by ω
# times its position p'. Turning keeps lengths; and the angle between the two, which decides the dot product,
# changes by ω(p − p').
#
# By hand: ω is 30 degrees per step, and q = k = (1, 0). At places 1 and 3 they are turned by 30 and 90
# degrees, 60 apart: the score is cos 60° = 0.5. At places 4 and 6 they are turned by 120 and 180 degrees:
# again 60 apart, again 0.5. (These hands start at 3 o'clock and run counter-clockwise, as mathematics has it.)

# %%
degree = math.pi / 180
panels = {}
for p, p2 in ((1, 3), (4, 6)):
    a, b = 30 * p * degree, 30 * p2 * degree
    panels[f"places {p} and {p2}: score {math.cos(a - b):.2f}"] = [
        (math.cos(a), math.sin(a), f"q at {p}"),
        (math.cos(b), math.sin(b), f"k at {p2}"),
    ]
plots.clock_hands(panels, distinct=True)

# %% claim="again 60 apart, again 0.5"
for hands_of in panels.values():
    (x, y, _), (x2, y2, _) = hands_of
    assert abs(x * x2 + y * y2 - 0.5) < 1e-9

# %% [markdown]
# With d numbers there are d/2 pairs, channels (0, 1), (2, 3), ..., and each pair has a frequency of its own.
# A pair (a, b) turned counter-clockwise by the angle θ becomes
#
# $$(a \cos\theta - b \sin\theta,\;\; a \sin\theta + b \cos\theta).$$


# %% exercise="03.6"
def my_rotate(x, angles):
    """Rotate the channel pairs (0, 1), (2, 3), ... of every token.

    x: (..., T, d), with d even and any axes in front.
    angles: (T, d/2) in radians, one for each token and pair; the same for all axes in front.
    Returns (..., T, d).
    """
    ### BEGIN SOLUTION
    a, b = x[..., 0::2], x[..., 1::2]  # (..., T, d/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    ### END SOLUTION


# %%
check("03.6", my_rotate)
# hint("03.6")

# %% [markdown] solved_only=true
# **Why.** `0::2` takes every second channel, beginning with channel 0: the first of each pair. At the end
# `stack` and `flatten` put each pair back into its two channels.
#
# **The common wrong answer** pairs channel i with channel i + d/2. Some libraries do that, and it works as
# well, but weights trained with one are useless with the other. The second one overwrites a and then uses
# the new a to compute b.

# %% [markdown]
# This is **RoPE**, rotary position embedding (Su et al. 2021, arXiv 2104.09864). For images the first half of
# the pairs turns with the row and the second half with the column. Each half has d/4 pairs; pair j of a half,
# j = 0, 1, ..., d/4 − 1, turns per step by
#
# $$\omega_j = \frac{1}{100^{\,j / (d/4)}} .$$
#
# The base is 100 here, not 10,000 (as in Heo et al. 2024, arXiv 2403.13298): grids are short.

# %% definition="vit_tutorial.positions.rotate"

# %% definition="vit_tutorial.positions.rope_2d"

# %% [markdown]
# **Proof** by another road: a pair is a complex number, and to rotate is to multiply by exp(iθ).

# %%
q = torch.randn(3, 64, 32, dtype=torch.float64)  # (heads, T, d)
angles = rope_2d(coordinates, head_dim=32)  # (64, 16)
numbers = torch.view_as_complex(q.unflatten(-1, (16, 2)))
expected = torch.view_as_real(numbers * torch.exp(1j * angles)).flatten(-2)
assert_close(rotate(q, angles), expected)

# %% [markdown]
# Now what it was made for. One query and one key are put at two places of the grid, then at two other places
# with the same step between them: two rows down, one column to the right. Beside RoPE, the same for sin-cos
# positions that are added (here straight to query and key, to keep it simple).

# %%
query, key = torch.randn(2, 1, 32, dtype=torch.float64)


def scores(place, other):
    """Return the score with RoPE, and with sin-cos positions added."""
    pair = torch.tensor([place, other]).double()
    turned = rotate(torch.cat([query, key]), rope_2d(pair, 32))
    added = torch.cat([query, key]) + sincos_2d(pair, 32)
    return (turned[0] @ turned[1]).item(), (added[0] @ added[1]).item()


print("places                RoPE     added")
for place, other in (((0, 0), (2, 1)), ((5, 6), (7, 7)), ((5, 6), (7, 3))):
    print(place, other, "{:12.4f} {:8.4f}".format(*scores(place, other)))

# %% [markdown]
# Compare the first two lines: with RoPE they agree in every digit, since the step is the same. The third has
# another step and another score. Added positions e and e' mix with the content: in (q + e)·(k + e') stand the terms
# q·e' and e·k, and they depend on where the two are.
#
# Now let the key be the query itself, turned back by a step of two rows and one column. The maps show the score of the
# query, at the outlined place, with this key at all 64 places.
#
# **Predict.** Where is each map brightest?

# %% claim="with RoPE they agree in every digit"
first, second = scores((0, 0), (2, 1)), scores((5, 6), (7, 7))
assert abs(first[0] - second[0]) < 1e-9
assert abs(first[1] - second[1]) > 0.05

# %% claim="another step and another score"
assert abs(scores((5, 6), (7, 3))[0] - scores((5, 6), (7, 7))[0]) > 0.5

# %%
step = torch.tensor([[2.0, 1.0]], dtype=torch.float64)  # rows, columns
key = rotate(query, -rope_2d(step, 32))
turned_keys = rotate(key.expand(64, 32), angles)
maps, marks = {}, [(1, 2), (4, 5)]
for row, column in marks:
    turned = rotate(query, angles[8 * row + column][None])
    maps[f"query in row {row}, column {column}"] = (turned @ turned_keys.T).reshape(8, 8)
plots.position_maps(maps, marks=marks, unit="score")

# %% [markdown]
# The brightest cells lie two rows below the query and one column to the right, in both maps: after that step the key is
# turned as the query is, and the two match best. So a network can look in a *direction*. (A trained one would have to find
# such queries and keys; here we made them.)
#
# In the model, RoPE is a line in every attention layer, `q, k = rotate(q, rope), rotate(k, rope)`. Nothing is
# added to the tokens, and there is nothing to learn. CLS has no place; it is turned by 0, as the patch in the top
# left corner is.

# %% claim="two rows below the query and one column to the right, in both maps"
for (r, c), map_ in zip(marks, maps.values(), strict=True):
    assert divmod(int(map_.argmax()), 8) == (r + 2, c + 1)

# %% claim="turned by 0, as the patch in the top left corner is"
rope = VisionTransformer(ViTConfig(embed_dim=64, depth=1, num_heads=4, pos_embed="rope")).rope
assert torch.equal(rope[0], torch.zeros_like(rope[0]))
assert torch.equal(rope[0], rope[1])
assert not torch.equal(rope[1], rope[2])

# %% [markdown] deeper=true
# ## Play: every position with every other
#
# Point at a patch: the map on the left shows how like it is to each of the others. On the right stands the
# same map for every patch. Or click and use the arrow keys; the line below says in words what you see. RoPE
# has no vectors of its own, so we let it turn a vector of ones.

# %%
from vit_tutorial import PositionExplorer

turned_ones = rotate(torch.ones(64, 32, dtype=torch.float64), angles)
similarities = {
    "learned": alike,
    "sin-cos 1-D": line,
    "sin-cos 2-D": flat,
    "RoPE": position_similarity(turned_ones),
}
PositionExplorer(similarities, grid=(8, 8), query=(3, 4))

# %% [markdown]
# As a still picture, for those who read without a running kernel. Above, one patch with all others; below, the same
# map for every patch.
#
# - **learned:** a second spot appears on the other side of each row, the mirror image.
# - **sin-cos 2-D** and **RoPE:** the map moves with the query and keeps its form. **learned** does not keep it.
# - Each kind has its own scale. For sin-cos 2-D even opposite corners are quite alike, 0.73.

# %%
plots.position_views(similarities, grid=(8, 8), query=(3, 4))

# %% claim="the map moves with the query and keeps its form"
for name, moves in (("sin-cos 2-D", True), ("RoPE", True), ("learned", False)):
    likeness = torch.as_tensor(similarities[name]).reshape(8, 8, 8, 8)
    change = (likeness[1:, 1:, 1:, 1:] - likeness[:-1, :-1, :-1, :-1]).abs().max()
    assert (change < 1e-5) == moves

# %% claim="a second spot appears on the other side of each row"
mirrored = similarities["learned"].reshape(8, 8, 8, 8)[0, 0]
assert mirrored[0, 7] > mirrored[0, 4] + 0.1

# %% claim="For sin-cos 2-D even opposite corners are quite alike, 0.73"
assert abs(flat[0, 63] - 0.73) < 0.006

# %% [markdown] deeper=true
# ## Stretch the positions
#
# The row of CLS has no place in the image, so it must be taken out before, and put back unchanged. The package's own
# is shown below the exercise.


# %% exercise="03.7"
def my_resample(positions, old_grid, new_grid):
    """Stretch positions over another grid.

    positions: (1, 1 + N, D); row 0 is CLS, then the N patches of old_grid in reading order.
    old_grid, new_grid: (rows, columns), not always square.
    Returns (1, 1 + N', D): the row of CLS as it was, the patches stretched to new_grid by
    F.interpolate(..., mode="bicubic", antialias=True).
    """
    ### BEGIN SOLUTION
    cls, patches = positions[:, :1], positions[:, 1:]
    image = rearrange(patches, "one (r c) d -> one d r c", r=old_grid[0])
    image = F.interpolate(image, size=new_grid, mode="bicubic", antialias=True)
    return torch.cat([cls, rearrange(image, "one d r c -> one (r c) d")], dim=1)
    ### END SOLUTION


# %%
check("03.7", my_resample)
# hint("03.7")

# %% [markdown] solved_only=true
# **Why.** `F.interpolate` wants images, (batch, channels, rows, columns): the D entries of a position are the
# channels. The same pattern, read backwards, brings the rows back.
#
# **The common wrong answer** stretches all 1 + N rows as one line. CLS leaks into the first patches, and
# patches that lie above each other are treated as strangers. The next cells measure what it costs.

# %% [markdown]
# The package's own, with any number of tokens in front:

# %% definition="vit_tutorial.positions.resample_table"

# %% [markdown]
# **Proof.** Bicubic stretching is linear in rows and in columns: two small matrices of weights do the same.
# And the row of CLS is the same to the bit.

# %%
positions = torch.randn(1, 1 + 8 * 8, 5, dtype=torch.float64)
eye = torch.eye(8, dtype=torch.float64)[None, None]
by_rows, by_columns = (
    F.interpolate(eye, size=(new, 8), mode="bicubic", antialias=True)[0, 0] for new in (12, 6)
)
expected = torch.einsum(
    "r a, c b, a b d -> r c d", by_rows, by_columns, positions[0, 1:].reshape(8, 8, 5)
)
stretched = resample_table(positions, (8, 8), (12, 6), num_prefix=1)
assert_close(stretched[0, 1:], expected.reshape(72, 5))
assert torch.equal(stretched[:, 0], positions[:, 0])

# %% [markdown]
# What do the shortcuts cost? The digits, enlarged from 8×8 to 12×12 pixels: a grid of 6×6 patches instead of
# 4×4. Three ways to get 37 rows from 17.
#
# **Predict.** Put the three in order.

# %%
larger_vit, larger_test = digits_vit.resized(12), test.resized(12)
as_a_line = F.interpolate(learned.mT, size=37, mode="linear").mT
ways = {
    "stretched as an image": resample_table(learned, (4, 4), (6, 6), num_prefix=1),
    "stretched as one line, with CLS": as_a_line,
    "zeros for the new rows": F.pad(learned, (0, 0, 0, 20)),
}
kept = {}
for name, positions in ways.items():
    larger_vit.pos_embed.data = positions
    result = evaluate(larger_vit, larger_test, digits_card.mean, digits_card.std)
    kept[name] = result.accuracy
    print(f"{name:32} {result.accuracy:5.1f}% right")

# %% [markdown]
# Even the way that is right loses a quarter of its accuracy at once. (Two likely reasons: every patch now shows a smaller
# piece of a digit than any that the network learned from; and these positions, as we saw, are not smooth.) The wrong ways are left with about a
# quarter of the digits, and with a sixth.
#
# Positions by formula need no stretching: they are computed at the new places. `trained_grid` keeps
# them within the old picture, or the network would meet positions that it has never seen: four
# patches laid over two, which reach from −0.5 to 1.5, have their centres at

# %% claim="loses a quarter of its accuracy at once"
assert 67 < kept["stretched as an image"] < 77
assert right["as learned"] > 95

# %% claim="about a quarter of the digits, and with a sixth"
assert 22 < kept["stretched as one line, with CLS"] < 30
assert 13 < kept["zeros for the new rows"] < 20

# %%
print(patch_coordinates((1, 4), trained_grid=(1, 2))[:, 1].tolist())

# %% claim="keeps them within the old picture"
centres = patch_coordinates((1, 4), trained_grid=(1, 2))[:, 1]
assert centres.min() > -0.5
assert centres.max() < 1.5
assert patch_coordinates((1, 4))[:, 1].max() > 1.5

# %% [markdown] deeper=true
# ## The questions people ask
#
# **Why positions at all?** Because without them some questions cannot be answered by any training. "Is the
# bright spot on the left or on the right?" These two images hold the same patches, so a network without
# positions must give both the same answer:

# %%
on_left, on_right = torch.zeros(2, 1, 3, 32, 32)
on_left[..., 12:16, 4:8], on_right[..., 12:16, 24:28] = 1, 1
with torch.no_grad():
    print("without positions:", (blind(on_left) - blind(on_right)).abs().max().item())
    print("with positions:   ", (vit(on_left) - vit(on_right)).abs().max().item())

# %% claim="must give both the same answer"
with torch.no_grad():
    assert (blind(on_left) - blind(on_right)).abs().max() < 1e-6
    assert (vit(on_left) - vit(on_right)).abs().max() > 0.05

# %% [markdown]
# **Learned or sin-cos?** Learned positions cost few parameters (1.0% of this network's), can say that edges are
# special, and must be stretched for another size. A formula costs none, is there from the first step, and gives any
# size at once.

# %%
total = sum(parameter.numel() for parameter in vit.parameters())
print(f"{vit.pos_embed.numel():,} of {total:,}: {vit.pos_embed.numel() / total:.1%}")

# %% claim="few parameters (1.0% of this network's)"
assert 0.0095 < vit.pos_embed.numel() / total < 0.0105

# %% [markdown]
# **Does CLS need a position?** No. Its token and its position are added before anything else happens, and
# both are the same for every image. One vector can do the work of both:

# %%
merged = copy.deepcopy(vit)
merged.cls_token.data += merged.pos_embed.data[:, :1]
merged.pos_embed.data[:, :1] = 0
with torch.no_grad():
    print("largest change of a logit:", (merged(images) - vit(images)).abs().max().item())

# %% claim="One vector can do the work of both"
with torch.no_grad():
    assert (merged(images) - vit(images)).abs().max() < 1e-4

# %% [markdown]
# **Why add them? Would it not be cleaner to put position and content side by side?** Every linear layer W that reads the
# sum treats both alike: W(x + e) = Wx + We, which is a linear layer on both side by side, with the same weights for both
# halves. (In a ViT a norm stands before it. It only subtracts a mean and rescales the sum, so this holds up to a common
# factor.) With many channels there is room for the two in directions that do not disturb each other.

# %%
W = torch.randn(128, 128, dtype=torch.float64)
x, e = torch.randn(2, 128, dtype=torch.float64)
assert_close(W @ (x + e), torch.cat([W, W], dim=1) @ torch.cat([x, e]))

# %% claim="It only subtracts a mean and rescales the sum, so this holds up to a common factor"
normed = F.layer_norm(x + e, (128,), eps=0.0)
factor = (x + e).std(correction=0)
centred = [part - part.mean() for part in (x, e)]
assert (W @ normed - (W @ centred[0] + W @ centred[1]) / factor).abs().max() < 1e-9

# %% [markdown]
# **What happens with another image size?** The positions are stretched, everything else stays; `resized` does it.

# %%
for size in (32, 48, (32, 64)):
    resized = vit.resized(size)
    print(f"{size!s:9} grid {resized.config.grid!s:8} positions {tuple(resized.pos_embed.shape)}")

# %% claim="everything else stays"
for name, parameter in vit.resized(48).named_parameters():
    if name != "pos_embed":
        assert torch.equal(parameter, vit.get_parameter(name))

# %% [markdown] deeper=true
# ## A stretch
#
# `PositionExplorer` takes any similarities. Make them for the digits network (`learned`, grid (4, 4)). Then make
# some from `sincos_2d` with base 100 instead of 10,000 and compare them with RoPE's: why do they look alike? And for
# those with a network connection: load a ViT-B/16 through `from_library` and look at its 14×14 positions. Was it
# trained on flipped images?
