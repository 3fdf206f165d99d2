//! `watari-link --socket PATH --state PATH`: the engine as a process. What it does is in the
//! library; here are only arguments and logs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use watari_link::daemon::{self, Options};

/// What is logged unless RUST_LOG says otherwise. boringtun logs every retransmission as a warning.
const LOG_DEFAULT: &str = "info,boringtun=off";

/// User-space WireGuard engine and path prober of Watari.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Control socket to listen at.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// File that keeps the configuration, keys included, over restarts.
    #[arg(long, value_name = "PATH")]
    state: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    die_whole();
    let options = Options { socket: arguments.socket, state: arguments.state };
    match daemon::run(&options).map_err(anyhow::Error::from) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A panic in one thread ends the process: a supervisor that restarts it has packets flowing again
/// within a second, while an engine with a dead thread would look alive and carry nothing.
fn die_whole() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
