// The table of subnetworks: sorting, searching, and the order in which one steps through them.
const COLUMNS = [
  { key: "index", title: "#", tip: "subnetwork", value: (s) => s.index, rising: true },
  { key: "active_rate", title: "active rate", tip: "active_rate", value: (s) => s.active_rate, show: (s) => percent(s.active_rate) },
  { key: "impact", title: "impact", tip: "impact", value: (s) => s.impact, show: (s) => number(s.impact) },
  { key: "share", title: "share", tip: "impact_share", value: impactShare, show: (s) => percent(impactShare(s)) },
  { key: "auroc", title: "AUROC", tip: "auroc", value: (s) => s.selectivity?.auroc ?? null, show: (s) => fixed(s.selectivity?.auroc) },
  { key: "tensor", title: "main tensor", tip: "main_tensor", value: (s) => nameOf(mainTensor(s.index)), rising: true },
  { key: "preview", title: "top samples and outputs", tip: "top_samples" },
].filter((c) => c.key !== "auroc" || all.some((s) => typeof s.selectivity?.auroc === "number"));

const state = { sort: "impact", falling: true, words: "", byFit: true, order: all.map((_, k) => k) };
/** A search lists by fit, until somebody sorts. */
const ranked = () => state.byFit && wanted().length > 0;
const search = document.getElementById("search");
const list = document.getElementById("list");
const counter = h("p.counter", { role: "status" });
const rows = [];

const column = (key) => COLUMNS.find((c) => c.key === key);

/** What a search can find of a subnetwork, lower case; made on the first search. */
const haystacks = memo(() => all.map((s, k) => {
  const [names, moved] = [[ruleName(k), labelOf(k).name, labelOf(k).note], []];
  const outputs = (o) => (o ? [...o.up, ...o.down].map(([i]) => outputName(i)) : []);
  const rest = [`#${k}`, `subnetwork ${k}`, nameOf(mainTensor(k)), ...tensors.filter((_, t) => s.tensors[t] >= 0.05).map((t) => t.name)];
  moved.push(...outputs(s.top_outputs));
  for (const sample of s.top_samples) {
    const tokens = tokensOf(sample);
    if (tokens) rest.push(tokens.join(""), ...tokens);
    rest.push(shownOf(sample).label ?? "", ...outputs(sample.outputs));
  }
  const heads = s.top_samples.map(headline).filter(Boolean).map((parts) => parts.join(""));
  const lower = (words) => words.join("\n").replace(/\u2581/g, " ").toLowerCase();
  return { names: lower(names), moved: lower(moved), heads: heads.map((head) => lower([head])), whole: lower([...names, ...moved, ...rest]) };
}));

const wanted = () => state.words.toLowerCase().split(/\s+/).filter(Boolean);
const isNumber = (word, k) => /^#?\d+$/.test(word) && Number(word.replace("#", "")) === k;
/** How well a word fits: most if it is the number, then in a name, in what it moves, in the tokens it is for; 0 if nowhere. */
const fit = (word, k) => {
  if (isNumber(word, k)) return 16;
  const { names, moved, heads, whole } = haystacks()[k];
  if (/^#\d+$/.test(word) || !whole.includes(word)) return 0;
  return 1 + 8 * names.includes(word) + 4 * moved.includes(word) + (4 * heads.filter((head) => head.includes(word)).length) / Math.max(1, heads.length);
};

/** Those that a search finds, best first; without one all of them. */
const matching = () => {
  const words = wanted();
  const order = all.map((_, k) => k);
  if (!words.length) return order;
  const fits = all.map((_, k) => words.map((word) => fit(word, k)));
  const total = fits.map((of) => (of.every(Boolean) ? of.reduce((sum, v) => sum + v, 0) : 0));
  const otherwise = compare();
  return order.filter((k) => total[k] > 0).sort((a, b) => total[b] - total[a] || otherwise(a, b));
};

const compare = () => {
  const { value } = column(state.sort);
  const sign = state.falling ? -1 : 1;
  return (a, b) => {
    const [x, y] = [value(all[a]), value(all[b])];
    const last = state.sort === "index" || typeof x === "string" ? 0 : standing(all[a]) - standing(all[b]);
    if (last) return last;
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y) || a - b;
  };
};

const topShare = memo(() => Math.max(...all.map(impactShare)) || 1);

const makeRow = (k) => {
  const s = all[k];
  const main = mainTensor(k);
  const cells = COLUMNS.map((c) => {
    if (c.key === "index") return h("th.c-index", { scope: "row" }, h("a", { href: `#subnetwork-${k}`, "aria-label": `subnetwork ${k}` }, String(k)));
    if (c.key === "share") return h("td.c-share.num", null, c.show(s), bar(impactShare(s) / topShare()));
    if (c.key === "tensor") return h("td.c-tensor", { title: `${nameOf(main)} holds ${percent(s.tensors[main])} of the squared norm` }, h("span.short", null, tail(nameOf(main))), h("small", null, percent(s.tensors[main])));
    if (c.key === "preview") return h("td.c-preview", null);
    return h(`td.c-${c.key}.num`, null, c.show(s));
  });
  const row = h(standing(s) === 2 ? "tr.dead" : "tr", { "data-k": String(k) }, ...cells);
  if (hasImages) seen.observe(row);
  else row.lastChild.append(preview(k));
  return row;
};
/** The last parts of a name: with a common beginning they say enough. */
const tail = (name) => name.split(".").slice(commonParts()).join(".") || name;
const commonParts = memo(() => {
  const split = tensors.map((t) => t.name.split("."));
  let n = 0;
  while (tensors.length > 1 && split.every((p) => n < p.length - 1 && p[n] === split[0][n])) n++;
  return n;
});
// Thousands of thumbnails are only decoded once their row comes near.
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) complete(target);
  }
}, { rootMargin: "400px" });
const complete = (row) => {
  seen.unobserve(row);
  if (!row.lastChild.hasChildNodes()) row.lastChild.append(preview(Number(row.dataset.k)));
};

// Where the table shows but one column of figures, the heads do not suffice for sorting.
const sorter = h("select", { "aria-label": "Sort by", onchange: () => { state.sort = sorter.value; state.byFit = false; state.falling = !column(state.sort).rising; arrange(); markOpen(route()[1]); } },
  ...COLUMNS.filter((c) => c.value).map((c) => h("option", { value: c.key }, c.title === "#" ? "number" : c.title)));
const heads = new Map();
const body = h("tbody");

/** Of thousands of rows, those beyond the window are only made when they come near. */
const AT_ONCE_ROWS = 200;
const showRows = (upTo) => {
  const n = body.childElementCount;
  body.append(...state.order.slice(n, upTo).map((k) => (rows[k] ??= makeRow(k))));
  end.hidden = body.childElementCount >= state.order.length;
};
const showMoreRows = () => { showRows(body.childElementCount + AT_ONCE_ROWS); highlight(); };
const end = h("div.end");
new IntersectionObserver((entries) => { if (entries.some((e) => e.isIntersecting)) showMoreRows(); }, { rootMargin: "1500px" }).observe(end);
addEventListener("beforeprint", () => {
  showRows(all.length);
  [...body.rows].forEach(complete);
});

const arrange = () => {
  state.order = ranked() ? matching() : matching().sort(compare());
  list.dataset.sort = state.sort;
  sorter.value = state.sort;
  for (const [key, head] of heads) {
    const sorted = key === state.sort && !ranked();
    head.setAttribute("aria-sort", sorted ? (state.falling ? "descending" : "ascending") : "none");
  }
  body.replaceChildren();
  showRows(AT_ONCE_ROWS);
  const n = state.order.length;
  counter.textContent = state.words.trim() ? (n ? `${count(n)} of ${plural(all.length, "subnetwork")}` : `None of ${plural(all.length, "subnetwork")} matches “${state.words.trim()}”.`) : plural(all.length, "subnetwork");
  list.classList.toggle("none", n === 0);
};

/** Mark what was searched for, without touching the text. */
const highlight = () => {
  if (!globalThis.Highlight) return;
  const words = wanted().filter((word) => !/^#\d+$/.test(word));
  const found = new Highlight();
  const views = [list, card, ...screens.map(({ key }) => document.getElementById(`screen-${key}`))];
  for (const view of words.length ? views : []) {
    const walker = document.createTreeWalker(view, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data.toLowerCase();
      for (const word of words) for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + word.length)) {
        const range = new Range();
        range.setStart(walker.currentNode, at);
        range.setEnd(walker.currentNode, at + word.length);
        found.add(range);
      }
    }
  }
  CSS.highlights.set("hit", found);
};

const sortBy = (key) => {
  state.falling = state.sort === key && !ranked() ? !state.falling : !column(key).rising;
  Object.assign(state, { sort: key, byFit: false });
  arrange();
};

const drawList = memo(() => {
  for (const c of COLUMNS) {
    const head = h(`th.c-${c.key}`, { scope: "col" }, c.value ? h("button.sort", { type: "button", "data-tip": GLOSSARY[c.tip], onclick: () => sortBy(c.key) }, c.title) : term(c.title, c.tip));
    if (c.value) heads.set(c.key, head);
    c.head = head;
  }
  list.append(h("h2.unseen", null, "Subnetworks"), h("div.list-head", null, counter, h("span.sorter", null, "by ", sorter)),
    h("div.scroll.rows", { tabindex: "-1" }, h("table", null, h("caption.unseen", null, "Subnetworks; the buttons in the head sort them"),
      h("thead", null, h("tr", null, ...COLUMNS.map((c) => c.head))), body), end));
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    // Whoever selects text does not want to leave.
    if (row && !event.target.closest("a") && getSelection().isCollapsed) location.hash = `subnetwork-${row.dataset.k}`;
  });
  arrange();
  return true;
});

/** Mark the open subnetwork and bring it into view within the list. */
const markOpen = (k) => {
  for (const row of body.querySelectorAll("tr.open")) { row.classList.remove("open"); row.querySelector("a").removeAttribute("aria-current"); }
  if (k === null) return;
  showRows(state.order.indexOf(k) + AT_ONCE_ROWS / 2);
  if (!rows[k]?.isConnected) return;
  rows[k].classList.add("open");
  rows[k].querySelector("a").setAttribute("aria-current", "true");
  const box = list.querySelector(".rows");
  const [top, height] = [rows[k].offsetTop, rows[k].offsetHeight];
  if (top < box.scrollTop + 40 || top + height > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 3;
};

/** The order to step in: the list as shown, or all of it if it does not show the open one. */
const steps = (k) => (state.order.includes(k) ? state.order : all.map((_, i) => i).sort(compare()));
