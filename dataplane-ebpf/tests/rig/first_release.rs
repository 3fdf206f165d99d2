//! The datapath as the first release left it: its programs (`fixtures/first-release.bpf.o.gz`, without debug
//! information), its maps, links and pins, where VTEPs had four bytes.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, HashMap, Map, MapData, ProgramArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{LinkOrder, SchedClassifier, TcAttachType, links::FdLink, tc::TcAttachOptions},
};
use watari_dataplane::abi::layout::FIRST_RELEASE;

const OBJECT: &[u8] = include_bytes!("../fixtures/first-release.bpf.o.gz");
const STAGES: [&str; 5] = ["st_classify", "st_answer", "st_flood", "st_route", "st_cross"];
const HOOKS: [&str; 9] = ["trunk", "iface", "core", "cross", "node", "tunl", "uplnk", "vxlan", "entry"];
const MAPS: [&str; 24] = [
    "layout",
    "config",
    "ports",
    "segments",
    "tenants",
    "nodes",
    "vteps",
    "mac_static",
    "mac_local",
    "mac_remote",
    "nb_static",
    "nb_local",
    "nb_remote",
    "routes4",
    "routes6",
    "flood_ports",
    "flood_vteps",
    "buckets",
    "port_stats",
    "drops",
    "counters",
    "events",
    "scratch",
    "pipeline",
];

/// What is pinned in a folder.
pub struct FirstRelease {
    folder: PathBuf,
}

impl FirstRelease {
    /// Loads and pins it.
    pub fn load(folder: &Path) -> Self {
        watari_dataplane::ensure_bpffs(folder).unwrap();
        std::fs::create_dir_all(folder).unwrap();
        let bytes = unpacked();
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, folder.join(format!("wtm-{name}")));
        }
        let mut object = loader.load(&bytes).unwrap();
        for name in STAGES.iter().chain(&HOOKS) {
            let program = program(&mut object, name);
            program.load().unwrap();
            program.pin(folder.join(format!("wtp-{name}"))).unwrap();
        }
        let mut pipeline = ProgramArray::try_from(object.take_map("pipeline").unwrap()).unwrap();
        for (index, name) in (0..).zip(STAGES) {
            pipeline.set(index, program(&mut object, name).fd().unwrap(), 0).unwrap();
        }
        let mut layout: Array<_, [u64; 2]> = Array::try_from(object.map_mut("layout").unwrap()).unwrap();
        layout.set(0, [FIRST_RELEASE, 1], 0).unwrap();
        Self { folder: folder.to_owned() }
    }

    fn map(&self, name: &str) -> Map {
        let data = MapData::from_pin(self.folder.join(format!("wtm-{name}"))).unwrap();
        Map::from_map_data(data).unwrap()
    }

    pub fn put<K: Pod, V: Pod>(&self, map: &str, key: K, value: V) {
        let mut map: HashMap<_, K, V> = HashMap::try_from(self.map(map)).unwrap();
        map.insert(key, value, 0).unwrap();
    }

    pub fn put_config(&self, value: [u8; 24]) {
        let mut map: Array<_, [u8; 24]> = Array::try_from(self.map("config")).unwrap();
        map.set(0, value, 0).unwrap();
    }

    /// A route of tenant 1.
    pub fn put_route(&self, prefix: [u8; 4], length: u32, value: [u8; 36]) {
        let mut map: LpmTrie<_, [u8; 8], [u8; 36]> = LpmTrie::try_from(self.map("routes4")).unwrap();
        let data = [[0, 0, 0, 1], prefix].concat().try_into().unwrap();
        map.insert(&Key::new(32 + length, data), value, 0).unwrap();
    }

    /// Puts a hook on a device of the calling thread's namespace.
    pub fn attach(&self, device: &str, ifindex: u32, hook: &str) {
        let mut program = SchedClassifier::from_pin(self.folder.join(format!("wtp-{hook}"))).unwrap();
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(device, TcAttachType::Ingress, options).unwrap();
        let link: FdLink = program.take_link(id).unwrap().try_into().unwrap();
        link.pin(self.folder.join(format!("wtl-{hook}-{ifindex}"))).unwrap();
    }

    /// What the programs counted under a number, on all CPUs.
    pub fn counted(&self, number: u32) -> u64 {
        let map: aya::maps::PerCpuArray<_, u64> = self.map("counters").try_into().unwrap();
        map.get(&number, 0).unwrap().iter().sum()
    }
}

fn program<'a>(object: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    object.program_mut(name).unwrap().try_into().unwrap()
}

fn unpacked() -> Vec<u8> {
    let mut gzip =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = gzip.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(OBJECT).unwrap());
    let output = gzip.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}
