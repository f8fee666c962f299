// What every head of every layer attends to, from any token, under the pointer or the arrow keys.
// All weights come once, as bytes; from then on nothing is asked of the kernel but to open an image.

import { element, listen } from "./page.js";
import { Atlas } from "./attention_atlas.js";
import { Bar, Foot, Options } from "./attention_controls.js";
import { HELP, followKeys, followPointer } from "./attention_keys.js";
import { Pane } from "./attention_pane.js";
import { AttentionState } from "./attention_state.js";

const ATLAS = 320; // CSS pixels, at least
const GAP = 32; // between picture, map and atlas, the map's numbers with it
const SETTINGS = ["layer", "head", "show", "direction", "head_fusion", "discard_ratio", "residual", "photograph", "colours"];
let instances = 0;

// How much wider than `size` a picture is: wide ones may be wider, tall ones not taller.
const wideness = ({ width, height }) => Math.min(width / height, Math.sqrt(Math.max(width / height, 1)), 1.6);

class AttentionView {
  constructor(state, el) {
    const id = `attention-explorer-${++instances}-${Math.random().toString(36).slice(2, 8)}`;
    this.state = state;
    this.root = element("div", "explorer attention-explorer", el);
    this.scale = Math.max(1, window.devicePixelRatio || 1);
    this.bar = new Bar(this.root, state);
    const main = element("div", "ae-main", this.root);
    this.panes = [0, 1].map((n) => new Pane(main, n, id, (token) => this.look(n, token)));
    this.atlas = new Atlas(main, state);
    this.options = new Options(this.root, state);
    this.foot = new Foot(this.root, () => this.togglePin(), HELP);
    for (const pane of this.panes) {
      followPointer(pane, state);
      followKeys(pane, this);
    }
    const save = () => state.save();
    this.root.addEventListener("pointerleave", save);
    this.root.addEventListener("dragover", (event) => { if (state.get("can_open")) event.preventDefault(); });
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      if (state.get("can_open") && event.dataTransfer.files.length) this.bar.openFile(state, event.dataTransfer.files[0]);
    });
    this.root.addEventListener("focusout", (event) => { if (!this.root.contains(event.relatedTarget)) save(); });
    this.frame = 0;
    this.stale = false; // is there more to draw than another query
  }

  // ---- Drawing ----

  shownPanes() {
    return this.state.pinned ? this.panes : [this.panes[0]];
  }

  later(query = false) { // at most one drawing per frame
    this.stale ||= !query;
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    const { state } = this;
    const compared = state.pinned !== null;
    this.panes[1].box.hidden = !compared;
    this.atlas.side.hidden = compared;
    for (const pane of this.shownPanes()) pane.draw(state);
    if (!compared) this.atlas.draw(state);
    if (this.stale) {
      this.bar.update(state);
      this.options.update();
      this.foot.update(compared);
    }
    this.stale = false;
  }

  // ---- Room ----

  decode() {
    this.state.decode(() => this.paintPhotos());
    this.bar.fill(this.state);
    this.layout();
  }

  paintPhotos() {
    for (const pane of this.shownPanes()) pane.paintPhoto(this.state.sceneOf(pane.n));
    this.later();
  }

  fittingSize() { // the width of a picture: as the window has room, for two of it beside the atlas
    const room = this.root.clientWidth;
    const wide = wideness(this.state.sceneOf(0));
    const above = (window.innerHeight - (this.state.get("can_open") ? 420 : 320)) * wide; // a notebook has bars of its own
    if (room < 600) return room - GAP; // one below the other
    const three = (room - ATLAS - 3 * GAP) / 2;
    const fitting = three >= 300 ? three : (room - 2 * GAP) / 2;
    return Math.floor(Math.min(fitting, Math.max(above, 300), 600));
  }

  layout() {
    const { state, root } = this;
    const scene = state.sceneOf(0);
    this.size = this.fittingSize();
    this.options.fill(scene);
    const share = state.pinned && root.clientWidth >= 1000 ? 0.5 : 1; // both beside each other
    for (const pane of this.shownPanes()) {
      const width = Math.min(this.size, share * root.clientWidth / 2 - GAP);
      pane.layout(state.sceneOf(pane.n), root.clientWidth < 600 ? this.size : width, this.scale);
    }
    const left = root.clientWidth - 2 * this.size - 3 * GAP;
    const across = left >= ATLAS ? left : Math.min(root.clientWidth, 600) - GAP;
    const down = Math.max(1.08 * this.size * scene.height / scene.width, 300); // beside the words, too
    this.atlas.layout(scene, down, across, this.scale);
    this.stale = true;
    this.draw();
  }

  refit() {
    if (this.fittingSize() !== this.size || (this.state.pinned && this.root.clientWidth !== this.width)) this.layout();
    this.width = this.root.clientWidth;
  }

  // ---- Moving ----

  look(n, token) {
    const { state } = this;
    if (n) {
      state.pinned.query = token;
      this.later();
    } else if (token !== state.get("query")) state.change({ query: token });
    else this.later(true);
  }

  letGo() {
    this.state.held = false;
    this.later();
  }

  togglePin() {
    this.state.togglePin();
    this.layout();
  }
}

function render({ model, el }) {
  const state = new AttentionState(model);
  const view = new AttentionView(state, el);
  const later = () => view.later();
  const ended = listen(model, {
    "msg:custom": (message) => { view.bar.problem.textContent = message.problem ?? ""; },
    "change:scenes": () => view.decode(),
    "change:scene": () => view.layout(),
    "change:query": () => view.later(true),
    ...Object.fromEntries(SETTINGS.map((name) => [`change:${name}`, later])),
  });
  view.decode();
  const refit = () => view.refit();
  const resized = new ResizeObserver(refit);
  resized.observe(view.root);
  window.addEventListener("resize", refit);
  return () => {
    ended();
    cancelAnimationFrame(view.frame);
    resized.disconnect();
    window.removeEventListener("resize", refit);
    state.urls.revoke();
  };
}

export default { render };
