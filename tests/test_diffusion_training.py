"""The denoiser, its training on scikit-learn's digits, and models in files."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("tensorboard", reason='TensorBoard is not installed: pip install "splat2d[diffusion]"')
import torch
from safetensors.torch import load_file, save_file

from splat2d import InputError, load_image
from splat2d.diffusion import model as model_module
from splat2d.diffusion.classifier import ClassifierConfig, train_classifier
from splat2d.diffusion.layouts import PatchLayout, SplatLayout
from splat2d.diffusion.model import Model, SampleConfig, check_same, generate, load_model, save_model
from splat2d.diffusion.network import Denoiser, NetworkConfig
from splat2d.diffusion.pictures import Pictures
from splat2d.diffusion.splatset import BuildConfig, build, rendered, save_splats
from splat2d.diffusion.training import TrainConfig, steps_done, train

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = TrainConfig(
    network=NetworkConfig(width=32, depth=2, heads=2), steps=60, batch=32, rate=3e-3, average=0.99, drop=0.1
)
LAYOUT = SplatLayout(12, 16, 1, 3, 4, (0.0,))


def denoiser(**changes):
    """One whose every weight counts, as after training."""
    network = Denoiser(LAYOUT, 10, replace(TINY.network, **changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return network


INPUTS = (torch.randn(3, 12, 6), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 9, 10]))


# --- the denoiser


def test_a_new_denoiser_says_zero():
    out = Denoiser(LAYOUT, 10, TINY.network)(*INPUTS)
    assert out.shape == (3, 12, 6) and not out.any()


def test_without_slots_the_order_of_tokens_means_nothing():
    x, t, labels = INPUTS
    order = torch.randperm(12)
    as_set, with_slots = denoiser(slots=False), denoiser(slots=True)
    torch.testing.assert_close(as_set(x[:, order], t, labels), as_set(x, t, labels)[:, order], atol=1e-5, rtol=1e-4)
    assert (with_slots(x[:, order], t, labels) - with_slots(x, t, labels)[:, order]).abs().max() > 0.01


@pytest.mark.parametrize("slots", [True, False])
def test_every_input_counts_and_pictures_do_not_mix(slots):
    network = denoiser(slots=slots)
    x, t, labels = INPUTS
    out = network(x, t, labels)
    assert (network(x, t, torch.tensor([1, 9, 10])) - out)[0].abs().max() > 1e-3
    assert (network(x, t + 0.05, labels) - out).abs().flatten(1).max(1).values.min() > 1e-3
    other = x.clone()
    other[0, 3] += 1
    changed = (network(other, t, labels) - out).abs().amax(-1)
    assert changed[0].min() > 0 and not changed[1:].any()


@pytest.mark.parametrize("width", [32, 36])
def test_any_even_width_of_a_head_goes(width):
    assert Denoiser(LAYOUT, 1, NetworkConfig(width, 1, 2))(*INPUTS[:2], torch.zeros(3).long()).shape == (3, 12, 6)


def test_groups_are_squares_of_neighbours():
    """Without blocks, what one slot of a square changes is the square, and all of it."""
    layout = SplatLayout(16, 24, 1, 4, 6, (0.0,))
    network = Denoiser(layout, 10, NetworkConfig(32, 0, 2, group=2))
    assert network.slots.shape == (6, 32)
    torch.nn.init.normal_(network.leave.weight)
    x, (_, t, labels) = torch.randn(1, 24, 6), INPUTS
    other = x.clone()
    other[0, 2 * 6 + 3] += 1  # row 2, column 3
    changed = (network(other, t[:1], labels[:1]) - network(x, t[:1], labels[:1])).abs().amax(-1).view(4, 6) > 0
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[2:4, 2:4] = True
    assert torch.equal(changed, expected)


# --- training


@pytest.fixture(scope="module")
def trained(digit_splats, tmp_path_factory):
    """A folder of a training without interruption, and its reports."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, [*train(digit_splats, TINY, folder, report_every=10, save_every=20, sample_every=40)]


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_loss_falls(trained):
    folder, events = trained
    assert [event.step for event in events] == [10, 20, 30, 40, 50, 60]
    assert [event.saved for event in events] == [False, True, False, True, False, True]
    losses = [event.loss for event in events]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]
    assert all(event.pictures_per_second > 0 and event.render_loss == 0 and event.steps == 60 for event in events)
    assert 0 < events[-1].rate < events[0].rate < TINY.rate
    assert [line["loss"] for line in read_log(folder)] == losses
    names = {path.name.split(".")[0] for path in folder.iterdir()}
    assert names == {"checkpoint", "model", "log", "samples-000040", "samples-000060", "events"}
    assert load_image(folder / "samples-000060.png").shape == (4 * 66 + 2, 10 * 66 + 2, 1)


def test_a_training_that_was_killed_goes_on_as_if_it_had_not(trained, digit_splats, tmp_path):
    for event in train(digit_splats, TINY, tmp_path, report_every=10, save_every=20):
        if event.step == 50:
            break  # ten steps after the checkpoint
    torch.rand(3)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 5')  # a line that the kill cut short
    assert steps_done(tmp_path) == 40
    events = [*train(digit_splats, TINY, tmp_path, report_every=15, save_every=20)]
    assert [event.step for event in events] == [45, 60]
    for name in ("checkpoint.safetensors", "model.safetensors"):
        straight, resumed = (load_file(folder / name) for folder in (trained[0], tmp_path))
        assert straight.keys() == resumed.keys()
        for key, tensor in straight.items():
            assert torch.equal(tensor, resumed[key]), key
    assert [line["step"] for line in read_log(tmp_path)] == [10, 20, 30, 40, 45, 60]
    expected = [event.loss for event in trained[1]]
    assert 5 * events[0].loss + 15 * events[1].loss == pytest.approx(10 * (expected[4] + expected[5]), rel=1e-5)
    assert [*train(digit_splats, TINY, tmp_path)] == []


def test_training_leaves_the_generator_of_torch_alone_and_follows_the_seed(digit_splats, tmp_path):
    config = replace(TINY, steps=2, batch=8)
    state = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        [*train(digit_splats, replace(config, seed=seed), tmp_path / name)]
    assert torch.equal(torch.get_rng_state(), state)
    a, b, c = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": "x"},
        {"prediction": "x", "render": 0.5, "flip": True},
        {"tokens": "pixels", "patch": 2},
        {"network": replace(TINY.network, slots=False)},
    ],
    ids=["x", "render", "pixels", "set"],
)
def test_kinds_of_training(digit_splats, tmp_path, changes):
    events = [*train(digit_splats, replace(TINY, steps=50, **changes), tmp_path, report_every=25)]
    assert events[1].loss < events[0].loss
    assert (events[1].render_loss > 0) == ("render" in changes)
    made = load_model(tmp_path / "model.safetensors")
    assert isinstance(made.layout, PatchLayout) == (changes.get("tokens") == "pixels")
    assert made.prediction == changes.get("prediction", "v") and made.names == tuple("0123456789")
    tokens = generate(made, torch.arange(4), SampleConfig(steps=2))
    assert tokens.isfinite().all() and made.layout.pictures(tokens).shape == (4, 8, 8, 1)


def test_what_a_training_dwells_on_it_does_better(digit_splats, tmp_path):
    """Little noise, or what pictures show of the error."""
    part = torch.from_numpy(digit_splats.part(True))[:60]
    labels = torch.from_numpy(digit_splats.pictures.labels)[part]

    def error(t, **changes):
        folder = tmp_path / repr(changes)
        [*train(digit_splats, replace(TINY, steps=200, **changes), folder)]  # the second time it is done
        made = load_model(folder / "model.safetensors")
        x = made.whitened(digit_splats.tokens[part].float())
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        clean = made.clean(t * x + (1 - t) * noise, torch.full((60,), t), labels)
        shown, wanted = (made.layout.pictures(made.tokens(tokens)) for tokens in (clean, x))
        return float((shown - wanted).square().mean())

    assert error(0.95, middle=1.5) < 0.9 * error(0.95, middle=-1.5)
    assert error(0.8, middle=1.5, render=20.0) < 0.9 * error(0.8, middle=1.5)


def test_pictures_without_labels(digit_pictures, tmp_path):
    few = Pictures(digit_pictures.images[1190:1210], np.zeros(20, int), digit_pictures.test[1190:1210], ())
    splats = build(few, BuildConfig(splats=4, steps=2))
    [*train(splats, replace(TINY, steps=2, batch=4), tmp_path, sample_every=2)]
    made = load_model(tmp_path / "model.safetensors")
    assert made.names == () and made.network.classes == 1
    assert generate(made, torch.zeros(2, dtype=torch.long), SampleConfig(steps=1)).shape == (2, 4, 6)


def test_samples_look_like_their_class(digit_pictures, digit_splats, tmp_path):
    network = NetworkConfig(width=32, depth=1, heads=2)
    config = replace(TINY, network=network, steps=700, batch=64, rate=8e-3, average=0.97)
    events = [*train(digit_splats, config, tmp_path)]
    assert events[-1].loss < 0.75 * events[0].loss
    made = load_model(tmp_path / "model.safetensors")
    judge = train_classifier(
        digit_pictures.images[:1200], digit_pictures.labels[:1200], replace(ClassifierConfig.compact(), steps=100)
    )
    labels = torch.arange(200) % 10
    accuracies = []
    for guidance in (1.0, 2.0):
        tokens = generate(made, labels, SampleConfig(steps=10, guidance=guidance))
        assert tokens.isfinite().all()
        accuracies.append(judge.accuracy(rendered(made.layout, tokens), labels.numpy()))
    assert 0.4 < accuracies[0] < accuracies[1] and accuracies[1] > 0.75, accuracies


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: must be at least 1, got 0"),
        ({"batch": -1}, "batch: must be at least 1"),
        ({"network": NetworkConfig(30, 1, 4)}, "width: must be a multiple of twice the heads, 8, got 30"),
        ({"network": NetworkConfig(32, 1, 0)}, "heads: must be at least 1"),
        ({"network": NetworkConfig(32, 0, 1)}, "depth: must be at least 1"),
        ({"network": NetworkConfig(32, 1, 2, group=3)}, "group: squares of 3 do not divide 4x4 tokens"),
        ({"network": NetworkConfig(32, 1, 2, group=0)}, "group: must be at least 1"),
        ({"network": NetworkConfig(32, 1, 2, slots=False, group=2)}, "group: a set of tokens has no squares"),
        ({"tokens": "pixels", "patch": 3}, "patch: 3 pixels do not divide 8x8"),
        ({"tokens": "pixels", "patch": 0}, "patch: must be at least 1"),
        ({"tokens": "pixels", "render": 1.0}, "render: the pixel model has no splats"),
        ({"average": 1.0}, "average: must be at least 0 and below 1"),
        ({"drop": -0.1}, "drop: must be at least 0 and below 1"),
        ({"rate": float("nan")}, "rate: must be at least 0 and finite"),
        ({"middle": float("inf")}, "middle: must be finite"),
        ({"seed": -1}, "seed: must be 0 to 2147483647"),
    ],
)
def test_bad_configurations(digit_splats, tmp_path, changes, message):
    with pytest.raises(InputError, match=f"^{message}"):
        next(train(digit_splats, replace(TINY, **changes), tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_training_that_diverges_says_so(digit_splats, tmp_path):
    bad = replace(digit_splats, tokens=digit_splats.tokens * float("inf"))
    with pytest.raises(InputError, match=r"^step 2: the loss is nan; train in another folder at a lower rate"):
        [*train(bad, replace(TINY, steps=4, batch=8), tmp_path, report_every=2)]


def test_checkpoints_of_something_else(trained, digit_splats, tmp_path):
    data = (trained[0] / "checkpoint.safetensors").read_bytes()
    path = tmp_path / "checkpoint.safetensors"

    def refused(message, splats=digit_splats, config=TINY):
        with pytest.raises(InputError, match=message) as error:
            next(train(splats, config, tmp_path))
        assert str(path) in str(error.value) and "\n" not in str(error.value)

    path.write_bytes(data)
    refused("is of another configuration; give another folder", config=replace(TINY, steps=61))
    refused("is of another set of splats", splats=replace(digit_splats, tokens=digit_splats.tokens + 1))
    path.write_bytes(data[:-100])
    refused("cannot be read as safetensors")
    path.write_bytes(data.replace(b'\\"version\\": 2', b'\\"version\\": 7', 1))
    refused("is of version 7, this splat2d reads 2; make it again")
    path.write_bytes((trained[0] / "model.safetensors").read_bytes())
    refused(r"is not a checkpoint of splat2d \(it says model\)")
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        next(train(digit_splats, TINY, file))


LAUNCHED = """
import os, sys
import torch
from splat2d.cli import main
from splat2d.diffusion import training, updates

torch.set_num_threads(1)

class Recorded(updates.Update):
    def __call__(self, batch, rate):
        result = super().__call__(batch, rate)
        weights = torch.cat([weight.detach().flatten() for weight in self._network.parameters()])
        torch.save((batch.x, weights), f"rank{os.environ['RANK']}.pt")
        return result

training.Update = Recorded
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_learn_the_same_from_different_pictures(digit_splats, tmp_path):
    pytest.importorskip("accelerate", reason="accelerate, which starts several processes, is not installed")
    save_splats(tmp_path / "splats.safetensors", digit_splats)
    (tmp_path / "launched.py").write_text(LAUNCHED)
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    options = "--width 32 --depth 2 --heads 2 --steps 6 --batch 16 --report-every 3 --device cpu"
    command = f"{launch} --dynamo_backend no --main_process_port 0 launched.py diffusion train splats.safetensors"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, *command.split(), "-o", "model", *options.split()],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loss ") == 1 and "2 processes" in done.stdout
    (of_first, weights), (of_second, same) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert of_first.shape == of_second.shape == (8, 16, 6) and not torch.equal(of_first, of_second)
    assert torch.equal(weights, same)
    log = read_log(tmp_path / "model")
    assert [line["step"] for line in log] == [3, 6] and all(np.isfinite(line["loss"]) for line in log)
    assert generate(load_model(tmp_path / "model" / "model.safetensors"), torch.arange(2)).isfinite().all()


# --- models


@pytest.fixture(scope="module")
def made(trained):
    return load_model(trained[0] / "model.safetensors")


def test_samples_follow_seed_and_index_alone(made, monkeypatch):
    config = SampleConfig(steps=3, sampler="heun")
    labels = torch.arange(12) % 10
    told = []
    samples = generate(made, labels, config, lambda done, total: told.append((done, total)))
    assert samples.shape == (12, 16, 6) and samples.isfinite().all() and not samples.requires_grad
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert torch.equal(generate(made, labels, config), samples)
    torch.testing.assert_close(generate(made, labels[:5], config), samples[:5], atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(model_module, "AT_ONCE", 5 * 16)
    torch.testing.assert_close(generate(made, labels, config), samples, atol=1e-5, rtol=1e-5)
    assert (generate(made, labels, replace(config, seed=1)) - samples).abs().mean() > 0.1


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm++"])
def test_samplers_of_a_model_agree_where_steps_are_many(made, sampler):
    labels = torch.arange(4)
    exact = generate(made, labels, SampleConfig(steps=60, sampler="heun", guidance=1.0))
    found = generate(made, labels, SampleConfig(steps=200, sampler=sampler, guidance=1.0))
    assert (found - exact).abs().mean() < 0.02


def test_guidance_of_one_is_the_conditional_model(made):
    x, t, labels = torch.randn(3, 16, 6), torch.full((3,), 0.5), torch.tensor([1, 2, 3])
    conditional = made.clean(x, t, labels)
    assert torch.equal(made.denoiser(labels, 1.0)(x, t), conditional)
    free = made.clean(x, t, torch.full_like(labels, 10))
    torch.testing.assert_close(made.denoiser(labels, 2.0)(x, t), 2 * conditional - free, atol=1e-5, rtol=1e-5)


def test_whitening_is_of_the_pictures_to_train_on_and_gives_room_to_what_shows(made, digit_splats):
    tokens = digit_splats.tokens[torch.from_numpy(digit_splats.part(False))].float()
    mean, deviation = digit_splats.statistics()
    torch.testing.assert_close(made.mean, mean.expand(16, 6))
    room = deviation / made.deviation
    white = (made.whitened(tokens) / room).flatten(0, 1)
    torch.testing.assert_close(white.mean(0), torch.zeros(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(white.std(0), torch.ones(6), atol=1e-3, rtol=0)
    assert room.square().mean() == pytest.approx(1, rel=0.1)
    # What a small change of each number does to pictures, by differences.
    some = tokens[:200]
    shown = torch.empty(16, 6)
    for i, f in np.ndindex(16, 6):
        other = some.clone()
        other[:, i, f] += 0.05 * deviation[f]
        change = made.layout.pictures(other) - made.layout.pictures(some)
        shown[i, f] = change.square().flatten(1).sum(1).mean().sqrt()
    assert np.corrcoef(shown.flatten(), room.square().flatten())[0, 1] > 0.95
    torch.testing.assert_close(made.tokens(made.whitened(tokens)), tokens)


def test_a_model_survives_its_file(made, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, made, {"step": 3})
    again = load_model(path)
    assert (again.layout, again.names, again.prediction) == (made.layout, made.names, made.prediction)
    labels = torch.arange(3)
    config = SampleConfig(steps=2)
    assert torch.equal(generate(again, labels, config), generate(made, labels, config))


@pytest.mark.parametrize(
    ("labels", "config", "message"),
    [
        ([0], SampleConfig(steps=0), "steps: must be at least 1"),
        ([0], SampleConfig(seed=-1), "seed: must be 0 to"),
        ([0], SampleConfig(shift=0.0), "shift must be above 0"),
        ([0], SampleConfig(guidance=float("nan")), "shift must be above 0 and guidance finite"),
        ([], SampleConfig(), "labels: there are none"),
        ([-1, 3], SampleConfig(), "class: there are 10, numbered from 0, and 10 stands for any; got -1 to 3"),
        ([11], SampleConfig(), "class: there are 10"),
    ],
)
def test_bad_samples(made, labels, config, message):
    with pytest.raises(InputError, match=f"^{message}"):
        generate(made, torch.tensor(labels, dtype=torch.long), config)


def test_files_that_are_no_models(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    original = trained[0] / "model.safetensors"
    data = original.read_bytes()

    def refused(message):
        with pytest.raises(InputError, match=message) as error:
            load_model(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)

    refused("no such file")
    for old, new, message in (
        (b'\\"version\\": 1', b'\\"version\\": 2', "is of version 2, this splat2d reads 1; make it again"),
        (b'\\"width\\": 32', b'\\"width\\": 64', "cannot be read as a model of this version"),
        (b'\\"depth\\": 2', b'\\"depth\\": 1', "cannot be read as a model of this version"),
        (b'\\"classes\\": 10', b'\\"classes\\": 11', "cannot be read as a model of this version"),
        (b'\\"rows\\": 4', b'\\"rows\\": 3', "cannot be read as a model of this version"),
        (b'\\"mean\\": [', b'\\"mean\\": 8', "cannot be read as"),
    ):
        assert old in data
        path.write_bytes(data.replace(old, new, 1))
        refused(message)
    for broken in (b"", data[:500], data[:-1]):
        path.write_bytes(broken)
        refused("cannot be read as safetensors")
    path.write_bytes((trained[0] / "checkpoint.safetensors").read_bytes())
    refused(r"is not a model of splat2d \(it says checkpoint\)")
    save_file(load_file(original), path)
    refused(r"is not a model of splat2d \(it says nothing\)")


def test_a_model_of_another_set(made, digit_splats):
    check_same(made, digit_splats)
    pictures, layout = digit_splats.pictures, digit_splats.layout
    for splats, message in (
        (replace(digit_splats, layout=replace(layout, columns=9)), "makes 16 splats a picture, the set has 36"),
        (replace(digit_splats, layout=replace(layout, width=9)), r"pictures of \(8, 8, 1\)"),
        (replace(digit_splats, pictures=replace(pictures, names=("a",))), "knows classes 0, 1"),
    ):
        with pytest.raises(InputError, match=message):
            check_same(made, splats)
    pixels = Model(made.network, PatchLayout(8, 8, 1, 2), made.mean, made.deviation, made.names, "v")
    check_same(pixels, replace(digit_splats, layout=replace(layout, columns=9)))
