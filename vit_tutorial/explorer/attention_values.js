// What every token attends to, computed from the weights of all layers and heads.

import { bytesOf, floatsOf } from "./page.js";

// A scene is one image in one network, with its weights (layers, heads, T, T).
export function makeScene(about, weights) {
  const tokens = Math.round(Math.sqrt(weights.length / about.layers / about.heads));
  return { ...about, tokens, weights, fused: new Map(), sorted: new Map() };
}

// Weights that came as bytes: shares of the largest weight of their row, which are `most`.
export function decodeWeights(bytes, most) {
  const [shares, largest] = [bytesOf(bytes), floatsOf(most)];
  const tokens = shares.length / largest.length;
  const weights = new Float32Array(shares.length);
  for (let row = 0, at = 0; row < largest.length; row++) {
    for (let i = 0; i < tokens; i++, at++) weights[at] = (shares[at] * largest[row]) / 255;
  }
  return weights;
}

export function headRow({ heads, tokens, weights }, layer, head, query) {
  const start = ((layer * heads + head) * tokens + query) * tokens;
  return weights.subarray(start, start + tokens);
}

function headColumn({ heads, tokens, weights }, layer, head, key) {
  const first = (layer * heads + head) * tokens;
  return Float32Array.from({ length: tokens }, (_, i) => weights[(first + i) * tokens + key]);
}

// Join the heads of a layer: (T, T). Computed once for each kind of fusion.
export function fuse(scene, layer, fusion) {
  const name = `${layer} ${fusion}`;
  if (scene.fused.has(name)) return scene.fused.get(name);
  const { tokens, heads, weights } = scene;
  const joined = new Float32Array(tokens * tokens);
  for (let head = 0, from = layer * heads * joined.length; head < heads; head++) {
    for (let at = 0; at < joined.length; at++, from++) {
      const value = weights[from];
      if (fusion === "mean") joined[at] += value / heads;
      else if (head === 0) joined[at] = value;
      else joined[at] = fusion === "max" ? Math.max(joined[at], value) : Math.min(joined[at], value);
    }
  }
  scene.fused.set(name, joined);
  return joined;
}

// Which of the smallest entries go: all below `limit`; of those that equal it the part `stays` stays.
function cut(scene, layer, fusion, discard) {
  const name = `${layer} ${fusion}`;
  const flat = fuse(scene, layer, fusion);
  const count = Math.floor(discard * flat.length);
  if (!count) return { limit: -1, stays: 1 };
  if (!scene.sorted.has(name)) scene.sorted.set(name, flat.slice().sort());
  const sorted = scene.sorted.get(name);
  const limit = sorted[count - 1];
  let [first, end] = [count - 1, count];
  while (sorted[first - 1] === limit) first--;
  while (sorted[end] === limit) end++;
  return { limit, stays: (end - count) / (end - first) };
}

// The step of rollout through one layer: the fused weights without the smallest, mixed with the
// identity, rows summing to 1. As values (T, T) without the diagonal's share, and what rows sum to.
function stepOf(scene, layer, { fusion, discard, residual }) {
  const { tokens } = scene;
  const flat = fuse(scene, layer, fusion);
  const { limit, stays } = cut(scene, layer, fusion, discard);
  const kept = new Float32Array(flat.length);
  const total = new Float64Array(tokens);
  for (let i = 0, at = 0; i < tokens; i++) {
    let sum = 0;
    for (let j = 0; j < tokens; j++, at++) {
      let value = flat[at];
      if (value <= limit && !(at === 0 && scene.num_prefix)) { // CLS -> CLS stays
        if (value < limit || !stays) continue;
        value *= stays;
      }
      kept[at] = value;
      sum += value;
    }
    total[i] = (1 - residual) * sum + residual;
  }
  return { kept, total };
}

// The tokens whose mean a query stands for: -1 all, -2 the patches, -3 what the head reads.
export function tokensOf(scene, query) {
  if (query === -3) return scene.head_reads;
  if (query >= 0) return [query];
  return [...Array(scene.tokens).keys()].slice(query === -2 ? scene.num_prefix : 0);
}

// Rollout from `query` down to the first layer: what reaches it from each token (T); "by" turns round who looks: how much of `query` reaches each token.
export function rollout(scene, { fusion = "mean", discard = 0, residual = 0.5, query = 0, last, by = false }) {
  const { tokens } = scene;
  const depth = (last ?? scene.layers - 1) + 1;
  let row = new Float64Array(tokens);
  const meant = tokensOf(scene, query);
  for (const token of meant) row[token] = 1 / meant.length;
  for (let n = 0; n < depth; n++) {
    const { kept, total } = stepOf(scene, by ? n : depth - 1 - n, { fusion, discard, residual });
    const next = new Float64Array(tokens);
    for (let i = 0, at = 0; i < tokens; i++, at += tokens) {
      if (total[i] <= 0) { // a row that lost everything passes its token on
        next[i] += row[i];
        continue;
      }
      if (by) {
        let sum = 0;
        for (let j = 0; j < tokens; j++) sum += kept[at + j] * row[j];
        next[i] = ((1 - residual) * sum + residual * row[i]) / total[i];
      } else if (row[i]) {
        const share = row[i] / total[i];
        for (let j = 0; j < tokens; j++) next[j] += (1 - residual) * share * kept[at + j];
        next[i] += residual * share;
      }
    }
    row = next;
  }
  return Float32Array.from(row);
}

// What one setting shows: a value for each token (T), prefix tokens included.
export function valuesOf(scene, setting) {
  const { show, layer, head, query, by } = setting;
  if (scene.relevances[show]) {
    const map = new Float32Array(scene.tokens);
    map.set(scene.relevances[show], scene.num_prefix);
    return map;
  }
  if (show === "rollout") return rollout(scene, { ...setting, last: layer });
  const heads = show === "head" ? [Math.min(head, scene.heads - 1)] : [...Array(scene.heads).keys()];
  const values = new Float32Array(scene.tokens);
  for (const one of heads) {
    const queries = tokensOf(scene, query);
    for (const each of queries) {
      const part = by && query >= 0 ? headColumn(scene, layer, one, each) : headRow(scene, layer, one, each);
      for (let i = 0; i < values.length; i++) values[i] += part[i] / heads.length / queries.length;
    }
  }
  return values;
}

// Where on the grid the patch with this number lies: they are not all there if tokens were dropped.
export const placeOf = ({ visible }, patch) => visible?.[patch] ?? patch;

// The same for the patches alone, each in its place on the grid; 0 where there is no token.
export function mapOf(scene, setting) {
  const values = valuesOf(scene, setting).subarray(scene.num_prefix);
  if (!scene.visible) return values;
  const map = new Float32Array(scene.rows * scene.columns);
  values.forEach((value, patch) => { map[placeOf(scene, patch)] = value; });
  return map;
}

// In rollout a patch keeps the most of itself.
export const ownPatch = (scene, { show, query }) => (show === "rollout" && query >= scene.num_prefix ? query : -1);
