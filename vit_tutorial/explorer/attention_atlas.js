// The maps of every head of every layer, side by side; rows are layers, columns are heads.

import { STEPS, cellOf, cellUnder, clamp, colourAt, element, keepKeys, onKeys, placeOver } from "./page.js";
import { scaleOf, sharesOf } from "./map_view.js";
import { mapOf } from "./attention_values.js";
import { nameOfToken } from "./attention_words.js";

const TITLE = "Every head of every layer";
const NOTE = "Rows are layers, columns are heads, each map on its own scale. Choose one with a click or the arrow keys.";

function inksOf(palette) { // its colours as pixels, opaque
  const bytes = new Uint8Array(1024).fill(255);
  for (let i = 0; i < 256; i++) bytes.set(colourAt(palette, i / 255), 4 * i);
  return new Uint32Array(bytes.buffer);
}

export class Atlas {
  constructor(parent, state) {
    this.side = element("div", "at-side", parent);
    this.title = element("div", "ex-title at-title", this.side, TITLE);
    const box = element("div", "at-atlas", this.side);
    this.headNames = element("div", "ex-columns", box);
    this.layerNames = element("div", "ex-rows", box);
    this.stage = element("div", "at-tiles", box);
    this.canvas = element("canvas", "", this.stage);
    this.chosen = element("div", "at-chosen", this.stage);
    element("div", "ex-note", this.side, NOTE);
    this.stage.setAttribute("role", "application");
    this.stage.tabIndex = 0;
    keepKeys(this.stage);
    const press = (at) => (state.press ? state.press(at) : state.change({ ...at, show: "head" }));
    onKeys(this.stage, ({ key }) => {
      if (key === " " || key === "Enter") press({ layer: state.get("layer"), head: state.get("head") });
      if (!(key in STEPS)) return key === " " || key === "Enter";
      const { layers, heads } = state.sceneOf(0);
      const [layer, head] = STEPS[key];
      state.change({
        layer: clamp(state.get("layer") + layer, layers), head: clamp(state.get("head") + head, heads), show: "head",
      });
      return true;
    });
    this.stage.addEventListener("pointerdown", (event) => {
      const { layers, heads } = state.sceneOf(0);
      const [layer, head] = cellUnder(event, [layers, heads]);
      press({ layer, head });
    });
  }

  // Makes the maps as large as a room of `down` by `across` CSS pixels allows.
  layout(scene, down, across, scale) {
    const { layers, heads, rows, columns } = scene;
    const fitting = (room, count, patches) => Math.floor(((room / count - 3) * scale) / patches);
    const largest = Math.floor((128 * scale) / Math.max(rows, columns));
    this.pixel = Math.max(1, Math.min(fitting(down, layers, rows), fitting(across, heads, columns), largest));
    this.gap = Math.ceil(3 * scale);
    [this.wide, this.high] = [columns * this.pixel + this.gap, rows * this.pixel + this.gap];
    [this.canvas.width, this.canvas.height] = [heads * this.wide, layers * this.high];
    this.image = new ImageData(this.canvas.width, this.canvas.height);
    this.ink = new Uint32Array(this.image.data.buffer); // one number per pixel
    this.stage.style.width = `${this.canvas.width / scale}px`;
    this.stage.style.aspectRatio = `${this.canvas.width} / ${this.canvas.height}`;
    const names = [[this.headNames, [...Array(heads).keys()], this.wide], [this.layerNames, scene.layer_numbers, this.high]];
    for (const [holder, numbers, size] of names) {
      holder.replaceChildren();
      const every = Math.ceil((15 * scale) / size);
      numbers.forEach((number, i) => element("span", "", holder, i % every ? "" : String(number)));
    }
    this.headNames.style.width = this.stage.style.width;
    this.title.textContent = scene.head_note || TITLE;
  }

  draw(state) {
    const [scene, setting] = [state.sceneOf(0), state.settingOf(0)];
    const inks = inksOf(state.palette());
    for (let layer = 0; layer < scene.layers; layer++) {
      for (let head = 0; head < scene.heads; head++) this.paint(scene, { ...setting, show: "head", layer, head }, inks);
    }
    this.canvas.getContext("2d").putImageData(this.image, 0, 0);
    for (const number of state.silenced ?? []) this.crossOut(cellOf(number, scene.heads));
    this.outline(scene, setting);
    const from = nameOfToken(scene, setting.query);
    this.stage.setAttribute("aria-label", `Maps of ${scene.layers} layers with ${scene.heads} heads, from ${from}`);
  }

  paint(scene, setting, inks) {
    const values = mapOf(scene, setting);
    const shares = sharesOf(values, scaleOf(values));
    const [half, line] = [this.gap >> 1, this.canvas.width];
    let top = (setting.layer * this.high + half) * line + setting.head * this.wide + half;
    for (let row = 0, at = 0; row < scene.rows; row++, top += this.pixel * line) {
      for (let column = 0, x = top; column < scene.columns; column++, at++, x += this.pixel) {
        this.ink.fill(inks[Math.round(255 * shares[at])], x, x + this.pixel);
      }
      for (let below = 1; below < this.pixel; below++) { // the same line, pixel by pixel
        this.ink.copyWithin(top + below * line, top, top + scene.columns * this.pixel);
      }
    }
  }

  crossOut([layer, head]) {
    const pen = this.canvas.getContext("2d");
    const [x, y, w, h] = [head * this.wide, layer * this.high, this.wide, this.high];
    pen.fillStyle = "rgb(0 0 0 / 0.6)";
    pen.fillRect(x, y, w, h);
    pen.strokeStyle = "#ff9f40";
    pen.lineWidth = Math.max(2, w / 24);
    pen.beginPath();
    for (const [from, to] of [[0.2, 0.8], [0.8, 0.2]]) {
      pen.moveTo(x + from * w, y + 0.2 * h);
      pen.lineTo(x + to * w, y + 0.8 * h);
    }
    pen.stroke();
  }

  outline({ layers, heads }, { show, layer, head }) { // what the large picture shows
    this.chosen.hidden = !["head", "mean", "rollout"].includes(show);
    const [top, high] = show === "rollout" ? [0, layer + 1] : [layer, 1];
    const [left, wide] = show === "head" ? [Math.min(head, heads - 1), 1] : [0, heads];
    placeOver(this.chosen, [top, left], [high, wide], [layers, heads]);
  }
}
