"""Lesson 00: right answers, each another way; wrong ones and the cause that must be named."""

import numpy as np


def by_divmod(weights, grid):
    return divmod(weights[1:].argmax().item(), grid[1])


def by_reshape(weights, grid):
    patches = weights[1:].reshape(grid)
    return (patches == patches.max()).nonzero()[0]  # a tensor of two


def by_numpy(weights, grid):
    patches = weights.detach().numpy()[1:].reshape(grid)
    return np.unravel_index(patches.argmax(), patches.shape)


def by_loops(weights, grid):
    best = (0, 0)
    for row in range(grid[0]):
        for column in range(grid[1]):
            if weights[1 + row * grid[1] + column] > weights[1 + best[0] * grid[1] + best[1]]:
                best = (row, column)
    return list(best)


def by_tensors(weights, grid):
    index = weights[1:].argmax()
    return index // grid[1], index % grid[1]


RIGHT = {"00.1": [by_divmod, by_reshape, by_numpy, by_loops, by_tensors]}


def changes_its_input(weights, grid):
    weights[0] = 0
    return divmod(weights.argmax().item() - 1, grid[1])


def only_the_middle(weights, grid):
    return grid[0] // 2, grid[1] // 2


def never_ends(weights, grid):
    while True:
        pass


def endless_rows(weights, grid):
    while True:
        yield 0


WRONG = {
    "00.1": {
        "CLS kept": (lambda w, g: divmod(w.argmax().item(), g[1]), r"`weights\[0\]` is CLS itself"),
        "CLS can win": (lambda w, g: divmod(w.argmax().item() - 1, g[1]), "CLS takes part"),
        "one too far": (
            lambda w, g: divmod(w[1:].argmax().item() + 1, g[1]),
            "first patch is number 0",
        ),
        "last left out": (lambda w, g: divmod(w[:-1].argmax().item(), g[1]), "left out the last"),
        "least": (lambda w, g: divmod(w[1:].argmin().item(), g[1]), "least, not most"),
        "swapped": (lambda w, g: divmod(w[1:].argmax().item(), g[1])[::-1], "swapped"),
        "by rows": (
            lambda w, g: divmod(w[1:].argmax().item(), g[0]),
            "divide by the number of rows",
        ),
        "row by rows": (
            lambda w, g: (w[1:].argmax().item() // g[0], w[1:].argmax().item() % g[1]),
            "The row is wrong",
        ),
        "down the columns": (
            lambda w, g: divmod(w[1:].argmax().item(), g[0])[::-1],
            "count down the columns",
        ),
        "square": (
            lambda w, g: divmod(w[1:].argmax().item(), int((len(w) - 1) ** 0.5)),
            "Right for squares only",
        ),
        "counted from 1": (
            lambda w, g: (w[1:].argmax().item() // g[1] + 1, w[1:].argmax().item() % g[1] + 1),
            "counted from 0",
        ),
        "flat index": (lambda w, g: w[1:].argmax(), "got one, .* place in the sequence"),
        "flat int": (lambda w, g: w[1:].argmax().item(), "got one, .* place in the sequence"),
        "flat numpy": (lambda w, g: w[1:].detach().numpy().argmax(), "got one, .* in the sequence"),
        "fraction": (lambda w, g: (w[1:].argmax().item() / g[1], 0), "row must be a whole number"),
        "the weights": (lambda w, g: w[1:].reshape(g), r"got a tensor of shape \(2, 3\)"),
        "three numbers": (lambda w, g: (0, 0, 0), "got a tuple of length 3"),
        "a word": (lambda w, g: object(), "got an object of type object"),
        "None": (lambda w, g: None, "returned None"),
        "by luck": (only_the_middle, r"Right for \d+ of 42 .* expected \(\d, \d\), got \(\d, \d\)"),
        "one argument": (lambda w: (0, 0), "must take 2 arguments"),
        "in place": (changes_its_input, "changes `weights`"),
        "called": ((0, 1), "without calling it: got a tuple"),
    }
}

# What no message and no hint may hold: it would be the answer.
SECRETS = {"00.1": ("divmod", "argmax", "[1:]", "grid[1]", "//", "%")}
