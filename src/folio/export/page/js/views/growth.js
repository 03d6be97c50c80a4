"use strict";
// Growth: the same prompt, continued by each checkpoint of a run; or by two runs, side by side.

class GrowthView {
  constructor() {
    this.task = new Task();
    this.texts = []; // of each model: {pieces, tokens} as far as it has written
  }

  title = "Growth";

  get sideBySide() {
    return new Set(source.models.map((model) => model.run)).size > 1;
  }

  render() {
    this.prompt = element("input", { id: "growth-prompt", type: "text", spellcheck: "false" });
    this.prompt.value = promptOf();
    const form = element("form", { class: "panel", onsubmit: (event) => {
      event.preventDefault();
      setState({ prompt: this.prompt.value, given: "" });
      this.show();
    } }, field("Prompt", this.prompt), element("div", { class: "buttons" }, element("button", { type: "submit", class: "main" }, "Write with all")));
    this.result = element("div", { id: "growth" });
    return [form, this.result];
  }

  async show() {
    if (source.models.length < 2) {
      this.result.replaceChildren(element("p", {}, "This page has one checkpoint. Export several, and a slider shows how the text improves as training proceeds:"),
        element("pre", { class: "command" }, "python scripts/export.py RUN page.html --format page --checkpoints step=250,step=1000,last"),
        element("p", {}, "Or put another run beside it:"),
        element("pre", { class: "command" }, "python scripts/export.py RUN page.html --format page --beside OTHER_RUN"));
      return;
    }
    this.texts = source.models.map(() => null);
    this.draw();
    const length = Math.min(lengthOf(), 200);
    try {
      await this.task.run(async (signal) => {
        // The one that is shown comes first.
        const order = [this.step, ...source.models.keys()].filter((model, i, all) => all.indexOf(model) === i);
        for (const model of order) {
          await source.complete({ model, prompt: this.prompt.value, length, sampling: samplingOf(), seed: seedOf() }, { signal, onPart: (part) => this.receive(model, part) });
          if (signal.aborted) return;
        }
      });
      announce("All checkpoints have written.");
    } catch (error) {
      report(error, this.result);
    }
  }

  leave() {
    this.task.stop();
  }

  /** Index of the checkpoint that the slider shows. */
  get step() {
    return stateNumber("compare", 1, source.models.length, source.models.length) - 1;
  }

  receive(model, part) {
    if (part.id === undefined) this.texts[model] = { start: part.pieces.length, pieces: part.pieces, losses: new Map() };
    else {
      this.texts[model].pieces = part.pieces;
      this.texts[model].losses.set(part.position, logSum(part.logits) - part.logits[part.id]);
    }
    this.drawText(model);
  }

  draw() {
    this.places = source.models.map((_, index) => element("div", { class: "output", "data-model": index + 1 }));
    const cards = source.models.map((model, index) => element("article", {}, element("h3", {}, this.sideBySide ? `${model.run}, ` : "", `step ${model.step.toLocaleString("en")}`),
      element("p", { class: "soft" }, this.lossOf(model)), this.places[index]));
    if (this.sideBySide) {
      this.result.replaceChildren(element("div", { class: "columns even" }, ...cards), legend("unlikely"));
    } else {
      const slider = element("input", { type: "range", id: "growth-step", min: 1, max: source.models.length, step: 1 });
      const shown = element("output", { class: "soft" });
      const show = () => {
        cards.forEach((card, index) => (card.hidden = index !== this.step));
        shown.textContent = `step ${source.models[this.step].step.toLocaleString("en")}`;
        slider.setAttribute("aria-valuetext", shown.textContent);
      };
      slider.value = this.step + 1;
      slider.addEventListener("input", () => {
        setState({ compare: slider.value });
        show();
      });
      show();
      this.result.replaceChildren(element("div", { class: "panel" }, field("Checkpoint", slider, shown)), ...cards, legend("unlikely"), ...this.curve());
    }
    source.models.forEach((_, index) => this.drawText(index));
  }

  lossOf({ val }) {
    return val.loss_nats === undefined ? "" : `validation loss ${number(val.loss_nats, 3)} nats` + (val.bits_per_byte === undefined ? "" : `, ${number(val.bits_per_byte, 3)} bits per byte`);
  }

  /** Returns a chart of the validation loss, if the checkpoints know it. */
  curve() {
    const losses = source.models.map((model) => model.val.loss_nats ?? null);
    if (losses.some((loss) => loss === null)) return [];
    return [element("figure", {}, element("figcaption", {}, "Validation loss of these checkpoints"),
      chart([{ values: losses }], { label: `Validation loss: ${losses.map((loss) => number(loss, 3)).join(", ")} nats`, xLabel: "step", yLabel: "nats per token",
        xTicks: source.models.map((model) => model.step.toLocaleString("en")) }))];
  }

  drawText(index) {
    const text = this.texts[index];
    if (!text) return this.places[index].replaceChildren(element("p", { class: "soft" }, "waiting …"));
    this.places[index].replaceChildren(element("div", { class: "tokens" }, ...text.pieces.flatMap((piece, position) => {
      const loss = text.losses.get(position);
      const span = element("span", { class: "token" + (loss === undefined ? " prompt" : ""), "--heat": `${loss === undefined ? 0 : heat(loss)}%`,
        title: loss === undefined ? "prompt" : `probability ${percent(Math.exp(-loss))}` }, ...tokenText(piece));
      return [span, lineBreaks(piece)];
    })));
  }
}
