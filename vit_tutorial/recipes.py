"""Every choice of a training run, and the recipes: choices that go well together."""

from dataclasses import dataclass

from vit_tutorial.model import ViTConfig


@dataclass(frozen=True)
class TrainConfig:
    """Every choice of a training run.

    Raises:
        ValueError: a number outside its range, or an unknown optimizer.
    """

    epochs: int
    batch_size: int = 128  # of all processes together
    lr: float = 2e-3  # the highest, reached after the warm-up
    weight_decay: float = 0.05  # on matrices only
    layer_decay: float = 1.0  # rate of each layer / that of the next one; below 1 to fine-tune
    warmup: float = 0.1  # share of all steps in which the rate rises to `lr`
    optimizer: str = "adamw"  # or "muon", for the matrices in the blocks
    label_smoothing: float = 0.05
    clip_norm: float = 1.0  # the longest gradient allowed
    crop_padding: int = 0  # pixels by which an image may be shifted
    flip: bool = False  # mirror an image, left to right, with probability 1/2
    trivial_augment: float = 0.0  # share of images changed by one TrivialAugment operation
    erase: float = 0.0  # share of images that lose a rectangle
    mixup: float = 0.0  # share of images blended with another one
    cutmix: float = 0.0  # share of images into which a rectangle of another one is pasted
    patch_drop: float = 0.0  # share of patches that the network does not see, others each time
    clean: float = 0.0  # share of steps at the end without those five and without smoothing
    ema: float = 0.0  # decay of a running average of the weights, which replaces them; 0: none
    compile: bool = False  # on a GPU; see hardware.compiled
    precision: str = "auto"  # of products: "float32", "bfloat16", "float16"; "auto": the fastest
    attention: str = "auto"  # "fused" in one kernel, or "plain"; "auto": the fastest
    threads: int = 0  # of the CPU; 0: the fastest number
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if hasattr(value, "item"):  # NumPy's numbers could not be read back from a saved run
                object.__setattr__(self, name, value.item())
        for name in ("crop_padding", "seed", "threads"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be 0, 1, 2, ..., got {getattr(self, name)}")
        for name in ("epochs", "batch_size"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"{name} must be 1, 2, ..., got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        for name in ("lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup", "label_smoothing", "patch_drop", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in 0..1, 1 excluded, got {getattr(self, name)}")
        for name in ("trivial_augment", "erase", "mixup", "cutmix", "clean"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in 0..1, 0 excluded, got {self.layer_decay}")
        if self.mixup + self.cutmix > 1:
            raise ValueError(
                f"mixup and cutmix must not be more than 1 together, got {self.mixup} and "
                f"{self.cutmix}"
            )
        for name, allowed in {
            "optimizer": ("adamw", "muon"),
            "precision": ("auto", "float32", "bfloat16", "float16"),
            "attention": ("auto", "fused", "plain"),
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Recipe:
    """A network and how to train it."""

    model: ViTConfig
    train: TrainConfig
    about: str  # what it is for


RECIPES = {
    "smoke": Recipe(
        ViTConfig(embed_dim=64, depth=2, num_heads=2, mlp_ratio=2.0, patch_size=8),
        TrainConfig(epochs=1, crop_padding=4, flip=True),
        "CIFAR-10, to see that everything runs",
    ),
    "digits": Recipe(
        ViTConfig(
            img_size=8, patch_size=2, in_chans=1, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2.0
        ),
        TrainConfig(epochs=40, batch_size=64, lr=2e-3, optimizer="muon"),
        "the handwritten digits, and a first look at a training",
    ),
    "laptop": Recipe(
        ViTConfig(embed_dim=96, depth=4, num_heads=3, pool="mean"),
        TrainConfig(
            epochs=12,
            lr=4e-3,
            optimizer="muon",
            crop_padding=4,
            flip=True,
            patch_drop=0.5,
            clean=0.2,
        ),
        "CIFAR-10 without a GPU, for a first network of one's own",
    ),
    "overnight": Recipe(
        ViTConfig(embed_dim=128, depth=6, num_heads=4),
        TrainConfig(
            epochs=150,
            lr=4e-3,
            optimizer="muon",
            label_smoothing=0.1,
            crop_padding=4,
            flip=True,
            trivial_augment=0.5,
            cutmix=0.3,
            patch_drop=0.5,
            clean=0.1,
            ema=0.999,
        ),
        "CIFAR-10 as well as a computer without a GPU can by the next morning",
    ),
    "classroom": Recipe(
        ViTConfig(embed_dim=192, depth=9, num_heads=6, mlp_ratio=2.0, drop_path=0.05),
        TrainConfig(
            epochs=90,
            batch_size=512,
            lr=1e-3,
            weight_decay=0.1,
            warmup=0.05,
            label_smoothing=0.1,
            crop_padding=4,
            flip=True,
            trivial_augment=0.5,
            cutmix=0.3,
            clean=0.08,
            ema=0.999,
            compile=True,
        ),
        "CIFAR-10 on a free GPU, in one lesson",
    ),
    "flagship": Recipe(
        ViTConfig(
            embed_dim=256,
            depth=12,
            num_heads=4,
            mlp_ratio=4.0,
            pos_embed="rope",
            pool="mean",
            drop_path=0.1,
        ),
        TrainConfig(
            epochs=400,
            batch_size=512,
            lr=1e-3,
            weight_decay=0.1,
            warmup=0.05,
            label_smoothing=0.1,
            crop_padding=4,
            flip=True,
            trivial_augment=1.0,
            erase=0.25,
            mixup=0.4,
            cutmix=0.4,
            clean=0.05,
            ema=0.999,
            compile=True,
        ),
        "CIFAR-10 as well as this course can, on a large GPU",
    ),
}
