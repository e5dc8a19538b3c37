/* The app's page as a server gives it: all questions go to that server's own API. */

import { openApp } from "./app.js";
import { bindTheme } from "./viewer.js";

const PHOTO_PX = 1280;

/** Its answer to a form; an Error with the server's reason where it refuses. Waits where it asks to be asked later. */
async function ask(path, fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, { method: "POST", body: form });
    } catch {
      throw new Error("The server does not answer. Is it still running?");
    }
    if (answer.ok) return answer;
    if (answer.status !== 429) throw new Error(await readReason(answer));
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });
  }
}

async function read(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await readReason(answer));
  return answer;
}

async function readReason(answer) {
  try {
    return (await answer.json()).error.reason;
  } catch {
    return `The server answered ${answer.status}, without a reason.`;
  }
}

bindTheme(document.getElementById("theme"));
openApp({
  readModel: async () => (await read("/api/model")).json(),
  readSample: async (name) => new File([await (await read(`/samples/${name}`)).blob()], name),
  explain: async (photo, question = {}) => {
    const answer = await ask("/api/explain", { files: photo.file, photo_px: PHOTO_PX, ...question });
    const [result] = (await answer.json()).results;
    return result;
  },
  save: async (kind, photo, question) => (await ask(`/api/${kind}`, { file: photo.file, ...question })).blob(),
});
