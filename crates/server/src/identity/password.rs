//! Passwords: hashed with argon2id, a few at a time.
//!
//! Each hash takes 19 MiB and some tens of milliseconds (OWASP's parameters), on purpose. A flood of logins must not
//! take that much for each, so [`AT_ONCE`] are worked on, [`WAITING`] wait, and the rest is turned away at once.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

use super::Error;

/// How many passwords are hashed at a time. As many as the smallest machine has processors.
const AT_ONCE: usize = 2;
/// How many logins may wait for their turn. Two seconds' worth.
const WAITING: usize = 64;

/// The hash of nothing that anybody knows, checked for users that do not exist. Made like every other.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$Y29mZmVyIG5vYm9keSE$kVDMUZjcTBMKxGX3VSPyQb5hRZ1Bsf4CbpYzW2hDIEs";

/// Hashes and checks passwords.
#[derive(Debug)]
pub(super) struct Passwords {
    working: Semaphore,
    admitted: Semaphore,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { working: Semaphore::new(AT_ONCE), admitted: Semaphore::new(AT_ONCE + WAITING) }
    }
}

impl Passwords {
    /// Whether the password is that of the hash. `None` is nobody's: it takes as long, and is never right.
    pub(super) async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Error> {
        let Ok(_admitted) = self.admitted.try_acquire() else { return Err(Error::Overloaded) };
        let _turn = self.working.acquire().await.map_err(|error| Error::Secret(error.to_string()))?;
        let check = move || {
            let known = hash.is_some();
            let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
            let parsed = PasswordHash::new(&hash).map_err(|error| Error::Secret(error.to_string()))?;
            Ok(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok() && known)
        };
        tokio::task::spawn_blocking(check).await.map_err(|error| Error::Secret(error.to_string()))?
    }
}

/// The hash of a password, with a salt of its own.
pub(super) fn hash(password: &str) -> Result<String, Error> {
    let hash: PasswordHash =
        Argon2::default().hash_password(password.as_bytes()).map_err(|error| Error::Secret(error.to_string()))?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::{NOBODY, Passwords, hash};

    #[tokio::test]
    async fn a_password_is_right_only_with_its_own_hash() {
        let passwords = Passwords::default();
        let check = async |password: &str, hash: Option<String>, expected: bool| {
            assert_eq!(passwords.verify(password.to_owned(), hash).await.expect("a verdict"), expected, "{password}");
        };
        let kept = hash("right").expect("a hash");
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        check("right", Some(kept.clone()), true).await;
        check("wrong", Some(kept), false).await;
        check("right", None, false).await;
        check("", Some(NOBODY.to_owned()), false).await;
    }
}
