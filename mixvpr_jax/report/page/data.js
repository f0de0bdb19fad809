/* The report's value, and what is known of pictures, queries and matches. */

// Data reaches the page as text, attributes and image sources only, never as markup.
export const byId = (id) => document.getElementById(id);
export const report = JSON.parse(byId("report-data").textContent);
export const { pictures, queries } = report;
export const QUERIES = queries.picture.length;
export const HAS_TRUTH = queries.right !== null;

export const grouped = (number) => number.toLocaleString("en");
export const plural = (number, noun, nouns) => `${grouped(number)} ${number === 1 ? noun : nouns}`;
export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const fromTemplate = (id) => byId(id).content.firstElementChild.cloneNode(true);

// However often it is asked for in a frame, it runs once.
export function oncePerFrame(run) {
  let awaited = 0;
  return () => {
    cancelAnimationFrame(awaited);
    awaited = requestAnimationFrame(run);
  };
}

/* Pictures: texts one after the other, in blocks that may still be on their way. */

const pictureBlock = new Uint32Array(pictures.chars.length);
const pictureStart = new Uint32Array(pictures.chars.length);
for (let index = 0, block = -1, start = 0; index < pictures.chars.length; index++) {
  if (pictures.blocks[block + 1] === index) [block, start] = [block + 1, 0];
  pictureBlock[index] = block;
  pictureStart[index] = start;
  start += pictures.chars[index];
}
const blockTexts = [];

function blockText(block) {
  if (blockTexts[block] === undefined) {
    const script = byId(`pictures-${block}`);
    // A block is whole once something follows it.
    const whole = script && (script.nextElementSibling || document.readyState !== "loading");
    if (!whole) return null;
    blockTexts[block] = script.textContent;
  }
  return blockTexts[block];
}

export function showPicture(image, picture) {
  const text = blockText(pictureBlock[picture]);
  image.dataset.picture = picture;
  image.classList.toggle("awaited", text === null);
  if (text === null) return;
  image.classList.toggle("gone", !pictures.chars[picture]);
  if (!pictures.chars[picture]) return image.removeAttribute("src");
  const start = pictureStart[picture];
  image.src = `data:${pictures.mime};base64,${text.slice(start, start + pictures.chars[picture])}`;
}

export function showAwaited() {
  for (const image of document.querySelectorAll("img.awaited")) {
    showPicture(image, image.dataset.picture);
  }
}

export const pictureName = (picture) => pictures.name[picture] || pictures.file[picture];
const pictureFolder = (picture) => pictures.folders[pictures.folder[picture]];
export const picturePath = (picture) => `${pictureFolder(picture)}/${pictures.file[picture]}`;

/* Queries */

// "right" at 1, right "later" among the k nearest, "lost", or "none" to be found.
export const outcomes = Array.from({ length: QUERIES }, (_, query) => {
  if (!HAS_TRUTH) return "";
  if (queries.positives?.[query] === 0) return "none";
  const first = queries.first[query];
  return first === 0 ? "lost" : first === 1 ? "right" : "later";
});

export const duels = Array.from({ length: QUERIES }, (_, query) => {
  if (!HAS_TRUTH || !report.other?.right) return "";
  const ours = queries.first[query] === 1;
  const theirs = report.other.right[query * report.other.m] === "1";
  if (ours === theirs) return ours ? "both" : "neither";
  return ours ? "ours" : "theirs";
});

export function outcomeText(query) {
  const first = queries.first?.[query];
  return {
    "": "",
    right: "right at 1",
    later: `first right at ${first}`,
    lost: `none of ${report.k} right`,
    none: "no true positive exists",
  }[outcomes[query]];
}

/* Matches: {group, place, rank, database, distance, metres, right}; null is what is not known. */

export const pictureOfDatabase = new Int32Array(report.database.count).fill(-1);
report.database.shown.forEach((index, at) => {
  pictureOfDatabase[index] = report.database.picture[at];
});

function matchesIn(group, columns, width, query) {
  return Array.from({ length: width }, (_, place) => {
    const at = query * width + place;
    return {
      group,
      place,
      rank: place + 1,
      database: columns.near[at],
      distance: columns.distance[at],
      metres: columns.metres?.[at] ?? null,
      right: columns.right ? columns.right[at] === "1" : null,
    };
  });
}

export const nearMatches = (query) => matchesIn("near", queries, report.m, query);

export function otherMatches(query) {
  return report.other ? matchesIn("other", report.other, report.other.m, query) : [];
}

export const isWrong = (query) => outcomes[query] === "later" || outcomes[query] === "lost";

// The nearest true positive, where another photo was nearer: one match or none.
export function missedMatches(query) {
  const { best } = report;
  if (!best || !isWrong(query) || best.index[query] < 0) return [];
  return [{
    group: "missed",
    place: 0,
    rank: best.rank[query],
    database: best.index[query],
    distance: best.distance[query],
    metres: best.metres?.[query] ?? null,
    right: true,
  }];
}

// In the order of the columns and of the keys.
export function allMatches(query) {
  return [...nearMatches(query), ...missedMatches(query), ...otherMatches(query)];
}

export const verdictOf = ({ right }) => (right === null ? "" : right ? "right" : "wrong");

export const distanceText = (distance) => (distance === null ? "" : distance.toFixed(3));

// The cosine similarity of descriptors of length 1 at that distance.
export function scoreText(distance) {
  return distance === null ? "" : `score ${(1 - distance ** 2 / 2).toFixed(3)}`;
}

export function metresText(metres) {
  if (metres === null) return "";
  if (metres < 10) return `${metres.toFixed(1)} m`;
  if (metres < 10000) return `${grouped(Math.round(metres))} m`;
  return `${grouped(Math.round(metres / 1000))} km`;
}

export const joined = (...texts) => texts.filter(Boolean).join(" · ");
