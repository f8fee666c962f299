# %% [markdown]
# # 07 · Training
#
# **How does a network learn, and how do you notice early that it does not?**
#
# The network of lesson 06 is right, and it knows nothing. This lesson teaches it. The loop that does so is
# short. Most of the work is around it: feeding it honestly, and seeing from a curve what is wrong before a
# night of computing is lost.
#
# **You will**
#
# - overfit one batch first, and learn what that proves and what it does not,
# - split and normalise data so that nothing leaks, and change images so that their labels stay true,
# - write the parts of a training: the step, the soft targets, CutMix, the learning rate, the groups, the measuring,
# - read the package's loop whole, and prove that it does what a plain loop does,
# - find a learning rate, train a network, and read its mistakes,
# - diagnose five sick trainings from their curves.

# %% [markdown]
# ## Before anything else: one batch
#
# A small network for small images: the digits have 8×8 pixels, and four patches of 4×4. It trains in a few
# seconds, so that you can try things. Everything below works the same for a large one.

# %%
import copy
import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from vit_tutorial import VisionTransformer, ViTConfig, normalize, plots
from vit_tutorial.data import channel_stats, digits

torch.set_num_threads(1)  # so small a network runs fastest on one processor core

# %%
small = ViTConfig(
    img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4, pool="mean"
)


def fresh(seed=0):
    """A small network that has learned nothing yet."""
    torch.manual_seed(seed)
    return VisionTransformer(small)


train, test = digits("train"), digits("test")
mean, std = channel_stats(train.images)
images, labels = normalize(train.images[:16], mean, std), train.labels[:16]  # one small batch

# %% [markdown]
# **Predict.** The network knows nothing, and there are ten classes. What is its loss? (Lesson 06 had the answer.)

# %%
model = fresh()
logits = model(images)  # (16, 10)
loss = F.cross_entropy(logits, labels)
print(f"loss {loss.item():.3f}, ln 10 = {math.log(10):.3f}")

# %% [markdown]
# A loss that starts at ln C is the first thing to look for, and it costs one line. Now to the smallest piece of
# learning, by hand. The head has a bias for each class. How does the loss change if the bias of a class
# grows a little? For one image, cross-entropy has a simple derivative: the share that the class got from the
# softmax, minus 1 for the right class and minus 0 for the others.
#
# **Predict.** For the first image, which of the ten numbers is negative, and how large is it?

# %%
shares = logits[0].softmax(dim=0)  # p, (10,)
by_hand = shares - F.one_hot(labels[0], 10)
print("right class:", labels[0].item())
print("by hand:  ", [round(number, 3) for number in by_hand.tolist()])
F.cross_entropy(logits[:1], labels[:1]).backward(retain_graph=True)
print("autograd: ", [round(number, 3) for number in model.head.bias.grad.tolist()])

# %% [markdown]
# The step goes *against* the gradient: new bias = old bias − rate × gradient. So the bias of the right class rises by
# about 0.9 × rate, and the others fall by about a ninth of that each. That is all of learning, once for every parameter.
#
# `backward` *adds* to what is in the gradients already. **Predict.** We call it a second time. What will the
# gradient be?

# %%
F.cross_entropy(logits[:1], labels[:1]).backward(retain_graph=True)
print("once more:", [round(number, 3) for number in model.head.bias.grad.tolist()])

# %% [markdown]
# Twice as large. So gradients must be cleared before each step. And they are shortened where they are too long: one strange batch
# must not throw the network far away. All gradients together are seen as one vector; if its norm is above
# `clip_norm`, all are multiplied by the same number, so that the norm becomes `clip_norm`.


# %% exercise="07.1"
def my_train_step(model, optimizer, images, labels, clip_norm):
    """Take one training step, with old gradients cleared and new ones shortened.

    images: (B, C, H, W), normalised. labels: (B,). The loss is cross-entropy, a mean over the batch.
    The model may hold gradients that are left from something else.
    Returns the loss that the step was made from, a plain number.
    """
    ### BEGIN SOLUTION
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.item()
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("07.1", my_train_step)
# hint("07.1")  # take away the # in front for a hint; run again for the next one

# %% [markdown] solved_only=true
# **Why.** `zero_grad` may stand anywhere before `backward`. Clipping must come between `backward`, which makes the
# gradients, and `step`, which uses them. `.item()` gives the number without its history.
#
# **The common wrong answer** forgets `zero_grad`. Nothing complains: it trains, as if with a momentum that
# never fades. The other one keeps `loss` itself in a list, and with it the whole graph of every step, until the
# memory is full.

# %% [markdown]
# Now do it again and again, on the same 16 images. **Predict.** Can a network with random weights learn 16 images
# by heart? In how many steps?


# %%
def learn_by_heart(model, images, labels, steps=60, optimizer=None):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
losses = learn_by_heart(fresh(), images, labels)
for step in (0, 5, 10, 20, 40, 59):
    print(f"step {step:2}: loss {losses[step]:.4f}")

# %% [markdown]
# It must be able to: it has thousands of parameters for 16 answers. That makes this a test. **If a network cannot
# learn one batch by heart, something is broken, and no amount of data will repair it.** It takes seconds. So it
# comes first, always, before the first real training.
#
# Here are four faults. **Predict.** Which of them will the test find?

# %%
other = fresh(seed=1)
runs = {
    "a healthy one": losses,
    "a softmax before the loss": learn_by_heart(
        nn.Sequential(fresh(), nn.Softmax(dim=1)), images, labels
    ),
    "all images are black": learn_by_heart(fresh(), torch.zeros_like(images), labels),
    "another network's optimizer": learn_by_heart(
        fresh(), images, labels, optimizer=torch.optim.AdamW(other.parameters())
    ),
    "labels of other images": learn_by_heart(fresh(), images, labels.roll(1)),
}
curves = {name: np.array([losses]) for name, losses in runs.items()}
plots.run_curves(range(60), curves, "step", "loss on the batch")

# %% [markdown]
# Three of the four do not come down to 0: a softmax too many (the floor of lesson 06), images that never arrive, an
# optimizer that was made for another network (for example before it was copied). The fourth comes down as well
# as the healthy one. By heart, false labels are learned like true ones. **The test finds what is broken in the
# network and in the step. It does not ask whether what is learned is true.** That depends on the data, and they need a
# contract of their own.
#
# ## The data contract
#
# Three promises, broken more often than any line of the network:
#
# 1. **Split.** What is measured on was never trained on, and never had a say in any choice. Choices (a rate, a
#    recipe, the best epoch) are made on a part held out of the training set, the *validation* set. The test set
#    is for the end.
# 2. **Normalise.** Mean and standard deviation of each channel are measured on the training set, over all its
#    pixels, and then applied to everything.
# 3. **Augment** (see below) the training images only.
#
# **Predict.** A common mistake takes the standard deviation of every image, and then the mean of these. Take two images, one all
# 0.2 and one all 0.8. What does it give, and what is right?

# %%
pair = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
digit_pixels = train.images / 255  # (1437, 1, 8, 8)
for name, x in {"two images": pair, "the digits": digit_pixels}.items():
    of_images = x.std(dim=(1, 2, 3), correction=0).mean()
    print(f"{name}: mean of deviations {of_images:.4f}, over all pixels {x.std(correction=0):.4f}")

# %% [markdown]
# Too small: that images differ from each other is not counted. The digits are about equally bright, so for them it hardly
# matters. Photographs are not: for CIFAR-10 it gives 0.20 where 0.25 is right, and the wrong number stands in many programs.


# %% exercise="07.2"
def my_normalised_split(images, held_out):
    """Split images in two, and normalise both by what is measured on the training part.

    images: (n, C, H, W), uint8. held_out: (n,) bool, True for the images of the validation part.
    Each channel has one mean and one standard deviation, over all pixels of all training images
    (divide by their number).
    Returns two tensors, float32: training pixels and validation pixels.
    """
    ### BEGIN SOLUTION
    pixels = images / 255
    train = pixels[~held_out]
    mean = train.mean(dim=(0, 2, 3), keepdim=True)  # (1, C, 1, 1)
    std = train.std(dim=(0, 2, 3), keepdim=True, correction=0)
    return (train - mean) / std, (pixels[held_out] - mean) / std
    ### END SOLUTION


# %%
check("07.2", my_normalised_split)
# hint("07.2")

# %% [markdown] solved_only=true
# **Why.** Three dimensions vanish, the channels stay. The validation images go through the same arithmetic with the
# same numbers: a darker image must look darker to the network.
#
# **The common wrong answer** measures before it splits. On a thousand digits you will not see the difference, and that
# is the trouble with leaks: the habit costs you nothing here, and everything where the held-out images are few or
# come from another camera.

# %% [markdown]
# The package's `hold_out` splits so that each class is held out in proportion, `channel_stats` measures, and `normalize`
# applies. The contract, checked on what we use here:

# %%
from vit_tutorial.data import hold_out

rest, validation = hold_out(train, 0.2, seed=0)
seen = {image.numpy().tobytes() for image in train.images}
twice = sum(image.numpy().tobytes() in seen for image in test.images)
print(f"{len(rest)} to train, {len(validation)} to choose by, {len(test)} for the end")
print(f"test images that are training images, too: {twice}")
for name, part in {"train": train, "test": test}.items():
    x = normalize(part.images, mean, std)
    print(f"{name:6} mean {x.mean():6.3f}, deviation {x.std():.3f}")

# %% [markdown]
# The training set has mean 0 and deviation 1 by construction. The test set nearly so, and *not* by construction.
#
# ## Augmentation: new images from old ones
#
# A few thousand images are learned by heart sooner or later. So the network never sees the same image twice: each
# time it is shifted, mirrored or otherwise changed, in a way that leaves its label true. Four photographs from
# [scikit-image](https://scikit-image.org), seen with 32×32 pixels, as CIFAR-10's are (Chelsea the cat, by Stéfan
# van der Walt, and the astronaut Eileen Collins, by NASA, public domain; a cup of coffee, by Rachel Michetti, and a rocket
# launch, by SpaceX, CC0):

# %%
from skimage import data as photographs

from vit_tutorial import fit_image, open_image

MY_PHOTO = ""  # for example "my_dog.jpg"

chosen = [MY_PHOTO or photographs.chelsea(), photographs.astronaut()]
chosen += [photographs.coffee(), photographs.rocket()]
photos = torch.stack([fit_image(open_image(photo), 32).pixels for photo in chosen])
print(tuple(photos.shape))  # (n, C, H, W), uint8


def as_pictures(images):
    """uint8 (n, C, H, W) -> (n, H, W, C), as plots want it."""
    return images.permute(0, 2, 3, 1).numpy()


# %% [markdown]
# What is drawn at random is drawn first, for each image on its own. Then it is applied, to the whole batch at once.
# Here six copies of the cat go through each kind. Among photographs a mirrored cat is a cat. **Predict.** Which of
# these would make the label of a *digit* false?

# %%
from vit_tutorial import augment

torch.manual_seed(2)
cats = photos[:1].repeat(6, 1, 1, 1)
grey = torch.tensor(128, dtype=torch.uint8)
keep = augment.draw_erase(6, (32, 32), share=1.0)  # (6, 1, 32, 32) bool
gallery = {
    "shifted and mirrored": augment.crop_flip(cats, *augment.draw_crop_flip(6, 4, flip=True)),
    "TrivialAugment": augment.trivial_augment(cats, augment.draw_trivial_augment(6)),
    "erased": torch.where(keep, cats, grey),
}
plots.augmentation_gallery({name: as_pictures(batch) for name, batch in gallery.items()})

# %% [markdown]
# A mirrored 2 is no 2, and a 6 that is turned far enough is a 9. That is why the package's recipe for the digits has no
# flips: **what leaves the label true is a fact about the data, not about the network.**
#
# **Play.** TrivialAugment (Müller & Hutter 2021, arXiv 2103.10158) picks one operation and one strength for each image,
# at random. The sliders go through those that have a strength. When would *you* no longer recognise the cat?

# %%
from vit_tutorial import flipbook

FIXED = ("Identity", "AutoContrast", "Equalize")  # these have no strength
operations = [name for name in augment.OPERATIONS if name not in FIXED]


def changed(operation, strength, images):
    """Apply one operation with a strength from 0 to 1; also return what that strength means."""
    apply, weakest, strongest, _ = augment.OPERATIONS[operation]
    amount = weakest + strength * (strongest - weakest)
    return apply(images, torch.full((len(images),), amount)), amount


def draw(operation, strength):
    images, amount = changed(operation, strength, photos)
    row = np.concatenate(list(as_pictures(images)), axis=1)  # side by side
    words = f"{operation}, {strength:.0%} of its strength ({amount:.3g})."
    return row.repeat(5, axis=0).repeat(5, axis=1), words


# %%
strengths = [0.0, 0.25, 0.5, 0.75, 1.0]
flipbook(
    draw, operation=operations, strength=strengths, start={"operation": "Rotate", "strength": 0.25}
)

# %% [markdown]
# The same for the cat, as a still picture: four of the operations, from nothing to their full strength.

# %%
plots.augmentation_gallery(
    {
        name: as_pictures(torch.cat([changed(name, s, photos[:1])[0] for s in strengths]))
        for name in ("ShearX", "Rotate", "Contrast", "Solarize")
    }
)

# %% [markdown]
# ## Soft targets
#
# With a target of 1 the network is never sure enough: the loss falls as long as the logits grow. **Label smoothing**
# (Szegedy et al. 2015, arXiv 1512.00567) asks for a little less. A share `smoothing` of each target is taken away and dealt
# out to all C classes alike. **Predict.** C = 10, smoothing 0.1: what is the target of the right class, and what of
# the others?


# %% exercise="07.3"
def my_soft_targets(labels, num_classes, smoothing):
    """Make targets from labels, smoothed.

    labels: (B,), whole numbers from 0 to num_classes - 1. smoothing: from 0 to 1.
    Returns (B, num_classes), float32; each row sums to 1.
    """
    ### BEGIN SOLUTION
    hard = F.one_hot(labels, num_classes).float()
    return (1 - smoothing) * hard + smoothing / num_classes
    ### END SOLUTION


# %%
check("07.3", my_soft_targets)
# hint("07.3")

# %% [markdown] solved_only=true
# **Why.** Every class gets smoothing / C, and the right one keeps 1 − smoothing on top: 0.91 and nine times 0.01.
#
# **The common wrong answer** deals out to the C − 1 other classes only (0.9 and nine times 0.011). It trains as well,
# but it is another smoothing than the one in papers and in PyTorch's `label_smoothing`.

# %% [markdown]
# Once targets are soft, an image may show two things. **Mixup** (Zhang et al. 2017, arXiv 1710.09412) blends two images,
# **CutMix** (Yun et al. 2019, arXiv 1905.04899) pastes a rectangle of one into the other. Both ask for both classes, in
# proportion to their pixels. One formula does both: each pixel keeps a *weight* of its own image and gets the rest
# from its partner.

# %%
blend = torch.full((2, 1, 32, 32), 0.7)  # mixup: the same weight everywhere
pasted = torch.ones(2, 1, 32, 32)
pasted[:, :, 4:20, 8:32] = 0  # CutMix: 16 x 24 pixels come from the partner
partner = torch.tensor([1, 0])  # the cat's partner is the astronaut, and the other way round
pair = photos[:2].float()
mixed = torch.cat([augment.mix(pair, partner, weight)[:1] for weight in (blend, pasted)])
targets = torch.eye(2)  # cat, astronaut
for name, weight in {"mixup": blend, "CutMix": pasted}.items():
    cat, astronaut = augment.mix_targets(targets, partner, weight)[0].tolist()
    print(f"{name:6} target of the first image: cat {cat:.3f}, astronaut {astronaut:.3f}")

# %%
shown = as_pictures(torch.cat([photos[:2], mixed.to(torch.uint8)]))
plots.photo_row([np.kron(x, np.ones((6, 6, 1))).astype(np.uint8) for x in shown],
                ["cat", "astronaut", "mixup", "CutMix"])  # fmt: skip

# %% [markdown]
# By hand: the rectangle has 16·24 = 384 of 1024 pixels, which is 0.375. In real life, its middle is drawn anywhere in the
# image, so that it may hang over the border. Write it.


# %% exercise="07.4"
def my_cutmix(images, targets, partner, box):
    """Paste the same box of its partner into every image, and mix the targets to match.

    images: (B, C, H, W). targets: (B, classes). partner: (B,), whose box each image gets.
    box: (top, bottom, left, right), rows and columns, bottom and right excluded. It may reach over
    the border on any side; what is outside the image replaces nothing.
    Returns the new images and the new targets; what was given stays as it was.
    """
    ### BEGIN SOLUTION
    height, width = images.shape[2:]
    top, left = max(box[0], 0), max(box[2], 0)
    bottom, right = min(box[1], height), min(box[3], width)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    theirs = (bottom - top) * (right - left) / (height * width)
    return mixed, (1 - theirs) * targets + theirs * targets[partner]
    ### END SOLUTION


# %%
check("07.4", my_cutmix)
# hint("07.4")

# %% [markdown] solved_only=true
# **Why.** The share is counted from the clipped box, after the border is known. `images[partner, ...]` reads from the old
# images and not from `mixed`, where a partner may have been pasted over already.
#
# **The common wrong answer** draws a share first, makes a box of that size, and mixes the targets by the share that was
# drawn. Where the box hangs over the border the targets promise more than the pixels show.

# %% [markdown]
# ## The learning rate, step by step
#
# How far is a step? In the first steps the network changes quickly and gradients point here and there, so the rate
# *warms up*: it rises in a straight line. Later, smaller and smaller steps let the network settle: the rate
# falls along half a cosine wave to 0 (Loshchilov & Hutter 2016, arXiv 1608.03983). By hand, 10 steps of which 2 are warm-up,
# as a share of the highest rate: 0.5, 1, and then $\frac{1}{2}(1 + \cos \pi p)$, where p is the share of the other
# 8 steps that has passed. **Predict.** What is it when half of the 8 have passed?


# %% exercise="07.5"
def my_lr_factor(step, total_steps, warmup_steps):
    """Tell which share of the highest learning rate a step gets.

    step: 0, 1, ... The first warmup_steps of total_steps rise in a straight line, the last of them
    has 1, and the very first is not 0. From then on half a cosine wave falls from 1 (in step
    warmup_steps) to 0 (in step total_steps, which is never taken). warmup_steps may be 0.
    Returns one number.
    """
    ### BEGIN SOLUTION
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    passed = (step - warmup_steps) / (total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * passed))
    ### END SOLUTION


# %%
check("07.5", my_lr_factor)
# hint("07.5")

# %% [markdown] solved_only=true
# **Why.** `step + 1`, because a first step with rate 0 would be thrown away. After the warm-up the cosine must begin anew, or
# the rate would jump.
#
# **The common wrong answer** is in the loop and not in the formula: it calls this once for every epoch instead of once for
# every step. A warm-up of half an epoch then does not happen.

# %% [markdown]
# The package's version takes the warm-up as a share of all steps:

# %% definition="vit_tutorial.optimizers.lr_factor"

# %%
factors = np.array([[lr_factor(step, 220, warmup=0.1) for step in range(221)]])
plots.run_curves(range(221), {"warm-up of 10%": factors}, "step", "share of the highest rate")

# %% [markdown]
# ## What decays
#
# AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101) has one more force: in every step each weight is multiplied by
# 1 − rate × *weight decay*, so that what the data do not ask for fades away. **Predict.** A weight of 1 with a gradient
# of 0, rate 0.1, weight decay 0.5. What is it after one step, and after ten?

# %%
weight = nn.Parameter(torch.ones(1))
optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.5)
sizes = []
for _ in range(10):
    weight.grad = torch.zeros(1)
    optimizer.step()
    sizes.append(weight.item())
print(f"after one step {sizes[0]:.4f}, after ten {sizes[-1]:.4f} = 0.95 ** 10 = {0.95**10:.4f}")

# %% [markdown]
# For the matrices of linear layers that is wanted. The gain of a norm should be near 1 and not near 0, and a bias or a
# table of positions does no harm by being large. So the usual rule: matrices decay, and nothing else does. The patch
# projection counts as a matrix; its weight has the shape (D, C, P, P) of a convolution.


# %% exercise="07.6"
def my_parameter_groups(model, weight_decay):
    """Sort the parameters of a VisionTransformer into two groups for AdamW.

    The weights of linear layers and of the patch projection decay. Biases, norms, `cls_token` and
    `pos_embed` do not; a model need not have the last two.
    Returns a list of two dictionaries, each with "params" (a list) and "weight_decay" (a number).
    """
    ### BEGIN SOLUTION
    decaying, others = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim > 1 and name not in ("cls_token", "pos_embed")
        (decaying if is_matrix else others).append(parameter)
    return [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    ### END SOLUTION


# %%
check("07.6", my_parameter_groups)
# hint("07.6")

# %% [markdown] solved_only=true
# **Why.** Dimensions tell weights from biases and norms. CLS and positions have three and must be told by name.
#
# **The common wrong answer** is `AdamW(model.parameters(), weight_decay=0.05)`: everything decays, gains included. Another one
# gives the second group no `weight_decay` at all. Then it has PyTorch's default, which is 0.01 and not 0.

# %% definition="vit_tutorial.optimizers.parameter_groups"

# %% [markdown]
# ## Measuring
#
# The last batch is usually smaller. **Predict.** Batches of 100, 100 and 10 images, of which 90, 90 and 1 are right. Is the
# accuracy the mean of 90%, 90% and 10%?


# %% exercise="07.7"
def my_accuracy(model, batches):
    """Measure the accuracy of a model, in percent of all images.

    batches: a list of pairs, images (b, ...) and labels (b,); b may be another one in each.
    The model must be in evaluation mode meanwhile, and afterwards in the mode in which it came. No
    gradients are recorded.
    """
    ### BEGIN SOLUTION
    was_training = model.training
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            right += (model(images).argmax(dim=1) == labels).sum().item()
            total += len(labels)
    model.train(was_training)
    return 100 * right / total
    ### END SOLUTION


# %%
check("07.7", my_accuracy)
# hint("07.7")

# %% [markdown] solved_only=true
# **Why.** Count first, divide once. Drop path (lesson 05) acts in training mode, so that mode would measure a damaged network.
# Gradients are another matter: `eval()` does not turn them off. Recording them changes no result, it only costs memory.
#
# **The common wrong answer** measures, and leaves the model in evaluation mode. The next epoch then trains without drop path,
# and no error says so.

# %% [markdown]
# The package's version keeps every prediction with its label and its confidence, for the pictures below, and restores the
# mode even when something fails. (The next cell brings the names that this and the following definitions use. They are the
# package's own; the definitions shown here take their places as you run them.)

# %%
from dataclasses import dataclass

from vit_tutorial.evaluation import *
from vit_tutorial.train import *

# %% definition="vit_tutorial.evaluation.evaluate"

# %% [markdown]
# ## The loop
#
# Everything is there. All choices of a training are kept in one place, which cannot change under way:

# %% definition="vit_tutorial.recipes.TrainConfig"

# %% [markdown]
# What changes during a training (weights, the optimizer's memory, the step) is kept in a `Run`, which can be saved whole
# and go on later. A step begins with the images. This is what the galleries above showed, one after the other, and which of it
# is done is said by the config. In the `clean` steps at the end the images are changed less, and the labels are not smoothed:

# %% definition="vit_tutorial.train.augment_batch"

# %% [markdown]
# What is to be learnt is said by the *objective*. Ours is the loss that you know, against targets that are shares of the
# classes, (B, classes), as smoothing and mixing make them; PyTorch's takes these, too. Later lessons learn other things in
# the same loop:

# %% definition="vit_tutorial.train.cross_entropy"

# %%
from vit_tutorial.train import cross_entropy  # equal, and known to `fit`, which checks its labels

# %% [markdown]
# Then the weights are changed, in your `my_train_step`'s order:

# %% definition="vit_tutorial.train.update"

# %% [markdown]
# There may be two optimizers: Muon takes the matrices in the blocks (more of it below), and AdamW the rest. The `scaler` is
# for GPUs that compute in float16; elsewhere it does nothing. `autocast` sets the precision of matrix products, here of
# those that Muon makes. `average` is a running average of the weights (see the questions at the end). Together, one step is:

# %% definition="vit_tutorial.train.train_step"

# %% [markdown]
# `visible_patches` is for recipes that show the network only a part of each image, which takes less time; here it is all of it.
# In `autocast` the network's matrices are multiplied in half precision where that is faster. A GPU says so itself; on a CPU
# it is found out before a long training, by trying, together with the way attention is computed and the number of threads.
# Where a lesson fixes them, as under *Train now*, the numbers do not depend on what a trial finds on your computer.
#
# And the whole training. Around the step there is what makes it useful for hours: it can be interrupted and resumed,
# shared among several GPUs, and it says what went wrong. At first read only the `while` loop: `run.order()` shuffles the
# images for an epoch, `run.offset` is where the next batch begins, and a rest that fills no batch sits out the epoch (1,437
# digits make 22 batches of 64).

# %% definition="vit_tutorial.train.fit"

# %% [markdown]
# **Predict.** We train one network with this `fit`, and a second one with a dozen plain lines that share with it only the
# order of the images, their normalisation and the two groups of parameters: PyTorch's own schedulers, its own label
# smoothing. In float64, where rounding is small, will the weights be the same?

# %%
from vit_tutorial.run import Run

config = TrainConfig(epochs=2, batch_size=64, lr=5e-3, warmup=0.25)  # 44 steps, 11 of warm-up
by_fit, by_hand = fresh().double(), fresh().double()
rows = fit(by_fit, train, test, config)

# %%
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

optimizer = torch.optim.AdamW(parameter_groups(by_hand, 0.05), lr=5e-3)
rise, fall = LinearLR(optimizer, 1 / 11, total_iters=10), CosineAnnealingLR(optimizer, 33)
schedule = SequentialLR(optimizer, [rise, fall], milestones=[11])
x, run = normalize(train.images, mean, std).double(), Run(by_hand, config, train)
for step in range(44):
    run.step = step  # the run knows the order of the images in each epoch
    batch = run.order()[run.offset : run.offset + 64]
    loss = F.cross_entropy(by_hand(x[batch]), train.labels[batch], label_smoothing=0.05)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    optimizer.step()
    schedule.step()

# %%
worst = 0.0
for ours, theirs in zip(by_fit.parameters(), by_hand.parameters(), strict=True):
    assert_close(ours, theirs)
    worst = max(worst, (ours - theirs).abs().max().item())
print(f"44 steps, {len(list(by_hand.parameters()))} tensors, largest difference {worst:.0e}")

# %% [markdown]
# They are, but for rounding.
#
# ## Which rate?
#
# One number matters more than all others: the highest learning rate. A cheap way to its order of magnitude: take a fresh
# network, raise the rate from tiny to huge, a little in every step, and write down the losses (Smith 2015,
# arXiv 1506.01186). **Predict.** How will that curve look?


# %%
def find_rate(model, rates):
    """Take one step with each rate, and return the losses."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05))
    losses = []
    for step, rate in enumerate(rates):
        batch = order[step * 64 % 1408 :][:64]
        loss = F.cross_entropy(model(x[batch]), train.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
x = normalize(train.images, mean, std)
order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
rates = torch.logspace(-5, 0, 100).tolist()
found = find_rate(fresh(), rates)
lowest = np.convolve(found, np.ones(9) / 9, mode="valid").argmin() + 4  # the middle of nine steps
print(f"the loss is lowest around a rate of {rates[lowest]:.2g}")
plots.lr_finder_curve(rates, found, chosen=5e-3)

# %% [markdown]
# Three regions: too low, and nothing happens; a slope, where it learns; too high, and it forgets faster than it learns. Where
# the loss is lowest, the rate is about to be too high. So one takes a smaller one, still on the slope: 0.005 here. The
# answer is rough, and holds for this network, this batch size and this optimizer.
#
# ## Train now
#
# All of it together. The curve is drawn again after every epoch, and a bar shows how long it will take. **Predict.** After eight
# epochs, how many of 100 test digits will be right?

# %%
from vit_tutorial import LiveCurve

fixed = {"precision": "float32", "attention": "fused", "threads": 1}  # nothing is tried
config = TrainConfig(epochs=8, batch_size=64, lr=5e-3, **fixed)
model = fresh()
rows = fit(model, train, test, config, on_epoch=LiveCurve(chance=math.log(10)))

# %% [markdown]
# Read it from left to right. The first point lies below ln 10, where the training started: it is a mean over the first epoch. It falls
# quickly, then slowly. It does not reach 0, and cannot: with smoothed targets the best possible loss is above 0 (see the
# questions). The test accuracy follows. It is there to be looked at: nothing may be chosen by it.
#
# With a real data set it looks the same and takes longer. With `FULL = True` the next cell trains the package's `laptop` recipe
# on CIFAR-10, for as many epochs as fit into ten minutes here, after a download of 170 MB if it is not on this computer yet.

# %%
FULL = False

# %%
from dataclasses import replace

from vit_tutorial.data import cifar10
from vit_tutorial.recipes import RECIPES
from vit_tutorial.train import epochs_within

if FULL:
    torch.set_num_threads(os.cpu_count())
    laptop, sets = RECIPES["laptop"], (cifar10("train"), cifar10("test"))
    large = VisionTransformer(laptop.model)
    laptop_config = replace(laptop.train, epochs=epochs_within(10, large, *sets, laptop.train))
    fit(large, *sets, laptop_config, on_epoch=LiveCurve(chance=math.log(10)))
    torch.set_num_threads(1)

# %%
for name, recipe in RECIPES.items():
    print(f"{name:10} {recipe.about}: {recipe.train.epochs} epochs")

# %% [markdown]
# ## What it got wrong
#
# An accuracy is a count, and a count of few images is uncertain. `interval` tells where the true share lies with 95%
# confidence. **Predict.** 360 test images: is a network with 95% better than one with 94%?

# %%
result = evaluate(model, test, mean, std)
low, high = result.interval
print(
    f"{result.correct} of {result.n} right: {result.accuracy:.1f}%, between {low:.1f}% and {high:.1f}%"
)
plots.confusion_matrix(result.confusion.numpy(), result.classes)

# %% [markdown]
# Both numbers would lie well inside each other's interval: with so few images, one point says nothing.
#
# In the matrix, a row is a true class, a column what it was taken for. Two questions can be asked of each class c. Of all images that *are*
# c, how many were found? That is **recall**. Of all that were *called* c, how many are? That is **precision**.


# %% exercise="07.8"
def my_recall_precision(confusion):
    """Read recall and precision of every class off a confusion matrix.

    confusion: (classes, classes), whole numbers; row = true class, column = what it was named.
    Returns (classes, 2), float32, shares from 0 to 1: recall, precision. Where a class has no
    images, or was never named, the number that cannot be computed is 0.
    """
    ### BEGIN SOLUTION
    right = confusion.diagonal()
    recall = right / confusion.sum(dim=1).clamp(min=1)
    precision = right / confusion.sum(dim=0).clamp(min=1)
    return torch.stack([recall, precision], dim=1)
    ### END SOLUTION


# %%
check("07.8", my_recall_precision)
# hint("07.8")

# %% [markdown] solved_only=true
# **Why.** Summing over `dim=1` leaves one number for each row. Where a sum is 0, nothing is on the diagonal either, so that
# 0 / 1 gives the 0 that was asked for.
#
# **The common wrong answer** swaps the two. For matrices that are nearly symmetric, the numbers look plausible.

# %%
print(result.report())

# %% [markdown]
# Numbers say how often, pictures say why. The worst mistakes are those of which the network was surest. **Predict.** Will
# you agree with the labels?

# %%
wrong = result.predictions != result.labels
plots.worst_mistakes(
    255 - test.images[wrong, 0].numpy(),  # dark on white
    [test.classes[c] for c in result.labels[wrong]],
    [test.classes[c] for c in result.predictions[wrong]],
    result.confidences[wrong].tolist(),
)

# %% [markdown]
# Always look at them. Wrong labels, doubled images and a class that two people would name differently are found in this way
# and in no other.
#
# ## Does my curve look right?
#
# One training is one throw of the dice: another seed gives other weights, another order, another curve. **Predict.** How far
# apart are three trainings that differ in nothing but the seed, after the first epoch and at the end?

# %%
others = [fit(fresh(seed), train, test, replace(config, seed=seed)) for seed in (1, 2)]
bands = {}
for name in ("loss", "test_accuracy"):
    values = np.array([[row[name] for row in run] for run in [rows, *others]])  # (3, epochs)
    bands[name] = np.stack([values.min(0), values.max(0)])  # (2, epochs)
    print(
        f"{name:14} first epoch {np.ptp(values[:, 0]):5.2f} apart, last {np.ptp(values[:, -1]):5.2f}"
    )

# %% [markdown]
# In the loss, very little: a band out of a few trainings is a sharp instrument. The accuracy is a count of 360 images, and coarser. **Predict.** Now the same once more, with one change: the rate
# is 0.001 instead of 0.005. At the end, will you see it in the accuracy? Will you see it in the curve?

# %%
slow = fit(fresh(), train, test, replace(config, lr=1e-3))
plots.training_curve(slow, chance=math.log(10), bands=bands)

# %% [markdown]
# The band is what is normal for a recipe. If you change a line and the curve leaves it, the line did it. If the curve stays
# inside, you have seen nothing, however much you would like to. Things to check on any curve, in this order:
#
# | look at | it should | if not |
# |---|---|---|
# | the first loss | be near ln C | the start is too wild, or the labels are not what you think |
# | the first epoch | fall | rate too low or too high; overfit one batch |
# | its noise | be small against the fall | rate too high, batch too small, order not shuffled |
# | the end | have gone flat as the rate went to 0 | more epochs would help |
# | the test accuracy | follow the loss | the test images go another way than the training images |
# | the gap to the training accuracy | be small | too few images, too little augmentation |
#
# ## What is each ingredient worth?
#
# A recipe has a dozen ingredients. What is each of them worth? To find out, change *one* thing, keep all else, and train again,
# with two seeds each (an **ablation**). This is the `laptop` recipe on CIFAR-10, with a CLS token, all patches and only
# {{results.ablation_cifar10.rows[0].epochs}} epochs. It trains with Muon, an optimizer that you can choose in place of AdamW (`TrainConfig.optimizer`):
# it turns the step of each matrix into the nearest orthogonal one (Jordan et al. 2024).
#
# **Predict** before you read. Which change costs most: no positions, patches of 8 pixels instead of 4, or AdamW instead of Muon? And
# what do shifts and mirroring bring?
#
# {{table.ablation_cifar10}}
#
# - **The optimizer is worth most here**: without Muon, {{results.ablation_cifar10.rows[settings=optimizer=adamw].difference:+.1f}} points (at the same rate, which was
#   chosen for Muon). In so few epochs it counts who learns fastest.
# - **Without positions** it is {{results.ablation_cifar10.rows[settings=pos_embed=none].difference:+.1f}} points: shuffled patches are the same image to such a network (lesson 03).
# - **That there are positions matters more than which**: rotary ones end level with learned ones
#   ({{results.ablation_cifar10.rows[settings=pos_embed=rope].test_accuracy_mean:.1f}}%), sin-cos ones lose less than a third of that ({{results.ablation_cifar10.rows[settings=pos_embed=sincos].difference:+.1f}}).
# - **The mean of the patch tokens beats CLS** by {{results.ablation_cifar10.rows[settings=pool=mean].difference:+.1f}}. Patches of 8 pixels make a quarter as many tokens,
#   and {{results.ablation_cifar10.rows[settings=patch_size=8].difference:+.1f}} points.
# - **Shifts and mirroring do not help here**: without them it is {{results.ablation_cifar10.rows[settings=crop_padding=0, flip=False].difference:+.1f}}. Each image is seen a few times, far too
#   rarely to be learnt by heart, so that the augmentation only makes the task harder.
#
# That is why some rows have no number. TrivialAugment, erasing, mixup, CutMix, drop path and averaged weights keep a network from
# learning its images by heart. In a handful of epochs they could only cost, and the table would say that they harm. What they are
# worth in hundreds of epochs takes a GPU to measure. **What an ingredient is worth depends on how long you train.**
#
# And look at the spread of the seeds: differences of that size are noise, whatever their sign. Two seeds give only a poor idea of it.

# %% [markdown]
# ## Reading a sick curve
#
# Five trainings of our small network, on the digits, for seven epochs each. All five run without an error. In grey, for comparison,
# is a healthy one, which had the same seed.

# %%
from vit_tutorial.lessons.lesson_07.patients import CAUSES, patient, train_patient

healthy = train_patient()
patients = {letter: patient(letter) for letter in "ABCDE"}

# %%
plots.sick_curves(
    [
        {
            "the patient": (sick.losses, sick.accuracies),
            "healthy": (healthy.losses, healthy.accuracies),
        }
        for sick in patients.values()
    ],
    chance=math.log(10),
)

# %%
for letter, sick in {"healthy": healthy, **patients}.items():
    first, middle, last = (np.mean(sick.losses[at : at + 11]) for at in (0, 66, 143))
    print(
        f"{letter:8} loss {sick.losses[0]:.2f}, then {first:.2f} ... {middle:.2f} ... {last:.3f}",
        end="",
    )
    print(f"   highest {max(sick.losses):.2f}   test accuracy {sick.accuracies[-1]:.0f}%")

# %% [markdown]
# Each patient has one of these eight illnesses; three of the eight are not among them. Write down your guess before you check.

# %%
for name, meaning in CAUSES.items():
    print(f'"{name}": {meaning}')


# %% exercise="07.9"
def my_diagnosis():
    """Tell what each patient has: a dictionary from "A" ... "E" to one of the names printed above."""
    ### BEGIN SOLUTION
    return {
        "A": "softmax twice",
        "B": "rate too high",
        "C": "test not normalised",
        "D": "not shuffled",
        "E": "too few images",
    }
    ### END SOLUTION


# %%
check("07.9", my_diagnosis)
# hint("07.9")

# %% [markdown] solved_only=true
# **Why.**
#
# - **A** learns to be right, and its loss cannot come below 1.46, the floor of a double softmax.
# - **B** is thrown far above ln 10, again and again, and calms down only as the schedule lowers the rate.
# - **C** has exactly the healthy loss, step by step. So the training is innocent: it is the measuring.
# - **D** repeats the same spikes in every epoch of 22 steps: it learns "all is 0", then "all is 1", and forgets.
# - **E** reaches a loss of 0 within half of the time, and the test accuracy stops there. It knows its 128 images by heart.
#
# **The common wrong answer** is "more epochs" for all five. None of them would be cured by it.

# %% [markdown]
# How all eight were planted: a single line each, in a loop that you know. The other three can be had as well, for example with
# `train_patient("not cleared")`.

# %%
from vit_tutorial.lessons.lesson_07.patients import BATCH, LOOK_EVERY, SMALL, STEPS, Curves

# %% definition="vit_tutorial.lessons.lesson_07.patients.train_patient"

# %% [markdown]
# ## What we now have
#
# | what | shape |
# |---|---|
# | images, as they are kept | (n, C, H, W) uint8 |
# | a batch, augmented and normalised | (B, C, H, W) |
# | targets: smoothed, mixed | (B, classes), rows sum to 1 |
# | logits | (B, classes) |
# | loss | one number; ln C at the start |
# | gradients | one for each parameter, of its shape |
# | confusion matrix | (classes, classes), rows are true |
#
# One step: clear, forward, loss, backward, clip, step. Before the first training: the loss at the start, and one batch by heart.
# After it: the band, the matrix, the worst mistakes.
#
# ## The questions people ask
#
# **"My loss does not go to 0. Is that bad?"** With smoothed targets it cannot. The lowest cross-entropy is reached when the network
# says exactly the targets, and then the loss is their entropy.

# %%
soft = torch.full((10,), 0.05 / 10)
soft[3] += 0.95
best = -(soft * soft.log()).sum()
assert_close(F.cross_entropy(soft.log()[None], soft[None]), best)
print(f"with smoothing 0.05 and ten classes: {best:.3f}; ours ended at {rows[-1]['loss']:.3f}")

# %% [markdown]
# **"Can I keep the best epoch?"** If you choose it on the test set, you have trained on the test set a little. Forty networks that
# only guess, on 360 images of ten classes:

# %%
torch.manual_seed(0)
guesses = torch.randint(10, (40, 360))
accuracies = 100 * (guesses == test.labels).float().mean(1)
print(f"mean {accuracies.mean():.1f}%, the best of forty {accuracies.max():.1f}%")

# %% [markdown]
# The package reports the last epoch. To choose, use a validation set.
#
# **"What is the average of the weights good for?"** Steps of a noisy gradient jump around a good place, and the mean of the places is
# better than any of them. An exponential moving average (EMA) needs one copy of the weights: after each step,
# average = decay × average + (1 − decay) × weights. Here, 1000 noisy numbers around 3:

# %%
torch.manual_seed(0)
weights, decay = 3 + torch.randn(1000), 0.99
average, path = weights[0], []
for weight in weights:
    average = decay * average + (1 - decay) * weight
    path.append(average.item())
print(
    f"single numbers: {weights[500:].std():.2f} away from 3, the average: {np.std(path[500:]):.2f}"
)
print(f"by formula: {math.sqrt((1 - decay) / (1 + decay)):.2f}")

# %% [markdown]
# **"Do I need a GPU?"** To learn how it works: no. For the two largest of the recipes above: yes, or much patience.
#
# **"It stops with CUDA out of memory."** Halve the batch size and the learning rate. `fit` tries smaller batches and says which
# one would fit.
#
# **"Why is my first epoch so slow?"** On a GPU, `compile=True` translates the network first, which takes up to a minute once. In a
# notebook on a CPU, small networks are slower on many cores than on one: see the first code cell.
#
# **"Must the test images be shuffled, too?"** No: in evaluation mode images do not know of each other. Only the batches of a training
# need it, as patient D has shown.

# %%
shuffled = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
again = evaluate(model, test[shuffled], mean, std)
print(f"{result.correct} right as they come, {again.correct} right when shuffled")

# %% [markdown]
# ## A stretch
#
# - Train the `digits` recipe (`RECIPES["digits"]`, about a minute), and see whether its curve lies in a band of your own making.
# - Find an augmentation that helps the digits: `crop_padding=1`, `trivial_augment=0.5`, `mixup=0.3`, each with three seeds, for 10 epochs
#   and for 60. Does its worth change sign?
# - Stop a training with the stop button (■) after a few epochs, having given it `save_to="runs/mine"`, and go on with `resume=True`. Is
#   the last loss the same as without the pause, to the last digit?
# - What is each ingredient worth? `benchmarks/ablation.py` changes one thing at a time in a recipe: on the digits it takes some
#   minutes (`python benchmarks/ablation.py --data digits --recipe digits --epochs 10`).
# - In a terminal: `vit-tutorial train --recipe laptop --data cifar10 --out my_vit.safetensors`.
