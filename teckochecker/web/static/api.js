// The public API, and nothing else: what the page can do, the API can do.

import { noteServerTime } from "./format.js";

export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? "The server gave no reason.");
    this.status = status;
    this.code = document.code ?? null;
    this.errors = document.errors ?? [];
  }
}

export const signals = new EventTarget(); // "signed-out": the session has ended

export async function call(method, path, body, { json = true } = {}) {
  const options = { method, headers: {} };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] = "application/json";
  }
  const answer = await answered(path, options);
  if (answer.headers.has("date")) noteServerTime(answer.headers.get("date"));
  if (answer.ok) return answer.status === 204 || !json ? null : answer.json();
  const problem = new Problem(answer.status, await document_(answer));
  if (isSignedOut(answer.status, path) && !problem.message.includes("another site")) {
    signals.dispatchEvent(new Event("signed-out"));
  }
  throw problem;
}

/** Who has a session is never answered 429: that is for strangers who try too often. */
export const isSignedOut = (status, path = "") => (status === 401 || status === 429) && path !== "/api/session";

export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);
export const put = (path, body) => call("PUT", path, body);
export const remove = (path) => call("DELETE", path);

/** A call that only reads is tried once more: this machine may just have changed its network. */
async function answered(path, options) {
  for (let tries = options.method === "GET" ? 2 : 1; ; tries -= 1) {
    try {
      return await fetch(path, options);
    } catch {
      if (tries === 1) throw new Problem(0, { detail: "The daemon doesn't answer: is it running?" });
      await new Promise((resolve) => { setTimeout(resolve, 300); });
    }
  }
}

/** Where a job of either kind is in the API. */
export function pathOf(job) {
  return job.kind === "custom_check" ? `/api/custom-checks/${job.id}` : `/api/jobs/${job.id}`;
}

/** Where a job of either kind is on this page. */
export function linkTo(job, what = "") {
  return `#/${job.kind === "custom_check" ? "checks" : "jobs"}/${job.id}${what && `/${what}`}`;
}

async function document_(answer) {
  try {
    return await answer.json();
  } catch {
    return { detail: `The server answered ${answer.status} without a reason.` };
  }
}
