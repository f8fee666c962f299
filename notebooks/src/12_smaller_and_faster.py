# %% [markdown]
# # 12 · Smaller and faster
#
# **The network works. How much of it can you take away before it stops?**
#
# A trained network is often larger than it has to be: its numbers finer, its heads more numerous, its tokens more
# alike and its layers deeper than the task asks for. Each of these can be cut. What a cut saves is easy to promise,
# so this lesson measures: what it costs in accuracy, and what it brings on *your* machine.
#
# **You will**
#
# - time networks so that a busy computer does not fool you, and judge a loss of accuracy by its interval,
# - see where the time of a forward pass goes, and why counting operations does not tell,
# - turn weights into whole numbers of 8 bits, prune heads, merge tokens, and train a network of half the depth,
# - write the result as a file that runs without PyTorch, smaller and several times as fast,
# - *deeper:* prove the arithmetic of 8 bits, cut heads out of matrices, merge tokens by hand, write the loss of a
#   student who has a teacher.

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
from vit_tutorial.lessons import check, hint

torch.manual_seed(0)
torch.set_num_threads(1)  # one processor core gives the steadiest times

# %%
plots.network_map()

# %% [markdown]
# ## Two numbers that must be honest
#
# Two of the networks that come with the course are cut in this lesson. The one for digits is small, and its 360 test
# images are on every computer: it tells what a change *costs*. The one for photographs is larger: it tells what a
# change *brings*.

# %%
vit, card = load_checkpoint("digits")
train, test = digits("train"), digits("test")
pixels = normalize(test.images, card.mean, card.std)  # (360, 1, 8, 8)

# %%
photo_vit, photo_card = load_checkpoint("cifar10")
photos = torch.randn(8, 3, 32, 32)  # for the clock, any pixels will do
for network in (vit, photo_vit):
    c, parameters = network.config, sum(p.numel() for p in network.parameters())
    print(f"width {c.embed_dim}, {c.depth} layers of {c.num_heads} heads,", end=" ")
    print(f"{c.num_tokens} tokens: {parameters:,} parameters")


# %%
def ask(network):
    """Classify the test images: which answers are correct (360,), and the evaluation."""
    result = evaluate(network, test, card.mean, card.std)
    return result.predictions == result.labels, result


# %%
whole_correct, whole = ask(vit)
low, high = whole.interval
print(f"{whole.correct} of {whole.n} correct: {whole.accuracy:.1f}%,", end=" ")
print(f"interval {low:.1f}% to {high:.1f}%")

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
# The same work, eight different times: the computer does other things as well. So one time says little, and two times
# taken one after the other can say something false, for perhaps the computer was busy during the first. The remedy is
# to let both take **turns**, again and again, and to compare *within* each round. With one slow moment, in round 3:
#
# | seconds in round | 1 | 2 | 3 | 4 | 5 |
# |---|---|---|---|---|---|
# | before | 2.0 | 2.1 | 6.0 | 2.0 | 2.0 |
# | after | 1.0 | 1.0 | 3.1 | 1.0 | 1.6 |
#
# Twice as fast in most rounds. A number for that must not hang on rounds 3 and 5.

# %% claim="The same work, eight different times"
assert len(set(spans)) == 8


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
check("12.1", my_speedup)
# hint("12.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** A slow moment hits both times of its round and leaves their ratio nearly alone. The median then ignores the
# rounds in which it hit only one. (`quantile(0.5)` takes the mean of the two in the middle, where there are two;
# `torch.median` takes the lower one.)
#
# **The common wrong answer** divides two means. One slow call then decides the result. Or it reports the best of many
# tries, for its own network only.

# %%
import statistics
from collections.abc import Callable, Mapping, Sequence

# %% definition="vit_tutorial.compress.time_in_turns"

# %% definition="vit_tutorial.compress.ratio"

# %% [markdown]
# The package's `time_in_turns` runs every second round backwards, so that nobody always comes after the same
# neighbour, and its `ratio` is your function. A first test: a network races against itself.


# %%
def race(calls, rounds=9):
    """Time calls in turns, and compare each with the first: {name: (median, lowest, highest)}."""
    with torch.inference_mode():
        seconds = time_in_turns(calls, rounds)
    first = next(iter(seconds.values()))
    speeds = {name: ratio(each, first) for name, each in seconds.items()}
    for name, (middle, lowest, highest) in speeds.items():
        print(f"{name:24} ×{middle:.2f} (×{lowest:.2f} to ×{highest:.2f})")
    return speeds


# %%
twins = race({"one": lambda: photo_vit(photos), "its twin": lambda: photo_vit(photos)})

# %% [markdown]
# About 1, and the range tells how far you can trust this computer at this moment. A gain inside such a range is not
# proven.
#
# **Accuracy.** The interval of the digits network is almost four points wide, for there are only 360 images. Lessons
# 09 and 10 showed how a small change can be seen all the same: both networks classify *the same* images, so what
# counts are those where only one of the two is correct.
#
# **Predict.** Of 1,000 images a network gets 900 right. A change loses 14 of them and wins 4 others. The accuracy
# falls from 90% to 89%. Has the network become worse, or may it be chance?

# %% claim="About 1, and the range tells"
assert 0.7 < twins["its twin"][0] < 1.4

# %% claim="The interval of the digits network is almost four points wide"
assert 3 < whole.interval[1] - whole.interval[0] < 4

# %%
from vit_tutorial.intervals import accuracy_change

before = torch.arange(1000) < 900  # correct, correct, ... wrong
after = before.clone()
after[:14], after[-4:] = False, True

# %%
reach = 196 * (2 * 0.9 * 0.1 / 1000) ** 0.5
paired = accuracy_change(before, after)
print(f"as if they had seen different images: -1.0 ± {reach:.1f} points")
print(f"image by image: {paired[0]:.1f} points, interval {paired[1]:.1f} to {paired[2]:.1f}")

# %% [markdown]
# Image by image, 0 lies outside: it has become worse. Taken for different images, the interval would have been three
# times as wide, and would have said nothing. All changes below are judged image by image:

# %% claim="Image by image, 0 lies outside"
assert paired[2] < -0.1

# %% claim="the interval would have been three times as wide"
assert 2.5 < 2 * reach / (paired[2] - paired[1]) < 4
assert reach > 1


# %%
def cost(name, network):
    """Print what a change costs; return the change in points with its interval."""
    correct, result = ask(network)
    lost, won = (whole_correct & ~correct).sum(), (correct & ~whole_correct).sum()
    change, low, high = accuracy_change(whole_correct, correct)
    print(f"{name}: {result.correct} correct, lost {lost}, won {won},", end=" ")
    print(f"change {change:+.1f} points ({low:+.1f} to {high:+.1f})")
    return change, low, high


# %% [markdown] deeper=true
# ## The interval of a change
#
# `accuracy_change` is the formula of exercise 10.2, which asked by how much one network is better than another. Here
# it is asked once more as a change, after minus before, and in float32. If yours of lesson 10 passed, you may leave
# this one out.


# %% exercise="12.2"
def my_change(before, after):
    """Tell by how many percentage points the accuracy changes.

    before, after: (n,) bool, whether each image was classified correctly; the same images.
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
# **Why.** Where both are correct, or both wrong, the difference is 0, whatever made the image easy or hard. That is
# most of the spread between images, and it is gone.
#
# **The common wrong answer** gives each network its own interval and sees that they overlap. That is a question about
# two networks that met different images.

# %% [markdown]
# How many test images show a loss of one point? That depends on how many answers change, not on the accuracy. If a
# share q of the images changes between correct and wrong, the standard error is about √(q / n). With these n, the
# interval reaches one point to each side:

# %%
needed = {q: round(1.96**2 * q / 0.01**2) for q in (0.02, 0.05, 0.1, 0.2)}
for q, n in needed.items():
    print(f"{q:4.0%} of the answers change: {n:,} images")

# %% [markdown]
# A true loss of just one point is then seen on about half of all test sets: where chance adds to it, and not where
# chance hides it. With four times as many images the interval is half as wide, and nearly every test set shows it.

# %% claim="A true loss of just one point is then seen on about half of all test sets"
for images, low, high in ((needed[0.05], 0.42, 0.58), (4 * needed[0.05], 0.93, 0.995)):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(2000, images, generator=generator)
    differences = (drawn > 0.98).float() - (drawn < 0.03).float()  # 5% change, one point is lost
    error = differences.std(dim=1) / images**0.5
    shown = (differences.mean(dim=1) + 1.96 * error < 0).float().mean().item()
    assert low < shown < high

# %% [markdown]
# ## Where the time goes
#
# In lesson 06 you counted operations. A product and a sum make a multiply-add. Here they are for one image, by part
# (T tokens of width D, L layers):

# %%
c = photo_vit.config
T, D, L, hidden = c.num_tokens, c.embed_dim, c.depth, c.hidden_dim
counted = {
    "patches, head": c.num_patches * c.in_chans * c.patch_size**2 * D + D * c.num_classes,
    "qkv, proj": L * T * 4 * D**2,
    "scores, mixing": L * 2 * T**2 * D,
    "MLP, linear": L * T * 2 * D * hidden,
    "norms, GELU": 0,
}
for part, number in counted.items():
    print(f"{part:15} {number / 1e6:6.2f} million, {number / sum(counted.values()):.0%}")

# %% [markdown]
# **Predict.** Will the times have the same shares? Which part will take longer than its count says?
#
# PyTorch's profiler writes down when every operation begins and ends. Each module gets a hook before and one after its
# call, which open and close a span with a name (`record_function`). We take the fastest
# of many calls: here all parts run in one process, and whatever disturbs a call can only make it longer.

# %%
import warnings
from functools import partial

from torch.profiler import ProfilerActivity, profile, record_function


def named(name, modules):
    """Let every call of these modules be a span of this name in the profile."""
    opened = []

    def enter(module, inputs):
        opened.append(record_function(name).__enter__())

    def leave(module, inputs, output):
        opened.pop().__exit__(None, None, None)

    for module in modules:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)


# %%
watched = copy.deepcopy(photo_vit)
blocks = watched.blocks
spans = {"patches": [watched.patch_embed], "head": [watched.head]}
spans |= {"attention": [b.attn for b in blocks], "act": [b.mlp.act for b in blocks]}
spans |= {"norm1": [b.norm1 for b in blocks], "norm2": [b.norm2 for b in blocks]}
spans |= {"qkv": [b.attn.qkv for b in blocks], "proj": [b.attn.proj for b in blocks]}
spans |= {"fc1": [b.mlp.fc1 for b in blocks], "fc2": [b.mlp.fc2 for b in blocks]}
for name, modules in spans.items():
    named(name, modules)

# %%
warnings.filterwarnings("ignore", message="Warning: Profiler clears")
with torch.inference_mode():
    watched(photos)  # the first call is not like the others
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(9):
            watched(photos)

# %%
events = [(event.name, event.cpu_time_total) for event in profiled.events()]
one = {name: min(us for n, us in events if n == name) for name in spans}
measured = {
    "patches, head": one["patches"] + one["head"],
    "qkv, proj": L * (one["qkv"] + one["proj"]),
    "scores, mixing": L * (one["attention"] - one["qkv"] - one["proj"]),
    "MLP, linear": L * (one["fc1"] + one["fc2"]),
    "norms, GELU": L * (one["norm1"] + one["norm2"] + one["act"]),
}
milliseconds = sum(measured.values()) / len(photos) / 1000

# %%
plots.share_bars(
    {"counted": counted, "measured": measured},
    [f"{sum(counted.values()) / 1e6:.1f} M", f"{milliseconds:.2f} ms"],
    "One image: multiply-adds, and time",
)

# %% [markdown]
# Norms and GELU have no multiply-adds at all, and take time all the same. Scores and mixing take more than their count
# says. There are two reasons. Norms, GELU, softmax and sums do little with each number, but each number
# has to be fetched from memory and put back: they wait for memory, not for arithmetic. And every operation costs a few
# microseconds to start, however small it is. Large matrix products are what computers are built for; **whatever is no
# large product is dearer than its count.** A saving that is counted in multiply-adds is a promise, not a result.

# %% claim="Norms and GELU have no multiply-adds at all, and take time all the same."
assert counted["norms, GELU"] == 0
assert measured["norms, GELU"] / sum(measured.values()) > 0.04

# %% claim="Scores and mixing take more than their count says."
of_count = counted["scores, mixing"] / sum(counted.values())
assert measured["scores, mixing"] / sum(measured.values()) > 1.2 * of_count

# %% [markdown] deeper=true
# ## The same numbers, faster
#
# What costs no accuracy: the same network, computed in another way.
#
# **Fused attention.** Written out, attention makes a table of T×T scores, then one of weights, and reads both again.
# `F.scaled_dot_product_attention` goes through it in pieces that stay close to the processor, and never has the whole
# table (Dao et al. 2022, arXiv 2205.14135).


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
kernels = {"written out": written_out, "fused": F.scaled_dot_product_attention}
lengths, memory = (65, 257, 1025), {name: [] for name in kernels}
for length in lengths:
    q, k, v = torch.randn(3, 1, 4, length, 32)  # one image, four heads
    assert_close(written_out(q, k, v), F.scaled_dot_product_attention(q, k, v))
    print(f"T = {length}")
    calls = {name: partial(kernel, q, k, v) for name, kernel in kernels.items()}
    race(calls)
    for name, call in calls.items():
        memory[name].append(allocated(call))

# %%
curves = {name: np.array([values]) for name, values in memory.items()}
plots.run_curves(lengths, curves, "tokens T", "mebibytes asked for", logarithmic=True)

# %% [markdown]
# Written out, the memory grows with T²: four times the tokens ask for about fifteen times as much. Fused, it grows
# with T. With a thousand tokens that saves time as well
# (×{{results.compress.rows[what=1025 tokens, fused].ratio_median:.1f}} in the table below), for the table of weights no
# longer fits beside the processor. The
# package's `Attention` has called the fused kernel since lesson 04, so this gain is in all our times already. Measured
# with more rounds, and for longer inputs:
#
# {{table.compress.attention}}
#
# **Threads, half precision, batches.** bfloat16 keeps half the bits of each number. Is it twice as fast?

# %% claim="four times the tokens ask for about fifteen times as much. Fused, it grows with T."
assert 11 < memory["written out"][2] / memory["written out"][1] < 17
assert 3 < memory["fused"][2] / memory["fused"][1] < 7

# %% claim="With a thousand tokens that saves time as well"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "compress.json"
rows_of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert rows_of["1025 tokens, fused"]["ratio_low"] > 1.2


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
ways = race(calls, rounds=5)

# %% [markdown]
# Half precision needs a processor that multiplies halves: graphics cards do, new server processors do, and most others
# convert every number to 32 bits and back, and lose. On the computer of the table at the end it was
# ×{{results.compress.rows[what=bfloat16].ratio_median:.2f}}; what yours does stands above. So **"half precision is
# faster" is a sentence about hardware.** Only the bytes of the weights are halved everywhere. One by one, the images
# take longer than in a batch: all that has to be started is started eight times. Two threads help only where a second
# core is free.
#
# **Compiling** (`torch.compile`) translates the network into one program, with its small operations joined: the norms,
# GELU and sums from the figure above. It needs a C++ compiler on this computer and about a minute, so it stands behind
# `FULL`.

# %% claim="One by one, the images take longer than in a batch"
assert ways["one by one"][0] < 0.85

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
# A weight has 32 bits, enough for seven decimal digits. How many does the network need? Take one row of weights, and
# allow only 255 values: the whole numbers from −127 to 127, times a **scale** that the row shares. The row below is
# 0.5, −1.0, 0.1, 0.03. Its largest number, −1.0, becomes −127; so the scale is 1/127, and 0.03 becomes 3.8, rounded
# to 4.

# %%
row = [0.5, -1.0, 0.1, 0.03]
scale = max(abs(value) for value in row) / 127
errors = []
for value in row:
    number = round(value / scale)
    errors.append(abs(number * scale - value) / abs(value))
    print(f"{value:5} -> {number:4} -> {number * scale:7.4f}, error {errors[-1]:.1%}")

# %% [markdown]
# No number is off by more than half a scale. That is little for the large ones and much for the small ones: 0.03 is
# wrong by five percent. For a whole table, each row has a scale of its own:

# %% claim="No number is off by more than half a scale."
assert max(error * abs(value) for error, value in zip(errors, row, strict=True)) <= scale / 2

# %% claim="0.03 is wrong by five percent"
assert 0.045 < errors[3] < 0.055
assert max(errors[:3]) < 0.03


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
# **Why.** `keepdim` leaves a column of scales, which multiplies and divides each row. `.to(torch.int8)` alone would
# cut the fractions off.
#
# **The common wrong answer** divides by 128: the largest number becomes 128, which int8 does not have, and comes back
# as −128. Wherever a row's largest weight is positive, its sign is then wrong: here in half of the rows.

# %%
from vit_tutorial.compress import LARGEST

# %% definition="vit_tutorial.compress.quantized"

# %% [markdown]
# A linear layer in 8 bits keeps its weights like that. Each token is rounded as well, when it comes, with a scale of
# its own; this is called **dynamic** quantisation. `to_int8` copies a network and does so to all its linear layers.
#
# **Predict.** All linear layers of the digits network in 8 bits: how many of its 360 answers change? How much smaller
# is it?

# %%
from vit_tutorial.compress import num_bytes, to_int8

small = to_int8(vit)
changed = (ask(small)[1].predictions != whole.predictions).sum().item()
cost_8 = cost("8 bits", small)
share = num_bytes(small) / num_bytes(vit)
print(f"answers that changed: {changed};", end=" ")
print(f"{num_bytes(vit) / 1000:.0f} -> {num_bytes(small) / 1000:.0f} thousand bytes, {share:.0%}")

# %% [markdown]
# Hardly an answer changes. The bytes go down to little more than a quarter: to a quarter in the linear layers, while
# norms, positions and the patch projection stay in 32 bits. Now the time, with the larger network. PyTorch has int8
# layers of its own, with kernels for whole numbers; one day they will move to another package, so the cell is prepared
# to miss them.

# %% claim="Hardly an answer changes."
assert changed <= 4
assert cost_8[1] > -1.5

# %% claim="The bytes go down to little more than a quarter"
assert 0.25 < share < 0.32

# %%
eight = {"as it is": photo_vit, "ours": to_int8(photo_vit)}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        eight["PyTorch's"] = torch.ao.quantization.quantize_dynamic(photo_vit, {nn.Linear})
    except (AttributeError, RuntimeError):
        print("This PyTorch has no int8 layers of its own any more, or no kernels for them here.")

# %%
speeds = race({name: partial(network, photos) for name, network in eight.items()})

# %% [markdown]
# In the measurement of the table at the end, ours is **slower** than the network it was made from
# (×{{results.compress.rows[what=8 bits, ours].ratio_median:.2f}}), and PyTorch's is faster
# (×{{results.compress.rows[what=8 bits, PyTorch's].ratio_median:.2f}}). Ours rounds every token, and then it
# multiplies whole numbers *as floats*, because PyTorch offers no product of int8 matrices for every processor. It has
# the size and the answers of 8 bits, not the speed. PyTorch's own has kernels that multiply bytes. Whether they make
# up for the rounding depends on the processor and on the size of the layers. **Smaller is a fact about the file,
# faster about the hardware.**

# %% claim="ours is **slower** than the network it was made from"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "compress.json"
rows_of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert rows_of["8 bits, ours"]["ratio_high"] < 1
assert rows_of["8 bits, PyTorch's"]["ratio_low"] > 1

# %% claim="ours is **slower** than the network it was made from"
assert speeds["ours"][0] < 1.2

# %% [markdown] deeper=true
# ## The arithmetic of 8 bits
#
# Products of whole numbers are exact, and cheap in hardware made for them. In a linear layer each output is a sum of
# products; with one scale s for its row of weights w and one scale t for the token x, both can wait until the end:
#
# $$\sum_i (s\,w_i)(t\,x_i) = s\,t \sum_i w_i x_i$$
#
# (Jacob et al. 2017, arXiv 1712.05877, section 2.) The layer:

# %% definition="vit_tutorial.compress.Int8Linear"

# %% [markdown]
# **Proof**, against whole numbers of 64 bits, which no one can suspect of rounding:

# %%
layer, x = nn.Linear(96, 40), torch.randn(2, 65, 96)
small_layer = Int8Linear(layer)
whole_x, x_scale = quantized(x)
exact = whole_x.long() @ small_layer.weight.long().mT  # int64

# %%
expected = exact.double() * x_scale.double() * small_layer.scale.double() + layer.bias.double()
assert_close(small_layer(x), expected.float())
error = (small_layer(x) - layer(x)).norm() / layer(x).norm()
print(f"against the layer in float32, the output is wrong by {error:.1%}")

# %% [markdown]
# The arithmetic is exact; what rounding has cost is less than a hundredth of the output's length.
#
# ### Where the error comes from
#
# A scale is as large as the largest number that shares it. One large number makes the steps coarse for all the others
# of its row. The cure is to share among fewer: every group of `group` neighbours in a row gets a scale of its own.
# What that costs is the scales: one number of 32 bits for each group.

# %% claim="what rounding has cost is less than a hundredth of the output's length"
assert 0 < error < 0.01


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
# **Why.** Laid out as (rows, groups, group), a group is what a row was before. Each bit less about doubles the scale,
# and with it the error.
#
# **The common wrong answer** takes 2^bits − 1 for the largest number, and forgets that one bit is the sign. The error
# then looks half as large as it will be.

# %% [markdown]
# How few bits will do? Here the weights of all linear layers are rounded, with a scale for each row, or with one for
# the whole table.


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
by_bits = {
    "a scale for each row": [percent(with_bits(vit, b, True)) for b in bits],
    "one scale for each table": [percent(with_bits(vit, b, False)) for b in bits],
}
by_bits = {name: np.array(points).T for name, points in by_bits.items()}  # (3, bits)

# %%
plots.interval_curves(
    bits, by_bits, "bits of a weight", level=("32 bits", whole.accuracy), backwards=True
)

# %% [markdown]
# Down to four bits nothing is lost that 360 images could show. At three, a scale for each row still holds, and one for
# the whole table has lost more than ten points; at two, both have broken down. In large language models a few numbers
# of each token are very large (Dettmers et al. 2022, arXiv 2208.07339): there these few stay in 16 bits, and the others
# get 8.

# %% claim="Down to four bits nothing is lost that 360 images could show."
for curve in by_bits.values():
    assert curve[0, :4].min() > whole.accuracy - 1.5

# %% claim="At three, a scale for each row still holds, and one for the whole table has lost more"
assert by_bits["a scale for each row"][0, 4] > whole.accuracy - 2
assert by_bits["one scale for each table"][0, 4] < whole.accuracy - 10

# %% claim="at two, both have broken down"
for curve in by_bits.values():
    assert curve[0, 5] < 70

# %% [markdown]
# ## Fewer heads
#
# Do all heads matter? Think of a gate g in each head, which multiplies everything that the head hands on. It stands at
# 1; at 0 the head is pruned. Close it a little: by how much does the loss move? A steep slope, up or down, means that
# the answer hangs on this head. The **importance** of a head is the mean over images of the slope's absolute value
# (Michel et al. 2019, arXiv 1905.10650). `head_importance` measures it for all heads by one backward pass. We ask on
# the *training* images: the test images must have no say in the choice.

# %%
from vit_tutorial.compress import head_importance

train_pixels = normalize(train.images, card.mean, card.std)
importance = head_importance(vit, train_pixels, train.labels)
for layer, values in enumerate(importance):
    print(f"layer {layer}:", "  ".join(f"{value:.4f}" for value in values.tolist()))

# %% [markdown]
# `prune_heads` takes heads away for good: the matrices of their layer become smaller, and so does the work. Which should
# go? The least important first; or those whose weights in `proj` are smallest, which needs no images; or any.
#
# **Predict.** Of the network's 16 heads, how many can go before the test images notice? How much better is measuring
# than tossing a coin?

# %%
from vit_tutorial.compress import prune_heads


def first_heads(scores, count):
    """Choose the heads with the lowest scores, but never all of a layer: {layer: heads}."""
    chosen = {}
    for number in torch.stack(list(scores)).flatten().argsort().tolist():
        layer, head = divmod(number, len(scores[0]))
        others = chosen.get(layer, [])
        if sum(map(len, chosen.values())) < count and len(others) < len(scores[0]) - 1:
            chosen[layer] = [*others, head]
    return chosen


# %%
magnitude = [b.attn.proj.weight.detach().unflatten(1, (4, 16)).norm(dim=(0, 2)) for b in vit.blocks]
print("four to go, by importance:", first_heads(importance, 4))
print("four to go, by magnitude: ", first_heads(magnitude, 4))

# %%
counts = (0, 2, 4, 6, 8, 12)
pruned_by = {}
for rule, scores in {"by importance": importance, "by magnitude": magnitude}.items():
    results = [ask(prune_heads(vit, first_heads(scores, n)))[1] for n in counts]
    pruned_by[rule] = np.array([(r.accuracy, *r.interval) for r in results]).T  # (3, counts)

# %%
chance = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0))  # five draws
draws = [[ask(prune_heads(vit, first_heads(d, n)))[1].accuracy for n in counts] for d in chance]
pruned_by["at random (mean and range of five)"] = np.array(
    [np.mean(draws, axis=0), np.min(draws, axis=0), np.max(draws, axis=0)]
)
plots.interval_curves(counts, pruned_by, "heads pruned, of 16")

# %%
pruned_cost = {
    count: cost(f"{count} heads pruned", prune_heads(vit, first_heads(importance, count)))
    for count in (4, 6, 8)
}
eight_pruned = [ask(prune_heads(vit, first_heads(s, 8)))[0] for s in (magnitude, importance)]
gain, low, high = accuracy_change(*eight_pruned)
print(f"8 pruned, importance minus magnitude: {gain:+.1f} points ({low:+.1f} to {high:+.1f})")

# %% [markdown]
# Four heads can go, and 360 images cannot tell; six cost five points. That the four go unnoticed is no proof that they
# did nothing: others may do the same thing, and then each is dispensable as long as the other is there. (That is also
# why importances cannot be added up: they hold for one head at a time.) With eight pruned, both rules do better than
# the mean of the five draws, and measuring does better than the weights alone by about twelve points. Note how wide
# chance is: with six pruned, **the luckiest draw comes close to measuring, the unluckiest loses more than twenty
# points.**

# %% claim="Four heads can go, and 360 images cannot tell; six cost five points."
assert pruned_cost[4][2] > 0
assert pruned_cost[6][2] < -1
assert -7 < pruned_cost[6][0] < -3

# %% claim="both rules do better than the mean of the five draws"
at_random = pruned_by["at random (mean and range of five)"]
assert pruned_by["by magnitude"][0, 4] > at_random[0, 4] + 3
assert pruned_by["by importance"][0, 4] > at_random[0, 4] + 10

# %% claim="measuring does better than the weights alone by about twelve points"
assert low > 3
assert 8 < gain < 15

# %% claim="the luckiest draw comes close to measuring, the unluckiest loses more than twenty points"
at_random = pruned_by["at random (mean and range of five)"]
assert at_random[2, 3] > pruned_by["by importance"][0, 3] - 3
assert at_random[1, 3] < whole.accuracy - 20

# %% [markdown] deeper=true
# ## A gate for each head
#
# The slope by hand, for one image and head 0 of layer 2: the loss with the gate a little below 1, and a little above.

# %%
exact_vit = copy.deepcopy(vit).double()
first_pixels = normalize(train.images[:8], card.mean, card.std).double()
first_labels = train.labels[:8]


# %%
def loss_with_gate(layer, head, gate, image):
    """Compute the loss of one image with one head turned up or down."""
    gated, d = copy.deepcopy(exact_vit), vit.config.head_dim
    gated.blocks[layer].attn.proj.weight.data[:, head * d : (head + 1) * d] *= gate
    logits = gated(first_pixels[image, None])
    return F.cross_entropy(logits, first_labels[image, None]).item()


# %%
up, down = (loss_with_gate(2, 0, gate, image=0) for gate in (1.001, 0.999))
print(f"{down:.8f} -> {up:.8f}: the slope is {(up - down) / 0.002:+.5f}")

# %% [markdown]
# With gates turned by hand, importance takes two forward passes for each head and image. A single backward pass (lesson
# 08) has the slopes of all of them: it gives the gradient of the loss with respect to each number that a head hands on.


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
# **Why.** One gate multiplies all numbers of the head, so its slope is their sum, signs and all. Over images, each
# slope counts whichever way it points.
#
# **The common wrong answer** takes absolute values first. A head whose numbers pull in opposite directions, and that
# does nothing on the whole, then looks important.

# %%
from typing import Any

from einops import rearrange

from vit_tutorial.compress import require_separate_heads
from vit_tutorial.model import Block, VisionTransformer, ViTConfig
from vit_tutorial.modes import evaluating

# %% definition="vit_tutorial.compress.head_importance"

# %% [markdown]
# **Proof**, against gates turned by hand, in float64:

# %%
by_hand = torch.zeros(4)
for head in range(4):
    for image in range(3):
        up, down = (loss_with_gate(2, head, gate, image) for gate in (1.00001, 0.99999))
        by_hand[head] += abs(up - down) / 0.00002 / 3
at_once = head_importance(exact_vit, first_pixels[:3], first_labels[:3])[2]
assert_close(at_once.float(), by_hand, rtol=1e-4, atol=1e-8)
print("layer 2, by hand:", [round(value, 5) for value in by_hand.tolist()])

# %% [markdown] deeper=true
# ## Out of the matrices
#
# To take a head away, three things must go: the rows of `qkv` that make its queries, keys and values, their biases,
# and the columns of `proj` that read it. Nothing is set to zero. **Proof**: a network without a head says the same as
# one in which nobody reads that head.

# %%
unread = copy.deepcopy(exact_vit)
unread.blocks[1].attn.proj.weight.data[:, 16:48] = 0  # heads 1 and 2
pruned = prune_heads(exact_vit, {1: [1, 2]})
assert_close(pruned(first_pixels), unread(first_pixels))
print("layer 1:", pruned.blocks[1].attn.qkv, "instead of", vit.blocks[1].attn.qkv)


# %% exercise="12.6"
def my_pruned(qkv, bias, proj, num_heads, keep):
    """Take heads out of an attention layer.

    qkv: (3 D, D), the weight whose rows make the queries of all heads, then their keys, then their values.
    bias: (3 D,), of qkv. proj: (D, D), the weight that reads what the heads hand on, side by side.
    keep: a list of heads, in the order in which they shall stand.
    Returns three tensors for the n heads that stay, d = D / h: qkv (3 n d, D), bias (3 n d,), proj (D, n d).
    """
    ### BEGIN SOLUTION
    dim = len(proj)
    rows = qkv.reshape(3, num_heads, -1, dim)[:, keep]  # (3, n, d, D)
    columns = proj.reshape(dim, num_heads, -1)[:, keep]  # (D, n, d)
    bias = bias.reshape(3, num_heads, -1)[:, keep]
    return rows.reshape(-1, dim), bias.flatten(), columns.flatten(1)
    ### END SOLUTION


# %%
check("12.6", my_pruned)
# hint("12.6")

# %% [markdown] solved_only=true
# **Why.** With an axis for the heads, choosing is an index. The rest is the order of the axes: (3, h, d) for what
# comes out of `qkv`, (h, d) for what goes into `proj`.
#
# **The common wrong answer** sets the columns of `proj` to zero. The answers are the same, and so are size and time:
# zeros are multiplied like all numbers.

# %% [markdown]
# ## Play
#
# The network is so small that it runs in your browser, on all 360 images, with whichever heads you leave. Choose
# *Silence heads* and click one among the small maps, or let a rule choose. **Look for**: a head that costs nothing
# alone; a head that costs twenty images alone; the digit that is lost first when twelve heads go by importance.

# %%
from vit_tutorial import LiveExplorer

rules = {"least important first": importance, "smallest weights first": magnitude}
explorer = LiveExplorer(vit, card, images=test, rules=rules)
explorer

# %% claim="a head that costs nothing alone; a head that costs twenty images alone"
assert ask(prune_heads(vit, {3: [1]}))[1].correct >= whole.correct - 1
assert ask(prune_heads(vit, {0: [0]}))[1].correct <= whole.correct - 15

# %% claim="the digit that is lost first when twelve heads go by importance"
without = ask(prune_heads(vit, first_heads(importance, 12)))[0].float()
recalls = torch.stack([without[test.labels == digit].mean() for digit in range(10)]).sort().values
assert recalls[0] < 0.35
assert recalls[1] > recalls[0] + 0.15

# %% [markdown]
# The same as a still picture, with six heads silenced by importance:

# %%
silenced = explorer.orders["least important first"][:6]
explorer.figure(silenced=silenced)

# %% [markdown]
# On the left the image and where CLS draws from (rollout), on the right what the network says of it, with a line for
# what the whole network said. This 3 is still a 3, and hardly less sure; other images have paid, as the line below
# tells.

# %% claim="This 3 is still a 3, and hardly less sure"
six = prune_heads(vit, first_heads(importance, 6))
three = pixels[test.labels.tolist().index(3), None]
with torch.no_grad():
    shares = [network(three).softmax(dim=1)[0] for network in (vit, six)]
assert shares[1].argmax() == 3
assert shares[1][3] > shares[0][3] - 0.1

# %% [markdown]
# ## Fewer tokens
#
# Much of a photograph says the same: sky next to sky. Time grows with the number of tokens, at least in proportion. So
# let tokens that are alike become one (Bolya et al. 2022, arXiv 2210.09461). How alike two tokens are, their keys tell:
# a key is what a token shows to those who look for something.
#
# To look at all pairs would be dear, and to merge a into b and b into c confusing. The trick: tokens of **even** number
# look among those of **odd** number only. Each even one finds its best partner, and the r pairs that are most alike
# merge. By hand, six tokens with keys of two numbers; token 0 is CLS and stays alone.

# %%
keys = torch.tensor([[0.0, 9.0], [1.0, 0.0], [2.0, 0.2], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.5]])
alike = F.cosine_similarity(keys[:, None], keys[None], dim=-1)  # (6, 6)
for even in (2, 4):
    pairs = {odd: round(alike[even, odd].item(), 3) for odd in (1, 3, 5)}
    print(f"token {even} looks at {pairs}: best is {max(pairs, key=pairs.get)}")

# %% [markdown]
# Tokens 2 and 1 are more alike than 4 and 5, so with r = 1 token 2 goes into token 1: the new token is the mean of
# the two. A token of five patches counts five times when it merges again, and in attention. The package's
# `TokenMerging` does this in every layer, between attention and the MLP. Nothing is trained.
#
# What does it do to a photograph? The network for photographs, on Chelsea the cat (photograph by Stéfan van der Walt,
# public domain), or on yours, in the 32×32 pixels that the network sees:

# %% claim="Tokens 2 and 1 are more alike than 4 and 5"
assert alike[2, 1] > alike[4, 5] + 0.05

# %%
from skimage import data as photographs

from vit_tutorial import fit_image, open_image
from vit_tutorial.compress import TokenMerging

MY_PHOTO = ""  # for example "my_dog.jpg"

fitted = fit_image(open_image(MY_PHOTO or photographs.chelsea()), 32)
image = normalize(fitted.pixels[None], photo_card.mean, photo_card.std)

# %%
groups = {}
for r in (2, 5, 8):
    with torch.no_grad():
        tokens, sources = TokenMerging(photo_vit, r).forward_features(image)
    group_of = sources[0, :, 1:].argmax(dim=0).reshape(8, 8).numpy()  # of each patch
    groups[f"r = {r}: {tokens.shape[1]} tokens of 65"] = group_of

# %%
plots.merged_patches(fitted.pixels.permute(1, 2, 0).numpy(), groups)

# %% [markdown]
# Each token has the mean colour of its patches. A patch that stayed alone still shows its pixels, and pieces of one
# token that lie apart carry the same letter. Nobody asks where a patch lies, and yet with r = 2 it is mostly neighbours
# that meet: they look alike, and positions were added to the tokens at the start, so keys hold something of them. With
# r = 8 a piece of one eye of Chelsea's and a piece of the other are one token, d, across the nose.

# %% claim="with r = 2 it is mostly neighbours that meet"
table = next(iter(groups.values()))
places = {n: np.argwhere(table == n) for n in np.unique(table) if (table == n).sum() > 1}
near = [np.abs(p[:, None] - p[None]).sum(-1).max() < len(p) for p in places.values()]
assert sum(near) >= len(near) / 2 + 1

# %% claim="With r = 8 a piece of one eye of Chelsea's and a piece of the other are one token"
table = list(groups.values())[2]
assert table[3, 2] == table[3, 6]
assert table[3, 3] != table[3, 2]

# %% [markdown]
# On the digits there are only 16 patches. How many pairs may go in each layer before it hurts?

# %%
steps = (0, 1, 2, 3, 4, 6)
merged = [ask(TokenMerging(vit, r)) for r in steps]
points = np.array([(result.accuracy, *result.interval) for _, result in merged]).T
plots.interval_curves(steps, {"merged": points}, "pairs merged in every layer, r")

# %%
calls = {"as it is": lambda: photo_vit(photos)}
for r in (2, 5, 8):
    calls[f"r = {r}"] = partial(TokenMerging(photo_vit, r), photos)
merging_speeds = race(calls)

# %% [markdown]
# One pair a layer costs nothing that can be seen, three cost six points, and with six about one answer in five is lost.
# And finding pairs takes time as well. In a network as small as ours that eats much of what is saved, or more: in the
# measurement at the end, two pairs a layer give ×{{results.compress.rows[what=2 pairs of tokens merged a layer].ratio_median:.2f}},
# six pairs ×{{results.compress.rows[what=6 pairs of tokens merged a layer].ratio_median:.2f}}. Bolya et al. report about
# twice the throughput for large ones, with hundreds of tokens and wide layers. As always: measured, not promised.

# %% claim="One pair a layer costs nothing that can be seen, three cost six points"
one, three = (accuracy_change(whole_correct, merged[r][0]) for r in (1, 3))
assert one[2] > 0
assert three[2] < -2
assert -8 < three[0] < -4

# %% claim="with six about one answer in five is lost"
assert 14 < whole.accuracy - points[0, 5] < 24

# %% claim="eats much of what is saved, or more"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "compress.json"
rows_of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
two, six = (rows_of[f"{r} pairs of tokens merged a layer"]["ratio_median"] for r in (2, 6))
assert two < 1
assert 1 < six < 65 / np.mean([65 - 6 * layer for layer in range(6)])

# %% [markdown] deeper=true
# ## Merging, written out
#
# What happened to the six tokens is a table of zeros and ones, with a row for each token that is left, and in it a 1
# for each token that went into it. A loop would make it like this:


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
    assert_close(merge_matrix(many, r), torch.stack([merge_loop(keys, r) for keys in many]))
print(merge_matrix(keys[None], r=2)[0])

# %% [markdown]
# The new token is the mean of its patches. A token of five patches and one of a single patch must not count alike when
# they merge again, so each token has a **size**.


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
# **Why.** Mean times size is the sum of the patches. Sums can be added; the new mean is their sum over the new size.
#
# **The common wrong answer** takes (a + b) / 2. For tokens that were never merged it is right, so it passes in the
# first layer, and is wrong in all that follow.

# %% [markdown]
# The size matters in attention, too. Five equal tokens used to get five shares of the softmax; merged into one they
# would get one. A score plus ln 5 repairs that: $e^{s + \ln 5} = 5\,e^s$. In numbers:

# %%
scores = torch.tensor([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])  # five equal keys
five = torch.tensor([1.0, 2.0]) + torch.tensor([1.0, 5.0]).log()
print("all six:  ", [round(value, 3) for value in scores.softmax(0).tolist()])
print("five as 1:", [round(value, 3) for value in five.softmax(0).tolist()])

# %% [markdown]
# The whole network:

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
# ## Fewer layers, with a teacher
#
# Leave out every other layer, and the network is almost twice as fast: layers are all alike and come one after the
# other. What does it still know?

# %%
from dataclasses import replace

# %% definition="vit_tutorial.compress.every_other_layer"

# %%
cut_correct = ask(every_other_layer(vit))[1].correct
print(f"{vit.config.depth} layers: {whole.correct} correct; layers 0 and 2 alone: {cut_correct}")

# %% [markdown]
# About seven in ten are still correct, far more than the 36 of guessing: as lesson 05 said, a layer only *adds* to the
# stream. What is left can be trained for a moment longer. From what? From labels, as always, or from the whole network,
# which knows more than a label: not only that this is a 3, but how much it looks like an 8. Hinton et al. (2015, arXiv
# 1503.02531) call it **distillation**: the loss compares the student's probabilities with the teacher's.
# `distillation(vit)` is such an objective for the `fit` of lesson 07; nothing else changes.
#
# All students have half the depth: one from scratch, and cut ones with three seeds each. **Predict.** Six epochs, a
# few seconds, after a network is cut in half: how much of the loss comes back? Will the teacher make a difference?

# %% claim="About seven in ten are still correct"
assert 230 < cut_correct < 275

# %%
from IPython.utils.capture import capture_output
from tqdm.auto import tqdm

from vit_tutorial import TrainConfig, fit
from vit_tutorial.compress import distillation

TAUGHT = {"objective": distillation(vit)}
runs = []
for seed in range(2):
    runs += [("from scratch, labels", 6, seed, {}), ("from scratch, Muon", 6, seed, {})]
for seed in range(3):
    runs += [("cut, labels", 6, seed, {}), ("cut, teacher", 6, seed, TAUGHT)]
    runs += [("cut, labels, longer", 9, seed, {})]

# %%
students, train_seconds = {}, {}
for name, epochs, seed, options in tqdm(runs, leave=False):
    torch.manual_seed(seed)
    student, began = every_other_layer(vit).train(), time.process_time()
    if name.startswith("from scratch"):
        student = VisionTransformer(student.config)
    config = TrainConfig(epochs, batch_size=64, lr=2e-3, seed=seed, precision="float32")
    if name == "from scratch, Muon":  # at the rate that lesson 07 found for it
        config = replace(config, optimizer="muon", lr=2e-2)
    with capture_output():  # no bar for each of them
        fit(student, train, None, config, **options)
    students.setdefault(name, []).append(student.eval())
    train_seconds.setdefault(name, []).append(time.process_time() - began)

# %%
student_correct = {name: [ask(s)[0] for s in trained] for name, trained in students.items()}
for name, correct in student_correct.items():
    counts = [each.sum().item() for each in correct]
    seconds = statistics.median(train_seconds[name])
    print(f"{name:21} {counts} of 360 correct, {seconds:.1f} seconds each")

# %%
gains = {}
for other in ("cut, labels", "cut, labels, longer"):
    pairs = zip(student_correct[other], student_correct["cut, teacher"], strict=True)
    gains[other] = [accuracy_change(*pair) for pair in pairs]
    print(f"teacher minus {other}:", end=" ")
    print("; ".join(f"{gain:+.1f} ({low:+.1f} to {high:+.1f})" for gain, low, high in gains[other]))
student = students["cut, teacher"][0]
half_cost = cost("half the layers, teacher, seed 0", student)

# %% [markdown]
# At this rate six epochs from scratch bring just over half; cut, they bring back nearly everything, and with the teacher 360
# images no longer show a loss. So weights that already work are worth a lot? With the optimizer and the rate that suit a fresh
# network (lesson 07), the student from scratch gets as far in the same six epochs. **Tune both, then compare**: on so small a
# task the cut saves little.
#
# After the same six epochs at this one rate, the taught student is ahead with every seed. (At another rate it need not be:
# try 6e-3.) And look at the seconds: each step asks the
# teacher as well. In the time that it costs, the labels alone can do nine epochs, and then most of the lead is gone; the
# rest is no more than chance explains. **Equal steps and equal time are two questions**, and whoever says that something
# trains better has to say which was equal.
#
# On photographs, a student of the larger network gets
# {{results.compress.rows[what=half the layers, teacher].epochs}} epochs, all at one rate. From scratch it comes to
# {{results.compress.rows[what=half the layers, from scratch].test_accuracy_mean:.1f}}%, cut and taught by labels to
# {{results.compress.rows[what=half the layers, labels].test_accuracy_mean:.1f}}% (seed by seed:
# {{results.compress.rows[what=half the layers, labels].test_accuracies}}), by the teacher to
# {{results.compress.rows[what=half the layers, teacher].test_accuracy_mean:.1f}}% (seed by seed:
# {{results.compress.rows[what=half the layers, teacher].test_accuracies}}). There, too, the teacher is ahead with every
# seed for equal steps, and one training takes
# {{results.compress.rows[what=half the layers, teacher].seconds:.0f}} seconds instead of
# {{results.compress.rows[what=half the layers, labels].seconds:.0f}}.

# %% claim="six epochs from scratch bring just over half; cut, they bring back nearly everything"
counts = {name: [each.sum().item() for each in c] for name, c in student_correct.items()}
assert max(counts["from scratch, labels"]) < 270
assert min(counts["from scratch, labels"]) > 150
assert min(counts["cut, labels"]) > 330

# %% claim="the student from scratch gets as far in the same six epochs"
counts = {name: [each.sum().item() for each in c] for name, c in student_correct.items()}
assert min(counts["from scratch, Muon"]) > 338
assert abs(np.mean(counts["from scratch, Muon"]) - np.mean(counts["cut, labels"])) < 8

# %% claim="with the teacher 360 images no longer show a loss"
for correct in student_correct["cut, teacher"]:
    change, low, high = accuracy_change(whole_correct, correct)
    assert change > -1.7
    assert high > 0.4

# %% claim="After the same six epochs at this one rate, the taught student is ahead with every seed."
for gain in gains["cut, labels"]:
    assert gain[0] > 0
assert np.mean([gain for gain, low, high in gains["cut, labels"]]) > 0.7

# %% claim="In the time that it costs, the labels alone can do nine epochs"
seconds = {name: statistics.median(each) for name, each in train_seconds.items()}
assert seconds["cut, labels, longer"] < 1.35 * seconds["cut, teacher"]

# %% claim="then most of the lead is gone; the rest is no more than chance explains"
lead, rest = (
    [gain for gain, low, high in gains[n]] for n in ("cut, labels", "cut, labels, longer")
)
assert np.mean(rest) < 0.7 * np.mean(lead)
for each in gains["cut, labels, longer"]:
    assert each[1] < 0

# %% claim="There, too, the teacher is ahead with every seed for equal steps"
import json
from pathlib import Path

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "compress.json"
rows_of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
taught, labels = (rows_of[f"half the layers, {by}"] for by in ("teacher", "labels"))
assert min(taught["test_accuracies"]) > max(labels["test_accuracies"])
assert taught["seconds"] > 1.3 * labels["seconds"]

# %% [markdown] deeper=true
# ## What a teacher says
#
# A network that is sure hides what else it thinks; dividing its logits by a **temperature** brings it out.

# %%
with torch.no_grad():
    logits = vit(pixels[9:10])
    shares = {t: (logits / t).softmax(dim=1)[0] for t in (1, 2, 4)}
for temperature, each in shares.items():
    print(f"temperature {temperature}:", "  ".join(f"{k}: {p:5.1%}" for k, p in enumerate(each)))

# %% [markdown]
# At temperature 1 it is a 3, and that is nearly all. At 2 the other digits share almost half, and 8 gets more than twice
# as much as the next: it is a 3 that looks like an 8. No label says so.
#
# The student gets the same temperature, and the loss is the divergence of its probabilities q from the teacher's p:
# the sum of p (ln p − ln q), which is 0 when both say the same. Dividing logits by the temperature makes the gradients
# smaller by its square, so the divergence is multiplied by that. A part of the loss still comes from the labels.

# %% claim="At 2 the other digits share almost half, and 8 gets more than twice as much as the next"
assert shares[1][3] > 0.85
assert 0.42 < 1 - shares[2][3] < 0.52
ordered = shares[2].topk(3)
assert ordered.indices[1] == 8
assert ordered.values[1] > 2.2 * ordered.values[2]
assert test.labels[9] == 3


# %% exercise="12.8"
def my_distillation(logits, taught, labels, temperature, share):
    """Compute the loss of a student who has a teacher and labels.

    logits: (B, K), of the student. taught: (B, K), logits of the teacher. labels: (B,).
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
# **The common wrong answer** forgets the square of the temperature. The loss still falls, the weights of the two parts
# have quietly changed, and another temperature seems to need another learning rate. The other one lets `F.kl_div` take
# its default mean, which also divides by the number of classes.

# %% definition="vit_tutorial.compress.distillation"

# %% [markdown]
# ## Out of Python
#
# Not every place where a network shall work has Python. `save_onnx` lets PyTorch follow a network once, writes down
# every operation in [ONNX](https://onnx.ai), a file format that many programs read, runs the file with one of them,
# ONNX Runtime, and returns the largest difference. That takes three more libraries; without them the cells say how to
# get them.
#
# **Predict.** We export the student, and the student with our 8 bits, which has little more than a quarter of the
# bytes. Which file is smaller?

# %%
import tempfile
from pathlib import Path

from vit_tutorial.compress import save_onnx

temporary = tempfile.TemporaryDirectory()
FOLDER = Path(temporary.name)  # or a folder of yours, to keep the files: Path("my_networks")

# %%
kilobytes = {}
try:
    for name, network in {"student": student, "student, our 8 bits": to_int8(student)}.items():
        difference = save_onnx(network, pixels[:3], FOLDER / f"{name}.onnx")
        kilobytes[name] = (FOLDER / f"{name}.onnx").stat().st_size / 1000
        print(f"{name}: {num_bytes(network) / 1000:.0f} thousand bytes of weights,", end=" ")
        print(f"a file of {kilobytes[name]:.0f}; another program is off by {difference:.0e}")
except ValueError as error:
    print(error)

# %% [markdown]
# With our 8 bits, the file is *larger*. The exporter has computed beforehand what does not depend on the image, and
# the weights as floats are such a thing: most of them lie in the file with 32 bits again, beside more operations than
# before. An honest number is the size of the file that you hand on, not the one that was promised on the way.
#
# The other order works: export in 32 bits, then let ONNX Runtime round the weights. It has kernels that multiply bytes.
# (Two kinds of notes of the exporter have to go: shapes, which stand in the way, and where in our code each operation
# came from, about a quarter of the file.)

# %% claim="With our 8 bits, the file is *larger*."
assert kilobytes["student, our 8 bits"] > 1.1 * kilobytes["student"]

# %% claim="most of them lie in the file with 32 bits again"
import onnx

stored = onnx.load(str(FOLDER / "student, our 8 bits.onnx")).graph.initializer
floats = sum(len(w.raw_data) for w in stored if w.data_type == onnx.TensorProto.FLOAT)
assert floats > 0.5 * num_bytes(student)

# %% claim="where in our code each operation came from, about a quarter of the file"
import onnx

nodes = onnx.load(str(FOLDER / "student.onnx")).graph.node
notes = sum(len(note.SerializeToString()) for node in nodes for note in node.metadata_props)
assert 0.15 < notes / 1000 / kilobytes["student"] < 0.35


# %%
def in_8_bits(file):
    """Round the weights of an exported network to 8 bits: the path of a second file."""
    import logging

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    program, rounded = onnx.load(str(file)), file.with_stem(file.stem + "_8_bits")
    program.graph.ClearField("value_info")
    for node in program.graph.node:
        node.ClearField("metadata_props")
    logging.disable(logging.WARNING)  # of advice for convolutions
    quantize_dynamic(program, str(rounded), weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)
    return rounded


# %%
def running(file):
    """Run an exported network, without PyTorch and on one core: images -> logits."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


# %%
exported = {}
if kilobytes:
    files = [FOLDER / "student.onnx", in_8_bits(FOLDER / "student.onnx")]
    for name, file in zip(("exported", "exported, 8 bits"), files, strict=True):
        exported[f"half, {name}"] = running(file)
        kilobytes[name] = file.stat().st_size / 1000
        answers = running(file)(pixels).argmax(dim=1)
        print(f"{name}: {kilobytes[name]:.0f} thousand bytes,", end=" ")
        print(f"{(answers == test.labels).sum()} of 360 correct")

# %% [markdown]
# Three different images were shown to the exporter, and the file takes 360. Always compare an exported network with the
# original, on real images: an export that gave other answers would give them in silence. Here the 8 bits leave the
# answers as they were, and the file has shrunk to about a quarter.

# %% claim="Here the 8 bits leave the answers as they were, and the file has shrunk to about a quarter."
answers = [run(pixels).argmax(dim=1) for run in exported.values()]
assert (answers[0] != answers[1]).sum() <= 3
assert kilobytes["exported, 8 bits"] < 0.33 * kilobytes["exported"]

# %% [markdown]
# ## One table
#
# All of it side by side, on your computer, for the digits. **Predict.** Which row is the best? Which of them would you
# have bought after reading only "75% smaller" or "half the layers"?

# %%
networks = {
    "as it is": vit,
    "8 bits, ours": to_int8(vit),
    "4 heads of 16 pruned": prune_heads(vit, first_heads(importance, 4)),
    "8 heads of 16 pruned": prune_heads(vit, first_heads(importance, 8)),
    "2 pairs merged a layer": TokenMerging(vit, 2),
    "half the layers": student,
}

# %%
calls = {name: partial(call, pixels[:128]) for name, call in {**networks, **exported}.items()}
table_speeds = race(calls, rounds=21)

# %%
rows, changes = {}, {}
for name, network in networks.items():
    correct, result = ask(network)
    changes[name] = accuracy_change(whole_correct, correct)
    accuracy = result.accuracy, *result.interval
    rows[name] = accuracy, table_speeds[name], num_bytes(network) / 1000

# %%
from vit_tutorial.intervals import wilson_interval

for name, run in exported.items():
    correct = run(pixels).argmax(dim=1) == test.labels
    changes[name] = accuracy_change(whole_correct, correct)
    n = correct.sum().item()
    accuracy = 100 * n / 360, *wilson_interval(n, 360)
    rows[name] = accuracy, table_speeds[name], kilobytes[name.removeprefix("half, ")]

# %%
for name, (change, low, high) in changes.items():
    print(f"{name:23} change {change:+5.1f} points ({low:+5.1f} to {high:+5.1f})")
plots.trade_offs(rows)

# %% [markdown]
# Dots are what was measured, lines the intervals of the accuracies and the ranges of the speeds. Our 8 bits shrink the
# weights and win no time. Half the layers are clearly faster, and cost nothing that shows, since they were trained. The last row puts everything together: half the layers, 8 bits, and a program made to run networks. It
# is less than a fifth of the whole network's bytes, faster than half the layers in PyTorch, and it needs neither PyTorch
# nor the course. (Without the three libraries the rows of the exported network are missing.)
#
# And for the network for photographs, on CIFAR-10's test images, measured by `benchmarks/compress.py`, all of it in
# PyTorch:
#
# {{table.compress.networks}}
#
# {{table.compress.students}}
#
# What to take from it, the cheapest first:
#
# 1. **Compute the same in a better way**: fused attention, batches, another program to run it. It costs nothing.
# 2. **8 bits**: little more than a quarter of the bytes, and a loss that 10,000 images do not show. Faster only with
#    kernels that multiply bytes: ONNX Runtime's, or PyTorch's
#    (×{{results.compress.rows[what=8 bits, PyTorch's].ratio_median:.2f}}).
# 3. **Fewer tokens**: {{results.compress.rows[what=6 pairs of tokens merged a layer].difference:+.1f}} points with six
#    pairs a layer, and nothing to train. With only 65 tokens little time is won.
# 4. **Fewer layers**: ×{{results.compress.rows[what=half the layers, not trained].ratio_median:.1f}} as fast, the most
#    in this table, and the only way that needs training: without it
#    {{results.compress.rows[what=half the layers, not trained].accuracy:.0f}}% are left.
# 5. **Fewer heads**: dear in a network that has only four in a layer. If they must go, measure: with half of them
#    pruned, {{results.compress.rows[what=50% of the heads gone, by importance].accuracy:.0f}}% by importance,
#    {{results.compress.rows[what=50% of the heads gone, by magnitude].accuracy:.0f}}% by magnitude: here the weights
#    alone choose no better than a coin (compare the three draws at random in the table).

# %% claim="Our 8 bits shrink the weights and win no time."
assert table_speeds["8 bits, ours"][0] < 1.15
assert rows["8 bits, ours"][2] < 0.32 * rows["as it is"][2]

# %% claim="Half the layers are clearly faster, and cost nothing that shows"
assert table_speeds["half the layers"][0] > 1.25
assert changes["half the layers"][2] > 0.4

# %% claim="less than a fifth of the whole network's bytes, faster than half the layers in PyTorch"
last = rows["half, exported, 8 bits"]
assert last[2] < 0.2 * rows["as it is"][2]
assert last[1][0] > 1.1 * table_speeds["half the layers"][0]

# %% claim="a loss that 10,000 images do not show"
import json

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "compress.json"
rows_of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert rows_of["8 bits, ours"]["difference_high"] > 0
assert rows_of["8 bits, PyTorch's"]["difference_high"] > 0
assert rows_of["8 bits, ours"]["bytes"] < 0.3 * rows_of["as it is"]["bytes"]

# %% claim="With only 65 tokens little time is won."
import json

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "compress.json"
rows_of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert rows_of["6 pairs of tokens merged a layer"]["ratio_median"] < 1.4
fastest = max(row["ratio_median"] for row in rows_of.values() if row["table"] == "networks")
assert rows_of["half the layers, not trained"]["ratio_median"] == fastest

# %% claim="the weights alone choose no better than a coin"
import json

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "compress.json"
rows_of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
by_chance = [rows_of[f"50% of the heads gone, at random ({n})"]["accuracy"] for n in range(3)]
assert rows_of["50% of the heads gone, by magnitude"]["accuracy"] < min(by_chance)
assert rows_of["50% of the heads gone, by importance"]["accuracy"] > max(by_chance) + 5

# %% [markdown]
# ## What we now have
#
# | what | in | out |
# |---|---|---|
# | `time_in_turns(calls)`, `ratio(seconds, base)` | calls | seconds for each round; median, lowest, highest |
# | `accuracy_change(before, after)` | (n,), (n,) bool | points, with their interval |
# | `quantized(values)` | (..., n) | int8 (..., n), scales (..., 1) |
# | `Int8Linear(linear)` | (..., in) | (..., out) |
# | `head_importance(vit, images, labels)` | (B, C, H, W), (B,) | (h,) for each layer |
# | `prune_heads(vit, {layer: heads})` | a network | a smaller one |
# | `merge_matrix(keys, r)` | (B, T, d) | (B, T − r, T) |
# | `TokenMerging(vit, r)` | (B, C, H, W) | (B, K) |
# | `every_other_layer(vit)`, `distillation(vit)` | a network | a student, an objective for `fit` |
# | `save_onnx(vit, images, file)` | a network | a file; the largest difference |

# %% [markdown] deeper=true
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
sparse_cost = cost("half of the weights 0", sparse)
print(f"{num_bytes(sparse) / num_bytes(vit):.0%} of the bytes")
calls = {"whole": partial(vit, pixels[:64]), "half 0": partial(sparse, pixels[:64])}
sparse_speeds = race(calls, rounds=15)

# %% [markdown]
# The accuracy stays, and nothing is gained: a zero is stored and multiplied like any number. It takes formats and
# kernels for zeros, or whole heads, tokens and layers that go.
#
# **"Do fewer parameters mean less time?"** Not by themselves. Compare the network for photographs at two image sizes:
# exactly the same layers, and a few more positions.

# %% claim="The accuracy stays, and nothing is gained"
assert -1.5 < sparse_cost[0] < 1.5
assert num_bytes(sparse) == num_bytes(vit)

# %%
larger = photo_vit.resized(64)
counts = [sum(p.numel() for p in network.parameters()) for network in (photo_vit, larger)]
print(f"parameters ×{counts[1] / counts[0]:.2f}")

# %%
four = {32: photos[:4], 64: F.interpolate(photos[:4], 64)}
size_speeds = race(
    {"64 pixels": partial(larger, four[64]), "32 pixels": partial(photo_vit, four[32])}
)

# %% [markdown]
# A few percent more parameters, and more than three times the time: there are four times as many tokens.
#
# **"Is the accuracy of the smaller network the whole truth?"** No. Two networks of the same accuracy may fail on other
# images. How many answers are not the same as before, right or wrong?

# %% claim="A few percent more parameters, and more than three times the time"
assert counts[1] / counts[0] < 1.06
assert size_speeds["32 pixels"][0] > 3

# %%
differ = {}
for name in ("8 bits, ours", "4 heads of 16 pruned", "half the layers"):
    differ[name] = (ask(networks[name])[1].predictions != whole.predictions).sum().item()
    print(f"{name:21} {differ[name]} of 360 answers differ")

# %% [markdown]
# The student is as accurate as its teacher, and answers differently on several images all the same.
#
# **"May I prune, quantise and distil together?"** You may. Here is the student of half the depth without two of its
# eight heads, in 8 bits:

# %% claim="The student is as accurate as its teacher, and answers differently on several images"
assert abs(changes["half the layers"][0]) < 1.7
assert differ["half the layers"] >= 4

# %%
scores = head_importance(student, train_pixels, train.labels)
together = to_int8(prune_heads(student, first_heads(scores, 2)))
together_cost = cost("half the layers, 6 heads, 8 bits", together)
print(f"{num_bytes(together) / num_bytes(vit):.0%} of the bytes")

# %% [markdown]
# The bytes shrink with every step, and the losses grow. **What has been cut already has less to spare.** Measure after
# each step. And if you train, cut first, since training repairs some of what cutting broke.

# %% claim="**What has been cut already has less to spare.**"
assert together_cost[0] < pruned_cost[4][0] - 1

# %% [markdown] deeper=true
# ## A stretch
#
# - Distil with few labels: give `fit` all training images, but an objective with `share=1.0`, and compare with labels
#   of 100 images only. Does the teacher pay for equal time, too?
# - Prune ten heads, then train for one epoch. How much comes back? Does it matter which ten went?
# - Importance holds for one head at a time. Take the least important head away, measure again, take the next one. Is
#   the curve better than with one measurement for all?
# - Write `Int8Linear` with groups: a scale for every 32 numbers of a row. What do the scales cost in bytes, what do they
#   bring at 4 bits?
# - Export the network for photographs, with and without 8 bits, and race it against PyTorch with the cells of *Out of
#   Python*.
# - `python benchmarks/compress.py --data cifar10` measures all of this for the network for photographs, and trains its
#   students.
