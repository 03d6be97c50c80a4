"use strict";
// Text to token ids and back: the tokenizers of src/folio/data/tokenizers, from the state that a checkpoint holds.

const UNKNOWN = 0;
const JOIN = 1;
const SPACE = 2; // the first ids of the word tokenizer

const utf8 = (text) => new TextEncoder().encode(text);

/** Returns the tokenizer that a page's data describes. */
function buildTokenizer({ name, kind, ...state }) {
  const kinds = { char: CharTokenizer, byte: ByteTokenizer, word: WordTokenizer, ranks: RankTokenizer };
  return Object.assign(new kinds[kind](state), { name });
}

/** A tokenizer whose ids stand for bytes that, joined, are the UTF-8 of the text. */
class LosslessTokenizer {
  /** Returns the text that each token adds to those before it. A character whose bytes are spread over several tokens
   * appears with the last of them; the pieces together are the text. */
  pieces(ids) {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const pieces = Array.from(ids, (id) => decoder.decode(this.bytes(id), { stream: true }));
    const rest = decoder.decode();
    if (rest) pieces[pieces.length - 1] += rest;
    return pieces;
  }

  /** Returns a token as it is shown by itself: its text, or its bytes if they are only a part of a character. */
  label(id) {
    const bytes = this.bytes(id);
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    if (!text.includes("\ufffd")) return text;
    return `‹${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0").toUpperCase()).join(" ")}›`;
  }

  /** Returns the bits that it takes to spell what the vocabulary lacks: none, since nothing is lost. */
  unknownBits() {
    return 0;
  }
}

/** One id for each character, in the order of their code points. */
class CharTokenizer extends LosslessTokenizer {
  constructor({ characters }) {
    super();
    this.characters = Array.from(characters);
    this.ids = new Map(this.characters.map((character, id) => [character, id]));
    this.size = this.characters.length;
  }

  encode(text) {
    return Array.from(text, (character) => {
      const id = this.ids.get(character);
      if (id === undefined)
        throw new Error(
          `This model does not know the character “${character}”: it is not among the ${this.size} ` +
            "characters of its training text. Remove it.",
        );
      return id;
    });
  }

  bytes(id) {
    return utf8(this.characters[id] ?? "\ufffd");
  }
}

/** The 256 values of a byte as ids. */
class ByteTokenizer extends LosslessTokenizer {
  size = 256;

  encode(text) {
    return Array.from(utf8(text));
  }

  bytes(id) {
    return Uint8Array.of(id);
  }
}

// The patterns by which tiktoken splits a text before it merges bytes; \s there is Unicode's White_Space.
const SPLITS = {
  gpt2: /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}/gu,
  cl100k:
    /'(?:[sSſdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\p{White_Space}\p{L}\p{N}]+[\r\n]*|\p{White_Space}+$|\p{White_Space}*[\r\n]|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}/gu,
};

/** Byte-pair encoding: the neighbors of the lowest rank are merged first, again and again (Sennrich et al. 2016). */
class RankTokenizer extends LosslessTokenizer {
  /** ranks: lines of a token's bytes in base64 and its rank, which is its id. */
  constructor({ ranks, split, vocab_size, special = {} }) {
    super();
    this.split = SPLITS[split];
    this.size = vocab_size;
    this.ranks = new Map(); // a token as a string of bytes -> its rank
    this.tokens = [];
    for (const line of ranks.split("\n")) {
      if (!line) continue;
      const [token, rank] = line.split(" ");
      this.ranks.set(atob(token), Number(rank));
      this.tokens[Number(rank)] = atob(token);
    }
    for (const [text, id] of Object.entries(special)) this.tokens[id] = text; // never made from a text
  }

  encode(text) {
    const ids = [];
    for (const [word] of text.matchAll(this.split)) {
      const bytes = Array.from(utf8(word), (byte) => String.fromCharCode(byte));
      const whole = this.ranks.get(bytes.join(""));
      if (whole === undefined) for (const part of this.merge(bytes)) ids.push(this.ranks.get(part));
      else ids.push(whole);
    }
    return ids;
  }

  /** Merges the neighbors with the lowest rank until no two neighbors are a token together. */
  merge(parts) {
    for (;;) {
      let lowest = Infinity;
      let place = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(parts[i] + parts[i + 1]);
        if (rank < lowest) [lowest, place] = [rank, i];
      }
      if (place < 0) return parts;
      parts.splice(place, 2, parts[place] + parts[place + 1]);
    }
  }

  bytes(id) {
    return this.tokens[id] === undefined
      ? utf8("\ufffd")
      : Uint8Array.from(this.tokens[id], (byte) => byte.charCodeAt(0));
  }
}

// A word with its inner apostrophes (strain'd, o'er), or any other character by itself.
const UNIT = /[\p{L}\p{N}_]+(?:['’][\p{L}\p{N}_]+)*|[^\p{L}\p{N}_]/gu;
const WHITE_SPACE = /^(?!\ufeff)[\s\x1c-\x1f\x85]+$/u; // what Python calls white space
const TOUCHES_BOTH = "-–—/'’\"";
const TOUCHES_LEFT = ",.;:!?…%)]}»”" + TOUCHES_BOTH;
const TOUCHES_RIGHT = "([{«“‘" + TOUCHES_BOTH;

/** Words and punctuation. Spaces that print would have anyway have no id; JOIN stands where two units touch. */
class WordTokenizer {
  constructor({ units }) {
    this.texts = ["<unk>", "", " ", ...units];
    this.size = this.texts.length;
    this.ids = new Map(this.texts.map((text, id) => [text, id]).slice(SPACE));
    const printable = this.texts.map((text) => text !== "" && !WHITE_SPACE.test(text));
    this.spaceBefore = this.texts.map((text, id) => printable[id] && !TOUCHES_LEFT.includes(text));
    this.spaceAfter = this.texts.map((text, id) => printable[id] && !TOUCHES_RIGHT.includes(text));
  }

  encode(text) {
    const units = Array.from(text.matchAll(UNIT), ([unit]) => this.ids.get(unit) ?? UNKNOWN);
    const ids = [];
    units.forEach((id, i) => {
      const before = units[i - 1];
      const after = units[i + 1];
      if (id === SPACE && this.spaceAfter[before] && this.spaceBefore[after]) return; // print has it anyway
      if (this.spaceAfter[before] && this.spaceBefore[id]) ids.push(JOIN);
      ids.push(id);
    });
    return ids;
  }

  pieces(ids) {
    let previous = JOIN;
    return Array.from(ids, (id) => {
      const space = this.spaceAfter[previous] && this.spaceBefore[id];
      previous = id;
      return (space ? " " : "") + this.texts[id];
    });
  }

  label(id) {
    return id === JOIN ? "‹join›" : this.texts[id];
  }

  /** Returns the bits that spell the unknown words byte by byte, in a code made from the words of the vocabulary. */
  unknownBits(text) {
    const hidden = Array.from(text.matchAll(UNIT), ([unit]) => unit).filter((unit) => !this.ids.has(unit));
    if (!hidden.length) return 0;
    const END = 256;
    const units = this.texts.slice(SPACE + 1);
    const counts = new Float64Array(END + 1).fill(1);
    for (const byte of utf8(units.join(""))) counts[byte]++;
    counts[END] += units.length;
    const total = Math.log2(counts.reduce((a, b) => a + b));
    const bits = (symbol) => total - Math.log2(counts[symbol]);
    return utf8(hidden.join("")).reduce((sum, byte) => sum + bits(byte), hidden.length * bits(END));
  }
}
