//! A network namespace that goes with the value.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::{
    fs::File,
    process::Command,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

/// A named namespace; removed with everything in it on drop.
pub struct Netns(pub String);

impl Netns {
    pub fn new(name: &str) -> Self {
        let name = format!("wtebpf-{name}-{}", std::process::id());
        ip(&format!("netns add {name}"));
        let netns = Self(name);
        netns.ip("link set lo up");
        netns
    }

    /// `ip` inside.
    pub fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.0));
    }

    /// A command inside, that must succeed; returns its output.
    pub fn run(&self, command: &str) -> String {
        let (ok, output) = self.try_run(command);
        assert!(ok, "{command}: {output}");
        output
    }

    pub fn try_run(&self, command: &str) -> (bool, String) {
        let output = self.command(command).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub fn command(&self, command: &str) -> Command {
        let mut words = command.split_whitespace();
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.0, words.next().unwrap()]).args(words);
        inside
    }

    /// Runs `work` on a thread inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn index_of(&self, device: &str) -> u32 {
        self.enter(|| nix::net::if_::if_nametoindex(device).unwrap())
    }

    pub fn mac_of(&self, device: &str) -> [u8; 6] {
        let text = self.run(&format!("cat /sys/class/net/{device}/address"));
        let bytes: Vec<u8> =
            text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A veth pair: one end in each namespace, both up.
pub fn veth(one: (&Netns, &str), other: (&Netns, &str)) {
    let ((a, a_name), (b, b_name)) = (one, other);
    a.ip(&format!("link add {a_name} type veth peer name {b_name} netns {}", b.0));
    a.ip(&format!("link set dev {a_name} up"));
    b.ip(&format!("link set dev {b_name} up"));
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until `condition` holds, ten seconds at most.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < limit, "{what}: not within 10 s");
        std::thread::yield_now();
    }
}
