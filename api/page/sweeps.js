// The list of sweeps.

import { follow, get, query } from "./api.js";
import { badge, element, table } from "./elements.js";
import { number, time } from "./figures.js";

const SECONDS = 5;
const STATES = ["running", "succeeded", "failed", "cancelled"];

export async function showSweeps(main, parameters, signal) {
  document.title = "Sweeps – symadj";
  const state = element("select", { "aria-label": "State" }, element("option", { value: "" }, "all"), STATES.map((name) => element("option", {}, name)));
  state.value = parameters.get("state") ?? "";
  state.addEventListener("change", () => { location.hash = `#/sweeps${query({ state: state.value })}`; });
  const place = element("div");
  main.append(element("h1", {}, "Sweeps"), element("div", { class: "row" }, element("label", {}, "State ", state)), place);
  let pages = 1;
  const more = element("button", { click: () => { pages += 1; look(); } }, "More");
  const look = async () => {
    const items = [];
    let after = "";
    for (let page = 0; page < pages && after !== null; page += 1) {
      const read = await get(`/sweeps${query({ state: state.value, after })}`, { signal });
      items.push(...read.items);
      after = read.next_after;
    }
    more.hidden = after === null;
    if (!items.length) place.replaceChildren(element("p", {}, "There is no such sweep. `symadj sweep sweep.yaml` begins one."));
    else place.replaceChildren(list(items), more);
  };
  await follow(look, SECONDS, signal);
}

function list(items) {
  const numbers = ["Trials", "Pruned", "Failed", "Best"];
  const rows = items.map((sweep) => [
    [element("a", { href: `#/sweeps/${encodeURIComponent(sweep.id)}` }, sweep.name), element("div", { class: "quiet id" }, sweep.id)],
    [badge(sweep.state), element("div", { class: "quiet" }, sweep.message ?? "")], sweep.owner,
    `${ended(sweep)} of ${sweep.wanted}`, number(sweep.counts.pruned), number(sweep.counts.failed),
    number(sweep.best?.value), sweep.objective.metric, time(sweep.created_at),
  ]);
  return table("Newest first", ["Sweep", "State", "Owner", ...numbers, "Objective", "Submitted"], rows, numbers);
}

/** How many trials of a sweep have ended. */
export function ended(sweep) {
  return Object.entries(sweep.counts).reduce((sum, [state, count]) => sum + (state === "open" ? 0 : count), 0);
}
