//! `wt-hostvlan INTERFACE VID`: makes a host's device speak one VLAN, on kernels without 802.1Q.
//! `wt-hostvlan INTERFACE off` undoes it. Acts on the network namespace that it runs in.

use std::{error::Error as _, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, vid] = arguments.as_slice() else {
        eprintln!("usage: wt-hostvlan INTERFACE VID|off");
        return ExitCode::from(2);
    };
    let done = match vid.parse::<u16>() {
        Ok(vid @ 1..=4094) => watari_dataplane::attach_host_vlan(interface, vid),
        _ if vid == "off" => watari_dataplane::detach_host_vlan(interface),
        _ => {
            eprintln!("wt-hostvlan: {vid} is no VLAN id (1 to 4094)");
            return ExitCode::from(2);
        }
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    eprint!("wt-hostvlan: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::FAILURE
}
