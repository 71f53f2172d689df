//! What can be seen from outside: logs and numbers.

mod json;
mod lines;
pub mod logs;
pub mod numbers;
