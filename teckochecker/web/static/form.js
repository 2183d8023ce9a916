// Making, changing and copying a job of either kind.

import { call, get, linkTo, pathOf, post, put } from "./api.js";
import { isEnded } from "./actions.js";
import { fill, h, icon, say } from "./dom.js";
import { editor, STARTERS } from "./editor.js";
import { allSecrets, choice, field, flag, lines, numeric, object, pairs, secret, tell, text } from "./fields.js";
import { live } from "./live.js";
import { archiveOf, dropZone, isArchive } from "./pack.js";
import { panel, toast } from "./widgets.js";

const KEBOOLA_STACKS = ["https://connection.keboola.com", "https://connection.eu-central-1.keboola.com", "https://connection.north-europe.azure.keboola.com"];
const OTHER_NAMES = { batch_id: "batch_ids", "resource_limits.memory_mb": "memory_mb", "resource_limits.cpu_cores": "cpu_cores", resource_limits: "memory_mb", config: "name", file: "script" };
const ACTION_FIELDS = new Set(["name", "keboola_stack_url", "keboola_secret", "keboola_configuration_id", "keboola_component_id", "keboola_variables", "follow_up",
  "webhook_url", "webhook_method", "webhook_headers", "webhook_query_params", "webhook_signing_secret", "webhook_timeout_seconds"]);

/** `#/new`, `#/new/jobs`, `#/jobs/7/edit`, `#/checks/8/duplicate`. */
export async function form(view, place, id, what) {
  if (!place) return { title: "New job", node: choose() };
  const custom = place === "checks", editing = what === "edit";
  const base = custom ? "/api/custom-checks" : "/api/jobs";
  const [before, secrets, system] = await Promise.all([id ? get(`${base}/${id}`) : {}, allSecrets(), get("/api/system")]);
  const info = id && custom ? await get(`${base}/${id}/script/info`) : null;
  const start = { ...before, name: editing ? before.name : before.name ? copyOf(before.name) : "" };
  const made = custom ? customFields(start, secrets, system, info, editing) : pollingFields(start, secrets, system);
  const actions = actionFields(start, secrets, !custom && !id);
  const fields = [...made.fields, ...actions.fields];
  const title = editing ? `Edit ${before.name}` : custom ? "New custom check" : "New OpenAI batch job";
  const said = h("p", { class: "field-error", role: "alert" });
  const submit = h("button", { class: "button primary", type: "submit" }, icon("check"), h("span", {}, editing ? "Save" : "Create the job"));
  const original = editing ? valuesOf(fields) : null;

  const save = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    say(said, "");
    try {
      const given = valuesOf(fields);
      const body = bodyOf(given, made, actions, original);
      const job = editing ? await changed(before, body, made) : await created(base, body, made);
      live.keep(job);
      toast(editing ? `Saved: ${job.name}` : `Created: ${job.name}`);
      location.hash = linkTo(job);
    } catch (problem) {
      tell(problem, fields, said, OTHER_NAMES);
    } finally {
      submit.disabled = false;
    }
  };
  const node = h("div", { class: "stack narrow" },
    h("nav", { "aria-label": "Path" }, h("a", { href: id ? linkTo(before) : "#/jobs", class: "back" }, icon("back"), id ? before.name : "Jobs")),
    h("header", { class: "head" }, h("h1", {}, title)),
    h("form", { class: "stack", novalidate: true, on: { submit: save } }, ...made.panels, ...actions.panels, ...made.more,
      h("div", { class: "form-end" }, said, h("div", { class: "row end" }, h("a", { class: "button", href: id ? linkTo(before) : "#/jobs" }, "Cancel"), submit))));
  if (editing && (isEnded(before) || before.phase === "delivering")) lock(node, fields, said);
  return { title, node };
}

function choose() {
  const card = (href, symbol, title, words) => h("a", { class: "card pick", href }, icon(symbol), h("span", {}, h("b", {}, title), h("span", { class: "quiet" }, words)));
  return h("div", { class: "stack narrow" }, h("header", { class: "head" }, h("h1", {}, "What do you want to wait for?")),
    card("#/new/jobs", "clock", "OpenAI batches", "One or many batches; when all have completed, a Keboola job is started or a webhook called."),
    card("#/new/checks", "code", "Anything else, with a script", "A small Python or Node script of yours looks, in a container of its own, and says how it stands."));
}

function pollingFields(job, secrets, system) {
  const name = nameField(job);
  const batches = lines("batch_ids", "Batch ids", "As OpenAI gave them, one in a line, up to 100. The job ends when all of them have.", job.batch_ids, { placeholder: "batch_abc123" });
  const address = text("openai_base_url", "OpenAI address", "Only for a proxy or a service that speaks the same language.", job.openai_base_url, { placeholder: settingOf(system, "OPENAI_BASE_URL") });
  const key = secret("openai_secret", "OpenAI key", "The key of the project that the batches belong to.", job.openai_secret_name, "openai", secrets, { trial: () => ({ openai_base_url: address.read() }) });
  const interval = intervalField(job, system);
  const trigger = triggerField(job, "success");
  const percent = numeric("max_failed_percent", "Failed requests allowed", "Percent of all requests; more of them make the job a failure.", job.max_failed_percent, { min: "0", max: "100", placeholder: "100" });
  return {
    fields: [name, batches, key, interval, trigger, percent, address], files: () => null,
    panels: [panel("What to wait for", h("div", { class: "fields" }, name.node, batches.node, key.node))],
    more: [panel("When", h("div", { class: "fields" }, h("div", { class: "side-by-side" }, interval.node, trigger.node), folded("More options", percent, address)))],
  };
}

function customFields(job, secrets, system, info, editing) {
  let runtime = job.script_runtime ?? "python", files = null;
  const name = nameField(job);
  const language = choice("script_runtime", "Language", "Python 3.11 or Node 20; what the script needs is installed from requirements.txt or package.json.", runtime, { python: "Python", node: "Node" });
  const where = choice("from", "Where the script comes from", "", !job.id ? "text" : job.script_source_type === "git" ? "git" : info?.metadata?.text || !editing ? "text" : "upload",
    { text: "Write it here", upload: "Upload files", git: "A git repository" });
  const area = editor(info?.metadata?.text ?? STARTERS[runtime], () => (language.read() === "python" ? "    " : "  "), {});
  const written = field("script", "Script", "It prints one line of JSON with a status: SUCCESS, FAILED, PENDING or ERROR. Tab indents; Escape, then Tab, leaves the editor.", area, () => area.value);
  const zone = dropZone("Drop a .tgz, a folder or files here", (found) => take(found));
  const chosen = h("p", { class: "quiet small", role: "status" }, editing ? "The stored script stays unless you choose another one." : "Without files the job waits for its script.");
  const upload = field("script_file", "Files", "At most 10 MB packed. The entry point must be among them.", h("div", { role: "group" }, zone, chosen), () => undefined, { group: true });
  const take = async (found) => {
    if (found.length === 1 && /\.(py|m?js)$/i.test(found[0].path)) { // one file: show it
      area.value = await found[0].file.text();
      where.input.value = "text";
      language.input.value = /py$/i.test(found[0].path) ? "python" : "node";
      adapt();
      return;
    }
    files = found;
    say(chosen, found.length === 1 ? `${found[0].path} is sent with the job.` : `${found.length} files are packed and sent with the job.`);
  };
  const url = text("script_git_url", "Repository", "Its https address; looked at before each check, fetched when it moved.", job.script_git_url, { placeholder: "https://github.com/you/checks.git", inputmode: "url" });
  const branch = text("script_git_branch", "Branch", "", job.script_git_branch, { placeholder: "main" });
  const folder = text("script_git_subfolder", "Folder in it", "", job.script_git_subfolder);
  const token = secret("script_git_secret", "Access token", "For a private repository.", job.script_git_secret_name, null, secrets);
  const git = h("div", { class: "fields" }, url.node, h("div", { class: "side-by-side" }, branch.node, folder.node), token.node);
  const entry = text("script_entrypoint", "Entry point", "The file that is run.", job.script_entrypoint, { placeholder: runtime === "python" ? "main.py" : "index.js" });
  const params = object("check_params", "Parameters", "A JSON object. {\"task_id\": \"42\"} arrives as the variable TASK_ID, and all of it as CHECK_PARAMS.", job.check_params, { placeholder: "{\"task_id\": \"42\"}" });
  const env = pairs("env_vars", "Environment", "Variables of the script. A value may be a secret: secret_ref: and its name.", job.env_vars, { secrets });
  const interval = intervalField(job, system, [10, 86400]);
  const trigger = triggerField(job, "terminal");
  const timeout = numeric("timeout_seconds", "Time limit", "Seconds for one run, 10 to 3600.", job.timeout_seconds, { placeholder: "300" });
  const memory = numeric("memory_mb", "Memory", "MB, 64 to 4096.", job.resource_limits?.memory_mb, { placeholder: "512" });
  const cores = numeric("cpu_cores", "Processor cores", "From 0.1.", job.resource_limits?.cpu_cores, { placeholder: "0.5" });
  const network = choice("network", "Network", "", job.network ?? "open", { open: "open: it may call services", none: "none: it reaches nothing" });
  const errors = numeric("max_consecutive_errors", "Give up after", "Errors in a row; blank: never.", job.max_consecutive_errors);
  const adapt = () => {
    const now = language.read(), source = where.read();
    if (area.value === STARTERS[runtime]) area.value = STARTERS[now];
    runtime = now;
    entry.input.placeholder = now === "python" ? "main.py" : "index.js";
    written.node.hidden = source !== "text";
    upload.node.hidden = source !== "upload";
    git.hidden = source !== "git";
  };
  language.input.addEventListener("change", adapt);
  where.input.addEventListener("change", adapt);
  adapt();
  const first = info?.metadata?.text ?? null;
  return {
    fields: [name, language, where, written, upload, url, branch, folder, token, entry, params, env, interval, trigger, timeout, memory, cores, network, errors],
    files: () => (where.read() === "upload" ? files : null),
    textChanged: () => area.value !== first,
    panels: [
      panel("What to wait for", h("div", { class: "fields" }, name.node, h("div", { class: "side-by-side" }, language.node, where.node), written.node, upload.node, git)),
      panel("What the script gets", h("div", { class: "fields" }, params.node, env.node)),
    ],
    more: [panel("When", h("div", { class: "fields" }, h("div", { class: "side-by-side" }, interval.node, trigger.node),
      folded("More options", entry, timeout, memory, cores, network, errors)))],
  };
}

/** Keboola and webhook, each behind a switch. */
function actionFields(job, secrets, keboolaFirst) {
  const address = text("keboola_stack_url", "Stack", "The address of your Keboola project.", job.keboola_stack_url ?? (keboolaFirst ? KEBOOLA_STACKS[0] : ""), { list: "stacks", inputmode: "url", placeholder: KEBOOLA_STACKS[0] });
  address.node.append(h("datalist", { id: "stacks" }, KEBOOLA_STACKS.map((value) => h("option", { value }))));
  const keboola = [
    address,
    secret("keboola_secret", "Storage token", "It must be allowed to run the configuration.", job.keboola_secret_name, "keboola", secrets, { trial: () => ({ keboola_stack_url: address.read() }) }),
    text("keboola_configuration_id", "Configuration", "The id of the flow, as in its address.", job.keboola_configuration_id, { placeholder: "123456" }),
  ];
  const keboolaMore = [
    text("keboola_component_id", "Component", "What the configuration belongs to.", job.keboola_component_id, { placeholder: "keboola.orchestrator" }),
    pairs("keboola_variables", "Variables", "Sent along with the ids and counts of the batches.", job.keboola_variables),
    flag("follow_up", "Follow the started job and tell how it ends", "", job.follow_up ?? true),
  ];
  const webhook = [
    text("webhook_url", "Address", "Called with the outcome as JSON.", job.webhook_url, { inputmode: "url", placeholder: "https://example.com/hook" }),
    choice("webhook_method", "Method", "", job.webhook_method ?? "POST", { POST: "POST", GET: "GET", PUT: "PUT", PATCH: "PATCH", DELETE: "DELETE" }),
  ];
  const webhookMore = [
    pairs("webhook_headers", "Headers", "A value may hold a secret: Bearer secret_ref:name.", job.webhook_headers, { secrets }),
    pairs("webhook_query_params", "Query", "Values may hold {job_id}, {job_name}, {status}, {message}, {data.path}, {timestamp} and {event_id}.", job.webhook_query_params),
    secret("webhook_signing_secret", "Signing secret", "Signs each call by Standard Webhooks.", job.webhook_signing_secret_name, "generic", secrets),
    numeric("webhook_timeout_seconds", "Time limit", "Seconds, 5 to 60.", job.webhook_timeout_seconds, { placeholder: "30" }),
  ];
  const switches = [
    optional("Start a Keboola job", Boolean(job.keboola_configuration_id) || keboolaFirst, keboola, keboolaMore),
    optional("Call a webhook", Boolean(job.webhook_url), webhook, webhookMore),
  ];
  return {
    fields: switches.flatMap((one) => one.fields), switches,
    panels: [panel("What to trigger", h("div", { class: "fields" }, switches.map((one) => one.node)))],
  };
}

function optional(label, on, fields, more) {
  const inside = h("div", { class: "fields inset" }, fields.map((one) => one.node), folded("More options", ...more));
  const made = flag(`switch_${fields[0].name}`, label, "", on);
  const show = () => { inside.hidden = !made.input.checked; };
  made.input.addEventListener("change", show);
  show();
  return { node: h("div", { class: "stack" }, made.node, inside), fields: [...fields, ...more], isOn: () => made.input.checked, main: fields.at(-1).name === "webhook_method" ? "webhook_url" : "keboola_configuration_id" };
}

const folded = (title, ...fields) => h("details", { class: "folded" }, h("summary", {}, title), h("div", { class: fields.length > 4 ? "side-by-side" : "fields" }, fields.map((one) => one.node)));
const nameField = (job) => text("name", "Name", "How you will find it again.", job.name, { required: true, maxlength: "255", placeholder: "Nightly summaries" });
const settingOf = (system, name) => system.settings.find((one) => one.name === name)?.value;
const copyOf = (name) => { const [, start, number] = /^(.*?)(?: copy(?: (\d+))?)?$/.exec(name); return `${start} copy${name === start ? "" : ` ${Number(number ?? 1) + 1}`}`; };

/** The bounds are the settings', or `own` where those are narrower. */
function intervalField(job, system, own = []) {
  const low = Math.min(settingOf(system, "MIN_POLL_INTERVAL"), ...own.slice(0, 1));
  const high = Math.max(settingOf(system, "MAX_POLL_INTERVAL"), ...own.slice(1));
  return numeric("poll_interval_seconds", "Check every (seconds)", `From ${low} to ${high}.`, job.poll_interval_seconds, { placeholder: String(settingOf(system, "DEFAULT_POLL_INTERVAL") ?? 120) });
}

const triggerField = (job, otherwise) => choice("trigger_on", "Trigger on", "What counts as an end worth telling.", job.trigger_on ?? otherwise, { success: "success only", terminal: "any end, good or bad" });

const valuesOf = (fields) => Object.fromEntries(fields.map((one) => [one.name, one.read()]));

/** The document for the API: of a change, only what changed; null takes a value away. */
function bodyOf(given, made, actions, original) {
  const body = {};
  const keep = new Map(Object.entries(given));
  const off = actions.switches.filter((one) => !one.isOn());
  for (const one of off.flatMap((part) => part.fields)) keep.delete(one.name);
  const source = keep.get("from");
  for (const name of ["from", "script_file"]) keep.delete(name);
  if (source) {
    if (source === "git") keep.set("script_source_type", "git");
    else {
      keep.set("script_source_type", "upload");
      for (const name of ["script_git_url", "script_git_branch", "script_git_subfolder", "script_git_secret"]) keep.delete(name);
    }
    if (source !== "text" || (original && !made.textChanged())) keep.delete("script");
    const limits = { memory_mb: keep.get("memory_mb"), cpu_cores: keep.get("cpu_cores") };
    keep.delete("memory_mb");
    keep.delete("cpu_cores");
    if (limits.memory_mb !== undefined || limits.cpu_cores !== undefined) keep.set("resource_limits", JSON.parse(JSON.stringify(limits)));
  }
  for (const [name, value] of keep) {
    if (!original) { if (value !== undefined) body[name] = value; }
    else if (name === "script") body.script = value;
    else if (name === "script_source_type") { if (sourceType(original.from) !== value) body[name] = value; }
    else if (name === "resource_limits") { if (original.memory_mb !== given.memory_mb || original.cpu_cores !== given.cpu_cores) body[name] = value; }
    else if (JSON.stringify(value) !== JSON.stringify(original[name])) body[name] = value ?? null;
  }
  if (original) for (const one of off) if (original[one.main] !== undefined) body[one.main] = null;
  return body;
}

const sourceType = (from) => (from === "git" ? "git" : "upload");

async function created(base, body, made) {
  const files = made.files();
  if (!files) return post(base, body);
  const sent = new FormData();
  sent.append("config", JSON.stringify(body));
  sent.append("script", await archiveOf(files), nameFor(files));
  return call("POST", base, sent);
}

async function changed(before, body, made) {
  const job = Object.keys(body).length ? await put(pathOf(before), body) : before;
  const files = made.files();
  if (!files) return job;
  const sent = new FormData();
  sent.append("file", await archiveOf(files), nameFor(files));
  await call("POST", `${pathOf(before)}/script/upload`, sent);
  return get(pathOf(before));
}

const nameFor = (files) => (files.length === 1 && isArchive(files[0].path) ? files[0].path.split("/").pop() : "script.tgz");

/** Of a job that has ended, only its name and what it triggers can be changed. */
function lock(node, fields, said) {
  for (const one of fields) if (!ACTION_FIELDS.has(one.name)) for (const input of [one.input, ...one.input.querySelectorAll("input, button")]) input.disabled = true;
  node.insertBefore(h("p", { class: "why" }, "Its checks have ended: only the name and what it triggers can be changed. Redeliver afterwards."), node.querySelector("form"));
  fill(said);
}
