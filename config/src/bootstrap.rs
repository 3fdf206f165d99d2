//! The short file a daemon starts from: who it is, where it keeps its state, where it listens.
//! Everything else comes through the API.

use std::net::{IpAddr, SocketAddr};

use crate::names::{Duration, Name};
use crate::read::{Path, Problem, Problems, Read, object, parse_text};

object! {
    /// What `watari run --config FILE` reads.
    pub struct Bootstrap {
        /// The name of this gateway in the documents; also the mark on everything it creates.
        pub gateway: Name,
        /// Folder of the store and of the keys; absolute.
        pub state_dir: String,
        /// Folder of sockets and process files; absolute.
        pub run_dir: String,
        /// The operator API.
        pub api: Api,
        /// Where nodes enrol; absent: this gateway attaches no nodes.
        pub enrol: Option<Enrol>,
        /// The engine of user-space WireGuard; found beside `watari` where absent.
        pub link_binary: Option<String>,
        /// `auto`: kernel WireGuard where the kernel has it, else user space. `user`: always user space.
        pub wireguard_engine: String = "auto".to_owned(),
    }
}

object! {
    /// Where the operator API listens. The Unix socket `run_dir/api.sock` is always there, for root.
    pub struct Api {
        /// Address and port of the API over TCP; only the socket where absent. Loopback, or with `tls`.
        pub listen: Option<SocketAddr>,
        /// An administrator's bearer token without an end, at least 16 characters; for labs. `watari token create` makes
        /// tokens that expire and can be revoked.
        pub token: Option<String>,
        /// How long a token lives where nobody says so.
        pub token_life: Duration = Duration::DAY,
        /// The longest life of a token, counted from when it is made or prolonged.
        pub token_life_max: Duration = Duration::MONTH,
        /// Speak TLS with the gateway's own certificate; its fingerprint is in `watari facts`.
        pub tls: bool = false,
    }
}

object! {
    /// The enrolment listener: TLS, one route, may face the public side.
    pub struct Enrol {
        /// Address and port to listen on.
        pub listen: SocketAddr,
        /// The address and port that nodes are told, where it is another one (behind NAT).
        pub public: Option<SocketAddr>,
    }
}

/// The fewest characters of a bearer token.
pub const TOKEN_CHARS_MIN: usize = 16;

impl Bootstrap {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Every problem with its field.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let tree = parse_text(text)?;
        let mut problems = Problems::default();
        let root = Path::root();
        let Some(read) = Self::read(&tree, &root, &mut problems) else {
            return Err(problems.into_vec());
        };
        for (field, dir) in [("state_dir", &read.state_dir), ("run_dir", &read.run_dir)] {
            if !dir.starts_with('/') {
                problems.add(&root.field(field), "must be an absolute path");
            }
        }
        if !["auto", "user"].contains(&read.wireguard_engine.as_str()) {
            problems.add(&root.field("wireguard_engine"), "must be auto or user");
        }
        read.api.check(&root.field("api"), &mut problems);
        problems.or(read)
    }
}

impl Api {
    fn check(&self, at: &Path, problems: &mut Problems) {
        if self.token.as_ref().is_some_and(|token| token.len() < TOKEN_CHARS_MIN) {
            problems.add(&at.field("token"), format!("must have at least {TOKEN_CHARS_MIN} characters"));
        }
        if self.token_life > self.token_life_max {
            problems.add(&at.field("token_life"), "must be at most token_life_max");
        }
        let plain_and_open = self.listen.is_some_and(|l| !is_loopback(l.ip())) && !self.tls;
        if plain_and_open {
            problems.add(&at.field("tls"), "must be true where listen is not a loopback address");
        }
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.is_loopback()
}
