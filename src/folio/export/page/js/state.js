"use strict";
// What the page shows is in its address, so that a link or a bookmark brings it back: #view=write&prompt=ROMEO&seed=2

/** Value of each key if the address does not have it. What is empty here depends on the model. */
const DEFAULTS = {
  view: "write",
  model: "",
  prompt: "",
  length: "120",
  temperature: "0.8",
  top_k: "",
  top_p: "",
  seed: "1",
  given: "",
  token: "",
  text: "",
  layer: "1",
  head: "1",
  query: "",
  step: "",
};

const state = { ...DEFAULTS };

/** Reads the address. Unknown keys are ignored. */
function readState() {
  const found = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(DEFAULTS)) state[key] = found.get(key) ?? DEFAULTS[key];
}

/** Changes the state, and the address with it. A new view is a new page for the browser's back button. */
function setState(changes) {
  const view = state.view;
  Object.assign(state, changes);
  const words = new URLSearchParams(Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]));
  const hash = `#${words}`;
  if (state.view !== view) history.pushState(null, "", hash);
  else history.replaceState(null, "", hash);
}

/** Returns a number of the state within bounds, or `otherwise` if it is none. */
function stateNumber(key, low, high, otherwise) {
  const value = Number(state[key]);
  return state[key] === "" || !Number.isFinite(value) ? otherwise : Math.max(low, Math.min(high, value));
}

/** Returns the index of the model that is shown: the last one unless the address has another. */
const currentModel = () => stateNumber("model", 1, source.models.length, source.models.length) - 1;

/** Returns the options by which the next token is drawn. */
function samplingOf() {
  return {
    temperature: stateNumber("temperature", 0, 10, 0.8),
    topK: stateNumber("top_k", 1, Infinity, null),
    topP: stateNumber("top_p", 0.01, 1, null),
  };
}

const seedOf = () => Math.floor(stateNumber("seed", 0, 2 ** 32 - 1, 1));
const lengthOf = () => Math.floor(stateNumber("length", 1, 1000, 120));
const promptOf = () => state.prompt || source.models[currentModel()].prompt;

/** Returns the text to look at: that of the address, else what was written, which then is in the address too. */
function textOf() {
  const written = views.write.text.pieces.join("");
  if (state.text === "" && written) setState({ text: written });
  return state.text || promptOf();
}
