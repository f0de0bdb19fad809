/* The list: pages of rows of one height, of which only those near the window exist. */

import {
  HAS, QUERIES, byId, clamp, grouped, missedMatches, oncePerFrame, outcomes, pictures, queries, report,
} from "./data.js";
import { queryRow } from "./photos.js";
import { goToHash, listEverything, rememberView, view } from "./view.js";

const ROWS = 100; // a page
const OVERSCAN = 600; // pixels above and below the window
export const list = {
  box: byId("queries"),
  listed: [], // queries in their order
  position: new Int32Array(QUERIES), // of a query in `listed`, -1 where it is not
  rows: new Map(), // query → its row
  height: 0,
  current: -1, // the query that a link, the map or the keys led to
};

/* Pages */

const firstOfPage = () => (view.page - 1) * ROWS;
const rowsOfPage = () => Math.min(ROWS, list.listed.length - firstOfPage());
const topOf = (position) => (position - firstOfPage()) * list.height;
const topOfList = () => list.box.getBoundingClientRect().top;

function setPage(page) {
  const last = Math.max(Math.ceil(list.listed.length / ROWS), 1);
  view.page = clamp(Math.trunc(page) || 1, 1, last);
  clearRows();
  const [first, count] = [firstOfPage(), rowsOfPage()];
  byId("pager").hidden = last === 1;
  byId("pages").textContent =
    `${grouped(first + 1)} – ${grouped(first + count)} of ${grouped(list.listed.length)}`;
  byId("page-before").disabled = view.page === 1;
  byId("page-after").disabled = view.page === last;
}

export function turnPage(by) {
  setPage(view.page + by);
  scrollToOffset(0);
  renderRows();
  rememberView();
}

/* Which rows exist */

// The position in the list of what lies so many pixels below the list's top, if it is on this page.
function positionAt(pixels) {
  return firstOfPage() + clamp(Math.floor(pixels / list.height), 0, rowsOfPage() - 1);
}

function nearbyPositions() {
  if (!list.listed.length) return [];
  const [top, first, count] = [topOfList(), firstOfPage(), rowsOfPage()];
  const [above, below] = [-top - OVERSCAN, innerHeight - top + OVERSCAN];
  const positions = [];
  for (let position = positionAt(above); position < first + count && topOf(position) <= below; position++) {
    positions.push(position);
  }
  // The row that has the focus stays wherever it is, or the focus would be lost.
  const focused = list.position[focusedPhoto()?.query] ?? -1;
  if (focused >= first && focused < first + count && !positions.includes(focused)) positions.push(focused);
  return positions.sort((one, other) => one - other);
}

function renderRows() {
  const wanted = nearbyPositions().map((position) => list.listed[position]);
  for (const [query, row] of list.rows) {
    if (wanted.includes(query)) continue;
    row.remove();
    list.rows.delete(query);
  }
  wanted.forEach((query, at) => {
    if (!list.rows.has(query)) list.box.insertBefore(newRow(query), list.box.children[at] ?? null);
  });
}

function newRow(query) {
  const row = queryRow(query);
  row.style.top = `${topOf(list.position[query])}px`;
  row.setAttribute("aria-posinset", list.position[query] + 1);
  row.setAttribute("aria-setsize", list.listed.length);
  if (query === list.current) row.setAttribute("aria-current", "true");
  list.rows.set(query, row);
  return row;
}

function clearRows() {
  list.box.replaceChildren();
  list.rows.clear();
  list.box.style.height = `${rowsOfPage() * list.height}px`;
}

// All rows are as high as a full one: photos have one shape, and every text is one line.
export function measureRow() {
  if (!QUERIES) return;
  const row = queryRow(Math.max(outcomes.findIndex((_, query) => missedMatches(query).length), 0));
  row.style.visibility = "hidden";
  list.box.append(row);
  list.height = Math.ceil(row.getBoundingClientRect().height);
  row.remove();
}

function remeasure() {
  const focused = focusedPhoto();
  const rowsPassed = list.height ? (barBottom() - topOfList()) / list.height : 0;
  measureRow();
  clearRows();
  if (rowsPassed > 0) scrollToOffset(rowsPassed * list.height);
  renderRows();
  if (focused) focusPhoto(focused.query, focused.column);
}

/* What is listed */

export function showListed(listed) {
  const focused = focusedPhoto();
  list.listed = listed;
  list.position.fill(-1);
  listed.forEach((query, position) => (list.position[query] = position));
  setPage(view.page);
  if (focused && list.position[focused.query] >= 0) {
    focusPhoto(focused.query, focused.column);
  } else if (topOfList() < barBottom()) {
    scrollToOffset(0); // deep in the list, another selection is read from its start
  }
  renderRows();
}

/* Scrolling */

function barBottom() {
  const bar = byId("bar");
  return getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
}

function scrollToOffset(offset) {
  scrollTo({ top: topOfList() + scrollY + offset - barBottom(), behavior: "instant" });
}

function scrollIntoSight(position) {
  const top = topOfList() + topOf(position);
  const room = Math.max(innerHeight - barBottom() - list.height, 0);
  if (top < barBottom()) scrollToOffset(topOf(position));
  else if (top + list.height > innerHeight) scrollToOffset(topOf(position) - room);
}

/* Going to a query */

export function setCurrent(query) {
  list.rows.get(list.current)?.removeAttribute("aria-current");
  list.current = query;
  list.rows.get(query)?.setAttribute("aria-current", "true");
}

export function focusedPhoto() {
  const photo = document.activeElement?.closest(".queries :is(.photo, .number, .pin)");
  if (!photo) return null;
  const query = Number(photo.closest(".query").dataset.query);
  return { query, column: Number(photo.dataset.column ?? 0) };
}

function showPageOf(query) {
  const page = Math.floor(list.position[query] / ROWS) + 1;
  if (page === view.page) return;
  setPage(page);
  rememberView();
}

export function focusPhoto(query, column) {
  showPageOf(query);
  scrollIntoSight(list.position[query]);
  renderRows();
  const photos = list.rows.get(query)?.querySelectorAll(".photo");
  if (!photos) return;
  setCurrent(query);
  photos[clamp(column, 0, photos.length - 1)].focus({ preventScroll: true });
}

export function stepFocus(down, across) {
  if (!list.listed.length) return;
  const focused = focusedPhoto();
  if (!focused) {
    const current = list.position[list.current] ?? -1;
    const inSight = positionAt(barBottom() - topOfList() + 0.9 * list.height);
    return focusPhoto(list.listed[current >= 0 ? current : inSight], 0);
  }
  const position = clamp(list.position[focused.query] + down, 0, list.listed.length - 1);
  focusPhoto(list.listed[position], Math.max(focused.column + across, 0));
}

export function goTo(query) {
  if (list.position[query] < 0) listEverything();
  showPageOf(query);
  scrollToOffset(topOf(list.position[query]));
  focusPhoto(query, 0);
}

/* Paper takes the page that is shown, one row below the other. */

function renderPrinted() {
  const first = firstOfPage();
  list.box.replaceChildren(...list.listed.slice(first, first + ROWS).map(queryRow));
  list.rows.clear();
}

export function bindList() {
  const soon = oncePerFrame(renderRows);
  addEventListener("scroll", soon, { passive: true });
  addEventListener("resize", soon);
  addEventListener("hashchange", goToHash);
  addEventListener("beforeprint", renderPrinted);
  addEventListener("afterprint", remeasure);
  let width = list.box.clientWidth;
  new ResizeObserver(() => {
    if (list.box.clientWidth === width) return;
    width = list.box.clientWidth;
    remeasure();
  }).observe(list.box);
}

export function setUpColumns() {
  // The frames take the shape that most photos have, so that few of them need margins.
  const shapes = queries.picture
    .map((picture) => pictures.width[picture] / pictures.height[picture])
    .sort((one, other) => one - other);
  const { style } = document.documentElement;
  style.setProperty("--aspect", clamp(shapes[Math.floor(shapes.length / 2)] ?? 4 / 3, 0.8, 1.6));
  style.setProperty("--near", Math.max(report.m, 1));
  const { classList } = document.body;
  classList.toggle("with-missed", HAS.missed);
  classList.toggle("with-other", Boolean(report.other));
  if (!QUERIES) byId("none-left").textContent = "The evaluation has no queries.";
}
