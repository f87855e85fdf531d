/** A column that a plugin reads. */
export interface Column { name: string; kind: string; optional: boolean }
type MakeColumn = (name: string, how?: { optional?: boolean }) => Column;
/** A column of strings. */
export const text: MakeColumn;
/** A column of integers of 64 bits, as BigInt. */
export const integer: MakeColumn;
/** A column of numbers. */
export const number: MakeColumn;
/** A column of true and false. */
export const boolean: MakeColumn;
/** A column of bytes. */
export const binary: MakeColumn;
/** A column of any values; `row.get` reads the JSON. */
export const json: MakeColumn;

export class InvalidOptions extends Error {}
export class CannotRender extends Error {}
export function log(message: unknown, level?: "debug" | "info" | "warn" | "error"): void;

export interface Row {
  /** The value, `null` where there is none or no such column. */
  get(name: string): any;
  /** The value as it came: of a column of `json`, its text. */
  raw(name: string): any;
  /** The text of the whole row, where the plugin sets `wholeRows`. */
  whole: string | null;
}

type Options = Record<string, any>;
interface Plugin {
  /** Lower-case letters, digits and dashes. */
  name: string;
  version?: string;
  /** One sentence. */
  summary?: string;
  /** JSON Schema of each option. */
  options?: Record<string, object>;
  /** Options that have to be given. */
  required?: string[];
  reads?: Column[];
  wholeRows?: boolean;
  deterministic?: boolean;
  /** Checks the options; may answer others, and the columns read under them. */
  configure?(options: Options, seed: bigint): { options?: Options; reads?: Column[] } | void;
}

/** `null`: no opinion. */
export type Score = number | null | { value: number | null; parts?: Record<string, number> };
export function reward(plugin: Plugin & { score(row: Row, options: Options): Score }): unknown;

export type Role = "system" | "user" | "assistant" | "tool";
export interface ToolCall { name: string; arguments?: string; id?: string }
export interface Message {
  role: Role;
  /** May be empty where there are tool calls. */
  content: string;
  toolCalls?: ToolCall[];
  toolCallId?: string;
  name?: string;
  /** Weight in the loss; without it 1 for the assistant and 0 for others. */
  weight?: number;
}
export interface Conversation { messages: Message[]; tools?: string }
export interface Preference { prompt: Conversation; chosen: Message[]; rejected: Message[]; margin?: number }
/** `columns` is JSON text of an object. */
export interface Prompt { conversation: Conversation; reference?: string; columns?: string }
export interface Tokens { inputIds: ArrayLike<number>; labels: ArrayLike<number> }
export type Example = string | Conversation | Preference | Prompt | Tokens;
export type Outcome =
  | Example
  | { keep: Example[]; notes?: string[] }
  | { skip: string; notes?: string[] }
  | { reject: string; notes?: string[] };
export function formatter(plugin: Plugin & { format(row: Row, options: Options): Outcome }): unknown;

export interface Segment { text: string; role?: Role; weight?: number }
export interface RenderOptions {
  addGenerationPrompt: boolean;
  continueFinalMessage: boolean;
  bos: string;
  eos: string;
}
export function lossWeight(message: Message): number;
export function template(plugin: Plugin & {
  render(conversation: Conversation, how: RenderOptions, options: Options): Segment[];
  stopStrings(how: RenderOptions, options: Options): string[];
}): unknown;
