//! The command line: parses, calls the library, prints. One file per command.

use std::process::ExitCode;

/// Runs the program; the exit code is 0 good, 1 the check failed, 2 bad input, 3 device or engine fault.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
