// The cluster: what its nodes have, who holds what of it, and who waits for what.

import { follow, get } from "./api.js";
import { badge, bar, element, section, table } from "./elements.js";
import { bytes, number } from "./figures.js";

const SECONDS = 5;

export async function showCluster(main, signal) {
  document.title = "Cluster – symadj";
  const place = element("div");
  main.append(element("h1", {}, "Cluster"), place);
  await follow(async () => {
    const cluster = await get("/cluster", { signal });
    place.replaceChildren(
      section("Resources", resources(cluster)),
      section("Running", running(cluster)),
      section("Queue", queue(cluster)));
  }, SECONDS, signal);
}

const link = (job) => [element("a", { href: `#/jobs/${encodeURIComponent(job.id)}` }, job.name || job.id), element("div", { class: "quiet id" }, job.id)];

function resources({ nodes, total, used }) {
  const kinds = [["CPUs", "cpus", number], ["GPUs", "gpus", number], ["Memory", "memory", bytes]];
  const rows = kinds.map(([title, key, told]) => [
    title, total ? told(total[key]) : "–", told(used[key]), total ? told(Math.max(0, total[key] - used[key])) : "–",
    total && total[key] > 0 ? bar(Math.min(used[key], total[key]), total[key]) : "",
  ]);
  const caption = nodes ? `All nodes: ${nodes.length}` : "Ray does not answer: what the nodes have is not known";
  const made = table(caption, ["", "Total", "Used", "Free", " "], rows, ["Total", "Used", "Free"]);
  for (const row of made.querySelectorAll("tbody tr")) row.lastElementChild.classList.add("bars");
  if (!nodes || nodes.length < 2) return made;
  const each = nodes.map((node) => [node.name, ...kinds.map(([, key, told]) => `${told(node.free[key])} of ${told(node[key])}`)]);
  const titles = kinds.map(([title]) => title);
  return element("div", {}, made, table("Each node: what is free of what it has", ["Node", ...titles], each, titles));
}

function running({ active }) {
  if (!active.length) return element("p", {}, "No job holds a part of the cluster.");
  const rows = active.map((job) => [
    link(job), job.owner, badge(job.state), String(job.workers), number(job.held.cpus), number(job.held.gpus),
    job.held.memory ? bytes(job.held.memory) : "no budget",
  ]);
  const numbers = ["Workers", "CPUs", "GPUs", "Memory"];
  return table("What each job holds", ["Job", "Owner", "State", ...numbers], rows, numbers);
}

function queue({ waiting, queued }) {
  if (!queued) return element("p", {}, "No job waits.");
  const rows = waiting.map((job) => [String(job.place), link(job), job.owner, job.reason]);
  const caption = queued > waiting.length ? `Who waits, and for what: the first ${waiting.length} of ${queued}` : "Who waits, and for what";
  return table(caption, ["Place", "Job", "Owner", "Waits for"], rows, ["Place"]);
}
