//! Namespaces, topologies, peers: what integration and interop tests, the demo and the benchmarks are
//! made of.
//!
//! Every machine of a drawing is a network namespace ([`Ns`]); a gateway or a node is a namespace with a
//! mount namespace of its own ([`Ns::machine`]), so that two of them on one test machine see neither each
//! other's `/run/netns` nor each other's `/sys/fs/bpf`: as two VMs would not. Whatever is made here goes
//! away with the value that made it, after a panic, after SIGINT and SIGTERM too; what a killed run left
//! behind is swept by the next one.
//!
//! ```text
//! ns      namespaces, processes in them, cleaning          topology  the two sites and the cloud
//! links   veth, bridges, addresses, sysctls, offloads      gateway   the real `watari` in a namespace
//! tap     a wire that a program carries
//! wait    waiting for a state, with a limit                tagged    hosts that speak 802.1Q
//! flow    sequence-numbered traffic, loss and gaps         bird, frr campus routers
//! echo    request/response over TCP and UDP                campus    either as site A's router
//! ping, iperf, blast                                       packet    raw frames in and out
//! announcer  EVPN routes in bulk                            gobgp, exabgp  BGP neighbours of other kinds
//! ovs     Open vSwitch in user space                        http      the gateway's API
//! world   the topology with both gateways running, and what a test asks of them
//! ```
//!
//! All of it needs root and says so by failing.

pub mod announcer;
pub mod bgp;
pub mod bird;
pub mod blast;
pub mod campus;
pub mod echo;
pub mod exabgp;
pub mod flow;
pub mod frr;
pub mod gateway;
pub mod gobgp;
pub mod http;
pub mod iperf;
pub mod links;
pub mod ns;
pub mod ovs;
pub mod packet;
pub mod ping;
pub mod process;
pub mod registry;
pub mod tagged;
pub mod tap;
pub mod topology;
pub mod wait;
pub mod world;

pub use gateway::Gateway;
pub use ns::Ns;
pub use process::Process;
pub use wait::wait_until;
pub use world::World;
