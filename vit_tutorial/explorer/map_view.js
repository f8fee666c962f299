// A map shown twice: a spotlight on the photograph, and beside it the map itself with its scale.
// The same as `plots.spotlight` in Python.

import { cellOf, element, gradient, keepKeys, paintCells, placeOver } from "./page.js";

const PERCENTILES = [5, 98.5]; // of a map's numbers, where its scale begins and ends
const DARK = 0.22; // of its lightness is left of what is not attended to

function percentile(sorted, percent) { // between two numbers, as NumPy does
  const at = ((sorted.length - 1) * percent) / 100;
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

export function scaleOf(values) {
  const sorted = Float64Array.from(values).sort();
  return PERCENTILES.map((percent) => percentile(sorted, percent));
}

// Each number's place on the scale, from 0 to 1. Where the scale has no length, more than it is 1.
export function sharesOf(values, [low, high]) {
  if (high > low) return Array.from(values, (value) => Math.min(Math.max((value - low) / (high - low), 0), 1));
  const even = values.every((value) => value === values[0]);
  const nothing = even ? Math.min(values[0], 0) : low;
  return Array.from(values, (value) => Number(value > nothing));
}

// Where the greatest number is; -1 if several are as great.
export function strongestOf(values) {
  const most = Math.max(...values);
  const first = values.indexOf(most);
  return values.indexOf(most, first + 1) < 0 ? first : -1;
}

function darkened(photo) { // grey, and DARK of its lightness
  const dark = document.createElement("canvas");
  [dark.width, dark.height] = [photo.width, photo.height];
  const image = photo.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, photo.width, photo.height);
  const { data } = image;
  for (let at = 0; at < data.length; at += 4) {
    const grey = DARK * (0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]);
    data[at] = data[at + 1] = data[at + 2] = grey;
  }
  dark.getContext("2d").putImageData(image, 0, 0);
  return dark;
}

class Stage { // a canvas, and on it a ring and the outline of a patch
  constructor(parent) {
    this.box = element("div", "mv-stage", parent);
    this.canvas = element("canvas", "", this.box);
    this.canvas.setAttribute("aria-hidden", "true");
    this.ring = element("div", "mv-ring", this.box);
  }

  fit(width, height, scale) {
    this.box.style.aspectRatio = `${width} / ${height}`;
    [this.canvas.width, this.canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    this.pen = this.canvas.getContext("2d");
  }
}

export class MapView {
  constructor(parent, id) {
    this.box = element("div", "mv", parent);
    const half = (title) => {
      const made = element("div", "mv-half", this.box);
      element("div", "ex-note mv-title", made, title);
      return made;
    };
    const left = half("");
    this.title = left.firstChild;
    this.lit = new Stage(left);
    const right = half("the map itself");
    const axes = element("div", "mv-axes", right);
    this.rowNumbers = element("div", "ex-rows", axes);
    this.raw = new Stage(axes);
    this.columnNumbers = element("div", "ex-columns", axes);
    this.addLegend(right);
    this.addGrid(id);
    [this.photo, this.masked, this.small] = [0, 1, 2].map(() => document.createElement("canvas"));
    this.stages = [this.lit, this.raw];
  }

  addLegend(parent) {
    const legend = element("div", "ex-note mv-legend", parent);
    this.least = element("span", "", legend);
    this.ramp = element("span", "mv-ramp", legend);
    this.most = element("span", "", legend);
  }

  addGrid(id) { // for a screen reader, a grid in which one cell is chosen
    this.row = element("div", "", this.lit.box);
    this.cell = element("div", "ex-outline", this.row);
    this.copy = element("div", "ex-outline", this.raw.box);
    this.row.setAttribute("role", "row");
    this.cell.setAttribute("role", "gridcell");
    this.cell.id = `${id}-cell`;
    this.lit.box.setAttribute("role", "grid");
    this.lit.box.setAttribute("aria-activedescendant", this.cell.id);
    this.lit.box.tabIndex = 0;
    keepKeys(this.lit.box);
  }

  // Makes room for both, each `width` CSS pixels wide; the picture is `about.width` x `about.height`.
  layout(about, width, scale) {
    this.grid = [about.rows, about.columns];
    const height = (width * about.height) / about.width;
    this.box.style.setProperty("--half", `${width}px`);
    for (const stage of this.stages) stage.fit(width, height, scale);
    for (const canvas of [this.photo, this.masked]) {
      [canvas.width, canvas.height] = [this.lit.canvas.width, this.lit.canvas.height];
    }
    this.lit.box.setAttribute("aria-rowcount", about.rows);
    this.lit.box.setAttribute("aria-colcount", about.columns);
    for (const [holder, count, length, space] of [
      [this.rowNumbers, about.rows, height, 13], [this.columnNumbers, about.columns, width, 20],
    ]) {
      holder.replaceChildren();
      const every = Math.ceil((space * count) / length);
      for (let i = 0; i < count; i++) element("span", "", holder, i % every ? "" : String(i));
    }
  }

  setPicture(picture) {
    const pen = this.photo.getContext("2d", { willReadFrequently: true });
    pen.imageSmoothingQuality = "high";
    pen.drawImage(picture, 0, 0, this.photo.width, this.photo.height);
    this.dark = darkened(this.photo);
  }

  // Draws a map of the patches: `as` is "spotlight", "overlay" or "photograph"; `form` writes a number.
  // On a scale with 0 in its middle, what lies above 0 is bright, where `bright` says.
  draw(values, palette, form, as = "spotlight", scale = scaleOf(values), bright = "it looks") {
    const shares = sharesOf(values, scale);
    const lit = scale[0] === -scale[1] ? sharesOf(values, [0, scale[1]]) : shares;
    this.title.textContent = { spotlight: `bright where ${bright}`, overlay: `painted where ${bright}`, photograph: "the picture" }[as];
    this.drawCells(this.raw.pen, shares, palette, () => 255);
    this.drawPhoto(lit, palette, as);
    [this.least.textContent, this.most.textContent] = [`≤ ${form(scale[0])}`, `≥ ${form(scale[1])}`];
    this.ramp.style.background = gradient(palette);
    const most = strongestOf(values);
    for (const { ring } of this.stages) {
      ring.hidden = most < 0;
      if (most >= 0) placeOver(ring, cellOf(most, this.grid[1]), [1, 1], this.grid);
    }
  }

  drawCells(pen, shares, palette, alphaOf) {
    paintCells(this.small, this.grid, palette, shares, alphaOf);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(this.small, 0, 0, pen.canvas.width, pen.canvas.height);
  }

  drawPhoto(shares, palette, as) {
    const { pen } = this.lit;
    if (!this.dark) return; // the picture is still being read
    pen.drawImage(as === "spotlight" ? this.dark : this.photo, 0, 0);
    if (as === "overlay") this.drawCells(pen, shares, palette, (share) => 204 * share);
    if (as !== "spotlight") return;
    const masked = this.masked.getContext("2d"); // the photograph, as opaque as the map is great
    masked.globalCompositeOperation = "copy";
    this.drawCells(masked, shares, palette, (share) => 255 * share);
    masked.globalCompositeOperation = "source-in";
    masked.drawImage(this.photo, 0, 0);
    pen.drawImage(this.masked, 0, 0);
  }

  // Outlines a patch (its number, or -1 for none), and says its name.
  outline(patch, name, held = false) {
    for (const node of [this.cell, this.copy]) {
      node.classList.toggle("mv-none", patch < 0); // still there for a screen reader
      node.classList.toggle("ex-held", held);
      if (patch >= 0) placeOver(node, cellOf(patch, this.grid[1]), [1, 1], this.grid);
    }
    const [row, column] = cellOf(Math.max(patch, 0), this.grid[1]);
    this.row.setAttribute("aria-rowindex", row + 1);
    this.cell.setAttribute("aria-colindex", column + 1);
    this.cell.setAttribute("aria-label", name);
  }
}
