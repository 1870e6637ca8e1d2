// Compare: two subnetworks side by side, each pushed over its own rows and over the other's.
const pair = { first: null, second: null, node: null };

const strongestTwo = () => all.map((_, k) => k).sort((a, b) => standing(all[a]) - standing(all[b]) || worth(all[b]) - worth(all[a])).slice(0, 2);

const crossTable = (found, [a, b]) => {
  const top = Math.max(1e-30, ...found.flatMap((line) => line.changes.map((c) => c ?? 0)));
  const cell = (v) => h("td.cross", { style: { "--strength": `${v === null ? 0 : 40 * Math.max(0, v) / top}%` } }, v === null ? "not finite" : number(v));
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Pushes over rows" }, h("table.crossed", null, h("caption.note", null, `Mean change of outputs in ${measures.unit_of_changes}, each pushed to its own δ`),
    h("thead", null, h("tr", null, h("td"), ...[`push ${a}`, `push ${b}`, "push both"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", null, ...found.map((line) => h("tr", null, h("th", { scope: "row" }, line.subnetwork === null ? "rows drawn at random" : `top rows of ${line.subnetwork}`), ...line.changes.map(cell))))));
};

/** The nearest of another run to each of these. */
const runsPanel = () => {
  const { title, pairs, chance, cards } = live.beside;
  const mutual = pairs.filter(([, , , both]) => both);
  const cosines = mutual.map(([, , c]) => c).sort((a, b) => a - b);
  const far = mutual.filter(([, , c]) => c > 2 * chance).length;
  const there = (j) => {
    const { name, contexts, images, up, down } = cards[j];
    return h("div.there", null, h("b", null, String(j)), name ? h("span.rule", null, ` ${name}`) : null,
      images.length ? h("span.thumbs", null, ...images.map((src) => h("img", { src, alt: "", width: 24, height: 24 }))) : null,
      ...contexts.slice(0, 2).map(([before, at, after]) => h("p.context", null, h("span.before", null, shown(before.replace(/\u2581/g, " ").trimStart(), false)), h("mark", { style: { "--strength": "30%" } }, shown(at, false)), h("span.after", null, shown(after, false)))),
      contexts.length || images.length ? null : h("span.note", null, " moves ", ...[...up, ...down].slice(0, 3).map(token)));
  };
  const row = ([k, j, cosine, both]) => h("tr", null, h("th", { scope: "row" }, link(k), " ", nameFor(k) ? h("span.rule", null, nameFor(k)) : preview(k, 0)), h("td.num", null, fixed(cosine)), h("td.barcell", null, bar(cosine)), h("td", null, both ? "mutual" : ""), h("td", null, there(j)));
  const order = [...pairs].sort((a, b) => b[3] - a[3] || b[2] - a[2]);
  const late = order.slice(12).map(row);
  const body = h("tbody", null, ...order.slice(0, 12).map(row));
  const more = late.length ? h("button.more", { type: "button", onclick: () => { body.append(...late); more.remove(); } }, `Show ${count(late.length)} more`) : null;
  return panel(`Beside ${title}`, "beside",
    h("p.verdict", null, `${count(mutual.length)} of ${plural(all.length, "subnetwork")} have a partner there that has no nearer one here, at a median |cosine| of `, h("strong", null, fixed(cosines[cosines.length >> 1] ?? 0)),
      "; the nearest to a random direction is at ", h("strong", null, fixed(chance)), `. ${count(far)} are more than twice as near as that.`),
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Pairs" }, h("table.runs", null, h("thead", null, h("tr", null, ...["here", "|cosine|", h("span.unseen", null, "bar"), h("span.unseen", null, "mutual"), "there"].map((t, i) => h(i === 1 ? "th.num" : "th", { scope: "col" }, t)))), body)), more);
};
GLOSSARY.beside = "For every subnetwork, the one of the other run whose direction is nearest, whatever its sign; mutual where each is the other’s nearest. Two runs that find the same have mutual pairs near 1.";

const drawCompare = (node, wanted) => {
  if (wanted !== null) {
    const asked = wanted.split(",").map(Number).filter((k) => Number.isInteger(k) && k >= 0 && k < all.length);
    if (asked.length) [pair.first, pair.second] = [asked[0], asked[1] ?? neighbours("similarity", asked[0], 1)[0]?.[0] ?? asked[0]];
  }
  if (pair.first === null) [pair.first, pair.second] = strongestTwo();
  const { first: a, second: b = a } = pair;
  const choose = (key, label) => {
    const select = h("select", { "aria-label": label, onchange: () => { pair[key] = Number(select.value); location.hash = `compare/${pair.first},${pair.second}`; } }, ...all.map((_, k) => h("option", { value: String(k), selected: k === pair[key] }, nameOrNumber(k))));
    return select;
  };
  const table = h("div", null, h("p.note", null, "Pushing …"));
  const at = (name) => (a === b ? 1 : MAPS[name]()(a, b));
  pair.runs ??= live.beside ? runsPanel() : null;
  put(node, h("h1.unseen", null, "Compare"), h("div.pair-head", null, choose("first", "First subnetwork"), " and ", choose("second", "Second subnetwork")),
    h("dl.stats", null, stat("Similarity", "similarity", fixed(at("similarity"))), stat("Co-activation", "coactivation", fixed(at("coactivation")))),
    h("ul.gallery.two", null, galleryCard(a), galleryCard(b)), panel("Pushed over each other’s rows", null, table), pair.runs);
  if (a === b || !all[a].top_samples.length || !all[b].top_samples.length) { put(table, h("p.note", null, a === b ? "Choose two different ones." : "One of them has no rows of its own.")); return; }
  ask("cross", { first: a, second: b, moves: { deltas: { [a]: ownDelta(a), [b]: ownDelta(b) } } }).then((found) => put(table, crossTable(found, [a, b])), (error) => say(error.message, true));
};
screens.push({ key: "compare", title: "Compare", draw: drawCompare });
