// The component's exports: a reward. `trainer plugin build` gives them the names of the contract. Not
// for plugin authors.
import { about, columns, configure, score } from "../plugin";
import { Row, Text, allocate, release } from "./trainer";

export function cabi_realloc(old: usize, oldSize: usize, align: usize, size: usize): usize {
  const made = allocate(size);
  if (old) memory.copy(made, old, oldSize);
  return made;
}

function put(at: usize, text: string): void {
  const own = Text.of(text);
  store<usize>(at, own.ptr);
  store<i32>(at, own.length, 4);
}

function putReads(at: usize): void {
  const needs = allocate(12 * columns.length);
  for (let i = 0; i < columns.length; i++) {
    const need = needs + 12 * i;
    put(need, columns[i].name);
    store<u8>(need, columns[i].kind, 8);
    store<u8>(need, columns[i].optional ? 1 : 0, 9);
  }
  store<usize>(at, needs);
  store<i32>(at, columns.length, 4);
  store<u8>(at, 0, 8);
}

export function rewards_describe(): usize {
  const at = allocate(48);
  put(at, about.name);
  put(at + 8, about.version);
  put(at + 16, about.summary);
  putReads(at + 24);
  put(at + 36, about.schema);
  store<u8>(at, 1, 44);
  return at;
}

export function rewards_configure(ptr: usize, length: i32, seed: u64): usize {
  const why = configure(new Text(ptr, length).toString(), seed);
  const at = allocate(16);
  if (why !== null) {
    store<u8>(at, 1);
    store<u8>(at, 0, 4);
    put(at + 8, why);
  } else {
    store<u8>(at, 0);
    putReads(at + 4);
  }
  return at;
}

export function rewards_score(
  rows: u32, cells: usize, count: i32, whole: usize, wholeCount: i32,
): usize {
  const scores = allocate(24 * rows);
  for (let i: u32 = 0; i < rows; i++) {
    const own = score(new Row(cells, count, i));
    const at = scores + 24 * i;
    store<u8>(at, own.hasValue ? 1 : 0);
    store<f64>(at, own.value, 8);
    const parts = allocate(16 * own.parts.length);
    for (let j = 0; j < own.parts.length; j++) {
      put(parts + 16 * j, own.parts[j].name);
      store<f64>(parts + 16 * j, own.parts[j].value, 8);
    }
    store<usize>(at, parts, 16);
    store<i32>(at, own.parts.length, 20);
  }
  const at = allocate(12);
  store<u8>(at, 0);
  store<usize>(at, scores, 4);
  store<u32>(at, rows, 8);
  return at;
}

export function post_rewards_describe(at: usize): void { release(); }
export function post_rewards_configure(at: usize): void { release(); }
export function post_rewards_score(at: usize): void { release(); }
