/* The report's own behaviour: thumbnails, mistakes, filters, and the dialog with the viewer. */

import { PhotoDialog, drawLater, makePicture } from "whycam/pictures";
import { Viewer, bindTheme, findPeak, make, makeGiven, resizeMap, tell, tellName, tellShare } from "whycam/viewer";

const MISTAKES_AT_ONCE = 6;
const find = (selector) => document.querySelector(selector);

const data = JSON.parse(find("#data").textContent);
const { classNames, entries, findings, isMultiLabel, thresholds } = data;
const byId = new Map(entries.map((entry) => [entry.id, entry]));
const listed = entries.filter((entry) => !entry.isEvidence);
const viewer = new Viewer(find("#viewer"), data);

const nameOf = (classIndex) => tellName(classNames[classIndex]);
/** The photo's classes: all of them where they are known, else its folder's; null where none is known. */
const truthsOf = (entry) => entry.truths ?? (entry.truth === null ? null : [entry.truth]);
const isKnown = (entry) => truthsOf(entry) !== null;
const isGiven = makeGiven(thresholds);
const predicted = (entry) => entry.classes[0];
const probability = (entry, classIndex) => entry.probabilities[entry.classes.indexOf(classIndex)] ?? 0;
const givenTo = (entry) => entry.classes.filter((k) => isGiven(probability(entry, k), k));
const missedOf = (entry) => truthsOf(entry).filter((k) => !isGiven(probability(entry, k), k));
/** Labels that are given and not there; of a photo in a folder it is not known which else are there. */
const falseOf = (entry) => (entry.truths ? givenTo(entry).filter((k) => !entry.truths.includes(k)) : []);
/** Whether another class was named; of labels that may go together, whether one was missed or is not there. */
const isWrong = (entry) => isKnown(entry)
  && (isMultiLabel ? missedOf(entry).length + falseOf(entry).length > 0 : predicted(entry) !== entry.truth);
/** How far a photo is from being right: the named class's probability less the true one's; of labels the worst one's. */
const margin = (entry) => {
  if (!isKnown(entry)) return 0;
  if (entry.truths) return Math.max(0, ...missedOf(entry).map((k) => 1 - probability(entry, k)), ...falseOf(entry).map((k) => probability(entry, k)));
  return (isMultiLabel ? 1 : probability(entry, predicted(entry))) - probability(entry, entry.truth);
};
const badness = (entry) => (isKnown(entry) ? margin(entry) : 1 - entry.probabilities[0]) + (isWrong(entry) ? 1 : 0);
const surest = (a, b) => b.probabilities[0] - a.probabilities[0];

const picture = (entry, how) => makePicture(entry, { colors: viewer.colors, ...how });

function describe(entry) {
  const called = `${tellShare(entry.probabilities[0])} ${nameOf(predicted(entry))}`; // a long name is cut at its end
  if (!isKnown(entry)) return [called, ""];
  if (entry.truths) {
    const given = givenTo(entry).map((k) => `${tellShare(probability(entry, k))} ${nameOf(k)}`).join(", ") || "nothing given";
    const missed = missedOf(entry).map(nameOf).join(", ");
    const wrong = falseOf(entry).map(nameOf).join(", ");
    return [`${isWrong(entry) ? "✗" : "✓"} ${given}`, [missed && `lacks ${missed}`, wrong && `not there: ${wrong}`].filter(Boolean).join("; ")];
  }
  if (isMultiLabel) {
    const own = `${tellShare(probability(entry, entry.truth))} ${nameOf(entry.truth)}, its own`;
    if (predicted(entry) === entry.truth) return [isWrong(entry) ? `✗ ${own}` : `✓ ${called}`, ""];
    return [`${isWrong(entry) ? "✗" : "✓"} ${called}`, own];
  }
  return isWrong(entry) ? [`✗ ${called}`, `is ${nameOf(entry.truth)}`] : [`✓ ${called}`, ""];
}

/** A photo as a button that opens the viewer. */
function makeCard(entry, { classIndex, boxes, note, list }) {
  const [called, truth] = describe(entry);
  const text = make("span", { className: `card-text ${isWrong(entry) ? "wrong" : ""}` },
    ...[called, truth].filter(Boolean).map((words) => make("span", { className: "name", title: words }, words)), note ? make("span", { className: "muted" }, note) : null);
  const card = make("button", { type: "button", className: "card", title: entry.name },
    make("span", { className: "tile" }, picture(entry, { classIndex, boxes })), text);
  card.dataset.photo = entry.id;
  card.addEventListener("click", () => dialog.open(entry, list(), classIndex));
  return card;
}

/* The viewer's dialog. */

const dialog = new PhotoDialog((entry, classIndex = null) => {
  viewer.show(entry);
  if (classIndex !== null) viewer.choose(classIndex);
  find("#verdict").textContent = tellVerdict(entry);
}, (key) => viewer.press(key));

/** The labels that are given, and what the photo's own one has; no label excludes another. */
function tellLabels(entry) {
  const over = givenTo(entry);
  const list = (indices) => indices.map((k) => `${nameOf(k)} (${tellShare(probability(entry, k))})`).join(", ");
  const [word, none] = thresholds ? ["Given", "No label reaches its threshold"] : ["Over 50 %", "No label has over 50 %"];
  const given = over.length ? `${word}: ${list(over)}.` : `${none}; the strongest: ${list(entry.classes.slice(0, 1))}.`;
  if (entry.truths) {
    const [missed, wrong] = [missedOf(entry), falseOf(entry)];
    return [given, missed.length && `Missed: ${list(missed)}.`, wrong.length && `Not there: ${list(wrong)}.`, !missed.length && !wrong.length && "All of that is right."].filter(Boolean).join(" ");
  }
  return isWrong(entry) ? `${given} Its own label is missed: ${list([entry.truth])}.` : given;
}

function tellVerdict(entry) {
  if (isMultiLabel) return tellLabels(entry);
  const named = `Named ${nameOf(predicted(entry))} (${tellShare(entry.probabilities[0])})`;
  if (!isKnown(entry)) return `${named}.`;
  return isWrong(entry)
    ? `${named}, which is wrong: it is ${nameOf(entry.truth)} (${tellShare(probability(entry, entry.truth))}).`
    : `${named}, which is right.`;
}

/* What to worry about. */

for (const finding of findings) {
  const photos = finding.photos.filter((photo) => byId.has(photo.entry));
  const members = photos.map((photo) => byId.get(photo.entry));
  const box = document.getElementById(finding.id).querySelector(".evidence");
  box.prepend(...photos.map((photo) => {
    const entry = byId.get(photo.entry);
    const classIndex = finding.class !== null && entry.classes.includes(finding.class) ? finding.class : predicted(entry);
    return makeCard(entry, { classIndex, boxes: photo.boxes, note: photo.note, list: () => members });
  }));
}

/* The worst mistakes: three maps and one sentence each. */

const mistakes = listed.filter(isWrong).sort((a, b) => margin(b) - margin(a));

/** Of a photo all of whose labels are known: the evidence for those that are wrong, then for its own. */
function makeLabelMistake(entry) {
  const [missed, wrong] = [missedOf(entry), falseOf(entry)];
  const own = entry.truths.filter((k) => !missed.includes(k));
  const shown = [...missed.map((k) => [k, `missed: ${nameOf(k)}`]), ...wrong.map((k) => [k, `not there: ${nameOf(k)}`]), ...own.map((k) => [k, `its ${nameOf(k)}`])];
  const pictures = make("button", { type: "button", className: "trio", ariaLabel: `Open ${entry.name}` },
    ...shown.slice(0, 3).map(([classIndex, caption]) => make("figure", {}, picture(entry, { classIndex }), make("figcaption", { className: "name", title: caption }, caption))));
  pictures.addEventListener("click", () => dialog.open(entry, mistakes, shown[0][0]));
  return make("article", { className: "mistake" }, pictures, make("p", {}, tellLabels(entry), make("span", { className: "path" }, entry.name)));
}

function makeMistake(entry) {
  if (entry.truths) return makeLabelMistake(entry);
  const [wrong, right] = [predicted(entry), entry.truth];
  const score = (classIndex) => entry.logits[entry.classes.indexOf(classIndex)];
  const gap = score(wrong) - score(right);
  const captioned = (caption, options) => make("figure", {}, picture(entry, options), make("figcaption", { className: "name", title: caption }, caption));
  const pictures = make("button", { type: "button", className: "trio", ariaLabel: `Open ${entry.name}` },
    captioned(`for ${nameOf(wrong)}`, { classIndex: wrong }),
    captioned(`for ${nameOf(right)}`, { classIndex: right }),
    captioned("the difference", { classIndex: wrong, versus: right }));
  pictures.addEventListener("click", () => {
    dialog.open(entry, mistakes);
    viewer.setVersus(right);
  });
  if (isMultiLabel) {
    return make("article", { className: "mistake" }, pictures, make("p", {}, tellLabels(entry), make("span", { className: "path" }, entry.name)));
  }
  return make("article", { className: "mistake" }, pictures, make("p", {},
    make("b", {}, `Named ${nameOf(wrong)} (${tellShare(entry.probabilities[0])})`), ", is ",
    make("b", {}, `${nameOf(right)} (${tellShare(probability(entry, right))})`), `. The scores differ by ${tell(gap)}.`,
    make("span", { className: "path" }, entry.name)));
}

function addMistakes() {
  const list = find("#mistake-list");
  const done = list.children.length;
  list.append(...mistakes.slice(done, done + MISTAKES_AT_ONCE).map(makeMistake));
  find("#more-mistakes").hidden = list.children.length >= mistakes.length;
}

if (mistakes.length && find("#mistake-list")) {
  addMistakes();
  find("#more-mistakes").addEventListener("click", addMistakes);
}

/* Class by class. */

for (const cell of document.querySelectorAll(".class-map")) {
  const map = data.classMaps[cell.dataset.class];
  if (map) {
    const canvas = make("canvas", { width: 72, height: 72, role: "img" });
    const peak = findPeak(map.values, false);
    canvas.ariaLabel = `Mean map; its hottest cell has ${tell(peak)} times the average`;
    cell.append(canvas, make("span", { className: "muted" }, `peak ${tell(peak)}×`));
    drawLater(canvas, () => paintWhole(canvas, map));
  }
}

/** The map alone, on black, as pictures of maps are drawn on disk. */
function paintWhole(canvas, map) {
  const size = [canvas.height, canvas.width];
  const values = resizeMap(map.values, map.shape, size);
  const peak = findPeak(values, false) || 1;
  const picture = new ImageData(canvas.width, canvas.height);
  values.forEach((value, i) => {
    const level = Math.floor((Math.max(0, value) / peak) * 255 + 0.5);
    picture.data.set([...viewer.colors.inferno.subarray(3 * level, 3 * level + 3), 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

for (const cell of document.querySelectorAll(".class-example")) {
  const classIndex = Number(cell.dataset.class);
  const own = listed.filter((entry) => (truthsOf(entry) ?? [predicted(entry)]).includes(classIndex));
  const sureOfIt = (a, b) => probability(b, classIndex) - probability(a, classIndex);
  const example = own.filter((entry) => !isWrong(entry)).sort(sureOfIt)[0] ?? own[0];
  if (example) cell.append(makeCard(example, { classIndex, list: () => own }));
}

/* Search and filters. */

const filters = find("#filters");
const gallery = find("#gallery");
const cards = new Map();

function fillClasses(select, indices) {
  const names = [...indices].sort((a, b) => classNames[a].localeCompare(classNames[b]));
  select.replaceChildren(make("option", { value: "" }, "any"), ...names.map((k) => make("option", { value: String(k) }, classNames[k])));
}

fillClasses(filters.truth, new Set(listed.filter(isKnown).flatMap(truthsOf)));
fillClasses(filters.predicted, new Set(listed.map(predicted)));

const orders = {
  worst: (a, b) => badness(b) - badness(a),
  sure: surest,
  name: (a, b) => a.name.localeCompare(b.name),
};

function shown() {
  const { text, truth, predicted: named, outcome, finding, order } = Object.fromEntries(new FormData(filters));
  const words = text.toLowerCase();
  const evidence = finding ? findings.find((one) => one.id === finding).photos.map((photo) => photo.entry) : null;
  const isShown = (entry) =>
    (!words || [entry.name, classNames[predicted(entry)], ...(truthsOf(entry) ?? []).map((k) => classNames[k])].some((one) => one.toLowerCase().includes(words)))
    && (!truth || truthsOf(entry)?.includes(Number(truth)))
    && (!named || predicted(entry) === Number(named))
    && (!outcome || (isKnown(entry) && isWrong(entry) === (outcome === "wrong")))
    && (!evidence || evidence.includes(entry.id));
  return (evidence ? entries : listed).filter(isShown).sort(orders[order]);
}

function filter() {
  const found = shown();
  gallery.classList.toggle("plain", !filters.heat.checked);
  gallery.replaceChildren(...found.map((entry) => {
    if (!cards.has(entry)) cards.set(entry, makeCard(entry, { classIndex: predicted(entry), list: shown }));
    return cards.get(entry);
  }));
  const sample = data.counted > listed.length ? ` (of ${data.counted} photos: mistakes first, then a sample; the figures above count all)` : "";
  find("#count").textContent = `${found.length} of ${listed.length} photos${sample}.`;
}

/** Shows in the list what a cell, a class or a finding stands for. */
function choose(wanted) {
  filters.reset();
  Object.entries(wanted).forEach(([name, value]) => { filters[name].value = value; });
  filter();
  find("#photos").scrollIntoView();
  find("#count").focus({ preventScroll: true });
}

filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(filter));
for (const button of document.querySelectorAll("main button:is([data-truth], [data-predicted])")) {
  const { truth = "", predicted: named = "" } = button.dataset;
  button.addEventListener("click", () => choose({ truth, predicted: named }));
}
for (const button of document.querySelectorAll("[data-filter-finding]")) {
  button.hidden = !findings.find((one) => one.id === button.dataset.filterFinding).photos.some((photo) => byId.has(photo.entry));
  button.addEventListener("click", () => choose({ finding: button.dataset.filterFinding }));
}

bindTheme(find("#theme"));
filter();
dialog.follow((key) => byId.get(key), (entry) => (entry.isEvidence ? [entry] : shown()));
