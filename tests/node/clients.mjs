// Ask a server by the `openai` and `@anthropic-ai/sdk` packages as they are; each line printed is one fact as JSON.
// Usage: node clients.mjs URL, in a folder that has node_modules.
import Anthropic from "@anthropic-ai/sdk";
import { betaTool } from "@anthropic-ai/sdk/helpers/beta/json-schema";
import OpenAI from "openai";

const url = process.argv[2];
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const claude = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const model = "tiny";
const messages = [{ role: "user", content: "Weather in Bern?" }];
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = ({ city }) => `22 degrees in ${city}`;
const told = (name, fact) => console.log(JSON.stringify({ [name]: fact }));

async function chats() {
  const whole = await openai.chat.completions.create({ model, messages });
  told("chat", [whole.choices[0].message.content, whole.choices[0].finish_reason]);
  const stream = await openai.chat.completions.create({ model, messages, stream: true });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  told("chat, streamed", text);
  const tools = [
    {
      type: "function",
      function: { name: "weather", parameters: schema, parse: JSON.parse, function: weather, description: "of a city" },
    },
  ];
  const runner = openai.chat.completions.runTools({ model, messages, tools, stream: true });
  told("chat, tools run", [await runner.finalContent(), (await runner.finalFunctionToolCall()).arguments]);
}

async function responses() {
  const tools = [{ type: "function", name: "weather", parameters: schema, strict: false }];
  const whole = await openai.responses.create({ model, input: "Weather in Bern?" });
  told("responses", [whole.output_text, whole.status]);
  const stream = openai.responses.stream({ model, input: messages, tools });
  const kinds = new Set();
  for await (const event of stream) kinds.add(event.type);
  const final = await stream.finalResponse();
  const call = final.output.find((item) => item.type === "function_call");
  told("responses, streamed", [final.output.map((item) => item.type), call.arguments, kinds.has("response.completed")]);
  const output = { type: "function_call_output", call_id: call.call_id, output: weather(JSON.parse(call.arguments)) };
  const second = await openai.responses.create({ model, input: [...messages, ...final.output, output], tools });
  told("responses, result", second.output_text);
}

async function refusals() {
  try {
    await openai.chat.completions.create({ model, messages, temperature: 3 });
  } catch (error) {
    told("openai, refused", [error instanceof OpenAI.BadRequestError, error.param, error.status]);
  }
  try {
    await claude.messages.create({ model: "other", messages, max_tokens: 50 });
  } catch (error) {
    told("anthropic, refused", [error instanceof Anthropic.NotFoundError, error.error.error.type, error.status]);
  }
}

async function claudes() {
  const whole = await claude.messages.create({ model, messages, max_tokens: 50 });
  told("messages", [whole.content.map((block) => block.text), whole.stop_reason]);
  const tools = [{ name: "weather", input_schema: schema }];
  const stream = claude.messages.stream({ model, messages, tools, max_tokens: 100 });
  const ended = [];
  let json = "";
  stream.on("contentBlock", (block) => ended.push(block.type));
  stream.on("inputJson", (piece) => (json += piece));
  const final = await stream.finalMessage();
  told("messages, streamed", [ended, json, final.content.at(-1).input, final.stop_reason, final.usage.output_tokens]);
  told("messages, counted", (await claude.messages.countTokens({ model, messages })).input_tokens);
  const tool = betaTool({ name: "weather", description: "of a city", inputSchema: schema, run: weather });
  const runner = claude.beta.messages.toolRunner({ model, messages, tools: [tool], max_tokens: 100 });
  const last = await runner;
  told("messages, tools run", last.content.map((block) => block.text));
}

await chats();
await responses();
await claudes();
await refusals();
