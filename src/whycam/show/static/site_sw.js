/* Keeps the site in the browser: all its files in one store of their own, taken whole; a new export has a new store.
   Before it stands `SITE`: { version, files }, written by the export. */

const PREFIX = `whycam ${self.registration.scope} `;
const STORE = PREFIX + SITE.version;
// So isolated a page may use several threads, also where its host sends no such headers.
const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

addEventListener("install", (event) => {
  // Asked of the host, not of the browser's own memory, which may hold an older export's file.
  const fetchAll = async () => (await caches.open(STORE)).addAll(SITE.files.map((file) => new Request(file, { cache: "no-cache" })));
  event.waitUntil(fetchAll());
});

addEventListener("activate", (event) => {
  const tidy = async () => {
    const names = await caches.keys();
    await Promise.all(names.filter((name) => name.startsWith(PREFIX) && name !== STORE).map((name) => caches.delete(name)));
    await clients.claim();
  };
  event.waitUntil(tidy());
});

async function answer(request) {
  const address = new URL(request.url);
  address.search = "";
  address.pathname = address.pathname.replace(/index\.html$/, "");
  const found = await (await caches.open(STORE)).match(address.href);
  const reply = found ?? await fetch(request);
  if (reply.type === "opaque" || reply.type === "error" || reply.redirected) return reply;
  const headers = new Headers(reply.headers);
  headers.set("Content-Security-Policy", SITE.policy);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  return new Response(reply.body, { status: reply.status, statusText: reply.statusText, headers });
}

addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(self.registration.scope)) event.respondWith(answer(event.request));
});
