//! Tokens and passwords as they are made, and how a token is known again.

use sha2::{Digest, Sha256};

use super::Error;

/// The SHA-256 of a token. What is looked up is this, never the token, so how long a look-up takes tells nothing of it.
pub(super) type Hash = [u8; 32];

/// The hash of a token.
pub(super) fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

/// A new token: 256 random bits in hexadecimal digits.
pub(super) fn token() -> Result<String, Error> {
    random::<32>()
}

/// A new password: 128 random bits in hexadecimal digits, so that it needs no quoting anywhere.
pub(super) fn password() -> Result<String, Error> {
    random::<16>()
}

fn random<const BYTES: usize>() -> Result<String, Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Error::Secret(error.to_string()))?;
    Ok(hex(&bytes))
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let digit = |nibble: u8| DIGITS[usize::from(nibble & 15)];
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}
