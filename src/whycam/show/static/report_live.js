/* The part of a report in which a photo of one's own is tried: the network is in the page, and is opened with the first one. */

import { openApp } from "whycam/app";
import { LocalModel } from "whycam/site_model";
import { startModel, tellOldBrowser } from "whycam/site_start";

const part = (id) => document.getElementById(id);
const data = JSON.parse(part("live-data").textContent);

/** What stands in the page as text, once: it is large. */
function takeBytes(name) {
  const holder = document.querySelector(`script[data-file="${name}"]`);
  const text = holder.textContent;
  holder.remove();
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i += 1) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

/** The network's files where there is no host: see `SiteFiles`. */
const files = {
  remedy: "Open the page in a newer browser: Chrome or Edge 123, Firefox 120, Safari 17.5 or later.",
  worker: data.worker,
  glue: data.glue,
  readModel: async () => data.model,
  read: async (name) => takeBytes(name).buffer,
  readSample: async (name) => new File([takeBytes(name)], name, { type: "image/png" }),
};

/** Most readers of a report try nothing: for them nothing is opened. */
class LateModel extends LocalModel {
  #started = false;

  explain(photo, question) {
    if (!this.#started) startModel(this, app);
    this.#started = true;
    return super.explain(photo, question);
  }
}

const own = part("own");

/** What comes of a photo is in sight, wherever it was dropped, and keys are the app's from then on. */
function show() {
  own.scrollIntoView();
  own.focus({ preventScroll: true });
}
addEventListener("drop", show);
addEventListener("paste", ({ clipboardData }) => { if (clipboardData.files.length) show(); });
own.addEventListener("change", ({ target }) => { if (target.type === "file") show(); });

const app = openApp(new LateModel(files), { keys: own });
tellOldBrowser(app);
