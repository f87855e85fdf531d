// A reward: 1 where the final answer of a completion is that of the reference.
import { reward, text } from "./sdk/trainer.js";

export const rewards = reward({
  name: "my-plugin",
  version: "0.1.0",
  summary: "1 where the final answer is that of the reference, else 0.",
  reads: [text("completion"), text("reference", { optional: true })],
  options: {
    unmarked: {
      type: "number", default: 1, minimum: 0, maximum: 1,
      description: "score of a right answer that no #### marks",
    },
  },

  score(row, { unmarked = 1 }) {
    const reference = answer(row.get("reference") ?? "");
    if (reference === null) return null;
    const completion = row.get("completion") ?? "";
    const marked = completion.includes("####");
    const right = answer(completion) === reference;
    return { value: right ? (marked ? 1 : unmarked) : 0, parts: { marked: marked ? 1 : 0 } };
  },
});

const NUMBER = /[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?/g;

/** The first number after the last `####`, else the last number; in canonical form. */
function answer(said) {
  const at = said.lastIndexOf("####");
  const rest = said.slice(at < 0 ? 0 : at + 4);
  let found = null;
  NUMBER.lastIndex = 0;
  for (let next = NUMBER.exec(rest); next !== null; next = NUMBER.exec(rest)) {
    found = next;
    if (at >= 0) break;
  }
  if (found === null) return null;
  const before = rest.slice(Math.max(found.index - 2, 0), found.index);
  return canonical(before.endsWith("-") && !/^[0-9]/.test(before) ? "-" : "", found[0]);
}

/** Without separators and zeros that say nothing. */
function canonical(sign, number) {
  let [whole, fraction = ""] = number.replaceAll(",", "").split(".");
  whole = whole.replace(/^0+(?=.)/, "");
  fraction = fraction.replace(/0+$/, "");
  const digits = fraction === "" ? whole : `${whole}.${fraction}`;
  return digits === "0" ? digits : sign + digits;
}
