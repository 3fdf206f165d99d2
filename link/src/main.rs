//! `watari-link --socket PATH --state PATH`: the engine as a process; with `--upgrade`, the one command that puts
//! this program in the place of the one that runs. What it does is in the
//! library; here are only arguments and logs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use tracing_subscriber::EnvFilter;
use watari_link::daemon::{self, EngineOptions, Offload, Options};
use watari_link::spawn;
use watari_link::standalone::{self, Standalone};

/// What is logged unless RUST_LOG says otherwise.
const LOG_DEFAULT: &str = "info";

/// User-space WireGuard engine and path prober of Watari.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Make this one interface for wg(8) and wg-quick(8) to configure, as wireguard-go does, instead of an engine for Watari.
    #[arg(conflicts_with_all = ["socket", "state", "take_over", "upgrade"])]
    interface: Option<String>,
    /// With INTERFACE: stay in the foreground.
    #[arg(long, short, requires = "interface")]
    foreground: bool,
    /// Folder for sockets by which wg(8) finds devices. Default: none with --socket, /var/run/wireguard with INTERFACE.
    #[arg(long, value_name = "FOLDER", env = "WATARI_LINK_UAPI")]
    uapi: Option<PathBuf>,
    /// Control socket to listen at.
    #[arg(long, value_name = "PATH", required_unless_present = "interface")]
    socket: Option<PathBuf>,
    /// File that keeps the configuration, keys included, over restarts.
    #[arg(long, value_name = "PATH", required_unless_present = "interface")]
    state: Option<PathBuf>,
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
        let uapi = self.uapi.iter().flat_map(|folder| [OsString::from("--uapi"), folder.into()]);
        without.chain(threads).map(OsString::from).chain(uapi).collect()
    }
}

fn upgrade(arguments: &Arguments, socket: &Path, state: &Path) -> anyhow::Result<()> {
    let binary = std::env::current_exe()?;
    let former = watari_link::Client::connect(socket)?.hello().clone();
    let hello = spawn::upgrade(&binary, socket, state, &arguments.of_engine())?;
    tracing::info!(
        pid = hello.pid,
        version = hello.version,
        former_pid = former.pid,
        former_version = former.version,
        "replaced"
    );
    Ok(())
}

/// What `wireguard-go` calls it: set, the process stays in the foreground.
const FOREGROUND: &str = "WG_PROCESS_FOREGROUND";

fn standalone(arguments: &Arguments, interface: &str, engine: EngineOptions) -> anyhow::Result<()> {
    let folder = arguments.uapi.clone().unwrap_or_else(|| PathBuf::from(watari_link::UAPI_FOLDER));
    let standalone = Standalone { interface: interface.to_owned(), folder: folder.clone(), engine };
    if arguments.foreground || std::env::var_os(FOREGROUND).is_some_and(|value| value == "1") {
        return Ok(standalone::run(&standalone)?);
    }
    let mut command = Command::new(std::env::current_exe()?);
    let uapi = arguments.uapi.is_none().then(|| ["--uapi".into(), folder.into_os_string()]);
    command
        .arg("--foreground")
        .args(uapi.into_iter().flatten())
        .args(arguments.of_engine())
        .arg("--")
        .arg(interface);
    Ok(standalone::detach(&standalone, &mut command)?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    die_whole();
    leave_no_core();
    let engine = EngineOptions { without: arguments.without.clone(), threads: arguments.threads };
    let result = match (&arguments.interface, &arguments.socket, &arguments.state) {
        (Some(interface), ..) => standalone(&arguments, interface, engine),
        (None, Some(socket), Some(state)) if arguments.upgrade => upgrade(&arguments, socket, state),
        (None, Some(socket), Some(state)) => {
            let (socket, state, uapi) = (socket.clone(), state.clone(), arguments.uapi.clone());
            let options = Options { socket, state, engine, uapi, take_over: arguments.take_over };
            daemon::run(&options).map_err(anyhow::Error::from)
        }
        // The command line demands one or the other.
        _ => Err(anyhow::anyhow!("neither an interface nor a control socket")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The memory holds keys, of this host and of every session: none of it goes to a disk when the process dies. A kernel that
/// refuses is only said so, since packets matter more.
fn leave_no_core() {
    let limit = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Err(error) = limit.and_then(|()| set_dumpable(false)) {
        tracing::warn!(%error, "a core dump would hold keys");
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
