// What can be done with a job, wherever it is shown.

import { linkTo, pathOf, post, remove } from "./api.js";
import { live } from "./live.js";
import { confirmed, during } from "./widgets.js";

const ENDED = new Set(["completed", "failed"]);
export const isEnded = (job) => ENDED.has(job.status);

export async function verb(pressed, job, word) {
  const done = { pause: "Paused", resume: "Resumed", trigger: "Asked for a check now" }[word];
  const found = await during(pressed, () => post(`${pathOf(job)}/${word}`), `${done}: ${job.name}`);
  if (found) live.keep(found);
  return found;
}

export async function deleted(pressed, job) {
  const text = `“${job.name}” is deleted with its log and its deliveries. That can't be undone.`;
  if (!(await confirmed("Delete this job?", text, "Delete"))) return false;
  const gone = await during(pressed, async () => (await remove(pathOf(job)), true), `Deleted: ${job.name}`);
  if (gone) live.forget(job.id);
  return Boolean(gone);
}

/** The actions that make sense for a job as it is now, for a menu. */
export function actionsFor(job, after = () => {}) {
  const open = !isEnded(job), go = (what) => () => { location.hash = linkTo(job, what); };
  const run = (word) => async (pressed) => { const found = await verb(pressed, job, word); if (found) after(found); };
  return [
    open && job.status !== "paused" && ["Check now", "again", run("trigger")],
    open && job.status === "active" && ["Pause", "pause", run("pause")],
    job.status === "paused" && ["Resume", "play", run("resume")],
    ["Edit", "edit", go("edit")],
    ["Duplicate", "copy", go("duplicate")],
    ["Delete", "trash", async (pressed) => { if (await deleted(pressed, job)) after(null); }, "danger-text"],
  ].filter(Boolean);
}
