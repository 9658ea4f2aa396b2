// What a job read, and what came of it.

import { get } from "./api.js";
import { element, table } from "./elements.js";
import { number, withError } from "./figures.js";

export async function showData(place, now, signal) {
  const { summary, missing } = await get(`/jobs/${encodeURIComponent(now().id)}/data`, { signal });
  if (!summary) {
    place.append(element("p", {}, missing));
    return;
  }
  for (const source of summary.sources) {
    const rows = source.columns.map((column) => [
      column.name, column.context ? "context" : "data", column.dtype, number(column.min), number(column.mean), number(column.max),
      `${number(100 * column.zeros)} %`, column.remarks.join("; "),
    ]);
    place.append(
      element("h3", {}, source.name),
      element("p", {}, `${number(source.rows)} rows of ${number(source.dim)} values${source.format ? `, ${source.format}` : ""}`),
      ...[...source.notes, ...source.remarks].map((note) => element("p", { class: "quiet" }, note)),
      table("Columns as read", ["Column", "For", "Type", "Least", "Mean", "Most", "Zeros", "Remarks"], rows, ["Least", "Mean", "Most", "Zeros"]));
  }
  const transforms = summary.transforms.map((item) => element("li", {}, element("code", {}, JSON.stringify(item))));
  if (transforms.length) place.append(element("h3", {}, "Transforms"), element("ol", {}, transforms));
}

/** A result's figures, each with its standard error where there is one. */
export function resultFigures(result) {
  const rows = [];
  const add = (value, path) => {
    for (const [name, inner] of Object.entries(value)) {
      const title = path ? `${path}.${name}` : name;
      if (inner === null || name.endsWith("_stderr") || Array.isArray(inner)) continue;
      if (typeof inner === "object") add(inner, title);
      else rows.push([title, withError(inner, value[`${name}_stderr`])]);
    }
  };
  add(result, "");
  return rows;
}

export function showResult(place, now) {
  const { result } = now();
  if (!result) place.append(element("p", {}, "There is no result: only a job that succeeded has one."));
  else place.append(table("Figures, with their standard errors", ["Figure", "Value"], resultFigures(result), ["Value"]));
}
