/* What is computed beside the page: of a photo or a camera's frame the scores and every class's map.
   One thread of this script has the network; a second one makes a camera's frames ready for it meanwhile.
   Photos are decoded by the browser as they are stored: without a colour profile, upright, on white where transparent. */

import * as ort from "../runtime/ort.wasm.min.mjs";
import { resize } from "./site_pillow.js";

const SHOWN_PX = 1280;
const MAX_THREADS = 4;
const GZIP = [0x1f, 0x8b];

let session = null;
let canvas = null;

/** Unpacked; a host that sends the file as compressed has had it unpacked by the browser already. */
async function unpack(packed) {
  const start = new Uint8Array(packed, 0, 2);
  if (start[0] !== GZIP[0] || start[1] !== GZIP[1]) return packed;
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Opens the network. One core is left to the page; more than one thread needs a page that is isolated from others. */
async function open({ runtime, graph, glue }) {
  const threads = self.crossOriginIsolated ? Math.max(1, Math.min(MAX_THREADS, navigator.hardwareConcurrency - 1)) : 1;
  Object.assign(ort.env.wasm, { numThreads: threads, wasmBinary: await unpack(runtime), wasmPaths: { mjs: glue } });
  session = await ort.InferenceSession.create(await unpack(graph), { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  return { result: { threads } };
}

/** (H, W, 4) bytes of a bitmap. */
function readPixels(bitmap) {
  const { width, height } = bitmap;
  canvas ??= new OffscreenCanvas(width, height);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0);
  return pen.getImageData(0, 0, width, height).data;
}

/** (3, h, w) bytes: a bitmap as the network takes it. */
function prepare(bitmap, input) {
  return resize(readPixels(bitmap), [bitmap.width, bitmap.height], [input.width, input.height], input);
}

async function answer(pixels, input) {
  const { logits, maps } = await session.run({ images: new ort.Tensor("uint8", pixels, [1, 3, input.height, input.width]) });
  return { logits: logits.data, maps: maps.data, cells: maps.dims.slice(2) };
}

async function readPhoto({ file, input }) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`'${file.name}' can't be read by this browser (${file.size.toLocaleString("en")} bytes); expected a JPEG, PNG, WebP, `
      + "GIF, AVIF or BMP. Save it as one of these.");
  }
  try {
    const { width, height } = bitmap;
    const result = await answer(prepare(bitmap, input), input);
    return { result: { ...result, width, height, shown: await makeShown(bitmap, file) }, moved: [result.logits.buffer, result.maps.buffer] };
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof DOMException)) throw error;
    throw new Error(`'${file.name}' has ${bitmap.width} x ${bitmap.height} pixels, more than this browser can hold. Make it smaller.`);
  } finally {
    bitmap.close();
    canvas = null;  // a large photo's would stay in memory
  }
}

/** The photo as it is shown: itself, or a smaller one where it is large. */
async function makeShown(bitmap, file) {
  const shrink = SHOWN_PX / Math.max(bitmap.width, bitmap.height);
  if (shrink >= 1) return file;
  const small = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * shrink)), Math.max(1, Math.round(bitmap.height * shrink)));
  const pen = small.getContext("2d", { alpha: false });
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, small.width, small.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, small.width, small.height);
  return small.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}

/** The frame goes back to the page: the heat is drawn on what it belongs to. */
function prepareFrame({ frame, input }) {
  const pixels = prepare(frame, input);
  return { result: { frame, pixels }, moved: [frame, pixels.buffer] };
}

async function readFrame({ pixels, input }) {
  const result = await answer(pixels, input);
  return { result, moved: [result.logits.buffer, result.maps.buffer] };
}

const CALLS = { open, readPhoto, prepareFrame, readFrame };
let last = Promise.resolve();

// One after the other: the network has one memory.
addEventListener("message", ({ data: { id, call, ...question } }) => {
  last = last.then(() => CALLS[call](question)).then(
    ({ result, moved = [] }) => postMessage({ id, result }, moved),
    (error) => postMessage({ id, fault: error?.message || String(error) }),
  );
});
postMessage({ isReady: true });
