//! Suites of tests that share one bed.
//!
//! ```ignore
//! fn main() -> ExitCode {
//!     suite::run(BedSpec::default(), vec![case("pods_answer", pods_answer)])
//! }
//! async fn pods_answer(bed: Arc<Bed>) -> anyhow::Result<()> { .. }
//! ```
//! Cases run one after the other, in the order given. The bed starts before the first case that is to run, so
//! `--list` and a filter that matches nothing are quick. Afterwards everything is ended, and a process that is left
//! fails the suite.

use std::io::Write;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

use crate::bed::{Bed, BedSpec};
use crate::namespace::{self, Inside};

/// How long one case may take.
const CASE_WITHIN: Duration = Duration::from_secs(240);

type Run = Box<dyn FnOnce(Arc<Bed>, &Runtime) -> anyhow::Result<()> + Send>;

/// One test.
pub struct Case {
    name: &'static str,
    within: Duration,
    run: Run,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Case {
    /// Gives the case more or less time than the usual four minutes.
    #[must_use]
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }
}

/// A test from an asynchronous function, named as a fact. It may panic or return an error to fail.
pub fn case<F, Fut>(name: &'static str, test: F) -> Case
where
    F: FnOnce(Arc<Bed>) -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let run: Run = Box::new(move |bed, runtime| runtime.block_on(test(bed)));
    Case { name, within: CASE_WITHIN, run }
}

/// Enters the namespace, runs the cases that the command line selects, ends everything. The whole `main` of a test
/// target with `harness = false`; understands the arguments of ordinary Rust tests.
#[must_use]
pub fn run(spec: BedSpec, cases: Vec<Case>) -> ExitCode {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(cases, &Arc::new(Shared::default()), spec)).exit_code();
    }
    match run_inside(arguments, spec, cases) {
        Ok(code) => code,
        Err(error) => {
            writeln!(std::io::stderr(), "testbed: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run_inside(arguments: Arguments, spec: BedSpec, cases: Vec<Case>) -> anyhow::Result<ExitCode> {
    let inside = namespace::enter()?;
    inside.ending.exit_when_asked()?;
    let shared = Arc::new(Shared { inside: Some(inside), started: OnceLock::new() });
    let conclusion = libtest_mimic::run(&arguments, trials(cases, &shared, spec));
    let shared = Arc::into_inner(shared).context("a case still holds the suite")?;
    if let Some(Ok((bed, runtime))) = shared.started.into_inner() {
        end(bed, runtime)?;
    }
    Ok(conclusion.exit_code())
}

/// What the cases of a run share.
#[derive(Default)]
struct Shared {
    inside: Option<Inside>,
    /// An error is kept as text, for every case that follows.
    started: OnceLock<Result<(Arc<Bed>, Runtime), String>>,
}

impl Shared {
    fn bed(&self, spec: BedSpec) -> Result<&(Arc<Bed>, Runtime), Failed> {
        let start = || -> anyhow::Result<_> {
            let inside = self.inside.as_ref().context("the suite is not inside its namespace")?;
            let runtime = Runtime::new()?;
            let bed = runtime.block_on(Bed::start(inside, spec))?;
            Ok((Arc::new(bed), runtime))
        };
        let started = self.started.get_or_init(|| start().map_err(|error| format!("{error:#}")));
        started.as_ref().map_err(|error| Failed::from(format!("the bed did not start: {error}")))
    }
}

fn trials(cases: Vec<Case>, shared: &Arc<Shared>, spec: BedSpec) -> Vec<Trial> {
    let trial = |Case { name, within, run }: Case| {
        let (shared, spec) = (Arc::clone(shared), spec.clone());
        Trial::test(name, move || {
            let (bed, runtime) = shared.bed(spec)?;
            let _watchdog = Watchdog::start(name, within)?;
            run(Arc::clone(bed), runtime).map_err(|error| Failed::from(format!("{error:?}")))
        })
    };
    cases.into_iter().map(trial).collect()
}

/// Ends the program when a case takes too long: a case that blocks its thread cannot be stopped otherwise.
struct Watchdog {
    _done: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    fn start(name: &'static str, within: Duration) -> std::io::Result<Self> {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            if wait.recv_timeout(within) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                writeln!(std::io::stderr(), "\ntestbed: case {name} took longer than {within:?}").ok();
                std::process::exit(101);
            }
        })?;
        Ok(Self { _done: done })
    }
}

/// Ends the bed and makes sure that nothing is left.
fn end(bed: Arc<Bed>, runtime: Runtime) -> anyhow::Result<()> {
    let bed = Arc::into_inner(bed).context("a case still holds the bed: it left a task behind")?;
    {
        // Its tasks are aborted in the context of the runtime.
        let _entered = runtime.enter();
        drop(bed);
    }
    runtime.shutdown_timeout(Duration::from_secs(10));
    let left = processes()?;
    if !left.is_empty() {
        bail!("processes were left behind: {left:?}");
    }
    Ok(())
}

/// The command lines of all processes in this namespace but our own. Ended ones that nobody waited for are not
/// counted: they are waited for by process 1, which is us.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn processes() -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if id == std::process::id() {
            continue;
        }
        // Empty for those that have ended.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if !line.is_empty() {
            found.push(format!("{id} {}", String::from_utf8_lossy(&line).replace('\0', " ").trim_end()));
        }
    }
    Ok(found)
}
