# %% [markdown]
# # 01 · Images to patches
#
# **A Transformer reads a sequence of vectors. How does a photograph become one, and what is given up on
# the way?**
#
# It is one line of code, once it is understood. It is also where a mistake hides best, because the shapes come
# out right and no error is raised. So you will cut photographs into patches yourself, and see what a wrong cut
# makes of a cat.

# %%
from vit_tutorial import plots

plots.network_map("patches")

# %% [markdown]
# ## A photograph is a block of numbers
#
# Chelsea again (photograph by Stéfan van der Walt, CC0), as an array.

# %%
import numpy as np
import torch
from einops import rearrange
from skimage import data as photographs
from torch import Tensor

from vit_tutorial import fit_image, open_image
from vit_tutorial.lessons import check, hint

photo = open_image(photographs.chelsea())
array = np.asarray(photo)
print(array.shape, array.dtype, "from", array.min(), "to", array.max())

# %% [markdown]
# Height, width, and three **channels**: how red, how green and how blue each pixel is, as a whole number
# from 0 to 255 (the type `uint8`, one byte). PyTorch puts the channels first. We call the lengths of the
# axes **C** (channels), **H** (height) and **W** (width).

# %% claim="Height, width, and three **channels**"
assert array.shape == (300, 451, 3)
assert array.dtype == np.uint8

# %%
image = fit_image(photo, 32).pixels  # (C, H, W)
C, H, W = image.shape
print(f"C = {C}, H = {H}, W = {W}: {image.numel():,} numbers of type {image.dtype}")

# %% [markdown]
# A **patch** is a square block of pixels with all of its channels. Its side is **P** pixels; here P = 4.
# This one holds a piece of the eye that is on the left in the picture:

# %% claim="a piece of the eye that is on the left in the picture"
assert image[:, 8:12, 8:12].float().mean() < 0.75 * image.float().mean()

# %%
P = 4
eye = image[:, 8:12, 8:12]  # (C, P, P)
plots.patch_numbers(eye.numpy())

# %% [markdown]
# The row at the bottom is all that the network will get of it: a vector of C·P·P = 48 numbers. First channel 0,
# row by row, then channel 1, then channel 2. It does not say that number 0 and number 4 were neighbours in
# the picture, or that 0, 16 and 32 belong to the same pixel.
#
# Cut the whole image in this way, and there are **N** patches:
#
# $$N = \frac{H}{P}\cdot\frac{W}{P}, \qquad N \cdot C P^2 = C\,H\,W .$$
#
# Cutting neither adds nor loses a number; it only gives the numbers another order.

# %% claim="number 0 and number 4 were neighbours in the picture, or that 0, 16 and 32"
row = eye.flatten()
assert [row[0], row[4]] == [eye[0, 0, 0], eye[0, 1, 0]]
assert row[[0, 16, 32]].tolist() == eye[:, 0, 0].tolist()

# %% claim="First channel 0, row by row, then channel 1, then channel 2."
assert eye.flatten().tolist() == [v for one in eye for line in one for v in line.tolist()]

# %%
rows, columns = H // P, W // P
N = rows * columns
print(f"{rows} rows × {columns} columns = {N} patches of {C * P * P} numbers")
print(f"all patches: {N * C * P * P:,} numbers; the image: {image.numel():,}")

# %% [markdown]
# As many numbers in both. Patches are counted row by row, from 0, like the words on a page.

# %% claim="As many numbers in both."
assert N * C * P * P == image.numel()

# %%
plots.patch_grid(image.permute(1, 2, 0).numpy(), patch_size=P)

# %% [markdown]
# Left and right neighbours follow each other in the sequence, but a patch and the one below it are a whole row
# apart: number 35 lies under number 27. The patch in row r and column c has the number
#
# $$i = r \cdot \text{columns} + c .$$

# %% claim="number 35 lies under number 27"
numbers = np.arange(N).reshape(rows, columns)
assert numbers[27 // columns + 1, 27 % columns] == 35
assert all(i == r * columns + c for (r, c), i in np.ndenumerate(numbers))

# %% [markdown] deeper=true
# ## Counting and cutting, one patch at a time
#
# Both divisions must come out whole.


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
# And back, from the number of a patch to its row and column:
#
# $$r = \lfloor i / \text{columns} \rfloor, \qquad c = i \bmod \text{columns}.$$


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
# ## All patches at once
#
# One could go through the image in a loop and cut patch after patch. PyTorch can move all the numbers of a batch
# in a single step instead. To see how, take an "image" of one channel and 4×4 pixels. Its numbers say where each
# pixel was.

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
# **A `reshape` never changes the order of the numbers.** It reads them in the order of the axes and sets the brackets anew,
# and in that order 0 1 4 5 are not one piece. So something has to move. Three steps do it:
#
# 1. **Split** each side in two axes: which patch, and which pixel in it. The height becomes (r, y), patch
#    row and pixel row; the width becomes (c, x), patch column and pixel column.
# 2. **Swap** axes, so that those that say *which patch* stand in front: (r, y, c, x) to (r, c, y, x). Only
#    this step changes the order.
# 3. **Merge** (r, c) to the number of the patch, and (y, x) to the number in it.

# %% claim="in that order 0 1 4 5 are not one piece"
portions = tiny.reshape(2, 2, 4).flatten(0, 1).tolist()
assert [number for portion in portions for number in portion] == [*range(16)]
assert [0, 1, 4, 5] not in portions

# %%
split = tiny.reshape(2, 2, 2, 2)  # (r, y, c, x)
swapped = split.permute(0, 2, 1, 3)  # (r, c, y, x)
merged = swapped.reshape(4, 4)  # (r c, y x)
owner = np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3])
tables = [tiny.numpy(), tiny.reshape(4, 4).numpy(), merged.numpy()]
plots.number_tables(
    tables, owner, ["the image", "reshape alone", "split, swap, merge"], row_name="vector"
)

# %% [markdown]
# In the middle, every vector holds one row of pixels, half from one patch and half from its neighbour. On
# the right, each holds one patch.
#
# Now real images. There are two more axes: the channels, and in front of all the **batch**, because a
# network reads several images at once. **B** is how many.

# %% claim="half from one patch and half from its neighbour"
assert all(sorted(np.bincount(owner[vector]))[-2:] == [2, 2] for vector in tables[1])

# %% claim="On the right, each holds one patch."
assert all(len(set(owner[vector])) == 1 for vector in tables[2])


# %% exercise="01.3"
def my_patchify(images, patch_size):
    """Cut images into flat patches, without a loop over patches.

    images: (B, C, H, W); patches of patch_size fit exactly.
    Returns (B, N, C*P*P): patches row by row; in a patch channel 0 first, row by row, then channel 1 ...
    """
    ### BEGIN SOLUTION
    B, C, H, W = images.shape
    P = patch_size
    split = images.reshape(B, C, H // P, P, W // P, P)  # (B, C, r, y, c, x)
    swapped = split.permute(0, 2, 4, 1, 3, 5)  # (B, r, c, C, y, x)
    return swapped.reshape(B, (H // P) * (W // P), C * P * P)
    ### END SOLUTION


# %%
check("01.3", my_patchify)
# hint("01.3")

# %% [markdown] solved_only=true
# **Why.** Split, swap, merge, as on the tiny image. The swap brings (r, c), which say which patch, behind
# the batch, and (C, y, x), which say which number in the patch, to the end. The last step must be `reshape`
# and not `view`: after `permute` the numbers lie in memory in another order than the axes say, and only
# `reshape` may copy them.
#
# **The common wrong answer** is `permute(0, 1, 2, 4, 3, 5)`, which leaves the channels in front of the
# patches. The shape is right, but instead of one patch in three channels, most vectors now hold three patches
# in one channel.

# %% claim="most vectors now hold three patches in one channel"
numbered = torch.arange(C * H * W).reshape(1, C, rows, P, columns, P)
vectors = numbered.permute(0, 1, 2, 4, 3, 5).reshape(N, C * P * P)
channels = [len(set((vector // (H * W)).tolist())) for vector in vectors]
assert channels.count(1) > 0.9 * N
places_in = vectors % (H * W) // W // P * columns + vectors % W // P
assert all(len(set(place.tolist())) == 3 for place in places_in)

# %% [markdown]
# `rearrange` from the einops library does split, swap and merge in one line, written as a pattern: brackets
# on the left split an axis, brackets on the right merge axes, and the order of the names is the order of the
# axes. The pattern is code and explanation at once. (In a pattern c is the channel, so this course calls the
# patch column s there, and the pixel's row and column p and q.)

# %%
by_pattern = rearrange(tiny, "(r p) (s q) -> (r s) (p q)", p=2, q=2)
by_pattern

# %% [markdown]
# The same table as from the three steps. From now on we use the package's own function.

# %% claim="The same table as from the three steps."
assert torch.equal(by_pattern, merged)

# %% definition="vit_tutorial.model.patchify"

# %% [markdown]
# What if one forgets the swap? `images.reshape(B, N, C * P * P)` has the right shape, and no error is raised.
#
# **Predict.** We cut 96×96 pixels into 36 patches of 16×16, in both ways, and lay them side by side again. How
# will the plain `reshape` look: unrecognisable, striped, or almost right?

# %%
medium = fit_image(photo, 96).pixels[None]  # (1, 3, 96, 96)
unswapped = medium.reshape(1, 36, 768)
laid = "1 (r s) (c p q) -> (r p) (s q) c"
both = [rearrange(cut, laid, r=6, c=3, p=16) for cut in (patchify(medium, 16), unswapped)]
plots.photo_row([one.numpy() for one in both], ["from patchify", "from a plain reshape"])

# %% [markdown]
# Each "patch" of the plain `reshape` is eight rows of pixels from one channel alone. A third of it is then taken
# for red, a third for green, a third for blue, and so the cat becomes stripes in false colours. The shape did not
# tell. Only a comparison with something *independent* does, and every proof in this course has one.

# %% claim="eight rows of pixels from one channel alone"
assert unswapped[0, 1].tolist() == medium[0, 0, 8:16].flatten().tolist()
assert all(
    (unswapped[0, i] == medium[0, i // 12, i % 12 * 8 :][:8].flatten()).all() for i in range(36)
)

# %% claim="The shape did not tell."
assert unswapped.shape == patchify(medium, 16).shape

# %% [markdown] deeper=true
# ## Is it right?
#
# Two references that share no line with it: the loop, and PyTorch's `unfold`, which cuts windows out of images
# for its own purposes.


# %%
def patches_by_loop(image, patch_size):
    """Cut one image, (C, H, W) -> (N, C*P*P)."""
    patches = []
    for top in range(0, image.shape[1], patch_size):
        for left in range(0, image.shape[2], patch_size):
            block = image[:, top : top + patch_size, left : left + patch_size]
            patches.append(block.flatten())
    return torch.stack(patches)


# %% [markdown]
# The images are not square, there are two of them, and they are random, so that no mix-up can go unnoticed.
# `rtol=0, atol=0` asks for equality to the last bit.

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

# %% claim="image 1 cut alone gives what it gives in the batch"
assert torch.equal(patchify(noise[1:2], 4)[0], patches[1])

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
# The loop takes 784 small steps in Python, `patchify` one: it is many times faster on any machine.

# %% claim="it is many times faster"
assert slow > 4 * fast

# %% claim="784 small steps"
assert len(patches_by_loop(large[0], 8)) == 784

# %% [markdown] deeper=true
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
    split = patches.reshape(B, rows, columns, -1, P, P)  # (B, r, c, C, y, x)
    swapped = split.permute(0, 3, 1, 4, 2, 5)  # (B, C, r, y, c, x)
    return swapped.reshape(B, -1, rows * P, columns * P)
    ### END SOLUTION


# %%
check("01.4", my_unpatchify)
# hint("01.4")

# %% [markdown] solved_only=true
# **Why.** Split N into (r, c) and the vector into (C, y, x). Before two axes can merge they must be
# neighbours in the right order: r before y makes the height, c before x the width. The `-1` lets PyTorch
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
# Both are equal. Between the two you can work on patches as if they were words. Here three quarters of them, chosen
# at random, are wiped out. Could you say what is missing? Lesson 13 has a network learn just that.

# %% claim="Both are equal."
assert torch.equal(restored, noise)
assert torch.equal(patchify(restored, 4), patches)

# %%
torch.manual_seed(0)
cut = patchify(large, 16)  # (1, 196, 768)
cut[0, torch.randperm(196)[:147]] = 225
wiped = unpatchify(cut, 16, grid=(14, 14))[0]
views = [one.permute(1, 2, 0).numpy() for one in (large[0], wiped)]
plots.photo_row(views, ["196 patches", "49 of them left"])

# %% claim="three quarters of them, chosen at random, are wiped out"
assert (cut[0] == 225).all(dim=1).sum() == 3 * 196 / 4

# %% [markdown] deeper=true
# ## Where the stripes come from
#
# To find out which numbers the plain `reshape` takes for patch 0, we cut not the picture but its *places*: an
# image in which every number says where it stands.

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

# %% claim="one and a half rows of pixels, in the red channel alone"
assert plain[0].tolist() == list(range(W + W // 2))


# %%
def channels_in(patch):
    return sorted(set((patch // (H * W)).tolist()))


for i in (0, 27, 63):
    print(f"patch {i:2}: patchify {channels_in(right[i])}, plain reshape {channels_in(plain[i])}")

# %% [markdown]
# Three channels in each patch on the left, one on the right. How would you have noticed? Not by the shape. A popular
# test is the round trip, there and back.
#
# **Predict.** Does a round trip with its own way back, another `reshape`, expose the plain `reshape`?

# %% claim="Three channels in each patch on the left, one on the right."
assert all(len(channels_in(patch)) == 3 for patch in right)
assert max(len(channels_in(patch)) for patch in plain[[0, 27, 63]]) == 1

# %%
tests = {"same shape": unswapped.shape == patchify(medium, 16).shape}
tests["own round trip"] = torch.equal(unswapped.reshape(medium.shape), medium)
tests["equal to a loop"] = torch.equal(unswapped[0], patches_by_loop(medium[0], 16))
tests["our way back"] = torch.equal(unpatchify(unswapped, 16, grid=(6, 6)), medium)
print(tests)

# %% [markdown]
# Only the two that say *False* tell. A mistake that is undone by the same mistake leaves no trace: a proof needs a
# reference that was written independently.
#
# The good news is in the second answer: nothing is lost yet.

# %% claim="Only the two that say *False* tell."
assert list(tests.values()) == [True, True, False, False]


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

# %% [markdown] deeper=true
# ## All patches in one long picture
#
# The patches leave for the network as a sequence, one after the other. Make a picture of such a sequence.


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
# ## What is given up
#
# The patches leave for the network as a sequence, one after the other. Here are the 16 patches of a photograph
# that this lesson has not shown.
#
# **Predict.** What is in it?

# %%
name = "tuanortsa"[::-1]  # to be read when you have guessed
secret = open_image(getattr(photographs, name)())
pixels = fit_image(secret, 96).pixels  # (3, 96, 96)
blocks = rearrange(patchify(pixels[None], 24)[0], "n (c p q) -> n p q c", c=3, p=24)
plots.patch_row(blocks.numpy())

# %%
plots.photo_row([np.asarray(secret)], ["the photograph"])

# %% [markdown]
# Perhaps you still saw who it is, but the network has less than you had: for you each patch was a small *picture*. (It is
# the astronaut Eileen Collins, photographed by NASA, public domain.) This is what is given up:
#
# - **Where a patch was.** It only has a number in the row, and lesson 03 will show that the network does not
#   read even that, unless positions are added.
# - **Which pixels are neighbours inside a patch.** A vector has no inside. The last of the questions below
#   proves that the next layer does not notice their order.
# - **What goes on across a border.** The pixels on both sides of a cut are now in different vectors.
#
# A convolutional network keeps the grid, so it gives up none of the three. A ViT has to
# learn from examples that neighbours belong together. That is its freedom, and one reason why it needs many
# examples (lesson 10). How much it has to learn depends on one number, P.

# %% [markdown]
# ## How many patches, and what they cost
#
# The sequence has **T** tokens: the N patches, and one more that lesson 02 adds, so T = N + 1. In every layer,
# each token looks at each (lesson 04): T² pairs, a matrix of T × T numbers for each head.

# %%
sizes = [1, 2, 4, 8, 16, 32]  # P
tokens = [(224 // side) ** 2 + 1 for side in sizes]
plots.token_cost(sizes, tokens, "A 224×224 image: smaller patches, more tokens, many more pairs")

# %% [markdown]
# On these scales the lines are straight: wherever you start, half the patch size means about four times the tokens
# and sixteen times the pairs. Large patches are cheap, but each must be described by one token, however much is in it.

# %% claim="about four times the tokens and sixteen times the pairs"
growth = np.array(tokens[:-1]) / np.array(tokens[1:])
assert (abs(growth / 4 - 1) < 0.05).all()
assert (abs(growth**2 / 16 - 1) < 0.05).all()

# %% [markdown] deeper=true
# ## Play: a picture of yours, cut up
#
# Drag a file into the list of files on the left, and put its name between the quotation marks. Until then it is a
# cup of coffee (photograph by Rachel Michetti, CC0). Move the sliders and find, for the shuffled order, the largest
# patch size at which you can no longer tell what you see.

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
# On the left, 24 patches still show a rim, a saucer, a table. On the right, 384 are a heap of colours. The smaller
# the patches, the more of the picture lies in *how they stand*.

# %% claim="24 patches still show a rim, a saucer, a table. On the right, 384"
assert [(size[0] // p) * (size[1] // p) for p, _ in settings] == [24, 384]

# %% [markdown] deeper=true
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
# A convolution takes what fits: 4·64 = 256 rows of pixels and 7·64 = 448 columns. The rest it never reads: paint it
# black, and the result is the same.

# %% claim="4·64 = 256 rows of pixels and 7·64 = 448 columns"
assert convolution(whole).shape[2:] == (4, 7)

# %%
painted = whole.clone()
painted[:, :, 256:] = painted[..., 448:] = 0
torch.equal(convolution(whole), convolution(painted))

# %% [markdown]
# *True*. So choose what is to happen, instead of letting it happen. `fit_image` knows three ways to a size that
# fits, here 256×256. The crossed-out pixels are those that no patch covers.

# %% claim="*True*."
assert torch.equal(convolution(whole), convolution(painted))
assert not torch.equal(whole, painted)

# %%
choices = ("crop", "pad", "resize")
fits = [fit_image(photo, 256, fit=fit).pixels for fit in choices]
plots.patch_cover(
    [array, *(one.permute(1, 2, 0).numpy() for one in fits)],
    64,
    ["left to a convolution", *(f'fit="{fit}"' for fit in choices)],
)

# %% [markdown]
# Cropping loses the sides, padding spends patches on grey, and stretching changes proportions: here the cat's face
# gets a third narrower. For classification, cropping is usual; where every part counts, pad. Or keep the
# photograph's proportions, as we did above: `fit_image(photo, (256, 384))` makes a grid of 4×6.

# %% claim="the cat's face gets a third narrower"
assert abs(300 / 451 - 2 / 3) < 0.01

# %% claim="padding spends patches on grey"
assert (fits[1].flatten(1)[:, 0] == fits[1][:, 0].T).all()

# %% claim="Cropping loses the sides"
sides = array.copy()
sides[:, :60] = sides[:, -60:] = 0
assert torch.equal(fit_image(open_image(sides), 256).pixels, fits[0])

# %% claim="`fit_image(photo, (256, 384))` makes a grid of 4×6"
assert patchify(fit_image(photo, (256, 384)).pixels[None], 64).shape[1] == 4 * 6

# %% [markdown]
# ## From bytes to numbers around zero
#
# Networks are set up for numbers around 0 with a spread around 1. So pixels become floats first, and then
#
# $$x = \frac{\text{pixel} / 255 - \text{mean}}{\text{std}}$$
#
# with one mean and one standard deviation (std) for each channel, measured **once, over all pixels of the
# training images**, and used unchanged ever after. `normalize` does it, after the image has its size and before it
# is cut.

# %%
from vit_tutorial import load_checkpoint, normalize

vit, card = load_checkpoint("cifar10")
ready = normalize(image[None], card.mean, card.std)  # float32 (1, 3, 32, 32)
print(ready.dtype, f"from {ready.min():.2f} to {ready.max():.2f}")

# %% [markdown]
# Floats on both sides of 0: that is what the network of lesson 00 was given.

# %% claim="Floats on both sides of 0"
assert ready.dtype == torch.float32
assert ready.min() < -0.5
assert ready.max() > 0.5

# %% [markdown] deeper=true
# ## The right mean, the right std
#
# Why floats first? Bytes are a trap:

# %%
brightest = torch.tensor([200], dtype=torch.uint8)
print("200 + 100 =", (brightest + 100).item())

# %% [markdown]
# Beyond 255 they start again from 0, without a warning.
#
# And why over *all pixels*? That is where many go wrong. There is more than one "standard deviation of a set of
# images".

# %% claim="Beyond 255 they start again from 0"
assert (brightest + 100).item() == 300 - 256


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
# The mean over single images is about half. For CIFAR-10 a widespread triple of numbers is of that wrong kind.
# Pixels that are divided by it should get a std of 1. They get

# %% claim="The mean over single images is about half."
assert len(tiles) == 256
assert all(0.35 < a / b < 0.65 for a, b in zip(single, std, strict=True))

# %%
widespread = (0.2023, 0.1994, 0.2010)
ratios = [true / used for true, used in zip(card.std, widespread, strict=True)]
print([round(ratio, 2) for ratio in ratios])

# %% [markdown]
# 21 to 30 percent too much: that std is too small. A network can be trained with it all the same. It is worse when training and use do not
# match: here is the bundled network for digits, on its 360 test images.
#
# **Predict.** The pixels come as in training; divided by a std that is too small, as the widespread one is, so that all
# numbers are 1.25 times too large; only scaled to 0 to 1; as raw bytes, 0 to 255; or normalised as in training, but of the negative, light for dark. Which costs little, which a lot?

# %% claim="21 to 30 percent too much: that std is too small"
assert all(true > used for true, used in zip(card.std, widespread, strict=True))
assert min(ratios) > 1.205
assert max(ratios) < 1.305

# %%
from vit_tutorial.data import digits

digits_vit, digits_card = load_checkpoint("digits")
test = digits("test")
pixels = test.images.float()
right_way = normalize(test.images, digits_card.mean, digits_card.std)
ways = {"as in training": right_way, "std too small": right_way * 1.25, "0 to 1": pixels / 255}
ways["0 to 255"] = pixels
ways["negative"] = normalize(255 - test.images, digits_card.mean, digits_card.std)
hits = {}
for way, inputs in ways.items():
    with torch.no_grad():
        hits[way] = (digits_vit(inputs).argmax(dim=1) == test.labels).float().mean().item()
    print(f"{way:15}{hits[way]:6.1%} right")

# %% [markdown]
# The std that is too small costs this network two or three digits of a hundred. Scaled to 0 to 1, it misses half of
# them; with raw bytes, three quarters. Of negatives it can only guess, which gives 10%. A network reads
# numbers, and it believes them: none of these ways raised an error.

# %% claim="The std that is too small costs this network two or three digits of a hundred"
assert 0.015 < hits["as in training"] - hits["std too small"] < 0.035

# %% claim="Scaled to 0 to 1, it misses half of them; with raw bytes, three quarters."
assert 0.38 < hits["0 to 1"] < 0.58
assert 0.15 < hits["0 to 255"] < 0.33

# %% claim="Of negatives it can only guess, which gives 10%"
assert 0.05 < hits["negative"] < 0.13

# %% [markdown]
# ## What we now have
#
# | what | shape | here |
# |---|---|---|
# | image file | (H, W, C), uint8 | (300, 451, 3) |
# | images, cropped, channels first | (B, C, H, W), uint8 | (1, 3, 32, 32) |
# | images, normalised | (B, C, H, W), float32 | (1, 3, 32, 32) |
# | patches, N = (H/P)·(W/P) | (B, N, C·P·P) | (1, 64, 48) |
#
# The patches hold exactly the numbers of the image, in an order in which each patch is one vector. Lesson 02
# turns these vectors into tokens.

# %% claim="The patches hold exactly the numbers of the image"
assert patchify(ready, P).shape == (1, 64, 48)
assert torch.equal(patchify(ready, P).flatten().sort().values, ready.flatten().sort().values)

# %% [markdown] deeper=true
# ## The questions people ask
#
# ### Why patches, and not pixels?
#
# With pixels as tokens nothing would have to be cut. But count the pairs of a 224×224 image, for *one* head of
# *one* layer:

# %%
pairs = torch.stack([large[..., :-1].flatten(), large[..., 1:].flatten()]).float()
alike = torch.corrcoef(pairs)[0, 1].item()
print(f"correlation of neighbouring pixels in Chelsea: {alike:.2f}")
for name, side in (("patches of 16×16", 16), ("pixels", 1)):
    T = (224 // side) ** 2 + 1
    print(f"{name:17} T = {T:6,}  T² = {T**2:13,}  as float32: {4 * T**2 / 1e6:8,.1f} MB")

# %% [markdown]
# Ten gigabytes for one matrix, and a ViT-B has 12 heads in each of 12 layers. (Attention can be computed without
# ever storing the matrix, as lesson 04 shows, but every number in it must still be computed.) And it would be
# spent on comparing like with like: one pixel nearly tells its neighbour.
#
# ### Is it 16×16 patches, or patches of 16×16?
#
# The title of the paper says "An Image is Worth 16x16 Words" (Dosovitskiy et al. 2020, arXiv 2010.11929). Its
# networks ViT-B/16 and ViT-L/16 cut 224×224 pixels into patches **of 16×16 pixels**:

# %% claim="Ten gigabytes for one matrix"
assert round(4 * (224**2 + 1) ** 2 / 1e9) == 10

# %% claim="one pixel nearly tells its neighbour"
assert alike > 0.93

# %%
cut = patchify(large, 16)
print(f"{224 // 16}×{224 // 16} = {cut.shape[1]} patches, each of 3·16·16 = {cut.shape[2]} numbers")

# %% [markdown]
# So the number after the slash is the side of a patch, in pixels; the number of patches follows from the size
# of the image: here 196. ("A sequence of length 14×14×3" is a common mistake: the channels are inside the vectors.)
#
# ### My images have 32×32 pixels. May I use patches of 16×16?
#
# You may, and get four tokens. There is hardly anything to compare, and each must stand for a quarter of the image.
# The settings of a paper belong to its image size; small images need small patches.
#
# ### Does it help to enlarge 32×32 images to 224×224?
#
# It is often done, so that a network built for 224×224 can be used. How many numbers does the image have then?

# %% claim="here 196"
assert cut.shape[1] == 196

# %% claim="get four tokens"
assert patchify(image[None], 16).shape[1] == 4

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
# The pixels are back. A network that was trained at 224×224 may still need the enlarged image, as it knows things at
# that size (lesson 11). If it is only many tokens that you want, cut the 32×32 pixels into patches of 2×2. That makes
# 256, more than the 196 of the enlarged image, from 49 times fewer numbers.
#
# ### Does the order of the numbers inside a patch matter?
#
# Only that it is always the same. What comes next is a linear layer, a weighted sum of the 48 numbers (lesson
# 02). Shuffle the numbers of every patch in one fixed way and the weights along with them, and nothing changes:

# %% claim="The pixels are back."
assert error < 1e-6
assert torch.linalg.matrix_rank(M) == 32

# %% claim="256, more than the 196 of the enlarged image, from 49 times fewer numbers"
assert patchify(image[None], 2).shape[1] == 256
assert enlarged.numel() == 49 * image.numel()

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

# %% claim="Trained weights belong to one order, though"
assert (flat[..., shuffle] @ weight.T - flat @ weight.T).abs().max() > 1

# %% [markdown] deeper=true
# ## A stretch
#
# Patches may overlap. `F.unfold(images, kernel_size=8, stride=4)` cuts patches of 8×8 that begin every 4 pixels.
# How many are there on a 32×32 image, and how many numbers in all? Put the picture back: `F.fold` *adds* where
# patches overlap, so divide by what it makes of patches full of ones. What would such patches cost a ViT, and
# which of the three things that were given up would they give back?
