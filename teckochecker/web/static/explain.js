// What a job's documents mean, in words and numbers. Pure: no page, no network.

import { duration, number, plural, secondsUntil } from "./format.js";

export const STATUS_WORDS = { active: "Active", paused: "Paused", completed: "Completed", failed: "Failed" };
export const KIND_WORDS = { polling: "OpenAI batch", custom_check: "Custom check" };
export const VERDICT_WORDS = { success: "success", failed: "failed", pending: "pending", error: "error" };

/** How a job is shown: its status, and what an active one is doing. */
export function stateOf(job, checking) {
  if (job.status !== "active") return { word: STATUS_WORDS[job.status] ?? job.status, look: job.status };
  if (job.phase === "delivering") return { word: "Delivering", look: "delivering" };
  if (job.phase === "awaiting_script") return { word: "Needs a script", look: "waiting" };
  if (checking) return { word: "Checking", look: "checking" };
  if (job.last_check_status === "ERROR") return { word: "Retrying", look: "retrying" };
  return { word: "Active", look: "active" };
}

/** Requests done of all, where the source counts them: {done, failed, total}, or null. */
export function progressOf(job) {
  const batches = job.batches?.map((one) => one.request_counts).filter(Boolean) ?? [];
  if (batches.length) return summed(batches);
  return countsIn(job.last_check_data);
}

/** The counts that one check saw, from its log entry or heartbeat. */
export function countsOfCheck(entry) {
  const counted = countsIn(entry.script_output?.data);
  if (counted) return counted;
  // The source's own sentence: "Batch is in_progress, 480 of 1000 requests done."
  const said = /(\d+) of (\d+) requests (done|succeeded)/.exec(entry.message ?? "");
  const total = Number(said?.[2] ?? 0);
  return total ? { done: said[3] === "done" ? Number(said[1]) : total, failed: 0, total } : null;
}

/** Seconds until all is done at the pace of the latest checks; null when nobody can tell. */
export function secondsLeft(points) {
  const known = points.filter((point) => point.total === points.at(-1).total).slice(-12);
  if (known.length < 3) return null;
  const first = known[0], last = known.at(-1);
  const elapsed = (last.at - first.at) / 1000, gained = last.done - first.done;
  if (elapsed < 20 || gained <= 0 || last.done >= last.total) return null;
  const half = known[Math.floor(known.length / 2)];
  if (last.done <= half.done) return null; // it has come to a halt: no pace to go by
  return ((last.total - last.done) * elapsed) / gained;
}

export const pointsOf = (entries) =>
  entries.flatMap((entry) => {
    const counts = countsOfCheck(entry);
    return counts ? [{ at: new Date(entry.at ?? entry.created_at).getTime(), ...counts }] : [];
  });

export function etaWords(points) {
  const left = points.length ? secondsLeft(points) : null;
  return left === null ? "" : `about ${roughly(left)} left`;
}

/** Why the job is as it is, and what happens next, in one or two sentences. */
export function explain(job, { checking = false, deliveries = [] } = {}) {
  if (job.status === "completed") return completed(job, deliveries);
  if (job.status === "failed") return failed(job, deliveries);
  if (job.status === "paused") return `Nothing happens while it is paused: ${sentence(job.status_reason ?? "paused by hand")} Resume it, and it is checked at once.`;
  if (job.phase === "awaiting_script") return "It waits for its script: upload one, and it is checked at once.";
  if (job.phase === "delivering") return delivering(job, deliveries);
  if (checking) return `A check is running right now. ${afterwards(job)}`;
  const when = soon(job.next_check_at);
  if (!job.last_check_status) return `It hasn't been checked yet: the first check comes ${when}. ${afterwards(job)}`;
  if (job.last_check_status === "ERROR") {
    return `The last check failed; such checks are repeated with growing waits, the next one comes ${when}.`;
  }
  return `What it waits for isn't finished: ${state(job)} It is checked again ${when}. ${afterwards(job)}`;
}

/** What is triggered, as words such as "Keboola configuration 123 is started". */
export function actionsOf(job) {
  const found = [];
  if (job.keboola_configuration_id) found.push(`Keboola configuration ${job.keboola_configuration_id} is started`);
  if (job.webhook_url) found.push(`${job.webhook_method ?? "POST"} ${hostOf(job.webhook_url)} is called`);
  return found;
}

export function hostOf(url) {
  try { return new URL(url).host; } catch { return url; }
}

export const ACTION_WORDS = { keboola: "Keboola job", webhook: "Webhook" };

function afterwards(job) {
  const actions = actionsOf(job);
  if (!actions.length) return "When it ends, nothing is triggered: its verdict is all that is wanted.";
  const end = job.trigger_on === "terminal" ? "ends, well or badly" : "succeeds";
  return `When it ${end}, ${actions.join(" and ")}.`;
}

function state(job) {
  const progress = progressOf(job);
  const counted = progress ? `${number(progress.done)} of ${number(progress.total)}${job.batches ? " requests" : ""} are done.` : "";
  if (!job.batches) return counted || "the script said PENDING.";
  const ended = job.completed_count + job.failed_count;
  if (job.batch_count > 1) return `${ended} of ${job.batch_count} batches have ended${counted && `, ${counted}`}${counted ? "" : "."}`;
  const word = job.batches[0]?.status;
  return `${word ? `the batch is ${word}` : "the batch hasn't been seen"}${counted && `, ${counted}`}${counted ? "" : "."}`;
}

function delivering(job, deliveries) {
  const open = deliveries.filter((one) => one.state !== "delivered");
  if (!open.length) return `It has ended, and its outcome is on its way: ${actionsOf(job).join(" and ")}.`;
  const one = open[0], tries = one.attempts.length;
  const what = ACTION_WORDS[one.action] ?? one.action;
  if (one.state === "sending") return `It has ended. ${what}: attempt ${tries} is under way.`;
  if (!one.next_attempt_at || !tries) return `It has ended, and its outcome is about to be sent: ${actionsOf(job).join(" and ")}.`;
  const last = one.attempts.at(-1);
  return `It has ended, but telling so failed ${plural(tries, "time")}: ${sentence(last.message)} It is tried again ${soon(one.next_attempt_at)}.`;
}

function completed(job, deliveries) {
  const started = job.keboola_job;
  if (started?.failed) return `It is completed: Keboola job ${started.id} was started, but that job ended as ${started.status}. ${started.message ?? ""}`.trim();
  if (started) return `It is completed: Keboola job ${started.id} was started${started.status ? ` and is ${started.status}` : ""}.`;
  const told = deliveries.some((one) => one.state === "delivered") || actionsOf(job).length;
  return told ? "It is completed: what it had to trigger has arrived." : "It is completed. Nothing was to be triggered.";
}

function failed(job, deliveries) {
  const stuck = deliveries.find((one) => ["failed", "unconfirmed"].includes(one.state));
  const next = stuck
    ? "Mend the cause, then redeliver below."
    : "Nothing more happens by itself: duplicate it to try anew.";
  const reason = sentence(job.status_reason ?? "no reason was given");
  if (reason.startsWith("delivery ")) return `It has ended, but its ${reason} ${next}`;
  return `It failed: ${reason} ${next}`;
}

function soon(iso) {
  if (!iso) return "soon";
  const seconds = secondsUntil(iso);
  return seconds <= 0.5 ? "any moment" : `in ${duration(seconds)}`;
}

function sentence(text) {
  const trimmed = text.trim();
  return /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`;
}

function countsIn(data) {
  const counts = data?.request_counts ?? data;
  if (!counts || !isCount(counts.total) || !isCount(counts.completed) || !counts.total) return null;
  const failures = isCount(counts.failed) ? counts.failed : 0;
  return { done: Math.min(counts.total, counts.completed + failures), failed: failures, total: counts.total };
}

function summed(all) {
  const sum = (key) => all.reduce((total, one) => total + (one[key] ?? 0), 0);
  const total = sum("total");
  return total ? { done: sum("completed") + sum("failed"), failed: sum("failed"), total } : null;
}

const isCount = (value) => Number.isInteger(value) && value >= 0;

/** As exact as such a guess can be. */
export function roughly(seconds) {
  const step = seconds < 90 ? 10 : seconds < 600 ? 30 : seconds < 7200 ? 300 : 1800;
  return duration(Math.max(step, Math.round(seconds / step) * step));
}
