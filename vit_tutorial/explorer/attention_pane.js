// One picture, with what a token of it attends to painted over it.

import { addButton, cellOf, element, keepKeys, paintCells, placeOver, setPressed } from "./page.js";
import { largestPatch, valuesOf } from "./attention_values.js";
import { MEANS, nameOfToken, sentence } from "./attention_words.js";

export class Pane {
  // 0 is what one explores, 1 what is pinned beside it; `look` shows another token's attention.
  constructor(parent, n, id, look) {
    Object.assign(this, { n, look });
    this.box = element("div", "ae-pane", parent);
    this.title = element("div", "ex-title ae-title", this.box);
    this.answer = element("div", "ex-note ae-answer", this.box);
    this.prefix = element("div", "ex-row ae-prefix", this.box);
    this.stage = element("div", "ae-stage", this.box);
    this.photo = element("canvas", "ae-photo", this.stage);
    this.heat = element("canvas", "ae-heat", this.stage);
    this.row = element("div", "", this.stage);
    this.cell = element("div", "ex-outline", this.row);
    this.words = element("div", "ae-words", this.box);
    this.small = document.createElement("canvas"); // one pixel per patch, enlarged from here
    this.box.hidden = n > 0;
    if (n === 0) this.words.setAttribute("aria-live", "polite");
    this.photo.setAttribute("aria-hidden", "true");
    this.heat.setAttribute("aria-hidden", "true");
    this.row.setAttribute("role", "row");
    this.cell.setAttribute("role", "gridcell");
    this.cell.id = `${id}-cell-${n}`;
    this.stage.setAttribute("role", "grid");
    this.stage.setAttribute("aria-activedescendant", this.cell.id);
    this.stage.tabIndex = 0;
    keepKeys(this.stage);
  }

  // Makes room for a picture `width` CSS pixels wide.
  layout(scene, width, scale) {
    const height = (width * scene.height) / scene.width;
    this.stage.style.width = `${width}px`;
    this.stage.style.aspectRatio = `${scene.width} / ${scene.height}`;
    for (const canvas of [this.photo, this.heat]) {
      [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    }
    this.stage.setAttribute("aria-rowcount", scene.rows);
    this.stage.setAttribute("aria-colcount", scene.columns);
    this.prefix.replaceChildren();
    element("span", "ex-note", this.prefix, "from:");
    const means = [scene.query, scene.num_prefix ? -2 : -1].filter((one, n, all) => one < 0 && all.indexOf(one) === n);
    const chips = [...scene.prefix_names.entries(), ...means.map((one) => [one, MEANS[one]])];
    for (const [token, name] of chips) {
      addButton(this.prefix, name, () => this.look(token), "ex-button ae-chip").value = token;
    }
    this.paintPhoto(scene);
  }

  paintPhoto({ picture }) {
    if (!picture) return;
    const pen = this.photo.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, 0, 0, this.photo.width, this.photo.height);
  }

  // Paints the heat, and returns its largest value.
  draw(state) {
    const [scene, setting] = [state.sceneOf(this.n), state.settingOf(this.n)];
    const values = valuesOf(scene, setting);
    const most = largestPatch(scene, setting, values);
    const patches = values.subarray(scene.num_prefix);
    const shares = Array.from(patches, (value) => (most > 0 ? Math.min(1, Math.max(0, value / most)) : 0));
    paintCells(this.small, [scene.rows, scene.columns], state.palette(), shares, (share) => 230 * share);
    const pen = this.heat.getContext("2d");
    pen.clearRect(0, 0, this.heat.width, this.heat.height);
    pen.drawImage(this.small, 0, 0, this.heat.width, this.heat.height);
    const words = sentence(scene, setting, values);
    if (this.words.textContent !== words) this.words.textContent = words;
    this.title.textContent = this.n ? `Pinned: ${scene.name}` : scene.name;
    this.answer.textContent = scene.answer;
    this.stage.setAttribute("aria-label", `Patches of ${scene.name}`);
    this.outline(scene, setting, state.held || this.n === 1);
    return most;
  }

  outline(scene, { show, query }, held) {
    const still = show in scene.relevances; // such a map has no query
    const patch = query - scene.num_prefix;
    this.cell.hidden = patch < 0 || query < 0 || still;
    if (patch >= 0) {
      const [row, column] = cellOf(patch, scene.columns);
      placeOver(this.cell, [row, column], [1, 1], [scene.rows, scene.columns]);
      this.row.setAttribute("aria-rowindex", row + 1);
      this.cell.setAttribute("aria-colindex", column + 1);
    }
    this.cell.classList.toggle("ex-held", held);
    this.cell.setAttribute("aria-label", nameOfToken(scene, query));
    for (const chip of this.prefix.querySelectorAll("button")) {
      setPressed(chip, Number(chip.value) === query && !still);
      chip.disabled = still;
    }
  }
}
