"""The classifiers that judge generated pictures, and the whole evaluation on scikit-learn's digits."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from splat2d.errors import InputError

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("sklearn", reason="scikit-learn, which has the digits, is not installed")
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from splat2d.diffusion.classifier import (
    Classifier,
    ClassifierConfig,
    _augmented,
    _batches,
    train_classifier,
    untrained_classifier,
)
from splat2d.diffusion.evaluation import EvaluationConfig, evaluate, train_judges

QUICK = replace(ClassifierConfig.compact(), widths=(8, 16), steps=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Nets as small as these gain nothing from threads, which wait long for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits():
    """Pictures uint8 [n, 8, 8, 1] and labels [n]: 1,200 to learn from, 597 to test on."""
    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)[..., None]
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], found.target[order].astype(np.int64)
    return images[:1200], labels[:1200], images[1200:], labels[1200:]


@pytest.fixture(scope="module")
def judges(digits):
    return train_judges(*digits[:2], EvaluationConfig.compact())


def test_both_architectures_learn_the_digits(digits, judges):
    assert judges.features.config.architecture != judges.second.config.architecture
    for net in (judges.features, judges.second):
        assert net.accuracy(*digits[2:]) > 0.95
        assert net.predict(digits[2]).dtype == np.int64


def test_features_are_layer_normed_and_do_not_depend_on_the_batch(digits, judges, monkeypatch):
    images = digits[2][:50]
    for net in (judges.features, judges.second, judges.untrained):
        features = net.features(images)
        assert features.shape == (50, 64) and features.dtype == np.float32
        np.testing.assert_allclose(features.mean(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(features.std(axis=1), 1, atol=1e-3)
        monkeypatch.setattr("splat2d.diffusion.classifier.PASSES", 7 * 64)
        np.testing.assert_allclose(net.features(images), features, atol=1e-4)
        monkeypatch.undo()


def test_training_follows_the_seed_and_leaves_torch_alone(digits):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    nets = [train_classifier(*digits[:2], QUICK, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert nets[0].digest == nets[1].digest != nets[2].digest
    np.testing.assert_array_equal(nets[0].features(digits[2]), nets[1].features(digits[2]))
    blank = [untrained_classifier(digits[0], QUICK, seed=seed).digest for seed in (1, 1, 2)]
    assert blank[0] == blank[1] != blank[2]


@pytest.mark.parametrize("which", ["features", "second", "untrained"])
def test_a_file_restores_the_net(digits, judges, tmp_path, which):
    net = getattr(judges, which)
    net.save(tmp_path / "net.safetensors")
    restored = Classifier.load(tmp_path / "net.safetensors")
    assert (restored.config, restored.shape, restored.classes) == (net.config, net.shape, net.classes)
    assert restored.digest == net.digest and re.fullmatch("[0-9a-f]{12}", net.digest)
    np.testing.assert_array_equal(restored.features(digits[2]), net.features(digits[2]))


def test_files_that_hold_no_classifier(digits, judges, tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(InputError, match="no such file"):
        Classifier.load(path)
    judges.features.save(path)
    data = path.read_bytes()
    for broken in (data[: len(data) // 2], b"", b"\xff" * 40):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="cannot be read as a safetensors file") as error:
            Classifier.load(path)
        assert "\n" not in str(error.value)
    path.write_bytes(data)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(InputError, match='no file of the kind "splat2d classifier 1"'):
        Classifier.load(path)
    description = json.dumps(replace_config(judges.features, widths=[16, 32, 65]))
    save_file(tensors, path, {"format": "splat2d classifier 1", "classifier": description})
    with pytest.raises(InputError, match="do not fit its configuration"):
        Classifier.load(path)


def replace_config(net, **changes):
    description = net._description()
    return {**description, "config": {**description["config"], **changes}}


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("architecture", ["residual", "plain"])
def test_colour_pictures_of_odd_sizes(architecture, channels):
    images = np.random.default_rng(0).integers(0, 256, (9, 13, 11, channels), dtype=np.uint8)
    images[..., 0] = 255  # a constant channel
    net = train_classifier(images, np.arange(9) % 3, replace(QUICK, architecture=architecture, flip=True), classes=5)
    assert net.shape == (13, 11, channels) and net.classes == 5
    assert np.isfinite(net.features(images)).all()
    assert net.features(images[:1]).shape == (1, 16)


def test_augmentation_shifts_and_mirrors():
    picture = torch.arange(20, dtype=torch.uint8).reshape(1, 4, 5, 1)
    config = ClassifierConfig(shift=1, flip=True)
    seen = {
        tuple(made.flatten().tolist())
        for made in _augmented(picture, torch.zeros(400, dtype=torch.long), config, torch.Generator().manual_seed(0))
    }
    padded = np.pad(np.arange(20).reshape(4, 5), 1, mode="edge")
    shifted = [padded[y : y + 4, x : x + 5] for y in range(3) for x in range(3)]
    assert seen == {tuple(each.ravel().tolist()) for picture in shifted for each in (picture, picture[:, ::-1])}
    chosen = torch.zeros(3, dtype=torch.long)
    still = _augmented(picture, chosen, ClassifierConfig(shift=0), torch.Generator())
    assert torch.equal(still, picture.expand(3, -1, -1, -1))


def test_every_picture_comes_once_in_an_epoch():
    batches = [*_batches(10, 3, 6, torch.Generator().manual_seed(0))]
    for epoch in (batches[:3], batches[3:]):
        assert len({*torch.cat(epoch).tolist()}) == 9
    assert not torch.equal(batches[0], batches[3])


def test_bad_settings_and_bad_sets(digits):
    images, labels = digits[0][:20], digits[1][:20]
    for changes, message in (
        ({"architecture": "huge"}, 'no architecture "huge"'),
        ({"widths": ()}, "widths must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch": 1}, "batch must be at least 2"),
        ({"shift": -1}, "shift must be >= 0"),
    ):
        with pytest.raises(InputError, match=message):
            replace(QUICK, **changes)
    for pictures, classes, message in (
        (images[:1], labels[:1], "at least 2"),
        (images.astype(np.float32), labels, "float32"),
        (images, labels[:5], "20 integers >= 0"),
        (images, labels - 1, "20 integers >= 0"),
    ):
        with pytest.raises(InputError, match=message):
            train_classifier(pictures, classes, QUICK)
    with pytest.raises(InputError, match="out of range for 4 classes"):
        train_classifier(images, labels, QUICK, classes=4)
    net = untrained_classifier(images, QUICK)
    with pytest.raises(InputError, match="never trained"):
        net.predict(images)
    with pytest.raises(InputError, match=r"takes pictures of shape \(8, 8, 1\)"):
        net.features(images[:, :7])


@pytest.fixture(scope="module")
def report(digits, judges):
    """Of "samples" that are training pictures with a little noise, as a model that memorises would make them."""
    noise = np.random.default_rng(1).integers(-9, 10, (500, *digits[0].shape[1:]))
    samples = (digits[0][:500] + noise).clip(0, 255).astype(np.uint8)
    floor = (digits[2] // 16 * 16).astype(np.uint8)
    fitted = (digits[0][:400] // 16 * 16).astype(np.uint8)
    settings = {"config": EvaluationConfig.compact(), "judges": judges, "floor": floor, "fitted": fitted, "finite": 1.0}
    return evaluate(samples, digits[1][:500], *digits, **settings)


def test_rows_bracket_the_samples(report):
    assert [row.name for row in report.rows] == ["samples", "train", "fitted train", "floor", "mean picture"]
    assert [row.count for row in report.rows] == [500, 500, 400, 597, 500]
    samples, train, fitted, floor, mean = report.rows
    assert max(samples.frechet, train.frechet, fitted.frechet) < 0.2 * mean.frechet
    assert floor.frechet < fitted.frechet and train.frechet < fitted.frechet
    assert max(samples.kernel, train.kernel, floor.kernel) < 0.2 * mean.kernel
    assert mean.recall == 0 and train.recall > 0.7 and train.coverage > 0.7
    assert report.floor_share == floor.frechet / samples.frechet
    assert floor.frechet_untrained < mean.frechet_untrained


def test_accuracies(report):
    for pair in (report.second, report.learned):
        assert pair.samples > 0.9 and pair.real > 0.9
        assert pair.ratio == pair.samples / pair.real
    assert report.second.floor > 0.9


def test_copies_are_seen(report):
    near = {(each.name, each.space): each.measures for each in report.memorisation}
    assert set(near) == {(name, space) for name in ("samples", "floor") for space in ("pixels", "features")}
    assert near["samples", "pixels"].median_ratio < 0.5 and near["samples", "pixels"].below_percentile > 0.5
    assert near["samples", "features"].nearer_probability > 0.7
    assert near["floor", "features"].nearer_probability == pytest.approx(0.5, abs=0.1)


def test_the_report_as_text_and_json(report, judges):
    values = json.loads(report.to_json())
    assert values["second_ratio"] == report.second.ratio and values["floor_share"] == report.floor_share
    assert values["judges"] == judges.digests and values["rows"][0]["frechet"] == report.rows[0].frechet
    text = report.to_markdown()
    assert "FID" not in text
    for part in (
        "| samples ",
        "| mean picture ",
        "| second classifier ",
        judges.features.digest,
        "finite samples: 100",
    ):
        assert part in text
    for table in text.split("\n\n")[:3]:
        assert len({len(line) for line in table.splitlines()}) == 1


def test_sets_without_labels_are_judged_by_a_net_of_random_weights(digits):
    train, _, test, _ = digits
    found = evaluate(train[:60], None, train[:300], None, test[:200], None, config=EvaluationConfig.compact())
    assert found.second is None and found.learned is None
    assert found.judges["features"] == found.judges["untrained"]
    assert found.rows[0].frechet == found.rows[0].frechet_untrained
    assert any("random weights" in note for note in found.notes)
    assert found.floor_share is None and json.loads(found.to_json())["second_ratio"] is None
    assert "random weights" in found.to_markdown()


def test_samples_without_labels_are_not_classified(digits, judges):
    found = evaluate(digits[2][:60], None, *digits, config=EvaluationConfig.compact(), judges=judges)
    assert found.second is None and any("samples without labels" in note for note in found.notes)


def test_a_folder_keeps_the_judges(digits, tmp_path, monkeypatch):
    config = EvaluationConfig(QUICK, replace(QUICK, architecture="plain"), QUICK)
    made = train_judges(*digits[:2], config, folder=tmp_path / "judges")
    other = train_judges(*digits[:2], config, seed=1, folder=tmp_path / "judges")
    assert not {*made.digests.values()} & {*other.digests.values()}
    monkeypatch.setattr("splat2d.diffusion.evaluation.train_classifier", None)  # not called again
    monkeypatch.setattr("splat2d.diffusion.evaluation.untrained_classifier", None)
    assert train_judges(*digits[:2], config, folder=tmp_path / "judges").digests == made.digests


def test_sets_that_do_not_go_together(digits):
    train, labels, test, test_labels = digits
    good = {
        **{"generated": test[:20], "generated_labels": test_labels[:20], "train": train, "train_labels": labels},
        **{"test": test, "test_labels": test_labels, "config": EvaluationConfig.compact()},
    }
    for changes, message in (
        ({"test_labels": None}, "or neither"),
        ({"generated": test[:20, :7]}, r"samples: expected .* got uint8 \(20, 7, 8, 1\)"),
        ({"generated": test[:5], "generated_labels": None}, "samples: 5 pictures are too few"),
        ({"generated_labels": labels[:3]}, "samples: expected 20 integer labels"),
        ({"generated_labels": labels[:20] + 9}, "samples: labels must be 0 to 9"),
        ({"floor": test[:50]}, "floor: expected a render of each of the 597 test pictures, got 50"),
        ({"floor": test / 255}, "floor: expected .* got float64"),
        ({"fitted": train[:9]}, "fitted: 9 pictures are too few"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(**{**good, **changes})
