// A small Vision Transformer that runs here, with the heads that have not been clicked away.
// What a change of a layer leaves as it was is not computed again.

const SLICE = 12; // milliseconds of counting between two moments for the page

// y[r] = weight x[r] + bias, for `rows` rows; four outputs at a time.
function linear(x, rows, ins, weight, bias, outs, y) {
  for (let r = 0; r < rows; r++) {
    const at = r * ins;
    let o = 0;
    for (; o + 3 < outs; o += 4) {
      let [a, b, c, d] = [bias[o], bias[o + 1], bias[o + 2], bias[o + 3]];
      const [p, q, s, t] = [o * ins, (o + 1) * ins, (o + 2) * ins, (o + 3) * ins];
      for (let i = 0; i < ins; i++) {
        const value = x[at + i];
        a += value * weight[p + i];
        b += value * weight[q + i];
        c += value * weight[s + i];
        d += value * weight[t + i];
      }
      const to = r * outs + o;
      y[to] = a;
      y[to + 1] = b;
      y[to + 2] = c;
      y[to + 3] = d;
    }
    for (; o < outs; o++) {
      let sum = bias[o];
      for (let i = 0; i < ins; i++) sum += x[at + i] * weight[o * ins + i];
      y[r * outs + o] = sum;
    }
  }
}

function layerNorm(x, rows, dim, weight, bias, eps, y) {
  for (let r = 0; r < rows; r++) {
    let mean = 0;
    let square = 0;
    for (let i = 0; i < dim; i++) mean += x[r * dim + i];
    mean /= dim;
    for (let i = 0; i < dim; i++) square += (x[r * dim + i] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / dim + eps);
    for (let i = 0; i < dim; i++) y[r * dim + i] = (x[r * dim + i] - mean) * scale * weight[i] + bias[i];
  }
}

// The error function, to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - tail * Math.exp(-x * x));
}

export function softmax(values) {
  const most = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

export function network(sizes, weights, places, pixels, mean, std) {
  const { dim, depth, heads, hidden, grid, patch, channels, side, prefix, eps } = sizes;
  const patches = grid[0] * grid[1];
  const tokens = patches + prefix;
  const wide = dim / heads;
  const tensor = (name) => weights.subarray(places[name]);
  const layers = Array.from({ length: depth }, (_, l) => {
    const names = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"];
    return Object.fromEntries(names.map((name) => [name, [tensor(`blocks.${l}.${name}.weight`), tensor(`blocks.${l}.${name}.bias`)]]));
  });
  const projection = [tensor("patch_embed.proj.weight"), tensor("patch_embed.proj.bias")];
  const positions = tensor("pos_embed");
  const [norm, head] = ["norm", "head"].map((name) => [tensor(`${name}.weight`), tensor(`${name}.bias`)]);
  const classes = sizes.classes;
  const made = (length) => new Float32Array(length);
  const inputs = Array.from({ length: depth }, () => made(sizes.images * tokens * dim)); // of each layer
  const [x, normed, qkv] = [made(tokens * dim), made(tokens * dim), made(3 * tokens * dim)];
  const [mixed, added, inner] = [made(tokens * dim), made(tokens * dim), made(tokens * hidden)];
  const scores = made(tokens);
  const logits = made(classes);

  function embed(image) {
    const flat = made(patches * channels * patch * patch);
    const start = image * channels * side[0] * side[1];
    let to = 0;
    for (let n = 0; n < patches; n++) {
      const [top, left] = [Math.floor(n / grid[1]) * patch, (n % grid[1]) * patch];
      for (let c = 0; c < channels; c++) {
        for (let i = 0; i < patch; i++) {
          for (let j = 0; j < patch; j++) {
            const value = pixels[start + (c * side[0] + top + i) * side[1] + left + j];
            flat[to++] = (value / 255 - mean[c]) / std[c];
          }
        }
      }
    }
    linear(flat, patches, channels * patch * patch, ...projection, dim, x.subarray(prefix * dim));
    if (prefix) x.set(tensor("cls_token").subarray(0, dim));
    for (let i = 0; i < tokens * dim; i++) x[i] += positions[i];
  }

  // Head h of a layer: its part of `mixed`, and, if asked for, the weights of all queries.
  function attend(h, queries, table) {
    const [own, scale] = [h * wide, 1 / Math.sqrt(wide)];
    for (let i = 0; i < queries; i++) {
      let most = -Infinity;
      for (let j = 0; j < tokens; j++) {
        let score = 0;
        for (let d = 0; d < wide; d++) score += qkv[i * 3 * dim + own + d] * qkv[j * 3 * dim + dim + own + d];
        scores[j] = score * scale;
        most = Math.max(most, scores[j]);
      }
      let sum = 0;
      for (let j = 0; j < tokens; j++) sum += scores[j] = Math.exp(scores[j] - most);
      for (let d = 0; d < wide; d++) mixed[i * dim + own + d] = 0;
      for (let j = 0; j < tokens; j++) {
        const weight = scores[j] / sum;
        if (table) table[i * tokens + j] = weight;
        for (let d = 0; d < wide; d++) mixed[i * dim + own + d] += weight * qkv[j * 3 * dim + 2 * dim + own + d];
      }
    }
  }

  // Logits of an image, computed anew from layer `from` on; `keep` tells which heads are left.
  // With `maps`, it is given what each head attends to: maps[layer][head] of patches.
  function run(image, from, keep, maps) {
    const start = image * tokens * dim;
    if (from === 0) {
      embed(image);
      inputs[0].set(x, start);
    } else x.set(inputs[from].subarray(start, start + tokens * dim));
    for (let l = from; l < depth; l++) {
      if (l > from) inputs[l].set(x, start);
      const layer = layers[l];
      // of the last layer, only what the head reads is needed
      const queries = l === depth - 1 && prefix ? 1 : tokens;
      layerNorm(x, tokens, dim, ...layer.norm1, eps, normed);
      linear(normed, tokens, dim, ...layer["attn.qkv"], 3 * dim, qkv);
      mixed.fill(0);
      for (let h = 0; h < heads; h++) {
        const kept = keep[l * heads + h];
        if (!kept && !maps) continue;
        const table = maps ? made(queries * tokens) : null;
        attend(h, queries, table);
        if (!kept) {
          for (let i = 0; i < queries; i++) mixed.fill(0, i * dim + h * wide, i * dim + (h + 1) * wide);
        }
        if (maps) maps[l][h] = seen(table, queries);
      }
      linear(mixed, queries, dim, ...layer["attn.proj"], dim, added);
      for (let i = 0; i < queries * dim; i++) x[i] += added[i];
      layerNorm(x, queries, dim, ...layer.norm2, eps, normed);
      linear(normed, queries, dim, ...layer["mlp.fc1"], hidden, inner);
      for (let i = 0; i < queries * hidden; i++) inner[i] *= 0.5 * (1 + erf(inner[i] * Math.SQRT1_2));
      linear(inner, queries, hidden, ...layer["mlp.fc2"], dim, added);
      for (let i = 0; i < queries * dim; i++) x[i] += added[i];
    }
    const rows = prefix ? 1 : tokens;
    layerNorm(x, rows, dim, ...norm, eps, normed);
    for (let i = 0; i < dim; i++) {
      let sum = 0;
      for (let r = 0; r < rows; r++) sum += normed[r * dim + i];
      normed[i] = sum / rows;
    }
    linear(normed, 1, dim, ...head, classes, logits);
    return logits;
  }

  // What the answer's token attends to among the patches; without CLS, the mean of all tokens.
  function seen(table, queries) {
    const rows = prefix ? 1 : queries;
    return Float32Array.from({ length: patches }, (_, n) => {
      let sum = 0;
      for (let i = 0; i < rows; i++) sum += table[i * tokens + prefix + n];
      return sum / rows;
    });
  }

  return { run };
}

// The interval that holds the true share with 95% (Wilson 1927).
export function interval(right, n) {
  const [share, z] = [right / n, 1.96];
  const middle = (share + z ** 2 / 2 / n) / (1 + z ** 2 / n);
  const reach = (z / (1 + z ** 2 / n)) * Math.sqrt((share * (1 - share)) / n + z ** 2 / 4 / n ** 2);
  return [100 * (middle - reach), 100 * (middle + reach)];
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const [sizes, labels, classes, orders] = ["sizes", "labels", "classes", "orders"].map(get);
  const { depth, heads, grid, side, channels } = sizes;
  const palette = bytesOf(get("palette"));
  const pixels = bytesOf(get("pixels"));
  const weights = new Float32Array(bytesOf(get("weights")).slice().buffer);
  const net = network({ ...sizes, classes: classes.length }, weights, get("places"), pixels, get("mean"), get("std"));
  const count = labels.length;
  const stale = new Uint8Array(count); // the first layer that has to be computed anew, of each image
  const said = new Int16Array(count);

  const root = element("div", "explorer pruning-explorer", el);
  const bar = element("div", "ex-row pe-bar", root);
  const rules = Object.keys(orders);
  let rule = rules[0];
  const ruleBox = element("div", "ex-row", bar);
  ruleBox.setAttribute("role", "group");
  ruleBox.setAttribute("aria-label", "Which head goes first");
  const ruleButtons = rules.map((name) => {
    const button = element("button", "ex-button", ruleBox, name);
    button.type = "button";
    button.addEventListener("click", () => follow(name, Math.min(get("gone").length, orders[name].length)));
    return button;
  });
  const sliderBox = element("label", "ex-row", bar);
  element("span", "ex-title", sliderBox, "heads taken away");
  const slider = element("input", "pe-slider", sliderBox);
  slider.type = "range";
  slider.min = "0";
  slider.max = String(depth * (heads - 1));
  slider.addEventListener("input", () => follow(rule, Number(slider.value)));
  const number = element("span", "pe-count", sliderBox);

  const main = element("div", "pe-main", root);
  const left = element("div", "pe-left", main);
  const picture = element("canvas", "pe-picture", left);
  picture.setAttribute("role", "img");
  const words = element("div", "pe-words", left);
  const others = element("div", "ex-row", left);
  others.setAttribute("role", "group");
  others.setAttribute("aria-label", "Image");
  const otherButtons = get("candidates").map((image) => {
    const button = element("button", "pe-other", others);
    button.type = "button";
    button.title = `image ${image}`;
    button.setAttribute("aria-label", `image ${image}, ${classes[labels[image]]}`);
    button.addEventListener("click", () => {
      note = "";
      change({ shown: image });
    });
    return { button, image, canvas: element("canvas", "", button) };
  });

  const right = element("div", "pe-right", main);
  element("div", "ex-title", right, "Where each head looks (click one: it goes, or comes back)");
  const table = element("div", "pe-table", right);
  table.style.gridTemplateColumns = `max-content repeat(${heads}, max-content)`;
  element("span", "", table);
  for (let h = 0; h < heads; h++) element("span", "ex-note", table, `head ${h}`);
  const cells = Array.from({ length: depth * heads }, (_, n) => {
    const [l, h] = [Math.floor(n / heads), n % heads];
    if (h === 0) element("span", "ex-note", table, `layer ${l}`);
    const button = element("button", "pe-head", table);
    button.type = "button";
    button.setAttribute("aria-label", `layer ${l}, head ${h}`);
    button.addEventListener("click", () => toggle(n));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: heads, ArrowUp: -heads }[event.key];
      if (!step) return;
      cells[n + step]?.button.focus();
      event.preventDefault();
      event.stopPropagation();
    });
    return { button, canvas: element("canvas", "", button) };
  });
  const score = element("div", "pe-score", right);
  const track = element("div", "pe-track", score);
  const fill = element("div", "pe-fill", track);
  const reach = element("div", "pe-reach", track);
  const mark = element("div", "pe-mark", track);
  const scoreWords = element("div", "pe-score-words", score);
  scoreWords.setAttribute("aria-live", "polite");
  element("div", "ex-note pe-help", root, "The network runs in your browser, on every image, for any heads you choose. The line in the bar is the accuracy with all heads, the thick stroke its 95% interval. With the keyboard: Tab to a head, arrow keys to its neighbours, Space to take it away.");

  // ---- State ----

  const most = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
  const whole = get("whole"); // right with all heads
  let before = new Set();
  let counting = 0;
  let saving = 0;
  let note = "";

  function change(values) {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    clearTimeout(saving);
    saving = setTimeout(() => model.save_changes(), 200);
  }

  function follow(name, much) {
    rule = name;
    change({ gone: orders[name].slice(0, much).sort((a, b) => a - b) });
    showRule();
  }

  function toggle(n) {
    const gone = new Set(get("gone"));
    const layer = Math.floor(n / heads);
    if (!gone.delete(n)) gone.add(n);
    note = "";
    if (cells.slice(layer * heads, (layer + 1) * heads).every((_, h) => gone.has(layer * heads + h))) {
      gone.delete(n);
      note = ` Layer ${layer} must keep a head.`;
    }
    change({ gone: [...gone].sort((a, b) => a - b) });
    showPicture();
  }

  // ---- Drawing ----

  function draw(canvas, image, heat) {
    const [height, width] = side;
    const small = document.createElement("canvas");
    [small.width, small.height] = [width, height];
    const data = new ImageData(width, height);
    const start = image * channels * height * width;
    for (let i = 0; i < height * width; i++) {
      for (let c = 0; c < 3; c++) {
        const value = pixels[start + (channels === 1 ? 0 : c * height * width) + i];
        data.data[4 * i + c] = channels === 1 ? 255 - value : value; // ink on white
      }
      data.data[4 * i + 3] = 255;
    }
    small.getContext("2d").putImageData(data, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    if (heat) paint(context, heat, 0.8);
  }

  function paint(context, heat, strength) {
    const top = Math.max(...heat);
    const [high, across] = [context.canvas.height / grid[0], context.canvas.width / grid[1]];
    heat.forEach((value, n) => {
      const at = 3 * Math.round((255 * value) / top);
      const colour = palette.subarray(at, at + 3).join(" ");
      const alpha = strength === 1 ? 1 : (strength * value) / top;
      context.fillStyle = `rgb(${colour} / ${alpha})`;
      context.fillRect((n % grid[1]) * across, Math.floor(n / grid[1]) * high, across, high);
    });
  }

  function keep() {
    const kept = new Uint8Array(depth * heads).fill(1);
    for (const n of get("gone")) kept[n] = 0;
    return kept;
  }

  function showPicture() {
    const [image, kept] = [get("shown"), keep()];
    const maps = Array.from({ length: depth }, () => []);
    const answer = softmax([...net.run(image, 0, kept, maps)]);
    stale[image] = depth;
    const best = most(answer);
    said[image] = best;
    const last = maps[depth - 1].filter((_, h) => kept[(depth - 1) * heads + h]);
    const heat = Array.from(last[0], (_, i) => last.reduce((sum, map) => sum + map[i], 0) / last.length);
    draw(picture, image, heat);
    words.textContent = `says ${classes[best]}, ${Math.round(100 * answer[best])}% (it is ${classes[labels[image]]}).${note}`;
    words.classList.toggle("pe-wrong", best !== labels[image]);
    picture.setAttribute("aria-label", `image ${image}: ${words.textContent}`);
    cells.forEach(({ button, canvas }, n) => {
      paint(canvas.getContext("2d"), [...maps[Math.floor(n / heads)][n % heads]], 1);
      button.setAttribute("aria-pressed", String(!kept[n]));
    });
    otherButtons.forEach(({ button, image: other }) => button.setAttribute("aria-pressed", String(other === image)));
  }

  function showRule() {
    const gone = get("gone");
    const order = orders[rule] ?? [];
    const same = gone.length === 0 || order.slice(0, gone.length).every((n) => gone.includes(n));
    ruleButtons.forEach((button, i) => button.setAttribute("aria-pressed", String(same && rules[i] === rule)));
    slider.value = String(gone.length);
    number.textContent = `${gone.length} of ${depth * heads}`;
  }

  function showScore(done, found) {
    const share = (100 * found) / done;
    const [low, high] = interval(found, done);
    fill.style.width = `${share}%`;
    reach.style.left = `${low}%`;
    reach.style.width = `${high - low}%`;
    mark.style.left = `${(100 * whole) / count}%`;
    score.classList.toggle("pe-counting", done < count);
    const { dim } = sizes;
    const lost = get("gone").length * ((dim / heads) * (4 * dim + 3));
    const parameters = `${Math.round((100 * (sizes.parameters - lost)) / sizes.parameters)}% of the parameters`;
    scoreWords.textContent = done < count
      ? `counting: ${done} of ${count} images`
      : `${found} of ${count} right: ${share.toFixed(1)}% (${low.toFixed(1)} to ${high.toFixed(1)}%); with all heads ${whole}. ${parameters}.`;
  }

  // ---- Counting ----

  function sweep() {
    clearTimeout(counting);
    const kept = keep();
    let next = 0;
    const step = () => {
      const until = performance.now() + SLICE;
      while (next < count && performance.now() < until) {
        if (stale[next] < depth) {
          said[next] = most(net.run(next, stale[next], kept));
          stale[next] = depth;
        }
        next++;
      }
      let found = 0;
      for (let i = 0; i < next; i++) found += said[i] === labels[i];
      showScore(next, found);
      if (next < count) counting = setTimeout(step, 0);
    };
    step();
  }

  function update() {
    const gone = new Set(get("gone"));
    const changed = [...gone].filter((n) => !before.has(n)).concat([...before].filter((n) => !gone.has(n)));
    const first = Math.min(depth, ...changed.map((n) => Math.floor(n / heads)));
    for (let i = 0; i < count; i++) stale[i] = Math.min(stale[i], first);
    before = gone;
    note = changed.length ? "" : note;
    showRule();
    showPicture();
    sweep();
  }

  const ratio = side[0] / side[1];
  for (const [canvas, size] of [[picture, 240], ...otherButtons.map(({ canvas }) => [canvas, 34]), ...cells.map(({ canvas }) => [canvas, 44])]) {
    [canvas.width, canvas.height] = [size, Math.round(size * ratio)];
  }
  for (const { image, canvas } of otherButtons) draw(canvas, image, null);
  update();
  const listeners = { gone: update, shown: showPicture };
  for (const [name, listener] of Object.entries(listeners)) model.on(`change:${name}`, listener);
  return () => {
    clearTimeout(saving);
    clearTimeout(counting);
    for (const [name, listener] of Object.entries(listeners)) model.off(`change:${name}`, listener);
  };
}

export default { render };
