//! `sage config`: prints the commented default, or checks a file.

use super::{BadInput, Verdict};
use crate::config::{Config, DEFAULT_TOML};
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `sage config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the default configuration, every key with a comment.
    #[arg(long)]
    default: bool,
    /// Check a file; says what is wrong and where.
    #[arg(long, value_name = "FILE", conflicts_with = "default")]
    check: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Verdict> {
    if args.default {
        io::stdout().write_all(DEFAULT_TOML.as_bytes())?;
        return Ok(Verdict::Good);
    }
    let Some(file) = &args.check else {
        return Err(BadInput("say --default to print the default, or --check FILE to check a file".to_owned()).into());
    };
    let config = Config::load(file)?;
    writeln!(io::stdout(), "{}: good; config_hash {}", file.display(), config.core().hash())?;
    Ok(Verdict::Good)
}
