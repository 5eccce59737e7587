//! A decision that somebody may make -> a signed link, and back. Nobody else can make one, or change one.
//!
//! What decides whether a link still counts is the request that it is about: each request is decided once.

use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use agent_core::approval::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

/// What is signed begins with this: the key signs nothing else.
const ABOUT: &[u8] = b"weir approval link 1";
/// Action, id, digest, end, nonce.
const CONTENT: usize = 1 + 16 + 32 + 8 + 8;
const SIGNATURE: usize = 32;

/// What a link says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Whether it approves or denies.
    pub(super) approve: bool,
    /// The request.
    pub(super) id: u128,
    /// The bytes that it is about.
    pub(super) digest: Digest,
    /// When it ends, in nanoseconds since the epoch.
    pub(super) expires: u64,
}

/// Signs links. Kept in the state directory: links outlive the agent as held statements do.
pub(super) struct Key([u8; 32]);

impl Key {
    /// Reads the key, or makes one at the first start.
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let path = state.join("approval.key");
        let mut key = [0; 32];
        match std::fs::File::open(&path) {
            Ok(mut file) => {
                let meta = file.metadata()?;
                if meta.mode() & 0o077 != 0 {
                    let told = "others may read it, and whoever has it can approve; remove it, and a new one is made";
                    return Err(io::Error::other(told));
                }
                if meta.len() != 32 {
                    return Err(io::Error::other("it is no key; remove it, and a new one is made"));
                }
                io::Read::read_exact(&mut file, &mut key)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                getrandom::fill(&mut key).map_err(io::Error::other)?;
                // Whole or not at all: half a key would be refused for ever.
                let new = state.join("approval.key.new");
                let _ = std::fs::remove_file(&new);
                let mut file =
                    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
                file.write_all(&key)?;
                file.sync_all()?;
                std::fs::rename(&new, &path)?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self(key))
    }

    /// The part of the address that says it all.
    pub(super) fn sign(&self, link: &Link) -> io::Result<String> {
        let mut token = Vec::with_capacity(CONTENT + SIGNATURE);
        token.push(u8::from(link.approve));
        token.extend(link.id.to_be_bytes());
        token.extend(link.digest);
        token.extend(link.expires.to_be_bytes());
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        token.extend(nonce);
        let signature = hmac::sign(&self.mac(), &[ABOUT, &token].concat());
        token.extend(signature.as_ref());
        Ok(URL_SAFE_NO_PAD.encode(token))
    }

    /// What the link says; none where it was not signed by this key as it is.
    pub(super) fn read(&self, token: &str) -> Option<Link> {
        let token = URL_SAFE_NO_PAD.decode(token).ok()?;
        if token.len() != CONTENT + SIGNATURE {
            return None;
        }
        let (content, signature) = token.split_at(CONTENT);
        hmac::verify(&self.mac(), &[ABOUT, content].concat(), signature).ok()?;
        let (action, rest) = content.split_first()?;
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let (expires, _) = rest.split_first_chunk::<8>()?;
        Some(Link {
            approve: *action == 1,
            id: u128::from_be_bytes(*id),
            digest: *digest,
            expires: u64::from_be_bytes(*expires),
        })
    }

    fn mac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_was_changed_is_none() {
        let state = tempfile::tempdir().unwrap();
        let key = Key::open(state.path()).unwrap();
        let link = Link { approve: true, id: 7 << 64, digest: [3; 32], expires: 9 };
        let token = key.sign(&link).unwrap();
        assert_eq!(key.read(&token), Some(link));
        assert_ne!(key.sign(&link).unwrap(), token);
        let plain = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for bit in 0..plain.len() * 8 {
            let mut changed = plain.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.read(&URL_SAFE_NO_PAD.encode(changed)), None, "bit {bit}");
        }
        for at in 0..token.len() {
            let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            assert_eq!(key.read(&changed), None, "character {at}");
        }
        for wrong in ["", "A", &token[1..], &format!("{token}A"), &format!("{token}=")] {
            assert_eq!(key.read(wrong), None);
        }
        // The next life of the agent knows its links; another agent does not.
        assert_eq!(Key::open(state.path()).unwrap().read(&token), Some(link));
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(Key::open(elsewhere.path()).unwrap().read(&token), None);
    }

    #[test]
    fn a_key_that_others_can_read_is_none() {
        use std::os::unix::fs::PermissionsExt as _;
        let state = tempfile::tempdir().unwrap();
        Key::open(state.path()).unwrap();
        let path = state.path().join("approval.key");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Key::open(state.path()).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "short").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Key::open(state.path()).is_err());
    }
}
