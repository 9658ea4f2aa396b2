// Samples over the histograms of the data, drawn on canvases. Axes are spaced as the run's bins are.

import { element } from "./elements.js";
import { number } from "./figures.js";

const BINS = 24;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The edges of a column's bins: the run's, or, without them, some that hold all samples. */
function edgesOf(data, sample, name) {
  const known = data?.edges[data.columns.indexOf(name)];
  if (known) return known;
  const values = sample.get(name).filter(Number.isFinite);
  const least = values.reduce((found, value) => Math.min(found, value), Infinity);
  const most = values.reduce((found, value) => Math.max(found, value), -Infinity);
  const [from, to] = most > least ? [least, most] : Number.isFinite(least) ? [least - 1, least + 1] : [0, 1];
  return Array.from({ length: BINS + 1 }, (_, index) => from + ((to - from) * index) / BINS);
}

/** Return where a value is between the first edge (0) and the last (1), or null beyond them. */
function placeOf(edges, value) {
  if (!(value >= edges[0] && value <= edges.at(-1))) return null;
  let [low, high] = [0, edges.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= value) low = middle;
    else high = middle;
  }
  const width = edges[high] - edges[low];
  return (low + (width > 0 ? (value - edges[low]) / width : 0.5)) / (edges.length - 1);
}

function pairOf(data, across, up) {
  const [first, second] = [across, up].map((name) => data?.columns.indexOf(name) ?? -1);
  const found = data?.pairs.find(({ columns }) => columns.includes(first) && columns.includes(second) && first !== second);
  if (!found) return null;
  return found.columns[0] === first ? found.counts : found.counts[0].map((_, index) => found.counts.map((row) => row[index]));
}

/** Draw samples of two columns over the shares of the data. */
export function scatter(canvas, data, sample, across, up) {
  const context = canvas.getContext("2d");
  const [left, top, width, height] = [80, 10, canvas.width - 90, canvas.height - 50];
  const [x, y] = [across, up].map((name) => edgesOf(data, sample, name));
  context.clearRect(0, 0, canvas.width, canvas.height);
  const counts = pairOf(data, across, up);
  if (counts) {
    const most = Math.max(...counts.flat(), 1);
    const [cellWidth, cellHeight] = [width / counts.length, height / counts[0].length];
    context.fillStyle = colour("--data");
    counts.forEach((row, column) => row.forEach((count, place) => {
      context.globalAlpha = Math.sqrt(count / most);
      context.fillRect(left + column * cellWidth, top + height - (place + 1) * cellHeight, cellWidth, cellHeight);
    }));
    context.globalAlpha = 1;
  }
  context.fillStyle = colour("--sample");
  const [xs, ys] = [sample.get(across), sample.get(up)];
  let beyond = 0;
  xs.forEach((value, index) => {
    const [right, above] = [placeOf(x, value), placeOf(y, ys[index])];
    if (right === null || above === null) beyond += 1;
    else context.fillRect(left + right * width - 1, top + (1 - above) * height - 1, 2, 2);
  });
  axes(context, [left, top, width, height], x, y);
  context.textAlign = "center";
  context.fillText(beyond ? `${across} (${number(beyond)} samples are beyond the picture)` : across, left + width / 2, top + height + 38);
}

function axes(context, [left, top, width, height], x, y) {
  context.strokeStyle = colour("--line");
  context.strokeRect(left, top, width, height);
  context.fillStyle = colour("--quiet");
  context.font = "13px system-ui, sans-serif";
  for (const [share, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
    context.textAlign = align;
    context.fillText(number(at(x, share)), left + share * width, top + height + 18);
    context.textAlign = "right";
    context.fillText(number(at(y, share)), left - 6, top + (1 - share) * height + (share === 1 ? 12 : share === 0 ? 0 : 4));
  }
}

const at = (edges, share) => Number(edges[Math.round(share * (edges.length - 1))].toPrecision(4));

/** Make a picture of one column: shares of the data as bars, of the samples as a line. */
export function shares(data, sample, name) {
  const edges = edgesOf(data, sample, name);
  const bins = edges.length - 1;
  const values = sample.get(name);
  const drawn = new Array(bins).fill(0);
  for (const value of values) {
    const place = placeOf(edges, value);
    if (place !== null) drawn[Math.min(bins - 1, Math.floor(place * bins))] += 1 / values.length;
  }
  const known = data?.counts[data.columns.indexOf(name)]?.map((count) => count / data.rows) ?? null;
  const canvas = element("canvas", { width: 260, height: 120, role: "img", "aria-label": `Shares of ${name}` });
  const context = canvas.getContext("2d");
  const [height, step] = [canvas.height - 20, canvas.width / bins];
  const most = Math.max(...drawn, ...(known ?? []), 1e-9);
  context.fillStyle = colour("--data");
  known?.forEach((share, bin) => context.fillRect(bin * step, height * (1 - share / most), step, (height * share) / most));
  if (values.length) {
    context.strokeStyle = colour("--sample");
    context.lineWidth = 2;
    context.beginPath();
    drawn.forEach((share, bin) => {
      context.lineTo(bin * step, height * (1 - share / most));
      context.lineTo((bin + 1) * step, height * (1 - share / most));
    });
    context.stroke();
  }
  context.fillStyle = colour("--quiet");
  context.font = "12px system-ui, sans-serif";
  context.fillText(number(at(edges, 0)), 0, height + 15);
  context.textAlign = "right";
  context.fillText(number(at(edges, 1)), canvas.width, height + 15);
  return element("figure", {}, element("h3", {}, name), canvas, element("figcaption", { class: "quiet" }, apart(known, drawn, values.length)));
}

/** Say how far two histograms are apart: the share that would have to be moved to make one of the other. */
function apart(known, drawn, samples) {
  if (!known || !samples) return "";
  const beyond = (shares) => Math.max(0, 1 - shares.reduce((sum, share) => sum + share, 0));
  const moved = known.reduce((sum, share, bin) => sum + Math.abs(share - drawn[bin]), Math.abs(beyond(known) - beyond(drawn))) / 2;
  return `${number(Number((100 * moved).toPrecision(2)))} % of the samples lie elsewhere than the data`;
}
