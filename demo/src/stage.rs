//! The part inside the private namespace: fleet, Meridian, story, inner halves of the doors.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use meridian_tests::bed::{Bed, BedSpec};
use meridian_tests::namespace::{self, Inside};
use meridian_tests::walkthrough::Story;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio_util::task::TaskTracker;

use crate::forward::{Door, inside};

/// Name of the socket on which the outer program waits for the invitation.
pub(crate) const CONTROL: &str = "control.sock";

/// What the outer program needs to open its side.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Invitation {
    /// Doors into the namespace.
    pub(crate) doors: Vec<Door>,
    /// Kubeconfig whose servers are addresses inside.
    pub(crate) kubeconfig: PathBuf,
    /// The kubectl of the fleet's version.
    pub(crate) kubectl: PathBuf,
    /// False while the story is still to be told.
    pub(crate) is_story_over: bool,
}

/// Sets the stage, tells the story, and stays until asked to end.
pub(crate) fn run(sockets: &Path, quick: bool, leave: bool) -> anyhow::Result<()> {
    let inside = namespace::enter()?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(perform(&inside, sockets, quick, leave))
}

async fn perform(inside: &Inside, sockets: &Path, quick: bool, leave: bool) -> anyhow::Result<()> {
    let mut ending = inside.ending.clone();
    tokio::select! {
        // Whatever is under way is dropped, and the namespace ends what is left.
        _ = ending.asked() => Ok(()),
        gone = terminal_gone() => gone,
        played = play(inside, sockets, quick, leave) => played,
    }
}

/// Returns when the program that started this one has ended: the pipe at standard input is then at its end.
async fn terminal_gone() -> anyhow::Result<()> {
    let file = std::fs::File::open("/dev/stdin").context("opening standard input")?;
    let mut pipe = pipe::Receiver::from_file(file).context("watching standard input")?;
    pipe.read_to_end(&mut Vec::new()).await.context("watching standard input")?;
    Ok(())
}

async fn play(namespace: &Inside, sockets: &Path, quick: bool, leave: bool) -> anyhow::Result<()> {
    let bed = Arc::new(Bed::start(namespace, BedSpec::default()).await.context("starting the fleet")?);
    let mut story = Story::start(Arc::clone(&bed)).await?;
    story.say(format!(
        "Hub and three members are up after {:.1} s; Meridian starts",
        bed.started_in().as_secs_f64()
    ));
    let doors = doors(&bed);
    let tasks = TaskTracker::new();
    for door in doors.clone() {
        tasks.spawn(inside_door(door, sockets.to_owned()));
    }
    let invite = async |is_story_over| {
        let invitation = Invitation {
            doors: doors.clone(),
            kubeconfig: bed.kubeconfig(),
            kubectl: bed.programs().join("kubectl"),
            is_story_over,
        };
        let mut stream = UnixStream::connect(sockets.join(CONTROL)).await.context("inviting the terminal")?;
        stream.write_all(&serde_json::to_vec(&invitation)?).await?;
        anyhow::Ok(())
    };
    invite(false).await?;
    if quick {
        story.settle().await?;
    } else {
        story.play().await?;
    }
    if leave {
        return Ok(());
    }
    invite(true).await?;
    std::future::pending().await
}

async fn inside_door(door: Door, sockets: PathBuf) {
    let name = door.name.clone();
    if let Err(error) = inside(door, sockets).await {
        use std::io::Write as _;
        writeln!(std::io::stderr(), "The door {name} is closed: {error:#}").ok();
    }
}

fn doors(bed: &Bed) -> Vec<Door> {
    let mut doors = Vec::new();
    for site in bed.sites() {
        let door = |kind: &str, port| Door {
            name: format!("{kind}-{}", site.name()),
            target: SocketAddr::from((site.address(), port)),
            is_dns: kind == "dns",
        };
        doors.extend([door("dns", 53), door("http", 80)]);
    }
    for cluster in std::iter::once(bed.hub()).chain(bed.members().iter().map(|member| &member.cluster)) {
        let (name, target) = (format!("api-{}", cluster.name()), cluster.api_address());
        doors.push(Door { name, target, is_dns: false });
    }
    doors
}
