//! Gloo on CPUs: a full mesh of TCP connections, deadlines on every operation.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::collective::{Collective, Reduce};
use super::environment::Environment;
use super::store::Client;
use super::watch::Watch;
use super::{DistError, seconds};

/// Longest message of Gloo that is kept, bytes.
const ERROR_BYTES: usize = 1024;

type Give = unsafe extern "C" fn(*mut c_void, *const c_char, usize);

/// The store's functions as the shim calls them.
#[repr(C)]
struct RawStore {
    user: *mut c_void,
    set: unsafe extern "C" fn(*mut c_void, *const c_char, usize, *const c_char, usize) -> c_int,
    get: unsafe extern "C" fn(*mut c_void, *const c_char, usize, *mut c_void, Give) -> c_int,
    wait: unsafe extern "C" fn(*mut c_void, *const c_char, usize, c_long) -> c_int,
}

// `gloo_shim.cc` has the other side of these.
unsafe extern "C" {
    fn trainer_gloo_connect(
        rank: c_int,
        size: c_int,
        host: *const c_char,
        interface_name: *const c_char,
        timeout_ms: c_long,
        store: *const RawStore,
        out: *mut *mut c_void,
        error: *mut c_char,
        error_len: usize,
    ) -> c_int;
    fn trainer_gloo_all_reduce_f32(
        group: *mut c_void,
        data: *mut f32,
        n: usize,
        greatest: c_int,
        error: *mut c_char,
        error_len: usize,
    ) -> c_int;
    fn trainer_gloo_all_reduce_f64(
        group: *mut c_void,
        data: *mut f64,
        n: usize,
        greatest: c_int,
        error: *mut c_char,
        error_len: usize,
    ) -> c_int;
    fn trainer_gloo_all_gather(
        group: *mut c_void,
        own: *const u8,
        n: usize,
        all: *mut u8,
        error: *mut c_char,
        error_len: usize,
    ) -> c_int;
    fn trainer_gloo_broadcast(
        group: *mut c_void,
        data: *mut u8,
        n: usize,
        root: c_int,
        error: *mut c_char,
        error_len: usize,
    ) -> c_int;
    fn trainer_gloo_barrier(group: *mut c_void, error: *mut c_char, error_len: usize) -> c_int;
}

/// The group's handle. It is never destroyed: after an error Gloo's destructors may wait for peers
/// that will not answer, and a group lives as long as its process.
struct Handle(*mut c_void);

// SAFETY: Gloo's contexts may be used from any thread, by one at a time, which the mutex around the
// handle sees to.
unsafe impl Send for Handle {}

/// See the module.
pub struct Gloo {
    rank: usize,
    size: usize,
    group: Mutex<Handle>,
    watch: Watch,
}

/// The store as the callbacks see it.
struct Meeting<'a> {
    client: &'a mut Client,
    prefix: &'a str,
    deadline: Duration,
    /// The first error, which Gloo would not repeat.
    error: Option<std::io::Error>,
}

impl Meeting<'_> {
    fn answer(&mut self, result: std::io::Result<()>) -> c_int {
        match result {
            Ok(()) => 0,
            Err(e) => {
                self.error.get_or_insert(e);
                1
            }
        }
    }
}

/// # Safety
/// `user` is the `Meeting` that [`Gloo::connect`] handed over and nobody else uses meanwhile; `key`
/// has `n` bytes.
unsafe fn meeting<'a>(
    user: *mut c_void,
    key: *const c_char,
    n: usize,
) -> (&'a mut Meeting<'a>, String) {
    // SAFETY: as above.
    let (meeting, key) = unsafe {
        (&mut *user.cast::<Meeting<'a>>(), std::slice::from_raw_parts(key.cast::<u8>(), n))
    };
    let key = format!("{}/gloo/{}", meeting.prefix, String::from_utf8_lossy(key));
    (meeting, key)
}

unsafe extern "C" fn set(
    user: *mut c_void,
    key: *const c_char,
    key_len: usize,
    data: *const c_char,
    data_len: usize,
) -> c_int {
    // SAFETY: the shim hands over what it was given and valid slices.
    let ((meeting, key), data) = unsafe {
        (meeting(user, key, key_len), std::slice::from_raw_parts(data.cast::<u8>(), data_len))
    };
    let result = meeting.client.set(&key, data);
    meeting.answer(result)
}

unsafe extern "C" fn get(
    user: *mut c_void,
    key: *const c_char,
    key_len: usize,
    sink: *mut c_void,
    give: Give,
) -> c_int {
    // SAFETY: as in `set`.
    let (meeting, key) = unsafe { meeting(user, key, key_len) };
    let result = meeting.client.get(&key, meeting.deadline).map(|value| {
        // SAFETY: `give` copies the bytes into the shim's own vector.
        unsafe { give(sink, value.as_ptr().cast(), value.len()) }
    });
    meeting.answer(result)
}

unsafe extern "C" fn wait(user: *mut c_void, key: *const c_char, n: usize, ms: c_long) -> c_int {
    // SAFETY: as in `set`.
    let (meeting, key) = unsafe { meeting(user, key, n) };
    let deadline = match u64::try_from(ms) {
        Ok(ms) if ms > 0 => Duration::from_millis(ms),
        _ => meeting.deadline,
    };
    let result = meeting.client.wait(&[&key], deadline);
    meeting.answer(result)
}

fn message(error: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(error).map_or("unknown".into(), CStr::to_string_lossy);
    // Without the place in Gloo's source.
    let text = match text.split_once("] ") {
        Some((place, rest)) if place.starts_with('[') => rest,
        _ => text.as_ref(),
    };
    crate::error::excerpt(text.trim().trim_end_matches('.'))
}

fn text(s: &str) -> CString {
    CString::new(s.replace('\0', "")).unwrap_or_default()
}

impl Gloo {
    /// Connects all ranks with each other; all operations have `deadline` from then on. The store
    /// behind `client` is where their addresses are exchanged, under `prefix`.
    ///
    /// # Errors
    /// When a rank does not come in time, or can't be reached.
    pub fn connect(
        environment: &Environment,
        mut client: Client,
        prefix: &str,
        deadline: Duration,
    ) -> Result<Self, DistError> {
        let (rank, size) = (environment.rank, environment.size);
        let lost = |reason: String| DistError::Store {
            rank,
            address: format!("{}:{}", environment.master.0, environment.master.1),
            reason,
        };
        let at = (environment.master.0.as_str(), environment.master.1);
        let watcher = Client::connect(at.0, at.1, deadline).map_err(|e| lost(e.to_string()))?;
        let watch = Watch::start(rank, size, at, prefix, watcher, deadline)
            .map_err(|e| lost(e.to_string()))?;
        let interface = std::env::var("GLOO_SOCKET_IFNAME").unwrap_or_default();
        // The address by which this machine reaches the store is one that others reach.
        let own = client.own_address().map_err(|e| lost(e.to_string()))?.to_canonical();
        if own.is_loopback() && environment.many_machines() && interface.is_empty() {
            return Err(DistError::Environment(vec![format!(
                "rank {rank} reaches MASTER_ADDR {} by {own}, which other machines can't reach; set \
                 MASTER_ADDR to an address of the network, or GLOO_SOCKET_IFNAME to the interface",
                environment.master.0
            )]));
        }
        let host = if interface.is_empty() { own.to_string() } else { String::new() };
        let (host, interface) = (text(&host), text(&interface));
        let timeout = c_long::try_from(deadline.as_millis()).unwrap_or(c_long::MAX);
        let mut meeting = Meeting { client: &mut client, prefix, deadline, error: None };
        let user: *mut Meeting<'_> = &mut meeting;
        let store = RawStore { user: user.cast(), set, get, wait };
        let mut group = std::ptr::null_mut();
        let mut error = [0u8; ERROR_BYTES];
        // SAFETY: all pointers live until the call returns, and the shim keeps none of them.
        let failed = unsafe {
            trainer_gloo_connect(
                rank as c_int,
                size as c_int,
                host.as_ptr(),
                interface.as_ptr(),
                timeout,
                &store,
                &mut group,
                error.as_mut_ptr().cast(),
                ERROR_BYTES,
            )
        };
        if failed != 0 {
            return Err(match meeting.error.take() {
                Some(e) if e.kind() == std::io::ErrorKind::TimedOut => lost(format!(
                    "knows no address of some rank after {}: not all {size} ranks came",
                    seconds(deadline)
                )),
                Some(e) => lost(e.to_string()),
                None => DistError::Collective {
                    rank,
                    size,
                    operation: "connecting the ranks".into(),
                    reason: message(&error),
                    suspects: String::new(),
                },
            });
        }
        Ok(Self { rank, size, group: Mutex::new(Handle(group)), watch })
    }

    /// Runs one operation of the shim's.
    fn run(
        &self,
        name: &str,
        what: &str,
        call: impl FnOnce(*mut c_void, *mut c_char, usize) -> c_int,
    ) -> Result<(), DistError> {
        let operation = format!("{name} ({what})");
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        self.watch.enter(&operation);
        let mut error = [0u8; ERROR_BYTES];
        if call(group.0, error.as_mut_ptr().cast(), ERROR_BYTES) == 0 {
            return Ok(());
        }
        Err(DistError::Collective {
            rank: self.rank,
            size: self.size,
            operation,
            reason: message(&error),
            suspects: self.watch.diagnose(),
        })
    }
}

impl Collective for Gloo {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, values: &mut [f32], by: Reduce, what: &str) -> Result<(), DistError> {
        if values.is_empty() {
            return Ok(());
        }
        let greatest = c_int::from(by == Reduce::Max);
        self.run("all_reduce", what, |group, error, n| {
            // SAFETY: the slice and the error's bytes live until the call returns.
            unsafe {
                let data = values.as_mut_ptr();
                trainer_gloo_all_reduce_f32(group, data, values.len(), greatest, error, n)
            }
        })
    }

    fn all_reduce_f64(&self, values: &mut [f64], by: Reduce, what: &str) -> Result<(), DistError> {
        if values.is_empty() {
            return Ok(());
        }
        let greatest = c_int::from(by == Reduce::Max);
        self.run("all_reduce", what, |group, error, n| {
            // SAFETY: as in `all_reduce`.
            unsafe {
                let data = values.as_mut_ptr();
                trainer_gloo_all_reduce_f64(group, data, values.len(), greatest, error, n)
            }
        })
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], what: &str) -> Result<(), DistError> {
        assert_eq!(all.len(), own.len() * self.size, "room for every rank's bytes");
        if own.is_empty() {
            return Ok(());
        }
        self.run("all_gather", what, |group, error, n| {
            // SAFETY: as in `all_reduce`; `all` has room for `size` times `own`.
            unsafe {
                let all = all.as_mut_ptr();
                trainer_gloo_all_gather(group, own.as_ptr(), own.len(), all, error, n)
            }
        })
    }

    fn reduce_scatter(&self, values: &mut [f32], what: &str) -> Result<(), DistError> {
        // Gloo's own reduce_scatter takes twice the time of its all_reduce on CPUs.
        self.all_reduce(values, Reduce::Sum, what)
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize, what: &str) -> Result<(), DistError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.run("broadcast", what, |group, error, n| {
            // SAFETY: as in `all_reduce`.
            unsafe {
                let data = bytes.as_mut_ptr();
                trainer_gloo_broadcast(group, data, bytes.len(), root as c_int, error, n)
            }
        })
    }

    fn barrier(&self, what: &str) -> Result<(), DistError> {
        self.run("barrier", what, |group, error, n| {
            // SAFETY: as in `all_reduce`.
            unsafe { trainer_gloo_barrier(group, error, n) }
        })
    }

    fn leave(&self, why: &str) {
        self.watch.end(why);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dist::World;
    use crate::dist::environment::Launcher;
    use crate::dist::store::Server;

    /// Runs `f` as every rank of a group, each in a thread of its own.
    fn ranks<T: Send + 'static>(
        size: usize,
        deadline: Duration,
        f: impl Fn(Gloo) -> T + Send + Sync + Copy + 'static,
    ) -> Vec<T> {
        let server = Server::start(0).unwrap();
        let port = server.port();
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                std::thread::spawn(move || {
                    let environment = Environment {
                        launcher: Launcher::Torchrun,
                        rank,
                        size,
                        local_rank: rank,
                        local_size: size,
                        master: ("127.0.0.1".into(), port),
                        ..Environment::single()
                    };
                    let client = Client::connect("127.0.0.1", port, deadline).unwrap();
                    f(Gloo::connect(&environment, client, "/test", deadline).unwrap())
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    }

    #[test]
    fn every_operation_gives_every_rank_the_same() {
        for size in [2, 3, 4] {
            let all = ranks(size, Duration::from_secs(20), move |gloo| {
                let me = gloo.rank();
                let mut sums: Vec<f32> = (0..1000).map(|i| (i * (me + 1)) as f32 * 0.1).collect();
                gloo.all_reduce(&mut sums, Reduce::Sum, "sums").unwrap();
                let mut most = [me as f64, -(me as f64)];
                gloo.all_reduce_f64(&mut most, Reduce::Max, "most").unwrap();
                let mut scattered: Vec<f32> = vec![me as f32 + 1.0; 2 * size];
                gloo.reduce_scatter(&mut scattered, "scattered").unwrap();
                let mut told = if me == 1 { *b"from one" } else { [0; 8] };
                gloo.broadcast(&mut told, 1, "told").unwrap();
                gloo.barrier("here").unwrap();
                let world = World::of(gloo);
                let lengths = world.gather_bytes(&vec![me as u8; me], "lengths").unwrap();
                let items: Vec<usize> = (0..7).collect();
                let squares = world
                    .map(&items, "squares", |own| {
                        Ok::<_, DistError>(own.iter().map(|i| i * i).collect())
                    })
                    .unwrap();
                (me, sums, most, scattered[2 * me..2 * me + 2].to_vec(), told, lengths, squares)
            });
            let factor: usize = (1..=size).sum();
            for (me, sums, most, scattered, told, lengths, squares) in &all {
                assert_eq!(sums, &all[0].1);
                assert!((sums[999] - 999.0 * factor as f32 * 0.1).abs() < 1e-2);
                assert_eq!(*most, [(size - 1) as f64, 0.0]);
                assert_eq!(scattered, &vec![factor as f32; 2]);
                assert_eq!(told, b"from one");
                let want: Vec<Vec<u8>> = (0..size).map(|r| vec![r as u8; r]).collect();
                assert_eq!(lengths, &want, "rank {me}");
                assert_eq!(squares, &[0, 1, 4, 9, 16, 25, 36]);
            }
        }
    }

    #[test]
    fn a_rank_that_does_not_come_is_named_in_time() {
        let begun = std::time::Instant::now();
        let errors = ranks(3, Duration::from_secs(1), |gloo| match gloo.rank() {
            // Lives, but is elsewhere.
            2 => {
                std::thread::sleep(Duration::from_secs(4));
                None
            }
            _ => {
                let mut values = vec![1.0; 10];
                gloo.all_reduce(&mut values, Reduce::Sum, "gradients").err().map(|e| e.to_string())
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(20));
        for (rank, error) in errors[..2].iter().enumerate() {
            let error = error.as_ref().unwrap();
            assert!(
                error.starts_with(&format!("rank {rank} of 3: all_reduce (gradients)")),
                "{error}"
            );
            assert!(error.contains("rank 2 lives but has come to operation 0"), "{error}");
        }
    }
}
