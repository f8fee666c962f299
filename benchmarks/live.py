"""Time the network that runs in the page: the bundled one, in headless Chromium, on one core.

Run it with `.venv/bin/python benchmarks/live.py`; it needs Chromium. At 32, 64 and 96 pixels (65,
257 and 577 tokens) it times a forward pass with the attention of every layer, the logits alone, the
logits without half of the patches, and Chefer's map; and a photograph of 12 megapixels made ready.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from results import ROOT, write_results

from vit_tutorial.weights import BUNDLED, Card

sys.path.append(str(ROOT / "tests"))  # which drive the same browser
from browser import find_chromium, running_chromium
from javascript import in_chromium, program

ROUNDS = 3
PASSES = {32: 20, 64: 6, 96: 3}  # pixels -> passes of each kind in a round
MODULES = ["image.js", "safetensors.js", "vit.js", "vit_backward.js"]
TIME = """
  const own = new VisionTransformer(data.config, readSafetensors(data.weights));
  const vit = own.resized(data.size);
  const input = Float32Array.from({ length: 3 * data.size ** 2 }, Math.random);
  const visible = [...new Array(vit.config.num_patches).keys()].filter((n) => n % 2);
  const whats = {
    "a forward pass, with all attention": () => vit.forward(input),
    "the logits alone": () => vit.forward(input, { attention: false }),
    "the logits, of half of the patches": () => vit.forward(input, { attention: false, visible }),
    "Chefer's map": () => chefer(vit.config, attentionGradients(vit, input, 0)),
  };
  const bytes = new Uint8ClampedArray(48e6).fill(255);
  const photo = { width: 4000, height: 3000, channels: 4, data: bytes };
  const fit = () => fitImage(opaque(photo, 3), data.size);
  if (data.photograph) whats["12 megapixels made ready"] = fit;
  const times = Object.fromEntries(Object.keys(whats).map((what) => [what, []]));
  for (let n = 0; n < data.passes; n++) {
    for (const [what, run] of Object.entries(whats)) {
      if (what.startsWith("12") && n > 2) continue;
      const start = performance.now();
      run();
      times[what].push(performance.now() - start);
    }
  }
  return { tokens: vit.config.num_tokens, times };
"""


def main() -> int:
    """Measure every size in turn, several rounds, each in a page of its own."""
    if find_chromium() is None:
        print("needs Chromium: apt-get install chromium", file=sys.stderr)
        return 2
    card = Card.read(BUNDLED / "cifar10.json")
    weights = (BUNDLED / "cifar10.safetensors").read_bytes()
    given = {"config": asdict(card.config), "weights": weights}
    medians: dict[tuple[int, int, str], list[float]] = {}
    with running_chromium() as browser, tempfile.TemporaryDirectory() as folder:
        code = program(Path(folder), MODULES, TIME)
        for _ in range(ROUNDS):
            for size, passes in PASSES.items():
                about = {"size": size, "passes": passes, "photograph": size == 32}
                came = in_chromium(browser, code, {**given, **about})
                for what, times in came["times"].items():
                    key = size, came["tokens"], what
                    medians.setdefault(key, []).append(statistics.median(times))
    rows = [
        {"network": "cifar10", "img_size": size, "tokens": tokens, "what": what, "rounds": ROUNDS,
         "ms_median": round(statistics.median(times), 1), "ms_low": round(min(times), 1),
         "ms_high": round(max(times), 1)}
        for (size, tokens, what), times in medians.items()
    ]  # fmt: skip
    for row in rows:
        print(row)
    write_results("live", command=".venv/bin/python benchmarks/live.py", data=None, rows=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
