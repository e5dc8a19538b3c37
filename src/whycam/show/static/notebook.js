/* A notebook's page: the photos of an explanation, or of several side by side, and the viewer of the chosen one. */

import { makePicture } from "whycam/pictures";
import { Viewer, make, tellName, tellShare } from "whycam/viewer";

const find = (selector) => document.querySelector(selector);
const data = JSON.parse(find("#data").textContent);
const viewer = new Viewer(find("#viewer"), { ...data, ...data.models[0] });
const entries = data.rows.flat();
/** Each column is of a model of its own. */
const modelOf = (index) => data.models[index % data.models.length];
const buttons = [];

function choose(index) {
  viewer.setModel(modelOf(index));
  viewer.bias = entries[index].bias;
  viewer.show(entries[index]);
  buttons.forEach((button, i) => { button.ariaPressed = String(i === index); });
  fit();
}

/** Gives the frame the page's height, where the notebook lets it. */
function fit() {
  try {
    if (window.frameElement) window.frameElement.style.height = `${document.body.scrollHeight + 4}px`;
  } catch { /* A frame of another origin keeps the height it has. */ }
}

function buildGrid() {
  const grid = find("#grid");
  if (entries.length < 2) return;
  const isTable = data.columns.length > 0;
  grid.className = isTable ? "grid" : "grid flow";
  if (isTable) grid.style.gridTemplateColumns = `repeat(${data.columns.length}, minmax(6rem, 1fr))`;
  grid.append(...data.columns.map((title) => make("span", { className: "title" }, title)));
  entries.forEach((entry, index) => {
    const [first] = entry.classes;
    const told = `${tellName(modelOf(index).classNames[first])} ${tellShare(entry.probabilities[0])}`;
    const title = isTable ? `${data.columns[index % data.columns.length]}: ` : "";
    const stage = makePicture(entry, { colors: viewer.colors, classIndex: first });
    const button = make("button", { type: "button", className: "shown-photo", ariaLabel: `${title}${entry.name}, ${told}` }, stage, make("span", { className: "name", dir: "auto" }, told));
    button.addEventListener("click", () => choose(index));
    buttons.push(button);
    grid.append(button);
  });
}

buildGrid();
choose(0);
addEventListener("resize", fit);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=range], select")) return;
  if (viewer.press(event.key)) event.preventDefault();
});
