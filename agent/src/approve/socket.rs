//! A path -> a Unix socket that listens there, and that goes with the agent.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The control socket in the file system, taken away in the end.
pub(super) struct Socket {
    path: PathBuf,
}

impl Socket {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A later agent may have put its own there.
        let left = UnixStream::connect(&self.path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if left {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at a path. Everybody may connect: the kernel says who it is, and each request is answered by that.
pub(super) fn listen(path: &Path) -> io::Result<(UnixListener, Socket)> {
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err(io::Error::other("there is something else than a socket"));
        }
        match UnixStream::connect(path) {
            Ok(_) => return Err(io::Error::other("another agent listens there")),
            // Whoever made it is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            Err(error) => return Err(error),
        }
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok((listener, Socket { path: path.to_owned() }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_socket_that_somebody_left_behind_is_no_obstacle() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run/weir.sock");
        let (first, socket) = listen(&path).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o666);
        // Somebody listens: it stays his.
        assert!(listen(&path).is_err_and(|error| error.to_string().contains("another agent")));
        drop(first);
        let (second, other) = listen(&path).unwrap();
        // The one who comes later has put his own there.
        drop(socket);
        assert!(path.exists());
        drop(second);
        drop(other);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(listen(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
