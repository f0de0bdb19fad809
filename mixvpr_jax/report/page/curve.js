/* recall@N over N */

import { clamp, element, report } from "./data.js";
import { figure } from "./headline.js";

const CURVE = { width: 360, height: 210, left: 34, right: 12, top: 10, bottom: 26 };

const published = report.is_subset ? [] : report.published; // what compares with this run

function drawn(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function curveScale() {
  const points = [...report.curve, ...(report.other?.curve ?? []),
    ...report.intervals.flatMap(([, low, high]) => [low, high]),
    ...published.flatMap(([, recall]) => recall.map(([, percent]) => percent))];
  const span = Math.max(...points) - Math.min(...points) > 20 ? 10 : 5;
  const low = Math.max(Math.floor(Math.min(...points) / span) * span, 0);
  const high = Math.max(Math.min(Math.ceil(Math.max(...points) / span) * span, 100), low + span);
  const last = Math.max(report.curve.length, 2);
  const { width, height, left, right, top, bottom } = CURVE;
  return {
    low, high, last,
    step: [1, 2, 5, 10, 20, 25].find((step) => (high - low) / step <= 5) ?? 50,
    x: (n) => left + ((width - left - right) * (n - 1)) / (last - 1),
    y: (percent) => height - bottom - ((height - top - bottom) * (percent - low)) / (high - low),
  };
}

function curveAxes({ low, high, last, step, x, y }) {
  const parts = [];
  for (let percent = low; percent <= high; percent += step) {
    const [from, to] = [CURVE.left, CURVE.width - CURVE.right];
    parts.push(drawn("line", { x1: from, x2: to, y1: y(percent), y2: y(percent), class: "grid" }));
    parts.push(drawn("text", { x: from - 7, y: y(percent) + 4, class: "upright" }, percent));
  }
  const ticks = [1, 5, 10, 15, 20, 25, 50, 75, 100].filter((n) => n <= last);
  for (const n of ticks.length > 7 ? ticks.filter((n) => n === 1 || n % 25 === 0) : ticks) {
    parts.push(drawn("text", { x: x(n), y: CURVE.height - 8, class: "flat" }, n));
  }
  return parts;
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

function curveKey() {
  const key = element("p", "", "key");
  const add = (className, text) => {
    const item = element("span");
    item.append(element("i", "", className), text);
    key.append(item);
  };
  add("line-ours", report.intervals.length ? "this run, 95 % intervals" : "this run");
  if (report.other?.curve.length) add("line-other", report.other.title);
  if (published.length) add("ring", "published");
  return key;
}

// The value under the pointer is told beside the key.
function bindReadout(picture, scale, readout) {
  const dot = picture.appendChild(drawn("circle", { r: 3.5, class: "read", visibility: "hidden" }));
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width) * CURVE.width;
    const n = clamp(Math.round(1 + ((across - scale.x(1)) / (scale.x(2) - scale.x(1)))), 1, report.curve.length);
    const percent = report.curve[n - 1];
    dot.setAttribute("cx", scale.x(n));
    dot.setAttribute("cy", scale.y(percent));
    dot.setAttribute("visibility", "visible");
    readout.textContent = `R@${n} ${percent.toFixed(1)} %`;
  });
  picture.addEventListener("pointerleave", () => {
    dot.setAttribute("visibility", "hidden");
    readout.textContent = "";
  });
}

export function renderCurve() {
  if (report.curve.length < 2) return;
  const scale = curveScale();
  const [first, last] = [report.curve[0], report.curve[report.curve.length - 1]];
  const picture = drawn("svg", {
    viewBox: `0 0 ${CURVE.width} ${CURVE.height}`,
    role: "img",
    "aria-label": `Recall rises from ${first.toFixed(1)} % at 1 to ${last.toFixed(1)} % at ${report.curve.length}`,
    class: "curve",
  });
  picture.append(...curveAxes(scale));
  if (report.other) picture.append(curvePath(report.other.curve, scale, "other"));
  picture.append(curvePath(report.curve, scale, "ours"), ...curveMarks(scale));
  const made = figure("Recall@N", picture, curveKey());
  const readout = made.querySelector("h2").appendChild(element("span", "", "readout"));
  bindReadout(picture, scale, readout);
}
