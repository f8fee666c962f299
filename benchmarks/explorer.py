"""Time the attention explorer in a browser: from a move of the pointer or a slider to the picture.

Run it with `.venv/bin/python benchmarks/explorer.py`; it needs Chromium. A network of the size of
ViT-B/16 (random weights, all 144 maps on show) and the bundled one are opened in headless Chromium,
in which the processor paints: as saved pages, and in JupyterLab, where what is sent to the kernel
meanwhile is counted too. One time runs from the event to the first moment at which the browser is
free again after it has drawn the frame; of this, up to 17 ms are spent waiting for the frame. The
other is what the frame costs: computing, drawing, painting.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import torch
from playwright.sync_api import Browser, Page
from results import ROOT, write_results

from vit_tutorial import AttentionExplorer, Reading, VisionTransformer, ViTConfig, load_checkpoint

sys.path.append(str(ROOT / "tests"))  # which drive the same browser
from browser import (
    ATTENTION,
    COUNT_MESSAGES,
    address_of,
    find_chromium,
    open_page,
    run_all_cells,
    running_chromium,
    running_lab,
    scroll_to,
)

ROUNDS, MOVES, SLIDES = 5, 100, 30
NETWORKS = ("size of ViT-B/16, 144 maps", "cifar10")
CELL = """
import sys
sys.path.insert(0, {folder!r})
from explorer import explorer_of
explorer_of({network!r})
"""
LISTEN = """() => {
  window.times = [];
  for (const event of ["pointermove", "input"]) {
    document.addEventListener(event, ({ timeStamp }) => requestAnimationFrame(() => {
      const frame = performance.now();  // runs before the explorer's own drawing
      setTimeout(() => times.push([performance.now() - timeStamp, performance.now() - frame]));
    }), { capture: true });
  }
}"""
SLIDE = """([label, share]) => {
  const fields = [...document.querySelectorAll(".ae-field")];
  const input = fields.find((field) => field.innerText.startsWith(label)).querySelector("input");
  input.value = Number(input.min) + share * (input.max - input.min);
  input.dispatchEvent(new Event("input", { bubbles: true }));
}"""


def explorer_of(network: str) -> AttentionExplorer:
    """Make an explorer of one of `NETWORKS`, on a photograph."""
    from skimage import data

    bundled, card = load_checkpoint("cifar10")
    if network == "cifar10":
        return AttentionExplorer(bundled, data.chelsea(), card)
    torch.manual_seed(0)
    config = ViTConfig(
        img_size=224, patch_size=16, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0
    )
    large = VisionTransformer(config).eval()
    for block in large.blocks:  # scores as wide as a trained network's
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.06)
    reading = Reading(224, card.mean, card.std, card.classes)
    return AttentionExplorer(large, data.chelsea(), reading)


def times_of(view: Page) -> list[list[float]]:
    """Return the times that were kept, and forget them."""
    view.wait_for_timeout(200)
    return view.evaluate("times.splice(0)")


def row(facts: dict[str, Any], what: str, rounds: list[list[list[float]]]) -> dict[str, Any]:
    """Sum up times in milliseconds: the median and the 95th percentile of the median round."""
    summed = {**facts, "what": what, "rounds": len(rounds), "times": sum(map(len, rounds))}
    for n, name in enumerate(("event", "work")):
        columns = [[time[n] for time in times] for times in rounds]
        middle = statistics.median(map(statistics.median, columns))
        late = statistics.median(statistics.quantiles(times, n=20)[-1] for times in columns)
        summed[f"{name}_ms_median"], summed[f"{name}_ms_p95"] = round(middle, 1), round(late, 1)
    return summed


def measure(view: Page, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Move the pointer over the explorer of an open page, then its sliders."""
    view.wait_for_timeout(1000)
    view.evaluate(LISTEN)
    box = view.locator(".mv-stage").first.bounding_box()
    assert box is not None
    rounds = []
    for _ in range(ROUNDS):
        for step in range(MOVES):
            x = box["x"] + box["width"] * (0.02 + 0.96 * (step * 0.37 % 1))
            view.mouse.move(x, box["y"] + box["height"] * (0.02 + 0.96 * (step * 0.61 % 1)))
        rounds.append(times_of(view))
    rows = [row(facts, "pointer, all maps", rounds)]
    view.locator(".mv-stage").first.press("r")
    for label in ("Layer", "Discard", "Skip connection"):
        rounds = []
        for _ in range(ROUNDS):
            for step in range(SLIDES):
                view.evaluate(SLIDE, [label, step * 0.29 % 1])
                view.wait_for_timeout(20)
            rounds.append(times_of(view))
        rows.append(row(facts, f"rollout, slider {label}", rounds))
    return rows


def in_a_saved_page(browser: Browser, network: str, folder: Path) -> list[dict[str, Any]]:
    """Measure an explorer in a page without a kernel."""
    path = folder / "page.html"
    explorer_of(network).save_html(path)
    facts = {"network": network, "in": "saved page", "page_mb": round(path.stat().st_size / 1e6, 2)}
    with open_page(browser, path.as_uri()) as view:
        view.locator(".mv-stage").first.wait_for()
        return measure(view, facts)


def in_jupyterlab(browser: Browser, network: str, folder: Path) -> list[dict[str, Any]]:
    """Measure an explorer in a notebook; the rows tell what was sent to the kernel meanwhile."""
    notebook = nbformat.v4.new_notebook()
    code = CELL.format(folder=str(Path(__file__).parent), network=network)
    notebook.cells = [nbformat.v4.new_code_cell(code)]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    with running_lab(folder) as url:
        path = folder / "work" / "explorer.ipynb"
        nbformat.write(notebook, path)
        with open_page(browser, address_of(path.name, url)) as view:
            run_all_cells(view, path)
            scroll_to(view, ATTENTION)
            view.mouse.move(0, 0)
            view.evaluate(COUNT_MESSAGES)
            rows = measure(view, {"network": network, "in": "JupyterLab"})
            messages = view.evaluate("messages")
    return [{**row, "messages_to_kernel": messages} for row in rows]


def main() -> int:
    """Measure pointer and sliders, for both networks, in a page and in JupyterLab."""
    if find_chromium() is None:
        print("needs Chromium: apt-get install chromium", file=sys.stderr)
        return 2
    rows = []
    with running_chromium() as browser:
        for network in NETWORKS:
            for where in (in_a_saved_page, in_jupyterlab):
                with tempfile.TemporaryDirectory() as folder:
                    rows += where(browser, network, Path(folder))
    for row in rows:
        print(row)
    write_results(
        "explorer", command=".venv/bin/python benchmarks/explorer.py", data=None, rows=rows
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
