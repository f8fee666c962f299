// How alike positions are: one with all others, under the pointer or the arrow keys.
// All tables come once, as bytes; from then on nothing is asked of the kernel.

import {
  STEPS, addButtons, argmax, bytesOf, cellOf, cellUnder, changer, clamp, element, floatsOf, gradient, keepKeys, listen,
  nameOfCell, onKeys, paintCells, placeOver, pressOnly,
} from "./page.js";

const SIDE = 300; // CSS pixels of a map's longer side
const HELP = "Point at a patch, or click and use the arrow keys. To compare two, click one and point at another, or press Shift with the arrow keys. Escape lets go.";

function inDigits(value) {
  const text = value.toFixed(2);
  return Number(text) === 0 ? "0.00" : text.replace("-", "\u2212"); // a minus sign as wide as a digit
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

// What is said of a patch, whose similarities with all are `line`, or of it and `other`.
function sentence(line, query, other, columns) {
  const from = capital(nameOfCell(query, columns));
  if (other !== null) return `${from} and ${nameOfCell(other, columns)}: similarity ${inDigits(line[other])}.`;
  const named = (signed) => {
    const best = argmax(signed.map((value, i) => (i === query ? -Infinity : value)));
    return `${nameOfCell(best, columns)} (${inDigits(line[best])})`;
  };
  return `${from} is most like ${named(line)} and least like ${named(line.map((value) => -value))}.`;
}

// A map with its row and column numbers; what is drawn lies in `stage`.
class Panel {
  constructor(parent, title) {
    this.panel = element("div", "pe-panel", parent);
    element("div", "ex-title pe-title", this.panel, title);
    const axes = element("div", "pe-axes", this.panel);
    this.rowNumbers = element("div", "pe-rows", axes);
    this.stage = element("div", "pe-stage", axes);
    this.canvas = element("canvas", "", this.stage);
    this.columnNumbers = element("div", "pe-columns", axes);
    this.outline = element("div", "ex-outline", this.stage);
  }

  fit([rows, columns], width, height, scale) {
    [this.canvas.width, this.canvas.height] = [width, height];
    this.stage.style.width = `${width / scale}px`;
    this.stage.style.aspectRatio = `${width} / ${height}`;
    for (const [holder, count, length, space] of [
      [this.rowNumbers, rows, height, 13],
      [this.columnNumbers, columns, width, 20],
    ]) {
      const every = Math.ceil((space * count * scale) / length);
      for (let i = 0; i < count; i++) element("span", "", holder, i % every ? "" : String(i));
    }
    this.pen = this.canvas.getContext("2d");
    this.pen.imageSmoothingEnabled = false;
  }
}

class PositionView {
  constructor(model, el, change) {
    Object.assign(this, { model, change, grid: model.get("grid"), kinds: model.get("kinds") });
    this.palette = bytesOf(model.get("palette"));
    this.tables = floatsOf(model.get("tables"));
    this.held = false; // does the query stay where it is
    this.other = null; // the patch that it is compared with
    this.small = document.createElement("canvas"); // one pixel per patch, enlarged from here
    this.build(element("div", "explorer position-explorer", el));
    this.measure(window.devicePixelRatio || 1);
    for (const { stage } of [this.one, this.all]) this.followPointer(stage);
    onKeys(this.one.stage, (event) => this.press(event));
  }

  // ---- Parts ----

  build(root) {
    const { group, buttons } = addButtons(root, "Kind of positions", this.kinds, (n) => {
      this.model.set("kind", this.kinds[n]);
      this.model.save_changes();
    });
    group.classList.add("pe-kinds");
    group.hidden = buttons.length === 1;
    this.buttons = buttons;
    const panels = element("div", "pe-panels", root);
    this.one = new Panel(panels, "The outlined patch, compared with each");
    this.all = new Panel(panels, "Every patch, compared with each");
    this.one.stage.tabIndex = 0;
    keepKeys(this.one.stage);
    this.one.stage.setAttribute("role", "application");
    this.second = element("div", "ex-outline pe-second", this.one.stage);
    const legend = element("div", "pe-legend", this.one.panel);
    this.lowest = element("span", "", legend);
    element("span", "pe-bar", legend).style.background = gradient(this.palette);
    this.highest = element("span", "", legend);
    element("span", "pe-unit", legend, "cosine similarity");
    this.words = element("div", "pe-words", this.one.panel);
    this.words.setAttribute("aria-live", "polite");
    element("div", "ex-note pe-help", this.all.panel, HELP);
  }

  measure(scale) { // in device pixels
    const [rows, columns] = this.grid;
    const longest = Math.max(rows, columns);
    const cell = Math.max(1, Math.floor((SIDE * scale) / longest)); // a patch
    const pixel = Math.max(1, Math.floor((cell - 4 * scale) / longest)); // and in a small map
    const gap = Math.max(cell - longest * pixel, Math.ceil(4 * scale)); // between the small maps
    this.one.fit(this.grid, columns * cell, rows * cell, scale);
    this.all.fit(this.grid, columns * (columns * pixel + gap), rows * (rows * pixel + gap), scale);
    Object.assign(this, { scale, cell, pixel, gap });
  }

  // ---- Drawing ----

  line(query) { // its similarities with all
    const count = this.grid[0] * this.grid[1];
    return this.table.subarray(query * count, (query + 1) * count);
  }

  paint(query) {
    const shares = Array.from(this.line(query), (value) => (this.span > 0 ? (value - this.low) / this.span : 1));
    paintCells(this.small, this.grid, this.palette, shares);
    return this.small;
  }

  showQuery() {
    const [row, column] = this.model.get("query");
    const [rows, columns] = this.grid;
    const query = row * columns + column;
    const { pen } = this.one;
    const [wide, high] = [columns * this.cell, rows * this.cell];
    pen.drawImage(this.paint(query), 0, 0, wide, high);
    for (let i = 1; this.cell > 8 * this.scale && i < Math.max(rows, columns); i++) { // lines between the patches
      pen.clearRect(i * this.cell, 0, this.scale, high);
      pen.clearRect(0, i * this.cell, wide, this.scale);
    }
    for (const { outline } of [this.one, this.all]) placeOver(outline, [row, column], [1, 1], this.grid);
    this.second.hidden = this.other === null;
    if (this.other !== null) placeOver(this.second, cellOf(this.other, columns), [1, 1], this.grid);
    this.one.outline.classList.toggle("ex-held", this.held);
    this.words.textContent = sentence(this.line(query), query, this.other, columns);
    const label = `Patches of the ${this.model.get("kind")} positions. ${this.words.textContent}`;
    this.one.stage.setAttribute("aria-label", label);
  }

  showKind() {
    const [rows, columns] = this.grid;
    const at = this.kinds.indexOf(this.model.get("kind"));
    const size = (rows * columns) ** 2;
    this.table = this.tables.subarray(at * size, (at + 1) * size);
    this.low = this.table.reduce((a, b) => Math.min(a, b));
    this.span = this.table.reduce((a, b) => Math.max(a, b)) - this.low;
    this.lowest.textContent = inDigits(this.low);
    this.highest.textContent = inDigits(this.low + this.span);
    pressOnly(this.buttons, at);
    const [wide, high, half] = [columns * this.pixel, rows * this.pixel, Math.floor(this.gap / 2)];
    for (let query = 0; query < rows * columns; query++) {
      const [row, column] = cellOf(query, columns);
      const [left, top] = [column * (wide + this.gap) + half, row * (high + this.gap) + half];
      this.all.pen.drawImage(this.paint(query), left, top, wide, high);
    }
    this.showQuery();
  }

  // ---- Moving ----

  move(row, column) {
    this.change({ query: [clamp(row, this.grid[0]), clamp(column, this.grid[1])] });
  }

  compare(row, column) {
    this.other = clamp(row, this.grid[0]) * this.grid[1] + clamp(column, this.grid[1]);
    this.showQuery();
  }

  hold(yes) {
    [this.held, this.other] = [yes, null];
    this.showQuery();
  }

  followPointer(stage) {
    stage.addEventListener("pointermove", (event) => {
      const cell = cellUnder(event, this.grid);
      if (this.held) return this.compare(...cell);
      this.other = null;
      this.move(...cell);
    });
    stage.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.one.stage.focus({ preventScroll: true });
      if (!this.held) this.move(...cellUnder(event, this.grid));
      this.hold(!this.held);
    });
  }

  press({ key, shiftKey }) {
    const [row, column] = this.model.get("query");
    if (key in STEPS) {
      const [down, right] = STEPS[key];
      const from = this.other === null ? [row, column] : cellOf(this.other, this.grid[1]);
      if (shiftKey) this.compare(from[0] + down, from[1] + right);
      else this.move(row + down, column + right);
    } else if (key === "Home") this.move(row, 0);
    else if (key === "End") this.move(row, this.grid[1] - 1);
    else if (key === "Escape") this.hold(false);
    else return false;
    return true;
  }
}

function render({ model, el }) {
  const { change, stop } = changer(model);
  const view = new PositionView(model, el, change);
  const ended = listen(model, { "change:query": () => view.showQuery(), "change:kind": () => view.showKind() });
  view.showKind();
  return () => {
    ended();
    stop();
  };
}

export default { render };
