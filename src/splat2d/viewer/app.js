// The page: loads, shows, and says what it shows.

import { listen } from "./controls.js";
import { follow } from "./live.js";
import { $, numbers, request } from "./page.js";
import { Renderer, VIEWS, ViewerError } from "./renderer.js";
import { View } from "./view.js";

const QUICK = 25; // milliseconds of a frame that feel immediate
const MOST_COMPARED = 2 ** 24; // pixels whose PSNR is measured
const REST = 160; // milliseconds after the last touch before the picture becomes sharp again

/** Where the picture comes from: {name, file, original, live, path}, the addresses of what to fetch. */
function readSource() {
  const source = JSON.parse($("source").textContent);
  const parameters = new URLSearchParams(location.search);
  if (parameters.has("src")) {
    source.file = parameters.get("src");
    source.name = source.file.split("/").at(-1).split("?")[0];
  }
  source.path ??= ["float", "half", "tiles"].find((path) => path === parameters.get("path"));
  return source;
}

class App {
  constructor() {
    this.source = readSource();
    this.view = new View();
    this.renderer = null;
    this.options = { view: "splats", ellipses: false, centers: false };
    this.share = 1; // of the count slider
    this.wipe = 0.5; // of the width
    this.originalPixels = null;
    this.compared = null; // {splats, count, decibels}
    this.crop = null; // {x, y, width, height} in CSS pixels
    this.file = { name: "", size: 0, header: null, count: 0, milliseconds: 0 };
    this.loading = 0; // number of the latest load; older ones are stopped
    this.worker = makeWorker(); // loads while WebGL starts
    this.isFresh = true; // whether the worker has seen no file
    this.stage = [0, 0, 0];
    this.screen = { width: 1, height: 1 }; // what the canvas covers, pixels of the screen
    this.ratio = 1; // pixels of the canvas per CSS pixel
    this.isQueued = false;
    this.fence = null;
    this.coarser = 1; // by how much during a gesture, so that frames are quick
    this.touched = 0; // time of the last gesture
    this.frames = 0;
    this.firstPicture = null; // milliseconds until the first picture, and splats in it
  }

  start() {
    this.setState("empty");
    listen(this);
    this.readColors();
    this.setView("splats");
    this.setWipe(this.wipe);
    try {
      this.renderer = new Renderer($("canvas"), this.source.path);
    } catch (error) {
      return this.fail(error);
    }
    if (this.source.live) follow(this);
    else if (this.source.file) this.openAddress(this.source.file, this.source.name);
    else if (globalThis.inlined) this.openBytes(this.source.name, globalThis.inlined.data);
    else $("welcome").hidden = false;
    if (this.source.original) this.openOriginal(fetchBlob(this.source.original, "the original"));
  }

  setState(state) {
    document.body.dataset.state = state;
  }

  /** Says why nothing can be shown. */
  fail(error) {
    this.loading++;
    this.renewWorker();
    this.setState("error");
    $("progress").hidden = $("welcome").hidden = true;
    $("problem").hidden = false;
    $("problem-text").textContent = error.message;
    $("choose-other").hidden = !this.renderer || this.renderer.gl.isContextLost(); // no file can be shown
    if (!(error instanceof ViewerError)) throw error;
  }

  say(text) {
    $("toast").textContent = text;
    $("toast").hidden = !text;
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => ($("toast").hidden = true), 6000);
  }

  // Loading

  /** Streams a file to the worker, which answers after each packet. begin() gives its size, or 0, and its parts. */
  async open(name, begin) {
    const number = ++this.loading;
    if (!this.renderer) return;
    this.file = { name, size: 0, header: null, count: 0, milliseconds: 0 };
    if (!this.isFresh) this.renewWorker();
    this.isFresh = false;
    const started = performance.now();
    this.worker.onmessage = ({ data }) => {
      if (number !== this.loading) return;
      if (data.error) return this.reject(name, data);
      this.showPacket(data, started);
    };
    this.worker.onerror = (event) =>
      this.fail(new ViewerError(`The decoder failed: ${event.message || "it did not start"}.`));
    this.setState("loading");
    $("problem").hidden = $("welcome").hidden = $("fit-progress").hidden = true;
    $("progress").hidden = false;
    $("progress").removeAttribute("value");
    try {
      const { size, parts } = await begin();
      for await (const bytes of parts) {
        if (number !== this.loading) return;
        this.file.size += bytes.length;
        if (size) $("progress").value = this.file.size / size;
        this.worker.postMessage({ bytes });
      }
    } catch (error) {
      if (number === this.loading) this.fail(error instanceof ViewerError ? error : new ViewerError(lost(name)));
      return;
    }
    if (number === this.loading) this.worker.postMessage({ end: true });
  }

  renewWorker() {
    this.worker.terminate();
    this.worker = makeWorker();
    this.isFresh = true;
  }

  showPacket({ header, splats, complete, milliseconds }, started) {
    const isFirst = !this.file.header;
    Object.assign(this.file, { header, milliseconds, count: splats.length / (5 + header.channels) });
    this.firstPicture = isFirst
      ? { milliseconds: performance.now() - started, splats: this.file.count }
      : this.firstPicture;
    $("progress").hidden = complete;
    this.show({ ...header, rows: splats }, isFirst, complete);
  }

  reject(name, { error, cut }) {
    if (!cut) return this.fail(new ViewerError(`${name || "The file"} ${error}.`));
    const { count, header } = this.file;
    $("progress").hidden = true;
    this.setState("ready");
    this.say(`${name} ends early: these are ${numbers.format(count)} of its ${numbers.format(header.count)} splats.`);
  }

  /** splats: as Renderer.setSplats takes them. isFirst: of a picture; isLast: no better ones come. */
  show(splats, isFirst, isLast) {
    try {
      this.renderer.setSplats(splats);
    } catch (error) {
      return this.fail(error);
    }
    const { width, height } = splats;
    this.setState(isLast ? "ready" : "partial");
    if (isFirst) {
      this.view.picture = { width, height };
      this.view.fit();
    }
    $("canvas").setAttribute("aria-label", `Picture of ${width} by ${height} pixels`);
    this.describe();
    this.invalidate();
  }

  openAddress(address, name) {
    return this.open(name, async () => {
      const response = await request(address, name);
      return { size: Number(response.headers.get("Content-Length")), parts: partsOf(response.body.getReader()) };
    });
  }

  openBytes(name, bytes) {
    return this.open(name, () => ({ size: bytes.length, parts: [bytes] }));
  }

  /** A file of splats, or the original of those shown. */
  async openFile(file) {
    const isPicture = file.type.startsWith("image/") && !file.name.endsWith(".s2d");
    if (isPicture && this.renderer?.splats) return this.openOriginal(Promise.resolve(file));
    this.forgetOriginal();
    return this.openBytes(file.name, new Uint8Array(await file.arrayBuffer()));
  }

  async openOriginal(blob) {
    try {
      const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
      const image = await createImageBitmap(await blob, options).catch((error) => {
        throw error instanceof ViewerError
          ? error
          : new ViewerError("The original is no picture that this browser reads.");
      });
      this.renderer.setImage(image);
      this.originalPixels = image.width * image.height <= MOST_COMPARED ? pixelsOf(image) : null;
      $("views").hidden = false;
      this.invalidate();
    } catch (error) {
      if (!(error instanceof ViewerError)) throw error;
      this.say(error.message);
    }
  }

  forgetOriginal() {
    this.setView("splats");
    $("views").hidden = true;
    this.originalPixels = null;
    if (this.renderer) this.renderer.hasOriginal = false;
  }

  // Words

  get splatCount() {
    const total = this.renderer?.splats?.count ?? 0;
    return this.share >= 1 ? total : Math.max(Math.min(1, total), Math.round(total ** this.share));
  }

  describe() {
    const { splats } = this.renderer;
    if (!splats) return;
    const { name, size, header, milliseconds } = this.file;
    const facts = [`${splats.width} × ${splats.height}`, `${numbers.format(splats.count)} splats`];
    const { compared } = this;
    if (compared?.splats === splats && compared.count === this.splatCount)
      facts.push(`PSNR ${Number.isFinite(compared.decibels) ? compared.decibels.toFixed(2) : "∞"} dB`);
    if (size) {
      facts.push(size < 10000 ? `${numbers.format(size)} bytes` : `${(size / 1000).toFixed(size < 1e5 ? 1 : 0)} kB`);
      facts.push(`${((8 * size) / (splats.width * splats.height)).toPrecision(2)} bpp`);
    }
    if (milliseconds) facts.push(`decoded in ${Math.max(1, Math.round(milliseconds))} ms`);
    if (header && ![1, 3, 4].includes(header.channels))
      facts.push(`${header.channels} channels, shown ${splats.shown === 1 ? "is the first" : "are the first three"}`);
    $("name").textContent = name || "splat2d";
    document.title = name ? `${name} · splat2d` : "splat2d";
    $("facts").textContent = facts.join(" · ");
    const shown = numbers.format(this.splatCount);
    $("count-value").textContent = shown;
    $("count").setAttribute("aria-valuetext", `${shown} of ${numbers.format(splats.count)} splats`);
  }

  /** Measures the splats shown against the original, both in 8 bits, unless that is known. */
  compare() {
    const { renderer, originalPixels: original, splatCount: count, source } = this;
    const { splats } = renderer;
    const { width, height } = splats;
    if (!original || source.live || splats.channels === 4) return;
    if (width !== original.width || height !== original.height || Math.max(width, height) > renderer.mostSide) return;
    if (this.compared?.splats === splats && this.compared.count === count) return;
    const pixels = renderer.pixels({ x: 0, y: 0, scale: 1 }, width, height, count);
    let squares = 0;
    for (let i = 0; i < pixels.length; i++) if (i % 4 < 3) squares += (pixels[i] - original.data[i]) ** 2;
    this.compared = { splats, count, decibels: 10 * Math.log10((255 ** 2 * 3 * width * height) / squares) };
    this.describe();
  }

  readColors() {
    this.stage = getComputedStyle(document.documentElement)
      .getPropertyValue("--stage")
      .trim()
      .split(/\s+/)
      .map((level) => level / 255);
    this.invalidate();
  }

  setView(view) {
    if (!this.renderer?.hasOriginal && view !== "splats") return;
    this.options.view = view;
    for (const button of $("views").children) {
      const isChosen = button.dataset.view === view;
      button.setAttribute("aria-checked", isChosen);
      button.tabIndex = isChosen ? 0 : -1;
    }
    $("wipe").hidden = view !== "wipe";
    this.invalidate();
  }

  toggle(name, id = name) {
    this.options[name] = !this.options[name];
    $(id).setAttribute("aria-pressed", this.options[name]);
    this.invalidate();
  }

  setShare(share) {
    this.share = Math.min(Math.max(share, 0), 1);
    $("count").value = Math.round(1000 * this.share);
    this.describe();
    this.touch();
  }

  /** Puts the border of the wipe at this share of the width. */
  setWipe(share) {
    this.wipe = Math.min(Math.max(share, 0), 1);
    $("wipe").style.left = `${100 * this.wipe}%`;
    $("wipe").setAttribute("aria-valuenow", Math.round(100 * this.wipe));
    this.invalidate();
  }

  // Drawing: only when something has changed, one frame at a time.

  resize() {
    const { clientWidth: width, clientHeight: height } = $("canvas");
    const bar = (selector) => document.querySelector(selector).getBoundingClientRect().height + 12;
    this.view.resize({ width, height, top: bar("header"), bottom: bar("footer") });
    for (const side of ["top", "bottom"])
      document.documentElement.style.setProperty(`--${side}`, `${this.view.window[side]}px`);
    this.invalidate();
  }

  /** A gesture goes on: quick frames now, a sharp one soon. */
  touch() {
    this.touched = performance.now();
    this.invalidate();
  }

  invalidate() {
    if (this.isQueued) return;
    this.isQueued = true;
    requestAnimationFrame(() => {
      this.isQueued = false;
      if (this.fence)
        this.invalidate(); // the frame before is not done yet
      else this.draw();
    });
  }

  draw() {
    const { renderer, view } = this;
    if (!renderer?.splats || renderer.gl.isContextLost()) return;
    const canvas = $("canvas");
    const isMoving = performance.now() - this.touched < REST;
    const { screen } = this;
    const share =
      Math.min(1, renderer.mostSide / Math.max(screen.width, screen.height)) / (isMoving ? this.coarser : 1);
    const ratio = devicePixelRatio * share;
    const width = Math.max(1, Math.round(screen.width * share));
    const height = Math.max(1, Math.round(screen.height * share));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    try {
      renderer.draw(this.frame(ratio), {
        ...this.options,
        view: VIEWS[this.options.view],
        count: this.splatCount,
        wipe: this.wipe * width,
        stage: this.stage,
        ratio,
      });
    } catch (error) {
      return this.fail(error);
    }
    this.frames++;
    this.ratio = ratio;
    if (this.crop) this.setCrop(this.crop); // what it shows depends on the zoom
    $("zoom").textContent = `${percent(view.zoom * devicePixelRatio)} %`;
    this.watch(isMoving);
    if (isMoving) {
      clearTimeout(this.restTimer);
      this.restTimer = setTimeout(() => this.invalidate(), REST);
    }
  }

  /** The view in pixels of the output. */
  frame(ratio) {
    const { view } = this;
    const scale = view.zoom * ratio;
    // On whole pixels of the output where it is drawn one to one, so that it is exactly the picture.
    const snapped = (value) => (scale === 1 ? Math.round(value) : value);
    return { x: snapped(view.x), y: snapped(view.y), scale };
  }

  /** Measures the frame, and lets no other begin before it is done. */
  watch(isMoving) {
    const { gl } = this.renderer;
    const started = performance.now();
    this.fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    const look = () => {
      const done = this.fence && gl.clientWaitSync(this.fence, 0, 0) !== gl.TIMEOUT_EXPIRED;
      if (!done && this.fence) return setTimeout(look, 4);
      gl.deleteSync(this.fence);
      this.fence = null;
      try {
        this.renderer.checkMemory();
      } catch (error) {
        return this.fail(error);
      }
      this.adapt(performance.now() - started, isMoving);
      if (performance.now() - this.touched > REST) this.compare();
    };
    setTimeout(look, 4);
  }

  /** Frames of a gesture become coarser where one has taken too long, in steps of two, and finer again. */
  adapt(milliseconds, isMoving) {
    if (!isMoving)
      this.coarser = milliseconds > 2 * QUICK ? Math.min(8, 2 ** Math.ceil(Math.log2(milliseconds / QUICK) / 2)) : 1;
    else if (milliseconds > 2 * QUICK) this.coarser = Math.min(8, 2 * this.coarser);
    else if (milliseconds < QUICK / 2) this.coarser = Math.max(1, this.coarser / 2);
  }

  // Crops

  startCrop() {
    const { view } = this;
    const { width, height } = view.window;
    const left = Math.max(0, -view.x * view.zoom);
    const top = Math.max(0, -view.y * view.zoom);
    const right = Math.min(width, (view.picture.width - view.x) * view.zoom);
    const bottom = Math.min(height, (view.picture.height - view.y) * view.zoom);
    this.setCrop({ x: left, y: top, width: right - left, height: bottom - top });
  }

  setCrop(crop) {
    this.crop = crop;
    $("crop").hidden = !crop;
    $("crop-start").setAttribute("aria-pressed", Boolean(crop));
    $("canvas").classList.toggle("cropping", Boolean(crop));
    if (!crop) return;
    for (const [name, value] of [
      ["left", crop.x],
      ["top", crop.y],
      ["width", crop.width],
      ["height", crop.height],
    ])
      $("crop").style[name] = `${value}px`;
    const { width, height } = this.cropFrame();
    $("crop-size").textContent = `${width} × ${height} pixels`;
    this.placeCropActions();
  }

  /** Below the crop, as far as the window and the bar at its bottom leave room. */
  placeCropActions() {
    const { crop } = this;
    const { width, height, bottom } = this.view.window;
    const { offsetWidth, offsetHeight, style } = $("crop-actions");
    const left = Math.max(8, Math.min(crop.x + (crop.width - offsetWidth) / 2, width - offsetWidth - 8));
    const top = Math.min(crop.y + crop.height + 8, height - bottom - offsetHeight);
    style.left = `${left - crop.x}px`;
    style.top = `${top - crop.y}px`;
  }

  /** What the crop shows, as many pixels as the screen has there. */
  cropFrame() {
    const scale = this.view.zoom * devicePixelRatio;
    const { x, y } = this.view.at(this.crop.x, this.crop.y);
    const side = (length) => Math.max(1, Math.round(length * devicePixelRatio));
    return { frame: { x, y, scale }, width: side(this.crop.width), height: side(this.crop.height) };
  }

  cropPng() {
    const { frame, width, height } = this.cropFrame();
    const pixels = this.renderer.pixels(frame, width, height, this.splatCount);
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  async copyCrop() {
    try {
      await navigator.clipboard.write([new ClipboardItem({ "image/png": this.cropPng() })]);
      this.say("Copied.");
      this.setCrop(null);
    } catch (error) {
      this.say(error instanceof ViewerError ? error.message : "The browser does not let this page copy; save instead.");
    }
  }

  async saveCrop() {
    try {
      const address = URL.createObjectURL(await this.cropPng());
      const name = `${(this.file.name || "splats").replace(/\.[^.]*$/, "")}-crop.png`;
      Object.assign(document.createElement("a"), { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
      this.setCrop(null);
    } catch (error) {
      if (!(error instanceof ViewerError)) throw error;
      this.say(error.message);
    }
  }
}

/** RGBA of an image, 8 bits. */
function pixelsOf(image) {
  const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}

const percent = (zoom) => (zoom < 0.0995 ? (100 * zoom).toFixed(1) : Math.round(100 * zoom));
const lost = (name) => `The connection broke while ${name} was being loaded; load the page again.`;

async function* partsOf(reader) {
  for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
}

const fetchBlob = async (address, name) => (await request(address, name)).blob();

/** The decoder's thread: a module beside the page, or in a page of one file the text that its loader holds. */
function makeWorker() {
  if (!globalThis.inlined) return new Worker("worker.js", { type: "module" });
  const address = URL.createObjectURL(new Blob([globalThis.inlined.worker], { type: "text/javascript" }));
  return new Worker(address);
}

export const app = new App();
app.start();
