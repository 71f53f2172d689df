//! Parses, calls [`freehold::cli`], maps an error to an exit code.

use std::process::ExitCode;

use freehold::cli::{self, exit};

fn main() -> ExitCode {
    // One TLS stack for all. It can only be set already, by a library that was faster with the same one.
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // Help and the version are such "errors" too: printed on stdout, with code 0.
        Err(error) => {
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let (output, verbose) = (cli.globals.output, cli.globals.verbose > 0);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&freehold::kernel::Error::internal(error), output, verbose),
    };
    let ended = runtime.block_on(cli::run(cli));
    freehold::telemetry::logs::flush();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, output, verbose),
    }
}
