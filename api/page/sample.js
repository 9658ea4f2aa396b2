// A sample of the trained flow beside the data: points over the histograms that the run stored, or a grid of images.

import { ApiError, file, get, post } from "./api.js";
import { element } from "./elements.js";
import { scatter, shares } from "./density.js";
import { number } from "./figures.js";
import { drawImages } from "./images.js";

const ROWS = 1000;
const IMAGES = 64;
const MOST_COLUMNS = 10;

export async function showSample(place, now, signal) {
  const path = `/jobs/${encodeURIComponent(now().id)}`;
  const { summary } = await get(`${path}/data`, { signal });
  const { items: files } = await get(`${path}/artifacts`, { signal });
  const image = summary?.image ?? null;
  const stored = async (name) => (files.some((item) => item.name === name) ? file(`${path}/artifacts/${name}`, { signal }) : null);
  const data = image ? null : await stored("histograms.json").then((found) => found?.text()).then((text) => (text ? JSON.parse(text) : null));
  const contexts = (summary?.sources[0]?.columns ?? []).filter((column) => column.context);

  const said = element("p", { role: "status", class: "quiet" }, told(data, image));
  const count = element("input", { type: "number", min: 1, max: 10_000, value: image ? IMAGES : ROWS, class: "step" });
  const given = contexts.map((column) => element("input", { type: "number", step: "any", value: column.mean ?? 0, class: "step" }));
  const shown = image ? await beside(stored, signal) : columns(data, signal);
  const button = element("button", { click: draw }, "Draw a sample");
  place.append(
    element("div", { class: "row" }, button, element("label", {}, "Rows ", count),
      contexts.map((column, index) => element("label", {}, `given ${column.name} `, given[index]))),
    said, shown.place);

  async function draw() {
    if (![count, ...given].every((input) => input.reportValidity())) return;
    said.textContent = "The flow is asked…";
    button.disabled = true;
    const body = contexts.length ? { context: Object.fromEntries(contexts.map((column, index) => [column.name, [Number(given[index].value)]])) } : undefined;
    try {
      const read = await post(`${path}/flow/sample?n=${count.value}`, body, { signal, headers: { Accept: "application/json" } });
      const own = Object.entries(read.columns).filter(([name]) => !contexts.some((column) => column.name === name));
      shown.draw(new Map(own), image, summary);
      said.textContent = `${number(own[0][1].length)} samples, in the units of the data. ${told(data, image)}`;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      said.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  }
}

function told(data, image) {
  if (image) return "The picture beside it was drawn when the run ended: its test rows, and samples of then.";
  if (data) return `Shaded: ${number(data.rows)} test rows. Points and lines: the flow's samples.`;
  return "The run has stored no histograms of its data (evaluation.plots), so samples are shown by themselves.";
}

/** The sample's images, beside the picture that the run drew of its test rows. */
async function beside(stored, signal) {
  const canvas = element("canvas", { width: 400, height: 400, role: "img", "aria-label": "Images of the flow" });
  const picture = await stored("images.png");
  const place = element("div", { class: "pictures" }, element("figure", {}, canvas, element("figcaption", { class: "quiet" }, "Drawn now")));
  if (picture) {
    const address = URL.createObjectURL(picture);
    signal.addEventListener("abort", () => URL.revokeObjectURL(address), { once: true });
    place.append(element("figure", {}, element("img", { src: address, alt: "Test rows and samples of the end of the run" }), element("figcaption", { class: "quiet" }, "images.png")));
  }
  return { place, draw: (sample, image, summary) => drawImages(canvas, [...sample.values()], image, summary.sources[0].columns) };
}

/** Two columns as points over the data, and every column by itself. */
function columns(data, signal) {
  const [across, up] = [element("select"), element("select")];
  const canvas = element("canvas", { width: 640, height: 520, role: "img", "aria-label": "Samples over the data, two columns" });
  const each = element("div", { class: "small" });
  const pair = element("figure", {}, element("div", { class: "row" }, element("label", {}, "Across ", across), element("label", {}, "Up ", up)), canvas);
  const place = element("div", { class: "sample" }, pair, each);
  let sample = new Map((data?.columns ?? []).map((name) => [name, []]));
  const again = () => {
    const names = [...sample.keys()];
    pair.hidden = names.length < 2;
    if (!pair.hidden) scatter(canvas, data, sample, across.value, up.value);
    each.replaceChildren(...names.slice(0, MOST_COLUMNS).map((name) => shares(data, sample, name)));
  };
  const choose = () => {
    const names = [...sample.keys()];
    if (across.options.length === names.length) return;
    for (const [select, first] of [[across, 0], [up, 1]]) {
      select.replaceChildren(...names.map((name, index) => element("option", { value: name, selected: index === first }, name)));
    }
  };
  for (const select of [across, up]) select.addEventListener("change", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again, { signal });
  choose();
  again();
  return {
    place,
    draw(drawn) {
      sample = drawn;
      choose();
      again();
    },
  };
}
