// What a person has changed, with a way back, and as the end of an address.

import { UNTOUCHED } from "./live_network.js";

export class Changes {
  constructor(changed) {
    this.now = UNTOUCHED;
    this.past = [];
    this.changed = changed;
  }

  // `together` joins what belongs to one stroke into one step back.
  set(values, together = false) {
    if (!together) this.past.push(this.now);
    this.now = { ...this.now, ...values };
    this.changed();
  }

  undo() {
    if (!this.past.length) return;
    this.now = this.past.pop();
    this.changed();
  }

  reset() {
    if (this.untouched()) return;
    this.set({ ...UNTOUCHED, how: this.now.how });
  }

  untouched() {
    const { hidden, order, positions, silenced, temperature } = this.now;
    return !hidden.length && !order && positions && !silenced.length && temperature === 1;
  }

  toggleHead(number) {
    const { silenced } = this.now;
    const without = silenced.filter((other) => other !== number);
    this.set({ silenced: without.length < silenced.length ? without : [...silenced, number] });
  }

  toggleLayer(layer, heads) {
    const all = Array.from({ length: heads }, (_, h) => layer * heads + h);
    const others = this.now.silenced.filter((number) => !all.includes(number));
    const off = this.now.silenced.length - others.length === heads;
    this.set({ silenced: off ? others : [...others, ...all] });
  }
}

const numbers = (text) => (text ? text.split(".").filter(Boolean).map(Number) : []);

// Only what differs from the untouched network is written.
export function toHash({ hidden, how, order, positions, silenced, temperature }, also) {
  const parts = { ...also };
  if (hidden.length) Object.assign(parts, { hidden: hidden.join("."), how });
  if (order) parts.order = order.join(".");
  if (!positions) parts.positions = "off";
  if (silenced.length) parts.silenced = silenced.join(".");
  if (temperature !== 1) parts.temperature = temperature;
  return `#${new URLSearchParams(parts)}`;
}

// What an address asks for, as far as it is there; nonsense is left out.
export function fromHash(hash, { num_patches, heads, hows }) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const within = (name, length) => [...new Set(numbers(given.get(name)))].filter((n) => Number.isInteger(n) && n >= 0 && n < length);
  const order = within("order", num_patches);
  const temperature = Number(given.get("temperature") ?? 1);
  return {
    hidden: within("hidden", num_patches).slice(0, num_patches - 1), // one stays
    how: hows.includes(given.get("how")) ? given.get("how") : UNTOUCHED.how,
    order: order.length === num_patches ? order : null,
    positions: given.get("positions") !== "off",
    silenced: within("silenced", heads),
    temperature: temperature >= 0.1 && temperature <= 10 ? temperature : 1,
  };
}
