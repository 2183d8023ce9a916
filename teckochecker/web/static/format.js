// Times, durations and numbers for people: local time, with UTC as the hint.

import { h, say } from "./dom.js";

const MINUTE = 60, HOUR = 3600, DAY = 86400;
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayAndClock = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const numbers = new Intl.NumberFormat(undefined);

let skew = 0; // of this machine's clock against the daemon's, in ms
/** From an answer's `Date`, which tells whole seconds: only a clock that is set wrong matters. */
export function noteServerTime(date) {
  const off = new Date(date) - Date.now();
  skew = Math.abs(off) > 3000 ? off : 0;
}
export const now = () => Date.now() + skew;

export const number = (value) => numbers.format(value);
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** "42 s", "3 min 20 s", "2 h 5 min", "30 h", "3 days". */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < MINUTE) return `${s} s`;
  if (s < 10 * MINUTE) return joined(Math.floor(s / MINUTE), "min", s % MINUTE, "s");
  if (s < HOUR) return `${Math.round(s / MINUTE)} min`;
  if (s < 3 * HOUR) return joined(Math.floor(s / HOUR), "h", Math.floor((s % HOUR) / MINUTE), "min");
  if (s < 2 * DAY) return `${Math.round(s / HOUR)} h`;
  return `${Math.round(s / DAY)} days`;
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s` : duration(ms / 1000);
}

export function bytes(count) {
  if (count === null || count === undefined) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count, unit = 0;
  while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

export const secondsUntil = (iso) => (new Date(iso) - now()) / 1000;

export function until(iso) {
  const s = secondsUntil(iso);
  return s <= 0.5 ? "due now" : `in ${duration(s)}`;
}

export function ago(iso) {
  const s = -secondsUntil(iso);
  return s < 1.5 ? "just now" : `${duration(s)} ago`;
}

export function local(iso) {
  const at = new Date(iso), today = new Date();
  return at.toDateString() === today.toDateString() ? clock.format(at) : dayAndClock.format(at);
}

export const utc = (iso) => `${new Date(iso).toISOString().replace("T", " ").slice(0, 19)} UTC`;
export const both = (iso) => `${whole.format(new Date(iso))} (${utc(iso)})`;

/** A time of day; hovering tells it whole and in UTC. */
export const time = (iso, shown = local) =>
  iso ? h("time", { datetime: iso, title: both(iso) }, shown(iso)) : h("span", { class: "quiet" }, "never");

/** A time whose words grow old, such as "12 s ago"; brought up to date each second. */
export function moving(iso, shown = ago) {
  const made = time(iso, shown);
  if (iso) ticking(made, () => say(made, shown(iso)));
  return made;
}

const renders = new WeakMap();

/** Call `render` each second for as long as `node` is on the page. */
export function ticking(node, render) {
  node.setAttribute("data-ticking", "");
  renders.set(node, render);
  return node;
}

setInterval(() => {
  if (document.hidden) return;
  for (const node of document.querySelectorAll("[data-ticking]")) renders.get(node)?.();
}, 1000);

function joined(large, unit, small, smaller) {
  return small ? `${large} ${unit} ${small} ${smaller}` : `${large} ${unit}`;
}
