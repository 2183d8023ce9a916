// What the page knows of all jobs, kept up to date by the one stream of events.

import { get, Problem } from "./api.js";

const MOST = 1000; // jobs that are held here; of more, the server searches
const HEAL_MS = 600_000; // some due times move without an event; this is how long they may be wrong

class Live extends EventTarget {
  jobs = new Map();
  beats = new Map();
  counts = null;
  pulse = null;
  total = 0;
  loaded = false;
  connection = "off"; // "live", "waiting"
  #source = null;
  #query = "";
  #asked = new Set();
  #running = false;
  #timer = 0;
  #first = resolvers();

  /** Jobs that the list shows: the newest that fit `query`, such as "status=active&q=x". */
  async load(query = this.#query) {
    this.#query = query;
    const found = await get(`/api/jobs?kind=all&limit=${MOST}${query && `&${query}`}`);
    if (query !== this.#query) return;
    this.jobs = new Map(found.jobs.map((job) => [job.id, job]));
    this.total = found.total;
    this.loaded = true;
    this.#first.resolve();
    this.#tell("list");
  }

  /** Until the list has come for the first time. */
  get ready() {
    return this.#first.promise;
  }

  /** Whether everything is here, so that searching needs no server. */
  get complete() {
    return !this.#query && this.total <= MOST;
  }

  start() {
    if (this.#running) return;
    this.#running = true;
    document.addEventListener("visibilitychange", this.#follow);
    this.#timer = setInterval(() => document.hidden || this.load().catch(() => {}), HEAL_MS);
    this.#open();
  }

  stop() {
    this.#running = false;
    document.removeEventListener("visibilitychange", this.#follow);
    clearInterval(this.#timer);
    this.#close();
    this.jobs = new Map();
    this.beats = new Map();
    this.loaded = false;
    this.#first = resolvers();
  }

  isChecking(job) {
    return job.status === "active" && (this.pulse?.checking.includes(job.id) ?? false);
  }

  /** The latest checks of these jobs, asked for in one call for those not known yet. */
  async needBeats(ids) {
    const missing = ids.filter((id) => !this.beats.has(id) && !this.#asked.has(id)).slice(0, 200);
    if (!missing.length) return;
    missing.forEach((id) => this.#asked.add(id));
    try {
      const { heartbeats } = await get(`/api/heartbeats?ids=${missing.join(",")}&limit=30`);
      for (const id of missing) this.beats.set(id, joinedBeats(heartbeats[id] ?? [], this.beats.get(id)));
      this.#tell("jobs", new Set(missing));
    } finally {
      missing.forEach((id) => this.#asked.delete(id));
    }
  }

  /** A job that was just read or changed by this page. */
  keep(job) {
    const known = this.jobs.has(job.id);
    this.jobs.set(job.id, { ...this.jobs.get(job.id), ...job });
    if (!known) this.#tell("list");
    this.#tell("jobs", new Set([job.id]));
  }

  forget(id) {
    if (this.jobs.delete(id)) {
      this.total -= 1;
      this.#tell("list");
    }
  }

  #follow = () => {
    if (document.hidden) this.#close();
    else {
      this.beats = new Map();
      this.load().catch(() => {});
      this.#open();
    }
  };

  #open() {
    if (this.#source || document.hidden || !this.#running) return;
    const source = new EventSource("/api/events");
    this.#source = source;
    source.addEventListener("open", () => this.#connected("live"));
    source.addEventListener("error", () => this.#failed(source));
    source.addEventListener("jobs", (event) => this.#changed(JSON.parse(event.data)));
    source.addEventListener("counts", (event) => this.#hear("counts", JSON.parse(event.data)));
    source.addEventListener("pulse", (event) => this.#hear("pulse", JSON.parse(event.data)));
    source.addEventListener("reload", () => { this.beats = new Map(); this.load().catch(() => {}); });
  }

  #close() {
    this.#source?.close();
    this.#source = null;
    this.#connected("off");
  }

  /** The browser comes back by itself after an interruption, not after a refusal. */
  #failed(source) {
    this.#connected("waiting");
    if (source.readyState !== EventSource.CLOSED) return;
    this.#source = null;
    setTimeout(() => this.load().then(() => this.#open(), () => this.#open()), 5000);
  }

  #connected(word) {
    if (word === this.connection) return;
    this.connection = word;
    this.#tell("connection");
  }

  #hear(name, document_) {
    this[name] = document_;
    if (name === "counts" && this.loaded && !this.#query) this.#reconcile(sumOf(document_.jobs));
    this.#tell(name);
  }

  #changed({ jobs, beats, job_count: count }) {
    let isNew = false;
    for (const job of jobs) {
      isNew ||= !this.jobs.has(job.id);
      if (this.jobs.has(job.id) || !this.#query) this.jobs.set(job.id, job);
    }
    for (const [id, more] of Object.entries(beats)) {
      if (this.beats.has(Number(id))) this.beats.set(Number(id), joinedBeats(this.beats.get(Number(id)), more));
    }
    if (isNew && !this.#query) {
      this.total = Math.max(this.total, this.jobs.size);
      this.#tell("list");
    }
    this.#tell("jobs", new Set(jobs.map((job) => job.id)));
    if (!this.#query) this.#reconcile(count);
  }

  /** A job was deleted, or many were made: ask for the list anew. */
  #reconcile(count) {
    if (count === this.total || this.#asked.has("list")) return;
    this.#asked.add("list");
    setTimeout(() => {
      this.#asked.delete("list");
      if (this.#running && count !== this.total) this.load().catch(() => {});
    }, 300);
  }

  #tell(name, ids = null) {
    this.dispatchEvent(new CustomEvent(name, { detail: ids }));
  }
}

export const live = new Live();

/** Hear of changes until `view` is left. What `run` asks for may fail: the next change asks anew. */
export function hear(view, names, run) {
  const safely = async (event) => {
    try {
      await run(event);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
    }
  };
  for (const name of names.split(" ")) live.addEventListener(name, safely, { signal: view.signal });
}

export const sumOf = (byKind) =>
  Object.values(byKind).reduce((sum, of) => sum + Object.values(of).reduce((a, b) => a + b, 0), 0);

function resolvers() {
  const found = {};
  found.promise = new Promise((resolve) => { found.resolve = resolve; });
  return found;
}

function joinedBeats(before, more = []) {
  const known = new Set(before.map((beat) => beat.at));
  return [...before, ...more.filter((beat) => !known.has(beat.at))].slice(-30);
}
