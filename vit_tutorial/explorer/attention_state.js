// What is looked at: the images and their weights, from which token, and what is pinned beside it.

import { clamp, bytesOf, fileUrls, floatsOf } from "./page.js";
import { decodeWeights, makeScene } from "./attention_values.js";

export class AttentionState {
  constructor(model) {
    this.model = model;
    this.urls = fileUrls();
    this.scenes = [];
    this.palettes = {};
    this.held = false; // does the query stay where it is
    this.pinned = null; // {scene, query} of the second picture
    this.unsaved = false;
  }

  get(name) {
    return this.model.get(name);
  }

  change(values) {
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.unsaved = true;
  }

  save() { // Python hears how it was left; while one explores, nothing is sent
    if (this.unsaved) this.model.save_changes();
    this.unsaved = false;
  }

  // Reads what Python sent; `seen` is called for each picture once it can be painted.
  decode(seen) {
    this.urls.revoke();
    const [weights, most, images, relevances] =
      ["weights", "largest", "images", "relevances"].map((name) => this.get(name));
    this.scenes = this.get("scenes").map((about, n) => {
      const numbers = floatsOf(relevances[n]);
      const size = about.rows * about.columns;
      const maps = about.methods.map((name, m) => [name, numbers.subarray(m * size, (m + 1) * size)]);
      const scene = makeScene({ ...about, relevances: Object.fromEntries(maps) }, decodeWeights(weights[n], most[n]));
      const picture = new Image();
      picture.onload = () => {
        scene.picture = picture;
        seen();
      };
      picture.src = this.urls.add(images[n], "image/jpeg");
      return scene;
    });
    const bytes = bytesOf(this.get("palettes"));
    const palettes = this.get("palette_names").map((name, n) => [name, bytes.subarray(768 * n, 768 * (n + 1))]);
    this.palettes = Object.fromEntries(palettes);
    if (this.pinned?.scene >= this.scenes.length) this.pinned = null;
  }

  palette() {
    return this.palettes[this.get("colours")];
  }

  // The scene of picture `n`: 0 is what one explores, 1 what is pinned.
  sceneOf(n) {
    return this.scenes[n ? this.pinned.scene : clamp(this.get("scene"), this.scenes.length)];
  }

  queryOf(n) {
    if (n) return this.pinned.query;
    const [scene, query] = [this.sceneOf(0), this.get("query")];
    return query >= scene.tokens || (query === -1 && scene.num_prefix) ? scene.query : query;
  }

  settingOf(n) {
    const [scene, query] = [this.sceneOf(n), this.queryOf(n)];
    return {
      show: this.get("show"),
      layer: clamp(this.get("layer"), scene.layers),
      head: this.get("head"),
      fusion: this.get("head_fusion"),
      discard: this.get("discard_ratio"),
      residual: this.get("residual"),
      by: this.get("direction") === "to" && query >= 0,
      query,
    };
  }

  togglePin() {
    const scene = clamp(this.get("scene"), this.scenes.length);
    this.pinned = this.pinned ? null : { scene, query: this.queryOf(0) };
    this.held = false;
  }
}
