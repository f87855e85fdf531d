//! `trainer launch`: starts a command as several ranks, and ends or restarts them together.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::flags::{self, Parsed};
use super::signals;
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting, row};
use crate::dist::environment::Environment;
use crate::dist::store::{Client, Server};
use crate::dist::{DistError, EXIT_LOST};
use crate::error::Result;

const GROUP: &str = "Processes";

const TABLE: &[Setting] = &[
    row(GROUP, "nproc_per_node", Kind::Int(1), "1", &["num_processes"], "ranks on this machine"),
    row(GROUP, "nnodes", Kind::Int(1), "1", &["num_machines"], "machines"),
    row(GROUP, "node_rank", Kind::Int(0), "0", &["machine_rank"], "number of this machine, from 0"),
    row(
        GROUP,
        "master_addr",
        Kind::Text,
        "",
        &["main_process_ip"],
        "address of machine 0, as the others reach it; needed with several machines",
    ),
    row(
        GROUP,
        "master_port",
        Kind::Int(0),
        "0",
        &["main_process_port"],
        "port of machine 0 where ranks meet; 0: a free one, or 29500 with several machines",
    ),
    row(
        GROUP,
        "max_restarts",
        Kind::Int(0),
        "0",
        &[],
        "how often all ranks are started again, from the newest checkpoint, when one was lost",
    ),
];

/// How long ranks may take to end once they were asked to.
const GRACE: Duration = Duration::from_secs(10);
/// Between two looks at the ranks.
const LOOK: Duration = Duration::from_millis(50);
/// How long another machine's launcher is listened for before a restart.
const HEARSAY: Duration = Duration::from_secs(2);
/// What the launcher tells its ranks, so that they can say how to go on.
pub const COMMAND_VARIABLE: &str = "TRAINER_LAUNCH_COMMAND";

/// What was asked for.
struct Job {
    per_node: usize,
    nodes: usize,
    node: usize,
    address: String,
    port: u16,
    max_restarts: u64,
    command: Vec<String>,
    prefix: String,
}

/// How one attempt ended.
enum Ended {
    Done,
    /// The rank to blame, and how it ended.
    Failed(usize, ExitStatus),
}

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let cut = args.iter().position(|a| a == "--").unwrap_or(args.len());
    let (own, rest) = args.split_at(cut);
    let about = "Start a training command as several ranks on this machine (and others), end all when \
                 one fails, and start them again from the newest checkpoint";
    let example = "trainer launch --nproc_per_node 2 -- sft --plugin sharegpt --model_name_or_path \
                   MODEL --train_file_dir DATA --output_dir OUT";
    let mut v = match flags::parse("launch", about, example, TABLE, own)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let (per_node, nodes, node) = (v.size("nproc_per_node"), v.size("nnodes"), v.size("node_rank"));
    let address = v.text("master_addr").unwrap_or_default();
    let port = v.int("master_port");
    let max_restarts = v.int("max_restarts").unsigned_abs();
    let command: Vec<String> = rest.iter().skip(1).cloned().collect();
    if command.is_empty() {
        v.faults.push("there is no command: put it after `--`, as in `trainer launch --nproc_per_node 2 -- sft …`".into());
    }
    if node >= nodes {
        v.faults.push(format!("`--node_rank` is {node}, but the machines are 0 to {}", nodes - 1));
    }
    if nodes > 1 && address.is_empty() {
        v.faults.push("`--nnodes` above 1 needs `--master_addr`, the address of machine 0".into());
    }
    let port = u16::try_from(port).unwrap_or_else(|_| {
        v.faults.push(format!("`--master_port` is {port}, expected 0 to 65535"));
        0
    });
    if !v.faults.is_empty() {
        return Err(ConfigError::Faults(v.faults).into());
    }
    let mut prefix = vec!["trainer".to_string(), "launch".into()];
    prefix.extend(own.iter().cloned());
    let mut job = Job {
        per_node,
        nodes,
        node,
        address: if address.is_empty() { "127.0.0.1".into() } else { address },
        port: if nodes > 1 && port == 0 { 29500 } else { port },
        max_restarts,
        command,
        prefix: prefix.join(" "),
    };
    signals::install_counting();
    if job.node == 0 {
        let server = Server::start(job.port).map_err(|e| DistError::Store {
            rank: 0,
            address: format!("{}:{}", job.address, job.port),
            reason: format!("can't be served: {e} (choose another --master_port)"),
        })?;
        job.port = server.port();
    }
    job.attempts()
}

impl Job {
    /// Runs attempts until one is done, or no more is to be tried.
    fn attempts(&self) -> Result<()> {
        let mut attempt = 0;
        loop {
            let (rank, status) = match self.attempt(attempt)? {
                Ended::Done => return Ok(()),
                Ended::Failed(rank, status) => (rank, status),
            };
            let code = exit_code(status);
            let why = if signals::count() > 0 {
                Some("a signal came".to_string())
            } else if (2..=5).contains(&code) {
                Some("the same would happen again".into())
            } else if attempt >= self.max_restarts {
                Some(match self.max_restarts {
                    0 => "there is no --max_restarts".into(),
                    n => format!("all {n} restarts are used up"),
                })
            } else {
                self.heard_of_the_end()
            };
            if let Some(why) = why {
                say(&format!("rank {rank} {}; not starting again: {why}", words(status)));
                self.tell_the_end(&format!("rank {rank} {}", words(status)));
                std::process::exit(i32::from(code));
            }
            attempt += 1;
            say(&format!(
                "rank {rank} {}; starting all ranks again ({attempt} of {}), from the newest checkpoint",
                words(status),
                self.max_restarts
            ));
        }
    }

    fn store(&self) -> std::io::Result<Client> {
        Client::connect(&self.address, self.port, HEARSAY)
    }

    /// Tells the launchers of other machines that this one does not start again.
    fn tell_the_end(&self, why: &str) {
        if self.nodes > 1
            && let Ok(mut store) = self.store()
        {
            let _ = store.set("/trainer/launch/ended", why.as_bytes());
            // The machine of the store stays until the others have heard.
            if self.node == 0 {
                std::thread::sleep(HEARSAY * 2);
            }
        }
    }

    /// Why another machine's launcher does not start again, if so.
    fn heard_of_the_end(&self) -> Option<String> {
        if self.nodes == 1 {
            return None;
        }
        let said = self.store().map(|mut s| s.get("/trainer/launch/ended", HEARSAY));
        match said {
            Ok(Ok(why)) => {
                let why = crate::error::excerpt(&String::from_utf8_lossy(&why));
                Some(format!("another machine gave up ({why})"))
            }
            Ok(Err(_)) => None,
            Err(_) => Some("machine 0 is gone".into()),
        }
    }

    /// Starts all ranks of this machine once and waits for their ends.
    fn attempt(&self, attempt: u64) -> Result<Ended> {
        let mut ranks: Vec<Rank> = Vec::with_capacity(self.per_node);
        for local in 0..self.per_node {
            match self.spawn(local, attempt) {
                Ok(rank) => ranks.push(rank),
                Err(e) => {
                    end_all(&mut ranks);
                    return Err(
                        ConfigError::one(format!("a rank could not be started: {e}")).into()
                    );
                }
            }
        }
        let mut forwarded = 0;
        loop {
            let signals = signals::count();
            if signals > forwarded {
                forwarded = signals;
                ranks.iter().for_each(|r| r.signal(Signal::TERM));
            }
            let mut running = false;
            // Whoever says that it lost another rank is not the one to blame.
            let mut blamed: Option<(usize, ExitStatus)> = None;
            for rank in &mut ranks {
                match rank.look() {
                    None => running = true,
                    Some(status) if status.success() => {}
                    Some(status) => {
                        let witness = |s: ExitStatus| s.code() == Some(i32::from(EXIT_LOST));
                        if blamed.is_none_or(|(_, b)| witness(b) && !witness(status)) {
                            blamed = Some((rank.number, status));
                        }
                    }
                }
            }
            if let Some((number, status)) = blamed {
                if running {
                    say(&format!("rank {number} {}; ending the others", words(status)));
                }
                end_all(&mut ranks);
                ranks.into_iter().for_each(Rank::join);
                return Ok(Ended::Failed(number, status));
            }
            if !running {
                ranks.into_iter().for_each(Rank::join);
                return Ok(Ended::Done);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn spawn(&self, local: usize, attempt: u64) -> std::io::Result<Rank> {
        let number = self.node * self.per_node + local;
        let variables = [
            ("RANK", number.to_string()),
            ("WORLD_SIZE", (self.nodes * self.per_node).to_string()),
            ("LOCAL_RANK", local.to_string()),
            ("LOCAL_WORLD_SIZE", self.per_node.to_string()),
            ("GROUP_RANK", self.node.to_string()),
            ("MASTER_ADDR", self.address.clone()),
            ("MASTER_PORT", self.port.to_string()),
            ("TORCHELASTIC_RUN_ID", "launch".into()),
            ("TORCHELASTIC_RESTART_COUNT", attempt.to_string()),
            ("TORCHELASTIC_MAX_RESTARTS", self.max_restarts.to_string()),
            ("TORCHELASTIC_USE_AGENT_STORE", "True".into()),
            (COMMAND_VARIABLE, self.prefix.clone()),
        ];
        let mut child = Command::new(std::env::current_exe()?)
            .args(&self.command)
            .envs(variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C comes to the launcher alone, which passes it on once.
            .process_group(0)
            .spawn()?;
        let prefix = format!("[rank {number}] ");
        let mut copies = Vec::new();
        if let Some(out) = child.stdout.take() {
            copies.push(copy_lines(out, prefix.clone(), false)?);
        }
        if let Some(err) = child.stderr.take() {
            copies.push(copy_lines(err, prefix, true)?);
        }
        Ok(Rank { number, child, status: None, copies })
    }
}

/// A process and what copies its output.
struct Rank {
    number: usize,
    child: Child,
    status: Option<ExitStatus>,
    copies: Vec<std::thread::JoinHandle<()>>,
}

impl Rank {
    /// How it ended, if it did.
    fn look(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    fn signal(&self, signal: Signal) {
        if self.status.is_none()
            && let Some(pid) = Pid::from_raw(self.child.id() as i32)
        {
            // A process that ended meanwhile needs none.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until its last line was printed.
    fn join(self) {
        for copy in self.copies {
            let _ = copy.join();
        }
    }
}

/// Asks all ranks to end, and ends those that don't.
fn end_all(ranks: &mut [Rank]) {
    let until = Instant::now() + GRACE;
    ranks.iter().for_each(|r| r.signal(Signal::TERM));
    while ranks.iter_mut().any(|r| r.look().is_none()) {
        if Instant::now() > until {
            ranks.iter().for_each(|r| r.signal(Signal::KILL));
            ranks.iter_mut().for_each(|r| r.status = r.child.wait().ok());
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// Copies lines to this process's output, each behind `prefix`.
fn copy_lines(
    from: impl Read + Send + 'static,
    prefix: String,
    to_stderr: bool,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("output".into()).spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = prefix.clone().into_bytes();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            if !line.ends_with(b"\n") {
                line.push(b'\n');
            }
            // A reader that went away must not stop the ranks.
            let _ = match to_stderr {
                true => std::io::stderr().lock().write_all(&line),
                false => std::io::stdout().lock().write_all(&line),
            };
            line.truncate(prefix.len());
        }
    })
}

fn say(text: &str) {
    eprintln!("launch: {text}");
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) if code == i32::from(EXIT_LOST) => "lost another rank".into(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        _ => "ended".into(),
    }
}

/// Refuses a command that works in one process where a launcher started several.
///
/// # Errors
/// Then.
pub fn refuse_several(name: &str) -> Result<()> {
    // Variables that make no sense are no business of a command that needs none.
    if let Ok(environment) = Environment::detect()
        && environment.size > 1
    {
        return Err(ConfigError::one(format!(
            "`trainer {name}` works in one process, but {} started {}; start it by itself",
            environment.launcher.name(),
            environment.size
        ))
        .into());
    }
    Ok(())
}

/// Leaves an error where torchrun looks for it.
pub fn tell_torchrun(text: &str) {
    let Some(path) = std::env::var_os("TORCHELASTIC_ERROR_FILE") else { return };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = now.map_or(0, |d| d.as_secs()).to_string();
    let value = json!({"message": {"message": text, "extraInfo": {"timestamp": seconds}}});
    // torchrun does without it.
    let _ = std::fs::write(path, value.to_string());
}
