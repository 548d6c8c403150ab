//! The private namespace in which every program of the testbed runs.
//!
//! ```text
//! terminal -> program (outer) -> unshare -> the same program (inner): process 1, root, own network, own mounts
//!                     |                              ^
//!                     +------- a pipe: "end" --------+
//! ```
//! The inner program may bind any address and port, add routes and mount without being root outside, and
//! cannot disturb or be disturbed by anything else on the machine. It is process 1 of its own process
//! namespace: when it ends, however it ends, the kernel ends everything it started. It ends when the outer one
//! is killed, because the pipe then closes.
//!
//! The outer program does what needs the real network: it lets `scripts/control-plane` and `scripts/tools`
//! provide the programs that the testbed runs.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Set by the outer program: the descriptor of the pipe's reading end.
const PIPE: &str = "MERIDIAN_TESTBED_PIPE";
/// Set by the outer program: the directory for this run's files.
const RUN: &str = "MERIDIAN_TESTBED_RUN";
/// Set by the outer program: the directory with etcd, kube-apiserver, kube-controller-manager, kubectl.
const PROGRAMS: &str = "MERIDIAN_TESTBED_PROGRAMS";
/// How long the inner program may take to end when asked, before it is killed.
const GRACE: Duration = Duration::from_secs(20);

/// What the inner program was given by the outer one.
#[derive(Debug)]
pub struct Inside {
    /// Where logs, certificates and kubeconfigs of this run go. The outer program removes it after a success
    /// and prints its path after a failure.
    pub run: PathBuf,
    /// The directory that holds `etcd`, `kube-apiserver`, `kube-controller-manager` and `kubectl`.
    pub programs: PathBuf,
    /// Says when somebody wants this program to end.
    pub ending: Ending,
}

/// Becomes ready when the program is asked to end: Ctrl-C, SIGTERM, SIGHUP, or the same to the outer program.
#[derive(Debug, Clone)]
pub struct Ending(watch::Receiver<Option<i32>>);

impl Ending {
    /// Waits until the program is asked to end, and says with which status it should: 128 + signal.
    pub async fn asked(&mut self) -> i32 {
        match self.0.wait_for(Option::is_some).await {
            Ok(code) => code.unwrap_or(1),
            // The thread that listens is gone: nobody can ask any more.
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends the process as soon as it is asked to, from a thread of its own. For tests; a program that has
    /// something to say or to tidy up first waits for [`Ending::asked`] itself.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn exit_when_asked(&self) -> std::io::Result<()> {
        let mut ending = self.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        std::thread::Builder::new().name("exit-when-asked".into()).spawn(move || {
            let code = runtime.block_on(ending.asked());
            std::process::exit(code);
        })?;
        Ok(())
    }
}

/// Moves the program into its private namespace. Must be the first thing in `main`, before any thread exists.
/// Returns only in the inner program; the outer one ends with the status of the inner one.
///
/// # Errors
/// When the namespace cannot be made (no `unshare`, or user namespaces are forbidden), or when the programs of
/// the control plane or the tools cannot be provided; the message says what to do.
pub fn enter() -> anyhow::Result<Inside> {
    match std::env::var_os(PIPE) {
        None => {
            let code = outer()?;
            std::process::exit(code)
        }
        Some(descriptor) => inner(&descriptor),
    }
}

/// Removes what tells a program that it is the inner one, so that `command` may enter a namespace of its own.
pub fn forget(command: &mut std::process::Command) {
    command.env_remove(PIPE).env_remove(RUN).env_remove(PROGRAMS);
}

/// The checkout's root directory.
#[must_use]
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

fn outer() -> anyhow::Result<i32> {
    let path = path_with_tools()?;
    let programs = match std::env::var_os(PROGRAMS) {
        // Already known when one testbed program starts another.
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(script("control-plane", &path)?.lines().last().unwrap_or_default()),
    };
    let run =
        tempfile::Builder::new().prefix("meridian-").tempdir().context("making a directory for this run")?;
    let (reader, writer) = std::io::pipe().context("making the pipe to the inner program")?;
    rustix::io::fcntl_setfd(&reader, rustix::io::FdFlags::empty()).context("making the pipe inheritable")?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&reader).to_string();
    let program = std::env::current_exe().context("finding this program's own file")?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(async {
        let mut command = tokio::process::Command::new("unshare");
        command
            .args([
                "--map-root-user",
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
            ])
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env("PATH", path)
            .env(PIPE, descriptor)
            .env(RUN, run.path())
            .env(PROGRAMS, programs);
        supervise(command, reader, writer).await
    })?;

    if status.success() || status.code().is_some_and(|c| c == 130 || c == 143 || c == 129) {
        run.close().context("removing this run's directory")?;
    } else {
        let kept = run.keep();
        let mut stderr = std::io::stderr();
        writeln!(stderr, "testbed: logs of this run are kept in {}", kept.display()).ok();
    }
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// Runs the inner program to its end and passes on requests to end.
async fn supervise(
    mut command: tokio::process::Command,
    reader: PipeReader,
    mut writer: std::io::PipeWriter,
) -> anyhow::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut unshare = command.spawn().context("starting unshare (util-linux)")?;
    drop(reader);
    let mut deadline = None;
    loop {
        let code: u8 = tokio::select! {
            status = unshare.wait() => return Ok(status?),
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
            _ = hang_up.recv() => 129,
            () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => 0,
        };
        if deadline.is_some() {
            // Asked twice, or too slow. unshare's death kills the inner program and all it started.
            unshare.start_kill().ok();
        } else {
            deadline = Some(tokio::time::Instant::now() + GRACE);
            // unshare itself blocks these signals, and process 1 ignores what it has no handler for.
            writer.write_all(&[code]).ok();
        }
    }
}

fn inner(descriptor: &OsStr) -> anyhow::Result<Inside> {
    let run = std::env::var_os(RUN).map(PathBuf::from).context("the run directory was not passed on")?;
    let programs =
        std::env::var_os(PROGRAMS).map(PathBuf::from).context("the programs were not passed on")?;
    let pipe = File::open(Path::new("/proc/self/fd").join(descriptor))
        .context("opening the pipe to the outer program")?;
    crate::net::ip(["link", "set", "lo", "up"]).context("in the private namespace")?;
    // Pods start during a partition too, when their addresses are not this machine's.
    std::fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1")
        .context("allowing to listen on any address")?;
    Ok(Inside { run, programs, ending: listen(pipe)? })
}

/// Starts the threads that notice a request to end.
fn listen(mut pipe: File) -> anyhow::Result<Ending> {
    let (asked, ending) = watch::channel(None);
    let by_outer = asked.clone();
    std::thread::Builder::new().name("outer-asks".into()).spawn(move || {
        let mut code = [0];
        match pipe.read(&mut code) {
            Ok(1) => by_outer.send_replace(Some(i32::from(code[0]))),
            // The outer program is gone; nobody would hear of a tidy end.
            _ => std::process::exit(137),
        }
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                let code = tokio::select! {
                    _ = interrupt.recv() => 130,
                    _ = terminate.recv() => 143,
                };
                asked.send_replace(Some(code));
            }
        });
    })?;
    Ok(Ending(ending))
}

/// Runs one of the checkout's scripts and returns what it printed.
fn script(name: &str, path: &OsStr) -> anyhow::Result<String> {
    let file = checkout().join("scripts").join(name);
    let output = std::process::Command::new(&file)
        .env("PATH", path)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", file.display()))?;
    if !output.status.success() {
        bail!("scripts/{name} failed: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// PATH, with the directories of system programs, which an ordinary user's often lacks, and with what
/// `scripts/tools` had to unpack.
fn path_with_tools() -> anyhow::Result<OsString> {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    let printed = script("tools", &path)?;
    Ok(match printed.strip_prefix("export PATH=").and_then(|line| line.strip_suffix(":$PATH")) {
        Some(unpacked) => {
            let mut with = OsString::from(unpacked);
            with.push(":");
            with.push(path);
            with
        }
        None => path,
    })
}
