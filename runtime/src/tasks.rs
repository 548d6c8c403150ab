//! Named tasks that end at shutdown and are awaited.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The tasks of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    token: CancellationToken,
    tracker: TaskTracker,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    next: u64,
    running: BTreeMap<u64, &'static str>,
    failed: Option<Failure>,
}

#[derive(Clone, Debug)]
struct Failure {
    task: &'static str,
    message: String,
}

/// How a process ended that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task failed, and so the process shut down.
    #[error("task {task} failed: {message}")]
    Failed {
        /// Its name.
        task: &'static str,
        /// Its error or panic.
        message: String,
    },
    /// Tasks did not end in time after they were told to.
    #[error("tasks still running after {deadline:?}: {}", tasks.join(", "))]
    Unfinished {
        /// Their names, sorted; one entry per task.
        tasks: Vec<&'static str>,
        /// How long was waited.
        deadline: Duration,
    },
}

/// What a task may end with: nothing, or a result whose error shuts the process down.
pub trait Ending {
    /// The error's text, causes included; none when the task ended well.
    fn failure(self) -> Option<String>;
}

impl Ending for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Into<anyhow::Error>> Ending for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| format!("{:#}", error.into()))
    }
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the process shuts down. Every task must end soon after.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Runs `task` under a name. If it fails or panics before shutdown, that is logged and the process
    /// shuts down. Must be called inside a tokio runtime.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output: Ending> + Send + 'static,
    {
        let id = {
            let mut book = self.lock();
            book.next += 1;
            let id = book.next;
            book.running.insert(id, name);
            id
        };
        let tasks = self.clone();
        let body = async move {
            let failure = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(ending) => ending.failure(),
                Err(panic) => Some(format!("panicked: {}", panic_text(&*panic))),
            };
            tasks.ended(id, name, failure);
        };
        self.tracker.spawn(body.instrument(tracing::info_span!("task", name)));
    }

    /// Waits for SIGTERM, SIGINT, a failed task, or the token's cancellation.
    ///
    /// # Errors
    /// If signals cannot be listened to.
    pub async fn until_shutdown(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "Shutting down"),
            _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "Shutting down"),
            () = self.token.cancelled() => {}
        }
        Ok(())
    }

    /// Tells all tasks to end and waits for them, at most `deadline`.
    ///
    /// # Errors
    /// [`Error::Failed`] with the first task that failed before shutdown, else [`Error::Unfinished`].
    pub async fn finish(self, deadline: Duration) -> Result<(), Error> {
        self.token.cancel();
        self.tracker.close();
        let ended = tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok();
        let book = self.lock();
        if let Some(Failure { task, message }) = book.failed.clone() {
            return Err(Error::Failed { task, message });
        }
        if ended {
            return Ok(());
        }
        let mut tasks: Vec<&'static str> = book.running.values().copied().collect();
        tasks.sort_unstable();
        Err(Error::Unfinished { tasks, deadline })
    }

    fn ended(&self, id: u64, name: &'static str, failure: Option<String>) {
        let mut book = self.lock();
        book.running.remove(&id);
        let Some(message) = failure else { return };
        if self.token.is_cancelled() {
            tracing::warn!(task = name, error = message, "Task failed while shutting down");
            return;
        }
        tracing::error!(task = name, error = message, "Task failed, shutting down");
        book.failed.get_or_insert(Failure { task: name, message });
        self.token.cancel();
    }

    // Every critical section leaves the book whole, so a poisoned lock may be entered.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> impl Display + use<> {
    struct Text(String);
    impl Display for Text {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(&self.0)
        }
    }
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    Text(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn tasks_that_heed_the_token_end_well() {
        let tasks = Tasks::new();
        let token = tasks.token();
        tasks.spawn("heeds", async move { token.cancelled().await });
        tasks.spawn("ends early", async {});
        assert!(tasks.finish(SOON).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_task_shuts_the_process_down_and_is_named() {
        let tasks = Tasks::new();
        tasks.spawn("breaks", async { Err::<(), _>(anyhow::anyhow!("no route")) });
        tasks.until_shutdown().await.unwrap();
        let error = tasks.finish(SOON).await.unwrap_err().to_string();
        assert_eq!(error, "task breaks failed: no route");
    }

    #[tokio::test(start_paused = true)]
    async fn panic_shuts_the_process_down() {
        let tasks = Tasks::new();
        tasks.spawn("panics", async { assert_eq!(1, 2, "odd") });
        tasks.until_shutdown().await.unwrap();
        let error = tasks.finish(SOON).await.unwrap_err().to_string();
        assert!(error.contains("panics") && error.contains("odd"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn task_that_does_not_end_is_named_after_the_deadline() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending::<()>());
        let error = tasks.finish(SOON).await.unwrap_err();
        assert!(matches!(&error, Error::Unfinished { tasks, .. } if tasks == &["deaf"]), "{error}");
    }
}
