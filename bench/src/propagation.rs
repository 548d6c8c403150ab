//! `propagation`: from the hub to three members, beside the same writes issued by a bare loop.
//!
//! ```text
//! meridian   create/patch FederatedConfigMaps on the hub -> controller -> server-side applies -> members
//! ceiling                                     this program -> server-side applies -> members
//!                                                                                   watches in the members say when
//! ```
//! Rounds of both alternate. A round creates all objects, edits some of them one at a time, and deletes all.

mod ceiling;
mod federated;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use meridian_tests::bed::{Bed, BedSpec};
use meridian_tests::namespace::Inside;
use serde_json::{Map, Value, json};

use crate::report::{Report, median, quantile};
use crate::sightings::{MARK, Sightings};
use crate::{cost, product};

/// Requests under way at once: against the hub, and against each member.
const IN_FLIGHT: usize = 8;
/// How long a whole round's objects may take to arrive.
const ROUND_WITHIN: Duration = Duration::from_secs(240);
/// How long one edit may take to arrive.
const EDIT_WITHIN: Duration = Duration::from_secs(30);
/// Between two edits, so that what follows the first (status) is not measured with the second.
const BETWEEN_EDITS: Duration = Duration::from_millis(30);
/// What fills a ConfigMap up to 0.6 kB.
const FILLER_BYTES: usize = 480;

/// How much to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// Rounds of each subject
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Federated objects of a round
    #[arg(long, default_value_t = 300)]
    pub objects: usize,
    /// Edits of a round
    #[arg(long, default_value_t = 60)]
    pub edits: usize,
    /// Measure only the bare loop, without Meridian
    #[arg(long)]
    pub ceiling_only: bool,
}

impl Plan {
    fn names(&self) -> Vec<String> {
        (0..self.objects).map(|number| format!("load-{number:04}")).collect()
    }
}

/// What one round showed.
#[derive(Debug, Default)]
struct Round {
    objects_per_s: f64,
    edits_ms: Vec<f64>,
}

/// What the controller cost in one round.
#[derive(Debug)]
struct Cost {
    cpu_ms_per_object: f64,
    rss_mib: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// When something does not start or an object does not arrive.
pub async fn run(inside: &Inside, plan: &Plan) -> anyhow::Result<Report> {
    let spec = BedSpec { sites: Vec::new(), ..BedSpec::default() };
    let bed = Bed::start(inside, spec).await.context("starting the bed")?;
    let outcome = measure(&bed, plan).await;
    outcome.with_context(|| format!("the ends of the logs:\n{}", bed.log_tails(12)))
}

async fn measure(bed: &Bed, plan: &Plan) -> anyhow::Result<Report> {
    let mut ceiling = ceiling::Ceiling::prepare(bed).await?;
    if plan.ceiling_only {
        let mut bare = Vec::new();
        for number in 0..plan.rounds {
            bare.push(ceiling.round(plan, number).await?);
        }
        return Ok(report(&bare, &[], &[]));
    }
    let product = product::start(bed).await?;
    let controller = product::controller(&product)?;
    let members = bed.members().len() as f64;
    let mut federated = federated::Federated::prepare(bed).await?;
    let (mut bare, mut meridian, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..plan.rounds {
        cost::cpu_ms_when_quiet(controller, product::PATIENCE).await?;
        let round = ceiling.round(plan, number).await.context("the ceiling's round")?;
        crate::progress(&format!("round {number}: ceiling {:.0} objects/s", round.objects_per_s));
        bare.push(round);

        let before = cost::cpu_ms_when_quiet(controller, product::PATIENCE).await?;
        let begun = Instant::now();
        let objects_per_s = federated.create(plan, number).await.context("creating")?;
        let after = cost::cpu_ms_when_quiet(controller, product::PATIENCE).await?;
        crate::progress(&format!(
            "round {number}: meridian {objects_per_s:.0} objects/s, quiet after {:.1?}",
            begun.elapsed()
        ));
        costs.push(Cost {
            cpu_ms_per_object: (after - before) / (plan.objects as f64 * members),
            rss_mib: cost::resident_mib(controller)?,
        });
        let edits_ms = federated.edit(plan, number).await.context("editing")?;
        federated.delete(plan).await.context("deleting")?;
        meridian.push(Round { objects_per_s, edits_ms });
    }
    Ok(report(&bare, &meridian, &costs))
}

fn report(bare: &[Round], meridian: &[Round], costs: &[Cost]) -> Report {
    let mut report = Report::default();
    let measured = [("meridian", meridian), ("ceiling", bare)];
    for (subject, rounds) in measured.into_iter().filter(|(_, rounds)| !rounds.is_empty()) {
        let rates: Vec<f64> = rounds.iter().map(|round| round.objects_per_s).collect();
        report.add("real-3", subject, "objects_per_s", "1/s", median(&rates));
        for (case, part) in [("real-3-p50", 0.5), ("real-3-p99", 0.99)] {
            let parts: Vec<f64> = rounds.iter().map(|round| quantile(&round.edits_ms, part)).collect();
            report.add(case, subject, "edit_ms", "ms", median(&parts));
        }
    }
    if costs.is_empty() {
        return report;
    }
    let of = |field: fn(&Cost) -> f64| median(&costs.iter().map(field).collect::<Vec<_>>());
    report.add("real-3", "meridian", "controller_cpu_ms_per_object", "ms", of(|cost| cost.cpu_ms_per_object));
    report.add("real-3", "meridian", "rss_mib", "MiB", of(|cost| cost.rss_mib));
    report
}

/// The data of a measured ConfigMap.
fn data(mark: &str) -> Value {
    let mut data = Map::new();
    data.insert(MARK.to_owned(), json!(mark));
    data.insert("filler".to_owned(), json!("x".repeat(FILLER_BYTES)));
    Value::Object(data)
}

/// Milliseconds from `begun` to the last sighting; none when a watch was quicker than the answer to the writer.
fn ms(begun: Instant, last: Instant) -> f64 {
    last.saturating_duration_since(begun).as_secs_f64() * 1000.0
}

/// A watch per member, with connections of their own, so that no writer's traffic stands before theirs.
async fn sightings(bed: &Bed, namespace: &str) -> anyhow::Result<Sightings> {
    let mut clients = Vec::new();
    for member in bed.members() {
        clients.push(member.cluster.client_as("bench-watch").await?);
    }
    Sightings::start(clients, namespace).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_with_one_slow_edit_shows_it_in_the_99th_percentile_only() {
        let mut edits_ms = vec![10.0; 59];
        edits_ms.push(500.0);
        let report = report(
            &[],
            &[Round { objects_per_s: 400.0, edits_ms }],
            &[Cost { cpu_ms_per_object: 1.0, rss_mib: 20.0 }],
        );
        let value =
            |case: &str| report.rows().iter().find(|row| row.case == case && row.subject == "meridian");
        assert_eq!(value("real-3-p50").map(|row| row.value), Some(10.0));
        assert_eq!(value("real-3-p99").map(|row| row.value), Some(500.0));
    }

    #[test]
    fn data_is_a_little_over_half_a_kilobyte() {
        let bytes = data("round-0").to_string().len();
        assert!((500..600).contains(&bytes), "{bytes}");
    }
}
