// A square of patches that is hidden, what hiding it costs in each place, and what other networks said of it.

import { STEPS, argmax, cellOf, clamp, element, floatsOf, paintCells } from "./page.js";
import { sharesOf } from "./map_view.js";

const SIDES = [1, 2, 3, 4]; // of a square, in patches of the network's own image size

// Moves a square so that all of it is on the grid; a place is its first row and column.
export function onGrid([row, column], side, [rows, columns]) {
  return [clamp(row, rows - side + 1), clamp(column, columns - side + 1)];
}

export function patchesIn([row, column], side, columns) {
  return Array.from({ length: side * side }, (_, n) => (row + Math.floor(n / side)) * columns + column + (n % side));
}

// All places of a square, row by row, `step` patches apart.
export function placesOf(side, grid, step = 1) {
  const [down, across] = grid.map((length) => Math.floor((length - side) / step) + 1);
  return Array.from({ length: down * across }, (_, n) => cellOf(n, across).map((i) => i * step));
}

// A number for each patch: the mean of the numbers of all squares that lie over it.
export function meanOver(numbers, places, side, [rows, columns]) {
  const [sum, count] = [0, 1].map(() => new Float64Array(rows * columns));
  places.forEach((place, n) => {
    for (const patch of patchesIn(place, side, columns)) {
      sum[patch] += numbers[n];
      count[patch] += 1;
    }
  });
  return sum.map((value, patch) => value / Math.max(count[patch], 1));
}

// What a probability falls by, from -100% to 100%, has its 0 in the middle of the scale.
export function evenScale(maps) {
  const most = Math.max(...maps.map((map) => Math.max(...map.map(Math.abs))), 1e-9);
  return [-most, most];
}

// The square that a person hides, in the picture of a live page.
export class Square {
  constructor(view) {
    const { img_size, patch_size } = view.config;
    this.view = view;
    const sides = Array.isArray(img_size) ? img_size : [img_size, img_size];
    this.ownGrid = sides.map((length) => length / patch_size); // at the network's own size
    const patches = this.ownGrid[0] * this.ownGrid[1];
    this.sides = SIDES.filter((side) => side <= Math.min(...this.ownGrid) && side * side < patches); // one stays
    this.side = this.sides.at(1) ?? 1; // in patches of the network's own size
    this.at = null; // its first row and column; null if none is hidden
    this.found = null; // what hiding costs everywhere
    this.trying = null; // what is being tried: { key, stop }
  }

  forget() { // with another picture
    this.stop();
    [this.at, this.found] = [null, null];
  }

  stop() {
    this.trying?.stop();
    this.trying = null;
  }

  // Hidden is what a step back, or another tool, has made of it.
  follow() {
    if (this.at && this.view.changes.now.hidden !== this.hidden) [this.at, this.view.held] = [null, false];
  }

  // How many patches lie beside each other where there is one at the network's own size.
  get times() {
    return this.view.network.grid[0] / this.ownGrid[0];
  }

  get length() { // in the patches that there are
    return this.side * this.times;
  }

  patchesAt(place) {
    const { changes, network } = this.view;
    return patchesIn(place, this.length, network.grid[1]).map((patch) => network.patchIn(changes.now, patch));
  }

  // Hides a square, or none: then what was hidden before comes back.
  set(place) {
    const { changes, network } = this.view;
    const at = place && onGrid(place, this.length, network.grid);
    if (String(at) === String(this.at)) return;
    const moved = this.at !== null && changes.past.length === this.step;
    this.at = at;
    if (!at && moved) return void changes.undo();
    this.step = changes.past.length + Number(!moved);
    this.hidden = at ? this.patchesAt(at) : [];
    changes.set({ hidden: this.hidden }, moved);
  }

  setSide(side) {
    const { at } = this;
    this.set(null);
    this.side = side;
    if (at) this.set(at);
    else this.view.update();
  }

  press(key) {
    if (this.sides.includes(Number(key))) this.setSide(Number(key));
    else if (key === "Escape") this.set(null);
    else if (key in STEPS) {
      const middle = this.view.network.grid.map((length) => Math.floor((length - this.length) / 2));
      this.set(this.at?.map((from, axis) => from + this.times * STEPS[key][axis]) ?? middle);
    } else return false;
    return true;
  }

  // What is tried everywhere: it stays the same while a square is moved.
  get key() {
    return JSON.stringify([{ ...this.view.changes.now, hidden: [] }, this.side, this.view.size]);
  }

  isFound() {
    return this.found?.key === this.key;
  }

  // What hiding it costs the class of the picture as it is, for every place; `say` hears how far it is.
  async tryEverywhere(say) {
    const { key } = this;
    if (this.isFound() || this.trying?.key === key) return;
    this.stop();
    const controller = new AbortController();
    const { signal } = controller;
    this.trying = { key, stop: () => controller.abort() };
    const { changes, network } = this.view;
    const whole = { ...changes.now, hidden: [] };
    const places = placesOf(this.length, network.grid, this.times);
    const many = [whole, ...places.map((place) => ({ ...whole, hidden: this.patchesAt(place) }))];
    const done = (count) => say(`Hiding a square: ${count} of ${many.length} places …`);
    const [before, ...after] = await network.eachProbabilities(many, signal, done);
    const target = argmax(before);
    const falls = after.map((said) => before[target] - said[target]);
    this.found = { key, target, map: meanOver(falls, places, this.length, network.grid) };
    this.trying = null;
  }

  inWords(strongest) {
    const { map, target } = this.found;
    const [most, least] = [Math.max(...map), Math.min(...map)];
    const points = (share) => (100 * share).toFixed(share >= 0.0995 ? 0 : 1);
    const name = this.view.classes[target];
    const square = `Hiding ${this.length}×${this.length} patches`;
    const costs = most < 5e-4
      ? `${square} costs ${name} nothing anywhere.`
      : `${square} over ${strongest} costs ${name} most: ${points(most)} percentage points (the mean of all squares over it).`;
    return least > -5e-4 ? costs : `${costs} Where the map is blue, ${name} becomes surer, by up to ${points(-least)}.`;
  }
}

// Other networks beside the one in the page: their answers were computed before, for each sample and each square.
export class Others {
  constructor(parent, { names, tables, grid, classes }) {
    Object.assign(this, { names, grid, classes: classes.length });
    this.tables = tables.map(floatsOf);
    this.box = element("div", "li-others", parent);
    this.maps = names.map(() => {
      const figure = element("div", "", this.box);
      return { title: element("div", "ex-note", figure), canvas: element("canvas", "", figure) };
    });
  }

  // The probabilities of network n: without a square (row 0), or with that of a row.
  row(sample, n, row) {
    const table = this.tables[sample];
    const rows = table.length / this.names.length / this.classes;
    return [...table.subarray((n * rows + row) * this.classes, (n * rows + row + 1) * this.classes)];
  }

  // Where in the tables the squares of a side begin.
  first(side) {
    return SIDES.filter((smaller) => smaller < side).reduce((sum, smaller) => sum + placesOf(smaller, this.grid).length, 1);
  }

  // Were they asked of this picture: whole, in its order, at the network's own size?
  know(sample, { order }, grid) {
    return sample !== null && !order && String(grid) === String(this.grid);
  }

  // Which row of the tables belongs to what is hidden; undefined if it is no square.
  rowOf({ hidden, how }) {
    if (!hidden.length) return 0;
    const side = Math.sqrt(hidden.length);
    if (!SIDES.includes(side) || how !== "mean") return undefined;
    const place = cellOf(Math.min(...hidden), this.grid[1]);
    const same = String(onGrid(place, side, this.grid)) === String(place) && patchesIn(place, side, this.grid[1]).every((patch) => hidden.includes(patch));
    return same ? this.first(side) + placesOf(side, this.grid).findIndex((other) => String(other) === String(place)) : undefined;
  }

  // What each says of a sample (null for an own picture), now and without changes; null if that is not known.
  answers(sample, changes, grid) {
    const row = this.know(sample, changes, grid) ? this.rowOf(changes) : undefined;
    return this.names.map((name, n) => ({
      name,
      now: row === undefined ? null : this.row(sample, n, row),
      before: sample === null ? null : this.row(sample, n, 0),
    }));
  }

  // How far a class falls for each of them, as a map of the patches.
  falls(sample, side, target, changes, grid) {
    if (!this.know(sample, changes, grid) || changes.how !== "mean") return [];
    const places = placesOf(side, this.grid);
    return this.names.map((_, n) => {
      const [before, first] = [this.row(sample, n, 0)[target], this.first(side)];
      return meanOver(places.map((_, i) => before - this.row(sample, n, first + i)[target]), places, side, this.grid);
    });
  }

  draw(falls, scale, palette, label) {
    const points = (share) => (100 * Math.max(share, 0)).toFixed(0);
    falls.forEach((map, n) => {
      const { title, canvas } = this.maps[n];
      title.textContent = `${this.names[n]}: hiding costs ${label} up to ${points(Math.max(...map))} percentage points, and brings up to ${points(-Math.min(...map))}`;
      paintCells(canvas, this.grid, palette, sharesOf(map, scale));
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", title.textContent);
    });
  }
}
