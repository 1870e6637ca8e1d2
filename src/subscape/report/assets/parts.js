// Small parts of the page: elements, tokens, terms with their explanation, bars.
// Text only ever goes in as text nodes, so that no token can become markup.
const SVG = "http://www.w3.org/2000/svg";
/** Further screens, shown before the others: key, title, draw(node, rest of the address). */
const screens = [];

const fill = (node, props, children) => {
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};

/** An HTML element: h("p.note", {title: "…"}, "text", child). */
const h = (tag, props, ...children) => {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  if (classes.length) node.className = classes.join(" ");
  return fill(node, props, children);
};

/** An SVG element. */
const g = (tag, props, ...children) => {
  const [name, ...classes] = tag.split(".");
  const node = document.createElementNS(SVG, name);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  return fill(node, props, children);
};

/** Put these into an element, in place of what it holds. */
const put = (node, ...children) => { node.replaceChildren(); return fill(node, null, children); };

const shown = (text, spaces) =>
  pieces(text, spaces).map(([piece, special]) => (special ? h("span.ws", null, piece) : piece));

/** A token or class name on its own. */
const token = (text) =>
  h("bdi.tok", { title: text.length > 24 ? plain(text) : null }, text === "" ? h("span.ws", null, "(empty)") : shown(text, true));

/** A token within its word. */
const headChip = ([before, text, after]) => {
  if (!before && !after) return token(text);
  const node = token(text);
  node.classList.add("in-word");
  const own = h("b", null, ...node.childNodes);
  node.append(h("span.rest", null, shown(before, false)), own, h("span.rest", null, shown(after, false)));
  return node;
};

/** A word that explains itself on hover, focus or tap. */
const term = (label, key) => h("button.term", { type: "button", "data-tip": GLOSSARY[key] }, label);

const link = (k, ...children) =>
  h("a", { href: `#subnetwork-${k}` }, ...(children.length ? children : [String(k)]));

const bar = (share, kind = "") =>
  h(`span.track${kind && "." + kind}`, { "aria-hidden": "true" },
    h("span.fill", { style: { width: `${100 * Math.min(1, Math.max(0, share))}%` } }));

/** A figure under its label; `more` stands small beside it. */
const stat = (label, key, value, more) =>
  h("div.stat", null, h("dt", null, key ? term(label, key) : label), h("dd", null, value, more ? h("small", null, more) : null));

const panel = (title, key, ...children) =>
  h("section.panel", { "aria-label": title }, h("h2", null, key ? term(title, key) : title), ...children);

/** A tensor name; long ones break at their dots. What all names begin with stands apart, to be left out where room is scarce. */
const tensorName = (name) => {
  const own = tail(name);
  const broken = (text) => text.split(/(?<=[._/])/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));
  return h("span.name", { title: name }, h("span.common", null, broken(name.slice(0, name.length - own.length))), h("wbr"), broken(own));
};

// Tooltip

const tip = document.getElementById("tip");
let described = null;
let hiding = 0;

const showTip = (target) => {
  clearTimeout(hiding);
  if (described && described !== target) described.removeAttribute("aria-describedby");
  described = target;
  tip.textContent = target.dataset.tip;
  tip.hidden = false;
  target.setAttribute("aria-describedby", "tip");
  const at = target.getBoundingClientRect();
  const box = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth - box.width - 8;
  tip.style.left = `${Math.max(8, Math.min(at.left, room))}px`;
  const above = at.bottom + box.height + 8 > innerHeight && at.top > box.height + 8;
  tip.style.top = `${above ? at.top - box.height - 6 : at.bottom + 6}px`;
};
const hideTip = () => {
  tip.hidden = true;
  if (described) described.removeAttribute("aria-describedby");
  described = null;
};
const tipped = (event) => (event.target.closest ? event.target.closest("[data-tip]") : null);
for (const kind of ["pointerover", "focusin", "click"]) {
  document.addEventListener(kind, (event) => {
    const target = tipped(event);
    if (target) showTip(target);
    else if (event.target === tip) clearTimeout(hiding);
    else if (kind === "click") hideTip();
  });
}
for (const kind of ["pointerout", "focusout"]) {
  document.addEventListener(kind, () => {
    clearTimeout(hiding);
    // Late enough for the pointer to move onto the explanation itself.
    hiding = setTimeout(hideTip, 120);
  });
}
addEventListener("scroll", hideTip, { passive: true });
