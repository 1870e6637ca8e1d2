// The two n × n maps: unpacking, ordering, drawing on canvas, reading out. Of very many subnetworks there are lists alone.

/** Undo `build.related`: an upper triangle, one or two bytes an entry; or the nearest of each. */
const unpack = (text) => {
  if (text.others) return (i, j) => text.values[i][text.others[i].indexOf(j)] ?? text.values[j][text.others[j].indexOf(i)] ?? null;
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const n = all.length;
  const wide = bytes.length === n * (n + 1);
  const [whole, one, none] = wide ? [new Int16Array(bytes.buffer), 32000, -32768] : [new Int8Array(bytes.buffer), 125, -128];
  return (i, j) => {
    const [a, b] = i < j ? [i, j] : [j, i];
    const packed = whole[a * n - (a * (a - 1)) / 2 + b - a];
    return packed === none ? null : packed / one;
  };
};
const memo = (make) => {
  let made;
  return Object.assign(() => (made ??= make()), { forget: () => { made = undefined; } });
};
const MAPS = {
  similarity: memo(() => unpack(data.similarity)),
  coactivation: memo(() => unpack(data.coactivation)),
};

const everyone = memo(() => all.map((_, k) => k));
/** Those whose value with k the page has. */
const listed = (name, k) => data[name].others?.[k] ?? everyone();
/** The others by value on a map, largest first. */
const neighbours = (name, k, howMany) => {
  const at = MAPS[name]();
  return listed(name, k).map((j) => [j, j === k ? null : at(k, j)]).filter(([, v]) => v !== null)
    .sort((a, b) => b[1] - a[1]).slice(0, howMany);
};
const strongest = (name, howMany) => {
  const at = MAPS[name]();
  const found = [];
  const once = (i, j) => i < j || (i > j && data[name].others && !listed(name, j).includes(i));
  for (let i = 0; i < all.length; i++) for (const j of listed(name, i)) {
    if (!once(i, j)) continue;
    const v = at(i, j);
    if (v === null || (found.length >= howMany && Math.abs(v) <= Math.abs(found[found.length - 1][2]))) continue;
    found.push([i, j, v]);
    found.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
    found.length = Math.min(found.length, howMany);
  }
  return found;
};

/** A chain in which each is followed by the most similar one left: blocks show without clustering. */
const chained = () => {
  const at = MAPS.similarity();
  const left = new Set(all.map((_, k) => k));
  let k = all.reduce((best, s, i) => (s.impact > all[best].impact ? i : best), 0);
  const order = [];
  while (true) {
    order.push(k);
    left.delete(k);
    if (!left.size) return order;
    let best = -Infinity;
    let next = k;
    for (const j of left) {
      const v = at(k, j) ?? -1;
      if (v > best) [best, next] = [v, j];
    }
    k = next;
  }
};
const by = (key) => () => all.map((_, k) => k).sort((a, b) => key(a) - key(b));
const ORDERS = {
  "similar together": memo(chained),
  "index": by((k) => k),
  "active rate": by((k) => -all[k].active_rate),
  "impact": by((k) => -all[k].impact),
  "main tensor": by((k) => mainTensor(k) - all[k].tensors[mainTensor(k)] / 2),
};

const rgb = (name) => {
  const [r, gr, b] = getComputedStyle(document.documentElement).getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((x) => parseInt(x, 16));
  return [r, gr, b];
};

const heatMap = (name, title) => {
  const n = all.length;
  const at = MAPS[name]();
  const pairs = strongest(name, 6);
  const list = pairs.length ? h("p.pairs", null, "Strongest: ", ...pairs.flatMap(([i, j, v], p) => [p ? " · " : "", link(i), "–", link(j), ` ${fixed(v)}`])) : null;
  if (data[name].others) return { node: h("div.map", null, h("div.map-head", null, h("h3", null, term(title, name))), list) };
  // To the largest entry off the diagonal, or the map would be as good as blank.
  const top = Math.min(1, Math.max(0.05, pairs.length ? Math.ceil(Math.abs(pairs[0][2]) * 20) / 20 : 1));
  const canvas = h("canvas", { width: 720, height: 720, tabindex: "0", role: "img",
    "aria-label": `${title} of ${n} × ${n} subnetworks, from ${MINUS}${top} to ${top}. Strongest pairs are listed below; arrow keys move over the map.` });
  const readout = h("p.readout", { "aria-live": "polite" }, "\u00a0");
  const [across, down] = [h("div.ticks.across"), h("div.ticks.down")];
  const axisName = h("p.axis-name");
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((step) => n / step <= 14) ?? Math.ceil(n / 14);
  /** The numbers of the subnetworks that stand at every so many rows and columns. */
  const label = (name) => {
    const places = order.map((k, i) => [k, `${((100 * (i + 0.5)) / n).toFixed(2)}%`]).filter((_, i) => i % every === 0);
    put(across, ...places.map(([k, at]) => h("span", { style: { left: at } }, String(k))));
    put(down, ...places.map(([k, at]) => h("span", { style: { top: at } }, String(k))));
    axisName.textContent = `subnetwork, by ${name === "similar together" ? "similarity" : name}${every > 1 ? `; every ${every}th is labelled` : ""}`;
  };
  const small = document.createElement("canvas");
  small.width = small.height = n;
  let order = ORDERS.index();
  let cell = null;

  const paint = () => {
    const [paper, pos, neg, none] = ["--map", "--pos-map", "--neg-map", "--line"].map(rgb);
    const pen = small.getContext("2d");
    const image = pen.createImageData(n, n);
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
      const v = i === j ? 0 : at(order[i], order[j]);
      const weight = v === null ? 0 : Math.min(1, Math.abs(v) / top);
      const from = v === null || i === j ? none : paper;
      const to = v > 0 ? pos : neg;
      const p = 4 * (i * n + j);
      for (let c = 0; c < 3; c++) image.data[p + c] = from[c] + (to[c] - from[c]) * weight;
      image.data[p + 3] = 255;
    }
    pen.putImageData(image, 0, 0);
    draw();
  };
  const draw = () => {
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = n > canvas.width;
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
    if (!cell) return;
    const size = canvas.width / n;
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.lineWidth = 1.5;
    pen.globalAlpha = 0.35;
    pen.strokeRect(0, cell[0] * size, canvas.width, size);
    pen.strokeRect(cell[1] * size, 0, size, canvas.height);
    pen.globalAlpha = 1;
    pen.strokeRect(cell[1] * size, cell[0] * size, Math.max(size, 2), Math.max(size, 2));
  };
  const point = (next) => {
    cell = next;
    draw();
    if (!cell) { readout.textContent = "\u00a0"; return; }
    const [a, b] = [order[cell[0]], order[cell[1]]];
    const v = at(a, b);
    readout.textContent = a === b ? `subnetwork ${a}` : `${a} and ${b}: ${v === null ? "none, one of them is never active" : fixed(v)}`;
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const clip = (x) => Math.max(0, Math.min(n - 1, Math.floor(x * n)));
    return [clip((event.clientY - box.top) / box.height), clip((event.clientX - box.left) / box.width)];
  };
  canvas.addEventListener("pointermove", (event) => point(under(event)));
  canvas.addEventListener("pointerleave", () => point(null));
  canvas.addEventListener("blur", () => point(null));
  canvas.addEventListener("click", (event) => { location.hash = `subnetwork-${order[under(event)[0]]}`; });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter" && cell) location.hash = `subnetwork-${order[cell[0]]}`;
    if (!moves[event.key]) return;
    event.preventDefault();
    const clip = (x) => Math.max(0, Math.min(n - 1, x));
    point(cell ? cell.map((x, i) => clip(x + moves[event.key][i])) : [0, 0]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

  const key = h("div.key", { "aria-hidden": "true" }, `${MINUS}${top}`, h("span.ramp"), `${top}`);
  const node = h("div.map", null, h("div.map-head", null, h("h3", null, term(title, name)), key),
    h("div.field", { style: { "max-width": `${Math.max(180, Math.min(620, 26 * n)) + 30}px` } }, h("div.ticks-box", { "aria-hidden": "true" }, down), canvas, h("div", { "aria-hidden": "true" }, across, axisName)), readout, list);
  return { node, order: (key) => { order = ORDERS[key](); cell = null; label(key); paint(); } };
};

const maps = () => {
  const both = [heatMap("similarity", "Similarity"), heatMap("coactivation", "Co-activation")];
  if (!both[0].order) return h("div.maps", null, ...both.map((m) => m.node));
  const select = h("select", { id: "map-order", onchange: () => both.forEach((m) => m.order(select.value)) },
    ...Object.keys(ORDERS).map((name) => h("option", { value: name }, name)));
  both.forEach((m) => m.order("similar together"));
  return h("div", null, h("p.control", null, h("label", { for: "map-order" }, "Order of rows and columns "), select),
    h("div.maps", null, ...both.map((m) => m.node)));
};
