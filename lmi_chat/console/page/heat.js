// Draws tokens as a heat: the less likely a token was, the warmer it stands, with its alternatives on hover and focus.

import { el, fresh, percent, rove, vary } from "./dom.js";

const COLD = -0.05; // a log-probability from which on a token is not coloured
const HOT = -4.5; // one from which on it is as warm as can be

/** How much in doubt a token was: 0 to 1. */
export const doubt = (logprob) => Math.min(Math.max((COLD - logprob) / (COLD - HOT), 0), 1);

const SIGNS = { " ": "␣", "\n": "⏎\n", "\t": "⇥" };
const visible = (text) => (/^\s+$/.test(text) ? [...text].map((sign) => SIGNS[sign] ?? sign).join("") : text);
const plain = (text) => (text.trim() ? text : [...text].map((sign) => (SIGNS[sign] ?? sign).trim()).join("")) || "(empty)";

/** The tokens of one answer, which grow as they come. */
export class Heat {
  constructor() {
    this.node = el("div", { class: "heat", role: "group", "aria-label": "Tokens by how likely they were; arrow keys move between them" });
    this.count = 0;
    this.tokens = [];
    rove(this.node, ".token");
    for (const [event, on] of [["pointerover", true], ["focusin", true], ["pointerleave", false], ["focusout", false]]) {
      this.node.addEventListener(event, ({ target }) => (on && target.dataset?.at ? this.open(target) : this.close()));
    }
    this.node.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  /** Draw those tokens that are new. */
  update(tokens) {
    this.tokens = tokens;
    const made = [];
    for (; this.count < tokens.length; this.count++) {
      const { text, logprob } = tokens[this.count];
      const token = el("span", {
        class: "token", role: "button", tabindex: this.count ? -1 : 0, "data-at": this.count, text,
        "aria-label": `${plain(text)}, ${percent(Math.exp(logprob ?? 0))}`,
      });
      made.push(vary(token, { "--doubt": doubt(logprob ?? 0).toFixed(3) }));
    }
    this.node.append(...made);
  }

  open(target) {
    this.close();
    const { text, logprob, top } = this.tokens[Number(target.dataset.at)];
    const others = top.length ? top : [{ text, logprob }];
    const shown = others.some((one) => one.text === text) ? others : [{ text, logprob }, ...others];
    const rows = shown.map((one) => {
      const part = Math.exp(one.logprob);
      const bar = vary(el("span", { class: "bar" }), { "--part": part.toFixed(4) });
      const isChosen = one.text === text;
      return el("div", { class: isChosen ? "row chosen" : "row" }, el("code", { text: visible(one.text) }), bar, el("span", { text: percent(part) }));
    });
    const id = fresh("alternatives");
    this.card = el("div", { class: "alternatives", role: "tooltip", id }, ...rows, el("p", { class: "help", text: `log-probability ${logprob?.toFixed(3)}` }));
    target.setAttribute("aria-describedby", id);
    this.node.append(this.card);
    this.place(target);
  }

  /** Below the token, within the text's width. */
  place(target) {
    const [box, own] = [this.node.getBoundingClientRect(), target.getClientRects()[0] ?? target.getBoundingClientRect()];
    const left = Math.min(Math.max(own.left - box.left - 8, 0), Math.max(box.width - this.card.offsetWidth, 0));
    vary(this.card, { left: `${left}px`, top: `${own.bottom - box.top + 6}px` });
  }

  close() {
    this.card?.remove();
    this.card = null;
    this.node.querySelector("[aria-describedby]")?.removeAttribute("aria-describedby");
  }
}

/** The scale under a heat. */
export const scale = () =>
  el("p", { class: "scale", "aria-hidden": "true" }, "likely", el("span", { class: "ramp" }), "unlikely");
