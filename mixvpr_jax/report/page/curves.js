/* recall@N over N, and precision over recall as the threshold on the score falls. */

import { clamp, element, report } from "./data.js";
import { figure, keyItem, labelLink } from "./headline.js";

const CURVE = { width: 360, height: 210, left: 34, right: 12, top: 10, bottom: 26 };

const published = report.is_subset ? [] : report.published; // what compares with this run

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// From where to where an axis of percents goes that holds these, and where it puts them.
function percentScale(percents) {
  const [least, most] = [Math.min(...percents), Math.max(...percents)];
  const span = most - least > 20 ? 10 : 5;
  const floor = Math.max(Math.floor(least / span) * span, 0);
  const high = Math.max(Math.min(Math.ceil(most / span) * span, 100), floor + span);
  const step = [1, 2, 5, 10, 20, 25].find((step) => (high - floor) / step <= 5) ?? 50;
  const low = Math.max(high - Math.ceil((high - floor) / step) * step, 0);
  const { height, top, bottom } = CURVE;
  const y = (percent) => height - bottom - ((height - top - bottom) * (percent - low)) / (high - low);
  return { low, high, step, y };
}

// Where an axis puts what lies this far, 0 to 1, from its left to its right.
const across = (share) => CURVE.left + (CURVE.width - CURVE.left - CURVE.right) * share;

function axes({ low, high, step, x, y }, ticks) {
  const parts = [];
  for (let percent = high; percent >= low; percent -= step) {
    const [from, to] = [across(0), across(1)];
    parts.push(drawn("line", { x1: from, x2: to, y1: y(percent), y2: y(percent), class: "grid" }));
    parts.push(drawn("text", { x: from - 7, y: y(percent) + 4, class: "upright" }, percent));
  }
  return [...parts, ...ticks.map((n) => drawn("text", { x: x(n), y: CURVE.height - 8, class: "flat" }, n))];
}

function ring(x, y, text) {
  return drawn("circle", { cx: x, cy: y, r: 3.5, class: "published" }, drawn("title", {}, text));
}

// `runs` are [class, name, points [x, y]], ours first; `pointAt` gives the point [x, y, text] to
// tell beside the title where the pointer is.
function curveFigure(title, label, scale, { ticks, runs, marks, pointAt }) {
  const lines = runs.map(([name, , points]) => drawn("polyline", { points: points.join(" "), class: name }));
  const dot = drawn("circle", { r: 3.5, class: "read", visibility: "hidden" });
  const picture = drawn("svg", {
    viewBox: `0 0 ${CURVE.width} ${CURVE.height}`, role: "img", "aria-label": label, class: "curve",
  }, ...axes(scale, ticks), ...lines.reverse(), ...marks, dot);
  const key = element("p", { className: "key" }, ...runs.map(([name, text]) => keyItem(name, text)));
  const made = figure(title, picture, key);
  const readout = made.querySelector("h2").appendChild(element("span", { className: "readout" }));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const [x, y, text] = pointAt(((event.clientX - box.left) / box.width) * CURVE.width);
    dot.setAttribute("cx", x);
    dot.setAttribute("cy", y);
    dot.setAttribute("visibility", "visible");
    readout.textContent = text;
  });
  picture.addEventListener("pointerleave", () => {
    dot.setAttribute("visibility", "hidden");
    readout.textContent = "";
  });
  return made;
}

/* recall@N over N */

function curveTicks(last) {
  const ticks = [1, 5, 10, 15, 20, 25, 50, 75, 100].filter((n) => n <= last);
  return ticks.length > 7 ? ticks.filter((n) => n === 1 || n % 25 === 0) : ticks;
}

export function renderRecall() {
  const { curve, intervals, other } = report;
  const last = curve.length;
  if (last < 2) return;
  const scale = {
    ...percentScale([
      ...curve, ...(other?.curve ?? []), ...intervals.flatMap(([, low, high]) => [low, high]),
      ...published.flatMap(([, recall]) => recall.map(([, percent]) => percent)),
    ]),
    x: (n) => across((n - 1) / (last - 1)),
  };
  const points = (percents) =>
    percents.slice(0, last).map((percent, at) => [scale.x(at + 1), scale.y(percent)]);
  const runs = [["ours", intervals.length ? "this run, 95 % intervals" : "this run", points(curve)]];
  if (other?.curve.length) runs.push(["other", other.title, points(other.curve)]);
  const inside = ([k]) => k <= last;
  const whiskers = intervals.filter(inside).map(([k, low, high]) =>
    drawn("line", { x1: scale.x(k), x2: scale.x(k), y1: scale.y(low), y2: scale.y(high), class: "whisker" }));
  const rings = published.flatMap(([name, recall]) => recall.filter(inside).map(([k, percent]) =>
    ring(scale.x(k), scale.y(percent), `${name}: R@${k} ${percent.toFixed(1)}`)));
  const label = `Recall rises from ${curve[0].toFixed(1)} % at 1 to ${curve[last - 1].toFixed(1)} % at ${last}`;
  const made = curveFigure("Recall@N", label, scale, {
    ticks: curveTicks(last),
    runs,
    marks: [...whiskers, ...rings],
    pointAt: (x) => {
      const n = clamp(Math.round(1 + (x - scale.x(1)) / (scale.x(2) - scale.x(1))), 1, last);
      return [scale.x(n), scale.y(curve[n - 1]), `R@${n} ${curve[n - 1].toFixed(1)} %`];
    },
  });
  if (published.length) made.querySelector(".key").append(keyItem("ring", "published"));
}

/* Which first matches may be trusted: curves of [score, precision, recall], in percent */

const { confidence } = report;

function thresholdLine([percent, { score, precision, recall }]) {
  const label = confidence.accepted.find(({ name }) => name === `at ${percent} %`);
  const title = "List the queries whose first match is accepted";
  return element("p", { className: "told" },
    labelLink(label, label.values.indexOf("accepted"), `score ≥ ${score}`, title),
    `: ${precision.toFixed(1)} % of the matches are right, ` +
    `${recall.toFixed(1)} % of the queries with a positive are found`);
}

function thresholdLines(thresholds) {
  const reached = thresholds.filter(([, found]) => found);
  const lines = reached
    .filter(([, found], at) => found.score !== reached[at + 1]?.[1].score)
    .map(thresholdLine);
  const missed = thresholds.find(([, found]) => !found);
  if (missed) lines.push(element("p", { className: "told" }, `No score reaches ${missed[0]} % precision.`));
  return lines;
}

export function renderConfidence() {
  if (!confidence) return;
  const other = report.other?.confidence;
  const { curve } = confidence;
  const scale = {
    ...percentScale([...curve, ...(other?.curve ?? [])].map(([, precision]) => precision)),
    x: (recall) => across(recall / 100),
  };
  // As high as what each step accepts: the area below is the average precision.
  const stairs = (steps) => steps.flatMap(([, precision, recall], at) =>
    [steps[at - 1]?.[2] ?? 0, recall].map((end) => [scale.x(end), scale.y(precision)]));
  const area = ({ average_precision }) => `average precision ${average_precision.toFixed(1)} %`;
  const runs = [["ours", `this run, ${area(confidence)}`, stairs(curve)]];
  if (other) runs.push(["other", `${report.other.title}, ${area(other)}`, stairs(other.curve)]);
  const thresholds = Object.entries(confidence.thresholds);
  const made = curveFigure("Precision over recall", `Precision over recall, ${area(confidence)}`, scale, {
    ticks: [0, 25, 50, 75, 100],
    runs,
    marks: thresholds.filter(([, found]) => found).map(([percent, { score, precision, recall }]) =>
      ring(scale.x(recall), scale.y(precision), `${percent} % precision: score ≥ ${score}`)),
    pointAt: (x) => {
      const distance = ([, , recall]) => Math.abs(scale.x(recall) - x);
      const [score, precision, recall] = curve.reduce((nearest, step) =>
        distance(step) < distance(nearest) ? step : nearest);
      return [scale.x(recall), scale.y(precision), `score ${score.toFixed(3)}: ${precision.toFixed(1)} %`];
    },
  });
  made.classList.add("tall");
  made.append(...thresholdLines(thresholds));
}
