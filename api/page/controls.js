// The buttons of a job: what may be asked for in its state, and continuing it with changes.

import { get, post } from "./api.js";
import { element } from "./elements.js";

// In which states each makes sense; the API decides.
const ACTIONS = [
  ["pause", "Pause", ["queued", "starting", "running"]],
  ["resume", "Resume", ["paused"]],
  ["checkpoint", "Checkpoint", ["starting", "running"]],
  ["cancel", "Cancel", ["queued", "starting", "running", "pausing", "paused"]],
];

/** Return the place of the buttons, and what draws them anew; `changed` is given the job after each. */
export function controls(now, changed) {
  const said = element("span", { role: "status", class: "quiet" });
  const path = `/jobs/${encodeURIComponent(now().id)}`;
  const buttons = ACTIONS.map(([action, title, states]) => {
    const made = element("button", {
      click: async () => {
        if (action === "cancel" && !confirm(`Cancel ${now().name || now().id}?`)) return;
        try {
          changed(await post(`${path}/${action}`));
          said.textContent = `${title}: asked for.`;
        } catch (error) {
          said.textContent = error.message;
        }
      },
    }, title);
    return [made, states];
  });
  const dialog = element("dialog", { "aria-label": "Continue with changes" });
  const onwards = element("button", { click: () => open(dialog, now()) }, "Continue with changes…");
  return {
    place: element("div", { class: "row" }, buttons.map(([button]) => button), onwards, said, dialog),
    draw() {
      for (const [button, states] of buttons) button.disabled = !states.includes(now().state);
      onwards.disabled = now().spec.kind === "scores";
    },
  };
}

async function open(dialog, job) {
  const { items: checkpoints } = await get(`/jobs/${encodeURIComponent(job.id)}/checkpoints`);
  const step = element("select", {}, element("option", { value: "" }, "the newest"), checkpoints.map((item) => element("option", { value: item.step }, `step ${item.step} (${item.cause})`)));
  const changes = element("textarea", { spellcheck: "false" }, JSON.stringify({ stop: { max_steps: 2 * (job.spec.stop?.max_steps ?? 1000) } }, null, 2));
  const said = element("p", { class: "fault", role: "alert" });
  const send = async () => {
    said.textContent = "";
    try {
      const parent = { job: job.id, step: step.value === "" ? null : Number(step.value) };
      const made = await post(`/jobs/${encodeURIComponent(job.id)}/clone`, { ...JSON.parse(changes.value), parent });
      dialog.close();
      location.hash = `#/jobs/${encodeURIComponent(made.id)}`;
    } catch (error) {
      const fields = error.problem?.errors?.map((item) => `${item.pointer}: ${item.detail}`) ?? [];
      said.textContent = [error.message, ...fields].join("\n");
    }
  };
  dialog.replaceChildren(
    element("h2", {}, "Continue with changes"),
    element("p", {}, element("label", {}, "From ", step)),
    element("label", {}, "Changes of the spec, as a JSON merge patch: null gives a field its default", changes),
    said,
    element("div", { class: "row" }, element("button", { click: send }, "Submit"), element("button", { click: () => dialog.close() }, "Close")));
  dialog.showModal();
}
