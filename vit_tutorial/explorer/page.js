// What the module of every explorer begins with.

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export function bytesOf(value) {
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  return new Uint8Array(value);
}

function keepKeys(node) {
  node.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes the arrow keys
}

function element(name, className, parent, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  if (["BUTTON", "INPUT", "SELECT"].includes(made.tagName)) keepKeys(made);
  parent.append(made);
  return made;
}

