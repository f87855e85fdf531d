//! Running `trainer` as several ranks.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{arg, shared, text};

/// Whether the binary has collectives and the model is there; says why not.
pub fn ready() -> bool {
    if !cfg!(feature = "gloo") {
        eprintln!("skipped: built without `--features gloo` (libgloo-dev)");
        return false;
    }
    shared("stories260K/hf").is_some()
}

/// `trainer launch` of a command.
pub fn launch(ranks: usize, more: &[&str], command: &[String]) -> Command {
    let mut launch = Command::new(env!("CARGO_BIN_EXE_trainer"));
    launch
        .args(["launch", "--nproc_per_node", &ranks.to_string()])
        .args(more)
        .arg("--")
        .args(command)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    launch
}

/// Runs a command as so many ranks; one is run without a launcher. Its standard output.
pub fn ranks_ok(ranks: usize, command: &[String]) -> String {
    let output = match ranks {
        1 => super::trainer(command),
        _ => launch(ranks, &[], command).output().expect("the binary starts"),
    };
    assert!(
        output.status.success(),
        "{ranks} ranks, exit {:?}\n--- stdout\n{}\n--- stderr\n{}",
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A command with further arguments.
pub fn with(command: &[String], more: &[&str]) -> Vec<String> {
    command.iter().cloned().chain(more.iter().map(|s| s.to_string())).collect()
}

/// Starts a launcher whose output is kept.
pub fn start(mut launch: Command) -> Child {
    launch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

/// The end of a process that must come within `most`.
pub fn end(mut child: Child, most: Duration) -> Output {
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = std::thread::spawn(move || {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let other = std::thread::spawn(move || {
            let _ = err.read_to_end(&mut b);
            b
        });
        let _ = out.read_to_end(&mut a);
        (a, other.join().unwrap())
    });
    let until = Instant::now() + most;
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break status,
            None if Instant::now() > until => {
                let _ = child.kill();
                panic!("the launcher did not end within {most:?}");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let (stdout, stderr) = read.join().unwrap();
    Output { status, stdout, stderr }
}

/// Process ids of a launcher's ranks, by rank.
pub fn children(launcher: u32) -> Vec<u32> {
    let mut found: Vec<(usize, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name may hold blanks; what follows its bracket does not.
            let parent: u32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            let environment = std::fs::read(entry.path().join("environ")).ok()?;
            let rank = environment.split(|&b| b == 0).find_map(|v| v.strip_prefix(b"RANK="))?;
            let rank = std::str::from_utf8(rank).ok()?.parse().ok()?;
            (parent == launcher).then_some((rank, pid))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, pid)| pid).collect()
}

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status();
    assert!(sent.is_ok_and(|s| s.success()), "{name} to {pid}");
}

/// Waits until `done`, at most so long.
pub fn wait_for(what: &str, most: Duration, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + most;
    while !done() {
        assert!(Instant::now() < until, "{what} did not come within {most:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The largest relative difference of two runs' losses, update by update.
pub fn difference(a: &Path, b: &Path) -> f64 {
    let (a, b) = (super::losses(a), super::losses(b));
    assert_eq!(a.len(), b.len());
    assert!(!a.is_empty());
    let each = a.iter().zip(&b).map(|((_, a), (_, b))| (a - b).abs() / a.abs().max(1e-12));
    each.fold(0.0, f64::max)
}

/// Rows of ids, most of which are trained.
pub fn token_rows(dir: &Path, rows: usize) -> String {
    let mut text = String::new();
    for r in 0..rows {
        let length = 10 + (r * 7) % 23;
        let ids: Vec<usize> = (0..length).map(|i| 3 + (r * 31 + i * i * 5) % 500).collect();
        let label = |(i, &id): (usize, &usize)| if i < length / 4 { -100 } else { id as i64 };
        let labels: Vec<i64> = ids.iter().enumerate().map(label).collect();
        text.push_str(&format!("{{\"input_ids\": {ids:?}, \"labels\": {labels:?}}}\n"));
    }
    let path = dir.join("rows.jsonl");
    std::fs::write(&path, text).expect("a file");
    arg(path)
}

/// Arguments of a short run on rows of ids.
pub fn sft(data: &str, out: &Path, more: &[&str]) -> Vec<String> {
    let model = arg(shared("stories260K/hf").expect("shared data"));
    let out = arg(out);
    let common = [
        "sft",
        "--model_name_or_path",
        &model,
        "--train_file_dir",
        data,
        "--output_dir",
        &out,
        "--learning_rate",
        "5e-3",
        "--logging_steps",
        "1",
        "--report_to",
        "none",
        "--num_threads",
        "1",
        "--ddp_timeout",
        "60",
    ];
    common.iter().chain(more).map(|s| s.to_string()).collect()
}
