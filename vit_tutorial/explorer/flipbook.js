// Shows one of several pictures, the one that the sliders choose.

import { changer, element, fileUrls, listen } from "./page.js";

function addSlider(parent, name, labels, move) {
  const box = element("label", "fb-field", parent);
  element("span", "", box, name);
  const input = element("input", "", box);
  Object.assign(input, { type: "range", min: 0, max: labels.length - 1 });
  const output = element("output", "", box);
  input.addEventListener("input", () => move(Number(input.value)));
  return (at) => {
    input.value = at;
    output.textContent = labels[at];
    input.setAttribute("aria-valuetext", labels[at]);
  };
}

function render({ model, el }) {
  const urls = fileUrls();
  const { change, stop } = changer(model);
  const root = element("div", "explorer flipbook", el);
  const labels = model.get("labels");
  const sliders = model.get("names").map((name, axis) => addSlider(root, name, labels[axis], (to) => {
    change({ at: model.get("at").with(axis, to) });
  }));
  const pictures = model.get("files").map((file) => {
    const picture = new Image();
    picture.src = urls.add(file);
    picture.style.width = `${model.get("width")}px`;
    picture.decode().catch(() => {}); // now, so that none is decoded while a slider moves
    return picture;
  });
  const holder = element("div", "", root);
  const words = element("p", "fb-words", root);
  words.setAttribute("aria-live", "polite");

  const show = () => {
    const at = model.get("at");
    sliders.forEach((set, axis) => set(at[axis]));
    const index = labels.reduce((sum, options, axis) => sum * options.length + at[axis], 0); // the last slider is the fastest
    words.textContent = model.get("descriptions")[index];
    pictures[index].alt = words.textContent || "the picture for these settings";
    holder.replaceChildren(pictures[index]);
  };
  const ended = listen(model, { "change:at": show });
  show();
  return () => {
    ended();
    stop();
    urls.revoke();
  };
}

export default { render };
