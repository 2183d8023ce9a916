// Shows /openapi.json to people: paths by tag, with parameters, body fields and answers.

const main = document.getElementById("paths");

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function typeOf(schema, all) {
  if (!schema) return "";
  if (schema.$ref) return typeOf(all[schema.$ref.split("/").pop()], all);
  if (schema.anyOf) return schema.anyOf.map((one) => typeOf(one, all)).join(" | ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.type === "array") return `list of ${typeOf(schema.items, all)}`;
  const bounds = ["minimum", "maximum", "minLength", "maxLength", "pattern"]
    .filter((key) => key in schema)
    .map((key) => `${key} ${schema[key]}`)
    .join(", ");
  return `${schema.title ?? schema.type ?? "any"}${bounds ? ` (${bounds})` : ""}`;
}

function fields(schema, all) {
  const found = schema.$ref ? all[schema.$ref.split("/").pop()] : schema;
  const rows = Object.entries(found.properties ?? {}).map(([name, one]) =>
    element(
      "tr", "",
      element("td", "", element("code", name)),
      element("td", typeOf(one, all)),
      element("td", (found.required ?? []).includes(name) ? "required" : ""),
    ),
  );
  return element("table", "", element("tbody", "", ...rows));
}

function operation(method, path, one, all) {
  const made = element("details");
  made.append(
    element(
      "summary", "",
      element("b", method.toUpperCase()), element("code", path), ` ${one.summary ?? ""}`,
    ),
  );
  for (const parameter of one.parameters ?? []) {
    const text = `${parameter.in}: ${typeOf(parameter.schema, all)}`;
    made.append(element("p", "", element("code", parameter.name), ` ${text}`));
  }
  const body = one.requestBody?.content?.["application/json"]?.schema;
  if (body) made.append(element("h3", "Body"), fields(body, all));
  for (const [status, answer] of Object.entries(one.responses ?? {})) {
    const schema = answer.content?.["application/json"]?.schema;
    made.append(element("h3", `Answer ${status}`));
    if (schema) made.append(fields(schema, all));
  }
  return made;
}

async function show() {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error(`/openapi.json answered ${answer.status}`);
  const api = await answer.json();
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, one] of Object.entries(methods)) {
      const name = one.tags?.[0] ?? "Other";
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(operation(method, path, one, api.components.schemas));
    }
  }
  main.replaceChildren(
    ...[...groups].map(([name, all]) => element("section", "", element("h2", name), ...all)),
  );
}

show().catch((error) => main.replaceChildren(element("p", `${error.message}: sign in first.`)));
