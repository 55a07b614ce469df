// Packets of the scalar profile: docs/format.md, sections "Model" and "Packets". Names follow that page.
// Everything is integers; what may leave 32 bits is computed in doubles, where it stays exact.

import { setColor } from "./color.js";
import { FormatError, fromBase64, gridSide } from "./container.js";
import {
  COLOR_LOGITS,
  FEW_LOGITS,
  MANY_LOGITS,
  NETWORK_BIASES,
  NETWORK_SHIFTS,
  NETWORK_WEIGHTS,
  SHAPE_LOGITS,
} from "./tables.js";

const ONE = 65536;
const NODES = 46; // decisions of an integer
const SCALES = 24; // classes of its scale
const FEATURES = 48;
const OWN = 42; // from here on features of the splat itself
const HIDDEN = 16;
const NETWORKS = 6;
const TRAITS = 5; // and two for each channel
// Two units are summed in one double: 42 features of at most 4095 times weights of at most 128 stay below 2^25, so the
// second unit never reaches the first, and both together stay below 2^53.
const PAIR = 2 ** 26;
const MOST_V = 2 ** 20 - 1;
const MOST_IN_ROW = 24;

const lim = (x) => (x > 4095 ? 4095 : x < -4095 ? -4095 : x);
const clamp = (x, low, high) => (x < low ? low : x > high ? high : x);
const floorLog2 = (n) => 31 - Math.clz32(n); // n < 2^32

// 256 log2(n)
const MANTISSAS = Int16Array.from({ length: 256 }, (_, t) => Math.round(256 * Math.log2(1 + t / 256)));
const log2 = (n) => {
  const e = floorLog2(n);
  return 256 * e + MANTISSAS[(e >= 8 ? n >>> (e - 8) : n << (8 - e)) & 255];
};
const magnitudeOf = (v) => lim(log2(2 * (v < 0 ? -v : v) + 1) - 256);
const signedOf = (v) => lim(v < 0 ? -log2(1 - v) : log2(v + 1));

const SQUASHED = Int32Array.from({ length: 4095 }, (_, i) => Math.round(ONE / (1 + Math.exp((2047 - i) / 256))));
const STRETCHED = Int16Array.from({ length: 4096 }, (_, i) =>
  clamp(Math.round(256 * Math.log((i + 0.5) / (4095.5 - i))), -2047, 2047),
);
const squash = (logit) => SQUASHED[logit + 2047];
const RATES = Int32Array.from({ length: 128 }, (_, n) => Math.floor(131072 / (2 * n + 3)));
const WEIGHTS = Int32Array.from({ length: 1024 }, (_, i) => Math.floor(32768 / (i + 16))); // by squared distance / 4

// Steps by energy class.
const CLASSES = 56;
const unitOf = (k) => (Math.SQRT2 / 0.7) * 2 ** (-k / 2);
const THRESHOLDS = Float64Array.from({ length: CLASSES }, (_, k) => (k ? Math.ceil(0.49 * 2 ** (k - 0.5)) : 0));
const STEPS_LOG = Int32Array.from({ length: CLASSES }, (_, k) => Math.max(1, Math.round(ONE * Math.min(1, unitOf(k)))));
const STEPS_SHEAR = Int32Array.from({ length: CLASSES }, (_, k) =>
  Math.max(1, Math.round(ONE * Math.min(1, Math.SQRT2 * unitOf(k)))),
);
const LOG2_UNITS = Int32Array.from({ length: CLASSES }, (_, k) => Math.round(ONE * Math.log2(unitOf(k))));

function energyClass(squares) {
  let k = 0;
  while (squares >= THRESHOLDS[k + 1]) k++;
  return k;
}

/** Bits of a coordinate below its cell, from the fixed-point a (of x) or c (of y). */
function refinement(fixed, k, cellExponent) {
  const bits = ONE * cellExponent - LOG2_UNITS[k] - Math.floor((94548 * fixed) / ONE) + ONE / 2;
  return clamp(Math.floor(bits / ONE), 0, 14);
}

const signed = (base64) => new Int8Array(fromBase64(base64).buffer);

// The six networks. Weights of the hidden units on the features that all share: network by network, feature by feature,
// two units in each of eight doubles; on those of the splat itself, unit by unit; of the outputs.
function readNetworks() {
  const weights = signed(NETWORK_WEIGHTS);
  const biases = new DataView(fromBase64(NETWORK_BIASES).buffer);
  const shifts = fromBase64(NETWORK_SHIFTS);
  const units = NETWORKS * HIDDEN;
  const found = {
    pairs: new Float64Array((units / 2) * OWN),
    own: new Int8Array(units * (FEATURES - OWN)),
    bias: new Int32Array(units),
    shift: new Uint8Array(units),
    outputs: new Int8Array(2 * units), // scale and place of a unit side by side
    outputBias: new Int32Array(2 * NETWORKS),
    outputShift: new Uint8Array(2 * NETWORKS),
  };
  for (let n = 0; n < NETWORKS; n++) {
    const first = n * (FEATURES + 2) * HIDDEN;
    for (let i = 0; i < HIDDEN; i++) {
      const unit = n * HIDDEN + i;
      const row = weights.subarray(first + i * FEATURES, first + (i + 1) * FEATURES);
      for (let j = 0; j < OWN; j++)
        found.pairs[((unit >> 4) * OWN + j) * 8 + ((unit >> 1) & 7)] += unit % 2 ? row[j] : PAIR * row[j];
      found.own.set(row.subarray(OWN), unit * (FEATURES - OWN));
      found.bias[unit] = biases.getInt32(4 * (n * (HIDDEN + 2) + i), true);
      found.shift[unit] = shifts[n * (HIDDEN + 2) + i];
      for (let o = 0; o < 2; o++) found.outputs[2 * unit + o] = weights[first + (FEATURES + o) * HIDDEN + i];
    }
    for (let o = 0; o < 2; o++) {
      found.outputBias[2 * n + o] = biases.getInt32(4 * (n * (HIDDEN + 2) + HIDDEN + o), true);
      found.outputShift[2 * n + o] = shifts[n * (HIDDEN + 2) + HIDDEN + o];
    }
  }
  return found;
}

/** The range coder over one payload, and bits by counters. A counter is its probability << 8 | bits seen; 0 is new. */
class Bits {
  constructor() {
    this.state = new Uint32Array(2); // range, code
    this.payload = new Uint8Array(0);
    this.at = 0;
  }

  open(payload) {
    this.payload = payload;
    this.at = 0;
    let code = 0;
    for (let i = 0; i < 4; i++) code = (code << 8) | this.next();
    this.state[0] = 0xffffffff;
    this.state[1] = code;
  }

  close() {
    if (this.at < this.payload.length)
      throw new FormatError("is damaged: a packet has bytes after its last splat; get another copy");
  }

  next() {
    const at = this.at++;
    if (at < this.payload.length) return this.payload[at];
    if (at >= this.payload.length + 4)
      throw new FormatError("is damaged: a packet ends within a splat; get another copy");
    return 0;
  }

  /** A bit that is 1 with probability p / 65536. */
  read(p) {
    const state = this.state;
    let range = state[0];
    let code = state[1];
    const bound = (Math.imul(range >>> 16, p) + (Math.imul(range & 65535, p) >>> 16)) >>> 0;
    let bit = 0;
    if (code < bound) {
      range = bound;
      bit = 1;
    } else {
      code = (code - bound) >>> 0;
      range = (range - bound) >>> 0;
    }
    while (range < 0x1000000) {
      code = ((code << 8) | this.next()) >>> 0;
      range = (range << 8) >>> 0;
    }
    state[0] = range;
    state[1] = code;
    return bit;
  }

  plain(count) {
    let number = 0;
    for (let i = 0; i < count; i++) number = (number << 1) | this.read(32768);
    return number;
  }

  byCounter(counters, at, prior, trust) {
    let state = counters[at];
    if (state === 0) state = (squash(prior) << 8) | trust;
    const bit = this.read(clamp(state >>> 8, 32, 65504));
    counters[at] = learned(state, bit);
    return bit;
  }

  /** weights: three from `first` on. */
  byTwo(countersA, a, countersB, b, weights, first, prior, trust) {
    let stateA = countersA[a];
    let stateB = countersB[b];
    if (stateA === 0) stateA = (squash(prior) << 8) | trust;
    if (stateB === 0) stateB = (squash(prior) << 8) | trust;
    const logitA = STRETCHED[stateA >>> 12];
    const logitB = STRETCHED[stateB >>> 12];
    const w0 = weights[first];
    const w1 = weights[first + 1];
    const w2 = weights[first + 2];
    // Clamped before the shift, so that it fits into 32 bits.
    const sum = Math.max(-2047 * ONE, Math.min(w0 * prior + w1 * logitA + w2 * logitB, 2047 * ONE));
    const p = clamp(squash(sum >> 16), 32, 65504);
    const bit = this.read(p);
    const error = ONE * bit - p;
    weights[first] = moved(w0, Math.imul(prior, error));
    weights[first + 1] = moved(w1, Math.imul(logitA, error));
    weights[first + 2] = moved(w2, Math.imul(logitB, error));
    countersA[a] = learned(stateA, bit);
    countersB[b] = learned(stateB, bit);
    return bit;
  }

  /** decide(node) reads a decision. Plain bits follow from the fourth on. */
  integer(likely, most, decide) {
    let length = likely;
    if (decide(Math.min(length, 13))) {
      length++;
      while (length < 32 && decide(Math.min(length, 13))) length++;
    } else {
      while (length > 0 && decide(14 + Math.min(length - 1, 9))) length--;
    }
    if (length === 0) return 0;
    const negative = decide(23 + Math.min(length, 3));
    let magnitude = 1;
    if (length >= 2) magnitude = 2 | decide(25 + Math.min(length, 8));
    if (length >= 3) magnitude = (magnitude << 1) | decide(34 + 2 * (Math.min(length, 8) - 3) + (magnitude & 1));
    if (length >= 4) magnitude = magnitude * 2 ** (length - 3) + this.plain(length - 3);
    if (magnitude > most) throw beyond();
    return negative ? -magnitude : magnitude;
  }
}

const beyond = () => new FormatError("is damaged: a packet holds a number beyond its limits; get another copy");

const moved = (weight, by) => Math.max(-1048576, Math.min(weight + ((by + 16384) >> 15), 1048576));

function learned(state, bit) {
  const p = state >>> 8;
  const seen = state & 255;
  const next = p + (Math.imul((bit ? 65535 : 0) - p, RATES[seen]) >> 16);
  return (next << 8) | (seen < 127 ? seen + 1 : 127);
}

/** Decodes the packets of a file one after another; what is learned from one serves the next. */
export class PacketDecoder {
  constructor(header) {
    this.channels = header.channels;
    this.cellExponent = header.cellExponent;
    this.columns = gridSide(header.width, header);
    this.rows = gridSide(header.height, header);
    this.packet = -1;
    this.count = 0; // splats of packets so far
    this.decoded = 0;

    this.networks = readNetworks();
    this.color = signed(COLOR_LOGITS);
    this.shape = signed(SHAPE_LOGITS);
    this.few = signed(FEW_LOGITS);
    this.many = signed(MANY_LOGITS);
    this.bits = new Bits();
    this.fewCounters = new Int32Array(17 * 8 * 8);
    this.manyCounters = new Int32Array(24 * NODES);
    this.shapeCounters = new Int32Array(3 * 48 * NODES);
    this.colorCounters = new Int32Array(this.channels * SCALES * NODES);
    this.sizeCounters = new Int32Array(this.channels * 64 * NODES);
    this.colorWeights = Float64Array.from({ length: this.channels * NODES * 3 }, (_, i) => (i % 3 ? 18000 : 36000));

    this.stride = TRAITS + 2 * this.channels;
    this.cellX = new Int32Array(0); // of all splats, those of this packet included
    this.cellY = new Int32Array(0);
    this.placeX = new Int32Array(0); // 1/16 of a cell
    this.placeY = new Int32Array(0);
    this.traits = new Int16Array(0);
    this.means = new Int32Array(TRAITS + this.channels);
    this.sums = new Int32Array(this.stride);
    this.around = new Int32Array(2 * this.channels); // means of mag and sig of each channel around a splat
    this.features = new Float64Array(OWN);
    this.own = new Int32Array(FEATURES - OWN); // features of the splat itself
    this.shared = new Int32Array(NETWORKS * HIDDEN);
    this.scale = 0; // the two outputs of a network
    this.place = 0;

    // Where a decision looks, set before an integer is read.
    this.priors = 0;
    this.counters = 0;
    this.sizes = 0;
    this.weights = 0;
    this.sign = 0;
    this.signCounters = 0;
    this.decideMany = (node) =>
      this.bits.byCounter(this.manyCounters, this.counters + node, 16 * this.many[this.priors + node], 40);
    this.decideShape = (node) =>
      this.bits.byCounter(this.shapeCounters, this.counters + node, 16 * this.shape[this.priors + node], 40);
    this.decideColor = (node) => {
      const isSign = node >= 24 && node <= 26;
      return this.bits.byTwo(
        this.colorCounters,
        (isSign ? this.signCounters : this.counters) + node,
        this.sizeCounters,
        this.sizes + node,
        this.colorWeights,
        this.weights + 3 * node,
        isSign ? this.sign : 16 * this.color[this.priors + node],
        4,
      );
    };
  }

  /** The rows of a packet, X, Y, i_a, i_b, i_c, i_v0 ..; Int32Array [count * (5 + C)]. Raises FormatError. */
  decode(payload, count) {
    const width = 5 + this.channels;
    const rows = new Int32Array(count * width);
    this.packet++;
    this.bits.open(payload);
    this.makeRoom(this.count + count);
    const known = Int32Array.from({ length: this.count }, (_, i) => i);
    this.readCells(0, 0, this.columns, this.rows, count, known, 0, this.count);
    if (count > 0) this.beginSquares();
    for (let i = 0; i < count; i++) this.readSplat(rows, i * width, i + 1);
    this.bits.close();
    return rows;
  }

  makeRoom(count) {
    for (const name of ["cellX", "cellY", "placeX", "placeY", "traits"]) {
      const old = this[name];
      const size = name === "traits" ? count * this.stride : count;
      this[name] = new old.constructor(size);
      this[name].set(old);
    }
  }

  // Cells

  /** n splats of the packet, and those of `known` from low to high, lie in this region. */
  readCells(x, y, columns, rows, n, known, low, high) {
    if (n === 0) return;
    if (columns === 1 && rows === 1) {
      this.cellX.fill(x, this.count, this.count + n);
      this.cellY.fill(y, this.count, this.count + n);
      this.count += n;
      return;
    }
    const wide = columns >= rows;
    const side = wide ? columns : rows;
    const first = side >> 1;
    const border = (wide ? x : y) + first;
    const cells = wide ? this.cellX : this.cellY;
    let middle = low;
    for (let i = low; i < high; i++) {
      const id = known[i];
      if (cells[id] < border) {
        known[i] = known[middle];
        known[middle++] = id;
      }
    }
    let h = (middle - low) * side + 10 * first;
    let g = (high - middle) * side + 10 * (side - first);
    while (h + g >= 0x1000000) {
      h = Math.floor(h / 2);
      g = Math.floor(g / 2);
    }
    const here = this.readCount(n, Math.max(h, 1), Math.max(g, 1));
    if (wide) {
      this.readCells(x, y, first, rows, here, known, low, middle);
      this.readCells(border, y, columns - first, rows, n - here, known, middle, high);
    } else {
      this.readCells(x, y, columns, first, here, known, low, middle);
      this.readCells(x, border, columns, rows - first, n - here, known, middle, high);
    }
  }

  /** How many of n splats lie in the first half. */
  readCount(n, h, g) {
    if (n >= 8) {
      const mean = Math.floor((n * h + ((h + g) >> 1)) / (h + g));
      const q = Math.min(floorLog2(n), 23);
      this.priors = this.counters = q * NODES;
      const count = mean + this.bits.integer(q >> 1, n, this.decideMany);
      if (count < 0 || count > n) throw beyond();
      return count;
    }
    const lean = log2(h) - log2(g);
    const c = clamp((lean + 64 + 1024) >> 7, 0, 16);
    for (let i = 0; i < n; i++) {
      const at = (c * 8 + n) * 8 + i;
      const prior = n === 1 ? clamp((177 * lean) >> 8, -2047, 2047) : 16 * this.few[at];
      if (!this.bits.byCounter(this.fewCounters, at, prior, 16)) return i;
    }
    return n;
  }

  // Features

  /** Sorts all splats into squares. */
  beginSquares() {
    const { count } = this;
    let q = 0;
    while ((((this.columns - 1) >> q) + 1) * (((this.rows - 1) >> q) + 1) > 3 * count) q++;
    this.q = q;
    this.unit = 177 * (this.cellExponent + q);
    this.across = ((this.columns - 1) >> q) + 1;
    this.down = ((this.rows - 1) >> q) + 1;
    this.starts = new Int32Array(this.across * this.down + 1);
    this.ids = new Int32Array(count);
    const squareOf = (id) => (this.cellY[id] >> q) * this.across + (this.cellX[id] >> q);
    for (let id = 0; id < count; id++) this.starts[squareOf(id) + 1]++;
    for (let i = 1; i < this.starts.length; i++) this.starts[i] += this.starts[i - 1];
    const next = this.starts.slice();
    for (let id = 0; id < count; id++) this.ids[next[squareOf(id)]++] = id;
    for (let id = this.decoded; id < count; id++) {
      this.placeX[id] = 16 * this.cellX[id] + 8;
      this.placeY[id] = 16 * this.cellY[id] + 8;
    }
  }

  /** What surrounds the next splat, as the first 42 features. */
  look() {
    const { q, across, starts, ids, placeX, placeY, traits, stride, sums, features: f, means, unit, around } = this;
    const own = this.decoded;
    const column = this.cellX[own] >> q;
    const row = this.cellY[own] >> q;
    const left = Math.max(column - 2, 0);
    const right = Math.min(column + 2, across - 1);
    const bottom = Math.min(row + 2, this.down - 1);
    const x = placeX[own] >> q;
    const y = placeY[own] >> q;
    let near = 0;
    let all = 0;
    let xx = 0;
    let yy = 0;
    let xy = 0;
    let weight = 128;
    let first = -1;
    let second = -1;
    let firstDistance = 0x7fffffff;
    let secondDistance = 0x7fffffff;
    sums.fill(0);
    for (let j = Math.max(row - 2, 0); j <= bottom; j++) {
      const start = starts[j * across + left];
      const end = starts[j * across + right + 1];
      all += end - start;
      if (j >= row - 1 && j <= row + 1)
        near += starts[j * across + Math.min(column + 1, right) + 1] - starts[j * across + Math.max(column - 1, left)];
      for (let i = Math.max(start, end - MOST_IN_ROW); i < end; i++) {
        const id = ids[i];
        if (id === own) continue;
        const dx = (placeX[id] >> q) - x;
        const dy = (placeY[id] >> q) - y;
        const d = dx * dx + dy * dy;
        const w = WEIGHTS[d >= 4092 ? 1023 : d >> 2];
        xx += w * dx * dx;
        yy += w * dy * dy;
        xy += w * dx * dy;
        if (id > own) continue;
        weight += w;
        for (let t = 0, at = id * stride; t < stride; t++) sums[t] += Math.imul(w, traits[at + t]);
        if (d < firstDistance) {
          second = first;
          secondDistance = firstDistance;
          first = id;
          firstDistance = d;
        } else if (d < secondDistance) {
          second = id;
          secondDistance = d;
        }
      }
    }
    const square = row * across + column;
    f[0] = lim(256 * (this.cellExponent + q));
    f[1] = this.packet === 0 ? 256 : 0;
    f[2] = 256 * Math.min(this.packet, 3);
    f[3] = log2(starts[square + 1] - starts[square]);
    f[4] = log2(near);
    f[5] = log2(all);
    f[6] = ((256 * (xx - yy)) / (xx + yy + 1)) | 0; // towards zero
    f[7] = ((512 * xy) / (xx + yy + 1)) | 0;
    f[8] = lim(log2(weight));
    for (let t = 0; t < TRAITS; t++) {
      const offset = t === 1 || t === 2 ? unit : 0;
      const running = means[t] >> 4;
      f[9 + t] = lim((((sums[t] + 128 * running) / weight) | 0) - offset);
      f[28 + t] = lim(running - offset);
    }
    this.showNeighbour(14, first, x, y);
    this.showNeighbour(21, second, x, y);
    for (let c = 0; c < this.channels; c++) {
      around[2 * c] = (sums[5 + 2 * c] + 128 * (means[5 + c] >> 4)) / weight; // cut off by the array
      around[2 * c + 1] = sums[6 + 2 * c] / weight;
    }
    for (let slot = 0; slot < 3; slot++) this.showColor(slot, slot);
  }

  showNeighbour(at, id, x, y) {
    const { features: f, traits, unit } = this;
    if (id < 0) {
      f.fill(0, at, at + 7);
      return;
    }
    const t = id * this.stride;
    f[at] = traits[t];
    f[at + 1] = lim(traits[t + 1] - unit);
    f[at + 2] = lim(traits[t + 2] - unit);
    f[at + 3] = traits[t + 3];
    f[at + 4] = traits[t + 6];
    f[at + 5] = 16 * ((this.placeX[id] >> this.q) - x);
    f[at + 6] = 16 * ((this.placeY[id] >> this.q) - y);
  }

  /** Puts channel c where the features have their channel `slot`. */
  showColor(slot, c) {
    const at = 33 + 3 * slot;
    const there = c < this.channels;
    this.features[at] = there ? this.around[2 * c] : 0;
    this.features[at + 1] = there ? this.around[2 * c + 1] : 0;
    this.features[at + 2] = there ? lim(this.means[TRAITS + c] >> 4) : 0;
  }

  // Networks

  /** Sums of the hidden units of one network, as far as the shared features go. */
  sumShared(network) {
    const { features: f } = this;
    const { pairs } = this.networks;
    let a = 0;
    let b = 0;
    let c = 0;
    let d = 0;
    let e = 0;
    let g = 0;
    let h = 0;
    let i = 0;
    for (let j = 0, at = 8 * OWN * network; j < OWN; j++, at += 8) {
      const feature = f[j];
      a += pairs[at] * feature;
      b += pairs[at + 1] * feature;
      c += pairs[at + 2] * feature;
      d += pairs[at + 3] * feature;
      e += pairs[at + 4] * feature;
      g += pairs[at + 5] * feature;
      h += pairs[at + 6] * feature;
      i += pairs[at + 7] * feature;
    }
    const unit = network * HIDDEN;
    this.split(a, unit);
    this.split(b, unit + 2);
    this.split(c, unit + 4);
    this.split(d, unit + 6);
    this.split(e, unit + 8);
    this.split(g, unit + 10);
    this.split(h, unit + 12);
    this.split(i, unit + 14);
  }

  /** Takes the sums of two units apart. */
  split(both, unit) {
    const { shared } = this;
    const { bias } = this.networks;
    const high = Math.floor((both + PAIR / 2) / PAIR);
    shared[unit] = bias[unit] + high;
    shared[unit + 1] = bias[unit + 1] + (both - high * PAIR);
  }

  /** Sets scale and place. */
  forecast(network) {
    const { own: f, shared } = this;
    const { own, shift, outputs, outputBias, outputShift } = this.networks;
    const f0 = f[0];
    const f1 = f[1];
    const f2 = f[2];
    const f3 = f[3];
    const f4 = f[4];
    const f5 = f[5];
    let scale = outputBias[2 * network];
    let place = outputBias[2 * network + 1];
    for (let unit = network * HIDDEN, end = unit + HIDDEN; unit < end; unit++) {
      const at = 6 * unit;
      const sum =
        shared[unit] +
        Math.imul(own[at], f0) +
        Math.imul(own[at + 1], f1) +
        Math.imul(own[at + 2], f2) +
        Math.imul(own[at + 3], f3) +
        Math.imul(own[at + 4], f4) +
        Math.imul(own[at + 5], f5);
      const hidden = clamp(sum >> shift[unit], 0, 32767);
      scale += Math.imul(outputs[2 * unit], hidden);
      place += Math.imul(outputs[2 * unit + 1], hidden);
    }
    this.scale = scale >> outputShift[2 * network];
    this.place = place >> outputShift[2 * network + 1];
  }

  // Splats

  /** Reads the next splat into the row at `at`; rank: which of the packet it is, from 1. */
  readSplat(rows, at, rank) {
    const { channels } = this;
    this.look();
    for (let network = 0; network < NETWORKS; network++) this.sumShared(network);
    this.own.fill(0);
    let squares = 0;
    for (let j = 0; j < channels; j++) {
      const v = this.readColor(rows, at + 5, j);
      rows[at + 5 + j] = v;
      squares += v * v;
    }
    if (channels > 3) for (let slot = 1; slot < 3; slot++) this.showColor(slot, slot);
    const k = energyClass(squares);
    this.readShape(rows, at, k);
    this.finishSplat(rows, at, k, rank);
  }

  readColor(rows, first, j) {
    const { own } = this;
    if (j > 0) {
      own[0] = signedOf(rows[first]);
      own[1] = magnitudeOf(rows[first]);
      own[2] = signedOf(rows[first + j - 1]);
      own[3] = magnitudeOf(rows[first + j - 1]);
    }
    const network = Math.min(j, 2);
    if (j > 2) {
      this.showColor(1, j - 1);
      this.showColor(2, j);
      this.sumShared(2);
    }
    this.forecast(network);
    const z = scaleClass(this.scale);
    this.sign = clamp(this.place, -2047, 2047);
    const before = j < 2 ? Math.min(this.packet, 3) : sizeOf(rows[first]);
    const sizes = 8 * before + (j > 0 ? sizeOf(rows[first + j - 1]) : 0);
    this.priors = (network * SCALES + z) * NODES;
    this.counters = (j * SCALES + z) * NODES;
    this.signCounters = (j * SCALES + clamp((this.sign + 256) >> 6, 0, 7)) * NODES;
    this.sizes = (j * 64 + sizes) * NODES;
    this.weights = j * NODES * 3;
    return this.bits.integer(likelyLength(z), MOST_V, this.decideColor);
  }

  readShape(rows, at, k) {
    const { own, channels } = this;
    const log = STEPS_LOG[k];
    const shear = STEPS_SHEAR[k];
    const v = at + 5;
    own.fill(0);
    own[0] = 128 * k;
    own[1] = signedOf(rows[v]);
    for (let j = 1; j < Math.min(channels, 3); j++) own[1 + j] = magnitudeOf(rows[v + j]);
    const mostLog = Math.floor((20 * ONE) / log);
    rows[at + 2] = this.readParameter(3, log, mostLog, k);
    own[4] = lim((Math.imul(rows[at + 2], log) >> 8) - this.unit);
    rows[at + 4] = this.readParameter(4, log, mostLog, k);
    own[5] = lim((Math.imul(rows[at + 4], log) >> 8) - this.unit);
    rows[at + 3] = this.readParameter(5, shear, Math.floor((2 ** 31 - 1) / shear), k);
  }

  readParameter(network, step, most, k) {
    const isShear = network === 5;
    this.forecast(network);
    const logStep = Math.min(0, LOG2_UNITS[k] + (isShear ? ONE / 2 : 0)) >> 8;
    const z = scaleClass(this.scale - logStep);
    const mean = 256 * (this.place + (isShear ? 0 : this.unit));
    const below = Math.floor((mean + (step >> 1)) / step);
    const rest = mean - below * step;
    const near = clamp(below, -most, most);
    const part = Math.min(Math.floor((8 * Math.abs(rest)) / step), 3);
    const context = z < 8 ? 4 * z + part : z + 24;
    this.priors = context * NODES;
    this.counters = ((network - 3) * 48 + context) * NODES;
    const difference = this.bits.integer(likelyLength(z), 2 * most, this.decideShape);
    const index = rest < 0 ? near - difference : near + difference;
    if (index < -most || index > most) throw beyond();
    return index;
  }

  /** The bits below the cell, and what later splats may know. */
  finishSplat(rows, at, k, rank) {
    const { traits, means, channels } = this;
    const id = this.decoded++;
    const a = Math.imul(rows[at + 2], STEPS_LOG[k]);
    const c = Math.imul(rows[at + 4], STEPS_LOG[k]);
    const bitsX = refinement(a, k, this.cellExponent);
    rows[at] = (this.cellX[id] << bitsX) | this.bits.plain(bitsX);
    const bitsY = refinement(c, k, this.cellExponent);
    rows[at + 1] = (this.cellY[id] << bitsY) | this.bits.plain(bitsY);
    this.placeX[id] = sixteenths(rows[at], bitsX);
    this.placeY[id] = sixteenths(rows[at + 1], bitsY);

    const t = id * this.stride;
    traits[t] = 128 * k;
    traits[t + 1] = lim(a >> 8);
    traits[t + 2] = lim(c >> 8);
    traits[t + 3] = lim(Math.imul(rows[at + 3], STEPS_SHEAR[k]) >> 8);
    traits[t + 4] = Math.abs(traits[t + 3]);
    for (let j = 0; j < channels; j++) {
      traits[t + TRAITS + 2 * j] = magnitudeOf(rows[at + 5 + j]);
      traits[t + TRAITS + 2 * j + 1] = signedOf(rows[at + 5 + j]);
    }
    const rate = Math.min(5, 1 + floorLog2(rank));
    for (let i = 0; i < means.length; i++) {
      const trait = traits[t + (i < TRAITS ? i : 2 * i - TRAITS)];
      means[i] += (16 * trait - means[i]) >> rate;
    }
  }
}

const scaleClass = (scale) => clamp((scale + 768) >> 7, 0, SCALES - 1);
const likelyLength = (z) => Math.max(0, (z >> 1) - 2);
const sizeOf = (v) => Math.min(floorLog2(2 * (v < 0 ? -v : v) + 1), 7);
const sixteenths = (x, bits) => (bits >= 4 ? x >> (bits - 4) : (x << (4 - bits)) + (8 >> bits));

/** Splats, float32 [N * (5 + C)]: x, y, a, b, c, colour; from rows of integers. */
export function dequantize(rows, header) {
  const { channels, cellExponent } = header;
  const width = 5 + channels;
  const cell = 2 ** cellExponent;
  const t = header.qualityIndex;
  const step = Math.round(2 ** 15 * 2 ** (-(t & 15) / 16)) * 2 ** (-13 - (t >> 4));
  const splats = new Float32Array(rows.length);
  const v = new Float64Array(channels);
  for (let at = 0; at < rows.length; at += width) {
    let squares = 0;
    for (let j = 0; j < channels; j++) squares += rows[at + 5 + j] ** 2;
    const k = energyClass(squares);
    const fixedA = Math.imul(rows[at + 2], STEPS_LOG[k]);
    const fixedC = Math.imul(rows[at + 4], STEPS_LOG[k]);
    for (let i = 0; i < 2; i++) {
      const bits = refinement(i ? fixedC : fixedA, k, cellExponent);
      splats[at + i] = (rows[at + i] + 0.5) * 2 ** (cellExponent - bits) - header.margin * cell;
    }
    const a = fixedA / ONE;
    const c = fixedC / ONE;
    splats[at + 2] = a;
    splats[at + 3] = ((rows[at + 3] * STEPS_SHEAR[k]) / ONE) * Math.exp(c);
    splats[at + 4] = c;
    for (let j = 0; j < channels; j++) v[j] = rows[at + 5 + j] * step;
    setColor(splats, at + 5, v, Math.exp(-(a + c) / 2));
  }
  return splats;
}
