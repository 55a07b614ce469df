// .s2d bytes -> splats, packet by packet: docs/format.md.

import { Container, FormatError, VECTOR } from "./container.js";
import { PacketDecoder, dequantize } from "./packets.js";
import { RecordDecoder, dequantizeRecords } from "./records.js";

const REACH = Math.sqrt(2 * 5.54); // standard deviations to the cut-off

/** Decodes a file as its bytes come in. */
export class Decoder {
  constructor() {
    this.container = new Container();
    this.packets = null;
    this.integers = []; // of each packet
    this.splats = []; // of each packet, float32 [count * (5 + C)]
    this.covered = 0; // pixels that the splats cover
  }

  get header() {
    return this.container.header;
  }

  /**
   * Takes the next bytes. Calls decoded(left) after each packet that they complete; left: bytes of packets that are
   * there and not decoded yet. Raises FormatError.
   */
  push(bytes, decoded = () => {}) {
    const found = this.container.push(bytes);
    let left = found.reduce((sum, { payload }) => sum + payload.length, 0);
    for (const { payload, count } of found) {
      const isVector = this.header.profile === VECTOR;
      this.packets ??= isVector ? new RecordDecoder(this.header) : new PacketDecoder(this.header);
      const integers = this.packets.decode(payload, count);
      const splats = isVector ? dequantizeRecords(integers, this.header) : dequantize(integers, this.header);
      this.checkArea(splats);
      this.integers.push(integers);
      this.splats.push(splats);
      left -= payload.length;
      decoded(left);
    }
  }

  /** No more bytes come. Raises FormatError if some are missing. */
  end() {
    this.container.end();
  }

  /** No file may take unbounded time to draw. */
  checkArea(splats) {
    const { width, height, channels } = this.header;
    for (let at = 0; at < splats.length; at += 5 + channels) {
      const a = splats[at + 2];
      const b = splats[at + 3];
      const c = splats[at + 4];
      const w = inside(splats[at], REACH * Math.exp(a), width);
      const h = inside(splats[at + 1], REACH * Math.sqrt(b * b + Math.exp(2 * c)), height);
      this.covered += Math.min((w + 1) * (h + 1), Math.PI * REACH ** 2 * Math.exp(a + c) + w + h + 1);
    }
    if (this.covered > 1024 * width * height + 2 ** 24)
      throw new FormatError("holds splats that cover more pixels than a picture of its size may take");
  }
}

/** How much of center +- half lies in 0..size. */
function inside(center, half, size) {
  return Math.min(Math.max(center + half, 0), size) - Math.min(Math.max(center - half, 0), size);
}

/** Splats of all packets, the most important first: those of the largest energy |v|^2 = |colour|^2 e^(a + c). */
export function byImportance(parts, channels) {
  const width = 5 + channels;
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let end = 0;
  for (const part of parts) {
    all.set(part, end);
    end += part.length;
  }
  const count = all.length / width;
  const energies = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    let squares = 0;
    for (let j = 0; j < channels; j++) squares += all[i * width + 5 + j] ** 2;
    energies[i] = squares * Math.exp(all[i * width + 2] + all[i * width + 4]);
  }
  const order = Uint32Array.from({ length: count }, (_, i) => i).sort((i, j) => energies[j] - energies[i] || i - j);
  const sorted = new Float32Array(all.length);
  for (let i = 0, to = 0; i < count; i++)
    for (let j = 0, from = order[i] * width; j < width; j++) sorted[to++] = all[from++];
  return sorted;
}
