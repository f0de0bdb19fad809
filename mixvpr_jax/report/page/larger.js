/* A query and one of its matches side by side, larger. */

import { openMap } from "./atlas.js";
import {
  allMatches, byId, clamp, distanceText, element, grouped, joined, metresText, outcomeText,
  pictureOfDatabase, picturePath, queries, report, scoreText,
} from "./data.js";
import { focusPhoto, list, setCurrent } from "./list.js";
import { setHeat, setMatchPhoto, setPhoto } from "./rows.js";

const larger = { dialog: byId("larger"), query: 0, place: 0 };

function setPane(pane, picture, head, text) {
  pane.querySelector(".caption").replaceChildren(
    element("strong", {}, head), element("span", {}, text));
  pane.querySelector(".path").textContent = picturePath(picture);
}

function largerTitle(match) {
  const query = `Query ${grouped(larger.query + 1)}`;
  if (match.group === "missed") return `${query}, nearest true positive`;
  if (match.group === "other") return `${query}, match ${match.rank} of ${report.other.title}`;
  return `${query}, match ${match.rank} of ${report.m}`;
}

function renderLarger() {
  const { query, place } = larger;
  const matches = allMatches(query);
  const match = matches[place];
  const [left, right] = [byId("pane-query"), byId("pane-match")];
  byId("larger-title").textContent = largerTitle(match);
  setPhoto(left.querySelector(".photo"), queries.picture[query], `Query ${query + 1}`);
  setMatchPhoto(right.querySelector(".photo"), match);
  const labels = report.labels.map(({ name, values, of }) => `${name}: ${values[of[query]]}`);
  setPane(left, queries.picture[query], "Query", joined(outcomeText(query), ...labels));
  const distance = match.distance === null ? "" : `distance ${distanceText(match.distance)}`;
  setPane(right, pictureOfDatabase[match.database], `Rank ${grouped(match.rank)}`,
    joined(distance, scoreText(match.distance), metresText(match.metres)));
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === matches.length - 1;
  renderLargerHeat();
}

export function renderLargerHeat() {
  if (!larger.dialog.open) return;
  setHeat(byId("pane-query").querySelector(".photo"), larger.query, 0);
  const match = byId("pane-match").querySelector(".photo");
  match.querySelector(".heat")?.remove();
  if (larger.place === 0) setHeat(match, larger.query, 1);
}

function showLarger(query, place) {
  Object.assign(larger, { query, place: clamp(place, 0, allMatches(query).length - 1) });
  setCurrent(query);
  renderLarger();
}

export const stepMatch = (by) => showLarger(larger.query, larger.place + by);

// To the same match of the next query that is listed.
export function stepQuery(by) {
  const position = clamp(list.position[larger.query] + by, 0, list.listed.length - 1);
  showLarger(list.listed[position], larger.place);
}

function openLarger(query, place) {
  if (!allMatches(query).length) return;
  larger.dialog.showModal();
  showLarger(query, place);
}

export function bindLarger() {
  byId("previous").addEventListener("click", () => stepMatch(-1));
  byId("next").addEventListener("click", () => stepMatch(1));
  byId("larger-map").hidden = !report.map;
  byId("larger-map").addEventListener("click", () => {
    larger.dialog.close();
    openMap(larger.query);
  });
  // Where the keys led is where the list goes on.
  larger.dialog.addEventListener("close", () => focusPhoto(larger.query, larger.place + 1));
  list.box.addEventListener("click", (event) => {
    const query = Number(event.target.closest(".query")?.dataset.query);
    const photo = event.target.closest(".photo");
    if (photo) openLarger(query, Number(photo.dataset.column) - 1);
    if (event.target.closest(".pin")) openMap(query);
  });
}
