// How many of many images the network still gets right, with what was changed in it.

import { bytesOf, element } from "./page.js";
import { normalize } from "./image.js";

const AT_ONCE = 12; // images in a message to the engine

// The interval that holds the true share with 95% (Wilson 1927), in percent.
export function interval(right, n) {
  const [share, z] = [right / n, 1.96];
  const middle = (share + z ** 2 / 2 / n) / (1 + z ** 2 / n);
  const reach = (z / (1 + z ** 2 / n)) * Math.sqrt((share * (1 - share)) / n + z ** 2 / 4 / n ** 2);
  return [100 * (middle - reach), 100 * (middle + reach)];
}

export class Accuracy {
  constructor(parent, { pixels, labels, reading }) {
    Object.assign(this, { labels, reading, pixels: bytesOf(pixels) });
    this.whole = null; // right answers without changes
    this.box = element("div", "li-accuracy", parent);
    const track = element("div", "li-track", this.box);
    [this.fill, this.reach, this.mark] = ["li-fill", "li-reach", "li-mark"].map((name) => element("div", name, track));
    this.words = element("div", "li-accuracy-words", this.box);
    this.words.setAttribute("aria-live", "polite");
  }

  image(n) {
    const size = this.pixels.length / this.labels.length;
    return normalize(this.pixels.subarray(n * size, (n + 1) * size), this.reading.mean, this.reading.std);
  }

  // Counts in the order of the images, and shows what it has until it ends or is aborted.
  async count(network, changes, signal, untouched) {
    const total = this.labels.length;
    let right = 0;
    for (let done = 0; done < total;) {
      const next = Math.min(done + AT_ONCE, total);
      const numbers = Array.from({ length: next - done }, (_, n) => done + n);
      const said = await network.predictions(numbers.map((n) => this.image(n)), changes, signal);
      right += said.filter((label, n) => label === this.labels[numbers[n]]).length;
      done = next;
      if (untouched && done === total) this.whole = right;
      this.draw(right, done);
    }
  }

  draw(right, done) {
    const [share, [low, high]] = [(100 * right) / done, interval(right, done)];
    const total = this.labels.length;
    this.fill.style.width = `${share}%`;
    [this.reach.style.left, this.reach.style.width] = [`${low}%`, `${high - low}%`];
    this.mark.hidden = this.whole === null;
    this.mark.style.left = `${(100 * this.whole) / total}%`;
    const whole = this.whole === null ? "" : ` Without your changes: ${this.whole}.`;
    this.words.textContent = done < total
      ? `counting: ${done} of ${total} images`
      : `${right} of ${total} images right: ${share.toFixed(1)}% (95% interval ${low.toFixed(1)} to ${high.toFixed(1)}%).${whole}`;
  }
}
