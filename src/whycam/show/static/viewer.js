/* The viewer: a photo with heat over it, drawn here from the small raw maps; used by the report and by the app alike.
   Drawing follows whycam/render.py: bilinear with half-pixel centres, positive part over its maximum. */

const INTEGER_PEAK = 32767;
const CANVAS_SIDE_PX = 640;
const MOVING_SIDE_PX = 320;
const BOX_SIDE_PX = 256;
const BOX_THRESHOLD = 0.2;
const SIGNED_COLORMAP = "RdBu_r";
const MAX_NUMBER_KEY = 9;

/** An element with properties and children; strings become text, never HTML. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const decodeBytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** The raw maps of an entry: a Float32Array of h * w values for each stored class, packed in text or as they are. */
export function decodeMaps({ maps: { shape, scale, data, values } }) {
  if (values) return values;
  const [count, height, width] = shape;
  const integers = new DataView(decodeBytes(data).buffer);
  const cells = height * width;
  return Array.from({ length: count }, (_, t) =>
    Float32Array.from({ length: cells }, (__, i) => (integers.getInt16(2 * (t * cells + i), true) / INTEGER_PEAK) * scale[t]));
}

/** For each of `to` places: the first of `from` that counts, and the weights of it and those after (a triangle). */
function makeWeights(from, to) {
  const step = from / to;
  const reach = Math.max(step, 1);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * step;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const end = Math.min(from, Math.floor(centre + reach + 0.5));
    const weights = [];
    for (let x = first; x < end; x += 1) weights.push(Math.max(0, 1 - Math.abs((x + 0.5 - centre) / reach)));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

/** A map (h, w) at (height, width), as a Float32Array: bilinear, averaged over what is lost where that is smaller. */
export function resizeMap(values, [h, w], [height, width]) {
  const rows = new Float32Array(h * width);
  makeWeights(w, width).forEach(({ first, weights }, x) => {
    for (let y = 0; y < h; y += 1) {
      let sum = 0;
      weights.forEach((weight, k) => { sum += weight * values[y * w + first + k]; });
      rows[y * width + x] = sum;
    }
  });
  const resized = new Float32Array(height * width);
  makeWeights(h, height).forEach(({ first, weights }, y) => {
    for (let x = 0; x < width; x += 1) {
      let sum = 0;
      for (let k = 0; k < weights.length; k += 1) sum += weights[k] * rows[(first + k) * width + x];
      resized[y * width + x] = sum;
    }
  });
  return resized;
}

/** The value that the strongest colour stands for; 0 where the map shows nothing. */
export function findPeak(values, isSigned) {
  return values.reduce((peak, value) => Math.max(peak, isSigned ? Math.abs(value) : value), 0);
}

/** Colours a map that has the canvas's size; what is at or under `threshold` of the peak stays clear, nothing is over it. */
export function paintHeat(canvas, values, colors, { opacity, threshold = 0, isSigned, peak = findPeak(values, isSigned) }) {
  const table = new Uint8ClampedArray(4 * 256);
  for (let level = 0; level < 256; level += 1) {
    const strength = isSigned ? (Math.abs(level - 128) / 255) * 2 : level / 255;
    table.set(colors.subarray(3 * level, 3 * level + 3), 4 * level);
    table[4 * level + 3] = threshold > 0 && strength <= threshold ? 0 : Math.round(255 * opacity * Math.min(1, 2 * strength));
  }
  const picture = new ImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(picture.data.buffer);
  const palette = new Uint32Array(table.buffer);
  const scale = peak || 1;
  for (let i = 0; i < values.length; i += 1) {
    const heat = isSigned ? 0.5 + (0.5 * values[i]) / scale : Math.max(0, values[i]) / scale;
    pixels[i] = palette[Math.floor(heat * 255 + 0.5)];
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** A box around each connected region (8 neighbours) over the threshold, the largest first; as whycam/localize.py. */
export function findBoxes(values, [height, width], threshold) {
  const least = threshold * findPeak(values, false);
  if (least <= 0) return [];
  const left = Uint8Array.from(values, (value) => value > least);
  const boxes = [];
  for (let start = 0; start < left.length; start += 1) {
    if (left[start]) boxes.push(takeRegion(left, start, height, width));
  }
  return boxes.sort((a, b) => b.area - a.area);
}

function takeRegion(left, start, height, width) {
  const box = { x0: width, y0: height, x1: 0, y1: 0, area: 0 };
  const waiting = [start];
  left[start] = 0;
  while (waiting.length) {
    const place = waiting.pop();
    const x = place % width;
    const y = (place - x) / width;
    box.area += 1;
    box.x0 = Math.min(box.x0, x);
    box.y0 = Math.min(box.y0, y);
    box.x1 = Math.max(box.x1, x + 1);
    box.y1 = Math.max(box.y1, y + 1);
    for (let row = Math.max(0, y - 1); row <= Math.min(height - 1, y + 1); row += 1) {
      for (let column = Math.max(0, x - 1); column <= Math.min(width - 1, x + 1); column += 1) {
        const next = row * width + column;
        if (left[next]) {
          left[next] = 0;
          waiting.push(next);
        }
      }
    }
  }
  return box;
}

/** (height, width) of a photo whose longer side is `side` at the most. */
export function fitSize({ width, height }, side) {
  const shrink = Math.min(1, side / Math.max(width, height));
  return [Math.max(1, Math.round(height * shrink)), Math.max(1, Math.round(width * shrink))];
}

/** Boxes in fractions of the photo, drawn over it at any size. */
export function drawBoxes(svg, boxes) {
  svg.setAttribute("viewBox", "0 0 1 1");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.replaceChildren(...boxes.flatMap(([x0, y0, x1, y1]) => ["viewer-box-edge", "viewer-box"].map((name) => {
    const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const place = { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0), class: name };
    Object.entries(place).forEach(([key, value]) => box.setAttribute(key, value));
    return box;
  })));
}

/** Readable numbers: three significant digits, a real minus sign. */
export function tell(value) {
  const size = Math.abs(value);
  const text = size >= 100 ? size.toFixed(0) : size >= 10 ? size.toFixed(1) : size >= 0.01 || size === 0 ? size.toFixed(2) : size.toPrecision(2);
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text;
}

/** The parts of a sum and what they come to, rounded to so many digits that what is printed adds up. */
export function tellSum(parts, total) {
  const all = [...parts, total];
  const largest = Math.max(...all.map(Math.abs));
  const least = largest >= 1000 ? 0 : largest >= 100 ? 1 : largest >= 0.01 || largest === 0 ? 2 : 1 - Math.floor(Math.log10(largest));
  let digits, steps;
  for (digits = least; digits < least + 4; digits += 1) {
    steps = all.map((value) => Math.round(Number(value.toFixed(digits)) * 10 ** digits));
    const rest = steps.at(-1) - steps.slice(0, -1).reduce((sum, step) => sum + step, 0);
    if (rest === 0) break;
    if (digits === least + 3) { steps[0] += rest; break; }  // one of the last digit
  }
  return steps.map((step) => (step < 0 ? "−" : "") + (Math.abs(step) / 10 ** digits).toFixed(digits));
}

/** (share, class) -> whether a label that excludes no other is given: at its threshold, or over one half. */
export const makeGiven = (thresholds) => (share, classIndex) => (thresholds ? share >= thresholds[classIndex] : share > 0.5);

export const tellShare = (share) => `${share > 0 && share < 0.01 ? "<1" : Math.round(100 * share)}\u00a0%`;

/** How much a share grew or fell, in points of a hundred. */
export const tellPoints = (change) => `${change < 0 ? "−" : "+"}${Math.round(Math.abs(100 * change))} points`;

/** A name for the middle of a sentence: written from right to left, it would draw the numbers beside it along. */
export const tellName = (name) => (/[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(name) ? `\u2068${name}\u2069` : name);

/** Makes a button switch between the dark and the light page. */
export function bindTheme(button) {
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const label = () => { button.textContent = isDark() ? "Light page" : "Dark page"; };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  label();
}

/** A photo with its heat and the controls for it. Fires "change" with { classIndex, versus, settings }. */
export class Viewer extends EventTarget {
  #maps = [];
  #field = new Float32Array();
  #peak = 0;
  #pointed = null;
  #parts = {};

  /** @param root an empty element. @param bias of each class, where mean(map) + bias is the score; else null. */
  constructor(root, { classNames, colormaps, isMultiLabel = false, thresholds = null, bias = null, defaults = {} }) {
    super();
    this.setModel({ classNames, isMultiLabel, thresholds });
    this.bias = bias;
    this.colors = Object.fromEntries(Object.entries(colormaps).map(([name, text]) => [name, decodeBytes(text)]));
    this.settings = { heat: true, opacity: 0.6, threshold: 0, boxes: false, signed: false, colormap: "inferno", ...defaults };
    this.entry = null;
    this.selected = null;
    this.versus = null;
    this.#build(root);
  }

  /** What is shown from now on is another model's. */
  setModel({ classNames, isMultiLabel = false, thresholds = null }) {
    this.classNames = classNames;
    this.isMultiLabel = isMultiLabel;
    this.givenWord = thresholds ? "given" : "over 50 %";
    this.isGiven = makeGiven(thresholds);
  }

  /**
   * Shows a photo, with the map of its first class. An entry may say of itself that its maps are a change (`isChange`):
   * both signs are drawn; and what stands beside each class's name (`told`).
   */
  show(entry) {
    this.entry = entry;
    this.#maps = decodeMaps(entry);
    [this.selected] = entry.classes;
    this.#setVersus(null);
    this.#showPicture();
    this.#buildChips();
    this.#update();
  }

  /**
   * Shows the next picture of a moving one: what was set stays, and no "change" is told of.
   * @param entry has a `frame` (a canvas or bitmap) in place of an address.
   * @param selected the class whose map is shown; an entry without the class of "why not" ends the comparison.
   */
  refresh(entry, selected) {
    const isNew = this.entry?.frame === undefined || this.entry.classes.length !== entry.classes.length;
    this.entry = entry;
    this.#maps = decodeMaps(entry);
    this.selected = selected;
    if (this.versus === selected || !entry.classes.includes(this.versus)) this.#setVersus(null);
    this.#showPicture();
    if (isNew) this.#buildChips();
    else [...this.#parts.chips.children].forEach((chip, i) => this.#fillChip(chip, i));
    this.#draw();
    this.#showSettings();
    this.#describePeak();
    if (this.#pointed) this.#point(this.#pointed);
  }

  #showPicture() {
    const { image, frame, stage, canvas, name, sum } = this.#parts;
    const { entry } = this;
    const isMoving = entry.frame !== undefined;
    [image.hidden, frame.hidden] = [isMoving, !isMoving];
    stage.closest(".viewer").classList.toggle("viewer-moving", isMoving);
    sum.ariaLive = isMoving ? "off" : "polite";
    name.textContent = entry.name;
    stage.style.setProperty("--ratio", entry.width / entry.height);
    const size = fitSize(entry, isMoving ? MOVING_SIDE_PX : CANVAS_SIDE_PX);
    if (canvas.height !== size[0] || canvas.width !== size[1]) [canvas.height, canvas.width] = size;
    if (isMoving) {
      if (frame.width !== entry.width || frame.height !== entry.height) [frame.width, frame.height] = [entry.width, entry.height];
      frame.getContext("2d").drawImage(entry.frame, 0, 0);
    } else {
      image.src = entry.image;
      image.alt = `Photo ${entry.name}`;
    }
  }

  /** Shows the map of a class of the entry; others are ignored. */
  choose(classIndex) {
    if (!this.entry?.classes.includes(classIndex)) return;
    this.selected = classIndex;
    if (this.versus === classIndex) this.#setVersus(null);
    this.#update();
  }

  /** Shows the difference of the selected class's map and this one's; null shows the class's own map. */
  setVersus(classIndex) {
    if (classIndex !== null && (classIndex === this.selected || !this.entry?.classes.includes(classIndex))) return;
    this.#setVersus(classIndex);
    this.#update();
  }

  #setVersus(classIndex) {
    this.versus = classIndex;
    // A difference speaks for one class where it is positive and for the other where it is negative.
    this.settings.signed = classIndex !== null || Boolean(this.entry?.isChange);
  }

  /** The raw map that is shown: { shape: [h, w], data }. */
  values() {
    const at = (classIndex) => this.#maps[this.entry.classes.indexOf(classIndex)];
    const own = at(this.selected);
    const other = this.versus === null ? null : at(this.versus);
    return { shape: this.entry.maps.shape.slice(1), data: other ? own.map((value, i) => value - other[i]) : own };
  }

  /** The canvas with the heat: the photo's size, its longer side 640 px at the most. */
  get canvas() {
    return this.#parts.canvas;
  }

  /** Boxes around the evidence for the class, in pixels of the photo, the largest first. */
  boxes() {
    const { shape, data } = this.values();
    const { width, height } = this.entry;
    const size = fitSize(this.entry, BOX_SIDE_PX);
    const [x, y] = [width / size[1], height / size[0]];
    const found = findBoxes(resizeMap(data, shape, size), size, this.settings.threshold || BOX_THRESHOLD);
    return found.map((box) => ({ x0: Math.round(box.x0 * x), y0: Math.round(box.y0 * y), x1: Math.round(box.x1 * x), y1: Math.round(box.y1 * y) }));
  }

  /** Does what a key stands for; false where it stands for nothing. */
  press(key) {
    if (!this.entry) return false;
    const index = Number(key) - 1;
    if (Number.isInteger(index) && index >= 0 && index < MAX_NUMBER_KEY) this.choose(this.entry.classes[index]);
    else if (key === "h") this.#set("heat", !this.settings.heat);
    else if (key === "b") this.#set("boxes", !this.settings.boxes);
    else if (key === "s") this.#set("signed", !this.settings.signed);
    else if (key === "v") this.setVersus(this.#nextVersus());
    else return false;
    return true;
  }

  #nextVersus() {
    const others = [null, ...this.entry.classes.filter((one) => one !== this.selected)];
    return others[(others.indexOf(this.versus) + 1) % others.length];
  }

  #set(name, value) {
    this.settings[name] = value;
    // Boxes are drawn around what is over the threshold: it has to be seen.
    if (name === "boxes" && value && !this.settings.threshold) this.settings.threshold = BOX_THRESHOLD;
    this.#update();
  }

  #build(root) {
    const parts = this.#parts;
    parts.image = make("img", { className: "viewer-photo", decoding: "async" });
    parts.frame = make("canvas", { className: "viewer-photo", role: "img", ariaLabel: "What the camera sees", hidden: true });
    parts.canvas = make("canvas", { className: "viewer-heat", role: "img" });
    parts.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    parts.svg.setAttribute("class", "viewer-boxes");
    parts.stage = make("div", { className: "viewer-stage" }, parts.image, parts.frame, parts.canvas, parts.svg);
    parts.stage.addEventListener("pointermove", (event) => this.#point(event));
    parts.stage.addEventListener("pointerleave", () => {
      this.#pointed = null;
      this.#describePeak();
    });
    parts.name = make("figcaption", { className: "viewer-name" });
    parts.scale = make("canvas", { className: "viewer-scale", width: 256, height: 1, ariaHidden: "true" });
    parts.low = make("span");
    parts.high = make("span");
    parts.readout = make("p", { className: "viewer-readout" });
    parts.notes = make("ul", { className: "viewer-notes" });
    const scale = make("div", { className: "viewer-legend" }, parts.low, parts.scale, parts.high);
    const figure = make("figure", { className: "viewer-figure" }, parts.stage, scale, parts.readout, parts.name, parts.notes);
    root.classList.add("viewer");
    root.replaceChildren(make("div", { className: "viewer-columns" }, figure, this.#buildPanel()));
  }

  #buildPanel() {
    const parts = this.#parts;
    parts.chips = make("div", { className: "viewer-chips", role: "group", ariaLabel: "Class whose evidence is shown" });
    parts.sum = make("p", { className: "viewer-sum", ariaLive: "polite" });
    parts.versus = make("select", {});
    parts.versus.addEventListener("change", () => this.setVersus(parts.versus.value === "" ? null : Number(parts.versus.value)));
    parts.colormap = make("select", {}, ...Object.keys(this.colors).map((name) => make("option", { value: name }, name)));
    parts.colormap.addEventListener("change", () => this.#set("colormap", parts.colormap.value));
    const controls = make("div", { className: "viewer-controls" },
      this.#label("Why not", parts.versus),
      this.#slider("opacity", "Opacity", 1),
      this.#slider("threshold", "Hide below", 0.95),
      this.#label("Colours", parts.colormap),
      make("div", { className: "viewer-toggles" },
        this.#toggle("heat", "Heat"), this.#toggle("boxes", "Boxes"), this.#toggle("signed", "Evidence against")));
    const keys = make("details", { className: "viewer-help" }, make("summary", {}, "Keys"), make("p", {},
      "1–9: class. v: compare with the next class. h: heat on or off. b: boxes. s: evidence against, too."));
    return make("div", { className: "viewer-panel" }, make("h3", {}, "Evidence for"), parts.chips, parts.sum, controls, keys);
  }

  #label(text, control) {
    return make("label", { className: "viewer-field" }, make("span", {}, text), control);
  }

  #slider(name, text, max) {
    const slider = make("input", { type: "range", min: "0", max: String(max), step: "0.05" });
    slider.addEventListener("input", () => this.#set(name, Number(slider.value)));
    this.#parts[name] = slider;
    return this.#label(text, slider);
  }

  #toggle(name, text) {
    const box = make("input", { type: "checkbox" });
    box.addEventListener("change", () => this.#set(name, box.checked));
    this.#parts[name] = box;
    return make("label", { className: "viewer-toggle" }, box, make("span", {}, text));
  }

  #buildChips() {
    this.#parts.chips.replaceChildren(...this.entry.classes.map((_, i) => {
      const chip = make("button", { type: "button", className: "viewer-chip" });
      chip.addEventListener("click", () => this.choose(this.entry.classes[i]));
      this.#fillChip(chip, i);
      return chip;
    }));
  }

  #fillChip(chip, i) {
    const { classes, probabilities, truth, truths, told: given } = this.entry;
    const classIndex = classes[i];
    const bar = make("span", { className: "viewer-bar" });
    bar.style.setProperty("--share", probabilities[i]);
    const isGiven = this.isMultiLabel ? this.isGiven(probabilities[i], classIndex) : i === 0;
    const own = this.isMultiLabel ? "its label" : "true class";
    const isOwn = truths ? truths.includes(classIndex) : classIndex === truth;
    const told = given?.[i] ?? [isGiven && (this.isMultiLabel ? this.givenWord : "predicted"), isOwn && own].filter(Boolean).join(", ");
    chip.replaceChildren(...[bar,
      make("span", { className: "viewer-chip-name name", dir: "auto", title: this.classNames[classIndex] }, this.classNames[classIndex]),
      told ? make("span", { className: "viewer-tag" }, told) : null,
      make("span", { className: "viewer-chip-share" }, this.entry.isChange ? tellPoints(probabilities[i]) : tellShare(probabilities[i]))].filter(Boolean));
  }

  #update() {
    if (!this.entry) return;
    this.#draw();
    this.#showSettings();
    this.#describePeak();
    const { selected: classIndex, versus, settings } = this;
    this.dispatchEvent(new CustomEvent("change", { detail: { classIndex, versus, settings: { ...settings } } }));
  }

  #draw() {
    const { canvas, svg, scale } = this.#parts;
    const { heat, opacity, threshold, boxes, signed: isSigned } = this.settings;
    const { shape, data } = this.values();
    const colors = this.colors[this.#colormap];
    this.#field = resizeMap(data, shape, [canvas.height, canvas.width]);
    this.#peak = findPeak(this.#field, isSigned);
    paintHeat(canvas, this.#field, colors, { opacity: heat ? opacity : 0, threshold, isSigned });
    const { width, height } = this.entry;
    drawBoxes(svg, boxes ? this.boxes().map((box) => [box.x0 / width, box.y0 / height, box.x1 / width, box.y1 / height]) : []);
    const pixels = scale.getContext("2d").createImageData(256, 1);
    for (let level = 0; level < 256; level += 1) pixels.data.set([...colors.subarray(3 * level, 3 * level + 3), 255], 4 * level);
    scale.getContext("2d").putImageData(pixels, 0, 0);
  }

  get #colormap() {
    return this.settings.signed ? SIGNED_COLORMAP : this.settings.colormap;
  }

  #showSettings() {
    const parts = this.#parts;
    [...parts.chips.children].forEach((chip, i) => { chip.ariaPressed = String(this.entry.classes[i] === this.selected); });
    const others = this.entry.classes.filter((one) => one !== this.selected);
    // An open list stays open: it is made anew only where the classes are others.
    if ([...parts.versus.options].slice(1).map(({ value }) => Number(value)).join() !== others.join() || !parts.versus.options.length) {
      parts.versus.replaceChildren(make("option", { value: "" }, "–"),
        ...others.map((one) => make("option", { value: String(one) }, this.classNames[one])));
    }
    parts.versus.value = this.versus === null ? "" : String(this.versus);
    parts.colormap.value = this.#colormap;
    parts.colormap.disabled = this.settings.signed;
    for (const name of ["heat", "boxes", "signed"]) parts[name].checked = this.settings[name];
    for (const name of ["opacity", "threshold"]) {
      parts[name].value = String(this.settings[name]);
      parts[name].ariaValueText = tellShare(this.settings[name]);
    }
    parts.sum.textContent = this.#describeSum();
    parts.notes.replaceChildren(...this.#findNotes().map((note) => make("li", {}, note)));
    parts.canvas.ariaLabel = `Heat: ${this.#title()}`;
  }

  /** The entry's notes, without those on classes that are not shown. */
  #findNotes() {
    const about = (note) => this.entry.classes.filter((one) => note.includes(`'${this.classNames[one]}'`));
    return this.entry.notes.filter((note) => !about(note).length || about(note).some((one) => [this.selected, this.versus].includes(one)));
  }

  #title() {
    const name = (one) => tellName(this.classNames[one]);
    const own = `${this.entry.isChange ? "change of the " : ""}evidence for ${name(this.selected)}`;
    return this.versus === null ? own : `${own} and not ${name(this.versus)}`;
  }

  /** In words: how the map makes the score. */
  #describeSum() {
    const { classes, logits, method } = this.entry;
    const score = (one) => logits[classes.indexOf(one)];
    const mean = this.values().data.reduce((sum, value, _, all) => sum + value / all.length, 0);
    if (this.bias === null || method !== "cam") return `Map by ${method}: where the score comes from, not how much of it.`;
    const gap = this.versus === null ? 0 : this.bias[this.versus];
    const total = score(this.selected) - (this.versus === null ? 0 : score(this.versus));
    const bias = this.bias[this.selected] - gap;
    const [what, result] = this.versus === null ? ["Mean of the map", "score"] : ["Mean of the difference", "difference of the scores"];
    const [part, end] = this.entry.isChange ? ["change of the bias", `change of the ${result}`] : ["bias", result];
    const [first, second, sum] = tellSum([mean, bias], total);
    const isLess = second.startsWith("−");
    return `${what} ${first} ${isLess ? "−" : "+"} ${part} ${isLess ? second.slice(1) : second} = ${end} ${sum}.`;
  }

  #describePeak() {
    const { signed } = this.settings;
    const peak = this.#peak;
    const { low, high, readout } = this.#parts;
    const [less, more] = this.entry?.isChange ? ["less", "more"] : ["against", "for"];
    low.textContent = signed ? `${tell(-peak)} ${less}` : "0";
    high.textContent = signed ? `${more} ${tell(peak)}` : tell(peak);
    readout.textContent = peak > 0 ? "Point at the photo to read a value." : "No place speaks for this class: nothing is drawn.";
  }

  #point(event) {
    if (!this.entry) return;
    this.#pointed = event;
    const { canvas, readout } = this.#parts;
    const frame = canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
    const value = this.#field[Math.floor(y * canvas.height) * canvas.width + Math.floor(x * canvas.width)];
    const peak = this.#peak || 1;
    const pixel = `${Math.floor(x * this.entry.width)}, ${Math.floor(y * this.entry.height)}`;
    readout.textContent = `At ${pixel}: ${tell(value)} (${value < 0 ? "−" : ""}${Math.round(Math.abs(100 * value) / peak)} % of the strongest).`;
  }
}
