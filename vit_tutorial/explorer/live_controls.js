// What is set around the picture of a live network, and the bars of what it says.

import { addButton, addGroup, element, percent, setPressed } from "./page.js";
import { HOW } from "./live_network.js";

const TOOLS = [["look", "Look"], ["hide", "Hide patches"], ["silence", "Silence heads"]];
const SHOWS = [["rollout", "all layers (rollout)"], ["mean", "one layer"], ["head", "one head"], ["class", "what counts for the answer"]];
const NOTES = {
  look: "Point at a patch, or tap it: where does it look? Leave the picture for the answer's own view.",
  hide: "Brush over patches to hide them, over hidden ones to show them. Keys: arrows, then Space.",
  silence: "Click a head among the small maps to silence it: it hands nothing on. Again: it is back.",
};
const MOST = 10; // classes that have a bar

export class Tools {
  constructor(parent, view) {
    const row = element("div", "ex-row li-tools", parent);
    this.tools = this.choice(row, "Tool", TOOLS, (tool) => view.setTool(tool));
    const look = this.field(row, "shows", SHOWS, (show) => view.choose({ show }));
    this.shows = look.select;
    const how = this.field(row, "hide with", HOW, (way) => view.changes.set({ how: way }));
    this.how = how.select;
    this.sizes = [1, 2, 3].map((times) => times * view.config.img_size).filter((side) => Number.isFinite(side));
    const size = this.field(row, "input", this.sizes.map((side) => [side, `${side}×${side}`]), (side) => view.resize(Number(side)));
    this.size = size.select;
    size.box.hidden = this.sizes.length < 2;
    this.addActions(parent, view);
    this.said = element("p", "ex-note li-note", parent);
    this.note(NOTES.look);
  }

  addActions(parent, view) {
    const row = element("div", "ex-row li-tools", parent);
    this.shuffle = addButton(row, "Shuffle patches", () => view.shuffle());
    this.positions = addButton(row, "Positions off", () => view.changes.set({ positions: !view.changes.now.positions }));
    const heat = element("label", "li-field", row, "temperature");
    this.temperature = element("input", "", heat);
    Object.assign(this.temperature, { type: "range", min: -1, max: 1, step: 0.05 });
    this.degrees = element("output", "", heat);
    this.temperature.addEventListener("input", () => view.changes.set({ temperature: Number((10 ** this.temperature.value).toFixed(2)) }, true));
    this.layers = addGroup(row, "Layers");
    for (let layer = 0; layer < view.config.depth; layer++) {
      addButton(this.layers, `layer ${layer}`, () => view.changes.toggleLayer(layer, view.config.num_heads));
    }
    this.undo = addButton(row, "Undo", () => view.changes.undo());
    this.reset = addButton(row, "Undo all", () => view.changes.reset());
  }

  choice(parent, label, choices, press) {
    const group = addGroup(parent, label);
    return choices.map(([value, text]) => {
      const button = addButton(group, text, () => press(value));
      button.value = value;
      return button;
    });
  }

  field(parent, label, choices, press) {
    const box = element("label", "li-field", parent, label);
    const select = element("select", "", box);
    for (const [value, text] of choices) element("option", "", select, text).value = value;
    select.addEventListener("change", () => press(select.value));
    return { box, select };
  }

  note(text) {
    this.said.textContent = text;
  }

  update({ tool, settings, changes, size, config }) {
    for (const button of this.tools) setPressed(button, button.value === tool);
    if (tool !== this.tool) this.note(NOTES[tool]);
    this.tool = tool;
    [this.shows.value, this.how.value, this.size.value] = [settings.show, changes.now.how, size];
    setPressed(this.shuffle, changes.now.order !== null);
    setPressed(this.positions, !changes.now.positions);
    this.temperature.value = Math.log10(changes.now.temperature);
    this.degrees.textContent = changes.now.temperature.toFixed(2);
    this.temperature.setAttribute("aria-valuetext", this.degrees.textContent);
    this.layers.hidden = tool !== "silence";
    [...this.layers.children].forEach((button, layer) => {
      const heads = Array.from({ length: config.num_heads }, (_, h) => layer * config.num_heads + h);
      setPressed(button, heads.every((head) => changes.now.silenced.includes(head)));
    });
    this.undo.disabled = !changes.past.length;
    this.reset.disabled = changes.untouched();
  }
}

export class Answer {
  constructor(parent, classes) {
    this.classes = classes;
    this.table = element("div", "li-answer", parent);
    element("p", "ex-note", parent, "The line: without your changes. The network knows these classes and no other.");
    this.rows = Array.from({ length: Math.min(MOST, classes.length) }, () => {
      const name = element("div", "li-class", this.table);
      const track = element("div", "li-track", this.table);
      return { name, fill: element("div", "li-fill", track), mark: element("div", "li-mark", track), number: element("div", "li-number", this.table) };
    });
  }

  draw(now, before, untouched) {
    const likeliest = Array.from(now.keys()).sort((a, b) => Math.max(now[b], before[b]) - Math.max(now[a], before[a]));
    const shown = this.classes.length <= MOST ? [...this.classes.keys()] : likeliest.slice(0, MOST);
    const best = now.indexOf(Math.max(...now));
    shown.forEach((c, n) => {
      const { name, fill, mark, number } = this.rows[n];
      name.textContent = this.classes[c];
      fill.style.width = `${100 * now[c]}%`;
      mark.style.left = `${100 * before[c]}%`;
      mark.hidden = untouched;
      number.textContent = percent(now[c]);
      for (const part of [name, number]) part.classList.toggle("li-best", c === best);
    });
  }
}
