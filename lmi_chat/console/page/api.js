// Asks the server: with the key, where it wants one, and with what it refuses as one sentence.

const KEPT = "lmi-chat.key";
let asking = null;

export const key = () => sessionStorage.getItem(KEPT) || "";

/** What the server refuses, in its own sentence. */
export class Refused extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Fetch a path; a 401 asks the person for a key and goes on with it. Raises Refused. */
export async function ask(path, options = {}) {
  for (;;) {
    const shown = key();
    const headers = { ...options.headers, ...(shown ? { authorization: `Bearer ${shown}` } : {}) };
    const reply = await reach(path, { cache: "no-store", ...options, headers });
    if (reply.ok) return reply;
    const refused = await refusal(reply);
    if (reply.status !== 401) throw refused;
    if (shown === key()) await unlock(shown ? refused.message : "");
  }
}

export const read = async (path, options) => (await ask(path, options)).json();

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server cannot be reached");
  }
}

async function refusal(reply) {
  const text = (await reply.text()).slice(0, 4000);
  let message = text || `${reply.status} ${reply.statusText}`;
  try {
    message = sentence(JSON.parse(text)) || message;
  } catch {
    // no JSON: its text stands
  }
  return new Refused(reply.status, message, reply.headers.get("retry-after"));
}

/** The sentence of an error, in any dialect's shape. */
export function sentence(document) {
  const error = document?.error ?? document?.response?.error ?? document;
  return typeof error === "string" ? error : error?.message ?? document?.message ?? "";
}

/** Let the person type a key; every request that waits for one shares the question. */
function unlock(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("lock");
    const field = document.getElementById("key");
    const says = document.getElementById("lock-wrong");
    says.hidden = !wrong;
    says.textContent = wrong;
    field.value = "";
    dialog.showModal();
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEPT, field.value.trim());
      asking = null;
      resolve();
    }, { once: true });
  });
  return asking;
}

/** Read server-sent events as they come; `onevent` takes each one's document. */
export async function events(reply, onevent) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split(/\r?\n\r?\n/);
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length && data[0] !== "[DONE]") onevent(JSON.parse(data.join("\n")));
    }
  }
}

/** Call `work` now and again every `period_ms`, one call at a time, while `isWanted()` and the page can be seen. */
export function poll(work, period_ms, isWanted = () => true) {
  let timer = 0;
  const turn = async () => {
    clearTimeout(timer);
    if (isWanted() && !document.hidden) await work();
    clearTimeout(timer);
    timer = setTimeout(turn, period_ms);
  };
  document.addEventListener("visibilitychange", () => document.hidden || turn());
  turn();
  return turn;
}
