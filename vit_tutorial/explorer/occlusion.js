// A grey square hides a part of a picture, and every network says what it sees then.
// All answers come once, as bytes; from then on nothing is asked of the kernel.

// Where the answers with a square of `size` patches, first row and column given, lie among all.
export function indexOf([rows, columns], sizes, size, [row, column]) {
  let first = 1; // 0 is the whole picture
  for (const other of sizes) {
    if (other === size) return first + row * (columns - size + 1) + column;
    first += (rows - other + 1) * (columns - other + 1);
  }
  return 0;
}

const within = (i, length) => Math.min(Math.max(i, 0), length - 1);
const percent = (share) => `${Math.round(100 * share)}%`;

function buttonRow(parent, label, words, press) {
  const group = element("div", "ex-row", parent);
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", label);
  element("span", "ex-title", group, label);
  return words.map((word, i) => {
    const button = element("button", "ex-button", group, word);
    button.type = "button";
    button.addEventListener("click", () => press(i));
    return button;
  });
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const [names, classes, sizes, titles] = ["names", "classes", "sizes", "titles"].map(get);
  const grid = get("grid");
  const palette = bytesOf(get("palette"));
  const tables = get("answers").map((part) => new Float32Array(bytesOf(part).slice().buffer));
  const places = tables[0].length / names.length / classes.length;
  const urls = get("pictures").map((file) => URL.createObjectURL(new Blob([bytesOf(file)], { type: "image/jpeg" })));

  const root = element("div", "explorer occlusion-explorer", el);
  const bar = element("div", "ex-row oe-bar", root);
  const imageButtons = titles.length > 1 ? buttonRow(bar, "Picture", titles, (i) => change({ image: i })) : [];
  const sizeButtons = buttonRow(bar, "Square", sizes.map((k) => `${k}×${k}`), (i) => change({ size: sizes[i] }));

  const main = element("div", "oe-main", root);
  const left = element("div", "oe-left", main);
  const stage = element("div", "oe-stage", left);
  stage.tabIndex = 0;
  keepKeys(stage);
  stage.setAttribute("role", "application");
  const photo = element("img", "oe-photo", stage);
  photo.draggable = false;
  photo.alt = "";
  const square = element("div", "ex-outline", stage);
  const words = element("div", "oe-words", left);
  words.setAttribute("aria-live", "polite");

  const right = element("div", "oe-right", main);
  const legend = element("div", "ex-row oe-legend", right);
  names.forEach((name, n) => {
    const item = element("span", "oe-name", legend);
    element("span", "oe-swatch", item).style.background = `var(--network-${n})`;
    element("span", "", item, name);
  });
  element("span", "oe-name ex-note", legend, "the line: without a square");
  const table = element("div", "oe-table", right);
  const rowsOf = classes.map((label, c) => {
    const button = element("button", "ex-button oe-class", table, label);
    button.type = "button";
    button.addEventListener("click", () => change({ watched: c }));
    const bars = element("div", "oe-bars", table);
    const numbers = element("div", "oe-numbers", table);
    return names.map((_, n) => {
      const track = element("div", "oe-track", bars);
      const fill = element("div", "oe-fill", track);
      fill.style.background = `var(--network-${n})`;
      return { button, fill, mark: element("div", "oe-mark", track), number: element("div", "", numbers) };
    });
  });

  const maps = element("div", "oe-maps", right);
  const mapTitle = element("div", "ex-title oe-map-title", maps);
  const smallsRow = element("div", "ex-row oe-smalls", maps);
  const smalls = names.map((name, n) => {
    const box = element("div", "oe-map", smallsRow);
    const title = element("div", "oe-name", box);
    element("span", "oe-swatch", title).style.background = `var(--network-${n})`;
    const said = element("span", "", title);
    const canvas = element("canvas", "", box);
    canvas.setAttribute("role", "img");
    return { box, said, canvas };
  });
  const ramp = element("div", "ex-row ex-note", maps);
  element("span", "", ramp, "0");
  const stops = Array.from({ length: 9 }, (_, i) => `rgb(${palette.subarray(3 * Math.round((255 * i) / 8), 3 * Math.round((255 * i) / 8) + 3).join(" ")})`);
  element("span", "oe-ramp", ramp).style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const rampMost = element("span", "", ramp);
  element("div", "ex-note oe-help", root, `Point at the picture or at a map; a click holds the square. With the keyboard: arrow keys move it, ${sizes[0]} to ${sizes[sizes.length - 1]} set its size, Escape takes it away. Click a class to see where it hangs on the picture. The networks know these ${classes.length} classes and no other.`);

  // ---- State ----

  let held = false;
  let saving = 0;

  function change(values) {
    for (const [name, value] of Object.entries(values)) {
      const old = get(name);
      if (Array.isArray(value) ? value.every((part, i) => part === old[i]) : value === old) continue;
      model.set(name, value); // its listener draws
    }
    clearTimeout(saving);
    saving = setTimeout(() => model.save_changes(), 200); // Python hears where it came to rest
  }

  // The square's first row and column, on the grid whole; null for none.
  function squareAt() {
    const [row, column] = get("place");
    if (row < 0) return null;
    const size = get("size");
    return [within(row, grid[0] - size + 1), within(column, grid[1] - size + 1)];
  }

  function answer(n, index) {
    const start = (n * places + index) * classes.length;
    return tables[get("image")].subarray(start, start + classes.length);
  }

  const best = (shares) => shares.reduce((most, share, i) => (share > shares[most] ? i : most), 0);

  // ---- Drawing ----

  function say(at) {
    const size = get("size");
    const index = at ? indexOf(grid, sizes, size, at) : 0;
    const said = names.map((name, n) => {
      const [now, whole] = [answer(n, index), answer(n, 0)];
      const c = best(now);
      const was = at ? ` (${percent(whole[c])} without the square)` : "";
      return `${name}: ${classes[c]} ${percent(now[c])}${was}`;
    });
    const where = at ? `${size}×${size} patches grey from row ${at[0]}, column ${at[1]}` : "No square";
    return `${where}. ${said.join("; ")}.`;
  }

  function showAnswers() {
    const at = squareAt();
    const size = get("size");
    const index = at ? indexOf(grid, sizes, size, at) : 0;
    square.hidden = !at;
    if (at) {
      square.style.top = `${(100 * at[0]) / grid[0]}%`;
      square.style.left = `${(100 * at[1]) / grid[1]}%`;
      square.style.height = `${(100 * size) / grid[0]}%`;
      square.style.width = `${(100 * size) / grid[1]}%`;
    }
    square.classList.toggle("ex-held", held);
    names.forEach((_, n) => {
      const [now, whole] = [answer(n, index), answer(n, 0)];
      const winner = best(now);
      classes.forEach((_, c) => {
        const { fill, mark, number } = rowsOf[c][n];
        fill.style.width = `${100 * now[c]}%`;
        mark.style.left = `${100 * whole[c]}%`;
        number.textContent = percent(now[c]);
        number.classList.toggle("oe-best", c === winner);
      });
    });
    words.textContent = say(at);
    stage.setAttribute("aria-label", `${titles[get("image")]}. ${words.textContent}`);
  }

  function showMaps() {
    const [size, watched] = [get("size"), get("watched")];
    const [rows, columns] = [grid[0] - size + 1, grid[1] - size + 1];
    const falls = names.map((_, n) => Float32Array.from({ length: rows * columns }, (_, i) =>
      answer(n, 0)[watched] - answer(n, indexOf(grid, sizes, size, [Math.floor(i / columns), i % columns]))[watched]));
    const most = Math.max(1e-9, ...falls.map((fall) => Math.max(...fall)));
    mapTitle.textContent = `How far "${classes[watched]}" falls, by place`;
    rampMost.textContent = percent(most);
    smalls.forEach(({ said, canvas }, n) => {
      [canvas.width, canvas.height] = [columns, rows];
      const image = new ImageData(columns, rows);
      for (let i = 0; i < rows * columns; i++) {
        const share = Math.round((255 * Math.max(falls[n][i], 0)) / most);
        image.data.set(palette.subarray(3 * share, 3 * share + 3), 4 * i);
        image.data[4 * i + 3] = 255;
      }
      canvas.getContext("2d").putImageData(image, 0, 0);
      const text = `${names[n]}: up to ${percent(Math.max(0, ...falls[n]))}`;
      said.textContent = text;
      canvas.setAttribute("aria-label", text);
    });
    rowsOf.forEach((row, c) => row[0].button.setAttribute("aria-pressed", String(c === watched)));
    sizeButtons.forEach((button, i) => button.setAttribute("aria-pressed", String(sizes[i] === size)));
    showAnswers();
  }

  function showImage() {
    photo.src = urls[get("image")];
    square.style.background = get("greys")[get("image")];
    imageButtons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === get("image"))));
    showMaps();
  }

  // ---- Moving ----

  function under(event, [rows, columns], size) { // the pointer is in the middle of the square
    const box = event.currentTarget.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows - (size - 1) / 2);
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns - (size - 1) / 2);
    return [within(row, grid[0] - get("size") + 1), within(column, grid[1] - get("size") + 1)];
  }

  function hold(yes) {
    held = yes;
    showAnswers();
  }

  function followPointer(node, where) {
    node.addEventListener("pointermove", (event) => { if (!held) change({ place: where(event) }); });
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      stage.focus({ preventScroll: true });
      if (!held) change({ place: where(event) });
      hold(!held);
    });
  }
  followPointer(stage, (event) => under(event, grid, get("size")));
  for (const { canvas } of smalls) {
    followPointer(canvas, (event) => under(event, [canvas.height, canvas.width], 1));
  }
  stage.addEventListener("pointerleave", () => { if (!held) change({ place: [-1, -1] }); });

  stage.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = squareAt();
    if (event.key in STEPS) {
      const [down, across] = STEPS[event.key];
      const size = get("size");
      const from = at ?? [Math.floor((grid[0] - size) / 2) - down, Math.floor((grid[1] - size) / 2) - across];
      held = true; // or the pointer, resting on the picture, would take it back
      change({ place: [within(from[0] + down, grid[0] - size + 1), within(from[1] + across, grid[1] - size + 1)] });
    } else if (sizes.includes(Number(event.key))) change({ size: Number(event.key) });
    else if (event.key === "Escape") {
      held = false;
      change({ place: [-1, -1] });
    } else return;
    showAnswers();
    event.preventDefault();
    event.stopPropagation();
  });

  const listeners = { image: showImage, size: showMaps, watched: showMaps, place: showAnswers };
  for (const [name, listener] of Object.entries(listeners)) model.on(`change:${name}`, listener);
  showImage();
  return () => {
    clearTimeout(saving);
    for (const url of urls) URL.revokeObjectURL(url);
    for (const [name, listener] of Object.entries(listeners)) model.off(`change:${name}`, listener);
  };
}

export default { render };
