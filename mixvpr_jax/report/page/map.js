/* The map: where the database and the listed queries are, and where the wrong ones were taken to be. */

import {
  QUERIES, allMatches, byId, clamp, distanceText, element, grouped, isWrong, joined, matchesIn,
  metresText, outcomeText, outcomes, queries, report,
} from "./data.js";
import { figure } from "./figures.js";
import { goTo, list, queryBeside } from "./list.js";
import { setMatchPhoto, setPhoto } from "./photos.js";
import { countText } from "./view.js";

const pointsOf = ([east, north]) => east.map((x, at) => [x ?? NaN, north[at] ?? NaN]);
export const places = report.map && {
  database: pointsOf(report.map.database), queries: pointsOf(report.map.queries),
};

// What a canvas shows: its middle in metres, and pixels per metre. `size` is that of its dots.
function mapOn(canvas, size) {
  const scaleBar = element("span", { className: "scale-bar" });
  return { canvas, scaleBar, size, context: canvas.getContext("2d"), east: 0, north: 0, scale: 1 };
}

export const atlas = {
  dialog: byId("atlas"),
  large: mapOn(byId("atlas-canvas"), 1),
  small: mapOn(element("canvas"), 0.6),
  selected: -1, // a query
  pointers: new Map(), // those that press, and where
  moved: 0, // pixels since the first of them pressed
};

/* From metres to pixels */

export function pixelsOf({ canvas, east, north, scale }, [x, y]) {
  return [canvas.clientWidth / 2 + (x - east) * scale, canvas.clientHeight / 2 - (y - north) * scale];
}

function fit(map, points) {
  let [west, east, south, north] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [x, y] of points) {
    if (Number.isNaN(x + y)) continue;
    [west, east] = [Math.min(west, x), Math.max(east, x)];
    [south, north] = [Math.min(south, y), Math.max(north, y)];
  }
  if (west > east) return;
  const { clientWidth: width, clientHeight: height } = map.canvas;
  const margin = Math.min(36, width / 12);
  const across = Math.max(width - 2 * margin, 1) / Math.max(east - west, 20);
  const down = Math.max(height - 2 * margin, 1) / Math.max(north - south, 20);
  Object.assign(map, {
    scale: Math.min(across, down), east: (west + east) / 2, north: (south + north) / 2,
  });
}

const placeOf = (query) => places.queries[query];
// Where its first match is.
const takenFor = (query) => places.database[queries.near[query * report.m]];

// Everything, or what is listed where that is not everything.
function fitListed(map) {
  const everything = list.listed.length === QUERIES;
  const database = everything ? places.database : list.listed.map(takenFor);
  fit(map, list.listed.map(placeOf).concat(database));
}

function fitQuery(map, query) {
  fit(map, [placeOf(query), ...allMatches(query).map(({ database }) => places.database[database])]);
  map.scale = Math.min(map.scale, 4);
}

/* Drawing */

// Of a name in the style, in the scheme of the page.
function colour(name) {
  byId("atlas-canvas").style.color = `var(${name})`;
  return getComputedStyle(byId("atlas-canvas")).color;
}

// Of queries by their outcomes, in the order in which they are drawn.
const COLOURS = { "": "--quiet", none: "--quiet", right: "--right", later: "--wrong", lost: "--wrong" };

function drawMap(map) {
  const { canvas, context, size } = map;
  canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
  canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
  context.scale(devicePixelRatio, devicePixelRatio);
  drawDots(map, places.database, "--map-database", (x, y) =>
    context.fillRect(x - 1.5 * size, y - 1.5 * size, 3 * size, 3 * size));
  drawErrors(map);
  for (const [outcome, name] of Object.entries(COLOURS)) {
    const chosen = list.listed.filter((query) => outcomes[query] === outcome);
    drawDots(map, chosen.map(placeOf), name, (x, y) => drawDisc(context, x, y, 3.5 * size));
  }
  if (map === atlas.large && atlas.selected >= 0) drawSelected(map, atlas.selected);
  showScale(map);
}

// One dot for all that fall on the same pixel: a hundred thousand photos are drawn at once.
function drawDots(map, points, name, draw) {
  const { clientWidth: width, clientHeight: height } = map.canvas;
  const taken = new Uint8Array(width * height);
  map.context.fillStyle = colour(name);
  for (const point of points) {
    const [x, y] = pixelsOf(map, point);
    if (!(x >= 0 && x < width && y >= 0 && y < height)) continue;
    const pixel = Math.floor(y) * width + Math.floor(x);
    if (!taken[pixel]) draw(x, y);
    taken[pixel] = 1;
  }
}

function drawDisc(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function drawLine(context, from, to) {
  context.moveTo(...from);
  context.lineTo(...to);
}

function drawErrors(map) {
  const { context } = map;
  context.beginPath();
  for (const query of list.listed.filter(isWrong)) {
    drawLine(context, pixelsOf(map, placeOf(query)), pixelsOf(map, takenFor(query)));
  }
  context.strokeStyle = colour("--wrong-frame");
  context.lineWidth = map.size;
  context.globalAlpha = 0.45;
  context.stroke();
  context.globalAlpha = 1;
}

function drawSelected(map, query) {
  const { context } = map;
  const from = pixelsOf(map, placeOf(query));
  for (const { group, place, database, verdict } of allMatches(query).reverse()) {
    if (group === "other") continue;
    const [x, y] = pixelsOf(map, places.database[database]);
    context.strokeStyle = context.fillStyle = colour(verdict ? `--${verdict}` : "--ink");
    context.setLineDash(group === "missed" ? [4, 3] : []);
    context.lineWidth = place === 0 ? 2 : 1;
    context.beginPath();
    drawLine(context, from, [x, y]);
    context.stroke();
    context.fillRect(x - 4, y - 4, 8, 8);
  }
  context.fillStyle = colour(COLOURS[outcomes[query]]);
  drawDisc(context, ...from, 7);
}

function showScale({ canvas, scale, scaleBar }) {
  const room = Math.min(140, canvas.clientWidth / 3) / scale;
  const power = 10 ** Math.floor(Math.log10(room));
  const metres = power * ([5, 2, 1].find((times) => times * power <= room) ?? 1);
  scaleBar.style.width = `${metres * scale}px`;
  scaleBar.textContent = metres >= 1000 ? `${grouped(metres / 1000)} km` : `${metres} m`;
}

let awaited = 0;

export function drawMapsSoon() {
  if (!report.map) return;
  cancelAnimationFrame(awaited);
  // After the list, which is what is waited for.
  awaited = requestAnimationFrame(() => setTimeout(() => {
    if (!atlas.dialog.open) fitListed(atlas.small);
    drawMap(atlas.dialog.open ? atlas.large : atlas.small);
  }));
}

/* The large map, which is moved, asked and left for the list */

export function openMap(query = -1) {
  if (!report.map) return;
  if (!atlas.dialog.open) atlas.dialog.showModal();
  byId("atlas-title").textContent = `Map of ${countText()}`;
  if (query >= 0 && !Number.isNaN(placeOf(query)[0])) fitQuery(atlas.large, query);
  else fitListed(atlas.large);
  atlas.large.canvas.focus();
  select(query);
}

function select(query) {
  atlas.selected = query;
  byId("card").hidden = query < 0;
  if (query >= 0) renderCard(query);
  drawMapsSoon();
}

function renderCard(query) {
  const [own, taken] = byId("card").querySelectorAll(".photo");
  const [first] = matchesIn("near", query);
  const texts = [outcomeText(query), distanceText(first.distance), metresText(first.metres)];
  setPhoto(own, queries.picture[query]);
  setMatchPhoto(taken, first);
  byId("card").querySelector(".card-text").replaceChildren(
    element("strong", {}, `Query ${grouped(query + 1)}`), element("span", {}, joined(...texts)));
}

export function leaveForList() {
  atlas.dialog.close();
  if (atlas.selected >= 0) goTo(atlas.selected);
}

export function stepSelected(by) {
  const query = queryBeside(atlas.selected, by);
  if (query === undefined) return;
  fitQuery(atlas.large, query);
  select(query);
}

export function zoom(factor, x = atlas.large.canvas.clientWidth / 2, y = atlas.large.canvas.clientHeight / 2) {
  const map = atlas.large;
  const scale = clamp(map.scale * factor, 1e-5, 200);
  const metres = 1 / map.scale - 1 / scale; // a pixel's, more than after
  map.east += (x - map.canvas.clientWidth / 2) * metres;
  map.north -= (y - map.canvas.clientHeight / 2) * metres;
  map.scale = scale;
  drawMapsSoon();
}

export function pan(across, down) {
  atlas.large.east -= across / atlas.large.scale;
  atlas.large.north += down / atlas.large.scale;
  drawMapsSoon();
}

/* Pointers: one drags, two pinch; without either, what lies under the pointer is shown. */

function queryAt(x, y) {
  let [nearest, least] = [-1, 12 ** 2];
  for (const query of list.listed) {
    const [across, down] = pixelsOf(atlas.large, placeOf(query));
    const squared = (across - x) ** 2 + (down - y) ** 2 - (isWrong(query) ? 1 : 0);
    if (squared < least) [nearest, least] = [query, squared];
  }
  return nearest;
}

function pointerMoved({ pointerId, offsetX: x, offsetY: y }) {
  const before = atlas.pointers.get(pointerId);
  if (!before) {
    const query = queryAt(x, y);
    atlas.large.canvas.style.cursor = query >= 0 ? "pointer" : "grab";
    if (query >= 0 && query !== atlas.selected) select(query);
    return;
  }
  atlas.pointers.set(pointerId, { x, y });
  atlas.moved += Math.abs(x - before.x) + Math.abs(y - before.y);
  const other = [...atlas.pointers].find(([id]) => id !== pointerId)?.[1];
  if (!other) return pan(x - before.x, y - before.y);
  const apart = Math.hypot(before.x - other.x, before.y - other.y);
  zoom(Math.hypot(x - other.x, y - other.y) / Math.max(apart, 1), other.x, other.y);
}

function pointerDown({ target, pointerId, offsetX: x, offsetY: y }) {
  byId("map-hint").hidden = true;
  if (!atlas.pointers.size) atlas.moved = 0;
  target.setPointerCapture(pointerId);
  atlas.pointers.set(pointerId, { x, y });
}

// A mouse has seen the card already; a finger sees it first, and the card leads on.
function pointerUp({ type, pointerId, pointerType, offsetX, offsetY }) {
  atlas.pointers.delete(pointerId);
  if (type !== "pointerup" || atlas.moved > 6) return;
  select(queryAt(offsetX, offsetY));
  if (atlas.selected >= 0 && pointerType === "mouse") leaveForList();
}

function wheelTurned(event) {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / (event.deltaMode ? 20 : 400)), event.offsetX, event.offsetY);
}

export function setUpMap() {
  if (!report.map) return;
  const { large, small } = atlas;
  const open = element("button", {
    id: "preview", className: "preview sheet", ariaLabel: "Open the map",
  }, small.canvas, small.scaleBar);
  figure("Map", open);
  large.canvas.after(large.scaleBar);
  Object.assign(large.canvas, {
    onpointerdown: pointerDown, onpointermove: pointerMoved, onpointerup: pointerUp,
    onpointercancel: pointerUp, onwheel: wheelTurned,
  });
  const resized = new ResizeObserver(drawMapsSoon);
  resized.observe(large.canvas);
  resized.observe(small.canvas);
  atlas.dialog.addEventListener("close", drawMapsSoon);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMapsSoon);
}
