// Playground: an input, sliders, and what they change: on this input, on others, and beside random directions.
const MOST = 3;
const N_COLOURS = 6;
const play = { input: { sample: live.first }, looked: null, position: null, pins: [], random: false, past: [], drawn: false, written: null, pushed: null };
const parts = {};

const edit = () => ({ deltas: Object.fromEntries(play.pins.filter((p) => p.x !== 0).map((p) => [p.k, p.x * ownDelta(p.k)])), random: play.random });
const pinned = (k) => play.pins.find((p) => p.k === k);
const colour = (pin) => `var(--pin-${pin.colour})`;
const dot = (pin) => h("span.dot", { style: { "background-color": colour(pin) }, "aria-hidden": "true" });

// Undo: what was pinned before every change.

const snapshot = () => JSON.stringify({ pins: play.pins, random: play.random });
const changing = () => {
  const now = snapshot();
  if (play.past.at(-1) !== now) play.past.push(now);
  if (play.past.length > 100) play.past.shift();
};
const undo = () => {
  const now = snapshot();
  while (play.past.length && play.past.at(-1) === now) play.past.pop();
  const before = play.past.pop();
  if (before === undefined) return;
  Object.assign(play, JSON.parse(before));
  drawPins();
  refresh();
};

const pin = (k, x = 1) => {
  if (pinned(k)) return;
  changing();
  const taken = play.pins.map((p) => p.colour);
  const free = [...Array(N_COLOURS).keys()].find((c) => !taken.includes(c)) ?? play.pins.length % N_COLOURS;
  play.pins.push({ k, x, colour: free });
  drawPins();
  refresh();
};
const unpin = (k) => {
  changing();
  play.pins = play.pins.filter((p) => p.k !== k);
  drawPins();
  refresh();
};

// What the server is asked

const askLook = channel("look", (looked) => {
  play.looked = looked;
  if (looked.text !== undefined && play.input.text === undefined) parts.text.value = looked.text;
  if (looked.tokens && (play.position === null || play.position >= looked.tokens.length)) play.position = looked.tokens.length - 1;
  drawInput();
  drawActive();
  if (play.pushed) drawOutcomes(play.pushed); // which may have come first, without the token to name
  soonWrite();
});
const askPush = channel("push", (pushed) => { play.pushed = pushed; drawOutcomes(pushed); });
const askMeter = channel("meter", (found) => drawMeter(found));
const askWrite = channel("write", (written) => { play.written = written; drawWritten(); });

const position = () => (live.by_token ? play.position : null);
const soonMeter = later(60, () => askMeter({ moves: edit() }));
const textGiven = () => play.input.text ?? play.looked?.text;
const soonWrite = later(250, () => { if (live.takes_text && textGiven()?.trim()) askWrite({ text: textGiven(), moves: edit() }); });
const refresh = () => {
  askPush({ input: play.input, moves: edit(), position: position() });
  soonMeter();
  soonWrite();
  drawTaken();
};
const give = (input) => {
  play.input = input;
  play.position = null;
  askLook({ input });
  askPush({ input, moves: edit(), position: null });
  drawTaken();
};

// Input

const strength = (active) => (active.length ? Math.abs(active[0][1]) : 0);

const drawInput = () => {
  const { tokens, active, image, values, label } = play.looked;
  if (parts.number) parts.number.value = play.looked.sample;
  if (!tokens) {
    put(parts.shown, h("div.given", null, image ? h("img", { src: image, alt: label ?? `sample ${play.input.sample}`, width: 128, height: 128 }) : values ? strip(values, 260, 48) : h("p.note", null, "This sample has no picture."),
      h("p", null, label !== undefined ? token(label) : null, h("small", null, `sample ${play.input.sample}`))));
    return;
  }
  const top = Math.max(1e-30, ...active.map(strength));
  put(parts.shown, h("div.tokens", { role: "group", "aria-label": "Tokens; press one to see what comes after it" }, ...tokens.map((text, i) => {
    const here = active[i] ?? [];
    const mine = play.pins.filter((p) => here.some(([k]) => k === p.k));
    return h("button.piece", { type: "button", "aria-pressed": String(i === play.position), "data-tip": here.length ? `Active: ${here.slice(0, 5).map(([k, c]) => `${nameOrNumber(k)} (${signed(c)})`).join(", ")}` : "No subnetwork is active here.",
      style: { "--strength": `${(6 + 40 * Math.sqrt(strength(here) / top)) * (here.length ? 1 : 0)}%` }, onclick: () => { play.position = i; drawInput(); drawActive(); refresh(); } },
    h("span.text", null, shown(text || "(empty)", true)), h("span.stripes", { "aria-hidden": "true" }, ...mine.map((p) => h("i", { style: { "background-color": colour(p) } }))));
  })));
};

const drawActive = () => {
  const { active, tokens } = play.looked;
  const here = (live.by_token ? active[play.position] : active[0]) ?? [];
  const title = tokens && live.by_token ? ["Active at ", token(tokens[play.position])] : ["Active in this sample"];
  put(parts.active, h("h2", null, ...title), here.length ? h("ul.chips", null, ...here.slice(0, 8).map(([k, c]) => h("li", null,
    h("button.chip", { type: "button", disabled: Boolean(pinned(k)), "data-tip": `Coefficient ${signed(c)} ${unit}. Press for a slider.`, onclick: () => pin(k) }, h("b", null, String(k)), nameFor(k) ? ` ${nameFor(k)}` : null, h("small", null, signed(c))))))
    : h("p.note", null, "None."));
};

// Sliders

const pinRow = (p) => {
  const [factor, exact] = [h("output.num"), h("span.exact")];
  const say = () => {
    factor.textContent = multiple(p.x);
    exact.textContent = `δ = ${signed(p.x * ownDelta(p.k))}${!all[p.k].sweep ? ", a usual one: its own was not measured" : Math.abs(p.x) > validTo(p.k) ? ", beyond first order" : ""}`;
  };
  const slider = deltaSlider(p.k, p.x, MOST, (x) => { p.x = x; say(); refresh(); });
  // One step back is one drag or one press, not every place on the way.
  for (const kind of ["pointerdown", "keydown"]) slider.addEventListener(kind, changing);
  say();
  return h("li.pin", { style: { "--pin": colour(p) } },
    h("div.pin-head", null, dot(p), h("a", { href: `#subnetwork-${p.k}` }, String(p.k)), h("span.rule", null, nameFor(p.k)), factor, button("×", () => unpin(p.k), { "aria-label": `Remove the slider of ${p.k}` })),
    slider, h("div.pin-foot", null, exact, effect(p.k)));
};

const drawPins = () => {
  put(parts.pins, ...play.pins.map(pinRow));
  parts.none.hidden = play.pins.length > 0;
  parts.random.checked = play.random;
  if (play.looked) { drawInput(); drawActive(); }
};

// Outcomes

const drawOutcomes = ({ outputs, change, finite }) => {
  const { tokens } = play.looked ?? {};
  const at = tokens && live.by_token ? tokens[play.position ?? tokens.length - 1] : null;
  put(parts.outcomes, h("h2", null, at === null ? "Outputs" : ["Next token after ", token(at)]),
    finite ? null : h("p.note", null, "Outputs are not finite there: push less far."),
    outcomes(outputs, "Outputs before and after"),
    h("p.note", null, change === null ? "" : `This row’s outputs have moved by ${number(change)} ${measures.unit_of_changes}. The mark is where a bar was before.`));
};

const drawMeter = (found) => {
  const top = Math.max(1e-30, ...found.flatMap((f) => [f.change ?? 0, f.random ?? 0]));
  const line = (label, value, kind) => h("tr", null, h("td.way", null, label), h("td.barcell", null, h(`span.track.${kind}`, { "aria-hidden": "true" }, h("span.fill", { style: { width: `${100 * Math.max(0, value ?? 0) / top}%` } }))), h("td.num", null, value === null ? "not finite" : number(value)));
  const group = ({ subnetwork: k, rows: n, change, random }) => {
    const p = k === null ? null : pinned(k);
    return h("tbody", p ? { style: { "--pin": colour(p) } } : null, h("tr", null, h("th", { colspan: 3, scope: "rowgroup" }, p ? dot(p) : null, k === null ? `${n} rows drawn at random from the data` : `${n} top rows of ${nameOrNumber(k)}`)),
      line("this edit", change, p ? "own" : "others"), line("random directions", random, "chance"));
  };
  const others = found.find((f) => f.subnetwork === null);
  const ratios = found.filter((f) => f.subnetwork !== null && f.change !== null && others.change > 0).map((f) => f.change / others.change);
  put(parts.meter, h("h2", null, term("How far rows move", "meter")),
    h("p.note", null, !Object.keys(edit().deltas).length ? "Nothing is pushed." : play.random ? "The sliders move random directions now." : ratios.length ? `Own rows move ${ratios.map(times).join(", ")} as far as rows drawn at random.` : ""),
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "How far rows move" }, h("table.meter", null, h("caption.unseen", null, `Mean change in ${measures.unit_of_changes}`), ...[...found.slice(1), found[0]].map(group))));
};
GLOSSARY.meter = `Mean change of the outputs, in ${measures.unit_of_changes}: of the rows each moved subnetwork is for, of rows drawn at random, and of the same rows along random directions of the same norm and rank. A selective edit moves its own rows far and others hardly at all.`;

const drawWritten = () => {
  const { before, after, difference } = play.written;
  if (before === null || after === null) { put(parts.written, h("p.note", null, "Outputs are not finite: push less far.")); return; }
  const MARKS = { same: "span", gone: "del", come: "ins" };
  const same = before === after;
  put(parts.written, 
    h("div", null, h("h3", null, "as it is"), h("p.text", { dir: "auto" }, ...difference.filter(([kind]) => kind !== "come").flatMap(([kind, text]) => [h(MARKS[kind], null, text), " "]))),
    h("div", null, h("h3", null, play.random ? "moved at random" : "moved"), same ? h("p.text.same", null, "unchanged, word for word") : h("p.text", { dir: "auto" }, ...difference.filter(([kind]) => kind !== "gone").flatMap(([kind, text]) => [h(MARKS[kind], null, text), " "]))));
};

// Taking away

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const setTo = (glue) => Object.entries(edit().deltas).map(([k, d]) => `${k}${glue}${Number(d.toPrecision(4))}`);
const commandOf = () => `subscape edit ${live.command} --set ${setTo("=").join(" ")}${live.takes_text && textGiven() ? ` --prompt ${quoted(textGiven())}` : ""}`;
const pythonOf = () => `with decomposition.edit(model, {${setTo(": ").join(", ")}}):\n    outputs = model(inputs)`;
const keep = async (kind) => {
  try { say(`Written to ${(await ask("keep", { kind, moves: edit() })).path}`); } catch (error) { say(error.message, true); }
};
const drawTaken = () => {
  const none = !Object.keys(edit().deltas).length;
  for (const taken of parts.taken.querySelectorAll("button")) taken.disabled = none;
};

const drawPlayground = (node, wanted) => {
  if (!play.drawn) {
    play.drawn = true;
    const another = button("Another from the data", () => give({ sample: Math.floor(Math.random() * live.n_samples) }));
    if (live.takes_text) {
      parts.text = h("textarea", { id: "prompt", rows: 2, spellcheck: "false", "aria-label": "Text" });
      parts.text.addEventListener("input", later(200, () => { if (parts.text.value.trim()) give({ text: parts.text.value }); }));
      parts.source = h("div.source", null, parts.text, another);
    } else {
      const number = parts.number = h("input", { type: "number", min: 0, max: live.n_samples - 1, value: play.input.sample, "aria-label": "Number of the sample", onchange: () => give({ sample: Math.max(0, Math.min(live.n_samples - 1, Math.floor(Number(number.value)) || 0)) }) });
      parts.source = h("div.source", null, h("label", null, "Sample ", number), another);
    }
    for (const [name, tag] of [["shown", "div"], ["active", "div.active"], ["pins", "ol.pins"], ["outcomes", "section.panel"], ["meter", "section.panel"], ["written", "div.written"], ["taken", "div.taken"]]) parts[name] = h(tag);
    parts.none = h("p.note", null, "None yet: press a subnetwork that is active in the input, or choose one.");
    parts.random = h("input", { type: "checkbox", onchange: () => { changing(); play.random = parts.random.checked; refresh(); } });
    const choose = h("select", { "aria-label": "Add a slider", onchange: () => { if (choose.value) pin(Number(choose.value)); choose.value = ""; } },
      h("option", { value: "" }, "Add a slider …"), ...all.map((s, k) => k).filter((k) => !standing(all[k])).map((k) => h("option", { value: String(k) }, nameOrNumber(k))));
    parts.taken.append(button("Copy command", () => copy(commandOf())), button("Copy Python", () => copy(pythonOf())), button("Write a LoRA", () => keep("lora")), ...(live.model ? [button("Write a model folder", () => keep("model"))] : []));
    node.append(h("h1.unseen", null, "Playground"), parts.source, parts.shown, parts.active,
      h("div.board", null,
        h("section.panel", { "aria-label": "Sliders" }, h("div.panel-head", null, h("h2", null, term("Sliders", "sliders")), h("label.toggle", null, parts.random, " random directions instead"), button("Undo", undo, { title: "Ctrl+Z" }), button("Reset", () => { changing(); play.pins.forEach((p) => { p.x = 0; }); play.random = false; drawPins(); refresh(); })),
          parts.none, parts.pins, h("p", null, choose)),
        h("div", null, parts.outcomes, parts.meter)),
      ...(live.takes_text ? [panel("How the text continues", null, parts.written)] : []),
      panel("Export", null, parts.taken));
    give(play.input);
    drawPins();
    refresh();
  }
  if (wanted !== null && /^\d+$/.test(wanted) && Number(wanted) < all.length) {
    const k = Number(wanted);
    if (!pinned(k)) {
      const own = all[k].top_samples[0];
      if (own && !play.pins.length) {
        give({ sample: own.sample });
        play.position = own.position;
      }
      pin(k);
    }
    history.replaceState(null, "", "#playground");
  }
};
GLOSSARY.sliders = "In units of each subnetwork’s own δ: at 1× its own rows change clearly, as measured; the right side is where they move most compared with others. Shaded: where the gradient predicts what a push does.";
addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || kept.view !== "playground" || event.target.closest?.("textarea, input[type=text]")) return;
  event.preventDefault();
  undo();
});
screens.push({ key: "playground", title: "Playground", draw: drawPlayground });
