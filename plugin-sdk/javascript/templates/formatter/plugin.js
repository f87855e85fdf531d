// A formatter: a row's question and answer become a conversation.
import { formatter, json } from "./sdk/trainer.js";

export const formatting = formatter({
  name: "my-plugin",
  version: "0.1.0",
  summary: "Questions and answers as conversations.",
  reads: [json("question", { optional: true }), json("answer", { optional: true })],
  options: { system: { type: "string", description: "a system prompt before every question" } },

  format(row, { system = "" }) {
    for (const field of ["question", "answer"]) {
      const value = row.get(field);
      if (value === null) return { reject: `field \`${field}\` is missing` };
      if (typeof value !== "string") return { reject: `field \`${field}\` is not a string` };
    }
    if (row.get("answer").trim() === "") return { skip: "empty answer" };
    const messages = system === "" ? [] : [{ role: "system", content: system }];
    messages.push({ role: "user", content: row.get("question") });
    messages.push({ role: "assistant", content: row.get("answer") });
    return { messages };
  },
});
