/* What may be said of an item of the work list and of its photo, and by which key. */

// By the action's name; those of a finding stand before those of its photo.
export const KEYS = { cure: "c", label: "c", right: "r", relabel: "w", "leave-out": "x", "not-object": "d", object: "o", dismiss: "f" };
const ENDS_FINDING = new Set(["cure", "dismiss"]);
const ENDS_PHOTO = new Set(["right", "label", "relabel", "leave-out"]);

/** Whether nothing is left to do about the item after that. */
export const endsItem = (item, action) => (item.sort === "finding" ? ENDS_FINDING : ENDS_PHOTO).has(action.name);

/** What may be said of the shown photo: the item's own actions, or of a finding's photo the same. */
export function listPhotoActions(item, photo) {
  if (!photo) return [];
  if (item.sort !== "finding") return item.actions;
  const about = { photo: photo.photo, path: photo.path };
  return [
    { name: "right", title: `'${photo.label}' is right.`, edits: [{ ...about, kind: "right", label: photo.label }] },
    { name: "leave-out", title: "Leave it out.", edits: [{ ...about, kind: "leave-out" }] },
    { name: "relabel", title: "It is another class.", edits: [{ ...about, kind: "label" }], needs: ["label"] },
    { name: "not-object", title: "A part is not the object.", edits: [{ ...about, kind: "not-object" }], needs: ["region"] },
    { name: "object", title: "A part is the object.", edits: [{ ...about, kind: "object" }], needs: ["region"] },
  ];
}
