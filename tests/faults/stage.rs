//! The machine that the nodes run on: a network of namespaces, a disk for each node, a clock and syncs that can be disturbed.
//!
//! All of it lies in namespaces that the test made for itself (network, mounts, processes): when its last process ends, however it
//! ends, the kernel takes networks, mounts, loop devices and processes away.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};

use crate::support::{Result, binary};

/// Each node's disk, bytes; sparse.
const DISK_BYTES: u64 = 900 << 20;
/// An address at which nobody is.
const NOBODY: &str = "02:00:00:00:00:99";
const SHIM: &str = include_str!("shim.c");

/// What a node's process meets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Knobs {
    /// By how much its calendar is ahead, seconds.
    pub(crate) ahead_s: i64,
    /// How much longer each sync takes.
    pub(crate) sync_ms: i64,
    /// The error of each sync; 0: none.
    pub(crate) sync_errno: i64,
}

pub(crate) struct Stage {
    folder: PathBuf,
    nodes: usize,
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip(arguments: &str) -> Result<()> {
    run("ip", &arguments.split(' ').collect::<Vec<_>>()).map(drop)
}

impl Stage {
    /// Builds it for so many nodes. Only in namespaces of one's own.
    pub(crate) fn build(folder: &Path, nodes: usize) -> Result<Self> {
        let stage = Self { folder: folder.to_path_buf(), nodes };
        // `ip netns` keeps its names there.
        run("mount", &["-t", "tmpfs", "none", "/run"])?;
        fs::create_dir("/run/netns")?;
        ip("link set lo up")?;
        ip("link add br0 type bridge")?;
        ip("addr add 10.77.0.254/24 dev br0")?;
        ip("link set br0 up")?;
        for n in 1..=nodes {
            ip(&format!("netns add n{n}"))?;
            ip(&format!("link add v{n} type veth peer name eth0 netns n{n}"))?;
            ip(&format!("link set v{n} master br0 up"))?;
            ip(&format!("-n n{n} link set lo up"))?;
            ip(&format!("-n n{n} addr add 10.77.0.{n}/24 dev eth0"))?;
            ip(&format!("-n n{n} link set eth0 up"))?;
            let image = stage.image(n);
            File::create(&image)?.set_len(DISK_BYTES)?;
            run("mkfs.ext4", &["-q", &image.display().to_string()])?;
            stage.set(n, Knobs::default())?;
        }
        let (source, shim) = (folder.join("shim.c"), folder.join("shim.so"));
        fs::write(&source, SHIM)?;
        let (source, shim) = (source.display().to_string(), shim.display().to_string());
        run("cc", &["-shared", "-fPIC", "-O1", "-o", &shim, &source])?;
        stage.write_script()?;
        Ok(stage)
    }

    /// The program that is run as a node: the node's, in its namespace, on its disk.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join("node.sh")
    }

    fn write_script(&self) -> Result<()> {
        let (folder, binary) = (self.folder.display(), binary());
        let binary = binary.display();
        let text = format!(
            r#"#!/bin/bash
set -e
flags=()
for flag in "$@"; do
  case "$before" in --node-name) name="$flag" ;; --data-dir) data="$flag" ;; esac
  before="$flag"
done
for flag in "$@"; do flags+=("${{flag/127.0.0.1:/10.77.0.${{name#n}}:}}"); done
mountpoint -q "$data" || {{ mount -o loop "{folder}/$name.img" "$data"; rmdir "$data/lost+found" || true; }}
export FAULTS_KNOBS="{folder}/$name.knobs" LD_PRELOAD="{folder}/shim.so"
exec ip netns exec "$name" "{binary}" "${{flags[@]}}"
"#
        );
        let path = self.program();
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn image(&self, node: usize) -> PathBuf {
        self.folder.join(format!("n{node}.img"))
    }

    /// Has a node's process meet this from now on.
    pub(crate) fn set(&self, node: usize, knobs: Knobs) -> Result<()> {
        let path = self.folder.join(format!("n{node}.knobs"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let words = [knobs.ahead_s, knobs.sync_ms, knobs.sync_errno];
        file.write_all_at(&words.map(i64::to_ne_bytes).concat(), 0)?;
        Ok(())
    }

    /// Nothing that `from` sends reaches `to` any more, silently; or it does again.
    pub(crate) fn cut(&self, from: usize, to: usize, cut: bool) -> Result<()> {
        if cut {
            return ip(&format!("-n n{from} neigh replace 10.77.0.{to} lladdr {NOBODY} dev eth0 nud permanent"));
        }
        ip(&format!("-n n{from} neigh del 10.77.0.{to} dev eth0"))
    }

    /// Cuts a node off from the other nodes, in the directions asked for. Clients reach it all the same.
    pub(crate) fn isolate(&self, node: usize, out: bool, into: bool, cut: bool) -> Result<()> {
        for other in (1..=self.nodes).filter(|other| *other != node) {
            if out {
                self.cut(node, other, cut)?;
            }
            if into {
                self.cut(other, node, cut)?;
            }
        }
        Ok(())
    }

    /// Fills a node's disk to the last byte; `false`: takes that away.
    pub(crate) fn fill(&self, data: &Path, full: bool) -> Result<()> {
        let ballast = data.join("ballast");
        if !full {
            fs::remove_file(ballast)?;
            // A power cut later on would bring it back.
            return Ok(rustix::fs::syncfs(File::open(data)?)?);
        }
        let mut file = File::create(ballast)?;
        // Most of it is only taken, which is quicker than to write it.
        let (mut taken, piece) = (0, 1 << 20);
        while fallocate(&file, FallocateFlags::empty(), taken, piece).is_ok() {
            taken += piece;
        }
        file.seek(SeekFrom::Start(taken))?;
        for piece in [4096, 1] {
            let zeros = vec![0; piece];
            // As much as there is room for: the error is what is looked for.
            while file.write_all(&zeros).is_ok() {}
        }
        Ok(())
    }

    /// The power of a node's disk goes: what is not on it yet never will be. Its process has to be killed then.
    #[allow(unsafe_code, reason = "the ioctl has no safe binding")]
    pub(crate) fn cut_power(&self, data: &Path) -> Result<()> {
        const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(data)?;
        // SAFETY: the ioctl reads one u32 through the pointer, which `Setter` points at its own.
        unsafe {
            let ioctl = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH);
            rustix::ioctl::ioctl(&root, ioctl)?;
        }
        Ok(())
    }

    /// Mounts a disk anew after its power was cut.
    pub(crate) fn mount_again(&self, node: usize, data: &Path) -> Result<()> {
        let (image, data) = (self.image(node).display().to_string(), data.display().to_string());
        run("umount", &[&data])?;
        run("mount", &["-o", "loop", &image, &data]).map(drop)
    }
}
