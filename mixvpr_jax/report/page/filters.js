/* Which queries are listed, in which order. */

import {
  HAS_TRUTH, QUERIES, byId, duels, element, grouped, nearMatches, otherMatches, outcomes,
  pictureName, pictureOfDatabase, picturePath, pictures, plural, queries, report,
} from "./data.js";
import { list, showListed } from "./list.js";
import { drawMapsSoon } from "./map.js";
import { rememberView } from "./state.js";

export const EVERYTHING = { outcome: "all", duel: "any", label: null, search: "" };
export const view = { ...EVERYTHING, sort: "order", reversed: false, page: 0 };

/* Choices: a value, a text and a title. */

export const OUTCOMES = [
  ["all", "All", "Every query"],
  ["right", "Right at 1", "The nearest photo is a true positive"],
  ["later", `Right in ${report.k}`,
    `The nearest photo is wrong, a true positive is among the ${report.k} nearest`],
  ["lost", "Lost", `No true positive is among the ${report.k} nearest`],
  ["none", "No positives", "The database has no true positive"],
];
export const DUELS = [
  ["ours", "We win", `Right at 1 here, wrong with ${report.other?.title}`],
  ["theirs", "Other wins", `Right at 1 with ${report.other?.title}, wrong here`],
  ["both", "Both right", "Both are right at 1"],
  ["neither", "Neither", "Neither is right at 1"],
];

/* Orders: a name, what is compared, whether the largest comes first, and whether there is any. */

export const SORTS = {
  order: ["Query order", (query) => query, false, true],
  distance: ["Distance of the first match", (query) => queries.distance[query * report.m], false, report.m],
  rank: ["Rank of the best positive", bestRank, true, report.m && HAS_TRUTH],
  metres: ["Metres off", (query) => queries.metres?.[query * report.m], true, report.m && queries.metres],
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
  const counts = { all: 0 };
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
  renderBar(counts);
  drawMapsSoon();
}

/* The bar */

export function countText() {
  const shown = list.listed.length;
  const total = plural(QUERIES, "query", "queries");
  return shown === QUERIES ? total : `${grouped(shown)} of ${total}`;
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
}

// `firstKey` is that of the first choice, whether or not there is any such query.
function addChoices(group, choices, firstKey, isUseful, pick) {
  choices.forEach(([value, text, words], at) => {
    if (!isUseful(value)) return;
    const key = firstKey + at;
    const button = element("button", { title: `${words} (${key})` }, `${text} `, element("span"));
    Object.assign(button.dataset, { value, key });
    button.addEventListener("click", () => pick(value));
    byId(group).append(button);
  });
}

export function setUpBar() {
  byId("outcomes").hidden = !HAS_TRUTH;
  const isUseful = (value) =>
    value === "later" ? report.k > 1 : value !== "none" || outcomes.includes("none");
  addChoices("outcomes", OUTCOMES, 1, isUseful, (outcome) => choose({ outcome }));
  byId("duels").hidden = !duels[0];
  addChoices("duels", DUELS, 6, () => duels[0], (duel) => choose({ duel: view.duel === duel ? "any" : duel }));
  for (const [value, [text, , , known]] of Object.entries(SORTS)) {
    if (known) byId("sort").append(element("option", { value }, text));
  }
  const { classList } = document.body;
  classList.toggle("with-missed", Boolean(report.best && HAS_TRUTH));
  classList.toggle("with-other", Boolean(report.other));
  const metres = queries.metres ? ", metres" : "";
  byId("columns").append(element("span", { className: "of-near" },
    `Nearest database photos: rank, descriptor distance${metres}`));
  if (classList.contains("with-missed")) {
    byId("columns").append(element("span", { className: "of-missed" }, "Nearest true positive"));
  }
  byId("none-left").textContent = QUERIES
    ? "None of the queries is of that kind."
    : "The evaluation has no queries.";
  byId("search").addEventListener("input", (event) => choose({ search: event.target.value }));
  byId("sort").addEventListener("change", (event) => choose({ sort: event.target.value, reversed: false }));
  byId("reverse").addEventListener("click", () => choose({ reversed: !view.reversed }));
  byId("label").addEventListener("click", () => choose({ label: null }));
  byId("save").addEventListener("click", saveListed);
  byId("save").hidden = !QUERIES;
}

/* The listed queries as a CSV file, in their order: a line for each neighbour that is shown. */

const quoted = (value) => /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);

function listedAsCsv() {
  const lines = [["query", "run", "rank", "prediction", "descriptor_distance", "metres", "correct"]];
  for (const query of list.listed) {
    for (const match of [...nearMatches(query), ...otherMatches(query)]) {
      lines.push([
        picturePath(queries.picture[query]),
        match.group === "other" ? report.other.title : report.title,
        match.rank,
        picturePath(pictureOfDatabase[match.database]),
        match.distance ?? "",
        match.metres ?? "",
        match.right === null ? "" : Number(match.right),
      ]);
    }
  }
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

function saveListed() {
  const blob = new Blob([listedAsCsv()], { type: "text/csv" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "queries.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
