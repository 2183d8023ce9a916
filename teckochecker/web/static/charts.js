// Charts as SVG: how long checks took, and how far the work has come.

import { h, svg } from "./dom.js";
import { roughly, secondsLeft, VERDICT_WORDS } from "./explain.js";
import { local, milliseconds, number, plural } from "./format.js";
import { hideTip, showTip } from "./widgets.js";

const WIDTH = 640, HEIGHT = 132, LEFT = 52, RIGHT = 8, TOP = 10, BOTTOM = 22;
const INNER = WIDTH - LEFT - RIGHT, FLOOR = HEIGHT - BOTTOM;

/** Bars, one for each check, oldest left; an error is hollow, a failure is split. */
export function durations(checks) {
  const shown = checks.slice(-80), longest = niceMs(Math.max(...shown.map((one) => one.execution_time_ms), 1));
  const step = INNER / Math.max(shown.length, 24), width = Math.max(2, Math.min(14, step - 2));
  const bars = shown.map((one, at) => {
    const tall = Math.max(2, ((FLOOR - TOP) * one.execution_time_ms) / longest);
    const x = LEFT + at * step + (step - width) / 2, made = svg("path", { class: `bar bar-${one.status}`, d: barPath(one.status, x, width, tall) });
    made.addEventListener("pointerenter", () => {
      const box = made.getBoundingClientRect();
      showTip(box.x + box.width / 2, box.top, [h("b", {}, `${VERDICT_WORDS[one.status]}, ${milliseconds(one.execution_time_ms)}`), h("span", {}, local(one.created_at)), h("span", {}, one.message.slice(0, 200))]);
    });
    made.addEventListener("pointerleave", hideTip);
    return made;
  });
  const middle = [...shown].sort((a, b) => a.execution_time_ms - b.execution_time_ms)[Math.floor(shown.length / 2)].execution_time_ms;
  const words = shown.length === 1
    ? `The last check took ${milliseconds(middle)}.`
    : `How long the last ${plural(shown.length, "check")} took: half of them ${milliseconds(middle)} or less, at most ${milliseconds(Math.max(...shown.map((one) => one.execution_time_ms)))}.`;
  return figure(words, axis(milliseconds(longest), milliseconds(longest / 2)), bars,
    ends(local(shown[0].created_at), shown.length > 1 ? local(shown.at(-1).created_at) : ""));
}

/** Requests done over time; while `open`, a dashed line goes on at the pace of the latest checks. */
export function progress(points, open) {
  const last = points.at(-1), first = points[0], left = open ? secondsLeft(points) : null;
  const span = Math.max(last.at - first.at, 1000), until = left === null ? last.at : last.at + Math.min(left * 1000, span);
  const x = (at) => LEFT + (INNER * (at - first.at)) / Math.max(until - first.at, 1);
  const y = (done) => FLOOR - ((FLOOR - TOP) * done) / last.total;
  const line = points.map((point) => `${x(point.at).toFixed(1)} ${y(point.done).toFixed(1)}`).join("L");
  const marks = [
    svg("path", { class: "area", d: `M${x(first.at).toFixed(1)} ${FLOOR}L${line}L${x(last.at).toFixed(1)} ${FLOOR}z` }),
    svg("path", { class: "line", d: `M${line}` }),
    svg("circle", { class: "point", cx: x(last.at), cy: y(last.done), r: 3.5 }),
  ];
  let words = `${number(last.done)} of ${number(last.total)} are done`;
  if (left !== null) {
    const reached = last.done + ((last.total - last.done) * (until - last.at)) / (left * 1000);
    marks.push(svg("path", { class: "ahead", d: `M${x(last.at)} ${y(last.done)}L${x(until)} ${y(reached)}` }));
    words += `; at the pace of the latest checks the rest takes about ${roughly(left)}`;
  }
  return figure(`${words}.`, axis(number(last.total), number(Math.round(last.total / 2))), marks, ends(local(new Date(first.at).toISOString()), left === null ? local(new Date(last.at).toISOString()) : ""));
}

function figure(words, ...parts) {
  return h("figure", { class: "chart" },
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words }, ...parts),
    h("figcaption", { class: "help" }, words));
}

function axis(top, middle) {
  return [[TOP, top], [(TOP + FLOOR) / 2, middle], [FLOOR, "0"]].flatMap(([y, label]) => [
    svg("path", { class: "grid", d: `M${LEFT} ${y}h${INNER}` }),
    svg("text", { x: LEFT - 8, y: y + 4, class: "axis", "text-anchor": "end" }, label),
  ]);
}

const ends = (first, last) => [
  svg("text", { x: LEFT, y: HEIGHT - 6, class: "axis" }, first),
  svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, class: "axis", "text-anchor": "end" }, last),
];

function barPath(verdict, x, width, tall) {
  const top = FLOOR - tall;
  if (verdict === "failed" && tall > 12) return `M${x} ${FLOOR}v${-tall * 0.45}h${width}v${tall * 0.45}zM${x} ${top}h${width}v${tall * 0.4}h${-width}z`;
  return `M${x} ${FLOOR}V${top}h${width}V${FLOOR}z`;
}

function niceMs(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= value);
}
