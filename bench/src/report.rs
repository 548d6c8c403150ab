//! The one form of every benchmark's result: a table for people, a list of rows for machines.

use std::{fs, io::Write as _, path::PathBuf};

use anyhow::Context as _;
use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured, such as `real-3-p50`.
    pub case: String,
    /// Who was measured: `meridian`, or a peer's name and version.
    pub subject: String,
    /// The figure's name, unit included where it has one, such as `edit_ms`.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// The median over the rounds.
    pub value: f64,
}

/// The rows of one benchmark.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a figure.
    pub fn add(&mut self, case: &str, subject: &str, metric: &str, unit: &str, value: f64) {
        let [case, subject, metric, unit] = [case, subject, metric, unit].map(str::to_owned);
        self.rows.push(Row { case, subject, metric, unit, value });
    }

    /// All figures, in the order they were added.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Prints the table and writes `target/bench/NAME.json`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, name: &str) -> anyhow::Result<()> {
        let directory = target_directory()?.join("bench");
        fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let path = directory.join(format!("{name}.json"));
        fs::write(&path, serde_json::to_vec_pretty(&self.rows)?)
            .with_context(|| format!("writing {}", path.display()))?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", self.table())?;
        Ok(())
    }

    fn table(&self) -> String {
        let mut text =
            String::from("| case | subject | metric | unit | value |\n| --- | --- | --- | --- | ---: |\n");
        for row in &self.rows {
            let digits = if row.value.abs() < 10.0 { 2 } else { usize::from(row.value.abs() < 100.0) };
            text.push_str(&format!(
                "| {} | {} | {} | {} | {:.digits$} |\n",
                row.case, row.subject, row.metric, row.unit, row.value
            ));
        }
        text
    }
}

/// The target directory this program was built into: two levels above the executable.
fn target_directory() -> anyhow::Result<PathBuf> {
    let executable = std::env::current_exe().context("finding the benchmark's own executable")?;
    let directory = executable.ancestors().nth(2).context("the executable lies in no target directory")?;
    Ok(directory.to_owned())
}

/// The value below which `part` (0 to 1) of `values` lie, by nearest rank; NaN when there are none.
#[must_use]
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() {
        return f64::NAN;
    }
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The middle value.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(quantile(&values, 0.99), 5.0);
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn table_has_a_line_per_row() {
        let mut report = Report::default();
        report.add("real-3", "meridian", "objects_per_s", "1/s", 812.4);
        assert!(report.table().ends_with("| real-3 | meridian | objects_per_s | 1/s | 812 |\n"));
    }
}
