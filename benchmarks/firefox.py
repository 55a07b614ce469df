"""The viewer in the system's Firefox without a GPU: whether it shows what splat2d draws, and the time to decode a file.

    python benchmarks/firefox.py --picture 5 --rate 0.3

Prints Markdown. Golden files at one pixel of the screen per pixel of the picture, drawn in every way, and once by a
page of one file from disk: what a screenshot shows against splat2d.render, both in 8 bits. Decoding is that of the
first file of a new page. Needs the package websockets, and Xvfb where there is no screen, for Firefox has no WebGL when
it is headless.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from machine import ROOT, describe
from numpy.typing import NDArray
from PIL import Image
from viewer import PATHS, arguments, encoded, load_of, row
from websockets.sync.client import ClientConnection, connect

import splat2d
from splat2d import codec, viewing
from splat2d.images import levels_of

GOLDEN = ROOT / "tests" / "golden"
FILES = ("grey", "colour", "vector-colour")
PREFERENCES = {
    "webgl.force-enabled": True,  # by the CPU too
    "remote.prefs.recommended": True,
    "datareporting.policy.dataSubmissionEnabled": False,
}
MOST_WAIT = 30  # seconds
WINDOW = {"width": 700, "height": 500}

# Where the picture lies once its sharp frame is drawn, on the screenshot.
PLACE = """const { app } = await import(new URL("app.js", location.href));
return [Math.round(-app.view.x), Math.round(-app.view.y)];"""


class Firefox:
    """One window, driven by WebDriver BiDi."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.numbers = itertools.count()
        found = self.ask("session.new", capabilities={})
        self.version = found["capabilities"]["browserVersion"]
        self.context = self.ask("browsingContext.getTree")["contexts"][0]["context"]
        self.ask("browsingContext.setViewport", context=self.context, viewport=WINDOW)

    def ask(self, method: str, **parameters: Any) -> Any:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv(MOST_WAIT))).get("id") != number:
            pass  # an event
        if answer["type"] == "error":
            raise RuntimeError(answer["message"])
        return answer["result"]

    def run(self, body: str) -> Any:
        """What the body of an asynchronous function returns, through JSON."""
        text = f"(async () => JSON.stringify(await (async () => {{ {body} }})()))()"
        found = self.ask("script.evaluate", expression=text, target={"context": self.context}, awaitPromise=True)
        if found["type"] != "success":
            raise RuntimeError(found["exceptionDetails"]["text"])
        return json.loads(found["result"]["value"])

    def open(self, address: str) -> None:
        self.ask("browsingContext.navigate", context=self.context, url=address, wait="complete")
        end = time.monotonic() + MOST_WAIT
        while (state := self.run("return document.body.dataset.state")) != "ready":
            if state == "error" or time.monotonic() > end:
                raise RuntimeError(self.run("return document.body.innerText"))
            time.sleep(0.05)

    def press(self, key: str) -> None:
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self.ask("input.performActions", context=self.context, actions=[{"type": "key", "id": "keys", "actions": keys}])

    def screenshot(self) -> NDArray[np.uint8]:
        data = self.ask("browsingContext.captureScreenshot", context=self.context)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def main() -> None:
    options = arguments(__doc__)
    data = encoded(options)
    with firefox() as browser:
        print(f"{describe(None, version=options.commit)}; Firefox {browser.version}, llvmpipe; load {load_of()}\n")
        print("| file | drawn | dB |\n|---|---|---|")
        for name in FILES:
            pictures(browser, name)
        decoding(browser, data, options.rounds)


@contextmanager
def firefox() -> Iterator[Firefox]:
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if program is None:
        raise SystemExit("no Firefox is installed")
    screen = [] if "DISPLAY" in os.environ else ["xvfb-run", "-a", "-s", "-screen 0 1280x1024x24"]
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items())
        Path(folder, "user.js").write_text("".join(lines))
        command = [*screen, program, "--no-remote", "--profile", folder, "--remote-debugging-port", "0"]
        environment = {**os.environ, "HOME": folder}
        log = Path(folder, "log")
        with log.open("w") as file:
            process = subprocess.Popen(command, stderr=file, env=environment, start_new_session=True)
        try:
            while not (found := re.search(r"WebDriver BiDi listening on (\S+)\n", log.read_text())):
                if process.poll() is not None:
                    raise SystemExit(f"Firefox did not start:\n{log.read_text()}")
                time.sleep(0.1)
            with connect(f"{found[1]}/session", max_size=None) as socket:
                yield Firefox(socket)
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the screen too
            process.wait(MOST_WAIT)


def pictures(browser: Firefox, name: str) -> None:
    data = (GOLDEN / f"{name}.s2d").read_bytes()
    wanted = levels_of(splat2d.render(codec.decode(data)))
    with viewing.serving(name, data=data) as url, TemporaryDirectory() as folder:
        for path, words in PATHS.items():
            browser.open(f"{url}?path={path}")
            one_to_one(browser)
            place = browser.run(PLACE)
            print(f"| {name} | {words} | {decibels(browser, place, wanted)} |")
        page = Path(folder, "page.html")
        page.write_bytes(viewing.page(data, name))
        browser.open(page.as_uri())
        one_to_one(browser)
        print(f"| {name} | page of one file | {decibels(browser, place, wanted)} |")


def one_to_one(browser: Firefox) -> None:
    browser.press("1")
    time.sleep(1.0)  # a gesture, and the frame after it


def decibels(browser: Firefox, place: tuple[int, int], wanted: NDArray[np.uint8]) -> str:
    """PSNR of what the window shows of a picture there, between the bars."""
    x, y = place
    height, width = wanted.shape[:2]
    shown = browser.screenshot()[y : y + height, x : x + width]
    return f"{splat2d.psnr(shown / np.float32(255), np.broadcast_to(wanted, shown.shape) / np.float32(255)):.1f}"


def decoding(browser: Firefox, data: bytes, rounds: int) -> None:
    taken = []
    with viewing.serving("a.s2d", data=data) as url:
        for _ in range(rounds):
            browser.open(url)
            taken.append(
                browser.run(
                    "const { app } = await import(new URL('app.js', location.href)); return app.file.milliseconds"
                )
            )
    header = codec.read(data).container.header
    print(f"\n{len(data)} bytes, {header.count} splats, {header.width}x{header.height} pixels\n")
    print("| decoding | ms | quartiles |\n|---|---|---|")
    row("JavaScript, first file of a page", taken)


if __name__ == "__main__":
    main()
