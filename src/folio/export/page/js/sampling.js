"use strict";
// From logits to the next token, as src/folio/models/token_sampler.py does it. Needs no model: sliders call it alone.

/** Returns the probabilities of the tokens after temperature, top-k and top-p, which sum to 1; others have 0.
 * Temperature 0 gives everything to the likeliest token. Only the first nSymbols ids stand for a text. */
function distribution(logits, nSymbols, { temperature = 1, topK = null, topP = null } = {}) {
  const scores = Float64Array.from(logits.subarray(0, nSymbols));
  const largest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  if (temperature === 0) return oneHot(nSymbols, scores.indexOf(largest));
  let sum = 0;
  for (let i = 0; i < nSymbols; i++) sum += scores[i] = Math.exp((scores[i] - largest) / temperature);
  const probabilities = scores.map((value) => value / sum);
  if (topK === null && topP === null) return probabilities;
  const kept = new Float64Array(nSymbols);
  const order = likeliest(probabilities, topK ?? nSymbols);
  const total = order.reduce((all, id) => all + probabilities[id], 0); // top-p counts what top-k has left
  let reached = 0;
  for (const id of order) {
    if (topP !== null && reached >= topP * total) break;
    kept[id] = probabilities[id];
    reached += probabilities[id];
  }
  return kept.map((value) => value / reached);
}

function oneHot(length, index) {
  const values = new Float64Array(length);
  values[index] = 1;
  return values;
}

/** Returns the ids of the n largest values, largest first; of equal ones, the lower id. */
function likeliest(values, n) {
  if (n > 100)
    return Array.from(values.keys())
      .sort((a, b) => values[b] - values[a] || a - b)
      .slice(0, n);
  const best = []; // of a few, each is put in its place
  for (let id = 0; id < values.length; id++) {
    if (best.length === n && values[id] <= values[best[n - 1]]) continue;
    let place = best.length;
    while (place > 0 && values[best[place - 1]] < values[id]) place--;
    best.splice(place, 0, id);
    best.length = Math.min(best.length, n);
  }
  return best;
}

/** Returns the id at which the running sum of probabilities passes a number from 0 to 1. */
function draw(probabilities, number) {
  let sum = 0;
  let last = 0;
  for (let id = 0; id < probabilities.length; id++) {
    if (probabilities[id] === 0) continue;
    sum += probabilities[id];
    last = id;
    if (number < sum) return id;
  }
  return last; // rounding can leave the sum just below 1
}

/** Returns a number from 0 to 1 that depends only on a seed and the index of a token: the same text for the same seed,
 * whichever tokens were chosen by hand before. The mixing steps are those of MurmurHash3's finalizer. */
function randomAt(seed, index) {
  let h = Math.imul(seed >>> 0, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca77);
  for (const factor of [0x85ebca6b, 0xc2b2ae35]) h = Math.imul(h ^ (h >>> 15), factor);
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32;
}

/** Returns ln of the sum of exp(logit): -logSum(logits) + logits[i] is the log of the probability of token i. */
function logSum(logits) {
  let largest = -Infinity;
  let sum = 0;
  for (const logit of logits) if (logit > largest) largest = logit;
  for (const logit of logits) sum += Math.exp(logit - largest);
  return Math.log(sum) + largest;
}
