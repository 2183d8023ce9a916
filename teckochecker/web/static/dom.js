// Makes elements. Text always becomes a text node: what scripts print can't become markup.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  overview: "M2.5 2.5h4.5v4.5H2.5zM9 2.5h4.5v4.5H9zM2.5 9h4.5v4.5H2.5zM9 9h4.5v4.5H9z",
  jobs: "M5.5 4h8M5.5 8h8M5.5 12h8M2.5 4h.01M2.5 8h.01M2.5 12h.01",
  secrets: "M8.3 10.7a2.9 2.9 0 1 1-5.8 0 2.9 2.9 0 0 1 5.8 0zM7.6 8.6 13.5 2.7M10.8 5.4l2 2",
  system: "M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.01M5 11h.01",
  plus: "M8 3v10M3 8h10",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  play: "M5 3.2v9.6L12.5 8z",
  again: "M13 8a5 5 0 1 1-1.6-3.7M13 2.5v3h-3",
  edit: "M3 13l.6-2.8L11 2.8l2.2 2.2-7.4 7.4zM9.5 4.3l2.2 2.2",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  trash: "M3 4.5h10M6.5 4.5v-2h3v2M4.5 4.5l.6 9h5.8l.6-9",
  send: "M14 2 2 7l4.5 2.2L9 14zM6.5 9.2 14 2",
  search: "M7 12A5 5 0 1 0 7 2a5 5 0 0 0 0 10zM10.7 10.7 14 14",
  close: "M4 4l8 8M12 4l-8 8",
  check: "M3 8.5l3.2 3.2L13 5",
  alert: "M8 2.2 14.5 13.5h-13zM8 6.5v3M8 11.5h.01",
  clock: "M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 5v3.2l2 1.3",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  out: "M6 2.5H2.5v11H6M10 5l3 3-3 3M13 8H6",
  upload: "M8 10.5V3M4.8 6 8 2.8 11.2 6M2.5 10.5v3h11v-3",
  code: "M5.5 4.5 2 8l3.5 3.5M10.5 4.5 14 8l-3.5 3.5",
  link: "M6.5 3.5h-4v10h10v-4M9 2.5h4.5V7M13.5 2.5l-6 6",
  back: "M9.5 3.5 5 8l4.5 4.5",
  down: "M4 6l4 4 4-4",
};

export function h(name, props, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "on") for (const [type, run] of Object.entries(value)) made.addEventListener(type, run);
    else if (key === "class") made.className = value;
    else if (key === "value") made.value = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...kept(children));
  return made;
}

export function svg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...kept(children));
  return made;
}

/** A decoration: what it means is said in words beside it, or by the label of its button. */
export function icon(name) {
  const box = { viewBox: "0 0 16 16", class: `icon icon-${name}`, "aria-hidden": "true" };
  return svg("svg", box, svg("path", { d: ICONS[name] }));
}

export function fill(parent, ...children) {
  parent.replaceChildren(...kept(children));
  return parent;
}

/** Set a text only when it changed, so that selections and screen readers aren't disturbed. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function button(label, run, { kind = "", symbol, title, ...more } = {}) {
  const made = h("button", { type: "button", class: `button ${kind}`, title, ...more });
  if (symbol) made.append(icon(symbol));
  if (label) made.append(h("span", {}, label));
  made.addEventListener("click", run);
  return made;
}

/** A button whose label is seen by screen readers and as a hint only. */
export function iconButton(symbol, label, run, more = {}) {
  return button("", run, { kind: "quiet square", symbol, title: label, "aria-label": label, ...more });
}

let numbers = 0;
export const newId = (start) => `${start}-${(numbers += 1)}`;

function kept(children) {
  return children.flat(2).filter((one) => one !== null && one !== undefined && one !== false && one !== "");
}
