//! How fast one speaker works, without sockets: pre-encoded UPDATEs in, counted octets out. For profiles;
//! `script/bench bgp` measures the daemon.
//!
//! `cargo run --release -p watari-bgp --example table -- FEEDERS RECEIVERS PREFIXES [ROUNDS]`

use std::time::Instant as Clock;

use watari_bgp::speaker::{Speaker, SpeakerConfig};
use watari_bgp::wire::{Capability, EncodeContext, Open, encode_announce, encode_keepalive, encode_withdraw};
use watari_bgp::{
    AsPath, Asn, Community, ConnId, Family, Input, InstanceId, Instant, NextHop, Nlri, Output,
    PathAttributes, PeerConfig, PeerId, Policy, RouterId,
};

const SET: u32 = 15;
const READ: usize = 64 * 1024;

struct Bench {
    speaker: Speaker,
    started: Clock,
    /// Octets and pieces sent.
    sent: (usize, usize),
}

impl Bench {
    fn now(&self) -> Instant {
        Instant::from_millis(self.started.elapsed().as_millis() as u64)
    }

    fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            if let Output::Send(peer, conn, octets) = output {
                self.sent.0 += octets.len();
                self.sent.1 += 1;
                let written = Input::Written(peer, conn, octets.len());
                let outputs = self.speaker.push(written, self.now());
                self.perform(outputs);
            }
        }
    }

    fn push(&mut self, input: Input) {
        let outputs = self.speaker.push(input, self.now());
        self.perform(outputs);
    }

    fn settle(&mut self) {
        let outputs = self.speaker.settle(self.now());
        self.perform(outputs);
    }

    fn establish(&mut self, n: u32) {
        let (peer, conn, asn) = (PeerId(n), ConnId(u64::from(n)), Asn(64_600 + n));
        let ends = (([10, 99, 0, 1].into(), Asn(65_000)), ([10, 99, 1, n as u8 + 1].into(), asn));
        let mut config = PeerConfig::new(InstanceId(0), ends.0, ends.1);
        config.families = vec![Family::Ipv4Unicast];
        config.policy = Policy::accept_all();
        config.passive = true;
        self.push(Input::AddPeer(peer, Box::new(config)));
        self.push(Input::TcpAccepted(peer, conn));
        let open = Open {
            asn,
            hold_time_s: 0,
            router_id: RouterId([10, 99, 1, n as u8 + 1].into()),
            capabilities: vec![Capability::MultiProtocol(1, 1), Capability::FourOctetAs(asn)],
        };
        self.push(Input::Bytes(peer, conn, open.encode()));
        self.push(Input::Bytes(peer, conn, encode_keepalive()));
    }

    /// All streams side by side, as they would arrive.
    fn feed(&mut self, what: &str, streams: &[Vec<u8>]) {
        let (start, cpu, before) = (Clock::now(), cpu_s(), self.sent);
        let longest = streams.iter().map(Vec::len).max().unwrap_or(0);
        for at in (0..longest).step_by(READ) {
            for (n, stream) in streams.iter().enumerate() {
                if let Some(rest) = stream.get(at..) {
                    let octets = rest[..rest.len().min(READ)].to_vec();
                    self.push(Input::Bytes(PeerId(n as u32), ConnId(n as u64), octets));
                }
            }
        }
        self.settle();
        let rows = self.speaker.peers().iter().map(|p| p.advertised).sum::<usize>();
        println!(
            "{what}: {:.3} s, {:.3} CPU-s, {} octets in {} pieces, {rows} routes advertised, peak {} MB",
            start.elapsed().as_secs_f64(),
            cpu_s() - cpu,
            self.sent.0 - before.0,
            self.sent.1 - before.1,
            peak_mb()
        );
    }
}

fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn peak_mb() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line =
        |name| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or("").to_owned();
    format!("{} now {}", line("VmHWM:"), line("VmRSS:"))
}

fn members(set: u32, prefixes: u32) -> Vec<Nlri> {
    let prefix = |n: u32| {
        let place = n.wrapping_mul(0x9e37_79b1) % (1 << 20);
        ipnet::IpNet::V4(ipnet::Ipv4Net::new_assert((0x1000_0000 + (place << 8)).into(), 24)).into()
    };
    (set * SET..((set + 1) * SET).min(prefixes)).map(prefix).collect()
}

fn announced(feeder: u32, feeders: u32, prefixes: u32) -> Vec<u8> {
    let context = EncodeContext { four_octet_as: true, message_limit: 4_096 };
    let sets = 0..prefixes.div_ceil(SET);
    let messages = sets.flat_map(|set| {
        let detour = if set % feeders == feeder { 0 } else { 1 + (feeder + set) % 3 };
        let path = [64_600 + feeder, 3_000 + set % 211].into_iter().chain((0..detour).map(|h| 7_000 + h));
        let attrs = PathAttributes {
            as_path: AsPath::sequence(path.chain([100_000 + set]).map(Asn)),
            next_hop: Some(NextHop::V4([10, 99, 1, feeder as u8 + 1].into())),
            communities: vec![Community(3_000 << 16 | 100), Community(3_000 << 16 | (set & 0xffff))],
            ..PathAttributes::default()
        };
        encode_announce(Family::Ipv4Unicast, &attrs, &members(set, prefixes), &context).unwrap_or_default()
    });
    messages.flatten().collect()
}

fn main() {
    let number = |n: usize, or: u32| std::env::args().nth(n).and_then(|w| w.parse().ok()).unwrap_or(or);
    let (feeders, receivers, prefixes) = (number(1, 1), number(2, 1), number(3, 1_000_000));
    let context = EncodeContext { four_octet_as: true, message_limit: 4_096 };
    let streams: Vec<Vec<u8>> = (0..feeders).map(|n| announced(n, feeders, prefixes)).collect();
    let gone = (0..prefixes.div_ceil(SET))
        .flat_map(|set| encode_withdraw(Family::Ipv4Unicast, &members(set, prefixes), &context));
    let gone = vec![gone.flatten().collect::<Vec<u8>>(); feeders as usize];
    let config = SpeakerConfig { router_id: RouterId([10, 99, 0, 1].into()), seed: 5 };
    let mut bench = Bench { speaker: Speaker::new(config), started: Clock::now(), sent: (0, 0) };
    bench.speaker.handle(Input::Report { instance: InstanceId(0), report: false }, Instant::ZERO);
    (0..feeders + receivers).for_each(|n| bench.establish(n));
    bench.settle();
    println!("before: {}", peak_mb());
    for _ in 0..number(4, 1) {
        bench.feed("announce", &streams);
        bench.feed("withdraw", &gone);
    }
}
