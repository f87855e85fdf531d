//! Rows a second of the shipped `sharegpt` and `accuracy`, the same Rust code in the sandbox and
//! linked natively: `native sharegpt|accuracy FILE.jsonl THREADS`.
//!
//! "whole" reads the file, calls the plugin and writes its answers as JSON lines; "call" is the
//! plugin alone on rows that are in memory. Reading and writing are the same code on both sides.

use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use rayon::prelude::*;
use trainer::data::{ReadOptions, SourceReader, source};
use trainer::plugin::{Kind, Plugin, PluginLimits, Reads, Score, Verdict, World};
use trainer::stage::dataset::projection;
use trainer_plugin::{Batch, Column, Formatter, Reward, Rows, Values};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;

/// Rows as the guests take them.
fn to_guest(reads: &Reads, batch: &RecordBatch) -> Batch {
    let columns = reads.columns.iter().filter_map(|need| {
        let texts = batch.column_by_name(&need.name)?.as_string::<i32>();
        let mut nulls = Vec::new();
        let mut values = Vec::with_capacity(texts.len());
        for i in 0..texts.len() {
            if texts.is_null(i) || texts.value(i) == "null" {
                nulls.push(i as u32);
                values.push(String::new());
            } else if need.kind == Kind::Utf8 {
                values.push(serde_json::from_str(texts.value(i)).expect("a JSON string"));
            } else {
                values.push(texts.value(i).to_string());
            }
        }
        let values = match need.kind {
            Kind::Utf8 => Values::Utf8(values),
            _ => Values::Json(values),
        };
        Some(Column { name: need.name.clone(), values, nulls })
    });
    let columns = columns.collect();
    Batch { rows: batch.num_rows() as u32, columns, whole_rows: Vec::new() }
}

fn line(out: &mut Vec<u8>, messages: &[(&str, &str)]) {
    out.extend_from_slice(b"{\"messages\":[");
    for (i, (role, content)) in messages.iter().enumerate() {
        out.extend_from_slice(if i > 0 { b",{\"role\":\"" } else { b"{\"role\":\"" });
        out.extend_from_slice(role.as_bytes());
        out.extend_from_slice(b"\",\"content\":");
        serde_json::to_writer(&mut *out, content).expect("memory");
        out.push(b'}');
    }
    out.extend_from_slice(b"]}\n");
}

enum Way {
    Sandbox(Plugin),
    NativeFormatter(sharegpt::ShareGpt, Reads),
    NativeReward(accuracy::Accuracy, Reads),
}

impl Way {
    /// Lines for one batch.
    fn lines(&self, batch: &RecordBatch) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 * batch.num_rows());
        match self {
            Way::Sandbox(plugin) if plugin.world() == World::Formatter => {
                for outcome in plugin.format_here(batch).expect("sound rows") {
                    let Verdict::Keep(examples) = outcome.verdict else { continue };
                    for example in &examples {
                        let trainer::data::Example::Conversation(c) = example else { continue };
                        let turns: Vec<_> = c
                            .messages
                            .iter()
                            .map(|m| (m.role.as_str(), m.content.as_str()))
                            .collect();
                        line(&mut out, &turns);
                    }
                }
            }
            Way::Sandbox(plugin) => {
                for Score { value, .. } in plugin.score_here(batch).expect("sound rows") {
                    writeln!(out, "{value:?}").expect("memory");
                }
            }
            Way::NativeFormatter(plugin, reads) => {
                let rows = to_guest(reads, batch);
                for outcome in plugin.format(&Rows::new(&rows)).expect("sound rows") {
                    let trainer_plugin::Verdict::Keep(examples) = outcome.verdict else { continue };
                    for example in &examples {
                        let trainer_plugin::Example::Conversation(c) = example else { continue };
                        let role = |r| match r {
                            trainer_plugin::Role::System => "system",
                            trainer_plugin::Role::User => "user",
                            trainer_plugin::Role::Assistant => "assistant",
                            trainer_plugin::Role::Tool => "tool",
                        };
                        let turns: Vec<_> =
                            c.messages.iter().map(|m| (role(m.role), m.content.as_str())).collect();
                        line(&mut out, &turns);
                    }
                }
            }
            Way::NativeReward(plugin, reads) => {
                let rows = to_guest(reads, batch);
                for score in plugin.score(&Rows::new(&rows)).expect("sound rows") {
                    writeln!(out, "{:?}", score.value).expect("memory");
                }
            }
        }
        out
    }

    /// The plugin alone.
    fn call(&self, batch: &RecordBatch) -> usize {
        match self {
            Way::Sandbox(plugin) if plugin.world() == World::Formatter => {
                plugin.format_here(batch).expect("sound rows").len()
            }
            Way::Sandbox(plugin) => plugin.score_here(batch).expect("sound rows").len(),
            Way::NativeFormatter(plugin, reads) => {
                plugin.format(&Rows::new(&to_guest(reads, batch))).expect("sound rows").len()
            }
            Way::NativeReward(plugin, reads) => {
                plugin.score(&Rows::new(&to_guest(reads, batch))).expect("sound rows").len()
            }
        }
    }
}

fn batches(file: &str, reads: &Reads) -> impl Iterator<Item = RecordBatch> + use<> {
    let found = source::discover(&[file.to_string()]).expect("the file");
    let options = ReadOptions::new(projection(reads));
    SourceReader::new(found.files, options).map(|batch| batch.expect("sound rows").batch)
}

/// Reads, calls and writes: a few batches at a time on all threads, written in order.
fn whole(way: &Way, file: &str, reads: &Reads, out: &str) -> (usize, Vec<u8>) {
    let mut out = BufWriter::new(std::fs::File::create(out).expect("a writable folder"));
    let mut rows = 0;
    let mut first = Vec::new();
    let mut reader = batches(file, reads);
    loop {
        let some: Vec<RecordBatch> =
            reader.by_ref().take(4 * rayon::current_num_threads()).collect();
        if some.is_empty() {
            break;
        }
        rows += some.iter().map(RecordBatch::num_rows).sum::<usize>();
        let lines: Vec<Vec<u8>> = some.par_iter().map(|batch| way.lines(batch)).collect();
        if first.is_empty() {
            first = lines.concat();
        }
        for lines in lines {
            out.write_all(&lines).expect("room");
        }
    }
    out.flush().expect("room");
    (rows, first)
}

fn fastest(mut work: impl FnMut()) -> Duration {
    work();
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        work();
        least = least.min(began.elapsed());
    }
    least
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, file, threads] = args.as_slice() else {
        panic!("native sharegpt|accuracy FILE.jsonl THREADS");
    };
    let threads = threads.parse().expect("a number of threads");
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("threads");
    let load = || Plugin::load(name, "", 42, PluginLimits::default()).expect("a shipped plugin");
    let reads = load().reads().clone();
    let options = || serde_json::from_str("{}").expect("options");
    let native = match name.as_str() {
        "sharegpt" => {
            Way::NativeFormatter(Formatter::new(options(), 42).expect("options"), reads.clone())
        }
        _ => Way::NativeReward(Reward::new(options(), 42).expect("options"), reads.clone()),
    };
    let out = format!("{file}.{name}.out");
    let in_memory: Vec<RecordBatch> = batches(file, &reads).collect();
    let mut rates = Vec::new();
    let mut answers = Vec::new();
    for (what, way) in [("sandbox", Way::Sandbox(load())), ("native", native)] {
        let (rows, first) = whole(&way, file, &reads, &out);
        answers.push(first);
        let of_whole = fastest(|| drop(whole(&way, file, &reads, &out)));
        let of_call = fastest(|| {
            let done: usize = in_memory.par_iter().map(|batch| way.call(batch)).sum();
            assert_eq!(done, rows);
        });
        let rate = |time: Duration| rows as f64 / time.as_secs_f64();
        rates.push((rate(of_whole), rate(of_call)));
        println!(
            "{name}, {threads} threads, {what}: whole {:.0} rows/s, call {:.0} rows/s ({:.2} µs a row)",
            rate(of_whole),
            rate(of_call),
            of_call.as_secs_f64() * 1e6 / rows as f64
        );
    }
    assert_eq!(answers[0], answers[1], "both ways answer the same");
    println!(
        "{name}, {threads} threads, sandbox to native: whole {:.2}, call {:.2}",
        rates[0].0 / rates[1].0,
        rates[0].1 / rates[1].1
    );
}
