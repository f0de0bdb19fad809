/* Keys: Tab goes from query to query, the arrows from photo to photo; "?" tells the others. */

import { leaveForList, openMap, pan, stepSelected, zoom } from "./atlas.js";
import { HAS_TRUTH, byId, clamp, element, report } from "./data.js";
import { choose, view } from "./filters.js";
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
    const parts = keys.map((key) => (key === "…" ? key : element("kbd", {}, key)));
    byId("keys").append(element("dt", {}, ...parts), element("dd", {}, what));
  }
  byId("show-help").addEventListener("click", () => byId("help").showModal());
}

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

function chooseByKey({ key }) {
  document.querySelector(`.choice:not([hidden]) [data-key="${key}"]`)?.click();
}

const ACTIONS = {
  list: {
    ArrowDown: () => stepFocus(1, 0),
    ArrowUp: () => stepFocus(-1, 0),
    ArrowLeft: () => stepFocus(0, -1),
    ArrowRight: () => stepFocus(0, 1),
    j: () => stepFocus(1, 0),
    k: () => stepFocus(-1, 0),
    Home: () => focusPhoto(list.listed[0], 0),
    End: () => focusPhoto(list.listed[list.listed.length - 1], 0),
    ...Object.fromEntries(Array.from("123456789", (key) => [key, chooseByKey])),
    "/": () => byId("search").focus(),
    m: () => openMap(focusedPhoto()?.query),
    h: toggleHeat,
    "?": () => byId("help").showModal(),
    Escape: () => view.search && choose({ search: "" }),
  },
  larger: {
    ArrowLeft: () => stepMatch(-1),
    ArrowRight: () => stepMatch(1),
    ArrowDown: () => stepQuery(1),
    ArrowUp: () => stepQuery(-1),
    j: () => stepQuery(1),
    k: () => stepQuery(-1),
    h: toggleHeat,
    m: () => byId("larger-map").click(),
  },
  atlas: {
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
    Enter: ({ target }) => (target === atlas.large.canvas ? leaveForList() : target.click()),
  },
  help: {},
};

// Without a photo in focus, these keys scroll the page as they always do.
const SCROLLS = /^(Arrow|Home|End)/;

export function bindKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const dialog = document.querySelector("dialog[open]");
    if (!dialog && event.target.matches("input, select")) {
      if (event.key !== "Escape" || event.target.id !== "search") return;
      event.target.blur();
    }
    const action = ACTIONS[dialog?.id ?? "list"][event.key];
    if (!action || (!dialog && SCROLLS.test(event.key) && !focusedPhoto())) return;
    event.preventDefault();
    action(event);
  });
}

export function bindDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
  }
}
