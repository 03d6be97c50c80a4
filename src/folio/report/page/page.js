"use strict";
// Draws the charts from the data below the page, sorts its tables, and colours everything by one key.
// All text from runs enters the page as text nodes, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

// --- small helpers

function element(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function html(name, text = null, className = "") {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fill(select, options) {
  options.forEach(([value, text]) => {
    const option = html("option", text);
    option.value = value;
    select.append(option);
  });
}

/** Round numbers that lie between two others, about `wanted` of them. */
function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index++) found.push(index * step);
  return found;
}

function logTicks(low, high, wanted) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const factor of [1, 2, 5]) {
      const value = factor * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
    }
  const decades = found.filter((value) => /^1(e|0|$)|^0\.0*1$/.test(String(value)));
  return found.length > 2 * wanted && decades.length > 1 ? decades : found;
}

/** 1500 as 1.5k, 2000000 as 2M; with as many digits as tell neighbours `step` apart. */
function brief(value, step = 0) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const [scale, unit] = size >= 1e9 ? [1e9, "G"] : size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
  if (size < 1e-3) return value.toExponential(1);
  let digits = size / scale < 10 ? 2 : 0;
  if (step) {
    // As many as write the step itself out: 0.025 takes three.
    const written = (step / scale).toPrecision(3).replace(/e.*|\.?0+$/, "");
    digits = Math.min(6, (written.split(".")[1] || "").length);
  }
  return (value / scale).toFixed(digits) + unit;
}

/** Digits after the point that tell ticks of this list apart, as text. */
function tickTexts(values) {
  const step = values.length > 1 ? Math.abs(values[1] - values[0]) : Math.abs(values[0] || 1) / 10;
  let texts = values.map((value) => brief(value, step));
  if (new Set(texts).size < texts.length) texts = values.map((value) => String(+value.toPrecision(6)));
  return texts;
}

// --- colours: one key colours curves, tables and samples alike

let key = data.keys[data.first_key];
const color = (value) => (dark.matches ? key.styles[value].dark : key.styles[value].light);
const dash = (value) => key.styles[value].dash;
const valueOf = (run) => run.values[key.key];

function recolor() {
  for (const row of document.querySelectorAll("[data-run], [data-group]")) {
    const group = row.dataset.group === undefined ? null : data.groups[row.dataset.group];
    const runs = group ? group.runs.map((index) => data.runs[index]) : [data.runs[row.dataset.run]];
    const values = new Set(runs.map(valueOf));
    const swatch = row.querySelector(".swatch");
    if (swatch) swatch.style.backgroundColor = values.size === 1 ? color([...values][0]) : "";
  }
}

// --- tables

function sortBy(table, column, head) {
  const numeric = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const direction = before === "ascending" ? "descending" : "ascending";
  table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [row.cells[column].dataset.value, row]);
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last either way
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable"))
  table.querySelectorAll("th").forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => sortBy(table, column, head)));

// --- the dots: every seed, mean and interval

function drawDots() {
  const box = $("dots");
  if (!box) return;
  const column = data.columns[$("dots-metric").value];
  const rows = data.groups.filter((group) => group.summaries[column.metric]);
  const width = Math.max(box.clientWidth, 240);
  const wide = width > 620;
  const left = wide ? Math.min(330, 90 + 7.4 * Math.max(...rows.map((row) => row.label.length))) : 6;
  const line = wide ? 34 : 50;
  const right = width - 18;
  const height = rows.length * line + 50;
  const all = rows.flatMap((group) => {
    const { mean, margin } = group.summaries[column.metric];
    return [...group.counted.map((index) => data.runs[index].metrics[column.metric]).filter((x) => x !== undefined),
      mean - (margin || 0), mean + (margin || 0)];
  }).map((value) => value * column.scale);
  let [low, high] = [Math.min(...all), Math.max(...all)];
  const air = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  [low, high] = [low - air, high + air];
  const x = (value) => left + ((value - low) / (high - low)) * (right - left);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${column.heading} of each configuration` });
  const marks = ticks(low, high, width / 110);
  const texts = tickTexts(marks);
  marks.forEach((mark, index) => {
    svg.append(element("line", { class: "grid", x1: x(mark), x2: x(mark), y1: 0, y2: height - 46 }));
    svg.append(element("text", { x: x(mark), y: height - 28, "text-anchor": "middle" }, texts[index]));
  });
  svg.append(element("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, column.heading));
  rows.forEach((group, index) => {
    const middle = index * line + (wide ? line / 2 : line - 16);
    const values = new Set(group.counted.map((run) => valueOf(data.runs[run])));
    const paint = values.size === 1 ? color([...values][0]) : "var(--soft)";
    const { mean, margin, n } = group.summaries[column.metric];
    const count = `, n = ${n}`;
    const name = group.label + count;
    const most = Math.floor((wide ? left - 20 : width - 12) / 7.2);
    const label = element("text", { class: "name", x: wide ? left - 16 : 4, y: wide ? middle + 4 : middle - 15, "text-anchor": wide ? "end" : "start" },
      name.length > most ? `${group.label.slice(0, most - count.length - 1)}…${count}` : name);
    label.append(element("title", {}, name));
    svg.append(label);
    if (margin !== null) {
      svg.append(element("line", { x1: x((mean - margin) * column.scale), x2: x((mean + margin) * column.scale), y1: middle, y2: middle, stroke: paint, "stroke-width": 2 }));
      svg.append(element("line", { x1: x(mean * column.scale), x2: x(mean * column.scale), y1: middle - 9, y2: middle + 9, stroke: paint, "stroke-width": 3 }));
    }
    for (const run of group.counted) {
      const value = data.runs[run].metrics[column.metric];
      if (value === undefined) continue;
      const dot = element("circle", { cx: x(value * column.scale), cy: middle, r: 4.5, fill: paint, "fill-opacity": 0.62 });
      dot.append(element("title", {}, `${data.runs[run].name}: ${value * column.scale}`));
      svg.append(dot);
    }
  });
  box.replaceChildren(svg);
}

// --- the curves

const hidden = new Set();

/** What is drawn: means of configurations, and single runs. */
function lines(tag, axis) {
  const found = [];
  const add = (points, run, more) => {
    if (points && points[axis]) found.push({ x: points[axis], y: points.values, steps: points.steps, value: valueOf(run), ...more });
  };
  for (const group of data.groups) {
    const mean = group.means[tag];
    const runs = group.runs.map((index) => data.runs[index]);
    const same = new Set(runs.filter((run) => run.counted).map(valueOf)).size === 1;
    if (mean && same)
      add(mean, runs.find((run) => run.counted), { label: group.label, mean: true, low: mean.low, high: mean.high, n: mean.n });
    for (const run of runs)
      add(run.curves[tag], run, { label: run.name, thin: Boolean(mean && same), unfinished: !run.finished });
  }
  return found;
}

function drawCurves(box, shown, { axis, yTitle, height, range, log, small }) {
  const width = Math.max(box.clientWidth, 160);
  const [left, right, top, bottom] = [small ? 40 : 58, width - (small ? 6 : 14), small ? 6 : 12, height - (small ? 22 : 44)];
  const last = Math.max(...range.flatMap((line) => line.x));
  const cut = Number($("curve-range").value) * last || -Infinity;
  const inside = (line, index) => line.x[index] >= cut && (!log || line.x[index] > 0);
  const xs = range.flatMap((line) => line.x.filter((_, index) => inside(line, index)));
  const ys = range.flatMap((line) => [line.y, line.low || [], line.high || []].flatMap((values) => values.filter((_, index) => inside(line, index))));
  if (!xs.length) { box.replaceChildren(html("p", "Nothing to draw here.", "hint")); return; }
  const xLow = log ? Math.min(...xs) : cut > 0 ? cut : 0;
  const xHigh = Math.max(...xs) === xLow ? xLow + 1 : Math.max(...xs);
  let [yLow, yHigh] = [Math.min(...ys), Math.max(...ys)];
  const air = (yHigh - yLow) * 0.05 || Math.abs(yHigh) * 0.05 || 1;
  [yLow, yHigh] = [yLow - air, yHigh + air];
  const share = (value) => (log ? Math.log(value / xLow) / Math.log(xHigh / xLow) : (value - xLow) / (xHigh - xLow));
  const x = (value) => left + share(value) * (right - left);
  const y = (value) => bottom - ((value - yLow) / (yHigh - yLow)) * (bottom - top);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yTitle} by ${axis.title}` });
  const wantedX = width / (small ? 80 : 100);
  const xMarks = log ? logTicks(xLow, xHigh, wantedX) : ticks(xLow, xHigh, wantedX);
  const xTexts = log ? xMarks.map((mark) => String(brief(mark)).replace(/\.?0+(?=[kMG]?$)/, (zeros) => (zeros.includes(".") ? "" : zeros))) : tickTexts(xMarks);
  xMarks.forEach((mark, index) => {
    svg.append(element("line", { class: "grid", x1: x(mark), x2: x(mark), y1: top, y2: bottom }));
    svg.append(element("text", { x: x(mark), y: bottom + 17, "text-anchor": x(mark) > right - 14 ? "end" : "middle" }, xTexts[index]));
  });
  const yMarks = ticks(yLow, yHigh, height / 60);
  const yTexts = tickTexts(yMarks);
  yMarks.forEach((mark, index) => {
    svg.append(element("line", { class: "grid", x1: left, x2: right, y1: y(mark), y2: y(mark) }));
    svg.append(element("text", { x: left - 7, y: y(mark) + 4, "text-anchor": "end" }, yTexts[index]));
  });
  svg.append(element("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  if (!small) {
    svg.append(element("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, axis.heading));
    svg.append(element("text", { x: -(top + bottom) / 2, y: 13, transform: "rotate(-90)", "text-anchor": "middle" }, yTitle));
  }
  for (const line of [...shown].sort((a, b) => Boolean(a.mean) - Boolean(b.mean))) {
    const kept = line.x.map((_, index) => index).filter((index) => inside(line, index));
    if (!kept.length) continue;
    const path = (values) => kept.map((index) => `${x(line.x[index]).toFixed(1)},${y(values[index]).toFixed(1)}`);
    const paint = line.faded ? "var(--line)" : color(line.value);
    if (line.mean) svg.append(element("polygon", { points: [...path(line.high), ...path(line.low).reverse()].join(" "), fill: paint, "fill-opacity": 0.13 }));
    const stroke = { fill: "none", stroke: paint, "stroke-linejoin": "round", "stroke-dasharray": dash(line.value),
      "stroke-width": line.mean ? 2.6 : line.thin || line.unfinished ? 1 : 1.9, "stroke-opacity": line.thin ? 0.55 : 1 };
    svg.append(element("polyline", { points: path(line.y).join(" "), ...stroke }));
    const end = kept[kept.length - 1];
    const [endX, endY] = [x(line.x[end]), y(line.y[end])];
    if (line.unfinished && !line.faded)
      svg.append(element("path", { d: `M${endX - 5},${endY - 5}l10,10m0,-10l-10,10`, stroke: paint, "stroke-width": 2 }));
    else if (kept.length === 1) svg.append(element("circle", { cx: endX, cy: endY, r: 3, fill: paint }));
  }
  box.replaceChildren(svg);
  if (!small) follow(box, svg, shown, { x, y, left, right, top, bottom, width, axis });
}

/** A line under the pointer, with what every curve has there. */
function follow(box, svg, shown, { x, left, right, top, bottom, width, axis }) {
  const tip = html("div", null, "tip");
  const rule = element("line", { class: "axis", y1: top, y2: bottom, "stroke-dasharray": "2 3" });
  tip.hidden = true;
  rule.setAttribute("visibility", "hidden");
  svg.append(rule);
  box.append(tip);
  const named = shown.some((line) => line.mean) ? shown.filter((line) => line.mean || !line.thin) : shown;
  const leave = () => { tip.hidden = true; rule.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const at = ((event.clientX - frame.left) / frame.width) * width;
    if (at < left || at > right || !named.length) return leave();
    const near = named.map((line) => {
      const index = line.x.reduce((best, value, i) => (Math.abs(x(value) - at) < Math.abs(x(line.x[best]) - at) ? i : best), 0);
      return { line, index, away: Math.abs(x(line.x[index]) - at) };
    });
    const first = near.reduce((best, each) => (each.away < best.away ? each : best));
    const place = x(first.line.x[first.index]);
    rule.setAttribute("x1", place);
    rule.setAttribute("x2", place);
    rule.setAttribute("visibility", "visible");
    const here = near.filter(({ line, index }) => Math.abs(x(line.x[index]) - place) < 6)
      .sort((a, b) => a.line.y[a.index] - b.line.y[b.index]);
    const title = html("b", `${axis.title} ${brief(first.line.x[first.index], axis.step)}`);
    tip.replaceChildren(title, ...here.slice(0, 10).map(({ line, index }) => {
      const row = html("div");
      const swatch = html("i", null, "swatch");
      swatch.style.backgroundColor = color(line.value);
      row.append(swatch, `${line.y[index].toFixed(4)}  ${line.label}${line.mean ? `, n = ${line.n}` : ""}`);
      return row;
    }), ...(here.length > 10 ? [html("div", `and ${here.length - 10} more`)] : []));
    tip.hidden = false;
    tip.style.left = place > width / 2 ? "" : `${place + 14}px`;
    tip.style.right = place > width / 2 ? `${width - place + 14}px` : "";
  });
}

function drawLegend(used) {
  const legend = $("legend");
  legend.replaceChildren(...Object.keys(key.styles).filter((value) => used.has(value)).map((value) => {
    const item = html("li");
    const button = html("button");
    button.type = "button";
    button.title = "show or hide";
    button.setAttribute("aria-pressed", String(!hidden.has(value)));
    const mark = element("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
    mark.append(element("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: color(value), "stroke-width": 3, "stroke-dasharray": dash(value) }));
    button.append(mark, value);
    button.addEventListener("click", () => {
      hidden.has(value) ? hidden.delete(value) : hidden.add(value);
      draw();
    });
    item.append(button);
    return item;
  }));
}

const AXES = {
  steps: { title: "step", heading: "optimizer step", step: 1 },
  tokens: { title: "tokens", heading: "tokens read", step: 0 },
  seconds: { title: "seconds", heading: "seconds of training (validation left out)", step: 0.1 },
};

function draw() {
  drawDots();
  const box = $("curve-chart");
  if (!box) return;
  const curve = data.curves[$("curve-tag").value];
  const name = $("curve-axis").value;
  const all = lines(curve.tag, name);
  const used = new Set(all.map((line) => line.value));
  const singles = $("curve-seeds").checked;
  const shown = all.filter((line) => !hidden.has(line.value) && (singles || !line.thin));
  const options = { axis: AXES[name], yTitle: curve.title, log: $("curve-log").checked };
  drawCurves(box, shown, { ...options, height: Math.min(430, Math.max(300, box.clientWidth * 0.5)), range: shown.length ? shown : all });
  drawLegend(used);
  // A panel for each value, the others grey behind it: what overlaps in one picture is seen apart here.
  const panels = used.size > 1 && used.size <= 12 ? [...used] : [];
  const multiples = $("multiples");
  const boxes = panels.map((value) => {
    const panel = html("div");
    const inner = html("div", null, "chart");
    panel.append(html("h3", value), inner);
    return [value, panel, inner];
  });
  multiples.replaceChildren(...boxes.map(([, panel]) => panel));
  const calm = all.filter((line) => line.mean || !line.thin);
  for (const [value, , inner] of boxes)
    drawCurves(inner, [...calm.filter((line) => line.value !== value).map((line) => ({ ...line, faded: true, mean: false })),
      ...all.filter((line) => line.value === value)], { ...options, height: 160, range: calm, small: true });
}

// --- the parts put together

fill($("dots-metric") || html("select"), data.columns.map((column, index) => [index, column.heading]));
if ($("dots-metric")) {
  $("dots-metric").value = Math.max(0, data.columns.findIndex((column) => column.metric === data.headline));
  $("dots-metric").addEventListener("change", draw);
}
if ($("curve-chart")) {
  fill($("curve-tag"), data.curves.map((curve, index) => [index, curve.title]));
  fill($("curve-axis"), data.axes.map((axis) => [axis, axis]));
  fill($("curve-key"), data.keys.map((each, index) => [index, each.title]));
  $("curve-key").value = data.first_key;
  for (const id of ["curve-tag", "curve-axis", "curve-range", "curve-seeds", "curve-log"]) $(id).addEventListener("change", draw);
  $("curve-key").addEventListener("change", () => {
    key = data.keys[$("curve-key").value];
    hidden.clear();
    recolor();
    draw();
  });
}
for (const button of document.querySelectorAll(".copy"))
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // where a page may not copy, a person can
    }
  });
if ($("more-samples"))
  $("more-samples").addEventListener("click", () => {
    document.querySelectorAll("article.more").forEach((article) => { article.hidden = false; });
    $("more-samples").remove();
  });
dark.addEventListener("change", () => { recolor(); draw(); });
let drawnWidth = innerWidth;
addEventListener("resize", () => { if (innerWidth !== drawnWidth) { drawnWidth = innerWidth; draw(); } });
recolor();
draw();
