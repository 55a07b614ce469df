"""Files that are complete or absent, and one-line words for what goes wrong with files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splat2d.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`, of the same suffix, that takes its place once the block has succeeded.

    Whatever ends the block early, Ctrl-C included, leaves the folder as it was. A link is followed, and the new file
    has the permissions of any new file. Raises InputError where `path` cannot be written; an OSError of the block
    becomes one too.
    """
    try:
        target = _writable(Path(path))
        # A short name of its own: the name of the target may already be as long as the file system allows.
        temporary = target.parent / f".{secrets.token_hex(6)}{target.suffix}"
        # Created here rather than by tempfile, whose files nobody but the owner may read.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({reason(error)})") from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file that is complete or absent. Raises InputError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def reason(error: BaseException) -> str:
    """What an error says, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def unreadable(path: Path, error: Exception, what: str) -> InputError:
    """The InputError for a file that should have held `what`, such as "a picture"."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file")
    if path.is_dir():
        return InputError(f"{path} is a folder; name a file in it")
    if isinstance(error, PermissionError):
        return InputError(f"{path}: no permission to read it")
    if isinstance(error, MemoryError):
        return InputError(f"{path}: too large for the memory of this machine")
    return InputError(f"{path}: cannot be read as {what} ({reason(error)})")


def _writable(path: Path) -> Path:
    """The file that `path` leads to, where a file may be written. Raises InputError and OSError."""
    target = path.resolve()
    if target.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise InputError(f"{path}: the folder {target.parent} does not exist; create it or write elsewhere")
    if target.exists():
        # The mode is asked too: the administrator may write anywhere, yet a file marked read-only is meant to stay.
        marked_read_only = not target.stat().st_mode & 0o222
        if marked_read_only or not target.is_file() or not os.access(target, os.W_OK):
            raise InputError(f"{path} is read-only or no ordinary file; choose another name")
    return target
