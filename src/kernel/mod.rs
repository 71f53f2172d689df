//! Words shared by every layer: ids, time, randomness, errors, pages, secrets. No I/O.

pub mod clock;
pub mod codes;
pub mod credentials;
pub mod entropy;
pub mod error;
pub mod ids;
pub mod page;
pub mod rfc3339;
pub mod role;
pub mod seal;
pub mod secret;
pub mod settings_file;
pub mod slug;

pub use clock::Clock;
pub use codes::Code;
pub use entropy::Entropy;
pub use error::{Error, FieldError, QuotaState, Result};
pub use role::Role;
pub use secret::{MasterKey, SecretRef};
pub use slug::Slug;
