//! What can be seen from outside: logs and numbers.

mod json;
pub mod logs;
pub mod numbers;
