"use strict";
// Inside: attention, softmax without the division by sqrt(d), the logit lens, the residual stream, positions.

const MOST_TOKENS = 48; // as many as a matrix can show with names

class InsideView {
  constructor() {
    this.task = new Task();
  }

  title = "Inside";

  render() {
    this.text = element("textarea", { id: "inside-text", rows: 2, spellcheck: "false" });
    this.text.value = textOf();
    const form = element(
      "form",
      {
        class: "panel",
        onsubmit: (event) => {
          event.preventDefault();
          setState({ text: this.text.value, query: "" });
          this.show();
        },
      },
      field("Text", this.text, element("p", { class: "soft" }, `The first ${MOST_TOKENS} tokens are shown.`)),
      element("div", { class: "buttons" }, element("button", { type: "submit", class: "main" }, "Look inside")),
    );
    this.result = element("div", { id: "inside" });
    return [form, this.result];
  }

  async show() {
    const model = currentModel();
    announce("Reading …");
    this.vocabulary = await source.vocabulary(model);
    this.lens = null;
    try {
      const { lens } = await this.task.run((signal) =>
        source.inspect(
          { model, text: this.text.value, nTokens: MOST_TOKENS },
          {
            signal,
            onPart: (part) => {
              this.seen = part;
              this.draw();
            },
          },
        ),
      );
      this.lens = lens;
      this.drawLens();
      announce(`${count(this.seen.ids.length, "token")} read, in ${count(lens.length - 1, "layer")}.`);
    } catch (error) {
      report(error, this.result);
    }
  }

  leave() {
    this.task.stop();
  }

  get shape() {
    return source.models[currentModel()].shape;
  }

  /** Layer, head and query (a position) that are shown, from 0. */
  get place() {
    const { n_layers, n_heads } = this.shape;
    const T = this.seen.ids.length;
    return {
      layer: stateNumber("layer", 1, n_layers, 1) - 1,
      head: stateNumber("head", 1, n_heads, 1) - 1,
      query: stateNumber("query", 1, T, T) - 1,
    };
  }

  draw() {
    const { n_layers, n_heads } = this.shape;
    const { layer, head, query } = this.place;
    const numbers = (n, name) => Array.from({ length: n }, (_, i) => [String(i + 1), `${name} ${i + 1}`]);
    const control = (key, label, options, value) => {
      const select = choices({ id: `choose-${key}` }, options);
      select.value = String(value + 1);
      select.addEventListener("change", () => this.choose({ [key]: select.value }));
      return field(label, select);
    };
    const tokens = this.seen.pieces.map((piece, i) => [String(i + 1), `${i + 1}: ${visible(piece)}`]);
    this.sections = {
      attention: element("section"),
      softmax: element("section"),
      lens: element("section"),
      norms: element("section"),
      positions: element("section"),
    };
    this.result.replaceChildren(
      element(
        "div",
        { class: "options panel sticky" },
        control("layer", "Layer", numbers(n_layers, "layer"), layer),
        control("head", "Head", numbers(n_heads, "head"), head),
        control("query", "Token", tokens, query),
      ),
      ...Object.values(this.sections),
    );
    this.drawAttention();
    this.drawSoftmax();
    this.drawLens();
    this.drawNorms();
    this.drawPositions();
  }

  /** Shows another layer, head or token; nothing is computed again. */
  choose(changes) {
    setState(changes);
    for (const [key, value] of Object.entries(changes)) $(`choose-${key}`).value = value;
    redraw(this.result, () => {
      this.drawAttention();
      this.drawSoftmax();
      this.drawLens();
      this.drawNorms();
    });
  }

  /** Returns a weight of the chosen layer and head: `weights`, or `unscaled`. */
  weight(query, key, kind = "weights", head = this.place.head) {
    const T = this.seen.ids.length;
    return this.seen.attention[this.place.layer][kind][(head * T + query) * T + key];
  }

  row(query, kind = "weights", head = this.place.head) {
    return this.seen.ids.map((_, key) => this.weight(query, key, kind, head));
  }

  drawAttention() {
    const { layer, head, query } = this.place;
    const { pieces, ids } = this.seen;
    const { n_heads } = this.shape;
    const rows = ids.map((_, q) => this.row(q));
    const weights = rows[query];
    const heads = Array.from({ length: n_heads }, (_, h) =>
      element(
        "button",
        {
          type: "button",
          class: "small-map",
          "aria-pressed": String(h === head),
          onclick: () => this.choose({ head: String(h + 1) }),
        },
        heatmap(
          ids.map((_, q) => this.row(q, "weights", h)),
          { label: null, scale: 1, cell: Math.max(1, Math.floor(84 / ids.length)) },
        ),
        `head ${h + 1}`,
      ),
    );
    const strongest = likeliest(weights, 8).filter((key) => weights[key] > 0);
    this.sections.attention.replaceChildren(
      element("h2", {}, "Attention"),
      element(
        "p",
        {},
        "Each token, a row, collects from the tokens in the columns. A row sums to 100 %." +
          (this.shape.family === "decoder"
            ? " Above the diagonal is the future, which a decoder must not see."
            : " An encoder reads in both directions."),
      ),
      element("div", { class: "small-maps", role: "group", "aria-label": "Heads of this layer" }, ...heads),
      element(
        "div",
        { class: "columns" },
        element(
          "figure",
          {},
          element("figcaption", {}, `Layer ${layer + 1}, head ${head + 1}, as a matrix`),
          element(
            "div",
            { class: "scroll" },
            matrix(pieces, rows, query, (q) => this.choose({ query: String(q + 1) })),
          ),
        ),
        element(
          "div",
          {},
          element(
            "figure",
            {},
            element(
              "figcaption",
              {},
              "What ",
              element("bdi", { class: "name" }, visible(pieces[query])),
              ` (token ${query + 1}) attends to`,
            ),
            bars(
              strongest.map((key) => ({
                text: pieces[key],
                probability: weights[key],
                value: `${percent(weights[key])} at ${key + 1}`,
                chosen: key === query,
                action: "Choose this token",
                onChoose: () => this.choose({ query: String(key + 1) }),
              })),
              "Strongest weights",
            ),
          ),
          element(
            "figure",
            {},
            element("figcaption", {}, "As lines between tokens"),
            element(
              "div",
              { class: "scroll" },
              linesBetween(
                pieces,
                (q, k) => this.weight(q, k),
                query,
                (q) => this.choose({ query: String(q + 1) }),
              ),
            ),
          ),
        ),
      ),
    );
  }

  drawSoftmax() {
    const { query } = this.place;
    const { pieces } = this.seen;
    const d = this.shape.d_head;
    const scaled = this.row(query);
    const unscaled = this.row(query, "unscaled");
    const keys = likeliest(
      scaled.map((weight, key) => weight + unscaled[key]),
      8,
    ).filter((key) => scaled[key] + unscaled[key] > 0);
    const entropy = (weights) => weights.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
    const list = (weights, title) =>
      element(
        "figure",
        {},
        element("figcaption", {}, title),
        bars(
          keys.map((key) => ({
            text: pieces[key],
            probability: weights[key],
            value: `${percent(weights[key])} at ${key + 1}`,
          })),
          title,
        ),
        element(
          "p",
          { class: "soft" },
          `largest ${percent(Math.max(...weights))}, entropy ${number(entropy(weights))} bits`,
        ),
      );
    this.sections.softmax.replaceChildren(
      element("h2", {}, "Softmax without the division by √d"),
      element(
        "p",
        {},
        `The product of a query and a key has ${d} terms, so it grows with d: its variance is d times that of a term. ` +
          `Divided by √${d} = ${number(Math.sqrt(d))}, ` +
          "it has the size of a term again. Without the division softmax is sharper: it comes closer to choosing a " +
          "single token, and learns more slowly.",
      ),
      element(
        "div",
        { class: "columns even" },
        list(scaled, `softmax(q·k / √${d}), as the model computes it`),
        list(unscaled, "softmax(q·k), without the division"),
      ),
    );
  }

  drawLens() {
    const { query } = this.place;
    const { pieces } = this.seen;
    const causal = this.shape.family === "decoder";
    const heading = [
      element("h2", {}, "Logit lens"),
      element(
        "p",
        {},
        "What the output layer would predict from the residual stream after each layer" +
          (causal ? ", for the token that follows." : ", for the token itself.") +
          " The strength of the color is the probability.",
      ),
    ];
    if (!this.lens)
      return this.sections.lens.replaceChildren(...heading, element("p", { class: "soft" }, "Computing …"));
    const names = this.lens.map((_, layer) => (layer === 0 ? "embedding" : `layer ${layer}`));
    const rows = this.lens.map((row, layer) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, names[layer]),
        ...row.map((top, position) =>
          element(
            "td",
            {
              class: position === query ? "current" : "",
              "--heat": `${Math.round(100 * top[0].probability)}%`,
              title: `${names[layer]}: ${percent(top[0].probability)}`,
            },
            visible(this.vocabulary[top[0].id]),
          ),
        ),
      ),
    );
    const head = element(
      "tr",
      {},
      element("th", { scope: "col" }, "token"),
      ...pieces.map((piece, position) =>
        element(
          "th",
          { scope: "col", class: position === query ? "current" : "" },
          element(
            "button",
            { type: "button", class: "link", onclick: () => this.choose({ query: String(position + 1) }) },
            visible(piece),
          ),
        ),
      ),
    );
    this.sections.lens.replaceChildren(
      ...heading,
      element(
        "div",
        { class: "scroll lens", tabindex: 0, role: "region", "aria-label": "Logit lens: layers by tokens" },
        element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows.reverse())),
      ),
      element("h3", {}, "After token ", String(query + 1), ": ", element("bdi", {}, visible(pieces[query]))),
      element(
        "div",
        { class: "multiples" },
        ...this.lens.map((row, layer) =>
          element(
            "figure",
            {},
            element("figcaption", {}, names[layer]),
            bars(
              row[query].map(({ id, probability }) => ({ text: this.vocabulary[id], probability })),
              `Likeliest tokens after ${names[layer]}`,
            ),
          ),
        ),
      ),
    );
  }

  drawNorms() {
    const { norms, pieces } = this.seen;
    const { query } = this.place;
    const mean = norms.map((row) => row.reduce((a, b) => a + b, 0) / row.length);
    const own = norms.map((row) => row[query]);
    const ticks = norms.map((_, layer) => (layer === 0 ? "emb." : String(layer)));
    this.sections.norms.replaceChildren(
      element("h2", {}, "Residual stream"),
      element(
        "p",
        {},
        this.shape.norm_position === "pre"
          ? "Every layer adds to the residual stream and takes nothing away, so its length usually grows."
          : "With norm_position=post a norm follows every sum, so the length of the stream stays about the same.",
      ),
      element(
        "figure",
        {},
        element(
          "figcaption",
          {},
          element("span", { class: "key" }, "mean of all tokens"),
          element("span", { class: "key own" }, "token ", element("bdi", {}, visible(pieces[query]))),
        ),
        chart([{ values: mean }, { values: own, class: "own" }], {
          label: `Length of the residual stream by layer: ${mean.map((value) => number(value, 1)).join(", ")}`,
          xLabel: "after layer",
          yLabel: "length of the vector",
          xs: [...norms.keys()],
          xTicks: ticks,
        }),
      ),
    );
  }

  drawPositions() {
    const table = this.seen.positions;
    const encoding = this.shape.positional_encoding;
    const texts = {
      learned: "One trained vector for each position is added to the token's. Rows are positions, columns its numbers.",
      concatenated:
        "One trained vector for each position is joined to the token's. Rows are positions, columns its numbers.",
      sinusoidal:
        "Sines and cosines of growing wavelengths are added to the token's vector. " +
        "Rows are positions, columns its numbers.",
      rotary:
        "Queries and keys are rotated in pairs of numbers, by an angle that grows with the position. " +
        "Rows are positions, columns the cosines of the pairs' angles.",
      alibi:
        "Nothing is added to the token. The score of a key falls with its distance, with another slope in each head. " +
        "Rows are distances, columns heads.",
      none:
        "The model has no positional encoding. " +
        "A decoder still sees an order, because each token sees only those before it.",
    };
    const content = [
      element("h2", {}, "Positional encoding"),
      element("p", {}, element("b", {}, encoding), ": ", texts[encoding]),
    ];
    if (table) {
      const scale = Math.max(...table.flatMap((row) => Array.from(row, Math.abs))) || 1;
      const cell = Math.max(4, Math.min(14, Math.floor(560 / table[0].length)));
      content.push(
        element(
          "div",
          { class: "columns even" },
          element(
            "figure",
            {},
            element("figcaption", {}, `The first ${table.length} ${encoding === "alibi" ? "distances" : "positions"}`),
            element(
              "div",
              { class: "scroll" },
              heatmap(table, { label: `Table of ${encoding}`, scale, cell: Math.min(cell, 8) }),
            ),
          ),
          ...(encoding === "alibi"
            ? []
            : [
                element(
                  "figure",
                  {},
                  element("figcaption", {}, "How similar two positions are (cosine)"),
                  element(
                    "div",
                    { class: "scroll" },
                    heatmap(similarities(table), {
                      label: "Similarity of positions: a matrix of positions by positions",
                      scale: 1,
                      cell: 6,
                    }),
                  ),
                ),
              ]),
        ),
      );
    }
    this.sections.positions.replaceChildren(...content);
  }
}

/** Returns the cosine of the angle between each two rows. */
function similarities(table) {
  const product = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const lengths = table.map((row) => Math.sqrt(product(row, row)) || 1);
  return table.map((a, i) => table.map((b, j) => product(a, b) / (lengths[i] * lengths[j])));
}
