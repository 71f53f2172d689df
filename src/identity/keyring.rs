//! The signing keys as one server knows them: looked up when they are needed, again when they are old, and again when a
//! token names one that is not known, but not as often as strangers invent names.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::{DecodingKey, EncodingKey};
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::access_token::{self, Audience, Said, Signer};
use super::signing::{self, Published};
use crate::control_plane::ControlPlane;
use crate::kernel::seal::Use;
use crate::kernel::{Error, MasterKey, Result, codes};

/// Older than this, the keys are looked up again in the background. A retired key is refused within this time.
const OLD: Duration = Duration::from_secs(30);
/// A token that names an unknown key is a reason to look again, at most this often.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// After a look that failed, nobody waits for another for this long.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The longest a request waits for the control database.
const PATIENCE: Duration = Duration::from_secs(1);

/// The keys. Cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    cp: ControlPlane,
    master: MasterKey,
    issuer: String,
    known: RwLock<Known>,
    /// The last look; the lock makes many who wait look once.
    looked: Mutex<Option<Look>>,
    /// One look in the background at a time; the permit is given back however that ends.
    refreshing: Arc<Semaphore>,
}

#[derive(Clone, Default)]
struct Known {
    keys: Arc<[Key]>,
    at: Option<Instant>,
}

struct Key {
    kid: String,
    public: DecodingKey,
    jwk: Value,
    /// Opened for each signature, and gone after it.
    sealed: Vec<u8>,
    signs_from: DateTime<Utc>,
}

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    worked: bool,
}

impl Keyring {
    pub fn new(cp: &ControlPlane, master: &MasterKey) -> Self {
        Self(Arc::new(Inner {
            cp: cp.clone(),
            master: master.clone(),
            issuer: cp.addresses.base_url(),
            known: RwLock::default(),
            looked: Mutex::default(),
            refreshing: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Who the tokens are from: the sign-in host's address.
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// What a token says, if it is one of ours for this audience and good now; `None` for any other text.
    ///
    /// # Errors
    /// `control_unavailable` when its key is not known and cannot be looked up: that is no reason to call it bad.
    pub async fn verify(&self, token: &str, audience: Audience) -> Result<Option<Said>> {
        let Ok(kid) = access_token::kid_of(token) else { return Ok(None) };
        let Some(key) = self.public_half(&kid).await? else { return Ok(None) };
        let now = self.0.cp.clock.now();
        match access_token::check(token, &kid, &key, &self.0.issuer, audience, now) {
            Ok(said) => Ok(Some(said)),
            Err(refused) => {
                tracing::debug!(%refused, "an access token is not believed");
                Ok(None)
            }
        }
    }

    /// Whether this key is one of ours and not retired, as far as is known. Asks nobody.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys().iter().any(|key| key.kid == kid)
    }

    /// The key to sign with now; the first server that asks makes the first key.
    pub async fn signer(&self) -> Result<Signer> {
        if self.age().is_none_or(|age| age > OLD) {
            self.look(OLD).await?;
        }
        if let Some(signer) = self.signer_known()? {
            return Ok(signer);
        }
        signing::signing_key_ensure(&self.0.cp, &self.0.master).await?;
        self.look(Duration::ZERO).await?;
        self.signer_known()?.ok_or_else(|| Error::internal("there is no key to sign with"))
    }

    /// The public halves, for anybody.
    pub async fn published(&self) -> Result<Vec<Value>> {
        if self.age().is_none_or(|age| age > OLD) {
            self.look(OLD).await?;
        }
        Ok(self.keys().iter().map(|key| key.jwk.clone()).collect())
    }

    fn signer_known(&self) -> Result<Option<Signer>> {
        let (keys, now) = (self.keys(), self.0.cp.clock.now());
        let due = keys.iter().filter(|key| key.signs_from <= now);
        let Some(key) = due.max_by(|a, b| (a.signs_from, &a.kid).cmp(&(b.signs_from, &b.kid))) else {
            return Ok(None);
        };
        let pkcs8 = self.0.master.open(Use::SigningKey, key.kid.as_bytes(), &key.sealed)?;
        Ok(Some(Signer { kid: key.kid.clone(), key: EncodingKey::from_ed_der(&pkcs8) }))
    }

    async fn public_half(&self, kid: &str) -> Result<Option<DecodingKey>> {
        let find = || self.keys().iter().find(|key| key.kid == kid).map(|key| key.public.clone());
        if let Some(found) = find() {
            return Ok(Some(found));
        }
        self.look(AGAIN_AFTER).await?;
        Ok(find())
    }

    /// The keys as they are known. Old ones are served, and looked up again meanwhile.
    fn keys(&self) -> Arc<[Key]> {
        let known = self.0.known.read().clone();
        if known.at.is_some_and(|at| at.elapsed() > OLD)
            && let Ok(permit) = self.0.refreshing.clone().try_acquire_owned()
        {
            let ring = self.clone();
            tokio::spawn(async move {
                let _permit = permit;
                if let Err(error) = ring.look(OLD).await {
                    tracing::warn!(
                        ?error,
                        "the signing keys could not be looked up; the known ones are used"
                    );
                }
            });
        }
        known.keys
    }

    fn age(&self) -> Option<Duration> {
        self.0.known.read().at.map(|at| at.elapsed())
    }

    /// Looks the keys up, unless somebody did within `unless_within`.
    async fn look(&self, unless_within: Duration) -> Result<()> {
        let away = || Error::new(&codes::CONTROL_UNAVAILABLE).retry_after(AFTER_FAILURE);
        let mut looked = self.0.looked.lock().await;
        match *looked {
            Some(look) if look.worked && look.at.elapsed() < unless_within => return Ok(()),
            Some(look) if !look.worked && look.at.elapsed() < AFTER_FAILURE => return Err(away()),
            _ => {}
        }
        let ask = async {
            let mut conn = self.0.cp.db.acquire().await?;
            signing::published(&mut conn).await
        };
        let found = tokio::time::timeout(PATIENCE, ask).await.unwrap_or_else(|_| Err(away()));
        *looked = Some(Look { at: Instant::now(), worked: found.is_ok() });
        let keys = found?.into_iter().filter_map(key).collect();
        *self.0.known.write() = Known { keys, at: Some(Instant::now()) };
        Ok(())
    }
}

fn key(row: Published) -> Option<Key> {
    let public = row.public_jwk["x"].as_str().and_then(|x| DecodingKey::from_ed_components(x).ok());
    if public.is_none() {
        tracing::error!(kid = row.kid, "a signing key's public half makes no sense");
    }
    Some(Key {
        kid: row.kid,
        public: public?,
        jwk: row.public_jwk,
        sealed: row.private_key,
        signs_from: row.signs_from,
    })
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;
    use crate::control_plane::{Addresses, Turns};
    use crate::db::migrations;
    use crate::kernel::{Clock, Entropy};

    /// With keys that are old, and a control database that is not there.
    fn old_ring() -> Keyring {
        let cp = ControlPlane {
            db: PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap(),
            clock: Clock::System,
            entropy: Entropy::default(),
            addresses: Addresses { scheme: "http".into(), base_domain: "localhost".into(), port: None },
            tables: &migrations::CONTROL,
            turns: Turns::default(),
        };
        let ring = Keyring::new(&cp, &MasterKey::from_bytes([1; 32]));
        let at = Instant::now().checked_sub(OLD + Duration::from_secs(1));
        *ring.0.known.write() = Known { at: Some(at.unwrap()), ..Known::default() };
        ring
    }

    /// Who holds the ring: each look in the background is one.
    fn holders(ring: &Keyring) -> usize {
        Arc::strong_count(&ring.0)
    }

    /// Guards, not yet seen to fail: a permit that is not asked for; one that is given back before the look.
    #[tokio::test]
    async fn old_keys_are_looked_up_by_one_at_a_time() {
        let ring = old_ring();
        let looking = ring.0.looked.lock().await;
        for _ in 0..100 {
            assert!(!ring.knows("any"));
            tokio::task::yield_now().await;
        }
        assert_eq!(holders(&ring), 2, "the ring itself, and one look");
        drop(looking);
        while holders(&ring) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(ring.0.looked.lock().await.is_some_and(|look| !look.worked), "nobody was there to answer");
        ring.knows("any");
        assert_eq!(holders(&ring), 2, "a look that failed does not stop the next");
    }

    /// Guards, not yet seen to fail: a flag in place of the permit, which the look takes back when it is done.
    #[test]
    fn a_look_that_is_ended_gives_its_permit_back() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let first = runtime();
        let ring = first.block_on(async { old_ring() });
        first.block_on(async {
            let _looking = ring.0.looked.lock().await;
            ring.knows("any");
            tokio::task::yield_now().await;
            assert_eq!(ring.0.refreshing.available_permits(), 0);
        });
        drop(first);
        assert_eq!(ring.0.refreshing.available_permits(), 1);
        runtime().block_on(async {
            ring.knows("any");
            assert_eq!(holders(&ring), 2, "the next look is on its way");
        });
    }
}
