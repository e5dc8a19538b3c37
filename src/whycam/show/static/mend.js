/* The page Mend: a work list, its photos with their evidence, what people say of them; all by buttons and by keys. */

import { KEYS, endsItem, listPhotoActions } from "./mend_actions.js";
import { ask, makeId, Outbox, tellFault } from "./mend_ask.js";
import { chooseClass } from "./mend_choose.js";
import { Drawing, Marks } from "./mend_draw.js";
import { VersionsPage } from "./mend_versions.js";
import { Viewer, bindTheme, drawBoxes, make } from "./viewer.js";

const POLL_MS = 3000;
const POLL_TRAINING_MS = 700;

const part = (id) => document.getElementById(id);
const outbox = new Outbox(document.body.dataset.run);
let list = null;
let item = null;
let photo = null;
let view = null;
let loading = null;
let revision = "";
let work = { state: "none" };
let viewer, marks, drawing, versions, boxes;
let drawn = null;
const buttons = new Map();
// By click: the item that it was made on, and its place in the list.
const cameFrom = new Map();
let clicks = 0;

/* ---- What is there --------------------------------------------------------------------------------------------- */

const tell = (words) => { part("told").textContent = words; };

/** Takes over what the server knows; asked for while nothing waits to be sent. */
async function refresh() {
  const before = clicks;
  const answer = await ask("");
  // It may be older than what was said or undone since; the next one is asked for once that is sent.
  if (clicks !== before) return;
  list = answer;
  revision = list.revision;
  part("about").textContent = `version ${list.kept}, ${list.classNames.length} classes`;
  renderList();
}

/** The item that a click was made on, back in the list where it had left it; undefined for who else's click it was. */
function putBack(click) {
  const from = cameFrom.get(click);
  if (from && !list.items.some(({ id }) => id === from.item.id)) list.items.splice(from.index, 0, from.item);
  return list.items.find(({ id }) => id === from?.item.id);
}

function renderList() {
  const { items, leftOff } = list;
  const hadFocus = part("work").contains(document.activeElement);
  part("count").textContent = `${items.length + leftOff} to look at${leftOff ? `, ${leftOff} of them later` : ""}`;
  part("items").replaceChildren(...items.map((one) => {
    one.button = make("button", { type: "button", className: "app-photo", onclick: () => select(one, { isAsked: true }) },
      makeThumb(one.photos[0]), make("span", { className: "app-words" },
        make("span", { className: "app-name", title: one.title }, one.title),
        make("span", { className: "app-answer" }, one.photos.length > 1 ? `${one.sort}, ${one.photos.length} photos` : one.sort)));
    return make("li", {}, one.button);
  }));
  renderSaid();
  const again = items.find((one) => one.id === item?.id);
  if (!drawing.isOpen) select(again ?? items[Math.min(items.length - 1, Math.max(0, item?.index ?? 0))] ?? null, { isSame: Boolean(again) });
  if (hadFocus && document.activeElement === document.body) part("title").focus({ preventScroll: true });
}

function makeThumb(shown) {
  return shown ? make("img", { src: `/api/mend/photos/${shown.photo}/thumb`, alt: "", loading: "lazy" }) : make("span", { className: "app-blank" });
}

function renderSaid() {
  part("undo").disabled = !findLast();
  part("said-count").textContent = list.said;
  part("said").replaceChildren(...list.history.map((said) => make("li", {}, make("span", {}, said.told), make("button",
    { type: "button", className: "app-button", ariaLabel: `Undo: ${said.told}`, onclick: () => takeBack([said]) }, "Undo"))));
  part("notes").replaceChildren(...list.notes.map((note) => make("li", {}, note)));
}

/* ---- An item and its photos ------------------------------------------------------------------------------------ */

function select(one, { isAsked = false, isSame = false } = {}) {
  const before = photo?.photo;
  item = one;
  part("item").hidden = !one;
  part("nothing").hidden = Boolean(one);
  if (!one) return;
  one.index = list.items.indexOf(one);
  for (const other of list.items) other.button.ariaCurrent = String(other === one);
  one.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  part("title").textContent = one.title;
  part("detail").textContent = one.detail;
  part("place").textContent = `${one.index + 1} of ${list.items.length}`;
  const isFinding = one.sort === "finding";
  part("strip").replaceChildren(...(one.photos.length > 1 ? one.photos : []).map((shown, k) => make("li", {}, make("button",
    { type: "button", ariaLabel: `Photo ${k + 1}: ${shown.path}`, onclick: () => showPhoto(shown) }, makeThumb(shown)))));
  buttons.clear();
  part("photo-actions").replaceChildren();
  part("finding-actions").replaceChildren(...(isFinding ? one.actions : []).map((action) => makeAction(action, action.name === "not-object" ? "a" : action.name === "leave-out" ? "" : KEYS[action.name])));
  showPhoto((isSame && one.photos.find((shown) => shown.photo === before)) || one.photos[0] || null);
  if (isAsked) part("title").focus({ preventScroll: true });
}

function makeAction(action, key) {
  const button = make("button", { type: "button", className: "app-button", onclick: () => act(action) }, action.title);
  if (key && !buttons.has(key)) {
    buttons.set(key, button);
    button.append(" ", make("kbd", {}, key));
  }
  return button;
}

function showPhoto(shown) {
  loading = loadPhoto(shown);
}

async function loadPhoto(shown) {
  stopDrawing();
  photo = shown;
  part("viewer").hidden = !shown;
  const isFinding = item.sort === "finding";
  if (part("photo-actions").childElementCount) buttons.forEach((button, key) => { if (part("photo-actions").contains(button)) buttons.delete(key); });
  part("photo-actions").replaceChildren(...listPhotoActions(item, photo).map((action) => makeAction(action, KEYS[action.name])));
  if (!isFinding) part("photo-actions").firstElementChild?.classList.add("app-main-button");
  else part("finding-actions").firstElementChild?.classList.add("app-main-button");
  if (!shown) return;
  view = null;
  part("viewer").classList.add("mend-loading");
  [...part("strip").children].forEach((row, k) => { row.firstElementChild.ariaCurrent = String(item.photos[k] === shown); });
  try {
    const found = await ask(`/photos/${shown.photo}?version=${list.kept}`);
    if (photo !== shown) return;
    view = found;
    part("viewer").classList.remove("mend-loading");
  } catch (error) {
    tellFault(error.message);
    return;
  }
  Object.assign(viewer, { classNames: view.classNames, bias: view.bias });
  viewer.show(view.entry);
  // What it is taken for; of a finding's photo its own class, which the finding is about.
  const wanted = view.classNames.indexOf(shown.said || view.label);
  if (wanted >= 0) viewer.choose(wanted);
  drawBoxes(boxes, shown.boxes);
  marks.show(view.drawn, view.entry);
}

function step(by) {
  const next = list?.items[(item?.index ?? -1) + by];
  if (next) select(next);
}

function stepPhoto(by) {
  const next = item?.photos[item.photos.indexOf(photo) + by];
  if (next) showPhoto(next);
}

/* ---- What is said ---------------------------------------------------------------------------------------------- */

function act(action) {
  if (action.needs?.includes("label")) chooseClass(list.classNames, (label, isNew) => say(action, isNew ? { label, is_new: true } : { label }));
  else if (action.needs?.includes("region")) startDrawing(action);
  else say(action);
}

/** Sends an action's edits; the list goes on at once, and is what the server says as soon as it has them. */
function say(action, given = {}, photos = null) {
  clicks += 1;
  const id = makeId();
  const words = photos ? photos.map(({ photo: content, path }) => ({ ...action.edits[0], photo: content, path })) : action.edits;
  const edits = words.map((one, k) => ({ ...one, ...given, id: `${id}.${k}` }));
  cameFrom.set(id, { item, index: item.index });
  for (const edit of edits) list.history.unshift({ id: edit.id, told: `${edit.path ?? item.title}: ${action.title}` });
  list.said += edits.length;
  tell(`Said: ${action.title}${given.label ? ` ${given.label}` : ""}`);
  if (endsItem(item, action)) {
    list.items = list.items.filter((one) => one !== item);
    renderList();
  } else {
    renderSaid();
  }
  outbox.put(edits);
}

const findClick = (edit) => edit.split(".")[0];

/** The edits of the last click that still count. */
function findLast() {
  const last = list?.history[0];
  return last ? list.history.filter(({ id }) => findClick(id) === findClick(last.id)) : null;
}

function undo() {
  const last = findLast();
  if (last) takeBack(last);
}

function takeBack(said) {
  clicks += 1;
  const id = makeId();
  list.history = list.history.filter((one) => !said.includes(one));
  list.said -= said.length;
  item = putBack(findClick(said[0].id)) ?? item;
  tell(`Undone: ${said[0].told}`);
  renderList();
  outbox.put(said.map((one, k) => ({ kind: "undo", of: one.id, id: `${id}.${k}` })));
}

/* ---- Drawing --------------------------------------------------------------------------------------------------- */

async function startDrawing(action) {
  const asked = photo;
  await loading;
  if (!view || photo !== asked) return;
  drawn = action;
  const many = item.sort === "finding" ? item.photos.length : 1;
  part("drawing-what").textContent = action.name === "object" ? "Draw what is the object." : "Draw what is not the object.";
  part("all-field").hidden = many < 2;
  part("all-words").textContent = `on all ${many} photos of the finding`;
  part("on-all").checked = false;
  part("drawing").hidden = false;
  part("photo-actions").hidden = true;
  drawing.start(action.name, view.entry);
  drawing.canvas.scrollIntoView({ block: "nearest" });
}

function stopDrawing() {
  drawing.stop();
  part("drawing").hidden = true;
  part("photo-actions").hidden = false;
}

function finishDrawing() {
  const region = drawing.read({ takesCursor: document.activeElement === drawing.canvas && drawing.canvas.matches(":focus-visible") });
  if (!region) {
    tellFault("Nothing is drawn. Draw a box or a stroke over the photo first, or stop.");
    return;
  }
  const photos = part("on-all").checked ? item.photos : null;
  stopDrawing();
  say(drawn, { region }, photos);
  part("title").focus({ preventScroll: true });
}

function pressDrawing(event) {
  if (event.key === "Escape") stopDrawing();
  else if (event.key === "Enter" && !event.target.closest("button")) finishDrawing();
  else if (event.key === "Backspace") drawing.takeBack();
  else if (event.target !== drawing.canvas || !drawing.press(event)) return;
  event.preventDefault();
}

/* ---- Training -------------------------------------------------------------------------------------------------- */

function showWork(now) {
  const was = work.state;
  work = now;
  const isRunning = now.state === "running";
  part("training").hidden = !isRunning;
  part("retrain").disabled = isRunning;
  if (isRunning) {
    if (now.total) Object.assign(part("progress"), { max: now.total, value: now.done });
    else part("progress").removeAttribute("value");
    const done = now.done ? `: ${now.done} questions to the model` : "";
    part("step").textContent = now.step + (now.total ? `: ${now.done} of ${now.total}` : done);
  }
  if (was !== "running" || isRunning) return;
  const without = make("button", { type: "button", className: "app-button", onclick: () => retrain({ allowEmpty: true }) }, "Train without it");
  if (now.state === "failed") tellFault(now.reason, now.isClassEmpty ? without : null);
  tell({ done: `Version ${now.version} is made.`, cancelled: "The training is called off; nothing of it is left." }[now.state] ?? "");
  if (now.state === "done") showVersions(now.version);
}

async function retrain({ allowEmpty = false } = {}) {
  if (work.state === "running") return;
  part("faults").replaceChildren();
  try {
    await outbox.send();
    showWork((await ask("/retrain", { audit: part("audit").checked, allow_empty: allowEmpty })).work);
    poll();
  } catch (error) {
    tellFault(error.message);
  }
}

async function showVersions(number = "") {
  turnTo("versions");
  await versions.show(number).catch((error) => tellFault(error.message));
}

function turnTo(name) {
  part("work").hidden = name !== "work";
  part("versions").hidden = name !== "versions";
  part("show-work").ariaPressed = String(name === "work");
  part("show-versions").ariaPressed = String(name === "versions");
}

/* ---- The page -------------------------------------------------------------------------------------------------- */

let timer = 0;

/** Asks whether anything has changed: this page's own edits, another tab's, another process's. */
async function poll() {
  clearTimeout(timer);
  try {
    const state = await ask("/state");
    showWork(state.work);
    if (state.revision !== revision && !outbox.waiting.length) {
      await refresh();
      if (!part("versions").hidden) await versions.show();
    }
    if (part("told").dataset.isFault) tell("");
    delete part("told").dataset.isFault;
  } catch (error) {
    tell(error.message);
    part("told").dataset.isFault = "true";
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(poll, work.state === "running" ? POLL_TRAINING_MS : POLL_MS);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (drawing.isOpen) {
    pressDrawing(event);
    return;
  }
  if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
  const { key } = event;
  if (key === "u") undo();
  else if (key === "t") retrain();
  else if (part("work").hidden) return;
  else if (key === "n") step(1);
  else if (key === "p") step(-1);
  else if (key === "ArrowRight") stepPhoto(1);
  else if (key === "ArrowLeft") stepPhoto(-1);
  else if (buttons.has(key)) buttons.get(key).click();
  else if (!photo || !viewer.press(key)) return;
  event.preventDefault();
}

function listen() {
  document.addEventListener("keydown", press);
  const clicks = {
    undo,
    retrain: () => retrain(),
    cancel: () => ask("/cancel", {}).then((state) => showWork(state.work), (error) => tellFault(error.message)),
    "show-work": () => turnTo("work"),
    "show-versions": () => showVersions(),
    "previous-item": () => step(-1),
    "next-item": () => step(1),
    "drawing-done": finishDrawing,
    "drawing-stop": stopDrawing,
    "drawing-back": () => drawing.takeBack(),
    "chooser-close": () => part("chooser").close(),
  };
  for (const [id, does] of Object.entries(clicks)) part(id).addEventListener("click", () => does());
  for (const tool of document.querySelectorAll("[name=tool]")) tool.addEventListener("change", () => { drawing.tool = tool.value; });
  part("brush-size").addEventListener("input", () => { drawing.size = part("brush-size").value / 100; });
  addEventListener("focus", poll);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  outbox.addEventListener("sent", () => { if (!outbox.waiting.length) poll(); });
  outbox.addEventListener("fault", ({ detail }) => {
    tellFault(detail.isRefusal ? detail.message : `${detail.message} What you said is kept in this browser and sent again.`);
    if (!detail.isRefusal) return;
    // What was refused is still in the list here.
    revision = "";
    poll();
  });
}

async function open() {
  bindTheme(part("theme"));
  try {
    const [model, state] = await Promise.all([fetch("/api/model").then((answer) => answer.json()), ask("/state")]);
    part("waiting").hidden = Boolean(state.reason);
    part("reason").textContent = state.reason;
    part("unable").hidden = !state.reason;
    if (state.reason) return;
    viewer = new Viewer(part("viewer"), model);
    const stage = part("viewer").querySelector(".viewer-stage");
    marks = new Marks(stage);
    boxes = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    boxes.setAttribute("class", "viewer-boxes");
    stage.append(boxes);
    drawing = new Drawing(stage);
    versions = new VersionsPage(part("versions"), model);
    listen();
    part("bar").hidden = false;
    await outbox.send();
    await refresh();
    part("waiting").hidden = true;
    part("work").hidden = false;
    showWork(state.work);
    poll();
  } catch (error) {
    part("waiting").hidden = true;
    tellFault(`The page can't be set up: ${error.message}`);
  }
}

open();
