"""The viewer: a page that draws splats in a browser, served on this machine or written as one file.

The page itself is in viewer/: plain modules, which a browser runs as they are.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import secrets
import struct
import sys
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splat2d import codec
from splat2d.atomic import reason
from splat2d.codec import container
from splat2d.errors import FormatError, InputError
from splat2d.fitting import Progress
from splat2d.images import to_png

FOLDER = Path(__file__).parent / "viewer"
# The modules of the page and of its worker, each after what it imports.
WORKER = ("container", "color", "tables", "packets", "codebook", "records", "decoder", "worker")
UNUSED = {container.SCALAR: ("codebook", "records"), container.VECTOR: ("tables", "packets")}  # by profile
LEFT_OUT = "has the other profile, whose decoder this page of one file leaves out; open it with splat2d view"
PAGE = ("renderer", "view", "page", "live", "controls", "app")
ESCAPE = 0xE000  # before a character whose bit 14 is flipped; loader.js knows it
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

# Of what the server answers: scripts, styles and data from itself, and nothing from anywhere else.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
HOST = "127.0.0.1"
MOST_BYTES = 1 << 28  # of a download
TIMEOUT = 30.0  # seconds for another server to answer, or for a browser to finish a question
WAIT = 20.0  # seconds that a question for the next state of a fit stays open


@dataclass(frozen=True, slots=True)
class Resource:
    """What an address gives."""

    body: bytes
    type: str  # MIME


# One file


def page(data: bytes, name: str) -> bytes:
    """One HTML file that shows a .s2d file called `name`, from disk and without a network. Raises FormatError.

    Scripts, style and the elements of the page are deflated; loader.js unpacks them. In UTF-16, where two bytes of data
    are a character: its byte order mark goes before what a web server may say of the encoding.
    """
    header, _ = container.preamble(data)
    unused = UNUSED[header.profile]
    head, _, rest = _index({"name": name}).partition('<body data-state="waiting">\n')
    body = rest.partition("</body>")[0]
    script = '"use strict";(()=>{\n' + "".join(_inlined(_module(part)) for part in PAGE) + "})();"
    style = _shorter((FOLDER / "style.css").read_text("utf-8"))
    packed = {
        "style": style,
        "body": _shorter(body),
        "worker": "".join((_stub if part in unused else _inlined)(_module(part)) for part in WORKER),
        "script": script,
    }
    loader = f'"use strict";\n{_shorter(_module("loader"))}'
    policy = (
        f"default-src 'none'; script-src {_hash(loader)} {_hash(script)}; worker-src blob:; style-src {_hash(style)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    head = re.sub(r'(Content-Security-Policy" content=)"[^"]*"', rf'\1"{policy}"', head)
    replaced = r'<(?:meta charset|link rel="stylesheet"|script type="module")[^>]*>(?:</script>)?\n'
    head = re.sub(replaced, "", head)
    html = (
        f'{head}<body data-state="waiting">\n<noscript>This page needs JavaScript.</noscript>\n'
        f"{_element('packed', zlib.compress(json.dumps(packed).encode(), 9))}\n{_element('data', data)}\n"
        f"<script>{loader}</script>\n</body>\n</html>\n"
    )
    return ("\ufeff" + html).encode("utf-16-le")


def _element(name: str, data: bytes) -> str:
    """Bytes as an element of a page: two are a character, or two characters where one would not come through."""
    words = np.frombuffer(data + bytes(len(data) % 2), "<u2")
    # Controls and "<", surrogates and what marks an escape, and the end, where there are no characters.
    escaped = (words < 0x40) | ((words >= 0xD800) & (words <= ESCAPE)) | (words >= 0xFFF0)
    characters = np.insert(np.where(escaped, words ^ 0x4000, words), np.flatnonzero(escaped), ESCAPE).astype("<u2")
    text = characters.tobytes().decode("utf-16-le")
    return f'<script type="text/plain" id="{name}" data-size="{len(data)}">{text}</script>'


def _index(source: Mapping[str, Any]) -> str:
    """The page; source: what it is to show, see readSource() in app.js."""
    text = json.dumps(source).replace("<", "\\u003c")  # no name of a file ends the script
    html = (FOLDER / "index.html").read_text("utf-8")
    return html.replace('id="source">{}<', f'id="source">{text}<')


def _module(name: str) -> str:
    return (FOLDER / f"{name}.js").read_text("utf-8")


def _inlined(module: str) -> str:
    """A module as a part of one script, after those that it imports."""
    return _shorter(re.sub(r"^export ", "", re.sub(r"^import [^;]*;\n", "", module, flags=re.M), flags=re.M))


def _stub(module: str) -> str:
    """A module that the file of a page does not use, as functions of its names that refuse other files."""
    names = re.findall(r"^export (?:const|class|function) (\w+)", module, re.M)
    return "".join(f"function {name}(){{throw new FormatError({json.dumps(LEFT_OUT)})}}\n" for name in names)


def _shorter(text: str) -> str:
    """Without indentation, empty lines and lines of comments."""
    text = re.sub(r"^\s*/\*\*.*?\*/\n", "", text, flags=re.M | re.S)
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//")) + "\n"


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls a script or a style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# A server


class LiveFit:
    """The latest state of a running fit, for pages that ask for the next one. May be used by many threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0
        self._progress: Progress | None = None
        self._end: dict[str, Any] = {"done": False}

    def following(self, events: Iterator[Progress]) -> Iterator[Progress]:
        """The events of a fit, which the pages see as they pass, and how it ended."""
        try:
            for progress in events:
                self._tell(progress, {"done": False})
                yield progress
        except InputError as error:
            self._tell(self._progress, {"done": True, "error": str(error)})
            raise
        self._tell(self._progress, {"done": True})

    def _tell(self, progress: Progress | None, end: dict[str, Any]) -> None:
        with self._changed:
            self._progress, self._end = progress, end
            self._number += 1
            self._changed.notify_all()

    def after(self, number: int, wait: float = WAIT) -> bytes:
        """The latest state once it is later than this one, or after so many seconds.

        The length of a JSON text in 4 bytes, the text, then the splats by falling importance, a row of float32 each:
        x, y, a, b, c, colour. Lowest byte first.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._number > number, wait)
            state, progress = {"number": self._number, **self._end}, self._progress
        rows = b""
        if progress is not None:
            splats = progress.splats.take(progress.splats.strongest())
            rows = np.hstack([splats.means, splats.log_cholesky, splats.colors]).astype("<f4").tobytes()
            state |= {
                "width": splats.width,
                "height": splats.height,
                "channels": splats.channels,
                "background": splats.background.tolist(),
                "count": len(splats),
                "step": progress.step,
                "steps": progress.steps,
                "psnr": progress.psnr if math.isfinite(progress.psnr) else None,
                "seconds": progress.seconds,
            }
        text = json.dumps(state).encode()
        text += b" " * (-len(text) % 4)
        return struct.pack("<I", len(text)) + text + rows


class Server(ThreadingHTTPServer):
    """Serves the page and one picture, on this machine only, to whoever knows the address."""

    daemon_threads = True

    def __init__(self, resources: Mapping[str, Resource], live: LiveFit | None, port: int) -> None:
        super().__init__((HOST, port), _Handler)
        self.resources, self.live = resources, live
        self.token = secrets.token_urlsafe(24)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a browser may go away in the middle
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "splat2d", ""
    timeout = TIMEOUT

    def do_GET(self) -> None:
        found = self._find()
        body = found.body if found else b"Not found.\n"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", found.type if found else "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def _find(self) -> Resource | None:
        """What is asked for. Names are compared as they come: no path leads to a file system."""
        # A foreign page can make its own host name point here, but cannot make the browser hide that name.
        if self.headers.get("Host") not in self.server.hosts:
            return None
        path, _, query = self.path.partition("?")
        token, _, name = path.removeprefix("/").partition("/")
        if path == f"/{token}" or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            return None
        if name == "live" and self.server.live:
            after = re.fullmatch(r"after=(\d{1,9})", query)
            return Resource(self.server.live.after(int(after[1]) if after else 0), "application/octet-stream")
        return self.server.resources.get(name)

    def log_message(self, format: str, *arguments: Any) -> None:
        """A viewer is no web server that somebody watches."""


@contextmanager
def serving(
    name: str,
    *,
    data: bytes | None = None,
    live: LiveFit | None = None,
    original: NDArray[np.float32] | None = None,
    port: int = 0,
) -> Iterator[str]:
    """Serves the viewer with a .s2d file or a running fit called `name` as long as the block lasts; yields its address.

    original: the picture [H, W, C] to compare with. port: 0 takes any that is free. Raises InputError.
    """
    source = {"name": name}
    resources = {}
    for path in FOLDER.iterdir():
        if path.suffix in TYPES:
            resources[path.name] = Resource(path.read_bytes(), f"{TYPES[path.suffix]}; charset=utf-8")
    if data is not None:
        resources["picture"] = Resource(data, "image/x-s2d")
        source["file"] = "picture"
    if live is not None:
        source["live"] = "live"
    if original is not None:
        # A browser reads this whatever the photo was, and applies no profile to it.
        resources["original"] = Resource(to_png(original, compression=2), "image/png")
        source["original"] = "original"
    resources[""] = Resource(_index(source).encode(), f"{TYPES['.html']}; charset=utf-8")
    try:
        server = Server(resources, live, port)
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be used ({reason(error)}); leave it out") from error
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()


def is_address(source: str) -> bool:
    """Whether this is a web address rather than the name of a file."""
    return source.startswith(("http://", "https://"))


def download(url: str) -> bytes:
    """The .s2d file of a web address; its end may be missing. Raises InputError."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            data: bytes = answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise InputError(f"{url} cannot be loaded: the server says {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        text = reason(cause) if isinstance(cause, BaseException) else str(cause)
        raise InputError(f"{url} cannot be loaded: {text}") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{url} has more than {MOST_BYTES} bytes; download it and open it from disk")
    try:
        codec.read(data, partial=True)
    except FormatError as error:
        raise FormatError(f"{url}: {error}") from error
    return data
