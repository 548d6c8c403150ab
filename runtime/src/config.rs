//! Where settings come from: flags, then environment, then a YAML file, then defaults.
//!
//! The file's keys are the long names of the flags, so there is one vocabulary and one place that
//! documents it: `--help`. A value of the file becomes the default of its flag before the command line
//! is parsed; clap then gives flags and environment their precedence and checks the value's form.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use clap::{Arg, Command, Parser, error::ErrorKind};
use serde_json::Value;

/// Name of the flag that names the file.
const CONFIG_FLAG: &str = "config";
/// The flag's fallback.
const CONFIG_ENV: &str = "MERIDIAN_CONFIG";
/// A configuration is a page of text; whatever is larger is another file by mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("reading configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is no YAML mapping of keys to values.
    #[error("configuration file {path} is not a YAML mapping: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        message: String,
    },
    /// No flag has this name.
    #[error("configuration file {path}: unknown key {key:?}; keys are the long flags of --help")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// The value is no scalar and no list of scalars.
    #[error("configuration file {path}: key {key:?} must have a scalar or a list of scalars as its value")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
}

/// Reads the process's settings into `A`. Ends the process with a message on wrong input, and on
/// `--help` and `--version`.
#[must_use]
pub fn parse<A: Parser>() -> A {
    try_parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// The same from given arguments (the first is the program's name), without ending the process.
///
/// # Errors
/// clap's error for the command line; for the file, one of kind `InvalidValue` or `UnknownArgument`
/// whose text is that of [`Error`].
pub fn try_parse_from<A: Parser>(
    args: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<A, clap::Error> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mut command = A::command().arg(
        Arg::new(CONFIG_FLAG)
            .long(CONFIG_FLAG)
            .env(CONFIG_ENV)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("YAML file whose keys are the long names of these flags; flags and environment beat it"),
    );
    if let Some(path) = config_path(&args) {
        command = apply_file(command.clone(), path).map_err(|error| {
            let kind = match error {
                Error::UnknownKey { .. } => ErrorKind::UnknownArgument,
                _ => ErrorKind::InvalidValue,
            };
            command.error(kind, chain(&error))
        })?;
    }
    let matches = command.clone().try_get_matches_from(args)?;
    A::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// The file that the arguments or the environment name. Looked up before clap parses anything, because
/// the file decides which arguments clap still has to ask for.
fn config_path(args: &[OsString]) -> Option<PathBuf> {
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        let text = arg.to_string_lossy();
        if text == "--" {
            break;
        }
        if text == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    std::env::var_os(CONFIG_ENV).map(PathBuf::from)
}

/// `command` with the file's values as defaults.
fn apply_file(mut command: Command, path: PathBuf) -> Result<Command, Error> {
    for (key, value) in read_file(&path)? {
        let found = command.get_arguments().find(|arg| arg.get_long() == Some(key.as_str()));
        let id = match found {
            Some(arg) if key != CONFIG_FLAG => arg.get_id().clone(),
            _ => return Err(Error::UnknownKey { path, key }),
        };
        let Some(values) = values_of(&value) else { return Err(Error::Value { path, key }) };
        command = command.mut_arg(id, |arg| arg.required(false).default_values(values));
    }
    Ok(command)
}

fn read_file(path: &PathBuf) -> Result<BTreeMap<String, Value>, Error> {
    let read = |source| Error::Read { path: path.clone(), source };
    if std::fs::metadata(path).map_err(read)?.len() > MAX_FILE_BYTES {
        let message = format!("it is larger than {MAX_FILE_BYTES} bytes");
        return Err(Error::Syntax { path: path.clone(), message });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(BTreeMap::new());
    }
    serde_saphyr::from_str(&text)
        .map_err(|error| Error::Syntax { path: path.clone(), message: error.to_string() })
}

/// The value as clap reads it; none for null, mappings and nested lists.
fn values_of(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(items) => items.iter().map(scalar).collect(),
        other => scalar(other).map(|text| vec![text]),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Parser, Debug)]
    struct Args {
        /// Where to listen
        #[arg(long, default_value = "127.0.0.1:53")]
        listen: String,
        /// A flag whose environment variable cargo always sets
        #[arg(long, env = "CARGO_PKG_NAME", default_value = "nobody")]
        owner: String,
        /// Must be given somewhere
        #[arg(long)]
        site: String,
        /// Several
        #[arg(long)]
        peer: Vec<String>,
        /// A switch
        #[arg(long)]
        quiet: bool,
        /// A number
        #[arg(long, default_value_t = 1)]
        workers: u16,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn parse_with(text: &str, more: &[&str]) -> Result<Args, clap::Error> {
        let file = file(text);
        let path = file.path().to_str().unwrap();
        try_parse_from([&["program", "--config", path], more].concat())
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let text = "site: file\nlisten: '0.0.0.0:5300'\nowner: file\nworkers: 4\n";
        let args = parse_with(text, &["--workers", "9"]).unwrap();
        assert_eq!(args.site, "file");
        assert_eq!(args.listen, "0.0.0.0:5300");
        assert_eq!(args.owner, env!("CARGO_PKG_NAME"));
        assert_eq!(args.workers, 9);
        assert_eq!(parse_with("site: x\n", &["--owner", "flag"]).unwrap().owner, "flag");
        assert_eq!(parse_with("site: x\n", &[]).unwrap().listen, "127.0.0.1:53");
    }

    #[test]
    fn lists_and_switches_come_from_the_file_too() {
        let args = parse_with("site: x\npeer: [a, b]\nquiet: true\n", &[]).unwrap();
        assert_eq!((args.peer, args.quiet), (vec!["a".to_owned(), "b".to_owned()], true));
    }

    #[test]
    fn unknown_key_is_an_error_that_names_file_and_key() {
        let file = file("site: x\nlisten-adress: y\n");
        let path = file.path().to_str().unwrap();
        let error = try_parse_from::<Args>(["program", "--config", path]).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains("listen-adress"), "{error}");
    }

    #[test]
    fn value_of_the_wrong_form_is_refused() {
        assert!(parse_with("site: x\nworkers: many\n", &[]).unwrap_err().to_string().contains("workers"));
        assert!(parse_with("site: {a: b}\n", &[]).unwrap_err().to_string().contains("site"));
        assert!(parse_with("just text\n", &[]).is_err());
    }

    #[test]
    fn missing_file_is_an_error_that_names_it() {
        let error = try_parse_from::<Args>(["program", "--config=/nowhere/x.yaml"]).unwrap_err();
        assert!(error.to_string().contains("/nowhere/x.yaml"), "{error}");
    }

    #[test]
    fn what_is_required_is_asked_for_when_the_file_lacks_it() {
        let error = parse_with("workers: 2\n", &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
    }
}
