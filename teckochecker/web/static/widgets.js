// The parts that several views are made of.

import { button, fill, h, icon, iconButton, newId, say, svg } from "./dom.js";
import { etaWords, pointsOf, progressOf, stateOf, VERDICT_WORDS } from "./explain.js";
import { both, milliseconds, number } from "./format.js";
import { live } from "./live.js";

const BEATS = 30, STEP = 7, HEIGHT = 22;
const LOOK_ICONS = {
  active: "clock", checking: "again", delivering: "send", retrying: "alert",
  waiting: "upload", paused: "pause", completed: "check", failed: "close",
};

/** A job's state: a shape, a colour and a word. */
export function stateChip(job) {
  const made = h("span", { class: "chip" });
  made.update = (now) => {
    const { word, look } = stateOf(now, live.isChecking(now));
    if (made.look === look + word) return;
    made.look = look + word;
    made.className = `chip chip-${look}`;
    fill(made, icon(LOOK_ICONS[look] ?? "clock"), word);
  };
  made.update(job);
  return made;
}

export const wordChip = (word, look, symbol) => h("span", { class: `chip chip-${look}` }, icon(symbol), word);

const DELIVERY_LOOKS = {
  pending: ["waiting to be sent", "active", "clock"], sending: ["being sent", "checking", "send"],
  delivered: ["delivered", "completed", "check"], failed: ["failed", "failed", "close"],
  unconfirmed: ["unconfirmed", "retrying", "alert"],
};
export const deliveryChip = (state) => wordChip(...(DELIVERY_LOOKS[state] ?? [state, "active", "clock"]));

/** The last checks, oldest left: tall is success, broken is failed, a triangle error, low pending. */
export function heartbeat(id) {
  const made = svg("svg", { class: "beats", role: "img", viewBox: `0 0 ${BEATS * STEP} ${HEIGHT}`, preserveAspectRatio: "xMaxYMid meet" });
  made.addEventListener("pointermove", (event) => pointAt(made, event));
  made.addEventListener("pointerleave", hideTip);
  made.update = () => {
    const beats = live.beats.get(id);
    if (made.beats === beats && made.childNodes.length) return;
    made.beats = beats;
    const shown = (beats ?? []).slice(-BEATS), empty = BEATS - shown.length;
    const paths = {}; // one for each verdict: a list has many of these bars
    const draw = (verdict, at) => { paths[verdict] = (paths[verdict] ?? "") + beatMark(verdict, at * STEP); };
    for (let at = 0; at < empty; at += 1) draw("none", at);
    shown.forEach((beat, at) => draw(beat.verdict, empty + at));
    fill(made, ...Object.entries(paths).map(([verdict, d]) => svg("path", { class: `beat-${verdict}`, d })));
    made.setAttribute("aria-label", beatsInWords(shown));
  };
  made.update();
  return made;
}

function beatMark(verdict, x) {
  const shapes = {
    none: `M${x + 1.5} 11h3`,
    success: `M${x + 1} 2h4v18h-4z`,
    failed: `M${x + 1} 2h4v7.4h-4zM${x + 1} 12.6h4V20h-4z`,
    error: `M${x + 3} 5.5l3.2 11h-6.4z`,
    pending: `M${x + 1.2} 8.5h3.6v5h-3.6z`,
  };
  return shapes[verdict] ?? shapes.pending;
}

function beatsInWords(beats) {
  if (!beats.length) return "No checks yet";
  const counts = Map.groupBy ? Map.groupBy(beats, (beat) => beat.verdict) : grouped(beats);
  const parts = [...counts].map(([verdict, all]) => `${all.length} ${VERDICT_WORDS[verdict] ?? verdict}`);
  return `Last ${beats.length} checks: ${parts.join(", ")}; the latest: ${beats.at(-1).verdict}`;
}

function grouped(beats) {
  const found = new Map();
  for (const beat of beats) found.set(beat.verdict, [...(found.get(beat.verdict) ?? []), beat]);
  return found;
}

function pointAt(made, event) {
  const box = made.getBoundingClientRect(), beats = (made.beats ?? []).slice(-BEATS);
  const drawn = Math.min(box.width, (box.height * BEATS * STEP) / HEIGHT);
  const at = Math.floor(((event.clientX - (box.right - drawn)) / drawn) * BEATS) - (BEATS - beats.length);
  const beat = beats[at];
  if (!beat) return hideTip();
  showTip(event.clientX, box.top, [
    h("b", {}, `${VERDICT_WORDS[beat.verdict] ?? beat.verdict}, ${milliseconds(beat.duration_ms)}`),
    h("span", {}, both(beat.at)),
    h("span", {}, beat.message),
  ]);
}

const tip = h("div", { class: "tip", "aria-hidden": "true" });

export function showTip(x, top, children) {
  if (!tip.isConnected) document.body.append(tip);
  fill(tip, ...children);
  tip.classList.add("shown");
  const width = tip.offsetWidth, height = tip.offsetHeight;
  const left = Math.max(8, Math.min(x - width / 2, document.documentElement.clientWidth - width - 8));
  tip.style.left = `${left}px`;
  tip.style.top = `${top - height - 8 < 8 ? top + 30 : top - height - 8}px`;
}

export const hideTip = () => tip.classList.remove("shown");

/** Requests done of all, with the time that is left where the pace tells it. */
export function progressBar(job) {
  const inner = h("div", { class: "meter-done" }), failedPart = h("div", { class: "meter-failed" });
  const bar = h("div", { class: "meter" }, inner, failedPart);
  const counts = h("span", {}), left = h("span", { class: "end" });
  const made = h("div", { class: "progress" }, bar, h("div", { class: "progress-words" }, counts, left));
  made.update = (now) => {
    const progress = progressOf(now);
    made.hidden = !progress;
    if (!progress) return;
    const { done, failed, total } = progress;
    inner.style.width = `${(100 * (done - failed)) / total}%`;
    failedPart.style.width = `${(100 * failed) / total}%`;
    const eta = now.status === "active" ? etaWords(pointsOf(live.beats.get(now.id) ?? [])) : "";
    say(counts, `${number(done)} of ${number(total)}${failed ? `, ${number(failed)} failed` : ""}`);
    say(left, eta);
    made.title = [counts.textContent, eta].filter(Boolean).join(", ");
  };
  made.update(job);
  return made;
}

export const empty = (title, text, ...actions) =>
  h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, text), actions.length ? h("div", { class: "row center" }, ...actions) : null);

export const facts = (pairs) =>
  h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, ...value]) => h("div", {}, h("dt", {}, name), h("dd", {}, ...value))));

export function panel(title, ...children) {
  const id = newId("panel");
  const [head, ...rest] = children[0]?.tools ? [children[0].tools, ...children.slice(1)] : [null, ...children];
  return h("section", { class: "panel", "aria-labelledby": id },
    h("header", { class: "panel-head" }, h("h2", { id }, title), head), ...rest);
}

/** A call to the API from a button: it can't be pressed twice, and failures are told. */
export async function during(pressed, run, done) {
  pressed.disabled = true;
  try {
    const result = await run();
    if (done) toast(typeof done === "function" ? done(result) : done);
    return result;
  } catch (problem) {
    if (!problem.status && problem.status !== 0) throw problem;
    toast(problem.message, "bad");
    return undefined;
  } finally {
    pressed.disabled = false;
  }
}

export function toast(text, look = "good") {
  const made = h("div", { class: `toast toast-${look}` }, icon(look === "good" ? "check" : "alert"), h("span", {}, text),
    iconButton("close", "Dismiss", () => made.remove()));
  document.getElementById("toasts").append(made);
  setTimeout(() => made.remove(), look === "good" ? 4000 : 12000);
}

/** A dialog with focus inside; resolves to what `close` is given, null when it is dismissed. */
export function dialog(title, build) {
  return new Promise((resolve) => {
    const id = newId("dialog");
    let result = null;
    const made = h("dialog", { class: "dialog", "aria-labelledby": id });
    const close = (value) => { result = value; made.close(); };
    const head = h("header", { class: "panel-head" }, h("h2", { id }, title), iconButton("close", "Close", () => close(null)));
    made.append(head, build(close));
    made.addEventListener("close", () => { made.remove(); resolve(result); });
    made.addEventListener("click", (event) => { if (event.target === made) close(null); });
    document.body.append(made);
    made.showModal();
    made.querySelector("[autofocus]")?.focus();
  });
}

export const confirmed = (title, text, verb) =>
  dialog(title, (close) =>
    h("div", { class: "stack" }, h("p", {}, text),
      h("div", { class: "row end" },
        button("Cancel", () => close(false), { autofocus: true }),
        button(verb, () => close(true), { kind: "danger" }))));

/** A button that opens a list of actions: [label, icon, run, look]. */
export function menu(label, items) {
  const list = h("div", { class: "menu", popover: "auto", role: "group", "aria-label": label });
  const opener = iconButton("more", label, open, { "aria-haspopup": "true", "aria-expanded": "false" });
  function open() {
    fill(list, ...items().map(([name, symbol, run, look = ""]) =>
      button(name, () => { list.hidePopover(); run(opener); }, { kind: `quiet ${look}`, symbol })));
    if (!list.isConnected) opener.after(list);
    list.showPopover();
    const box = opener.getBoundingClientRect();
    const above = box.bottom + list.offsetHeight + 8 > innerHeight;
    list.style.top = `${above ? box.top - list.offsetHeight - 4 : box.bottom + 4}px`;
    list.style.left = `${Math.max(8, box.right - list.offsetWidth)}px`;
    list.firstElementChild?.focus();
  }
  list.addEventListener("toggle", (event) => opener.setAttribute("aria-expanded", String(event.newState === "open")));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...list.children];
    all.at((all.indexOf(document.activeElement) + step) % all.length).focus();
  });
  return h("div", { class: "menu-box" }, opener);
}

/** JSON for reading, as text. */
export const json = (value) => h("pre", { class: "code", tabindex: "0" }, JSON.stringify(value, null, 2));
