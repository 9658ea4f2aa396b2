// Requests to the API, with the user's key where it asks for one.

const KEY = "symadj-api-key";
const BASE = "api/v1";
let asking = null;

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `The API answered ${status}.`);
    this.status = status;
    this.problem = problem;
  }
}

/** Ask the user for a key; all requests that lack one wait for the same answer. */
function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    const input = document.getElementById("key");
    document.getElementById("key-reason").textContent = reason;
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, input.value.trim());
      input.value = "";
      asking = null;
      resolve();
    }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
  return asking;
}

const pause = (seconds, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });

/** Send a request; a busy server is asked again when it says so. Return the answer, whose status is a success or 304. */
async function send(path, { method = "GET", body, headers = {}, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const answer = await fetch(`${BASE}${path}`, {
      method,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: {
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
        ...(key ? { Authorization: `Bearer ${key}` } : {}),
        ...headers,
      },
    });
    if (answer.ok && answer.headers.get("Content-Type")?.startsWith("text/html")) {
      throw new ApiError(answer.status, { detail: "A proxy answers in the API's place, perhaps to ask who you are: reload the page." });
    }
    if (answer.ok || answer.status === 304) return answer;
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 401) {
      // Another request may have brought a new key while this one was away.
      if (key === sessionStorage.getItem(KEY)) await askForKey(problem.detail ?? "The API asks for a key.");
    } else if (answer.status === 503 && answer.headers.has("Retry-After") && method === "GET") {
      await pause(Number(answer.headers.get("Retry-After")), signal);
    } else {
      throw new ApiError(answer.status, problem);
    }
  }
}

/** Make the query of a path; lists are repeated, and what is empty is left out. */
export function query(parameters) {
  const made = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const item of [value].flat()) if (item !== "" && item !== null && item !== undefined) made.append(name, item);
  }
  return made.size ? `?${made}` : "";
}

export const get = async (path, options) => (await send(path, options)).json();
export const post = async (path, body, options = {}) => (await send(path, { ...options, method: "POST", body })).json();
export const file = async (path, options) => (await send(path, options)).blob();

/** Call `look` every few seconds while the tab is seen, until it returns false or `signal` aborts; tell of a lost API. */
export async function follow(look, seconds, signal) {
  const connection = document.getElementById("connection");
  while (!signal.aborted) {
    try {
      if (!document.hidden && (await look()) === false) return;
      connection.textContent = "";
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError) throw error;
      connection.textContent = "The API does not answer.";
    }
    try {
      await pause(seconds, signal);
      if (document.hidden) await seen(signal);
    } catch {
      return;
    }
  }
}

/** Wait until the tab is seen. */
function seen(signal) {
  return new Promise((resolve, reject) => {
    document.addEventListener("visibilitychange", resolve, { once: true, signal });
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
