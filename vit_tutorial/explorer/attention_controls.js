// What is set around the pictures: what is shown, which image, the options and the colours.

import { addButton, addGroup, element, keepKeys, percent, setPressed } from "./page.js";
import { openImage } from "./open_image.js";

const SHOWS = [["rollout", "Rollout"], ["mean", "Mean of heads"], ["head", "One head"]];
const PHOTOGRAPHS = [["spotlight", "bright where it looks"], ["overlay", "painted over"], ["photograph", "as it is"]];
const INTRODUCTION = "Point at a patch, or tap it: what does it look at? Each map is shown twice.";
const ROLLOUT_ALONE = ["head_fusion", "discard_ratio", "residual"];

export class Bar {
  constructor(parent, state) {
    element("p", "ae-introduction", parent, INTRODUCTION);
    const bar = element("div", "ex-row ae-bar", parent);
    element("span", "ex-note", bar, "where it looks:");
    this.shows = addGroup(bar, "Where it looks");
    this.about = element("span", "ex-note", bar);
    this.methods = addGroup(bar, "What counts for a class");
    this.sceneBox = element("label", "ae-field", bar, "Image");
    this.scene = element("select", "", this.sceneBox);
    this.scene.addEventListener("change", () => state.change({ scene: Number(this.scene.value) }));
    this.open = element("label", "ex-button ex-open ae-open", bar, "Open an image…");
    const file = element("input", "", this.open);
    file.type = "file";
    file.accept = "image/*";
    this.problem = element("div", "ex-problem", parent); // with an image that a person opened
    this.problem.setAttribute("role", "alert");
    file.addEventListener("change", async () => {
      if (file.files.length) await this.openFile(state, file.files[0]);
      file.value = "";
    });
    this.close = addButton(bar, "Remove this image", () => this.send(state, { remove: state.get("scene") }));
  }

  send(state, opened) {
    state.model.set("opened", opened);
    state.model.save_changes();
  }

  async openFile(state, file) {
    this.problem.textContent = `Opening ${file.name} …`;
    try {
      this.send(state, { name: file.name, bytes: new DataView(await openImage(file)) });
    } catch (error) {
      this.problem.textContent = `${error.message}. Try a JPEG or PNG file.`;
    }
  }

  fill(state) {
    this.scene.replaceChildren();
    state.scenes.forEach(({ name }, n) => { element("option", "", this.scene, name).value = n; });
    this.sceneBox.hidden = state.scenes.length < 2;
    this.open.hidden = !state.get("can_open");
    const methods = new Set(state.scenes.flatMap((scene) => scene.methods).filter((name) => name !== "rollout"));
    const addAll = (group, shows) => {
      group.replaceChildren();
      for (const [show, text] of shows) addButton(group, text, () => state.change({ show })).value = show;
    };
    addAll(this.shows, SHOWS);
    addAll(this.methods, [...methods].map((name) => [name, name]));
  }

  update(state) {
    const { relevances, target, opened } = state.sceneOf(0);
    this.about.textContent = this.methods.children.length ? `what counts for ${target}:` : "";
    this.close.hidden = !opened || !state.get("can_open");
    const there = [...SHOWS.map(([name]) => name), ...Object.keys(relevances)];
    for (const button of [...this.shows.children, ...this.methods.children]) {
      setPressed(button, button.value === state.get("show"));
      button.disabled = !there.includes(button.value);
    }
    this.scene.value = state.get("scene");
  }
}

export class Options {
  constructor(parent, state) {
    this.parent = element("div", "ae-controls", parent);
    this.state = state;
    this.fields = {
      layer: this.addSlider("layer", "Layer", 0, 0, 1, String),
      head: this.addSlider("head", "Head", 0, 0, 1, String),
      direction: this.addSelect("direction", "Direction", [["from", "attends to"], ["to", "is attended to by"]]),
      head_fusion: this.addSelect("head_fusion", "Heads joined by", [["mean", "mean"], ["max", "maximum"], ["min", "minimum"]]),
      discard_ratio: this.addSlider("discard_ratio", "Discard", 0, 0.98, 0.02, (ratio) => percent(ratio)),
      residual: this.addSlider("residual", "Skip connection", 0, 1, 0.05, (share) => share.toFixed(2)),
      photograph: this.addSelect("photograph", "Photograph", PHOTOGRAPHS),
      colours: this.addSelect("colours", "Colours", state.get("palette_names").map((name) => [name, name])),
    };
  }

  addField(label, kind) {
    const box = element("label", "ae-field", this.parent);
    element("span", "ae-label", box, label);
    return { box, input: element(kind, "", box) };
  }

  addSlider(name, label, min, max, step, form) {
    const { box, input } = this.addField(label, "input");
    Object.assign(input, { type: "range", min, max, step });
    const output = element("output", "", box);
    input.addEventListener("input", () => this.state.change({ [name]: Number(input.value) }));
    return { box, input, update: (value) => {
      input.value = value;
      output.textContent = form(value);
      input.setAttribute("aria-valuetext", form(value));
    } };
  }

  addSelect(name, label, choices) {
    const { box, input } = this.addField(label, "select");
    for (const [value, text] of choices) element("option", "", input, text).value = value;
    input.addEventListener("change", () => this.state.change({ [name]: input.value }));
    return { box, input, update: (value) => { input.value = value; } };
  }

  fill({ layers, heads }) {
    this.fields.layer.input.max = layers - 1;
    this.fields.head.input.max = heads - 1;
  }

  update() {
    const [scene, show] = [this.state.sceneOf(0), this.state.get("show")];
    const still = show in scene.relevances;
    const used = { head: show === "head", layer: !still, direction: !still };
    for (const name of ROLLOUT_ALONE) used[name] = show === "rollout";
    if (scene.heads === 1) used.head_fusion = false;
    for (const [name, field] of Object.entries(this.fields)) {
      field.update(this.state.get(name));
      field.box.hidden = used[name] === false;
    }
  }
}

export class Foot {
  constructor(parent, togglePin, keys) {
    const foot = element("div", "ex-row ae-foot", parent);
    this.pin = addButton(foot, "Pin this patch", togglePin);
    const help = element("details", "ae-help", foot);
    keepKeys(element("summary", "", help, "Keys"));
    const list = element("dl", "", help);
    for (const [key, what] of keys) {
      element("dt", "", list, key);
      element("dd", "", list, what);
    }
  }

  update(pinned) {
    this.pin.textContent = pinned ? "Unpin" : "Pin this patch";
    setPressed(this.pin, pinned);
  }
}
