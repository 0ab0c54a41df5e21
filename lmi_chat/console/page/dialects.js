// Writes one request in each dialect, and folds what comes back, whole or streamed, into one answer.
//
// A request: {turns: [{role, text, images}], system, model, stream, sampling, logprobs, schema, tools}
// An answer: {text, reasoning, calls: [{name, arguments}], tokens: [{text, logprob, top}], finish, usage, error}

const given = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
const named = (request) => (request.model ? { model: request.model } : {});
const schemaForm = (schema) => ({ type: "json_schema", json_schema: { name: "answer", schema } });
const lastText = (request) => request.turns.filter((turn) => turn.role === "user").at(-1)?.text ?? "";

function messages(request, imagePart, textPart = (text) => ({ type: "text", text })) {
  return request.turns.map(({ role, text, images = [] }) => {
    if (!images.length) return { role, content: text };
    return { role, content: [...images.map(imagePart), ...(text ? [textPart(text)] : [])] };
  });
}

function sourceOf(url) {
  const [head, data] = url.split(",", 2);
  return { type: "base64", media_type: head.slice(5).split(";")[0], data };
}

const functionOf = (tool) => tool.function ?? tool;
const ranked = (list) => (list ?? []).map(({ token, text, logprob }) => ({ text: token ?? text, logprob }));
const chosen = (list) => (list ?? []).map((one) => ({ text: one.token, logprob: one.logprob, top: ranked(one.top_logprobs) }));

function counts(usage) {
  if (!usage) return undefined;
  return {
    prompt: usage.prompt_tokens ?? usage.input_tokens,
    completion: usage.completion_tokens ?? usage.output_tokens,
    cached: usage.prompt_tokens_details?.cached_tokens ?? usage.input_tokens_details?.cached_tokens ?? usage.cache_read_input_tokens,
  };
}

function addCalls(answer, parts) {
  for (const part of parts ?? []) {
    const call = (answer.calls[part.index ?? answer.calls.length] ??= { name: "", arguments: "" });
    call.name += part.function?.name ?? "";
    call.arguments += part.function?.arguments ?? "";
  }
}

const chat = {
  label: "Chat",
  says: "OpenAI's chat completions",
  path: "/v1/chat/completions",
  limit: "max_tokens",
  stop: "stop",
  isChat: true,
  logprobs: true,
  write(request) {
    return given({
      ...named(request),
      messages: [
        ...(request.system ? [{ role: "system", content: request.system }] : []),
        ...messages(request, (url) => ({ type: "image_url", image_url: { url } })),
      ],
      ...request.sampling,
      logprobs: request.logprobs ? true : undefined,
      top_logprobs: request.logprobs || undefined,
      response_format: request.schema && schemaForm(request.schema),
      tools: request.tools,
      stream: request.stream || undefined,
      stream_options: request.stream ? { include_usage: true } : undefined,
    });
  },
  fold(answer, document) {
    const [one] = document.choices ?? [];
    const part = one?.delta ?? one?.message;
    answer.text += part?.content ?? "";
    answer.reasoning += part?.reasoning ?? part?.reasoning_content ?? "";
    addCalls(answer, part?.tool_calls);
    if (part?.content || one?.message) answer.tokens.push(...chosen(one.logprobs?.content));
    answer.finish = one?.finish_reason ?? answer.finish;
    answer.usage = counts(document.usage) ?? answer.usage;
  },
};

const standard = {
  label: "Standard",
  says: "LMI's and TGI's inputs; continues the text, without a chat template",
  path: "/invocations",
  limit: "max_new_tokens",
  stop: "stop",
  logprobs: true,
  write(request) {
    const parameters = given({
      ...request.sampling,
      details: true,
      top_n_tokens: request.logprobs || undefined,
      response_format: request.schema && schemaForm(request.schema),
    });
    return given({ inputs: lastText(request), parameters, ...named(request), stream: request.stream || undefined });
  },
  fold(answer, document) {
    if (document.token && !document.error) {
      answer.text += document.token.special ? "" : document.token.text;
      answer.tokens.push({ text: document.token.text, logprob: document.token.logprob, top: ranked(document.top_tokens) });
    }
    const details = document.details;
    if (details?.tokens) {
      answer.text += document.generated_text;
      answer.tokens = details.tokens.map((token, at) => ({ ...token, top: ranked(details.top_tokens?.[at]) }));
    }
    answer.finish = details?.finish_reason ?? answer.finish;
    if (!details) return;
    answer.usage = { prompt: details.input_length ?? details.usage?.prompt_tokens, completion: details.generated_tokens };
  },
};

const completion = {
  label: "Completions",
  says: "OpenAI's older completions; continues the text, without a chat template",
  path: "/v1/completions",
  limit: "max_tokens",
  stop: "stop",
  logprobs: true,
  write(request) {
    return given({
      ...named(request),
      prompt: lastText(request),
      ...request.sampling,
      logprobs: request.logprobs || undefined,
      response_format: request.schema && schemaForm(request.schema),
      stream: request.stream || undefined,
      stream_options: request.stream ? { include_usage: true } : undefined,
    });
  },
  fold(answer, document) {
    const [one] = document.choices ?? [];
    answer.text += one?.text ?? "";
    const { tokens = [], token_logprobs: figures = [], top_logprobs: tops = [] } = one?.logprobs ?? {};
    tokens.forEach((text, at) => {
      const top = Object.entries(tops[at] ?? {}).map(([other, logprob]) => ({ text: other, logprob }));
      answer.tokens.push({ text, logprob: figures[at], top: top.sort((a, b) => b.logprob - a.logprob) });
    });
    answer.finish = one?.finish_reason ?? answer.finish;
    answer.usage = counts(document.usage) ?? answer.usage;
  },
};

const anthropic = {
  label: "Messages",
  says: "Anthropic's Messages",
  path: "/v1/messages",
  limit: "max_tokens",
  stop: "stop_sequences",
  isChat: true,
  logprobs: false,
  needs: { max_tokens: 256 },
  write(request) {
    const own = (tool) => given({ name: tool.name, description: tool.description, input_schema: tool.parameters ?? { type: "object" } });
    return given({
      ...named(request),
      ...anthropic.needs,
      system: request.system || undefined,
      messages: messages(request, (url) => ({ type: "image", source: sourceOf(url) })),
      ...request.sampling,
      tools: request.tools?.map(functionOf).map(own),
      output_config: request.schema && { format: { type: "json_schema", schema: request.schema } },
      stream: request.stream || undefined,
    });
  },
  fold(answer, document) {
    const blocks = document.content ?? (document.content_block ? [document.content_block] : []);
    for (const block of blocks) {
      answer.text += block.text ?? "";
      answer.reasoning += block.thinking ?? "";
      const isWhole = Boolean(document.content);
      if (block.type === "tool_use") answer.calls.push({ name: block.name, arguments: isWhole ? JSON.stringify(block.input) : "" });
    }
    const delta = document.delta ?? {};
    answer.text += delta.text ?? "";
    answer.reasoning += delta.thinking ?? "";
    if (delta.partial_json) answer.calls.at(-1).arguments += delta.partial_json;
    answer.finish = delta.stop_reason ?? document.stop_reason ?? answer.finish;
    answer.usage = { ...answer.usage, ...given(counts(document.usage ?? document.message?.usage) ?? {}) };
  },
};

const responses = {
  label: "Responses",
  says: "OpenAI's Responses",
  path: "/v1/responses",
  limit: "max_output_tokens",
  stop: "stop",
  isChat: true,
  logprobs: true,
  write(request) {
    const image = (url) => ({ type: "input_image", image_url: url, detail: "auto" });
    const text = (value) => ({ type: "input_text", text: value });
    return given({
      ...named(request),
      instructions: request.system || undefined,
      input: messages(request, image, text),
      ...request.sampling,
      include: request.logprobs ? ["message.output_text.logprobs"] : undefined,
      top_logprobs: request.logprobs || undefined,
      text: request.schema && { format: { type: "json_schema", name: "answer", schema: request.schema } },
      tools: request.tools?.map((tool) => ({ type: "function", ...functionOf(tool) })),
      stream: request.stream || undefined,
    });
  },
  fold(answer, document) {
    if (document.object === "response") for (const item of document.output) foldItem(answer, item);
    const { type, delta } = document;
    if (type === "response.output_text.delta") {
      answer.text += delta;
      answer.tokens.push(...chosen(document.logprobs));
    }
    if (type === "response.reasoning_text.delta") answer.reasoning += delta;
    if (type === "response.output_item.added" && document.item.type === "function_call") {
      answer.calls.push({ name: document.item.name, arguments: "" });
    }
    if (type === "response.function_call_arguments.delta") answer.calls.at(-1).arguments += delta;
    const whole = document.response ?? (document.object === "response" ? document : null);
    if (!whole?.usage) return;
    answer.usage = counts(whole.usage);
    answer.finish = whole.incomplete_details?.reason ?? whole.status;
  },
};

function foldItem(answer, item) {
  const text = (item.content ?? []).map((part) => part.text ?? "").join("");
  if (item.type === "message") answer.text += text;
  if (item.type === "message") for (const part of item.content) answer.tokens.push(...chosen(part.logprobs));
  if (item.type === "reasoning") answer.reasoning += text;
  if (item.type === "function_call") answer.calls.push({ name: item.name, arguments: item.arguments });
}

export const DIALECTS = { chat, standard, completion, anthropic, responses };
export const blank = () => ({ text: "", reasoning: "", calls: [], tokens: [], finish: null, usage: undefined, error: null });

/** Whether a document of a stream says that the answer breaks off. */
export const broken = (document) =>
  Boolean(document.error) || ["error", "response.failed"].includes(document.type) || document.status === "failed";
