// Memory of a job by rank and phase, beside its plan, its budget and what backpropagation would take.

import { ApiError, follow, get, post, query } from "./api.js";
import { bar, element, table } from "./elements.js";
import { bytes } from "./figures.js";

const SECONDS = 10;
const ENDED = new Set(["succeeded", "failed", "cancelled"]);

export async function showMemory(place, now, signal) {
  // What every gradient would take: the plan of the run has its own alone.
  let planned = [];
  const said = element("span", { role: "status", class: "quiet" });
  const ask = element("button", { click: plan }, "What every gradient would take");
  const asking = now().spec.kind === "scores" ? "" : element("div", { class: "row" }, ask, said);
  const [bars, ranks] = [element("div"), element("div")];
  place.append(bars, asking, ranks);
  const draw = () => bars.replaceChildren(beside(now(), planned));

  async function plan() {
    said.textContent = "Every gradient is planned…";
    ask.disabled = true;
    try {
      const read = await post(`/plans${await columns(now(), signal)}`, now().spec, { signal });
      const steps = now().plan?.steps ?? read.gradients[0].peaks[0].steps;
      const others = read.phases.map((phase) => phase.peak_bytes);
      const runBytes = (item) => Math.max(...item.parts.map((part) => partBytes(part, steps)), ...others);
      // Beside the plan of the run, which knows what its process holds at rest.
      const own = runBytes(read.gradients.find((item) => item.chosen));
      const resting = now().plan?.planned_bytes ? now().plan.planned_bytes - own : read.idle_bytes + read.weights_bytes + read.optimizer_bytes;
      planned = read.gradients.map((item) => ({ ...item, planned_bytes: resting + runBytes(item) }));
      said.textContent = `For ${steps.toFixed(1)} accepted steps of each block's solve.`;
      draw();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      said.textContent = error.message;
    } finally {
      ask.disabled = false;
    }
  }

  await follow(async () => {
    const job = now();
    const read = await get(`/jobs/${encodeURIComponent(job.id)}/memory`, { signal });
    draw();
    ranks.replaceChildren(phases(read));
    return !ENDED.has(job.state);
  }, SECONDS, signal);
}

/** What a part of a step holds for so many steps of a solve. */
function partBytes(part, steps) {
  return part.held.reduce((sum, held) => sum + Math.min(held.step_bytes * steps, held.most_bytes ?? Infinity), part.fixed_bytes);
}

/** What the data are, so that they need not be read again for a plan. */
async function columns(job, signal) {
  const { summary } = await get(`/jobs/${encodeURIComponent(job.id)}/data`, { signal });
  if (!summary) return "";
  if (summary.image) return query({ image: summary.image });
  const [source] = summary.sources;
  const contexts = source.columns.filter((column) => column.context).length;
  return query({ columns: source.dim - contexts, context_columns: contexts });
}

/** A worker's peak beside everything that it can be measured against. */
function beside(job, planned) {
  const measured = job.progress.device_peak_bytes ?? job.progress.host_peak_bytes;
  const rows = [["Measured, highest of a worker", measured, ""]];
  if (job.memory_budget) rows.push(["Budget (resources.memory_budget)", job.memory_budget, "other"]);
  const own = job.plan?.gradients ?? [];
  const others = planned.filter((item) => !own.some((known) => JSON.stringify(known.gradient) === JSON.stringify(item.gradient)));
  // The job's own gradient stands there once: by the plan of its run, where that is known.
  for (const item of [...own, ...others.filter((item) => !item.chosen || !own.length)]) {
    const { kind, ...options } = item.gradient;
    const told = Object.keys(options).length ? `${kind} ${JSON.stringify(options)}` : kind;
    const most = item.chosen && job.plan?.limited_by ? `: most in ${job.plan.limited_by}` : "";
    const name = item.chosen ? `Planned for ${told}, the job's own${most}` : `With ${told} it would be`;
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
