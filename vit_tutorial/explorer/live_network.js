// What the network in the page is asked: a picture, and what a person changed in it or in the network.

import { argmax } from "./page.js";
import { softmax } from "./vit_layers.js";

// What can be changed. Hidden are patches of the picture, wherever `order` has put them.
export const UNTOUCHED = { hidden: [], how: "mean", order: null, positions: true, silenced: [], temperature: 1 };
export const HOW = [["mean", "the mean colour"], ["blur", "a blur"], ["drop", "nothing: the token is dropped"]];

const TOGETHER = 4; // answers in a message to the engine: a fifth of a second

// The same image out of focus, as the benchmarks of Python blur it: (C, H, W).
export function blurred(input, channels, [height, width]) {
  const side = Math.min(height, width);
  const [half, sigma] = [Math.floor(side / 4), side / 8];
  const weights = Array.from({ length: 2 * half + 1 }, (_, i) => Math.exp(-(((i - half) / sigma) ** 2) / 2));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const mirrored = (i, length) => (i < 0 ? -i : i >= length ? 2 * length - 2 - i : i);
  const along = (from, length, step, lines) => {
    const to = new Float32Array(from.length);
    for (const start of lines) {
      for (let i = 0; i < length; i++) {
        let sum = 0;
        weights.forEach((weight, k) => { sum += weight * from[start + step * mirrored(i + k - half, length)]; });
        to[start + step * i] = sum / total;
      }
    }
    return to;
  };
  const rows = Array.from({ length: channels * height }, (_, n) => n * width);
  const columns = Array.from({ length: channels * width }, (_, n) => Math.floor(n / width) * height * width + (n % width));
  return along(along(input, width, 1, rows), height, width, columns);
}

export class LiveNetwork {
  constructor(engine, config, reading) {
    Object.assign(this, { engine, config, reading });
  }

  // Takes what `decodeImage` returned, and makes it ready for a network of `img_size`.
  async open(image, img_size) {
    const { input, pixels, box } = await this.engine.fit(image, this.reading, img_size);
    Object.assign(this, { image, pixels, box });
    this.take(input, img_size);
  }

  // Takes what is ready for a network of `img_size`: normalised (C, H, W).
  take(input, img_size) {
    const { patch_size, in_chans, pool } = this.config;
    const sides = Array.isArray(img_size) ? img_size : [img_size, img_size];
    const grid = sides.map((side) => side / patch_size);
    Object.assign(this, { img_size, input, sides, grid, blur: null });
    this.num_patches = grid[0] * grid[1];
    this.num_prefix = Number(pool === "cls");
    this.channels = in_chans;
  }

  // The patch of the picture that lies in place n.
  patchIn({ order }, place) {
    return order?.[place] ?? place;
  }

  // The places whose tokens the network gets.
  visible({ hidden, how, order }) {
    const gone = new Set(how === "drop" ? hidden : []);
    return Array.from({ length: this.num_patches }, (_, n) => n).filter((n) => !gone.has(order?.[n] ?? n));
  }

  // What is put where patches are hidden: normalised, so that the mean colour is 0.
  inputWith({ hidden, how }) {
    if (!hidden.length || how === "drop") return this.input;
    if (how === "blur") this.blur ??= blurred(this.input, this.channels, this.sides);
    const input = this.input.slice();
    const [{ patch_size }, [height, width]] = [this.config, this.sides];
    for (const patch of hidden) {
      const [top, left] = [Math.floor(patch / this.grid[1]) * patch_size, (patch % this.grid[1]) * patch_size];
      for (let line = 0; line < this.channels * patch_size; line++) {
        const [c, row] = [Math.floor(line / patch_size), top + (line % patch_size)];
        const at = (c * height + row) * width + left;
        if (how === "blur") input.set(this.blur.subarray(at, at + patch_size), at);
        else input.fill(0, at, at + patch_size);
      }
    }
    return input;
  }

  optionsFor(changes) {
    const heads = this.config.num_heads;
    const silenced = {};
    for (const number of changes.silenced) (silenced[Math.floor(number / heads)] ??= []).push(number % heads);
    const { order, positions, temperature } = changes;
    return { visible: this.visible(changes), order, positions, silenced, temperature, img_size: this.img_size };
  }

  // What the network answers: { logits, attention of each layer (h, T, T), visible places }.
  async answer(changes, signal) {
    const options = this.optionsFor(changes);
    const said = await this.engine.forward(this.inputWith(changes), options, { signal });
    return { ...said, visible: options.visible };
  }

  // Only what it says: the probability of each class.
  async probabilities(changes, signal) {
    const [logits] = await this.engine.logits([[this.inputWith(changes), this.optionsFor(changes)]], { signal });
    return softmax(logits);
  }

  // The same for many changes, some of them in each message; `done` hears how many are answered.
  async eachProbabilities(many, signal, done) {
    const answers = [];
    for (let n = 0; n < many.length; n += TOGETHER) {
      const pairs = many.slice(n, n + TOGETHER).map((changes) => [this.inputWith(changes), this.optionsFor(changes)]);
      for (const logits of await this.engine.logits(pairs, { signal })) answers.push(softmax(logits));
      done(answers.length);
    }
    return answers;
  }

  // Which class each of many images is given: `inputs` are normalised, and as large as the network's own.
  async predictions(inputs, changes, signal) {
    const pairs = inputs.map((input) => {
      this.take(input, this.config.img_size);
      return [this.inputWith(changes), this.optionsFor(changes)];
    });
    return (await this.engine.logits(pairs, { signal })).map(argmax);
  }

  // What speaks for a class, a number for each place; 0 where there is no token.
  async relevance(changes, target, signal) {
    const options = this.optionsFor(changes);
    const { relevance } = await this.engine.chefer(this.inputWith(changes), target, options, { signal });
    return this.inPlace(relevance, options.visible);
  }

  inPlace(values, visible) {
    const map = new Float32Array(this.num_patches);
    visible.forEach((place, n) => { map[place] = values[n]; });
    return map;
  }
}
