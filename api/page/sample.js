// A sample of the trained flow, drawn anew on request.

import { post } from "./api.js";
import { element } from "./elements.js";
import { number } from "./figures.js";

const ROWS = 1000;

export function showSample(place, now, signal) {
  const said = element("p", { role: "status", class: "quiet" }, "Once the job has stored its weights, its flow can be asked for samples.");
  const across = element("select");
  const up = element("select");
  const canvas = element("canvas", { width: 800, height: 600, role: "img", "aria-label": "Samples of the flow" });
  let columns = null;
  const draw = async () => {
    said.textContent = "The flow is asked…";
    try {
      ({ columns } = await post(`/jobs/${encodeURIComponent(now().id)}/flow/sample?n=${ROWS}`, undefined, { signal, headers: { Accept: "application/json" } }));
    } catch (error) {
      said.textContent = error.message;
      return;
    }
    const names = Object.keys(columns);
    if (across.options.length !== names.length) {
      for (const [select, first] of [[across, 0], [up, Math.min(1, names.length - 1)]]) {
        select.replaceChildren(...names.map((name, index) => element("option", { value: name, selected: index === first }, name)));
      }
    }
    said.textContent = `${ROWS} samples, in the units of the data.`;
    scatter(canvas, columns[across.value], columns[up.value]);
  };
  const again = () => columns && scatter(canvas, columns[across.value], columns[up.value]);
  across.addEventListener("change", again);
  up.addEventListener("change", again);
  place.append(
    element("div", { class: "row" }, element("button", { click: draw }, "Draw a sample"), element("label", {}, "Across ", across), element("label", {}, "Up ", up)),
    said, canvas);
}

function scatter(canvas, across, up) {
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const [left, top, width, height] = [70, 10, canvas.width - 80, canvas.height - 50];
  const bounds = (values) => {
    const known = values.filter(Number.isFinite);
    const [least, most] = [Math.min(...known), Math.max(...known)];
    return most > least ? [least, most] : [least - 1, most + 1];
  };
  const [x0, x1] = bounds(across);
  const [y0, y1] = bounds(up);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = style.getPropertyValue("--line");
  context.strokeRect(left, top, width, height);
  context.fillStyle = style.getPropertyValue("--accent");
  across.forEach((value, index) => {
    if (!Number.isFinite(value) || !Number.isFinite(up[index])) return;
    context.fillRect(left + ((value - x0) / (x1 - x0)) * width - 1.5, top + (1 - (up[index] - y0) / (y1 - y0)) * height - 1.5, 3, 3);
  });
  context.fillStyle = style.getPropertyValue("--quiet");
  context.font = "14px system-ui, sans-serif";
  context.textAlign = "left";
  context.fillText(number(x0), left, top + height + 20);
  context.textAlign = "right";
  context.fillText(number(x1), left + width, top + height + 20);
  context.fillText(number(y0), left - 6, top + height);
  context.fillText(number(y1), left - 6, top + 12);
}
