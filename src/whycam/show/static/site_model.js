/* The model in this browser, as the page's backend: it answers what a server would, and nothing leaves the machine. */

import { Thread } from "./site_thread.js";
import { fitSize, paintHeat, resizeMap, findBoxes } from "./viewer.js";

const RUNTIME = "runtime/ort-wasm-simd-threaded.wasm.gz";
const GRAPH = "model.onnx";
const FEW_CLASSES = 10;
const BEST = 5;
const BOX_SIDE_PX = 256;
const BOX_THRESHOLD = 0.2;
const OVERLAY_SIDE_PX = 4096;
const LEAST_DIFFERENCE = 1e-4;
const CLASS_INDEX = /^index:(\d+)$/;

/** Shares of scores, as Python's: softmax, of several labels or a single score the sigmoid. */
export function toProbabilities(logits, isMultiLabel) {
  if (isMultiLabel || logits.length === 1) return Float64Array.from(logits, (value) => 1 / (1 + Math.exp(-value)));
  const most = logits.reduce((a, b) => Math.max(a, b));
  const powers = Float64Array.from(logits, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

/** Classes by score, the best first. */
export const rank = (logits) => Array.from(logits, (_, k) => k).sort((a, b) => logits[b] - logits[a]);

/** What the viewer is given of an answer and some of its classes. */
export function makeEntry(answer, classes, { name, isMultiLabel, ...more }) {
  const { logits, maps, cells, width, height } = answer;
  const size = cells[0] * cells[1];
  const probabilities = toProbabilities(logits, isMultiLabel);
  return {
    name, width, height, classes, truth: null, method: "cam", notes: [],
    logits: classes.map((k) => logits[k]),
    probabilities: classes.map((k) => probabilities[k]),
    maps: { shape: [classes.length, ...cells], values: classes.map((k) => maps.subarray(k * size, (k + 1) * size)) },
    ...more,
  };
}

export class LocalModel {
  #network = null;
  #preparer = null;
  #model = null;
  #opened = null;

  /** @param files the network's, and what is told of it: see `SiteFiles`. */
  constructor(files) {
    this.files = files;
    this.threads = 1;
    this.onShow = null;
  }

  /** What is told of the model. */
  async readModel() {
    this.#model ??= await this.files.readModel();
    return this.#model;
  }

  /** Whether labels exclude no other: known once the model was read. */
  get isMultiLabel() {
    return this.#model.isMultiLabel;
  }

  /** Resolves once the network answers; an Error says why it can't. */
  async ready() {
    await this.readModel();
    this.#opened ??= this.#open();
    await this.#opened;
  }

  async #open() {
    const { files } = this;
    const [thread, runtime, graph] = await Promise.all([Thread.start(files), files.read(RUNTIME), files.read(GRAPH)]);
    this.#network = thread;
    this.threads = (await thread.ask("open", { runtime, graph, glue: files.glue }, [runtime, graph])).threads;
  }

  readSample(name) {
    return this.files.readSample(name);
  }

  /** A frame with its pixels as the network takes them; in a thread of their own, so that the network need not wait. */
  async prepareFrame(frame) {
    const { input } = await this.readModel();
    this.#preparer ??= Thread.start(this.files);
    return (await this.#preparer).ask("prepareFrame", { frame, input }, [frame]);
  }

  /** Scores and maps of a frame that was prepared. */
  async readFrame({ frame, pixels }) {
    await this.ready();
    const answer = await this.#network.ask("readFrame", { pixels, input: this.#model.input }, [pixels.buffer]);
    return this.#checked({ ...answer, frame, width: frame.width, height: frame.height });
  }

  async #readPhoto(file) {
    await this.ready();
    return this.#network.ask("readPhoto", { file, input: this.#model.input });
  }

  #checked(answer) {
    if (!answer.logits.every(Number.isFinite)) throw new Error("The scores are no numbers. The model itself is broken: train it anew.");
    return answer;
  }

  /** The largest difference to Python's scores of the sample, and whether that is none to speak of. */
  async check() {
    const { sample } = this.#model;
    const answer = await this.#readPhoto(await this.readSample(sample.file));
    const difference = sample.logits.reduce((most, value, k) => Math.max(most, Math.abs(value - answer.logits[k])), 0);
    const range = Math.max(...sample.logits) - Math.min(...sample.logits);
    return { difference, isSmall: difference <= LEAST_DIFFERENCE * Math.max(1, range) };
  }

  /** As the server's /api/explain: an entry, and the class that was asked for. */
  async explain(photo, question = {}) {
    const model = await this.readModel();
    if (!photo.answer) {
      photo.answer = this.#checked(await this.#readPhoto(photo.file));
      photo.address = URL.createObjectURL(photo.answer.shown);
    }
    const target = question.target ? this.#find(question.target) : null;
    photo.extra ??= [];
    if (target !== null && !photo.extra.includes(target)) photo.extra.push(target);
    const best = rank(photo.answer.logits);
    const shown = model.classNames.length <= FEW_CLASSES ? best : best.slice(0, BEST);
    const classes = [...shown, ...photo.extra.filter((k) => !shown.includes(k))];
    return { entry: this.entryOf(photo, classes), targets: target === null ? [] : [{ index: target }] };
  }

  /** What the viewer is given of a photo that was answered, with the maps of these classes. */
  entryOf(photo, classes, more = {}) {
    const { name, answer, isMoving, address } = photo;
    const picture = isMoving ? { frame: answer.frame } : { image: address };
    return makeEntry(answer, classes, { name, isMultiLabel: this.#model.isMultiLabel, ...picture, ...more });
  }

  #find(words) {
    const names = this.#model.classNames;
    const index = CLASS_INDEX.exec(words);
    if (index) return Number(index[1]);
    const sought = words.trim().toLowerCase();
    const near = names.map((name, k) => [name.toLowerCase(), k]).filter(([name]) => name.includes(sought));
    const exact = near.find(([name]) => name === sought);
    if (exact || near.length === 1) return (exact ?? near[0])[1];
    const listed = near.slice(0, 5).map(([, k]) => names[k]).join(", ");
    throw new Error(near.length ? `'${words}' is in the names of ${near.length} classes: ${listed}${near.length > 5 ? ", …" : ""}. Type more of it.`
      : `No class is called '${words}'. Choose one of the list.`);
  }

  /** As the server's /api/overlay, /api/map and /api/boxes. */
  async save(kind, photo, { target, versus, opacity = 0.6, signed = false, colormap = "", threshold = BOX_THRESHOLD }) {
    const [own, other] = [this.#find(target), versus ? this.#find(versus) : null];
    const { maps, cells, width, height, logits } = photo.answer;
    const size = cells[0] * cells[1];
    const values = maps.slice(own * size, (own + 1) * size);
    if (other !== null) values.forEach((_, i) => { values[i] -= maps[other * size + i]; });
    if (kind === "map") return packNpy(values, cells);
    if (kind === "overlay") return this.#drawOverlay(photo, values, { opacity, isSigned: signed, colormap: colormap || "RdBu_r" });
    const fit = fitSize({ width, height }, BOX_SIDE_PX);
    const [x, y] = [width / fit[1], height / fit[0]];
    const boxes = findBoxes(resizeMap(values, cells, fit), fit, threshold)
      .map((box) => ({ x0: Math.round(box.x0 * x), y0: Math.round(box.y0 * y), x1: Math.round(box.x1 * x), y1: Math.round(box.y1 * y) }));
    const probability = toProbabilities(logits, this.#model.isMultiLabel)[own];
    const about = { index: own, name: this.#model.classNames[own], logit: logits[own], probability, boxes };
    return new Blob([JSON.stringify({ file: photo.name, width, height, target: about, threshold }, null, 2)], { type: "application/json" });
  }

  async #drawOverlay(photo, values, { colormap, ...how }) {
    const bitmap = photo.answer.frame ?? await createImageBitmap(photo.file);
    const [height, width] = fitSize(bitmap, OVERLAY_SIDE_PX);
    const [picture, heat] = [new OffscreenCanvas(width, height), new OffscreenCanvas(width, height)];
    const colors = Uint8Array.from(atob(this.#model.colormaps[colormap]), (letter) => letter.charCodeAt(0));
    paintHeat(heat, resizeMap(values, photo.answer.cells, [height, width]), colors, how);
    const pen = picture.getContext("2d", { alpha: false });
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, height);
    pen.drawImage(bitmap, 0, 0, width, height);
    pen.drawImage(heat, 0, 0);
    return picture.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  }
}

/** NumPy's .npy of float32 values (h, w). */
function packNpy(values, [height, width]) {
  const words = `{'descr': '<f4', 'fortran_order': False, 'shape': (${height}, ${width}), }`;
  // Magic, version and length take 10 bytes; the whole is a multiple of 64 and ends with a line.
  const header = `${words.padEnd(64 * Math.ceil((words.length + 11) / 64) - 11)}\n`;
  const start = Uint8Array.of(0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, header.length & 255, header.length >> 8);
  return new Blob([start, header, new Float32Array(values)], { type: "application/x-npy" });
}
