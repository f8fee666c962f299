// A photograph -> the pixels that a network reads, as Pillow and vit_tutorial/images.py make them: a
// canvas shrinks by another filter, and a network then says something else.
//
// An image is { width, height, channels, data }: bytes, row by row, pixel by pixel.

import { bitmapOf } from "./open_image.js";
import { resampleWeights } from "./resample.js";

const GREY = 128; // beside a padded image
const ONE = 2 ** 22; // of the integers that weights are
const BAND = 512; // rows that are read at once: a canvas can be smaller than a photograph

// Decode a file (a Blob), upright by its EXIF, without changing its colours: an image of 4 channels.
export async function decodeImage(file) {
  const bitmap = await bitmapOf(file);
  const { width, height } = bitmap;
  const image = { width, height, channels: 4, data: new Uint8ClampedArray(4 * width * height) };
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, Math.min(BAND, height)];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  for (let row = 0; row < height; row += BAND) {
    pen.clearRect(0, 0, width, canvas.height);
    pen.drawImage(bitmap, 0, -row);
    image.data.set(pen.getImageData(0, 0, width, Math.min(BAND, height - row)).data, 4 * width * row);
  }
  bitmap.close?.();
  return image;
}

// Lay transparency on white, and leave 3 channels, or 1: grey by ITU-R 601.
export function opaque({ width, height, channels: from, data }, channels) {
  const plain = { width, height, channels, data: new Uint8Array(width * height * channels) };
  const colour = new Uint8Array(3);
  for (let n = 0; n < width * height; n++) {
    for (let c = 0; c < 3; c++) {
      colour[c] = data[n * from + (from === 1 ? 0 : c)];
      if (from !== 4 || data[4 * n + 3] === 255) continue;
      const mixed = 128 * (colour[c] * data[4 * n + 3] + 255 * (255 - data[4 * n + 3]) + 128);
      colour[c] = ((mixed >> 8) + mixed) >> 15;
    }
    if (channels === 3) for (let c = 0; c < 3; c++) plain.data[3 * n + c] = colour[c];
    else plain.data[n] = (19595 * colour[0] + 38470 * colour[1] + 7471 * colour[2] + 0x8000) >> 16;
  }
  return plain;
}

// Resample the middle axis of bytes (outer, length, inner) to `size`. Weights are integers, and what
// comes out is rounded to bytes, as in Pillow.
function resampleAxis(data, [outer, length, inner], size, filter, start, stop) {
  const resampled = new Uint8Array(outer * size * inner);
  resampleWeights(length, size, filter, start, stop).forEach(({ first, weights }, n) => {
    const parts = Int32Array.from(weights, (weight) => Math.trunc(weight * ONE + (weight < 0 ? -0.5 : 0.5)));
    for (let o = 0; o < outer; o++) {
      for (let i = 0; i < inner; i++) {
        let at = (o * length + first) * inner + i;
        let sum = ONE / 2;
        for (let k = 0; k < parts.length; k++, at += inner) sum += data[at] * parts[k];
        resampled[(o * size + n) * inner + i] = Math.min(Math.max(Math.floor(sum / ONE), 0), 255);
      }
    }
  });
  return resampled;
}

// Pillow's `resize`: the box [left, top, right, bottom] of an image, which need not be of whole pixels.
// As in Pillow 13, rows are resampled before columns where they shrink by more than twice as much.
export function resize(image, width, height, filter = "bicubic", box = [0, 0, image.width, image.height]) {
  const { channels } = image;
  const [left, upper, right, lower] = box.map(Math.fround);
  let [data, columns, rows] = [image.data, image.width, image.height];
  const across = () => {
    data = resampleAxis(data, [rows, columns, channels], width, filter, left, right);
    columns = width;
  };
  const down = () => {
    data = resampleAxis(data, [1, rows, columns * channels], height, filter, upper, lower);
    rows = height;
  };
  const rowsFirst = height < rows && rows - height > 2 * (columns - width);
  for (const pass of rowsFirst ? [down, across] : [across, down]) pass();
  return { width, height, channels, data };
}

// Copy an image onto another, its corner at (left, top); what lies outside of that is lost.
function paste(image, onto, left, upper) {
  const { channels } = onto;
  const [from, to] = [Math.max(0, -left), Math.min(image.width, onto.width - left)];
  for (let row = Math.max(0, -upper); row < Math.min(image.height, onto.height - upper); row++) {
    const line = image.data.subarray((row * image.width + from) * channels, (row * image.width + to) * channels);
    onto.data.set(line, ((row + upper) * onto.width + left + from) * channels);
  }
  return onto;
}

function blank(width, height, channels) {
  return { width, height, channels, data: new Uint8Array(width * height * channels).fill(GREY) };
}

// Python's: halves go to the even neighbour.
function round(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 ? low + 1 : low;
}

// Where a view of `size` [width, height] lies on an image: left, top, right, bottom in its pixels.
function viewBox(original, size, fit) {
  if (fit === "resize") return [0, 0, ...original];
  const scales = original.map((old, axis) => old / size[axis]);
  const edges = original.map((old, axis) => {
    const fresh = size[axis];
    if (fit === "crop") {
      const side = fresh * Math.min(...scales);
      return [(old - side) / 2, (old - side) / 2 + side];
    }
    const inner = Math.min(fresh, Math.max(1, round(old / Math.max(...scales)))); // a whole number of pixels
    const start = (-Math.floor((fresh - inner) / 2) * old) / inner;
    return [start, start + (fresh * old) / inner];
  });
  return [edges[0][0], edges[1][0], edges[0][1], edges[1][1]];
}

// Resample the box to width x height; what lies outside the image is mid-grey.
function renderView(image, [left, upper, right, lower], width, height) {
  const inside = [Math.max(left, 0), Math.max(upper, 0), Math.min(right, image.width), Math.min(lower, image.height)];
  const across = [inside[0], inside[2]].map((x) => round(((x - left) / (right - left)) * width));
  const down = [inside[1], inside[3]].map((y) => round(((y - upper) / (lower - upper)) * height));
  // the filter is wide: cut first, so that no pixel outside the view gets in
  const [x, y] = [Math.floor(inside[0]), Math.floor(inside[1])];
  const cut = paste(image, blank(Math.ceil(inside[2]) - x, Math.ceil(inside[3]) - y, image.channels), -x, -y);
  const box = [inside[0] - x, inside[1] - y, inside[2] - x, inside[3] - y];
  const resized = resize(cut, Math.max(1, across[1] - across[0]), Math.max(1, down[1] - down[0]), "bicubic", box);
  return paste(resized, blank(width, height, image.channels), across[0], down[0]);
}

// Give an image the size that a network reads, a number or [height, width], by "crop", "pad" or
// "resize": { pixels: bytes (C, H, W), box: where that lies on the image }.
export function fitImage(image, img_size, fit = "crop") {
  if (!["crop", "pad", "resize"].includes(fit)) throw new Error(`fit must be crop, pad or resize, got ${fit}`);
  const [height, width] = Array.isArray(img_size) ? img_size : [img_size, img_size];
  const box = viewBox([image.width, image.height], [width, height], fit);
  const { channels, data } = renderView(image, box, width, height);
  const pixels = new Uint8Array(data.length);
  for (let i = 0; i < data.length; i++) pixels[(i % channels) * width * height + Math.floor(i / channels)] = data[i];
  return { pixels, box };
}

// Bytes (C, H, W) to what the network reads; mean and std of each channel are in units of 0..1.
export function normalize(pixels, mean, std) {
  const area = pixels.length / mean.length;
  return Float32Array.from(pixels, (value, i) => {
    const c = Math.floor(i / area);
    return (value / 255 - mean[c]) / std[c];
  });
}
