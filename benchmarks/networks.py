"""The networks of timm, transformers and vit-pytorch that read images, small and random.

A weight is what its library begins with, and noise on top, so that gates and scales that begin at
zero hide nothing. Nothing is downloaded.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

LARGE = 2_000_000  # parameters
Pair = tuple[nn.Module, Tensor]  # a network, and images for it
REFUSED = (ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError)
REFUSED += (
    RuntimeError,
    TypeError,
    ValueError,
)  # by what a library says that it takes no such size

# ---- timm ----

NOT_SQUARE = (64, 128)  # rows and columns that were swapped would go unseen in a square
NARROW: dict[str, Any] = {"depth": 2, "embed_dim": 48, "num_heads": 2}
# Modules of timm all of whose networks are one transformer, which these three make small: each of
# their names is recorded. Of the others, one network of each kind.
PLAIN = ("vision_transformer", "deit", "beit", "eva", "vision_transformer_relpos", "naflexvit")
PLAIN += ("gemma4_vit", "qwen3_vit", "deepseek_vit")
OTHERS = {
    "byoanet": "botnet26t_256 halonet26t lambda_resnet26t",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny coat_lite_tiny",
    "convit": "convit_tiny",
    "convnext": "convnext_atto",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240 crossvit_9_dagger_240",
    "csatv2": "csatv2",
    "davit": "davit_tiny",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "fastvit": "fastvit_t8 fastvit_sa12",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "iformer": "iformer_t",
    "levit": "levit_128s levit_conv_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "coatnet_pico_rw_224 coatnext_nano_rw_224 maxvit_pico_rw_256 "
    "maxxvit_rmlp_nano_rw_256",
    "metaformer": "poolformer_s12 convformer_s18 caformer_s18",
    "mlp_mixer": "mixer_s32_224 gmlp_ti16_224 resmlp_12_224",
    "mobilenetv3": "mobilenetv4_hybrid_medium",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs mobilevitv2_050",
    "mvitv2": "mvitv2_tiny mvitv2_base_cls",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "pit": "pit_ti_224 pit_ti_distilled_224",
    "pvt_v2": "pvt_v2_b0 pvt_v2_b2_li",
    "resnet": "resnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "twins": "twins_pcpvt_small twins_svt_small",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224 vit_small_resnet26d_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "visformer": "visformer_tiny",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "xcit": "xcit_nano_12_p16_224",
}


def timm_names() -> dict[str, str]:
    """Map the names of timm's networks to their families, which are its modules."""
    import timm

    named = {name: family for family in PLAIN for name in timm.list_models(module=family)}
    known = set(timm.list_models())
    others = {name: family for family, names in OTHERS.items() for name in names.split()}
    return named | {name: family for name, family in others.items() if name in known}


def from_timm(name: str) -> Iterator[Pair]:
    """Yield a network of timm with images, the smallest that it may be first."""
    import timm

    sized = NARROW | {"img_size": NOT_SQUARE}
    shared = sized | {"num_kv_heads": 1}  # of those whose heads share keys
    ways: list[dict[str, Any]] = [sized, shared, NARROW, {}]
    for options in ways:
        try:
            model: Any = timm.create_model(name, num_classes=5, **options)
        except REFUSED:
            continue
        channels, *size = model.default_cfg["input_size"]
        yield model, torch.randn(2, channels, *options.get("img_size", size))


# ---- transformers ----

SMALLER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "projection_dim": 16,
    "vocab_size": 100,
    "depth": 2,
    "embed_dim": 32,
    "num_heads": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "image_size": 64,
    "num_frames": 4,
}
# What some need in the place of it.
NEEDED: dict[str, dict[str, Any]] = {
    "swin": {"embed_dim": 96},
    "donut-swin": {"embed_dim": 96},
    "maskformer-swin": {"embed_dim": 96},
    "swinv2": {"embed_dim": 96},
    "swin2sr": {"embed_dim": 48, "num_heads": [2, 2, 2, 2, 2, 2]},
    "vitpose_backbone": {"image_size": [64, 48]},
    "vit_mae": {"mask_ratio": 0.0},
}
TRANSFORMERS = """
    ViTForImageClassification DeiTForImageClassification DeiTForImageClassificationWithTeacher
    BeitForImageClassification Data2VecVisionForImageClassification ViTMSNForImageClassification
    IJepaForImageClassification Dinov2ForImageClassification Dinov2Backbone
    Dinov2WithRegistersForImageClassification DINOv3ViTModel ViTMAEModel PixioModel
    CLIPForImageClassification CLIPVisionModel CLIPVisionModelWithProjection CLIPModel
    CLIPSegForImageSegmentation AltCLIPVisionModel AltCLIPModel ChineseCLIPVisionModel
    ChineseCLIPModel XCLIPVisionModel XCLIPModel MetaClip2ForImageClassification
    SiglipForImageClassification SiglipVisionModel SiglipModel Siglip2ForImageClassification
    Siglip2VisionModel Aimv2VisionModel MLCDVisionModel Tipsv2VisionModel InternVLVisionModel
    BlipVisionModel BlipModel Blip2VisionModel InstructBlipVisionModel FlavaImageModel FlavaModel
    GitVisionModel GroupViTVisionModel GroupViTModel OwlViTVisionModel Owlv2VisionModel OwlViTModel
    Idefics2VisionTransformer Idefics3VisionTransformer SmolVLMVisionTransformer PixtralVisionModel
    Qwen2VisionTransformerPretrainedModel Qwen2_5_VisionTransformerPretrainedModel
    Qwen3VLVisionModel Llama4VisionModel MllamaVisionModel YolosForObjectDetection DPTModel
    DPTForDepthEstimation DepthAnythingForDepthEstimation VitDetModel VitDetBackbone
    VitPoseBackbone EomtForUniversalSegmentation SegGptModel ViltModel BridgeTowerVisionModel
    SamVisionModel SamModel SamHQVisionModel Sam2VisionModel Sam3ViTModel RfDetrDinov2Backbone
    LwDetrViTBackbone Sapiens2Backbone SwinForImageClassification Swinv2ForImageClassification
    DonutSwinForImageClassification Swin2SRModel MaskFormerSwinBackbone HieraForImageClassification
    PvtForImageClassification PvtV2ForImageClassification SegformerForImageClassification GLPNModel
    CvtForImageClassification LevitForImageClassification MobileViTForImageClassification
    MobileViTV2ForImageClassification SwiftFormerForImageClassification
    FocalNetForImageClassification PoolFormerForImageClassification BitForImageClassification
    TextNetForImageClassification DetrForObjectDetection TimesformerForVideoClassification
    VideoMAEForVideoClassification VivitForVideoClassification VJEPA2ForVideoClassification
"""


def transformers_names() -> dict[str, str]:
    """Map the networks of transformers that are installed to their model types."""
    import transformers

    found = [(name, getattr(transformers, name, None)) for name in TRANSFORMERS.split()]
    return {name: made.config_class.model_type for name, made in found if made is not None}


class Given(nn.Module):
    """Gives images to a network by name, with words where it asks for them."""

    def __init__(self, network: nn.Module, words: bool = False) -> None:
        super().__init__()
        self.network, self.words, self.config = network, words, network.config

    def forward(self, images: Tensor, **options: Any) -> Any:
        """Run the network on images (B, C, H, W)."""
        if self.words:
            options["input_ids"] = torch.arange(3, 8).expand(len(images), -1)
        return self.network(pixel_values=images, **options)


class Patched(nn.Module):
    """Cuts images into patches, row by row, for a network that takes these (SigLIP 2)."""

    def __init__(self, network: nn.Module, patch: int) -> None:
        super().__init__()
        self.network, self.patch, self.config = network, patch, network.config

    def forward(self, images: Tensor, **options: Any) -> Any:
        """Run the network on the patches of images (B, C, H, W)."""
        rows, columns = (size // self.patch for size in images.shape[2:])
        cut = images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
        patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return self.network(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long),
            spatial_shapes=torch.tensor([[rows, columns]] * len(images)),
            **options,
        )


def from_transformers(name: str) -> Iterator[Pair]:
    """Yield a network of transformers with images, in each of the ways that they are given."""
    import transformers

    make = getattr(transformers, name)
    for smaller in (SMALLER, {k: v for k, v in SMALLER.items() if k != "image_size"}):
        try:
            config = _made_smaller(make.config_class(), smaller)
            for key, value in NEEDED.get(config.model_type, {}).items():
                setattr(config, key, value)
            config._attn_implementation = "eager"
            model = make(config)
        except REFUSED:
            continue
        size = _found(config, "image_size", 224)
        size = (size, size) if isinstance(size, int) else tuple(size)
        images = torch.randn(2, _found(config, "num_channels", 3), *size)
        yield model, images
        yield Given(model), images
        yield Given(model, words=True), images
        yield Patched(model, _found(config, "patch_size", 16)), images
        frames = _found(config, "num_frames", 4)
        yield model, images[:, None].expand(-1, frames, -1, -1, -1)


def _made_smaller(config: Any, smaller: Mapping[str, int]) -> Any:
    for name, value in smaller.items():
        if type(old := getattr(config, name, None)) is int and old > value:
            setattr(config, name, value)
        elif name == "image_size" and isinstance(old, list | tuple):
            setattr(config, name, [value, value])
    if isinstance(depths := getattr(config, "depths", None), list | tuple):
        config.depths = [1] * len(depths)
    for part in list(vars(config).values()):
        if hasattr(part, "model_type"):
            _made_smaller(part, smaller)
    return config


def _found(config: Any, name: str, default: Any) -> Any:
    """Look up a setting in a configuration or in those inside it."""
    parts = [part for part in vars(config).values() if hasattr(part, "model_type")]
    for each in (config, *parts):
        if isinstance(getattr(each, name, None), int | list | tuple):
            return getattr(each, name)
    return default


# ---- vit-pytorch ----

VIT_PYTORCH = {
    "image_size": (64, 96),
    "patch_size": 16,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 64,
    "dim_head": 16,
}
SIZES = dict.fromkeys(("img_size", "input_shape", "image_size")).keys()
# Module -> its network, and what that needs besides VIT_PYTORCH or in the place of it.
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "ats_vit": ("ViT", {"max_tokens_per_depth": (24, 12)}),
    "attn_residual_with_dca_simple_vit": ("SimpleViT", {}),
    "cait": ("CaiT", {"cls_depth": 1}),
    "cct": ("CCT", {"embedding_dim": 32, "num_layers": 2, "num_heads": 2,
                    "mlp_ratio": 2, "num_classes": 5, "n_conv_layers": 1, "kernel_size": 7,
                    "stride": 2, "padding": 3, "pooling_kernel_size": 3, "pooling_stride": 4,
                    "pooling_padding": 1}),
    "cross_vit": ("CrossViT", {"image_size": 96, "sm_dim": 32, "lg_dim": 32}),
    "crossformer": ("CrossFormer", {"image_size": 224, "dim": (32, 32, 64, 64),
                                    "depth": (1, 1, 1, 1)}),
    "cvt": ("CvT", {"image_size": 64}),
    "deepvit": ("DeepViT", {}),
    "jet_vit": ("JetViT", {}),
    "jumbo_vit": ("JumboViT", {}),
    "learnable_memory_vit": ("ViT", {"image_size": 64}),
    "levit": ("LeViT", {"image_size": 64, "dim": (32, 32, 32), "heads": (2, 2, 2), "depth": 1,
                        "mlp_mult": 2}),
    "local_vit": ("LocalViT", {"image_size": 64}),
    "look_vit": ("LookViT", {"image_size": 96}),
    "looped_vit": ("LoopedViT", {"image_size": 64}),
    "max_vit": ("MaxViT", {"image_size": 224, "depth": (1, 1), "dim_head": 16}),
    "max_vit_with_registers": ("MaxViT", {"image_size": 224, "depth": (1, 1), "dim_head": 16}),
    "mobile_vit": ("MobileViT", {"image_size": (64, 64), "patch_size": (2, 2), "dims": (32, 32, 32),
                                 "channels": (8, 8, 16, 16, 16, 16, 16, 16, 16, 16, 16)}),
    "mp3": ("ViT", {"image_size": 64}),
    "na_vit": ("NaViT", {"image_size": 64}),
    "na_vit_nested_tensor": ("NaViT", {"image_size": 64}),
    "nest": ("NesT", {"image_size": 64, "patch_size": 4, "num_hierarchies": 3,
                      "block_repeats": (1, 1, 1)}),
    "normalized_vit": ("nViT", {"image_size": 64}),
    "parallel_vit": ("ViT", {}),
    "pit": ("PiT", {"image_size": 64, "patch_size": 8, "depth": (1, 1, 1)}),
    "regionvit": ("RegionViT", {"image_size": 224, "dim": (16, 16, 32, 32),
                                "depth": (1, 1, 1, 1)}),
    "rvt": ("RvT", {"image_size": 256}),
    "scalable_vit": ("ScalableViT", {"image_size": 128, "depth": (1, 1, 1, 1),
                                     "heads": (2, 2, 2, 2), "reduction_factor": (8, 4, 2, 1),
                                     "window_size": (32, 16, None, None)}),
    "sep_vit": ("SepViT", {"image_size": 224, "depth": (1, 1, 1, 1), "heads": (1, 2, 2, 2)}),
    "simple_flash_attn_vit": ("SimpleViT", {}),
    "simple_uvit": ("SimpleUViT", {}),
    "simple_vit": ("SimpleViT", {}),
    "simple_vit_attn_residual": ("SimpleViTAttnResidual", {}),
    "simple_vit_orthog_residual_update": ("SimpleViT", {}),
    "simple_vit_with_fft": ("SimpleViT", {"freq_patch_size": 16}),
    "simple_vit_with_hyper_connections": ("SimpleViT", {"num_residual_streams": 2}),
    "simple_vit_with_patch_dropout": ("SimpleViT", {}),
    "simple_vit_with_qk_norm": ("SimpleViT", {}),
    "simple_vit_with_register_tokens": ("SimpleViT", {}),
    "simple_vit_with_relative_proj_pos_bias": ("SimpleViT", {}),
    "simple_vit_with_sparse_gating": ("SimpleViTWithSparseGating", {}),
    "simple_vit_with_specialized_cls": ("SimpleViT", {}),
    "simple_vit_with_value_residual": ("SimpleViT", {}),
    "t2t": ("T2TViT", {"image_size": 64, "t2t_layers": ((7, 4), (3, 2), (3, 2))}),
    "twins_svt": ("TwinsSVT", {"image_size": 224}),
    "vat": ("ViT", {"image_size": 64}),
    "vit": ("ViT", {}),
    "vit_3d": ("ViT", {"image_size": 64, "image_patch_size": 16, "frames": 4,
                       "frame_patch_size": 2}),
    "vit_5": ("ViT", {"image_size": 64}),
    "vit_detpool": ("ViTDetPool", {}),
    "vit_for_small_dataset": ("ViT", {"image_size": 64}),
    "vit_nd": ("ViTND", {"ndim": 2, "input_shape": None}),
    "vit_nd_pope": ("ViTND", {"ndim": 2, "input_shape": None}),
    "vit_nd_rotary": ("ViTND", {"ndim": 2, "input_shape": None}),
    "vit_with_decorr": ("ViT", {}),
    "vit_with_keel_post_ln": ("ViT", {}),
    "vit_with_patch_dropout": ("ViT", {}),
    "vit_with_patch_merger": ("ViT", {"patch_merge_layer": 1}),
    "vivit": ("ViViT", {"image_size": 64, "image_patch_size": 16, "frames": 4,
                        "frame_patch_size": 2, "spatial_depth": 2, "temporal_depth": 2}),
    "xcit": ("XCiT", {"image_size": 64, "cls_depth": 1}),
}  # fmt: skip


def vit_pytorch_names() -> dict[str, str]:
    """Map the names of the networks of vit-pytorch, module.class, to their modules."""
    return {f"{module}.{cls}": module for module, (cls, _) in THEIRS.items()}


def from_vit_pytorch(name: str) -> Iterator[Pair]:
    """Yield a network of vit-pytorch with images for it."""
    module, _, cls = name.partition(".")
    make = getattr(importlib.import_module(f"vit_pytorch.{module}"), cls)
    known = inspect.signature(make).parameters
    extra = THEIRS[module][1].keys() - SIZES  # of those that hand on what they do not know
    options: dict[str, Any] = VIT_PYTORCH | THEIRS[module][1]
    frames = (options["frames"],) if "frames" in options else ()
    own = [size for key in SIZES if (size := THEIRS[module][1].get(key)) is not None]
    sizes: Any = own or (VIT_PYTORCH["image_size"], 64)
    for size in sizes:  # some take squares alone
        sized = options | dict.fromkeys(SIZES, size)
        try:
            model = make(**{key: sized[key] for key in sized if key in known or key in extra})
        except REFUSED:
            continue
        yield model, torch.randn(2, 3, *frames, *((size, size) if isinstance(size, int) else size))


# ---- all of them ----

LIBRARIES = {
    "timm": (timm_names, from_timm),
    "transformers": (transformers_names, from_transformers),
    "vit-pytorch": (vit_pytorch_names, from_vit_pytorch),
}


def network(library: str, name: str) -> Pair:
    """Make a network whose forward runs, and images for it.

    In float64, unless it is large (convolutions are slow then) or its code does not allow that.

    Raises:
        LookupError: none of the ways to make it gives one that runs.
    """
    problem: Exception | None = None
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)
        for model, images in LIBRARIES[library][1](name):
            if dtype == torch.float64 and sum(p.numel() for p in model.parameters()) > LARGE:
                continue
            _disturb(model)
            model, images = model.to(dtype).eval(), images.to(dtype)
            try:
                with torch.no_grad():
                    model(images)
            except REFUSED as error:
                problem = problem or error  # the first way is the usual one
                continue
            return model, images
    raise LookupError(f"it does not run: {problem}") from problem


def _disturb(model: nn.Module) -> None:
    """Add noise to every parameter."""
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 and len(parameter) else 25
            parameter.add_(torch.randn_like(parameter) * 0.5 / fan_in**0.5)
