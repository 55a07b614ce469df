// What the user does: buttons, keys, wheel, pointers, files dropped; and changes of the window.

import { $ } from "./page.js";
import { ViewerError } from "./renderer.js";

export function listen(app) {
  const { view } = app;
  const canvas = $("canvas");
  const on = (id, type, action) => $(id).addEventListener(type, action);
  const zoomBy = (factor) => {
    view.zoomAbout(view.window.width / 2, view.window.height / 2, factor);
    app.touch();
  };
  const fit = () => {
    view.fit();
    app.touch();
  };
  const oneToOne = () => {
    view.center(1 / devicePixelRatio);
    app.touch();
  };
  const chooseFile = () => $("file").click();
  const toggleTheme = () => {
    const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = isDark ? "light" : "dark";
    app.readColors();
  };
  const toggleCrop = () => (app.crop ? app.setCrop(null) : app.renderer?.splats && app.startCrop());
  const showHelp = () => $("keys").showModal();

  on("zoom-in", "click", () => zoomBy(1.5));
  on("zoom-out", "click", () => zoomBy(1 / 1.5));
  on("zoom", "click", oneToOne);
  on("fit", "click", fit);
  on("count", "input", () => app.setShare($("count").value / 1000));
  on("ellipses", "click", () => app.toggle("ellipses"));
  on("centers", "click", () => app.toggle("centers"));
  on("views", "click", ({ target }) => target.dataset.view && app.setView(target.dataset.view));
  on("open", "click", chooseFile);
  on("choose", "click", chooseFile);
  on("choose-other", "click", chooseFile);
  on("theme", "click", toggleTheme);
  on("help", "click", showHelp);
  on("crop-start", "click", toggleCrop);
  on("crop-copy", "click", () => app.copyCrop());
  on("crop-save", "click", () => app.saveCrop());
  on("crop-close", "click", () => app.setCrop(null));
  on("file", "change", () => {
    if ($("file").files.length) app.openFile($("file").files[0]);
    $("file").value = "";
  });
  on("views", "keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const buttons = [...$("views").children];
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    app.setView(next.dataset.view);
    next.focus();
    event.stopPropagation();
  });
  on("wipe", "keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (!step) return;
    app.setWipe(app.wipe + step);
    event.stopPropagation();
  });
  on("wipe", "pointerdown", (event) => $("wipe").setPointerCapture(event.pointerId));
  on("wipe", "pointermove", (event) => {
    if ($("wipe").hasPointerCapture(event.pointerId)) app.setWipe(event.clientX / view.window.width);
  });

  const keys = {
    "+": () => zoomBy(1.25),
    "=": () => zoomBy(1.25),
    "-": () => zoomBy(0.8),
    0: fit,
    1: oneToOne,
    "[": () => app.setShare(app.share - 0.02),
    "]": () => app.setShare(app.share + 0.02),
    e: () => app.toggle("ellipses"),
    c: () => app.toggle("centers"),
    s: () => app.setView("splats"),
    w: () => app.setView("wipe"),
    d: () => app.setView("error"),
    x: toggleCrop,
    o: chooseFile,
    t: toggleTheme,
    "?": showHelp,
    Escape: () => app.setCrop(null),
  };
  const pans = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  let heldFrom = null; // the view that space has left
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
    if (event.key === " " && (event.target === canvas || event.target === document.body)) {
      if (heldFrom === null && app.renderer?.hasOriginal) {
        heldFrom = app.options.view;
        app.setView("original");
      }
      return event.preventDefault();
    }
    const pan = event.target.type === "range" ? null : pans[event.key];
    if (pan) {
      view.pan(64 * pan[0], 64 * pan[1]);
      app.touch();
      return event.preventDefault();
    }
    keys[event.key.length === 1 ? event.key.toLowerCase() : event.key]?.();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key !== " " || heldFrom === null) return;
    app.setView(heldFrom);
    heldFrom = null;
  });

  document.querySelector("main").addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = [1, 16, view.window.height][event.deltaMode];
      const speed = event.ctrlKey ? 0.01 : 0.0016; // a pinch on a touchpad comes with ctrlKey
      view.zoomAbout(event.clientX, event.clientY, Math.exp(-event.deltaY * lines * speed));
      app.touch();
    },
    { passive: false },
  );
  canvas.addEventListener("dblclick", (event) => {
    view.zoomAbout(event.clientX, event.clientY, 2);
    app.touch();
  });
  listenToPointers(app, canvas);

  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => !event.relatedTarget && document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files.length) app.openFile(event.dataTransfer.files[0]);
  });
  canvas.addEventListener("webglcontextlost", () =>
    app.fail(new ViewerError("The GPU has stopped working for this page; load it again.")),
  );
  matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => app.readColors());
  observeSize(app, canvas);
}

/** Follows the size of the canvas, in whole pixels of the screen where the browser tells them, and of the bars. */
function observeSize(app, canvas) {
  const observer = new ResizeObserver(([{ devicePixelContentBoxSize: box }]) => {
    // Within a pixel of what the ratio says; but a device that developer tools imitate has other ones.
    const exact = (told, length) =>
      Math.abs(told - length * devicePixelRatio) < 1 ? told : Math.round(length * devicePixelRatio);
    app.screen = {
      width: exact(box?.[0].inlineSize, canvas.clientWidth),
      height: exact(box?.[0].blockSize, canvas.clientHeight),
    };
    app.resize();
  });
  try {
    observer.observe(canvas, { box: "device-pixel-content-box" });
  } catch {
    observer.observe(canvas);
  }
  const bars = new ResizeObserver(() => app.resize());
  for (const bar of ["header", "footer"]) bars.observe(document.querySelector(bar));
}

/** One pointer pans, or draws a crop; two pinch. */
function listenToPointers(app, canvas) {
  const pointers = new Map();
  let cropFrom = null;
  const middle = () => {
    const [a, b = a] = [...pointers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, distance: Math.hypot(a.x - b.x, a.y - b.y) };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (app.crop && pointers.size === 1) cropFrom = { x: event.clientX, y: event.clientY };
    canvas.classList.add("dragging");
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = middle();
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const now = middle();
    if (cropFrom) {
      const [x, y] = [Math.min(cropFrom.x, now.x), Math.min(cropFrom.y, now.y)];
      return app.setCrop({ x, y, width: Math.abs(now.x - cropFrom.x), height: Math.abs(now.y - cropFrom.y) });
    }
    app.view.pan(now.x - before.x, now.y - before.y);
    if (before.distance && now.distance) app.view.zoomAbout(now.x, now.y, now.distance / before.distance);
    app.touch();
  });
  for (const type of ["pointerup", "pointercancel"])
    canvas.addEventListener(type, (event) => {
      pointers.delete(event.pointerId);
      if (!pointers.size) canvas.classList.remove("dragging");
      cropFrom = null;
    });
}
