// The list of jobs: filters, and one page of rows, whose figures are read anew every few seconds.

import { follow, get, query } from "./api.js";
import { badge, element, table } from "./elements.js";
import { bytes, duration, newestNll, number, time } from "./figures.js";

const STATES = ["queued", "starting", "running", "pausing", "paused", "succeeded", "failed", "cancelled"];
const SECONDS = 5;
const COLUMNS = ["Compare", "Job", "State", "Progress", "Left", "NLL", "Peak", "Plan", "Budget", "Labels", "Submitted"];
const NUMBERS = ["Left", "NLL", "Peak", "Plan", "Budget"];

export async function showJobs(main, parameters, signal) {
  const chosen = new Set();
  // The cursors of this page and of those before it.
  const cursors = [null];
  let next = null;

  const field = (name, title, attributes = {}) =>
    element("label", {}, title, " ", element("input", { name, type: "search", value: parameters.get(name), ...attributes }));
  const states = element("select", { name: "state" },
    element("option", { value: "" }, "any"),
    STATES.map((state) => element("option", { value: state, selected: parameters.get("state") === state }, state)));
  const filters = element("form", { role: "search", class: "row", submit: (event) => event.preventDefault() },
    field("text", "Name or id"),
    element("label", {}, "State ", states),
    field("label", "Label", { placeholder: "name=value", pattern: "[^=]+=.*" }),
    field("owner", "Owner"));
  const list = element("div");
  const earlier = element("button", { disabled: true, click: () => turn(() => cursors.pop()) }, "Newer");
  const later = element("button", { disabled: true, click: () => turn(() => cursors.push(next)) }, "Older");
  const compare = element("button", {
    disabled: true,
    click: () => (location.hash = `#/compare${query({ job: [...chosen] })}`),
  }, "Compare");
  main.append(element("h1", {}, "Jobs"), filters, list, element("div", { class: "row" }, earlier, later, compare));

  const wanted = () => Object.fromEntries([...new FormData(filters)].filter(([, value]) => value !== ""));
  let looking = new AbortController();

  async function look(mine) {
    const page = await get(`/jobs${query({ ...wanted(), limit: 50, after: cursors.at(-1) })}`, { signal: mine });
    next = page.next_after;
    earlier.disabled = cursors.length === 1;
    later.disabled = !page.has_more;
    const focused = document.activeElement?.closest?.("tr")?.dataset.job;
    const rows = page.items.map((job) => cells(job, chosen, compare));
    const made = table(page.items.length ? "Jobs, newest first" : "No job is like that.", COLUMNS, rows, NUMBERS);
    made.classList.add("cards"); // where the window is narrow
    const place = list.querySelector(".scroll")?.scrollLeft ?? 0;
    made.querySelectorAll("tbody tr").forEach((row, index) => (row.dataset.job = page.items[index].id));
    const what = document.activeElement?.tagName;
    list.replaceChildren(made);
    made.scrollLeft = place;
    // The rows are new elements: the keyboard stays where it was.
    if (focused) made.querySelector(`tr[data-job="${CSS.escape(focused)}"] ${what === "INPUT" ? "input" : "a"}`)?.focus();
  }

  async function restart() {
    looking.abort();
    looking = new AbortController();
    const mine = AbortSignal.any([signal, looking.signal]);
    try {
      await follow(() => look(mine), SECONDS, mine);
    } catch (error) {
      list.replaceChildren(element("p", { class: "fault", role: "alert" }, error.message));
    }
  }

  function turn(move) {
    move();
    restart();
  }

  let typing;
  filters.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      if (!filters.checkValidity()) return;
      history.replaceState(null, "", `#/jobs${query(wanted())}`);
      cursors.splice(1);
      restart();
    }, 200);
  });
  restart();
}

function cells(job, chosen, compare) {
  const choose = element("input", {
    type: "checkbox",
    "aria-label": `Compare ${job.name || job.id}`,
    checked: chosen.has(job.id),
    change: (event) => {
      if (event.target.checked) chosen.add(job.id);
      else chosen.delete(job.id);
      compare.disabled = chosen.size === 0;
      compare.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
    },
  });
  return [
    choose,
    [element("a", { href: `#/jobs/${encodeURIComponent(job.id)}` }, job.name || job.id), element("div", { class: "quiet id" }, `${job.id} · ${job.owner}`)],
    [badge(job.state), element("div", { class: "quiet" }, standing(job))],
    progress(job),
    duration(job.progress.eta_seconds),
    newestNll(job),
    bytes(job.progress.device_peak_bytes ?? job.progress.host_peak_bytes),
    bytes(job.planned_bytes),
    bytes(job.memory_budget),
    Object.entries(job.labels).map(([name, value]) => element("span", { class: "label" }, `${name}=${value}`)),
    time(job.created_at),
  ];
}

/** What there is to say beside the state. */
export function standing(job) {
  const alert = job.alerts.length ? `alert: ${job.alerts.join(", ")}` : "";
  return [alert, waits(job)].filter(Boolean).join("; ");
}

function waits(job) {
  if (job.waiting) return `place ${job.waiting.place}: ${job.waiting.reason}`;
  if (job.reason === "pruned") return "pruned by its sweep";
  if (job.cancelled_by) return `cancelled by ${job.cancelled_by}`;
  if (job.stop_requested) return `is asked to stop: ${job.stop_requested}`;
  return job.reason ?? "";
}

/** Steps, with a bar where their number is known. */
export function progress(job) {
  const { step, max_steps: most } = job.progress;
  const told = most ? `${number(step)} / ${number(most)}` : number(step);
  return element("div", {},
    most ? element("progress", { value: step, max: most, "aria-label": "Progress" }) : null,
    element("div", { class: "quiet" }, told));
}
