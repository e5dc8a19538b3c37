/* The page of an exported model: the app's page with the model in the browser, the camera, and no server behind it. */

import { openApp } from "./app.js";
import { Live } from "./site_live.js";
import { LocalModel } from "./site_model.js";

const BASE = new URL("../", import.meta.url).href;
// The smallest module with an instruction of 128 bits: a function that makes one of a byte's copies, and drops it.
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11);
const NO_SIMD = "This browser has no WebAssembly with SIMD, in which the network is run. Take a newer one: Chrome or Edge 123, Firefox 120, "
  + "Safari 17.5 or later; and leave WebAssembly switched on.";

const part = (id) => document.getElementById(id);

function findFault() {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) return NO_SIMD;
  if (typeof OffscreenCanvas === "undefined" || typeof DecompressionStream === "undefined") return NO_SIMD;
  return "";
}

/** Keeps the whole site for when there is no network; in Chromium the page can then be installed. */
async function keepOffline() {
  if (!navigator.serviceWorker) return;
  try {
    const kept = await navigator.serviceWorker.register(new URL("sw.js", BASE));
    // A browser asks for a new export some time after the page was loaded, and not at all if it is closed before.
    if (kept.active) kept.update().catch(() => {});
    await navigator.serviceWorker.ready;
    part("offline").textContent = "Kept in this browser: it works without a network, too.";
  } catch {
    part("offline").textContent = "This browser does not keep the page for later; without a network it won't open.";
  }
}

/** Says how near the numbers are to Python's, measured here and now on a photo that came with the model. */
async function prove(model, app) {
  const { difference, isSmall } = await model.check();
  const size = difference === 0 ? "0" : difference.toExponential(0).replace("-", "−");
  part("proof").textContent = `On this machine the scores of a sample are within ${size} of Python's.`;
  if (!isSmall) app.tellFault(`The scores of a sample differ by ${size} from Python's. This browser does not compute as it should: don't trust it.`);
}

async function start() {
  document.documentElement.classList.add("site-started");
  const fault = findFault();
  const model = new LocalModel(BASE);
  const app = openApp(model);
  if (fault) {
    app.tellFault(fault);
    for (const button of document.querySelectorAll("#welcome button, #welcome input")) button.disabled = true;
    return;
  }
  new Live(model, app);
  try {
    await model.ready();
    part("state").textContent = model.threads > 1 ? `${model.threads} threads` : "ready";
    await prove(model, app);
  } catch (error) {
    part("state").textContent = "can't answer";
    app.tellFault(error.message);
    return;
  }
  keepOffline();
}

start();
