// The spec of a job.

import { element, table } from "./elements.js";

export function showSpec(place, now) {
  const { spec, spec_changes: changes } = now();
  if (changes !== null) {
    const rows = [...fields(changes)].map(([name, value]) => [name, value]);
    place.append(table("What differs from the defaults", ["Field", "Value"], rows));
  }
  place.append(element("h3", {}, "With every default written out"), element("pre", { class: "lines", tabindex: "0" }, JSON.stringify(spec, null, 2)));
}

/** Return the fields of a JSON value by their paths: `solver.rtol`. */
export function fields(value, path = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return new Map([[path, JSON.stringify(value)]]);
  return new Map(Object.entries(value).flatMap(([name, inner]) => [...fields(inner, path ? `${path}.${name}` : name)]));
}
