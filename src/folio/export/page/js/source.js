"use strict";
// Where the page gets its model: from this file (`PageSource`), or from scripts/serve.py (`ServerSource`). This is the
// only place that knows of the worker, of the weights and of the server.
//
// Each call returns a promise. What arrives on the way goes to `onPart`; `signal` ends a call early.
// `js/worker.js` says what each call takes and returns.

class Source {
  /** models: what the page says of each model; see `_model_data` in page.py. */
  constructor({ models }) {
    this.models = models;
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
}

/** Models whose weights are in this file, and which a worker runs. */
class PageSource extends Source {
  constructor({ models, tokenizers }) {
    super({ models });
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

/** Models of scripts/serve.py, from which this page came. An answer has one {part}, {result} or {error} in a line. */
class ServerSource extends Source {
  opened = Promise.resolve();

  async call(call, args, { onPart = () => {}, signal = null } = {}) {
    const headers = { "Content-Type": "application/json" };
    let result;
    try {
      const response = await fetch(`/page/${call}`, { method: "POST", headers, body: JSON.stringify(args), signal });
      for await (const line of linesOf(response.body)) {
        const message = JSON.parse(line, (_, value) =>
          value?.float32 === undefined ? value : floatsOf(value.float32),
        );
        if (message.error) throw new Error(message.error.message);
        if (message.part !== undefined && !signal?.aborted) onPart(message.part);
        result = message.result ?? result;
      }
    } catch (error) {
      if (signal?.aborted) throw new Error("cancelled");
      throw error instanceof TypeError ? new Error("The server does not answer. Is it still running?") : error;
    }
    return result;
  }
}

/** Yields the lines of a stream of bytes. */
async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const lines = (rest + read.value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
  if (rest) yield rest;
}

/** Returns the numbers of a tensor that was sent as the base64 of its bytes. */
function floatsOf(base64) {
  return new Float32Array(Uint8Array.from(atob(base64), (character) => character.charCodeAt(0)).buffer);
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
