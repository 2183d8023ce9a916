// What runs here, how it is set, and how much room it takes.

import { get } from "./api.js";
import { fill, h, icon, say } from "./dom.js";
import { bytes, duration, moving, number } from "./format.js";
import { hear, live } from "./live.js";
import { facts, panel, wordChip } from "./widgets.js";

const LOOKS = { ok: ["well", "completed", "check"], degraded: ["needs attention", "retrying", "alert"], failing: ["failing", "failed", "close"] };

export async function system(view) {
  const [found, stats] = await Promise.all([get("/api/system"), get("/api/stats")]);
  const value = (name) => found.settings.find((one) => one.name === name)?.value;
  const health = h("div", {}), node = h("div", { class: "stack" },
    h("header", { class: "head" }, h("h1", {}, "System"), h("div", { class: "row end" }, outside("/docs", "API"), outside("/metrics", "Metrics"))),
    h("div", { class: "columns" },
      h("div", { class: "stack" }, panel("Health", health), panel("Room", roomOf(found, value))),
      panel("Program", facts([
        ["Version", found.version], ["Python", found.python], ["SQLite", found.sqlite], ["System", found.system],
        ["Home", h("code", {}, found.home)], ["Started", moving(found.started_at)],
        ["Token last used", moving(stats.token_last_used_at)],
      ]))),
    panel("Settings", h("p", { class: "quiet pad" }, "They are set by the environment or the file .env in the home; “teckochecker config show” tells where each comes from."), settingsOf(found.settings)));
  const show = () => {
    const seen = live.pulse?.health;
    if (!seen) return;
    const sign = JSON.stringify([seen.status, seen.reasons, seen.sandbox, seen.scheduler.checks_in_flight]);
    if (health.sign === sign) return;
    health.sign = sign;
    fill(health, facts([
      ["All in all", wordChip(...LOOKS[seen.status])],
      ...seen.reasons.map((reason) => ["Reason", reason]),
      ["Scheduler", `${number(seen.scheduler.checks_in_flight)} checks and ${number(seen.scheduler.deliveries_in_flight)} deliveries in flight`],
      ["Database", seen.database.writable ? "can be written" : "can't be written"],
      seen.sandbox && ["Containers", seen.sandbox.ready ? `ready, ${number(seen.sandbox.containers)} running` : "not ready, see the reason"],
    ]));
  };
  hear(view, "pulse", show);
  show();
  if (!health.firstChild) say(health, "…");
  return { title: "System", node };
}

const outside = (href, label) => h("a", { class: "button", href, target: "_blank", rel: "noopener" }, icon("link"), h("span", {}, label));

function roomOf({ disk }, value) {
  return facts([
    ["Database", bytes(disk.database_bytes)], ["Scripts", bytes(disk.scripts_bytes)], ["Backups", bytes(disk.backups_bytes)],
    ["Free on the disk", `${bytes(disk.free_bytes)} of ${bytes(disk.total_bytes)}`],
    ["Logs are kept", `${duration(value("LOG_RETENTION_DAYS") * 86400)}, at most ${number(value("LOG_MAX_PER_JOB"))} entries of each job`],
  ]);
}

const settingsOf = (settings) => h("div", { class: "settings" }, facts(settings.map((one) => [
  h("code", {}, one.name),
  one.value === null || one.value === "" ? h("span", { class: "quiet" }, "not set") : h("code", {}, String(one.value)),
  h("div", { class: "quiet small" }, one.help),
])));
