// One picture, lit by what a token of it attends to, and the map of that beside it.

import { addButton, element, setPressed } from "./page.js";
import { MapView } from "./map_view.js";
import { valuesOf } from "./attention_values.js";
import { MEANS, nameOfToken, numberForm, sentence } from "./attention_words.js";

export class Pane {
  // 0 is what one explores, 1 what is pinned beside it; `look` shows another token's attention.
  constructor(parent, n, id, look) {
    Object.assign(this, { n, look });
    this.box = element("div", "ae-pane", parent);
    this.title = element("div", "ex-title ae-title", this.box);
    this.answer = element("div", "ex-note ae-answer", this.box);
    this.prefix = element("div", "ex-row ae-prefix", this.box);
    this.view = new MapView(this.box, `${id}-${n}`);
    this.stage = this.view.lit.box;
    this.words = element("div", "ae-words", this.box);
    this.box.hidden = n > 0;
    if (n === 0) this.words.setAttribute("aria-live", "polite");
  }

  // Makes room for a picture and a map, each `width` CSS pixels wide.
  layout(scene, width, scale) {
    this.view.layout(scene, width, scale);
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
    if (picture) this.view.setPicture(picture);
  }

  draw(state) {
    const [scene, setting] = [state.sceneOf(this.n), state.settingOf(this.n)];
    const values = valuesOf(scene, setting);
    const form = numberForm(scene, setting);
    this.view.draw(values.subarray(scene.num_prefix), state.palette(), form, state.get("photograph"));
    const words = sentence(scene, setting, values);
    if (this.words.textContent !== words) this.words.textContent = words;
    this.title.textContent = this.n ? `Pinned: ${scene.name}` : scene.name;
    this.answer.textContent = scene.answer;
    this.stage.setAttribute("aria-label", `Patches of ${scene.name}`);
    const still = setting.show in scene.relevances; // such a map has no query
    const patch = still ? -1 : Math.max(setting.query - scene.num_prefix, -1);
    this.view.outline(patch, nameOfToken(scene, setting.query), state.held || this.n === 1);
    for (const chip of this.prefix.querySelectorAll("button")) {
      setPressed(chip, Number(chip.value) === setting.query && !still);
      chip.disabled = still;
    }
  }
}
