"use strict";
// Drawings of the views: a matrix as squares, lines between tokens, a small chart.

const CELL = 16; // pixels of a square on the screen

/** Returns the color of a value between 0 and 1 as [r, g, b]: from the page's paper to its strongest ink. */
function shade(value, [from, to]) {
  return from.map((channel, i) => Math.round(channel + (to[i] - channel) * value));
}

/** Returns the colors that squares run between, and those of negative ones, in the page's current theme. */
function palette() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return dark
    ? { positive: [[30, 33, 38], [121, 192, 242]], negative: [[30, 33, 38], [255, 147, 80]] }
    : { positive: [[255, 255, 255], [0, 88, 150]], negative: [[255, 255, 255], [200, 80, 0]] };
}

/** Draws rows of values as squares. Returns a canvas, whose label says what it shows.
 * scale: the value that is darkest; negative values have another color. `onPick(row, column)` follows a click. */
function heatmap(rows, { label, scale, cell = CELL, onPick = null, picked = null }) {
  const nColumns = rows[0].length, colors = palette();
  const canvas = element("canvas", { width: nColumns, height: rows.length, class: "heatmap", role: "img", "aria-label": label,
    "--width": `${nColumns * cell}px`, "--height": `${rows.length * cell}px` });
  const context = canvas.getContext("2d"), image = context.createImageData(nColumns, rows.length);
  rows.forEach((row, r) => row.forEach((value, c) => {
    const color = shade(Math.min(Math.abs(value) / scale, 1), value < 0 ? colors.negative : colors.positive);
    image.data.set([...color, 255], 4 * (r * nColumns + c));
  }));
  context.putImageData(image, 0, 0);
  if (onPick)
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      onPick(Math.floor(((event.clientY - box.top) / box.height) * rows.length),
        Math.floor(((event.clientX - box.left) / box.width) * nColumns));
    });
  return element("div", { class: "heatmap-box" }, canvas,
    ...(picked === null ? [] : [element("span", { class: "row-mark", "aria-hidden": "true", "--top": `${picked * cell}px`, "--height": `${cell}px`,
      "--width": `${nColumns * cell}px` })]));
}

/** Draws lines from each token on the left to those on the right that it attends to, as thick as its weights.
 * weights(query, key) is between 0 and 1; the lines of other queries than `query` are pale. */
function linesBetween(pieces, weights, query, onPick) {
  const height = 22, gap = 120, side = 96, width = gap + 2 * side;
  const y = (index) => index * height + height / 2;
  const label = (text) => (text.length > 10 ? text.slice(0, 9) + "…" : text);
  const lines = [];
  for (let q = 0; q < pieces.length; q++)
    for (let k = 0; k < pieces.length; k++) {
      const weight = weights(q, k);
      if (weight > (q === query ? 0.005 : 0.1))
        lines.push(svg("line", { x1: side, y1: y(q), x2: side + gap, y2: y(k), class: q === query ? "line current" : "line",
          "stroke-width": (0.5 + 5 * weight).toFixed(2), "stroke-opacity": (q === query ? 0.25 + 0.75 * weight : 0.25 * weight).toFixed(2) }));
    }
  lines.sort((a, b) => a.classList.contains("current") - b.classList.contains("current"));
  const names = pieces.flatMap((piece, index) => {
    const left = svg("text", { x: side - 6, y: y(index), class: "end" + (index === query ? " current" : "") }, label(visible(piece)));
    left.addEventListener("click", () => onPick(index));
    const weight = weights(query, index);
    return [left, svg("text", { x: side + gap + 6, y: y(index), "fill-opacity": (0.45 + 0.55 * Math.min(1, 3 * weight)).toFixed(2) }, label(visible(piece)))];
  });
  return svg("svg", { viewBox: `0 0 ${width} ${pieces.length * height}`, width, height: pieces.length * height, class: "lines", role: "img",
    "aria-label": `Lines from “${visible(pieces[query])}” to the tokens that it attends to. The list of weights has the numbers.` }, ...lines, ...names);
}

/** Draws values over x as lines. lines: {name, values, class}; values may hold null. */
function chart(lines, { label, xLabel, yLabel, xTicks = null }) {
  const width = 560, height = 240, left = 52, right = 12, top = 14, bottom = 40;
  const values = lines.flatMap((line) => line.values).filter((value) => value !== null && Number.isFinite(value));
  const high = Math.max(...values), low = Math.min(0, ...values), n = Math.max(...lines.map((line) => line.values.length));
  const x = (i) => left + ((width - left - right) * i) / Math.max(n - 1, 1);
  const y = (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low || 1);
  const grid = [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low)).flatMap((value) => [
    svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }),
    svg("text", { x: left - 8, y: y(value), class: "end" }, Math.abs(high - low) >= 20 ? value.toFixed(0) : value.toPrecision(2))]);
  const step = Math.max(1, Math.ceil(n / 12));
  const ticks = Array.from({ length: n }, (_, i) => i).filter((i) => i % step === 0)
    .map((i) => svg("text", { x: x(i), y: height - bottom + 16, class: "middle" }, xTicks ? xTicks[i] : String(i)));
  const drawn = lines.map(({ values, class: class_ = "" }) => {
    const points = values.map((value, i) => (value === null ? null : `${x(i).toFixed(1)},${y(value).toFixed(1)}`)).filter(Boolean);
    return svg("g", { class: `series ${class_}` }, svg("polyline", { points: points.join(" ") }),
      ...(n <= 40 ? points.map((point) => svg("circle", { cx: point.split(",")[0], cy: point.split(",")[1], r: 2.5 })) : []));
  });
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label }, ...grid, ...ticks, ...drawn,
    svg("text", { x: (left + width - right) / 2, y: height - 4, class: "middle name" }, xLabel),
    svg("text", { x: 4, y: 8, class: "name" }, yLabel));
}
