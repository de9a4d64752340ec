"use strict";
// Draws the pictures of a page one by one as files for papers and slides: light, with a title and large letters.

const SLIDE = { width: 1280, height: 720, font: 22, line: 3.5 }; // letters of 22 in 720 are 16 points on a slide

const layerOf = (item) => (item.views[chosen.layer] && chosen.layer ? `layer ${chosen.layer}` : "");

function forSlide(item, metric) {
  const { traces, layout } = contents(item, metric);
  const line = (trace) => (trace.line ? merged(trace, { line: { width: (trace.line.width || 2) * SLIDE.line / 2 } }) : trace);
  const named = traces.filter((trace) => trace.name && trace.visible !== false && trace.showlegend !== false).length;
  return {
    data: traces.map(line),
    layout: merged(layout, {
      width: SLIDE.width, height: SLIDE.height, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff",
      font: { color: "#1b1e23", size: SLIDE.font, family: "Arial, Helvetica, 'DejaVu Sans', sans-serif" },
      margin: { l: 90, r: 30, t: 80, b: 90 },
      title: { text: [item.title, layerOf(item)].filter((part) => part).join(", "), x: 0.02, xanchor: "left" },
      showlegend: named > 1,
    }),
  };
}

async function drawFiles(format) {
  const found = {};
  printing = true; // light colours
  for (const item of page.items.filter((each) => each.kind === "picture")) {
    const metrics = item.traces.map((trace) => trace.meta && trace.meta.metric).filter((metric) => metric);
    for (const metric of metrics.length ? metrics : [undefined]) {
      const name = [item.name, metric, layerOf(item).replace(" ", "-")].filter((part) => part).join("-");
      found[name] = await Plotly.toImage(forSlide(item, metric), { format, width: SLIDE.width, height: SLIDE.height });
    }
  }
  const place = document.createElement("script");
  place.type = "application/json";
  place.id = "pictures";
  place.textContent = JSON.stringify(found);
  document.body.append(place);
}

drawFiles(document.body.dataset.format);
