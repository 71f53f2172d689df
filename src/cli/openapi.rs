//! `freehold openapi`

use clap::Args;

use super::output::{Output, print};
use crate::app;
use crate::kernel::Result;

/// Print the OpenAPI document of tenants' and operators' APIs
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  freehold openapi > openapi/v1.json")]
pub struct Openapi {}

/// It is JSON, whatever the output format.
pub fn run() -> Result<()> {
    print(Output::Json, &app::openapi(), |_| String::new())
}
