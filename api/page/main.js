// Which view the address names: #/jobs, #/jobs/JOB, #/sweeps, #/sweeps/SWEEP, #/compare, #/cluster.

import { element } from "./elements.js";
import { showCluster } from "./cluster.js";
import { showCompare } from "./compare.js";
import { showJob } from "./job.js";
import { showJobs } from "./jobs.js";
import { showSweep } from "./sweep.js";
import { showSweeps } from "./sweeps.js";

const main = document.getElementById("main");
let current = new AbortController();

async function show() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, id] = path.split("/").map(decodeURIComponent);
  current.abort();
  current = new AbortController();
  const { signal } = current;
  const parameters = new URLSearchParams(search);
  main.replaceChildren();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${view || "jobs"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (view === "cluster") await showCluster(main, signal);
    else if (view === "sweeps" && id) await showSweep(main, id, signal);
    else if (view === "sweeps") await showSweeps(main, parameters, signal);
    else if (view === "compare") await showCompare(main, parameters, signal);
    else if (view === "jobs" && id) await showJob(main, id, signal);
    else await showJobs(main, parameters, signal);
  } catch (error) {
    if (signal.aborted) return;
    main.append(element("p", { class: "fault", role: "alert" }, error.message));
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view is shown
  main.focus();
});
addEventListener("hashchange", show);
addEventListener("DOMContentLoaded", show, { once: true });
