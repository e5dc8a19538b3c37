/* What pages of photos share: small pictures that are drawn late, and the dialog that a photo opens in. */

import { decodeMaps, drawBoxes, fitSize, make, paintHeat, resizeMap } from "whycam/viewer";

const THUMB_PX = 160;
const find = (selector) => document.querySelector(selector);

/** Draws when the element first comes near the screen, and before printing. */
const drawings = new Map();
const watcher = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) if (isIntersecting) drawNow(target);
}, { rootMargin: "400px" });

export function drawLater(element, draw) {
  drawings.set(element, draw);
  watcher.observe(element);
}

function drawNow(element) {
  watcher.unobserve(element);
  const draw = drawings.get(element);
  drawings.delete(element);
  if (draw) draw();
}

addEventListener("beforeprint", () => [...drawings.keys()].forEach(drawNow));

/** The raw map of a class of an entry, or the difference of two; null where the entry has not the class. */
export function readMap(entry, classIndex, versus = null) {
  if (classIndex === null || !entry.classes.includes(classIndex)) return null;
  const maps = decodeMaps(entry);
  const own = maps[entry.classes.indexOf(classIndex)];
  const other = versus === null ? null : maps[entry.classes.indexOf(versus)];
  return other ? own.map((value, i) => value - other[i]) : own;
}

/**
 * The photo with the heat of a class, of a difference of two, or none; drawn late.
 * @param colors of each colour map. @param findScale gives what the strongest colour stands for [that of the map].
 */
export function makePicture(entry, { colors, classIndex = null, versus = null, boxes = [], alt = "", findScale = null }) {
  const image = make("img", { className: "viewer-photo", alt, decoding: "async" });
  const canvas = make("canvas", { className: "viewer-heat", ariaHidden: "true" });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "viewer-boxes");
  const stage = make("span", { className: "viewer-stage thumb" }, image, canvas, svg);
  stage.style.setProperty("--ratio", entry.width / entry.height);
  drawLater(stage, () => {
    image.src = entry.image;
    if (boxes.length) drawBoxes(svg, boxes);
    const values = readMap(entry, classIndex, versus);
    if (values === null) return;
    const size = fitSize(entry, THUMB_PX);
    [canvas.height, canvas.width] = size;
    const isSigned = versus !== null;
    paintHeat(canvas, resizeMap(values, entry.maps.shape.slice(1), size), colors[isSigned ? "RdBu_r" : "inferno"],
      { opacity: isSigned ? 0.85 : 0.6, isSigned, peak: findScale?.() });
  });
  return stage;
}

/** The dialog around the viewer: goes through a list of photos, and keeps the shown one's address. */
export class PhotoDialog {
  #around = [];
  #shown = null;
  #dialog = find("#viewer-dialog");

  /** @param draw shows a photo in the viewer. @param press does what a key stands for; false where that is nothing. */
  constructor(draw, press) {
    this.draw = draw;
    find("#previous").addEventListener("click", () => this.#step(-1));
    find("#next").addEventListener("click", () => this.#step(1));
    find("#close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => history.replaceState(null, "", " "));
    document.addEventListener("keydown", (event) => {
      if (!this.#dialog.open || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=range], select")) return;
      if (event.key === "ArrowLeft") this.#step(-1);
      else if (event.key === "ArrowRight") this.#step(1);
      else if (!press(event.key)) return;
      event.preventDefault();
    });
  }

  /** Shows a photo of a list; `how` is handed on. */
  open(photo, list, how) {
    [this.#shown, this.#around] = [photo, list];
    this.draw(photo, how);
    find("#viewer-title").textContent = `Photo ${list.indexOf(photo) + 1} of ${list.length}`;
    if (!this.#dialog.open) this.#dialog.showModal();
    history.replaceState(null, "", `#photo=${encodeURIComponent(photo.id)}`);
  }

  /** Opens the photo that the page's address names, now and whenever it changes. */
  follow(findPhoto, listFor) {
    const go = () => {
      const photo = findPhoto(new URLSearchParams(location.hash.slice(1)).get("photo"));
      if (photo) this.open(photo, listFor(photo));
    };
    addEventListener("hashchange", go);
    go();
  }

  #step(by) {
    const next = this.#around[this.#around.indexOf(this.#shown) + by];
    if (next) this.open(next, this.#around);
  }
}
