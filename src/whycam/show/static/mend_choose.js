/* The dialog that asks for a class: by its number, by letters of its name, or a new one. */

import { make } from "./viewer.js";

const MOST_CHOICES = 40;
const part = (id) => document.getElementById(id);

/** Asks, and calls `use(label, isNew)` once a class is chosen. */
export function chooseClass(classNames, use) {
  const field = part("chooser-name");
  const choose = (label, isNew) => {
    part("chooser").close();
    use(label, isNew);
  };
  const show = () => {
    const text = field.value.trim();
    const isNumber = /^\d+$/.test(text);
    const rows = classNames.map((name, k) => [k + 1, name]);
    const found = isNumber && rows[text - 1] ? [rows[text - 1]] : rows.filter(([, name]) => name.toLowerCase().includes(text.toLowerCase()));
    const isNew = text && !isNumber && !classNames.includes(text);
    part("chooser-classes").replaceChildren(
      ...found.slice(0, MOST_CHOICES).map(([number, name]) => make("button", { type: "button", className: "app-button", onclick: () => choose(name, false) },
        make("kbd", {}, String(number)), make("span", { className: "name", dir: "auto" }, name))),
      ...(isNew ? [make("button", { type: "button", className: "app-button", onclick: () => choose(text, true) }, `New class ‘${text}’`)] : []));
  };
  field.value = "";
  field.oninput = show;
  field.onkeydown = (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    part("chooser-classes").firstElementChild?.click();
  };
  show();
  part("chooser").showModal();
  field.focus();
}
