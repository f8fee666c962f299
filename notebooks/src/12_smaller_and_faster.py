# %% [markdown]
# # 12 · Smaller and faster
#
# **The network works. How much of it can you take away before it stops?**
#
# A trained network is often larger than it has to be: its numbers finer, its heads more numerous, its tokens more
# alike and its layers deeper than the task asks for. Each of these can be cut. What a cut saves is easy to
# promise, so this lesson measures: what it costs in right answers, and what it brings on *your* machine.
#
# **You will**
#
# - time networks so that a busy computer does not fool you, and judge a loss of accuracy with its interval,
# - find out where the time of a forward pass goes, and why counting operations does not tell,
# - turn weights into whole numbers of 8 bits, by hand, and prove the arithmetic,
# - measure how much each head matters, take heads away, and watch the network bear it,
# - merge tokens that say the same, and train a network of half the depth from the whole one,
# - put all of it into one table, and export the result for programs that know no PyTorch.

# %% [markdown]
# ## Before you begin: two numbers that must be honest
#
# We take two of the networks that come with the course. The one for the digits is small, and its 360 test
# images are on every computer: it tells us what a change *costs*. The one for photographs is larger: it tells
# what a change *brings*.

# %%
import copy
import os

os.environ["KINETO_LOG_LEVEL"] = "99"  # or the profiler complains where there is no GPU

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from vit_tutorial import evaluate, load_checkpoint, normalize, plots
from vit_tutorial.data import digits

torch.manual_seed(0)
torch.set_num_threads(1)  # steadier times; more of them: see below

# %%
vit, card = load_checkpoint("digits")
train, test = digits("train"), digits("test")
pixels = normalize(test.images, card.mean, card.std)  # (360, 1, 8, 8)

# %%
photo_vit, photo_card = load_checkpoint("cifar10")
photos = torch.randn(8, 3, 32, 32)  # for the clock, any pixels will do
for network in (vit, photo_vit):
    c, count = network.config, sum(p.numel() for p in network.parameters())
    print(f"width {c.embed_dim}, {c.depth} layers of {c.num_heads} heads,", end=" ")
    print(f"{c.num_tokens} tokens: {count:,} parameters")


# %%
def ask(network):
    """Name the test images: which are right (360,), and the evaluation."""
    result = evaluate(network, test, card.mean, card.std)
    return result.predictions == result.labels, result


# %%
original, whole = ask(vit)
low, high = whole.interval
print(
    f"{whole.correct} of {whole.n} right: {whole.accuracy:.1f}%, between {low:.1f}% and {high:.1f}%"
)

# %% [markdown]
# **Time.** **Predict.** We time the same forward pass eight times. By how much will the slowest differ from the
# fastest?

# %%
import time

spans = []
with torch.inference_mode():
    for _ in range(8):
        began = time.perf_counter()
        photo_vit(photos)
        spans.append(time.perf_counter() - began)
print("milliseconds:", [round(1000 * span, 1) for span in spans])
print(f"slowest / fastest = {max(spans) / min(spans):.2f}")

# %% [markdown]
# The first call is often slower (memory is fetched, kernels are chosen), and any call may be: the computer does
# other things as well. So a time alone says little, and two times taken one after the other can say something
# false: perhaps the computer was busy during the first. The remedy is to let both take **turns**, again and
# again, and to compare *within* each round.

# %%
import statistics
from collections.abc import Callable, Mapping, Sequence

# %% definition="vit_tutorial.compress.time_in_turns"

# %% definition="vit_tutorial.compress.ratio"

# %% [markdown]
# Every second round runs backwards, so that nobody always comes after the same neighbour. Does it work? Let a
# network race against itself. **Predict.** What should come out?


# %%
def race(calls, rounds=5):
    """Time calls in turns; print how many times as fast as the first one each of them was."""
    with torch.inference_mode():
        seconds = time_in_turns(calls, rounds)
    first = next(iter(seconds.values()))
    for name, each in seconds.items():
        middle, lowest, highest = ratio(each, first)
        print(f"{name:24} ×{middle:.2f} (from ×{lowest:.2f} to ×{highest:.2f})")
    return seconds


# %%
twins = {"one": lambda: photo_vit(photos), "its twin": lambda: photo_vit(photos)}
seconds = race(twins, rounds=7)

# %% [markdown]
# About 1, and the range tells how far you can trust this computer at this moment. A gain that lies inside such
# a range is not proven.


# %% exercise="12.1"
def my_speedup(seconds, base):
    """Tell how many times as fast something was as what it is compared with.

    seconds: (n,), its time in each round. base: (n,), the other's time in the same rounds.
    Twice as fast is 2. Rounds belong together.
    Returns (3,): the median over the rounds, the lowest, the highest.
    """
    ### BEGIN SOLUTION
    ratios = base / seconds
    return torch.stack([ratios.quantile(0.5), ratios.min(), ratios.max()])
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("12.1", my_speedup)
# hint("12.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** A slow moment hits both times of its round and leaves their ratio nearly alone. The median then
# ignores the rounds in which it hit only one. (`quantile(0.5)` takes the mean of the two in the middle, where
# there are two; `torch.median` takes the lower one.)
#
# **The common wrong answer** divides two means. One slow call then decides the result. Or it reports the best
# of many tries, for its own network only.

# %% [markdown]
# **Accuracy.** The interval of the digits network is almost four percent wide, for there are only 360 images.
# If it loses one percent, can we see that at all? We can, better than the interval suggests. **Both networks
# name the same images.** Most of them are easy for both, and all that counts is where they differ.
#
# **Predict.** Of 1000 images a network gets 900 right. A change loses 14 of them and wins 4 others. The
# accuracy falls from 90% to 89%. Has the network become worse, or may it be chance?

# %%
from vit_tutorial.intervals import accuracy_change

before = torch.arange(1000) < 900  # right, right, ... wrong
after = before.clone()
after[:14], after[-4:] = False, True

# %%
reach = 196 * (2 * 0.9 * 0.1 / 1000) ** 0.5
print(f"as if they had seen different images: -1.0 ± {reach:.1f}%")
change, low, high = accuracy_change(before, after)
print(f"image by image: {change:.1f}%, between {low:.1f}% and {high:.1f}%")

# %% [markdown]
# Image by image, 0 lies outside: it has become worse. Each image has a difference of its own, 1, 0 or −1, and
# the interval is that of their mean.


# %% exercise="12.2"
def my_change(before, after):
    """Tell how many percent more are right after a change.

    before, after: (n,) bool, whether each image was named rightly; the same images.
    Returns (3,) float32, in percent: the mean of the differences image by image, and the ends of its
    95% interval, mean ± 1.96 standard errors (standard deviation, with n - 1, over √n).
    """
    ### BEGIN SOLUTION
    each = 100 * (after.float() - before.float())
    reach = 1.96 * each.std() / len(each) ** 0.5
    return torch.stack([each.mean(), each.mean() - reach, each.mean() + reach])
    ### END SOLUTION


# %%
check("12.2", my_change)
# hint("12.2")

# %% [markdown] solved_only=true
# **Why.** Where both are right, or both wrong, the difference is 0, whatever made the image easy or hard. That
# is most of the spread between images, and it is gone.
#
# **The common wrong answer** gives each network its own interval and sees that they overlap. That is a question
# about two networks that met different images.

# %% [markdown]
# ## Where the time goes
#
# In lesson 06 you counted operations. Two of them, a product and a sum, make a multiply-add. Here they are for
# one image, by part:

# %%
c = photo_vit.config
T, D, H = c.num_tokens, c.embed_dim, c.hidden_dim
counted = {
    "patches, head": c.num_patches * c.in_chans * c.patch_size**2 * D + D * c.num_classes,
    "qkv, proj": c.depth * T * 4 * D**2,
    "scores, mixing": c.depth * 2 * T**2 * D,
    "MLP, linear": c.depth * T * 2 * D * H,
    "norms, GELU, +": 0,
}

# %%
for part, number in counted.items():
    print(f"{part:25} {number / 1e6:6.2f} million, {number / sum(counted.values()):.0%}")

# %% [markdown]
# **Predict.** Will the times have the same shares? Which part will take longer than its count says?
#
# PyTorch's profiler writes down when every operation begins and ends. Each module gets a hook before and one
# after its call, which open and close a named span (`record_function`).

# %%
import warnings
from functools import partial

from torch.profiler import ProfilerActivity, profile, record_function


def named(name, modules):
    """Let every call of these modules be a span of this name in the profile."""
    spans = []

    def enter(module, given):
        spans.append(record_function(name).__enter__())

    def leave(module, given, output):
        spans.pop().__exit__(None, None, None)

    for module in modules:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)


# %%
watched = copy.deepcopy(photo_vit)
attns, mlps = [b.attn for b in watched.blocks], [b.mlp for b in watched.blocks]
named("all", [watched])
named("patches, head", [watched.patch_embed, watched.head])
named("attention", attns)
named("qkv, proj", [layer for a in attns for layer in (a.qkv, a.proj)])
named("MLP, linear", [layer for m in mlps for layer in (m.fc1, m.fc2)])

# %%
warnings.filterwarnings("ignore", message="Warning: Profiler clears")
with torch.inference_mode():
    watched(photos)  # the first call is not like the others
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(5):
            watched(photos)

# %%
spans = {event.key: event.cpu_time_total for event in profiled.key_averages()}
measured = {name: spans.get(name, 0.0) for name in counted}
measured["scores, mixing"] = spans["attention"] - spans["qkv, proj"]
measured["norms, GELU, +"] = spans["all"] - sum(measured.values())

# %%
plots.share_bars(
    {"counted": counted, "measured": measured},
    [f"{sum(counted.values()) / 1e6:.1f} M", f"{spans['all'] / 5 / len(photos) / 1000:.2f} ms"],
    "One image: multiply-adds, and time",
)

# %% [markdown]
# The last part has no multiply-adds at all, and takes a good share of the time. Scores and mixing, too, tend to
# take more than their count says. There are two reasons. Norms, GELU, softmax and sums do little with each
# number, but each number has to be fetched from memory and put back: they wait for memory, not for arithmetic.
# And every operation costs a few microseconds to start, however small it is. Large matrix products are what
# computers are built for; **all that is no large product is dearer than it looks.** So a saving that is counted
# in multiply-adds is a promise, not a result.
#
# ## The same numbers, faster
#
# First, what costs nothing: the same network, computed in another way.
#
# **Fused attention.** Written out, attention makes a table of T×T scores, then one of weights, and reads both
# again. `F.scaled_dot_product_attention` goes through it in pieces that stay close to the processor, and never
# has the whole table (Dao et al. 2022, arXiv 2205.14135). **Predict.** For which T will that matter: 65, 257 or
# 1025?


# %%
def written_out(q, k, v):
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)  # (B, h, T, T)
    return weights @ v


# %%
def allocated(call):
    """Add up the memory that a call asks for, in mebibytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    parts = [max(event.self_cpu_memory_usage, 0) for event in profiled.key_averages()]
    return sum(parts) / 2**20


# %%
ways = {"written out": written_out, "fused": F.scaled_dot_product_attention}
lengths, memory = (65, 257, 1025), {name: [] for name in ways}
for T in lengths:
    q, k, v = torch.randn(3, 1, 4, T, 32)  # one image, four heads
    assert_close(written_out(q, k, v), F.scaled_dot_product_attention(q, k, v))
    print(f"T = {T}")
    calls = {name: partial(way, q, k, v) for name, way in ways.items()}
    race(calls, rounds=7)
    for name, call in calls.items():
        memory[name].append(allocated(call))

# %%
curves = {name: np.array([values]) for name, values in memory.items()}
plots.run_curves(lengths, curves, "tokens T", "mebibytes asked for", logarithmic=True)

# %% [markdown]
# The memory tells the story: written out it grows with T², fused with T. It saves time, too: with few tokens a
# little, for it is one operation instead of four (the ranges tell how sure that is), and much with thousands, when
# the table no longer fits beside the processor. The package's `Attention` has called it since lesson 04, so this gain
# is already in all our times. Measured with more rounds, and for longer inputs:
#
# {{table.compress.attention}}
#
# **Threads, half precision, batches.** **Predict.** bfloat16 keeps half the bits of each number. Is it twice as
# fast here? And is a batch of 8 faster per image than 8 single images?


# %%
def with_threads(count, call):
    """Make a call that runs on so many processor cores."""

    def run():
        torch.set_num_threads(count)
        call()
        torch.set_num_threads(1)

    return run


# %%
half = copy.deepcopy(photo_vit).bfloat16()
calls = {
    "as it is": lambda: photo_vit(photos),
    "two threads": with_threads(2, lambda: photo_vit(photos)),
    "bfloat16": lambda: half(photos.bfloat16()),
    "one by one": lambda: [photo_vit(photo[None]) for photo in photos],
}
seconds = race(calls, rounds=3)

# %% [markdown]
# Half precision needs a processor that multiplies halves: graphics cards do, new server processors do, and most
# others convert every number to 32 bits and back, and lose. What your computer does stands above. So **"half
# precision is faster" is a sentence about hardware.** Only the bytes of the weights are halved everywhere. A batch is
# faster per image than single images: all that has to be started is started once. Two threads help only where a second
# core is free; on a busy computer they wait for each other, and lose.
#
# **Compiling** (`torch.compile`) translates the network into one program, with its small operations joined: the
# norms, GELU and sums from the picture above. It needs a C++ compiler on this computer and about a minute, so
# it stands behind `FULL`.

# %%
FULL = False

# %%
if FULL:
    try:
        compiled = torch.compile(copy.deepcopy(photo_vit))
        race({"as it is": calls["as it is"], "compiled": lambda: compiled(photos)})
    except RuntimeError as error:
        print("It cannot be compiled here:", str(error).splitlines()[0])

# %% [markdown]
# ## Whole numbers of 8 bits
#
# A weight has 32 bits, enough for seven decimal digits. How many does the network need? Take one row of
# weights, and allow only 255 values: the whole numbers from −127 to 127, times a **scale** that the row shares.
#
# **Predict.** The row is 0.5, −1.0, 0.1, 0.03. Its largest number, −1.0, becomes −127. What does 0.03 become,
# and by how many percent is it wrong?

# %%
row = [0.5, -1.0, 0.1, 0.03]
scale = max(abs(value) for value in row) / 127
for value in row:
    number = round(value / scale)
    off = abs(number * scale - value) / abs(value)
    print(f"{value:5} -> {number:4} -> {number * scale:7.4f}, off by {off:.1%}")

# %% [markdown]
# Every number is off by at most half a scale. That is little for the large ones and much for the small ones.
# For a whole table, a scale for each row:

# %% definition="vit_tutorial.compress.quantized"


# %% exercise="12.3"
def my_quantized(values):
    """Round each row to whole numbers of 8 bits.

    values: (rows, n). A row's scale is its largest absolute number / 127; for a row of zeros,
    any number above 0.
    Returns two tensors: whole (rows, n) int8, from -127 to 127, and scale (rows, 1), so that
    whole * scale is as near to the values as can be.
    """
    ### BEGIN SOLUTION
    largest = values.abs().amax(dim=1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0) / 127
    return (values / scale).round().to(torch.int8), scale
    ### END SOLUTION


# %%
check("12.3", my_quantized)
# hint("12.3")

# %% [markdown] solved_only=true
# **Why.** `keepdim` leaves a column of scales, which multiplies and divides each row. `.to(torch.int8)` alone
# would cut the fractions off.
#
# **The common wrong answer** divides by 128: the largest number becomes 128, which int8 does not have, and
# comes back as −128. The sign of the largest weight of every row is then wrong, and the network is ruined.

# %% [markdown]
# Why does it pay? Products of whole numbers are exact, and cheap in hardware made for them. In a linear layer
# each output is a sum of products; with one scale s for its row of weights and one scale t for the token, both
# can wait until the end:
#
# $$\sum_i (s\,w_i)(t\,x_i) = s\,t \sum_i w_i x_i$$
#
# The weights are rounded once (the arithmetic: Jacob et al. 2017, arXiv 1712.05877, section 2). The token is
# rounded when it comes, with a scale of its own. This is called **dynamic** quantisation. The layer:

# %%
from vit_tutorial.compress import LARGEST

# %% definition="vit_tutorial.compress.Int8Linear"

# %% [markdown]
# **Proof**, against whole numbers of 64 bits, which no one can suspect of rounding:

# %%
layer, x = nn.Linear(96, 40), torch.randn(2, 65, 96)
small = Int8Linear(layer)
whole_x, x_scale = quantized(x)
exact = whole_x.long() @ small.weight.long().mT  # int64

# %%
expected = exact.double() * x_scale.double() * small.scale.double() + layer.bias.double()
assert_close(small(x), expected.float())
off = (small(x) - layer(x)).norm() / layer(x).norm()
print(f"the arithmetic is exact; against the layer in float32 it is off by {off:.1%}")

# %% [markdown]
# **Predict.** All linear layers of the digits network in 8 bits: how many of its 360 answers change? How much
# smaller is it, and how much faster?

# %%
from vit_tutorial.compress import num_bytes, to_int8


def cost(name, network):
    """Print what a change costs in right answers."""
    right, result = ask(network)
    change, low, high = accuracy_change(original, right)
    lost, won = (original & ~right).sum(), (right & ~original).sum()
    print(f"{name}: {result.correct} right, lost {lost}, won {won}:", end=" ")
    print(f"{change:+.1f}%, between {low:+.1f}% and {high:+.1f}%")


# %%
small = to_int8(vit)
cost("8 bits", small)
print(f"{num_bytes(vit) / 1000:.0f} -> {num_bytes(small) / 1000:.0f} thousand bytes")

# %% [markdown]
# Almost nothing changes. The bytes of a linear layer go down to a quarter, those of the whole network to a
# little more, for norms, positions and the patch projection stay in 32 bits. Now the time. PyTorch has int8
# layers of its own, with kernels for whole numbers; one day they will move to another package, so the cell is
# prepared to miss them.

# %%
eight = {"as it is": photo_vit, "ours": to_int8(photo_vit)}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        eight["PyTorch's"] = torch.ao.quantization.quantize_dynamic(photo_vit, {nn.Linear})
    except (AttributeError, RuntimeError):
        print("This PyTorch has no int8 layers of its own any more, or no kernels for them here.")

# %%
seconds = race({name: partial(network, photos) for name, network in eight.items()})

# %% [markdown]
# **Ours is slower.** It rounds every token, and then it multiplies whole numbers *as floats*, because PyTorch
# offers no product of int8 matrices for every processor. It has the size and the answers of 8 bits, not the
# speed. PyTorch's own has kernels that multiply bytes, and still has to round every token on the way in.
# Whether that pays depends on the processor and on the size of the layers. **Smaller is a fact about the file,
# faster about the hardware.**
#
# ### Where the error comes from
#
# A scale is as large as the largest number that shares it. One large number makes the steps coarse for all the
# others of its row. The cure is to share among fewer: every group of `group` neighbours in a row gets a scale
# of its own. What that costs is the scales: one number of 32 bits for each group.


# %% exercise="12.4"
def my_rounding_error(weight, bits, group):
    """Measure what rounding does to each row of a table.

    weight: (rows, n). bits: the whole numbers run from -m to m, with m = 127 for 8 bits, 7 for 4 bits,
    and so on. group: how many neighbours of a row share a scale; it divides n.
    Returns (rows,): the length of a row's error divided by the length of the row, where the length is the
    root of the sum of squares.
    """
    ### BEGIN SOLUTION
    parts = weight.reshape(len(weight), -1, group)  # (rows, groups, group)
    scale = parts.abs().amax(dim=-1, keepdim=True) / (2 ** (bits - 1) - 1)
    near = ((parts / scale).round() * scale).reshape(weight.shape)
    return (near - weight).norm(dim=1) / weight.norm(dim=1)
    ### END SOLUTION


# %%
check("12.4", my_rounding_error)
# hint("12.4")

# %% [markdown] solved_only=true
# **Why.** Laid out as (rows, groups, group), a group is what a row was before. Each bit less about doubles the
# scale, and with it the error.
#
# **The common wrong answer** takes 2^bits − 1 for the largest number, and forgets that one bit is the sign. The
# error then looks half as large as it will be.

# %% [markdown]
# How few bits will do? Here the weights of all linear layers are rounded, either with a scale for each row, or
# with one for the whole table. **Predict.** Where does each of them break down?


# %%
def with_bits(network, bits, by_row):
    """Copy a network with the weights of its linear layers rounded."""
    rounded = copy.deepcopy(network)
    for layer in rounded.modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight.data
            most = weight.abs().amax(dim=1, keepdim=True) if by_row else weight.abs().amax()
            scale = most / (2 ** (bits - 1) - 1)
            layer.weight.data = (weight / scale).round() * scale
    return rounded


# %%
def percent(network):
    """Accuracy with its interval: three numbers."""
    result = ask(network)[1]
    return result.accuracy, *result.interval


# %%
bits = (8, 6, 5, 4, 3, 2)
curves = {
    "a scale for each row": [percent(with_bits(vit, b, True)) for b in bits],
    "one scale for each table": [percent(with_bits(vit, b, False)) for b in bits],
}
curves = {name: np.array(points).T for name, points in curves.items()}  # (3, bits)

# %%
plots.interval_curves(
    bits, curves, "bits of a weight", level=("32 bits", whole.accuracy), backwards=True
)

# %% [markdown]
# Down to four bits nothing is lost that 360 images could show. At three, a scale for each row still holds, and
# one for the whole table does not; at two, both have broken down. In large language models a few numbers of
# each token are very large (Dettmers et al. 2022, arXiv 2208.07339): there these few stay in 16 bits, and the
# others get 8.
#
# ## Fewer heads
#
# Do all heads matter? Think of a gate g in each head, which multiplies everything that the head hands on. It
# stands at 1; at 0 the head is gone. Close it a little: by how much does the loss move?
#
# By hand, for one image and head 0 of layer 2: the loss with the gate a little above 1, and a little below.

# %%
exact_vit = copy.deepcopy(vit).double()
few = normalize(train.images[:8], card.mean, card.std).double()
few_labels = train.labels[:8]


# %%
def loss_with_gate(layer, head, gate, image):
    """Compute the loss of one image with one head turned up or down."""
    gated, d = copy.deepcopy(exact_vit), vit.config.head_dim
    gated.blocks[layer].attn.proj.weight.data[:, head * d : (head + 1) * d] *= gate
    return F.cross_entropy(gated(few[image, None]), few_labels[image, None]).item()


# %%
up, down = (loss_with_gate(2, 0, gate, image=0) for gate in (1.001, 0.999))
print(f"{down:.8f} -> {up:.8f}: the slope is {(up - down) / 0.002:+.5f}")

# %% [markdown]
# A large slope, up or down, means that the answer hangs on this head. The importance of a head is the mean over
# images of the slope's absolute value (Michel et al. 2019, arXiv 1905.10650). In a loop over heads and images
# that takes two forward passes for each. But lesson 08 had gradients for all at once: along the gate, the slope
# is the sum of (what is handed on) × (the loss's gradient with respect to it). One backward pass has them all.

# %%
from typing import Any

from einops import rearrange

from vit_tutorial.model import Attention, Block, VisionTransformer, ViTConfig
from vit_tutorial.modes import evaluating

# %% definition="vit_tutorial.compress.head_importance"

# %% [markdown]
# **Proof**, against the gates turned by hand, in float64:

# %%
slow = torch.zeros(4)
for head in range(4):
    for image in range(3):
        up, down = (loss_with_gate(2, head, gate, image) for gate in (1.00001, 0.99999))
        slow[head] += abs(up - down) / 0.00002 / 3
fast = head_importance(exact_vit, few[:3], few_labels[:3])[2]
assert_close(fast.float(), slow, rtol=1e-4, atol=1e-8)
print("layer 2, by hand:", [round(value, 5) for value in slow.tolist()])


# %% exercise="12.5"
def my_head_importance(handed_on, gradient, num_heads):
    """Measure how much the loss hangs on each head of a layer.

    handed_on: (B, T, D), what the heads hand on, side by side: head 0 has the first D / h numbers.
    gradient: (B, T, D), the slope of each image's loss along each of these numbers.
    For each image and head: the slope of the loss along a gate that multiplies all that the head hands on.
    Returns (h,): the mean over images of its absolute value.
    """
    ### BEGIN SOLUTION
    parts = (handed_on * gradient).unflatten(-1, (num_heads, -1))  # (B, T, h, d)
    return parts.sum(dim=(1, 3)).abs().mean(dim=0)
    ### END SOLUTION


# %%
check("12.5", my_head_importance)
# hint("12.5")

# %% [markdown] solved_only=true
# **Why.** One gate multiplies all numbers of the head, so its slope is their sum, signs and all. Over images,
# each slope counts whichever way it points.
#
# **The common wrong answer** takes absolute values first. A head whose numbers pull in opposite directions, and
# that does nothing on the whole, then looks important.

# %% [markdown]
# Now for all heads, on the *training* images: the test images must have no say in the choice.

# %%
train_pixels = normalize(train.images, card.mean, card.std)
importance = head_importance(vit, train_pixels, train.labels)
for layer, values in enumerate(importance):
    print(f"layer {layer}:", "  ".join(f"{value:.4f}" for value in values.tolist()))

# %% [markdown]
# To take a head away for good, three things must go: the rows of `qkv` that make its queries, keys and values,
# their biases, and the columns of `proj` that read it. Nothing is set to zero. The matrices become smaller, and
# so does the work.

# %% definition="vit_tutorial.compress._linear"

# %% definition="vit_tutorial.compress._with_heads"

# %% definition="vit_tutorial.compress._block_with"

# %% definition="vit_tutorial.compress.prune_heads"

# %% [markdown]
# **Proof.** A network without a head says the same as one in which nobody reads that head:

# %%
deaf = copy.deepcopy(exact_vit)
deaf.blocks[1].attn.proj.weight.data[:, 16:48] = 0  # heads 1 and 2
pruned = prune_heads(exact_vit, {1: [1, 2]})
assert_close(pruned(few), deaf(few))
print("layer 1:", pruned.blocks[1].attn.qkv, "instead of", vit.blocks[1].attn.qkv)


# %% exercise="12.6"
def my_pruned(qkv, bias, proj, num_heads, keep):
    """Take heads out of an attention layer.

    qkv: (3 D, D), the weight whose rows make the queries of all heads, then their keys, then their values.
    bias: (3 D,), of qkv. proj: (D, D), the weight that reads what the heads hand on, side by side.
    keep: a list of heads, in the order in which they shall stand.
    Returns three tensors: qkv (3 k d, D), bias (3 k d,) and proj (D, k d), with k heads of d = D / h.
    """
    ### BEGIN SOLUTION
    dim = len(proj)
    rows = qkv.reshape(3, num_heads, -1, dim)[:, keep]  # (3, k, d, D)
    columns = proj.reshape(dim, num_heads, -1)[:, keep]  # (D, k, d)
    bias = bias.reshape(3, num_heads, -1)[:, keep]
    return rows.reshape(-1, dim), bias.flatten(), columns.flatten(1)
    ### END SOLUTION


# %%
check("12.6", my_pruned)
# hint("12.6")

# %% [markdown] solved_only=true
# **Why.** With an axis for the heads, choosing is an index. The rest is the order of the axes: (3, h, d) for
# what comes out of `qkv`, (h, d) for what goes into `proj`.
#
# **The common wrong answer** sets the columns of `proj` to zero. The answers are the same, and so are size and
# time: zeros are multiplied like all numbers.

# %% [markdown]
# Which heads should go? The least important first; or those whose weights in `proj` are smallest, which needs
# no images; or any. **Predict.** Of the network's 16 heads, how many can go before the test images notice? How
# much better is measuring than tossing a coin?


# %%
def first_heads(scores, count):
    """Choose the heads with the lowest scores, but never all of a layer: {layer: heads}."""
    gone = {}
    for number in torch.stack(list(scores)).flatten().argsort().tolist():
        layer, head = divmod(number, len(scores[0]))
        if sum(map(len, gone.values())) < count and len(gone.get(layer, [])) < len(scores[0]) - 1:
            gone.setdefault(layer, []).append(head)
    return gone


# %%
magnitude = [b.attn.proj.weight.detach().unflatten(1, (4, 16)).norm(dim=(0, 2)) for b in vit.blocks]
print("four to go, by importance:", first_heads(importance, 4))
print("four to go, by magnitude: ", first_heads(magnitude, 4))

# %%
counts = (0, 2, 4, 6, 8, 12)
curves = {}
for rule, scores in {"by importance": importance, "by magnitude": magnitude}.items():
    points = [percent(prune_heads(vit, first_heads(scores, n))) for n in counts]
    curves[rule] = np.array(points).T  # (3, counts)

# %%
chance = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0))  # five draws
draws = [[percent(prune_heads(vit, first_heads(d, n)))[0] for n in counts] for d in chance]
curves["at random (mean and range of five)"] = np.array(
    [np.mean(draws, axis=0), np.min(draws, axis=0), np.max(draws, axis=0)]
)
plots.interval_curves(counts, curves, "heads taken away, of 16")

# %%
for count in (4, 6, 8):
    cost(f"{count} heads gone", prune_heads(vit, first_heads(importance, count)))

# %% [markdown]
# Four heads can go, and 360 images cannot tell; six cannot. That the four go unnoticed is no proof that they
# did nothing: others may do the same thing, and then each is dispensable as long as the other is there. (That
# is also why importances cannot be added up: they hold for one head at a time.) Both rules do better than
# chance does on average, and measuring does better than the weights alone: with eight heads gone, the intervals
# lie apart. Note how wide chance is: **a single lucky draw comes close to measuring, an unlucky one loses
# tens of percent.**
#
# ## Play
#
# The network is so small that it runs in your browser, on all 360 images, with whichever heads you leave. Choose
# *Silence heads* and click one among the small maps, or let a rule choose. **Look for**: a head that costs nothing
# alone; a second one that costs nothing alone, but together with the first; a digit that is lost early.

# %%
from vit_tutorial import LiveExplorer

rules = {"least important first": importance, "smallest weights first": magnitude}
explorer = LiveExplorer(vit, card, images=test, rules=rules)
explorer

# %% [markdown]
# The same as a still picture, with six heads gone by importance:

# %%
explorer.figure(silenced=explorer.orders["least important first"][:6])

# %% [markdown]
# ## Fewer tokens
#
# Much of a photograph says the same: sky next to sky. Time grows with the number of tokens, at least in
# proportion. So let tokens that are alike become one (Bolya et al. 2022, arXiv 2210.09461). How alike two
# tokens are, their keys tell: a key is what a token shows to those who look for something.
#
# To look at all pairs would be dear, and to merge a into b and b into c confusing. The trick: tokens of
# **even** number look among those of **odd** number only. Each even one finds its best partner, and the r pairs
# that are most alike merge. By hand, six tokens with keys of two numbers; token 0 is CLS and stays alone.
#
# **Predict.** r = 1. Which two become one?

# %%
keys = torch.tensor([[0.0, 9.0], [1.0, 0.0], [2.0, 0.2], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.5]])
alike = F.cosine_similarity(keys[:, None], keys[None], dim=-1)  # (6, 6)
for even in (2, 4):
    pairs = {odd: round(alike[even, odd].item(), 3) for odd in (1, 3, 5)}
    print(f"token {even} looks at {pairs}: best is {max(pairs, key=pairs.get)}")

# %% [markdown]
# Tokens 2 and 1 are more alike than 4 and 5, so 2 goes to 1. What happened is a table of zeros and ones, with a
# row for each token that is left, and in it a 1 for each token that went into it. A loop would make it like
# this:


# %%
def merge_loop(keys, r):
    """Say which tokens become one: (T, d) -> (T - r, T)."""
    alike, goes = F.cosine_similarity(keys[:, None], keys[None], dim=-1), {}
    odd = range(1, len(keys), 2)
    best = {even: max(odd, key=lambda o: alike[even, o]) for even in range(2, len(keys), 2)}
    for even in sorted(best, key=lambda e: -alike[e, best[e]])[:r]:
        goes[even] = best[even]
    stay = [token for token in range(len(keys)) if token not in goes]
    rows = [[int(t == s or goes.get(t) == s) for t in range(len(keys))] for s in stay]
    return torch.tensor(rows)


# %%
merge_loop(keys, r=1)

# %% [markdown]
# For a batch, and without a loop:

# %%
import math

# %% definition="vit_tutorial.compress.merge_matrix"

# %%
many = torch.randn(20, 17, 8)
for r in (0, 1, 3, 8):
    assert_close(merge_matrix(many, r), torch.stack([merge_loop(image, r) for image in many]))
print(merge_matrix(keys[None], r=2)[0])

# %% [markdown]
# The new token is the mean of its patches. A token of five patches and one of a single patch must not count
# alike when they merge again, so each token has a **size**.


# %% exercise="12.7"
def my_merge(tokens, sizes, a, b):
    """Let token a go into token b.

    tokens: (T, D), each the mean of its patches. sizes: (T,), of how many patches. a and b are different.
    The new token stands where b was; the others keep their order.
    Returns two tensors: tokens (T - 1, D), again each the mean of all its patches, and sizes (T - 1,).
    """
    ### BEGIN SOLUTION
    tokens, sizes = tokens.clone(), sizes.clone()
    both = sizes[a] + sizes[b]
    tokens[b] = (tokens[a] * sizes[a] + tokens[b] * sizes[b]) / both
    sizes[b] = both
    stay = torch.arange(len(sizes)) != a
    return tokens[stay], sizes[stay]
    ### END SOLUTION


# %%
check("12.7", my_merge)
# hint("12.7")

# %% [markdown] solved_only=true
# **Why.** Mean times size is the sum of the patches. Sums can be added; the new mean is their sum over the new
# size.
#
# **The common wrong answer** takes (a + b) / 2. For tokens that were never merged it is right, so it passes in
# the first layer, and is wrong in all that follow.

# %% [markdown]
# The size matters in attention, too. Five equal tokens used to get five shares of the softmax; merged into one
# they would get one. A score plus ln 5 repairs that: $e^{s + \ln 5} = 5\,e^s$. In numbers:

# %%
scores = torch.tensor([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])  # five equal keys
merged = torch.tensor([1.0, 2.0]) + torch.tensor([1.0, 5.0]).log()
print("all six:", [round(value, 3) for value in scores.softmax(0).tolist()])
print("merged: ", [round(value, 3) for value in merged.softmax(0).tolist()], "=", end=" ")
print([round(scores.softmax(0)[0].item(), 3), round(scores.softmax(0)[1:].sum().item(), 3)])

# %% [markdown]
# The whole network: in every layer, between attention and the MLP, r pairs merge. Nothing is trained.

# %% definition="vit_tutorial.compress.TokenMerging"

# %% [markdown]
# **Proof.** If all patches are equal and have no positions, merging must leave no trace, however many go:

# %%
torch.manual_seed(0)
blank = VisionTransformer(
    ViTConfig(img_size=16, embed_dim=32, depth=3, num_heads=2, pos_embed="none")
)

# %%
for parameter in blank.parameters():
    parameter.data.normal_(std=0.3)
grey = torch.randn(2, 3, 1, 1).expand(2, 3, 16, 16)
merging = TokenMerging(blank, r=4)
assert_close(merging(grey), blank(grey), rtol=1e-4, atol=1e-4)
print("17 tokens became", merging.forward_features(grey)[0].shape[1])

# %% [markdown]
# What does it do to a photograph? The network for photographs, on Chelsea the cat (photograph by Stéfan van der
# Walt, public domain). **Predict.** Which patches will be joined: neighbours, or patches from all over the
# picture?

# %%
from skimage import data as photographs

from vit_tutorial import fit_image, open_image

MY_PHOTO = ""  # for example "my_dog.jpg"

fitted = fit_image(open_image(MY_PHOTO or photographs.chelsea()), 32)
view = np.asarray(fitted.view().resize((192, 192)))
image = normalize(fitted.pixels[None], photo_card.mean, photo_card.std)

# %%
groups = {}
for r in (2, 5, 8):
    with torch.no_grad():
        tokens, sources = TokenMerging(photo_vit, r).forward_features(image)
    groups[f"r = {r}: {tokens.shape[1]} tokens of 65"] = (
        sources[0, :, 1:].argmax(dim=0).reshape(8, 8).numpy()
    )

# %%
plots.merged_patches(view, groups)

# %% [markdown]
# (Each token has the mean colour of its patches, wherever they lie. What is still a photograph is a patch that
# stayed alone.) Nobody asks where a patch lies, and yet it is mostly neighbours that meet. They look alike, and
# positions were added to the tokens at the start, so keys hold something of them. What is like nothing else
# stays alone longest: look at the eyes. With r = 8, a piece of one eye has met a piece of the other, across
# the nose.
#
# **Predict.** On the digits there are only 16 patches. How many pairs may go in each layer before it hurts?

# %%
steps = (0, 1, 2, 3, 4, 6)
points = np.array([percent(TokenMerging(vit, r)) for r in steps]).T
plots.interval_curves(steps, {"merged": points}, "pairs merged in every layer, r")

# %%
calls = {"as it is": lambda: photo_vit(photos)}
for r in (2, 5, 8):
    calls[f"r = {r}"] = partial(TokenMerging(photo_vit, r), photos)
seconds = race(calls)

# %% [markdown]
# One pair a layer costs little. Two already cost more than chance explains (see the table at the end), and with six
# about one answer in five is lost. And finding pairs costs time as well. In a network as small as ours that eats much
# of what is saved, or more; Bolya et al. report about twice the throughput for large ones, with hundreds of tokens and
# wide layers. As always: measured, not promised.
#
# ## Fewer layers, with a teacher
#
# Leave out every other layer, and the network is almost twice as fast: layers are all alike and come one after
# the other. It is also ruined, at first.

# %%
from dataclasses import replace

# %% definition="vit_tutorial.compress.every_other_layer"

# %%
student = every_other_layer(vit)
print(
    f"{vit.config.depth} layers: {whole.correct} right; layers 0 and 2 alone: {ask(student)[1].correct}"
)

# %% [markdown]
# Still far better than the 36 of guessing: as lesson 05 said, a layer only *adds* to the stream. What is left
# can be trained for a moment longer. From what? From labels, as always, or from the whole network, which knows
# more than a label: not only that this is a 3, but how much it looks like an 8. Hinton et al. (2015, arXiv
# 1503.02531) call it **distillation**. A network that is sure hides what else it thinks; dividing its logits by
# a **temperature** T brings it out.

# %%
with torch.no_grad():
    logits = vit(pixels[7:8])
for temperature in (1.0, 2.0, 4.0):
    shares = (logits / temperature).softmax(dim=1)[0]
    print(
        f"T = {temperature:g}:", "  ".join(f"{c}: {share:5.1%}" for c, share in enumerate(shares))
    )

# %% [markdown]
# The student gets the same temperature, and the loss is the divergence of its shares from the teacher's: the
# sum of p (ln p − ln q), which is 0 when both say the same. Dividing logits by T makes the gradients 1/T² as
# large, so the divergence is multiplied by T². A part of the loss still comes from the labels.

# %% definition="vit_tutorial.compress.distillation"


# %% exercise="12.8"
def my_distillation(logits, taught, labels, temperature, share):
    """Compute the loss of a student who has a teacher and labels.

    logits: (B, C), of the student. taught: (B, C), logits of the teacher. labels: (B,).
    share of the loss: the sum over classes of p (ln p - ln q), a mean over images, times the temperature
    squared; p is the teacher's softmax and q the student's, both at this temperature.
    The rest, 1 - share: cross-entropy with the labels, at temperature 1.
    Returns the loss, a tensor of one number ().
    """
    ### BEGIN SOLUTION
    ln_p = (taught / temperature).log_softmax(dim=1)
    ln_q = (logits / temperature).log_softmax(dim=1)
    divergence = (ln_p.exp() * (ln_p - ln_q)).sum(dim=1).mean()
    return share * temperature**2 * divergence + (1 - share) * F.cross_entropy(logits, labels)
    ### END SOLUTION


# %%
check("12.8", my_distillation)
# hint("12.8")

# %% [markdown] solved_only=true
# **Why.** `log_softmax` keeps small shares exact, where ln(softmax) would become minus infinity.
#
# **The common wrong answer** forgets the T². The loss still falls, the weights of the two parts have quietly
# changed, and another temperature seems to need another learning rate. The other one lets `F.kl_div` take its
# default mean, which also divides by the number of classes.

# %% [markdown]
# The objective goes into the `fit` of lesson 07, and nothing else changes. Three ways to a network of half the
# depth, each with the same few steps (one epoch) and three seeds. **Predict.** In which order will they end?
# Will the teacher make a difference?

# %%
from vit_tutorial import TrainConfig, fit

config = TrainConfig(epochs=1, batch_size=64, lr=2e-3, precision="float32")
ways = {"fresh, labels": {}, "cut, labels": {}}
ways["cut, teacher"] = {"objective": distillation(vit)}

# %%
students = {}
for name, options in ways.items():
    for seed in range(3):
        torch.manual_seed(seed)
        student = every_other_layer(vit).train()
        if name.startswith("fresh"):
            student = VisionTransformer(student.config)
        fit(student, train, None, replace(config, seed=seed), **options)
        students.setdefault(name, []).append(student.eval())
    scores = [ask(student)[1].correct for student in students[name]]
    print(f"{name:14} {scores} of 360 right")

# %%
for seed in range(3):
    right = {name: ask(trained[seed])[0] for name, trained in students.items()}
    change, low, high = accuracy_change(right["cut, labels"], right["cut, teacher"])
    print(f"seed {seed}, teacher - labels: {change:+.1f}%, between {low:+.1f}% and {high:+.1f}%")
cost("half the depth, teacher, seed 0", students["cut, teacher"][0])

# %% [markdown]
# The large step is the cut: to begin with weights that already work is worth more than all that follows.
#
# And the teacher? Each interval is about *two networks*. It knows how much the choice of test images may have
# done, and nothing of the chance in training, which another seed shows. Where the seeds do not agree even on the
# sign, the honest sentence is: **with so few seeds, no difference can be told.** A null result is a result. (Here
# every training image has a clean label. With few labels it may be otherwise: see the stretch.)
#
# On photographs, a student of the larger network gets
# {{results.compress.rows[what=half the layers, teacher].epochs}} epochs. From scratch it comes to
# {{results.compress.rows[what=half the layers, from scratch].test_accuracy_mean:.1f}}%, cut and taught by labels to
# {{results.compress.rows[what=half the layers, labels].test_accuracy_mean:.1f}}% (seed by seed:
# {{results.compress.rows[what=half the layers, labels].test_accuracies}}), by the teacher to
# {{results.compress.rows[what=half the layers, teacher].test_accuracy_mean:.1f}}% (seed by seed:
# {{results.compress.rows[what=half the layers, teacher].test_accuracies}}). There the teacher pays: with every seed,
# and by more than the seeds differ among themselves. It also costs: each step asks the teacher as well, and one
# training takes {{results.compress.rows[what=half the layers, teacher].seconds:.0f}} seconds instead of
# {{results.compress.rows[what=half the layers, labels].seconds:.0f}}. In that time labels alone could do more epochs.
#
# ## One table
#
# All of it side by side, on your computer, for the digits. **Predict.** Which row is the best? Which of them
# would you have bought after reading only "75% smaller" or "half the layers"?

# %%
student = students["cut, teacher"][0]
networks = {
    "as it is": vit,
    "8 bits": to_int8(vit),
    "4 heads of 16 gone": prune_heads(vit, first_heads(importance, 4)),
    "8 heads of 16 gone": prune_heads(vit, first_heads(importance, 8)),
    "2 pairs merged a layer": TokenMerging(vit, 2),
    "half the layers": student,
    "half the layers, 8 bits": to_int8(student),
}

# %%
seconds = race({name: partial(network, pixels[:128]) for name, network in networks.items()})

# %%
rows = {}
for name, network in networks.items():
    right, result = ask(network)
    change, low, high = accuracy_change(original, right)
    speed, kilobytes = ratio(seconds[name], seconds["as it is"]), num_bytes(network) / 1000
    rows[name] = (result.accuracy, *result.interval), speed, kilobytes
    print(f"{name:24} {result.accuracy:5.1f}%,", end=" ")
    print(f"change {change:+5.1f} ({low:+5.1f} to {high:+5.1f}), {kilobytes:4.0f} kB")

# %%
plots.trade_offs(rows)

# %% [markdown]
# And for the network for photographs, on CIFAR-10's test images, measured by `benchmarks/compress.py`:
#
# {{table.compress.networks}}
#
# {{table.compress.students}}
#
# What to take from it, the cheapest first:
#
# 1. **Compute the same in a better way**: fused attention, batches, as many threads as help. It costs nothing.
# 2. **8 bits**: little more than a quarter of the bytes, and a loss that 10,000 images do not show. Faster only
#    with kernels that multiply bytes, here
#    ×{{results.compress.rows[what=8 bits, PyTorch's].ratio_median:.2f}}.
# 3. **Fewer tokens**: {{results.compress.rows[what=6 pairs of tokens merged a layer].difference:+.1f}} points
#    with six pairs a layer, and nothing to train. With only 65 tokens little time is won.
# 4. **Fewer layers**: ×{{results.compress.rows[what=half the layers, not trained].ratio_median:.1f}} as fast, the
#    most of all, and the only way that needs training: without it
#    {{results.compress.rows[what=half the layers, not trained].accuracy:.0f}}% are left.
# 5. **Fewer heads**: dear in a network that has only four in a layer. If they must go, measure: with half of
#    them gone, {{results.compress.rows[what=50% of the heads gone, by importance].accuracy:.0f}}% by importance,
#    {{results.compress.rows[what=50% of the heads gone, by magnitude].accuracy:.0f}}% by magnitude: here the
#    weights alone choose no better than a coin (compare the three draws at random in the table).
#
# ## Out of Python
#
# Not every place where a network shall work has Python. `torch.export` follows a network once (here the student)
# and writes down every operation, with the number of images left open. What comes out is a program of its own.

# %%
from vit_tutorial.compress import export

program = export(student, pixels[:3])
operations = [node for node in program.graph.nodes if node.op == "call_function"]

# %%
with torch.no_grad():
    off = (program.module()(pixels[:50]) - student(pixels[:50])).abs().max().item()
print(
    f"{len(operations)} operations; exported with 3 images, asked with 50: off by at most {off:.0e}"
)

# %% [markdown]
# **Predict.** What happens if the number of images is *not* left open?

# %%
closed = torch.export.export(student, (pixels[:3],)).module()
try:
    closed(pixels[:50])
except (AssertionError, RuntimeError) as error:
    print(str(error).splitlines()[0])

# %% [markdown]
# It remembers the three images of the day when it was written down, and refuses any other number.
#
# [ONNX](https://onnx.ai) is a file format for such programs, which many runtimes read. It needs three more
# libraries and some seconds to load them, so it stands behind `FULL`; without them the cell says how to get them.

# %%
import tempfile
from pathlib import Path

from vit_tutorial.compress import save_onnx

if FULL:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "student.onnx"
        try:
            off = save_onnx(student, pixels[:3], file)
            print(f"{file.stat().st_size / 1000:.0f} thousand bytes,", end=" ")
            print(f"another runtime is off by {off:.0e}")
        except ValueError as error:
            print(error)

# %% [markdown]
# Always compare an exported network with the original, on real images: an export that gave other answers would
# give them in silence.
#
# ## What we now have
#
# | what | in | out |
# |---|---|---|
# | `time_in_turns(calls)`, `ratio(seconds, base)` | calls | seconds for each round; median, lowest, highest |
# | `accuracy_change(before, after)` | (n,), (n,) bool | percent, with its interval |
# | `quantized(values)` | (..., n) | int8 (..., n), scales (..., 1) |
# | `Int8Linear(linear)` | (..., in) | (..., out) |
# | `head_importance(vit, images, labels)` | (B, C, H, W), (B,) | (h,) for each layer |
# | `prune_heads(vit, {layer: heads})` | a network | a smaller one |
# | `merge_matrix(keys, r)` | (B, T, d) | (B, T − r, T) |
# | `TokenMerging(vit, r)` | (B, C, H, W) | (B, classes) |
# | `every_other_layer(vit)`, `distillation(vit)` | a network | a student, an objective for `fit` |
# | `save_onnx(vit, images, file)` | a network | a file; the largest difference |
#
# ## The questions people ask
#
# **"Can I just set small weights to zero?"** You can: half of all weights, the smallest, in every linear layer.

# %%
sparse = copy.deepcopy(vit)
for layer in sparse.modules():
    if isinstance(layer, nn.Linear):
        weight = layer.weight.data
        weight[weight.abs() < weight.abs().median()] = 0

# %%
cost("half of the weights 0", sparse)
print(f"{num_bytes(sparse) / num_bytes(vit):.0%} of the bytes")
few_pixels = pixels[:64]
seconds = race({"whole": lambda: vit(few_pixels), "half 0": lambda: sparse(few_pixels)})

# %% [markdown]
# Hardly any answer changes, and nothing is gained: a zero is stored and multiplied like any number. It takes
# formats and kernels for zeros, or whole heads, tokens and layers that go.
#
# **"How many test images do I need to see a loss of one percent?"** That depends on how many answers change,
# not on the accuracy. If a share q of the images changes between right and wrong, the standard error is about
# √(q / n). With the numbers below a true loss of one percent is twice as large, and is seen in one try of two:

# %%
for q in (0.02, 0.05, 0.1, 0.2):
    print(f"{q:4.0%} of the answers change: {round(1.96**2 * q / 0.01**2):,} images")

# %% [markdown]
# **"Do fewer parameters mean less time?"** Not by themselves. Compare the network for photographs at two image
# sizes: exactly the same layers, and a few more positions.

# %%
larger = photo_vit.resized(64)
few_photos = {32: photos[:4], 64: F.interpolate(photos[:4], 64)}
count = [sum(p.numel() for p in network.parameters()) for network in (photo_vit, larger)]
print(f"parameters ×{count[1] / count[0]:.2f}")

# %%
sizes = {
    "64 pixels": lambda: larger(few_photos[64]),
    "32 pixels": lambda: photo_vit(few_photos[32]),
}
seconds = race(sizes)

# %% [markdown]
# **"Is the accuracy of the smaller network the whole truth?"** No. Two networks of the same accuracy may fail
# on other images. How many answers are not the same as before, right or wrong?

# %%
for name in ("8 bits", "4 heads of 16 gone", "half the layers"):
    differ = (ask(networks[name])[1].predictions != whole.predictions).sum().item()
    print(f"{name:20} {differ} of 360 answers are others")

# %% [markdown]
# **"May I prune, quantise and distil together?"** You may. Here is the student of half the depth without two of
# its eight heads, in 8 bits:

# %%
scores = head_importance(student, train_pixels, train.labels)
together = to_int8(prune_heads(student, first_heads(scores, 2)))
cost("half the layers, 6 heads, 8 bits", together)
print(f"{num_bytes(together) / num_bytes(vit):.0%} of the bytes")

# %% [markdown]
# The bytes shrink with every step, and the losses grow: two heads of the student cost more than four of the whole
# network did. **What has been cut already has less to spare.** Measure after each step. And if you train, cut
# first, since training repairs some of what cutting broke.
#
# ## A stretch
#
# - Train the students for six epochs instead of one. How much of the loss comes back, and does a teacher matter
#   more or less then?
# - Distil with few labels: give `fit` all training images, but an objective with `share=1.0`, and compare with
#   labels of 100 images only. Now the teacher should pay. Does it, beyond the interval?
# - Prune ten heads, then train for one epoch. How much comes back? Does it matter which ten went?
# - Importance holds for one head at a time. Take the least important head away, measure again, take the next
#   one. Is the curve better than with one measurement for all?
# - Write `Int8Linear` with groups: a scale for every 32 numbers of a row. What do the scales cost in bytes,
#   what do they bring at 4 bits?
# - `python benchmarks/compress.py --data cifar10` measures all of this for the network for photographs, and
#   trains its students.
