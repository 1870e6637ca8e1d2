// The first view: what was decomposed, how well, and what the subnetworks look like together.

/** What a subnetwork is for, in one line: its commonest tokens or pictures, then the outputs it moves. */
const preview = (k, outputs = 2) => {
  const subnetwork = all[k];
  const parts = standing(subnetwork) ? [h("span.standing", null, STANDINGS[standing(subnetwork)])] : [];
  if (nameFor(k)) parts.push(h("span.rule", null, nameFor(k)));
  const pictured = hasImages ? subnetwork.top_samples.map((s) => [s, shownOf(s)]).filter(([, shown]) => shown.image).slice(0, 6) : [];
  if (pictured.length) parts.push(h("span.thumbs", null, ...pictured.map(([s, { image, label }]) => h("img", { src: image, alt: label ?? `sample ${s.sample}`, width: 24, height: 24, decoding: "async" }))));
  else if (subnetwork.top_samples.length) {
    const found = headlines(k).slice(0, 4);
    const values = meanOfTop(k);
    if (found.length) for (const [head, times] of found) parts.push(h("span.head", null, headChip(head), times > 1 ? h("small", null, `×${times}`) : null));
    else if (values.length) parts.push(strip(values, 90, 16));
  }
  const top = nearTexts ? null : subnetwork.top_outputs;
  for (const [direction, mark, name] of [["up", "▲", "raises"], ["down", "▼", "lowers"]]) {
    const list = (top ? top[direction] : []).slice(0, outputs);
    if (list.length) parts.push(h(`span.moves.${direction}`, null, h("span", { role: "img", "aria-label": name }, mark), ...list.map(([i]) => token(outputName(i)))));
  }
  return h("span.preview", null, ...parts);
};

/** On held-out rows where the decomposition knows them, otherwise as measured. */
const quality = {
  fvu: measures.quality.fvu, l0: measures.quality.l0, heldout_rows: measures.quality.n_rows,
  ...data.heldout, dead: all.filter((s) => standing(s) === 2).length / all.length,
};

const lede = () => {
  const { fvu, l0 } = quality;
  const n = all.length;
  const explained = `${percent(Math.max(0, 1 - fvu))} of the squared gradient.`;
  return h("p.lede", null, `${plural(n, "subnetwork")} of ${data.model}, found in ${plural(tensors.length, "tensor")} with ${plural(data.n_parameters, "parameter")}. `,
    n === 1 ? `On held-out rows it explains ${explained}` : `On an average held-out row ${fixed(l0, 1)} of them are active; together they explain ${explained}`);
};

const guide = () => h("details.guide", null, h("summary", null, "How to read this page"),
  h("p", null, "A subnetwork is one direction in the space of a model’s weights: a way to change all decomposed tensors at once, of low rank in each and of length 1. Directions are chosen such that, for any row of data, a few of them suffice to reconstruct the gradient of the divergence between the model’s output and a reference."),
  h("p", null, "Pushing a subnetwork by δ adds δ times its direction to the weights. Its impact on a row is how much that divergence changes per unit of δ: the rows of largest impact show what a subnetwork is for, and its top outputs show what it does there. A subnetwork worth naming is rarely active, changes the outputs of its own rows and leaves others alone: its sweep shows whether it does."),
  h("p", null, "Underlined terms are explained on hover, focus or tap. ", h("kbd", null, "←"), " ", h("kbd", null, "→"), " step through subnetworks in the order of the list, ", h("kbd", null, "/"), " searches, ", h("kbd", null, "Esc"), " goes back to the list."));

const stats = () => {
  return h("dl.stats", null,
    stat("Subnetworks", "subnetwork", count(all.length)),
    stat("Parameters", "parameters", count(data.n_parameters), `in ${plural(tensors.length, "tensor")}`),
    stat("FVU", "fvu", number(quality.fvu), `at L0 ${fixed(quality.l0, 1)}`),
    stat("L0", "l0", fixed(quality.l0, 1), `of ${count(all.length)}`),
    stat("Dead", "dead", percent(quality.dead)),
    stat("Held out", "heldout", count(quality.heldout_rows), "rows"),
    stat("Measured", "measured", count(measures.n_rows), `rows × ${plural(measures.n_references, "reference")}`));
};

const qualityPanel = () => {
  const { fvu, l0, fvu_row_by_row, l0_row_by_row } = quality;
  const rows = [{ name: "these, on held-out rows", fvu, l0, ours: true }];
  if (fvu_row_by_row !== undefined) rows.push({ name: "the same, chosen row by row", fvu: fvu_row_by_row, l0: l0_row_by_row, ours: true });
  if (data.heldout.fvu !== undefined) rows.push({ ...measures.quality, name: "these, on measured rows", ours: true });
  rows.push(...measures.quality.baselines);
  const top = Math.max(1, ...rows.map((r) => r.fvu));
  return panel("Reconstruction", "fvu",
    h("table.bars", null, h("caption.unseen", null, "Fraction of variance unexplained, lower is better"),
      h("thead", null, h("tr", null, h("th", { scope: "col" }, ""), h("th.num", { scope: "col" }, term("L0", "l0")), h("th", { scope: "col", colspan: 2 }, term("FVU", "fvu"), h("small", null, "lower is better")))),
      h("tbody", null, ...rows.map((r) => h(r.ours ? "tr.ours" : "tr", null, h("th", { scope: "row" }, r.name), h("td.num", null, fixed(r.l0, 1)), h("td.num", null, number(r.fvu)), h("td.barcell", null, bar(r.fvu / top)))))));
};

const meanShares = memo(() => tensors.map((_, t) => all.reduce((sum, s) => sum + s.tensors[t], 0) / all.length));
const mainCounts = memo(() => {
  const counts = tensors.map(() => 0);
  all.forEach((_, k) => counts[mainTensor(k)]++);
  return counts;
});
const sizes = (sizes) => (sizes.length ? sizes.join(" × ") : "scalar");

const tensorPanel = () => {
  const shares = meanShares();
  const top = Math.max(...shares) || 1;
  const rows = tensors.map((t, i) => h("tr", null, h("th", { scope: "row" }, tensorName(t.name)),
    h("td.num", null, sizes(t.shape)), h("td.num", null, t.ranks ? t.ranks.join(", ") || "–" : "full"),
    h("td.num", null, percent(shares[i]), h("small", null, `(${mainCounts()[i]})`)), h("td.barcell", null, bar(shares[i] / top))));
  const late = rows.slice(16);
  late.forEach((row) => { row.hidden = true; });
  const more = late.length ? h("button.more", { type: "button", onclick: () => { late.forEach((row) => { row.hidden = false; }); more.remove(); } }, `Show ${count(late.length)} more`) : null;
  return panel("Tensors", null, h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Tensors" }, h("table.bars.tensors", null,
    h("thead", null, h("tr", null, h("th", { scope: "col" }, "name"), h("th.num", { scope: "col" }, "shape"), h("th.num", { scope: "col" }, term("ranks", "ranks")), h("th", { scope: "col", colspan: 2 }, term("mean share of norm", "mean_norm_share")))),
    h("tbody", null, ...rows))), more);
};

const strongestPanel = () => {
  const order = all.map((_, k) => k).sort((a, b) => standing(all[a]) - standing(all[b]) || all[b].impact - all[a].impact).slice(0, 8);
  const top = impactShare(all[order[0]]) || 1;
  return panel("Largest impact", "impact",
    h("ol.leaders", null, ...order.map((k) => h("li", null, h("a", { href: `#subnetwork-${k}`, "aria-label": `subnetwork ${k}` }, h("span.idx", null, String(k)), h("span.num", null, percent(impactShare(all[k]))), bar(impactShare(all[k]) / top), preview(k, 3))))),
    h("p", null, h("a.all", { href: "#subnetworks" }, `All ${plural(all.length, "subnetwork")} →`)));
};

const settingsPanel = () => {
  const facts = [["model", data.model], ...Object.entries(data.settings), ["unit of impact", unit], ["subscape", measures.subscape_version]];
  return panel("Settings", null,
    h("dl.facts", null, ...facts.map(([key, value]) => h("div", null, h("dt", null, key.replaceAll("_", " ")), h("dd", null, typeof value === "number" ? String(value).replace("-", MINUS) : typeof value === "boolean" ? (value ? "yes" : "no") : value)))),
    h("ul.notes", null, ...data.notes.map((note) => h("li", null, note))));
};

const figuresPanel = () => panel("Figures", null, h("div.figures", null, ...data.figures.map((f) =>
  h("figure", null, h("img", { src: f.image, alt: `${f.title}. ${f.caption}` }), h("figcaption", null, h("strong", null, f.title), " ", f.caption)))));

const overview = document.getElementById("overview");

/** The top is drawn at once, the rest after the first paint. */
const drawOverview = memo(() => {
  overview.append(lede(), stats(), guide());
  if (data.figures.length) overview.append(figuresPanel());
  const rest = () => {
    overview.append(
      h("div.columns", null, strongestPanel(), h("div", null, qualityPanel())),
      h("div.columns", null, panel("Active rates", "spectrum", spectrum()), panel("Impact and active rate", "scatter", scatter())),
      tensorPanel());
    if (data.scorecard) overview.append(scorecardPanel());
    setTimeout(() => {
      if (all.length > 1) overview.append(panel("How subnetworks relate", null, maps()));
      overview.append(settingsPanel());
      overview.dataset.drawn = "all";
    }, 0);
  };
  requestAnimationFrame(() => setTimeout(rest, 0));
  return true;
});
