"""Figures from plain arrays: every function returns a matplotlib `Figure` and shows nothing.

Figures stand on a white card, so that they read on light and dark pages. Maps are drawn twice, as
a spotlight on the photograph and as they are (`spotlight.py`), in magma; tables of numbers are in
cividis. People with any kind of colour vision read both alike.
"""

from vit_tutorial.plots.attention import (
    attention_by_hand,
    cost_curves,
    loss_curves,
    offset_maps,
    score_scales,
    token_tables,
    weight_bars,
    weight_tables,
)
from vit_tutorial.plots.comparison import influence_maps, setting_curves
from vit_tutorial.plots.compression import interval_curves, merged_patches, trade_offs
from vit_tutorial.plots.embedding import (
    embedding_by_hand,
    filter_pictures,
    filter_view,
    pattern_gains,
    readout_curves,
    response_maps,
    touched_pixels,
)
from vit_tutorial.plots.encoder import (
    activation_curves,
    block_wirings,
    gradient_lengths,
    run_curves,
    stream_lengths,
    token_stacks,
)
from vit_tutorial.plots.faithfulness import (
    method_scores,
    pixel_row,
    question_maps,
    removal_curves,
)
from vit_tutorial.plots.live import live_view
from vit_tutorial.plots.maps import component_shares, head_dots, token_paths
from vit_tutorial.plots.network import (
    image_predictions,
    loss_against_lead,
    network_stages,
    share_bars,
    token_spreads,
)
from vit_tutorial.plots.overview import Drawing, network_map
from vit_tutorial.plots.patches import (
    cut_up,
    number_tables,
    patch_cover,
    patch_grid,
    patch_numbers,
    patch_row,
    patch_sources,
    token_cost,
)
from vit_tutorial.plots.photographs import photo_grid, photo_row, probabilities
from vit_tutorial.plots.positions import (
    clock_hands,
    logit_pairs,
    position_maps,
    position_views,
    waves,
)
from vit_tutorial.plots.reconstruction import (
    curve_panels,
    few_label_curves,
    picture_table,
)
from vit_tutorial.plots.scaling import ring_rounds, step_timelines
from vit_tutorial.plots.spotlight import (
    attention_view,
    explanation,
    in_numbers,
    in_percent,
    map_grid,
    map_pair,
    map_row,
    map_scale,
    map_shares,
    overlay,
    spotlight,
)
from vit_tutorial.plots.style import heat_colours
from vit_tutorial.plots.training import (
    ablation_bars,
    augmentation_gallery,
    confusion_matrix,
    lr_finder_curve,
    runs_and_band,
    sick_curves,
    training_curve,
    worst_mistakes,
)
from vit_tutorial.plots.transfer import interval_bars, label_maps, probe_curve

__all__ = [
    "Drawing",
    "ablation_bars",
    "activation_curves",
    "attention_by_hand",
    "attention_view",
    "augmentation_gallery",
    "block_wirings",
    "clock_hands",
    "component_shares",
    "confusion_matrix",
    "cost_curves",
    "curve_panels",
    "cut_up",
    "embedding_by_hand",
    "explanation",
    "few_label_curves",
    "filter_pictures",
    "filter_view",
    "gradient_lengths",
    "head_dots",
    "heat_colours",
    "image_predictions",
    "in_numbers",
    "in_percent",
    "influence_maps",
    "interval_bars",
    "interval_curves",
    "label_maps",
    "live_view",
    "logit_pairs",
    "loss_against_lead",
    "loss_curves",
    "lr_finder_curve",
    "map_grid",
    "map_pair",
    "map_row",
    "map_scale",
    "map_shares",
    "merged_patches",
    "method_scores",
    "network_map",
    "network_stages",
    "number_tables",
    "offset_maps",
    "overlay",
    "patch_cover",
    "patch_grid",
    "patch_numbers",
    "patch_row",
    "patch_sources",
    "pattern_gains",
    "photo_grid",
    "photo_row",
    "picture_table",
    "pixel_row",
    "position_maps",
    "position_views",
    "probabilities",
    "probe_curve",
    "question_maps",
    "readout_curves",
    "removal_curves",
    "response_maps",
    "ring_rounds",
    "run_curves",
    "runs_and_band",
    "score_scales",
    "setting_curves",
    "share_bars",
    "sick_curves",
    "spotlight",
    "step_timelines",
    "stream_lengths",
    "token_cost",
    "token_paths",
    "token_spreads",
    "token_stacks",
    "token_tables",
    "touched_pixels",
    "trade_offs",
    "training_curve",
    "waves",
    "weight_bars",
    "weight_tables",
    "worst_mistakes",
]
