// Curves of metrics over steps, drawn by uPlot from the API's pictures of at most POINTS buckets, and live beyond them.

import { get, query } from "./api.js";
import { element } from "./elements.js";
import { number } from "./figures.js";

const POINTS = 1000;
// So many new values a picture is drawn with; then the API draws the whole anew.
const MOST_NEW = 2000;
const COLOURS = ["#2a78d6", "#d1495b", "#2e9e5b", "#b07aa1", "#e08e1b", "#17a2a2", "#8a6d3b", "#6a51a3"];

const finite = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const path = (job) => `/jobs/${encodeURIComponent(job)}`;
const metric = (job, name) => `${path(job)}/metrics/${encodeURIComponent(name)}`;

/** The values of one metric of one job. */
export class Series {
  constructor(job, name, title = name) {
    Object.assign(this, { job, name, title, buckets: [], range: [null, null], part: [], points: [], after: 0, complete: false });
  }

  /** Read the whole series, downsampled: the extremes of each bucket keep its spikes. */
  async load(signal) {
    const read = await get(`${metric(this.job, this.name)}?points=${POINTS}`, { signal });
    this.buckets = read.buckets;
    this.points = [];
    this.after = read.next_after_seq;
    this.complete = read.complete;
    await this.look(this.range, signal);
  }

  /** Take what is new of an answer. */
  async extend(read, signal) {
    const points = read.points.filter((point) => point.seq > this.after);
    this.after = Math.max(this.after, read.next_after_seq);
    this.complete = read.complete;
    const known = this.points.at(-1)?.step ?? this.buckets.at(-1)?.last_step ?? -1;
    this.points.push(...points.filter((point) => point.step > known));
    // Steps that were trained again after a loss replace others.
    if (this.points.length > MOST_NEW || points.some((point) => point.step <= known)) await this.load(signal);
  }

  /** Read the steps from one to another by themselves, where the picture of the whole has only buckets of several. */
  async look(range, signal) {
    const [from, to] = (this.range = range);
    this.part = [];
    const seen = this.buckets.filter((item) => item.last_step >= (from ?? 0) && item.first_step <= (to ?? Infinity));
    if (range.every((end) => end === null) || seen.every((item) => item.points === 1)) return;
    const wanted = query({ name: this.name, points: POINTS, first_step: from, last_step: to });
    const read = await get(`${path(this.job)}/series${wanted}`, { signal });
    this.part = read.items[0].buckets;
  }

  /** The buckets of the whole, with those of the part in their place. */
  get drawn() {
    if (!this.part.length) return this.buckets;
    const [first, last] = [this.part[0].first_step, this.part.at(-1).last_step];
    return [
      ...this.buckets.filter((item) => item.last_step < first),
      ...this.part,
      ...this.buckets.filter((item) => item.first_step > last),
    ];
  }

  /** Return [steps, means, minima, maxima, values that are not finite]. */
  columns() {
    const rows = [
      ...this.drawn.map((item) => [(item.first_step + item.last_step) / 2, item.mean, item.minimum, item.maximum]),
      ...this.points.filter((item) => item.step > (this.part.at(-1)?.last_step ?? 0)).map((item) => [item.step, finite(item.value), finite(item.value), finite(item.value)]),
    ];
    const lost =
      this.buckets.reduce((sum, item) => sum + item.non_finite, 0) +
      this.points.filter((item) => finite(item.value) === null).length;
    return [...[0, 1, 2, 3].map((place) => rows.map((row) => row[place])), lost];
  }
}

/** Read what is new in series of one job, in one answer, `wait` seconds long if need be. */
export async function extend(series, wait, signal) {
  const after = Math.min(...series.map((item) => item.after));
  const wanted = query({ name: series.map((item) => item.name), after_seq: after, wait });
  const read = await get(`${path(series[0].job)}/series${wanted}`, { signal });
  for (const [place, item] of series.entries()) await item.extend(read.items[place], signal);
}

/** Weigh each value with those before it; `weight` 0 leaves them as they are. */
function smooth(values, weight) {
  let mean = null;
  return values.map((value) => {
    if (value === null) return null;
    mean = mean === null ? value : weight * mean + (1 - weight) * value;
    return mean;
  });
}

/** Charts that share their steps, with the switches above them. */
export class Charts {
  constructor(signal) {
    this.charts = [];
    this.weight = 0;
    this.range = [null, null];
    this.looking = new AbortController();
    this.said = element("span", { role: "status", class: "quiet" });
    const tick = (title, change, checked = false) =>
      element("label", {}, element("input", { type: "checkbox", checked, change: (event) => change(event.target.checked) }), " ", title);
    const end = (place, title) =>
      element("label", {}, title, " ", element("input", {
        type: "number", min: 0, step: 1, class: "step",
        change: (event) => {
          const range = [...this.range];
          range[place] = event.target.value === "" ? null : Number(event.target.value);
          this.zoom(...range);
        },
      }));
    this.from = end(0, "Steps from");
    this.to = end(1, "to");
    this.logY = true;
    this.logX = false;
    this.switches = element("div", { class: "row" },
      tick("log values", (on) => this.rebuild({ logY: on }), true),
      tick("log steps", (on) => this.rebuild({ logX: on })),
      element("label", {}, "Smoothing ", element("input", {
        type: "range", min: 0, max: 0.99, step: 0.01, value: 0,
        input: (event) => {
          this.weight = Number(event.target.value);
          this.draw();
        },
      })),
      this.from, this.to,
      element("button", { click: () => this.zoom(null, null) }, "All steps"), this.said);
    this.place = element("div", { class: "charts" });
    const observer = new ResizeObserver(() => this.resize());
    observer.observe(this.place);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.rebuild({}), { signal });
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.zoomed && !document.querySelector("dialog[open]")) this.zoom(null, null);
    }, { signal });
    signal.addEventListener("abort", () => {
      this.looking.abort();
      observer.disconnect();
      this.clear();
    }, { once: true });
  }

  /** Add a chart of series, which share their axes. */
  add(title, series) {
    const summary = element("figcaption", { class: "quiet" });
    const place = element("div", { class: "plot" });
    const figure = element("figure", { "aria-label": `Curve of ${title}` }, element("h3", {}, title), place, summary);
    this.charts.push({ title, series, figure, place, summary, plot: null });
    this.place.append(figure);
  }

  clear() {
    for (const chart of this.charts) chart.plot?.destroy();
    this.charts = [];
    this.place.replaceChildren();
  }

  rebuild(changes) {
    Object.assign(this, changes);
    for (const chart of this.charts) {
      chart.plot?.destroy();
      chart.plot = null;
    }
    this.draw();
  }

  get zoomed() {
    return this.range.some((end) => end !== null);
  }

  /** Show the steps from one to another; null: from the first, to the newest. */
  zoom(from, to) {
    this.range = from !== null && to !== null && to < from ? [to, from] : [from, to];
    for (const [place, label] of [this.from, this.to].entries()) label.querySelector("input").value = this.range[place] ?? "";
    this.look();
  }

  /** Draw the steps that are chosen: at once by what is known of them, then by what is read of them alone. */
  async look() {
    this.looking.abort();
    this.looking = new AbortController();
    const { signal } = this.looking;
    const all = this.charts.flatMap((chart) => chart.series);
    this.draw();
    this.said.textContent = this.zoomed ? "Reading these steps…" : "";
    try {
      for (const series of all) {
        await series.look(this.range, signal);
        this.draw();
      }
      this.said.textContent = this.zoomed ? "Double click or Escape: all steps." : "";
    } catch (error) {
      if (!signal.aborted) this.said.textContent = error.message;
    }
  }

  resize() {
    for (const chart of this.charts) chart.plot?.setSize({ width: chart.place.clientWidth, height: 220 });
  }

  /** Draw what the series have now. */
  draw() {
    for (const chart of this.charts) this.drawOne(chart);
  }

  drawOne(chart) {
    const drawn = chart.series.map((item) => item.columns());
    const all = drawn.flatMap((columns) => [...columns[2], ...columns[3]]).filter((value) => value !== null);
    // Values below 0 have no logarithm: an axis with any of them stays linear.
    const log = this.logY && all.length > 0 && all.every((value) => value > 0);
    const smoothed = drawn.map(([, means]) => smooth(means, this.weight));
    const tables = drawn.map(([steps, , minima, maxima], place) => [steps, smoothed[place], minima, maxima]);
    const data = uPlot.join(tables);
    if (chart.plot === null || chart.log !== log) {
      chart.plot?.destroy();
      chart.log = log;
      chart.plot = new uPlot(this.options(chart, log), data, chart.place);
    } else {
      chart.plot.setData(data, false);
    }
    const steps = data[0];
    const first = Math.max(this.range[0] ?? steps[0] ?? 0, this.logX ? 1 : 0);
    // An axis of no length has no marks.
    const last = Math.max(this.range[1] ?? steps.at(-1) ?? 1, first + 1);
    // This draws the new values, too.
    chart.plot.setScale("x", { min: first, max: last });
    chart.summary.textContent = chart.series.map((item, place) => {
      const newest = item.points.at(-1)?.value ?? item.buckets.at(-1)?.last;
      const [steps, , minima, maxima, lost] = drawn[place];
      const seen = (values) => values.filter((value, index) => value !== null && steps[index] >= first && steps[index] <= last);
      const [least, most] = [Math.min(...seen(minima)), Math.max(...seen(maxima))];
      const together = Math.max(1, ...item.drawn.filter((bucket) => bucket.last_step >= first && bucket.first_step <= last).map((bucket) => bucket.points));
      return [
        `${chart.series.length > 1 ? `${item.title}: ` : ""}newest ${number(newest)}`,
        this.weight ? `smoothed ${number(smoothed[place].findLast((value) => value !== null))}` : "",
        least <= most ? `least ${number(least)}, most ${number(most)}` : "",
        together > 1 ? `up to ${number(together)} steps a point` : "",
        lost ? `${lost} not finite` : "",
      ].filter(Boolean).join(", ");
    }).join(" · ") + (this.logY && !log && all.length ? " · linear: some values are not above 0" : "");
  }

  options(chart, log) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--quiet").trim();
    const grid = { stroke: style.getPropertyValue("--line").trim(), width: 1 };
    const axis = { stroke: ink, grid, ticks: grid, font: "12px system-ui, sans-serif" };
    const written = (_, values) => values.map((value) => (value === null ? "" : number(value)));
    return {
      width: chart.place.clientWidth || 400,
      height: 220,
      scales: { x: { time: false, distr: this.logX ? 3 : 1 }, y: { distr: log ? 3 : 1 } },
      axes: [{ ...axis, values: written }, { ...axis, size: 70, values: written }],
      legend: { show: chart.series.length > 1 },
      cursor: { drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => this.zoom(null, null) } },
      hooks: {
        setSelect: [(plot) => {
          if (plot.select.width < 5) return;
          const [left, right] = [plot.select.left, plot.select.left + plot.select.width].map((place) => Math.round(plot.posToVal(place, "x")));
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          this.zoom(left, right);
        }],
      },
      series: [
        { label: "step" },
        ...chart.series.flatMap((item, place) => {
          const colour = COLOURS[place % COLOURS.length];
          return [
            { label: item.title, stroke: colour, width: 1.5, spanGaps: true, points: { show: false } },
            { label: `${item.title}, least`, stroke: `${colour}40`, width: 1, spanGaps: true, points: { show: false } },
            { label: `${item.title}, most`, stroke: `${colour}40`, width: 1, spanGaps: true, points: { show: false } },
          ];
        }),
      ],
      bands: chart.series.map((_, place) => ({ series: [3 * place + 3, 3 * place + 2], fill: `${COLOURS[place % COLOURS.length]}28` })),
    };
  }
}
