//! The command line: `run` and `cleanup` are the daemon, everything else speaks its API.
//!
//! Tables for people, `--json` for programs. Exit status 0: done; 1: refused or failed, with every reason on
//! standard error; 2: the command line itself is wrong.

mod audit;
mod bgp;
mod changes;
pub mod client;
mod commands;
mod doctor;
mod explain;
mod fields;
mod files;
mod nodes;
mod table;
mod tokens;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Watari: an inter-cloud virtual router.
#[derive(Debug, Parser)]
#[command(name = "watari", version, about)]
struct Cli {
    #[command(flatten)]
    to: To,
    #[command(subcommand)]
    command: Command,
}

/// Which gateway, and how the answer is printed.
#[derive(Debug, Args)]
struct To {
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// The Unix socket of the gateway on this machine.
    #[arg(
        long,
        global = true,
        env = "WATARI_SOCKET",
        default_value = "/run/watari/api.sock",
        value_name = "PATH"
    )]
    socket: PathBuf,
    /// A gateway over TCP instead: http://HOST:PORT or https://HOST:PORT.
    #[arg(long, global = true, env = "WATARI_URL")]
    url: Option<String>,
    /// Bearer token.
    #[arg(long, global = true, env = "WATARI_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File whose first line is the bearer token.
    #[arg(long, global = true, conflicts_with = "token", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Fingerprint of the gateway's certificate, as `watari facts` shows it.
    #[arg(long, global = true, env = "WATARI_PIN", value_name = "sha256:…")]
    pin: Option<String>,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Run {
        /// The bootstrap file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print the plan for the stored document, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// How logs are written to standard error; RUST_LOG says how much.
        #[arg(long, value_enum, default_value = "text")]
        log_format: LogFormat,
    },
    /// Remove everything that this gateway made in the kernel; the daemon must not run. The store stays.
    Cleanup {
        /// The bootstrap file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the documentation of a kind of object or of a field; needs no gateway.
    #[command(after_help = fields::EXAMPLES)]
    Explain {
        /// E.g. segment, segment.mtu, tunnel.wireguard.endpoints.
        field: Option<String>,
    },
    /// Print the description of the API (OpenAPI 3.1); needs no gateway.
    Openapi,
    /// Check a document without any gateway.
    Validate {
        /// The document, YAML or JSON; - for standard input.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Create or replace the objects of documents, all or none.
    #[command(after_help = changes::APPLY_EXAMPLES)]
    Apply {
        /// The document, YAML (one or several, separated by ---) or JSON; - for standard input; of a folder all files that end
        /// in .yaml, .yml or .json. May be given several times.
        #[arg(short, long, value_name = "PATH", required = true)]
        file: Vec<PathBuf>,
        /// Remove the objects that are not in them.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        how: changes::How,
    },
    /// Keep the change that is on trial.
    Confirm {
        /// Its revision: refused when another one is on trial.
        revision: Option<u64>,
    },
    /// Show the change that is on trial, and until when.
    Trial,
    /// Undo what is on trial, or go back to an earlier revision.
    #[command(after_help = changes::ROLLBACK_EXAMPLES)]
    Rollback {
        /// The revision; without it what is on trial is undone, or the newest change.
        revision: Option<u64>,
        #[command(flatten)]
        how: changes::How,
    },
    /// Show what differs between two revisions, or between the gateway and documents.
    #[command(after_help = changes::DIFF_EXAMPLES)]
    Diff(changes::Compared),
    /// Print the document so that it can be applied elsewhere: without nodes.
    Export,
    /// Change an object in the editor ($VISUAL, $EDITOR).
    Edit {
        /// The kind, e.g. segments.
        kind: String,
        /// The object.
        name: String,
        #[command(flatten)]
        how: changes::How,
    },
    /// Wait until an object is up; without one, everything at this gateway.
    Wait {
        /// The object, e.g. tunnels.ab.
        object: Option<String>,
        /// What is waited for.
        #[arg(long = "for", value_parser = ["ready"], default_value = "ready", value_name = "STATE")]
        state: String,
        /// How long at most.
        #[arg(long, default_value = "60s", value_name = "DURATION")]
        limit: watari_config::names::Duration,
    },
    /// Show the document, the objects of a kind, or one object.
    Get {
        /// The kind, e.g. segments.
        kind: Option<String>,
        /// The object.
        name: Option<String>,
    },
    /// Remove an object.
    Delete {
        /// The kind, e.g. segments.
        kind: String,
        /// The object.
        name: String,
        #[command(flatten)]
        how: changes::How,
    },
    /// Show what is still to be done.
    Plan,
    /// Show the state of each object.
    Status,
    /// Show the gateway's own facts: keys, kernel, MACs, routes, BGP.
    Facts,
    /// List the MAC and IP addresses that move too often and are frozen, or clear one.
    Duplicates {
        #[command(subcommand)]
        action: Option<Duplicates>,
    },
    /// Show what happened.
    Events {
        /// Go on with what happens.
        #[arg(short, long)]
        follow: bool,
        /// Only events with a higher number.
        #[arg(long, default_value = "0")]
        after: u64,
    },
    /// List the revisions, or show what one changed.
    Revisions {
        /// The revision.
        revision: Option<u64>,
        /// Show the differences from this revision instead of the one before.
        #[arg(long, requires = "revision")]
        against: Option<u64>,
    },
    /// Show who did what, from where and when, and what was refused.
    #[command(after_help = audit::EXAMPLES)]
    Audit {
        #[command(subcommand)]
        action: Option<audit::AuditAction>,
    },
    /// Make, list, rotate, prolong and revoke tokens.
    #[command(after_help = tokens::EXAMPLES)]
    Token {
        #[command(subcommand)]
        action: tokens::TokenAction,
    },
    /// Attach a node: prints the command that joins it.
    Attach(Attach),
    /// Detach a node.
    Detach {
        /// The node.
        name: String,
    },
    /// List the nodes of this gateway.
    Nodes,
    /// Show the receipt of a node: each stage with its time, and every probe.
    Receipt {
        /// The node.
        name: String,
    },
    /// Let a node live longer.
    Renew {
        /// The node.
        name: String,
        /// How long from now on, e.g. 12h.
        #[arg(long, value_name = "DURATION")]
        lease: String,
    },
    /// Measure between two of site, gateway and node.
    Measure(Measure),
    /// Send a packet through the datapath without sending it, and say what happens to it and why.
    #[command(after_help = TRACE_EXAMPLES)]
    Trace(Box<Trace>),
    /// Show dropped packets with the reason, and a sample of the others.
    #[command(after_help = MONITOR_EXAMPLES)]
    Monitor(Monitor),
    /// Show BGP neighbours and routes, and why a path won; let a neighbour begin anew.
    Bgp {
        #[command(subcommand)]
        what: Bgp,
    },
    /// Examine the paths of the tunnels.
    Doctor {
        #[command(subcommand)]
        what: Doctor,
    },
    /// Say why one host does not reach another: what both gateways know, and a trace at both ends.
    #[command(after_help = WHY_EXAMPLES)]
    Why {
        /// Who sends: an IP or MAC address.
        from: String,
        /// Who does not hear it: an IP or MAC address.
        to: String,
    },
    /// Capture the frames of an attachment, as pcapng.
    #[command(after_help = CAPTURE_EXAMPLES)]
    Capture(Capture),
}

/// What is shown or done of BGP.
#[derive(Debug, Subcommand)]
enum Bgp {
    /// All neighbours: state, and how many routes they told, were told, and were refused.
    Summary,
    /// One neighbour: what was negotiated, why it went down, or its routes.
    Neighbour {
        /// The peer's name in the document, `NAME@ADDRESS` for one that came from its prefix; of another gateway
        /// `gateways.NAME`.
        name: String,
        #[command(flatten)]
        part: Shown,
    },
    /// Let a neighbour begin anew: its session, or only its routes.
    Reset {
        /// The peer's name in the document, `NAME@ADDRESS` for one that came from its prefix; of another gateway
        /// `gateways.NAME`.
        name: String,
        /// Keep the session: `in` asks the neighbour for its routes again, `out` tells it all of ours.
        #[arg(long, value_name = "in|out", value_parser = ["in", "out"])]
        soft: Option<String>,
    },
    /// Best paths of a table.
    Table {
        /// ipv4-unicast, ipv6-unicast or l2vpn-evpn.
        family: Option<String>,
        /// Whose routes; may be absent where there is one tenant only.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        #[command(flatten)]
        page: PageArgs,
    },
    /// All paths of a prefix, which one won, and at which step of the decision each of the others lost.
    Prefix {
        /// The prefix, e.g. 192.0.2.0/24.
        prefix: String,
        /// Whose route; may be absent where there is one tenant only.
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
    },
}

/// Which routes of a neighbour.
#[derive(Debug, Args)]
struct Shown {
    /// Routes that it told, with the reason where they are not used.
    #[arg(long, conflicts_with = "advertised")]
    received: bool,
    /// Of these, only what is rejected.
    #[arg(long, conflicts_with = "advertised")]
    rejected: bool,
    /// Routes that it was told.
    #[arg(long)]
    advertised: bool,
    /// Of this family: ipv4-unicast, ipv6-unicast or l2vpn-evpn.
    #[arg(long)]
    family: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

/// Which part of a long list.
#[derive(Debug, Args)]
struct PageArgs {
    /// Go on after this route.
    #[arg(long, value_name = "ROUTE")]
    after: Option<String>,
    /// At most so many routes, 1000 at most.
    #[arg(long, default_value = "100")]
    limit: u32,
}

impl PageArgs {
    fn query(&self) -> Vec<String> {
        let after = self.after.as_ref().map(|after| format!("after={}", crate::percent::escaped(after)));
        std::iter::once(format!("limit={}", self.limit)).chain(after).collect()
    }
}

/// What is examined.
#[derive(Debug, Subcommand)]
enum Doctor {
    /// How large a packet crosses, hop by hop and in both directions, what limits it, and what could be done.
    Mtu {
        /// The tunnel; all of this gateway where it is absent.
        tunnel: Option<String>,
    },
}

/// What is done with a duplicate.
#[derive(Debug, Subcommand)]
enum Duplicates {
    /// End the freeze of one, and forget its moves.
    Clear {
        /// The VNI of its segment.
        vni: u32,
        /// The MAC or IP address.
        address: String,
    },
}

#[derive(Debug, Args)]
struct Attach {
    /// The node's name; the gateway makes one where it is absent.
    #[arg(long)]
    name: Option<String>,
    /// The segment it shall be in; may be absent where the gateway has one only.
    #[arg(long)]
    segment: Option<String>,
    /// gpu or cpu.
    #[arg(long, default_value = "cpu")]
    kind: String,
    /// How long it may live, e.g. 12h.
    #[arg(long, default_value = "24h", value_name = "DURATION")]
    lease: String,
    /// Write the cloud-init user data to this file.
    #[arg(long, value_name = "FILE")]
    cloud_init: Option<PathBuf>,
    /// Wait until the node is ready, and show its receipt.
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    wait: u32,
}

const TRACE_EXAMPLES: &str = "\
Examples:
  watari trace --attachment a-lan --src-mac 02:00:00:00:00:0a --src 10.0.0.10 --dst 10.0.0.18 --protocol ask
  watari trace --attachment a-lan --src-mac 02:00:00:00:00:0a --dst-mac 02:00:00:00:00:12 --src 10.0.0.10 \\
      --dst 10.0.0.18 --protocol tcp --dst-port 443
  watari trace --device eth1 --vlan 100 --pcap lost.pcapng
  watari trace --from-gateway gw-b --segment flat --hex 02000000000a…";
const MONITOR_EXAMPLES: &str = "\
Examples:
  watari monitor                             drops of the next minute
  watari monitor --segment flat --flows 100  and one of 100 frames that come in";
const WHY_EXAMPLES: &str = "\
Examples:
  watari why 10.0.0.11 10.0.0.12
  watari why 02:00:00:00:00:0a 10.0.0.12   ask at the gateway of the first host";
const CAPTURE_EXAMPLES: &str = "\
Examples:
  watari capture a-lan --write lan.pcapng --seconds 10
  watari capture a-lan | tcpdump -nr -";

#[derive(Debug, Args)]
struct Trace {
    /// It comes in by this attachment …
    #[arg(long, value_name = "NAME")]
    attachment: Option<String>,
    /// … or by this device …
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// … with this VLAN id …
    #[arg(long, value_name = "VID", requires = "device")]
    vlan: Option<u16>,
    /// … or out of VXLAN from this gateway …
    #[arg(long, value_name = "NAME", requires = "segment")]
    from_gateway: Option<String>,
    /// … in this segment.
    #[arg(long, value_name = "NAME")]
    segment: Option<String>,
    /// Source MAC.
    #[arg(long, value_name = "MAC")]
    src_mac: Option<String>,
    /// Destination MAC; a question goes to its group where it is absent.
    #[arg(long, value_name = "MAC")]
    dst_mac: Option<String>,
    /// Source address.
    #[arg(long, value_name = "ADDRESS")]
    src: Option<String>,
    /// Destination address; of a question the address that is asked for.
    #[arg(long, value_name = "ADDRESS")]
    dst: Option<String>,
    /// icmp (echo request), tcp (SYN), udp, or ask (ARP or neighbour solicitation).
    #[arg(long, default_value = "icmp")]
    protocol: String,
    /// Source port.
    #[arg(long)]
    src_port: Option<u16>,
    /// Destination port.
    #[arg(long)]
    dst_port: Option<u16>,
    /// Hop limit.
    #[arg(long)]
    ttl: Option<u8>,
    /// Bytes of the IP packet.
    #[arg(long)]
    size: Option<u16>,
    /// It must not be fragmented.
    #[arg(long)]
    dont_fragment: bool,
    /// The frame in hexadecimal, without tags, instead of fields.
    #[arg(long, conflicts_with_all = ["src_mac", "pcap"])]
    hex: Option<String>,
    /// The frames of a capture file, without tags, instead of fields.
    #[arg(long, value_name = "FILE", conflicts_with = "src_mac")]
    pcap: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Monitor {
    /// Show also one of so many frames that come in.
    #[arg(long, value_name = "N", default_value = "0")]
    flows: u32,
    /// Only this segment.
    #[arg(long, value_name = "NAME")]
    segment: Option<String>,
    /// End after so many seconds.
    #[arg(long, default_value = "60")]
    seconds: u32,
    /// End after so many frames.
    #[arg(long, default_value = "1000")]
    count: u32,
}

#[derive(Debug, Args)]
struct Capture {
    /// The attachment; all ports of the gateway where it is absent.
    attachment: Option<String>,
    /// The file; standard output where it is absent.
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// End after so many seconds.
    #[arg(long, default_value = "60")]
    seconds: u32,
    /// End after so many frames.
    #[arg(long, default_value = "1000")]
    packets: u32,
    /// Bytes of each frame.
    #[arg(long, default_value = "1536")]
    snap: u32,
}

#[derive(Debug, Args)]
struct Measure {
    /// From where: site:NAME, gateway:NAME, node:NAME, or a name that only one of them has.
    from: String,
    /// To where.
    to: String,
    /// Seconds of each test.
    #[arg(long, default_value = "1", value_name = "SECONDS")]
    seconds: u32,
    /// Parallel TCP streams.
    #[arg(long, default_value = "4")]
    streams: u8,
    /// Tests: tcp, tcp-reverse, udp, udp-reverse, rr-tcp, rr-udp.
    #[arg(long, value_name = "TEST,…", value_delimiter = ',')]
    tests: Vec<String>,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let level =
        if matches!(cli.command, Command::Run { .. } | Command::Cleanup { .. }) { "info" } else { "warn" };
    let format = match cli.command {
        Command::Run { log_format, .. } => log_format,
        _ => LogFormat::Text,
    };
    log_to_stderr(level, format);
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("watari: {error}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(level: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => logs.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
