# %% [markdown]
# # 06 · The Vision Transformer
#
# **How do the pieces become one network, how large is it, and does the one that you wrote work?**
#
# You have patches, tokens, positions, attention and a block. Two pieces are missing: one that reads the
# answer off, and one that calls all the others in the right order. Then it is a Vision Transformer.
#
# **You will**
#
# - follow an image through a trained network, stage by stage, and write the two missing pieces,
# - see what a network says before it has learned anything, and where its parameters and its operations are,
# - see the package's network equal to torchvision's ViT-B/16: to the parameter and to the logit,
# - build a network out of *your own* functions from lessons 01 to 06, give it trained weights, and see it classify,
# - *deeper:* choose its starting values, find out what a softmax too many costs, count by formula.

# %%
from vit_tutorial import load_checkpoint, plots

plots.network_map()

# %% [markdown]
# ## The whole network on one line
#
# The network that comes with the course as `digits` reads grey images of 8×8 pixels. It cuts them into
# N = 16 patches of 2×2 pixels, makes of each a token of width D = 64, puts a CLS token in front (so there are
# T = 17 tokens), adds positions, and sends all of it through 4 blocks, a norm and a classifier (`vit.head`).

# %%
vit, card = load_checkpoint("digits")
count = {}
for name, parameter in vit.named_parameters():
    stage = name.split(".")[0]
    count[stage] = count.get(stage, 0) + parameter.numel()

# %%
stages = ["image", "patches", "tokens", "+ CLS", "+ positions", "4 blocks", "norm", "classifier"]
returned = ["1×8×8", "16×4", "16×64", "17×64", "17×64", "17×64", "17×64", "10"]
held = ("patch_embed", "cls_token", "pos_embed", "blocks", "norm", "head")
plots.network_stages(
    stages,
    returned,
    ["", "", *(f"{count[stage]:,}" for stage in held)],
    "Each stage of the digits network: its parameters above, what it returns below",
)

# %% [markdown]
# Almost everything is in the blocks: 98% of the parameters, the numbers that the network learned. The rest is there
# to bring pixels in and to read an answer off.

# %% claim="Almost everything is in the blocks: 98% of the parameters"
assert 0.975 < count["blocks"] / sum(count.values()) < 0.985

# %%
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial import normalize
from vit_tutorial.data import digits

# %% [markdown]
# ## The classifier
#
# What leaves the final norm are 17 tokens for each image. This network reads its answer from one of them, CLS: a vector
# of 64 numbers. The classifier has a row of 64 weights and a bias for each class, and turns the vector into one number
# per class, the **logits**. For one image and the class "3": multiply number by number, add up, add the bias.

# %%
test = digits("test")
everything = normalize(test.images, card.mean, card.std)  # (B, C, H, W) = (360, 1, 8, 8)
images = everything[:5]

# %%
tokens = vit.forward_features(images)  # (5, 17, 64), after the final norm
products = vit.head.weight[3] * tokens[0, 0]  # 64 numbers
print("the first products:", [round(number, 3) for number in products[:4].tolist()], "...")
print("the logit of 3:", round((products.sum() + vit.head.bias[3]).item(), 4))

# %%
logits = vit(images)  # (5, 10)
print("by the whole network:", round(logits[0, 3].item(), 4))
print("largest logits:", logits.argmax(1).tolist(), "  shown:", test.labels[:5].tolist())

# %% [markdown]
# The network says the same, and names the class whose logit is the largest; all five are right.
#
# There is another way: no CLS token at all, and the **mean** of the patch tokens. The package calls the choice
# `pool`. With `pool="cls"` there are T = N + 1 tokens, with `pool="mean"` only the T = N patches. Either way, the
# classifier reads what comes out of the final norm.

# %% claim="The network says the same"
assert abs(logits[0, 3] - products.sum() - vit.head.bias[3]) < 1e-4

# %% claim="names the class whose logit is the largest; all five are right"
assert logits.argmax(1).tolist() == test.labels[:5].tolist()


# %% exercise="06.1"
def my_head(tokens, weight, bias, pool):
    """Turn the final tokens into logits.

    tokens: (B, T, D), after the final norm.
    weight, bias: (classes, D) and (classes,), as in nn.Linear.
    pool: "cls", the answer is read from the token in front, or "mean", from the mean of all tokens.
    Returns (B, classes).
    """
    ### BEGIN SOLUTION
    pooled = tokens[:, 0] if pool == "cls" else tokens.mean(dim=1)  # (B, D)
    return pooled @ weight.T + bias
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("06.1", my_head)
# hint("06.1")

# %% [markdown] solved_only=true
# **Why.** `tokens[:, 0]` keeps the batch and takes token 0 of every image. The mean runs over dimension 1, the
# tokens, so that D numbers per image are left. From there both are the same linear layer.
#
# **The common wrong answer** is `tokens[0]`. In code that puts the tokens first, (T, B, D), that is the CLS
# token of all images. Here it is all tokens of the first image. With T rows of logits instead of B, nothing
# complains until the loss counts the labels.

# %% [markdown]
# **Predict.** The digits network learned to put its answer into CLS. Read the mean of its patch tokens
# instead, with the same classifier: how many of the 360 test images are still correct?

# %%
with torch.inference_mode():
    tokens = vit.forward_features(everything)  # (360, 17, 64)
    said = {"CLS": vit.head(tokens[:, 0]), "mean": vit.head(tokens[:, 1:].mean(1))}
right = {name: (x.argmax(1) == test.labels).sum().item() for name, x in said.items()}
print("correct of 360:", right)

# %% [markdown]
# For a classifier that never saw such a vector, that is surprisingly much: almost nine of ten. Patch tokens and CLS live
# in the same stream. Still, it loses some thirty digits by it: read where the network was trained to write.

# %% claim="that is surprisingly much: almost nine of ten"
assert 0.82 < right["mean"] / 360 < 0.93

# %% claim="it loses some thirty digits by it"
assert 20 <= right["CLS"] - right["mean"] <= 40

# %% [markdown]
# ## In the right order
#
# | step | gets | returns |
# |---|---|---|
# | `patch_embed` | images (B, C, H, W) | (B, N, D) |
# | `add_cls` | (B, N, D) | (B, N + 1, D) |
# | `add_positions` | (B, N + 1, D) | (B, N + 1, D) |
# | every block of `blocks` | (B, N + 1, D) | (B, N + 1, D) |
# | `norm` | (B, N + 1, D) | (B, N + 1, D) |
# | `head` | (B, N + 1, D) | (B, classes) |


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


# %%
check("06.2", my_vit)
# hint("06.2")

# %% [markdown] solved_only=true
# **Why.** CLS comes before the positions because it has one, too. The norm comes once, at the end: in a
# pre-norm block the stream itself is never normalised.
#
# **The common wrong answer** leaves that last norm out. Everything runs and every shape is right.

# %% [markdown]
# The same with the pieces of the trained network. Every line is one arrow of the picture, and the logits are those of
# the whole network, called as usual.

# %%
from torch.testing import assert_close

with torch.inference_mode():
    x = vit.patch_embed(everything)  # (360, 16, 64)
    x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1)  # (360, 17, 64)
    x = x + vit.pos_embed

# %%
with torch.inference_mode():
    for block in vit.blocks:
        x = block(x)
    proper = vit.head(vit.norm(x)[:, 0])  # (360, 10)
    assert_close(proper, vit(everything))

# %% [markdown]
# Is that last norm so important? **Predict.** Leave it out of the trained network. Will it be right by chance
# only, a little less often than before, or just as often?

# %%
with torch.inference_mode():
    without, longer = vit.head(x[:, 0]), vit.head(100 * x[:, 0])
right = {"with the norm": proper, "without": without, "without, of 100 x": longer}
right = {name: (logits.argmax(1) == test.labels).sum().item() for name, logits in right.items()}
print("correct of 360:", right, f"  logits differ by up to {(without - proper).abs().max():.2f}")

# %% [markdown]
# The logits are far off, and the accuracy does not notice, even when `x` is made 100 times as long. The norm mostly
# changes a token's length, and a length scales all logits alike (but for the small biases): the largest stays the
# largest. The lesson to keep: **accuracy is a poor test for code.** A network with
# a bug can score well, and one without can score badly. Comparing numbers with an independent reference finds what
# accuracy hides, and that is why all these lessons use `assert_close`.

# %% claim="The logits are far off, and the accuracy does not notice"
assert (without - proper).abs().max() > 1
assert abs(right["with the norm"] - right["without"]) <= 4

# %% claim="even when `x` is made 100 times as long"
assert abs(right["with the norm"] - right["without, of 100 x"]) <= 4

# %% claim="changes a token's length, and a length scales all logits alike (but for the small biases)"
with torch.inference_mode():
    assert F.cosine_similarity(x[:, 0], vit.norm(x)[:, 0]).min() > 0.95
    assert ((longer - vit.head.bias) - 100 * (without - vit.head.bias)).abs().max() < 0.01
assert vit.head.bias.abs().max() < 0.1

# %% [markdown] deeper=true
# ## Every choice in one place
#
# A network is fixed by a dozen numbers and words. The package keeps them together in a `ViTConfig`, which
# cannot be changed once it is made, and which knows what follows from them: the grid, N, T and the width of a
# head. (The names that these cells define are the notebook's own.)

# %%
from dataclasses import dataclass, replace
from typing import Any

# %% definition="vit_tutorial.model.ViTConfig"

# %% [markdown]
# Choices that do not fit together are better refused now than in the middle of a training:

# %% definition="vit_tutorial.model.check_config"

# %% [markdown]
# The defaults are 32×32 pixels, patches of 4, D = 192 and 6 heads. Three changes:

# %%
for change in (dict(img_size=(32, 64)), dict(num_heads=5), dict(patch_size=32)):
    try:
        config = ViTConfig(**change)
        print(f"{change}: {config.num_tokens} tokens, heads of width {config.head_dim}")
    except ValueError as error:
        print(f"{change}: refused, {error}")

# %% [markdown]
# The last one is allowed and still a bad idea: the whole image is one patch, so that attention has nothing to
# compare. Positions that are computed, not learned (lesson 03), follow from the config as well:

# %% claim="the whole image is one patch"
assert ViTConfig(patch_size=32).num_patches == 1

# %%
from vit_tutorial.positions import patch_coordinates, resample_table, rope_2d, sincos_2d

# %% definition="vit_tutorial.model.position_tables"

# %% [markdown] deeper=true
# ## Starting values
#
# Before training, all parameters are random numbers. Not any random numbers. One output of a linear layer is
# a sum of n products $w_1 x_1 + \dots + w_n x_n$. If the weights are drawn independently, with mean 0 and standard
# deviation (std) $\sigma$, then the variances of the products add up, and the output has the std
#
# $$\text{std of output} = \sqrt{n} \cdot \sigma \cdot \text{(typical size of the inputs)}$$
#
# where the typical size is the root of their mean square. For n = 48 inputs (a patch of 3×4×4 pixels) of size 1:

# %%
torch.manual_seed(0)
patches, spread = torch.randn(2000, 48), {}
for sigma in (1.0, 48**-0.5, 0.02):
    spread[sigma] = (patches @ (sigma * torch.randn(48, 192))).std().item()
    print(
        f"sigma {sigma:.3f}: outputs of std {spread[sigma]:.3f}, by formula {48**0.5 * sigma:.3f}"
    )

# %% [markdown]
# So σ = 1/√n passes the size on, and the patch projection starts with it: normalised pixels have size 1, and what
# the projection makes of them has size 1, too. All other weights start much smaller, with σ = 0.02. A block *adds*
# its result to the stream, so a small start means: at first, pass the stream on nearly unchanged.
#
# What if they did not? Here is how to start a network with any other σ:

# %% claim="σ = 1/√n passes the size on"
assert abs(spread[48**-0.5] - 1) < 0.05


# %%
import vit_tutorial


def started(sigma, config, seed=0):
    """A fresh network whose weights, the patch projection excepted, have std sigma."""
    torch.manual_seed(seed)
    model = vit_tutorial.VisionTransformer(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name != "patch_embed.proj.weight":
            nn.init.normal_(parameter, std=sigma)
    return model


# %% [markdown]
# **Predict.** Nine blocks, D = 192, σ = 1. The tokens enter with a size between 1 and 1.5. With what size do they
# leave the last block: 1, 10, 100 or 1000?

# %%
noise = torch.randn(8, 3, 32, 32)
sizes = {}
for sigma in (1.0, 0.1, 0.02):
    with torch.inference_mode():
        model = started(sigma, ViTConfig())
        stream = [model.embed(noise)]
        for block in model.blocks:
            stream.append(block(stream[-1]))
    sizes[f"σ = {sigma}"] = [x.std().item() for x in stream]
plots.token_spreads(sizes, "How large the tokens are, block by block")

# %% [markdown]
# With σ = 1, the first block adds something more than a hundred times as large as the image that came in, and at the
# end the tokens are at about 800. With σ = 0.02 the stream is calm: 9 blocks change its size by less than a tenth. With
# anything smaller it would be, too. So why not 0.002? A short training of the digits network tells: 100 steps, three
# random starts of each σ.

# %% claim="the first block adds something more than a hundred times as large as the image that came in, and at the"
loud = sizes["σ = 1.0"]
assert 1 < loud[0] < 1.5
assert 130 < loud[1] / loud[0] < 280
assert 500 < loud[-1] < 1200

# %% claim="9 blocks change its size by less than a tenth"
assert abs(sizes["σ = 0.02"][-1] / sizes["σ = 0.02"][0] - 1) < 0.07

# %%
train = digits("train")
train_images = normalize(train.images, card.mean, card.std)


def accuracy_from(sigma, seed):
    model = started(sigma, card.config, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for _ in range(100):
        chosen = torch.randint(len(train), (32,))
        loss = F.cross_entropy(model(train_images[chosen]), train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vit_tutorial.evaluate(model, test, card.mean, card.std).accuracy


# %%
threads, learned = torch.get_num_threads(), {}
torch.set_num_threads(1)  # so small a network runs fastest on one processor core
for sigma in (1.0, 0.1, 0.02, 0.002):
    learned[sigma] = [accuracy_from(sigma, seed) for seed in range(3)]
    print(f"σ = {sigma:<5}  accuracy:", [f"{accuracy:.0f}%" for accuracy in learned[sigma]])
torch.set_num_threads(threads)

# %% [markdown]
# After 100 steps σ = 1 and σ = 0.002 stand at 12 to 22%; guessing is 10%. (The small start is late rather than lost: try 600
# steps.) With 0.02 the network has learned more, and with
# 0.1 by far the most: here that is close to 1/√D = 1/√64 = 0.125, which passes the size on. 0.02 is no magic number.

# %% claim="After 100 steps σ = 1 and σ = 0.002 stand at 12 to 22%"
assert max(learned[1.0]) < 30
assert max(learned[0.002]) < 30

# %% claim="With 0.02 the network has learned more, and with"
assert min(learned[0.02]) > max(learned[0.002]) + 4
assert min(learned[0.1]) > max(learned[0.02]) + 12


# %% exercise="06.3"
def my_init(model):
    """Set every parameter of a VisionTransformer to its starting value, in place.

    - biases (their names end in "bias"): 0
    - the weight of every LayerNorm, its gain: 1
    - patch_embed.proj.weight, (D, C, P, P): normal, mean 0, std 1 / sqrt(C * P * P)
    - everything else (weights of linear layers, CLS token, positions): normal, mean 0, std 0.02

    Returns the model.
    """
    ### BEGIN SOLUTION
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)
        elif name == "patch_embed.proj.weight":
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, std=0.02)
    return model
    ### END SOLUTION


# %%
check("06.3", my_init)
# hint("06.3")

# %% [markdown] solved_only=true
# **Why.** Each output of the patch projection is a sum over C·P·P inputs, `parameter[0].numel()` of them. The
# weight of a LayerNorm multiplies what is already normalised, so 1 leaves it alone. It is the one weight
# with a single dimension.
#
# **The common wrong answer** treats everything called "weight" alike. Then the norms multiply by about 0.02,
# and every block sees a stream fifty times too faint.

# %% [markdown]
# The package's version. The gains are not in it, because `nn.LayerNorm` sets them to 1 by itself:

# %% definition="vit_tutorial.model.init_weights"

# %% [markdown] deeper=true
# ## A list of blocks
#
# The blocks of a network stand in an `nn.ModuleList`. A colleague writes `[block] * 4` to fill it. The shapes are
# right, it runs, it trains. **Predict.** How many parameters does it have, compared with four blocks?

# %%
from vit_tutorial.model import Block, PatchEmbed


def count_numbers(module):
    return sum(parameter.numel() for parameter in module.parameters())


block = Block(dim=64, num_heads=4, hidden_dim=128)
same = nn.ModuleList([block] * 4)
print(f"one block: {count_numbers(block):,}, the list of four: {count_numbers(same):,}")

# %% [markdown]
# As many as one: it is one block, called four times. Do it right.

# %% claim="it is one block, called four times"
assert count_numbers(same) == count_numbers(block) > 0


# %% exercise="06.4"
def my_blocks(make_block, depth):
    """Make a stack of blocks, each with its own parameters and its own random start.

    make_block: a function without arguments that returns a new block, an nn.Module.
    Returns a module that holds `depth` blocks and gives them one by one in a for loop.
    """
    ### BEGIN SOLUTION
    return nn.ModuleList(make_block() for _ in range(depth))
    ### END SOLUTION


# %%
check("06.4", my_blocks)
# hint("06.4")

# %% [markdown] solved_only=true
# **Why.** The block must be made anew for every place, and `nn.ModuleList` registers what it holds. Copying one
# block with `copy.deepcopy` gives independent numbers, but the same start for all; PyTorch's own
# `nn.TransformerEncoder` does that, and its documentation warns of it.
#
# **The common wrong answer**, `[make_block()] * depth`, calls the function once. Counting the parameters finds it
# at once; looking at shapes never does.

# %% [markdown]
# And a plain Python list? What a network holds in one, it neither trains nor saves:

# %%
forgetful = nn.Module()
forgetful.blocks = [Block(dim=64, num_heads=4, hidden_dim=128) for _ in range(4)]
print("parameters of four new blocks in a plain list:", count_numbers(forgetful))

# %% claim="it neither trains nor saves"
assert count_numbers(forgetful) == len(forgetful.state_dict()) == 0

# %% [markdown] deeper=true
# ## The package's network
#
# A network may be shown some of the patches only, which takes less time; lesson 13 will hide most of a picture. It
# is a choice of tokens:

# %% definition="vit_tutorial.model.keep_visible"

# %% [markdown]
# This is the package's `VisionTransformer`, whole. `forward` is `embed`, then the blocks and the norm, then
# `forward_head`: your `my_vit`, with names that other lessons use to stop halfway. `resized` is from lesson 03.

# %% definition="vit_tutorial.model.VisionTransformer"

# %% [markdown]
# That what you see here is what the package runs: same weights, same logits, for every kind of positions and both
# ways of reading the answer.

# %%
noise = torch.randn(2, 3, 32, 32)
for pos_embed in ("none", "learned", "sincos", "rope"):
    for pool in ("cls", "mean"):
        config = ViTConfig(embed_dim=48, depth=2, pos_embed=pos_embed, pool=pool)
        here, package = VisionTransformer(config), vit_tutorial.VisionTransformer(config)
        here.load_state_dict(package.state_dict())
        assert_close(here(noise), package(noise))
        print(f"{pos_embed:8} {pool:5} {count_numbers(here):7,} parameters, same logits")

# %% [markdown]
# That two copies of one text agree does not make them right. An independent witness comes below.

# %% [markdown]
# ## Before it has learned anything
#
# The loss of an image is minus the logarithm of the share that the softmax gives to the right class (the
# *cross-entropy*).
#
# **Predict.** A fresh network, ten classes. What is its loss?

# %%
from vit_tutorial import VisionTransformer, ViTConfig

torch.manual_seed(0)
fresh = VisionTransformer(card.config)
with torch.inference_mode():
    loss = F.cross_entropy(fresh(everything), test.labels).item()
print(f"loss {loss:.4f}   ln 10 = {math.log(10):.4f}")

# %% [markdown]
# It knows nothing, so every class gets about 1/10, and $-\ln \frac{1}{10} = \ln 10 = 2.303$; with a hundred classes it
# would be ln 100. This is worth two habits:
#
# - **Look at the first loss.** Far above the logarithm of the number of classes, the start is too wild.
# - **A loss that stays there is no result.** It says that nothing was learned.

# %% claim="every class gets about 1/10"
assert abs(loss - math.log(10)) < 0.05
with torch.inference_mode():
    assert (fresh(everything).softmax(1) - 0.1).abs().max() < 0.08

# %% [markdown] deeper=true
# ## A softmax too many
#
# The opposite trap is a loss that falls and then sticks. `nn.CrossEntropyLoss` takes *logits* and makes shares of
# them itself. A common mistake is a softmax at the end of the network, so that there are two. **Predict.** The
# network is perfect and sure: 1 for the right class, 0 for the nine others. What loss does it get?

# %%
perfect = F.one_hot(torch.tensor([3]), 10).float()  # what the network's own softmax says
print("loss:", round(F.cross_entropy(perfect, torch.tensor([3])).item(), 4))

# %%
lead = torch.linspace(-2, 12, 100)  # of the right class's logit; all others are 0
logits = F.pad(lead[:, None], (0, 9))  # (100, 10)
right = torch.zeros(100, dtype=torch.int64)
curves = {
    "logits into the loss": F.cross_entropy(logits, right, reduction="none"),
    "a softmax in between": F.cross_entropy(logits.softmax(1), right, reduction="none"),
}
floor = curves["a softmax in between"][-1].item()

# %%
plots.loss_against_lead(
    lead.tolist(),
    {name: curve.tolist() for name, curve in curves.items()},
    {"ln 10 = 2.303, knows nothing": math.log(10), f"the floor, {floor:.3f}": floor},
    "The loss, with one softmax and with two",
)

# %% [markdown]
# With a softmax in between, the loss never comes near 0: it ends on a floor of 1.46. Worse, it is flat on both sides:
# where the network is wrong, the gradient that should put it right is faint.

# %% claim="the loss never comes near 0: it ends on a floor of 1.46"
assert abs(curves["a softmax in between"].min() - 1.461) < 0.005

# %% claim="it is flat on both sides"
one, two = (curve.diff().abs() / lead.diff() for curve in curves.values())
assert two[0] < 0.1 * one[0]
assert two[-1] < 0.01


# %% exercise="06.5"
def loss_floor(num_classes):
    """The lowest cross-entropy that a network can reach whose output went through a softmax already.

    It is perfect: 1 for the right class and 0 for the others. Returns one number.
    """
    ### BEGIN SOLUTION
    share = math.e / (math.e + num_classes - 1)  # the softmax of 1, 0, 0, ...
    return -math.log(share)
    ### END SOLUTION


# %%
check("06.5", loss_floor)
# hint("06.5")

# %% [markdown] solved_only=true
# **Why.** The loss takes the numbers 1, 0, 0, ... for logits. Their exponentials are e for the right class and
# $e^0 = 1$ for each of the others, with ten classes nine, so the right class gets $\frac{e}{e + 9}$.
#
# **The common wrong answer** is 0, which holds for logits: they may grow without end, shares may not. For a
# thousand classes the floor lies at 5.91, only 1 below the start, ln 1000 = 6.91.

# %% claim="For a thousand classes the floor lies at 5.91, only 1 below the start, ln 1000 = 6.91"
sure = F.cross_entropy(F.one_hot(torch.tensor([0]), 1000).float(), torch.tensor([0])).item()
assert round(sure, 2) == 5.91
assert round(math.log(1000), 2) == 6.91

# %% [markdown]
# ## How large is it?
#
# A linear layer from m to n numbers has m·n weights and n biases. So a block whose MLP is 4·D wide inside has about
# **12·D²** parameters: 4·D² in attention, 8·D² in the MLP. And every one of these is used once for each token, in one
# multiplication and one addition: two **operations** (FLOPs, floating-point operations). What comes on top are the
# two products inside attention: T×T scores, and the mixing of the values.
#
# **Play.** Where are the parameters, and where are the operations? The sliders go through networks for 224×224
# pixels with heads of width 64. Among them are the sizes with names, as ViT-B: width 768, depth 12. What happens to
# each bar when the patches become smaller?

# %% claim="So a block whose MLP is 4·D wide inside has about **12·D²** parameters: 4·D² in attention, 8·D² in"
from vit_tutorial.model import Block as Package

block = Package(dim=768, num_heads=12, hidden_dim=4 * 768)
assert abs(sum(p.numel() for p in block.parameters()) / (12 * 768**2) - 1) < 0.01
assert abs(sum(p.numel() for p in block.attn.parameters()) / (4 * 768**2) - 1) < 0.01

# %%
from vit_tutorial import flipbook
from vit_tutorial.lessons.counting import by_part

NAMES = {(192, 12): "ViT-Ti", (384, 12): "ViT-S", (768, 12): "ViT-B", (1024, 24): "ViT-L"}


def draw(width, depth, patch_size):
    sizes = dict(embed_dim=width, depth=depth, num_heads=width // 64, mlp_ratio=4.0)
    config = ViTConfig(img_size=224, patch_size=patch_size, num_classes=1000, **sizes)
    numbers, operations = by_part(config)
    labels = [
        f"{sum(numbers.values()) / 1e6:.1f} million",
        f"{sum(operations.values()) / 1e9:.1f} billion",
    ]
    words = f"{labels[0]} parameters, {labels[1]} operations for {config.num_tokens} tokens."
    name = NAMES.get((width, depth), "no common name")
    title = f"Width {width}, depth {depth}, patch {patch_size}: {name}"
    rows = {"parameters": numbers, "operations": operations}
    return plots.share_bars(rows, labels, title), f"{title}. {words}"


# %%
flipbook(
    draw,
    width=[192, 384, 768, 1024],
    depth=[12, 24],
    patch_size=[8, 16, 32],
    start={"width": 768, "depth": 12, "patch_size": 16},
)

# %%
draw(768, 12, 16)[0]

# %%
draw(768, 12, 8)[0]

# %% [markdown]
# Two of its views as still pictures: ViT-B with patches of 16 and of 8. The parameters hardly depend on the patch
# size, the operations do. Half the patch size means four times the tokens, four times the work in every linear layer of
# a block, and sixteen times the work in the two T×T products of attention: their share of all operations grows from 4% to
# 15%.

# %% claim="The parameters hardly depend on the patch"
big = dict(img_size=224, num_classes=1000, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0)
(coarse, work), (fine, more) = (by_part(ViTConfig(patch_size=size, **big)) for size in (16, 8))
assert abs(sum(fine.values()) / sum(coarse.values()) - 1) < 0.01
assert sum(more.values()) > 4 * sum(work.values())

# %% claim="Half the patch size means four times the tokens, four times the work in every linear layer of"
big = dict(img_size=224, num_classes=1000, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0)
(_, work), (_, more) = (by_part(ViTConfig(patch_size=size, **big)) for size in (16, 8))
assert abs(more["MLP"] / work["MLP"] - 4) < 0.05
assert abs(more["attention, T×T"] / work["attention, T×T"] - 16) < 0.3

# %% claim="their share of all operations grows from 4% to 15%"
big = dict(img_size=224, num_classes=1000, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0)
shares = [by_part(ViTConfig(patch_size=size, **big))[1] for size in (16, 8)]
shares = [100 * share["attention, T×T"] / sum(share.values()) for share in shares]
assert [round(share) for share in shares] == [4, 15]

# %% [markdown]
# ## ViT-B/16, to the parameter and to the logit
#
# The best known size is ViT-B/16: images of 224×224 pixels, patches of 16×16, D = 768, 12 blocks of 12 heads, a
# hidden layer of 4·D, and 1000 classes. torchvision has it, written by other people: an independent witness.

# %%
from torchvision.models import vit_b_16

theirs = vit_b_16(weights=None).eval()  # fresh: nothing is downloaded
their_count = sum(parameter.numel() for parameter in theirs.parameters())
print(f"12 blocks of 12·D²: {12 * 12 * 768**2:,}   torchvision's: {their_count:,}")

# %% [markdown]
# The rule of thumb misses 2% of it. Are the two networks also the same *function*? Take torchvision's weights over
# into ours, put the same image into both, and compare.
#
# **Predict.** What does a fresh ViT-B/16 of torchvision answer to any image?

# %% claim="The rule of thumb misses 2% of it"
assert 0.015 < 1 - 12 * 12 * 768**2 / their_count < 0.025

# %%
torch.manual_seed(0)
image = torch.randn(1, 3, 224, 224)
with torch.inference_mode():
    answer = theirs(image)
print("logits from", answer.min().item(), "to", answer.max().item())

# %% [markdown]
# Its classifier starts at zero, so its logits do too, whatever the blocks do. Any two networks with such a classifier
# "agree": comparing fresh models proves nothing. So first every parameter gets its own random value, norms and
# biases included.

# %% claim="Its classifier starts at zero, so its logits do too"
assert (answer == 0).all()

# %%
from vit_tutorial import from_library

with torch.inference_mode():
    for parameter in theirs.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.normal_(std=fan_in**-0.5)
    ours = from_library(theirs)  # the package's VisionTransformer, with torchvision's weights
    expected, came = theirs(image), ours(image)
assert_close(came, expected)
print(f"parameters: {their_count:,} and {sum(p.numel() for p in ours.parameters()):,}")
print(f"1000 logits between {expected.min():.2f} and {expected.max():.2f},", end=" ")
print(f"the largest difference is {(came - expected).abs().max():.0e}")

# %% [markdown]
# Equal to the parameter, and to the logit up to rounding. Would this test notice a mistake? Change one number
# out of 86 million, and look again:

# %% claim="Equal to the parameter, and to the logit up to rounding"
assert sum(parameter.numel() for parameter in ours.parameters()) == their_count == 86_567_656
assert (came - expected).abs().max() < 1e-4
assert expected.std() > 0.3

# %%
with torch.inference_mode():
    ours.blocks[6].mlp.fc2.bias[100] += 1.0
    off = (ours(image) - expected).abs()[0]  # (1000,)
    ours.blocks[6].mlp.fc2.bias[100] -= 1.0
print(
    f"{(off > 1e-4).sum()} of 1000 logits are off by more than 0.0001, the worst by {off.max():.3f}"
)

# %% [markdown]
# It would: nearly all logits tell.

# %% claim="It would: nearly all logits tell"
assert (off > 1e-4).sum() > 900

# %% [markdown] deeper=true
# ## Counting by formula
#
# The rule of thumb is the beginning; this is the rest. A LayerNorm has 2·D numbers. The patch projection is a linear
# layer from C·P·P to D. By hand, for the digits network:

# %%
print("patch projection:", 1 * 2 * 2 * 64 + 64)
print("queries, keys and values of a block:", 64 * (3 * 64) + 3 * 64)
for name, parameter in vit.named_parameters():
    if name.startswith(("patch_embed", "blocks.0.attn.qkv")):
        print(f"   {name:26} {tuple(parameter.shape)!s:16} {parameter.numel():6,}")

# %% [markdown]
# The rest is yours: a formula for any config, without building the network.


# %% exercise="06.6"
def count_parameters(config):
    """Count the parameters of VisionTransformer(config), by formula.

    config: a ViTConfig. Useful: embed_dim (D), hidden_dim, depth, patch_size, in_chans, num_classes,
    num_patches (N), num_tokens (T), pool, and pos_embed, of which only "learned" has parameters.
    Returns an int.
    """
    ### BEGIN SOLUTION
    D, hidden = config.embed_dim, config.hidden_dim
    patches = config.in_chans * config.patch_size**2 * D + D
    cls = D if config.pool == "cls" else 0
    positions = config.num_tokens * D if config.pos_embed == "learned" else 0
    attention = D * 3 * D + 3 * D + D * D + D
    mlp = D * hidden + hidden + hidden * D + D
    block = 2 * D + attention + 2 * D + mlp
    classifier = D * config.num_classes + config.num_classes
    return patches + cls + positions + config.depth * block + 2 * D + classifier
    ### END SOLUTION


# %%
check("06.6", count_parameters)
# hint("06.6")

# %% [markdown] solved_only=true
# **Why.** Every line is one stage of the picture at the top. The number of heads does not appear: h heads of width
# D/h have together the D×D weights that one head of width D would have.
#
# **The common wrong answer** gives every head the full width D. Some libraries ask for the width of *one* head,
# and a model given D there has h times the weights in attention: with it, a "ViT-B" has far more than
# 86 million.

# %% [markdown]
# Now the operations. Nearly all work is in products of matrices. An (m, n) matrix times an (n, l) matrix gives m·l
# numbers, and each is a sum of n products: n multiplications and n additions. That makes **2·m·n·l operations**. By
# hand, for one image in the digits network (T = 17, D = 64, 4 heads of width 16):

# %%
print("patch projection, (16, 4) times (4, 64):", 2 * 16 * 4 * 64)
print("queries, keys, values, (17, 64) times (64, 192):", 2 * 17 * 64 * 192)
print("scores of one head, (17, 16) times (16, 17):", 2 * 17 * 16 * 17)


# %% exercise="06.7"
def count_flops(config):
    """Count the operations of VisionTransformer(config) for one image, by formula.

    Only products of matrices count: patch projection, linear layers, the scores q k^T and the
    mixing of the values in attention, and the classifier. Two operations per multiplication and addition.
    Returns an int.
    """
    ### BEGIN SOLUTION
    D, N, T = config.embed_dim, config.num_patches, config.num_tokens
    patches = N * (config.in_chans * config.patch_size**2) * D
    projections = T * D * 3 * D + T * D * D  # to queries, keys and values, and back
    inside = T * D * T + T * T * D  # all heads: h of width D / h
    mlp = 2 * T * D * config.hidden_dim
    classifier = D * config.num_classes
    return 2 * (patches + config.depth * (projections + inside + mlp) + classifier)
    ### END SOLUTION


# %%
check("06.7", count_flops)
# hint("06.7")

# %% [markdown] solved_only=true
# **Why.** Everything with weights grows with T, the two products inside attention with T². For the scores, each of
# h heads multiplies (T, d) by (d, T): h·T·d·T = T·D·T, and as much for the mixing.
#
# **The common wrong answer** forgets the factor 2, or rather counts something else: multiply-adds. See the
# questions at the end.

# %% [markdown]
# PyTorch can count while a network runs. Attention can run as one fused operation, which is faster, or as separate
# products. **Predict.** Will the two counts be the same?

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted(model, image):
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops()


# %%
fused = counted(ours, image)
with sdpa_kernel(SDPBackend.MATH):  # attention as separate products
    separate = counted(ours, image)
print(f"as it runs:          {fused:,}")
print(f"attention unfused:   {separate:,}")
print(f"the difference:      {separate - fused:,}")
print(f"by formula:          {12 * 2 * (2 * 197 * 197 * 768):,}")

# %% [markdown]
# A tool that counts knows some operations and misses others, silently. A formula that you understand tells you what is
# missing: where the first two numbers differ, it is by exactly the two products inside attention, in 12 blocks.
#
# Papers say that ViT-B/16 takes 17.6 GFLOPs, and not 35: they count a multiplication and an addition as one. Such a pair
# is better called a multiply-add.

# %% claim="it is by exactly the two products inside attention, in 12 blocks"
assert separate - fused in (0, 12 * 2 * (2 * 197 * 197 * 768))

# %% claim="Papers say that ViT-B/16 takes 17.6 GFLOPs, and not 35"
assert round(separate / 2e9, 1) == 17.6
assert round(separate / 1e9) == 35

# %% [markdown]
# ## Your own network
#
# Now the pieces that *you* wrote. (Three of the twelve are *deeper* exercises: positions, 03.2, GELU, 05.2, and the MLP, 05.3.
# Who left them out sees the package's in their place.) `own_pieces` reads the notebooks that lie beside this one,
# takes your functions out of them, and checks each once more. What passes goes into the network. For what is
# open or wrong, the package's own piece is used in its place, so that everything below runs in any case. It reads
# the files, so save your notebooks first (Ctrl + S); the two functions of this notebook are handed over directly.

# %%
from vit_tutorial.lessons.own_pieces import own_pieces

own = own_pieces(my_head, my_vit)
print(own)

# %% [markdown]
# The network needs a place for its numbers, under the names that the trained weights have. So there is one small
# module for each piece. It *holds* parameters, and leaves the computing to your function. `nn.Linear` and
# `nn.Conv2d` serve as boxes here: they are never called.


# %%
class OwnPatchEmbed(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, config.patch_size)

    def forward(self, images):
        return own.my_patch_embed(images, self.proj.weight, self.proj.bias)


class OwnNorm(nn.LayerNorm):
    def forward(self, x):
        return own.my_layer_norm(x, self.weight, self.bias, self.eps)


# %%
class OwnAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x):
        qkv, proj = self.qkv, self.proj
        return own.my_multi_head(x, qkv.weight, qkv.bias, proj.weight, proj.bias, self.num_heads)


# %%
class OwnMlp(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.embed_dim, config.hidden_dim)
        self.fc2 = nn.Linear(config.hidden_dim, config.embed_dim)

    def forward(self, x):
        return own.my_mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)


# %%
class OwnBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.norm1, self.attn = OwnNorm(config.embed_dim, eps=config.norm_eps), OwnAttention(config)
        self.norm2, self.mlp = OwnNorm(config.embed_dim, eps=config.norm_eps), OwnMlp(config)

    def forward(self, x):
        return own.my_block(x, self.norm1, self.attn, self.norm2, self.mlp)


# %%
class OwnViT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.patch_embed = OwnPatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens, config.embed_dim))
        self.blocks = nn.ModuleList(OwnBlock(config) for _ in range(config.depth))
        self.norm = OwnNorm(config.embed_dim, eps=config.norm_eps)
        self.head = nn.Linear(config.embed_dim, config.num_classes)

    def forward(self, images):
        return own.my_vit(
            images,
            self.patch_embed,
            lambda tokens: own.my_add_cls(tokens, self.cls_token),
            lambda tokens: own.my_add_positions(tokens, self.pos_embed),
            self.blocks,
            self.norm,
            lambda tokens: own.my_head(tokens, self.head.weight, self.head.bias, "cls"),
        )


# %% [markdown]
# Load the trained digits weights: `load_state_dict` is strict, so every name and every shape must fit. Then the
# proof: the logits of your network and of the package's.

# %%
mine = OwnViT(card.config).eval()
print(mine.load_state_dict(vit.state_dict()))
with torch.inference_mode():
    difference = (mine(everything) - vit(everything)).abs().max().item()
    assert_close(mine(everything), vit(everything), rtol=1e-4, atol=1e-4)
print(f"3600 logits, the largest difference is {difference:.0e}")

# %% [markdown]
# Where sums run in another order, the last digits differ; more than rounding it is not. Now the score. The
# card tells how many the package's network classifies correctly.

# %% claim="more than rounding it is not"
assert difference < 1e-4

# %%

from vit_tutorial import evaluate

result = evaluate(mine, test, card.mean, card.std)
print(f"{result.correct} of {result.n} test images correct, {result.accuracy:.1f}%")
print("the card says:", card.evaluation["correct"], "of", card.evaluation["n"])

# %%
with torch.inference_mode():
    said = mine(everything).argmax(1)
wrong = (said != test.labels).nonzero()[:, 0]
some = torch.cat([torch.arange(24 - len(wrong)), wrong])  # the first ones, and all mistakes
plots.image_predictions(
    test.images[some, 0].numpy(),
    [test.classes[i] for i in test.labels[some]],
    [test.classes[i] for i in said[some]],
)

# %% [markdown]
# As many as the card says. In orange are its mistakes, all of them. Would you have read them right?
#
# The same module takes any other weights of its kind. The `cifar10` network is wider, has other patches, and
# reads colour. Where CIFAR-10 is on this computer, its 10,000 test images are the measure (it takes about half
# a minute); a photograph is always here.

# %% claim="As many as the card says. In orange are its mistakes, all of them"
assert abs(result.correct - card.evaluation["correct"]) <= 1
assert len(wrong) == result.n - result.correct < 24

# %%
from vit_tutorial.data import cifar10

large_vit, large_card = load_checkpoint("cifar10")
large = OwnViT(large_card.config).eval()
large.load_state_dict(large_vit.state_dict())
try:
    photos = cifar10("test", download=False)
    for name, model in {"yours": large, "the package's": large_vit}.items():
        result = evaluate(model, photos, large_card.mean, large_card.std)
        print(f"{name:13} {result.correct} of {result.n} correct, {result.accuracy:.1f}%")
except FileNotFoundError:
    print("CIFAR-10 is not on this computer; the photograph below needs none of it.")

# %%
from skimage import data as photographs

from vit_tutorial import fit_image, open_image

MY_PHOTO = ""  # for example "my_dog.jpg"

photo = open_image(MY_PHOTO or photographs.chelsea())
seen = fit_image(photo, 32).pixels[None]  # (1, 3, 32, 32)
with torch.inference_mode():
    shares = large(normalize(seen, large_card.mean, large_card.std)).softmax(1)[0]
plots.probabilities(large_card.classes, shares.tolist())

# %% [markdown]
# For Chelsea: a cat, and about half as much a dog. (Stéfan van der Walt's photograph, CC0. The network has ten
# classes and must name one of them.)
#
# Where `own` says "yours", no line of the package's network ran: patches, tokens, attention, blocks and classifier are
# the code that you wrote, proven piece by piece.

# %% claim="For Chelsea: a cat, and about half as much a dog"
cat, dog = (shares[large_card.classes.index(name)].item() for name in ("cat", "dog"))
assert cat > 0.5
assert 0.3 < dog / cat < 0.6

# %% [markdown]
# ## What we now have
#
# | what | shape | digits | ViT-B/16 |
# |---|---|---|---|
# | images | (B, C, H, W) | (B, 1, 8, 8) | (B, 3, 224, 224) |
# | patch tokens | (B, N, D) | (B, 16, 64) | (B, 196, 768) |
# | tokens in every block | (B, T, D) | (B, 17, 64) | (B, 197, 768) |
# | what the classifier reads | (B, D) | (B, 64) | (B, 768) |
# | logits | (B, classes) | (B, 10) | (B, 1000) |
#
# Parameters: about 12·L·D² for L blocks with a hidden layer of 4·D. Operations: about twice that for every
# token, and 4·L·T²·D more inside attention. Fresh loss: the logarithm of the number of classes.

# %% [markdown] deeper=true
# ## The questions people ask
#
# **"CLS or the mean?"** Above, the mean was read by a classifier trained on CLS. Here each gets one fitted to what it
# reads (by least squares, on the training images; the network itself is not touched).

# %%
train = digits("train")
with torch.inference_mode():
    known = vit.forward_features(normalize(train.images, card.mean, card.std))
wanted, fitted = F.one_hot(train.labels, 10).float(), {}
for name, pick in {"CLS": lambda x: x[:, 0], "mean": lambda x: x[:, 1:].mean(1)}.items():
    classifier = torch.linalg.lstsq(pick(known), wanted).solution  # (64, 10)
    fitted[name] = ((pick(tokens) @ classifier).argmax(1) == test.labels).sum().item()
print("correct of 360:", fitted)

# %% [markdown]
# So the answer can be read in both places, if the classifier is trained for it. What is wrong is to train with one and
# read with the other.
#
# **"Why does torchvision start the classifier at zero?"** Then the first loss is exactly the logarithm of the number of
# classes, and no class is favoured by chance. The price: in the first step nothing else learns, because a
# classifier of zeros passes no gradient back.

# %% claim="the answer can be read in both places, if the classifier is trained for it"
assert min(fitted.values()) > 335

# %%
fresh = VisionTransformer(card.config)
nn.init.zeros_(fresh.head.weight)
loss = F.cross_entropy(fresh(everything), test.labels)
loss.backward()
print("loss - ln 10:", round(loss.item() - math.log(10), 6))
print("gradient of the classifier:", round(fresh.head.weight.grad.norm().item(), 3))
print("gradient of the first block:", fresh.blocks[0].attn.qkv.weight.grad.norm().item())

# %% claim="Then the first loss is exactly the logarithm of the number of"
assert abs(loss.item() - math.log(10)) < 1e-4

# %% claim="in the first step nothing else learns"
assert fresh.head.weight.grad.norm() > 0.01
assert fresh.blocks[0].attn.qkv.weight.grad.norm() == 0

# %% [markdown]
# **"ViT or CNN?"** Here is one difference that can be run: how far news travels. Change one pixel, and see what
# has changed after one layer.

# %%
pixel = torch.zeros(1, 1, 8, 8)
pixel[0, 0, 4, 4] = 1.0
conv, block = nn.Conv2d(1, 16, kernel_size=3, padding=1), vit.blocks[0]
with torch.inference_mode():
    places = (conv(images[:1] + pixel) - conv(images[:1])).abs().amax(1) > 0
    news = (block(vit.embed(images[:1] + pixel)) - block(vit.embed(images[:1]))).abs()
print(f"a 3×3 convolution: {places.sum().item()} of 64 places have heard of it")
print(f"an encoder block: {(news.amax(2) > 0).sum().item()} of 17 tokens have")

# %% [markdown]
# A convolution is told that neighbours matter: its news reaches nine places, and it needs many layers to connect distant
# corners. A ViT connects everything in one layer. All that it is told of space is how to cut patches, and to
# project them all alike. Which is better is a question of data, and a later lesson measures it.
#
# **"Why is a ViT hungry for data, then?"** Because what else there is to know of space, it must learn. Here is how
# little it is told: mix up the patches of every image by one fixed order, and the rows of its positions by the same
# order.

# %% claim="its news reaches nine places"
assert places.sum() == 9

# %% claim="A ViT connects everything in one layer"
assert (news.amax(2) > 0).all()

# %%
import copy

import numpy as np

from vit_tutorial import patchify, unpatchify

order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
puzzles = unpatchify(patchify(images, 2)[:, order], 2, (4, 4))
mixed = copy.deepcopy(vit)
mixed.pos_embed.data[:, 1:] = vit.pos_embed.data[:, 1:][:, order]
with torch.inference_mode():
    off = [(model(puzzles) - vit(images)).abs().max().item() for model in (mixed, vit)]
print(f"logits differ by {off[0]:.0e}; with the positions left as they were, by {off[1]:.1f}")

# %%
digit = 255 - test.images[:1]  # dark on white
puzzle = unpatchify(patchify(digit, 2)[:, order], 2, (4, 4))
large_pixels = [np.kron(picture[0, 0], np.ones((24, 24))) for picture in (digit, puzzle)]
plots.photo_row(large_pixels, ["a test image", "its patches mixed up"])

# %% [markdown]
# Patches and positions mixed up alike, the network gives the same answers. To a fresh ViT, the puzzle on the right is as
# good a digit as the picture on the left.

# %% claim="the network gives the same answers"
assert off[0] < 1e-3
assert off[1] > 1

# %% [markdown] deeper=true
# ## A stretch
#
# Your network can learn, too: gradients flow through your functions as through any others. Make a fresh
# `OwnViT(card.config)`, start it with `my_init`, and train it with `vit_tutorial.fit` on `digits("train")`
# (`TrainConfig` in `vit_tutorial.train` has the settings; `epochs=20, batch_size=64, lr=2e-3` takes
# about a minute). What is the first loss? Then plant a bug in one of your functions, for example positions that are
# not added. How much accuracy does it cost, and would you have noticed?
