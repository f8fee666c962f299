// A grey square hides a part of a picture, and every network says what it sees then.
// All answers come once, as bytes; from then on nothing is asked of the kernel.

import {
  STEPS, addButton, addButtons, argmax, bytesOf, cellOf, cellUnder, changer, clamp, element, fileUrls, floatsOf, gradient,
  keepKeys, listen, onKeys, paintCells, percent, placeOver, pressOnly, setPressed,
} from "./page.js";

const NOWHERE = [-1, -1]; // the place of no square

// Where the answers with a square of `size` patches, first row and column given, lie among all.
export function indexOf([rows, columns], sizes, size, [row, column]) {
  let first = 1; // 0 is the whole picture
  for (const other of sizes) {
    if (other === size) return first + row * (columns - size + 1) + column;
    first += (rows - other + 1) * (columns - other + 1);
  }
  return 0;
}

function addSwatch(parent, n, text = "") { // the colour of a network, and its name
  element("span", "oe-swatch", parent).style.background = `var(--network-${n})`;
  return element("span", "", parent, text);
}

class OcclusionView {
  constructor(model, el, change, urls) {
    Object.assign(this, { model, change, held: false });
    for (const name of ["names", "classes", "sizes", "titles", "grid"]) this[name] = model.get(name);
    this.palette = bytesOf(model.get("palette"));
    this.tables = model.get("answers").map(floatsOf);
    this.pictures = model.get("pictures").map((file) => urls.add(file, "image/jpeg"));
    const root = element("div", "explorer occlusion-explorer", el);
    this.addBar(root);
    const main = element("div", "oe-main", root);
    this.addStage(element("div", "oe-left", main));
    const right = element("div", "oe-right", main);
    this.addLegend(right);
    this.addTable(right);
    this.addMaps(element("div", "oe-maps", right));
    this.addHelp(root);
    this.addListeners();
  }

  // ---- Parts ----

  addBar(root) {
    const bar = element("div", "ex-row oe-bar", root);
    const buttons = (label, words, press) => {
      const made = addButtons(bar, label, words, press);
      made.group.prepend(element("span", "ex-title", made.group, label));
      return made.buttons;
    };
    const { titles, sizes } = this;
    this.imageButtons = titles.length > 1 ? buttons("Picture", titles, (i) => this.change({ image: i })) : [];
    this.sizeButtons = buttons("Square", sizes.map((k) => `${k}×${k}`), (i) => this.change({ size: sizes[i] }));
  }

  addStage(parent) {
    this.stage = element("div", "oe-stage", parent);
    this.stage.tabIndex = 0;
    keepKeys(this.stage);
    this.stage.setAttribute("role", "application");
    this.photo = element("img", "oe-photo", this.stage);
    this.photo.draggable = false;
    this.photo.alt = "";
    this.square = element("div", "ex-outline", this.stage);
    this.words = element("div", "oe-words", parent);
    this.words.setAttribute("aria-live", "polite");
  }

  addLegend(parent) {
    const legend = element("div", "ex-row oe-legend", parent);
    this.names.forEach((name, n) => addSwatch(element("span", "oe-name", legend), n, name));
    element("span", "oe-name ex-note", legend, "the line: without a square");
  }

  addTable(parent) {
    const table = element("div", "oe-table", parent);
    this.rowsOf = this.classes.map((label, c) => {
      const button = addButton(table, label, () => this.change({ watched: c }), "ex-button oe-class");
      const bars = element("div", "oe-bars", table);
      const numbers = element("div", "oe-numbers", table);
      return this.names.map((_, n) => {
        const track = element("div", "oe-track", bars);
        const fill = element("div", "oe-fill", track);
        fill.style.background = `var(--network-${n})`;
        return { button, fill, mark: element("div", "oe-mark", track), number: element("div", "", numbers) };
      });
    });
  }

  addMaps(maps) {
    this.mapTitle = element("div", "ex-title oe-map-title", maps);
    const smalls = element("div", "ex-row oe-smalls", maps);
    this.smalls = this.names.map((_, n) => {
      const box = element("div", "oe-map", smalls);
      const title = addSwatch(element("div", "oe-name", box), n);
      const canvas = element("canvas", "", box);
      canvas.setAttribute("role", "img");
      return { title, canvas };
    });
    const ramp = element("div", "ex-row ex-note", maps);
    element("span", "", ramp, "0");
    element("span", "oe-ramp", ramp).style.background = gradient(this.palette);
    this.rampMost = element("span", "", ramp);
  }

  addHelp(root) {
    const { sizes, classes } = this;
    element("div", "ex-note oe-help", root, `Point at the picture or at a map; a click holds the square. With the keyboard: arrow keys move it, ${sizes[0]} to ${sizes[sizes.length - 1]} set its size, Escape takes it away. Click a class to see where it hangs on the picture. The networks know these ${classes.length} classes and no other.`);
  }

  // ---- State ----

  // The square's first row and column, on the grid whole.
  onGrid([row, column]) {
    const size = this.model.get("size");
    return [clamp(row, this.grid[0] - size + 1), clamp(column, this.grid[1] - size + 1)];
  }

  squareAt() { // null for none
    const place = this.model.get("place");
    return place[0] < 0 ? null : this.onGrid(place);
  }

  index(at) {
    return at ? indexOf(this.grid, this.sizes, this.model.get("size"), at) : 0;
  }

  answer(n, index) {
    const table = this.tables[this.model.get("image")];
    const start = ((n * table.length) / this.names.length) + index * this.classes.length;
    return table.subarray(start, start + this.classes.length);
  }

  // ---- Drawing ----

  say(at) {
    const size = this.model.get("size");
    const answers = this.names.map((name, n) => {
      const [now, before] = [this.answer(n, this.index(at)), this.answer(n, 0)];
      const c = argmax(now);
      const was = at ? ` (${percent(before[c])} without the square)` : "";
      return `${name}: ${this.classes[c]} ${percent(now[c])}${was}`;
    });
    const where = at ? `${size}×${size} patches grey from row ${at[0]}, column ${at[1]}` : "No square";
    return `${where}. ${answers.join("; ")}.`;
  }

  showAnswers() {
    const at = this.squareAt();
    const size = this.model.get("size");
    this.square.hidden = !at;
    if (at) placeOver(this.square, at, [size, size], this.grid);
    this.square.classList.toggle("ex-held", this.held);
    this.names.forEach((_, n) => {
      const [now, before] = [this.answer(n, this.index(at)), this.answer(n, 0)];
      const winner = argmax(now);
      this.classes.forEach((_, c) => {
        const { fill, mark, number } = this.rowsOf[c][n];
        fill.style.width = `${100 * now[c]}%`;
        mark.style.left = `${100 * before[c]}%`;
        number.textContent = percent(now[c]);
        number.classList.toggle("oe-best", c === winner);
      });
    });
    this.words.textContent = this.say(at);
    this.stage.setAttribute("aria-label", `${this.titles[this.model.get("image")]}. ${this.words.textContent}`);
  }

  showMaps() {
    const [size, watched] = [this.model.get("size"), this.model.get("watched")];
    const [rows, columns] = this.grid.map((length) => length - size + 1);
    const falls = this.names.map((_, n) => Float32Array.from({ length: rows * columns }, (_, i) =>
      this.answer(n, 0)[watched] - this.answer(n, this.index(cellOf(i, columns)))[watched]));
    const most = Math.max(1e-9, ...falls.map((fall) => Math.max(...fall)));
    this.mapTitle.textContent = `How far "${this.classes[watched]}" falls, by place`;
    this.rampMost.textContent = percent(most);
    this.smalls.forEach(({ title, canvas }, n) => {
      paintCells(canvas, [rows, columns], this.palette, Array.from(falls[n], (fall) => Math.max(fall, 0) / most));
      const text = `${this.names[n]}: up to ${percent(Math.max(0, ...falls[n]))}`;
      title.textContent = text;
      canvas.setAttribute("aria-label", text);
    });
    this.rowsOf.forEach((row, c) => setPressed(row[0].button, c === watched));
    pressOnly(this.sizeButtons, this.sizes.indexOf(size));
    this.showAnswers();
  }

  showImage() {
    const image = this.model.get("image");
    this.photo.src = this.pictures[image];
    this.square.style.background = this.model.get("greys")[image];
    pressOnly(this.imageButtons, image);
    this.showMaps();
  }

  // ---- Moving ----

  hold(yes) {
    this.held = yes;
    this.showAnswers();
  }

  followPointer(node, where) {
    const move = (event) => { if (!this.held) this.change({ place: this.onGrid(where(event)) }); };
    node.addEventListener("pointermove", move);
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.stage.focus({ preventScroll: true });
      move(event);
      this.hold(!this.held);
    });
  }

  press({ key }) {
    if (key in STEPS) {
      const size = this.model.get("size");
      const [down, across] = STEPS[key];
      const middle = this.grid.map((length) => Math.floor((length - size) / 2));
      const at = this.squareAt();
      this.held = true; // or the pointer, resting on the picture, would take it back
      this.change({ place: at ? this.onGrid([at[0] + down, at[1] + across]) : middle });
    } else if (this.sizes.includes(Number(key))) this.change({ size: Number(key) });
    else if (key === "Escape") {
      this.held = false;
      this.change({ place: NOWHERE });
    } else return false;
    this.showAnswers();
    return true;
  }

  addListeners() {
    const half = () => (this.model.get("size") - 1) / 2; // the pointer is in the middle of the square
    this.followPointer(this.stage, (event) => cellUnder(event, this.grid, half()));
    for (const { canvas } of this.smalls) {
      this.followPointer(canvas, (event) => cellUnder(event, [canvas.height, canvas.width]));
    }
    this.stage.addEventListener("pointerleave", () => { if (!this.held) this.change({ place: NOWHERE }); });
    onKeys(this.stage, (event) => this.press(event));
  }
}

function render({ model, el }) {
  const [urls, { change, stop }] = [fileUrls(), changer(model)];
  const view = new OcclusionView(model, el, change, urls);
  const ended = listen(model, {
    "change:image": () => view.showImage(),
    "change:size": () => view.showMaps(),
    "change:watched": () => view.showMaps(),
    "change:place": () => view.showAnswers(),
  });
  view.showImage();
  return () => {
    ended();
    stop();
    urls.revoke();
  };
}

export default { render };
