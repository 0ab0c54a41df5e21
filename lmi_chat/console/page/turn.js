// Draws the turns of a conversation: what was asked, and an answer while it comes.

import { copier, el, number, seconds } from "./dom.js";
import { Heat, scale } from "./heat.js";

const ENDS = {
  length: "cut at the most tokens", max_tokens: "cut at the most tokens", max_output_tokens: "cut at the most tokens",
  tool_calls: "calls a tool", tool_use: "calls a tool", content_filter: "filtered",
};

/** What a person asked. */
export function asked({ text, images }) {
  const pictures = (images ?? []).map((src, at) => el("img", { src, alt: `attached image ${at + 1}` }));
  return el("article", { class: "turn user", "aria-label": "You" },
    pictures.length ? el("div", { class: "pictures" }, ...pictures) : null, text ? el("p", { class: "said", text }) : null);
}

/** An answer: `update` draws what came since the last frame, `end` its figures and what can be done with it. */
export class AnswerView {
  constructor({ hasHeat, onagain, onwhy, ondraw }) {
    this.actions = { onagain, onwhy };
    this.ondraw = ondraw;
    this.text = document.createTextNode("");
    this.said = el("p", { class: "said" }, this.text);
    this.heat = hasHeat ? new Heat() : null;
    this.calls = el("div", { class: "calls" });
    this.foot = el("footer", {});
    this.body = el("div", { class: "body" }, this.said, this.calls);
    this.node = el("article", { class: "turn answer waiting", "aria-label": "Answer", "aria-busy": "true" }, this.body, this.foot);
    this.frame = 0;
  }

  /** Draw at the next frame, however many tokens came until then. */
  update(answer) {
    this.answer = answer;
    this.frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.frame = 0;
    const { text, reasoning, tokens, calls } = this.answer;
    this.node.classList.remove("waiting");
    if (reasoning) this.think(reasoning);
    if (this.heat && tokens.length) {
      if (!this.heat.node.isConnected) this.said.replaceWith(this.heat.node);
      this.heat.update(tokens);
    } else if (text.length > this.text.length) {
      this.text.appendData(text.slice(this.text.length));
    }
    calls.forEach((call, at) => this.call(call, at));
    this.said.hidden = !this.text.length && Boolean(reasoning || calls.length);
    this.ondraw();
  }

  think(reasoning) {
    if (!this.thought) {
      this.thought = document.createTextNode("");
      const opened = el("details", { class: "thought", open: true }, el("summary", { text: "Thought" }), el("p", {}, this.thought));
      this.body.prepend(opened);
    }
    this.thought.appendData(reasoning.slice(this.thought.length));
  }

  call({ name, arguments: given }, at) {
    const shown = this.calls.children[at] ?? this.calls.appendChild(el("div", { class: "call" }, el("b", {}), el("code", {})));
    shown.firstChild.textContent = name;
    shown.lastChild.textContent = given;
  }

  /** Draw the end: `figures` is {first, total, id}, `error` the sentence that broke it off, or null. */
  end(figures, error, isStopped) {
    cancelAnimationFrame(this.frame);
    this.draw();
    this.node.setAttribute("aria-busy", "false");
    this.node.classList.toggle("failed", Boolean(error));
    if (error) this.body.append(el("p", { class: "wrong", text: error }));
    if (this.heat?.node.isConnected) this.body.append(scale());
    const { onagain, onwhy } = this.actions;
    this.foot.append(
      el("p", { class: "figures", text: this.figures(figures, isStopped) }),
      el("div", { class: "actions" },
        this.answer.text ? copier(() => this.answer.text) : null,
        el("button", { type: "button", class: "quiet again", text: "Regenerate", onclick: onagain }),
        figures.id ? el("button", { type: "button", class: "quiet", text: "Where the time went", onclick: () => onwhy(figures.id) }) : null),
    );
  }

  figures({ first, total }, isStopped) {
    const { usage, finish } = this.answer;
    const parts = [];
    if (usage?.completion) parts.push(`${number(usage.completion)} tokens`);
    if (first) parts.push(`first after ${seconds(first)}`);
    if (usage?.completion > 1 && total > first) parts.push(`${number((usage.completion - 1) / (total - first))} a second`);
    if (total) parts.push(`${seconds(total)} in all`);
    if (isStopped) parts.push("stopped");
    else if (finish in ENDS) parts.push(ENDS[finish]);
    return parts.join("  ·  ");
  }
}
