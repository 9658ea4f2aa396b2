// Elements of the page. Whatever comes from users becomes text, never markup.

/** Make an element: `element("a", {href: "#/jobs"}, "Jobs")`. Functions listen, `true` sets an attribute, null leaves it out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Make a table. A cell is text or an element; columns whose names stand in `numbers` are aligned to the right. */
export function table(caption, columns, rows, numbers = []) {
  const align = (column) => (numbers.includes(column) ? "number" : null);
  const head = columns.map((column) => element("th", { scope: "col", class: align(column) }, column));
  const body = rows.map((row) =>
    element("tr", {}, row.map((cell, index) => element("td", { class: align(columns[index]), "data-column": columns[index] }, ...[cell ?? "–"].flat()))),
  );
  return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, head)),
      element("tbody", {}, body)));
}

/** Show a state as a word with a colour. */
export function badge(state) {
  return element("span", { class: `state ${state}` }, state);
}

/** Make a bar as long as a value beside the most that there may be. */
export function bar(value, most, kind = "") {
  const made = element("div", { class: `bar ${kind}` });
  made.style.inlineSize = `${(100 * value) / most}%`;
  return made;
}

/** Make a section with a heading. */
export function section(title, ...children) {
  return element("section", { "aria-label": title }, element("h2", {}, title), ...children);
}
