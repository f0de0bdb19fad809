/* What keys and buttons do, and the page from the top. */

import { HAS, byId } from "./data.js";
import { renderConfidence, renderHeadline, renderRecall, renderTables } from "./figures.js";
import { focusPhoto, focusedPhoto, list, setUpList, stepFocus, turnPage } from "./list.js";
import { atlas, leaveForList, openMap, pan, setUpMap, stepSelected, zoom } from "./map.js";
import { leaveForMap, setUpPhotos, stepMatch, stepQuery, toggleHeat } from "./photos.js";
import { choose, goToHash, reverse, saveListed, setUpBar, setView, view } from "./view.js";

for (const root of [document, byId("query-template").content]) {
  for (const part of root.querySelectorAll("[data-needs]")) {
    part.hidden = part.disabled = !HAS[part.dataset.needs]; // Safari shows hidden options
  }
}

/* Tab goes from query to query, the arrows from photo to photo; "?" tells the other keys. */

// By the dialog that is open: names of keys, and ids of buttons that do the same.
const ACTIONS = {
  list: named({
    "ArrowDown j": () => stepFocus(1, 0),
    "ArrowUp k": () => stepFocus(-1, 0),
    "ArrowLeft": () => stepFocus(0, -1),
    "ArrowRight": () => stepFocus(0, 1),
    "Home": () => focusPhoto(list.listed.at(0), 0),
    "End": () => focusPhoto(list.listed.at(-1), 0),
    "/": () => byId("search").focus(),
    "m show-map preview": () => openMap(focusedPhoto()?.query),
    "h show-heat": toggleHeat,
    "? show-help": () => byId("help").showModal(),
    "Escape": () => view.search && choose({ search: "" }),
    "label": () => choose({ label: "" }),
    "reverse": reverse,
    "save": saveListed,
    "page-before": () => turnPage(-1),
    "page-after": () => turnPage(1),
  }),
  larger: named({
    "ArrowLeft previous": () => stepMatch(-1),
    "ArrowRight next": () => stepMatch(1),
    "ArrowDown j": () => stepQuery(1),
    "ArrowUp k": () => stepQuery(-1),
    "h larger-heat": toggleHeat,
    "m larger-map": leaveForMap,
  }),
  atlas: named({
    "ArrowLeft": () => pan(60, 0),
    "ArrowRight": () => pan(-60, 0),
    "ArrowUp": () => pan(0, 60),
    "ArrowDown": () => pan(0, -60),
    "+ = zoom-in": () => zoom(1.6),
    "- zoom-out": () => zoom(1 / 1.6),
    "0 fit": () => openMap(),
    "j": () => stepSelected(1),
    "k": () => stepSelected(-1),
    "m": () => atlas.dialog.close(),
    "Enter card": leaveForList,
  }),
  help: {},
};

function named(actions) {
  return Object.fromEntries(Object.entries(actions).flatMap(
    ([names, action]) => names.split(" ").map((name) => [name, action])));
}

function actionOf(name) {
  const mode = document.querySelector("dialog[open]")?.id ?? "list";
  return Object.hasOwn(ACTIONS[mode], name) ? ACTIONS[mode][name] : null;
}

// Without a photo in focus, these keys scroll the page as they always do.
const SCROLLS = /^(Arrow|Home|End)/;

function keyPressed(event) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (key === "Enter" && target.matches("button")) return; // which it presses
  const isOpen = document.querySelector("dialog[open]");
  if (!isOpen && target.matches("input, select")) {
    if (key !== "Escape" || target.id !== "search") return;
    target.blur();
  }
  const choices = isOpen ? [] : [...document.querySelectorAll(".choice:not([hidden]) button:not([hidden])")];
  const choice = choices.find((button) => button.dataset.key === key);
  const action = choice ? () => choice.click() : actionOf(key);
  if (!action || (!isOpen && SCROLLS.test(key) && !focusedPhoto())) return;
  event.preventDefault();
  action();
}

function clicked({ target }) {
  const action = actionOf(target.closest("button")?.id);
  if (action) action();
  else if (target.matches("dialog, [data-close]")) target.closest("dialog").close();
}

renderHeadline();
renderRecall();
renderConfidence();
setUpMap();
renderTables();
setUpList();
setUpBar();
setUpPhotos();
document.addEventListener("keydown", keyPressed);
document.addEventListener("click", clicked);

addEventListener("hashchange", goToHash);

setView({});
goToHash();
