// Gradients of one logit with respect to the attention weights of every layer, and what they say:
// the backward pass of vit.js, from the last layer to the first.

import { matrix, momentsOf, multiply, normalCdf, transpose } from "./vit_layers.js";
import { rotate } from "./vit_positions.js";

const empty = (rows, columns) => matrix(new Float32Array(rows * columns), rows, columns);

// a b, or what goes back through a linear layer where b is its weight
function product(a, b, y = empty(a.rows, b.columns)) {
  multiply(a, transpose(b), y);
  return y;
}

// What goes back through a norm with the input x, added to `to`.
function addThroughNorm(gradient, x, { weight }, eps, to) {
  for (let r = 0; r < gradient.rows; r++) {
    const [mean, scale] = momentsOf(x, r, eps);
    const at = r * x.columns;
    let [sum, along] = [0, 0];
    for (let i = 0; i < x.columns; i++) {
      const share = (gradient.data[at + i] * weight[i]) / x.columns;
      sum += share;
      along += share * (x.data[at + i] - mean) * scale;
    }
    for (let i = 0; i < x.columns; i++) {
      const normed = (x.data[at + i] - mean) * scale;
      to.data[at + i] += scale * (gradient.data[at + i] * weight[i] - sum - normed * along);
    }
  }
}

// The derivative of x normalCdf(x), times `gradient`, in its place.
function throughGelu(gradient, { data: x }) {
  for (let i = 0; i < gradient.rows * gradient.columns; i++) {
    const density = Math.exp(-0.5 * x[i] ** 2) / Math.sqrt(2 * Math.PI);
    gradient.data[i] *= normalCdf(x[i]) + x[i] * density;
  }
}

// From the gradient of a head's weights to that of its scores before they are scaled.
function throughSoftmax(weights, gradient, scale) {
  const scores = empty(gradient.rows, gradient.columns);
  for (let r = 0; r < gradient.rows; r++) {
    const [at, from] = [r * scores.columns, weights.at + r * scores.columns];
    let along = 0;
    for (let i = 0; i < scores.columns; i++) along += weights.data[from + i] * gradient.data[gradient.at + at + i];
    for (let i = 0; i < scores.columns; i++) {
      scores.data[at + i] = scale * weights.data[from + i] * (gradient.data[gradient.at + at + i] - along);
    }
  }
  return scores;
}

// From the gradient of what the heads found, `mixed`, to that of queries, keys and values; on the
// way that of the weights, into `gradients` (h, T, T).
function throughAttention(vit, l, mixed, attention, pass, gradients) {
  const { embed_dim: dim, head_dim, num_heads } = vit.config;
  const { options: { positions, silenced, temperature = 1 }, places } = pass;
  const [tokens, rows] = [places.length, mixed.rows];
  const qkv = empty(tokens, 3 * dim);
  for (let h = 0; h < num_heads; h++) {
    if (silenced?.[l]?.includes(h)) continue;
    const own = matrix(mixed.data, rows, head_dim, h * head_dim, dim);
    const [queries, keys, values] = [0, 1, 2].map((which) => vit.part(pass, which, h, which ? tokens : rows));
    const weights = matrix(attention, rows, tokens, h * tokens ** 2);
    const gradient = matrix(gradients, rows, tokens, h * tokens ** 2);
    multiply(own, values, gradient);
    const scores = throughSoftmax(weights, gradient, 1 / (Math.sqrt(head_dim) * temperature));
    product(scores, keys, vit.part({ qkv }, 0, h, rows));
    product(transpose(scores), queries, vit.part({ qkv }, 1, h));
    product(transpose(weights), own, vit.part({ qkv }, 2, h));
  }
  if (vit.rope && positions !== false) rotate(qkv, vit.rope, places, head_dim, -1);
  return qkv;
}

// From the gradient of a layer's output to that of its input x, and of its weights.
function throughBlock(vit, l, gradient, stream, pass) {
  const { norm_eps: eps } = vit.config;
  const { norm1, qkv, proj, norm2, fc1, fc2 } = vit.blocks[l];
  const tokens = pass.places.length;
  const x = matrix(stream, tokens, gradient.columns);
  const attention = vit.block(l, { ...x, data: x.data.slice() }, pass); // again: leaves in `pass` what it came by
  const gradients = new Float32Array(attention.length);
  if (pass.options.skipped?.includes(l)) return { gradient, attention, gradients };
  const rows = vit.rowsRead(l, tokens);
  const out = { ...gradient, rows };
  const inner = product(out, fc2.weight);
  throughGelu(inner, pass.hidden);
  const middle = { ...out, data: gradient.data.slice() };
  addThroughNorm(product(inner, fc1.weight), pass.middle, norm2, eps, middle);
  const fromHeads = throughAttention(vit, l, product(middle, proj.weight), attention, pass, gradients);
  const before = { ...middle, rows: tokens };
  addThroughNorm(product(fromHeads, qkv.weight), x, norm1, eps, before);
  return { gradient: before, attention, gradients };
}

// The logits of an image, and of every layer the attention and the gradients of the logit of class
// `target` with respect to it, each (h, T, T). `options` are those of `forward`.
export function attentionGradients(vit, pixels, target, options = {}) {
  const { depth, embed_dim: dim, norm_eps, num_classes, num_prefix } = vit.config;
  if (!(target >= 0 && target < num_classes)) {
    throw new Error(`classes are numbered 0 to ${num_classes - 1}, got ${target}`);
  }
  const tokens = vit.pass(options).places.length;
  const streams = Array.from({ length: depth + 1 }, () => new Float32Array(tokens * dim));
  const { logits } = vit.forward(pixels, { ...options, attention: false, streams });
  const pass = vit.pass({ ...options, attention: true });
  const rows = num_prefix ? 1 : tokens;
  const read = empty(rows, dim); // the gradient of what the head reads
  for (let i = 0; i < rows * dim; i++) read.data[i] = vit.head.weight.data[target * dim + (i % dim)] / rows;
  let gradient = empty(tokens, dim);
  addThroughNorm(read, matrix(streams[depth], rows, dim), vit.norm, norm_eps, gradient);
  const [attention, gradients] = [[], []];
  for (let l = depth - 1; l >= 0; l--) {
    ({ gradient, attention: attention[l], gradients: gradients[l] } = throughBlock(vit, l, gradient, streams[l], pass));
  }
  return { logits, attention, gradients };
}

// What speaks for a class by Chefer, Gur & Wolf 2021 (equations 5 and 6): a number for each patch that
// is visible. R = I, then R <- R + mean over heads of max(gradient x attention, 0) R for each layer.
export function chefer({ num_heads, num_prefix }, { attention, gradients }) {
  const tokens = Math.sqrt(attention[0].length / num_heads);
  let row = new Float64Array(tokens).map((_, t) => (num_prefix ? Number(t === 0) : 1 / tokens));
  for (let l = attention.length - 1; l >= 0; l--) {
    const before = row;
    row = before.slice();
    for (let i = 0; i < attention[l].length; i++) {
      const query = Math.floor(i / tokens) % tokens;
      row[i % tokens] += (before[query] * Math.max(attention[l][i] * gradients[l][i], 0)) / num_heads;
    }
  }
  return Float32Array.from(row.subarray(num_prefix));
}
