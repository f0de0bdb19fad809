/* One query of the list: its photo, its neighbours, and what they missed. */

import {
  HAS_TRUTH, byId, distanceText, element, fromTemplate, grouped, metresText, missedMatch,
  nearMatches, otherMatches, outcomeText, outcomes, pictureName, pictureOfDatabase, picturePath,
  pictures, plural, queries, report, scoreText, showPicture,
  verdictOf,
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
    element("span", letters.slice(0, cut).join("")),
    element("span", letters.slice(cut).join("")),
  );
}

export function setPhoto(photo, picture, words) {
  const image = photo.querySelector("img");
  image.alt = `${words}, ${pictureName(picture)}`;
  showPicture(image, picture);
}

export function setVerdict(photo, match) {
  photo.querySelector(".badge")?.remove();
  photo.dataset.verdict = verdictOf(match) ?? "";
  photo.dataset.group = match.group;
  if (match.right !== null) photo.append(fromTemplate(`${verdictOf(match)}-badge`));
}

export function matchWords(match) {
  if (match.group === "missed") return `Nearest true positive, rank ${grouped(match.rank)}`;
  const whose = match.group === "other" ? ` of ${report.other.title}` : "";
  return `Match ${match.rank}${whose}`;
}

function matchItem(match, column) {
  const item = fromTemplate("match-template");
  item.style.setProperty("--place", match.place);
  const picture = pictureOfDatabase[match.database];
  const photo = item.querySelector(".photo");
  photo.dataset.column = column;
  setPhoto(photo, picture, matchWords(match));
  setVerdict(photo, match);
  item.querySelector(".rank").textContent = grouped(match.rank);
  const figures = [["distance", distanceText(match.distance)], ["metres", metresText(match.metres)]];
  item.querySelector(".apart").append(
    ...figures.filter(([, text]) => text).map(([name, text]) => element("span", text, name)));
  item.querySelector(".apart").title = scoreText(match.distance);
  setName(item.querySelector(".name"), picture);
  return item;
}

function missedCell(match, column) {
  const cell = element("div", "", "match");
  cell.append(...matchItem(match, column).children);
  cell.querySelector(".rank").prepend(element("span", "rank ", "wordy"));
  return cell;
}

export function queryRow(query) {
  const row = fromTemplate("query-template");
  const picture = queries.picture[query];
  row.id = `query-${query + 1}`;
  row.dataset.query = query;
  row.setAttribute("aria-labelledby", `number-${query + 1}`);
  setPhoto(row.querySelector(".photo"), picture, `Query ${query + 1}`);
  row.querySelector(".photo").dataset.column = 0;
  const number = row.querySelector(".number");
  number.id = `number-${query + 1}`;
  number.textContent = `Query ${grouped(query + 1)}`;
  number.href = `#${row.id}`;
  row.querySelector(".pin").hidden = !report.map;
  const outcome = row.querySelector(".outcome");
  outcome.hidden = !HAS_TRUTH;
  outcome.textContent = outcomeText(query);
  const missed = missedMatch(query);
  if (missed) {
    outcome.append(element("span", `nearest true positive at rank ${grouped(missed.rank)}`, "further"));
  }
  outcome.dataset.outcome = outcomes[query];
  if (queries.positives?.[query]) {
    outcome.title = `${plural(queries.positives[query], "true positive", "true positives")} in the database`;
  }
  setName(row.querySelector(".asked .name"), picture);
  fillMatches(row, query);
  setHeat(row.querySelector(".asked .photo"), query, 0);
  return row;
}

// Columns: 0 is the query, then its matches in the order of the keys.
function fillMatches(row, query) {
  const near = nearMatches(query);
  row.querySelector(".neighbours").append(...near.map((match) => matchItem(match, match.place + 1)));
  if (near.length) setHeat(row.querySelector('[data-column="1"]'), query, 1);
  const missed = missedMatch(query);
  if (missed) row.querySelector(".missed").append(missedCell(missed, report.m + 1));
  if (!report.other) return;
  const others = row.querySelector(".others");
  const before = report.m + (missed ? 2 : 1);
  others.append(...otherMatches(query).map((match) => matchItem(match, before + match.place)));
  others.setAttribute("aria-label", `Nearest by ${report.other.title}`);
  others.hidden = row.querySelector(".versus").hidden = false;
  row.querySelector(".versus").textContent = report.other.title;
}

/* Where the model looks: a veil over the cells that do not move the descriptor. */

const heat = { shown: false };
export const HAS_HEAT = Object.keys(report.saliency).length > 0;

function heatCells(query, which) {
  const [height, width, ...maps] = report.saliency[query];
  const levels = Uint8Array.from(atob(maps[which]), (letter) => letter.charCodeAt(0));
  const cells = new ImageData(width, height);
  levels.forEach((level, at) => cells.data.set(heatColour(level / 255), 4 * at));
  const canvas = element("canvas");
  canvas.width = width;
  canvas.height = height;
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
  if (!heat.shown || !report.saliency[query]) return;
  const image = photo.querySelector("img");
  const canvas = element("canvas", "", "heat");
  const picture = Number(image.dataset.picture);
  // Of the photo's shape, so that both are fitted into the frame alike.
  canvas.width = 2 * pictures.width[picture];
  canvas.height = 2 * pictures.height[picture];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(heatCells(query, which), 0, 0, canvas.width, canvas.height);
  image.after(canvas);
}

export function toggleHeat() {
  if (!HAS_HEAT) return;
  heat.shown = !heat.shown;
  for (const id of ["show-heat", "larger-heat"]) byId(id).setAttribute("aria-pressed", heat.shown);
  for (const row of list.rows.values()) {
    const query = Number(row.dataset.query);
    setHeat(row.querySelector(".asked .photo"), query, 0);
    const first = row.querySelector('[data-column="1"]');
    if (first) setHeat(first, query, 1);
  }
  renderLargerHeat();
}
