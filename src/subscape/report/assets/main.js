// Which view is shown follows from the address: #overview, #subnetworks, #subnetwork-17, or a further screen.
const title = data.title;
const views = { overview: { node: overview, draw: drawOverview }, list: { node: list, draw: drawList }, card: { node: card, draw: () => { drawList(); drawCard(route()[1], !kept.first && document.activeElement !== search); } } };
const kept = { view: null, scroll: {}, first: true };
const nav = document.querySelector(".bar nav");
for (const screen of [...screens].reverse()) {
  const node = h("section", { id: `screen-${screen.key}`, "aria-label": screen.title, hidden: true });
  document.getElementById("main").prepend(node);
  nav.prepend(h("a", { id: `to-${screen.key}`, href: `#${screen.key}` }, screen.title));
  views[screen.key] = { node, draw: () => screen.draw(node, route()[1]) };
}
const first = screens.length ? screens[0].key : "overview";
if (screens.length) document.querySelector(".home").href = `#${first}`;

const route = () => {
  const found = /^#subnetwork-(\d+)$/.exec(location.hash);
  if (found && Number(found[1]) < all.length) return ["card", Number(found[1])];
  const [name, rest] = location.hash.slice(1).split("/");
  if (name === "subnetworks") return ["list", null];
  return [Object.hasOwn(views, name) && name !== "list" && name !== "card" ? name : first, rest ?? null];
};

const show = () => {
  const [view, k] = route();
  if (kept.view) kept.scroll[kept.view] = scrollY;
  hideTip();
  document.body.dataset.view = view;
  for (const [key, { node }] of Object.entries(views)) node.hidden = key !== view;
  // Beside an open card the list stays, where there is room for it.
  if (view === "card") list.hidden = false;
  views[view].draw();
  markOpen(view === "card" ? k : null);
  for (const link of nav.querySelectorAll("a")) {
    if (link.id === `to-${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  highlight();
  document.title = view === "card" ? `Subnetwork ${k} · ${title}` : title;
  scrollTo({ top: view === "card" ? 0 : (kept.scroll[view] ?? 0), behavior: "instant" });
  Object.assign(kept, { view, first: false });
};

/** Step without filling the history of the browser. */
const go = (hash) => location.replace(`#${hash}`);

document.getElementById("to-list").append(h("span.count", null, count(all.length)));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
search.addEventListener("input", () => {
  Object.assign(state, { words: search.value, byFit: true });
  drawList();
  arrange();
  for (const screen of screens) screen.searched?.();
  if (kept.view === "card") markOpen(route()[1]);
  else if (kept.view !== "list" && kept.view !== "gallery") go(screens.length ? first : "subnetworks");
  highlight();
});
search.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !state.order.length) return;
  location.hash = `subnetwork-${state.order[0]}`;
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest && event.target.closest("input, textarea, select, canvas, .scroll[tabindex='0']");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (!tip.hidden) hideTip();
    else if (event.target === search) search.blur();
    else if (kept.view === "card") location.hash = "subnetworks";
    return;
  }
  if (typing) return;
  if (event.key === "/") {
    event.preventDefault();
    search.focus();
    return;
  }
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const [view, k] = route();
  if (!by || view !== "card" || event.shiftKey) return;
  const order = steps(k);
  const next = order[order.indexOf(k) + by];
  if (next === undefined) return;
  event.preventDefault();
  go(`subnetwork-${next}`);
});
addEventListener("hashchange", show);
history.scrollRestoration = "manual";
show();
