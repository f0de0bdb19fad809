/* A query and one of its matches side by side, larger. */

import { openMap } from "./atlas.js";
import {
  byId, clamp, distanceText, element, grouped, joined, metresText, missedMatch, nearMatches,
  otherMatches, outcomeText, pictureOfDatabase, picturePath, queries, report, scoreText,
} from "./data.js";
import { focusPhoto, list, setCurrent } from "./list.js";
import { HAS_HEAT, matchWords, setHeat, setPhoto, setVerdict, toggleHeat } from "./rows.js";

const larger = { dialog: byId("larger"), query: 0, place: 0 };

export function allMatches(query) {
  const missed = missedMatch(query);
  return [...nearMatches(query), ...(missed ? [missed] : []), ...otherMatches(query)];
}

function setPane(pane, picture, words, path) {
  setPhoto(pane.querySelector(".photo"), picture, words);
  pane.querySelector(".path").textContent = path;
}

function largerTitle(match) {
  const query = `Query ${grouped(larger.query + 1)}`;
  if (match.group === "missed") return `${query}, nearest true positive`;
  if (match.group === "other") return `${query}, match ${match.rank} of ${report.other.title}`;
  return `${query}, match ${match.rank} of ${report.m}`;
}

function labelsOf(query) {
  return report.labels.map(({ name, values, of }) => `${name}: ${values[of[query]]}`);
}

function renderLarger() {
  const { query, place } = larger;
  const matches = allMatches(query);
  const match = matches[place];
  const picture = pictureOfDatabase[match.database];
  const [left, right] = [byId("pane-query"), byId("pane-match")];
  byId("larger-title").textContent = largerTitle(match);
  setPane(left, queries.picture[query], `Query ${query + 1}`, picturePath(queries.picture[query]));
  setPane(right, picture, matchWords(match), picturePath(picture));
  setVerdict(right.querySelector(".photo"), match);
  left.querySelector(".caption").replaceChildren(
    element("strong", "Query"), element("span", joined(outcomeText(query), ...labelsOf(query))));
  const distance = match.distance === null ? "" : `distance ${distanceText(match.distance)}`;
  right.querySelector(".caption").replaceChildren(
    element("strong", `Rank ${grouped(match.rank)}`),
    element("span", joined(distance, scoreText(match.distance), metresText(match.metres))));
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === matches.length - 1;
  byId("larger-heat").hidden = !HAS_HEAT;
  byId("larger-map").hidden = !report.map;
  renderLargerHeat();
}

export function renderLargerHeat() {
  if (!larger.dialog.open) return;
  setHeat(byId("pane-query").querySelector(".photo"), larger.query, 0);
  const match = byId("pane-match").querySelector(".photo");
  match.querySelector(".heat")?.remove();
  if (larger.place === 0) setHeat(match, larger.query, 1);
}

function openLarger(query, place) {
  if (!allMatches(query).length) return;
  Object.assign(larger, { query, place });
  setCurrent(query);
  larger.dialog.showModal();
  renderLarger();
}

export function stepMatch(by) {
  larger.place = clamp(larger.place + by, 0, allMatches(larger.query).length - 1);
  renderLarger();
}

// To the same match of the next query that is listed.
export function stepQuery(by) {
  const position = clamp(list.position[larger.query] + by, 0, list.listed.length - 1);
  larger.query = list.listed[position];
  larger.place = Math.min(larger.place, allMatches(larger.query).length - 1);
  setCurrent(larger.query);
  renderLarger();
}

export function bindLarger() {
  byId("previous").addEventListener("click", () => stepMatch(-1));
  byId("next").addEventListener("click", () => stepMatch(1));
  byId("larger-heat").addEventListener("click", toggleHeat);
  byId("larger-map").addEventListener("click", () => {
    larger.dialog.close();
    openMap(larger.query);
  });
  // Where the keys led is where the list goes on.
  larger.dialog.addEventListener("close", () => focusPhoto(larger.query, larger.place + 1));
  list.box.addEventListener("click", (event) => {
    const query = Number(event.target.closest(".query")?.dataset.query);
    const photo = event.target.closest(".photo");
    if (photo) openLarger(query, Math.max(Number(photo.dataset.column) - 1, 0));
    if (event.target.closest(".pin")) openMap(query);
  });
}
