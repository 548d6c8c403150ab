//! Waiting for a condition, with a bound and a name.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Asks `probe` every 20 ms, growing to 100 ms, until it returns `Some`, and returns that. An error of the probe
/// counts as "not yet" and is shown if the time runs out.
///
/// # Errors
/// After `timeout`, naming `what` was waited for and the last error.
pub async fn wait_until<T, F, Fut>(
    what: impl AsRef<str>,
    timeout: Duration,
    mut probe: F,
) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        let remaining = timeout.saturating_sub(start.elapsed());
        // A probe that hangs must not outlive the bound either.
        let outcome = tokio::time::timeout(remaining, probe()).await;
        let last = match outcome {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some("the last look did not return in time".to_owned()),
        };
        if start.elapsed() + pause >= timeout {
            bail!(
                "waited {timeout:?} in vain for: {}{}",
                what.as_ref(),
                last.map(|e| format!(" (last: {e})")).unwrap_or_default()
            );
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failed_wait_names_what_was_waited_for_and_the_last_error() {
        let cloudy = async || anyhow::Result::<Option<()>>::Err(anyhow::anyhow!("cloudy"));
        let error = wait_until("the moon", Duration::from_millis(50), cloudy).await;
        let text = error.expect_err("the probe never succeeds").to_string();
        assert!(text.contains("the moon") && text.contains("cloudy"), "{text}");
    }
}
