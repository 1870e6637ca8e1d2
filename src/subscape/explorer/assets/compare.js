// Compare: two subnetworks side by side, each pushed over its own rows and over the other's.
const pair = { first: null, second: null, node: null };

const strongestTwo = () => all.map((_, k) => k).sort((a, b) => standing(all[a]) - standing(all[b]) || worth(all[b]) - worth(all[a])).slice(0, 2);

const crossTable = (found, [a, b]) => {
  const top = Math.max(1e-30, ...found.flatMap((line) => line.changes.map((c) => c ?? 0)));
  const cell = (v) => h("td.cross", { style: { "--strength": `${v === null ? 0 : 55 * Math.max(0, v) / top}%` } }, v === null ? "not finite" : number(v));
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Pushes over rows" }, h("table.crossed", null, h("caption.note", null, `Mean change of outputs in ${measures.unit_of_changes}, each pushed to its own δ`),
    h("thead", null, h("tr", null, h("td"), ...[`push ${a}`, `push ${b}`, "push both"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", null, ...found.map((line) => h("tr", null, h("th", { scope: "row" }, line.subnetwork === null ? "rows drawn at random" : `top rows of ${line.subnetwork}`), ...line.changes.map(cell))))));
};

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
  put(node, h("h1.unseen", null, "Compare"), h("div.pair-head", null, choose("first", "First subnetwork"), " and ", choose("second", "Second subnetwork")),
    h("dl.stats", null, stat("Similarity", "similarity", fixed(at("similarity"))), stat("Co-activation", "coactivation", fixed(at("coactivation")))),
    h("ul.gallery.two", null, galleryCard(a), galleryCard(b)), panel("Pushed over each other’s rows", null, table));
  if (a === b || !all[a].top_samples.length || !all[b].top_samples.length) { put(table, h("p.note", null, a === b ? "Choose two." : "One of them has no rows of its own.")); return; }
  ask("cross", { first: a, second: b, moves: { deltas: { [a]: ownDelta(a), [b]: ownDelta(b) } } }).then((found) => put(table, crossTable(found, [a, b])), (error) => say(error.message, true));
};
screens.push({ key: "compare", title: "Compare", draw: drawCompare });
