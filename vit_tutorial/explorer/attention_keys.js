// How pointer and keys go from patch to patch, from layer to layer and from head to head.

import { STEPS, cellOf, cellUnder, clamp, onKeys } from "./page.js";

export const HELP = [
  ["pointer, finger", "look from any patch; a click or a tap holds it, Escape lets go"],
  ["arrows, Home, End", "go from patch to patch, and hold it"],
  ["C", "look from what the head reads"],
  ["[ ]", "layer before, layer after"],
  [", .", "head before, head after"],
  ["H M R", "one head, mean of heads, rollout"],
  ["P", "pin the patch, to compare it with others"],
];

// The token in the middle of a picture's grid cell.
const tokenAt = (scene, [row, column]) => scene.num_prefix + row * scene.columns + column;

function neighbour(scene, query, [down, right]) {
  const patch = query - scene.num_prefix;
  if (patch < 0) return scene.num_prefix; // from no patch to the first
  const [row, column] = cellOf(patch, scene.columns);
  return tokenAt(scene, [clamp(row + down, scene.rows), clamp(column + right, scene.columns)]);
}

const DWELL = 400; // milliseconds after which a patch that is pointed at stays, when the pointer leaves

// A mouse looks as it moves, a finger where it taps or is drawn sideways (up and down it scrolls).
export function followPointer(pane, state) {
  const under = (event) => {
    const scene = state.sceneOf(pane.n);
    return tokenAt(scene, cellUnder(event, [scene.rows, scene.columns]));
  };
  let [rest, dwelling] = [null, 0]; // where one looked last for longer
  const settle = (token) => {
    clearTimeout(dwelling);
    dwelling = setTimeout(() => { rest = token; }, DWELL);
  };
  const look = (event) => {
    const token = under(event);
    if (token !== state.queryOf(pane.n)) settle(token);
    pane.look(token);
  };
  for (const { box } of pane.view.stages) {
    box.addEventListener("pointermove", (event) => {
      const drawn = event.pointerType === "touch" ? event.buttons : pane.n === 0 && !state.held;
      if (drawn) look(event);
    });
    box.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch") event.preventDefault();
      pane.stage.focus({ preventScroll: true });
      rest = under(event);
      if (pane.n === 0) state.held = event.pointerType === "touch" || !state.held || state.get("query") !== rest;
      look(event);
    });
    box.addEventListener("pointerleave", () => {
      clearTimeout(dwelling);
      if (pane.n === 0 && !state.held && rest !== null) pane.look(rest);
    });
  }
}

export function followKeys(pane, view) {
  const { state } = view;
  const turn = (name, by, length) => state.change({ [name]: clamp(state.get(name) + by, length) });
  onKeys(pane.stage, ({ key }) => {
    const scene = state.sceneOf(pane.n);
    const look = (token) => {
      if (pane.n === 0) state.held = true; // or the pointer, resting on the picture, would take it back
      pane.look(token);
    };
    const step = (by) => look(neighbour(scene, state.queryOf(pane.n), by));
    const actions = {
      Home: () => step([0, -scene.columns]),
      End: () => step([0, scene.columns]),
      "[": () => turn("layer", -1, scene.layers),
      "]": () => turn("layer", 1, scene.layers),
      ",": () => turn("head", -1, scene.heads),
      ".": () => turn("head", 1, scene.heads),
      c: () => look(scene.query),
      h: () => state.change({ show: "head" }),
      m: () => state.change({ show: "mean" }),
      r: () => state.change({ show: "rollout" }),
      p: () => view.togglePin(),
      Escape: () => view.letGo(),
    };
    const name = key.length === 1 ? key.toLowerCase() : key;
    if (name in STEPS) step(STEPS[name]);
    else if (name in actions) actions[name]();
    else return false;
    return true;
  });
}
