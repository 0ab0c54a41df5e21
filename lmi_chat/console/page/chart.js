// Draws figures over time as lines, with a line that shows all figures of one moment in every chart at once.

import { clock, el, svg } from "./dom.js";

const EDGE = { left: 52, right: 10, top: 10, bottom: 20 };
const HEIGHT = 148;
const BRIDGED_S = 10; // seconds without a figure over which a line goes on
const moments = new Set();

/** Show the same moment, a row's number or null, in every chart. */
function point(at) {
  for (const chart of moments) chart.point(at);
}

/** The least round number that is not below `value`: 1, 2, 2.5 or 5 times a power of ten. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((one) => one >= value * 0.999);
}

/** A chart: `lines` are the names of its lines, `shown` writes a figure, `most` is the least top of its scale. */
export class Chart {
  constructor({ title, says, lines, shown, most = 0, isFilled = false }) {
    Object.assign(this, { title, lines, shown, most, isFilled, rows: [], at: null });
    this.values = lines.map((label, index) => {
      const value = el("b", { text: "–" });
      const named = lines.length > 1 ? el("span", { text: label }) : null;
      return { value, node: el("span", { class: `figure line-${index}` }, value, named) };
    });
    this.when = el("span", { class: "when" });
    this.drawing = svg("svg", { role: "img", tabindex: 0, height: HEIGHT, "aria-label": title });
    const head = el("header", {}, el("h3", { text: title }), this.when);
    this.node = el("figure", { class: "chart" }, head, el("div", { class: "figures" }, ...this.values.map(({ node }) => node)), this.drawing, el("figcaption", { class: "help", text: says }));
    this.drawing.addEventListener("pointermove", (event) => point(this.rowAt(event.offsetX)));
    this.drawing.addEventListener("pointerleave", () => point(null));
    this.drawing.addEventListener("blur", () => point(null));
    this.drawing.addEventListener("keydown", (event) => this.step(event));
    moments.add(this);
  }

  step(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 };
    if (event.key === "Escape") point(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    const from = this.at ?? this.rows.length;
    point(Math.min(Math.max(from + steps[event.key], 0), this.rows.length - 1));
  }

  /** Take rows of figures: [[time, figure of the first line, …]]; `span` is the seconds that the chart is wide. */
  update(rows, end, span) {
    const isMoved = rows.length && this.rows.length && rows.at(-1)[0] !== this.rows.at(-1)[0];
    if (isMoved && this.at !== null && document.activeElement !== this.drawing) this.at = Math.max(this.at - 1, 0);
    Object.assign(this, { rows, end, span });
    this.draw();
  }

  draw() {
    const width = this.drawing.clientWidth || 320;
    const plotted = { x: width - EDGE.left - EDGE.right, y: HEIGHT - EDGE.top - EDGE.bottom };
    const figures = this.rows.flatMap((row) => row.slice(1)).filter((value) => value !== null);
    const top = roundUp(Math.max(this.most, ...figures));
    this.x = (time) => EDGE.left + (1 - (this.end - time) / this.span) * plotted.x;
    this.y = (value) => EDGE.top + (1 - value / top) * plotted.y;
    const parts = [...this.grid(width, top), ...this.lines.map((_, index) => this.line(index, plotted.y)).reverse()];
    this.cursor = svg("g", { class: "cursor" });
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.drawing.replaceChildren(...parts.filter(Boolean), this.cursor);
    this.tell();
  }

  grid(width, top) {
    const lines = [0, 0.5, 1].flatMap((part) => {
      const y = this.y(top * part);
      return [
        svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }),
        svg("text", { x: EDGE.left - 8, y: y + 3.5, "text-anchor": "end", text: this.shown(top * part) }),
      ];
    });
    const ago = this.span >= 120 ? `${Math.round(this.span / 60)} min ago` : `${this.span} s ago`;
    const base = { y: HEIGHT - 4 };
    return [...lines, svg("text", { ...base, x: EDGE.left, text: ago }), svg("text", { ...base, x: width - EDGE.right, "text-anchor": "end", text: "now" })];
  }

  /** One line, with gaps where there is no figure for long; the first is filled where the chart is. */
  line(index, depth) {
    const runs = [[]];
    let last = -Infinity;
    for (const row of this.rows) {
      const value = row[index + 1];
      if (value === null || value === undefined || row[0] < this.end - this.span) continue;
      if (row[0] - last > BRIDGED_S) runs.push([]);
      runs.at(-1).push([this.x(row[0]), this.y(value)]);
      last = row[0];
    }
    const drawn = runs.filter((run) => run.length);
    if (!drawn.length) return null;
    const spell = (run) => run.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
    const floor = EDGE.top + depth;
    const area = drawn.map((run) => `${spell(run)}L${run.at(-1)[0].toFixed(1)} ${floor}L${run[0][0].toFixed(1)} ${floor}Z`).join("");
    const stroke = drawn.map((run) => (run.length > 1 ? spell(run) : `${spell(run)}h0.1`)).join("");
    return svg("g", { class: `line-${index}` },
      this.isFilled && index === 0 ? svg("path", { class: "area", d: area }) : null, svg("path", { class: "stroke", d: stroke }));
  }

  rowAt(x) {
    let best = null;
    this.rows.forEach((row, at) => {
      const distance = Math.abs(this.x(row[0]) - x);
      if (best === null || distance < best.distance) best = { at, distance };
    });
    return best?.at ?? null;
  }

  point(at) {
    this.at = at;
    if (this.x) this.tell();
  }

  /** The figures of the moment that is pointed at, or the last ones. */
  tell() {
    const row = this.at === null ? this.rows.at(-1) : this.rows[this.at];
    this.when.textContent = this.at !== null && row ? clock(row[0]) : "";
    const said = this.values.map(({ value }, index) => {
      const figure = row?.[index + 1];
      value.textContent = figure === null || figure === undefined ? "–" : this.shown(figure);
      return `${this.lines[index]} ${value.textContent}`;
    });
    this.drawing.setAttribute("aria-label", `${this.title}: ${said.join(", ")}`);
    if (this.at === null || !row) return this.cursor.replaceChildren();
    const dots = this.values.flatMap((_, index) => {
      const figure = row[index + 1];
      return figure === null ? [] : [svg("circle", { class: `line-${index}`, cx: this.x(row[0]), cy: this.y(figure), r: 3.5 })];
    });
    const x = this.x(row[0]);
    return this.cursor.replaceChildren(svg("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }), ...dots);
  }
}
