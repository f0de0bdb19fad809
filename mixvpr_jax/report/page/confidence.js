/* Which first matches may be trusted: precision over recall, as the threshold on the score falls. */

import { across, axes, bindReadout, curveKey, curvePicture, drawn, percentScale } from "./curve.js";
import { element, report } from "./data.js";
import { choose } from "./filters.js";
import { figure } from "./headline.js";

const { confidence } = report; // its curve: [score, precision, recall], in percent

// As high as what each step accepts: the area below is the average precision.
function stairs(curve, { x, y }, className) {
  const points = curve.flatMap(([, precision, recall], at) =>
    [curve[at - 1]?.[2] ?? 0, recall].map((end) => `${x(end)},${y(precision)}`));
  return drawn("polyline", { points: points.join(" "), class: className });
}

function thresholdMark([percent, { score, precision, recall }], { x, y }) {
  const ring = drawn("circle", { cx: x(recall), cy: y(precision), r: 3.5, class: "published" });
  ring.append(drawn("title", {}, `${percent} % precision: score ≥ ${score}`));
  return ring;
}

function thresholdLine([percent, { score, precision, recall }]) {
  const label = confidence.accepted.find(({ name }) => name === `at ${percent} %`);
  const button = element("button", `score ≥ ${score}`, "link");
  button.type = "button";
  button.title = "List the queries whose first match is accepted";
  button.addEventListener("click", () => choose({ label: [label, label.values.indexOf("accepted")] }));
  const line = element("p", "", "told");
  line.append(button, `: ${precision.toFixed(1)} % of the matches are right, ` +
    `${recall.toFixed(1)} % of the queries with a positive are found`);
  return line;
}

function thresholdLines(thresholds) {
  const reached = thresholds.filter(([, found]) => found);
  const lines = reached
    .filter(([, found], at) => found.score !== reached[at + 1]?.[1].score)
    .map(thresholdLine);
  const missed = thresholds.find(([, found]) => !found);
  if (missed) lines.push(element("p", `No score reaches ${missed[0]} % precision.`, "told"));
  return lines;
}

export function renderConfidence() {
  if (!confidence) return;
  const other = report.other?.confidence;
  const curves = [confidence.curve, ...(other ? [other.curve] : [])];
  const scale = {
    ...percentScale(curves.flat().map(([, precision]) => precision)),
    x: (recall) => across(recall / 100),
  };
  const thresholds = Object.entries(confidence.thresholds);
  const area = ({ average_precision }) => `average precision ${average_precision.toFixed(1)} %`;
  const picture = curvePicture(`Precision over recall, ${area(confidence)}`,
    ...axes(scale, [0, 25, 50, 75, 100]),
    ...(other ? [stairs(other.curve, scale, "other")] : []),
    stairs(confidence.curve, scale, "ours"),
    ...thresholds.filter(([, found]) => found).map((found) => thresholdMark(found, scale)));
  const lines = [["line-ours", `this run, ${area(confidence)}`]];
  if (other) lines.push(["line-other", `${report.other.title}, ${area(other)}`]);
  const made = figure("Precision over recall", picture, curveKey(lines), ...thresholdLines(thresholds));
  made.classList.add("tall");
  bindReadout(made, (x) => {
    const distance = ([, , recall]) => Math.abs(scale.x(recall) - x);
    const [score, precision, recall] = confidence.curve.reduce((nearest, step) =>
      distance(step) < distance(nearest) ? step : nearest);
    return [scale.x(recall), scale.y(precision), `score ${score.toFixed(3)}: ${precision.toFixed(1)} %`];
  });
}
