"""Lesson 00: how the strongest patch is looked for, and what goes wrong, with its cause."""

# How a token is picked from the weights (T,), right first; and what is wrong otherwise.
PICKS = [
    (lambda w: w[1:].argmax(), ""),
    (
        lambda w: w.argmax(),
        "`weights[0]` is CLS itself, not a patch: leave it out before you look.",
    ),
    (
        lambda w: w.argmax() - 1,
        "The weight of CLS takes part in the search, and it can be the largest: leave it out.",
    ),
    (
        lambda w: w[1:].argmax() + 1,
        "One too far: CLS is left out already, so that the first patch is number 0.",
    ),
    (lambda w: w[:-1].argmax(), "CLS stands in front of the patches; you left out the last patch."),
    (lambda w: w[1:].argmin(), "This is the patch that got least, not most."),
    (lambda w: w.argmin(), "This is the token that got least; and CLS is not a patch."),
]

# From the number i of a patch to its place on a grid of r rows and c columns.
PLACES = [
    (lambda i, r, c: (i // c, i % c), ""),
    (
        lambda i, r, c: (i % c, i // c),
        "Row and column are swapped: the row comes first, not x before y.",
    ),
    (
        lambda i, r, c: (i // r, i % r),
        "You divide by the number of rows. Patches are counted along a row: how many are in one?",
    ),
    (
        lambda i, r, c: (i // r, i % c),
        "The row is wrong: how many patches does one row hold? Not as many as there are rows.",
    ),
    (
        lambda i, r, c: (i // c, i % r),
        "The column is wrong: it starts anew after as many patches as one row holds.",
    ),
    (
        lambda i, r, c: (i % r, i // r),
        "You count down the columns; patches are counted along the rows, like words on a page.",
    ),
    (
        lambda i, r, c: (i // int((r * c) ** 0.5), i % int((r * c) ** 0.5)),
        "Right for squares only: take the number of columns from `grid`, not from a square root.",
    ),
    (lambda i, r, c: (i // c + 1, i % c + 1), "Rows and columns are counted from 0."),
]
