//! The secret of this server, and what is made from it.
//!
//! The secrets of an instance are derived from the key and the instance's id and are stored nowhere: what lies in the
//! store, in a backup of it or in a log is of no use without `DIR/key`. Whoever has that file has every instance.

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use coffer_core::account::Password;
use coffer_core::id::InstanceId;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use hmac::{Hmac, Mac as _};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
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
    #[error("a password cannot be sealed")]
    Sealing,
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

    /// A password as it may lie in the store: of use to whoever has this key, and only for this instance.
    pub(crate) fn seal(&self, instance: InstanceId, password: &str) -> Result<Password, Error> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(Error::Random)?;
        let mut sealed = password.as_bytes().to_vec();
        let key = self.sealing_key(instance).ok_or(Error::Sealing)?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .map_err(|_| Error::Sealing)?;
        Ok(Password::Sealed(hex(&[&nonce[..], &sealed].concat())))
    }

    /// A sealed password as it was; what was not sealed, or by another key, stays as it is.
    pub(crate) fn unseal(&self, instance: InstanceId, password: Password) -> Password {
        let open = |sealed: &str| {
            let mut bytes = unhex(sealed)?;
            let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let text = self.sealing_key(instance)?.open_in_place(nonce, Aad::empty(), text).ok()?;
            String::from_utf8(text.to_vec()).ok()
        };
        match &password {
            Password::Sealed(sealed) => open(sealed).map_or(password, Password::Clear),
            Password::Clear(_) | Password::Forgotten => password,
        }
    }

    fn sealing_key(&self, instance: InstanceId) -> Option<LessSafeKey> {
        UnboundKey::new(&CHACHA20_POLY1305, &self.mac("sealing", instance)).ok().map(LessSafeKey::new)
    }

    fn derive(&self, purpose: &str, instance: InstanceId) -> String {
        base62(self.mac(purpose, instance))
    }

    fn mac(&self, purpose: &str, instance: InstanceId) -> [u8; LENGTH] {
        // HMAC fills keys up to its block of 64 bytes with zeros; given a whole block it cannot fail.
        let mut block = [0; 64];
        block[..LENGTH].copy_from_slice(self.0.expose_secret());
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(format!("{purpose}:{instance}").as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// A password that nobody has had.
pub(crate) fn new_password() -> Result<String, Error> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    let mut password = base62(bytes);
    password.truncate(PASSWORD_LENGTH);
    Ok(password)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
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

    use coffer_core::account::Password;
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
    fn a_sealed_password_is_read_by_the_same_key_for_the_same_instance_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let key = |name: &str| Key::ensure(&dir.path().join(name)).expect("a key");
        let (a, b) = (InstanceId(Uuid::from_u128(1)), InstanceId(Uuid::from_u128(2)));
        for text in ["", "swordfish", "\u{1f600}'\\"] {
            let sealed = key("one").seal(a, text).expect("sealed");
            let stored = serde_json::to_string(&sealed).expect("text");
            assert!(text.is_empty() || !stored.contains(text), "{stored}");
            assert_ne!(sealed, key("one").seal(a, text).expect("sealed"), "the same password twice shows it");
            assert_eq!(key("one").unseal(a, sealed.clone()), Password::Clear(text.to_owned()));
            assert_eq!(key("one").unseal(b, sealed.clone()), sealed);
            assert_eq!(key("two").unseal(a, sealed.clone()), sealed);
        }
        for damaged in ["", "0", "00", "zz", "é", &"0".repeat(200)] {
            let damaged = Password::Sealed(damaged.to_owned());
            assert_eq!(key("one").unseal(a, damaged.clone()), damaged);
        }
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
