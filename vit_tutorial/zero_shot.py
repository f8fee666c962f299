"""CLIP and SigLIP as classifiers whose classes are texts: what speaks for which words?"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_tutorial.modes import evaluating


class ZeroShotClassifier(nn.Module):
    """A CLIP or SigLIP of Hugging Face Transformers: images (B, C, H, W) -> a logit for each text.

    The texts are read once, so the network that runs is the one that sees. Logits are the model's
    own `logits_per_image`: of CLIP, softmax makes probabilities over the texts of them; of SigLIP,
    the sigmoid, of each text for itself.

        >>> clip = ZeroShotClassifier(model, tokenizer, ["a cat", "a sofa"])  # doctest: +SKIP
        >>> record = record_attention(clip, pixels, gradients_of=0)  # doctest: +SKIP

    Args:
        model: a `CLIPModel` or `SiglipModel`.
        tokenizer: the one that belongs to it.
        texts: the classes.

    Raises:
        ValueError: another model, no texts or equal ones, or one that is too long for the model.
    """

    texts: Tensor  # (texts, D), of length 1

    def __init__(self, model: Any, tokenizer: Any, texts: Sequence[str]) -> None:
        super().__init__()
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind not in ("clip", "siglip") or not hasattr(model, "get_text_features"):
            raise ValueError(
                f"{type(model).__name__} reads no texts: expected a CLIPModel or SiglipModel of "
                "Hugging Face Transformers"
            )
        if not texts or len(set(texts)) < len(texts) or not all(text.strip() for text in texts):
            raise ValueError(f"expected one or more different texts, got {list(texts)}")
        longest = model.config.text_config.max_position_embeddings
        most = max(len(tokens) for tokens in tokenizer(list(texts))["input_ids"])
        if most > longest:
            raise ValueError(
                f"a text is too long: {type(model).__name__} reads {longest} tokens, got {most}"
            )
        tokens = tokenizer(
            list(texts), padding="max_length", max_length=longest, return_tensors="pt"
        )
        self.model = model
        # SigLIP answers for each text by itself
        problem = "multi_label_classification" if kind == "siglip" else None
        self.config = SimpleNamespace(problem_type=problem)
        with evaluating(model):
            tokens = {name: tokens[name].to(model.device) for name in tokenizer.model_input_names}
            read = _pooled(model.get_text_features(**tokens))
        self.register_buffer("texts", F.normalize(read, dim=-1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Compare images with the texts: (B, texts)."""
        return self._logits(_pooled(self.model.get_image_features(pixel_values=images)))

    def _logits(self, seen: Tensor) -> Tensor:
        scale, bias = self.model.logit_scale.exp(), getattr(self.model, "logit_bias", 0)
        return F.normalize(seen, dim=-1) @ self.texts.T * scale + bias

    # ---- the parts that LeGrad asks for, called as those of timm ----

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers of the network that sees."""
        return self.model.vision_model.encoder.layers

    @property
    def norm(self) -> nn.Module:
        """The norm behind them."""
        return self.model.vision_model.post_layernorm

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Score tokens (B, T, D) by the first: a CLIP's class token."""
        return self._logits(self.model.visual_projection(tokens[:, 0]))


def _pooled(output: Any) -> Tensor:
    """Return the features; Transformers before 5 gives them alone."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output
