# %% [markdown]
# # 04 · Attention
#
# **How does a token find out what the others know?**
#
# So far each token knows its own patch and its own place. Attention is the one layer of a Vision Transformer in
# which tokens exchange anything. The whole of it fits in one line.
#
# **You will** compute attention for three tokens by hand, then write it with matrices and several heads, and see what
# trained heads look at. *Deeper:* masks, proofs, a mistake that still trains, heads made by hand.

# %%
from vit_tutorial import plots

plots.network_map("attention")

# %% [markdown]
# ## A patch that asks
#
# A patch of 4×4 pixels with a bit of an eye in it cannot know whether it belongs to a cat. It has to ask the
# others. The trained network of lesson 00 looks at Chelsea the cat (photograph by Stéfan van der Walt,
# CC0); the small square marks the patch that asks. A *head* is one way of asking; this network has four in
# each of its layers 0 to 5.
#
# **Predict.** Where do you expect the most attention: on the patch itself, near it, at the other eye, far
# away? The same in all heads?

# %%
import numpy as np
import torch
from skimage import data as photographs

from vit_tutorial import fit_image, load_checkpoint, normalize, open_image, record_attention
from vit_tutorial.lessons import check, hint

vit, card = load_checkpoint("cifar10")
fitted = fit_image(open_image(photographs.chelsea()).resize((676, 450)), 32)
record = record_attention(vit, normalize(fitted.pixels[None], card.mean, card.std))
seen = np.asarray(fitted.view())


# %%
def map_from(layer, head, patch):
    """What one patch (row, column) attends to in one head: (rows, columns)."""
    weights = record.weights[layer][0, head, record.token(patch), 1:]  # (64,), without CLS
    return weights.unflatten(0, record.grid).numpy()


# %%
chosen = [(0, 1), (1, 2), (2, 3), (3, 1)]  # layer, head
maps = [map_from(layer, head, (3, 2)) for layer, head in chosen]
most = [f"layer {i}, head {j}\nmost {m.max():.1%}" for (i, j), m in zip(chosen, maps, strict=True)]
plots.map_row(seen, maps, most, query=(3, 2))

# %% [markdown]
# Above, the photograph is bright where the patch takes most from; below is the map.
# An even share among 65 tokens would be 1.5%. The head of layer 0 is not far from that: no patch gets more than
# 3.2%. The one of layer 1 takes 41% from the patch itself. The one of layer 2 takes 17% from the other eye and hardly
# less from itself, the one of layer 3 most from the rows above.

# %% claim="no patch gets more than"
assert 0.031 < maps[0].max() < 0.034

# %% claim="takes 41% from the patch itself"
assert maps[1].argmax() == 8 * 3 + 2
assert 0.395 < maps[1].max() < 0.42

# %% claim="takes 17% from the other eye and hardly"
assert set(maps[2].ravel().argsort()[-2:].tolist()) == {8 * 3 + 2, 8 * 3 + 6}
assert 0.16 < maps[2][3, 6] < 0.18
assert 0.95 < maps[2][3, 2] / maps[2][3, 6] < 1

# %% claim="most from the rows above"
assert maps[3][:3].sum() > 0.75 * maps[3].sum()

# %% [markdown]
# ## Three tokens by hand
#
# From each token, attention makes three vectors:
#
# - a **query** q (blue in this lesson): what the token is looking for,
# - a **key** k (orange): what it can be found by,
# - a **value** v (green): what it hands over to whoever finds it.
#
# In a network, three linear layers compute them from the token. Here we write them down for T = 3
# tokens, with d = 2 numbers in each.

# %%
q = torch.tensor([[1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])  # (T, d): a row for each token
k = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
v = torch.tensor([[0.0, 6.0], [6.0, 0.0], [-3.0, -3.0]])

# %% [markdown]
# Token 0 asks. The **score** of a key is the dot product of the query with it: multiply number by number,
# add up. It is large where both point the same way, zero at a right angle, negative where they oppose.

# %%
scores = [(q[0] * key).sum() for key in k]
for j, score in enumerate(scores):
    print(f"q0 · k{j} = {q[0].tolist()} · {k[j].tolist()} = {score:g}")

# %% [markdown]
# Key 0 matches best. Scores become **weights** by the *softmax*: take the exponential of each, which makes it
# positive, and divide by the sum, which makes them add up to 1. With s for a score and w for a weight,
# $w_j = e^{s_j} / (e^{s_0} + e^{s_1} + e^{s_2})$. What token 0 gets, its **output**, is the sum of the values,
# weighted by these numbers, mostly that of token 0.

# %% claim="Key 0 matches best"
assert [round(score.item()) for score in scores] == [2, -2, 0]

# %%
exponentials = torch.stack(scores).exp()
weights = exponentials / exponentials.sum()
output = sum(weights[j] * v[j] for j in range(3))
print("weights", [round(number, 3) for number in weights.tolist()])
print("output ", [round(number, 3) for number in output.tolist()])

# %% claim="makes them add up to 1"
assert abs(weights.sum() - 1) < 1e-6
assert weights.min() > 0

# %% claim="weighted by these numbers, mostly that of token 0"
assert 0.85 < weights[0] < 0.88
assert (output - torch.tensor([-0.257, 4.849])).abs().max() < 2e-3

# %% [markdown]
# The same for every token, one query after the other.
#
# **Predict.** Query 1 lies exactly between the keys 0 and 1. Query 2 is (0, 0). What
# will each of them get?


# %%
def attention_loop(q, k, v):
    """Attention without a scale: (T, d) each -> outputs (T, d) and weights (T, T)."""
    outputs, rows = [], []
    for query in q:  # one token asks
        scores = torch.stack([query @ key for key in k])  # of each key, its own too
        weights = scores.exp() / scores.exp().sum()
        outputs.append(sum(weight * value for weight, value in zip(weights, v, strict=True)))
        rows.append(weights)
    return torch.stack(outputs), torch.stack(rows)


outputs, all_weights = attention_loop(q, k, v)
plots.attention_by_hand(q.numpy(), k.numpy(), v.numpy(), all_weights.numpy(), outputs.numpy())

# %% [markdown]
# Five things to see:
#
# - **Each row adds up to 1.** A token has one unit of attention to give away.
# - **Query 1 takes half from token 0 and half from token 1**, and 1% from token 2.
# - **The weights are not symmetric.** Token 0 takes 12% from token 2; token 2 takes a third from token 0.
#   Asking and being found are two things; that is why there are queries *and* keys.
# - **The query of zeros gets the mean of the values**: every score is 0, so all weights are equal. Attention
#   cannot look at nothing.
# - **Every output lies inside the triangle** of the values. Attention mixes what is there; it makes nothing
#   new. New things are made by the layers around it (lesson 05).

# %% claim="Each row adds up to 1"
assert (all_weights.sum(dim=1) - 1).abs().max() < 1e-6

# %% claim="Query 1 takes half from token 0 and half from token 1"
assert all_weights[1, 0] == all_weights[1, 1]
assert 0.005 < all_weights[1, 2] < 0.012

# %% claim="Token 0 takes 12% from token 2; token 2 takes a third from token 0"
assert 0.115 < all_weights[0, 2] < 0.125
assert abs(all_weights[2, 0] - 1 / 3) < 1e-6

# %% claim="gets the mean of the values"
assert (outputs[2] - v.mean(dim=0)).abs().max() < 1e-6
assert (outputs[1] - v.mean(dim=0)).abs().max() > 1

# %% claim="Every output lies inside the triangle"
corners = torch.cat([v.T, torch.ones(1, 3)])
shares = torch.linalg.solve(corners, torch.cat([outputs.T, torch.ones(1, 3)]))
assert shares.min() > 0

# %% [markdown] deeper=true
# ## The softmax, and large numbers
#
# Our softmax has a weakness, which shows as soon as scores are large.
#
# **Predict.** The scores 0, 1, 2 and the scores 1000, 1001, 1002 have the same differences. What are the
# weights of each?

# %%
for scores in (torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1000.0, 1001.0, 1002.0])):
    ours = scores.exp() / scores.exp().sum()
    print("ours:", ours.tolist(), "  the library's:", scores.softmax(dim=-1).tolist())

# %% [markdown]
# For the second, ours are NaN, "not a number": $e^{1000}$ is more than a float can hold: it becomes infinite, and infinite divided by infinite is NaN. Yet the right weights are perfectly ordinary. Adding one number to all scores multiplies
# every exponential by the same factor, and the division takes it out again. So we may add, or subtract, any
# number we like.

# %% claim="Yet the right weights are perfectly ordinary"
large = torch.tensor([1000.0, 1001.0, 1002.0])
assert (large.exp() / large.exp().sum()).isnan().all()
assert (large.softmax(dim=-1) - (large - 1000).softmax(dim=-1)).abs().max() < 1e-6


# %% exercise="04.1"
def my_softmax(scores):
    """Softmax along the last axis that survives large scores.

    scores: (..., n), any number of axes; of any size, and some may be minus infinity (not a whole row).
    Returns weights (..., n): positive or zero, and each row along the last axis adds up to 1.
    Write it with exponentials, without PyTorch's own softmax.
    """
    ### BEGIN SOLUTION
    largest = scores.amax(dim=-1, keepdim=True)  # (..., 1): one for each row
    exponentials = (scores - largest).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)
    ### END SOLUTION


# %%
check("04.1", my_softmax)
# hint("04.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** After the subtraction the largest score of a row is 0, so its exponential is 1: nothing can
# overflow, and the sum is at least 1, so nothing is divided by zero.
#
# **The common wrong answer** subtracts the largest score of the *whole* tensor. It passes every small test.
# But in a row that lies far below the maximum all exponentials become 0, and 0/0 is NaN again.

# %% [markdown]
# ## Why divide by the square root of d?
#
# A dot product of vectors with d numbers is a sum of d products. If the numbers are random with mean 0 and
# variance 1, independent of each other, then each product has variance 1 too, and variances of independent
# things add up: the score has variance d. Its typical size, the standard deviation, is √d: for d = 64, the width
# of a head in ViT-B, 8.

# %% claim="the score has variance d"
for width in (4, 64, 1024):
    a, b = torch.randn(2, 10_000, width)
    assert 0.9 < (a * b).sum(dim=-1).var() / width < 1.1

# %% [markdown]
# Scores of ±8 are hard on a softmax: $e^8$ is about 3000 times $e^0$. Divided by √d they have size 1 again, for
# every d. Here is one random query with 16 random keys, d = 64: the scores as they are, divided by 8 = √d, and
# divided by d.

# %% claim="about 3000 times"
assert 2900 < np.exp(8) < 3050

# %% claim="Divided by √d they have size 1 again, for every d"
for width in (4, 64, 1024):
    a, b = torch.randn(2, 10_000, width)
    assert 0.93 < ((a * b).sum(dim=-1) / width**0.5).std() < 1.07

# %%
from IPython.display import display

torch.manual_seed(2)
wide_query, wide_keys = torch.randn(1024), torch.randn(16, 1024)
wide_scores = wide_keys[:, :64] @ wide_query[:64]
for divisor in (1, 8, 64):
    w = (wide_scores / divisor).softmax(dim=-1)
    display(plots.weight_bars(w.numpy(), f"d = 64, scores divided by {divisor}"))

# %% [markdown]
# As they are, one key takes 70%. Divided by √d the differences are left, and no key takes more than a sixth. Divided by
# d it is almost a plain average. So the score is divided by √d, *before* the softmax
# (Vaswani et al. 2017, arXiv 1706.03762, equation 1).

# %% claim="one key takes 70%"
assert 0.65 < wide_scores.softmax(dim=-1).max() < 0.75

# %% claim="no key takes more than a sixth"
w = (wide_scores / 8).softmax(dim=-1)
assert w.max() < 1 / 6
assert w.max() > 10 * w.min()

# %% claim="almost a plain average"
w = (wide_scores / 64).softmax(dim=-1)
assert 0.035 < w.min()
assert w.max() < 0.08

# %% [markdown]
# ## Attention as matrices
#
# All scores at once are one matrix product: row i of q with row j of k is the score of query i and key j. Then a
# softmax along each row, then one more product for the weighted sums:
#
# $$\mathrm{attention}(q, k, v) = \mathrm{softmax}\left(\frac{q\,k^\top}{\sqrt{d}}\right) v$$


# %% exercise="04.2"
def my_attention(q, k, v):
    """Scaled dot-product attention.

    q, k, v: (..., T, d) each; the axes in front (batch, heads) may be there or not.
    Returns (..., T, d): for every query, the blend of the values.
    """
    ### BEGIN SOLUTION
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (..., T, T)
    return scores.softmax(dim=-1) @ v
    ### END SOLUTION


# %%
check("04.2", my_attention)
# hint("04.2")

# %% [markdown] solved_only=true
# **Why.** `transpose(-2, -1)` swaps the last two axes and leaves those in front alone, and `@` multiplies
# the last two axes for every batch and head at once. d is the last axis of q.
#
# **The common wrong answer** uses `k.T`, which turns *all* axes round, or `softmax(dim=1)`, which is right
# for (T, T) and wrong as soon as there is a batch axis in front.

# %% [markdown] deeper=true
# ## Over the wrong axis
#
# On the three tokens, without the scale, the matrices give the same as the loop gave. A common mistake is a softmax over
# the other axis; the shapes stay right, so nothing complains. The numbers at the right are the sums of the rows: with
# `dim=0` the *columns* add up to 1, and one token gets 1.40, another 0.65.

# %%
scores = q @ k.mT  # (T, d) @ (d, T) -> (T, T): queries down, keys across
torch.testing.assert_close(scores.softmax(dim=-1) @ v, outputs)
drawn = [scores, scores.softmax(dim=-1), scores.softmax(dim=0)]
plots.weight_tables([t.numpy() for t in drawn], ["scores", "dim=-1, right", "dim=0, wrong"])

# %% claim="the same as the loop gave"
assert (scores.softmax(dim=-1) - all_weights).abs().max() < 1e-6

# %% claim="one token gets 1.40, another 0.65"
sums = drawn[2].sum(dim=1)
assert abs(sums.max() - 1.40) < 0.01
assert abs(sums.min() - 0.65) < 0.01
assert (drawn[2].sum(dim=0) - 1).abs().max() < 1e-6

# %% [markdown] deeper=true
# ## The scale, measured
#
# One query is no proof. How evenly weights are spread is measured by their **entropy**, $H = -\sum_j w_j \ln w_j$. It
# is 0 when all is on one key, and ln T when all T keys get the same. $e^H$ can be read as a number of keys: among how
# many the attention is, in effect, shared.

# %%
for row in ([1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]):
    entropy = torch.special.entr(torch.tensor(row)).sum()  # entr(w) = -w ln w, and 0 for w = 0
    print(f"{row!s:26} entropy {entropy:.2f}, as if shared among {entropy.exp():.1f} keys")

# %% [markdown]
# The size of scores also decides how much a query can learn. A network learns through gradients, and the softmax passes on
# $\partial w_i / \partial s_j = w_i (\delta_{ij} - w_j)$, where $\delta_{ij}$ is 1 for i = j and else 0. When
# one weight is almost 1 and the others almost 0, all of these are almost 0.
#
# So we compare three choices on 200 random queries with 64 random keys each: leave the scores as they are, divide
# them by √d, divide them by d. On the right, how much the weights change with the *query*, which is what training
# moves: the length of that gradient, for the median query. It is printed, too.

# %%
torch.manual_seed(0)
dims, keys_each = [4, 16, 64, 256, 1024], 64
scales = {"no scale": 0.0, "divided by √d": 0.5, "divided by d": 1.0}  # powers of 1/d
variances, entropies, reactions = [], {n: [] for n in scales}, {n: [] for n in scales}
for d in dims:
    queries, keys = torch.randn(200, 1, d), torch.randn(200, keys_each, d)
    scores = (queries * keys).sum(dim=-1)  # (200, 64)
    variances.append(scores.var().item())
    for name, power in scales.items():
        w = (scores * d**-power).softmax(dim=-1)
        to_scores = torch.diag_embed(w) - w[:, :, None] * w[:, None, :]
        to_query = to_scores @ keys * d**-power  # (200, 64, d)
        entropy = torch.special.entr(w).sum(dim=-1).mean() / np.log(keys_each)
        entropies[name].append(entropy.item())
        reactions[name].append(to_query.flatten(1).norm(dim=1).median().item())
for name, lengths in reactions.items():
    print(f"{name:13}", *[f"{length:7.3f}" for length in lengths])
plots.score_scales(dims, variances, entropies, reactions)

# %% [markdown]
# - **Left**: the variance is d, as computed.
# - **Middle**: with no scale the weights harden with d, until one key has all. Divided by d they become
#   even, for vectors as random as these. Divided by √d they stay where they were, for every d.
# - **Right**: with no scale the gradient is unsteady, largest at d = 64, and at 1024 it is gone: 0.005. Divided by d it
#   halves with every step. Divided by √d it is 0.17 to 0.18 throughout.
#
# The number that scores are divided by is also called a *temperature*. Move `d` and `temperature`: at which does one
# key take all, and at which is it a plain average?

# %% claim="the variance is d, as computed"
for d, variance in zip(dims, variances, strict=True):
    assert 0.9 < variance / d < 1.1

# %% claim="Divided by √d they stay where they were, for every d"
kept = entropies["divided by √d"]
assert max(kept) - min(kept) < 0.02
assert entropies["no scale"][0] > 0.6
assert entropies["no scale"][-1] < 0.06
assert entropies["divided by d"][-1] > 0.995

# %% claim="is unsteady, largest at d = 64, and at 1024 it is gone"
plain = reactions["no scale"]
assert np.argmax(plain) == 2
assert plain[2] > 2 * plain[0]
assert plain[-1] < 0.008

# %% claim="halves with every step"
by_d = reactions["divided by d"]
for i in range(4):
    assert 0.44 < by_d[i + 1] / by_d[i] < 0.56

# %% claim="it is 0.17 to 0.18 throughout"
same = reactions["divided by √d"]
assert 0.16 < min(same)
assert max(same) < 0.19

# %%
from vit_tutorial import flipbook


def draw(d, temperature):
    w = (wide_keys[:, :d] @ wide_query[:d] / temperature).softmax(dim=-1)
    said = f"as if shared among {torch.special.entr(w).sum().exp():.1f} of 16 keys"
    title = f"d = {d}, scores divided by {temperature:g}" + " = √d" * (temperature**2 == d)
    return plots.weight_bars(w.numpy(), title, said), f"{title}: {said}."


temperatures = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
flipbook(draw, d=[4, 64, 1024], temperature=temperatures, start={"d": 64, "temperature": 1.0})

# %% [markdown] deeper=true
# ## Masks
#
# Sometimes a query may not look at a key. In a ViT that classifies, every patch may look at every other.
# But images of different sizes in one batch are padded, and the padding must stay unseen; some kinds of
# training hide patches; and in a language model no word may look at the words after it. Do you
# change the scores or the weights for that, and to which number?


# %% exercise="04.3"
def my_masked_attention(q, k, v, allowed):
    """Attention in which some queries may not look at some keys.

    q, k, v: (..., T, d) each.
    allowed: (T, T) of True and False; allowed[i, j]: query i may look at key j. Every query has a key.
    Returns (..., T, d). What a forbidden key holds must make no difference, however large its score.
    """
    ### BEGIN SOLUTION
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(dim=-1) @ v
    ### END SOLUTION


# %%
check("04.3", my_masked_attention)
# hint("04.3")

# %% [markdown] solved_only=true
# **Why.** `masked_fill` writes −∞ where its mask is True, so the mask is turned round with `~`. (T, T) fits
# itself to the axes in front.
#
# **The common wrong answer** is a weight of 0 after the softmax. Dividing by the new sum mends it on paper,
# but not in floats: where a forbidden key had taken everything, 0 is divided by 0.

# %% [markdown]
# Take the rule of language models: query i may look at the keys 0 to i. Three ways come to mind: −∞ into the scores, 0 into
# the weights, 0 into the scores.
#
# **Predict.** With 0 into the scores: how much does a forbidden key get?

# %%
scores = q @ k.mT / 2**0.5
allowed = torch.ones(3, 3).tril().bool()  # True: may look
drawn = [
    scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1),
    scores.softmax(dim=-1).masked_fill(~allowed, 0),
    scores.masked_fill(~allowed, 0).softmax(dim=-1),
]
titles = ["−∞ before the softmax", "0 after the softmax", "0 before the softmax"]
plots.weight_tables([t.numpy() for t in drawn], titles)

# %% [markdown]
# - **−∞ before** is right: $e^{-\infty} = 0$, and the other keys share the whole.
# - **0 after** takes the forbidden weight away and gives it to nobody: the first two rows add up to less than 1.
# - **0 before** forbids nothing: a score of 0 is an ordinary score, $e^0 = 1$.
#
# And if a query may look at *no* key?

# %% claim="and the other keys share the whole"
assert (drawn[0].sum(dim=1) - 1).abs().max() < 1e-6
assert (drawn[0][~allowed] == 0).all()

# %% claim="the first two rows add up to less than 1"
assert (drawn[1].sum(dim=1)[:2] < 0.99).all()
assert (drawn[1][~allowed] == 0).all()

# %% claim="forbids nothing"
assert (drawn[2][~allowed] > 0.05).all()

# %%
nobody = allowed.clone()
nobody[1] = False  # query 1 may look at nothing
masked = scores.masked_fill(~nobody, -torch.inf)
plots.weight_tables([masked.numpy(), masked.softmax(dim=-1).numpy()], ["scores", "weights"])

# %% [markdown]
# Row 1 is all NaN: a row of −∞ has no softmax, 0/0. NaN is catching, too: one NaN in one row makes the loss NaN, then every
# gradient, then every parameter. Leave each query at least one key (itself, for example), or use a function
# that defines this case. PyTorch's fused attention does: its answer is 0.

# %% claim="Row 1 is all NaN"
assert masked.softmax(dim=-1)[1].isnan().all()
assert not masked.softmax(dim=-1)[[0, 2]].isnan().any()

# %%
import torch.nn.functional as F

print(F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=nobody)[0])

# %% claim="its answer is 0"
blank = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=nobody)[0]
assert (blank[1] == 0).all()

# %% [markdown]
# One more trap: PyTorch has two conventions. In `F.scaled_dot_product_attention` a True means *may look*, in
# `nn.MultiheadAttention` it means *may not*. The inverted mask raises no error. Given `allowed`, the last query, which may
# look at all three keys, has none left:

# %%
from torch import nn

library = nn.MultiheadAttention(embed_dim=2, num_heads=1, batch_first=True)
for name, mask in (("attn_mask=allowed", allowed), ("attn_mask=~allowed", ~allowed)):
    w = library(q[None], k[None], v[None], attn_mask=mask)[1]
    print(f"{name:18}: the last query gives each key", [round(x, 2) for x in w[0, 2].tolist()])

# %% claim="has none left"
assert library(q[None], k[None], v[None], attn_mask=allowed)[1][0, 2].isnan().all()
assert not library(q[None], k[None], v[None], attn_mask=~allowed)[1][0, 2].isnan().any()

# %% [markdown]
# ## Several heads
#
# One row of weights makes one blend. A patch may need two things at once, the patch to its left *and* the
# sky above, and the mean of the two is neither. So attention is done h times side by side, each time with
# its own queries, keys and values: h **heads**. Each works with narrower vectors, d = D/h numbers, where D is the width
# of a token. At the end the h outputs are laid side by side again, and
# one more linear layer, `proj`, mixes them.


# %% exercise="04.4"
def my_split_heads(x, num_heads):
    """Share the numbers of every token out among the heads.

    x: (B, T, D); head 0 gets the first D / num_heads numbers of every token, head 1 the next, and so on.
    Returns (B, num_heads, T, D / num_heads).
    """
    ### BEGIN SOLUTION
    batch, tokens, width = x.shape
    x = x.reshape(batch, tokens, num_heads, width // num_heads)  # cut each token
    return x.transpose(1, 2)  # heads before tokens
    ### END SOLUTION


# %%
check("04.4", my_split_heads)
# hint("04.4")

# %% [markdown] solved_only=true
# **Why.** The reshape only cuts the last axis, (B, T, D) to (B, T, h, d): each token stays together. The
# transposition then moves the heads to the front. The einops pattern `b t (h d) -> b h t d` says both.
#
# **The common wrong answer** is `x.reshape(B, h, T, d)` in one step: the last two tables of the next figure.

# %% [markdown]
# Below, T = 4 tokens of D = 6 numbers, for h = 2 heads. Each number is named after where it comes from: "2.5" is
# number 5 of token 2, and a colour is a token. Split right, each head has a row for every token. With `view`, which moves
# nothing (lesson 01), the shape is the same, but head 0 holds the tokens 0 and 1 only, each cut in two.

# %%
from einops import rearrange

names = torch.cartesian_prod(torch.arange(4), torch.arange(6)).view(1, 4, 6, 2)  # (B, T, D, name)
split = rearrange(names, "b t (h d) name -> b h t d name", h=2)  # (B, h, T, d, name)
viewed = names.view(1, 2, 4, 3, 2)  # of the same shape
drawn = [names[0], split[0, 0], split[0, 1], viewed[0, 0], viewed[0, 1]]
titles = ["4 tokens", "split: head 0", "head 1", "view: head 0", "head 1"]
plots.token_tables([t.numpy() for t in drawn], titles)

# %% claim="each head has a row for every token"
for head in range(2):
    assert split[0, head, :, 0, 0].tolist() == [0, 1, 2, 3]

# %% claim="head 0 holds the tokens 0 and 1 only"
assert viewed.shape == split.shape
assert viewed[0, 0, ..., 0].unique().tolist() == [0, 1]

# %% [markdown]
# Now all of it. One linear layer, `qkv`, makes queries, keys and values together: of its 3·D outputs the first
# D are the queries of all heads, then come the keys, then the values. The way back from heads to tokens is
# the split turned round: `b h t d -> b t (h d)`.


# %% exercise="04.5"
def my_multi_head(x, qkv_weight, qkv_bias, proj_weight, proj_bias, num_heads):
    """Multi-head self-attention.

    x: (B, T, D).
    qkv_weight (3D, D), qkv_bias (3D,): of the layer for queries, keys and values, in this order.
    proj_weight (D, D), proj_bias (D,): of the layer after the heads are joined.
    Weights lie as in nn.Linear, whose output is x @ weight.T + bias.
    Returns (B, T, D).
    """
    ### BEGIN SOLUTION
    qkv = x @ qkv_weight.T + qkv_bias  # (B, T, 3D)
    q, k, v = rearrange(qkv, "b t (three h d) -> three b h t d", three=3, h=num_heads)
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (B, h, T, T)
    joined = rearrange(scores.softmax(dim=-1) @ v, "b h t d -> b t (h d)")
    return joined @ proj_weight.T + proj_bias
    ### END SOLUTION


# %%
check("04.5", my_multi_head)
# hint("04.5")

# %% [markdown] solved_only=true
# **Why.** With the heads as an axis in front, attention itself is the line from before: `@` and the softmax
# leave the axes (B, h) alone. d is now D/h, the last axis of q, and not D.
#
# **The common wrong answer** joins the heads by `reshape(B, T, D)` without moving the axis h back behind t.
# The numbers of different tokens end up in one row.

# %% [markdown]
# The package's layer calls PyTorch's fused version of your line, one call that need not store the T×T weights;
# `fused_attn` switches to your line. (`rope` are rotation angles, *deeper* in lesson 03; this network has none.)

# %%
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial.positions import rotate

# %% definition="vit_tutorial.model.Attention"

# %% [markdown]
# ## What heads look at
#
# All 24 heads of the trained network, asked by the patch with the eye, each on a scale of its own. Below each map: what
# its five strongest patches get together; 8% would be even.

# %%
names = [f"layer {layer}" for layer in range(6)], [f"head {head}" for head in range(4)]
asked = torch.stack([weights[0, :, record.token((3, 2)), 1:] for weights in record.weights])
five = asked.topk(5).values.sum(dim=-1)  # (6, 4), of (6, 4, 64)
notes = [[f"{share:.0%}" for share in of_layer] for of_layer in five.tolist()]
plots.map_grid(seen, asked.unflatten(-1, record.grid).numpy(), *names, query=(3, 2), notes=notes)

# %% [markdown]
# In layer 0 the heads are nearly even: five patches get 12 to 14%. From layer 1 on it varies: head 2 of layer 1 gives 66%,
# head 1 of layer 4 only 17%.

# %% claim="In layer 0 the heads are nearly even: five patches get 12 to 14%"
assert 0.115 < five[0].min()
assert five[0].max() < 0.148

# %% claim="head 2 of layer 1 gives 66%"
assert five[1:].argmax() == 2
assert 0.64 < five[1, 2] < 0.68

# %% claim="head 1 of layer 4 only 17%"
assert five[1:].argmin() == 4 * 3 + 1
assert 0.155 < five[4, 1] < 0.18

# %% [markdown]
# ## What twice as many tokens cost
#
# There are T×T weights, for every head and every image. Twice as many tokens: four times the weights, and four times
# the time to compute them. And T itself grows with the *square* of the image's side. ViT-B/16 takes 224×224
# pixels, 14×14 patches and CLS: 197 tokens, 38,809 weights a head. At 448×448 pixels it is 785 tokens and 616,225, almost
# 16 times as many.

# %% claim="38,809 weights a head"
assert ((224 // 16) ** 2 + 1) ** 2 == 38_809

# %% claim="616,225, almost 16 times as many"
assert ((448 // 16) ** 2 + 1) ** 2 == 616_225
assert 15.5 < 616_225 / 38_809 < 16

# %% [markdown]
# ## What we now have
#
# | what | shape | here |
# |---|---|---|
# | tokens, before and after | (B, T, D) | (1, 65, 128) |
# | queries, keys, values, outputs of the heads | (B, h, T, d) | (1, 4, 65, 32) |
# | scores, weights | (B, h, T, T) | (1, 4, 65, 65) |
#
# *Scores* before the softmax, *weights* after.

# %% [markdown] deeper=true
# ## Proof
#
# The whole layer against PyTorch's `nn.MultiheadAttention`, with the same random parameters, in float64. Our qkv layer is
# its `in_proj`, our proj its `out_proj`.

# %%
torch.manual_seed(0)
ours = Attention(dim=12, num_heads=3).double()
library = nn.MultiheadAttention(embed_dim=12, num_heads=3, batch_first=True).double()
library.in_proj_weight.data, library.in_proj_bias.data = ours.qkv.weight, ours.qkv.bias
library.out_proj.weight.data, library.out_proj.bias.data = ours.proj.weight, ours.proj.bias

x = torch.randn(2, 7, 12, dtype=torch.float64)  # (B, T, D)
their_output, their_weights = library(x, x, x, average_attn_weights=False)
torch.testing.assert_close(ours(x), their_output)
ours.fused_attn = False  # your line
torch.testing.assert_close(ours(x), their_output)
print("outputs agree", tuple(their_output.shape))

# %% [markdown]
# And the weights, head by head. By default the library gives their *mean* over the heads, so ask for
# `average_attn_weights=False`.

# %%
queries, keys, _ = rearrange(ours.qkv(x), "b t (three h d) -> three b h t d", three=3, h=3)
our_weights = (queries @ keys.mT / 4**0.5).softmax(dim=-1)
torch.testing.assert_close(our_weights, their_weights)
print("weights agree", tuple(their_weights.shape), "= (B, h, T, T)")
print("by default:  ", tuple(library(x, x, x)[1].shape), "= (B, T, T), the mean over heads")

# %% claim="their *mean* over the heads"
assert (library(x, x, x)[1] - our_weights.mean(dim=1)).abs().max() < 1e-9
assert (library(x, x, x)[1] - our_weights[:, 0]).abs().max() > 0.01

# %% [markdown]
# A common mistake is to leave `batch_first=True` away. The default takes the *first* axis for the tokens.
#
# **Predict.** Then who looks at whom, and what shape have the weights for B = 2 images of T = 7 tokens?

# %%
careless = nn.MultiheadAttention(embed_dim=12, num_heads=3).double()  # the same but for one word
print("output", tuple(careless(x, x, x)[0].shape), "weights", tuple(careless(x, x, x)[1].shape))
alone, together = careless(x[:1], x[:1], x[:1])[0], careless(x, x, x)[0][:1]
print("the same image, alone and in a batch, differs by", f"{(alone - together).abs().max():.2f}")

# %% [markdown]
# The output's shape is right. But the weights are 7 matrices of 2×2: token i of one image looks at token i of
# the *other image*. So what the network says of a picture depends on which others came with it. The second
# line is the test that finds this.

# %% claim="the weights are 7 matrices of 2×2"
assert tuple(careless(x, x, x)[1].shape) == (7, 2, 2)
assert tuple(careless(x, x, x)[0].shape) == (2, 7, 12)

# %% claim="depends on which others came with it"
assert (alone - together).abs().max() > 0.1
assert (ours(x[:1]) - ours(x)[:1]).abs().max() < 1e-9

# %% [markdown] deeper=true
# ## A mistake that still trains
#
# Now we build the mistake of the coloured tables, heads split and joined by `view`, and train it against the right one:
# networks of one layer, the handwritten digits, 150 steps, three random seeds. All else is the same.
#
# **Predict.** Guessing gets 10%. How far will the scrambled networks lag behind the right ones?


# %%
class Scrambled(Attention):
    """Heads split and joined by reshape alone: the right shapes, the wrong numbers."""

    def forward(self, x, rope=None):
        batch, tokens, width = x.shape
        parts = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (part.reshape(batch, self.num_heads, tokens, -1) for part in parts)
        return self.proj(F.scaled_dot_product_attention(q, k, v).reshape(batch, tokens, width))


# %%
from vit_tutorial import VisionTransformer, ViTConfig, evaluate
from vit_tutorial.data import digits

train, test = digits("train"), digits("test")
_, digits_card = load_checkpoint("digits")
train_images = normalize(train.images, digits_card.mean, digits_card.std)
config = ViTConfig(img_size=8, patch_size=2, in_chans=1, embed_dim=32, depth=1, num_heads=4)


def train_briefly(attention, seed):
    """Train a small network with this kind of attention: its losses and its test accuracy."""
    torch.manual_seed(seed)
    model, losses = VisionTransformer(config), []
    for block in model.blocks:
        block.attn.__class__ = attention  # the same parameters, another forward
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        chosen = torch.randint(len(train), (64,))
        loss = F.cross_entropy(model(train_images[chosen]), train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, evaluate(model, test, digits_card.mean, digits_card.std).accuracy


# %%
threads = torch.get_num_threads()
torch.set_num_threads(1)  # so small a network runs fastest on one processor core
kinds = {"right": Attention, "scrambled": Scrambled}
runs = {name: [train_briefly(kind, seed) for seed in range(3)] for name, kind in kinds.items()}
torch.set_num_threads(threads)
for name, of_kind in runs.items():
    print(f"{name:9} test accuracy:", [f"{accuracy:.0f}%" for _, accuracy in of_kind])
plots.loss_curves({name: of_kind[0][0] for name, of_kind in runs.items()}, chance=np.log(10))

# %% [markdown]
# They learn, far better than guessing. In these three pairs the scrambled one is 16 to 29 points less accurate. But who
# builds a network has only one of the two curves (these are of seed 0), and for the first 60 steps the scrambled one is
# the lower: nothing stops, nothing complains. A falling loss does not prove the code right. A law that must hold finds the
# mistake in one line: lesson 03's permutation law, shuffled tokens give shuffled outputs.

# %% claim="far better than guessing"
assert min(accuracy for _, accuracy in runs["scrambled"]) > 30

# %% claim="In these three pairs the scrambled one is 16 to 29 points less accurate"
pairs = zip(runs["right"], runs["scrambled"], strict=True)
gaps = np.array([right - wrong for (_, right), (_, wrong) in pairs])
assert gaps.min() > 8
assert gaps.max() < 37
assert gaps.mean() > 4.3 * gaps.std(ddof=1) / 3**0.5  # t for three pairs: the interval excludes 0

# %% claim="for the first 60 steps the scrambled one is"
for (right, _), (wrong, _) in zip(runs["right"], runs["scrambled"], strict=True):
    early = (np.array(right) - np.array(wrong))[:60].reshape(6, 10).mean(axis=1)
    assert early.min() > 0

# %%
order, scrambled = torch.randperm(7), Scrambled(dim=12, num_heads=3).double()
for layer in (ours, scrambled):
    off = (layer(x[:, order]) - layer(x)[:, order]).abs().max().item()
    print(f"{type(layer).__name__:9} breaks the permutation law by {off:.0e}")

# %% claim="finds the mistake in one line"
assert (ours(x[:, order]) - ours(x)[:, order]).abs().max() < 1e-9
assert (scrambled(x[:, order]) - scrambled(x)[:, order]).abs().max() > 0.05

# %% [markdown] deeper=true
# ## Heads made by hand
#
# What can a head do? *This section takes the sin-cos positions of lesson 03's deeper part.*
#
# **A head that averages** is easy: make every query zero, and each token gets the mean of all values.
#
# **A head that looks one patch to the left** needs a query that matches the *position* of the left
# neighbour. Take sin-cos positions as tokens. One step along a row turns every pair (sin, cos) of the column half by a
# fixed angle. Turning is a linear map, so a matrix can do it, and a matrix is what makes the queries. The keys are the
# positions themselves. Below, the query in row 3, column 5 gives 98% to its left neighbour.

# %%
from vit_tutorial.positions import patch_coordinates, sincos_2d

positions = sincos_2d(patch_coordinates((8, 8)), dim=64)  # (N, D): 64 patches
angles = torch.zeros(64, 32)  # for each pair of channels; the row half stays
angles[:, 16:] = 10_000 ** (-torch.arange(16) / 16)  # the column half: one step to the left
turn = rotate(torch.eye(64), angles)  # (D, D), the matrix of this head's queries

one_left = sincos_2d(patch_coordinates((8, 8)) - torch.tensor([0.0, 1.0]), dim=64)
torch.testing.assert_close(positions @ turn, one_left)  # it does move each position to the left

# %%
left_scores = (positions @ turn) @ positions.T  # (N, N)
left_head = (8 * left_scores).softmax(dim=-1)  # the larger the factor, the sharper the look
mean_head = torch.zeros(64, 64).softmax(dim=-1)
patch = 8 * 3 + 5
row, column = divmod(left_head[patch].argmax().item(), 8)
print(f"row 3, column 5 looks at row {row}, column {column}, weight {left_head[patch].max():.3f}")

# %% claim="gives 98% to its left neighbour"
assert (row, column) == (3, 4)
assert 0.975 < left_head[patch].max() < 0.993

# %% [markdown]
# To describe a head, we ask: how much weight goes to the patch so many rows and columns away, on average
# over all queries?


# %%
def by_offset(weights, grid, reach=4):
    """Mean weight by offset: (..., N, N) -> (..., 2 reach + 1, 2 reach + 1)."""
    places = patch_coordinates(grid).long()
    away = places[None, :] - places[:, None]  # (N, N, 2): from the query to the key
    steps = list(range(-reach, reach + 1))
    means = []
    for offset in torch.cartesian_prod(torch.tensor(steps), torch.tensor(steps)):
        pairs = (away == offset).all(dim=-1)  # (N, N): those that lie so far apart
        means.append(weights[..., pairs].mean(dim=-1))
    return torch.stack(means, dim=-1).unflatten(-1, (len(steps), len(steps)))


maps = by_offset(torch.stack([left_head, mean_head]), (8, 8))
plots.offset_maps(maps.numpy(), ["looks one to the left", "averages"], even=1 / 64)

# %% [markdown]
# The square in the middle is the query itself. "4× even" means four times the weight that each token would
# have if all had the same. The head on the left has 98% of its weight one column to the left.
#
# And the trained heads? We let the network look at 64 pieces of four photographs (chelsea, astronaut, coffee, rocket:
# Stéfan van der Walt, NASA, Rachel Michetti, SpaceX; NASA's in the public domain, the others CC0) and take the mean. Layers down, heads across.

# %% claim="has 98% of its weight one column to the left"
assert divmod(int(maps[0].argmax()), 9) == (4, 3)
assert 0.97 < maps[0].max() < 0.99

# %%
shots = [photographs.chelsea(), photographs.astronaut(), photographs.coffee(), photographs.rocket()]
large = torch.stack([fit_image(shot, 128).pixels for shot in shots])  # (4, 3, 128, 128)
pieces = rearrange(large, "b c (r p) (s q) -> (b r s) c p q", p=32, q=32)  # (64, 3, 32, 32)
many = record_attention(vit, normalize(pieces, card.mean, card.std))
patches_only = [weights[:, :, 1:, 1:].mean(dim=0) for weights in many.weights]  # (h, 64, 64) each
maps = by_offset(rearrange(torch.stack(patches_only), "l h q k -> (l h) q k"), (8, 8))
names = [f"layer {layer}, head {head}" for layer in range(6) for head in range(4)]
plots.offset_maps(maps.numpy(), names, even=1 / 65)

# %% [markdown]
# No head is as strict as ours. In layer 0 the offset tells little: none gets more than 1.3 times the even share. In
# layers 1 and 2 it tells most, 1.7 to 4.7 times. Head 0 of layer 1 gives almost half of its weight to the query's own row,
# where an eighth would be even; head 3 of layer 2 gives 44% to the two rows below. In layer 3, head 1 takes 71% from the
# rows above. In its other heads and in layers 4 and 5, no offset gets more than 1.5 times the even share, but some heads
# lean: head 0 of layer 5 takes 59% from the rows below, where 44% would be even. All this is a mean over many pictures;
# on one picture, a head follows what is in it.

# %% claim="none gets more than 1.3 times the even share"
assert 1.25 < maps[:4].max() * 65 < 1.36

# %% claim="it tells most, 1.7 to 4.7 times"
most = maps.amax(dim=(1, 2)).reshape(6, 4) * 65
assert 1.58 < most[1:3].min() < 1.75
assert 4.5 < most[1:3].max() < 4.9

# %% claim="In its other heads and in layers 4 and 5, no offset gets more than 1.5 times"
most = maps.amax(dim=(1, 2)) * 65
assert torch.cat([most[[12, 14, 15]], most[16:]]).max() < 1.58

# %% claim="takes 59% from the rows below, where 44% would be even"
where = patch_coordinates((8, 8))
down = where[None, :, 0] - where[:, None, 0]
share = patches_only[5][0] / patches_only[5][0].sum(dim=-1, keepdim=True)
assert 0.565 < (share * (down > 0)).sum(dim=-1).mean() < 0.615
assert abs((down > 0).float().mean() - 0.4375) < 1e-6

# %% claim="gives almost half of its weight to the query's own row"
where = patch_coordinates((8, 8))
down = where[None, :, 0] - where[:, None, 0]  # (query, key): rows below
share = patches_only[1][0] / patches_only[1][0].sum(dim=-1, keepdim=True)
assert 0.42 < (share * (down == 0)).sum(dim=-1).mean() < 0.5

# %% claim="gives 44% to the two rows below"
where = patch_coordinates((8, 8))
down = where[None, :, 0] - where[:, None, 0]
share = patches_only[2][3] / patches_only[2][3].sum(dim=-1, keepdim=True)
assert 0.41 < (share * ((down == 1) | (down == 2))).sum(dim=-1).mean() < 0.47

# %% claim="takes 71% from the rows above"
where = patch_coordinates((8, 8))
down = where[None, :, 0] - where[:, None, 0]
share = patches_only[3][1] / patches_only[3][1].sum(dim=-1, keepdim=True)
assert 0.68 < (share * (down < 0)).sum(dim=-1).mean() < 0.74

# %% [markdown]
# **Play.** One head, and one patch that asks. Choose layer, head and patch.

# %%
patches = {"eye": (3, 2), "nose": (6, 4), "forehead": (0, 4), "background": (7, 7)}


def show(patch, layer, head):
    map_ = map_from(layer, head, patches[patch])
    row, column = divmod(map_.argmax().item(), 8)
    words = (
        f"Layer {layer}, head {head}, asked by the {patch}: most from the patch in row {row}, "
        f"column {column} ({map_.max():.0%})."
    )
    return plots.map_pair(seen, map_, patches[patch]), words


flipbook(show, patch=list(patches), layer=range(6), head=range(4))


# %% exercise="04.6"
def my_looking_head(grid, step):
    """The weights of an ideal head that always looks the same step away.

    grid: (rows, columns) of patches, numbered row by row.
    step: (down, right), whole numbers; (0, -1) is one patch to the left, (1, 0) one patch below.
    A patch whose step leads out of the grid looks at itself.
    Returns (N, N), float32, N = rows * columns: entry [i, j] is the weight that query i gives to key j.
    """
    ### BEGIN SOLUTION
    rows, columns = grid
    weights = torch.zeros(rows * columns, rows * columns)
    for query in range(rows * columns):
        row, column = query // columns + step[0], query % columns + step[1]
        inside = 0 <= row < rows and 0 <= column < columns
        weights[query, row * columns + column if inside else query] = 1.0
    return weights
    ### END SOLUTION


# %%
check("04.6", my_looking_head)
# hint("04.6")

# %% [markdown] solved_only=true
# **Why.** A number in the sequence says nothing about borders. So turn it into row and column, step, test
# whether both are still inside, and turn it back.
#
# **The common wrong answer** steps in the sequence: patch i looks at i - 1. Then the first patch of each row
# looks at the *last* patch of the row above, at the other side of the picture.

# %% [markdown] deeper=true
# ## The cost, measured
#
# On one core of the machine that ran this notebook: the weights of one head with d = 64, and beside them one linear layer
# on the same tokens. On axes that are both logarithmic, T² is a straight line of slope 2.

# %%
from timeit import repeat

lengths, linear = [64, 128, 256, 512, 1024, 2048], nn.Linear(64, 64)
jobs = {
    "attention": "torch.softmax(torch.mm(tokens, tokens.T, out=weights), dim=-1, out=weights)",
    "linear": "linear(tokens)",
}
seconds, mebibytes = {name: [] for name in jobs}, {name: [] for name in jobs}
torch.set_num_threads(1)
with torch.no_grad():
    for T in lengths:
        tokens, weights = torch.randn(T, 64), torch.empty(T, T)
        for name, job in jobs.items():  # several times, and the fastest counts
            times = repeat(job, globals=globals(), number=1, repeat=6 + 10_000 // T)
            seconds[name].append(min(times))
        mebibytes["attention"].append(weights.nbytes / 2**20)
        mebibytes["linear"].append(linear(tokens).nbytes / 2**20)
torch.set_num_threads(threads)


# %%
def slope(curve):  # of the last four points, where fixed costs no longer matter
    return np.polyfit(np.log(lengths[2:]), np.log(curve[2:]), deg=1)[0]


named = [
    {f"{n}, slope {slope(c):.1f}": c for n, c in kind.items()} for kind in (seconds, mebibytes)
]
plots.cost_curves(lengths, *named)

# %% [markdown]
# The memory of the weights has slope 2 exactly, the linear layer's slope 1. The time of attention grows much faster than
# the linear layer's. (For few tokens it goes into starting the work; weights too many for the processor's cache cost extra.)

# %% claim="has slope 2 exactly"
assert abs(slope(mebibytes["attention"]) - 2) < 1e-6
assert abs(slope(mebibytes["linear"]) - 1) < 1e-6

# %% claim="grows much faster than the linear layer's"
growth = {name: curve[-1] / curve[0] for name, curve in seconds.items()}
assert growth["attention"] > 5 * growth["linear"]

# %% [markdown] deeper=true
# ## The questions people ask
#
# **How do I get the attention weights out of a network?** The fused function does not return them, and a function
# that PyTorch calls after the layer, a *hook*, sees only its output. `nn.MultiheadAttention` gives them with `need_weights=True` (the
# mean of the heads, unless you say `average_attn_weights=False`). For the networks of this course,
# `record_attention` reads them without changing anything. Here they are once more, by hand:

# %%
with torch.no_grad():
    block = vit.blocks[0]
    tokens = block.norm1(vit.embed(normalize(fitted.pixels[None], card.mean, card.std)))
    qkv = rearrange(block.attn.qkv(tokens), "b t (three h d) -> three b h t d", three=3, h=4)
    by_hand = (qkv[0] @ qkv[1].mT / 32**0.5).softmax(dim=-1)
torch.testing.assert_close(by_hand, record.weights[0])
print("recorded and by hand agree:", tuple(by_hand.shape))

# %% claim="`record_attention` reads them without changing anything"
assert (by_hand - record.weights[0]).abs().max() < 1e-5

# %% [markdown]
# Read them in evaluation mode. In training, dropout (lesson 05) sets some weights to 0 and enlarges the others, and what
# you read no longer adds up to 1:

# %%
dropping = nn.MultiheadAttention(12, 3, dropout=0.1, batch_first=True).double()
print("rows in training:  ", [round(r, 2) for r in dropping(x, x, x)[1][0].sum(-1).tolist()])
print("rows in evaluation:", [round(r, 2) for r in dropping.eval()(x, x, x)[1][0].sum(-1).tolist()])

# %% claim="what you read no longer adds up to 1"
assert (dropping.train()(x, x, x)[1].sum(-1) - 1).abs().max() > 0.02
assert (dropping.eval()(x, x, x)[1].sum(-1) - 1).abs().max() < 1e-9

# %% [markdown]
# **Why divide by √d and not by d? Could the network not learn the factor itself?** It could: a factor on the
# scores is a factor on the parameters that make the queries. √d gives random vectors of size 1 scores of size 1. Our
# networks start lower still, because their parameters start small; training then sets the scale. And once trained, a
# network is used to it. (1/d has its place too: as training aligns queries with keys,
# scores grow like d, and Yang et al. 2022, arXiv 2203.03466, use it to carry settings from small networks to
# wide ones.)
#
# **Predict.** The digits network was trained with √d. What happens if we now leave the scale away, or divide
# by d, by a factor on the parameters that make its queries?

# %% claim="start lower still, because their parameters start small; training then sets the scale"
with torch.no_grad():
    for model, least, most in (
        (VisionTransformer(digits_card.config), 0, 0.2),
        (load_checkpoint("digits")[0], 0.5, 3),
    ):
        first = model.blocks[0]
        stream = first.norm1(model.embed(normalize(test.images, digits_card.mean, digits_card.std)))
        qkv = rearrange(first.attn.qkv(stream), "b t (three h d) -> three b h t d", three=3, h=4)
        size = (qkv[0] @ qkv[1].mT / 16**0.5).std()
        assert least < size
        assert size < most

# %%
results = {}
for name, factor in (("√d, as trained", 1.0), ("none", 16**0.5), ("d", 16**-0.5)):
    model, _ = load_checkpoint("digits")  # d = 64 / 4 = 16
    for block in model.blocks:
        block.attn.qkv.weight.data[:64] *= factor  # the first D rows make the queries
        block.attn.qkv.bias.data[:64] *= factor
    results[name] = evaluate(model, test, digits_card.mean, digits_card.std).accuracy
    print(f"divided by {name:15} accuracy {results[name]:5.1f}%")

# %% [markdown]
# Harder weights cost this network ten points, softer ones more than forty.
#
# **Do more heads cost more?** Not in parameters and not in multiplications: each head is narrower by as much
# as there are more of them. Only the weights become more.

# %% claim="cost this network ten points, softer ones more than forty"
assert 7 < results["√d, as trained"] - results["none"] < 14
assert results["√d, as trained"] - results["d"] > 40

# %%
for heads in (1, 3, 12):
    layer = Attention(dim=768, num_heads=heads)
    parameters = sum(p.numel() for p in layer.parameters())
    multiplications = heads * 2 * 197**2 * (768 // heads)  # q kᵀ, then weights times v
    stored = heads * 197**2 * 4 / 2**20
    print(
        f"{heads:2} heads: {parameters:,} parameters, {multiplications:,} multiplications, {stored:.1f} MiB"
    )

# %% claim="Not in parameters and not in multiplications"
counts = {sum(p.numel() for p in Attention(dim=768, num_heads=h).parameters()) for h in (1, 12)}
assert len(counts) == 1
assert len({h * 2 * 197**2 * (768 // h) for h in (1, 3, 12)}) == 1

# %% [markdown]
# **Is attention linear in T?** No. There are variants that are; ViT does not use them. But attention is more
# than the T×T weights: its four linear maps (q, k, v, proj) do grow with T only, and at ViT's usual size, T = 197, they
# cost *more*: the weights take 11%. They take half at T = 2D.

# %%
D = 768
for T in (197, 785, 1536, 3137):
    linear_part, weights_part = 4 * T * D**2, 2 * T**2 * D  # multiplications
    print(
        f"T = {T:4}: the weights take {weights_part / (linear_part + weights_part):.0%} of the attention layer"
    )


# %% claim="the weights take 11%. They take half at T = 2D"
def share(tokens):
    return 2 * tokens**2 * D / (4 * tokens * D**2 + 2 * tokens**2 * D)


assert 0.11 < share(197) < 0.12
assert abs(share(2 * D) - 0.5) < 1e-9

# %% [markdown] deeper=true
# ## A stretch
#
# Fused attention never holds all T×T weights (Dao et al. 2022, arXiv 2205.14135). Take the first step
# yourself: write `attention_in_blocks(q, k, v, size)` that works on `size` queries at a time, so that it
# holds size×T weights only, and prove it equal to `F.scaled_dot_product_attention`. That is easy, because
# every query has its own softmax. Then think about blocks of *keys*: how could you compute a softmax whose
# row you never see as a whole? (Keep the largest score so far, and correct what you have already added up.)
