// Secrets: who uses them, whether they work, a new value, and away with them.

import { put, remove } from "./api.js";
import { button, fill, h, iconButton } from "./dom.js";
import { addSecret, allSecrets, formOf, replaceSecret, SECRET_TYPES, testSecret, text } from "./fields.js";
import { moving, plural } from "./format.js";
import { confirmed, dialog, during, empty, toast } from "./widgets.js";

export async function secrets() {
  const box = h("div", {});
  const load = async () => show(await allSecrets());
  const show = (all) => fill(box, all.length ? list(all, load) : nothing(add));
  const add = async () => { const made = await addSecret("openai", { choose: true }); if (made) { toast(`Added: ${made.name}`); await load(); } };
  await load();
  const node = h("div", { class: "stack" },
    h("header", { class: "head" }, h("h1", {}, "Secrets"), h("div", { class: "end" }, button("New secret", add, { kind: "primary", symbol: "plus" }))),
    h("p", { class: "quiet" }, "Keys and tokens, encrypted. Their values are never shown again, not even here."), box);
  return { title: "Secrets", node };
}

const nothing = (add) => empty("No secrets yet", "A job needs the key of the service that it asks, and of the one that it triggers.", button("New secret", add, { kind: "primary", symbol: "plus" }));

function list(all, load) {
  return h("ul", { class: "panel secret-list", "aria-label": "Secrets" }, all.map((one) => line(one, load)));
}

function line(one, load) {
  const replace = async () => {
    const made = await replaceSecret(one, (values) => put(`/api/admin/secrets/${one.id}`, values));
    if (made) { toast(`Replaced: ${one.name}`); await load(); }
  };
  const away = async (event) => {
    const pressed = event.currentTarget;
    if (!(await confirmed(`Delete ${one.name}?`, "Its value is gone for good. Jobs that have ended keep their log.", "Delete"))) return;
    if (await during(pressed, async () => (await remove(`/api/admin/secrets/${one.id}`), true), `Deleted: ${one.name}`)) await load();
  };
  return h("li", {},
    h("div", {}, h("h2", {}, one.name), h("div", { class: "quiet small" }, SECRET_TYPES[one.type])),
    h("div", {}, h("span", { class: "quiet small" }, "Used by "), users(one)),
    h("div", { class: "quiet small" }, h("div", {}, "last used ", moving(one.last_used_at)), h("div", {}, "changed ", moving(one.updated_at))),
    h("div", { class: "row end" },
      one.type !== "generic" && button("Test", (event) => tried(event.currentTarget, one), { "aria-label": `Test ${one.name}` }),
      button("Replace", replace, { "aria-label": `Replace the value of ${one.name}` }),
      iconButton("trash", `Delete ${one.name}`, away)));
}

/** A Keboola token can be tried only at its stack, which its jobs tell. */
async function tried(pressed, one) {
  if (one.type !== "keboola" || one.used_by.length) return testSecret(pressed, one.name);
  return dialog(`Test ${one.name}`, (close) => {
    const stack = text("keboola_stack_url", "Stack", "Where this token belongs; no job says so yet.", "https://connection.keboola.com", { autofocus: true, inputmode: "url" });
    return formOf([stack], "Test", async (values) => { await testSecret(pressed, one.name, values); close(true); }, () => close(null));
  });
}

function users(one) {
  const jobs = one.used_by.filter((use) => use.kind !== "delivery");
  if (!one.used_by.length) return h("span", { class: "quiet" }, "nobody");
  const links = jobs.slice(0, 3).map((use) => h("a", { href: `#/${use.kind === "custom_check" ? "checks" : "jobs"}/${use.id}`, class: "user" }, use.name));
  const more = one.used_by.length - links.length;
  return [...links, more > 0 && h("span", { class: "quiet" }, `${plural(more, "other")}`)].filter(Boolean);
}
