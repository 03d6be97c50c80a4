"use strict";
// Runs the models, so that the page stays free for its reader. Each message is {id, call, args}; each answer is
// {id, part} for something on the way, and {id, result} or {id, error} at the end. {cancel: id} ends a call early.

let data = null; // the page's data, with the ranks and the weights as text
const opened = new Map(); // index of a model -> {model, tokenizer, nSymbols}
const cancelled = new Set();

onmessage = async ({ data: message }) => {
  if (message.cancel !== undefined) return void cancelled.add(message.cancel);
  const { id, call, args } = message;
  try {
    postMessage({
      id,
      result: await CALLS[call](
        args,
        (part) => postMessage({ id, part }),
        () => pause(id),
      ),
    });
  } catch (error) {
    postMessage({ id, error: error.message });
  }
  cancelled.delete(id);
};

/** Lets waiting messages in. Raises an error if one of them cancelled the call. */
async function pause(id) {
  await new Promise((resolve) => setTimeout(resolve));
  if (cancelled.has(id)) throw new Error("cancelled");
}

const CALLS = {
  /** Keeps the data of the page: {models, tokenizers, texts}. */
  open(args) {
    data = args;
  },

  /** Returns how each token of the vocabulary is shown. */
  vocabulary({ model }) {
    const { tokenizer, nSymbols } = open(model);
    return Array.from({ length: nSymbols }, (_, id) => tokenizer.label(id));
  },

  /** Returns the ids of a text, and the piece of it that each stands for. */
  tokenize({ model, text }) {
    const { tokenizer } = open(model);
    const ids = encode(tokenizer, text);
    return { ids, pieces: tokenizer.pieces(ids) };
  },

  /** Writes `length` tokens after a prompt, or into the blanks of an encoder's. The first are `given`, since a person
   * chose one of them, and those before `from` are known to the page already. The first part is {ids, pieces} of what
   * is known; the others are {index, position, id, logits, pieces}, with the logits that the token was drawn from and
   * all pieces so far. */
  async complete({ model, prompt, length, sampling, seed, given = [], from = 0 }, part, breathe) {
    const { model: transformer, tokenizer, nSymbols } = open(model);
    const text = transformer.causal ? { ids: encode(tokenizer, prompt), blanks: [] } : withBlanks(tokenizer, prompt);
    const pieces = () =>
      tokenizer
        .pieces(text.ids.map((id) => (id === nSymbols ? 0 : id)))
        .map((piece, i) => (text.ids[i] === nSymbols ? MASK : piece));
    const known = given.slice(0, from).filter((id) => id < nSymbols);
    if (transformer.causal) text.ids.push(...known);
    else known.forEach((id, i) => (text.ids[text.blanks[i]] = id));
    part({ ids: text.ids.slice(), pieces: pieces() });
    const rest = { ids: text.ids, blanks: text.blanks.slice(known.length) };
    const steps = transformer.causal
      ? continuation(transformer, text.ids, length - known.length)
      : filling(transformer, rest);
    for (let index = known.length, step = steps.next(); !step.done; index++) {
      const { position, logits } = step.value;
      const id =
        given[index] < nSymbols ? given[index] : draw(distribution(logits, nSymbols, sampling), randomAt(seed, index));
      text.ids[position] = id;
      part({ index, position, id, logits, pieces: pieces() });
      await breathe();
      step = steps.next();
    }
  },

  /** Returns the logits after a text of token ids, (T, V) in one array: for tests, and for the curious. */
  logits({ model, ids }) {
    const { model: transformer } = open(model);
    return transformer.logits(transformer.hidden(ids));
  },

  /** Returns what a model makes of each token of a text: {ids, pieces, tokens, nBytes, unknownBits}. Each of `tokens`
   * is {loss, top}: its loss in nats and the likeliest tokens in its place, or null for the first token of a decoder. */
  async read({ model, text }, part, breathe) {
    const { model: transformer, tokenizer, nSymbols } = open(model);
    const ids = encode(tokenizer, text);
    const tokens = ids.map(() => null);
    let nRead = 0;
    for (const [position, logits] of transformer.causal
      ? readForward(transformer, ids)
      : readBlanks(transformer, ids, nSymbols)) {
      tokens[position] = { loss: logSum(logits) - logits[ids[position]], top: topOf(logits, nSymbols) };
      if (++nRead % 16 === 0) {
        part({ done: nRead / ids.length });
        await breathe();
      }
    }
    const pieces = tokenizer.pieces(ids);
    return { ids, pieces, tokens, nBytes: utf8(text).length, unknownBits: tokenizer.unknownBits(text) };
  },

  /** Returns what happens inside a model while it reads the first tokens of a text. The part is {ids, pieces, nTokens,
   * attention, norms, positions}, and the result is {lens}: for each layer and token, the likeliest next ones. */
  async inspect({ model, text, nTokens }, part, breathe) {
    const { model: transformer, tokenizer, nSymbols } = open(model);
    const all = encode(tokenizer, text);
    const ids = all.slice(0, Math.min(nTokens, transformer.shape.context_length));
    if (!ids.length) throw new Error("There is no text. Give the model at least one token to read.");
    const { attention, residuals } = look(transformer, ids);
    part({
      ids,
      pieces: tokenizer.pieces(ids),
      nTokens: all.length,
      attention,
      norms: residuals.map((x) =>
        rowsOf(x, transformer.shape.d_model).map((row) => Math.sqrt(dot(row, 0, row, 0, row.length))),
      ),
      positions: transformer.positionTable(Math.min(64, transformer.shape.context_length)),
    });
    const lens = [];
    for (const x of residuals) {
      lens.push([]);
      for (const row of rowsOf(transformer.finalNorm(x), transformer.shape.d_model)) {
        lens.at(-1).push(topOf(transformer.logits(row), nSymbols));
        if (transformer.shape.vocab_size > 1000 || lens.at(-1).length % 16 === 0) await breathe();
      }
    }
    return { lens };
  },
};

/** Builds a model when it is first used. */
function open(index) {
  if (!opened.has(index)) {
    const { shape, tokenizer, weights } = data.models[index];
    const state = data.tokenizers[tokenizer];
    const bytes = weights.parts.map((name) => fromBase64(data.texts[name]));
    for (const name of weights.parts) delete data.texts[name];
    const built = buildTokenizer(state.ranks ? { ...state, ranks: data.texts[state.ranks] } : state);
    opened.set(index, {
      model: new Transformer(shape, unpack(weights.tensors, joined(bytes))),
      tokenizer: built,
      nSymbols: built.size,
    });
  }
  return opened.get(index);
}

function encode(tokenizer, text) {
  if (/\p{Surrogate}/u.test(text)) throw new Error("The text holds half of a character (a lone surrogate). Remove it.");
  return tokenizer.encode(text);
}

function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

function joined(parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let end = 0;
  for (const part of parts) {
    bytes.set(part, end);
    end += part.length;
  }
  return bytes;
}

/** Returns the tensors as numbers, by name. Each begins at a multiple of 4 bytes. */
function unpack(tensors, bytes) {
  const weights = {};
  for (const { name, dtype, start, shape, scales } of tensors) {
    const length = shape.reduce((a, b) => a * b, 1);
    if (dtype === "fp32") weights[name] = new Float32Array(bytes.buffer, start, length);
    else if (dtype === "fp16") weights[name] = halves(new Uint16Array(bytes.buffer, start, length));
    else
      weights[name] = scaled(
        new Int8Array(bytes.buffer, start, length),
        new Float32Array(bytes.buffer, scales, shape[0]),
      );
  }
  return weights;
}

/** Returns the values of 16-bit floats: 1 bit of sign, 5 of exponent, 10 of fraction. All weights are finite. */
function halves(bits) {
  const values = new Float32Array(bits.length); // loops, because Float32Array.from takes seconds for a large model
  for (let i = 0; i < bits.length; i++) {
    const sign = bits[i] & 0x8000 ? -1 : 1;
    const exponent = (bits[i] >> 10) & 31;
    const fraction = (bits[i] & 1023) / 1024;
    values[i] = sign * (exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15));
  }
  return values;
}

/** Multiplies each row of 8-bit integers by its scale. */
function scaled(integers, scales) {
  const values = new Float32Array(integers.length);
  const width = integers.length / scales.length;
  for (let row = 0; row < scales.length; row++)
    for (let i = row * width; i < (row + 1) * width; i++) values[i] = integers[i] * scales[row];
  return values;
}

/** Returns the rows of a matrix (rows, width). */
function rowsOf(matrix, width) {
  return Array.from({ length: matrix.length / width }, (_, row) => matrix.subarray(row * width, (row + 1) * width));
}

/** Returns the likeliest tokens as {id, probability}. */
function topOf(logits, nSymbols, n = 5) {
  const all = logSum(logits);
  return likeliest(logits.subarray(0, nSymbols), n).map((id) => ({ id, probability: Math.exp(logits[id] - all) }));
}

// --- Writing

const MASK = "[MASK]"; // a blank in the prompt of an encoder

/** Yields {position, logits} for each token after those of `ids`, to which the caller adds the one that it chose.
 *
 * As long as the text fits into the context, a token costs one pass over itself. Past that the window slides: every
 * position changes, so the whole window is read again. A model with a window in every layer goes on without that. */
function* continuation(model, ids, length) {
  if (!ids.length) throw new Error("The prompt is empty. Give the model at least one token to continue.");
  const window = model.shape.text_window ?? Infinity;
  const end = ids.length + length;
  let cache = new Cache(model.shape.n_layers);
  while (ids.length < end) {
    if (ids.length > window) cache = new Cache(model.shape.n_layers);
    const unread = ids.slice(Math.max(ids.length - window, cache.length));
    const hidden = model.hidden(unread, cache);
    yield { position: ids.length, logits: model.logits(hidden.slice(-model.shape.d_model)) };
  }
}

/** Yields {position, logits} for each blank, from left to right; the caller fills it before the next. */
function* filling(model, { ids, blanks }) {
  checkLength(model, ids);
  const D = model.shape.d_model;
  for (const position of blanks) {
    const hidden = model.hidden(ids);
    yield { position, logits: model.logits(hidden.slice(position * D, (position + 1) * D)) };
  }
}

/** Encodes the text around each MASK, as src/folio/generation/prompts.py does: a blank includes the spaces that its
 * token includes. That is the one before it with ranks, and those on both sides with words. */
function withBlanks(tokenizer, prompt) {
  const texts = prompt.split(MASK);
  const ids = [];
  const blanks = [];
  if (texts.length < 2) throw new Error(`This model is an encoder: it fills blanks. Write ${MASK} where it should.`);
  texts.forEach((text, i) => {
    if (i > 0) blanks.push(ids.push(tokenizer.size) - 1);
    if (i < texts.length - 1 && (tokenizer instanceof RankTokenizer || tokenizer instanceof WordTokenizer))
      text = text.replace(/ $/, "");
    if (i > 0 && tokenizer instanceof WordTokenizer) text = text.replace(/^ /, "");
    ids.push(...encode(tokenizer, text));
  });
  return { ids, blanks };
}

function checkLength(model, ids) {
  const longest = model.shape.context_length;
  if (ids.length > longest)
    throw new Error(`The text has ${ids.length} tokens, and this encoder reads at most ${longest}. Shorten it.`);
}

// --- Reading

/** Yields [position, logits] for each token but the first, in windows that count every token once: they start every
 * context_length tokens, and the last one starts earlier so that it is full, as in Folio's validation. */
function* readForward(model, ids) {
  if (ids.length < 2) throw new Error("The text has nothing to predict. Give at least two tokens.");
  const D = model.shape.d_model;
  const size = Math.min(model.shape.context_length, ids.length - 1);
  for (let wanted = 0; wanted < ids.length - 1; wanted += size) {
    const start = Math.min(wanted, ids.length - 1 - size);
    const hidden = model.hidden(ids.slice(start, start + size));
    for (let t = wanted - start; t < size; t++)
      yield [start + t + 1, model.logits(hidden.subarray(t * D, (t + 1) * D))];
  }
}

/** Yields [position, logits] for each token, masked by itself: the others tell what it is (Salazar et al. 2020). */
function* readBlanks(model, ids, maskId) {
  checkLength(model, ids);
  if (!ids.length) throw new Error("There is no text. Give at least one token.");
  for (const position of ids.keys()) {
    const [{ logits }] = filling(model, { ids: ids.with(position, maskId), blanks: [position] });
    yield [position, logits];
  }
}

// --- Looking inside

/** Returns the residual stream after the embedding and each block, (T, D) each, and attention by layer: `weights` and
 * `unscaled`, what they would be without the division by sqrt(K), (H, T, T) each. */
function look(model, ids) {
  const { n_layers, n_heads: H, d_head: K } = model.shape;
  const T = ids.length;
  const residuals = [];
  const attention = Array.from({ length: n_layers }, () => ({
    weights: new Float32Array(H * T * T),
    unscaled: new Float32Array(H * T * T),
  }));
  model.hidden(ids, new Cache(n_layers), (what, layer, seen) => {
    if (what === "residual") return void residuals.push(seen.slice());
    const { head, query, from, products, weights } = seen;
    const row = (head * T + query) * T + from;
    attention[layer].weights.set(weights, row);
    const undivided = products.map((product, i) => model.score(product * Math.sqrt(K), head, query, from + i));
    attention[layer].unscaled.set(softmax(undivided), row);
  });
  return { attention, residuals };
}
