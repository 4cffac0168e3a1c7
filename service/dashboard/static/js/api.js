// The read API over HTTP, as anyone else would use it. A key, where the service asks for one, goes into a header and stays in
// this tab: it is never part of an address and is forgotten when the tab is closed.

import { noteServerTime } from "./format.js";

const KEY = "emberwatch-key";
const seen = new Map(); // path -> {etag, value}

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status; // 0: nobody answered
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function useKey(key) {
  seen.clear();
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

function headers(more = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function ask(path, options = {}) {
  const started = performance.now();
  let response;
  try {
    response = await fetch(path, {
      cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(15000), ...options,
    });
  } catch {
    throw new Problem(0, "The service does not answer.");
  }
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (date) noteServerTime(date, performance.now() - started);
  if (response.ok || response.status === 304) return response;
  const told = await response.json().catch(() => ({}));
  throw new Problem(response.status, told.detail ?? response.statusText);
}

// What is there now, and whether it is new since this page asked last.
// With `maxAge` (seconds) an answer that was made for another reader so long ago will do.
export async function get(path, maxAge = 0) {
  const known = seen.get(path);
  const more = { ...(known ? { "If-None-Match": known.etag } : {}), ...(maxAge ? { "Cache-Control": `max-age=${maxAge}` } : {}) };
  const response = await ask(path, { headers: headers(more) });
  if (response.status === 304) return { value: known.value, fresh: false };
  const value = await response.json();
  const etag = response.headers.get("ETag");
  if (etag) seen.set(path, { etag, value });
  return { value, fresh: true };
}

export const forget = (path) => seen.delete(path);

export async function post(path, body) {
  const response = await ask(path, {
    method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body),
  });
  return response.status === 204 ? null : response.json();
}

export const remove = (path) => ask(path, { method: "DELETE", headers: headers() });

// Server-Sent Events, read with fetch because EventSource can send no header. Ends when the connection does.
export async function* events(path, lastId, signal) {
  const response = await fetch(path, {
    headers: headers({ Accept: "text/event-stream", ...(lastId ? { "Last-Event-ID": lastId } : {}) }),
    cache: "no-store", credentials: "omit", signal,
  });
  if (!response.ok) throw new Problem(response.status, response.statusText);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { id: null, name: "message", data: "" };
      for (const line of block.split("\n")) {
        const [field, ...parts] = line.split(":");
        const text = parts.join(":").replace(/^ /, "");
        if (field === "id") event.id = text;
        else if (field === "event") event.name = text;
        else if (field === "data") event.data += (event.data && "\n") + text;
      }
      yield event;
    }
  }
}
