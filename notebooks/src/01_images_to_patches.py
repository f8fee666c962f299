# %% [markdown]
# # 01 · Images to patches
#
# **A Transformer reads a sequence of vectors. How does a photograph become one, and what is given up on
# the way?**
#
# A Vision Transformer begins with this step, and hardly anything after it knows that the numbers were once an
# image. It is short: one line of code, once it is understood. It is also where a mistake hides best, because
# the shapes come out right and no error is raised.
#
# **You will**
#
# - see a photograph as numbers, and one patch as one vector,
# - cut images into patches with a loop, with `reshape` and `permute`, and with einops,
# - put the picture back together, and prove that nothing was lost,
# - see what a plain `reshape` makes of a cat, and mend it,
# - count what a patch size costs, on a picture of your own,
# - normalise pixels with the right numbers, and meet the wrong ones that many scripts use.

# %% [markdown]
# ## A photograph is a block of numbers
#
# Chelsea again (photograph by Stéfan van der Walt, public domain), as an array.

# %%
import numpy as np
import torch
from einops import rearrange
from skimage import data as photographs
from torch import Tensor

from vit_tutorial import fit_image, open_image, plots

photo = open_image(photographs.chelsea())
array = np.asarray(photo)
print(array.shape, array.dtype, "from", array.min(), "to", array.max())

# %% [markdown]
# Height, width, and three **channels**: how red, how green and how blue each pixel is, as a whole number
# from 0 to 255 (the type `uint8`, one byte). PyTorch puts the channels first. We call the lengths of the
# axes **C** (channels), **H** (height) and **W** (width).

# %%
image = fit_image(photo, 32).pixels  # (C, H, W)
C, H, W = image.shape
print(f"C = {C}, H = {H}, W = {W}: {image.numel():,} numbers of type {image.dtype}")

# %% [markdown]
# A **patch** is a square block of pixels with all of its channels. Its side is **P** pixels; here P = 4.
# This one holds a corner of Chelsea's right eye:

# %%
P = 4
eye = image[:, 8:12, 8:12]  # (C, P, P)
plots.patch_numbers(eye.numpy())

# %% [markdown]
# The row at the bottom is all that the network will get of it: a vector of C·P·P numbers. First channel 0,
# row by row, then channel 1, then channel 2. It does not say that number 0 and number 4 were neighbours in
# the picture, or that 0, 16 and 32 belong to the same pixel.
#
# **Predict.** We cut the 32×32 pixels into patches of 4×4. How many patches are there? Taken together, do
# they hold more numbers than the image, fewer, or as many?

# %%
rows, columns = H // P, W // P
N = rows * columns
print(f"{rows} rows × {columns} columns = {N} patches of {C * P * P} numbers")
print(f"all patches: {N * C * P * P:,} numbers; the image: {image.numel():,}")

# %% [markdown]
# With **N** for the number of patches:
#
# $$N = \frac{H}{P}\cdot\frac{W}{P}, \qquad N \cdot C P^2 = C\,H\,W .$$
#
# So cutting neither adds nor loses a number; it only gives the numbers another order. And both divisions
# must come out whole.


# %% exercise="01.1"
def count_patches(height, width, patch_size):
    """Count the patches of an image, in both directions.

    height, width, patch_size: whole numbers of pixels; the image need not be square.
    Returns (rows, columns) of the grid of patches, two whole numbers.
    Raises ValueError where the patches do not fill the image exactly.
    """
    ### BEGIN SOLUTION
    if height % patch_size or width % patch_size:
        raise ValueError(f"{patch_size} does not divide both {height} and {width}")
    return height // patch_size, width // patch_size
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("01.1", count_patches)
# hint("01.1")

# %% [markdown] solved_only=true
# **Why.** Each side is cut on its own, so each must be a multiple of P. Without the `raise`, `//` rounds
# down and the last rows and columns of pixels are lost without a word; further down you will see a
# convolution do exactly that.
#
# **The common wrong answer** looks at the area: `height * width % patch_size**2`. An image of 2×8 pixels
# has the area of a 4×4 patch, but no such patch fits into it.

# %% [markdown]
# ## The order of the patches
#
# Patches are counted row by row, from 0, like the words on a page.
#
# **Predict.** On this grid of 8×8 patches, which number has the patch right below number 27?

# %%
plots.patch_grid(image.permute(1, 2, 0).numpy(), patch_size=P)

# %% [markdown]
# 35. Left and right neighbours are next to each other in the sequence, but a patch and the one below it are a
# whole row apart, here 8. With row r and column s:
#
# $$i = r \cdot \text{columns} + s, \qquad r = \lfloor i / \text{columns} \rfloor, \qquad
# s = i \bmod \text{columns}.$$


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


# %%
check("01.2", cut_patch)
# hint("01.2")

# %% [markdown] solved_only=true
# **Why.** One row of the grid holds W / P patches. Dividing the index by that gives the row and leaves the
# column. Both count patches; times P, they count pixels.
#
# **The common wrong answer** divides by the number of rows, H / P. On square images nobody notices.

# %% [markdown]
# ## All patches, with a loop
#
# The most honest way: go through the image, cut, flatten, collect.


# %%
def patches_by_loop(image, patch_size):
    """Cut one image, (C, H, W) -> (N, C*P*P)."""
    patches = []
    for top in range(0, image.shape[1], patch_size):
        for left in range(0, image.shape[2], patch_size):
            block = image[:, top : top + patch_size, left : left + patch_size]
            patches.append(block.flatten())
    return torch.stack(patches)


print(tuple(patches_by_loop(image, P).shape))

# %% [markdown]
# That is right, and slow: Python takes one small step after the other, for every patch of every image. PyTorch
# can move all the numbers of a batch in a single step.
#
# ## All patches, without a loop
#
# To see how, take an "image" of one channel and 4×4 pixels. Its numbers say where each pixel was.

# %%
tiny = torch.arange(16).reshape(4, 4)
tiny

# %% [markdown]
# We want four patches of 2×2, each as one row: `[0 1 4 5]`, `[2 3 6 7]`, and so on.
#
# **Predict.** `tiny.reshape(2, 2, 4)` cuts the 16 numbers into a 2×2 grid of portions of four. Is its first
# portion the first patch?

# %%
tiny.reshape(2, 2, 4)[0, 0]

# %% [markdown]
# A `reshape` never moves a number. It reads them in their order and sets the brackets anew. The four numbers
# of a patch, 0 1 4 5, are not one piece in that order, so something has to move. Three steps do it:
#
# 1. **Split** each side in two axes: which patch, and which pixel in it. The height becomes (r, p), patch
#    row and pixel row; the width becomes (s, q), patch column and pixel column.
# 2. **Swap** axes, so that those that say *which patch* stand in front: (r, p, s, q) to (r, s, p, q). Only
#    this step changes the order.
# 3. **Merge** (r, s) to the number of the patch, and (p, q) to the number in it.

# %%
split = tiny.reshape(2, 2, 2, 2)  # (r, p, s, q)
swapped = split.permute(0, 2, 1, 3)  # (r, s, p, q)
merged = swapped.reshape(4, 4)  # (r s, p q)
owner = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3])
tables = [tiny.numpy(), tiny.reshape(4, 4).numpy(), merged.numpy()]
plots.number_tables(
    tables, owner, ["the image", "reshape alone", "split, swap, merge"], row_name="vector"
)

# %% [markdown]
# In the middle, every vector holds one row of pixels, half from one patch and half from its neighbour. On
# the right, each holds one patch.
#
# Now for real images. There are two more axes: the channels, and in front of all the **batch**, because a
# network reads several images at once. **B** is how many.


# %% exercise="01.3"
def my_patchify(images, patch_size):
    """Cut images into flat patches, without a loop over patches.

    images: (B, C, H, W); patches of patch_size fit exactly.
    Returns (B, N, C*P*P): patches row by row; in a patch channel 0 first, row by row, then channel 1 ...
    """
    ### BEGIN SOLUTION
    B, C, H, W = images.shape
    P = patch_size
    split = images.reshape(B, C, H // P, P, W // P, P)  # (B, C, r, p, s, q)
    swapped = split.permute(0, 2, 4, 1, 3, 5)  # (B, r, s, C, p, q)
    return swapped.reshape(B, (H // P) * (W // P), C * P * P)
    ### END SOLUTION


# %%
check("01.3", my_patchify)
# hint("01.3")

# %% [markdown] solved_only=true
# **Why.** Split, swap, merge, as on the tiny table. The swap brings (r, s), which say which patch, behind
# the batch, and (C, p, q), which say which number in the patch, to the end. The last step must be `reshape`
# and not `view`: after `permute` the numbers lie in memory in another order than the axes say, and only
# `reshape` may copy them.
#
# **The common wrong answer** is `permute(0, 1, 2, 4, 3, 5)`, which leaves the channels in front of the
# patches. The shape is right, but instead of one patch in three channels, a vector now holds three patches in
# one channel.

# %% [markdown]
# ## The same, said in one line
#
# `rearrange` from the einops library does split, swap and merge in one step, written as a pattern: brackets
# on the left split an axis, brackets on the right merge axes, and the order of the names is the order of the
# axes.

# %%
rearrange(tiny, "(r p) (s q) -> (r s) (p q)", p=2, q=2)

# %% [markdown]
# The pattern is code and explanation at once; this course uses such patterns as comments, too. Here is the
# package's own function. From now on the notebook uses it.

# %% definition="vit_tutorial.model.patchify"

# %% [markdown]
# ## Is it right?
#
# Two references that share no line with it: our loop, and PyTorch's `unfold`, which cuts windows out of
# images for its own purposes. The images are not square, there are two of them, and they are random, so that
# no mix-up can go unnoticed. `rtol=0, atol=0` asks for equality to the last bit.

# %%
import torch.nn.functional as F

torch.manual_seed(0)
noise = torch.randn(2, 3, 32, 48)  # (B, C, H, W)
patches = patchify(noise, 4)
by_loop = torch.stack([patches_by_loop(one, 4) for one in noise])
by_unfold = F.unfold(noise, kernel_size=4, stride=4).transpose(1, 2)
torch.testing.assert_close(patches, by_loop, rtol=0, atol=0)
torch.testing.assert_close(patches, by_unfold, rtol=0, atol=0)
print("three ways, one result:", tuple(patches.shape))

# %% [markdown]
# And the images of a batch do not touch each other: image 1 cut alone gives what it gives in the batch.

# %%
torch.equal(patchify(noise[1:2], 4)[0], patches[1])

# %% [markdown]
# **Predict.** How much faster is it than the loop, for a 224×224 image in patches of 8×8?

# %%
from timeit import repeat

large = fit_image(photo, 224).pixels[None]  # (1, 3, 224, 224)
threads = torch.get_num_threads()
torch.set_num_threads(1)  # a fair race: one against one
slow = min(repeat(lambda: patches_by_loop(large[0], 8), number=1, repeat=50))
fast = min(repeat(lambda: patchify(large, 8), number=1, repeat=50))
torch.set_num_threads(threads)
print(f"about {slow / fast:.0f} times faster")

# %% [markdown]
# ## Back to the picture
#
# If nothing is lost, there must be a way back. It takes the three steps in reverse. The patches alone do not
# tell how wide the picture was (64 patches may be 8×8 or 4×16), so the grid must be given. Guessing it as
# the square root of N is a common mistake, and it breaks on the first photograph that is not square.


# %% exercise="01.4"
def my_unpatchify(patches, patch_size, grid):
    """Put flat patches back together, undoing patchify.

    patches: (B, N, C*P*P), in the order of patchify; any number of channels.
    grid: (rows, columns) of patches.
    Returns images, (B, C, H, W).
    """
    ### BEGIN SOLUTION
    B, P = len(patches), patch_size
    rows, columns = grid
    split = patches.reshape(B, rows, columns, -1, P, P)  # (B, r, s, C, p, q)
    swapped = split.permute(0, 3, 1, 4, 2, 5)  # (B, C, r, p, s, q)
    return swapped.reshape(B, -1, rows * P, columns * P)
    ### END SOLUTION


# %%
check("01.4", my_unpatchify)
# hint("01.4")

# %% [markdown] solved_only=true
# **Why.** Split N into (r, s) and the vector into (C, p, q). Before two axes can merge they must be
# neighbours in the right order: r before p makes the height, s before q the width. The `-1` lets PyTorch
# find the number of channels.
#
# **The common wrong answer** reshapes to (B, C, H, W) straight away. Its shape is right; it is the same
# scramble as the plain `reshape` on the way in, as you will see in a moment.

# %% definition="vit_tutorial.model.unpatchify"

# %% [markdown]
# Both ways round, to the last bit:

# %%
restored = unpatchify(patches, 4, grid=(8, 12))
print("images -> patches -> images:", torch.equal(restored, noise))
print("patches -> images -> patches:", torch.equal(patchify(restored, 4), patches))

# %% [markdown]
# Between the two you can work on patches as if they were words. Here three quarters of them, chosen at
# random, are wiped out. Could you say what is missing? Lesson 13 has a network learn just that.

# %%
torch.manual_seed(0)
cut = patchify(large, 16)  # (1, 196, 768)
cut[0, torch.randperm(196)[:147]] = 225
wiped = unpatchify(cut, 16, grid=(14, 14))[0]
views = [one.permute(1, 2, 0).numpy() for one in (large[0], wiped)]
plots.photo_row(views, ["196 patches", "49 of them left"])

# %% [markdown]
# ## What a plain reshape does
#
# Somebody in a hurry writes `images.reshape(B, N, C * P * P)`. The shape is right, no error is raised, and
# it is the fastest way of all.
#
# **Predict.** Patch 0 should be the square in the upper left corner, in all three channels. Which 48 numbers
# does the plain `reshape` take?
#
# To find out, we cut not the picture but its *places*: an image in which every number says where it stands.

# %%
places = torch.arange(C * H * W).reshape(1, C, H, W)
right = patchify(places, P)[0]  # (64, 48)
plain = places.reshape(1, N, C * P * P)[0]
plots.patch_sources(
    image.numpy(), [right[0], plain[0]], ["patchify", "plain reshape"], subject="patch 0"
)

# %% [markdown]
# A stripe: one and a half rows of pixels, in the red channel alone. So "patch 0" knows nothing of green and
# blue, and its last 16 numbers come from half a row. The channels tell it without a picture:


# %%
def channels_in(patch):
    return sorted(set((patch // (H * W)).tolist()))


for i in (0, 27, 63):
    print(f"patch {i:2}: patchify {channels_in(right[i])}, plain reshape {channels_in(plain[i])}")

# %% [markdown]
# **Predict.** We cut 96×96 pixels into 36 patches of 16×16, in both ways, and lay them back with `unpatchify`.
# What will the plain ones look like: unrecognisable, striped, or almost right?

# %%
medium = fit_image(photo, 96).pixels[None]  # (1, 3, 96, 96)
stripes = medium.reshape(1, 36, 768)
both = [unpatchify(cut, 16, grid=(6, 6))[0] for cut in (patchify(medium, 16), stripes)]
plots.photo_row(
    [one.permute(1, 2, 0).numpy() for one in both], ["from patchify", "from a plain reshape"]
)

# %% [markdown]
# Stripes in false colours: each "patch" is a stripe of one channel, and a third of it is now taken for red, a
# third for green and a third for blue. The upper third of the picture was the red channel, the middle the green,
# the lower the blue.
#
# How would you have noticed? Not by the shape. A popular test is the round trip, there and back.
#
# **Predict.** Does a round trip with its own way back, another `reshape`, expose the plain `reshape`?

# %%
print("same shape:     ", stripes.shape == patchify(medium, 16).shape)
print("own round trip: ", torch.equal(stripes.reshape(medium.shape), medium))
print("equal to a loop:", torch.equal(stripes[0], patches_by_loop(medium[0], 16)))
print("our way back:   ", torch.equal(unpatchify(stripes, 16, grid=(6, 6)), medium))

# %% [markdown]
# Only the last two tell. A mistake that is undone by the same mistake leaves no trace: a proof needs a
# reference that was written *independently*. Every proof in this course has one.
#
# The good news is in the second line: nothing is lost yet.


# %% exercise="01.5"
def mend(stripes, patch_size, grid):
    """Repair patches that were made by a plain reshape.

    stripes: (B, N, C*P*P), made by images.reshape(B, N, C*P*P); the images are gone.
    grid: (rows, columns) of patches that the images hold.
    Returns what patchify would have made of the images, (B, N, C*P*P).
    """
    ### BEGIN SOLUTION
    rows, columns = grid
    images = stripes.reshape(len(stripes), -1, rows * patch_size, columns * patch_size)
    return patchify(images, patch_size)
    ### END SOLUTION


# %%
check("01.5", mend)
# hint("01.5")

# %% [markdown] solved_only=true
# **Why.** A `reshape` moves no number, so a `reshape` undoes it. What was the image before is the image
# again, and can be cut as it should have been.
#
# **The common wrong answer** calls `unpatchify` first. But that undoes a `patchify`, which the stripes never
# saw: it moves numbers that had not been moved.

# %% [markdown]
# ## What the network is given
#
# The patches leave for the network as a sequence, one after the other. Before you look at such a sequence,
# make the picture of one.


# %% exercise="01.6"
def one_row(image, patch_size):
    """Lay all patches of an image side by side, as one long picture.

    image: (C, H, W); patches of patch_size fit exactly.
    Returns (C, P, N*P): patch 0 at the left, then patch 1, and so on.
    """
    ### BEGIN SOLUTION
    P = patch_size
    return rearrange(image, "c (r p) (s q) -> c p (r s q)", p=P, q=P)
    ### END SOLUTION


# %%
check("01.6", one_row)
# hint("01.6")

# %% [markdown] solved_only=true
# **Why.** The height of the result is one patch, p. Its width runs through the rows of the grid, in each
# through its columns, and in each patch through the pixel columns: r, s, q, from slow to fast. As s and q
# together are the width, `"c (r p) w -> c p (r w)"` does the same.
#
# **The common wrong answer** cuts with `patchify` and reshapes the (N, C*P*P) numbers to (C, P, N*P). One
# row of pixels of the result runs through *all* patches, so an axis must be moved.

# %% [markdown]
# **Predict.** Here is a photograph that this lesson has not shown, all 25 patches of it. What is in it?

# %%
secret = open_image(photographs.astronaut())
pixels = fit_image(secret, 80).pixels  # (3, 80, 80)
blocks = rearrange(patchify(pixels[None], 16)[0], "n (c p q) -> n p q c", c=3, p=16)
plots.patch_row(blocks.numpy())

# %%
plots.photo_row([np.asarray(secret)], ["the photograph"])

# %% [markdown]
# The astronaut Eileen Collins (photograph by NASA, public domain). What was a glance has become a puzzle,
# and the network has less than you had: you still saw each patch as a small *picture*. This is what is given
# up:
#
# - **Where a patch was.** It only has a number in the row, and lesson 03 will show that the network does not
#   read even that, unless positions are added.
# - **Which pixels are neighbours inside a patch.** A vector has no inside. A cell among the questions below
#   proves that the next layer does not notice their order.
# - **What goes on across a border.** The pixels on both sides of a cut are now in different vectors.
#
# A convolutional network has all three built in: it looks at neighbours, everywhere alike. A ViT has to
# learn from examples that neighbours belong together. That is its freedom, and the reason why it needs many
# examples (lesson 10). How much it has to learn depends on one number, P.

# %% [markdown]
# ## How many patches, and what they cost
#
# The sequence has **T** tokens: the N patches, and one more that lesson 02 adds, so T = N + 1. In every layer,
# each token looks at each (lesson 04): T² pairs, a table of T × T numbers for each head.
#
# **Predict.** We halve P. By how much do T and T² grow?

# %%
sizes = [1, 2, 4, 8, 16, 32]  # P
tokens = [(224 // side) ** 2 + 1 for side in sizes]
plots.token_cost(sizes, tokens, "A 224×224 image: smaller patches, more tokens, many more pairs")

# %% [markdown]
# Half the patch size means about four times the tokens and sixteen times the pairs, wherever you start: on
# these scales the lines are straight. Large patches are cheap, but each must be described by one token, however
# much is in it.
#
# **Play.** With a picture of yours: drag a file into the list of files on the left, and put its name between
# the quotation marks. Until then it is a cup of coffee (photograph by Rachel Michetti, CC0). Move the sliders
# and find, for the shuffled order, the largest patch size at which you can no longer tell what you see.

# %%
MY_PHOTO = ""  # for example "my_dog.jpg"

mine = open_image(MY_PHOTO or photographs.coffee())
size = (224, 336) if mine.width >= mine.height else (336, 224)
twice = fit_image(mine, (2 * size[0], 2 * size[1])).pixels.permute(1, 2, 0).numpy()


def draw(patch_size, order="as it was"):
    rows, columns = size[0] // patch_size, size[1] // patch_size
    n = rows * columns
    places = np.random.default_rng(0).permutation(n) if order == "shuffled" else range(n)
    words = (
        f"Patches of {patch_size}×{patch_size} pixels: {rows}×{columns} = {n:,} patches of "
        f"{3 * patch_size**2:,} numbers; with T = {n + 1:,} tokens, {(n + 1) ** 2:,} pairs."
    )
    return plots.cut_up(twice, 2 * patch_size, places), words  # drawn at twice its size


# %%
from vit_tutorial import flipbook

options = [4, 7, 8, 14, 16, 28, 56, 112]
flipbook(draw, patch_size=options, order=["as it was", "shuffled"], start={"patch_size": 16})

# %% [markdown]
# Some of its pictures, for those who read without a running kernel:

# %%
settings = [(56, "shuffled"), (14, "shuffled")]
stills = [draw(*setting) for setting in settings]
print("\n".join(words for _, words in stills))
plots.photo_row([still for still, _ in stills], [f"P = {p}, {order}" for p, order in settings])

# %% [markdown]
# Shuffled large patches can still be guessed: each shows a thing. Shuffled small ones are a heap of colours.
# The smaller the patches, the more of the picture lies in *how they stand*, and the more the network depends
# on positions.
#
# ## Sizes that do not fit
#
# Images need not be square: the grid simply has other numbers of rows and columns. But both sides must be
# multiples of P.
#
# **Predict.** The photograph of Chelsea has 300×451 pixels. What does `patchify` say to patches of 64×64?
# And what does a convolution with stride 64, which many implementations use instead?

# %%
whole = torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float()  # (1, 3, 300, 451)
try:
    patchify(whole, 64)
except ValueError as error:
    print("patchify:", error)

convolution = torch.nn.Conv2d(3, 1, kernel_size=64, stride=64)
print("convolution: no error, a grid of", tuple(convolution(whole).shape[2:]))

# %% [markdown]
# It covers 4·64 = 256 rows of pixels and 7·64 = 448 columns. The rest it never reads: paint it black, and the
# result is the same.

# %%
painted = whole.clone()
painted[:, :, 256:] = painted[..., 448:] = 0
torch.equal(convolution(whole), convolution(painted))

# %% [markdown]
# So choose what is to happen, instead of letting it happen. `fit_image` knows three ways to a size that fits,
# here 256×256. The crossed-out pixels are those that no patch covers.

# %%
choices = ("crop", "pad", "resize")
fits = [fit_image(photo, 256, fit=fit).pixels for fit in choices]
plots.patch_cover(
    [array, *(one.permute(1, 2, 0).numpy() for one in fits)],
    64,
    ["left to a convolution", *(f'fit="{fit}"' for fit in choices)],
)

# %% [markdown]
# Cropping loses the sides, padding spends patches on grey, and stretching changes proportions. For
# classification, cropping is usual; where every part counts, pad. Or keep the photograph's proportions, as we
# did above: `fit_image(photo, (256, 384))` makes a grid of 4×6.

# %% [markdown]
# ## From bytes to numbers around zero
#
# Networks are set up for numbers around 0 with a spread around 1. Pixels are bytes, and bytes are a trap:

# %%
brightest = torch.tensor([200], dtype=torch.uint8)
print("200 + 100 =", (brightest + 100).item())

# %% [markdown]
# Beyond 255 they start again from 0, without a warning. So first come floats, then arithmetic:
#
# $$x = \frac{\text{pixel} / 255 - \text{mean}}{\text{std}}$$
#
# One mean and one standard deviation (std) for each channel, measured **once, over all pixels of the
# training images**, and used unchanged ever after, at test time too. `normalize` does it. It belongs between
# the two steps that you know: after the image has its size and while it still is bytes, before it is cut.

# %%
from vit_tutorial import load_checkpoint, normalize

vit, card = load_checkpoint("cifar10")
print("mean", card.mean, " std", card.std)
ready = normalize(image[None], card.mean, card.std)  # float32 (1, 3, 32, 32)
print(ready.dtype, f"from {ready.min():.2f} to {ready.max():.2f}")

# %% [markdown]
# Over *all pixels*: that is where many go wrong. There is more than one "standard deviation of a set of
# images".


# %% exercise="01.7"
def channel_std(images):
    """Measure the standard deviation of each channel over all pixels of all images.

    images: uint8 (B, C, H, W).
    Returns (C,), in units of 0 to 1, that is, of pixel / 255.
    """
    ### BEGIN SOLUTION
    return (images / 255).std(dim=(0, 2, 3))
    ### END SOLUTION


# %%
check("01.7", channel_std)
# hint("01.7")

# %% [markdown] solved_only=true
# **Why.** All pixels of one channel are one heap of numbers, whichever image they come from, so the batch,
# the height and the width go in a single step. `images / 255` makes floats of the bytes.
#
# **The common wrong answer** takes the std of each image, `dim=(2, 3)`, and averages. That measures how
# pixels differ *inside* an image, and forgets that some images are bright and others dark.

# %% [markdown]
# To see both numbers, we need many small images. `patchify` makes 256 of them from four photographs.

# %%
from vit_tutorial.data import channel_stats

names = ("chelsea", "astronaut", "coffee", "rocket")
four = torch.stack([fit_image(getattr(photographs, name)(), 256).pixels for name in names])
tiles = rearrange(patchify(four, 32), "b n (c p q) -> (b n) c p q", c=3, p=32)
mean, std = channel_stats(tiles)
single = (tiles / 255).std(dim=(2, 3)).mean(dim=0).tolist()
print("of all pixels:           ", [round(value, 3) for value in std])
print("mean over single images: ", [round(value, 3) for value in single])

# %% [markdown]
# For CIFAR-10 a widespread triple of numbers is the wrong kind. **Predict.** Pixels divided by it: what std do
# they get, instead of 1?

# %%
widespread = (0.2023, 0.1994, 0.2010)
for name, true, used in zip(("red", "green", "blue"), card.std, widespread, strict=True):
    print(f"{name:5}: std of the pixels {true:.4f}, divided by {used:.4f} gives {true / used:.2f}")

# %% [markdown]
# A quarter too much. A network can be trained with it all the same. It is worse when training and use do not
# match: here is the bundled network for digits, on its 360 test images.
#
# **Predict.** The pixels come as in training; with a std that is 25% off; only scaled to 0 to 1; as raw bytes,
# 0 to 255; or upside down, light for dark. Which costs little, which a lot?

# %%
from vit_tutorial.data import digits

digits_vit, digits_card = load_checkpoint("digits")
test = digits("test")
pixels = test.images.float()
right_way = normalize(test.images, digits_card.mean, digits_card.std)
ways = {"as in training": right_way, "std 25% off": right_way * 1.25, "0 to 1": pixels / 255}
ways |= {"0 to 255": pixels, "upside down": (255 - pixels) / 255}
for way, inputs in ways.items():
    with torch.no_grad():
        hits = digits_vit(inputs).argmax(dim=1) == test.labels
    print(f"{way:15}{hits.float().mean():6.1%} right")

# %% [markdown]
# A network reads numbers, and it believes them. None of these ways raised an error.
#
# ## What we now have
#
# | what | shape | here |
# |---|---|---|
# | image file | (H, W, C), uint8 | (300, 451, 3) |
# | images, cropped, channels first | (B, C, H, W), uint8 | (1, 3, 32, 32) |
# | images, normalised | (B, C, H, W), float32 | (1, 3, 32, 32) |
# | patches, N = (H/P)·(W/P) | (B, N, C·P·P) | (1, 64, 48) |
# | grid of patches | (rows, columns) = (H/P, W/P) | (8, 8) |
#
# The patches hold exactly the numbers of the image, in an order in which each patch is one vector. Lesson 02
# turns these vectors into tokens.
#
# ## The questions people ask
#
# ### Why patches, and not pixels?
#
# With pixels as tokens nothing would have to be cut. But count the pairs of a 224×224 image, for *one* head of
# *one* layer:

# %%
pairs = torch.stack([large[..., :-1].flatten(), large[..., 1:].flatten()]).float()
print(f"correlation of neighbouring pixels in Chelsea: {torch.corrcoef(pairs)[0, 1]:.2f}")
for name, side in (("patches of 16×16", 16), ("pixels", 1)):
    T = (224 // side) ** 2 + 1
    print(f"{name:17} T = {T:6,}  T² = {T**2:13,}  as float32: {4 * T**2 / 1e6:8,.1f} MB")

# %% [markdown]
# Ten gigabytes for one table, and a ViT-B has 12 heads in each of 12 layers. (Attention can be computed without
# ever storing the table, as lesson 04 shows, but every number in it must still be computed.) And it would be
# spent on comparing like with like: one pixel nearly tells its neighbour.
#
# ### Is it 16×16 patches, or patches of 16×16?
#
# The title of the paper says "An Image is Worth 16x16 Words" (Dosovitskiy et al. 2020, arXiv 2010.11929). Its
# networks ViT-B/16 and ViT-L/16 cut 224×224 pixels into patches **of 16×16 pixels**:

# %%
cut = patchify(large, 16)
print(f"{224 // 16}×{224 // 16} = {cut.shape[1]} patches, each of 3·16·16 = {cut.shape[2]} numbers")

# %% [markdown]
# So the number after the slash is the side of a patch, in pixels; the number of patches follows from the size
# of the image. ("A sequence of length 14×14×3" is a common mistake: the channels are inside the vectors.)
#
# ### My images have 32×32 pixels. May I use patches of 16×16?
#
# You may. But count:

# %%
plots.patch_grid(image.permute(1, 2, 0).numpy(), patch_size=16)

# %% [markdown]
# Four tokens. There is hardly anything to compare, and each must stand for a quarter of the image. The settings
# of a paper belong to its image size; small images need small patches.
#
# ### Does it help to enlarge 32×32 images to 224×224?
#
# It is often done, so that a network built for 224×224 can be used. How many numbers does the image have then?

# %%
enlarged = F.interpolate(image[None].double(), size=224, mode="bilinear")
print(f"{enlarged.numel():,}, {enlarged.numel() // image.numel()} times as many as before")

# %% [markdown]
# But there is no new information in them. Enlarging multiplies rows and columns by a fixed matrix M of shape
# 224×32. Its rank is 32: what comes out has as many degrees of freedom as what went in, and we get the 32×32
# pixels back, up to rounding:

# %%
M = F.interpolate(torch.eye(32, dtype=torch.float64)[None], size=224, mode="linear")[0].T
torch.testing.assert_close(M @ image.double() @ M.T, enlarged[0])
back = torch.linalg.pinv(M) @ enlarged[0] @ torch.linalg.pinv(M).T
error = (back - image).abs().max()
print(f"rank {torch.linalg.matrix_rank(M)}, largest error {error:.0e} of 255")

# %% [markdown]
# A network that was trained at 224×224 may still need it, as it knows things at that size (lesson 11). For
# training from scratch it buys nothing: should you want many tokens, cut the 32×32 pixels into patches of 2×2.
# That makes 256, more than the 196 of the enlarged image, from 49 times fewer numbers.
#
# ### Does the order of the numbers inside a patch matter?
#
# Only that it is always the same. What comes next is a linear layer, a weighted sum of the 48 numbers (lesson
# 02). Shuffle the numbers of every patch in one fixed way and the weights along with them, and nothing changes:

# %%
torch.manual_seed(0)
flat, weight = patchify(noise, 4).double(), torch.randn(192, 48, dtype=torch.float64)
shuffle = torch.randperm(48)
torch.testing.assert_close(flat[..., shuffle] @ weight[:, shuffle].T, flat @ weight.T)
print("the same tokens")

# %% [markdown]
# So the network does not know which pixels of a patch are neighbours; it can only find out. Trained weights
# belong to one order, though, and must be used with that. The order here, channels first, is that of the weights
# of a convolution, as lesson 02 will use.
#
# ## A stretch
#
# Patches may overlap. `F.unfold(images, kernel_size=8, stride=4)` cuts patches of 8×8 that begin every 4 pixels.
# How many are there on a 32×32 image, and how many numbers in all? Put the picture back: `F.fold` *adds* where
# patches overlap, so divide by what it makes of patches full of ones. What would such patches cost a ViT, and
# which of the three things that were given up would they give back?
