use watari_dataplane::Dataplane;
pub struct Rig { pub dataplane: Dataplane, folder: std::path::PathBuf }
impl Rig {
    pub fn new(name: &str) -> Self {
        let folder = std::path::PathBuf::from(format!("/sys/fs/bpf/wt-t-{name}-{}", std::process::id()));
        let dataplane = match Dataplane::open(&folder) { Ok(d) => d, Err(e) => { panic!("{e:?}") } };
        Self { dataplane, folder }
    }
}
impl Drop for Rig { fn drop(&mut self) {
    for e in std::fs::read_dir(&self.folder).unwrap() { let _ = std::fs::remove_file(e.unwrap().path()); }
    let _ = std::fs::remove_dir(&self.folder);
} }
