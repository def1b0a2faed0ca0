//! `/usr/local/.c3os/ledger/log`: the ledger's own bytes, appended to or replaced as a whole.
//!
//! What the bytes mean, and how a torn end is recognised, is the room `ledger`'s affair. Here: they are where the
//! caller was told they are, and a failed write leaves the file as it was.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use super::{HostError, Root, atomic};

/// The ledger on disk, open for writing.
#[derive(Debug)]
pub struct LedgerFile {
    root: Root,
    path: PathBuf,
    file: File,
    /// Bytes that were written whole.
    length: u64,
    /// A failed append could not be taken back: the next write has to be a replacement.
    torn: bool,
}

impl LedgerFile {
    /// Opens or makes the file, and returns what is in it.
    ///
    /// # Errors
    /// [`HostError::File`].
    pub fn open(root: &Root) -> Result<(Self, Vec<u8>), HostError> {
        root.prepare()?;
        let path = root.state("ledger/log");
        root.make_dir(&root.state("ledger"), 0o700)?;
        let bytes = root.read(&path)?.unwrap_or_default();
        let file = open(root, &path)?;
        let length = bytes.len() as u64;
        Ok((Self { root: root.clone(), path, file, length, torn: false }, bytes))
    }

    /// Adds to the end; with `sync` it returns once the bytes survive a power cut.
    ///
    /// # Errors
    /// [`HostError::File`]; then nothing was added, and later appends start where this one did.
    pub fn append(&mut self, bytes: &[u8], sync: bool) -> Result<(), HostError> {
        let result = self.try_append(bytes, sync);
        match result {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                self.torn = self.file.set_len(self.length).and_then(|()| self.file.sync_all()).is_err();
                Err(HostError::File { operation: "append to", path: self.path.clone(), source })
            }
        }
    }

    fn try_append(&mut self, bytes: &[u8], sync: bool) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        self.root.step()?;
        self.file.write_all(bytes)?;
        self.root.step()?;
        if sync { self.file.sync_data() } else { Ok(()) }
    }

    /// Puts `bytes` in place of everything, so that a power cut leaves the old or the new content.
    ///
    /// # Errors
    /// [`HostError::File`]; then the old content stands.
    pub fn replace(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        self.root.write(&self.path, bytes, 0o600)?;
        self.file = open(&self.root, &self.path)?;
        self.length = bytes.len() as u64;
        self.torn = false;
        Ok(())
    }
}

fn open(root: &Root, path: &PathBuf) -> Result<File, HostError> {
    let failed = |source| HostError::File { operation: "open", path: path.clone(), source };
    let open = || {
        root.step()?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        atomic::sync_directory_of(path)?;
        Ok(file)
    };
    open().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_and_replaced_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let (mut file, bytes) = LedgerFile::open(&root).unwrap();
        assert!(bytes.is_empty());
        file.append(b"one", true).unwrap();
        file.append(b"two", false).unwrap();
        assert_eq!(LedgerFile::open(&root).unwrap().1, b"onetwo");
        file.replace(b"all").unwrap();
        file.append(b"more", true).unwrap();
        assert_eq!(LedgerFile::open(&root).unwrap().1, b"allmore");
    }

    #[test]
    fn a_failed_write_leaves_the_file_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        let (mut file, _) = LedgerFile::open(&root).unwrap();
        file.append(b"one", true).unwrap();
        for fault in 0..2 {
            root.faults.fail_after(fault);
            let error = file.append(b"lost", true).unwrap_err();
            assert!(error.is_transient() && error.to_string().contains("make room"), "{error}");
        }
        for fault in 0..3 {
            root.faults.fail_after(fault);
            assert!(file.replace(b"lost too").is_err() || fault == 2);
            if fault < 2 {
                assert_eq!(std::fs::read(root.state("ledger/log")).unwrap(), b"one");
            }
        }
        root.faults.heal();
        file.replace(b"one").unwrap();
        file.append(b"two", true).unwrap();
        assert_eq!(LedgerFile::open(&root).unwrap().1, b"onetwo");
    }
}
