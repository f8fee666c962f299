// The arithmetic of a Vision Transformer, on matrices that are parts of Float32Arrays.

// `rows` x `columns` numbers from `at` on; a row begins `stride` after the one before.
export const matrix = (data, rows, columns, at = 0, stride = columns) => ({ data, rows, columns, at, stride });

export function transpose({ data, rows, columns, at, stride }, turned = new Float32Array(rows * columns)) {
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) turned[c * rows + r] = data[at + r * stride + c];
  }
  return matrix(turned, columns, rows);
}

let panel = new Float64Array(0); // four rows of b, number by number next to each other

// y = a bᵀ + bias. Four rows of b, side by side, meet two of a, and their eight sums stay in registers.
// Behind the last row comes the last again, and writes the same.
export function multiply(a, b, y, bias = null) {
  const { data: left, columns: length } = a;
  const { data: right } = b;
  const { data: out } = y;
  if (panel.length < 4 * length) panel = new Float64Array(4 * length);
  const packed = panel;
  for (let o = 0; o < b.rows; o += 4) {
    const [o1, o2, o3] = [Math.min(o + 1, b.rows - 1), Math.min(o + 2, b.rows - 1), Math.min(o + 3, b.rows - 1)];
    const [b0, b1, b2, b3] = [b.at + o * b.stride, b.at + o1 * b.stride, b.at + o2 * b.stride, b.at + o3 * b.stride];
    for (let i = 0, to = 0; i < length; i++, to += 4) {
      packed[to] = right[b0 + i];
      packed[to + 1] = right[b1 + i];
      packed[to + 2] = right[b2 + i];
      packed[to + 3] = right[b3 + i];
    }
    const [c0, c1, c2, c3] = bias ? [bias[o], bias[o1], bias[o2], bias[o3]] : [0, 0, 0, 0];
    for (let r = 0; r < a.rows; r += 2) {
      const next = Math.min(r + 1, a.rows - 1);
      const first = a.at + r * a.stride;
      const second = a.at + next * a.stride;
      let [s0, s1, s2, s3, t0, t1, t2, t3] = [0, 0, 0, 0, 0, 0, 0, 0];
      for (let i = 0, from = 0; i < length; i++, from += 4) {
        const p = left[first + i];
        const q = left[second + i];
        s0 += p * packed[from];
        s1 += p * packed[from + 1];
        s2 += p * packed[from + 2];
        s3 += p * packed[from + 3];
        t0 += q * packed[from];
        t1 += q * packed[from + 1];
        t2 += q * packed[from + 2];
        t3 += q * packed[from + 3];
      }
      const to = y.at + r * y.stride;
      const below = y.at + next * y.stride;
      out[to + o] = s0 + c0;
      out[to + o1] = s1 + c1;
      out[to + o2] = s2 + c2;
      out[to + o3] = s3 + c3;
      out[below + o] = t0 + c0;
      out[below + o1] = t1 + c1;
      out[below + o2] = t2 + c2;
      out[below + o3] = t3 + c3;
    }
  }
}

// y = x weightᵀ + bias, for a layer { weight (outs, ins), bias }.
export const linear = (x, { weight, bias }, y) => multiply(x, weight, y, bias);

// Mean of a row, and 1 / its standard deviation.
export function momentsOf({ data, columns, at, stride }, r, eps) {
  const start = at + r * stride;
  let [mean, square] = [0, 0];
  for (let i = 0; i < columns; i++) mean += data[start + i];
  mean /= columns;
  for (let i = 0; i < columns; i++) square += (data[start + i] - mean) ** 2;
  return [mean, 1 / Math.sqrt(square / columns + eps)];
}

export function layerNorm(x, { weight, bias }, eps, y) {
  for (let r = 0; r < x.rows; r++) {
    const [mean, scale] = momentsOf(x, r, eps);
    for (let i = 0; i < x.columns; i++) {
      y.data[y.at + r * y.stride + i] = (x.data[x.at + r * x.stride + i] - mean) * scale * weight[i] + bias[i];
    }
  }
}

// The normal distribution up to x, to 7.5e-8 (Abramowitz and Stegun 1964, 7.1.26).
export function normalCdf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x) * Math.SQRT1_2);
  const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  const beyond = 0.5 * tail * Math.exp(-0.5 * x * x);
  return x < 0 ? beyond : 1 - beyond;
}

export function gelu(x, y) {
  for (let i = 0; i < x.rows * x.columns; i++) y.data[i] = x.data[i] * normalCdf(x.data[i]);
}

// Each row of scores, times `scale`, becomes weights of sum 1, in place.
export function softmaxRows({ data, rows, columns, at, stride }, scale) {
  for (let r = 0; r < rows; r++) {
    const [start, stop] = [at + r * stride, at + r * stride + columns];
    let [most, sum] = [-Infinity, 0];
    for (let i = start; i < stop; i++) most = Math.max(most, data[i]);
    for (let i = start; i < stop; i++) sum += data[i] = Math.exp((data[i] - most) * scale);
    for (let i = start; i < stop; i++) data[i] /= sum;
  }
}

// Logits to probabilities, as an Array.
export function softmax(logits) {
  const row = Float64Array.from(logits);
  softmaxRows(matrix(row, 1, row.length), 1);
  return [...row];
}
