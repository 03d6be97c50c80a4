"use strict";
// Growth: the same prompt, continued by each checkpoint of a run; or by two runs, side by side.

class GrowthView {
  constructor() {
    this.task = new Task();
    this.texts = []; // of each model: {pieces, tokens} as far as it has written
  }

  title = "Growth";

  /** The models of each run, as lists of their indices: [[0, 1, 2], [3, 4, 5]]. */
  get runs() {
    const runs = new Map();
    source.models.forEach(({ run }, index) => runs.set(run, [...(runs.get(run) ?? []), index]));
    return [...runs.values()];
  }

  render() {
    this.prompt = element("textarea", { id: "growth-prompt", rows: 2, spellcheck: "false" });
    this.prompt.value = promptOf();
    const form = element(
      "form",
      {
        class: "panel",
        onsubmit: (event) => {
          event.preventDefault();
          setState({ prompt: this.prompt.value, given: "" });
          this.show();
        },
      },
      field("Prompt", this.prompt),
      element("div", { class: "buttons" }, element("button", { type: "submit", class: "main" }, "Write with all")),
    );
    this.result = element("div", { id: "growth" });
    return [form, this.result];
  }

  async show() {
    if (source.models.length < 2) {
      this.result.replaceChildren(
        element(
          "p",
          {},
          "This page has one checkpoint. Export several, and a slider shows how the text improves in training:",
        ),
        element(
          "pre",
          { class: "command" },
          "python scripts/export.py RUN page.html --format page --checkpoints step=250,step=1000,last",
        ),
        element("p", {}, "Or put another run beside it:"),
        element("pre", { class: "command" }, "python scripts/export.py RUN page.html --format page --beside OTHER_RUN"),
      );
      return;
    }
    this.texts = source.models.map(() => null);
    this.draw();
    announce("Writing …");
    const length = Math.min(lengthOf(), 200);
    try {
      await this.task.run(async (signal) => {
        // Those that are shown come first.
        const order = [...this.shownModels, ...source.models.keys()].filter(
          (model, i, all) => all.indexOf(model) === i,
        );
        for (const model of order) {
          await source.complete(
            { model, prompt: this.prompt.value, length, sampling: samplingOf(), seed: seedOf() },
            { signal, onPart: (part) => this.receive(model, part) },
          );
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

  /** Number of checkpoints that the slider goes through, and the one that it shows, from 0. */
  get nSteps() {
    return Math.max(...this.runs.map((models) => models.length));
  }

  get step() {
    return stateNumber("step", 1, this.nSteps, this.nSteps) - 1;
  }

  /** Returns the models that the slider shows: one of each run. */
  get shownModels() {
    return this.runs.map((models) => models[Math.min(this.step, models.length - 1)]);
  }

  receive(model, part) {
    if (part.id === undefined)
      this.texts[model] = { start: part.pieces.length, pieces: part.pieces, losses: new Map() };
    else {
      this.texts[model].pieces = part.pieces;
      this.texts[model].losses.set(part.position, logSum(part.logits) - part.logits[part.id]);
    }
    this.drawText(model);
  }

  draw() {
    this.places = source.models.map((_, index) => element("div", { class: "output", "data-model": index + 1 }));
    const named = this.runs.length > 1;
    const cards = source.models.map((model, index) =>
      element(
        "article",
        {},
        element("h3", {}, named ? `${model.run}, ` : "", stepOf(model)),
        element("p", { class: "soft" }, this.lossOf(model)),
        this.places[index],
      ),
    );
    const slider = element("input", {
      type: "range",
      id: "growth-step",
      min: 1,
      max: this.nSteps,
      step: 1,
      value: this.step + 1,
    });
    const shown = element("output", { class: "soft" });
    const show = () => {
      cards.forEach((card, index) => (card.hidden = !this.shownModels.includes(index)));
      shown.textContent = [...new Set(this.shownModels.map((index) => stepOf(source.models[index])))].join(", ");
      slider.setAttribute("aria-valuetext", shown.textContent);
    };
    slider.addEventListener("input", () => {
      setState({ step: slider.value });
      show();
    });
    show();
    this.result.replaceChildren(
      ...(this.nSteps > 1 ? [element("div", { class: "panel" }, field("Checkpoint", slider, shown))] : []),
      element("div", { class: named ? "columns even" : "" }, ...cards),
      legend("unlikely"),
      ...this.runs.flatMap((models) => this.curve(models, named)),
    );
    source.models.forEach((_, index) => this.drawText(index));
  }

  lossOf({ val }) {
    return val.loss_nats === undefined
      ? ""
      : `validation loss ${number(val.loss_nats, 3)} nats` +
          (val.bits_per_byte === undefined ? "" : `, ${number(val.bits_per_byte, 3)} bits per byte`);
  }

  /** Returns a chart of a run's validation loss, as far as its checkpoints know it. */
  curve(indices, named) {
    const models = indices.map((index) => source.models[index]).filter((model) => model.val.loss_nats !== undefined);
    const losses = models.map((model) => model.val.loss_nats);
    if (models.length < 2) return [];
    return [
      element(
        "figure",
        {},
        element("figcaption", {}, `Validation loss of these checkpoints${named ? ` of ${models[0].run}` : ""}`),
        chart([{ values: losses }], {
          label: `Validation loss: ${losses.map((loss) => number(loss, 3)).join(", ")} nats`,
          xLabel: "step",
          yLabel: "nats per token",
          xs: models.map((model) => model.step),
          xTicks: models.map((model) => model.step.toLocaleString("en")),
        }),
      ),
    ];
  }

  drawText(index) {
    const text = this.texts[index];
    if (!text) return this.places[index].replaceChildren(element("p", { class: "soft" }, "waiting …"));
    this.places[index].replaceChildren(
      element(
        "div",
        { class: "tokens" },
        ...text.pieces.flatMap((piece, position) => {
          const loss = text.losses.get(position);
          const span = element(
            "span",
            {
              class: "token" + (loss === undefined ? " prompt" : ""),
              "--heat": `${loss === undefined ? 0 : heat(loss)}%`,
              title: loss === undefined ? "prompt" : `probability ${percent(Math.exp(-loss))}`,
            },
            ...tokenText(piece),
          );
          return [span, lineBreaks(piece)];
        }),
      ),
    );
  }
}

const stepOf = (model) => `step ${model.step.toLocaleString("en")}`;
