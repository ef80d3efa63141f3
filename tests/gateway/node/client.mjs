// Runs the official Node client against the gateway of BASE_URL with API_KEY, and prints one JSON object of what it saw.
import OpenAI from "openai";

const { BASE_URL, API_KEY } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "hello there" }];
const seen = {};

const chat = await client.chat.completions.create({ model: "echo", messages });
seen.chat = chat.choices[0].message.content;

seen.stream = "";
for await (const chunk of await client.chat.completions.create({ model: "echo-1", messages, stream: true, stream_options: { include_usage: true } })) {
  seen.stream += chunk.choices[0]?.delta?.content ?? "";
  seen.usage = chunk.usage?.total_tokens ?? seen.usage;
}

seen.models = (await client.models.list()).data.map((model) => model.id);
const embedding = await client.embeddings.create({ model: "all-minilm-l6-v2", input: "hello" });
seen.dimensions = embedding.data[0].embedding.length;

seen.errors = {};
const wrong = {
  400: [client, { model: "echo", messages: [] }],
  401: [new OpenAI({ baseURL: BASE_URL, apiKey: "cg-wrong", maxRetries: 0 }), { model: "echo", messages }],
  404: [client, { model: "no-such-model", messages }],
  429: [client, { model: "fail-429", messages }],
  502: [client, { model: "fail-500", messages }],
};
for (const [status, [who, body]] of Object.entries(wrong)) {
  try {
    await who.chat.completions.create(body);
    seen.errors[status] = "none";
  } catch (error) {
    seen.errors[status] = [error.constructor.name, error.status, error.code];
  }
}
try {
  for await (const _ of await client.chat.completions.create({ model: "truncate", messages: [{ role: "user", content: "long enough to be cut" }], stream: true }));
  seen.cut = "none";
} catch (error) {
  seen.cut = error.constructor.name;
}
console.log(JSON.stringify(seen));
