"""The engine of a page: the network in a Worker, or in the page where there is none."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from javascript import FOLDER, from_json
from test_explorer_vit import checkpoint, image_for, near, network

from vit_tutorial import fit_image, record_attention
from vit_tutorial.attention import relevance
from vit_tutorial.explorer import page as pages
from vit_tutorial.images import normalize

ENTRY = """import { startEngine } from "./vit_engine.js";
import { carried } from "./carry.js";

function render({ model }) {
  const names = ["source", "config", "weights"];
  const settings = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  window.start = (changes) => startEngine({ ...settings, ...changes });
  Object.assign(window, { carried, input: new Float32Array(model.get("pixels").buffer) });
}

export default { render };
"""
NO_WORKERS = pages.POLICY.replace("worker-src blob:", "worker-src 'none'")


@pytest.fixture(params=["worker", "page"])
def engine(request, browser, tmp_path):
    """Evaluate in a saved page, as a strict policy lets it be; `engine` is there."""
    from javascript import CARRY

    for path in FOLDER.glob("*.js"):
        shutil.copy(path, tmp_path)
    (tmp_path / "carry.js").write_text(CARRY, encoding="utf-8")
    (tmp_path / "entry.js").write_text(ENTRY, encoding="utf-8")
    model = network()
    state = {
        "source": pages.join_modules(FOLDER / "vit_engine.js"),
        "config": asdict(model.config),
        "weights": checkpoint(model),
        "pixels": image_for(model)[0].float().numpy().tobytes(),
    }
    document = pages.page(pages.join_modules(tmp_path / "entry.js"), "", state, "")
    assert document.count(pages.POLICY) == 1
    if request.param == "page":
        document = document.replace(pages.POLICY, NO_WORKERS)
    (tmp_path / "page.html").write_text(document, encoding="utf-8")
    view = browser.new_page()
    problems = []
    view.on("pageerror", lambda error: problems.append(str(error)))
    view.goto((tmp_path / "page.html").as_uri())
    view.wait_for_function("() => Boolean(window.start)")
    assert view.evaluate("start().then((made) => (window.engine = made).where)") == request.param

    def evaluate(body: str):
        return from_json(view.evaluate(f"async () => {{ {body} }}"))

    yield evaluate, model
    view.close()
    assert problems == []


def test_it_says_what_python_says(engine):
    evaluate, model = engine
    came = evaluate("""
      const pairs = [[input, {}], [input, { visible: [1, 4] }]];
      const passes = [engine.forward(input), engine.logits(pairs), engine.chefer(input, 2),
        engine.forward(new Float32Array(3 * 16 * 4), { img_size: [16, 4] })];
      return carried(await Promise.all(passes)); """)
    pixels = image_for(model)
    record = record_attention(model, pixels, gradients_of=2)
    assert record.logits is not None
    for logits in (came[0]["logits"], came[1][0], came[2]["logits"]):
        near(logits, record.logits[0])
    near(np.concatenate(came[0]["attention"]), torch.cat([w.flatten() for w in record.weights]))
    near(came[1][1], model(pixels, visible=torch.tensor([[1, 4]]))[0])
    near(came[2]["relevance"], relevance(record, method="chefer")[0])
    near(came[3]["logits"], model.resized((16, 4))(torch.zeros(1, 3, 16, 4).double())[0])


def test_it_makes_images_ready(engine):
    evaluate, _ = engine
    array = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    image = {"width": 14, "height": 9, "channels": 3}
    came = evaluate(f"""
      const image = {{ ...{json.dumps(image)}, data: Uint8Array.from({array.ravel().tolist()}) }};
      const reading = {{ mean: [0.5, 0.4, 0.3], std: [0.1, 0.2, 0.3] }};
      return carried(await engine.fit(image, reading, 6, "pad")); """)
    fitted = fit_image(array, 6, fit="pad")
    np.testing.assert_array_equal(came["pixels"], fitted.pixels.flatten().numpy())
    assert came["box"] == list(fitted.box)
    expected = normalize(fitted.pixels, [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]).flatten()
    np.testing.assert_allclose(came["input"], expected.numpy(), rtol=0, atol=1e-5)


def test_what_nobody_waits_for_any_more_is_not_computed(engine):
    evaluate, _ = engine
    came = evaluate("""
      const { run } = engine.runner;
      const begun = [];
      engine.runner.run = (name, args) => { begun.push(args[1].n); return run(name, args); };
      const aborts = [0, 1, 2, 3].map(() => new AbortController());
      const asked = aborts.map(({ signal }, n) => engine.forward(input, { n }, { signal }).then(
        () => "answered", (error) => error.name));
      for (const n of [0, 1, 2]) aborts[n].abort();
      const late = engine.forward(input, { n: 4 }, { signal: AbortSignal.abort() });
      const said = await late.catch((error) => error.name);
      return [await Promise.all(asked), said, begun]; """)
    assert came == [[*["AbortError"] * 3, "answered"], "AbortError", [0, 3]]


def test_an_error_is_told_and_the_next_task_runs(engine):
    evaluate, _ = engine
    came = evaluate("""
      const failed = engine.forward(input.slice(1)).catch((error) => error.message);
      const next = engine.forward(input);
      const broken = start({ weights: new Uint8Array(3) }).catch((error) => error.message);
      return [await failed, (await next).logits.length, await broken]; """)
    assert came[0] == "expected the pixels of an image (3, 8, 12), got 287 numbers"
    assert came[1:] == [5, "expected the bytes of a .safetensors file, whole"]


def test_a_stopped_engine_answers_nothing(engine):
    evaluate, _ = engine
    assert (
        evaluate("""
      const asked = [0, 1].map(() => engine.forward(input).catch((error) => error.name));
      engine.stop();
      const later = engine.forward(input).catch((error) => error.name);
      return Promise.all([...asked, later]); """)
        == ["AbortError"] * 3
    )
