"""Trains the networks and the tables of the entropy coder, and writes them as native/codec/tables.h is written.

    python benchmarks/train_coder.py tables.h photos/*.jpg

Each picture is scaled down to each of --sides pixels and compressed at each of --rates bits per pixel. The plain
decoder of the tests tells what stood around every integer. Networks learn to foretell deviation and place of the
integers (in PyTorch, by the code length of a Laplace distribution) and are rounded to 8 bits; then the logits of the
tables are counted. Printed is what the integers of every fifth picture, which nothing learns from, cost if the first
guess for every decision were the last; a coder starts there and learns on the way.

The tables of the project are not from this script but from an earlier one of the same method, which was not kept. They
are part of the format: with others, files would be of another profile. Train on no picture that the codec is judged on.
"""

from __future__ import annotations

import argparse
import base64
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from machine import ROOT, describe
from numpy.typing import NDArray
from PIL import Image

from splat2d import codec
from splat2d.compression import compress

sys.path.append(str(ROOT / "tests"))
import reference_decoder as reference

Ints = NDArray[np.int64]

NETWORKS, HIDDEN, FEATURES, OUTPUTS, NODES = 6, reference.HIDDEN, reference.FEATURES, 2, reference.NODES
COLORS = 3  # the first networks; the others are of a, c, beta
SCALES, FINE, PLACES = 24, 8, 4
SHAPE_CONTEXTS = FINE * PLACES + SCALES - FINE
MOST_SHIFT = 8  # of a hidden unit
EVERY = 5  # of so many pictures one is there to judge
SIGNS = (24, 25, 26)  # nodes
NAMES = ("NetworkWeights", "NetworkBiases", "NetworkShifts", "ColorLogits", "ShapeLogits", "FewLogits", "ManyLogits")
Tables = dict[str, bytes]  # by these names, as they stand in the header


@dataclass(frozen=True, slots=True)
class Network:
    """In integers, as docs/format.md has it."""

    hidden: Ints  # [HIDDEN, FEATURES]
    output: Ints  # [OUTPUTS, HIDDEN]
    bias: Ints  # [HIDDEN + OUTPUTS]
    shift: Ints  # [HIDDEN + OUTPUTS]

    def __call__(self, features: Ints) -> tuple[Ints, Ints]:
        """Scale and place for features [N, FEATURES]."""
        hidden = np.clip((features @ self.hidden.T + self.bias[:HIDDEN]) >> self.shift[:HIDDEN], 0, 32767)
        scale, place = ((hidden @ self.output.T + self.bias[HIDDEN:]) >> self.shift[HIDDEN:]).T
        return scale, place


@dataclass(frozen=True, slots=True)
class Samples:
    """Integers of one network, with what is known before each."""

    features: Ints  # [N, FEATURES]
    index: Ints  # [N]
    step: Ints  # [N] of the fixed-point number, 1 / 65536; 0 for colours
    log2_step: Ints  # [N] in 1 / 256
    unit: Ints  # [N] what a and c are measured from, in 1 / 256; 0 for beta


@dataclass(frozen=True, slots=True)
class Recording:
    """What a coder met in some files."""

    samples: tuple[Samples, ...]  # by network
    counts: Ints  # [M, 4]: splats, weights of both halves, splats in the first half
    splats: int


class Recorder(reference.PacketDecoder):
    """Notes every integer, and what stood around it."""

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.met: list[list[list[int]]] = [[] for _ in range(NETWORKS)]
        self.halves: list[tuple[int, int, int, int]] = []

    def count(self, n: int, h: int, g: int) -> int:
        found = super().count(n, h, g)
        self.halves.append((n, h, g, found))
        return found

    def color(self, j: int, v: list[int], f: list[int]) -> int:
        index = super().color(j, v, f)
        self.met[min(j, 2)].append([*f, index, 0, 0, 0])
        return index

    def parameter(self, number: int, step: int, most: int, k: int, f: list[int]) -> int:
        index = super().parameter(number, step, most, k, f)
        is_shear = number == 5
        log2_step = min(0, reference.log2_unit(k) + (reference.ONE // 2 if is_shear else 0)) >> 8
        self.met[number].append([*f, index, step, log2_step, 0 if is_shear else self.unit])
        return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+", help="two or more")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.15, 0.4, 0.9], metavar="BPP")
    parser.add_argument("--preset", default="fast", choices=("fast", "balanced", "best"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if len(options.pictures) < 2:
        parser.error("one picture to judge, and others to learn from")
    print(describe(None))
    files = [(number, data) for number, path in enumerate(options.pictures) for data in compressed(path, options)]
    with ProcessPoolExecutor(options.workers) as pool:
        recordings = list(pool.map(record, [data for _, data in files]))
    judged = [number % EVERY == 0 for number, _ in files]
    held_out = together([found for found, judge in zip(recordings, judged, strict=True) if judge])
    seen = together([found for found, judge in zip(recordings, judged, strict=True) if not judge])
    print(f"{len(files)} files, {seen.splats} splats to learn from, {held_out.splats} to judge")
    tables = tables_of(train(seen, options.steps), seen)
    print("bits per splat at first sight    colour    shape    cells")
    for name, known in (
        ("untrained", tables_of(train(seen, 0), seen)),
        ("trained", tables),
        ("those of the format", shipped()),
    ):
        print(f"{name:<32}" + "".join(f"{bits:9.3f}" for bits in bits_per_splat(known, held_out)))
    options.output.write_text(header(tables), encoding="utf-8")


def compressed(path: Path, options: argparse.Namespace) -> Iterator[bytes]:
    """Files of a picture, at some sizes and rates."""
    with Image.open(path) as picture:
        picture.draft("RGB", (2 * max(options.sides), 2 * max(options.sides)))
        whole = picture.convert("RGB")
    for side in options.sides:
        small = whole.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        image = np.asarray(small, np.float32) / np.float32(255)
        for rate in options.rates:
            size = int(rate * small.width * small.height / 8)
            yield compress(image, bytes=size, preset=options.preset, device=options.device).data


def record(data: bytes) -> Recording:
    """What the coder of a .s2d file of the scalar profile meets."""
    contents = codec.read(data)
    lattice = contents.quantized.lattice
    recorder = Recorder(contents.splats.channels, lattice.width, lattice.height, lattice.cell_exponent, lattice.margin)
    for packet in contents.container.packets:
        recorder.decode(packet.payload, packet.count)
    samples = []
    for rows in recorder.met:
        table = np.array(rows, np.int64).reshape(len(rows), FEATURES + 4)
        samples.append(Samples(table[:, :FEATURES], *table[:, FEATURES:].T))
    return Recording(tuple(samples), np.array(recorder.halves, np.int64).reshape(-1, 4), len(contents.splats))


def together(recordings: Sequence[Recording]) -> Recording:
    def joined(number: int, name: str) -> Ints:
        return np.concatenate([getattr(found.samples[number], name) for found in recordings])

    fields = ("features", "index", "step", "log2_step", "unit")
    samples = tuple(Samples(*(joined(number, name) for name in fields)) for number in range(NETWORKS))
    return Recording(
        samples, np.concatenate([found.counts for found in recordings]), sum(found.splats for found in recordings)
    )


# Networks ------------------------------------------------------------------------------------------------------------


def train(recording: Recording, steps: int, batch: int = 4096) -> list[Network]:
    """Networks after so many steps each; 0: as they start."""
    return [trained(number, samples, steps, batch) for number, samples in enumerate(recording.samples)]


def trained(number: int, samples: Samples, steps: int, batch: int) -> Network:
    torch.manual_seed(number)
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    hidden, output = torch.nn.Linear(FEATURES, HIDDEN), torch.nn.Linear(HIDDEN, OUTPUTS)
    if steps and len(samples.index):
        given = {name: torch.tensor(getattr(samples, name), dtype=torch.float32) for name in Samples.__slots__}
        given["features"] /= 256
        optimizer = torch.optim.Adam([*hidden.parameters(), *output.parameters()], lr=5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            chosen = torch.randint(len(samples.index), (min(batch, len(samples.index)),))
            some = {name: values[chosen] for name, values in given.items()}
            scale, place = output(hidden(some["features"]).clamp(0, 127)).T
            loss = (color_bits if number < COLORS else shape_bits)(scale, place, some).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return rounded(hidden, output)


def color_bits(scale: torch.Tensor, place: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Code length of an index about 0; place: the logit of a negative sign, in nats."""
    index = given["index"]
    sign = torch.nn.functional.softplus(torch.where(index < 0, -place, place)) / math.log(2)
    return laplace_bits(index, scale) + torch.where(index == 0, 0.0, sign - 1)


def shape_bits(scale: torch.Tensor, place: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Code length of an index about the place, in natural units as the scale."""
    mean = 256 * (256 * place + given["unit"]) / given["step"]
    return laplace_bits(given["index"] - mean, scale - given["log2_step"] / 256)


def laplace_bits(difference: torch.Tensor, log2_deviation: torch.Tensor) -> torch.Tensor:
    """Code length of the integer at this difference from the mean of a Laplace distribution."""
    rate = math.sqrt(2) * torch.exp2(-log2_deviation.clamp(-4, 20))
    away = difference.abs()
    inside = 1 - torch.exp(-rate / 2) * torch.cosh(rate * away.clamp(max=0.5))  # the mean lies within the step
    outside = torch.sinh((rate / 2).clamp(max=40)).log() - rate * away.clamp(min=0.5)
    return -torch.where(away < 0.5, inside.clamp(min=1e-9).log(), outside) / math.log(2)


def rounded(hidden: torch.nn.Linear, output: torch.nn.Linear) -> Network:
    """Weights in 8 bits, shifts as large as these allow."""
    weights, biases, shifts = [], [], []
    for layer, most in ((hidden, MOST_SHIFT), (output, 15)):
        weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
        fits = np.floor(np.log2(127 / np.maximum(np.abs(weight).max(1), 1e-9)))
        shift = np.clip(fits, 0, most).astype(np.int64)
        weights.append(np.clip(np.rint(weight * 2.0 ** shift[:, None]), -127, 127).astype(np.int64))
        biases.append(np.rint(bias * 256 * 2.0**shift).astype(np.int64))
        shifts.append(shift)
    return Network(*weights, np.concatenate(biases), np.concatenate(shifts))


# Tables --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decisions:
    """Some decisions of integers: which integer, which node, the bit."""

    integer: Ints
    node: Ints
    bit: NDArray[np.bool_]


def decisions(values: Ints, likely: Ints) -> tuple[Decisions, Ints]:
    """All decisions about some integers with their likely lengths, and how many plain bits follow each."""
    magnitude, length = np.abs(values), likely.copy()
    asked: list[tuple[Ints, Ints, NDArray[np.bool_]]] = []

    def ask(who: Ints, node: Ints, bit: NDArray[np.bool_]) -> NDArray[np.bool_]:
        asked.append((who, node, bit))
        return bit

    def longer(who: Ints, than: Ints) -> NDArray[np.bool_]:
        return magnitude[who] >> than != 0

    everyone = np.arange(len(values))
    up = ask(everyone, np.minimum(length, 13), longer(everyone, length))
    who = everyone[up]
    while len(who):
        length[who] += 1
        who = who[ask(who, np.minimum(length[who], 13), longer(who, length[who]))]
    who = everyone[~up]
    while len(who := who[length[who] > 0]):
        who = who[ask(who, 14 + np.minimum(length[who] - 1, 9), ~longer(who, length[who] - 1))]
        length[who] -= 1
    who = everyone[length > 0]
    ask(who, 23 + np.minimum(length[who], 3), values[who] < 0)
    who = everyone[length > 1]
    ask(who, 25 + np.minimum(length[who], 8), (magnitude[who] >> (length[who] - 2) & 1) > 0)
    who = everyone[length > 2]
    upper = magnitude[who] >> (length[who] - 2) & 1
    ask(who, 34 + 2 * (np.minimum(length[who], 8) - 3) + upper, (magnitude[who] >> (length[who] - 3) & 1) > 0)
    integer, node, bit = (np.concatenate(parts) for parts in zip(*asked, strict=True))
    return Decisions(integer, node, bit), np.maximum(length - 3, 0)


@dataclass(frozen=True, slots=True)
class Coded:
    """The decisions of a table."""

    entry: Ints  # of the table
    bit: NDArray[np.bool_]
    prior: NDArray[np.float64]  # logit in nats that stands in the table's place, or NaN
    plain: int  # bits beside them


def likely_length(z: Ints) -> Ints:
    return np.maximum(0, z // 2 - 2)


def color_decisions(number: int, network: Network, samples: Samples) -> Coded:
    scale, place = network(samples.features)
    z = np.clip((scale + 768) >> 7, 0, SCALES - 1)
    made, plain = decisions(samples.index, likely_length(z))
    signs = np.where(np.isin(made.node, SIGNS), np.clip(place, -2047, 2047)[made.integer] / 256, np.nan)
    return Coded((number * SCALES + z[made.integer]) * NODES + made.node, made.bit, signs, int(plain.sum()))


def shape_decisions(network: Network, samples: Samples) -> Coded:
    scale, place = network(samples.features)
    step = samples.step
    z = np.clip((scale - samples.log2_step + 768) >> 7, 0, SCALES - 1)
    mean = 256 * (place + samples.unit)
    near = (mean + step // 2) // step
    rest = mean - near * step
    context = np.where(z < FINE, PLACES * z + np.minimum(8 * np.abs(rest) // step, PLACES - 1), z + FINE * (PLACES - 1))
    made, plain = decisions(np.where(rest < 0, -1, 1) * (samples.index - near), likely_length(z))
    return Coded(context[made.integer] * NODES + made.node, made.bit, np.full(len(made.bit), np.nan), int(plain.sum()))


def cell_decisions(counts: Ints) -> tuple[Coded, Coded]:
    """Those of few splats, and of many. A single splat goes by its place alone."""
    n, h, g, found = counts[counts[:, 0] >= 8].T
    q = np.array([min(int(i).bit_length() - 1, SCALES - 1) for i in n], np.int64)
    made, plain = decisions(found - (n * h + (h + g) // 2) // (h + g), q // 2)
    many = Coded(q[made.integer] * NODES + made.node, made.bit, np.full(len(made.bit), np.nan), int(plain.sum()))
    entries, bits, priors = [], [], []
    for n, h, g, found in counts[counts[:, 0] < 8].tolist():
        lean = reference.log2(h) - reference.log2(g)
        c = min(max((lean + 64 + 1024) >> 7, 0), 16)
        for i in range(min(found + 1, n)):
            entries.append((c * 8 + n) * 8 + i)
            bits.append(found > i)
            priors.append(min(max((177 * lean) >> 8, -2047), 2047) / 256 if n == 1 else math.nan)
    return Coded(np.array(entries, np.int64), np.array(bits, bool), np.array(priors), 0), many


def all_decisions(networks: Sequence[Network], recording: Recording) -> dict[str, list[Coded]]:
    """By the name of their table."""
    samples = recording.samples
    few, many = cell_decisions(recording.counts)
    return {
        "ColorLogits": [color_decisions(i, networks[i], samples[i]) for i in range(COLORS)],
        "ShapeLogits": [shape_decisions(networks[i], samples[i]) for i in range(COLORS, NETWORKS)],
        "FewLogits": [few],
        "ManyLogits": [many],
    }


SIZES = {
    "ColorLogits": COLORS * SCALES * NODES,
    "ShapeLogits": SHAPE_CONTEXTS * NODES,
    "FewLogits": 17 * 8 * 8,
    "ManyLogits": SCALES * NODES,
}


def tables_of(networks: Sequence[Network], recording: Recording) -> Tables:
    """Networks and the tables that go with them; a decision that was never met is even."""
    tables = packed(networks)
    for name, coded in all_decisions(networks, recording).items():
        counts = np.zeros((2, SIZES[name]))
        for some in coded:
            at = np.isnan(some.prior)
            for bit in (0, 1):
                counts[bit] += np.bincount(some.entry[at][some.bit[at] == bit], minlength=SIZES[name])
        logits = np.rint(16 * np.log((counts[1] + 0.4) / (counts[0] + 0.4)))
        tables[name] = np.clip(logits, -127, 127).astype(np.int8).tobytes()
    return tables


def bits_per_splat(tables: Tables, recording: Recording) -> tuple[float, float, float]:
    """Of colour, shape and cells, if the first guess for every decision were the last."""
    bits = {}
    for name, coded in all_decisions(unpacked(tables), recording).items():
        table = np.frombuffer(tables[name], np.int8).astype(np.float64) / 16
        bits[name] = 0.0
        for some in coded:
            logits = np.where(np.isnan(some.prior), table[some.entry], some.prior)
            bits[name] += np.logaddexp(0, np.where(some.bit, -logits, logits)).sum() / math.log(2) + some.plain
    cells = bits["FewLogits"] + bits["ManyLogits"]
    count = max(recording.splats, 1)
    return bits["ColorLogits"] / count, bits["ShapeLogits"] / count, cells / count


# Bytes ---------------------------------------------------------------------------------------------------------------


def packed(networks: Sequence[Network]) -> Tables:
    weights = [part.ravel() for network in networks for part in (network.hidden, network.output)]
    return {
        "NetworkWeights": np.concatenate(weights).astype(np.int8).tobytes(),
        "NetworkBiases": np.concatenate([network.bias for network in networks]).astype("<i4").tobytes(),
        "NetworkShifts": np.concatenate([network.shift for network in networks]).astype(np.int8).tobytes(),
    }


def unpacked(tables: Tables) -> list[Network]:
    weights = np.frombuffer(tables["NetworkWeights"], np.int8).reshape(NETWORKS, -1).astype(np.int64)
    inner = HIDDEN * FEATURES
    biases = np.frombuffer(tables["NetworkBiases"], "<i4").reshape(NETWORKS, -1).astype(np.int64)
    shifts = np.frombuffer(tables["NetworkShifts"], np.int8).reshape(NETWORKS, -1).astype(np.int64)
    return [
        Network(w[:inner].reshape(HIDDEN, FEATURES), w[inner:].reshape(OUTPUTS, HIDDEN), bias, shift)
        for w, bias, shift in zip(weights, biases, shifts, strict=True)
    ]


def shipped() -> Tables:
    return {name: reference.table(f"k{name}") for name in NAMES}


def header(tables: Tables) -> str:
    """The text of native/codec/tables.h."""
    arrays = []
    for name in NAMES:
        text = base64.b64encode(tables[name]).decode()
        lines = [f'    "{text[i : i + 110]}"' for i in range(0, len(text), 110)]
        arrays.append(f"constexpr char k{name}[] =\n" + "\n".join(lines) + ";\n")
    start, end = (
        "namespace splat2d::codec {\n\n// clang-format off\n",
        "// clang-format on\n\n}  // namespace splat2d::codec\n",
    )
    return OPENING + start + "\n".join(arrays) + end


OPENING = """\
// Tables of the format, trained on photos; docs/format.md says what they hold. Base64 of 8-bit integers, of 32-bit ones
// (lowest byte first) for the biases.
#pragma once

"""

if __name__ == "__main__":
    main()
