# %% [markdown]
# # A ViT in one evening
#
# **A network looks at a photograph and says "cat". How does it do that, and may one believe the picture of where it looked?**
#
# The whole course in one notebook: for somebody with one evening, or a class with one double period (90 minutes, with a
# break). You should know some Python, a little PyTorch (tensors and their shapes), and what a matrix product is. Six exercises
# become a Vision Transformer (ViT) that you train here, and at the end you put a map to the test. What is left out stands in the
# lessons; each section names its own.
#
# | minutes | what | more of it in |
# |---|---|---|
# | 5 | a picture, explained | [00](00_start_here.ipynb) |
# | 9 | patches, and what a shuffle loses | [01](01_images_to_patches.ipynb) |
# | 19 | tokens, CLS, positions | [02](02_patch_embedding.ipynb), [03](03_positions.ipynb) |
# | 13 | attention: three tokens by hand, matrices, heads | [04](04_attention.ipynb) |
# | 11 | the block | [05](05_encoder_block.ipynb) |
# | 16 | the whole network, of your pieces | [06](06_the_vision_transformer.ipynb) |
# | 3 | training | [07](07_training.ipynb) |
# | 6 | your own photograph, and a map, tested | [08](08_looking_inside.ipynb), [09](09_is_the_map_right.ipynb) |
#
# Run a cell with **Shift + Enter**, from top to bottom. An exercise is a cell with a gap; `check` says what is wrong,
# `hint` helps. If one takes you more than twice its minutes, go on: everything below runs all the same.

# %%
from vit_tutorial import plots

plots.network_map()

# %% [markdown]
# ## A picture, explained
#
# This is what you will build, from left to right. The **encoder** is its long part: **blocks**, all alike, one after the
# other. In each, **attention** lets the patches of the image ask each other, in several **heads**, which are ways of
# asking.
#
# The course brings a trained one, `cifar10`. It knows ten classes and reads images of 32×32 pixels. Here it gets Chelsea
# the cat (photograph by Stéfan van der Walt, CC0).

# %%
import copy
import math
import os
from dataclasses import replace

import numpy as np
import torch
from IPython.display import display
from skimage import data as photographs

from vit_tutorial import LiveCurve, TrainConfig, VisionTransformer, ViTConfig, fit, fit_image, live
from vit_tutorial import load_checkpoint, normalize, open_image, patchify, record_attention
from vit_tutorial import relevance, rollout, unpatchify
from vit_tutorial.data import channel_stats, cifar10, digits
from vit_tutorial.lessons import check, hint
from vit_tutorial.lessons.own_pieces import own_pieces
from vit_tutorial.model import F, Tensor, nn, rearrange, rotate
from vit_tutorial.recipes import RECIPES
from vit_tutorial.train import epochs_within

torch.set_num_threads(1)  # so small networks run fastest on one processor core
vit, card = load_checkpoint("cifar10")


# %%
def explained(photo):
    """Return the image as the network reads it, its answer, a map of where it looked, a figure."""
    fitted = fit_image(photo, 32)
    images = normalize(fitted.pixels[None], card.mean, card.std)  # (B, C, H, W) = (1, 3, 32, 32)
    record = record_attention(vit, images)
    shares, heat = record.logits.softmax(dim=1)[0], rollout(record)[0]
    values = card.classes, shares.tolist(), heat.numpy()
    return images, shares, heat, plots.explanation(np.asarray(photo), fitted.box, *values)


images, shares, heat, figure = explained(open_image(photographs.chelsea()))
figure

# %% [markdown]
# It says cat, with 61%; next comes dog. The right half is *attention rollout*, which many tools draw. It claims that the
# network looked at the bridge of the nose and the muzzle beside it most, though the largest share is 2.0%, where an even
# share would be 1.6%. (In every layer each token takes from others, who took from others before: rollout multiplies these
# shares over all layers. You will meet them below.) Remember the picture: its left half is what the network answered, its right half a claim about the reason, which you will test.
#
# ## Patches
#
# To a computer an image is a block of numbers with **C** channels (red, green, blue), **H** rows and **W** columns of
# pixels. A Transformer reads a *sequence of vectors*. So the image is cut into squares of **P**×**P** pixels, the
# **patches**, numbered row by row from 0, like the words on a page. There are **N** = H/P · W/P of them. **B** images are
# read at once, as a *batch*: (B, C, H, W) says what the axes of such a block are, in their order.

# %% claim="It says cat, with 61%; next comes dog"
assert [card.classes[c] for c in shares.topk(2).indices] == ["cat", "dog"]
assert 0.59 < shares.max() < 0.63

# %% claim="the bridge of the nose and the muzzle beside it most, though the largest share is 2.0%"
best = {divmod(i, 8) for i in heat.flatten().topk(5).indices.tolist()}
assert best == {(6, 3), (5, 4), (5, 5), (5, 3), (5, 2)}
assert 0.0195 < heat.max() < 0.0205

# %%
image = fit_image(photographs.chelsea(), 32).pixels  # (C, H, W) = (3, 32, 32), from 0 to 255
plots.patch_grid(image.permute(1, 2, 0).numpy(), patch_size=4)


# %% exercise="01.2"
def cut_patch(image, index, patch_size):
    """Cut one patch out of an image.

    image: (C, H, W); patches of patch_size fit into it exactly. It need not be square.
    index: the number of the patch, counted row by row from 0.
    Returns its pixels, (C, patch_size, patch_size).
    """
    ### BEGIN SOLUTION
    row, column = divmod(index, image.shape[2] // patch_size)
    top, left = row * patch_size, column * patch_size
    return image[:, top : top + patch_size, left : left + patch_size]
    ### END SOLUTION


check("01.2", cut_patch)
# hint("01.2")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** One row of the grid holds W / P patches. Dividing the index by that gives the row and leaves the column. Both
# count patches; times P, they count pixels.
#
# **The common wrong answer** divides by the number of rows, H / P. On square images nobody notices.

# %% [markdown]
# Your function, for every patch of every image of a batch, is the first piece of your network. And what does the sequence
# of patches keep of the picture? Here are the 64 patches, and the same in another order.


# %%
def my_patchify(images, patch_size):
    """Cut images into flat patches: (B, C, H, W) -> (B, N, C·P·P)."""
    N = images.shape[2] * images.shape[3] // patch_size**2
    cut = [[cut_patch(image, i, patch_size).flatten() for i in range(N)] for image in images]
    return torch.stack([torch.stack(patches) for patches in cut])


order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
large = image.permute(1, 2, 0).numpy().repeat(8, axis=0).repeat(8, axis=1)
pictures = [plots.cut_up(large, 32), plots.cut_up(large, 32, order.tolist())]
plots.photo_row(pictures, ["64 patches", "the same, shuffled"])

# %% [markdown]
# Not a pixel is lost, only where each patch was. You no longer see a cat. Does the network?
#
# ## Tokens
#
# A patch is 48 numbers that say how bright its pixels are. One linear layer, the same for all patches, makes a **token**
# of each: a vector of **D** numbers, here 128, that will come to hold what the network knows about that place.

# %%
weight, bias = vit.patch_embed.proj.weight.flatten(1), vit.patch_embed.proj.bias  # (D, C·P·P), (D,)
tokens = patchify(images, 4) @ weight.mT + bias  # (1, 64, 48) @ (48, 128) -> (1, 64, 128)
difference = (tokens - vit.patch_embed(images)).abs().max().item()
print(f"tokens {tuple(tokens.shape)}; from the network's own they differ by {difference:.0e}")

# %% [markdown]
# But for rounding, these are the network's own tokens. Which of them should speak for the whole image? None: one more
# stands in front, called **CLS**. It is learned, and the same for every image. From here on there are **T** = N + 1 tokens.
# (`x.expand(B, -1, -1)` repeats a tensor of one image for B of them; `torch.cat([a, b], dim=1)` joins two along axis 1.)

# %% claim="But for rounding, these are the network's own tokens"
assert difference < 1e-3
assert tuple(tokens.shape) == (1, 64, 128)


# %% exercise="02.5"
def my_add_cls(tokens, cls_token):
    """Put the CLS token in front of the tokens of every image.

    tokens: (B, N, D), any B.
    cls_token: (1, 1, D), one for all images.
    Returns (B, N + 1, D): CLS, then the patches in their order.
    """
    ### BEGIN SOLUTION
    return torch.cat([cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
    ### END SOLUTION


check("02.5", my_add_cls)
# hint("02.5")

# %% [markdown] solved_only=true
# **Why.** `torch.cat` joins along dimension 1, the tokens, and wants all other axes equal, so CLS must be (B, 1, D) first.
#
# **The common wrong answer** puts CLS at the end. The network runs, but whatever reads token 0 now reads a patch.

# %% [markdown]
# And where was each patch? Each place has a vector of its own, its **position**, also learned, and it is added to the token
# that stands there.


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


check("03.2", my_add_positions)
# hint("03.2")

# %% [markdown] solved_only=true
# **Why.** The `+` alone is right whenever the shapes are. The two lines above it are there for the day when they are not:
# broadcasting would stretch a single row over all tokens without a word.
#
# **The common wrong answer** is `tokens += positions`: right numbers, but the caller's tokens are changed, too.

# %% [markdown]
# **Predict.** The trained network, and the same one with all of its positions set to 0, look at Chelsea and at Chelsea
# shuffled. Whose answers, ten numbers called **logits**, change?

# %%
blind = copy.deepcopy(vit)
blind.pos_embed.data.zero_()
shuffled = unpatchify(patchify(images, 4)[:, order], 4, (8, 8))
with torch.inference_mode():
    changes = [(net(images) - net(shuffled)).abs().max().item() for net in (vit, blind)]
print(f"largest change of a logit: {changes[0]:.2f} with positions, {changes[1]:.0e} without")

# %% [markdown]
# Without positions the cat and the confetti are the same picture, but for rounding: a network reads its tokens as a heap.
# With them it notices.
#
# ## Attention
#
# So far each token knows its own patch. In **attention** they exchange what they know. From each token three linear layers
# make three vectors of **d** numbers: a **query** q, what it looks for; a **key** k, what it can be found by; a **value** v,
# what it hands over. Three tokens by hand, d = 2. Token 0 asks:

# %% claim="Without positions the cat and the confetti are the same picture, but for rounding"
assert changes[1] < 1e-3

# %% claim="With them it notices"
assert changes[0] > 0.3

# %%
q = torch.tensor([[1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])  # (T, d): a row for each token
k = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
v = torch.tensor([[0.0, 6.0], [6.0, 0.0], [-3.0, -3.0]])
scores = [sum(a * b for a, b in zip(q[0], key, strict=True)).item() for key in k]  # dot products
shares_of_0 = [np.exp(score) / np.exp(scores).sum() for score in scores]  # the softmax
output = sum(share * value for share, value in zip(shares_of_0, v, strict=True))
print("scores ", scores)
print("weights", [f"{share:.1%}" for share in shares_of_0])
print("output ", [round(number, 2) for number in output.tolist()])

# %% [markdown]
# Key 0 matches the query best, so token 0 takes 86.7% of its own value, 1.6% of that of token 1, and 11.7% of that of token 2.
# A **score** is a dot product, large where query and key point the same way. The **softmax** makes weights of scores:
# the exponential of each, which is positive, divided by their sum. The output is the mean of the values with these weights.
#
# For all tokens at once these are two products of matrices. And scores are first divided by √d, which the example left out: a
# dot product of random vectors, a sum of d terms of either sign, grows like √d, and with large scores the softmax would
# choose a single token. (`x.transpose(a, b)` swaps two axes of a tensor, `x.softmax(dim=a)` works along one.)
#
# $$\mathrm{attention}(q, k, v) = \mathrm{softmax}\left(\frac{q\,k^\top}{\sqrt{d}}\right) v$$

# %% claim="takes 86.7% of its own value, 1.6% of that of token 1, and 11.7% of that of token 2"
assert [round(100 * share, 1) for share in shares_of_0] == [86.7, 1.6, 11.7]


# %% exercise="04.2"
def my_attention(q, k, v):
    """Scaled dot-product attention.

    q, k, v: (..., T, d) each; the axes in front (batch, heads) may be there or not.
    Returns (..., T, d): for every query, the blend of the values.
    """
    ### BEGIN SOLUTION
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (..., T, T)
    return scores.softmax(dim=-1) @ v
    ### END SOLUTION


check("04.2", my_attention)
# hint("04.2")

# %% [markdown] solved_only=true
# **Why.** `transpose(-2, -1)` swaps the last two axes and leaves those in front alone; `@` multiplies the last two axes
# for every batch and head at once. d is the last axis of q.
#
# **The common wrong answer** uses `k.T`, which turns *all* axes round, or `softmax(dim=1)`, which is right for (T, T) and
# wrong as soon as there is a batch axis in front.

# %% [markdown]
# One query asks one question. So attention runs in **h** heads side by side, each with queries, keys and values of
# d = D / h numbers, and their outputs are joined to D numbers again. Below, the package's own, and what the CLS token takes from
# each patch of Chelsea in four heads of the trained network:

# %% definition="vit_tutorial.model.Attention"

# %%
record = record_attention(vit, images)
chosen = [(1, 2), (2, 3), (5, 2), (5, 1)]  # layer, head
maps = [record.weights[layer][0, head, 0, 1:].unflatten(0, record.grid) for layer, head in chosen]
seen = np.asarray(fit_image(photographs.chelsea(), 32).view())
names = [
    f"layer {la}, head {he}: max {m.max():.0%}" for (la, he), m in zip(chosen, maps, strict=True)
]
plots.map_row(seen, [m.numpy() for m in maps], names)

# %% [markdown]
# Heads look at different things. The first takes most from an eye, the second from the lower edge, the third from the
# forehead; the last takes a third of all it gets from the upper right corner, a bit of ear.
#
# ## The block
#
# Attention mixes what is there. Something new is made by the **MLP**: two linear layers with a bend (GELU) between, for
# each token alone. Attention and MLP are the two halves of a block. Each reads a *normalised* copy of the tokens
# (**LayerNorm**: mean 0 and variance 1 in every token) and its result is **added** to the tokens, so that a block
# has to write only what changes, and many can be stacked. The upper drawing is the one in use; the thick line is the stream of tokens.

# %% claim="takes most from an eye, the second from the lower edge, the third from the forehead"
strongest = [divmod(m.argmax().item(), 8) for m in maps]
assert strongest[0] == (3, 2)
assert maps[1][7].sum() > 0.5 * maps[1].sum()
assert maps[2][:3].sum() > 0.5 * maps[2].sum()

# %% claim="takes a third of all it gets from the upper right corner"
assert maps[3].argmax() == 7
assert 0.3 < maps[3].max() < 0.35

# %%
plots.block_wirings(["pre-norm", "post-norm"])


# %% exercise="05.4"
def my_block(x, norm1, attention, norm2, mlp):
    """One pre-norm encoder block.

    x: (B, T, D), the stream.
    norm1, attention, norm2, mlp: functions, each takes (B, T, D) and returns (B, T, D).
    Returns (B, T, D), a new tensor: x itself must stay as it is.
    """
    ### BEGIN SOLUTION
    x = x + attention(norm1(x))
    return x + mlp(norm2(x))
    ### END SOLUTION


check("05.4", my_block)
# hint("05.4")

# %% [markdown] solved_only=true
# **Why.** Each line is one plus sign of the drawing. The second reads the x that the first one made: the MLP thinks about
# what attention has just brought.
#
# **The common wrong answer** uses one norm for both halves. It runs, it trains, and it has 2D parameters too few.

# %% [markdown]
# ## The whole network, of your pieces
#
# | step | gets | returns |
# |---|---|---|
# | `patch_embed` | images (B, C, H, W) | (B, N, D) |
# | `add_cls` | (B, N, D) | (B, N + 1, D) |
# | `add_positions` | (B, N + 1, D) | (B, N + 1, D) |
# | every block of `blocks` | (B, N + 1, D) | (B, N + 1, D) |
# | `norm` | (B, N + 1, D) | (B, N + 1, D) |
# | `head`, the classifier: it reads CLS | (B, N + 1, D) | (B, classes) |


# %% exercise="06.2"
def my_vit(images, patch_embed, add_cls, add_positions, blocks, norm, head):
    """Put the pieces together, in the order of the table.

    images: (B, C, H, W).
    blocks: a list of functions; the others are one function each. All take one tensor.
    Returns the logits, (B, classes).
    """
    ### BEGIN SOLUTION
    x = add_positions(add_cls(patch_embed(images)))
    for block in blocks:
        x = block(x)
    return head(norm(x))
    ### END SOLUTION


check("06.2", my_vit)
# hint("06.2")

# %% [markdown] solved_only=true
# **Why.** CLS comes before the positions because it has one, too. The norm comes once, at the end: in a pre-norm block the
# stream itself is never normalised and has no fixed size; the norm gives the classifier one.
#
# **The common wrong answer** leaves that last norm out. Everything runs and every shape is right.

# %% [markdown]
# Whose network is it? Your functions are checked once more; in the place of one that does not pass, or that tonight left
# out, stands the package's, unless a lesson's notebook beside this one holds yours.
#
# Here is the whole of it, on one screen. The package's class holds the numbers that are learned; the computing is done by
# the pieces.

# %%
own = own_pieces(my_patchify, my_add_cls, my_add_positions, my_attention, my_block, my_vit)
print(own)

# %% [markdown] solved_only=true
# (Beside this notebook lie the solved lessons, so here all twelve count as yours.)


# %%
def own_norm(norm):
    return lambda x: own.my_layer_norm(x, norm.weight, norm.bias, norm.eps)


def own_block(block):
    qkv, proj, fc1, fc2 = block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2
    norms, h = (own_norm(block.norm1), own_norm(block.norm2)), block.attn.num_heads

    def attention(x):
        return own.my_multi_head(x, qkv.weight, qkv.bias, proj.weight, proj.bias, h)

    def mlp(x):
        return own.my_mlp(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias)

    return lambda x: own.my_block(x, norms[0], attention, norms[1], mlp)


# %%
class OwnViT(VisionTransformer):
    def forward(self, images):
        projection, classifier = self.patch_embed.proj, self.head
        return own.my_vit(
            images,
            lambda x: own.my_patch_embed(x, projection.weight, projection.bias),
            lambda x: own.my_add_cls(x, self.cls_token),
            lambda x: own.my_add_positions(x, self.pos_embed),
            [own_block(block) for block in self.blocks],
            own_norm(self.norm),
            lambda x: own.my_head(x, classifier.weight, classifier.bias, pool="cls"),
        )


# %% [markdown]
# Is it a Vision Transformer? Give it the trained numbers and Chelsea: the package's network is the judge.

# %%
trained = OwnViT(card.config).eval()
trained.load_state_dict(vit.state_dict())
with torch.inference_mode():
    ours, theirs = trained(images), vit(images)
print("it says", card.classes[ours.argmax()])
print(f"its logits differ from the package's by {(ours - theirs).abs().max().item():.0e}")

# %% [markdown]
# It is: the same logits, but for rounding. And a fresh one, for digits of 8×8 pixels, in patches of 4×4?
#
# **Predict.** It knows nothing yet, so its ten classes are about equally likely to it. The **loss** is minus the logarithm of
# the probability that it gives to the right class. How large is it?

# %% claim="It is: the same logits, but for rounding"
assert (ours - theirs).abs().max() < 1e-3

# %%
small = ViTConfig(img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4)
train, test = digits("train"), digits("test")
torch.manual_seed(0)
model = OwnViT(small)
with torch.inference_mode():
    logits = model(normalize(train.images, *channel_stats(train.images)))  # (1437, 10)
loss = F.cross_entropy(logits, train.labels).item()
print(f"loss {loss:.3f}; ln 10 = {math.log(10):.3f}")

# %% [markdown]
# Near ln 10: the logarithm of a tenth, with the sign changed. That is worth a look before every training: where the loss
# begins far from it, find out why.
#
# ## Training
#
# A step of training takes a batch of images, computes the loss, and asks for its **gradient**: for each of the network's
# numbers, whether the loss rises or falls as it grows. Then each number goes a little way downhill. An **epoch** is once
# through all images. `fit` does it, with the pieces above.
#
# **Predict.** 8 epochs of 1,437 digits. How many of 100 digits that it has never seen will be right?

# %% claim="Near ln 10"
assert abs(loss - math.log(10)) < 0.05

# %%
fixed = {"precision": "float32", "attention": "fused", "threads": 1}  # nothing is tried
config = TrainConfig(epochs=8, batch_size=64, lr=5e-3, **fixed)
rows = fit(model, train, test, config, on_epoch=LiveCurve(chance=math.log(10)))

# %% [markdown]
# Most are, more than nine in ten, after some seconds of training. The loss falls from near the dashed line, which is ln 10;
# the accuracy on the test digits rises.
#
# Photographs take longer. With `FULL = True` the next cell trains a larger network for ten minutes on the 50,000 photographs
# of CIFAR-10, if they are on this computer: on two cores ({{results.accuracy_laptop.hardware}}) it then got
# {{results.accuracy_laptop.rows[0].test_accuracy_mean:.0f}} of 100 right.

# %% claim="Most are, more than nine in ten"
assert rows[-1]["test_accuracy"] > 93

# %% claim="The loss falls from near the dashed line, which is ln 10"
assert abs(loss - math.log(10)) < 0.05
assert rows[0]["loss"] < math.log(10) - 0.2
assert rows[-1]["loss"] < rows[0]["loss"] / 2

# %%
FULL = False

if FULL:
    sets = [cifar10(split, download=False) for split in ("train", "test")]
    laptop = RECIPES["laptop"]
    torch.set_num_threads(os.cpu_count())
    large = VisionTransformer(laptop.model)
    ten_minutes = replace(laptop.train, epochs=epochs_within(10, large, *sets, laptop.train))
    fit(large, *sets, ten_minutes, on_epoch=LiveCurve(chance=math.log(10)))

# %% [markdown]
# ## Your own photograph
#
# Drag an image file into the list of files on the left, put its name between the quotation marks, and run the cell. Until
# then it shows a rocket (photograph by SpaceX, CC0). The network must name one of its ten classes: airplane,
# automobile, bird, cat, deer, dog, frog, horse, ship or truck.

# %%
MY_PHOTO = ""  # for example "my_dog.jpg"

mine = open_image(MY_PHOTO or photographs.rocket())
my_images, my_shares, my_heat, figure = explained(mine)
figure

# %% [markdown]
# The rocket is taken for a ship, and rollout says: because of the lowest row of patches, each of which it gives more than any
# other. Is it so? Ask the network. In the page below it runs live: choose *Hide patches*, brush over what is bright, and
# watch its answer; then over as many others. Drop your own picture on it, too. It stays on your computer.

# %% claim="The rocket is taken for a ship"
assert card.classes[my_shares.argmax()] == "ship"
assert my_shares.max() > 0.6

# %% claim="the lowest row of patches, each of which it gives more than any other"
assert my_heat[7].min() > 1.2 * my_heat[:7].max()

# %%
page, four = live("cifar10"), [19, 20, 27, 28]
display(page, page.figure(hidden=four))  # the second is a still picture of it
kept = torch.tensor([[i for i in range(64) if i not in four]])
with torch.inference_mode():
    cat, dog = vit(images, visible=kept).softmax(dim=1)[0, [3, 5]]
print(f"the same four patches left out: cat {cat:.0%}, dog {dog:.0%}")

# %% [markdown]
# In the still picture four patches between Chelsea's eyes are grey, and the cat has become a dog. Was it what is missing?
#
# ## A map, tested
#
# A grey square is something to see, too. Leave the tokens of the same four patches *out*, since attention takes any number of
# them, and it is a cat again (the line below the picture): what made the dog was the grey. So leaving tokens out is the fairer
# test of a map. And there is something to compare with: as many patches drawn at random, a hundred times.
#
# **Predict.** Rollout's best 12 of the 64 patches are left out, of the rocket (or of your photograph) and of Chelsea. If it
# shows what speaks for the answer, what must happen? Does it?

# %% claim="the cat has become a dog"
hidden = images.clone()
hidden[:, :, 8:16, 12:20] = 0  # the mean colour
with torch.inference_mode():
    names = [card.classes[vit(x).argmax()] for x in (images, hidden)]
assert names == ["cat", "dog"]

# %% claim="it is a cat again (the line below the picture): what made the dog was the grey"
assert abs(cat - 0.578) < 0.02
assert cat > dog + 0.2


# %%
def without(images, patches):
    """Return the probability of each class when the network gets all patches but these."""
    kept = torch.tensor([[i for i in range(64) if i not in patches]])  # (1, V)
    with torch.inference_mode():
        return vit(images, visible=kept).softmax(dim=1)[0]


def removal(images, heat):
    """Return each class's probability without the map's best 12 patches, and without random ones."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randperm(64, generator=generator)[:12].tolist() for _ in range(100)]
    best = heat.flatten().topk(12).indices.tolist()
    return without(images, best), torch.stack([without(images, draw) for draw in draws])


tested = [(MY_PHOTO or "the rocket", my_shares, *removal(my_images, my_heat))]
tested += [("Chelsea", shares, *removal(images, heat))]
for name, before, best, others in tested:
    for c in before.topk(2).indices:  # the answer, and what comes next
        print(f"{name}, {card.classes[c]}: {before[c]:.0%}, without the map's 12 {best[c]:.0%},")
        below = (others[:, c] < best[c]).sum()
        print(f"    without random 12 {others[:, c].mean():.0%}; {below} of the 100 leave less")

# %% [markdown]
# For the rocket the map passes: without those patches 4% is left of the ship's 72%, without random ones 58%. For
# Chelsea the network is *surer* of the cat than it was, and surer than after 99 of the 100 random removals. The patches
# counted, but for the *dog*: of its 27% only 4% is left, less than after any random removal. As a map of what makes it a *cat*,
# this one is wrong. Rollout asks about no class: a bright patch may speak for the answer or against it.
#
# Is there a better map of Chelsea? One that asks about the *class*: weighted by the gradient of the cat's logit, attention
# that does not raise the cat's logit counts for nothing (Chefer et al. 2021, arXiv 2103.15679).

# %% claim="4% is left of the ship's 72%, without random ones 58%"
ship, (_, before, best, others) = card.classes.index("ship"), tested[0]
assert best[ship] < 0.06
assert 0.68 < before[ship] < 0.76
assert 0.54 < others[:, ship].mean() < 0.62

# %% claim="*surer* of the cat than it was, and surer than after 99 of the 100 random removals"
_, before, best, others = tested[1]
assert best[3] > before[3] + 0.1
assert (best[3] > others[:, 3]).sum() == 99

# %% claim="of its 27% only 4% is left, less than after any random removal"
_, before, best, others = tested[1]
assert abs(before[5] - 0.268) < 0.02
assert abs(best[5] - 0.045) < 0.02
assert best[5] < others[:, 5].min()

# %%
record = record_attention(vit, images, gradients_of=lambda logits: logits[:, 3])  # 3 is cat
asked = relevance(record)[0]
best, others = (kept[..., 3] for kept in removal(images, asked))
print(f"cat without its 12: {best:.0%}, random 12: {others.min():.0%} to {others.max():.0%}")
both = [heat.numpy(), (asked / asked.sum()).numpy()]
plots.map_row(seen, both, ["rollout", "relevance for cat"])

# %% [markdown]
# Of its 12 patches 9 are others: bits of forehead, eye and nose; its strongest, on the bridge of the nose, rollout had, too.
# Without its 12 patches almost nothing of the cat is left, less
# than after any of the hundred random removals. For this photograph it passes.
#
# So that is how one notices. A map is not tested by looking at it, and a nose is believable. Take away what it marks, ask the
# network, and compare with chance. And on many images: one photograph proves nothing about a method.
#
# ## Where to go on
#
# | to | lesson |
# |---|---|
# | write the pieces that tonight were the package's, and prove all of them right | [01](01_images_to_patches.ipynb) to [06](06_the_vision_transformer.ipynb) |
# | know from its curve what is wrong with a training | [07](07_training.ipynb) |
# | follow every head of every layer | [08](08_looking_inside.ipynb) |
# | test maps on many images, and see which methods pass | [09](09_is_the_map_right.ipynb) |
# | compare a ViT with a convolutional network | [10](10_vit_and_cnn.ipynb) |
# | train a network on photographs of your own | [11](11_transfer_learning.ipynb) |
# | make it smaller and faster, learn without labels, train large ones | [12](12_smaller_and_faster.ipynb), [13](13_without_labels.ipynb), [14](14_scaling_out.ipynb) |

# %% claim="Without its 12 patches almost nothing of the cat is left, less than after any"
assert best < 0.05
assert best + 0.04 < others.min()

# %% claim="Of its 12 patches 9 are others: bits of forehead, eye and nose; its strongest, on the bridge"
theirs, ours = ([*map(int, m.flatten().topk(12).indices)] for m in (heat, asked))
assert len({*ours} - {*theirs}) == 9
assert {divmod(i, 8) for i in ours} >= {(1, 4), (2, 2), (6, 4)}
assert divmod(ours[0], 8) == (5, 4)
assert ours[0] in theirs
