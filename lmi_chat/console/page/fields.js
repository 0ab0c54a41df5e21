// Draws the sampling fields of a dialect, with the bounds that the server's own OpenAPI document states.

import { ask } from "./api.js";
import { el, fresh, vary } from "./dom.js";

const SHOWN = ["temperature", "top_p", "limit", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "stop"];
const LABELS = {
  temperature: "Temperature",
  top_p: "Top-p",
  limit: "Most tokens",
  top_k: "Top-k",
  min_p: "Min-p",
  repetition_penalty: "Repetition penalty",
  presence_penalty: "Presence penalty",
  frequency_penalty: "Frequency penalty",
  seed: "Seed",
  stop: "Stop at",
};
const FIRST = 3; // fields that stand open; the others are folded away

let document_ = null;

/** The properties of a dialect's body, from /openapi.json, which is read once. */
export async function propertiesOf(dialect) {
  document_ ??= ask("/openapi.json", { cache: "default" }).then((reply) => reply.json());
  let all;
  try {
    all = await document_;
  } catch (error) {
    document_ = null;
    throw error;
  }
  const schemas = all.components.schemas;
  if (dialect.path === "/invocations") {
    const { parameters } = schemas.StandardRequest.properties;
    return (parameters.anyOf ?? [parameters]).find((one) => one.properties).properties;
  }
  const { $ref } = all.paths[dialect.path].post.requestBody.content["application/json"].schema;
  return schemas[$ref.split("/").at(-1)].properties;
}

/** Bounds, default and meaning of one property. */
function boundsOf(property) {
  const one = (property.anyOf ?? [property]).find(({ type }) => type === "number" || type === "integer") ?? {};
  return {
    least: one.minimum,
    most: one.maximum,
    isInteger: one.type === "integer",
    default: property.default,
    says: property.description ?? "",
  };
}

/** What is wrong with a number as it stands in a field, in one sentence; "" if nothing is. */
export function wrongWith(name, text, { least, most, isInteger }) {
  const value = Number(text);
  if (Number.isNaN(value)) return `${name} must be a number, got “${text}”`;
  if (isInteger && !Number.isInteger(value)) return `${name} must be a whole number, got ${text}`;
  if (least !== undefined && value < least) return `${name} must be at least ${least}, got ${text}`;
  if (most !== undefined && value > most) return `${name} must be at most ${most}, got ${text}`;
  return "";
}

/** The sampling form: what was typed stays over a change of dialect; `sampling()` is what goes into a body. */
export class Sampling {
  constructor() {
    this.typed = {};
    this.checks = new Map();
    this.node = el("div", { class: "sampling" });
  }

  async show(dialect) {
    const properties = await propertiesOf(dialect);
    this.dialect = dialect;
    this.checks.clear();
    const rows = SHOWN.map((role) => [role, this.nameOf(role)]).filter(([, name]) => name in properties);
    const made = rows.map(([role, name]) => (role === "stop" ? this.stopRow(name) : this.row(role, name, boundsOf(properties[name]))));
    const more = el("details", { class: "more" }, el("summary", { text: "More sampling" }), ...made.slice(FIRST));
    more.open = Object.keys(this.typed).some((role) => this.typed[role] && SHOWN.indexOf(role) >= FIRST);
    this.node.replaceChildren(...made.slice(0, FIRST), more);
  }

  nameOf(role) {
    return { limit: this.dialect.limit, stop: this.dialect.stop }[role] ?? role;
  }

  row(role, name, bounds) {
    const id = fresh("sampling");
    const hasSlider = bounds.most - bounds.least <= 4;
    const says = bounds.default ?? this.dialect.needs?.[name];
    const field = el("input", {
      id, type: "text", inputmode: "decimal", autocomplete: "off", name,
      placeholder: says ?? "", "aria-describedby": `${id}-help`, "data-least": bounds.least, "data-most": bounds.most,
    });
    field.value = this.typed[role] ?? "";
    const slider = hasSlider && el("input", {
      type: "range", min: bounds.least, max: bounds.most, step: 0.05, tabindex: -1, "aria-hidden": "true",
    });
    const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
    const mirror = () => {
      if (!slider) return;
      slider.value = field.value || says || bounds.least;
      vary(slider, { "--at": `${((slider.value - bounds.least) / (bounds.most - bounds.least)) * 100}%` });
    };
    const check = () => {
      const sentence = field.value.trim() ? wrongWith(name, field.value.trim(), bounds) : "";
      field.setAttribute("aria-invalid", String(Boolean(sentence)));
      wrong.textContent = sentence;
      wrong.hidden = !sentence;
      return sentence;
    };
    field.addEventListener("input", () => {
      this.typed[role] = field.value;
      mirror();
      check();
    });
    if (slider) {
      slider.addEventListener("input", () => {
        field.value = this.typed[role] = String(Number(Number(slider.value).toFixed(2)));
        mirror();
        check();
      });
    }
    mirror();
    this.checks.set(role, check);
    const help = el("p", { class: "help", id: `${id}-help`, text: helpOf(bounds) });
    const head = el("div", { class: "head" }, el("label", { for: id, text: LABELS[role] }), el("code", { text: name }));
    return el("div", { class: "field number" }, head, el("div", { class: "pair" }, slider, field), help, wrong);
  }

  stopRow(name) {
    const id = fresh("sampling");
    const field = el("textarea", { id, rows: 2, name, spellcheck: "false", "aria-describedby": `${id}-help` });
    field.value = this.typed.stop ?? "";
    field.addEventListener("input", () => (this.typed.stop = field.value));
    const head = el("div", { class: "head" }, el("label", { for: id, text: LABELS.stop }), el("code", { text: name }));
    const help = el("p", { class: "help", id: `${id}-help`, text: "strings that end the text, one a line" });
    return el("div", { class: "field" }, head, field, help);
  }

  /** What is wrong with the first field that is; "" if all is well. */
  wrong() {
    return [...this.checks.values()].map((check) => check()).find(Boolean) ?? "";
  }

  sampling() {
    const values = {};
    for (const role of SHOWN) {
      const text = (this.typed[role] ?? "").trim();
      if (!text) continue;
      const isShown = role === "stop" ? this.dialect.stop : this.checks.has(role);
      if (isShown) values[this.nameOf(role)] = role === "stop" ? text.split("\n") : Number(text);
    }
    return values;
  }
}

function helpOf({ least, most, says }) {
  const isWide = (bound) => bound === undefined || Math.abs(bound) >= 2 ** 31 - 1;
  if (isWide(least) && isWide(most)) return says;
  if (isWide(most)) return `from ${least} · ${says}`;
  return `${least} to ${most} · ${says}`;
}
