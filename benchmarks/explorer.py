"""Time the attention explorer in a browser: from a move of the pointer or a slider to the picture.

Run it with `.venv/bin/python benchmarks/explorer.py`; it needs Chromium. A saved page of a network
of the size of ViT-B/16 (random weights, all 144 maps on show) and one of the bundled network are
opened in headless Chromium, in which the processor paints. One time runs from the event to the
first moment at which the browser is free again after it has drawn the frame; of this, up to 17 ms
are spent waiting for the frame. The other is what the frame costs: computing, drawing, painting.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from results import write_results

from vit_tutorial import AttentionExplorer, VisionTransformer, ViTConfig, load_checkpoint
from vit_tutorial.pretrained import Reading

MOVES, SLIDES = 150, 40
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


def explorers() -> dict[str, AttentionExplorer]:
    """Make one explorer of each network, on the same photograph."""
    from skimage import data

    torch.manual_seed(0)
    config = ViTConfig(
        img_size=224, patch_size=16, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0
    )
    large = VisionTransformer(config).eval()
    for block in large.blocks:  # scores as wide as a trained network's
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.06)
    bundled, card = load_checkpoint("cifar10")
    reading = Reading(224, card.mean, card.std, card.classes)
    return {
        "size of ViT-B/16, 144 maps": AttentionExplorer(large, data.chelsea(), reading),
        "cifar10, 12 maps": AttentionExplorer(bundled, data.chelsea(), card),
    }


def times_of(view) -> list[list[float]]:
    """Return the times that were kept, and forget them."""
    view.wait_for_timeout(200)
    return view.evaluate("times.splice(0)")


def row(network: str, megabytes: float, what: str, times: list[list[float]]) -> dict:
    """Sum up times in milliseconds."""
    facts = {"network": network, "page_mb": round(megabytes, 2), "what": what, "times": len(times)}
    for name, found in zip(("event", "work"), zip(*times, strict=True), strict=True):
        facts[f"{name}_ms_median"] = round(statistics.median(found), 1)
        facts[f"{name}_ms_p95"] = round(statistics.quantiles(found, n=20)[-1], 1)
    return facts


def main() -> int:
    """Measure pointer and sliders in both pages."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("needs Chromium: apt-get install chromium", file=sys.stderr)
        return 2
    rows = []
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for network, explorer in explorers().items():
            path = Path(folder) / "page.html"
            explorer.save_html(path)
            megabytes = path.stat().st_size / 1e6
            view = browser.new_page(viewport={"width": 1280, "height": 900})
            view.goto(path.as_uri())
            view.locator(".ae-stage").first.wait_for()
            view.wait_for_timeout(1000)
            view.evaluate(LISTEN)
            box = view.locator(".ae-stage").first.bounding_box()
            assert box is not None
            for step in range(MOVES):
                x = box["x"] + box["width"] * (0.02 + 0.96 * (step * 0.37 % 1))
                view.mouse.move(x, box["y"] + box["height"] * (0.02 + 0.96 * (step * 0.61 % 1)))
            rows.append(row(network, megabytes, "pointer, all maps", times_of(view)))
            view.get_by_role("button", name="Rollout", exact=True).click()
            for label in ("Layer", "Discard", "Skip connection"):
                for step in range(SLIDES):
                    view.evaluate(SLIDE, [label, step * 0.29 % 1])
                    view.wait_for_timeout(20)
                what = f"rollout, slider {label}"
                rows.append(row(network, megabytes, what, times_of(view)))
            view.close()
        browser.close()
    for each in rows:
        print(each)
    write_results(
        "explorer", command=".venv/bin/python benchmarks/explorer.py", data=None, rows=rows
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
