"""benchmarks/train_coder.py: the shipped tables in its form, and a short training."""

import sys
from pathlib import Path

import numpy as np
import pytest
import reference_decoder

import splat2d
from splat2d import codec, scene

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[torch]"')
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import train_coder


@pytest.fixture(scope="module")
def file() -> bytes:
    image = np.ascontiguousarray(scene.draw()[::8, ::8])
    return codec.encode(splat2d.fit(image, splats=250, steps=60, device="cpu").splats, quality=45)


@pytest.fixture(scope="module")
def recording(file):
    return train_coder.record(file)


def test_the_header_is_written_as_it_is_shipped():
    assert train_coder.header(train_coder.shipped()) == reference_decoder.TABLES.read_text(encoding="utf-8")


def test_networks_pack_and_compute_as_in_the_format():
    tables = train_coder.shipped()
    networks = train_coder.unpacked(tables)
    assert train_coder.packed(networks).items() <= tables.items()
    features = np.random.default_rng(0).integers(-4095, 4096, (20, train_coder.FEATURES))
    for number, network in enumerate(networks):
        expected = [reference_decoder.network(number, row) for row in features.tolist()]
        np.testing.assert_array_equal(np.stack(network(features), axis=1), expected)


def test_what_is_recorded_is_what_is_coded(file, recording):
    contents = codec.read(file)
    assert recording.splats == len(contents.splats) and recording.counts[:, 3].max() <= recording.counts[:, 0].max()
    for number, column in enumerate((5, 6, 7, 2, 4, 3)):
        np.testing.assert_array_equal(recording.samples[number].index, contents.quantized.indices[:, column])
    # The coder learns on the way, from where the tables start.
    cells, _, shape, color = np.array(contents.bits) / recording.splats
    found = train_coder.bits_per_splat(train_coder.shipped(), recording)
    np.testing.assert_allclose(found, [color, shape, cells], rtol=0.2)


def test_a_short_training_saves_bits(recording):
    before = train_coder.tables_of(train_coder.train(recording, 0), recording)
    after = train_coder.tables_of(train_coder.train(recording, 60), recording)
    assert train_coder.header(after) != train_coder.header(before)
    color, shape, cells = train_coder.bits_per_splat(before, recording)
    less_color, less_shape, same_cells = train_coder.bits_per_splat(after, recording)
    assert less_color < 0.9 * color and less_shape < 0.9 * shape and same_cells == cells
