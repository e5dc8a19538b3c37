/* The page of an exported model: the app's page with the model in the browser, the camera, and no server behind it. */

import { openApp } from "./app.js";
import { SiteFiles } from "./site_files.js";
import { Live } from "./site_live.js";
import { LocalModel } from "./site_model.js";
import { startModel, tellOldBrowser } from "./site_start.js";
import { bindTheme } from "./viewer.js";

const BASE = new URL("../", import.meta.url).href;

const part = (id) => document.getElementById(id);

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

async function start() {
  document.documentElement.classList.add("site-started");
  bindTheme(part("theme"));
  const model = new LocalModel(new SiteFiles(BASE));
  const app = openApp(model);
  if (tellOldBrowser(app)) return;
  new Live(model, app);
  if (await startModel(model, app)) keepOffline();
}

start();
