"""The viewer in the system's Chromium, without a GPU: time to decode a file, cost of a frame, draw calls.

    python benchmarks/viewer.py --picture 5 --rate 0.3

Prints Markdown. Decoding is that of one file by the modules of the page, in a worker: the first time in a new page,
where the browser has compiled nothing, and again and again; beside it splat2d.decode. Frames are of random splats whose
deviations are about their mean distance, drawn in every way; a third of --rounds, for they take seconds.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import DATA, describe
from playwright.sync_api import Browser, Page, sync_playwright

import splat2d
from splat2d import codec, viewing

SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
SIZES = ((10_000, 512), (100_000, 1024))  # splats, pixels on a side
PATHS = {"float": "float target", "half": "half-float target", "tiles": "lists of tiles"}

START = """const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const load = (name) => import(new URL(name, location.href));"""

# In a worker of its own: milliseconds of each decoding.
DECODE = """const source = `
  onmessage = async ({ data: { address, bytes, rounds } }) => {
    const { Decoder } = await import(address);
    const taken = [];
    for (let i = 0; i < rounds; i++) {
      const started = performance.now();
      const decoder = new Decoder();
      decoder.push(bytes);
      decoder.end();
      taken.push(performance.now() - started);
    }
    postMessage(taken);
  };`;
const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })), { type: "module" });
return new Promise((resolve) => {
  worker.onmessage = ({ data }) => resolve(data);
  const address = String(new URL("decoder.js", location.href));
  worker.postMessage({ address, bytes: bytes(argument.data), rounds: argument.rounds });
});"""

# Milliseconds of each frame, its draw calls, and how long the call that draws keeps the page busy.
FRAMES = """const { Renderer } = await load("renderer.js");
const { Decoder, byImportance } = await load("decoder.js");
const decoder = new Decoder();
decoder.push(bytes(argument.data));
const { header } = decoder;
const canvas = Object.assign(document.createElement("canvas"), { width: header.width, height: header.height });
const renderer = new Renderer(canvas, argument.path);
renderer.setSplats({ ...header, rows: byImportance(decoder.splats, header.channels) });
const { gl } = renderer;
let calls = 0;
for (const name of ["drawArrays", "drawArraysInstanced", "drawElements", "drawElementsInstanced"]) {
  const draw = gl[name].bind(gl);
  gl[name] = (...all) => ((calls += all.at(-1) > 3), draw(...all));
}
const taken = [];
const busy = [];
for (let i = 0; i <= argument.rounds; i++) {
  const started = performance.now();
  renderer.draw({ x: 0, y: 0, scale: 1 }, { view: 0, ratio: 1 });
  busy.push(performance.now() - started);
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits for the end
  taken.push(performance.now() - started);
}
return { taken: taken.slice(1), busy: busy.slice(1), calls: calls / taken.length };"""


def main() -> None:
    options = arguments(__doc__)
    data = encoded(options)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as start, viewing.serving("a.s2d", data=data) as url:
        browser = start.chromium.launch(executable_path=chromium, args=SOFTWARE)
        print(f"{describe(None, version=options.commit)}; Chromium {browser.version}, SwiftShader; load {load_of()}\n")
        decoding(browser, url, data, options.rounds)
        frames(browser, url, options.rounds)
        browser.close()


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=int, default=5, help="number of a Kodak photo")
    parser.add_argument("--rate", type=float, default=0.3, metavar="BPP")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--kodak", type=Path, default=DATA / "kodak", help="folder with kodim01.png and so on")
    parser.add_argument("--commit", help="to be named where there is no repository")
    return parser.parse_args()


def load_of() -> str:
    """How busy the machine was before: others take from the two cores that a browser likes to have."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def encoded(options: argparse.Namespace) -> bytes:
    image = splat2d.load_image(options.kodak / f"kodim{options.picture:02}.png")
    size = int(options.rate * image.shape[0] * image.shape[1] / 8)
    return splat2d.compress(image, bytes=size, preset="fast").data


def opened(browser: Browser, url: str) -> Page:
    # The page's own policy allows no worker from a Blob and no modules in it.
    page = browser.new_context(bypass_csp=True).new_page()
    page.goto(url)
    page.wait_for_selector("body[data-state=ready]")
    page.wait_for_timeout(500)
    return page


def run(page: Page, body: str, **argument: Any) -> Any:
    return page.evaluate(f"async (argument) => {{ {START} {body} }}", argument)


def decoding(browser: Browser, url: str, data: bytes, rounds: int) -> None:
    first, again = [], []
    text = base64.b64encode(data).decode()
    for _ in range(rounds):
        page = opened(browser, url)
        times = run(page, DECODE, data=text, rounds=rounds + 3)
        first.append(times[0])
        again += times[3:]
        page.context.close()
    ours = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        codec.decode(data)
        ours.append(1e3 * (time.perf_counter() - started))
    header = codec.read(data).container.header
    print(f"{len(data)} bytes, {header.count} splats, {header.width}x{header.height} pixels\n")
    print("| decoding | ms | quartiles |\n|---|---|---|")
    row("JavaScript, first file of a page", first)
    row("JavaScript, later files", again)
    row("Python (native code)", ours[1:])


def frames(browser: Browser, url: str, rounds: int) -> None:
    print("\n| frame in software | ms | quartiles | page busy, ms | draw calls for splats |")
    print("|---|---|---|---|---|")
    page = opened(browser, url)
    for count, side in SIZES:
        text = base64.b64encode(codec.encode(random_splats(count, side), quality=60)).decode()
        for path, name in PATHS.items():
            found = run(page, FRAMES, data=text, path=path, rounds=max(3, rounds // 3))
            what = f"{count} splats, {side}x{side}: {name}"
            row(what, found["taken"], f"{statistics.median(found['busy']):.1f}", f"{found['calls']:g}")
    page.context.close()


def random_splats(count: int, side: int) -> splat2d.Splats:
    rng = np.random.default_rng(0)
    spacing = np.log(side / np.sqrt(count))
    return splat2d.Splats(
        means=rng.uniform(0, side, (count, 2)),
        log_cholesky=rng.normal((spacing, 0, spacing), (0.4, 0.5, 0.4), (count, 3)),
        colors=rng.normal(0, 0.1, (count, 3)),
        width=side,
        height=side,
        background=[0.5, 0.5, 0.5],
    )


def row(name: str, milliseconds: list[float], *more: str) -> None:
    low, median, high = np.percentile(milliseconds, [25, 50, 75])
    print(f"| {name} | {median:.1f} | {low:.1f} to {high:.1f} | {''.join(f'{text} | ' for text in more)}".rstrip())


if __name__ == "__main__":
    main()
