//! Command line of Meridian: join, unjoin, plan, get.
//!
//! | module | does |
//! | --- | --- |
//! | [`args`] | the commands and their flags |
//! | [`clusters`] | clients of hub and members from kubeconfig contexts |
//! | [`rights`] | what the controller may do in a member: the ClusterRole of a join |
//! | [`join`] | makes a cluster a member |
//! | [`unjoin`] | undoes it |
//! | [`plan`] | shows what would be created, changed and deleted, and where |
//! | [`get`] | shows the fleet |

pub mod args;
pub mod clusters;
pub mod get;
pub mod join;
pub mod plan;
pub mod rights;
pub mod unjoin;

use std::io::Write;

use args::{Args, Command};

/// Runs one command, writing what it has to say to `out`.
///
/// # Errors
/// Whatever stopped the command, with its causes.
pub async fn run(args: Args, out: &mut dyn Write) -> anyhow::Result<()> {
    match args.command {
        Command::Join(join) => join::run(&args.hub, join, out).await,
        Command::Unjoin(unjoin) => unjoin::run(&args.hub, unjoin, out).await,
        Command::Install(install) => {
            let hub = clusters::hub(&args.hub).await?;
            meridian_controller::hub::install(&hub, &[&install.namespace], &args.hub.kubefed_namespace)
                .await?;
            writeln!(out, "definitions and default FederatedTypeConfigs are installed")?;
            Ok(())
        }
        Command::Plan(plan) => plan::run(&args.hub, plan, out).await,
        Command::Get(get) => get::run(&args.hub, get, out).await,
    }
}
