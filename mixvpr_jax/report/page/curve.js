/* recall@N over N, and what other curves share with it */

import { clamp, element, report } from "./data.js";
import { figure } from "./headline.js";

export const CURVE = { width: 360, height: 210, left: 34, right: 12, top: 10, bottom: 26 };

const published = report.is_subset ? [] : report.published; // what compares with this run

export function drawn(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// From where to where an axis of percents goes that holds these, and where it puts them.
export function percentScale(percents) {
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
export const across = (share) => CURVE.left + (CURVE.width - CURVE.left - CURVE.right) * share;

function curveScale() {
  const points = [...report.curve, ...(report.other?.curve ?? []),
    ...report.intervals.flatMap(([, low, high]) => [low, high]),
    ...published.flatMap(([, recall]) => recall.map(([, percent]) => percent))];
  const last = Math.max(report.curve.length, 2);
  return { ...percentScale(points), last, x: (n) => across((n - 1) / (last - 1)) };
}

export function axes({ low, high, step, x, y }, ticks) {
  const parts = [];
  for (let percent = high; percent >= low; percent -= step) {
    const [from, to] = [across(0), across(1)];
    parts.push(drawn("line", { x1: from, x2: to, y1: y(percent), y2: y(percent), class: "grid" }));
    parts.push(drawn("text", { x: from - 7, y: y(percent) + 4, class: "upright" }, percent));
  }
  return [...parts, ...ticks.map((n) => drawn("text", { x: x(n), y: CURVE.height - 8, class: "flat" }, n))];
}

function curveTicks({ last }) {
  const ticks = [1, 5, 10, 15, 20, 25, 50, 75, 100].filter((n) => n <= last);
  return ticks.length > 7 ? ticks.filter((n) => n === 1 || n % 25 === 0) : ticks;
}

function curvePath(curve, { last, x, y }, className) {
  const points = curve.slice(0, last).map((percent, at) => `${x(at + 1)},${y(percent)}`);
  return drawn("polyline", { points: points.join(" "), class: className });
}

function curveMarks(scale) {
  const inside = ([k]) => k <= scale.last;
  const whiskers = report.intervals.filter(inside).map(([k, low, high]) =>
    drawn("line", { x1: scale.x(k), x2: scale.x(k), y1: scale.y(low), y2: scale.y(high), class: "whisker" }));
  const rings = published.flatMap(([label, recall]) =>
    recall.filter(inside).map(([k, percent]) => {
      const ring = drawn("circle", { cx: scale.x(k), cy: scale.y(percent), r: 3.5, class: "published" });
      ring.append(drawn("title", {}, `${label}: R@${k} ${percent.toFixed(1)}`));
      return ring;
    }));
  return [...whiskers, ...rings];
}

// What the lines are: [class, text] of each.
export function curveKey(lines) {
  const key = element("p", "", "key");
  key.append(...lines.map(([className, text]) => {
    const item = element("span");
    item.append(element("i", "", className), text);
    return item;
  }));
  return key;
}

// The point [x, y, text] that is nearest to the pointer is told beside the title.
export function bindReadout(made, pointAt) {
  const picture = made.querySelector("svg");
  const readout = made.querySelector("h2").appendChild(element("span", "", "readout"));
  const dot = picture.appendChild(drawn("circle", { r: 3.5, class: "read", visibility: "hidden" }));
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
}

export function curvePicture(label, ...parts) {
  const picture = drawn("svg", {
    viewBox: `0 0 ${CURVE.width} ${CURVE.height}`, role: "img", "aria-label": label, class: "curve",
  });
  picture.append(...parts);
  return picture;
}

export function renderCurve() {
  if (report.curve.length < 2) return;
  const scale = curveScale();
  const [first, last] = [report.curve[0], report.curve[report.curve.length - 1]];
  const picture = curvePicture(
    `Recall rises from ${first.toFixed(1)} % at 1 to ${last.toFixed(1)} % at ${report.curve.length}`,
    ...axes(scale, curveTicks(scale)),
    ...(report.other ? [curvePath(report.other.curve, scale, "other")] : []),
    curvePath(report.curve, scale, "ours"), ...curveMarks(scale));
  const lines = [["line-ours", report.intervals.length ? "this run, 95 % intervals" : "this run"]];
  if (report.other?.curve.length) lines.push(["line-other", report.other.title]);
  if (published.length) lines.push(["ring", "published"]);
  bindReadout(figure("Recall@N", picture, curveKey(lines)), (x) => {
    const n = clamp(Math.round(1 + (x - scale.x(1)) / (scale.x(2) - scale.x(1))), 1, report.curve.length);
    const percent = report.curve[n - 1];
    return [scale.x(n), scale.y(percent), `R@${n} ${percent.toFixed(1)} %`];
  });
}
