/* The large map, which is moved, asked and left for the list. */

import {
  HAS_TRUTH, byId, clamp, distanceText, element, grouped, isWrong, joined, metresText, nearMatches,
  outcomeText, pictureOfDatabase, queries, report, showPicture, verdictOf,
} from "./data.js";
import { countText } from "./filters.js";
import { figure, keyItem } from "./headline.js";
import { goTo, list } from "./list.js";
import { atlas, drawMapsSoon, fitListed, fitQuery, pixelsOf, places } from "./map.js";

export function openMap(query = -1) {
  if (!report.map) return;
  if (!atlas.dialog.open) atlas.dialog.showModal();
  byId("atlas-title").textContent = `Map of ${countText()}`;
  if (query >= 0 && !Number.isNaN(places.queries.east[query])) fitQuery(atlas.large, query);
  else fitListed(atlas.large);
  select(query);
}

function select(query) {
  atlas.selected = query;
  byId("card").hidden = query < 0;
  if (query >= 0) renderCard(query);
  drawMapsSoon();
}

function renderCard(query) {
  const [first] = nearMatches(query);
  const texts = [outcomeText(query)];
  showPicture(byId("card-query"), queries.picture[query]);
  byId("card-match").hidden = !first;
  if (first) {
    showPicture(byId("card-match"), pictureOfDatabase[first.database]);
    byId("card-match").dataset.verdict = verdictOf(first);
    texts.push(distanceText(first.distance), metresText(first.metres));
  }
  byId("card").querySelector(".card-text").replaceChildren(
    element("strong", {}, `Query ${grouped(query + 1)}`), element("span", {}, joined(...texts)));
}

export function leaveForList() {
  const query = atlas.selected;
  atlas.dialog.close();
  if (query >= 0) goTo(query);
}

function queryAt(x, y) {
  let [nearest, least] = [-1, 12 ** 2];
  for (const query of list.listed) {
    const [across, down] = pixelsOf(atlas.large, places.queries, query);
    const squared = (across - x) ** 2 + (down - y) ** 2 - (isWrong(query) ? 1 : 0);
    if (squared < least) [nearest, least] = [query, squared];
  }
  return nearest;
}

export function zoom(factor, x = atlas.large.canvas.clientWidth / 2, y = atlas.large.canvas.clientHeight / 2) {
  const map = atlas.large;
  const scale = clamp(map.scale * factor, 1e-5, 200);
  const [across, down] = [x - map.canvas.clientWidth / 2, y - map.canvas.clientHeight / 2];
  map.east += across / map.scale - across / scale;
  map.north -= down / map.scale - down / scale;
  map.scale = scale;
  drawMapsSoon();
}

export function pan(across, down) {
  atlas.large.east -= across / atlas.large.scale;
  atlas.large.north += down / atlas.large.scale;
  drawMapsSoon();
}

export function stepSelected(by) {
  if (!list.listed.length) return;
  const position = atlas.selected < 0 ? -1 : list.position[atlas.selected];
  const query = list.listed[clamp(position + by, 0, list.listed.length - 1)];
  fitQuery(atlas.large, query);
  select(query);
}

/* Pointers: one drags, two pinch; without either, what lies under the pointer is shown. */

function pointerMoved(event) {
  const before = atlas.pointers.get(event.pointerId);
  if (!before) {
    const query = queryAt(event.offsetX, event.offsetY);
    atlas.large.canvas.style.cursor = query >= 0 ? "pointer" : "grab";
    if (query >= 0 && query !== atlas.selected) select(query);
    return;
  }
  const [across, down] = [event.offsetX - before.x, event.offsetY - before.y];
  atlas.moved += Math.abs(across) + Math.abs(down);
  const other = [...atlas.pointers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const apart = Math.hypot(event.offsetX - other.x, event.offsetY - other.y);
    zoom(apart / Math.max(Math.hypot(before.x - other.x, before.y - other.y), 1), other.x, other.y);
  } else {
    pan(across, down);
  }
  atlas.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
}

function pointerDown(event) {
  byId("map-hint").hidden = true;
  if (!atlas.pointers.size) atlas.moved = 0;
  event.target.setPointerCapture(event.pointerId);
  atlas.pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
}

// A mouse has seen the card already; a finger sees it first, and the card leads on.
function pointerUp(event) {
  atlas.pointers.delete(event.pointerId);
  if (event.type !== "pointerup" || atlas.moved > 6) return;
  const query = queryAt(event.offsetX, event.offsetY);
  select(query);
  if (query >= 0 && event.pointerType === "mouse") leaveForList();
}

function bindMap() {
  const { canvas } = atlas.large;
  canvas.addEventListener("pointerdown", pointerDown);
  canvas.addEventListener("pointermove", pointerMoved);
  canvas.addEventListener("pointerup", pointerUp);
  canvas.addEventListener("pointercancel", pointerUp);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / (event.deltaMode ? 20 : 400)), event.offsetX, event.offsetY);
  }, { passive: false });
  byId("zoom-in").addEventListener("click", () => zoom(1.6));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  byId("fit").addEventListener("click", () => openMap());
  byId("card").addEventListener("click", leaveForList);
  byId("show-map").addEventListener("click", () => openMap());
  new ResizeObserver(drawMapsSoon).observe(canvas);
  atlas.dialog.addEventListener("close", drawMapsSoon);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMapsSoon);
}

export function setUpMap() {
  byId("show-map").hidden = !report.map;
  if (!report.map) return;
  const kinds = HAS_TRUTH
    ? [["dot right", "right at 1"], ["dot wrong", "wrong, and a line to its first match"]]
    : [["dot", "query"]];
  byId("atlas-legend").append(
    ...[["dot database", "database"], ...kinds].map((kind) => keyItem(...kind)));
  atlas.small.canvas = element("canvas");
  const open = element("button", { className: "preview", onclick: () => openMap() }, atlas.small.canvas);
  open.setAttribute("aria-label", "Open the map");
  figure("Map", open);
  new ResizeObserver(drawMapsSoon).observe(atlas.small.canvas);
  bindMap();
}
