"""From splats to records of fixed size and back; docs/format.md, section "Vector profile", is the norm.

A record stands alone: a place within a tile, a size, a form out of a codebook that all files share, and a colour of
logarithmic magnitude. No entropy coding: what a table of tiles and the number of a splat say is where its bytes are.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splat2d.codec.container import MOST_TILE
from splat2d.codec.quantizer import transform
from splat2d.errors import FormatError
from splat2d.splats import Splats

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]

SPLATS_PER_TILE = 64  # about: a tile is 8 x 8 mean distances of splats
PLACE_BITS, FORM_BITS, SIZE_BITS = 8, 13, 5  # a coordinate in its tile; form and its mirror image; size
SIZES_PER_OCTAVE, MIDDLE_SIZE = 4, 16  # the middle one is the mean distance of splats
MIDDLE_TOP, TOPS_PER_OCTAVE = 128, 8  # of the largest magnitude: the middle one is 1

FORMS, DIRECTIONS = 4096, 128
CODEBOOK = Path(__file__).parent / "data" / "codebook1.bin"  # written by benchmarks/train_codebook.py
CODEBOOK_CRC = 0x00A6DBD9
ASPECT_UNIT, SHEAR_UNIT, DIRECTION_UNIT = 4096, 1024, 32767

_CHUNK = 512  # splats that are compared with all forms at a time


@dataclass(frozen=True, slots=True)
class Codebook:
    """Forms and directions of colour, as mean squared errors over photos want them."""

    aspects: Doubles  # [FORMS] (a - c) / 2
    shears: Doubles  # [FORMS] beta, >= 0; the mirror image of a form has -beta
    directions: Doubles  # [DIRECTIONS, 3] of v, unit length; every one stands for its opposite, too


@dataclass(frozen=True, slots=True)
class Frame:
    """What the records of a file share."""

    width: int  # pixels
    height: int
    channels: int
    tile: int  # edge in pixels, an eighth of which is the middle size of splats
    top: int  # 0..255: 2^((top - 128) / 8) is the largest magnitude of v

    @property
    def margin(self) -> int:
        """Pixels around the canvas that the tiles cover as well."""
        return self.tile // 4

    @property
    def columns(self) -> int:
        return -(-(self.width + 2 * self.margin) // self.tile)

    @property
    def rows(self) -> int:
        return -(-(self.height + 2 * self.margin) // self.tile)


@dataclass(frozen=True, slots=True)
class Records:
    """Splats as integers."""

    codes: Integers  # [N, 4 + colour codes]: x, y in 256ths of a tile from the corner of all tiles; form; size; colour
    frame: Frame


@dataclass(frozen=True, slots=True)
class _Magnitude:
    """Codes of a magnitude: 0 is nothing, the last one the largest."""

    bits: int
    per_octave: int

    def encode(self, magnitudes: Doubles, top: int) -> Integers:
        last = (1 << self.bits) - 1
        logs = np.log2(np.maximum(magnitudes, 1e-300)) - (top - MIDDLE_TOP) / TOPS_PER_OCTAVE
        codes = np.rint(last + self.per_octave * logs)
        return np.clip(codes, 0, last).astype(np.int64)

    def decode(self, codes: Integers, top: int) -> Doubles:
        last = (1 << self.bits) - 1
        logs = (codes - last) / self.per_octave + (top - MIDDLE_TOP) / TOPS_PER_OCTAVE
        return np.where(codes > 0, 2.0**logs, 0.0)


_GREY, _VECTOR, _PLAIN = _Magnitude(5, 4), _Magnitude(6, 8), _Magnitude(7, 8)


def field_bits(channels: int) -> list[int]:
    """Bits of the fields of a record, in their order: x, y, form, size, colour."""
    if channels == 1:
        color = [1, _GREY.bits]
    elif channels in (3, 4):
        color = [8, _VECTOR.bits] + [1, _PLAIN.bits] * (channels - 3)
    else:
        color = [1, _PLAIN.bits] * channels
    return [PLACE_BITS, PLACE_BITS, FORM_BITS, SIZE_BITS, *color]


def record_size(channels: int) -> int:
    """Bytes of a record."""
    return -(-sum(field_bits(channels)) // 8)


def payload_size(frame: Frame, count: int) -> int:
    """Bytes of a packet of so many splats, without its count."""
    return frame.columns * frame.rows * _table_type(count).itemsize + count * record_size(frame.channels)


def tile_for(width: int, height: int, count: int) -> int:
    """The edge of a tile for so many splats."""
    return min(max(1, round(math.sqrt(SPLATS_PER_TILE * width * height / max(1, count)))), MOST_TILE)


def frame_for(splats: Splats, tile: int | None = None) -> Frame:
    """A frame that suits splats, with this edge of a tile; None: as they came, if they are as a decoder gave them."""
    largest = float(_magnitudes(splats).max(initial=0.0))
    top = MIDDLE_TOP + (round(TOPS_PER_OCTAVE * math.log2(largest)) if largest > 0 else 0)
    tile = tile or _tile_that_keeps(splats) or tile_for(splats.width, splats.height, len(splats))
    return Frame(splats.width, splats.height, splats.channels, tile, min(max(top, 0), 255))


def quantize(splats: Splats, frame: Frame) -> tuple[Records, Integers]:
    """Rounds splats, and tells which of them are left: those whose colour does not round to nothing.

    What dequantize() gave comes back unchanged with the same frame.
    """
    a, b, c = splats.log_cholesky.astype(np.float64).T
    v = np.exp((a + c) / 2)[:, None] * (splats.colors @ transform(splats.channels).T)
    size = np.rint(SIZES_PER_OCTAVE * ((a + c) / 2 / math.log(2) - _log_spacing(frame)))
    size = np.clip(size + MIDDLE_SIZE, 0, (1 << SIZE_BITS) - 1).astype(np.int64)
    form = nearest_forms((a - c) / 2, b * np.exp(-c), codebook())
    a, b, c = _shape(form, size, frame)

    # y follows the ridge to where the rounding of x has moved the splat.
    x, y = splats.means.astype(np.float64).T
    step = frame.tile / (1 << PLACE_BITS)
    index_x = _place(x, frame, frame.columns)
    moved = (index_x + 0.5) * step - frame.margin - x
    index_y = _place(y + b * np.exp(-a) * moved, frame, frame.rows)
    color = _color_codes(v, frame.top)
    codes = np.column_stack([index_x, index_y, form, size, color]).astype(np.int64)
    kept = np.flatnonzero(_colors(color, splats.channels, frame.top).any(1))
    return Records(codes[kept], frame), kept


def dequantize(records: Records, background: NDArray[np.float32]) -> Splats:
    """The splats that a decoder gives back."""
    frame = records.frame
    x, y, form, size = records.codes[:, :4].T
    a, b, c = _shape(form, size, frame)
    v = _colors(records.codes[:, 4:], frame.channels, frame.top)
    colors = np.exp(-(a + c) / 2)[:, None] * (v @ transform(frame.channels))
    step = frame.tile / (1 << PLACE_BITS)
    means = (np.column_stack([x, y]) + 0.5) * step - frame.margin
    return Splats(
        means.astype(np.float32),
        np.column_stack([a, b, c]).astype(np.float32),
        np.ascontiguousarray(colors, dtype=np.float32),
        frame.width,
        frame.height,
        np.asarray(background, np.float32),
    )


def energies(records: Records) -> Doubles:
    """|v|^2 of every record. [N]"""
    v = _colors(records.codes[:, 4:], records.frame.channels, records.frame.top)
    squares: Doubles = (v**2).sum(1)
    return squares


def payload(records: Records) -> bytes:
    """Where the records of each tile end, then the records, tile by tile."""
    frame, codes = records.frame, records.codes
    tile = (codes[:, 1] >> PLACE_BITS) * frame.columns + (codes[:, 0] >> PLACE_BITS)
    order = np.lexsort([*codes[:, ::-1].T, tile])
    ends = np.cumsum(np.bincount(tile, minlength=frame.columns * frame.rows))
    fields = codes[order].copy()
    fields[:, :2] &= (1 << PLACE_BITS) - 1
    return ends.astype(_table_type(len(codes))).tobytes() + _pack(fields, field_bits(frame.channels)).tobytes()


def parse(payloads: Sequence[tuple[int, bytes]], frame: Frame) -> Records:
    """The records of packets, given as counts and payloads. Raises FormatError."""
    parts = [_parse_packet(count, data, frame) for count, data in payloads]
    empty = np.zeros((0, len(field_bits(frame.channels))), np.int64)
    return Records(np.concatenate([empty, *parts]), frame)


@cache
def codebook() -> Codebook:
    """What all files share."""
    data = CODEBOOK.read_bytes()
    assert zlib.crc32(data) == CODEBOOK_CRC, "the codebook belongs to another version"
    numbers = np.frombuffer(data, "<i2").astype(np.float64)
    forms, directions = numbers[: 2 * FORMS].reshape(2, FORMS), numbers[2 * FORMS :].reshape(DIRECTIONS, 3)
    return Codebook(
        forms[0] / ASPECT_UNIT,
        forms[1] / SHEAR_UNIT,
        directions / np.linalg.norm(directions, axis=1, keepdims=True),
    )


def nearest_forms(aspects: Doubles, shears: Doubles, book: Codebook) -> Integers:
    """Codes of the forms that overlap most with those of these splats. [N]

    The overlap of two Gaussians of unit determinant and equal energy is 2 / sqrt(2 + d), where d, of their covariances
    S and T, is trace(S adj T): linear in T. So one product of matrices finds the closest of all forms.
    """
    covariances = unit_covariances(aspects, np.abs(shears))
    forms = unit_covariances(book.aspects, book.shears)
    against = np.column_stack([forms[:, 2], -2 * forms[:, 1], forms[:, 0]]).T
    found = [np.argmin(part @ against, axis=1) for part in _chunks(covariances)]
    codes: Integers = np.concatenate([np.zeros(0, np.int64), *found])
    return codes | (shears < 0).astype(np.int64) << (FORM_BITS - 1)


def nearest_directions(v: Doubles, directions: Doubles) -> Integers:
    """Which of the directions, or its opposite, is closest to every v. [N]"""
    found: Integers = np.argmax(np.abs(v @ directions.T), axis=1)
    return found


def unit_covariances(aspects: Doubles, shears: Doubles) -> Doubles:
    """xx, xy, yy of covariances of unit determinant, a = aspect = -c. [N, 3]"""
    aspects, shears = np.clip(aspects, -20, 20), np.clip(shears, -1e9, 1e9)
    return np.column_stack([np.exp(2 * aspects), shears, (1 + shears**2) * np.exp(-2 * aspects)])


def _chunks(rows: Doubles) -> list[Doubles]:
    return [rows[first : first + _CHUNK] for first in range(0, len(rows), _CHUNK)]


def _log_spacing(frame: Frame) -> float:
    return math.log2(frame.tile / math.sqrt(SPLATS_PER_TILE))


def _shape(form: Integers, size: Integers, frame: Frame) -> tuple[Doubles, Doubles, Doubles]:
    """a, b, c"""
    book = codebook()
    entry = form & (FORMS - 1)
    middle = math.log(2) * (_log_spacing(frame) + (size - MIDDLE_SIZE) / SIZES_PER_OCTAVE)
    a, c = middle + book.aspects[entry], middle - book.aspects[entry]
    return a, np.where(form < FORMS, 1, -1) * book.shears[entry] * np.exp(c), c


def _place(x: Doubles, frame: Frame, tiles: int) -> Integers:
    index = np.floor((x + frame.margin) * (1 << PLACE_BITS) / frame.tile)
    return np.clip(index, 0, (tiles << PLACE_BITS) - 1).astype(np.int64)


def _color_codes(v: Doubles, top: int) -> Integers:
    """[N, colour codes]"""
    channels = v.shape[1]
    if channels in (3, 4):
        directions = codebook().directions
        nearest = nearest_directions(v[:, :3], directions)
        along = (v[:, :3] * directions[nearest]).sum(1)
        rgb = [nearest | (along < 0).astype(np.int64) << 7, _VECTOR.encode(np.abs(along), top)]
        return np.column_stack([*rgb, _signed_codes(v[:, 3:], _PLAIN, top)])
    return _signed_codes(v, _GREY if channels == 1 else _PLAIN, top)


def _colors(codes: Integers, channels: int, top: int) -> Doubles:
    """v. [N, C]"""
    if channels in (3, 4):
        sign = np.where(codes[:, 0] < DIRECTIONS, 1.0, -1.0)
        along = sign * _VECTOR.decode(codes[:, 1], top)
        rgb = along[:, None] * codebook().directions[codes[:, 0] & (DIRECTIONS - 1)]
        return np.column_stack([rgb, _signed(codes[:, 2:], _PLAIN, top)])
    return _signed(codes, _GREY if channels == 1 else _PLAIN, top)


def _signed_codes(v: Doubles, magnitude: _Magnitude, top: int) -> Integers:
    """Sign and magnitude of every component. [N, 2 C]"""
    codes = magnitude.encode(np.abs(v), top)
    return np.stack([((v < 0) & (codes > 0)).astype(np.int64), codes], axis=2).reshape(len(v), 2 * v.shape[1])


def _signed(codes: Integers, magnitude: _Magnitude, top: int) -> Doubles:
    found: Doubles = np.where(codes[:, 0::2] > 0, -1.0, 1.0) * magnitude.decode(codes[:, 1::2], top)
    return found


def _magnitudes(splats: Splats) -> Doubles:
    """The largest magnitude that a code has to hold, of every splat. [N]"""
    a, _, c = splats.log_cholesky.astype(np.float64).T
    v = np.exp((a + c) / 2)[:, None] * (splats.colors @ transform(splats.channels).T)
    if splats.channels in (3, 4):
        v = np.column_stack([np.linalg.norm(v[:, :3], axis=1), v[:, 3:]])
    found: Doubles = np.abs(v).max(1)
    return found


def _tile_that_keeps(splats: Splats) -> int | None:
    """The edge of a tile on whose lattice the means are, if there is one and it is not far from what suits them."""
    if not len(splats):
        return None
    usual = tile_for(splats.width, splats.height, len(splats))
    tiles = np.arange(max(1, usual // 2), min(2 * usual, usual + 4096) + 1)
    few = splats.means[:: max(1, len(splats) // 16)].astype(np.float64).ravel()
    places = (few[:, None] + tiles // 4) * (1 << PLACE_BITS) / tiles - 0.5
    off = np.abs(places - np.rint(places)).max(0)
    return int(tiles[np.argmin(off)]) if off.min() < 0.02 else None


def _table_type(count: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype("<u2") if count < 1 << 16 else np.dtype("<u4")


def _pack(fields: Integers, bits: list[int]) -> NDArray[np.uint8]:
    """Records, bytes [N, R]: field after field from the lowest bit of the first byte up."""
    columns = [(fields[:, [i]] >> np.arange(size)) & 1 for i, size in enumerate(bits)]
    return np.packbits(np.hstack(columns).astype(np.uint8), axis=1, bitorder="little")


def _unpack(records: NDArray[np.uint8], bits: list[int]) -> Integers:
    """The fields of records, and what is left in their last bytes. [N, fields + 1]"""
    spread = np.unpackbits(records, axis=1, bitorder="little").astype(np.int64)
    ends = np.cumsum([0, *bits]).tolist()
    bounds = [*ends, spread.shape[1]]
    parts = [spread[:, start:end] for start, end in pairwise(bounds)]
    return np.column_stack([(part << np.arange(part.shape[1])).sum(1) for part in parts])


def _parse_packet(count: int, data: bytes, frame: Frame) -> Integers:
    if len(data) != payload_size(frame, count):
        raise FormatError(f"holds a packet of {count} splats in {len(data)} bytes, not {payload_size(frame, count)}")
    kind = _table_type(count)
    tiles = frame.columns * frame.rows
    ends = np.frombuffer(data, kind, tiles).astype(np.int64)
    counts = np.diff(ends, prepend=0)
    if counts.min() < 0 or ends[-1] != count:
        raise FormatError("holds a packet whose tiles do not follow each other")
    size = record_size(frame.channels)
    bytes_ = np.frombuffer(data, np.uint8, count * size, tiles * kind.itemsize).reshape(count, size)
    fields = _unpack(bytes_, field_bits(frame.channels))
    if fields[:, -1].any():
        raise FormatError("holds a record with bits beyond its fields")
    tile = np.repeat(np.arange(tiles), counts)
    fields[:, 0] += tile % frame.columns << PLACE_BITS
    fields[:, 1] += tile // frame.columns << PLACE_BITS
    return fields[:, :-1]
