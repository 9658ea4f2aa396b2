// Memory of a job by rank and phase, beside its plan, its budget and what backpropagation would take.

import { follow, get } from "./api.js";
import { bar, element, table } from "./elements.js";
import { bytes } from "./figures.js";

const SECONDS = 10;
const ENDED = new Set(["succeeded", "failed", "cancelled"]);

export async function showMemory(place, now, signal) {
  await follow(async () => {
    const job = now();
    const read = await get(`/jobs/${encodeURIComponent(job.id)}/memory`, { signal });
    place.replaceChildren(beside(job), phases(read));
    return !ENDED.has(job.state);
  }, SECONDS, signal);
}

/** A worker's peak beside everything that it can be measured against. */
function beside(job) {
  const measured = job.progress.device_peak_bytes ?? job.progress.host_peak_bytes;
  const rows = [["Measured, highest of a worker", measured, ""]];
  if (job.memory_budget) rows.push(["Budget (resources.memory_budget)", job.memory_budget, "other"]);
  for (const item of job.plan?.gradients ?? []) {
    const { kind, ...options } = item.gradient;
    const told = Object.keys(options).length ? `${kind} ${JSON.stringify(options)}` : kind;
    const name = item.chosen ? `Planned for ${told}, the job's own` : `With ${told} it would be`;
    rows.push([name, item.planned_bytes, item.chosen ? "plan" : "other"]);
  }
  const known = rows.filter(([, value]) => value !== null && value !== undefined);
  if (!known.length) return element("p", {}, "Nothing has been measured yet.");
  const most = Math.max(...known.map(([, value]) => value));
  const drawn = known.map(([name, value, kind]) => [name, bytes(value), bar(value, most, kind)]);
  const steps = job.plan?.steps;
  const caption = steps ? `A worker, at ${steps.toFixed(1)} accepted steps of each block's solve` : "A worker";
  return bars(table(caption, ["", "Memory", " "], drawn, ["Memory"]));
}

function phases(read) {
  if (!read.phases.length) return element("p", {}, "No step has been measured yet.");
  const on = read.phases.some((item) => item.device_peak_bytes !== null) ? "device" : "host";
  const most = Math.max(...read.phases.map((item) => item[`${on}_peak_bytes`] ?? 0), 1);
  const rows = read.phases.map((item) => {
    const peak = item[`${on}_peak_bytes`];
    return [
      String(item.rank), item.phase, bytes(item[`${on}_idle_bytes`]), bytes(item[`${on}_above_idle_bytes`]), bytes(peak), bar(peak ?? 0, most),
    ];
  });
  const caption = `By rank and phase, the highest of all steps (${on})`;
  return bars(table(caption, ["Rank", "Phase", "Idle", "Above idle", "Peak", " "], rows, ["Rank", "Idle", "Above idle", "Peak"]));
}

function bars(made) {
  for (const row of made.querySelectorAll("tr")) row.lastElementChild.classList.add("bars");
  return made;
}
