//! Work that outlives a request: runs (recorded, resumable, undoable), jobs (one retryable effect each), reconcilers
//! (periodic repair), and the notifications that wake the worker.

pub mod faults;
pub mod feed;
pub mod queue;
pub mod regular;
pub mod run;
pub mod saga;
pub mod wake;
