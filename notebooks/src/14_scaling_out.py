# %% [markdown]
# # 14 · Scaling out
#
# **One processor is too slow. What do several give you, and what must they tell each other?**
#
# So far one process has trained one network. Larger networks are trained by many processes at once: one for each GPU,
# on one machine or on hundreds. The network, the loop and the recipe stay as they are. What is new is one sum, made
# in every step. This lesson is about that sum: why it is right, how it travels, and when it pays.
#
# **You will**
#
# - prove that processes which share a batch take the step that one would take alone, and what small changes do to it,
# - follow a sum around a ring of workers, and count what is sent,
# - start two real processes, and train with the package's `fit` in both,
# - make the batch larger, and measure what the rules for the learning rate are worth,
# - measure what must fit into memory, and cut the largest part to a third by computing it twice,
# - *deeper:* share out the images, write the ring, send gradients while others are still computed, see where the rules
#   come from, divide a network too large for one GPU, work out what a training costs.

# %%
import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, ViTConfig, load_checkpoint, normalize, plots
from vit_tutorial.data import digits
from vit_tutorial.lessons import check, hint

# %%
plots.network_map()

# %% [markdown]
# Every process has all of this, the whole network. What they share out is the batch.
#
# ## One batch, two halves
#
# The loss of a batch is a mean over its images, and so is its gradient. That is all we need. By hand: a network with
# one weight w = 1 outputs w·x, the right answer is always 1, and the loss is (w·x − 1)². Its derivative with respect to
# w is 2·(w·x − 1)·x for one image. The batch is x = 1, 2, 3, 4, so the four derivatives are 0, 4, 12 and 24. Work out
# the gradient of the batch, those of its two halves, and the mean of these. Then cut the batch into one image and
# three.

# %%
inputs = torch.tensor([1.0, 2.0, 3.0, 4.0])
each = 2 * (1.0 * inputs - 1) * inputs
whole_mean = each.mean().item()
half_means = [each[:2].mean().item(), each[2:].mean().item()]
uneven_means = [each[:1].mean().item(), each[1:].mean().item()]

# %%
print("whole batch:   ", whole_mean)
print("two halves:    ", half_means, "  their mean:", sum(half_means) / 2)
print(
    f"one and three:  [{uneven_means[0]}, {uneven_means[1]:.2f}]  their mean: {sum(uneven_means) / 2:.2f}"
)

# %% [markdown]
# Two equal halves: the mean of the means is the mean. One image and three: it is not. The lonely image has counted
# for a half, where it should have counted for a quarter.

# %% claim="Two equal halves: the mean of the means is the mean. One image and three: it is not"
assert sum(half_means) / 2 == whole_mean == 10
assert abs(sum(uneven_means) / 2 - whole_mean) > 3

# %% claim="The lonely image has counted for a half, where it should have counted for a quarter"
assert abs(sum(uneven_means) / 2 - (each[0] / 2 + each[1:].mean() / 2)) < 1e-5
assert abs(whole_mean - (each[0] / 4 + each[1:].mean() * 3 / 4)) < 1e-5


# %% exercise="14.1"
def my_joint_gradient(gradients, counts):
    """Make the gradient of a whole batch from those of its shares.

    gradients: (G, P), the mean gradient of each of G shares, P numbers. counts: (G,), how many images
    each share has. A share may have no images at all; its mean is then NaN.
    Returns (P,): the mean over all images, of the type of the gradients.
    """
    ### BEGIN SOLUTION
    filled = counts > 0
    weights = counts[filled] / counts.sum()
    return weights.to(gradients) @ gradients[filled]
    ### END SOLUTION


# %%
check("14.1", my_joint_gradient)
# hint("14.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** Count times mean is the sum over a share's images; the sums are added, and divided once. The empty share is
# left out before any arithmetic, because 0 · NaN is NaN.
#
# **The common wrong answer** is the plain mean of the gradients. It is right for equal shares, and that is why
# programs make all shares equal: the package refuses a batch that its processes cannot share evenly.

# %% [markdown]
# Now a real network. The ViT of the digits, with new weights and in float64, is asked about 64 images: all at once,
# and in equal shares. `gradient` lays all its gradients in one long row.

# %%
torch.set_num_threads(1)
_, card = load_checkpoint("digits")
torch.manual_seed(0)
vit = VisionTransformer(card.config).double()
train, test = digits("train"), digits("test")
train_images = normalize(train.images, card.mean, card.std).double()
images, labels = train_images[:64], train.labels[:64]


def gradient(model, images, labels):
    """The gradient of the mean loss, as one row: (parameters,)."""
    loss = F.cross_entropy(model(images), labels)
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


# %%
whole, worst = gradient(vit, images, labels), {}
for processes in (2, 4, 8, 64):
    shares = zip(images.chunk(processes), labels.chunk(processes), strict=True)
    together = torch.stack([gradient(vit, *share) for share in shares]).mean(dim=0)
    worst[processes] = (together - whole).abs().max().item()
    print(f"{processes:2} shares: largest difference {worst[processes]:.0e}")

# %% [markdown]
# Equal up to rounding, down to one image for each of 64 processes. **That is the whole idea of data parallelism.**
# Every process has the whole network and a share of the batch. The gradients are averaged, so that all processes have
# the same. So they all make the same step, and all have the same weights again.

# %% claim="Equal up to rounding, down to one image for each of 64 processes"
assert max(worst.values()) < 1e-13
assert whole.abs().max() > 1e-3

# %% [markdown]
# ## Four small changes
#
# None of them raises an error: unequal shares; a sum instead of a mean; gradients that are clipped
# in each share (lesson 07) before they are averaged; BatchNorm in the network instead of LayerNorm.
#
# **Predict.** Which of them gives another gradient, and by how much: thousandths, percents, or more?


# %%
def clipped(row, norm):
    """A gradient that is too long, made shorter."""
    return row * min(1.0, norm / row.norm().item())


def error(row, right):
    """The length of the difference from the right gradient, in percent of the right one's."""
    return 100 * ((row - right).norm() / right.norm()).item()


# %%
halves = torch.stack([gradient(vit, images[i : i + 32], labels[i : i + 32]) for i in (0, 32)])
uneven = [gradient(vit, images[:16], labels[:16]), gradient(vit, images[16:], labels[16:])]
limit = 0.8 * halves.norm(dim=1).mean().item()  # the longest gradient allowed
clip_first = torch.stack([clipped(half, limit) for half in halves]).mean(dim=0)

# %%
errors = {
    "16 and 48 images, plain mean": error(torch.stack(uneven).mean(dim=0), whole),
    "sum instead of mean": error(halves.sum(dim=0), whole),
    "clipped before averaging": error(clip_first, clipped(whole, limit)),
}
for norm in (nn.LayerNorm(32), nn.BatchNorm1d(32)):
    torch.manual_seed(0)
    parts = [nn.Flatten(), nn.Linear(64, 32), norm, nn.GELU(), nn.Linear(32, 10)]
    net = nn.Sequential(*parts).double()
    shares = [gradient(net, images[i : i + 16], labels[i : i + 16]) for i in range(0, 64, 16)]
    right = gradient(net, images, labels)
    errors[f"{type(norm).__name__}, four shares"] = error(torch.stack(shares).mean(dim=0), right)
for change, percent in errors.items():
    print(f"{change:30}{percent:8.3g} % off")

# %% [markdown]
# All four do, and by far more than rounding:
#
# - **Unequal shares** give a wrong direction, silently.
# - **A sum** over G processes is G times too long. With plain gradient descent that is a learning rate G times as
#   high; AdamW hides it, since it divides by the size of the gradient.
# - **Clipping first** mostly shortens the step here: each half is longer than the limit, their mean is not. It also
#   bends it a little towards the shorter one. So: average, then clip. `update` (lesson 07)
#   clips after `backward`, and the averaging happens in `backward`.
# - **BatchNorm** measures means over the images of its share, so images do know of each other. A ViT has LayerNorm,
#   which looks at one token of one image. Nothing has to be done for it.

# %% claim="All four do, and by far more than rounding"
assert min(percent for change, percent in errors.items() if "LayerNorm" not in change) > 5
assert errors["LayerNorm, four shares"] < 1e-9

# %% claim="give a wrong direction, silently"
assert torch.cosine_similarity(torch.stack(uneven).mean(dim=0), whole, dim=0) < 0.99

# %% claim="**A sum** over G processes is G times too long"
assert abs(errors["sum instead of mean"] - 100) < 1e-6
assert_close(halves.sum(dim=0), 2 * whole)

# %% claim="mostly shortens the step here: each half is longer than the limit, their mean is not"
assert halves.norm(dim=1).min() > limit
assert whole.norm() < limit
assert clip_first.norm() < 0.85 * whole.norm()
assert torch.cosine_similarity(clip_first, whole, dim=0) > 0.98

# %% claim="It also bends it a little towards the shorter one"
shorter = halves[halves.norm(dim=1).argmin()]
angles = [torch.cosine_similarity(row, shorter, dim=0) for row in (clip_first, whole)]
assert angles[0] > angles[1] + 0.02

# %% [markdown] deeper=true
# ## Chance, too
#
# One more thing can go wrong, and it can be seen in no gradient: chance. If all processes draw with the same seed,
# the first image of every share is shifted alike, the second as well, and so on. `Run.seed` therefore mixes the number
# of the process in, its **rank**:

# %%
import inspect

from vit_tutorial.augment import draw_crop_flip
from vit_tutorial.run import Run, mixed_seed

print(inspect.getsource(Run.seed))

# %%
drawn = {}
for name, seeds in {
    "one seed for all": (7, 7),
    "a seed for each": (mixed_seed(7, 0), mixed_seed(7, 1)),
}.items():
    drawn[name] = []
    for seed in seeds:  # two processes with four images each
        torch.manual_seed(seed)
        drawn[name] += [draw_crop_flip(4, 4, flip=False)[0].tolist()]
    print(f"{name}: shifts", *drawn[name])

# %% [markdown]
# With one seed the second process repeats the four shifts of the first; with a seed for each there are eight.

# %% claim="With one seed the second process repeats the four shifts of the first; with a seed for each there are eight"
assert drawn["one seed for all"][0] == drawn["one seed for all"][1]
assert drawn["a seed for each"][0] != drawn["a seed for each"][1]

# %% [markdown]
# ## The same sum in time
#
# Two processes work side by side. One process can also do both shares one after the other, and make its step after
# the second: **gradient accumulation**. It is the same sum, in time instead of in space. It costs no second processor,
# and needs only the activations of one share in memory.


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

# %% [markdown] deeper=true
# ## Which images are mine?
#
# Nobody hands out images. Every process shuffles the list itself, with the same seed, and so all have the same order
# without a word. In every step each takes its share of the batch: every image has exactly one process, and all
# processes have equally many. The number of a process, from 0, is its **rank**; the **world size** is how many there
# are.

# %%
orders = [torch.randperm(24, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
for rank, order in enumerate(orders):
    print(f"what process {rank} has shuffled:", order[:8].tolist(), "...")

# %% claim="all have the same order without a word"
assert torch.equal(orders[0], orders[1])
assert not torch.equal(orders[0], torch.arange(24))


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
# **Why.** First the batch, then the share. Every second image or the first half of them: both are right. The package
# takes every second one, or third, or as many as there are processes.
#
# **The common wrong answer** gives every process the whole batch. All runs well, and all processes do the same work:
# the loss falls exactly as with one, only nothing is faster. The other one takes `batch_size` for that of *one*
# process, and trains with a batch that is G times as large as the recipe says.

# %% [markdown]
# ## The sum, by post
#
# Processes have numbers, their **ranks**, from 0. Each has a gradient, and each needs the mean of all. That operation
# is called **all-reduce**. The simple way: all send theirs to rank 0, it adds them up and sends the sum back to all.
# Let us count what goes over its line, in gradients.


# %%
def all_to_one(gradients):
    """Add up lists of numbers at rank 0; return the sum, and how many gradients each has sent."""
    sent = [0] * len(gradients)
    total = list(gradients[0])
    for rank, other in enumerate(gradients[1:], 1):
        total = [a + b for a, b in zip(total, other, strict=True)]  # to rank 0
        sent[rank] += 1
    sent[0] += len(gradients) - 1  # and the sum back, to each of the others
    return total, sent


# %%
numbers = [[1, 2, 3], [10, 20, 30], [100, 200, 300]]
total, sent = all_to_one(numbers)
print("the sum:", total, "  gradients sent by each process:", sent)

# %% [markdown]
# With G processes, rank 0 receives G − 1 gradients and sends G − 1, while the others wait. With 64 processes instead
# of 8 that takes nine times as long (63 / 7).
#
# The way out: cut the gradient into G **chunks**, and let everybody work on another chunk at the same time. The
# processes stand in a ring, and each sends to its right neighbour only. In the first G − 1 rounds a chunk is *added
# to* wherever it arrives (this is called *reduce-scatter*). After them each process has the whole sum of one chunk.
# In G − 1 more rounds these sums are handed on (*all-gather*). Here are three workers with the same numbers. An arrow
# that leaves on the right comes in again on the left.

# %% claim="With G processes, rank 0 receives G − 1 gradients and sends G − 1"
assert [all_to_one([[1.0]] * processes)[1][0] for processes in (2, 8, 64)] == [1, 7, 63]
assert sum(sent[1:]) == 2

# %% claim="that takes nine times as long (63 / 7)"
times = [all_to_one([[1.0]] * processes)[1][0] for processes in (64, 8)]
assert times[0] / times[1] == 9

# %%
from vit_tutorial.lessons.lesson_14.cluster import ring_all_reduce

parts = torch.tensor(numbers, dtype=torch.float32)  # (workers, chunks)
rounds = ring_all_reduce(parts)
states = torch.stack([parts, *(after for after, _ in rounds)])  # (rounds + 1, workers, chunks)
plots.ring_rounds(states.numpy(), [messages for _, messages in rounds])

# %% [markdown]
# Follow chunk 0, the first line of each table: 1 goes to worker 1 and becomes 11, goes on to worker 2 and becomes
# 111, the sum. From there it travels on, and replaces what it finds. After four rounds all have all sums.
#
# In each round a worker sends one of three chunks, so in four rounds 4/3 of a gradient. With G workers it is a G-th in
# each of 2·(G − 1) rounds: **2·(G − 1)/G of a gradient, less than two, however many workers there are.** That is why it
# scales. With 64 instead of 8 the ring takes 1.97 / 1.75 = 1.1 times as long, but for one thing: what grows is the
# number of rounds, and each has a delay. As long as the processes do the adding themselves, no way sends less
# (Patarasuk & Yuan 2009, J. Parallel Distrib. Comput. 69, 117-124).

# %% claim="1 goes to worker 1 and becomes 11, goes on to worker 2 and becomes 111, the sum"
assert states[1, 1, 0] == 11
assert states[2, 2, 0] == 111 == total[0]

# %% claim="From there it travels on, and replaces what it finds. After four rounds all have all sums"
assert (states[3, 0, 0], states[4, 1, 0]) == (111, 111)
assert states[2, 0, 0] == 1
assert len(rounds) == 4
assert_close(states[4], torch.tensor(total, dtype=torch.float32).expand(3, 3))
assert not torch.equal(states[3], states[4])

# %% claim="in four rounds 4/3 of a gradient"
assert all(sum(start == w for _, sends in rounds for start, _, _ in sends) == 4 for w in range(3))

# %% claim="2·(G − 1)/G of a gradient, less than two, however many workers there are"
for workers in (2, 5, 8, 64):
    sends = [
        message for _, sent in ring_all_reduce(torch.ones(workers, workers)) for message in sent
    ]
    mine = sum(start == 0 for start, _, _ in sends) / workers
    assert abs(mine - 2 * (workers - 1) / workers) < 1e-9
    assert mine < 2

# %% claim="With 64 instead of 8 the ring takes 1.97 / 1.75 = 1.1 times as long"
sends = {workers: 2 * (workers - 1) / workers for workers in (8, 64)}
assert (round(sends[64], 2), sends[8]) == (1.97, 1.75)
assert abs(sends[64] / sends[8] - 1.1) < 0.05

# %% [markdown] deeper=true
# ## One round of the ring
#
# Look at the second table of the figure: in round 1, which chunk does worker 0 send, and why not its own?


# %% exercise="14.4"
def my_ring_round(parts, step):
    """One round of the ring: every worker sends one chunk to its right neighbour, all at once.

    parts: (G, G, P): parts[worker, chunk] are the P numbers that this worker holds of this chunk.
    The right neighbour of worker i is i + 1, that of the last one is 0. In round `step`, counted
    from 0, worker i sends chunk i - step, counted round the ring (before chunk 0 comes G - 1).
    In rounds 0 ... G - 2 the receiver adds what arrives to its own, in rounds G - 1 ... 2G - 3 what
    arrives takes its place. A sender keeps what it has.
    Returns the parts after the round.
    """
    ### BEGIN SOLUTION
    workers = len(parts)
    after = parts.clone()
    for worker in range(workers):
        chunk, right = (worker - step) % workers, (worker + 1) % workers
        if step < workers - 1:
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

# %% definition="vit_tutorial.lessons.lesson_14.cluster.ring_all_reduce"

# %% [markdown]
# Its sums against PyTorch's, for other numbers of workers:

# %%
largest = {}
for workers in (2, 5, 8, 64):
    parts = torch.randn(workers, workers, 2, dtype=torch.float64)  # a gradient of 2 · G numbers
    after, _ = ring_all_reduce(parts)[-1]
    largest[workers] = (after - parts.sum(dim=0)).abs().max().item()
    print(f"{workers:2} workers: all have the sum, up to {largest[workers]:.0e}")

# %% claim="Its sums against PyTorch's, for other numbers of workers"
assert max(largest.values()) < 1e-12

# %% [markdown]
# ## Two real processes
#
# Enough on paper. `torchrun`, which comes with PyTorch, starts the same script several times. Each copy finds in its
# environment who it is: `RANK`, `WORLD_SIZE`, and where the first one listens. Our script does the sum twice: by
# hand, and through PyTorch's `DistributedDataParallel` (DDP), which does it in the middle of `backward`. Look for the
# lines that make two processes of it.

# %%
BY_HAND = """
import torch, torch.distributed as dist, torch.nn.functional as F
from vit_tutorial import VisionTransformer, load_checkpoint

dist.init_process_group("gloo")  # "nccl" for GPUs
rank, world = dist.get_rank(), dist.get_world_size()
model = VisionTransformer(load_checkpoint("digits")[1].config).double()
weights, images, labels = torch.load("start.pt", weights_only=True)
model.load_state_dict(weights)
images, labels = images.chunk(world)[rank], labels.chunk(world)[rank]

F.cross_entropy(model(images), labels).backward()
own = torch.cat([p.grad.flatten() for p in model.parameters()])
by_hand = own.clone()
dist.all_reduce(by_hand)  # every process has the sum now
by_hand /= world
"""

# %%
BY_DDP = """
with torch.no_grad():
    model.head.bias += rank  # process 1 has other weights ...
network = torch.nn.parallel.DistributedDataParallel(model)  # ... no longer
model.zero_grad()
F.cross_entropy(network(images), labels).backward()  # the sum is made in here
by_ddp = torch.cat([p.grad.flatten() for p in model.parameters()])
line = f"process {rank}: {len(images)} images, gradient {own.norm():.3f} long, mean {by_ddp.norm():.3f}"
print(line + "\\n", end="")  # in one piece, or the lines of two processes mix
torch.save((own, by_hand, by_ddp), f"gradients{rank}.pt")
"""

# %% [markdown]
# The same start also trains a small network on the digits, with the package's `fit`, for one epoch and in float64. We
# come back to that below. Which of the lines that train know that there are two processes?

# %%
TRAINING = """
from vit_tutorial import ImageSet, TrainConfig, ViTConfig, distributed, fit

small = ViTConfig(img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4, pool="mean")
config = TrainConfig(epochs=1, batch_size=64, lr=5e-3, ema=0.9)
pixels, answers = torch.load("digits.pt", weights_only=True)
digits = ImageSet(pixels, answers, tuple("0123456789"), "digits")
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
torch.save((vit.state_dict(), images, labels), folder / "start.pt")
torch.save((train.images, train.labels), folder / "digits.pt")
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]  # torchrun
said = run(BY_HAND + BY_DDP + TRAINING + "dist.destroy_process_group()", *TWO)
print(said)

# %% [markdown]
# The two gradients differ, since the images do, and the mean is the same in both. Here are both means against `whole`,
# the gradient of one process with the whole batch:

# %%
differences, own_gradients = [], []
for rank in range(2):
    own, by_hand, by_ddp = torch.load(folder / f"gradients{rank}.pt", weights_only=True)
    own_gradients.append(own)
    differences.append([(mean - whole).abs().max().item() for mean in (by_hand, by_ddp)])
    print(
        f"process {rank}: by hand, by DDP: largest difference",
        *map("{:.0e}".format, differences[-1]),
    )

# %% claim="The two gradients differ, since the images do, and the mean is the same in both"
lines = [line for line in said.splitlines() if "gradient" in line]
assert lines[0].split("mean")[1] == lines[1].split("mean")[1]
assert not torch.allclose(own_gradients[0], own_gradients[1])
assert_close(torch.stack(own_gradients), halves)

# %% [markdown]
# Both are right. The lines that make two processes of it are few: joining, a share of the batch, the wrapper. The
# first and the last, as the package has them:

# %% claim="Both are right"
assert np.max(differences) < 1e-12

# %%
from collections.abc import Generator
from contextlib import chdir, contextmanager

import torch.distributed as dist

from vit_tutorial import distributed

world_size = distributed.world_size

# %% definition="vit_tutorial.distributed.process_group"

# %% definition="vit_tutorial.distributed.data_parallel"

# %% [markdown]
# Without `torchrun` both do nothing. In between, one line of `fit` takes the share of each batch, with `[rank() ::
# world_size()]`; the rest is about seeds, batches that cannot be shared, and what is printed and saved. No line of
# `TRAINING` *trains* differently for it; its last three only report. Both processes have trained already. Now the same
# lines here, alone.
#
# **Predict.** AdamW, warm-up, clipping, smoothing, an average of the weights: after 22 steps, are the weights of one
# process still those of two?

# %% claim="one line of `fit` takes the share of each batch, with `[rank() :: world_size()]`"
from vit_tutorial import train as training_code

source = Path(training_code.__file__).read_text()
assert source.count("[rank() :: world_size()]") == 1

# %% claim="No line of `TRAINING` *trains* differently for it; its last three only report"
lines = TRAINING.strip().splitlines()
knowing = [n for n, line in enumerate(lines) if "rank" in line or "world" in line]
assert min(knowing) == len(lines) - 3
assert lines[-4].startswith("rows = fit(")

# %%
with chdir(folder):
    exec(TRAINING, {"torch": torch, "VisionTransformer": VisionTransformer})

# %%
alone, rows = torch.load(folder / "0_of_1.pt", weights_only=True)
of_two = [torch.load(folder / f"{rank}_of_2.pt", weights_only=True) for rank in range(2)]
for rank, (weights, theirs) in enumerate(of_two):
    apart = max((weights[name] - alone[name]).abs().max().item() for name in alone)
    print(f"process {rank}: loss {theirs[-1]['loss']:.6f}, weights off by {apart:.0e} at most")

# %%
twins = all(torch.equal(of_two[0][0][name], of_two[1][0][name]) for name in alone)
print("the two have the same weights, to the last bit:", twins)

# %% [markdown]
# The last digits differ, because sums are made in another order. That is all. **Two processes are not an approximation
# of one.** Between each other the two are equal to the last bit: both get the same sum.
#
# What does differ is chance: with augmentation or drop path each process draws for its own images, so that two
# processes with one seed are one more throw of the dice, no better and no worse.

# %% claim="The last digits differ, because sums are made in another order"
for weights, theirs in of_two:
    assert_close(weights, alone, rtol=0, atol=1e-8)
    assert abs(theirs[-1]["loss"] - rows[-1]["loss"]) < 1e-8
assert any(not torch.equal(of_two[0][0][name], alone[name]) for name in alone)

# %% claim="Between each other the two are equal to the last bit"
assert twins

# %% [markdown] deeper=true
# ## Buckets
#
# DDP does not wait for the whole gradient. It sends it in pieces, **buckets**, and each as soon as it is full. A hook
# shows what is in one. (We ask for small buckets, to see several.)

# %%
WATCH = """
network = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.3)
names = {p: name for name, p in model.named_parameters()}

def send(state, bucket):  # what DDP does with a bucket, and a line to see it
    if rank == 0 and step == 1:
        held = [names[p] for p in bucket.parameters()]
        megabytes = bucket.buffer().nbytes / 1e6
        print(f"bucket {bucket.index()}: {megabytes:.2f} MB, {held[0]} ... {held[-1]}")
    dist.all_reduce(bucket.buffer().div_(world))  # DDP itself would not wait here
    done = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done

network.register_comm_hook(None, send)
for step in range(2):  # in step 0 it learns in which order gradients come
    model.zero_grad()
    F.cross_entropy(network(images), labels).backward()
dist.barrier()  # nobody leaves before all are done
dist.destroy_process_group()
"""

# %%
seen = run(BY_HAND + WATCH, *TWO)
print(seen)
place.cleanup()  # nothing of it stays on the disk

# %% [markdown]
# It begins with the *last* layers, because `backward` does.

# %% claim="It begins with the *last* layers, because `backward` does"
buckets = [line for line in seen.splitlines() if line.startswith("bucket")]
assert len(buckets) >= 3
assert "head" in buckets[0]
assert "patch_embed" in buckets[-1]

# %% [markdown]
# ## What is sent, and how long it takes
#
# How much is it? The gradient has one number for each parameter, here in float32: four bytes. (In half precision
# `fit` computes in 16 bits, and keeps weights and gradients in 32.)

# %%
from vit_tutorial.lessons.counting import flops, parameters
from vit_tutorial.recipes import RECIPES

imagenet = dict(img_size=224, num_classes=1000, mlp_ratio=4.0)
configs = {name: RECIPES[name].model for name in ("digits", "laptop", "classroom", "flagship")}
configs["ViT-B/16"] = ViTConfig(patch_size=16, embed_dim=768, depth=12, num_heads=12, **imagenet)
configs["ViT-L/16"] = ViTConfig(patch_size=16, embed_dim=1024, depth=24, num_heads=16, **imagenet)
configs["ViT-H/14"] = ViTConfig(patch_size=14, embed_dim=1280, depth=32, num_heads=16, **imagenet)
for name, config in configs.items():
    count = parameters(config)
    print(f"{name:10} {count:11,} parameters, a gradient of {4 * count / 1e6:7.1f} MB")


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
# **Why.** A G-th of the gradient in each of 2·(G − 1) rounds. Lines are sold in bits.
#
# **The common wrong answer** forgets that a byte has eight bits.

# %% [markdown]
# The lines between processes differ much. (One direction, as the makers give it: data sheets of NVIDIA's H100, PCI
# Express 4.0 and Ethernet. What programs get is less.)

# %%
# bytes per second
LINKS = {"NVLink (H100)": 450e9, "PCIe 4.0 x16": 32e9, "100 Gbit": 12.5e9, "10 Gbit": 1.25e9}
sending = {
    name: [1e3 * 2 * 7 / 8 * 4 * parameters(config) / speed for speed in LINKS.values()]
    for name, config in configs.items()
}
print(f"{'ms for 8 GPUs':14}", *(f"{name:>14}" for name in LINKS))
for name, ms in sending.items():
    print(f"{name:14}", *(f"{value:14,.0f}" if value > 99 else f"{value:14.2g}" for value in ms))

# %% [markdown]
# The fastest is several hundred times as fast as the slowest. For ViT-B/16 that is a millisecond in every step, or half
# a second. Is that much? It depends on what there is to compute in the meantime: DDP sends the gradient in **buckets**
# of 25 MB, while `backward` goes on with the layers before. With many images for each GPU there is much to compute, and
# still only one gradient to send. So sending costs next to nothing where the line is fast and the shares are large, and
# nearly all of the time where it is slow and they are small. (The next section computes it.)
#
# Two processes on the two cores of a CPU can be **measured**: alternately, a few steps each, with the recipes'
# networks. (In brackets the lowest and the highest ratio. The laptop recipe's network then had a CLS token, 192
# parameters more.)
#
# {{table.scaling_cpu}}
#
# Against one process with *one* thread you see what a second core brings, when everything has to be shared: ×2 would be
# all of it, and the laptop recipe's network gets ×{{results.scaling_cpu.rows[what=laptop, 1 thread].ratio_median:.2f}}.
# Against one process with *two* threads you see whether processes or threads make more of two cores. Threads have no
# gradient to send, but they must split every single matrix, and small ones are hardly worth it. In the median,
# processes win by a little in all three networks; for the largest, one process was sometimes faster. The sum itself
# takes {{results.scaling_cpu.rows[what=laptop, 1 thread].all_reduce_ms:.1f}} ms of the laptop's step of
# {{results.scaling_cpu.rows[what=laptop, 1 thread].step_ms:.0f}}: between two cores of a CPU, sending is not what is in
# the way.

# %% claim="The fastest is several hundred times as fast as the slowest"
assert 200 < max(LINKS.values()) / min(LINKS.values()) < 900

# %% claim="For ViT-B/16 that is a millisecond in every step, or half a second"
assert 0.8 < sending["ViT-B/16"][0] < 1.7
assert 400 < sending["ViT-B/16"][-1] < 600

# %% claim="sending costs next to nothing where the line is fast and the shares are large"
from vit_tutorial.lessons.lesson_14.cluster import step_timeline

lost = []
for share, link in ((256, "NVLink (H100)"), (16, "10 Gbit")):
    seconds = 3 * flops(configs["ViT-B/16"]) * share / (0.4 * 989e12)
    step = step_timeline(seconds, 4 * parameters(configs["ViT-B/16"]), LINKS[link], 8)
    lost.append(step.lost)
assert lost[0] < 0.01
assert lost[1] > 0.95

# %% claim="In the median, processes win by a little in all three networks; for the largest, one process was sometimes faster"
import json

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "scaling_cpu.json"
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert all(
    1.04 < of[f"{n}, 2 threads"]["ratio_median"] < 1.3 for n in ("digits", "laptop", "classroom")
)
assert [of[f"{n}, 2 threads"]["ratio_low"] < 1 for n in ("digits", "laptop", "classroom")] == [
    False,
    False,
    True,
]

# %% claim="between two cores of a CPU, sending is not what is in the way"
import json

import vit_tutorial

stored = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "scaling_cpu.json"
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert of["laptop, 1 thread"]["all_reduce_ms"] < 0.03 * of["laptop, 1 thread"]["step_ms"]

# %% [markdown] deeper=true
# ## Send while you compute
#
# `backward` begins at the loss, so the gradient of the head is ready first and that of the patch projection last. DDP
# fills a bucket, and sends it while `backward` goes on.
#
# By hand: the forward pass takes 1 s, the backward pass 2 s, and four buckets are full after 1.5, 2, 2.5 and 3 s.
# There is one line, and buckets do not overtake each other.
#
# **Predict.** When does the step end if each bucket is 0.25 s under way? And if it is 1 s?


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
# The four buckets from above, of 25 bytes each: first at 100 bytes per second, then at 25. (Two processes send one
# gradient each, as the ring has shown.)

# %%
by_hand = [step_timeline(3.0, 100, speed, 2, bucket_bytes=25, latency=0) for speed in (100, 25)]
for step in by_hand:
    print(f"the step ends after {step.end:.2f} s, and waits for {step.lost:.0%} of it")

# %% claim="The four buckets from above"
assert [round(step.end, 6) for step in by_hand] == [3.25, 5.5]

# %% [markdown]
# To use it we need the seconds that a step computes. Lesson 06 counted the operations of a forward pass; the backward
# pass takes twice as many. The peak of a GPU stands in its data sheet, and a program gets a share of it. From the
# training speeds that timm publishes for an RTX 3090 (`benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv`) one computes
# 24% of its peak (71 million million a second) for ViT-Ti, 41% for ViT-S and 58% for ViT-B: **the wider, the better**.
# We assume 40% for ViT-B, and 10 to 25% for our small networks.
#
# **All that follows about GPUs is computed, not measured.** No number in this lesson was measured on a GPU of ours.

# %%
PEAK = {"T4": 65e12, "A100": 312e12, "H100": 989e12}  # operations per second, half precision, dense


def compute_seconds(config, images, gpu="H100", of_peak=0.4):
    """Seconds of one training step of one GPU, without any sending (computed)."""
    return 3 * flops(config) * images / (of_peak * PEAK[gpu])


steps = {}
for link, speed in LINKS.items():
    config = configs["ViT-B/16"]  # on 8 GPUs, with 256 images for each
    steps[link] = step_timeline(compute_seconds(config, 256), 4 * parameters(config), speed, 8)
drawn = {link: (step.forward, step.computed, step.sends) for link, step in steps.items()}
plots.step_timelines(drawn, limit=0.1)

# %% [markdown]
# ViT-B/16 on 8 H100, 256 images for each. The two fastest lines hide nearly all of the sending behind the backward
# pass. What sticks out are the last bucket or two, which are full when there is hardly anything left to compute. On the
# slowest line (the arrow: it goes on far beyond the picture) the GPUs wait most of the time. More images for each GPU
# mean more to compute, and as much to send.
#
# **Play.** Find, for each line, how many images a GPU needs until it waits for less than a tenth of the time (for some
# not even 256 are enough). Does it help to have fewer GPUs?

# %% claim="The two fastest lines hide nearly all of the sending behind the backward pass"
assert all(step.lost < 0.04 for step in list(steps.values())[:2])
assert min(len(step.sends) for step in steps.values()) > 10

# %% claim="What sticks out are the last bucket or two"
for step in list(steps.values())[:2]:
    assert step.sends[-3][1] < step.computed
    assert step.sends[-1][0] > step.computed - 1e-9

# %% claim="the GPUs wait most of the time"
assert steps["10 Gbit"].lost > 0.75

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

# %% claim="for some not even 256 are enough"
config = configs["ViT-B/16"]
for link in ("100 Gbit", "10 Gbit"):
    step = step_timeline(compute_seconds(config, 256), 4 * parameters(config), LINKS[link], 64)
    assert step.lost > 0.1

# %% [markdown]
# The same in one picture, and for our largest recipe: how much of a step is spent computing.

# %%
sizes, panels = [4, 16, 64, 256, 1024], {}
for name, of_peak in (("ViT-B/16", 0.4), ("flagship", 0.25)):
    config, busy = configs[name], {}
    compute = [compute_seconds(config, n, of_peak=of_peak) for n in sizes]
    for link, speed in LINKS.items():
        each = [step_timeline(c, 4 * parameters(config), speed, 8) for c in compute]
        busy[link] = np.array([[100 * (1 - step.lost) for step in each]])
    ticks = [str(n) for n in sizes]
    panels[f"{name} on 8 H100 (computed)"] = "images for each GPU", ticks, busy
plots.setting_curves(panels, "of a step spent computing, %")

# %% [markdown]
# All curves rise with the images, and the faster line is never behind. At equal images the small network waits for a
# larger share of its step: it has less to send, and still less to compute. On the fastest line most of its waiting is
# the delay of the rounds (20 µs each, assumed), not the bytes. And the time to start each operation is not in this
# picture. Both are reasons not to spread a small network over many machines.

# %% claim="All curves rise with the images, and the faster line is never behind"
curves = [[row[0] for row in busy.values()] for *_, busy in panels.values()]  # (2, lines, sizes)
assert (np.diff(curves, axis=2) > 0).all()
assert (np.diff(curves, axis=1) < 0).all()

# %% claim="At equal images the small network waits for a larger share of its step"
large_net, small_net = (np.array([row[0] for row in busy.values()]) for *_, busy in panels.values())
assert (small_net < large_net).all()

# %% claim="On the fastest line most of its waiting is the delay of the rounds"
config = configs["flagship"]
seconds, size = compute_seconds(config, 64, of_peak=0.25), 4 * parameters(config)
waits = [
    step_timeline(seconds, size, LINKS["NVLink (H100)"], 8, latency=delay) for delay in (LATENCY, 0)
]
waits = [step.end - step.computed for step in waits]
assert waits[1] < 0.35 * waits[0]

# %% [markdown]
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

# %% [markdown] deeper=true
# ## Two machines in one
#
# With `FULL = True` the next cell tries the third form here: two `torchrun` that find each other, one process each,
# and then the same run once more from one process.

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
# in fewer steps, each must be longer. Two rules are common. For k times the batch:
#
# - the **linear rule** (Goyal et al. 2017, arXiv 1706.02677): k times the rate. It was derived for plain gradient
#   descent.
# - the **root rule** (Malladi et al. 2022, arXiv 2205.10287): √k times the rate. It was derived for Adam. (The whole
#   rule also changes Adam's two averages and its ε; we take the rate alone, as most do.)
#
# Now try them: the small network of lesson 07, 1024 of the digits, eight epochs, AdamW. At B = 32 the rate is 0.002.
# Then B = 512, 16 times as much, with a sixteenth of the steps: with this rate, with 4 times and with 16 times it.
#
# **Predict.** Which rule comes nearest to what B = 32 reached? And is near enough?

# %%
from dataclasses import replace

from vit_tutorial import TrainConfig, fit

small = ViTConfig(
    img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4, pool="mean"
)
base = TrainConfig(epochs=8, lr=2e-3, warmup=0.2, label_smoothing=0.0, precision="float32")
first_look = {}
for batch, rule, rate in (
    (32, "base", 0.002), (512, "kept", 0.002), (512, "root", 0.008), (512, "linear", 0.032)
):  # fmt: skip
    torch.manual_seed(0)
    model = VisionTransformer(small)
    rows = fit(model, train[:1024], test, replace(base, batch_size=batch, lr=rate))
    first_look[rule] = rows[-1]["test_accuracy"]
    print(f"B = {batch:3}, {rule:6}: {8 * 1024 // batch:3} steps, test {first_look[rule]:.1f}%")

# %% [markdown]
# With the rate kept it is far behind, and with both rules nearer, but not there. That is one seed and 360 test images,
# a first look. Here is the same with five seeds (the mean and its 95% interval), a third batch, without and with
# warm-up over a fifth of the steps, and two other optimizers. *SGD* has a momentum of 0.9, and like AdamW it clips
# gradients longer than 1; its rate and AdamW's for B = 32 are the best of five that were tried. *Plain descent* has no
# momentum and clips nothing, as the linear rule assumes. It begins with a sixteenth of its best rate, so that the rule
# ends at a rate which is known to work.
#
# {{table.batch_size_digits}}
#
# Look at the last column first.
#
# - **Plain descent from a low rate: the linear rule keeps what it promises.** Batches of 32 come to
#   {{results.batch_size_digits.rows[what=plain descent, 32, kept].accuracy_warm:.1f}}%, batches of 512 to
#   {{results.batch_size_digits.rows[what=plain descent, 512, linear].accuracy_warm:.1f}}%. The root rule falls behind
#   ({{results.batch_size_digits.rows[what=plain descent, 512, root].accuracy_warm:.1f}}%).
# - **From the best rates, no rule brings 512 to where 32 is.** 16 steps do not do the work of 256 here.
# - **SGD from its best rate: at 512 the linear rule ends in guessing.** A rate of
#   {{results.batch_size_digits.rows[what=SGD, 512, linear].lr:g}} is too high, with a warm-up over half of all steps, too
#   ({{results.batch_size_digits.rows[what=SGD, 512, linear].accuracy_long:.1f}}%). A larger batch makes the gradient less
#   noisy; it does not make every rate safe. The root rule goes up to
#   {{results.batch_size_digits.rows[what=SGD, 512, root].lr:g}} and still trains, to
#   {{results.batch_size_digits.rows[what=SGD, 512, root].accuracy_warm:.1f}}%; the rate kept comes to
#   {{results.batch_size_digits.rows[what=SGD, 512, kept].accuracy_warm:.1f}}%, and the intervals overlap.
# - **AdamW: any scaling is far better than none** ({{results.batch_size_digits.rows[what=AdamW, 512, kept].accuracy_warm:.1f}}%
#   with the rate kept, {{results.batch_size_digits.rows[what=AdamW, 512, root].accuracy_warm:.1f}}% root,
#   {{results.batch_size_digits.rows[what=AdamW, 512, linear].accuracy_warm:.1f}}% linear). With warm-up these seeds do not
#   tell root and linear apart at 512; without it, and at 128, linear has the lower loss, though it was not made for Adam.
# - **Warm-up changes little.** Seed by seed it lowers the loss by up to 0.05 in 10 of the 21 rows, and raises it in
#   none; at the highest rate, where it is meant to help, five seeds show nothing.
#
# In the papers the rules are tried over thousands of steps. A rule tells where to begin to search, not where to end.

# %% claim="With the rate kept it is far behind, and with both rules nearer, but not there"
assert first_look["kept"] < first_look["base"] - 15
assert first_look["kept"] + 5 < first_look["root"] < first_look["base"] - 8
assert first_look["kept"] + 5 < first_look["linear"] < first_look["base"] - 8

# %% claim="the linear rule keeps what it promises"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
for batch in (128, 512):
    row = of[f"plain descent, {batch}, linear"]
    assert abs(row["accuracy_warm"] - of["plain descent, 32, kept"]["accuracy_warm"]) < 1.5
    assert abs(row["loss_warm"] - of["plain descent, 32, kept"]["loss_warm"]) < 0.03

# %% claim="The root rule falls behind"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
root, linear = of["plain descent, 512, root"], of["plain descent, 512, linear"]
assert root["accuracy_warm_high"] < linear["accuracy_warm_low"]

# %% claim="its rate and AdamW's for B = 32 are the best of five that were tried"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert of["SGD, 32, kept"]["lr"] == 0.4
assert of["AdamW, 32, kept"]["lr"] == base.lr

# %% claim="From the best rates, no rule brings 512 to where 32 is"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
for optimizer in ("SGD", "AdamW"):
    for rule in ("kept", "root", "linear"):
        for start in ("cold", "warm", "long"):
            high = of[f"{optimizer}, 512, {rule}"][f"accuracy_{start}_high"]
            assert high < of[f"{optimizer}, 32, kept"][f"accuracy_{start}_low"]

# %% claim="at 512 the linear rule ends in guessing"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
row = of["SGD, 512, linear"]
assert all(row[f"accuracy_{start}_high"] < 25 for start in ("cold", "warm", "long"))

# %% claim="and still trains, to"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert of["SGD, 512, root"]["accuracy_warm_low"] > 70

# %% claim="and the intervals overlap."
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert of["SGD, 512, root"]["accuracy_warm_low"] < of["SGD, 512, kept"]["accuracy_warm_high"]

# %% claim="any scaling is far better than none"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
for rule in ("root", "linear"):
    low = of[f"AdamW, 512, {rule}"]["accuracy_warm_low"]
    assert low > of["AdamW, 512, kept"]["accuracy_warm_high"] + 5

# %% claim="With warm-up these seeds do not tell root and linear apart at 512; without it, and at 128, linear has"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
root, linear = (of[f"AdamW, 512, {rule}"] for rule in ("root", "linear"))
assert root["accuracy_warm_low"] < linear["accuracy_warm_high"]
assert linear["loss_warm_high"] > root["loss_warm_low"]
assert linear["loss_cold_high"] < root["loss_cold_low"]
root, linear = (of[f"AdamW, 128, {rule}"] for rule in ("root", "linear"))
assert linear["loss_warm_high"] < root["loss_warm_low"]

# %% claim="Seed by seed it lowers the loss by up to 0.05 in 10 of the 21 rows, and raises it in none"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
assert len(of) == 21
lower = [row["change_warm"] for row in of.values() if row["change_warm_high"] < 0]
assert len(lower) == 10
assert round(min(lower), 2) == -0.05
assert not any(row["change_warm_low"] > 0 for row in of.values())

# %% claim="at the highest rate, where it is meant to help, five seeds show nothing"
import json

import vit_tutorial

stored = (
    Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results" / "batch_size_digits.json"
)
of = {row["what"]: row for row in json.loads(stored.read_text())["rows"]}
for optimizer in ("plain descent", "SGD", "AdamW"):
    row = of[f"{optimizer}, 512, linear"]
    assert row["change_warm_low"] < 0 < row["change_warm_high"]

# %% [markdown] deeper=true
# ## Why linear, why the root
#
# Plain gradient descent first. Two steps of rate r on batches a and b go −r·(gradient of a) − r·(gradient of b). One
# step of rate 2r on both together goes −2r · (their mean), which is *the same*, as long as the gradient has not
# changed in between. That is the linear rule. For how many steps does "has not changed" hold, for a network that has
# just begun?


# %%
def descended(model, batches, rate):
    """The way that plain gradient descent goes, one step for each batch: one row."""
    model = copy.deepcopy(model)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    for batch in batches:
        after = nn.utils.parameters_to_vector(model.parameters()) - rate * gradient(model, *batch)
        nn.utils.vector_to_parameters(after.detach(), model.parameters())
    return nn.utils.parameters_to_vector(model.parameters()).detach() - before


# %%
apart = {}
for k in (2, 4):
    batches = list(zip(images[: 16 * k].split(16), labels[: 16 * k].split(16), strict=True))
    one_batch = [(images[: 16 * k], labels[: 16 * k])]
    for rate in (0.001, 0.01):
        steps_of_16, one_step = (
            descended(vit, *way) for way in ((batches, rate), (one_batch, k * rate))
        )
        apart[k, rate] = error(one_step, steps_of_16)
        print(f"{k} steps of rate {rate}, and one of {k * rate}: {apart[k, rate]:.0f}% apart")

# %% [markdown]
# About a tenth at most for the lower rate, nearly half of the way or more for the higher one. A rule for the learning
# rate is an approximation, and it is worst at the beginning, where the gradient changes fastest. That is why it comes
# with a **warm-up**: begin with the rate that is known to be safe, and rise to the scaled one. (Ways that part at the
# beginning may still lead to the same place: plain descent in the table above does, at far higher rates.)
#
# Now Adam. It divides the gradient by its own root mean square, and in a small batch that is mostly noise. Four times
# the images: how much less noise?

# %% claim="About a tenth at most for the lower rate, nearly half of the way or more for the higher one"
assert max(apart[2, 0.001], apart[4, 0.001]) < 15
assert apart[2, 0.01] > 25
assert apart[4, 0.01] > 50

# %%
torch.manual_seed(0)
length, noise = gradient(vit, train_images[:600], train.labels[:600]).norm().item(), {}
for size in (8, 32, 128):
    chosen = torch.randint(600, (12, size))  # twelve batches
    rows = torch.stack([gradient(vit, train_images[b], train.labels[b]) for b in chosen])
    noise[size] = rows.std(dim=0).norm().item()
    print(f"batches of {size:3}: noise {noise[size]:.2f}, gradient of 600 images {length:.2f}")

# %% [markdown]
# About a half each time: noise falls with the root of the batch. Where noise rules, Adam therefore makes steps that are
# twice as long *in the direction of the mean* as soon as the batch is four times as large, without being told. The
# other factor of two is left for the rate. That is the root rule.
#
# Our recipes for a GPU, classroom and flagship, use AdamW. Those for a CPU use Muon for the matrices in the blocks; its
# steps have the same size however long the gradient is, and neither derivation is about it.

# %% claim="About a half each time: noise falls with the root of the batch"
assert 0.38 < noise[32] / noise[8] < 0.65
assert 0.38 < noise[128] / noise[32] < 0.65
assert noise[32] > length

# %% claim="Our recipes for a GPU, classroom and flagship, use AdamW. Those for a CPU use Muon"
used = {name: RECIPES[name].train.optimizer for name in RECIPES if name != "smoke"}
assert [used[name] for name in ("classroom", "flagship")] == ["adamw", "adamw"]
assert [used[name] for name in ("digits", "laptop", "overnight")] == ["muon"] * 3


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
# ## What must fit
#
# So far every process had the whole network. What does that take? Four things: weights, gradients, what the optimizer
# remembers (AdamW: two numbers for each weight), and what the forward pass keeps for the backward pass, the
# **activations**. The first three do not depend on the batch; activations grow with it.
#
# **Predict.** The laptop recipe's network, a batch of 128: which of the four is the largest, and by how much?


# %%
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
laptop = VisionTransformer(configs["laptop"])
laptop(torch.randn(2, 3, 32, 32)).sum().backward()
optimizer = torch.optim.AdamW(laptop.parameters())
optimizer.step()
held = {"weights": list(laptop.parameters()), "gradients": [p.grad for p in laptop.parameters()]}
held["AdamW"] = [t for state in optimizer.state.values() for t in state.values()]
megabytes = {name: sum(t.nbytes for t in tensors) / 1e6 for name, tensors in held.items()}
batch = torch.randn(128, 3, 32, 32)
megabytes["activations"] = kept_bytes(laptop, batch) / 1e6
for name, size in megabytes.items():
    print(f"{name:12} {size:7.1f} MB")

# %%
with torch.autocast("cpu", torch.bfloat16):
    half = kept_bytes(laptop, batch) / 1e6
print(f"activations in half precision {half:.1f} MB")

# %% [markdown]
# Activations, by far: more than thirty times all the rest. The few weights of a small network are used for many tokens,
# and every use leaves something behind. There are three ways to have less of them:
#
# - fewer images at a time (exercise 14.2): half the images, half the activations,
# - half precision, which takes about half,
# - **activation checkpointing** (Chen et al. 2016, arXiv 1604.06174): keep only what enters each block. When the
#   backward pass comes to a block, compute its forward pass again. PyTorch has it ready made:

# %% claim="Activations, by far: more than thirty times all the rest"
rest = sum(size for name, size in megabytes.items() if name != "activations")
assert megabytes["activations"] > 30 * rest

# %% claim="half the images, half the activations"
assert abs(kept_bytes(laptop, batch[:64].clone()) / 1e6 / megabytes["activations"] - 0.5) < 0.02

# %% claim="half precision, which takes about half"
assert 0.4 < half / megabytes["activations"] < 0.65

# %%
from functools import partial

from torch.utils.checkpoint import checkpoint

checkpointed = copy.deepcopy(laptop)
for block in checkpointed.blocks:
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def block_bytes(model, images):
    """Bytes of one block that is computed again; what enters it has been kept."""
    tokens = model.embed(images).detach().requires_grad_()
    return kept_bytes(model.blocks[0], tokens) - tokens.nbytes


# %%
kept, again = kept_bytes(checkpointed, batch) / 1e6, block_bytes(laptop, batch) / 1e6
print(f"kept {kept:.1f} MB, a block again {again:.1f} MB, together {kept + again:.1f} MB")

# %%
answers = torch.randint(10, (128,))
off = error(gradient(checkpointed, batch, answers), gradient(laptop, batch, answers))
print(f"the gradient differs by {off:.0e} %")

# %% [markdown]
# About a third of the memory here, and the same gradient: what is kept falls to a ninth, and one block's activations
# come on top while it is computed again. The deeper the network, the more it saves. The price is a second forward pass
# through every block: where a step was one forward pass and a backward pass that takes twice as long, it is now four
# parts instead of three.
#
# The optimizer can remember less, too. Muon keeps one number for each weight of its matrices:

# %% claim="About a third of the memory here, and the same gradient: what is kept falls to a ninth"
assert 2.4 < megabytes["activations"] / (kept + again) < 3.3
assert 7.5 < megabytes["activations"] / kept < 10.5
assert off < 1e-2

# %% claim="The deeper the network, the more it saves."
saved = []
for depth in (2, 8):
    deep = VisionTransformer(replace(laptop.config, depth=depth))
    plain, block = kept_bytes(deep, batch[:8].clone()), block_bytes(deep, batch[:8].clone())
    for each_block in deep.blocks:
        each_block.forward = partial(checkpoint, each_block.forward, use_reentrant=False)
    saved.append(plain / (kept_bytes(deep, batch[:8].clone()) + block))
assert saved[1] > 1.5 * saved[0]

# %% claim="The price is a second forward pass through every block"
passes = {}
for name, network in {"once": laptop, "again": checkpointed}.items():
    calls = []
    hooks = [
        block.attn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        for block in network.blocks
    ]
    gradient(network, batch[:4], answers[:4])
    passes[name] = len(calls)
    [hook.remove() for hook in hooks]
assert passes["once"] == len(laptop.blocks)
assert passes["again"] == 2 * len(laptop.blocks)

# %%
from vit_tutorial.optimizers import make_optimizers

remembered = {}
for name in ("adamw", "muon"):
    optimizers = make_optimizers(laptop, TrainConfig(epochs=1, optimizer=name))
    for optimizer in optimizers:
        optimizer.step()
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    remembered[name] = sum(t.nbytes for state in states for t in state.values()) / 1e6
    print(f"{name:6} remembers {remembered[name]:.1f} MB")

# %% [markdown]
# About half as much as AdamW. There is an Adam whose two numbers take one byte each (Dettmers et al. 2021, arXiv
# 2110.02861), and Adafactor remembers a row and a column instead of a matrix (Shazeer & Stern 2018, arXiv 1804.04235).
# With AdamW in float32, weights, gradients and what it remembers are 16 bytes for each parameter.

# %% claim="About half as much as AdamW"
assert 0.45 < remembered["muon"] / remembered["adamw"] < 0.6

# %% claim="With AdamW in float32, weights, gradients and what it remembers are 16 bytes for each parameter"
rest = sum(size for name, size in megabytes.items() if name != "activations")
assert abs(1e6 * rest / parameters(laptop.config) - 16) < 0.1

# %% [markdown]
# ## Will yours fit?
#
# A network, a batch and a number of processes of yours. What each process must have, and what it sends in a step:

# %%
MY_NETWORK = RECIPES["flagship"].model  # or ViTConfig(img_size=224, patch_size=16, ...)
MY_BATCH, MY_PROCESSES = 512, 8

network = VisionTransformer(MY_NETWORK)
two_images = torch.randn(2, MY_NETWORK.in_chans, *MY_NETWORK.image_hw)
each, count = MY_BATCH / MY_PROCESSES, sum(p.numel() for p in network.parameters())
need = {"weights, gradients, AdamW": 16 * count}
need["activations"] = kept_bytes(network, two_images) / 2 * each
again = block_bytes(network, two_images) / 2 * each
for block in network.blocks:
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)
need["activations, checkpointed"] = kept_bytes(network, two_images) / 2 * each + again
need["sent in a step"] = 4 * count * 2 * (MY_PROCESSES - 1) / MY_PROCESSES
for what, size in need.items():
    print(f"{what:26} {size / 1e9:6.2f} GB")

# %% [markdown]
# For 64 images of the flagship on each of 8 GPUs, activations are the most, about a gigabyte; checkpointed they are
# no more than the rest. All in float32; what the libraries need for themselves comes on top. If it does not fit,
# take these steps in this order: half precision, smaller shares with accumulation, checkpointing. Then the next
# section.

# %% claim="activations are the most, about a gigabyte; checkpointed they are no more than the rest"
assert 0.85e9 < need["activations"] < 1.15e9
assert need["activations"] > 3 * need["weights, gradients, AdamW"]
assert need["activations, checkpointed"] < 0.95 * need["weights, gradients, AdamW"]

# %% [markdown] deeper=true
# ## When it does not fit
#
# Larger networks, with 16 images each. Blocks are alike, so that a network with one block and one with two tell us
# about all of them. (Float32, no checkpointing.)


# %%
def activation_bytes(config):
    """Bytes kept for one image: from networks of one and of two blocks (computed)."""
    few = [replace(config, depth=depth) for depth in (1, 2)]
    image = torch.randn(1, config.in_chans, *config.image_hw)
    one, two = (kept_bytes(VisionTransformer(each), image) for each in few)
    return one + (config.depth - 1) * (two - one)


large = {name: configs[name] for name in ("flagship", "ViT-B/16", "ViT-L/16")}
gigabytes = {
    name: (16 * parameters(config) / 1e9, 16 * activation_bytes(config) / 1e9)
    for name, config in large.items()
}
for name, (fixed, activations) in gigabytes.items():
    print(
        f"{name:10} {fixed:5.2f} GB for weights, gradients, AdamW; {activations:5.2f} for 16 images"
    )

# %% [markdown]
# The larger the network, the more the fixed part weighs: for ViT-L it is as large as the activations of 16 images.
# When that is too much for one GPU, the copies are the waste: G processes keep G times the same weights. Beyond data
# parallelism there are other ways to cut:
#
# | way | what each of G GPUs has | what it sends in a step |
# |---|---|---|
# | data parallelism (DDP) | everything, and a share of the batch | 2 gradients' worth |
# | ZeRO 1 | a G-th of the optimizer's memory | the same |
# | ZeRO 2 | and a G-th of the gradients | the same |
# | ZeRO 3, FSDP | and a G-th of the weights | 3 gradients' worth: weights are fetched for forward and for backward |
# | tensor parallelism | a part of every matrix, so of weights *and* activations | activations, several times in every block |
# | pipeline parallelism | some of the blocks | activations, between the parts |
#
# (ZeRO: Rajbhandari et al. 2019, arXiv 1910.02054; each as large G makes it.) ZeRO is still data parallelism: each
# GPU computes the whole network for its own images, and fetches from the others what it has not kept. In numbers,
# what weights, gradients and AdamW take on each of 8 GPUs:

# %% claim="The larger the network, the more the fixed part weighs: for ViT-L it is as large as"
ratios = [fixed / activations for fixed, activations in gigabytes.values()]
assert ratios == sorted(ratios)
assert 0.8 < ratios[-1] < 1.2

# %%
G, large["ViT-H/14"], each_has = 8, configs["ViT-H/14"], {}
print(f"{'GB, computed':12}   DDP  ZeRO 1  ZeRO 2  ZeRO 3")
for name, config in large.items():
    n = 4 * parameters(config) / 1e9
    each_has[name] = ways = (4 * n, 2 * n + 2 * n / G, n + 3 * n / G, 4 * n / G)
    print(f"{name:12} {ways[0]:5.2f} {ways[1]:7.2f} {ways[2]:7.2f} {ways[3]:7.2f}")

# %% [markdown]
# ZeRO 3 leaves an eighth. But for every network of this course, and for ViT-B, the first column is below 2 GB, small
# enough for any GPU of today. Take the simplest way that fits.

# %% claim="ZeRO 3 leaves an eighth"
assert all(abs(ways[3] * 8 - ways[0]) < 1e-9 for ways in each_has.values())

# %% claim="the first column is below 2 GB"
assert max(each_has["flagship"][0], each_has["ViT-B/16"][0]) < 2

# %% [markdown] deeper=true
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
# recipe's batch, and lose what the timeline says for NVLink. (As if every step saw all patches; the laptop recipe leaves
# half of them out in most of its steps; it is computed for 12 epochs, the whole recipe, and was
# measured for {{results.accuracy_laptop.rows[0].epochs}}.)
#
# **Predict.** The flagship recipe shows 50,000 images 400 times. How long would one core of this computer need? And
# are eight GPUs eight times as fast as one?


# %%
def as_time(seconds):
    return f"{seconds:.2g} s" if seconds < 99 else f"{seconds / 60:.0f} min"


training = {}  # (recipe, GPU, how many): seconds at 25% and at 10% of the peak
for name in ("laptop", "classroom", "flagship"):
    recipe = RECIPES[name]
    n, batch_size = 50_000 * recipe.train.epochs, recipe.train.batch_size
    line = 4 * parameters(recipe.model), LINKS["NVLink (H100)"]
    for gpu, count in (("T4", 1), ("A100", 1), ("H100", 1), ("H100", 8)):
        each = [
            compute_seconds(recipe.model, batch_size / count, gpu, part) for part in (0.25, 0.1)
        ]
        ends = [n / batch_size * step_timeline(seconds, *line, count).end for seconds in each]
        training[name, gpu, count] = ends
        low, high = map(as_time, ends)
        print(f"{name:10} {count} {gpu:5} {low:>7} to {high:>7}   computed")

# %%
import time

begin = time.perf_counter()
for _ in range(3):
    F.cross_entropy(laptop(batch), answers).backward()
speed = 3 * len(batch) * 3 * flops(laptop.config) / (time.perf_counter() - begin)
print(f"one core of this computer: {speed / 1e9:.0f} billion operations a second (measured)")

# %%
flagship = RECIPES["flagship"]
days = 3 * flops(flagship.model) * 50_000 * flagship.train.epochs / speed / 86_400
print(f"the flagship on it: {days:.0f} days (computed)")

# %% [markdown]
# Weeks to months on one core, minutes to hours on one GPU. Eight GPUs are not eight times as fast, and the smaller the
# network, the less they bring. For the laptop recipe eight are *slower* than one: 16 images are computed in far less
# time than the 14 rounds of the ring take, however little they carry. The two others have a batch of 512, which leaves
# 64 images for each, and a step of half a millisecond to three. Then the time to *start* each operation counts, and
# nothing of that is in the computation. So the time with eight GPUs is a lower bound until it has been measured; and
# eight GPUs for a minute cost what one costs for eight. Prices change by the month: multiply the GPU time by yours.

# %% claim="Weeks to months on one core, minutes to hours on one GPU"
assert 7 < days < 400
assert min(training["flagship", gpu, 1][0] for gpu in PEAK) > 120
assert 1800 < max(training["flagship", gpu, 1][1] for gpu in PEAK) < 6 * 3600

# %% claim="Eight GPUs are not eight times as fast, and the smaller the network, the less they bring"
names = ("laptop", "classroom", "flagship")
gains = [training[name, "H100", 1][0] / training[name, "H100", 8][0] for name in names]
assert gains == sorted(gains)
assert gains[-1] < 7

# %% claim="For the laptop recipe eight are *slower* than one"
assert training["laptop", "H100", 8][0] > 1.5 * training["laptop", "H100", 1][1]

# %% claim="16 images are computed in far less time than the 14 rounds of the ring take"
assert compute_seconds(configs["laptop"], 16, of_peak=0.1) < 0.2 * 14 * LATENCY

# %% claim="a step of half a millisecond to three"
milliseconds = [
    1e3 * end * RECIPES[name].train.batch_size / (50_000 * RECIPES[name].train.epochs)
    for name in ("classroom", "flagship")
    for end in training[name, "H100", 8]
]
assert 0.4 < min(milliseconds) < 0.75
assert 2.5 < max(milliseconds) < 3.2

# %% [markdown]
# ## What we now have
#
# | what | shape |
# |---|---|
# | a batch, of all processes together | (B, C, H, W) |
# | the share of one of G processes | (B / G, C, H, W) |
# | its gradient, and the mean of all | (parameters,), 4 bytes each |
# | what the ring sends, for each process | 2·(G − 1)/G gradients, in 2·(G − 1) rounds |
# | a bucket | 25 MB of the gradient, from the last layer to the first |
# | weights, gradients and AdamW | 16 bytes for each parameter |
# | activations | grow with the share; with checkpointing a fraction, for a second forward pass |
#
# One step: each process forward and backward on its share; buckets travel while `backward` goes on; the mean is
# clipped; every process makes the same step.

# %% [markdown] deeper=true
# ## The questions people ask
#
# **"Are the weights of all processes equal to the last bit?"** Yes, among each other: all get the same sum. With
# *one* process they agree up to rounding, because it adds in another order, and floats mind the order:

# %%
a, b, c = torch.tensor([1e8, -1e8, 1.0])
print("(a + b) + c =", ((a + b) + c).item(), "   a + (b + c) =", (a + (b + c)).item())

# %% claim="floats mind the order"
assert ((a + b) + c).item() != (a + (b + c)).item()

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

# %% claim="makes shares equal by taking some images twice"
assert len({len(share) for share in taken}) == 1
assert sum(map(len, taken)) > 10
assert sorted(number for share in ours for number in share) == list(range(10))

# %% [markdown]
# **"One of my GPUs is slower than the others. Does it matter?"** All wait for the last one, in every step. Even if
# all are equal on average, and each step varies by 5%:

# %%
slowest = {}
for processes in (1, 8, 64, 512):
    seconds = 1 + 0.05 * torch.randn(1000, processes)
    slowest[processes] = seconds.amax(dim=1).mean().item()
    print(f"{processes:3} processes: a step takes {slowest[processes]:.3f} s on average")

# %%
in_16_bits = error(whole.bfloat16().double(), whole)
print(f"a gradient in 16 bits is {in_16_bits:.2f}% off")

# %% [markdown]
# Eight lose 7% by it, 512 lose 15%.
#
# **"Can I send less?"** Gradients can travel in 16 bits (PyTorch has a hook for it, `bf16_compress_hook`): half the
# bytes, and in our gradient an error of less than a fifth of a percent (above). Or send less often: accumulate four
# shares in each process before the sum is made (DDP's `no_sync`), with four times the batch.

# %% claim="Eight lose 7% by it, 512 lose 15%"
assert abs(slowest[8] - 1.07) < 0.008
assert abs(slowest[512] - 1.15) < 0.01

# %% claim="in our gradient an error of less than a fifth of a percent"
assert 0.1 < in_16_bits < 0.2

# %% [markdown]
# **"With 8 GPUs, why am I not 8 times as fast?"** What is not shared does not become faster: reading data, measuring,
# saving, starting. If a share s of the time is such, G processes make it 1 / (s + (1 − s)/G) times as fast (Amdahl
# 1967):

# %%
amdahl = {s: [1 / (s + (1 - s) / processes) for processes in (2, 8, 64)] for s in (0.01, 0.05, 0.2)}
for s, times in amdahl.items():
    print(f"{s:4.0%} not shared: 2, 8 and 64 GPUs are", *(f"×{times_:.1f}" for times_ in times))

# %% [markdown]
# With a twentieth not shared, eight make it six times as fast.
#
# **"What is `nn.DataParallel`?"** The older way: one process with a thread for each GPU, which copies the network to
# all of them in every step and adds up on the first one. PyTorch's own documentation recommends DDP instead, on one
# machine too.

# %% claim="With a twentieth not shared, eight make it six times as fast"
assert abs(amdahl[0.05][1] - 6) < 0.2

# %% claim="PyTorch's own documentation recommends DDP instead, on one machine too"
text = " ".join((nn.DataParallel.__doc__ or "").split())
assert "recommended to use :class:`~torch.nn.parallel.DistributedDataParallel`" in text
assert "single node" in text

# %% [markdown] deeper=true
# ## A stretch
#
# - Write the first script so that each process sends its own, hand-made ring: `dist.send` and `dist.recv`, chunk by
#   chunk, against `dist.all_reduce`. (Who must send first, so that nobody waits for ever?)
# - Change `TRAINING` so that it has `crop_padding=1`. Are the weights of two processes still those of one? Those of
#   two runs of two processes?
# - Take the bucket size in `step_timeline` from 1 MB to 400 MB, for ViT-B on PCIe. Where is the best place, and why
#   is neither end good?
# - You have two computers in one network? Install the course on both, and give them the third command above with
#   `--nproc-per-node 1` (a CPU each) and `--recipe digits`.
# - In `benchmarks/batch_size.py` start plain descent from its best rate, 1.6. What becomes of the linear rule, and of
#   the root?
# - Run `benchmarks/scaling.py` and `benchmarks/batch_size.py` on your machine, and compare with the tables.
