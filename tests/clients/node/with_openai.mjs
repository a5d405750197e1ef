// OpenAI's client for Node. It is asked for the same as every other client (programs/case.py).
import fs from "node:fs";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const { CLIENT_ADDRESS, CLIENT_KEY, CLIENT_MODEL, CLIENT_EMBEDS, CLIENT_CASE } = process.env;
const given = JSON.parse(CLIENT_CASE);
const client = new OpenAI({
  baseURL: `${CLIENT_ADDRESS}/v1`,
  apiKey: CLIENT_KEY,
  maxRetries: 0,
  timeout: 300_000,
});
const cold = { model: CLIENT_MODEL, temperature: 0, max_tokens: given.most };
const coldResponse = { model: CLIENT_MODEL, temperature: 0, max_output_tokens: given.most };
const ask = { ...cold, messages: [{ role: "user", content: given.question }] };
const City = z.strictObject({
  city: z.string(),
  country: z.string(),
  continent: z.enum(["Africa", "America", "Asia", "Europe", "Oceania"]),
});
const named = {
  name: given.tool,
  description: given.tool_text,
  parameters: given.tool_schema,
};

function check(holds, what) {
  if (!holds) throw new Error(`not so: ${JSON.stringify(what)}`);
}

function checkCall(call) {
  check(call.name === given.tool, call);
  const found = JSON.parse(call.arguments);
  check(Object.keys(found).join() === "city" && /prague/i.test(found.city), call);
  return JSON.stringify(given.found);
}

async function chat() {
  const answer = await client.chat.completions.create(ask);
  check(/spring/i.test(answer.choices[0].message.content), answer);
  check(answer.usage.completion_tokens > 0, answer.usage);
  const response = await client.responses.create({ ...coldResponse, input: given.question });
  check(/spring/i.test(response.output_text), response);
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  check(models.includes(CLIENT_MODEL), models);
  if (!CLIENT_EMBEDS) return;
  const vectors = await client.embeddings.create({ model: CLIENT_MODEL, input: ["spring", "car"] });
  check(vectors.data.length === 2 && vectors.data[0].embedding.length > 100, vectors.data.length);
}

async function streaming() {
  const whole = (await client.chat.completions.create(ask)).choices[0].message.content;
  const pieces = [];
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true }))
    pieces.push(chunk.choices[0]?.delta.content ?? "");
  check(pieces.filter(Boolean).length > 3 && pieces.join("") === whole, pieces);
  // This one puts the answer together itself, and throws where an event does not fit the last.
  const stream = client.chat.completions.stream(ask);
  check((await stream.finalContent()) === whole, whole);
  const events = client.responses.stream({ ...coldResponse, input: given.question });
  const said = [];
  events.on("response.output_text.delta", (event) => said.push(event.delta));
  const response = await events.finalResponse();
  check(said.length > 3 && said.join("") === response.output_text, said);
}

async function tools() {
  const messages = [{ role: "user", content: given.weather }];
  const offered = { ...cold, tools: [{ type: "function", function: named }] };
  const choice = { type: "function", function: { name: given.tool } };
  const whole = await client.chat.completions.create({
    ...offered,
    messages,
    tool_choice: "required",
    parallel_tool_calls: false,
  });
  const stream = client.chat.completions.stream({ ...offered, messages, tool_choice: choice });
  for (const message of [whole.choices[0].message, await stream.finalMessage()]) {
    check(message.tool_calls?.length === 1, message);
    const results = message.tool_calls.map((call) => ({
      role: "tool",
      tool_call_id: call.id,
      content: checkCall(call.function),
    }));
    const final = await client.chat.completions.create({
      ...offered,
      messages: [...messages, message, ...results],
      tool_choice: "none",
    });
    check(final.choices[0].message.content.includes("17"), final.choices[0]);
  }
  await toolsOfResponses();
}

async function toolsOfResponses() {
  const offered = { ...coldResponse, tools: [{ type: "function", strict: true, ...named }] };
  const input = [{ role: "user", content: given.weather }];
  const asked = { ...offered, input, tool_choice: "required", parallel_tool_calls: false };
  const { output } = await client.responses.stream(asked).finalResponse();
  const results = output.map((call) => ({
    type: "function_call_output",
    call_id: call.call_id,
    output: checkCall(call),
  }));
  const final = await client.responses.create({
    ...offered,
    input: [...input, ...output, ...results],
    tool_choice: "none",
  });
  check(final.output_text.includes("17"), final.output_text);
}

async function form() {
  const messages = [{ role: "user", content: given.city }];
  const response_format = zodResponseFormat(City, "city");
  const answer = await client.chat.completions.parse({ ...cold, messages, response_format });
  check(answer.choices[0].message.parsed.city === "Paris", answer.choices[0].message);
  const stream = client.chat.completions.stream({ ...cold, messages, response_format });
  const { parsed } = (await stream.finalChatCompletion()).choices[0].message;
  check(City.parse(parsed).city === "Paris", parsed);
  const text = { format: zodTextFormat(City, "city") };
  const response = await client.responses.parse({ ...coldResponse, input: given.city, text });
  check(response.output_parsed.city === "Paris", response.output_parsed);
}

const failed = {};
for (const [name, work] of Object.entries({
  chat,
  streaming,
  tools,
  "structured output": form,
})) {
  try {
    await work();
    failed[name] = null;
  } catch (error) {
    failed[name] = String(error.stack ?? error);
  }
}
const manifest = new URL("./node_modules/openai/package.json", `file://${process.cwd()}/`);
const { version } = JSON.parse(fs.readFileSync(manifest, "utf8"));
console.log(JSON.stringify({ version, failed }));
