// One job: why it is as it is, what comes next, what it found, what it triggered, and its log.

import { call, get, linkTo, pathOf, post } from "./api.js";
import { actionsFor, isEnded, verb } from "./actions.js";
import { durations, progress } from "./charts.js";
import { button, fill, h, icon, say } from "./dom.js";
import { ACTION_WORDS, explain, hostOf, KIND_WORDS, pointsOf, STATUS_WORDS } from "./explain.js";
import { bytes, duration, milliseconds, moving, plural, ticking, time, until } from "./format.js";
import { hear, live } from "./live.js";
import { isCheck, logPanel } from "./log.js";
import { deliveryChip, dialog, during, facts, json, menu, panel, progressBar, stateChip } from "./widgets.js";
import { archiveOf, dropZone } from "./pack.js";

const CHECKS = 200; // of the log, for the charts

export async function job(view, place, number) {
  const path = `/api/${place === "checks" ? "custom-checks" : "jobs"}/${number}`;
  let now = await get(path), checks = [], sent = [];
  const custom = now.kind === "custom_check";
  const [logs, deliveries, info] = await Promise.all([
    get(`${path}/logs?limit=${CHECKS}`), get(`${path}/deliveries?limit=20`), custom ? get(`${path}/script/info`) : null]);
  checks = logs.logs.filter(isCheck).reverse();
  sent = deliveries.deliveries;

  const chip = stateChip(now), name = h("h1", {}, now.name), why = h("p", { class: "why" });
  const news = h("p", { class: "unseen", role: "status" }); // the sentence has a countdown, which nobody wants read aloud
  const tools = h("div", { class: "row end" }), bar = progressBar(now);
  const chartBox = h("div", { class: "stack pad" }), factBox = h("div", {}), dataBox = h("div", {}), sentBox = h("div", {}), scriptBox = h("div", {});
  const log = logPanel(view, path, logs, () => now);

  const showWhy = () => say(why, explain(now, { checking: live.isChecking(now), deliveries: sent }));
  const showTools = () => {
    const sign = [now.status, now.webhook_url].join();
    if (tools.sign === sign) return;
    tools.sign = sign;
    fill(tools, ...toolsOf(now, () => now, (changed) => (changed === null ? (location.hash = "#/jobs") : show(changed)), (found) => tried(found)));
  };
  const show = (found) => {
    if (found.status !== now.status) say(news, `${found.name}: ${STATUS_WORDS[found.status]}`);
    now = { ...now, ...found };
    say(name, now.name);
    chip.update(now);
    bar.update(now);
    showWhy();
    showTools();
    fill(factBox, factsOf(now));
    showData(dataBox, now);
  };
  const showChecks = () => {
    const points = pointsOf(checks);
    fill(chartBox, bar, points.length > 1 && progress(points, now.status === "active"),
      checks.length ? durations(checks) : h("p", { class: "quiet" }, "No check has ended yet."));
  };
  const showSent = () => {
    fill(sentBox, sent.length ? h("ul", { class: "deliveries" }, sent.map((one) => delivery(one, now, reload)))
      : h("p", { class: "quiet pad" }, now.keboola_configuration_id || now.webhook_url ? "Nothing was sent yet: that comes when the job ends." : "This job triggers nothing."));
    showWhy();
  };
  const reload = async () => {
    const [found, listed] = await Promise.all([get(path), get(`${path}/deliveries?limit=20`)]);
    sent = listed.deliveries;
    show(found);
    showSent();
  };
  const showScript = (told) => fill(scriptBox, scriptOf(now, told, async () => showScript(await get(`${path}/script/info`))));

  hear(view, "jobs", async (event) => {
    if (!event.detail.has(now.id) || !live.jobs.has(now.id)) return;
    show(live.jobs.get(now.id));
    const fresh = await log.newer();
    if (!fresh.length) return;
    checks = [...checks, ...fresh.filter(isCheck).reverse()].slice(-CHECKS);
    showChecks();
    if (fresh.some((entry) => !isCheck(entry))) await reload();
    if (custom && fresh.some((entry) => entry.status === "script" || isCheck(entry))) showScript(await get(`${path}/script/info`));
  });
  hear(view, "pulse", () => { chip.update(now); showWhy(); });
  hear(view, "list", () => { if (live.jobs.has(now.id)) show(live.jobs.get(now.id)); });
  ticking(why, showWhy);
  live.needBeats([now.id]).catch(() => {});

  const node = h("div", { class: "stack" },
    h("nav", { "aria-label": "Path" }, h("a", { href: "#/jobs", class: "back" }, icon("back"), "Jobs")),
    h("header", { class: "head" }, name, chip, tools), why, news,
    h("div", { class: "job-columns" },
      h("div", { class: "stack" }, panel("Checks", chartBox), panel("Deliveries", sentBox), log.node),
      h("div", { class: "stack" }, panel("Facts", factBox), custom && panel("Script", scriptBox), panel("Data of the last check", dataBox))));
  show(now);
  showChecks();
  showSent();
  if (custom) showScript(info);
  return { title: now.name, node };
}

function toolsOf(job, now, changed, tried) {
  const run = (word) => async (event) => { const found = await verb(event.currentTarget, now(), word); if (found) changed(found); };
  const items = () => actionsFor(now(), changed).filter(([label]) => label === "Duplicate" || label === "Delete");
  return [
    !isEnded(job) && job.status === "active" && button("Check now", run("trigger"), { symbol: "again" }),
    job.status === "active" && button("Pause", run("pause"), { symbol: "pause" }),
    job.status === "paused" && button("Resume", run("resume"), { kind: "primary", symbol: "play" }),
    job.webhook_url && button("Test webhook", async (event) => {
      const found = await during(event.currentTarget, () => post(`${pathOf(now())}/webhook/test`));
      if (found) tried(found);
    }, { symbol: "send" }),
    h("a", { class: "button", href: linkTo(job, "edit") }, icon("edit"), h("span", {}, "Edit")),
    menu("More actions", items),
  ].filter(Boolean);
}

const tried = (found) => dialog("The webhook took the test event", (close) => h("div", { class: "stack" },
  facts([["Answer", `${found.status_code ?? ""} after ${milliseconds(found.duration_ms)}`], ["Event", h("code", {}, found.event_id)]]),
  found.answer && h("pre", { class: "code", tabindex: "0" }, found.answer),
  h("div", { class: "row end" }, button("Close", () => close(null), { autofocus: true }))));

function factsOf(job) {
  const secret = (name) => h("a", { href: "#/secrets" }, name);
  const end = job.trigger_on === "terminal" ? "any end, good or bad" : "success only";
  return facts([
    ["Kind", KIND_WORDS[job.kind] ?? job.kind],
    job.batch_ids && [plural(job.batch_ids.length, "Batch", "Batches").replace(/^1 /, ""), h("div", { class: "batches" }, job.batches.map(batch))],
    job.openai_secret_name && ["OpenAI key", secret(job.openai_secret_name)],
    job.openai_base_url && ["OpenAI address", job.openai_base_url],
    ["Checked every", duration(job.poll_interval_seconds)],
    job.next_check_at && job.status === "active" && ["Next check", moving(job.next_check_at, until)],
    ["Last check", moving(job.last_check_at), job.last_check_status ? ` · ${job.last_check_status}` : ""],
    job.script_runtime && ["Runs", `${job.script_runtime} ${job.script_entrypoint}, at most ${duration(job.timeout_seconds)}, ${job.resource_limits.memory_mb} MB, ${job.resource_limits.cpu_cores} cores, network ${job.network}`],
    job.check_params && Object.keys(job.check_params).length && ["Parameters", h("code", {}, JSON.stringify(job.check_params))],
    job.env_vars && ["Environment", h("code", {}, Object.entries(job.env_vars).map(([key, value]) => `${key}=${value}`).join("\n"))],
    job.max_consecutive_errors && ["Gives up after", plural(job.max_consecutive_errors, "error in a row", "errors in a row")],
    ["Triggers on", end],
    job.keboola_configuration_id && ["Keboola", h("div", {}, `${job.keboola_component_id} ${job.keboola_configuration_id}`), h("div", { title: job.keboola_stack_url }, `at ${hostOf(job.keboola_stack_url)}`), job.keboola_secret_name ? h("div", {}, "with ", secret(job.keboola_secret_name)) : ""],
    job.keboola_job && ["Keboola job", /^https?:/.test(job.keboola_job.url ?? "") ? h("a", { href: job.keboola_job.url, rel: "noopener noreferrer", target: "_blank" }, job.keboola_job.id) : job.keboola_job.id, ` · ${job.keboola_job.status ?? "started"}`],
    job.webhook_url && ["Webhook", `${job.webhook_method} ${job.webhook_url.replace(/^https?:\/\//, "")}`],
    ["Created", time(job.created_at)],
    job.completed_at && ["Ended", time(job.completed_at)],
  ]);
}

function batch(one) {
  const counts = one.request_counts;
  return h("div", {}, h("code", {}, one.batch_id), h("div", { class: "quiet small" },
    [one.status ?? "not seen yet", counts?.total ? `${counts.completed} of ${counts.total}${counts.failed ? `, ${counts.failed} failed` : ""}` : "", ...(one.errors ?? [])].filter(Boolean).join(" · ")));
}

function showData(box, job) {
  const text = JSON.stringify(job.last_check_data);
  if (box.text === text) return;
  box.text = text;
  fill(box, job.last_check_data ? h("div", { class: "pad" }, json(job.last_check_data)) : h("p", { class: "quiet pad" }, "No check has brought data yet."));
}

function delivery(one, job, reload) {
  const again = async (event) => {
    if (await during(event.currentTarget, () => post(`/api/deliveries/${one.id}/redeliver`), "It is sent again, under the same event id.")) await reload();
  };
  const stuck = ["failed", "unconfirmed"].includes(one.state);
  return h("li", { class: "delivery" },
    h("div", { class: "row" }, h("b", {}, ACTION_WORDS[one.action] ?? one.action), deliveryChip(one.state),
      h("span", { class: "quiet small" }, one.delivered_at ? ["arrived ", moving(one.delivered_at)] : one.next_attempt_at ? ["next attempt ", moving(one.next_attempt_at, until)] : ""),
      h("span", { class: "end" }, button("Redeliver", again, { kind: stuck ? "primary" : "", symbol: "send", disabled: one.state === "sending" || job.status === "paused" }))),
    h("details", { open: stuck }, h("summary", {}, plural(one.attempts.length, "attempt"), h("span", { class: "quiet" }, ` · event ${one.event_id}`)),
      h("ol", { class: "attempts" }, one.attempts.map((attempt) => h("li", {},
        h("div", { class: "row" }, time(attempt.started_at), h("span", { class: "tag" }, attempt.outcome), attempt.status_code ? h("span", { class: "tag" }, String(attempt.status_code)) : "", h("span", { class: "quiet small" }, milliseconds(attempt.duration_ms))),
        h("p", {}, attempt.message), attempt.answer && h("pre", { class: "code", tabindex: "0" }, attempt.answer)))),
      one.receipt && h("p", { class: "quiet small" }, `Receipt ${one.receipt.id}${one.receipt.status ? ` · ${one.receipt.status}` : ""}`)));
}

function scriptOf(job, info, changed) {
  const found = info.metadata, parts = [];
  parts.push(facts([
    info.source_type === "git" && ["Repository", info.git_url, ` · ${info.git_branch}`, info.git_subfolder ? ` · ${info.git_subfolder}` : ""],
    found?.commit && ["Commit", h("code", {}, found.commit.slice(0, 12))],
    found && ["Version", h("code", { title: found.sha256 }, found.sha256.slice(0, 12))],
    found && ["Stored", time(found.stored_at), `, ${bytes(found.size_bytes)}`],
    ["Entry point", h("code", {}, info.entrypoint)],
  ]));
  if (!found) parts.push(h("p", { class: "pad quiet" }, info.source_type === "git" ? "It is fetched at the first check." : "There is no script yet."));
  if (found?.files.length) parts.push(h("details", { class: "pad" }, h("summary", {}, plural(found.files.length, "file")),
    h("ul", { class: "files" }, found.files.map((file) => h("li", {}, h("code", {}, file.path), h("span", { class: "quiet small" }, bytes(file.size_bytes)))))));
  if (found?.text) parts.push(h("details", { class: "pad" }, h("summary", {}, "Text"), h("pre", { class: "code", tabindex: "0" }, found.text)));
  if (info.source_type === "upload" && !isEnded(job)) parts.push(h("div", { class: "pad" }, dropZone("Drop a new version here", async (files, zone) => {
    const form = new FormData();
    form.append("file", await archiveOf(files), "script.tgz");
    const done = await during(zone, () => call("POST", `${pathOf(job)}/script/upload`, form), (answer) => `${answer.message}: ${answer.sha256.slice(0, 12)}`);
    if (done) await changed();
  })));
  return parts;
}
