//! Logging: level and format.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How the process logs. Flatten it into the arguments of a binary.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Log level (error, warn, info, debug, trace), or directives such as `info,meridian_feed=debug`
    #[arg(long, env = "MERIDIAN_LOG_LEVEL", default_value = "info", value_parser = directives)]
    pub log_level: String,

    /// Log format
    #[arg(long, env = "MERIDIAN_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. Only the first call of a process has an effect, so that tests and
/// the demo may run several binaries in one process.
pub fn init(args: &LogArgs) {
    // Checked when the arguments were parsed; what cannot be read here falls back to errors only.
    let filter = EnvFilter::new(&args.log_level);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let outcome = match args.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if outcome.is_err() {
        tracing::debug!("Logging was set up already");
    }
}

fn directives(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_level_is_refused_when_arguments_are_read() {
        assert!(directives("info,meridian_dns=debug").is_ok());
        assert!(directives("meridian_dns=loud").is_err());
    }
}
