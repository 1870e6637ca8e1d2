// What the page says: the data, numbers and tokens as text, and the glossary.
const data = JSON.parse(document.getElementById("data").textContent);
const measures = data.measures;
const all = measures.subnetworks;
const { tensors } = data;
const unit = `${measures.unit} per unit δ`;

const GLOSSARY = {
  subnetwork: "One direction in parameter space, low-rank in every matrix and of unit norm over all tensors. Pushing it by δ adds δ times that direction to the weights.",
  parameters: "How many parameters the decomposed tensors hold together. All others stay unchanged.",
  fvu: "Fraction of variance unexplained: squared error of the reconstructed gradients over their squared norm, on held-out rows. 0 is perfect; 1 is no better than reconstructing nothing. Compare it only at equal L0.",
  l0: "Mean number of subnetworks that are active in a row. The reconstruction of that row uses these alone.",
  dead: "Share of subnetworks active in at most one of 10,000 measured rows and references. They explain nothing; lists show them last, in grey.",
  heldout: "Rows that training did not see, on which FVU, L0 and the dead share are measured; a sample may occur several times, with different references. They also choose the best restart.",
  measured: "Rows of data, and reference outputs per row, over which impacts and active rates are averaged.",
  active_rate: "Share of measured rows and references at which the coefficient of this subnetwork reaches the threshold.",
  impact: `Mean size of the coefficient of this subnetwork over all measured rows and references, in ${unit}: the part of a gradient that its encoder assigns to it. If no other subnetwork points the same way, this is how much the divergence from the reference changes when it is pushed; where subnetworks overlap, they share that change.`,
  impact_signed: `The mean coefficient with its sign, in ${unit}. Near zero if rows pull in both directions.`,
  impact_share: "The impact of this subnetwork as a share of the sum over all subnetworks.",
  sample_impact: `Impact on this row: the size of the coefficient, averaged over references, in ${unit}. The darker a token is tinted, the larger its impact.`,
  main_tensor: "The tensor that holds the largest share of the squared norm of this subnetwork.",
  norm_share: "Share of the squared norm of the subnetwork that lies in this tensor. Shares add up to 100%.",
  mean_norm_share: "Share of squared norm in this tensor, averaged over all subnetworks. In brackets: of how many subnetworks it is the main tensor.",
  ranks: "Largest rank a subnetwork may have in this tensor, one number per axis.",
  auroc: "How well relevant rows can be told from others by how far their outputs move when this subnetwork is pushed, over both signs of δ: 1 is perfect, 0.5 is chance. Beside it, the same for a random direction of equal norm and rank: what the choice of rows alone gives. It is below 0.5 where the relevant rows are the less sensitive ones.",
  ratio: "How many times as far the outputs of its top rows move as those of other rows, where it is not active, when this subnetwork is pushed to the end of its sweep. Above 1 means selective. The more selective sign of δ comes first.",
  validity_radius: "Largest δ of the sweep up to which the gradient predicts the effect of a push, with R² of at least 0.9 over rows. Beyond it the model is no longer linear in δ.",
  top_samples: `The rows on which this subnetwork has the largest ${measures.settings.rank_by === "share" || (measures.settings.rank_by !== "impact" && measures.rows === "sample") ? "share of the gradient: impact over its length" : "impact"}; at most one per sample, and one of those with the same context.`,
  top_outputs: "How the outputs change per unit of a positive δ, at δ = 0, averaged over the top samples of this subnetwork" + (measures.logits ? ": ranked by the change of the probability p, given as that of log p; outputs of p below 0.01% are left out. " : ". ") + "Signs are chosen so that a positive δ takes the subnetwork’s own rows further from their references; a negative δ does the opposite.",
  near: "Outputs are an embedding, whose numbers have no names. Shown instead: of all top samples in this report, those whose embeddings, less the mean, lie nearest to the way in which a positive δ moves the outputs of its own rows, and those farthest from it.",
  sweep: "How far the outputs move from the model’s own, as a divergence, when this subnetwork is pushed by δ: on its own top rows, on other rows and, as a control, along a random direction of equal norm and rank. Grey: where first order holds. Dotted: the end at which its own rows move most compared with others.",
  similarity: "Cosine between two subnetworks over all tensors: 1 is the same direction, 0 unrelated, −1 opposite.",
  coactivation: "Correlation over measured rows of being active: 1 always together, 0 independent, below 0 less often than by chance. There is none for subnetworks that are never or always active.",
  partners: "How far the joint effect of two pushes differs from the sum of their separate effects, as a share. 0: they simply add up.",
  spectrum: "Active rate of every subnetwork, from the most to the least often active. The scale is logarithmic.",
  scatter: "Each point is one subnetwork. Rare and strong ones are at the upper left.",
};

// Numbers

const MINUS = "\u2212";
const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** Three significant digits with a real minus sign; powers of ten where digits would not do. */
const number = (x, digits = 3) => {
  if (x === null || x === undefined) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  const sign = x < 0 ? MINUS : "";
  if (size >= 1e6 || size < 1e-3) {
    const [mantissa, exponent] = size.toExponential(digits - 2).split("e");
    const power = [...String(Math.abs(exponent))].map((d) => SUPERSCRIPT[d]).join("");
    return `${sign}${mantissa}×10${exponent < 0 ? "⁻" : ""}${power}`;
  }
  if (size >= 100) return sign + Math.round(size).toLocaleString("en-US");
  return sign + size.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
};
const signed = (x) => (x > 0 ? "+" : "") + number(x);
const fixed = (x, places = 2) =>
  x === null || x === undefined ? "–" : x.toFixed(places).replace(/^-(?=0\.?0*$)/, "").replace("-", MINUS);
const percent = (x) => {
  if (x === null || x === undefined) return "–";
  const p = 100 * x;
  if (p === 0) return "0%";
  if (p < 0.01) return "<0.01%";
  return `${p >= 99.95 ? 100 : p.toFixed(p < 1 ? 2 : 1)}%`;
};
const count = (n) => n.toLocaleString("en-US");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
/** "1 in 250 rows" says more of a rate than 0.4%. */
const oneIn = (rate) =>
  rate <= 0 ? "never" : rate > 0.5 ? "in most rows" : `1 in ${count(Math.round(1 / rate))} rows`;

// Tokens

const INVISIBLE = /[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/;
const LONE = /[\ud800-\udfff]/;

/** One character that does not show, as something that does; null for all others. */
const glyph = (c) => {
  if (c === "\n") return "↵";
  if (c === "\t") return "⇥";
  const code = c.codePointAt(0);
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return "␡";
  if (code >= 0x80 && code < 0xa0) return `‹${code.toString(16)}›`;
  if (code === 0xa0) return "⍽";
  if (c.length === 1 && LONE.test(c)) return "\ufffd";
  if (INVISIBLE.test(c)) return `‹${code.toString(16).toUpperCase()}›`;
  return null;
};

/** Text as pieces [shown, special]; `spaces` also makes spaces at the ends and doubled ones visible. */
const pieces = (text, spaces) => {
  // U+2581 is how sentence pieces write a space.
  const characters = [...text.replace(/\u2581/g, " ")];
  const found = [];
  characters.forEach((c, i) => {
    let shown = glyph(c);
    const outer = i === 0 || i === characters.length - 1 || characters[i - 1] === " ";
    if (c === " " && spaces && outer) shown = "·";
    if (i === 0 && /^\p{M}/u.test(c)) found.push(["◌", true]);
    const special = shown !== null;
    const last = found[found.length - 1];
    if (last && last[1] === special) last[0] += shown ?? c;
    else found.push([shown ?? c, special]);
  });
  return found;
};
const plain = (text) => pieces(text, true).map(([shown]) => shown).join("") || "(empty)";

// Facts about subnetworks that several parts need

const mainTensor = (k) => {
  const shares = all[k].tensors;
  return shares.indexOf(Math.max(...shares));
};
const nameOf = (tensor) => tensors[tensor].name;
const hasImages = Object.values(data.samples).some((s) => s.image);
const allImpact = all.reduce((sum, s) => sum + s.impact, 0) || 1;
const impactShare = (s) => s.impact / allImpact;
/** 2: dead, active in hardly any row; 1: the gradient predicts none of its sweep. Both come last. */
const standing = (s) => (s.active_rate <= 1e-4 ? 2 : s.validity_radius === 0 ? 1 : 0);
const STANDINGS = ["", "first order only", "dead"];
/** Both ends of a sweep, the telling one first: δ, how far own rows move, and how many times as far as others. */
const endsOf = ({ sweep }) => [Math.max(...sweep.delta), Math.min(...sweep.delta)].map((delta) => {
  const i = sweep.delta.indexOf(delta);
  const [own, other] = [sweep.relevant[i], sweep.irrelevant[i]];
  return { delta, own, ratio: own === null || other === null || (own <= 0 && other <= 0) ? null : other > 0 ? own / other : Infinity };
}).sort((a, b) => (b.ratio ?? -1) - (a.ratio ?? -1));
const times = (ratio) => (ratio === Infinity ? "∞" : `${number(ratio)}×`);
/** The mean of the vectors of the top samples: one alone may be the same for two subnetworks. */
const meanOfTop = (k) => {
  const vectors = all[k].top_samples.map((s) => shownOf(s).values).filter(Boolean);
  return vectors.length ? vectors[0].map((_, i) => vectors.reduce((sum, v) => sum + v[i], 0) / vectors.length) : [];
};
const ruleName = (k) => (data.rule_names ?? {})[k] ?? "";
/** What somebody called it, and wrote about it. */
const labelOf = (k) => ({ name: "", note: "", ...(data.labels ?? {})[k] });
const nameFor = (k) => labelOf(k).name || ruleName(k);
const outputName = (i) => measures.names.outputs[i] ?? `output ${i}`;
/** What is shown of the sample of a row: tokens, image, values, label. */
const shownOf = (row) => data.samples[row.sample] ?? {};
const texts = new Map();
/** The text of every token of a row's sample, where it has tokens. */
const tokensOf = (row) => {
  const ids = shownOf(row).tokens;
  if (!ids || !ids.length) return null;
  if (!texts.has(row.sample)) texts.set(row.sample, ids.map((i) => measures.names.tokens[i] ?? String(i)));
  return texts.get(row.sample);
};
/** Where a whole text has one output, such as an embedding, none of its tokens stands out. */
const wholeTexts = measures.rows === "sample" && !measures.logits;
/** Whether outputs are shown by texts that lie near, their numbers having no names. */
const nearTexts = Boolean(data.moving?.near);
const placeIn = (tokens, row) => row.position ?? tokens.length - 1;

const WORD_END = /[\p{L}\p{N}'’]{0,12}$/u;
const WORD_START = /^[\p{L}\p{N}'’]{0,12}/u;

/** What a sample stands for, as [before, token, after]: a piece of a word says little without the word. */
const headline = (sample) => {
  const { label } = shownOf(sample);
  const tokens = tokensOf(sample);
  if (!tokens) return label === undefined ? null : ["", label, ""];
  if (wholeTexts) return ["", tokens.join("").trim(), ""];
  const at = placeIn(tokens, sample);
  const text = tokens[at];
  const begins = WORD_START.exec(text)[0] !== "";
  const ends = WORD_END.exec(text)[0] !== "";
  const before = begins ? WORD_END.exec(tokens.slice(Math.max(0, at - 12), at).join(""))[0] : "";
  const after = ends ? WORD_START.exec(tokens.slice(at + 1, at + 13).join(""))[0] : "";
  return [before, text, after];
};

/** The distinct headlines of the top samples with their counts, most frequent first. */
const headlines = (k) => {
  const found = new Map();
  for (const sample of all[k].top_samples) {
    const parts = headline(sample);
    if (!parts) continue;
    const key = parts.join("\n");
    const entry = found.get(key) || [parts, 0];
    entry[1]++;
    found.set(key, entry);
  }
  return [...found.values()].sort((a, b) => b[1] - a[1]);
};
