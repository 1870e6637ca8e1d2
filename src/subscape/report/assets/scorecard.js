// The scorecard: every figure of the subnetworks beside its controls.

const ARROWS = { high: ["↑", "more is better"], low: ["↓", "less is better"] };

const scoreHead = ({ name, better }) => {
  const [arrow, meaning] = ARROWS[better] || [];
  return h("th.num", { scope: "col" }, name, arrow ? h("span", { role: "img", "aria-label": meaning }, ` ${arrow}`) : null);
};

const scoreTable = ({ title, columns, lines }) => h("div.scroll", { tabindex: "0", role: "region", "aria-label": title }, h("table.bars.scores", null,
  h("caption.unseen", null, title),
  h("thead", null, h("tr", null, h("th", { scope: "col" }, ""), ...columns.map(scoreHead))),
  h("tbody", null, ...lines.map(({ name, values, ours }) => h(ours ? "tr.ours" : "tr", null, h("th", { scope: "row" }, name),
    ...values.map((value, i) => h("td.num", null, value === null ? "–" : columns[i].percent ? percent(value) : number(value))))))));

const scoreSection = (section) => h("section.score", { "aria-label": section.title }, h("h3", null, section.title),
  section.left_out === null ? scoreTable(section) : h("p.notes", null, `Left out: ${section.left_out}.`),
  section.notes.length ? h("ul.notes", null, ...section.notes.map((note) => h("li", null, note))) : null);

const scorecardPanel = () => panel("Scorecard", null,
  h("p.notes", null, `Scored on ${plural(data.scorecard.n_rows, "row")}, controls fitted on ${count(data.scorecard.n_fit)} others. The subnetworks’ own lines are bold; all others are controls.`),
  ...data.scorecard.sections.map(scoreSection));
