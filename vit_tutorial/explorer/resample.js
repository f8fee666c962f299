// Antialiased resampling by a filter, with the weights of Pillow's `resize`, and of PyTorch's
// `interpolate(antialias=True)`, which are the same.

const TRIANGLE = { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) };
const CUBIC = { // Keys 1981, a = -0.5
  support: 2,
  at: (x) => {
    const far = Math.abs(x);
    if (far < 1) return (1.5 * far - 2.5) * far * far + 1;
    return far < 2 ? ((-0.5 * far + 2.5) * far - 4) * far + 2 : 0;
  },
};
const FILTERS = { bilinear: TRIANGLE, bicubic: CUBIC };

// For each of `size` new samples between `start` and `stop` of `length` old ones, which of them it
// takes: { first, weights }. Where it shrinks, the filter is as much wider.
export function resampleWeights(length, size, filter, start = 0, stop = length) {
  if (!(filter in FILTERS)) throw new Error(`the filters are ${Object.keys(FILTERS).join(" and ")}, got ${filter}`);
  const { support, at } = FILTERS[filter];
  const scale = (stop - start) / size;
  const wide = Math.max(scale, 1);
  return Array.from({ length: size }, (_, n) => {
    const centre = start + (n + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * wide + 0.5));
    const last = Math.min(length, Math.trunc(centre + support * wide + 0.5));
    const weights = Float64Array.from({ length: last - first }, (__, i) => at((first + i - centre + 0.5) / wide));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}
