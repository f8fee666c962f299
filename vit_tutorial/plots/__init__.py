"""Figures from plain arrays: every function returns a matplotlib `Figure` and shows nothing.

Figures stand on a white card, so that they read on light and dark pages. Heat is drawn in cividis,
which people with any kind of colour vision read alike, and fades from transparent: where there is
little attention the photograph stays as it is.
"""

from vit_tutorial.plots.attention import (
    attention_by_hand,
    cost_curves,
    loss_curves,
    offset_maps,
    query_overlay,
    score_scales,
    token_tables,
    weight_bars,
    weight_tables,
)
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
    gradient_norms,
    norm_map,
    run_curves,
    stream_norms,
    token_stacks,
)
from vit_tutorial.plots.network import (
    image_answers,
    loss_against_lead,
    network_stages,
    share_bars,
    token_spreads,
)
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
from vit_tutorial.plots.photographs import (
    attention_atlas,
    explanation,
    overlay,
    photo_row,
    probabilities,
)
from vit_tutorial.plots.positions import (
    clock_hands,
    logit_pairs,
    place_maps,
    position_views,
    waves,
)
from vit_tutorial.plots.style import heat_colours
from vit_tutorial.plots.training import (
    ablation_bars,
    augmentation_gallery,
    confusion_matrix,
    lr_finder_curve,
    sick_curves,
    training_curve,
    worst_mistakes,
)

__all__ = [
    "ablation_bars",
    "activation_curves",
    "attention_atlas",
    "attention_by_hand",
    "augmentation_gallery",
    "block_wirings",
    "clock_hands",
    "confusion_matrix",
    "cost_curves",
    "cut_up",
    "embedding_by_hand",
    "explanation",
    "filter_pictures",
    "filter_view",
    "gradient_norms",
    "heat_colours",
    "image_answers",
    "logit_pairs",
    "loss_against_lead",
    "loss_curves",
    "lr_finder_curve",
    "network_stages",
    "norm_map",
    "number_tables",
    "offset_maps",
    "overlay",
    "patch_cover",
    "patch_grid",
    "patch_numbers",
    "patch_row",
    "patch_sources",
    "pattern_gains",
    "photo_row",
    "place_maps",
    "position_views",
    "probabilities",
    "query_overlay",
    "readout_curves",
    "response_maps",
    "run_curves",
    "score_scales",
    "share_bars",
    "sick_curves",
    "stream_norms",
    "token_cost",
    "token_spreads",
    "token_stacks",
    "token_tables",
    "touched_pixels",
    "training_curve",
    "waves",
    "weight_bars",
    "weight_tables",
    "worst_mistakes",
]
