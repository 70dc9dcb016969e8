"use strict";
// Everything that a model wrote is put here as a text node; nothing in this file parses HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const dialog = document.getElementById("reader");

const config = (() => {
  const text = { labelColor: "currentColor", titleColor: "currentColor" };
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: { ...text, domain: false, tickColor: "currentColor", tickOpacity: 0.3, gridColor: "currentColor",
      gridOpacity: 0.12, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelFlush: false },
  };
})();

function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children.filter((child) => child !== null));
  return node;
}

function percent(value) {
  if (value === null) return "–";
  if (value > 0 && value < 0.01) return "<1";
  if (value > 0.99 && value < 1) return ">99";
  return String(Math.round(100 * value));
}

function words(measure) {
  return data.labels[measure] || measure.replaceAll("_", " ");
}

async function draw(panel) {
  if (panel.dataset.drawn || panel.closest("details:not([open])")) return;
  panel.dataset.drawn = "started";
  const result = await vegaEmbed(panel, data.panels[panel.dataset.panel], { actions: false, renderer: "svg", ast: true, logLevel: 1, config });
  result.view.addEventListener("click", (event, item) => {
    if (item && item.datum && item.datum.cell !== undefined && item.datum.cell !== null) show(item.datum.cell);
  });
  panel.dataset.drawn = "done";
}

// -- transcripts ------------------------------------------------------------------------------------------------------

function chip(grade) {
  const kind = grade.verdict === null ? "unknown" : grade.verdict ? "yes" : "no";
  const sign = { yes: "✓ ", no: "✗ ", unknown: "? " }[kind];
  const node = element("span", `chip ${kind}`, sign + words(grade.measure));
  node.title = grade.reason || "";
  return node;
}

function prompt(sample) {
  const pre = element("pre");
  let begun = false;
  for (const [text, marked] of data.prompts[sample.prompt]) {
    if (marked && !begun) pre.append(element("span", "begins", "injection begins"));
    begun = begun || marked;
    pre.append(marked ? element("mark", "", text) : text);
  }
  return pre;
}

function transcript(sample, first) {
  const details = element("details", "", element("summary", "", "prompt as the model read it"), prompt(sample));
  details.open = first;
  const answer = sample.answer === "" ? "(empty answer)" : sample.answer;
  const other = sample.direction && sample.direction !== sample.item ? ` (direction of ${sample.direction})` : "";
  return element("article", "transcript",
    element("div", "who", element("b", "", sample.item + other), element("span", "", `wording ${sample.wording}, repeat ${sample.repeat}`)),
    element("blockquote", "", sample.inside ? element("mark", "", answer) : answer, sample.cut ? " […]" : ""),
    element("div", "chips", ...(sample.grades.length ? sample.grades.map(chip) : [element("span", "chip unknown", "? not graded")])),
    ...sample.others.map((reply) => element("blockquote", "", `${reply.name}: ${reply.text}`)),
    details,
  );
}

function row(...cells) {
  return element("tr", "", ...cells.map((text, index) => element("td", index ? "num" : "", text)));
}

function rates(cell) {
  const head = ["", "rate, %", "95 % interval", "n", "graded, %"].map((text, index) => element("th", index ? "num" : "", text));
  const rows = cell.rates.map((rate) => row(words(rate.measure), percent(rate.rate), `${percent(rate.low)}–${percent(rate.high)}`, String(rate.n), percent(rate.coverage)));
  return element("table", "cellrates", element("thead", "", element("tr", "", ...head)), element("tbody", "", ...rows));
}

function show(number) {
  const cell = data.cells[number];
  const samples = data.samples[number] || [];
  document.getElementById("reader-title").textContent = cell.title;
  const note = `${samples.length} of ${cell.trials} trials, picked by the hash of their identity, not by what the model said.`;
  dialog.querySelector(".body").replaceChildren(
    ...(cell.rates.length ? [rates(cell)] : []), element("p", "sampled", note), ...samples.map((sample, index) => transcript(sample, index === 0)),
  );
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  for (const pre of dialog.querySelectorAll("pre")) {
    const begins = pre.querySelector(".begins");
    if (begins) pre.scrollTop = begins.offsetTop - pre.offsetTop - 40;
  }
}

dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// -- the table of every cell ------------------------------------------------------------------------------------------

function cellTable(section) {
  const cells = Object.entries(data.cells).filter(([, cell]) => cell.section === section);
  const head = ["injected", "rates", "trials", ""].map((text) => element("th", "", text));
  const rows = cells.map(([number, cell]) => {
    const button = element("button", "", "read");
    button.addEventListener("click", () => show(number));
    const text = cell.rates.map((rate) => `${words(rate.measure)} ${percent(rate.rate)} [${percent(rate.low)}–${percent(rate.high)}]`).join(" · ");
    return element("tr", "", element("td", "", cell.title), element("td", "", text), element("td", "", String(cell.trials)), element("td", "", button));
  });
  return element("table", "", element("thead", "", element("tr", "", ...head)), element("tbody", "", ...rows));
}

// -- drawing, when there is room --------------------------------------------------------------------------------------

function drawAll(root) {
  return Promise.all([...root.querySelectorAll(".panel")].map(draw));
}

for (const details of document.querySelectorAll("details.study, details.figure")) {
  details.addEventListener("toggle", () => {
    const target = details.querySelector(".scroll");
    if (details.dataset.section && !target.firstChild) target.append(cellTable(details.dataset.section));
    if (details.open) drawAll(details);
  });
}

// -- folded sections --------------------------------------------------------------------------------------------------

function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.matches("details")) target.open = true;
  target.scrollIntoView();
}

for (const link of document.querySelectorAll('.contents a')) link.addEventListener("click", () => setTimeout(reveal));
window.addEventListener("hashchange", reveal);
document.getElementById("open-all")?.addEventListener("click", () => {
  for (const details of document.querySelectorAll("details.study, details.methods")) details.open = true;
});
reveal();

drawAll(document).then(() => { document.documentElement.dataset.ready = "yes"; });
