//! What can be seen from outside: logs and numbers.

pub mod logs;
pub mod numbers;
