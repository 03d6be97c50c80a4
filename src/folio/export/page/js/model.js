"use strict";
// The forward pass of Folio's decoder and encoder, as src/folio/models/gpt.py and blocks.py compute it.
//
// Shapes: T tokens that are read now, S all tokens that they may attend to, D d_model, H heads, G key-value heads,
// K width of a head, F d_ff, V vocabulary. A matrix (rows, columns) is a Float32Array with one row after another.

/** Returns the sum of a[i + k] * b[j + k] over n values of k. Four sums, so that no addition waits for the last. */
function dot(a, i, b, j, n) {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let k = 0;
  for (; k + 3 < n; k += 4) {
    s0 += a[i + k] * b[j + k];
    s1 += a[i + k + 1] * b[j + k + 1];
    s2 += a[i + k + 2] * b[j + k + 2];
    s3 += a[i + k + 3] * b[j + k + 3];
  }
  for (; k < n; k++) s0 += a[i + k] * b[j + k];
  return s0 + s1 + s2 + s3;
}

/** Returns x W^T + b: (T, in) -> (T, out). Each row of W is used for all tokens while it is in the processor's cache. */
function linear(x, weight, bias, nIn) {
  const nTokens = x.length / nIn;
  const nOut = weight.length / nIn;
  const y = new Float32Array(nTokens * nOut);
  for (let out = 0; out < nOut; out++)
    for (let t = 0; t < nTokens; t++)
      y[t * nOut + out] = dot(weight, out * nIn, x, t * nIn, nIn) + (bias ? bias[out] : 0);
  return y;
}

/** Replaces scores by exp(score) / sum of exp(score), which are positive and sum to 1. */
function softmax(scores) {
  let largest = -Infinity;
  let sum = 0;
  for (const score of scores) if (score > largest) largest = score;
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - largest);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
  return scores;
}

/** Normalizes each row of x (rows, width): to mean 0 and variance 1, or, as an RMS norm, to a mean square of 1. */
function normalize(x, width, { kind, eps, weight = null, bias = null }) {
  const y = new Float32Array(x.length);
  for (let row = 0; row < x.length; row += width) {
    let mean = 0;
    let square = 0;
    if (kind === "layer_norm") {
      for (let d = 0; d < width; d++) mean += x[row + d];
      mean /= width;
    }
    for (let d = 0; d < width; d++) square += (x[row + d] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / width + eps);
    for (let d = 0; d < width; d++)
      y[row + d] = (x[row + d] - mean) * scale * (weight ? weight[d] : 1) + (bias ? bias[d] : 0);
  }
  return y;
}

/** Returns the error function by its series exp(-x^2) 2x / sqrt(pi) (1 + 2x^2/3 + (2x^2)^2/(3 5) + ...). */
function erf(x) {
  if (Math.abs(x) > 4) return Math.sign(x);
  let term = 1;
  let sum = 1;
  for (let n = 3; term > 1e-9 * sum; n += 2) sum += term *= (2 * x * x) / n;
  return (2 * x * Math.exp(-x * x) * sum) / Math.sqrt(Math.PI);
}

const silu = (x) => x / (1 + Math.exp(-x));

const ACTIVATIONS = {
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  relu: (x) => Math.max(x, 0),
  relu_squared: (x) => Math.max(x, 0) ** 2,
};

/** Adds y to x in place and returns x: what a sublayer writes into the residual stream. */
function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
  return x;
}

/** The keys and values of the tokens that were read, so that each is computed once: (S, G K) for each layer. */
class Cache {
  constructor(nLayers) {
    this.length = 0; // tokens
    this.keys = Array.from({ length: nLayers }, () => new Rows());
    this.values = Array.from({ length: nLayers }, () => new Rows());
  }
}

/** An array of numbers to which rows can be added; its memory doubles when it is full. */
class Rows {
  constructor() {
    this.memory = new Float32Array(0);
    this.used = 0;
  }

  append(rows) {
    const end = this.used + rows.length;
    if (end > this.memory.length) {
      const larger = new Float32Array(2 * end);
      larger.set(this.memory.subarray(0, this.used));
      this.memory = larger;
    }
    this.memory.set(rows, this.used);
    this.used = end;
    return this.memory;
  }
}

/** A decoder or an encoder. `shape` is what src/folio/export/page/architecture.py derives from the model's config. */
class Transformer {
  /** weights: name in Folio's state dict -> Float32Array. */
  constructor(shape, weights) {
    this.shape = shape;
    this.weights = weights;
    this.causal = shape.family === "decoder";
  }

  /** Returns the output of the final norm, which the output layer reads: T token ids -> (T, D).
   *
   * With a cache, the tokens follow those that it holds. `observe(name, layer, values)` is called with what happens
   * inside: the residual stream after the embedding (layer 0) and each block, and the attention of each query. */
  hidden(ids, cache = new Cache(this.shape.n_layers), observe = null) {
    const pass = { ids, first: cache.length, cache, observe };
    let x = this.embed(ids, pass.first);
    observe?.("residual", 0, x);
    for (let layer = 0; layer < this.shape.n_layers; layer++) {
      x = this.block(layer, x, pass);
      observe?.("residual", layer + 1, x);
    }
    cache.length += ids.length;
    return this.finalNorm(x);
  }

  /** Returns the scores of the next token, or of a blank's: hidden (T, D) -> logits (T, V). */
  logits(hidden) {
    // Tied weights are stored once.
    const weight = this.weights["output.weight"] ?? this.weights["token_embedding.weight"];
    const logits = linear(hidden, weight, this.weights["output.bias"], this.shape.d_model);
    const cap = this.shape.logit_softcap;
    return cap === null ? logits : logits.map((logit) => cap * Math.tanh(logit / cap));
  }

  /** Returns the vectors of the tokens at positions first, first + 1 ...: (T, D). */
  embed(ids, first) {
    const { d_model: D, token_width, embedding_scale, positional_encoding, sinusoid_frequencies } = this.shape;
    const tokens = this.weights["token_embedding.weight"];
    const positions = this.weights["positional_encoding.embedding.weight"];
    const x = new Float32Array(ids.length * D);
    ids.forEach((id, t) => {
      const row = t * D;
      const position = first + t;
      for (let d = 0; d < token_width; d++) x[row + d] = tokens[id * token_width + d] * (embedding_scale ?? 1);
      if (positional_encoding === "learned") {
        for (let d = 0; d < D; d++) x[row + d] += positions[position * D + d];
      } else if (positional_encoding === "concatenated") {
        const width = D - token_width; // token and position share the vector
        for (let d = 0; d < width; d++) x[row + token_width + d] = positions[position * width + d];
      } else if (positional_encoding === "sinusoidal") {
        sinusoid_frequencies.forEach((frequency, i) => {
          x[row + 2 * i] += Math.sin(position * frequency);
          x[row + 2 * i + 1] += Math.cos(position * frequency);
        });
      }
    });
    return x;
  }

  /** Adds attention and feed-forward to the residual stream, each of which reads a norm of it: (T, D) -> (T, D).
   * With norm_position=post the norm follows the sum instead. */
  block(layer, x, pass) {
    const name = `blocks.${layer}`;
    if (this.shape.norm_position === "post") {
      x = this.norm(`${name}.attention_norm`, add(this.attention(layer, x, pass), x));
      return this.norm(`${name}.feed_forward_norm`, add(this.feedForward(layer, x), x));
    }
    x = add(this.attention(layer, this.norm(`${name}.attention_norm`, x), pass), x);
    return add(this.feedForward(layer, this.norm(`${name}.feed_forward_norm`, x)), x);
  }

  norm(name, x) {
    const { norm: kind, norm_eps: eps, d_model } = this.shape;
    return normalize(x, d_model, {
      kind,
      eps,
      weight: this.weights[`${name}.weight`],
      bias: this.weights[`${name}.bias`],
    });
  }

  finalNorm(x) {
    return this.shape.final_norm ? this.norm("final_norm", x) : x;
  }

  /** Each token collects the values of the tokens whose keys fit its query: (T, D) -> (T, D). */
  attention(layer, x, { ids, first, cache, observe }) {
    const { d_model, n_heads: H, n_kv_heads: G, d_head: K } = this.shape;
    const name = `blocks.${layer}.attention`;
    const nTokens = x.length / d_model;
    const qkv = linear(
      x,
      this.weights[`${name}.qkv_projection.weight`],
      this.weights[`${name}.qkv_projection.bias`],
      d_model,
    );
    const width = (H + 2 * G) * K;
    const part = (start, size) => {
      const columns = new Float32Array(nTokens * size);
      for (let t = 0; t < nTokens; t++)
        columns.set(qkv.subarray(t * width + start, t * width + start + size), t * size);
      return columns;
    };
    const queries = this.place(part(0, H * K), `${name}.q_norm`, H, first);
    const keys = cache.keys[layer].append(this.place(part(H * K, G * K), `${name}.k_norm`, G, first));
    const values = cache.values[layer].append(this.addTokens(layer, ids, part((H + G) * K, G * K)));
    const mixed = new Float32Array(nTokens * H * K);
    for (let head = 0; head < H; head++) {
      const group = Math.floor((head * G) / H); // H / G neighboring query heads share a key-value head
      for (let t = 0; t < nTokens; t++) {
        const query = first + t;
        const [from, to] = this.visible(layer, query, first + nTokens);
        const products = new Float32Array(to - from);
        for (let s = from; s < to; s++)
          products[s - from] = dot(queries, (t * H + head) * K, keys, (s * G + group) * K, K);
        const weights = softmax(products.map((product, i) => this.score(product, head, query, from + i)));
        observe?.("attention", layer, { head, query, from, products, weights });
        for (let s = from; s < to; s++) {
          const weight = weights[s - from];
          const value = (s * G + group) * K;
          const row = (t * H + head) * K;
          for (let k = 0; k < K; k++) mixed[row + k] += weight * values[value + k];
        }
      }
    }
    return linear(
      mixed,
      this.weights[`${name}.out_projection.weight`],
      this.weights[`${name}.out_projection.bias`],
      H * K,
    );
  }

  /** Adds to the values of the first and the last layers what each token is: its row of a table, times a weight. */
  addTokens(layer, ids, values) {
    const { n_layers, value_embeddings: n } = this.shape;
    const width = values.length / ids.length;
    const isLast = layer >= n_layers - n;
    const table = isLast ? layer - (n_layers - n) : layer;
    if (table >= n) return values;
    const rows = this.weights[`value_embeddings.tables.${table}.weight`];
    const weight = this.weights["value_embeddings.weights"][isLast ? n + table : table];
    return values.map((value, i) => value + weight * rows[ids[Math.floor(i / width)] * width + (i % width)]);
  }

  /** Returns the range of positions that a query may attend to: a decoder's are those up to its own. In a layer with a
   * window, they are less than a window away. */
  visible(layer, query, nKeys) {
    const window = this.shape.windows[layer] ?? Infinity;
    return [Math.max(0, query - window + 1), Math.min(this.causal ? query + 1 : nKeys, query + window)];
  }

  /** Turns the product of a query and a key into the score that enters the softmax. */
  score(product, head, query, key) {
    const { d_head, alibi_slopes } = this.shape;
    const scaled = product / Math.sqrt(d_head);
    return alibi_slopes ? scaled - alibi_slopes[head] * Math.abs(query - key) : scaled;
  }

  /** Normalizes and rotates the vectors of all heads, queries or keys: (T, heads K) -> (T, heads K). */
  place(x, norm, nHeads, first) {
    const { qk_norm, norm_eps: eps, d_head: K, rotary_frequencies, rotary_amplitude: size } = this.shape;
    if (qk_norm) x = normalize(x, K, { kind: "rms_norm", eps, weight: this.weights[`${norm}.weight`] });
    if (!rotary_frequencies) return x;
    const half = rotary_frequencies.length;
    for (let row = 0; row * K < x.length; row++) {
      const position = first + Math.floor(row / nHeads);
      for (let i = 0; i < half; i++) {
        // dimensions i and i + half turn together by an angle that grows with the position
        const cos = size * Math.cos(position * rotary_frequencies[i]);
        const sin = size * Math.sin(position * rotary_frequencies[i]);
        const a = x[row * K + i];
        const b = x[row * K + half + i];
        x[row * K + i] = a * cos - b * sin;
        x[row * K + half + i] = b * cos + a * sin;
      }
    }
    return x;
  }

  /** Two linear layers with an activation between them, for each token by itself: (T, D) -> (T, D), through (T, F). */
  feedForward(layer, x) {
    const { d_model, d_ff: F, activation } = this.shape;
    const name = `blocks.${layer}.feed_forward`;
    const wide = linear(
      x,
      this.weights[`${name}.in_projection.weight`],
      this.weights[`${name}.in_projection.bias`],
      d_model,
    );
    const inner = activation === "swiglu" ? this.gate(wide, F) : wide.map(ACTIVATIONS[activation]);
    return linear(inner, this.weights[`${name}.out_projection.weight`], this.weights[`${name}.out_projection.bias`], F);
  }

  /** silu(gate) * value: (T, 2F) -> (T, F). */
  gate(wide, F) {
    const inner = new Float32Array(wide.length / 2);
    for (let i = 0; i < inner.length; i++) {
      const row = 2 * F * Math.floor(i / F) + (i % F);
      inner[i] = silu(wide[row]) * wide[row + F];
    }
    return inner;
  }

  /** Returns what tells positions apart, for a figure: one row for each of the first n positions, or null.
   * Vectors of the positions, cosines of the rotations, or what is added to the score of a key at each distance. */
  positionTable(n) {
    const { positional_encoding, d_model, token_width, sinusoid_frequencies, rotary_frequencies, alibi_slopes } =
      this.shape;
    const table = (row) => Array.from({ length: n }, (_, position) => Float32Array.from(row(position)));
    if (alibi_slopes) return table((distance) => alibi_slopes.map((slope) => -slope * distance));
    if (rotary_frequencies)
      return table((position) => rotary_frequencies.map((frequency) => Math.cos(position * frequency)));
    if (sinusoid_frequencies)
      return table((position) => sinusoid_frequencies.flatMap((f) => [Math.sin(position * f), Math.cos(position * f)]));
    const learned = this.weights["positional_encoding.embedding.weight"];
    if (!learned) return null;
    const width = positional_encoding === "concatenated" ? d_model - token_width : d_model;
    return table((position) => learned.subarray(position * width, (position + 1) * width));
  }
}
