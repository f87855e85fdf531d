// Rewards of trainer in AssemblyScript: what an author needs, over the canonical ABI. Texts stay the
// bytes of UTF-8 that the host handed over.

// @ts-ignore: decorator
@external("trainer:plugin/host@0.1.0", "log")
declare function hostLog(level: i32, ptr: usize, len: usize): void;

export const DEBUG: i32 = 0, INFO: i32 = 1, WARN: i32 = 2, ERROR: i32 = 3;

/** A line for the run's log. */
export function log(message: string, level: i32 = INFO): void {
  const bytes = String.UTF8.encode(message);
  hostLog(level, changetype<usize>(bytes), bytes.byteLength);
}

/** What the compiler calls instead of an abort of the host's. */
export function fault(message: string | null, file: string | null, line: u32, column: u32): void {
  log(`${message ? message : "abort"} at ${file ? file : "?"}:${line}`, ERROR);
  unreachable();
}

/** A piece of text in UTF-8; it lives until the call ends. */
export class Text {
  constructor(public ptr: usize, public length: i32) {}

  static of(text: string): Text {
    const bytes = String.UTF8.encode(text);
    const ptr = allocate(bytes.byteLength);
    memory.copy(ptr, changetype<usize>(bytes), bytes.byteLength);
    return new Text(ptr, bytes.byteLength);
  }
  toString(): string {
    return String.UTF8.decodeUnsafe(this.ptr, this.length);
  }
  /** The byte at `at`; 0 outside. */
  byte(at: i32): u8 {
    return at >= 0 && at < this.length ? load<u8>(this.ptr + at) : 0;
  }
  slice(from: i32, to: i32): Text {
    return new Text(this.ptr + from, to - from);
  }
  equals(other: Text): bool {
    return this.length == other.length && memory.compare(this.ptr, other.ptr, this.length) == 0;
  }
  /** Where `what` (ASCII) stands last; -1: nowhere. */
  lastIndexOf(what: string): i32 {
    for (let at = this.length - what.length; at >= 0; at--) {
      let i = 0;
      while (i < what.length && this.byte(at + i) == <u8>what.charCodeAt(i)) i++;
      if (i == what.length) return at;
    }
    return -1;
  }
}

/** What a plugin is; `schema` is the JSON Schema of its options, or "". */
export class About {
  constructor(
    public name: string,
    public version: string,
    public summary: string,
    public schema: string = "",
  ) {}
}

export const TEXT: u8 = 0, INT: u8 = 1, FLOAT: u8 = 2, BOOL: u8 = 3, BINARY: u8 = 4, JSON: u8 = 5;

/** A column that is read. */
export class Column {
  constructor(public name: string, public kind: u8 = TEXT, public optional: bool = false) {}
}

/** A number in the text of a JSON object without nested ones; `otherwise` where it is absent. */
export function optionNumber(options: string, name: string, otherwise: f64): f64 {
  const key = options.indexOf(`"${name}"`);
  if (key < 0) return otherwise;
  const colon = options.indexOf(":", key + name.length + 2);
  return colon < 0 ? otherwise : parseFloat(options.slice(colon + 1).trim());
}

/** One row. */
export class Row {
  constructor(private columns: usize, private count: i32, private index: u32) {}

  /** The address of the value; 0 where there is none. */
  private cell(name: string, kind: u8, size: usize): usize {
    for (let i = 0; i < this.count; i++) {
      const column = this.columns + i * 28;
      if (!same(load<usize>(column), load<i32>(column, 4), name)) continue;
      if (load<u8>(column, 8) != kind) return 0;
      const nulls = load<usize>(column, 20), length = load<i32>(column, 24);
      for (let j = 0; j < length; j++) {
        const row = load<u32>(nulls + j * 4);
        if (row == this.index) return 0;
        if (row > this.index) break;
      }
      return load<usize>(column, 12) + <usize>this.index * size;
    }
    return 0;
  }
  /** The value of a column of texts; null where there is none. */
  text(name: string): Text | null {
    const cell = this.cell(name, TEXT, 8);
    return cell ? new Text(load<usize>(cell), load<i32>(cell, 4)) : null;
  }
  /** The JSON text of a value; null where there is none. */
  json(name: string): Text | null {
    const cell = this.cell(name, JSON, 8);
    return cell ? new Text(load<usize>(cell), load<i32>(cell, 4)) : null;
  }
  int(name: string, otherwise: i64): i64 {
    const cell = this.cell(name, INT, 8);
    return cell ? load<i64>(cell) : otherwise;
  }
  float(name: string, otherwise: f64): f64 {
    const cell = this.cell(name, FLOAT, 8);
    return cell ? load<f64>(cell) : otherwise;
  }
}

function same(ptr: usize, length: i32, name: string): bool {
  if (length != String.UTF8.byteLength(name)) return false;
  const bytes = String.UTF8.encode(name);
  return memory.compare(ptr, changetype<usize>(bytes), length) == 0;
}

/** The score of a row. */
export class Score {
  parts: Part[] = [];
  constructor(public hasValue: bool, public value: f64) {}

  /** No opinion on the row. */
  static none(): Score {
    return new Score(false, 0);
  }
  /** Adds a named share for the log. */
  part(name: string, value: f64): Score {
    this.parts.push(new Part(name, value));
    return this;
  }
}
export class Part {
  constructor(public name: string, public value: f64) {}
}

// Memory of one call: a list of blocks, each with the address of the one before it in front.
let last: usize = 0;

export function allocate(size: usize): usize {
  const block = heap.alloc(size + 16);
  store<usize>(block, last);
  last = block;
  return block + 16;
}

export function release(): void {
  while (last) {
    const before = load<usize>(last);
    heap.free(last);
    last = before;
  }
}
