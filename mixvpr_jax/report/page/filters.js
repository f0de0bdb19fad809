/* Which queries are listed, in which order. */

import {
  HAS_TRUTH, QUERIES, byId, duels, element, grouped, outcomes, pictureName, pictureOfDatabase,
  picturePath, pictures, plural, queries, report,
} from "./data.js";
import { list, showListed } from "./list.js";
import { drawMapsSoon } from "./map.js";
import { saveListed } from "./save.js";
import { rememberView } from "./state.js";

export const EVERYTHING = { outcome: "all", duel: "any", label: null, search: "" };
export const UNSORTED = { sort: "order", reversed: false };
export const view = { ...EVERYTHING, ...UNSORTED, page: 0 };

export const OUTCOMES = [
  ["all", "All"],
  ["right", "Right at 1"],
  ["later", `Right in ${report.k}`],
  ["lost", "Lost"],
  ["none", "No positives"],
];
export const DUELS = [
  ["ours", "We win"],
  ["theirs", "Other wins"],
  ["both", "Both right"],
  ["neither", "Neither"],
];

/* Orders: a name, what is compared, and whether the largest comes first. */

export const SORTS = {
  order: ["Query order", (query) => query, false],
  distance: ["Distance of the first match", (query) => queries.distance[query * report.m], false],
  rank: ["Rank of the best positive", bestRank, true],
  metres: ["Metres off", (query) => queries.metres?.[query * report.m], true],
};

function bestRank(query) {
  if (outcomes[query] === "none") return null;
  return report.best ? report.best.rank[query] : queries.first[query] || null;
}

function sorted(listed) {
  const [, key, largestFirst] = SORTS[view.sort];
  const sign = largestFirst === view.reversed ? 1 : -1;
  const keys = new Float64Array(QUERIES);
  for (const query of listed) keys[query] = sign * (key(query) ?? NaN);
  // What is not known comes last, either way.
  const known = listed.filter((query) => !Number.isNaN(keys[query]));
  const rest = listed.filter((query) => Number.isNaN(keys[query]));
  known.sort((one, other) => keys[one] - keys[other] || one - other);
  return Int32Array.from(known.concat(rest));
}

/* Search, in the names and paths of the query and of the neighbours that are shown */

let searchable = null;

function picturesNamed(text) {
  searchable ??= pictures.file.map((_, picture) =>
    `${picturePath(picture)}\n${pictureName(picture)}`.toLowerCase());
  const sought = text.toLowerCase();
  return Uint8Array.from(searchable, (names) => names.includes(sought));
}

function hasName(named, query) {
  if (named[queries.picture[query]]) return true;
  for (let at = query * report.m; at < (query + 1) * report.m; at++) {
    if (named[pictureOfDatabase[queries.near[at]]]) return true;
  }
  return false;
}

/* Each group counts what the others leave. */

function selection() {
  const sought = view.search.trim();
  const named = sought ? picturesNamed(sought) : null;
  const counts = { all: 0, any: 0 };
  const listed = [];
  for (let query = 0; query < QUERIES; query++) {
    if (view.label && view.label[0].of[query] !== view.label[1]) continue;
    if (named && !hasName(named, query)) continue;
    const outcomeFits = view.outcome === "all" || view.outcome === outcomes[query];
    const duelFits = view.duel === "any" || view.duel === duels[query];
    if (duelFits) {
      counts.all++;
      counts[outcomes[query]] = (counts[outcomes[query]] ?? 0) + 1;
    }
    if (outcomeFits) counts[duels[query]] = (counts[duels[query]] ?? 0) + 1;
    if (outcomeFits && duelFits) listed.push(query);
  }
  return { listed, counts };
}

export function choose(changes) {
  setView({ page: 0, ...changes });
  rememberView();
}

export function setView(changes) {
  Object.assign(view, changes);
  if (byId("search").value !== view.search) byId("search").value = view.search;
  const { listed, counts } = selection();
  showListed(sorted(listed));
  view.page = list.page;
  renderBar(counts);
  drawMapsSoon();
}

/* The bar */

export function countText() {
  const [shown, total] = [list.listed.length, QUERIES];
  return shown === total
    ? plural(total, "query", "queries")
    : `${grouped(shown)} of ${plural(total, "query", "queries")}`;
}

function renderChoice(group, chosen, counts) {
  for (const button of byId(group).children) {
    const { value } = button.dataset;
    button.setAttribute("aria-pressed", value === chosen);
    button.querySelector("span").textContent = grouped(counts[value] ?? 0);
  }
}

function renderBar(counts) {
  byId("count").textContent = countText();
  byId("announcement").textContent = `${plural(list.listed.length, "query", "queries")} listed`;
  renderChoice("outcomes", view.outcome, counts);
  renderChoice("duels", view.duel, counts);
  byId("label").hidden = !view.label;
  if (view.label) {
    const [{ name, values }, value] = view.label;
    byId("label").textContent = `${name}: ${values[value]} ×`;
    byId("label").setAttribute("aria-label", `List other than ${name}: ${values[value]} again`);
  }
  const largestFirst = SORTS[view.sort][2] !== view.reversed;
  byId("reverse").textContent = largestFirst ? "↓" : "↑";
  byId("reverse").setAttribute("aria-pressed", view.reversed);
  byId("sort").value = view.sort;
  byId("none-left").hidden = list.listed.length > 0;
  byId("none-left").textContent = QUERIES
    ? "None of the queries is of that kind."
    : "The evaluation has no queries.";
}

function choiceButton([value, text], key, title, pick) {
  const button = element("button", `${text} `);
  button.type = "button";
  button.dataset.value = value;
  button.title = `${title} (${key})`;
  button.append(element("span"));
  button.addEventListener("click", () => pick(value));
  return button;
}

const chooseOutcome = (outcome) => choose({ outcome });
const chooseDuel = (duel) => choose({ duel: view.duel === duel ? "any" : duel });

export function setUpChoices() {
  const present = new Set(outcomes);
  const titles = {
    all: "Every query",
    right: "The nearest photo is a true positive",
    later: `The nearest photo is wrong, a true positive is among the ${report.k} nearest`,
    lost: `No true positive is among the ${report.k} nearest`,
    none: "The database has no true positive",
  };
  OUTCOMES.forEach(([value, text], at) => {
    if (value === "later" && report.k < 2) return;
    if (value === "none" && !present.has("none")) return;
    byId("outcomes").append(choiceButton([value, text], at + 1, titles[value], chooseOutcome));
  });
  byId("outcomes").hidden = !HAS_TRUTH;
  const compared = new Set(duels).size > 1 || duels[0];
  byId("duels").hidden = !compared;
  const other = report.other?.title;
  const wins = {
    ours: `Right at 1 here, wrong with ${other}`,
    theirs: `Right at 1 with ${other}, wrong here`,
    both: "Both are right at 1",
    neither: "Neither is right at 1",
  };
  if (!compared) return;
  DUELS.forEach((duel, at) => {
    byId("duels").append(choiceButton(duel, at + 6, wins[duel[0]], chooseDuel));
  });
}

export function setUpSorts() {
  const useful = Object.entries(SORTS).filter(([name]) =>
    (name !== "rank" || HAS_TRUTH) && (name !== "metres" || queries.metres) && (name === "order" || report.m));
  byId("sort").append(...useful.map(([name, [text]]) => {
    const option = element("option", text);
    option.value = name;
    return option;
  }));
}

function columnHead(text, className) {
  return element("span", text, className);
}

export function setUpColumns() {
  const metres = queries.metres ? ", metres" : "";
  const head = [
    columnHead(`Nearest database photos: rank, descriptor distance${metres}`, "of-near"),
  ];
  if (report.best && HAS_TRUTH) head.push(columnHead("Nearest true positive", "of-missed"));
  byId("columns").append(...head);
  document.body.classList.toggle("with-missed", Boolean(report.best && HAS_TRUTH));
  document.body.classList.toggle("with-other", Boolean(report.other));
}

export function bindFilters() {
  byId("search").addEventListener("input", (event) => choose({ search: event.target.value }));
  byId("sort").addEventListener("change", (event) => choose({ sort: event.target.value, reversed: false }));
  byId("reverse").addEventListener("click", () => choose({ reversed: !view.reversed }));
  byId("label").addEventListener("click", () => choose({ label: null }));
  byId("save").addEventListener("click", saveListed);
  byId("save").hidden = !QUERIES;
}

export function renderNote() {
  const { problems } = pictures;
  if (!problems.length) return;
  byId("note").textContent =
    `${plural(problems.length, "photo", "photos")} could not be read and left a blank: ${problems[0]}`;
  byId("note").hidden = false;
}
