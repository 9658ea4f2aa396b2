// A sweep: its trials, the best so far, and the parallel coordinates of their parameters.

import { follow, get, post } from "./api.js";
import { badge, element, section, table } from "./elements.js";
import { number, time } from "./figures.js";
import { bestSoFar } from "./best_so_far.js";
import { parallelCoordinates } from "./parallel_coordinates.js";
import { ended } from "./sweeps.js";

const SECONDS = 3;

export async function showSweep(main, id, signal) {
  const path = `/sweeps/${encodeURIComponent(id)}`;
  const title = element("h1");
  const about = element("p");
  const said = element("span", { role: "status", class: "quiet" });
  const cancel = element("button", {
    click: async () => {
      if (!confirm(`Cancel the sweep and the jobs of its open trials?`)) return;
      try {
        draw(await post(`${path}/cancel`));
      } catch (error) {
        said.textContent = error.message;
      }
    },
  }, "Cancel");
  const place = element("div");
  main.append(title, about, element("div", { class: "row" }, cancel, said), place);
  let chosen = null;
  let drawn = "";
  const draw = (sweep) => {
    const now = JSON.stringify([sweep, chosen]);
    if (now === drawn) return;
    drawn = now;
    document.title = `${sweep.name} – symadj`;
    title.textContent = sweep.name;
    about.replaceChildren(
      badge(sweep.state), ` ${ended(sweep)} of ${sweep.wanted} trials by ${sweep.spec.sampler.kind} have ended`,
      ...["pruned", "failed", "cancelled"].map((state) => (sweep.counts[state] ? `, ${sweep.counts[state]} ${state}` : "")),
      `. ${sweep.message ?? ""} `, element("span", { class: "quiet" }, `${sweep.id}, ${sweep.owner}, ${time(sweep.created_at)}`));
    cancel.disabled = sweep.state !== "running";
    const choose = (trial) => {
      chosen = chosen === trial ? null : trial;
      draw(sweep);
    };
    // Whatever has the focus is made anew, and has it again.
    const focused = document.activeElement?.dataset?.trial;
    place.replaceChildren(
      section("Best", best(sweep)),
      section("Parameters and values", parallelCoordinates(sweep, chosen, choose)),
      section("Best so far", bestSoFar(sweep)),
      section("Trials", trials(sweep, chosen)));
    if (focused !== undefined) place.querySelector(`[data-trial="${focused}"]`)?.focus();
  };
  await follow(async () => draw(await get(path, { signal })), SECONDS, signal);
}

const told = (value) => (typeof value === "number" ? number(value) : JSON.stringify(value));
const jobLink = (trial) => (trial.job ? element("a", { href: `#/jobs/${encodeURIComponent(trial.job)}` }, trial.job) : "–");

function best(sweep) {
  if (!sweep.best) return element("p", {}, "No trial has succeeded yet.");
  const rows = Object.entries(sweep.best.parameters).map(([path, value]) => [path, told(value)]);
  const caption = `Trial ${sweep.best.number}: ${sweep.objective.metric} ${number(sweep.best.value)} (${sweep.objective.direction})`;
  const compare = sweep.trials.filter((trial) => trial.job).slice(0, 20).map((trial) => `job=${encodeURIComponent(trial.job)}`).join("&");
  return element("div", {}, table(caption, ["Parameter", "Value"], rows, ["Value"]),
    element("p", {}, jobLink(sweep.best), " ", element("a", { href: `#/compare?${compare}` }, "Curves of the first trials")));
}

function trials(sweep, chosen) {
  const paths = Object.keys(sweep.spec.parameters);
  const rows = sweep.trials.map((trial) => [
    String(trial.number), badge(trial.state === "open" ? trial.job_state ?? "open" : trial.state), number(trial.value),
    ...paths.map((path) => told(trial.parameters[path])), jobLink(trial), trial.message ?? "",
  ]);
  const numbers = ["Trial", sweep.objective.metric, ...paths];
  const made = table("In the order in which they began", ["Trial", "State", ...numbers.slice(1), "Job", "Why"], rows, numbers);
  made.querySelectorAll("tbody tr").forEach((row, place) => {
    const { number: own } = sweep.trials[place];
    if (own === sweep.best?.number) row.classList.add("best");
    if (own === chosen) row.classList.add("chosen");
  });
  return made;
}
