# %% [markdown]
# # 08 · Looking inside
#
# **Every head of every layer looks somewhere. Where, and how much of what it sees reaches the answer?**
#
# In lesson 04 you took one head apart. A network has many, in layers one above the other, and what a late layer
# finds in a token is no longer the patch that the token started from. This lesson looks at all heads at once,
# measures them, and then follows attention through all layers, from the answer back to the patches.
#
# **You will**
#
# - read the attention of a whole network, from any token and in both directions,
# - explore photographs, yours too, in this network and in others,
# - measure how far each head looks, and among how many tokens it shares,
# - redraw the three figures with which the ViT paper looked inside, for our network,
# - follow attention through all layers by hand, and prove what such a map is exact for and what it leaves out,
# - see what it does to a map to join heads by their maximum, or to throw small weights away.

# %% [markdown]
# ## All heads at once
#
# Chelsea the cat again (photograph by Stéfan van der Walt, public domain), or a picture of yours. The network gets
# the square in its middle at 32×32 pixels. `view` is the same square for our eyes; `seen` knows where its patches
# lie.

# %%
import copy

import numpy as np
import torch
from einops import rearrange
from skimage import data as photographs
from torch.testing import assert_close

from vit_tutorial import fit_image, load_checkpoint, normalize, open_image, plots, record_attention

MY_PHOTO = ""  # for example "my_dog.jpg"

vit, card = load_checkpoint("cifar10")
photo = open_image(MY_PHOTO or photographs.chelsea())
fitted = fit_image(photo, 32)
images = normalize(fitted.pixels[None], card.mean, card.std)  # (1, 3, 32, 32), for the network
view = np.asarray(fitted.view().resize((160, 160)))  # for us
seen = fit_image(view, 32)
record = record_attention(vit, images)

# %%
depth, num_heads = len(record.weights), record.weights[0].shape[1]
rows, columns = record.grid
even = 1 / record.num_tokens  # the weight of a token if all got the same
answer = record.logits[0].softmax(dim=0)
print(f"{depth} layers of {num_heads} heads, {record.num_tokens} tokens: CLS and {rows}×{columns}")
print(f"it says {card.classes[answer.argmax()]}, {answer.max():.0%}")

# %% [markdown]
# In the end the answer is read from the CLS token (lesson 06). So let us begin with its rows: what CLS attends to,
# in each head.
#
# **Predict.** Will the heads of one layer look at the same places? Will late layers look elsewhere than early
# ones?


# %%
def heads_from(token):
    """What one token attends to among the patches: (layers, heads, rows, columns)."""
    each = torch.stack([weights[0, :, token, 1:] for weights in record.weights])
    return each.unflatten(-1, record.grid)


maps = heads_from(0)
names = [f"layer {n}" for n in range(depth)], [f"head {n}" for n in range(num_heads)]
plots.map_grid(view, maps.numpy(), *names, "What CLS attends to")

# %% [markdown]
# Every head has places of its own. Be careful with such a picture, though: each map has a scale of its own,
# so bright says *where* and never *how much*. How much is a number:

# %%
print(f"an even share is {even:.1%}; CLS gives the patch that it likes best")
for layer, most in enumerate(maps.amax(dim=(2, 3))):  # (heads,)
    print(f"layer {layer}:", "  ".join(f"{share:5.1%}" for share in most.tolist()))

# %% [markdown]
# Now other tokens ask. Take two rows of one table, those of two queries. Which share of the attention goes
# somewhere else? Half the sum of the absolute differences is that share: 0 if both rows are equal, 1 if they have
# no key in common.


# %%
def difference(tables):
    """Which share of attention differs between two queries, on average: (..., T, T) -> (...)."""
    T = tables.shape[-1]
    return torch.cdist(tables, tables, p=1).sum(dim=(-1, -2)) / 2 / (T * (T - 1))


by_hand = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
print("pairs differ by 0.5, 0 and 0.5, mean", round(difference(by_hand).item(), 3))

# %% [markdown]
# **Predict.** A head has one set of weights for its queries. Will it give all tokens the same map, or each its
# own?

# %%
differ = torch.stack([difference(weights[0]) for weights in record.weights])  # (layers, heads)
for layer, shares in enumerate(differ):
    print(f"layer {layer}:", "  ".join(f"{share:4.0%}" for share in shares))

# %% [markdown]
# Here are the heads with the highest and the lowest of these numbers, asked by the same two patches (outlined).

# %%
extremes = {"most": differ.argmax(), "least": differ.argmin()}
patches, maps = [(3, 2), (6, 6)], {}
for name, place in extremes.items():
    layer, head = divmod(int(place), num_heads)
    for row, column in patches:
        title = f"{name}, from ({row}, {column}):\nlayer {layer}, head {head}"
        maps[title] = heads_from(record.token((row, column)))[layer, head].numpy() / even
plots.position_maps(maps, marks=2 * patches, unit="× an even share")

# %% [markdown]
# In a head with a high number it matters who asks. In a head with a low one everybody takes from nearly the same
# patches, whoever asks: it is one map for the whole picture.
#
# ## Column 0
#
# A row has T numbers, one for each token, and the map shows N of them, one for each patch. The one that is missing
# is column 0: what the token takes from CLS. CLS has no place in the picture, so there is nowhere to draw it. It
# has been left out, not shared out: what you see does not add up to 1.
#
# **Predict.** How much is it: nothing, about an even share, or most of the row?

# %%
print(f"an even share is {even:.1%}")
for layer, weights in enumerate(record.weights):
    to_cls = weights[0, :, :, 0].mean(dim=0)  # (T,): mean over heads
    print(f"layer {layer}: CLS takes {to_cls[0]:5.1%} from CLS, a patch {to_cls[1:].mean():5.1%}")

# %% [markdown]
# That is the part of each row that a map does not show. It can be any share, up to the whole row, and then the map
# is made of the little that is left. So look at this number first.
#
# That column has a map of its own. Turn the question round: who reads CLS? For CLS is not only the place where the
# answer is collected. What it has gathered by layer 2 it hands out in layer 3 to whoever asks.

# %%
readers = {f"layer {n}": w[0, :, 1:, 0].mean(dim=0) / even for n, w in enumerate(record.weights)}
maps = {name: values.reshape(rows, columns).numpy() for name, values in readers.items()}
plots.position_maps(maps, unit="× an even share")

# %% [markdown]
# A row adds up to 1, because a softmax made it. A column need not: one token may be read by everybody, and another
# by nobody.
#
# Which of all these numbers count for the answer? Ask the gradient: by how much would the logit of the class
# change if one weight changed a little? `gradients_of` asks for that, weight by weight.
#
# **Predict.** Row 0 is one row of many. Which share of the gradient lies in it, in the first layer and in the
# last?

# %%
graded = record_attention(vit, images, gradients_of=int(answer.argmax()))
for layer, gradient in enumerate(graded.gradients):  # (1, h, T, T)
    by_query = gradient[0].abs().sum(dim=(0, 2))  # (T,)
    print(f"layer {layer}: {by_query[0] / by_query.sum():6.1%} of it in the row of CLS")

# %% [markdown]
# **In the last layer only the row of CLS counts.** The answer is read from CLS, and what the patches collect there
# is never read again. In the layers before, what a patch collects can still be handed on, and so the other rows
# count as well. The row of CLS is the whole story in the last layer, and a part of it in any other.


# %% exercise="08.1"
def my_head_map(weights, head, query, grid, num_prefix):
    """What one patch attends to in one head, as a map of the patches.

    weights: (B, h, T, T), of one layer; first the tokens before the patches, then the patches, row by row.
    head: from 0. query: (row, column) of the patch that asks.
    grid: (rows, columns) of patches, not always square.
    num_prefix: how many tokens there are before the patches: 0, 1 (CLS) or more.
    Returns (B, rows, columns), where an even share of all T tokens is 1.
    """
    ### BEGIN SOLUTION
    token = num_prefix + query[0] * grid[1] + query[1]
    row = weights[:, head, token, num_prefix:]  # (B, N)
    return row.reshape(-1, *grid) * weights.shape[-1]
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("08.1", my_head_map)
# hint("08.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** The prefix comes in twice: it moves the query's token, and it is cut off the keys. The unit makes heads
# comparable, also those of networks with other numbers of tokens: 1 is an even share, 5 is five times that.
#
# **The common wrong answer** scales each map to its own sum or maximum. That is fine for a picture, and it hides
# how much went to the tokens that are not drawn. The other one takes the column, which is who reads the patch.

# %% [markdown]
# ## Play
#
# Every head, every layer, every query is far too much for still pictures. So here is an instrument. Point at a
# patch, and you see what it attends to, in the head that you have chosen and, small, in all others.
#
# | key | what it does |
# |---|---|
# | pointer, arrow keys | look from any patch; a click holds it |
# | C | look from CLS |
# | [ and ] | the layer before, the layer after |
# | , and . | the head before, the head after |
# | H, M, R | one head, the mean of the heads, rollout (see below) |
# | P | pin a patch, and compare others with it |
#
# Everything runs in your browser. "Direction" turns the question round: who attends to this patch?
#
# **Look for**: a head that stays near the patch that asks; one that looks at the same place whoever asks; one that
# follows the eyes; one that you cannot explain. Most people find many of the last kind.

# %%
from vit_tutorial import AttentionExplorer

explorer = AttentionExplorer(vit, photo, card, name=MY_PHOTO or "chelsea")
explorer

# %% [markdown]
# One of its views as a still picture, the mean over the heads of the last layer, seen from CLS. `save_html` writes
# the whole instrument as one file that needs no Python and no network: `explorer.save_html("chelsea.html")`.

# %%
explorer.figure(show="mean", layer=depth - 1, query=0)

# %% [markdown]
# ## How far does a head look?
#
# Pictures show one image at a time. To say what a head *does*, we need numbers that can be averaged over many
# images. The ViT paper (Dosovitskiy et al. 2020, arXiv 2010.11929, figure 7) takes the **attention distance**: how
# far away, on average, are the patches that a patch attends to? Each is counted with its weight.
#
# By hand: three patches in a row, 0, 1 and 2. Patch 0 gives itself 0.5, its neighbour 0.25, and the far one 0.25.
# Its distance is 0.5 · 0 + 0.25 · 1 + 0.25 · 2 = 0.75 patches.
#
# **Predict.** What are the other two, and the mean?

# %%
small = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
for i, row in enumerate(small):
    parts = [f"{row[j]:g}·{abs(i - j)}" for j in range(3)]
    total = sum(row[j] * abs(i - j) for j in range(3))
    print(f"patch {i}: {' + '.join(parts)} = {total:g}")

# %% [markdown]
# On a grid, a distance is a straight line: √(rows apart² + columns apart²). In a loop:


# %%
def distance_loop(weights, grid):
    """Attention distance of one head: (N, N) -> a number, in patches."""
    total = 0.0
    for i in range(len(weights)):
        for j in range(len(weights)):
            (r, c), (s, d) = divmod(i, grid[1]), divmod(j, grid[1])
            total += weights[i, j].item() * ((r - s) ** 2 + (c - d) ** 2) ** 0.5
    return total / len(weights)  # the mean over queries


print(f"{distance_loop(small, (1, 3)):.4f}")

# %% [markdown]
# All pairs at once: `cdist` gives the table of all distances, and the rest is one product and one sum.

# %%
from vit_tutorial.positions import patch_coordinates

places = patch_coordinates((1, 3))  # (N, 2)
between = torch.cdist(places, places)  # (N, N)
print((small * between).sum(dim=-1).mean().item())

# %% [markdown]
# One question is open. CLS has no place, so it can have no distance. Then what is left of a row does not add up to
# 1, and a head that gives half of its attention to CLS would look twice as near as it is. So each row is divided
# by what it gives to patches. The package's definition, for all layers and heads of a record:

# %%
from torch import Tensor

from vit_tutorial.attention import _equal_heads
from vit_tutorial.recording import RecordedAttention, upcast

# %% definition="vit_tutorial.attention.attention_distance"

# %% [markdown]
# **Proof**, against the loop, on a grid that is not square, with a CLS token and in float64:

# %%
torch.manual_seed(0)
random = torch.rand(2, 3, 13, 13, dtype=torch.float64).softmax(dim=-1)  # (B, h, T, T), T = 1 + 3·4
patches = random[:, :, 1:, 1:] / random[:, :, 1:, 1:].sum(dim=-1, keepdim=True)
expected = [[distance_loop(table, (3, 4)) for table in image] for image in patches]
found = attention_distance(RecordedAttention([random], grid=(3, 4), num_prefix=1))
assert_close(found[0], torch.tensor(expected, dtype=torch.float64).mean(dim=0))

# %% [markdown]
# A number needs landmarks. A head that looks at its own patch only has distance 0. A head that looks **everywhere
# alike** has the mean distance of all pairs. In one row of n patches that is (n² − 1) / (3n).
#
# **Predict.** For 8×8 patches: nearer to 2, to 4 or to 6?

# %%
itself = RecordedAttention([torch.eye(9).expand(1, 1, 9, 9)], grid=(3, 3), num_prefix=0)
print("own patch only:", attention_distance(itself).item())
n = 3
places = patch_coordinates((1, n))
print("1×3:", torch.cdist(places, places).mean().item(), "=", (n**2 - 1) / (3 * n))
places = patch_coordinates(record.grid)
everywhere = torch.cdist(places, places).mean().item()
print(f"{rows}×{columns}: {everywhere:.2f} patches")

# %% [markdown]
# The second number for a head you know from lesson 04: the entropy H of its weights, read as $e^H$, **the number
# of tokens among which it shares**. 1 if all goes to one, T if all get the same.


# %% exercise="08.2"
def my_shared_among(weights):
    """Among how many tokens each head shares, in effect.

    weights: (B, h, T, T), rows that add up to 1; some weights may be exactly 0.
    For each query e to the power of its entropy; then the mean over images and queries.
    Returns (h,).
    """
    ### BEGIN SOLUTION
    entropy = torch.special.entr(weights).sum(dim=-1)  # (B, h, T); entr(0) = 0
    return entropy.exp().mean(dim=(0, 2))
    ### END SOLUTION


# %%
check("08.2", my_shared_among)
# hint("08.2")

# %% [markdown] solved_only=true
# **Why.** 0 · ln 0 is NaN in floats and 0 in the limit; `torch.special.entr` knows. (`torch.xlogy` does, too.)
#
# **The common wrong answer** adds a small number inside the logarithm, `(w + 1e-6).log()`. It hides the NaN, and
# shifts every number a little. Or it averages first and takes the exponential last: that gives another mean, the
# geometric one, which is always smaller. Both are in use; say which you mean. (`attention_entropy`, of the
# package, gives the mean of H itself.)


# %% exercise="08.3"
def my_attention_distance(weights, grid, num_prefix):
    """How far each head looks, in patches.

    weights: (B, h, T, T); the first num_prefix tokens have no place: they count neither as
    queries nor as keys, and what a patch gives to patches counts as its whole attention.
    grid: (rows, columns), not always square.
    Returns (h,): the mean over images and patches.
    """
    ### BEGIN SOLUTION
    places = patch_coordinates(grid).to(weights)  # (N, 2)
    between = (places[:, None] - places).norm(dim=-1)  # (N, N)
    patches = weights[:, :, num_prefix:, num_prefix:]
    patches = patches / patches.sum(dim=-1, keepdim=True)
    return (patches * between).sum(dim=-1).mean(dim=(0, 2))
    ### END SOLUTION


# %%
check("08.3", my_attention_distance)
# hint("08.3")

# %% [markdown] solved_only=true
# **Why.** Both coordinates of every patch, all differences by broadcasting, the length of each difference. After
# that it is a weighted mean.
#
# **The common wrong answer** subtracts patch *numbers*. In a grid of 8 columns the patch below is then eight away.
# The other one forgets to divide by what is left without CLS, and calls heads local that only look at CLS.

# %% [markdown]
# Now all heads of the trained network, over 64 pieces of four photographs (chelsea, astronaut, coffee and rocket:
# Stéfan van der Walt, NASA, Rachel Michetti, SpaceX; public domain or CC0). Beside it a network of the same size
# that has learned nothing.
#
# **Predict.** Where will the dots of the untrained network lie? And in the trained one: which layers look near,
# which far?

# %%
from vit_tutorial import VisionTransformer
from vit_tutorial.attention import attention_entropy

names = ("chelsea", "astronaut", "coffee", "rocket")
large = [fit_image(getattr(photographs, name)(), 128).pixels for name in names]
pieces = rearrange(torch.stack(large), "b c (r p) (s q) -> (b r s) c p q", p=32, q=32)
pieces = normalize(pieces, card.mean, card.std)  # (64, 3, 32, 32)
torch.manual_seed(0)
fresh = VisionTransformer(vit.config).eval()
many = record_attention(vit, pieces)
records = {"trained": many, "untrained": record_attention(fresh, pieces)}

# %%
far = {name: attention_distance(one).numpy() for name, one in records.items()}
among = {name: attention_entropy(one).exp().numpy() for name, one in records.items()}  # e^(mean H)
panels = {"attention distance, in patches": far, "shared among how many tokens": among}
values = (everywhere, float(record.num_tokens))
landmarks = {name: {"all alike": value} for name, value in zip(panels, values, strict=True)}
plots.head_dots(panels, landmarks)

# %% [markdown]
# - **Untrained heads look everywhere alike.** Their weights are almost even, so both numbers are those of a plain
#   average. Whatever differs from them has been *learned*.
# - **Training has made every head choosier**: on the right all of its dots lie lower.
# - **Near and far**: the heads that look nearest are in the first half of the network, those that look farthest in
#   its last two layers.
#
# In the paper's network, which is far larger, some heads of the first layers look near and others across most of
# the image already, and the distance rises with depth until nearly all of them look far. (The paper measures in
# pixels: patches times patch size.) Ours is small, and the same tendency shows, much weaker.
#
# Numbers find what the eye would search for long. Here is the head that looks nearest and the one that looks
# farthest, each asked by two patches (outlined), as a mean over all 64 pieces.

# %%
trained, maps = attention_distance(many), {}
for name, place in {"nearest": trained.argmin(), "farthest": trained.argmax()}.items():
    layer, head = divmod(int(place), num_heads)
    for patch in ((2, 2), (6, 5)):
        mean = many.weights[layer][:, head, many.token(patch), 1:].mean(dim=0)
        title = f"{name}, from {patch}:\nlayer {layer}, head {head}"
        maps[title] = mean.reshape(rows, columns).numpy() / even
plots.position_maps(maps, marks=2 * [(2, 2), (6, 5)], unit="× an even share")

# %% [markdown]
# ## The paper's three figures
#
# With three figures the ViT paper looked inside its network (figure 7 there): the filters of the patch embedding,
# the similarity of the positions, and the attention distance. The third you have just drawn. The first two you
# know from lessons 02 and 03; here they are, for our network, in short.
#
# **The filters.** Their first principal components, and how much of the variance of all filters each makes up.
# (Variance: from each filter the mean of all filters is subtracted.)
#
# **Predict.** In the untrained network filters are random numbers. How will its curve look beside the trained one?


# %%
def principal(filters, count=16):
    """Principal components of filters (D, C, P, P), and the share of the variance of each."""
    flat = filters.flatten(1)  # (D, C·P·P)
    _, sizes, components = torch.linalg.svd(flat - flat.mean(dim=0), full_matrices=False)
    shares = sizes**2 / (sizes**2).sum()
    return components[:count].unflatten(1, filters.shape[1:]), shares[:count].numpy()


components, shares = principal(vit.patch_embed.proj.weight.detach())
_, by_chance = principal(fresh.patch_embed.proj.weight.detach())
plots.component_shares(components.numpy(), {"trained": shares, "untrained": by_chance})

# %%
print(f"the first 14 components: {shares[:14].sum():.0%} of the variance")
print(f"in the untrained network: {by_chance[:14].sum():.0%}")

# %% [markdown]
# The trained curve begins higher: a dozen patterns have been learned, and behind them the random start is still
# there. In the paper's figure, of a far larger network, the components are smooth waves in all directions, which
# together can describe any small piece of a picture. Ours go the same way, as far as 50,000 small images carry
# them.
#
# **The positions.** How alike are the learned vectors of two places? Lesson 03 showed the maps, and the twins on
# the other side of the picture; now only the means, by distance:

# %%
from vit_tutorial.positions import position_similarity

alike = position_similarity(vit.pos_embed, num_prefix=1)  # (N, N)
apart = torch.cdist(places, places)
for low, high in ((0.5, 1.2), (1.2, 2.5), (2.5, 4.5), (4.5, 99)):
    chosen = (apart > low) & (apart < high)
    print(f"{apart[chosen].mean():.1f} patches apart: mean similarity {alike[chosen].mean():5.2f}")

# %% [markdown]
# Near is alike, far is not, as in the paper. Nobody told the network which positions are neighbours.
#
# ## From the last layer down to the patches
#
# So far we looked at one layer at a time. But what does a head of the last layer see at "patch (3, 2)"? A *token*
# that has been through all layers before, and in each of them has taken from others. Perhaps that token now holds
# more of the cat's ear than of its own patch. **A map of a late layer tells which tokens are read, not which
# patches.** To get to the patches we have to go down through all the layers.
#
# By hand: three tokens, CLS, a and b, and two layers. In layer 0 token a looks at b, and the other two look at
# themselves. In layer 1 CLS looks at a, and the others look at themselves.

# %%
layer_0 = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 1]])  # rows ask, columns are read: CLS, a, b
layer_1 = torch.tensor([[0.0, 1, 0], [0, 1, 0], [0, 0, 1]])

# %% [markdown]
# In lesson 05 you saw that no layer replaces a token: each *adds* to the stream. So after a layer, a token is
# partly what it was, and partly what it has taken. As a first guess, half and half: with A the table of a layer
# and I the identity (the table in which everybody looks at themselves), its effect is
#
# $$A' = \tfrac{1}{2} A + \tfrac{1}{2} I.$$
#
# Now follow CLS back, step by step. In each layer half of what arrives has stayed, the other half came along the
# attention. There are 2 · 2 = 4 paths, each with a quarter of the whole.
#
# **Predict.** After both layers, how much of CLS comes from CLS, from a, and from b? (CLS never looked at b!)

# %%
identity = torch.eye(3)
mixed = torch.stack([(layer_0 + identity) / 2, (layer_1 + identity) / 2])
plots.token_paths(mixed.numpy(), query=0, names=["CLS", "a", "b"])

# %% [markdown]
# Orange goes to another token, blue stays. (In layer 0 CLS looks at itself, so two of the four paths lie on one
# line.) A quarter of CLS comes from b, by way of a: in layer 0 a took from b, in layer 1 CLS took from a. The map
# of layer 1 alone would show only a.
#
# What the picture does is a matrix product. The share of path "b, then a, then CLS" is $A'_1[\text{CLS}, a] \cdot
# A'_0[a, b]$, and the sum over whoever stands in the middle is the entry [CLS, b] of $A'_1 A'_0$.
#
# **Predict.** And in the other order, $A'_0 A'_1$?

# %%
print("newest on the left: ", (mixed[1] @ mixed[0])[0].tolist())
print("oldest on the left: ", (mixed[0] @ mixed[1])[0].tolist())

# %% [markdown]
# The other way round nothing of b arrives, as if CLS had looked at a *before* a had looked at b. The result still
# adds up to 1, and nobody would notice. **The newest layer stands on the left**, because the rows on the left are
# those that ask last. For L layers, numbered 0 to L − 1,
#
# $$R = A'_{L-1} \cdots A'_1 A'_0 .$$
#
# This is **attention rollout** (Abnar & Zuidema 2020, arXiv 2005.00928). The row of CLS in R is the map.
#
# In a loop over the layers, with a row instead of the whole product, which is much cheaper: start with CLS alone
# and go down, newest layer first. The heads of a layer are joined by their mean.


# %%
def rollout_loop(tables, query=0):
    """Follow one token down: L tables (T, T), oldest first -> its row (T,)."""
    row = torch.zeros(len(tables[0]), dtype=tables[0].dtype)
    row[query] = 1
    for table in reversed(tables):  # the newest first
        taken = torch.zeros_like(row)
        for i, share in enumerate(row):
            taken += share * table[i]  # what came along the attention of token i
        row = row / 2 + taken / 2
    return row


print(rollout_loop([layer_0, layer_1]).tolist())

# %% [markdown]
# The inner loop is a row times a matrix, `row @ table`. All queries at once are matrices times matrices.


# %%
def rollout_product(tables):
    """The whole product: L tables (T, T), oldest first -> (T, T)."""
    identity = torch.eye(len(tables[0]), dtype=tables[0].dtype)
    product = identity
    for table in tables:
        product = (table + identity) / 2 @ product  # each newer one from the left
    return product


tables = [weights[0].mean(dim=0) for weights in record.weights]  # heads joined by their mean
assert_close(rollout_product(tables)[0], rollout_loop(tables))


# %% exercise="08.4"
def my_rollout(tables, residual):
    """Follow attention through layers whose heads are joined already.

    tables: (L, T, T), the oldest layer first; entries are 0 or more, and rows need not add up to 1.
    residual: the weight of the skip connection, above 0 and below 1; attention gets the rest.
    Each layer becomes (1 - residual) * table + residual * identity, its rows are divided by their sums,
    and the layers are multiplied.
    Returns (T, T): row i says where token i of the last layer comes from.
    """
    ### BEGIN SOLUTION
    identity = torch.eye(tables.shape[-1], dtype=tables.dtype)
    product = identity
    for table in tables:
        step = (1 - residual) * table + residual * identity
        product = step / step.sum(dim=-1, keepdim=True) @ product
    return product
    ### END SOLUTION


# %%
check("08.4", my_rollout)
# hint("08.4")

# %% [markdown] solved_only=true
# **Why.** Three things can go wrong without an error: the order of the product, the sums of the rows, and which
# part gets `residual`. None of them changes a shape, and the numbers look like shares all the same.
#
# **The common wrong answer** divides by `step.sum(dim=-1)`, without `keepdim=True`. PyTorch then lays the sums
# along the *columns*: column j is divided by the sum of row j. Where all rows add up to 1 anyway, as with the mean
# of the heads, nobody sees it.

# %% [markdown]
# ## What rollout is exact for
#
# Is $\tfrac{1}{2} A + \tfrac{1}{2} I$ more than a guess? Build the network that rollout thinks of: each token
# becomes half itself and half the weighted mean that it takes, and nothing else happens. No values, no MLP, no
# LayerNorm. For this network we can ask autograd how the output of token i depends on the input of token j: the
# **Jacobian**, the table of all these derivatives.
#
# **Predict.** How will it differ from R?

# %%
torch.manual_seed(0)
random = torch.randn(4, 1, 2, 6, 6, dtype=torch.float64).mul(2).softmax(dim=-1)  # 4 layers, 2 heads


def only_attention(x):
    """A network of nothing but attention and skip connections: x (T,)."""
    for weights in random:
        x = (weights[0].mean(dim=0) @ x + x) / 2
    return x


jacobian = torch.autograd.functional.jacobian(only_attention, torch.randn(6).double())
assert_close(jacobian, rollout_product([weights[0].mean(dim=0) for weights in random]))

# %% [markdown]
# Not at all: they are equal, in float64. **For what it keeps, rollout is exact.** It answers "how much of the
# input of each token is in the output?" for a network that only mixes. For our network it is silent about the
# rest:
#
# | rollout keeps | rollout leaves out |
# |---|---|
# | which token takes from which, in every layer | *what* is taken: the values and `proj` |
# | that tokens keep a part of themselves | how large that part is (it says one half) |
# | | the MLPs and the LayerNorms |
# | | which class the answer is |
#
# An experiment to feel the right column: in the last layer, set all **values** to zero. The layer looks where it
# looked before, and takes nothing.
#
# **Predict.** What becomes of the map? And of the answer?

# %%
from vit_tutorial import rollout

mute = copy.deepcopy(vit)
width = vit.config.embed_dim
mute.blocks[-1].attn.qkv.weight.data[2 * width :] = 0  # rows: queries, keys, values
mute.blocks[-1].attn.qkv.bias.data[2 * width :] = 0
muted = record_attention(mute, images)
# from CLS, which has to be said: what the head reads is not seen through a layer that hands on nothing
same = torch.equal(rollout(muted, query=0), rollout(record))
print("the map is the same to the last bit:", same)
print(f"{card.classes[answer.argmax()]}: {answer.max():.0%}, now", end=" ")
print(f"{muted.logits[0].softmax(dim=0)[answer.argmax()]:.0%}")

# %% [markdown]
# The same can be done to one head at a time: silence it, and see how far the answer moves. That is a measure of
# what a head is *worth*, and attention is not in it at all.
#
# **Predict.** Are the heads that look the most decidedly worth the most?


# %%
from vit_tutorial.compress import silence_heads  # a copy; these heads' columns of `proj` are 0

worth = np.zeros((depth, num_heads))
with torch.no_grad():
    some = pieces[::2]
    before = vit(some).softmax(dim=1)  # (32, 10)
    for layer, head in np.ndindex(worth.shape):
        after = silence_heads(vit, {layer: [head]})(some).softmax(dim=1)
        worth[layer, head] = (after - before).abs().sum(dim=1).mean() / 2
for layer, shares in enumerate(worth):
    print(f"layer {layer}: the answer moves by", "  ".join(f"{share:4.0%}" for share in shares))
together = np.corrcoef(worth.ravel(), among["trained"].ravel())[0, 1]
print(f"correlation with the number of tokens that a head shares among: {together:.2f}")

# %% [markdown]
# (The share of the answer that goes to other classes, a mean over 32 of the pieces.) If the most decided heads
# were always worth the most, the correlation would be near −1. **Where a head looks and what it is worth are two
# questions**, and a map answers the first.
#
# Keep this in mind whenever you see such a map. Lesson 09 has methods that know of the values and of the class,
# and measures which of them tells the truth. First, the package's rollout, whole. `_fuse` joins the heads and
# `_discard` throws small weights away (both below), `_start` makes the first row, `_on_the_grid` cuts the prefix
# off.

# %%
from collections.abc import Iterable

from vit_tutorial.attention import _discard, _fuse, _on_the_grid, _start
from vit_tutorial.calls import look
from vit_tutorial.recording import FUSIONS, Query

# %% definition="vit_tutorial.attention._follow"

# %% definition="vit_tutorial.attention.rollout"

# %% [markdown]
# **Proof**, against an oracle in NumPy that multiplies whole matrices: two images, grids that are not square, no
# CLS and several prefix tokens, every fusion, rows that add up to anything.


# %%
def oracle(layers, fusion, residual):
    """Rollout by NumPy, one image at a time: L arrays (B, h, T, T) -> (B, T, T)."""
    products = []
    for image in range(len(layers[0])):
        product = np.eye(layers[0].shape[-1])
        for layer in layers:
            step = (1 - residual) * getattr(np, fusion)(layer[image], axis=0)
            step = step + residual * np.eye(len(step))
            product = step / step.sum(axis=1)[:, None] @ product
        products.append(product)
    return np.stack(products)


# %%
network = RecordedAttention(list(random), grid=(1, 6), num_prefix=0)  # the one with only attention
assert_close(rollout(network, query=None)[0], jacobian)
for prefix, fusion, residual in ((0, "mean", 0.5), (1, "max", 0.3), (5, "min", 0.8)):
    T = prefix + 3 * 4
    layers = [torch.rand(2, 3, T, T).double().mul(4).softmax(dim=-1) for _ in range(5)]
    one = RecordedAttention(layers, grid=(3, 4), num_prefix=prefix)
    ours = rollout(one, head_fusion=fusion, residual=residual, query=None)
    theirs = oracle([layer.numpy() for layer in layers], fusion, residual)
    assert_close(ours, torch.from_numpy(theirs))
    row = rollout(one, head_fusion=fusion, residual=residual, query=(2, 1))
    assert_close(row.flatten(1), ours[:, prefix + 9, prefix:])

# %% [markdown]
# Now Chelsea. Left, the mean over the heads of the last layer. Right, rollout. Both are drawn on one scale, from
# nothing to the largest number of the two.
#
# **Predict.** Will rollout be sharper than the last layer, or less sharp?

# %%
last = record.weights[-1][0].mean(dim=0)[0, 1:]
rolled = rollout(record)[0].flatten()
named = {"last layer": last, "rollout": rolled}
heats = [x.reshape(rows, columns).numpy() for x in named.values()]
titles = [f"{name}\n{x.min():.1%} to {x.max():.1%}" for name, x in named.items()]
plots.map_row(view, heats, titles, scale=(0, np.max(heats)))

# %% [markdown]
# The same two, each on a scale of its own, as such maps are mostly shown:

# %%
plots.map_row(view, heats, titles)

# %% [markdown]
# Less sharp, and this is no accident. Each layer averages over what the layer before has averaged. On the common
# scale every patch is in CLS, some more, some less. On its own scale the same rollout looks like a decision. **A
# stretched map must come with its numbers**: here they stand below it.
#
# How fast do the layers mix? We follow not only CLS but all tokens, through more and more layers, and measure how
# much two of them still differ.
#
# **Predict.** Suppose all tables were perfectly even. Then each layer would leave each token half of its own part.
# What would be left of two tokens' difference after L layers?

# %%
print("layers   rows differ by   if all tables were even   a token shares among")
for count in range(1, depth + 1):
    whole = rollout(record, query=None, layers=slice(count))  # (1, T, T)
    spread = torch.special.entr(whole).sum(dim=-1).exp().mean()
    print(f"{count:4}   {difference(whole).item():12.1%} {0.5**count:18.1%} {spread:26.1f}")

# %% [markdown]
# With even tables, R is $2^{-L} I + (1 - 2^{-L}) J / T$, where J is the table of ones: all rows are the same but
# for the $2^{-L}$ on their own token. For 12 layers that is one part in 4096. The trained network goes the same
# way. **The deeper the network, the less rollout cares who asked**: its map from a patch and its map from CLS
# become one picture.


# %% exercise="08.5"
def my_query_row(tables, query):
    """Rollout for one token, without ever multiplying two whole tables.

    tables: (L, B, T, T), the oldest layer first; rows add up to 1. The skip connection has weight 1/2.
    query: the index of the token that is followed.
    Returns (B, T): where that token of the last layer comes from, for each image.
    A product of a row with a table costs T² multiplications, one of two tables T³.
    """
    ### BEGIN SOLUTION
    row = torch.zeros_like(tables[0, :, :1])  # (B, 1, T)
    row[:, :, query] = 1
    for table in tables.flip(0):
        row = (row @ table + row) / 2
    return row[:, 0]
    ### END SOLUTION


# %%
check("08.5", my_query_row)
# hint("08.5")

# %% [markdown] solved_only=true
# **Why.** (row · A') · B' = row · (A' · B'), so we may multiply from the left and never meet more than a row. The
# row is the newest layer's, so the loop runs from the newest to the oldest. For T = 197 and 12 layers this is 180
# times less work.
#
# **The common wrong answer** runs through the layers from the oldest on, with a row. That is the right order for
# whole tables (each newer one from the left), and the wrong one for a row.

# %% [markdown]
# ## Joining heads
#
# We joined heads by their mean. Two other ways are in use: the **maximum**, because a mean hides the one head that
# looks closely, and the **minimum**, to keep only what all heads agree on.
#
# By hand: two heads, one row each, over four tokens.

# %%
two_heads = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1]])
for name, row in (("max", two_heads.amax(dim=0)), ("min", two_heads.amin(dim=0))):
    print(name, [round(x, 2) for x in row.tolist()], f"sum {row.sum():.1f}")

# %% definition="vit_tutorial.attention._fuse"

# %% [markdown]
# Neither adds up to 1. So **a maximum of probabilities is no probability**, and nor is a minimum. Then the
# identity is added with weight ½, and the row is divided by its sum. With s for the sum of a fused row, the share
# of the skip connection is no longer ½, but
#
# $$\frac{1/2}{s/2 + 1/2} = \frac{1}{1 + s}.$$
#
# **Predict.** For the row above with s = 1.6: which share stays? And with s = 0.4?

# %%
ways = ("mean", "max", "min")
print("rows add up to, and what stays:", *(f"{name:>12}" for name in ways))
for layer, weights in enumerate(record.weights):
    totals = [_fuse(weights, name).sum(dim=-1).mean().item() for name in ways]
    words = [f"{total:7.2f} {1 / (1 + total):4.0%}" for total in totals]
    print(f"layer {layer:<25}", *words)

# %% [markdown]
# So the maximum also turns the skip connection *down*, and the minimum turns it *up*, by an amount that nobody
# chose and that differs from layer to layer and from row to row. With many heads that look at different places the
# maximum's rows can sum to almost the number of heads, and then hardly anything stays. Whoever compares "max" with
# "mean" compares two things at once.


# %% exercise="08.6"
def my_kept_share(weights, fusion, residual):
    """Which share of each token the skip connection keeps, once the heads are joined and rows are scaled.

    weights: (B, h, T, T), rows that add up to 1.
    fusion: "mean", "max" or "min".
    residual: the weight of the skip connection before the scaling, 0 to 1.
    Returns (B, T). What a token takes from itself by attention does not count.
    """
    ### BEGIN SOLUTION
    joined = {"mean": weights.mean(dim=1), "max": weights.amax(dim=1), "min": weights.amin(dim=1)}
    total = joined[fusion].sum(dim=-1)  # (B, T)
    return residual / (residual + (1 - residual) * total)
    ### END SOLUTION


# %%
check("08.6", my_kept_share)
# hint("08.6")

# %% [markdown] solved_only=true
# **Why.** The row of the fused table has sum s, the identity's has sum 1. Weighted and added they have (1 −
# residual) · s + residual, and residual is the skip connection's part of it.
#
# **The common wrong answer** reads it off the diagonal of the scaled table. There the token's attention to itself
# is counted as well.

# %% [markdown]
# ## Throwing small weights away
#
# The second knob: before the identity is added, the smallest share of all entries of a fused table is set to 0,
# say 90% of them. The entry CLS to CLS is spared, or CLS could lose its whole row.

# %% definition="vit_tutorial.attention._discard"

# %% [markdown]
# "Smallest" is meant in the whole table, not in each row. **Predict.** A row whose attention is spread evenly, and
# one that has most of its weight on one token: which of them loses more? What happens to a row that loses
# everything?

# %%
fused = record.weights[0].mean(dim=1)  # (1, T, T)
for ratio in (0.5, 0.9):
    left = _discard(fused, ratio, keep_cls=True)[0].sum(dim=-1)  # (T,)
    print(f"discard {ratio:.0%}: rows keep {left.min():.0%} to {left.max():.0%} of their weight")

# %% [markdown]
# So discarding changes the skip connection's share as well, more in some rows than in others; a row that loses
# everything keeps its token, wholly. Here are both knobs. The same photograph, the same network, the same
# attention.
#
# **Predict.** Will they agree on where the network looked?

# %%
fusions, ratios = ("mean", "max", "min"), (0.0, 0.5, 0.9)
heats = [
    [rollout(record, head_fusion=f, discard_ratio=r)[0].numpy() for r in ratios] for f in fusions
]
names = [f"discard {ratio:.0%}" for ratio in ratios]
plots.map_grid(view, np.array(heats), fusions, names, "Rollout from CLS")

# %% [markdown]
# Nine pictures of one forward pass. Those on the right look the most like "the network looked *there*". But
# nothing in them is new: they are sharper because 90% of the numbers were removed. Whoever may choose the setting
# after seeing the pictures chooses what to believe. **A knob needs a reason, and it must be set before one
# looks**, or be measured: lesson 09 does that.


# %% exercise="08.7"
def my_discard(table, ratio):
    """Set the smallest entries of a fused table to 0.

    table: (T, T), entries from 0 up; token 0 is CLS.
    ratio: of all T * T entries this share goes, rounded down to a whole number of entries; 0 to 1.
    Of equal entries, those that come first in reading order go first.
    CLS to CLS is never set to 0; if it is among the smallest, one entry less goes.
    Returns (T, T).
    """
    ### BEGIN SOLUTION
    flat = table.flatten()
    order = flat.argsort(stable=True)[: int(ratio * len(flat))]
    lost = order[order != 0]  # entry 0 is CLS to CLS
    return flat.index_fill(0, lost, 0).reshape(table.shape)
    ### END SOLUTION


# %%
check("08.7", my_discard)
# hint("08.7")

# %% [markdown] solved_only=true
# **Why.** A *stable* sort leaves equal entries in their order, so the result is the same on every machine and in
# the browser's version of it. `index_fill`, without a final `_`, makes a copy.
#
# **The common wrong answer** takes a threshold, `table <= limit`. If several entries equal the limit, all of them
# go, and a table of equal entries, as an untrained network nearly has, loses everything.

# %% [markdown]
# ## Your images, other networks
#
# **Finer maps.** The network takes larger images, too: `resized` stretches its positions (lesson 03), and at 96×96
# pixels there are 24×24 patches instead of 8×8. **Predict.** Will the map at 96 pixels be the old one, only finer?

# %%
heats, titles, positions = [], [], {}
for size in (32, 96):
    larger = vit.resized(size)
    pixels = fit_image(photo, size).pixels[None]
    one = record_attention(larger, normalize(pixels, card.mean, card.std))
    heats.append(rollout(one)[0].numpy())
    said = one.logits[0].softmax(dim=0)
    titles.append(f"{size} pixels:\n{card.classes[said.argmax()]} {said.max():.0%}")
    alike = position_similarity(larger.pos_embed, num_prefix=1)
    middle = one.grid[0] * one.grid[1] // 2 + one.grid[1] // 2
    positions[f"{one.grid[0]}×{one.grid[1]} positions"] = alike[middle].reshape(one.grid).numpy()

# %%
plots.map_row(view, heats, titles)

# %%
plots.position_maps(positions, unit="similarity to the middle")

# %% [markdown]
# (Both maps are stretched.) The table of positions is the same, with more points. The map is finer, and it is not
# the same map: each patch now shows a ninth of what it showed in training, and the network has never seen such
# patches. Lesson 00 had the numbers of what larger images cost in accuracy. For pictures to look at, 64 to 96
# pixels are a good compromise.
#
# **Your photograph.** Put its name into `MY_PHOTO` at the top and run the lesson again, or press "Open an image…"
# in the explorer (it asks the kernel to run the network). Any size and format will do; `fit="pad"` shows the whole
# of it, with grey bars. An explorer can hold several images and networks. This adds the same picture at 96 pixels:
# scroll up, choose it under "Image", pin a patch with P, and choose the other one to compare them.

# %%
explorer.add(photo, model=vit.resized(96), name="at 96 pixels")
explorer.scene = 0  # the first one again

# %% [markdown]
# From a terminal, with no notebook at all:
#
# ```
# vit-tutorial explain photo.jpg
# vit-tutorial explain photo.jpg --method last-layer --out photo.html
# ```
#
# The first writes a picture, the second the explorer as a page. `--model torchvision:vit_b_16` takes a large
# network, if its weights have been downloaded.
#
# **Any library's network.** `record_attention` watches the calls to attention from outside, so it needs no change
# to the network. Here is torchvision's ViT, small and with random weights; its blocks never return what they
# attend to. The proof that watching changes nothing: the logits stay the same *to the bit*. (We compare with
# gradients on. With them off, PyTorch takes another kernel for this layer, which rounds differently.)

# %%
from torchvision.models import VisionTransformer as TheirViT

torch.manual_seed(0)
theirs = TheirViT(32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=64).eval()
torch.nn.init.normal_(theirs.heads.head.weight)  # it starts at zero: that would prove nothing
noise = torch.randn(2, 3, 32, 32)
watched = record_attention(theirs, noise)
assert torch.equal(watched.logits, theirs(noise))
print(f"{len(watched.weights)} layers of {tuple(watched.weights[0].shape)}, grid {watched.grid}")

# %% [markdown]
# The same call reads the networks of timm and of Hugging Face. Some networks cannot be joined by rollout, and then
# it says so and why: those that attend within windows (Swin), for example, have no table of all tokens.
#
# ## What we now have
#
# | what | shape | package |
# |---|---|---|
# | weights of a layer | (B, h, T, T) | `record_attention(vit, images).weights[l]` |
# | one head's map | (B, rows, columns) | `attention_map(record, layer, head, query)` |
# | how far each head looks | (L, h), in patches | `attention_distance(record)` |
# | how widely it shares | (L, h), in nats | `attention_entropy(record)` |
# | similarity of positions | (N, N) | `position_similarity(table, num_prefix)` |
# | rollout, all queries | (B, T, T) | `rollout(record, query=None)` |
# | rollout from CLS | (B, rows, columns) | `rollout(record)` |
#
# L layers of h heads, T tokens, N of them patches. Rows ask, columns are read. A map of one layer says which
# *tokens* are read there; rollout says which *patches* they come from, if layers did nothing but mix.
#
# ## The questions people ask
#
# **Which row do I need, and why is column 0 dropped?** The row of the token that the answer is read from, which is
# CLS. (Without a CLS token the head reads the mean of all tokens, so it is the mean of all rows.) Column 0 is CLS
# as a *source*; it has no place in the picture. `rollout` and `attention_map` know how many tokens stand in front:

# %%
from vit_tutorial.attention import attention_map

flat = rollout(record, query=None)[0]  # (T, T)
assert_close(rollout(record)[0].flatten(), flat[0, 1:])
print(f"drawn: {flat[0, 1:].sum():.1%} of the row of CLS; in column 0: {flat[0, 0]:.1%}")
print("the last layer's map:", tuple(attention_map(record, layer=-1).shape))

# %% [markdown]
# **Why does CLS look at itself, or at the background?** In every layer some patch is read more than all others.
# Here is how many even shares it gets, and how much contrast its pixels have compared with the average patch of
# its picture (64 pieces of photographs).

# %%
from vit_tutorial import patchify

contrast = patchify(pieces, vit.config.patch_size).std(dim=-1)  # (64, N)
for layer, weights in enumerate(many.weights):
    read = weights[:, :, 1:, 1:].mean(dim=(1, 2))  # (64, N): by all patches, in all heads
    best = read.argmax(dim=1, keepdim=True)
    plain = (contrast.gather(1, best)[:, 0] / contrast.mean(dim=1)).median()
    shares = read.amax(dim=1).mean() / even
    print(f"layer {layer}: {shares:.1f} times an even share, contrast {plain:.2f}")

# %% [markdown]
# Where the contrast is far below 1, the most-read patch is an empty one: background. Where it is near 1, it is a
# patch like any other. (What CLS takes from itself you saw under "Column 0".) In large networks this goes much
# further: a few background patches with very long vectors collect most of the attention. One explanation: a
# softmax has to give its 1 to somebody, also when a head has nothing to look for, and a patch with nothing to say
# is a good place to keep notes in. Darcet et al. (2023, arXiv 2309.16588) give the network extra tokens for that,
# *registers*, and the maps become clean. So a bright spot need not be an object: it may be where the network keeps
# its notes.
#
# **Can I average the heads?** You can; a mean of probabilities is one. But what you see need not be what any head
# does. The mean is always spread more widely than the heads are:

# %%
for layer, weights in enumerate(many.weights):
    each = torch.special.entr(weights).sum(dim=-1).mean().exp()
    mean = torch.special.entr(weights.mean(dim=1)).sum(dim=-1).mean().exp()
    print(f"layer {layer}: a head shares among {each:.0f} tokens, their mean among {mean:.0f}")

# %% [markdown]
# **Why is the identity added, and is one half right?** One half is a convention. Here is what the stream of our
# network says: the norm of what stays, beside the norm of what attention adds (lesson 05).

# %%
added = []
hooks = [b.attn.register_forward_hook(lambda m, i, out: added.append(out)) for b in vit.blocks]
with torch.no_grad():
    stream = [vit.embed(images)]
    for block in vit.blocks:
        stream.append(block(stream[-1]))
for hook in hooks:
    hook.remove()
for layer in range(depth):
    stays, comes = (x.norm(dim=-1).mean().item() for x in (stream[layer], added[layer]))
    share = stays / (stays + comes)
    print(f"layer {layer}: stays {stays:.1f}, added {comes:.1f}: {share:.0%} stays")

# %% [markdown]
# `rollout(record, residual=...)` takes another weight. What it does to the map, from attention alone to almost
# nothing but skip connection: how much two rows differ, and what CLS keeps of itself.

# %%
for residual in (0.0, 0.25, 0.5, 0.75, 0.9):
    whole = rollout(record, query=None, residual=residual)
    print(f"residual {residual:4}: rows differ by {difference(whole).item():6.1%},", end=" ")
    print(f"CLS keeps {whole[0, 0, 0]:.1%} of itself")

# %% [markdown]
# With 0 the rows of the product are nearly the same: whoever asks gets one map. **That is why the identity is
# added.** The skip connection is what keeps tokens apart, in the network (lesson 05) as in its map.
#
# **Why does rollout show the same map for "cat" and for "dog"?** It never asks for a class. All that it uses was
# there before the head computed a single logit. Lesson 09 has methods that do ask.
#
# **My model returns no attention. Why?** Its attention is fused: one call that never makes the table, so there is
# nothing to return. `nn.MultiheadAttention` with `need_weights=False` does the same, and so do current versions of
# most libraries, some with a warning and an empty list. A hook does not help either:

# %%
from torch import nn

layer = nn.MultiheadAttention(embed_dim=8, num_heads=2, batch_first=True).eval()
x = torch.randn(1, 5, 8)
outputs = []
hook = layer.register_forward_hook(lambda module, given, out: outputs.append(out))
layer(x, x, x, need_weights=False)
hook.remove()
print("the hook got:", [None if part is None else tuple(part.shape) for part in outputs[0]])

# %% [markdown]
# `record_attention` computes the weights beside the fused call, from the same queries and keys, and leaves the
# call alone. One image in a ViT-B/16 then takes {{results.rollout.rows[what=recording, one image].ms:.0f}} ms
# instead of {{results.rollout.rows[what=recording, one image].their_ms:.0f}} (on {{results.rollout.hardware}}).
#
# ## A stretch
#
# For the network of nothing but attention, rollout was the Jacobian. For the real network you can compute a
# Jacobian, too: `torch.autograd.functional.jacobian`, from the tokens that enter layer 0 (`vit.embed`) to the CLS
# token that leaves the last layer. The norm of what belongs to one patch is one number: draw that map beside
# rollout. Do they agree? Rank the patches by both, and give the correlation of the ranks over a dozen images. Then
# write a rollout whose `residual` is the measured share of each layer, and see whether the correlation rises.
