/* A query and its matches: as a row of the list, larger side by side, and where the model looks. */

import {
  HAS, allMatches, byId, clamp, distanceText, element, grouped, joined, metresText,
  missedMatches, outcomeText, outcomes, pictureName, pictureOfDatabase, picturePath, pictures,
  plural, queries, report, scoreText, showPicture, verdictOf,
} from "./data.js";
import { focusPhoto, list, queryBeside, setCurrent } from "./list.js";
import { openMap } from "./map.js";

const fromTemplate = (id) => byId(id).content.firstElementChild.cloneNode(true);

// The middle of a long name gives way; its end, which tells files apart, stays.
function setName(target, picture) {
  const letters = Array.from(pictureName(picture));
  const cut = letters.length - (letters.length > 14 ? 9 : 0);
  const parts = [letters.slice(0, cut), letters.slice(cut)];
  target.title = picturePath(picture);
  target.replaceChildren(...parts.map((part) => element("span", {}, part.join(""))));
}

function setPhoto(photo, picture, words) {
  const image = photo.querySelector("img");
  image.alt = `${words}, ${pictureName(picture)}`;
  showPicture(image, picture);
}

const runText = ({ group }) => (group === "other" ? ` of ${report.other.title}` : "");

function setMatchPhoto(photo, match) {
  const isMissed = match.group === "missed";
  const words = isMissed ? `Nearest true positive, rank ${grouped(match.rank)}` : `Match ${match.rank}`;
  setPhoto(photo, pictureOfDatabase[match.database], words + runText(match));
  const verdict = verdictOf(match);
  photo.querySelector(".badge")?.remove();
  photo.dataset.verdict = verdict;
  photo.dataset.group = match.group;
  if (verdict) photo.append(fromTemplate(`${verdict}-badge`));
}

/* A row; its columns: 0 is the query, then its matches in the order of the keys. */

function matchItem(match, column) {
  const item = fromTemplate("match-template");
  item.style.setProperty("--place", match.place);
  const photo = item.querySelector(".photo");
  photo.dataset.column = column;
  setMatchPhoto(photo, match);
  item.querySelector(".rank").append(grouped(match.rank));
  const apart = item.querySelector(".apart");
  apart.title = scoreText(match.distance);
  const texts = { distance: distanceText(match.distance), metres: metresText(match.metres) };
  for (const [className, text] of Object.entries(texts)) {
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

function fillOutcome(outcome, query) {
  outcome.hidden = !HAS.truth;
  outcome.textContent = outcomeText(query);
  outcome.dataset.outcome = outcomes[query];
  for (const { rank } of missedMatches(query)) {
    const text = `nearest true positive at rank ${grouped(rank)}`;
    outcome.append(element("span", { className: "further" }, text));
  }
  const positives = queries.positives?.[query];
  if (positives) outcome.title = `${plural(positives, "true positive", "true positives")} in the database`;
}

export function queryRow(query) {
  const row = fromTemplate("query-template");
  const [number, photo] = [`number-${query + 1}`, row.querySelector(".photo")];
  row.id = `query-${query + 1}`;
  row.dataset.query = query;
  row.setAttribute("aria-labelledby", number);
  photo.dataset.column = 0;
  setPhoto(photo, queries.picture[query], `Query ${query + 1}`);
  Object.assign(row.querySelector(".number"), {
    id: number, textContent: `Query ${grouped(query + 1)}`, href: `#${row.id}`,
  });
  row.querySelector(".pin").hidden = !HAS.map;
  setName(row.querySelector(".name"), queries.picture[query]);
  fillOutcome(row.querySelector(".outcome"), query);
  const boxes = { near: ".neighbours", missed: ".missed", other: ".others" };
  allMatches(query).forEach((match, at) => {
    const item = match.group === "missed" ? missedCell(match, at + 1) : matchItem(match, at + 1);
    row.querySelector(boxes[match.group]).append(item);
  });
  if (report.other) {
    row.querySelector(".versus").textContent = report.other.title;
    row.querySelector(".others").setAttribute("aria-label", `Nearest by ${report.other.title}`);
    for (const part of row.querySelectorAll(".versus, .others")) part.hidden = false;
  }
  showHeat(row, query);
  return row;
}

/* Where the model looks: a veil over the cells that do not move the descriptor. */

let heatShown = false;

// From a dark veil over what does not matter to a warm light on what does.
function heatColour(level) {
  return level < 0.5
    ? [12, 14, 24, 165 * (1 - 2 * level)]
    : [255, 170, 30, 140 * (2 * level - 1)];
}

function heatCells(query, which) {
  const [height, width, ...maps] = report.saliency[query];
  const levels = Array.from(atob(maps[which]), (letter) => letter.charCodeAt(0) / 255);
  const pixels = Uint8ClampedArray.from(levels.flatMap(heatColour));
  const canvas = element("canvas", { width, height });
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas;
}

function setHeat(photo, query, which) {
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

export function toggleHeat() {
  heatShown = !heatShown;
  for (const id of ["show-heat", "larger-heat"]) byId(id).setAttribute("aria-pressed", heatShown);
  for (const row of list.box.children) showHeat(row, row.dataset.query);
  if (larger.dialog.open) showHeat(larger.dialog, larger.query);
}

/* A query and one of its matches side by side, larger */

const larger = { dialog: byId("larger"), query: 0, place: 0 };

function setPane(pane, picture, head, ...texts) {
  pane.querySelector(".caption").replaceChildren(
    element("strong", {}, head), element("span", {}, joined(...texts)));
  pane.querySelector(".path").textContent = picturePath(picture);
}

function showLarger(query, place) {
  const matches = allMatches(query);
  Object.assign(larger, { query, place: clamp(place, 0, matches.length - 1) });
  const match = matches[larger.place];
  const [left, right] = larger.dialog.querySelectorAll(".pane");
  const which = match.group === "missed"
    ? "nearest true positive"
    : `match ${match.rank}${runText(match) || ` of ${report.m}`}`;
  byId("larger-title").textContent = `Query ${grouped(query + 1)}, ${which}`;
  setPhoto(left.querySelector(".photo"), queries.picture[query], `Query ${query + 1}`);
  setMatchPhoto(right.querySelector(".photo"), match);
  right.querySelector(".photo").dataset.column = larger.place + 1;
  const labels = report.labels.map(({ name, values, of }) => `${name}: ${values[of[query]]}`);
  setPane(left, queries.picture[query], "Query", outcomeText(query), ...labels);
  const distance = match.distance === null ? "" : `distance ${distanceText(match.distance)}`;
  setPane(right, pictureOfDatabase[match.database], `Rank ${grouped(match.rank)}`,
    distance, scoreText(match.distance), metresText(match.metres));
  byId("previous").disabled = larger.place === 0;
  byId("next").disabled = larger.place === matches.length - 1;
  right.querySelector(".heat")?.remove();
  showHeat(larger.dialog, query);
  setCurrent(query);
}

export const stepMatch = (by) => showLarger(larger.query, larger.place + by);

// To the same match of the next query that is listed.
export function stepQuery(by) {
  showLarger(queryBeside(larger.query, by), larger.place);
}

export function leaveForMap() {
  larger.dialog.close();
  openMap(larger.query);
}

export function bindPhotos() {
  // Where the keys led is where the list goes on.
  larger.dialog.addEventListener("close", () => focusPhoto(larger.query, larger.place + 1));
  list.box.addEventListener("click", ({ target }) => {
    const query = Number(target.closest(".query")?.dataset.query);
    const photo = target.closest(".photo");
    if (photo && allMatches(query).length) {
      larger.dialog.showModal();
      showLarger(query, Number(photo.dataset.column) - 1);
    }
    if (target.closest(".pin")) openMap(query);
  });
}
