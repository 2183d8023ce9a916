// Scripts from this machine: dropped or chosen, and packed here where they aren't an archive yet.

import { h, icon, newId } from "./dom.js";

const BLOCK = 512;
export const isArchive = (name) => /\.(tgz|tar\.gz)$/i.test(name);

/** A place to drop files or a folder on; `take(files, zone)` gets [{path, file}]. */
export function dropZone(label, take, { describedBy } = {}) {
  const id = newId("files");
  const input = h("input", { type: "file", id, multiple: true, class: "unseen", "aria-describedby": describedBy });
  const words = h("span", {}, `${label}, or `, h("span", { class: "as-link" }, "choose files"));
  const zone = h("label", { class: "drop", for: id }, icon("upload"), words, input);
  const takeAll = async (files) => { if (files.length) await take(files, zone); };
  input.addEventListener("change", async () => {
    await takeAll([...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
    input.value = "";
  });
  for (const type of ["dragenter", "dragover"]) zone.addEventListener(type, (event) => { event.preventDefault(); zone.classList.add("over"); });
  for (const type of ["dragleave", "drop"]) zone.addEventListener(type, () => zone.classList.remove("over"));
  zone.addEventListener("drop", async (event) => {
    event.preventDefault();
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const found = entries.length ? (await Promise.all(entries.map(filesIn))).flat() : [...event.dataTransfer.files].map((file) => ({ path: file.name, file }));
    await takeAll(found);
  });
  zone.say = (text) => { words.textContent = text; };
  return zone;
}

/** One .tgz: the one that was given, or the files packed into one. */
export async function archiveOf(files) {
  if (files.length === 1 && isArchive(files[0].path)) return files[0].file;
  const parts = [];
  for (const { path, file } of files) {
    parts.push(header(path, file.size), file, new Uint8Array((BLOCK - (file.size % BLOCK)) % BLOCK));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  const packed = new Blob(parts).stream().pipeThrough(new CompressionStream("gzip"));
  return new Blob([await new Response(packed).arrayBuffer()], { type: "application/gzip" });
}

/** A tar header (POSIX ustar): the path may have 100 bytes, and 155 before its last parts. */
function header(path, size) {
  const block = new Uint8Array(BLOCK), encoder = new TextEncoder();
  const write = (text, at) => block.set(encoder.encode(text), at);
  const octal = (value, width) => `${value.toString(8).padStart(width - 1, "0")}\0`;
  let prefix = "", name = path;
  while (encoder.encode(name).length > 100 && name.includes("/")) {
    const cut = name.indexOf("/");
    prefix += (prefix && "/") + name.slice(0, cut);
    name = name.slice(cut + 1);
  }
  write(name, 0);
  write(octal(0o644, 8), 100);
  write(octal(0, 8), 108);
  write(octal(0, 8), 116);
  write(octal(size, 12), 124);
  write(octal(0, 12), 136);
  write("        0", 148);
  write("ustar\x0000", 257);
  write(prefix, 345);
  write(`${block.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

async function filesIn(entry) {
  const path = entry.fullPath.replace(/^\//, "");
  if (entry.isFile) return [{ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) }];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    for (const one of some) found.push(...(await filesIn(one)));
  }
}
