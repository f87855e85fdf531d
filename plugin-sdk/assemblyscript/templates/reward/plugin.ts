// A reward: 1 where the final answer of a completion is that of the reference.
import { About, Column, Row, Score, TEXT, Text, optionNumber } from "./sdk/trainer";

export const about = new About(
  "my-plugin",
  "0.1.0",
  "1 where the final answer is that of the reference, else 0.",
  `{"type": "object", "additionalProperties": false, "properties": {
    "unmarked": {"type": "number", "default": 1, "minimum": 0, "maximum": 1,
      "description": "score of a right answer that no #### marks"}}}`,
);

export const columns: Column[] = [new Column("completion", TEXT), new Column("reference", TEXT, true)];

let unmarked: f64 = 1;

/** Answers null, or why the options can't be used. */
export function configure(options: string, seed: u64): string | null {
  unmarked = optionNumber(options, "unmarked", 1);
  return null;
}

export function score(row: Row): Score {
  const reference = row.text("reference");
  const wanted = reference ? answer(reference) : null;
  if (!wanted) return Score.none();
  const completion = row.text("completion");
  const marked = completion ? completion.lastIndexOf("####") >= 0 : false;
  const said = completion ? answer(completion) : null;
  const right = said ? said == wanted : false;
  return new Score(true, right ? (marked ? 1.0 : unmarked) : 0.0).part("marked", marked ? 1.0 : 0.0);
}

function digit(text: Text, at: i32): bool {
  const c = text.byte(at);
  return c >= 0x30 && c <= 0x39;
}

/** The end of the number that begins at the digit `at`. */
function numberEnd(text: Text, at: i32): i32 {
  while (true) {
    while (digit(text, at)) at++;
    const group = text.byte(at) == 0x2c && digit(text, at + 1) && digit(text, at + 2) &&
      digit(text, at + 3) && !digit(text, at + 4);
    if (!group) break;
    at += 4;
  }
  if (text.byte(at) == 0x2e && digit(text, at + 1)) {
    at++;
    while (digit(text, at)) at++;
  }
  return at;
}

/** The first number after the last `####`, else the last number; in canonical form. */
function answer(text: Text): string | null {
  const marker = text.lastIndexOf("####");
  const said = marker < 0 ? text : text.slice(marker + 4, text.length);
  let number: Text | null = null;
  let at = 0;
  while (at < said.length) {
    if (!digit(said, at)) {
      at++;
      continue;
    }
    let begin = at;
    at = numberEnd(said, at);
    if (said.byte(begin - 1) == 0x2d && !digit(said, begin - 2)) begin--;
    number = said.slice(begin, at);
    if (marker >= 0) break;
  }
  return number ? canonical(number.toString()) : null;
}

/** Without separators and zeros that say nothing. */
function canonical(number: string): string {
  const sign = number.startsWith("-") ? "-" : "";
  const sides = number.slice(sign.length).replaceAll(",", "").split(".");
  let whole = sides[0], fraction = sides.length > 1 ? sides[1] : "";
  while (whole.length > 1 && whole.startsWith("0")) whole = whole.slice(1);
  while (fraction.endsWith("0")) fraction = fraction.slice(0, fraction.length - 1);
  const digits = fraction.length > 0 ? whole + "." + fraction : whole;
  return digits == "0" ? digits : sign + digits;
}
