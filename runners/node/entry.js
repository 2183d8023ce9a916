// Runs one script: the only thing that a runner container ever starts.
//
// Standard input is one line of JSON, then `length` bytes of tar, and no more is read:
//     {"nonce": "...", "argv": ["..."], "environment": {"...": "..."}, "length": 10240}
// The tar goes to /work/script, `argv` is started there with that environment added to ours, and
// its exit code is ours. The last line on standard error is the nonce and a JSON object:
//     {"exit_code": 0, "script_ms": 12, "peak_memory_bytes": 1, "oom_kills": 0, "error": null}
// The same program as the Python image's entry.py; keep the two alike.
'use strict';

const fs = require('fs');
const path = require('path');

const WORK = '/work/script';
const MAX_LINE_BYTES = 2 * 1024 * 1024;
const MAX_TAR_BYTES = 512 * 1024 * 1024; // the folder's own limit is reached long before
const BLOCK = 512;
const CHUNK = 64 * 1024;
const OOM_COUNTERS = ['/sys/fs/cgroup/memory.events', '/sys/fs/cgroup/memory/memory.oom_control'];
const PEAKS = ['/sys/fs/cgroup/memory.peak', '/sys/fs/cgroup/memory/memory.max_usage_in_bytes'];
const NOT_STARTED = 125;

class Refused extends Error {}

// Standard input, of which exactly what is asked for is read.
class Input {
  buffer = Buffer.alloc(0);

  line() {
    while (!this.buffer.includes(10)) {
      if (this.buffer.length > MAX_LINE_BYTES) throw new Refused('the request is too long');
      this.buffer = Buffer.concat([this.buffer, this.more(CHUNK)]);
    }
    const end = this.buffer.indexOf(10);
    const line = this.buffer.subarray(0, end);
    this.buffer = this.buffer.subarray(end + 1);
    return line;
  }

  more(size) {
    const data = Buffer.alloc(size);
    const read = retried(() => fs.readSync(0, data, 0, size, null));
    if (!read) throw new Refused('the request ended early');
    return data.subarray(0, read);
  }

  // At least one byte, at most `size`.
  take(size) {
    if (!this.buffer.length) return this.more(Math.min(size, CHUNK));
    const data = this.buffer.subarray(0, size);
    this.buffer = this.buffer.subarray(data.length);
    return data;
  }

  exactly(size) {
    const parts = [];
    while (size) {
      parts.push(this.take(size));
      size -= parts.at(-1).length;
    }
    return Buffer.concat(parts);
  }
}

// A descriptor that someone made non-blocking answers "not now" instead of waiting.
function retried(call) {
  for (;;) {
    try {
      return call();
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
}

// The tar's folders and files below the working directory; anything else is refused.
function unpack(source, length) {
  if (!(length >= 0 && length <= MAX_TAR_BYTES)) throw new Refused('the archive is too large');
  let longName = null;
  while (length >= BLOCK) {
    const header = source.exactly(BLOCK);
    length -= BLOCK;
    if (header.every((byte) => byte === 0)) break;
    const size = octal(header, 124, 136);
    const padding = (BLOCK - (size % BLOCK)) % BLOCK;
    length -= size + padding;
    if (length < 0) throw new Refused('the archive is cut off');
    const kind = String.fromCharCode(header[156]);
    if (kind === 'x' || kind === 'L') {
      longName = nameIn(kind, source.exactly(size));
    } else if (kind === '0' || kind === '\0' || kind === '5') {
      const name = checked(longName || shortName(header));
      longName = null;
      if (kind === '5') {
        fs.mkdirSync(name, { recursive: true });
        source.exactly(size);
      } else {
        write(name, header, source, size);
      }
    } else {
      throw new Refused('the archive holds something that is neither file nor folder');
    }
    source.exactly(padding);
  }
  source.exactly(length);
}

function text(header, start, end) {
  const field = header.subarray(start, end);
  const stop = field.indexOf(0);
  return field.subarray(0, stop < 0 ? field.length : stop).toString();
}

function octal(header, start, end) {
  const digits = text(header, start, end).trim();
  if (!/^[0-7]*$/.test(digits)) throw new Refused('the archive holds an odd number');
  return parseInt(digits || '0', 8);
}

function shortName(header) {
  const prefix = text(header, 257, 262) === 'ustar' ? text(header, 345, 500) : '';
  return prefix ? `${prefix}/${text(header, 0, 100)}` : text(header, 0, 100);
}

// The long name that the next entry has: GNU's `L`, or the path in a pax header.
function nameIn(kind, data) {
  if (kind === 'L') return data.toString().replace(/\0+$/, '');
  let name = '';
  while (data.length) {
    const size = parseInt(data.toString('latin1', 0, data.indexOf(32)), 10);
    if (!(size > 0)) throw new Refused('the archive holds an odd header');
    const record = data.subarray(data.indexOf(32) + 1, size - 1).toString();
    if (record.startsWith('path=')) name = record.slice('path='.length);
    data = data.subarray(size);
  }
  return name;
}

function checked(name) {
  const parts = name.replace(/\/+$/, '').split('/');
  if (name.startsWith('/') || name.includes('\0') || parts.includes('..') || parts.includes('')) {
    throw new Refused('the archive holds a path that leads outside');
  }
  return parts.join('/');
}

function write(name, header, source, size) {
  fs.mkdirSync(path.dirname(name), { recursive: true });
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = fs.constants;
  const mode = octal(header, 100, 107) & 0o100 ? 0o755 : 0o644;
  const file = fs.openSync(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  while (size) {
    const data = source.take(size);
    size -= data.length;
    for (let sent = 0; sent < data.length; ) sent += fs.writeSync(file, data, sent);
  }
  fs.closeSync(file);
}

// Calls back with the exit code, 128 + n when signal n ended it, or with an error.
function run(argv, environment, done) {
  const { spawn } = require('child_process');
  const { signals } = require('os').constants;
  const env = { ...process.env, ...environment };
  const script = spawn(argv[0], argv.slice(1), { env, stdio: ['ignore', 'inherit', 'inherit'] });
  script.on('error', (error) => done(NOT_STARTED, error.message));
  script.on('exit', (code, signal) => done(signal ? 128 + signals[signal] : code, null));
}

// The first number that one of the files has, on the line that begins with `name`.
function numberIn(paths, name) {
  for (const file of paths) {
    try {
      const lines = fs.readFileSync(file, 'utf8').split('\n');
      const line = lines.find((one) => !name || one.startsWith(`${name} `));
      if (line) return Number(line.split(' ').at(-1));
    } catch (error) {
      if (error.code !== 'ENOENT') return null;
    }
  }
  return null;
}

function say(nonce, exitCode, scriptMs, error) {
  const report = {
    exit_code: exitCode,
    script_ms: Math.round(scriptMs),
    peak_memory_bytes: numberIn(PEAKS),
    oom_kills: numberIn(OOM_COUNTERS, 'oom_kill'),
    error: error === null ? null : error.slice(0, 500),
  };
  const line = Buffer.from(`\n${nonce} ${JSON.stringify(report)}\n`);
  for (let sent = 0; sent < line.length; ) {
    sent += retried(() => fs.writeSync(2, line, sent));
  }
}

function main() {
  const source = new Input();
  const request = JSON.parse(source.line());
  let begun = performance.now();
  const done = (exitCode, error) => {
    say(request.nonce, exitCode, performance.now() - begun, error);
    process.reallyExit(exitCode);
  };
  try {
    fs.mkdirSync(WORK, { recursive: true });
    process.chdir(WORK);
    unpack(source, request.length);
    begun = performance.now();
    run(request.argv, request.environment, done);
  } catch (error) {
    done(NOT_STARTED, error.message);
  }
}

main();
