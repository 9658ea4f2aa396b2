// Figures as text.

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(unit === 0 || value >= 100 ? 0 : 1)} ${units[unit]}`;
}

/** A number with four digits; the API gives those that are not finite as text. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

/** A value with its standard error. */
export function withError(value, error) {
  return error === null || error === undefined ? number(value) : `${number(value)} ± ${Number(Number(error).toPrecision(2))}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const whole = Math.round(seconds);
  const [days, hours, minutes, rest] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}

export function time(text) {
  return text ? new Date(text).toLocaleString([], { dateStyle: "short", timeStyle: "medium" }) : "–";
}

/** A job's newest negative log-likelihood: that of held-out rows if there is one. */
export function newestNll(job) {
  const latest = job.progress.latest;
  const name = ["validation_nll", "nll", "loss"].find((item) => item in latest);
  return name === undefined ? "–" : number(latest[name]);
}
