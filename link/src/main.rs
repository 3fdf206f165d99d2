//! `watari-link --socket PATH --state PATH`: the engine as a process; with `--upgrade`, the one command that puts
//! this program in the place of the one that runs. What it does is in the
//! library; here are only arguments and logs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use watari_link::daemon::{self, EngineOptions, Offload, Options};
use watari_link::spawn;

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
    /// Take over from the engine that runs at the socket, with its descriptors and sessions: nothing is lost. Where none runs, start.
    #[arg(long)]
    take_over: bool,
    /// Start this program to take over from the engine that runs, and end when it has.
    #[arg(long, conflicts_with = "take_over")]
    upgrade: bool,
}

impl Arguments {
    /// Those of an engine, for a successor.
    fn of_engine(&self) -> Vec<OsString> {
        let without = self.without.iter().flat_map(|offload| ["--without".to_owned(), offload.to_string()]);
        let threads = self.threads.iter().flat_map(|threads| ["--threads".to_owned(), threads.to_string()]);
        without.chain(threads).map(OsString::from).collect()
    }
}

fn upgrade(arguments: &Arguments) -> anyhow::Result<()> {
    let binary = std::env::current_exe()?;
    let former = watari_link::Client::connect(&arguments.socket)?.hello().clone();
    let hello = spawn::upgrade(&binary, &arguments.socket, &arguments.state, &arguments.of_engine())?;
    tracing::info!(
        pid = hello.pid,
        version = hello.version,
        former_pid = former.pid,
        former_version = former.version,
        "replaced"
    );
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    die_whole();
    if arguments.upgrade {
        return ended(upgrade(&arguments));
    }
    let engine = EngineOptions { without: arguments.without, threads: arguments.threads };
    let options =
        Options { socket: arguments.socket, state: arguments.state, engine, take_over: arguments.take_over };
    ended(daemon::run(&options).map_err(anyhow::Error::from))
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
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
