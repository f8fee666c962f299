# %% [markdown]
# # 09 · Is the map right?
#
# **A heat map always looks convincing. How would you know that it is wrong?**
#
# Lesson 08 made maps. They are beautiful, and beauty proves nothing: random numbers make beautiful maps, too. In this
# lesson a map has to earn belief. First its formula is tested, then its story.
#
# **You will**
#
# - find a fault in a formula that many use, with laws that every right one must keep,
# - make maps that know which class you ask about: two tokens by hand, then the whole network,
# - take away what a map calls important, watch the answer, and compare with chance,
# - read a table of methods without fooling yourself: intervals, and differences on the same images,
# - see what attention cannot prove, and what a network with a random head tells about a map.

# %% [markdown]
# ## Two maps of one cat
#
# The bundled network looks at Chelsea the cat (photograph by Stéfan van der Walt, public domain). One of the two maps
# below is rollout, from lesson 08. The other is made of random numbers: one for each patch, each averaged with its
# neighbours. The network had no part in it. Or take a picture of your own.

# %%
import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from skimage import data as photographs
from torch import Tensor, nn
from torch.testing import assert_close

from vit_tutorial import (
    RecordedAttention,
    fit_image,
    load_checkpoint,
    normalize,
    plots,
    record_attention,
    rollout,
)

# %%
MY_PHOTO = ""  # for example "my_dog.jpg"

torch.set_num_threads(1)  # so small networks run fastest on one processor core
vit, card = load_checkpoint("cifar10")
photo = fit_image(MY_PHOTO or photographs.chelsea(), 32).view().resize((240, 240))
fitted = fit_image(photo, card.config.img_size)
images = normalize(fitted.pixels[None], card.mean, card.std)  # (1, 3, 32, 32)
record = record_attention(vit, images)
rows, columns = record.grid


# %%
def paint(heat):
    """Show a map (rows, columns) twice: bright on the photograph, and as it is."""
    return plots.map_pair(np.asarray(photo), heat.numpy())


def smooth_noise(seed):
    noise = torch.rand(1, rows, columns, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 3, stride=1, padding=1, count_include_pad=False)[0]


def share_in_the_middle(heat):
    inner = heat[rows // 4 : -rows // 4, columns // 4 : -columns // 4]
    return (inner.sum() / heat.sum()).item()


# %% [markdown]
# **Predict.** Which of the two comes from the network?

# %%
best_seed = max(range(100), key=lambda seed: share_in_the_middle(smooth_noise(seed)))
plots.photo_row([paint(smooth_noise(best_seed)), paint(rollout(record)[0])], ["A", "B"])

# %% [markdown]
# A is the noise. And it was helped: of a hundred random maps it is the one whose heat lies most in the middle, because
# photographs have their subject there. That took a second, and it is what happens, with good intentions, wherever
# somebody looks through maps and shows the nicest.
#
# So looking is no test. Two other things are, and they answer two different questions:
#
# | question | a map is right if | how it is tested |
# |---|---|---|
# | Is it computed rightly? | the numbers are what the formula says | laws, an independent computation |
# | Does it tell the truth? | what it marks is what the network used | take it away, and ask the network |
#
# A map can pass the first and fail the second: a perfectly computed map of nothing in particular. It cannot do without
# the first, so we begin there.
#
# ## Right, meaning one: it does what the formula says
#
# Rollout (lesson 08) joins the heads of each layer to one table, mixes it with the identity, and scales every *row* to
# a sum of 1. A formula that many use does the last step with `a / a.sum(-1)`. Here is a table whose rows have the sums
# 1, 2 and ½.
#
# **Predict.** What does the division do to it? What are the sums of the rows afterwards?

# %%
a = torch.tensor([[0.5, 0.3, 0.2], [0.8, 0.8, 0.4], [0.1, 0.1, 0.3]])  # (T, T)
as_written = a / a.sum(-1)
as_meant = a / a.sum(-1, keepdim=True)
titles = ["a", "a / a.sum(-1)", "with keepdim=True"]
plots.weight_tables([table.numpy() for table in (a, as_written, as_meant)], titles)

# %% [markdown]
# `a.sum(-1)` has shape (T,), and shapes are matched from the right: its three numbers are laid along the columns. So
# column j is divided by the sum of *row* j. The shape is right, no number looks odd, nothing complains. With
# `keepdim=True` the sums have the shape (T, 1) and stand beside their rows.
#
# Now the whole formula as it is often written, for one image. It can join heads by their mean or their maximum, and set
# the smallest entries to zero (`discard`).


# %%
def popular_rollout(layers, fusion="mean", discard=0.0):
    """Layers of weights (h, T, T) -> the CLS row (T,), with the division as it is often written."""
    tokens = layers[0].shape[-1]
    joined = torch.eye(tokens)
    for weights in layers:
        a = weights.mean(0) if fusion == "mean" else weights.amax(0)
        lost = a.flatten().argsort()[: int(discard * tokens**2)]
        a = a.flatten().index_fill(0, lost[lost != 0], 0).view(tokens, tokens)
        a = (a + torch.eye(tokens)) / 2
        joined = a / a.sum(-1) @ joined  # here
    return joined[0]


# %% [markdown]
# We compare it with the package's at four settings: both maps scaled to a maximum of 1, and the largest difference. The
# **rank correlation** compares only the *order* of the patches: 1 if two maps order them alike, 0 if the orders have
# nothing to do with each other, −1 if one is the other backwards.
#
# **Predict.** At one of the four settings the two agree to rounding. Which one, and why?


# %%
def rank_correlation(one, other):
    """Correlation of the ranks of two maps of one size, 1 to −1 (Spearman's)."""
    ranks = [heat.flatten().argsort().argsort().double() for heat in (one, other)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


layers = [weights[0] for weights in record.weights]  # each (h, T, T)
for fusion in ("mean", "max"):
    for discard in (0.0, 0.9):
        wrong = popular_rollout(layers, fusion, discard)[record.num_prefix :].view(rows, columns)
        right = rollout(record, head_fusion=fusion, discard_ratio=discard)[0]
        off = (wrong / wrong.max() - right / right.max()).abs().max()
        same = rank_correlation(wrong, right)
        print(
            f"{fusion:4} discard {discard}: differ by up to {off:.3f}, rank correlation {same:.3f}"
        )

# %% [markdown]
# With the mean and nothing discarded, every row already sums to 1, and so do the mixed ones: the division does nothing,
# right or wrong. The maximum over heads makes rows longer than 1, discarding makes them shorter, and then it matters.
# These are the last wrong and right maps, for max and 0.9:

# %%
plots.photo_row([paint(wrong), paint(right)], ["column j by row j's sum", "row j by row j's sum"])

# %% [markdown]
# Would you have seen it? On one image, such a difference looks like a matter of taste. So such a fault can live for
# years: it is tried at the default setting, where it does nothing, and at the others everybody looks.
#
# Two more that look like nothing. After the last layer the map is often divided by its maximum. **Predict.** A network
# whose tokens attend only to themselves: what is its map?

# %%
itself = popular_rollout([torch.eye(5).expand(2, 5, 5)] * 3)[1:]  # 4 patches
print("attention to itself:", (itself / itself.max()).tolist())

# %% [markdown]
# 0/0. And the grid is often taken to be a square, `side = int(T ** 0.5)`. **Predict.** An image of 16×4 patches, the
# hottest in row 5 and column 1: where does it end up?

# %%
patches = torch.zeros(16 * 4)
patches[4 * 5 + 1] = 1
side = int(len(patches) ** 0.5)
found = divmod(patches.argmax().item(), side)
print(f"taken to be {side}×{side}: hottest in row {found[0]}, column {found[1]}")

# %% [markdown]
# A hot patch of the left half ends up at the right of a picture that does not exist. Nothing complains, because 8×8 is
# 64, too. Do it rightly once, and never again by the square root.


# %% exercise="09.1"
def my_map_of_row(row, grid, num_prefix):
    """Put what one query attends to back on the grid of patches.

    row: (B, T), a number for each token; the first num_prefix tokens (CLS, registers) are no patches.
    grid: (rows, columns) of patches, row by row.
    Returns (B, rows, columns). Numbers stay as they are.
    """
    ### BEGIN SOLUTION
    patches = row[:, num_prefix:]  # (B, N)
    return patches.reshape(len(row), *grid)
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("09.1", my_map_of_row)
# hint("09.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** The prefix goes first; what is left has exactly rows × columns numbers, so a wrong `num_prefix` raises
# instead of passing.
#
# **The common wrong answer** takes away one token, whatever the model. With four registers more it stops with an error;
# and where somebody cuts off the end to make it fit, every patch is drawn four places too far.


# %% exercise="09.2"
def my_mixed(fused, residual):
    """Mix each layer's table with the identity, and scale its rows.

    fused: (B, T, T), numbers from 0 up; rows need not sum to 1, and a row may be all zero.
    residual: a number from 0 to 1, the share of the skip connection.
    Returns (B, T, T): (1 - residual) * fused + residual * identity, then every row divided by its own sum.
    A row without anything in it keeps its own token: it becomes that row of the identity.
    """
    ### BEGIN SOLUTION
    identity = torch.eye(fused.shape[-1], dtype=fused.dtype)
    mixed = (1 - residual) * fused + residual * identity  # (B, T, T)
    sums = mixed.sum(dim=-1, keepdim=True)  # (B, T, 1)
    return torch.where(sums > 0, mixed / sums, identity)
    ### END SOLUTION


# %%
check("09.2", my_mixed)
# hint("09.2")

# %% [markdown] solved_only=true
# **Why.** `keepdim` keeps the sums beside their rows, for every image of the batch. `torch.where` takes the identity
# where there is nothing to scale; the 0/0 on the other branch is computed and thrown away.
#
# **The common wrong answer** adds a small number to the sums. It hides the NaN: an empty row then stays empty, and
# everything below it is lost.

# %% [markdown]
# ## Laws
#
# How does one find such a fault without knowing where it is? With **laws**: things that hold for every right rollout,
# whatever the image and the network. Here are six. J is the table of ones, T the number of tokens, L that of layers.
#
# | law | says |
# |---|---|
# | sums | every row of the result sums to 1 |
# | identity | tokens that attend only to themselves stay by themselves |
# | even | attention that is 1/T everywhere gives $2^{-L}$ identity + $(1 - 2^{-L})$ J/T |
# | order | layer 0: patch 0 reads patch 1; layer 1: CLS reads patch 0. The CLS row is ½, ¼, ¼ |
# | numbering | renumbered tokens give the renumbered result |
# | batch | an image alone gives what it gives in a batch |
#
# The law on order by hand: CLS keeps half for itself and takes half of what patch 0 holds, and that is, one layer
# earlier, half patch 0 and half patch 1. Each law is a line or two of code. A rollout here is a function that takes
# weights, a list of (B, h, T, T), and returns (B, T, T).

# %%
eye = torch.eye(3, dtype=torch.float64)
reads = [eye[[0, 2, 2]], eye[[1, 1, 2]]]  # layer 0 and layer 1 of the law on order
order = torch.tensor([0, 3, 1, 4, 2])


def some_weights(batch=2, heads=3, tokens=5, layers=3, seed=0):
    """Random attention: rows sum to 1, and heads and images differ."""
    generator = torch.Generator().manual_seed(seed)
    size = (layers, batch, heads, tokens, tokens)
    scores = 2 * torch.randn(size, dtype=torch.float64, generator=generator)
    return list(scores.softmax(-1))


# %%
def broken_laws(roll):
    """Return the names of the laws that a rollout function breaks."""
    weights, identity = some_weights(), torch.eye(5, dtype=torch.float64)
    result, even = roll(weights), torch.full((1, 2, 5, 5), 0.2, dtype=torch.float64)
    turned = [w[:, :, order][..., order] for w in weights]
    alone = torch.cat([roll([w[i : i + 1] for w in weights]) for i in range(2)])
    pairs = {
        "sums": (result.sum(-1), torch.ones(2, 5, dtype=torch.float64)),
        "identity": (roll([identity.expand(1, 2, 5, 5)] * 3)[0], identity),
        "even": (roll([even] * 3)[0], identity / 8 + even[0, 0] * 7 / 8),
        "order": (roll([w[None, None] for w in reads])[0, 0], torch.tensor([0.5, 0.25, 0.25])),
        "numbering": (roll(turned), result[:, order][..., order]),
        "batch": (alone, result),
    }
    return [law for law, (came, is_law) in pairs.items() if (came - is_law).abs().max() > 1e-6]


# %% [markdown]
# Now seven suspects: the right one, and six with one fault each. They join heads by their maximum, so that rows have
# something to be scaled.
#
# **Predict.** Which law finds the division of columns? Is there a law that finds every fault?


# %%
def suspect(scale=lambda a: a / a.sum(-1, keepdim=True), turn=1, residual=1.0):
    def roll(weights):
        identity = torch.eye(weights[0].shape[-1], dtype=torch.float64)
        joined = identity
        for layer in weights[::turn]:
            joined = scale(layer.amax(1) + residual * identity) @ joined
        return joined

    return roll


suspects = {
    "right": suspect(),
    "columns by the sums of rows": suspect(lambda a: a / a.sum(-1)[:, None]),
    "columns by their own sums": suspect(lambda a: a / a.sum(-2, keepdim=True)),
    "halved, not divided": suspect(lambda a: a / 2),
    "divided by the first image's sums": suspect(lambda a: a / a[:1].sum(-1, keepdim=True)),
    "layers in reverse": suspect(turn=-1),
    "no identity added": suspect(residual=0.0),
}

# %%
for name, roll in suspects.items():
    print(f"{name:34} breaks: {', '.join(broken_laws(roll)) or 'nothing'}")

# %% [markdown]
# Every fault is found, and no law finds them all. "Layers in reverse" breaks a single one. The law on numbering, which
# sounds the deepest, finds nothing here. **A law can only convict, never acquit.** So one needs several, chosen for
# what could go wrong. And the package's?

# %%
for fusion in ("mean", "max", "min"):

    def package(weights, fusion=fusion):
        as_record = RecordedAttention(weights, (1, weights[0].shape[-1] - 1), num_prefix=1)
        return rollout(as_record, head_fusion=fusion, query=None)

    print(f"rollout, {fusion:4} breaks: {', '.join(broken_laws(package)) or 'nothing'}")

# %% [markdown]
# Four more functions claim to be rollout with the *mean* of the heads. They are wrong.

# %%
from vit_tutorial.lessons.lesson_09.rollouts import WRONG_ROLLOUTS

for number, roll in enumerate(WRONG_ROLLOUTS.values()):
    print(f"function {number} breaks: {', '.join(broken_laws(roll)) or 'nothing'}")

# %% [markdown]
# Six laws, and none of them objects. What law do these four break?


# %% exercise="09.3"
def my_law(roll):
    """Tell whether a function can be rollout with the mean of the heads: True or False.

    roll: takes weights, a list of (B, h, T, T), float64, whose rows sum to 1 (as some_weights makes them);
    returns (B, T, T): the product over layers, the newest on the left, of (mean over heads + identity) / 2.
    It may be called several times. Rounding (1e-9) is no crime.
    """
    ### BEGIN SOLUTION
    weights = some_weights(batch=2, heads=4, tokens=5, layers=1, seed=1)
    expected = (weights[0].mean(1) + torch.eye(5, dtype=torch.float64)) / 2  # one layer: no product
    if not torch.allclose(roll(weights), expected):
        return False
    longer = some_weights(layers=5, seed=2)  # and two parts multiply to the whole
    return torch.allclose(roll(longer[2:]) @ roll(longer[:2]), roll(longer))
    ### END SOLUTION


# %%
check("09.3", my_law)
# hint("09.3")

# %% [markdown] solved_only=true
# **Why.** With one layer nothing is left but the mean and the identity, so that everything done to the heads shows. The
# second law says that rollout of all layers is the upper half times the lower half: a function that treats some layer
# differently, because of its place, breaks it.
#
# **The common wrong answer** tests with a single head, or with heads that are all alike: then mean, maximum and "head 0
# alone" are the same.

# %% [markdown]
# The package's tests hold rollout to these laws and some twenty more, and to a second implementation that shares no
# line with it: loops over NumPy arrays in float64 (`tests/test_attention.py`). This is what "right, meaning one" can
# be.
#
# ## Which class?
#
# Now the second meaning. A map should say what speaks for the answer. Four photographs in one (the rocket by SpaceX and
# the cup of coffee by Rachel Michetti, CC0, the astronaut Eileen Collins by NASA, public domain), for the same network
# at twice the size:

# %%
names = ("chelsea", "rocket", "coffee", "astronaut")
quarters = [np.asarray(fit_image(getattr(photographs, name)(), 32).view()) for name in names]
quarters = [fit_image(view, 32).pixels for view in quarters]
collage = torch.cat([torch.cat(quarters[:2], dim=2), torch.cat(quarters[2:], dim=2)], dim=1)
large = vit.resized((64, 64))
large_images = normalize(collage[None], card.mean, card.std)  # (1, 3, 64, 64)
with torch.no_grad():
    rocket = vit(normalize(quarters[1][None], card.mean, card.std)).argmax().item()
print(
    tuple(large_images.shape),
    "and the rocket alone is, to this network, of the class",
    card.classes[rocket],
)

# %% [markdown]
# There is no rocket among the ten classes, so the network says what comes nearest to it. **Predict.** We ask rollout:
# where is the *cat*? And then: where is that other class? How do the two maps differ?

# %%
cat = card.classes.index("cat")
asked = {c: record_attention(large, large_images, gradients_of=c) for c in (cat, rocket)}
same = torch.equal(rollout(asked[cat]), rollout(asked[rocket]))
print("the two rollouts are equal to the last bit:", same)

# %% [markdown]
# They cannot differ: nothing in rollout's formula knows of a class. The class comes into a network in its very last
# layer, the head, and rollout stops before it. The same holds for the attention of any single layer. Whoever writes
# "this is why it says cat" under such a map has written it under the map of every other class as well.
#
# What knows of the class is the **gradient**: how much would the logit of the cat change if this weight were a little
# larger?
#
# ### Two tokens by hand
#
# One query attends to two tokens, with the weights 0.7 and 0.3. If it attended to token 0 alone, the cat's logit would
# be 0.2, and to token 1 alone, 2.0. With all else left out, the logit is the sum of weight × what the token brings.
#
# **Predict.** What is the gradient of the logit with respect to each weight? Which token speaks more for the cat?

# %%
weights = torch.tensor([0.7, 0.3], requires_grad=True)
for name, brings in {"cat": [0.2, 2.0], "dog": [1.0, -1.0]}.items():
    logit = (weights * torch.tensor(brings)).sum()
    (gradient,) = torch.autograd.grad(logit, weights)
    for token in (0, 1):
        part = (weights * gradient)[token].item()
        print(
            f"{name}, token {token}: gradient {gradient[token]:.1f}, weight × gradient {part:.2f}"
        )

# %% [markdown]
# The gradient of a sum of products is the other factor. Weight × gradient is the part that a token has in the logit:
# here the parts add up to it. For the cat the *smaller* weight has the larger part. And for the dog, token 1 speaks
# *against* it. The weights are the same in both lines; the maps are not.
#
# ### Through all layers
#
# The rule of Chefer, Gur & Wolf (2021, arXiv 2103.15679, equations 5 and 6) does in every layer what we did by hand,
# and adds up along the layers. $A_l$ are the weights of layer l, (h, T, T); $G_l$ the gradients of the logit with
# respect to them, of the same shape. R is a table (T, T): how much of token j has come to token i, as far as it speaks
# for the class. It starts as the identity, and each layer adds what it brings:
#
# $$\bar A_l = \mathrm{mean\ over\ heads\ of}\ \max(G_l \cdot A_l,\ 0), \qquad R \leftarrow R + \bar A_l R$$
#
# The product inside is number by number, as by hand; $\max(\cdot, 0)$ drops what speaks against. $\bar A_l R$ is a
# matrix product: token i gets from token k what k has collected so far. Nothing is scaled to rows of 1: these are parts
# of a logit, and no shares of one unit of attention.


# %% exercise="09.4"
def my_chefer(weights, gradients, query):
    """Chefer's rule: what has come to one token, as far as it speaks for the class.

    weights, gradients: lists of (B, h, T, T), one for each layer, the first layer first.
    query: the index of a token.
    Returns (B, T): the row of R for that token, prefix tokens included.
    """
    ### BEGIN SOLUTION
    tokens = weights[0].shape[-1]
    relevance = torch.eye(tokens, dtype=weights[0].dtype)
    for w, g in zip(weights, gradients, strict=True):
        speaks_for = (w * g).clamp(min=0).mean(dim=1)  # (B, T, T)
        relevance = relevance + speaks_for @ relevance
    return relevance[:, query]
    ### END SOLUTION


# %%
check("09.4", my_chefer)
# hint("09.4")

# %% [markdown] solved_only=true
# **Why.** The newest layer stands on the left of the product, as in rollout: what token i collects in layer l is what
# the others had collected *below* it.
#
# **The common wrong answer** drops negative numbers after the mean over heads. Then a head that speaks for the cat and
# one that speaks against it cancel, which is another method (the package's `grad_rollout` does it so).

# %% [markdown]
# The package follows one row instead of the whole table, and holds four relatives:
#
# - **gradient rollout**: rollout, with $\max(\mathrm{mean}(G A), 0)$ in the place of the attention,
# - **LeGrad** (Bousselham et al. 2024, arXiv 2404.03214): for each layer, the gradients of the logit that the *head
#   would give to the mean of all tokens of this layer's output*; their positive parts, averaged over heads, queries
#   and layers. The weights themselves do not enter,
# - **Grad-CAM on attention**: the CLS row of each head of the last layer, weighted by the mean of the gradients of its
#   entries for the patches,
# - **token Grad-CAM**: not of attention at all, but of the tokens after the last norm: their channels, each weighted by
#   the mean of its gradients. It also serves networks whose attention makes no single map.

# %%
from vit_tutorial.attention import RELEVANCE_METHODS, _follow, _on_the_grid, _start
from vit_tutorial.calls import look
from vit_tutorial.recording import Query

# %% definition="vit_tutorial.attention.relevance"

# %% [markdown]
# Is it right, meaning one? Against a loop in NumPy over layers and heads, for random numbers in float64:

# %%
generator = torch.Generator().manual_seed(4)
toy = RecordedAttention(some_weights(tokens=7, layers=4), grid=(2, 3), num_prefix=1)
draws = [torch.randn(w.shape, dtype=w.dtype, generator=generator) for w in toy.weights]
toy = replace(toy, gradients=draws)


def chefer_loop(weights, gradients):
    collected = np.eye(weights[0].shape[-1])
    for w, g in zip(weights, gradients, strict=True):  # each (h, T, T)
        heads = [np.maximum(w[h] * g[h], 0) for h in range(len(w))]
        collected = collected + sum(heads) / len(heads) @ collected
    return collected


for image in range(2):
    arrays = [[layer[image].numpy() for layer in part] for part in (toy.weights, toy.gradients)]
    by_loop = torch.from_numpy(chefer_loop(*arrays)[0, 1:].reshape(2, 3))
    assert_close(relevance(toy)[image], by_loop)
print("the rule agrees with the loop, image by image")

# %% [markdown]
# And laws. If every gradient is 1, $\bar A$ is the mean of the heads, and $I + A$ is twice the mixed table of rollout.
# **Predict.** So Chefer's map of L layers is how many times rollout's?

# %%
ones = replace(toy, gradients=[torch.ones_like(w) for w in toy.weights])
assert_close(relevance(ones), 2 ** len(toy.weights) * rollout(toy))
print("2 to the power", len(toy.weights), "times rollout's")

# %% [markdown]
# Gradients have a trap of their own. They are computed backwards, so a program that collects them as they come has
# those of the *last* layer first, and pairs them with the weights of the first. The shapes fit. A law that finds it:
# let one layer alone have gradients, in the CLS row. The map must be that row of *its* weights.

# %%
for layer in range(len(toy.weights)):
    gradients = [torch.zeros_like(w) for w in toy.weights]
    gradients[layer][:, :, 0] = 1
    expected = toy.weights[layer].mean(1)[:, 0, 1:].reshape(2, 2, 3)
    assert_close(relevance(replace(toy, gradients=gradients)), expected)

# %%
graded = record_attention(vit, images, gradients_of=cat)
mispaired = relevance(replace(graded, gradients=graded.gradients[::-1]))
print(f"the cat, mispaired: rank correlation {rank_correlation(mispaired, relevance(graded)):.2f}")

# %% [markdown]
# One more law, or half of one. A logit has no unit: five times all logits order the classes alike. **Predict.** Does a
# map change when the logit is multiplied by 5? Does it change only in size?

# %%
five = record_attention(vit, images, gradients_of=lambda logits: 5 * logits[:, cat])
for method in RELEVANCE_METHODS:
    maps = [relevance(of, method=method)[0] for of in (graded, five)]
    shares = [heat / heat.sum().clamp_min(1e-12) for heat in maps]
    moved = (shares[0] - shares[1]).abs().sum() / 2
    print(f"{method:13} {moved:6.1%} of the map has moved elsewhere")

# %% [markdown]
# In LeGrad and both Grad-CAMs the factor stands before the whole map, and goes away when the map is scaled. In the
# other two it stands beside the identity: $I + 5\bar A$ is not five times $I + \bar A$, so longer ways through the network gain
# against shorter ones. Neither is a fault. But a map that depends on the unit of the logit cannot be *the* map.
#
# Now we can ask the collage, for the cat and for the class of the rocket.

# %%
questions = {f"{card.classes[c]}?": record for c, record in asked.items()}
gradient_methods = ("grad_rollout", "legrad", "chefer")
heats = [
    torch.stack([rollout(of)[0], *(relevance(of, method=m)[0] for m in gradient_methods)])
    for of in questions.values()
]
pictures, heats = collage.permute(1, 2, 0).numpy(), torch.stack(heats).numpy()
plots.question_maps(pictures, heats, list(questions), ["rollout", *gradient_methods])

# %% [markdown]
# (The best patch of each map is framed.) Rollout answers both questions alike. The others do answer, and not alike
# among themselves. Which of them is right? Here looking ends, and measuring begins.
#
# ## Right, meaning two: take it away
#
# If a map says "the network's answer hangs on this patch", then take the patch away: the answer should suffer. If it
# does not, the map was wrong, however it was computed. That is the whole idea. A removed patch shows the mean colour,
# which is 0 after the normalisation.


# %%
def without(image, patches, side):
    """Return one image (C, H, W) with some patches removed, one after the other."""
    image = image.clone()
    for patch in patches:
        row, column = divmod(patch, image.shape[2] // side)
        image[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = 0
    return image


def picture(image, card):
    """Turn one normalised image back into pixels: uint8 (H, W, 3)."""
    mean, std = (torch.tensor(part)[:, None, None] for part in (card.mean, card.std))
    pixels = (255 * (image * std + mean)).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()


def probability(model, image, target):
    with torch.no_grad():
        return model(image[None]).softmax(1)[0, target].item()


# %%
side = card.config.patch_size
named = record.logits[0].argmax().item()  # what the network says of the photograph
heat = relevance(record_attention(vit, images, gradients_of=named), method="grad_rollout")[0]
best_first = heat.flatten().argsort(descending=True).tolist()
strips, titles = [], []
for count in (0, 8, 16, 32):
    strips.append(picture(without(images[0], best_first[:count], side), card))
    said = probability(vit, without(images[0], best_first[:count], side), named)
    titles.append(f"{f'−{count} patches' if count else 'whole'}: {said:.0%} {card.classes[named]}")

# %% [markdown]
# **Predict.** We remove the 8, 16, 32 best of the patches, as gradient rollout has them. How far does the probability
# fall?

# %%
plots.pixel_row(strips, titles)

# %% [markdown]
# Does it fall *because the map is good*? A photograph without 32 of its patches is hard to read for anybody. So the
# number needs something to be compared with: patches removed at random. Without that floor, no such figure says
# anything.
#
# ### From a curve to a number, by hand
#
# The number is the **area** under the curve, with the share of removed patches on the horizontal axis, 0 to 1 (Petsiuk
# et al. 2018, arXiv 1806.07421). Removing the best first, a good map makes the curve fall at once: **deletion**, lower
# is better. Putting the best back first, on an empty image, it rises at once: **insertion**, higher is better.
#
# Take a "network" that is a plain sum: four patches that bring 0.5, 0.3, 0.2 and 0. The area is that of trapezes:
# between two points, the mean of both, times the width.
#
# **Predict.** Work out the deletion area for the best order (0.5 first), and for the worst. What is the sum of the two?

# %%
brings = [0.5, 0.3, 0.2, 0.0]
for name, order_of in {"best first": [0, 1, 2, 3], "worst first": [3, 2, 1, 0]}.items():
    curve = [1.0]
    for patch in order_of:
        curve.append(round(curve[-1] - brings[patch], 2))
    area = sum((left + right) / 2 / 4 for left, right in pairwise(curve))
    print(f"{name:11} {curve}, area {area:.3f}")

# %% [markdown]
# No other order has a lower area than the first: a patch's contribution counts for as long as it is there, so the large
# ones must go early. And the two add up to 1, all there is: each is the other's mirror. Keep this network in mind: it
# is the one case in which we *know* the right map. Whatever measures maps must give it the best score.
#
# ### Removing patches, for whole batches
#
# Two details before it is a tool. First, which patches are the best `count`? A map may have equal numbers, many zeros
# for example, and `argsort` then goes by position: the upper left corner would count as important. **Predict.** For 200
# digits, 200 maps of zeros: which of the 16 patches comes first, and how often?

# %%
from vit_tutorial.data import digits
from vit_tutorial.faithfulness import patch_order

small, small_card = load_checkpoint("digits")
test = digits("test")
x = normalize(test.images, small_card.mean, small_card.std)  # (360, 1, 8, 8)
with torch.no_grad():
    named_rightly = small(x).argmax(1) == test.labels
x, labels = x[named_rightly][:200], test.labels[named_rightly][:200]
print("of 200 maps of zeros, how often each patch comes first, without a shuffle and with one:")
zeros = torch.zeros(200, 4, 4)
for found in (zeros.flatten(1).argsort(descending=True, stable=True), patch_order(zeros)):
    print("  ", found[:, 0].bincount(minlength=16).tolist())


# %% exercise="09.5"
def my_best_pixels(maps, count, side, seed):
    """Mark the pixels of the best patches.

    maps: (B, rows, columns), a number for each patch; equal ones are possible.
    count: how many patches to mark in each image, the largest numbers first.
    side: pixels along the side of a patch.
    seed: of the random order in which equal patches come; the same seed marks the same patches.
    Returns (B, rows * side, columns * side), bool.
    """
    ### BEGIN SOLUTION
    flat = maps.flatten(1)  # (B, N)
    generator = torch.Generator().manual_seed(seed)
    shuffle = torch.rand(flat.shape, generator=generator).argsort(dim=1)
    by_size = flat.gather(1, shuffle).argsort(dim=1, descending=True, stable=True)
    best = shuffle.gather(1, by_size)[:, :count]
    marked = torch.zeros_like(flat, dtype=torch.bool).scatter(1, best, True).view(maps.shape)
    return marked.repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
    ### END SOLUTION


# %%
check("09.5", my_best_pixels)
# hint("09.5")

# %% [markdown] solved_only=true
# **Why.** Shuffle first, then sort *stably*: equal numbers stay in the shuffled order. And `repeat_interleave` makes
# every patch side × side pixels; `repeat` would lay the whole mask down several times.
#
# **The common wrong answer** compares with the k-th largest number, `maps >= limit`. With ties that marks more patches
# than asked for, all of them if the map is flat.

# %% [markdown]
# The second detail: deletion and insertion can share their passes, since keeping the best tenth is the same as removing
# the worst nine tenths. This is the package's definition, whole. `Curves` holds the four curves, and its `scores` are
# the areas, over the shares of patches that were really removed.

# %%
from vit_tutorial.faithfulness import Curves, _baseline
from vit_tutorial.modes import evaluating

# %% definition="vit_tutorial.faithfulness.perturb"

# %% [markdown]
# Is it right, meaning one? Against the loop, on the photograph, patch by patch:

# %%
target = torch.tensor([named])
curves = perturb(vit, images, heat[None], target, steps=rows * columns)
by_loop = []
for count in range(rows * columns + 1):
    by_loop.append(probability(vit, without(images[0], best_first[:count], side), named))
assert_close(curves.removed[0], torch.tensor(by_loop), atol=1e-5, rtol=0)
print(f"{len(by_loop)} numbers agree; deletion area {curves.scores['deletion'].item():.3f}")

# %% [markdown]
# And against the network whose right map we know: its probability is a sum over pixels, so each patch brings exactly
# what its pixels add. **Predict.** Of 200 random orders, how many beat the known map?


# %%
class SumOfPixels(nn.Module):
    """Says class 0 with the probability sum(pixel × weight)."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def forward(self, images):
        p = (images * self.weights).sum(dim=(1, 2, 3))
        return torch.stack([p, 1 - p], dim=1).log()  # the softmax of this gives back p


generator = torch.Generator().manual_seed(0)
pixels, pixel_weights = torch.rand(2, 1, 3, 16, 16, dtype=torch.float64, generator=generator)
by_patch = torch.rand(4, 4, dtype=torch.float64, generator=generator) ** 3  # some matter more
pixel_weights = pixel_weights * by_patch.repeat_interleave(4, 0).repeat_interleave(4, 1)
known = SumOfPixels(pixel_weights / 100)
patch_brings = (
    (pixels * pixel_weights / 100).unflatten(3, (4, 4)).unflatten(2, (4, 4)).sum((1, 3, 5))
)

# %%
zero = torch.tensor([0])
right, negated = (perturb(known, pixels, sign * patch_brings, zero, steps=16) for sign in (1, -1))
best, worst = (found.scores["deletion"].item() for found in (right, negated))
others = torch.rand(200, 4, 4, generator=generator)
areas = perturb(known, pixels.expand(200, -1, -1, -1), others, zero.expand(200), steps=16).scores
print(f"the known map {best:.3f}, its negative {worst:.3f}, whole image {patch_brings.sum():.3f}")
print(f"random: {areas['deletion'].min():.3f} to {areas['deletion'].max():.3f}")

# %% [markdown]
# None. And two laws: the best and the worst add up to the whole, as by hand; and a negated map turns the order round,
# so that removing becomes keeping.

# %%
assert_close(best + worst, patch_brings.sum().item())
assert_close(right.removed, negated.kept.flip(1), atol=1e-6, rtol=0)

# %% [markdown]
# **Play.** The photograph again, with the patches removed in the order of eight maps. For which does the
# answer hold longest?

# %%
from vit_tutorial import flipbook
from vit_tutorial.faithfulness import METHODS, maps_of_all_methods

photo_maps = maps_of_all_methods(vit, images, target)


def draw(method, removed):
    patches = patch_order(photo_maps[method])[0, :removed].tolist()
    shown = without(images[0], patches, side)
    said = f"{probability(vit, shown, named):.0%} {card.classes[named]}"
    large_picture = picture(shown, card).repeat(10, axis=0).repeat(10, axis=1)
    return large_picture, f"{method}, {removed} patches removed: {said}."


steps = [0, 2, 4, 8, 12, 16, 24, 32, 48]
flipbook(draw, method=list(METHODS), removed=steps, start={"method": "rollout", "removed": 8})

# %% [markdown]
# Now on any picture: the network runs in the page below. Choose a map under *shows*, and press *Test this map* at the
# bottom: its patches are removed in the order of the map, in the reverse order, and in 20 random ones.

# %%
from vit_tutorial import live

live("cifar10")

# %% [markdown]
# The photograph again as still pictures: 12 patches removed, by four of the methods.

# %%
four = ("random", "rollout", "grad_rollout", "legrad")
stills = [draw(method, 12) for method in four]
titles = [f"{m}: {words.split(': ')[1][:-1]}" for m, (_, words) in zip(four, stills, strict=True)]
plots.pixel_row([shown for shown, _ in stills], titles)

# %% [markdown]
# One image, and any order of the methods is possible. So: 200 digits that the network names rightly, and the mean curve
# of each method. **Predict.** Where will random lie? Which method will fall fastest?

# %%
maps = maps_of_all_methods(small, x, labels)  # name -> (200, 4, 4)
curves = {name: perturb(small, x, heats, labels, steps=8) for name, heats in maps.items()}
few = ("random", "last_layer", "rollout", "grad_rollout", "legrad")
plots.removal_curves(
    {
        "Best removed first (lower is better)": {m: curves[m].removed.mean(0).numpy() for m in few},
        "Best put back first (higher is better)": {m: curves[m].kept.mean(0).numpy() for m in few},
    },
    "share of the patches",
)

# %% [markdown]
# Every method is compared with the broken line, never with zero. A curve that does not leave it is a map that knows no
# more than dice.


# %% exercise="09.6"
def my_deletion(model, images, targets, order, side):
    """Score orders of patches by deletion, one patch at a time.

    model: any function from images (B, C, H, W) to logits (B, classes).
    images: (B, C, H, W), normalised: a removed patch becomes 0. They must stay as they are.
    targets: (B,), the class whose probability is watched.
    order: (B, N), for each image the indices of all its patches, row by row, in the order of removal.
    side: pixels along the side of a patch.
    Returns (B,): the area under the probability, from no patch to all N removed, the axis from 0 to 1.
    """
    ### BEGIN SOLUTION
    count, per_row = len(images), images.shape[3] // side
    shown, curve = images.clone(), []
    with torch.no_grad():
        curve.append(model(shown).softmax(1)[torch.arange(count), targets])
        for step in range(order.shape[1]):
            for image, patch in enumerate(order[:, step].tolist()):
                top, left = patch // per_row * side, patch % per_row * side
                shown[image, :, top : top + side, left : left + side] = 0
            curve.append(model(shown).softmax(1)[torch.arange(count), targets])
    return torch.trapezoid(torch.stack(curve, dim=1), dx=1 / order.shape[1])
    ### END SOLUTION


# %%
check("09.6", my_deletion)
# hint("09.6")

# %% [markdown] solved_only=true
# **Why.** N patches make N + 1 points and N trapezes of width 1/N. The softmax comes before the class is picked: a
# logit alone says nothing of the other classes.
#
# **The common wrong answer** takes the mean of the N + 1 values. It is near the area and not equal to it: the two ends,
# which are the same for every method, weigh too much.

# %% [markdown]
# ### Nothing is something
#
# What *is* an image with nothing in it? **Predict.** All patches show the mean colour. What does the network say of it?

# %%
for name, model, about, image in (
    ("photograph", vit, card, images),
    ("digits", small, small_card, x),
):
    for baseline in ("mean", "blur"):
        with torch.no_grad():
            said = model(_baseline(image[:1], baseline)).softmax(1)[0]
        top = said.argmax().item()
        print(f"{name:10} {baseline}: {said[top]:.0%} {about.classes[top]}")

# %% [markdown]
# A network has no answer for "nothing": it has never seen it, and must say something. So every baseline is a choice,
# and a score is a score *with* that baseline. Grey squares are also edges, which the photograph never had. A blurred
# image has no edges, but much is still to be seen. Which methods win may hang on this choice (see the questions). A
# result that holds with both is worth more.
#
# ## Does it point at the right thing?
#
# A second test needs no removal. In a collage we know where each object is. We ask for one class: is the best patch in
# the right quarter? This is the **pointing game** (Zhang et al. 2016, arXiv 1608.00507). **Predict.** What does a
# random map score?

# %%
from vit_tutorial.faithfulness import collages, points_at

pasted, asked_for, places = collages(x, labels)  # four digits in one: (200, 1, 16, 16)
wide = small.resized((16, 16))
pointing = maps_of_all_methods(wide, pasted, asked_for)

# %%
for method, heats in pointing.items():
    print(f"{method:13} {points_at(heats, places).float().mean():.0%}")

# %% [markdown]
# One in four is chance, and nobody is clearly above it. Are all maps of the digits wrong? Before blaming the maps, ask
# the network whether it sees the digits at all. **Predict.** How often does it name the digit that was asked for? (If
# it saw all four and had to choose: one time in four. If it guesses: one time in ten.)

# %%
with torch.no_grad():
    answer = wide(pasted).argmax(1)
    alone = small(x).argmax(1)
print(f"alone: right {(alone == labels).float().mean():.0%}")
print(f"in the collage: names the one asked for {(answer == asked_for).float().mean():.0%}")

# %% [markdown]
# It guesses. Alone, it knows every one of these digits (that is how they were chosen); among others, on an image of
# twice the size, it sees none. **No map can show what the network does not see.** A score of chance in this test can
# have two causes, the map and the network, and only a look at the answers tells which. The photograph network does see
# something in collages; the thousand photographs below will tell more.
#
# Methods that do not know the class (random, the last layer, rollout) must stay at chance with *every* network: they
# give one map, whichever of the four is asked for. This is no fault of theirs. It is a question that they were never
# told.


# %% exercise="09.7"
def my_points_at(maps, boxes):
    """Play the pointing game with boxes of any size.

    maps: (B, rows, columns), without equal numbers.
    boxes: (B, 4), whole numbers in patches: top, bottom, left, right; bottom and right are just outside.
    Returns (B,), bool: is the patch with the largest number inside the box?
    """
    ### BEGIN SOLUTION
    best = maps.flatten(1).argmax(dim=1)
    row, column = best // maps.shape[2], best % maps.shape[2]
    top, bottom, left, right = boxes.unbind(dim=1)
    return (top <= row) & (row < bottom) & (left <= column) & (column < right)
    ### END SOLUTION


# %%
check("09.7", my_points_at)
# hint("09.7")

# %% [markdown] solved_only=true
# **Why.** The index of a patch is row × columns + column, so both come from a division by the number of *columns*.
#
# **The common wrong answer** divides by the number of rows. On a square grid it is right, and there it is usually
# tried.

# %% [markdown]
# ## How sure is a score?
#
# A mean over 200 images is a throw of the dice as well: other 200 digits, another number. The **bootstrap** (Efron
# 1979) asks how much it would move, with nothing but the 200 values: draw 200 of them with replacement, take their
# mean, and do it again and again. The middle 95% of these means are the interval.

# %%
deletion = {name: found.scores["deletion"].numpy() for name, found in curves.items()}  # (200,) each
rng = np.random.default_rng(0)
for name in ("grad_cam", "rollout", "chefer", "grad_rollout"):
    means = [rng.choice(deletion[name], size=200).mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    print(f"{name:12} deletion {deletion[name].mean():.3f}, interval {low:.3f} to {high:.3f}")

# %% [markdown]
# **Predict.** They overlap. May we still say that one method is better on these digits?
#
# Images differ far more than methods do: some digits fall at the first patch, whatever the method. That spread is in
# all four intervals, and it comes from the *same images*. So the sharper question is about the difference, image by
# image: its interval does not contain what the images have in common.

# %%
for name, other in (("grad_cam", "rollout"), ("chefer", "grad_rollout")):
    gap = deletion[name] - deletion[other]  # image by image
    means = [rng.choice(gap, size=200).mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    print(f"{name:8} less {other:12}: {gap.mean():.3f}, interval {low:.3f} to {high:.3f}")

# %% [markdown]
# Two overlapping intervals do not mean that nothing is known. Here the first difference leaves out 0: on these digits,
# rollout is better than Grad-CAM. The second interval is much the narrowest, and 0 is inside: those two
# methods make nearly the same map, and nothing here tells them apart. The rule of this course: **a method is called
# better only if the interval of the difference, on the same images, leaves out 0.**


# %% exercise="09.8"
def my_paired_interval(ours, theirs, seed):
    """Return where the mean difference of two methods would lie in 95% of repetitions.

    ours, theirs: float arrays (n,), the scores of two methods on the same n images, in the same order.
    seed: of the random draws: the same seed gives the same interval.
    Returns (low, high), plain numbers: the middle 95% of 2000 bootstrap means of ours - theirs.
    """
    ### BEGIN SOLUTION
    gaps = ours - theirs
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(gaps), size=(2000, len(gaps)))  # with replacement
    low, high = np.percentile(gaps[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
    ### END SOLUTION


# %%
check("09.8", my_paired_interval)
# hint("09.8")

# %% [markdown] solved_only=true
# **Why.** The difference is taken *before* anything is drawn, so that an image is drawn with both of its scores.
#
# **The common wrong answer** draws images for the two methods separately. Then the spread of the images comes back,
# twice, and the interval is far too wide.

# %% [markdown]
# ## The table
#
# All of it together: eight kinds of maps, five metrics, intervals, and random as the floor. **Positive** and **negative
# perturbation** (Chefer et al. 2021, arXiv 2012.09838) are like deletion and insertion, but count only whether the
# answer is still right. **Predict.** Which methods will lie beside the grey band of chance in all five?

# %%
from vit_tutorial.faithfulness import METRICS, faithfulness_table
from vit_tutorial.intervals import bootstrap_interval


def row_of(method, metric, values, floor):
    """Return mean and interval of values (n,), and the interval of the gain over the floor."""
    sign = 1 if METRICS[metric] else -1  # a gain is positive where the method is better
    low, high = bootstrap_interval(values)
    gain_low, gain_high = bootstrap_interval(sign * (values - floor))
    ends = {"low": low, "high": high, "gain_low": gain_low, "gain_high": gain_high}
    return {"method": method, "metric": metric, "mean": values.mean().item(), **ends}


# %%
scores = {method: dict(found.scores) for method, found in curves.items()}
for method, heats in pointing.items():
    scores[method]["pointing game"] = points_at(heats, places).double()
table = [
    row_of(method, metric, found[metric], scores["random"][metric])
    for metric in METRICS
    for method, found in scores.items()
]
plots.method_scores(table, METRICS, "200 digits; the band is what random maps score")

# %% [markdown]
# Filled and blue: better than random by our rule, the interval of the difference on the same images. Orange and hollow:
# not told apart from dice. One more warning: these are thirty-five comparisons at 95%. Among as many maps of dice, one or
# two would come out filled by luck. So believe what holds in several panels, not a single dot. The same in words:

# %%
for metric in METRICS:
    here = {row["method"]: row for row in table if row["metric"] == metric}
    better = [m for m, row in here.items() if m != "random" and row["gain_low"] > 0]
    print(f"{metric:21} better than random: {', '.join(better) or 'none'}")

# %% [markdown]
# The package has all of this in one call, `faithfulness_table`. On forty of the digits it says what we say:

# %%
few_rows = faithfulness_table(small, x[:40], labels[:40], steps=8)
theirs = {row["method"]: row["mean"] for row in few_rows if row["metric"] == "deletion"}
for method in METHODS[1:]:  # the random maps of the two have other seeds
    assert_close(theirs[method], deletion[method][:40].mean().item(), atol=1e-4, rtol=0)
print("deletion of", len(theirs) - 1, "methods agrees")

# %% [markdown]
# ### A thousand photographs
#
# The same for the photograph network, on 1,000 test images that it names rightly ({{results.faithfulness.data}}).
# Removed patches show the mean colour, or the image out of focus.
#
# {{table.faithfulness}}
#
# So much for the scores. By our rule, the differences decide:
#
# {{table.faithfulness.gain}}
#
# All of it took {{results.faithfulness.rows[0].seconds:.0f}} seconds. With `FULL = True` the next cell makes the
# part with the mean colour on CIFAR-10 itself: a download of 170 MB if it is not on this computer yet, and some minutes.

# %%
FULL = False

# %%
if FULL:
    from IPython.display import display

    from vit_tutorial.data import cifar10

    cifar = cifar10("test")
    chosen = torch.randperm(len(cifar), generator=torch.Generator().manual_seed(0))[:1500]
    pixels, truth = normalize(cifar.images[chosen], card.mean, card.std), cifar.labels[chosen]
    with torch.no_grad():
        kept = (vit(pixels).argmax(1) == truth).nonzero()[:1000, 0]
    full_table = faithfulness_table(vit, pixels[kept], truth[kept], on_collages=large)
    display(plots.method_scores(full_table, METRICS, f"{len(kept)} CIFAR-10 images"))

# %% [markdown]
# What surprises in these tables:
#
# - **The order of the methods is not the same.** On the digits, rollout, which does not know the class, is level with
#   the methods that do, or ahead of them. On the photographs Chefer's rule and gradient rollout are ahead of it in every
#   column. And LeGrad, not told apart from dice in any panel of the digits, beats them in all columns of the photographs.
#   "Method X is best" is a sentence about a network and its data.
# - **In the pointing game the class decides.** Rollout and the last layer do not beat chance on the photographs
#   ({{results.faithfulness.rows[method=rollout].pointing_game_mean:.2f}} and
#   {{results.faithfulness.rows[method=last_layer].pointing_game_mean:.2f}} where chance is 0.25), although both beat
#   random clearly in deletion. They know what the network looks at, and not for what.
# - **To know the class is not enough.** Grad-CAM does, and the interval of its gain in the pointing game contains 0; by
#   insertion it is worse than dice.
#
# ## What attention does not prove
#
# Suppose a map is computed rightly, and shows a large weight on a patch. Is the patch important? Back to two tokens,
# with the weights 0.9 and 0.1.
#
# **Predict.** Token 0 has the value 0, token 1 the value 5. Where does the output come from? What happens to the *map*
# if the values change?

# %%
weights = torch.tensor([0.9, 0.1])
for values in ([0.0, 5.0], [0.0, -5.0], [1.0, 1.0]):
    parts = [round(x, 2) for x in (weights * torch.tensor(values)).tolist()]
    print(f"map [0.9, 0.1], values {values}: parts {parts}, output {sum(parts):g}")

# %% [markdown]
# Nine tenths of the attention goes to a token that brings nothing. Values do not show in a map of weights. In the
# second line the answer has turned round, and the map has not moved.
#
# The other direction is worse: **different maps, same output**. Three tokens with the values 0, 1, 2: the weights (½,
# 0, ½) and (0, 1, 0) both give 1. In a network there are many more tokens than numbers in a value, so there is much
# room. We take the last layer of the photograph network and look, head by head, for other weights, still 0 or more and
# with the sum 1, that give CLS *exactly the same output*, with as little as possible on the patch that had the most.
# That is a linear programme, which SciPy solves.
#
# **Predict.** How much of its weight must the strongest patch keep?

# %%
from scipy.optimize import linprog

seen_by = {}
hook = vit.blocks[-1].attn.qkv.register_forward_hook(lambda m, i, out: seen_by.update(qkv=out))
with torch.no_grad():
    vit(images)
hook.remove()
heads, pairs = card.config.num_heads, []
values = seen_by["qkv"].chunk(3, dim=-1)[2].unflatten(-1, (heads, -1))[0].double()  # (T, h, d)
for head in range(heads):
    w = record.weights[-1][0, head, 0].double()  # (T,): what CLS attends to
    strongest = 1 + w[1:].argmax().item()
    keep = torch.cat([values[:, head].T, torch.ones(1, len(w))]).numpy()  # the output, and the sum
    least = linprog(np.eye(len(w))[strongest], A_eq=keep, b_eq=keep @ w.numpy(), bounds=(0, None))
    off = np.abs(keep @ least.x - keep @ w.numpy()).max()
    pairs.append([heat[1:].view(rows, columns).float() for heat in (w, torch.tensor(least.x))])
    print(
        f"head {head}: strongest {w[strongest]:.3f} -> {least.x[strongest]:.3f}, rank correlation "
        f"of the maps {rank_correlation(*pairs[-1]):.2f}, the output moves by {off:.0e}"
    )

# %%
most_different = min(pairs, key=lambda pair: rank_correlation(*pair))
titles = ["what CLS attends to", "what it could, for the same output"]
plots.photo_row([paint(heat) for heat in most_different], titles)

# %% [markdown]
# Two maps, of the same head and for the same output. The second number is what the strongest patch *must* keep. Where
# it is 0, the most attended patch could have had no attention at all, and the rest of the network would never know.
# Where it is below the first, a part of the weight means nothing. Where the patch must keep nearly all, the reason lies
# in the *values*: no blend of the others gives the same. And values do not show in the map. So a map of weights is not
# what the network *used*. It is one description of it among many (Jain & Wallace 2019, arXiv 1902.10186; Brunner et al.
# 2019, arXiv 1908.04211; for what can be said in its defence, Wiegreffe & Pinter 2019, arXiv 1908.04626).
#
# **A map is a hypothesis. The test is an intervention**: change the image, and see whether the answer changes as the
# map says.
#
# ## A network that knows nothing
#
# One more test, which needs no images with known answers (Adebayo et al. 2018, arXiv 1810.03292). Give the network a
# head with random weights. It now says nonsense. **Predict.** Which maps will notice? And if all its blocks are random?


# %%
def with_random(model, parts, seed=0):
    """Return a copy with random numbers, of the same spread, in some of its parts."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for part in parts(model):
        for parameter in part.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data = drawn * parameter.data.std()
    return model


random_parts = {
    "head": lambda model: [model.head],
    "last block": lambda model: [model.blocks[-1]],
    "all blocks": lambda model: model.blocks,
}
after = {
    name: maps_of_all_methods(with_random(small, parts), x[:60], labels[:60])
    for name, parts in random_parts.items()
}

# %%
print(f"{'rank correlation':18}", *(f"{name:>11}" for name in random_parts))
for method in METHODS:
    found = []
    for name in random_parts:
        pairs = zip(maps[method][:60], after[name][method], strict=True)
        found.append(np.mean([rank_correlation(*pair) for pair in pairs]))
    print(f"{method:18}", *(f"{value:11.2f}" for value in found))

# %%
before = maps_of_all_methods(small, x[:60], labels[:60])
same = [m for m in METHODS if torch.equal(before[m], after["head"][m])]
print("with a random head the same to the last bit:", ", ".join(same))

# %% [markdown]
# - **Random head**: the gradient methods change, as they must. The last layer's attention and rollout are the same to
#   the bit: they never saw the head. A map that stays the same when the answers become nonsense does not explain the
#   answers.
# - **Random last block**: look at rollout and LeGrad. They average over layers, and one layer in four hardly moves
#   them, although the network is ruined.
# - **All blocks**: what is left of a correlation comes from the image, the patch embedding and the positions, not from
#   anything that the blocks have learned.
#
# "random" is unchanged everywhere, of course. To change is necessary, and not sufficient: dice with a new seed pass
# this test, too.
#
# ## What we now have
#
# | what | shape |
# |---|---|
# | weights, gradients, one for each layer | (B, h, T, T) |
# | rollout, or Chefer's R, whole | (B, T, T) |
# | a map | (B, rows, columns) |
# | an order of removal | (B, N) |
# | curves | (B, steps + 1) |
# | scores: deletion, insertion, ... | (B,), then a mean and an interval |
# | pointing game | (B,): 1, 0, or a share where several patches are best |
#
# A map is tested in this order: laws (does it compute what it says?), the sanity check (does it depend on what it
# explains?), removal and pointing against chance (is it true?), and an interval for each number.
#
# ## The questions people ask
#
# **"Which method should I use?"** The one that wins on *your* network and your data; it takes minutes. And ask which
# methods cannot be told apart from the winner:

# %%
for metric in ("deletion", "insertion"):
    values = {m: found.scores[metric].numpy() for m, found in curves.items()}
    sign = 1 if METRICS[metric] else -1
    winner = max(values, key=lambda m: sign * values[m].mean())
    level = [m for m in values if bootstrap_interval(sign * (values[winner] - values[m]))[0] <= 0]
    print(
        f"{metric}: {winner}; not told apart from it: {', '.join(m for m in level if m != winner) or 'none'}"
    )

# %% [markdown]
# **"Which baseline should I use?"** Two. Here are the methods by deletion with each, best first:

# %%
areas = {"mean": {m: values[:100].mean() for m, values in deletion.items()}, "blur": {}}
for m, heats in maps.items():
    found = perturb(small, x[:100], heats[:100], labels[:100], steps=8, baseline="blur")
    areas["blur"][m] = found.scores["deletion"].mean().item()
for baseline, of in areas.items():
    print(f"{baseline}: ", ", ".join(f"{m} {of[m]:.2f}" for m in sorted(of, key=of.get)))

# %% [markdown]
# The order is not the same. Where it is, believe it; where it is not, say so.
#
# **"Can I show one picture as evidence?"** As an illustration, yes. As evidence: on how many single images does a map
# of dice beat the method?

# %%
for method in ("rollout", "chefer", "legrad"):
    lost = (deletion["random"] < deletion[method]).mean()
    print(f"dice beat {method:8} on {lost:.0%} of the images")

# %% [markdown]
# Somebody who shows you one picture has chosen it. Ask for the mean over many, chosen before anybody looked.
#
# **"Does a sharp map mean that the network is sure?"** Sharpness is measured by entropy (lesson 04), sureness by the
# probability of the answer:

# %%
with torch.no_grad():
    sure = small(x).softmax(1).amax(1)
for method in ("last_layer", "rollout", "chefer", "legrad"):
    shares = maps[method].flatten(1) / maps[method].flatten(1).sum(1, keepdim=True).clamp_min(1e-12)
    entropy = torch.special.entr(shares).sum(1)
    correlation = rank_correlation(-entropy, sure)
    print(f"{method:10} sharpness and sureness: rank correlation {correlation:+.2f}")

# %% [markdown]
# With 200 images, chance alone gives a rank correlation between −0.14 and 0.14 in 95% of cases. All four lie inside: on
# these digits, a sharp map says nothing about how sure the network is.
#
# **"Do maps of wrong answers tell why they are wrong?"** They tell which patches spoke for the wrong class. We can test
# it: remove a quarter of the patches, the best ones for the wrong answer, and see whether the right one comes through.

# %%
everything = normalize(test.images, small_card.mean, small_card.std)
with torch.no_grad():
    answers = small(everything).argmax(1)
mistaken = answers != test.labels
bad, said, truth = everything[mistaken], answers[mistaken], test.labels[mistaken]
for method, heats in maps_of_all_methods(small, bad, said).items():
    order_of = patch_order(heats)[:, :4].tolist()
    cut = torch.stack([without(b, o, 2) for b, o in zip(bad, order_of, strict=True)])
    with torch.no_grad():
        now = small(cut).argmax(1)
    print(
        f"{method:13} of {len(bad)} mistakes: {(now != said).sum()} given up, {(now == truth).sum()} put right"
    )

# %% [markdown]
# To make the network give up a wrong answer is easy: dice do it nearly as often. To make it say the right one is not.
# "Which patches" is not "why": a map has no word for "the stroke is too short here". And so few mistakes are no basis
# for more than this.
#
# ## A stretch
#
# - Write `my_law` for Chefer's rule: which laws of rollout does it keep, and which does it break on purpose?
# - Removing one patch at a time and looking which changes the answer most gives an order, too: N + 1 passes, no
#   attention at all. Score it by deletion on the digits beside the seven methods. Does any map of attention beat it?
# - Train two networks on the digits that differ only in the seed (lesson 07). How far do their rollout maps agree? Is
#   that more or less than two *methods* on one network?
