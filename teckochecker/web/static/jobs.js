// The list of jobs: a thousand rows, of which only those in sight are elements.

import { linkTo } from "./api.js";
import { actionsFor } from "./actions.js";
import { fill, h, icon, say } from "./dom.js";
import { KIND_WORDS, STATUS_WORDS } from "./explain.js";
import { ago, both, plural, ticking, until } from "./format.js";
import { hear, live } from "./live.js";
import { empty, heartbeat, menu, progressBar, stateChip } from "./widgets.js";

const OVERSCAN = 6; // rows beyond what is seen, for quick scrolling and the Tab key
const time = (iso) => (iso ? new Date(iso).getTime() : Infinity);
const SORTS = {
  newest: ["Newest first", (a, b) => b.id - a.id],
  name: ["Name", (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })],
  next: ["Next check", (a, b) => time(a.next_check_at) - time(b.next_check_at) || b.id - a.id],
  last: ["Last check", (a, b) => (time(b.last_check_at) % Infinity || 0) - (time(a.last_check_at) % Infinity || 0) || b.id - a.id],
  trouble: ["Trouble first", (a, b) => trouble(b) - trouble(a) || b.id - a.id],
};
const STATUS_ORDER = { failed: 4, paused: 2, active: 1, completed: 0 };
const trouble = (job) => (job.last_check_status === "ERROR" && job.status === "active" ? 3 : STATUS_ORDER[job.status] ?? 0);

export async function jobs(view) {
  await live.ready;
  const wanted = {
    text: view.query.get("q") ?? "", status: view.query.get("status") ?? "", kind: view.query.get("kind") ?? "",
    sort: SORTS[view.query.get("sort")] ? view.query.get("sort") : "newest",
  };
  const count = h("p", { class: "quiet", role: "status" });
  const rows = new Rows(view);
  const box = h("div", {});
  let order = [];

  const select = () => {
    order = [...live.jobs.values()].filter((job) => fits(job, wanted)).sort(SORTS[wanted.sort][1]);
    const all = live.total, filtered = wanted.text || wanted.status || wanted.kind;
    say(count, filtered ? `${plural(order.length, "job")} of ${all}` : live.total > live.jobs.size ? `the newest ${live.jobs.size} of ${plural(all, "job")}` : plural(all, "job"));
    if (!order.length) fill(box, filtered ? nothingFits(clear) : nothingYet());
    else {
      if (!box.contains(rows.node)) fill(box, rows.node);
      rows.show(order.map((job) => job.id));
    }
  };
  const ask = async () => { // of more than a thousand, the server finds those that fit
    if (live.complete) return select();
    const query = new URLSearchParams();
    if (wanted.text) query.set("q", wanted.text);
    if (wanted.status) query.set("status", wanted.status);
    await live.load(query.toString());
  };
  const changed = () => {
    const query = new URLSearchParams();
    for (const [key, name] of [["text", "q"], ["status", "status"], ["kind", "kind"]]) if (wanted[key]) query.set(name, wanted[key]);
    if (wanted.sort !== "newest") query.set("sort", wanted.sort);
    history.replaceState(null, "", `#/jobs${query.size ? `?${query}` : ""}`);
    ask();
  };
  const clear = () => { location.hash = "#/jobs"; };
  const node = h("div", { class: "stack" },
    h("header", { class: "head" }, h("h1", {}, "Jobs"), count), filters(wanted, changed), box);
  hear(view, "list", select);
  hear(view, "jobs", (event) => {
    if ([...event.detail].some((id) => live.jobs.has(id) && fits(live.jobs.get(id), wanted) !== rows.has(id))) select();
    else rows.refresh(event.detail);
  });
  hear(view, "pulse", () => rows.refresh());
  node.addEventListener("arrived", () => { select(); rows.place(); });
  view.signal.addEventListener("abort", () => { if (!live.complete) live.load("").catch(() => {}); });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, textarea, select")) return;
    event.preventDefault();
    node.querySelector("input").focus();
  }, { signal: view.signal });
  if (!live.complete && (wanted.text || wanted.status)) await ask();
  return { title: "Jobs", node };
}

function fits(job, { text, status, kind }) {
  if (status && job.status !== status) return false;
  if (kind && job.kind !== kind) return false;
  if (!text) return true;
  const low = text.toLowerCase();
  return job.name.toLowerCase().includes(low) || (job.batch_ids ?? []).some((id) => id.toLowerCase().includes(low));
}

function filters(wanted, changed) {
  let timer;
  const search = h("input", { type: "search", value: wanted.text, placeholder: "Search by name or batch id", "aria-label": "Search jobs", on: {
    input: () => { wanted.text = search.value.trim(); clearTimeout(timer); timer = setTimeout(changed, 120); },
  } });
  const choice = (label, key, options) => h("select", { "aria-label": label, on: { change: (event) => { wanted[key] = event.target.value; changed(); } } },
    Object.entries(options).map(([value, word]) => h("option", { value, selected: wanted[key] === value }, word)));
  return h("div", { class: "filters", role: "search" },
    h("div", { class: "search" }, icon("search"), search),
    choice("State", "status", { "": "All states", ...STATUS_WORDS }),
    choice("Kind", "kind", { "": "Both kinds", polling: "OpenAI batches", custom_check: "Custom checks" }),
    choice("Sort by", "sort", Object.fromEntries(Object.entries(SORTS).map(([key, [word]]) => [key, word]))));
}

const nothingYet = () => empty("No jobs yet", "Make one: it takes less than a minute.", h("a", { class: "button primary", href: "#/new" }, icon("plus"), h("span", {}, "New job")));
const nothingFits = (clear) => empty("No job fits", "Try another word, or look at all of them.", h("button", { class: "button", type: "button", on: { click: clear } }, "Show all"));

/** A table of which only the rows in sight exist; the window scrolls it. */
class Rows {
  #ids = [];
  #shown = new Map();
  #known = new Set();

  constructor(view) {
    const head = h("div", { class: "job-row job-head", role: "row", "aria-rowindex": "1" },
      ["State", "Job", "Last checks", "Progress", "Next"].map((word) => h("span", { role: "columnheader" }, word)), h("span", { role: "columnheader" }, h("span", { class: "unseen" }, "Actions")));
    this.body = h("div", { class: "job-body", role: "rowgroup" });
    this.node = h("div", { class: "job-table", role: "table", "aria-label": "Jobs" }, h("div", { role: "rowgroup" }, head), this.body);
    const place = () => { if (!this.waiting) { this.waiting = true; requestAnimationFrame(() => { this.waiting = false; this.place(); }); } };
    addEventListener("scroll", place, { signal: view.signal, passive: true });
    addEventListener("resize", place, { signal: view.signal, passive: true });
    this.node.addEventListener("keydown", (event) => this.#move(event));
  }

  has(id) { return this.#known.has(id); }

  show(ids) {
    this.#ids = ids;
    this.#known = new Set(ids);
    this.node.setAttribute("aria-rowcount", String(ids.length + 1));
    this.place();
    this.refresh();
  }

  refresh(ids) {
    for (const [id, row] of this.#shown) if (!ids || ids.has(id)) row.update(live.jobs.get(id));
  }

  /** Make the rows that are in sight, and drop the others. */
  place() {
    if (!this.node.isConnected) return;
    const height = parseFloat(getComputedStyle(this.body).getPropertyValue("--row"));
    this.body.style.height = `${this.#ids.length * height}px`;
    const top = -this.body.getBoundingClientRect().top;
    const start = Math.max(0, Math.floor(top / height) - OVERSCAN);
    const end = Math.min(this.#ids.length, Math.ceil((top + innerHeight) / height) + OVERSCAN);
    const wanted = this.#ids.slice(start, end), set = new Set(wanted);
    for (const [id, row] of this.#shown) {
      if (!set.has(id) && !row.contains(document.activeElement)) { row.remove(); this.#shown.delete(id); }
    }
    let before = this.body.firstChild;
    wanted.forEach((id, at) => {
      const row = this.#shown.get(id) ?? jobRow(live.jobs.get(id));
      this.#shown.set(id, row);
      row.style.transform = `translateY(${(start + at) * height}px)`;
      row.setAttribute("aria-rowindex", String(start + at + 2));
      if (row === before) before = row.nextSibling;
      else this.body.insertBefore(row, before);
    });
    clearTimeout(this.asking);
    this.asking = setTimeout(() => live.needBeats([...this.#shown.keys()]).catch(() => {}), 60);
  }

  /** Arrow keys go from job to job. */
  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], row = event.target.closest(".job-row");
    if (!step || !row || event.target.closest("[popover]")) return;
    const next = step > 0 ? row.nextElementSibling : row.previousElementSibling;
    if (!next) return;
    event.preventDefault();
    next.querySelector("a").focus();
  }
}

function jobRow(job) {
  let now = job;
  const chip = stateChip(job), beats = heartbeat(job.id), progress = progressBar(job);
  const name = h("a", { href: linkTo(job), class: "strong clip" }), under = h("span", { class: "quiet small clip" });
  const next = h("span", { class: "job-next" });
  const cell = (name_, ...inside) => h("span", { role: "cell", class: `cell cell-${name_}` }, ...inside);
  const row = h("div", { class: "job-row", role: "row" },
    cell("state", chip), cell("name", name, under), cell("beats", beats), cell("progress", progress),
    cell("next", next), cell("menu", menu(`Actions for ${job.name}`, () => actionsFor(now))));
  const showNext = () => {
    const [words, hint] = nextWords(now);
    say(next, words);
    if (next.title !== hint) next.title = hint;
  };
  row.addEventListener("click", (event) => {
    if (!event.target.closest("a, button, [popover]") && !String(getSelection())) location.hash = linkTo(now);
  });
  row.update = (found) => {
    if (!found) return;
    now = found;
    row.classList.toggle("busy", live.isChecking(now));
    chip.update(now);
    say(name, now.name);
    say(under, `${KIND_WORDS[now.kind] ?? now.kind} · ${aboutOf(now)}`);
    beats.update();
    progress.update(now);
    showNext();
  };
  row.update(job);
  ticking(next, showNext);
  return row;
}

function aboutOf(job) {
  if (job.status_reason && job.status !== "completed") return job.status_reason;
  if (job.batch_count > 1) return `${job.completed_count + job.failed_count} of ${job.batch_count} batches ended`;
  return job.batch_id ?? [job.script_runtime, job.script_entrypoint].filter(Boolean).join(" ") ?? "";
}

function nextWords(job) {
  if (job.status === "active" && live.isChecking(job)) return ["now", "A check is running."];
  if (job.status === "active" && job.next_check_at) return [until(job.next_check_at), both(job.next_check_at)];
  if (job.completed_at) return [ago(job.completed_at), `Ended ${both(job.completed_at)}`];
  return ["–", "No check is planned."];
}
