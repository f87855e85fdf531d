// A template: `User: …` and `Assistant: …`, a line each.
import { CannotRender, lossWeight, template } from "./sdk/trainer.js";

const NAMES = { system: "System", user: "User" };
const end = (how) => how.eos || "</s>";

export const templating = template({
  name: "my-plugin",
  version: "0.1.0",
  summary: "User and Assistant, a line each.",

  render({ messages }, how) {
    if (messages.length === 0) throw new CannotRender("the conversation has no turns");
    const out = how.bos === "" ? [] : [{ text: how.bos }];
    for (const [index, message] of messages.entries()) {
      const { role, content } = message;
      const weight = lossWeight(message);
      if (role === "tool") throw new CannotRender("this template has no turns of tools");
      if (role === "assistant") {
        // What ends the answer is trained with it, or the model never learns to stop.
        const open = how.continueFinalMessage && index === messages.length - 1;
        out.push({ text: "Assistant:" });
        out.push({ text: ` ${content}${open ? "" : end(how)}`, role, weight });
        if (open) return out;
      } else {
        out.push({ text: `${NAMES[role]}: ` });
        out.push({ text: content, role, weight });
      }
      out.push({ text: "\n" });
    }
    if (how.addGenerationPrompt) out.push({ text: "Assistant:" });
    return out;
  },

  stopStrings: (how) => [end(how)],
});
