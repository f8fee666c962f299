// What every token attends to, computed from weights that came as bytes.

import { bytesOf, floatsOf } from "./page.js";

// A scene is one image in one network. Its weights are bytes (layers, heads, T, T): shares of the
// largest weight of their row, and `most` (layers, heads, T) are these largest weights.
export function makeScene(about, weights, most) {
  const tokens = about.num_prefix + about.rows * about.columns;
  const scene = { ...about, tokens, bytes: bytesOf(weights), most: floatsOf(most) };
  return { ...scene, fused: new Map(), sorted: new Map() };
}

export function headRow(scene, layer, head, query) {
  const { tokens } = scene;
  const row = (layer * scene.heads + head) * tokens + query;
  const scale = scene.most[row] / 255;
  const values = new Float32Array(tokens);
  for (let i = 0, at = row * tokens; i < tokens; i++, at++) values[i] = scene.bytes[at] * scale;
  return values;
}

function headColumn(scene, layer, head, key) {
  const { tokens } = scene;
  const first = (layer * scene.heads + head) * tokens;
  const column = new Float32Array(tokens);
  for (let i = 0; i < tokens; i++) {
    column[i] = (scene.bytes[(first + i) * tokens + key] * scene.most[first + i]) / 255;
  }
  return column;
}

// Join the heads of a layer: (T, T). Computed once for each kind of fusion.
export function fuse(scene, layer, fusion) {
  const name = `${layer} ${fusion}`;
  if (scene.fused.has(name)) return scene.fused.get(name);
  const { tokens, heads } = scene;
  const joined = new Float32Array(tokens * tokens);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < tokens; i++) {
      const row = (layer * heads + head) * tokens + i;
      const scale = scene.most[row] / 255;
      for (let j = 0; j < tokens; j++) {
        const value = scene.bytes[row * tokens + j] * scale;
        const at = i * tokens + j;
        if (fusion === "mean") joined[at] += value / heads;
        else if (head === 0) joined[at] = value;
        else joined[at] = fusion === "max" ? Math.max(joined[at], value) : Math.min(joined[at], value);
      }
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

// In rollout a patch keeps the most of itself.
export const ownPatch = (scene, { show, query }) => (show === "rollout" && query >= scene.num_prefix ? query : -1);
