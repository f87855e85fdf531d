//! What is printed: lines, the first screen and the last one.

use std::io::Write;

use crate::run::Outcome;
use crate::stage::setup::{Report, Summary};

/// A line on standard output. A reader that went away (a closed pipe) ends the program quietly.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Text without a line end, as it comes.
pub fn piece(text: &str) {
    let mut out = std::io::stdout().lock();
    if write!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Text that came from files or a model: control characters but line ends and tabs escaped.
pub fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() && c != '\n' && c != '\t';
            if escape { c.escape_default().collect::<Vec<_>>() } else { vec![c] }
        })
        .collect()
}

/// 1234567 → `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// 1234567890 → `1,234 MB`.
pub fn megabytes(bytes: u64) -> String {
    format!("{} MB", grouped(bytes / 1_000_000))
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.2} %", 100.0 * part as f64 / whole.max(1) as f64)
}

/// The first screen of a run.
pub fn summary(s: &Summary) {
    let row = |name: &str, value: String| line(&format!("  {name:<12} {value}"));
    line(&format!("trainer {}", s.stage));
    row("model", printable(&s.model));
    let parameters = grouped(s.parameters as u64);
    row("parameters", format!("{parameters}, {} weights", s.dtype));
    let share = percent(s.trained, s.parameters);
    row("trained", format!("{} ({share})", grouped(s.trained as u64)));
    for (i, text) in s.train_rows.iter().enumerate() {
        row(if i == 0 { "rows" } else { "" }, printable(text));
    }
    let trained = percent(s.trained_tokens, s.tokens);
    row(
        "sequences",
        format!(
            "{}, {} tokens an epoch, {trained} trained",
            grouped(s.sequences as u64),
            grouped(s.tokens as u64)
        ),
    );
    if let Some(fill) = s.packing_fill {
        row("packing", format!("{:.1} % of the packed sequences filled", 100.0 * fill));
    }
    row("validation", printable(&s.validation));
    let done = if s.done > 0 { format!(", {} done", grouped(s.done)) } else { String::new() };
    row("updates", format!("{}{done}", grouped(s.steps)));
    row("memory", format!("about {} at the peak", megabytes(s.memory_bytes as u64)));
    let each = match s.processes {
        1 => format!("{} threads", s.threads),
        n => format!("{n} processes, {} threads each", s.threads),
    };
    row("machine", format!("{}, {each}, seed {}", printable(&s.device), s.seed));
    row("output", printable(&s.output_dir.display().to_string()));
    for notice in &s.notices {
        row("note", printable(notice));
    }
}

/// The last screen of a run. `resume` is the command that goes on after an interrupt.
pub fn report(r: &Report, s: &Summary, resume: &str, adapter: bool) {
    if let Outcome::Interrupted(path) = &r.outcome {
        line(&format!("interrupted; saved {}", path.display()));
        line(&format!("go on with:\n  {resume}"));
        return;
    }
    let row = |name: &str, value: String| line(&format!("  {name:<12} {value}"));
    let metric = |name: &str| r.metrics.get(name).and_then(|v| v.as_f64());
    line("done");
    if let Some(loss) = metric("train_loss") {
        row("train loss", format!("{loss:.4} (mean of all updates)"));
    }
    if let (Some(loss), Some(perplexity)) = (metric("eval_loss"), metric("perplexity")) {
        row("eval loss", format!("{loss:.4}, perplexity {perplexity:.2}"));
    }
    if let (Some(seconds), Some(speed)) =
        (metric("train_runtime"), metric("train_tokens_per_second"))
    {
        row("speed", format!("{speed:.0} tokens/s over {seconds:.1} s"));
    }
    if let Some(bytes) = r.peak_memory_bytes {
        let gpu = r.peak_device_bytes.map(|gpu| format!(", {} on the GPU", megabytes(gpu)));
        let gpu = gpu.unwrap_or_default();
        row("memory", format!("{} at the peak{gpu}", megabytes(bytes)));
    }
    let out = s.output_dir.display();
    row("output", format!("{out}"));
    if s.stage == "rm" {
        line("next:");
        if adapter {
            line(&format!(
                "  trainer merge --base_model BASE --peft_model_path {out} --output_dir MERGED"
            ));
        }
        let model = if adapter { "MERGED".to_string() } else { out.to_string() };
        line(&format!(
            "  trainer score --reward_model_name_or_path {model} --data_file ANSWERS --output_file SCORES"
        ));
    } else if adapter {
        line("next:");
        line(&format!(
            "  trainer merge --base_model BASE --peft_model_path {out} --output_dir MERGED"
        ));
        line(&format!("  trainer chat --model BASE --adapter {out}"));
    } else {
        line(&format!("next:\n  trainer chat --model {out}"));
    }
    line(&format!("  tensorboard --logdir {out}/logs"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_control_characters_shown() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(printable("a\u{1b}[2J\nb"), "a\\u{1b}[2J\nb");
    }
}
