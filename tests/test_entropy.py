"""The packet coder of .s2d files: what goes in comes out, and no bytes do harm."""

import numpy as np
import pytest
import reference_decoder
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import using

from splat2d import _cpu
from splat2d.codec import quantizer

GRID = {"width": 96, "height": 64, "cell_exponent": 2, "margin": 3}
COLUMNS, ROWS = 24 + 6, 16 + 6


def make_indices(rng, count, channels, *, spread=1.0, cell_exponent=2, columns=COLUMNS, rows=ROWS):
    """Splats at random within the limits of the format; spread: 1 like those of a picture, more for wilder ones."""
    v = np.clip(np.rint(rng.laplace(0, 4 * spread, (count, channels))), -quantizer.MOST_INDEX, quantizer.MOST_INDEX)
    v = v.astype(np.int32)
    k = quantizer.energy_class(v)
    shape = []
    for steps, most in (
        (quantizer.STEPS_LOG, quantizer.MOST_LOG),
        (quantizer.STEPS_SHEAR, quantizer.MOST_SHEAR),
        (quantizer.STEPS_LOG, quantizer.MOST_LOG),
    ):
        fixed = np.clip(rng.normal(0.5, spread, count), -most, most) * quantizer.ONE
        shape.append(
            np.clip(np.rint(fixed / steps[k]), -(most * quantizer.ONE // steps[k]), most * quantizer.ONE // steps[k])
        )
    a, beta, c = np.array(shape, np.int64)
    position = []
    for log, cells in ((a, columns), (c, rows)):
        bits = quantizer.position_bits(log * quantizer.STEPS_LOG[k], k, cell_exponent)
        position.append(rng.integers(0, cells << bits))
    return np.ascontiguousarray(np.column_stack([*position, a, beta, c, v]).astype(np.int32))


def round_trip(indices, counts, grid=GRID):
    """Encodes, decodes, compares; the payloads."""
    payloads, order = _cpu.encode_packets(indices, counts, **grid)
    assert [*map(type, payloads)] == [bytes] * len(counts)
    assert np.array_equal(np.sort(order), np.arange(len(indices)))
    for first, last in zip(np.cumsum([0, *counts]), np.cumsum(counts), strict=False):
        assert np.array_equal(np.sort(order[first:last]), np.arange(first, last))  # splats stay in their packet
    decoded, bits = _cpu.decode_packets(payloads, counts, indices.shape[1] - 5, **grid)
    assert np.array_equal(decoded, indices[order])
    # Each packet is rounded up to bytes, and may need one more.
    assert -32 * len(counts) <= 8 * sum(map(len, payloads)) - bits.sum() <= 16 * len(counts)
    return payloads


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.sampled_from([1, 3, 4, 7]),
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    spread=st.sampled_from([0.2, 1, 5, 1e4, 1e9]),
)
def test_what_goes_in_comes_out(seed, channels, counts, spread):
    indices = make_indices(np.random.default_rng(seed), sum(counts), channels, spread=spread)
    round_trip(indices, counts)


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_every_instruction_set_codes_the_same(channels):
    """Enough splats for rows of squares that are cut, and packets that look at each other."""
    counts = [40, 160, 700]
    indices = make_indices(np.random.default_rng(channels), sum(counts), channels)
    indices[-300:, :2] = indices[-300:, :2] % 70  # a crowd
    coded = set()
    for name in _cpu.instruction_sets():
        with using(name):
            coded.add(tuple(round_trip(indices, counts)))
    assert len(coded) == 1


def test_one_splat_and_none():
    indices = make_indices(np.random.default_rng(0), 1, 3)
    round_trip(indices, [1])
    round_trip(indices, [0, 1, 0])
    assert round_trip(indices[:0], [0]) == [b""]
    assert round_trip(indices[:0], []) == []


@pytest.mark.parametrize("sign", [-1, 1])
def test_integers_at_the_limits(sign):
    """The largest of every index, in the largest and in the smallest energy class."""
    rows = []
    for v in (quantizer.MOST_INDEX, 0):
        k = quantizer.energy_class(np.array([[v, v, v]]))[0]
        most_log = quantizer.MOST_LOG * quantizer.ONE // quantizer.STEPS_LOG[k]
        most_shear = (2**31 - 1) // quantizer.STEPS_SHEAR[k]
        bits = quantizer.position_bits(sign * most_log * quantizer.STEPS_LOG[k], k, 2)
        for x, y in ((0, 0), ((COLUMNS << bits) - 1, (ROWS << bits) - 1)):
            rows.append([x, y, sign * most_log, sign * most_shear, sign * most_log, v * sign, -v, v])
    round_trip(np.array(rows, np.int32), [len(rows)])


@pytest.mark.parametrize(
    "grid",
    [
        {"width": 1, "height": 1, "cell_exponent": 0, "margin": 0},
        {"width": 1, "height": 1000, "cell_exponent": 0, "margin": 0},
        {"width": 1 << 17, "height": 1 << 17, "cell_exponent": 0, "margin": 0},
        {"width": 1 << 24, "height": 3, "cell_exponent": 12, "margin": 1024},
        {"width": 333, "height": 77, "cell_exponent": -4, "margin": 5},
    ],
)
def test_grids_of_any_size(grid):
    lattice = quantizer.Lattice(**grid)
    rng = np.random.default_rng(1)
    size = {"columns": lattice.columns, "rows": lattice.rows, "cell_exponent": grid["cell_exponent"]}
    round_trip(make_indices(rng, 50, 3, **size), [20, 30], grid)


def test_many_splats_in_one_cell():
    indices = make_indices(np.random.default_rng(2), 300, 3, columns=1, rows=1)
    round_trip(indices, [100, 200])


def test_a_prefix_of_the_packets_gives_the_first_splats():
    counts = [30, 50, 20]
    indices = make_indices(np.random.default_rng(3), 100, 3)
    payloads, order = _cpu.encode_packets(indices, counts, **GRID)
    for packets in range(4):
        decoded, _ = _cpu.decode_packets(payloads[:packets], counts, 3, **GRID)
        assert np.array_equal(decoded, indices[order[: sum(counts[:packets])]])


def test_regular_splats_cost_little():
    """Models learn: of a thousand equal splats in a row of cells, little but the plain bits is left."""
    row = [0, 8, 3, 0, 3, 9, -2, 1]
    indices = np.array([row] * 1000, np.int32)
    k = quantizer.energy_class(indices[:, 5:])
    bits = quantizer.position_bits(indices[:, 2] * quantizer.STEPS_LOG[k], k, 2)
    indices[:, 0] = (np.arange(1000) % COLUMNS) << bits
    payloads = round_trip(indices, [1000])
    assert 8 * len(payloads[0]) < 1000 * (2 * bits[0] + 6)


def test_truncated_payloads_do_no_harm():
    """Zeros follow a payload that ends early: its splats come out wrong, or it is refused. Checksums are the guard."""
    indices = make_indices(np.random.default_rng(4), 40, 3)
    payloads, order = _cpu.encode_packets(indices, [40], **GRID)
    refused = 0
    for length in range(len(payloads[0])):
        try:
            decoded, _ = _cpu.decode_packets([payloads[0][:length]], [40], 3, **GRID)
        except ValueError:
            refused += 1
        else:
            assert not np.array_equal(decoded, indices[order])
    assert refused > 0.8 * len(payloads[0])


def test_payloads_with_more_bytes_are_refused():
    payloads, _ = _cpu.encode_packets(make_indices(np.random.default_rng(5), 40, 3), [40], **GRID)
    with pytest.raises(ValueError, match="after its last splat"):
        _cpu.decode_packets([payloads[0] + b"12345"], [40], 3, **GRID)
    with pytest.raises(ValueError, match="after its last splat"):
        _cpu.decode_packets([b"12345"], [0], 3, **GRID)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.sampled_from([1, 3, 4]),
    data=st.lists(st.binary(max_size=300), max_size=3),
)
def test_any_bytes_decode_or_are_refused(seed, channels, data):
    """Random bytes, and true payloads with bytes changed. What decodes lies within the limits."""
    rng = np.random.default_rng(seed)
    counts = [60, 40]
    payloads, _ = _cpu.encode_packets(make_indices(rng, 100, channels), counts, **GRID)
    broken = [bytearray(p) for p in payloads]
    for p in broken:
        for at in rng.integers(0, len(p), rng.integers(1, 4)):
            p[at] = rng.integers(0, 256)
    for candidate in (data[:2], [bytes(p) for p in broken]):
        try:
            decoded, _ = _cpu.decode_packets(candidate, counts, channels, **GRID)
        except ValueError:
            continue
        _cpu.encode_packets(decoded, counts[: len(candidate)], **GRID)  # checks all limits


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (0, -1),
        (0, 1 << 30),
        (1, -1),
        (1, 1 << 30),
        (2, 1 << 30),
        (3, -(2**31)),
        (4, -(1 << 30)),
        (5, 1 << 20),
        (7, -(1 << 20)),
    ],
)
def test_integers_beyond_the_limits_are_refused(column, value):
    indices = make_indices(np.random.default_rng(6), 3, 3)
    indices[1, column] = value
    with pytest.raises(ValueError, match="beyond"):
        _cpu.encode_packets(indices, [3], **GRID)


def test_bad_sizes_are_refused():
    indices = make_indices(np.random.default_rng(7), 3, 3)
    with pytest.raises(ValueError, match="sum"):
        _cpu.encode_packets(indices, [2], **GRID)
    with pytest.raises(ValueError, match="columns"):
        _cpu.encode_packets(np.ascontiguousarray(indices[:, :5]), [3], **GRID)
    with pytest.raises(ValueError, match="too many splats"):
        _cpu.decode_packets([], [-1], 3, **GRID)
    with pytest.raises(ValueError, match="too many splats"):
        _cpu.decode_packets([b""], [2**60, 2**60], 3, **GRID)
    with pytest.raises(ValueError, match="channels"):
        _cpu.decode_packets([], [], 0, **GRID)
    with pytest.raises(ValueError, match="payloads"):
        _cpu.decode_packets([b"", b""], [0], 3, **GRID)
    for name, value in (("margin", -1), ("cell_exponent", 13), ("cell_exponent", -5), ("width", 0), ("width", 1 << 20)):
        with pytest.raises(ValueError, match="must"):
            _cpu.decode_packets(
                [], [], 3, **GRID | {name: value, "cell_exponent": 0} if name == "width" else GRID | {name: value}
            )


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.sampled_from([1, 2, 3, 4, 7]),
    counts=st.lists(st.integers(0, 80), min_size=1, max_size=4),
    spread=st.sampled_from([0.2, 1, 5, 1e4]),
)
def test_the_decoder_of_the_format_page_agrees(seed, channels, counts, spread):
    indices = make_indices(np.random.default_rng(seed), sum(counts), channels, spread=spread)
    payloads, order = _cpu.encode_packets(indices, counts, **GRID)
    assert reference_decoder.decode_packets(payloads, counts, channels, **GRID) == indices[order].tolist()


@pytest.mark.parametrize("change", ["bits", "end", "more"])
def test_both_decoders_take_and_refuse_the_same_bytes(change):
    rng = np.random.default_rng(8)
    counts = [50, 30]
    indices = make_indices(rng, 80, 3)
    for _ in range(15):
        payloads = [bytearray(p) for p in _cpu.encode_packets(indices, counts, **GRID)[0]]
        broken = payloads[rng.integers(0, 2)]
        if change == "bits":
            broken[rng.integers(0, len(broken))] ^= 1 << rng.integers(0, 8)
        elif change == "end":
            del broken[-rng.integers(1, 8) :]
        else:
            broken += rng.bytes(rng.integers(1, 4))
        given_bytes = [bytes(p) for p in payloads]
        try:
            expected = reference_decoder.decode_packets(given_bytes, counts, 3, **GRID)
        except reference_decoder.BadPacketError:
            with pytest.raises(ValueError, match="packet"):
                _cpu.decode_packets(given_bytes, counts, 3, **GRID)
        else:
            assert _cpu.decode_packets(given_bytes, counts, 3, **GRID)[0].tolist() == expected


def test_both_decoders_agree_on_large_grids():
    grid = {"width": 1 << 17, "height": 3000, "cell_exponent": 0, "margin": 0}
    lattice = quantizer.Lattice(**grid)
    indices = make_indices(np.random.default_rng(9), 60, 3, columns=lattice.columns, rows=lattice.rows, cell_exponent=0)
    payloads, order = _cpu.encode_packets(indices, [20, 40], **grid)
    assert reference_decoder.decode_packets(payloads, [20, 40], 3, **grid) == indices[order].tolist()
