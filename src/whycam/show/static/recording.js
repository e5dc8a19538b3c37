/* The recording's own behaviour: one slider over the epochs, for the photos, the curves and the dialog alike. */

import { PhotoDialog, makePicture, readMap } from "whycam/pictures";
import { Viewer, bindTheme, make, paintHeat, resizeMap, tell, tellName, tellShare } from "whycam/viewer";

const STEP_MS = 700;
const find = (selector) => document.querySelector(selector);

const data = JSON.parse(find("#data").textContent);
const { classNames, epochs, photos } = data;
const byId = new Map(photos.map((photo) => [photo.id, photo]));
const viewer = new Viewer(find("#viewer"), data);
const nameOf = (classIndex) => tellName(classNames[classIndex]);
let at = epochs.length - 1;

const isRight = (photo) => photo.at[at].predicted === photo.truth;

/** A photo as the viewer takes it, at the chosen epoch. */
const entryOf = (photo) => ({ notes: [], told: [isRight(photo) ? "predicted, true class" : "true class"], ...photo, ...photo.at[at] });

/* The dialog. */

let opened = null;

function showOpened() {
  const entry = entryOf(opened);
  viewer.bias = entry.bias === null ? null : { [entry.truth]: entry.bias };
  viewer.show(entry);
  const told = [`Epoch ${epochs[at].epoch}: named ${nameOf(entry.predicted)}, ${isRight(opened) ? "which is right" : `is ${nameOf(entry.truth)}`}.`];
  if (entry.onMask !== null) told.push(`${tellShare(entry.onMask)} of the heat lies on its mask.`);
  if (entry.moved !== null) told.push(`Moved by ${tell(entry.moved)}.`);
  find("#verdict").textContent = told.join(" ");
}

const dialog = new PhotoDialog((photo) => {
  opened = photo;
  showOpened();
}, (key) => viewer.press(key));

/* The photos. */

const cards = photos.map((photo) => {
  const stage = makePicture(entryOf(photo), { colors: viewer.colors, classIndex: photo.truth, alt: photo.name });
  const text = make("span", { className: "card-text" });
  const card = make("button", { type: "button", className: "card", ariaLabel: `Open ${photo.name}` }, make("span", { className: "tile" }, stage), text);
  card.addEventListener("click", () => dialog.open(photo, cards.filter((one) => !one.card.hidden).map((one) => one.photo)));
  return { photo, card, text, canvas: stage.querySelector("canvas"), image: stage.querySelector("img"), drawn: at };
});
find("#gallery").append(...cards.map(({ card }) => card));

/** Draws a card's heat of the chosen epoch, where its picture is there and shows another. */
function repaint(one) {
  if (one.drawn === at || !one.image.src) return;
  one.drawn = at;
  const { maps } = one.photo.at[at];
  const values = readMap(entryOf(one.photo), one.photo.truth);
  paintHeat(one.canvas, resizeMap(values, maps.shape.slice(1), [one.canvas.height, one.canvas.width]), viewer.colors.inferno, { opacity: 0.6, isSigned: false });
}

function describeCard({ photo, text }) {
  const { predicted, onMask } = photo.at[at];
  const mask = onMask === null ? [] : [make("span", { className: "path" }, `${tellShare(onMask)} on the mask`)];
  text.className = isRight(photo) ? "card-text" : "card-text wrong";
  text.replaceChildren(make("span", { className: "name", dir: "auto" }, isRight(photo) ? classNames[photo.truth] : `${nameOf(photo.truth)}, named ${nameOf(predicted)}`), ...mask);
}

/* The epoch. */

const filters = find("#filters");
const sliders = [...document.querySelectorAll(".slider")];

function tellEpoch() {
  const { epoch, accuracy, on_masks: onMasks, moved, without_heat: blank } = epochs[at];
  const told = [`${epoch === 0 ? "Before training" : `After epoch ${epoch}`}: ${tellShare(accuracy)} right`];
  if (onMasks !== null) told.push(`${tellShare(onMasks)} of the heat on the masks`);
  if (moved !== null) told.push(`evidence moved by ${tell(moved)}`);
  return `${told.join("; ")}.${blank ? ` Nothing speaks for their class in ${blank} photos.` : ""}`;
}

function draw() {
  const { truth, outcome, heat } = Object.fromEntries(new FormData(filters));
  for (const slider of sliders) {
    slider.value = String(at);
    slider.ariaValueText = `epoch ${epochs[at].epoch}`;
  }
  for (const output of document.querySelectorAll(".epoch-number")) output.textContent = String(epochs[at].epoch);
  find("#told").textContent = tellEpoch();
  find("#gallery").classList.toggle("cold", !heat);
  let shown = 0;
  for (const one of cards) {
    one.card.hidden = (truth !== "" && one.photo.truth !== Number(truth)) || (outcome !== "" && isRight(one.photo) !== (outcome === "right"));
    shown += !one.card.hidden;
    describeCard(one);
    repaint(one);
  }
  find("#count").textContent = `${shown} of ${photos.length} photos.`;
  const [first, last] = data.span;
  const x = last > first ? ((epochs[at].epoch - first) / (last - first)) * data.width : 0;
  for (const line of document.querySelectorAll(".now")) {
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  }
}

function go(place) {
  at = place;
  draw();
  if (find("#viewer-dialog").open) showOpened();
}

for (const slider of sliders) slider.addEventListener("input", () => go(Number(slider.value)));
filters.addEventListener("input", draw);
filters.addEventListener("submit", (event) => event.preventDefault());

let playing = null;

function stop() {
  clearInterval(playing);
  playing = null;
  find("#play").textContent = "Play";
}

find("#play").disabled = epochs.length < 2;
find("#play").addEventListener("click", () => {
  if (playing !== null) {
    stop();
    return;
  }
  find("#play").textContent = "Stop";
  go(at === epochs.length - 1 ? 0 : at);
  playing = setInterval(() => (at < epochs.length - 1 ? go(at + 1) : stop()), STEP_MS);
});

// A picture that is drawn late shows the epoch that was chosen when the page opened.
for (const one of cards) one.image.addEventListener("load", () => repaint(one));

bindTheme(find("#theme"));
draw();
dialog.follow((key) => byId.get(key), () => photos);
