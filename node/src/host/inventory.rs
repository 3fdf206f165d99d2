//! What the machine is made of and how it does, out of `/proc`, `/sys` and os-release.
//!
//! A GPU is a display or processing device of a maker of GPUs on the PCI bus. Adapters that every
//! server or virtual machine has for its console are not counted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::HostError;
use crate::enrol::{GPUS_MAX, Gpu, Inventory, NodeKind};

const NVIDIA: u32 = 0x10de;
const AMD: u32 = 0x1002;
const INTEL: u32 = 0x8086;
/// PCI class codes (base class and subclass).
const VGA: u32 = 0x0300;
const THREE_D: u32 = 0x0302;
const DISPLAY_OTHER: u32 = 0x0380;
const ACCELERATOR: u32 = 0x1200;

/// Load and free memory of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vitals {
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Runnable tasks averaged over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Processes and threads.
    pub tasks: u64,
    /// Memory available to new programs in bytes.
    pub memory_available_bytes: u64,
}

/// Reads the inventory below `root` (`/` on a real machine).
///
/// # Errors
/// A file that every Linux has cannot be read.
pub fn read(root: &Path) -> Result<Inventory, HostError> {
    let cpus = read_text(root, "proc/stat")?;
    let cpus = cpus.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count();
    Ok(Inventory {
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX).max(1),
        memory_bytes: memory_bytes(root, "MemTotal:")?,
        kernel: read_text(root, "proc/sys/kernel/osrelease")?.trim().to_owned(),
        os: os_name(root),
        gpus: gpus(root),
    })
}

/// Reads load, uptime and memory below `root`.
///
/// # Errors
/// A file that every Linux has cannot be read.
pub fn vitals(root: &Path) -> Result<Vitals, HostError> {
    let uptime = read_text(root, "proc/uptime")?;
    let load = read_text(root, "proc/loadavg")?;
    let fields: Vec<&str> = load.split_whitespace().collect();
    let average = |i: usize| fields.get(i).and_then(|f| f.parse().ok()).unwrap_or(0.0);
    let tasks = fields.get(3).and_then(|f| f.split_once('/')).and_then(|(_, all)| all.parse().ok());
    let uptime_s = uptime.split_whitespace().next().and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    Ok(Vitals {
        uptime_s: uptime_s as u64,
        load: [average(0), average(1), average(2)],
        tasks: tasks.unwrap_or(0),
        memory_available_bytes: memory_bytes(root, "MemAvailable:")?,
    })
}

/// The machine's host name.
///
/// # Errors
/// The kernel does not say.
pub fn hostname(root: &Path) -> Result<String, HostError> {
    Ok(read_text(root, "proc/sys/kernel/hostname")?.trim().to_owned())
}

/// What kind of node such a machine is.
pub fn kind(inventory: &Inventory) -> NodeKind {
    if inventory.gpus.is_empty() { NodeKind::Cpu } else { NodeKind::Gpu }
}

fn read_text(root: &Path, path: &str) -> Result<String, HostError> {
    let path = root.join(path);
    fs::read_to_string(&path).map_err(|source| HostError::Read { path, source })
}

/// A line of `meminfo`, which counts in KiB.
fn memory_bytes(root: &Path, name: &str) -> Result<u64, HostError> {
    let text = read_text(root, "proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")).and_then(|n| n.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| HostError::Read {
        path: root.join("proc/meminfo"),
        source: io::Error::new(io::ErrorKind::InvalidData, format!("no {name}")),
    })
}

fn os_name(root: &Path) -> String {
    let text =
        ["etc/os-release", "usr/lib/os-release"].iter().find_map(|p| fs::read_to_string(root.join(p)).ok());
    let text = text.unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

/// The GPUs on the PCI bus in the order of their addresses.
fn gpus(root: &Path) -> Vec<Gpu> {
    let Ok(devices) = fs::read_dir(root.join("sys/bus/pci/devices")) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = devices.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| gpu(root, path)).take(GPUS_MAX).collect()
}

fn gpu(root: &Path, path: &Path) -> Option<Gpu> {
    let number = |name: &str| {
        let text = fs::read_to_string(path.join(name)).ok()?;
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    let (vendor, device, class) = (number("vendor")?, number("device")?, number("class")? >> 8);
    let is_gpu = match vendor {
        NVIDIA | AMD => matches!(class, VGA | THREE_D | DISPLAY_OTHER | ACCELERATOR),
        // Intel's processors have a VGA adapter for the console; its GPUs are of the other classes.
        INTEL => matches!(class, THREE_D | DISPLAY_OTHER),
        _ => false,
    };
    if !is_gpu {
        return None;
    }
    let pci = path.file_name()?.to_string_lossy().into_owned();
    let model = nvidia_model(root, &pci).unwrap_or_else(|| format!("{vendor:04x}:{device:04x}"));
    let memory = fs::read_to_string(path.join("mem_info_vram_total")).ok();
    Some(Gpu { model, pci, memory_bytes: memory.and_then(|m| m.trim().parse().ok()) })
}

/// The product name, when NVIDIA's driver is loaded.
fn nvidia_model(root: &Path, pci: &str) -> Option<String> {
    let path = root.join("proc/driver/nvidia/gpus").join(pci).join("information");
    let text = fs::read_to_string(path).ok()?;
    let model = text.lines().find_map(|l| l.strip_prefix("Model:"))?;
    Some(model.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        root
    }

    #[test]
    fn this_machine_can_be_read() {
        let inventory = read(Path::new("/")).expect("an inventory");
        assert!(inventory.cpus > 0 && inventory.memory_bytes > 1 << 20 && !inventory.kernel.is_empty());
        let vitals = vitals(Path::new("/")).expect("vitals");
        assert!(vitals.tasks > 0 && vitals.memory_available_bytes > 0);
        assert!(!hostname(Path::new("/")).expect("a name").is_empty());
    }

    #[test]
    fn gpus_are_told_from_console_adapters() {
        let root = tree(&[
            ("proc/stat", "cpu  1 2\ncpu0 1 2\ncpu1 1 2\nintr 5\n"),
            ("proc/meminfo", "MemTotal:       2048 kB\nMemAvailable:   1024 kB\n"),
            ("proc/sys/kernel/osrelease", "6.12.1\n"),
            ("etc/os-release", "NAME=x\nPRETTY_NAME=\"Some OS 1\"\n"),
            ("sys/bus/pci/devices/0000:17:00.0/vendor", "0x10de\n"),
            ("sys/bus/pci/devices/0000:17:00.0/device", "0x2330\n"),
            ("sys/bus/pci/devices/0000:17:00.0/class", "0x030200\n"),
            ("proc/driver/nvidia/gpus/0000:17:00.0/information", "Model: \t\t NVIDIA H100\nIRQ: 1\n"),
            ("sys/bus/pci/devices/0000:03:00.0/vendor", "0x1002\n"),
            ("sys/bus/pci/devices/0000:03:00.0/device", "0x74a1\n"),
            ("sys/bus/pci/devices/0000:03:00.0/class", "0x120000\n"),
            ("sys/bus/pci/devices/0000:03:00.0/mem_info_vram_total", "206141652992\n"),
            ("sys/bus/pci/devices/0000:00:02.0/vendor", "0x8086\n"),
            ("sys/bus/pci/devices/0000:00:02.0/device", "0x46a6\n"),
            ("sys/bus/pci/devices/0000:00:02.0/class", "0x030000\n"),
            ("sys/bus/pci/devices/0000:00:03.0/vendor", "0x1234\n"),
            ("sys/bus/pci/devices/0000:00:03.0/device", "0x1111\n"),
            ("sys/bus/pci/devices/0000:00:03.0/class", "0x030000\n"),
        ]);
        let inventory = read(root.path()).expect("an inventory");
        assert_eq!(
            (inventory.cpus, inventory.memory_bytes, inventory.os.as_str()),
            (2, 2 << 20, "Some OS 1")
        );
        let amd = Gpu {
            model: "1002:74a1".into(),
            pci: "0000:03:00.0".into(),
            memory_bytes: Some(206_141_652_992),
        };
        let nvidia = Gpu { model: "NVIDIA H100".into(), pci: "0000:17:00.0".into(), memory_bytes: None };
        assert_eq!(inventory.gpus, [amd, nvidia]);
        assert_eq!(kind(&inventory), NodeKind::Gpu);
    }
}
