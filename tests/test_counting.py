"""Parameters and operations of lesson 06: counted in two ways that know nothing of each other."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vit_tutorial.lessons.counting import (
    CONFIGS,
    FLOP_FAULTS,
    PARAMETER_FAULTS,
    by_part,
    flops,
    parameters,
    torch_flops,
    torch_parameters,
)
from vit_tutorial.model import VisionTransformer, ViTConfig


def test_both_counts_are_those_of_the_packages_network():
    for config in CONFIGS:
        model = VisionTransformer(config)
        assert torch_parameters(config) == sum(p.numel() for p in model.parameters())
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as seen:
            model(torch.zeros(1, config.in_chans, *config.image_hw))
        assert torch_flops(config) == seen.get_total_flops()
        for parts, total in zip(by_part(config), (parameters, flops), strict=True):
            assert sum(parts.values()) == total(config)
            assert min(parts.values()) >= 0


def test_the_known_size_of_vit_b_16():
    sizes = dict(embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0)
    config = ViTConfig(img_size=224, patch_size=16, num_classes=1000, **sizes)
    assert parameters(config) == torch_parameters(config) == 86_567_656
    assert flops(config) == 35_127_656_448


def test_no_two_mistakes_look_alike():
    for formula, faults in ((parameters, PARAMETER_FAULTS), (flops, FLOP_FAULTS)):
        chosen = [(), *((name,) for name in faults)]
        counts = {tuple(formula(config, *names) for config in CONFIGS) for names in chosen}
        assert len(counts) == len(chosen)
