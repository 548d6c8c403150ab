//! Writes the generated files of the chart. Run by `make crds`.
//!
//! The one argument is the chart's directory; without it, the chart of this checkout is written.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let chart = std::env::args_os().nth(1).map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/meridian")),
        PathBuf::from,
    );
    for (path, content) in meridian_api::crds::chart_files()? {
        let file = chart.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, content)?;
    }
    Ok(())
}
