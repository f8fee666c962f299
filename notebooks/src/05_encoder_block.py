# %% [markdown]
# # 05 · The encoder block
#
# **What does a layer do to a token, and why can so many of them be stacked?**
#
# Attention is half of a layer. The other half is a small network of two linear layers, an MLP. Around the two
# stand a normalisation and an addition, and it is these two plain things that allow 12, 24 or 100 layers in a row.
#
# **You will**
#
# - follow the tokens of a photograph through a trained network, layer by layer,
# - normalise a token by hand, and write LayerNorm,
# - see what sets MLP and attention apart, and build the block,
# - *deeper:* write GELU, MLP and drop path, prove the block equal to the library's, compare pre-norm and
#   post-norm over 24 layers.

# %%
from vit_tutorial import fit_image, load_checkpoint, normalize, open_image, plots

plots.network_map("block")

# %% [markdown]
# ## A stream
#
# We start with the trained network of lesson 00 and Chelsea the cat (photograph by Stéfan van der Walt,
# CC0), or a photograph of yours. This is one of its six layers, an **encoder block**:

# %%
import numpy as np
import torch
import torch.nn.functional as F
from skimage import data as photographs
from torch import Tensor, nn

MY_PHOTO = ""  # for example "my_dog.jpg"

vit, card = load_checkpoint("cifar10")
photo = open_image(MY_PHOTO or photographs.chelsea())
fitted = fit_image(photo, 32)
images = normalize(fitted.pixels[None], card.mean, card.std)  # (1, 3, 32, 32)
print(vit.blocks[0])

# %% [markdown]
# Two norms, attention, an MLP. The list does not say how they are connected, so we listen in. A *hook* is a
# function that PyTorch calls whenever a module has computed something. Ours keeps what each attention and
# each MLP returned, in order: 6 layers, two **half-blocks** each, 12 results.

# %%
added = []  # what each half-block returned, (1, T, D) each


def keep(module, inputs, output):
    added.append(output)


# %%
parts = [part for block in vit.blocks for part in (block.attn, block.mlp)]
hooks = [part.register_forward_hook(keep) for part in parts]
with torch.no_grad():
    start = x = vit.embed(images)  # (1, T, D): the tokens before the first block
    for block in vit.blocks:
        x = block(x)
for hook in hooks:
    hook.remove()  # or it would go on listening
print(len(added), "results of shape", tuple(added[0].shape), "= (B, T, D)")

# %% claim="6 layers, two **half-blocks** each, 12 results"
assert len(added) == 2 * len(vit.blocks) == 12

# %% [markdown]
# **Predict.** `x` is now what leaves the last block. How is it made from the input `start` and the 12 results?
# Is it the last result? Their product? Something else?

# %%
torch.testing.assert_close(x, start + sum(added))
print("what leaves the last block = the input + everything that the 12 half-blocks returned")

# %% [markdown]
# However many layers there are, it is a plain sum. No layer ever replaces a token. Each half-block reads it, and
# adds something to it. The tokens are a **residual stream** that runs through the network from end to end
# (residual, because a layer has to provide only what is still missing; He et al. 2015, arXiv 1512.03385).
#
# Hence the stream after so many half-blocks is the input and as many results, summed up. How long are these
# vectors (the root of the sum of their squares)? And which way do they point? The *cosine* of two vectors is 1
# for the same direction, 0 for a right angle.

# %% claim="it is a plain sum"
assert (x - start - sum(added)).abs().max() < 1e-4 * x.abs().max()
assert (x - added[-1]).abs().max() > 1

# %% [markdown]
# **Predict.** Does a token get longer or shorter on its way? And at the end, does it still point in the direction
# in which it started?

# %%
stream = torch.stack([start, *added]).cumsum(dim=0)[:, 0]  # (13, T, D)
written = torch.cat(added)  # (12, T, D)
lengths, written_lengths = stream.norm(dim=-1), written.norm(dim=-1)  # (13, T), (12, T)
cosines = torch.cosine_similarity(stream, stream[:1], dim=-1)  # (13, T)
averages = [values.mean(1).numpy() for values in (lengths, written_lengths, cosines)]
plots.stream_lengths(*averages)

# %%
angles = torch.cosine_similarity(stream[:-1], written, dim=-1).mean(1)  # (12,)
print("cosine of what is written with what it finds:", *[f"{a:.2f}" for a in angles])

# %% [markdown]
# The bars are what is added, the line is the stream. For Chelsea the first MLP more than
# doubles a token's length; from there it grows slowly to 3.7 times its first length, and the last layer takes
# a little back. All the way it turns: at the end, the cosine with the input is 0.14. Little of a token is
# what its patch was, most is what the layers have added.
#
# The stream does not grow by the full length of what is added. Most half-blocks write nearly at a right angle to
# what they find: something new. For Chelsea three point partly *against* it: the attention of layer 0 (hence no growth there) and
# both halves of layer 5. (Other photographs give other numbers; try one.)

# %% claim="the first MLP more than doubles a token's length"
assert averages[0][2] > 2.2 * averages[0][1]

# %% claim="it grows slowly to 3.7 times its first length, and the last layer takes a little back"
mean = averages[0]
assert (np.diff(mean[2:11]) > 0).all()
assert np.diff(mean[2:11]).max() < 4
assert 3.65 < mean.max() / mean[0] < 3.75
assert mean.argmax() == 10
assert 0.85 * mean[10] < mean[12] < mean[11] < mean[10]

# %% claim="All the way it turns: at the end, the cosine with the input is 0.14"
assert (np.diff(averages[2]) < 0.01).all()
assert 0.135 < averages[2][-1] < 0.147

# %% claim="The stream does not grow by the full length of what is added"
assert averages[0][-1] - averages[0][0] < 0.25 * averages[1].sum()

# %% claim="Most half-blocks write nearly at a right angle to what they find"
assert (angles.abs() < 0.2).sum() >= 8

# %% claim="three point partly *against* it: the attention of layer 0 (hence no growth there) and both halves of layer 5"
assert (angles < -0.15).nonzero()[:, 0].tolist() == [0, 10, 11]
assert averages[0][1] < averages[0][0]

# %% [markdown]
# Which patches have the longest vectors?

# %%
after = {"the input": 0, "after layer 0": 2, "after layer 2": 6, "after layer 5": 12}
maps = [lengths[step, 1:].unflatten(0, (8, 8)).numpy() for step in after.values()]
plots.map_row(np.asarray(fitted.view()), maps, list(after), form=plots.in_numbers)

# %%
print(f"shortest token {lengths.min():.1f} (CLS at the input), longest {lengths.max():.1f}")

# %% [markdown]
# At first, those on an eye and the nose: where a patch has strong contrast, its token is long. At the end eyes
# are still among the longest, but so is a corner; over all 64 patches hardly anything is left of the first order. (In large ViTs a few very long background tokens
# turned out to hold notes about the whole image: Darcet et al. 2023, arXiv 2309.16588. Ours shows nothing so clear.)
#
# So a layer has to read tokens of very different length: here from 3.4 to 48. Attention multiplies tokens with
# tokens, so twice as long means four times the score. That is why a half-block normalises before it reads.

# %% claim="where a patch has strong contrast, its token is long"
contrast = fitted.pixels.float().unfold(1, 4, 4).unfold(2, 4, 4).std(dim=(0, 3, 4)).flatten()
assert np.corrcoef(contrast, lengths[0, 1:])[0, 1] > 0.8
eyes_and_nose = [(5, 4), (6, 4), (3, 3), (6, 5), (3, 2)]
assert {divmod(i, 8) for i in lengths[0, 1:].topk(3).indices.tolist()} <= set(eyes_and_nose)

# %% claim="At the end eyes are still among the longest, but so is a corner"
assert abs(np.corrcoef(lengths[0, 1:], lengths[-1, 1:])[0, 1]) < 0.25
assert maps[-1][0, 7] > 0.95 * maps[-1].max()
assert maps[-1][3, 2] > 0.95 * maps[-1].max()

# %% claim="tokens of very different length: here from 3.4 to 48"
assert lengths.argmin() == 0
assert 3.37 < lengths.min() < 3.47
assert 47.5 < lengths.max() < 48.5

# %% [markdown]
# ## LayerNorm by hand
#
# **LayerNorm** (Ba et al. 2016, arXiv 1607.06450), or **norm** for short, takes one token, subtracts its mean, and
# divides by its standard deviation. Do it on paper for this token of D = 4 numbers; you will not need a
# calculator until the last division.

# %%
token = torch.tensor([0.0, 6.0, 6.0, 8.0])  # (D,)
mean = token.sum() / 4
deviations = token - mean
variance = (deviations**2).sum() / 4
print("mean        ", mean.item())
print("deviations  ", deviations.tolist())
print("variance    ", variance.item(), "  standard deviation", variance.sqrt().item())
print("normalised  ", [round(number, 3) for number in (deviations / variance.sqrt()).tolist()])

# %% [markdown]
# The result has mean 0 and variance 1. Three details, each a common source of errors:
#
# - **The variance divides by D, not by D - 1.** These 4 numbers are all there is; nothing is estimated from a
#   sample. PyTorch's `var` and `std` divide by D - 1 unless you tell them `correction=0`.
# - **A small number eps is added to the variance, inside the root**, so that a token whose numbers are all
#   the same gives 0 and not 0/0. In this course eps is $10^{-6}$.
# - **At the end, each of the D entries is multiplied by a learned weight and gets a learned bias**, the same
#   for all tokens. They start as 1 and 0, and give the layer back the freedom that the normalisation took.
#
# $$\text{LayerNorm}(x) = \frac{x - \text{mean}}{\sqrt{\text{variance} + \text{eps}}} \cdot \text{weight} + \text{bias}$$

# %% claim="The result has mean 0 and variance 1"
normalised = deviations / variance.sqrt()
assert normalised.mean().abs() < 1e-6
assert abs(normalised.var(correction=0) - 1) < 1e-6


# %% exercise="05.1"
def my_layer_norm(x, weight, bias, eps):
    """Normalise every token on its own.

    x: (..., D): any axes in front, or none; the last one holds the entries of a token.
    weight, bias: (D,) each, for the entries. eps: a small number, added to the variance.
    Returns (..., D). Write it without PyTorch's own layer norm, and without a loop.
    """
    ### BEGIN SOLUTION
    deviations = x - x.mean(dim=-1, keepdim=True)  # (..., D)
    variance = deviations.square().mean(dim=-1, keepdim=True)  # (..., 1)
    return deviations / (variance + eps).sqrt() * weight + bias
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("05.1", my_layer_norm)
# hint("05.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** `dim=-1` is the last axis, whatever stands in front. `keepdim=True` leaves a 1 in its place, so that
# (..., 1) is stretched over (..., D). The mean of the squares divides by D by itself.
#
# **The common wrong answer** is `x.std(dim=-1, keepdim=True) + eps`: two faults in one, since `std` divides by
# D - 1 and eps stands outside the root. With D = 768 the first is off by 0.07%, too little to be noticed.

# %% claim="With D = 768 the first is off by 0.07%"
many = torch.arange(768.0, dtype=torch.float64)
assert round(100 * (many.std() / many.std(correction=0) - 1).item(), 2) == 0.07

# %% [markdown]
# What becomes of a token that is a thousand times as long, or shifted, or turned round? `F.layer_norm` is PyTorch's
# own, here without weight and bias.

# %%
torch.manual_seed(0)
x = torch.randn(2, 3, 4, dtype=torch.float64)  # (B, T, D)
for name, other in (("1000 x", 1000 * x), ("x + 5", x + 5), ("-x", -x)):
    off = (F.layer_norm(other, (4,), eps=1e-6) - F.layer_norm(x, (4,), eps=1e-6)).abs().max()
    print(f"LayerNorm({name:6}) differs from LayerNorm(x) by {off:.1e}")

# %%
for step in (0, 6, 12):
    read = F.layer_norm(stream[step], (128,), eps=1e-6).norm(dim=-1)  # (T,)
    print(
        f"after {step:2} half-blocks: from {lengths[step].min():5.2f} to {lengths[step].max():5.2f} long,",
        end=" ",
    )
    print(f"normalised {read.min():.2f} to {read.max():.2f}; √D = {128**0.5:.2f}")

# %% [markdown]
# A positive factor and a shift are forgotten, but for the little that eps does; a minus is not. Numbers of mean 0 and
# variance 1 have squares that sum up to D, so every token comes out √D long. However long a token has become on its
# way, a half-block reads numbers of the same size.

# %% claim="A positive factor and a shift are forgotten, but for the little that eps does; a minus is not"
norm = F.layer_norm(x, (4,), eps=1e-6)
assert (F.layer_norm(1000 * x, (4,), eps=1e-6) - norm).abs().max() < 1e-3
assert (F.layer_norm(x + 5, (4,), eps=1e-6) - norm).abs().max() < 1e-9
assert (F.layer_norm(-x, (4,), eps=1e-6) - norm).abs().max() > 1

# %% claim="every token comes out √D long"
assert (F.layer_norm(stream, (128,), eps=1e-6).norm(dim=-1) - 128**0.5).abs().max() < 0.01

# %% [markdown] deeper=true
# ## LayerNorm's neighbours
#
# Whose mean is it? That is the whole difference between one normalisation and another. Below are B = 2 images
# of T = 3 tokens with D = 4 numbers each. Cells with the same number share a mean and a variance.

# %%
ids = torch.arange(2 * 3 * 4).view(2, 3, 4)
groups = [
    ids // 4,  # a group for each token
    4 * (ids // 12) + ids % 4,  # for each entry, in each image
    ids % 12,  # for each entry of each token, over the batch
    ids // 12,  # for each image
]
titles = ["over entries", "over tokens", "over the batch", "over the image"]
plots.token_stacks(torch.stack(groups).numpy(), titles)

# %% [markdown]
# The first is LayerNorm. The shapes are the same in all four, and nothing raises an error. To tell them apart,
# change one token and see what else changes.
#
# **Predict.** We add something to token 2 of image 0. In which of the four do other *tokens of the image*
# change, in which does the other *image* change?


# %%
def normalise(x, axes):
    spread = x.var(dim=axes, correction=0, keepdim=True).add(1e-6).sqrt()
    return (x - x.mean(dim=axes, keepdim=True)) / spread


changed, touched = x.clone(), {}
changed[0, 2] += torch.randn(4)
for title, axes in zip(titles, [(2,), (1,), (0,), (1, 2)], strict=True):
    moved = (normalise(changed, axes) - normalise(x, axes)).abs().amax(dim=2) > 1e-9  # (B, T)
    touched[title] = moved.nonzero().tolist()
    where = [f"image {b} token {t}" for b, t in touched[title]]
    print(f"{title:15} {len(where)} of 6 tokens change: {', '.join(where)}")

# %% [markdown]
# Shapes do not show it, a change does: only in the first does nothing change but the token itself. And the third
# makes what is said of one image depend on the others that happen to be in its batch.
#
# Now the eps, for a quiet token, whose numbers differ by thousandths only:

# %% claim="only in the first does nothing change but the token itself"
assert [len(places) == 1 for places in touched.values()] == [True, False, False, False]

# %% claim="the third makes what is said of one image depend on the others"
assert touched["over the batch"] == [[0, 2], [1, 2]]

# %%
results = {}
for size in (1.0, 1e-2, 1e-3, 1e-4, 0.0):
    quiet = size * torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)  # deviation = size
    inside = quiet / (quiet.var(correction=0) + 1e-6).sqrt()
    outside = quiet / (quiet.std(correction=0) + 1e-6)
    results[size] = inside[1].item(), outside[1].item()
    print(f"deviation {size:6g} becomes {inside[1]:.4f} inside, {outside[1]:.4f} outside")

# %% [markdown]
# Inside the root, eps = $10^{-6}$ takes almost a third at a standard deviation of $10^{-3}$, nine tenths at
# $10^{-4}$. Outside, it takes 1% there. With weights trained for one, the other gives slightly different answers:
# the kind of bug that no shape and no loss curve shows.

# %% claim="takes almost a third at a standard deviation of $10^{-3}$, nine tenths at"
assert abs(results[1e-3][0] - 0.707) < 0.01
assert abs(results[1e-4][0] - 0.1) < 0.01

# %% claim="Outside, it takes 1% there"
assert abs(results[1e-4][1] - 0.99) < 0.002

# %% [markdown]
# ## The MLP
#
# The other half of a block is the **MLP** (multilayer perceptron): a linear layer, an activation function, a
# second linear layer. The first, `fc1`, widens a token from D numbers to a *hidden width*: 4·D in the ViT paper's
# Vision Transformers, 2·D in our small ones. The activation, **GELU**, lets large numbers pass and stops negative ones;
# without it, two linear layers in a row would be one. The second, `fc2`, brings the token back to D.
#
# You may read a hidden number as a detector: its row of `fc1` says what it looks for in a token, and its column of
# `fc2` says what it adds to the token when it finds it.
#
# What sets the two halves apart shows when we change token 3 of the 65 tokens, and count the outputs that change:

# %%
first = vit.blocks[0]
tokens = first.norm1(start).detach()  # (1, T, D)
changed, counts = tokens.clone(), {}
changed[:, 3, 5] += 1
for name, part in (("MLP", first.mlp), ("attention", first.attn)):
    moved = (part(changed) - part(tokens)).abs().amax(dim=2)[0] > 1e-6  # (T,)
    counts[name] = moved.sum().item()
    print(f"{name:9} {counts[name]} of {len(moved)} tokens change")

# %% [markdown]
# So the two halves divide the work: **in attention tokens talk, in the MLP each thinks for itself.** Every token
# heard of the change through attention; through the MLP, no other did.

# %% claim="Every token heard of the change through attention; through the MLP, no other did"
assert counts == {"MLP": 1, "attention": 65}

# %% [markdown] deeper=true
# ## GELU and MLP, written out
#
# ReLU, the simplest activation, is x where x is positive, and else 0: it multiplies x by 1 or by 0. **GELU**
# (Hendrycks & Gimpel 2016, arXiv 1606.08415) multiplies x by a number *between* 0 and 1: by the share of a
# normal distribution (mean 0, variance 1) that lies below x. That share is called Φ (Phi):
#
# $$\mathrm{GELU}(x) = x \cdot \Phi(x), \qquad
# \Phi(x) = \tfrac{1}{2}\left(1 + \mathrm{erf}\left(\tfrac{x}{\sqrt 2}\right)\right)$$
#
# erf, the *error function*, is the integral of a bell curve, scaled to run from -1 to 1.

# %%
below = torch.distributions.Normal(0.0, 1.0).cdf
for number in (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0):
    phi = below(torch.tensor(number)).item()
    print(f"x = {number:4}   Phi(x) = {phi:.3f}   x · Phi(x) = {number * phi:6.3f}")

# %% [markdown]
# Large numbers pass, very negative ones become almost 0, as with ReLU. Between them the curve is smooth, and for
# negative x it dips a little below 0.

# %% claim="Large numbers pass, very negative ones become almost 0, as with ReLU"
assert abs(F.gelu(torch.tensor(3.0)) - 3) < 0.01
assert abs(F.gelu(torch.tensor(-3.0))) < 0.01

# %% claim="for negative x it dips a little below 0"
assert -0.2 < F.gelu(torch.linspace(-3, -0.1, 50)).min() < -0.1


# %% exercise="05.2"
def my_gelu(x):
    """The exact GELU, entry by entry.

    x: a tensor of any shape.
    Returns a tensor of that shape. Write it without PyTorch's own gelu.
    """
    ### BEGIN SOLUTION
    phi = (1 + torch.erf(x / 2**0.5)) / 2
    return x * phi
    ### END SOLUTION


# %%
check("05.2", my_gelu)
# hint("05.2")

# %% [markdown] solved_only=true
# **Why.** It is the formula, read from the inside out: x / √2, erf, up by one, half of it, times x.
#
# **The common wrong answer** is the tanh approximation, copied from an older network. It dates from a time
# when erf was slow. It is close, as the next picture shows, but it is another function.

# %% [markdown]
# **Predict.** Many programs compute GELU by an approximation with tanh. By how much is it off, at most: a
# tenth, a thousandth, a millionth?

# %%
points = torch.linspace(-4, 4, 401, dtype=torch.float64)
curves = {
    "GELU": F.gelu(points),
    "ReLU": F.relu(points),
    "tanh approximation": F.gelu(points, approximate="tanh"),
}

# %%
off = (curves["tanh approximation"] - curves["GELU"]).abs().max()
print(f"the tanh approximation is off by up to {off:.5f}")
plots.activation_curves(points.numpy(), {name: curve.numpy() for name, curve in curves.items()})

# %% [markdown]
# Seen on the right, on an axis of powers of ten: half a thousandth for the tanh approximation, a sixth for ReLU. Does it matter to a
# network that was trained with the exact one? We change the activation of all blocks, and look at the answer for
# Chelsea and at the accuracy of the small network that knows digits, on its 360 test images.

# %% claim="half a thousandth for the tanh approximation, a sixth for ReLU"
assert 4e-4 < off < 6e-4
assert 0.15 < (curves["ReLU"] - curves["GELU"]).abs().max() < 0.18

# %%
from vit_tutorial import evaluate
from vit_tutorial.data import digits

tanh = nn.GELU(approximate="tanh")
activations = {"exact": nn.GELU(), "tanh": tanh, "ReLU": nn.ReLU(), "none": nn.Identity()}
cat, score = {}, {}
for name, activation in activations.items():
    (changed_vit, _), (digits_vit, its) = load_checkpoint("cifar10"), load_checkpoint("digits")
    for block in [*changed_vit.blocks, *digits_vit.blocks]:
        block.mlp.act = activation
    shares = changed_vit(images).softmax(dim=1)[0]
    cat[name] = shares[card.classes.index("cat")].item()
    score[name] = evaluate(digits_vit, digits("test"), its.mean, its.std).accuracy
    print(f"{name:5}: cat {cat[name]:.4f}   digits: {score[name]:.1f}%")

# %% [markdown]
# The approximation moves the cat in the fourth digit: nobody would notice, until a test compares two
# implementations and asks why they are not equal. ReLU has nearly the same bend: the cat moves by nine
# hundredths, and no digit is lost. Without an activation the digits network loses almost a third of its
# digits. And the cat? It is more of a cat than ever. One picture proves nothing.

# %% claim="The approximation moves the cat in the fourth digit"
assert 1e-5 < abs(cat["tanh"] - cat["exact"]) < 1e-3

# %% claim="the cat moves by nine"
assert 0.085 < abs(cat["ReLU"] - cat["exact"]) < 0.095

# %% claim="no digit is lost"
assert score["ReLU"] > score["exact"] - 0.1

# %% claim="Without an activation the digits network loses almost a third of its"
assert 0.22 < 1 - score["none"] / score["exact"] < 0.4

# %% claim="It is more of a cat than ever"
assert cat["none"] > max(cat["exact"], cat["tanh"], cat["ReLU"]) + 0.02

# %% [markdown]
# The MLP puts one such GELU between two linear layers.


# %% exercise="05.3"
def my_mlp(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias):
    """Two linear layers with a GELU between.

    x: (B, T, D).
    fc1_weight (hidden, D), fc1_bias (hidden,); fc2_weight (D, hidden), fc2_bias (D,).
    Weights lie as in nn.Linear, whose output is x @ weight.T + bias.
    Returns (B, T, D). For the GELU you may take F.gelu or your own.
    """
    ### BEGIN SOLUTION
    hidden = F.gelu(x @ fc1_weight.T + fc1_bias)  # (B, T, hidden)
    return hidden @ fc2_weight.T + fc2_bias
    ### END SOLUTION


# %%
check("05.3", my_mlp)
# hint("05.3")

# %% [markdown] solved_only=true
# **Why.** `@` multiplies the last axis of x for every image and token at once, so no loop is needed, and no
# token meets another.
#
# **The common wrong answer** puts a second GELU behind `fc2`. A GELU never returns anything below
# -0.17, so the MLP could add to the stream, but take away at most 0.17 from any number.

# %% claim="A GELU never returns anything below"
assert -0.17 < F.gelu(torch.linspace(-5, 5, 10_001)).min() < -0.169

# %% [markdown]
# The package's MLP does the same with modules:

# %% definition="vit_tutorial.model.Mlp"

# %% [markdown]
# Proof, against the bare formula in float64 (`ndtr` is the library's Φ). And one more that the MLP mixes no tokens:
# each is sent through it *alone*, with no other to look at.

# %%
mlp = Mlp(dim=4, hidden_dim=16).double()
hidden = F.linear(x, mlp.fc1.weight, mlp.fc1.bias)
by_formula = F.linear(hidden * torch.special.ndtr(hidden), mlp.fc2.weight, mlp.fc2.bias)
torch.testing.assert_close(mlp(x), by_formula)
alone = torch.cat([mlp(x[:, t : t + 1]) for t in range(3)], dim=1)  # (2, 3, 4)
torch.testing.assert_close(alone, mlp(x))
print("equal")

# %% [markdown]
# ## The block
#
# Now put them together. Here are two ways. The thick line is the stream. In **pre-norm**, each
# branch normalises a copy of it, and nothing stands on the stream itself. The first Transformer had
# **post-norm**: there the norms stand on the stream, after each addition.

# %%
plots.block_wirings(["pre-norm", "post-norm"])

# %% [markdown]
# The ViT of the paper uses pre-norm (Dosovitskiy et al. 2020, arXiv 2010.11929, equations 2 and 3). It is what
# you measured at the beginning: the last stream was the input plus everything that was added. With
# post-norm that would not hold.


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


# %%
check("05.4", my_block)
# hint("05.4")

# %% [markdown] solved_only=true
# **Why.** Each line is one plus sign of the drawing. The second reads the x that the first one made: the MLP
# thinks about what attention has just brought.
#
# **The common wrong answer** uses one norm for both halves. It runs, it trains, and it has 2·D parameters too
# few. Next comes `x += ...`, which changes the tensor of whoever called, and with it what they have kept of the
# stream.

# %% [markdown]
# The package's block:

# %%
from vit_tutorial.model import Attention, Mlp, drop_path

# %% definition="vit_tutorial.model.Block"

# %% [markdown]
# Its `drop_path` passes on what it gets, outside training always. That is all: 12 such blocks in a row are the
# encoder of ViT-B, 6 that of our network.

# %% claim="6 that of our network"
assert len(vit.blocks) == 6
assert type(vit.blocks[0]).__name__ == "Block"

# %% [markdown] deeper=true
# ## Where the parameters are
#
# A linear layer from D to M numbers has D·M weights and M biases. So a block whose MLP is M wide inside has
#
# - attention: 3D² + 3D for queries, keys and values, D² + D for the projection: **4D² + 4D**,
# - MLP: D·M + M for `fc1`, M·D + D for `fc2`: **2D·M + M + D**,
# - two norms, a weight and a bias of D each: **4D**.
#
# **Predict.** With M = 4D, which share of a block is the MLP?

# %%
shares = {}
for name, D, heads, M in (("ours, M = 2D", 128, 4, 256), ("ViT-B, M = 4D", 768, 12, 3072)):
    formula = {"attention": 4 * D**2 + 4 * D, "MLP": 2 * D * M + M + D, "norms": 4 * D}
    block = Block(dim=D, num_heads=heads, hidden_dim=M)
    assert sum(formula.values()) == sum(p.numel() for p in block.parameters())
    shares[name] = formula
totals = [f"{sum(formula.values()):,}" for formula in shares.values()]
plots.share_bars(shares, totals, "The parameters of one block")

# %% [markdown]
# The formula and the count agree, or the cell would have stopped. In ours attention and MLP have half each; with
# M = 4D two thirds are MLP. The norms have less than 1%.

# %% claim="In ours attention and MLP have half each; with M = 4D two thirds are MLP"
ours, large = ({key: value / sum(f.values()) for key, value in f.items()} for f in shares.values())
assert abs(ours["MLP"] - 0.5) < 0.01
assert abs(ours["attention"] - 0.5) < 0.01
assert abs(large["MLP"] - 2 / 3) < 0.01

# %% claim="The norms have less than 1%"
assert all(formula["norms"] < 0.01 * sum(formula.values()) for formula in shares.values())

# %% [markdown] deeper=true
# ## The library's block
#
# PyTorch has a block of its own, `nn.TransformerEncoderLayer`. It was made for the first Transformer, a
# translator, and so are its defaults. We ask for one with D = 12 and 3 heads, and leave all else as it is. Ours
# is to have a hidden width of 48.

# %%
default = nn.TransformerEncoderLayer(12, 3)
print("first axis is the batch?", default.self_attn.batch_first, "          ours: True")
print("norm before each half?  ", default.norm_first, "          ours: True")
print("activation              ", default.activation.__name__, "           ours: gelu, exact")
print("hidden width            ", default.linear1.out_features, "           ours: 48")
print("dropout                 ", default.dropout.p, "            ours: 0")
print("eps                     ", default.norm1.eps, "          ours: 1e-06")

# %% [markdown]
# Five departures and a different eps. The first is the worst: given (B, T, D), the images of a batch attend
# to each other, and all shapes are right.

# %% claim="Five departures and a different eps"
layer = default
ways = [layer.self_attn.batch_first, layer.norm_first, layer.activation is F.gelu]
ways += [layer.linear1.out_features == 48, layer.dropout.p == 0]
assert ways == [False] * 5
assert layer.norm1.eps == 1e-5


# %% exercise="05.5"
def my_encoder_layer(dim, num_heads, hidden_dim):
    """PyTorch's encoder layer, set up so that it computes what our Block computes.

    dim: D. num_heads: h. hidden_dim: the width inside the MLP.
    Returns an nn.TransformerEncoderLayer.
    """
    ### BEGIN SOLUTION
    return nn.TransformerEncoderLayer(
        dim,
        num_heads,
        dim_feedforward=hidden_dim,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    )
    ### END SOLUTION


# %%
check("05.5", my_encoder_layer)
# hint("05.5")

# %% [markdown] solved_only=true
# **Why.** Every argument mends one line of the list above. `activation="gelu"` is the exact one.
#
# **The common wrong answer** sets `batch_first` and stops, because after that the shapes fit.

# %% [markdown]
# Now the proof: our block and the library's, with the same random parameters, in float64. Only the names differ.

# %%
ours = Block(dim=12, num_heads=3, hidden_dim=48).double()
for parameter in ours.parameters():
    nn.init.normal_(parameter, std=0.5)  # norms too: at 1 and 0, they would prove little
right = dict(dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True)
theirs = nn.TransformerEncoderLayer(12, 3, dim_feedforward=48, **right).double()
names = {"attn.qkv.": "self_attn.in_proj_", "attn.proj.": "self_attn.out_proj."}
names |= {"mlp.fc1": "linear1", "mlp.fc2": "linear2"}
state = {}
for name, value in ours.state_dict().items():
    for our_name, their_name in names.items():
        name = name.replace(our_name, their_name)
    state[name] = value
print(theirs.load_state_dict(state))

# %%
x = torch.randn(2, 7, 12, dtype=torch.float64)  # (B, T, D)
torch.testing.assert_close(ours(x), theirs(x))
print("equal, forward")
slopes = [torch.autograd.functional.jacobian(block, x[:1]) for block in (ours, theirs)]
torch.testing.assert_close(*slopes)
print("equal, every derivative of every output by every input")

# %% [markdown]
# And each of the faults, to see that the comparison would have found it:

# %%
faults = {
    "batch_first=False": dict(batch_first=False),
    "norm_first=False": dict(norm_first=False),
    "ReLU": dict(activation="relu"),
    "tanh GELU": dict(activation=lambda x: F.gelu(x, approximate="tanh")),
    "eps = 1e-5": dict(layer_norm_eps=1e-5),
}
off = {}
for name, fault in faults.items():
    layer = nn.TransformerEncoderLayer(12, 3, 48, **(right | fault)).double()
    layer.load_state_dict(state)
    off[name] = (layer(x) - ours(x)).abs().max().item()
    print(f"{name:17} off by up to {off[name]:.1e}")

# %% [markdown]
# The last two are below a hundredth, where the others are above 0.5. In float32 and with a generous tolerance they
# would pass for rounding; in float64 they stand out clearly. That is why this course proves things in float64.

# %% claim="The last two are below a hundredth, where the others are above 0.5"
*large, second, last = off.values()
assert 1e-6 < last < second < 0.01
assert min(large) > 0.5

# %% [markdown] deeper=true
# ## Pre-norm or post-norm?
#
# Both wirings are made of the same pieces, so we can build both and compare. `PostBlock` is our block with
# another `forward`. (This section trains a little; gradients, losses and AdamW are the subject of lesson 07.)


# %%
class PostBlock(Block):
    """The same pieces, wired as in the first Transformer: norms on the stream."""

    def forward(self, x, rope=None):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


# %% [markdown]
# A training step changes each weight by its gradient, so the size of the gradients matters. We stack blocks, fresh
# from their random start, send 8 sequences of random tokens through, read the answer from token 0, take the loss
# against random labels, and note how long the gradient of each layer's `fc2` weights is. With pre-norm, a last
# LayerNorm stands before the classifier, as in every pre-norm network.
#
# The weights start by *Xavier's* rule (Glorot & Bengio 2010), as in the first Transformers: numbers keep about their
# size from layer to layer. Or they start small, with standard deviation 0.02, as in the networks of this course.


# %%
torch.set_num_threads(1)  # matrices as small as ours are fastest on one core


def gradients(kind, small_start, depth=24, seed=0, D=64, heads=4):
    """Length of the gradient of fc2 in each layer, at the start of training: (depth,)."""
    torch.manual_seed(seed)
    blocks = nn.Sequential(*[kind(D, heads, 4 * D) for _ in range(depth)])
    classifier = nn.Linear(D, 10)
    for weight in (p for p in [*blocks.parameters(), classifier.weight] if p.ndim > 1):
        nn.init.normal_(weight, std=0.02) if small_start else nn.init.xavier_normal_(weight)
    x, labels = torch.randn(8, 17, D), torch.randint(10, (8,))
    end = blocks(x)
    if kind is Block:
        end = F.layer_norm(end, (D,))
    F.cross_entropy(classifier(end[:, 0]), labels).backward()
    return torch.stack([block.mlp.fc2.weight.grad.norm() for block in blocks])


# %% [markdown]
# **Predict.** Gradients travel from the last layer back to the first. Where will they be larger, in the first
# layers or in the last? And with which wiring does it matter more?

# %%
kinds = {"pre-norm": Block, "post-norm": PostBlock}
starts = {"Xavier's start": False, "small start, std 0.02": True}
panels = {
    title: {name: torch.stack([gradients(kind, small, seed=s) for s in range(4)]).numpy()
            for name, kind in kinds.items()}
    for title, small in starts.items()
}  # fmt: skip
plots.gradient_lengths(panels)

# %% [markdown]
# Bands show the smallest and the largest of 4 random starts, lines their median. On the left:
#
# - Pre-norm: gradients are largest in the first layers and fall towards the last, to about a third.
# - Post-norm: they stay about as large as they begin. In the last layers they are two to four times those of
#   pre-norm, and they depend more on chance: the band is wider.
#
# On the right, with the small start, the two can hardly be told apart: the branches add so little that a LayerNorm
# hardly changes the stream.
#
# Why do pre-norm's fall? There are two halves to it. On the way back each branch *adds* to the gradient, so the
# earlier a layer, the larger what arrives. And the stream has become long, like √L after L layers, since what is added
# stands at right angles; the last LayerNorm divides by that length, and on the way back all gradients with it. With
# post-norm each LayerNorm brings the stream back to size. So in a pre-norm network of more layers the last one
# should get less, as 1/√L (Xiong et al. 2020, arXiv 2002.04745, prove this for a simplified network).

# %% claim="gradients are largest in the first layers and fall towards the last, to about a third"
pre = np.median(panels["Xavier's start"]["pre-norm"], axis=0)
assert pre.argmax() < 4
assert 0.2 < pre[-3:].mean() / pre[:2].mean() < 0.5

# %% claim="they stay about as large as they begin. In the last layers they are two to four times those of"
pre, post = (panels["Xavier's start"][kind] for kind in kinds)
assert 0.6 < np.median(post, axis=0)[-3:].mean() / np.median(post, axis=0)[:3].mean() < 1.6
assert 2 < np.median(post, axis=0)[-3:].mean() / np.median(pre, axis=0)[-3:].mean() < 4

# %% claim="they depend more on chance: the band is wider"
pre, post = (panels["Xavier's start"][kind] for kind in kinds)
assert np.log(post.max(0) / post.min(0)).mean() > 1.2 * np.log(pre.max(0) / pre.min(0)).mean()

# %% claim="with the small start, the two can hardly be told apart"
pre, post = (np.median(panels["small start, std 0.02"][kind], axis=0) for kind in kinds)
assert np.abs(post / pre - 1).max() < 0.25

# %%
depths = [3, 6, 12, 24, 48]
runs = {
    name: [[gradients(kind, False, depth, seed) for depth in depths] for seed in range(3)]
    for name, kind in kinds.items()
}
ends = {
    f"{name}, {end} layer": np.array([[layers[place] for layers in run] for run in runs[name]])
    for name in kinds
    for end, place in (("first", 0), ("last", -1))
}
ends.pop("post-norm, first layer")
guide = (
    "falls as 1/√layers",
    ends["pre-norm, last layer"][:, 0].mean() * np.sqrt(3 / np.array(depths)),
)
axes = ("layers", "length of the gradient")
plots.run_curves(depths, ends, *axes, logarithmic=True, guide=guide)

# %% [markdown]
# That is what we see. From 3 to 48 layers, the last layer's gradient falls to about a quarter in pre-norm, and not at
# all in post-norm; the first layer's stays as it is in pre-norm, for the two halves cancel.
#
# Does it matter for training? Networks of 24 layers learn the handwritten digits for 30 steps, at the full learning rate
# from the first step on: both wirings with Xavier's start, and post-norm with the small one; three random starts each.
# (All keep the last LayerNorm before the classifier. Post-norm does not need it, and it does no harm.)
#
# **Predict.** Guessing among ten digits costs a loss of ln 10 = 2.30. Where will the three be after 30 steps?

# %% claim="the last layer's gradient falls to about a quarter in pre-norm, and not at"
pre, post = ends["pre-norm, last layer"], ends["post-norm, last layer"]
assert 0.15 < np.median(pre[:, -1] / pre[:, 0]) < 0.4
assert np.median(post[:, -1] / post[:, 0]) > 0.8

# %% claim="the first layer's stays as it is in pre-norm"
pre = ends["pre-norm, first layer"]
assert 0.6 < np.median(pre[:, -1] / pre[:, 0]) < 1.6

# %%
from vit_tutorial import VisionTransformer, ViTConfig
from vit_tutorial.data import digits

train = digits("train")
_, digits_card = load_checkpoint("digits")
train_images = normalize(train.images, digits_card.mean, digits_card.std)
config = ViTConfig(img_size=8, patch_size=4, in_chans=1, embed_dim=32, depth=24, num_heads=4)


# %%
def train_briefly(kind, small_start, seed, rate=2e-3, steps=30):
    torch.manual_seed(seed)
    model, losses = VisionTransformer(config), []
    for block in model.blocks:
        block.__class__ = kind  # the same parameters, another forward
        for weight in (p for p in block.parameters() if p.ndim > 1):
            nn.init.normal_(weight, std=0.02) if small_start else nn.init.xavier_normal_(weight)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    for _ in range(steps):
        chosen = torch.randint(len(train), (32,))
        loss = F.cross_entropy(model(train_images[chosen]), train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
trained = {
    "pre-norm, Xavier": (Block, False),
    "post-norm, Xavier": (PostBlock, False),
    "post-norm, small start": (PostBlock, True),
}
losses = {}
for name, how in trained.items():
    losses[name] = np.array([train_briefly(*how, seed) for seed in range(3)])
    print(f"{name:22} mean loss of steps 21 to 30:", losses[name][:, -10:].mean(1).round(2))
guide = ("guessing", np.full(30, np.log(10)))
plots.run_curves(range(30), losses, "training step", "loss (cross-entropy)", guide=guide)

# %% [markdown]
# With Xavier's start, all three pre-norm networks learn at once. The post-norm networks sink a little, then stay at about 2.1
# or return to guessing. With the small start, all three post-norm networks learn. What this shows, and what it does not:
#
# - It shows that 24 layers of post-norm do not learn from Xavier's start in 30 steps, at a rate that pre-norm likes.
# - It does not show that post-norm is worse: the small start, where both wirings have nearly the same gradients, is a cure.
#   The first Transformer and BERT are post-norm; their training begins with a tiny rate and raises it slowly
#   (*warm-up*, lesson 07).
# - It does not show that gradients *vanish* in post-norm, as is often said: on the way back through our 24
#   layers they did not. They stay large, up to the last layer.
# - Gradients at the start are the start only, and AdamW divides by their size anyway. The figures are a
#   reason to be careful, not a proof of what a training will do. Small networks, one data set, few steps.

# %% claim="all three pre-norm networks learn at once"
assert (losses["pre-norm, Xavier"][:, -10:].mean(1) < 1.8).all()
assert (losses["pre-norm, Xavier"][:, 10:15].mean(1) < 2.1).all()

# %% claim="The post-norm networks sink a little, then stay at about 2.1"
means = losses["post-norm, Xavier"].reshape(3, 6, 5).mean(2)
assert (means.min(1) < 2.24).all()
assert means[:, -2:].mean(1).min() > 1.92
assert means[:, -2:].mean(1).max() < 2.5

# %% claim="With the small start, all three post-norm networks learn"
assert (losses["post-norm, small start"][:, -10:].mean(1) < 1.85).all()

# %% claim="on the way back through our 24"
post = np.median(panels["Xavier's start"]["post-norm"], axis=0)
assert post.min() > 1

# %% [markdown] deeper=true
# ## Dropout and drop path
#
# Two ways to keep a network from relying on single parts of it. Both work in training only.
#
# **Dropout** (Srivastava et al. 2014) sets each number to 0 with probability p, and divides the others by 1 - p.

# %%
torch.manual_seed(0)
dropped = F.dropout(torch.ones(1_000_000), p=0.2, training=True)
print("numbers:", dropped.unique().tolist(), " mean:", round(dropped.mean().item(), 3))
unchanged = F.dropout(torch.ones(1_000_000), p=0.2, training=False)
print("outside training:", unchanged.unique().tolist())

# %% [markdown]
# A million ones become 0 or 1.25, and their mean stays 1.
#
# **Drop path** drops what a whole half-block adds, for one image of the batch: for that image it is skipped, the
# stream flows on. (*Stochastic depth*, Huang et al. 2016, arXiv 1603.09382, is mostly read as skipping it for the whole
# batch.) It needs the residual stream: without it, dropping a layer would drop everything.
#
# The picture shows what each number of a branch is multiplied by, for 4 images of 3 tokens.

# %% claim="A million ones become 0 or 1.25, and their mean stays 1"
assert dropped.unique().tolist() == [0, 1.25]
assert abs(dropped.mean() - 1) < 0.003

# %%
torch.manual_seed(5)
by_image = torch.tensor([0.0, 2.0, 0.0, 2.0]).repeat_interleave(12).view(4, 3, 4)
factors = [F.dropout(torch.ones(4, 3, 4), 0.5), by_image]
plots.token_stacks(torch.stack(factors).numpy(), ["dropout, p = 0.5", "drop path, p = 0.5"])

# %% [markdown]
# On the left each number had a coin of its own, on the right each image one for all of its numbers. Our package's
# `Block` has drop path, in both of its branches, and no dropout. Unless a config asks for it, p is 0 and nothing is
# dropped.

# %% claim="On the left each number had a coin of its own, on the right each image one for all of its numbers"
left, right = (factor.flatten(1) for factor in factors)
assert all(len(image.unique()) == 2 for image in left)
assert all(len(image.unique()) == 1 for image in right)
assert len(right.unique()) == 2

# %% claim="Unless a config asks for it, p is 0"
assert Block(12, 3, 48).drop_path == 0
assert card.config.drop_path == 0


# %% exercise="05.6"
def my_drop_path(x, p, training):
    """Drop what a branch adds, for some images of the batch.

    x: (B, ...), what a half-block is about to add; any axes after the first, or none.
    p: the probability with which an image's part is dropped, 0 <= p < 1.
    training: True or False; outside training x comes back as it is.
    Returns a tensor of x's shape whose mean over many calls is x.
    """
    ### BEGIN SOLUTION
    if not training or p == 0:
        return x
    coins = torch.rand(len(x), *[1] * (x.ndim - 1))  # (B, 1, 1): one for each image
    return torch.where(coins < p, 0.0, x / (1 - p))
    ### END SOLUTION


# %%
check("05.6", my_drop_path)
# hint("05.6")

# %% [markdown] solved_only=true
# **Why.** Coins of shape (B, 1, 1) are stretched over tokens and entries, so an image has one. An image is
# kept with probability 1 - p and then counts 1/(1 - p) times as much, so the mean is x.
#
# **The common wrong answer** forgets the division. In use, every branch then adds more than it did on average in
# training.

# %% [markdown]
# The package's own:

# %% definition="vit_tutorial.model.drop_path"

# %% [markdown]
# And a common mistake: dropout that stays on when the network is used. We run each of these twice on the same input.


# %%
def careless(x):
    return block(F.dropout(x, 0.1))  # `training` is True unless you say otherwise


block = Block(dim=12, num_heads=3, hidden_dim=48)
module, tokens = nn.Sequential(nn.Dropout(0.1), block), torch.randn(2, 7, 12)
differ = {}
for name, layer, training in (
    ("module in training", module, True),
    ("module in eval", module, False),
    ("careless in eval", careless, False),
):
    module.train(training)
    differ[name] = (layer(tokens) - layer(tokens)).abs().max().item()
    print(f"{name:18}: two passes differ by {differ[name]:.2f}")

# %% [markdown]
# A module knows whether it is in training: `model.eval()` tells all its parts. A *function* must be told,
# with `training=self.training`; ours has never heard of `eval()`, and its two passes differ. The test is one line,
# and worth having in every project: run twice, compare.

# %% claim="ours has never heard of `eval()`, and its two passes differ"
assert differ["careless in eval"] > 0.1
assert differ["module in eval"] == 0

# %%
vit.eval()
assert torch.equal(vit(images), vit(images))
print("the bundled network: two passes are equal")

# %% [markdown]
# ## What we now have
#
# | what | shape | here |
# |---|---|---|
# | the stream | (B, T, D) | (1, 65, 128) |
# | mean and variance of LayerNorm | (B, T, 1) | one pair for each token |
# | its weight and bias | (D,) each | (128,) |
# | hidden numbers of the MLP | (B, T, 4D) or (B, T, 2D) | (1, 65, 256) |
# | what each half-block adds | (B, T, D) | (1, 65, 128) |
#
# A block is two lines: `x = x + attention(norm1(x))`, then `x = x + mlp(norm2(x))`. In attention tokens talk,
# in the MLP each thinks for itself, and the stream carries all of it on.

# %% [markdown] deeper=true
# ## The questions people ask
#
# **Why LayerNorm and not BatchNorm?** BatchNorm takes its mean over the batch. So in training, what it
# makes of an image depends on the others; and in use it needs averages remembered from training, which are
# right only if the data are like those. LayerNorm does the same always, for one image or a thousand.

# %%
batch_norm, layer_norm = nn.BatchNorm1d(128), nn.LayerNorm(128)
torch.manual_seed(0)
batch = torch.randn(4, 128) + torch.arange(4)[:, None]  # four images, one token of each
moved = {}
for name, norm in (("BatchNorm", batch_norm), ("LayerNorm", layer_norm)):
    with_others, with_two = norm(batch)[0], norm(batch[:2])[0]
    in_use = norm.eval()(batch)[0]
    moved[name] = [(with_others - other).abs().max().item() for other in (with_two, in_use)]
    print(
        f"{name}: other company changes it by {moved[name][0]:.2f}, eval() by {moved[name][1]:.2f}"
    )

# %% claim="LayerNorm does the same always, for one image or a thousand"
assert max(moved["LayerNorm"]) < 1e-5
assert min(moved["BatchNorm"]) > 0.5

# %% [markdown]
# This is no law of nature: convolutional networks do very well with BatchNorm.
#
# **Why residuals?** Take them away and look what 24 random layers leave of the differences between tokens.
# Attention averages; without the stream to keep what a token was, all tokens soon become the same (Dong et
# al. 2021, arXiv 2103.03404). The cell prints the mean cosine of token 0 with the others.


# %%
def alike(seed, depths=(1, 2, 4, 24)):
    torch.manual_seed(seed)
    kept = without = torch.randn(1, 17, 64)
    cosines = {}
    for depth in range(1, max(depths) + 1):
        with torch.no_grad():
            block = Block(64, 4, 256)
            kept = block(kept)
            without = block.mlp(block.norm2(block.attn(block.norm1(without))))
        pair = [F.cosine_similarity(t[0, :1], t[0, 1:]).mean().item() for t in (kept, without)]
        cosines[depth] = pair
    return {depth: cosines[depth] for depth in depths}


for depth, (kept, without) in alike(seed=0).items():
    print(f"after {depth:2} layers: {kept:.3f} with residuals, {without:.3f} without")

# %% [markdown]
# Without residuals all tokens point the same way after two layers. With them, they are still different after 24.
#
# **Pre or post?** For a ViT: pre, with one more norm after the last block. The network of this course and
# all Vision Transformers of the ViT paper do it: two norms a layer, and one at the end. (Their number alone tells nothing:
# BERT is post-norm and has as many, since it has a norm after the embedding.)

# %% claim="Without residuals all tokens point the same way after two layers"
assert all(alike(seed)[2][1] > 0.99 for seed in range(3))

# %% claim="With them, they are still different after 24"
assert all(alike(seed)[24][0] < 0.75 for seed in range(3))

# %% claim="two norms a layer, and one at the end"
kinds_of = [name for name, part in vit.named_modules() if isinstance(part, nn.LayerNorm)]
assert len(kinds_of) == 2 * len(vit.blocks) + 1
assert kinds_of[-1] == "norm"

# %% [markdown] deeper=true
# ## A stretch
#
# Can warm-up rescue post-norm with Xavier's start, too? In `train_briefly`, begin at 0 and raise the rate to 2e-3 over
# the first 200 of 300 steps (`optimizer.param_groups[0]["lr"] = ...`). Compare with the small start without warm-up over
# as many steps. Guess first, then try.
