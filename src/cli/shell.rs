//! `sage completions` and `sage man`: text for shells and for man(1), from the same definitions as the help.

use super::{BadInput, Cli, Verdict};
use clap::CommandFactory;
use std::io::{self, Write};

/// Arguments of `sage completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// bash, elvish, fish, powershell or zsh.
    shell: clap_complete::Shell,
}

/// Prints completions for a shell.
pub fn completions(args: &CompletionArgs) -> anyhow::Result<Verdict> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sage", &mut text);
    io::stdout().write_all(&text)?;
    Ok(Verdict::Good)
}

/// Prints the man page, all commands in one.
pub fn man() -> anyhow::Result<Verdict> {
    let mut text = Vec::new();
    let command = Cli::command();
    let render = |error: io::Error| BadInput(format!("the man page cannot be made: {error}"));
    clap_mangen::Man::new(command.clone()).render(&mut text).map_err(render)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let page = clap_mangen::Man::new(sub.clone());
        page.render_name_section(&mut text).map_err(render)?;
        page.render_options_section(&mut text).map_err(render)?;
    }
    io::stdout().write_all(&text)?;
    Ok(Verdict::Good)
}
