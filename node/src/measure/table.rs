//! Reports for people: a plain text table, one line per test.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use super::report::{Report, RequestResponse, TcpThroughput, UdpThroughput};

const HEADER: [&str; 8] = ["path", "test", "rate", "lost", "p50", "p90", "p99", "more"];

/// Renders reports as a table; each comes with the name of its path (such as `A → B`).
pub fn render<'a>(reports: impl IntoIterator<Item = (&'a str, &'a Report)>) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(HEADER);
    for column in 2..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (path, report) in reports {
        for row in rows(path, report) {
            table.add_row(row);
        }
    }
    table.to_string()
}

fn rows(path: &str, report: &Report) -> Vec<[String; 8]> {
    let tcp = [("tcp", &report.tcp), ("tcp-reverse", &report.tcp_reverse)];
    let udp = [("udp", &report.udp), ("udp-reverse", &report.udp_reverse)];
    let rr = [("rr-tcp", &report.rr_tcp), ("rr-udp", &report.rr_udp)];
    let mut rows = Vec::new();
    rows.extend(tcp.iter().filter_map(|(test, r)| r.as_ref().map(|r| tcp_row(path, test, r))));
    rows.extend(udp.iter().filter_map(|(test, r)| r.as_ref().map(|r| udp_row(path, test, r))));
    rows.extend(rr.iter().filter_map(|(test, r)| r.as_ref().map(|r| rr_row(path, test, r))));
    rows
}

fn tcp_row(path: &str, test: &str, r: &TcpThroughput) -> [String; 8] {
    let more = format!("{} streams, {} retransmits", r.streams, r.retransmits);
    row(path, test, [bit_rate(r.bit_s), String::new()], [None; 3], more)
}

fn udp_row(path: &str, test: &str, r: &UdpThroughput) -> [String; 8] {
    let more = format!(
        "{} packets/s of {} B, jitter {}, {} reordered, {} twice",
        r.packets_s,
        r.payload_bytes,
        micros(r.jitter_us),
        r.reordered_packets,
        r.duplicate_packets
    );
    let lost = format!("{} ({:.2} %)", r.lost_packets, r.lost_percent);
    row(path, test, [bit_rate(r.bit_s), lost], [None; 3], more)
}

fn rr_row(path: &str, test: &str, r: &RequestResponse) -> [String; 8] {
    let times = [Some(r.p50_us), Some(r.p90_us), Some(r.p99_us)];
    let more = format!("{} B, max {}", r.payload_bytes, micros(r.max_us));
    row(path, test, [format!("{:.0} /s", r.transactions_s), r.lost.to_string()], times, more)
}

fn row(path: &str, test: &str, figures: [String; 2], times: [Option<f64>; 3], more: String) -> [String; 8] {
    let [rate, lost] = figures;
    let [p50, p90, p99] = times.map(|t| t.map(micros).unwrap_or_default());
    [path.to_owned(), test.to_owned(), rate, lost, p50, p90, p99, more]
}

/// A rate with a prefix that keeps it short: `9.41 Gbit/s`.
fn bit_rate(bit_s: u64) -> String {
    let value = bit_s as f64;
    match bit_s {
        0..1_000 => format!("{bit_s} bit/s"),
        1_000..1_000_000 => format!("{:.1} kbit/s", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} Mbit/s", value / 1e6),
        _ => format!("{:.2} Gbit/s", value / 1e9),
    }
}

/// A time with a prefix that keeps it short: `83 us`, `1.52 ms`.
fn micros(us: f64) -> String {
    if us < 1_000.0 { format!("{us:.0} us") } else { format!("{:.2} ms", us / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_carry_their_units() {
        assert_eq!(bit_rate(999), "999 bit/s");
        assert_eq!(bit_rate(941_000_000), "941.0 Mbit/s");
        assert_eq!(bit_rate(9_412_000_000), "9.41 Gbit/s");
        assert_eq!(micros(83.4), "83 us");
        assert_eq!(micros(1_520.0), "1.52 ms");
    }
}
