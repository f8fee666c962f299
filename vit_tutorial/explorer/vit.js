// A Vision Transformer in the browser: the network of vit_tutorial/model.py, in the same order.
//
// Image -> patches -> tokens + positions -> encoder blocks -> norm -> head. Names are those of
// Python's config and of the checkpoint; numbers are in Float32Arrays, row by row.
//
// Axes: C channels, H W image, P patch, N patches, T tokens (N, or N + 1 with CLS), D width,
// h heads, d = D / h. Layers are counted from 0.
//
// The options of a forward pass:
//   visible      the patches whose tokens stay; the others are dropped, which is faster
//   order        order[n] is the patch of the image that lies in place n: shuffles them
//   positions    false: no patch knows where it is
//   silenced     { layer: [heads] } that hand nothing on; what they attend to is there all the same
//   skipped      [layers] that add nothing, equally
//   temperature  what scores are divided by before the softmax of every attention
//   attention    false: is not kept, which is faster
//   streams      an array (T, D) for each layer, to get the tokens that enter it; one more, what leaves

import { gelu, layerNorm, linear, matrix, multiply, softmaxRows, transpose } from "./vit_layers.js";
import { positionTables, resampleTable, rotate } from "./vit_positions.js";

const zeros = (length) => new Float32Array(length);

// A config with all that Python's ViTConfig derives from its fields.
export function completeConfig(fields) {
  const { embed_dim, img_size, mlp_ratio, num_heads, patch_size, pool } = fields;
  const image_hw = Array.isArray(img_size) ? img_size : [img_size, img_size];
  if (!image_hw.every((side) => side > 0 && side % patch_size === 0)) {
    throw new Error(`img_size ${image_hw.join("x")} is no multiple of patch_size ${patch_size}`);
  }
  const grid = image_hw.map((side) => side / patch_size); // rows and columns of patches
  const [num_patches, num_prefix] = [grid[0] * grid[1], Number(pool === "cls")];
  const num_tokens = num_prefix + num_patches;
  const [head_dim, hidden_dim] = [embed_dim / num_heads, Math.trunc(embed_dim * mlp_ratio)];
  return { ...fields, image_hw, grid, num_patches, num_prefix, num_tokens, head_dim, hidden_dim };
}

// Cut patches out of an image (C, H, W), each by its number: (N', C*P*P).
export function patchify(pixels, config, numbers) {
  const { grid, image_hw: [height, width], in_chans, patch_size } = config;
  const flat = zeros(numbers.length * in_chans * patch_size ** 2);
  let to = 0;
  for (const n of numbers) {
    const [top, left] = [Math.floor(n / grid[1]) * patch_size, (n % grid[1]) * patch_size];
    for (let c = 0; c < in_chans; c++) {
      for (let row = top; row < top + patch_size; row++) {
        const from = (c * height + row) * width + left;
        flat.set(pixels.subarray(from, from + patch_size), to);
        to += patch_size;
      }
    }
  }
  return matrix(flat, numbers.length, in_chans * patch_size ** 2);
}

// y = a + b, of matrices without gaps.
function add(a, b, y) {
  for (let i = 0; i < y.rows * y.columns; i++) y.data[i] = a.data[i] + b.data[i];
}

const top = (whole, rows) => ({ ...whole, rows }); // the first rows of a matrix

// The complete network: normalised pixels (C, H, W) -> logits, and the attention of every layer.
export class VisionTransformer {
  // `tensors` as `readSafetensors` returns them
  constructor(config, tensors) {
    this.config = completeConfig(config);
    this.tensors = tensors;
    const { depth, embed_dim: dim, hidden_dim, in_chans, num_classes, num_tokens, patch_size } = this.config;
    const norm = (name) => ({ weight: this.tensor(`${name}.weight`, dim), bias: this.tensor(`${name}.bias`, dim) });
    const layer = (name, outs, ...ins) => {
      const weight = this.tensor(`${name}.weight`, outs, ...ins);
      return { weight: matrix(weight, outs, weight.length / outs), bias: this.tensor(`${name}.bias`, outs) };
    };
    this.patch_embed = layer("patch_embed.proj", dim, in_chans, patch_size, patch_size);
    if (this.config.num_prefix) this.cls_token = this.tensor("cls_token", 1, 1, dim);
    const { table, rope } = positionTables(this.config);
    this.pos_embed = this.config.pos_embed === "learned" ? this.tensor("pos_embed", 1, num_tokens, dim) : table;
    this.rope = rope;
    this.blocks = Array.from({ length: depth }, (_, l) => ({
      norm1: norm(`blocks.${l}.norm1`),
      qkv: layer(`blocks.${l}.attn.qkv`, 3 * dim, dim),
      proj: layer(`blocks.${l}.attn.proj`, dim, dim),
      norm2: norm(`blocks.${l}.norm2`),
      fc1: layer(`blocks.${l}.mlp.fc1`, hidden_dim, dim),
      fc2: layer(`blocks.${l}.mlp.fc2`, dim, hidden_dim),
    }));
    this.norm = norm("norm");
    this.head = layer("head", num_classes, dim);
    const widths = {
      normed: dim, qkv: 3 * dim, turned: dim, mixed: dim, middle: dim, hidden: hidden_dim, active: hidden_dim, added: dim,
      scores: num_tokens,
    };
    this.room = Object.fromEntries(Object.entries(widths).map(([name, width]) => [name, zeros(num_tokens * width)]));
  }

  tensor(name, ...shape) {
    const found = this.tensors[name];
    if (String(found?.shape) !== String(shape)) {
      const has = found ? `(${found.shape})` : "none";
      throw new Error(`the config needs a tensor ${name} of shape (${shape}), the weights have ${has}`);
    }
    return found.data;
  }

  forward(pixels, options = {}) {
    return this.forwardFrom(0, this.embed(pixels, options), options);
  }

  // The rest of a forward pass, from the tokens that enter a layer on.
  forwardFrom(first, tokens, options = {}) {
    const { depth } = this.config;
    const pass = this.pass(options);
    const x = { ...pass.normed, data: tokens.slice() };
    const attention = [];
    for (let l = first; l < depth; l++) {
      options.streams?.[l].set(x.data);
      attention[l] = this.block(l, x, pass);
    }
    options.streams?.[depth]?.set(x.data);
    return { logits: this.forwardHead(x), attention };
  }

  // The tokens that enter the first layer (T, D).
  embed(pixels, options = {}) {
    const { embed_dim: dim, image_hw, in_chans, num_prefix } = this.config;
    if (pixels.length !== in_chans * image_hw[0] * image_hw[1]) {
      const shape = `(${in_chans}, ${image_hw.join(", ")})`;
      throw new Error(`expected the pixels of an image ${shape}, got ${pixels.length} numbers`);
    }
    const { places } = this.pass(options);
    const patches = places.slice(num_prefix).map((place) => place - num_prefix);
    const flat = patchify(pixels, this.config, patches.map((n) => options.order?.[n] ?? n));
    const x = zeros(places.length * dim);
    if (num_prefix) x.set(this.cls_token);
    linear(flat, this.patch_embed, matrix(x, patches.length, dim, num_prefix * dim));
    places.forEach((place, t) => {
      if (!this.pos_embed || (options.positions === false && place >= num_prefix)) return;
      for (let i = 0; i < dim; i++) x[t * dim + i] += this.pos_embed[place * dim + i];
    });
    return x;
  }

  // What a forward pass works with: the places of its tokens, and room for T of them.
  pass(options) {
    const { embed_dim: dim, hidden_dim, num_patches, num_prefix } = this.config;
    const visible = [...(options.visible ?? new Array(num_patches).keys())];
    if (!visible.every((n) => n >= 0 && n < num_patches)) {
      throw new Error(`patches are numbered 0 to ${num_patches - 1}, visible has others`);
    }
    const places = [...new Array(num_prefix).keys(), ...visible.map((n) => n + num_prefix)];
    if (!places.length) throw new Error("without a CLS token, one patch at least must be visible");
    const of = (name, columns) => matrix(this.room[name], places.length, columns);
    return {
      options, places,
      normed: of("normed", dim), qkv: of("qkv", 3 * dim), mixed: of("mixed", dim), middle: of("middle", dim),
      hidden: of("hidden", hidden_dim), active: of("active", hidden_dim), added: of("added", dim),
    };
  }

  // Of the last layer, the head reads no more than the CLS token.
  rowsRead(l, tokens) {
    return l === this.config.depth - 1 && this.config.num_prefix ? 1 : tokens;
  }

  // One pre-norm block, on tokens x (T, D) in place: tokens talk, then think. Returns its attention.
  block(l, x, pass) {
    const { norm1, qkv, norm2, proj, fc1, fc2 } = this.blocks[l];
    const eps = this.config.norm_eps;
    const rows = this.rowsRead(l, x.rows);
    const [out, normed, mixed, middle, hidden, active, added] = [
      x, pass.normed, pass.mixed, pass.middle, pass.hidden, pass.active, pass.added].map((whole) => top(whole, rows));
    layerNorm(x, norm1, eps, pass.normed);
    linear(pass.normed, qkv, pass.qkv);
    const attention = this.attend(l, rows, pass);
    if (pass.options.skipped?.includes(l)) return attention;
    linear(mixed, proj, added);
    add(out, added, middle);
    layerNorm(middle, norm2, eps, normed);
    linear(normed, fc1, hidden);
    gelu(hidden, active);
    linear(active, fc2, added);
    add(middle, added, out);
    return attention;
  }

  // Head h's part of the queries (0), keys (1) or values (2): (T, d).
  part({ qkv }, which, h, rows = qkv.rows) {
    const { embed_dim: dim, head_dim } = this.config;
    return matrix(qkv.data, rows, head_dim, which * dim + h * head_dim, 3 * dim);
  }

  // Every token looks at every token: softmax(q kᵀ / sqrt(d)) v of each head, of the first `rows`
  // tokens, into `mixed`. Returns all weights (h, T, T), if they are to be kept.
  attend(l, rows, pass) {
    const { embed_dim: dim, head_dim, num_heads } = this.config;
    const { mixed, options, places, qkv } = pass;
    const { attention = true, positions, silenced, temperature = 1 } = options;
    const tokens = places.length;
    if (this.rope && positions !== false) rotate(qkv, this.rope, places, head_dim);
    const kept = attention ? zeros(num_heads * tokens ** 2) : null;
    for (let h = 0; h < num_heads; h++) {
      const weights = matrix(kept ?? this.room.scores, kept ? tokens : rows, tokens, kept ? h * tokens ** 2 : 0);
      multiply(this.part(pass, 0, h, weights.rows), this.part(pass, 1, h), weights);
      softmaxRows(weights, 1 / (Math.sqrt(head_dim) * temperature));
      const values = transpose(this.part(pass, 2, h), this.room.turned);
      multiply(top(weights, rows), values, matrix(mixed.data, rows, head_dim, h * head_dim, dim));
    }
    for (const h of silenced?.[l] ?? []) {
      for (let t = 0; t < rows; t++) mixed.data.fill(0, t * dim + h * head_dim, t * dim + (h + 1) * head_dim);
    }
    return kept;
  }

  // What the head reads of the final tokens: CLS, or the mean of all.
  forwardHead(x) {
    const { embed_dim: dim, norm_eps, num_classes, num_prefix } = this.config;
    const normed = matrix(this.room.normed, num_prefix ? 1 : x.rows, dim);
    layerNorm(top(x, normed.rows), this.norm, norm_eps, normed);
    const pooled = zeros(dim).map((_, i) => {
      let sum = 0;
      for (let t = 0; t < normed.rows; t++) sum += normed.data[t * dim + i];
      return sum / normed.rows;
    });
    const logits = zeros(num_classes);
    linear(matrix(pooled, 1, dim), this.head, matrix(logits, 1, num_classes));
    return logits;
  }

  // The same network for another image size, a number or [height, width]: only its positions change.
  resized(img_size) {
    const { config: old, tensors } = this;
    const config = { ...old, img_size, trained_grid: old.trained_grid ?? old.grid };
    if (old.pos_embed !== "learned") return new VisionTransformer(config, tensors);
    const { grid, num_tokens } = completeConfig(config);
    const data = resampleTable(this.pos_embed, old.embed_dim, old.grid, grid, old.num_prefix);
    return new VisionTransformer(config, { ...tensors, pos_embed: { shape: [1, num_tokens, old.embed_dim], data } });
  }
}
