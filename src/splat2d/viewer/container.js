// The bytes of a .s2d file around its splats: docs/format.md, sections "Container" to "Metadata".
// Lengths, counts and checksums are checked here, before anything is decoded or allocated.

export const SCALAR = 1;
export const VECTOR = 2;

const MAGIC = [0x89, 0x53, 0x32, 0x44, 0x0d, 0x0a, 0x1a, 0x0a];
const MAJOR = 1;
const MOST_PIXELS = 2 ** 28;
const MOST_CELLS = 131072;
const MOST_MARGIN = 1024;
const MOST_TILE = 1048576;
const MOST_PACKETS = 16;
const MOST_KEY = 79;
const FIXED = 19; // bytes of the header before its numbers of variable length

/** Bytes that are no valid .s2d file. The message continues the name of the file: "is damaged ...". */
export class FormatError extends Error {}

/** The bytes so far end before what is being read. */
class CutShort extends FormatError {
  constructor(size) {
    super(`ends after ${size} bytes, in the middle; get a complete copy`);
  }
}

const CRC_TABLE = Int32Array.from({ length: 256 }, (_, n) => {
  for (let i = 0; i < 8; i++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

export function crc32(bytes, start, end) {
  let crc = -1;
  for (let i = start; i < end; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return (crc ^ -1) >>> 0;
}

/** Walks through bytes and never past their end. */
class Reader {
  constructor(bytes, position = 0) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.position = position;
  }

  /** Where the next `size` bytes begin, which are passed. */
  take(size) {
    const start = this.position;
    if (start + size > this.bytes.length) throw new CutShort(this.bytes.length);
    this.position += size;
    return start;
  }

  byte() {
    return this.bytes[this.take(1)];
  }

  varint() {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.byte();
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) {
        if (value >= 2 ** 32 || (byte === 0 && shift > 0)) break;
        return value;
      }
    }
    throw new FormatError("holds a number of variable length that is too long");
  }

  /** Reads a checksum and compares it with that of the bytes from start up to it. */
  check(start) {
    const found = crc32(this.bytes, start, this.position);
    if (this.view.getUint32(this.take(4), true) !== found)
      throw new FormatError("is damaged: a checksum is wrong; get another copy");
  }
}

function readHeader(reader) {
  const { bytes, view } = reader;
  if (MAGIC.some((value, i) => i < bytes.length && bytes[i] !== value)) throw new FormatError("is no .s2d file");
  reader.take(FIXED);
  const flags = bytes[11];
  const header = {
    minor: bytes[9],
    profile: bytes[10],
    colorSpace: flags & 127,
    channels: bytes[12],
    qualityIndex: bytes[13],
    cellExponent: view.getInt8(14),
    width: view.getUint16(15, true),
    height: view.getUint16(17, true),
  };
  if (bytes[8] !== MAJOR)
    throw new FormatError(`has version ${bytes[8]}.${header.minor}, known is ${MAJOR}; update splat2d`);
  header.margin = reader.varint();
  header.count = reader.varint();
  const { channels } = header;
  if (flags & 128) {
    const start = reader.take(4 * channels);
    header.background = Float32Array.from({ length: channels }, (_, i) => view.getFloat32(start + 4 * i, true));
  } else {
    const start = reader.take(channels);
    header.background = Float32Array.from(bytes.subarray(start, start + channels), (level) => level / 255);
  }
  reader.check(0);
  checkHeader(header);
  return header;
}

function checkHeader(header) {
  const { width, height, channels, count, profile } = header;
  const refuse = (message) => {
    throw new FormatError(message);
  };
  if (width < 1 || height < 1) refuse(`has a picture of ${width} × ${height} pixels, which is none`);
  if (width * height > MOST_PIXELS) refuse(`has ${width} × ${height} pixels, more than the ${MOST_PIXELS} allowed`);
  if (channels < 1) refuse("has no channels");
  if (count > 4 * width * height + 1024) refuse(`has ${count} splats, too many for ${width} × ${height} pixels`);
  if (profile !== SCALAR && profile !== VECTOR)
    refuse(`has profile ${profile}, which this version does not know; update splat2d`);
  if (profile === VECTOR) {
    if (header.cellExponent !== 0) refuse(`has a cell exponent of ${header.cellExponent}, where 0 is due`);
    if (header.margin < 1 || header.margin > MOST_TILE)
      refuse(`has tiles of ${header.margin} pixels; 1 to ${MOST_TILE} are allowed`);
  } else {
    if (header.cellExponent < -4 || header.cellExponent > 12)
      refuse(`has a cell exponent of ${header.cellExponent}; -4 to 12 are allowed`);
    if (header.margin > MOST_MARGIN) refuse(`has a margin of ${header.margin} cells; ${MOST_MARGIN} are allowed`);
    const cells = gridSide(Math.max(width, height), header);
    if (cells > MOST_CELLS) refuse(`has ${cells} cells on a side, more than the ${MOST_CELLS} allowed`);
  }
  if (header.colorSpace > 1)
    refuse(`has colour space ${header.colorSpace}, which this version does not know; update splat2d`);
  if (!header.background.every((value) => Math.abs(value) <= 3e38)) refuse("has a background that is not finite");
}

/** Cells on a side of so many pixels, margins included. */
export function gridSide(pixels, header) {
  return Math.ceil(pixels * 2 ** -header.cellExponent) + 2 * header.margin;
}

/** Takes a file apart as its bytes come in. */
export class Container {
  constructor() {
    this.header = null;
    this.metadata = { text: new Map(), exif: null, icc: null };
    this.bytes = new Uint8Array(0);
    this.size = 0; // bytes so far
    this.position = 0; // bytes understood
    this.packets = 0;
    this.left = 0; // splats still to come
    this.complete = false;
  }

  /** Takes the next bytes and gives the packets that they complete, {count, payload} each. */
  push(bytes) {
    this.append(bytes);
    const found = [];
    const data = this.bytes.subarray(0, this.size);
    try {
      if (!this.header) {
        const reader = new Reader(data);
        this.header = readHeader(reader);
        this.left = this.header.count;
        this.position = reader.position;
      }
      while (!this.complete) {
        const reader = new Reader(data, this.position);
        const packet = this.readChunk(reader);
        this.position = reader.position;
        if (packet) found.push(packet);
      }
    } catch (error) {
      if (!(error instanceof CutShort)) throw error;
    }
    if (this.complete && this.position < this.size)
      throw new FormatError(`has ${this.size - this.position} bytes after its end`);
    return found;
  }

  /** No more bytes come. */
  end() {
    if (!this.size) throw new FormatError("is no .s2d file: it is empty");
    if (!this.complete) throw new CutShort(this.size);
  }

  append(bytes) {
    if (this.size + bytes.length > this.bytes.length) {
      const larger = new Uint8Array(Math.max(this.size + bytes.length, 2 * this.bytes.length));
      larger.set(this.bytes.subarray(0, this.size));
      this.bytes = larger;
    }
    this.bytes.set(bytes, this.size);
    this.size += bytes.length;
  }

  /** Passes over one chunk; gives its packet if it is one. */
  readChunk(reader) {
    const start = reader.position;
    const kind = String.fromCharCode(reader.byte());
    const size = reader.varint();
    const first = reader.take(size);
    reader.check(start);
    const body = reader.bytes.slice(first, first + size);
    if (!/[A-Za-z]/.test(kind))
      throw new FormatError(`holds a chunk of type ${kind.charCodeAt(0)}, which is no letter`);
    if (kind === "P") return this.readPacket(body);
    if (kind < "a") throw new FormatError(`holds a chunk "${kind}", which this version does not know; update splat2d`);
    this.readMetadata(kind, body);
    return null;
  }

  readPacket(body) {
    const reader = new Reader(body);
    let count = 0;
    try {
      count = reader.varint();
    } catch (error) {
      if (error instanceof CutShort) throw new FormatError("holds a packet without a count");
      throw error;
    }
    const payload = body.subarray(reader.position);
    if (count > this.left || (count === 0 && this.left > 0))
      throw new FormatError(`holds a packet of ${count} splats where ${this.left} are left`);
    if (count > 2 * payload.length + 1024)
      throw new FormatError(`holds a packet of ${count} splats in ${payload.length} bytes; so few hold less`);
    if (++this.packets > MOST_PACKETS) throw new FormatError(`has more than ${MOST_PACKETS} packets`);
    this.left -= count;
    this.complete = this.left === 0;
    return { count, payload };
  }

  readMetadata(kind, body) {
    const { text } = this.metadata;
    if (kind === "t") {
      const [key, value] = readText(body);
      if (text.has(key)) throw new FormatError(`holds two texts "${key}"`);
      text.set(key, value);
    } else if (kind === "e" || kind === "i") {
      const name = kind === "e" ? "exif" : "icc";
      if (this.metadata[name] || body.length === 0)
        throw new FormatError(`holds a chunk "${kind}" that is empty or there twice`);
      this.metadata[name] = body;
    }
  }
}

function readText(body) {
  const end = body.indexOf(0);
  if (end < 0) throw new FormatError("holds a text without a key");
  if (end < 1 || end > MOST_KEY) throw new FormatError(`holds a text whose key has ${end} bytes, not 1 to ${MOST_KEY}`);
  try {
    const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return [utf8.decode(body.subarray(0, end)), utf8.decode(body.subarray(end + 1))];
  } catch {
    throw new FormatError("holds a text that is not UTF-8");
  }
}

/** Bytes of a text in base64. */
export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
