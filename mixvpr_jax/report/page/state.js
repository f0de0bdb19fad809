/* The view in the address's fragment, so that it can be sent; `#query-7` leads to one query. */

import { QUERIES, report } from "./data.js";
import { DUELS, EVERYTHING, OUTCOMES, SORTS, setView, view } from "./filters.js";
import { goTo } from "./list.js";

function viewAsText() {
  const fields = new URLSearchParams();
  const { outcome, duel, label, search, sort, reversed, page } = view;
  if (outcome !== EVERYTHING.outcome) fields.set("outcome", outcome);
  if (duel !== EVERYTHING.duel) fields.set("run", duel);
  if (label) fields.set("label", `${label[0].name}:${label[0].values[label[1]]}`);
  if (search) fields.set("search", search);
  if (sort !== "order") fields.set("sort", sort);
  if (reversed) fields.set("reversed", "1");
  if (page) fields.set("page", page + 1);
  return fields.toString();
}

function labelNamed(text) {
  for (const label of [...report.labels, ...(report.confidence?.accepted ?? [])]) {
    const value = label.values.findIndex((name) => `${label.name}:${name}` === text);
    if (value >= 0) return [label, value];
  }
  return null;
}

// Anyone may have written an address: what is not known in it is as if it were not there.
function viewFromText(text) {
  const fields = new URLSearchParams(text);
  const one = (name, known, otherwise) => known.includes(fields.get(name)) ? fields.get(name) : otherwise;
  const page = Number(fields.get("page"));
  return {
    outcome: one("outcome", OUTCOMES.map(([name]) => name), EVERYTHING.outcome),
    duel: one("run", DUELS.map(([name]) => name), EVERYTHING.duel),
    label: labelNamed(fields.get("label")),
    search: fields.get("search") ?? "",
    sort: one("sort", Object.keys(SORTS), "order"),
    reversed: fields.get("reversed") === "1",
    page: Number.isInteger(page) && page > 0 ? page - 1 : 0,
  };
}

export function rememberView() {
  history.replaceState(null, "", `#${viewAsText()}`);
}

export function goToHash() {
  const number = Number(/^#query-(\d+)$/.exec(location.hash)?.[1]);
  if (number >= 1 && number <= QUERIES) goTo(number - 1);
  else setView(viewFromText(location.hash.slice(1)));
}
