/* What the page Mend asks of its server, and the edits that are not yet acknowledged: they outlive a reload. */

import { make } from "./viewer.js";

const RETRY_MS = 2000;

/** The server's JSON; an Error with its reason where it refuses, with `isRefusal`. Waits where it asks to be asked later. */
export async function ask(path, body = null) {
  const how = body === null ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  for (;;) {
    let answer;
    try {
      answer = await fetch(`/api/mend${path}`, how);
    } catch {
      throw new Error("The server does not answer. Is it still running?");
    }
    if (answer.ok) return answer.json();
    if (answer.status !== 429) throw Object.assign(new Error(await readReason(answer)), { isRefusal: answer.status < 500 });
    await wait(1000 * (Number(answer.headers.get("Retry-After")) || 1));
  }
}

async function readReason(answer) {
  try {
    return (await answer.json()).error.reason;
  } catch {
    return `The server answered ${answer.status}, without a reason.`;
  }
}

/** Shows, in words, what was refused or went wrong, with a button for what may be done; the last one, until it is closed. */
export function tellFault(reason, remedy = null) {
  const close = make("button", { type: "button", className: "app-button", ariaLabel: "Close this message" }, "×");
  const row = make("p", {}, make("span", {}, reason), remedy, close);
  close.addEventListener("click", () => row.remove());
  document.getElementById("faults").replaceChildren(row);
}

const wait = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** An id that nobody else makes; crypto.randomUUID is not there for pages that come from another machine. */
export function makeId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends edits in their order. Each batch lies in the browser until the server has it on the disk; ids make it count once. */
export class Outbox extends EventTarget {
  #sending = null;

  constructor(run) {
    super();
    this.prefix = `whycam-mend:${run}:`;
  }

  get waiting() {
    return Object.keys(localStorage).filter((key) => key.startsWith(this.prefix)).sort();
  }

  /** Takes edits; resolves once nothing waits. */
  put(edits) {
    const place = `${String(Date.now()).padStart(15, "0")}-${edits[0].id}`;
    localStorage.setItem(this.prefix + place, JSON.stringify(edits));
    return this.send();
  }

  send() {
    this.#sending ??= this.#sendAll().finally(() => { this.#sending = null; });
    return this.#sending;
  }

  async #sendAll() {
    for (let [key] = this.waiting; key; [key] = this.waiting) {
      const text = localStorage.getItem(key);
      try {
        if (text) await ask("/edits", { edits: JSON.parse(text) });
        localStorage.removeItem(key);
        this.dispatchEvent(new CustomEvent("sent"));
      } catch (error) {
        if (error.isRefusal) localStorage.removeItem(key);
        this.dispatchEvent(new CustomEvent("fault", { detail: error }));
        if (!error.isRefusal) await wait(RETRY_MS);
      }
    }
  }
}
