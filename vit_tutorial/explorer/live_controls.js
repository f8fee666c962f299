// What is set around the picture of a live network, and the bars of what it says.

import { addButton, addGroup, argmax, element, percent, setPressed } from "./page.js";
import { HOW } from "./live_network.js";

const TOOLS = [["look", "Look"], ["hide", "Hide patches"], ["square", "Hide a square"], ["silence", "Silence heads"]];
const SHOWS = [
  ["rollout", "all layers (rollout)"], ["mean", "one layer"], ["head", "one head"], ["class", "what counts for the answer"],
  ["hiding", "what hiding a square costs"],
];
const NOTES = {
  look: "Point at a patch, or tap it: where does it look? Leave the picture for the answer's own view.",
  hide: "Brush over patches to hide them, over hidden ones to show them. Keys: arrows, then Space.",
  square: "Point where a square should be hidden; a click or a tap holds it, Undo takes it away. Keys: arrows, 1 to 4 for its side, Escape.",
  silence: "Click a head among the small maps to silence it: it hands nothing on. Again: it is back. Keys: arrows, then Space.",
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
    this.side = this.field(row, "square", view.square.sides.map((side) => [side, `${side}×${side} patches`]), (side) => view.square.setSide(Number(side)));
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
    this.onSlide(this.temperature, (together) => view.changes.set({ temperature: Number((10 ** this.temperature.value).toFixed(2)) }, together));
    this.layers = addGroup(row, "Layers");
    for (let layer = 0; layer < view.config.depth; layer++) {
      addButton(this.layers, `layer ${layer}`, () => view.changes.toggleLayer(layer, view.config.num_heads));
    }
    this.addRules(row, view);
    this.undo = addButton(row, "Undo", () => view.changes.undo());
    this.reset = addButton(row, "Undo all", () => view.changes.reset());
  }

  // Rules by which heads go one after another, and a slider for how many have gone.
  addRules(row, { orders, changes }) {
    this.rules = element("div", "ex-row", row);
    const names = Object.keys(orders);
    const follow = (together) => changes.set({ silenced: orders[rule.value].slice(0, Number(this.gone.value)) }, together);
    const rule = this.field(this.rules, "heads go", names.map((name) => [name, name]), () => follow(false)).select;
    const box = element("label", "li-field", this.rules, "how many");
    this.gone = element("input", "", box);
    Object.assign(this.gone, { type: "range", min: 0, max: Math.max(0, ...names.map((name) => orders[name].length)), value: 0 });
    this.number = element("output", "", box);
    this.onSlide(this.gone, follow);
    this.hasRules = names.length > 0;
  }

  // What one drag of a slider changes is one step back.
  onSlide(slider, move) {
    let together = false;
    slider.addEventListener("input", () => {
      move(together);
      together = true;
    });
    slider.addEventListener("change", () => { together = false; });
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

  update({ tool, settings, changes, size, square, config }) {
    for (const button of this.tools) setPressed(button, button.value === tool);
    if (tool !== this.tool) this.note(NOTES[tool]);
    this.tool = tool;
    [this.shows.value, this.how.value, this.size.value] = [settings.show, changes.now.how, size];
    setPressed(this.shuffle, changes.now.order !== null);
    setPressed(this.positions, !changes.now.positions);
    this.temperature.value = Math.log10(changes.now.temperature);
    this.degrees.textContent = changes.now.temperature.toFixed(2);
    this.temperature.setAttribute("aria-valuetext", this.degrees.textContent);
    for (const option of this.side.select.options) option.textContent = `${option.value * square.times}×${option.value * square.times} patches`;
    this.side.select.value = square.side;
    this.side.box.hidden = tool !== "square" && settings.show !== "hiding";
    this.layers.hidden = tool !== "silence";
    this.rules.hidden = tool !== "silence" || !this.hasRules;
    this.gone.value = changes.now.silenced.length;
    this.number.textContent = String(changes.now.silenced.length);
    [...this.layers.children].forEach((button, layer) => {
      const heads = Array.from({ length: config.num_heads }, (_, h) => layer * config.num_heads + h);
      setPressed(button, heads.every((head) => changes.now.silenced.includes(head)));
    });
    this.undo.disabled = !changes.past.length;
    this.reset.disabled = changes.untouched();
  }
}

export class Answer {
  constructor(parent, classes, others) {
    this.classes = classes;
    this.table = element("div", "li-answer", parent);
    const who = others.length ? "The networks know" : "The network knows";
    this.note = element("p", "ex-note", parent, `The line: without your changes. ${who} these classes and no other.`);
    const bar = () => {
      const track = element("div", "li-track", this.table);
      return { fill: element("div", "li-fill", track), mark: element("div", "li-mark", track), number: element("div", "li-number", this.table) };
    };
    if (others.length) { // whose bars are whose
      element("div", "", this.table);
      this.table.style.setProperty("--networks", others.length + 1);
      for (const name of ["this network", ...others]) element("div", "ex-note li-network", this.table, name);
    }
    this.rows = Array.from({ length: Math.min(MOST, classes.length) }, () => ({
      name: element("div", "li-class", this.table), bars: Array.from({ length: others.length + 1 }, bar),
    }));
  }

  // Of each network { now, before }; what is not known is null.
  draw(answers, untouched) {
    const [{ now, before }] = answers;
    const likeliest = Array.from(now.keys()).sort((a, b) => Math.max(now[b], before[b]) - Math.max(now[a], before[a]));
    const shown = this.classes.length <= MOST ? [...this.classes.keys()] : likeliest.slice(0, MOST);
    const best = answers.map((answer) => answer.now && argmax(answer.now));
    shown.forEach((c, n) => {
      const { name, bars } = this.rows[n];
      name.textContent = this.classes[c];
      name.classList.toggle("li-best", c === best[0]);
      answers.forEach((answer, which) => {
        const { fill, mark, number } = bars[which];
        fill.style.width = answer.now ? `${100 * answer.now[c]}%` : 0;
        mark.hidden = untouched || !answer.before;
        if (answer.before) mark.style.left = `${100 * answer.before[c]}%`;
        number.textContent = answer.now ? percent(answer.now[c]) : "–";
        number.classList.toggle("li-best", c === best[which]);
      });
    });
  }
}
