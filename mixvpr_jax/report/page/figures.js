/* What was evaluated, how well it did, and how that compares with what is published. */

import { HAS, byId, clamp, element, grouped, pictures, plural, report } from "./data.js";
import { choose, labelKey, labelOf } from "./view.js";

/* The headline */

// Of many k, the usual ones; who chose others wants to see those.
const usual = report.recall?.filter(([k]) => [1, 5, 10, 20].includes(k));
const usualRecall = usual?.length === 4 ? usual : report.recall;

const recallAt = (recall, k) => recall.find(([other]) => other === k)?.[1];
// As the command prints it: 81.25, a tie, is 81.2.
const percentText = (percent) => (percent % 1 === 0.25 ? percent - 0.05 : percent)?.toFixed(1) ?? "–";
const span = (className, text, title = "") => element("span", { className, title }, text);

function table(className, heads, rows) {
  const cells = heads.map((text) => element(text ? "th" : "td", {}, text));
  return element("table", { className },
    element("thead", {}, element("tr", {}, ...cells)), element("tbody", {}, ...rows));
}

// Its head and cells are a text, an element, or several of them.
function tableRow(className, head, cells) {
  return element("tr", { className }, element("th", { scope: "row" }, ...[head].flat()),
    ...cells.map((cell) => element("td", {}, ...[cell].flat())));
}

function oursCell([k, percent]) {
  const intervals = report.intervals.filter(([other]) => other === k).map(([, ...ends]) =>
    span("interval", ends.map(percentText).join(" – "), "95 % interval over queries (Wilson's)"));
  return [percentText(percent), span("percent", "%"), ...intervals];
}

function comparedRow(label, recall, from, comparable) {
  const cells = usualRecall.map(([k, ours]) => {
    const theirs = recallAt(recall, k);
    if (theirs === undefined || !comparable) return percentText(theirs);
    const by = Number((ours - theirs).toFixed(1));
    const text = `${by > 0 ? "+" : by < 0 ? "−" : "±"}${Math.abs(by).toFixed(1)}`;
    return [percentText(theirs), span("difference", text, "this run, compared with that one")];
  });
  return tableRow(comparable ? "" : "dimmed", [label, span("source", from)], cells);
}

function recallTable() {
  const { intervals, other, published } = report;
  const head = intervals.length ? ["This run", span("source", "95 % intervals")] : "This run";
  return table("recall", ["", ...usualRecall.map(([k]) => `R@${k}`)], [
    tableRow("ours", head, usualRecall.map(oursCell)),
    ...(other ? [comparedRow(other.title, other.recall ?? [], "the other run", true)] : []),
    ...published.map(([label, recall, from]) => comparedRow(label, recall, from, !HAS.subset)),
  ]);
}

export function renderHeadline() {
  document.title = report.title;
  // Names of models may break after what joins their parts.
  const parts = report.title.split(/(?<=[_/])/).flatMap((part) => [part, element("wbr")]);
  document.querySelector("h1").append(...parts);
  if (HAS.recall) document.querySelector("h1").after(recallTable());
  const facts = report.facts.map(([name, value]) => tableRow("", name, [value]));
  document.querySelector(".facts tbody").append(...facts);
  const { problems } = pictures;
  byId("note").textContent =
    `${plural(problems.length, "photo", "photos")} could not be read and left a blank: ${problems[0]}`;
}

/* Figures beside each other */

export function figure(title, ...parts) {
  const made = element("section", { className: "figure" }, element("h2", {}, title), ...parts);
  byId("figures").append(made);
  return made;
}

const addReadout = (made, text) => made.querySelector("h2").appendChild(span("readout", text));

const keyItem = (className, text) => element("span", {}, element("i", { className }), text);

// A text that leads to the queries of a label, where there is one.
function labelLink(label, text, title) {
  if (!labelOf(label)) return text;
  return element("button", { className: "link", title, onclick: () => choose({ label }) }, text);
}

function conditionTable([condition, rows]) {
  const first = usualRecall.slice(0, 3);
  const heads = first.map(([k]) => `R@${k}`);
  return table("small", [condition, "queries", ...heads], rows.map(([label, count, recall]) => {
    const head = labelLink(labelKey(condition, label), label, `List the queries of ${condition}: ${label}`);
    const percents = first.map(([k]) => percentText(recallAt(recall, k)));
    return tableRow("", head, [span("quiet", grouped(count)), ...percents]);
  }));
}

function milliseconds(time) {
  if (time === null) return "–";
  return `${time < 1 ? time.toFixed(2) : time < 100 ? time.toFixed(1) : grouped(Math.round(time))} ms`;
}

export function renderTables() {
  const { conditions, latency, device } = report;
  if (conditions.length && HAS.recall) {
    const tables = element("div", { className: "scrolled", tabIndex: 0 }, ...conditions.map(conditionTable));
    figure("Recall by condition", tables);
  }
  if (!latency.length) return;
  const rows = latency.map(([stage, ...times]) => tableRow("", stage, times.map(milliseconds)));
  const made = figure("Time for one query", table("small", ["stage", "median", "p95"], rows));
  if (device) addReadout(made, `on ${device}`);
}

/* Curves: points are [share, percent], with the share of the way from the left to the right, 0 to 1. */

const CURVE = { width: 360, height: 210, left: 34, right: 12, top: 10, bottom: 26 };
const INNER = { width: CURVE.width - CURVE.left - CURVE.right, height: CURVE.height - CURVE.top - CURVE.bottom };

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// From where to where an axis of percents goes that holds these, in at most five steps.
function percentAxis(percents) {
  const [least, most] = [Math.min(...percents), Math.max(...percents)];
  const step = [1, 2, 5, 10, 20].find((step) => Math.ceil(most / step) - Math.floor(least / step) <= 5);
  const high = Math.max(Math.ceil(most / step) * step, 5);
  return { low: Math.min(Math.floor(least / step) * step, high - 5), high, step };
}

// `ticks` are [share, text]; `runs` [class, name, points], ours first; `whiskers` [share, low, high];
// `rings` [share, percent, text]; `read` gives of a share the [share, percent, text] to tell there.
function curveFigure(title, label, { ticks, runs, whiskers = [], rings, read }) {
  const percents = [...runs.flatMap(([, , points]) => points), ...rings].map(([, percent]) => percent);
  const { low, high, step } = percentAxis([...percents, ...whiskers.flatMap(([, ...ends]) => ends)]);
  const x = (share) => CURVE.left + INNER.width * share;
  const y = (percent) => CURVE.height - CURVE.bottom - (INNER.height * (percent - low)) / (high - low);
  const parts = [];
  for (let percent = high; percent >= low; percent -= step) {
    parts.push(drawn("line", { x1: x(0), x2: x(1), y1: y(percent), y2: y(percent), class: "grid" }));
    parts.push(drawn("text", { x: x(0) - 7, y: y(percent) + 4, class: "upright" }, percent));
  }
  for (const [share, text] of ticks) {
    parts.push(drawn("text", { x: x(share), y: CURVE.height - 8, class: "flat" }, text));
  }
  for (const [name, , points] of runs.toReversed()) {
    const pixels = points.map(([share, percent]) => [x(share), y(percent)]);
    parts.push(drawn("polyline", { points: pixels.join(" "), class: name }));
  }
  for (const [share, ...ends] of whiskers) {
    const [y1, y2] = ends.map(y);
    parts.push(drawn("line", { x1: x(share), x2: x(share), y1, y2, class: "whisker" }));
  }
  for (const [share, percent, text] of rings) {
    const title = drawn("title", {}, text);
    parts.push(drawn("circle", { cx: x(share), cy: y(percent), r: 3.5, class: "published" }, title));
  }
  const dot = drawn("circle", { r: 3.5, class: "read" });
  const picture = drawn("svg", {
    viewBox: `0 0 ${CURVE.width} ${CURVE.height}`, role: "img", "aria-label": label, class: "curve",
  }, ...parts, dot);
  const key = element("p", { className: "key" }, ...runs.map(([name, text]) => keyItem(name, text)));
  const made = figure(title, picture, key);
  const readout = addReadout(made, "");
  picture.onpointermove = ({ clientX }) => {
    const { left, width } = picture.getBoundingClientRect();
    const pixel = ((clientX - left) / width) * CURVE.width;
    const [share, percent, text] = read((pixel - CURVE.left) / INNER.width);
    dot.setAttribute("cx", x(share));
    dot.setAttribute("cy", y(percent));
    readout.textContent = text;
  };
  return made;
}

/* recall@N over N */

export function renderRecall() {
  const { curve, intervals, other } = report;
  const last = curve.length;
  if (last < 2) return;
  const published = HAS.subset ? [] : report.published; // what compares with this run
  const shareOf = (n) => (n - 1) / (last - 1);
  const isInside = ([k]) => k <= last;
  const points = (percents) => percents.slice(0, last).map((percent, at) => [shareOf(at + 1), percent]);
  const runs = [["ours", intervals.length ? "this run, 95 % intervals" : "this run", points(curve)]];
  if (other?.curve.length) runs.push(["other", other.title, points(other.curve)]);
  const usualTicks = last < 50 ? [1, 5, 10, 15, 20, 25] : [1, 25, 50, 75, 100];
  const label = `Recall rises from ${percentText(curve[0])} % at 1 to ${percentText(curve[last - 1])} % at ${last}`;
  const made = curveFigure("Recall@N", label, {
    ticks: usualTicks.filter((n) => n <= last).map((n) => [shareOf(n), n]),
    runs,
    whiskers: intervals.filter(isInside).map(([k, ...ends]) => [shareOf(k), ...ends]),
    rings: published.flatMap(([name, recall]) => recall.filter(isInside).map(
      ([k, percent]) => [shareOf(k), percent, `${name}: R@${k} ${percentText(percent)}`])),
    read: (share) => {
      const n = clamp(Math.round(1 + share * (last - 1)), 1, last);
      return [shareOf(n), curve[n - 1], `R@${n} ${percentText(curve[n - 1])} %`];
    },
  });
  if (published.length) made.querySelector(".key").append(keyItem("ring", "published"));
}

/* Which first matches may be trusted: curves of [score, precision, recall], in percent */

function thresholdLines(thresholds) {
  const reached = thresholds.filter(([, found]) => found);
  const missed = thresholds.find(([, found]) => !found);
  const told = (...parts) => element("p", { className: "told" }, ...parts);
  const lines = reached
    .filter(([, { score }], at) => score !== reached[at + 1]?.[1].score)
    .map(([percent, { score, precision, recall }]) => told(
      labelLink(labelKey(`at ${percent} %`, "accepted"), `score ≥ ${score}`,
        "List the queries whose first match is accepted"),
      `: ${percentText(precision)} % of the matches are right, ` +
      `${percentText(recall)} % of the queries with a positive are found`));
  return missed ? [...lines, told(`No score reaches ${missed[0]} % precision.`)] : lines;
}

export function renderConfidence() {
  const { confidence, other } = report;
  if (!confidence) return;
  // As high as what each step accepts: the area below is the average precision.
  const stairs = ({ curve }) => curve.flatMap(([, precision, recall], at) =>
    [curve[at - 1]?.[2] ?? 0, recall].map((end) => [end / 100, precision]));
  const area = ({ average_precision }) => `average precision ${percentText(average_precision)} %`;
  const runs = [["ours", `this run, ${area(confidence)}`, stairs(confidence)]];
  if (other?.confidence) {
    runs.push(["other", `${other.title}, ${area(other.confidence)}`, stairs(other.confidence)]);
  }
  const thresholds = Object.entries(confidence.thresholds);
  const made = curveFigure("Precision over recall", `Precision over recall, ${area(confidence)}`, {
    ticks: [0, 25, 50, 75, 100].map((recall) => [recall / 100, recall]),
    runs,
    rings: thresholds.filter(([, found]) => found).map(([percent, { score, precision, recall }]) =>
      [recall / 100, precision, `${percent} % precision: score ≥ ${score}`]),
    read: (share) => {
      const distance = ([, , recall]) => Math.abs(recall / 100 - share);
      const [score, precision, recall] = confidence.curve.reduce((nearest, step) =>
        distance(step) < distance(nearest) ? step : nearest);
      return [recall / 100, precision, `score ${score.toFixed(3)}: ${percentText(precision)} %`];
    },
  });
  made.classList.add("tall");
  made.append(...thresholdLines(thresholds));
}
