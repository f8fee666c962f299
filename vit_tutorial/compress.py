"""Make a trained network smaller or faster: 8-bit integers, fewer heads, tokens or layers.

Each function takes a `VisionTransformer` and leaves it as it was. What each costs in accuracy and
brings in time is measured in lesson 12.
"""

import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vit_tutorial.files import atomic_write
from vit_tutorial.model import Attention, Block, VisionTransformer, ViTConfig
from vit_tutorial.modes import evaluating

LARGEST = 127  # of an integer in 8 bits; -128 is left out, so that the scale is symmetric


def quantized(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to integers: (..., n) -> int8 (..., n) and the row's scale (..., 1).

    A row's scale is its largest absolute number / 127, so `integers * scale` is near `values`: at
    most half a scale away.

    Examples:
        >>> quantized(torch.tensor([[0.5, -1.0, 0.1]]))
        (tensor([[  64, -127,   13]], dtype=torch.int8), tensor([[0.0079]]))
    """
    scale = values.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (values / scale).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """A linear layer in 8 bits: (..., in) -> (..., out).

    The weights are kept as integers with a scale for each output. Each token is rounded when it
    comes, with a scale of its own (dynamic quantisation). Their product is one of integers, and
    exact; the two scales come last (Jacob et al. 2017, arXiv 1712.05877, section 2).

    Examples:
        >>> layer = Int8Linear(nn.Linear(192, 384))
        >>> layer(torch.zeros(2, 65, 192)).shape, layer.weight.dtype
        (torch.Size([2, 65, 384]), torch.int8)
    """

    weight: Tensor  # int8 (out, in)
    scale: Tensor  # (out,)
    bias: Tensor | None  # (out,)

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = quantized(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.squeeze(-1))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        integers, scale = quantized(x)
        # The integers are multiplied as floats, which hold them exactly while sums are small
        # enough; hardware made for it multiplies the bytes themselves.
        exact = x.dtype if LARGEST**2 * x.shape[-1] < 2**24 else torch.float64
        product = F.linear(integers.to(exact), self.weight.to(exact)).to(x.dtype)
        y = product * scale * self.scale
        return y if self.bias is None else y + self.bias


def to_int8(model: VisionTransformer) -> VisionTransformer:
    """Copy a network with every linear layer in 8 bits; what is no linear layer stays as it is."""
    small = copy.deepcopy(model)
    for module in list(small.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    return small


def num_bytes(model: nn.Module) -> int:
    """Count the bytes of all that a file of this model's weights holds.

    Examples:
        >>> num_bytes(nn.Linear(10, 10)), num_bytes(Int8Linear(nn.Linear(10, 10)))
        (440, 180)
    """
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def head_importance(model: VisionTransformer, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Measure how much the loss hangs on each head: for each layer, (heads,).

    Think of a gate of 1 that multiplies all that a head hands on. Its importance is the mean over
    images of |d loss / d gate| (Michel et al. 2019, arXiv 1905.10650, equation 2).

    Args:
        model: run in evaluation mode, and left as it is.
        images: normalised, (B, C, H, W).
        labels: (B,).

    Raises:
        ValueError: a network whose heads are normalised together.
    """
    require_separate_heads(model)
    blocks: list[Any] = list(model.blocks)
    head_outputs: list[Tensor] = []
    hooks = [
        block.attn.proj.register_forward_pre_hook(lambda _, inputs: head_outputs.append(inputs[0]))
        for block in blocks
    ]
    try:
        with evaluating(model, gradients=True):
            logits = model(images.detach().requires_grad_())
            loss = F.cross_entropy(logits, labels, reduction="sum")
            gradients = torch.autograd.grad(loss, head_outputs)
    finally:
        for hook in hooks:
            hook.remove()
    importance = []
    for block, inputs, gradient in zip(blocks, head_outputs, gradients, strict=True):
        parts = rearrange(inputs * gradient, "b t (h d) -> b h t d", h=block.attn.num_heads)
        importance.append(parts.sum(dim=(2, 3)).abs().mean(dim=0).detach())
    return importance


def silence_heads(
    model: VisionTransformer, heads: Mapping[int, Sequence[int]]
) -> VisionTransformer:
    """Copy a network in which some heads hand nothing on: {layer: the heads to silence}.

    Their columns of `proj` are 0. All shapes stay, and so does what these heads attend to.

    Raises:
        ValueError: a layer or head that is not there, or heads that are normalised together.
    """
    silent = copy.deepcopy(model)
    for layer, silenced in heads.items():
        attn = _block_with(silent, layer, silenced).attn
        columns = attn.proj.weight.data.unflatten(1, (attn.num_heads, -1))  # (D, h, d), a view
        columns[:, list(silenced)] = 0
    return silent


def prune_heads(model: VisionTransformer, heads: Mapping[int, Sequence[int]]) -> VisionTransformer:
    """Copy a network without some of its heads: {layer: the heads to leave out}.

    Their rows of `qkv` and their columns of `proj` are removed, not zeroed.

    Raises:
        ValueError: a layer or head that is not there, no head left in a layer, or heads that are
            normalised together.
    """
    pruned = copy.deepcopy(model)
    for layer, removed in heads.items():
        block = _block_with(pruned, layer, removed)
        count = block.attn.num_heads
        if len(set(removed)) == count:
            raise ValueError(f"layer {layer} must keep one of its {count} heads")
        block.attn = _with_heads(block.attn, [head for head in range(count) if head not in removed])
    return pruned


def require_separate_heads(model: VisionTransformer) -> None:
    """See that what one head hands on can be told from the others.

    Raises:
        ValueError: a norm behind the attention mixes them.
    """
    if getattr(model.config, "attn_norm", False):
        raise ValueError(
            "the norm behind this network's attention (`attn_norm`) mixes its heads: what one of "
            "them hands on cannot be told from the others"
        )


def _block_with(model: VisionTransformer, layer: int, heads: Sequence[int]) -> Any:
    """Return a block that is there, and has these heads."""
    require_separate_heads(model)
    if layer not in range(len(model.blocks)):
        raise ValueError(f"there are layers 0 to {len(model.blocks) - 1}, got {layer}")
    block: Any = model.blocks[layer]
    count = block.attn.num_heads
    if not set(heads) <= set(range(count)):
        raise ValueError(f"layer {layer} has heads 0 to {count - 1}, got {sorted(heads)}")
    return block


def _with_heads(attn: Attention, heads: Sequence[int]) -> Attention:
    """Copy `attn` with these of its heads."""
    h = attn.num_heads
    parts = {"three": 3, "h": h}
    weight = rearrange(attn.qkv.weight, "(three h d) c -> three h d c", **parts)[:, heads]
    bias = rearrange(attn.qkv.bias, "(three h d) -> three h d", **parts)[:, heads]
    columns = rearrange(attn.proj.weight, "c (h d) -> c h d", h=h)[:, heads]
    small = copy.deepcopy(attn)
    small.num_heads = len(heads)
    small.qkv = _linear(rearrange(weight, "three h d c -> (three h d) c"), bias.flatten())
    small.proj = _linear(rearrange(columns, "c h d -> c (h d)"), attn.proj.bias)
    return small


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0]).to(weight)
    linear.weight.data, linear.bias.data = weight.detach().clone(), bias.detach().clone()
    return linear


def merge_matrix(keys: Tensor, r: int, num_prefix: int = 1) -> Tensor:
    """Say which tokens become one: keys (B, T, d) -> zeros and ones (B, T - r, T), a row for each.

    Tokens of even index look for the most alike among those of odd index, by the cosine of their
    keys, and the r most alike go where they matched (Bolya et al. 2022, arXiv 2210.09461). The
    prefix (CLS) is left alone. With fewer candidates than r, all of them merge.

    Raises:
        ValueError: a negative r, or more prefix tokens than one.

    Examples:
        >>> merge_matrix(torch.tensor([[[9.0, 9.0], [1.0, 0.0], [2.0, 0.1], [0.0, 1.0]]]), r=1)
        tensor([[[1, 0, 0, 0],
                 [0, 1, 1, 0],
                 [0, 0, 0, 1]]])
    """
    if r < 0 or num_prefix not in (0, 1):
        raise ValueError(f"expected r >= 0 and num_prefix 0 or 1, got {r} and {num_prefix}")
    unit = F.normalize(keys, dim=-1)
    alike = unit[:, ::2] @ unit[:, 1::2].mT  # (B, even, odd)
    r = min(r, alike.shape[1] - num_prefix) if alike.shape[2] else 0
    best, partner = alike.max(dim=-1) if r else (alike.new_zeros(alike.shape[:2]),) * 2
    if num_prefix:
        best[:, 0] = -math.inf
    chosen = best.topk(r, dim=-1).indices  # (B, r), among the even ones
    goes = torch.zeros(keys.shape[:2], dtype=torch.bool, device=keys.device)
    goes.scatter_(1, 2 * chosen, True)
    index = (~goes).cumsum(dim=1) - 1  # of each remaining token, in the shorter sequence
    if r:
        target = 2 * partner.gather(1, chosen) + 1
        index.scatter_(1, 2 * chosen, index.gather(1, target))
    return F.one_hot(index, keys.shape[1] - r).mT


class TokenMerging(nn.Module):
    """A network that merges the `r` most alike pairs of tokens in every block, after attention.

    Normalised images (B, C, H, W) -> logits (B, num_classes). A merged token is the mean of its
    patches, and in the attention that follows, and in a mean over tokens, it counts as many times
    as it has patches. No weights are added and none are learnt (Bolya et al. 2022).

    Raises:
        ValueError: a network with rotary positions, whose angles belong to single patches, or with
            parts that a plain ViT does not have.
    """

    model: VisionTransformer
    config: ViTConfig
    r: int

    def __init__(self, model: VisionTransformer, r: int) -> None:
        super().__init__()
        if type(model) is not VisionTransformer:
            raise ValueError(
                f"merging is written for a plain VisionTransformer, got a {type(model).__name__}"
            )
        if model.rope is not None:
            raise ValueError('pos_embed="rope" has an angle for each patch: merging needs another')
        self.model, self.r = model, r
        self.config = model.config

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes)."""
        tokens, sources = self.forward_features(images)
        if self.config.pool == "mean":  # over patches, not over what they have become
            sizes = sources.sum(dim=-1, keepdim=True)
            tokens = tokens * sizes / sizes.mean(dim=1, keepdim=True)
        return self.model.forward_head(tokens)

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the final tokens (B, T', D), and which of the T first are in each (B, T', T)."""
        x = self.model.embed(images)
        sources = torch.eye(x.shape[1]).to(x).expand(len(x), -1, -1)
        blocks: list[Any] = list(self.model.blocks)
        for block in blocks:
            x, keys = self.attend(block, x, sources.sum(dim=-1))
            matrix = merge_matrix(keys, self.r, self.config.num_prefix).to(x)  # (B, T' - r, T')
            sizes = sources.sum(dim=-1, keepdim=True)
            sources = matrix @ sources
            x = matrix @ (x * sizes) / sources.sum(dim=-1, keepdim=True)
            x = x + block.mlp(block.norm2(x))
        return self.model.norm(x), sources

    def attend(self, block: Block, x: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens attend, each key `sizes` (B, T) times; also their keys, the mean of heads."""
        attn = block.attn
        q, k, v = rearrange(
            attn.qkv(block.norm1(x)), "b t (three h d) -> three b h t d", three=3, h=attn.num_heads
        )
        often = sizes.log()[:, None, None]  # softmax of a score + log n counts a key n times
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=often)
        return x + attn.proj(rearrange(y, "b h t d -> b t (h d)")), k.mean(dim=1)


def every_other_layer(model: VisionTransformer) -> VisionTransformer:
    """Copy layers 0, 2, 4, ... into a network of half the depth, a student to begin with.

    As DistilBERT begins (Sanh et al. 2019, arXiv 1910.01108, section 3).
    """
    blocks = list(model.blocks)[::2]
    student = type(model)(replace(model.config, depth=len(blocks)))
    student = student.to(model.head.weight).train(model.training)
    state = {name: value for name, value in model.state_dict().items() if "blocks." not in name}
    for index, block in enumerate(blocks):
        state |= {f"blocks.{index}.{name}": v for name, v in block.state_dict().items()}
    student.load_state_dict(state)
    return student


def distillation(
    teacher: nn.Module, temperature: float = 2.0, share: float = 0.9
) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Make an objective for `fit`: learn what `teacher` says, not only which class is right.

    `share` of the loss is the divergence of the student's softmax from the teacher's, both at
    `temperature`, times its square, so that gradients keep their size; the rest is cross-entropy
    (Hinton et al. 2015, arXiv 1503.02531).

    Raises:
        ValueError: a temperature that is not positive, or a share outside 0..1.
    """
    if not temperature > 0 or not 0 <= share <= 1:
        raise ValueError(
            f"expected temperature > 0 and share in 0..1, got {temperature} and {share}"
        )

    def objective(network: Callable[[Tensor], Tensor], pixels: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            taught: Tensor = teacher(pixels).to(targets.dtype)
        logits = network(pixels).to(targets.dtype)
        divergence = F.kl_div(
            (logits / temperature).log_softmax(dim=-1),
            (taught / temperature).log_softmax(dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        return share * temperature**2 * divergence + (1 - share) * F.cross_entropy(logits, targets)

    return objective


def time_in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int = 7
) -> dict[str, list[float]]:
    """Time each call once a round, every second round backwards: seconds, `rounds` for each.

    What slows down the machine for a while then slows down all of them. Each is called once before.

    Raises:
        ValueError: no rounds.
    """
    if rounds < 1:
        raise ValueError(f"expected at least one round, got {rounds}")
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for turn in range(rounds):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            wait()
            began = time.perf_counter()
            calls[name]()
            wait()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Tell how many times as fast as `base` it was: median, lowest and highest, round by round."""
    ratios = [slow / fast for fast, slow in zip(seconds, base, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def export(model: nn.Module, images: Tensor) -> torch.export.ExportedProgram:
    """Write a network down as a list of operations, for any number of images (B, C, H, W).

    No Python code is left in it: it runs, and is saved, without the class. The operations are those
    of evaluation mode.
    """
    with warnings.catch_warnings(), evaluating(model):
        warnings.simplefilter("ignore")  # of one part of the exporter about another
        return torch.export.export(
            model,
            (images,),
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            strict=True,  # follows the number of images through len(), too
        )


def save_onnx(model: nn.Module, images: Tensor, path: str | Path) -> float:
    """Export a network for other programs, run the file, and compare: the largest difference.

    The file takes any number of images of the size of `images` (B, C, H, W).

    Raises:
        ValueError: the libraries that this needs are not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch asks for it)
    except ModuleNotFoundError as error:
        raise ValueError(
            "exporting to ONNX needs libraries that are not installed: "
            "pip install onnx onnxscript onnxruntime"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own, about each other
        program = torch.onnx.export(
            export(model, images),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    with atomic_write(Path(path)) as beside:
        onnx.save(program.model_proto, str(beside))
        session = onnxruntime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        (theirs,) = session.run(None, {"images": images.detach().cpu().numpy()})
    with evaluating(model):
        ours: Tensor = model(images)
    return float((ours.cpu() - torch.from_numpy(theirs)).abs().max())
