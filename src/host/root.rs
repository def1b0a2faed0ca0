//! Where the machine's files are, and the few ways in which they are changed.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{HostError, atomic};

/// The machine's file system, or a directory that stands for it in a test. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Root {
    prefix: PathBuf,
    state: PathBuf,
    #[cfg(test)]
    pub(super) faults: std::sync::Arc<super::tests::Faults>,
}

impl Root {
    /// The machine itself, with its state in `/usr/local/.c3os`.
    pub fn system() -> Self {
        Self::at("/")
    }

    /// A machine whose `/` is the directory `prefix`.
    pub fn at(prefix: impl Into<PathBuf>) -> Self {
        Self {
            prefix: prefix.into(),
            state: PathBuf::from("/usr/local/.c3os"),
            #[cfg(test)]
            faults: std::sync::Arc::default(),
        }
    }

    /// The same machine as an observer: identity, lease and ledger are in `/run` and gone with it.
    #[must_use]
    pub fn volatile(mut self) -> Self {
        self.state = PathBuf::from("/run/c3os/state");
        self
    }

    /// Whether this is the machine itself, not a directory that stands for one.
    pub(super) fn is_the_machine(&self) -> bool {
        self.prefix == Path::new("/")
    }

    /// Where an absolute path of the machine is.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.prefix.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// Where a file of our own state is, by its name.
    pub fn state(&self, name: &str) -> PathBuf {
        self.path(self.state.join(name))
    }

    /// The same as the machine itself names it: what a link leads to.
    pub(super) fn state_on_machine(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    /// `/run/c3os/<name>`.
    pub fn runtime(&self, name: &str) -> PathBuf {
        self.path(Path::new("/run/c3os").join(name))
    }

    /// Makes the directories that the agent works in.
    ///
    /// # Errors
    /// [`HostError::File`].
    pub fn prepare(&self) -> Result<(), HostError> {
        self.make_dir(&self.path(&self.state), 0o700)?;
        self.make_dir(&self.path("/run/c3os"), 0o755)
    }

    /// The bytes of a file; none if it is not there.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, HostError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(HostError::File { operation: "read", path: path.to_owned(), source }),
        }
    }

    /// Replaces a file as a whole; afterwards either the old or the new content is on disk, with the mode given. Makes
    /// its directory.
    pub(super) fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), HostError> {
        let failed = |source| HostError::File { operation: "write", path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            self.make_dir(directory, 0o755)?;
        }
        atomic::write(path, bytes, mode, || self.step()).map_err(failed)
    }

    /// Whether a file holds exactly these bytes, with this mode and this program's user as owner.
    pub(super) fn holds(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<bool, HostError> {
        let failed = |source| HostError::File { operation: "read", path: path.to_owned(), source };
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) => return Ok(false),
            Err(source) => return Err(failed(source)),
        };
        let same_kind = metadata.is_file()
            && metadata.permissions().mode() & 0o7777 == mode
            && metadata.uid() == nix::unistd::geteuid().as_raw()
            && metadata.len() == bytes.len() as u64;
        Ok(same_kind && fs::read(path).map_err(failed)? == bytes)
    }

    /// [`write`](Self::write), unless the file is just so already; whether it was not.
    pub(super) fn write_if_other(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<bool, HostError> {
        let other = !self.holds(path, bytes, mode)?;
        if other {
            self.write(path, bytes, mode)?;
        }
        Ok(other)
    }

    /// Removes a file; whether there was one.
    pub(super) fn remove(&self, path: &Path) -> Result<bool, HostError> {
        let removed = self.step().and_then(|()| fs::remove_file(path));
        match removed {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(source) => Err(HostError::File { operation: "remove", path: path.to_owned(), source }),
        }
    }

    /// Makes `path` a symbolic link to `target`; whether something changed.
    pub(super) fn link(&self, path: &Path, target: &Path) -> Result<bool, HostError> {
        if fs::read_link(path).is_ok_and(|old| old == target) {
            return Ok(false);
        }
        let failed = |source| HostError::File { operation: "link", path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            self.make_dir(directory, 0o755)?;
        }
        atomic::link(path, target, || self.step()).map_err(failed)?;
        Ok(true)
    }

    /// Moves a file or directory to a name that nothing has yet: `<path>.<reason>-<n>`.
    pub(super) fn set_aside(&self, path: &Path, reason: &str) -> Result<PathBuf, HostError> {
        let failed = |source| HostError::File { operation: "set aside", path: path.to_owned(), source };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let free = (1..1000)
            .map(|n| path.with_file_name(format!("{name}.{reason}-{n}")))
            .find(|candidate| fs::symlink_metadata(candidate).is_err())
            .ok_or_else(|| failed(io::Error::other("a thousand were set aside already")))?;
        self.step().and_then(|()| fs::rename(path, &free)).map_err(failed)?;
        Ok(free)
    }

    /// Makes a directory and those above it; an existing one keeps its mode.
    pub(super) fn make_dir(&self, path: &Path, mode: u32) -> Result<(), HostError> {
        if path.is_dir() {
            return Ok(());
        }
        let failed =
            |source| HostError::File { operation: "make the directory", path: path.to_owned(), source };
        if let Some(above) = path.parent() {
            self.make_dir(above, 0o755)?;
        }
        let made = self.step().and_then(|()| fs::DirBuilder::new().mode(mode).create(path));
        match made {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(source) => Err(failed(source)),
        }
    }

    /// Comes before every single change of the disk. A test makes it fail; on a machine it does nothing.
    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "see the test's version")
    )]
    pub(super) fn step(&self) -> io::Result<()> {
        #[cfg(test)]
        return self.faults.step();
        #[cfg(not(test))]
        Ok(())
    }
}

/// Not there, and nothing above it either.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
