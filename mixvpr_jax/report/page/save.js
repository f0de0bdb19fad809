/* The listed queries as a CSV file, in their order: a line for each neighbour that is shown. */

import {
  element, nearMatches, otherMatches, pictureOfDatabase, picturePath, queries, report,
} from "./data.js";
import { list } from "./list.js";

const quoted = (value) => /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);

function listedAsCsv() {
  const lines = [["query", "run", "rank", "prediction", "descriptor_distance", "metres", "correct"]];
  for (const query of list.listed) {
    for (const match of [...nearMatches(query), ...otherMatches(query)]) {
      lines.push([
        picturePath(queries.picture[query]),
        match.group === "other" ? report.other.title : report.title,
        match.rank,
        picturePath(pictureOfDatabase[match.database]),
        match.distance ?? "",
        match.metres ?? "",
        match.right === null ? "" : Number(match.right),
      ]);
    }
  }
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}

export function saveListed() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([listedAsCsv()], { type: "text/csv" }));
  link.download = "queries.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
