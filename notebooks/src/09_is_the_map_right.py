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
# - find a fault in a formula that many use,
# - make maps that know which class you ask about: two tokens by hand, then the whole network,
# - take away what a map calls important, watch the answer, and compare with chance,
# - see that *how* one takes away can decide which method wins,
# - read a table of methods without fooling yourself: intervals, and differences on the same images,
# - see what attention cannot prove, and what a network with a random classifier tells about a map.

# %%
import copy

import numpy as np
import torch
import torch.nn.functional as F
from skimage import data as photographs

from vit_tutorial import (
    fit_image,
    load_checkpoint,
    normalize,
    plots,
    record_attention,
    relevance,
    rollout,
)
from vit_tutorial.lessons import check, hint

# %%
plots.network_map("attention")

# %% [markdown]
# ## Two maps of one cat
#
# The bundled network looks at Chelsea the cat (photograph by Stéfan van der Walt, CC0). One of the two maps
# below is rollout, from lesson 08. The other is made of random numbers, each averaged with its neighbours. Or take a
# picture of your own.

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
def smooth_noise(seed):
    noise = torch.rand(1, rows, columns, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 3, stride=1, padding=1, count_include_pad=False)[0]


def share_in_the_middle(heat):
    inner = heat[rows // 4 : -rows // 4, columns // 4 : -columns // 4]
    return (inner.sum() / heat.sum()).item()


# %% [markdown]
# **Predict.** Which of the two comes from the network?


# %%
def side_by_side(heats, titles):
    """Draw maps (rows, columns) of the photograph as shares of a whole."""
    shares = [(heat / heat.sum()).numpy() for heat in heats]
    return plots.map_row(np.asarray(photo), shares, titles)


# %%
best_seed = max(range(100), key=lambda seed: share_in_the_middle(smooth_noise(seed)))
side_by_side([smooth_noise(best_seed), rollout(record)[0]], ["A", "B"])

# %% [markdown]
# Did you take A for the network's? It is the noise, and it was helped: of a hundred random maps it is the one whose heat
# lies most in the middle, because photographs have their subject there. That is what happens, with good intentions,
# wherever somebody looks through maps and shows the nicest.
#
# So looking is no test. Two other things are, and they answer two different questions:
#
# | question | a map is right if | how it is tested |
# |---|---|---|
# | Is it computed right? | the numbers are what the formula says | laws, an independent computation |
# | Is it true? | what it marks is what the network used | take it away, and ask the network |
#
# A map can pass the first and fail the second. It cannot do without the first, so we begin there.

# %% claim="it is the one whose heat lies most in the middle"
middle = [share_in_the_middle(smooth_noise(seed)) for seed in range(100)]
assert max(middle) == share_in_the_middle(smooth_noise(best_seed)) > np.median(middle) + 0.02

# %% [markdown]
# ## Computed right: one division
#
# Rollout (lesson 08) joins the heads of each layer to one matrix, mixes it with the identity, and scales every *row* to
# a sum of 1. A formula that many use does the last step with `a / a.sum(-1)`. Here is a matrix whose rows have the sums
# 1, 2 and ½, divided in two ways:

# %%
a = torch.tensor([[0.5, 0.3, 0.2], [0.8, 0.8, 0.4], [0.1, 0.1, 0.3]])  # (T, T)
as_written = a / a.sum(-1)
as_meant = a / a.sum(-1, keepdim=True)
titles = ["a", "a / a.sum(-1)", "with keepdim=True"]
plots.weight_tables([matrix.numpy() for matrix in (a, as_written, as_meant)], titles)

# %% [markdown]
# In the middle the rows do not sum to 1. `a.sum(-1)` has shape (T,), and shapes are matched from the right: its three
# numbers are laid along the columns. So column j is divided by the sum of *row* j. The shape is right, no number looks
# odd, nothing complains. With `keepdim=True` the sums have the shape (T, 1) and stand beside their rows.
#
# Now the whole formula as it is often written, for one image. It can join heads by their mean or their maximum, and set
# the smallest entries to zero (`discard`; entry 0, what CLS gives itself, is spared).

# %% claim="In the middle the rows do not sum to 1."
assert ((as_written.sum(-1) - 1).abs() > 1e-3).all()
assert torch.allclose(as_meant.sum(-1), torch.ones(3))


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
# nothing to do with each other, −1 if one is the other backwards. Equal numbers share a rank: an order by position
# would make two maps full of zeros look alike.
#
# **Predict.** At one of the four settings the two agree to rounding. Which one, and why?


# %%
def rank_correlation(one, other):
    """Correlation of the ranks of two maps of one size, 1 to −1 (Spearman's); 0 if one is flat."""
    ranks = []
    for heat in (one, other):
        _, place, count = heat.flatten().unique(return_inverse=True, return_counts=True)
        ranks.append((count.cumsum(0) - (count - 1) / 2)[place])  # the mean rank of equal ones
    return torch.corrcoef(torch.stack(ranks).double())[0, 1].nan_to_num().item()


layers, off_by = [weights[0] for weights in record.weights], {}  # each (h, T, T)
for fusion in ("mean", "max"):
    for discard in (0.0, 0.9):
        wrong = popular_rollout(layers, fusion, discard)[record.num_prefix :].view(rows, columns)
        right = rollout(record, head_fusion=fusion, discard_ratio=discard)[0]
        off = off_by[fusion, discard] = (wrong / wrong.max() - right / right.max()).abs().max()
        same = rank_correlation(wrong, right)
        print(
            f"{fusion:4} discard {discard}: differ by up to {off:.3f}, ranks correlate {same:.3f}"
        )

# %% [markdown]
# The default hides the fault. With the mean and nothing discarded, every row already sums to 1, and so do the mixed
# ones: the division does nothing, right or wrong. The maximum over heads makes rows longer than 1, discarding makes
# them shorter, and then the maps differ, by up to a quarter of the maximum. The last wrong and right maps, for max and
# 0.9:

# %% claim="then the maps differ, by up to a quarter of the maximum"
assert off_by["mean", 0.0] < 1e-4
assert min(off for setting, off in off_by.items() if setting != ("mean", 0.0)) > 0.02
assert 0.18 < max(off_by.values()) < 0.32

# %%
side_by_side([wrong, right], ["column j by row j's sum", "row j by row j's sum"])

# %% [markdown]
# Would you have seen it? Both light the same eye and both lower corners, and the ranks correlate to 0.99. Only the
# strongest patch, circled, is another one: the eye in the wrong map, a corner in the right one. So such a fault can
# live for years: it is tried at the default setting, where it does nothing, and at the others everybody looks. What finds it is a **law**, something that holds for every right rollout: *all rows sum to
# 1*. One line of code. (The two deeper sections that follow have more traps, and six laws.)

# %% claim="the ranks correlate to 0.99"
assert rank_correlation(wrong, right) > 0.97

# %% claim="Both light the same eye and both lower corners"
strongest = [set(heat.flatten().topk(10).indices.tolist()) for heat in (wrong, right)]
assert {8 * 3 + 2, 8 * 7, 8 * 7 + 7} <= strongest[0] & strongest[1]

# %% claim="the eye in the wrong map, a corner in the right one"
assert [heat.argmax().item() for heat in (wrong, right)] == [8 * 3 + 2, 8 * 7 + 7]

# %% [markdown] deeper=true
# ## More traps of a formula
#
# After the last layer the map is often divided by its maximum. In a network whose tokens attend only to themselves,
# nothing comes to CLS from the patches:

# %%
itself = popular_rollout([torch.eye(5).expand(2, 5, 5)] * 3)[1:]  # 4 patches
print("attention to itself:", (itself / itself.max()).tolist())

# %% [markdown]
# 0/0. And the grid is often taken to be a square, `side = int(T ** 0.5)`. An image of 16×4 patches, the hottest in row 5
# and column 1:

# %% claim="0/0."
assert (itself == 0).all()
assert (itself / itself.max()).isnan().all()

# %%
patches = torch.zeros(16 * 4)
patches[4 * 5 + 1] = 1
side = int(len(patches) ** 0.5)
found = divmod(patches.argmax().item(), side)
print(f"taken to be {side}×{side}: hottest in row {found[0]}, column {found[1]}")

# %% [markdown]
# A hot patch of the left half ends up at the right of a picture that does not exist. Nothing complains, because 8×8 is
# 64, too. Do it right once, and never again by the square root.

# %% claim="ends up at the right of a picture that does not exist"
assert found[1] >= side / 2
assert side * side == 16 * 4


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
check("09.1", my_map_of_row)
# hint("09.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** The prefix goes first; what is left has exactly rows × columns numbers, so a wrong `num_prefix` raises
# instead of passing.
#
# **The common wrong answer** takes away one token, whatever the model. With four registers more it stops with an error;
# and where somebody cuts off the end to make it fit, every patch is drawn four places too far.

# %% [markdown]
# The rows have a 0/0, too: where all that a token attends to was discarded and nothing of the identity is mixed in. The
# division by row sums you have from above. Now for a batch, and for rows without anything.


# %% exercise="09.2"
def my_mixed(fused, residual):
    """Mix each layer's matrix with the identity, and scale its rows.

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

# %% [markdown] deeper=true
# ## Laws
#
# How does one find such a fault without knowing where it is? With **laws**: things that hold for every right rollout,
# whatever the image and the network. Here are six. J is the matrix of ones, T the number of tokens, L that of layers.
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
# earlier, half patch 0 and half patch 1. A rollout here is a function that takes weights, a list of (B, h, T, T), and
# returns (B, T, T).

# %%
from dataclasses import replace

from torch.testing import assert_close

from vit_tutorial import RecordedAttention

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
# something to be scaled. Is there a law that finds every fault?


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
broken = {name: broken_laws(roll) for name, roll in suspects.items()}
for name, laws in broken.items():
    print(f"{name:34} breaks: {', '.join(laws) or 'nothing'}")

# %% [markdown]
# Every fault is found, and no law finds them all. "Layers in reverse" breaks a single one. The laws on identity and on
# numbering find nothing here. **A law can only convict, never acquit.** So one needs several, chosen for what could go
# wrong. And the package's?

# %% claim="Every fault is found, and no law finds them all."
faults = {name: laws for name, laws in broken.items() if name != "right"}
assert broken["right"] == []
assert all(faults.values())
assert set.intersection(*map(set, faults.values())) == set()

# %% claim="breaks a single one. The laws on identity and on numbering find nothing"
assert broken["layers in reverse"] == ["order"]
assert not {"identity", "numbering"} & {law for laws in broken.values() for law in laws}

# %%
ours = {}
for fusion in ("mean", "max", "min"):

    def package(weights, fusion=fusion):
        as_record = RecordedAttention(weights, (1, weights[0].shape[-1] - 1), num_prefix=1)
        return rollout(as_record, head_fusion=fusion, query=None)

    ours[fusion] = broken_laws(package)
    print(f"rollout, {fusion:4} breaks: {', '.join(ours[fusion]) or 'nothing'}")

# %% [markdown]
# Nothing. Four more functions claim to be rollout with the *mean* of the heads. They are wrong.

# %% claim="Nothing. Four more functions"
assert not any(ours.values())

# %%
from vit_tutorial.lessons.lesson_09.rollouts import WRONG_ROLLOUTS

for number, roll in enumerate(WRONG_ROLLOUTS.values()):
    print(f"function {number} breaks: {', '.join(broken_laws(roll)) or 'nothing'}")

# %% [markdown]
# Six laws, and none of them objects. What law do these four break?

# %% claim="Six laws, and none of them objects."
assert not any(broken_laws(roll) for roll in WRONG_ROLLOUTS.values())


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
# line with it: loops over NumPy arrays in float64 (`tests/test_attention.py`).

# %% [markdown]
# ## Which class?
#
# A map should say what speaks for the answer. Four photographs in one (the rocket by SpaceX and the cup of coffee by
# Rachel Michetti, CC0, the astronaut Eileen Collins by NASA, public domain), for the same network at twice the size:

# %%
names = ("chelsea", "rocket", "coffee", "astronaut")
quarters = [np.asarray(fit_image(getattr(photographs, name)(), 32).view()) for name in names]
quarters = [fit_image(view, 32).pixels for view in quarters]
collage = torch.cat([torch.cat(quarters[:2], dim=2), torch.cat(quarters[2:], dim=2)], dim=1)
large = vit.resized((64, 64))
large_images = normalize(collage[None], card.mean, card.std)  # (1, 3, 64, 64)
with torch.no_grad():
    rocket = vit(normalize(quarters[1][None], card.mean, card.std)).argmax().item()
print(tuple(large_images.shape), "and the rocket alone is of the class", card.classes[rocket])

# %% [markdown]
# There is no rocket among the ten classes, so the network says what comes nearest to it.
#
# **Predict.** We ask rollout: where is the *cat*? And then: where is that other class? How do the two maps differ?

# %%
cat = card.classes.index("cat")
asked = {c: record_attention(large, large_images, gradients_of=c) for c in (cat, rocket)}
same = torch.equal(rollout(asked[cat]), rollout(asked[rocket]))
print("the two rollouts are equal to the last bit:", same)

# %% [markdown]
# Nothing in rollout's formula knows of a class. They cannot differ. The class comes into a network in its very last
# layer, the classifier (`vit.head`), and rollout stops before it. The same holds for the attention of any single
# layer.
#
# What knows of the class is the **gradient**: how much would the logit of the cat change if this weight were a little
# larger?
#
# ### Two tokens by hand
#
# One query attends to two tokens, with the weights 0.7 and 0.3. If it attended to token 0 alone, the cat's logit would
# be 0.2, and to token 1 alone, 2.0. With all else left out, the logit is the sum of weight × what the token brings. For
# the dog the two tokens bring 1 and −1.

# %% claim="They cannot differ"
assert same

# %%
weights, part = torch.tensor([0.7, 0.3], requires_grad=True), {}
for name, brings in {"cat": [0.2, 2.0], "dog": [1.0, -1.0]}.items():
    logit = (weights * torch.tensor(brings)).sum()
    (gradient,) = torch.autograd.grad(logit, weights)
    part[name] = (weights * gradient).detach()
    print(f"{name}: gradients {gradient.numpy()}, weight × gradient {part[name].numpy()}")

# %% [markdown]
# The gradient of a sum of products is the other factor. Weight × gradient is the part that a token has in the logit:
# here the parts add up to it. For the cat the *smaller* weight has the larger part. And for the dog, token 1 speaks
# *against* it. The weights are the same in both lines; the maps are not.
#
# ### Through all layers
#
# The rule of Chefer, Gur & Wolf (2021, arXiv 2103.15679, equations 5 and 6) does in every layer what we did by hand,
# and adds up along the layers. $A_l$ are the weights of layer l, (h, T, T); $G_l$ the gradients of the logit with
# respect to them, of the same shape. R is a matrix (T, T): how much of token j has come to token i, as far as it speaks
# for the class. It starts as the identity, and each layer adds what it brings:
#
# $$\bar A_l = \mathrm{mean\ over\ heads\ of}\ \max(G_l \cdot A_l,\ 0), \qquad R \leftarrow R + \bar A_l R$$
#
# The product inside is number by number, as by hand; $\max(\cdot, 0)$ drops what speaks against. $\bar A_l R$ is a
# matrix product: token i gets from token k what k has collected so far. Nothing is scaled to rows of 1, and the numbers
# have no unit (with a single layer they are the positive parts of the logit divided by h, over several layers products
# of gradients come in): compare them within a map.

# %% claim="For the cat the *smaller* weight has the larger part."
assert part["cat"][1] > part["cat"][0]
assert weights[1] < weights[0]
assert torch.isclose(part["cat"].sum(), torch.tensor(0.7 * 0.2 + 0.3 * 2.0))

# %% claim="for the dog, token 1 speaks *against* it"
assert part["dog"][1] < 0 < part["dog"][0]


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
# hint("09.4")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** The newest layer stands on the left of the product, as in rollout: what token i collects in layer l is what
# the others had collected *below* it.
#
# **The common wrong answer** drops negative numbers after the mean over heads. Then a head that speaks for the cat and
# one that speaks against it cancel, which is another method (the package's `grad_rollout` does it so).

# %% [markdown]
# The package's `relevance` holds four relatives besides:
#
# - **gradient rollout**: rollout, with $\max(\mathrm{mean}(G A), 0)$ in the place of the attention,
# - **LeGrad** (Bousselham et al. 2024, arXiv 2404.03214): the positive parts of gradients alone, of a logit that the
#   classifier would give to each layer's own output, averaged over heads, queries and layers,
# - **Grad-CAM on attention**: the CLS row of each head of the last layer, weighted by its mean gradient,
# - **token Grad-CAM**: not of attention, but of the channels of the last tokens, each weighted by its mean gradient.
#
# First, does the network see both things in the collage? Then its maps, for the cat and for the class of the rocket:

# %%
with torch.no_grad():
    chance = large(large_images).softmax(1)[0]
print(f"in the collage the network sees: cat {chance[cat]:.0%}, ship {chance[rocket]:.0%}")

# %%
gradient_methods = ("grad_rollout", "legrad", "chefer")
heats = torch.stack([
    torch.stack([rollout(of)[0], *(relevance(of, method=m)[0] for m in gradient_methods)])
    for of in asked.values()
])  # fmt: skip

# %%
questions = [f"{card.classes[c]}?" for c in asked]
plots.question_maps(
    collage.permute(1, 2, 0).numpy(), heats.numpy(), questions, ["rollout", *gradient_methods]
)

# %%
in_the_cat = heats[..., :8, :8].sum((-1, -2)) / heats.sum((-1, -2))  # (2 questions, 4 methods)
for question, shares in zip(questions, in_the_cat, strict=True):
    print(f"{question:5} of each map in the cat's quarter:", *(f"{share:4.0%}" for share in shares))

# %% [markdown]
# Each map has its own scale, from its least to its greatest number, and its best patch is framed. Rollout answers both
# questions alike. In the other three the cat's quarter gets more when the cat is asked for (32 to 40% of the map) than
# when the ship is (9 to 19%): they do hear the question. But asked for the ship, *none* frames a patch of the rocket,
# and asked for the cat, only gradient rollout frames one of the cat. Are the maps wrong? Of the ship, which the network
# gives 4%, there may be little to show: **no map can show what the network does not see**. Of the cat it says 42%. Here
# looking ends, and measuring begins.

# %% claim="the cat's quarter gets more when the cat is asked for (32 to 40% of the map)"
assert torch.equal(heats[0, 0], heats[1, 0])
assert in_the_cat[0, 1:].min() > 0.29
assert in_the_cat[0, 1:].max() < 0.43
assert in_the_cat[1, 1:].max() < 0.22
assert in_the_cat[1, 1:].min() > 0.06

# %% claim="asked for the ship, *none* frames a patch of the rocket"
best = heats.flatten(2).argmax(-1)  # of each map (16, 16)
quarter = 2 * (best // 16 >= 8) + (best % 16 >= 8)  # 0: the cat, 1: the rocket
assert (quarter[1, 1:] != 1).all()
assert (quarter[0] == 0).tolist() == [False, True, False, False]

# %% claim="Of the ship, which the network gives 4%"
assert card.classes[rocket] == "ship"
assert chance[rocket] < 0.08
assert 0.33 < chance[cat] < 0.53

# %% [markdown] deeper=true
# ## Is Chefer's rule computed right?
#
# Against a loop in NumPy over layers and heads, for random numbers in float64:

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

# %% [markdown]
# And laws. If every gradient is 1, $\bar A$ is the mean of the heads, and $I + \bar A$ is twice the mixed matrix of
# rollout. So Chefer's map of L layers is $2^L$ times rollout's:

# %%
ones = replace(toy, gradients=[torch.ones_like(w) for w in toy.weights])
assert_close(relevance(ones), 2 ** len(toy.weights) * rollout(toy))
print("2 to the power", len(toy.weights), "times rollout's")

# %% [markdown]
# Gradients have a trap of their own. They are computed backwards, so a program
# that collects them as they come has those of the *last* layer first, and pairs them with the weights of the first. The
# shapes fit. A law that finds it: let one layer alone have gradients, in the CLS row. The map must be that row of *its*
# weights.

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
# Mispaired, it is another map. One more law, or half of one. A logit has no unit: five times all logits order the
# classes alike. Does a map change when the logit is multiplied by 5?

# %% claim="Mispaired, it is another map."
assert rank_correlation(mispaired, relevance(graded)) < 0.6

# %%
five = record_attention(vit, images, gradients_of=lambda logits: 5 * logits[:, cat])
moved = {}
for method in ("chefer", "grad_rollout", "legrad", "grad_cam", "token_grad_cam"):
    pair = [relevance(of, method=method)[0] for of in (graded, five)]
    shares = [heat / heat.sum().clamp_min(1e-12) for heat in pair]
    moved[method] = (shares[0] - shares[1]).abs().sum().item() / 2
    print(f"{method:14} {moved[method]:6.1%} of the map has moved elsewhere")

# %% [markdown]
# In LeGrad and both Grad-CAMs the factor stands before the whole map, and goes away when the map is scaled. In the
# other two it stands beside the identity: $I + 5\bar A$ is not five times $I + \bar A$, so longer ways through the
# network gain against shorter ones, and a part of the map moves. Neither is a fault. But a map that depends on the unit
# of the logit cannot be *the* map.

# %% claim="In LeGrad and both Grad-CAMs the factor stands before the whole map"
assert max(moved[m] for m in ("legrad", "grad_cam", "token_grad_cam")) < 1e-3

# %% claim="a part of the map moves"
assert moved["chefer"] > 0.02
assert moved["grad_rollout"] > 0.05

# %% [markdown]
# ## Is it true? Take it away
#
# If a map says "the network's answer hangs on this patch", then take the patch away: the answer should suffer. That is
# the whole idea. For now a removed patch shows the mean colour, which is 0 after the normalisation.

# %%
from vit_tutorial.faithfulness import maps_of_all_methods, patch_order

P = card.config.patch_size
photo_maps = maps_of_all_methods(vit, images, torch.tensor([cat]))  # name -> (1, rows, columns)


def without(image, patches, P):
    """Return one image (C, H, W) with some patches removed, one after the other."""
    image = image.clone()
    for patch in patches:
        r, c = divmod(int(patch), image.shape[2] // P)
        image[:, r * P : (r + 1) * P, c * P : (c + 1) * P] = 0
    return image


def probability(model, image, target):
    with torch.no_grad():
        return model(image[None]).softmax(1)[0, target].item()


# %%
def picture(image, card):
    """Turn one normalised image back into pixels: uint8 (H, W, 3)."""
    mean, std = (torch.tensor(part)[:, None, None] for part in (card.mean, card.std))
    pixels = (255 * (image * std + mean)).round().clamp(0, 255).to(torch.uint8)
    return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()


# %%
shown = {"whole": images[0]}
for method in ("random", "rollout", "legrad", "grad_rollout"):
    shown[method] = without(images[0], patch_order(photo_maps[method])[0, :12], P)
cat_left = {name: probability(vit, image, cat) for name, image in shown.items()}
titles = [f"{name}: {p:.0%} cat" for name, p in cat_left.items()]
plots.pixel_row([picture(image, card) for image in shown.values()], titles)

# %% [markdown]
# Twelve of 64 patches are gone, the best ones by four maps. Gradient rollout's leave the cat with 1%, rollout's with
# more than those of the random map. Is rollout, then, worse than dice? A picture with holes is hard to read for
# anybody, so we need to know what dice do *in general*. Twenty random orders:

# %% claim="Gradient rollout's leave the cat with 1%"
assert cat_left["grad_rollout"] < 0.05
assert cat_left["whole"] > 0.5

# %% claim="rollout's with more than those of the random map"
assert cat_left["rollout"] > cat_left["random"]

# %%
from vit_tutorial.faithfulness import random_maps

orders = [patch_order(random_maps((1, rows, columns), seed))[0] for seed in range(20)]
by_dice = [probability(vit, without(images[0], order[:12], P), cat) for order in orders]
print(f"mean {np.mean(by_dice):.0%}, from {min(by_dice):.0%} to {max(by_dice):.0%}")

# %% [markdown]
# Twelve squares at random leave 17% on average in these 20 orders, and between 5% and 54%. So one image and one throw
# prove nothing. Whatever is measured below has this **floor** beside it: maps of random numbers.
#
# ### From a curve to a number, by hand
#
# Remove patch after patch, the best first, and draw the probability. The number is the **area** under this curve, with
# the share of removed patches on the horizontal axis, 0 to 1 (Petsiuk et al. 2018, arXiv 1806.07421). A good map makes
# the curve fall at once: **deletion**, lower is better. Putting the best back first, on an empty image, it rises at
# once: **insertion**, higher is better.
#
# Take a "network" that is a plain sum: four patches that bring 0.5, 0.3, 0.2 and 0. Best first, the curve is 1, 0.5,
# 0.2, 0, 0. Between two points the area is a trapezium, the mean of both times the width, here ¼:
# (0.75 + 0.35 + 0.1 + 0) / 4 = 0.3. Worst first, the curve is 1, 1, 0.8, 0.5, 0 and the area 0.7. No order has a lower
# area than the first, since the large ones go earliest. This is the one case in which we *know* the right map, and
# deletion gives it the best score.

# %% claim="leave 17% on average in these 20 orders, and between 5% and 54%"
assert 0.12 < np.mean(by_dice) < 0.22
assert min(by_dice) < 0.1
assert 0.4 < max(by_dice) < 0.68

# %% claim="No order has a lower area than the first"
from itertools import permutations

brings = (0.5, 0.3, 0.2, 0.0)
area_of = {
    order: np.trapezoid(1 - np.cumsum([0, *(brings[i] for i in order)]), dx=0.25)
    for order in permutations(range(4))
}
assert np.isclose(area_of[0, 1, 2, 3], 0.3)
assert np.isclose(area_of[3, 2, 1, 0], 0.7)
assert min(area_of.values()) > area_of[0, 1, 2, 3] - 1e-9

# %% [markdown] deeper=true
# ## Equal numbers, and a network whose right map is known
#
# Which patches are the best `count`? A map may have equal numbers, many zeros for example, and `argsort` then goes by
# position: the upper left corner would count as important. For 200 maps of zeros, how often does each of the 16 patches
# come first?

# %%
zeros = torch.zeros(200, 4, 4)
by_position = zeros.flatten(1).argsort(descending=True, stable=True)[:, 0].bincount(minlength=16)
by_chance = patch_order(zeros)[:, 0].bincount(minlength=16)
print("argsort:    ", by_position.tolist())
print("patch_order:", by_chance.tolist())

# %% [markdown]
# `argsort` takes patch 0 each time; the package's `patch_order` draws. Write that.

# %% claim="`argsort` takes patch 0 each time; the package's `patch_order` draws."
assert by_position[0] == 200
assert by_chance.max() < 40


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
# The package's `perturb` removes and keeps patches of whole batches. Is it right? Against the network whose right map
# we know: its probability is a sum over pixels, so each patch brings exactly what its pixels add.

# %%
from vit_tutorial.faithfulness import perturb


class SumOfPixels(torch.nn.Module):
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
pixel_weights = pixel_weights * by_patch.repeat_interleave(4, 0).repeat_interleave(4, 1) / 100
known = SumOfPixels(pixel_weights)
patch_brings = (pixels * pixel_weights).unflatten(3, (4, 4)).unflatten(2, (4, 4)).sum((1, 3, 5))

# %%
zero = torch.tensor([0])
right, negated = (perturb(known, pixels, sign * patch_brings, zero, steps=16) for sign in (1, -1))
best, worst = (found.scores["deletion"].item() for found in (right, negated))
others = torch.rand(200, 4, 4, generator=generator)
areas = perturb(known, pixels.expand(200, -1, -1, -1), others, zero.expand(200), steps=16).scores
print(f"the known map {best:.3f}, its negative {worst:.3f}, whole image {patch_brings.sum():.3f}")
print(f"random: {areas['deletion'].min():.3f} to {areas['deletion'].max():.3f}")

# %% [markdown]
# Of 200 random orders none beats the known map. And two laws: the best and the worst area add up to the whole; and a
# negated map turns the order round, so that removing becomes keeping.

# %% claim="Of 200 random orders none beats the known map."
assert best < areas["deletion"].min() - 0.01

# %% claim="the best and the worst area add up to the whole"
assert abs(best + worst - patch_brings.sum().item()) < 1e-6
assert torch.allclose(right.removed, negated.kept.flip(1), atol=1e-6)

# %% [markdown]
# ## Deletion, on many images
#
# Choose a map under *shows*, and press *Test this map* at the bottom of the page: its patches are removed in the order
# of the map, in the reverse order, and in 20 random ones.

# %%
from vit_tutorial import live

live("cifar10")

# %% [markdown]
# One image, and any order of the methods is possible. So write it for a batch.


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
# **Why.** N patches make N + 1 points and N trapeziums of width 1/N. The softmax comes before the class is picked: a
# logit alone says nothing of the other classes.
#
# **The common wrong answer** takes the mean of the N + 1 values. It is near the area and not equal to it: the two ends,
# which are the same for every method, weigh too much.

# %% [markdown]
# Now 200 digits that the network classifies correctly, and the mean curve of each method (with the package's `perturb`,
# which does the same for deletion and insertion together):

# %%
from vit_tutorial.data import digits
from vit_tutorial.faithfulness import METHODS, perturb

small, small_card = load_checkpoint("digits")
test = digits("test")
everything = normalize(test.images, small_card.mean, small_card.std)  # (360, 1, 8, 8)
with torch.no_grad():
    answers = small(everything).argmax(1)
right = answers == test.labels
x, labels = everything[right][:200], test.labels[right][:200]
maps = maps_of_all_methods(small, x, labels)  # name -> (200, 4, 4)
curves = {name: perturb(small, x, heats, labels, steps=8) for name, heats in maps.items()}

# %%
few = ("random", "rollout", "grad_rollout", "legrad", "grad_cam")
plots.removal_curves(
    {
        "Best removed first (lower is better)": {m: curves[m].removed.mean(0).numpy() for m in few},
        "Best put back first (higher is better)": {m: curves[m].kept.mean(0).numpy() for m in few},
    },
    "share of the patches",
)

# %% [markdown]
# The broken line is dice. On the left rollout, which does not even know the class, falls at least as fast as gradient
# rollout, and LeGrad runs beside the dice. On the right rollout rises highest, and LeGrad's first two patches lower the
# answer. A surprise, after the collage. Keep it in mind.

# %% claim="LeGrad runs beside the dice"
falls = {m: found.scores["deletion"].mean().item() for m, found in curves.items()}
assert abs(falls["legrad"] - falls["random"]) < 0.03

# %% claim="On the left rollout, which does not even know the class, falls at least as fast as gradient rollout"
falls = {m: found.scores["deletion"].mean().item() for m, found in curves.items()}
assert falls["rollout"] < falls["grad_rollout"] - 0.002

# %% claim="On the right rollout rises highest"
rises = {m: curves[m].scores["insertion"].mean().item() for m in few}
assert rises.pop("rollout") > max(rises.values()) + 0.02

# %% claim="LeGrad's first two patches lower the answer"
kept = curves["legrad"].kept.mean(0)
assert kept[1] < kept[0] - 0.005

# %% [markdown] deeper=true
# ## Does it point at the right thing?
#
# A second test needs no removal. In a collage we know where each object is. We ask for one class: is the best patch in
# the right quarter? This is the **pointing game** (Zhang et al. 2016, arXiv 1608.00507). A random map scores one in
# four.

# %%
from vit_tutorial.faithfulness import collages, points_at

pasted, asked_for, places = collages(x, labels)  # four digits in one: (200, 1, 16, 16)
wide = small.resized((16, 16))
pointing = maps_of_all_methods(wide, pasted, asked_for)
hits = {method: points_at(heats, places).mean().item() for method, heats in pointing.items()}
for method, share in hits.items():
    print(f"{method:14} {share:.0%}")

# %% [markdown]
# Nobody is clearly above one in four: with 200 images, chance alone gives 19 to 31%. Are all maps of the digits wrong?
# Before blaming the maps, ask the network whether it sees the digits at all.
#
# **Predict.** How often does it name the digit that was asked for? (If it saw all four and had to choose: one time in
# four. If it guesses: one time in ten.)

# %% claim="Nobody is clearly above one in four: with 200 images, chance alone gives 19 to 31%."
assert all(0.17 < share < 0.33 for share in hits.values())

# %%
with torch.no_grad():
    names_it = (wide(pasted).argmax(1) == asked_for).float().mean().item()
print(f"alone: right {(small(x).argmax(1) == labels).float().mean():.0%}")
print(f"in the collage: names the one asked for {names_it:.0%}")

# %% [markdown]
# Alone it knows every one of these digits (that is how they were chosen); among others, on an image of twice the size,
# it guesses. A score of chance in this test can have two causes, the map and the network, and only a look at the
# answers tells which.
#
# Methods that do not know the class (random, the last layer, rollout) must stay at chance with *every* network: they
# give one map, whichever of the four is asked for.

# %% claim="Alone it knows every one of these digits"
with torch.no_grad():
    assert (small(x).argmax(1) == labels).all()

# %% claim="on an image of twice the size, it guesses"
assert names_it < 0.16


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


def interval(values):
    means = rng.choice(values, size=(2000, len(values))).mean(axis=1)
    return np.percentile(means, [2.5, 97.5])


# %%
for name in ("grad_cam", "rollout", "chefer", "grad_rollout"):
    values = deletion[name]
    low, high = interval(values)
    print(f"{name:12} {values.mean():.3f} ({low:.3f} to {high:.3f}), spread {values.std():.2f}")

# %% [markdown]
# They overlap. May we still say that one method is better on these digits?
#
# Images differ far more than methods do: `spread` is their standard deviation. It is in all four intervals, and it comes
# from the *same images*. So the sharper question is about the difference, image by image: its interval does not contain
# what the images have in common.

# %% claim="They overlap."
ends = [interval(deletion[name]) for name in ("grad_cam", "rollout", "chefer", "grad_rollout")]
assert max(low for low, _ in ends) < min(high for _, high in ends)

# %% claim="Images differ far more than methods do"
means = [deletion[name].mean() for name in ("grad_cam", "rollout", "chefer", "grad_rollout")]
assert np.std(deletion["rollout"]) > 3 * (max(means) - min(means))

# %%
gaps_grey, alike = {}, {}
for name, other in (("grad_cam", "rollout"), ("chefer", "grad_rollout")):
    gap = deletion[name] - deletion[other]  # image by image
    low, high = gaps_grey[name] = interval(gap)
    alike[name] = np.mean([*map(rank_correlation, maps[name], maps[other])])
    print(f"{name:8} less {other:12}: {gap.mean():.3f}, interval {low:.3f} to {high:.3f};", end=" ")
    print(f"ranks of the two maps correlate {alike[name]:.2f}")

# %% [markdown]
# Two overlapping intervals do not mean that nothing is known. The first difference leaves out 0: on these digits,
# rollout is better than Grad-CAM by this score. The second interval is much narrower, and 0 is inside: those two
# methods make nearly the same map (0.89), and nothing here tells them apart. The rule of this course: **a method is called
# better only if the interval of the difference, on the same images, leaves out 0.**

# %% claim="The first difference leaves out 0"
assert gaps_grey["grad_cam"][0] > 0.003

# %% claim="The second interval is much narrower, and 0 is inside"
assert np.ptp(gaps_grey["chefer"]) < 0.7 * np.ptp(gaps_grey["grad_cam"])
assert gaps_grey["chefer"][0] < 0 < gaps_grey["chefer"][1]

# %% claim="methods make nearly the same map (0.89)"
assert alike["chefer"] > 0.84
assert alike["grad_cam"] < 0.75

# %% [markdown] deeper=true
# ## The interval of a difference


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
# ## Nothing is something
#
# What *is* an image with nothing in it? So far: the mean colour everywhere. But the empty paper of a digit is far from
# its mean, so a "removed" patch of paper becomes *grey*: it gets ink.
#
# A Vision Transformer can do what an ordinary CNN cannot: leave a token out. Without the token nothing stands in its place, and
# the others keep their positions (Jain et al. 2022, arXiv 2204.08945, call what grey squares do *missingness bias*).
# In the package: `model(images, visible)`, with the numbers of the patches that stay.
#
# **Predict.** Every patch token is left out, so that CLS alone goes through the layers. What does each network say?

# %% claim="the empty paper of a digit is far from its mean"
assert 0.45 < (test.images == 0).float().mean() < 0.53
assert everything.min() < -0.7

# %%
nobody, nothing = torch.zeros(1, 0, dtype=torch.long), {}
for name, model, about, one in (
    ("photograph", vit, card, images),
    ("digit", small, small_card, x[:1]),
):
    with torch.no_grad():
        said = model(one, nobody).softmax(1)[0]
    nothing[name] = said.max().item(), about.classes[said.argmax()]
    print(f"{name:10} CLS alone: {nothing[name][0]:.0%} {nothing[name][1]}")

# %% [markdown]
# A network has no answer for "nothing". It has never seen it, and must say something: CLS alone makes it rather sure,
# of a bird or of an 8. So every way of removing is a choice, and a score is a score *with* it. How much hangs on the
# choice? First the cat, with twelve patches fewer, as above:

# %% claim="CLS alone makes it rather sure, of a bird or of an 8"
assert nothing["photograph"][1] == "bird"
assert nothing["photograph"][0] > 0.5
assert nothing["digit"][1] == "8"
assert nothing["digit"][0] > 0.6


# %%
def left_when_dropped(model, images, order, target, count):
    """Drop the tokens of the first `count` patches of orders (B, N): the target's probability."""
    with torch.no_grad():
        said = model(images, order[:, count:]).softmax(1)
    return said.gather(1, target[:, None])[:, 0]


is_cat = torch.tensor([cat])
dropped = [left_when_dropped(vit, images, order[None], is_cat, 12).item() for order in orders]
print(f"dice: grey squares leave {np.mean(by_dice):.0%}, dropped tokens {np.mean(dropped):.0%}")

# %%
by_map = {}
for m in ("rollout", "legrad", "grad_rollout"):
    by_map[m] = left_when_dropped(vit, images, patch_order(photo_maps[m]), is_cat, 12).item()
    print(f"{m:12} grey squares leave {cat_left[m]:.0%}, dropped tokens {by_map[m]:.0%}")

# %% [markdown]
# Twelve tokens dropped at random leave the cat with 58%, of 62% before. So on this photograph nearly all of what twelve
# grey squares did was done by the *squares*, which the photograph never had. Gradient rollout's
# twelve patches bring the cat down either way, to 1 and 3%. And without what rollout calls most important, the network
# is *surer* of its cat.

# %% claim="leave the cat with 58%, of 62% before"
assert 0.5 < np.mean(dropped) < 0.66
assert np.mean(dropped) > np.mean(by_dice) + 0.25
assert 0.56 < cat_left["whole"] < 0.67

# %% claim="Gradient rollout's twelve patches bring the cat down either way"
assert max(cat_left["grad_rollout"], by_map["grad_rollout"]) < 0.12

# %% claim="without what rollout calls most important, the network is *surer* of its cat"
assert by_map["rollout"] > cat_left["whole"] + 0.1

# %% [markdown]
# Now the digits: the same 200 images, the same maps, scored with grey squares and with dropped tokens.
#
# **Predict.** With grey squares rollout was level with gradient rollout, and LeGrad with dice. And now?

# %%
scores = {m: {"deletion, grey": deletion[m]} for m in METHODS}
for method, heats in maps.items():
    order, counts = patch_order(heats), range(0, 17, 2)  # equal numbers stand in a random order
    # the best n put back: the 16 - n worst dropped
    removed = [left_when_dropped(small, x, order, labels, n) for n in counts]
    kept = [left_when_dropped(small, x, order.flip(1), labels, 16 - n) for n in counts]
    scores[method] |= {
        "deletion, dropped": torch.trapezoid(torch.stack(removed), dx=1 / 8, dim=0).numpy(),
        "insertion, grey": curves[method].scores["insertion"].numpy(),
        "insertion, dropped": torch.trapezoid(torch.stack(kept), dx=1 / 8, dim=0).numpy(),
    }

# %%
higher = {metric: metric.startswith("insertion") for metric in scores["random"]}
table = []
for method, found in scores.items():
    for metric, values in found.items():
        gain = (values - scores["random"][metric]) * (1 if higher[metric] else -1)
        row = {"method": method, "metric": metric, "mean": values.mean()}
        row["low"], row["high"] = interval(values)
        row["gain_low"], row["gain_high"] = interval(gain)
        table.append(row)

# %%
plots.method_scores(table, higher, "200 digits; the band is what random maps score")

# %% [markdown]
# Filled and blue: better than random by our rule. Filled and orange: worse. Hollow: not told apart from dice. Only the
# way of removing has changed, and the order of the methods with it. LeGrad, beside the dice with grey squares, leaves
# them far behind. The differences, image by image:

# %% claim="LeGrad, beside the dice with grey squares, leaves them far behind."
row_of = {(row["method"], row["metric"]): row for row in table}
assert (
    row_of["legrad", "deletion, grey"]["gain_low"]
    < 0
    < row_of["legrad", "deletion, grey"]["gain_high"]
)
assert row_of["legrad", "deletion, dropped"]["gain_low"] > 0.2

# %%
gaps = {}
print("by how much b is better than a")
for a, b in (("random", "legrad"), ("rollout", "chefer"), ("rollout", "grad_rollout")):
    for metric in ("deletion, grey", "deletion, dropped", "insertion, grey"):
        gap = (scores[b][metric] - scores[a][metric]) * (1 if higher[metric] else -1)
        low, high = gaps[a, b, metric] = interval(gap)
        print(f"a {a:8} b {b:13} {metric:18} {gap.mean():+.3f} ({low:+.3f} to {high:+.3f})")

# %% [markdown]
# With dropped tokens all three differences leave out 0: LeGrad beats dice, and the two methods that know the class beat
# rollout. With grey squares deletion shows no difference in any of the three pairs, and by insertion rollout is *ahead*
# of both. Had we stopped above, we would have shown you that, with 200 images and intervals. (To drop tokens is no
# perfect nothing either: this network never missed one in training. What is to be believed holds in *several* ways of
# removing.)

# %% claim="With dropped tokens all three differences leave out 0"
assert min(low for (*_, metric), (low, _) in gaps.items() if metric[-7:] == "dropped") > 0.01

# %% claim="With grey squares deletion shows no difference in any of the three pairs"
for low, high in [gap for (*_, metric), gap in gaps.items() if metric == "deletion, grey"]:
    assert low < 0 < high

# %% claim="by insertion rollout is *ahead* of both"
for m in ("chefer", "grad_rollout"):
    assert gaps["rollout", m, "insertion, grey"][1] < -0.005

# %% [markdown]
# ## A thousand photographs
#
# The same for the photograph network, on 1,000 test images that it classifies correctly ({{results.faithfulness.data}}).
# Removed patches show the mean colour. In the **pointing game** (Zhang et al. 2016, arXiv 1608.00507) four images stand
# in one: is the best patch in the quarter that was asked for? By our rule, the differences decide:
#
# {{table.faithfulness.gain}}
#
# - **Chefer's rule and gradient rollout are ahead of rollout in every column.**
# - **In the pointing game the class decides.** Rollout and the last layer are not told apart from chance, although both
#   beat random clearly in deletion: they know what the network looks at, and not for what. LeGrad is ahead of all
#   others, although it is behind Chefer's rule in both other columns. "Method X is best" is a sentence about a network,
#   its data *and a question*.
# - **To know the class is not enough.** Grad-CAM does, and its pointing is not told apart from chance. By insertion it
#   is *worse* than dice, though by deletion it is better. A map may find a few patches that matter and misjudge the
#   rest.

# %% claim="Chefer's rule and gradient rollout are ahead of rollout in every column"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "faithfulness.json"
of = {(r["method"], r["baseline"]): r for r in json.loads(stored.read_text())["rows"]}
signs = {"deletion": -1, "insertion": 1, "positive_perturbation": -1, "negative_perturbation": 1}
for metric, sign in {**signs, "pointing_game": 1}.items():  # two intervals apart: 0 is left out
    inner, outer = ("low", "high")[::sign]
    for better, base in [(m, b) for m in ("chefer", "grad_rollout") for b in ("mean", "blur")]:
        gap = of[better, base][f"{metric}_{inner}"] - of["rollout", base][f"{metric}_{outer}"]
        assert sign * gap > 0, (better, metric, base)

# %% claim="LeGrad is ahead of all others, although it is behind Chefer's rule in both other columns."
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "faithfulness.json"
of = {(r["method"], r["baseline"]): r for r in json.loads(stored.read_text())["rows"]}
points = {m: (r["pointing_game_low"], r["pointing_game_high"]) for (m, _), r in of.items()}
low, _ = points.pop("legrad")
assert low > max(high for _, high in points.values())
signs = {"deletion": -1, "insertion": 1, "positive_perturbation": -1, "negative_perturbation": 1}
for metric, sign in signs.items():
    inner, outer = ("low", "high")[::sign]
    for base in ("mean", "blur"):
        gap = of["chefer", base][f"{metric}_{inner}"] - of["legrad", base][f"{metric}_{outer}"]
        assert sign * gap > 0, (metric, base)

# %% claim="Rollout and the last layer are not told apart from chance"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "faithfulness.json"
of = {(r["method"], r["baseline"]): r for r in json.loads(stored.read_text())["rows"]}
for method in ("rollout", "last_layer", "grad_cam"):
    row = of[method, "mean"]
    assert row["pointing_game_gain_low"] < 0 < row["pointing_game_gain_high"]
    assert row["deletion_gain_low"] > 0

# %% claim="By insertion it is *worse* than dice, though by deletion it is better."
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "faithfulness.json"
of = {(r["method"], r["baseline"]): r for r in json.loads(stored.read_text())["rows"]}
for base in ("mean", "blur"):
    row = of["grad_cam", base]
    assert row["insertion_gain_high"] < 0
    assert row["deletion_gain_low"] > 0

# %% [markdown] deeper=true
# ## Out of focus, and two more scores
#
# Does it hang on the grey? The same with removed patches that show the image out of focus, and with two more scores:
# **positive** and **negative** perturbation (Chefer et al. 2021, arXiv 2012.09838) are like deletion and insertion, but
# count only whether the answer is still right. (In the pointing game nothing is removed.)
#
# {{table.faithfulness.blur}}
#
# The three statements stand: Chefer's rule and gradient rollout are ahead of rollout in every column, LeGrad is behind
# both, and Grad-CAM is worse than dice by insertion and by negative perturbation.
#
# All of it took {{results.faithfulness.rows[0].seconds:.0f}} seconds. With `FULL = True` the next cell makes the
# part with the mean colour on CIFAR-10 itself: a download of 170 MB if it is not on this computer yet, and some minutes.

# %% claim="LeGrad is behind both, and Grad-CAM is worse than dice by insertion and by negative perturbation"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "faithfulness.json"
of = {r["method"]: r for r in json.loads(stored.read_text())["rows"] if r["baseline"] == "blur"}
signs = {"deletion": -1, "insertion": 1, "positive_perturbation": -1, "negative_perturbation": 1}
for metric, sign in signs.items():
    inner, outer = ("low", "high")[::sign]
    for better in ("chefer", "grad_rollout"):
        gap = of[better][f"{metric}_{inner}"] - of["legrad"][f"{metric}_{outer}"]
        assert sign * gap > 0, (metric, better)
assert of["grad_cam"]["insertion_gain_high"] < 0
assert of["grad_cam"]["negative_perturbation_gain_high"] < 0

# %%
FULL = False

# %%
if FULL:
    from IPython.display import display

    from vit_tutorial.data import cifar10
    from vit_tutorial.faithfulness import METRICS, faithfulness_table

    cifar = cifar10("test")
    chosen = torch.randperm(len(cifar), generator=torch.Generator().manual_seed(0))[:1500]
    pixels, truth = normalize(cifar.images[chosen], card.mean, card.std), cifar.labels[chosen]
    with torch.no_grad():
        seen = (vit(pixels).argmax(1) == truth).nonzero()[:1000, 0]
    full_table = faithfulness_table(vit, pixels[seen], truth[seen], on_collages=large)
    display(plots.method_scores(full_table, METRICS, f"{len(seen)} CIFAR-10 images"))

# %% [markdown]
# ## What attention does not prove
#
# Suppose a map is computed right, and shows a large weight on a patch. Is the patch important? Back to two tokens, with
# the weights 0.9 and 0.1, and what each brings:

# %%
weights, outputs = torch.tensor([0.9, 0.1]), []
for values in ([0.0, 5.0], [0.0, -5.0], [1.0, 1.0]):
    parts = [round(number, 2) for number in (weights * torch.tensor(values)).tolist()]
    outputs.append(sum(parts))
    print(f"map [0.9, 0.1], values {values}: parts {parts}, output {outputs[-1]:g}")

# %% [markdown]
# In the first two lines nine tenths of the attention go to a token that brings nothing. Values do not show in a map of
# weights: in the second line the answer has turned round, and the map has not moved.
#
# The other direction exists, too: **different maps, same output**. Three tokens with the values 0, 1, 2: the weights
# (½, 0, ½) and (0, 1, 0) both give 1. (The next section finds such maps in the network.) So a map of weights is not
# what the network *used*. It is one part of it (Jain & Wallace 2019, arXiv 1902.10186; in its defence, Wiegreffe &
# Pinter 2019, arXiv 1908.04626).
#
# **A map is a hypothesis. The test is an intervention**: change the image, and see whether the answer changes as the
# map says.

# %% claim="in the second line the answer has turned round"
assert outputs[0] == -outputs[1] != 0

# %% [markdown] deeper=true
# ## Different maps, same output
#
# In a network there are more tokens than numbers in a value. So we look, in every head, for other weights, still 0 or
# more and with the sum 1, that give CLS *exactly the same output*, with as little as possible on the patch that had
# the most. That is a linear programme, which SciPy solves.
#
# **Predict.** How much of its weight must the strongest patch keep?

# %%
from scipy.optimize import linprog

heads = card.config.num_heads


def least_weight(layer, head):
    """Weights (T,) of CLS, and others with the same output and the least on the strongest patch."""
    w = record.weights[layer][0, head, 0].double()
    strongest = 1 + w[1:].argmax().item()
    v = values_of[layer][0, :, head].double()  # (T, d)
    same = torch.cat([v.mT, torch.ones(1, len(w))]).numpy()  # the output, and the sum
    goal = np.eye(len(w))[strongest]
    found = linprog(goal, A_eq=same, b_eq=same @ w.numpy(), bounds=(0, None))
    return w, torch.tensor(found.x), strongest


# %%
values_of = []


def keep_values(module, inputs, out):
    values_of.append(out.chunk(3, dim=-1)[2].unflatten(-1, (heads, -1)))  # (B, T, h, d)


hooks = [block.attn.qkv.register_forward_hook(keep_values) for block in vit.blocks]
with torch.no_grad():
    vit(images)
for hook in hooks:
    hook.remove()

# %%
kept, pairs = np.zeros((len(vit.blocks), heads)), {}
for layer, head in np.ndindex(kept.shape):
    w, other, strongest = pairs[layer, head] = least_weight(layer, head)
    kept[layer, head] = other[strongest] / w[strongest]
print("the share that the strongest patch must keep; layers down, heads across")
print((100 * kept).round().astype(int))

# %% [markdown]
# It depends on the head. In four heads of the first three layers the strongest patch may go to 0, and the network would
# never know. In the last layer three of four heads must keep more than 90%: no blend of the others gives the same
# output. There the map is pinned down, by the *values*, which do not show in it. Head 0 of layer 2, as it is and as it
# could be:

# %% claim="In four heads of the first three layers the strongest patch may go to 0"
assert (kept[:3] < 1e-6).sum() == 4
assert (kept[3:] > 0.2).all()

# %% claim="In the last layer three of four heads must keep more than 90%"
assert (kept[-1] > 0.85).sum() == 3

# %%
w, other, strongest = pairs[2, 0]
both = [heat[1:].view(rows, columns).float() for heat in (w, other)]
moved = (w - other).abs().sum().item() / 2
print(f"{moved:.0%} of the weight has moved, rank correlation {rank_correlation(*both):.2f}")
side_by_side(both, ["what CLS attends to", "what it could, for the same output"])

# %% [markdown]
# Two maps that would be explained by two different stories, and the same output to the last digit. (Weights that solve
# our programme need not be ones that some query and some keys can make.)

# %% claim="Two maps that would be explained by two different stories"
assert moved > 0.3
assert rank_correlation(*both) < 0.6

# %% claim="the same output to the last digit"
v = values_of[2][0, :, 0].double()
assert ((w - other) @ v).abs().max() < 1e-6

# %% [markdown]
# ## A network whose answers are random
#
# One more test, which needs no images with known answers (Adebayo et al. 2018, arXiv 1810.03292). Put random numbers
# into parts of the network, and see which maps notice: into the classifier alone, into all blocks. Four times each,
# with other seeds. First, what has it done to the network?


# %%
def with_random(model, parts, seed):
    """Return a copy with random numbers, of the same spread, in some of its parts."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for part in parts(model):
        for parameter in part.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data = drawn * parameter.data.std()
    return model


def digits_right(model):
    with torch.no_grad():
        return (model(everything).argmax(1) == test.labels).float().mean().item()


others = {
    "classifier": [with_random(small, lambda model: [model.head], seed) for seed in range(4)],
    "all blocks": [with_random(small, lambda model: model.blocks, seed) for seed in range(4)],
}

# %%
share_right = {name: [*map(digits_right, models)] for name, models in others.items()}
for name, shares in share_right.items():
    print(f"{name} random:", *(f"{share:4.0%}" for share in shares), "of the digits correct")

# %% [markdown]
# The answers mean nothing: no more than one in eight is correct. (With a random classifier 1% is less than guessing: the digits
# are still told apart, their names are mixed up.) Now the maps of 60 digits before and after, the mean of the four;
# in the last column, for comparison, those of two *different* digits in the intact network.

# %% claim="The answers mean nothing: no more than one in eight is correct."
assert max(max(shares) for shares in share_right.values()) <= 0.13

# %%
x60, labels60 = x[:60], labels[:60]
before = maps_of_all_methods(small, x60, labels60)


def agreement(models):
    """For each method, how far the maps of each network order patches as before: {method: list}."""
    after = [maps_of_all_methods(model, x60, labels60) for model in models]
    return {
        m: [np.mean([*map(rank_correlation, before[m], heats[m])]) for heats in after]
        for m in METHODS
    }


agree = {name: agreement(models) for name, models in others.items()}
agree["another digit"] = {
    m: [np.mean([*map(rank_correlation, heats, heats.roll(1, 0))])] for m, heats in before.items()
}

# %%
print(f"{'rank correlation':16}", *(f"{name:>13}" for name in agree))
for method in METHODS:
    print(f"{method:16}", *(f"{np.mean(of[method]):13.2f}" for of in agree.values()))
print("rollout, all blocks, each:", *(f"{value:.2f}" for value in agree["all blocks"]["rollout"]))

# %% [markdown]
# - **Random classifier**: the last layer's attention and rollout are the same to the bit, for they never saw it. A map
#   that stays when the answers become nonsense does not explain the answers. All methods with gradients change.
# - **All blocks**: of the methods with gradients nearly nothing is left. Of rollout there is, from 0.19 to 0.41. That
#   sounds like a map of *this* digit, until one looks at the last column: two different digits have 0.43 in common.
#   Rollout has favourite places, whatever is written there.
#
# "random" is the same everywhere, of course: it never asks the network. To change is necessary, and not sufficient:
# dice with a new seed would pass this test, too.

# %% claim="the last layer's attention and rollout are the same to the bit"
for model in others["classifier"]:
    now = maps_of_all_methods(model, x60, labels60)
    assert torch.equal(before["rollout"], now["rollout"])
    assert torch.equal(before["last_layer"], now["last_layer"])

# %% claim="All methods with gradients change."
assert max(max(agree["classifier"][m]) for m in METHODS[3:]) < 0.6

# %% claim="of the methods with gradients nearly nothing is left"
assert max(abs(np.mean(agree["all blocks"][m])) for m in METHODS[3:]) < 0.12

# %% claim="Of rollout there is, from 0.19 to 0.41."
assert 0.12 < min(agree["all blocks"]["rollout"]) < 0.26
assert 0.34 < max(agree["all blocks"]["rollout"]) < 0.48

# %% claim="two different digits have 0.43 in common"
assert 0.33 < agree["another digit"]["rollout"][0] < 0.53

# %% [markdown] deeper=true
# ## One block of four
#
# **Predict.** Random numbers in the last block alone. How many digits does the network still get right?

# %%
last = [with_random(small, lambda model: [model.blocks[-1]], seed) for seed in range(4)]
share_right["last block"] = [*map(digits_right, last)]
agree["last block"] = agreement(last)
print(f"intact {digits_right(small):.0%}; last block random:", end="")
print(*(f"{share:4.0%}" for share in share_right["last block"]))
for method, values in agree["last block"].items():
    print(f"{method:16} {min(values):5.2f} to {max(values):5.2f}")

# %% [markdown]
# Did you expect a ruin? It is 96%, where it had 97%: this network hardly needs its last block. What should a map do
# then? The methods disagree. Of those that join all layers, rollout and LeGrad stay (0.96 and 0.97), Chefer's rule and
# gradient rollout fall to 0.6; of the last layer's attention nothing is left. Nothing here says which is right: equal
# answers may come by another way. But who shows the last layer's attention shows a block that this network hardly
# needs.

# %% claim="It is 96%, where it had 97%: this network hardly needs its last block."
assert 0.96 < digits_right(small) < 0.98
assert min(share_right["last block"]) > 0.94

# %% claim="rollout and LeGrad stay (0.96 and 0.97)"
assert min(agree["last block"]["rollout"] + agree["last block"]["legrad"]) > 0.9

# %% claim="Chefer's rule and gradient rollout fall to 0.6"
fallen = agree["last block"]["chefer"] + agree["last block"]["grad_rollout"]
assert 0.5 < min(fallen)
assert max(fallen) < 0.7

# %% claim="of the last layer's attention nothing is left"
assert max(map(abs, agree["last block"]["last_layer"])) < 0.2

# %% [markdown]
# ## What we now have
#
# | what | shape |
# |---|---|
# | weights, gradients, one for each layer | (B, h, T, T) |
# | rollout, or Chefer's R, whole | (B, T, T) |
# | a map | (B, rows, columns) |
# | an order of removal | (B, N) |
# | scores: deletion, insertion, ... | (B,), then a mean and an interval |
# | pointing game | (B,): 1, 0, or a share where several patches are best |
#
# A map is tested in this order: laws (does it compute what it says?), random parts (does it depend on what it
# explains?), removal, in more than one way, against chance (is it true?), and an interval for each difference.

# %% [markdown] deeper=true
# ## The questions people ask
#
# **"Which method should I use?"** The one that wins on *your* network, your data and your question; it takes minutes.
# And ask which methods cannot be told apart from the winner. On the digits, tokens dropped:

# %%
first = {}
for metric in ("deletion, dropped", "insertion, dropped"):
    sign = 1 if higher[metric] else -1
    values = {m: sign * found[metric] for m, found in scores.items()}
    winner = max(values, key=lambda m: values[m].mean())
    level = [m for m in values if interval(values[winner] - values[m])[0] <= 0 and m != winner]
    first[metric] = {winner, *level}
    print(f"{metric}: {winner}; not told apart from it: {', '.join(level) or 'none'}")

# %% [markdown]
# Chefer's rule and gradient rollout share the first place in both.
#
# **"Can I show one picture as evidence?"** As an illustration, yes. As evidence: on how many single images does a map of dice beat the method?

# %% claim="Chefer's rule and gradient rollout share the first place in both."
assert all({"chefer", "grad_rollout"} <= methods for methods in first.values())

# %%
dropped = {m: found["deletion, dropped"] for m, found in scores.items()}
lost = {m: (dropped["random"] < dropped[m]).mean() for m in ("rollout", "chefer", "legrad")}
for method, share in lost.items():
    print(f"dice beat {method:8} on {share:.0%} of the images")

# %% [markdown]
# Even of the best methods, dice win on some images. Somebody who shows you one picture has chosen it. Ask for the mean
# over many, chosen before anybody looked.
#
# **"Does a sharp map mean that the network is sure?"** Sharpness is measured by entropy (lesson 04), sureness by the
# probability of the answer:

# %% claim="Even of the best methods, dice win on some images."
assert 0.01 < min(lost.values())
assert max(lost.values()) < 0.4

# %%
with torch.no_grad():
    sure = small(x).softmax(1).amax(1)
sharp = {}
for method in ("last_layer", "rollout", "chefer", "legrad"):
    shares = maps[method].flatten(1) / maps[method].flatten(1).sum(1, keepdim=True).clamp_min(1e-12)
    sharp[method] = rank_correlation(-torch.special.entr(shares).sum(1), sure)
    print(f"{method:10} sharpness and sureness: rank correlation {sharp[method]:+.2f}")

# %% [markdown]
# With 200 images, chance alone gives a rank correlation between −0.14 and 0.14 in 95% of cases. All four lie inside: on
# these digits, all of them classified correctly, no connection is shown.
#
# **"Do maps of wrong answers tell why they are wrong?"** They tell which patches spoke for the wrong class. We can test
# it: remove a quarter of the patches, the best ones for the wrong answer, and see whether the right one comes through.

# %% claim="All four lie inside"
assert max(abs(value) for value in sharp.values()) < 0.14

# %%
mistaken = answers != test.labels
bad, said, truth = everything[mistaken], answers[mistaken], test.labels[mistaken]
mended, given_up = {}, {}
for method, heats in maps_of_all_methods(small, bad, said).items():
    with torch.no_grad():
        now = small(bad, patch_order(heats)[:, 4:]).argmax(1)  # their tokens dropped
    mended[method] = (now == truth).sum().item()
    given_up[method] = (now != said).sum().item()
    print(f"{method:14} {given_up[method]:2} given up, {mended[method]} put right, of {len(bad)}")

# %% [markdown]
# Chefer's rule makes the network give up all eleven wrong answers, dice four. To make it say the right one is harder:
# five at most. "Which patches" is not "why": a map has no word for "the stroke is too short here". And eleven mistakes
# are no basis for more than this.

# %% claim="Chefer's rule makes the network give up all eleven wrong answers, dice four."
assert len(bad) == 11
assert given_up["chefer"] >= 10
assert given_up["random"] <= 6

# %% claim="five at most"
assert max(mended.values()) <= 6

# %% [markdown] deeper=true
# ## A stretch
#
# - Write `my_law` for Chefer's rule: which laws of rollout does it keep, and which does it break on purpose?
# - Removing one patch at a time and looking which changes the answer most gives an order, too: N + 1 passes, no
#   attention at all. Score it by deletion on the digits beside the seven methods. Does any map of attention beat it?
# - Train two networks on the digits that differ only in the seed (lesson 07). How far do their rollout maps agree? Is
#   that more or less than two *methods* on one network?
