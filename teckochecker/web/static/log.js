// The log of one job: newest first, with filters, following what happens.

import { get } from "./api.js";
import { button, fill, h, icon, newId, say } from "./dom.js";
import { bytes, milliseconds, plural, time } from "./format.js";
import { json, panel } from "./widgets.js";

const VERDICTS = new Set(["success", "failed", "pending", "error"]);
const PROBLEMS = new Set(["error", "failed", "warning", "delivery_failed", "delivery_pending", "delivery_unconfirmed"]);
const LOOKS = { success: "check", completed: "check", triggered: "send", failed: "close", error: "alert", warning: "alert", paused: "pause", resumed: "play", pending: "clock" };
const MOST = 1000; // entries that are kept on the page
const FILTERS = {
  all: ["All", () => true],
  checks: ["Checks", (entry) => isCheck(entry)],
  problems: ["Problems", (entry) => PROBLEMS.has(entry.status)],
  events: ["Events", (entry) => !isCheck(entry)],
};

export const isCheck = (entry) => VERDICTS.has(entry.status) && entry.execution_time_ms !== null;

/** `first` is the newest page of the log; `newer()` reads on and gives what is new. */
export function logPanel(view, path, first) {
  let entries = first.logs, total = first.total, which = "all", text = "", following = true, held = [];
  const list = h("ol", { class: "log", tabindex: "0", "aria-label": "Entries, newest first" }), count = h("p", { class: "quiet small", role: "status" });
  const older = button("Show older", () => readOlder(), { kind: "quiet" });

  const fits = (entry) => FILTERS[which][1](entry) && (!text || `${entry.status} ${entry.message}`.toLowerCase().includes(text));
  const show = () => {
    const shown = entries.filter(fits);
    fill(list, ...shown.map(line));
    tell(shown.length);
  };
  const tell = (shown) => {
    say(count, `${plural(shown, "entry", "entries")} of ${total}${held.length ? `; ${plural(held.length, "new one")} held back` : ""}`);
    older.hidden = entries.length >= Math.min(total, MOST);
  };
  const add = (fresh) => {
    entries = [...fresh, ...entries].slice(0, MOST);
    list.prepend(...fresh.filter(fits).map(line));
    tell(list.childElementCount);
  };
  const readOlder = async () => {
    const found = await get(`${path}/logs?limit=100&offset=${entries.length + held.length}`);
    const known = new Set(entries.map((entry) => entry.id));
    entries = [...entries, ...found.logs.filter((entry) => !known.has(entry.id))];
    total = found.total;
    show();
  };
  const newer = async () => {
    const newest = held[0]?.id ?? entries[0]?.id ?? 0;
    const { logs } = await get(`${path}/logs?after=${newest}&limit=200`);
    const fresh = logs.filter((entry) => entry.id > (held[0]?.id ?? entries[0]?.id ?? 0));
    total += fresh.length;
    if (following) add(fresh);
    else { held = [...fresh, ...held]; tell(list.childElementCount); }
    return fresh;
  };

  const follow = button("Follow", () => {
    following = !following;
    follow.setAttribute("aria-pressed", String(following));
    if (following) { const fresh = held; held = []; add(fresh); }
    else tell(list.childElementCount);
  }, { kind: "small-button", "aria-pressed": "true", title: "Show new entries as they come" });
  const tabs = h("div", { class: "segments", role: "group", "aria-label": "Which entries" }, Object.entries(FILTERS).map(([key, [word]]) =>
    h("button", { type: "button", "aria-pressed": String(key === which), on: { click: (event) => {
      which = key;
      for (const one of tabs.children) one.setAttribute("aria-pressed", String(one === event.currentTarget));
      show();
    } } }, word)));
  const search = h("input", { type: "search", placeholder: "Search the log", "aria-label": "Search the log", on: { input: () => { text = search.value.trim().toLowerCase(); show(); } } });
  show();
  const node = panel("Log", { tools: h("div", { class: "log-tools" }, tabs, search, follow) }, list, h("footer", { class: "log-foot" }, count, older));
  return { node, newer };
}

function line(entry) {
  const look = PROBLEMS.has(entry.status) ? (entry.status === "failed" || entry.status === "delivery_failed" ? "bad" : "warn") : entry.status === "success" || entry.status === "completed" || entry.status === "triggered" ? "good" : "mild";
  const head = [time(entry.created_at), h("span", { class: `log-status look-${look}` }, icon(LOOKS[entry.status] ?? "clock"), entry.status.replaceAll("_", " ")),
    h("span", { class: "log-message" }, entry.message), h("span", { class: "quiet small log-took" }, milliseconds(entry.execution_time_ms))];
  const more = details(entry);
  if (!more.length) return h("li", {}, h("div", { class: "log-line" }, head));
  const inside = h("div", { class: "log-more" });
  const box = h("details", { on: { toggle: () => box.open && !inside.childElementCount && fill(inside, ...more.map((part) => part())) } }, h("summary", { class: "log-line" }, head), inside);
  return h("li", {}, box);
}

/** What an entry has beyond its line; made when it is opened. */
function details(entry) {
  const found = [];
  const run = [entry.exit_code === null || entry.exit_code === undefined ? "" : `exit code ${entry.exit_code}`, entry.peak_memory_bytes ? `peak memory ${bytes(entry.peak_memory_bytes)}` : ""].filter(Boolean);
  if (run.length) found.push(() => h("p", { class: "quiet" }, run.join(" · ")));
  if (entry.script_output) found.push(() => titled("What it said", json(entry.script_output)));
  for (const [key, title] of [["detail", "Detail"], ["stdout", "Standard output"], ["stderr", "Standard error"]]) {
    if (entry[key]) found.push(() => titled(title, h("pre", { class: "code", tabindex: "0" }, entry[key])));
  }
  if (entry.secrets_opened?.length) found.push(() => h("p", { class: "quiet small" }, `Secrets opened: ${entry.secrets_opened.map((one) => `${one.name} for ${one.variable}`).join(", ")}`));
  return found;
}

function titled(title, inside) {
  const id = newId("title");
  inside.setAttribute("aria-labelledby", id);
  inside.setAttribute("role", "group");
  return h("div", {}, h("h3", { id }, title), inside);
}
