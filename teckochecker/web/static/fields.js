// The parts of a form: each knows its value, its help, and the fault that the API found in it.

import { get, post, Problem } from "./api.js";
import { button, fill, h, iconButton, newId, say } from "./dom.js";
import { dialog, during, toast } from "./widgets.js";

export const SECRET_TYPES = { openai: "OpenAI key", keboola: "Keboola token", generic: "Other secret" };

/** A labelled field; `read()` gives its value, undefined where it is blank. */
export function field(name, label, help, input, read, { extra, group } = {}) {
  const id = input.id || (input.id = newId(name)), helpId = `${id}-help`, errorId = `${id}-error`;
  const error = h("p", { class: "field-error", id: errorId });
  const helpLine = help && h("p", { class: "help", id: helpId }, help);
  input.setAttribute("aria-describedby", [helpLine && helpId, errorId].filter(Boolean).join(" "));
  if (group) input.setAttribute("aria-labelledby", `${id}-label`);
  const title = group ? h("span", { class: "label", id: `${id}-label` }, label) : h("label", { for: id }, label);
  const node = h("div", { class: "field", "data-field": name }, title, extra ? h("div", { class: "with-extra" }, input, extra) : input, helpLine, error);
  const fault = (message) => {
    say(error, message);
    if (message) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  };
  if (group) input.removeAttribute("aria-invalid");
  input.addEventListener("input", () => fault(""));
  return { name, node, input, read, fault, focus: () => (group ? input.querySelector("input, button, textarea") ?? input : input).focus() };
}

const trimmed = (input) => input.value.trim() || undefined;

export function text(name, label, help, value, more = {}) {
  const input = h("input", { type: "text", value: value ?? "", autocomplete: "off", spellcheck: "false", ...more });
  return field(name, label, help, input, () => trimmed(input));
}

export function numeric(name, label, help, value, more = {}) {
  const input = h("input", { type: "number", value: value ?? "", step: "any", ...more });
  return field(name, label, help, input, () => (input.value === "" ? undefined : Number(input.value)));
}

export function lines(name, label, help, value, more = {}) {
  const input = h("textarea", { rows: "3", spellcheck: "false", class: "mono", ...more });
  input.value = (value ?? []).join("\n");
  return field(name, label, help, input, () => {
    const found = input.value.split(/[\s,]+/).filter(Boolean);
    return found.length ? found : undefined;
  });
}

export function choice(name, label, help, value, options) {
  const input = h("select", {}, Object.entries(options).map(([key, word]) => h("option", { value: key, selected: key === value }, word)));
  return field(name, label, help, input, () => input.value);
}

export function flag(name, label, help, value) {
  const input = h("input", { type: "checkbox", id: newId(name) });
  input.checked = value;
  const made = field(name, label, help, input, () => input.checked);
  made.node.classList.add("flag");
  return made;
}

/** JSON that a person writes; what can't be read is told before anything is sent. */
export function object(name, label, help, value, more = {}) {
  const input = h("textarea", { rows: "4", spellcheck: "false", class: "mono", ...more });
  input.value = value && Object.keys(value).length ? JSON.stringify(value, null, 2) : "";
  return field(name, label, help, input, () => {
    if (!input.value.trim()) return undefined;
    try {
      return JSON.parse(input.value);
    } catch (error) {
      throw new Problem(400, { detail: `${label}: not valid JSON`, errors: [{ field: name, message: `isn't valid JSON: ${error.message}` }] });
    }
  });
}

/** Names and values, one pair a row; values may mention secrets. */
export function pairs(name, label, help, value, { nameWord = "Name", valueWord = "Value", secrets = [] } = {}) {
  const box = h("div", { class: "pairs", role: "group" }), listId = newId("mentions");
  const mentions = h("datalist", { id: listId }, secrets.map((one) => h("option", { value: `secret_ref:${one.name}` })));
  const add = (key = "", text_ = "") => {
    const row = h("div", { class: "pair" },
      h("input", { type: "text", value: key, placeholder: nameWord, "aria-label": `${label}: ${nameWord}`, spellcheck: "false", autocomplete: "off" }),
      h("input", { type: "text", value: text_, placeholder: valueWord, "aria-label": `${label}: ${valueWord}`, spellcheck: "false", autocomplete: "off", list: secrets.length ? listId : undefined }),
      iconButton("close", "Remove this row", () => { row.remove(); more.focus(); }));
    box.insertBefore(row, more);
    return row;
  };
  const more = button("Add", () => add().querySelector("input").focus(), { kind: "small-button", symbol: "plus", "aria-label": `Add to: ${label}` });
  box.append(mentions, more);
  for (const [key, text_] of Object.entries(value ?? {})) add(key, typeof text_ === "string" ? text_ : JSON.stringify(text_));
  return field(name, label, help, box, () => {
    const found = [...box.querySelectorAll(".pair")].map((row) => [...row.querySelectorAll("input")].map((input) => input.value)).filter(([key]) => key.trim());
    return found.length ? Object.fromEntries(found.map(([key, text_]) => [key.trim(), text_])) : undefined;
  }, { group: true });
}

/** A secret by name, with a way to add one on the spot and, where its type has one, a test. */
export function secret(name, label, help, value, type, secrets, { trial } = {}) {
  const input = h("select", {});
  const show = (chosen) => fill(input, h("option", { value: "" }, type === "generic" ? "none" : "choose …"),
    secrets.filter((one) => one.type === type || type === null).map((one) => h("option", { value: one.name, selected: one.name === chosen }, one.name)));
  show(value);
  const addNew = button("New", async () => {
    const made = await addSecret(type ?? "generic");
    if (!made) return;
    secrets.push(made);
    show(made.name);
    input.dispatchEvent(new Event("input"));
  }, { symbol: "plus", "aria-label": `New: ${label}` });
  const test = trial && button("Test", async (event) => {
    if (!input.value) return made.fault("choose one first");
    await testSecret(event.currentTarget, input.value, trial());
    return undefined;
  }, { "aria-label": `Test: ${label}` });
  const made = field(name, label, help, input, () => input.value || undefined, { extra: h("div", { class: "row" }, addNew, test) });
  return made;
}

export async function testSecret(pressed, name, where = {}) {
  const given = Object.fromEntries(Object.entries(where).filter(([, value]) => value));
  const found = await during(pressed, () => post(`/api/admin/secrets/${encodeURIComponent(name)}/test`, given));
  if (found) toast(found.message, found.valid ? "good" : "bad");
}

/** Ask for a new secret; what was made, or null. */
export const addSecret = (type, { choose = false } = {}) =>
  dialog("New secret", (close) => {
    const name = text("name", "Name", "Jobs refer to it by this name: letters, digits, _ . -", "", { required: true, autofocus: true });
    const kind = choice("type", "Type", "", type, SECRET_TYPES);
    const value = field("value", "Value", "It is encrypted, and never shown again.", h("textarea", { rows: "2", class: "mono masked", autocomplete: "off", spellcheck: "false", required: true }), () => value.input.value.replace(/\n$/, "") || undefined);
    kind.node.hidden = !choose;
    return formOf([name, kind, value], "Add the secret", async (values) => close(await post("/api/admin/secrets", values)), () => close(null));
  });

export const replaceSecret = (one, send) =>
  dialog(`New value of ${one.name}`, (close) => {
    const value = field("value", "Value", "Jobs use it from their next check on.", h("textarea", { rows: "2", class: "mono masked", autocomplete: "off", spellcheck: "false", autofocus: true, required: true }), () => value.input.value.replace(/\n$/, "") || undefined);
    return formOf([value], "Replace", async (values) => close(await send(values)), () => close(null));
  });

/** A small form of fields, which shows what the API says beside each. */
export function formOf(fields, submitWord, send, cancel) {
  const said = h("p", { class: "field-error", role: "alert" });
  const submit = h("button", { class: "button primary", type: "submit" }, submitWord);
  const run = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    say(said, "");
    try {
      await send(Object.fromEntries(fields.map((one) => [one.name, one.read()])));
    } catch (problem) {
      tell(problem, fields, said);
    } finally {
      submit.disabled = false;
    }
  };
  return h("form", { class: "stack", novalidate: true, on: { submit: run } }, fields.map((one) => one.node), said,
    h("div", { class: "row end" }, button("Cancel", cancel), submit));
}

/** Put each fault beside its field, what belongs to none into `box`; the first one gets the focus. */
export function tell(problem, fields, box, otherNames = {}) {
  if (!(problem instanceof Problem)) throw problem;
  const byName = new Map(fields.map((one) => [one.name, one])), rest = [];
  let first = null;
  for (const one of fields) one.fault("");
  const faults = problem.errors.length ? problem.errors : problem.code === 1003 ? [{ field: "name", message: problem.message }] : [];
  for (const { field: name, message } of faults) {
    const found = byName.get(name) ?? byName.get(otherNames[name]) ?? byName.get(name.replace(/_id$/, ""));
    if (!found || found.node.closest("[hidden]")) rest.push(`${name} ${message}`);
    else {
      const folded = found.node.closest("details");
      if (folded) folded.open = true;
      found.fault(message);
      first ??= found;
    }
  }
  say(box, faults.length ? rest.join("; ") || "Look at the marked fields." : problem.message);
  if (first) first.focus();
  else box.scrollIntoView?.({ block: "center" });
}

export const allSecrets = async () => (await get("/api/admin/secrets")).secrets;
