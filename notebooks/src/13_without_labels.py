# %% [markdown]
# # 13 · Learning without labels
#
# **Most pictures in the world have no label. What can a network learn from them?**
#
# A label is work: somebody has looked at the picture and decided. A picture is not, and there is no end of them. So
# make the question out of the picture itself: hide most of it, and ask for what is hidden. The answer is there already.
# This lesson builds such a network on the encoder that you know, and then asks what it is worth where labels are few.
#
# **You will**
#
# - hide three quarters of the patches, each image its own, and send only the rest through an encoder,
# - watch hidden pictures come back, and measure whether the network knows more than the colours nearby,
# - pretrain a network without a label, and compare it with training from scratch where labels are few,
# - find out which features are worth most for pictures of your own,
# - *deeper:* build the masked autoencoder whole and prove it against a slow loop; ask what its features hold; compute by
#   hand how DINO teaches itself, and make it collapse in two ways.

# %%
import numpy as np
import torch
import torch.nn.functional as F
from skimage import data as photographs
from torch import nn
from torch.testing import assert_close

from vit_tutorial import (
    VisionTransformer,
    ViTConfig,
    fit_image,
    load_checkpoint,
    normalize,
    open_image,
    patchify,
    plots,
    unpatchify,
)
from vit_tutorial.augment import draw_order
from vit_tutorial.lessons import check, hint
from vit_tutorial.mae import MAEConfig, MaskedAutoencoder, hidden_patches
from vit_tutorial.positions import patch_coordinates

# %%
plots.network_map("patches")

# %% [markdown]
# ## Hide, and ask
#
# Four photographs at 32×32 pixels, which is 64 patches each (Chelsea the cat, by Stéfan van der Walt, and the astronaut
# Eileen Collins, by NASA, public domain; a cup of coffee, by Rachel Michetti, and a rocket launch, by SpaceX, CC0). The
# network that we are going to look into, `mae`, has been trained on the 50,000 training images of CIFAR-10 (re-saved as
# JPEG), without their labels. These four are not among them.

# %%
MY_PHOTO = ""  # for example "my_dog.jpg"

mae, card = load_checkpoint("cifar10_mae", MaskedAutoencoder)
names = ["chelsea", "astronaut", "coffee", "rocket"]
photos = [MY_PHOTO or photographs.chelsea(), *(getattr(photographs, n)() for n in names[1:])]
pixels = torch.stack([fit_image(open_image(photo), 32).pixels for photo in photos])
images = normalize(pixels, card.mean, card.std)  # (4, 3, 32, 32)

# %% claim="has been trained on the 50,000 training images of CIFAR-10"
assert card.fingerprint["images"] == 50_000
assert card.data.startswith("CIFAR-10 re-saved as JPEG")

# %%
P, grid, N = 4, (8, 8), 64
assert (mae.config.encoder.patch_size, mae.config.encoder.grid) == (P, grid)


# %%
def as_pictures(images):
    """Normalised (n, 3, H, W) -> n pictures uint8 (H, W, 3)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (card.mean, card.std))
    shown = (255 * (images * std + mean)).round().clamp(0, 255).to(torch.uint8)
    return list(shown.permute(0, 2, 3, 1).numpy())


def covered(images, order, num_visible):
    """Hide all but the first patches of an order behind the mean colour, which is 0 here."""
    hidden = hidden_patches(order, num_visible)[..., None]
    return unpatchify(patchify(images, P).masked_fill(hidden, 0.0), P, grid)


# %% [markdown]
# In each of the four, 48 of 64 patches are hidden. **Predict.** Which one is the rocket? What do you see that tells
# you, and could a network learn to see it without being told any name?

# %%
torch.manual_seed(3)
order = draw_order(4, N)  # (4, 64), see below
mixed_up = [3, 1, 0, 2]
shown = as_pictures(covered(images, order, 16))
plots.picture_table([[shown[i] for i in mixed_up]], ["16 of 64"], ["A", "B", "C", "D"],
                    smooth=False)  # fmt: skip

# %% [markdown]
# A is the rocket: dark blue in nearly everything that is seen, and something brighter only near the bottom. (B is the
# astronaut, C the cat, D the coffee.) Whoever fills in such a picture needs to know things: skies are smooth, lines go
# on, there is a second eye. Nobody has to name these things, neither for the question nor to check the answer. That is
# why this is called **self-supervised** learning, and a network that learns it by hiding a **masked autoencoder**, MAE
# for short (He et al. 2021, arXiv 2111.06377).
#
# The word *mask* is used for several things in this course:
#
# | name | what is taken away | what is asked for | where |
# |---|---|---|---|
# | masked patches | most patches, the network never gets them | *the pixels of the hidden patches* | here |
# | random erasing | a rectangle of the input | the class, as before | lesson 07, `erase` |
# | attention mask | some keys, for some queries | anything | lesson 04; not needed in a ViT |
# | dropout, drop path | some of the *computation* | the class, as before | lesson 05 |
#
# Only the first changes the question. Erasing and dropout make the same question harder, and need its label.

# %% claim="dark blue in nearly everything that is seen"
seen = patchify(torch.from_numpy(shown[3]).permute(2, 0, 1)[None].float(), P)[
    ~hidden_patches(order, 16)[3:]
]
red, green, blue = seen.unflatten(-1, (3, -1)).mean(dim=-1).T
assert mixed_up[0] == names.index("rocket")
assert ((blue > red + 10) & (blue < 170)).float().mean() > 0.75

# %% [markdown]
# ## Sixteen of 64
#
# By hand, with one image of four patches, of which two stay visible. Every patch draws a number, and the two with the
# smallest numbers stay.

# %%
noise = torch.tensor([[0.7, 0.1, 0.9, 0.4]])
by_hand = noise.argsort(dim=1)
print("the patches in the order of their numbers:", by_hand.tolist()[0])
print("visible:", by_hand[0, :2].tolist(), " hidden:", by_hand[0, 2:].tolist())

# %% [markdown]
# We call this list the **order** of the image: first the patches that stay, then the others; place i of the order holds
# patch order[i]. The encoder will get the tokens of patches 1 and 3, in this order.
#
# Later we need to know of each patch, in its place in the image, whether it is hidden. As a loop, image by image and
# patch by patch (B images of N patches, V of them visible, here `num_visible`):


# %%
def hidden_loop(order, num_visible):
    """(B, N) -> (B, N) bool, in the places of the image."""
    hidden = torch.zeros(order.shape, dtype=torch.bool)
    for b, patches in enumerate(order.tolist()):
        for patch in patches[num_visible:]:
            hidden[b, patch] = True
    return hidden


print(hidden_loop(by_hand, 2).tolist()[0])

# %% [markdown]
# Write it without a loop, straight from the numbers.


# %% exercise="13.1"
def my_masks(noise, num_visible):
    """Tell which patches of each image are hidden, from the numbers that they have drawn.

    noise: (B, N), any numbers, no two alike in one image.
    num_visible: in each image so many patches stay visible, those with the smallest numbers.
    Returns (B, N) bool, True for the patches that are hidden; column p is about patch p.
    """
    ### BEGIN SOLUTION
    places = noise.argsort(dim=1).argsort(dim=1)  # where each patch stands in the order
    return places >= num_visible
    ### END SOLUTION


# %%
check("13.1", my_masks)
# hint("13.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** The first `argsort` gives the order. A second one gives the place of each patch in it, which is its rank:
# `argsort` of a permutation is its inverse. All images at once, because `dim=1` sorts each row alone.
#
# **The common wrong answer** stops after one `argsort`. The result hides the right number of patches, but not
# the right ones. The other one compares the numbers with the ratio, `noise > 0.25`: then
# every image keeps another number of patches, and no batch can be made of them.

# %% [markdown]
# The package draws the numbers in one function, and tells what is hidden in another:

# %%
from vit_tutorial.augment import Device

from torch import Tensor

# %% definition="vit_tutorial.augment.draw_order"

# %% definition="vit_tutorial.mae.hidden_patches"

# %%
order = draw_order(10_000, N)
hidden = hidden_patches(order, 16)
assert torch.equal(hidden[:100], hidden_loop(order[:100], 16))
print("hidden in each image:", set(hidden.sum(dim=1).tolist()))
print(f"patch 0 is hidden in {hidden[:, 0].float().mean():.0%} of the images")

# %% [markdown]
# In every image exactly 48 patches are hidden, and each patch is hidden in three quarters of the images.

# %% claim="each patch is hidden in three quarters of the images"
assert hidden.sum(dim=1).unique().tolist() == [48]
assert (hidden.float().mean(dim=0) - 0.75).abs().max() < 0.03

# %% [markdown] deeper=true
# ## Back in place
#
# The encoder's tokens are to be turned into pixels by a second, small network, the **decoder**. It needs 64 tokens, in
# the places of the image. From the encoder come 16, in the order in which they were taken; for the other 48 there is one
# learned vector, the **mask token**, which says "something is missing here".
#
# By hand, with the order [1, 3, 0, 2] from above: joined, the tokens stand as 1, 3, mask, mask. Patch 0 stands at place
# 2 of this row, patch 1 at place 0, patch 2 at place 3, patch 3 at place 1. So back in place it is mask, 1, mask, 3. Each
# image has its own order.


# %% exercise="13.2"
def my_unshuffle(encoded, mask_token, order):
    """Put the tokens of visible patches back in place, and the mask token everywhere else.

    encoded: (B, V, D); encoded[b, i] belongs to patch order[b, i].
    mask_token: (D,).
    order: (B, N), in each row all patches from 0 to N - 1, the V visible ones first.
    Returns (B, N, D); token p is that of patch p.
    """
    ### BEGIN SOLUTION
    hidden = order.shape[1] - encoded.shape[1]
    masks = mask_token.expand(len(encoded), hidden, -1)
    places = order.argsort(dim=1)[..., None].expand(-1, -1, encoded.shape[-1])
    return torch.cat([encoded, masks], dim=1).gather(1, places)
    ### END SOLUTION


# %%
check("13.2", my_unshuffle)
# hint("13.2")

# %% [markdown] solved_only=true
# **Why.** Joined, the tokens stand as in `order`, and its inverse sorts them. `gather` wants an index for every number,
# so the places are repeated along D. The other way, without an inverse: fill (B, N, D) with the mask token and
# `scatter` the visible tokens into it, at `order[:, :V]`.
#
# **The common wrong answer** uses `order` where its inverse belongs. All shapes fit, the loss falls a little, and the
# network learns to fill in pictures whose parts have been mixed up. The other one writes `full[~hidden] = encoded`,
# which deals the tokens out in reading order: that is right only where the order happens to be sorted.

# %% [markdown]
# ## An encoder that sees a quarter
#
# What hides a patch from the encoder? One could paint it grey. But an encoder does not care how many tokens it gets
# (lesson 04): **leave them out**. Each token must know where it comes from, and it does, because positions are added
# before anything is left out.
#
# Afterwards a small **decoder** of the same kind of blocks puts the tokens back in their places, with one learned vector,
# the **mask token**, wherever a patch is missing, adds positions of its own, and predicts the pixels of every patch.
#
# **Predict.** Three quarters of the tokens are left out. Which share of the work is left in the linear layers of the
# encoder, and which share of the entries in the tables of attention?

# %%
everything, part = mae.config.encoder.num_tokens, mae.config.num_visible
print(f"tokens {everything} -> {part}: {part / everything:.0%} of the work in the linear layers")
print(f"pairs in attention {everything**2} -> {part**2}: {part**2 / everything**2:.1%}")

# %% [markdown]
# A quarter of the work in the linear layers, a sixteenth in the tables of attention: that is why so large a part can be
# hidden *and* training is cheap.

# %% claim="A quarter of the work in the linear layers, a sixteenth in the tables of attention"
assert part / everything == 1 / 4
assert part**2 / everything**2 == 1 / 16


# %% exercise="13.3"
def my_encode_visible(vit, images, visible):
    """Send the visible patches of each image through a VisionTransformer, and nothing else.

    vit: with positions that are added (learned or sin-cos); with a CLS token or without.
    images: (B, C, H, W), normalised. visible: (B, V), patch numbers in any order, for each image its own.
    Returns the tokens after the final norm, (B, V, D), in the order of `visible`;
    with a CLS token (B, 1 + V, D), CLS first.
    """
    ### BEGIN SOLUTION
    prefix = vit.config.num_prefix
    tokens = vit.embed(images)  # (B, T, D), positions included
    places = visible[..., None].expand(-1, -1, tokens.shape[-1])
    x = torch.cat([tokens[:, :prefix], tokens[:, prefix:].gather(1, places)], dim=1)
    for block in vit.blocks:
        x = block(x)
    return vit.norm(x)
    ### END SOLUTION


# %%
check("13.3", my_encode_visible)
# hint("13.3")

# %% [markdown] solved_only=true
# **Why.** `embed` has added the positions while every token was still in its place. The blocks treat tokens as a set,
# so a smaller set needs nothing new.
#
# **The common wrong answer** takes the patches first and adds the positions afterwards: then the network is told that
# the sixteen visible patches lie in the first two rows. The other one sends all tokens through the blocks and drops the
# hidden ones at the end. By then the visible ones have read them, and the question answers itself.

# %% definition="vit_tutorial.mae.take"

# %% [markdown]
# ## What is asked for
#
# For each hidden patch the 48 numbers of its pixels. The error is the mean of the squared differences, and only hidden
# patches count: a visible patch would only have to be copied. By hand, with patches of two numbers, and the same two
# patches hidden as above:

# %%
wanted = torch.tensor([[[1.0, 1.0], [0.0, 2.0], [3.0, 1.0], [2.0, 2.0]]])  # (1, 4, 2)
guessed = torch.tensor([[[1.0, 2.0], [9.0, 9.0], [1.0, 1.0], [9.0, 9.0]]])
errors = (guessed - wanted).square().mean(dim=-1)
hidden = hidden_loop(by_hand, 2)
print("errors of the patches:", errors.tolist()[0], " hidden:", hidden.tolist()[0])
print("loss: (0.5 + 2) / 2 =", errors[hidden].mean().item())

# %% [markdown]
# How bad the guesses for visible patches are (9, 9) does not matter. There is one choice more. The paper found features
# to be better if the target of each patch is *normalised*: its own mean subtracted, divided by its own standard
# deviation. Then brightness and contrast are not asked for, only the pattern.

# %% claim="How bad the guesses for visible patches are (9, 9) does not matter"
assert errors[hidden].mean() == 1.25
assert errors[~hidden].min() > 40


# %% exercise="13.4"
def my_masked_loss(predicted, images, patch_size, hidden, norm_pixels):
    """Measure how well hidden patches were predicted.

    predicted: (B, N, C * P * P), in the order of the package's `patchify`. images: (B, C, H, W).
    hidden: (B, N) bool, True where a patch was hidden; how many may differ from image to image.
    norm_pixels: if true, the target of a patch is (pixels - mean) / sqrt(variance + 1e-6), with the
    mean and the variance of its own C * P * P numbers (divided by their number).
    Returns one number, (): the squared error, a mean over all numbers of all hidden patches.
    """
    ### BEGIN SOLUTION
    wanted = patchify(images, patch_size)
    if norm_pixels:
        mean = wanted.mean(dim=-1, keepdim=True)
        variance = wanted.var(dim=-1, keepdim=True, correction=0)
        wanted = (wanted - mean) / (variance + 1e-6).sqrt()
    return (predicted - wanted)[hidden].square().mean()
    ### END SOLUTION


# %%
check("13.4", my_masked_loss)
# hint("13.4")

# %% [markdown] solved_only=true
# **Why.** Indexing with (B, N) bool picks whole patches, (all hidden ones, C·P·P), and one mean does the rest. The 1e-6
# is for patches of a single colour, a piece of sky, whose variance is 0.
#
# **The common wrong answer** multiplies the errors by `hidden` and takes the mean of everything: visible patches are
# counted as perfect predictions, and with three quarters hidden the loss is a quarter too small. It trains, since a
# factor changes no direction. But two mask ratios can no longer be compared.

# %% [markdown]
# The package has the targets in a function of their own. Its arithmetic is that of a LayerNorm without gain and bias
# (lesson 05):

# %% definition="vit_tutorial.mae.pixel_targets"

# %% [markdown] deeper=true
# ## The whole network
#
# All choices in one place, the encoder's among them:

# %%
from collections.abc import Callable
from dataclasses import dataclass, field

from vit_tutorial.model import Block, init_weights
from vit_tutorial.positions import sincos_2d

# %% definition="vit_tutorial.mae.MAEConfig"

# %% [markdown]
# The decoder is small, and has positions of its own. Without them all mask tokens would be equal, and since a block
# treats its tokens as a set (lesson 03), equal tokens stay equal: 48 times the same prediction.

# %% definition="vit_tutorial.mae.Decoder"

# %% definition="vit_tutorial.mae.MaskedAutoencoder"

# %% [markdown]
# The **proof**. In float64, with random parameters everywhere (a bias of 0 or a gain of 1 would hide mistakes), against
# a loop that knows no order, no gather and no batch: it takes one image, makes each token by hand, and puts each token
# in its place with an `if`.


# %%
def predict_loop(mae, image, shown):
    """One image (C, H, W), the patches that are shown -> predictions (N, C·P·P)."""
    vit, decoder, size = mae.encoder, mae.decoder, mae.config.encoder.patch_size
    columns = mae.config.encoder.grid[1]
    seen = []
    for n in shown:
        top, left = n // columns * size, n % columns * size
        patch = image[:, top : top + size, left : left + size]
        token = (vit.patch_embed.proj.weight * patch).sum(dim=(1, 2, 3))
        seen.append(token + vit.patch_embed.proj.bias + vit.pos_embed[0, n])
    x = nn.Sequential(*vit.blocks)(torch.stack(seen)[None])
    tokens, full = decoder.embed(vit.norm(x))[0], []
    for n in range(mae.config.encoder.num_patches):
        token = tokens[shown.index(n)] if n in shown else decoder.mask_token
        full.append(token + decoder.positions[n])
    x = nn.Sequential(*decoder.blocks)(torch.stack(full)[None])
    return decoder.to_pixels(decoder.norm(x))[0]


# %%
torch.manual_seed(0)
small = ViTConfig(img_size=(8, 12), patch_size=4, embed_dim=16, depth=2, num_heads=2,
                  pos_embed="sincos", pool="mean")  # fmt: skip
tiny = MaskedAutoencoder(MAEConfig(small, decoder_dim=8, decoder_heads=2, mask_ratio=0.5)).double()
for parameter in tiny.parameters():
    parameter.data = torch.randn_like(parameter) / 2
noise_images, order = torch.randn(5, 3, 8, 12).double(), draw_order(5, 6)
predicted = tiny.predict(noise_images, order, 3)
errors = []
for b, (image, patches) in enumerate(zip(noise_images, order.tolist(), strict=True)):
    expected = predict_loop(tiny, image, patches[:3])
    assert_close(predicted[b], expected)
    wanted = patchify(image[None], 4)[0]
    errors += [(expected[n] - wanted[n]).square().mean() for n in patches[3:]]
assert_close(tiny(noise_images, order), torch.stack(errors).mean())
print(f"equal: {predicted.numel()} predicted numbers, and the loss {tiny(noise_images, order):.3f}")

# %% [markdown]
# Two more proofs, that need no loop. If everything is visible, the encoder must be the plain network that you know. And
# what is hidden must not matter at all: change it as you like, and the prediction stays the same *to the bit*.

# %%
all_in_order = torch.arange(6).expand(5, -1)
assert_close(tiny.encode(noise_images, all_in_order), tiny.encoder.forward_features(noise_images))
hidden = hidden_patches(order, 3)[..., None]
other = unpatchify(patchify(noise_images, 4) + 1000 * hidden, 4, (2, 3))
assert torch.equal(tiny.predict(other, order, 3), predicted)
print("all visible: the plain encoder; what is hidden is never read")

# %% [markdown]
# The other claim, that equal mask tokens give equal predictions, can be seen as well: take the decoder's positions away.

# %%
import copy

without_positions = copy.deepcopy(tiny)
without_positions.decoder.positions.zero_()
guesses = without_positions.predict(noise_images, order, 3)[0][hidden[0, :, 0]]  # of one image
print("hidden patches, all predicted alike:", torch.allclose(guesses, guesses[:1]))

# %% claim="equal mask tokens give equal predictions"
assert torch.allclose(guesses, guesses[:1])
assert not torch.allclose(predicted[0][hidden[0, :, 0]][0], predicted[0][hidden[0, :, 0]][1])

# %% [markdown]
# ## Watch the pictures come
#
# Now the trained one. It was trained with three quarters hidden, and one can ask it about any other share. Drag the
# ratio: patches disappear one after another, in one fixed order for each draw. Up to which ratio do you recognise the cat?

# %%
from vit_tutorial import flipbook

ratios = [0.25, 0.5, 0.65, 0.75, 0.85, 0.95]
orders = {}
for draw in (1, 2, 3):
    torch.manual_seed(draw)
    orders[draw] = draw_order(1, N)


def filled(image, ratio, draw):
    """What is seen, what the network makes of it, and the truth: three pictures, and the error."""
    order, visible = orders[draw], max(round((1 - ratio) * N), 1)
    made = mae.reconstruct(image, order, visible)
    error = (made - image).square().mean() * N / (N - visible)  # visible patches add nothing
    return as_pictures(torch.cat([covered(image, order, visible), made, image])), error.item()


# %%
def draw(photo, mask_ratio, draw):
    shown, error = filled(images[names.index(photo)][None], mask_ratio, draw)
    row = np.concatenate(
        [np.pad(p, ((0, 0), (1, 1), (0, 0)), constant_values=255) for p in shown], 1
    )
    words = f"Seen, filled in, the truth: {mask_ratio:.0%} hidden, squared error {error:.2f}."
    return row.repeat(6, axis=0).repeat(6, axis=1), words


flipbook(draw, photo=names, mask_ratio=ratios, draw=[1, 2, 3], start={"mask_ratio": 0.75})

# %% [markdown]
# The same as a still picture, for one draw: the first two photographs, from a quarter hidden to nearly everything.

# %%
rows, titles = [], []
for name, image in zip(names[:2], images.split(1)[:2], strict=True):
    steps = [filled(image, ratio, 1)[0] for ratio in ratios]
    rows += [[step[0] for step in steps], [step[1] for step in steps]]
    titles += [f"{name},\nseen", "filled in"]
plots.picture_table(rows, titles, [f"{ratio:.0%} hidden" for ratio in ratios], smooth=False)

# %% [markdown]
# With a quarter of her patches hidden, Chelsea has both eyes; with 95% hidden, three patches are left, and a brown
# blur. It cannot be otherwise. Many pictures fit what is seen, and the guess with the smallest squared error is the
# *mean* of them all. Sharp edges at places that nobody can know would cost more than a blur.

# %% claim="with 95% hidden, three patches are left, and a brown blur"
_, made, truth = filled(images[:1], 0.95, 1)[0]
steps = [np.abs(np.diff(p.astype(float), axis=1)).mean() for p in (made, truth)]
assert (~hidden_patches(orders[1], max(round(0.05 * N), 1))).sum() == 3
assert steps[0] < 0.6 * steps[1]

# %% [markdown]
# ## Does it know more than the neighbours?
#
# Does it know anything, or does it only mix the colours of the neighbours? That is a question for numbers. Two guesses
# without any learning, to compare with: the mean colour of what is visible, and a mixture of the colours of visible
# patches in which near ones count more.

# %%
places = patch_coordinates(grid)


def guess_by_neighbours(images, order, num_visible, power):
    """Each patch gets the mean colour of visible patches, by 1 / distance ** power: (B, N, C·P·P)."""
    patches = patchify(images, P)
    colours = patches.unflatten(-1, (3, -1)).mean(dim=-1)  # (B, N, 3)
    seen = ~hidden_patches(order, num_visible)
    near = (torch.cdist(places, places) + 1e-9) ** -power * seen[:, None, :]  # (B, N, N)
    mixed = near / near.sum(dim=-1, keepdim=True) @ colours
    return mixed.repeat_interleave(P * P, dim=-1)


# %% [markdown]
# **Predict.** On 64 pieces of the four photographs, at a mask ratio of 25% and of 75%: who is best? Where will the
# network's lead be larger?

# %%
from einops import rearrange

large = torch.stack([fit_image(getattr(photographs, n)(), 128).pixels for n in names])
pieces = rearrange(large, "b c (r p) (s q) -> (b r s) c p q", p=32, q=32)
pieces = normalize(pieces, card.mean, card.std)  # (64, 3, 32, 32)

# %%
wanted = patchify(pieces, P)


@torch.no_grad()
def guess_errors(ratio, draw):
    """Squared error on hidden patches: of the mean colour, of the neighbours, of the network."""
    torch.manual_seed(draw)
    order, visible = draw_order(len(pieces), N), round((1 - ratio) * N)
    guesses = [guess_by_neighbours(pieces, order, visible, power) for power in (0, 3)]
    guesses.append(mae.predict(pieces, order, visible))
    hidden = hidden_patches(order, visible)
    return [(guess - wanted).square().mean(dim=-1)[hidden].mean().item() for guess in guesses]


# %%
by_ratio = np.array([[guess_errors(ratio, draw) for draw in range(4)] for ratio in ratios])
print("squared error on hidden patches\nhidden   mean colour   neighbours   network")
for ratio, row in zip(ratios, by_ratio.mean(axis=1), strict=True):
    print(f"{ratio:5.0%}   {row[0]:11.3f}   {row[1]:10.3f}   {row[2]:7.3f}")

# %% [markdown]
# Each number is the mean over four draws of what is hidden. The mean colour is about equally bad up to 85%. The neighbours
# get worse the fewer there are, and so does the network, but from a quarter hidden to 85% it is better than both in every
# draw: **it knows more than the colours nearby.** Its lead is larger where little is hidden, for then it has lines to go
# on with, and the neighbours have only their colours. At 95% the lead is gone: three visible patches are a question that
# it has never practised, for in training it always saw sixteen.

# %% claim="The mean colour is about equally bad up to 85%"
colour = by_ratio.mean(axis=1)[:5, 0]
assert colour.max() < 1.15 * colour.min()

# %% claim="neighbours get worse the fewer there are, and so does the network"
middle = by_ratio.mean(axis=1)
assert np.diff(middle[:, 1]).min() > 0
assert np.diff(middle[:, 2]).min() > 0

# %% claim="from a quarter hidden to 85% it is better than both in every draw"
lead = by_ratio[:5, :, :2].min(axis=2) - by_ratio[:5, :, 2]
assert lead.min() > 0.05

# %% claim="Its lead is larger where little is hidden"
lead = (by_ratio[:, :, 1] - by_ratio[:, :, 2]).mean(axis=1)
assert lead[0] > lead[3] + 0.02
assert lead[3] > lead[5] + 0.05

# %% claim="At 95% the lead is gone"
lead = by_ratio[5, :, :2].min(axis=1) - by_ratio[5, :, 2]
assert lead.mean() < 0.02

# %% claim="three visible patches are a question that it has never practised, for in training it always saw sixteen"
assert round((1 - ratios[5]) * N) == 3
assert mae.config.num_visible == 16

# %% [markdown]
# ## Train one yourself
#
# The same thing in small: the digits, 8×8 pixels in four patches of 4×4, of which two are hidden. `fit` is the trainer
# of lesson 07, with one argument that you have not used yet. The `objective` says what is asked of the network, and
# this one asks the network for its own loss:

# %% definition="vit_tutorial.mae.reconstruction"

# %% [markdown]
# The labels are in `targets`, and nobody looks at them. The images are normalised, and a fresh network predicts about 0
# everywhere, so the loss starts at about 1, the variance of the pixels.

# %%
from vit_tutorial import TrainConfig, evaluate, fit
from vit_tutorial.data import channel_stats, digits

torch.set_num_threads(1)  # so small a network runs fastest on one processor core
train, test = digits("train"), digits("test")
stats = channel_stats(train.images)
unseen = normalize(test.images, *stats)

# %%
encoder = ViTConfig(
    img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4, pool="mean"
)
torch.manual_seed(0)
digit_mae = MaskedAutoencoder(MAEConfig(encoder, decoder_depth=1, mask_ratio=0.5))

# %%
unseen_order = draw_order(len(unseen), 4)
with torch.no_grad():
    at_start = digit_mae(unseen, unseen_order).item()
print(f"loss at the start: {at_start:.3f}")

# %% claim="so the loss starts at about 1"
assert abs(at_start - 1) < 0.15

# %%
EPOCHS, diary = 32, {}


def keep(row):
    """After some epochs, write down what the network makes of eight test digits."""
    if row["epoch"] in (1, 8, 20, EPOCHS):
        made = digit_mae.reconstruct(unseen[:8], unseen_order[:8], 2)
        diary[f"epoch {row['epoch']}"] = made


# %%
pretraining = TrainConfig(
    epochs=EPOCHS,
    batch_size=128,
    lr=2e-2,
    optimizer="muon",
    crop_padding=1,
    precision="float32",  # these three fix what `fit` would try, so that no number depends on it
    attention="fused",
    threads=1,
)
rows = fit(digit_mae, train, None, pretraining, objective=reconstruction, on_epoch=keep)
print("loss in epoch", *(f"{n}: {rows[n - 1]['loss']:.3f} " for n in (1, 8, 20, EPOCHS)))


# %%
def digit_pictures(images):
    """Normalised (n, 1, 8, 8) -> n grey pictures, dark on white."""
    shown = 255 * (1 - images * stats[1][0] - stats[0][0])
    return list(shown.round().clamp(0, 255).to(torch.uint8)[:, 0].numpy())


# %%
hidden = hidden_patches(unseen_order[:8], 2)[..., None]
seen = unpatchify(patchify(unseen[:8], 4).masked_fill(hidden, 0.0), 4, (2, 2))
table = {"seen": seen, **diary, "the truth": unseen[:8]}
plots.picture_table(
    [digit_pictures(images) for images in table.values()], list(table),
    [f"a {test.classes[label]}" for label in test.labels[:8]], smooth=False,
)  # fmt: skip

# %% [markdown]
# After one epoch: nothing. After eight there is a grey column in the middle: about what digits look like on average. Then
# strokes begin to go on across the border, and until the end the loss falls by another quarter. For that the network must
# have noticed which strokes go together, and nobody has told it that there are ten kinds.

# %% claim="After one epoch: nothing."
first, last = (diary[f"epoch {n}"] for n in (1, EPOCHS))
gaps = [(made - unseen[:8]).square().sum() / (8 * 32) for made in (first, last)]  # 32 are hidden
assert gaps[0] > 0.75
assert gaps[1] < 0.7 * gaps[0]

# %% claim="After eight there is a grey column in the middle"
pixels_8 = diary["epoch 8"][:, 0].mean(dim=(0, 1))  # (8,), one number for each column of pixels
assert pixels_8[3:5].mean() > pixels_8[[0, 1, 6, 7]].mean() + 0.3

# %% claim="until the end the loss falls by another quarter"
assert 0.15 < 1 - rows[EPOCHS - 1]["loss"] / rows[7]["loss"] < 0.35

# %% [markdown]
# ## Few labels
#
# Now somebody sits down and gives a few labels: 5 or 20 of each digit. Five ways to use them:
#
# - **from scratch**: a fresh network is trained on the labelled images, as in lesson 07;
# - **fine-tuned**: the same training, which starts from the pretrained encoder;
# - **probe**: the encoder stays as it is, and only a linear layer on its features is fitted (lesson 11);
# - **probe, untrained**: the same on a fresh encoder, which has learned nothing;
# - **probe, pixels**: that linear layer on the 64 pixels, with no network at all.
#
# The last two are there to be beaten. Leave them out, and nobody can tell what the pretraining is worth, or the
# network. The encoder goes straight into a classifier: `with_head` copies it and puts a fresh head on it. The decoder
# stays behind.

# %%
from vit_tutorial.optimizers import lr_factor, parameter_groups
from vit_tutorial.transfer import features, linear_probe, with_head


# %%
def labelled(per_class, draw):
    """Draw so many images of each class: a small training set."""
    torch.manual_seed(draw)
    shuffled = torch.randperm(len(train))
    chosen = [shuffled[train.labels[shuffled] == c][:per_class] for c in range(10)]
    return train[torch.cat(chosen)]


# %%
def trained(model, few, steps=100):
    """Train on a few images, and measure on the test set: percent."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), fused=True)
    for step in range(steps):
        batch = few[torch.randperm(len(few))[:50]]
        loss = F.cross_entropy(model(normalize(batch.images, *stats)), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * lr_factor(step, steps, warmup=0.1)
        optimizer.step()
    return evaluate(model, test, *stats).accuracy


# %%
def probed(read, few):
    """Fit a linear layer to what `read` gives of the images, and measure it: percent."""
    probe = linear_probe(read(few.images), few.labels, strengths=[0.1])
    right = probe.head(read(test.images)).argmax(dim=1) == test.labels
    return 100 * right.float().mean().item()


# %%
def five_ways(few, draw):
    """Accuracy in percent of each way to use a few labelled images."""
    torch.manual_seed(draw)
    fresh, pretrained = VisionTransformer(encoder), digit_mae.encoder
    return {
        "probe, untrained": probed(lambda images: features(fresh, images, *stats), few),
        "probe": probed(lambda images: features(pretrained, images, *stats), few),
        "probe, pixels": probed(lambda images: normalize(images, *stats).flatten(1), few),
        "from scratch": trained(fresh, few),
        "fine-tuned": trained(with_head(pretrained, 10), few),
    }


# %% [markdown]
# Which images get the labels is chance. So we draw several times, and all ways get the same draws. **Predict.** Order
# the five ways, for 5 labels of each digit and for 20.

# %%
PER_CLASS, DRAWS = (5, 20), 6
measured = [[five_ways(labelled(n, draw), draw) for n in PER_CLASS] for draw in range(DRAWS)]
ways = {way: np.array([[f[way] for f in row] for row in measured]) for way in measured[0][0]}


# %%
def interval(values):
    """Mean of some draws, and the ends of its 95% interval."""
    half = T_95 * values.std(ddof=1) / len(values) ** 0.5
    return values.mean(), values.mean() - half, values.mean() + half


T_95 = 2.571  # Student's t for six draws; 1.96 would be right for very many

# %%
bars = {f"{n} each: {way}": interval(values[:, at])
        for at, n in enumerate(PER_CLASS) for way, values in ways.items()}  # fmt: skip
plots.interval_bars(bars, f"accuracy on {len(test)} test images, %", chance=10)

# %% [markdown]
# A dot is the mean of six draws, a bar its 95% interval. What counts is the difference of two ways *in the same draw*:

# %%
PAIRS = [("fine-tuned", "from scratch"), ("probe", "probe, untrained"),
         ("fine-tuned", "probe, pixels"), ("probe", "probe, pixels"), ("from scratch", "probe, pixels")]  # fmt: skip

# %%
gains = {}
for at, count in enumerate(PER_CLASS):
    print(f"{count} of each digit")
    for way, other in PAIRS:
        gains[count, way, other] = interval(ways[way][:, at] - ways[other][:, at])
        gain, low, high = gains[count, way, other]
        print(f"  {way} minus {other}: {gain:5.1f} ({low:5.1f} to {high:5.1f})")

# %% [markdown]
# Three things are worth saying.
#
# - **Pretraining helped.** Fine-tuned is ahead of from scratch for both numbers of labels, with the same images and as many
#   steps, and the interval of the difference does not hold 0. With 20 of each digit the probe, too, is ahead of the one
#   on an untrained encoder; with 5 the lower end comes close to 0. What makes the difference are 1,437 digits
#   without a label.
# - **The intervals are wide.** Six draws of 50 labels say that there is a gain, and hardly how large it is. And they hold
#   the chance in the labels only: there was one pretraining, and all training ended after 100 steps.
# - **The pixels are hard to beat.** With 5 labels of each digit, a linear layer on 64 numbers is ahead of every network
#   here, and with 20 only the fine-tuned one comes up to it. These digits are small, cut out and centred: a subject
#   made for a linear layer. Without that baseline we would have told a success story.

# %% claim="Fine-tuned is ahead of from scratch for both numbers of labels"
assert gains[5, "fine-tuned", "from scratch"][1] > 2
assert gains[20, "fine-tuned", "from scratch"][1] > 2

# %% claim="With 20 of each digit the probe, too, is ahead"
assert gains[20, "probe", "probe, untrained"][1] > 2

# %% claim="with 5 the lower end comes close to 0"
assert abs(gains[5, "probe", "probe, untrained"][1]) < 3

# %% claim="What makes the difference are 1,437 digits without a label"
assert len(train) == 1437

# %% claim="Six draws of 50 labels say that there is a gain, and hardly how large it is"
gain, low, high = gains[5, "fine-tuned", "from scratch"]
assert high - low > 3

# %% claim="a linear layer on 64 numbers is ahead of every network here"
for way in set(ways) - {"probe, pixels"}:
    assert interval(ways[way][:, 0] - ways["probe, pixels"][:, 0])[2] < -0.5

# %% claim="with 20 only the fine-tuned one comes up to it"
assert abs(gains[20, "fine-tuned", "probe, pixels"][0]) < 2.5
for way in ("probe", "probe, untrained", "from scratch"):
    assert interval(ways[way][:, 1] - ways["probe, pixels"][:, 1])[2] < -2

# %% [markdown]
# What can be had with more images and more patience is in a measurement file, made by `benchmarks/without_labels.py`:
# the network `mae` from above, on {{results.without_labels.data}}, with labels for 1% and for 10% of the training
# images. Fine-tuning and training from scratch had the same images, the same number of steps, and each its own learning
# rate, chosen on images that were held out (fine-tuning with lower rates in lower layers, lesson 11).
#
# {{table.without_labels}}
#
# Read it in pairs. With 1% of the labels, fine-tuning reaches
# {{results.without_labels.rows[row=1% fine-tuned].test_accuracy_mean:.1f}}% and training from scratch
# {{results.without_labels.rows[row=1% from scratch].test_accuracy_mean:.1f}}%; with 10% of them it is
# {{results.without_labels.rows[row=10% fine-tuned].test_accuracy_mean:.1f}}% and
# {{results.without_labels.rows[row=10% from scratch].test_accuracy_mean:.1f}}%. A linear layer on what was learned
# without labels reaches {{results.without_labels.rows[row=1% linear probe].test_accuracy_mean:.1f}}% and
# {{results.without_labels.rows[row=10% linear probe].test_accuracy_mean:.1f}}%, on an untrained encoder
# {{results.without_labels.rows[row=1% linear probe, untrained].test_accuracy_mean:.1f}}% and
# {{results.without_labels.rows[row=10% linear probe, untrained].test_accuracy_mean:.1f}}%. What pretraining is worth is
# the difference within a pair, draw by draw, in the last column: no interval holds 0. Here, too, there was one
# pretraining: what another seed of it would have given, no draw of the labels tells.
#
# With 10% of the labels a probe is behind training from scratch, and fine-tuning is ahead of both: a linear layer finds
# in the features only what lies there openly, and fine-tuning starts from them and goes on.

# %% claim="in the last column: no interval holds 0"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "without_labels.json"
of = {row["row"]: row for row in json.loads(stored.read_text())["rows"]}
for share in ("1%", "10%"):
    assert of[f"{share} fine-tuned"]["difference_low"] > 1
    assert of[f"{share} linear probe"]["difference_low"] > 1

# %% claim="With 10% of the labels a probe is behind training from scratch, and fine-tuning is ahead of both"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "without_labels.json"
of = {row["row"]: row for row in json.loads(stored.read_text())["rows"]}
probe, scratch, tuned = (np.array(of[f"10% {way}"]["test_accuracies"])
                         for way in ("linear probe", "from scratch", "fine-tuned"))  # fmt: skip
assert (scratch - probe).min() > 2
assert (tuned - scratch).min() > 2

# %% [markdown]
# ## Which features for your pictures?
#
# You have pictures of your own, and labels for a few. Is a network that was trained without labels worth more to you than
# one with labels, than an untrained one, than the pixels? You need not believe anybody: it takes seconds to measure. Put
# a folder into `MY_FOLDER`, with a folder of pictures for each class (lesson 11). Without one, the question is a toy:
# which of the four photographs does a piece of 32×32 pixels come from?

# %%
from vit_tutorial.data import ImageSet, image_folder

MY_FOLDER = ""  # for example "my_photos"
LABELLED = 4  # of each class; there must be more, to test with

# %%
uint8_pieces = rearrange(large, "b c (r p) (s q) -> (b r s) c p q", p=32, q=32)
toy = ImageSet(uint8_pieces, torch.arange(4).repeat_interleave(16), tuple(names), "pieces")

# %%
pictures = image_folder(MY_FOLDER, 32, on_error="skip") if MY_FOLDER else toy
print(len(pictures), "pictures of", len(pictures.classes), "classes")

# %%
supervised, their_card = load_checkpoint("cifar10")
torch.manual_seed(0)
untrained = VisionTransformer(mae.config.encoder).eval()
networks = {
    "with labels": (supervised, their_card),
    "without labels": (mae.encoder, card),
    "untrained": (untrained, card),
}

# %%
found = {name: features(vit, pictures.images, its.mean, its.std)
         for name, (vit, its) in networks.items()}  # fmt: skip
found["pixels"] = normalize(pictures.images, card.mean, card.std).flatten(1)


# %%
def probe_accuracy(rows, labels, per_class, draw):
    """Accuracy in percent of a probe on some of each class, on all others."""
    torch.manual_seed(draw)
    shuffled = torch.randperm(len(labels))
    chosen = torch.cat([shuffled[labels[shuffled] == c][:per_class] for c in labels.unique()])
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[chosen] = False
    head = linear_probe(rows[chosen], labels[chosen], strengths=[0.1]).head
    return 100 * (head(rows[rest]).argmax(dim=1) == labels[rest]).float().mean().item()


# %%
accuracies = {
    name: np.array([probe_accuracy(rows, pictures.labels, LABELLED, draw) for draw in range(6)])
    for name, rows in found.items()
}
plots.interval_bars(
    {name: interval(values) for name, values in accuracies.items()},
    f"accuracy with {LABELLED} labels of each class, %", chance=100 / len(pictures.classes),
)  # fmt: skip

# %% [markdown]
# For the toy, all three encoders are ahead of the pixels, and the one that has learned *nothing* is level with the one
# that was trained without labels: which photograph a piece comes from is told by its colours and its grain, and for these
# no training is needed. On the classes of CIFAR-10 the same two were twenty points apart (the table above). **What
# features are worth depends on the question. Ask yours.**
#
# An order to work in, where most of your pictures have no label:
#
# 1. Keep some labelled pictures away, to test with. Measure the pixels and an untrained network.
# 2. Measure the features of networks that others have trained (lesson 11), as here.
# 3. Only then train one without labels, on all your pictures: `fit(mae, pictures, None, config,
#    objective=reconstruction)`. It takes thousands of pictures, and hours on a laptop.
# 4. Fine-tune what is best, `with_head(mae.encoder, classes)`, and compare in the same draws of the labels.

# %% claim="all three encoders are ahead of the pixels"
for name in networks:
    assert interval(accuracies[name] - accuracies["pixels"])[1] > 0

# %% claim="the one that has learned *nothing* is level with the one that was trained without labels"
middle, low, high = interval(accuracies["untrained"] - accuracies["without labels"])
assert low < 0
assert high > 0

# %% claim="On the classes of CIFAR-10 the same two were twenty points apart"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "without_labels.json"
of = {row["row"]: row for row in json.loads(stored.read_text())["rows"]}
for share in ("1%", "10%"):
    assert 18 < of[f"{share} linear probe"]["difference"] < 26

# %% [markdown] deeper=true
# ## What has it learned?
#
# The features of a network that was trained with labels say which class an image is. Those of `mae` had another
# purpose. Let us look at the tokens of the patches themselves, after the last layer, of the three networks: `cifar10`,
# trained with labels; `mae`; and one that has learned nothing. At 96×96 pixels there are 24×24 of them. As in lesson 11,
# their first three principal components become red, green and blue.
#
# **Predict.** In which of the three will you recognise the photograph best?


# %%
def patch_tokens(vit, its_card, images):
    """Tokens of the patches after the final norm, for uint8 images of any size: (n, N, D)."""
    vit = vit.resized(images.shape[-1])
    with torch.no_grad():
        tokens = vit.forward_features(normalize(images, its_card.mean, its_card.std))
    return tokens[:, vit.config.num_prefix :]


# %%
def component_colours(tokens):
    """The first three principal components of tokens (n, N, D), as n pictures of N patches."""
    flat = tokens.flatten(0, 1) - tokens.mean(dim=(0, 1))
    _, _, directions = torch.linalg.svd(flat, full_matrices=False)
    shares = flat @ directions[:3].mT  # (n·N, 3)
    low, high = shares.quantile(torch.tensor([0.02, 0.98]), dim=0)
    colours = (255 * (shares - low) / (high - low)).clamp(0, 255).to(torch.uint8)
    side = round(tokens.shape[1] ** 0.5)
    return list(colours.view(len(tokens), side, side, 3).numpy())


# %%
at_96 = torch.stack([fit_image(open_image(photo), 96).pixels for photo in photos])
pictures = {"the photograph": list(at_96.permute(0, 2, 3, 1).numpy())}
for name, network in networks.items():
    pictures[name] = component_colours(patch_tokens(*network, at_96))
plots.picture_table(list(pictures.values()), list(pictures), names, smooth=False)

# %% [markdown]
# The untrained network shows the photograph in false colours: its tokens are the patches, a little mixed. With labels,
# things come apart: the cup and what it stands on, the suit and the flag. And without labels there are
# outlines, in colours that drift over the whole picture: tokens of `mae` differ also in *where* they are.
#
# Pictures seduce, so let us measure. First, what do the tokens of many images differ by? Their variance has three parts
# that add up to 1: what all tokens of one **image** have in common, what all tokens at one **place** have in common,
# and the **rest**, which belongs to this patch of this image. Five untrained networks, and the pixels themselves, to
# compare with.
#
# **Predict.** Which has the largest share "image"?


# %%
def parts_of_variance(tokens):
    """Shares of the variance of (n, N, D): image, place, rest."""
    total = tokens.var(dim=(0, 1), correction=0).sum()
    image = tokens.mean(dim=1).var(dim=0, correction=0).sum() / total
    place = tokens.mean(dim=0).var(dim=0, correction=0).sum() / total
    return image.item(), place.item(), (1 - image - place).item()


# %%
tokens_of = {name: patch_tokens(*network, uint8_pieces) for name, network in networks.items()}
for seed in range(1, 5):
    torch.manual_seed(seed)
    fresh = VisionTransformer(mae.config.encoder).eval()
    tokens_of[f"untrained, seed {seed}"] = patch_tokens(fresh, card, uint8_pieces)
tokens_of["pixels"] = patchify(uint8_pieces / 255, P)

# %%
shares = {name: parts_of_variance(tokens) for name, tokens in tokens_of.items()}
for name, (image, place, rest) in shares.items():
    print(f"{name:17} image {image:4.0%}  place {place:4.0%}  rest {rest:4.0%}")

# %% [markdown]
# What the picture showed is in the numbers: a third of what the tokens of `mae` differ by is their place, more than twice
# as much as in any other. Why? Perhaps because guessing needs to know what lies where; perhaps only because nothing
# asks it to forget the positions that it was given. We have not tested it. (Features that average over patches do not
# see them: all images have the same places.) The pixels and the untrained networks have the largest shares "image": their
# tokens are little more than the colours of the photograph.
#
# Second, what can a linear layer read off a token? We ask for the pixels of its **own** patch, and for those of the patch
# **two places to the right**, which a network can know only from attention. R² is 1 if all of it can be read, and 0 if
# one might as well guess the mean. The layer is fitted on a random half of the 64 pieces and tested on the other half,
# ten times. Two baselines without a network: the pixels of the own patch, since neighbours look alike; and these
# together with the mean colour of the whole piece.
#
# **Predict.** Which of them reads best what lies two patches away?

# %% claim="a third of what the tokens of `mae` differ by is their place"
assert abs(shares["without labels"][1] - 1 / 3) < 0.06

# %% claim="more than twice as much as in any other"
others = [place for name, (_, place, _) in shares.items() if name != "without labels"]
assert shares["without labels"][1] > 2.2 * max(others)

# %% claim="The pixels and the untrained networks have the largest shares"
trained_ones = max(shares["with labels"][0], shares["without labels"][0])
assert shares["pixels"][0] > trained_ones + 0.06
assert min(share[0] for name, share in shares.items() if "untrained" in name) > trained_ones + 0.03


# %%
def readable(tokens, right, fitted, held_out):
    """R² of a linear layer from tokens to the patches `right` of them, on pieces left out of the fit."""
    x = F.pad(tokens, (0, 1), value=1.0).unflatten(1, grid)[:, :, : grid[1] - right].double()
    y = tokens_of["pixels"].unflatten(1, grid)[:, :, right:].double()
    (x, y), (new_x, new_y) = ((x[part].flatten(0, 2), y[part].flatten(0, 2))
                              for part in (fitted, held_out))  # fmt: skip
    ridge = 1e-3 * len(x) * torch.eye(x.shape[1])  # a little weight decay, or it learns by heart
    layer = torch.linalg.solve(x.T @ x + ridge, x.T @ y)
    missed = (new_x @ layer - new_y).square().sum()
    return 1 - (missed / (new_y - new_y.mean(dim=0)).square().sum()).item()


# %%
mean_colour = tokens_of["pixels"].unflatten(-1, (3, -1)).mean(dim=(1, 3))  # (64, 3)
mean_colour = mean_colour[:, None].expand(-1, N, -1)
sources = {**tokens_of, "pixels, mean": torch.cat([tokens_of["pixels"], mean_colour], dim=-1)}

# %%
torch.manual_seed(0)
halves = [torch.randperm(64).split(32) for _ in range(10)]
read = {name: np.array([[readable(tokens, right, *half) for right in (0, 2)] for half in halves])
        for name, tokens in sources.items()}  # fmt: skip

# %%
for name, values in read.items():
    own, far = values.mean(axis=0)
    print(f"{name:17} own {own:.2f}, two to the right {far:.2f}")

# %% [markdown]
# - **Own patch**: untrained networks keep nearly all of it, `mae` a little less, the network that was trained with labels
#   clearly less: "cat" does not depend on it.
# - **Two to the right**: `mae` reads more than the pixels of a patch tell by themselves. One would like to say: here is
#   what it has learned. But untrained networks read *as much*, whatever their seed. They have learned nothing; their
#   attention mixes a little of every patch into every other, and that is enough. The pixels and one mean colour do better
#   than all networks.
#
# So this test does not show that `mae` has learned anything about what lies where: a linear layer finds no more of it than
# the mean colour tells. What it has learned was seen elsewhere, where it fills in more than the neighbours say, and where its
# features are worth twenty points. A number without its baselines would have told another story, and so would one split
# and one seed. (The network with labels is also larger, 128 numbers and six layers against 96 and four, and its positions
# are learned. So only the others differ in training alone.)

# %% claim="untrained networks keep nearly all of it, `mae` a little less"
own = {name: values[:, 0].mean() for name, values in read.items()}
assert min(value for name, value in own.items() if "untrained" in name) > 0.95
assert 0.85 < own["without labels"] < 0.96
assert own["with labels"] < own["without labels"] - 0.08

# %% claim="`mae` reads more than the pixels of a patch tell by themselves"
gap = read["without labels"][:, 1] - read["pixels"][:, 1]
assert gap.mean() > 0.04
assert (gap > 0).mean() > 0.85

# %% claim="untrained networks read *as much*, whatever their seed"
for name, values in read.items():
    if "untrained" in name:
        assert abs((read["without labels"] - values)[:, 1].mean()) < 0.035

# %% claim="The pixels and one mean colour do better than all networks"
for name in tokens_of:
    assert (read["pixels, mean"] - read[name])[:, 1].mean() > 0.02

# %% claim="128 numbers and six layers against 96 and four"
assert (supervised.config.embed_dim, supervised.config.depth) == (128, 6)
assert (mae.config.encoder.embed_dim, mae.config.encoder.depth) == (96, 4)

# %% [markdown] deeper=true
# ## A network that teaches itself
#
# Pixels are one thing to predict. Another is *what a network says of another view of the same picture*. That is
# **DINO** (Caron et al. 2021, arXiv 2104.14294), a name that stands for self-distillation with no labels. It has become
# known for its attention maps, which outline objects that nobody has ever pointed out to it.
#
# Two networks of one kind, a **student** and a **teacher**. From each picture two or more *views* are made, by
# cropping, shifting, changing colours. The teacher looks at one view, the student at another, and the student has to
# say what the teacher says. What do they say? K scores, through a softmax. The K entries have no names. That they come
# to mean something is the whole point.
#
# And who teaches the teacher? Nobody. It is a slow average of the student: after every step, teacher = m · teacher + (1
# − m) · student, with m near 1. By hand: m = 0.9, a weight of the teacher is 1.0, the student's is 2.0 and stays there.
# After one step the teacher's is 0.9 · 1.0 + 0.1 · 2.0 = 1.1, after two 1.19, after ten 2 − 0.9¹⁰ = 1.65.


# %% exercise="13.5"
def my_teacher_step(teacher, student, momentum):
    """Let a teacher follow its student, by one step.

    teacher: a list of tensors. student: a list of parameters, of the same shapes.
    momentum: the share of itself that the teacher keeps, from 0 to 1; the rest comes from the student.
    Returns a list of new tensors, which know nothing of the student's gradients.
    """
    ### BEGIN SOLUTION
    pairs = zip(teacher, student, strict=True)
    return [momentum * old + (1 - momentum) * new.detach() for old, new in pairs]
    ### END SOLUTION


# %%
check("13.5", my_teacher_step)
# hint("13.5")

# %% [markdown] solved_only=true
# **Why.** A weighted mean. `detach` cuts the student's gradients off; `torch.no_grad()` around the whole would do as
# well.
#
# **The common wrong answer** forgets that. The teacher then carries the graph of every step that the student has ever
# made, and the memory fills up. The other one swaps the two weights, so that the "slow" teacher is nearly the student
# itself.

# %% [markdown]
# There is a catch. The student's task is to agree with the teacher, and the easiest way for two to agree is to *say the
# same whatever they see*. There are two such ways:
#
# - always the same entry: (1, 0, 0) for every picture;
# - always everything alike: (⅓, ⅓, ⅓) for every picture.
#
# Both are perfect agreement, and worth nothing. It is called **collapse**. DINO has one remedy against each, and both
# sit in what the teacher says. By hand, two pictures and K = 3. The first entry is in the lead in both.

# %%
scores = torch.tensor([[2.0, 1.0, 0.0], [2.0, 0.0, 1.0]])  # the teacher's, one row for each picture
center = scores.mean(dim=0)  # in training a running mean over many batches
ways_to_say = {
    "softmax": scores.softmax(dim=1),
    "centred": (scores - center).softmax(dim=1),
    "sharpened": (scores / 0.1).softmax(dim=1),
    "both": ((scores - center) / 0.1).softmax(dim=1),
}
for name, weights in ways_to_say.items():
    rounded = [[round(w, 2) for w in row] for row in weights.tolist()]
    each = torch.special.entr(weights).sum(dim=1).mean()
    together = torch.special.entr(weights.mean(dim=0)).sum()
    print(
        f"{name:10} {rounded[0]} {rounded[1]}   entropy of each {each:.2f}, together {together:.2f}"
    )

# %% [markdown]
# **Centring** subtracts from each entry its mean over many pictures: what is said of *every* picture does not count,
# and no entry can lead everywhere. Alone it pushes towards everything alike. **Sharpening** divides by a small
# temperature: the leading entry takes nearly all. Alone it pushes towards one entry. Together they want each picture to
# be sure (a low entropy of each row) and all of them together to use several entries (a high entropy of the mean). In our
# two pictures only "both" has one and the other.
#
# The loss is a cross-entropy, as in lesson 07, with what the teacher says as the soft target.

# %% claim="In our two pictures only"
sure = {name: torch.special.entr(w).sum(dim=1).mean() for name, w in ways_to_say.items()}
together = {name: torch.special.entr(w.mean(dim=0)).sum() for name, w in ways_to_say.items()}
good = [name for name in sure if sure[name] < 0.3 and together[name] > 0.5]
assert good == ["both"]


# %% exercise="13.6"
def my_dino_loss(student, teacher, center, student_temp, teacher_temp):
    """Compute DINO's loss from scores.

    student: (views, B, K). teacher: (g, B, K), of the first g of these views, in the same order.
    center: (K,), subtracted from the teacher's scores only. The temperatures divide.
    For each pair of a teacher's view and a *different* student's view: the cross-entropy between the
    teacher's softmax and the student's, mean over the images.
    Returns the mean over all pairs, (). Gradients reach the student and not the teacher.
    """
    ### BEGIN SOLUTION
    aims = ((teacher.detach() - center) / teacher_temp).softmax(dim=-1)
    logs = (student / student_temp).log_softmax(dim=-1)
    losses = []
    for i, aim in enumerate(aims):
        for j, said in enumerate(logs):
            if i != j:
                losses.append(-(aim * said).sum(dim=-1).mean())
    return torch.stack(losses).mean()
    ### END SOLUTION


# %%
check("13.6", my_dino_loss)
# hint("13.6")

# %% [markdown] solved_only=true
# **Why.** `log_softmax` and not the logarithm of a softmax: with a small temperature weights underflow to 0, and their
# logarithm is infinite. Two views that are the same picture cut the same way are left out, since there the student
# would learn to copy.
#
# **The common wrong answer** lets gradients into the teacher. Then the teacher learns to be easy to predict, and the
# two meet in a collapse. The other one divides before it centres: the centre is a mean of scores, and must be
# subtracted from scores.

# %% [markdown]
# Now with a small network on the digits (two hidden layers, and K = 16 entries at the end; no attention is
# needed to see this). A view is the digit shifted by up to one pixel, with some noise.

# %%
import math

digit_pixels, K = normalize(train.images, *stats), 16


# %%
def view(images):
    """Shift each image (B, 1, 8, 8) by up to a pixel, and add noise."""
    each = torch.arange(len(images))[:, None, None]
    rows, columns = torch.arange(8) + torch.randint(3, (2, len(images), 1))  # (B, 8) both
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    shifted = padded[each, 0, rows[:, :, None], columns[:, None, :]]
    return (shifted + 0.3 * torch.randn_like(shifted))[:, None]


# %%
def small_network():
    layers = [nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32), nn.GELU(), nn.Linear(32, K)]
    return nn.Sequential(nn.Flatten(), *layers)


# %%
def entropy(weights):
    """Of the last axis, the mean over all others: a number."""
    return torch.special.entr(weights).sum(dim=-1).mean().item()


# %%
def train_dino(centring=True, sharpening=True, seed=0, steps=350, momentum=0.98):
    """Return the trained teacher, and per step the entropies: of each image, of all together."""
    torch.manual_seed(seed)
    student, center, curve = small_network(), torch.zeros(K), []
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3, fused=True)
    for _ in range(steps):
        batch = digit_pixels[torch.randint(len(digit_pixels), (128,))]
        one, other = view(batch), view(batch)
        said = torch.stack([teacher(other), teacher(one)])  # crosswise
        aim = ((said - center * centring) / (0.04 if sharpening else 1.0)).softmax(dim=-1)
        logs = (torch.stack([student(one), student(other)]) / 0.1).log_softmax(dim=-1)
        optimizer.zero_grad()
        (-(aim * logs).sum(dim=-1).mean()).backward()
        optimizer.step()
        for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
            old.lerp_(new.detach(), 1 - momentum)
        center = 0.9 * center + 0.1 * said.mean(dim=(0, 1))
        curve.append((entropy(aim), entropy(aim.mean(dim=(0, 1)))))
    return teacher, np.array(curve).T


# %% [markdown]
# **Predict.** Three kinds of training: with both remedies, without centring, without sharpening. Draw the two entropies
# for each.

# %%
KINDS = {
    "both": {},
    "without centring": {"centring": False},
    "without sharpening": {"sharpening": False},
}
runs = {(kind, seed): train_dino(**without, seed=seed)
        for kind, without in KINDS.items() for seed in range(3)}  # fmt: skip

# %%
panels = {
    kind: dict(
        zip(("entropy of each image", "entropy of all together"), runs[kind, 0][1], strict=True)
    )
    for kind in KINDS
}
plots.curve_panels(panels, "step", {f"ln {K}, all alike": math.log(K)})

# %% [markdown]
# The figure shows the first of three seeds; the other two end much alike.
#
# - **Both**: first it becomes unsure of every digit, and then surer and surer (blue falls), while all together go on using
#   most of the entries (orange stays high).
# - **Without centring**, both fall to 0, or in another seed nearly so: it is sure, and says the same entry for every digit,
#   or for nearly every one.
# - **Without sharpening**, both stay at ln 16: it says everything alike for every digit.
#
# In the last two the student agrees with the teacher, and has learned nothing, or next to nothing. (The paper's figure 7 shows
# the same of a ViT.) And in the first? Which digits get the same entry? No label was used until now.

# %% claim="then surer and surer (blue falls), while all together go on using most of the entries"
for seed in range(3):
    each, together = runs["both", seed][1]
    assert each[-20:].mean() < 0.6 * each.max()
    assert together[-20:].mean() > math.log(6)
    assert together[-20:].mean() > each[-20:].mean() + 0.7

# %% claim="first it becomes unsure of every digit"
for seed in range(3):
    each = runs["both", seed][1][0]
    assert each.max() > each[0] + 0.4

# %% claim="both fall to 0, or in another seed nearly so"
assert runs["without centring", 0][1][:, -20:].max() < 0.2
for seed in range(3):
    each, together = runs["without centring", seed][1][:, -20:].mean(axis=1)
    assert each < 0.2
    assert together < math.log(2)

# %% claim="both stay at ln 16"
for seed in range(3):
    assert runs["without sharpening", seed][1][:, 50:].min() > 0.97 * math.log(K)

# %%
teacher = runs["both", 0][0]
entry = teacher(digit_pixels).argmax(dim=1)  # which of the 16 is in the lead
for k in entry.unique().tolist():
    inside = torch.bincount(train.labels[entry == k], minlength=10)
    most = inside.topk(3).indices.tolist()
    told = ", ".join(f"{inside[c]}× {c}" for c in most if inside[c])
    print(f"entry {k:2}: {inside.sum():3} digits, most of them {told}")

# %%
named = []
for seed in range(3):
    teacher = runs["both", seed][0]
    entry = teacher(digit_pixels).argmax(dim=1)
    names_of = [torch.bincount(train.labels[entry == k], minlength=10).argmax() for k in range(K)]
    guess = torch.stack(names_of)[teacher(unseen).argmax(dim=1)]
    named.append(100 * (guess == test.labels).float().mean().item())
print("entries named after their most frequent digit, accuracy:", [f"{a:.0f}%" for a in named])

# %% [markdown]
# The entries have come to mean something, and nobody has told them what. Name each after its most frequent digit, and in
# all three trainings about half of the test digits or more are named right, where guessing would give 10%. It is far from
# a classifier, and far from nothing.

# %% claim="in all three trainings about half of the test digits or more"
assert min(named) > 40

# %% claim="It is far from a classifier, and far from nothing."
assert max(named) < 85
assert min(named) > 30

# %% [markdown] deeper=true
# ## DINO's maps
#
# With a ViT as student, many views (two large, several small ones) and ImageNet without its labels, the attention of
# CLS in the last layer begins to outline objects. Why? The paper shows it and does not prove it. One explanation: the
# student sees a small crop and has to say what the teacher says of a large one, so what helps is what both share, which
# is most often the object and not its surroundings. A classifier has no such reason: it needs only enough of the object
# to name it.
#
# Such a network does not come with this course. With `FULL = True` the next cell loads the public weights (22 million
# parameters, about 90 MB, by timm) and draws the six heads. Without a network it says so.

# %%
FULL = False

# %%
if FULL:
    from IPython.display import display

    from vit_tutorial import record_attention
    from vit_tutorial.pretrained import load_network

    try:
        dino, reading = load_network("timm:vit_small_patch16_224.dino")
    except ValueError as reason:
        print(reason)
    else:
        fitted = fit_image(open_image(photos[0]), reading.size)
        record = record_attention(dino, normalize(fitted.pixels[None], reading.mean, reading.std))
        maps = record.weights[-1][0, :, 0, record.num_prefix :].unflatten(-1, record.grid)
        heads = [f"head {n}" for n in range(len(maps))]
        display(plots.map_row(np.asarray(fitted.view()), maps.numpy(), heads))

# %% [markdown]
# Two things to remember when you see such maps. They are attention, with all that lessons 08 and 09 said of it: a place
# that is read need not be a place that counts. And they are chosen: out of many layers the paper shows the last one.
# Look at all layers of yours, and at more than one picture.

# %% [markdown]
# ## What we now have
#
# | what | shape | package |
# |---|---|---|
# | order: a permutation for each image, visible patches first | (B, N) | `draw_order` |
# | tokens of the visible patches | (B, V, D) | `mae.encode(images, order[:, :V])` |
# | hidden or not, in the places of the image | (B, N) bool | `hidden_patches(order, V)` |
# | predictions for all patches | (B, N, C·P·P) | `mae.predict(images, order, V)` |
# | loss on hidden patches | () | `mae(images)`, `objective=reconstruction` |
# | the picture, filled in | (B, C, H, W) | `mae.reconstruct(images, order, V)` |
# | a classifier with the encoder's weights | logits (B, K classes) | `with_head(mae.encoder, classes)` |
#
# Learning without labels needs a question that the picture answers itself. A masked autoencoder asks for pixels; DINO
# asks for agreement between views, and must forbid the easy ways to agree. What comes out is an encoder, and its worth
# is measured with labels in the end, a few of them, beside the pixels and an untrained network.

# %% [markdown] deeper=true
# ## The questions people ask
#
# **"Why hide so much? Language models hide 15%."** A word is hard to guess from its neighbours, a patch is not. At 15%
# every hidden patch has visible neighbours to copy from, and copying teaches little; at 75% a third of them have none:

# %%
beside = (torch.cdist(places, places) - 1).abs() < 1e-6  # (N, N): share a side

# %%
order, alone = draw_order(1000, N), {}
for ratio in (0.15, 0.5, 0.75, 0.9):
    hidden = hidden_patches(order, round((1 - ratio) * N))
    visible_beside = ((~hidden).float() @ beside.float())[hidden]  # neighbours that are visible
    alone[ratio] = (visible_beside == 0).float().mean().item()
    print(f"{ratio:.0%} hidden: {visible_beside.mean():.1f} visible neighbours, "
          f"none for {alone[ratio]:.0%}")  # fmt: skip

# %% claim="every hidden patch has visible neighbours to copy from, and copying teaches little; at 75% a third of them have none"
assert alone[0.15] < 0.01
assert 0.3 < alone[0.75] < 0.42

# %% [markdown]
# **"Can labels have slipped in?"** `fit` got them, together with the images. So test it: with false labels the training
# must end with the same weights, to the bit.

# %%
from dataclasses import replace

few, weights = train[torch.arange(128)], []
for labels in (few.labels, few.labels.roll(1)):
    torch.manual_seed(0)
    twin = MaskedAutoencoder(digit_mae.config)
    one_epoch = TrainConfig(epochs=1, batch_size=64, precision="float32")
    fit(twin, replace(few, labels=labels), None, one_epoch, objective=reconstruction)
    weights.append(torch.cat([p.detach().flatten() for p in twin.parameters()]))
assert torch.equal(*weights)
print(f"equal: {len(weights[0]):,} parameters")

# %% claim="with false labels the training must end with the same weights, to the bit"
assert torch.equal(*weights)
assert not torch.equal(few.labels, few.labels.roll(1))

# %% [markdown]
# **"The paper normalises its targets. Why were ours plain?"** Because we wanted to see pictures. A network that was
# trained on normalised targets does not know how bright a hidden patch is; to draw one, its mean and its contrast are
# borrowed from the very patch that is hidden. Here is how good a picture gets by borrowing alone, with no network: the
# mean of each hidden patch, one number, as the paper's; or its mean colour, three numbers.

# %%
torch.manual_seed(0)
order = draw_order(64, N)
hidden = hidden_patches(order, 16)

# %%
own_mean = wanted.mean(dim=-1, keepdim=True).expand_as(wanted)  # one number for each patch
own_colour = wanted.unflatten(-1, (3, -1)).mean(dim=-1).repeat_interleave(P * P, dim=-1)  # three
with torch.no_grad():
    guesses = {"our network": mae.predict(pieces, order, 16), "borrowed means": own_mean}
    guesses |= {
        "borrowed colours": own_colour,
        "one colour": guess_by_neighbours(pieces, order, 16, 0),
    }

# %%
borrowed = {}
for name, guess in guesses.items():
    borrowed[name] = (guess - wanted).square().mean(dim=-1)[hidden].mean().item()
    print(f"{name:18} {borrowed[name]:.3f}")

# %% [markdown]
# The borrowed means go nearly half of the way from one colour to our network, the borrowed colours go further than the
# network itself, and nothing was learned. On the 10,000 test images of CIFAR-10 it is the same (the card of `mae` has both
# numbers). So be careful with pictures of such networks: ask what was borrowed. As features normalised targets can be
# better; `norm_pixels=True` is there to try it.

# %% claim="go nearly half of the way from one colour to our network"
way = (borrowed["one colour"] - borrowed["borrowed means"]) / (
    borrowed["one colour"] - borrowed["our network"]
)
assert 0.38 < way < 0.56

# %% claim="the borrowed colours go further than the network itself"
assert borrowed["borrowed colours"] < 0.9 * borrowed["our network"]

# %% claim="On the 10,000 test images of CIFAR-10 it is the same"
assert card.evaluation["n"] == 10_000
assert card.evaluation["own_mean_colour_error"] < 0.8 * card.evaluation["hidden_error"]

# %% [markdown]
# **"What is left of it afterwards?"** The encoder, and it is a plain `VisionTransformer`:

# %%
classifier = with_head(mae.encoder, 10)
with torch.no_grad():
    assert_close(classifier.forward_features(images), mae.encoder.forward_features(images))
for name, part in {"encoder": mae.encoder, "decoder": mae.decoder}.items():
    print(f"{name}: {sum(p.numel() for p in part.parameters()):,} parameters")

# %% [markdown]
# **"Can it invent pictures?"** It gives the mean of what is possible. The less it sees, the more that is: contrast
# (standard deviation of the pixels) of what it fills in, beside that of the truth.

# %%
contrasts = {}
for visible in (1, 4, 16, 48):
    hidden = hidden_patches(order, visible)
    with torch.no_grad():
        made = mae.predict(pieces, order, visible)[hidden]
    contrasts[visible] = made.std().item(), wanted[hidden].std().item()
    print(
        "{:2} of 64 visible: contrast {:.2f} instead of {:.2f}".format(visible, *contrasts[visible])
    )

# %% claim="The less it sees, the more that is"
made = [made for made, _ in contrasts.values()]
assert made == sorted(made)
assert made[0] < 0.75 * contrasts[1][1]

# %% [markdown]
# To invent one needs to *choose* one of the many possible pictures. Networks that generate images do that, step by
# step, and are another subject.
#
# **"Is it worth it where I have labels for everything?"** Then the comparison is with training for longer, with more
# augmentation, and with weights that somebody else has trained (lesson 11). Measure it. The numbers above say what was
# gained at 1% and at 10%, with a small network and short trainings, and nothing about other sizes.

# %% [markdown] deeper=true
# ## A stretch
#
# - `trained` makes 100 steps. Make it 200 or 400, with 20 labels of each digit. How much of the gain over training from
#   scratch is left, and how much of it was only a head start?
# - Train `digit_mae` with other mask ratios, from 0.25 to 0.9, and measure the fine-tuned accuracy with 5 labels of
#   each digit. Is there a best one? How many draws do you need to be sure?
# - Give the decoder four layers, or eight. The paper found that a probe cares, and fine-tuning does not.
# - `norm_pixels=True`: does the probe gain or lose, and does fine-tuning?
# - Leave the average out in `train_dino`, `momentum=0.0`. Does it collapse? Try it with three seeds before you believe
#   it.
# - On a computer with time: `python benchmarks/without_labels.py --data cifar10` trains `mae` again and measures
#   everything that this lesson quotes.
