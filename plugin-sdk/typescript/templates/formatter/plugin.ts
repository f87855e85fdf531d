// A formatter: a row's question and answer become a conversation.
import { type Message, type Outcome, type Row, formatter, json } from "./sdk/trainer.js";

export const formatting = formatter({
  name: "my-plugin",
  version: "0.1.0",
  summary: "Questions and answers as conversations.",
  reads: [json("question", { optional: true }), json("answer", { optional: true })],
  options: { system: { type: "string", description: "a system prompt before every question" } },

  format(row: Row, { system = "" }): Outcome {
    const question = row.get("question");
    const answer = row.get("answer");
    for (const [field, value] of Object.entries({ question, answer })) {
      if (value === null) return { reject: `field \`${field}\` is missing` };
      if (typeof value !== "string") return { reject: `field \`${field}\` is not a string` };
    }
    if (answer.trim() === "") return { skip: "empty answer" };
    const messages: Message[] = system === "" ? [] : [{ role: "system", content: system }];
    messages.push({ role: "user", content: question });
    messages.push({ role: "assistant", content: answer });
    return { messages };
  },
});
