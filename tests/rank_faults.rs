//! Ranks that die, freeze or are cut off: named in time, and the run goes on to the same bits.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::ranks::{
    children, end, launch, ranks_ok, ready, sft, signal, start, token_rows, wait_for, with,
};
use support::{adapter, losses, newest_checkpoint, text};

const LONG: Duration = Duration::from_secs(120);

/// A run long enough to be hit, saved after every update.
fn long_run(data: &str, out: &Path, updates: usize) -> Vec<String> {
    let more = [
        "--per_device_train_batch_size",
        "4",
        "--reproducible",
        "strict",
        "--eval_strategy",
        "no",
        "--save_steps",
        "1",
        "--save_total_limit",
        "3",
        "--max_steps",
        &updates.to_string(),
    ];
    sft(data, out, &more)
}

/// Folders and files that a half-done save would leave.
fn leftovers(out: &Path) -> Vec<String> {
    let names = std::fs::read_dir(out).into_iter().flatten().flatten();
    let names = names.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.contains(".tmp")).collect()
}

#[test]
fn killed_ranks_are_started_again_and_end_at_the_same_bits() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 64);
    let whole = tmp.path().join("whole");
    ranks_ok(2, &long_run(&data, &whole, 40));
    let out = tmp.path().join("killed");
    let launched = start(launch(2, &["--max_restarts", "4"], &long_run(&data, &out, 40)));
    let launcher = launched.id();
    let mut seed = u64::from(launcher) | 1;
    for kill in 0..4u64 {
        // Some updates further on, at a moment that differs from run to run.
        let reached = 8 * kill + 3;
        wait_for("a checkpoint", LONG, || newest_checkpoint(&out) >= Some(reached));
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis(seed >> 33 & 63));
        let mut ranks = Vec::new();
        wait_for("two ranks", LONG, || {
            ranks = children(launcher);
            ranks.len() == 2
        });
        signal(ranks[kill as usize % 2], "-KILL");
        wait_for("the end of a rank", LONG, || {
            children(launcher).iter().all(|pid| !ranks.contains(pid))
        });
    }
    let output = end(launched, LONG);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    for fragment in ["was killed by signal 9", "(1 of 4)", "(4 of 4)"] {
        assert!(stderr.contains(fragment), "no {fragment}: {stderr}");
    }
    assert_eq!(leftovers(&out), Vec::<String>::new());
    assert!(adapter(&whole) == adapter(&out), "the adapter differs");
    assert_eq!(losses(&whole), losses(&out));
}

#[test]
fn a_frozen_rank_is_named_within_the_deadline() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 64);
    let out = tmp.path().join("out");
    let command = with(&long_run(&data, &out, 4000), &[]);
    let at = command.iter().position(|a| a == "--ddp_timeout").unwrap();
    let mut command = command;
    command[at + 1] = "4".into();
    let launched = start(launch(2, &[], &command));
    wait_for("a checkpoint", LONG, || newest_checkpoint(&out).is_some());
    let ranks = children(launched.id());
    let begun = Instant::now();
    signal(ranks[1], "-STOP");
    let output = end(launched, LONG);
    let took = begun.elapsed();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("rank 1 is gone or frozen since operation"), "{stderr}");
    assert!(stderr.contains("rank 0 of 2:"), "{stderr}");
    // The deadline, the diagnosis, and the grace before the frozen one is killed.
    assert!(took < Duration::from_secs(40), "{took:?}");
    assert!(!Path::new(&format!("/proc/{}", ranks[1])).exists(), "the frozen rank is left");
}

#[test]
fn a_rank_that_fails_tells_the_others_why() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 64);
    let out = tmp.path().join("out");
    // A folder that is no folder: rank 0 can't save, and the others hear of it.
    let launched = start(launch(2, &["--max_restarts", "1"], &long_run(&data, &out, 400)));
    wait_for("a checkpoint", LONG, || newest_checkpoint(&out).is_some());
    std::fs::remove_dir_all(&out).unwrap();
    std::fs::write(&out, "in the way").unwrap();
    let output = end(launched, LONG);
    let stderr = text(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains("rank 0 ended: can't"), "{stderr}");
}

#[test]
fn a_signal_to_the_launcher_saves_and_says_how_to_go_on() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 64);
    let (whole, out) = (tmp.path().join("whole"), tmp.path().join("out"));
    ranks_ok(2, &long_run(&data, &whole, 30));
    let launched = start(launch(2, &[], &long_run(&data, &out, 30)));
    wait_for("a checkpoint", LONG, || newest_checkpoint(&out) >= Some(2));
    signal(launched.id(), "-INT");
    let output = end(launched, LONG);
    let stdout = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(stdout.contains("[rank 0] interrupted; saved"), "{stdout}");
    let line = stdout.lines().find(|l| l.contains("trainer launch")).expect("how to go on");
    assert!(line.contains("trainer launch --nproc_per_node 2 -- sft"), "{line}");
    assert!(line.ends_with("--resume_from_checkpoint True"), "{line}");
    ranks_ok(2, &with(&long_run(&data, &out, 30), &["--resume_from_checkpoint", "True"]));
    assert!(adapter(&whole) == adapter(&out), "the adapter differs");
}

#[test]
fn ranks_end_with_their_launcher() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 64);
    let out = tmp.path().join("out");
    let mut launched = start(launch(2, &[], &long_run(&data, &out, 4000)));
    wait_for("a checkpoint", LONG, || newest_checkpoint(&out).is_some());
    let ranks = children(launched.id());
    assert_eq!(ranks.len(), 2);
    signal(launched.id(), "-KILL");
    let _ = launched.wait();
    wait_for("the ranks' end", Duration::from_secs(10), || {
        ranks.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
}

/// Two network namespaces with a cable between them; `None`, with the reason, where they are not
/// permitted.
struct Hosts {
    names: [String; 2],
}

impl Hosts {
    fn new() -> Option<Self> {
        let id = std::process::id();
        let hosts = Self { names: [format!("trainer-a-{id}"), format!("trainer-b-{id}")] };
        let [a, b] = &hosts.names;
        let (va, vb) = (format!("va{id}"), format!("vb{id}"));
        let steps: Vec<Vec<&str>> = vec![
            vec!["netns", "add", a],
            vec!["netns", "add", b],
            vec!["link", "add", &va, "netns", a, "type", "veth", "peer", "name", &vb, "netns", b],
            vec!["-n", a, "addr", "add", "10.77.0.1/24", "dev", &va],
            vec!["-n", b, "addr", "add", "10.77.0.2/24", "dev", &vb],
            vec!["-n", a, "link", "set", "lo", "up"],
            vec!["-n", b, "link", "set", "lo", "up"],
            vec!["-n", a, "link", "set", &va, "up"],
            vec!["-n", b, "link", "set", &vb, "up"],
        ];
        for step in steps {
            match Command::new("ip").args(&step).output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => {
                    let why = text(&output.stderr);
                    eprintln!("skipped: no network namespaces here: ip {}: {why}", step.join(" "));
                    return None;
                }
                Err(e) => {
                    eprintln!("skipped: no network namespaces here: ip: {e}");
                    return None;
                }
            }
        }
        Some(hosts)
    }

    /// The launcher of machine `node` of a job over both.
    fn launch(&self, node: usize, command: &[String]) -> std::process::Child {
        let mut inside = Command::new("ip");
        inside
            .args(["netns", "exec", &self.names[node], env!("CARGO_BIN_EXE_trainer"), "launch"])
            .args(["--nproc_per_node", "1", "--nnodes", "2", "--node_rank", &node.to_string()])
            .args(["--master_addr", "10.77.0.1", "--master_port", "29511", "--"])
            .args(command)
            .stdin(std::process::Stdio::null());
        start(inside)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

#[test]
fn two_hosts_one_of_which_is_cut_off_go_on_to_the_same_bits() {
    if !ready() {
        return;
    }
    let Some(hosts) = Hosts::new() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 64);
    let (whole, out) = (tmp.path().join("whole"), tmp.path().join("out"));
    ranks_ok(2, &long_run(&data, &whole, 30));
    let deadline = |mut command: Vec<String>| {
        let at = command.iter().position(|a| a == "--ddp_timeout").unwrap();
        command[at + 1] = "5".into();
        command
    };
    let command = deadline(long_run(&data, &out, 30));
    // Only machine 0 writes; the other needs no folder of its own.
    let elsewhere = deadline(long_run(&data, &tmp.path().join("elsewhere"), 30));
    let (a, b) = (hosts.launch(0, &command), hosts.launch(1, &elsewhere));
    wait_for("a checkpoint", LONG, || newest_checkpoint(&out) >= Some(3));
    let cut = format!("vb{}", std::process::id());
    let done =
        Command::new("ip").args(["-n", &hosts.names[1], "link", "set", &cut, "down"]).status();
    assert!(done.unwrap().success());
    for (node, child) in [a, b].into_iter().enumerate() {
        let output = end(child, LONG);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "machine {node}: {stderr}");
        assert!(stderr.contains(&format!("rank {node} of 2:")), "{stderr}");
    }
    assert_eq!(leftovers(&out), Vec::<String>::new());
    assert!(newest_checkpoint(&out) < Some(30), "the cut came too late");
    let done = Command::new("ip").args(["-n", &hosts.names[1], "link", "set", &cut, "up"]).status();
    assert!(done.unwrap().success());
    let resumed = |command: &[String]| with(command, &["--resume_from_checkpoint", "True"]);
    let (a, b) = (hosts.launch(0, &resumed(&command)), hosts.launch(1, &resumed(&elsewhere)));
    for child in [a, b] {
        let output = end(child, LONG);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert!(adapter(&whole) == adapter(&out), "the adapter differs");
    assert_eq!(losses(&whole), losses(&out));
}
