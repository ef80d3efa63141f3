// Runs the Vercel AI SDK against the gateway of BASE_URL with API_KEY, and prints one JSON object of what it saw.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";

const { BASE_URL, API_KEY } = process.env;
const chat = createOpenAICompatible({ name: "callgate", baseURL: BASE_URL, apiKey: API_KEY, includeUsage: true });
const responses = createOpenAI({ baseURL: BASE_URL, apiKey: API_KEY });
const prompt = "hello there";
const seen = {};

seen.chat = (await generateText({ model: chat("echo"), prompt, maxRetries: 0 })).text;
const stream = streamText({ model: chat("echo-1"), prompt, maxRetries: 0 });
seen.stream = "";
for await (const piece of stream.textStream) seen.stream += piece;
seen.usage = (await stream.usage).totalTokens;
seen.responses = (await generateText({ model: responses.responses("echo"), prompt, maxRetries: 0 })).text;
const streamed = streamText({ model: responses.responses("echo-1"), prompt, maxRetries: 0 });
seen.responsesStream = "";
for await (const piece of streamed.textStream) seen.responsesStream += piece;
const look_up = tool({ description: "Looks a customer up.", inputSchema: jsonSchema({ type: "object", properties: { who: { type: "string" } } }) });
const called = await generateText({ model: chat("tool"), prompt, tools: { look_up }, maxRetries: 0 });
seen.tool = called.toolCalls.map((call) => [call.toolName, call.input.who]);
try {
  await generateText({ model: chat("fail-429"), prompt, maxRetries: 0 });
} catch (error) {
  seen.error = [error.statusCode, error.isRetryable];
}
console.log(JSON.stringify(seen));
