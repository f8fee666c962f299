"""Tables of measured numbers, made from benchmarks/results; benchmarks/README.md has all of them.

A page has one where it says <!-- table: NAME -->, a lesson where its text says {{table.NAME}}.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

Column = str | Callable[[dict], str]


def accuracy(row: dict) -> str:
    """Say an accuracy in percent, with its standard deviation where there are several seeds."""
    if row.get("measured") is False:
        return "not measured"
    spread = row.get("test_accuracy_std")
    return f"{row['test_accuracy_mean']:.1f}{'' if spread is None else f' ± {spread:.1f}'}%"


def number_of(name: str, form: str = "") -> Column:
    """Return what shows the field `name` of a row, or a dash where the row has none."""
    return lambda row: "–" if row.get(name) is None else format(row[name], form)


def seeds(row: dict) -> str:
    """Say how many seeds there were."""
    return str(len(row["seeds"])) if "seeds" in row else "–"


def duration(row: dict) -> str:
    """Say how long one training took, in seconds or in minutes."""
    seconds = row["seconds"]
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def faith(metric: str) -> str:
    """Return the form of a score with its interval."""
    return f"{{{metric}_mean:.3f}} ({{{metric}_low:.3f}}–{{{metric}_high:.3f}})"


def gain(metric: str) -> str:
    """Return the form of a score's difference from that of random maps, with its interval."""
    return f"{{{metric}_gain:+.2f}} ({{{metric}_gain_low:+.2f}} to {{{metric}_gain_high:+.2f}})"


def spread(name: str) -> Column:
    """Return what shows the mean of several seeds, and how far they stray."""
    return lambda row: accuracy(
        {"test_accuracy_mean": row[f"{name}_mean"], "test_accuracy_std": row[f"{name}_std"]}
    )


def between(row: dict) -> str:
    """Say a difference in points, with its interval where there are several seeds."""
    text = f"{row['difference']:+.1f}"
    if row["difference_low"] is None:
        return text
    return f"{text} ({row['difference_low']:+.1f} to {row['difference_high']:+.1f})"


def signed(name: str, form: str = "+.2f") -> Column:
    """Return what shows a difference with its interval, or a dash where a row has none."""
    shown = f"{{{name}:{form}}} ({{{name}_low:{form}}} to {{{name}_high:{form}}})"
    return lambda row: shown.format(**row) if name in row else "–"


def with_interval(name: str, form: str, unit: str = "") -> str:
    """Return the form of a mean with its interval."""
    return f"{{{name}:{form}}}{unit} ({{{name}_low:{form}}}–{{{name}_high:{form}}})"


NOT_MEASURED = "*Not measured yet: `{}`.*\n"
RATIO = "×{ratio_median:.2f} ({ratio_low:.2f}–{ratio_high:.2f})"
TRAIN_STEP: dict[str, Column] = {
    "ours": "{ours}",
    "against": "{against} ({version})",
    "our speed / theirs": RATIO,
    "our images/s": "{images_per_second:,}",
    "theirs": "{their_images_per_second:,}",
}
ABLATION: dict[str, Column] = {
    "change": "{change}",
    "epochs": number_of("epochs"),
    "seeds": seeds,
    "test accuracy": accuracy,
    "difference": number_of("difference", "+z.1f"),
}
STEP = (
    "One training step: forward, backward, AdamW (width {embed_dim}, depth {depth}, batches of "
    "{batch_size}; median and range)"
)

# Results file -> what its table is about, and how its rows are shown. A field in the title is that
# of the first row.
RESULTS: dict[str, tuple[str, dict[str, Column]]] = {
    "ablation_cifar10": ("What each ingredient is worth, on photographs", ABLATION),
    "ablation_digits": ("What each ingredient is worth, on the digits", ABLATION),
    "train_step_cpu": (STEP, TRAIN_STEP),
    "train_step_gpu": (STEP, TRAIN_STEP),
    "data_path": (
        "Batches of {batch_size} images drawn and augmented, no network (on: {device})",
        {
            "against": "{against}",
            "our speed / theirs": RATIO,
            "our images/s": "{images_per_second:,}",
            "theirs": "{images_per_second_against:,}",
        },
    ),
    "legibility": (
        "A patch's value in a map, and its lightness on the screen: rank correlation over {maps} "
        "maps (mean, least, greatest)",
        {
            "drawn as": "{drawn}",
            "rank correlation": "{rank_correlation_mean:.2f} ({rank_correlation_low:.2f} to "
            "{rank_correlation_high:.2f})",
        },
    ),
    "explorer": (
        "The attention explorer, in headless Chromium without a GPU (the median of five rounds)",
        {
            "network": "{network}",
            "in": "{in}",
            "page, MB": number_of("page_mb", ".1f"),
            "from": "{what}",
            "to the picture": "{event_ms_median:.0f} ms (95% within {event_ms_p95:.0f})",
            "of which work": "{work_ms_median:.1f} ms (95% within {work_ms_p95:.1f})",
            "messages to the kernel": number_of("messages_to_kernel"),
        },
    ),
    "live": (
        "The network in the page: plain JavaScript in headless Chromium, on one core (the median "
        "of three rounds' medians, and their range)",
        {
            "network": "{network}",
            "image": "{img_size}×{img_size}",
            "tokens": "{tokens}",
            "what": "{what}",
            "time": "{ms_median:.0f} ms ({ms_low:.0f}–{ms_high:.0f})",
        },
    ),
    "scaling_cpu": (
        "A training step of two processes (one thread each) that share a batch, and of one",
        {
            "network": "{network}, {parameters:,} parameters, batches of {batch_size}",
            "against": "{against}",
            "two processes / one": RATIO,
            "images/s of two": "{images_per_second:,}",
            "of one": "{images_per_second_against:,}",
            "one step of two": "{step_ms:,.0f} ms",
            "all-reduce alone": "{gradient_mb:g} MB in {all_reduce_ms:.2f} ms",
        },
    ),
    "batch_size_digits": (
        "Larger batches at equal epochs ({epochs}), by rule for the learning rate (mean over "
        "seeds, and its 95% interval)",
        {
            "optimizer": "{optimizer}",
            "batch": "{batch_size}",
            "rule": "{rule}",
            "rate": "{lr:.3g}",
            "steps": "{steps}",
            "test loss": with_interval("loss_cold", ".3f"),
            "with warm-up": with_interval("loss_warm", ".3f"),
            "change, seed by seed": signed("change_warm", "+.3f"),
            "test accuracy, with warm-up": with_interval("accuracy_warm", ".1f", "%"),
        },
    ),
    "rollout": (
        "Rollout and recording at the size of ViT-B/16",
        {
            "what": "{what}",
            "against": "{against}",
            "our speed / theirs": RATIO,
            "ours": "{ms:.1f} ms",
            "theirs": "{their_ms:.1f} ms",
        },
    ),
    "recording.time": (
        "From pixels to rollout at the size of ViT-B/16, on one thread (times of a plain forward "
        "pass that took turns with it, median and range)",
        {
            "what": "{what}",
            "images": "{batch}",
            "of a plain pass": RATIO,
            "time": "{ms:,.0f} ms",
        },
    ),
    "recording.memory": (
        "ViT-L/14 at 518 pixels (1,370 tokens, 1.1 GiB of weights), one image",
        {
            "what": "{what}",
            "largest memory of the process": "{gib:.2f} GiB",
            "page, MB": number_of("page_mb", ".1f"),
        },
    ),
    "faithfulness": (
        "How faithful each map is, on test images that the bundled network classifies correctly "
        "(mean and 95% bootstrap interval; ↑ more is better, ↓ less is better)",
        {
            "method": "{method}",
            "removed patches show": "{baseline}",
            "deletion ↓": faith("deletion"),
            "insertion ↑": faith("insertion"),
            "positive ↓": faith("positive_perturbation"),
            "negative ↑": faith("negative_perturbation"),
            "pointing game ↑": faith("pointing_game"),
        },
    ),
    "faithfulness.gain": (
        "What they are better by than random maps of the same {images:,} images, where removed "
        "patches show the mean colour (mean difference and 95% interval; more is better, and an "
        "interval with 0 inside shows nothing)",
        {
            "method": "{method}",
            "deletion": gain("deletion"),
            "insertion": gain("insertion"),
            "pointing game": gain("pointing_game"),
        },
    ),
    "faithfulness.blur": (
        "The same where removed patches show the image out of focus",
        {
            "method": "{method}",
            "deletion": gain("deletion"),
            "insertion": gain("insertion"),
            "positive": gain("positive_perturbation"),
            "negative": gain("negative_perturbation"),
        },
    ),
    "attention_sinks.looks": (
        "Where the bundled networks look in {images:,} test images: which patch gets most of the "
        "last layer's attention, heads averaged (and its 95% interval)",
        {
            "network": "{network}",
            "who looks": "{asked}",
            "most goes to a corner": with_interval("favourite_in_corner", ".1f", "%"),
            "by chance": "{corner_share_uniform:.1f}%",
            "to the border": with_interval("favourite_on_border", ".1f", "%"),
            "by chance ": "{border_share_uniform:.1f}%",
            "heads with over a quarter in the corners": "{heads_in_corners} of {heads}",
        },
    ),
    "attention_sinks.dropped": (
        "Tokens of four patches left out, {images:,} test images (differences image by image, in "
        "points, with their 95% interval)",
        {
            "network": "{network}",
            "left out": "{left_out}",
            "test accuracy": "{accuracy:.2f}%",
            "less the intact network": signed("change"),
            "less four random patches": signed("difference"),
            "probability of the true class": "{true_class:.2f}%",
            "less four random patches ": signed("true_class_difference"),
            "images where it rises": lambda row: f"{row['rises']:.1f}%" if "rises" in row else "–",
        },
    ),
    "coverage.counts": (
        "Networks of other libraries, with random weights: recorded and compared with what they "
        "themselves show",
        {
            "library": "{library} {version}",
            "work": "{recorded}",
            "refused with a reason": "{refused}",
            "silently wrong": "{wrong}",
            "crash": "{crash}",
            "over five minutes": "{too_slow}",
            "do not run without us": "{not_made}",
        },
    ),
    "coverage.families": (
        "Which networks work, and why the others are refused",
        {
            "library": "{library}",
            "networks": lambda row: f"{row['networks']} ({row['count']})",
            "result": "{result}",
            "instead": lambda row: row["instead"] or "–",
        },
    ),
    "conversion": (
        "Architectures of timm, made small with random weights in float64: copied into networks of "
        "ours with the same answers, or refused with the name of the part",
        {
            "module of timm": "{module}",
            "architectures": "{architectures}",
            "the same answers": "{equal}",
            "of these plain": "{plain}",
            "refused": "{refused}",
            "other answers": "{wrong}",
        },
    ),
    "input_size": (
        "A larger image into the same network, positions resampled",
        {
            "image": "{img_size}×{img_size}",
            "tokens": "{tokens}",
            "test accuracy": "{test_accuracy:.1f}%",
            "time": "×{time_ratio_median:.2f} ({time_ratio_low:.2f}–{time_ratio_high:.2f})",
        },
    ),
    "without_labels": (
        "Few labels: what {pretraining_epochs} epochs of a masked autoencoder without labels are "
        "worth (mean ± standard deviation over the draws of the labels; difference draw by draw, "
        "with its 95% interval)",
        {
            "labels (images)": "{labels} ({images:,})",
            "method": "{method}",
            "steps": number_of("steps", ","),
            "draws": seeds,
            "test accuracy": accuracy,
            "against": lambda row: row.get("against", "–"),
            "difference": lambda row: between(row) if "against" in row else "–",
        },
    ),
    "vit_and_cnn.images": (
        "Few training images and many (mean ± standard deviation over seeds that each drew a part "
        "of their own; difference with its 95% interval)",
        {
            "part of the training images": "{what} ({images:,})",
            "steps": "{steps:,}",
            "ViT": spread("vit"),
            "ResNet": spread("resnet"),
            "ViT − ResNet, points": between,
            "optimizer and rate, ViT": "{vit_choice}",
            "ResNet's": "{resnet_choice}",
        },
    ),
    "vit_and_cnn.asked": (
        "Changed test images, and the networks that were trained on all (kept: of the images that "
        "a network classifies correctly as they are; difference with its 95% interval over seeds)",
        {
            "images": "{what}",
            "ViT": spread("vit_right"),
            "ResNet": spread("resnet_right"),
            "ViT keeps": spread("vit_kept"),
            "ResNet keeps": spread("resnet_kept"),
            "ViT − ResNet, kept": between,
        },
    ),
    "vit_and_cnn.hybrid": (
        "Coarse of one image and fine of another: what share of the answers names which",
        {
            "blur, pixels": "{setting}",
            "ViT: coarse": spread("vit_coarse"),
            "fine": spread("vit_fine"),
            "ResNet: coarse": spread("resnet_coarse"),
            "fine ": spread("resnet_fine"),
            "coarse of both, ViT − ResNet": between,
        },
    ),
    "compress.networks": (
        "The bundled CIFAR-10 network made smaller or faster, without training (difference image "
        "by image, with its 95% interval; speed of {batch} images together on {threads} thread, "
        "median and range)",
        {
            "network": "{what}",
            "test accuracy": "{accuracy:.1f}% ({accuracy_low:.1f}–{accuracy_high:.1f})",
            "difference": "{difference:+.1f} ({difference_low:+.1f} to {difference_high:+.1f})",
            "times as fast": RATIO,
            "MB": lambda row: f"{row['bytes'] / 1e6:.2f}",
        },
    ),
    "compress.students": (
        "Networks of half its depth, {epochs} epochs each (mean ± standard deviation over the "
        "seeds)",
        {
            "network": "{what}",
            "seeds": seeds,
            "test accuracy": accuracy,
            "difference": "{difference:+.1f}",
            "times as fast": RATIO,
            "MB": lambda row: f"{row['bytes'] / 1e6:.2f}",
            "one training": duration,
        },
    ),
    "compress.attention": (
        "Attention alone, one image: PyTorch's fused kernel against softmax written out",
        {
            "tokens": "{tokens:,}",
            "table of weights, MB": "{table_mb:.1f}",
            "fused / written out": RATIO,
            "fused": "{ms:.2f} ms",
            "written out": "{their_ms:.2f} ms",
        },
    ),
    "positions_digits": (
        "Kinds of positions, on the digits (five seeds each, mean ± standard deviation)",
        {
            "positions": "{pos_embed}",
            "epochs": "{epochs}",
            "test accuracy": "{test_accuracy_mean:.1f} ± {test_accuracy_std:.1f}%",
        },
    ),
    "positions_cifar10": (
        "Kinds of positions, on photographs (one short run each)",
        {
            "positions": "{pos_embed}",
            "epochs": "{epochs}",
            "test accuracy": "{test_accuracy_mean:.1f}%",
        },
    ),
    "lab_start": (
        "`python3 course.py lab`, once set up",
        {
            "from": "{from}",
            "to": "{to}",
            "median": "{seconds_median:.1f} s",
            "range": "{seconds_low:.1f}–{seconds_high:.1f} s",
        },
    ),
    "lesson_in_browser": (
        "Sliders and pointer in JupyterLab",
        {
            "from": "{from}",
            "to": "{to}",
            "median": "{ms_median} ms",
            "range": "{ms_low}–{ms_high} ms",
        },
    ),
}

ONLY: dict[str, Callable[[dict], bool]] = {  # which rows a table has, where it has not all
    "faithfulness.gain": lambda row: row["baseline"] == "mean" and row["method"] != "random",
    "faithfulness.blur": lambda row: row["baseline"] == "blur" and row["method"] != "random",
}


def table_of(root: Path, name: str) -> str:
    """Return a table by its name: "networks", "recipes", or one of a results file.

    Raises:
        LookupError: there is no such table.
    """
    if name == "networks":
        return networks_table(root)
    if name == "recipes":
        return accuracy_table(root)
    if name not in RESULTS:
        raise LookupError(f"there is no table {name!r}")
    if not results_file(root, name).exists():
        return NOT_MEASURED.format(name)
    return results_table(root, name)


def results_file(root: Path, name: str) -> Path:
    """Return where a table's numbers lie; "a.b" is another table of what is in a.json."""
    return root / "benchmarks" / "results" / f"{name.partition('.')[0]}.json"


def results_table(root: Path, name: str) -> str:
    """Return the table of one results file, with its title and where it was measured.

    Raises:
        LookupError, OSError: there is no such table, or no such file.
    """
    about, columns = RESULTS[name]
    result = json.loads(results_file(root, name).read_text(encoding="utf-8"))
    part = name.partition(".")[2]
    selected = [row for row in result["rows"] if row.get("table", part) == part]
    selected = [row for row in selected if ONLY.get(name, bool)(row)]
    rows = [tuple(show(column, row) for column in columns.values()) for row in selected]
    on = f"{result['data']}, " if result["data"] else ""
    source = f"Measured on {on}{result['hardware']}: `{result['command']}`"
    title = about.format(**selected[0])
    return f"**{title}**\n\n{as_table([tuple(columns), *rows])}\n{source}\n"


def show(column: Column, row: dict) -> str:
    """Return one field of a table."""
    return column.format(**row) if isinstance(column, str) else column(row)


def accuracy_table(root: Path) -> str:
    """Return one table of all accuracy_*.json, from the smallest network to the largest.

    What was measured on a split of the training set is not in it.
    """
    pairs = []
    for path in sorted((root / "benchmarks" / "results").glob("accuracy_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        pairs += [(row, result) for row in result["rows"] if row["split"] == "test"]
    if not pairs:
        return NOT_MEASURED.format("recipes")
    pairs.sort(key=lambda pair: pair[0]["parameters"])
    heading = ("recipe", "network", "data", "epochs", "seeds", "test accuracy", "time", "hardware")
    network = "width {embed_dim}, depth {depth}, patch {patch_size}, {parameters:,} parameters"
    lines = [
        (
            row["recipe"],
            network.format(**row),
            result["data"],
            str(row["epochs"]),
            seeds(row),
            accuracy(row),
            duration(row),
            result["hardware"],
        )
        for row, result in pairs
    ]
    commands = "".join(f"- `{result['command']}`\n" for _, result in pairs)
    about = "Recipes, the last epoch of each training (mean ± standard deviation over the seeds)"
    return f"**{about}**\n\n{as_table([heading, *lines])}\nMeasured by\n\n{commands}"


def networks_table(root: Path) -> str:
    """Return the bundled networks as their cards describe them."""
    rows = [("network", "trained on", "right on the test set", "trained in", "command")]
    for path in sorted((root / "vit_tutorial" / "checkpoints").glob("*.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        result, training = card["evaluation"], card["training"]
        if "accuracy" in result:
            correct = f"{result['accuracy']:.1f}% ({result['correct']:,} of {result['n']:,})"
        else:  # a network that names no classes
            correct = (
                f"– (squared error on hidden patches {result.get('hidden_error', math.nan):.2f})"
            )
        took = f"{training['epochs']} epochs, {math.ceil(training['seconds'] / 60)} min"
        on = f"{took} on {training['hardware']}"
        rows.append((card["name"], card["data"], correct, on, f"`{training['command']}`"))
    return f"**The bundled networks**, one seed each\n\n{as_table(rows)}\n"


def as_table(rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table whose first row is the heading."""
    lines = ["| " + " | ".join(row) + " |\n" for row in rows]
    return "".join([lines[0], "|" + " --- |" * len(rows[0]) + "\n", *lines[1:]])
