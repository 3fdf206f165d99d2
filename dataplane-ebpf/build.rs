//! Compiles the eBPF programs (`programs/`, a cargo workspace of its own) and hands the objects to the library.
//!
//! The bpf target has no precompiled core library, so a toolchain with the library's sources is needed, in
//! this order: a rustup nightly with rust-src; the toolchain rooted at /usr (Debian's rustc-web, cargo-web,
//! rust-web-src); else the build fails and says what to install. `WATARI_BPF_OBJECT=DIR/watari` takes prebuilt
//! objects instead (`DIR/hostvlan` beside it). The programs are always built optimised, into a folder that
//! debug and release builds share.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const OBJECTS: &[&str] = &["watari", "hostvlan"];
const HELP: &str = "\
no Rust toolchain with the sources of the core library for the bpf target. Install one of:
    script/bootstrap --ebpf-only                                        (Debian 12, as root)
    rustup toolchain install nightly --component rust-src && script/bootstrap --ebpf-only
or point WATARI_BPF_OBJECT to a prebuilt object.";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    for path in [
        "build.rs",
        "programs/src",
        "programs/Cargo.toml",
        "programs/Cargo.lock",
        "abi/src",
        "abi/Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["WATARI_BPF_OBJECT", "WATARI_CACHE"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let built = match env::var_os("WATARI_BPF_OBJECT") {
        Some(object) => Path::new(&object).parent().ok_or("WATARI_BPF_OBJECT has no folder")?.to_owned(),
        None => compile(&out)?,
    };
    for name in OBJECTS {
        let from = built.join(name);
        fs::copy(&from, out.join(format!("{name}.bpf.o")))
            .map_err(|error| format!("{}: {error}", from.display()))?;
    }
    Ok(())
}

/// Runs cargo for the bpf target. Returns the folder of the objects.
fn compile(out: &Path) -> Result<PathBuf, String> {
    let endian = env::var("CARGO_CFG_TARGET_ENDIAN").unwrap_or_default();
    let target = if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let linker = find_linker()?;
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE/out: beside the profiles, so that all of them share it.
    let target_dir = out.ancestors().nth(4).unwrap_or(out).join("ebpf");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
    ];
    let mut cargo = find_cargo()?;
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CARGO_PROFILE_")
            || name.starts_with("CARGO_BUILD_")
            || name.starts_with("CARGO_TARGET_")
        {
            cargo.env_remove(&variable);
        }
    }
    for variable in
        ["RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN"]
    {
        cargo.env_remove(variable);
    }
    let status = cargo
        .args(["build", "--locked", "--bins", "--release", "-Zbuild-std=core", "--target", target])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir("programs")
        .env("RUSTC_BOOTSTRAP", "1")
        // One way to generate code, whatever the caller's build does: the verifier's work depends on it.
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .status()
        .map_err(|error| format!("{cargo:?}: {error}"))?;
    if !status.success() {
        return Err(format!("{cargo:?} failed: {status}"));
    }
    Ok(target_dir.join(target).join("release"))
}

/// A cargo whose toolchain has the sources of the core library.
fn find_cargo() -> Result<Command, String> {
    const SOURCE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";
    let sysroot = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
    if let Ok(output) = sysroot
        && output.status.success()
        && Path::new(String::from_utf8_lossy(&output.stdout).trim()).join(SOURCE).is_file()
    {
        let mut cargo = Command::new("rustup");
        cargo.args(["run", "nightly", "cargo"]);
        return Ok(cargo);
    }
    if Path::new("/usr").join(SOURCE).is_file() && Path::new("/usr/bin/cargo").is_file() {
        let mut cargo = Command::new("/usr/bin/cargo");
        // cargo finds rustc by the path, where rustup's may come first
        let path = env::var("PATH").unwrap_or_default();
        cargo.env("PATH", format!("/usr/bin:{path}"));
        return Ok(cargo);
    }
    Err(HELP.to_owned())
}

/// bpf-linker from the cache of script/bootstrap, else from the path.
fn find_linker() -> Result<PathBuf, String> {
    let cache = env::var_os("WATARI_CACHE")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache/watari")));
    let on_path = env::var_os("PATH").unwrap_or_default();
    let folders = cache.map(|cache| cache.join("bin")).into_iter().chain(env::split_paths(&on_path));
    for folder in folders {
        let candidate = folder.join("bpf-linker");
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    Err("no bpf-linker: run script/bootstrap --ebpf-only, or install it onto the path".to_owned())
}
