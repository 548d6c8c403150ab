//! Clients of the story: dig, curl, and load, as people have them.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::bed::Bed;
use crate::load::{Load, Plan, Tally, total};
use crate::site::{Site, VIP};

/// Addresses of clients, from the synthetic GeoIP database.
pub const TAIWAN: &str = "203.0.113.7";
/// A client in Frankfurt.
pub const GERMANY: &str = "192.0.2.7";
/// A client in Council Bluffs.
pub const IOWA: &str = "198.51.100.7";

/// Host of the Ingress that has one.
pub const HOST: &str = "shop.global.example.org";
/// KubeFed's global name of the Service.
pub const SERVICE: &str = "web.shop.fed.svc.global.example.org";

/// What `dig` printed of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// `NOERROR`, `NXDOMAIN`, ...
    pub status: String,
    /// Addresses, in order.
    pub addresses: Vec<Ipv4Addr>,
    /// Targets of CNAMEs, in order.
    pub aliases: Vec<String>,
    /// Scope prefix length of the client subnet option; none when there was no option.
    pub scope: Option<u8>,
}

/// Asks the name server of `site` for A records, on behalf of `client` (its /24).
///
/// # Errors
/// When dig cannot be run or got no answer within 2 s.
pub async fn dig(site: &Site, name: &str, client: &str) -> anyhow::Result<Answer> {
    let output = tokio::process::Command::new("dig")
        .arg(format!("@{}", site.address()))
        .args([name, "A", "+tries=1", "+time=2", "+noall", "+comments", "+answer"])
        .arg(format!("+subnet={client}/24"))
        .kill_on_drop(true)
        .output()
        .await
        .context("running dig")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("dig {name} at {}: {}", site.name(), text.trim());
    }
    Ok(parse(&text))
}

fn parse(text: &str) -> Answer {
    let mut answer = Answer::default();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("status: ") {
            answer.status = rest.split(',').next().unwrap_or_default().to_owned();
        } else if let Some((_, rest)) = line.split_once("CLIENT-SUBNET: ") {
            answer.scope = rest.rsplit('/').next().and_then(|scope| scope.trim().parse().ok());
        } else if !line.starts_with(';') {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, _, "IN", kind, value] = fields[..] {
                match (kind, value.parse()) {
                    ("A", Ok(address)) => answer.addresses.push(address),
                    ("CNAME", _) => answer.aliases.push(value.trim_end_matches('.').to_owned()),
                    _ => {}
                }
            }
        }
    }
    answer
}

/// What a page said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: u16,
    /// The cluster that served it; empty when the answer is not a pod's.
    pub cluster: String,
    /// The zone of the pod.
    pub zone: String,
}

/// Fetches `http://address/` with curl, from inside `site` or, without one, from the root namespace.
///
/// # Errors
/// When curl fails: no connection, or no whole answer within 5 s.
pub async fn curl(site: Option<&Site>, address: Ipv4Addr, host: Option<&str>) -> anyhow::Result<Page> {
    let mut command = site.map_or_else(|| Command::new("curl"), |site| site.command("curl"));
    if let Some(host) = host {
        command.args(["--header", &format!("Host: {host}")]);
    }
    command.arg(format!("http://{address}/"));
    fetch(command).await
}

/// Fetches `https://host/` from `address` with curl, from the root namespace, and trusts `authority` (a PEM file)
/// alone.
///
/// # Errors
/// As [`curl`], and when the certificate is not the host's.
pub async fn curl_tls(address: Ipv4Addr, host: &str, authority: &str) -> anyhow::Result<Page> {
    let mut command = Command::new("curl");
    command.args(["--cacert", authority, "--resolve", &format!("{host}:443:{address}")]);
    command.arg(format!("https://{host}/"));
    fetch(command).await
}

async fn fetch(mut command: Command) -> anyhow::Result<Page> {
    command.args(["--silent", "--show-error", "--max-time", "5", "--output", "/dev/null"]);
    command.args(["--write-out", "%{http_code} %header{x-cluster} %header{x-zone}"]);
    let output =
        tokio::process::Command::from(command).kill_on_drop(true).output().await.context("running curl")?;
    if !output.status.success() {
        bail!("curl: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut fields = text.split(' ');
    Ok(Page {
        status: fields.next().unwrap_or_default().parse().context("curl prints the status")?,
        cluster: fields.next().unwrap_or_default().to_owned(),
        zone: fields.next().unwrap_or_default().to_owned(),
    })
}

/// Starts GETs at the VIP of a site, from inside it.
///
/// # Errors
/// When the generator cannot be started.
pub fn load(bed: &Bed, site: &str, host: &str, rate: u32) -> anyhow::Result<Load> {
    let plan = Plan { rate, timeout_ms: 5000, ..Plan::new(SocketAddr::from((VIP, 80)), host) };
    Load::start(&plan, |program| bed.site(site).command(program))
}

/// Ends the load and fails unless every request got a 2xx.
///
/// # Errors
/// With the tally, when a request failed or nothing was sent.
pub async fn without_failure(load: Load) -> anyhow::Result<Tally> {
    let seconds = load.stop().await?;
    let sum = total(&seconds);
    if sum.ok == 0 || sum.failed() > 0 {
        let bad: Vec<&Tally> = seconds.iter().filter(|second| second.failed() > 0).collect();
        bail!("{} of {} requests failed; the seconds of failure: {bad:#?}", sum.failed(), sum.sent);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_dig_is_understood() {
        let text = ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1\n\
            ;; OPT PSEUDOSECTION:\n; EDNS: version: 0, flags:; udp: 1232\n\
            ; CLIENT-SUBNET: 203.0.113.0/24/20\n\
            a.example.org.\t5\tIN\tCNAME\tb.example.org.\nb.example.org. 5 IN A 10.200.1.2\n";
        let expected = Answer {
            status: "NOERROR".into(),
            addresses: vec![Ipv4Addr::new(10, 200, 1, 2)],
            aliases: vec!["b.example.org".into()],
            scope: Some(20),
        };
        assert_eq!(parse(text), expected);
    }
}
