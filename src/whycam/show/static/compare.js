/* The comparison's own behaviour: the photos that flip, their filters, and the dialog with either model's maps. */

import { PhotoDialog, makePicture, readMap } from "whycam/pictures";
import { Viewer, bindTheme, findPeak, make, tell, tellName, tellShare } from "whycam/viewer";

const AT_ONCE = 12;
const find = (selector) => document.querySelector(selector);

const data = JSON.parse(find("#data").textContent);
const { classNames, flips, isExact, isLabelled } = data;
for (const flip of flips) for (const entry of Object.values(flip.entries)) entry.image = flip.image;
const byId = new Map(flips.map((flip) => [flip.id, flip]));
const viewer = new Viewer(find("#viewer"), data);
const SIDES = isExact ? { change: "B less A", a: "A's maps", b: "B's maps" } : { a: "A's maps", b: "B's maps" };
const KINDS = { "right-to-wrong": "Right to wrong", "wrong-to-right": "Wrong to right", "wrong-to-wrong": "Wrong to another wrong", unlabelled: "Named differently" };

const nameOf = (classIndex) => tellName(classNames[classIndex]);

/* The dialog. */

let side = Object.keys(SIDES)[0];
let opened = null;

const buttons = Object.entries(SIDES).map(([name, words]) => {
  const button = make("button", { type: "button" }, words);
  button.dataset.side = name;
  button.addEventListener("click", () => showSide(name));
  return button;
});
find("#sides").append(...buttons);

/** Shows the maps of one model, or of the change: what speaks for B's answer against A's. */
function showSide(name) {
  side = name;
  viewer.bias = data.bias[name];
  viewer.show(opened.entries[name]);
  if (isExact) {
    viewer.choose(opened.b);
    viewer.setVersus(opened.a);
  } else {
    viewer.choose(opened[name]);
  }
  for (const button of buttons) button.ariaPressed = String(button.dataset.side === name);
}

function pressKey(key) {
  if (key !== "c") return viewer.press(key);
  const names = Object.keys(SIDES);
  showSide(names[(names.indexOf(side) + 1) % names.length]);
  return true;
}

const dialog = new PhotoDialog((flip) => {
  opened = flip;
  showSide(side);
  find("#verdict").replaceChildren(...tellAnswers(flip), ` ${tellLead(flip)}`);
}, pressKey);

/* The photos that flip. */

function tellAnswers(flip) {
  const answer = (classIndex, share) => make("b", {}, `${nameOf(classIndex)} (${tellShare(share)})`);
  const truth = flip.truth !== null && ![flip.a, flip.b].includes(flip.truth) ? [", is ", make("b", {}, nameOf(flip.truth))] : [];
  const right = (classIndex) => (flip.truth === classIndex ? ", which is right" : "");
  return ["A: ", answer(flip.a, flip.pA), `${right(flip.a)}; B: `, answer(flip.b, flip.pB), right(flip.b), ...truth, "."];
}

function tellLead(flip) {
  const between = flip.between === null ? "" : ` ${tellShare(flip.between)} of the pairs of seeds differ on it, too.`;
  return `The lead of ${nameOf(flip.b)} over ${nameOf(flip.a)} grew by ${tell(flip.leadB - flip.leadA)}, from ${tell(flip.leadA)} to ${tell(flip.leadB)}.${between}`;
}

/** The pictures of a flip: each model's lead and the change in one scale; else each one's map of its own answer. */
function makePictures(flip) {
  const { colors } = viewer;
  if (!isExact) {
    return ["a", "b"].map((name) => [`${name.toUpperCase()}: for ${nameOf(flip[name])}`, { colors, classIndex: flip[name] }, flip.entries[name]]);
  }
  const [classIndex, versus] = [flip.b, flip.a];
  const peaks = [];
  const findScale = () => {
    if (!peaks.length) peaks.push(...Object.values(flip.entries).map((entry) => findPeak(readMap(entry, classIndex, versus), true)));
    return Math.max(...peaks);
  };
  const words = { a: "A", b: "B", change: "B less A" };
  return Object.entries(words).map(([name, caption]) => [caption, { colors, classIndex, versus, findScale }, flip.entries[name]]);
}

function makeFlip(flip) {
  const pictures = make("button", { type: "button", className: isExact ? "trio" : "trio pair", ariaLabel: `Open ${flip.id}` },
    ...makePictures(flip).map(([caption, how, entry]) => make("figure", {}, makePicture(entry, how), make("figcaption", { className: "name", title: caption }, caption))));
  pictures.addEventListener("click", () => dialog.open(flip, shown()));
  const article = make("article", { className: `mistake flip-${flip.kind}` }, pictures,
    make("p", {}, ...(isLabelled ? [make("span", { className: "tag" }, KINDS[flip.kind]), ". "] : []), ...tellAnswers(flip), ` ${tellLead(flip)}`,
      make("span", { className: "path" }, flip.id)));
  article.dataset.photo = flip.id;
  return article;
}

/* Search and filters. */

const filters = find("#filters");
const orders = {
  stake: (one, other) => other.pA + other.pB - one.pA - one.pB,
  change: (one, other) => other.leadB - other.leadA - one.leadB + one.leadA,
  name: (one, other) => one.id.localeCompare(other.id),
};
let drawn = AT_ONCE;
const articles = new Map();

function shown() {
  const { text, kind, a, b, truth, order, beyond } = Object.fromEntries(new FormData(filters));
  const words = text.toLowerCase();
  return flips.filter((flip) =>
    (!words || [flip.id, classNames[flip.a], classNames[flip.b], classNames[flip.truth] ?? ""].some((one) => one.toLowerCase().includes(words)))
    && (!kind || flip.kind === kind)
    && (!a || flip.a === Number(a))
    && (!b || flip.b === Number(b))
    && (!truth || flip.truth === Number(truth))
    && (!beyond || flip.between === 0)).sort(orders[order]);
}

function draw() {
  const found = shown();
  find("#flip-list").replaceChildren(...found.slice(0, drawn).map((flip) => {
    if (!articles.has(flip)) articles.set(flip, makeFlip(flip));
    return articles.get(flip);
  }));
  find("#count").textContent = `${found.length} of ${flips.length} photos.`;
  find("#more").hidden = found.length <= drawn;
}

function fillClasses(select, indices) {
  const names = [...new Set(indices)].sort((one, other) => classNames[one].localeCompare(classNames[other]));
  select.replaceChildren(make("option", { value: "" }, "any"), ...names.map((k) => make("option", { value: String(k) }, classNames[k])));
}

if (filters) {
  fillClasses(filters.a, flips.map((flip) => flip.a));
  fillClasses(filters.b, flips.map((flip) => flip.b));
  fillClasses(filters.truth, flips.map((flip) => flip.truth).filter((truth) => truth !== null));
  const restart = () => {
    drawn = AT_ONCE;
    draw();
  };
  filters.addEventListener("input", restart);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(restart));
  find("#more").addEventListener("click", () => {
    drawn += AT_ONCE;
    draw();
  });
  draw();
}

bindTheme(find("#theme"));
dialog.follow((key) => byId.get(key), shown);
