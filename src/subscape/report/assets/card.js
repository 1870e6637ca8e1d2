// One subnetwork: drawn when it is opened.
const card = document.getElementById("card");
const wish = { outputs: false };
/** What else a card holds, under its figures: (k) => element or null. */
const extras = [];

const toward = (sample) => (sample.signed < 0 ? "neg" : "pos");
const place = (sample) => (sample.position === null ? `${sample.sample}` : `${sample.sample}:${sample.position}`);
const placeTip = (sample) => `Sample ${sample.sample}${sample.position === null ? "" : `, position ${sample.position}`}: impact ${number(sample.impact)}, signed ${signed(sample.signed)} ${unit}.`;

/** So many tokens before and after the relevant one show at once; longer contexts unfold. */
const SPAN = [24, 16];
const unfold = (text, label) => {
  const button = h("button.unfold", { type: "button", title: label, "aria-label": `Show ${label}`, onclick: () => button.replaceWith(h("span.after", null, shown(text, false))) }, "…");
  return button;
};

/** Where a window is shorter than the text it was cut from, a sentence seems to start in its middle. */
const edge = (does, side) => h("span.edge", { title: `The window ${does} here: the model was shown nothing ${side} it` });

const context = (sample, top) => {
  const tokens = tokensOf(sample);
  if (wholeTexts) return h("p.context", { dir: "auto" }, shown(tokens.join("").trimStart(), false));
  const at = placeIn(tokens, sample);
  const next = tokens[at + 1];
  const [from, to] = [Math.max(0, at - SPAN[0]), Math.min(tokens.length, at + SPAN[1])];
  const before = tokens.slice(from, at).join("");
  const after = tokens.slice(at + 2, to).join("");
  const rest = (part, side) => part.length ? unfold(part.join(""), plural(part.length, "token") + side) : null;
  const strength = 16 + 34 * (top > 0 ? sample.impact / top : 1);
  return h("p.context", { dir: "auto" }, from ? rest(tokens.slice(0, from), " before") : edge("starts", "before"), h("span.before", null, shown(from ? before : before.trimStart(), false)),
    h(/^[ \u2581]/.test(tokens[at]) ? "mark" : "mark.joined", { style: { "--strength": `${strength}%` } }, shown(tokens[at] || "(empty)", true)),
    next !== undefined ? h("span.after", null, next.match(/^[ \u2581]*/)[0].replace(/\u2581/g, " "), h("span.true", { title: "The token that truly comes next" }, shown(next.replace(/^[ \u2581]+/, ""), false))) : null,
    after ? h("span.after", null, shown(after, false)) : null, to < tokens.length ? rest(tokens.slice(to), " after") : edge("ends", "after"));
};

const moves = (sample) => {
  const lists = [["up", "▲", "raises"], ["down", "▼", "lowers"]].filter(([d]) => sample.outputs && sample.outputs[d].length);
  return lists.length ? h("p.moved", null, ...lists.map(([d, mark, name]) => h(`span.moves.${d}`, null, h("span", { role: "img", "aria-label": name }, mark), ...sample.outputs[d].map(([i, v]) => h("span.move", null, token(outputName(i)), h("small", null, signed(v))))))) : null;
};

const sampleRow = (sample, top) => {
  const { values, label } = shownOf(sample);
  let content = null;
  if (tokensOf(sample)) content = context(sample, top);
  else if (values) content = h("p.vector", null, label !== undefined ? token(label) : null, strip(values, 200, 24), peaks(values));
  else content = h("p", null, label !== undefined ? token(label) : `sample ${sample.sample}`);
  return h("li", null, h("div.size", { "data-tip": placeTip(sample) }, h("span.num", null, number(sample.impact)), bar(top > 0 ? sample.impact / top : 0)),
    h("div.what", null, h("span.unseen", null, placeTip(sample)), content, moves(sample)), h("span.place", { "data-tip": placeTip(sample), "aria-hidden": "true" }, place(sample)));
};
const peaks = (values) => {
  const order = values.map((v, i) => [i, v]).filter(([, v]) => v !== 0).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 2);
  return h("small", null, order.map(([i, v]) => `x${i} = ${number(v)}`).join(", ") || "all zero");
};

const sampleTile = (sample, top) => {
  const { image, label } = shownOf(sample);
  return h("li.tile", null,
    h("figure", null, h("img", { src: image, alt: `${label ?? "sample"} (sample ${sample.sample})`, width: 72, height: 72, decoding: "async" }),
      h("figcaption", { "data-tip": placeTip(sample) }, label !== undefined ? token(label) : null, h("span.num", null, number(sample.impact)), bar(top > 0 ? sample.impact / top : 0))),
    moves(sample));
};

const samplesPanel = (s) => {
  const samples = s.top_samples;
  const title = h("h2", null, term("Top samples", "top_samples"));
  if (!samples.length) return h("section.panel.samples", null, title, h("p.note", null, "None: this subnetwork had no impact on any measured row."));
  const top = Math.max(...samples.map((x) => x.impact));
  const tiled = samples.every((x) => shownOf(x).image);
  const listed = (some) => h(tiled ? "ul.tiles" : "ol.samples", null, ...some.map((x) => (tiled ? sampleTile(x, top) : sampleRow(x, top))));
  const sides = [["+δ takes further from the reference", "pos"], ["+δ brings nearer to the reference", "neg"]]
    .map(([said, kind]) => [said, samples.filter((x) => toward(x) === kind)]).filter(([, some]) => some.length);
  const items = h("div", null, ...sides.flatMap(([said, some]) => [h("h3.side-of", null, `${count(some.length)} that ${said}`), listed(some)]));
  items.classList.toggle("with-outputs", wish.outputs);
  const some = !nearTexts && samples.some((x) => x.outputs && (x.outputs.up.length || x.outputs.down.length));
  const toggle = some ? h("label.toggle", null, h("input", { type: "checkbox", checked: wish.outputs, onchange: (event) => { wish.outputs = event.target.checked; items.classList.toggle("with-outputs", wish.outputs); } }), " outputs of each") : null;
  return h("section.panel.samples", { "aria-label": "Top samples" }, h("div.panel-head", null, title, h("span.note", null, term(unit, "sample_impact")), toggle), items);
};

/** Where outputs have no names, the texts whose outputs lie that way. */
const nearPanel = ({ toward: to, away }) => {
  const side = (some, title) => h("div", null, h("h3", null, title), h("ol.texts", null, ...some.map((sample) => h("li", { dir: "auto" }, shown((tokensOf({ sample }) ?? []).join("").trimStart(), false)))));
  return panel("Where +δ takes its outputs", "near", side(to, "▲ towards"), side(away, "▼ away from"));
};

const outputsPanel = (s) => {
  const near = data.moving?.near?.[s.index];
  if (near) return nearPanel(near);
  const { up, down } = s.top_outputs;
  const top = Math.max(1e-30, ...[...up, ...down].map(([, v]) => Math.abs(v)));
  const side = (pairs, kind, title) => h(`div.side.${kind}`, null, h("h3", null, title),
    pairs.length ? h("ol", null, ...pairs.map(([i, v]) => h("li", null, token(outputName(i)), h("span.num", null, signed(v)), bar(Math.abs(v) / top)))) : h("p.note", null, "none"));
  return panel(measures.logits ? "Top outputs, Δ log p per unit δ" : "Top outputs per unit δ", "top_outputs", h("div.sides", null, side(down, "neg", "▼ lowered"), side(up, "pos", "▲ raised")));
};

const normPanel = (s) => {
  const order = tensors.map((_, t) => t).sort((a, b) => s.tensors[b] - s.tensors[a]);
  const row = (t) => h("li", null, tensorName(nameOf(t)), h("span.num", null, percent(s.tensors[t])), bar(s.tensors[t]));
  const late = order.slice(8);
  const rest = late.reduce((sum, t) => sum + s.tensors[t], 0);
  const items = h("ol.norms", null, ...order.slice(0, 8).map(row));
  const more = late.length ? h("button.more", { type: "button", onclick: () => { items.append(...late.map(row)); more.remove(); } }, `${count(late.length)} more tensors, ${percent(rest)}`) : null;
  return panel("Where its norm lies", "norm_share", items, more);
};

const relations = (title, key, pairs, places) => pairs.length ? panel(title, key, h("ol.near", null, ...pairs.map(([j, v]) => h("li", null, h("a", { href: `#subnetwork-${j}`, "aria-label": `subnetwork ${j}` }, h("span.idx", null, String(j)), h("span.num", null, fixed(v, places)), preview(j, 0)))))) : null;

const noteOf = (k) => (labelOf(k).note ? h("p.note.own", null, labelOf(k).note) : null);

const figures = (s) => {
  const rank = all.filter((o) => standing(o) < standing(s) || (standing(o) === standing(s) && o.impact > s.impact)).length + 1;
  const sel = s.selectivity || {};
  const facts = [
    standing(s) ? h("div.stat", null, h("dt", null, "Standing"), h("dd.standing", null, STANDINGS[standing(s)])) : null,
    stat("Active rate", "active_rate", percent(s.active_rate), oneIn(s.active_rate)),
    stat("Impact", "impact", number(s.impact), unit),
    stat("Signed mean", "impact_signed", signed(s.impact_signed)),
    stat("Share of impact", "impact_share", percent(impactShare(s)), `rank ${rank} of ${count(all.length)}`),
  ];
  if (typeof sel.auroc === "number") facts.push(stat("AUROC", "auroc", fixed(sel.auroc), typeof sel.auroc_random === "number" ? `random ${fixed(sel.auroc_random)}` : null));
  const [best, other] = s.sweep ? endsOf(s) : [];
  if (best && best.ratio !== null) facts.push(stat("Selectivity", "ratio", times(best.ratio), `at δ = ${signed(best.delta)}${other.ratio === null ? "" : `; ${times(other.ratio)} at ${signed(other.delta)}`}`));
  if (typeof s.validity_radius === "number") facts.push(stat("First order to", "validity_radius", s.validity_radius > 0 ? `|δ| ≤ ${number(s.validity_radius)}` : "no δ of the sweep"));
  return h("dl.stats", null, ...facts);
};

const drawCard = (k, focus) => {
  const s = all[k];
  const order = steps(k);
  const at = order.indexOf(k);
  const step = (by, label, mark) => {
    const other = order[at + by];
    return h("button.step", { type: "button", disabled: other === undefined, "aria-label": other === undefined ? `No ${label} subnetwork` : `${label} subnetwork, ${other}`, onclick: () => { location.hash = `subnetwork-${other}`; } }, mark);
  };
  const heading = h("h1", { id: "card-title", tabindex: "-1" }, `Subnetwork ${k}`, ...(labelOf(k).name ? [" ", h("small.rule", null, labelOf(k).name)] : []), ...(ruleName(k) ? [" ", h("small.rule", { title: "Named by rule: see the notes under Settings" }, ruleName(k))] : []));
  put(card,
    h("div.card-head", null, heading, h("p.where", null, `${count(at + 1)} of ${count(order.length)} by ${ranked() ? "fit" : column(state.sort).title === "#" ? "number" : column(state.sort).title}${order.length < all.length ? ", searched" : ""}`),
      h("div.steps", null, h("a.back", { href: "#subnetworks" }, "List"), step(-1, "Previous", "←"), step(1, "Next", "→"))),
    figures(s),
    screens.length ? null : noteOf(k),
    ...extras.map((extra) => extra(k)),
    h("div.card-body", null, samplesPanel(s),
      h("div.aside", null, s.top_outputs ? outputsPanel(s) : null, s.sweep ? panel("Pushing it", "sweep", sweepChart(s)) : null, normPanel(s))),
    h("div.columns.three", null,
      relations("Most similar", "similarity", all.length > 1 ? neighbours("similarity", k, 6) : [], 2),
      relations("Active together", "coactivation", all.length > 1 ? neighbours("coactivation", k, 6) : [], 2),
      relations("Interacts with", "partners", [...s.partners].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 6), 2)));
  if (focus) heading.focus({ preventScroll: true });
};
