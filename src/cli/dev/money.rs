//! Who bills in `freehold dev`: the Stripe that `--stripe` names, in its test mode; otherwise, in builds that have it, a
//! stand-in of our own that keeps its state beside the databases and shares its clock with the platform.

use std::net::SocketAddr;
use std::path::Path;

use super::screen;
use crate::billing::settings::Settings as StripeSettings;
use crate::control_plane::ControlPlane;
use crate::kernel::Result;

/// What this run has for billing. The stand-in ends with the value.
#[derive(Default)]
pub struct Money {
    pub settings: StripeSettings,
    #[cfg(feature = "testkit")]
    stand_in: Option<crate::testkit::stripe::StripeStandIn>,
}

impl Money {
    /// With the stand-in, the platform goes by a clock that can be moved: `cp` is given it.
    ///
    /// # Errors
    /// For a settings file that is wrong, and when the stand-in's cannot be written.
    pub async fn provide(home: &Path, given: Option<&Path>, cp: &mut ControlPlane) -> Result<Self> {
        if given.is_some() {
            return Ok(Self { settings: StripeSettings::of(given)?, ..Self::default() });
        }
        Self::stand_in(home, cp).await
    }

    #[cfg(not(feature = "testkit"))]
    async fn stand_in(_: &Path, _: &mut ControlPlane) -> Result<Self> {
        screen::note(
            "nobody is billed: this build has no stand-in for Stripe; see --stripe for its test mode",
        );
        Ok(Self::default())
    }

    #[cfg(feature = "testkit")]
    async fn stand_in(home: &Path, cp: &mut ControlPlane) -> Result<Self> {
        use crate::kernel::Clock;
        use crate::testkit::stripe::{Options, StripeStandIn};

        screen::say("starting the stand-in for Stripe");
        cp.clock = Clock::movable();
        let file = home.join("stripe.json");
        let addr = StripeStandIn::address_of(&file);
        let options = Options { clock: cp.clock.clone(), addr, file: Some(file), ..Options::default() };
        let stand_in = StripeStandIn::start_with(options).await;
        settings_file(home, &stand_in)?;
        Ok(Self { settings: stand_in.settings(), stand_in: Some(stand_in) })
    }
}

#[cfg(feature = "testkit")]
impl Money {
    /// Sends the stand-in's webhooks to this server.
    pub fn deliver_to(&self, addr: SocketAddr) {
        if let Some(stand_in) = &self.stand_in {
            stand_in.deliver_to_freehold(&format!("http://127.0.0.1:{}", addr.port()));
        }
    }

    /// Where the stand-in's dashboard is.
    pub fn dashboard(&self) -> Option<SocketAddr> {
        self.stand_in.as_ref().map(crate::testkit::stripe::StripeStandIn::addr)
    }
}

#[cfg(not(feature = "testkit"))]
impl Money {
    pub fn deliver_to(&self, _: SocketAddr) {}

    pub fn dashboard(&self) -> Option<SocketAddr> {
        None
    }
}

/// What other commands need to ask the same: `FREEHOLD_STRIPE=.freehold/stripe.toml freehold billing …`
#[cfg(feature = "testkit")]
fn settings_file(home: &Path, stand_in: &crate::testkit::stripe::StripeStandIn) -> Result<()> {
    use crate::kernel::{Error, SecretRef};
    use crate::local::write_private;

    let secret = |name: &str, text: &str| -> Result<SecretRef> {
        let file = std::path::absolute(home.join(name)).map_err(Error::internal)?;
        write_private(&file, text)?;
        Ok(SecretRef::File(file.to_string_lossy().into_owned()))
    };
    let text = format!(
        "# Written by freehold dev at each start: how other commands reach its stand-in for Stripe.\nmode = \"test\"\n\
         key = \"{}\"\nbase_url = \"{}\"\n\n[webhooks]\nsnapshot = [\"{}\"]\nthin = [\"{}\"]\n",
        secret("stripe.key", &stand_in.key)?,
        stand_in.base_url,
        secret("stripe-snapshot.secret", &stand_in.snapshot_secret)?,
        secret("stripe-thin.secret", &stand_in.thin_secret)?,
    );
    write_private(&home.join("stripe.toml"), &text)
}
