// The first view: is all well, what comes next, what needs a person.

import { get, linkTo } from "./api.js";
import { fill, h, icon, say } from "./dom.js";
import { STATUS_WORDS } from "./explain.js";
import { ago, duration, moving, number, plural, until } from "./format.js";
import { hear, live, sumOf } from "./live.js";
import { empty, panel, stateChip } from "./widgets.js";

const SHOWN = 8;

export async function overview(view) {
  const node = h("div", { class: "stack" });
  const tiles = h("div", { class: "tiles" }), vitals = h("dl", { class: "vitals" });
  const next = h("div", {}), attention = h("div", {}), recent = h("div", {});
  const limits = { checks: null };
  const [stats] = await Promise.all([get("/api/stats"), limitsOf(limits)]);
  const show = () => {
    if (!(live.loaded ? live.total : sumOf({ all: stats.jobs.all }))) return fill(node, ...first());
    if (!tiles.isConnected && !node.contains(tiles)) {
      fill(node, h("header", { class: "head" }, h("h1", {}, "Overview")), tiles, vitals,
        h("div", { class: "columns" }, h("div", { class: "stack" }, panel("Due next", next), panel("Ended lately", recent)), panel("Needs attention", attention)));
    }
    showTiles(tiles, stats);
    showVitals(vitals, stats, limits);
    if (!live.loaded) return undefined;
    const all = [...live.jobs.values()];
    showList(next, all.filter((job) => job.status === "active" && job.next_check_at).sort(by("next_check_at")), "next_check_at", until, "No check is due: nothing is active.");
    showList(attention, all.filter(isTroubled), null, null, "Nothing: all jobs go their way.");
    showList(recent, all.filter((job) => job.completed_at).sort(by("completed_at", -1)), "completed_at", ago, "No job has ended yet.");
    return undefined;
  };
  hear(view, "list jobs counts pulse", show);
  show();
  return { title: "Overview", node };
}

/** What a fresh installation shows: the three steps to the first job. */
function first() {
  return [h("header", { class: "head" }, h("h1", {}, "Welcome")),
    empty("Nothing is watched yet", "A job watches something that runs elsewhere, and triggers what must come next once it has ended.",
      h("a", { class: "button primary", href: "#/new/jobs" }, icon("plus"), h("span", {}, "Watch an OpenAI batch")),
      h("a", { class: "button", href: "#/new/checks" }, icon("code"), h("span", {}, "Run a script of yours")))];
}

function showTiles(tiles, stats) {
  const counts = live.counts?.jobs;
  const of = (status) => counts
    ? Object.values(counts).reduce((sum, byStatus) => sum + (byStatus[status] ?? 0), 0)
    : stats.jobs.all[status] ?? 0;
  const symbols = { active: "clock", paused: "pause", completed: "check", failed: "close" };
  if (tiles.children.length !== 4) {
    fill(tiles, ...Object.entries(STATUS_WORDS).map(([status, word]) =>
      h("a", { class: `tile tile-${status}`, href: `#/jobs?status=${status}` }, h("span", { class: "tile-name" }, icon(symbols[status]), word), h("b", { class: "tile-number" }))));
  }
  Object.keys(STATUS_WORDS).forEach((status, at) => say(tiles.children[at].lastChild, number(of(status))));
}

function showVitals(vitals, stats, limits) {
  const pulse = live.pulse, deliveries = live.counts?.deliveries ?? stats.deliveries;
  const lag = pulse?.lag_seconds ?? stats.lag_seconds, flight = pulse?.health.scheduler.checks_in_flight ?? 0;
  const waiting = (deliveries.pending ?? 0) + (deliveries.sending ?? 0);
  const stuck = (deliveries.failed ?? 0) + (deliveries.unconfirmed ?? 0);
  const behind = pulse?.health.scheduler.oldest_due_seconds ?? 0;
  const checks = sumOf({ all: stats.checks_last_day });
  const rows = [
    ["Scheduler lag", lag.p50 === null ? "–" : late(lag.p50), lag.p99 === null ? "no check since the start" : `99 % within ${late(lag.p99)}${behind > 5 ? `; the oldest waits for ${duration(behind)}` : ""}`, behind > 60 ? "bad" : ""],
    ["Checks in flight", `${number(flight)} of ${number(limits.checks)}`, `${plural(checks, "check")} in the last day`],
    ["Deliveries waiting", number(waiting), `${plural(stats.triggers_last_day, "trigger")} delivered in the last day`],
    ["Deliveries stuck", number(stuck), stuck ? "failed or unconfirmed: redeliver them" : "none failed or unconfirmed", stuck ? "bad" : ""],
    ...sandboxRow(pulse?.health.sandbox),
  ];
  if (vitals.children.length !== rows.length) fill(vitals, ...rows.map(() => h("div", {}, h("dt", {}), h("dd", {}, h("b", {}), h("span", { class: "quiet" })))));
  rows.forEach(([name, value, hint, look = ""], at) => {
    const [term, text] = vitals.children[at].children;
    vitals.children[at].dataset.look = look;
    say(term, name);
    say(text.firstChild, value);
    say(text.lastChild, hint);
  });
}

/** The engine of custom checks, and what it lacks. */
function sandboxRow(sandbox) {
  if (!sandbox) return [];
  const hint = sandbox.ready ? `${plural(sandbox.containers, "container")} running` : "custom checks wait for it";
  return [["Container engine", sandbox.ready ? "ready" : "not ready", hint, sandbox.ready ? "" : "bad"]];
}

function showList(box, jobs, key, words, otherwise) {
  const shown = jobs.slice(0, SHOWN), sign = shown.map((job) => `${job.id}${job.name}${key ? job[key] : job.status_reason}`).join();
  if (box.sign !== sign) {
    box.sign = sign;
    box.chips = shown.map((job) => stateChip(job));
    fill(box, shown.length
      ? h("ul", { class: "plain-list" }, shown.map((job, at) => h("li", {},
        h("span", { class: "slot" }, box.chips[at]),
        h("div", { class: "grows" }, h("a", { href: linkTo(job), class: "strong clip" }, job.name), !key && h("div", { class: "quiet small" }, reasonOf(job))),
        key && h("span", { class: "quiet end" }, moving(job[key], words)))))
      : h("p", { class: "quiet pad" }, otherwise),
    jobs.length > SHOWN && h("p", { class: "quiet pad" }, `and ${plural(jobs.length - SHOWN, "more")}`.replace("mores", "more")));
  }
  shown.forEach((job, at) => box.chips[at].update(job));
}

const isTroubled = (job) =>
  (job.status === "failed") || (job.status === "active" && (job.last_check_status === "ERROR" || job.phase === "awaiting_script")) ||
  (job.status === "paused" && job.status_reason !== "paused by hand") || job.keboola_job?.failed;

function reasonOf(job) {
  if (job.keboola_job?.failed) return `Keboola job ${job.keboola_job.id} ended as ${job.keboola_job.status}`;
  if (job.phase === "awaiting_script") return "waits for its script";
  return job.status_reason ?? "the last check failed; it is repeated with growing waits";
}

async function limitsOf(limits) {
  const { settings } = await get("/api/system");
  const value = (name) => settings.find((one) => one.name === name)?.value ?? 0;
  limits.checks = value("MAX_CONCURRENT_REQUESTS") + value("MAX_CONCURRENT_CHECKS");
}

const late = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : duration(seconds));
const by = (key, direction = 1) => (a, b) => direction * (new Date(a[key]) - new Date(b[key]));
