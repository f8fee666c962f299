# %% [markdown]
# # 07 · Training
#
# **How does a network learn, and how do you notice early that it does not?**
#
# The network of lesson 06 is right, and it knows nothing. This lesson teaches it. The loop that does so is
# short. Most of the work is around it: feeding it honestly, choosing without fooling yourself, and seeing from
# a curve what is wrong before a night of computing is lost.
#
# **You will**
#
# - overfit one batch first, and learn what that proves and what it does not,
# - split and normalise data so that nothing leaks, and change images so that their labels stay true,
# - write the training step, and prove the loop that uses it,
# - choose a rate and an optimizer on validation images, and look at the test set once,
# - find out how many trainings it takes to tell two recipes apart,
# - diagnose five sick trainings from their curves,
# - *deeper:* write soft targets, CutMix, the schedule of the learning rate, parameter groups, accuracy, recall and precision; see
#   what each ingredient of a recipe is worth.

# %%
from vit_tutorial import VisionTransformer, ViTConfig, normalize, plots
from vit_tutorial.data import channel_stats, digits

plots.network_map()

# %% [markdown]
# ## Before anything else: one batch
#
# A small network for small images: the digits have 8×8 pixels, and four patches of 4×4. It trains in a few
# seconds, so that you can try things. Everything below works the same for a large one.

# %%
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

torch.set_num_threads(1)  # so small a network runs fastest on one processor core

# %%
small = ViTConfig(
    img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4, pool="mean"
)


def fresh(seed=0):
    """A small network that has learned nothing yet."""
    torch.manual_seed(seed)
    return VisionTransformer(small)


whole, test = digits("train"), digits("test")
mean, std = channel_stats(whole.images)
images, labels = normalize(whole.images[:16], mean, std), whole.labels[:16]  # one small batch

# %% [markdown]
# It knows nothing, and there are K = 10 classes. So it should give each about the same probability, and the loss should be
# near ln K (lesson 06):

# %%
model = fresh()
logits = model(images)  # (16, K)
loss = F.cross_entropy(logits, labels)
print(f"loss {loss.item():.3f}, ln 10 = {math.log(10):.3f}")

# %% [markdown]
# A loss that starts near ln K is the first thing to look for, and it costs one line. Now the smallest piece of
# learning, by hand. The head has a bias for each class. How does the loss change if the bias of a class
# grows a little? For one image, cross-entropy has a simple derivative: the probability that the class got from the
# softmax, minus 1 for the true class and minus 0 for the others.

# %% claim="A loss that starts near ln K"
assert abs(loss.item() - math.log(10)) < 0.15

# %%
probabilities = logits[0].softmax(dim=0)  # (K,)
by_hand = probabilities - F.one_hot(labels[0], 10)
print("true class:", labels[0].item())
print("by hand:  ", [round(number, 3) for number in by_hand.tolist()])
F.cross_entropy(logits[:1], labels[:1]).backward(retain_graph=True)
once = model.head.bias.grad.clone()
print("autograd: ", [round(number, 3) for number in once.tolist()])

# %% [markdown]
# The two agree: `backward` has put the same ten numbers into `.grad`. A step goes *against* the gradient: new bias = old bias −
# rate × gradient. So the bias of the true class rises by about 0.9 × rate, and the others fall by about a ninth of that each.
# That is all of learning, once for every parameter.
#
# `backward` *adds* to what is in the gradients already. A second call for the same loss, and they are twice as large:

# %% claim="The two agree"
assert (by_hand - once).abs().max() < 1e-5

# %% claim="the bias of the true class rises by about 0.9 × rate"
assert by_hand.argmin() == labels[0]
assert abs(by_hand.min() + 0.9) < 0.04

# %% claim="the others fall by about a ninth of that each"
others_bias = by_hand[by_hand > 0]
assert len(others_bias) == 9
assert (others_bias - 0.1).abs().max() < 0.05

# %%
F.cross_entropy(logits[:1], labels[:1]).backward(retain_graph=True)
twice = model.head.bias.grad
print("once more:", [round(number, 3) for number in twice.tolist()])

# %% [markdown]
# So gradients must be cleared before each step. And they are shortened where they are too long: one strange batch
# must not throw the network far away. All gradients together are seen as one vector; if its norm is above
# `clip_norm`, all are multiplied by the same number, so that the norm becomes `clip_norm`.

# %% claim="So gradients must be cleared before each step"
assert (twice / once - 2).abs().max() < 1e-3


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
# Now again and again, on the same 16 images. The network has tens of thousands of parameters for 16 answers, so it must
# be able to learn them by heart:

# %% claim="tens of thousands of parameters for 16 answers"
assert 20_000 < sum(p.numel() for p in model.parameters()) < 200_000


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
# After 20 steps it knows them, and the loss is near 0. That makes this a test. **If a network cannot
# learn one batch by heart, something is broken, and no amount of data will repair it.** It takes seconds. So it
# comes first, always, before the first real training.
#
# **Predict.** Here are four faults. Which of them will the test find?

# %% claim="After 20 steps it knows them, and the loss is near 0"
assert losses[20] < 0.3
assert losses[-1] < 0.02

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
# Three of the four do not come down to 0. A softmax too many stops near 1.46, its floor (lesson 06). Black images can only tell
# how often each class occurs. An optimizer that was made for another network, for example before it was copied, moves
# nothing at all. The fourth comes down as well as the healthy one: by heart, false labels are learned like true ones.
# **The test finds what keeps a network from learning at all.** It does not find what only makes it learn worse: with a softmax
# over the wrong axis, or without any attention, these 16 images are learned by heart as well. That is what the proofs of lessons
# 04 to 06 are for. And it does not ask whether what is learned is true: that depends on the data.

# %% claim="Three of the four do not come down to 0"
stuck = [losses[-1] > 1 for losses in runs.values()]
assert stuck == [False, True, True, True, False]

# %% claim="A softmax too many stops near 1.46"
assert 1.45 < runs["a softmax before the loss"][-1] < 1.55

# %% claim="Black images can only tell how often each class occurs"
shares = labels.bincount() / len(labels)
floor = -(shares * shares.clamp(min=1e-9).log()).sum().item()
assert abs(runs["all images are black"][-1] - floor) < 0.1

# %% claim="moves nothing at all"
assert np.ptp(runs["another network's optimizer"]) < 1e-6

# %% claim="The fourth comes down as well as the healthy one"
assert runs["labels of other images"][-1] < 0.03

# %% [markdown]
# ## The data contract
#
# Three promises, each of them easily broken without an error:
#
# 1. **Split.** What is measured on was never trained on, and never had a say in any choice. Choices (a rate, an optimizer,
#    a recipe, the best epoch) are made on a part held out of the training set, the **validation** set. The test set
#    is looked at once, at the end.
# 2. **Normalise.** Mean and standard deviation of each channel are measured on the training part, over all its
#    pixels, and then applied to everything.
# 3. **Augment** (see below) the training images only.
#
# The second has a trap. Many programs take the standard deviation of every image, and then the mean of these. Two
# images show what is lost, one all 0.2 and one all 0.8:

# %%
pair = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
deviations = {}
for name, x in {"two images": pair, "the digits": whole.images / 255}.items():
    of_images, of_pixels = x.std(dim=(1, 2, 3), correction=0).mean(), x.std(correction=0)
    deviations[name] = of_images.item(), of_pixels.item()
    print(f"{name}: mean of deviations {of_images:.4f}, over all pixels {of_pixels:.4f}")

# %% [markdown]
# Too small, here even 0: that images differ from each other is not counted. The digits are about equally bright, so for them
# it hardly matters. Photographs are not: for CIFAR-10 it gives 0.20 where 0.25 is right, and the wrong number stands in many
# programs.

# %% claim="Too small, here even 0"
assert deviations["two images"][0] < 1e-6
assert abs(deviations["two images"][1] - 0.3) < 1e-6

# %% claim="for them it hardly matters"
assert 0 < 1 - deviations["the digits"][0] / deviations["the digits"][1] < 0.02

# %% claim="for CIFAR-10 it gives 0.20 where 0.25 is right"
from vit_tutorial import load_checkpoint

assert abs(np.mean(load_checkpoint("cifar10")[1].std) - 0.25) < 0.005


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
# applies. From here on `train` and `validation` are what we work with, and `test` stays shut.

# %%
from vit_tutorial.data import hold_out

train, validation = hold_out(whole, 0.2, seed=0)
mean, std = channel_stats(train.images)
parts = {"train": train, "validation": validation, "test": test}
bytes_of = {name: {i.numpy().tobytes() for i in part.images} for name, part in parts.items()}
for name, part in parts.items():
    pixels = normalize(part.images, mean, std)
    print(
        f"{name:10} {len(part):4} images, mean {pixels.mean():6.3f}, deviation {pixels.std():.3f}"
    )
shared = bytes_of["train"] & (bytes_of["validation"] | bytes_of["test"])
print(f"images that are in train and elsewhere, too: {len(shared)}")

# %% [markdown]
# The training part has mean 0 and deviation 1 by construction. The two others nearly so, and *not* by construction: if they
# were far from it, they would be images of another kind. No image has strayed into two parts.

# %% claim="The training part has mean 0 and deviation 1 by construction. The two others nearly so"
pixels = {name: normalize(part.images, mean, std) for name, part in parts.items()}
assert abs(pixels["train"].mean()) < 1e-4
assert abs(pixels["train"].std() - 1) < 1e-3
assert max(abs(p.mean()) for p in pixels.values()) < 0.05
assert max(abs(p.std() - 1) for p in pixels.values()) < 0.05

# %% claim="No image has strayed into two parts"
assert not shared

# %% [markdown]
# ## Augmentation: new images from old ones
#
# A few thousand images are learned by heart sooner or later. So the network is never shown quite the same image twice: each
# time it is shifted, mirrored or otherwise changed, in a way that leaves its label true. Four photographs from
# [scikit-image](https://scikit-image.org), seen with 32×32 pixels, as CIFAR-10's are (Chelsea the cat, by Stéfan
# van der Walt, and the astronaut Eileen Collins, by NASA, public domain; a cup of coffee, by Rachel Michetti, and a rocket
# launch, by SpaceX, CC0):

# %%
from skimage import data as photographs

from vit_tutorial import augment, fit_image, open_image

MY_PHOTO = ""  # for example "my_dog.jpg"

chosen = [MY_PHOTO or photographs.chelsea(), photographs.astronaut()]
chosen += [photographs.coffee(), photographs.rocket()]
photos = torch.stack([fit_image(open_image(photo), 32).pixels for photo in chosen])
print(tuple(photos.shape), "= (B, C, H, W), uint8")


def as_pictures(images):
    """uint8 (B, C, H, W) -> (B, H, W, C), or (B, H, W) of one channel, as plots want it."""
    return images.permute(0, 2, 3, 1).squeeze(3).numpy()


# %%
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
# Six times the same cat in each row, and each time it is changed otherwise. In the first row it is up to 4 pixels to a side;
# in the second one operation is drawn for each image (Müller & Hutter 2021, arXiv 2103.10158); in the third a rectangle is missing.
# It stays a cat.
#
# **Predict.** Which of the ten digits may be mirrored, and which may be turned upside down, so that the label stays true?

# %% claim="Six times the same cat in each row, and each time it is changed otherwise"
assert [len({i.numpy().tobytes() for i in batch}) for batch in gallery.values()] == [6, 6, 6]

# %%
ten = 255 - torch.stack([train.images[train.labels == c][3] for c in range(10)])  # dark on white
shown = {"as they are": ten, "mirrored": ten.flip(3), "upside down": ten.flip(2, 3)}
plots.augmentation_gallery({name: as_pictures(batch) for name, batch in shown.items()})

# %% [markdown]
# Mirrored, a 0 and an 8 stay what they are, and many a 1; no other digit does. Turned, a 6 becomes a 9, and a 9 a 6. That is
# why the package's recipe for the digits has no flips: **what leaves the label true is a fact about the data, not about the
# network.**

# %% claim="Mirrored, a 0 and an 8 stay what they are, and many a 1; no other digit does"
from vit_tutorial import load_checkpoint

reader, its = load_checkpoint("digits")
said = reader(normalize(whole.images.flip(3), its.mean, its.std)).argmax(1)
same = [(said[whole.labels == c] == c).float().mean().item() for c in range(10)]
assert min(same[0], same[8]) > 0.8
assert 0.45 < same[1] < 0.9
assert max(same[2:8] + same[9:]) < 0.35

# %% claim="Turned, a 6 becomes a 9, and a 9 a 6"
from vit_tutorial import load_checkpoint

reader, its = load_checkpoint("digits")
said = reader(normalize(whole.images.flip(2, 3), its.mean, its.std)).argmax(1)
assert said[whole.labels == 6].mode().values == 9
assert said[whole.labels == 9].mode().values == 6

# %% claim="the package's recipe for the digits has no flips"
from vit_tutorial.recipes import RECIPES

assert not RECIPES["digits"].train.flip
assert RECIPES["laptop"].train.flip

# %% [markdown] deeper=true
# ## Every operation, at every strength
#
# TrivialAugment picks one operation and one strength for each image, at random. The sliders go through those that have a
# strength. When would *you* no longer recognise the cat?

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

# %%
plots.augmentation_gallery(
    {
        name: as_pictures(torch.cat([changed(name, s, photos[:1])[0] for s in strengths]))
        for name in ("ShearX", "Rotate", "Contrast", "Solarize")
    }
)

# %% [markdown]
# The cat again, four of the operations, from strength 0 on the left to full strength on the right. At 0 hardly a pixel is
# changed. Solarize at full strength is a negative.

# %% claim="At 0 hardly a pixel is changed"
for name in ("ShearX", "Rotate", "Contrast", "Solarize"):
    assert (changed(name, 0.0, photos[:1])[0] != photos[:1]).float().mean() < 0.02

# %% claim="Solarize at full strength is a negative"
assert (changed("Solarize", 1.0, photos)[0] + photos == 255).float().mean() > 0.98

# %% [markdown] deeper=true
# ## Soft targets
#
# With a target of 1 the network is never sure enough: the loss falls as long as the logits grow. **Label smoothing**
# (Szegedy et al. 2015, arXiv 1512.00567) asks for a little less. A share `smoothing` of each target is taken away and dealt
# out to all K classes alike.


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
# **Why.** Every class gets smoothing / K, and the right one keeps 1 − smoothing on top: 0.91 and nine times 0.01.
#
# **The common wrong answer** deals out to the K − 1 other classes only (0.9 and nine times 0.011). It trains as well,
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
targets, wanted = torch.eye(2), {}  # cat, astronaut
for name, weight in {"mixup": blend, "CutMix": pasted}.items():
    wanted[name] = augment.mix_targets(targets, partner, weight)[0].tolist()
    print(f"{name:6} target: cat {wanted[name][0]:.3f}, astronaut {wanted[name][1]:.3f}")

# %%
shown = as_pictures(torch.cat([photos[:2], mixed.to(torch.uint8)]))
plots.pixel_row(list(shown), ["cat", "astronaut", "mixup", "CutMix"])

# %% [markdown]
# Both mixtures show both, and their targets say so. By hand for CutMix: the rectangle has 16·24 = 384 of 1024 pixels, which is
# 0.375. In a training, its middle is drawn anywhere in the image, so that it may hang over the border. Write it.

# %% claim="the rectangle has 16·24 = 384 of 1024 pixels, which is 0.375"
assert abs(wanted["CutMix"][1] - 0.375) < 1e-6
assert abs(wanted["mixup"][1] - 0.3) < 1e-6


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
# How far is a step? The optimizer that learned by heart above was **AdamW** (Loshchilov & Hutter 2017, arXiv 1711.05101). It keeps two
# running means for each parameter, of the gradient and of its square, and goes
# against the first divided by the root of the second.
#
# **Predict.** Two parameters, one with a gradient of 1000, one with 0.001. The rate is 0.1. How far does each go in the first step?

# %%
far = {}
for gradient in (1000.0, 0.001):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.grad = torch.tensor([gradient])
    optimizer.step()
    far[gradient] = parameter.item()
    print(f"gradient {gradient:8}: it goes by {parameter.item():.4f}")

# %% [markdown]
# Both by 0.1. The size of a gradient cancels, so **a step is about as long as the rate**, and the rate is the one number
# that says how far a network goes.
#
# It is not the same all the time. In the first steps the network changes quickly and gradients point here and there, so the
# rate *warms up*: it rises in a straight line. Later, smaller and smaller steps let the network settle: the rate
# falls along half a cosine wave to 0 (Loshchilov & Hutter 2016, arXiv 1608.03983). As a share of the highest rate, 10 steps
# with 2 of warm-up begin with 0.5 and 1; then the other 8 fall, and are at one half when 4 of them have passed. Here with 220 steps
# and a warm-up of 10%:

# %% claim="Both by 0.1"
assert abs(far[1000.0] + 0.1) < 1e-3
assert abs(far[0.001] + 0.1) < 1e-3

# %% claim="with 2 of warm-up begin with 0.5 and 1; then the other 8 fall, and are at one half when 4"
from vit_tutorial.optimizers import lr_factor

shares = [lr_factor(step, 10, 0.2) for step in range(10)]
assert shares[:2] == [0.5, 1]
assert abs(shares[6] - 0.5) < 1e-9

# %%
from vit_tutorial.optimizers import lr_factor

factors = np.array([[lr_factor(step, 220, warmup=0.1) for step in range(221)]])
plots.run_curves(range(221), {"warm-up of 10%": factors}, "step", "share of the highest rate")

# %% [markdown]
# The rise takes 22 of 220 steps. Then the rate falls slowly, quickly in the middle, and slowly again towards the end.

# %% claim="The rise takes 22 of 220 steps"
assert factors[0].argmax() in (21, 22)
assert (np.diff(factors[0, :22]) > 0).all()

# %% [markdown] deeper=true
# ## The schedule, written out
#
# The figure above, as a function of the step:


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

# %% [markdown] deeper=true
# ## What decays
#
# AdamW has one more force: in every step each weight is multiplied by
# 1 − rate × *weight decay*, so that what the data do not ask for fades away. A weight of 1 with a gradient
# of 0, rate 0.1, weight decay 0.5:

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
# Each step keeps 95% of it. For the matrices of linear layers that is wanted. The gain of a norm should be near 1 and not
# near 0, and a bias or a table of positions does no harm by being large. So the usual rule: matrices decay, and nothing else
# does. The patch projection counts as a matrix; its weight has the shape (D, C, P, P) of a convolution, P being the side of a
# patch.

# %% claim="Each step keeps 95% of it"
assert abs(sizes[0] - 0.95) < 1e-5
assert abs(sizes[-1] - 0.95**10) < 1e-5


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

# %% [markdown] deeper=true
# ## Measuring
#
# The last batch is usually smaller. **Predict.** Batches of 100, 100 and 10 images, of which 90, 90 and 1 are correct. Is the
# accuracy the mean of 90%, 90% and 10%?

# %%
correct, sizes = np.array([90, 90, 1]), np.array([100, 100, 10])
of_batches, of_images = 100 * (correct / sizes).mean(), 100 * correct.sum() / sizes.sum()
print(f"mean of the batches {of_batches:.1f}%, of all images {of_images:.1f}%")

# %% [markdown]
# The mean of the batches is far too low: the ten images of the last batch count as much as a hundred others. Another trap is
# the mode: a network in training mode drops paths (lesson 05), and one that was measured must go on training afterwards.

# %% claim="The mean of the batches is far too low"
assert of_images - of_batches > 20


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
# The package's version keeps every prediction with its label and its probability, for the pictures below, and restores the
# mode even when something fails.

# %%
from vit_tutorial.evaluation import *

# %% definition="vit_tutorial.evaluation.evaluate"

# %% [markdown]
# ## The loop
#
# Everything is there. This is a whole training. It holds your step and the schedule, and two things more: in every epoch the
# images come in a new order, and what fills no batch sits out the epoch (1,149 images make 17 batches of 64, and 61 wait).
# `parameter_groups` lets matrices shrink a little in each step and nothing else (*weight decay*). And `label_smoothing=0.05` deals 5% of
# each target out to all classes, so that 95.5% are asked of the true one and not 100%.

# %% claim="1,149 images make 17 batches of 64, and 61 wait"
assert divmod(len(train), 64) == (17, 61)

# %%
from vit_tutorial.optimizers import parameter_groups


def plain_fit(model, x, labels, epochs, batch_size, lr, warmup=0.1):
    """Train on normalised pixels x (n, C, H, W) and their labels (n,)."""
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.05))
    steps_per_epoch = len(x) // batch_size
    steps = epochs * steps_per_epoch
    for step in range(steps):
        at = step % steps_per_epoch
        if at == 0:
            order = torch.randperm(len(x))
        batch = order[at * batch_size : (at + 1) * batch_size]
        for group in optimizer.param_groups:
            group["lr"] = lr * lr_factor(step, steps, warmup)
        loss = F.cross_entropy(model(x[batch]), labels[batch], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


# %% [markdown]
# The package's `fit` has around these lines what makes it useful for hours: augmentation, a progress bar, stopping and resuming,
# several GPUs, words for what went wrong. Every choice of a training stands in a `TrainConfig`. Is it the same training?
# We train two networks from the same start, one with each. In float64, where rounding is small, all weights can be compared.
# Each batch holds all images, so that it does not matter in which order they come.

# %%
from vit_tutorial import TrainConfig, evaluate, fit

config = TrainConfig(epochs=6, batch_size=len(train), lr=6e-3, warmup=0.5)
by_fit, by_hand = fresh().double(), fresh().double()
rows = fit(by_fit, train, None, config)  # None: nothing is measured
x = normalize(train.images, mean, std).double()
plain_fit(by_hand, x, train.labels, epochs=6, batch_size=len(train), lr=6e-3, warmup=0.5)

# %%
pairs = list(zip(by_fit.parameters(), by_hand.parameters(), fresh().parameters(), strict=True))
apart = max((one - two).abs().max().item() for one, two, _ in pairs)
moved = max((one - start).abs().max().item() for one, _, start in pairs)
print(f"{len(pairs)} tensors moved by up to {moved:.2f}, and are {apart:.0e} apart at most")

# %% [markdown]
# They are equal, but for rounding. You know all of `fit` that changes a weight.

# %% claim="They are equal, but for rounding"
assert apart < 1e-7
assert moved > 0.01

# %% [markdown] deeper=true
# ## Inside the package's loop
#
# Two pieces of it are worth reading. What changes during a training (weights, the optimizers' memory, the number of the step) is
# kept in one object, `run`, which can be saved whole; `run.config` is the `TrainConfig`. A step begins with the images.
# These are the galleries above, one after the other, and which of it is done is said by the config. In the last
# steps (`run.clean`, a share of all that the config sets) images are changed less, and labels are not smoothed:

# %%
from vit_tutorial.train import *

# %% definition="vit_tutorial.train.augment_batch"

# %% [markdown]
# Then the network runs, and the loss is computed against these targets. The second piece changes the weights, in the order of
# your `my_train_step`. There may be two optimizers: Muon for the matrices in the blocks (more of it below), AdamW for the rest.
# `run.scaler` and `run.autocast` are for half precision on GPUs; elsewhere they do nothing. `run.average` is a running average of
# the weights (see the questions at the end).

# %% definition="vit_tutorial.train.update"

# %% [markdown]
# ## Which rate?
#
# The first number to choose is the highest learning rate. Take a few rates, each about three times the one before, train with each of
# them, and **choose on the validation images**. Three seeds each, since one training is one throw of the dice:

# %%
fixed = {"precision": "float32", "attention": "fused", "threads": 1}  # nothing is tried out


def train_with(seed=0, lr=6e-3, **choices):
    """Train a fresh network on `train`; also return its curve, measured on `validation`."""
    config = TrainConfig(epochs=8, batch_size=64, lr=lr, seed=seed, **fixed, **choices)
    model = fresh(seed)
    return model, fit(model, train, validation, config)


def ends(runs):
    """The accuracy after the last epoch, for each of several runs."""
    return [
        curve[-1]["test_accuracy"] for _, curve in runs
    ]  # of what `fit` was given to measure on


# %%
few_rates = [2e-3, 6e-3, 2e-2, 6e-2]
adamw = {rate: [train_with(seed, rate) for seed in range(3)] for rate in few_rates}
for rate, runs in adamw.items():
    print(f"{rate}: {np.mean(ends(runs)):.1f}%  {[round(accuracy, 1) for accuracy in ends(runs)]}")
best = max(adamw, key=lambda rate: np.mean(ends(adamw[rate])))
print("chosen:", best)

# %% [markdown]
# 0.006 has the highest mean, and 0.06 is too high by far: a factor of 3 beside the best rate costs two to four points, a factor
# of 10 about ten. The answer holds for this network, this batch size and this optimizer.

# %% claim="0.006 has the highest mean, and 0.06 is too high by far"
means = {rate: np.mean(ends(runs)) for rate, runs in adamw.items()}
assert best == 6e-3
assert means[6e-3] - means[6e-2] > 5

# %% claim="a factor of 3 beside the best rate costs two to four points, a factor of 10 about ten"
means = {rate: np.mean(ends(runs)) for rate, runs in adamw.items()}
assert 0.5 < means[6e-3] - means[2e-3] < 3.5
assert 1.5 < means[6e-3] - means[2e-2] < 5.5
assert 7 < means[6e-3] - means[6e-2] < 12.5

# %% [markdown] deeper=true
# ## A quick look at all rates
#
# Where to begin, with a network that nobody has trained before? A cheap way to the rate's order of magnitude: take a fresh
# network, raise the rate from tiny to huge, a little in every step, and write down the losses (Smith 2015,
# arXiv 1506.01186).


# %%
def find_rate(model, rates):
    """Take one step with each rate, and return the losses."""
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05))
    losses = []
    for step, rate in enumerate(rates):
        batch = order[step * 64 % 1088 :][:64]
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
smooth = np.convolve(found, np.ones(9) / 9, mode="valid")  # each with its eight neighbours
lowest = smooth.argmin() + 4
print(f"the loss is lowest around a rate of {rates[lowest]:.2g}")
plots.lr_finder_curve(rates, found, chosen=best)

# %% [markdown]
# Three regions. Below 0.0003 hardly anything happens. Then comes a slope, where it learns. Beyond the lowest point the loss rises again: it
# forgets faster than it learns. The rate that was chosen lies on the slope, below the lowest point. That is rough: the slope is about a factor of ten wide.

# %% claim="Below 0.0003 hardly anything happens"
assert np.mean(found[: np.searchsorted(rates, 3e-4)]) > 0.85 * math.log(10)

# %% claim="The rate that was chosen lies on the slope, below the lowest point"
assert best < 0.8 * rates[lowest]
assert found[np.searchsorted(rates, best)] < 0.85 * found[0]

# %% claim="Then comes a slope, where it learns. Beyond the lowest point the loss rises again"
assert 4e-3 < rates[lowest] < 0.06
assert smooth.min() < 0.65 * found[0]
assert np.mean(found[-10:]) > 1.25 * smooth.min()

# %% [markdown]
# ## Train now
#
# With the chosen rate. The curve is drawn again after every epoch, and a bar shows how long it will take.

# %%
from vit_tutorial import LiveCurve

config = TrainConfig(epochs=8, batch_size=64, lr=6e-3, **fixed)
model = fresh()
show = LiveCurve(chance=math.log(10), measured="Validation accuracy")
rows = fit(model, train, validation, config, on_epoch=show)

# %% [markdown]
# Read it from left to right. The first point lies below ln 10, where the training started: it is a mean over the first epoch. The loss falls
# quickly, then slowly. It does not reach 0, and cannot: 5% of each target is smoothed away, and the best possible loss is then 0.28
# (see the questions). The validation accuracy follows, up to about 95%.

# %% claim="The first point lies below ln 10"
assert rows[0]["loss"] < math.log(10) - 0.2

# %% claim="The loss falls quickly, then slowly"
drops = -np.diff([row["loss"] for row in rows])
assert (drops > 0).all()
assert drops[0] > 10 * drops[-1]

# %% claim="the best possible loss is then 0.28"
soft = torch.full((10,), 0.005)
soft[0] += 0.95
assert abs(-(soft * soft.log()).sum() - 0.28) < 0.005
assert rows[-1]["loss"] > 0.3

# %% claim="The validation accuracy follows, up to about 95%"
assert 92.5 < rows[-1]["test_accuracy"] < 97

# %% [markdown]
# ## One training is one throw of the dice
#
# Another seed gives other weights, another order, another curve. Does yours look normal? A tempting instrument: train three
# times, draw a band from the lowest to the highest curve, and be alarmed when a later one leaves it.
#
# **Predict.** Five more trainings of exactly the same recipe. How many of the five stay inside the band of the first three, in all of
# the eight epochs?

# %%
healthy = adamw[6e-3] + [train_with(seed) for seed in range(3, 8)]
curves = {
    name: np.array([[row[name] for row in curve] for _, curve in healthy])  # (8, epochs)
    for name in ("loss", "test_accuracy")
}
leaving = {}
for name, values in curves.items():
    outside = (values[3:] < values[:3].min(0)) | (values[3:] > values[:3].max(0))  # (5, epochs)
    leaving[name] = outside
    stay = 5 - outside.any(1).sum()
    print(f"{name:13} {stay} of 5 stay inside, {outside[:, -1].sum()} are outside at the end")

# %%
plots.runs_and_band(
    curves["loss"][:3], curves["loss"][3:], "loss, difference from the mean of three"
)

# %% [markdown]
# None: each of the five leaves the band somewhere (a dot), in the loss and in the accuracy. It needs no sick training to leave a band of three. Of four numbers that are drawn alike, each is equally likely to be the
# highest or the lowest: the fourth lies outside the other three with probability 2/4. And a curve has eight epochs in which
# to do it. A band of n runs lets a healthy one out with probability 2/(n + 1) in each epoch; only for n = 39 that is 5%.
#
# So do not compare a curve with a band. **Compare two recipes, several seeds each.** With the same seed two trainings start from the same weights
# and see the images in the same order, so their difference is one number for each seed. `student_interval` tells where the mean of
# such numbers would lie with endless seeds, with 95% confidence. Two of the rates above, and one more change, each against the healthy runs:

# %% claim="None: each of the five leaves the band somewhere (a dot), in the loss and in the accuracy"
assert leaving["loss"].any(1).all()
assert leaving["test_accuracy"].any(1).all()

# %% claim="A band of n runs lets a healthy one out with probability 2/(n + 1) in each epoch; only for n = 39"
throws = torch.rand(20_000, 4).argsort(1)[:, 3]  # the rank of a fourth among four
assert abs(((throws == 0) | (throws == 3)).float().mean() - 2 / 4) < 0.02
assert 2 / (39 + 1) == 0.05

# %%
from vit_tutorial.intervals import student_interval


def compared(changed_runs, runs):
    """The mean difference of the last accuracies, seed by seed, and its 95% interval."""
    differences = np.subtract(ends(changed_runs), ends(runs[: len(changed_runs)]))
    return differences.mean(), *student_interval(differences.tolist())


# %%
unsmoothed = [train_with(seed, label_smoothing=0.0) for seed in range(5)]
changes = {"rate 0.06": adamw[6e-2], "rate 0.002": adamw[2e-3], "no label smoothing": unsmoothed}
effects = {name: compared(runs, healthy) for name, runs in changes.items()}
for name, (change, low, high) in effects.items():
    print(f"{name:18} {len(changes[name])} seeds: {change:+.1f} points, {low:+.1f} to {high:+.1f}")

# %% [markdown]
# The rate of 0.06 is worse: its interval lies far below 0. For 0.002 the interval contains 0, so three seeds do not tell whether 0.006 was
# the better choice. That is not "they are equal". It is "the difference lies somewhere in here, and more seeds would tell more". And with five seeds, whose
# differences scatter little, even one point is seen: without label smoothing the accuracy is lower.

# %% claim="The rate of 0.06 is worse: its interval lies far below 0"
assert effects["rate 0.06"][2] < -2

# %% claim="For 0.002 the interval contains 0"
assert effects["rate 0.002"][1] < -1
assert effects["rate 0.002"][2] > 1

# %% claim="even one point is seen: without label smoothing the accuracy is lower"
assert -1.8 < effects["no label smoothing"][0] < -0.4
assert effects["no label smoothing"][2] < 0

# %% [markdown]
# ## Which optimizer?
#
# AdamW has a rival. **Muon** (Jordan et al. 2024) treats a matrix as a matrix and not as a heap of numbers: it turns each step of
# a matrix into the nearest orthogonal one, whose directions are all equally long. In `TrainConfig` it is one word, `optimizer="muon"`.
#
# **Predict.** Both are trained at the same four rates. Which of the two will be better at 0.002, and which at 0.02?

# %%
muon = {rate: [train_with(seed, rate, optimizer="muon") for seed in range(3)] for rate in few_rates}
by_rate = {"AdamW": adamw, "Muon": muon}
accuracies = {
    name: np.array([ends(of[rate]) for rate in few_rates]).T for name, of in by_rate.items()
}  # (seeds, rates)
plots.setting_curves(
    {
        "Each optimizer at each rate": (
            "learning rate",
            [str(rate) for rate in few_rates],
            accuracies,
        )
    },
    "validation accuracy, %",
)

# %% [markdown]
# At 0.002 AdamW is far ahead, at 0.02 Muon. Whoever compares the two at one rate has chosen the winner together with the rate.
# **Tune both, then compare:** AdamW at its 0.006, Muon at its 0.02 (0.06 is as good). Is the difference that is left real? Two questions are
# hidden in that, and each has its interval:
#
# - *These two networks:* is one better than the other on images of this kind? They have classified the same images, so count those on
#   which only one of them is correct.
# - *These two optimizers:* would it be so with other seeds? Take the difference for each seed.

# %% claim="At 0.002 AdamW is far ahead, at 0.02 Muon"
differences = accuracies["Muon"] - accuracies["AdamW"]  # (seeds, rates)
assert differences[:, 0].max() < -4
assert differences[:, 2].min() > 2.5

# %% claim="Muon at its 0.02 (0.06 is as good)"
assert abs(accuracies["Muon"][:, 2].mean() - accuracies["Muon"][:, 3].mean()) < 1
assert accuracies["Muon"][:, 2:].mean() > accuracies["Muon"][:, 1].mean() + 1

# %%
networks = {"AdamW": adamw[6e-3], "Muon": muon[2e-2]}
results = {
    name: [evaluate(network, validation, mean, std) for network, _ in runs]
    for name, runs in networks.items()
}
only = []
for seed, (a, m) in enumerate(zip(*results.values(), strict=True)):
    a_correct, m_correct = a.predictions == a.labels, m.predictions == m.labels  # (288,)
    only.append(((a_correct & ~m_correct).sum().item(), (m_correct & ~a_correct).sum().item()))
    intervals = ["{:.0f} to {:.0f}%".format(*result.interval) for result in (a, m)]
    print(f"seed {seed}: AdamW {intervals[0]}, Muon {intervals[1]};", end=" ")
    print(f"only AdamW correct: {only[-1][0]} images, only Muon: {only[-1][1]}")
print("Muon - AdamW: {:+.1f} points, {:+.1f} to {:+.1f}".format(*compared(muon[2e-2], adamw[6e-3])))

# %% [markdown]
# Each network's own interval is four or five points wide, and in each pair the two overlap. It would be wrong to conclude that
# they cannot be told apart: most images are easy for both and say nothing. Of those that one network has correct and the other wrong,
# nearly all go to Muon. And over the seeds the difference is above 0, too. So here Muon is better, tuned against tuned, by about three points, in
# eight epochs on the digits. (Only the rate was tuned. AdamW has more numbers that could be.)

# %% claim="Each network's own interval is four or five points wide"
widths = [np.subtract(*r.interval[::-1]) for runs in results.values() for r in runs]
assert min(widths) > 2
assert max(widths) < 8

# %% claim="in each pair the two overlap"
assert all(a.interval[1] > m.interval[0] for a, m in zip(*results.values(), strict=True))

# %% claim="nearly all go to Muon"
assert sum(muons for _, muons in only) > 3 * sum(adamws for adamws, _ in only)
assert sum(muons for _, muons in only) > 20

# %% claim="over the seeds the difference is above 0, too"
assert compared(muon[2e-2], adamw[6e-3])[1] > 0.3

# %% claim="by about three points"
assert 2 < compared(muon[2e-2], adamw[6e-3])[0] < 4.5

# %% [markdown]
# ## The test set, once
#
# All choices are made. Here is the whole procedure in one function, for these digits or for **your own images**: choose on validation
# images, train once more with the choice on all but the test set, and look at the test set once. Name a folder in `MY_FOLDER` that holds one folder of
# images for each class.

# %%
from dataclasses import replace

from vit_tutorial.data import load_train_test
from vit_tutorial.recipes import RECIPES

MY_FOLDER = ""  # for example "my_photos"; then take a few hundred images or more


def choose_and_train(whole, test, network, configs):
    """Choose among configs on a fifth of the images, train on all; return network, its Evaluation."""
    train, validation = hold_out(whole, 0.2, seed=0)
    accuracies = []
    for config in configs:
        torch.manual_seed(config.seed)
        curve = fit(VisionTransformer(network), train, validation, config)
        accuracies.append(curve[-1]["test_accuracy"])  # of the validation images
    chosen = configs[int(np.argmax(accuracies))]
    print(f"validation {np.round(accuracies, 1)}; chosen: {chosen.optimizer}, rate {chosen.lr}")
    torch.manual_seed(chosen.seed)
    model = VisionTransformer(network)
    fit(model, whole, None, chosen)  # None: the test set is not even there
    return model, evaluate(model, test, *channel_stats(whole.images))


# %%
network, configs = small, [config, replace(config, lr=2e-2, optimizer="muon")]
if MY_FOLDER:
    whole, test = load_train_test(MY_FOLDER, img_size=32)
    network = replace(RECIPES["laptop"].model, num_classes=len(whole.classes))
    configs = [replace(c, batch_size=32, epochs=40, flip=True, crop_padding=4) for c in configs]
model, result = choose_and_train(whole, test, network, configs)
print(f"test: {result.correct} of {result.n} correct: {result.accuracy:.1f}%,", end=" ")
print("95% interval {:.1f} to {:.1f}%".format(*result.interval))

# %% [markdown]
# About 98 of a hundred are correct. That is close to the validation accuracy, as it should be: a test that comes out much lower says
# that too much was chosen on too few images. The interval is that of a count of 360 images; it does not know of other seeds.
#
# An accuracy says how often. A **confusion matrix** says what is taken for what: a row is a true class, a column the predicted one.

# %% claim="About 98 of a hundred are correct"
assert 96.5 < result.accuracy < 99.7

# %% claim="That is close to the validation accuracy"
assert abs(result.accuracy - np.mean(ends(muon[2e-2]))) < 2

# %%
plots.confusion_matrix(result.confusion.numpy(), result.classes)

# %%
wrong = result.predictions != result.labels
plots.worst_mistakes(
    255 - test.images[wrong, 0].numpy() if test.images.shape[1] == 1 else as_pictures(test.images[wrong]),
    [test.classes[c] for c in result.labels[wrong]],
    [test.classes[c] for c in result.predictions[wrong]],
    result.confidences[wrong].tolist(),
)  # fmt: skip

# %% [markdown]
# Numbers say how often, pictures say why. The worst mistakes are those of which the network was surest; here with the 8×8 pixels that it saw.
# Some are hard for us, too. Always look at them: wrong labels, doubled images and classes that overlap can be seen here, one by one.
#
# The network can be kept: write a name into `KEEP_AS`. `load_checkpoint` reads it back, and in a terminal
# `vit-tutorial live --model my_vit.safetensors --out my_vit.html` makes one page of it that runs in a browser.

# %%
from vit_tutorial import save_checkpoint
from vit_tutorial.weights import Card

KEEP_AS = ""  # for example "my_vit.safetensors"
if KEEP_AS:
    statistics = channel_stats(whole.images)
    save_checkpoint(
        model, KEEP_AS, Card("my_vit", network, whole.classes, *statistics, data=whole.name)
    )

# %% [markdown] deeper=true
# ## Recall and precision
#
# Two questions can be asked of each class c. Of all images that *are* c, how many were classified as c? That is **recall**. Of all
# that were classified as c, how many are? That is **precision**.


# %% exercise="07.8"
def my_recall_precision(confusion):
    """Read recall and precision of every class off a confusion matrix.

    confusion: (classes, classes), whole numbers; row = true class, column = predicted class.
    Returns (classes, 2), float32, shares from 0 to 1: recall, precision. Where a class has no
    images, or was never predicted, the number that cannot be computed is 0.
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

# %% [markdown] deeper=true
# ## What an ingredient is worth
#
# A recipe has a dozen ingredients. What is each of them worth? Change *one* thing, keep all else, and train again: an **ablation**.
# Two were measured before this lesson with `benchmarks/ablation.py`, from {{results.ablation_cifar10.rows[0].epochs}} epochs of the `laptop` recipe on CIFAR-10
# (with a CLS token and all patches) and {{results.ablation_digits.rows[0].epochs}} epochs of the `digits` recipe.
#
# The table says by how many points of test accuracy each change moves it.
#
# | change | CIFAR-10 | digits |
# |---|---|---|
# | the recipe itself | {{results.ablation_cifar10.rows[0].test_accuracy_mean:.1f}}% | {{results.ablation_digits.rows[0].test_accuracy_mean:.1f}}% |
# | no positions | {{results.ablation_cifar10.rows[settings=pos_embed=none].difference:+.1f}} | {{results.ablation_digits.rows[settings=pos_embed=none].difference:+.1f}} |
# | sin-cos positions | {{results.ablation_cifar10.rows[settings=pos_embed=sincos].difference:+.1f}} | {{results.ablation_digits.rows[settings=pos_embed=sincos].difference:+.1f}} |
# | rotary positions | {{results.ablation_cifar10.rows[settings=pos_embed=rope].difference:+.1f}} | {{results.ablation_digits.rows[settings=pos_embed=rope].difference:+.1f}} |
# | the mean of the patch tokens in place of CLS | {{results.ablation_cifar10.rows[settings=pool=mean].difference:+.1f}} | {{results.ablation_digits.rows[settings=pool=mean].difference:+.1f}} |
# | patches of 8 pixels in place of 4 | {{results.ablation_cifar10.rows[settings=patch_size=8].difference:+.1f}} |  |
# | patches of 4 pixels in place of 2 |  | {{results.ablation_digits.rows[settings=patch_size=4].difference:+.1f}} |
# | shifts and mirroring left out | {{results.ablation_cifar10.rows[settings=crop_padding=0, flip=False].difference:+.1f}} |  |
# | shifts and mirroring put in |  | {{results.ablation_digits.rows[settings=crop_padding=4, flip=True].difference:+.1f}} |
# | label smoothing left out |  | {{results.ablation_digits.rows[settings=label_smoothing=0.0].difference:+.1f}} |
# | TrivialAugment put in |  | {{results.ablation_digits.rows[settings=trivial_augment=0.5].difference:+.1f}} |
# | rectangles erased |  | {{results.ablation_digits.rows[settings=erase=0.25].difference:+.1f}} |
# | mixup and CutMix put in |  | {{results.ablation_digits.rows[settings=mixup=0.3, cutmix=0.3].difference:+.1f}} |
# | drop path put in |  | {{results.ablation_digits.rows[settings=drop_path=0.1].difference:+.1f}} |
# | averaged weights put in |  | {{results.ablation_digits.rows[settings=ema=0.999].difference:+.1f}} |
# | AdamW, at Muon's rate | {{results.ablation_cifar10.rows[settings=optimizer=adamw].difference:+.1f}} | {{results.ablation_digits.rows[settings=optimizer=adamw].difference:+.1f}} |
#
# Two seeds in each row (three for the `digits` recipe itself), so first: what can be told from two? The seeds of the recipe alone reach {{results.ablation_digits.rows[0].test_accuracies[0]:.1f}} to
# {{results.ablation_digits.rows[0].test_accuracies[2]:.1f}}% on the digits. What differs from it by less than two points may be chance; for the digits that is label
# smoothing, TrivialAugment, erasing, mixup with CutMix, drop path, the way of pooling, the patches and the optimizer, all of them. Five paired seeds have told label smoothing
# from nothing above; two cannot.
#
# What is left is large:
#
# - **Shifts and mirroring** put into the digits cost most: up to 4 of their 8 pixels are shifted out of the picture, and half of them are
#   mirrored. On CIFAR-10 a mirrored cat is a cat, and yet leaving them out moves it by
#   {{results.ablation_cifar10.rows[settings=crop_padding=0, flip=False].difference:+.1f}}: in so few epochs each image is seen a few times, too rarely to be learned by heart.
# - **Averaged weights** ruin it. An average over about 1000 steps, in a training of 880, still holds much of
#   what the weights were at the beginning. Its decay has to fit the length of the training.
# - **Without positions** much is lost on both: shuffled patches are the same image to such a network (lesson 03). That there are
#   positions matters more than which; on the digits the rotary ones are behind.
# - **Patches of 8 pixels** make a quarter as many tokens on CIFAR-10, and cost a lot ({{results.ablation_cifar10.rows[settings=patch_size=8].difference:+.1f}}).
# - **AdamW at Muon's rate** is not AdamW. You have seen what a comparison at the other one's rate is worth: this row says that the rate cannot be kept when the optimizer
#   is changed, and nothing more.
#
# **What an ingredient is worth depends on the data and on how long you train.** TrivialAugment, erasing, mixup, CutMix and drop path keep a network
# from learning its images by heart. Where it has no time to, they can only make the task harder.

# %% claim="What differs from it by less than two points may be chance"
import json
from pathlib import Path

import vit_tutorial

folder = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results"
rows_of = json.loads((folder / "ablation_digits.json").read_text())["rows"]
spread = [
    np.std(row["test_accuracies"], ddof=1) for row in rows_of if row["settings"] != "ema=0.999"
]
pooled = np.sqrt(np.mean(np.square(spread)))
assert 1.2 < 2.0 * pooled * np.sqrt(1 / 2 + 1 / 3) < 2.4

# %% claim="for the digits that is label smoothing, TrivialAugment, erasing, mixup with CutMix, drop path, the way of pooling, the patches and the optimizer"
import json
from pathlib import Path

import vit_tutorial

folder = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results"
rows_of = json.loads((folder / "ablation_digits.json").read_text())["rows"]
large = {row["settings"] for row in rows_of if abs(row["difference"]) >= 2}
assert large == {"crop_padding=4, flip=True", "ema=0.999", "pos_embed=none", "pos_embed=rope"}

# %% claim="put into the digits cost most"
import json
from pathlib import Path

import vit_tutorial

folder = Path(vit_tutorial.__file__).parents[1] / "benchmarks" / "results"
rows_of = json.loads((folder / "ablation_digits.json").read_text())["rows"]
order_of = sorted(rows_of, key=lambda row: row["difference"])
assert [row["settings"] for row in order_of[:3]] == [
    "crop_padding=4, flip=True", "ema=0.999", "pos_embed=none",
]  # fmt: skip

# %% claim="An average over about 1000 steps, in a training of 880, still holds much of"
steps = 40 * (1437 // 64)
assert steps == 880
assert 0.999 ** (0.9 * steps) > 0.4  # the share of the weights after the warm-up of a tenth

# %% [markdown] deeper=true
# ## Photographs: the recipes
#
# With a real data set it looks the same and takes longer. With `FULL = True` the next cell trains the package's `laptop` recipe
# on CIFAR-10, for as many epochs as fit into ten minutes here, after a download of 170 MB if it is not on this computer yet. On
# {{results.accuracy_laptop.hardware}} these were {{results.accuracy_laptop.rows[0].epochs}} epochs, and the test accuracy
# {{results.accuracy_laptop.rows[0].test_accuracy_mean:.1f}}%.

# %%
import os

from vit_tutorial.data import cifar10
from vit_tutorial.train import epochs_within

FULL = False

if FULL:
    torch.set_num_threads(os.cpu_count())
    laptop, sets = RECIPES["laptop"], (cifar10("train"), cifar10("test"))
    large = VisionTransformer(laptop.model)
    laptop_config = replace(laptop.train, epochs=epochs_within(10, large, *sets, laptop.train))
    fit(large, *sets, laptop_config, on_epoch=LiveCurve(chance=math.log(10)))
    torch.set_num_threads(1)

# %%
from vit_tutorial import load_checkpoint

for name, recipe in RECIPES.items():
    print(f"{name:10} {recipe.about}: {recipe.train.epochs} epochs")
_, card = load_checkpoint("cifar10")
done = card.training
print(
    f"the network of lesson 00: {done['epochs']} epochs, {done['seconds'] / 60:.0f} minutes on",
    end=" ",
)
print(
    f"{done['hardware']}; {card.evaluation['accuracy']:.1f}% of {card.evaluation['n']:,} test images"
)

# %% [markdown]
# The numbers of epochs are what a recipe was made for; `epochs` can be set lower, and the schedule fits itself to it. The network that comes with this course is
# no product of a GPU: it is an earlier form of the `overnight` recipe, cut to 20 epochs, and a good four hours of two processor cores.

# %% claim="an earlier form of the `overnight` recipe, cut to 20 epochs, and a good four hours of two processor cores"
assert "--recipe overnight" in card.training["command"]
assert card.training["epochs"] == 20
assert card.training["trivial_augment"] != RECIPES["overnight"].train.trivial_augment
assert 4 < card.training["seconds"] / 3600 < 4.6
assert "2 cores" in card.training["hardware"]

# %% [markdown]
# ## Reading a sick curve
#
# Five trainings of our small network with AdamW, 153 steps each (nine epochs of the whole set). All five run without an error. In grey, for comparison,
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
    early, middle, late = (np.mean(sick.losses[at : at + 17]) for at in (0, 68, 136))
    print(
        f"{letter:8} loss {sick.losses[0]:.2f}, then {early:.2f} ... {middle:.2f} ... {late:.3f}",
        end="",
    )
    print(f"   highest {max(sick.losses):.2f}   validation accuracy {sick.accuracies[-1]:.0f}%")

# %% [markdown]
# What to look at on any curve, in this order:
#
# | look at | it should | if not |
# |---|---|---|
# | the first loss | be near ln K | the start is too wild, or the loss is computed of something else |
# | the first epoch | fall | rate too low or too high; overfit one batch |
# | its noise | be small against the fall | rate too high, batch too small, order not shuffled |
# | the end | go flat, for the rate goes to 0. Flat does not mean finished: whether more epochs help, only a longer training tells | the schedule did not run to its end |
# | the validation accuracy | follow the loss | too few images, or the validation images are treated otherwise |
#
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
        "C": "validation not normalised",
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
# - **D** repeats the same spikes in every epoch of 17 steps: it learns "all is 0", then "all is 1", and forgets.
# - **E** reaches a loss of 0 within half of the time, and the validation accuracy stops there. It knows its 128 images by heart.
#
# **The common wrong answer** is "more epochs" for all five. That cures none of them: some creep up, and stay sick.

# %% claim="its loss cannot come below 1.46"
assert 1.46 < min(patients["A"].losses) < 1.5
assert abs(patients["A"].accuracies[-1] - healthy.accuracies[-1]) < 3

# %% claim="is thrown far above ln 10, again and again"
losses_of = np.array(patients["B"].losses)
assert (losses_of > math.log(10) + 0.1).sum() > 20
assert losses_of.max() > 3.5
assert losses_of[-30:].max() < 2.3

# %% claim="has exactly the healthy loss, step by step"
assert patients["C"].losses == healthy.losses
assert patients["C"].accuracies[-1] < healthy.accuracies[-1] - 8

# %% claim="repeats the same spikes in every epoch of 17 steps"
epochs_of = np.array(patients["D"].losses).reshape(9, 17)[2:]
assert np.corrcoef(epochs_of)[np.triu_indices(7, 1)].mean() > 0.3

# %% claim="reaches a loss of 0 within half of the time, and the validation accuracy stops there"
assert max(patients["E"].losses[76:]) < 0.05
assert np.ptp(patients["E"].accuracies[4:]) < 2
assert patients["E"].accuracies[-1] < healthy.accuracies[-1] - 5

# %% [markdown]
# How all eight were planted: a single line each, in the loop that you know. The other three can be had as well, for example with
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
# | targets: smoothed, mixed | (B, K), rows sum to 1 |
# | logits | (B, K) |
# | loss | one number; near ln K at the start |
# | gradients | one for each parameter, of its shape |
# | confusion matrix | (K, K), rows are true classes |
#
# One step: clear, forward, loss, backward, clip, step. Before the first training: the loss at the start, and one batch by heart.
# Choices: on validation images, tuned against tuned, several paired seeds. At the end: the test set, once, the matrix and the worst
# mistakes. `choose_and_train` chooses, trains again and looks at the test set once, on a folder of yours. It takes one seed for
# each configuration; several, paired, are yours to add.

# %% [markdown] deeper=true
# ## The questions people ask
#
# **"My loss does not go to 0. Is that bad?"** With smoothed targets it cannot. The lowest cross-entropy is reached when the network
# says exactly the targets, and then the loss is their entropy.

# %%
soft = torch.full((10,), 0.05 / 10)
soft[3] += 0.95
least = -(soft * soft.log()).sum()
assert_close(F.cross_entropy(soft.log()[None], soft[None]), least)
print(f"with smoothing 0.05 and ten classes: {least:.3f}; ours ended at {rows[-1]['loss']:.3f}")

# %% [markdown]
# Ours is still above it, by almost half.
#
# **"Can I keep the best epoch?"** If you choose it on the test set, you have trained on the test set a little.
#
# **Predict.** Forty networks that only guess, on 288 images of ten classes. What is the accuracy of the best?

# %% claim="Ours is still above it, by almost half"
assert 1.3 < rows[-1]["loss"] / least.item() < 1.6

# %%
torch.manual_seed(0)
guesses = torch.randint(10, (40, len(validation)))
guessed = 100 * (guesses == validation.labels).float().mean(1)
print(f"mean {guessed.mean():.1f}%, the best of forty {guessed.max():.1f}%")

# %% [markdown]
# Four points better than chance, by nothing but choosing. The package reports the last epoch. To choose one, use validation images, and
# report what the test images say.
#
# **"What is the average of the weights good for?"** Steps of a noisy gradient jump around a good place, and the mean of the places is
# better than most of them. An exponential moving average (EMA) needs one copy of the weights: after each step,
# average = decay × average + (1 − decay) × weights. Here, 1000 noisy numbers around 3:

# %% claim="Four points better than chance, by nothing but choosing"
assert 13 < guessed.max() < 16

# %%
torch.manual_seed(0)
weights, decay = 3 + torch.randn(1000), 0.99
average, path = weights[0], []
for weight in weights:
    average = decay * average + (1 - decay) * weight
    path.append(average.item())
off_single, off_average = weights[500:].std().item(), np.std(path[500:])
print(f"single numbers: {off_single:.2f} away from 3, the average: {off_average:.2f}")
print(f"by formula: {math.sqrt((1 - decay) / (1 + decay)):.2f}")

# %% [markdown]
# The average lies many times closer to 3 than a single number. It needs time to get there: about 1 / (1 − decay) steps.
#
# **"Do I need a GPU?"** To learn how it works: no. For the two largest of the recipes: yes, or much patience.
#
# **"It stops with CUDA out of memory."** Halve the batch size, and try a lower rate. `fit` tries smaller batches and says which
# one would fit.
#
# **"Why is my first epoch so slow?"** On a GPU, `compile=True` translates the network first, which takes up to a minute once. In a
# notebook on a CPU, small networks are slower on many cores than on one: that is why this lesson sets one thread.

# %% claim="The average lies many times closer to 3 than a single number"
assert off_average < off_single / 5

# %% [markdown] deeper=true
# ## A stretch
#
# - Find an augmentation that helps the digits: `crop_padding=1`, `trivial_augment=0.5`, `mixup=0.3`, for 8 epochs and for 60. Choose with
#   `train_with` and `compared`, five seeds each, on the validation images. Does its worth change sign?
# - Is 0.02 Muon's best rate for ten times as many epochs, too? And AdamW's 0.006?
# - Stop a training with the stop button (■) after a few epochs, having given it `save_to="runs/mine"`, and go on with `resume=True`. Is
#   the last loss the same as without the pause, to the last digit?
# - What is each ingredient worth to a recipe of yours? `benchmarks/ablation.py` changes one thing at a time: on the digits it takes some
#   minutes (`python benchmarks/ablation.py --data digits --recipe digits --epochs 10`).
# - In a terminal: `vit-tutorial train --recipe laptop --data cifar10 --out my_vit.safetensors`.
