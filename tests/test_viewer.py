"""The page of the viewer, in a browser without a GPU: decoder, drawing, controls, what it says about bad input."""

import base64
import io
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import splat2d
from splat2d import codec, viewing
from splat2d.atomic import write_bytes
from splat2d.codec import container
from splat2d.codec.quantizer import Quantized
from splat2d.images import levels_of

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no Chromium is installed", allow_module_level=True)

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.s2d"))
DRAWN = ["grey", "colour", "alpha", "crowd", "vector-colour", "vector-alpha"]
SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as start:
        browser = start.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site():
    """The viewer as files of a web server, with the golden files beside it, and what a test adds: body by path."""
    files = {path.name: path.read_bytes() for path in [*viewing.FOLDER.iterdir(), *FILES]}
    gate = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.partition("?")[0].removeprefix("/") or "index.html"
            parts = files.get(name)
            if parts is None:
                return self.send_error(404)
            parts = parts if isinstance(parts, list) else [parts]
            self.send_response(200)
            self.send_header("Content-Type", viewing.TYPES.get(Path(name).suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(sum(map(len, parts))))
            self.end_headers()
            self.wfile.write(parts[0])
            for part in parts[1:]:  # later parts wait until the test has seen what the first one shows
                gate.wait(20)
                self.wfile.write(part)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        server.url, server.files, server.gate = f"http://127.0.0.1:{server.server_port}", files, gate
        yield server
        server.shutdown()
        thread.join()


class Viewer:
    """A page, and what its console said."""

    def __init__(self, page):
        page.set_default_timeout(10_000)
        self.page = page
        self.problems = []
        self.requests = []
        page.on("console", lambda message: message.type in ("error", "warning") and self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, address, state="ready"):
        self.page.goto(address)
        self.wait(state)
        return self

    def wait(self, state):
        self.page.wait_for_selector(f"body[data-state={state}]")

    def run(self, body, argument=None):
        """Runs a function body with the app of the page."""
        start = "const { app } = await import(new URL('app.js', location.href)); const { renderer, view } = app;"
        return self.page.evaluate(f"async (argument) => {{ {start} {body} }}", argument)

    def rest(self):
        """Waits for the picture in full resolution, and gives the number of frames so far."""
        return self.run(
            """for (let same = 0, last = -1; same < 2; last = app.frames) {
                 await new Promise((resolve) => setTimeout(resolve, 40));
                 const quiet = !app.fence && !app.isQueued && performance.now() - app.touched > 200;
                 same = quiet && app.frames === last ? same + 1 : 0;
               }
               return app.frames;"""
        )

    def text(self, selector):
        return self.page.inner_text(selector)


@pytest.fixture
def viewer(browser):
    """Opens a page of this size; in the end nothing must have been said to the console."""
    contexts = []

    def make(width=640, height=480, scheme="dark", ratio=1, quiet=True, script=None):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=ratio
        )
        if script:
            context.add_init_script(script)
        found = Viewer(context.new_page())
        contexts.append((context, found, quiet))
        return found

    yield make
    for context, found, quiet in contexts:
        context.close()
        if quiet:
            assert found.problems == []


@pytest.fixture(scope="module")
def two_packets():
    """A file of two packets, and where the first one ends."""
    rng = np.random.default_rng(1)
    splats = splat2d.Splats(
        means=rng.uniform(0, (160, 120), (1200, 2)),
        log_cholesky=rng.normal((1, 0, 1), 0.5, (1200, 3)),
        colors=rng.normal(0, 0.2, (1200, 3)),
        width=160,
        height=120,
        background=[0.5, 0.5, 0.5],
    )
    data = codec.encode(splats, quality=70)
    _, last = container.unpack(data).chunks
    return data, len(data) - last.size


def golden(name):
    return codec.read((GOLDEN / f"{name}.s2d").read_bytes())


def array(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


# JavaScript: bytes or floats of a typed array as base64, in pieces that a call can take.
TO_BASE64 = """const toBase64 = (array) => {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(text);
};"""


# Decoding


DECODE = (
    TO_BASE64
    + """
const { Decoder } = await import(new URL("decoder.js", location.href));
const { FormatError } = await import(new URL("container.js", location.href));
const joined = (parts, type) => {
  const all = new type(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
};
const decode = (text, piece) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const decoder = new Decoder();
  try {
    for (let i = 0; i < bytes.length; i += piece) decoder.push(bytes.subarray(i, i + piece));
    decoder.end();
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    return { error: error.message };
  }
  const { header, metadata } = decoder.container;
  const { integers, splats } = decoder;
  return {
    integers: toBase64(joined(integers, Int32Array)), splats: toBase64(joined(splats, Float32Array)),
    header: { ...header, background: [...header.background] }, text: Object.fromEntries(metadata.text),
    exif: metadata.exif && [...metadata.exif], icc: metadata.icc && [...metadata.icc],
  };
};
return argument.map(([text, piece]) => decode(text, piece));"""
)


@pytest.fixture(scope="module")
def decode(browser, site):
    """Decodes files in the browser, in pieces of so many bytes."""
    context = browser.new_context()
    page = Viewer(context.new_page()).open(f"{site.url}/index.html", "empty")

    def run(files, piece=1 << 30):
        return page.run(DECODE, [(base64.b64encode(data).decode(), piece) for data in files])

    yield run
    context.close()


@pytest.mark.parametrize("piece", [1 << 30, 13])
def test_golden_files_decode_exactly(decode, piece):
    found = decode([path.read_bytes() for path in FILES], piece)
    for path, one in zip(FILES, found, strict=True):
        assert array(one["integers"], "<i4").tobytes() == path.with_suffix(".i32").read_bytes(), path.name
        splats = array(one["splats"], "<f4")
        expected = np.frombuffer(path.with_suffix(".f32").read_bytes(), "<f4")
        np.testing.assert_allclose(splats, expected, rtol=3e-7, atol=1e-9, err_msg=path.name)


def test_the_header_and_metadata_are_read(decode):
    (found,) = decode([(GOLDEN / "colour.s2d").read_bytes()])
    header = golden("colour").container.header
    assert found["text"] == {"title": "Höhe"}
    assert bytes(found["exif"]) == b"MM\0*" and bytes(found["icc"]) == b"profile"
    assert (found["header"]["width"], found["header"]["height"], found["header"]["count"]) == (320, 200, 300)
    assert tuple(found["header"]["background"]) == header.background


def mutations(data: bytes, rng: np.random.Generator, count: int) -> list[bytes]:
    """Files with an error somewhere, most of them with right checksums all the same."""
    chunks = container.unpack(data).chunks
    header = data[: len(data) - sum(chunk.size for chunk in chunks)]

    def changed(part: bytes, first: int = 0) -> bytes:
        if len(part) <= first:
            return part
        at = rng.integers(first, len(part))
        return part[:at] + bytes([rng.integers(256)]) + part[at + 1 :]

    def file(header: bytes, bodies: list[tuple[bytes, bytes]]) -> bytes:
        return header + b"".join(container._chunk_bytes(kind, body) for kind, body in bodies)

    bodies = [(chunk.kind, chunk.body) for chunk in chunks]
    found = []
    for _ in range(count):
        i = rng.integers(len(bodies))
        kind, body = bodies[i]
        start = changed(header[:-4], 8)
        other = bytes([rng.choice([*b"PtieqQ0"])])
        damaged = [
            data[: rng.integers(len(data))],
            data + b"\0",
            changed(data),
            file(start + container._CRC.pack(container.zlib.crc32(start)), bodies),
            file(header, [*bodies[:i], (kind, changed(body)), *bodies[i + 1 :]]),
            file(header, [*bodies[:i], (kind, body[: rng.integers(len(body) + 1)]), *bodies[i + 1 :]]),
            file(header, [*bodies[:i], (kind, body + b"\0"), *bodies[i + 1 :]]),
            file(header, [*bodies[:i], (other, body), *bodies[i:]]),
        ]
        found.append(damaged[rng.integers(len(damaged))])
    return found


def test_damaged_files_are_refused_as_python_refuses_them(decode):
    rng = np.random.default_rng(0)
    files = [mutation for path in FILES for mutation in mutations(path.read_bytes(), rng, 60)]
    accepted = 0
    for data, found in zip(files, decode(files), strict=True):
        try:
            numbers = codec.read(data).quantized
        except splat2d.FormatError as error:
            assert "error" in found, f"{error}: {data.hex()}"
            continue
        assert "error" not in found, f"{found.get('error')}: {data.hex()}"
        integers = numbers.indices if isinstance(numbers, Quantized) else numbers.codes
        np.testing.assert_array_equal(array(found["integers"], "<i4"), integers.ravel())
        accepted += 1
    assert 20 < accepted < len(files) / 2


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is no .s2d file: it is empty"),
        (b"GIF89a", "is no .s2d file"),
        (b"\x89S2D", "ends after 4 bytes, in the middle; get a complete copy"),
        ((GOLDEN / "one.s2d").read_bytes()[:8] + b"\2" + bytes(40), "has version 2.0, known is 1; update splat2d"),
        ((GOLDEN / "one.s2d").read_bytes() + b"x", "has 1 bytes after its end"),
    ],
)
def test_what_is_wrong_is_said(decode, data, problem):
    assert decode([data])[0] == {"error": problem}


# Drawing


PATHS = {"float": 100, "half": 60, "tiles": 58}  # dB; the last one writes 8 bits
VIEWS = {"whole": (0, 0, 1), "zoomed": (2.25, 1.5, 3.7), "reduced": (-3, -2, 0.37)}  # x, y, scale

DRAW = (
    TO_BASE64
    + """
const { Decoder, byImportance } = await import(new URL("decoder.js", location.href));
const { Renderer } = await import(new URL("renderer.js", location.href));
const renderers = {};
return argument.map(({ data, path, frame, width, height }) => {
  const decoder = new Decoder();
  decoder.push(Uint8Array.from(atob(data), (character) => character.charCodeAt(0)));
  const drawer = (renderers[path] ??= new Renderer(document.createElement("canvas"), path));
  drawer.setSplats({ ...decoder.header, rows: byImportance(decoder.splats, decoder.header.channels) });
  if (path === "tiles") return toBase64(drawer.pixels(frame, width, height));
  const { gl } = drawer;
  const sums = new Float32Array(4 * width * height);
  drawer.sum(frame, [width, height]);
  gl.bindFramebuffer(gl.FRAMEBUFFER, drawer.targets.get("sums").framebuffer);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.FLOAT, sums);
  return toBase64(sums);
});"""
)


def drawn(contents, view):
    """What splat2d.render shows of a view, and the size of it."""
    splats, (x, y, scale) = contents.splats, VIEWS[view]
    width, height = max(1, round(splats.width * 1.2)), max(1, round(splats.height * 0.9))
    crop = (x, y, width / scale, height / scale)
    return splat2d.render(splats, crop=crop, width=width, height=height), (width, height)


@pytest.mark.parametrize("path", PATHS)
def test_the_picture_is_that_of_splat2d(browser, site, path):
    """Sums as floats to 100 dB, of half floats to 60 dB; pixels of 8 bits, both rounded."""
    context = browser.new_context()
    page = Viewer(context.new_page()).open(f"{site.url}/index.html", "empty")
    jobs, expected = [], []
    for name in DRAWN:
        for view, (x, y, scale) in VIEWS.items():
            image, (width, height) = drawn(golden(name), view)
            data = base64.b64encode((GOLDEN / f"{name}.s2d").read_bytes()).decode()
            frame = {"x": x, "y": y, "scale": scale}
            jobs.append({"data": data, "path": path, "frame": frame, "width": width, "height": height})
            expected.append((name, view, image))
    for (name, view, image), found in zip(expected, page.run(DRAW, jobs), strict=True):
        channels = image.shape[2]
        if path == "tiles":
            pixels = array(found, np.uint8).reshape(*image.shape[:2], 4)[..., :channels]
            decibels = splat2d.psnr(pixels / np.float32(255), levels_of(image) / np.float32(255))
        else:
            sums = array(found, "<f4").reshape(*image.shape[:2], 4)[..., :channels]
            background = golden(name).splats.background
            peak = np.abs(image).max()
            decibels = splat2d.psnr((sums + background) / peak, image / peak)
        print(path, name, view, round(decibels, 1))
        assert decibels >= PATHS[path], (name, view)
    context.close()


# The page

# JavaScript: draws, then the pixels of the canvas, row 0 first.
CANVAS = (
    TO_BASE64
    + """
app.draw();
const { gl } = renderer;
const { width, height } = renderer.canvas;
const pixels = new Uint8Array(4 * width * height);
gl.bindFramebuffer(gl.FRAMEBUFFER, null);
gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
return { pixels: toBase64(pixels), width, height, frame: app.frame(app.ratio) };"""
)


def canvas(viewer):
    """Pixels of the canvas [H, W, 3], and where its corner lies on the picture, with the scale."""
    viewer.rest()
    found = viewer.run(CANVAS)
    pixels = array(found["pixels"], np.uint8).reshape(found["height"], found["width"], 4)[::-1, :, :3]
    return pixels, found["frame"]


def expected(splats, frame, width, height, stage=(20, 21, 25)):
    """The canvas as splat2d draws it: the picture, and the stage around it. uint8 [H, W, 3]"""
    x, y, scale = frame["x"], frame["y"], frame["scale"]
    picture = splat2d.render(splats, crop=(x, y, width / scale, height / scale), width=width, height=height)
    levels = np.broadcast_to(levels_of(picture), (height, width, 3)).copy()
    columns, rows = x + (np.arange(width) + 0.5) / scale, y + (np.arange(height) + 0.5) / scale
    inside = ((rows >= 0) & (rows < splats.height))[:, None] & ((columns >= 0) & (columns < splats.width))
    levels[~inside] = stage
    return levels


def agrees(viewer, splats, **options):
    """dB of the canvas against splat2d."""
    pixels, frame = canvas(viewer)
    wanted = expected(splats, frame, pixels.shape[1], pixels.shape[0], **options)
    return splat2d.psnr(pixels / np.float32(255), wanted / np.float32(255))


@pytest.mark.parametrize("path", PATHS)
def test_the_canvas_shows_the_picture_at_every_zoom(viewer, site, path):
    page = viewer(400, 340, ratio=2 if path == "float" else 1).open(f"{site.url}/?src=colour.s2d&path={path}")
    assert page.run("return renderer.path") == path
    splats = golden("colour").splats
    least = 60
    assert agrees(page, splats) >= least
    page.page.keyboard.press("1")
    page.page.wait_for_selector("#zoom:text-is('100 %')")
    assert agrees(page, splats) >= least
    page.page.mouse.move(150, 160)
    page.page.mouse.wheel(0, -900)
    page.page.mouse.down()
    page.page.mouse.move(90, 190, steps=3)
    page.page.mouse.up()
    assert page.run("return view.zoom") > 1
    assert agrees(page, splats) >= least
    page.page.keyboard.press("0")
    for _ in range(7):
        page.page.keyboard.press("-")
    assert page.run("return view.zoom") < 0.6
    assert agrees(page, splats) >= least


def test_every_kind_of_picture_is_shown(viewer, site):
    page = viewer(480, 360).open(f"{site.url}/", "empty")
    for name in ["grey", "plain", "empty", "one", "coarse", "vector-grey", "alpha"]:
        upload(page, f"{name}.s2d", (GOLDEN / f"{name}.s2d").read_bytes())
        page.page.wait_for_selector(f"#name:text-is('{name}.s2d')")
        splats = golden(name).splats
        assert f"{splats.width} × {splats.height}" in page.text("#facts")
        if splats.channels in (1, 3):
            assert agrees(page, splats) >= 60, name
        elif splats.channels == 6:
            assert "6 channels, shown are the first three" in page.text("#facts")
    # The last one lies over squares of two greys.
    pixels, frame = canvas(page)
    height, width = pixels.shape[:2]
    crop = (frame["x"], frame["y"], width / frame["scale"], height / frame["scale"])
    picture = splat2d.render(splats, crop=crop, width=width, height=height).clip(0, 1)
    rows, columns = np.indices((height, width)) // 8
    checks = np.where((rows + columns) % 2 == 0, 0.8, 0.65)[..., None]
    wanted = (picture[..., :3] + (1 - picture[..., 3:]) * checks).clip(0, 1)
    inside = (pixels != (20, 21, 25)).any(2)
    assert inside.mean() > 0.25
    assert splat2d.psnr((pixels / 255)[inside][None], wanted[inside][None]) > 58


COUNT_CALLS = """
  globalThis.calls = [];
  for (const name of ["drawArrays", "drawArraysInstanced", "drawElements", "drawElementsInstanced"]) {
    const draw = WebGL2RenderingContext.prototype[name];
    WebGL2RenderingContext.prototype[name] = function (...all) {
      calls.push([name, all.at(-1)]);
      return draw.apply(this, all);
    };
  }
"""


def test_all_splats_are_one_draw_call_and_nothing_is_drawn_at_rest(viewer, site):
    page = viewer(script=COUNT_CALLS).open(f"{site.url}/?src=packets.s2d")
    page.rest()
    one = page.run("globalThis.calls = []; app.draw(); return calls")
    # Two triangles for each splat; then one over the window, which shows the sums.
    assert one == [["drawArrays", 6 * len(golden("packets").splats)], ["drawArrays", 3]]
    frames = page.rest()
    page.page.wait_for_timeout(300)
    assert page.run("return app.frames") == frames


def test_tiles_take_one_draw_call(viewer, site):
    page = viewer(script=COUNT_CALLS).open(f"{site.url}/?src=packets.s2d&path=tiles")
    page.rest()
    assert page.run("globalThis.calls = []; app.draw(); return calls") == [["drawArrays", 3]]


def test_the_first_packet_is_a_picture(viewer, site, two_packets):
    data, first = two_packets
    site.files["slow.s2d"] = [data[:first], data[first:]]
    site.gate.clear()
    page = viewer().open(f"{site.url}/?src=slow.s2d", "partial")
    part = codec.decode(data[:first], partial=True)
    assert 0 < len(part) < 400
    assert page.run("return app.firstPicture.splats") == len(part)
    assert agrees(page, part) >= 60
    assert page.page.is_visible("#progress")
    site.gate.set()
    page.wait("ready")
    assert agrees(page, codec.decode(data)) >= 60
    assert not page.page.is_visible("#progress")


def test_a_large_file_that_is_there_at_once_is_a_picture_before_it_is_decoded(viewer, site):
    rng = np.random.default_rng(0)
    splats = splat2d.Splats(
        means=rng.uniform(0, 200, (20_000, 2)),
        log_cholesky=rng.normal((1, 0, 1), 0.5, (20_000, 3)),
        colors=rng.normal(0, 0.2, (20_000, 3)),
        width=200,
        height=200,
        background=[0.5, 0.5, 0.5],
    )
    data = codec.encode(splats, quality=60)
    first, *_, last = container.unpack(data).packets
    assert len(last.payload) > 65536
    page = viewer().open(f"{site.url}/", "empty")
    upload(page, "large.s2d", data)
    page.wait("ready")
    assert page.run("return app.firstPicture.splats") == first.count
    assert agrees(page, codec.decode(data)) >= 60


@pytest.mark.parametrize("name", ["colour", "vector-colour"])
def test_a_page_of_one_file_opens_from_disk(viewer, tmp_path, name):
    data = (GOLDEN / f"{name}.s2d").read_bytes()
    write_bytes(tmp_path / "a.html", viewing.page(data, f"{name}.s2d"))
    page = viewer().open((tmp_path / "a.html").as_uri())
    assert page.text("#name") == f"{name}.s2d"
    page.page.keyboard.press("1")
    page.page.wait_for_selector("#zoom:text-is('100 %')")
    page.page.wait_for_timeout(400)
    shot = np.asarray(Image.open(io.BytesIO(page.page.screenshot())))[..., :3]
    levels = levels_of(splat2d.render(codec.decode(data)))
    height, width, _ = levels.shape
    errors = {}
    for top in range(130, 150):  # the picture lies between the bars
        left = (640 - width) // 2
        errors[top] = splat2d.psnr(
            shot[top : top + height, left : left + width] / np.float32(255), levels / np.float32(255)
        )
    assert max(errors.values()) >= 60
    assert [url for url in page.requests if not url.startswith(("file:", "blob:", "data:"))] == []


def test_a_page_of_one_file_says_what_browser_it_needs(viewer, browser, tmp_path):
    write_bytes(tmp_path / "a.html", viewing.page((GOLDEN / "colour.s2d").read_bytes(), "a.s2d"))
    page = viewer(script="delete globalThis.DecompressionStream").open((tmp_path / "a.html").as_uri(), "waiting")
    page.page.wait_for_selector("text=This page needs a browser of 2023 or later")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "a.html").as_uri())
    assert page.inner_text("body") == "This page needs JavaScript."
    context.close()


def test_a_page_of_one_file_says_which_files_it_cannot_read(viewer, tmp_path):
    write_bytes(tmp_path / "a.html", viewing.page((GOLDEN / "colour.s2d").read_bytes(), "a.s2d"))
    page = viewer().open((tmp_path / "a.html").as_uri())
    upload(page, "b.s2d", (GOLDEN / "vector-colour.s2d").read_bytes())
    page.wait("error")
    assert page.text("#problem-text") == f"b.s2d {viewing.LEFT_OUT}."
    upload(page, "grey.s2d", (GOLDEN / "grey.s2d").read_bytes())
    page.wait("ready")


def test_a_page_draws_what_it_holds_and_says_that_the_rest_is_missing(viewer, tmp_path, two_packets):
    data, first = two_packets
    write_bytes(tmp_path / "a.html", viewing.page(data[: first + 9], "a.s2d"))
    page = viewer().open((tmp_path / "a.html").as_uri())
    count = container.unpack(data).packets[0].count
    total = container.unpack(data).header.count
    assert page.text("#toast") == f"a.s2d ends early: these are {count} of its {total:,} splats."


# What goes wrong


def upload(page, name, data, type_=""):
    page.page.set_input_files("#file", {"name": name, "mimeType": type_, "buffer": data})


BAD = {
    "text.s2d": (b"hello", "text.s2d is no .s2d file."),
    "empty.s2d": (b"", "empty.s2d is no .s2d file: it is empty."),
    "damaged.s2d": (
        (GOLDEN / "colour.s2d").read_bytes()[:1000] + b"xyz" + (GOLDEN / "colour.s2d").read_bytes()[1003:],
        "damaged.s2d is damaged: a checksum is wrong; get another copy.",
    ),
    "cut.s2d": (
        (GOLDEN / "colour.s2d").read_bytes()[:1000],
        "cut.s2d ends after 1000 bytes, in the middle; get a complete copy.",
    ),
    "newer.s2d": (
        (GOLDEN / "one.s2d").read_bytes()[:8] + b"\2" + bytes(40),
        "newer.s2d has version 2.0, known is 1; update splat2d.",
    ),
}


def test_bad_files_are_explained_and_another_one_can_be_opened(viewer, site):
    page = viewer().open(f"{site.url}/", "empty")
    assert page.page.is_visible("#welcome")
    for name, (data, sentence) in BAD.items():
        upload(page, name, data)
        page.page.wait_for_function(
            "text => document.getElementById('problem-text').textContent === text", arg=sentence
        )
        assert page.page.is_visible("#problem")
        assert not page.page.is_visible("#welcome")
    upload(page, "colour.s2d", (GOLDEN / "colour.s2d").read_bytes())
    page.wait("ready")
    assert not page.page.is_visible("#problem")
    assert agrees(page, golden("colour").splats) >= 60


def test_a_file_whose_second_packet_is_damaged_is_not_shown(viewer, site, two_packets):
    data, _ = two_packets
    page = viewer().open(f"{site.url}/", "empty")
    upload(page, "a.s2d", data[:-100] + b"x" + data[-99:])
    page.wait("error")
    assert page.text("#problem-text") == "a.s2d is damaged: a checksum is wrong; get another copy."


@contextmanager
def other_server(**headers):
    """Another server with the golden file a.s2d: its address."""
    data = (GOLDEN / "colour.s2d").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_file_of_a_server_that_lets_other_pages_read_it(viewer, site):
    with other_server(Access_Control_Allow_Origin="*") as other:
        page = viewer().open(f"{site.url}/?src={other}/a.s2d")
        assert page.text("#name") == "a.s2d"
        assert agrees(page, golden("colour").splats) >= 60


@pytest.mark.parametrize("address", ["none.s2d", "{other}/a.s2d", "http://127.0.0.1:1/a.s2d", "http://[/a.s2d"])
def test_addresses_that_give_nothing(viewer, site, address):
    with other_server() as other:
        address = address.format(other=other)
        page = viewer(quiet=False).open(f"{site.url}/?src={address}", "error")
    if address == "none.s2d":
        assert page.text("#problem-text") == "none.s2d cannot be loaded: the server says 404."
    else:
        assert page.text("#problem-text") == (
            f"{address} cannot be loaded: the server does not answer, or does not allow other pages to read it (CORS). "
            "Download the file and open it from disk."
        )


def test_no_webgl(viewer, site):
    script = "HTMLCanvasElement.prototype.getContext = () => null"
    page = viewer(script=script).open(f"{site.url}/?src=colour.s2d", "error")
    assert page.text("#problem-text").startswith("This browser offers no WebGL 2, which drawing needs.")
    assert not page.page.is_visible("#choose-other")


LIMITS = """
  const limit = %d;
  const ask = WebGL2RenderingContext.prototype.getParameter;
  WebGL2RenderingContext.prototype.getParameter = function (name) {
    const found = ask.call(this, name);
    return name === this.MAX_TEXTURE_SIZE ? limit : name === this.MAX_VIEWPORT_DIMS ? [limit, limit] : found;
  };
"""


def test_a_window_larger_than_the_gpu_allows_is_drawn_coarser(viewer, site):
    page = viewer(script=LIMITS % 512).open(f"{site.url}/?src=colour.s2d")
    assert agrees(page, golden("colour").splats) >= 60
    assert page.run("return renderer.canvas.width") == 512


def test_an_original_larger_than_the_gpu_allows(viewer, site):
    page = viewer(script=LIMITS % 256).open(f"{site.url}/?src=colour.s2d")
    file = io.BytesIO()
    Image.new("RGB", (300, 10)).save(file, "PNG")
    upload(page, "original.png", file.getvalue(), "image/png")
    page.page.wait_for_selector("#toast:visible")
    assert page.text("#toast") == "The original has 300 × 10 pixels; this device's GPU takes 256 on a side."


def test_splats_that_the_gpu_has_no_memory_for(viewer, site):
    script = """
      const ask = WebGL2RenderingContext.prototype.getError;
      WebGL2RenderingContext.prototype.getError = function () { return this.OUT_OF_MEMORY; };
    """
    page = viewer(script=script).open(f"{site.url}/?src=colour.s2d", "error")
    assert page.text("#problem-text").startswith("This picture has 300 splats, which is more than the memory")


# Controls


@contextmanager
def served(**options):
    with viewing.serving("colour.s2d", data=(GOLDEN / "colour.s2d").read_bytes(), **options) as url:
        yield url


@pytest.fixture(scope="module")
def original():
    """What the golden file shows, rounded, with one corner changed."""
    image = levels_of(splat2d.render(golden("colour").splats)) / np.float32(255)
    image[:20, :20] = 1 - image[:20, :20]
    return image


def test_the_original_beside_the_splats(viewer, original):
    with served(original=original) as url:
        page = viewer().open(url)
        page.page.wait_for_selector("#views:visible")
        page.page.keyboard.press("1")
        splats, frame = canvas(page)
        left, top = int(-frame["x"]), int(-frame["y"])
        part = np.s_[top : top + 200, left : left + 320]

        pixels = levels_of(splat2d.render(golden("colour").splats)) / np.float32(255)
        page.page.wait_for_selector(f"#facts:text('PSNR {splat2d.psnr(pixels, original):.2f} dB')")

        page.page.click("[data-view=original]")
        np.testing.assert_array_equal(canvas(page)[0][part], levels_of(original))

        page.page.click("[data-view=error]")
        error = canvas(page)[0][part].astype(int)
        difference = np.abs(splats[part].astype(int) - levels_of(original)).max(2)
        assert error[difference == 0].max() < 16  # half a level, times 4, in the first of three ramps
        assert (error[difference > 80] == 255).all()

        page.page.keyboard.press("w")
        wiped = canvas(page)[0][part]
        middle = 320 - left
        np.testing.assert_array_equal(wiped[:, :middle], splats[part][:, :middle])
        np.testing.assert_array_equal(wiped[:, middle:], levels_of(original)[:, middle:])
        box = page.page.locator("#wipe").bounding_box()
        page.page.mouse.move(box["x"] + box["width"] / 2, 200)
        page.page.mouse.down()
        page.page.mouse.move(left + 10, 200, steps=2)
        page.page.mouse.up()
        wiped = canvas(page)[0][part]
        np.testing.assert_array_equal(wiped[:, :10], splats[part][:, :10])
        np.testing.assert_array_equal(wiped[:, 10:], levels_of(original)[:, 10:])
        page.page.focus("#wipe")
        page.page.keyboard.press("ArrowRight")
        assert page.page.locator("#wipe").bounding_box()["x"] + 12 == pytest.approx(left + 10 + 12.8, abs=1)
        assert page.run("return app.wipe") == pytest.approx((left + 10) / 640 + 0.02, abs=1e-3)

        page.page.keyboard.press("s")
        np.testing.assert_array_equal(canvas(page)[0], splats)
        page.page.focus("#canvas")
        page.page.keyboard.down(" ")
        np.testing.assert_array_equal(canvas(page)[0][part], levels_of(original))
        page.page.keyboard.up(" ")
        np.testing.assert_array_equal(canvas(page)[0], splats)

        page.page.keyboard.press("w")
        page.page.locator("#wipe").hover()
        page.page.mouse.wheel(0, -400)
        page.rest()
        assert page.run("return view.zoom") > 1.5


def test_an_enlarged_difference_is_not_that_of_the_original_s_pixels(viewer):
    splats = golden("colour").splats
    with served(original=levels_of(splat2d.render(splats)) / np.float32(255)) as url:
        page = viewer().open(url)
        page.page.wait_for_selector("#views:visible")
        page.page.keyboard.press("d")
        for _ in range(8):
            page.page.keyboard.press("+")
        assert page.run("return view.zoom") > 8
        assert canvas(page)[0][100:400].mean() < 4  # 16 where the pixels are squares


def test_fewer_splats_are_the_most_important_ones(viewer, site):
    page = viewer().open(f"{site.url}/?src=colour.s2d")
    page.page.evaluate("const e = document.getElementById('count'); e.value = 600; e.dispatchEvent(new Event('input'))")
    count = round(300**0.6)
    assert page.text("#count-value") == str(count)
    assert page.page.get_attribute("#count", "aria-valuetext") == f"{count} of 300 splats"
    splats = golden("colour").splats
    assert agrees(page, splats.take(splats.strongest()[:count])) >= 60
    for _ in range(30):
        page.page.keyboard.press("]")
    assert page.text("#count-value") == "300"


def test_ellipses_and_centres_are_drawn_where_the_splats_are(viewer, tmp_path):
    splats = splat2d.Splats([[40, 30]], [[2, 5, 1.5]], [[0.5, 0.4, 0.3]], 80, 60, [0.2, 0.2, 0.2])
    write_bytes(tmp_path / "a.s2d", codec.encode(splats, quality=100))
    splats = splat2d.load(tmp_path / "a.s2d")
    with viewing.serving("a.s2d", data=(tmp_path / "a.s2d").read_bytes()) as url:
        page = viewer().open(url)
        before, frame = canvas(page)
        page.page.click("#ellipses")
        assert page.page.get_attribute("#ellipses", "aria-pressed") == "true"
        after, _ = canvas(page)
        changed = np.argwhere((before != after).any(2))
        at = (changed[:, ::-1] + 0.5) / frame["scale"] + (frame["x"], frame["y"]) - splats.means[0]
        a, b, c = splats.log_cholesky[0]
        u = at[:, 0] / np.exp(a)
        q = u**2 + ((at[:, 1] - b * u) / np.exp(c)) ** 2
        assert len(q) > 100
        assert q.min() > 0.5 and q.max() < 1.7  # outlines at one standard deviation
        page.page.keyboard.press("e")
        np.testing.assert_array_equal(canvas(page)[0], before)
        page.page.keyboard.press("c")
        dots = np.argwhere((before != canvas(page)[0]).any(2))[:, ::-1] + 0.5
        center = (splats.means[0] - (frame["x"], frame["y"])) * frame["scale"]
        assert 4 <= len(dots) <= 16
        assert np.abs(dots.mean(0) - center).max() < 0.5


def test_zoom_keeps_what_lies_under_the_pointer(viewer, site):
    page = viewer().open(f"{site.url}/?src=colour.s2d")
    at = "return view.at(150, 300)"
    before = page.run(at)
    page.page.mouse.move(150, 300)
    page.page.mouse.wheel(0, -400)
    page.rest()
    after = page.run(at)
    assert (after["x"], after["y"]) == pytest.approx((before["x"], before["y"]))
    assert page.run("return view.zoom") > 1.5
    touches = """
      const touch = (type, id, x, y) => renderer.canvas.dispatchEvent(new PointerEvent(type,
        { pointerId: id, clientX: x, clientY: y, pointerType: "touch", bubbles: true }));
      renderer.canvas.setPointerCapture = () => {};
      const middle = view.at(200, 200), zoom = view.zoom;
      touch("pointerdown", 1, 150, 200); touch("pointerdown", 2, 250, 200);
      touch("pointermove", 1, 100, 200); touch("pointermove", 2, 300, 200);
      touch("pointerup", 1, 100, 200); touch("pointerup", 2, 300, 200);
      return { middle, now: view.at(200, 200), factor: view.zoom / zoom };"""
    pinched = page.run(touches)
    assert pinched["factor"] == pytest.approx(2)
    assert pinched["now"] == pytest.approx(pinched["middle"])


def test_the_window_may_change_its_size(viewer, site):
    page = viewer().open(f"{site.url}/?src=colour.s2d")
    assert page.run("return view.isFitted")
    page.page.set_viewport_size({"width": 400, "height": 700})
    assert agrees(page, golden("colour").splats) >= 60
    assert page.run("return [renderer.canvas.width, renderer.canvas.height]") == [400, 700]
    left, right = page.run("return [-view.x * view.zoom, (320 - view.x) * view.zoom]")
    assert left == pytest.approx(400 - right)


@pytest.mark.parametrize("ratio", [1.25, 1.5])
def test_pixels_of_the_screen_are_those_of_the_canvas(viewer, site, ratio):
    """So that the browser scales nothing, whatever the ratio of pixels."""
    page = viewer(401, 303, ratio=ratio).open(f"{site.url}/?src=colour.s2d")
    assert agrees(page, golden("colour").splats) >= 60
    page.page.keyboard.press("1")
    page.rest()
    assert page.run("return app.frame(app.ratio).scale") == 1
    width, height = page.run("return [renderer.canvas.width, renderer.canvas.height]")
    assert Image.open(io.BytesIO(page.page.screenshot())).size == (width, height)


BOXES = """const box = (selector) => {
  const { left, right, top, bottom } = document.querySelector(selector).getBoundingClientRect();
  return [left, top, right, bottom];
};"""


@pytest.mark.parametrize("size", [(320, 560), (390, 844), (800, 500), (960, 500), (970, 500)])
def test_everything_has_its_place_in_a_window(viewer, original, size):
    with served(original=original) as url:
        page = viewer(*size).open(url)
        page.page.wait_for_selector("#views:visible")
        page.page.wait_for_selector("#facts:text('PSNR')")
        page.page.keyboard.press("w")
        page.rest()
        controls = "return [...document.querySelectorAll('button, input, output, .tag, #facts')].filter((e) => "
        for box in page.run(BOXES + controls + "e.checkVisibility()).map((e) => e.getBoundingClientRect().toJSON())"):
            assert box["left"] >= 0 and box["right"] <= size[0] and box["top"] >= 0 and box["bottom"] <= size[1]
        header, footer, tag = page.run(BOXES + "return ['header', 'footer', '.tag'].map(box)")
        top, bottom = page.run("return [-view.y * view.zoom, (200 - view.y) * view.zoom]")
        assert header[3] < tag[1] and header[3] < top < bottom < footer[1]

        # The buttons of a crop: at an edge, and of a crop that fills the window.
        page.page.keyboard.press("x")
        page.page.mouse.move(2, 200)
        page.page.mouse.down()
        page.page.mouse.move(12, 220, steps=2)
        page.page.mouse.up()
        edge = page.run(BOXES + "return box('#crop-actions')")
        page.page.keyboard.press("Escape")
        for _ in range(12):
            page.page.keyboard.press("+")
        page.page.keyboard.press("x")
        page.rest()
        full, footer = page.run(BOXES + "return [box('#crop-actions'), box('footer')]")
        for left, _, right, bottom in (edge, full):
            assert left >= 0 and right <= size[0] and bottom < footer[1]


def test_dark_and_light(viewer, site):
    page = viewer(scheme="light").open(f"{site.url}/?src=colour.s2d")
    light, dark = (228, 229, 233), (20, 21, 25)
    splats = golden("colour").splats
    assert agrees(page, splats, stage=light) >= 60
    page.page.click("#theme")
    assert agrees(page, splats, stage=dark) >= 60
    page.page.keyboard.press("t")
    assert agrees(page, splats, stage=light) >= 60


def test_a_crop_is_saved_as_png_in_the_pixels_of_the_screen(viewer, site):
    page = viewer(ratio=2).open(f"{site.url}/?src=colour.s2d")
    page.page.keyboard.press("1")
    page.page.keyboard.press("x")
    page.page.mouse.move(280, 210)
    page.page.mouse.down()
    page.page.mouse.move(340, 250, steps=3)
    page.page.mouse.up()
    assert page.text("#crop-size") == "120 × 80 pixels"
    corner = page.run("return view.at(280, 210)")
    with page.page.expect_download() as download:
        page.page.click("#crop-save")
    assert download.value.suggested_filename == "colour-crop.png"
    pixels = np.asarray(Image.open(download.value.path()))
    crop = (corner["x"], corner["y"], 120, 80)
    wanted = levels_of(splat2d.render(golden("colour").splats, crop=crop, width=120, height=80))
    assert splat2d.psnr(pixels[..., :3] / np.float32(255), wanted / np.float32(255)) >= 60
    assert not page.page.is_visible("#crop")


def test_a_crop_is_copied(viewer, site):
    page = viewer().open(f"{site.url}/?src=colour.s2d")
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.click("#crop-start")
    page.page.click("#crop-copy")
    page.page.wait_for_selector("#toast:visible")
    assert page.text("#toast") == "Copied."
    size = page.page.evaluate(
        """async () => {
             const [item] = await navigator.clipboard.read();
             const image = await createImageBitmap(await item.getType("image/png"));
             return [image.width, image.height];
           }"""
    )
    assert size[0] / size[1] == pytest.approx(1.6, abs=0.02)


def test_every_control_has_a_name_and_takes_the_focus(viewer, original):
    with served(original=original) as url:
        page = viewer().open(url)
        page.page.wait_for_selector("#views:visible")
        page.page.keyboard.press("w")
        names = []
        for _ in range(40):
            page.page.keyboard.press("Tab")
            names.append(
                page.page.evaluate(
                    """() => {
                         const e = document.activeElement;
                         const text = e.labels?.[0]?.textContent || e.textContent.trim();
                         const label = e.getAttribute("aria-label") || text;
                         const outline = getComputedStyle(e).outlineStyle;
                         return e === document.body ? null : [label, outline];
                       }"""
                )
            )
        found = [name for name in names if name]
        assert {"Zoom out", "Zoom in", "Fit to window", "Splats", "Ellipses", "Centres", "Crop"} <= {
            n for n, _ in found
        }
        assert {"Open a file", "Dark or light", "Keys and gestures", "Wipe"} <= {name for name, _ in found}
        assert all(name and outline != "none" for name, outline in found)
        page.page.keyboard.press("?")
        assert page.page.is_visible("#keys")
        page.page.keyboard.press("Escape")
        assert not page.page.is_visible("#keys")


def test_a_running_fit_is_shown(viewer):
    image = np.random.default_rng(0).random((48, 64, 3), np.float32)
    live = viewing.LiveFit()
    events = live.following(splat2d.fit_steps(image, splat2d.FitConfig(splats=60, steps=100)))
    with viewing.serving("noise.png", live=live, original=image) as url:
        first = next(events)
        page = viewer().open(url, "partial")
        assert f"step {first.step} of 100" in page.text("#fit-state")
        *_, last = events
        page.wait("ready")
        assert page.text("#fit-state").startswith(f"{last.psnr:.2f} dB")
        assert "60 splats" in page.text("#facts")
        assert agrees(page, last.splats) >= 60
        assert page.page.get_attribute("polyline", "points").count(",") >= 2


def test_another_file_ends_the_show_of_a_fit(viewer):
    image = np.random.default_rng(0).random((48, 64, 3), np.float32)
    live = viewing.LiveFit()
    events = live.following(splat2d.fit_steps(image, splat2d.FitConfig(splats=60, steps=100)))
    with viewing.serving("noise.png", live=live, original=image) as url:
        next(events)
        page = viewer().open(url, "partial")
        upload(page, "colour.s2d", (GOLDEN / "colour.s2d").read_bytes())
        page.wait("ready")
        for _ in events:
            pass
        page.page.wait_for_timeout(300)
        assert "300 splats" in page.text("#facts")
        assert not page.page.is_visible("#fit-state") and not page.page.is_visible("#views")
        assert agrees(page, golden("colour").splats) >= 60


def test_a_server_that_stops_in_the_middle_of_a_fit(viewer):
    image = np.random.default_rng(0).random((48, 64, 3), np.float32)
    live = viewing.LiveFit()
    events = live.following(splat2d.fit_steps(image, splat2d.FitConfig(splats=60, steps=100)))
    with viewing.serving("noise.png", live=live) as url:
        next(events)
        page = viewer(quiet=False).open(url, "partial")
        page.page.context.set_offline(True)
        next(events)
    page.page.wait_for_selector("#fit-state:text('stopped')")


def test_gestures_stay_quick_where_frames_are_slow(viewer, site):
    page = viewer().open(f"{site.url}/?src=colour.s2d")
    page.rest()
    widths = page.run(
        """const width = () => renderer.canvas.width;
           const before = width();
           app.adapt(400, false); // a frame has taken so many milliseconds
           app.touch();
           app.draw();
           const during = width();
           await new Promise((resolve) => setTimeout(resolve, 400));
           return [before, during];"""
    )
    assert widths == [640, 160]
    assert agrees(page, golden("colour").splats) >= 60
    assert page.run("return renderer.canvas.width") == 640


def test_a_gpu_that_stops_working_is_noticed(viewer, site):
    page = viewer(quiet=False).open(f"{site.url}/?src=colour.s2d")
    page.run("renderer.gl.getExtension('WEBGL_lose_context').loseContext()")
    page.wait("error")
    assert page.text("#problem-text") == "The GPU has stopped working for this page; load it again."


def test_the_bare_files_opened_from_disk_say_what_they_need(viewer):
    page = viewer(quiet=False).open((viewing.FOLDER / "index.html").as_uri(), "waiting")
    page.page.wait_for_selector("text=The viewer has not started")


def test_a_served_page_asks_nobody_else(viewer, original):
    with served(original=original) as url:
        page = viewer().open(url)
        page.page.wait_for_selector("#views:visible")
        assert {"picture", "original", "worker.js"} <= {address.removeprefix(url) for address in page.requests}
        assert all(address.startswith((url, "data:")) for address in page.requests)
