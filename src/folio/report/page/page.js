"use strict";
// Draws the charts from the data in this page, sorts its tables, and colors everything by one key.
// All text from runs enters the page as text nodes, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);

// --- Helpers

function svgElement(name, attributes = {}, text = null) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}

function htmlElement(name, text = null, className = "") {
  const node = document.createElement(name);
  if (text !== null) node.textContent = text;
  if (className) node.className = className;
  return node;
}

function addOptions(select, options) {
  options.forEach(([value, text]) => {
    const option = htmlElement("option", text);
    option.value = value;
    select.append(option);
  });
}

/** Returns about `wanted` round numbers between low and high. */
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

/** Writes 1500 as 1.5k and 2000000 as 2M, with enough digits to distinguish neighbors that are `step` apart. */
function shortNumber(value, step = 0) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const [scale, unit] = size >= 1e9 ? [1e9, "G"] : size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
  if (size < 1e-3) return value.toExponential(1);
  let digits = size / scale < 10 ? 2 : 0;
  if (step) {
    // As many digits as the step itself has: three for 0.025.
    const written = String(Number((step / scale).toPrecision(3)));
    digits = Math.min(6, (written.split(".")[1] || "").length);
  }
  return (value / scale).toFixed(digits) + unit;
}

/** Writes the ticks of an axis with enough digits to distinguish them. */
function tickTexts(values) {
  const step = values.length > 1 ? Math.abs(values[1] - values[0]) : Math.abs(values[0] || 1) / 10;
  let texts = values.map((value) => shortNumber(value, step));
  if (new Set(texts).size < texts.length) texts = values.map((value) => String(+value.toPrecision(6)));
  return texts;
}

function logTickTexts(values) {
  const withoutZeros = (zeros) => (zeros.includes(".") ? "" : zeros);
  return values.map((value) => shortNumber(value).replace(/\.?0+(?=[kMG]?$)/, withoutZeros));
}

/** Returns the range of the values with some padding, which is never empty. */
function paddedRange(values, fraction) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const padding = (high - low) * fraction || Math.abs(high) * 0.05 || 1;
  return [low - padding, high + padding];
}

// --- Colors: one key colors curves, tables and samples alike

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

// --- Tables

function sortBy(table, column, head) {
  const numeric = head.classList.contains("number");
  const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [row.cells[column].dataset.value, row]);
  rows.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === ""); // unknown values come last in both directions
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable"))
  table.querySelectorAll("th").forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => sortBy(table, column, head)));

// --- Dot plot: every seed, the mean and its confidence interval

function drawDots() {
  const box = $("dots");
  if (!box) return;
  const column = data.columns[$("dots-metric").value];
  const groups = data.groups.filter((group) => group.summaries[column.metric]);
  const seedValues = (group) => group.averaged
    .map((index) => ({ name: data.runs[index].name, value: data.runs[index].metrics[column.metric] }))
    .filter(({ value }) => value !== undefined);
  const width = Math.max(box.clientWidth, 240);
  const wide = width > 620; // labels stand beside the dots, otherwise above them
  const left = wide ? Math.min(330, 90 + 7.4 * Math.max(...groups.map((group) => group.label.length))) : 6;
  const right = width - 18;
  const rowHeight = wide ? 34 : 50;
  const height = groups.length * rowHeight + 50;
  const [low, high] = paddedRange(groups.flatMap((group) => {
    const { mean, margin } = group.summaries[column.metric];
    return [...seedValues(group).map(({ value }) => value), mean - (margin || 0), mean + (margin || 0)];
  }).map((value) => value * column.scale), 0.06);
  const x = (value) => left + ((value * column.scale - low) / (high - low)) * (right - left);
  const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${column.heading} of each configuration` });
  const marks = ticks(low, high, width / 110);
  const texts = tickTexts(marks);
  marks.forEach((mark, index) => {
    const at = x(mark / column.scale);
    svg.append(svgElement("line", { class: "grid", x1: at, x2: at, y1: 0, y2: height - 46 }));
    svg.append(svgElement("text", { x: at, y: height - 28, "text-anchor": "middle" }, texts[index]));
  });
  svg.append(svgElement("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, column.heading));
  groups.forEach((group, index) => {
    const y = index * rowHeight + (wide ? rowHeight / 2 : rowHeight - 16);
    const values = new Set(group.averaged.map((run) => valueOf(data.runs[run])));
    const paint = values.size === 1 ? color([...values][0]) : "var(--soft)";
    const { mean, margin, n } = group.summaries[column.metric];
    const suffix = `, n = ${n}`;
    const name = group.label + suffix;
    const maxLength = Math.floor((wide ? left - 20 : width - 12) / 7.2);
    const label = svgElement("text", { class: "name", x: wide ? left - 16 : 4, y: wide ? y + 4 : y - 15, "text-anchor": wide ? "end" : "start" },
      name.length > maxLength ? `${group.label.slice(0, maxLength - suffix.length - 1)}…${suffix}` : name);
    label.append(svgElement("title", {}, name));
    svg.append(label);
    if (margin !== null) {
      svg.append(svgElement("line", { x1: x(mean - margin), x2: x(mean + margin), y1: y, y2: y, stroke: paint, "stroke-width": 2 }));
      svg.append(svgElement("line", { x1: x(mean), x2: x(mean), y1: y - 9, y2: y + 9, stroke: paint, "stroke-width": 3 }));
    }
    for (const seed of seedValues(group)) {
      const dot = svgElement("circle", { cx: x(seed.value), cy: y, r: 4.5, fill: paint, "fill-opacity": 0.62 });
      dot.append(svgElement("title", {}, `${seed.name}: ${seed.value * column.scale}`));
      svg.append(dot);
    }
  });
  box.replaceChildren(svg);
}

// --- Curves

const AXES = {
  steps: { title: "step", heading: "optimizer step", step: 1 },
  tokens: { title: "tokens", heading: "tokens read", step: 0 },
  seconds: { title: "seconds", heading: "seconds of training (validation left out)", step: 0.1 },
};

const hidden = new Set(); // values of `key` that are switched off in the legend

/** Returns the lines to draw: means of configurations, and single runs. */
function linesOf(tag, axis) {
  const lines = [];
  const add = (points, run, more) => {
    if (points && points[axis]) lines.push({ x: points[axis], y: points.values, steps: points.steps, value: valueOf(run), ...more });
  };
  for (const group of data.groups) {
    const mean = group.means[tag];
    const runs = group.runs.map((index) => data.runs[index]);
    const averaged = runs.filter((run) => run.averaged);
    const hasMean = Boolean(mean) && new Set(averaged.map(valueOf)).size === 1; // else a mean would mix colors
    if (hasMean) add(mean, averaged[0], { label: group.label, mean: true, low: mean.low, high: mean.high, n: mean.n });
    for (const run of runs) add(run.curves[tag], run, { label: run.name, thin: hasMean, unfinished: !run.finished });
  }
  return lines;
}

/** Draws `shown` into the box. The axes span all lines in `range`. */
function drawCurves(box, shown, { axis, yTitle, height, range, log, small }) {
  const width = Math.max(box.clientWidth, 160);
  const [left, right, top, bottom] = [small ? 40 : 58, width - (small ? 6 : 14), small ? 6 : 12, height - (small ? 22 : 44)];
  const start = Number($("curve-range").value) * Math.max(...range.flatMap((line) => line.x)) || -Infinity;
  const isVisible = (line, index) => line.x[index] >= start && (!log || line.x[index] > 0);
  const xs = range.flatMap((line) => line.x.filter((_, index) => isVisible(line, index)));
  const ys = range.flatMap((line) => [line.y, line.low || [], line.high || []].flatMap((values) => values.filter((_, index) => isVisible(line, index))));
  if (!xs.length) { box.replaceChildren(htmlElement("p", "Nothing to draw here.", "hint")); return; }
  const xLow = log ? Math.min(...xs) : start > 0 ? start : 0;
  const xHigh = Math.max(...xs) === xLow ? xLow + 1 : Math.max(...xs);
  const [yLow, yHigh] = paddedRange(ys, 0.05);
  const fraction = (value) => (log ? Math.log(value / xLow) / Math.log(xHigh / xLow) : (value - xLow) / (xHigh - xLow));
  const x = (value) => left + fraction(value) * (right - left);
  const y = (value) => bottom - ((value - yLow) / (yHigh - yLow)) * (bottom - top);
  const svg = svgElement("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yTitle} by ${axis.title}` });

  const nTicks = width / (small ? 80 : 100);
  const xMarks = log ? logTicks(xLow, xHigh, nTicks) : ticks(xLow, xHigh, nTicks);
  const xTexts = log ? logTickTexts(xMarks) : tickTexts(xMarks);
  xMarks.forEach((mark, index) => {
    svg.append(svgElement("line", { class: "grid", x1: x(mark), x2: x(mark), y1: top, y2: bottom }));
    svg.append(svgElement("text", { x: x(mark), y: bottom + 17, "text-anchor": x(mark) > right - 14 ? "end" : "middle" }, xTexts[index]));
  });
  const yMarks = ticks(yLow, yHigh, height / 60);
  const yTexts = tickTexts(yMarks);
  yMarks.forEach((mark, index) => {
    svg.append(svgElement("line", { class: "grid", x1: left, x2: right, y1: y(mark), y2: y(mark) }));
    svg.append(svgElement("text", { x: left - 7, y: y(mark) + 4, "text-anchor": "end" }, yTexts[index]));
  });
  svg.append(svgElement("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  if (!small) {
    svg.append(svgElement("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, axis.heading));
    svg.append(svgElement("text", { x: -(top + bottom) / 2, y: 13, transform: "rotate(-90)", "text-anchor": "middle" }, yTitle));
  }

  for (const line of [...shown].sort((a, b) => Boolean(a.mean) - Boolean(b.mean))) {
    const visible = line.x.map((_, index) => index).filter((index) => isVisible(line, index));
    if (visible.length) drawLine(svg, line, visible, x, y);
  }
  box.replaceChildren(svg);
  if (!small) addTooltip(box, svg, shown, { x, left, right, top, bottom, width, axis });
}

/** Draws the visible points of a line, with a band for a mean and a cross for a run that did not finish. */
function drawLine(svg, line, visible, x, y) {
  const path = (values) => visible.map((index) => `${x(line.x[index]).toFixed(1)},${y(values[index]).toFixed(1)}`);
  const paint = line.faded ? "var(--line)" : color(line.value);
  if (line.mean) svg.append(svgElement("polygon", { points: [...path(line.high), ...path(line.low).reverse()].join(" "), fill: paint, "fill-opacity": 0.13 }));
  svg.append(svgElement("polyline", { points: path(line.y).join(" "), fill: "none", stroke: paint, "stroke-linejoin": "round",
    "stroke-dasharray": dash(line.value), "stroke-width": line.mean ? 2.6 : line.thin || line.unfinished ? 1 : 1.9,
    "stroke-opacity": line.thin ? 0.55 : 1 }));
  const last = visible[visible.length - 1];
  const [endX, endY] = [x(line.x[last]), y(line.y[last])];
  if (line.unfinished && !line.faded)
    svg.append(svgElement("path", { d: `M${endX - 5},${endY - 5}l10,10m0,-10l-10,10`, stroke: paint, "stroke-width": 2 }));
  else if (visible.length === 1) svg.append(svgElement("circle", { cx: endX, cy: endY, r: 3, fill: paint }));
}

/** Adds a vertical line that follows the pointer, with the value of every curve there. */
function addTooltip(box, svg, shown, { x, left, right, top, bottom, width, axis }) {
  const tip = htmlElement("div", null, "tip");
  const rule = svgElement("line", { class: "axis", y1: top, y2: bottom, "stroke-dasharray": "2 3" });
  tip.hidden = true;
  rule.setAttribute("visibility", "hidden");
  svg.append(rule);
  box.append(tip);
  const listed = shown.some((line) => line.mean) ? shown.filter((line) => line.mean || !line.thin) : shown;
  const hide = () => { tip.hidden = true; rule.setAttribute("visibility", "hidden"); };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const pointerX = ((event.clientX - frame.left) / frame.width) * width;
    if (pointerX < left || pointerX > right || !listed.length) return hide();
    const nearest = listed.map((line) => {
      const distance = (index) => Math.abs(x(line.x[index]) - pointerX);
      const index = line.x.reduce((best, _, i) => (distance(i) < distance(best) ? i : best), 0);
      return { line, index, distance: distance(index) };
    });
    const first = nearest.reduce((best, each) => (each.distance < best.distance ? each : best));
    const ruleX = x(first.line.x[first.index]);
    rule.setAttribute("x1", ruleX);
    rule.setAttribute("x2", ruleX);
    rule.setAttribute("visibility", "visible");
    const here = nearest.filter(({ line, index }) => Math.abs(x(line.x[index]) - ruleX) < 6)
      .sort((a, b) => a.line.y[a.index] - b.line.y[b.index]);
    const title = htmlElement("b", `${axis.title} ${shortNumber(first.line.x[first.index], axis.step)}`);
    tip.replaceChildren(title, ...here.slice(0, 10).map(({ line, index }) => {
      const row = htmlElement("div");
      const swatch = htmlElement("i", null, "swatch");
      swatch.style.backgroundColor = color(line.value);
      row.append(swatch, `${line.y[index].toFixed(4)}  ${line.label}${line.mean ? `, n = ${line.n}` : ""}`);
      return row;
    }), ...(here.length > 10 ? [htmlElement("div", `and ${here.length - 10} more`)] : []));
    tip.hidden = false;
    tip.style.left = ruleX > width / 2 ? "" : `${ruleX + 14}px`;
    tip.style.right = ruleX > width / 2 ? `${width - ruleX + 14}px` : "";
  });
}

function drawLegend(used) {
  $("legend").replaceChildren(...Object.keys(key.styles).filter((value) => used.has(value)).map((value) => {
    const item = htmlElement("li");
    const button = htmlElement("button");
    button.type = "button";
    button.title = "show or hide";
    button.setAttribute("aria-pressed", String(!hidden.has(value)));
    const mark = svgElement("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
    mark.append(svgElement("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: color(value), "stroke-width": 3, "stroke-dasharray": dash(value) }));
    button.append(mark, value);
    button.addEventListener("click", () => {
      hidden.has(value) ? hidden.delete(value) : hidden.add(value);
      draw();
    });
    item.append(button);
    return item;
  }));
}

/** Draws a small chart for each value, with the other values in gray: curves that overlap in one chart separate here. */
function drawMultiples(lines, values, options) {
  const boxes = values.map((value) => {
    const panel = htmlElement("div");
    const box = htmlElement("div", null, "chart");
    panel.append(htmlElement("h3", value), box);
    return { value, panel, box };
  });
  $("multiples").replaceChildren(...boxes.map(({ panel }) => panel));
  const background = lines.filter((line) => line.mean || !line.thin);
  for (const { value, box } of boxes) {
    const others = background.filter((line) => line.value !== value).map((line) => ({ ...line, faded: true, mean: false }));
    const own = lines.filter((line) => line.value === value);
    drawCurves(box, [...others, ...own], { ...options, height: 160, range: background, small: true });
  }
}

function draw() {
  drawDots();
  const box = $("curve-chart");
  if (!box) return;
  const curve = data.curves[$("curve-tag").value];
  const axis = $("curve-axis").value;
  const lines = linesOf(curve.tag, axis);
  const used = new Set(lines.map((line) => line.value));
  const withSingles = $("curve-seeds").checked;
  const shown = lines.filter((line) => !hidden.has(line.value) && (withSingles || !line.thin));
  const options = { axis: AXES[axis], yTitle: curve.title, log: $("curve-log").checked };
  drawCurves(box, shown, { ...options, height: Math.min(430, Math.max(300, box.clientWidth * 0.5)), range: shown.length ? shown : lines });
  drawLegend(used);
  drawMultiples(lines, used.size > 1 && used.size <= 12 ? [...used] : [], options);
}

// --- Controls

if ($("dots-metric")) {
  addOptions($("dots-metric"), data.columns.map((column, index) => [index, column.heading]));
  $("dots-metric").value = Math.max(0, data.columns.findIndex((column) => column.metric === data.primary_metric));
  $("dots-metric").addEventListener("change", draw);
}
if ($("curve-chart")) {
  addOptions($("curve-tag"), data.curves.map((curve, index) => [index, curve.title]));
  addOptions($("curve-axis"), data.axes.map((axis) => [axis, axis]));
  addOptions($("curve-key"), data.keys.map((each, index) => [index, each.title]));
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
      getSelection().selectAllChildren(code); // the page may not copy, but the reader can
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
