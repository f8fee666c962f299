// The network in a Worker, so that the page answers while it computes; where there is no Worker, in
// the page itself.

import { fitImage, normalize, opaque } from "./image.js";
import { readSafetensors } from "./safetensors.js";
import { VisionTransformer } from "./vit.js";
import { attentionGradients, chefer } from "./vit_backward.js";

// What the engine can be asked for, each by one message. `img_size` among the options asks the
// network resized to it.
function engineTasks() {
  const networks = new Map();
  const of = ({ img_size = "own" } = {}) => {
    if (!networks.has(img_size)) networks.set(img_size, networks.get("own").resized(img_size));
    return networks.get(img_size);
  };
  return {
    load: (config, weights) => { networks.set("own", new VisionTransformer(config, readSafetensors(weights))); },
    // what `decodeImage` returned -> { pixels, box, input }: bytes, where they lie, and what `forward` takes
    fit: (image, { mean, std }, img_size, fit) => {
      const fitted = fitImage(opaque(image, mean.length), img_size, fit);
      return { ...fitted, input: normalize(fitted.pixels, mean, std) };
    },
    forward: (input, options) => of(options).forward(input, options),
    // the logits of many images, each looked at in its own way
    logits: (pairs) => pairs.map(([input, options]) => of(options).forward(input, { ...options, attention: false }).logits),
    chefer: (input, target, options) => {
      const vit = of(options);
      const { logits, ...record } = attentionGradients(vit, input, target, options);
      return { logits, relevance: chefer(vit.config, record) };
    },
  };
}

// The buffers in an answer, which go over to the page without a copy.
function buffersIn(value) {
  if (ArrayBuffer.isView(value)) return [value.buffer];
  return value && typeof value === "object" ? Object.values(value).flatMap(buffersIn) : [];
}

// The Worker's side.
export function serve(worker) {
  const tasks = engineTasks();
  worker.onmessage = ({ data: { name, args } }) => {
    try {
      const answer = tasks[name](...args);
      worker.postMessage({ answer }, buffersIn(answer));
    } catch (error) {
      worker.postMessage({ error: error.message });
    }
  };
}

// A Worker that runs the text of this module and of all that it imports.
function inWorker(source) {
  const text = `${source.replaceAll(/^export /gm, "")}\nserve(self);\n`;
  const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const forget = () => URL.revokeObjectURL(url);
  try {
    const worker = new Worker(url);
    const run = (name, args) => new Promise((answered, failed) => {
      worker.onmessage = ({ data }) => ("error" in data ? failed(new Error(data.error)) : answered(data.answer));
      worker.onerror = (event) => failed(new Error(event.message ?? "a Worker may not start here"));
      worker.postMessage({ name, args });
    });
    const stop = () => {
      worker.terminate();
      forget();
    };
    return { run, stop, where: "worker" };
  } catch (error) {
    forget();
    throw error;
  }
}

function inPage() {
  const tasks = engineTasks();
  const run = async (name, args) => {
    await new Promise((turn) => { setTimeout(turn); }); // the page draws in between
    return tasks[name](...args);
  };
  return { run, stop: () => {}, where: "page" };
}

// Loads a network: `config` is that of its card, `weights` the bytes of its .safetensors file, `source`
// this module and all that it imports as one text (`join_modules`), for the Worker.
export async function startEngine({ source, config, weights }) {
  for (const place of [() => inWorker(source), inPage]) {
    let runner;
    try {
      runner = place();
      await runner.run("load", [config, weights]);
      return new Engine(runner);
    } catch (error) {
      runner?.stop();
      if (place === inPage) throw error; // of the weights, not of the Worker
    }
  }
}

const stoppedError = () => new DOMException("the engine was stopped", "AbortError");

// One task runs at a time, the others wait. A task whose signal (of an AbortController) aborts is
// rejected at once, and not begun if it still waits: so the page forgets what it no longer needs.
export class Engine {
  constructor(runner) {
    Object.assign(this, { runner, where: runner.where, waiting: [], running: null, stopped: false });
  }

  // What a forward pass returns, for the options that vit.js lists, and `img_size`.
  forward(input, options, { signal } = {}) {
    return this.ask("forward", [input, options], signal);
  }

  // The logits of each of many [input, options].
  logits(pairs, { signal } = {}) {
    return this.ask("logits", [pairs], signal);
  }

  // What speaks for class `target`: { logits, relevance: a number for each visible patch }.
  chefer(input, target, options, { signal } = {}) {
    return this.ask("chefer", [input, target, options], signal);
  }

  // Makes an image ready that `decodeImage` returned; `reading` has a mean and std for each channel.
  fit(image, reading, img_size, fit = "crop", { signal } = {}) {
    return this.ask("fit", [image, reading, img_size, fit], signal);
  }

  // What runs and what waits is rejected, and whatever is asked for later.
  stop() {
    this.runner.stop();
    this.stopped = true;
    for (const task of [this.running, ...this.waiting.splice(0)]) task?.failed(stoppedError());
  }

  ask(name, args, signal) {
    return new Promise((answered, failed) => {
      signal?.throwIfAborted();
      if (this.stopped) throw stoppedError();
      const task = { name, args, answered, failed };
      signal?.addEventListener("abort", () => {
        this.waiting = this.waiting.filter((other) => other !== task);
        failed(signal.reason);
      }, { once: true });
      this.waiting.push(task);
      this.next();
    });
  }

  async next() {
    if (this.running || !this.waiting.length) return;
    this.running = this.waiting.shift();
    const { name, args, answered, failed } = this.running;
    await this.runner.run(name, args).then(answered, failed);
    this.running = null;
    this.next();
  }
}
