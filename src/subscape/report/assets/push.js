// Pushing a subnetwork: a slider in units of its own δ, and what outputs do.

/** The δ a subnetwork was measured at, on the side where its own rows move most; 1 where it was not. */
const ownDelta = (k) => (all[k].sweep ? endsOf(all[k])[0].delta : 1);
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
