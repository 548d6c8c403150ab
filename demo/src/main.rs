//! `make demo`: a fleet of real API servers, Meridian on it, a story, and then a prompt's worth of commands.
//!
//! ```text
//! meridian-demo (ordinary network)                meridian-demo stage (private namespace)
//!   127.0.0.1:PORT -- forward::outside --> Unix socket --> forward::inside --> 10.200.1.2:53 and the like
//! ```
//! The fleet lives in a private network namespace, so nothing it does can reach or disturb the machine. Forwarders
//! over Unix sockets make it reachable from an ordinary terminal. When this program ends, however it ends, the
//! kernel ends everything inside.

mod forward;
mod stage;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Plays a day in the life of three clusters, live, then stays up until Ctrl-C
#[derive(Debug, Parser)]
#[command(name = "meridian-demo", version)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,

    /// Set the fleet up and stay, without the story
    #[arg(long, global = true)]
    quick: bool,

    /// End after the story instead of staying up
    #[arg(long, global = true)]
    leave: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The part inside the private namespace; started by the program itself
    #[command(hide = true)]
    Stage {
        /// Directory of the Unix sockets
        #[arg(long)]
        sockets: PathBuf,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    match args.part {
        None => terminal::run(args.quick, args.leave),
        Some(Part::Stage { sockets }) => {
            stage::run(&sockets, args.quick, args.leave).map(|()| ExitCode::SUCCESS)
        }
    }
}
