"""Sick trainings for lesson 07: one small network, one loop, and what can go wrong in it.

Reading this file gives the diagnoses away.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from vit_tutorial.data import channel_stats, digits, hold_out
from vit_tutorial.images import normalize
from vit_tutorial.model import VisionTransformer, ViTConfig
from vit_tutorial.optimizers import lr_factor, parameter_groups

SMALL = ViTConfig(
    img_size=8, patch_size=4, in_chans=1, embed_dim=64, depth=2, num_heads=4, mlp_ratio=2.0,
    pool="mean",
)  # fmt: skip
BATCH, STEPS, LOOK_EVERY = 64, 153, 17  # steps: nine epochs of the digits not held out

CAUSES = {
    "rate too high": "the learning rate is 100 times too high",
    "rate too low": "the learning rate is 100 times too low",
    "not cleared": "gradients are never cleared, so each step adds to all before",
    "not shuffled": "the images come sorted by class, in every epoch",
    "other labels": "images and labels were shuffled apart: a label is of another image",
    "softmax twice": "a softmax stands at the end of the network, before the loss",
    "validation not normalised": "training images are normalised, validation images are not",
    "too few images": "only 128 of the 1149 training images are used, over and over",
}
PATIENTS = {
    "A": "softmax twice",
    "B": "rate too high",
    "C": "validation not normalised",
    "D": "not shuffled",
    "E": "too few images",
}


@dataclass(frozen=True)
class Curves:
    """What was seen of one training: a loss for every step, an accuracy now and then."""

    losses: list[float]
    steps: list[int]  # after so many steps ...
    accuracies: list[float]  # ... the validation accuracy, in percent


def train_patient(illness: str = "") -> Curves:
    """Train the small network on the digits for 153 steps, with an illness from `CAUSES` or none.

    Raises:
        ValueError: an unknown illness.
    """
    if illness and illness not in CAUSES:
        raise ValueError(f"expected one of {', '.join(CAUSES)}, got {illness!r}")
    torch.manual_seed(0)
    train, validation = hold_out(digits("train"), 0.2, seed=0)
    mean, std = channel_stats(train.images)
    pixels, labels = normalize(train.images, mean, std), train.labels
    held_out = normalize(validation.images, mean, std)
    if illness == "validation not normalised":
        held_out = validation.images / 255
    if illness == "other labels":
        labels = labels[torch.randperm(len(labels))]
    if illness == "too few images":
        pixels, labels = pixels[:128], labels[:128]
    rate = 5e-3 * {"rate too high": 100, "rate too low": 0.01}.get(illness, 1)
    model = VisionTransformer(SMALL)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05), fused=True)
    losses, steps, accuracies = [], [], []
    for step in range(STEPS):
        offset = step % (len(labels) // BATCH) * BATCH
        if offset == 0:  # a new epoch
            order = torch.randperm(len(labels))
            if illness == "not shuffled":
                order = labels.argsort(stable=True)
        batch = order[offset : offset + BATCH]
        logits = model(pixels[batch])
        if illness == "softmax twice":
            logits = logits.softmax(dim=1)
        loss = F.cross_entropy(logits, labels[batch])
        if illness != "not cleared":
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * lr_factor(step, STEPS, warmup=0.1)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % LOOK_EVERY == 0:
            with torch.inference_mode():
                right = (model(held_out).argmax(dim=1) == validation.labels).float().mean()
            steps.append(step + 1)
            accuracies.append(100 * right.item())
    return Curves(losses, steps, accuracies)


def patient(letter: str) -> Curves:
    """Train patient "A" to "E", who has one of the illnesses.

    Raises:
        ValueError: there is no such patient.
    """
    if letter not in PATIENTS:
        raise ValueError(f"expected a patient from A to E, got {letter!r}")
    return train_patient(PATIENTS[letter])
