# %% [markdown]
# # 02 · Patch embedding and the CLS token
#
# **How does a patch of pixels become a token, and which token speaks for the whole image?**
#
# Lesson 01 ended with a sequence of patches, 48 pixel values each. A Transformer wants a sequence of tokens:
# vectors of one fixed width, in which the network can note down whatever it needs. One linear layer leads from
# the first to the second. In most implementations you will find a convolution in its place: you will see that they
# are the same thing. Then we add one token that belongs to no patch at all.

# %%
from vit_tutorial import plots

plots.network_map("embedding")

# %% [markdown]
# ## One patch, one token, by hand
#
# Take a grey patch of 2×2 pixels, and two **filters** of the same size. A filter is a grid of weights. Lay it
# on the patch, multiply number by number, add up, add a **bias**: that is one number. The first filter below
# has equal weights. The second has −1 on the left and 1 on the right.
#
# **Predict.** What does the first filter measure, and what does the second? What would the second answer to a
# patch in which all pixels are equal?

# %%
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from skimage import data as photographs
from torch import Tensor, nn

from vit_tutorial import fit_image, load_checkpoint, normalize, open_image, patchify
from vit_tutorial.lessons import check, hint

# %%
patch = torch.tensor([[1.0, 5.0], [2.0, 8.0]])
filters = torch.tensor([[[0.25, 0.25], [0.25, 0.25]], [[-1.0, 1.0], [-1.0, 1.0]]])
bias = torch.tensor([0.0, -4.0])
plots.embedding_by_hand(patch.numpy(), filters.numpy(), bias.numpy())

# %% [markdown]
# One filter measures how bright the patch is, the other how much brighter it is on the right than on the left
# (to equal pixels it answers with its bias alone). Together the two answers, (4, 6), are the **token** of this
# patch. **D** is the number of filters, and so the width of a token; here D = 2.
#
# For colour images a filter has weights for each of the C channels, C·P·P in all. You know this kind of layer: each
# output is a weighted sum of all inputs plus a bias. It is a linear layer from C·P·P numbers to D, and is called the
# **patch embedding**.

# %% claim="Together the two answers, (4, 6), are the **token**"
assert ((filters * patch).sum(dim=(1, 2)) + bias).tolist() == [4, 6]

# %% claim="to equal pixels it answers with its bias alone"
assert (filters[1] * torch.full((2, 2), 7.0)).sum() + bias[1] == bias[1]

# %% [markdown] deeper=true
# ## How much a patch embedding learns
#
# How many numbers does the layer learn, its weights and its biases together? And for images of 224×224 pixels, which
# have 49 times as many patches as those of 32×32?


# %% exercise="02.1"
def embedding_parameters(height, width, patch_size, in_chans, dim):
    """Count the parameters of a patch embedding: all its weights and all its biases.

    height, width: of the images, in pixels; patch_size: P; in_chans: C; dim: D.
    Returns one whole number.
    """
    ### BEGIN SOLUTION
    return dim * (in_chans * patch_size**2 + 1)
    ### END SOLUTION


# %%
check("02.1", embedding_parameters)
# hint("02.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** A filter has C·P·P weights and one bias, and there are D filters. Height and width play no part: the
# filters are shared by all patches, so a larger image makes more tokens with the same numbers.
#
# **The common wrong answer** multiplies by the number of patches. That would be a layer with filters of its own
# for every place; it could not even be used on an image of another size.

# %% [markdown]
# ## All patches at once
#
# Now the real thing: Chelsea the cat (photograph by Stéfan van der Walt, CC0), and the network from
# lesson 00 with its D = 128 filters of 3×4×4 weights. They are stored as one tensor:

# %%
vit, card = load_checkpoint("cifar10")
vit.requires_grad_(False)  # we only look
image = fit_image(open_image(photographs.chelsea()), 32).pixels  # uint8 (C, H, W)
images = normalize(image[None], card.mean, card.std)  # (B, C, H, W)
weight, bias = vit.patch_embed.proj.weight, vit.patch_embed.proj.bias
print("images", tuple(images.shape), " weight", tuple(weight.shape), " bias", tuple(bias.shape))

# %% [markdown]
# It does not matter where a patch comes from: **every patch meets the same filters.** If the network learns to notice
# an edge, it notices it everywhere.
#
# One patch, flattened, is a row of C·P·P numbers. So is one filter. Multiplying number by number and adding up is
# what a matrix product does, for every row with every row at once: the matrix of all patches is (N, C·P·P), that of
# all filters is (D, C·P·P), and we want each patch with each filter, (N, D). Both must be flattened in the **same
# order**, so that every weight meets its own pixel. That is why lesson 01 insisted on an order: channel by channel,
# and in each row by row.


# %% exercise="02.2"
def my_patch_embed(images, weight, bias):
    """Embed all patches of all images, without a loop over patches and without a convolution.

    images: (B, C, H, W); patches of P×P pixels fit exactly.
    weight: (D, C, P, P), the filters; P is not always 4.
    bias: (D,).
    Returns the tokens, (B, N, D), patches in the order of patchify.
    """
    ### BEGIN SOLUTION
    patches = patchify(images, weight.shape[-1])  # (B, N, C*P*P)
    return patches @ weight.flatten(1).T + bias
    ### END SOLUTION


# %%
check("02.2", my_patch_embed)
# hint("02.2")

# %% [markdown] solved_only=true
# **Why.** `weight.flatten(1)` keeps the filters apart and lays each out as `patchify` lays out a patch: (c, p, q),
# in that order. The bias (D,) is added to the last axis of (B, N, D), so each token gets all of it.
#
# **The common wrong answer** is `weight.reshape(-1, D)`. It has the shape that the product wants, (C·P·P, D), but
# a reshape does not swap axes. It cuts the row of all numbers anew, and mixes the filters with each other.

# %% [markdown]
# In most implementations stands a **convolution**: it slides a filter (its **kernel**) over the image and notes its
# answer wherever it stands. How far it moves from one place to the next is its **stride**. With stride 1, our 4×4
# filter can stand at 29 places in each direction (32 − 4 + 1).
#
# **Predict.** With stride 4, at how many places does it stand? Which pixels does it cover twice, which never?

# %%
strongest = weight.flatten(1).norm(dim=1).argmax()  # the longest of the 128 filters
one = weight[strongest][None]  # (1, 3, 4, 4)
maps = {f"stride {s}": F.conv2d(images, one, stride=s)[0, 0].numpy() for s in (1, 2, 4)}
counts = [f"{m.shape[0]}×{m.shape[1]} answers" for m in maps.values()]
shown = image.permute(1, 2, 0).numpy()
plots.response_maps(shown, list(maps.values()), list(maps), counts)

# %% claim="can stand at 29 places in each direction"
assert maps["stride 1"].shape == (29, 29)

# %% [markdown]
# The strongest answers, dark blue, run along the dark line from the left eye to the nose; in the eyes there are a few orange
# ones. A stride as large as the filter makes it step from patch to patch: each pixel is covered once, and the answers at the
# places in between are simply never computed. So the patch embedding *is* a convolution whose stride is the size of
# its kernel. The package uses one. Its result comes as D maps, (B, D, rows, columns); the last line below makes
# (B, N, D) of them.

# %% claim="The strongest answers, dark blue, run along the dark line from the left eye to the nose"
most = maps["stride 1"].argsort(axis=None)[:8]  # the lowest answers, by their upper left corners
assert all(8 <= row <= 23 for row in most // 29)
assert all(10 <= column <= 19 for column in most % 29)
assert np.abs(maps["stride 1"]).max() == -maps["stride 1"].min()

# %% claim="in the eyes there are a few orange ones"
eyes = maps["stride 1"][8:16, 6:13], maps["stride 1"][11:17, 21:27]
assert all(0 < (eye > 0.5).sum() < eye.size / 2 for eye in eyes)

# %% claim="each pixel is covered once"
assert F.fold(F.unfold(torch.ones(1, 1, 32, 32), 4, stride=4), (32, 32), 4, stride=4).unique() == 1

# %% claim="the answers at the places in between are simply never computed"
np.testing.assert_allclose(maps["stride 4"], maps["stride 1"][::4, ::4], rtol=1e-4, atol=1e-4)
assert maps["stride 4"].shape == (8, 8)

# %% claim="the patch embedding *is* a convolution whose stride is the size of its kernel"
linear = F.linear(patchify(images, 4), weight.flatten(1), bias)
conv = F.conv2d(images, weight, bias, stride=4).flatten(2).mT
assert torch.allclose(linear, conv, atol=1e-4)

# %% definition="vit_tutorial.model.PatchEmbed"

# %% [markdown]
# The 64 patches of Chelsea become 64 tokens of width 128.

# %% claim="64 tokens of width 128"
assert vit.patch_embed(images).shape == (1, 64, 128)

# %%
tokens = vit.patch_embed(images)
print(tuple(tokens.shape))

# %% [markdown] deeper=true
# ## Is it right?
#
# We compare four ways, in double precision (`float64`), where rounding is too small to hide a mistake: a loop, the
# matrix product with PyTorch's own linear layer, PyTorch's convolution, and the class above.


# %%
def tokens_by_loop(image, weight, bias):
    """Embed one image: (C, H, W) -> (N, D)."""
    P = weight.shape[-1]
    tokens = []
    for top in range(0, image.shape[1], P):
        for left in range(0, image.shape[2], P):
            patch = image[:, top : top + P, left : left + P]  # (C, P, P)
            tokens.append((weight * patch).sum(dim=(1, 2, 3)) + bias)  # (D,)
    return torch.stack(tokens)


# %% [markdown]
# The images are random and not square, and the weights are not learned but random.

# %%
torch.manual_seed(0)
kinds = {"dtype": torch.float64, "requires_grad": True}
w, b = torch.randn(10, 3, 4, 4, **kinds), torch.randn(10, **kinds)
embed = PatchEmbed(img_size=(8, 12), patch_size=4, in_chans=3, embed_dim=10).double()
embed.proj.load_state_dict({"weight": w, "bias": b})
x = torch.randn(2, 3, 8, 12, **kinds)  # (B, C, H, W)

# %%
loop = torch.stack([tokens_by_loop(image, w, b) for image in x])
linear = F.linear(patchify(x, 4), w.flatten(1), b)
conv = F.conv2d(x, w, b, stride=4).flatten(2).transpose(1, 2)
for name, way in {"a loop": loop, "flatten + linear": linear, "a convolution": conv}.items():
    torch.testing.assert_close(way, embed(x))
    print(f"{name:17}{tuple(way.shape)}, largest difference {(way - embed(x)).abs().max():.0e}")

# %% [markdown]
# The differences are rounding. Equal results are half of it. Training follows the **gradients**: how the loss changes
# with each weight, each bias and each pixel. Two ways of computing that learn differently would not be the same layer.

# %% claim="The differences are rounding."
assert (loop - embed(x)).abs().max() < 1e-11
assert (linear - embed(x)).abs().max() < 1e-11

# %%
of_output = torch.randn(2, 6, 10, dtype=torch.float64)  # what a loss might send back
of_linear = torch.autograd.grad(linear, (x, w, b), of_output)
of_conv = torch.autograd.grad(conv, (x, w, b), of_output)
torch.testing.assert_close(of_linear, of_conv)
print("equal gradients for images, weight, bias:", [tuple(g.shape) for g in of_conv])

# %% [markdown]
# Flatten + linear, or a convolution with stride P: two names for one layer. Weights can move from one form to
# the other, if the order is right. And orders differ. Many implementations flatten a patch pixel by pixel,
# with the channels of a pixel side by side: (p, q, c) instead of our (c, p, q).

# %% claim="two names for one layer"
assert all(torch.allclose(one, other) for one, other in zip(of_linear, of_conv, strict=True))


# %% exercise="02.3"
def kernel_from_linear(weight, patch_size):
    """Turn the weight of a linear layer into the kernel of a convolution.

    weight: (D, P*P*C). Each row: pixel by pixel, row by row, and for each pixel its C channels.
    Returns the kernel, (D, C, P, P), that gives the same tokens.
    """
    ### BEGIN SOLUTION
    return rearrange(weight, "d (p q c) -> d c p q", p=patch_size, q=patch_size)
    ### END SOLUTION


# %%
check("02.3", kernel_from_linear)
# hint("02.3")

# %% [markdown] solved_only=true
# **Why.** Split the row into (p, q, c), as it was made, and move c to the front. Without einops:
# `weight.reshape(D, P, P, C).permute(0, 3, 1, 2)`.
#
# **The common wrong answer** is `weight.reshape(D, C, P, P)`. The shape fits and the network runs, but the weight
# for the green of the first pixel is now used for the red of the second. Nothing but a comparison of results
# would tell you.

# %% [markdown] deeper=true
# ## From maps to tokens: two silent mistakes
#
# The convolution returns (B, D, rows, columns), and its D numbers must move to the end. Two ways to get that wrong
# raise no error.
#
# The first is a plain `reshape` to (B, N, D), which moves nothing. **Predict.** For the photograph of Chelsea,
# which of the 64·128 answers does it put into "token 0"?

# %%
filter_of = torch.arange(128)[:, None, None].expand(128, 8, 8)  # of every answer, its filter
by_reshape = filter_of.reshape(64, 128)[0]
print("answers in token 0, by filter:", by_reshape.bincount().tolist())

# %% [markdown]
# Token 0 should hold one answer of each of the 128 filters. Here it holds all 64 of filter 0 and all 64 of filter 1,
# from all over the image. It is not a token of any patch.
#
# The second mistake concerns **LayerNorm**, which lesson 05 introduces: from each token subtract its mean, and divide
# by its standard deviation. `nn.LayerNorm(D)` normalises the *last* axis, whatever stands there.

# %% claim="Here it holds all 64 of filter 0 and all 64 of filter 1"
assert by_reshape.bincount().tolist() == [64, 64]


# %% exercise="02.4"
def normed_tokens(maps):
    """Turn a convolution's result into tokens, each normalised by itself.

    maps: (B, D, rows, columns).
    Returns (B, N, D), tokens row by row. Each has mean 0 and variance 1 over its D numbers: subtract
    the mean, divide by the square root of (variance + 1e-6). There are no learned weights.
    """
    ### BEGIN SOLUTION
    tokens = rearrange(maps, "b d r s -> b (r s) d")
    return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    ### END SOLUTION


# %%
check("02.4", normed_tokens)
# hint("02.4")

# %% [markdown] solved_only=true
# **Why.** First the shape, then the norm: once the D numbers of a token are the last axis, the norm can only take
# the right ones.
#
# **The common wrong answer** normalises what the convolution returns. Where the last axis happens to have D
# entries nobody complains, and each number is then compared with the neighbouring patches, as one filter sees
# them, instead of with the other numbers of its token.

# %% [markdown]
# On the convolution's result the last axis is a row of the image. Usually LayerNorm then raises an error, because the
# grid does not have D columns. But here is a network with 8 filters on an 8×8 grid:

# %%
eight = vit.patch_embed.proj(images)[:, :8]  # (1, 8, 8, 8): B, D, rows, columns
too_early = nn.LayerNorm(8)(eight).flatten(2).mT  # (1, 64, 8)
print(f"largest mean of a token: {too_early.mean(dim=2).abs().max():.2f}, where 0 is right")

# %% [markdown]
# No error, and the means of the tokens are not 0.

# %% claim="the means of the tokens are not 0"
assert too_early.mean(dim=2).abs().max() > 0.5

# %% [markdown] deeper=true
# ## What has been learned
#
# Here are all 128 filters of the trained network, as pictures: one weight per pixel and channel, grey for zero,
# each scaled to its own largest weight. They are sorted by their **length** (the root of the sum of all squared
# weights), the longest first.
#
# **Predict.** What will they look like: edges, colours, eyes and ears, noise?

# %%
order = weight.flatten(1).norm(dim=1).argsort(descending=True)
plots.filter_pictures(weight[order].numpy(), "128 learned filters of 4×4 pixels, longest first")

# %% [markdown]
# Some show an edge or a colour, but many look like coloured noise. Have they learned anything?
#
# Ask what there is to learn: which patterns do *photographs* have in common? We take the patches of four photographs
# (Chelsea; the astronaut Eileen Collins, by NASA, public domain; a cup of coffee, by Rachel Michetti, CC0; and a rocket
# launch, by SpaceX, CC0). **Principal components** sort in what patches differ: pattern 0 is the one that makes up most
# of their differences, pattern 1 makes up most of the rest, and so on.

# %%
names, sizes = ("chelsea", "astronaut", "coffee", "rocket"), (32, 64, 128)
shots = [fit_image(getattr(photographs, name)(), size).pixels for name in names for size in sizes]
shown = torch.cat([patchify(shot[None], 4)[0] for shot in shots])  # uint8, to be looked at
world = torch.cat([patchify(normalize(s[None], card.mean, card.std), 4)[0] for s in shots])

# %%
shares, patterns = torch.linalg.eigh(torch.cov(world.T))  # how 48 numbers vary together
shares, patterns = (shares / shares.sum()).flip(0), patterns.T.flip(0)  # most frequent first
print(f"{len(world):,} patches; pattern 0 makes up {shares[0]:.0%} of what they differ in")
for name, rows in {"patches": world, "filters": weight.flatten(1)}.items():
    cells = rows.unflatten(1, (3, 4, 4))  # (n, C, P, P)
    beside = torch.stack([cells[..., 1:].flatten(), cells[..., :-1].flatten()])
    print(f"{name}: correlation of numbers side by side {beside.corrcoef()[0, 1]:.2f}")

# %% [markdown]
# Two thirds: it is brightness, all pixels lighter or all darker. In a patch of a photograph, neighbouring pixels are
# nearly alike; in the filters they agree far less, and that is why they look like noise.
#
# For each pattern we measure the **gain**: how long the
# token is that the embedding makes of a pattern of length 1 (without the bias). We compare the trained network with a
# fresh one, made of random numbers.
#
# **Predict.** Will the trained network pass on brightness more strongly than the next 15 patterns, or more weakly?


# %% claim="neighbouring pixels are nearly alike; in the filters they agree far less"
def alike(patches):
    x = patches.unflatten(1, (3, 4, 4))
    return torch.corrcoef(torch.stack([x[..., 1:].flatten(), x[..., :-1].flatten()]))[0, 1]


assert alike(world) > 0.85
assert alike(weight.flatten(1)) < 0.4

# %% claim="Two thirds: it is brightness, all pixels lighter or all darker."
assert 0.6 < shares[0] < 0.75
assert patterns[0].sign().unique().numel() == 1

# %%
from vit_tutorial import VisionTransformer

torch.manual_seed(0)
fresh = VisionTransformer(vit.config).patch_embed.proj.weight.detach()
both = {"trained": weight, "fresh, random": fresh}
gains = {name: (w.flatten(1) @ patterns.T).norm(dim=0).numpy() for name, w in both.items()}
made = card.training  # with a rate that rises and falls: on average half of the highest
steps, rate = made["epochs"] * 50_000 / made["batch_size"], made["lr"] / 2
by_decay = np.exp(-steps * rate * made["weight_decay"])  # of a weight that nothing else moves
fine = (gains["trained"] / gains["fresh, random"])[17:].mean()
print(f"fine patterns: {fine:.0%} of the fresh network's; weight decay alone leaves {by_decay:.0%}")
plots.pattern_gains(patterns.unflatten(1, (3, 4, 4)).numpy(), shares.numpy(), gains, shown=30)

# %% [markdown]
# Now the learning shows. The fresh network passes everything on nearly alike. The trained one
#
# - passes **patterns 1 to 15** on more strongly than the fresh one: colour, edges, corners, bars, green against purple,
#   orange against blue;
# - passes the **fine patterns** from 17 on at about half of that of the fresh one. (The 18 finest, not drawn here, too.)
#   Photographs hardly contain them, so there was little to learn, and they mostly shrank: *weight decay*, which makes every
#   weight a little smaller at each step of training (lesson 07), would by itself have left nearly as little;
# - passes **brightness** on more weakly than each of the patterns 1 to 15, though photographs differ in it most. But
#   measured by what merely shrank, it was turned up, too.
#
# How much of the filters is that, and how much of their answers?

# %% claim="The fresh network passes everything on nearly alike."
assert gains["fresh, random"].max() < 1.6 * gains["fresh, random"].min()

# %% claim="passes **patterns 1 to 15** on more strongly than the fresh one"
assert (gains["trained"][1:16] > 1.08 * gains["fresh, random"][1:16]).all()

# %% claim="passes the **fine patterns** from 17 on at about half"
ratio = gains["trained"] / gains["fresh, random"]
assert 0.4 < ratio[17:].mean() < 0.6
assert ratio[17:].max() < 0.85

# %% claim="Photographs hardly contain them"
assert shares[17:].sum() < 0.02

# %% claim="would by itself have left nearly as little"
assert 0.44 < by_decay < 0.48
assert by_decay < fine < by_decay + 0.1

# %% claim="passes **brightness** on more weakly than each of the patterns 1 to 15"
assert gains["trained"][0] < 0.85 * gains["trained"][1:16].min()

# %% claim="measured by what merely shrank, it was turned up, too"
ratio = gains["trained"] / gains["fresh, random"]
assert ratio[0] > 1.3 * ratio[17:].mean()

# %%
for name, gain in gains.items():
    squares = gain**2 / (gain**2).sum()
    parts = (
        f"{squares[1:16].sum():.0%} in patterns 1 to 15, {squares[17:].sum():.0%} in the fine ones"
    )
    print(f"{name:14} squared weights: {parts}")
filters = weight.flatten(1)  # (D, C·P·P)
fine = world @ patterns[17:].T @ patterns[17:] @ filters.T  # the answers' part from fine patterns
varied = (fine.var(dim=0).sum() / (world @ filters.T).var(dim=0).sum()).item()
print(f"of how the answers vary, the fine patterns make {varied:.1%}")

# %% [markdown]
# So the filters are not noise: four fifths of their squared weights lie in patterns 1 to 15 (of random filters a third, as 15
# of 48 are), which each filter mixes in its own way. The fine patterns hold most of the rest, and hardly touch the answers.

# %% claim="four fifths of their squared weights lie in patterns 1 to 15 (of random filters a third"
parts = {name: gain**2 / (gain**2).sum() for name, gain in gains.items()}
assert 0.75 < parts["trained"][1:16].sum() < 0.87
assert 0.28 < parts["fresh, random"][1:16].sum() < 0.37

# %% claim="The fine patterns hold most of the rest, and hardly touch the answers"
parts = gains["trained"] ** 2 / (gains["trained"] ** 2).sum()
assert parts[17:].sum() > 0.8 * (1 - parts[1:16].sum())
assert varied < 0.005

# %% [markdown]
# **Play.** Move through the 24 longest filters. Left: the filter, and below it the four patches of our photographs that
# it answers to with the largest numbers (orange) and with the smallest (blue). Right: its answer to every patch of a
# picture, yours if you like. With `pixels` you choose how finely the picture is cut; 32 is what the network was trained
# for.

# %%
MY_PHOTO = ""  # for example "my_dog.jpg"

mine = open_image(MY_PHOTO or photographs.astronaut())
square = fit_image(mine, 320).pixels.permute(1, 2, 0).numpy()
answers_at = {}
for size in (32, 128):
    fitted = normalize(fit_image(mine, size).pixels[None], card.mean, card.std)
    answers_at[size] = vit.patch_embed.proj(fitted)[0]  # (128, rows, columns)

# %%
ranks = (world @ weight.flatten(1).T).argsort(dim=0, descending=True)  # of all patches, per filter
pictures = rearrange(shown, "n (c p q) -> n p q c", c=3, p=4).numpy()


def draw(filter, pixels):
    number = int(order[filter])
    answers = answers_at[pixels][number]  # (rows, columns)
    row, column = divmod(int(answers.argmax()), answers.shape[1])
    words = (
        f"Filter {number}, number {filter} by length. Its answers to {answers.numel():,} patches run "
        f"from {answers.min():.1f} to {answers.max():.1f}, the largest in row {row}, column {column}. "
        f"The colours: blue −{answers.abs().max():.1f}, white 0, orange {answers.abs().max():.1f}."
    )
    most, least = pictures[ranks[:4, number]], pictures[ranks[-4:, number]]
    return plots.filter_view(weight[number].numpy(), square, answers.numpy(), most, least), words


# %%
from vit_tutorial import flipbook

flipbook(draw, filter=list(range(24)), pixels=[32, 128], start={"pixels": 128})

# %% [markdown]
# Some of its pictures, for those who read without a running kernel:

# %%
still, words = draw(0, 128)
print(words)
plots.photo_row([still], ["filter number 0, the picture, and the answers to its 32×32 patches"])

# %%
still, words = draw(3, 128)
print(words)
plots.photo_row([still], ["filter number 3, the picture, and the answers to its 32×32 patches"])

# %% [markdown]
# A noisy filter, and yet a clear answer. Number 0 looks for an edge from light, lower left, to dark, upper right. Of the four
# patches that number 3 answers to with the smallest numbers, three are red.

# %% claim="Number 0 looks for an edge from light, lower left, to dark, upper right."
best, worst = (
    world[ranks[part, order[0]]].unflatten(1, (3, 4, 4)).mean(dim=(0, 1))
    for part in (slice(50), slice(-50, None))
)  # (rows, columns)
for light, dark in ((best, best.flip(0, 1)), (worst.flip(0, 1), worst)):
    assert light[3].mean() - dark[3].mean() > 0.3  # below against above
    assert light[:, 0].mean() - dark[:, 0].mean() > 0.5  # left against right

# %% claim="Of the four patches that number 3 answers to with the smallest numbers, three are red"
red, green, blue = world[ranks[-4:, order[3]]].unflatten(1, (3, 16)).mean(dim=2).T
assert (red - torch.maximum(green, blue) > 0.25).sum() == 3

# %% [markdown]
# ## Which token speaks for the image?
#
# We have N tokens, one for each patch. A classifier needs *one* vector for the whole image. There are two usual
# answers:
#
# - **The mean** of all N tokens, at the end of the network.
# - **CLS** (for "class"): one more token, put in front of the patches. It comes from no patch. It is a vector of D
#   numbers that the network learns, the same for every image. In the encoder it collects from the others what it
#   needs, and at the end the answer is read from it alone. The idea comes from BERT, a network for text (Devlin
#   et al. 2018, arXiv 1810.04805).
#
# With CLS there are **T** = N + 1 tokens.

# %%
cls_token = vit.cls_token  # (1, 1, 128): 128 numbers, whatever the image and the batch
print(tuple(cls_token.shape), [f"{value:.2f}" for value in cls_token[0, 0, :6].tolist()], "...")

# %% [markdown]
# There is one CLS token, but each image of the batch needs it in its own sequence. `Tensor.expand` repeats an axis of
# length 1 as often as you like, without copying a number; −1 means "leave this axis as it is".

# %% claim="without copying a number"
assert cls_token.expand(4, -1, -1).data_ptr() == cls_token.data_ptr()
assert cls_token.expand(4, -1, -1).shape == (4, 1, 128)


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


# %%
check("02.5", my_add_cls)
# hint("02.5")

# %% [markdown] solved_only=true
# **Why.** `torch.cat` joins along dimension 1, the tokens, and wants all other axes equal, so CLS must be (B, 1, D)
# first. `repeat(B, 1, 1)` would do as well; `expand` copies nothing.
#
# **The common wrong answer** puts CLS at the end. The network runs, but whatever reads token 0 now reads the
# patch in the upper left corner.

# %% [markdown] deeper=true
# ## CLS in a module
#
# CLS is learned, so PyTorch must know of it. A module finds its parameters by itself, if they are an
# `nn.Parameter` and stand directly on `self`.
#
# **Predict.** Which of these five will `named_parameters()` list?


# %%
class Attempts(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = torch.zeros(1, 1, 128)
        self.parameter = nn.Parameter(torch.zeros(1, 1, 128))
        self.moved = nn.Parameter(torch.zeros(1, 1, 128)).to(torch.float64)
        self.scaled = nn.Parameter(torch.randn(1, 1, 128)) * 0.02
        self.inside = [nn.Parameter(torch.zeros(1, 1, 128))]


print([name for name, _ in Attempts().named_parameters()])

# %% [markdown]
# PyTorch finds one. `.to(...)` and `* 0.02` return *new* tensors that are no parameters any more, and PyTorch does not
# look into Python lists. A network with such a CLS token runs and gives answers; it neither trains nor saves nor moves
# it. (With `* 0.02` the second training step stops: the multiplication was done only once, and its gradients are used
# up.) A common one is `nn.Parameter(...).to(device)`: on the CPU there is nothing to move, and the parameter itself
# comes back; on a GPU the same line makes a CLS token that is never trained. So ask for the names, always.
#
# Another common mistake is to size CLS by the batch, `nn.Parameter(torch.zeros(B, 1, D))`. Then every *place in the
# batch* has a CLS token of its own, and the last batch, which is smaller, stops with an error.

# %% claim="PyTorch finds one."
assert [name for name, _ in Attempts().named_parameters()] == ["parameter"]

# %% claim="it neither trains nor saves nor moves it"
assert list(Attempts().state_dict()) == ["parameter"]
assert Attempts().double().scaled.dtype == torch.float32

# %% claim="With `* 0.02` the second training step stops"
attempt, stops = Attempts(), []
for step in range(2):
    try:
        (attempt.scaled**2).sum().backward()
    except RuntimeError as error:
        stops.append((step, "second time" in str(error)))
assert stops == [(1, True)]

# %% claim="the last batch, which is smaller, stops with an error"
by_batch, tokens_of_last = torch.zeros(4, 1, 8), torch.zeros(3, 64, 8)
try:
    joined = torch.cat([by_batch, tokens_of_last], dim=1)
except RuntimeError:
    joined = None
assert joined is None

# %% claim="on the CPU there is nothing to move, and the parameter itself comes back"
assert isinstance(nn.Parameter(torch.zeros(1)).to("cpu"), nn.Parameter)


# %% exercise="02.6"
class MyTokens(nn.Module):
    """Turn images into the sequence that enters the encoder, without positions.

    MyTokens(patch_size, in_chans, dim): images (B, C, H, W) -> (B, N + 1, dim), CLS in front.
    Its parameters: those of a patch embedding, and `cls_token` (1, 1, dim). H and W are known only
    when images come, and B is another one each time.
    """

    def __init__(self, patch_size, in_chans, dim):
        super().__init__()
        ### BEGIN SOLUTION
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        ### END SOLUTION

    def forward(self, images):
        ### BEGIN SOLUTION
        tokens = rearrange(self.proj(images), "b d r s -> b (r s) d")
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        ### END SOLUTION


# %%
check("02.6", MyTokens)
# hint("02.6")

# %% [markdown] solved_only=true
# **Why.** What is learned is made in `__init__`, once, and does not know the batch. What depends on the batch happens
# in `forward`. To start CLS from small random numbers, make the numbers first and wrap them last:
# `nn.Parameter(torch.randn(1, 1, dim) * 0.02)`.
#
# **The common wrong answer** does something *after* `nn.Parameter(...)`, and the result is no parameter.

# %% [markdown]
# ## What a token has seen before the first block
#
# **Predict.** Two different photographs go through the embedding. In how many of their 65 tokens will they differ?

# %%
rocket = normalize(fit_image(photographs.rocket(), 32).pixels[None], card.mean, card.std)
differs = (vit.embed(images) != vit.embed(rocket)).any(dim=2)[0]  # (65,)
print("CLS differs:", differs[0].item())
print("patch tokens that differ:", differs[1:].sum().item(), "of 64")

# %% [markdown]
# All patch tokens differ, and CLS does not. So what has a token seen of an image? Change one pixel after the other a
# little, and measure how far the token moves. We ask for four vectors: CLS and the token of patch 27 as they enter the
# first block, the mean of the patch tokens there, and CLS after the first block.

# %% claim="All patch tokens differ, and CLS does not."
assert not differs[0]
assert differs[1:].all()

# %%
nudged = images + torch.eye(1024).reshape(1024, 1, 32, 32)  # in each another pixel


def touched(vector_of):
    """Measure how far each pixel moves a vector: (H, W), from 0 up."""
    moved = vector_of(vit.embed(nudged)) - vector_of(vit.embed(images))  # (1024, 128)
    return moved.norm(dim=1).reshape(32, 32).numpy()


# %%
looks = {
    "CLS, before": lambda x: x[:, 0],
    "patch 27, before": lambda x: x[:, 1 + 27],
    "mean, before": lambda x: x[:, 1:].mean(dim=1),
    "CLS, after one block": lambda x: vit.blocks[0](x)[:, 0],
}
seen = {name: touched(look) for name, look in looks.items()}
plots.touched_pixels([one**0.5 for one in seen.values()], list(seen))

# %% [markdown]
# Each panel is scaled to its own largest (and drawn as roots, so that small ones show).
#
# - **CLS** has seen no pixel at all.
# - **A patch token** has seen its own 16 pixels and no other.
# - **The mean** has seen all pixels, and all patches in exactly the same way: the pattern repeats.
# - **CLS after one block** has seen all pixels too, but not all alike: the four corner patches, a sixteenth of the picture,
#   make a quarter of all that moves it, the upper right one alone half of that. In the block, *attention* lets it choose
#   from whom it takes how much. Lesson 04 builds it.

# %% claim="**CLS** has seen no pixel at all."
assert seen["CLS, before"].max() == 0

# %% claim="**A patch token** has seen its own 16 pixels and no other."
own = [[y, x] for y in range(12, 16) for x in range(12, 16)]
assert np.argwhere(seen["patch 27, before"]).tolist() == own

# %% claim="all patches in exactly the same way: the pattern repeats"
assert seen["mean, before"].min() > 0.01
assert np.allclose(seen["mean, before"], np.tile(seen["mean, before"][:4, :4], (8, 8)), atol=1e-5)

# %% claim="**CLS after one block** has seen all pixels too"
assert seen["CLS, after one block"].min() > 1e-3

# %% claim="make a quarter of all that moves it, the upper right one alone half of that"
by_patch = seen["CLS, after one block"].reshape(8, 4, 8, 4).sum(axis=(1, 3))
corners = by_patch[[0, 0, 7, 7], [0, 7, 0, 7]] / by_patch.sum()
assert 0.2 < corners.sum() < 0.29
assert 0.4 < corners[1] / corners.sum() < 0.6

# %% [markdown] deeper=true
# ## What the mean sees
#
# The mean of tokens is **linear**, and so is the embedding. So at the start, the mean token is the token of the mean
# patch: one blurred patch of 48 numbers stands for the whole image.

# %%
tokens = vit.patch_embed(images)  # (1, 64, 128)
mean_patch = patchify(images, 4).mean(dim=1)  # (1, 48)
torch.testing.assert_close(tokens.mean(dim=1), F.linear(mean_patch, weight.flatten(1), bias))
print("the mean token is the token of the mean patch")

# %% claim="at the start, the mean token is the token of the mean patch"
assert torch.allclose(tokens.mean(1), F.linear(mean_patch, weight.flatten(1), bias), atol=1e-4)

# %% [markdown]
# So the mean, too, depends on the blocks: they must first write into each patch token what it means in this image.
# How much of the answer can be read off, and when? We take the network for digits, stop it after 0, 1, 2, 3 and 4
# blocks, and fit a linear readout (by least squares, on the training images) to CLS and to the mean of the patch
# tokens. The network itself is not changed.
#
# **Predict.** Ten classes, so guessing gives 10%. What will CLS and the mean give before the first block?

# %%
from vit_tutorial.data import digits

digits_vit, digits_card = load_checkpoint("digits")
train, test = digits("train"), digits("test")


# %%
def streams(images):
    """Give the tokens after 0, 1, ... blocks: (B, T, D) each."""
    with torch.no_grad():
        tokens = [digits_vit.embed(normalize(images, digits_card.mean, digits_card.std))]
        for block in digits_vit.blocks:
            tokens.append(block(tokens[-1]))
    return tokens


# %%
def readout(known, asked):
    """Fit vectors (B, D) to the training labels; return how many test images are right, in percent."""
    known, asked = (F.pad(vectors.double(), (0, 1), value=1.0) for vectors in (known, asked))
    wanted = F.one_hot(train.labels.long(), 10).double()
    fitted = torch.linalg.lstsq(known, wanted, driver="gelsd", rcond=1e-5).solution  # (D + 1, 10)
    return 100 * ((asked @ fitted).argmax(1) == test.labels).double().mean().item()


# %%
pairs = list(zip(streams(train.images), streams(test.images), strict=True))
curves = {
    "CLS": [readout(a[:, 0], b[:, 0]) for a, b in pairs],
    "mean of the patches": [readout(a[:, 1:].mean(1), b[:, 1:].mean(1)) for a, b in pairs],
}
plots.readout_curves(curves, chance=10, title="Digits: what can be read off CLS and off the mean")

# %% [markdown]
# Before the first block, CLS knows nothing: guessing. The mean knows as much as one blurred patch of four pixels tells,
# 20%. One block later both know most of the answer, and in the end nearly all of it, CLS and the mean within a few
# percent of each other, though this network was *trained* to put its answer into CLS. (`rcond` tells the fit to ignore
# directions in which the vectors differ by rounding alone.)

# %% claim="Before the first block, CLS knows nothing: guessing."
assert 5 < curves["CLS"][0] < 15

# %% claim="as much as one blurred patch of four pixels tells, 20%"
assert 15 < curves["mean of the patches"][0] < 27

# %% claim="One block later both know most of the answer"
assert min(curve[1] for curve in curves.values()) > 75

# %% claim="in the end nearly all of it, CLS and the mean within a few percent of each other"
assert min(curve[-1] for curve in curves.values()) > 91
assert abs(curves["CLS"][-1] - curves["mean of the patches"][-1]) < 5

# %% [markdown] deeper=true
# ## Attention can choose, the mean cannot
#
# The weight of each patch in the mean is 1/64, in every image. In CLS's attention it depends on the image:

# %%
from vit_tutorial import record_attention

weights = {}  # last layer, from CLS to the patches: (heads, 64)
for name, photo in {"Chelsea": images, "rocket": rocket}.items():
    weights[name] = record_attention(vit, photo).weights[-1][0, :, 0, 1:]
    for head, row in enumerate(weights[name]):
        print(f"{name:8} head {head}: from {row.min():.1%} to {row.max():.1%}; mean {1 / 64:.1%}")

# %% [markdown]
# In every head one patch gets many times what it would get in a mean, and another next to nothing. Head 3 gives one patch of
# the rocket 71%, and none of Chelsea's more than 29%.
#
# That matters when some patches hold nothing. In lesson 00, `fit="pad"` framed a photograph with grey bars, so that
# nothing was cut off. CLS can learn to pass over them. A plain mean has no such choice of its own; we can make it:

# %% claim="In every head one patch gets many times what it would get in a mean"
assert all((w.max(dim=1).values * 64 > 5).all() for w in weights.values())

# %% claim="and another next to nothing"
assert all((w.min(dim=1).values * 64 < 0.1).all() for w in weights.values())

# %% claim="Head 3 gives one patch of the rocket 71%, and none of Chelsea's more than 29%"
assert abs(weights["rocket"][3].max() - 0.71) < 0.02
assert abs(weights["Chelsea"][3].max() - 0.29) < 0.02


# %% exercise="02.7"
def mean_of_kept(tokens, keep):
    """Average only some of the tokens of each image.

    tokens: (B, N, D). What should be left out may hold anything, even NaN.
    keep: bool (B, N), True for the tokens to average; at least one in each image.
    Returns (B, D).
    """
    ### BEGIN SOLUTION
    kept = tokens.masked_fill(~keep[..., None], 0)
    return kept.sum(dim=1) / keep.sum(dim=1, keepdim=True)
    ### END SOLUTION


# %%
check("02.7", mean_of_kept)
# hint("02.7")

# %% [markdown] solved_only=true
# **Why.** `keep[..., None]` is (B, N, 1), and fits (B, N, D). What is not kept is replaced by 0, which adds nothing
# to the sum; then the sum is divided by the number of tokens kept, for each image its own.
#
# **The common wrong answer** multiplies by the mask. That is right until something left out is NaN or infinite:
# NaN · 0 is NaN. (Dividing by N instead of by what was kept is the other one: each grey bar then makes the
# vector shorter.)

# %% [markdown]
# ## What we now have
#
# | what | shape | here |
# |---|---|---|
# | images, normalised | (B, C, H, W) | (1, 3, 32, 32) |
# | patches | (B, N, C·P·P) | (1, 64, 48) |
# | filters, as kernel and as matrix | (D, C, P, P), (D, C·P·P) | (128, 3, 4, 4), (128, 48) |
# | the convolution's result | (B, D, rows, columns) | (1, 128, 8, 8) |
# | patch tokens | (B, N, D) | (1, 64, 128) |
# | CLS token | (1, 1, D) | (1, 1, 128) |
# | tokens, T = N + 1 | (B, T, D) | (1, 65, 128) |
#
# Token 0 is CLS, token 1 + i is patch i. From here to the end of the encoder this shape does not change any more.
# What is missing is *where* each patch was: lesson 03.

# %% claim="From here to the end of the encoder this shape does not change any more."
x, shapes = vit.embed(images), set()
for block in vit.blocks:
    x = block(x)
    shapes.add(tuple(x.shape))
assert shapes == {(1, 65, 128)}

# %% [markdown] deeper=true
# ## The questions people ask
#
# ### Why is a convolution used, if a ViT has no convolutions?
#
# Because it is the same layer, and convenient: one call on images as they come, without cutting them first. What
# people mean by "convolutions" is something else: filters that *overlap*, layer after layer, so that neighbours
# are mixed. Change a single pixel, and see how many answers change:

# %%
nudged = images.clone()
nudged[0, :, 12, 12] += 1  # one pixel
changes = []
for size, stride in ((4, 4), (3, 1), (7, 2)):
    layer = nn.Conv2d(3, 8, kernel_size=size, stride=stride)
    changed = ((layer(nudged) - layer(images)).abs() > 1e-6).any(dim=1)[0]
    changes += [changed.sum().item()]
    print(f"{size}×{size}, stride {stride}: {changes[-1]:2} of {changed.numel()} places change")

# %% [markdown]
# With stride = kernel size, a pixel reaches one token, and no token knows its neighbour; where filters overlap it
# reaches several. In the whole network no two tokens meet before attention. (Is it faster as a convolution, too? That
# depends on the machine; time it.)
#
# ### Why is a token 128 wide, when a patch has only 48 numbers?
#
# Width is a choice. A token is not a compressed patch: it is the space in which the whole network works, and it will
# have to hold the position, and what is learned from other patches. If D ≥ C·P·P, nothing of the patch need be
# lost. Here the way back exists, and we can compute the photograph from the tokens:

# %% claim="a pixel reaches one token, and no token knows its neighbour; where filters overlap it reaches several"
assert changes[0] == 1
assert min(changes[1:]) > 4

# %%
matrix = weight.flatten(1).double()  # (128, 48)
print("rank:", torch.linalg.matrix_rank(matrix).item(), "of 48")
tokens = vit.patch_embed(images).double()
recovered = (tokens - bias) @ torch.linalg.pinv(matrix).T  # (1, 64, 48)
error = (recovered - patchify(images, 4)).abs().max()
print(f"largest error of a pixel: {error:.0e}")

# %% [markdown]
# All 48 numbers of a patch come back, up to rounding.
#
# ### ViT-B has D = 768 = 16·16·3. Must D equal C·P·P?
#
# No, it is a coincidence of one network of the family. The widths of ViT-B and ViT-L were taken over from BERT:

# %% claim="All 48 numbers of a patch come back, up to rounding."
assert torch.linalg.matrix_rank(matrix) == 48
assert error < 1e-4

# %%
family = {"ViT-S/16": (16, 384), "ViT-B/16": (16, 768), "ViT-B/32": (32, 768)}
family |= {"ViT-L/16": (16, 1024), "ours, cifar10": (4, 128)}
for name, (P, width) in family.items():
    kept = "all can be kept" if width >= 3 * P * P else f"at most {width} can be kept"
    print(f"{name:14} patch of {3 * P * P:5,} numbers, D = {width:5,}: {kept}")

# %% [markdown]
# Where D is smaller, as in ViT-S/16 and ViT-B/32, the layer must choose. It can afford to, as neighbouring pixels say
# nearly the same. Here is Chelsea, from the first patterns of photographs alone (deeper: "What has been learned"):

# %% claim="Where D is smaller, as in ViT-S/16 and ViT-B/32"
smaller = {name for name, (P, width) in family.items() if width < 3 * P * P}
assert smaller == {"ViT-S/16", "ViT-B/32"}

# %%
fine = normalize(fit_image(photographs.chelsea(), 96).pixels[None], card.mean, card.std)
cut, average = patchify(fine, 4)[0], world.mean(dim=0)  # (576, 48), (48,)


def from_patterns(count):
    kept = (cut - average) @ patterns[:count].T  # (576, count): all that is kept
    flat = kept @ patterns[:count] + average
    pixels = rearrange(flat, "(r s) (c p q) -> (r p) (s q) c", r=24, c=3, p=4)
    pixels = pixels * torch.tensor(card.std) + torch.tensor(card.mean)
    return (pixels.clamp(0, 1) * 255).byte().numpy()


titles = {n: f"{n} of 48 numbers: {shares[:n].sum():.0%}" for n in (1, 4, 12)}
plots.photo_row([from_patterns(n) for n in titles], list(titles.values()))

# %% [markdown]
# One number already shows the cat, in one tint; 4 add edges, 12 the colours: 99% of what the patches of our photographs
# differ in.
#
# ### What does CLS start from, zero or random numbers?
#
# Both are in use, and with both CLS gets a gradient at once:

# %% claim="12 the colours: 99% of what the patches of our photographs differ in"
assert 0.985 < shares[:12].sum() < 0.995
tinted = [
    from_patterns(n).astype(float) for n in (1, 12)
]  # how far the channels part, pixel by pixel
assert np.corrcoef(tinted[0][..., 0].flatten(), tinted[0][..., 1].flatten())[0, 1] > 0.98
spread = [(one[..., 0] - one[..., 2]).std() for one in tinted]
assert spread[1] > 1.5 * spread[0]

# %%
torch.manual_seed(0)
fresh_vit = VisionTransformer(digits_vit.config)
sample = normalize(train.images[:64], digits_card.mean, digits_card.std)
lengths = []
for name, start in {"zeros": torch.zeros(1, 1, 64), "random": 0.02 * torch.randn(1, 1, 64)}.items():
    fresh_vit.cls_token.data = start
    loss = F.cross_entropy(fresh_vit(sample), train.labels[:64].long())
    (gradient,) = torch.autograd.grad(loss, fresh_vit.cls_token)
    lengths += [gradient.norm().item()]
    print(f"from {name:6}: loss {loss:.3f}, length of the gradient of CLS {lengths[-1]:.3f}")

# %% [markdown]
# Neither gradient is small. The code of the ViT paper starts from zeros; this package from random numbers with a
# standard deviation of 0.02.
#
# ### Must CLS stand in front?
#
# No, that is a habit. Attention does not care for the order of its tokens (lesson 03 proves it), so CLS may just
# as well stand at the end, as long as the classifier (`vit.head`) reads the token that is CLS:

# %% claim="Neither gradient is small."
assert min(lengths) > 0.2

# %% claim="this package from random numbers with a standard deviation of 0.02"
assert 0.015 < VisionTransformer(vit.config).cls_token.std() < 0.025

# %%
x = vit.embed(images).roll(-1, dims=1)  # CLS moves to the end
for block in vit.blocks:
    x = block(x)
logits = vit.head(vit.norm(x))  # (1, 65, 10), of every token
torch.testing.assert_close(logits[:, -1], vit(images))
print("read at the end, as ever:", logits[0, -1].topk(2).values)
print("read in front, from a patch:", logits[0, 0].topk(2).values)

# %% [markdown]
# Read at the end, the logits are those of the network as it was; read in front, they are others.
#
# ### CLS or mean: which is better?
#
# The authors of the ViT paper tried both and found them about equal, once each had the learning rate that suits it
# (appendix D.3). What differs is how an answer comes about. A linear classifier on a mean
# is a **vote**: it is the mean of what the classifier says to each patch alone.

# %% claim="Read at the end, the logits are those of the network as it was; read in front, they are others."
assert torch.allclose(logits[:, -1], vit(images), atol=1e-3)
assert (logits[:, 0] - vit(images)).abs().max() > 0.1

# %%
final = digits_vit.norm(streams(test.images)[-1])  # (360, 17, 64)
votes = digits_vit.head(final[:, 1:])  # (360, 16, 10): what every patch says
torch.testing.assert_close(digits_vit.head(final[:, 1:].mean(dim=1)), votes.mean(dim=1))
print("the answer to the mean is the mean of the patches' answers")

# %% [markdown]
# Each patch has one vote, and it counts as much as any other, so you can see who voted for what. CLS instead takes what
# it wants from whom it wants, in every layer anew, and it gives you one row of attention to look at (lesson 08). This course trains with CLS, and the package knows both:
# `ViTConfig(pool="cls")` and `ViTConfig(pool="mean")`.

# %% [markdown] deeper=true
# ## A stretch
#
# Multiply `vit.cls_token` by 0, 2, 10 and 100 (in a copy of the digits network) and count how many of the 360 test
# digits are still right. Does the network need the numbers in CLS? What else tells CLS from the patches? Do the same
# with its row of `pos_embed`, and then with both.
#
# And a longer one: train the digits network twice, with `pool="cls"` and with `pool="mean"`, with three seeds each
# (`vit_tutorial.train.fit`, half a minute for each run). Is the difference between the two larger than the difference
# between two seeds?
