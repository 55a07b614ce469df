"""Which classes samples are of."""

import numpy as np
import pytest

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install "splat2d[diffusion]"')

from splat2d.diffusion.samples import labels_for, labels_like


def test_classes_that_are_alike_take_turns():
    known = np.repeat(np.arange(3), 7)
    assert labels_like(8, known).tolist() == labels_for(8, (), ("a", "b", "c")).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_classes_come_as_often_as_in_the_known_labels():
    known = np.random.default_rng(0).permutation(np.repeat([0, 2, 3], [60, 25, 15]))
    labels = labels_like(40, known)
    assert np.bincount(labels).tolist() == [24, 0, 10, 6]
    halves = [np.bincount(half, minlength=4) for half in labels.chunk(2)]
    assert abs(halves[0] - halves[1]).max() <= 1  # each as evenly as it goes
    for count in (1, 2, 7, 39):
        found = np.bincount(labels_like(count, known), minlength=4)
        assert found.sum() == count
        assert abs(found - count * np.bincount(known) / 100).max() < 1


def test_pictures_without_labels_have_one_class():
    assert labels_like(3, np.zeros(5, np.int64)).tolist() == [0, 0, 0]
