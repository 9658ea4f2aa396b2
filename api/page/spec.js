// The spec of a job.

import { element } from "./elements.js";

export function showSpec(place, now) {
  place.append(element("pre", { class: "lines", tabindex: "0" }, JSON.stringify(now().spec, null, 2)));
}

/** Return the fields of a JSON value by their paths: `solver.rtol`. */
export function fields(value, path = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return new Map([[path, JSON.stringify(value)]]);
  return new Map(Object.entries(value).flatMap(([name, inner]) => [...fields(inner, path ? `${path}.${name}` : name)]));
}
