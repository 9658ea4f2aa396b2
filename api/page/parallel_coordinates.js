// Parallel coordinates: an axis for each parameter and one for the objective, a line for each trial.

import { element } from "./elements.js";
import { number } from "./figures.js";
import { scale, shape, ticks } from "./svg.js";

const [HEIGHT, TOP, BOTTOM, SIDE, GAP] = [340, 46, 16, 90, 150];

/** Draw the trials of a sweep; `choose` is given the number of the one that the user picks. */
export function parallelCoordinates(sweep, chosen, choose) {
  const valued = sweep.trials.filter((trial) => typeof trial.value === "number");
  const axes = Object.entries(sweep.spec.parameters).map(([path, parameter]) => axisOf(path, parameter, sweep.trials));
  const values = valued.map((trial) => trial.value);
  const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  const place = scale(low, high);
  const objective = {
    title: sweep.objective.metric, marks: values.length ? ticks(low, high).map((value) => [place(value), number(value)]) : [],
    of: (trial) => (typeof trial.value === "number" ? place(trial.value) : null),
  };
  axes.push(objective);
  const width = 2 * SIDE + GAP * (axes.length - 1);
  const x = (index) => SIDE + GAP * index;
  const y = (at) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * at;
  const goodness = (trial) => (sweep.objective.direction === "minimize" ? 1 - place(trial.value) : place(trial.value));
  const line = (trial) => {
    const points = axes.map((axis, index) => [x(index), axis.of(trial)]).filter(([, at]) => at !== null);
    const has = typeof trial.value === "number";
    const picked = trial.number === chosen;
    const made = shape("polyline", {
      class: `trial ${trial.state}${picked ? " chosen" : ""}`, "data-trial": trial.number, tabindex: "0", role: "button", "aria-pressed": String(picked),
      "aria-label": told(trial), points: points.map(([left, at]) => `${left},${y(at)}`).join(" "),
      stroke: has ? `hsl(${Math.round(230 - 190 * goodness(trial))} 80% 50%)` : null,
      click: () => choose(trial.number),
      keydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        choose(trial.number);
      },
    }, shape("title", {}, told(trial)));
    return made;
  };
  // The best are drawn last, over the others.
  const order = [...sweep.trials].sort((one, other) => rank(one) - rank(other));
  function rank(trial) {
    if (trial.number === chosen) return 3;
    return typeof trial.value === "number" ? 1 + goodness(trial) : 0;
  }
  const drawing = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "group", "aria-label": "Parallel coordinates of the trials" },
    ...order.map(line),
    ...axes.map((axis, index) => shape("g", { class: "axis" },
      shape("line", { x1: x(index), x2: x(index), y1: y(0), y2: y(1) }),
      shape("text", { x: x(index), y: index % 2 ? 14 : 30, "text-anchor": "middle" }, axis.title),
      ...axis.marks.map(([at, text]) => shape("text", { x: x(index) + 6, y: y(at) + 4 }, text)))));
  const picked = sweep.trials.find((trial) => trial.number === chosen);
  return element("figure", {},
    element("div", { class: "scroll drawing", tabindex: "0", role: "region", "aria-label": "Parallel coordinates" }, drawing),
    element("figcaption", { class: "quiet", role: "status" }, picked ? told(picked)
      : "A line is a trial, yellow for the best values, blue for the worst; dashed ones were pruned, failed, or go on. Click a line, or reach it by Tab, to see its figures."));

  function told(trial) {
    const parameters = Object.entries(trial.parameters).map(([path, value]) => `${path} ${typeof value === "number" ? number(value) : JSON.stringify(value)}`);
    return `trial ${trial.number}, ${trial.state}: ${sweep.objective.metric} ${number(trial.value)}; ${parameters.join(", ")}`;
  }
}

/** Return the axis of a parameter: its title, its marks, and where each trial stands on it, from 0 to 1. */
function axisOf(path, parameter, trials) {
  const { choices, low, high, log } = parameter;
  if (choices !== null && choices.every((choice) => typeof choice === "number") && choices.length > 1) {
    const [least, most] = [Math.min(...choices), Math.max(...choices)];
    // Values that are spread over decades are told apart by their logarithms.
    return numeric(path, least, most, least > 0 && most / least >= 50, choices);
  }
  if (choices !== null) {
    const names = choices.map((choice) => JSON.stringify(choice));
    const at = scale(0, names.length - 1);
    return { title: path, marks: names.map((name, place) => [at(place), name]), of: (trial) => at(names.indexOf(JSON.stringify(trial.parameters[path]))) };
  }
  const whole = [low, high, ...trials.map((trial) => trial.parameters[path])].every(Number.isInteger);
  const marks = ticks(low, high, log);
  return numeric(path, low, high, log, whole ? [...new Set(marks.map(Math.round))] : marks);
}

function numeric(path, low, high, log, marks) {
  const at = scale(low, high, log);
  return { title: log ? `${path} (log)` : path, marks: marks.map((value) => [at(value), number(value)]), of: (trial) => at(trial.parameters[path]) };
}
