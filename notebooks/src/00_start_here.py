# %% [markdown]
# # 00 · Start here
#
# **A network looks at a photograph. Which of its patches does it look at most?**
#
# (A first draft: it shows that the machine works.)

# %%
import torch

weights = torch.tensor([0.4, 0.1, 0.1, 0.3, 0.1, 0.0, 0.0])  # CLS, then 2 × 3 patches
weights[1:].reshape(2, 3)


# %% exercise="00.1"
def strongest_patch(weights, grid):
    """Find the patch that CLS attends to most.

    weights: (T,) what CLS attends to; weights[0] is CLS itself, then the patches, row by row.
    grid: (rows, columns) of patches, not always square.
    Returns (row, column).
    """
    ### BEGIN SOLUTION
    index = weights[1:].argmax().item()
    return divmod(index, grid[1])
    ### END SOLUTION


# %%
from vit_tutorial.lessons import check, hint

check("00.1", strongest_patch)
# hint("00.1")  # take away the first # for a hint; run it again for the next one

# %% [markdown] solved_only=true
# **Why.** `weights[1:]` leaves CLS out, so that index 0 is the first patch. Patches are counted row by
# row: the row is the whole part of `index / columns`, the column is the rest.
#
# **The common wrong answer** divides by the number of *rows*. On a square grid that is the same.

# %%
import ipywidgets

ipywidgets.IntSlider(description="layer")

# %%
import matplotlib.pyplot as plt
from tqdm.auto import tqdm

for _ in tqdm(range(3)):
    pass
plt.figure(figsize=(3, 2))
plt.imshow(weights[1:].reshape(2, 3), cmap="cividis")
