//! `sage demo`: to be written.
use super::{BadInput, Verdict};
/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}
/// Runs the command.
pub fn run(_args: Args) -> anyhow::Result<Verdict> {
    Err(BadInput("this command is not there yet".to_owned()).into())
}
