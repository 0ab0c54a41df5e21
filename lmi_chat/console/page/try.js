// Lets a person talk to the model: the conversation, the line to type in, and the settings beside it.

import { ask, events, key, Refused, sentence } from "./api.js";
import { choice, el, fresh, number } from "./dom.js";
import { blank, broken } from "./dialects.js";
import { CodePane } from "./codepane.js";
import { phases } from "./phases.js";
import { Settings } from "./settings.js";
import { AnswerView, asked } from "./turn.js";

const IDEAS = ["What is the capital of France?", "Explain a KV cache in two sentences.", "Write a haiku about patience."];
const MOST_IMAGE_BYTES = 8 * 2 ** 20;

export class Try {
  constructor(panel, onwhy) {
    this.onwhy = onwhy;
    this.turns = [];
    this.images = [];
    this.stopper = null;
    this.settings = new Settings(() => this.fit());
    this.code = new CodePane();
    this.starting = phases();
    this.build(panel);
    this.fit();
  }

  build(panel) {
    this.name = el("h2", {});
    this.facts = el("p", { class: "facts" });
    const ideas = IDEAS.map((text) => el("button", { type: "button", text, onclick: () => this.send(text) }));
    this.ideas = el("div", { class: "ideas" }, ...ideas);
    this.welcome = el("div", { class: "welcome" }, this.name, this.facts, this.ideas);
    this.log = el("div", { class: "log", role: "log", "aria-label": "Conversation", tabindex: 0 }, this.welcome);
    this.isAtEnd = true;
    this.log.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.log;
      this.isAtEnd = scrollHeight - scrollTop - clientHeight < 60;
    });
    this.announced = el("p", { class: "unseen", role: "status" });
    this.side = el("aside", { class: "side", id: fresh("side"), "aria-label": "Request" });
    const parts = { settings: this.settings.node, code: this.code.node };
    this.pick = choice("Show", [["settings", "Settings"], ["code", "Code"]], "settings", (name) => {
      for (const [each, node] of Object.entries(parts)) node.hidden = each !== name;
    });
    parts.code.hidden = true;
    this.pick.classList.add("wide");
    this.side.append(this.pick, ...Object.values(parts));
    panel.append(el("div", { class: "talk" }, this.log, this.announced, this.composer()), this.side);
  }

  composer() {
    this.field = el("textarea", { id: "say", rows: 1, placeholder: "Ask something", "aria-describedby": "say-help" });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    this.field.addEventListener("paste", (event) => this.attach(event.clipboardData.files));
    this.file = el("input", { type: "file", accept: "image/*", multiple: true, class: "unseen", id: "image", tabindex: -1, "aria-label": "Images" });
    this.file.addEventListener("change", () => this.attach(this.file.files));
    this.imageButton = el("button", { type: "button", class: "quiet", text: "Add image", onclick: () => this.file.click() });
    this.pictures = el("div", { class: "pictures" });
    this.submit = el("button", { class: "primary", text: "Send" });
    this.clear = el("button", { type: "button", class: "quiet", text: "New chat", onclick: () => this.restart() });
    this.opener = el("button", { type: "button", class: "quiet opener", "aria-expanded": "false", "aria-controls": this.side.id, text: "Request" });
    this.opener.addEventListener("click", () => {
      this.opener.setAttribute("aria-expanded", String(this.side.classList.toggle("open")));
    });
    this.help = el("p", { class: "help", id: "say-help" });
    this.trouble = el("p", { class: "wrong", role: "alert", hidden: true });
    const row = el("div", { class: "row" }, this.opener, this.imageButton, this.file, this.clear, el("span", { class: "gap" }), this.submit);
    this.form = el("form", { class: "composer" }, el("label", { for: "say", class: "unseen", text: "Message" }), this.pictures, this.field, row, this.trouble, this.help);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.stopper) this.stopper.abort();
      else this.send(this.field.value);
    });
    return this.form;
  }

  /** Take what the server says of itself. */
  update(now) {
    this.now = now;
    this.settings.update(now);
    this.fit();
  }

  /** Show what dialect and model allow. */
  fit() {
    const { dialect } = this.settings;
    const { now } = this;
    const isReady = now?.state === "ready";
    const generates = !now || !now.task || now.task === "generate";
    this.imageButton.hidden = !(now?.takes.images && dialect.isChat);
    this.clear.hidden = !this.turns.length;
    this.submit.disabled = !this.stopper && !(isReady && generates);
    this.submit.textContent = this.stopper ? "Stop" : "Send";
    this.submit.classList.toggle("stops", Boolean(this.stopper));
    this.help.textContent = dialect.isChat
      ? "Enter sends, Shift + Enter begins a line."
      : `${dialect.label} continues a text: each is sent alone, without the turns before it.`;
    this.ideas.hidden = !isReady || !generates;
    const isStarting = now && !isReady && now.state !== "draining";
    if (isStarting) this.starting.update(now);
    if (isStarting && !this.starting.node.isConnected) this.welcome.append(this.starting.node);
    if (!isStarting) this.starting.node.remove();
    this.name.textContent = now?.model ?? "";
    this.facts.textContent = now && isReady ? facts(now) : "";
  }

  attach(files) {
    if (this.imageButton.hidden) return;
    for (const file of files) {
      if (!file.type.startsWith("image/")) continue;
      if (file.size > MOST_IMAGE_BYTES) {
        this.complain(`${file.name} has ${number(file.size / 2 ** 20)} MiB; an image may have 8`);
        continue;
      }
      const reader = new FileReader();
      reader.addEventListener("load", () => {
        this.images.push(reader.result);
        this.drawImages();
      });
      reader.readAsDataURL(file);
    }
    this.file.value = "";
  }

  drawImages() {
    const one = (src, at) =>
      el("button", {
        type: "button", "aria-label": `Remove image ${at + 1}`,
        onclick: () => {
          this.images.splice(at, 1);
          this.drawImages();
        },
      }, el("img", { src, alt: "" }));
    this.pictures.replaceChildren(...this.images.map(one));
  }

  complain(text) {
    this.trouble.textContent = text;
    this.trouble.hidden = !text;
  }

  restart() {
    this.stopper?.abort();
    this.turns = [];
    this.log.replaceChildren(this.welcome);
    this.fit();
    this.field.focus();
  }

  send(text) {
    if (this.stopper || (!text.trim() && !this.images.length)) return;
    const wrong = this.settings.wrong();
    this.complain(wrong);
    if (wrong) return;
    this.welcome.remove();
    const turn = { role: "user", text: text.trim(), images: this.images };
    this.turns.push(turn);
    this.log.append(asked(turn));
    this.field.value = "";
    this.images = [];
    this.drawImages();
    this.answer();
  }

  /** Ask again for the answer to the turn before `turn`, and leave out all that came after. */
  again(turn, view) {
    if (this.stopper) return;
    const wrong = this.settings.wrong();
    this.complain(wrong);
    if (wrong) return;
    this.turns.length = this.turns.indexOf(turn);
    while (view.node.nextSibling) view.node.nextSibling.remove();
    view.node.remove();
    this.answer();
  }

  async answer() {
    const { name, dialect, hasHeat } = this.settings;
    const turn = { role: "assistant", text: "" };
    const request = this.settings.request(spoken(this.turns));
    this.turns.push(turn);
    const view = new AnswerView({
      hasHeat: hasHeat && dialect.logprobs,
      onagain: () => this.again(turn, view),
      onwhy: this.onwhy,
      ondraw: () => this.follow(),
    });
    this.log.append(view.node);
    this.follow(true);
    this.code.show(request, name, { origin: location.origin, model: this.now.model, hasKey: Boolean(key()) });
    this.stopper = new AbortController();
    this.fit();
    const { answer, figures, error, isStopped } = await this.run(dialect, request, view);
    turn.text = answer.text;
    turn.isFailed = Boolean(error);
    this.stopper = null;
    view.end(figures, error, isStopped);
    this.announced.textContent = error ? "The answer failed." : `Answer complete. ${view.figures(figures, isStopped)}`;
    this.fit();
    this.follow();
  }

  /** Send a request and fold its answer. */
  async run(dialect, request, view) {
    const began = performance.now();
    const since = () => (performance.now() - began) / 1000;
    const [answer, figures] = [blank(), { first: 0, total: 0, id: "" }];
    let error = null;
    const take = (document) => {
      if (broken(document)) throw new Refused(0, sentence(document) || "the answer breaks off");
      dialect.fold(answer, document);
      if (answer.text || answer.reasoning || answer.calls.length) figures.first ||= since();
      view.update(answer);
    };
    view.answer = answer;
    try {
      const headers = { "content-type": "application/json", accept: request.stream ? "text/event-stream" : "application/json" };
      const reply = await ask(dialect.path, { method: "POST", headers, body: JSON.stringify(dialect.write(request)), signal: this.stopper.signal });
      figures.id = reply.headers.get("x-request-id") ?? "";
      if (request.stream) await events(reply, take);
      else take(await reply.json());
      if (request.stream && !answer.finish) error = "the answer broke off before its end";
    } catch (fault) {
      if (fault.name !== "AbortError") error = fault.retryAfter ? `${fault.message} (again in ${fault.retryAfter} s)` : fault.message;
    }
    figures.total = since();
    return { answer, figures, error, isStopped: this.stopper.signal.aborted };
  }

  /** Keep the end in sight, unless the person has scrolled away from it. */
  follow(isForced = false) {
    this.isAtEnd ||= isForced;
    if (this.isAtEnd) this.log.scrollTop = this.log.scrollHeight;
  }
}

/** The turns that a model is told of: no failed answers, and none without a word. */
function spoken(turns) {
  const kept = [];
  for (const turn of turns) {
    if (turn.isFailed) kept.pop();
    else if (turn.text || turn.images?.length) kept.push(turn);
  }
  return kept.map(({ role, text, images }) => ({ role, text, images }));
}

function facts(now) {
  if (now.task && now.task !== "generate") return `This model does not chat (${now.task}): the other views are about it.`;
  const { images, audio, tools, reasoning } = now.takes;
  const taken = ["text", images && "images", audio && "audio"].filter(Boolean).join(", ");
  const can = [tools && "calls tools", reasoning && "thinks before it answers"].filter(Boolean);
  const context = now.context_tokens ? [`${number(now.context_tokens)} tokens of context`] : [];
  return [...context, `takes ${taken}`, ...can].join("  ·  ");
}
