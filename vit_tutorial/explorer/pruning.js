// A small network that runs in the page, whose heads are clicked away one by one.

import { normalize } from "./image.js";
import {
  addButton, addButtons, addGroup, argmax, bytesOf, cellOf, changer, colourAt, element, listen, onKeys, percent,
  pressOnly, setPressed,
} from "./page.js";
import { readSafetensors } from "./safetensors.js";
import { VisionTransformer } from "./vit.js";
import { softmax } from "./vit_layers.js";

const SLICE = 12; // milliseconds of counting between two moments for the page
const HELP = "The network runs in your browser, on every image, for any heads you choose. The line in the bar is the accuracy with all heads, the thick stroke its 95% interval. With the keyboard: Tab to a head, arrow keys to its neighbours, Space to take it away.";

// The interval that holds the true share with 95% (Wilson 1927).
export function interval(right, n) {
  const [share, z] = [right / n, 1.96];
  const middle = (share + z ** 2 / 2 / n) / (1 + z ** 2 / n);
  const reach = (z / (1 + z ** 2 / n)) * Math.sqrt((share * (1 - share)) / n + z ** 2 / 4 / n ** 2);
  return [100 * (middle - reach), 100 * (middle + reach)];
}

class PruningView {
  constructor(model, el, change) {
    Object.assign(this, { model, change });
    for (const name of ["labels", "classes", "orders", "whole", "mean", "std"]) this[name] = model.get(name);
    this.palette = bytesOf(model.get("palette"));
    this.pixels = bytesOf(model.get("pixels"));
    const tensors = readSafetensors(bytesOf(model.get("weights")));
    this.parameters = Object.values(tensors).reduce((sum, { data }) => sum + data.length, 0);
    this.vit = new VisionTransformer(model.get("config"), tensors);
    const { depth, embed_dim: dim, grid, image_hw: side, in_chans: channels, num_heads: heads } = this.vit.config;
    Object.assign(this, { depth, dim, grid, side, channels, heads });
    this.count = this.labels.length;
    this.streams = this.labels.map(() => null); // of each image, the tokens that enter each layer
    this.stale = new Uint8Array(this.count); // the first layer that has to be computed anew, of each image
    this.predicted = new Int16Array(this.count);
    this.before = new Set(); // the heads that were gone
    this.counting = 0;
    this.note = "";
    const root = element("div", "explorer pruning-explorer", el);
    this.addBar(root);
    const main = element("div", "pr-main", root);
    this.addPicture(element("div", "pr-left", main));
    const right = element("div", "pr-right", main);
    this.addHeads(right);
    this.addScore(right);
    element("div", "ex-note pr-help", root, HELP);
    this.measure();
    for (const { image, canvas } of this.others) this.draw(canvas, image);
  }

  // ---- Parts ----

  addBar(root) {
    const bar = element("div", "ex-row pr-bar", root);
    this.rules = Object.keys(this.orders);
    [this.rule] = this.rules;
    this.ruleButtons = addButtons(bar, "Which head goes first", this.rules, (n) => {
      const name = this.rules[n];
      this.follow(name, Math.min(this.model.get("gone").length, this.orders[name].length));
    }).buttons;
    const box = element("label", "ex-row", bar);
    element("span", "ex-title", box, "heads taken away");
    this.slider = element("input", "pr-slider", box);
    Object.assign(this.slider, { type: "range", min: "0", max: String(this.depth * (this.heads - 1)) });
    this.slider.addEventListener("input", () => this.follow(this.rule, Number(this.slider.value)));
    this.number = element("span", "pr-count", box);
  }

  addPicture(parent) {
    this.picture = element("canvas", "pr-picture", parent);
    this.picture.setAttribute("role", "img");
    this.words = element("div", "pr-words", parent);
    const group = addGroup(parent, "Image");
    this.others = this.model.get("candidates").map((image) => {
      const show = () => {
        this.note = "";
        this.change({ shown: image });
      };
      const button = addButton(group, "", show, "pr-other");
      button.title = `image ${image}`;
      button.setAttribute("aria-label", `image ${image}, ${this.classes[this.labels[image]]}`);
      return { button, image, canvas: element("canvas", "", button) };
    });
  }

  addHeads(parent) {
    const { depth, heads } = this;
    element("div", "ex-title", parent, "Where each head looks (click one: it goes, or comes back)");
    const table = element("div", "pr-table", parent);
    table.style.gridTemplateColumns = `max-content repeat(${heads}, max-content)`;
    element("span", "", table);
    for (let h = 0; h < heads; h++) element("span", "ex-note", table, `head ${h}`);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: heads, ArrowUp: -heads };
    this.cells = Array.from({ length: depth * heads }, (_, n) => {
      const [l, h] = cellOf(n, heads);
      if (h === 0) element("span", "ex-note", table, `layer ${l}`);
      const button = addButton(table, "", () => this.toggle(n), "pr-head");
      button.setAttribute("aria-label", `layer ${l}, head ${h}`);
      onKeys(button, ({ key }) => {
        if (key in steps) this.cells[n + steps[key]]?.button.focus();
        return key in steps;
      });
      return { button, canvas: element("canvas", "", button) };
    });
  }

  addScore(parent) {
    this.score = element("div", "pr-score", parent);
    const track = element("div", "pr-track", this.score);
    [this.fill, this.reach, this.mark] = ["pr-fill", "pr-reach", "pr-mark"].map((name) => element("div", name, track));
    this.scoreWords = element("div", "pr-score-words", this.score);
    this.scoreWords.setAttribute("aria-live", "polite");
  }

  measure() {
    const ratio = this.side[0] / this.side[1];
    const sized = [[this.picture, 240], ...this.others.map(({ canvas }) => [canvas, 34]), ...this.cells.map(({ canvas }) => [canvas, 44])];
    for (const [canvas, size] of sized) [canvas.width, canvas.height] = [size, Math.round(size * ratio)];
  }

  // ---- State ----

  follow(name, much) {
    this.rule = name;
    this.change({ gone: this.orders[name].slice(0, much).sort((a, b) => a - b) });
    this.showRule();
  }

  toggle(n) {
    const gone = new Set(this.model.get("gone"));
    const layer = Math.floor(n / this.heads);
    if (!gone.delete(n)) gone.add(n);
    this.note = "";
    if (this.cells.slice(layer * this.heads, (layer + 1) * this.heads).every((_, h) => gone.has(layer * this.heads + h))) {
      gone.delete(n);
      this.note = ` Layer ${layer} must keep a head.`;
    }
    this.change({ gone: [...gone].sort((a, b) => a - b) });
    this.showPicture();
  }

  // ---- The network, without the heads that are gone ----

  // Logits and attention of an image, computed anew from layer `from` on.
  run(image, from, attention) {
    const { depth, dim, mean, pixels, std, vit } = this;
    const streams = this.streams[image] ??= Array.from({ length: depth }, () => new Float32Array(vit.config.num_tokens * dim));
    const silenced = {};
    for (const n of this.model.get("gone")) {
      const [layer, head] = cellOf(n, this.heads);
      (silenced[layer] ??= []).push(head);
    }
    const options = { attention, silenced, streams };
    if (from > 0) return vit.forwardFrom(from, streams[from], options);
    const size = pixels.length / this.count;
    return vit.forward(normalize(pixels.subarray(image * size, (image + 1) * size), mean, std), options);
  }

  // What a head attends to among the patches from what the logits are read: CLS, or the mean of all.
  lookedAt(attention, head) {
    const { num_patches, num_prefix, num_tokens } = this.vit.config;
    const rows = num_prefix ? 1 : num_tokens;
    return Float32Array.from({ length: num_patches }, (_, n) => {
      let sum = 0;
      for (let t = 0; t < rows; t++) sum += attention[(head * num_tokens + t) * num_tokens + num_prefix + n];
      return sum / rows;
    });
  }

  // ---- Drawing ----

  draw(canvas, image) {
    const [height, width] = this.side;
    const small = document.createElement("canvas");
    [small.width, small.height] = [width, height];
    const data = new ImageData(width, height);
    const start = image * this.channels * height * width;
    for (let i = 0; i < height * width; i++) {
      for (let c = 0; c < 3; c++) {
        const value = this.pixels[start + (this.channels === 1 ? 0 : c * height * width) + i];
        data.data[4 * i + c] = this.channels === 1 ? 255 - value : value; // ink on white
      }
      data.data[4 * i + 3] = 255;
    }
    small.getContext("2d").putImageData(data, 0, 0);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = true;
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  }

  paint(canvas, heat, opacityOf = () => 1) {
    const pen = canvas.getContext("2d");
    const top = Math.max(...heat);
    const [high, wide] = [canvas.height / this.grid[0], canvas.width / this.grid[1]];
    heat.forEach((value, n) => {
      const [row, column] = cellOf(n, this.grid[1]);
      pen.fillStyle = `rgb(${colourAt(this.palette, value / top).join(" ")} / ${opacityOf(value / top)})`;
      pen.fillRect(column * wide, row * high, wide, high);
    });
  }

  showPicture() {
    const { depth, heads } = this;
    const [image, gone] = [this.model.get("shown"), new Set(this.model.get("gone"))];
    const { attention, logits } = this.run(image, 0, true);
    const maps = attention.map((layer) => Array.from({ length: heads }, (_, h) => this.lookedAt(layer, h)));
    const answer = softmax(logits);
    this.stale[image] = depth;
    const best = argmax(answer);
    this.predicted[image] = best;
    const last = maps[depth - 1].filter((_, h) => !gone.has((depth - 1) * heads + h));
    const heat = Array.from(last[0], (_, i) => last.reduce((sum, map) => sum + map[i], 0) / last.length);
    this.draw(this.picture, image);
    this.paint(this.picture, heat, (share) => 0.8 * share);
    const right = this.labels[image];
    this.words.textContent = `says ${this.classes[best]}, ${percent(answer[best])} (it is ${this.classes[right]}).${this.note}`;
    this.words.classList.toggle("pr-wrong", best !== right);
    this.picture.setAttribute("aria-label", `image ${image}: ${this.words.textContent}`);
    this.cells.forEach(({ button, canvas }, n) => {
      const [layer, head] = cellOf(n, heads);
      this.paint(canvas, maps[layer][head]);
      setPressed(button, gone.has(n));
    });
    for (const { button, image: other } of this.others) setPressed(button, other === image);
  }

  showRule() {
    const gone = this.model.get("gone");
    const order = this.orders[this.rule] ?? [];
    const same = gone.length === 0 || order.slice(0, gone.length).every((n) => gone.includes(n));
    pressOnly(this.ruleButtons, same ? this.rules.indexOf(this.rule) : -1);
    this.slider.value = String(gone.length);
    this.number.textContent = `${gone.length} of ${this.depth * this.heads}`;
  }

  showScore(done, right) {
    const { count, dim, heads, parameters } = this;
    const share = (100 * right) / done;
    const [low, high] = interval(right, done);
    this.fill.style.width = `${share}%`;
    this.reach.style.left = `${low}%`;
    this.reach.style.width = `${high - low}%`;
    this.mark.style.left = `${(100 * this.whole) / count}%`;
    this.score.classList.toggle("pr-counting", done < count);
    const lost = this.model.get("gone").length * ((dim / heads) * (4 * dim + 3));
    const accuracy = `${share.toFixed(1)}% (${low.toFixed(1)} to ${high.toFixed(1)}%)`;
    this.scoreWords.textContent = done < count
      ? `counting: ${done} of ${count} images`
      : `${right} of ${count} right: ${accuracy}; with all heads ${this.whole}. ${percent((parameters - lost) / parameters)} of the parameters.`;
  }

  // ---- Counting ----

  sweep() {
    clearTimeout(this.counting);
    let next = 0;
    const step = () => {
      const until = performance.now() + SLICE;
      while (next < this.count && performance.now() < until) {
        if (this.stale[next] < this.depth) {
          this.predicted[next] = argmax(this.run(next, this.stale[next], false).logits);
          this.stale[next] = this.depth;
        }
        next++;
      }
      let right = 0;
      for (let i = 0; i < next; i++) right += this.predicted[i] === this.labels[i];
      this.showScore(next, right);
      if (next < this.count) this.counting = setTimeout(step, 0);
    };
    step();
  }

  update() {
    const { before, depth, heads, stale } = this;
    const gone = new Set(this.model.get("gone"));
    const changed = [...gone].filter((n) => !before.has(n)).concat([...before].filter((n) => !gone.has(n)));
    const first = Math.min(depth, ...changed.map((n) => Math.floor(n / heads)));
    for (let i = 0; i < this.count; i++) stale[i] = Math.min(stale[i], first);
    this.before = gone;
    this.note = changed.length ? "" : this.note;
    this.showRule();
    this.showPicture();
    this.sweep();
  }
}

function render({ model, el }) {
  const { change, stop } = changer(model);
  const view = new PruningView(model, el, change);
  view.update();
  const ended = listen(model, { "change:gone": () => view.update(), "change:shown": () => view.showPicture() });
  return () => {
    ended();
    stop();
    clearTimeout(view.counting);
  };
}

export default { render };
