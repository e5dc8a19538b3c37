/* The page of one model: photos in, the viewer for each. What answers is a backend: a server's API, or the model itself
   in the browser. It gives readModel(), readSample(name), explain(photo, question) and save(kind, photo, question), and may
   have an onShow(photo); what it can't do, it says by an Error whose message is for people. */

import { Viewer, make, makeGiven, tellName, tellShare } from "./viewer.js";

const AT_ONCE = 4;
const MAX_CHIPS = 10;
const KEYS = matchMedia("(hover: hover)").matches ? ", ← → to move" : "";

const part = (id) => document.getElementById(id);
const photos = [];
const waiting = [];
let model = null;
let first = null;
let second = null;
let current = null;
let wanted = null;
let running = 0;
let backend = null;
let opened = null;

/* ---- The list of photos ---------------------------------------------------------------------------------------- */

async function addFiles(files) {
  await opened;
  if (!model || !files.length) return;
  const wasMoving = current?.isMoving;
  if (wasMoving) leave();
  for (const file of files) {
    const photo = { file, name: file.name || "pasted photo", entry: null, fault: "" };
    if (wasMoving && file === files[0]) wanted = photo;
    photo.button = make("button", { type: "button", className: "app-photo", onclick: () => select(photo) });
    photos.push(photo);
    part("photo-list").append(make("li", {}, photo.button));
    describe(photo, "waiting");
    if (file.size > (model.limits?.uploadBytes ?? Infinity)) refuse(photo, tellSize(file));
    else waiting.push(photo);
  }
  if (photos.length) delete part("columns").dataset.empty;
  work();
}

function tellSize(file) {
  const mb = (bytes) => (bytes / 2 ** 20).toFixed(0);
  return `'${file.name}' has ${mb(file.size)} MB; the limit is ${mb(model.limits.uploadBytes)} MB. Make the photo smaller.`;
}

/** Keeps a few questions under way until no photo waits. */
function work() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    start(waiting.shift()).finally(() => {
      running -= 1;
      work();
    });
  }
  const done = photos.filter((photo) => photo.entry || photo.fault).length;
  const words = done < photos.length ? `${done} of ${photos.length} photos done` : `${photos.length} photos${KEYS}`;
  part("progress").textContent = photos.length > 1 ? words : "";
}

async function start(photo) {
  describe(photo, "looking");
  try {
    photo.entry = (await backend.explain(photo)).entry;
    describe(photo, tellAnswer(photo.entry));
  } catch (error) {
    refuse(photo, error.message);
  }
  wanted ??= photos.find((one) => !one.fault);
  if (wanted !== current && wanted?.entry) select(wanted);
}

/** The class; of labels that may go together, all that are given, or the strongest where none is. */
function tellAnswer({ classes, probabilities }) {
  const told = classes.map((classIndex, i) => `${tellShare(probabilities[i])} ${tellName(model.classNames[classIndex])}`);
  const isGiven = makeGiven(model.thresholds);
  const given = told.filter((_, i) => model.isMultiLabel && isGiven(probabilities[i], classes[i]));
  return given.length ? given.join(", ") : told[0];
}

function describe(photo, words) {
  const picture = photo.entry ? make("img", { src: photo.entry.image, alt: "" }) : make("span", { className: "app-blank" });
  photo.button.replaceChildren(picture, make("span", { className: "app-words" },
    make("span", { className: "app-name", title: photo.name }, photo.name), make("span", { className: "app-answer", title: words }, words)));
  photo.button.classList.toggle("app-bad", Boolean(photo.fault));
}

function refuse(photo, reason) {
  photo.fault = reason;
  if (photo === wanted) wanted = current;
  describe(photo, "can't be read");
  tellFault(reason);
}

function tellFault(reason) {
  const close = make("button", { type: "button", className: "app-button", ariaLabel: "Close this message" }, "×");
  const row = make("p", {}, make("span", {}, reason), close);
  close.addEventListener("click", () => row.remove());
  part("faults").append(row);
}

function select(photo) {
  if (photo.fault) tellFault(photo.fault);
  else wanted = photo;
  if (!photo.entry) return;
  backend.onShow?.(photo);
  current = photo;
  for (const one of photos) one.button.ariaCurrent = String(one === photo);
  photo.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  part("welcome").hidden = true;
  part("work").hidden = false;
  first.show(photo.entry);
}

/** Shows what is no photo of the list: a moving picture, which its owner draws in the viewer. */
function present(photo) {
  [current, wanted] = [photo, photo];
  for (const one of photos) one.button.ariaCurrent = "false";
  part("welcome").hidden = true;
  part("work").hidden = false;
}

/** Goes from there to the last photo, or to the beginning where there is none. */
function leave() {
  if (current && !current.isMoving) return;
  backend.onShow?.(null);
  [current, wanted] = [null, null];
  const last = photos.findLast((photo) => photo.entry);
  if (last) select(last);
  part("work").hidden = !last;
  part("welcome").hidden = Boolean(last);
}

function step(by) {
  const ready = photos.filter((photo) => photo.entry);
  if (ready.length) select(ready[(ready.indexOf(current) + by + ready.length) % ready.length]);
}

/* ---- Classes, methods, downloads ------------------------------------------------------------------------------- */

/** Shows the map of any class; one that the entry lacks is asked of the server, which knows near names too. */
async function search(name) {
  const photo = current;
  if (!photo || !name) return;
  let index = model.classNames.indexOf(name);
  if (!photo.entry.classes.includes(index)) {
    try {
      const result = await backend.explain(photo, { target: index < 0 ? name : tellClass(index) });
      photo.entry = result.entry;
      index = result.targets[0].index;
    } catch (error) {
      tellFault(error.message);
      return;
    }
    if (photo !== current) return;
    first.show(photo.entry);
  }
  first.choose(index);
  // It may be the last of a list that scrolls; the page itself stays where it is.
  const chip = part("first").querySelector('.viewer-chip[aria-pressed="true"]');
  const list = chip.parentElement;
  list.scrollTop += Math.max(0, chip.getBoundingClientRect().bottom - list.getBoundingClientRect().bottom);
}

/** A class as the server is asked for it, whatever its name is and whether it is another's too; "" for none. */
function tellClass(index) {
  return index === null ? "" : `index:${index}`;
}

/** The second viewer: the same class by another method, asked for when it is wanted. */
async function compare() {
  const method = part("method").value;
  part("second-side").hidden = !method;
  part("viewers").classList.toggle("app-pair", Boolean(method));
  const shown = tellName(model.classNames[first.selected]);
  part("first-method").textContent = method ? `${shown}, by ${model.methods[0].name}` : "";
  if (!method || !current) return;
  const chosen = model.methods.find((one) => one.name === method);
  part("second-method").textContent = `${shown}, by ${method}`;
  part("differs").textContent = `How it differs from ${model.methods[0].name}: ${chosen.differs} Cost: ${chosen.cost}.`;
  const question = { target: tellClass(first.selected), versus: tellClass(first.versus), method };
  const key = JSON.stringify(question);
  const photo = current;
  photo.others ??= new Map();
  if (!photo.others.has(key)) {
    part("second-note").textContent = "Computing …";
    try {
      photo.others.set(key, (await backend.explain(photo, question)).entry);
    } catch (error) {
      part("second-note").textContent = error.message;
      return;
    }
  }
  const isAsked = tellClass(first.selected) === question.target && tellClass(first.versus) === question.versus;
  if (isAsked && photo === current && part("method").value === method) showSecond(photo.others.get(key));
}

function showSecond(entry) {
  part("second-note").textContent = "";
  second ??= new Viewer(part("second"), model);
  if (second.entry !== entry) second.show(entry);
  Object.assign(second.settings, first.settings);
  second.choose(first.selected);
}

async function save(kind) {
  if (!current) return;
  const photo = current;
  const { colormap, opacity, signed, threshold } = first.settings;
  const question = { target: tellClass(first.selected), versus: tellClass(first.versus) };
  if (kind === "overlay") Object.assign(question, { opacity, signed, colormap: signed ? "" : colormap });
  if (kind === "boxes" && threshold) question.threshold = threshold;
  const ending = { overlay: "overlay.jpg", map: "map.npy", boxes: "boxes.json" }[kind];
  const name = `${photo.name.replace(/\.[^.]*$/, "")}.${model.classNames[first.selected]}.${ending}`;
  try {
    const address = URL.createObjectURL(await backend.save(kind, photo, question));
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  } catch (error) {
    tellFault(error.message);
  }
}

/* ---- Ways in --------------------------------------------------------------------------------------------------- */

async function addSample(name) {
  try {
    await addFiles([await backend.readSample(name)]);
  } catch (error) {
    tellFault(error.message);
  }
}

function listen(keys) {
  for (const id of ["choose", "choose-first", "take", "take-first"]) {
    part(id).addEventListener("change", ({ target }) => {
      addFiles([...target.files]);
      target.value = "";
    });
  }
  for (const button of document.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", () => addSample(button.dataset.sample));
  }
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => save(button.dataset.save));
  }
  document.addEventListener("paste", (event) => addFiles([...event.clipboardData.files]));
  const root = document.documentElement;
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("app-over");
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) root.classList.remove("app-over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("app-over");
    addFiles([...event.dataTransfer.files]);
  });
  keys.addEventListener("keydown", press);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) follow(); });
  new BroadcastChannel("whycam-kept").addEventListener("message", follow);
  part("search").addEventListener("change", () => search(part("search").value));
  part("method").addEventListener("change", compare);
}

function press(event) {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "ArrowRight" || event.key === "ArrowDown") step(1);
  else if (event.key === "ArrowLeft" || event.key === "ArrowUp") step(-1);
  else if (!first?.press(event.key)) return;
  event.preventDefault();
}

/** Where another version stands for the model by now, all photos are asked about anew. */
async function follow() {
  if (!model) return;
  const now = await backend.readModel().catch(() => model);
  if (JSON.stringify(now) === JSON.stringify(model)) return;
  model = now;
  for (const id of ["first", "second", "class-names", "method"]) part(id).replaceChildren();
  second = null;
  show();
  for (const photo of photos) {
    Object.assign(photo, { entry: null, others: null, fault: "" });
    describe(photo, "waiting");
    waiting.push(photo);
  }
  wanted = current;
  current = null;
  work();
}

function show() {
  first = new Viewer(part("first"), model);
  first.addEventListener("change", compare);
  describeModel();
}

function describeModel() {
  const { classNames, isMultiLabel, methods, bias, identityError } = model;
  const exact = bias ? `maps exact to ${identityError.toExponential(0)} of the score` : `maps by ${methods[0].name}`;
  part("about").textContent = `${classNames.length.toLocaleString("en")} ${isMultiLabel ? "labels" : "classes"}, ${exact}`;
  part("class-names").append(...classNames.map((name) => make("option", { value: name })));
  part("search-field").hidden = classNames.length <= MAX_CHIPS;
  const others = methods.slice(1).map(({ name }) => make("option", { value: name }, name));
  part("method").append(make("option", { value: "" }, "–"), ...others);
  part("method").closest("label").hidden = !others.length;
}

async function open() {
  try {
    model = await backend.readModel();
  } catch (error) {
    tellFault(`The page can't be set up: ${error.message}`);
    return;
  }
  show();
}

/**
 * Sets the page up; what comes back is for what else the page has. Photos may come before the model: they wait for it.
 * @param keys the part of the page in which keys are pressed for the app.
 */
export function openApp(asked, { keys = document } = {}) {
  backend = asked;
  listen(keys);
  opened = open();
  return { addFiles, present, leave, tellFault, viewer: () => first };
}
