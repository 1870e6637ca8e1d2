// Asking the server, and what screens share: pins, copying, saying.
const live = data.live;
const key = new URLSearchParams(location.search).get("token") ?? "";

const ask = async (what, body) => {
  let response;
  try {
    response = await fetch(`/api/${what}`, { method: "POST", headers: { "content-type": "application/json", "x-token": key }, body: JSON.stringify(body) });
  } catch {
    throw new Error("The explorer does not answer: it was stopped, or this computer is asleep.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
};

const saying = h("p.saying", { role: "status" });
document.getElementById("main").after(saying);
let silence = 0;
const say = (text, wrong = false) => {
  saying.textContent = text;
  saying.classList.toggle("wrong", wrong);
  clearTimeout(silence);
  silence = setTimeout(() => { saying.textContent = ""; }, wrong ? 9000 : 4000);
};

/** Asks one thing at a time, and of what is wished meanwhile only the last: a slider makes more wishes than answers. */
const channel = (what, draw) => {
  let busy = false;
  let wish = null;
  const next = async () => {
    if (busy || !wish) return;
    const body = wish;
    [busy, wish] = [true, null];
    try {
      const answer = await ask(what, body);
      if (!wish) draw(answer, body);
    } catch (error) {
      say(error.message, true);
    }
    busy = false;
    next();
  };
  return (body) => { wish = body; next(); };
};
const later = (wait, then) => {
  let timer = 0;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => then(...given), wait); };
};

const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    say(text);
  }
};
const button = (label, onclick, props = {}) => h("button.do", { type: "button", onclick, ...props }, label);
const nameOrNumber = (k) => (nameFor(k) ? `${k} · ${nameFor(k)}` : `${k}`);

/** Words on what a subnetwork does. */
const effect = (k) => {
  const top = all[k].top_outputs;
  if (!top) return null;
  const said = (pairs) => pairs.slice(0, 3).map(([i]) => token(outputName(i)));
  const parts = [];
  if (top.up.length) parts.push(h("span", null, "raises ", ...said(top.up)));
  if (top.down.length) parts.push(h("span", null, "lowers ", ...said(top.down)));
  // Signs as the slider has them: to the right is the side where its own rows move most.
  if (ownDelta(k) < 0) parts.reverse().forEach((part) => { part.firstChild.data = part.firstChild.data === "raises " ? "lowers " : "raises "; });
  return h("p.effect", null, ...parts);
};

/** Name and note of a subnetwork, to be written. */
const labelEditor = (k) => {
  const name = h("input", { type: "text", maxlength: 80, value: labelOf(k).name, placeholder: ruleName(k) || "Name it", "aria-label": `Name of subnetwork ${k}` });
  const note = h("textarea", { rows: 1, maxlength: 2000, placeholder: "Note: why, what is unclear", "aria-label": `Note on subnetwork ${k}` });
  note.value = labelOf(k).note;
  const kept = async () => {
    try {
      data.labels = (await ask("label", { subnetwork: k, label: { name: name.value.trim(), note: note.value.trim() } })).labels;
      renamed(k);
      say("Saved in labels.json.");
    } catch (error) { say(error.message, true); }
  };
  for (const field of [name, note]) field.addEventListener("change", kept);
  return h("div.label", null, name, note, h("a.do", { href: `#playground/${k}` }, "Push it"), h("a.do", { href: `#compare/${k}` }, "Compare"));
};
/** Where it is active within whole contexts: asked for when a card is opened. */
const heatPanel = (k) => {
  const samples = [...new Set(all[k].top_samples.map((s) => s.sample))].slice(0, 4);
  if (!live.by_token || !samples.length) return null;
  const lines = samples.map(() => h("p.heat.note", null, "…"));
  const draw = async () => {
    for (const [n, sample] of samples.entries()) {
      if (!lines[n].isConnected && n) return; // the reader has gone on
      const { tokens, active } = await ask("look", { input: { sample } });
      const codes = active.map((here) => here.find(([j]) => j === k)?.[1] ?? 0);
      const top = Math.max(1e-30, ...codes.map(Math.abs));
      lines[n].classList.remove("note");
      put(lines[n], ...tokens.map((text, i) => h(`span.${codes[i] < 0 ? "cold" : "warm"}`, { style: { "--strength": `${(42 * Math.abs(codes[i])) / top}%` }, title: codes[i] ? `${signed(codes[i])} ${unit}` : null }, shown(text, false))));
    }
  };
  setTimeout(() => draw().catch((error) => say(error.message, true)), 0);
  return panel("Where it is active in whole contexts", "heat", ...lines);
};
GLOSSARY.heat = "Its coefficient at every token of some of its top samples: blue where it is positive, red where negative, blank where the subnetwork is not active.";
const renamed = (k) => {
  rows[k]?.replaceWith(rows[k] = makeRow(k));
  haystacks.forget();
};
extras.push(labelEditor, heatPanel);
