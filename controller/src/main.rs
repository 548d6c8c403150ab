//! `meridian-controller`: see the library.

use meridian_controller::app;
use meridian_runtime::{config, crypto, tasks::Tasks, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: app::Args = config::parse();
    telemetry::init(&args.log);
    crypto::install();
    app::run(args, Tasks::new()).await
}
