// Drawings in SVG: spectrum, scatter, sweep, strips. Each gets numbers and gives an element.

const niceTicks = (low, high, about) => {
  const raw = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
};
const decades = (low, high) => {
  const from = Math.ceil(Math.log10(low) - 1e-9);
  const to = Math.floor(Math.log10(high) + 1e-9);
  const step = Math.max(1, Math.ceil((to - from) / 5));
  const ticks = [];
  // One or two powers of ten alone would leave the axis as good as unlabelled.
  if (to - from < 2) for (let e = from - 1; e <= to; e++) for (const m of [2, 5]) if (m * 10 ** e >= low && m * 10 ** e <= high) ticks.push(m * 10 ** e);
  for (let e = from; e <= to; e += step) ticks.push(10 ** e);
  return ticks;
};
/** A scale of one axis: place(value), its ticks and their labels. */
const axis = (low, high, from, to, log, label = number) => {
  const t = log ? Math.log10 : (x) => x;
  const span = t(high) - t(low) || 1;
  const place = (x) => from + ((t(x) - t(low)) / span) * (to - from);
  const ticks = log ? decades(low, high) : niceTicks(low, high, Math.abs(to - from) / (from > to ? 34 : 55));
  return { place, ticks, label };
};
const short = (x) => (Math.abs(x) < 1e-12 ? "0" : String(parseFloat(x.toPrecision(3))).replace("-", MINUS).replace(/e[+]?/, "e"));
const shortPercent = (x) => `${parseFloat((100 * x).toPrecision(2))}%`;

const H = 190;
/** Where the axes stand in a drawing as wide as its column, so that its text has the size of other text. */
const area = (width, left = 56) => ({ width, left, right: width - 10, top: 10, bottom: H - 34 });
/** The width of one of so many columns of a view. */
const columnWidth = (view, share, gap) => {
  const whole = view.clientWidth || 700;
  return Math.round(Math.max(280, innerWidth > 860 ? (whole - gap) * share : Math.min(whole, 620)));
};

const frame = (x, y, xLabel, yLabel, description, box) => {
  const parts = [];
  for (const value of y.ticks) {
    const at = y.place(value);
    parts.push(g("line.grid", { x1: box.left, x2: box.right, y1: at, y2: at }));
    parts.push(g("text", { x: box.left - 6, y: at + 3.5, "text-anchor": "end" }, y.label(value)));
  }
  for (const value of x.ticks) {
    const at = x.place(value);
    parts.push(g("line.tick", { x1: at, x2: at, y1: box.bottom, y2: box.bottom + 4 }));
    parts.push(g("text", { x: at, y: box.bottom + 15, "text-anchor": "middle" }, x.label(value)));
  }
  parts.push(g("line.axis", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }));
  parts.push(g("text.label", { x: (box.left + box.right) / 2, y: H - 3, "text-anchor": "middle" }, xLabel));
  parts.push(g("text.label", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(9 ${(box.top + box.bottom) / 2}) rotate(-90)` }, yLabel));
  return g("svg.chart", { viewBox: `0 0 ${box.width} ${H}`, role: "img", "aria-label": description }, ...parts);
};

/** Where a pointer is in the units of the viewBox. */
const within = (svg, event) => {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [at.x, at.y];
};

/** Points one can hover and click: each opens its subnetwork. */
const pickable = (svg, points, said, idle = "\u00a0") => {
  const ring = g("circle.ring", { r: 5, visibility: "hidden" });
  const readout = h("p.readout", null, idle);
  let current = null;
  svg.append(ring);
  svg.addEventListener("pointermove", (event) => {
    const [px, py] = within(svg, event);
    let best = 900;
    current = null;
    for (const point of points) {
      const far = (point.x - px) ** 2 + (point.y - py) ** 2;
      if (far < best) [best, current] = [far, point];
    }
    ring.setAttribute("visibility", current ? "visible" : "hidden");
    svg.classList.toggle("hit", current !== null);
    if (!current) return;
    ring.setAttribute("cx", current.x);
    ring.setAttribute("cy", current.y);
    readout.textContent = said(current.k);
  });
  svg.addEventListener("pointerleave", () => {
    ring.setAttribute("visibility", "hidden");
    readout.textContent = idle;
  });
  svg.addEventListener("click", () => {
    if (current) location.hash = `subnetwork-${current.k}`;
  });
  return h("div", null, svg, readout);
};

const describe = (k) => `${k}: active in ${percent(all[k].active_rate)} of rows, impact ${number(all[k].impact)}`;

/** The lower end of a logarithmic axis, and a function that lifts zeros onto it. */
const logFloor = (values) => {
  const positive = values.filter((v) => v > 0);
  const low = positive.length ? Math.min(...positive) : 0.1;
  const high = positive.length ? Math.max(...positive) : 1;
  const floor = 10 ** Math.floor(Math.log10(low) - 0.15);
  return { floor, top: 10 ** (Math.log10(high) + 0.12), lift: (v) => (v > 0 ? v : floor) };
};

const spectrum = () => {
  const box = area(columnWidth(overview, 0.5, 48), 62);
  const order = all.map((_, k) => k).sort((a, b) => all[b].active_rate - all[a].active_rate);
  const { floor, top, lift } = logFloor(all.map((s) => s.active_rate));
  const x = axis(1, Math.max(2, order.length), box.left + 6, box.right - 6, false, short);
  x.ticks = [1, ...x.ticks.filter((t) => t > order.length / 12 && t > 1 && t <= order.length && Number.isInteger(t))];
  const y = axis(floor, Math.max(top, floor * 10), box.bottom, box.top, true, shortPercent);
  const points = order.map((k, i) => ({ k, x: x.place(i + 1), y: y.place(lift(all[k].active_rate)) }));
  const rates = order.map((k) => all[k].active_rate);
  const svg = frame(x, y, "subnetworks, most active first", "active rate",
    `Active rates from ${percent(rates[0])} down to ${percent(rates[rates.length - 1])}, median ${percent(rates[rates.length >> 1])}.`, box);
  const line = points.map((p, i) => `${i ? "L" : "M"}${p.x.toFixed(1)} ${p.y.toFixed(1)}`).join("");
  if (points.length > 1) {
    svg.append(g("path.area", { d: `${line}L${points[points.length - 1].x} ${box.bottom}L${points[0].x} ${box.bottom}Z` }));
    svg.append(g("path.line.pos", { d: line }));
  }
  if (points.length <= 150) for (const p of points) svg.append(g(`circle.dot${all[p.k].active_rate > 0 ? "" : ".hollow"}`, { cx: p.x, cy: p.y, r: 1.8 }));
  const never = rates.filter((rate) => rate === 0).length;
  return pickable(svg, points, describe, never ? `${count(never)} never active, drawn hollow on the axis` : undefined);
};

const scatter = () => {
  const box = area(columnWidth(overview, 0.5, 48));
  const rates = logFloor(all.map((s) => s.active_rate));
  const sizes = logFloor(all.map((s) => s.impact));
  const x = axis(rates.floor, Math.max(rates.top, rates.floor * 10), box.left + 6, box.right - 6, true, shortPercent);
  const y = axis(sizes.floor, Math.max(sizes.top, sizes.floor * 10), box.bottom - 4, box.top, true, short);
  const points = all.map((s, k) => ({ k, x: x.place(rates.lift(s.active_rate)), y: y.place(sizes.lift(s.impact)) }));
  const svg = frame(x, y, "active rate", `impact, ${measures.unit}/δ`, "Impact against active rate, one point a subnetwork; the list of subnetworks holds the same numbers.", box);
  for (const p of points) svg.append(g("circle.dot.soft", { cx: p.x, cy: p.y, r: all.length > 300 ? 1.8 : 2.8 }));
  return pickable(svg, points, describe);
};

const CURVES = [["relevant", "relevant rows"], ["irrelevant", "other rows"], ["random", "random direction"]];

/** A line with gaps where the value is null. */
const broken = (xs, ys, x, y) => {
  let path = "";
  let pen = false;
  ys.forEach((value, i) => {
    if (value === null) { pen = false; return; }
    path += `${pen ? "L" : "M"}${x.place(xs[i]).toFixed(1)} ${y.place(value).toFixed(1)}`;
    pen = true;
  });
  return path;
};

const sweepChart = (subnetwork) => {
  const box = area(columnWidth(card, 1 / 2.55, 44));
  const { sweep, validity_radius: radius } = subnetwork;
  const rows = sweep.delta.map((d, i) => ({ d, i })).sort((a, b) => a.d - b.d).map(({ i }) => i);
  const xs = rows.map((i) => sweep.delta[i]);
  const curves = CURVES.map(([key, name]) => ({ key, name, ys: rows.map((i) => sweep[key][i]) }));
  const finite = curves.flatMap((c) => c.ys.filter((v) => v !== null));
  if (!xs.length || !finite.length) return h("p.note", null, "No finite effect was measured at any δ.");
  const high = Math.max(...finite);
  const low = Math.min(0, ...finite);
  const pad = (high - low || 1) * 0.06;
  const x = axis(xs[0], xs[xs.length - 1], box.left + 6, box.right - 6, false, short);
  const y = axis(low - (low < 0 ? pad : 0), high > low ? high + pad : low + 1, box.bottom, box.top, false, short);
  const svg = frame(x, y, "δ, how far the weights are moved", `change, ${measures.unit_of_changes}`,
    `Change of the outputs over δ from ${short(xs[0])} to ${short(xs[xs.length - 1])}; the numbers are in the table below.`, box);
  if (radius > 0) {
    const from = Math.max(box.left, x.place(Math.max(-radius, xs[0])));
    const to = Math.min(box.right, x.place(Math.min(radius, xs[xs.length - 1])));
    if (to > from) svg.prepend(g("rect.band", { x: from, width: to - from, y: box.top, height: box.bottom - box.top }, g("title", null, `first order holds up to |δ| = ${number(radius)}`)));
  }
  const [best, other] = endsOf(subnetwork);
  if (best.ratio > 1) svg.append(g("line.mark", { x1: x.place(best.delta), x2: x.place(best.delta), y1: box.top, y2: box.bottom }, g("title", null, `at δ = ${signed(best.delta)} its own rows move ${times(best.ratio)} as far as others`)));
  const holes = [];
  for (const { key, name, ys } of [...curves].reverse()) {
    svg.append(g(`path.line.${key}`, { d: broken(xs, ys, x, y) }));
    ys.forEach((value, i) => {
      if (value !== null) svg.append(g(`circle.point.${key}`, { cx: x.place(xs[i]), cy: y.place(value), r: 2 }));
      else svg.append(g(`text.hole.${key}`, { x: x.place(xs[i]), y: box.bottom - 3, "text-anchor": "middle" }, "×"));
    });
    const gaps = xs.filter((_, i) => ys[i] === null);
    if (gaps.length) holes.unshift(`${name} at δ = ${gaps.map(short).join(", ")}`);
  }
  const legend = h("ul.legend", { "aria-label": "Legend" }, ...CURVES.map(([key, name]) => h("li", null, g("svg", { viewBox: "0 0 22 8", width: 22, height: 8, "aria-hidden": "true" }, g(`path.line.${key}`, { d: "M0 4H22" })), name)));
  const table = h("details.numbers", null, h("summary", null, "Numbers"),
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Numbers of the sweep" }, h("table.small", null,
      h("thead", null, h("tr", null, h("th", { scope: "col" }, "δ"), ...CURVES.map(([, name]) => h("th", { scope: "col" }, name)))),
      h("tbody", null, ...xs.map((d, i) => h("tr", null, h("th", { scope: "row" }, short(d)), ...curves.map((c) => h("td", null, c.ys[i] === null ? "not finite" : number(c.ys[i])))))))));
  return h("div.sweep", null, legend, svg,
    other.own !== null && other.own < best.own / 3 && other.ratio !== null && other.ratio < 1 ? h("p.note.saturated", null, `Towards δ = ${signed(other.delta)} its own rows hardly move: their outputs are saturated on that side.`) : null,
    holes.length ? h("p.note.gaps", null, `× not finite, left out: ${holes.join("; ")}.`) : null,
    table);
};

/** A vector as a strip of small bars about zero. */
const strip = (values, width = 200, height = 30) => {
  const low = Math.min(0, ...values);
  const high = Math.max(0, ...values);
  const span = high - low || 1;
  const step = width / Math.max(1, values.length);
  const zero = (high / span) * height;
  const gap = step > 3 ? 1 : 0;
  const path = (sign) => values.map((v, i) => {
    if (v * sign <= 0) return "";
    const end = ((high - v) / span) * height;
    return `M${(i * step).toFixed(2)} ${zero.toFixed(2)}V${end.toFixed(2)}h${(step - gap).toFixed(2)}V${zero.toFixed(2)}Z`;
  }).join("");
  let largest = 0;
  values.forEach((v, i) => { if (Math.abs(v) > Math.abs(values[largest])) largest = i; });
  const said = values.length ? `${values.length} values, largest x${largest} = ${number(values[largest])}` : "no values";
  return g("svg.strip", { viewBox: `0 0 ${width} ${height}`, width, height, preserveAspectRatio: "none", role: "img", "aria-label": said },
    g("title", null, said), g("path.pos", { d: path(1) }), g("path.neg", { d: path(-1) }),
    g("line.axis", { x1: 0, x2: width, y1: zero, y2: zero }));
};
