// The page's frame: signing in, finding the view for an address, and what is around every view.

import { call, isSignedOut, Problem, remove, signals } from "./api.js";
import { button, fill, h, icon, say } from "./dom.js";
import { live } from "./live.js";
import { overview } from "./overview.js";
import { jobs } from "./jobs.js";
import { toast } from "./widgets.js";

const app = document.getElementById("app");
const SIGNED_IN = "teckochecker.signed-in"; // no secret: only spares a call that would be refused

const ROUTES = [
  [/^$/, "overview", () => overview],
  [/^jobs$/, "jobs", () => jobs],
  [/^(jobs|checks)\/(\d+)$/, "jobs", async () => (await import("./job.js")).job],
  [/^(jobs|checks)\/(\d+)\/(edit|duplicate)$/, "jobs", async () => (await import("./form.js")).form],
  [/^new(?:\/(jobs|checks))?$/, "jobs", async () => (await import("./form.js")).form],
  [/^secrets$/, "secrets", async () => (await import("./secrets.js")).secrets],
  [/^system$/, "system", async () => (await import("./system.js")).system],
];
const PLACES = [["", "Overview", "overview"], ["jobs", "Jobs", "jobs"], ["secrets", "Secrets", "secrets"], ["system", "System", "system"]];

let leave = new AbortController();
let main = null;

function frame() {
  const links = PLACES.map(([path, label, symbol]) =>
    h("a", { href: `#/${path}`, class: "nav-link", "data-place": symbol }, icon(symbol), h("span", {}, label)));
  main = h("main", { id: "main", tabindex: "-1" });
  const skip = h("a", { class: "skip", href: "#main", on: { click: (event) => { event.preventDefault(); main.focus(); } } }, "Skip to the content");
  fill(app, skip,
    h("div", { class: "frame" },
      h("header", { class: "side" },
        h("a", { class: "brand", href: "#/" }, logo(), h("span", {}, "TeckoChecker")),
        h("a", { class: "button primary new-job", href: "#/new" }, icon("plus"), h("span", {}, "New job")),
        h("nav", { "aria-label": "Main" }, links),
        h("div", { class: "side-end" }, connection(), button("Sign out", signOut, { kind: "quiet sign-out", symbol: "out" }))),
      h("div", { class: "content" }, banner(), main)));
}

function logo() {
  return h("span", { class: "logo", "aria-hidden": "true" }, icon("check"));
}

/** Whether what is seen is fresh. */
function connection() {
  const words = h("span", {}), made = h("p", { class: "connection", role: "status" }, h("span", { class: "dot", "aria-hidden": "true" }), words);
  const show = () => {
    made.dataset.state = live.connection;
    say(words, { live: "Live", waiting: "Reconnecting…", off: "Paused" }[live.connection]);
  };
  live.addEventListener("connection", show);
  show();
  return made;
}

/** Health, where it isn't well: the scheduler is behind, the engine is away, the disk is full. */
function banner() {
  const made = h("div", { class: "banner", role: "status", hidden: true });
  const show = () => {
    const health = live.pulse?.health;
    const ill = health && health.status !== "ok";
    made.hidden = !ill;
    if (!ill) return;
    made.dataset.status = health.status;
    const text = health.reasons.join();
    if (made.told === text) return;
    made.told = text;
    fill(made, icon("alert"), h("ul", {}, health.reasons.map((reason) => h("li", {}, capital(reason)))));
  };
  live.addEventListener("pulse", show);
  show();
  return made;
}

const capital = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

async function show() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const clean = path.replace(/\/$/, "");
  leave.abort();
  leave = new AbortController();
  const view = { signal: leave.signal, query: new URLSearchParams(query), path: clean, refresh: show };
  for (const [pattern, place, load] of ROUTES) {
    const params = pattern.exec(clean);
    if (!params) continue;
    mark(place);
    await open(view, load, params.slice(1));
    return;
  }
  arrive("Not found", h("div", { class: "empty" }, h("h1", {}, "There is no such place"), h("a", { href: "#/" }, "Go to the overview")));
}

async function open(view, load, params) {
  try {
    const make = await part(load);
    const { title, node } = await make(view, ...params);
    if (!view.signal.aborted) arrive(title, node);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (isSignedOut(problem.status) || view.signal.aborted) return;
    const again = button("Try again", () => location.reload(), { symbol: "again" });
    arrive("Problem", h("div", { class: "empty" }, h("h1", { tabindex: "-1" }, problem.status === 404 ? "It isn't there" : "That didn't work"), h("p", {}, problem.message), again));
  }
}

/** A view's module; a browser never asks again for one that didn't come, but a reload does. */
async function part(load) {
  try {
    return await load();
  } catch {
    throw new Problem(0, { detail: "A part of the page didn't come: reload it." });
  }
}

/** Show a view; who moves by keyboard or listens is told by the focus. */
function arrive(title, node) {
  document.title = `${title} · TeckoChecker`;
  fill(main, node);
  scrollTo(0, 0);
  const heading = main.querySelector("h1");
  heading?.setAttribute("tabindex", "-1");
  heading?.focus({ preventScroll: true });
  node.dispatchEvent(new Event("arrived"));
}

function mark(place) {
  for (const link of app.querySelectorAll(".nav-link")) {
    if (link.dataset.place === place) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function signIn(message = "") {
  leave.abort();
  live.stop();
  localStorage.removeItem(SIGNED_IN);
  document.title = "Sign in · TeckoChecker";
  const token = h("input", { id: "token", name: "token", type: "password", autocomplete: "current-password", required: true, spellcheck: "false", "aria-describedby": "token-help token-error" });
  const error = h("p", { id: "token-error", class: "field-error", role: "alert" }, message);
  const go = h("button", { class: "button primary wide", type: "submit" }, h("span", {}, "Sign in"));
  const enter = async (event) => {
    event.preventDefault();
    go.disabled = true;
    try {
      await call("POST", "/api/session", { token: token.value.trim() });
      localStorage.setItem(SIGNED_IN, "yes");
      await begin();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      token.setAttribute("aria-invalid", "true");
      say(error, problem.status === 401 ? "That isn't the token. It begins with tck_ and stands in the file “token” of the installation." : problem.message);
      token.select();
    } finally {
      go.disabled = false;
    }
  };
  fill(app, h("main", { class: "sign-in" },
    h("form", { class: "card", on: { submit: enter } },
      h("h1", { class: "brand" }, logo(), h("span", {}, "TeckoChecker")),
      h("p", { class: "quiet" }, "Waits for work that runs elsewhere, and triggers what must come next."),
      h("label", { for: "token" }, "Access token"), token,
      h("p", { id: "token-help", class: "help" }, "“teckochecker init” made it. It stands in the file “token” of the installation; “teckochecker config show” says where that is."),
      error, go)));
  token.focus();
}

async function signOut() {
  try {
    await remove("/api/session");
  } catch (problem) {
    if (!isSignedOut(problem.status)) return toast(problem.message, "bad");
  }
  signIn();
}

async function begin() {
  frame();
  live.start();
  await Promise.all([live.load(""), show()]);
}

signals.addEventListener("signed-out", () => signIn("Your session has ended: sign in again."));
addEventListener("hashchange", () => main?.isConnected && show());

if (localStorage.getItem(SIGNED_IN)) begin().catch((problem) => { if (!isSignedOut(problem.status)) signIn(problem.message); });
else signIn();
