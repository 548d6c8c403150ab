//! Programs of the testbed: a fleet to try things on, and the load generator that tests start.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use meridian_tests::bed::{Bed, BedSpec};
use meridian_tests::{load, namespace};

/// Real Kubernetes control planes in a private namespace.
#[derive(Debug, Parser)]
#[command(name = "meridian-testbed", version)]
struct Arguments {
    #[command(subcommand)]
    command: Program,
}

#[derive(Debug, Subcommand)]
enum Program {
    /// Start the fleet, then run a command in its namespace (default: wait for Ctrl-C). KUBECONFIG is set.
    Up {
        /// How many of the three members to start, with their sites.
        #[arg(long, default_value_t = 3)]
        members: usize,
        /// The command and its arguments, for example `bash`.
        #[arg(trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Send a fixed rate of GETs and report each second as a line of JSON.
    Load(load::Plan),
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Program::Up { members, command } => up(members, command),
        Program::Load(plan) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(load::generate(plan, |tally| {
                let mut out = std::io::stdout().lock();
                serde_json::to_writer(&mut out, tally)?;
                Ok(writeln!(out)?)
            }))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn up(members: usize, command: Vec<String>) -> anyhow::Result<ExitCode> {
    let inside = namespace::enter()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let mut ending = inside.ending.clone();
        let mut spec = BedSpec::default();
        spec.members.truncate(members);
        spec.sites.truncate(members);
        let bed = tokio::select! {
            bed = Bed::start(&inside, spec) => bed?,
            code = ending.asked() => return Ok(exit_code(code)),
        };
        let mut out = std::io::stdout();
        writeln!(out, "ready in {:.1?}; resident memory in MiB:", bed.started_in())?;
        for (name, mib) in bed.resident_mib() {
            writeln!(out, "  {mib:>5}  {name}")?;
        }
        writeln!(out, "export KUBECONFIG={}", bed.kubeconfig().display())?;
        let [program, arguments @ ..] = command.as_slice() else {
            return Ok(exit_code(ending.asked().await));
        };
        let mut path = bed.programs().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .env("KUBECONFIG", bed.kubeconfig())
            .env("PATH", path)
            .spawn()?;
        tokio::select! {
            status = child.wait() => Ok(exit_code(status?.code().unwrap_or(1))),
            code = ending.asked(), if !interactive() => Ok(exit_code(code)),
        }
    })
}

/// A shell handles Ctrl-C itself.
fn interactive() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdin())
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
