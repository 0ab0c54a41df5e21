// Draws what a request is made of: dialect, model, system prompt, sampling, form of the answer, tools.

import { choice, el, fresh, labelled, toggle } from "./dom.js";
import { DIALECTS } from "./dialects.js";
import { Sampling } from "./fields.js";

const SCHEMA = { type: "object", properties: { city: { type: "string" }, country: { type: "string" } }, required: ["city", "country"] };
const TOOLS = [{
  type: "function",
  function: {
    name: "get_weather", description: "Tell the weather of a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
}];

/** An editor of JSON that says what is wrong with it; empty means none. */
class JsonEditor {
  constructor(title, label, help, example, isRight) {
    this.isRight = isRight;
    this.field = el("textarea", { id: fresh("json"), class: "code", rows: 8, spellcheck: "false", autocomplete: "off" });
    this.wrong = el("p", { class: "wrong", role: "alert", hidden: true });
    const write = (value) => {
      this.field.value = JSON.stringify(value, null, 2);
      this.check();
    };
    const format = () => this.check() || (this.field.value.trim() && write(this.value()));
    const row = el("div", { class: "actions" },
      el("button", { type: "button", class: "quiet", text: "Example", onclick: () => write(example) }),
      el("button", { type: "button", class: "quiet", text: "Format", onclick: format }),
      el("button", { type: "button", class: "quiet", text: "Clear", onclick: () => this.clear() }));
    this.field.addEventListener("input", () => this.check());
    this.mark = el("span", { class: "on", hidden: true, text: "on" });
    this.node = el("details", { class: "more" }, el("summary", {}, title, this.mark), labelled(label, this.field, help), this.wrong, row);
  }

  clear() {
    this.field.value = "";
    this.check();
  }

  check() {
    let sentence = "";
    try {
      const value = this.value();
      if (value !== undefined) sentence = this.isRight(value);
    } catch (error) {
      sentence = `this is no JSON: ${error.message}`;
    }
    this.field.setAttribute("aria-invalid", String(Boolean(sentence)));
    this.wrong.textContent = sentence;
    this.wrong.hidden = !sentence;
    this.mark.hidden = Boolean(sentence) || !this.field.value.trim();
    return sentence;
  }

  value() {
    return this.field.value.trim() ? JSON.parse(this.field.value) : undefined;
  }
}

export class Settings {
  constructor(onchange) {
    this.name = "chat";
    this.onchange = onchange;
    this.isStreaming = true;
    this.hasHeat = false;
    this.sampling = new Sampling();
    const options = Object.entries(DIALECTS).map(([name, { label }]) => [name, label]);
    this.says = el("p", { class: "help" });
    this.model = el("select", {});
    this.modelRow = labelled("Model", this.model);
    this.system = el("textarea", { rows: 3, placeholder: "You are a helpful assistant." });
    this.systemRow = labelled("System prompt", this.system);
    this.streams = toggle("Stream the answer", true, (isOn) => (this.isStreaming = isOn));
    this.heat = toggle("Show how likely each token was", false, (isOn) => (this.hasHeat = isOn));
    const isObject = (value) => (value && typeof value === "object" && !Array.isArray(value) ? "" : "a JSON Schema is an object");
    this.schema = new JsonEditor("Form of the answer", "JSON Schema", "the answer fits it; empty: free text", SCHEMA, isObject);
    const isTools = (value) => (Array.isArray(value) ? "" : "tools are an array of functions");
    this.tools = new JsonEditor("Tools", "Functions", "as chat completions have them; other dialects get them in their own words", TOOLS, isTools);
    this.trouble = el("p", { class: "wrong", role: "alert", hidden: true });
    this.node = el("div", { class: "settings" },
      el("div", { class: "field" }, choice("Dialect", options, this.name, (name) => this.take(name)), this.says),
      this.modelRow, this.systemRow, el("div", { class: "switches" }, this.streams.node, this.heat.node),
      this.trouble, this.sampling.node, this.schema.node, this.tools.node);
  }

  get dialect() {
    return DIALECTS[this.name];
  }

  async take(name) {
    this.name = name;
    this.says.textContent = this.dialect.says;
    this.systemRow.hidden = !this.dialect.isChat;
    this.heat.box.disabled = !this.dialect.logprobs;
    this.heat.node.classList.toggle("off", !this.dialect.logprobs);
    this.tools.node.hidden = !this.dialect.isChat || !this.now?.takes.tools;
    this.onchange();
    try {
      await this.sampling.show(this.dialect);
      this.trouble.hidden = true;
    } catch (error) {
      this.trouble.textContent = `The bounds of the fields cannot be read: ${error.message}`;
      this.trouble.hidden = false;
    }
  }

  /** Take what the server says of itself; the fields are drawn once it is ready. */
  update(now) {
    const isNew = !this.now || this.now.state !== now.state;
    this.now = now;
    const names = [now.model, ...now.adapters].filter(Boolean);
    const shown = [...this.model.options].map((option) => option.value);
    if (names.join("\n") !== shown.join("\n")) {
      const taken = this.model.value;
      this.model.replaceChildren(...names.map((name) => el("option", { value: name, text: name })));
      if (names.includes(taken)) this.model.value = taken;
    }
    this.modelRow.hidden = names.length < 2;
    if (isNew && now.state === "ready") this.take(this.name);
  }

  /** What is wrong with what was typed; "" if nothing is. */
  wrong() {
    const tools = this.tools.node.hidden ? "" : this.tools.check();
    return this.sampling.wrong() || this.schema.check() || tools;
  }

  /** One request of these turns, in no dialect yet. */
  request(turns) {
    const isBase = this.model.value === this.now.model;
    return {
      turns,
      system: this.dialect.isChat ? this.system.value.trim() : "",
      model: isBase && this.name === "standard" ? "" : this.model.value,
      stream: this.isStreaming,
      sampling: this.sampling.sampling(),
      logprobs: this.hasHeat && this.dialect.logprobs ? 5 : 0,
      schema: this.schema.value(),
      tools: this.tools.node.hidden ? undefined : this.tools.value(),
    };
  }
}
