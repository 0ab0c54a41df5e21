// Shows the last minutes of the server as lines, and while it loads the phases of its start.

import { poll, read } from "./api.js";
import { Chart } from "./chart.js";
import { choice, el, number, percent, seconds, vary } from "./dom.js";
import { phases } from "./phases.js";

const CHARTS = [
  { title: "Requests", says: "in the engine, and waiting for a place in it", shown: number, most: 4, isFilled: true, lines: [["running", "running"], ["waiting", "waiting"]] },
  { title: "Tokens a second", says: "generated, of all requests together", shown: number, most: 10, isFilled: true, lines: [["tokens_per_s", "tokens a second"]] },
  { title: "First token", says: "from a request's arrival to its first token", shown: seconds, lines: [["ttft_p50", "median"], ["ttft_p99", "p99"]] },
  { title: "Between tokens", says: "how long the next token takes", shown: seconds, lines: [["gap_p50", "median"], ["gap_p99", "p99"]] },
  { title: "KV cache", says: "how much of it is taken", shown: (part) => `${number(part * 100)} %`, most: 1, isFilled: true, lines: [["kv_cache", "taken"]] },
  { title: "Answers a second", says: "that ended, and those of them that failed", shown: number, most: 1, lines: [["requests_per_s", "ended"], ["errors_per_s", "failed"]] },
  { title: "Event loop", says: "its longest hold in that second", shown: seconds, most: 0.01, lines: [["loop_hold", "held"]] },
];

export class Watch {
  constructor(panel, isWanted) {
    this.span = 300;
    this.starting = phases();
    this.charts = CHARTS.map((one) => ({ columns: one.lines.map(([column]) => column), chart: new Chart({ ...one, lines: one.lines.map(([, label]) => label) }) }));
    const spans = [["60", "1 min"], ["300", "5 min"], ["900", "15 min"]];
    const pick = choice("Time that is shown", spans, "300", (span) => {
      this.span = Number(span);
      this.turn();
    });
    this.facts = el("p", { class: "facts" });
    this.errors = el("div", { class: "errors" });
    this.adapters = el("div", { class: "chips" });
    this.grid = el("div", { class: "charts" }, ...this.charts.map(({ chart }) => chart.node), this.list("Errors by code", this.errors), this.list("Adapters", this.adapters));
    this.wrong = el("p", { class: "wrong", role: "status", hidden: true });
    panel.append(el("div", { class: "bar" }, el("h2", { class: "unseen", text: "Watch" }), this.facts, pick), this.wrong, this.grid);
    this.turn = poll(() => this.fetch(), 1000, isWanted);
    new ResizeObserver(() => this.redraw()).observe(this.grid);
  }

  list(title, body) {
    return el("section", { class: "chart" }, el("header", {}, el("h3", { text: title })), body);
  }

  update(now) {
    const isStarting = now.state === "loading" || now.state === "failed";
    if (isStarting) this.starting.update(now);
    if (isStarting && !this.starting.node.isConnected) this.grid.before(this.starting.node);
    if (!isStarting) this.starting.node.remove();
    this.grid.hidden = isStarting;
    const most = now.max_running ? `up to ${number(now.max_running)} at once` : "";
    this.facts.textContent = [`lmi-chat ${now.version}`, now.vllm && `vLLM ${now.vllm}`, most].filter(Boolean).join("  ·  ");
    const names = now.adapters.map((name) => el("span", { class: "chip", text: name }));
    this.adapters.replaceChildren(...(names.length ? names : [el("p", { class: "help", text: "none" })]));
  }

  async fetch() {
    try {
      this.series = await read(`/console/api/series?seconds=${this.span}`);
      this.wrong.hidden = true;
      this.redraw();
    } catch (error) {
      this.wrong.textContent = `No new figures: ${error.message}`;
      this.wrong.hidden = false;
    }
  }

  redraw() {
    if (!this.series || this.grid.hidden) return;
    const { columns, rows, end, errors } = this.series;
    const time = columns.indexOf("time");
    for (const { columns: own, chart } of this.charts) {
      const places = own.map((name) => columns.indexOf(name));
      chart.update(rows.map((row) => [row[time], ...places.map((place) => row[place] ?? null)]), end, this.span);
    }
    this.drawErrors(errors);
  }

  drawErrors(errors) {
    const counted = Object.entries(errors).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
    const sum = counted.reduce((all, [, count]) => all + count, 0);
    const rows = counted.map(([code, count]) =>
      el("div", { class: "row" }, el("code", { text: code }), vary(el("span", { class: "bar" }), { "--part": (count / sum).toFixed(4) }),
        el("b", { text: number(count), title: percent(count / sum) })));
    this.errors.replaceChildren(...(rows.length ? rows : [el("p", { class: "help", text: "none in this time" })]));
  }
}
