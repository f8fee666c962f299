"""The ways to explain what a network says by its attention: their names, and what each is called.

A new one needs a line here and its branch in `attention`: in `relevance` where it explains a
class, else in `heat_map`. The command line, the explorer (those for a class) and the benchmark take
it from here. Nothing heavy is imported, so that `--help` can name them at once.
"""

from typing import Any

METHODS = {  # name in the API and on the command line -> label in pictures and buttons
    "last_layer": "Attention of the last layer",
    "rollout": "Attention rollout",
    "chefer": "Chefer",
    "grad_rollout": "Gradient rollout",
    "legrad": "LeGrad",
    "grad_cam": "Grad-CAM",
    "token_grad_cam": "Token Grad-CAM",
}
RELEVANCE_METHODS = tuple(METHODS)[2:]  # those that are for a class
OPTIONS = {  # of an explanation -> its default, and the methods that it changes
    "target": (None, RELEVANCE_METHODS),
    "query": ("head", tuple(name for name in METHODS if name not in ("legrad", "token_grad_cam"))),
    "head_fusion": ("mean", ("rollout",)),
    "discard_ratio": (0.0, ("rollout",)),
}


def require_options(method: str, **options: Any) -> None:
    """See that a method is one of `METHODS`, and that each of its `OPTIONS` changes its map.

    Raises:
        ValueError: it is not, or an option would be ignored.
    """
    require_method(method)
    for name, value in options.items():
        default, users = OPTIONS[name]
        if value != default and method not in users:
            raise ValueError(
                f"method {method!r} does not use {name}, got {value!r}: leave it out, or choose "
                f"{', '.join(users)}"
            )


def require_method(method: str) -> None:
    """See that a method is one of `METHODS`.

    Raises:
        ValueError: it is not.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
