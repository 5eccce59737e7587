//! The control socket's file, and the thread's sense of time.

use std::os::unix::fs::MetadataExt as _;

use super::*;

#[test]
fn a_socket_that_somebody_left_behind_is_no_obstacle() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run/weir.sock");
    let (first, socket) = listen_at(&path).unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o666);
    // Somebody listens: it stays his.
    assert!(listen_at(&path).is_err_and(|error| error.to_string().contains("another agent")));
    drop(first);
    let (second, other) = listen_at(&path).unwrap();
    // The one who comes later has put his own there.
    drop(socket);
    assert!(path.exists());
    drop(second);
    drop(other);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(listen_at(&path).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
