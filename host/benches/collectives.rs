//! Bandwidth of the collectives over processes of this machine, beside what copying in memory takes.
//!
//!     cargo run --release --features gloo --example collectives [-- RANKS MIB]

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use trainer::dist::{Reduce, World};

const ROUNDS: usize = 8;

/// Seconds of the fastest round.
fn fastest(mut round: impl FnMut()) -> f64 {
    let seconds = (0..ROUNDS).map(|_| {
        let begun = Instant::now();
        round();
        begun.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

fn rank(mib: usize) -> Result<(), trainer::dist::DistError> {
    let world = World::join(Duration::from_secs(60), |_| None)?;
    let n = mib << 18;
    let bytes = 4.0 * n as f64;
    let mut values = vec![1f32; n];
    let mut copy = vec![0f32; n];
    let memory = fastest(|| copy.copy_from_slice(&values));
    let mut failed = None;
    let mut keep = |result: Result<(), trainer::dist::DistError>| {
        if let Err(e) = result {
            failed.get_or_insert(e);
        }
    };
    let group = world.collective();
    let reduced = fastest(|| {
        values.fill(1.0);
        keep(group.all_reduce(&mut values, Reduce::Sum, "bandwidth"));
    });
    let right = values.iter().all(|&v| v == world.size() as f32);
    let scattered = fastest(|| keep(group.reduce_scatter(&mut values, "bandwidth")));
    let own = vec![world.rank() as u8; 4 * n / world.size()];
    let mut all = vec![0u8; own.len() * world.size()];
    let gathered = fastest(|| keep(group.all_gather(&own, &mut all, "bandwidth")));
    if let Some(e) = failed {
        return Err(e);
    }
    assert!(right, "a sum is wrong");
    if world.is_main() {
        let speed = |seconds: f64| format!("{:.2} GB/s", bytes / seconds / 1e9);
        println!(
            "{} ranks, {mib} MiB: copying in memory {}, all_reduce {}, reduce_scatter {}, all_gather {}",
            world.size(),
            speed(memory),
            speed(reduced),
            speed(scattered),
            speed(gathered)
        );
    }
    world.collective().barrier("end")
}

fn main() -> ExitCode {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (ranks, mib) =
        (numbers.first().copied().unwrap_or(2), numbers.get(1).copied().unwrap_or(64));
    if std::env::var_os("RANK").is_some() {
        return match rank(mib) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("error: {e}");
                ExitCode::FAILURE
            }
        };
    }
    let Ok(program) = std::env::current_exe() else { return ExitCode::FAILURE };
    let children: Vec<_> = (0..ranks)
        .map(|rank| {
            Command::new(&program)
                .args([ranks.to_string(), mib.to_string()])
                .envs(
                    [("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", ranks)]
                        .map(|(k, v)| (k, v.to_string())),
                )
                .envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29577")])
                .spawn()
        })
        .collect();
    // All are waited for, also after one that failed.
    let ended: Vec<_> = children.into_iter().map(|c| c.and_then(|mut c| c.wait())).collect();
    match ended.into_iter().all(|end| end.is_ok_and(|s| s.success())) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
