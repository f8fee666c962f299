// Shows one of several pictures; sliders linked to at_0, at_1, at_2 choose which.

import { element, fileUrls, listen } from "./page.js";

function render({ model, el }) {
  const urls = fileUrls();
  const pictures = model.get("files").map((file) => {
    const picture = new Image();
    picture.src = urls.add(file);
    picture.style.cssText = `display: block; width: ${model.get("width")}px; max-width: 100%`;
    picture.decode().catch(() => {}); // now, so that none is decoded while a slider moves
    return picture;
  });
  const holder = element("div", "", el);
  const words = element("div", "", el);
  words.style.cssText = "min-height: 1.5em; padding: 4px 0; color: var(--jp-ui-font-color1, inherit)";
  words.setAttribute("aria-live", "polite");

  const show = () => {
    const index = model.get("shape").reduce((sum, options, axis) => sum * options + model.get(`at_${axis}`), 0);
    words.textContent = model.get("words")[index];
    pictures[index].alt = words.textContent || "the picture for these settings";
    holder.replaceChildren(pictures[index]);
  };
  const ended = listen(model, { "change:at_0": show, "change:at_1": show, "change:at_2": show });
  show();
  return () => {
    ended();
    urls.revoke();
  };
}

export default { render };
