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

/** For each of `to` places: { first, weights }, the integers that the values from `first` on are multiplied with. */
function makeWeights(from, to, [reach, filter]) {
  const scale = from / to;
  const wide = Math.max(scale, 1);
  const support = reach * wide;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const values = Array.from({ length: end - first }, (__, k) => filter((k + first - centre + 0.5) * (1 / wide)));
    const sum = values.reduce((a, b) => a + b, 0);
    const shares = sum === 0 ? values : values.map((value) => value / sum);
    return { first, weights: Int32Array.from(shares, (w) => Math.trunc((w < 0 ? -0.5 : 0.5) + w * (1 << PRECISION))) };
  });
}

const clip = (sum) => Math.max(0, Math.min(255, sum >> PRECISION));

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
 */
export function resize(rgba, size, target, interpolation) {
  const [width, height] = size;
  const [toWidth, toHeight] = target;
  // A photo of that size is not resized in Python either; each filter would leave it as it is.
  if (interpolation === "nearest" || (width === toWidth && height === toHeight)) return takeNearest(rgba, size, target);
  // Pillow leaves out a direction in which nothing changes: the weights are then 1, and the result is the same.
  const across = makeWeights(width, toWidth, FILTERS[interpolation]);
  const down = makeWeights(height, toHeight, FILTERS[interpolation]);
  const rows = new Uint8Array(3 * height * toWidth);
  const plane = height * toWidth;
  for (let x = 0; x < toWidth; x += 1) {
    const { first, weights } = across[x];
    for (let y = 0; y < height; y += 1) {
      let [red, green, blue] = [HALF, HALF, HALF];
      let at = 4 * (y * width + first);
      for (let k = 0; k < weights.length; k += 1, at += 4) {
        const weight = weights[k];
        red += weight * rgba[at];
        green += weight * rgba[at + 1];
        blue += weight * rgba[at + 2];
      }
      const place = y * toWidth + x;
      rows[place] = clip(red);
      rows[plane + place] = clip(green);
      rows[2 * plane + place] = clip(blue);
    }
  }
  const planes = new Uint8Array(3 * toHeight * toWidth);
  for (let c = 0; c < 3; c += 1) {
    for (let y = 0; y < toHeight; y += 1) {
      const { first, weights } = down[y];
      for (let x = 0; x < toWidth; x += 1) {
        let sum = HALF;
        let at = c * plane + first * toWidth + x;
        for (let k = 0; k < weights.length; k += 1, at += toWidth) sum += weights[k] * rows[at];
        planes[(c * toHeight + y) * toWidth + x] = clip(sum);
      }
    }
  }
  return planes;
}
