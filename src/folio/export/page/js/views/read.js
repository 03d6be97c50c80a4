"use strict";
// Read: the tokens of a text, how surprising each is for the model, and bits per byte.

class ReadView {
  constructor() {
    this.task = new Task();
    this.selected = null;
  }

  title = "Read";

  render() {
    this.text = element("textarea", { id: "text", rows: 4, spellcheck: "false" });
    this.text.value = textOf();
    this.form = element(
      "form",
      {
        class: "panel",
        onsubmit: (event) => {
          event.preventDefault();
          setState({ text: this.text.value, token: "" });
          this.show();
        },
      },
      field("Text", this.text),
      element(
        "div",
        { class: "buttons" },
        element("button", { type: "submit", class: "main" }, "Read"),
        element("button", { type: "button", onclick: () => this.takeWritten() }, "Use the text of Write"),
        element("span", { id: "progress", class: "soft" }),
      ),
    );
    this.result = element("div", { id: "reading" });
    return [this.form, this.result];
  }

  takeWritten() {
    const { pieces } = views.write.text;
    if (pieces.length) this.text.value = pieces.join("");
    this.form.requestSubmit();
  }

  async show() {
    const model = currentModel();
    if (this.text.value.length > 50_000)
      return report(
        new Error(
          `The text has ${this.text.value.length.toLocaleString("en")} characters; ` +
            "this page reads up to 50,000. Shorten it.",
        ),
        this.result,
      );
    announce("Reading …");
    this.vocabulary = await source.vocabulary(model);
    try {
      this.found = await this.task.run((signal) =>
        source.read(
          { model, text: this.text.value },
          { signal, onPart: ({ done }) => ($("progress").textContent = `${Math.round(100 * done)} % read`) },
        ),
      );
    } catch (error) {
      return report(error, this.result);
    } finally {
      if ($("progress")) $("progress").textContent = "";
    }
    const wanted = stateNumber("token", 1, this.found.ids.length, null);
    this.selected = wanted === null ? this.surprising()[0] : wanted - 1;
    this.draw();
    announce(`${count(this.found.ids.length, "token")} read.`);
  }

  leave() {
    this.task.stop();
  }

  /** Returns the positions of the tokens with the highest losses. */
  surprising() {
    const { tokens } = this.found;
    return tokens
      .map((_, position) => position)
      .filter((position) => tokens[position])
      .sort((a, b) => tokens[b].loss - tokens[a].loss)
      .slice(0, 10);
  }

  draw() {
    const { ids, pieces, tokens } = this.found;
    const hint = (position) =>
      tokens[position] ? `loss ${number(tokens[position].loss)} nats` : "the first token is not predicted";
    this.buttons = tokenButtons(
      "The tokens of the text.",
      pieces.map((text, position) => ({
        text,
        heat: tokens[position] ? heat(tokens[position].loss) : 0,
        hint: hint(position),
      })),
      this.selected,
      (position) => this.select(position),
    );
    this.details = element("aside", { class: "panel", "aria-label": "The chosen token" });
    this.result.replaceChildren(
      this.summary(),
      element(
        "div",
        { class: "columns" },
        element(
          "div",
          {},
          element("h3", {}, "Text"),
          element("div", { class: "output" }, this.buttons),
          legend("surprising"),
        ),
        this.details,
      ),
      element(
        "div",
        { class: "columns" },
        element(
          "div",
          {},
          element("h3", {}, "Tokens"),
          this.table(
            ids.map((_, position) => position),
            "All tokens in order",
          ),
        ),
        element(
          "div",
          {},
          element("h3", {}, "Most surprising"),
          this.table(this.surprising(), "The tokens with the highest losses"),
        ),
      ),
    );
    this.drawDetails();
  }

  select(position) {
    this.selected = position;
    setState({ token: String(position + 1) });
    markToken(this.buttons, position);
    this.drawDetails();
  }

  summary() {
    const { ids, tokens, nBytes, unknownBits } = this.found;
    const losses = tokens.filter(Boolean).map((token) => token.loss);
    const mean = losses.reduce((a, b) => a + b, 0) / losses.length;
    const encoder = source.models[currentModel()].shape.family === "encoder";
    // Every token counts, the first one as an average one; unknown words cost what it takes to spell them, which is
    // null for a tokenizer that changes the text.
    const bits = ((mean * ids.length) / Math.LN2 + unknownBits) / nBytes;
    const facts = [
      ["tokens", ids.length.toLocaleString("en")],
      ["bytes", nBytes.toLocaleString("en")],
      ["loss per token", `${number(mean, 4)} nats`],
      ["perplexity", number(Math.exp(mean))],
      ["bits per byte", unknownBits === null ? "unknown" : number(bits, 4)],
    ];
    return element(
      "div",
      {},
      element(
        "dl",
        { class: "facts" },
        ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
      ),
      ...(encoder
        ? [
            element(
              "p",
              { class: "soft" },
              "The model is an encoder: each token was masked by itself and predicted from all others, so these " +
                "numbers are not comparable with a decoder's.",
            ),
          ]
        : []),
    );
  }

  drawDetails() {
    const { ids, pieces, tokens } = this.found;
    const token = tokens[this.selected];
    const heading = element(
      "h3",
      {},
      "Token ",
      String(this.selected + 1),
      ": ",
      element("bdi", {}, visible(pieces[this.selected])),
    );
    if (!token)
      return this.details.replaceChildren(
        heading,
        element(
          "p",
          { class: "soft" },
          `Id ${ids[this.selected]}. The first token is not predicted: nothing stands before it.`,
        ),
      );
    const id = ids[this.selected];
    const rows = token.top.map(({ id, probability }) => ({ id, probability }));
    if (!rows.some((row) => row.id === id)) rows.push({ id, probability: Math.exp(-token.loss) });
    this.details.replaceChildren(
      heading,
      element("p", {}, `Id ${id}, loss ${number(token.loss, 3)} nats, probability ${percent(Math.exp(-token.loss))}.`),
      element("h4", {}, "What the model expected"),
      bars(
        rows.map((row) => ({ text: this.vocabulary[row.id], probability: row.probability, chosen: row.id === id })),
        "Likeliest tokens",
      ),
    );
  }

  table(positions, caption) {
    const { ids, pieces, tokens } = this.found;
    const head = ["", "token", "id", "loss (nats)", "expected"].map((text) => element("th", { scope: "col" }, text));
    const rows = positions.slice(0, 500).map((position) => {
      const token = tokens[position];
      const top = token?.top[0];
      return element(
        "tr",
        {},
        element("td", {}, String(position + 1)),
        element(
          "th",
          { scope: "row" },
          element(
            "button",
            { type: "button", class: "link", onclick: () => this.select(position) },
            visible(pieces[position]),
          ),
        ),
        element("td", {}, String(ids[position])),
        element("td", {}, token ? number(token.loss, 3) : "–"),
        element("td", { class: "text" }, top ? `${visible(this.vocabulary[top.id])} ${percent(top.probability)}` : "–"),
      );
    });
    const more =
      positions.length > 500
        ? [element("p", { class: "soft" }, `The first 500 of ${positions.length.toLocaleString("en")}.`)]
        : [];
    return element(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
      element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)),
      ...more,
    );
  }
}
