//! `meridian-controller`: see the library.

use meridian_controller::app;
use meridian_runtime::{config, crypto, tasks::Tasks, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args: app::Args = config::parse();
    // kube logs every call that a server refuses or that finds no server, and every watch that a server closes.
    // Members may be away; what matters of it is a condition and a line of our own.
    args.log.log_level.push_str(",kube_client::client=error,kube_client::client::builder=off");
    telemetry::init(&args.log);
    crypto::install();
    app::run(args, Tasks::new()).await
}
