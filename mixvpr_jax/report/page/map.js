/* A map: where the database and the listed queries are, and where the wrong ones were taken to be. */

import {
  QUERIES, byId, grouped, missedMatch, nearMatches, outcomes, queries, report,
} from "./data.js";
import { allMatches } from "./larger.js";
import { list } from "./list.js";

const metresOf = (column) => Float64Array.from(column, (value) => (value === null ? NaN : value / 10));
export const places = report.map && {
  database: { east: metresOf(report.map.database[0]), north: metresOf(report.map.database[1]) },
  queries: { east: metresOf(report.map.queries[0]), north: metresOf(report.map.queries[1]) },
};
export const atlas = {
  dialog: byId("atlas"),
  // A map is a canvas and what it shows: its middle in metres, and pixels per metre.
  large: { canvas: byId("atlas-canvas"), east: 0, north: 0, scale: 1 },
  small: { canvas: null, east: 0, north: 0, scale: 1 },
  selected: -1, // a query
  pointers: new Map(), // those that press, and where
  moved: 0, // pixels since the first of them pressed
};

/* From metres to pixels and back */

export const acrossOf = (map, east) => map.canvas.clientWidth / 2 + (east - map.east) * map.scale;
export const downOf = (map, north) => map.canvas.clientHeight / 2 - (north - map.north) * map.scale;

function extent(points, indices, box) {
  for (const index of indices) {
    const [east, north] = [points.east[index], points.north[index]];
    if (Number.isNaN(east + north)) continue;
    box.west = Math.min(box.west, east);
    box.east = Math.max(box.east, east);
    box.south = Math.min(box.south, north);
    box.north = Math.max(box.north, north);
  }
  return box;
}

const emptyBox = () => ({ west: Infinity, east: -Infinity, south: Infinity, north: -Infinity });

function fitBox(map, box) {
  if (box.west > box.east) return;
  const margin = Math.min(36, map.canvas.clientWidth / 12);
  const across = Math.max(map.canvas.clientWidth - 2 * margin, 1) / Math.max(box.east - box.west, 20);
  const down = Math.max(map.canvas.clientHeight - 2 * margin, 1) / Math.max(box.north - box.south, 20);
  map.scale = Math.min(across, down);
  map.east = (box.west + box.east) / 2;
  map.north = (box.south + box.north) / 2;
}

// Everything, or what is listed where that is not everything.
export function fitListed(map) {
  const box = extent(places.queries, list.listed, emptyBox());
  if (list.listed.length === QUERIES) extent(places.database, places.database.east.keys(), box);
  else extent(places.database, Array.from(list.listed, firstDatabase).filter((index) => index >= 0), box);
  fitBox(map, box);
}

export function fitQuery(map, query) {
  const matches = allMatches(query).map((match) => match.database);
  fitBox(map, extent(places.database, matches, extent(places.queries, [query], emptyBox())));
  map.scale = Math.min(map.scale, 4);
}

const firstDatabase = (query) => (report.m ? queries.near[query * report.m] : -1);

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
function visibleDots(map, points, indices, cell, draw) {
  const { clientWidth: width, clientHeight: height } = map.canvas;
  const columns = Math.ceil(width / cell) + 1;
  const taken = new Uint8Array(columns * (Math.ceil(height / cell) + 1));
  for (const index of indices) {
    const [x, y] = [acrossOf(map, points.east[index]), downOf(map, points.north[index])];
    if (!(x >= 0 && x < width && y >= 0 && y < height)) continue;
    const at = Math.floor(y / cell) * columns + Math.floor(x / cell);
    if (taken[at]) continue;
    taken[at] = 1;
    draw(x, y);
  }
}

function drawDatabase(context, map) {
  context.fillStyle = colour("--map-database");
  const size = map === atlas.large ? 3 : 2;
  visibleDots(map, places.database, places.database.east.keys(), 1.5, (x, y) => {
    context.fillRect(x - size / 2, y - size / 2, size, size);
  });
}

export const isWrong = (query) => outcomes[query] === "later" || outcomes[query] === "lost";

function drawErrors(context, map) {
  context.beginPath();
  for (const query of list.listed) {
    const index = firstDatabase(query);
    if (!isWrong(query) || index < 0) continue;
    context.moveTo(acrossOf(map, places.queries.east[query]), downOf(map, places.queries.north[query]));
    context.lineTo(acrossOf(map, places.database.east[index]), downOf(map, places.database.north[index]));
  }
  context.strokeStyle = colour("--wrong-frame");
  context.lineWidth = map === atlas.large ? 1 : 0.75;
  context.globalAlpha = 0.45;
  context.stroke();
  context.globalAlpha = 1;
}

function queryColour(outcome) {
  return colour({ right: "--right", later: "--wrong", lost: "--wrong" }[outcome] ?? "--quiet");
}

function drawQueries(context, map) {
  const radius = map === atlas.large ? 3.5 : 2;
  for (const outcome of ["", "none", "right", "later", "lost"]) {
    const chosen = list.listed.filter((query) => outcomes[query] === outcome);
    context.fillStyle = queryColour(outcome);
    visibleDots(map, places.queries, chosen, 1.5, (x, y) => {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    });
  }
}

function drawSelected(context, map, query) {
  const from = [acrossOf(map, places.queries.east[query]), downOf(map, places.queries.north[query])];
  const missed = missedMatch(query);
  for (const match of [...nearMatches(query), ...(missed ? [missed] : [])].reverse()) {
    const to = [acrossOf(map, places.database.east[match.database]), downOf(map, places.database.north[match.database])];
    context.strokeStyle = match.right === null ? colour("--ink") : colour(match.right ? "--right" : "--wrong");
    context.setLineDash(match.group === "missed" ? [4, 3] : []);
    context.lineWidth = match.place === 0 ? 2 : 1;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    context.setLineDash([]);
    context.beginPath();
    context.rect(to[0] - 4, to[1] - 4, 8, 8);
    context.fillStyle = colour("--raised");
    context.fill();
    context.stroke();
  }
  context.beginPath();
  context.arc(...from, 7, 0, 2 * Math.PI);
  context.fillStyle = queryColour(outcomes[query]);
  context.fill();
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

function drawMaps() {
  if (atlas.dialog.open) return drawMap(atlas.large);
  fitListed(atlas.small);
  drawMap(atlas.small);
}

// After the list, which is what is waited for; however often it is asked for, once a frame.
let drawingSoon = false;

export function drawMapsSoon() {
  if (drawingSoon || !report.map) return;
  drawingSoon = true;
  requestAnimationFrame(() => setTimeout(() => {
    drawingSoon = false;
    drawMaps();
  }));
}
