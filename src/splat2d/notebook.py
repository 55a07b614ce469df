"""Splats as a widget in a notebook: the page of the viewer in a frame of its own. The extra `notebook`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from splat2d import codec, viewing
from splat2d.errors import InputError
from splat2d.splats import Splats

if TYPE_CHECKING:
    from anywidget import AnyWidget

HEIGHT = 480  # pixels

# The page may run its scripts and offer what it saves, and nothing else of the notebook.
FRAME = """
function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.title = "splats";
  frame.sandbox = "allow-scripts allow-downloads";
  frame.allow = "clipboard-write; fullscreen";
  frame.style.cssText = "width: 100%; border: 0; display: block";
  const show = () => {
    frame.style.height = `${model.get("height")}px`;
    frame.srcdoc = new TextDecoder("utf-16").decode(model.get("page"));
  };
  model.on("change:page change:height", show);
  show();
  el.append(frame);
}
export default { render };
"""


def view(splats: Splats, *, height: int = HEIGHT) -> AnyWidget:
    """The viewer as a widget of so many pixels of height; it holds the splats as a .s2d file of quality 100.

    Raises InputError where anywidget is missing.
    """
    try:
        from anywidget import AnyWidget
        from traitlets import Bytes, Int
    except ImportError:
        raise InputError('the widget needs one more package: pip install "splat2d[notebook]"') from None

    class Viewer(AnyWidget):  # type: ignore[misc]
        _esm = FRAME
        page = Bytes().tag(sync=True)
        height = Int().tag(sync=True)

    page = viewing.page(codec.encode(splats, quality=100), "splats")
    return Viewer(page=page, height=height)
