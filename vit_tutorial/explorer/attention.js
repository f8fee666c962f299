// What every head of every layer attends to, from any token, under the pointer or the arrow keys.
// All weights come once, as bytes; from then on nothing is asked of the kernel but to open an image.

import { element, listen } from "./page.js";
import { Atlas } from "./attention_atlas.js";
import { Bar, Foot, Options } from "./attention_controls.js";
import { HELP, followKeys, followPointer } from "./attention_keys.js";
import { Pane } from "./attention_pane.js";
import { AttentionState } from "./attention_state.js";
import { shareInWords } from "./attention_words.js";

const SIZE = 420; // CSS pixels of the atlas, and at least of the picture
const SETTINGS = ["layer", "head", "show", "direction", "head_fusion", "discard_ratio", "residual", "colours"];
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
    const [most] = this.shownPanes().map((pane) => pane.draw(state));
    const still = state.get("show") in state.sceneOf(0).relevances;
    this.foot.largest.textContent = still ? "largest" : shareInWords(most);
    if (!compared) this.atlas.draw(state);
    if (this.stale) {
      this.bar.update(state);
      this.options.update();
      this.foot.update(state.palette(), compared);
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
  }

  fittingSize() { // as large as the window has room for, beside the atlas and above the controls
    const beside = (this.root.clientWidth - SIZE - 60) / wideness(this.state.sceneOf(0));
    const above = window.innerHeight - (this.state.get("can_open") ? 480 : 380); // a notebook has bars of its own
    return 20 * Math.floor(Math.max(SIZE, Math.min(beside, above, 600)) / 20);
  }

  layout() {
    const { state, root } = this;
    const scene = state.sceneOf(0);
    this.size = this.fittingSize();
    this.options.fill(scene);
    for (const pane of this.shownPanes()) {
      const beside = state.pinned ? Math.max(240, (root.clientWidth - 42) / 2) : Infinity; // both fit
      const width = Math.min(beside, this.size * wideness(state.sceneOf(pane.n)));
      pane.layout(state.sceneOf(pane.n), width, this.scale);
    }
    const across = Math.max(SIZE, root.clientWidth - this.size * wideness(scene) - 60);
    const down = 1.08 * this.size; // the words below the picture leave some more
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
