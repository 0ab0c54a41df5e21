// Writes the code that sends one request: curl, boto3, the openai and the anthropic package.

import { DIALECTS } from "./dialects.js";

const KNOWN = {
  chat: "model messages temperature top_p max_tokens max_completion_tokens n seed stop presence_penalty frequency_penalty logprobs top_logprobs response_format tools tool_choice stream stream_options user",
  completion: "model prompt temperature top_p max_tokens n seed stop presence_penalty frequency_penalty logprobs stream stream_options user echo",
  responses: "model input instructions temperature top_p max_output_tokens include top_logprobs text tools stream",
  anthropic: "model messages system max_tokens stop_sequences tools output_config stream",
};
const CALLS = {
  chat: "client.chat.completions.create",
  completion: "client.completions.create",
  responses: "client.responses.create",
};
const READS = {
  chat: ["chunk", "if chunk.choices:\n        print(chunk.choices[0].delta.content or \"\", end=\"\", flush=True)", "print(answer.choices[0].message.content)"],
  completion: ["chunk", "if chunk.choices:\n        print(chunk.choices[0].text, end=\"\", flush=True)", "print(answer.choices[0].text)"],
  responses: ["event", "if event.type == \"response.output_text.delta\":\n        print(event.delta, end=\"\", flush=True)", "print(answer.output_text)"],
};

/** A value as Python writes it; JSON's strings are Python's too. */
export function python(value, indent = "") {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const isList = Array.isArray(value);
  const parts = isList
    ? value.map((one) => python(one, inner))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, inner)}`);
  const [open, close] = isList ? "[]" : "{}";
  const flat = `${open}${parts.join(", ")}${close}`;
  if (flat.length + indent.length <= 96 && !flat.includes("\n")) return flat;
  return `${open}\n${parts.map((part) => `${inner}${part},\n`).join("")}${indent}${close}`;
}

const keywords = (values) => Object.entries(values).map(([name, value]) => `    ${name}=${python(value, "    ")},\n`).join("");

function split(body, dialect) {
  const known = KNOWN[dialect].split(" ");
  const entries = Object.entries(body);
  const extra = Object.fromEntries(entries.filter(([name]) => !known.includes(name)));
  const own = Object.fromEntries(entries.filter(([name]) => known.includes(name)));
  return Object.keys(extra).length ? { ...own, extra_body: extra } : own;
}

function curl({ body, path, origin, hasKey }) {
  const quoted = JSON.stringify(body, null, 1).replaceAll("'", "'\\''");
  const lines = [
    `curl -s${body.stream ? "N" : ""} ${origin}${path}`,
    "-H 'content-type: application/json'",
    ...(path === "/invocations" && body.stream ? ["-H 'accept: text/event-stream'"] : []),
    ...(hasKey ? ['-H "authorization: Bearer $LMI_CHAT_KEY"'] : []),
    `-d '${quoted}'`,
  ];
  return lines.join(" \\\n  ");
}

function boto3({ body, path, origin, hasKey }) {
  const route = path === "/invocations" ? "" : `    CustomAttributes="route=${path}",\n`;
  const secret = hasKey ? '# The key goes into the header x-api-key, as a boto3 event "before-send" can set it.\n' : "";
  const call = body.stream ? "invoke_endpoint_with_response_stream" : "invoke_endpoint";
  const reads = body.stream
    ? 'for event in reply["Body"]:\n    print(event["PayloadPart"]["Bytes"].decode(), end="")'
    : 'print(reply["Body"].read().decode())';
  return `import json

import boto3

${secret}runtime = boto3.client(
    "sagemaker-runtime",
    endpoint_url=${python(origin)},  # leave this and the keys out for a real endpoint
    region_name="us-east-1",
    aws_access_key_id="none",
    aws_secret_access_key="none",
)
body = ${python(body)}
reply = runtime.${call}(
    EndpointName="my-endpoint",
    ContentType="application/json",
${route}    Body=json.dumps(body),
)
${reads}
`;
}

const keyOf = (hasKey) => (hasKey ? 'os.environ["LMI_CHAT_KEY"]' : '"none"');
const head = (name, hasKey) => `${hasKey ? "import os\n\n" : ""}import ${name}\n\n`;

function openai({ body, dialect, origin, model, hasKey }) {
  const [item, streams, whole] = READS[dialect];
  const values = split({ model, ...body }, dialect);
  const client = `client = openai.OpenAI(base_url=${python(`${origin}/v1`)}, api_key=${keyOf(hasKey)})\n`;
  const reads = body.stream ? `for ${item} in answer:\n    ${streams}` : whole;
  return `${head("openai", hasKey)}${client}answer = ${CALLS[dialect]}(\n${keywords(values)})\n${reads}\n`;
}

function anthropic({ body, origin, model, hasKey }) {
  const values = split({ model, ...body }, "anthropic");
  const client = `client = anthropic.Anthropic(base_url=${python(origin)}, api_key=${keyOf(hasKey)})\n`;
  const reads = body.stream
    ? 'for event in answer:\n    if event.type == "content_block_delta" and event.delta.type == "text_delta":\n        print(event.delta.text, end="", flush=True)'
    : 'print("".join(block.text for block in answer.content if block.type == "text"))';
  return `${head("anthropic", hasKey)}${client}answer = client.messages.create(\n${keywords(values)})\n${reads}\n`;
}

/** The codes of a request by their names, each with the dialect that it speaks. */
export function codes(request, name, { origin, model, hasKey }) {
  const of = (dialect) => {
    const { path } = DIALECTS[dialect];
    return { body: DIALECTS[dialect].write(translated(request, name, dialect)), path, dialect, origin, model, hasKey };
  };
  const openaiDialect = { standard: "completion", anthropic: "chat" }[name] ?? name;
  return [
    { name: "curl", dialect: name, text: curl(of(name)) },
    { name: "boto3", dialect: name, text: boto3(of(name)) },
    { name: "openai", dialect: openaiDialect, text: openai(of(openaiDialect)) },
    { name: "anthropic", dialect: "anthropic", text: anthropic(of("anthropic")) },
  ];
}

/** The same request with the sampling fields called as another dialect calls them. */
function translated(request, from, to) {
  if (from === to) return request;
  const renames = { [DIALECTS[from].limit]: DIALECTS[to].limit, [DIALECTS[from].stop]: DIALECTS[to].stop };
  const sampling = Object.fromEntries(Object.entries(request.sampling).map(([name, value]) => [renames[name] ?? name, value]));
  return { ...request, sampling };
}

/** A text for the eye: strings that nobody reads to their end are cut; the copy has them whole. */
export const shortened = (text) =>
  text.replace(/(data:[\w/+.-]+;base64,|"data": ?")[A-Za-z0-9+/=]{120,}/g, (found, begin) => `${begin}…${Math.round((found.length * 3) / 4096)} KiB…`);
