//! What a measurement found. Units are in the names; rates count payload only.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The result of one [`super::run`]. A test that was not asked for is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The initiator's address.
    pub source: IpAddr,
    /// The responder.
    pub target: SocketAddr,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// How long it took in all, in milliseconds.
    pub took_ms: u64,
    /// TCP throughput from source to target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpThroughput>,
    /// TCP throughput from target to source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_reverse: Option<TcpThroughput>,
    /// UDP throughput from source to target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<UdpThroughput>,
    /// UDP throughput from target to source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_reverse: Option<UdpThroughput>,
    /// Request and answer over TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rr_tcp: Option<RequestResponse>,
    /// Request and answer over UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rr_udp: Option<RequestResponse>,
}

/// TCP throughput as the receiver saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TcpThroughput {
    /// Parallel streams.
    pub streams: u8,
    /// Payload received over all streams, in bytes.
    pub bytes: u64,
    /// From the receiver's first byte to its last, in milliseconds.
    pub took_ms: u64,
    /// Payload rate in bit/s.
    pub bit_s: u64,
    /// Segments that the sender sent again, over all streams.
    pub retransmits: u64,
}

/// UDP throughput as the receiver saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UdpThroughput {
    /// Payload of each packet in bytes.
    pub payload_bytes: u16,
    /// Packets that the sender's socket took.
    pub sent_packets: u64,
    /// Different packets that arrived.
    pub received_packets: u64,
    /// Packets sent that never arrived.
    pub lost_packets: u64,
    /// `lost_packets` of `sent_packets` in percent.
    pub lost_percent: f64,
    /// Packets that arrived after one that was sent later.
    pub reordered_packets: u64,
    /// Packets that arrived more than once.
    pub duplicate_packets: u64,
    /// Interarrival jitter (RFC 3550 §6.4.1) in microseconds.
    pub jitter_us: f64,
    /// From the receiver's first packet to its last, in milliseconds.
    pub took_ms: u64,
    /// Payload rate received in bit/s.
    pub bit_s: u64,
    /// Packets received per second.
    pub packets_s: u64,
}

/// Requests answered one after the other, and how long each took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestResponse {
    /// Size of request and answer in bytes.
    pub payload_bytes: u16,
    /// Requests answered.
    pub transactions: u64,
    /// Requests never answered (UDP only).
    pub lost: u64,
    /// Answers per second.
    pub transactions_s: f64,
    /// Shortest round trip in microseconds.
    pub min_us: f64,
    /// Median round trip in microseconds.
    pub p50_us: f64,
    /// 90th percentile in microseconds.
    pub p90_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// Longest round trip in microseconds.
    pub max_us: f64,
}
