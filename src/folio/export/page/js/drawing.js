"use strict";
// Drawings of the views: a matrix as squares, lines between tokens, a small chart.

/** Returns the color of a value between 0 and 1 as [r, g, b]: from the page's paper to its strongest ink. */
function shade(value, [from, to]) {
  return from.map((channel, i) => Math.round(channel + (to[i] - channel) * value));
}

/** Returns the colors that squares run between, and those of negative ones, in the page's current theme. */
function palette() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return dark
    ? {
        positive: [
          [30, 33, 38],
          [121, 192, 242],
        ],
        negative: [
          [30, 33, 38],
          [255, 147, 80],
        ],
      }
    : {
        positive: [
          [255, 255, 255],
          [0, 88, 150],
        ],
        negative: [
          [255, 255, 255],
          [200, 80, 0],
        ],
      };
}

/** Draws rows of values as squares. Returns a canvas, whose label says what it shows.
 * A label of null hides it from screen readers. scale: the value that has the strongest color; negative values have
 * another one. */
function heatmap(rows, { label, scale, cell }) {
  const nColumns = rows[0].length;
  const colors = palette();
  const canvas = element("canvas", {
    width: nColumns,
    height: rows.length,
    class: "heatmap",
    role: "img",
    "aria-label": label,
    "aria-hidden": label === null && "true",
    "--width": `${nColumns * cell}px`,
    "--height": `${rows.length * cell}px`,
  });
  const context = canvas.getContext("2d");
  const image = context.createImageData(nColumns, rows.length);
  rows.forEach((row, r) =>
    row.forEach((value, c) => {
      const color = shade(Math.min(Math.abs(value) / scale, 1), value < 0 ? colors.negative : colors.positive);
      image.data.set([...color, 255], 4 * (r * nColumns + c));
    }),
  );
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Draws the weights of each token, a row, on each other, a column, with their names. A click chooses a row. */
function matrix(pieces, rows, picked, onPick) {
  const names = 12 + 8 * Math.max(...pieces.map((piece) => shortName(piece).length)); // pixels
  const cell = Math.max(12, Math.min(24, Math.floor((660 - names) / pieces.length)));
  const side = names + pieces.length * cell;
  const name = (index, attributes) =>
    svg(
      "text",
      { ...attributes, class: `${attributes.class} ${index === picked ? "current" : ""}` },
      shortName(pieces[index]),
    );
  const squares = rows.flatMap((row, r) =>
    Array.from(row, (weight, c) =>
      weight > 0.002
        ? [
            svg(
              "rect",
              {
                x: names + c * cell,
                y: names + r * cell,
                width: cell,
                height: cell,
                "fill-opacity": Math.min(1, weight).toFixed(3),
              },
              svg("title", {}, `${visible(pieces[r])} → ${visible(pieces[c])}: ${percent(weight)}`),
            ),
          ]
        : [],
    ).flat(),
  );
  const drawing = svg(
    "svg",
    {
      viewBox: `0 0 ${side} ${side}`,
      width: side,
      height: side,
      class: "matrix",
      role: "img",
      "font-size": Math.min(12, cell),
      "aria-label": `A matrix of ${pieces.length} by ${pieces.length} tokens. The list of weights has its numbers.`,
    },
    svg("rect", { x: names, y: names, width: side - names, height: side - names, class: "frame" }),
    ...squares,
    svg("rect", { x: names, y: names + picked * cell, width: side - names, height: cell, class: "mark" }),
    ...pieces.flatMap((_, i) => [
      name(i, { x: names - 5, y: names + (i + 0.5) * cell, class: "end" }),
      name(i, { transform: `translate(${names + (i + 0.5) * cell} ${names - 5}) rotate(-90)`, class: "top" }),
    ]),
  );
  drawing.addEventListener("click", (event) => {
    const box = drawing.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) * (side / box.height) - names) / cell);
    if (row >= 0 && row < pieces.length) onPick(row);
  });
  return drawing;
}

const shortName = (piece) => (piece.length > 9 ? visible(piece.slice(0, 8)) + "…" : visible(piece));

/** Draws lines from each token on the left to those on the right that it attends to, as thick as its weights.
 * weights(query, key) is between 0 and 1; the lines of other queries than `query` are pale. */
function linesBetween(pieces, weights, query, onPick) {
  const height = 18;
  const gap = 120;
  const side = 96;
  const width = gap + 2 * side;
  const y = (index) => index * height + height / 2;
  const lines = [];
  for (let q = 0; q < pieces.length; q++)
    for (let k = 0; k < pieces.length; k++) {
      const weight = weights(q, k);
      if (weight > (q === query ? 0.005 : 0.1))
        lines.push(
          svg("line", {
            x1: side,
            y1: y(q),
            x2: side + gap,
            y2: y(k),
            class: q === query ? "line current" : "line",
            "stroke-width": (0.5 + 5 * weight).toFixed(2),
            "stroke-opacity": (q === query ? 0.25 + 0.75 * weight : 0.25 * weight).toFixed(2),
          }),
        );
    }
  lines.sort((a, b) => a.classList.contains("current") - b.classList.contains("current"));
  const names = pieces.flatMap((piece, index) => {
    const left = svg(
      "text",
      { x: side - 6, y: y(index), class: "end" + (index === query ? " current" : "") },
      shortName(piece),
    );
    left.addEventListener("click", () => onPick(index));
    const weight = weights(query, index);
    return [
      left,
      svg(
        "text",
        { x: side + gap + 6, y: y(index), "fill-opacity": (0.45 + 0.55 * Math.min(1, 3 * weight)).toFixed(2) },
        shortName(piece),
      ),
    ];
  });
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${pieces.length * height}`,
      width,
      height: pieces.length * height,
      class: "lines",
      role: "img",
      "aria-label": `Lines from “${visible(pieces[query])}” to the tokens it attends to. The list of weights has the numbers.`,
    },
    ...lines,
    ...names,
  );
}

/** Returns round numbers from low to high, about five of them. */
function roundTicks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const n = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: n }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

/** Draws values over x as lines. lines: {values, class}; xs: where each value stands, with the names xTicks. */
function chart(lines, { label, xLabel, yLabel, xs, xTicks }) {
  const width = 560;
  const height = 250;
  const left = 52;
  const right = 34;
  const top = 32;
  const bottom = 46;
  const values = lines.flatMap((line) => line.values);
  const high = Math.max(...values);
  const low = Math.min(0, ...values);
  const last = xs.at(-1);
  const x = (value) => left + ((width - left - right) * (value - xs[0])) / (last - xs[0] || 1);
  const y = (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low || 1);
  const grid = roundTicks(low, high).flatMap((value) => [
    svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: "grid" }),
    svg("text", { x: left - 8, y: y(value), class: "end" }, value.toLocaleString("en")),
  ]);
  let free = -Infinity; // names that would overlap the one before are left out
  const ticks = xs.flatMap((value, i) => {
    if (x(value) - 4 * xTicks[i].length < free) return [];
    free = x(value) + 4 * xTicks[i].length + 4;
    return [svg("text", { x: x(value), y: height - bottom + 16, class: "middle" }, xTicks[i])];
  });
  const drawn = lines.map(({ values, class: class_ = "" }) =>
    svg(
      "g",
      { class: `series ${class_}` },
      svg("polyline", { points: values.map((value, i) => `${x(xs[i]).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }),
      ...(values.length > 40 ? [] : values.map((value, i) => svg("circle", { cx: x(xs[i]), cy: y(value), r: 2.5 }))),
    ),
  );
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label },
    ...grid,
    ...ticks,
    ...drawn,
    svg("text", { x: (left + width - right) / 2, y: height - 10, class: "middle name" }, xLabel),
    svg("text", { x: 4, y: 10, class: "name" }, yLabel),
  );
}
