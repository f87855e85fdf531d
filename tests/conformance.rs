//! The template reward of every language against its specification (`plugin-sdk/golden/README.md`),
//! bit by bit. `scripts/conformance.sh` builds the components and names them in
//! TRAINER_CONFORMANCE; without it only the specification itself is tested.
#![allow(clippy::unwrap_used)]

#[path = "plugins/golden_answers.rs"]
mod golden_answers;
#[path = "plugins/rows.rs"]
mod rows;

use std::path::Path;

use serde_json::{Value, json};
use trainer::plugin::{Plugin, PluginLimits, World};

const ROWS: u64 = 10_000;
const SEED: u64 = 20_240_607;

/// The score of a row and, where there is one, its part `marked`.
type Wanted = Option<(f64, f64)>;

/// The specification, written for clearness.
fn wanted(completion: &str, reference: Option<&str>, unmarked: f64) -> Wanted {
    let right = answer(reference?)?;
    let marked = completion.contains("####");
    let value = match answer(completion) {
        Some(said) if said == right => {
            if marked {
                1.0
            } else {
                unmarked
            }
        }
        _ => 0.0,
    };
    Some((value, f64::from(u8::from(marked))))
}

fn answer(text: &str) -> Option<String> {
    let (place, first) = match text.rfind("####") {
        Some(at) => (&text[at + 4..], true),
        None => (text, false),
    };
    let numbers = numbers(place);
    if first { numbers.first().cloned() } else { numbers.last().cloned() }
}

/// The canonical forms of the numbers of a text.
fn numbers(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let digit = |at: usize| chars.get(at).is_some_and(char::is_ascii_digit);
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if !digit(at) {
            at += 1;
            continue;
        }
        let negative = at > 0 && chars[at - 1] == '-' && !(at > 1 && digit(at - 2));
        let (mut whole, mut fraction) = (String::new(), String::new());
        loop {
            while digit(at) {
                whole.push(chars[at]);
                at += 1;
            }
            let three = digit(at + 1) && digit(at + 2) && digit(at + 3) && !digit(at + 4);
            if chars.get(at) != Some(&',') || !three {
                break;
            }
            at += 1;
        }
        if chars.get(at) == Some(&'.') && digit(at + 1) {
            at += 1;
            while digit(at) {
                fraction.push(chars[at]);
                at += 1;
            }
        }
        let whole = match whole.trim_start_matches('0') {
            "" => "0",
            rest => rest,
        };
        let digits = match fraction.trim_end_matches('0') {
            "" => whole.to_string(),
            fraction => format!("{whole}.{fraction}"),
        };
        found.push(if negative && digits != "0" { format!("-{digits}") } else { digits });
    }
    found
}

/// A generator of its own, so that the rows are the same for ever (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    /// Digits in the ways that people and models write a number, rightly and not.
    fn number(&mut self) -> String {
        let value = match self.below(4) {
            0 => self.below(10),
            1 => self.below(1_000),
            2 => self.below(100_000),
            _ => self.below(10_000_000_000),
        };
        let mut digits = value.to_string();
        if self.below(3) == 0 {
            let mut at = digits.len();
            while at > 3 {
                at -= 3;
                digits.insert(at, ',');
            }
        }
        let sign = self.pick(&["", "", "", "-", "--", "- ", "$", "-$", "+"]);
        let zeros = self.pick(&["", "", "", "0", "00"]);
        let tail = self.pick(&["", "", "", ".", ".0", ".5", ".50", ".25", ",1", ",", ".1.2", "%"]);
        format!("{sign}{zeros}{digits}{tail}")
    }

    fn words(&mut self) -> String {
        let all = [
            " so ",
            " = ",
            "the answer is ",
            " ",
            "\n",
            "答案是",
            " 7 ",
            "-",
            "####",
            " #### ",
            "###",
            "#####",
            ", ",
            ". ",
            "\u{0}",
            "٣",
            "４２",
            "🙂",
            "\"",
            "\\",
            "e5",
            "x2",
            "",
        ];
        (0..self.below(5)).map(|_| self.pick(&all)).collect()
    }

    fn row(&mut self) -> Value {
        let number = self.number();
        let other = self.number();
        let completion = match self.below(8) {
            0 => String::new(),
            1 => self.words(),
            2 => format!("{}#### {number}", self.words()),
            3 => format!("{}#### {number} or {other}", self.words()),
            4 => format!("{}{other}{}{number}", self.words(), self.words()),
            5 => format!("{number}{}", self.words()),
            6 => format!("{}{number}. ", self.words().repeat(1 + self.below(40))),
            _ => format!("{}{}{}", self.words(), number, self.words()),
        };
        // Half of the references are right answers, written in another way where there is one.
        let reference = match self.below(8) {
            0 => Value::Null,
            1 => json!(self.words()),
            2..=4 => json!(answer(&completion).unwrap_or_default()),
            5 => json!(format!("{}#### {number}", self.words())),
            6 => json!(number),
            _ => json!(other),
        };
        json!({"completion": completion, "reference": reference})
    }
}

fn rows() -> Vec<Value> {
    let mut random = Random(SEED);
    (0..ROWS).map(|_| random.row()).collect()
}

fn wanted_of(row: &Value, unmarked: f64) -> Wanted {
    wanted(row["completion"].as_str().unwrap(), row["reference"].as_str(), unmarked)
}

#[test]
fn the_specification_gives_the_golden_rows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk/golden/reward");
    let read = |file: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (input, output) = (read("in.jsonl"), read("out.jsonl"));
    assert_eq!(input.len(), output.len());
    for (row, golden) in input.iter().zip(&output) {
        let shown = match wanted_of(row, 1.0) {
            Some((value, marked)) => json!({"value": value, "parts": {"marked": marked}}),
            None => json!({"value": null, "parts": {}}),
        };
        assert_eq!(shown, *golden, "{row}");
    }
}

#[test]
fn the_rows_are_of_every_sort() {
    let rows = rows();
    let scores: Vec<Wanted> = rows.iter().map(|row| wanted_of(row, 0.25)).collect();
    let count = |wanted: Wanted| scores.iter().filter(|score| **score == wanted).count();
    for sort in [None, Some((0.0, 0.0)), Some((0.0, 1.0)), Some((0.25, 0.0)), Some((1.0, 1.0))] {
        assert!(count(sort) > 500, "{sort:?}: {}", count(sort));
    }
}

#[test]
fn every_language_gives_the_same_bits() {
    let Some(files) = std::env::var_os("TRAINER_CONFORMANCE") else {
        println!("skipped: TRAINER_CONFORMANCE names no components (scripts/conformance.sh does)");
        return;
    };
    let rows = rows();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let batches: Vec<_> = lines.chunks(500).map(rows::batch).collect();
    let mut files: Vec<_> = std::env::split_paths(&files).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let file = file.display().to_string();
        let load = |options: &str| {
            Plugin::load(&file, options, 0, PluginLimits::default())
                .unwrap_or_else(|e| panic!("{file}: {e}"))
        };
        let plain = load("{}");
        golden_rows_are_as_specified(&file, &plain);
        if plain.world() != World::Reward {
            continue;
        }
        for (options, unmarked) in [("{}", 1.0), (r#"{"unmarked": 0.3}"#, 0.3)] {
            let plugin = load(options);
            let started = std::time::Instant::now();
            let scores = plugin.score(&batches).unwrap_or_else(|e| panic!("{file}: {e}"));
            let took = started.elapsed();
            assert_eq!(scores.len(), rows.len(), "{file}");
            for (at, (row, score)) in rows.iter().zip(&scores).enumerate() {
                let parts: Vec<(&str, u64)> =
                    score.parts.iter().map(|p| (p.name.as_str(), p.value.to_bits())).collect();
                let wanted = wanted_of(row, unmarked);
                assert_eq!(
                    score.value.map(f64::to_bits),
                    wanted.map(|(value, _)| value.to_bits()),
                    "{file} {options}: row {at}: {row}"
                );
                let marked: Vec<(&str, u64)> =
                    wanted.iter().map(|(_, marked)| ("marked", marked.to_bits())).collect();
                assert_eq!(parts, marked, "{file} {options}: parts of row {at}: {row}");
            }
            println!(
                "{file} {options}: {} rows, bit-equal, {:.1} us a row",
                rows.len(),
                took.as_secs_f64() * 1e6 / rows.len() as f64
            );
        }
    }
}

fn golden_rows_are_as_specified(file: &str, plugin: &Plugin) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk/golden");
    let read = |name: &str| {
        let path = folder.join(plugin.world().name()).join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let (input, output) = (read("in.jsonl"), read("out.jsonl"));
    let lines: Vec<&str> = input.lines().collect();
    let wanted: Vec<Value> = output.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(golden_answers::answers(plugin, &lines), wanted, "{file}");
}
