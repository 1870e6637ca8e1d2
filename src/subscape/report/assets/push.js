// Pushing a subnetwork: a slider in units of its own δ, and what outputs do.

/** A typical δ, for those that none was measured of. */
const usualDelta = memo(() => {
  const known = all.map((s) => s.delta).filter((d) => d !== null).sort((a, b) => a - b);
  return known.length ? known[known.length >> 1] : 1;
});
/** The δ a subnetwork was measured at, on the side where its own rows move most. */
const ownDelta = (k) => (all[k].sweep ? endsOf(all[k])[0].delta : usualDelta());
/** How far first order holds, in own δ. */
const validTo = (k) => (all[k].validity_radius ?? 0) / Math.abs(ownDelta(k) || 1);
const multiple = (x) => `${fixed(x, 2).replace(/\.?0+$/, "")}×`;

/** A slider from −most to +most own δ, with the range shaded where first order holds. */
const deltaSlider = (k, x, most, moved) => {
  const at = (value) => `${50 + 50 * Math.max(-1, Math.min(1, value / most))}%`;
  const input = h("input.delta", { type: "range", min: -most, max: most, step: 0.05, value: x, "aria-label": `δ of subnetwork ${k}, in its own δ`,
    style: { "--from": at(-validTo(k)), "--to": at(validTo(k)) } });
  const say = () => input.setAttribute("aria-valuetext", `${multiple(Number(input.value))} its own δ, δ = ${signed(Number(input.value) * ownDelta(k))}`);
  input.addEventListener("input", () => { say(); moved(Number(input.value)); });
  say();
  return input;
};

const asFigure = (v) => (measures.logits ? percent(v) : number(v));
const still = (v) => Math.abs(v) < (measures.logits ? 5e-4 : 1e-9);
const asChange = (v) => (still(v) ? "±0" : measures.logits ? `${v > 0 ? "+" : MINUS}${(100 * Math.abs(v)).toFixed(1)}` : signed(v));

/** Outputs as [name, before, after]: a bar for after, a mark for before, the change beside them. */
const outcomes = (outputs, caption) => {
  const top = Math.max(1e-30, ...outputs.flatMap(([, a, b]) => [Math.abs(a), Math.abs(b)]));
  const scale = measures.logits ? Math.max(top, 0.1) : top;
  const share = (v) => `${(100 * Math.min(1, Math.abs(v) / scale)).toFixed(2)}%`;
  const row = ([name, before, after]) => h("tr", null, h("th", { scope: "row" }, token(name)),
    h("td.outcome", null, h("span.track", { "aria-hidden": "true" }, h(`span.fill${after < before ? ".less" : ""}`, { style: { width: share(after) } }), h("span.was", { style: { left: share(before) } }))),
    h("td.num", null, asFigure(after)), h(`td.num.change.${still(after - before) ? "still" : after < before ? "neg" : "pos"}`, null, asChange(after - before)));
  return h("table.outcomes", null, h("caption.unseen", null, caption),
    h("thead.unseen", null, h("tr", null, ...["output", "bar", "after", "change"].map((t) => h("th", { scope: "col" }, t)))), h("tbody", null, ...outputs.map(row)));
};

/** The sliders of a shared report: outputs of a few rows at the δ of its sweep, in between on a line. */
const pushPanel = (k) => {
  const rows = data.moving?.rows[k];
  if (!rows || !all[k].sweep || nearTexts) return null;
  const deltas = [...all[k].sweep.delta].sort((a, b) => a - b);
  const most = Math.abs(ownDelta(k));
  const between = (line, delta) => {
    const i = Math.max(1, deltas.findIndex((d) => d >= delta));
    const [a, b] = [line[i - 1], line[i]];
    const t = (delta - deltas[i - 1]) / (deltas[i] - deltas[i - 1]);
    return a === null || b === null ? null : a + t * (b - a);
  };
  const boxes = rows.map(() => h("div.pushed"));
  const exact = h("p.note");
  const draw = (x) => {
    const delta = Math.max(deltas[0], Math.min(deltas.at(-1), x * ownDelta(k)));
    exact.textContent = `δ = ${signed(delta)}, ${multiple(x)} its own${Math.abs(x) > validTo(k) ? ", beyond first order" : ""}`;
    rows.forEach((row, n) => {
      const sample = all[row.subnetwork].top_samples[row.place];
      const { image, label } = shownOf(sample);
      const outputs = row.outputs.map((i, j) => [data.moving.names[i] ?? outputName(i), between(row.values[j], 0), between(row.values[j], delta)]);
      put(boxes[n], h("h3", null, row.own ? "One of its own rows" : `A row of ${row.subnetwork}, rarely active together`),
        tokensOf(sample) ? context(sample, 0) : image ? h("img", { src: image, alt: label ?? "", width: 48, height: 48 }) : label !== undefined ? token(label) : null,
        outputs.some(([, , v]) => v === null) ? h("p.note", null, "Outputs are not finite there.") : outcomes(outputs, "Outputs before and after"));
    });
  };
  const slider = deltaSlider(k, 1, 1, draw);
  draw(1);
  return panel("Push it", "push", h("div.push", null, slider, exact), h("div.columns.three", null, ...boxes));
};
GLOSSARY.push = "Outputs of a few rows as this subnetwork is pushed, measured at the δ of its sweep and interpolated between. To the right is the side where its own rows move most compared with others. The black mark is where a bar is without a push. Shaded: where the gradient predicts what a push does.";
extras.push(pushPanel);
