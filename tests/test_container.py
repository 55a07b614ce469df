"""The container of .s2d: every field, every limit, every damaged byte. Payloads are any bytes here."""

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splat2d import FormatError, Metadata
from splat2d.codec.container import (
    MOST_PACKETS,
    Chunk,
    Header,
    Packet,
    is_critical,
    pack,
    preamble,
    unpack,
)

FIXED = 19  # bytes before the first number of variable length


def small_file(**fields) -> bytes:
    header = Header(**{"width": 6, "height": 4, "count": 3, "background": (1.0,), **PARAMETERS, **fields})
    metadata = Metadata({"title": "Höhe"}, exif=b"MM\0*", icc=b"profile")
    return pack(header, [Packet(1, b"abc"), Packet(2, b"de")], metadata)


PARAMETERS = {"quality_index": 64, "cell_exponent": 2, "margin": 1}


def crc(data: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(data))


def chunk(kind: bytes, body: bytes) -> bytes:
    assert len(body) < 128
    data = kind + bytes([len(body)]) + body
    return data + crc(data)


def header_bytes(count: int = 3, background: bytes = b"\xff", **changes: int) -> bytes:
    """A header as the page describes it, with a right checksum whatever it says."""
    fields = {
        **{"major": 1, "minor": 0, "profile": 1, "flags": 0, "channels": 1, "quality": 64, "cell": 2},
        **{"width": 6, "height": 4, "margin": 1},
        **changes,
    }
    margin = fields.pop("margin")
    data = struct.pack("<8sBBBBBBbHH", b"\x89S2D\r\n\x1a\n", *fields.values())
    data += varint(margin) + varint(count) + background
    return data + crc(data)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


PACKETS = chunk(b"P", b"\x01abc") + chunk(b"P", b"\x02de")


def refusal(data: bytes, partial: bool = False) -> str:
    with pytest.raises(FormatError) as caught:
        unpack(data, partial=partial)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bytes_are_those_of_the_page() -> None:
    texts = chunk(b"i", b"profile") + chunk(b"e", b"MM\0*") + chunk(b"t", b"title\0" + "Höhe".encode())
    assert small_file() == header_bytes() + texts + PACKETS
    assert sum(part.size for part in unpack(small_file()).chunks) == len(texts + PACKETS)
    floats = header_bytes(background=struct.pack("<2f", -0.5, 0.3), flags=0x81, channels=2)
    assert small_file(background=(-0.5, 0.3), color_space=1) == floats + texts + PACKETS


@pytest.mark.parametrize(("background", "overhead"), [((0.0, 128 / 255, 1.0), 39), ((0.4801, 0.5, 0.6), 48)])
def test_overhead(background: tuple[float, ...], overhead: int) -> None:
    """Of a plain file: a header, one packet, no metadata."""
    header = Header(768, 512, 5000, background, 100, 2, 3)
    assert len(pack(header, [Packet(5000, bytes(20000))])) - 20000 == overhead


@given(
    st.integers(1, 65535),
    st.integers(1, 4096),
    st.one_of(
        st.lists(st.integers(0, 255).map(lambda level: level / 255), min_size=1, max_size=9),
        st.lists(st.floats(-1024, 1024, width=32), min_size=1, max_size=9),
    ),
    st.integers(0, 255),
    st.integers(-4, 12),
    st.integers(0, 1024),
    st.lists(st.tuples(st.integers(1, 900), st.binary(max_size=300)), min_size=1, max_size=5),
    st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=19), st.text()),
    st.binary(max_size=200),
    st.binary(max_size=200),
)
@settings(deadline=None)
def test_round_trip(width, height, background, index, cell, margin, packets, text, exif, icc) -> None:
    background = struct.unpack(f"{len(background)}f", struct.pack(f"{len(background)}f", *background))
    packets = tuple(Packet(*packet) for packet in packets)
    count = sum(packet.count for packet in packets)
    try:
        header = Header(width, height, count, background, index, cell, margin)
    except FormatError:
        cells = max(width, height) / 2.0**cell + 2 * margin
        assert count > 4 * width * height + 1024 or cells > 131071
        return
    metadata = Metadata(text, exif, icc)
    found = unpack(pack(header, packets, metadata))
    assert (found.header, found.packets, found.metadata) == (header, packets, metadata)


def test_truncation_at_every_length() -> None:
    data = small_file()
    for length in range(len(data)):
        refusal(data[:length])


def test_every_flipped_bit() -> None:
    data = small_file()
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            refusal(bytes(damaged))


def test_any_beginning_gives_the_packets_that_are_whole() -> None:
    data = small_file()
    ends = [len(data) - len(PACKETS), len(data) - len(chunk(b"P", b"\x02de")), len(data)]
    for length in range(len(header_bytes()), len(data) + 1):
        found = unpack(data[:length], partial=True)
        assert len(found.packets) == sum(length >= end for end in ends[1:])
        assert (found.metadata.text == {"title": "Höhe"}) == (length >= ends[0])
    for length in range(len(header_bytes())):
        refusal(data[:length], partial=True)
    refusal(data + b"\0", partial=True)
    refusal(data[:-1] + b"\0", partial=True)  # damage is no end


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no .s2d file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "is no .s2d file"),
        (header_bytes()[:8].replace(b"\r\n", b"\n") + bytes(40), "is no .s2d file"),
        (header_bytes(major=2) + PACKETS, "version 2.0, known is 1; update splat2d"),
        (header_bytes(major=0) + PACKETS, "version 0.0"),
        (header_bytes(profile=0) + PACKETS, "profile 0"),
        (header_bytes(profile=3) + PACKETS, "profile 3, which this version does not know; update splat2d"),
        (header_bytes(profile=2) + PACKETS, "cell exponent of 0, got 2"),
        (header_bytes(profile=2, cell=0, margin=0) + PACKETS, "edge of a tile must be 1 to 1048576 pixels"),
        (header_bytes(profile=2, cell=0, margin=2**20 + 1) + PACKETS, "edge of a tile"),
        (header_bytes(flags=2) + PACKETS, "colour space 2"),
        (header_bytes(flags=0x40) + PACKETS, "colour space 64"),
        (header_bytes(channels=0, background=b"") + PACKETS, "channels"),
        (header_bytes(cell=-5) + PACKETS, "cell exponent"),
        (header_bytes(cell=13) + PACKETS, "cell exponent"),
        (header_bytes(margin=1025) + PACKETS, "margin"),
        (header_bytes(width=0) + PACKETS, "a side"),
        (header_bytes(height=0) + PACKETS, "a side"),
        (header_bytes(width=65535, height=65535) + PACKETS, "pixels are more"),
        (header_bytes(width=16384, height=16385) + PACKETS, "pixels are more"),
        (header_bytes(width=65535, cell=-4) + PACKETS, "cells"),
        (header_bytes(count=6 * 4 * 4 + 1025) + PACKETS, "too many for 6x4 pixels"),
        (header_bytes(count=2**32 - 1) + PACKETS, "too many"),
        (header_bytes(flags=0x80, background=struct.pack("<f", float("nan"))) + PACKETS, "finite"),
        (header_bytes(flags=0x80, background=struct.pack("<f", float("inf"))) + PACKETS, "finite"),
        (header_bytes() + PACKETS + b"\0", "1 bytes after its end"),
        (header_bytes() + PACKETS + chunk(b"t", b"a\0b"), "after its end"),
        (header_bytes() + PACKETS + PACKETS, "after its end"),
        (header_bytes(count=2) + PACKETS, "packet of 2 splats where 1 are left"),
        (header_bytes(count=4) + PACKETS, "in the middle"),
        (header_bytes() + chunk(b"P", b"\x00abc") + PACKETS, "packet of 0 splats where 3 are left"),
        (header_bytes() + chunk(b"P", b""), "without a count"),
        (header_bytes() + chunk(b"P", b"\x80"), "without a count"),
        (header_bytes() + chunk(b"P", b"\x81\x00abc"), "too long"),
        (header_bytes(count=0), "in the middle"),
        (header_bytes(count=1027, width=99) + chunk(b"P", varint(1027) + b"a"), "1027 splats in 1 bytes"),
        (header_bytes() + chunk(b"X", b"") + PACKETS, 'chunk "X", which this version does not know; update splat2d'),
        (header_bytes() + chunk(b"0", b"") + PACKETS, "no letter"),
        (header_bytes() + chunk(b"\xe4", b"") + PACKETS, "no letter"),
        (header_bytes() + chunk(b"t", b"a\0b") * 2 + PACKETS, 'two texts "a"'),
        (header_bytes() + chunk(b"t", b"ab") + PACKETS, "without a key"),
        (header_bytes() + chunk(b"t", b"\0ab") + PACKETS, "key of a text"),
        (header_bytes() + chunk(b"t", b"k" * 80 + b"\0") + PACKETS, "key of a text"),
        (header_bytes() + chunk(b"t", b"a\0\xff") + PACKETS, "UTF-8"),
        (header_bytes() + chunk(b"e", b"a") * 2 + PACKETS, 'chunk "e" that is empty or there twice'),
        (header_bytes() + chunk(b"i", b"") + PACKETS, 'chunk "i" that is empty'),
        (header_bytes()[:-4] + b"\0\0\0\0" + PACKETS, "checksum"),
    ],
)
def test_what_is_refused(data: bytes, message: str) -> None:
    assert message in refusal(data)


@pytest.mark.parametrize("number", [b"\x80\x00", b"\x80\x80\x80\x80\x10", b"\xff\xff\xff\xff\xff\x01"])
def test_numbers_that_are_too_long(number: bytes) -> None:
    fixed = header_bytes()[:FIXED]
    data = fixed + number + b"\x03\xff"
    assert "too long" in refusal(data + crc(data) + PACKETS)


def test_chunks_that_a_reader_may_pass_over() -> None:
    unknown = chunk(b"x", b"from the future")
    found = unpack(header_bytes(minor=9) + unknown + PACKETS[:10] + unknown + PACKETS[10:])
    assert len(PACKETS[:10]) == len(chunk(b"P", b"\x01abc"))
    assert [packet.payload for packet in found.packets] == [b"abc", b"de"]
    assert found.chunks[0] == Chunk(b"x", len(unknown), b"from the future")
    assert found.header.minor == 9
    assert is_critical(b"X") and not is_critical(b"x")


def test_number_of_packets() -> None:
    many = chunk(b"P", b"\x01")
    assert len(unpack(header_bytes(count=MOST_PACKETS) + many * MOST_PACKETS).packets) == MOST_PACKETS
    assert "packets" in refusal(header_bytes(count=MOST_PACKETS + 1) + many * (MOST_PACKETS + 1))


def test_no_splats_at_all() -> None:
    data = header_bytes(count=0) + chunk(b"P", b"\0")
    assert unpack(data).packets == (Packet(0, b""),)
    for length in range(len(data)):
        refusal(data[:length])


def test_preamble_reads_up_to_the_first_packet() -> None:
    data = small_file()
    header, metadata = preamble(data[: -len(PACKETS)] + b"P and what follows")
    assert header == unpack(data).header and metadata == unpack(data).metadata
    with pytest.raises(FormatError):
        preamble(data[: -len(PACKETS) - 1])


@pytest.mark.parametrize("text", [{"": "a"}, {"a\0b": ""}, {"k" * 80: ""}, {"a": "\ud800"}, {"\ud800": "a"}])
def test_metadata_that_cannot_be_written(text: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        Metadata(text)


def test_absurd_sizes_take_no_memory() -> None:
    """Whatever a file claims, no more is allocated than it has bytes."""
    absurd = [
        header_bytes(width=65535, height=4096, count=2**30) + chunk(b"P", varint(2**30) + bytes(9)),
        header_bytes() + b"P" + varint(2**32 - 1) + bytes(9),
        header_bytes(channels=255, flags=0x80),
    ]
    tracemalloc.start()
    try:
        for data in absurd:
            refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
