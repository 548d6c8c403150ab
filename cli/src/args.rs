//! The commands and their flags.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Joins clusters into one fleet and looks at it.
#[derive(Clone, Debug, Parser)]
#[command(name = "meridianctl", version)]
pub struct Args {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub hub: HubArgs,

    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: Command,
}

/// How the hub is reached.
#[derive(Clone, Debug, ClapArgs)]
pub struct HubArgs {
    /// Kubeconfig with the contexts of hub and members; default: KUBECONFIG, else ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the hub; default: the current context
    #[arg(long, global = true, value_name = "NAME", visible_alias = "context")]
    pub host_cluster_context: Option<String>,

    /// Namespace of KubeFed's objects on the hub
    #[arg(long, global = true, default_value = meridian_api::kubefed::DEFAULT_NAMESPACE, value_name = "NAME")]
    pub kubefed_namespace: String,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Make a cluster a member of the fleet
    Join(Box<Join>),
    /// Take a member out of the fleet; objects in it stay as they are
    Unjoin(Unjoin),
    /// Install the CustomResourceDefinitions and default FederatedTypeConfigs on the hub
    Install(Install),
    /// Show what would be created, changed and deleted, and where, without doing it
    Plan(Plan),
    /// Show members
    Get(Get),
}

/// What the controller may do in a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Read what discovery needs.
    Discover,
    /// That, and write objects of the federated kinds.
    Propagate,
}

/// How traffic from elsewhere reaches a member's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NetworkMode {
    /// Pod addresses are routable.
    Flat,
    /// Only gateway addresses are.
    Gateway,
}

/// Flags of `join`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Join {
    /// Name of the member: a DNS label
    #[arg(value_parser = name)]
    pub name: String,

    /// Context of the cluster that joins; default: the member's name
    #[arg(long, value_name = "NAME")]
    pub cluster_context: Option<String>,

    /// Create a KubeFedCluster instead of a MemberCluster
    #[arg(long)]
    pub kubefed: bool,

    /// Namespace of the credentials on the hub, and of the service account in the member
    #[arg(long, default_value = "meridian-system", value_name = "NAME")]
    pub namespace: String,

    /// What the controller may do in the member
    #[arg(long, value_enum, default_value_t = Role::Propagate)]
    pub role: Role,

    /// Also allow propagating RBAC objects, with which the controller could give itself any right
    #[arg(long)]
    pub allow_escalation: bool,

    /// Region; default: from the labels of the member's nodes
    #[arg(long, value_name = "NAME")]
    pub region: Option<String>,

    /// Zones, separated by commas; default: from the labels of the member's nodes
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    pub zones: Vec<String>,

    /// Degrees north
    #[arg(long, allow_hyphen_values = true, requires = "longitude", value_name = "DEG")]
    pub latitude: Option<f64>,

    /// Degrees east
    #[arg(long, allow_hyphen_values = true, requires = "latitude", value_name = "DEG")]
    pub longitude: Option<f64>,

    /// How traffic from elsewhere reaches the member's pods
    #[arg(long, value_enum, default_value_t = NetworkMode::Flat)]
    pub network_mode: NetworkMode,

    /// Labels of the member, for placements and policies
    #[arg(long, value_delimiter = ',', value_parser = label, value_name = "KEY=VALUE,..")]
    pub labels: Vec<(String, String)>,

    /// URL under which the hub reaches the member's API server; default: that of the context
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,

    /// Lifetime of the token in hours; the controller renews it after two thirds
    #[arg(long, default_value_t = 720, value_parser = clap::value_parser!(u32).range(1..=8760), value_name = "H")]
    pub token_hours: u32,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Fail if the member exists already
    #[arg(long)]
    pub error_on_existing: bool,
}

/// Flags of `unjoin`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Unjoin {
    /// Name of the member
    #[arg(value_parser = name)]
    pub name: String,

    /// Context of the cluster that leaves; default: the member's name
    #[arg(long, value_name = "NAME")]
    pub cluster_context: Option<String>,

    /// The member is a KubeFedCluster
    #[arg(long)]
    pub kubefed: bool,

    /// Namespace of the credentials on the hub, and of the service account in the member
    #[arg(long, default_value = "meridian-system", value_name = "NAME")]
    pub namespace: String,

    /// Go on when the member cannot be reached: what is in it stays behind
    #[arg(long)]
    pub force: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `install`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Install {
    /// Namespace of Meridian's own objects, created with the definitions
    #[arg(long, default_value = "meridian-system", value_name = "NAME")]
    pub namespace: String,
}

/// Flags of `plan`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Plan {
    /// Object on the hub, such as federateddeployment/web
    #[arg(value_name = "TYPE/NAME", conflicts_with = "file", required_unless_present = "file")]
    pub object: Option<String>,

    /// Manifest of a federated object that need not exist yet
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Namespace of the object
    #[arg(short = 'n', long, default_value = "default", value_name = "NAME")]
    pub namespace: String,
}

/// Flags of `get`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Get {
    /// What to show
    #[arg(value_enum)]
    pub what: What,
}

/// What `get` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The members.
    Clusters,
}

fn name(text: &str) -> Result<String, String> {
    let is_label = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label {
        Ok(text.to_owned())
    } else {
        Err("must be a DNS label: at most 63 lower case letters, digits and hyphens".to_owned())
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::Args;
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_member_must_be_a_dns_label() {
        let parse = |name: &str| Args::try_parse_from(["meridianctl", "join", name]).is_ok();
        assert!(parse("asia-east1"));
        for name in ["Asia", "a.b", "-a", "a-", &"x".repeat(64)] {
            assert!(!parse(name), "{name}");
        }
    }

    #[test]
    fn latitude_needs_longitude() {
        assert!(Args::try_parse_from(["meridianctl", "join", "a", "--latitude", "-33.9"]).is_err());
        assert!(
            Args::try_parse_from(["meridianctl", "join", "a", "--latitude", "-33.9", "--longitude", "151.2"])
                .is_ok()
        );
    }
}
