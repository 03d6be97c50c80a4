"use strict";
// Where the page gets its model. This is the only place that knows of the worker and of the weights in this file;
// a class with the same calls, whose model is on a server, can take the place of `PageSource`.
//
// Each call returns a promise. What arrives on the way goes to `onPart`; `signal` ends a call early.
// `js/worker.js` says what each call takes and returns.

class PageSource {
  /** models: what the page says of each model; see `_model_data` in page.py. */
  constructor({ models, tokenizers }) {
    this.models = models;
    this.waiting = new Map(); // id of a call -> its promise's functions and onPart
    this.lastId = 0;
    const code = new Blob([$("worker").textContent], { type: "text/javascript" });
    this.worker = new Worker(URL.createObjectURL(code));
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message));
    };
    const texts = {};
    for (const node of document.querySelectorAll('script[id^="weights-"], script[id^="ranks-"]')) {
      texts[node.id] = node.textContent;
      node.remove(); // the worker has it now
    }
    this.opened = this.call("open", { models, tokenizers, texts });
  }

  /** How each token of a model's vocabulary is shown. */
  vocabulary(model) {
    this.vocabularies ??= new Map();
    if (!this.vocabularies.has(model)) this.vocabularies.set(model, this.call("vocabulary", { model }));
    return this.vocabularies.get(model);
  }

  tokenize = (args) => this.call("tokenize", args);
  logits = (args) => this.call("logits", args);
  complete = (args, options) => this.call("complete", args, options);
  read = (args, options) => this.call("read", args, options);
  inspect = (args, options) => this.call("inspect", args, options);

  call(call, args, { onPart = () => {}, signal = null } = {}) {
    const id = ++this.lastId;
    signal?.addEventListener("abort", () => this.worker.postMessage({ cancel: id }));
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, onPart: (part) => signal?.aborted || onPart(part) });
      this.worker.postMessage({ id, call, args });
    });
  }

  receive({ id, part, result, error }) {
    const { resolve, reject, onPart } = this.waiting.get(id);
    if (part !== undefined) return onPart(part);
    this.waiting.delete(id);
    if (error !== undefined) reject(new Error(error));
    else resolve(result);
  }
}

/** Runs one call at a time: a new one ends the one before. */
class Task {
  /** Calls start(signal), and ends what was started before. */
  run(start) {
    this.stop();
    this.controller = new AbortController();
    return start(this.controller.signal);
  }

  stop() {
    this.controller?.abort();
  }
}
