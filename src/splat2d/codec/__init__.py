"""Splats <-> the bytes of a .s2d file; docs/format.md is the norm.

quantizer: splats <-> integers. _cpu: integers <-> payloads of packets. container: payloads <-> the bytes of a file.
In the vector profile, the module vector takes the place of the first two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from splat2d import _cpu
from splat2d.codec import container, vector
from splat2d.codec.container import Container, Header, Packet
from splat2d.codec.container import Metadata as Metadata  # part of the interface
from splat2d.codec.quantizer import QUALITY_INDICES, Lattice, Quantized, dequantize, quantize, step_of, transform
from splat2d.config import Profile
from splat2d.errors import FormatError, InputError
from splat2d.splats import Splats

# A quality of 0 to 100 is the quality index COARSEST + PER_QUALITY * quality.
COARSEST, PER_QUALITY = 32, 1.28

# The default for splats that no decoder gave: DEFAULT_INDEX - DEFAULT_SLOPE * log2(median of |v|). On this line, the
# decoded splats of a fit are 0.3 dB further from the photo (0.1 to 0.8; benchmarks/quantization.py).
DEFAULT_INDEX, DEFAULT_SLOPE = 91.0, 22.0

# Every packet makes the splats GROWTH times as many; the first has at least FIRST_PACKET of them.
MOST_PACKETS, GROWTH, FIRST_PACKET = 4, 4, 256

# A file of records has two packets, the first of a fourth of the splats, if it has so many.
MANY_RECORDS = 1024

# A picture may take so many evaluations of a splat at a pixel: EVALUATIONS_PER_PIXEL * pixels + FEW_EVALUATIONS.
EVALUATIONS_PER_PIXEL, FEW_EVALUATIONS = 1024, 1 << 24

_LIMITS = np.array([[-20, -1e9, -20], [20, 1e9, 20]], np.float32)  # of a, b, c, as docs/conventions.md has them


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a file holds."""

    splats: Splats
    quantized: Quantized | vector.Records  # the same as integers
    container: Container
    bits: tuple[float, float, float, float]  # of the packets, for: cells of positions, refinement, shape, colour


def encode(
    splats: Splats,
    *,
    quality: float | None = None,
    metadata: Metadata | None = None,
    profile: Profile = "scalar",
) -> bytes:
    """The bytes of a .s2d file of these splats. Raises InputError.

    quality: 0 (coarse, small) to 100 (fine). None: splats as decode() gave them are written without further loss; for
    any others it follows from their energy, and costs a fit that knew nothing of the codec some tenths of a dB.
    Encoding decoded splats again at the same quality gives the same splats. Splats too faint to count are left out.
    profile: vector is of one quality only; 5 to 7 bytes a splat, which a GPU reads without decoding.
    """
    if profile == "vector" and quality is not None:
        raise InputError("encode: splats of the vector profile are of one precision; leave quality out")
    # Beyond these limits no kernel tells splats apart.
    splats = replace(splats, log_cholesky=np.clip(splats.log_cholesky, *_LIMITS))
    try:
        if profile == "vector":
            return write_records(vector.quantize(splats, vector.frame_for(splats))[0], splats.background, metadata)
        index = default_index(splats) if quality is None else quality_index(quality)
        return write(quantize(splats, index)[0], splats.background, metadata)
    except FormatError as error:
        raise InputError(f"encode: {error}") from error


def decode(data: bytes, *, partial: bool = False) -> Splats:
    """The splats of a .s2d file. Raises FormatError, and nothing else, for bytes that are no such file.

    partial: take any beginning of a file that holds at least its header, and give the splats of the packets that are
    whole; the most important ones come first.
    """
    return read(data, partial=partial).splats


def read_metadata(data: bytes) -> Metadata:
    """What a .s2d file says about its picture. Raises FormatError."""
    return container.unpack(bytes(data)).metadata


def read(data: bytes, *, partial: bool = False) -> Contents:
    """As decode(), with all else that the file holds. Raises FormatError."""
    parts = container.unpack(bytes(data), partial=partial)
    header = parts.header
    if header.profile == container.VECTOR:
        return _read_records(parts)
    lattice = Lattice(header.width, header.height, header.cell_exponent, header.margin)
    try:
        indices, bits = _cpu.decode_packets(
            [packet.payload for packet in parts.packets],
            [packet.count for packet in parts.packets],
            header.channels,
            **_geometry(lattice),
        )
    except ValueError as error:
        raise FormatError(str(error)) from error
    quantized = Quantized(indices, header.quality_index, lattice)
    splats = dequantize(quantized, np.array(header.background, np.float32))
    _check_footprint(splats)
    cells, refinement, shape, colour = bits.tolist()
    return Contents(splats, quantized, parts, (cells, refinement, shape, colour))


def write(quantized: Quantized, background: NDArray[np.float32], metadata: Metadata | None = None) -> bytes:
    """The bytes of a .s2d file of splats that are integers already. Raises FormatError where a reader would."""
    _check_footprint(dequantize(quantized, background))
    return container.pack(*_coded(quantized, background), metadata)


def size(quantized: Quantized, background: NDArray[np.float32], metadata: Metadata | None = None) -> int:
    """How many bytes write() gives, without its checks. Raises FormatError for integers beyond the limits."""
    return len(container.joined(*_coded(quantized, background), metadata))


def _coded(quantized: Quantized, background: NDArray[np.float32]) -> tuple[Header, list[Packet]]:
    energy = (quantized.indices[:, 5:].astype(np.int64) ** 2).sum(1)
    indices = np.ascontiguousarray(quantized.indices[np.argsort(-energy, kind="stable")])
    counts = packet_counts(len(indices))
    try:
        payloads, _ = _cpu.encode_packets(indices, counts, **_geometry(quantized.lattice))
    except ValueError as error:
        raise FormatError(str(error)) from error
    lattice = quantized.lattice
    header = Header(
        width=lattice.width,
        height=lattice.height,
        count=len(indices),
        background=tuple(background.tolist()),
        quality_index=quantized.quality_index,
        cell_exponent=lattice.cell_exponent,
        margin=lattice.margin,
        color_space=_color_space(background),
    )
    return header, _packets(counts, payloads)


def write_records(records: vector.Records, background: NDArray[np.float32], metadata: Metadata | None = None) -> bytes:
    """The bytes of a .s2d file of the vector profile. Raises FormatError where a reader would."""
    _check_footprint(vector.dequantize(records, background))
    codes = records.codes[np.argsort(-vector.energies(records), kind="stable")]
    counts = record_counts(len(codes))
    starts = np.cumsum([0, *counts]).tolist()
    payloads = [vector.payload(replace(records, codes=codes[start:end])) for start, end in pairwise(starts)]
    return _pack_records(records.frame, background, counts, payloads, metadata)


def records_that_fit(
    size: int, width: int, height: int, background: NDArray[np.float32], metadata: Metadata | None = None
) -> int:
    """How many splats a file of the vector profile of at most so many bytes can hold; 0 or less if none."""
    channels = len(background)
    least = vector.record_size(channels)

    def excess(count: int) -> int:
        frame = vector.Frame(width, height, channels, vector.tile_for(width, height, count), vector.MIDDLE_TOP)
        counts = record_counts(count)
        payloads = [bytes(vector.payload_size(frame, splats)) for splats in counts]
        return len(_pack_records(frame, background, counts, payloads, metadata)) - size

    most = width * height
    count = min(size // least, most)
    while count > 0 and excess(count) > 0:
        count -= -(-excess(count) // least)
    while 0 < count < most and excess(count + 1) <= 0:  # fewer splats have larger tiles, and a shorter table
        count += 1
    return count


def record_counts(count: int) -> list[int]:
    """Splats of each packet of the vector profile, the more important ones first."""
    return [count] if count < MANY_RECORDS else [count // 4, count - count // 4]


def _pack_records(
    frame: vector.Frame,
    background: NDArray[np.float32],
    counts: list[int],
    payloads: list[bytes],
    metadata: Metadata | None,
) -> bytes:
    header = Header(
        width=frame.width,
        height=frame.height,
        count=sum(counts),
        background=tuple(background.tolist()),
        quality_index=frame.top,
        cell_exponent=0,
        margin=frame.tile,
        profile=container.VECTOR,
        color_space=_color_space(background),
    )
    return container.pack(header, _packets(counts, payloads), metadata)


def _color_space(background: NDArray[np.float32]) -> int:
    return container.SRGB if len(background) in (1, 3, 4) else container.PLAIN


def _packets(counts: list[int], payloads: list[bytes]) -> list[Packet]:
    return [Packet(count, payload) for count, payload in zip(counts, payloads, strict=True)]


def _read_records(parts: Container) -> Contents:
    header = parts.header
    frame = vector.Frame(header.width, header.height, header.channels, header.margin, header.quality_index)
    records = vector.parse([(packet.count, packet.payload) for packet in parts.packets], frame)
    splats = vector.dequantize(records, np.array(header.background, np.float32))
    _check_footprint(splats)
    sizes = vector.field_bits(frame.channels)
    records_bits = 8 * vector.record_size(frame.channels) * len(splats)
    tables = 8 * sum(len(packet.payload) for packet in parts.packets) - records_bits
    places, shapes = (len(splats) * sum(part) for part in (sizes[:2], sizes[2:4]))
    return Contents(splats, records, parts, (tables, places, shapes, records_bits - places - shapes))


def quality_index(quality: float) -> int:
    """The quality index t of a quality of 0 to 100. Raises InputError."""
    if not 0 <= quality <= 100:
        raise InputError(f"encode: quality must be 0 to 100, got {quality}")
    return round(COARSEST + PER_QUALITY * quality)


def quality_of(index: int) -> float:
    """The quality of a quality index, to two digits: quality_index() leads back. Below 0 or above 100 for extremes."""
    return round((index - COARSEST) / PER_QUALITY, 2)


def default_index(splats: Splats) -> int:
    """The quality index at which splats lose nothing, if a decoder gave them, or else little."""
    if not len(splats):
        return COARSEST
    v = _scaled_colors(splats)
    found = _index_that_keeps(splats, v)
    if found is not None:
        return found
    energy = max(float(np.median(np.linalg.norm(v, axis=1))), 1e-9)
    index = round(DEFAULT_INDEX - DEFAULT_SLOPE * math.log2(energy))
    return max(quality_index(0), min(index, quality_index(100)))


def packet_counts(count: int) -> list[int]:
    """Splats of each packet, the most important first."""
    ends = [count]
    while len(ends) < MOST_PACKETS and ends[0] >= GROWTH * FIRST_PACKET:
        ends.insert(0, ends[0] // GROWTH)
    return [end - start for start, end in pairwise([0, *ends])]


def footprint(splats: Splats) -> float:
    """A bound from above on the pixels that all splats cover within the canvas."""
    return _cpu.footprint(splats.means, splats.log_cholesky, splats.width, splats.height)


def _geometry(lattice: Lattice) -> dict[str, int]:
    return {
        "width": lattice.width,
        "height": lattice.height,
        "cell_exponent": lattice.cell_exponent,
        "margin": lattice.margin,
    }


def _scaled_colors(splats: Splats) -> NDArray[np.float64]:
    """v of the splats, before it is rounded. [N, C]"""
    a, _, c = splats.log_cholesky.astype(np.float64).T
    v: NDArray[np.float64] = np.exp((a + c) / 2)[:, None] * (splats.colors @ transform(splats.channels).T)
    return v


def _index_that_keeps(splats: Splats, v: NDArray[np.float64]) -> int | None:
    """The coarsest quality index at which quantisation changes nothing, if there is one."""
    few = v[np.linspace(0, len(v) - 1, min(len(v), 32)).astype(int)]
    for index in range(QUALITY_INDICES):
        scaled = few / step_of(index)
        if np.abs(scaled - np.rint(scaled)).max() < 0.02:  # float32 parameters are not quite on their steps
            quantized, kept = quantize(splats, index)
            if len(kept) == len(splats) and _same(dequantize(quantized, splats.background), splats):
                return index
    return None


def _same(one: Splats, other: Splats) -> bool:
    names = ("means", "log_cholesky", "colors")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _check_footprint(splats: Splats) -> None:
    """Raises FormatError where drawing would take longer than any picture does."""
    allowed = EVALUATIONS_PER_PIXEL * splats.width * splats.height + FEW_EVALUATIONS
    found = footprint(splats)
    if found > allowed:
        raise FormatError(f"its splats cover {found:.3g} pixels in all, {allowed:.3g} are allowed")
