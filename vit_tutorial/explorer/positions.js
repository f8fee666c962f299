// How alike positions are: one with all others, under the pointer or the arrow keys.
// All tables come once, as bytes; from then on nothing is asked of the kernel.

const SIDE = 300; // CSS pixels of a map's longer side

function number(value) {
  const text = value.toFixed(2);
  return Number(text) === 0 ? "0.00" : text.replace("-", "\u2212"); // a minus sign as wide as a digit
}

// A map with its row and column numbers; what is drawn lies in `stage`.
function addPanel(parent, title, rows, columns) {
  const panel = element("div", "pe-panel", parent);
  element("div", "ex-title pe-title", panel, title);
  const axes = element("div", "pe-axes", panel);
  const rowNumbers = element("div", "pe-rows", axes);
  const stage = element("div", "pe-stage", axes);
  const canvas = element("canvas", "", stage);
  const columnNumbers = element("div", "pe-columns", axes);
  const fit = (width, height, scale) => {
    [canvas.width, canvas.height] = [width, height];
    stage.style.width = `${width / scale}px`;
    stage.style.aspectRatio = `${width} / ${height}`;
    for (const [holder, count, length, space] of [
      [rowNumbers, rows, height, 13],
      [columnNumbers, columns, width, 20],
    ]) {
      const every = Math.ceil((space * count * scale) / length);
      for (let i = 0; i < count; i++) element("span", "", holder, i % every ? "" : String(i));
    }
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    return pen;
  };
  return { panel, stage, fit };
}

function render({ model, el }) {
  const [rows, columns] = model.get("grid");
  const count = rows * columns;
  const kinds = model.get("kinds");
  const palette = bytesOf(model.get("palette"));
  const tables = new Float32Array(bytesOf(model.get("tables")).slice().buffer);
  const scale = window.devicePixelRatio || 1;

  const root = element("div", "explorer position-explorer", el);
  const group = element("div", "ex-row pe-kinds", root);
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Kind of positions");
  group.hidden = kinds.length === 1;
  const buttons = kinds.map((kind) => {
    const button = element("button", "ex-button", group, kind);
    button.type = "button";
    button.addEventListener("click", () => {
      model.set("kind", kind);
      model.save_changes();
    });
    return button;
  });

  const panels = element("div", "pe-panels", root);
  const one = addPanel(panels, "The outlined patch, compared with each", rows, columns);
  const all = addPanel(panels, "Every patch, compared with each", rows, columns);
  one.stage.tabIndex = 0;
  keepKeys(one.stage);
  one.stage.setAttribute("role", "application");
  const legend = element("div", "pe-legend", one.panel);
  const lowest = element("span", "", legend);
  const bar = element("span", "pe-bar", legend);
  const highest = element("span", "", legend);
  element("span", "pe-unit", legend, "cosine similarity");
  const colour = (share) => palette.subarray(3 * Math.round(255 * share), 3 * Math.round(255 * share) + 3);
  const stops = Array.from({ length: 17 }, (_, i) => `rgb(${colour(i / 16).join(" ")})`);
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const words = element("div", "pe-words", one.panel);
  words.setAttribute("aria-live", "polite");
  element("div", "ex-note pe-help", all.panel, "Point at a patch, or click and use the arrow keys. To compare two, click one and point at another, or press Shift with the arrow keys. Escape lets go.");

  const outline = element("div", "ex-outline", one.stage);
  const second = element("div", "ex-outline pe-second", one.stage);
  const frame = element("div", "ex-outline", all.stage);

  // ---- Drawing ----

  const image = new ImageData(columns, rows);
  const small = document.createElement("canvas"); // one pixel per patch, enlarged from here
  [small.width, small.height] = [columns, rows];
  const longest = Math.max(rows, columns);
  const cell = Math.max(1, Math.floor((SIDE * scale) / longest)); // device pixels of a patch
  const pixel = Math.max(1, Math.floor((cell - 4 * scale) / longest)); // and in a small map
  const gap = Math.max(cell - longest * pixel, Math.ceil(4 * scale)); // between the small maps
  const penOfOne = one.fit(columns * cell, rows * cell, scale);
  const penOfAll = all.fit(columns * (columns * pixel + gap), rows * (rows * pixel + gap), scale);

  let table, low, span; // of the kind on show
  let [held, other] = [false, null]; // does the query stay; the patch that it is compared with

  function paint(query) {
    for (let i = 0; i < count; i++) {
      const share = span > 0 ? (table[query * count + i] - low) / span : 1;
      image.data.set(colour(share), 4 * i);
      image.data[4 * i + 3] = 255;
    }
    small.getContext("2d").putImageData(image, 0, 0);
    return small;
  }

  function place(mark, row, column) {
    mark.style.left = `${(100 * column) / columns}%`;
    mark.style.top = `${(100 * row) / rows}%`;
    mark.style.width = `${100 / columns}%`;
    mark.style.height = `${100 / rows}%`;
  }

  const nameOf = (i) => `row ${Math.floor(i / columns)}, column ${i % columns}`;
  const capital = (text) => text[0].toUpperCase() + text.slice(1);

  function say(query) {
    const of = (i) => table[query * count + i];
    if (other !== null) {
      return `${capital(nameOf(query))} and ${nameOf(other)}: similarity ${number(of(other))}.`;
    }
    let most = -1;
    let least = -1;
    for (let i = 0; i < count; i++) {
      if (i === query) continue;
      if (most < 0 || of(i) > of(most)) most = i;
      if (least < 0 || of(i) < of(least)) least = i;
    }
    const like = `most like ${nameOf(most)} (${number(of(most))})`;
    const unlike = `least like ${nameOf(least)} (${number(of(least))})`;
    return `${capital(nameOf(query))} is ${like} and ${unlike}.`;
  }

  function showQuery() {
    const [row, column] = model.get("query");
    const query = row * columns + column;
    penOfOne.drawImage(paint(query), 0, 0, columns * cell, rows * cell);
    for (let i = 1; cell > 8 * scale && i < longest; i++) { // lines between the patches
      penOfOne.clearRect(i * cell, 0, scale, rows * cell);
      penOfOne.clearRect(0, i * cell, columns * cell, scale);
    }
    place(outline, row, column);
    place(frame, row, column);
    second.hidden = other === null;
    if (other !== null) place(second, Math.floor(other / columns), other % columns);
    outline.classList.toggle("ex-held", held);
    words.textContent = say(query);
    one.stage.setAttribute("aria-label", `Patches of the ${model.get("kind")} positions. ${words.textContent}`);
  }

  function showKind() {
    const at = kinds.indexOf(model.get("kind"));
    table = tables.subarray(at * count * count, (at + 1) * count * count);
    low = table.reduce((a, b) => Math.min(a, b));
    span = table.reduce((a, b) => Math.max(a, b)) - low;
    lowest.textContent = number(low);
    highest.textContent = number(low + span);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === at)));
    for (let query = 0; query < count; query++) {
      const left = (query % columns) * (columns * pixel + gap) + Math.floor(gap / 2);
      const top = Math.floor(query / columns) * (rows * pixel + gap) + Math.floor(gap / 2);
      penOfAll.drawImage(paint(query), left, top, columns * pixel, rows * pixel);
    }
    showQuery();
  }

  // ---- Moving ----

  let saving = 0;
  const within = (i, length) => Math.min(Math.max(i, 0), length - 1);

  function move(row, column) {
    const [oldRow, oldColumn] = model.get("query");
    const query = [within(row, rows), within(column, columns)];
    if (query[0] === oldRow && query[1] === oldColumn) return;
    model.set("query", query); // its listener draws
    clearTimeout(saving);
    saving = setTimeout(() => model.save_changes(), 200); // Python hears where it came to rest
  }

  function compare(row, column) {
    other = within(row, rows) * columns + within(column, columns);
    showQuery();
  }

  function hold(yes) {
    [held, other] = [yes, null];
    showQuery();
  }

  function under(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    return [row, Math.floor(((event.clientX - box.left) / box.width) * columns)];
  }

  for (const { stage } of [one, all]) {
    stage.addEventListener("pointermove", (event) => {
      if (held) return compare(...under(event));
      other = null;
      move(...under(event));
    });
    stage.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      one.stage.focus({ preventScroll: true });
      if (!held) move(...under(event));
      hold(!held);
    });
  }
  one.stage.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const [row, column] = model.get("query");
    if (event.key in STEPS) {
      const [down, right] = STEPS[event.key];
      const from = other === null ? [row, column] : [Math.floor(other / columns), other % columns];
      if (event.shiftKey) compare(from[0] + down, from[1] + right);
      else move(row + down, column + right);
    } else if (event.key === "Home") move(row, 0);
    else if (event.key === "End") move(row, columns - 1);
    else if (event.key === "Escape") hold(false);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  model.on("change:query", showQuery);
  model.on("change:kind", showKind);
  showKind();
  return () => {
    clearTimeout(saving);
    model.off("change:query", showQuery);
    model.off("change:kind", showKind);
  };
}

export default { render };
