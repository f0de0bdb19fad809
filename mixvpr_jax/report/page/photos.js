/* A query and its matches: as a row of the list, larger side by side, and where the model looks. */

import {
  HAS, allMatches, byId, clamp, distanceText, element, grouped, joined, metresText, outcomeText,
  outcomes, pictureName, pictureOfDatabase, picturePath, pictures, plural, queries, report, scoreText,
} from "./data.js";
import { focusPhoto, list, queryBeside, setCurrent } from "./list.js";
import { openMap } from "./map.js";

const fromTemplate = (id) => byId(id).content.firstElementChild.cloneNode(true);

function setName(target, picture) {
  target.title = picturePath(picture);
  target.textContent = pictureName(picture);
}

export function setPhoto(photo, picture, ...words) {
  const image = photo.querySelector("img");
  const text = pictures.base64[picture];
  image.alt = [...words, pictureName(picture)].filter(Boolean).join(", ");
  image.dataset.picture = picture;
  if (text) image.src = `data:${pictures.mime};base64,${text}`;
  else image.removeAttribute("src"); // which shows its words
}

const runText = ({ group }) => (group === "other" ? ` of ${report.other.title}` : "");

export function setMatchPhoto(photo, match) {
  const { group, rank, database, verdict } = match;
  const words = group === "missed" ? `Nearest true positive, rank ${grouped(rank)}` : `Match ${rank}`;
  setPhoto(photo, pictureOfDatabase[database], words + runText(match), verdict);
  Object.assign(photo.dataset, { verdict, group });
}

/* A row; its columns: 0 is the query, then its matches in the order of the keys. */

function matchItem(match, column) {
  const item = fromTemplate("match-template");
  const part = (name) => item.querySelector(`.${name}`);
  item.style.setProperty("--place", match.place);
  part("photo").dataset.column = column;
  setMatchPhoto(part("photo"), match);
  part("rank").append(grouped(match.rank));
  part("apart").title = scoreText(match.distance);
  part("distance").textContent = distanceText(match.distance);
  part("metres").textContent = metresText(match.metres);
  setName(part("name"), pictureOfDatabase[match.database]);
  return item;
}

function fillOutcome(outcome, query) {
  outcome.textContent = outcomeText(query);
  outcome.dataset.outcome = outcomes[query];
  const positives = queries.positives?.[query];
  if (positives) outcome.title = `${plural(positives, "true positive", "true positives")} in the database`;
}

export function queryRow(query) {
  const row = fromTemplate("query-template");
  const part = (name) => row.querySelector(`.${name}`);
  const name = `Query ${grouped(query + 1)}`;
  Object.assign(row, { id: `query-${query + 1}`, ariaLabel: name });
  row.dataset.query = query;
  part("photo").dataset.column = 0;
  setPhoto(part("photo"), queries.picture[query], name);
  Object.assign(part("number"), { textContent: name, href: `#${row.id}` });
  setName(part("name"), queries.picture[query]);
  fillOutcome(part("outcome"), query);
  allMatches(query).forEach((match, at) => part(match.group).append(matchItem(match, at + 1)));
  if (report.other) part("other").ariaLabel = part("versus").textContent = report.other.title;
  showHeat(row, query);
  return row;
}

/* Where the model looks: a veil over the cells that do not move the descriptor. */

let heatShown = false;

// From a dark veil over what does not matter to a warm light on what does.
function heatColour(level) {
  return level < 0.5
    ? `rgb(12 14 24 / ${0.65 * (1 - 2 * level)})`
    : `rgb(255 170 30 / ${0.55 * (2 * level - 1)})`;
}

// Of the photo's shape, so that both are fitted into the frame alike.
function heatCanvas(picture, [height, width, ...maps], which) {
  const across = Math.ceil((4 * pictures.width[picture]) / width);
  const down = Math.ceil((4 * pictures.height[picture]) / height);
  const canvas = element("canvas", { className: "heat", width: across * width, height: down * height });
  const context = canvas.getContext("2d");
  Array.from(atob(maps[which]), (letter, at) => {
    context.fillStyle = heatColour(letter.charCodeAt(0) / 255);
    context.fillRect((at % width) * across, Math.floor(at / width) * down, across, down);
  });
  return canvas;
}

function setHeat(photo, query, which) {
  photo?.querySelector(".heat")?.remove();
  if (!photo || !heatShown || !report.saliency[query]) return;
  const { picture } = photo.querySelector("img").dataset;
  photo.append(heatCanvas(picture, report.saliency[query], which));
}

// On a query's photo and on its first match.
function showHeat(box, query) {
  setHeat(box.querySelector('[data-column="0"]'), query, 0);
  setHeat(box.querySelector('[data-column="1"]'), query, 1);
}

export function toggleHeat() {
  if (!HAS.heat) return;
  heatShown = !heatShown;
  for (const id of ["show-heat", "larger-heat"]) byId(id).ariaPressed = heatShown;
  for (const row of list.box.children) showHeat(row, row.dataset.query);
  if (larger.dialog.open) showHeat(larger.dialog, larger.query);
}

/* A query and one of its matches side by side, larger */

const larger = { dialog: byId("larger"), query: 0, place: 0 };

function fillPane(pane, picture, head, ...texts) {
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
  setPhoto(left.querySelector(".photo"), queries.picture[query], `Query ${grouped(query + 1)}`);
  setMatchPhoto(right.querySelector(".photo"), match);
  right.querySelector(".photo").dataset.column = larger.place + 1;
  const labels = report.labels.map(({ name, values, of }) => `${name}: ${values[of[query]]}`);
  fillPane(left, queries.picture[query], "Query", outcomeText(query), ...labels);
  const distance = match.distance === null ? "" : `distance ${distanceText(match.distance)}`;
  fillPane(right, pictureOfDatabase[match.database], `Rank ${grouped(match.rank)}`,
    distance, scoreText(match.distance), metresText(match.metres));
  byId("previous").disabled = larger.place === 0;
  byId("next").disabled = larger.place === matches.length - 1;
  right.querySelector(".heat")?.remove();
  showHeat(larger.dialog, query);
  setCurrent(query);
}

export const stepMatch = (by) => showLarger(larger.query, larger.place + by);

// To the same match of the next query that is listed.
export const stepQuery = (by) => showLarger(queryBeside(larger.query, by), larger.place);

export function leaveForMap() {
  larger.dialog.close();
  openMap(larger.query);
}

export function setUpPhotos() {
  // Where the keys led is where the list goes on.
  larger.dialog.addEventListener("close", () => focusPhoto(larger.query, larger.place + 1));
  list.box.addEventListener("click", ({ target }) => {
    const query = Number(target.closest(".query")?.dataset.query);
    const photo = target.closest(".photo");
    if (photo) {
      larger.dialog.showModal();
      larger.dialog.querySelector("[data-close]").focus();
      showLarger(query, Number(photo.dataset.column) - 1);
    }
    if (target.closest(".pin")) openMap(query);
  });
}
