/* What was evaluated, how well it did, and by how much that differs from what is published. */

import { HAS_TRUTH, byId, element, grouped, report } from "./data.js";
import { choose } from "./filters.js";

function usualRecall() {
  const usual = report.recall.filter(([k]) => [1, 5, 10, 20].includes(k));
  return usual.length ? usual : report.recall;
}

function scoped(tag, text, scope, className = "") {
  const cell = element(tag, text, className);
  cell.scope = scope;
  return cell;
}

function oursCell([k, percent]) {
  const cell = element("td", percent.toFixed(1));
  cell.append(element("span", "%", "percent"));
  const interval = report.intervals.find(([other]) => other === k);
  if (interval) {
    const [, low, high] = interval;
    const text = element("span", `${low.toFixed(1)} – ${high.toFixed(1)}`, "interval");
    text.title = "95 % interval over queries (Wilson's)";
    cell.append(text);
  }
  return cell;
}

function comparedCell([k, percent], recall, comparable) {
  const theirs = recall?.find(([other]) => other === k)?.[1];
  const cell = element("td", theirs === undefined ? "–" : theirs.toFixed(1));
  if (theirs === undefined || !comparable) return cell;
  const by = Number((percent - theirs).toFixed(1));
  const sign = by > 0 ? "+" : by < 0 ? "−" : "±";
  const difference = element("span", `${sign}${Math.abs(by).toFixed(1)}`, "difference");
  difference.title = "this run, compared with that one";
  cell.append(difference);
  return cell;
}

function comparedRow(label, source, recall, comparable = true) {
  const row = element("tr", "", comparable ? "" : "dimmed");
  const head = scoped("th", label, "row");
  if (source) head.append(element("span", source, "source"));
  row.append(head, ...usualRecall().map((ours) => comparedCell(ours, recall, comparable)));
  return row;
}

function recallTable() {
  const table = element("table", "", "recall");
  const head = element("tr");
  head.append(element("td"), ...usualRecall().map(([k]) => scoped("th", `R@${k}`, "col")));
  const ours = element("tr", "", "ours");
  const name = scoped("th", "This run", "row");
  if (report.intervals.length) name.append(element("span", "95 % intervals", "source"));
  ours.append(name, ...usualRecall().map(oursCell));
  table.append(element("thead"), element("tbody"));
  table.tHead.append(head);
  table.tBodies[0].append(ours);
  if (report.other) {
    const { title, recall } = report.other;
    table.tBodies[0].append(comparedRow(title, "the other run", recall));
  }
  table.tBodies[0].append(...report.published.map(([label, recall, source]) =>
    comparedRow(label, source, recall, !report.is_subset)));
  return table;
}

function outcomeParts() {
  if (!report.recall) {
    const why = HAS_TRUTH
      ? "Recall was not computed for this evaluation."
      : "There is no ground truth for these photos, and hence no recall. " +
        "Below are the nearest database photos of each query, neither right nor wrong.";
    return [element("p", why, "sentence")];
  }
  const parts = [recallTable()];
  if (report.is_subset) {
    parts.push(element("p",
      "Images of the protocol are missing here: these figures compare with no published ones.",
      "warning"));
  }
  return parts;
}

function factRow([name, value]) {
  const row = element("tr");
  row.append(scoped("th", name, "row"), element("td", value));
  return row;
}

export function renderHeadline() {
  document.title = report.title;
  // Names of models may break after what joins their parts.
  const parts = report.title.split(/(?<=[_/])/).flatMap((part) => [part, element("wbr")]);
  document.querySelector("h1").append(...parts);
  byId("outcome").append(...outcomeParts());
  document.querySelector(".facts tbody").append(...report.facts.map(factRow));
}

/* Figures beside each other: conditions and latency. */

export function figure(title, ...parts) {
  const made = element("section", "", "figure");
  made.append(element("h2", title), ...parts);
  byId("figures").append(made);
  return made;
}

function conditionRow(condition, [label, count, recall]) {
  const row = element("tr");
  const head = scoped("th", "", "row");
  const known = report.labels.find(({ name }) => name === condition);
  const value = known ? known.values.indexOf(label) : -1;
  if (value >= 0) {
    const button = element("button", label, "link");
    button.type = "button";
    button.title = `List the queries of ${condition}: ${label}`;
    button.addEventListener("click", () => choose({ label: [known, value] }));
    head.append(button);
  } else {
    head.append(label);
  }
  row.append(head, element("td", grouped(count), "quiet"));
  for (const [k] of usualRecall().slice(0, 3)) {
    const percent = recall?.find(([other]) => other === k)?.[1];
    row.append(element("td", percent === undefined ? "–" : percent.toFixed(1)));
  }
  return row;
}

function conditionTable([condition, rows]) {
  const table = element("table", "", "small");
  const head = element("tr");
  head.append(scoped("th", condition, "col"), scoped("th", "queries", "col"),
    ...usualRecall().slice(0, 3).map(([k]) => scoped("th", `R@${k}`, "col")));
  table.append(element("thead"), element("tbody"));
  table.tHead.append(head);
  table.tBodies[0].append(...rows.map((row) => conditionRow(condition, row)));
  return table;
}

function latencyTable() {
  const table = element("table", "", "small");
  const head = element("tr");
  head.append(scoped("th", "stage", "col"), scoped("th", "median", "col"),
    scoped("th", "p95", "col"));
  table.append(element("thead"), element("tbody"));
  table.tHead.append(head);
  for (const [stage, ...times] of report.latency) {
    const row = element("tr");
    row.append(scoped("th", stage, "row"), ...times.map((time) => element("td", milliseconds(time))));
    table.tBodies[0].append(row);
  }
  return table;
}

function milliseconds(time) {
  if (time === null) return "–";
  return `${time < 1 ? time.toFixed(2) : time < 100 ? time.toFixed(1) : grouped(Math.round(time))} ms`;
}

export function renderTables() {
  if (report.conditions.length && report.recall) {
    const tables = element("div", "", "scrolled");
    tables.tabIndex = 0;
    tables.append(...report.conditions.map(conditionTable));
    figure("Recall by condition", tables);
  }
  if (!report.latency.length) return;
  const made = figure("Time for one query", latencyTable());
  if (report.device) made.querySelector("h2").append(element("span", `on ${report.device}`, "readout"));
}
