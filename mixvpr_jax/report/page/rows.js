/* One query of the list: its photo, its neighbours, and what they missed. */

import {
  HAS_TRUTH, allMatches, byId, distanceText, element, fromTemplate, grouped, metresText,
  missedMatches, outcomeText, outcomes, pictureName, pictureOfDatabase, picturePath, pictures,
  plural, queries, report, scoreText, showPicture, verdictOf,
} from "./data.js";
import { renderLargerHeat } from "./larger.js";
import { list } from "./list.js";

// The middle of a long name gives way; its end, which tells files apart, stays.
function setName(target, picture) {
  const letters = Array.from(pictureName(picture));
  const tail = letters.length > 14 ? 9 : 0;
  const cut = letters.length - tail;
  target.title = picturePath(picture);
  target.replaceChildren(
    element("span", {}, letters.slice(0, cut).join("")),
    element("span", {}, letters.slice(cut).join("")),
  );
}

export function setPhoto(photo, picture, words) {
  const image = photo.querySelector("img");
  image.alt = `${words}, ${pictureName(picture)}`;
  showPicture(image, picture);
}

function matchWords({ group, rank }) {
  if (group === "missed") return `Nearest true positive, rank ${grouped(rank)}`;
  return `Match ${rank}${group === "other" ? ` of ${report.other.title}` : ""}`;
}

export function setMatchPhoto(photo, match) {
  const verdict = verdictOf(match);
  setPhoto(photo, pictureOfDatabase[match.database], matchWords(match));
  photo.querySelector(".badge")?.remove();
  photo.dataset.verdict = verdict;
  photo.dataset.group = match.group;
  if (verdict) photo.append(fromTemplate(`${verdict}-badge`));
}

function matchItem(match, column) {
  const item = fromTemplate("match-template");
  item.style.setProperty("--place", match.place);
  const photo = item.querySelector(".photo");
  photo.dataset.column = column;
  setMatchPhoto(photo, match);
  item.querySelector(".rank").textContent = grouped(match.rank);
  const apart = item.querySelector(".apart");
  apart.title = scoreText(match.distance);
  for (const [className, text] of [
    ["distance", distanceText(match.distance)], ["metres", metresText(match.metres)],
  ]) {
    if (text) apart.append(element("span", { className }, text));
  }
  setName(item.querySelector(".name"), pictureOfDatabase[match.database]);
  return item;
}

function missedCell(match, column) {
  const cell = element("div", { className: "match" }, ...matchItem(match, column).children);
  cell.querySelector(".rank").prepend(element("span", { className: "wordy" }, "rank "));
  return cell;
}

export function queryRow(query) {
  const row = fromTemplate("query-template");
  row.id = `query-${query + 1}`;
  row.dataset.query = query;
  row.setAttribute("aria-labelledby", `number-${query + 1}`);
  const photo = row.querySelector(".photo");
  photo.dataset.column = 0;
  setPhoto(photo, queries.picture[query], `Query ${query + 1}`);
  Object.assign(row.querySelector(".number"), {
    id: `number-${query + 1}`, textContent: `Query ${grouped(query + 1)}`, href: `#${row.id}`,
  });
  row.querySelector(".pin").hidden = !report.map;
  setName(row.querySelector(".name"), queries.picture[query]);
  fillOutcome(row.querySelector(".outcome"), query);
  fillMatches(row, query);
  showHeat(row, query);
  return row;
}

function fillOutcome(outcome, query) {
  outcome.hidden = !HAS_TRUTH;
  outcome.textContent = outcomeText(query);
  outcome.dataset.outcome = outcomes[query];
  for (const { rank } of missedMatches(query)) {
    const text = `nearest true positive at rank ${grouped(rank)}`;
    outcome.append(element("span", { className: "further" }, text));
  }
  const positives = queries.positives?.[query];
  if (positives) {
    outcome.title = `${plural(positives, "true positive", "true positives")} in the database`;
  }
}

// Columns: 0 is the query, then its matches in the order of the keys.
function fillMatches(row, query) {
  const boxes = { near: ".neighbours", missed: ".missed", other: ".others" };
  allMatches(query).forEach((match, at) => {
    const item = match.group === "missed" ? missedCell(match, at + 1) : matchItem(match, at + 1);
    row.querySelector(boxes[match.group]).append(item);
  });
  if (!report.other) return;
  const [versus, others] = [row.querySelector(".versus"), row.querySelector(".others")];
  versus.hidden = others.hidden = false;
  versus.textContent = report.other.title;
  others.setAttribute("aria-label", `Nearest by ${report.other.title}`);
}

/* Where the model looks: a veil over the cells that do not move the descriptor. */

let heatShown = false;
const heatButtons = [byId("show-heat"), byId("larger-heat")];
export const HAS_HEAT = Object.keys(report.saliency).length > 0;

function heatCells(query, which) {
  const [height, width, ...maps] = report.saliency[query];
  const levels = Uint8Array.from(atob(maps[which]), (letter) => letter.charCodeAt(0));
  const cells = new ImageData(width, height);
  levels.forEach((level, at) => cells.data.set(heatColour(level / 255), 4 * at));
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").putImageData(cells, 0, 0);
  return canvas;
}

// From a dark veil over what does not matter to a warm light on what does.
function heatColour(level) {
  return level < 0.5
    ? [12, 14, 24, 165 * (1 - 2 * level)]
    : [255, 170, 30, 140 * (2 * level - 1)];
}

export function setHeat(photo, query, which) {
  photo.querySelector(".heat")?.remove();
  if (!heatShown || !report.saliency[query]) return;
  const image = photo.querySelector("img");
  const { picture } = image.dataset;
  // Of the photo's shape, so that both are fitted into the frame alike.
  const [width, height] = [2 * pictures.width[picture], 2 * pictures.height[picture]];
  const canvas = element("canvas", { className: "heat", width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(heatCells(query, which), 0, 0, width, height);
  image.after(canvas);
}

// On a query's photo and on its first match.
function showHeat(row, query) {
  setHeat(row.querySelector(".photo"), query, 0);
  const first = row.querySelector('[data-column="1"]');
  if (first) setHeat(first, query, 1);
}

export function setUpHeat() {
  for (const button of heatButtons) {
    button.hidden = !HAS_HEAT;
    button.addEventListener("click", toggleHeat);
  }
}

export function toggleHeat() {
  if (!HAS_HEAT) return;
  heatShown = !heatShown;
  for (const button of heatButtons) button.setAttribute("aria-pressed", heatShown);
  for (const [query, row] of list.rows) showHeat(row, query);
  renderLargerHeat();
}
