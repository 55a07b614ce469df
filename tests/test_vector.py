"""The vector profile: records of fixed size, their codebook, and files of them."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import as_set, scattered

import splat2d
from splat2d import FormatError, InputError, Metadata, Splats, codec
from splat2d.codec import vector
from splat2d.codec.container import unpack
from splat2d.compression import compress

FAST = {"preset": "fast", "device": "cpu", "profile": "vector"}


def encode(splats: Splats, **options) -> bytes:
    return splat2d.encode(splats, profile="vector", **options)


# --- the codebook


def test_the_codebook_is_the_one_of_the_page() -> None:
    data = vector.CODEBOOK.read_bytes()
    assert len(data) == 2 * (2 * vector.FORMS + 3 * vector.DIRECTIONS)
    assert zlib.crc32(data) == vector.CODEBOOK_CRC
    book = vector.codebook()
    assert (book.shears >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(book.directions, axis=1), 1)


def test_every_form_is_closest_to_itself() -> None:
    book = vector.codebook()
    for sign in (1, -1):
        found = vector.nearest_forms(book.aspects, sign * book.shears, book) & (vector.FORMS - 1)
        np.testing.assert_array_equal(book.aspects[found], book.aspects)
        np.testing.assert_array_equal(book.shears[found], book.shears)


def test_the_closest_form_is_the_one_of_the_largest_overlap() -> None:
    rng = np.random.default_rng(0)
    aspects, shears = rng.normal(0, 0.5, 20), rng.normal(0, 1, 20)
    book = vector.codebook()
    codes = vector.nearest_forms(aspects, shears, book)
    forms = [covariance(w, s) for w, s in zip(book.aspects, book.shears, strict=True)]
    forms += [covariance(w, -s) for w, s in zip(book.aspects, book.shears, strict=True)]
    for aspect, shear, code in zip(aspects, shears, codes, strict=True):
        sums = np.linalg.det(np.array(forms) + covariance(aspect, shear))
        assert sums[code] == pytest.approx(sums.min(), rel=1e-9)  # the overlap is 2 / sqrt of it


def covariance(aspect: float, shear: float) -> np.ndarray:
    factor = np.array([[np.exp(aspect), 0], [shear * np.exp(-aspect), np.exp(-aspect)]])
    return factor @ factor.T


# --- records


@pytest.mark.parametrize(("channels", "size"), [(1, 5), (2, 7), (3, 6), (4, 7), (5, 10)])
def test_size_of_a_record(channels: int, size: int) -> None:
    assert vector.record_size(channels) == size
    small, large = (len(encode(scattered(count, channels))) for count in (40, 41))
    assert large - small == pytest.approx(size, abs=8)  # the table of tiles may change


@given(st.lists(st.integers(1, 13), min_size=1, max_size=9), st.integers(0, 20), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_fields_survive_packing(bits, count, random) -> None:
    fields = np.array([[random.randrange(1 << size) for size in bits] for _ in range(count)], np.int64)
    fields = fields.reshape(count, len(bits))
    packed = vector._pack(fields, bits)
    assert packed.shape == (count, -(-sum(bits) // 8))
    again = vector._unpack(packed, bits)
    np.testing.assert_array_equal(again[:, :-1], fields)
    assert not again[:, -1].any()


def test_record_as_a_shader_reads_it() -> None:
    """With nothing but what docs/format.md says."""
    splats = scattered(300)
    data = encode(splats)
    parts = unpack(data)
    header, payload = parts.header, parts.packets[0].payload
    tile, margin = header.margin, header.margin // 4
    columns, rows = (-(-(size + 2 * margin) // tile) for size in (header.width, header.height))
    ends = struct.unpack_from(f"<{columns * rows}H", payload)
    book = struct.unpack(f"<{2 * 4096 + 3 * 128}h", vector.CODEBOOK.read_bytes())
    decoded = splat2d.decode(data)
    for i in (0, 1, 57, 299):
        record = int.from_bytes(payload[2 * columns * rows + 6 * i :][:6], "little")
        at = next(k for k, end in enumerate(ends) if i < end)
        x, y = ((place + 0.5) / 256 for place in (record & 255, record >> 8 & 255))
        form, size, direction, magnitude = record >> 16 & 8191, record >> 29 & 31, record >> 34 & 255, record >> 42
        middle = np.log(tile / 8 * 2 ** ((size - 16) / 4))
        aspect, beta = book[form & 4095] / 4096, book[4096 + (form & 4095)] / 1024 * (-1 if form >> 12 else 1)
        a, c = middle + aspect, middle - aspect
        axis = np.array(book[8192 + 3 * (direction & 127) :][:3], float)
        axis *= (-1 if direction >> 7 else 1) / np.linalg.norm(axis)
        v = axis * 2 ** ((magnitude - 63) / 8 + (header.quality_index - 128) / 8) if magnitude else 0 * axis
        rows_of = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
        mean = (at % columns + x) * tile - margin, (at // columns + y) * tile - margin
        np.testing.assert_allclose(decoded.means[i], mean, rtol=1e-6)
        np.testing.assert_allclose(decoded.log_cholesky[i], (a, beta * np.exp(c), c), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(decoded.colors[i], np.exp(-(a + c) / 2) * (v @ rows_of), rtol=1e-5, atol=1e-7)


# --- splats there and back


@pytest.mark.parametrize("count", [0, 1, 2, 40, 700, 1500])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_encoding_again_changes_nothing(count: int, channels: int) -> None:
    splats = scattered(count, channels)
    once = encode(splats)
    decoded = splat2d.decode(once)
    assert 0.9 * count <= len(decoded) <= count  # the faintest are nothing
    assert (decoded.width, decoded.height) == (splats.width, splats.height)
    np.testing.assert_array_equal(decoded.background, splats.background)
    np.testing.assert_array_equal(as_set(splat2d.decode(encode(decoded))), as_set(decoded))


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_decoded_splats_are_close(channels: int) -> None:
    splats = scattered(400, channels)
    decoded = splat2d.decode(encode(splats))
    picture = splat2d.render(splats) - splats.background
    error = splat2d.render(decoded) - splats.background - picture
    # Directions of colour were trained on photos, whose colours lie closer to grey than these.
    assert np.square(error).mean() < 0.15 * np.square(picture).mean()


def test_black_with_alpha_is_kept() -> None:
    splats = replace(scattered(50, 4), colors=np.tile([0, 0, 0, 0.5], (50, 1)))
    decoded = splat2d.decode(encode(splats))
    np.testing.assert_array_equal(decoded.colors[:, :3], 0)
    assert (decoded.colors[:, 3] > 0.3).all()


def test_faint_splats_are_left_out() -> None:
    splats = scattered(100)
    faint = replace(splats, colors=splats.colors * np.where(np.arange(100) < 30, 1e-6, 1)[:, None])
    assert len(splat2d.decode(encode(faint))) == 70
    assert len(splat2d.decode(encode(replace(splats, colors=splats.colors * 0)))) == 0


def test_a_beginning_draws_the_most_important_splats() -> None:
    data = encode(scattered(2000))
    parts = unpack(data)
    assert [packet.count for packet in parts.packets] == [500, 1500]
    first = splat2d.decode(data[: len(data) - parts.chunks[1].size], partial=True)
    everything = splat2d.decode(data)
    np.testing.assert_array_equal(first.means, everything.means[:500])
    energies = np.square(everything.colors).sum(1) * np.exp(everything.log_cholesky[:, [0, 2]].sum(1))
    assert energies[:500].min() >= energies[500:].max() * (1 - 1e-5)


def test_metadata_and_bits() -> None:
    metadata = Metadata({"title": "Höhe"}, exif=b"II*\0", icc=bytes(300))
    data = encode(scattered(300), metadata=metadata)
    assert splat2d.read_metadata(data) == metadata
    tables, places, shapes, colours = codec.read(data).bits
    assert (places, shapes, colours) == (300 * 16, 300 * 18, 300 * 14)
    assert tables == 8 * len(unpack(data).packets[0].payload) - 300 * 48


@pytest.mark.parametrize("quality", [0, 50])
def test_it_has_one_precision(quality: float) -> None:
    with pytest.raises(InputError, match="leave quality out"):
        encode(scattered(3), quality=quality)


@pytest.mark.parametrize("value", [30.0, -30.0, 1e6, -1e6, 3e38, -3e38])
@pytest.mark.parametrize("name", ["means", "log_cholesky", "colors", "background"])
def test_hostile_splats_are_written_or_refused(name: str, value: float) -> None:
    splats = scattered(5)
    array = getattr(splats, name).copy()
    array.flat[::2] = value
    try:
        again = splat2d.decode(encode(replace(splats, **{name: array})))
    except InputError:
        return
    assert len(again) <= 5
    assert np.isfinite(splat2d.render(again)).all()


# --- bytes that are no file


def test_truncation_at_every_length() -> None:
    data = encode(scattered(12, 1))
    for length in range(len(data)):
        with pytest.raises(FormatError):
            splat2d.decode(data[:length])


def test_every_flipped_bit() -> None:
    data = encode(scattered(12, 1), metadata=Metadata({"a": "b"}))
    for position in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError):
            splat2d.decode(bytes(damaged))


FRAME = vector.Frame(96, 64, 5, 64, 128)


def packet(ends: list[int], count: int, last: int = 0) -> bytes:
    records = np.zeros((count, vector.record_size(5)), np.uint8)
    records[:, -1] = last
    return struct.pack(f"<{len(ends)}H", *ends) + records.tobytes()


def test_payloads() -> None:
    assert (FRAME.columns, FRAME.rows) == (2, 2)
    records = vector.parse([(3, packet([0, 1, 1, 3], 3))], FRAME)
    np.testing.assert_array_equal(records.codes[:, :2], [[256, 0], [256, 256], [256, 256]])
    assert vector.payload(records) == packet([0, 1, 1, 3], 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packet([0, 1, 1, 3], 3)[:-1], "3 splats in 37 bytes, not 38"),
        (packet([0, 1, 1, 3], 3) + b"\0", "39 bytes"),
        (b"", "0 bytes"),
        (packet([0, 1, 1, 2], 3), "follow each other"),
        (packet([0, 1, 1, 4], 3), "follow each other"),
        (packet([0, 2, 1, 3], 3), "follow each other"),
        (packet([65535, 65535, 65535, 3], 3), "follow each other"),
        (packet([0, 1, 1, 3], 3, last=0x80), "bits beyond its fields"),
    ],
)
def test_payloads_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        vector.parse([(3, data)], FRAME)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_any_payload_is_splats_or_refused(data) -> None:
    """Records may be any bytes; what they decode to can be drawn, or is refused for the time that would take."""
    channels = data.draw(st.sampled_from([1, 2, 3, 4]))
    frame = vector.Frame(
        data.draw(st.integers(1, 300)), 40, channels, data.draw(st.integers(1, 1 << 20)), data.draw(st.integers(0, 255))
    )
    count = data.draw(st.integers(1, 30))
    tiles = frame.columns * frame.rows
    ends = [count] * tiles
    size = count * vector.record_size(channels)
    records = data.draw(st.binary(min_size=size, max_size=size))
    try:
        found = vector.parse([(count, struct.pack(f"<{tiles}H", *ends) + records)], frame)
    except FormatError:
        return
    splats = vector.dequantize(found, np.zeros(channels, np.float32))
    assert len(splats) == count
    try:
        codec.write_records(found, splats.background)
    except FormatError as error:
        assert "splats cover" in str(error)


def test_splats_that_would_take_too_long_to_draw() -> None:
    codes = np.tile([[128, 128, 0, 31, 0, 63]], (5000, 1))
    records = vector.Records(codes, vector.Frame(64, 64, 3, 1 << 12, 128))
    with pytest.raises(FormatError, match="splats cover"):
        codec.write_records(records, np.zeros(3, np.float32))


# --- compressing


def photo(height: int = 96, width: int = 128, channels: int = 3) -> np.ndarray:
    """A part of a photo, at a fourth of its size."""
    pixels = skimage.data.astronaut()[: 4 * height, : 4 * width].astype(np.float32) / 255
    pixels = pixels.reshape(height, 4, width, 4, 3).mean((1, 3))
    alpha = np.ones((height, width, 1), np.float32)
    return np.ascontiguousarray(np.concatenate([pixels, alpha], 2)[..., :channels])


@pytest.mark.parametrize("size", [600, 3000])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_budget_of_bytes_is_kept(size: int, channels: int) -> None:
    result = compress(photo(channels=channels), bytes=size, **FAST)
    assert 0.985 * size - 8 <= len(result.data) <= size  # splats may fade
    assert unpack(result.data).header.profile == 2
    decoded = splat2d.decode(result.data)
    shown = splat2d.render(decoded, device="cpu")
    assert splat2d.psnr(shown, photo(channels=channels)) == pytest.approx(result.psnr, abs=1e-3)


def test_freezing_beats_rounding_at_once() -> None:
    image = photo()
    result = compress(image, bytes=2000, **FAST)
    splats = splat2d.fit(image, splats=len(result.splats), steps=1300, device="cpu").splats
    rounded = splat2d.decode(encode(splats))
    assert result.psnr > splat2d.psnr(splat2d.render(rounded, device="cpu"), image) + 0.5


def test_quality_and_psnr_choose_the_number_of_splats() -> None:
    image = photo()
    coarse, fine = (compress(image, quality=quality, **FAST) for quality in (20, 50))
    assert len(coarse.data) < len(fine.data) and coarse.psnr < fine.psnr
    wanted = compress(image, psnr=26, **FAST)
    assert 26 <= wanted.psnr < 26.8


@pytest.mark.parametrize(
    "image",
    [
        np.full((1, 1, 3), 0.3, np.float32),
        np.full((5, 4, 1), 0.7, np.float32),
        np.zeros((16, 16, 4), np.float32),
        np.linspace(0, 1, 40, dtype=np.float32).reshape(1, 40, 1),
        0.5 + 0.001 * photo(24, 24),
        photo(24, 24) * 200 - 30,
        np.random.default_rng(0).random((12, 12, 7), np.float32),
    ],
    ids=["pixel", "flat", "black", "row", "faint", "bright", "channels"],
)
@pytest.mark.parametrize("budget", [{"bytes": 250}, {"quality": 40}])
def test_awkward_pictures(image: np.ndarray, budget: dict) -> None:
    result = compress(image, **budget, **FAST)
    assert len(result.data) <= budget.get("bytes", 10_000)
    shown = splat2d.render(splat2d.decode(result.data), device="cpu")
    flat = np.broadcast_to(image.mean((0, 1)), image.shape)
    assert np.mean((shown - image) ** 2) <= np.mean((flat - image) ** 2) + 1e-5


def test_an_impossible_budget_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"takes at least \d+ bytes, got 12") as caught:
        compress(photo(), bytes=12, **FAST)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert len(compress(photo(), bytes=least, **FAST).data) <= least


def test_an_unknown_profile() -> None:
    with pytest.raises(InputError, match='profile: "lossless" is unknown; choose from scalar, vector'):
        compress(photo(), profile="lossless")
