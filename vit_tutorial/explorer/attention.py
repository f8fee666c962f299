"""What any Vision Transformer attends to in any image: every token, head and layer at once."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from numpy.typing import NDArray
from PIL import Image

from vit_tutorial.explorer.page import Explorer, sources
from vit_tutorial.explorer.scene import MEANS, make_scene, query_code
from vit_tutorial.files import atomic_write
from vit_tutorial.methods import METHODS, RELEVANCE_METHODS
from vit_tutorial.plots import heat_colours

if TYPE_CHECKING:
    from torch import nn

    from vit_tutorial.images import ReadsImages, Source
    from vit_tutorial.recording import Query, RecordedAttention

COLOURS = ("magma", "cividis", "viridis", "gray")
PHOTOGRAPHS = ("spotlight", "overlay", "photograph")  # how the image is shown


class AttentionExplorer(Explorer):
    """Explore what a network attends to in an image, in JupyterLab, Colab or a page of its own.

    Point at a patch, or use the arrow keys: the image is bright where it looks, beside it is the
    map itself, and those of all heads of all layers. Rollout with all its options is computed in
    the browser.

    Args:
        model: any network that `record_attention` can read.
        image: what `open_image` opens: a path, bytes, a PIL image, an array or a tensor.
        reading: how the network reads images: a `Reading`, or the card of a checkpoint.
        fit: "crop", "pad" or "resize", as in `fit_image`.
        name: what the image is called.
        target: the class, by name or index, that the relevance maps are about; by default the one
            that the network names.
        budget_mb: what a page of one image may take. Where all weights would take more, the mean
            of the heads is shown; where that would, too, of some layers, evenly spaced, and rollout
            is one map, through all layers from what the head reads.

    `scene`, `layer`, `head`, `query` (a token; -1, -2 and -3 are the mean of all, of the patches,
    and of what the head reads), `show` ("head", "mean", "rollout" or a method for a class),
    `direction`, `head_fusion`, `discard_ratio`, `residual`, `photograph` ("spotlight", "overlay" or
    "photograph") and `colours` follow what is done in the browser, and a cell may set them. At
    first one sees the rollout from what the head reads.

    Raises:
        ValueError: a network that cannot be read, an image that cannot be opened, an unknown class.
    """

    _esm, _css = sources(__file__)
    page_height = 860

    scenes = traitlets.List(traitlets.Dict()).tag(sync=True)
    weights = traitlets.List(traitlets.Bytes()).tag(sync=True)  # uint8 (layers, heads, T, T)
    largest = traitlets.List(traitlets.Bytes()).tag(sync=True)  # float32 (layers, heads, T)
    images = traitlets.List(traitlets.Bytes()).tag(sync=True)  # JPEG
    relevances = traitlets.List(traitlets.Bytes()).tag(sync=True)  # float32 (methods, N)
    palette_names = traitlets.List(traitlets.Unicode(), list(COLOURS)).tag(sync=True)
    palettes = traitlets.Bytes().tag(sync=True)  # uint8 (names, 256, 3)
    can_open = traitlets.Bool(True).tag(sync=True, page=False)
    # what a person did: an image's name and bytes, or which to remove
    opened = traitlets.Dict().tag(sync=True, page=False)

    scene = traitlets.Int(0).tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(0).tag(sync=True)
    show = traitlets.Unicode("rollout").tag(sync=True)
    direction = traitlets.Enum(("from", "to"), "from").tag(sync=True)
    head_fusion = traitlets.Enum(("mean", "max", "min"), "mean").tag(sync=True)
    discard_ratio = traitlets.Float(0.0, min=0.0, max=0.98).tag(sync=True)
    residual = traitlets.Float(0.5, min=0.0, max=1.0).tag(sync=True)
    photograph = traitlets.Enum(PHOTOGRAPHS, PHOTOGRAPHS[0]).tag(sync=True)
    colours = traitlets.Enum(COLOURS, COLOURS[0]).tag(sync=True)

    def __init__(
        self,
        model: nn.Module,
        image: Source,
        reading: ReadsImages,
        *,
        fit: str = "crop",
        name: str | None = None,
        target: int | str | None = None,
        budget_mb: float = 24.0,
    ) -> None:
        super().__init__(palettes=b"".join(heat_colours(palette).tobytes() for palette in COLOURS))
        self._last = (model, reading, fit, budget_mb)
        self.add(image, name=name, target=target)
        self.layer = self.scenes[0]["layers"] - 1
        self.query = self.scenes[0]["query"]
        self.observe(self._open, "opened")

    def add(
        self,
        image: Source,
        *,
        model: nn.Module | None = None,
        reading: ReadsImages | None = None,
        fit: str | None = None,
        name: str | None = None,
        target: int | str | None = None,
    ) -> None:
        """Add another image, or the same in another network, and show it; both can be compared.

        What is left out is as before.
        """
        old_model, old_reading, old_fit, budget_mb = self._last
        self._last = (model or old_model, reading or old_reading, fit or old_fit, budget_mb)
        model, reading, fit, _ = self._last
        facts, parts = make_scene(
            model, image, reading, fit=fit, name=name, target=target, budget_mb=budget_mb
        )
        if facts["name"] in [scene["name"] for scene in self.scenes]:
            facts["name"] += f" ({len(self.scenes) + 1})"
        with self.hold_sync():  # the browser decodes when `scenes` changes, so it comes last
            for trait, part in parts.items():
                self.set_trait(trait, [*getattr(self, trait), part])
            self.scenes = [*self.scenes, facts]
            self.scene = len(self.scenes) - 1

    def look_from(self, query: Query) -> None:
        """Show whose map: what `rollout` takes as its query.

        Raises:
            ValueError: a query outside the grid or the sequence.
        """
        if query == "head":
            self.query = self.scenes[self.scene]["query"]
        elif isinstance(query, str) and query in MEANS:
            self.query = query_code(query)
        else:
            self.query = self.record().token(query)

    def _open(self, change: Any) -> None:
        """Show the image that a person chose in the browser, or say there what is wrong with it.

        One that was added so can be removed again.
        """
        if not change["new"]:
            return
        if "remove" in change["new"]:
            self._remove(int(change["new"]["remove"]))
            return
        name, content = change["new"]["name"], bytes(change["new"]["bytes"])
        try:
            with self.hold_sync():
                self.add(content, name=name)
                self.scenes = [*self.scenes[:-1], {**self.scenes[-1], "opened": True}]
            self.send({"problem": ""})
        except ValueError as error:
            self.send({"problem": f"{name}: {error}"})

    def _remove(self, index: int) -> None:
        if not self.scenes[index].get("opened"):
            return
        with self.hold_sync():
            for trait in ("weights", "largest", "images", "relevances", "scenes"):
                parts = list(getattr(self, trait))
                self.set_trait(trait, parts[:index] + parts[index + 1 :])
            self.scene = min(self.scene, len(self.scenes) - 1)

    @traitlets.validate("show")
    def _show_is_there(self, proposal: Any) -> str:
        allowed = ["head", "mean", "rollout"]
        allowed += [name for scene in self.scenes for name in scene["methods"]]
        show = _called(proposal["value"])
        if self.scenes and show not in allowed:
            raise ValueError(f"show must be one of {allowed}, got {proposal['value']!r}")
        return show

    def title(self) -> str:
        """Say what a page of its own is called."""
        return f"Where it looks: {', '.join(scene['name'] for scene in self.scenes)}"

    def __repr__(self) -> str:
        return f"AttentionExplorer: {', '.join(scene['name'] for scene in self.scenes)}"

    # ---- the same without a browser ----

    def _view(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        names = ("scene", "layer", "head", "query", "show", "direction", "head_fusion",
                 "discard_ratio", "residual")  # fmt: skip
        view = {**{name: getattr(self, name) for name in names}, **setting}
        return {**view, "show": _called(view["show"])}

    def record(self, scene: int | None = None) -> RecordedAttention:
        """Return what the browser computes with: weights in 1/255 of a row's largest."""
        import torch

        from vit_tutorial.recording import RecordedAttention

        index = self.scene if scene is None else scene
        facts = self.scenes[index]
        tokens = facts["num_prefix"] + facts["rows"] * facts["columns"]
        shape = (facts["layers"], facts["heads"], tokens, tokens)
        shares = np.frombuffer(self.weights[index], dtype=np.uint8).reshape(shape)
        most = np.frombuffer(self.largest[index], dtype=np.float32).reshape(shape[:3])
        weights = torch.from_numpy(shares * (most / 255)[..., None])
        return RecordedAttention(
            list(weights[:, None]),
            (facts["rows"], facts["columns"]),
            facts["num_prefix"],
            head_reads=facts["head_reads"],
        )

    def values(self, **setting: Any) -> NDArray[np.float32]:
        """Compute what the browser shows, for each token (T,).

        Takes the explorer's own setting, where no other is given for one of its fields: `scene`,
        `layer`, `head`, `query`, `show`, `direction`, `head_fusion`, `discard_ratio`, `residual`.
        """
        from vit_tutorial.attention import rollout

        view = self._view(setting)
        facts, record = self.scenes[view["scene"]], self.record(view["scene"])
        if view["show"] in facts["methods"]:
            maps = np.frombuffer(self.relevances[view["scene"]], dtype=np.float32)
            chosen = maps.reshape(len(facts["methods"]), -1)[facts["methods"].index(view["show"])]
            return np.concatenate([np.zeros(record.num_prefix, np.float32), chosen])
        if view["show"] == "rollout":
            options = {name: view[name] for name in ("head_fusion", "discard_ratio", "residual")}
            last = slice(0, view["layer"] + 1)
            table = rollout(record, **options, query=None, layers=last)[0]  # (T, T)
        else:
            heads = record.weights[view["layer"]][0]
            table = (
                heads.mean(0)
                if view["show"] == "mean"
                else heads[min(view["head"], len(heads) - 1)]
            )
        if view["query"] < 0:
            return table[list(_meant(record, view["query"]))].mean(dim=0).numpy()
        return (
            table[:, view["query"]] if view["direction"] == "to" else table[view["query"]]
        ).numpy()

    def figure(self, **setting: Any) -> Any:
        """Draw what the browser shows as a figure; takes what `values` takes."""
        from vit_tutorial.plots import attention_view, in_numbers, in_percent

        view = self._view(setting)
        facts = self.scenes[view["scene"]]
        rows, columns, prefix = facts["rows"], facts["columns"], facts["num_prefix"]
        picture = Image.open(io.BytesIO(self.images[view["scene"]]))
        scale = max(1, 600 // max(picture.size))  # small pictures are enlarged smoothly
        size = (picture.width * scale, picture.height * scale)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
        record = self.record(view["scene"])
        layers = [layer[0] for layer in record.weights]
        meant = list(_meant(record, view["query"]))
        from_one = [w[:, meant].mean(1) for w in layers]  # (h, T)
        maps = np.stack([w[:, prefix:].numpy() for w in from_one])
        still, patch = view["show"] in facts["methods"], view["query"] - prefix
        chosen = {
            "head": (
                slice(view["layer"], view["layer"] + 1),
                slice(view["head"], view["head"] + 1),
            ),
            "mean": (slice(view["layer"], view["layer"] + 1), slice(None)),
            "rollout": (slice(0, view["layer"] + 1), slice(None)),
        }.get(view["show"])
        return attention_view(
            np.asarray(picture.convert("RGB")),
            self.values(**view)[prefix:].reshape(rows, columns),
            maps.reshape(*maps.shape[:2], rows, columns),
            query=None if still or patch < 0 else divmod(patch, columns),
            chosen=chosen,
            title=" · ".join(part for part in (facts["name"], facts["answer"]) if part),
            caption=self._caption(view),
            form=in_numbers if still else in_percent,
        )

    def _caption(self, view: Mapping[str, Any]) -> str:
        facts = self.scenes[view["scene"]]
        layer = facts["layer_numbers"][view["layer"]]
        what = {
            "head": f"Layer {layer}, head {view['head']}",
            "mean": f"Layer {layer}, mean of its heads",
            "rollout": f"Rollout through layers 0 to {view['layer']}",
        }
        if view["show"] == "rollout" and "rollout" in facts["methods"]:
            return "Rollout through all layers, from what the head reads"
        if view["show"] not in what:
            return f"{view['show']} for {facts['target']}"
        patch = view["query"] - facts["num_prefix"]
        row, column = divmod(patch, facts["columns"])
        looking = f"the patch in row {row}, column {column}"
        if view["query"] < 0:
            looking = {
                -1: "the mean of all",
                -2: "the mean of patches",
                -3: "what the head reads",
            }[view["query"]]
        elif patch < 0:
            looking = facts["prefix_names"][view["query"]]
        return f"{what[view['show']]}: what {looking} attends to"

    def save_png(self, path: str | Path, **setting: Any) -> None:
        """Save what the browser shows as a PNG; takes what `values` takes.

        Raises:
            OSError: it cannot be written; a file that was there before is unchanged.
        """
        with atomic_write(Path(path)) as beside:
            self.figure(**setting).savefig(beside, format="png", dpi=144)

    def save_gif(self, path: str | Path, over: str = "layer", seconds: float = 0.6) -> None:
        """Save a moving picture that goes through all layers, heads, patches or discard ratios.

        Args:
            path: the file to write.
            over: "layer", "head", "query" or "discard_ratio".
            seconds: how long each picture stands.

        Raises:
            ValueError: something else to go over.
            OSError: it cannot be written; a file that was there before is unchanged.
        """
        facts = self.scenes[self.scene]
        tokens = facts["num_prefix"] + facts["rows"] * facts["columns"]
        ranges: dict[str, list[Any]] = {
            "layer": list(range(facts["layers"])),
            "head": list(range(facts["heads"])),
            "query": list(range(facts["num_prefix"], tokens)),
            "discard_ratio": [round(0.1 * step, 1) for step in range(10)],
        }
        if over not in ranges:
            raise ValueError(f"over must be one of {', '.join(ranges)}, got {over!r}")
        frames = []
        for value in ranges[over]:
            file = io.BytesIO()
            self.figure(**{over: value}).savefig(file, format="png", dpi=80)
            frames.append(Image.open(file).convert("RGB").quantize(dither=Image.Dither.NONE))
        with atomic_write(Path(path)) as beside:
            options = {"append_images": frames[1:], "duration": round(1000 * seconds), "loop": 0}
            frames[0].save(beside, format="GIF", save_all=True, **options)


def _meant(record: RecordedAttention, query: int) -> tuple[int, ...]:
    """List the tokens that a query of an explorer stands for."""
    means = {code: name for name, code in MEANS.items()}
    return record.tokens(means.get(query, query))


def _called(show: str) -> str:
    """Return what its button calls it, for a method given by its name."""
    return METHODS[show] if show in RELEVANCE_METHODS else show
