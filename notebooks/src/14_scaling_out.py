# %% [markdown]
# # 14 · Scaling out
#
# **One processor is too slow. What do several give you, and what must they tell each other?**
#
# So far one process has trained one network. Larger networks are trained by many processes at once: one for each GPU,
# on one machine or on hundreds. The network, the loop and the recipe stay as they are. What is new is one sum, made
# in every step. This lesson is about that sum: why it is right, how it travels, what it costs, and when it pays.
#
# **You will**
#
# - prove that processes which share a batch take the step that one would take alone, and see what breaks it,
# - add up gradients around a ring by hand, and count what is sent,
# - start two real processes, and train with the package's `fit` in both,
# - work out when sending costs nothing, and when it costs more than it brings,
# - make the batch larger, and measure what the rules for the learning rate are worth,
# - know what must fit into memory, and what a training costs from a laptop to eight GPUs.

# %% [markdown]
# ## One batch, two halves
#
# The loss of a batch is a mean over its images, and so is its gradient. That is all we need. By hand: a network with
# one weight w = 1 says w·x, the right answer is always 1, and the loss is (w·x − 1)². Its derivative for one image is
# 2·(w·x − 1)·x. The batch is x = 1, 2, 3, 4.
#
# **Predict.** The derivatives are 0, 4, 12 and 24. What is the gradient of the batch? What are those of its two
# halves, and the mean of these?

# %%
import numpy as np
import torch

x = torch.tensor([1.0, 2.0, 3.0, 4.0])
each = 2 * (1.0 * x - 1) * x
print("each image:    ", each.tolist(), "  whole batch:", each.mean().item())

# %%
halves = [each[:2].mean().item(), each[2:].mean().item()]
print("two halves:    ", halves, "            their mean:", sum(halves) / 2)
uneven = [each[:1].mean().item(), each[1:].mean().item()]
print(f"one and three:  [{uneven[0]}, {uneven[1]:.2f}]           their mean: {sum(uneven) / 2:.2f}")

# %% [markdown]
# Two equal halves: the mean of the means is the mean. One image and three: it is not. The lonely image has counted
# for a half, where it should have counted for a quarter.


# %% exercise="14.1"
def my_joint_gradient(gradients, counts):
    """Make the gradient of a whole batch from those of its shares.

    gradients: (N, k), the mean gradient of each share. counts: (N,), how many images each share has.
    A share may have no images at all; its mean is then NaN.
    Returns (k,): the mean over all images, of the type of the gradients.
    """
    ### BEGIN SOLUTION
    filled = counts > 0
    weights = counts[filled] / counts.sum()
    return weights.to(gradients) @ gradients[filled]
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("14.1", my_joint_gradient)
# hint("14.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** Count times mean is the sum over a share's images; the sums are added, and divided once. The empty share is
# left out before any arithmetic, because 0 · NaN is NaN.
#
# **The common wrong answer** is the plain mean of the gradients. It is right for equal shares, and that is why
# programs make all shares equal: the package refuses a batch that its processes cannot share evenly.

# %% [markdown]
# Now the same with a real network. The ViT of the digits, with new weights and in float64, is asked about 64 images:
# all at once, and in shares. `gradient` lays all its gradients in one long row.

# %%
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, load_checkpoint, normalize, plots
from vit_tutorial.data import digits

# %%
torch.set_num_threads(1)
_, card = load_checkpoint("digits")
torch.manual_seed(0)
vit = VisionTransformer(card.config).double()
train, test = digits("train"), digits("test")
images = normalize(train.images, card.mean, card.std).double()
x, y = images[:64], train.labels[:64]


def gradient(model, x, y):
    """The gradient of the mean loss, as one row: (parameters,)."""
    found = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    return torch.cat([part.flatten() for part in found])


# %% [markdown]
# **Predict.** 64 processes with one image each: is the mean of their gradients still that of the batch?

# %%
whole = gradient(vit, x, y)
for workers in (2, 4, 8, 64):
    shares = [gradient(vit, x[k::workers], y[k::workers]) for k in range(workers)]
    together = torch.stack(shares).mean(dim=0)
    assert_close(together, whole)
    print(f"{workers:2} shares: largest difference {(together - whole).abs().max():.0e}")

# %% [markdown]
# **That is the whole idea of data parallelism.** Every process has the whole network and a share of the batch. The
# gradients are averaged, so that all processes have the same. So they all make the same step, and all have the same
# weights again.
#
# ## What breaks it
#
# The proof needs three things: equal shares, a loss that is a mean over images, and images that do not know of each
# other. **Predict.** Which of these changes the result, and by how much: unequal shares; adding instead of averaging;
# clipping each share's gradient before they are averaged; a network with BatchNorm?


# %%
def clipped(row, norm):
    """What lesson 07 did with a gradient that is too long."""
    return row * min(1.0, norm / row.norm().item())


def off(found, right):
    """How far from right, in percent of its length."""
    return f"{100 * ((found - right).norm() / right.norm()).item():6.3g}%"


# %%
halves = torch.stack([gradient(vit, x[k::2], y[k::2]) for k in (0, 1)])
unequal = [gradient(vit, x[:16], y[:16]), gradient(vit, x[16:], y[16:])]
limit = halves.norm(dim=1).mean().item()  # one half is longer, the other shorter
clip_first = torch.stack([clipped(row, 0.8 * limit) for row in halves]).mean(dim=0)

# %%
print("16 and 48 images, plain mean:", off(torch.stack(unequal).mean(dim=0), whole))
print("sum instead of mean:         ", off(halves.sum(dim=0), whole))
print("clipped before averaging:    ", off(clip_first, clipped(whole, 0.8 * limit)))

# %%
torch.manual_seed(0)
norms = {"LayerNorm": nn.LayerNorm(32), "BatchNorm": nn.BatchNorm1d(32)}
for name, norm in norms.items():
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), norm, nn.GELU(), nn.Linear(32, 10)
    ).double()
    shares = torch.stack([gradient(net, x[k::4], y[k::4]) for k in range(4)])
    print(f"{name}, four shares of 16:  ", off(shares.mean(dim=0), gradient(net, x, y)))

# %% [markdown]
# - **Unequal shares** give a wrong direction, silently.
# - **A sum** is N times too long. With plain gradient descent that is a learning rate N times as high; AdamW hides
#   it, since it divides by the size of the gradient.
# - **Clipping first** bends the mean towards the short gradients. So: average, then clip. `update` (lesson 07)
#   clips after `backward`, and the averaging happens in `backward`.
# - **BatchNorm** measures means over the images of its share, so images do know of each other. A ViT has LayerNorm,
#   which looks at one token of one image. Nothing has to be done for it.
#
# One more can be seen in no gradient: **chance**. If all processes draw with the same seed, the first image of every
# share is shifted alike, the second as well, and so on. `Run.seed` therefore mixes the number of the process in:

# %%
import inspect

from vit_tutorial.augment import draw_crop_flip
from vit_tutorial.run import Run, mixed_seed

print(inspect.getsource(Run.seed))

# %%
for name, seeds in {
    "one seed for all": (7, 7),
    "a seed for each": (mixed_seed(7, 0), mixed_seed(7, 1)),
}.items():
    shifts = []
    for seed in seeds:  # two processes with four images each
        torch.manual_seed(seed)
        shifts += draw_crop_flip(4, 4, flip=False)[0].tolist()
    print(f"{name}: shifts", shifts)

# %% [markdown]
# ## The same sum in time
#
# Two processes work side by side. One process can also do both shares one after the other, and make its step after
# the second: *gradient accumulation*. It is the same sum, in time instead of in space. It costs no second processor,
# and needs only the memory for one share.


# %% exercise="14.2"
def my_accumulated_gradients(model, images, labels, most):
    """Compute the gradient of a batch that does not fit into memory at once.

    images: (B, C, H, W), labels: (B,). A pass may have at most `most` images, and B need not be a
    multiple of it. The loss is cross-entropy, a mean over the whole batch.
    The model may hold gradients that are left from something else; they must not count.
    Returns a list: the gradient of each parameter, in the order of model.parameters().
    """
    ### BEGIN SOLUTION
    model.zero_grad()
    for part, answers in zip(images.split(most), labels.split(most), strict=True):
        loss = F.cross_entropy(model(part), answers)
        (loss * len(part) / len(images)).backward()  # adds to what is there
    return [p.grad for p in model.parameters()]
    ### END SOLUTION


# %%
check("14.2", my_accumulated_gradients)
# hint("14.2")

# %% [markdown] solved_only=true
# **Why.** Each part is weighed by its share of the images, so that the last, smaller part counts for as much as it
# has. Only one part's activations are in memory at a time: `backward` frees them.
#
# **The common wrong answer** divides by the number of parts. It is right as long as all parts are equal. Exercise
# 14.1 again.

# %% [markdown]
# ## Which images are mine?
#
# Nobody hands out images. Every process shuffles the list itself, with the same seed, and so all have the same order
# without a word. In every step it takes its part of the batch: `order[...][rank() :: world_size()]`. The **rank** is
# the number of a process, from 0; the **world size** is how many there are.

# %%
order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
batch = order[0:8]
print("the batch:", batch.tolist())
for rank in range(2):
    print(f"rank {rank} of 2 takes", batch[rank::2].tolist())


# %% exercise="14.3"
def my_share(order, step, batch_size, rank, world_size):
    """Tell which images this process takes in a step.

    order: (n,), the shuffled numbers of all images, the same in every process.
    batch_size: of all processes together; world_size divides it. step: 0, 1, ..., while the batches
    are full. Over all ranks, every image of the batch is taken exactly once.
    Returns the numbers of the images, (batch_size / world_size,).
    """
    ### BEGIN SOLUTION
    batch = order[step * batch_size : (step + 1) * batch_size]
    return batch[rank::world_size]
    ### END SOLUTION


# %%
check("14.3", my_share)
# hint("14.3")

# %% [markdown] solved_only=true
# **Why.** First the batch, then the share. Every second image or the first half of them: both are right.
#
# **The common wrong answer** gives every process the whole batch. All runs well, and all processes do the same work:
# the loss falls exactly as with one, only nothing is faster. The other one takes `batch_size` for that of *one*
# process, and trains with a batch that is N times as large as the recipe says.

# %% [markdown]
# ## The sum, by post
#
# Every process has a gradient, and every process needs the mean. That operation is called **all-reduce**. The simple
# way: all send theirs to rank 0, it adds them up and sends the sum back to all. Let us count what goes over its line,
# in gradients.


# %%
def all_to_one(gradients):
    """Add up lists of numbers at rank 0; return the sums, and how much each process sent."""
    sent = [0] * len(gradients)
    total = list(gradients[0])
    for rank, other in enumerate(gradients[1:], 1):
        total = [a + b for a, b in zip(total, other, strict=True)]  # to rank 0
        sent[rank] += len(other)
    sent[0] += len(total) * (len(gradients) - 1)  # and back, to each of the others
    return [list(total) for _ in gradients], sent


# %%
print(all_to_one([[1, 2, 3], [10, 20, 30], [100, 200, 300]]))

# %% [markdown]
# Rank 0 receives N − 1 gradients and sends N − 1, while the others wait. **Predict.** With 64 processes instead of 8:
# how much longer does it take?
#
# The way out: cut the gradient into N **chunks**, and let everybody work on another chunk at the same time. The
# processes stand in a ring, and each sends to its right neighbour only. In the first N − 1 rounds a chunk is *added
# to* wherever it arrives (this is called *reduce-scatter*). After them each process has the whole sum of one chunk.
# In N − 1 more rounds these sums are handed on (*all-gather*). Here are three workers with the same numbers. An arrow
# that leaves on the right comes in again on the left.

# %%
from vit_tutorial.lessons.lesson_14.cluster import ring_all_reduce

parts = torch.tensor([[1.0, 2, 3], [10, 20, 30], [100, 200, 300]])  # (workers, chunks)
rounds = ring_all_reduce(parts)
states = torch.stack([parts, *(after for after, _ in rounds)])
plots.ring_rounds(states.numpy(), [messages for _, messages in rounds])

# %% [markdown]
# Follow chunk 0, the first line of each table: 1 goes to worker 1 and becomes 11, goes on to worker 2 and becomes
# 111, the sum. From there it travels on, and replaces what it finds. Look at the second table: in round 1, which chunk
# does worker 0 send, and why not its own?


# %% exercise="14.4"
def my_ring_round(parts, step):
    """One round of the ring: every worker sends one chunk to its right neighbour, all at once.

    parts: (N, N, k): parts[worker, chunk] are the k numbers that this worker holds of this chunk.
    The right neighbour of worker i is i + 1, that of the last one is 0. In round `step`, counted
    from 0, worker i sends chunk i - step, counted round the ring (before chunk 0 comes N - 1).
    In rounds 0 ... N - 2 the receiver adds what arrives to its own, in rounds N - 1 ... 2N - 3 what
    arrives takes its place. A sender keeps what it has.
    Returns the parts after the round.
    """
    ### BEGIN SOLUTION
    N = len(parts)
    after = parts.clone()
    for worker in range(N):
        chunk, right = (worker - step) % N, (worker + 1) % N
        if step < N - 1:
            after[right, chunk] = parts[right, chunk] + parts[worker, chunk]
        else:
            after[right, chunk] = parts[worker, chunk]
    return after
    ### END SOLUTION


# %%
check("14.4", my_ring_round)
# hint("14.4")

# %% [markdown] solved_only=true
# **Why.** In round 0 everybody sends the chunk of its own number. From then on it sends what it has just received:
# its left neighbour has sent chunk (i − 1) − (step − 1) = i − step. `%` counts round the ring, also below 0.
#
# **The common wrong answer** sends the chunk of the worker's own number in every round. Each neighbour then gets the
# same numbers again and again, and those of the others never arrive. (Whether the workers are gone through in order or
# all at once does not matter here: no chunk is on its way twice in a round.)

# %% [markdown]
# The whole of it, as a loop over rounds and workers:

# %%
from torch import Tensor

# %% definition="vit_tutorial.lessons.lesson_14.cluster.ring_all_reduce"

# %% [markdown]
# **Proof**: for any number of workers, all have the sum, and each has sent 2·(N − 1)/N of a gradient.

# %%
for workers in (2, 3, 5, 8, 64):
    parts = torch.randn(workers, workers, 2, dtype=torch.float64)  # a gradient of 2·N numbers
    rounds = ring_all_reduce(parts)
    after, _ = rounds[-1]
    assert_close(after, parts.sum(dim=0).expand_as(after))
    sent = sum(2 for _, messages in rounds for start, _, _ in messages if start == 0)
    assert sent / (2 * workers) == 2 * (workers - 1) / workers
    print(
        f"{workers:2} workers: in the ring each sends {sent / (2 * workers):.3f} gradients; "
        f"all to one, rank 0 sends {workers - 1}"
    )

# %% [markdown]
# **However many workers there are, each sends less than two gradients.** That is why it scales. All to one takes nine
# times as long with 64 as with 8 (63 / 7); the ring takes 1.969 / 1.75 = 1.1 times as long. What grows in the ring is
# the number of rounds, 2·(N − 1), and each has a delay (see below). As long as the processes do the adding themselves,
# no way sends less (Patarasuk & Yuan 2009, J. Parallel Distrib. Comput. 69, 117-124).
#
# ## Two real processes
#
# Enough on paper. `torchrun`, which comes with PyTorch, starts the same script several times. Each copy finds in its
# environment who it is: `RANK`, `WORLD_SIZE`, and where the first one listens. Our script does the sum twice: by
# hand, and through PyTorch's `DistributedDataParallel` (DDP), which does it in the middle of `backward`. Read it
# first: **which lines make two processes of it?**

# %%
BY_HAND = """
import torch, torch.distributed as dist, torch.nn.functional as F
from vit_tutorial import VisionTransformer, load_checkpoint

dist.init_process_group("gloo")  # "nccl" for GPUs
rank, world = dist.get_rank(), dist.get_world_size()
model = VisionTransformer(load_checkpoint("digits")[1].config).double()
weights, x, y = torch.load("start.pt", weights_only=True)
model.load_state_dict(weights)
x, y = x[rank::world], y[rank::world]

F.cross_entropy(model(x), y).backward()
own = torch.cat([p.grad.flatten() for p in model.parameters()])
by_hand = own.clone()
dist.all_reduce(by_hand)  # every process has the sum now
by_hand /= world
"""

# %%
BY_DDP = """
with torch.no_grad():
    model.head.bias += rank  # process 1 has other weights ...
network = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.3)  # ... no longer
names = {p: name for name, p in model.named_parameters()}

def send(state, bucket):  # what DDP does with a bucket, and a line to see it
    if rank == 0 and step == 1:
        held = [names[p] for p in bucket.parameters()]
        megabytes = bucket.buffer().nbytes / 1e6
        print(f"bucket {bucket.index()}: {megabytes:.2f} MB, {held[0]} ... {held[-1]}")
    future = dist.all_reduce(bucket.buffer().div_(world), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])

network.register_comm_hook(None, send)
for step in range(2):  # in step 0 it learns in which order gradients come
    model.zero_grad()
    F.cross_entropy(network(x), y).backward()  # the sum is made in here
by_ddp = torch.cat([p.grad.flatten() for p in model.parameters()])
line = f"process {rank}: {len(x)} images, gradient {own.norm():.6f} long, mean {by_ddp.norm():.6f}"
print(line + "\\n", end="")  # in one piece, or the lines of two processes mix
torch.save((own, by_hand, by_ddp), f"gradients{rank}.pt")
"""

# %% [markdown]
# To start processes takes longer than all that they do here. So the same start shall also train a small network on the
# digits, with `fit`, for one epoch and in float64. We come back to that part below. **Which of its lines know that
# there are two processes?**

# %%
TRAINING = """
from vit_tutorial import ImageSet, TrainConfig, ViTConfig, distributed, fit

small = ViTConfig(img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4, pool="mean")
config = TrainConfig(epochs=1, batch_size=64, lr=5e-3, ema=0.9)
images, labels = torch.load("digits.pt", weights_only=True)
digits = ImageSet(images, labels, tuple("0123456789"), "digits")
torch.manual_seed(0)
model = VisionTransformer(small).double()
rows = fit(model, digits, None, config)
rank, world = distributed.rank(), distributed.world_size()
print(f"process {rank} of {world}: loss {rows[-1]['loss']:.6f}\\n", end="")
torch.save((model.state_dict(), rows), f"{rank}_of_{world}.pt")
"""

# %% [markdown]
# It is started like this. (`--standalone`: one machine, any free port. One thread for each process, or they would
# take each other's cores. `lo` is the line of a machine to itself: nothing leaves it.)

# %%
import os
import subprocess
import sys
import tempfile
from pathlib import Path

place = tempfile.TemporaryDirectory()
folder = Path(place.name)
local = {"linux": {"GLOO_SOCKET_IFNAME": "lo"}, "win32": {"USE_LIBUV": "0"}}
settings = {**os.environ, "OMP_NUM_THREADS": "1", **local.get(sys.platform, {})}


def run(script, *launcher):
    """Run a script, by itself or by a launcher, and return what was printed."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, *launcher, "script.py"]
    done = subprocess.run(
        command, cwd=folder, env=settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"it stopped:\n{done.stderr[-3000:]}")
    return "\n".join(sorted(done.stdout.splitlines()))


# %%
torch.save((vit.state_dict(), x, y), folder / "start.pt")
torch.save((train.images, train.labels), folder / "digits.pt")
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]  # torchrun
print(run(BY_HAND + BY_DDP + TRAINING + "dist.destroy_process_group()", *TWO))

# %% [markdown]
# The two gradients differ, since the images do, and the mean is the same in both. **Proof**, against one process with
# the whole batch (which is `whole`, from above):

# %%
for rank in range(2):
    own, by_hand, by_ddp = torch.load(folder / f"gradients{rank}.pt", weights_only=True)
    assert_close(own, halves[rank])
    assert_close(by_hand, whole)
    assert_close(by_ddp, whole)
    print(f"process {rank}: by hand and by DDP, off by {(by_ddp - whole).abs().max():.0e} at most")

# %% [markdown]
# Look at the buckets: DDP does not wait for the whole gradient, and it begins with the *last* layers, because
# `backward` does. We come back to that. The lines that make two processes of it are few: joining, a share of the
# batch, the wrapper. They are all there is in the package, too:

# %%
from collections.abc import Generator
from contextlib import chdir, contextmanager

import torch.distributed as dist

from vit_tutorial import distributed

world_size = distributed.world_size

# %% definition="vit_tutorial.distributed.process_group"

# %% definition="vit_tutorial.distributed.data_parallel"

# %% [markdown]
# Without `torchrun` both do nothing. So `fit` need not know how many it is, and no line of `TRAINING` does. Both
# processes have trained with it already. Now the same lines here, alone. **Predict.** AdamW, warm-up, clipping,
# smoothing, an average of the weights: after 22 steps, are the weights still the same?

# %%
with chdir(folder):
    exec(TRAINING, {"torch": torch, "VisionTransformer": VisionTransformer})

# %%
alone, rows = torch.load(folder / "0_of_1.pt", weights_only=True)
for rank in range(2):
    weights, theirs = torch.load(folder / f"{rank}_of_2.pt", weights_only=True)
    assert_close(weights, alone, rtol=0, atol=1e-7)
    assert_close([row["loss"] for row in theirs], [row["loss"] for row in rows])
    worst = max((weights[name] - alone[name]).abs().max().item() for name in alone)
    print(f"process {rank}: loss {theirs[-1]['loss']:.6f}, weights off by {worst:.0e} at most")

# %%
place.cleanup()  # nothing of it stays on the disk

# %% [markdown]
# The rounding of the last digits differs, because sums are made in another order. That is all. **Two processes are
# not an approximation of one.** What does differ is chance: with augmentation or drop path each process draws for its
# own images, so that two processes with one seed are one more throw of the dice, no better and no worse.
#
# ## What is sent when
#
# How much is it? The gradient has one number for each parameter, here in float32: four bytes. (In half precision
# `fit` computes in 16 bits, and keeps weights and gradients in 32.)
#
# **Predict.** ViT-B/16 has 86.6 million parameters. What does each of 8 GPUs send in every step, and how long is that
# under way at 10 gigabits per second?

# %%
from vit_tutorial import ViTConfig
from vit_tutorial.lessons.counting import flops, parameters
from vit_tutorial.recipes import RECIPES

imagenet = dict(img_size=224, num_classes=1000, mlp_ratio=4.0)
configs = {name: RECIPES[name].model for name in ("digits", "laptop", "classroom", "flagship")}
configs["ViT-B/16"] = ViTConfig(patch_size=16, embed_dim=768, depth=12, num_heads=12, **imagenet)
configs["ViT-L/16"] = ViTConfig(patch_size=16, embed_dim=1024, depth=24, num_heads=16, **imagenet)
configs["ViT-H/14"] = ViTConfig(patch_size=14, embed_dim=1280, depth=32, num_heads=16, **imagenet)
print(f"{'':10} parameters   gradient   each of 8 sends")
for name, config in configs.items():
    megabytes = 4 * parameters(config) / 1e6
    print(f"{name:10} {parameters(config):11,} {megabytes:7.1f} MB {megabytes * 2 * 7 / 8:9.1f} MB")


# %% exercise="14.5"
def my_sending_seconds(parameters, processes, gigabits, bytes_each):
    """How long a ring all-reduce of the gradient takes, but for delays.

    parameters: how many numbers the gradient has, of bytes_each bytes.
    gigabits: what the line from a process to its neighbour carries, in billion bits per second. All
    lines work at the same time.
    Returns seconds.
    """
    ### BEGIN SOLUTION
    chunk = parameters * bytes_each / processes
    rounds = 2 * (processes - 1)
    return rounds * chunk / (gigabits * 1e9 / 8)
    ### END SOLUTION


# %%
check("14.5", my_sending_seconds)
# hint("14.5")

# %% [markdown] solved_only=true
# **Why.** An N-th of the gradient in each of 2·(N − 1) rounds. Lines are sold in bits.
#
# **The common wrong answer** forgets that a byte has eight bits. Whole clusters have been planned with that mistake.

# %% [markdown]
# The lines between processes differ by a factor of several hundred. (One direction, as the makers give it: data
# sheets of NVIDIA's H100, PCI Express 4.0 and Ethernet. What programs get is less.)

# %%
# bytes per second
LINKS = {"NVLink (H100)": 450e9, "PCIe 4.0 x16": 32e9, "100 Gbit": 12.5e9, "10 Gbit": 1.25e9}
print(f"{'ms for 8 GPUs':14}", *(f"{name:>14}" for name in LINKS))
for name, config in configs.items():
    ms = [1e3 * 2 * 7 / 8 * 4 * parameters(config) / speed for speed in LINKS.values()]
    print(f"{name:14}", *(f"{value:14,.0f}" if value > 99 else f"{value:14.2g}" for value in ms))

# %% [markdown]
# Is that much? It depends on what there is to compute in the meantime, and this is where the buckets come in.
# `backward` begins at the loss, so the gradient of the head is ready first and that of the patch projection last.
# DDP fills a bucket (25 MB by default), and sends it while `backward` goes on.
#
# By hand: the forward pass takes 1 s, the backward pass 2 s, and four buckets are full after 1.5, 2, 2.5 and 3 s.
# **Predict.** When does the step end if each bucket is 0.25 s under way? And if it is 1 s? (There is one line, and
# buckets do not overtake each other.)


# %% exercise="14.6"
def my_step_seconds(computed, ready, seconds):
    """When a step that sends while it computes is done.

    computed: when the backward pass ends. ready: when each bucket is full, in order; seconds: how long
    each is under way. The line carries one bucket at a time, in order. There may be no buckets.
    Returns when everything is computed and everything has arrived.
    """
    ### BEGIN SOLUTION
    free = 0.0
    for full, takes in zip(ready, seconds, strict=True):
        free = max(full, free) + takes
    return max(computed, free)
    ### END SOLUTION


# %%
check("14.6", my_step_seconds)
# hint("14.6")

# %% [markdown] solved_only=true
# **Why.** A bucket leaves when it is full and the line is free, whichever comes later. 3.25 s and 5.5 s: with the
# slow line, buckets queue.
#
# **The common wrong answer** adds the times of all buckets to the end of the backward pass. So does a program that
# calls `all_reduce` after `backward`, as our first script did by hand: right numbers, and the line is idle while
# the processor works.

# %% [markdown]
# The same for any network, line and number of processes:

# %%
import math

from vit_tutorial.lessons.lesson_14.cluster import LATENCY, Timeline

# %% definition="vit_tutorial.lessons.lesson_14.cluster.step_timeline"

# %% [markdown]
# **Proof** by the four buckets from above, of 25 bytes each: first at 100 bytes per second, then at 25. (Two processes
# send one gradient each, as the ring has shown.)

# %%
for bandwidth, expected in ((100, 3.25), (25, 5.5)):
    step = step_timeline(3.0, 100, bandwidth, processes=2, bucket_bytes=25, latency=0)
    assert_close(step.end, expected)
    print(f"{25 / bandwidth:.2f} s for each bucket: the step ends after {step.end:.2f} s")

# %% [markdown]
# To use it we need the seconds that a step computes. Lesson 06 counted the operations of a forward pass; the backward
# pass takes twice as many. The peak of a GPU stands in its data sheet, and a program gets a share of it. From the
# training speeds that timm publishes for an RTX 3090 (`benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv`) one computes
# 24% of its peak for ViT-Ti, 41% for ViT-S and 58% for ViT-B: **the wider, the better**. We assume 40% for ViT-B, and
# 10 to 25% for our small networks.
#
# **All that follows about GPUs is computed, not measured.** No number of ours comes from a GPU.

# %%
PEAK = {"T4": 65e12, "A100": 312e12, "H100": 989e12}  # operations per second, half precision, dense


def compute_seconds(config, images, gpu="H100", share=0.4):
    """Seconds of one training step of one GPU, without any sending (computed)."""
    return 3 * flops(config) * images / (share * PEAK[gpu])


steps = {}
for link, speed in LINKS.items():
    config = configs["ViT-B/16"]  # on 8 GPUs, with 256 images for each
    step = step_timeline(compute_seconds(config, 256), 4 * parameters(config), speed, 8)
    steps[link] = (step.forward, step.computed, step.sends)
plots.step_timelines(steps)

# %% [markdown]
# ViT-B/16 on 8 H100, 256 images for each. The two fastest lines hide nearly all of the sending behind the backward
# pass. What sticks out is the last bucket: it is full only when there is nothing left to compute. With the slowest line
# the GPUs wait most of the time. More images for each GPU mean more to compute, and as much to send.
#
# **Play.** Find, for each line, how many images a GPU needs until it waits for less than a tenth of the time (for some
# not even 256 are enough). Does it help to have fewer GPUs?

# %%
from vit_tutorial import flipbook


def draw(GPUs, line, images_each):
    config = configs["ViT-B/16"]
    seconds = compute_seconds(config, images_each)
    step = step_timeline(seconds, 4 * parameters(config), LINKS[line], GPUs)
    one = f"{GPUs} GPUs, {line}"
    speed, worth = GPUs * images_each / step.end, GPUs * (1 - step.lost)
    words = f"{speed:,.0f} images/s, those of {worth:.1f} GPUs that never wait. Computed."
    return plots.step_timelines({one: (step.forward, step.computed, step.sends)}), words


# %%
choices = dict(
    GPUs=[2, 64], line=["NVLink (H100)", "100 Gbit", "10 Gbit"], images_each=[16, 64, 256]
)
flipbook(draw, start={"line": "10 Gbit", "images_each": 64}, **choices)

# %% [markdown]
# The same in one picture, and for our largest recipe: the share of all GPUs' work that is left.

# %%
sizes, panels = [4, 16, 64, 256, 1024], {}
for name, share in (("ViT-B/16", 0.4), ("flagship", 0.25)):
    config, kept = configs[name], {}
    compute = [compute_seconds(config, n, share=share) for n in sizes]
    for link, speed in LINKS.items():
        each = [step_timeline(c, 4 * parameters(config), speed, 8) for c in compute]
        kept[link] = np.array([[100 * (1 - step.lost) for step in each]])
    ticks = [str(n) for n in sizes]
    panels[f"{name} on 8 H100 (computed)"] = "images for each GPU", ticks, kept
plots.setting_curves(panels, "work that is left, %")

# %% [markdown]
# Small networks have little to send, and still less to compute. For them something else decides: the delay of each
# round (20 µs are assumed here), and what it costs a processor to be told what to do, which is not in this picture.
# Both are reasons not to spread a small network over many machines.
#
# And two processes on the two cores of a CPU? That can be **measured**: in turns, in one start, with the recipes'
# networks.
#
# {{table.scaling_cpu}}
#
# Against one process with *one* thread you see what a second core brings, when everything has to be shared: ×2 would be
# all of it. Against one process with *two* threads you see whether processes or threads make more of two cores. Threads
# have no gradient to send, but they must split every single matrix, and small ones are hardly worth it. Here processes
# win by a little: ×{{results.scaling_cpu.rows[what=laptop, 2 threads].ratio_median:.2f}} for the laptop recipe. The sum
# itself takes {{results.scaling_cpu.rows[what=laptop, 1 thread].all_reduce_ms:.1f}} ms of a step of
# {{results.scaling_cpu.rows[what=laptop, 1 thread].step_ms:.0f}}: inside one machine it is not what is in the way.
#
# ## The same command, on more
#
# The package's command needs no change, either. Alone, on all GPUs of a machine, and on two machines of eight GPUs:
#
# ```
# vit-tutorial train --recipe flagship --data cifar10 --out my.safetensors
#
# torchrun --standalone --nproc-per-node 8 \
#     --no-python vit-tutorial train --recipe flagship --data cifar10 --out my.safetensors
#
# torchrun --nnodes 2 --nproc-per-node 8 --rdzv-id 1 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \
#     --no-python vit-tutorial train --recipe flagship --data cifar10 --out my.safetensors
# ```
#
# The last one is typed on both machines; HOST is the name of one of them. The two `torchrun` find each other there,
# and agree on who has which rank. We have tried the second and the third form with processes on a CPU (for the third,
# with two `torchrun` on one machine). What happens then:
#
# | | one process | several |
# |---|---|---|
# | batch | `batch_size` images | the same batch, shared; refused if it cannot be shared evenly |
# | learning rate, epochs, steps | of the recipe | the same |
# | order of the images | from the seed | the same |
# | augmentation, drop path | drawn from seed and step | drawn from seed, step and rank |
# | progress bar, log, accuracy, checkpoint | yes | by rank 0 alone, while the others wait |
# | the saved run | read by it | written by rank 0, read by all: on several machines, put `--out` on a disk that all see |
# | `--minutes` | epochs that fit, measured | all try a few steps together; what rank 0 has measured counts for all |
# | Ctrl-C | ends after the step, saved | ends at once, saved up to a minute before; `torchrun` returns 1 |
# | a process is killed | the run is saved up to a minute before | `torchrun` ends the others, names the first that died, and returns 1 |
#
# `--resume` goes on from the saved run in every case, also with another number of processes: eight GPUs can go on
# with what one began. And the data: let one process download them first (`vit-tutorial train --recipe smoke ...`),
# or all will do it at the same time.
#
# With `FULL = True` the next cell tries it here: two `torchrun` that find each other, one process each, and then
# the same run once more from one process.

# %%
FULL = False

# %%
if FULL:
    here = Path(sys.executable).parent  # where the command vit-tutorial is, too
    settings["PATH"] = os.pathsep.join([str(here), os.environ["PATH"]])
    train_digits = "vit-tutorial train --recipe digits --data digits --epochs 3 --device cpu --out"
    machine = "-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --rdzv-id 1"
    machine += " --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:29411 --local-addr 127.0.0.1"
    machine += f" --no-python {train_digits} two.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        two = [sys.executable, *machine.split()]
        started = [subprocess.Popen(two, cwd=folder, env=settings) for _ in range(2)]
        print("two machines end with", [process.wait() for process in started])
        one = [str(here / "vit-tutorial"), *train_digits.split()[1:], "one.safetensors"]
        subprocess.run(one, cwd=folder, env=settings, check=True)

# %% [markdown]
# ## A larger batch: which rate?
#
# With more processes one can keep the batch and give each less to do, as above. That ends where a share is too small
# to keep a processor busy. So one makes the *batch* larger, and then there are fewer steps in an epoch. To get as far
# in fewer steps, each must be longer. By how much?
#
# Plain gradient descent first. Two steps of rate r on batches a and b go −r·(gradient of a) − r·(gradient of b). One
# step of rate 2r on both together goes −2r · (their mean), which is *the same*, as long as the gradient has not
# changed in between. That is the **linear rule** (Goyal et al. 2017, arXiv 1706.02677): k times the batch, k times
# the rate.
#
# **Predict.** For how many steps does "has not changed" hold, for a network that has just begun?

# %%
import copy


def descended(model, batches, rate):
    """The way that plain gradient descent goes, one step for each batch: one row."""
    model = copy.deepcopy(model)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    for x, y in batches:
        after = nn.utils.parameters_to_vector(model.parameters()) - rate * gradient(model, x, y)
        nn.utils.vector_to_parameters(after.detach(), model.parameters())
    return nn.utils.parameters_to_vector(model.parameters()).detach() - before


# %%
labels, rates = train.labels, (0.001, 0.01)
for k in (2, 4):
    small = [(images[n * 16 :][:16], labels[n * 16 :][:16]) for n in range(k)]
    large = [(images[: 16 * k], labels[: 16 * k])]
    ways = [(descended(vit, small, rate), descended(vit, large, k * rate)) for rate in rates]
    apart = [f"rate {rate}: {off(b, a)}" for rate, (a, b) in zip(rates, ways, strict=True)]
    print(f"{k} steps, and one that is {k} times as long, end apart by:  ", ",  ".join(apart))

# %% [markdown]
# For a few tiny steps nearly; for longer ones not at all. A rule for the learning rate is an approximation, and
# it is worst at the beginning, where the gradient changes fastest. That is why it comes with a **warm-up**: begin
# with the rate that is known to be safe, and rise to the scaled one.
#
# Our recipes use Adam, which divides the gradient by its own root mean square. In a small batch that is mostly noise.
# **Predict.** Four times the images: how much less noise?

# %%
some = images[:600]
length = gradient(vit, some, labels[:600]).norm()
for size in (8, 32, 128):
    batches = [torch.randperm(len(some))[:size] for _ in range(6)]
    rows = torch.stack([gradient(vit, some[b], labels[b]) for b in batches])
    noise = rows.std(dim=0).norm()
    print(f"batches of {size:3}: noise {noise:.2f}, gradient of 600 images {length:.2f}")

# %% [markdown]
# About a half each time: noise falls with the root. (Six batches of each size give no exact answer.) Where noise rules,
# Adam therefore makes steps that are twice as long *in the direction of the mean* as soon as the batch is four times as
# large, without being told. The other factor of two is left for the rate. That is the **root rule** (Malladi et al.
# 2022, arXiv 2205.10287): k times the batch, √k times the rate. (Their rule also changes Adam's two averages and its
# ε.)


# %% exercise="14.7"
def my_rate(step, base_rate, base_batch, batch, warmup_steps, power):
    """The learning rate of a step, for a batch of another size than the recipe's.

    After the warm-up: base_rate times (batch / base_batch) to the power of `power` (1: linear rule,
    1/2: root, 0: unchanged). The first warmup_steps steps, counted from 0, lead there in a straight
    line that begins at base_rate: step 0 has gone one part of warmup_steps, the last one all of them.
    warmup_steps may be 0.
    Returns one number.
    """
    ### BEGIN SOLUTION
    high = base_rate * (batch / base_batch) ** power
    if step >= warmup_steps:
        return high
    return base_rate + (high - base_rate) * (step + 1) / warmup_steps
    ### END SOLUTION


# %%
check("14.7", my_rate)
# hint("14.7")

# %% [markdown] solved_only=true
# **Why.** One formula for all three rules. The warm-up starts from a rate that has worked, not from 0.
#
# **The common wrong answer** scales the rate and leaves the warm-up as it was in *steps*. With 16 times the batch an
# epoch has a sixteenth of the steps, and a warm-up of 500 steps may be the whole training. The package counts it as a
# share of all steps for that reason.

# %% [markdown]
# Now try it: the small network of lesson 07, 1024 of the digits, eight epochs, AdamW. At B = 32 the rate is 0.002.
# Then B = 512, with a sixteenth of the steps. **Predict.** Which rule comes nearest to what B = 32 reached? And
# is near enough?

# %%
from dataclasses import replace

from vit_tutorial import TrainConfig, fit

small = ViTConfig(
    img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4, pool="mean"
)
base = TrainConfig(
    epochs=8, batch_size=32, lr=2e-3, warmup=0.2, label_smoothing=0.0, precision="float32"
)
for batch, rule, power in (
    (32, "the base", 0),
    (512, "rate kept", 0),
    (512, "root", 0.5),
    (512, "linear", 1),
):
    torch.manual_seed(0)
    model = VisionTransformer(small)
    config = replace(base, batch_size=batch, lr=base.lr * (batch / 32) ** power)
    rows = fit(model, train[:1024], test, config)
    print(
        f"B = {batch:3}, {rule:9}: rate {config.lr:.3f}, {8 * 1024 // batch:3} steps, "
        f"loss {rows[-1]['loss']:.3f}, test {rows[-1]['test_accuracy']:.1f}%"
    )

# %% [markdown]
# One seed, and 360 test images: this is a first look. The same with five seeds, three sizes, both optimizers, with
# and without warm-up (the mean and its 95% interval over seeds):
#
# {{table.batch_size_digits}}
#
# Look at the last column first. With warm-up and AdamW, batches of 32 come to
# {{results.batch_size_digits.rows[what=AdamW, 32, kept].accuracy_warm:.1f}}%; batches of 512 to
# {{results.batch_size_digits.rows[what=AdamW, 512, kept].accuracy_warm:.1f}}% with the rate kept,
# {{results.batch_size_digits.rows[what=AdamW, 512, root].accuracy_warm:.1f}}% with the root rule and
# {{results.batch_size_digits.rows[what=AdamW, 512, linear].accuracy_warm:.1f}}% with the linear one. With SGD the four
# numbers are {{results.batch_size_digits.rows[what=SGD, 32, kept].accuracy_warm:.1f}}%,
# {{results.batch_size_digits.rows[what=SGD, 512, kept].accuracy_warm:.1f}}%,
# {{results.batch_size_digits.rows[what=SGD, 512, root].accuracy_warm:.1f}}% and {{results.batch_size_digits.rows[what=SGD, 512, linear].accuracy_warm:.1f}}%.
# Where intervals overlap, these seeds do not tell two rules apart. What the table says:
#
# - **No rule brings B = 512 to where B = 32 is.** At equal epochs it has 16 steps instead of 256, and no rate makes up
#   for that here.
# - **With AdamW any scaling is far better than none.** With warm-up, root and linear cannot be told apart at
#   512; without it the linear rule has the lower loss there, and at 128 in both columns, though it was not made for
#   Adam.
# - **With SGD the linear rule, which was made for it, fails at 512**: a rate of
#   {{results.batch_size_digits.rows[what=SGD, 512, linear].lr:g}} ends in guessing, and warm-up does not save it. At 128 it and the root
#   rule end level in accuracy.
# - **Warm-up changes little** where the training goes well without it.
#
# In the papers the rules are tried over thousands of steps. A rule tells where to begin to search, not where to end.
#
# ## What must fit
#
# So far every process had the whole network. What does that take? Four things: weights, gradients, what the optimizer
# remembers (AdamW: two numbers for each weight), and what the forward pass keeps for the backward pass, the
# *activations*. The first three do not depend on the batch; activations grow with it. **Predict.** The laptop
# recipe's network, a batch of 128: which is the largest?

# %%
laptop = VisionTransformer(configs["laptop"])


def kept_bytes(model, images):
    """Bytes that a forward pass keeps for the backward pass, weights left out."""
    weights, seen = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # with the tensor, or its place would be used again
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images)
    return sum(size for size, _ in seen.values())


# %%
activations = kept_bytes(laptop, torch.randn(128, 3, 32, 32))
optimizer = torch.optim.AdamW(laptop.parameters())
laptop(torch.randn(2, 3, 32, 32)).sum().backward()
optimizer.step()
found = {"weights": list(laptop.parameters()), "gradients": [p.grad for p in laptop.parameters()]}
found["AdamW"] = [t for state in optimizer.state.values() for t in state.values()]
for name, tensors in found.items():
    print(f"{name:12} {sum(t.nbytes for t in tensors) / 1e6:7.1f} MB  (measured)")
print(f"{'activations':12} {activations / 1e6:7.1f} MB  (measured)")

# %% [markdown]
# Activations, by far. In a small network they weigh most: its few weights are used for many tokens, and every use
# leaves something behind. They can be made smaller, by fewer images at a time (exercise 14.2). The others cannot: sixteen bytes for every parameter are needed, however few the images. Here are
# larger networks, with 16 images each. Blocks are alike, so that a network with one block and one with two tell us
# about all of them. (Float32, no tricks. In half precision activations take about half.)


# %%
def activation_bytes(config):
    """Bytes kept for one image: from networks of one and of two blocks (computed)."""
    few = [replace(config, depth=depth) for depth in (1, 2)]
    image = torch.randn(1, config.in_chans, *config.image_hw)
    one, two = (kept_bytes(VisionTransformer(each), image) for each in few)
    return one + (config.depth - 1) * (two - one)


print(f"{'GB':10} weights  gradients  AdamW  16 images  together")
large = {name: configs[name] for name in ("flagship", "ViT-B/16", "ViT-L/16")}
for name, config in large.items():
    n, images_kept = 4 * parameters(config) / 1e9, 16 * activation_bytes(config) / 1e9
    row = f"{n:7.2f} {n:10.2f} {2 * n:6.2f} {images_kept:10.2f} {4 * n + images_kept:9.2f}"
    print(f"{name:10} {row}")

# %% [markdown]
# When that is too much for one GPU, the copies are the waste: N processes keep N times the same weights. Beyond data
# parallelism there are other ways to cut:
#
# | way | what each of N GPUs has | what it sends in a step |
# |---|---|---|
# | data parallelism (DDP) | everything, and a share of the batch | 2 gradients' worth |
# | ZeRO 1 | an N-th of the optimizer's memory | the same |
# | ZeRO 2 | and an N-th of the gradients | the same |
# | ZeRO 3, FSDP | and an N-th of the weights | 3 gradients' worth: weights are fetched for forward and for backward |
# | tensor parallelism | a part of every matrix, so of weights *and* activations | activations, several times in every block |
# | pipeline parallelism | some of the blocks | activations, between the parts |
#
# (ZeRO: Rajbhandari et al. 2019, arXiv 1910.02054; each as large N makes it.) ZeRO is still data parallelism: each
# GPU computes the whole network for its own images, and fetches from the others what it has not kept. In numbers,
# what weights, gradients and AdamW take on each of 8 GPUs:

# %%
N, large["ViT-H/14"] = 8, configs["ViT-H/14"]
print(f"{'GB, computed':12}   DDP  ZeRO 1  ZeRO 2  ZeRO 3")
for name, config in large.items():
    n = 4 * parameters(config) / 1e9
    ways = (4 * n, 2 * n + 2 * n / N, n + 3 * n / N, 4 * n / N)
    print(f"{name:12} {ways[0]:5.2f} {ways[1]:7.2f} {ways[2]:7.2f} {ways[3]:7.2f}")

# %% [markdown]
# For every network of this course, and for ViT-B on any GPU of today, the first column is small enough. Take the
# simplest way that fits.
#
# ## What it costs
#
# Four lines are **measured**, on two cores of a CPU:
#
# | recipe | on | time | how we know |
# |---|---|---|---|
# | digits, {{results.accuracy_digits.rows[0].epochs}} epochs | 2 cores | {{results.accuracy_digits.rows[0].seconds:.0f}} s | measured (`accuracy_digits.json`) |
# | laptop, {{results.accuracy_laptop.rows[0].epochs}} epochs (what fits into ten minutes there) | 2 cores | {{results.accuracy_laptop.rows[0].seconds:.0f}} s | measured (`accuracy_laptop.json`) |
# | laptop, one batch | 1 core, 1 process | {{results.scaling_cpu.rows[what=laptop, 1 thread].step_ms_against:.0f}} ms | measured (`scaling_cpu.json`) |
# | laptop, one batch | 2 cores, 2 processes | {{results.scaling_cpu.rows[what=laptop, 1 thread].step_ms:.0f}} ms | measured (`scaling_cpu.json`) |
#
# All others are **computed**: the operations of an image (lesson 06), times three for training, times the images,
# divided by what the hardware does. We assume 10 to 25% of the peak, as small networks get; eight GPUs share the
# recipe's batch, and lose what the timeline says for NVLink. **Predict.** The flagship recipe shows 50,000 images 400
# times. How long would one core of this computer need? And are eight GPUs eight times as fast as one?


# %%
def said(seconds):
    return f"{seconds:.2g} s" if seconds < 99 else f"{seconds / 60:.0f} min"


for name in ("laptop", "classroom", "flagship"):
    recipe = RECIPES[name]
    n, batch = 50_000 * recipe.train.epochs, recipe.train.batch_size
    work, line = 3 * flops(recipe.model) * n, (4 * parameters(recipe.model), LINKS["NVLink (H100)"])
    print(f"{name}: {recipe.train.epochs} epochs, {work / 1e15:,.2g} million billion operations")
    for gpu, count in (("T4", 1), ("A100", 1), ("H100", 1), ("H100", 8)):
        each = [compute_seconds(recipe.model, batch / count, gpu, part) for part in (0.25, 0.1)]
        low, high = (n / batch * step_timeline(seconds, *line, count).end for seconds in each)
        all_of_them = f"of GPU time {said(count * low):>7} to {said(count * high):>7}"
        print(f"    {count} {gpu:5} {said(low):>7} to {said(high):>7}, {all_of_them}   computed")

# %%
import time

x, y = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
began = time.perf_counter()
for _ in range(3):
    F.cross_entropy(laptop(x), y).backward()
speed = 3 * 64 * 3 * flops(laptop.config) / (time.perf_counter() - began)
print(f"one core of this computer: {speed / 1e9:.0f} billion operations a second (measured)")

# %%
flagship = RECIPES["flagship"]
work = 3 * flops(flagship.model) * 50_000 * flagship.train.epochs
print(f"the flagship on it: {work / speed / 86_400:.0f} days (computed)")
seconds = compute_seconds(flagship.model, 64, share=0.25)
print(f"64 images of it on one H100, at 25% of its peak: {1e3 * seconds:.1f} ms (computed)")

# %% [markdown]
# Eight are not eight times as fast, and the smaller the network, the less they bring. For the laptop recipe eight are
# *slower* than one: 16 images are computed in far less time than the 14 rounds of the ring take, however little they
# carry. Even so, read the lines with eight GPUs with care. A batch of 512, as the two others have it, leaves 64
# images for each, and a step of about a millisecond. Then the time to *start* each operation counts, and nothing of
# that is in the computation. So the time with eight GPUs is a lower bound until it has been measured; and eight GPUs
# for a minute cost what one costs for eight. Prices change by the month: multiply the GPU time by yours.
#
# ## What we now have
#
# | what | shape |
# |---|---|
# | a batch, of all processes together | (B, C, H, W) |
# | the share of one | (B / N, C, H, W): `batch[rank::N]` |
# | its gradient, and the mean of all | (parameters,), 4 bytes each |
# | what the ring sends, for each process | 2·(N − 1)/N gradients, in 2·(N − 1) rounds |
# | a bucket | 25 MB of the gradient, from the last layer to the first |
# | weights, gradients and AdamW | 16 bytes for each parameter |
#
# One step: each process forward and backward on its share; buckets travel while `backward` goes on; the mean is
# clipped; every process makes the same step.
#
# ## The questions people ask
#
# **"Are the weights of all processes equal to the last bit?"** Yes, among each other: all get the same sum. With
# *one* process they agree up to rounding, because it adds in another order, and floats mind the order:

# %%
a, b, c = torch.tensor([1e8, -1e8, 1.0])
print("(a + b) + c =", ((a + b) + c).item(), "   a + (b + c) =", (a + (b + c)).item())

# %% [markdown]
# **"May I measure the accuracy in several processes, too?"** Yes, if every image counts once. PyTorch's
# `DistributedSampler` makes shares equal by taking some images twice. For training that does no harm; in an accuracy
# it does. Here, ten images and four processes:

# %%
from torch.utils.data import DistributedSampler

taken = [list(DistributedSampler(range(10), 4, rank, shuffle=False)) for rank in range(4)]
ours = [list(range(10)[rank::4]) for rank in range(4)]
print("DistributedSampler:", taken, "are", sum(map(len, taken)), "images")
print("every fourth image:", ours, "are", sum(map(len, ours)), "images")

# %% [markdown]
# **"One of my GPUs is slower than the others. Does it matter?"** All wait for the last one, in every step. Even if
# all are equal on average, and each step varies by 5%:

# %%
for n in (1, 8, 64, 512):
    seconds = 1 + 0.05 * torch.randn(1000, n)
    slowest = seconds.amax(dim=1).mean()
    print(f"{n:3} processes: a step takes {slowest:.3f} s, where each needs 1 s on average")

# %% [markdown]
# **"Can I send less?"** Gradients can travel in 16 bits (PyTorch has a hook for it, `bf16_compress_hook`): half the
# bytes, and this much error in our gradient. Or send less often: accumulate four shares in each process before the
# sum is made (DDP's `no_sync`), with four times the batch.

# %%
print("sent in bfloat16, off by", off(whole.bfloat16().double(), whole))

# %% [markdown]
# **"With 8 GPUs, why am I not 8 times as fast?"** What is not shared does not become faster: reading data, measuring,
# saving, starting. If a share s of the time is such, N processes make it 1 / (s + (1 − s)/N) times as fast (Amdahl
# 1967):

# %%
for s in (0.01, 0.05, 0.2):
    times = ", ".join(f"{n} GPUs ×{1 / (s + (1 - s) / n):.1f}" for n in (2, 8, 64))
    print(f"{s:4.0%} not shared: {times}")

# %% [markdown]
# **"What is `nn.DataParallel`?"** The older way: one process with a thread for each GPU, which copies the network to
# all of them in every step and adds up on the first one. PyTorch itself advises to use DDP instead, on one machine
# too.

# %%
text = (nn.DataParallel.__doc__ or "").replace(".. warning::", "")
sentences = " ".join(text.split()).split(". ")
print(*(sentence for sentence in sentences if "recommended" in sentence), sep=".\n")

# %% [markdown]
# ## A stretch
#
# - Write the first script so that each process sends its own, hand-made ring: `dist.send` and `dist.recv`, chunk by
#   chunk, against `dist.all_reduce`. (Who must send first, so that nobody waits for ever?)
# - Change `TRAINING` so that it has `crop_padding=1`. Are the weights of two processes still those of one? Those of
#   two runs of two processes?
# - Take the bucket size in `step_timeline` from 1 MB to 400 MB, for ViT-B on PCIe. Where is the best place, and why
#   is neither end good?
# - You have two computers in one network? Install the course on both, and give them the third command above with
#   `--recipe digits`.
# - Run `benchmarks/scaling.py` and `benchmarks/batch_size.py` on your machine, and compare with the tables.
