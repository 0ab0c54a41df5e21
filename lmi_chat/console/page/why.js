// Shows the last requests, why each took as long as it did, and what was refused.

import { poll, read } from "./api.js";
import { clock, el, fresh, labelled, number, seconds } from "./dom.js";
import { extent, strip, verdict, waterfall } from "./waterfall.js";

const HEADS = ["Request", "When", "Who", "Answer", "Tokens", "First token", "Total", "Where the time went"];

export class Why {
  constructor(panel, isWanted) {
    this.open = null;
    this.field = el("input", { type: "search", placeholder: "an id, as x-request-id or Inference-Id", spellcheck: "false", autocomplete: "off" });
    this.user = el("input", { type: "search", spellcheck: "false", autocomplete: "off" });
    this.adapter = el("input", { type: "search", spellcheck: "false", autocomplete: "off" });
    this.status = el("select", {}, ...[["", "all"], ["2xx", "answered"], ["4xx", "refused"], ["5xx", "failed"]].map(([value, text]) => el("option", { value, text })));
    const search = el("form", { class: "search", role: "search", "aria-label": "Requests" }, labelled("Id", this.field), labelled("User", this.user), labelled("Adapter", this.adapter), labelled("Status", this.status));
    search.addEventListener("submit", (event) => event.preventDefault());
    search.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.turn(), 200);
    });
    this.body = el("tbody", {});
    const heads = HEADS.map((text) => el("th", { scope: "col", text }));
    this.table = el("table", { class: "requests" }, el("caption", { class: "unseen", text: "The last requests, newest first" }), el("thead", {}, el("tr", {}, ...heads)), this.body);
    this.says = el("p", { class: "help", role: "status" });
    panel.append(el("h2", { class: "unseen", text: "Why" }), search, this.says, el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Last requests" }, this.table));
    this.turn = poll(() => this.fetch(), 2000, isWanted);
  }

  /** Look for one request, and open it. */
  find(id) {
    for (const field of [this.user, this.adapter, this.status]) field.value = "";
    this.field.value = this.open = id;
    this.turn();
  }

  query() {
    const asked = { id: this.field.value, user: this.user.value, adapter: this.adapter.value, status: this.status.value };
    const pairs = Object.entries(asked).map(([name, text]) => [name, text.trim()]).filter(([, text]) => text);
    return new URLSearchParams([["limit", "100"], ...pairs]);
  }

  async fetch() {
    try {
      const { requests, kept, most } = await read(`/console/api/requests?${this.query()}`);
      this.draw(requests, kept, most);
    } catch (error) {
      this.says.textContent = `The requests cannot be read: ${error.message}`;
    }
  }

  draw(requests, kept, most) {
    this.says.textContent = requests.length
      ? `${number(requests.length)} of the last ${number(kept)} requests; ${number(most)} are kept, without what was said.`
      : kept ? "No request that is kept is like that." : "No request has come yet. Send one under Try.";
    const print = JSON.stringify([requests, this.open]);
    if (print === this.print) return;
    this.print = print;
    const focused = this.body.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const whole = Math.max(...requests.map(extent));
    this.body.replaceChildren(...requests.flatMap((row) => this.rows(row, whole)));
    if (focused) [...this.body.querySelectorAll("button")].find(({ dataset }) => dataset.id === focused)?.focus();
    this.table.hidden = !requests.length;
  }

  rows(row, whole) {
    const isOpen = this.open === row.id;
    const detail = isOpen ? el("tr", { class: "detail", id: fresh("detail") }, el("td", { colspan: HEADS.length }, this.detail(row))) : null;
    const opener = el("button", {
      type: "button", class: "id", "data-id": row.id, "aria-expanded": String(isOpen), "aria-controls": detail?.id, text: shortId(row.id), title: row.id,
      onclick: () => {
        this.open = isOpen ? null : row.id;
        this.turn();
      },
    });
    const who = [row.user, row.adapter && `adapter ${row.adapter}`].filter(Boolean);
    const failed = row.status >= 400 || row.error;
    const cells = [
      [opener, el("span", { class: "help", text: row.dialect ?? "" })],
      [clock(row.time)],
      [who[0] ?? "–", who[1] ? el("span", { class: "help", text: who[1] }) : null],
      [el("span", { class: failed ? "chip bad" : "chip", text: String(row.status ?? "–") }), el("span", { class: failed ? "reason" : "help", text: failed ? row.message ?? row.error ?? "" : row.finish_reason ?? "" })],
      [`${number(row.prompt_tokens)} → ${number(row.completion_tokens)}`, row.cached_tokens ? el("span", { class: "help", text: `${number(row.cached_tokens)} cached` }) : null],
      [seconds(row.ttft_s)],
      [seconds(row.total_s)],
      [row.spans.length ? strip(row, whole) : null],
    ];
    const made = cells.map((children, at) => el(at ? "td" : "th", { scope: at ? null : "row", "data-label": HEADS[at] }, ...children));
    return [el("tr", { class: isOpen ? "open" : "" }, ...made), ...(detail ? [detail] : [])];
  }

  detail(row) {
    const pairs = [
      ["Id", row.id], ["Inference-Id", row.inference_id], ["Key", row.key], ["User", row.user], ["Adapter", row.adapter],
      ["Streamed", row.stream ? "yes" : "no"], ["Error", row.error], ["Ended by", row.finish_reason],
      ["Half of the gaps under", row.gap_p50_s === null ? null : seconds(row.gap_p50_s)], ["Longest gap", row.gap_max_s === null ? null : seconds(row.gap_max_s)],
    ].filter(([, value]) => value !== null && value !== undefined && value !== "");
    const facts = el("dl", {}, ...pairs.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))));
    const refused = row.message ? el("p", { class: "wrong", text: row.message }) : null;
    return el("div", { class: "request" }, el("p", { class: "verdict", text: verdict(row) }), refused, waterfall(row), facts);
  }
}

/** An id's end, which tells it apart, where it is long. */
const shortId = (id) => (id.length > 14 ? `…${id.slice(-10)}` : id);
