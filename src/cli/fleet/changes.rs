//! Checking what is about to be sent or done.

use garde::Validate;

use crate::http::vocabulary::validate;
use crate::kernel::Result;

/// The value, if it is valid. The API checks for itself; this saves the way there, and stands in for it when there is
/// none.
pub fn checked<T: Validate<Context = ()>>(value: &T) -> Result<&T> {
    validate(value)?;
    Ok(value)
}
