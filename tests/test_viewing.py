"""The server of the viewer, pages of one file, and `splat2d view`; without a browser."""

import base64
import http.client
import json
import re
import signal
import struct
import subprocess
import sys
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import splat2d
from splat2d import viewing
from splat2d.cli import main
from splat2d.codec import vector
from splat2d.errors import FormatError, InputError

GOLDEN = Path(__file__).parent / "golden"
COLOUR = (GOLDEN / "colour.s2d").read_bytes()
PICTURE = np.random.default_rng(0).random((24, 32, 3), np.float32)


def ask(url, path=None, method="GET", host=None):
    """Status, headers and body; path as it is, without a client that tidies it."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    connection.putrequest(method, parts.path if path is None else path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or parts.netloc)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


@pytest.fixture(scope="module")
def url():
    with viewing.serving("colour.s2d", data=COLOUR) as url:
        yield url


def test_the_server_gives_the_page_and_the_file(url):
    status, headers, body = ask(url)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert b'"file": "picture"' in body
    assert ask(url + "picture")[::2] == (200, COLOUR)
    assert ask(url + "decoder.js")[1]["Content-Type"] == "text/javascript; charset=utf-8"
    assert ask(url + "picture", method="HEAD")[::2] == (200, b"")


def test_every_answer_allows_the_page_nothing_but_itself(url):
    for path in ("", "app.js", "picture", "nothing"):
        headers = ask(url + path)[1]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


def test_only_its_token_opens_the_server(url):
    token = urlsplit(url).path.strip("/")
    assert len(token) == 32
    wrong = ["/", "", "/picture", "/index.html", f"/{token}", f"/{token[:-1]}/", f"/{token}x/picture"]
    for path in [*wrong, f"/{token.upper()}/", "/../", f"http://elsewhere/{token[:-1]}/"]:
        assert ask(url, path)[0] == 404, path


@pytest.mark.parametrize(
    "name",
    [
        "../viewing.py",
        "..%2fviewing.py",
        "%2e%2e/viewing.py",
        "/etc/passwd",
        "//etc/passwd",
        "..\\viewing.py",
        "./picture",
        "picture/",
        "viewer/app.js",
        "picture%00.js",
        "live",
    ],
)
def test_no_path_leads_out(url, name):
    assert ask(url, urlsplit(url).path + name)[0] == 404


@pytest.mark.parametrize("host", ["", "example.org", "127.0.0.1", "127.0.0.1:1", "localhost.example.org", "[::1]"])
def test_a_foreign_host_is_refused(url, host):
    """So a name that somebody points at this machine opens nothing."""
    assert ask(url, host=host)[0] == 404


def test_localhost_is_this_host(url):
    assert ask(url, host=f"localhost:{urlsplit(url).port}")[0] == 200


def test_a_request_that_is_not_one_harms_nothing(url):
    for path in ("*", "http://[", "/%", "/" + "a" * 60000):
        assert ask(url, path)[0] in (400, 404, 414)
    for method in ("POST", "PUT", "OPTIONS"):
        assert ask(url, method=method)[0] == 501
    assert ask(url)[0] == 200


def test_each_server_has_a_token_of_its_own():
    with viewing.serving("a", data=COLOUR) as one, viewing.serving("b", data=COLOUR) as other:
        assert one != other
        assert urlsplit(one).path != urlsplit(other).path
        assert ask(one, urlsplit(other).path)[0] == 404
    with pytest.raises(OSError):
        ask(one)


def test_a_port_in_use_is_named(url):
    with (
        pytest.raises(InputError, match=r"port \d+ cannot be used \(Address already in use\); leave it out"),
        viewing.serving("a", data=COLOUR, port=urlsplit(url).port),
    ):
        pass


def test_the_original_is_served_as_png():
    with viewing.serving("a", data=COLOUR, original=PICTURE) as url:
        status, headers, body = ask(url + "original")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert body.startswith(b"\x89PNG")
        assert b'"original": "original"' in ask(url)[2]


# A running fit


def state(url, after):
    """The JSON part, and the rows."""
    _, _, body = ask(f"{url}live?after={after}", f"{urlsplit(url).path}live?after={after}")
    (length,) = struct.unpack_from("<I", body)
    found = json.loads(body[4 : 4 + length])
    return found, np.frombuffer(body[4 + length :], "<f4").reshape(found.get("count", 0), -1)


def test_a_running_fit_is_streamed():
    live = viewing.LiveFit()
    config = splat2d.FitConfig(splats=20, steps=40)
    events = live.following(splat2d.fit_steps(PICTURE, config))
    with viewing.serving("a", live=live) as url:
        first = next(events)
        found, rows = state(url, 0)
        assert (found["number"], found["done"], found["step"], found["steps"]) == (1, False, first.step, 40)
        assert found["psnr"] == pytest.approx(first.psnr)
        order = first.splats.strongest()
        np.testing.assert_array_equal(rows[:, :2], first.splats.means[order])
        np.testing.assert_array_equal(rows[:, 2:5], first.splats.log_cholesky[order])
        np.testing.assert_array_equal(rows[:, 5:], first.splats.colors[order])

        waiting = []
        thread = threading.Thread(target=lambda: waiting.append(state(url, 1)))
        thread.start()
        *_, last = events
        thread.join(10)
        assert waiting[0][0]["number"] > 1
        found, rows = state(url, 1)
        assert (found["done"], found["step"], len(rows)) == (True, last.step, 20)


def test_a_fit_that_fails_says_so():
    def events():
        raise InputError("no such thing")
        yield

    live = viewing.LiveFit()
    with pytest.raises(InputError):
        [*live.following(events())]
    (length,) = struct.unpack_from("<I", live.after(0))
    assert json.loads(live.after(0)[4 : 4 + length])["error"] == "no such thing"


def test_a_question_for_a_state_that_does_not_come_is_answered():
    live = viewing.LiveFit()
    (length,) = struct.unpack_from("<I", live.after(0, wait=0.01))
    assert json.loads(live.after(0, wait=0.01)[4:]) == {"number": 0, "done": False}
    assert length % 4 == 0  # rows of float32 follow


# One file


@pytest.mark.parametrize("name", ["colour", "vector-colour", "empty"])
def test_a_page_is_small(name):
    data = (GOLDEN / f"{name}.s2d").read_bytes()
    page = viewing.page(data, f"{name}.s2d")
    # The bytes of a file are as good as random; 350 kB of them still keep to 60 kB on top.
    noise = np.random.default_rng(0).bytes(350_000 - len(data))
    assert len(page) + len(viewing._element("data", noise).encode("utf-16-le")) - 350_000 <= 60_000
    assert page == viewing.page(data, f"{name}.s2d")


def element(page, name):
    """The bytes of an element of a page of one file, as loader.js reads them."""
    size, text = re.search(rf'id="{name}" data-size="(\d+)">([^<]*)<', page).groups()
    text = re.sub("\ue000(.)", lambda found: chr(ord(found[1]) ^ 0x4000), text, flags=re.S)
    return text.encode("utf-16-le", "surrogatepass")[: int(size)]


def test_all_bytes_come_through_a_page():
    words = np.arange(65536, dtype="<u2").tobytes()
    for data in (b"", b"<", words, words[1:], b"\r\n\0" * 5 + words):
        text = viewing._element("data", data)
        assert element(text, "data") == data
        inside = text.partition(">")[2].removesuffix("</script>")
        # What a browser would change or understand: controls, "<", surrogates and what is no character.
        assert not re.search("[\0-\x1f<\ud800-\udfff\ufff0-\uffff]", inside)


def test_a_page_holds_the_file_and_no_address():
    page = viewing.page(COLOUR, "a.s2d")
    assert page.startswith(b"\xff\xfe<\0!\0")  # a byte order mark goes before what a server says of the encoding
    page = page.decode("utf-16")
    assert element(page, "data") == COLOUR
    packed = zlib.decompress(element(page, "packed")).decode()
    for text in (page, packed):
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)\w", text)
        assert not re.search(r"\b(src|href)=\\?\"(?!#|data:)", text)
    assert "connect-src" not in page and "default-src 'none'" in page and "unsafe" not in page
    script = json.loads(packed)["script"]
    assert not re.search(r"^(import|export) ", script, re.M)


def test_a_name_cannot_end_the_script():
    name = "</script><script>alert(1)</script>"
    page = viewing.page(COLOUR, name).decode("utf-16")
    assert name not in page
    source = re.search(r'id="source">(.*?)</script>', page)[1]
    assert json.loads(source) == {"name": name}


def test_a_page_of_something_else_is_refused():
    with pytest.raises(FormatError, match=r"no \.s2d file"):
        viewing.page(b"GIF89a", "a.s2d")


def test_the_viewer_has_the_tables_of_the_codec():
    source = (Path(__file__).parents[1] / "native" / "codec" / "tables.h").read_text("utf-8")
    page = (viewing.FOLDER / "tables.js").read_text("utf-8")
    found = dict(re.findall(r"export const (\w+) =\s*\"([^\"]*)\"", page))
    for name, text in re.findall(r"char k(\w+)\[\] =((?:\s*\"[^\"]*\")+);", source):
        constant = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper()
        assert found.pop(constant) == "".join(re.findall(r"\"([^\"]*)\"", text))
    assert not found


def test_the_viewer_has_the_codebook_of_the_codec():
    text = (viewing.FOLDER / "codebook.js").read_text("utf-8")
    assert base64.b64decode(re.search(r"\"([^\"]*)\"", text)[1]) == vector.CODEBOOK.read_bytes()


# The command


@contextmanager
def web(answers):
    """A server elsewhere: its address; answers: body by path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = answers.get(self.path)
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def seen(monkeypatch):
    """What a view showed: url, page, file and original, at the moment when it waits for Ctrl-C."""
    found = {}

    def open_(url):
        found["url"] = url
        return True

    def wait():
        url = found.get("url")
        if url:
            found.update(page=ask(url)[2], file=ask(url + "picture")[2], original=ask(url + "original")[::2])

    monkeypatch.setattr("webbrowser.open", open_)
    monkeypatch.setattr("splat2d.cli._wait", wait)
    return found


def test_view_of_a_file(seen, tmp_path, capsys):
    path = tmp_path / "colour.s2d"
    path.write_bytes(COLOUR)
    assert main(["view", str(path)]) == 0
    assert seen["file"] == COLOUR
    assert seen["original"][0] == 404
    assert b'"name": "colour.s2d"' in seen["page"]
    assert capsys.readouterr().out.strip() == seen["url"]


def test_ctrl_c_ends_a_view():
    command = [sys.executable, "-m", "splat2d", "view", str(GOLDEN / "colour.s2d"), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        assert ask(url + "picture")[2] == COLOUR
        assert process.stderr.readline() == "splat2d: Ctrl-C ends the view\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_view_of_a_file_with_its_original(seen, tmp_path):
    splat2d.save_image(tmp_path / "a.png", PICTURE)
    assert main(["view", str(GOLDEN / "colour.s2d"), "--original", str(tmp_path / "a.png")]) == 0
    assert seen["original"][1].startswith(b"\x89PNG")


def test_view_without_a_browser(seen, capsys):
    assert main(["view", str(GOLDEN / "colour.s2d"), "--no-browser"]) == 0
    assert "url" not in seen
    assert capsys.readouterr().out.startswith("http://127.0.0.1:")


def test_view_of_a_photo(seen, tmp_path):
    splat2d.save_image(tmp_path / "photo.png", PICTURE)
    assert main(["view", str(tmp_path / "photo.png")]) == 0
    assert splat2d.decode(seen["file"]).width == 32
    assert seen["original"][0] == 200
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_view_of_exact_splats(seen, tmp_path):
    splats = splat2d.fit(PICTURE, splats=30, steps=20).splats
    splat2d.save(tmp_path / "a.npz", splats)
    assert main(["view", str(tmp_path / "a.npz")]) == 0
    assert splat2d.psnr(splat2d.render(splat2d.decode(seen["file"])), splat2d.render(splats)) > 45


def test_view_of_an_address(seen):
    with web({"/a.s2d?version=2": COLOUR}) as address:
        assert main(["view", f"{address}/a.s2d?version=2"]) == 0
    assert seen["file"] == COLOUR
    assert b'"name": "a.s2d"' in seen["page"]


def test_view_of_a_file_that_ends_early(seen, tmp_path, capsys):
    data = (GOLDEN / "packets.s2d").read_bytes()
    (tmp_path / "cut.s2d").write_bytes(data[:-1000])
    assert main(["view", str(tmp_path / "cut.s2d")]) == 0
    assert seen["file"] == data[:-1000]
    assert re.search(r"warning: .*cut\.s2d ends early; it holds \d+ of 900 splats", capsys.readouterr().err)


def test_view_of_a_running_fit(seen, tmp_path, capsys):
    splat2d.save_image(tmp_path / "photo.png", PICTURE)
    assert main(["view", str(tmp_path / "photo.png"), "--live", "--splats", "20"]) == 0
    assert b'"live": "live"' in seen["page"]
    assert re.search(r"20 splats, [\d.]+ dB", capsys.readouterr().err)


def test_view_writes_a_page(tmp_path, capsys):
    page = tmp_path / "a.html"
    assert main(["view", str(GOLDEN / "colour.s2d"), "-o", str(page)]) == 0
    assert page.read_bytes() == viewing.page(COLOUR, "colour.s2d")
    assert f"{page.stat().st_size} bytes, for {len(COLOUR)} bytes of splats" in capsys.readouterr().out


def test_fit_writes_a_page(tmp_path, capsys):
    splat2d.save_image(tmp_path / "photo.png", PICTURE)
    outputs = ["-o", str(tmp_path / "a.html"), "-o", str(tmp_path / "a.s2d")]
    assert main(["fit", str(tmp_path / "photo.png"), "--preset", "fast", "--splats", "20", "--quiet", *outputs]) == 0
    assert (tmp_path / "a.html").read_bytes() == viewing.page((tmp_path / "a.s2d").read_bytes(), "a.s2d")
    arguments = ["fit", str(tmp_path / "photo.png"), "--preset", "fast", "--splats", "20", "--quiet", "--json"]
    assert main([*arguments, *outputs[:2]]) == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])["next"].startswith("python -m webbrowser file://")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["missing.s2d"], "missing.s2d: no such file"),
        (["missing.png"], "missing.png: no such file"),
        (["bad.s2d"], "bad.s2d: is no .s2d file"),
        (["damaged.s2d"], "damaged.s2d: is damaged: a checksum is wrong; get another copy"),
        (["newer.s2d"], "newer.s2d: has version 2.0, known is 1; update splat2d"),
        (["http://127.0.0.1:1/a.s2d"], "http://127.0.0.1:1/a.s2d cannot be loaded: Connection refused"),
        (["http://[/a.s2d"], "http://[/a.s2d cannot be loaded: Invalid IPv6 URL"),
        (["a.s2d", "--live"], "--live shows the fit of a photo in a browser; give a photo, and no -o"),
        (["a.png", "--live", "-o", "a.html"], "--live shows the fit of a photo in a browser; give a photo, and no -o"),
        (["a.png", "--splats", "9"], "--splats goes with --live"),
        (["a.s2d", "-o", "a.png"], "a.png: view writes a page; choose a name that ends in .html"),
        (
            ["a.s2d", "-o", "a.html", "--original", "a.png"],
            "a page in one file holds no original; leave out --original",
        ),
        (["a.s2d", "--original", "five.npy"], "only pictures of 1, 3 or 4 channels can be shown, not of 5"),
        (["a.s2d", "-o", "no/a.html"], "no/a.html: the folder "),
        (["a.s2d", "--port", "99999"], "port 99999 cannot be used"),
    ],
)
def test_bad_input_is_one_line(arguments, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.s2d").write_bytes(COLOUR)
    Path("bad.s2d").write_bytes(b"GIF89a")
    Path("damaged.s2d").write_bytes(COLOUR[:100] + b"x" + COLOUR[101:])
    Path("newer.s2d").write_bytes(COLOUR[:8] + b"\2" + COLOUR[9:])
    splat2d.save_image("a.png", PICTURE)
    splat2d.save_image("five.npy", np.zeros((4, 4, 5), np.float32))
    assert main(["view", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"splat2d: error: {problem}")
    assert err.count("\n") == 1
    assert not Path("a.html").exists()


def test_an_address_that_gives_nothing_usable(capsys):
    with web({"/page": b"<!doctype html>"}) as address:
        assert main(["view", f"{address}/none.s2d"]) == 1
        assert main(["view", f"{address}/page"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"splat2d: error: {address}/none.s2d cannot be loaded: the server says 404 Not Found"
    assert second == f"splat2d: error: {address}/page: is no .s2d file"
