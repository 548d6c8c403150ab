//! Runs one benchmark: `meridian-bench NAME`.

use clap::{Parser, Subcommand};
use meridian_bench::{latency, propagation};
use meridian_tests::namespace;

/// Benchmarks on real control planes in a private namespace.
#[derive(Debug, Parser)]
#[command(name = "meridian-bench", version)]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// From an EndpointSlice's change to the changed DNS answer and route
    Latency(latency::Plan),
    /// Objects per second to three members, and from an edit to the last of them
    Propagation(propagation::Plan),
}

fn main() -> anyhow::Result<()> {
    // Before entering, so that --help and mistakes need no namespace.
    let Arguments { benchmark } = Arguments::parse();
    let inside = namespace::enter()?;
    inside.ending.exit_when_asked()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (name, report) = runtime.block_on(async {
        anyhow::Ok(match &benchmark {
            Benchmark::Latency(plan) => ("latency", latency::run(&inside, plan).await?),
            Benchmark::Propagation(plan) => ("propagation", propagation::run(&inside, plan).await?),
        })
    })?;
    report.publish(name)
}
