//! The agent's signing key on disk: made at the first start, readable by nobody else, changed on demand.

use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use agent_core::receipt::{Hex, Key, SigningKey};
use serde::{Deserialize, Serialize};

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Somebody else may have read it.
    #[error(
        "{path} may be read by others (mode {mode:03o}): whoever has it can sign in this agent's name; `chmod 600` it, and have the agent take a new one with `weir key rotate`"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It cannot be read or written.
    #[error("cannot use the signing key {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not a key, or its parts contradict each other.
    #[error(
        "{path} is not a signing key: move it away and a new one is made, which no earlier key vouches for"
    )]
    Garbled {
        /// The file.
        path: PathBuf,
    },
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    /// The private key.
    seed: Hex<32>,
    /// The agent's public keys, oldest first; the last is that of the seed.
    keys: Vec<Key>,
}

/// The key in force, and all public ones.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    key: SigningKey,
    keys: Vec<Key>,
}

impl KeyFile {
    /// Where it is.
    pub fn path(state: &Path) -> PathBuf {
        state.join("signing_key.json")
    }

    /// Reads it; none where there is none.
    pub fn read(state: &Path) -> Result<Option<Self>, KeyError> {
        let path = Self::path(state);
        let failed = |source| KeyError::File { path: path.clone(), source };
        let mode = match std::fs::metadata(&path) {
            Ok(meta) => meta.mode(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path, mode: mode & 0o777 });
        }
        let bytes = std::fs::read(&path).map_err(failed)?;
        let Ok(Content { seed, keys }) = serde_json::from_slice(&bytes) else {
            return Err(KeyError::Garbled { path });
        };
        let key = SigningKey::from_seed(&seed.0);
        if keys.last().is_none_or(|last| last.public_key != key.public()) {
            return Err(KeyError::Garbled { path });
        }
        Ok(Some(Self { path, key, keys }))
    }

    /// Reads it, or makes one that signs from a receipt on. A key of another agent is put aside.
    pub(super) fn open(state: &Path, agent_id: &str, from_sequence: u64, now: u64) -> Result<Self, KeyError> {
        if let Some(known) = Self::read(state)? {
            if known.current().agent_id.as_ref() == agent_id {
                return Ok(known);
            }
            let aside = state.join(format!("signing_key.{}.json", known.key.id()));
            std::fs::rename(&known.path, aside)
                .map_err(|source| KeyError::File { path: known.path.clone(), source })?;
        }
        let path = Self::path(state);
        let failed = |source| KeyError::File { path: path.clone(), source };
        let seed = seed().map_err(failed)?;
        let key = SigningKey::from_seed(&seed.0);
        let keys = vec![Key::new(agent_id, &key, None, from_sequence, now)];
        write(&path, &Content { seed, keys: keys.clone() }).map_err(failed)?;
        tracing::info!(key = %key.id(), "a signing key was made");
        Ok(Self { path, key, keys })
    }

    /// Takes a new key from a receipt on, which the present one vouches for.
    pub(super) fn rotate(&mut self, from_sequence: u64, now: u64) -> Result<(), KeyError> {
        let failed = |source| KeyError::File { path: self.path.clone(), source };
        let seed = seed().map_err(failed)?;
        let key = SigningKey::from_seed(&seed.0);
        let mut keys = self.keys.clone();
        keys.push(Key::new(&self.current().agent_id.clone(), &key, Some(&self.key), from_sequence, now));
        write(&self.path, &Content { seed, keys: keys.clone() }).map_err(failed)?;
        (self.key, self.keys) = (key, keys);
        Ok(())
    }

    /// The key to sign with.
    pub(super) fn key(&self) -> &SigningKey {
        &self.key
    }

    /// What is public of it.
    pub fn current(&self) -> &Key {
        // Never empty: `read` and `open` see to it.
        &self.keys[self.keys.len() - 1]
    }

    /// All that the agent ever had, oldest first.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }
}

fn seed() -> io::Result<Hex<32>> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Hex(seed))
}

/// Replaces the file as a whole, never readable by others, on the disk before it counts.
fn write(path: &Path, content: &Content) -> io::Result<()> {
    let next = path.with_extension("next");
    let _ = std::fs::remove_file(&next);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(&serde_json::to_vec(content)?)?;
    file.sync_all()?;
    std::fs::rename(next, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_core::receipt::{Keyring, Trust};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_kept_to_oneself_and_followed_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = KeyFile::open(dir.path(), "a", 1, 5).unwrap();
        let first = file.current().key_id;
        let path = KeyFile::path(dir.path());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(KeyFile::open(dir.path(), "a", 9, 9).unwrap().current().key_id, first);
        file.rotate(10, 6).unwrap();
        let again = KeyFile::open(dir.path(), "a", 99, 9).unwrap();
        assert_eq!((again.keys().len(), again.keys()[0].key_id), (2, first));
        assert_eq!(again.key().id(), again.current().key_id);
        assert!(
            Keyring::new(again.keys(), &Trust { keys: vec![first], ..Trust::default() }).is_ok(),
            "the first vouches for the second"
        );
        // Another agent's: kept, not used.
        let other = KeyFile::open(dir.path(), "b", 1, 7).unwrap();
        assert_eq!(other.keys().len(), 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = KeyFile::open(dir.path(), "b", 1, 7).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "{}").unwrap();
        assert!(matches!(KeyFile::open(dir.path(), "b", 1, 7), Err(KeyError::Garbled { .. })));
    }
}
