/* Resizing as Pillow does it (libImaging/Resample.c and Geometry.c), to the last bit: a model sees in the page what it
   sees in Python. 8-bit channels, weights as integers of 22 bits, rows first. */

const PRECISION = 22;
const HALF = 1 << (PRECISION - 1);
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
 * firsts[i] on; places at the border have fewer values, and zeros behind them.
 */
function computeWeights(from, to, [reach, filter]) {
  const scale = from / to;
  const wide = Math.max(scale, 1);
  const support = reach * wide;
  const count = 2 * Math.ceil(support) + 1;
  const [firsts, weights] = [new Int32Array(to), new Int32Array(to * count)];
  for (let i = 0; i < to; i += 1) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const values = Array.from({ length: end - first }, (_, k) => filter((k + first - centre + 0.5) * (1 / wide)));
    const sum = values.reduce((a, b) => a + b, 0);
    // Zeros stand before the values where the last ones would lie behind the end.
    firsts[i] = Math.max(0, Math.min(first, from - count));
    values.forEach((value, k) => {
      const share = sum === 0 ? value : value / sum;
      weights[i * count + first - firsts[i] + k] = Math.trunc((share < 0 ? -0.5 : 0.5) + share * (1 << PRECISION));
    });
  }
  return { firsts, weights, count: Math.min(count, from), step: count };
}

/** (H, w, 4) of (H, W, 4), the fourth of which is left as it is. Sums fit 32 bits; the array itself keeps to 0..255. */
function resizeAcross(rgba, [width, height], toWidth, filter) {
  const { firsts, weights, count, step } = makeWeights(width, toWidth, filter);
  const resized = new Uint8ClampedArray(4 * height * toWidth);
  for (let row = 0, to = 0; row < height; row += 1) {
    for (let x = 0; x < toWidth; x += 1, to += 4) {
      let at = 4 * (row * width + firsts[x]);
      const from = x * step;
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      for (let k = from; k < from + count; k += 1, at += 4) {
        const weight = weights[k];
        red = (red + Math.imul(weight, rgba[at])) | 0;
        green = (green + Math.imul(weight, rgba[at + 1])) | 0;
        blue = (blue + Math.imul(weight, rgba[at + 2])) | 0;
      }
      resized[to] = red >> PRECISION;
      resized[to + 1] = green >> PRECISION;
      resized[to + 2] = blue >> PRECISION;
    }
  }
  return resized;
}

/** (h, W, 4) of (H, W, 4), a row after the other. */
function resizeDown(rgba, [width, height], toHeight, filter) {
  const { firsts, weights, count, step } = makeWeights(height, toHeight, filter);
  const resized = new Uint8ClampedArray(4 * toHeight * width);
  const sums = new Int32Array(4 * width);
  for (let y = 0; y < toHeight; y += 1) {
    sums.fill(HALF);
    for (let k = 0; k < count; k += 1) {
      const weight = weights[y * step + k];
      if (weight === 0) continue;
      const at = 4 * (firsts[y] + k) * width;
      for (let i = 0; i < sums.length; i += 1) sums[i] += Math.imul(weight, rgba[at + i]);
    }
    const to = 4 * y * width;
    for (let i = 0; i < sums.length; i += 1) resized[to + i] = sums[i] >> PRECISION;
  }
  return resized;
}

/** (3, H, W) bytes of (H, W, 4). */
function split(rgba, [width, height]) {
  const plane = width * height;
  const planes = new Uint8Array(3 * plane);
  for (let i = 0, at = 0; i < plane; i += 1, at += 4) {
    planes[i] = rgba[at];
    planes[plane + i] = rgba[at + 1];
    planes[2 * plane + i] = rgba[at + 2];
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

/** (3, h, w) of (H, W, 4), the nearest pixel. */
function takeNearest(rgba, [width, height], [toWidth, toHeight]) {
  const columns = makeNearest(width, toWidth);
  const planes = new Uint8Array(3 * toHeight * toWidth);
  makeNearest(height, toHeight).forEach((row, y) => {
    for (let x = 0; x < toWidth; x += 1) {
      for (let c = 0; c < 3; c += 1) planes[(c * toHeight + y) * toWidth + x] = rgba[4 * (row * width + columns[x]) + c];
    }
  });
  return planes;
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
  // A photo of that size is not resized in Python either; the nearest pixel leaves it as it is.
  if (interpolation === "nearest" || (width === toWidth && height === toHeight)) return takeNearest(rgba, size, target);
  // Pillow leaves out a direction in which nothing changes: its weights are 1, so nothing is lost by it here.
  const filter = FILTERS[interpolation];
  const rows = height - toHeight;
  const isTall = isTallFirst && rows > 0 && rows > 2 * (width - toWidth);
  const resized = isTall ? resizeAcross(resizeDown(rgba, size, toHeight, filter), [width, toHeight], toWidth, filter)
    : resizeDown(resizeAcross(rgba, size, toWidth, filter), [toWidth, height], toHeight, filter);
  return split(resized, target);
}
