// What the driver and the ranks of a job printed, followed to its end.

import { follow, get, query } from "./api.js";
import { element } from "./elements.js";

// So many lines are shown; older ones are in the API.
const MOST_LINES = 2000;
const WAIT_SECONDS = 25;

export async function showLogs(place, now, signal) {
  const path = `/jobs/${encodeURIComponent(now().id)}/logs`;
  const rank = element("input", { size: 8, placeholder: "all", pattern: "driver|[0-9]+" });
  const lines = element("div", { class: "lines", tabindex: "0", role: "log", "aria-label": "Logs" });
  place.append(element("label", { class: "row" }, "Rank, or driver ", rank), lines);
  let looking = new AbortController();

  async function restart() {
    looking.abort();
    looking = new AbortController();
    const mine = AbortSignal.any([signal, looking.signal]);
    lines.replaceChildren();
    let after = 0;
    let wanted = { tail: 1000 };
    await follow(async () => {
      const page = await get(`${path}${query({ ...wanted, rank: rank.value, after })}`, { signal: mine });
      after = page.next_after;
      wanted = { wait: WAIT_SECONDS };
      const bottom = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 5;
      lines.append(...page.items.map((item) => element("div", {}, `${item.rank === null ? "driver" : `rank-${item.rank}`}  ${item.left_out_bytes ? `[${item.left_out_bytes} bytes were left out here]` : item.text}`)));
      while (lines.childElementCount > MOST_LINES) lines.firstElementChild.remove();
      if (bottom) lines.scrollTop = lines.scrollHeight;
      return !page.complete;
    }, 1, mine);
  }

  const tell = (error) => lines.append(element("div", { class: "fault" }, error.message));
  rank.addEventListener("change", () => rank.checkValidity() && restart().catch(tell));
  restart().catch(tell);
}
