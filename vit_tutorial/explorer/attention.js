// What every head of every layer attends to, from any token, under the pointer or the arrow keys.
// All weights come once, as bytes; from then on nothing is asked of the kernel but to open an image.

// ---- Computing ----

// A scene is one image in one network. Its weights are bytes (layers, heads, T, T): shares of the
// largest weight of their row, and `most` (layers, heads, T) are these largest weights.
export function makeScene(about, weights, most) {
  const tokens = about.num_prefix + about.rows * about.columns;
  const scene = { ...about, tokens, bytes: bytesOf(weights), most: new Float32Array(bytesOf(most).slice().buffer) };
  return { ...scene, fused: new Map(), sorted: new Map() };
}

export function headRow(scene, layer, head, query) {
  const { tokens } = scene;
  const row = (layer * scene.heads + head) * tokens + query;
  const scale = scene.most[row] / 255;
  const values = new Float32Array(tokens);
  for (let i = 0, at = row * tokens; i < tokens; i++, at++) values[i] = scene.bytes[at] * scale;
  return values;
}

function headColumn(scene, layer, head, key) {
  const { tokens } = scene;
  const first = (layer * scene.heads + head) * tokens;
  const column = new Float32Array(tokens);
  for (let i = 0; i < tokens; i++) {
    column[i] = (scene.bytes[(first + i) * tokens + key] * scene.most[first + i]) / 255;
  }
  return column;
}

// Join the heads of a layer: (T, T). Computed once for each kind of fusion.
export function fuse(scene, layer, fusion) {
  const name = `${layer} ${fusion}`;
  if (scene.fused.has(name)) return scene.fused.get(name);
  const { tokens, heads } = scene;
  const joined = new Float32Array(tokens * tokens);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < tokens; i++) {
      const row = (layer * heads + head) * tokens + i;
      const scale = scene.most[row] / 255;
      for (let j = 0; j < tokens; j++) {
        const value = scene.bytes[row * tokens + j] * scale;
        const at = i * tokens + j;
        if (fusion === "mean") joined[at] += value / heads;
        else if (head === 0) joined[at] = value;
        else joined[at] = fusion === "max" ? Math.max(joined[at], value) : Math.min(joined[at], value);
      }
    }
  }
  scene.fused.set(name, joined);
  return joined;
}

// How many of the smallest entries go: all below `limit`, and the first `equal` of those equal to it.
function cut(scene, layer, fusion, discard) {
  const name = `${layer} ${fusion}`;
  const flat = fuse(scene, layer, fusion);
  const count = Math.floor(discard * flat.length);
  if (!count) return { limit: -1, equal: 0 };
  if (!scene.sorted.has(name)) scene.sorted.set(name, flat.slice().sort());
  const sorted = scene.sorted.get(name);
  const limit = sorted[count - 1];
  let [low, high] = [0, count - 1]; // the first entry that equals the limit
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < limit) low = middle + 1;
    else high = middle;
  }
  return { limit, equal: count - low };
}

// The step of rollout through one layer: the fused weights without the smallest, mixed with the
// identity, rows summing to 1. As values (T, T) without the diagonal's share, and what rows sum to.
function stepOf(scene, layer, { fusion, discard, residual }) {
  const { tokens } = scene;
  const flat = fuse(scene, layer, fusion);
  let { limit, equal } = cut(scene, layer, fusion, discard);
  const kept = new Float32Array(flat.length);
  const total = new Float64Array(tokens);
  for (let i = 0, at = 0; i < tokens; i++) {
    let sum = 0;
    for (let j = 0; j < tokens; j++, at++) {
      const value = flat[at];
      const goes = value < limit || (value === limit && equal-- > 0);
      if (goes && !(at === 0 && scene.num_prefix)) continue; // CLS -> CLS stays
      kept[at] = value;
      sum += value;
    }
    total[i] = (1 - residual) * sum + residual;
  }
  return { kept, total };
}

// Rollout from `query` down to the first layer: what reaches it from each token (T). A query of -1
// is the mean over all; "by" turns round who looks: how much of `query` reaches each token.
export function rollout(scene, { fusion = "mean", discard = 0, residual = 0.5, query = 0, last, by = false }) {
  const { tokens } = scene;
  const depth = (last ?? scene.layers - 1) + 1;
  let row = new Float64Array(tokens);
  if (query < 0) row.fill(1 / tokens);
  else row[query] = 1;
  for (let n = 0; n < depth; n++) {
    const { kept, total } = stepOf(scene, by ? n : depth - 1 - n, { fusion, discard, residual });
    const next = new Float64Array(tokens);
    for (let i = 0, at = 0; i < tokens; i++, at += tokens) {
      if (total[i] <= 0) { // a row that lost everything passes its token on
        next[i] += row[i];
        continue;
      }
      if (by) {
        let sum = 0;
        for (let j = 0; j < tokens; j++) sum += kept[at + j] * row[j];
        next[i] = ((1 - residual) * sum + residual * row[i]) / total[i];
      } else if (row[i]) {
        const share = row[i] / total[i];
        for (let j = 0; j < tokens; j++) next[j] += (1 - residual) * share * kept[at + j];
        next[i] += residual * share;
      }
    }
    row = next;
  }
  return Float32Array.from(row);
}

// What one setting shows: a value for each token (T), prefix tokens included.
export function valuesOf(scene, setting) {
  const { show, layer, head, query, by } = setting;
  if (scene.relevances[show]) {
    const map = new Float32Array(scene.tokens);
    map.set(scene.relevances[show], scene.num_prefix);
    return map;
  }
  if (show === "rollout") return rollout(scene, { ...setting, last: layer });
  const heads = show === "head" ? [Math.min(head, scene.heads - 1)] : [...Array(scene.heads).keys()];
  const values = new Float32Array(scene.tokens);
  for (const one of heads) {
    const queries = query < 0 ? [...Array(scene.tokens).keys()] : [query];
    for (const each of queries) {
      const part = by && query >= 0 ? headColumn(scene, layer, one, each) : headRow(scene, layer, one, each);
      for (let i = 0; i < values.length; i++) values[i] += part[i] / heads.length / queries.length;
    }
  }
  return values;
}

// ---- Words ----

const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)}%`;

export function nameOf(scene, token) {
  if (token < 0) return "all tokens on average";
  if (token < scene.num_prefix) return scene.prefix_names[token];
  const patch = token - scene.num_prefix;
  return `row ${Math.floor(patch / scene.columns)}, column ${patch % scene.columns}`;
}

// In rollout a patch keeps so much of itself that the others would not be seen beside it.
const ownPatch = (scene, { show, query }) => (show === "rollout" && query >= scene.num_prefix ? query : -1);

function largestPatch(scene, setting, values) {
  const own = ownPatch(scene, setting);
  let most = 0;
  for (let i = scene.num_prefix; i < values.length; i++) if (i !== own) most = Math.max(most, values[i]);
  return most;
}

export function sentence(scene, setting, values) {
  const { show, layer, head, query, by } = setting;
  const own = ownPatch(scene, setting);
  let most = own === scene.num_prefix ? own + 1 : scene.num_prefix;
  for (let i = most; i < values.length; i++) if (i !== own && values[i] > values[most]) most = i;
  if (scene.relevances[show]) {
    return values[most] > 0
      ? `${show} for ${scene.target}: the patch in ${nameOf(scene, most)} counts most.`
      : `${show} for ${scene.target}: no patch counts.`;
  }
  const where = {
    head: `Layer ${layer}, head ${Math.min(head, scene.heads - 1)}`,
    mean: `Layer ${layer}, mean of its heads`,
    rollout: layer ? `Rollout through layers 0 to ${layer}` : "Rollout through layer 0",
  }[show];
  let patches = 0;
  for (let i = scene.num_prefix; i < values.length; i++) patches += values[i];
  if (by) return `${where}: ${nameOf(scene, query)} is attended to most by ${nameOf(scene, most)} (${percent(values[most])}).`;
  if (own >= 0) {
    return `${where}: ${nameOf(scene, query)} keeps ${percent(values[own])} of itself, and takes most from ${nameOf(scene, most)} (${percent(values[most])}).`;
  }
  const rest = scene.num_prefix ? ` All patches together get ${percent(patches)}.` : "";
  return `${where}: ${nameOf(scene, query)} ${query < 0 ? "attend" : "attends"} most to ${nameOf(scene, most)} (${percent(values[most])}).${rest}`;
}

// ---- Page ----

const SIZE = 420; // CSS pixels of the atlas, and at least of the picture
const HELP = [
  ["pointer", "look from any patch; click holds it, Escape lets go"],
  ["arrows, Home, End", "go from patch to patch"],
  ["C", "look from the CLS token"],
  ["[ ]", "layer before, layer after"],
  [", .", "head before, head after"],
  ["H M R", "one head, mean of heads, rollout"],
  ["P", "pin the patch, to compare it with others"],
];
let instances = 0;

function render({ model, el }) {
  const id = `attention-explorer-${++instances}-${Math.random().toString(36).slice(2, 8)}`;
  const root = element("div", "explorer attention-explorer", el);
  const scale = Math.max(1, window.devicePixelRatio || 1);
  const get = (name) => model.get(name);
  let scenes = [];
  let palettes = {};
  let [held, pinned, pointed] = [false, null, null]; // pinned: {scene, query} of the second picture
  let frame = 0;
  let unsaved = false;

  // ---- Parts ----

  const bar = element("div", "ex-row ae-bar", root);
  const group = (label) => {
    const made = element("div", "ex-row", bar);
    made.setAttribute("role", "group");
    made.setAttribute("aria-label", label);
    return made;
  };
  const shows = group("What is shown");
  const sceneBox = element("label", "ae-field", bar, "Image");
  const sceneSelect = element("select", "", sceneBox);
  const open = element("label", "ex-button ae-open", bar, "Open an image…");
  const file = element("input", "", open);
  file.type = "file";
  file.accept = "image/*";

  const problem = element("div", "ae-problem", root); // with an image that a person opened
  problem.setAttribute("role", "alert");
  const main = element("div", "ae-main", root);
  const panes = [0, 1].map((n) => {
    const box = element("div", "ae-pane", main);
    const title = element("div", "ex-title ae-title", box);
    const answer = element("div", "ex-note ae-answer", box);
    const prefix = element("div", "ex-row ae-prefix", box);
    const stage = element("div", "ae-stage", box);
    const photo = element("canvas", "ae-photo", stage);
    const heat = element("canvas", "ae-heat", stage);
    const row = element("div", "", stage);
    const cell = element("div", "ex-outline", row);
    row.setAttribute("role", "row");
    cell.setAttribute("role", "gridcell");
    cell.id = `${id}-cell-${n}`;
    stage.setAttribute("role", "grid");
    stage.setAttribute("aria-activedescendant", cell.id);
    const words = element("div", "ae-words", box);
    stage.tabIndex = 0;
    keepKeys(stage);
    photo.setAttribute("aria-hidden", "true");
    heat.setAttribute("aria-hidden", "true");
    return { n, box, title, answer, prefix, stage, photo, heat, row, cell, words, small: document.createElement("canvas") };
  });
  panes[0].words.setAttribute("aria-live", "polite");
  panes[1].box.hidden = true;

  const side = element("div", "ae-side", main);
  const atlasTitle = element("div", "ex-title ae-title", side, "Every head of every layer");
  const atlasBox = element("div", "ae-atlas", side);
  const headNames = element("div", "ae-heads", atlasBox);
  const layerNames = element("div", "ae-layers", atlasBox);
  const atlasStage = element("div", "ae-tiles", atlasBox);
  const atlas = element("canvas", "", atlasStage);
  const chosen = element("div", "ae-chosen", atlasStage);
  element("div", "ex-note", side, "Rows are layers, columns are heads; each map is scaled to its own largest value. Click one to see it large.");
  atlas.setAttribute("role", "img");

  const controls = element("div", "ae-controls", root);
  const slider = (name, label, min, max, step, form) => {
    const box = element("label", "ae-field", controls, "");
    element("span", "ae-label", box, label);
    const input = element("input", "", box);
    Object.assign(input, { type: "range", min, max, step });
    const value = element("output", "", box);
    input.addEventListener("input", () => change({ [name]: Number(input.value) }));
    return { box, input, update: () => {
      input.value = get(name);
      value.textContent = form(get(name));
      input.setAttribute("aria-valuetext", form(get(name)));
    } };
  };
  const select = (name, label, options) => {
    const box = element("label", "ae-field", controls, "");
    element("span", "ae-label", box, label);
    const input = element("select", "", box);
    for (const [value, text] of options) element("option", "", input, text).value = value;
    input.addEventListener("change", () => change({ [name]: input.value }));
    return { box, input, update: () => { input.value = get(name); } };
  };
  const fields = {
    layer: slider("layer", "Layer", 0, 0, 1, String),
    head: slider("head", "Head", 0, 0, 1, String),
    direction: select("direction", "Direction", [["from", "attends to"], ["to", "is attended to by"]]),
    head_fusion: select("head_fusion", "Heads joined by", [["mean", "mean"], ["max", "maximum"], ["min", "minimum"]]),
    discard_ratio: slider("discard_ratio", "Discard", 0, 0.98, 0.02, (v) => `${Math.round(100 * v)}%`),
    residual: slider("residual", "Skip connection", 0, 1, 0.05, (v) => v.toFixed(2)),
    colours: select("colours", "Colours", get("palette_names").map((name) => [name, name])),
  };

  const foot = element("div", "ex-row ae-foot", root);
  const legend = element("div", "ae-legend", foot);
  element("span", "", legend, "0");
  const ramp = element("span", "ae-ramp", legend);
  const largest = element("span", "ae-largest", legend);
  const pin = element("button", "ex-button", foot, "Pin this patch");
  pin.type = "button";
  const help = element("details", "ae-help", foot);
  keepKeys(element("summary", "", help, "Keys"));
  const list = element("dl", "", help);
  for (const [key, what] of HELP) {
    element("dt", "", list, key);
    element("dd", "", list, what);
  }

  // ---- State ----

  const within = (i, length) => Math.min(Math.max(i, 0), length - 1);

  function change(values) {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    unsaved = true;
  }

  function save() { // Python hears how it was left; while one explores, nothing is sent
    if (unsaved) model.save_changes();
    unsaved = false;
  }
  root.addEventListener("pointerleave", save);
  root.addEventListener("focusout", (event) => { if (!root.contains(event.relatedTarget)) save(); });

  let stale = false; // is there more to draw than another query
  function later(event) { // at most one drawing per frame
    stale ||= event !== "query";
    if (!frame) frame = requestAnimationFrame(() => { frame = 0; draw(); });
  }

  const settingOf = (scene, query) => ({
    show: get("show"),
    layer: within(get("layer"), scene.layers),
    head: get("head"),
    fusion: get("head_fusion"),
    discard: get("discard_ratio"),
    residual: get("residual"),
    by: get("direction") === "to" && query >= 0,
    query,
  });

  const sceneOf = (n) => scenes[n ? pinned.scene : within(get("scene"), scenes.length)];

  function queryOf(n) {
    const scene = sceneOf(n);
    if (n && pinned.query !== null) return pinned.query;
    const [from, query] = [sceneOf(0), get("query")];
    if (n === 0) return query >= scene.tokens || (query < 0 && scene.num_prefix) ? 0 : query;
    if (scene.rows === from.rows && scene.columns === from.columns && query >= from.num_prefix) {
      return query - from.num_prefix + scene.num_prefix; // the same place in the other picture
    }
    return scene.num_prefix ? 0 : -1;
  }

  function decode() {
    const [weights, most, images, relevances] = ["weights", "largest", "images", "relevances"].map(get);
    scenes = get("scenes").map((about, n) => {
      const numbers = new Float32Array(bytesOf(relevances[n]).slice().buffer);
      const size = about.rows * about.columns;
      const maps = Object.fromEntries(about.methods.map((name, m) => [name, numbers.subarray(m * size, (m + 1) * size)]));
      const scene = makeScene({ ...about, relevances: maps }, weights[n], most[n]);
      const picture = new Image();
      picture.onload = () => { scene.picture = picture; paintPhotos(); };
      picture.src = URL.createObjectURL(new Blob([bytesOf(images[n])], { type: "image/jpeg" }));
      return scene;
    });
    const ramps = bytesOf(get("palettes"));
    palettes = Object.fromEntries(get("palette_names").map((name, n) => [name, ramps.subarray(768 * n, 768 * (n + 1))]));
    sceneSelect.replaceChildren();
    scenes.forEach((scene, n) => { element("option", "", sceneSelect, scene.name).value = n; });
    const names = [["head", "One head"], ["mean", "Mean of heads"], ["rollout", "Rollout"]];
    for (const name of new Set(scenes.flatMap((scene) => scene.methods))) names.push([name, name]);
    shows.replaceChildren();
    for (const [name, text] of names) {
      const button = element("button", "ex-button", shows, text);
      button.type = "button";
      button.value = name;
      button.addEventListener("click", () => change({ show: name }));
    }
    if (pinned && pinned.scene >= scenes.length) pinned = null;
    layout();
  }

  // ---- Drawing ----

  const [tile, sheet, inks] = [{}, {}, {}];
  let size = 0; // of the picture
  const wideness = ({ width, height }) => Math.min(width / height, Math.sqrt(Math.max(width / height, 1)), 1.6);

  function fittingSize() { // as large as the window has room for, beside the atlas and above the controls
    const beside = (root.clientWidth - SIZE - 60) / wideness(sceneOf(0));
    const above = window.innerHeight - (get("can_open") ? 480 : 380); // a notebook has bars of its own
    return 20 * Math.floor(Math.max(SIZE, Math.min(beside, above, 600)) / 20);
  }

  function inksOf(name) { // the colours of a palette as pixels, opaque
    if (!inks[name]) {
      const bytes = new Uint8Array(1024).fill(255);
      for (let i = 0; i < 256; i++) bytes.set(palettes[name].subarray(3 * i, 3 * i + 3), 4 * i);
      inks[name] = new Uint32Array(bytes.buffer);
    }
    return inks[name];
  }

  function layout() {
    const scene = sceneOf(0);
    size = fittingSize();
    sceneBox.hidden = scenes.length < 2;
    open.hidden = !get("can_open");
    fields.layer.input.max = scene.layers - 1;
    fields.head.input.max = scene.heads - 1;
    for (const pane of panes) {
      if (pane.n && !pinned) continue;
      const of = sceneOf(pane.n);
      const beside = pinned ? Math.max(240, (root.clientWidth - 42) / 2) : Infinity; // both fit
      const width = Math.min(beside, size * wideness(of)); // wide ones may be wider, tall ones not taller
      const height = (width * of.height) / of.width;
      pane.stage.style.width = `${width}px`;
      pane.stage.style.aspectRatio = `${of.width} / ${of.height}`;
      for (const canvas of [pane.photo, pane.heat]) {
        [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
      }
      pane.stage.setAttribute("aria-rowcount", of.rows);
      pane.stage.setAttribute("aria-colcount", of.columns);
      pane.prefix.replaceChildren();
      const chips = of.num_prefix ? of.prefix_names.map((name, token) => [name, token]) : [["mean of all", -1]];
      element("span", "ex-note", pane.prefix, "from:");
      for (const [name, token] of chips) {
        const chip = element("button", "ex-button ae-chip", pane.prefix, name);
        chip.type = "button";
        chip.value = token;
        chip.addEventListener("click", () => (pane.n ? compare(token) : look(token)));
      }
    }
    const fitting = (room, count, patches) => Math.floor((room / count - 3) * scale / patches);
    const down = fitting(1.08 * size, scene.layers, scene.rows); // the words below the picture leave some more
    const across = fitting(Math.max(SIZE, root.clientWidth - size * wideness(scene) - 60), scene.heads, scene.columns);
    tile.pixel = Math.max(1, Math.min(down, across, Math.floor((128 * scale) / Math.max(scene.rows, scene.columns))));
    tile.gap = Math.ceil(3 * scale);
    [tile.width, tile.height] = [scene.columns * tile.pixel + tile.gap, scene.rows * tile.pixel + tile.gap];
    [atlas.width, atlas.height] = [scene.heads * tile.width, scene.layers * tile.height];
    sheet.image = new ImageData(atlas.width, atlas.height);
    sheet.ink = new Uint32Array(sheet.image.data.buffer); // one number per pixel
    atlasStage.style.width = `${atlas.width / scale}px`;
    atlasStage.style.aspectRatio = `${atlas.width} / ${atlas.height}`;
    for (const [holder, count, size] of [[headNames, scene.heads, tile.width], [layerNames, scene.layers, tile.height]]) {
      holder.replaceChildren();
      const every = Math.ceil((15 * scale) / size);
      for (let i = 0; i < count; i++) element("span", "", holder, i % every ? "" : String(i));
    }
    headNames.style.width = atlasStage.style.width;
    atlasTitle.textContent = scene.head_note || "Every head of every layer";
    paintPhotos();
    stale = true;
    draw();
  }

  function paintPhotos() {
    for (const pane of panes) {
      if (pane.n && !pinned) continue;
      const { picture } = sceneOf(pane.n);
      if (!picture) continue;
      const pen = pane.photo.getContext("2d");
      pen.imageSmoothingQuality = "high";
      pen.drawImage(picture, 0, 0, pane.photo.width, pane.photo.height);
    }
  }

  // Values of the patches as colours; `fade` lets the photograph through where they are low.
  function paint(small, scene, values, most, fade) {
    const [ramp, first] = [palettes[get("colours")], scene.num_prefix];
    if (small.width !== scene.columns || small.height !== scene.rows) [small.width, small.height] = [scene.columns, scene.rows];
    const image = new ImageData(scene.columns, scene.rows);
    for (let i = 0; i < scene.rows * scene.columns; i++) {
      const share = most > 0 ? Math.min(1, Math.max(0, values[first + i] / most)) : 0;
      const at = 3 * Math.round(255 * share);
      image.data[4 * i] = ramp[at];
      image.data[4 * i + 1] = ramp[at + 1];
      image.data[4 * i + 2] = ramp[at + 2];
      image.data[4 * i + 3] = fade ? 230 * share : 255;
    }
    small.getContext("2d").putImageData(image, 0, 0);
    return small;
  }

  function draw() {
    const compared = pinned !== null;
    panes[1].box.hidden = !compared;
    side.hidden = compared;
    for (const pane of panes) if (!pane.n || compared) drawPane(pane);
    if (!compared) drawAtlas();
    if (stale) drawControls(compared);
    stale = false;
  }

  function drawControls(compared) {
    const scene = sceneOf(0);
    const show = get("show");
    const still = show in scene.relevances;
    for (const button of shows.children) {
      button.setAttribute("aria-pressed", String(button.value === show));
      button.disabled = !["head", "mean", "rollout"].includes(button.value) && !(button.value in scene.relevances);
    }
    for (const field of Object.values(fields)) field.update();
    const used = { head: show === "head", layer: !still, direction: !still };
    for (const name of ["head_fusion", "discard_ratio", "residual"]) used[name] = show === "rollout";
    for (const [name, field] of Object.entries(fields)) {
      const off = used[name] === false || (name === "head_fusion" && scene.heads === 1);
      field.box.classList.toggle("ae-off", off);
      field.input.disabled = off;
    }
    sceneSelect.value = get("scene");
    pin.textContent = compared ? "Unpin" : "Pin this patch";
    pin.setAttribute("aria-pressed", String(compared));
    const ramp_ = palettes[get("colours")];
    const stops = Array.from({ length: 17 }, (_, i) => {
      const at = 3 * Math.round((255 * i) / 16);
      return `rgb(${ramp_[at]} ${ramp_[at + 1]} ${ramp_[at + 2]} / ${((0.9 * i) / 16).toFixed(2)})`;
    });
    ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  }

  function drawPane(pane) {
    const scene = sceneOf(pane.n);
    const query = queryOf(pane.n);
    const setting = settingOf(scene, query);
    const values = valuesOf(scene, setting);
    const most = largestPatch(scene, setting, values);
    const pen = pane.heat.getContext("2d");
    pen.clearRect(0, 0, pane.heat.width, pane.heat.height);
    pen.drawImage(paint(pane.small, scene, values, most, true), 0, 0, pane.heat.width, pane.heat.height);
    const words = sentence(scene, setting, values);
    if (pane.words.textContent !== words) pane.words.textContent = words;
    pane.title.textContent = pane.n ? `Pinned: ${scene.name}` : scene.name;
    pane.answer.textContent = scene.answer;
    const patch = query - scene.num_prefix;
    const still = setting.show in scene.relevances;
    pane.cell.hidden = patch < 0 || query < 0 || still;
    if (patch >= 0) {
      const [row, column] = [Math.floor(patch / scene.columns), patch % scene.columns];
      pane.cell.style.left = `${(100 * column) / scene.columns}%`;
      pane.cell.style.top = `${(100 * row) / scene.rows}%`;
      pane.row.setAttribute("aria-rowindex", row + 1);
      pane.cell.setAttribute("aria-colindex", column + 1);
    }
    pane.cell.style.width = `${100 / scene.columns}%`;
    pane.cell.style.height = `${100 / scene.rows}%`;
    pane.cell.classList.toggle("ex-held", held || pane.n === 1);
    pane.cell.setAttribute("aria-label", nameOf(scene, query));
    pane.stage.setAttribute("aria-label", `Patches of ${scene.name}`);
    for (const chip of pane.prefix.querySelectorAll("button")) {
      chip.setAttribute("aria-pressed", String(Number(chip.value) === query && !still));
      chip.disabled = still;
    }
    if (!pane.n) largest.textContent = still ? "largest" : percent(most);
  }

  function drawAtlas() {
    const scene = sceneOf(0);
    const query = queryOf(0);
    const setting = settingOf(scene, query);
    const colours = inksOf(get("colours"));
    const [wide, high, across] = [tile.width, tile.height, atlas.width];
    for (let layer = 0; layer < scene.layers; layer++) {
      for (let head = 0; head < scene.heads; head++) {
        const one = { ...setting, show: "head", layer, head };
        const values = valuesOf(scene, one);
        const scaled = 255 / (largestPatch(scene, one, values) || 1);
        let top = (layer * high + (tile.gap >> 1)) * across + head * wide + (tile.gap >> 1);
        for (let row = 0, at = scene.num_prefix; row < scene.rows; row++, top += tile.pixel * across) {
          for (let column = 0, x = top; column < scene.columns; column++, at++, x += tile.pixel) {
            sheet.ink.fill(colours[Math.round(scaled * values[at])], x, x + tile.pixel);
          }
          for (let below = 1; below < tile.pixel; below++) { // the same line, pixel by pixel
            sheet.ink.copyWithin(top + below * across, top, top + scene.columns * tile.pixel);
          }
        }
      }
    }
    atlas.getContext("2d").putImageData(sheet.image, 0, 0);
    const single = setting.show === "head";
    const head = Math.min(setting.head, scene.heads - 1);
    chosen.hidden = setting.show in scene.relevances;
    const rows = setting.show === "rollout" ? [0, setting.layer + 1] : [setting.layer, 1];
    chosen.style.left = `${(100 * (single ? head : 0)) / scene.heads}%`;
    chosen.style.width = `${100 * (single ? 1 / scene.heads : 1)}%`;
    chosen.style.top = `${(100 * rows[0]) / scene.layers}%`;
    chosen.style.height = `${(100 * rows[1]) / scene.layers}%`;
    atlas.setAttribute("aria-label", `Maps of ${scene.layers} layers with ${scene.heads} heads, from ${nameOf(scene, query)}`);
  }

  // ---- Moving ----

  function look(token) {
    if (token !== get("query")) change({ query: token });
    else later("query");
  }

  function compare(token) {
    pinned = { ...pinned, query: token };
    later();
  }

  function step(n, down, right) {
    const scene = sceneOf(n);
    const patch = queryOf(n) - scene.num_prefix;
    const from = patch < 0 ? [0, 0] : [Math.floor(patch / scene.columns), patch % scene.columns];
    const to = patch < 0 ? from : [within(from[0] + down, scene.rows), within(from[1] + right, scene.columns)];
    (n ? compare : look)(scene.num_prefix + to[0] * scene.columns + to[1]);
  }

  function togglePin(scene = within(get("scene"), scenes.length)) {
    pinned = pinned === null ? { scene, query: queryOf(0) } : null;
    held = false;
    layout();
  }

  for (const pane of panes) {
    const under = (event) => {
      const [scene, box] = [sceneOf(pane.n), pane.stage.getBoundingClientRect()];
      const row = within(Math.floor(((event.clientY - box.top) / box.height) * scene.rows), scene.rows);
      return scene.num_prefix + row * scene.columns
        + within(Math.floor(((event.clientX - box.left) / box.width) * scene.columns), scene.columns);
    };
    pane.stage.addEventListener("pointermove", (event) => {
      if (pane.n === 0 && !held) look(under(event));
    });
    pane.stage.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      pane.stage.focus({ preventScroll: true });
      if (pane.n) return compare(under(event));
      held = !held || get("query") !== under(event);
      look(under(event));
    });
    pane.stage.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const scene = sceneOf(pane.n);
      const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
      const actions = {
        Home: () => step(pane.n, 0, -scene.columns),
        End: () => step(pane.n, 0, scene.columns),
        "[": () => change({ layer: within(get("layer") - 1, scene.layers) }),
        "]": () => change({ layer: within(get("layer") + 1, scene.layers) }),
        ",": () => change({ head: within(get("head") - 1, scene.heads) }),
        ".": () => change({ head: within(get("head") + 1, scene.heads) }),
        c: () => (pane.n ? compare : look)(scene.num_prefix ? 0 : -1),
        h: () => change({ show: "head" }),
        m: () => change({ show: "mean" }),
        r: () => change({ show: "rollout" }),
        p: () => togglePin(),
        Escape: () => { held = false; later(); },
      };
      if (key in STEPS) step(pane.n, ...STEPS[key]);
      else if (key in actions) actions[key]();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }
  atlasStage.addEventListener("pointerdown", (event) => {
    const [scene, box] = [sceneOf(0), atlasStage.getBoundingClientRect()];
    const layer = within(Math.floor(((event.clientY - box.top) / box.height) * scene.layers), scene.layers);
    const head = within(Math.floor(((event.clientX - box.left) / box.width) * scene.heads), scene.heads);
    change({ layer, head, show: "head" });
  });
  pin.addEventListener("click", () => togglePin());
  sceneSelect.addEventListener("change", () => change({ scene: Number(sceneSelect.value) }));
  file.addEventListener("change", async () => {
    if (!file.files.length) return;
    const [one] = file.files;
    problem.textContent = `Opening ${one.name} …`;
    model.set("opened", { name: one.name, bytes: new DataView(await one.arrayBuffer()) });
    model.save_changes();
    file.value = "";
  });

  const told = (message) => { problem.textContent = message.problem ?? ""; };
  const listeners = [["msg:custom", told], ["change:scenes", decode], ["change:scene", layout]];
  listeners.push(["change:query", () => later("query")]);
  for (const name of ["layer", "head", "show", "direction", "head_fusion", "discard_ratio", "residual", "colours"]) {
    listeners.push([`change:${name}`, later]);
  }
  for (const [name, listener] of listeners) model.on(name, listener);
  decode();
  let width = 0;
  const refit = () => {
    if (fittingSize() !== size || (pinned && root.clientWidth !== width)) layout();
    width = root.clientWidth;
  };
  const resized = new ResizeObserver(refit);
  resized.observe(root);
  window.addEventListener("resize", refit);
  return () => {
    cancelAnimationFrame(frame);
    resized.disconnect();
    window.removeEventListener("resize", refit);
    for (const [name, listener] of listeners) model.off(name, listener);
  };
}

export default { render };
