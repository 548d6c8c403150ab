//! `meridian-dns`: answers DNS queries from the controller's snapshots.

use std::time::Duration;

use meridian_dns::app::{self, Args};
use meridian_runtime::{config, crypto, tasks::Tasks, telemetry};

/// How long open requests get at shutdown.
const SHUTDOWN: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args: Args = config::parse();
    // hickory logs every query with the client's address at info. What the operator says comes later
    // and so wins.
    args.log.log_level = format!("hickory_server=warn,{}", args.log.log_level);
    telemetry::init(&args.log);
    crypto::install();
    let tasks = Tasks::new();
    app::start(&args, &tasks).await?;
    tasks.until_shutdown().await?;
    tasks.finish(SHUTDOWN).await?;
    Ok(())
}
