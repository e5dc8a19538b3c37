/* Resizing as Pillow does it (libImaging/Resample.c and Geometry.c), to the last bit: a model sees in the page what it
   sees in Python. 8-bit channels, weights as integers of 22 bits, rows first. */

const PRECISION = 22;
const HALF = 1 << (PRECISION - 1);
const MOST = 255 << PRECISION;
const CUBIC = -0.5;

const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** Name -> how far the filter reaches at scale 1, and its value at a distance. */
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (at) => {
    const x = Math.abs(at);
    if (x < 1) return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * CUBIC : 0;
  }],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

const MAX_KNOWN = 8;
const known = new Map();

/** As `computeWeights`, once for all frames of a camera. */
function makeWeights(from, to, filter) {
  const key = `${from} ${to} ${filter[0]}`;
  if (known.size > MAX_KNOWN) known.clear();
  if (!known.has(key)) known.set(key, computeWeights(from, to, filter));
  return known.get(key);
}

/**
 * The integers that values are multiplied with: of place i they begin at weights[i * count], for the values from
 * firsts[i] on; places that have fewer values than others have zeros beside them.
 */
function computeWeights(from, to, [reach, filter]) {
  const scale = from / to;
  const wide = Math.max(scale, 1);
  const support = reach * wide;
  const places = Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    return [first, Array.from({ length: end - first }, (__, k) => filter((k + first - centre + 0.5) * (1 / wide)))];
  });
  const count = places.reduce((most, [, values]) => Math.max(most, values.length), 0);
  const [firsts, weights] = [new Int32Array(to), new Int32Array(to * count)];
  places.forEach(([first, values], i) => {
    const sum = values.reduce((a, b) => a + b, 0);
    // Zeros stand before the values where the last ones would lie behind the end.
    firsts[i] = Math.min(first, from - count);
    values.forEach((value, k) => {
      const share = sum === 0 ? value : value / sum;
      weights[i * count + first - firsts[i] + k] = Math.trunc((share < 0 ? -0.5 : 0.5) + share * (1 << PRECISION));
    });
  });
  return { firsts, weights, count };
}

const toByte = (sum) => (sum <= 0 ? 0 : sum >= MOST ? 255 : sum >> PRECISION);

/**
 * Pixels resized in one direction. A pixel is a word, so that its three channels are loaded and stored at once.
 * @param words the pixels. @param known where values begin and their weights. @param lines how many lines there are
 * across that direction. @param tap from one value to the next. @param line from one line to the next. @param toPlace
 * from one place of the result to the next. @param toLine the same from line to line.
 */
function resample(words, { firsts, weights, count }, { lines, tap, line, toPlace, toLine }) {
  const resized = new Uint32Array(firsts.length * lines);
  for (let i = 0; i < firsts.length; i += 1) {
    const [from, end] = [i * count, (i + 1) * count];
    for (let j = 0, start = firsts[i] * tap, to = i * toPlace; j < lines; j += 1, start += line, to += toLine) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      // Sums fit 32 bits.
      for (let k = from, at = start; k < end; k += 1, at += tap) {
        const weight = weights[k];
        const word = words[at];
        red = (red + Math.imul(weight, word & 255)) | 0;
        green = (green + Math.imul(weight, (word >>> 8) & 255)) | 0;
        blue = (blue + Math.imul(weight, (word >>> 16) & 255)) | 0;
      }
      resized[to] = toByte(red) | (toByte(green) << 8) | (toByte(blue) << 16);
    }
  }
  return resized;
}

/** (H, w) of (H, W) pixels. */
function resizeAcross(words, [width, height], toWidth, filter) {
  return resample(words, makeWeights(width, toWidth, filter), { lines: height, tap: 1, line: width, toPlace: 1, toLine: toWidth });
}

/** (h, W) of (H, W) pixels. */
function resizeDown(words, [width, height], toHeight, filter) {
  return resample(words, makeWeights(height, toHeight, filter), { lines: width, tap: width, line: 1, toPlace: width, toLine: 1 });
}

/** (3, H, W) bytes of (H, W) pixels. */
function split(words) {
  const planes = new Uint8Array(3 * words.length);
  for (let i = 0; i < words.length; i += 1) {
    planes[i] = words[i];
    planes[words.length + i] = words[i] >>> 8;
    planes[2 * words.length + i] = words[i] >>> 16;
  }
  return planes;
}

/** The first of `from` pixels for each of `to`, added up step by step as Pillow does. */
function makeNearest(from, to) {
  const step = from / to;
  const places = new Int32Array(to);
  for (let i = 0, at = step * 0.5; i < to; i += 1, at += step) places[i] = Math.min(from - 1, Math.floor(at));
  return places;
}

/** (h, w) of (H, W) pixels, the nearest ones. */
function takeNearest(words, [width, height], [toWidth, toHeight]) {
  const columns = makeNearest(width, toWidth);
  const taken = new Uint32Array(toHeight * toWidth);
  makeNearest(height, toHeight).forEach((row, y) => {
    for (let x = 0; x < toWidth; x += 1) taken[y * toWidth + x] = words[row * width + columns[x]];
  });
  return taken;
}

/**
 * A photo resized: (3, h, w) bytes, plane after plane.
 * @param rgba (H, W, 4) bytes; the fourth is not read. @param size [W, H]. @param target [w, h].
 * @param interpolation nearest, bilinear, bicubic or lanczos.
 * @param isTallFirst Pillow's from 13 on begin with the columns where a photo loses over twice as many rows as columns;
 * between the two, values are rounded to bytes.
 */
export function resize(rgba, size, target, { interpolation, isTallFirst }) {
  const [width, height] = size;
  const [toWidth, toHeight] = target;
  // Red is in the lowest bits: every machine that has a browser of today puts them first.
  const words = new Uint32Array(rgba.buffer, rgba.byteOffset, width * height);
  // A photo of that size is not resized in Python either; the nearest pixel leaves it as it is.
  if (interpolation === "nearest" || (width === toWidth && height === toHeight)) return split(takeNearest(words, size, target));
  // Pillow leaves out a direction in which nothing changes: its weights are 1, so nothing is lost by it here.
  const filter = FILTERS[interpolation];
  const rows = height - toHeight;
  const isTall = isTallFirst && rows > 0 && rows > 2 * (width - toWidth);
  return split(isTall ? resizeAcross(resizeDown(words, size, toHeight, filter), [width, toHeight], toWidth, filter)
    : resizeDown(resizeAcross(words, size, toWidth, filter), [toWidth, height], toHeight, filter));
}
