// Draws where a request's time went: one bar a span, on one scale.

import { el, seconds, vary } from "./dom.js";

const MEANS = {
  received: "its body came in",
  parsed: "read, checked, made a prompt",
  queued: "waited for a place in the engine",
  prefill: "the engine read the prompt",
  decode: "the engine wrote the answer",
  client: "the client took its bytes",
};

const lasts = ({ start_s: start, end_s: end }) => Math.max(end - start, 0);
const place = (node, { start_s: start, end_s: end }, whole) =>
  vary(node, { "--from": (start / whole).toFixed(5), "--to": (Math.max(end, start) / whole).toFixed(5) });

/** A request's spans in one thin line, on the scale of `whole` seconds. */
export function strip(row, whole) {
  const bars = row.spans.map((span) => place(el("i", { class: `span ${known(span.name)}` }), span, whole));
  return el("div", { class: "strip", role: "img", "aria-label": verdict(row) }, ...bars);
}

const known = (name) => (name in MEANS ? name : "other");

/** What took the most of a request's time, in one sentence. */
export function verdict({ spans, total_s: total, status }) {
  if (!spans.length || !total) return status >= 400 ? "It was refused before it cost any time." : "No times are known of it.";
  const longest = spans.reduce((best, span) => (lasts(span) > lasts(best) ? span : best));
  const part = Math.min(Math.round((lasts(longest) / total) * 100), 100);
  const says = { received: "its body took", parsed: "reading and checking took", queued: "it waited", prefill: "reading the prompt took", decode: "writing the answer took", client: "the client took" };
  return `Of ${seconds(total)}, ${says[longest.name] ?? `${longest.name} took`} ${seconds(lasts(longest))} (${part} %).`;
}

/** Seconds from a request's arrival to the end of its last span. */
export const extent = (row) => Math.max(row.total_s ?? 0, ...row.spans.map(({ end_s: end }) => end), 1e-6);

/** The whole waterfall of a request. */
export function waterfall(row) {
  const whole = extent(row);
  const lanes = row.spans.map((span) =>
    el("li", {}, el("span", { class: "name" }, el("b", { text: span.name }), el("span", { class: "help", text: MEANS[span.name] ?? "" })),
      el("div", { class: "lane" }, place(el("i", { class: `span ${known(span.name)}` }), span, whole)),
      el("span", { class: "time", text: seconds(lasts(span)) })));
  const marks = [0, 0.25, 0.5, 0.75, 1].map((part) => vary(el("span", { text: seconds(whole * part) }), { "--from": part }));
  const ruler = el("li", { class: "ruler", "aria-hidden": "true" }, el("span", { class: "name" }), el("div", { class: "lane" }, ...marks), el("span", { class: "time" }));
  return el("ol", { class: "waterfall", "aria-label": "Where the time went" }, ...lanes, lanes.length ? ruler : null);
}
