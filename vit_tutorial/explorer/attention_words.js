// What a picture of attention is said to show.

import { nameOfCell, percent } from "./page.js";
import { ownPatch, placeOf } from "./attention_values.js";

export function shareInWords(share) {
  const size = Math.abs(share);
  return percent(share, size >= 0.0995 ? 0 : size >= 0.00995 ? 1 : 2);
}

// How a number of a map is written: shares in percent; relevance has no unit.
export const numberForm = (scene, { show }) => (scene.relevances[show] ? (value) => String(Number(value.toPrecision(2))) : shareInWords);

export const MEANS = { [-1]: "the mean of all", [-2]: "the mean of patches", [-3]: "what the head reads" };

export function nameOfToken(scene, token) {
  if (token < 0) return MEANS[token];
  if (token < scene.num_prefix) return scene.prefix_names[token];
  return nameOfCell(placeOf(scene, token - scene.num_prefix), scene.columns);
}

export function sentence(scene, setting, values) {
  const { show, layer, head, query, by } = setting;
  const own = ownPatch(scene, setting);
  let most = own === scene.num_prefix ? own + 1 : scene.num_prefix;
  for (let i = most; i < values.length; i++) if (i !== own && values[i] > values[most]) most = i;
  const strongest = nameOfToken(scene, most);
  if (scene.relevances[show]) {
    const what = show === "rollout" ? "Rollout through all layers, from what the head reads" : `${show} for ${scene.target}`;
    return values[most] > 0 ? `${what}: the patch in ${strongest} counts most.` : `${what}: no patch counts.`;
  }
  const where = {
    head: `Layer ${scene.layer_numbers[layer]}, head ${Math.min(head, scene.heads - 1)}`,
    mean: `Layer ${scene.layer_numbers[layer]}, mean of its heads`,
    rollout: layer ? `Rollout through layers 0 to ${layer}` : "Rollout through layer 0",
  }[show];
  const from = `${where}: ${nameOfToken(scene, query)}`;
  const to = `${strongest} (${shareInWords(values[most])})`;
  if (by) return `${from} is attended to most by ${to}.`;
  if (own >= 0) return `${from} keeps ${shareInWords(values[own])} of itself, and takes most from ${to}.`;
  const patches = values.subarray(scene.num_prefix).reduce((sum, value) => sum + value, 0);
  const rest = scene.num_prefix ? ` All patches together get ${shareInWords(patches)}.` : "";
  return `${from} attends most to ${to}.${rest}`;
}
