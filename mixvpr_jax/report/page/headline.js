/* What was evaluated, how well it did, and by how much that differs from what is published. */

import { HAS_TRUTH, byId, element, grouped, pictures, plural, report } from "./data.js";
import { choose } from "./filters.js";

const isUsual = ([k]) => [1, 5, 10, 20].includes(k);
const usualRecall = report.recall?.some(isUsual) ? report.recall.filter(isUsual) : report.recall;

const recallAt = (recall, k) => recall?.find(([other]) => other === k)?.[1];
const percentText = (percent) => percent?.toFixed(1) ?? "–";

function table(className, heads, rows) {
  const cells = heads.map((text) => element(text ? "th" : "td", text ? { scope: "col" } : {}, text));
  return element("table", { className },
    element("thead", {}, element("tr", {}, ...cells)), element("tbody", {}, ...rows));
}

function tableRow(className, head, ...cells) {
  return element("tr", { className }, element("th", { scope: "row" }, ...head), ...cells);
}

function oursCell([k, percent]) {
  const cell = element("td", {}, percentText(percent), element("span", { className: "percent" }, "%"));
  const interval = report.intervals.find(([other]) => other === k);
  if (interval) {
    const [, low, high] = interval;
    const title = "95 % interval over queries (Wilson's)";
    cell.append(element("span", { className: "interval", title }, `${low.toFixed(1)} – ${high.toFixed(1)}`));
  }
  return cell;
}

function comparedCell(ours, theirs, comparable) {
  const cell = element("td", {}, percentText(theirs));
  if (theirs === undefined || !comparable) return cell;
  const by = Number((ours - theirs).toFixed(1));
  const sign = by > 0 ? "+" : by < 0 ? "−" : "±";
  const title = "this run, compared with that one";
  cell.append(element("span", { className: "difference", title }, `${sign}${Math.abs(by).toFixed(1)}`));
  return cell;
}

function comparedRow(label, recall, source, comparable) {
  const cells = usualRecall.map(([k, ours]) => comparedCell(ours, recallAt(recall, k), comparable));
  const head = [label, element("span", { className: "source" }, source)];
  return tableRow(comparable ? "" : "dimmed", head, ...cells);
}

function recallTable() {
  const { intervals, other, published } = report;
  const head = ["This run"];
  if (intervals.length) head.push(element("span", { className: "source" }, "95 % intervals"));
  const rows = [tableRow("ours", head, ...usualRecall.map(oursCell))];
  if (other) rows.push(comparedRow(other.title, other.recall, "the other run", true));
  for (const [label, recall, source] of published) {
    rows.push(comparedRow(label, recall, source, !report.is_subset));
  }
  return table("recall", ["", ...usualRecall.map(([k]) => `R@${k}`)], rows);
}

function outcomeParts() {
  if (report.recall) {
    const warning = "Images of the protocol are missing here: these figures compare with no published ones.";
    return [recallTable(), ...(report.is_subset ? [element("p", { className: "warning" }, warning)] : [])];
  }
  const why = HAS_TRUTH
    ? "Recall was not computed for this evaluation."
    : "There is no ground truth for these photos, and hence no recall. " +
      "Below are the nearest database photos of each query, neither right nor wrong.";
  return [element("p", { className: "sentence" }, why)];
}

export function renderHeadline() {
  document.title = report.title;
  // Names of models may break after what joins their parts.
  const parts = report.title.split(/(?<=[_/])/).flatMap((part) => [part, element("wbr")]);
  document.querySelector("h1").append(...parts);
  byId("outcome").append(...outcomeParts());
  document.querySelector(".facts tbody").append(
    ...report.facts.map(([name, value]) => tableRow("", [name], element("td", {}, value))));
}

export function renderNote() {
  const { problems } = pictures;
  if (!problems.length) return;
  byId("note").hidden = false;
  byId("note").textContent =
    `${plural(problems.length, "photo", "photos")} could not be read and left a blank: ${problems[0]}`;
}

/* Figures beside each other */

export function figure(title, ...parts) {
  const made = element("section", { className: "figure" }, element("h2", {}, title), ...parts);
  byId("figures").append(made);
  return made;
}

export function keyItem(className, text) {
  return element("span", {}, element("i", { className }), text);
}

// A text that leads to the queries of a label's value.
export function labelLink(label, value, text, title) {
  const onclick = () => choose({ label: [label, value] });
  return element("button", { className: "link", title, onclick }, text);
}

function conditionRow(condition, [label, count, recall]) {
  const known = report.labels.find(({ name }) => name === condition);
  const value = known ? known.values.indexOf(label) : -1;
  const title = `List the queries of ${condition}: ${label}`;
  const head = value < 0 ? label : labelLink(known, value, label, title);
  const percents = usualRecall.slice(0, 3).map(([k]) => percentText(recallAt(recall, k)));
  return tableRow("", [head], element("td", { className: "quiet" }, grouped(count)),
    ...percents.map((percent) => element("td", {}, percent)));
}

function conditionTable([condition, rows]) {
  const heads = [condition, "queries", ...usualRecall.slice(0, 3).map(([k]) => `R@${k}`)];
  return table("small", heads, rows.map((row) => conditionRow(condition, row)));
}

function milliseconds(time) {
  if (time === null) return "–";
  return `${time < 1 ? time.toFixed(2) : time < 100 ? time.toFixed(1) : grouped(Math.round(time))} ms`;
}

export function renderTables() {
  const { conditions, latency, device } = report;
  if (conditions.length && report.recall) {
    const tables = element("div", { className: "scrolled", tabIndex: 0 }, ...conditions.map(conditionTable));
    figure("Recall by condition", tables);
  }
  if (!latency.length) return;
  const rows = latency.map(([stage, ...times]) =>
    tableRow("", [stage], ...times.map((time) => element("td", {}, milliseconds(time)))));
  const made = figure("Time for one query", table("small", ["stage", "median", "p95"], rows));
  if (device) made.querySelector("h2").append(element("span", { className: "readout" }, `on ${device}`));
}
