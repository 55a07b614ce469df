"""Writes what is missing among the files of tests/golden: python tests/golden/make.py

NAME.s2d is a file, NAME.i32 its integers [N, 5 + C] (vector profile: fields of records [N, 4 + colour codes], places
counted from the corner of all tiles) and NAME.f32 its splats [N, 5 + C] (x, y, a, b, c, colour) in the order of the
decoder, both little-endian. A file that is there stays as it is: every later version has to decode it to the same
numbers. Whoever has to change one breaks the files of all users.
"""

from pathlib import Path

import numpy as np

from splat2d import Metadata, Splats, codec
from splat2d.codec import vector
from splat2d.codec.quantizer import Quantized, quantize

HERE = Path(__file__).parent

# Name: splats, channels, width, height, quality index (None: vector profile), background, metadata. New ones come last,
# for the place is the seed.
CASES: dict[str, tuple[int, int, int, int, int | None, list[float], Metadata | None]] = {
    "empty": (0, 3, 5, 7, 64, [0.0, 0.2, 1.0], None),
    "one": (1, 1, 1, 1, 64, [128 / 255], None),
    "grey": (40, 1, 64, 48, 64, [0.4801], None),
    "colour": (300, 3, 320, 200, 83, [0.0, 128 / 255, 1.0], Metadata({"title": "Höhe"}, b"MM\0*", b"profile")),
    "packets": (900, 3, 512, 768, 115, [0.1, 0.2, 0.3], None),
    "alpha": (600, 4, 96, 64, 140, [0.0, 0.0, 0.0, 0.0], None),
    "plain": (30, 6, 200, 100, 96, [-1.5, 0.0, 7.0, 1e6, 0.25, 1.0], None),
    "coarse": (120, 3, 4096, 2048, 32, [1.0, 1.0, 1.0], None),
    "fine": (60, 3, 40, 30, 230, [1.0, 1.0, 1.0], None),
    "crowd": (600, 1, 8, 6, 70, [0.0], None),
    "vector-grey": (200, 1, 64, 48, None, [0.4801], None),
    "vector-colour": (300, 3, 320, 200, None, [0.0, 128 / 255, 1.0], Metadata({"title": "Höhe"}, b"MM\0*", b"profile")),
    "vector-alpha": (1100, 4, 96, 64, None, [0.0, 0.0, 0.0, 0.0], None),  # two packets
    "vector-empty": (0, 3, 5, 7, None, [0.0, 0.2, 1.0], None),
}


def some_splats(name: str) -> Splats:
    count, channels, width, height, _, background, _ = CASES[name]
    rng = np.random.default_rng([*CASES].index(name))
    size = np.log(np.sqrt(width * height / max(count, 1)))
    return Splats(
        means=rng.normal((width / 2, height / 2), (width / 3, height / 3), (count, 2)),
        log_cholesky=rng.normal((size, 0, size), (0.7, np.exp(size) / 2, 0.7), (count, 3)),
        colors=rng.normal(0, 1, (count, channels)) * np.exp(rng.normal(-1, 1, (count, 1))),
        width=width,
        height=height,
        background=background,
    )


def main() -> None:
    for name, (*_, quality_index, background, metadata) in CASES.items():
        path = HERE / f"{name}.s2d"
        if path.exists():
            continue
        splats = some_splats(name)
        if quality_index is None:
            records = vector.quantize(splats, vector.frame_for(splats))[0]
            data = codec.write_records(records, np.float32(background), metadata)
        else:
            data = codec.write(quantize(splats, quality_index)[0], np.float32(background), metadata)
        contents = codec.read(data)
        splats, found = contents.splats, contents.quantized
        integers = found.indices if isinstance(found, Quantized) else found.codes
        path.write_bytes(data)
        path.with_suffix(".i32").write_bytes(integers.astype("<i4").tobytes())
        rows = np.hstack([splats.means, splats.log_cholesky, splats.colors])
        path.with_suffix(".f32").write_bytes(rows.astype("<f4").tobytes())


if __name__ == "__main__":
    main()
