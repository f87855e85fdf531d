//! Who is alive: every rank tells the store now and then which operation it is in, so that after a
//! failure the others can say who is missing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::store::Client;

/// How long an answer of the store is waited for when something has gone wrong already.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest farewell, characters.
const FAREWELL_CHARS_MAX: usize = 300;

/// What a rank says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sign {
    /// It lives; how often it said so, its operations so far, and the last one.
    Alive { beats: u64, operations: u64, last: String },
    /// It ended because others were missing.
    Left,
    /// It ended for this reason.
    Ended(String),
}

impl Sign {
    fn text(&self) -> String {
        match self {
            Sign::Alive { beats, operations, last } => {
                format!("alive\n{beats}\n{operations}\n{last}")
            }
            Sign::Left => "left".into(),
            Sign::Ended(why) => format!("ended\n{why}"),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.splitn(4, '\n');
        match lines.next()? {
            "alive" => Some(Sign::Alive {
                beats: lines.next()?.parse().ok()?,
                operations: lines.next()?.parse().ok()?,
                last: crate::error::excerpt(lines.next()?),
            }),
            "left" => Some(Sign::Left),
            "ended" => Some(Sign::Ended(crate::error::excerpt(text.split_once('\n')?.1))),
            _ => None,
        }
    }
}

/// What this rank says, until it ends.
#[derive(Debug, Default)]
struct Now {
    operations: u64,
    last: String,
    ended: bool,
}

/// See the module.
pub struct Watch {
    rank: usize,
    size: usize,
    host: String,
    port: u16,
    prefix: String,
    interval: Duration,
    now: Arc<Mutex<Now>>,
    /// Held while a sign is on its way.
    turn: Arc<Mutex<()>>,
}

impl Watch {
    /// Says that this rank lives, over `client`, from now on. `deadline` is that of the operations.
    ///
    /// # Errors
    /// When the store is gone.
    pub fn start(
        rank: usize,
        size: usize,
        (host, port): (&str, u16),
        prefix: &str,
        mut client: Client,
        deadline: Duration,
    ) -> std::io::Result<Self> {
        let interval = (deadline / 10).clamp(Duration::from_millis(200), Duration::from_secs(1));
        let now = Arc::new(Mutex::new(Now { last: "the start".into(), ..Now::default() }));
        let watch = Self {
            rank,
            size,
            host: host.into(),
            port,
            prefix: prefix.into(),
            interval,
            now: now.clone(),
            turn: Arc::default(),
        };
        let (key, turn) = (watch.key(rank), watch.turn.clone());
        let mut beats = 0;
        let mut beat = move |client: &mut Client| {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let sign = {
                let now = now.lock().unwrap_or_else(PoisonError::into_inner);
                if now.ended {
                    return Ok(false);
                }
                beats += 1;
                Sign::Alive { beats, operations: now.operations, last: now.last.clone() }
            };
            client.set(&key, sign.text().as_bytes())?;
            // The answer shows that it arrived: nothing said over another connection is overtaken.
            client.get(&key, PATIENCE).map(|_| true)
        };
        beat(&mut client)?;
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            // Without a store nobody could read it.
            while beat(&mut client).unwrap_or(false) {
                std::thread::sleep(interval);
            }
        })?;
        Ok(watch)
    }

    fn key(&self, rank: usize) -> String {
        format!("{}/alive/{rank}", self.prefix)
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation begins.
    pub fn enter(&self, operation: &str) {
        let mut now = self.now();
        now.operations += 1;
        now.last = operation.to_string();
    }

    /// Tells the others why this rank ends. Nothing is said afterwards.
    pub fn end(&self, why: &str) {
        let why: String = why.chars().take(FAREWELL_CHARS_MAX).collect();
        self.say_last(&Sign::Ended(why.replace('\n', " ")));
    }

    fn say_last(&self, sign: &Sign) {
        if std::mem::replace(&mut self.now().ended, true) {
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // A store that is gone takes no farewell.
        if let Ok(mut client) = Client::connect(&self.host, self.port, PATIENCE) {
            let _ = client.set(&self.key(self.rank), sign.text().as_bytes());
            // The answer shows that it arrived before this process ends.
            let _ = client.get(&self.key(self.rank), PATIENCE);
        }
    }

    /// After a failed operation: who is missing, in words; this rank says that it leaves.
    pub fn diagnose(&self) -> String {
        let found = self.signs().and_then(|before| {
            // Who said why it ended need not be watched.
            if before.iter().flatten().any(|s| matches!(s, Sign::Ended(_))) {
                return Ok((Vec::new(), before));
            }
            std::thread::sleep(self.interval * 3);
            Ok((before, self.signs()?))
        });
        let text = match found {
            Err(e) => format!(
                "; the store at {}:{} is lost too ({e}), so its machine or process may be gone",
                self.host, self.port
            ),
            Ok((before, after)) => self.compare(&before, &after),
        };
        self.say_last(&Sign::Left);
        text
    }

    fn signs(&self) -> std::io::Result<Vec<Option<Sign>>> {
        let mut client = Client::connect(&self.host, self.port, PATIENCE)?;
        let of = |rank| Ok(Sign::parse(&client.get(&self.key(rank), PATIENCE)?));
        (0..self.size).map(of).collect()
    }

    fn compare(&self, before: &[Option<Sign>], after: &[Option<Sign>]) -> String {
        let own = self.now().operations;
        let mut texts = Vec::new();
        for (rank, after) in after.iter().enumerate() {
            let Some(before) = before.get(rank).filter(|_| rank != self.rank) else {
                if let Some(Sign::Ended(why)) = after {
                    texts.push(format!("rank {rank} ended: {why}"));
                }
                continue;
            };
            match after {
                Some(Sign::Ended(why)) => texts.push(format!("rank {rank} ended: {why}")),
                Some(Sign::Left) => {}
                Some(Sign::Alive { last, operations, .. }) if before == after => texts.push(
                    format!("rank {rank} is gone or frozen since operation {operations}, {last}"),
                ),
                Some(Sign::Alive { last, operations, .. }) if *operations < own => {
                    texts.push(format!(
                        "rank {rank} lives but has come to operation {operations}, {last}, only, and \
                         this rank to {own}"
                    ));
                }
                Some(Sign::Alive { .. }) => {}
                None => texts.push(format!("rank {rank} said nothing that can be read")),
            }
        }
        match texts.is_empty() {
            true => "; all ranks live, so a connection between machines may be cut".into(),
            false => format!("; {}", texts.join("; ")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dist::store::Server;

    #[test]
    fn the_missing_the_late_and_those_who_said_why_are_told_apart() {
        let server = Server::start(0).unwrap();
        let deadline = Duration::from_secs(2);
        let connect = || Client::connect("127.0.0.1", server.port(), deadline).unwrap();
        let watch = |rank| {
            let at = ("127.0.0.1", server.port());
            Watch::start(rank, 5, at, "/t", connect(), deadline).unwrap()
        };
        let own = watch(0);
        let _late = watch(1);
        let alive = watch(3);
        // Killed: its last sign of life stays as it is.
        let killed = Sign::Alive { beats: 7, operations: 2, last: "all_reduce (gradients)".into() };
        let mut client = connect();
        client.set("/t/alive/2", killed.text().as_bytes()).unwrap();
        let left = watch(4);
        left.say_last(&Sign::Left);
        own.enter("barrier (start)");
        let text = own.diagnose();
        for part in [
            "rank 1 lives but has come to operation 0, the start",
            "rank 2 is gone or frozen since operation 2, all_reduce (gradients)",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("rank 0") && !text.contains("rank 4"), "{text}");
        assert_eq!(client.get("/t/alive/0", deadline).unwrap(), b"left");
        // Who says why it ended is the only one to name.
        let other = watch(0);
        alive.end("loss is NaN\nat step 3");
        assert_eq!(other.diagnose(), "; rank 3 ended: loss is NaN at step 3");
    }
}
