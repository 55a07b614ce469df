// Packets of the vector profile: docs/format.md, section "Vector profile".

import { CODEBOOK } from "./codebook.js";
import { setColor } from "./color.js";
import { FormatError, fromBase64 } from "./container.js";

const FORMS = 4096;
const DIRECTIONS = 128;

function readCodebook() {
  const view = new DataView(fromBase64(CODEBOOK).buffer);
  const number = (i) => view.getInt16(2 * i, true);
  const directions = new Float64Array(3 * DIRECTIONS);
  for (let i = 0; i < 3 * DIRECTIONS; i += 3) {
    const triple = [0, 1, 2].map((j) => number(2 * FORMS + i + j));
    const length = Math.hypot(...triple);
    for (let j = 0; j < 3; j++) directions[i + j] = triple[j] / length;
  }
  return {
    aspects: Float64Array.from({ length: FORMS }, (_, i) => number(i) / 4096),
    shears: Float64Array.from({ length: FORMS }, (_, i) => number(FORMS + i) / 1024),
    directions,
  };
}

/** Bits of the fields of a record: x, y, form and its mirror, size, colour. */
export function fieldBits(channels) {
  if (channels === 1) return [8, 8, 13, 5, 1, 5];
  if (channels === 3) return [8, 8, 13, 5, 8, 6];
  if (channels === 4) return [8, 8, 13, 5, 8, 6, 1, 7];
  return [8, 8, 13, 5, ...Array.from({ length: 2 * channels }, (_, i) => (i % 2 ? 7 : 1))];
}

/** Takes packets of records apart. */
export class RecordDecoder {
  constructor(header) {
    const margin = Math.floor(header.margin / 4);
    this.columns = Math.ceil((header.width + 2 * margin) / header.margin);
    this.tiles = this.columns * Math.ceil((header.height + 2 * margin) / header.margin);
    this.bits = fieldBits(header.channels);
    this.size = Math.ceil(this.bits.reduce((sum, size) => sum + size) / 8);
  }

  /** The fields of records, places counted from the corner of all tiles; Int32Array. Raises FormatError. */
  decode(payload, count) {
    const entry = count < 65536 ? 2 : 4;
    const due = this.tiles * entry + count * this.size;
    if (payload.length !== due)
      throw new FormatError(`holds a packet of ${count} splats in ${payload.length} bytes, not ${due}`);
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    const fields = new Int32Array(count * this.bits.length);
    let record = 0;
    for (let tile = 0; tile < this.tiles; tile++) {
      const end = entry === 2 ? view.getUint16(2 * tile, true) : view.getUint32(4 * tile, true);
      if (end < record || end > count || (tile === this.tiles - 1 && end !== count))
        throw new FormatError("holds a packet whose tiles do not follow each other");
      for (; record < end; record++) {
        const at = record * this.bits.length;
        this.unpack(payload, this.tiles * entry + record * this.size, fields, at);
        fields[at] += 256 * (tile % this.columns);
        fields[at + 1] += 256 * Math.floor(tile / this.columns);
      }
    }
    return fields;
  }

  /** One record, from the lowest bit of its first byte up. */
  unpack(bytes, first, fields, at) {
    let bit = 0;
    for (const size of this.bits) {
      let value = 0;
      for (let i = 0; i < size; i++, bit++) value |= ((bytes[first + (bit >> 3)] >> (bit & 7)) & 1) << i;
      fields[at++] = value;
    }
    for (; bit < 8 * this.size; bit++)
      if ((bytes[first + (bit >> 3)] >> (bit & 7)) & 1)
        throw new FormatError("holds a record with bits beyond its fields");
  }
}

/** Splats, float32 [N * (5 + C)], from the fields of records. */
export function dequantizeRecords(fields, header) {
  const book = readCodebook();
  const { channels } = header;
  const codes = fieldBits(channels).length;
  const count = fields.length / codes;
  const tile = header.margin;
  const corner = Math.floor(tile / 4);
  const top = (header.qualityIndex - 128) / 8;
  const magnitude = (code, bits, perOctave) => (code > 0 ? 2 ** (top + (code - 2 ** bits + 1) / perOctave) : 0);
  const splats = new Float32Array(count * (5 + channels));
  const v = new Float64Array(channels);
  for (let i = 0; i < count; i++) {
    const from = i * codes;
    const to = i * (5 + channels);
    splats[to] = ((fields[from] + 0.5) * tile) / 256 - corner;
    splats[to + 1] = ((fields[from + 1] + 0.5) * tile) / 256 - corner;
    const form = fields[from + 2] & (FORMS - 1);
    const middle = Math.log(tile / 8) + (Math.LN2 * (fields[from + 3] - 16)) / 4;
    const a = middle + book.aspects[form];
    const c = middle - book.aspects[form];
    splats[to + 2] = a;
    splats[to + 3] = (fields[from + 2] < FORMS ? 1 : -1) * book.shears[form] * Math.exp(c);
    splats[to + 4] = c;
    const color = from + 4;
    if (channels === 3 || channels === 4) {
      const along = (fields[color] < DIRECTIONS ? 1 : -1) * magnitude(fields[color + 1], 6, 8);
      const direction = 3 * (fields[color] & (DIRECTIONS - 1));
      for (let j = 0; j < 3; j++) v[j] = along * book.directions[direction + j];
      if (channels === 4) v[3] = (fields[color + 2] ? -1 : 1) * magnitude(fields[color + 3], 7, 8);
    } else {
      const [bits, perOctave] = channels === 1 ? [5, 4] : [7, 8];
      for (let j = 0; j < channels; j++)
        v[j] = (fields[color + 2 * j] ? -1 : 1) * magnitude(fields[color + 2 * j + 1], bits, perOctave);
    }
    setColor(splats, to + 5, v, Math.exp(-(a + c) / 2));
  }
  return splats;
}
