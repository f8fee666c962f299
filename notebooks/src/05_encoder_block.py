# %% [markdown]
# # 05 · The encoder block
#
# **What does a layer do to a token, and why can so many of them be stacked?**
#
# Attention is half of a layer. The other half is a small network, an MLP, that works on each token alone.
# Around the two stand a normalisation and an addition, and it is these two plain things that allow 12, 24
# or 100 layers in a row. In this lesson you write all four, put them together, and get exactly what
# PyTorch's own encoder layer computes.
#
# **You will**
#
# - follow the tokens of a photograph through a trained network, and see that a layer replaces nothing,
# - normalise a token by hand, and learn the four ways to get it wrong,
# - write the GELU and the MLP, and prove that the MLP mixes no tokens,
# - build the block, count its parameters by formula, and prove it equal to the library's,
# - compare pre-norm and post-norm over 24 layers,
# - switch parts off at random in training, and not one moment longer.

# %% [markdown]
# ## A stream
#
# We start with the trained network of lesson 00 and Chelsea the cat (photograph by Stéfan van der Walt,
# public domain), or a photograph of yours. This is one of its six layers, an **encoder block**:

# %%
import numpy as np
import torch
from skimage import data as photographs

from vit_tutorial import fit_image, load_checkpoint, normalize, open_image, plots

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


parts = [part for block in vit.blocks for part in (block.attn, block.mlp)]
hooks = [part.register_forward_hook(keep) for part in parts]
with torch.no_grad():
    start = x = vit.embed(images)  # (1, T, D): the tokens before the first block
    for block in vit.blocks:
        x = block(x)
for hook in hooks:
    hook.remove()  # or it would go on listening
print(len(added), "results of shape", tuple(added[0].shape), "= (B, T, D)")

# %% [markdown]
# **Predict.** `x` is now what leaves the last block. How is it made from the input `start` and the 12 results?
# Is it the last result? Their product? Something else?

# %%
torch.testing.assert_close(x, start + sum(added))
print("what leaves the last block = the input + everything that the 12 half-blocks returned")

# %% [markdown]
# It is a plain sum. No layer ever replaces a token: each half-block reads it, and adds something to it.
# The tokens are a **residual stream** that runs through the network from end to end, and every half-block
# writes into it (residual, because it has to provide only what is still missing; He et al. 2015, arXiv
# 1512.03385).
#
# So the stream after half-block k is the sum of the input and the first k results. A vector's length is its
# **norm**, the root of the sum of its squared numbers. The *cosine* of two vectors is 1 if they point the
# same way, 0 at a right angle.
#
# **Predict.** Does the stream get longer or shorter on its way? And at the end, does a token still point in
# the direction in which it started?

# %%
stream = torch.stack([start, *added]).cumsum(dim=0)[:, 0]  # (13, T, D)
written = torch.cat(added)  # (12, T, D)
norms, written_norms = stream.norm(dim=-1), written.norm(dim=-1)  # (13, T), (12, T)
cosines = torch.cosine_similarity(stream, stream[:1], dim=-1)  # (13, T)
plots.stream_norms(norms.mean(1).numpy(), written_norms.mean(1).numpy(), cosines.mean(1).numpy())

# %% [markdown]
# The bars are what is added, the line is the stream. It grows, up to the last layer, and it turns away from where
# it started: less and less of a token is what its patch was, more and more is what the layers have added.
#
# It does not grow by the full length of what is added, because what is added points elsewhere. At a right
# angle, lengths add up as in Pythagoras' theorem: $\sqrt{a^2 + b^2}$.

# %%
before, after = norms[:-1].mean(1), norms[1:].mean(1)
for k in range(len(written)):
    name = f"layer {k // 2} {'MLP' if k % 2 else 'attention'}"
    angle = torch.cosine_similarity(stream[k], written[k], dim=-1).mean()
    right_angle = (norms[k] ** 2 + written_norms[k] ** 2).sqrt().mean()
    print(f"{name:17} {before[k]:5.2f} -> {after[k]:5.2f}", end="")
    print(f"   at a right angle {right_angle:5.2f}   cosine {angle:5.2f}")

# %% [markdown]
# Most half-blocks write nearly at a right angle to what is there: something new. A cosine clearly below 0,
# as for the first attention and in the last layer, means that a half-block also *takes away* a part of what it finds.
#
# **Play.** Which patches have the longest vectors, and when? Move `after` through the network: on the left
# the stream, in the middle what the half-block has just added to it, on the right how the stream's norms are
# spread.

# %%
from vit_tutorial import flipbook

longest = 1.05 * norms.max().item()  # one axis for all pictures
steps = ["input"] + [f"{i} {half}" for i in range(len(vit.blocks)) for half in ("attention", "MLP")]


def draw(after):
    k = steps.index(after)
    name = f"layer {after}" if k else "the embedding"
    maps = {f"the stream after {name}": norms[k], f"added by {name}": written_norms[k - 1]}
    if k == 0:
        maps.popitem()  # nothing has been added yet
    heats = {title: values[1:].unflatten(0, (8, 8)).numpy() for title, values in maps.items()}
    patches, cls = norms[k, 1:], norms[k, 0].item()
    words = f"The stream after {name}: patches {patches.min():.1f} to {patches.max():.1f}, CLS {cls:.1f}."
    if k:
        words += f" Added to a patch: {written_norms[k - 1, 1:].mean():.1f} on average."
    return plots.norm_map(
        np.asarray(fitted.view()), heats, patches.numpy(), cls, longest, "the stream"
    ), words


flipbook(draw, after=steps, start={"after": "0 MLP"})

# %% [markdown]
# Three of its settings as still pictures: the input, the stream after the first layer, and the stream at the
# end.

# %%
from IPython.display import display

for after in ("input", "0 MLP", steps[-1]):
    display(draw(after)[0])

# %% [markdown]
# For the cat, the longest vectors first lie on the eyes and the nose, where a patch is full of contrast. At
# the end they lie in the plain surroundings. In large ViTs, such long background tokens turned out to hold
# notes about the whole image (Darcet et al. 2023, arXiv 2309.16588); our small one proves nothing of the kind.
#
# Two things make life hard for a layer that has to read this stream. Its tokens are of very different
# length, and the deeper the layer, the longer they are. Attention, for one, multiplies tokens with tokens:
# twice as long means four times the score. So before a half-block reads, it normalises.
#
# ## LayerNorm by hand
#
# **LayerNorm** (Ba et al. 2016, arXiv 1607.06450) takes one token, subtracts its mean, and divides by its
# standard deviation. Here is a token of D = 4 numbers.
#
# **Predict.** Do it on paper: mean, deviations from it, mean of their squares, root. You will not need a
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
# Together, for a token x with mean m and variance v: $\;y = \frac{x - m}{\sqrt{v + eps}} \cdot weight + bias$.
#
# ## A loop over tokens

# %%
import torch.nn.functional as F


def layer_norm_loop(x, eps=1e-6):
    """LayerNorm of (B, T, D), without weight and bias, one token after the other."""
    result = torch.empty_like(x)
    for b, image in enumerate(x):
        for t, token in enumerate(image):  # (D,)
            mean = token.sum() / len(token)
            deviations = token - mean
            variance = (deviations**2).sum() / len(token)
            result[b, t] = deviations / (variance + eps).sqrt()
    return result


# %%
torch.manual_seed(0)
x = torch.randn(2, 3, 4, dtype=torch.float64)  # (B, T, D)
torch.testing.assert_close(layer_norm_loop(x), F.layer_norm(x, (4,), eps=1e-6))
print("equal to the library's, in float64")

# %% [markdown]
# Whose mean is it? That is the whole difference between one normalisation and another. Below are B = 2 images
# of T = 3 tokens with D = 4 numbers each. Cells with the same number share a
# mean and a variance.

# %%
ids = torch.arange(2 * 3 * 4).view(2, 3, 4)
groups = [
    ids // 4,  # a group for each token
    4 * (ids // 12) + ids % 4,  # for each entry, in each image
    ids % 12,  # for each entry of each token, over the batch
    ids // 12,  # for each image
]
titles = ["over entries: right", "over tokens", "over the batch", "over the image"]
plots.token_stacks(torch.stack(groups).numpy(), titles)

# %% [markdown]
# The shapes are the same in all four, and nothing raises an error. To tell them apart, change one token and
# see what else changes.
#
# **Predict.** We add something to token 2 of image 0. In which of the four do other *tokens of the image*
# change, in which does the other *image* change?


# %%
def normalise(x, axes):
    spread = x.var(dim=axes, correction=0, keepdim=True).add(1e-6).sqrt()
    return (x - x.mean(dim=axes, keepdim=True)) / spread


changed = x.clone()
changed[0, 2] += torch.randn(4)
for title, axes in zip(titles, [(2,), (1,), (0,), (1, 2)], strict=True):
    moved = (normalise(changed, axes) - normalise(x, axes)).abs().amax(dim=2) > 1e-9  # (B, T)
    where = [f"image {b} token {t}" for b, t in moved.nonzero().tolist()]
    print(f"{title:20} {len(where)} of 6 tokens change: {', '.join(where)}")

# %% [markdown]
# Only in the first does nothing change but the token itself. And the third makes what is said of one image
# depend on the others that happen to be in its batch.
#
# Now the eps. **Predict.** A very quiet token: its numbers differ by thousandths only. Will LayerNorm still
# bring its standard deviation to 1? Does it matter whether eps is added inside or outside the root?

# %%
for size in (1.0, 1e-2, 1e-3, 1e-4, 0.0):
    quiet = size * torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64)  # deviation = size
    inside = quiet / (quiet.var(correction=0) + 1e-6).sqrt()
    outside = quiet / (quiet.std(correction=0) + 1e-6)
    print(f"deviation {size:6g} becomes {inside[1]:.4f} inside, {outside[1]:.4f} outside")

# %% [markdown]
# Inside the root, eps = $10^{-6}$ is felt as soon as the standard deviation comes near $10^{-3}$. Outside, it
# would be felt at $10^{-6}$ only. With weights trained for one, the other gives slightly different answers:
# the kind of bug that no shape and no loss curve shows.


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

# %% [markdown]
# ## What LayerNorm forgets
#
# **Predict.** We multiply a token by 1000, or add 5 to all its numbers. What happens to its LayerNorm? And if
# we multiply by -1?

# %%
for name, other in (("1000 x", 1000 * x), ("x + 5", x + 5), ("-x", -x), ("x / 1000", x / 1000)):
    off = (F.layer_norm(other, (4,), eps=1e-6) - F.layer_norm(x, (4,), eps=1e-6)).abs().max()
    print(f"LayerNorm({name:8}) differs from LayerNorm(x) by {off:.1e}")

# %% [markdown]
# Scale (by a positive number) and shift are forgotten; what is left is a direction. Only eps spoils this a
# little, most where a token becomes as quiet as in the last line. Minus is not forgotten: it turns the
# direction round.
#
# For the stream this means: however long a token has become on its way, a half-block always reads numbers of
# the same size. D numbers with mean 0 and variance 1 have a sum of squares of D, so their norm is √D.

# %%
for k in (0, 6, 12):
    read = F.layer_norm(stream[k], (128,), eps=1e-6).norm(dim=-1)  # (T,)
    print(f"stream {norms[k].min():5.2f} to {norms[k].max():5.2f}   after LayerNorm", end=" ")
    print(f"{read.min():.2f} to {read.max():.2f}   √D = {128**0.5:.2f}")

# %% [markdown]
# ## A bend: GELU
#
# The other half of a block is the **MLP** (multilayer perceptron): a linear layer, an activation function, a
# second linear layer. The activation is what makes it more than linear. Two linear layers in a row, with
# nothing between, are one linear layer.
#
# ReLU, the simplest activation, is x where x is positive, and else 0: it multiplies x by 1 or by 0. **GELU**
# (Hendrycks & Gimpel 2016, arXiv 1606.08415) multiplies x by a number *between* 0 and 1: by the share of a
# normal distribution (mean 0, variance 1) that lies below x. That share is called Φ (Phi):
#
# $$\mathrm{GELU}(x) = x \cdot \Phi(x), \qquad
# \Phi(x) = \tfrac{1}{2}\left(1 + \mathrm{erf}\left(\tfrac{x}{\sqrt 2}\right)\right)$$
#
# erf, the *error function*, is the integral of a bell curve, scaled to run from -1 to 1.
#
# **Predict.** Φ(0) = 0.5, Φ(1) is about 0.84. What is Φ(-1)? What are GELU(1) and GELU(-1)?

# %%
below = torch.distributions.Normal(0.0, 1.0).cdf
for number in (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0):
    phi = below(torch.tensor(number)).item()
    print(f"x = {number:4}   Phi(x) = {phi:.3f}   x · Phi(x) = {number * phi:6.3f}")

# %% [markdown]
# Large numbers pass, very negative ones become 0, as with ReLU. Between them the curve is smooth, and for
# negative x it dips a little below 0.


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
    "tanh": F.gelu(points, approximate="tanh"),
}
print("tanh is off by up to", f"{(curves['tanh'] - curves['GELU']).abs().max():.5f}")
plots.activation_curves(points.numpy(), {name: curve.numpy() for name, curve in curves.items()})

# %% [markdown]
# Does it matter to a network that was trained with the exact one? We change the activation of all blocks, and look
# at the answer for Chelsea and at the accuracy of the small network that knows digits, on its 360 test images.

# %%
from torch import nn

from vit_tutorial import evaluate
from vit_tutorial.data import digits

tanh = nn.GELU(approximate="tanh")
activations = {"exact": nn.GELU(), "tanh": tanh, "ReLU": nn.ReLU(), "none": nn.Identity()}
for name, activation in activations.items():
    (changed_vit, _), (digits_vit, its) = load_checkpoint("cifar10"), load_checkpoint("digits")
    for block in [*changed_vit.blocks, *digits_vit.blocks]:
        block.mlp.act = activation
    shares = changed_vit(images).softmax(dim=1)[0]
    print(f"{name:5}: {card.classes[shares.argmax()]}, {shares.max():.4f}", end="   ")
    print(f"digits: {evaluate(digits_vit, digits('test'), its.mean, its.std).accuracy:.1f}%")

# %% [markdown]
# The approximation moves the answer in the fourth digit: nobody would notice, until a test compares two
# implementations and asks why they are not equal. ReLU has nearly the same bend, and gives another answer that is
# hardly worse. Without an activation the digits network loses a third of its digits. And the cat? It is more of a cat
# than ever. One picture proves nothing.
#
# ## The MLP
#
# The first layer, `fc1`, widens a token from D numbers to a *hidden width*, r times as wide: r = 4 in the
# networks of the ViT paper, 2 in our small ones. Then GELU. The second, `fc2`, brings it back to D. You may
# read a hidden number as a detector: its row of `fc1` says what it looks for in a token, and its column of
# `fc2` says what it adds to the token when it finds it.


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
# -0.17, so the MLP could add to the stream, but take nothing away.

# %% [markdown]
# The package's MLP does the same with modules:

# %%
from torch import Tensor

# %% definition="vit_tutorial.model.Mlp"

# %% [markdown]
# Proof, against the bare formula in float64:

# %%
mlp = Mlp(dim=4, hidden_dim=16).double()
hidden = F.linear(x, mlp.fc1.weight, mlp.fc1.bias)
by_formula = F.linear(hidden * torch.special.ndtr(hidden), mlp.fc2.weight, mlp.fc2.bias)
torch.testing.assert_close(mlp(x), by_formula)  # ndtr is the library's Phi
print("equal")

# %% [markdown]
# **Predict.** In a sequence of 6 tokens we change token 3. Which outputs of the MLP change? Which outputs of
# attention?

# %%
from vit_tutorial.model import Attention

torch.manual_seed(0)
attention = Attention(dim=4, num_heads=2).double()
tokens = torch.randn(1, 6, 4, dtype=torch.float64)  # (B, T, D)
changed = tokens.clone()
changed[:, 3] += 1
for name, layer in (("MLP", mlp), ("attention", attention)):
    moved = (layer(changed) - layer(tokens)).abs().amax(dim=2)[0] > 0  # (T,)
    print(f"{name:9} changes the tokens", moved.nonzero().flatten().tolist())

# %% [markdown]
# Not even the last digit of another token has moved: the comparison is with 0. One example is not a proof,
# though. This is: we send each token through the MLP *alone*, with no other to look at, and get the same.

# %%
alone = torch.cat([mlp(tokens[:, t : t + 1]) for t in range(6)], dim=1)  # (1, 6, 4)
torch.testing.assert_close(alone, mlp(tokens))
alone = torch.cat([attention(tokens[:, t : t + 1]) for t in range(6)], dim=1)
print("attention, each token alone: off by", f"{(alone - attention(tokens)).abs().max():.2f}")

# %% [markdown]
# So the two halves divide the work: **in attention tokens talk, in the MLP each thinks for itself.**
#
# ## The block
#
# Now put them together. Here are the two ways in use. The thick line is the stream. In **pre-norm**, each
# branch normalises a copy of it, and nothing stands on the stream itself. The first Transformer had
# **post-norm**: there the norms stand on the stream, after each addition.

# %%
plots.block_wirings(["pre-norm", "post-norm"])

# %% [markdown]
# Vision Transformers use pre-norm (Dosovitskiy et al. 2020, arXiv 2010.11929, equations 2 and 3). It is what
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
# **The common wrong answer** uses one norm for both halves. It runs, it trains, and it has 2D parameters too
# few. Next comes `x += ...`, which changes the tensor of whoever called: the next cell shows what that does.

# %% [markdown]
# Why so strict about `x` itself? Suppose somebody collects the stream, as we did above, from blocks that add
# in place.
#
# **Predict.** What are the three norms that this prints?

# %%
x = torch.ones(1, 2, 4)
collected = [x]
for _ in range(2):
    x += 1  # in place: no new tensor is made
    collected.append(x)
print([tensor.norm().item() for tensor in collected])

# %% [markdown]
# Three times the same tensor, in its last state. Written `x = x + 1`, there would be three.
#
# The package's block, whole. (Its `drop_path` passes on what it gets, as long as p is 0; the last part of this
# lesson shows what else it can do.)

# %%
from vit_tutorial.model import drop_path

# %% definition="vit_tutorial.model.Block"

# %% [markdown]
# ## Where the parameters are
#
# A linear layer from n to m numbers has nm weights and m biases. With the hidden width rD, a block has
#
# - attention: 3D² + 3D for queries, keys and values, D² + D for the projection: **4D² + 4D**,
# - MLP: rD² + rD for `fc1`, rD² + D for `fc2`: **2rD² + (r + 1)D**,
# - two norms, a weight and a bias of D each: **4D**.
#
# **Predict.** With r = 4, which share of a block is the MLP?

# %%
shares = {}
for name, D, heads, r in (("ours", 128, 4, 2), ("ViT-B", 768, 12, 4)):
    formula = {"attention": 4 * D**2 + 4 * D, "MLP": 2 * r * D**2 + (r + 1) * D, "norms": 4 * D}
    block = Block(dim=D, num_heads=heads, hidden_dim=r * D)
    assert sum(formula.values()) == sum(p.numel() for p in block.parameters())
    shares[f"{name}, r = {r}"] = formula
totals = [f"{sum(formula.values()):,}" for formula in shares.values()]
plots.share_bars(shares, totals, "The parameters of one block")

# %% [markdown]
# The formula and the count agree, or the cell would have stopped. Two thirds of a block with r = 4 are MLP.
# The norms are too few to be seen.
#
# ## The library's block
#
# PyTorch has a block of its own, `nn.TransformerEncoderLayer`. It was made for the first Transformer, a
# translator, and so are its defaults.
#
# **Predict.** We ask for one with D = 12 and 3 heads, and leave all else as it is. In how many ways will it
# differ from our block with hidden width 48?

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
# ## Proof
#
# Our block and the library's, with the same random parameters, in float64. Only the names differ.

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
for name, fault in faults.items():
    layer = nn.TransformerEncoderLayer(12, 3, 48, **(right | fault)).double()
    layer.load_state_dict(state)
    print(f"{name:17} off by up to {(layer(x) - ours(x)).abs().max():.1e}")

# %% [markdown]
# The last two are small. In float32 and with a generous tolerance they would pass for rounding; in float64
# they stand out clearly. That is why this course proves things in float64.
#
# ## Pre-norm or post-norm?
#
# Both wirings are made of the same pieces, so we can build both and compare. `PostBlock` is our block with
# another `forward`.


# %%
class PostBlock(Block):
    """The same pieces, wired as in the first Transformer: norms on the stream."""

    def forward(self, x, rope=None):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


# %% [markdown]
# A training step changes each weight by its gradient, so the size of the gradients matters. We stack 24
# blocks, fresh from their random start, send 8 sequences of random tokens through, read the answer from
# token 0, take the loss against random labels, and note the norm of the gradient of each layer's `fc2`
# weights. With pre-norm, a last LayerNorm stands before the head, as in every pre-norm network: the stream
# has to be brought to size once at the end.
#
# How the weights start matters too. The first Transformers drew them by *Xavier's* rule (Glorot & Bengio
# 2010), which keeps numbers at about their size from layer to layer. Others, among them the networks of this
# course, draw them smaller, with standard deviation 0.02. We try both.


# %%
torch.set_num_threads(1)  # matrices as small as ours are fastest on one core


def gradients(kind, small_start, depth=24, seed=0, D=64, heads=4):
    """Norm of the gradient of fc2 in each layer, at the start of training: (depth,)."""
    torch.manual_seed(seed)
    blocks = nn.Sequential(*[kind(D, heads, 4 * D) for _ in range(depth)])
    head = nn.Linear(D, 10)
    for weight in (p for p in [*blocks.parameters(), head.weight] if p.ndim > 1):
        nn.init.normal_(weight, std=0.02) if small_start else nn.init.xavier_normal_(weight)
    x, labels = torch.randn(8, 17, D), torch.randint(10, (8,))
    end = blocks(x)
    if kind is Block:
        end = F.layer_norm(end, (D,))
    F.cross_entropy(head(end[:, 0]), labels).backward()
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
plots.gradient_norms(panels)

# %% [markdown]
# Bands show the smallest and the largest of 4 random starts, lines their median. What is seen on the left:
#
# - Pre-norm: gradients are largest in the first layer and fall towards the last.
# - Post-norm: they stay about as large as they begin. In the last layers they are nearly three times those of
#   pre-norm, and they depend more on chance: the band is wide.
#
# Why do pre-norm's fall? Each half-block adds to the stream, so after many layers it is long: like √L after
# L layers, by Pythagoras. The last LayerNorm divides by that length, and on the way back the gradients are
# divided by it too. With post-norm each LayerNorm brings the stream back to size, and nothing is divided.
# So the last layer's gradient should fall as 1/√L in one wiring and stay in the other (Xiong et al. 2020,
# arXiv 2002.04745, prove this for a simplified network).

# %%
depths = [3, 6, 12, 24, 48]
last = {
    name: np.array(
        [[gradients(kind, False, depth, seed)[-1] for depth in depths] for seed in range(3)]
    )
    for name, kind in kinds.items()
}
guide = ("falls as 1/√layers", last["pre-norm"][:, 0].mean() * np.sqrt(3 / np.array(depths)))
axes = ("layers", "gradient norm of the last layer")
plots.run_curves(depths, last, *axes, logarithmic=True, guide=guide)

# %% [markdown]
# That is what we see. And with the small start, on the right above, the two can hardly be told apart: the
# branches add so little that the stream hardly grows, and a LayerNorm hardly changes it.
#
# Does it matter for training? Two networks of 24 layers with Xavier's start learn the handwritten digits for
# 40 steps, at the full learning rate from the first step on; two random starts each. (Both keep the last
# LayerNorm before the head. Post-norm does not need it, and it does no harm.)
#
# **Predict.** Guessing among ten digits costs a loss of ln 10 = 2.30. Where will the two be after 40 steps?

# %%
from vit_tutorial import VisionTransformer, ViTConfig

train = digits("train")
_, digits_card = load_checkpoint("digits")
train_images = normalize(train.images, digits_card.mean, digits_card.std)
config = ViTConfig(img_size=8, patch_size=4, in_chans=1, embed_dim=32, depth=24, num_heads=4)


def train_briefly(kind, seed, rate=2e-3, steps=40):
    torch.manual_seed(seed)
    model, losses = VisionTransformer(config), []
    for block in model.blocks:
        block.__class__ = kind  # the same parameters, another forward
        for weight in (p for p in block.parameters() if p.ndim > 1):
            nn.init.xavier_normal_(weight)
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
losses = {
    name: np.array([train_briefly(kind, seed) for seed in range(2)]) for name, kind in kinds.items()
}
guide = ("guessing", np.full(40, np.log(10)))
plots.run_curves(range(40), losses, "training step", "loss (cross-entropy)", guide=guide)

# %% [markdown]
# Pre-norm learns at once. Post-norm makes a beginning and falls back to the loss of guessing. What all this
# shows, and what it does not:
#
# - It shows that 24 layers of post-norm, started like this, do not get going at a rate that pre-norm likes.
#   Pre-norm forgives haste.
# - It does not show that post-norm is worse. At a tenth of this rate the two are nearly the same (try
#   `train_briefly(PostBlock, 0, rate=2e-4)`). The first Transformer and BERT are post-norm; their training
#   begins with a tiny rate and raises it slowly (*warm-up*, lesson 07).
# - It does not show that gradients *vanish* in post-norm, as is often said: on the way back through our 24
#   layers they did not. They stay large, up to the last layer.
# - Gradients at the start are the start only, and AdamW divides by their size anyway. The figures are a
#   reason to be careful, not a proof of what a training will do. Small networks, one data set, few steps.
#
# ## Dropout and drop path
#
# Two ways to keep a network from relying on single numbers. Both work in training only.
#
# **Dropout** (Srivastava et al. 2014) sets each number to 0 with probability p. So that the mean stays what
# it was, the others are divided by 1 - p.
#
# **Predict.** A million ones, p = 0.2. Which numbers come out, and what is their mean?

# %%
torch.manual_seed(0)
dropped = F.dropout(torch.ones(1_000_000), p=0.2, training=True)
print("numbers:", dropped.unique().tolist(), " mean:", round(dropped.mean().item(), 3))
dropped = F.dropout(torch.ones(1_000_000), p=0.2, training=False)
print("outside training:", dropped.unique().tolist())

# %% [markdown]
# **Drop path** (also *stochastic depth*; Huang et al. 2016, arXiv 1603.09382) drops what a whole half-block
# adds, for one image of the batch: for that image the layer is skipped, the stream flows on. It needs the
# residual stream: without it, dropping a layer would drop everything.
#
# The picture shows what each number of a branch is multiplied by, for 4 images of 3 tokens.

# %%
torch.manual_seed(5)
factors = [F.dropout(torch.ones(4, 3, 4), 0.5), F.dropout(torch.ones(4, 1, 1), 0.5).expand(4, 3, 4)]
plots.token_stacks(torch.stack(factors).numpy(), ["dropout, p = 0.5", "drop path, p = 0.5"])

# %% [markdown]
# Our package's `Block` has drop path, in both of its branches, and no dropout: the recipes for large networks
# (lesson 07) use the first and not the second. Unless a config asks for it, p is 0 and nothing is dropped.


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
# **The common wrong answer** forgets the division. In training every branch then adds less on average than
# it will add in use, and the stream of the finished network is longer than any that it was trained on.

# %% [markdown]
# The package's own:

# %% definition="vit_tutorial.model.drop_path"

# %% [markdown]
# And the mistake that everybody makes once: dropout that stays on when the network is used.
#
# **Predict.** We run each of these twice on the same input. Which of the three differ?


# %%
def careless(x):
    return ours(F.dropout(x, 0.1))  # `training` is True unless you say otherwise


module = nn.Sequential(nn.Dropout(0.1), ours)
for name, layer, training in (
    ("module in training", module, True),
    ("module in eval", module, False),
    ("careless in eval", careless, False),
):
    module.train(training)
    off = (layer(x) - layer(x)).abs().max()
    print(f"{name:18}: two passes differ by {off:.2f}")

# %% [markdown]
# A module knows whether it is in training: `model.eval()` tells all its parts. A *function* must be told,
# with `training=self.training`; ours has never heard of `eval()`. The test is one line, and worth having in
# every project: run twice, compare.

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
# | hidden numbers of the MLP | (B, T, rD) | (1, 65, 256) |
# | what each half-block adds | (B, T, D) | (1, 65, 128) |
# | parameters of a block | | (4 + 2r)D² + (9 + r)D |
#
# A block is two lines: `x = x + attention(norm1(x))`, then `x = x + mlp(norm2(x))`. In attention tokens talk,
# in the MLP each thinks for itself, and the stream keeps everything.
#
# ## The questions people ask
#
# **Why LayerNorm and not BatchNorm?** BatchNorm takes its mean over the batch. So in training, what it
# makes of an image depends on the others; and in use it needs averages remembered from training, which are
# right only if the data are like those. LayerNorm does the same always, for one image or a thousand.

# %%
batch_norm, layer_norm = nn.BatchNorm1d(128), nn.LayerNorm(128)
torch.manual_seed(0)
batch = torch.randn(4, 128) + torch.arange(4)[:, None]  # four images, one token of each
for name, norm in (("BatchNorm", batch_norm), ("LayerNorm", layer_norm)):
    with_others, with_two = norm(batch)[0], norm(batch[:2])[0]
    in_use = norm.eval()(batch)[0]
    print(
        f"{name}: other company changes it by {(with_others - with_two).abs().max():.2f},", end=" "
    )
    print(f"eval() by {(with_others - in_use).abs().max():.2f}")

# %% [markdown]
# This is no law of nature: convolutional networks do very well with BatchNorm.
#
# **Why is the MLP wider inside?** Each hidden number is one detector with one bend. To say something that a
# linear layer cannot, a token needs several of them. Here an MLP has to learn the products of neighbouring
# entries, $x_0 x_1$, $x_2 x_3$ and so on, for D = 8.


# %%
def error_with(hidden, steps=300):
    torch.manual_seed(0)
    mlp = Mlp(8, hidden)
    optimizer = torch.optim.Adam(mlp.parameters(), lr=1e-2)
    for _ in range(steps):
        x = torch.randn(256, 8)
        products = x * x.view(256, 4, 2).flip(-1).flatten(1)  # x0 x1 twice, x2 x3 twice, ...
        loss = F.mse_loss(mlp(x), products)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


for ratio in (0.5, 1, 2, 4, 8):
    print(f"r = {ratio:3}: error {error_with(int(8 * ratio)):.3f} (1 = nothing learned)")

# %% [markdown]
# Wider is better, and costs parameters in proportion. That r = 4 became the custom is experience, not a
# theorem; our small networks do with 2.
#
# **Why residuals?** Take them away and look what 24 random layers leave of the differences between tokens.
# Attention averages; without the stream to keep what a token was, all tokens soon become the same (Dong et
# al. 2021, arXiv 2103.03404). The cell prints the mean cosine of token 0 with the others; 1 means the same
# direction.

# %%
torch.manual_seed(0)
blocks = [Block(64, 4, 256) for _ in range(24)]
kept = without = torch.randn(1, 17, 64)
for depth, block in enumerate(blocks, start=1):
    with torch.no_grad():
        kept = block(kept)
        without = block.mlp(block.norm2(block.attn(block.norm1(without))))
    if depth in (1, 2, 4, 24):
        alike = [F.cosine_similarity(t[0, :1], t[0, 1:]).mean().item() for t in (kept, without)]
        print(f"after {depth:2} layers: {alike[0]:.3f} with residuals, {alike[1]:.3f} without")

# %% [markdown]
# **Pre or post?** For a ViT: pre, with one more norm after the last block. The network of this course and
# all networks of the ViT paper do it. You can tell it from the parameters: a pre-norm network of L layers
# has 2L + 1 LayerNorms.

# %%
norm_count = sum(isinstance(module, nn.LayerNorm) for module in vit.modules())
print(f"{len(vit.blocks)} layers, {norm_count} LayerNorms")

# %% [markdown]
# ## A stretch
#
# Can warm-up rescue post-norm at the high rate? In `train_briefly`, begin at 0 and raise the rate to 2e-3 over
# the first 200 of 300 steps (`optimizer.param_groups[0]["lr"] = ...`; half a minute). Then leave Xavier's
# start out, so that the weights start small, and go without warm-up. Which of the two cures works here?
# Predict from the figures above, then try.
