//! Work that outlives a request: runs (recorded, resumable, undoable), jobs (one retryable effect each), reconcilers
//! (periodic repair), and the notifications that wake the worker.
//!
//! | file | holds |
//! |---|---|
//! | `run`, `saga` | runs as people see them; how they are carried out |
//! | `queue`, `regular` | jobs; jobs that every tenant is given again and again |
//! | `rounds`, `supervise` | what a process does now and then; what it does all the time |
//! | `wake`, `listen`, `feed` | telling, hearing, and hearing of one run |
//! | `backoff`, `faults` | how long to wait; where a test makes the process die |

pub mod backoff;
pub mod faults;
pub mod feed;
pub mod listen;
pub mod queue;
pub mod regular;
pub mod rounds;
pub mod run;
pub mod saga;
pub mod supervise;
pub mod wake;
