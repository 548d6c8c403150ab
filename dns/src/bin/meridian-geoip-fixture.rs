//! Writes a synthetic GeoIP database: `meridian-geoip-fixture [--flat] [--source FILE] --out FILE`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use meridian_dns::testkit::{Fixture, Schema};

/// Writes a synthetic GeoIP database for tests and the demo
#[derive(Debug, Parser)]
struct Args {
    /// JSON lines with network, country, city, latitude, longitude; without it the built-in ones
    #[arg(long, value_name = "FILE")]
    source: Option<PathBuf>,

    /// Use the flat schema with 32-bit coordinates instead of MaxMind's
    #[arg(long)]
    flat: bool,

    /// Where to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let fixture = match &args.source {
        None => Fixture::standard(),
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            Fixture::parse(&text).with_context(|| format!("parsing {}", path.display()))?
        }
    };
    let schema = if args.flat { Schema::Flat } else { Schema::Nested };
    let bytes = fixture.encode(schema).context("encoding the database")?;
    std::fs::write(&args.out, bytes).with_context(|| format!("writing {}", args.out.display()))
}
