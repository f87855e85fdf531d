/**
 * Plugins of trainer in JavaScript or TypeScript: `reward`, `formatter` and `template` make what a
 * plugin exports. Types are in `trainer.d.ts`.
 */
import { log as hostLog } from "trainer:plugin/host@0.1.0";

const column = (kind) => (name, { optional = false } = {}) => ({ name, kind, optional });
export const text = column("utf8");
export const integer = column("int64");
export const number = column("float64");
export const boolean = column("boolean");
export const binary = column("binary");
export const json = column("json");

/** Throw it in `configure`, naming the option. */
export class InvalidOptions extends Error {}
/** Throw it in `render`: the conversation is rejected with this reason. */
export class CannotRender extends Error {}

/** A line for the run's log; `level` is debug, info, warn or error. */
export function log(message, level = "info") {
  hostLog(level, String(message));
}

/** The text with halves of surrogate pairs, which are no characters, replaced. */
function clean(text) {
  if (typeof text !== "string") return text;
  return text.toWellFormed ? text.toWellFormed() : text.replace(/\p{Cs}/gu, "\ufffd");
}

/** One row; `get` answers `null` where there is no value. */
class Row {
  constructor(columns, index, whole) {
    this.columns = columns;
    this.index = index;
    this.whole = whole;
  }
  raw(name) {
    const column = this.columns.get(name);
    if (column === undefined || column.nulls.has(this.index)) return null;
    return column.values[this.index];
  }
  get(name) {
    const value = this.raw(name);
    return value !== null && this.columns.get(name).json ? JSON.parse(value) : value;
  }
}

function* rows(batch) {
  const columns = new Map();
  for (const { name, values, nulls } of batch.columns) {
    columns.set(name, { values: values.val, nulls: new Set(nulls), json: values.tag === "json" });
  }
  for (let index = 0; index < batch.rows; index++) {
    yield new Row(columns, index, batch.wholeRows[index] ?? null);
  }
}

/** `describe` and `configure` of a plugin. */
function common(plugin) {
  const reads = (columns) => ({ columns: columns ?? [], wholeRows: plugin.wholeRows ?? false });
  const schema = {
    type: "object",
    additionalProperties: false,
    properties: plugin.options,
    required: plugin.required,
  };
  const state = { options: {} };
  return {
    state,
    describe: () => ({
      name: plugin.name,
      version: plugin.version ?? "0.1.0",
      summary: plugin.summary ?? "",
      reads: reads(plugin.reads),
      optionsSchema: plugin.options ? JSON.stringify(schema) : "",
      deterministic: plugin.deterministic ?? true,
    }),
    configure(options, seed) {
      state.options = JSON.parse(options);
      try {
        const own = plugin.configure?.(state.options, seed);
        state.options = own?.options ?? state.options;
        return reads(own?.reads ?? plugin.reads);
      } catch (fault) {
        if (fault instanceof InvalidOptions) throw { tag: "invalid-options", val: fault.message };
        throw fault;
      }
    },
  };
}

function rowScore(score) {
  if (score === null || score === undefined) return { value: undefined, parts: [] };
  if (typeof score === "number") return { value: score, parts: [] };
  const parts = Object.entries(score.parts ?? {}).map(([name, value]) => ({ name, value }));
  return { value: score.value ?? undefined, parts };
}

/** What a reward exports as `rewards`. */
export function reward(plugin) {
  const { state, ...shared } = common(plugin);
  return {
    ...shared,
    score: (batch) =>
      Array.from(rows(batch), (row) => rowScore(plugin.score(row, state.options))),
  };
}

const message = (m) => ({
  role: m.role,
  content: clean(m.content ?? ""),
  toolCalls: (m.toolCalls ?? []).map((c) => ({
    name: clean(c.name),
    arguments: clean(c.arguments ?? "{}"),
    id: clean(c.id),
  })),
  toolCallId: clean(m.toolCallId),
  name: clean(m.name),
  weight: m.weight,
});
const conversation = (c) => ({ messages: c.messages.map(message), tools: clean(c.tools) });

function example(e) {
  if (typeof e === "string") return { tag: "text", val: clean(e) };
  if (e.messages) return { tag: "conversation", val: conversation(e) };
  if (e.chosen) {
    const val = {
      prompt: conversation(e.prompt),
      chosen: e.chosen.map(message),
      rejected: e.rejected.map(message),
      margin: e.margin,
    };
    return { tag: "preference", val };
  }
  if (e.conversation) {
    const [reference, columns] = [clean(e.reference), clean(e.columns)];
    return { tag: "prompt", val: { conversation: conversation(e.conversation), reference, columns } };
  }
  const val = { inputIds: Uint32Array.from(e.inputIds), labels: Int32Array.from(e.labels) };
  return { tag: "tokens", val };
}

function outcome(o) {
  const notes = (o.notes ?? []).map(clean);
  if (o.skip !== undefined) return { verdict: { tag: "skip", val: clean(o.skip) }, notes };
  if (o.reject !== undefined) return { verdict: { tag: "reject", val: clean(o.reject) }, notes };
  return { verdict: { tag: "keep", val: (o.keep ?? [o]).map(example) }, notes };
}

/** What a formatter exports as `formatting`. */
export function formatter(plugin) {
  const { state, ...shared } = common(plugin);
  return {
    ...shared,
    format: (batch) => Array.from(rows(batch), (row) => outcome(plugin.format(row, state.options))),
  };
}

/** A turn's own weight, else 1 for the assistant and 0 for others. */
export function lossWeight({ weight, role }) {
  return weight ?? (role === "assistant" ? 1 : 0);
}

/** What a template exports as `templating`. */
export function template(plugin) {
  const { state, ...shared } = common(plugin);
  const segment = ({ text, role, weight = 0 }) => ({ text: clean(text), role, weight });
  const one = (c, how) => {
    try {
      return { tag: "ok", val: plugin.render(c, how, state.options).map(segment) };
    } catch (fault) {
      if (fault instanceof CannotRender) return { tag: "err", val: fault.message };
      throw fault;
    }
  };
  return {
    ...shared,
    render: (conversations, how) => conversations.map((c) => one(c, how)),
    stopStrings: (how) => plugin.stopStrings(how, state.options),
  };
}
