/* A map: where the database and the listed queries are, and where the wrong ones were taken to be. */

import {
  QUERIES, allMatches, byId, grouped, isWrong, missedMatches, nearMatches, oncePerFrame, outcomes,
  queries, report,
} from "./data.js";
import { list } from "./list.js";

const metresOf = (column) => Float64Array.from(column, (value) => (value === null ? NaN : value / 10));
const pointsOf = ([east, north]) => ({ east: metresOf(east), north: metresOf(north) });
export const places = report.map && {
  database: pointsOf(report.map.database), queries: pointsOf(report.map.queries),
};
export const atlas = {
  dialog: byId("atlas"),
  // A map is a canvas, what it shows (its middle in metres, pixels per metre), and its sizes.
  large: { canvas: byId("atlas-canvas"), east: 0, north: 0, scale: 1, square: 3, line: 1, radius: 3.5 },
  small: { canvas: null, east: 0, north: 0, scale: 1, square: 2, line: 0.75, radius: 2 },
  selected: -1, // a query
  pointers: new Map(), // those that press, and where
  moved: 0, // pixels since the first of them pressed
};

/* From metres to pixels and back */

export const acrossOf = (map, east) => map.canvas.clientWidth / 2 + (east - map.east) * map.scale;
export const downOf = (map, north) => map.canvas.clientHeight / 2 - (north - map.north) * map.scale;

export function pixelsOf(map, points, index) {
  return [acrossOf(map, points.east[index]), downOf(map, points.north[index])];
}

function fit(map, queryIndices, databaseIndices) {
  let [west, east, south, north] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [points, indices] of [[places.queries, queryIndices], [places.database, databaseIndices]]) {
    for (const index of indices) {
      const [x, y] = [points.east[index], points.north[index]];
      if (Number.isNaN(x + y)) continue;
      [west, east] = [Math.min(west, x), Math.max(east, x)];
      [south, north] = [Math.min(south, y), Math.max(north, y)];
    }
  }
  if (west > east) return;
  const { clientWidth: width, clientHeight: height } = map.canvas;
  const margin = Math.min(36, width / 12);
  const across = Math.max(width - 2 * margin, 1) / Math.max(east - west, 20);
  const down = Math.max(height - 2 * margin, 1) / Math.max(north - south, 20);
  map.scale = Math.min(across, down);
  map.east = (west + east) / 2;
  map.north = (south + north) / 2;
}

const firstDatabase = (query) => (report.m ? queries.near[query * report.m] : -1);

// Everything, or what is listed where that is not everything.
export function fitListed(map) {
  const everything = list.listed.length === QUERIES;
  fit(map, list.listed, everything
    ? places.database.east.keys()
    : Array.from(list.listed, firstDatabase).filter((index) => index >= 0));
}

export function fitQuery(map, query) {
  fit(map, [query], allMatches(query).map((match) => match.database));
  map.scale = Math.min(map.scale, 4);
}

/* Drawing */

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

function drawMap(map) {
  const { clientWidth: width, clientHeight: height } = map.canvas;
  if (!width || !height) return;
  const ratio = devicePixelRatio || 1;
  map.canvas.width = Math.round(width * ratio);
  map.canvas.height = Math.round(height * ratio);
  const context = map.canvas.getContext("2d");
  context.scale(ratio, ratio);
  drawDatabase(context, map);
  drawErrors(context, map);
  drawQueries(context, map);
  if (map === atlas.large && atlas.selected >= 0) drawSelected(context, map, atlas.selected);
  drawScaleBar(context, map);
}

// One dot for all that fall on the same pixels: a hundred thousand photos are drawn at once.
function visibleDots(map, points, indices, draw) {
  const cell = 1.5;
  const { clientWidth: width, clientHeight: height } = map.canvas;
  const columns = Math.ceil(width / cell) + 1;
  const taken = new Uint8Array(columns * (Math.ceil(height / cell) + 1));
  for (const index of indices) {
    const [x, y] = pixelsOf(map, points, index);
    if (!(x >= 0 && x < width && y >= 0 && y < height)) continue;
    const at = Math.floor(y / cell) * columns + Math.floor(x / cell);
    if (taken[at]) continue;
    taken[at] = 1;
    draw(x, y);
  }
}

function drawDatabase(context, map) {
  context.fillStyle = colour("--map-database");
  const size = map.square;
  visibleDots(map, places.database, places.database.east.keys(), (x, y) => {
    context.fillRect(x - size / 2, y - size / 2, size, size);
  });
}

function drawLine(context, from, to) {
  context.moveTo(...from);
  context.lineTo(...to);
}

function drawErrors(context, map) {
  context.beginPath();
  for (const query of list.listed) {
    const index = firstDatabase(query);
    if (!isWrong(query) || index < 0) continue;
    drawLine(context, pixelsOf(map, places.queries, query), pixelsOf(map, places.database, index));
  }
  context.strokeStyle = colour("--wrong-frame");
  context.lineWidth = map.line;
  context.globalAlpha = 0.45;
  context.stroke();
  context.globalAlpha = 1;
}

function drawDisc(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function queryColour(outcome) {
  return colour({ right: "--right", later: "--wrong", lost: "--wrong" }[outcome] ?? "--quiet");
}

function drawQueries(context, map) {
  for (const outcome of ["", "none", "right", "later", "lost"]) {
    const chosen = list.listed.filter((query) => outcomes[query] === outcome);
    context.fillStyle = queryColour(outcome);
    visibleDots(map, places.queries, chosen, (x, y) => drawDisc(context, x, y, map.radius));
  }
}

function drawSelected(context, map, query) {
  const from = pixelsOf(map, places.queries, query);
  for (const match of [...nearMatches(query), ...missedMatches(query)].reverse()) {
    const to = pixelsOf(map, places.database, match.database);
    context.strokeStyle = match.right === null ? colour("--ink") : colour(match.right ? "--right" : "--wrong");
    context.setLineDash(match.group === "missed" ? [4, 3] : []);
    context.lineWidth = match.place === 0 ? 2 : 1;
    context.beginPath();
    drawLine(context, from, to);
    context.stroke();
    context.setLineDash([]);
    context.beginPath();
    context.rect(to[0] - 4, to[1] - 4, 8, 8);
    context.fillStyle = colour("--raised");
    context.fill();
    context.stroke();
  }
  context.fillStyle = queryColour(outcomes[query]);
  drawDisc(context, ...from, 7);
  context.strokeStyle = colour("--raised");
  context.lineWidth = 2.5;
  context.stroke();
}

function drawScaleBar(context, map) {
  const room = Math.min(140, map.canvas.clientWidth / 3) / map.scale;
  const power = 10 ** Math.floor(Math.log10(room));
  const metres = power * ([5, 2, 1].find((times) => times * power <= room) ?? 1);
  const [right, bottom] = [map.canvas.clientWidth - 14, map.canvas.clientHeight - 14];
  const left = right - metres * map.scale;
  context.strokeStyle = context.fillStyle = colour("--ink");
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(left, bottom - 4);
  context.lineTo(left, bottom);
  context.lineTo(right, bottom);
  context.lineTo(right, bottom - 4);
  context.stroke();
  context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  context.textAlign = "right";
  context.lineWidth = 3;
  context.strokeStyle = colour("--map-paper");
  const text = metres >= 1000 ? `${grouped(metres / 1000)} km` : `${metres} m`;
  context.strokeText(text, right, bottom - 8);
  context.fillText(text, right, bottom - 8);
}

// After the list, which is what is waited for.
const drawAfterFrame = oncePerFrame(() => setTimeout(() => {
  if (!atlas.dialog.open) fitListed(atlas.small);
  drawMap(atlas.dialog.open ? atlas.large : atlas.small);
}));

export function drawMapsSoon() {
  if (report.map) drawAfterFrame();
}
