//! Settings that were not given, from the state folder of `freehold dev`.

use clap::ArgMatches;
use clap::parser::ValueSource;
use secrecy::SecretString;

use super::Globals;
use crate::config::home;
use crate::kernel::Result;

/// Which settings with a default were said by flag or environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    base_domain: bool,
    public_scheme: bool,
    /// The state folder.
    pub home: bool,
}

impl Given {
    pub fn of(matches: &ArgMatches) -> Self {
        let given = |name| !matches!(matches.value_source(name), None | Some(ValueSource::DefaultValue));
        Self { base_domain: given("base_domain"), public_scheme: given("public_scheme"), home: given("home") }
    }
}

/// Takes from the state folder what was not said. A control database that was named is another installation's: nothing is
/// mixed into its settings.
pub fn complete(globals: &mut Globals) -> Result<()> {
    let control = &mut globals.control;
    if control.control_url.is_some() || globals.server.is_some() {
        return Ok(());
    }
    let Some(found) = home::load(&control.home)? else { return Ok(()) };
    control.control_url = Some(SecretString::from(found.control_url));
    control.master_key.get_or_insert_with(|| SecretString::from(found.master_key));
    if !globals.given.base_domain {
        control.base_domain = found.base_domain;
    }
    if !globals.given.public_scheme {
        control.public_scheme = found.public_scheme;
    }
    Ok(())
}
