// Where a patch is: sin-cos tables, rotary angles, a learned table on another grid. The functions of
// vit_tutorial/positions.py.

import { resampleWeights } from "./resample.js";

// The [row, column] of every patch in reading order; on `trainedGrid` the same picture is laid over
// the coordinates of that grid.
export function patchCoordinates(grid, trainedGrid = grid) {
  const [rows, columns] = grid.map((length, axis) =>
    Array.from({ length }, (_, i) => (i + 0.5) * (trainedGrid[axis] / length) - 0.5));
  return rows.flatMap((row) => columns.map((column) => [row, column]));
}

// A position's sines and cosines, one after the other: `dim` numbers.
function sincos1d(position, dim, base = 10_000) {
  return Array.from({ length: dim }, (_, i) => {
    const angle = position * base ** (-(i - (i % 2)) / dim);
    return i % 2 ? Math.cos(angle) : Math.sin(angle);
  });
}

// Rows in the first half of the vector, columns in the second.
const sincos2d = ([row, column], dim) => [...sincos1d(row, dim / 2), ...sincos1d(column, dim / 2)];

// The angle of every pair of channels: the first half turns with the row, the second with the column.
function rope2d(place, headDim, base = 100) {
  const quarter = headDim / 4;
  return place.flatMap((along) => Array.from({ length: quarter }, (_, i) => along * base ** (-i / quarter)));
}

// What is not learned, one row per token: a sin-cos table (T, D), RoPE angles (T, d/2) as their
// cosines and sines; null for what the config does not use. The CLS token's row is zero.
export function positionTables(config) {
  const { embed_dim, grid, head_dim, num_prefix, pos_embed, trained_grid } = config;
  const places = patchCoordinates(grid, trained_grid ?? grid);
  const prefix = (width) => new Array(num_prefix * width).fill(0);
  const rowsOf = (width, of) => [...prefix(width), ...places.flatMap((place) => of(place, width))];
  const table = pos_embed === "sincos" ? Float32Array.from(rowsOf(embed_dim, sincos2d)) : null;
  if (pos_embed !== "rope") return { table, rope: null };
  const angles = rowsOf(head_dim / 2, (place) => rope2d(place, head_dim));
  return { table, rope: { cos: Float64Array.from(angles, Math.cos), sin: Float64Array.from(angles, Math.sin) } };
}

// Rotate channel pairs (2i, 2i+1) of every head's queries and keys, the first 2 D columns of `qkv`,
// by the angles of their token, in place; with `turn` -1, back.
export function rotate(qkv, { cos, sin }, places, headDim, turn = 1) {
  const half = headDim / 2;
  for (let t = 0; t < qkv.rows; t++) {
    for (let pair = 0; pair < qkv.columns / 3; pair++) {
      const at = qkv.at + t * qkv.stride + 2 * pair;
      const angle = places[t] * half + (pair % half);
      const [first, second] = [qkv.data[at], qkv.data[at + 1]];
      qkv.data[at] = first * cos[angle] - turn * second * sin[angle];
      qkv.data[at + 1] = turn * first * sin[angle] + second * cos[angle];
    }
  }
}

// Stretch a learned table (T, D) over another grid; the rows of prefix tokens are kept.
export function resampleTable(table, dim, [oldRows, oldColumns], [rows, columns], prefix) {
  if (oldRows === rows && oldColumns === columns) return table;
  const across = resampleWeights(oldColumns, columns, "bicubic");
  const down = resampleWeights(oldRows, rows, "bicubic");
  const stretched = new Float32Array((prefix + rows * columns) * dim);
  stretched.set(table.subarray(0, prefix * dim));
  down.forEach((vertical, r) => across.forEach((horizontal, c) => {
    const to = (prefix + r * columns + c) * dim;
    for (let i = 0; i < dim; i++) {
      let sum = 0;
      vertical.weights.forEach((high, y) => horizontal.weights.forEach((wide, x) => {
        const from = prefix + (vertical.first + y) * oldColumns + horizontal.first + x;
        sum += high * wide * table[from * dim + i];
      }));
      stretched[to + i] = sum;
    }
  }));
  return stretched;
}
