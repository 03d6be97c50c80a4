"use strict";
// Elements, and text as a person sees it. Everything that comes from a model or a run enters the page as text nodes.

const $ = (id) => document.getElementById(id);

/** Returns an element: element("p", {class: "soft", onclick: f}, "text", otherElement). */
function element(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

/** Returns an element of an SVG drawing. */
function svg(name, attributes = {}, ...children) {
  return furnish(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Says something to people who do not see the page. */
function announce(text) {
  $("status").textContent = text;
}

const VISIBLE = { "\n": "⏎", "\t": "⇥", "\r": "␍", "": "‹nothing›" };

/** Returns a token's text with its white space made visible. */
function visible(text) {
  if (text in VISIBLE) return VISIBLE[text];
  return text
    .replace(/[\n\t\r]/g, (character) => VISIBLE[character])
    .replace(/ /g, "␣")
    .replace(
      /[\x00-\x1f\x7f]/g,
      (character) => `‹${character.codePointAt(0).toString(16).padStart(2, "0").toUpperCase()}›`,
    );
}

/** Writes a probability: 12 %, 0.3 %, 0.0004 %. */
function percent(probability) {
  const value = 100 * probability;
  if (value === 0) return "0 %";
  if (value < 1e-4) return "< 0.0001 %";
  if (value > 99.99 && value < 100) return "> 99.99 %";
  if (value > 99.5 && value < 100) return value.toFixed(2) + " %";
  return (
    (value >= 10 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : Number(value.toPrecision(1)).toString()) + " %"
  );
}

const number = (value, digits = 2) => value.toFixed(digits);
const count = (n, thing) => `${n.toLocaleString("en")} ${thing}${n === 1 ? "" : "s"}`;

/** Returns how strongly something is colored, 0 to 100, by its loss in nats: 7 nats, one in a thousand, is full. */
const heat = (loss) => Math.round(Math.min(loss / 7, 1) * 100);

/** Returns a form field: a label, with its control and what it says about it. */
function field(label, control, note = null) {
  control.id ||= `field-${label.toLowerCase().replace(/\W+/g, "-")}`;
  return element(
    "div",
    { class: "field" },
    element("label", { for: control.id }, label),
    control,
    ...(note ? [note] : []),
  );
}

/** Returns a select with options [value, text]. */
function choices(attributes, options) {
  return element("select", attributes, ...options.map(([value, text]) => element("option", { value }, text)));
}

const CHUNK = 1000; // tokens that are drawn at once; the page answers its reader before the next

/** Returns a text as buttons, one for each token: arrow keys move between them, Enter and a click choose.
 * tokens: {text, hint, heat, marked, inert}. One of them is in the tab order, as in any list of choices. */
function tokenButtons(label, tokens, current, onChoose) {
  const group = element("div", {
    class: "tokens",
    role: "group",
    "aria-label": `${label} Arrow keys move between the tokens.`,
  });
  const start = tokens[current] && !tokens[current].inert ? current : tokens.findIndex((token) => !token.inert);
  const draw = (first) => {
    group.append(
      ...tokens.slice(first, first + CHUNK).flatMap((token, i) => [
        element(
          "button",
          {
            type: "button",
            class: token.marked ? "token marked" : "token",
            tabindex: first + i === start ? 0 : -1,
            "data-index": first + i,
            title: token.hint,
            "aria-label": `${visible(token.text)}, ${token.hint}`,
            "aria-pressed": String(first + i === current),
            "--heat": `${token.heat ?? 0}%`,
            disabled: token.inert,
          },
          ...tokenText(token.text),
        ),
        lineBreaks(token.text),
      ]),
    );
    if (first + CHUNK < tokens.length) setTimeout(draw, 0, first + CHUNK);
  };
  draw(0);
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) onChoose(Number(button.dataset.index));
  });
  group.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const enabled = [...group.querySelectorAll("button:enabled")];
    const at = enabled.indexOf(document.activeElement);
    const next = enabled[Math.max(0, Math.min(enabled.length - 1, at + steps[event.key]))];
    moveTabStop(group, next);
    next.focus();
  });
  return group;
}

/** Makes a button the one of its group that the Tab key reaches. */
function moveTabStop(group, button) {
  for (const other of group.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  button.tabIndex = 0;
}

/** Marks the token at an index as the chosen one. */
function markToken(group, index) {
  group.querySelector('[aria-pressed="true"]')?.setAttribute("aria-pressed", "false");
  const button = group.querySelector(`[data-index="${index}"]`);
  if (!button) return; // not drawn yet
  button.setAttribute("aria-pressed", "true");
  moveTabStop(group, button);
}

/** Returns a token's text within the running text, with signs for line breaks, which would have no width. */
function tokenText(text) {
  if (text === "") return ["·"];
  return text.split(/(\n)/).map((part) => (part === "\n" ? element("span", { class: "sign" }, "⏎") : part));
}

/** Returns the line breaks of a token. They follow its button, since a button is as one character of the line. */
const lineBreaks = (text) => text.replace(/[^\n]/g, "");

/** Returns rows of a token, a bar and a number. rows: {text, probability, before, chosen, onChoose, action}. */
function bars(rows, caption) {
  const largest = Math.max(...rows.map((row) => Math.max(row.probability, row.before ?? 0)), 1e-12);
  return element(
    "ol",
    { class: "bars", "aria-label": caption },
    ...rows.map((row) => {
      const content = [
        element("span", { class: "name" }, visible(row.text)),
        element("span", {
          class: row.before === undefined ? "bar" : "bar two",
          "aria-hidden": "true",
          "--before": `${(100 * (row.before ?? 0)) / largest}%`,
          "--now": `${(100 * row.probability) / largest}%`,
        }),
        element("span", { class: "value" }, row.value ?? percent(row.probability)),
      ];
      const class_ = row.chosen ? "chosen" : "";
      if (!row.onChoose) return element("li", { class: class_ }, ...content);
      return element(
        "li",
        { class: class_ },
        element("button", { type: "button", title: row.action, onclick: row.onChoose }, ...content),
      );
    }),
  );
}

/** Draws a part of the page again. What stands where the focus was gets it back, so that the keyboard stays there. */
function redraw(place, draw) {
  const stops = () => [...place.querySelectorAll('button:enabled:not([tabindex="-1"]), [tabindex="0"]')];
  const at = stops().indexOf(document.activeElement);
  draw();
  if (at >= 0) stops()[at]?.focus();
}

/** Shows the problem of a call in a view; a call that was cancelled has none. */
function report(error, place) {
  if (error.message === "cancelled") return;
  announce("");
  place.replaceChildren(element("p", { class: "error", role: "alert" }, error.message));
}
