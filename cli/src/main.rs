//! `meridianctl`: see the library.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use meridianctl::args::Args;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    meridian_controller::install_crypto();
    match meridianctl::run(args, &mut std::io::stdout()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The causes in one line: what a person can act on, and no backtrace.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
