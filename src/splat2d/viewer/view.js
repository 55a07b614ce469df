// Where one looks: the corner of the window on the picture, and the zoom. Lengths of the window are in CSS pixels.

const MOST_ZOOM = 512;
const LEAST_SIDE = 24; // CSS pixels of the picture that stay in reach

export class View {
  constructor() {
    this.x = 0; // corner of the window, pixels of the picture
    this.y = 0;
    this.zoom = 1; // CSS pixels per pixel of the picture
    this.window = { width: 1, height: 1, top: 0, bottom: 0 }; // with what is covered by bars above and below
    this.picture = { width: 1, height: 1 };
    this.isFitted = true; // and stays so when the window changes
  }

  get fitZoom() {
    const { width, height, top, bottom } = this.window;
    const free = [Math.max(width - 32, width / 2), Math.max(height - top - bottom - 16, height / 2)];
    return Math.min(free[0] / this.picture.width, free[1] / this.picture.height);
  }

  fit() {
    this.center(this.fitZoom);
    this.isFitted = true;
  }

  center(zoom) {
    const { width, height, top, bottom } = this.window;
    this.zoom = this.limited(zoom);
    this.x = this.picture.width / 2 - width / 2 / this.zoom;
    this.y = this.picture.height / 2 - (height + top - bottom) / 2 / this.zoom;
    this.isFitted = false;
  }

  limited(zoom) {
    const least = Math.min(this.fitZoom / 4, LEAST_SIDE / Math.max(this.picture.width, this.picture.height), 1);
    return Math.min(Math.max(zoom, least), MOST_ZOOM);
  }

  resize(window) {
    const middle = this.at(this.window.width / 2, this.window.height / 2);
    this.window = window;
    if (this.isFitted) {
      this.fit();
    } else {
      this.x = middle.x - window.width / 2 / this.zoom;
      this.y = middle.y - window.height / 2 / this.zoom;
      this.keepInReach();
    }
  }

  /** The place on the picture under a point of the window. */
  at(px, py) {
    return { x: this.x + px / this.zoom, y: this.y + py / this.zoom };
  }

  pan(dx, dy) {
    this.x -= dx / this.zoom;
    this.y -= dy / this.zoom;
    this.isFitted = false;
    this.keepInReach();
  }

  /** What lies under the point stays there. */
  zoomAbout(px, py, factor) {
    const { x, y } = this.at(px, py);
    this.zoom = this.limited(this.zoom * factor);
    this.x = x - px / this.zoom;
    this.y = y - py / this.zoom;
    this.isFitted = false;
    this.keepInReach();
  }

  keepInReach() {
    const reach = LEAST_SIDE / this.zoom;
    const within = (value, span, size) => Math.min(Math.max(value, reach - span / this.zoom), size - reach);
    this.x = within(this.x, this.window.width, this.picture.width);
    this.y = within(this.y, this.window.height, this.picture.height);
  }
}
