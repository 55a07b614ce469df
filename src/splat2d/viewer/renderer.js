// Draws splats with WebGL 2: docs/conventions.md, sections "Splat" and "Rendering at another size".
//
// All splats are one draw call: every one adds its weight times its colour, over its own ellipse, to a float target; a
// second pass turns the sums into pixels. They come from a texture and not as instances, which cost up to ten times as
// much where a CPU draws. The exponent comes from gl_FragCoord minus the centre, for interpolated coordinates snap to
// parts of a pixel. Where a device cannot blend floats, the splats are sorted into tiles here, and one full-screen pass
// sums the list of each tile.

/** What this device or browser cannot do. The message is a sentence. */
export class ViewerError extends Error {}

const CUTOFF = 5.54;
const REACH = Math.sqrt(2 * CUTOFF);
const TILE = 16; // pixels
const ROW = 2046; // texels in a row of a list; every device has 2048
const PER_ROW = ROW / 3; // splats
const FLOATS = 12; // of a splat on the device: x, y, e^a, b, e^c and three zeros, colour

export const VIEWS = { splats: 0, original: 1, wipe: 2, error: 3 };

const PROJECT = `#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D splats; // three texels each: x, y, e^a, b; e^c; colour
uniform vec4 origin;  // of the view on the canvas: x, y and what float32 lost of them
uniform float scale;
uniform vec2 size;    // of the output, pixels
flat out vec2 center;
flat out vec3 form;   // 1 / l1, k, 1 / l2: q = (dx / l1)^2 + ((dy - k dx) / l2)^2
flat out vec4 tint;
float l1, l2, k;

void project() {
  int id = gl_VertexID / 6;
  ivec2 at = ivec2(3 * (id % ${PER_ROW}), id / ${PER_ROW});
  vec4 shape = texelFetch(splats, at, 0);
  float sigma = texelFetch(splats, at + ivec2(1, 0), 0).x;
  vec4 color = texelFetch(splats, at + ivec2(2, 0), 0);
  center = ((shape.xy - origin.xy) - origin.zw) * scale;
  float a = shape.z * scale, b = shape.w * scale, c = sigma * scale;
  float s = min(scale, 1.0), v = (1.0 - s * s) / 12.0; // variance of the larger pixel
  float var = a * a + v;
  l1 = sqrt(var);
  k = b * a / var;
  l2 = sqrt(c * c + v + b * b * (v / var));
  form = vec3(1.0 / l1, k, 1.0 / l2);
  tint = color * (a * c / (l1 * l2));
}

// The corner of a parallelogram around the ellipse of so many standard deviations; a margin of so many pixels on all
// sides. It keeps to the columns of the output, so that no corner lies too far away for floats.
vec2 corner(float reach, float margin) {
  float x = reach * l1 + margin;
  float low = max(-x, -center.x - 1.0), high = min(x, size.x - center.x + 1.0);
  int corner = gl_VertexID % 6; // of two triangles: 0 1 2, 2 1 3
  corner = corner == 3 ? 2 : corner == 4 ? 1 : corner == 5 ? 3 : corner;
  float dx = (corner & 1) == 0 ? low : max(low, high);
  float dy = k * dx + ((corner & 2) == 0 ? -1.0 : 1.0) * (reach * l2 + margin * sqrt(1.0 + k * k));
  return (center + vec2(dx, dy)) / size * 2.0 - 1.0;
}
`;

const SPLAT_VERTEX = `${PROJECT}
void main() {
  project();
  gl_Position = vec4(corner(${REACH}, 0.03125), 0.0, 1.0);
}`;

const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
flat in vec2 center;
flat in vec3 form;
flat in vec4 tint;
out vec4 sum;
void main() {
  vec2 d = gl_FragCoord.xy - center;
  float u = d.x * form.x, e = (d.y - form.y * d.x) * form.z;
  float half_q = 0.5 * (u * u + e * e);
  if (half_q > ${CUTOFF}) discard;
  sum = tint * exp(-half_q);
}`;

// Outlines at one standard deviation, or dots at the centres; amber where a splat adds light, blue where it takes some.
const MARK_VERTEX = `${PROJECT}
uniform bool dots;
uniform float ratio; // device pixels per CSS pixel
void main() {
  project();
  if (dots) { l1 = l2 = 1.6 * ratio; k = 0.0; form = vec3(1.0 / l1, 0.0, 1.0 / l2); }
  gl_Position = vec4(corner(1.0, 1.5 * ratio) * vec2(1.0, -1.0), 0.0, 1.0);
}`;

const MARK_FRAGMENT = `#version 300 es
precision highp float;
flat in vec2 center;
flat in vec3 form;
flat in vec4 tint;
uniform bool dots;
uniform float ratio;
uniform vec2 size;
out vec4 pixel;
void main() {
  vec2 d = vec2(gl_FragCoord.x, size.y - gl_FragCoord.y) - center;
  float u = d.x * form.x, e = (d.y - form.y * d.x) * form.z;
  float f = sqrt(u * u + e * e);
  vec2 slope = vec2(u * form.x - form.y * form.z * e, e * form.z) / max(f, 1e-6);
  float away = (f - 1.0) / max(length(slope), 1e-6); // pixels, nearly
  float cover = dots ? clamp(0.5 - away, 0.0, 1.0) : clamp(0.5 + 0.5 * ratio - abs(away), 0.0, 1.0);
  bool adds = tint.r + tint.g + tint.b >= 0.0;
  pixel = vec4(adds ? vec3(1.0, 0.76, 0.25) : vec3(0.3, 0.72, 1.0), cover * (dots ? 0.9 : 0.65));
}`;

const TRIANGLE = `#version 300 es
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }`;

const SUM_OF_TARGET = `
uniform sampler2D sums;
vec4 sum_at(ivec2 p) { return texelFetch(sums, p, 0); }`;

const SUM_OF_TILE = `
uniform highp usampler2D tiles; // where the list of a tile begins and ends
uniform highp usampler2D lists; // splats of each tile
uniform sampler2D splats;       // three texels each: centre, 1 / l1, k; 1 / l2; colour
vec4 sum_at(ivec2 p) {
  uvec4 range = texelFetch(tiles, p / ${TILE}, 0);
  vec4 sum = vec4(0.0);
  for (uint i = range.x; i < range.y; ++i) {
    int id = 3 * int(texelFetch(lists, ivec2(i % ${ROW}u, i / ${ROW}u), 0).x);
    vec4 one = texelFetch(splats, ivec2(id % ${ROW}, id / ${ROW}), 0);
    float inverse = texelFetch(splats, ivec2((id + 1) % ${ROW}, (id + 1) / ${ROW}), 0).x;
    vec2 d = vec2(p) + 0.5 - one.xy;
    float u = d.x * one.z, e = (d.y - one.w * d.x) * inverse;
    float half_q = 0.5 * (u * u + e * e);
    if (half_q <= ${CUTOFF}) sum += texelFetch(splats, ivec2((id + 2) % ${ROW}, (id + 2) / ${ROW}), 0) * exp(-half_q);
  }
  return sum;
}`;

const present = (sumAt) => `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
${sumAt}
uniform vec4 background, origin;
uniform float scale, wipe, ratio;
uniform vec2 size, canvas;  // of the output, of the picture: pixels
uniform int channels, view; // view: as in VIEWS
uniform bool bare;          // straight alpha, row 0 first, nothing around: for files
uniform vec3 stage;
uniform sampler2D original;
out vec4 pixel;

// [0, 1] to the steps of 8 bits, for drivers may cut what is behind the point.
vec4 rounded(vec4 c) { return floor(clamp(c, 0.0, 1.0) * 255.0 + 0.5) / 255.0; }

vec3 over_checks(vec4 c, vec2 p) { // c: premultiplied
  vec2 check = floor(p / (8.0 * ratio));
  return c.rgb + (1.0 - c.a) * (mod(check.x + check.y, 2.0) < 1.0 ? 0.8 : 0.65);
}

vec3 heat(float t) { return clamp(vec3(3.0 * t, 3.0 * t - 1.0, 3.0 * t - 2.0), 0.0, 1.0); }

void main() {
  vec2 p = vec2(gl_FragCoord.x, bare ? gl_FragCoord.y : size.y - gl_FragCoord.y);
  vec2 at = (origin.xy + origin.zw) + p / scale; // on the picture
  bool inside = all(greaterThanEqual(at, vec2(0.0))) && all(lessThan(at, canvas));
  if (!inside && !bare) { pixel = vec4(stage, 1.0); return; }
  vec4 sum = sum_at(ivec2(p)) + background;
  if (channels == 1) sum = vec4(sum.rrr, 1.0);
  if (channels == 3) sum.a = 1.0;
  sum = clamp(sum, 0.0, 1.0);
  if (bare) {
    pixel = rounded(vec4(sum.a > 0.0 ? sum.rgb / sum.a : vec3(0.0), sum.a));
    return;
  }
  vec3 color = over_checks(sum, p);
  if (view != ${VIEWS.splats}) {
    vec4 other = texture(original, at / canvas);
    other = vec4(other.rgb * other.a, other.a);
    vec3 difference = abs(sum.rgb - other.rgb);
    if (view == ${VIEWS.original} || (view == ${VIEWS.wipe} && p.x >= wipe)) color = over_checks(other, p);
    if (view == ${VIEWS.error}) color = heat(min(1.0, 4.0 * max(difference.r, max(difference.g, difference.b))));
  }
  pixel = rounded(vec4(color, 1.0));
}`;

export class Renderer {
  /** path: "float", "half" or "tiles"; the best that this device has unless given. Throws ViewerError. */
  constructor(canvas, path) {
    this.canvas = canvas;
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, stencil: false });
    if (!gl)
      throw new ViewerError(
        "This browser offers no WebGL 2, which drawing needs. Update it, or allow hardware acceleration.",
      );
    this.gl = gl;
    const float = gl.getExtension("EXT_color_buffer_float");
    const half = gl.getExtension("EXT_color_buffer_half_float") || float;
    const blend = gl.getExtension("EXT_float_blend");
    this.path = path ?? (float && blend ? "float" : half ? "half" : "tiles");
    this.mostTexels = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    const [mostWidth, mostHeight] = gl.getParameter(gl.MAX_VIEWPORT_DIMS);
    this.mostSide = Math.min(this.mostTexels, mostWidth, mostHeight); // of an output, pixels
    this.splatTexture = gl.createTexture();
    this.targets = new Map();
    this.programs = new Map();
    this.splats = null;
    this.original = gl.createTexture();
    if (this.path === "tiles") this.tileTextures = ["tiles", "lists", "splats"].map(() => gl.createTexture());
    this.setImage(new ImageData(1, 1));
    this.hasOriginal = false;
  }

  /** splats: {width, height, channels, background, rows}; rows float32 [N * (5 + C)]: x, y, a, b, c, colour. */
  setSplats(splats) {
    const { gl } = this;
    const { rows, channels } = splats;
    const width = 5 + channels;
    const count = rows.length / width;
    const shown = channels === 2 ? 1 : Math.min(channels, channels > 4 ? 3 : 4);
    const data = new Float32Array(count * FLOATS);
    for (let i = 0, from = 0, to = 0; i < count; i++, from += width, to += FLOATS) {
      data[to] = rows[from];
      data[to + 1] = rows[from + 1];
      data[to + 2] = Math.exp(Math.min(Math.max(rows[from + 2], -20), 20));
      data[to + 3] = Math.min(Math.max(rows[from + 3], -1e9), 1e9);
      data[to + 4] = Math.exp(Math.min(Math.max(rows[from + 4], -20), 20));
      for (let j = 0; j < shown; j++) data[to + 8 + j] = rows[from + 5 + j];
    }
    this.uploadRows(this.splatTexture, gl.RGBA32F, gl.RGBA, gl.FLOAT, data, 4);
    const background = [0, 0, 0, 0].map((zero, j) => (j < shown ? splats.background[j] : zero));
    this.splats = { ...splats, rows: null, data, count, shown, background };
  }

  /** Throws a ViewerError if memory was missing. Waits for the device: cheap once a frame is done, and only then. */
  checkMemory() {
    const { gl, splats } = this;
    if (gl.getError() === gl.OUT_OF_MEMORY)
      throw new ViewerError(
        `This picture has ${splats.count} splats, which is more than the memory of this device's GPU takes.`,
      );
  }

  /** The picture to compare with: an ImageBitmap, of any size. */
  setImage(image) {
    const { gl } = this;
    if (Math.max(image.width, image.height) > this.mostTexels)
      throw new ViewerError(
        `The original has ${image.width} × ${image.height} pixels; this device's GPU takes ${this.mostTexels} on a side.`,
      );
    gl.bindTexture(gl.TEXTURE_2D, this.original);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, image);
    gl.generateMipmap(gl.TEXTURE_2D);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    this.hasOriginal = true;
  }

  /**
   * Draws onto the canvas. frame: {x, y, scale}: the corner of the view on the picture and pixels of the output per
   * pixel of the picture. options: {count, view, wipe, ratio, stage, ellipses, centers}.
   */
  draw(frame, options) {
    const { gl, canvas } = this;
    const size = [canvas.width, canvas.height];
    this.present(frame, size, null, { wipe: 0, ...options, bare: false });
    for (const dots of [false, true]) {
      if (dots ? !options.centers : !options.ellipses) continue;
      const program = this.use("mark", MARK_VERTEX, MARK_FRAGMENT, frame, size);
      gl.uniform1i(program.at("dots"), dots);
      gl.uniform1f(program.at("ratio"), options.ratio);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
      this.drawSplats(options.count);
      gl.disable(gl.BLEND);
    }
  }

  /** Pixels of a part of the picture with straight alpha: Uint8ClampedArray [height * width * 4], row 0 first. */
  pixels(frame, width, height, count) {
    const { gl } = this;
    if (Math.max(width, height) > this.mostSide)
      throw new ViewerError(`${width} × ${height} pixels are more than the ${this.mostSide} this device's GPU takes.`);
    const output = this.target("pixels", gl.RGBA8, width, height);
    this.present(frame, [width, height], output.framebuffer, { count, view: VIEWS.splats, bare: true });
    const pixels = new Uint8ClampedArray(4 * width * height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, output.framebuffer);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    this.drop("pixels");
    return pixels;
  }

  /** Sums of the splats, then pixels of them into a framebuffer; null is the canvas. */
  present(frame, size, framebuffer, { count, view, wipe = 0, ratio = 1, stage = [0, 0, 0], bare }) {
    const { gl, splats } = this;
    const number = Math.min(count ?? Infinity, splats.count);
    const tiled = this.path === "tiles";
    if (tiled) this.fillTiles(frame, size, number);
    else this.sum(frame, size, number);
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    gl.viewport(0, 0, size[0], size[1]);
    const program = this.use("present", TRIANGLE, present(tiled ? SUM_OF_TILE : SUM_OF_TARGET), frame, size);
    const textures = tiled
      ? ["tiles", "lists", "splats"].map((name, i) => [name, this.tileTextures[i]])
      : [["sums", this.targets.get("sums").texture]];
    [["original", this.original], ...textures].forEach(([name, texture], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.uniform1i(program.at(name), unit);
    });
    gl.activeTexture(gl.TEXTURE0);
    // Enlarged pixels are squares; but splats would differ from squares everywhere.
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, view === VIEWS.error ? gl.LINEAR : gl.NEAREST);
    gl.uniform4fv(program.at("background"), splats.background);
    gl.uniform2f(program.at("canvas"), splats.width, splats.height);
    gl.uniform1i(program.at("channels"), splats.shown);
    gl.uniform1i(program.at("view"), this.hasOriginal ? view : VIEWS.splats);
    gl.uniform1i(program.at("bare"), bare);
    gl.uniform1f(program.at("wipe"), wipe);
    gl.uniform1f(program.at("ratio"), ratio);
    gl.uniform3fv(program.at("stage"), stage);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /** Adds all splats up, in one draw call. */
  sum(frame, size, count) {
    const { gl } = this;
    const target = this.target("sums", this.path === "float" ? gl.RGBA32F : gl.RGBA16F, ...size);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.framebuffer);
    gl.viewport(0, 0, size[0], size[1]);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    this.use("splats", SPLAT_VERTEX, SPLAT_FRAGMENT, frame, size);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE);
    this.drawSplats(count);
    gl.disable(gl.BLEND);
  }

  drawSplats(count) {
    const { gl } = this;
    gl.drawArrays(gl.TRIANGLES, 0, 6 * Math.min(count ?? Infinity, this.splats.count));
  }

  // Tiles

  /** Sorts the splats of a view into tiles. */
  fillTiles(frame, size, count) {
    const { data } = this.splats;
    const [width, height] = size;
    const across = Math.ceil(width / TILE);
    const down = Math.ceil(height / TILE);
    const shapes = [];
    const boxes = [];
    const starts = new Uint32Array(across * down + 1);
    const s = Math.min(frame.scale, 1);
    const v = (1 - s * s) / 12;
    for (let at = 0; at < count * FLOATS; at += FLOATS) {
      const x = (data[at] - frame.x) * frame.scale;
      const y = (data[at + 1] - frame.y) * frame.scale;
      const a = data[at + 2] * frame.scale;
      const b = data[at + 3] * frame.scale;
      const c = data[at + 4] * frame.scale;
      const variance = a * a + v;
      const l1 = Math.sqrt(variance);
      const k = (b * a) / variance;
      const l2 = Math.sqrt(c * c + v + b * b * (v / variance));
      const reachX = REACH * l1;
      const reachY = REACH * Math.hypot(k * l1, l2);
      if (x + reachX < 0 || y + reachY < 0 || x - reachX > width || y - reachY > height) continue;
      const left = Math.max(0, Math.floor((x - reachX) / TILE));
      const right = Math.min(across - 1, Math.floor((x + reachX) / TILE));
      const top = Math.max(0, Math.floor((y - reachY) / TILE));
      const bottom = Math.min(down - 1, Math.floor((y + reachY) / TILE));
      for (let j = top; j <= bottom; j++) for (let i = left; i <= right; i++) starts[j * across + i + 1]++;
      boxes.push(left, right, top, bottom);
      const factor = (a * c) / (l1 * l2);
      const color = [8, 9, 10, 11].map((j) => factor * data[at + j]);
      shapes.push(x, y, 1 / l1, k, 1 / l2, 0, 0, 0, ...color);
    }
    for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
    const ranges = new Uint32Array(2 * across * down);
    for (let i = 0; i < across * down; i++) ranges.set([starts[i], starts[i + 1]], 2 * i);
    const lists = new Uint32Array(starts[across * down]);
    const next = starts.slice();
    for (let id = 0; 4 * id < boxes.length; id++) {
      const [left, right, top, bottom] = boxes.slice(4 * id, 4 * id + 4);
      for (let j = top; j <= bottom; j++) for (let i = left; i <= right; i++) lists[next[j * across + i]++] = id;
    }
    const { gl } = this;
    const [tileTexture, listTexture, splatTexture] = this.tileTextures;
    this.upload(tileTexture, gl.RG32UI, gl.RG_INTEGER, gl.UNSIGNED_INT, ranges, across, down);
    this.uploadRows(listTexture, gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT, lists, 1);
    this.uploadRows(splatTexture, gl.RGBA32F, gl.RGBA, gl.FLOAT, Float32Array.from(shapes), 4);
  }

  uploadRows(texture, internal, format, type, values, perTexel) {
    const rows = Math.max(1, Math.ceil(values.length / perTexel / ROW));
    if (rows > this.mostTexels)
      throw new ViewerError("This picture has more splats than the textures of this device's GPU take.");
    const padded = new values.constructor(rows * ROW * perTexel);
    padded.set(values);
    this.upload(texture, internal, format, type, padded, ROW, rows);
  }

  upload(texture, internal, format, type, values, width, height) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, width, height, 0, format, type, values);
    plain(gl);
  }

  // Objects of WebGL

  /** A program, in use, with the uniforms of the view set. */
  use(name, vertex, fragment, frame, size) {
    const { gl } = this;
    if (!this.programs.has(name)) this.programs.set(name, link(gl, vertex, fragment));
    const program = this.programs.get(name);
    gl.useProgram(program.program);
    const [x, y] = [Math.fround(frame.x), Math.fround(frame.y)];
    gl.uniform4f(program.at("origin"), x, y, frame.x - x, frame.y - y);
    gl.uniform1f(program.at("scale"), frame.scale);
    gl.uniform2f(program.at("size"), size[0], size[1]);
    gl.bindTexture(gl.TEXTURE_2D, this.splatTexture);
    return program;
  }

  /** A texture to draw to, of this size. */
  target(name, format, width, height) {
    const { gl } = this;
    const old = this.targets.get(name);
    if (old && old.width === width && old.height === height) return old;
    this.drop(name);
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
    plain(gl);
    const framebuffer = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE)
      throw new ViewerError(`This device's GPU cannot draw to ${width} × ${height} pixels.`);
    const made = { texture, framebuffer, width, height };
    this.targets.set(name, made);
    return made;
  }

  drop(name) {
    const old = this.targets.get(name);
    if (!old) return;
    this.gl.deleteFramebuffer(old.framebuffer);
    this.gl.deleteTexture(old.texture);
    this.targets.delete(name);
  }
}

function plain(gl) {
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
}

function link(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [type, source] of [
    [gl.VERTEX_SHADER, vertex],
    [gl.FRAGMENT_SHADER, fragment],
  ]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
    throw new ViewerError(`This device's GPU refuses a shader: ${[gl.getProgramInfoLog(program), ...logs].join(" ")}`);
  }
  const places = new Map();
  const at = (name) => {
    if (!places.has(name)) places.set(name, gl.getUniformLocation(program, name));
    return places.get(name);
  };
  return { program, at };
}
