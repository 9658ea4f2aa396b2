// Attempts and events of a job, in the order in which they happened.

import { follow, get } from "./api.js";
import { element, table } from "./elements.js";
import { time } from "./figures.js";

const SECONDS = 5;
const ENDED = new Set(["succeeded", "failed", "cancelled"]);

export async function showTimeline(place, now, signal) {
  const path = `/jobs/${encodeURIComponent(now().id)}`;
  const attempts = element("div");
  const list = element("ol", { class: "timeline" });
  place.append(attempts, list);
  let after = 0;
  await follow(async () => {
    // Before the events are read: what happens meanwhile is read the next time.
    const ended = ENDED.has(now().state);
    for (;;) {
      const page = await get(`${path}/events?after_seq=${after}`, { signal });
      if (!page.items.length) break;
      list.append(...page.items.map((event) => element("li", {},
        element("span", { class: "quiet" }, `${time(event.time)} · attempt ${event.attempt} · ${event.actor}`),
        element("div", {}, element("strong", {}, event.name), " ", event.message))));
      after = page.next_after_seq;
    }
    const { items } = await get(`${path}/attempts`, { signal });
    const rows = items.map((item) => [
      String(item.number), String(item.workers), time(item.submitted_at ?? item.created_at), time(item.finished_at), item.outcome ?? "goes on",
      [item.reason, item.message].filter(Boolean).join(": "), item.resumed_from_step === null ? "the start" : `step ${item.resumed_from_step}`,
    ]);
    attempts.replaceChildren(table("Attempts", ["Attempt", "Workers", "Began", "Ended", "Outcome", "Why", "From"], rows, ["Attempt", "Workers"]));
    return !ended;
  }, SECONDS, signal);
}
