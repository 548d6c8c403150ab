//! What a process costs, from `/proc`.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Milliseconds of a clock tick in `/proc/PID/stat`. The kernel shows this file in units of `USER_HZ`, which is
/// 100 on every architecture that Rust and Kubernetes run on, whatever the kernel's own tick (proc(5)).
const TICK_MS: f64 = 10.0;

/// CPU time that all threads of a process have used since it started, user and system, in milliseconds.
///
/// # Errors
/// When there is no such process.
pub(crate) fn cpu_ms(process: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))
        .with_context(|| format!("reading the CPU time of process {process}"))?;
    ticks(&stat)
        .map(|ticks| ticks as f64 * TICK_MS)
        .context("/proc/PID/stat has another form than proc(5) says")
}

/// Resident memory of a process in MiB.
///
/// # Errors
/// When there is no such process.
pub(crate) fn resident_mib(process: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))
        .with_context(|| format!("reading the memory of process {process}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    let kib: f64 = line.trim_end_matches("kB").trim().parse().context("VmRSS is in kB (proc(5))")?;
    Ok(kib / 1024.0)
}

/// Waits until a process has used at most one tick in half a second, or `within` has passed, and returns its CPU
/// time: what it does after an answer (writing status) belongs to the work too.
///
/// # Errors
/// When there is no such process.
pub(crate) async fn cpu_ms_when_quiet(process: u32, within: Duration) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut before = cpu_ms(process)?;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = cpu_ms(process)?;
        if now - before <= TICK_MS || begun.elapsed() > within {
            return Ok(now);
        }
        before = now;
    }
}

/// `utime + stime`. The second field is the program's name in parentheses and may itself hold spaces and
/// parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_name_with_parentheses() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 31 11 5 6 20 0 9 0 100 0 0";
        assert_eq!(ticks(stat), Some(42));
    }

    #[test]
    fn own_cost_can_be_read() {
        assert!(cpu_ms(std::process::id()).is_ok_and(|ms| ms >= 0.0));
        assert!(resident_mib(std::process::id()).is_ok_and(|mib| mib > 0.1));
    }
}
