// Builds elements. Every string that comes from the server or the model becomes text here, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: attributes by name, `on…` as listeners, `text` as its text; children are nodes or strings. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set custom properties by the object model, which a strict content policy allows where attributes are not. */
export function vary(node, properties) {
  for (const [name, value] of Object.entries(properties)) node.style.setProperty(name, value);
  return node;
}

let ids = 0;
export const fresh = (word) => `${word}-${++ids}`;

/** A label with its control, and a line of help that the control is described by. */
export function labelled(label, control, help = "") {
  control.id ||= fresh("control");
  const described = help ? el("p", { class: "help", id: `${control.id}-help`, text: help }) : null;
  if (described) control.setAttribute("aria-describedby", described.id);
  return el("div", { class: "field" }, el("label", { for: control.id, text: label }), control, described);
}

/** A switch: a checkbox that looks like one. */
export function toggle(label, isOn, onchange) {
  const box = el("input", { type: "checkbox", role: "switch", onchange: () => onchange(box.checked) });
  box.checked = isOn;
  return { box, node: el("label", { class: "switch" }, box, el("span", { class: "knob", "aria-hidden": "true" }), label) };
}

/** Arrow keys move between the items of a group, of which one can be reached by Tab. */
export function rove(group, selector, onmove = () => {}) {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  group.addEventListener("keydown", (event) => {
    const items = [...group.querySelectorAll(selector)];
    const at = items.indexOf(document.activeElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    let next = null;
    if (event.key in steps) next = items[(at + steps[event.key] + items.length) % items.length];
    if (event.key === "Home") next = items[0];
    if (event.key === "End") next = items.at(-1);
    if (!next) return;
    event.preventDefault();
    items[at].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    onmove(next);
  });
}

/** A row of choices of which one is taken: radio buttons that look like one control. */
export function choice(label, options, taken, onchange) {
  const name = fresh("choice");
  const made = options.map(([value, text, isOff]) => {
    const radio = el("input", { type: "radio", name, value, disabled: isOff, onchange: () => onchange(value) });
    radio.checked = value === taken;
    return el("label", {}, radio, el("span", { text }));
  });
  return el("fieldset", { class: "choice" }, el("legend", { class: "unseen", text: label }), ...made);
}

const [WHOLE, TENTHS] = [0, 1].map((digits) => new Intl.NumberFormat("en", { maximumFractionDigits: digits }));
export function number(value) {
  if (value === null || value === undefined) return "–";
  return (Math.abs(value) < 100 ? TENTHS : WHOLE).format(value);
}

/** Seconds as people say them: 3.1 ms, 450 ms, 2.35 s, 3 min 5 s. */
export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export const percent = (part) => (part > 0 && part < 0.001 ? "< 0.1 %" : `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} %`);

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

/** A button that copies what `text()` gives, and says that it did. */
export function copier(text, label = "Copy") {
  const button = el("button", { type: "button", class: "quiet", text: label });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}
