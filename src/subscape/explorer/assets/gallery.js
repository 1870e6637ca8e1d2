// Gallery: what was found, at a glance.
const gallery = { sort: "worth", unnamed: false, every: false, cards: [], order: [], grid: null, counter: null, more: null };

/** Rare times selective, from 0 up: bits of surprise at being active, times how well a push tells own rows from others. */
const worth = (s) => {
  const auroc = s.selectivity?.auroc;
  return typeof auroc !== "number" || s.active_rate <= 0 ? 0 : Math.max(0, -Math.log2(s.active_rate)) * Math.max(0, 2 * auroc - 1);
};
const SORTS = [["worth", "rare × selective", worth], ["impact", "impact", (s) => s.impact], ["rate", "active rate", (s) => s.active_rate], ["index", "number", (s) => -s.index]];

const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

const verdict = () => {
  const pushed = all.filter((s) => !standing(s) && typeof s.selectivity?.auroc === "number" && typeof s.selectivity.auroc_random === "number");
  const rivals = measures.quality.baselines.filter((b) => b.l0 <= 1.5 * measures.quality.l0);
  const explained = (fvu) => h("strong", null, percent(Math.max(0, 1 - fvu)));
  const parts = [h("p", null, `${plural(all.length, "subnetwork")}, ${fixed(quality.l0, 1)} active in an average row, explain `, explained(quality.fvu), " of the squared gradient",
    rivals.length ? [". Baselines with about as many active: ", ...rivals.flatMap(({ name, fvu }, i) => [i ? "; " : "", name, " ", explained(fvu)])] : null, ".")];
  if (pushed.length) {
    const [own, chance] = [mean(pushed.map((s) => s.selectivity.auroc)), mean(pushed.map((s) => s.selectivity.auroc_random))];
    const better = pushed.filter((s) => s.selectivity.auroc > s.selectivity.auroc_random).length;
    parts.push(h("p", null, `When pushed, ${better} of ${count(pushed.length)} change their own rows more selectively than a random direction of the same norm and rank does: mean `,
      term("AUROC", "auroc"), " ", h("strong", null, fixed(own)), `, random `, h("strong", null, fixed(chance)), own > chance ? "." : ": no better than chance."));
  }
  return h("div.verdict", null, ...parts);
};

const contexts = (k) => {
  const found = all[k].top_samples.slice(0, 3).map((sample) => {
    const tokens = tokensOf(sample);
    if (!tokens) return null;
    if (wholeTexts) return h("li", { dir: "auto" }, shown(tokens.join("").trimStart(), false));
    const at = placeIn(tokens, sample);
    return h("li", { dir: "auto" }, h("span.before", null, shown(tokens.slice(Math.max(0, at - 5), at).join("").replace(/\u2581/g, " ").trimStart(), false)),
      h("mark", { style: { "--strength": "30%" } }, shown(tokens[at], false)), h("span.after", null, shown(tokens.slice(at + 1, at + 3).join("").replace(/\u2581/g, " "), false)));
  }).filter(Boolean);
  return found.length ? h("ol.contexts", null, ...found) : null;
};

/** The mean of the top images, and four of them. */
const meanImage = (k) => {
  const pictured = all[k].top_samples.map(shownOf).filter((s) => s.image).slice(0, 12);
  if (!pictured.length) return null;
  const canvas = h("canvas", { width: 64, height: 64, role: "img", "aria-label": `Mean of ${pictured.length} top images` });
  const pen = canvas.getContext("2d");
  const images = pictured.map(({ image }) => Object.assign(new Image(), { src: image }));
  Promise.all(images.map((image) => image.decode())).then(() => images.forEach((image, i) => {
    pen.globalAlpha = 1 / (i + 1);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(image, 0, 0, 64, 64);
  })).catch(() => {});
  return h("div.pictured", null, canvas, h("span.thumbs", null, ...pictured.slice(0, 4).map(({ image, label }) => h("img", { src: image, alt: label ?? "", width: 31, height: 31 }))));
};

const galleryCard = (k) => {
  const s = all[k];
  const values = meanOfTop(k);
  const facts = [`active ${oneIn(s.active_rate)}`];
  const [best] = s.sweep ? endsOf(s) : [];
  if (best && best.ratio !== null) facts.push(`own rows move ${times(best.ratio)} as far as others`);
  return h(`li.sub${standing(s) === 2 ? ".dead" : ""}`, { "data-k": String(k) },
    h("h2", null, h("a", { href: `#subnetwork-${k}`, "aria-label": `subnetwork ${k}` }, String(k)), nameFor(k) ? h("span.rule", null, nameFor(k)) : null, standing(s) ? h("span.standing", null, STANDINGS[standing(s)]) : null),
    hasImages ? meanImage(k) : contexts(k) ?? (values.length ? strip(values, 200, 36) : null),
    effect(k), h("p.facts-line", null, facts.join("; ")),
    h("p.to", null, h("a", { href: `#playground/${k}` }, "Push it"), h("a", { href: `#subnetwork-${k}` }, "Card")));
};

/** Thousands of cards are only made when they come near. */
const AT_ONCE = 120;
const showMore = () => {
  const n = gallery.grid.childElementCount;
  gallery.grid.append(...gallery.order.slice(n, n + AT_ONCE).map((k) => (gallery.cards[k] ??= galleryCard(k))));
  gallery.more.hidden = n + AT_ONCE >= gallery.order.length;
  highlight();
};

const arrangeGallery = () => {
  const value = SORTS.find(([name]) => name === gallery.sort)[2];
  const order = matching().filter((k) => (gallery.every || !standing(all[k])) && (!gallery.unnamed || !labelOf(k).name));
  if (!ranked()) order.sort((a, b) => value(all[b]) - value(all[a]) || a - b);
  gallery.order = order;
  put(gallery.grid);
  showMore();
  const hidden = all.filter((s) => standing(s)).length;
  gallery.counter.textContent = `${count(order.length)} of ${plural(all.length, "subnetwork")}${!gallery.every && hidden ? `, without ${hidden} dead or first order only` : ""}`;
};

const drawGallery = (node) => {
  gallery.cards = [];
  if (!gallery.grid) {
    gallery.grid = h("ul.gallery");
    gallery.more = h("button.more", { type: "button", onclick: showMore }, "Show more");
    new IntersectionObserver((entries) => { if (entries.some((e) => e.isIntersecting)) showMore(); }, { rootMargin: "600px" }).observe(gallery.more);
    gallery.counter = h("p.counter", { role: "status" });
    const sort = h("select", { id: "gallery-sort", onchange: () => { gallery.sort = sort.value; state.byFit = false; arrangeGallery(); } }, ...SORTS.map(([name, label]) => h("option", { value: name }, label)));
    const box = (label, key) => h("label.toggle", null, h("input", { type: "checkbox", onchange: (event) => { gallery[key] = event.target.checked; arrangeGallery(); } }), ` ${label}`);
    node.append(h("h1", null, data.title), verdict(),
      h("div.tools", null, gallery.counter, h("label", { for: "gallery-sort" }, "by "), sort, box("not named by you", "unnamed"), box("include dead ones", "every")), gallery.grid, gallery.more);
  }
  arrangeGallery();
};
screens.push({ key: "gallery", title: "Gallery", draw: drawGallery, searched: () => { if (gallery.grid) arrangeGallery(); } });
