//! The one source of randomness.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use data_encoding::BASE32_DNSSEC;

/// Cryptographic randomness from the operating system.
#[derive(Clone, Debug, Default)]
pub struct Entropy(SystemRandom);

impl Entropy {
    /// `N` unpredictable bytes.
    ///
    /// # Panics
    /// When the operating system has no randomness to give: nothing safe can be done then.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill(&mut out).expect("the operating system's random source failed");
        out
    }

    /// `N` random bytes in lowercase base32 (`0-9a-v`, no padding).
    pub fn base32<const N: usize>(&self) -> String {
        BASE32_DNSSEC.encode(&self.bytes::<N>())
    }
}
