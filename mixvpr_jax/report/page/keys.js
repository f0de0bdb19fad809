/* Keys: Tab goes from query to query, the arrows from photo to photo; "?" tells the others. */

import { leaveForList, openMap, pan, stepSelected, zoom } from "./atlas.js";
import { HAS_TRUTH, byId, clamp, element, report } from "./data.js";
import { DUELS, OUTCOMES, choose, view } from "./filters.js";
import { stepMatch, stepQuery } from "./larger.js";
import { barBottom, firstOfPage, focusPhoto, focusedPhoto, list, rowsOfPage } from "./list.js";
import { atlas } from "./map.js";
import { HAS_HEAT, toggleHeat } from "./rows.js";

const KEYS = [
  [["↓", "j"], "next query"],
  [["↑", "k"], "previous query"],
  [["←", "→"], "another photo of the query"],
  [["Enter"], "the photo larger, beside its query"],
  [["Home", "End"], "first and last query"],
  [["1", "…", "5"], "all, right, right in k, lost, no positives", () => HAS_TRUTH],
  [["6", "…", "9"], "we win, other wins, both right, neither", () => !byId("duels").hidden],
  [["/"], "search names"],
  [["m"], "map of what is listed, at the query that has the focus", () => report.map],
  [["+", "−", "0"], "on the map: larger, smaller, everything; j, k and Enter go to queries", () => report.map],
  [["h"], "where the model looks", () => HAS_HEAT],
  [["Esc"], "close, or clear the search"],
];

export function setUpHelp() {
  for (const [keys, what, known] of KEYS) {
    if (known && !known()) continue;
    const term = element("dt");
    term.append(...keys.map((key) => (key === "…" ? key : element("kbd", key))));
    byId("keys").append(term, element("dd", what));
  }
  byId("show-help").addEventListener("click", () => byId("help").showModal());
}

/* In the list */

function firstInSight() {
  const passed = barBottom() - list.box.getBoundingClientRect().top;
  return firstOfPage() + clamp(Math.ceil(passed / list.height - 0.1), 0, rowsOfPage() - 1);
}

function stepFocus(down, across) {
  if (!list.listed.length) return;
  const focused = focusedPhoto();
  if (!focused) {
    const current = list.current >= 0 ? list.position[list.current] : -1;
    return focusPhoto(list.listed[current >= 0 ? current : firstInSight()], 0);
  }
  const position = clamp(list.position[focused.query] + down, 0, list.listed.length - 1);
  focusPhoto(list.listed[position], Math.max(focused.column + across, 0));
}

const LIST_KEYS = {
  ArrowDown: () => stepFocus(1, 0),
  ArrowUp: () => stepFocus(-1, 0),
  ArrowLeft: () => stepFocus(0, -1),
  ArrowRight: () => stepFocus(0, 1),
  j: () => stepFocus(1, 0),
  k: () => stepFocus(-1, 0),
  Home: () => list.listed.length && focusPhoto(list.listed[0], 0),
  End: () => list.listed.length && focusPhoto(list.listed[list.listed.length - 1], 0),
  "/": () => byId("search").focus(),
  m: () => openMap(focusedPhoto()?.query),
  h: toggleHeat,
  "?": () => byId("help").showModal(),
  Escape: () => view.search && choose({ search: "" }),
};

// Without a photo in focus, arrows, Home and End scroll the page as they always do.
const NEEDS_FOCUS = ["ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight", "Home", "End"];

function chooseByNumber(key) {
  const at = Number(key) - 1;
  const group = at < 5 ? "outcomes" : "duels";
  const value = (at < 5 ? OUTCOMES[at] : DUELS[at - 5])[0];
  const button = byId(group).querySelector(`[data-value="${value}"]`);
  if (button && !byId(group).hidden) button.click();
}

function listKey(event) {
  if (/^[1-9]$/.test(event.key)) return chooseByNumber(event.key);
  const action = LIST_KEYS[event.key];
  if (!action || (NEEDS_FOCUS.includes(event.key) && !focusedPhoto())) return;
  event.preventDefault();
  action();
}

/* In dialogs */

const LARGER_KEYS = {
  ArrowLeft: () => stepMatch(-1),
  ArrowRight: () => stepMatch(1),
  ArrowDown: () => stepQuery(1),
  ArrowUp: () => stepQuery(-1),
  j: () => stepQuery(1),
  k: () => stepQuery(-1),
  h: toggleHeat,
  m: () => byId("larger-map").click(),
};

const MAP_KEYS = {
  ArrowLeft: () => pan(60, 0),
  ArrowRight: () => pan(-60, 0),
  ArrowUp: () => pan(0, 60),
  ArrowDown: () => pan(0, -60),
  "+": () => zoom(1.6),
  "=": () => zoom(1.6),
  "-": () => zoom(1 / 1.6),
  0: () => openMap(),
  j: () => stepSelected(1),
  k: () => stepSelected(-1),
  m: () => atlas.dialog.close(),
  Enter: (event) => event.target === atlas.large.canvas ? leaveForList() : event.target.click(),
};

function dialogKey(event, dialog) {
  const keys = { larger: LARGER_KEYS, atlas: MAP_KEYS }[dialog.id] ?? {};
  const action = keys[event.key];
  if (action) {
    event.preventDefault();
    action(event);
  }
}

export function bindKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const dialog = document.querySelector("dialog[open]");
    if (dialog) return dialogKey(event, dialog);
    if (event.target.matches("input, select")) {
      if (event.key !== "Escape" || event.target.id !== "search") return;
      event.target.blur();
    }
    listKey(event);
  });
}

export function bindDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
  }
}
