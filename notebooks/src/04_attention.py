# %% [markdown]
# # 04 · Attention
#
# **How does a token find out what the others know?**
#
# So far each token knows its own patch and its own place, and nothing else. Attention is the one layer of a
# Vision Transformer in which tokens exchange anything; every other layer treats each token alone. The whole
# of it fits in one line, and in this lesson you write that line, and know why each sign of it is there.
#
# **You will**
#
# - compute attention for three tokens by hand, then in a loop, then with matrices,
# - see why scores are divided by the square root of d, and what happens if they are not,
# - forbid a token to look somewhere, without a NaN in the loss,
# - give attention several heads, and prove yours equal to the library's,
# - see what heads can do and what those of a trained network do,
# - measure what twice as many tokens cost.

# %% [markdown]
# ## A patch that asks
#
# A patch of 4×4 pixels with a bit of an eye in it cannot know whether it belongs to a cat. It has to ask
# the others. Below, the trained network of lesson 00 looks at Chelsea the cat (photograph by Stéfan van der
# Walt, public domain). The small square marks the patch that asks.

# %%
import numpy as np
import torch
from skimage import data as photographs

from vit_tutorial import fit_image, load_checkpoint, normalize, open_image, plots, record_attention

vit, card = load_checkpoint("cifar10")
photo = open_image(photographs.chelsea()).resize((676, 450))
fitted = fit_image(photo, 32)
record = record_attention(vit, normalize(fitted.pixels[None], card.mean, card.std))


# %% [markdown]
# **Predict.** The patch shows the lower part of the eye on the left. A *head* is one way of asking, and this layer
# has four. Where do you expect the most attention: near the patch, or far away? At the same place for all
# four heads?


# %%
seen = np.asarray(fitted.view())


def map_from(layer, head, patch):
    """What one patch (row, column) attends to in one head: (rows, columns)."""
    weights = record.weights[layer][0, head, record.token(patch), 1:]  # (64,), without CLS
    return weights.unflatten(0, record.grid).numpy()


titles = [f"layer 0, head {head}" for head in range(4)]
plots.map_row(seen, [map_from(0, head, (3, 2)) for head in range(4)], titles, query=(3, 2))

# %% [markdown]
# Above, the photograph is bright where this patch takes most from, below is the map itself, with its scale: an even
# share would be 1.5%. In this first layer no head is far from that, and each differs from the others: head 1 takes
# most from around the eye, head 2 from the left edge, head 3 from the nose and below it. By the end of this lesson
# you will have written all that it takes to compute such a picture.
#
# ## Three tokens by hand
#
# Three tokens are enough to see everything. From each token, attention makes three vectors:
#
# - a **query** q (blue in this lesson): what the token is looking for,
# - a **key** k (orange): what it can be found by,
# - a **value** v (green): what it hands over to whoever finds it.
#
# In a network, three linear layers compute them from the token. Here we simply write them down, with d = 2
# numbers in each. T is the number of tokens: T = 3.

# %%
q = torch.tensor([[1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])  # (T, d): a row for each token
k = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
v = torch.tensor([[0.0, 6.0], [6.0, 0.0], [-3.0, -3.0]])

# %% [markdown]
# Token 0 asks. The **score** of a key is the dot product of the query with it: multiply number by number,
# add up. It is large where both point the same way, zero at a right angle, negative where they oppose.
#
# **Predict.** Work the three scores of query 0 out in your head. Which key matches best?

# %%
scores = [(q[0] * key).sum() for key in k]
for j, score in enumerate(scores):
    print(f"q0 · k{j} = {q[0].tolist()} · {k[j].tolist()} = {score:g}")

# %% [markdown]
# Scores become **weights** by the *softmax*: take the exponential of each, which makes it positive, and
# divide by the sum, which makes them add up to 1. With s for a score and w for a weight,
# $w_j = e^{s_j} / (e^{s_0} + e^{s_1} + e^{s_2})$.

# %%
exponentials = torch.stack(scores).exp()
weights = exponentials / exponentials.sum()
for j in range(3):
    print(f"e^{scores[j]:<2g} = {exponentials[j]:.3f}   weight {weights[j]:.3f}")
print(f"sum  = {exponentials.sum():.3f}   weights {weights.sum():.3f}")

# %% [markdown]
# What token 0 gets, its **output**, is the sum of the values, each times its weight.

# %%
output = torch.zeros(2)
for j in range(3):
    output += weights[j] * v[j]
    print(f"+ {weights[j]:.3f} × {v[j].tolist()}")
print("= ", [round(number, 3) for number in output.tolist()])

# %% [markdown]
# ## A loop over queries
#
# The same for every token, one query after the other.
#
# **Predict.** Query 1 lies exactly between the keys 0 and 1. Query 2 is (0, 0): it asks for nothing. What
# will each of them get?


# %%
def attention_loop(q, k, v):
    """Attention without a scale: (T, d) each -> outputs (T, d) and weights (T, T)."""
    outputs, rows = [], []
    for query in q:  # one token asks
        scores = torch.stack([query @ key for key in k])  # all answer, itself too
        weights = scores.exp() / scores.exp().sum()
        outputs.append(sum(weight * value for weight, value in zip(weights, v, strict=True)))
        rows.append(weights)
    return torch.stack(outputs), torch.stack(rows)


outputs, table = attention_loop(q, k, v)
plots.attention_by_hand(q.numpy(), k.numpy(), v.numpy(), table.numpy(), outputs.numpy())

# %% [markdown]
# Four things to see:
#
# - **Each row adds up to 1.** A token has one unit of attention to give away.
# - **The table is not symmetric.** Token 0 takes little from token 2; token 2 takes a third from token 0.
#   Asking and being found are two things; that is why there are queries *and* keys.
# - **A query of zeros gets the mean of the values**: every score is 0, so all weights are equal. Attention
#   cannot look at nothing.
# - **Every output lies inside the triangle** of the values. Attention mixes what is there; it makes nothing
#   new. New things are made by the layers around it (lesson 05).

# %%
torch.testing.assert_close(outputs[2], v.mean(dim=0))
print("query 2 got", outputs[2].tolist(), "and the mean of the values is", v.mean(dim=0).tolist())

# %% [markdown]
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
# $e^{1000}$ is more than a float can hold: it becomes infinite, and infinite divided by infinite is "not a
# number", NaN. Yet the right weights are perfectly ordinary. Adding one number to all scores multiplies
# every exponential by the same factor, and the division takes it out again. So we may add, or subtract, any
# number we like.


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
from vit_tutorial.lessons import check, hint

check("04.1", my_softmax)
# hint("04.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** After the subtraction the largest score of a row is 0, so its exponential is 1: nothing can
# overflow, and the sum is at least 1, so nothing is divided by zero. A score of minus infinity becomes a
# weight of exactly 0, which masks will need.
#
# **The common wrong answer** subtracts the largest score of the *whole* tensor. It passes every small test.
# But in a row that lies far below the maximum all exponentials become 0, and 0/0 is NaN again.

# %% [markdown]
# ## Matrices
#
# All scores at once are one matrix product: row i of `q` times column j of the transposed `k` is the score
# of query i and key j. Then a softmax along each row, then one more product for the weighted sums.

# %%
scores = q @ k.T  # (T, d) @ (d, T) -> (T, T): queries down, keys across
weights = scores.softmax(dim=-1)  # (T, T): each row adds up to 1
outputs_at_once = weights @ v  # (T, T) @ (T, d) -> (T, d)

torch.testing.assert_close(outputs_at_once, outputs)
torch.testing.assert_close(weights, table)

# %% [markdown]
# No message means that they agree. Three lines, no loop; `dim=-1`, the last axis, is the axis of the keys.
#
# A common mistake is a softmax over the other axis. The shapes stay right, so nothing complains.
#
# **Predict.** What will the rows add up to, and what the columns?

# %%
tables = [scores, scores.softmax(dim=-1), scores.softmax(dim=0)]
plots.weight_tables([t.numpy() for t in tables], ["scores", "dim=-1, right", "dim=0, wrong"])

# %% [markdown]
# The numbers at the right are the sums of the rows. With `dim=0` the columns add up to 1: now each *key*
# shares itself out among the queries. One token gets more than its due, another less.
#
# ## Why divide by the square root of d?
#
# A dot product of vectors with d numbers is a sum of d products. If the numbers are random with mean 0 and
# variance 1, independent of each other, then each product has variance 1 too, and variances of independent
# things add up: the score has variance d. Its typical size, the standard deviation, is √d.
#
# **Predict.** How large is a typical score for d = 64, the width of a head in ViT-B?

# %%
torch.manual_seed(0)
for d in (4, 64, 1024):
    queries, keys = torch.randn(2, 10_000, d)
    score = (queries * keys).sum(dim=-1)  # 10,000 dot products
    print(f"d = {d:4}: variance {score.var():7.1f}, typical size {score.std():5.1f}")

# %% [markdown]
# Scores of ±8 are hard on a softmax: $e^8$ is about 3000 times $e^0$. One key takes nearly all.
#
# How evenly weights are spread is measured by their **entropy**, $H = -\sum_j w_j \ln w_j$. It is 0 when all
# is on one key, and ln T when all T keys get the same. $e^H$ can be read as a number of keys: among how
# many the attention is, in effect, shared.

# %%
for row in ([1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]):
    entropy = torch.special.entr(torch.tensor(row)).sum()  # entr(w) = -w ln w, and 0 for w = 0
    print(f"{row!s:26} entropy {entropy:.2f}, as if shared among {entropy.exp():.1f} keys")

# %% [markdown]
# There is a second harm. A network learns through gradients, and the softmax passes on
# $\partial w_i / \partial s_j = w_i (\delta_{ij} - w_j)$, where $\delta_{ij}$ is 1 for i = j and else 0. When
# one weight is almost 1 and the others almost 0, all of these are almost 0.

# %%
s = torch.tensor([2.0, -2.0, 0.0])
w = s.softmax(dim=-1)
by_formula = torch.diag(w) - torch.outer(w, w)
by_autograd = torch.autograd.functional.jacobian(lambda s: s.softmax(dim=-1), s)
torch.testing.assert_close(by_formula, by_autograd)
for factor in (1, 4, 16):
    w = (factor * s).softmax(dim=-1)
    print(f"scores × {factor:2}: largest gradient {(torch.diag(w) - torch.outer(w, w)).max():.1e}")

# %% [markdown]
# So we compare three choices on random queries and 64 random keys: leave the scores as they are, divide
# them by √d, divide them by d.
#
# **Predict.** For each choice: what does the entropy do when d grows from 4 to 1024?

# %%
torch.manual_seed(0)
dims, keys_each = [4, 16, 64, 256, 1024], 64
scales = {
    "no scale": lambda d: 1,
    "divided by √d": lambda d: d**-0.5,
    "divided by d": lambda d: 1 / d,
}
variances, entropies, reactions = [], {n: [] for n in scales}, {n: [] for n in scales}
for d in dims:
    queries, keys = torch.randn(200, 1, d), torch.randn(200, keys_each, d)
    scores = (queries * keys).sum(dim=-1)  # (200, 64)
    variances.append(scores.var().item())
    for name, scale in scales.items():
        w = (scores * scale(d)).softmax(dim=-1)
        gradients = torch.diag_embed(w) - w[:, :, None] * w[:, None, :]
        entropy = torch.special.entr(w).sum(dim=-1).mean() / np.log(keys_each)
        entropies[name].append(entropy.item())
        reactions[name].append(gradients.norm(dim=(1, 2)).median().item())
plots.score_scales(dims, variances, entropies, reactions)

# %% [markdown]
# - **Left**: the variance is d, as computed.
# - **Middle**: with no scale the weights harden with d, until one key has all. Divided by d they become
#   even, whatever the tokens hold: a plain average. Divided by √d they stay where they were, for every d.
# - **Right**: the size of the softmax's gradients (the norm of the table above, for the median query). With
#   no scale they first grow and then vanish: a wide head could not learn to look elsewhere.
#
# So the score is divided by √d, and the formula is complete (Vaswani et al. 2017, arXiv 1706.03762,
# equation 1):
#
# $$\mathrm{attention}(q, k, v) = \mathrm{softmax}\left(\frac{q\,k^T}{\sqrt{d}}\right) v$$
#
# The number that scores are divided by is also called a *temperature*.
#
# **Play.** One query, 16 keys, random vectors of width d. Move `d` and `temperature`. For each d, which
# temperature gives neither one spike nor a plain average?


# %%
from vit_tutorial import flipbook

torch.manual_seed(2)
wide_query, wide_keys = torch.randn(1024), torch.randn(16, 1024)


def draw(d, temperature):
    scores = wide_keys[:, :d] @ wide_query[:d]
    w = (scores / temperature).softmax(dim=-1)
    entropy = torch.special.entr(w).sum()
    said = f"entropy {entropy / np.log(16):.2f} of the greatest, as if shared among {entropy.exp():.1f} keys"
    title = f"d = {d}, scores divided by {temperature:g}" + " = √d" * (temperature**2 == d)
    return plots.weight_bars(w.numpy(), title, said), f"{title}: {said}."


flipbook(
    draw,
    d=[4, 64, 1024],
    temperature=[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
    start={"d": 64, "temperature": 1.0},
)

# %% [markdown]
# Three of its settings as still pictures: no scale, √d, and d.

# %%
from IPython.display import display

for temperature in (1.0, 8.0, 64.0):
    display(draw(64, temperature)[0])

# %% [markdown]
# The order matters: first divide, then the softmax. A common mistake does it the other way round.
#
# **Predict.** What do the 16 weights then add up to, for d = 64?

# %%
wide_scores = wide_keys[:, :64] @ wide_query[:64]
print("scaled first:", (wide_scores / 64**0.5).softmax(dim=-1).sum().item())
print("scaled after:", (wide_scores.softmax(dim=-1) / 64**0.5).sum().item())

# %% [markdown]
# Scaled afterwards, the weights are as hard as before, and the whole output has shrunk to an eighth.


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

# %% [markdown]
# ## Masks
#
# Sometimes a query may not look at a key. In a ViT that classifies, every patch may look at every other.
# But images of different sizes in one batch are padded, and the padding must stay unseen; some kinds of
# training hide patches; and in a language model no word may look at the words after it. Let us take that
# last rule, because it is easy to see: query i may look at the keys 0 to i.
#
# There are three ways to write it, and one is right.
#
# **Predict.** In which of the three do the rows add up to 1? In which does a forbidden key get nothing?

# %%
scores = q @ k.T / 2**0.5
allowed = torch.ones(3, 3).tril().bool()  # True: may look
tables = [
    scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1),
    scores.softmax(dim=-1).masked_fill(~allowed, 0),
    scores.masked_fill(~allowed, 0).softmax(dim=-1),
]
titles = ["−∞ before the softmax", "0 after the softmax", "0 before the softmax"]
plots.weight_tables([t.numpy() for t in tables], titles)

# %% [markdown]
# - **−∞ before** is right: $e^{-\infty} = 0$, and the other keys share the whole.
# - **0 after** takes the forbidden weight away and gives it to nobody: rows add up to less than 1.
# - **0 before** forbids nothing: a score of 0 is an ordinary score, $e^0 = 1$.
#
# **Predict.** And if a query may look at *no* key?

# %%
nobody = allowed.clone()
nobody[1] = False  # query 1 may look at nothing
masked = scores.masked_fill(~nobody, -torch.inf)
plots.weight_tables([masked.numpy(), masked.softmax(dim=-1).numpy()], ["scores", "weights"])

# %% [markdown]
# A row of −∞ has no softmax: 0/0. NaN is catching, too: one NaN in one row makes the loss NaN, then every
# gradient, then every parameter. Leave each query at least one key (itself, for example), or use a function
# that defines this case. PyTorch's fused attention does, in recent versions: its answer is 0.

# %%
import torch.nn.functional as F

print(F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=nobody)[0])

# %% [markdown]
# One more trap: PyTorch has two conventions. In `F.scaled_dot_product_attention` a True means *may look*, in
# `nn.MultiheadAttention` it means *may not*. The inverted mask raises no error.
#
# **Predict.** With the mask `allowed` from above, what is left for the last query in each of them?

# %%
from torch import nn

library = nn.MultiheadAttention(embed_dim=2, num_heads=1, batch_first=True)
for name, mask in (("attn_mask=allowed", allowed), ("attn_mask=~allowed", ~allowed)):
    w = library(q[None], k[None], v[None], attn_mask=mask)[1]
    print(f"{name:18}: the last query gives each key", [round(x, 2) for x in w[0, 2].tolist()])

# %% [markdown]
# The last query may look at all three keys. But `nn.MultiheadAttention` reads `allowed` the other way round,
# and then it has no key left at all.


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
# ## Several heads
#
# One row of weights makes one blend. A patch may need two things at once, the patch to its left *and* the
# sky above, and the mean of the two is neither. So attention is done h times side by side, each time with
# its own queries, keys and values: h **heads**. To keep the cost, each head works with narrower vectors,
# d = D/h numbers, where D is the width of a token. At the end the h outputs are laid side by side again, and
# one more linear layer, `proj`, mixes them.
#
# So a table (T, D) is split into h tables (T, d). Below is a tiny one, T = 4 tokens of D = 6 numbers, for
# h = 2 heads. Each number is named after where it comes from: "2.5" is number 5 of token 2.

# %%
from einops import rearrange

names = torch.cartesian_prod(torch.arange(4), torch.arange(6)).view(1, 4, 6, 2)  # (B, T, D, name)
split = rearrange(names, "b t (h d) name -> b h t d name", h=2)  # (B, h, T, d, name)
viewed = names.view(1, 2, 4, 3, 2)  # of the same shape

# %% [markdown]
# **Predict.** `viewed` has the same shape as `split`, (1, 2, 4, 3), and the same 24 numbers. Each head should
# see a part of *every* token. What does head 0 see in each?

# %%
tables = [names[0], split[0, 0], split[0, 1], viewed[0, 0], viewed[0, 1]]
titles = ["4 tokens", "split: head 0", "head 1", "view: head 0", "head 1"]
plots.token_tables([t.numpy() for t in tables], titles)

# %% [markdown]
# A colour is a token. Split right, each head has a row for every token. With `view`, head 0 holds the tokens
# 0 and 1, each cut into two rows that pose as two tokens; head 1 holds the other two. The heads do not even
# see the same tokens. `view` and `reshape` never move a number; they only say anew where a row ends. Here
# the axes h and t must change places, and only a transposition, or an einops pattern, does that.


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
# **The common wrong answer** is `x.reshape(B, h, T, d)` in one step: the picture above.

# %% [markdown]
# Now all of it. One linear layer, `qkv`, makes queries, keys and values together: of its 3D outputs the first
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
# The numbers of different tokens end up in one row. It trains all the same, as you will see below.

# %% [markdown]
# ## The package's attention
#
# This is the layer that every network of this course uses, in full. `F.scaled_dot_product_attention` is
# PyTorch's fused version of your line: one call that need not store the T×T table. The other branch is your
# line. Which of the two is faster depends on the processor and on T, so there is a switch, `fused_attn`. `rope` are
# the rotation angles of lesson 03.

# %%
from torch import Tensor

from vit_tutorial.positions import rotate

# %% definition="vit_tutorial.model.Attention"

# %% [markdown]
# ## Proof
#
# Is it right? First, the fused function against the three lines, in float64, where rounding hides nothing.

# %%
torch.manual_seed(0)
queries, keys, values = torch.randn(3, 2, 4, 7, 5, dtype=torch.float64)  # each (B, h, T, d)
by_hand = (queries @ keys.mT / 5**0.5).softmax(dim=-1) @ values  # .mT swaps the last two axes
torch.testing.assert_close(by_hand, F.scaled_dot_product_attention(queries, keys, values))

# %% [markdown]
# Then the whole layer against PyTorch's `nn.MultiheadAttention`, with the same random parameters. Our qkv
# layer is its `in_proj`, our proj its `out_proj`.

# %%
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
# The output's shape is right. But the weights are 7 tables of 2×2: token i of one image looks at token i of
# the *other image*. So what the network says of a picture depends on which others came with it. The second
# line is the test that finds this.
#
# ## Shuffled tokens
#
# **Predict.** Shuffle the seven tokens of an image before they enter the layer. What happens to its outputs?

# %%
order = torch.randperm(7)
torch.testing.assert_close(ours(x[:, order]), ours(x)[:, order])
print("order", order.tolist(), "the outputs come in that order, otherwise unchanged")

# %% [markdown]
# Nothing in the formula knows where a token stands in the sequence, so shuffled tokens give shuffled outputs:
# attention(shuffled x) = shuffled attention(x). This is the *permutation law*, and the reason why lesson 03
# had to add positions to the tokens.
#
# ## A mistake that still trains
#
# Now we build the mistake of the picture above, heads by `view`, and train it against the right one: two
# networks of one layer, the handwritten digits, 150 steps. All else is the same, the random seed too.
#
# **Predict.** Will the scrambled network learn anything? How far will it lag behind?


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


def train_briefly(attention):
    """Train a small network with this kind of attention: its losses and its test accuracy."""
    torch.manual_seed(0)
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
threads, curves = torch.get_num_threads(), {}
torch.set_num_threads(1)  # so small a network runs fastest on one processor core
for name, attention in (("right", Attention), ("scrambled", Scrambled)):
    losses, accuracy = train_briefly(attention)
    curves[f"{name}: {accuracy:.0f}% of the test digits right"] = losses
torch.set_num_threads(threads)
plots.loss_curves(curves, chance=np.log(10))

# %% [markdown]
# It learns, far better than guessing (10%), and at first even faster. Beside the right one you see that
# something is missing. But who builds a network has only one of the two curves, and this one looks like any
# other. That is what makes such a mistake dangerous: nothing stops, nothing complains, and some accuracy is
# gone without a trace. A falling loss proves nothing. A law that must hold finds the mistake in one line:

# %%
scrambled = Scrambled(dim=12, num_heads=3).double()
for layer in (ours, scrambled):
    off = (layer(x[:, order]) - layer(x)[:, order]).abs().max().item()
    print(f"{type(layer).__name__:9} breaks the permutation law by {off:.0e}")

# %% [markdown]
# ## What heads can do
#
# Before we look at trained heads, let us make two by hand, to know what to look for.
#
# **A head that averages** is easy: make every query zero, and each token gets the mean of all values.
#
# **A head that looks one patch to the left** needs a query that matches the *position* of the left
# neighbour. Take lesson 03's sin-cos positions p as tokens. There, one step along a row turns every pair
# (sin, cos) of the column half by a fixed angle. Turning is a linear map, so a matrix can do it, and a
# matrix is what makes the queries. The keys are the positions themselves.

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
# have if all had the same.
#
# **Predict.** The trained network has 6 layers of 4 heads, and nobody told them what to do. Will some have
# become like one of these two?
#
# We let it look at 64 pieces of four photographs (chelsea, astronaut, coffee, rocket: Stéfan van der Walt,
# NASA, Rachel Michetti, SpaceX; public domain or CC0) and take the mean.

# %%
shots = [photographs.chelsea(), photographs.astronaut(), photographs.coffee(), photographs.rocket()]
large = torch.stack([fit_image(shot, 128).pixels for shot in shots])  # (4, 3, 128, 128)
pieces = rearrange(large, "b c (r p) (s q) -> (b r s) c p q", p=32, q=32)  # (64, 3, 32, 32)
many = record_attention(vit, normalize(pieces, card.mean, card.std))
patches_only = [weights[:, :, 1:, 1:].mean(dim=0) for weights in many.weights]  # (h, 64, 64) each
maps = by_offset(rearrange(torch.stack(patches_only), "l h q k -> (h l) q k"), (8, 8))
names = [f"layer {layer}, head {head}" for head in range(4) for layer in range(6)]
plots.offset_maps(maps.numpy(), names, even=1 / 65)

# %% [markdown]
# No head is as strict as ours. Still, they have found work for themselves. In layer 0 the distance tells little:
# on average its heads are not far from the plain average. In layers 1 and 2 it tells most: one head keeps to the
# query's own row, some stay near the query, another looks one or two rows below. In layer 3 one head takes from what
# lies above. In the last layers the distance tells little again. All this is a mean over many pictures; on one
# picture, a head follows what is in it.
#
# **Play.** One head of the trained network, and one patch that asks. Choose layer, head and patch.

# %%
patches = {"eye": (3, 2), "nose": (6, 4), "forehead": (0, 4), "background": (7, 7)}


def show(patch, layer, head):
    weights = record.weights[layer][0, head, record.token(patches[patch])]
    row, column = divmod(weights[1:].argmax().item(), 8)
    entropy = torch.special.entr(weights).sum()
    words = (
        f"Layer {layer}, head {head}, asked by the {patch}: most from the patch in row {row}, column "
        f"{column} ({weights[1:].max():.0%}), as if shared among {entropy.exp():.0f} of 65 tokens."
    )
    return plots.map_pair(seen, map_from(layer, head, patches[patch]), patches[patch]), words


flipbook(show, patch=list(patches), layer=range(6), head=range(4))

# %% [markdown]
# One of its heads (layer 3, head 1), asked by three patches:

# %%
names = list(patches)[:3]
plots.photo_row([show(name, 3, 1)[0] for name in names], names)


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

# %% [markdown]
# ## What twice as many tokens cost
#
# The table of weights has T×T entries, for every head and every image. So its memory must grow with T², and
# the time to fill it, too. Here are both, measured on one core of the machine that ran this notebook: the
# weights of one head with d = 64, and beside them one linear layer on the same tokens.
#
# **Predict.** On axes that are both logarithmic, T² is a straight line. Of which slope?

# %%
from timeit import repeat

lengths, linear = [64, 128, 256, 512, 1024, 2048], nn.Linear(64, 64)
jobs = {
    "attention": "torch.softmax(torch.mm(tokens, tokens.T, out=table), dim=-1, out=table)",
    "linear": "linear(tokens)",
}
seconds, mebibytes = {name: [] for name in jobs}, {name: [] for name in jobs}
torch.set_num_threads(1)
with torch.no_grad():
    for T in lengths:
        tokens, table = torch.randn(T, 64), torch.empty(T, T)
        for name, job in jobs.items():  # several times, and the fastest counts
            times = repeat(job, globals=globals(), number=1, repeat=6 + 10_000 // T)
            seconds[name].append(min(times))
        mebibytes["attention"].append(table.nbytes / 2**20)
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
# The memory has slope 2 exactly: twice as many tokens, four times the table. The time comes near it where
# there is enough to do. (For few tokens it goes into starting the work; a table too large for the
# processor's cache costs extra.) And T itself grows with the *square* of the image's side.
#
# **Predict.** ViT-B/16 takes 224×224 pixels. At 448×448, how much larger is its table?

# %%
for side in (224, 448):
    T = (side // 16) ** 2 + 1
    print(
        f"{side}/16: {side // 16}×{side // 16} patches + CLS = {T} tokens, table of {T * T:,} weights"
    )
print(f"ratio of the tokens {785 / 197:.2f}, of the tables {785**2 / 197**2:.1f}")

# %% [markdown]
# ## What we now have
#
# | what | pattern | shape | here |
# |---|---|---|---|
# | tokens | `b t (h d)` | (B, T, D) | (1, 65, 128) |
# | queries, keys, values, each | `b h t d` | (B, h, T, d) | (1, 4, 65, 32) |
# | scores, weights | | (B, h, T, T) | (1, 4, 65, 65) |
# | output of the heads | `b h t d` | (B, h, T, d) | (1, 4, 65, 32) |
# | joined, then `proj` | `b t (h d)` | (B, T, D) | (1, 65, 128) |
#
# D width of a token, h heads, d = D/h width of a head, T tokens. *Scores* before the softmax, *weights*
# after; a row for each query, a column for each key.
#
# ## The questions people ask
#
# **How do I get the attention weights out of a network?** The fused function does not return them, and a
# hook on the layer sees only its output. `nn.MultiheadAttention` gives them with `need_weights=True` (the
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

# %% [markdown]
# Read them in evaluation mode. In training, dropout sets some weights to 0 and enlarges the others, and what
# you read no longer adds up to 1:

# %%
dropping = nn.MultiheadAttention(12, 3, dropout=0.1, batch_first=True).double()
print("rows in training:  ", [round(r, 2) for r in dropping(x, x, x)[1][0].sum(-1).tolist()])
print("rows in evaluation:", [round(r, 2) for r in dropping.eval()(x, x, x)[1][0].sum(-1).tolist()])

# %% [markdown]
# **Why divide by √d and not by d? Could the network not learn the factor itself?** It could: a factor on the
# scores is a factor on the query's weights. √d is about where training *starts*, with scores of size 1. But
# once trained, a network is used to its scale. (1/d has its place too: as training aligns queries with keys,
# scores grow like d, and Yang et al. 2022, arXiv 2203.03466, use it to carry settings from small networks to
# wide ones.)
#
# **Predict.** The digits network was trained with √d. What happens if we now leave the scale away, or divide
# by d, by a factor on the weights of its queries?

# %%
for name, factor in (("√d, as trained", 1.0), ("none", 16**0.5), ("d", 16**-0.5)):
    model, _ = load_checkpoint("digits")  # d = 64 / 4 = 16
    for block in model.blocks:
        block.attn.qkv.weight.data[:64] *= factor  # the first D rows make the queries
        block.attn.qkv.bias.data[:64] *= factor
    result = evaluate(model, test, digits_card.mean, digits_card.std)
    print(f"divided by {name:15} {result.accuracy:5.1f}% right")

# %% [markdown]
# **Do more heads cost more?** Not in parameters and not in multiplications: each head is narrower by as much
# as there are more of them. Only the tables of weights become more.

# %%
for heads in (1, 3, 12):
    layer = Attention(dim=768, num_heads=heads)
    parameters = sum(p.numel() for p in layer.parameters())
    multiplications = heads * 2 * 197**2 * (768 // heads)  # q kᵀ, then weights times v
    table = heads * 197**2 * 4 / 2**20
    print(
        f"{heads:2} heads: {parameters:,} parameters, {multiplications:,} multiplications, {table:.1f} MiB"
    )

# %% [markdown]
# **Is attention linear in T?** No. There are variants that are; ViT does not use them. But attention is more
# than the table: its four linear maps (q, k, v, proj) do grow with T only, and at ViT's usual size they cost
# *more* than the table. The table wins from T = 2D on.

# %%
D = 768
for T in (197, 785, 1536, 3137):
    linear_part, table_part = 4 * T * D**2, 2 * T**2 * D  # multiplications
    print(
        f"T = {T:4}: the table takes {table_part / (linear_part + table_part):.0%} of the attention layer"
    )

# %% [markdown]
# ## A stretch
#
# Fused attention never holds the whole T×T table (Dao et al. 2022, arXiv 2205.14135). Take the first step
# yourself: write `attention_in_blocks(q, k, v, size)` that works on `size` queries at a time, so that it
# holds a table of size×T only, and prove it equal to `F.scaled_dot_product_attention`. That is easy, because
# every query has its own softmax. Then think about blocks of *keys*: how could you compute a softmax whose
# row you never see as a whole? (Keep the largest score so far, and correct what you have already added up.)
