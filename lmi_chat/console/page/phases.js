// Draws the phases of the start, while the model loads.

import { el, seconds } from "./dom.js";

const SAYS = { done: "done", running: "running", waiting: "to come" };

/** The phases as a list that a state of the server fills. */
export function phases() {
  const list = el("ol", { class: "phases" });
  const node = el("div", { class: "starting" }, el("h2", { text: "The model is starting" }), list);
  return {
    node,
    update(now) {
      const isFailed = now.state === "failed";
      node.querySelector("h2").textContent = isFailed ? "The model did not start" : "The model is starting";
      node.querySelector(".wrong")?.remove();
      if (isFailed && now.message) node.append(el("p", { class: "wrong", text: now.message }));
      const print = JSON.stringify(now.phases.map(({ name, status }) => [name, status]));
      if (print !== list.dataset.print) list.replaceChildren(...now.phases.map(item));
      list.dataset.print = print;
      now.phases.forEach((phase, at) => (list.children[at].querySelector(".time").textContent = timeOf(phase)));
    },
  };
}

const timeOf = ({ seconds: time, status }) => (time === null || time === undefined ? SAYS[status] : seconds(time));

function item({ name, status }) {
  return el("li", { class: status, "aria-current": status === "running" ? "step" : null },
    el("span", { class: "dot", "aria-hidden": "true" }), el("span", { text: name }),
    el("span", { class: "time" }), el("span", { class: "unseen", text: SAYS[status] }));
}
