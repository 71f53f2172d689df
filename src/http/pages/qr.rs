//! A text as a QR code, drawn as one path: no picture from elsewhere and no inline style, which the page's policy forbids.

use std::fmt::Write;

use qrcodegen::{QrCode, QrCodeEcc};

use crate::kernel::{Error, Result};

/// Light modules around the code (ISO 18004): without them cameras do not find it.
const QUIET: i32 = 4;

/// A drawing of `side` × `side` units.
pub struct Qr {
    pub side: i32,
    /// The dark modules.
    pub path: String,
}

impl Qr {
    /// # Errors
    /// `internal` for a text that is longer than a code can be.
    pub fn of(text: &str) -> Result<Self> {
        let code = QrCode::encode_text(text, QrCodeEcc::Medium).map_err(Error::internal)?;
        let mut path = String::new();
        for y in 0..code.size() {
            for x in 0..code.size() {
                if code.get_module(x, y) {
                    // Writing to a string does not fail.
                    let _ = write!(path, "M{},{}h1v1h-1z", x + QUIET, y + QUIET);
                }
            }
        }
        Ok(Self { side: code.size() + 2 * QUIET, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_drawn() {
        let qr = Qr::of("otpauth://totp/example.com:ada?secret=JBSWY3DPEHPK3PXP").unwrap();
        // Version 4 and its quiet zone; the corner of the first finder pattern.
        assert_eq!(qr.side, 33 + 8);
        assert!(qr.path.starts_with("M4,4h1v1h-1zM5,4h1v1h-1z"), "{}", &qr.path[..40]);
        assert!(Qr::of(&"x".repeat(5_000)).is_err());
    }
}
