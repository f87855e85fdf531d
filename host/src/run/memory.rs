//! Memory of this process and of the machine.

/// What the program takes beside models and what they compute, as measured: code, plugins, data of a usual
/// size, and a tokenizer of `vocab_size` tokens.
pub fn process_bytes(vocab_size: usize) -> usize {
    100_000_000 + 1_200 * vocab_size
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Peak resident memory of this process, bytes, as the kernel counts it.
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(kilobytes(&status, "VmHWM:")? * 1024)
}

/// Memory that this process could still take, bytes: what the machine has free, or what its control
/// group (version 2) leaves, whichever is less. `None` where neither is known.
pub fn available_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let swap = kilobytes(&text, "SwapFree:").unwrap_or(0);
        Some((kilobytes(&text, "MemAvailable:")? + swap) * 1024)
    });
    let number =
        |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    // Inside a container the group's own files stand at the root.
    let group = number("/sys/fs/cgroup/memory.max").map(|limit| {
        let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
        limit.saturating_sub(used)
    });
    match (machine, group) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_numbers_are_read() {
        assert_eq!(kilobytes("VmPeak:\t 7 kB\nVmHWM:\t  123 kB\n", "VmHWM:"), Some(123));
        assert!(peak_bytes().is_none_or(|b| b > 1 << 20));
        assert!(available_bytes().is_none_or(|b| b > 1 << 20));
    }
}
