// One job: what it is doing, its curves, and sections that are read when they are opened.

import { ApiError, follow, get } from "./api.js";
import { badge, element } from "./elements.js";
import { controls } from "./controls.js";
import { Charts, Series, extend } from "./curves.js";
import { showData, showResult } from "./data.js";
import { showFiles } from "./files.js";
import { bytes, duration, newestNll, time } from "./figures.js";
import { progress, standing } from "./jobs.js";
import { showLogs } from "./logs.js";
import { showMemory } from "./memory.js";
import { showSample } from "./sample.js";
import { showSpec } from "./spec.js";
import { showTimeline } from "./timeline.js";

// The curves that are shown first, of those that the job has.
const FIRST = ["loss", "nll", "validation_nll", "nfe_forward", "nfe_backward", "step_seconds"];
const SECONDS = 3;
const WAIT_SECONDS = 25;
// Between two requests for new values.
const CURVE_SECONDS = 2;
const ENDED = new Set(["succeeded", "failed", "cancelled"]);
const SECTIONS = [
  ["Memory", showMemory, true],
  ["Timeline", showTimeline],
  ["Result", showResult],
  ["Pictures and files", showFiles],
  ["Sample", showSample],
  ["Data", showData],
  ["Spec", showSpec],
  ["Logs", showLogs],
];

export async function showJob(main, id, signal) {
  const path = `/jobs/${encodeURIComponent(id)}`;
  let job = await get(path, { signal });
  // Each section is given what returns the job as it was read last.
  const now = () => job;
  const head = element("div");
  const curves = element("div");
  main.append(head, curves);
  for (const [title, show, open] of SECTIONS) main.append(lazy(title, open, (place) => show(place, now, signal)));
  const buttons = controls(now, (changed) => {
    job = changed;
    drawHead(head, job, buttons);
  });
  drawHead(head, job, buttons);
  showCurves(curves, now, signal).catch((error) => fault(curves, error, signal));
  follow(async () => {
    job = await get(path, { signal });
    drawHead(head, job, buttons);
    return !ENDED.has(job.state);
  }, SECONDS, signal).catch((error) => fault(head, error, signal));
}

export function fault(place, error, signal) {
  if (signal.aborted) return;
  place.append(element("p", { class: "fault", role: "alert" }, error.message));
}

/** A section that is filled when it is opened for the first time. */
function lazy(title, open, fill) {
  const place = element("div");
  const made = element("details", { open }, element("summary", {}, element("h2", {}, title)), place);
  let filled = false;
  const show = () => {
    if (!made.open || filled) return;
    filled = true;
    Promise.resolve(fill(place)).catch((error) => {
      if (error instanceof ApiError || error instanceof TypeError) place.append(element("p", { class: "fault", role: "alert" }, error.message));
      else if (error.name !== "AbortError") throw error;
    });
  };
  made.addEventListener("toggle", show);
  if (open) show();
  return made;
}

function drawHead(head, job, buttons) {
  document.title = `${job.name || job.id} – symadj`;
  const facts = [
    ["State", [badge(job.state), " ", standing(job)]],
    ["Progress", progress(job)],
    ["Left", duration(job.progress.eta_seconds)],
    ["NLL", newestNll(job)],
    ["Peak of a worker", `${bytes(job.progress.device_peak_bytes ?? job.progress.host_peak_bytes)}; planned ${bytes(job.planned_bytes)}; budget ${bytes(job.memory_budget)}`],
    ["Submitted", `${time(job.created_at)} by ${job.owner}`],
    ["Attempt", `${job.attempt}${job.attempts_lost ? `, ${job.attempts_lost} lost` : ""}`],
  ];
  if (job.parent) facts.push(["Continues", element("a", { href: `#/jobs/${encodeURIComponent(job.parent.job)}` }, `${job.parent.job}, ${job.parent.checkpoint}`)]);
  const labels = Object.entries(job.labels).map(([name, value]) => element("span", { class: "label" }, `${name}=${value}`));
  if (labels.length) facts.push(["Labels", labels]);
  if (job.telemetry !== "whole") facts.push(["Telemetry", `${job.telemetry} by the server's retention`]);
  const failure = job.failure && element("p", { class: "fault" }, [job.failure.code, job.failure.message, job.failure.data.advice].filter(Boolean).join("\n"));
  const title = head.querySelector("h1");
  const list = element("dl", {}, facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, ...[value].flat())]));
  if (title) head.querySelector("dl").replaceWith(list);
  else head.append(element("h1", {}, job.name || job.id), element("div", { class: "quiet" }, job.id), buttons.place, list);
  head.querySelector("dl ~ .fault")?.remove();
  if (failure) head.append(failure);
  buttons.draw();
}

/** Draw the chosen metrics, live: one request waits for what is new in all of them. Metrics that come later join them. */
async function showCurves(place, now, signal) {
  const charts = new Charts(signal);
  const choice = element("fieldset", { class: "row" }, element("legend", {}, "Metrics"));
  const told = element("p", { class: "quiet" });
  place.append(element("h2", {}, "Curves"), told, charts.switches, charts.place, element("details", {}, element("summary", {}, "Choose metrics"), choice));
  const known = [];
  const chosen = new Set();
  let shown = new Map();

  function meet(names) {
    known.push(...names);
    for (const name of names) if (FIRST.includes(name)) chosen.add(name);
    if (!chosen.size) chosen.add(known[0]);
    choice.append(...names.map((name) => element("label", {}, element("input", {
      type: "checkbox",
      checked: chosen.has(name),
      change: (event) => {
        if (event.target.checked) chosen.add(name);
        else chosen.delete(name);
        choose().catch((error) => fault(place, error, signal));
      },
    }), " ", name)));
  }

  async function choose() {
    const names = [...FIRST, ...known.filter((name) => !FIRST.includes(name))].filter((name) => chosen.has(name));
    const kept = new Map(names.map((name) => [name, shown.get(name) ?? new Series(now().id, name)]));
    const added = [...kept.values()].filter((item) => !shown.has(item.name));
    shown = kept;
    charts.clear();
    for (const item of shown.values()) charts.add(item.name, [item]);
    charts.draw();
    for (const item of added) {
      await item.load(signal);
      charts.draw();
    }
    await charts.look();
  }

  await follow(async () => {
    const fresh = Object.keys(now().progress.latest).filter((name) => !known.includes(name));
    if (fresh.length) {
      meet(fresh);
      await choose();
    }
    const ended = ENDED.has(now().state);
    told.textContent = known.length ? "" : ended ? "The job has no metrics." : "No step has been done yet.";
    const series = [...shown.values()];
    if (series.length && !series.every((item) => item.complete)) {
      await extend(series, WAIT_SECONDS, signal);
      charts.draw();
    }
    return !ended || !series.every((item) => item.complete);
  }, CURVE_SECONDS, signal);
}
