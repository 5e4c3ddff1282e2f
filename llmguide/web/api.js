// Every request to the service: the key goes with it, and whatever goes wrong comes back as a Problem.

export class Problem extends Error {
  // kind: key of words.js; wait: seconds until another try makes sense; detail: the service's own words
  constructor(kind, { status = 0, detail = "", remedy = "", wait = 0 } = {}) {
    super(detail || kind);
    Object.assign(this, { kind, status, detail, remedy, wait });
  }
}

export const key = {
  get: () => sessionStorage.getItem("key"),
  set: (value) => sessionStorage.setItem("key", value),
  forget: () => sessionStorage.removeItem("key"),
};

const KINDS = {
  401: "no_key", 403: "not_allowed", 404: "not_found", 409: "conflict", 413: "too_large", 429: "too_many", 503: "busy", 504: "slow",
};

const authorization = () => (key.get() ? { Authorization: `Bearer ${key.get()}` } : {});

function seconds(header) { // Retry-After: seconds, or a date
  const number = Number(header);
  if (header === null || header === "") return 0;
  return Math.max(0, Math.ceil(Number.isNaN(number) ? (Date.parse(header) - Date.now()) / 1000 || 0 : number));
}

export function problemOf(status, body, retryAfter) {
  const error = body?.error ?? {};
  const kind = KINDS[status] ?? (status >= 500 ? "broken" : "bad_input");
  if (status === 401) document.dispatchEvent(new Event("key-needed"));
  return new Problem(kind, { status, detail: error.message, remedy: error.remedy, wait: seconds(retryAfter) });
}

const unreached = (error, signal) =>
  signal?.aborted ? error : new Problem(error.name === "TimeoutError" ? "slow" : "offline");

// The body of the reply, as JSON; `limit` in seconds.
export async function call(method, path, body, { signal, limit = 30 } = {}) {
  const late = AbortSignal.timeout(limit * 1000);
  const response = await send(method, path, body, signal ? AbortSignal.any([late, signal]) : late, signal);
  return response.status === 204 ? null : response.json();
}

async function send(method, path, body, signal, stopped) {
  const options = { method, signal, headers: authorization() };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  const response = await fetch(path, options).catch((error) => { throw unreached(error, stopped); });
  if (!response.ok) throw problemOf(response.status, await response.json().catch(() => null), response.headers.get("Retry-After"));
  return response;
}

// A list, sent as such or under its name.
export const listOf = (found, name) => (Array.isArray(found) ? found : found[name] ?? []);

const SILENCE = 90; // seconds without a word after which an answer is given up

// The events of a streamed reply, one {event, data} each, until the service closes the stream.
export async function* stream(path, body, signal) {
  const silence = new AbortController();
  const late = () => setTimeout(() => silence.abort(new DOMException("", "TimeoutError")), SILENCE * 1000);
  let timer = late();
  try {
    const response = await send("POST", path, body, AbortSignal.any([signal, silence.signal]), signal);
    for await (const block of blocks(response.body)) {
      clearTimeout(timer);
      timer = late();
      const event = parse(block);
      if (event) yield event;
    }
  } catch (error) {
    throw error instanceof Problem ? error : unreached(error, signal);
  } finally { clearTimeout(timer); }
}

async function* blocks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      yield* parts;
    }
  } finally { reader.cancel().catch(() => {}); }
}

// A block of lines: `event: token`, `data: {…}`; comments (`: still here`) are nobody's business.
export function parse(block) {
  const lines = block.split(/\r?\n/);
  const after = (line) => line.slice(line.indexOf(":") + 1).replace(/^ /, "");
  const field = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map(after);
  const data = field("data").join("\n");
  return data ? { event: field("event")[0] ?? "message", data: JSON.parse(data) } : null;
}

// An upload that tells how far it is (0 to 1); `signal` stops it.
export function upload(path, form, progress, signal) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    const body = () => { try { return JSON.parse(request.responseText); } catch { return null; } };
    request.upload.onprogress = (event) => progress(event.total ? event.loaded / event.total : 0);
    const refused = () => problemOf(request.status, body(), request.getResponseHeader("Retry-After"));
    request.onload = () => (request.status < 300 ? done(body()) : failed(refused()));
    request.onerror = () => failed(new Problem("offline"));
    request.onabort = () => failed(new DOMException("", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.open("POST", path);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.send(form);
  });
}
