"""A decoder of packets in plain Python integers, from docs/format.md and the tables alone. Clear, not fast."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ONE = 65536
TABLES = Path(__file__).parents[1] / "native" / "codec" / "tables.h"

Cell = tuple[int, int]
Decide = Callable[[int], int]  # reads the decision of a node


class BadPacketError(Exception):
    pass


def require(ok: bool) -> None:
    if not ok:
        raise BadPacketError


def clamp(x: int, low: int, high: int) -> int:
    return max(low, min(x, high))


def lim(x: int) -> int:
    return clamp(x, -4095, 4095)


def divide(x: int, y: int) -> int:
    """Cuts off what is behind the point."""
    return -(-x // y) if x < 0 else x // y


# Model -----------------------------------------------------------------------------------------------------------


def energy_class(squares: int) -> int:
    k = 0
    # T_k <= S in integers: T_k is the least n with n >= 0.49 * 2^(k - 1/2), that is 20000 n^2 >= 2401 * 4^k.
    while 20000 * squares**2 >= 2401 * 4 ** (k + 1):
        k += 1
    return k


def unit(k: int) -> float:
    return math.sqrt(2) / 0.7 * 2 ** (-k / 2)


def step_log(k: int) -> int:
    return max(1, round(ONE * min(1, unit(k))))


def step_shear(k: int) -> int:
    return max(1, round(ONE * min(1, math.sqrt(2) * unit(k))))


def log2_unit(k: int) -> int:
    return round(ONE * math.log2(unit(k)))


def refinement(fixed: int, k: int, cell_exponent: int) -> int:
    return clamp((ONE * cell_exponent - log2_unit(k) - ((94548 * fixed) >> 16) + ONE // 2) >> 16, 0, 14)


# Tables ----------------------------------------------------------------------------------------------------------


def table(name: str) -> bytes:
    text = re.search(rf"{name}\[\] =((?:\s*\"[^\"]*\")+);", TABLES.read_text(encoding="utf-8"))
    assert text is not None
    return base64.b64decode("".join(re.findall(r"\"([^\"]*)\"", text[1])))


def signed(data: bytes) -> list[int]:
    return [byte - 256 if byte > 127 else byte for byte in data]


WEIGHTS, SHIFTS = signed(table("kNetworkWeights")), signed(table("kNetworkShifts"))
BIASES = [
    int.from_bytes(four, "little", signed=True) for four in zip(*[iter(table("kNetworkBiases"))] * 4, strict=True)
]
COLOR, SHAPE, FEW, MANY = (signed(table(f"k{name}Logits")) for name in ("Color", "Shape", "Few", "Many"))
NODES = 46
FEATURES, HIDDEN = 48, 16


def network(number: int, features: list[int]) -> tuple[int, int]:
    """scale, place"""
    weights = WEIGHTS[number * (FEATURES + 2) * HIDDEN :]
    first = number * (HIDDEN + 2)
    biases, shifts = BIASES[first:], SHIFTS[first:]
    hidden = []
    for i in range(HIDDEN):
        total = biases[i] + sum(w * f for w, f in zip(weights[i * FEATURES :], features, strict=False))
        hidden.append(clamp(total >> shifts[i], 0, 32767))
    outputs = []
    for i in range(2):
        row = weights[FEATURES * HIDDEN + i * HIDDEN :]
        total = biases[HIDDEN + i] + sum(w * h for w, h in zip(row, hidden, strict=False))
        outputs.append(total >> shifts[HIDDEN + i])
    return outputs[0], outputs[1]


# Bits ------------------------------------------------------------------------------------------------------------


def log2(n: int) -> int:
    e = n.bit_length() - 1
    t = (n << 8 >> e) & 255
    return 256 * e + round(256 * math.log2(1 + t / 256))


def squash(logit: int) -> int:
    return round(ONE / (1 + math.exp(-logit / 256)))


def stretch(p: int) -> int:
    i = p >> 4
    return clamp(round(256 * math.log((i + 0.5) / (4095.5 - i))), -2047, 2047)


@dataclass
class Counter:
    p: int
    seen: int

    def learn(self, bit: int) -> None:
        self.p += ((65535 - self.p if bit else -self.p) * (131072 // (2 * self.seen + 3))) >> 16
        self.seen = min(self.seen + 1, 127)


@dataclass
class Bits:
    """The range coder over one payload."""

    payload: bytes
    at: int = 0
    code: int = 0
    range: int = 2**32 - 1

    def __post_init__(self) -> None:
        for _ in range(4):
            self.code = self.code << 8 | self.next_byte()

    def next_byte(self) -> int:
        require(self.at < len(self.payload) + 4)
        self.at += 1
        return self.payload[self.at - 1] if self.at <= len(self.payload) else 0

    def read(self, p: int) -> int:
        bound = (self.range >> 16) * p + (((self.range & 65535) * p) >> 16)
        bit = int(self.code < bound)
        if bit:
            self.range = bound
        else:
            self.code -= bound
            self.range -= bound
        while self.range < 2**24:
            self.code = self.code << 8 | self.next_byte()
            self.range <<= 8
        return bit

    def plain(self, count: int) -> int:
        number = 0
        for _ in range(count):
            number = number << 1 | self.read(32768)
        return number

    def by_counter(self, counters: dict[tuple[int, ...], Counter], key: tuple[int, ...], prior: int, trust: int) -> int:
        counter = counters.setdefault(key, Counter(squash(prior), trust))
        bit = self.read(clamp(counter.p, 32, 65504))
        counter.learn(bit)
        return bit

    def by_two(
        self,
        counters: dict[tuple[int, ...], Counter],
        keys: list[tuple[int, ...]],
        weights: list[int],
        prior: int,
        trust: int,
    ) -> int:
        chosen = [counters.setdefault(key, Counter(squash(prior), trust)) for key in keys]
        logits = [prior, *(stretch(counter.p) for counter in chosen)]
        total = sum(w * logit for w, logit in zip(weights, logits, strict=True))
        p = clamp(squash(clamp(total >> 16, -2047, 2047)), 32, 65504)
        bit = self.read(p)
        error = ONE * bit - p
        for i, logit in enumerate(logits):
            weights[i] = clamp(weights[i] + ((logit * error + 16384) >> 15), -(2**20), 2**20)
        for counter in chosen:
            counter.learn(bit)
        return bit

    def integer(self, likely: int, most: int, decide: Decide) -> int:
        length = likely
        if decide(min(length, 13)):
            length += 1
            while length < 32 and decide(min(length, 13)):
                length += 1
        else:
            while length > 0 and decide(14 + min(length - 1, 9)):
                length -= 1
        if length == 0:
            return 0
        negative = decide(23 + min(length, 3))
        magnitude = 1
        if length >= 2:
            magnitude = magnitude << 1 | decide(25 + min(length, 8))
        if length >= 3:
            magnitude = magnitude << 1 | decide(34 + 2 * (min(length, 8) - 3) + (magnitude & 1))
        if length >= 4:
            magnitude = magnitude << (length - 3) | self.plain(length - 3)
        require(magnitude <= most)
        return -magnitude if negative else magnitude


# Packets ---------------------------------------------------------------------------------------------------------


@dataclass
class Splat:
    cell: Cell
    place: Cell  # 1/16 of a cell
    row: list[int] = field(default_factory=list)
    traits: list[int] = field(default_factory=list)  # empty: not decoded


class PacketDecoder:
    def __init__(self, channels: int, width: int, height: int, cell_exponent: int, margin: int) -> None:
        self.channels, self.cell_exponent = channels, cell_exponent
        self.columns, self.rows = (math.ceil(side * 2.0**-cell_exponent) + 2 * margin for side in (width, height))
        self.splats: list[Splat] = []
        self.packet = -1
        self.means = [0] * (5 + channels)
        self.counters: dict[tuple[int, ...], Counter] = {}
        self.weights: dict[tuple[int, int], list[int]] = {}

    def decode(self, payload: bytes, count: int) -> list[list[int]]:
        """The rows of a packet: X, Y, i_a, i_b, i_c, i_v0 .."""
        self.bits = Bits(payload)
        self.packet += 1
        known = [splat.cell for splat in self.splats]
        start = len(self.splats)
        for x, y in self.cells((0, 0, self.columns, self.rows), count, known):
            self.splats.append(Splat((x, y), (16 * x + 8, 16 * y + 8)))
        if count:
            self.begin_squares()
        for number in range(start, start + count):
            self.splat(number, number - start + 1)
        require(self.bits.at >= len(payload))
        return [splat.row for splat in self.splats[start:]]

    # Cells

    def cells(self, region: tuple[int, int, int, int], n: int, known: list[Cell]) -> list[Cell]:
        x, y, columns, rows = region
        if n == 0:
            return []
        if columns == rows == 1:
            return [(x, y)] * n
        if columns >= rows:
            side, first = columns, columns // 2
            low, high = (x, y, first, rows), (x + first, y, columns - first, rows)
            known_low = [cell for cell in known if cell[0] < x + first]
            known_high = [cell for cell in known if cell[0] >= x + first]
        else:
            side, first = rows, rows // 2
            low, high = (x, y, columns, first), (x, y + first, columns, rows - first)
            known_low = [cell for cell in known if cell[1] < y + first]
            known_high = [cell for cell in known if cell[1] >= y + first]
        h, g = len(known_low) * side + 10 * first, len(known_high) * side + 10 * (side - first)
        while h + g >= 2**24:
            h, g = h >> 1, g >> 1
        in_low = self.count(n, max(h, 1), max(g, 1))
        return self.cells(low, in_low, known_low) + self.cells(high, n - in_low, known_high)

    def count(self, n: int, h: int, g: int) -> int:
        if n >= 8:
            mean = (n * h + (h + g) // 2) // (h + g)
            q = min(n.bit_length() - 1, 23)
            count = mean + self.bits.integer(
                q // 2,
                n,
                lambda node: self.bits.by_counter(self.counters, (0, q, node), 16 * MANY[q * NODES + node], 40),
            )
            require(0 <= count <= n)
            return count
        lean = log2(h) - log2(g)
        c = clamp((lean + 64 + 1024) >> 7, 0, 16)
        for i in range(n):
            prior = clamp((177 * lean) >> 8, -2047, 2047) if n == 1 else 16 * FEW[(c * 8 + n) * 8 + i]
            if not self.bits.by_counter(self.counters, (1, c, n, i), prior, 16):
                return i
        return n

    # Features

    def begin_squares(self) -> None:
        self.q = 0
        while (((self.columns - 1) >> self.q) + 1) * (((self.rows - 1) >> self.q) + 1) > 3 * len(self.splats):
            self.q += 1
        self.squares: dict[Cell, list[int]] = {}
        for number, splat in enumerate(self.splats):
            self.squares.setdefault((splat.cell[0] >> self.q, splat.cell[1] >> self.q), []).append(number)
        self.unit = 177 * (self.cell_exponent + self.q)

    def features(self, number: int) -> list[int]:
        q, own = self.q, self.splats[number]
        x, y = own.place[0] >> q, own.place[1] >> q
        column, row = own.cell[0] >> q, own.cell[1] >> q
        known = [0, 0, 0]
        xx = yy = xy = 0
        weight = 128
        sums = [0] * (5 + 2 * self.channels)
        decoded = []
        for j in range(row - 2, row + 3):
            in_row: list[int] = []
            for i in range(column - 2, column + 3):
                here = self.squares.get((i, j), [])
                in_row += here
                for ring in range(max(abs(i - column), abs(j - row)), 3):
                    known[ring] += len(here)
            for other in in_row[-24:]:
                if other == number:
                    continue
                splat = self.splats[other]
                dx, dy = (splat.place[0] >> q) - x, (splat.place[1] >> q) - y
                d = dx * dx + dy * dy
                w = 32768 // (min(d >> 2, 1023) + 16)
                xx, yy, xy = xx + w * dx * dx, yy + w * dy * dy, xy + w * dx * dy
                if splat.traits:
                    weight += w
                    sums = [s + w * trait for s, trait in zip(sums, splat.traits, strict=True)]
                    decoded.append((d, splat.traits, dx, dy))
        decoded.sort(key=lambda entry: entry[0])  # stable
        running = [mean >> 4 for mean in self.means]
        offsets = [0, self.unit, self.unit, 0, 0]
        f = [lim(256 * (self.cell_exponent + q)), 256 if self.packet == 0 else 0, 256 * min(self.packet, 3)]
        f += map(log2, known)
        f += [divide(256 * (xx - yy), xx + yy + 1), divide(512 * xy, xx + yy + 1), lim(log2(weight))]
        f += [lim(divide(sums[i] + 128 * running[i], weight) - offsets[i]) for i in range(5)]
        for i in range(2):
            if i < len(decoded):
                _, traits, dx, dy = decoded[i]
                f += [traits[0], lim(traits[1] - self.unit), lim(traits[2] - self.unit), traits[3], traits[6]]
                f += [16 * dx, 16 * dy]
            else:
                f += [0] * 7
        f += [lim(running[i] - offsets[i]) for i in range(5)]
        self.colors = [
            [
                divide(sums[5 + 2 * c] + 128 * running[5 + c], weight),
                divide(sums[6 + 2 * c], weight),
                lim(running[5 + c]),
            ]
            for c in range(self.channels)
        ]
        for c in range(3):
            f += self.color_features(c)
        return [*f, 0, 0, 0, 0, 0, 0]

    def color_features(self, channel: int) -> list[int]:
        return self.colors[channel] if channel < self.channels else [0, 0, 0]

    @staticmethod
    def mag(v: int) -> int:
        return lim(log2(2 * abs(v) + 1) - 256)

    @staticmethod
    def sig(v: int) -> int:
        return lim(log2(abs(v) + 1) * (-1 if v < 0 else 1))

    # Splats

    def splat(self, number: int, rank: int) -> None:
        f = self.features(number)
        splat = self.splats[number]
        v: list[int] = []
        for j in range(self.channels):
            v.append(self.color(j, v, list(f)))
        k = energy_class(sum(i * i for i in v))
        log, shear = step_log(k), step_shear(k)
        f[42:46] = [128 * k, self.sig(v[0]), *(self.mag(v[j]) if j < self.channels else 0 for j in (1, 2))]
        i_a = self.parameter(3, log, 20 * ONE // log, k, f)
        f[46] = lim((i_a * log >> 8) - self.unit)
        i_c = self.parameter(4, log, 20 * ONE // log, k, f)
        f[47] = lim((i_c * log >> 8) - self.unit)
        i_b = self.parameter(5, shear, (2**31 - 1) // shear, k, f)
        position, place = [], []
        for cell, index in zip(splat.cell, (i_a, i_c), strict=True):
            r = refinement(index * log, k, self.cell_exponent)
            position.append(cell << r | self.bits.plain(r))
            place.append(position[-1] >> (r - 4) if r >= 4 else (position[-1] << (4 - r)) + (8 >> r))
        splat.row = [*position, i_a, i_b, i_c, *v]
        splat.place = (place[0], place[1])
        beta = lim(i_b * shear >> 8)
        splat.traits = [128 * k, lim(i_a * log >> 8), lim(i_c * log >> 8), beta, abs(beta)]
        for i in v:
            splat.traits += [self.mag(i), self.sig(i)]
        d = min(5, rank.bit_length())
        for i, trait in enumerate(splat.traits[:5] + splat.traits[5::2]):
            self.means[i] += (16 * trait - self.means[i]) >> d

    def color(self, j: int, v: list[int], f: list[int]) -> int:
        def size(value: int) -> int:
            return min((2 * abs(value) + 1).bit_length() - 1, 7)

        if j > 0:
            f[42:46] = [self.sig(v[0]), self.mag(v[0]), self.sig(v[j - 1]), self.mag(v[j - 1])]
        if j > 2:
            f[36:42] = self.color_features(j - 1) + self.color_features(j)
        number = min(j, 2)
        scale, place = network(number, f)
        z = clamp((scale + 768) >> 7, 0, 23)
        sign = clamp(place, -2047, 2047)
        second = 8 * (min(self.packet, 3) if j < 2 else size(v[0])) + (size(v[j - 1]) if j > 0 else 0)

        def decide(node: int) -> int:
            is_sign = node in (24, 25, 26)
            prior = sign if is_sign else 16 * COLOR[(number * 24 + z) * NODES + node]
            first = clamp((sign + 256) >> 6, 0, 7) if is_sign else z
            weights = self.weights.setdefault((j, node), [36000, 18000, 18000])
            return self.bits.by_two(self.counters, [(2, j, first, node), (3, j, second, node)], weights, prior, 4)

        return self.bits.integer(max(0, z // 2 - 2), 2**20 - 1, decide)

    def parameter(self, number: int, step: int, most: int, k: int, f: list[int]) -> int:
        scale, place = network(number, f)
        is_shear = number == 5
        log2_step = min(0, log2_unit(k) + (ONE // 2 if is_shear else 0)) >> 8
        z = clamp((scale - log2_step + 768) >> 7, 0, 23)
        mean = 256 * (place + (0 if is_shear else self.unit))
        near = (mean + step // 2) // step
        rest = mean - near * step
        near = clamp(near, -most, most)
        side = -1 if rest < 0 else 1
        y = min(8 * abs(rest) // step, 3)
        context = 4 * z + y if z < 8 else z + 24

        def decide(node: int) -> int:
            return self.bits.by_counter(
                self.counters, (4, number, context, node), 16 * SHAPE[context * NODES + node], 40
            )

        index = near + side * self.bits.integer(max(0, z // 2 - 2), 2 * most, decide)
        require(-most <= index <= most)
        return index


def decode_packets(
    payloads: list[bytes],
    counts: list[int],
    channels: int,
    *,
    width: int,
    height: int,
    cell_exponent: int,
    margin: int,
) -> list[list[int]]:
    """As splat2d._cpu.decode_packets, without the bits. Raises BadPacketError."""
    decoder = PacketDecoder(channels, width, height, cell_exponent, margin)
    return [row for payload, count in zip(payloads, counts, strict=False) for row in decoder.decode(payload, count)]
