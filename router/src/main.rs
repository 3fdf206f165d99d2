//! The binary `watari`: the daemon and the command line over its API.

use std::process::ExitCode;

fn main() -> ExitCode {
    watari::cli::main()
}
