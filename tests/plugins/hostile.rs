//! Guests that misbehave. Each gets a typed error that names plugin, function, rows and limit;
//! the host and the plugin object stay usable.

use std::ops::Range;
use std::time::Duration;

use arrow::array::RecordBatch;
use trainer::plugin::{LogLevel, OnFault, Plugin, PluginError, PluginLimits, Stop, Verdict};

use crate::guest::{self, Guest};
use crate::{rows, shipped};

fn rows_of(count: usize) -> RecordBatch {
    rows::batch(&vec![r#"{"a":1}"#; count])
}

fn load_with(guest: &Guest, limits: PluginLimits) -> Result<Plugin, PluginError> {
    let (_dir, path) = guest::file(&guest.bytes());
    Plugin::load(&path, "", 0, limits)
}

fn load(guest: &Guest) -> Plugin {
    load_with(guest, PluginLimits::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// Why two rows through this `format` are stopped.
fn stopped(guest: &Guest) -> (Stop, String) {
    let plugin = load(guest);
    let error = plugin.format(&[rows_of(2)]).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("plugin `evil` 1.0.0 was stopped in `format` (row 0 of its input)"),
        "{text}"
    );
    match error {
        PluginError::Stopped { stop, rows, .. } => {
            assert_eq!(rows, Range { start: 0, end: 1 });
            (stop, text)
        }
        other => panic!("{other}"),
    }
}

/// What is wrong with what this `format` returns for two rows.
fn returned(body: &str) -> String {
    match load(&Guest::formatter(body)).format(&[rows_of(2)]).unwrap_err() {
        PluginError::Returned { what, .. } => what,
        other => panic!("{other}"),
    }
}

/// A result `ok(list)` at 256 with the list's address and length on the stack's words.
pub fn list(address: &str, length: &str) -> String {
    format!(
        "(i32.store8 (i32.const 256) (i32.const 0))
         (i32.store (i32.const 260) ({address})) (i32.store (i32.const 264) ({length}))
         (i32.const 256)"
    )
}

/// Items and body of a `format` that answers `skip("evil")` on every row.
pub fn skips() -> String {
    format!(
        "(local $i i32)
         (loop $next
           (if (i32.lt_u (local.get $i) (local.get $rows)) (then
             (call $skip (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 20))))
             (local.set $i (i32.add (local.get $i) (i32.const 1)))
             (br $next))))
         {}",
        list("i32.const 1024", "local.get $rows")
    )
}

/// Writes `skip("evil")` to `$at`.
pub const SKIP: &str = "(func $skip (param $at i32)
    (i32.store8 (local.get $at) (i32.const 1))
    (i32.store offset=4 (local.get $at) (i32.const 16))
    (i32.store offset=8 (local.get $at) (i32.const 4))
    (i32.store offset=12 (local.get $at) (i32.const 0))
    (i32.store offset=16 (local.get $at) (i32.const 0)))";

#[test]
fn a_guest_written_by_hand_works() {
    let plugin = load(&Guest::formatter(&skips()).items(SKIP));
    let outcomes = plugin.format(&[rows_of(3)]).unwrap();
    assert_eq!(outcomes.len(), 3);
    assert!(outcomes.iter().all(|o| o.verdict == Verdict::Skip("evil".into())));
    assert!(plugin.inspection().core_module);
}

#[test]
fn an_endless_loop_runs_out_of_fuel_at_the_same_count_every_time() {
    let guest = Guest::formatter("(loop $l (br $l)) unreachable");
    let (first, text) = stopped(&guest);
    assert!(matches!(first, Stop::Fuel { .. }), "{text}");
    assert!(text.contains("out of fuel after"), "{text}");
    assert_eq!(first, stopped(&guest).0);
}

#[test]
fn fuel_grows_with_the_rows() {
    let limit = |rows| {
        // Loops unless it is given one row: the search for the row at fault then finds none.
        let body = format!(
            "(local $i i32)
             (if (i32.ne (local.get $rows) (i32.const 1)) (then (loop $l (br $l)))) {}",
            skips().replace("(local $i i32)", "")
        );
        let plugin = load(&Guest::formatter(&body).items(SKIP));
        match plugin.format(&[rows_of(rows)]).unwrap_err() {
            PluginError::Stopped { stop: Stop::Fuel { limit }, .. } => limit,
            other => panic!("{other}"),
        }
    };
    let limits = PluginLimits::default();
    assert_eq!(limit(2), limits.fuel_base + 2 * limits.fuel_per_row);
    assert_eq!(limit(5), limits.fuel_base + 5 * limits.fuel_per_row);
}

#[test]
fn the_clock_stops_what_fuel_does_not() {
    let endless = Guest::formatter("(loop $l (br $l)) unreachable");
    for policy in [OnFault::Fail, OnFault::Reject] {
        let limits = PluginLimits {
            fuel_base: u64::MAX / 2,
            deadline: Duration::from_millis(100),
            ..PluginLimits::default()
        };
        // Trying row by row could take as long for each: an error whatever the policy.
        let plugin = load_with(&endless, limits).unwrap().on_fault(policy);
        let error = plugin.format(&[rows_of(2)]).unwrap_err();
        assert!(error.to_string().contains("still running after 100 ms"), "{error}");
        assert_eq!(error.rows(), Some(0..2));
    }
}

#[test]
fn an_instruction_that_writes_much_costs_as_much_fuel() {
    let (stop, text) = stopped(&Guest::formatter(
        "(drop (memory.grow (i32.const 16)))
         (loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 1048576)) (br $l))
         unreachable",
    ));
    assert!(matches!(stop, Stop::Fuel { .. }), "{text}");
}

#[test]
fn a_memory_bomb_is_named_as_such() {
    let (stop, text) = stopped(&Guest::formatter(
        "(loop $l (drop (memory.grow (i32.const 64))) (br $l)) unreachable",
    ));
    let limit = PluginLimits::default().memory_bytes;
    assert!(
        matches!(stop, Stop::Memory { limit: l, wanted } if l == limit && wanted > limit),
        "{text}"
    );
}

#[test]
fn memory_declared_beyond_the_limit_never_starts() {
    let guest = Guest::formatter("unreachable").items("(memory $big 60000)");
    let error = load_with(&guest, PluginLimits::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("`start`") && text.contains("bytes of memory"), "{text}");
}

#[test]
fn deep_recursion_overflows_only_the_guest() {
    let guest = Guest::formatter(
        "(call $main (local.get $rows) (i32.const 1) (i32.const 2) (i32.const 3) (i32.const 4))",
    );
    let (stop, text) = stopped(&guest);
    assert_eq!(stop, Stop::Stack, "{text}");
}

#[test]
fn traps_and_wild_addresses_are_stops() {
    let cases = [
        ("unreachable", "unreachable"),
        ("(i32.load (i32.const -4))", "out of bounds"),
        ("(i32.div_u (i32.const 1) (i32.const 0))", "divide by zero"),
        // The result itself lies outside of memory, or is not aligned.
        ("(i32.const -8)", ""),
        ("(i32.const 3)", ""),
    ];
    for (body, words) in cases {
        let (stop, text) = stopped(&Guest::formatter(body));
        assert!(matches!(stop, Stop::Trap(_)), "{body}: {text}");
        assert!(text.contains(words), "{body}: {text}");
    }
}

#[test]
fn lists_that_lie_about_themselves_are_stops() {
    for (address, length) in [
        ("i32.const 1024", "i32.const 0x7fffffff"),
        ("i32.const -16", "i32.const 2"),
        ("i32.const 1023", "i32.const 2"),
        ("i32.const 1024", "i32.const 0x04000000"),
    ] {
        let (_, text) = stopped(&Guest::formatter(&list(address, length)));
        assert!(text.contains("was stopped"), "{text}");
    }
}

/// Body of a `format` that answers with sixty thousand outcomes, all of them one and the same
/// megabyte of text.
pub fn amplified() -> String {
    format!(
        "(local $i i32)
         (drop (memory.grow (i32.const 64)))
         (memory.fill (i32.const 2097152) (i32.const 97) (i32.const 1048576))
         (loop $next
           (call $skip (i32.add (i32.const 65536) (i32.mul (local.get $i) (i32.const 20))))
           (i32.store (i32.add (i32.const 65540) (i32.mul (local.get $i) (i32.const 20))) (i32.const 2097152))
           (i32.store (i32.add (i32.const 65544) (i32.mul (local.get $i) (i32.const 20))) (i32.const 1048576))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $next (i32.lt_u (local.get $i) (i32.const 60000))))
         {}",
        list("i32.const 65536", "i32.const 60000")
    )
}

#[test]
fn a_small_guest_can_not_return_a_large_answer() {
    let (stop, text) = stopped(&Guest::formatter(&amplified()).items(SKIP));
    assert!(matches!(stop, Stop::Output { .. }), "{text}");
}

#[test]
fn a_wrong_number_of_outcomes_is_refused() {
    assert_eq!(returned(&list("i32.const 1024", "i32.const 0")), "0 answers for 2 rows");
    let one_more = skips().replace(
        "(i32.store (i32.const 264) (local.get $rows))",
        "(i32.store (i32.const 264) (i32.add (local.get $rows) (i32.const 1)))",
    );
    let guest = Guest::formatter(&one_more).items(SKIP);
    let text = load(&guest).format(&[rows_of(2)]).unwrap_err().to_string();
    // The third outcome is memory nobody wrote: an empty list of examples.
    assert!(text.contains("3 answers for 2 rows"), "{text}");
}

#[test]
fn a_reason_without_words_and_text_that_is_not_utf8_are_refused() {
    let empty = SKIP.replace(
        "(i32.store offset=8 (local.get $at) (i32.const 4))",
        "(i32.store offset=8 (local.get $at) (i32.const 0))",
    );
    let error = load(&Guest::formatter(&skips()).items(&empty)).format(&[rows_of(2)]).unwrap_err();
    assert_eq!(error.rows(), Some(0..1));
    assert!(error.to_string().contains("without words"), "{error}");
    let guest =
        Guest::formatter(&skips()).items(SKIP).items(r#"(data (i32.const 16) "\ff\fe\ff\fe")"#);
    // The name itself is no longer text, so the plugin does not even load.
    let error = load_with(&guest, PluginLimits::default()).unwrap_err().to_string();
    assert!(error.contains("`describe`") && error.contains("utf-8"), "{error}");
}

#[test]
fn discriminants_that_do_not_exist_are_stops() {
    let body = "(i32.store8 (i32.const 256) (i32.const 7)) (i32.const 256)";
    let (_, text) = stopped(&Guest::formatter(body));
    assert!(text.contains("discriminant") || text.contains("expected"), "{text}");
}

#[test]
fn errors_of_the_contract_keep_the_instance() {
    // err(failed("evil"))
    let body =
        "(i32.store8 (i32.const 256) (i32.const 1)) (i32.store8 (i32.const 260) (i32.const 2))
        (i32.store (i32.const 264) (i32.const 16)) (i32.store (i32.const 268) (i32.const 4))
        (i32.const 256)";
    let plugin = load(&Guest::formatter(body));
    for _ in 0..3 {
        let text = plugin.format(&[rows_of(2)]).unwrap_err().to_string();
        assert!(text.contains("failed in `format` (rows 0 to 1 of its input): evil"), "{text}");
    }
}

#[test]
fn a_trap_costs_one_call_and_not_the_plugin() {
    let body = format!(
        "(if (i32.eq (local.get $rows) (i32.const 2)) (then unreachable)) {}",
        skips().replace("(local $i i32)", "")
    );
    let plugin = load(&Guest::formatter(&format!("(local $i i32) {body}")).items(SKIP));
    for _ in 0..3 {
        assert!(plugin.format(&[rows_of(2)]).is_err());
        assert_eq!(plugin.format(&[rows_of(1)]).unwrap().len(), 1);
    }
    assert_eq!(
        shipped("text", "{}").format(&[rows::batch(&[r#"{"text":"a"}"#])]).unwrap().len(),
        1
    );
}

#[test]
fn the_first_failing_rows_are_named_whatever_the_threads_do() {
    // Calls have 128 rows; the last one, of 2 rows, traps.
    let body = format!(
        "(local $i i32) (if (i32.eq (local.get $rows) (i32.const 2)) (then unreachable)) {}",
        skips().replace("(local $i i32)", "")
    );
    let plugin = load(&Guest::formatter(&body).items(SKIP));
    let error = plugin.format(&[rows_of(512), rows_of(2), rows_of(512), rows_of(2)]).unwrap_err();
    assert_eq!(error.rows(), Some(512..514));
}

#[test]
fn the_row_at_fault_is_found_among_its_neighbours() {
    // Traps on a row whose text is longer than 3 bytes: the first column's list of strings.
    let body = format!(
        "(local $i i32) (local $at i32)
         ;; a column: name, tag and payload of its values; a string: address and length
         (local.set $at (i32.load offset=12 (local.get $columns)))
         (loop $look
           (if (i32.lt_u (local.get $i) (local.get $rows)) (then
             (if (i32.gt_u (i32.load offset=4 (local.get $at)) (i32.const 3)) (then unreachable))
             (local.set $at (i32.add (local.get $at) (i32.const 8)))
             (local.set $i (i32.add (local.get $i) (i32.const 1)))
             (br $look))))
         (local.set $i (i32.const 0))
         {}",
        skips().replace("(local $i i32)", "")
    );
    // `configure` asks for the column `evil` as utf8: name, kind, optional.
    let reads = r#"
      (data (i32.const 128) "\00\00\00\00\00\02\00\00\01\00\00\00\00")
      (data (i32.const 512) "\10\00\00\00\04\00\00\00\00\00")"#;
    let plugin = load(&Guest::formatter(&body).items(SKIP).items(reads));
    assert_eq!(plugin.reads().columns[0].name, "evil");
    let row = |text: &str| format!(r#"{{"evil":"{text}"}}"#);
    let mut lines = vec![row("abc"); 700];
    let lines_of = |lines: &[String]| {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        rows::batch(&lines)
    };
    assert_eq!(plugin.format(&[lines_of(&lines)]).unwrap().len(), 700);
    lines[613] = row("abcd");
    let error = plugin.format(&[lines_of(&lines)]).unwrap_err();
    assert_eq!(error.rows(), Some(613..614), "{error}");

    // Where rows at fault are rejected, no other row is touched.
    let plugin = plugin.on_fault(OnFault::Reject);
    for at in [5, 511, 512, 699] {
        lines[at] = row("abcd");
    }
    let outcomes = plugin.format(&[lines_of(&lines)]).unwrap();
    assert_eq!(outcomes.len(), 700);
    for (i, outcome) in outcomes.iter().enumerate() {
        let trapped = "the plugin was stopped: wasm trap: wasm `unreachable` instruction executed";
        let wanted = match i {
            5 | 511 | 512 | 613 | 699 => Verdict::Reject(trapped.into()),
            _ => Verdict::Skip("evil".into()),
        };
        assert_eq!(outcome.verdict, wanted, "row {i}");
    }
    // A plugin that fails everywhere is broken, whatever the policy.
    let error = plugin.format(&[lines_of(&vec![row("abcd"); 100])]).unwrap_err();
    assert_eq!(error.rows(), Some(32..33), "{error}");
}

#[test]
fn a_log_flood_is_stopped() {
    let (stop, text) = stopped(&Guest::formatter(
        "(loop $l (call $log (i32.const 1) (i32.const 16) (i32.const 4)) (br $l)) unreachable",
    ));
    assert!(matches!(stop, Stop::LogFlood { .. }), "{text}");
    let (stop, text) = stopped(&Guest::formatter(
        "(loop $l (call $log (i32.const 1) (i32.const 16) (i32.const 100000)) (br $l)) unreachable",
    ));
    assert!(matches!(stop, Stop::LogFlood { .. }), "{text}");
}

#[test]
fn the_log_is_cut_escaped_and_counted() {
    let body = format!(
        "(local $i i32)
         (call $log (i32.const 2) (i32.const 512) (i32.const 5))
         (call $log (i32.const 3) (i32.const 520) (i32.const 5000))
         (loop $l
           (call $log (i32.const 1) (i32.const 16) (i32.const 4))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $l (i32.lt_u (local.get $i) (i32.const 100))))
         (local.set $i (i32.const 0))
         {}",
        skips().replace("(local $i i32)", "")
    );
    let guest = Guest::formatter(&body).items(SKIP).items(r#"(data (i32.const 512) "\1b[31m")"#);
    let plugin = load(&guest);
    plugin.format(&[rows_of(1)]).unwrap();
    let log = plugin.take_log();
    assert_eq!((log[0].level, log[0].text.as_str()), (LogLevel::Warn, "\\u{1b}[31m"));
    assert_eq!(log[1].level, LogLevel::Error);
    assert!(log[1].text.ends_with('…') && log[1].text.len() < 8_000);
    assert_eq!(log.len(), 51, "50 lines and what was left out");
    assert_eq!(log[50].text, "52 further lines of this call are not shown");
    assert!(plugin.take_log().is_empty());
}

#[test]
fn what_a_guest_said_before_it_trapped_is_in_the_error() {
    let (_, text) = stopped(&Guest::formatter(
        "(call $log (i32.const 3) (i32.const 16) (i32.const 4)) unreachable",
    ));
    assert!(text.contains("it said: evil"), "{text}");
}

#[test]
fn loops_at_the_start_and_in_describe_and_configure_end() {
    let endless = "(loop $l (br $l)) unreachable";
    let guest = |at: &str| match at {
        "start" => Guest::formatter("unreachable").items("(func $s (loop $l (br $l))) (start $s)"),
        "describe" => Guest::formatter("unreachable").describe(endless),
        _ => Guest::formatter("unreachable").configure(endless),
    };
    for at in ["start", "describe", "configure"] {
        let text = load_with(&guest(at), PluginLimits::default()).unwrap_err().to_string();
        assert!(text.contains(&format!("`{at}`")) && text.contains("out of fuel"), "{text}");
    }
}

#[test]
fn a_name_that_is_no_name_is_refused() {
    // The name's length covers the version too: "evil1.0.0" has dots.
    let guest = Guest::formatter("unreachable").items(r#"(data (i32.const 68) "\09\00\00\00")"#);
    let text = load_with(&guest, PluginLimits::default()).unwrap_err().to_string();
    assert!(text.contains("the name `evil1.0.0` is not"), "{text}");
}

/// Body of a `score` that gives every row the 64 bits at 512 as its value.
pub fn scores() -> String {
    format!(
        "(local $i i32) (local $at i32)
         (loop $next
           (if (i32.lt_u (local.get $i) (local.get $rows)) (then
             (local.set $at (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 24))))
             (i32.store8 (local.get $at) (i32.const 1))
             (i64.store offset=8 (local.get $at) (i64.load (i32.const 512)))
             (i64.store offset=16 (local.get $at) (i64.const 0))
             (local.set $i (i32.add (local.get $i) (i32.const 1)))
             (br $next))))
         {}",
        list("i32.const 1024", "local.get $rows")
    )
}

#[test]
fn rewards_score_every_row_and_never_with_nan() {
    let with = |bits: f64| {
        let bytes: String = bits.to_le_bytes().iter().map(|b| format!("\\{b:02x}")).collect();
        let data = format!("(data (i32.const 512) \"{bytes}\")");
        load(&Guest::reward(&scores()).items(&data))
    };
    let scores = with(0.5).score(&[rows_of(3), rows_of(600)]).unwrap();
    assert_eq!(scores.len(), 603);
    assert!(scores.iter().all(|s| s.value == Some(0.5) && s.parts.is_empty()));
    for bad in [f64::NAN, f64::INFINITY] {
        let error = with(bad).score(&[rows_of(2)]).unwrap_err();
        assert_eq!(error.rows(), Some(0..1));
        assert!(error.to_string().contains("not finite"), "{error}");
    }
}

#[test]
fn a_reward_that_fails_too_often_ends_the_run_whatever_the_policy() {
    use trainer::config::RewardFailure;
    use trainer::data::{Conversation, Message, Provenance};
    use trainer::stage::rl::prompt::Prompt;
    use trainer::stage::rl::reward::{Answer, Rewards};

    let judge = |failure, body: &str, items: &str| {
        let plugin = load(&Guest::reward(body).items(items));
        let rewards = Rewards::new(vec![plugin], Vec::new(), &[2.0], None, failure, None).unwrap();
        let prompt = Prompt {
            ids: vec![1],
            conversation: Conversation { messages: vec![Message::new("user", "q")], tools: None },
            reference: None,
            columns: None,
            provenance: Provenance { file: "prompts.jsonl".into(), row: 7 },
        };
        let answers = vec![Answer { prompt: &prompt, completion: "a" }; 3];
        rewards
            .judge(&answers, &trainer::dist::World::default())
            .map_err(|e| (e.exit_code(), e.to_string()))
    };
    for failure in [RewardFailure::Null, RewardFailure::Zero] {
        let (code, text) = judge(failure, "(unreachable)", "").unwrap_err();
        assert_eq!(code, 4);
        for part in ["failed on 3 of 3 completions", "more than 5 %", "prompts.jsonl:7"] {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
    }
    let (code, text) = judge(RewardFailure::Fail, "(unreachable)", "").unwrap_err();
    assert!(code == 4 && !text.contains("5 %"), "{text}");
    let half: String = 0.5f64.to_le_bytes().iter().map(|b| format!("\\{b:02x}")).collect();
    let sound =
        judge(RewardFailure::Fail, &scores(), &format!("(data (i32.const 512) \"{half}\")"));
    assert_eq!(sound.unwrap().total, [Some(1.0); 3]);
}
