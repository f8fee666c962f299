// A Vision Transformer that lives in the page: look at what it looks at, hide that, and see what it says.
// The network runs here; the photograph stays on the device.

import { addButton, addGroup, argmax, bytesOf, cellUnder, element, fileUrls, nameOfCell, onKeys, percent, setPressed, STEPS, clamp, cellOf } from "./page.js";
import { decodeImage } from "./image.js";
import { startEngine } from "./vit_engine.js";
import { softmax } from "./vit_layers.js";
import { Atlas } from "./attention_atlas.js";
import { makeScene, mapOf, valuesOf } from "./attention_values.js";
import { numberForm, sentence, shareInWords } from "./attention_words.js";
import { MapView, scaleOf, strongestOf } from "./map_view.js";
import { Accuracy } from "./live_accuracy.js";
import { Changes, fromHash, toHash } from "./live_changes.js";
import { Answer, Tools } from "./live_controls.js";
import { Sheet } from "./live_draw.js";
import { LiveNetwork, HOW, UNTOUCHED } from "./live_network.js";
import { pictureWith, viewOf } from "./live_picture.js";
import { Others, Square, evenScale } from "./live_square.js";
import { MapTest, randomNumbers, shuffled } from "./live_test.js";

const HINT = [1500, 2600]; // milliseconds before the hint hides patches, and until it gives them back
const HINTED = 6; // patches that the hint hides
let pages = 0;

class LiveView {
  constructor(model, el) {
    this.model = model;
    this.urls = fileUrls();
    this.linked = model.get("linked") && window.parent === window; // in the output of a cell it has no address
    this.config = model.get("config");
    this.classes = model.get("classes");
    this.settings = { show: "rollout", layer: this.config.depth - 1, head: 0, query: -3 };
    this.orders = model.get("orders");
    this.tool = "look";
    this.changes = new Changes(() => this.update());
    this.square = new Square(this);
    this.root = element("div", "explorer live-explorer", el);
    this.build();
    this.start();
  }

  // ---- Parts ----

  build() {
    const { root } = this;
    element("p", "li-promise", root, `${this.model.get("about")} It runs in this page: your picture stays on this device.`);
    this.says = element("p", "li-says", root, "The network is being read …");
    this.says.setAttribute("aria-live", "polite");
    this.addPictures(root);
    this.tools = new Tools(root, this);
    const main = element("div", "li-main", root);
    this.left = element("div", "li-maps", main);
    this.view = new MapView(this.left, `live-${++pages}`);
    this.words = element("p", "li-words", this.left);
    this.words.setAttribute("aria-live", "polite");
    const right = element("div", "li-right", main);
    const { model, classes } = this;
    this.answer = new Answer(right, classes, model.get("others"));
    this.others = new Others(right, { names: model.get("others"), tables: model.get("answers"), grid: this.square.ownGrid, classes });
    const labels = model.get("labels");
    const reading = { mean: model.get("mean"), std: model.get("std") };
    if (labels.length) this.accuracy = new Accuracy(right, { pixels: model.get("pixels"), labels, reading });
    this.atlas = new Atlas(right, this.forAtlas());
    this.test = new MapTest(root, () => this.testMap());
    this.follow();
  }

  addPictures(parent) {
    const row = addGroup(parent, "Pictures");
    row.classList.add("li-pictures");
    const open = element("label", "ex-button ex-open li-open", row, "Your picture…");
    const file = element("input", "", open);
    Object.assign(file, { type: "file", accept: "image/*" });
    file.addEventListener("change", () => { if (file.files.length) this.openFile(file.files[0]); });
    this.samples = this.model.get("samples").map(({ name, credit }, n) => {
      const button = addButton(row, "", () => this.openSample(n), "li-sample");
      const picture = element("img", "", button);
      picture.alt = name;
      picture.title = credit;
      picture.src = this.urls.add(this.model.get("pictures")[n], "image/png");
      return button;
    });
    this.problem = element("p", "ex-problem", parent);
    this.problem.setAttribute("role", "alert");
    if (this.model.get("can_draw")) this.sheet = new Sheet(parent, (image) => { this.changes.past = []; this.openDecoded(image); });
  }

  // What the atlas of all heads wants to know, and what a click in it does.
  forAtlas() {
    const view = this;
    return {
      sceneOf: () => view.scene,
      settingOf: () => view.setting(),
      palette: () => bytesOf(view.model.get("palette")),
      get: (name) => view.settings[name],
      get silenced() { return view.changes.now.silenced; },
      change: (values) => view.choose(values),
      press: ({ layer, head }) => {
        if (view.tool === "silence") view.changes.toggleHead(layer * view.config.num_heads + head);
        else view.choose({ layer, head, show: "head" });
      },
    };
  }

  // ---- Pictures ----

  async start() {
    try {
      const { config, model } = this;
      const weights = bytesOf(model.get("weights"));
      this.engine = await startEngine({ source: model.get("source"), config, weights: weights.slice() });
      const reading = { mean: model.get("mean"), std: model.get("std") };
      [this.network, this.counted] = [0, 1].map(() => new LiveNetwork(this.engine, config, reading));
      this.size = config.img_size;
      if (!(await this.openLinked())) this.hint();
    } catch (error) {
      this.says.textContent = `The network could not be started: ${error.message}`;
    }
  }

  hash() {
    return this.linked ? window.location.hash : "";
  }

  async openLinked() { // what the page's address asks for; returns whether it asks for anything
    const asked = new URLSearchParams(this.hash().slice(1));
    await this.openSample(clamp(Math.trunc(Number(asked.get("picture") ?? 0)) || 0, this.samples.length), asked);
    return asked.size > 0;
  }

  async openSample(n, asked = null) {
    this.changes.past = []; // at once: what is done while a picture is opened can be undone
    const picture = await decodeImage(new Blob([bytesOf(this.model.get("pictures")[n])]));
    const size = Number(asked?.get("size"));
    if (asked) this.size = this.tools.sizes.includes(size) ? size : this.config.img_size;
    await this.openDecoded(picture, n, asked);
  }

  async openFile(file) {
    this.changes.past = [];
    this.problem.textContent = "";
    try {
      const picture = await decodeImage(file);
      await this.openDecoded(picture);
    } catch (error) {
      this.problem.textContent = `${error.message}. Try a JPEG or PNG file.`;
    }
  }

  // `sample` is its number, null for a picture of a person's own.
  async openDecoded(image, sample = null, asked = null) {
    this.stopHint();
    this.asking?.abort();
    this.scene = null; // nothing is drawn until the network has answered
    const decoded = { width: image.width, height: image.height, channels: 4, data: new Uint8ClampedArray(image.data) };
    await this.network.open(decoded, this.size);
    this.picture = viewOf(decoded, this.network.box, this.network.sides);
    this.whole = this.shown = null;
    this.sample = sample;
    this.samples.forEach((button, n) => setPressed(button, n === sample));
    const heads = this.config.depth * this.config.num_heads;
    const hows = HOW.map(([how]) => how);
    this.changes.now = asked ? fromHash(this.hash(), { num_patches: this.network.num_patches, heads, hows }) : { ...this.changes.now, hidden: [], order: null }; // what was done to the network stays
    this.settings.query = -3;
    this.cursor = 0;
    this.held = false;
    this.square.forget();
    await this.update();
  }

  async resize(size) {
    this.size = size;
    this.changes.past = [];
    await this.openDecoded(this.network.image, this.sample);
  }

  // ---- Asking the network ----

  async update() {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    const changes = this.changes.now;
    this.square.follow();
    this.forgetTest();
    try {
      const said = await this.network.answer(changes, signal);
      this.probabilities = softmax(said.logits);
      this.whole ??= this.changes.untouched() ? this.probabilities : await this.network.probabilities(UNTOUCHED, signal);
      this.scene = this.sceneOf(said);
      this.relevance = null;
      this.problem.textContent = "";
      this.draw();
      await this.explain(signal);
      await this.count(changes, signal);
    } catch (error) {
      if (error.name !== "AbortError") this.problem.textContent = error.message;
    }
  }

  sceneOf({ attention, visible }) {
    const { depth, num_heads } = this.config;
    const { grid, num_prefix } = this.network;
    const length = attention[0].length;
    const weights = new Float32Array(depth * length);
    attention.forEach((layer, l) => weights.set(layer, l * length));
    const read = num_prefix ? [0] : visible.map((_, n) => n);
    const about = {
      layers: depth, heads: num_heads, rows: grid[0], columns: grid[1], num_prefix, layer_numbers: [...Array(depth).keys()], prefix_names: ["CLS"].slice(0, num_prefix),
      head_reads: read, relevances: {}, target: this.classes[this.target()], visible, head_note: "",
    };
    return makeScene(about, weights);
  }

  target() {
    return argmax(this.probabilities);
  }

  // What is not known from the attention alone is drawn when it is there; until then, rollout is.
  async explain(signal) {
    const { show } = this.settings;
    if (show === "class" && !this.relevance) {
      this.relevance = await this.network.relevance(this.changes.now, this.target(), signal);
      this.draw();
    }
    if (show === "hiding") this.tryEverywhere();
    else this.square.stop();
  }

  async tryEverywhere() { // goes on while a square is moved
    if (this.square.isFound()) return;
    try {
      await this.square.tryEverywhere((words) => { this.words.textContent = words; });
      if (this.scene && this.square.isFound()) this.draw();
    } catch (error) {
      if (error.name !== "AbortError") this.problem.textContent = error.message;
    }
  }

  showing() { // what is drawn now
    const { show } = this.settings;
    const waits = (show === "class" && !this.relevance) || (show === "hiding" && !this.square.isFound());
    return waits ? "rollout" : show;
  }

  async count(changes, signal) {
    if (!this.accuracy) return;
    this.accuracy.box.hidden = this.size !== this.config.img_size; // its images have the network's own
    if (this.accuracy.box.hidden) return;
    if (this.accuracy.whole === null && !this.changes.untouched()) await this.accuracy.count(this.counted, UNTOUCHED, signal, true);
    await this.accuracy.count(this.counted, changes, signal, this.changes.untouched());
  }

  // What is looked from: a token of those that the network gets, or what its head reads (-3).
  token() {
    const at = this.scene.visible.indexOf(this.settings.query);
    if (at >= 0) return at + this.scene.num_prefix;
    return this.scene.num_prefix ? 0 : -3; // CLS
  }

  setting() {
    const { layer, head } = this.settings;
    return { show: this.showing(), layer, head, fusion: "mean", discard: 0, residual: 0.5, by: false, query: this.token() };
  }

  map() {
    if (this.showing() === "class") return this.relevance;
    return this.showing() === "hiding" ? this.square.found.map : mapOf(this.scene, this.setting());
  }

  async choose(values) {
    this.stopHint();
    Object.assign(this.settings, values);
    if (!this.scene) return;
    this.forgetTest();
    this.draw();
    if (values.show) await this.update();
  }

  // ---- Drawing ----

  draw() {
    const fresh = this.layout();
    const { network, scene, view } = this;
    const changes = this.changes.now;
    const map = this.map();
    if (fresh || this.shown !== changes) view.setPicture(pictureWith(this.picture, network, changes));
    this.shown = changes;
    const show = this.showing();
    const as = this.tool === "hide" || this.tool === "square" ? "photograph" : "spotlight";
    if (show === "hiding") this.drawHiding(as);
    else {
      const form = show === "class" ? (value) => String(Number(value.toPrecision(2))) : numberForm(scene, this.setting());
      view.draw(map, bytesOf(this.model.get("palette")), form, as, scaleOf(map), show === "class" ? "it counts" : "it looks");
      this.others.box.hidden = true;
    }
    const looked = ["class", "hiding"].includes(show) || this.tool === "square" ? -1 : this.settings.query;
    const held = this.tool === "hide" ? this.cursor : looked;
    view.outline(held, held < 0 ? "what the answer is read from" : nameOfCell(held, network.grid[1]));
    const own = { name: "this network", now: this.probabilities, before: this.whole };
    this.answer.draw([own, ...this.others.answers(this.sample, changes, network.grid)], this.changes.untouched());
    this.atlas.draw(this.forAtlas());
    this.tools.update(this);
    this.speak(map, show, as);
    this.link();
  }

  layout() { // says whether anything is of another size than before
    const room = this.root.clientWidth;
    const beside = room >= 1000 ? room - 380 : room;
    const width = room < 560 ? room - 36 : Math.min((beside - 90) / 2, 480);
    if (width === this.width && this.drawnGrid === this.network.grid.join()) return false;
    [this.width, this.drawnGrid] = [width, this.network.grid.join()];
    const scale = Math.max(1, window.devicePixelRatio || 1);
    const { width: wide, height: high } = this.picture;
    const [rows, columns] = this.network.grid;
    this.view.layout({ rows, columns, width: wide, height: high }, width, scale);
    this.atlas.layout(this.scene, 420, Math.min(room, 350) - 30, scale);
    return true;
  }

  // Maps of what hiding costs, on one scale with those of other networks: 0 is in its middle.
  drawHiding(as) {
    const { map, target } = this.square.found;
    const falls = this.others.falls(this.sample, this.square.side, target, this.changes.now, this.network.grid);
    const [scale, palette] = [evenScale([map, ...falls]), bytesOf(this.model.get("diverging"))];
    this.view.draw(map, palette, shareInWords, as, scale, "hiding costs");
    this.others.box.hidden = !falls.length;
    this.others.draw(falls, scale, palette, this.classes[target]);
  }

  speak(map, show, as) {
    const [best, before] = [this.target(), argmax(this.whole)];
    const now = `It says ${this.classes[best]}, ${percent(this.probabilities[best])}.`;
    const then = `Without your changes: ${this.classes[before]}, ${percent(this.whole[before])}.`;
    const bright = as === "spotlight" && !["class", "hiding"].includes(show);
    const says = this.changes.untouched() ? `${now}${bright ? " It looks where the picture is bright." : ""}` : `${now} ${then}`;
    if (this.says.textContent !== says) this.says.textContent = says;
    const strongest = strongestOf(map);
    const name = strongest < 0 ? "several patches alike" : nameOfCell(strongest, this.network.grid[1]);
    if (show === "class") this.words.textContent = `What counts for ${this.classes[best]} (Chefer): most ${name}.`;
    else if (show === "hiding") this.words.textContent = this.square.inWords(name);
    else {
      const silent = this.changes.now.silenced.length ? " Silenced heads are in it: they look, and hand nothing on." : "";
      this.words.textContent = sentence(this.scene, this.setting(), valuesOf(this.scene, this.setting())) + (show === "rollout" ? silent : "");
    }
  }

  forgetTest() {
    this.testing?.abort();
    this.test.clear();
  }

  link() {
    if (!this.linked) return;
    const hash = toHash(this.changes.now, { picture: this.sample, ...(this.size === this.config.img_size ? {} : { size: this.size }) });
    const first = this.changes.untouched() && this.sample === 0 && this.size === this.config.img_size;
    const kept = this.sample !== null && !first; // no address leads to a picture of a person's own
    window.history.replaceState(null, "", kept ? hash : window.location.pathname);
  }

  // ---- What a person does ----

  setTool(tool) {
    this.tool = tool;
    this.root.dataset.tool = tool;
    this.held = false;
    this.square.at = null; // what is hidden stays
    if (this.scene) this.draw();
  }

  shuffle() {
    const random = randomNumbers(Date.now() % 2 ** 31);
    this.changes.set({ order: this.changes.now.order ? null : shuffled(this.network.num_patches, random) });
  }

  hide(place, yes, together) {
    const patch = this.network.patchIn(this.changes.now, place);
    const others = this.changes.now.hidden.filter((other) => other !== patch);
    if (others.length + Number(yes) >= this.network.num_patches) return; // one patch at least stays
    if (others.length < this.changes.now.hidden.length !== yes) this.changes.set({ hidden: yes ? [...others, patch] : others }, together);
  }

  follow() {
    const under = (event) => {
      const [row, column] = cellUnder(event, this.network.grid);
      return row * this.network.grid[1] + column;
    };
    const around = (event) => cellUnder(event, this.network.grid, (this.square.length - 1) / 2); // it is in the middle of the square
    let stroke = null; // does the brush hide or show
    for (const { box } of this.view.stages) {
      box.addEventListener("pointerdown", (event) => {
        if (!this.scene) return;
        if (event.pointerType !== "touch" || this.tool === "hide") event.preventDefault();
        this.view.lit.box.focus({ preventScroll: true });
        if (this.tool === "square") {
          const touch = event.pointerType === "touch";
          const again = touch && this.square.at && this.square.patchesAt(this.square.at).includes(under(event));
          this.held = touch ? !again : !this.held;
          return void this.square.set(again ? null : around(event));
        }
        this.held = !this.held || this.settings.query !== under(event);
        if (this.tool !== "hide") return void this.choose({ query: under(event) });
        stroke = !this.changes.now.hidden.includes(this.network.patchIn(this.changes.now, under(event)));
        this.cursor = under(event);
        this.hide(this.cursor, stroke, false);
      });
      box.addEventListener("pointermove", (event) => {
        if (!this.scene) return;
        if (this.tool === "hide" && stroke !== null) this.hide(under(event), stroke, true);
        if (this.tool === "hide" || event.pointerType === "touch" || this.held) return;
        if (this.tool === "square") this.square.set(around(event));
        else if (under(event) !== this.settings.query) this.choose({ query: under(event) });
      });
      box.addEventListener("pointerleave", () => {
        if (!this.scene || this.tool === "hide" || this.held) return;
        if (this.tool === "square") this.square.set(null);
        else if (this.settings.query !== -3) this.choose({ query: -3 });
      });
    }
    const end = () => { stroke = null; };
    this.root.addEventListener("pointerup", end);
    this.root.addEventListener("pointercancel", end);
    onKeys(this.view.lit.box, (event) => this.press(event));
    for (const kind of ["pointerdown", "keydown"]) { // before what it does: the hint may take a step back
      this.root.addEventListener(kind, () => this.stopHint(), { capture: true });
    }
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) this.openFile(event.dataTransfer.files[0]);
    });
    this.pasted = (event) => { if (event.clipboardData?.files.length) this.openFile(event.clipboardData.files[0]); };
    document.addEventListener("paste", this.pasted);
    this.readdressed = () => { if (this.linked && this.network) this.openLinked(); };
    window.addEventListener("hashchange", this.readdressed);
    this.resized = new ResizeObserver(() => { if (this.scene && this.root.clientWidth !== this.room) { this.room = this.root.clientWidth; this.draw(); } });
    this.resized.observe(this.root);
  }

  press({ key }) {
    if (!this.scene) return false;
    const [rows, columns] = this.network.grid;
    if (this.tool === "square" && this.square.press(key)) this.held = this.square.at !== null; // or the pointer, resting on it, would take it back
    else if (key in STEPS) {
      const at = this.tool === "hide" ? this.cursor : this.settings.query;
      const [row, column] = cellOf(Math.max(at, 0), columns);
      const next = at < 0 ? 0 : clamp(row + STEPS[key][0], rows) * columns + clamp(column + STEPS[key][1], columns);
      this.held = true;
      if (this.tool === "hide") this.cursor = next;
      this.choose(this.tool === "hide" ? {} : { query: next });
    } else if ((key === " " || key === "Enter") && this.tool === "hide") {
      this.hide(this.cursor, !this.changes.now.hidden.includes(this.network.patchIn(this.changes.now, this.cursor)), false);
    } else if (key === "Escape" || key === "c") {
      this.held = false;
      this.choose({ query: -3 });
    } else if (key === "u") this.changes.undo();
    else return false;
    return true;
  }

  // ---- The hint, and the test ----

  hint() { // plays once: what it looked at most is hidden, and given back
    if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const wait = (milliseconds) => new Promise((done) => { this.hinting = setTimeout(done, milliseconds); });
    const play = async () => {
      await wait(HINT[0]);
      const map = this.map();
      const order = Array.from(map.keys()).sort((a, b) => map[b] - map[a]);
      this.changes.set({ hidden: order.slice(0, HINTED) });
      await wait(HINT[1]);
      this.changes.undo();
      this.tools.note(`That hid the ${HINTED} patches that it looked at most. Your turn.`);
      this.hinting = 0;
    };
    play();
  }

  stopHint() {
    if (!this.hinting) return;
    clearTimeout(this.hinting);
    this.hinting = 0;
    if (this.changes.past.length) this.changes.undo();
  }

  async testMap() {
    this.testing?.abort();
    this.testing = new AbortController();
    const { signal } = this.testing;
    const [changes, map] = [{ ...this.changes.now, hidden: [] }, this.map()];
    const answer = await this.network.probabilities(changes, signal);
    const target = argmax(answer);
    const patches = Array.from(map.keys(), (place) => this.network.patchIn(changes, place));
    const falls = async (places) => {
      const hidden = places.map((place) => patches[place]);
      return (await this.network.probabilities({ ...changes, hidden }, signal))[target];
    };
    try {
      this.found = await this.test.run(map, this.classes[target], falls, signal);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  end() {
    this.stopHint();
    this.asking?.abort();
    this.testing?.abort();
    this.engine?.stop();
    this.resized.disconnect();
    document.removeEventListener("paste", this.pasted);
    window.removeEventListener("hashchange", this.readdressed);
    this.urls.revoke();
  }
}

function render({ model, el }) {
  const view = new LiveView(model, el);
  return () => view.end();
}

export default { render };
