//! A child process with a name and a log file, ended when dropped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A running program. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to the file `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(
        name: impl Into<String>,
        command: &mut Command,
        log: impl Into<PathBuf>,
    ) -> anyhow::Result<Self> {
        let (name, log) = (name.into(), log.into());
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        crate::namespace::forget(command);
        let child =
            command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn().with_context(
                || format!("starting {name} ({})", Path::new(command.get_program()).display()),
            )?;
        Ok(Self { name, child, log })
    }

    /// The process id, in the private namespace.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with everything it printed.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last `lines` lines of what it printed, for messages of failed tests.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Fails, with the end of its log, when it is no longer running.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} ended ({status}); the end of {}:\n{}",
                self.name,
                self.log.display(),
                self.log_tail(15)
            );
        }
        Ok(())
    }

    /// Kills it at once (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        // Fails only if it ended before; then there is nothing to kill.
        self.child.kill().ok();
        self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and waits; kills it if that takes longer than `patience`.
    ///
    /// # Errors
    /// When it had to be killed, with the end of its log.
    pub async fn terminate(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.kill9()?;
                bail!(
                    "{} did not end within {patience:?} of SIGTERM; the end of its log:\n{}",
                    self.name,
                    self.log_tail(15)
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process no longer exists.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id is positive")?;
        kill_process(id, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Its resident memory in MiB, 0 once it is gone.
    #[must_use]
    pub fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9().ok();
    }
}

/// The last `lines` lines of a file, of at most 64 KiB; empty when it cannot be read.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(64 * 1024);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
