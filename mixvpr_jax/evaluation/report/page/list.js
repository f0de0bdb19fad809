/* The list: rows of one height, of which only those near the window exist. */

const OVERSCAN = 600; // pixels above and below the window
const list = {
  box: byId("queries"),
  listed: new Int32Array(0), // queries in their order
  position: new Int32Array(QUERIES), // of a query in `listed`, -1 where it is not
  rows: new Map(), // query → its row
  height: 0,
  current: -1, // the query that a link, the map or the keys led to
};

/* Which rows exist */

function nearbyPositions() {
  if (!list.listed.length) return [];
  const top = list.box.getBoundingClientRect().top;
  const last = list.listed.length - 1;
  const from = clamp(Math.floor((-top - OVERSCAN) / list.height), 0, last);
  const to = clamp(Math.floor((innerHeight - top + OVERSCAN) / list.height), -1, last);
  const positions = [];
  for (let position = from; position <= to; position++) positions.push(position);
  // The row that has the focus stays wherever it is, or the focus would be lost.
  const focused = focusedPhoto();
  const kept = focused ? list.position[focused.query] : -1;
  if (kept >= 0 && kept < from) positions.unshift(kept);
  if (kept > to) positions.push(kept);
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
  row.style.top = `${position * list.height}px`;
  row.setAttribute("aria-posinset", position + 1);
  row.setAttribute("aria-setsize", list.listed.length);
  if (query === list.current) row.setAttribute("aria-current", "true");
  list.rows.set(query, row);
  return row;
}

function clearRows() {
  list.box.replaceChildren();
  list.rows.clear();
  list.box.style.height = `${list.listed.length * list.height}px`;
}

// All rows are as high as a full one: photos have one shape, and every text is one line.
function measureRow() {
  if (!QUERIES) return;
  const row = queryRow(Math.max(outcomes.findIndex((_, query) => missedMatch(query)), 0));
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

function showListed(listed) {
  const focused = focusedPhoto();
  list.listed = listed;
  list.position.fill(-1);
  listed.forEach((query, position) => (list.position[query] = position));
  clearRows();
  if (focused && list.position[focused.query] >= 0) {
    focusPhoto(focused.query, focused.column);
  } else if (list.box.getBoundingClientRect().top < barBottom()) {
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
  const top = list.box.getBoundingClientRect().top + scrollY;
  scrollTo({ top: top + offset - barBottom(), behavior: "instant" });
}

function scrollIntoSight(position) {
  const top = list.box.getBoundingClientRect().top + position * list.height;
  if (top < barBottom()) scrollToOffset(position * list.height);
  else if (top + list.height > innerHeight) {
    const room = innerHeight - barBottom() - list.height;
    scrollToOffset(position * list.height - Math.max(room, 0));
  }
}

/* Going to a query */

function setCurrent(query) {
  list.rows.get(list.current)?.removeAttribute("aria-current");
  list.current = query;
  list.rows.get(query)?.setAttribute("aria-current", "true");
}

function focusedPhoto() {
  const photo = document.activeElement?.closest?.(".queries .photo, .queries .number, .queries .pin");
  if (!photo) return null;
  const query = Number(photo.closest(".query").dataset.query);
  return { query, column: Number(photo.dataset.column ?? 0) };
}

function focusPhoto(query, column) {
  scrollIntoSight(list.position[query]);
  renderRows();
  const photos = list.rows.get(query)?.querySelectorAll(".photo");
  if (!photos) return;
  setCurrent(query);
  photos[clamp(column, 0, photos.length - 1)].focus({ preventScroll: true });
}

function goTo(query) {
  if (list.position[query] < 0) choose(EVERYTHING);
  scrollToOffset(list.position[query] * list.height);
  focusPhoto(query, 0);
}

function goToHash() {
  const number = Number(/^#query-(\d+)$/.exec(location.hash)?.[1]);
  if (number >= 1 && number <= QUERIES) goTo(number - 1);
}

/* Paper takes the first of the listed queries, one below the other. */

const PRINTED = 100;

function renderPrinted() {
  if (list.listed.length > PRINTED) {
    byId("count").textContent = `The first ${PRINTED} of ${countText()}`;
  }
  list.box.replaceChildren(...Array.from(list.listed.slice(0, PRINTED), queryRow));
  list.rows.clear();
}

function bindList() {
  let awaited = 0;
  const soon = () => {
    awaited ||= requestAnimationFrame(() => {
      awaited = 0;
      renderRows();
    });
  };
  addEventListener("scroll", soon, { passive: true });
  addEventListener("resize", soon);
  addEventListener("hashchange", goToHash);
  addEventListener("beforeprint", renderPrinted);
  addEventListener("afterprint", () => {
    byId("count").textContent = countText();
    remeasure();
  });
  let width = list.box.clientWidth;
  new ResizeObserver(() => {
    if (list.box.clientWidth === width) return;
    width = list.box.clientWidth;
    remeasure();
  }).observe(list.box);
}

// The frames take the shape that most photos have, so that few of them need margins.
function setAspect() {
  const shapes = queries.picture
    .map((picture) => pictures.width[picture] / pictures.height[picture])
    .sort((one, other) => one - other);
  const middle = shapes.length ? shapes[Math.floor(shapes.length / 2)] : 4 / 3;
  const root = document.documentElement.style;
  root.setProperty("--aspect", clamp(middle, 0.8, 1.6));
  root.setProperty("--near", Math.max(report.m, 1));
}
