// Shows one of several pictures; sliders linked to at_0, at_1, at_2 choose which.

function render({ model, el }) {
  const pictures = model.get("files").map((file) => {
    const picture = new Image();
    picture.src = URL.createObjectURL(new Blob([file]));
    picture.style.cssText = `display: block; width: ${model.get("width")}px; max-width: 100%`;
    picture.decode().catch(() => {}); // now, so that none is decoded while a slider moves
    return picture;
  });
  const holder = document.createElement("div");
  const words = document.createElement("div");
  words.style.cssText = "min-height: 1.5em; padding: 4px 0; color: var(--jp-ui-font-color1, inherit)";
  words.setAttribute("aria-live", "polite");
  el.append(holder, words);

  const show = () => {
    const index = model.get("shape").reduce((sum, options, axis) => sum * options + model.get(`at_${axis}`), 0);
    words.textContent = model.get("words")[index];
    pictures[index].alt = words.textContent || "the picture for these settings";
    holder.replaceChildren(pictures[index]);
  };
  const choices = ["change:at_0", "change:at_1", "change:at_2"];
  choices.forEach((choice) => model.on(choice, show));
  show();
  return () => {
    choices.forEach((choice) => model.off(choice, show));
    pictures.forEach((picture) => URL.revokeObjectURL(picture.src));
  };
}

export default { render };
