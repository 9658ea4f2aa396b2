// Jobs over each other: curves, results, and what differs in their specs.

import { get, query } from "./api.js";
import { element, section, table } from "./elements.js";
import { Charts, Series } from "./curves.js";
import { resultFigures } from "./data.js";
import { bytes, newestNll, number, withError } from "./figures.js";
import { fields } from "./spec.js";

const FIRST = ["nll", "loss", "validation_nll", "step_seconds"];

export async function showCompare(main, parameters, signal) {
  document.title = "Compare – symadj";
  const ids = element("input", { value: parameters.getAll("job").join(" "), size: 50, "aria-label": "Ids of jobs" });
  const go = (event) => {
    event.preventDefault();
    location.hash = `#/compare${query({ job: ids.value.split(/[\s,]+/) })}`;
  };
  main.append(element("h1", {}, "Compare"), element("form", { class: "row", submit: go }, element("label", {}, "Jobs ", ids), element("button", {}, "Compare")));
  const wanted = [...new Set(parameters.getAll("job"))];
  if (!wanted.length) {
    main.append(element("p", {}, "Name the ids of jobs here, or choose jobs in the list."));
    return;
  }
  const jobs = [];
  for (const id of wanted) jobs.push(await get(`/jobs/${encodeURIComponent(id)}`, { signal }));
  const titles = jobs.map((job) => (job.name ? `${job.name} (${job.id.slice(-6)})` : job.id));
  const links = jobs.map((job, place) => element("a", { href: `#/jobs/${encodeURIComponent(job.id)}` }, titles[place]));
  const peaks = jobs.map((job) => [
    job.state, number(job.progress.step), newestNll(job),
    bytes(job.progress.device_peak_bytes ?? job.progress.host_peak_bytes), bytes(job.planned_bytes),
  ]);
  const drawn = element("div");
  main.append(
    drawn,
    section("Results", table("Now", ["Job", "State", "Step", "NLL", "Peak", "Plan"], peaks.map((row, place) => [links[place].cloneNode(true), ...row]), ["Step", "NLL", "Peak", "Plan"]),
      differing("Figures, with their standard errors", titles, jobs.map((job) => new Map(resultFigures(job.result ?? {}))), false)),
    section("What differs in their specs", differing("Fields of the specs", titles, jobs.map((job) => fields(job.spec)), true)));
  await Promise.all([curves(drawn, jobs, titles, signal), gradients(main, jobs, signal)]);
}

/** A table with a row for each key that any of the maps has. */
function differing(caption, titles, maps, onlyDifferent) {
  const keys = [...new Set(maps.flatMap((map) => [...map.keys()]))];
  const rows = keys
    .map((key) => [key, ...maps.map((map) => map.get(key) ?? "–")])
    .filter(([, ...values]) => !onlyDifferent || new Set(values).size > 1);
  return rows.length ? table(caption, ["", ...titles], rows) : element("p", {}, onlyDifferent ? "Nothing." : "No job has a result yet.");
}

/** The tables of the comparisons of gradients that the jobs belong to. */
async function gradients(main, jobs, signal) {
  for (const id of new Set(jobs.map((job) => job.labels.comparison).filter(Boolean))) {
    const read = await get(`/comparisons/${encodeURIComponent(id)}`, { signal }).catch((error) => {
      if (error.status === 404) return null; // the label may be the user's own
      throw error;
    });
    if (read === null) continue;
    const rows = read.gradients.map((item) => [
      element("a", { href: `#/jobs/${encodeURIComponent(item.job)}` }, item.gradient.kind), item.state, number(item.step), withError(item.test_nll, item.test_nll_stderr),
      number(item.gradient_error), bytes(item.peak_bytes), bytes(item.above_idle_bytes), number(item.step_seconds), number(item.nfe_forward), number(item.nfe_backward),
    ]);
    const columns = ["Gradient", "State", "Step", "Test NLL", "Gradient's error", "Peak", "A step above idle", "Seconds a step", "NFE forward", "NFE backward"];
    main.append(section("Gradients", table(`Comparison ${id}`, columns, rows, columns.slice(2))));
  }
}

async function curves(place, jobs, titles, signal) {
  const names = [];
  for (const job of jobs) names.push(...Object.keys(job.progress.latest));
  const known = [...new Set(names)].sort();
  if (!known.length) return;
  const charts = new Charts(signal);
  const select = element("select", {}, known.map((name) => element("option", {}, name)));
  select.value = FIRST.find((name) => known.includes(name)) ?? known[0];
  const draw = async () => {
    const name = select.value;
    const having = jobs.map((job, place) => [job, titles[place]]).filter(([job]) => name in job.progress.latest);
    const series = having.map(([job, title]) => new Series(job.id, name, title));
    for (const item of series) await item.load(signal);
    charts.clear();
    charts.add(name, series);
    await charts.look();
  };
  select.addEventListener("change", draw);
  place.append(section("Curves", element("label", {}, "Metric ", select), charts.switches, charts.place));
  await draw();
}
