"""encode_within(): splats that have to fit."""

from __future__ import annotations

import numpy as np
import pytest
from test_codec_api import scattered

import splat2d
from splat2d import codec
from splat2d.codec import vector
from splat2d.files import encode_within


def test_all_splats_as_finely_as_the_size_allows() -> None:
    splats = scattered(200)
    for quality in (10, 60):
        size = len(splat2d.encode(splats, quality=quality))
        data = encode_within(splats, size)
        assert len(data) <= size
        assert codec.read(data).container.header.quality_index >= codec.quality_index(quality)
        assert len(splat2d.encode(splats, quality=quality - 5)) < len(data)
    assert encode_within(splats, 1 << 20) == splat2d.encode(splats, quality=100)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_weakest_splats_are_left_out_where_all_are_too_many(share: float) -> None:
    splats = scattered(200)
    coarse = splat2d.encode(splats, quality=0)
    size = round(share * len(coarse))
    data = encode_within(splats, size)
    assert 0.9 * size < len(data) <= size
    kept, all_of_them = (codec.read(bytes_).quantized.indices for bytes_ in (data, coarse))
    energies = [np.sort((indices[:, 5:].astype(np.int64) ** 2).sum(1))[::-1] for indices in (kept, all_of_them)]
    assert 0 < len(kept) < len(all_of_them)
    assert energies[0].sum() >= 0.9 * energies[1][: len(kept)].sum()


def test_less_than_a_header_gives_the_header() -> None:
    data = encode_within(scattered(20), 1)
    assert len(splat2d.decode(data)) == 0


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_records_that_are_too_many_lose_the_weakest(share: float) -> None:
    splats = scattered(200)
    complete = splat2d.encode(splats, profile="vector")
    assert encode_within(splats, len(complete), "vector") == complete
    size = round(share * len(complete))
    data = encode_within(splats, size, "vector")
    assert 0.9 * size < len(data) <= size
    kept, all_of_them = (np.sort(records_energies(bytes_))[::-1] for bytes_ in (data, complete))
    assert 0 < len(kept) < len(all_of_them)
    assert kept.sum() >= 0.9 * all_of_them[: len(kept)].sum()
    assert len(splat2d.decode(encode_within(splats, 1, "vector"))) == 0


def records_energies(data: bytes) -> np.ndarray:
    records = codec.read(data).quantized
    assert isinstance(records, vector.Records)
    return vector.energies(records)
