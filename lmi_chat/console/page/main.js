// Opens the console: its tabs, what the server says of itself, and the view that is asked for.

import { poll, read } from "./api.js";
import { Configure } from "./configure.js";
import { rove } from "./dom.js";
import { Try } from "./try.js";
import { Watch } from "./watch.js";
import { Why } from "./why.js";

const NAMES = ["try", "watch", "why", "configure"];
const STATES = { loading: "starting", ready: "ready", draining: "shutting down", failed: "failed" };
const at = (id) => document.getElementById(id);

let shown = "try";
const isShown = (name) => () => shown === name;
const views = {
  try: new Try(at("try"), (id) => (location.hash = `/why?id=${encodeURIComponent(id)}`)),
  watch: new Watch(at("watch"), isShown("watch")),
  why: new Why(at("why"), isShown("why")),
  configure: new Configure(at("configure")),
};

function show(name) {
  shown = name;
  for (const each of NAMES) {
    const isOn = each === name;
    at(each).hidden = !isOn;
    at(`tab-${each}`).setAttribute("aria-selected", String(isOn));
    at(`tab-${each}`).tabIndex = isOn ? 0 : -1;
  }
  document.body.dataset.view = name;
  views[name].turn?.();
  views[name].show?.();
}

/** The view and what it looks for stand in the address, to be kept and sent: after a slash, so that no element is its target. */
function route() {
  const [name, query] = location.hash.replace(/^#\/?/, "").split("?");
  const id = new URLSearchParams(query).get("id");
  show(NAMES.includes(name) ? name : "try");
  if (name === "why" && id) views.why.find(id);
}

async function look() {
  const trouble = at("trouble");
  try {
    const now = await read("/console/api/now");
    trouble.hidden = true;
    tell(now);
  } catch (error) {
    trouble.textContent = `The server does not answer: ${error.message}. This page tries again.`;
    trouble.hidden = false;
    at("state").textContent = "no answer";
    at("state").className = "state failed";
  }
}

function tell(now) {
  const says = STATES[now.state] ?? now.state;
  if (at("state").textContent !== says) at("state").textContent = says;
  at("state").className = `state ${now.state in STATES ? now.state : ""}`;
  at("model").textContent = now.model ?? "";
  document.title = now.model ? `${now.model} · lmi-chat` : "lmi-chat console";
  views.try.update(now);
  views.watch.update(now);
}

const tabs = document.querySelector("[role=tablist]");
tabs.addEventListener("click", ({ target }) => target.role === "tab" && (location.hash = `/${target.id.slice(4)}`));
rove(tabs, "[role=tab]", (tab) => (location.hash = `/${tab.id.slice(4)}`));
addEventListener("hashchange", route);
route();
poll(look, 1000);
