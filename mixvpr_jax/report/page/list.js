/* The list: pages of rows of one height, of which only those near the window exist. */

import {
  QUERIES, byId, clamp, grouped, missedMatches, oncePerFrame, outcomes, pictures, queries, report,
} from "./data.js";
import { EVERYTHING, setView, view } from "./filters.js";
import { queryRow } from "./rows.js";
import { goToHash, rememberView } from "./state.js";

const ROWS = 100; // a page
const OVERSCAN = 600; // pixels above and below the window
export const list = {
  box: byId("queries"),
  listed: new Int32Array(0), // queries in their order
  position: new Int32Array(QUERIES), // of a query in `listed`, -1 where it is not
  rows: new Map(), // query → its row
  height: 0,
  current: -1, // the query that a link, the map or the keys led to
};

/* Pages */

export const firstOfPage = () => view.page * ROWS;
export const rowsOfPage = () => Math.min(ROWS, list.listed.length - firstOfPage());
const lastPage = () => Math.max(Math.ceil(list.listed.length / ROWS) - 1, 0);
const topOf = (position) => (position - firstOfPage()) * list.height;

function renderPager() {
  byId("pager").hidden = lastPage() === 0;
  const [first, count] = [firstOfPage(), rowsOfPage()];
  byId("pages").textContent =
    `${grouped(first + 1)} – ${grouped(first + count)} of ${grouped(list.listed.length)}`;
  byId("page-before").disabled = view.page === 0;
  byId("page-after").disabled = view.page === lastPage();
}

function setPage(page) {
  view.page = clamp(page, 0, lastPage());
  clearRows();
  renderPager();
}

function turnPage(by) {
  setPage(view.page + by);
  scrollToOffset(0);
  renderRows();
  rememberView();
}

/* Which rows exist */

function nearbyPositions() {
  if (!list.listed.length) return [];
  const top = list.box.getBoundingClientRect().top;
  const [first, count] = [firstOfPage(), rowsOfPage()];
  const from = first + clamp(Math.floor((-top - OVERSCAN) / list.height), 0, count - 1);
  const to = first + clamp(Math.floor((innerHeight - top + OVERSCAN) / list.height), -1, count - 1);
  const positions = Array.from({ length: to - from + 1 }, (_, at) => from + at);
  // The row that has the focus stays wherever it is, or the focus would be lost.
  const focused = focusedPhoto();
  const kept = focused ? list.position[focused.query] : -1;
  if (kept >= first && kept < from) positions.unshift(kept);
  if (kept > to && kept < first + count) positions.push(kept);
  return positions;
}

function renderRows() {
  const wanted = nearbyPositions();
  const kept = new Set(wanted.map((position) => list.listed[position]));
  for (const [query, row] of list.rows) {
    if (kept.has(query)) continue;
    row.remove();
    list.rows.delete(query);
  }
  let next = list.box.firstElementChild;
  for (const position of wanted) {
    const query = list.listed[position];
    const present = list.rows.get(query);
    if (present) next = present.nextElementSibling;
    else list.box.insertBefore(newRow(query, position), next);
  }
}

function newRow(query, position) {
  const row = queryRow(query);
  row.style.top = `${topOf(position)}px`;
  row.setAttribute("aria-posinset", position + 1);
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
  const passed = barBottom() - list.box.getBoundingClientRect().top;
  const anchor = list.height ? passed / list.height : 0;
  measureRow();
  clearRows();
  if (anchor > 0) scrollToOffset(anchor * list.height);
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
  } else if (list.box.getBoundingClientRect().top < barBottom()) {
    scrollToOffset(0); // deep in the list, another selection is read from its start
  }
  renderRows();
}

/* Scrolling */

export function barBottom() {
  const bar = byId("bar");
  return getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
}

function scrollToOffset(offset) {
  const top = list.box.getBoundingClientRect().top + scrollY;
  scrollTo({ top: top + offset - barBottom(), behavior: "instant" });
}

function scrollIntoSight(position) {
  const top = list.box.getBoundingClientRect().top + topOf(position);
  if (top < barBottom()) scrollToOffset(topOf(position));
  else if (top + list.height > innerHeight) {
    const room = innerHeight - barBottom() - list.height;
    scrollToOffset(topOf(position) - Math.max(room, 0));
  }
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
  const page = Math.floor(list.position[query] / ROWS);
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

export function goTo(query) {
  if (list.position[query] < 0) setView(EVERYTHING);
  showPageOf(query);
  scrollToOffset(topOf(list.position[query]));
  focusPhoto(query, 0);
}

/* Paper takes the page that is shown, one row below the other. */

function renderPrinted() {
  const first = firstOfPage();
  list.box.replaceChildren(...Array.from(list.listed.slice(first, first + ROWS), queryRow));
  list.rows.clear();
}

export function bindList() {
  const soon = oncePerFrame(renderRows);
  addEventListener("scroll", soon, { passive: true });
  addEventListener("resize", soon);
  addEventListener("hashchange", goToHash);
  addEventListener("beforeprint", renderPrinted);
  addEventListener("afterprint", remeasure);
  byId("page-before").addEventListener("click", () => turnPage(-1));
  byId("page-after").addEventListener("click", () => turnPage(1));
  let width = list.box.clientWidth;
  new ResizeObserver(() => {
    if (list.box.clientWidth === width) return;
    width = list.box.clientWidth;
    remeasure();
  }).observe(list.box);
}

// The frames take the shape that most photos have, so that few of them need margins.
export function setAspect() {
  const shapes = queries.picture
    .map((picture) => pictures.width[picture] / pictures.height[picture])
    .sort((one, other) => one - other);
  const middle = shapes.length ? shapes[Math.floor(shapes.length / 2)] : 4 / 3;
  const root = document.documentElement.style;
  root.setProperty("--aspect", clamp(middle, 0.8, 1.6));
  root.setProperty("--near", Math.max(report.m, 1));
}
