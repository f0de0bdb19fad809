/* Which queries are listed, in which order. */

import {
  HAS, QUERIES, allMatches, byId, duels, element, grouped, matchesIn, outcomes, pictureName,
  pictureOfDatabase, picturePath, plural, queries, report,
} from "./data.js";
import { goTo, list, showListed } from "./list.js";
import { drawMapsSoon } from "./map.js";

// A view's fields are those of the address's fragment, which holds what differs from this.
const EVERYTHING = { outcome: "all", run: "any", label: "", search: "" };
const OPENED = { ...EVERYTHING, sort: "order", reversed: "", page: 1 };
export const view = { ...OPENED };

/* Orders: what is compared, and whether the largest comes first */

const SORTS = {
  order: [(query) => query, false],
  distance: [(query) => queries.distance[query * report.m], false],
  rank: [bestRank, true],
  metres: [(query) => queries.metres[query * report.m], true],
};

function bestRank(query) {
  if (outcomes[query] === "none") return null;
  return report.best ? report.best.rank[query] : queries.first[query] || null;
}

const isLargestFirst = () => SORTS[view.sort][1] !== Boolean(view.reversed);

function sorted(listed) {
  const sign = isLargestFirst() ? -1 : 1;
  const keys = new Float64Array(QUERIES).fill(Infinity); // what is not known comes last, either way
  for (const query of listed) {
    const key = SORTS[view.sort][0](query);
    if (key !== null) keys[query] = sign * key;
  }
  return listed.sort((one, other) => keys[one] - keys[other] || one - other);
}

/* Labels: of conditions, and of the first matches that a threshold accepts */

const labels = [...report.labels, ...(report.confidence?.accepted ?? [])].flatMap(
  ({ name, values, of }) => values.map((text, value) => ({ name, text, of, value })));

export const labelKey = (name, text) => `${name}:${text}`;
export const labelOf = (key) => labels.find(({ name, text }) => labelKey(name, text) === key);

/* Search, in the names and paths of the photos of a row */

// macOS may write a letter and its accent apart, which nobody types.
const plain = (text) => text.normalize().toLowerCase();
let searchable = null; // a text a query

function namesIn(query) {
  const shown = allMatches(query).map(({ database }) => pictureOfDatabase[database]);
  const names = [queries.picture[query], ...shown].map(
    (picture) => `${picturePath(picture)}\n${pictureName(picture)}`);
  return plain(names.join("\n"));
}

/* Each group counts what the others leave. */

function selection() {
  const sought = plain(view.search.trim());
  if (sought) searchable ??= queries.picture.map((_, query) => namesIn(query));
  const label = labelOf(view.label);
  const counts = {};
  const count = (value) => (counts[value] = (counts[value] ?? 0) + 1);
  const listed = [];
  for (let query = 0; query < QUERIES; query++) {
    if (label && label.of[query] !== label.value) continue;
    if (sought && !searchable[query].includes(sought)) continue;
    const outcomeFits = view.outcome === "all" || view.outcome === outcomes[query];
    const duelFits = view.run === "any" || view.run === duels[query];
    if (duelFits) ["all", outcomes[query]].forEach(count);
    if (outcomeFits) count(duels[query]);
    if (outcomeFits && duelFits) listed.push(query);
  }
  return { listed, counts };
}

export function choose(changes) {
  setView({ page: 1, ...changes });
  rememberView();
}

export function setView(changes) {
  Object.assign(view, changes);
  const { listed, counts } = selection();
  showListed(sorted(listed));
  renderBar(counts);
  drawMapsSoon();
}

export const listEverything = () => setView(EVERYTHING);

/* The address: `#query-7` leads to one query, anything else is a view. */

export function rememberView() {
  const changed = Object.entries(view).filter(([name, value]) => value !== OPENED[name]);
  history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
}

// Anyone may have written an address: what the bar does not offer is as if it were not there.
const isOffered = (group) => (text) =>
  [...byId(group).children].some(({ hidden, value }) => !hidden && value === text);
const KNOWN = {
  outcome: isOffered("outcomes"),
  run: isOffered("duels"),
  label: labelOf,
  search: () => true,
  sort: isOffered("sort"),
  reversed: (text) => text === "1",
  page: () => true, // the list brings it into its range
};

export function goToHash() {
  const number = Number(/^#query-(\d+)$/.exec(location.hash)?.[1]);
  if (number >= 1 && number <= QUERIES) return goTo(number - 1);
  const fields = [...new URLSearchParams(location.hash.slice(1))];
  const known = fields.filter(([name, text]) => Object.hasOwn(KNOWN, name) && KNOWN[name](text));
  setView({ ...OPENED, ...Object.fromEntries(known) });
}

/* The bar */

export function countText() {
  const shown = list.listed.length;
  const total = plural(QUERIES, "query", "queries");
  return shown === QUERIES ? total : `${grouped(shown)} of ${total}`;
}

function renderBar(counts) {
  byId("count").textContent = countText();
  byId("announcement").textContent = `${plural(list.listed.length, "query", "queries")} listed`;
  for (const button of document.querySelectorAll(".choice button")) {
    button.ariaPressed = [view.outcome, view.run].includes(button.value);
    button.querySelector("span").textContent = grouped(counts[button.value] ?? 0);
  }
  const label = labelOf(view.label);
  byId("label").hidden = !label;
  byId("label").textContent = label ? `${label.name}: ${label.text} ×` : "";
  if (byId("search").value !== view.search) byId("search").value = view.search;
  byId("sort").value = view.sort;
  byId("reverse").textContent = isLargestFirst() ? "↓" : "↑";
  byId("reverse").ariaPressed = Boolean(view.reversed);
  byId("none-left").hidden = list.listed.length > 0 || !HAS.queries;
}

export const reverse = () => choose({ reversed: view.reversed ? "" : "1" });

// What is chosen already is left for everything.
function onChoice(group, field) {
  byId(group).onclick = ({ target }) => {
    const value = target.closest("button")?.value;
    if (value) choose({ [field]: view[field] === value ? EVERYTHING[field] : value });
  };
}

export function setUpBar() {
  byId("right-in-k").prepend(`Right in ${report.k} `);
  byId("duels").title = `Compared with ${report.other?.title}`;
  onChoice("outcomes", "outcome");
  onChoice("duels", "run");
  byId("search").oninput = ({ target }) => choose({ search: target.value });
  byId("sort").onchange = ({ target }) => choose({ sort: target.value, reversed: "" });
}

/* The listed queries as a CSV file, in their order: a line for each neighbour that is shown. */

const quoted = (value) => /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);

function listedAsCsv() {
  const lines = [["query", "run", "rank", "prediction", "descriptor_distance", "metres", "correct"]];
  for (const query of list.listed) {
    for (const match of [...matchesIn("near", query), ...matchesIn("other", query)]) {
      lines.push([
        picturePath(queries.picture[query]),
        match.group === "other" ? report.other.title : report.title,
        match.rank,
        picturePath(pictureOfDatabase[match.database]),
        match.distance ?? "",
        match.metres ?? "",
        { right: 1, wrong: 0 }[match.verdict] ?? "",
      ]);
    }
  }
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

export function saveListed() {
  const blob = new Blob([listedAsCsv()], { type: "text/csv" });
  const link = element("a", { href: URL.createObjectURL(blob), download: "queries.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
