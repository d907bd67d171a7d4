//! A folder on a real disk.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{File, Fs, check_name};

/// A folder on a real disk.
#[derive(Clone, Debug)]
pub struct DiskFs {
    root: PathBuf,
}

impl DiskFs {
    /// The folder at `root`; it and its parents are made, durably, where they are missing.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        make_folder(&root)?;
        Ok(Self { root })
    }

    /// Where the folder is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.root.join(name))
    }
}

/// Makes `path` and its missing parents, each synced into its own parent.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_folder(parent)?;
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) => return Err(e),
    }
    fs::File::open(parent)?.sync_all()
}

impl Fs for DiskFs {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(name)?)?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path(name)?)?;
        Ok(Arc::new(DiskFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name)?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        fs::File::open(&self.root)?.sync_all()
    }

    fn folder(&self, name: &str) -> io::Result<Arc<dyn Fs>> {
        Ok(Arc::new(Self::open(self.path(name)?)?))
    }

    fn place(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

#[derive(Debug)]
struct DiskFile {
    file: fs::File,
}

impl File for DiskFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Not every file system can; there the length alone is set, and a full disk shows only at the write.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) if self.len()? < len => self.file.set_len(len),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if self.len()? > len { self.file.set_len(len) } else { Ok(()) }
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_file, replace_file};
    use super::*;

    #[test]
    fn a_folder_on_disk_reads_back_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let fs = DiskFs::open(dir.path().join("a/b")).unwrap();
        let file = fs.create("x.bin").unwrap();
        file.preallocate(8192).unwrap();
        assert_eq!(file.len().unwrap(), 8192);
        file.write_at(8190, b"tail").unwrap();
        file.fdatasync().unwrap();
        fs.sync_dir().unwrap();
        let mut buf = [9u8; 8];
        assert_eq!(file.read_at(8188, &mut buf).unwrap(), 6);
        assert_eq!(&buf[..6], b"\0\0tail");
        assert_eq!(fs.create("x.bin").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs.open("y.bin").unwrap_err().kind(), io::ErrorKind::NotFound);
        fs.rename("x.bin", "y.bin").unwrap();
        fs.folder("sub").unwrap();
        assert_eq!(fs.list().unwrap(), ["y.bin"]);
        fs.remove("y.bin").unwrap();
        assert!(fs.list().unwrap().is_empty());
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fs = DiskFs::open(dir.path()).unwrap();
        for name in ["", "..", "../x", "a/b", ".hidden", "a\0b"] {
            assert_eq!(fs.create(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    fn a_replaced_file_has_the_new_content() {
        let dir = tempfile::tempdir().unwrap();
        let fs = DiskFs::open(dir.path()).unwrap();
        assert_eq!(read_file(&fs, "node", 100).unwrap(), None);
        replace_file(&fs, "node", b"one").unwrap();
        replace_file(&fs, "node", b"two").unwrap();
        assert_eq!(read_file(&fs, "node", 100).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(read_file(&fs, "node", 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
