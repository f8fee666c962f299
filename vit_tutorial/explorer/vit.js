// A small Vision Transformer that runs here, with the heads that are left of it.
// What a change of a layer leaves as it was is not computed again.

// y[r] = weight x[r] + bias, for `rows` rows; four outputs at a time.
function linear(x, rows, ins, weight, bias, outs, y) {
  for (let r = 0; r < rows; r++) {
    const at = r * ins;
    let o = 0;
    for (; o + 3 < outs; o += 4) {
      let [a, b, c, d] = [bias[o], bias[o + 1], bias[o + 2], bias[o + 3]];
      const [p, q, s, t] = [o * ins, (o + 1) * ins, (o + 2) * ins, (o + 3) * ins];
      for (let i = 0; i < ins; i++) {
        const value = x[at + i];
        a += value * weight[p + i];
        b += value * weight[q + i];
        c += value * weight[s + i];
        d += value * weight[t + i];
      }
      const to = r * outs + o;
      y[to] = a;
      y[to + 1] = b;
      y[to + 2] = c;
      y[to + 3] = d;
    }
    for (; o < outs; o++) {
      let sum = bias[o];
      for (let i = 0; i < ins; i++) sum += x[at + i] * weight[o * ins + i];
      y[r * outs + o] = sum;
    }
  }
}

function layerNorm(x, rows, dim, weight, bias, eps, y) {
  for (let r = 0; r < rows; r++) {
    let mean = 0;
    let square = 0;
    for (let i = 0; i < dim; i++) mean += x[r * dim + i];
    mean /= dim;
    for (let i = 0; i < dim; i++) square += (x[r * dim + i] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / dim + eps);
    for (let i = 0; i < dim; i++) y[r * dim + i] = (x[r * dim + i] - mean) * scale * weight[i] + bias[i];
  }
}

// The error function, to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

export function softmax(values) {
  const most = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

const TENSORS = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"];
const zeros = (length) => new Float32Array(length);

export class Network {
  // `sizes` by name, `weights` of all tensors, `places` where each begins, `pixels` of all images
  constructor(sizes, weights, places, pixels, mean, std) {
    Object.assign(this, { ...sizes, pixels, mean, std });
    const tensor = (name) => weights.subarray(places[name]);
    const pair = (name) => [tensor(`${name}.weight`), tensor(`${name}.bias`)];
    this.layers = Array.from({ length: sizes.depth }, (_, l) =>
      Object.fromEntries(TENSORS.map((name) => [name, pair(`blocks.${l}.${name}`)])));
    [this.projection, this.norm, this.head] = ["patch_embed.proj", "norm", "head"].map(pair);
    this.positions = tensor("pos_embed");
    this.cls = sizes.prefix ? tensor("cls_token").subarray(0, sizes.dim) : [];
    this.patches = sizes.grid[0] * sizes.grid[1];
    this.tokens = this.patches + sizes.prefix;
    this.wide = sizes.dim / sizes.heads;
    const all = this.tokens * sizes.dim;
    this.inputs = Array.from({ length: sizes.depth }, () => zeros(sizes.images * all)); // of each layer
    [this.x, this.normed, this.mixed, this.added] = [all, all, all, all].map(zeros);
    [this.qkv, this.inner] = [zeros(3 * all), zeros(this.tokens * sizes.hidden)];
    [this.scores, this.logits] = [zeros(this.tokens), zeros(sizes.classes)];
  }

  embed(image) {
    const { channels, dim, grid, mean, patch, patches, pixels, positions, prefix, side, std, x } = this;
    const flat = zeros(patches * channels * patch * patch);
    const start = image * channels * side[0] * side[1];
    let to = 0;
    for (let n = 0; n < patches; n++) {
      const [top, left] = [Math.floor(n / grid[1]) * patch, (n % grid[1]) * patch];
      for (let c = 0; c < channels; c++) {
        for (let i = 0; i < patch; i++) {
          for (let j = 0; j < patch; j++) {
            const value = pixels[start + (c * side[0] + top + i) * side[1] + left + j];
            flat[to++] = (value / 255 - mean[c]) / std[c];
          }
        }
      }
    }
    linear(flat, patches, channels * patch * patch, ...this.projection, dim, x.subarray(prefix * dim));
    x.set(this.cls);
    for (let i = 0; i < this.tokens * dim; i++) x[i] += positions[i];
  }

  // Head h of a layer: its part of `mixed`, and, if asked for, the weights of all queries.
  attend(h, queries, table) {
    const { dim, mixed, qkv, scores, tokens, wide } = this;
    const [own, scale] = [h * wide, 1 / Math.sqrt(wide)];
    for (let i = 0; i < queries; i++) {
      let most = -Infinity;
      for (let j = 0; j < tokens; j++) {
        let score = 0;
        for (let d = 0; d < wide; d++) score += qkv[i * 3 * dim + own + d] * qkv[j * 3 * dim + dim + own + d];
        scores[j] = score * scale;
        most = Math.max(most, scores[j]);
      }
      let sum = 0;
      for (let j = 0; j < tokens; j++) sum += scores[j] = Math.exp(scores[j] - most);
      for (let d = 0; d < wide; d++) mixed[i * dim + own + d] = 0;
      for (let j = 0; j < tokens; j++) {
        const weight = scores[j] / sum;
        if (table) table[i * tokens + j] = weight;
        for (let d = 0; d < wide; d++) mixed[i * dim + own + d] += weight * qkv[j * 3 * dim + 2 * dim + own + d];
      }
    }
  }

  // All heads of layer l that are left; `seen`, if given, gets what each of the layer looks at.
  mix(l, queries, keep, seen) {
    const { dim, heads, mixed, tokens, wide } = this;
    mixed.fill(0);
    for (let h = 0; h < heads; h++) {
      const kept = keep[l * heads + h];
      if (!kept && !seen) continue;
      const table = seen ? zeros(queries * tokens) : null;
      this.attend(h, queries, table);
      if (!kept) {
        for (let i = 0; i < queries; i++) mixed.fill(0, i * dim + h * wide, i * dim + (h + 1) * wide);
      }
      if (seen) seen[h] = this.lookedAt(table, queries);
    }
  }

  // What the answer's token attends to among the patches; without CLS, the mean of all tokens.
  lookedAt(table, queries) {
    const rows = this.prefix ? 1 : queries;
    return Float32Array.from({ length: this.patches }, (_, n) => {
      let sum = 0;
      for (let i = 0; i < rows; i++) sum += table[i * this.tokens + this.prefix + n];
      return sum / rows;
    });
  }

  // Logits of an image, computed anew from layer `from` on; `keep` tells which heads are left.
  // `maps`, if given, gets what each head attends to: maps[layer][head] of patches.
  run(image, from, keep, maps) {
    const { added, depth, dim, eps, hidden, inner, inputs, mixed, normed, tokens, x } = this;
    const start = image * tokens * dim;
    if (from === 0) {
      this.embed(image);
      inputs[0].set(x, start);
    } else x.set(inputs[from].subarray(start, start + tokens * dim));
    for (let l = from; l < depth; l++) {
      if (l > from) inputs[l].set(x, start);
      const layer = this.layers[l];
      // of the last layer, only what the head reads is needed
      const queries = l === depth - 1 && this.prefix ? 1 : tokens;
      layerNorm(x, tokens, dim, ...layer.norm1, eps, normed);
      linear(normed, tokens, dim, ...layer["attn.qkv"], 3 * dim, this.qkv);
      this.mix(l, queries, keep, maps?.[l]);
      linear(mixed, queries, dim, ...layer["attn.proj"], dim, added);
      for (let i = 0; i < queries * dim; i++) x[i] += added[i];
      layerNorm(x, queries, dim, ...layer.norm2, eps, normed);
      linear(normed, queries, dim, ...layer["mlp.fc1"], hidden, inner);
      for (let i = 0; i < queries * hidden; i++) inner[i] *= 0.5 * (1 + erf(inner[i] * Math.SQRT1_2));
      linear(inner, queries, hidden, ...layer["mlp.fc2"], dim, added);
      for (let i = 0; i < queries * dim; i++) x[i] += added[i];
    }
    return this.read();
  }

  read() { // of the last layer's outputs
    const { dim, logits, normed } = this;
    const rows = this.prefix ? 1 : this.tokens;
    layerNorm(this.x, rows, dim, ...this.norm, this.eps, normed);
    for (let i = 0; i < dim; i++) {
      let sum = 0;
      for (let r = 0; r < rows; r++) sum += normed[r * dim + i];
      normed[i] = sum / rows;
    }
    linear(normed, 1, dim, ...this.head, this.classes, logits);
    return logits;
  }
}
