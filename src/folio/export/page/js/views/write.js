"use strict";
// Write: text appears token by token; a token shows what else could have stood there, and the text can go on from that.

class WriteView {
  constructor() {
    this.task = new Task();
    this.tokens = []; // {index, position, id, logits}, one for each token that was written
    this.text = { ids: [], pieces: [] }; // of prompt and continuation
    this.selected = null; // index among this.tokens
    this.frame = null; // the next drawing, which shows all tokens that have arrived until then
  }

  title = "Write";

  render() {
    const encoder = source.models[currentModel()].shape.family === "encoder";
    this.prompt = element("textarea", { id: "prompt", rows: 2, spellcheck: "false" });
    this.prompt.value = promptOf();
    const options = encoder ? [] : [this.option("Length", "length", { min: 1, max: 1000, step: 1 }, "tokens")];
    this.form = element(
      "form",
      { class: "panel", onsubmit: (event) => this.submit(event) },
      field(
        "Prompt",
        this.prompt,
        encoder ? element("p", { class: "soft" }, "This model is an encoder: it fills each [MASK].") : null,
      ),
      element(
        "div",
        { class: "options" },
        this.option("Temperature", "temperature", { min: 0, max: 2, step: 0.05, slider: true }),
        this.option("Top-k", "top_k", {
          min: 1,
          max: source.models[currentModel()].shape.vocab_size,
          step: 1,
          placeholder: "all",
        }),
        this.option("Top-p", "top_p", { min: 0.05, max: 1, step: 0.05, slider: true, none: 1 }),
        this.option("Seed", "seed", { min: 0, max: 4294967295, step: 1 }),
        ...options,
      ),
      element(
        "div",
        { class: "buttons" },
        element("button", { type: "submit", class: "main", id: "write" }, "Write"),
        element("button", { type: "button", id: "stop", hidden: true, onclick: () => this.task.stop() }, "Stop"),
      ),
    );
    this.output = element("div", { class: "output", id: "output" });
    this.alternatives = element("div", { class: "panel", id: "alternatives" });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    return [
      element(
        "div",
        { class: "columns" },
        element("div", {}, this.form, element("h3", { id: "text-heading" }, "Text"), this.output, legend("unlikely")),
        element("aside", { "aria-label": "Alternatives to the chosen token" }, this.alternatives),
      ),
    ];
  }

  /** Shows what the address says: writes the text again, with the tokens that were chosen by hand. */
  async show() {
    this.showAlternatives();
    await this.write(givenOf());
  }

  leave() {
    this.task.stop();
  }

  /** Returns a field whose changes reshape the distribution that is shown, at once. */
  option(label, key, { slider = false, none = null, placeholder = "", ...bounds }, unit = "") {
    const shown = element("output", { class: "soft" });
    const input = element("input", { type: slider ? "range" : "number", id: `option-${key}`, placeholder, ...bounds });
    const show = () => (shown.textContent = slider ? (Number(input.value) === none ? "all" : input.value) : unit);
    input.value = state[key] === "" && none !== null ? none : state[key];
    show();
    input.addEventListener("input", () => {
      const value = Number(input.value) === none ? "" : input.value;
      setState({ [key]: value });
      show();
      this.showAlternatives();
    });
    return field(label, input, shown);
  }

  submit(event) {
    event.preventDefault();
    setState({ prompt: this.prompt.value, given: "", token: "" });
    this.write([]);
  }

  /** Writes the text; the first tokens are given. Those before `from` are kept as they are. */
  async write(given, from = 0) {
    const model = currentModel();
    this.tokens.length = from;
    this.selected = null;
    if (from === 0) this.output.replaceChildren(element("p", { class: "soft" }, "The model reads the prompt …"));
    const vocabulary = (this.vocabulary = await source.vocabulary(model));
    this.setBusy(true);
    announce("Writing …");
    try {
      await this.task.run((signal) =>
        source.complete(
          { model, prompt: this.prompt.value, length: lengthOf(), sampling: samplingOf(), seed: seedOf(), given, from },
          { signal, onPart: (part) => this.receive(part) },
        ),
      );
      announce(`${count(this.tokens.length, "token")} written.`);
    } catch (error) {
      report(error, this.output);
    }
    this.setBusy(false);
    if (this.vocabulary === vocabulary && this.tokens.length) {
      const wanted = state.token === "" ? this.tokens.length : Number(state.token);
      this.select(Math.min(Math.max(1, wanted), this.tokens.length) - 1, false);
    }
  }

  receive(part) {
    if (part.id === undefined) {
      this.text = part;
    } else {
      this.tokens[part.index] = { ...part, loss: logSum(part.logits) - part.logits[part.id] };
      this.text.pieces = part.pieces;
      this.text.ids[part.position] = part.id;
      this.selected = part.index;
    }
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.showText();
      this.showAlternatives();
    });
  }

  setBusy(busy) {
    this.output.setAttribute("aria-busy", String(busy));
    $("stop").hidden = !busy;
    document.body.classList.toggle("busy", busy);
  }

  showText() {
    const written = new Map(this.tokens.map((token, index) => [token.position, index]));
    const tokens = this.text.pieces.map((text, position) => {
      const index = written.get(position);
      if (index === undefined) return { text, inert: true, hint: "prompt" };
      const { loss } = this.tokens[index];
      return {
        text,
        heat: heat(loss),
        hint: `probability ${percent(Math.exp(-loss))}`,
        marked: index < givenOf().length && index === givenOf().length - 1,
      };
    });
    const current = this.selected === null ? -1 : this.tokens[this.selected].position;
    const choose = (position) => this.select(written.get(position));
    redraw(this.output, () =>
      this.output.replaceChildren(tokenButtons("The text, token by token.", tokens, current, choose)),
    );
  }

  select(index, remember = true) {
    this.selected = index;
    if (remember) setState({ token: String(index + 1) });
    this.showText();
    this.showAlternatives();
  }

  /** Shows the distribution that the selected token was drawn from, as the sliders shape it now. */
  showAlternatives() {
    const heading = element("h3", {}, "What else could stand there");
    if (this.selected === null || !this.tokens[this.selected]) {
      this.alternatives.replaceChildren(
        heading,
        element(
          "p",
          { class: "soft" },
          "Write a text, then choose one of its tokens: here you see the others that could stand in its place, " +
            "and can continue from one of them.",
        ),
      );
      return;
    }
    const { id: chosen, logits, loss } = this.tokens[this.selected];
    const n = this.vocabulary.length;
    const sampling = samplingOf();
    const before = distribution(logits, n);
    const now = distribution(logits, n, sampling);
    const possibleFirst = new Set([...likeliest(now, 12).filter((id) => now[id] > 0), ...likeliest(before, 12)]);
    const rows = [...possibleFirst].slice(0, 12);
    if (!rows.includes(chosen)) rows[Math.max(rows.length - 1, 0)] = chosen;
    const possible = now.reduce((sum, p) => sum + (p > 0), 0);
    const entropy = now.reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
    const shown = [
      heading,
      element(
        "p",
        {},
        `Token ${this.selected + 1}, `,
        element("bdi", { class: "name" }, visible(this.vocabulary[chosen])),
        `: the model gives it ${percent(Math.exp(-loss))}; ` +
          `as the sliders are now, it would be drawn with ${percent(now[chosen])}.`,
      ),
      bars(
        rows.map((id) => ({
          text: this.vocabulary[id],
          probability: now[id],
          before: before[id],
          chosen: id === chosen,
          action: "Continue the text from this token",
          onChoose: () => this.continueFrom(id),
        })),
        "Alternatives, likeliest first",
      ),
      element(
        "p",
        { class: "soft" },
        `${count(possible, "token")} can be drawn, with an entropy of ${number(entropy)} bits. ` +
          "Thin bars are the model's own probabilities, thick ones those after temperature, top-k and top-p. " +
          "Choose one, and the text continues from it.",
      ),
    ];
    redraw(this.alternatives, () => this.alternatives.replaceChildren(...shown));
  }

  /** Puts another token in the place of the selected one, and writes on from there. */
  continueFrom(id) {
    const index = this.selected;
    const given = [...this.tokens.slice(0, index).map((token) => token.id), id];
    setState({ given: given.map((value) => value.toString(36)).join("."), token: "" });
    this.write(given, index);
    $("output").scrollIntoView({ block: "nearest" });
  }
}

/** Returns the ids of the tokens that were kept or chosen by hand, as the address has them. */
function givenOf() {
  return state.given === ""
    ? []
    : state.given
        .split(".")
        .map((word) => parseInt(word, 36))
        .filter(Number.isInteger);
}

/** Explains the colors of tokens. */
function legend(word) {
  return element(
    "p",
    { class: "legend soft" },
    "likely ",
    ...[0, 25, 50, 75, 100].map((value) => element("span", { class: "swatch", "--heat": `${value}%` })),
    ` ${word}`,
  );
}
