// Is the map right? Patches go in the order of the map, in the reverse order, and at random.

import { addButton, element, percent } from "./page.js";

const PASSES = 12; // forward passes for each order
const ORDERS = 20; // at random
const T_975 = 2.093; // Student's t for 19 degrees of freedom
const CHART = [340, 200]; // CSS pixels

// Numbers from 0 to 1 that are the same each time (mulberry32).
export function randomNumbers(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function shuffled(length, random) {
  const order = Array.from({ length }, (_, n) => n);
  for (let i = length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

// The patches from the greatest number of a map to the least; equal ones in a random order.
export function orderOf(map, random) {
  return shuffled(map.length, random).sort((a, b) => map[b] - map[a]);
}

// The area under a curve whose points lie at the shares `at` (0 to 1).
export function areaUnder(curve, at) {
  let area = 0;
  for (let i = 1; i < curve.length; i++) area += ((curve[i] + curve[i - 1]) / 2) * (at[i] - at[i - 1]);
  return area;
}

export function summary(curves, at) {
  const areas = curves.random.map((curve) => areaUnder(curve, at));
  const mean = areas.reduce((sum, area) => sum + area, 0) / areas.length;
  const variance = areas.reduce((sum, area) => sum + (area - mean) ** 2, 0) / (areas.length - 1);
  const half = T_975 * Math.sqrt(variance / areas.length);
  const map = areaUnder(curves.map, at);
  return {
    map, mean, low: mean - half, high: mean + half,
    reverse: areaUnder(curves.reverse, at), beaten: areas.filter((area) => map < area).length,
  };
}

export function inWords(found, target) {
  const { map, reverse, mean, low, high, beaten } = found;
  const number = (value) => value.toFixed(2);
  const sooner = `"${target}" falls sooner in the map's order than in ${beaten} of ${ORDERS} random orders`;
  let verdict = `${sooner}: too few to tell the map from chance on this picture.`;
  if (beaten === ORDERS && map < reverse) verdict = `${sooner}: what the map names counts.`;
  else if (beaten === ORDERS) verdict = `${sooner}, but in the reverse order sooner still: what the map leaves out counts, too.`;
  else if (beaten === 0) verdict = `${sooner}: on this picture the map is wrong.`;
  return `${verdict} Areas under the curves: the map's order ${number(map)}, at random ${number(mean)} (95% interval of the mean ${number(low)} to ${number(high)}), the reverse ${number(reverse)}. One picture proves nothing about others.`;
}

export class MapTest {
  constructor(parent, start) {
    this.box = element("section", "li-test", parent);
    element("h2", "", this.box, "Is the map right?");
    element("p", "ex-note", this.box, "Hide the patches that the map calls most important, then more and more of them. A map that is right makes the answer fall sooner than a random order does.");
    this.button = addButton(this.box, "Test this map", start);
    const row = element("div", "li-test-row", this.box);
    this.canvas = element("canvas", "", row);
    this.canvas.setAttribute("role", "img");
    this.words = element("p", "li-test-words", row);
    this.words.setAttribute("aria-live", "polite");
    this.clear();
  }

  clear() {
    this.canvas.hidden = true;
    this.words.textContent = "";
  }

  // `falls(hidden)` gives the probability of the class with these patches hidden.
  async run(map, target, falls, signal) {
    const random = randomNumbers(1);
    const order = orderOf(map, random);
    const orders = [order, [...order].reverse(), ...Array.from({ length: ORDERS }, () => shuffled(map.length, random))];
    const counts = Array.from({ length: PASSES + 1 }, (_, i) => Math.round((i * map.length) / PASSES));
    const steps = [...new Set(counts)].filter((count) => count < map.length); // one patch at least stays
    const at = steps.map((count) => count / map.length);
    const curves = orders.map(() => []);
    this.canvas.hidden = false;
    for (const count of steps) {
      for (const [n, each] of orders.entries()) {
        curves[n].push(count || n === 0 ? await falls(each.slice(0, count)) : curves[0][0]);
        signal.throwIfAborted();
      }
      this.draw(curves, at);
      this.words.textContent = `${percent(count / map.length)} of the patches are hidden …`;
    }
    const found = summary({ map: curves[0], reverse: curves[1], random: curves.slice(2) }, at);
    this.words.textContent = inWords(found, target);
    this.canvas.setAttribute("aria-label", `Probability of ${target} while patches are hidden: in the map's order, in the reverse order, and in ${ORDERS} random orders`);
    return found;
  }

  draw(curves, at) {
    const scale = Math.max(1, window.devicePixelRatio || 1);
    [this.canvas.width, this.canvas.height] = CHART.map((side) => side * scale);
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const ink = getComputedStyle(this.box).color;
    const [width, height] = CHART;
    const [left, top, right, bottom] = [38, 10, width - 90, height - 28];
    const place = (share, probability) => [left + share * (right - left), bottom - probability * (bottom - top)];
    pen.strokeStyle = pen.fillStyle = ink;
    pen.font = "11px system-ui, sans-serif";
    pen.strokeRect(left, top, right - left, bottom - top);
    pen.fillText("100%", 4, top + 8);
    pen.fillText("0%", 16, bottom);
    pen.fillText("patches hidden", left, height - 8);
    const named = [["at random", "#8a8a8a"], ["the reverse", "#d55e00"], ["the map's order", "#2a7fc9"]];
    const lines = [...curves.slice(2).map((curve) => [curve, ...named[0], 1]), [curves[1], ...named[1], 2.5], [curves[0], ...named[2], 2.5]];
    for (const [curve, , colour, wide] of lines) {
      pen.strokeStyle = colour;
      pen.lineWidth = wide;
      pen.beginPath();
      curve.forEach((probability, i) => pen[i ? "lineTo" : "moveTo"](...place(at[i], probability)));
      pen.stroke();
    }
    named.reverse().forEach(([name, colour], n) => {
      pen.fillStyle = colour;
      pen.fillRect(right + 6, top + 4 + 18 * n, 9, 9);
      pen.fillStyle = ink;
      pen.fillText(name, right + 19, top + 12 + 18 * n, 70);
    });
  }
}
