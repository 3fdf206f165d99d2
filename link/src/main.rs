//! `watari-link --socket PATH --state PATH`: the engine as a process. What it does is in the
//! library; here are only arguments and logs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use watari_link::daemon::{self, EngineOptions, Offload, Options};

/// What is logged unless RUST_LOG says otherwise.
const LOG_DEFAULT: &str = "info";

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
    /// An offload of the kernel not to use, where a driver gets it wrong; may be given several times.
    #[arg(long, value_name = "OFFLOAD", env = "WATARI_LINK_WITHOUT", value_delimiter = ',')]
    without: Vec<Offload>,
    /// Threads for each direction of a device. Default: one for each core, 4 at most.
    #[arg(long, value_name = "NUMBER", env = "WATARI_LINK_THREADS")]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    die_whole();
    let engine = EngineOptions { without: arguments.without, threads: arguments.threads };
    let options = Options { socket: arguments.socket, state: arguments.state, engine };
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
