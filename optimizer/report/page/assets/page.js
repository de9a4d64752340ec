"use strict";
// Draws the pictures and tables of the page for the layer and the metrics that a reader chooses.

const page = JSON.parse(document.getElementById("data").textContent);
const chosen = { layer: page.layers[0] || "", metrics: {} };
const paper = window.matchMedia("print");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const PAPER_WIDTH = 700; // pixels of the 188 mm between the margins of A4; when a page is told that it will be printed,
// it has still the layout of the screen
const PAPER_HEIGHT = 0.46; // of a picture's height on the screen, as paper is narrower
const LEGEND_BESIDE = 700; // pixels of width from which on a legend stands beside its picture
const LEGEND_ENTRY = 190; // pixels of a legend's entry, with its line; more where names are long
const LEGEND_LINE = 60; // pixels of that line, and what is kept free
let printing = false;
let waiting = null;

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The library that draws, which is compiled when it is first needed: that takes a second or two, in which the page can be
// read already.
function library() {
  if (!window.Plotly) {
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }
  return window.Plotly;
}

function viewOf(item) {
  return item.views[chosen.layer] || item.views[""];
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function merged(one, other) {
  const found = Object.assign({}, one);
  for (const key of Object.keys(other || {})) {
    found[key] = isObject(found[key]) && isObject(other[key]) ? merged(found[key], other[key]) : other[key];
  }
  return found;
}

function themed(layout) {
  const ink = printing ? "#1b1e23" : colour("--ink");
  const line = printing ? "#d5d9e0" : colour("--line");
  const ground = printing ? "#ffffff" : colour("--ground");
  const narrow = !printing && window.innerWidth < 500;
  const found = merged({
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: printing ? 9 : narrow ? 11 : 13, family: "system-ui, 'DejaVu Sans', sans-serif" },
    margin: { l: narrow ? 48 : 60, r: narrow ? 8 : 16, t: 12, b: printing ? 34 : 48 },
    hoverlabel: { align: "left", bgcolor: ground, bordercolor: line, font: { color: ink, size: 12 } },
    dragmode: false,
    modebar: { remove: ["toImage"] },
  }, layout);
  for (const key of Object.keys(found)) {
    if (/^[xy]axis/.test(key)) {
      const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, fixedrange: true };
      found[key] = merged(axis, found[key]);
    }
  }
  found.shapes = (layout.shapes || []).map((shape) =>
    merged(shape, { line: { color: shape.line.color || ground } }));
  return found;
}

// What pointing at each slot of a map tells: its expert, where it is, the expert's other replicas and partners.
function slotTexts(item, view) {
  const { expert, cols, partners, unit } = view.cells;
  const device = item.traces[0].meta.device;
  const values = view.traces.map((trace) => trace.z);
  const homes = {};
  expert.forEach((row, y) => row.forEach((id, x) => (homes[id] = homes[id] || []).push(device[y][x])));
  return expert.map((row, y) => row.map((id, x) => {
    const at = device[y][x];
    const where = `device ${at} (row ${Math.floor(at / cols)}, column ${at % cols})`;
    if (id < 0) return `${where}: empty slot`;
    const others = homes[id].filter((other) => other !== at).sort((one, other) => one - other);
    const known = partners[id];
    const liked = known && known.length
      ? `often chosen with ${known.map(([other, lift]) => `${other} (x${lift})`).join(", ")}`
      : known ? "" : "shared expert: every token chooses it";
    const shown = others.slice(0, 6).join(", ") + (others.length > 6 ? ` and ${others.length - 6} more` : "");
    return [
      `<b>expert ${id}</b> on ${where}`,
      others.length ? `further replicas on devices ${shown}` : "no further replica",
      liked,
      `${values[0][y][x]} pairs a batch, ${values[1][y][x]} ${unit}`,
      `device: ${values[2][y][x]} % of latency`,
    ].filter((line) => line).join("<br>");
  }));
}

// Beside the picture where there is room, and else below it, where the picture grows by the legend's height.
function placeLegend(layout, place, names) {
  const named = names.length;
  if (place.clientWidth >= LEGEND_BESIDE) {
    place.style.height = `${Math.max(place.clientHeight, 20 * named + 70)}px`; // else the legend would scroll
    layout.legend = merged({ x: 1.01, y: 1, xanchor: "left", yanchor: "top" }, layout.legend);
    return;
  }
  const longest = Math.max(...names.map((name) => name.length));
  const entry = Math.max(LEGEND_ENTRY, LEGEND_LINE + (printing ? 5 : 7) * longest);
  const abreast = Math.max(1, Math.floor(place.clientWidth / entry));
  const high = 20 * Math.ceil(named / abreast);
  place.style.height = `${place.clientHeight + high}px`;
  layout.margin = merged(layout.margin, { b: layout.margin.b + high + 10 });
  layout.legend = merged({ orientation: "h", x: 0, y: 0, xref: "container", yref: "container", yanchor: "bottom",
    entrywidth: Math.floor(place.clientWidth / abreast) - LEGEND_LINE }, layout.legend);
}

// The lift of every two experts, which the page keeps in bytes, as rows of numbers and as what pointing at one tells.
function lifts(cells) {
  const bytes = Int8Array.from(atob(cells.bytes), (letter) => letter.charCodeAt(0));
  const size = cells.order.length;
  const place = (x, y) => y * size - (y * (y + 1)) / 2 + x - y - 1; // of a pair above the diagonal, row by row
  const rows = (of) => cells.order.map((one, y) => cells.order.map((other, x) =>
    of(x === y ? 0 : bytes[place(Math.max(x, y), Math.min(x, y))], one, other)));
  return {
    z: rows((step) => step),
    text: rows((step, one, other) => one === other ? `expert ${one}`
      : `experts ${one} and ${other}: lift ${(2 ** (step / cells.steps)).toFixed(2)}`),
  };
}

// The traces and the layout of a picture for the chosen layer, in the colours of the page; where it can show several
// metrics, that one alone is visible.
function contents(item, metric) {
  const view = viewOf(item);
  const more = !view.cells ? {} : view.cells.kind === "lift" ? lifts(view.cells) : { text: slotTexts(item, view) };
  const traces = item.traces.map((trace, number) => {
    const found = Object.assign(merged(trace, view.traces[number]), more);
    if (trace.meta && trace.meta.metric) found.visible = trace.meta.metric === metric;
    return found;
  });
  return { traces, layout: themed(merged(item.layout, view.layout)) };
}

function drawPicture(item) {
  const place = document.querySelector(`#${item.name} .plot`);
  const { traces, layout } = contents(item, chosen.metrics[place.closest("section").id]);
  place.setAttribute("aria-label", viewOf(item).says);
  place.style.height = `${item.height * (printing ? PAPER_HEIGHT : 1)}px`;
  place.style.width = printing ? `${item.wide ? PAPER_WIDTH : PAPER_WIDTH / 2 - 10}px` : "";
  const names = traces.filter((trace) => trace.name && trace.showlegend !== false).map((trace) => trace.name);
  if (names.length > 1) placeLegend(layout, place, names);
  layout.width = place.clientWidth;
  layout.height = place.clientHeight;
  library().react(place, traces, layout, { displayModeBar: false });
}

function drawTable(item) {
  const rows = viewOf(item) || [];
  const body = document.querySelector(`#${item.name} tbody`);
  body.replaceChildren(...rows.map((cells, place) => {
    const row = document.createElement("tr");
    if (item.strong.includes(place)) row.className = "strong";
    cells.forEach((text, column) => {
      const cell = document.createElement(column ? "td" : "th");
      if (!column) cell.scope = "row";
      if (item.words.includes(column)) cell.className = "words";
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  }));
}

function draw(item) {
  try {
    if (item.kind === "picture") drawPicture(item);
    else drawTable(item);
  } catch (error) {
    console.error(`${item.name}: ${error}`); // a picture that cannot be drawn must not keep others from it
  }
}

// What is in sight first, then the others one at a time, so that the page answers meanwhile.
function drawAll() {
  clearTimeout(waiting);
  document.body.dataset.drawn = "no";
  const distance = (item) => {
    const box = document.getElementById(item.name).getBoundingClientRect();
    return box.bottom < 0 ? -box.bottom : Math.max(0, box.top - window.innerHeight);
  };
  const queue = [...page.items].map((item) => [distance(item), item]).sort((one, other) => one[0] - other[0]);
  const next = () => {
    const entry = queue.shift();
    if (!entry) {
      document.body.dataset.drawn = "yes";
      return;
    }
    draw(entry[1]);
    if (entry[0] === 0 && queue.length && queue[0][0] === 0) next();
    else waiting = setTimeout(next, 0);
  };
  next();
}

function drawForPaper(on) {
  if (printing === on) return;
  printing = on;
  clearTimeout(waiting);
  page.items.forEach(draw);
  document.body.dataset.drawn = "yes";
}
