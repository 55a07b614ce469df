"""Splats in files: exact, deterministic, complete or absent, and one line for whatever is damaged."""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat2d import InputError, Splats, load, save
from splat2d.atomic import replacing

ARRAYS = ("means", "log_cholesky", "colors", "background")


def some_splats(count: int = 20, channels: int = 3) -> Splats:
    rng = np.random.default_rng(0)
    return Splats(
        means=rng.normal(size=(count, 2)),
        log_cholesky=rng.normal(size=(count, 3)),
        colors=rng.normal(size=(count, channels)),
        width=31,
        height=17,
        background=rng.normal(size=channels),
    )


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize(("count", "channels"), [(0, 1), (1, 3), (20, 4), (5, 9)])
def test_round_trip_is_exact(tmp_path: Path, count: int, channels: int) -> None:
    splats = some_splats(count, channels)
    save(tmp_path / "a.npz", splats)
    again = load(tmp_path / "a.npz")
    assert (again.width, again.height) == (31, 17)
    for name in ARRAYS:
        assert getattr(again, name).tobytes() == getattr(splats, name).tobytes()


def test_same_splats_give_the_same_bytes(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", some_splats())
    save(str(tmp_path / "b.NPZ"), some_splats())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.NPZ").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npz", "b.NPZ"]


@pytest.mark.parametrize("name", ["a.s3d", "a", "a.png"])
def test_unknown_suffix_names_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"known: \.npz \.s2d"):
        save(tmp_path / name, some_splats())
    assert "known: .npz .s2d" in refusal(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "a.npz")
    (tmp_path / "b.npz").mkdir()
    assert "is a folder" in refusal(tmp_path / "b.npz")


def contents(**changes: Any) -> dict[str, Any]:
    splats = some_splats()
    fields = {name: getattr(splats, name) for name in ARRAYS}
    return {"format": "splat2d", "version": 1, "width": 31, "height": 17, **fields, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "holds no splats"),
        ({"version": 2}, "update splat2d"),
        ({"width": 0}, "Splats.width"),
        ({"width": 3.5}, "whole numbers"),
        ({"height": np.array([1, 2])}, "whole numbers"),
        ({"means": np.zeros((20, 2))}, "float32"),
        ({"means": np.zeros((19, 2), np.float32)}, "Splats.means: expected shape (20, 2), got (19, 2)"),
        ({"colors": np.full((20, 3), np.nan, np.float32)}, "Splats.colors: every value must be finite"),
        ({"log_cholesky": np.array(["a"])}, "float32"),
        ({"background": np.array([{}], dtype=object)}, "allow_pickle"),
    ],
)
def test_contents_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **contents(**changes))
    assert message in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["format", "version", "width", "height", *ARRAYS])
def test_missing_fields(tmp_path: Path, name: str) -> None:
    fields = contents()
    del fields[name]
    np.savez(tmp_path / "a.npz", **fields)
    refusal(tmp_path / "a.npz")


def test_damaged_files(tmp_path: Path) -> None:
    save(tmp_path / "a.npz", some_splats())
    data = (tmp_path / "a.npz").read_bytes()
    broken = tmp_path / "b.npz"
    for length in range(0, len(data), 37):
        broken.write_bytes(data[:length])
        refusal(broken)
    rng = np.random.default_rng(0)
    for _ in range(200):  # a flipped byte is either noticed or harmless, such as one in a date
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        broken.write_bytes(changed)
        with suppress(InputError):
            load(broken)
    np.save(tmp_path / "c", np.zeros(3))
    (tmp_path / "c.npy").rename(broken)
    refusal(broken)


# Written files


def test_a_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".txt"
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(error), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert not list(tmp_path.iterdir())

    target.write_text("old")
    with pytest.raises(error), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    message = r"a\.txt: cannot be written \(No space left on device\)$"
    with pytest.raises(InputError, match=message), replacing(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_the_splats_that_were_there_survive_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.npz"
    save(target, some_splats())
    before = target.read_bytes()

    def failing(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", failing)
    with pytest.raises(KeyboardInterrupt):
        save(target, some_splats(3))
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_targets_that_cannot_be(tmp_path: Path) -> None:
    def attempt(path: Path, message: str) -> None:
        with pytest.raises(InputError, match=message), replacing(path):
            pytest.fail("the block must not run")

    attempt(tmp_path, "is a folder; name a file in it")
    attempt(tmp_path / "nowhere" / "a.txt", "nowhere does not exist")
    read_only = tmp_path / "read_only.txt"
    read_only.write_text("keep")
    read_only.chmod(0o444)
    attempt(read_only, "read-only")
    assert read_only.read_text() == "keep"
    attempt(read_only / "a.txt", "does not exist")
    attempt(tmp_path / ("x" * 300), "cannot be written")


@contextmanager
def as_nobody() -> Iterator[None]:
    """An administrator may write everywhere, so the test steps down for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no write permission to take away there")
def test_a_folder_without_write_permission() -> None:
    with tempfile.TemporaryDirectory(prefix="splat2d-test-") as name:
        folder = Path(name)
        folder.chmod(0o555)
        with as_nobody(), pytest.raises(InputError, match="cannot be written"), replacing(folder / "a.txt"):
            pytest.fail("the block must not run")
        assert not list(folder.iterdir())
        folder.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="no umask there")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save(tmp_path / "a.npz", some_splats(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.npz").stat().st_mode) == mode


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.npz").write_text("old")
    (tmp_path / "link.npz").symlink_to("real.npz")
    save(tmp_path / "link.npz", some_splats(2))
    assert (tmp_path / "link.npz").is_symlink()
    assert len(load(tmp_path / "real.npz")) == 2
