//! The part that people start: opens the outer halves of the doors and prints what to type.

use std::io::Write as _;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::forward::{Door, outside};
use crate::stage::{CONTROL, Invitation};

/// Ports for the first name server and the first proxy, if they are free: easy to type.
const DNS_PORT: u16 = 5300;
const HTTP_PORT: u16 = 8080;

/// Runs the stage as a child and stays until it ends.
pub(crate) fn run(quick: bool, leave: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(perform(quick, leave))
}

async fn perform(quick: bool, leave: bool) -> anyhow::Result<ExitCode> {
    let directory = tempfile::Builder::new().prefix("meridian-demo-").tempdir()?;
    let control = UnixListener::bind(directory.path().join(CONTROL))?;
    let mut stage = tokio::process::Command::new(std::env::current_exe()?);
    // The pipe tells the stage when this program is gone, however it ended.
    stage.args(["stage", "--sockets"]).arg(directory.path()).stdin(Stdio::piped());
    stage.args(quick.then_some("--quick")).args(leave.then_some("--leave"));
    // A group of its own: Ctrl-C comes to this program alone, and is passed on once. Twice would mean "now".
    stage.process_group(0);
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut child = stage.spawn().context("starting the stage")?;
    // Taken out because waiting for the child would close it.
    let _open_while_running = child.stdin.take();
    let mut lines = None;
    loop {
        tokio::select! {
            status = child.wait() => {
                let status = status?;
                let asked = matches!(status.code(), Some(0 | 129 | 130 | 143));
                return Ok(if asked { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            _ = interrupt.recv() => stop(&child)?,
            _ = terminate.recv() => stop(&child)?,
            accepted = control.accept() => {
                let mut text = Vec::new();
                accepted?.0.read_to_end(&mut text).await?;
                let invitation: Invitation = serde_json::from_slice(&text)?;
                if lines.is_none() {
                    lines = Some(open(&invitation, directory.path()).await?);
                }
                if let (true, Some(lines)) = (invitation.is_story_over, &lines) {
                    writeln!(std::io::stdout(), "{lines}").ok();
                }
            }
        }
    }
}

/// Passes a request to end on to the stage.
fn stop(child: &tokio::process::Child) -> anyhow::Result<()> {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
    }
    Ok(())
}

/// Opens all doors and says how to use them.
async fn open(invitation: &Invitation, directory: &Path) -> anyhow::Result<String> {
    let mut kubeconfig = std::fs::read_to_string(&invitation.kubeconfig).context("reading the kubeconfig")?;
    let (mut digs, mut curls) = (String::new(), String::new());
    for door in &invitation.doors {
        let port = outside(door, directory, preferred(door, invitation)).await?;
        let Some((kind, place)) = door.name.split_once('-') else { continue };
        match kind {
            "dns" => {
                let (client, country) = match place {
                    "asia" => ("203.0.113.7", "Taiwan"),
                    "europe" => ("192.0.2.7", "Germany"),
                    _ => ("198.51.100.7", "Iowa"),
                };
                digs += &format!(
                    "  dig @127.0.0.1 -p {port} shop.global.example.org +subnet={client}/24   # as a client in {country}\n"
                );
            }
            "http" => {
                curls += &format!(
                    "  curl -si http://127.0.0.1:{port}/ -H 'Host: shop.global.example.org'   # arriving at site {place}\n"
                );
            }
            _ => {
                kubeconfig = kubeconfig
                    .replace(&format!("https://{}", door.target), &format!("https://127.0.0.1:{port}"))
            }
        }
    }
    let file = directory.join("kubeconfig");
    std::fs::write(&file, kubeconfig).context("writing the kubeconfig")?;
    let kubectl = format!("  {} --kubeconfig={}", invitation.kubectl.display(), file.display());
    Ok(format!(
        "\nThe fleet stays up until Ctrl-C. From any terminal:\n\n{digs}\n{curls}\n\
         {kubectl} get memberclusters,sites,dnszones\n\
         {kubectl} -n shop get federateddeployments,federatedservices,federatedingresses\n\
         {kubectl} --context=asia-east1 -n shop scale deployment/web --replicas=0   # is undone: drift\n\
         {kubectl} -n shop patch federateddeployment/web --type=merge -p '{{\"spec\":{{\"overrides\":[{{\"clusterName\":\"asia-east1\",\"clusterOverrides\":[{{\"path\":\"/spec/replicas\",\"value\":0}}]}}]}}}}'\n"
    ))
}

fn preferred(door: &Door, invitation: &Invitation) -> u16 {
    let kind = door.name.split('-').next().unwrap_or_default();
    let number =
        invitation.doors.iter().filter(|d| d.name.starts_with(kind)).position(|d| d.name == door.name);
    let number = number.and_then(|n| u16::try_from(n).ok()).unwrap_or_default();
    match kind {
        "dns" => DNS_PORT + number,
        "http" => HTTP_PORT + number,
        _ => 0,
    }
}
