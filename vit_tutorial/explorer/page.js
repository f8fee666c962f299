// What the explorers share: elements, colours, a grid below the pointer, and ties to the model.

// ---- Numbers ----

export const clamp = (i, length) => Math.min(Math.max(i, 0), length - 1);
export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}%`;
export const argmax = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

export function bytesOf(value) {
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return new Uint8Array(value);
}

export const floatsOf = (value) => new Float32Array(bytesOf(value).slice().buffer); // copied: aligned

// ---- Elements ----

export function keepKeys(node) {
  node.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrow keys
}

export function element(name, className, parent, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  if (["BUTTON", "INPUT", "SELECT"].includes(made.tagName)) keepKeys(made);
  parent.append(made);
  return made;
}

export function addButton(parent, text, press, className = "ex-button") {
  const button = element("button", className, parent, text);
  button.type = "button";
  button.addEventListener("click", () => press());
  return button;
}

export function addGroup(parent, label) {
  const group = element("div", "ex-row", parent);
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", label);
  return group;
}

// A group of buttons; `press` gets the number of the one that was clicked.
export function addButtons(parent, label, words, press) {
  const group = addGroup(parent, label);
  return { group, buttons: words.map((word, n) => addButton(group, word, () => press(n))) };
}

export function setPressed(button, yes) {
  button.setAttribute("aria-pressed", String(yes));
}

export function pressOnly(buttons, chosen) {
  buttons.forEach((button, n) => setPressed(button, n === chosen));
}

// `press` gets what happens without Ctrl, Alt and Meta, and returns whether the key was one of its own.
export function onKeys(node, press) {
  node.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !press(event)) return;
    event.preventDefault();
    event.stopPropagation();
  });
}

// ---- Colours ----

// The colour of a share (0 to 1) in a palette of 256 colours: [red, green, blue].
export function colourAt(palette, share) {
  const at = 3 * Math.round(255 * share);
  return palette.subarray(at, at + 3);
}

// A palette from left to right, as a CSS background; `opacityOf` gets a share, too.
export function gradient(palette, opacityOf = () => 1) {
  const stops = Array.from({ length: 17 }, (_, i) => {
    const opacity = opacityOf(i / 16).toFixed(2);
    return `rgb(${colourAt(palette, i / 16).join(" ")} / ${opacity})`;
  });
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

// Paints the shares (0 to 1) of a grid's cells as one pixel each; `alphaOf` a share is up to 255.
export function paintCells(canvas, [rows, columns], palette, shares, alphaOf = () => 255) {
  if (canvas.width !== columns || canvas.height !== rows) [canvas.width, canvas.height] = [columns, rows];
  const image = new ImageData(columns, rows);
  shares.forEach((share, i) => {
    image.data.set(colourAt(palette, share), 4 * i);
    image.data[4 * i + 3] = alphaOf(share);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// ---- A grid ----

export const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export const cellOf = (i, columns) => [Math.floor(i / columns), i % columns];

export function nameOfCell(i, columns) {
  const [row, column] = cellOf(i, columns);
  return `row ${row}, column ${column}`;
}

// The cell below the pointer, or next to it where it is outside; `shift` cells up and left of it.
export function cellUnder(event, [rows, columns], shift = 0) {
  const box = event.currentTarget.getBoundingClientRect();
  const along = (share, length) => clamp(Math.floor(share * length - shift), length);
  return [
    along((event.clientY - box.top) / box.height, rows),
    along((event.clientX - box.left) / box.width, columns),
  ];
}

// Places what lies on a grid over some of its cells.
export function placeOver(node, [row, column], [high, wide], [rows, columns]) {
  node.style.top = `${(100 * row) / rows}%`;
  node.style.left = `${(100 * column) / columns}%`;
  node.style.height = `${(100 * high) / rows}%`;
  node.style.width = `${(100 * wide) / columns}%`;
}

// ---- The model ----

// Listens to the model; what is returned ends it.
export function listen(model, listeners) {
  for (const [event, listener] of Object.entries(listeners)) model.on(event, listener);
  return () => {
    for (const [event, listener] of Object.entries(listeners)) model.off(event, listener);
  };
}

function same(one, other) {
  if (!Array.isArray(one)) return one === other;
  return one.length === other.length && one.every((part, i) => part === other[i]);
}

// Sets what has changed in the model, whose listeners draw; Python hears where it came to rest.
export function changer(model) {
  let saving = 0;
  const change = (values) => {
    for (const [name, value] of Object.entries(values)) {
      if (same(value, model.get(name))) continue;
      model.set(name, value);
      clearTimeout(saving);
      saving = setTimeout(() => model.save_changes(), 200);
    }
  };
  return { change, stop: () => clearTimeout(saving) };
}

// Addresses of files in memory, which stay there until they are given back.
export function fileUrls() {
  let urls = [];
  return {
    add: (file, type) => {
      urls.push(URL.createObjectURL(new Blob([bytesOf(file)], { type })));
      return urls.at(-1);
    },
    revoke: () => {
      for (const url of urls) URL.revokeObjectURL(url);
      urls = [];
    },
  };
}
