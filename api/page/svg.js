// Drawings of the page.

/** Make an element of a drawing; functions listen. */
export function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Return what maps a number to a place between 0 and 1, evenly or by its logarithm. */
export function scale(low, high, log = false) {
  const of = log ? Math.log : (value) => value;
  const [from, to] = [of(low), of(high)];
  return (value) => (to > from ? (of(value) - from) / (to - from) : 0.5);
}

/** Return some numbers from `low` to `high`, for an axis to name. */
export function ticks(low, high, log = false, count = 4) {
  if (!(high > low)) return [low];
  const decades = log ? Array.from({ length: 1 + Math.floor(Math.log10(high) + 1e-9) - Math.ceil(Math.log10(low) - 1e-9) }, (_, place) =>
    10 ** (Math.ceil(Math.log10(low) - 1e-9) + place)) : [];
  if (decades.length > 2) return decades;
  return Array.from({ length: count + 1 }, (_, place) =>
    log ? low * (high / low) ** (place / count) : low + ((high - low) * place) / count);
}
