/* The report's value, and what is known of pictures, queries and matches. */

// Data reaches the page as text, attributes and image sources only, never as markup.
export const byId = (id) => document.getElementById(id);
export const report = JSON.parse(byId("report-data").textContent);
export const { pictures, queries } = report;
export const QUERIES = queries.picture.length;

// What there is; parts of the page that need one of these are hidden where it is missing.
const [hasTruth, hasRecall] = [queries.right !== null, report.recall !== null];
export const HAS = {
  truth: hasTruth,
  "no-truth": !hasTruth,
  recall: hasRecall,
  "no-recall": hasTruth && !hasRecall,
  subset: hasRecall && report.is_subset,
  later: report.k > 1,
  none: Boolean(hasTruth && queries.positives?.includes(0)),
  missed: Boolean(hasTruth && report.best),
  other: report.other !== null,
  duels: Boolean(hasTruth && report.other?.right && QUERIES),
  metres: queries.metres !== null,
  map: report.map !== null,
  heat: Object.keys(report.saliency).length > 0,
  queries: QUERIES > 0,
  "no-queries": QUERIES === 0,
  problems: pictures.problems.length > 0,
};

export const grouped = new Intl.NumberFormat("en").format;
export const plural = (number, noun, nouns) => `${grouped(number)} ${number === 1 ? noun : nouns}`;
export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
export const joined = (...texts) => texts.filter(Boolean).join(" · ");

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/* Pictures */

export const pictureName = (picture) => pictures.name[picture] || pictures.file[picture];
export const picturePath = (picture) =>
  `${pictures.folders[pictures.folder[picture]]}/${pictures.file[picture]}`;

/* Queries */

// "right" at 1, right "later" among the k nearest, "lost", or "none" to be found.
export const outcomes = Array.from({ length: QUERIES }, (_, query) => {
  if (!HAS.truth) return "";
  if (queries.positives?.[query] === 0) return "none";
  const first = queries.first[query];
  return first === 0 ? "lost" : first === 1 ? "right" : "later";
});

export const isWrong = (query) => outcomes[query] === "later" || outcomes[query] === "lost";

export const duels = Array.from({ length: QUERIES }, (_, query) => {
  if (!HAS.duels) return "";
  const ours = queries.first[query] === 1;
  const theirs = report.other.right[query * report.other.m] === "1";
  if (ours === theirs) return ours ? "both" : "neither";
  return ours ? "ours" : "theirs";
});

export function outcomeText(query) {
  return {
    "": "",
    right: "right at 1",
    later: `first right at ${queries.first?.[query]}`,
    lost: `none of ${report.k} right`,
    none: "no true positive exists",
  }[outcomes[query]];
}

/* Matches: {group, place, rank, database, distance, metres, verdict}; null or "" is what is not known. */

export const pictureOfDatabase = new Int32Array(report.database.count).fill(-1);
report.database.shown.forEach((index, at) => {
  pictureOfDatabase[index] = report.database.picture[at];
});

// This run's, the nearest true positive where another photo was nearer, and the compared run's.
const GROUPS = {
  near: { ...queries, m: report.m },
  missed: report.best && { ...report.best, near: report.best.index, m: 1, right: "1".repeat(QUERIES) },
  other: report.other,
};
const isMissed = (query) => isWrong(query) && report.best.index[query] >= 0;

export function matchesIn(group, query) {
  const found = GROUPS[group];
  if (!found || (group === "missed" && !isMissed(query))) return [];
  return Array.from({ length: found.m }, (_, place) => {
    const at = query * found.m + place;
    return {
      group,
      place,
      rank: found.rank?.[at] ?? place + 1,
      database: found.near[at],
      distance: found.distance[at],
      metres: found.metres?.[at] ?? null,
      verdict: { 1: "right", 0: "wrong" }[found.right?.[at]] ?? "",
    };
  });
}

// In the order of the columns and of the keys.
export const allMatches = (query) => Object.keys(GROUPS).flatMap((group) => matchesIn(group, query));

export const distanceText = (distance) => distance?.toFixed(3) ?? "";

// The cosine similarity of descriptors of length 1 at that distance.
export const scoreText = (distance) =>
  distance === null ? "" : `score ${(1 - distance ** 2 / 2).toFixed(3)}`;

export function metresText(metres) {
  if (metres === null) return "";
  if (metres < 100) return `${metres.toFixed(1)} m`;
  return metres < 10000 ? `${grouped(Math.round(metres))} m` : `${grouped(Math.round(metres / 1000))} km`;
}
