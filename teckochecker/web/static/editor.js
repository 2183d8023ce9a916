// An editor for short scripts: a plain text area that knows about indents.

import { h } from "./dom.js";

export const STARTERS = {
  python: `import json
import os

# A parameter {"task_id": "42"} arrives as TASK_ID; the last finding's data as PREVIOUS_DATA.
task = os.environ.get("TASK_ID", "none")
looks = int(os.environ["CHECK_NUMBER"])

done = looks >= 3  # ask your service here instead

print(json.dumps({
    "status": "SUCCESS" if done else "PENDING",  # or FAILED, ERROR
    "message": f"Task {task}: look number {looks}",
    "data": {"completed": min(looks, 3), "total": 3},
}))
`,
  node: `// A parameter {"task_id": "42"} arrives as TASK_ID; the last finding's data as PREVIOUS_DATA.
const task = process.env.TASK_ID ?? "none";
const looks = Number(process.env.CHECK_NUMBER);

const done = looks >= 3; // ask your service here instead

console.log(JSON.stringify({
  status: done ? "SUCCESS" : "PENDING", // or FAILED, ERROR
  message: \`Task \${task}: look number \${looks}\`,
  data: { completed: Math.min(looks, 3), total: 3 },
}));
`,
};

/** Tab indents, Shift+Tab takes it back, Enter keeps it; Escape, then Tab, leaves. */
export function editor(text, indent, attributes) {
  let leaving = false;
  const area = h("textarea", { class: "editor", spellcheck: "false", autocapitalize: "off", autocomplete: "off", wrap: "off", rows: "18", ...attributes });
  area.value = text;
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { leaving = true; return; }
    if (event.key === "Tab" && !leaving) {
      event.preventDefault();
      if (event.shiftKey) outdent(area, indent());
      else if (area.selectionStart !== area.selectionEnd) reindent(area, (line) => (line ? indent() + line : line));
      else insert(area, indent());
    } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      const line = area.value.slice(area.value.lastIndexOf("\n", area.selectionStart - 1) + 1, area.selectionStart);
      const deeper = /[:{[(]\s*$/.test(line) ? indent() : "";
      insert(area, `\n${/^[ \t]*/.exec(line)[0]}${deeper}`);
    }
    if (event.key !== "Shift") leaving = false;
  });
  return area;
}

/** As if it was typed, so that undo works. */
function insert(area, text) {
  if (!document.execCommand("insertText", false, text)) area.setRangeText(text, area.selectionStart, area.selectionEnd, "end");
  area.dispatchEvent(new Event("input"));
}

function outdent(area, indent) {
  reindent(area, (line) => (line.startsWith(indent) ? line.slice(indent.length) : line.replace(/^[ \t]+/, "")));
}

/** Change every line that the selection touches, and select them again. */
function reindent(area, change) {
  const start = area.value.lastIndexOf("\n", area.selectionStart - 1) + 1;
  const next = area.value.indexOf("\n", Math.max(area.selectionStart, area.selectionEnd - 1));
  const end = next < 0 ? area.value.length : next;
  const changed = area.value.slice(start, end).split("\n").map(change).join("\n");
  area.setSelectionRange(start, end);
  insert(area, changed);
  area.setSelectionRange(start, start + changed.length);
}
