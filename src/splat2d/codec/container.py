"""The bytes of a .s2d file around its splats; docs/format.md, sections "Container" and "Metadata", is the norm.

Every length, count and checksum is checked here, before anything is decoded or allocated. What the payload of a packet
means is no matter of this module.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from splat2d.errors import FormatError

MAGIC = b"\x89S2D\r\n\x1a\n"  # the first byte is no text; the others show what changing line ends has damaged
MAJOR, MINOR = 1, 0
SCALAR = 1  # profile: scalars of closed-form steps, range-coded; Gaussians cut at q / 2 = 5.54
VECTOR = 2  # profile: records of fixed size; drawn as those of profile 1
PROFILES = (SCALAR, VECTOR)
SRGB, PLAIN = 0, 1  # colour spaces: sRGB unless an ICC chunk says otherwise; numbers without one
FLOAT_BACKGROUND = 0x80  # flag; the lower four bits beside it are the colour space

PACKET, TEXT, EXIF, ICC = b"P", b"t", b"e", b"i"  # types of chunks; a reader passes over small letters unknown to it

MOST_SIDE = 65535  # pixels
MOST_PIXELS = 1 << 28
MOST_CHANNELS = 255
LEAST_CELL, MOST_CELL = -4, 12  # exponents of the cell
MOST_MARGIN = 1024  # cells
MOST_CELLS = 1 << 17  # on a side, margins included
MOST_TILE = 1 << 20  # pixels
MOST_PACKETS = 16
SPLATS_PER_PIXEL, SPLATS_PER_BYTE = 4, 2  # at most; bytes of payload
FEW_SPLATS = 1024  # more than by either rule
MOST_KEY = 79  # bytes of the key of a text

_FIXED = struct.Struct("<8sBBBBBBbHH")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Header:
    """What holds for a whole file. Raises FormatError for values that no file may have.

    Files of profile VECTOR have the top magnitude for the quality index, 0 for the cell exponent, and the edge of a
    tile in pixels for the margin.
    """

    width: int  # pixels
    height: int  # pixels
    count: int  # splats
    background: tuple[float, ...]  # a value for every channel
    quality_index: int
    cell_exponent: int  # cells of 2^cell_exponent pixels
    margin: int  # cells
    profile: int = SCALAR
    color_space: int = SRGB
    minor: int = MINOR

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MOST_SIDE and 1 <= self.height <= MOST_SIDE):
            raise FormatError(f"a side must have 1 to {MOST_SIDE} pixels, got {self.width}x{self.height}")
        pixels = self.width * self.height
        if pixels > MOST_PIXELS:
            raise FormatError(f"{self.width}x{self.height} pixels are more than the {MOST_PIXELS} allowed")
        if not 1 <= self.channels <= MOST_CHANNELS:
            raise FormatError(f"the number of channels must be 1 to {MOST_CHANNELS}, got {self.channels}")
        if not 0 <= self.count <= SPLATS_PER_PIXEL * pixels + FEW_SPLATS:
            raise FormatError(f"{self.count} splats are too many for {self.width}x{self.height} pixels")
        if not 0 <= self.quality_index <= 255:
            raise FormatError(f"the quality index must be 0 to 255, got {self.quality_index}")
        if self.profile not in PROFILES:
            raise FormatError(f"has profile {self.profile}, which this version does not know; update splat2d")
        if self.profile == VECTOR:
            self._check_tiles()
        else:
            self._check_cells()
        if self.color_space not in (SRGB, PLAIN):
            raise FormatError(f"has colour space {self.color_space}, which this version does not know; update splat2d")
        if not all(abs(value) <= 3e38 for value in self.background):  # false for NaN, too
            raise FormatError("the background must be finite")

    def _check_cells(self) -> None:
        if not LEAST_CELL <= self.cell_exponent <= MOST_CELL:
            raise FormatError(f"the cell exponent must be {LEAST_CELL} to {MOST_CELL}, got {self.cell_exponent}")
        if not 0 <= self.margin <= MOST_MARGIN:
            raise FormatError(f"the margin must be 0 to {MOST_MARGIN} cells, got {self.margin}")
        most_cells = -(-max(self.width, self.height) * 16 >> 4 + self.cell_exponent) + 2 * self.margin
        if most_cells > MOST_CELLS:
            raise FormatError(f"{most_cells} cells on a side are more than the {MOST_CELLS} allowed")

    def _check_tiles(self) -> None:
        if self.cell_exponent != 0:
            raise FormatError(f"a file of profile {VECTOR} has a cell exponent of 0, got {self.cell_exponent}")
        if not 1 <= self.margin <= MOST_TILE:
            raise FormatError(f"the edge of a tile must be 1 to {MOST_TILE} pixels, got {self.margin}")

    @property
    def channels(self) -> int:
        return len(self.background)


@dataclass(frozen=True, slots=True)
class Packet:
    """Some of the splats of a file, coded."""

    count: int  # splats
    payload: bytes


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says about its picture. Nothing of it changes how the picture is drawn."""

    text: dict[str, str] = field(default_factory=dict)  # keys of 1 to 79 bytes of UTF-8
    exif: bytes = b""  # a TIFF structure, with or without the leading "Exif\0\0"
    icc: bytes = b""  # a colour profile; without one the picture is sRGB

    def __post_init__(self) -> None:
        for key, value in self.text.items():
            try:
                size = len(key.encode())
                value.encode()
            except UnicodeEncodeError:
                raise FormatError("a text of the metadata cannot be written as UTF-8") from None
            if not 1 <= size <= MOST_KEY or "\0" in key:
                raise FormatError(f"the key of a text must have 1 to {MOST_KEY} bytes, none of them 0, got {key!r}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a file after its header."""

    kind: bytes  # one letter
    size: int  # bytes on disk: type, length, body and checksum
    body: bytes


@dataclass(frozen=True, slots=True)
class Container:
    """A file, taken apart."""

    header: Header
    packets: tuple[Packet, ...]
    metadata: Metadata
    chunks: tuple[Chunk, ...]


def pack(header: Header, packets: Sequence[Packet], metadata: Metadata | None = None) -> bytes:
    """The bytes of a file. Raises FormatError where a reader would."""
    data = joined(header, packets, metadata)
    unpack(data)
    return data


def joined(header: Header, packets: Sequence[Packet], metadata: Metadata | None = None) -> bytes:
    """As pack(), without a look at whether a reader takes it."""
    parts = [_header_bytes(header)]
    parts += [_chunk_bytes(kind, body) for kind, body in _metadata_bodies(metadata or Metadata())]
    parts += [_chunk_bytes(PACKET, _varint(packet.count) + packet.payload) for packet in packets]
    return b"".join(parts)


def unpack(data: bytes, *, partial: bool = False) -> Container:
    """Takes a file apart; partial: any prefix that holds at least the header. Raises FormatError."""
    reader = _Reader(data)
    header = _read_header(reader)
    chunks: list[Chunk] = []
    packets: list[Packet] = []
    left = header.count
    while left > 0 or not packets:
        try:
            chunk = _read_chunk(reader)
        except _CutShort:
            if partial:
                return Container(header, tuple(packets), _read_metadata(chunks), tuple(chunks))
            raise
        chunks.append(chunk)
        if chunk.kind == PACKET:
            packets.append(_read_packet(chunk, left))
            left -= packets[-1].count
            if len(packets) > MOST_PACKETS:
                raise FormatError(f"has more than {MOST_PACKETS} packets")
    if reader.position != len(data):
        raise FormatError(f"has {len(data) - reader.position} bytes after its end")
    return Container(header, tuple(packets), _read_metadata(chunks), tuple(chunks))


def preamble(data: bytes) -> tuple[Header, Metadata]:
    """What stands before the first packet: enough to describe the picture. Raises FormatError."""
    reader = _Reader(data)
    header = _read_header(reader)
    chunks: list[Chunk] = []
    while data[reader.position : reader.position + 1] not in (PACKET, b""):
        chunks.append(_read_chunk(reader))
    return header, _read_metadata(chunks)


def is_critical(kind: bytes) -> bool:
    """Whether a reader that does not know this type of chunk must refuse the file."""
    return kind.isupper()


class _CutShort(FormatError):
    """The bytes end before the file does."""


class _Reader:
    """Walks through bytes and never past their end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise _CutShort(f"ends after {len(self.data)} bytes, in the middle; get a complete copy")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def varint(self) -> int:
        """An unsigned number below 2^32: seven bits a byte, lowest first, the top bit set in all bytes but the last."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 1 << 32 or (byte == 0 and shift):
                    break
                return value
        raise FormatError("holds a number of variable length that is too long")

    def check(self, start: int) -> None:
        """Reads a checksum and compares it with that of the bytes from start up to it."""
        found = zlib.crc32(memoryview(self.data)[start : self.position])
        if _CRC.unpack(self.take(4))[0] != found:
            raise FormatError("is damaged: a checksum is wrong; get another copy")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _header_bytes(header: Header) -> bytes:
    levels = [round(255 * value) for value in header.background]
    floats = struct.pack(f"<{header.channels}f", *header.background)
    # 255 levels are written as bytes where they say exactly the same.
    exact = all(0 <= level <= 255 for level in levels)
    exact = exact and struct.pack(f"<{header.channels}f", *(level / 255 for level in levels)) == floats
    start = _FIXED.pack(
        MAGIC,
        MAJOR,
        header.minor,
        header.profile,
        header.color_space | (0 if exact else FLOAT_BACKGROUND),
        header.channels,
        header.quality_index,
        header.cell_exponent,
        header.width,
        header.height,
    )
    data = start + _varint(header.margin) + _varint(header.count) + (bytes(levels) if exact else floats)
    return data + _CRC.pack(zlib.crc32(data))


def _read_header(reader: _Reader) -> Header:
    if not MAGIC.startswith(reader.data[: len(MAGIC)]) or not reader.data:
        raise FormatError("is no .s2d file")
    fixed = _FIXED.unpack(reader.take(_FIXED.size))
    _, major, minor, profile, flags, channels, quality_index, cell_exponent, width, height = fixed
    if major != MAJOR:
        raise FormatError(f"has version {major}.{minor}, known is {MAJOR}; update splat2d")
    margin, count = reader.varint(), reader.varint()
    if flags & FLOAT_BACKGROUND:
        background = struct.unpack(f"<{channels}f", reader.take(4 * channels))
    else:  # float32 as everywhere, so that all readers agree to the bit
        background = struct.unpack(
            f"<{channels}f", struct.pack(f"<{channels}f", *(level / 255 for level in reader.take(channels)))
        )
    reader.check(0)
    return Header(
        width=width,
        height=height,
        count=count,
        background=background,
        quality_index=quality_index,
        cell_exponent=cell_exponent,
        margin=margin,
        profile=profile,
        color_space=flags & ~FLOAT_BACKGROUND,
        minor=minor,
    )


def _chunk_bytes(kind: bytes, body: bytes) -> bytes:
    data = kind + _varint(len(body)) + body
    return data + _CRC.pack(zlib.crc32(data))


def _read_chunk(reader: _Reader) -> Chunk:
    start = reader.position
    kind = reader.take(1)
    body = reader.take(reader.varint())
    reader.check(start)
    if not kind.isalpha():
        raise FormatError(f"holds a chunk of type {kind[0]}, which is no letter")
    if is_critical(kind) and kind != PACKET:
        raise FormatError(f'holds a chunk "{kind.decode()}", which this version does not know; update splat2d')
    return Chunk(kind, reader.position - start, body)


def _read_packet(chunk: Chunk, left: int) -> Packet:
    """left: splats that are still to come."""
    reader = _Reader(chunk.body)
    try:
        count = reader.varint()
    except _CutShort:
        raise FormatError("holds a packet without a count") from None
    payload = chunk.body[reader.position :]
    if count > left or (count == 0 and left > 0):
        raise FormatError(f"holds a packet of {count} splats where {left} are left")
    if count > SPLATS_PER_BYTE * len(payload) + FEW_SPLATS:
        raise FormatError(f"holds a packet of {count} splats in {len(payload)} bytes; so few hold less")
    return Packet(count, payload)


def _metadata_bodies(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    bodies = [(ICC, metadata.icc), (EXIF, metadata.exif)]
    texts = [(TEXT, key.encode() + b"\0" + value.encode()) for key, value in metadata.text.items()]
    return [(kind, body) for kind, body in bodies if body] + texts


def _read_metadata(chunks: Sequence[Chunk]) -> Metadata:
    text: dict[str, str] = {}
    single = {EXIF: b"", ICC: b""}
    for chunk in chunks:
        if chunk.kind == TEXT:
            key, value = _read_text(chunk.body)
            if key in text:
                raise FormatError(f'holds two texts "{key}"')
            text[key] = value
        elif chunk.kind in single:
            if single[chunk.kind] or not chunk.body:
                raise FormatError(f'holds a chunk "{chunk.kind.decode()}" that is empty or there twice')
            single[chunk.kind] = chunk.body
    return Metadata(text, single[EXIF], single[ICC])


def _read_text(body: bytes) -> tuple[str, str]:
    key, separator, value = body.partition(b"\0")
    if not separator:
        raise FormatError("holds a text without a key")
    try:
        return key.decode(), value.decode()
    except UnicodeDecodeError:
        raise FormatError("holds a text that is not UTF-8") from None
