"""Mistakes that learners make in lesson 06: a wrong function each, and what to say of it."""

import math
from collections.abc import Callable, Iterable
from functools import reduce

from torch import Tensor

# 06.1. How tokens (B, T, D) become one vector per image, right first; and what is wrong otherwise.
CLS_PICKS: list[tuple[Callable, str]] = [
    (lambda x: x[:, 0], ""),
    (
        lambda x: x[0],
        '"cls": this takes all tokens of the first image, not the first token of every image: '
        "which dimension is the batch?",
    ),
    (lambda x: x[:, -1], '"cls": this is the last token; CLS stands in front.'),
    (lambda x: x[:, 1], '"cls": this is the first patch; CLS stands in front of it.'),
    (lambda x: x.mean(1), '"cls": this takes the mean, whatever `pool` says.'),
]
MEAN_PICKS: list[tuple[Callable, str]] = [
    (lambda x: x.mean(1), ""),
    (
        lambda x: x[:, 1:].mean(1),
        '"mean": the first token is left out, but with "mean" there is no CLS token: all T tokens '
        "are patches.",
    ),
    (lambda x: x.mean(0), '"mean": this is the mean over the images; a mean over tokens is asked.'),
    (lambda x: x.sum(1), '"mean": this is the sum over the tokens, not their mean.'),
    (lambda x: x.amax(1), '"mean": this is the maximum over the tokens, not their mean.'),
    (lambda x: x[:, 0], '"mean": this reads the first token, whatever `pool` says.'),
]
READINGS: list[tuple[Callable, str]] = [
    (lambda x, w, b: x @ w.T + b, ""),
    (lambda x, w, b: x @ w.T, "The bias is missing."),
    (
        lambda x, w, b: (x @ w.T + b).softmax(-1),
        "A softmax is in your classifier. Logits are wanted: the loss brings its own softmax.",
    ),
    (
        lambda x, w, b: (x @ w.T + b).log_softmax(-1),
        "A log-softmax is in your classifier. Logits are wanted: the loss brings its own.",
    ),
    (lambda x, w, b: (x @ w.T + b).argmax(-1), "Return all logits, not the class of the largest."),
]


def chain(x: Tensor, functions: Iterable[Callable]) -> Tensor:
    """Give `x` to the first function, what it returns to the next, and so on."""
    return reduce(lambda value, function: function(value), functions, x)


# 06.2. i: images, then the pieces in their order; b: the blocks, n: the norm, h: the head.
VITS: dict[str, Callable] = {
    "The final norm is missing, between the last block and the classifier.": (
        lambda i, e, c, p, b, n, h: h(chain(p(c(e(i))), b))
    ),
    "The norm comes before the blocks; here it is the last thing before the classifier.": (
        lambda i, e, c, p, b, n, h: h(chain(n(p(c(e(i)))), b))
    ),
    "The norm is applied after every block; it comes once, after the last.": (
        lambda i, e, c, p, b, n, h: h(chain(p(c(e(i))), [f for block in b for f in (block, n)]))
    ),
    "The norm is applied before the blocks too; it comes once, after the last.": (
        lambda i, e, c, p, b, n, h: h(n(chain(n(p(c(e(i)))), b)))
    ),
    "The norm comes after the classifier, which reads normalised tokens.": (
        lambda i, e, c, p, b, n, h: n(h(chain(p(c(e(i))), b)))
    ),
    "The blocks are missing.": lambda i, e, c, p, b, n, h: h(n(p(c(e(i))))),
    "The positions are missing.": lambda i, e, c, p, b, n, h: h(n(chain(c(e(i)), b))),
    "The blocks run in reverse order.": (
        lambda i, e, c, p, b, n, h: h(n(chain(p(c(e(i))), list(b)[::-1])))
    ),
    "Every block gets the same tokens, and only the last one's answer is used: does each get what "
    "the one before returned?": lambda i, e, c, p, b, n, h: h(n(b[-1](p(c(e(i)))))),
    "Only the first block runs.": lambda i, e, c, p, b, n, h: h(n(b[0](p(c(e(i)))))),
    "The first block runs every time; each has its turn once.": (
        lambda i, e, c, p, b, n, h: h(n(chain(p(c(e(i))), [b[0]] * len(b))))
    ),
    "You add the input of every block to its output; a block does so itself.": (
        lambda i, e, c, p, b, n, h: h(
            n(chain(p(c(e(i))), [lambda x, block=block: x + block(x) for block in b]))
        )
    ),
    "The positions are added again for every block; they are added once.": (
        lambda i, e, c, p, b, n, h: h(n(chain(c(e(i)), [f for block in b for f in (p, block)])))
    ),
    "A softmax comes after the classifier. Logits are wanted: the loss brings its own softmax.": (
        lambda i, e, c, p, b, n, h: h(n(chain(p(c(e(i))), b))).softmax(-1)
    ),
    "The classifier is missing: these are tokens.": lambda i, e, c, p, b, n, h: n(
        chain(p(c(e(i))), b)
    ),
}

# 06.5. The floor for c classes.
FLOORS: dict[str, Callable[[int], float]] = {
    "That is the floor without the extra softmax. With it, how large can p be?": lambda c: 0.0,
    "Right for ten classes only: how many others are there in general?": (
        lambda c: math.log((math.e + 9) / math.e)
    ),
    "That is where the loss starts, all classes alike; the floor is lower.": math.log,
    "The sign: a loss is minus the logarithm of a share.": (
        lambda c: -math.log((math.e + c - 1) / math.e)
    ),
    "That is the largest share that the right class can get; the loss is minus its logarithm.": (
        lambda c: math.e / (math.e + c - 1)
    ),
    "One class too many: the right one is among the C, so how many others are there?": (
        lambda c: math.log((math.e + c) / math.e)
    ),
    "This is the logarithm to base 10; cross-entropy uses the natural one.": (
        lambda c: math.log10((math.e + c - 1) / math.e)
    ),
    "This is the logarithm to base 2; cross-entropy uses the natural one.": (
        lambda c: math.log2((math.e + c - 1) / math.e)
    ),
    "The right class is missing: from this, its own logit, which is 1, is taken away.": (
        lambda c: math.log(math.e + c - 1)
    ),
}
