//! A bounded load generator: a fixed rate of GETs, open loop, and what became of each.
//!
//! It runs as a program of its own (`meridian-testbed load`), so that it can be put into a site; [`Load`] starts it
//! and follows its report. "Open loop" means that a slow answer does not slow the next request down, so an outage
//! is seen in full. Requests are counted in the second in which they were sent.

mod client;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

pub use client::generate;

/// What to send.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// Where to connect.
    #[arg(long)]
    pub target: SocketAddr,
    /// The Host header.
    #[arg(long, default_value = "localhost")]
    pub host: String,
    /// Path and query.
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Requests per second.
    #[arg(long, default_value_t = 200)]
    pub rate: u32,
    /// Keep connections open between requests. Otherwise each request has a connection of its own.
    #[arg(long)]
    pub keep_alive: bool,
    /// How many milliseconds a request may take, from connect to the end of the body.
    #[arg(long, default_value_t = 2000)]
    pub timeout_ms: u64,
    /// End after so many seconds; otherwise when asked to (SIGTERM).
    #[arg(long)]
    pub seconds: Option<u64>,
}

impl Plan {
    /// 200 GET/s of `/` at `target`, with a new connection each, 2 s of patience, until stopped.
    #[must_use]
    pub fn new(target: impl Into<SocketAddr>, host: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            host: host.into(),
            path: "/".into(),
            rate: 200,
            keep_alive: false,
            timeout_ms: 2000,
            seconds: None,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "load".to_owned(),
            format!("--target={}", self.target),
            format!("--host={}", self.host),
            format!("--path={}", self.path),
            format!("--rate={}", self.rate),
            format!("--timeout-ms={}", self.timeout_ms),
        ];
        arguments.extend(self.keep_alive.then(|| "--keep-alive".to_owned()));
        arguments.extend(self.seconds.map(|seconds| format!("--seconds={seconds}")));
        arguments
    }
}

/// What became of the requests of one second, or of several. `sent` = `ok` + `non_2xx` + `errors` + `timeouts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Seconds since the load began.
    pub second: u64,
    /// When the second began, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Requests that were due.
    pub sent: u64,
    /// Answers with a 2xx status and a whole body.
    pub ok: u64,
    /// Answers with another status.
    pub non_2xx: u64,
    /// Connections that failed, and answers that broke off.
    pub errors: u64,
    /// Requests without a whole answer in time.
    pub timeouts: u64,
    /// 2xx answers by the `x-cluster` header; "" counts those without.
    pub by_cluster: BTreeMap<String, u64>,
    /// 2xx answers by the `x-zone` header.
    pub by_zone: BTreeMap<String, u64>,
    /// Non-2xx answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// The slowest whole answer, in milliseconds.
    pub slowest_ms: u64,
    /// The first few different things that went wrong.
    pub messages: Vec<String>,
}

impl Tally {
    /// Requests without a 2xx answer.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.non_2xx + self.errors + self.timeouts
    }

    /// The part of the 2xx answers that a cluster gave, from 0 to 1; 0 without answers.
    #[must_use]
    pub fn share(&self, cluster: &str) -> f64 {
        let part = self.by_cluster.get(cluster).copied().unwrap_or(0);
        if self.ok == 0 { 0.0 } else { part as f64 / self.ok as f64 }
    }

    /// Adds another second's requests; `second` and `unix_ms` stay those of the first.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.ok += other.ok;
        self.non_2xx += other.non_2xx;
        self.errors += other.errors;
        self.timeouts += other.timeouts;
        for (mine, theirs) in [(&mut self.by_cluster, &other.by_cluster), (&mut self.by_zone, &other.by_zone)]
        {
            for (name, count) in theirs {
                *mine.entry(name.clone()).or_default() += count;
            }
        }
        for (status, count) in &other.by_status {
            *self.by_status.entry(*status).or_default() += count;
        }
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
        for message in &other.messages {
            self.note(message);
        }
    }

    fn note(&mut self, message: &str) {
        if self.messages.len() < 5 && !self.messages.iter().any(|m| m == message) {
            self.messages.push(message.to_owned());
        }
    }
}

/// A running load generator. Dropping it kills it.
#[derive(Debug)]
pub struct Load {
    child: Child,
    seconds: Arc<Mutex<Vec<Tally>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    /// Starts the generator. `command` makes the command for a program: `Command::new` for the root namespace, or
    /// [`crate::site::Site::command`].
    ///
    /// # Errors
    /// When the program `meridian-testbed` does not exist beside this one or cannot be started.
    pub fn start(plan: &Plan, command: impl FnOnce(PathBuf) -> Command) -> anyhow::Result<Self> {
        let mut command = command(crate::bed::binary("meridian-testbed")?);
        crate::namespace::forget(&mut command);
        let mut child = command
            .args(plan.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the load generator")?;
        let stdout = child.stdout.take().context("the load generator's output is a pipe")?;
        let seconds = Arc::new(Mutex::new(Vec::new()));
        let filled = Arc::clone(&seconds);
        let reader = std::thread::Builder::new().name("load-report".into()).spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(tally) = serde_json::from_str(&line) {
                    filled.lock().unwrap_or_else(PoisonError::into_inner).push(tally);
                }
            }
        })?;
        Ok(Self { child, seconds, reader: Some(reader) })
    }

    /// The seconds whose requests have all ended, in order.
    #[must_use]
    pub fn seconds(&self) -> Vec<Tally> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops sending, waits for the answers under way, and returns all seconds.
    ///
    /// # Errors
    /// When the generator ended badly or does not end within 30 s.
    pub async fn stop(mut self) -> anyhow::Result<Vec<Tally>> {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("a process id is positive")?;
        // It may have ended by itself.
        kill_process(id, Signal::TERM).ok();
        let status = crate::wait::wait_until("the load generator to end", Duration::from_secs(30), || {
            let status = self.child.try_wait();
            async move { Ok(status?) }
        })
        .await?;
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
        if !status.success() {
            bail!("the load generator ended badly: {status}");
        }
        Ok(self.seconds())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The sum of several seconds.
#[must_use]
pub fn total(seconds: &[Tally]) -> Tally {
    let mut sum = seconds
        .first()
        .map(|s| Tally { second: s.second, unix_ms: s.unix_ms, ..Tally::default() })
        .unwrap_or_default();
    for second in seconds {
        sum.add(second);
    }
    sum
}
