"use strict";
// Puts the page together: the facts, the views, and which of them is shown.

const data = JSON.parse($("data").textContent);
const source = data.served ? new ServerSource(data) : new PageSource(data);
const views = { write: new WriteView(), read: new ReadView(), inside: new InsideView(), growth: new GrowthView() };
let shown = null;

/** Says what the model is, and what rounding its weights has cost. */
function showFacts() {
  const model = source.models[currentModel()];
  const { shape } = model;
  $("facts").textContent = [
    `${model.n_parameters.toLocaleString("en")} parameters`,
    `${shape.n_layers} layers of ${shape.n_heads} heads`,
    `${shape.positional_encoding} positions`,
    `context of ${shape.context_length.toLocaleString("en")} tokens`,
    stepOf(model),
    ...(model.val.loss_nats === undefined ? [] : [`validation loss ${number(model.val.loss_nats, 3)} nats`]),
  ].join(" · ");
  const { before, after } = model.rounding;
  $("rounding").hidden = before === undefined;
  if (before !== undefined)
    $("rounding").textContent =
      `The weights are rounded to ${model.precision}: ` +
      `the validation loss is ${number(after, 5)} nats instead of ${number(before, 5)}.`;
}

function showLinks() {
  const links = Object.entries(views).map(([name, view]) =>
    element(
      "a",
      {
        href: `#view=${name}`,
        "aria-current": state.view === name ? "page" : false,
        onclick: (event) => {
          event.preventDefault();
          setState({ view: name, token: "" });
          show();
        },
      },
      view.title,
    ),
  );
  $("views").replaceChildren(...links);
}

/** Shows the view that the address names. */
async function show() {
  shown?.leave();
  if (!(state.view in views)) state.view = "write";
  shown = views[state.view];
  showLinks();
  showFacts();
  $("choice").hidden = source.models.length < 2 || state.view === "growth";
  $("model").value = String(currentModel() + 1);
  $("main").replaceChildren(element("h2", { class: "visually-hidden" }, shown.title), ...shown.render());
  await shown.show();
}

$("model").append(
  ...source.models.map((model, index) => element("option", { value: index + 1 }, `${model.run}, ${stepOf(model)}`)),
);
$("model").addEventListener("change", () => {
  setState({ model: $("model").value, given: "", token: "" });
  show();
});
addEventListener("popstate", () => {
  readState();
  show();
});
// The drawings of this view have the colors of the theme.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown === views.inside && show());
readState();
source.opened.then(show, (error) => report(error, $("main")));
