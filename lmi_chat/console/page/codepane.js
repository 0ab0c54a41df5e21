// Shows the code of the request that was just sent, and copies it.

import { choice, copier, el } from "./dom.js";
import { codes, shortened } from "./code.js";
import { DIALECTS } from "./dialects.js";

export class CodePane {
  constructor() {
    this.taken = "curl";
    this.codes = [];
    this.pre = el("pre", { class: "code", tabindex: 0, "aria-label": "Code of the request" });
    this.note = el("p", { class: "help" });
    const names = ["curl", "boto3", "openai", "anthropic"].map((name) => [name, name]);
    const pick = choice("Code for", names, this.taken, (name) => {
      this.taken = name;
      this.draw();
    });
    const copy = copier(() => this.one?.text ?? "", "Copy code");
    this.full = el("div", { hidden: true }, pick, this.note, this.pre, copy);
    this.empty = el("p", { class: "help", text: "Send something: the code that sends the same request stands here then." });
    this.node = el("div", { class: "codes" }, this.empty, this.full);
  }

  get one() {
    return this.codes.find(({ name }) => name === this.taken);
  }

  show(request, dialect, place) {
    this.dialect = dialect;
    this.codes = codes(request, dialect, place);
    this.empty.hidden = true;
    this.full.hidden = false;
    this.draw();
  }

  draw() {
    if (!this.one) return;
    this.pre.textContent = shortened(this.one.text);
    const isOther = this.one.dialect !== this.dialect;
    this.note.textContent = isOther
      ? `This package does not speak ${DIALECTS[this.dialect].label}: here is the request in ${DIALECTS[this.one.dialect].says}.`
      : "Exactly what was sent.";
  }
}
