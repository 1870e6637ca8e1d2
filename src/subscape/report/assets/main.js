// Which view is shown follows from the address: #overview, #subnetworks or #subnetwork-17.
const title = data.title;
const views = { overview, list, card };
const kept = { view: null, scroll: {} };

const route = () => {
  const found = /^#subnetwork-(\d+)$/.exec(location.hash);
  if (found && Number(found[1]) < all.length) return ["card", Number(found[1])];
  return [location.hash === "#subnetworks" ? "list" : "overview", null];
};

const show = (first) => {
  const [view, k] = route();
  if (kept.view) kept.scroll[kept.view] = scrollY;
  hideTip();
  document.body.dataset.view = view;
  overview.hidden = view !== "overview";
  // Beside an open card the list stays, where there is room for it.
  list.hidden = view === "overview";
  card.hidden = view !== "card";
  if (view === "overview") drawOverview();
  else drawList();
  if (view === "card") drawCard(k, !first && document.activeElement !== search);
  markOpen(k);
  for (const [id, here] of [["to-overview", "overview"], ["to-list", "list"]]) {
    const node = document.getElementById(id);
    if (view === here) node.setAttribute("aria-current", "page");
    else node.removeAttribute("aria-current");
  }
  highlight();
  document.title = k === null ? title : `Subnetwork ${k} · ${title}`;
  scrollTo({ top: view === "card" ? 0 : (kept.scroll[view] ?? 0), behavior: "instant" });
  kept.view = view;
};

/** Step without filling the history of the browser. */
const go = (hash) => location.replace(`#${hash}`);

document.getElementById("to-list").append(h("span.count", null, count(all.length)));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main").focus();
});
search.addEventListener("input", () => {
  state.words = search.value;
  drawList();
  arrange();
  if (kept.view === "overview") go("subnetworks");
  else markOpen(route()[1]);
  highlight();
});
search.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !state.order.length) return;
  location.hash = `subnetwork-${state.order[0]}`;
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest && event.target.closest("input[type=search], select, canvas, .scroll[tabindex='0']");
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
  const k = route()[1];
  if (!by || k === null || event.shiftKey) return;
  const order = steps(k);
  const next = order[order.indexOf(k) + by];
  if (next === undefined) return;
  event.preventDefault();
  go(`subnetwork-${next}`);
});
addEventListener("hashchange", () => show(false));
history.scrollRestoration = "manual";
show(true);
