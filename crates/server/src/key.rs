//! The secret of this server, and what is made from it.
//!
//! The secrets of an instance are derived from the key and the instance's id and are stored nowhere: what lies in the
//! store, in a backup of it or in a log is of no use without `DIR/key`. Whoever has that file has every instance.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use coffer_core::id::InstanceId;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretBox, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

const LENGTH: usize = 32;
/// 32 of 62 characters are 190 bits.
const PASSWORD_LENGTH: usize = 32;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The secret of this server.
pub(crate) struct Key(SecretBox<[u8; LENGTH]>);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    File(#[from] std::io::Error),
    #[error("the system has no random bytes: {0}")]
    Random(getrandom::Error),
    #[error("{path} {what}; hint: {hint}")]
    Unusable { path: String, what: &'static str, hint: &'static str },
}

impl Key {
    /// Reads the key from a file of mode 0600, or makes one there. A file that others can read is refused.
    pub(crate) fn ensure(path: &Path) -> Result<Self, Error> {
        let mut options = fs_err::OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(path);
        match made {
            Ok(mut file) => {
                let mut bytes = [0; LENGTH];
                getrandom::fill(&mut bytes).map_err(Error::Random)?;
                file.write_all(&bytes)?;
                file.sync_all()?;
                Ok(Self(SecretBox::new(Box::new(bytes))))
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Self::read(path),
            Err(e) => Err(e.into()),
        }
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let unusable = |what, hint| Error::Unusable { path: path.display().to_string(), what, hint };
        if fs_err::metadata(path)?.permissions().mode() & 0o077 != 0 {
            return Err(unusable(
                "can be read by others",
                "chmod 600 it, and consider it known to whoever could read it",
            ));
        }
        let bytes = <[u8; LENGTH]>::try_from(fs_err::read(path)?).map_err(|_| {
            unusable("is not a key of 32 bytes", "put the old file back: instances cannot be reached without it")
        })?;
        Ok(Self(SecretBox::new(Box::new(bytes))))
    }

    /// What an agent proves with that it is this instance's.
    pub(crate) fn agent_token(&self, instance: InstanceId) -> SecretString {
        self.derive("agent-token", instance).into()
    }

    /// Whether `token` is this instance's agent's. Takes as long for a wrong one as for the right one.
    pub(crate) fn is_agent_token(&self, instance: InstanceId, token: &str) -> bool {
        self.derive("agent-token", instance).as_bytes().ct_eq(token.as_bytes()).into()
    }

    /// The password that the tenant is shown when the instance is created.
    pub(crate) fn tenant_password(&self, instance: InstanceId) -> SecretString {
        let mut password = self.derive("tenant-password", instance);
        password.truncate(PASSWORD_LENGTH);
        password.into()
    }

    fn derive(&self, purpose: &str, instance: InstanceId) -> String {
        // HMAC fills keys up to its block of 64 bytes with zeros; given a whole block it cannot fail.
        let mut block = [0; 64];
        block[..LENGTH].copy_from_slice(self.0.expose_secret());
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(format!("{purpose}:{instance}").as_bytes());
        base62(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// The number that the bytes are, in digits and letters: 43 of them, the lowest first.
fn base62(mut bytes: [u8; LENGTH]) -> String {
    let mut text = String::with_capacity(43);
    for _ in 0..43 {
        let mut rest = 0u32;
        for byte in &mut bytes {
            let value = (rest << 8) | u32::from(*byte);
            // Below 62 * 256, so the quotient is below 256.
            *byte = (value / 62).to_le_bytes()[0];
            rest = value % 62;
        }
        text.push(char::from(DIGITS[rest as usize]));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use coffer_core::id::InstanceId;
    use secrecy::ExposeSecret as _;
    use uuid::Uuid;

    use super::Key;

    #[test]
    fn secrets_are_the_same_after_a_restart_and_differ_between_instances_and_purposes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("key");
        let (first, again) = (Key::ensure(&path).expect("new key"), Key::ensure(&path).expect("same key"));
        let (a, b) = (InstanceId(Uuid::from_u128(1)), InstanceId(Uuid::from_u128(2)));
        let token = first.agent_token(a);
        assert_eq!(token.expose_secret(), again.agent_token(a).expose_secret());
        assert_ne!(token.expose_secret(), first.agent_token(b).expose_secret());
        assert!(again.is_agent_token(a, token.expose_secret()));
        assert!(!again.is_agent_token(b, token.expose_secret()));
        assert!(!again.is_agent_token(a, ""));
        let password = first.tenant_password(a);
        assert_eq!(password.expose_secret().len(), 32);
        assert!(password.expose_secret().bytes().all(|b| b.is_ascii_alphanumeric()));
        assert!(!token.expose_secret().starts_with(password.expose_secret()));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("key");
        Key::ensure(&path).expect("new key");
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let error = Key::ensure(&path).expect_err("readable by all").to_string();
        assert!(error.contains("hint:"), "{error}");
    }
}
