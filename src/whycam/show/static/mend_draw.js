/* Drawing a part of a photo: boxes and brush strokes over the viewer's picture, by mouse, touch or keys. */

import { make } from "./viewer.js";

const MASK_SIDE_PX = 384;
const STEP = 0.02;
const LEAST = 0.01;
const COLORS = { "not-object": "#e0301e", object: "#0a9a63" };
const ALPHA = 0.5;

/** What is drawn and said already, over the photo; each part of `drawn` is a PNG in Base64. */
export class Marks {
  constructor(stage) {
    this.canvas = make("canvas", { className: "mend-marks", ariaHidden: "true" });
    stage.append(this.canvas);
  }

  async show(drawn, { width, height }) {
    this.shown = drawn;
    const pen = fit(this.canvas, width, height);
    for (const [kind, data] of Object.entries(drawn)) {
      const picture = new Image();
      picture.src = `data:image/png;base64,${data}`;
      await picture.decode();
      if (this.shown !== drawn) return;
      const layer = make("canvas", { width: this.canvas.width, height: this.canvas.height });
      const tint = layer.getContext("2d", { willReadFrequently: true });
      tint.drawImage(picture, 0, 0, layer.width, layer.height);
      const pixels = tint.getImageData(0, 0, layer.width, layer.height);
      // The mask is white on black: what is white is to be seen.
      for (let i = 0; i < pixels.data.length; i += 4) pixels.data[i + 3] = pixels.data[i] > 127 ? 255 : 0;
      tint.putImageData(pixels, 0, 0);
      tint.globalCompositeOperation = "source-in";
      tint.fillStyle = COLORS[kind];
      tint.globalAlpha = ALPHA;
      tint.fillRect(0, 0, layer.width, layer.height);
      pen.drawImage(layer, 0, 0);
    }
  }
}

function fit(canvas, width, height) {
  const scale = MASK_SIDE_PX / Math.max(width, height);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  return canvas.getContext("2d");
}

/** Shapes are [{ box: [x0, y0, x1, y1] } or { stroke: [[x, y], ..], size }], in fractions; size of the longer side. */
export class Drawing {
  #shapes = [];
  #open = null;
  #cursor = [0.4, 0.4, 0.6, 0.6];

  constructor(stage) {
    this.tool = "box";
    this.size = 0.08;
    this.canvas = make("canvas", { className: "mend-draw", tabIndex: 0, hidden: true, role: "application" });
    stage.append(this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => this.#start(event));
    this.canvas.addEventListener("pointermove", (event) => this.#move(event));
    this.canvas.addEventListener("pointerup", () => this.#end());
    this.canvas.addEventListener("pointercancel", () => { this.#open = null; this.#draw(); });
    // touch-action stops the scrolling alone: a quick stroke would still be a fling, and the tap behind it be swallowed.
    this.canvas.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
    this.canvas.addEventListener("focus", () => this.#draw());
    this.canvas.addEventListener("blur", () => this.#draw());
  }

  get isOpen() {
    return !this.canvas.hidden;
  }

  start(kind, { width, height }) {
    this.kind = kind;
    this.#shapes = [];
    fit(this.canvas, width, height);
    this.canvas.hidden = false;
    this.canvas.ariaLabel = `Draw what is ${kind === "object" ? "" : "not "}the object: arrows move the box, Shift and arrows size it, Space puts it down, Enter is done`;
    this.canvas.focus();
    this.#draw();
  }

  stop() {
    this.canvas.hidden = true;
  }

  takeBack() {
    this.#shapes.pop();
    this.#draw();
  }

  /** Does what a key stands for on the picture; false where it stands for nothing. */
  press({ key, shiftKey }) {
    const [dx, dy] = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[key] ?? [0, 0];
    if (key === " ") this.#shapes.push({ box: [...this.#cursor] });
    else if (!dx && !dy) return false;
    else if (shiftKey) this.#stretch(dx, dy);
    else this.#shift(dx, dy);
    this.#draw();
    return true;
  }

  #stretch(dx, dy) {
    const [x0, y0, x1, y1] = this.#cursor;
    this.#cursor = [x0, y0, Math.min(1, Math.max(x0 + STEP, x1 + dx)), Math.min(1, Math.max(y0 + STEP, y1 + dy))];
  }

  #shift(dx, dy) {
    const [x0, y0, x1, y1] = this.#cursor;
    const x = Math.min(1 - x1, Math.max(-x0, dx));
    const y = Math.min(1 - y1, Math.max(-y0, dy));
    this.#cursor = [x0 + x, y0 + y, x1 + x, y1 + y];
  }

  /** The part as the server takes it; the keys' box where nothing else is drawn and `takesCursor`. Null: nothing. */
  read({ takesCursor = false } = {}) {
    const shapes = this.#shapes.length || !takesCursor ? this.#shapes : [{ box: this.#cursor }];
    if (!shapes.length) return null;
    const boxes = shapes.filter(({ box }) => box).map(({ box }) => box);
    const strokes = shapes.filter(({ stroke }) => stroke);
    const region = { boxes };
    if (strokes.length) {
      const layer = make("canvas", { width: this.canvas.width, height: this.canvas.height });
      strokes.forEach((one) => this.#paint(layer.getContext("2d"), one, "#000"));
      [, region.mask] = layer.toDataURL("image/png").split(",");
    }
    return region;
  }

  #place(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height]
      .map((value) => Math.min(1, Math.max(0, value)));
  }

  #start(event) {
    if (!event.isPrimary || event.button > 0) return;
    event.preventDefault();
    this.canvas.focus();
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.#place(event);
    this.#open = this.tool === "box" ? { from: at, box: [...at, ...at] } : { stroke: [at], size: this.size };
    this.#draw();
  }

  #move(event) {
    if (!this.#open || !event.isPrimary) return;
    const [x, y] = this.#place(event);
    if (this.#open.stroke) this.#open.stroke.push([x, y]);
    else {
      const [x0, y0] = this.#open.from;
      this.#open.box = [Math.min(x0, x), Math.min(y0, y), Math.max(x0, x), Math.max(y0, y)];
    }
    this.#draw();
  }

  #end() {
    const shape = this.#open;
    this.#open = null;
    const [x0, y0, x1, y1] = shape?.box ?? [0, 0, 1, 1];
    if (shape && x1 - x0 >= LEAST && y1 - y0 >= LEAST) this.#shapes.push(shape);
    this.#draw();
  }

  #draw() {
    const { canvas } = this;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.globalAlpha = ALPHA;
    for (const shape of this.#open ? [...this.#shapes, this.#open] : this.#shapes) this.#paint(pen, shape, COLORS[this.kind]);
    pen.globalAlpha = 1;
    if (document.activeElement === canvas && canvas.matches(":focus-visible") && !this.#open) {
      const [x, y, w, h] = this.#toPixels(this.#cursor);
      for (const [color, dash] of [["#000", []], ["#fff", [4, 4]]]) {
        pen.strokeStyle = color;
        pen.lineWidth = 2;
        pen.setLineDash(dash);
        pen.strokeRect(x, y, w, h);
      }
    }
  }

  #toPixels([x0, y0, x1, y1]) {
    const { width, height } = this.canvas;
    return [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height];
  }

  #paint(pen, { box, stroke, size }, color) {
    const { width, height } = this.canvas;
    if (box) {
      pen.fillStyle = color;
      pen.fillRect(...this.#toPixels(box));
      return;
    }
    pen.strokeStyle = color;
    pen.lineWidth = size * Math.max(width, height);
    pen.lineCap = "round";
    pen.lineJoin = "round";
    pen.setLineDash([]);
    pen.beginPath();
    pen.moveTo(stroke[0][0] * width, stroke[0][1] * height);
    // A tap is a dot, and a line of no length at all would be left out.
    for (const [x, y] of stroke) pen.lineTo(x * width + 0.01, y * height);
    pen.stroke();
  }
}
