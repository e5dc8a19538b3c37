/* What each page with a network in it does first: looks whether this browser can run it, and proves its numbers. */

// The smallest module with an instruction of 128 bits: a function that makes one of a byte's copies, and drops it.
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11);
const NO_SIMD = "This browser has no WebAssembly with SIMD, in which the network is run. Take a newer one: Chrome or Edge 123, Firefox 120, "
  + "Safari 17.5 or later; and leave WebAssembly switched on.";

const part = (id) => document.getElementById(id);

/** Why this browser can't run a network, told on the page; false where it can. */
export function tellOldBrowser(app) {
  const canRun = typeof WebAssembly === "object" && WebAssembly.validate(SIMD)
    && typeof OffscreenCanvas !== "undefined" && typeof DecompressionStream !== "undefined";
  if (canRun) return false;
  app.tellFault(NO_SIMD);
  for (const field of document.querySelectorAll("#welcome button, #welcome input")) field.disabled = true;
  return true;
}

/** Opens the network, and says how near its numbers are to Python's, measured here and now on a photo that came with it. */
export async function startModel(model, app) {
  try {
    part("state").textContent = "loading";
    await model.ready();
    part("state").textContent = model.threads > 1 ? `${model.threads} threads` : "ready";
    const { difference, isSmall } = await model.check();
    const size = difference === 0 ? "0" : difference.toExponential(0).replace("-", "−");
    part("proof").textContent = `On this machine the scores of a sample are within ${size} of Python's.`;
    if (!isSmall) app.tellFault(`The scores of a sample differ by ${size} from Python's. This browser does not compute as it should: don't trust it.`);
    return true;
  } catch (error) {
    part("state").textContent = "can't answer";
    app.tellFault(error.message);
    return false;
  }
}
