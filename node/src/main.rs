//! `watari-node`: makes a machine a node of the flat network, and measures.
//!
//! Exit status: 0 when what was asked for is so; 1 with one sentence on standard error otherwise; 2
//! when the command line is wrong. Tables are for people, `--json` for programs.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;
use watari_node::enrol::{ClientOptions, EnrolUrl, NodeKind, Pin};
use watari_node::host::device::Engine;
use watari_node::measure::{self, PORT_DEFAULT, Responder, ResponderOptions, Spec, TestKind};
use watari_node::node::{self, HANDSHAKE_LIMIT, INTERFACE_DEFAULT, JoinOptions, Node, STATE_DEFAULT};

#[derive(Parser)]
#[command(name = "watari-node", version, about = "Makes a machine a node of the flat network, and measures")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Enrol at a gateway and bring the node up.
    Join(JoinArgs),
    /// Bring a node up that has joined before, such as after a reboot.
    Up(UpArgs),
    /// Remove agent, routes, device and state.
    Leave(StateArgs),
    /// Show what the node is and whether it works; exit status 1 when it does not.
    Status(StatusArgs),
    /// Be the agent of a node that is up.
    #[command(hide = true)]
    Agent(StateArgs),
    /// Measure throughput, loss and latency to another place.
    #[command(subcommand)]
    Measure(MeasureCommand),
}

#[derive(Args)]
struct StateArgs {
    /// Where the node keeps its state.
    #[arg(long, value_name = "DIR", default_value = STATE_DEFAULT)]
    state: PathBuf,
}

#[derive(Args)]
struct JoinArgs {
    /// The gateway's enrolment listener: https://HOST[:PORT].
    url: EnrolUrl,
    /// The one-shot token, as the gateway's API gave it.
    #[arg(long, env = "WATARI_TOKEN", hide_env_values = true)]
    token: String,
    /// Fingerprint of the gateway's certificate: sha256: and 64 hexadecimal digits.
    #[arg(long)]
    pin: Pin,
    #[command(flatten)]
    state: StateArgs,
    /// Name of the tunnel device.
    #[arg(long, value_name = "NAME", default_value = INTERFACE_DEFAULT)]
    interface: String,
    /// The user-space WireGuard engine, used where the kernel has none [default: beside this
    /// program, then PATH].
    #[arg(long, value_name = "PATH")]
    link_binary: Option<PathBuf>,
    #[command(flatten)]
    run: RunAgentArgs,
    /// Kind of node [default: gpu when the machine has one].
    #[arg(long)]
    kind: Option<Kind>,
}

#[derive(Args)]
struct RunAgentArgs {
    /// Be the agent in this process instead of starting one.
    #[arg(long)]
    foreground: bool,
    /// How long the gateway may take to answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = HANDSHAKE_LIMIT.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=600))]
    wait: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Gpu,
    Cpu,
}

#[derive(Args)]
struct UpArgs {
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    run: RunAgentArgs,
}

#[derive(Args)]
struct StatusArgs {
    #[command(flatten)]
    state: StateArgs,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum MeasureCommand {
    /// Answer measurements until interrupted.
    Serve(ServeArgs),
    /// Measure to a responder.
    Run(RunArgs),
}

#[derive(Args)]
struct ServeArgs {
    /// Address to listen on, with or without a port; may be repeated [default: every address].
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    listen: Vec<SocketAddr>,
    /// Who may connect; may be repeated [default: everybody].
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<IpNet>,
}

#[derive(Args)]
struct RunArgs {
    /// The responder: HOST, HOST:PORT or [IPV6]:PORT.
    target: String,
    /// Length of each test in seconds.
    #[arg(long, value_name = "N", default_value_t = 5.0)]
    seconds: f64,
    /// Parallel TCP streams.
    #[arg(long, value_name = "N", default_value_t = 4)]
    streams: u8,
    /// Tests to run: tcp, tcp-reverse, udp, udp-reverse, rr-tcp, rr-udp.
    #[arg(
        long,
        value_name = "TEST,…",
        value_delimiter = ',',
        default_value = "tcp,tcp-reverse,udp,rr-tcp,rr-udp"
    )]
    tests: Vec<TestKind>,
    /// Rate of UDP payload in Mbit/s; 0 sends as fast as it goes.
    #[arg(long, value_name = "MBIT/S", default_value_t = 100.0)]
    udp_rate: f64,
    /// UDP payload in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1_200)]
    udp_payload: u16,
    /// Size of request and answer in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 1)]
    rr_payload: u16,
    /// Local address to measure from.
    #[arg(long, value_name = "ADDR")]
    source: Option<IpAddr>,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let talkative = matches!(
        cli.command,
        Command::Agent(_)
            | Command::Join(JoinArgs { run: RunAgentArgs { foreground: true, .. }, .. })
            | Command::Up(UpArgs { run: RunAgentArgs { foreground: true, .. }, .. })
    );
    start_log(if talkative { "info" } else { "warn" });
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("watari-node: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one sentence; what an error has said of its cause is not said again.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let words = cause.to_string();
        if text.is_empty() {
            text = words;
        } else if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        text
    })
}

/// Logs go to standard error; `RUST_LOG` chooses what.
fn start_log(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Join(args) => join(args),
        Command::Up(args) => bring_up(&Node::load(&args.state.state)?, &args.run),
        Command::Leave(args) => {
            let name = node::leave(&args.state)?;
            print(&format!("{name} has left"))
        }
        Command::Status(args) => status(&args),
        Command::Agent(args) => {
            Node::load(&args.state)?.run_agent()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Measure(MeasureCommand::Serve(args)) => serve(args),
        Command::Measure(MeasureCommand::Run(args)) => measure_run(&args),
    }
}

fn join(args: JoinArgs) -> anyhow::Result<ExitCode> {
    let node = Node::join(&JoinOptions {
        url: args.url,
        pin: args.pin,
        token: args.token,
        state: args.state.state,
        interface: args.interface,
        link_binary: args.link_binary,
        kind: args.kind.map(|kind| match kind {
            Kind::Gpu => NodeKind::Gpu,
            Kind::Cpu => NodeKind::Cpu,
        }),
        client: ClientOptions::default(),
    })?;
    bring_up(&node, &args.run)
}

/// Configures, runs or starts the agent, and says so once the gateway has answered. In the
/// foreground the agent keeps running whether it has or not: the gateway may come later.
fn bring_up(node: &Node, run: &RunAgentArgs) -> anyhow::Result<ExitCode> {
    let engine = node.configure()?;
    let reply = &node.identity().reply;
    if run.foreground {
        node.run_agent()?;
        return Ok(ExitCode::SUCCESS);
    }
    node.ensure_agent()?;
    node.await_handshake(engine, Duration::from_secs(run.wait))?;
    let addresses: Vec<_> = reply.addresses.iter().map(|a| a.addr().to_string()).collect();
    let engine = match engine {
        Engine::Kernel => "kernel WireGuard",
        Engine::Link => "watari-link",
    };
    print(&format!(
        "{} is up: {} on {} ({engine})",
        reply.node,
        addresses.join(" "),
        node.identity().interface
    ))
}

fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let status = Node::load(&args.state.state)?.status()?;
    let text = if args.json { serde_json::to_string_pretty(&status)? } else { status.render() };
    print(&text)?;
    Ok(if status.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let everywhere = SocketAddr::new(IpAddr::from([0_u16; 8]), PORT_DEFAULT);
    let listen = if args.listen.is_empty() { vec![everywhere] } else { args.listen };
    let allowed = (!args.allow.is_empty()).then_some(args.allow);
    let mut responder = Responder::start(&ResponderOptions { listen, allowed }).context("cannot listen")?;
    let addresses: Vec<_> = responder.addresses().iter().map(ToString::to_string).collect();
    print(&format!("answering on {}", addresses.join(", ")))?;
    responder.wait();
    Ok(ExitCode::SUCCESS)
}

fn measure_run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    if !(0.0..=3_600.0).contains(&args.seconds) || !(0.0..=1e6).contains(&args.udp_rate) {
        bail!("--seconds and --udp-rate must be positive numbers");
    }
    let spec = Spec {
        tests: args.tests.clone(),
        test_ms: (args.seconds * 1e3) as u32,
        streams: args.streams,
        udp_rate_bit_s: (args.udp_rate > 0.0).then_some((args.udp_rate * 1e6) as u64),
        udp_payload_bytes: args.udp_payload,
        rr_payload_bytes: args.rr_payload,
        source: args.source,
    };
    let target = resolve(&args.target, args.source)?;
    let report = measure::run(target, &spec)?;
    let path = format!("{} -> {}", report.source, report.target.ip());
    let text = if args.json {
        serde_json::to_string_pretty(&report)?
    } else {
        measure::render([(path.as_str(), &report)])
    };
    print(&text)
}

/// The first address of the target that fits the source's family.
fn resolve(target: &str, source: Option<IpAddr>) -> anyhow::Result<SocketAddr> {
    if let Ok(address) = listen_address(target) {
        return Ok(address);
    }
    let found = match target.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => target.to_socket_addrs(),
        _ => (target, PORT_DEFAULT).to_socket_addrs(),
    };
    let mut found = found.with_context(|| format!("cannot resolve {target}"))?;
    let fits = |a: &SocketAddr| source.is_none_or(|s| s.is_ipv4() == a.is_ipv4());
    found.find(fits).with_context(|| format!("{target} has no address of that family"))
}

/// An address with or without a port.
fn listen_address(text: &str) -> Result<SocketAddr, std::net::AddrParseError> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, PORT_DEFAULT)),
        Err(_) => text.parse(),
    }
}

/// Prints a line; a reader that went away is an error like any other.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_said_once() {
        let cause = std::io::Error::other("no luck");
        assert_eq!(sentence(&anyhow::Error::new(cause).context("it failed")), "it failed: no luck");
        let error =
            watari_node::node::NodeError::System { what: "try", source: std::io::Error::other("no luck") };
        assert_eq!(sentence(&error.into()), "cannot try: no luck");
    }

    #[test]
    fn addresses_get_the_default_port() {
        for text in ["192.0.2.1", "2001:db8::1", "[2001:db8::1]"] {
            assert_eq!(listen_address(text).expect(text).port(), PORT_DEFAULT);
        }
        assert_eq!(listen_address("[2001:db8::1]:5").expect("an address").port(), 5);
        assert!(listen_address("example.net:5").is_err());
    }
}
