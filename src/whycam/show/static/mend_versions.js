/* The versions of a run: each beside the one before it, with every photo whose answer changed; to keep, or throw away. */

import { PhotoDialog, drawLater, makePicture } from "whycam/pictures";
import { ask, tellFault } from "./mend_ask.js";
import { Viewer, make, tellPoints } from "./viewer.js";

const THUMB_PX = 200;
const MOST_CHANGED = 200;

const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const range = ({ value, low, high }) => `${percent(value)} (${percent(low)} to ${percent(high)})`;
const table = (heads, rows) => make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
  make("tbody", {}, ...rows.map(([head, ...cells]) => make("tr", {}, make("th", { scope: "row" }, head), ...cells.map((cell) => make("td", {}, cell))))));

export class VersionsPage {
  /** @param root an empty element. @param model what the viewer is told of colours. */
  constructor(root, model) {
    this.root = root;
    this.viewer = new Viewer(document.getElementById("change-viewer"), model);
    this.open = "";
    this.dialog = new PhotoDialog((changed) => this.#showChanged(changed), (key) => this.viewer.press(key));
  }

  /** Lists all versions anew; the one of that number is open. */
  async show(number = "") {
    const { versions } = await ask("/versions");
    this.open = number || this.open || versions.at(-1).number;
    this.root.replaceChildren(make("h2", {}, "Versions"), make("p", { className: "app-quiet" },
      "The one that is kept stands for the run. Each is compared with the one that was kept when it was made, on the same held-out photos with the labels of then. The page Explain shows the one that is kept."),
      make("ol", { className: "mend-list" }, ...versions.toReversed().map((version) => make("li", {}, this.#describe(version)))));
  }

  #describe(version) {
    const { number, isKept, comparison } = version;
    const title = number === "000" ? "000, as first trained" : number;
    const main = comparison && !isKept ? "Keep" : "Go back to";
    const summary = make("summary", {}, make("span", { className: "mend-number" }, title),
      isKept ? make("span", { className: "viewer-tag" }, "kept") : null, ` ${percent(version.accuracy)} of ${version.photos} held-out photos right`);
    const doing = make("div", { className: "mend-actions" },
      isKept ? null : this.#button(`${main} ${number}`, `/versions/${number}/keep`, "app-main-button"),
      isKept || number === "000" ? null : this.#button(`Throw ${number} away`, `/versions/${number}/throw-away`));
    const details = make("details", { open: this.open === number }, summary, doing, ...(comparison ? this.#compare(version) : []));
    details.addEventListener("toggle", () => { if (details.open) this.open = number; });
    return details;
  }

  #button(words, path, look = "") {
    const button = make("button", { type: "button", className: `app-button ${look}` }, words);
    button.addEventListener("click", async () => {
      try {
        await ask(path, {});
        // Pages that are open beside this one, too.
        const others = new BroadcastChannel("whycam-kept");
        others.postMessage(path);
        others.close();
      } catch (error) {
        tellFault(error.message);
      }
      await this.show();
      this.root.querySelector("summary")?.focus();
    });
    return button;
  }

  #compare({ number, comparison }) {
    const { before, accuracy, worst_class: worst, groups, causes, findings, changed, photos } = comparison;
    const { difference } = accuracy;
    const pair = (one, tellOne) => [tellOne(one.before), tellOne(one.after)];
    const ofClass = (one) => `${one.class}: ${range(one === worst.before ? one.before : one.after)}`;
    const rows = [["Accuracy", ...pair(accuracy, range)], ["Worst class", ...pair(worst, ofClass)]];
    if (groups) rows.push(["Worst group", ...pair(groups, tellGroup)]);
    for (const { cause, changed_before: old, changed_after: now } of causes) rows.push([`Answers that change with: ${cause}`, percent(old), percent(now)]);
    return [
      table([`On ${photos} held-out photos`, `Before (${before})`, `Now (${number})`], rows),
      make("p", {}, `Accuracy changed by ${tellPoints(difference.value)} (95 %: ${tellPoints(difference.low)} to ${tellPoints(difference.high)}): ${difference.gained} put right, ${difference.lost} lost; McNemar's p = ${difference.p.toPrecision(2)}.`),
      causes.length ? make("p", { className: "app-quiet" }, "The held-out photos may have what was trained against, too: a model that goes by it no longer loses what it gave away there.") : null,
      ...this.#listFindings(findings),
      make("h3", {}, `${changed.length} photos with another answer`),
      make("ul", { className: "mend-changed" }, ...changed.slice(0, MOST_CHANGED).map((one) => this.#makeChanged({ ...one, id: one.photo, version: number, from: before }, changed))),
    ];
  }

  #listFindings(findings) {
    if (!findings) return [make("p", { className: "app-quiet" }, "It was not audited: which findings are gone is not known.")];
    const parts = { gone: findings.gone, new: findings.new, left: findings.left.map(({ after }) => after) };
    return Object.entries(parts).map(([word, rows]) => make("div", {}, make("h3", {}, `Findings ${word}: ${rows.length}`),
      make("ul", {}, ...rows.map(({ title }) => make("li", {}, title)))));
  }

  /** A photo with the exact change of what speaks for the new answer and not for the old one; asked for when it is near. */
  #makeChanged(one, all) {
    const place = make("span", { className: "mend-change-picture" });
    const right = one.after === one.class ? "now right" : one.before === one.class ? "now wrong" : "wrong both times";
    const words = make("span", { className: "app-words" }, make("span", { className: "app-name", title: one.path }, one.path),
      make("span", {}, `${one.before} → ${one.after}`), make("span", { className: "app-quiet" }, right));
    const list = all.map((other) => ({ ...other, id: other.photo, version: one.version, from: one.from }));
    const button = make("button", { type: "button", className: "mend-change", onclick: () => this.dialog.open(list.find(({ id }) => id === one.id), list) }, place, words);
    drawLater(button, async () => {
      try {
        const { entry, classNames } = await this.#ask(one, THUMB_PX);
        const [classIndex, versus] = [classNames.indexOf(one.after), classNames.indexOf(one.before)];
        place.replaceChildren(makePicture(entry, { colors: this.viewer.colors, classIndex, versus: entry.classes.includes(versus) ? versus : null }));
      } catch (error) {
        place.textContent = error.message;
      }
    });
    return make("li", {}, button);
  }

  #ask({ photo, version, from }, side = 1280) {
    return ask(`/photos/${photo}?version=${version}&before=${from}&photo_px=${side}`);
  }

  async #showChanged(one) {
    this.shown = one;
    const root = document.getElementById("change-viewer");
    root.classList.add("mend-loading");
    document.getElementById("change-words").textContent = `${one.path}, ${one.class}: ${one.before} before, ${one.after} now. Red is where the lead of ${one.after} over ${one.before} grew, blue where it fell.`;
    try {
      const { entry, classNames, bias } = await this.#ask(one);
      if (this.shown !== one) return;
      root.classList.remove("mend-loading");
      Object.assign(this.viewer, { classNames, bias });
      this.viewer.show(entry);
      this.viewer.choose(classNames.indexOf(one.after));
      const versus = classNames.indexOf(one.before);
      if (entry.classes.includes(versus)) this.viewer.setVersus(versus);
    } catch (error) {
      tellFault(error.message);
    }
  }
}

/** A group's share: the worst of them. */
function tellGroup(groups) {
  const { worst } = groups;
  return worst ? `${worst.class} / ${worst.group}: ${range({ value: worst.accuracy, ...worst })}` : "–";
}
