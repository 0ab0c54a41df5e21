// Shows every setting: its value, where that came from, and what has no effect and why.

import { read } from "./api.js";
import { choice, el, labelled, number } from "./dom.js";

export class Configure {
  constructor(panel) {
    this.rows = [];
    this.only = "set";
    this.field = el("input", { type: "search", placeholder: "a name or a value", spellcheck: "false", autocomplete: "off", oninput: () => this.draw() });
    const pick = choice("Which settings", [["set", "Set here"], ["all", "All"]], "set", (only) => {
      this.only = only;
      this.draw();
    });
    const heads = ["Setting", "Value", "From"].map((text) => el("th", { scope: "col", text }));
    this.body = el("tbody", {});
    this.table = el("table", { class: "settings-table" }, el("caption", { class: "unseen", text: "Settings" }), el("thead", {}, el("tr", {}, ...heads)), this.body);
    this.says = el("p", { class: "help", role: "status" });
    const search = el("form", { class: "search", role: "search", "aria-label": "Settings" }, labelled("Find", this.field), pick);
    search.addEventListener("submit", (event) => event.preventDefault());
    panel.append(el("h2", { class: "unseen", text: "Configure" }), search, this.says, el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Settings" }, this.table));
  }

  /** Read the settings, which do not change while the server runs. */
  async show() {
    if (this.rows.length) return;
    try {
      this.rows = (await read("/console/api/config")).rows;
      this.draw();
    } catch (error) {
      const isUntouched = this.only === "set" && !sought && !shown.length;
    if (isUntouched) this.says.textContent = `Nothing is set here: all ${number(this.rows.length)} settings have their defaults.`;
    else this.says.textContent = `The settings cannot be read: ${error.message}`;
    }
  }

  draw() {
    const sought = this.field.value.trim().toLowerCase();
    const isSought = (row) => !sought || `${row.name} ${row.value}`.toLowerCase().includes(sought);
    const isSet = (row) => this.only === "all" || row.origin !== "default" || row.effect;
    const shown = this.rows.filter((row) => isSought(row) && isSet(row));
    const none = shown.filter(({ effect }) => effect).length;
    const isUntouched = this.only === "set" && !sought && !shown.length;
    if (isUntouched) this.says.textContent = `Nothing is set here: all ${number(this.rows.length)} settings have their defaults.`;
    else this.says.textContent = `${number(shown.length)} of ${number(this.rows.length)} settings${none ? `; ${number(none)} without effect` : ""}.`;
    this.body.replaceChildren(...shown.map(drawn));
    this.table.hidden = !shown.length;
  }
}

function drawn({ name, value, origin, effect }) {
  const isDefault = origin === "default";
  return el("tr", { class: effect ? "void" : "" },
    el("th", { scope: "row", "data-label": "Setting" }, el("code", { text: name }), effect ? el("span", { class: "reason", text: effect }) : null),
    el("td", { "data-label": "Value" }, el("code", { text: value === null || value === "" ? "–" : String(value) })),
    el("td", { "data-label": "From" }, el("span", { class: isDefault ? "help" : "chip", text: origin })));
}
