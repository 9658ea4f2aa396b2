// The best value so far, trial after trial.

import { element } from "./elements.js";
import { number } from "./figures.js";
import { scale, shape, ticks } from "./svg.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [640, 220, 80, 34, 12, 12];

export function bestSoFar(sweep) {
  const done = sweep.trials.filter((trial) => typeof trial.value === "number");
  if (!done.length) return element("p", {}, "No trial has succeeded yet.");
  const better = sweep.objective.direction === "minimize" ? Math.min : Math.max;
  const values = done.map((trial) => trial.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = ((place) => (trial) => LEFT + (WIDTH - LEFT - RIGHT) * place(trial))(scale(0, Math.max(1, sweep.wanted - 1)));
  const y = ((place) => (value) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * place(value))(scale(low, high));
  let best = done[0].value;
  const path = done.map((trial, place) => {
    best = better(best, trial.value);
    return place ? `H${x(trial.number)}V${y(best)}` : `M${x(trial.number)} ${y(best)}`;
  });
  const marks = ticks(low, high).map((value) => shape("g", {},
    shape("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }),
    shape("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, number(value))));
  const points = done.map((trial) => shape("circle", { class: "trial", cx: x(trial.number), cy: y(trial.value), r: 3.5 },
    shape("title", {}, `trial ${trial.number}: ${number(trial.value)}`)));
  const caption = `${sweep.objective.metric}: best ${number(best)}`;
  const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": caption }, ...marks,
    shape("path", { class: "best", d: path.join("") }), ...points,
    shape("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, `trial 0 to ${sweep.wanted - 1}`));
  return element("figure", { class: "drawing" }, picture, element("figcaption", { class: "quiet" }, `${caption}; a point is a trial.`));
}
