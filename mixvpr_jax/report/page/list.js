/* The list: a hundred rows a page, and the photo that has the focus. */

import { HAS, byId, clamp, grouped, pictures, queries, report } from "./data.js";
import { queryRow } from "./photos.js";
import { listEverything, rememberView, view } from "./view.js";

const ROWS = 100; // a page
export const list = {
  box: byId("queries"),
  listed: [], // queries in their order
  current: -1, // the query that a link, the map or the keys led to
};
const rowOf = (query) => byId(`query-${query + 1}`);

/* Pages */

function showPage(page) {
  const last = Math.max(Math.ceil(list.listed.length / ROWS), 1);
  view.page = clamp(Math.trunc(page) || 1, 1, last);
  const first = (view.page - 1) * ROWS;
  const shown = list.listed.slice(first, first + ROWS);
  list.box.replaceChildren(...shown.map((query, at) => newRow(query, first + at)));
  byId("pager").hidden = last === 1;
  byId("pages").textContent =
    `${grouped(first + 1)} – ${grouped(first + shown.length)} of ${grouped(list.listed.length)}`;
  byId("page-before").disabled = view.page === 1;
  byId("page-after").disabled = view.page === last;
}

function newRow(query, position) {
  const row = queryRow(query);
  row.setAttribute("aria-posinset", position + 1);
  row.setAttribute("aria-setsize", list.listed.length);
  if (query === list.current) row.setAttribute("aria-current", "true");
  return row;
}

export function turnPage(by) {
  showPage(view.page + by);
  list.box.scrollIntoView();
  rememberView();
}

export function showListed(listed) {
  const focused = focusedPhoto();
  list.listed = listed;
  showPage(view.page);
  if (listed.includes(focused?.query)) focusPhoto(focused.query, focused.column);
  // Deep in the list, another selection is read from its start.
  else if (list.box.getBoundingClientRect().top < 0) list.box.scrollIntoView();
}

/* Going to a query */

// That of the list which is so many places further, or the last one there.
export function queryBeside(query, by) {
  return list.listed[clamp(list.listed.indexOf(query) + by, 0, list.listed.length - 1)];
}

export function setCurrent(query) {
  rowOf(list.current)?.removeAttribute("aria-current");
  list.current = query;
  rowOf(query)?.setAttribute("aria-current", "true");
}

export function focusedPhoto() {
  const focused = document.activeElement;
  const row = focused?.closest(".query");
  return row && { query: Number(row.dataset.query), column: Number(focused.dataset.column ?? 0) };
}

export function focusPhoto(query, column, block = "nearest") {
  const page = Math.floor(list.listed.indexOf(query) / ROWS) + 1;
  if (page && page !== view.page) {
    showPage(page);
    rememberView();
  }
  const row = rowOf(query);
  if (!row) return;
  const photos = row.querySelectorAll(".photo");
  photos[clamp(column, 0, photos.length - 1)].focus({ preventScroll: true });
  row.scrollIntoView({ block });
  setCurrent(query);
}

export function stepFocus(down, across) {
  const focused = focusedPhoto();
  if (focused) return focusPhoto(queryBeside(focused.query, down), focused.column + across);
  const rows = [...list.box.children];
  const hidden = byId("bar").offsetHeight + 40;
  const inSight = rows.find((row) => row.getBoundingClientRect().bottom > hidden);
  const row = rowOf(list.current) ?? inSight ?? rows.at(-1);
  if (row) focusPhoto(Number(row.dataset.query), 0);
}

export function goTo(query) {
  if (!list.listed.includes(query)) listEverything();
  focusPhoto(query, 0, "start");
}

export function setUpList() {
  // The frames take the shape that most photos have, so that few of them need margins.
  const shapes = queries.picture
    .map((picture) => pictures.width[picture] / pictures.height[picture])
    .sort((one, other) => one - other);
  const { style } = document.documentElement;
  style.setProperty("--aspect", clamp(shapes[Math.floor(shapes.length / 2)] ?? 4 / 3, 0.8, 1.6));
  style.setProperty("--near", Math.max(report.m, report.other?.m ?? 0, 1));
  document.body.classList.toggle("with-missed", HAS.missed);
  // Rows stop below the bar, and the one that has the focus stays in sight in every width.
  new ResizeObserver(() => {
    style.setProperty("--bar", `${byId("bar").offsetHeight}px`);
    document.activeElement.closest(".query")?.scrollIntoView({ block: "nearest" });
  }).observe(byId("bar"));
}
