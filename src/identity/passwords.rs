//! Password hashes: argon2id, a few at a time. Each takes its memory for as long as it runs, so what bounds the number that
//! run at once bounds the memory that strangers can make us use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::settings::PasswordSettings;
use crate::kernel::{Entropy, Error, Result, codes};

/// The longest that somebody waits for their turn.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most hashes at once, however many processors there are: 76 MiB with the parameters that OWASP asks for.
const MOST: usize = 4;

/// What a look at a password said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    /// Right, and hashed with weaker parameters than are used now.
    RightAndWeak,
    Wrong,
}

/// The hasher of one process. Cheap to clone.
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    params: Params,
    places: Arc<Semaphore>,
    /// What an unknown address is compared with: as much work as a known one, and right for no password.
    nobody: String,
    done: AtomicU64,
}

impl Passwords {
    /// With parameters that were checked when the settings were read; else with OWASP's.
    pub fn new(settings: &PasswordSettings) -> Self {
        let params =
            Params::new(settings.memory_kib, settings.passes, 1, None).unwrap_or(Params::DEFAULT.clone());
        let (m, t) = (params.m_cost(), params.t_cost());
        let nobody = format!("$argon2id$v=19$m={m},t={t},p=1${}${}", "A".repeat(22), "A".repeat(43));
        let at_once = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let places = Arc::new(Semaphore::new(at_once));
        Self(Arc::new(Inner { params, places, nobody, done: AtomicU64::new(0) }))
    }

    /// How many hashes were computed so far.
    pub fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }

    /// A new hash, in PHC's form: parameters and salt included.
    ///
    /// # Errors
    /// `rate_limited` when too many wait.
    pub async fn hash(&self, password: &SecretString, entropy: &Entropy) -> Result<String> {
        let (password, salt) = (password.clone(), entropy.bytes::<16>());
        self.work(move |inner| {
            let hash: Result<PasswordHash, _> =
                inner.argon().hash_password_with_salt(password.expose_secret().as_bytes(), &salt);
            hash.map(|hash| hash.to_string()).map_err(Error::internal)
        })
        .await
    }

    /// Whether a password is the one of this hash. Without a hash it is wrong, after the same work.
    ///
    /// # Errors
    /// As [`Passwords::hash`].
    pub async fn verify(&self, password: &SecretString, hash: Option<&str>) -> Result<Verdict> {
        let (password, hash) = (password.clone(), hash.map(str::to_owned));
        self.work(move |inner| {
            let known = hash.is_some();
            let hash = hash.as_deref().unwrap_or(&inner.nobody);
            let hash = PasswordHash::new(hash).map_err(Error::internal)?;
            let right = inner.argon().verify_password(password.expose_secret().as_bytes(), &hash);
            match right {
                Ok(()) if known => Ok(inner.strength(&hash)),
                Ok(()) | Err(argon2::password_hash::Error::PasswordInvalid) => Ok(Verdict::Wrong),
                Err(error) => Err(Error::internal(error)),
            }
        })
        .await
    }

    /// In a thread that may be busy. The place is given back when the work is done, also when nobody waits for it any more.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let busy = || {
            Error::new(&codes::RATE_LIMITED)
                .detail("many people are signing in just now")
                .retry_after(PATIENCE)
        };
        let place = tokio::time::timeout(PATIENCE, self.0.places.clone().acquire_owned());
        let place = place.await.map_err(|_| busy())?.map_err(Error::internal)?;
        let inner = self.0.clone();
        tokio::task::spawn_blocking(move || {
            let _place = place;
            inner.done.fetch_add(1, Ordering::Relaxed);
            work(&inner)
        })
        .await
        .map_err(Error::internal)?
    }
}

impl Inner {
    fn argon(&self) -> Argon2<'static> {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone())
    }

    fn strength(&self, hash: &PasswordHash) -> Verdict {
        let enough = Params::try_from(hash).is_ok_and(|params| {
            params.m_cost() >= self.params.m_cost() && params.t_cost() >= self.params.t_cost()
        });
        match enough && hash.algorithm == ARGON2ID_IDENT {
            true => Verdict::Right,
            false => Verdict::RightAndWeak,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(memory_kib: u32) -> Passwords {
        Passwords::new(&PasswordSettings { memory_kib, ..PasswordSettings::default() })
    }

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_is_right_for_its_hash_alone() {
        let (passwords, entropy) = (of(19 * 1024), Entropy::default());
        let hash = passwords.hash(&secret("correct horse battery"), &entropy).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, passwords.hash(&secret("correct horse battery"), &entropy).await.unwrap(), "salted");
        let look =
            async |password, hash: Option<&str>| passwords.verify(&secret(password), hash).await.unwrap();
        assert_eq!(look("correct horse battery", Some(&hash)).await, Verdict::Right);
        assert_eq!(look("correct horse batterY", Some(&hash)).await, Verdict::Wrong);
        assert_eq!(look("", Some(&hash)).await, Verdict::Wrong);
        // Nobody's password is any, after the same work.
        let before = passwords.done();
        for password in ["", "correct horse battery", "A"] {
            assert_eq!(look(password, None).await, Verdict::Wrong);
        }
        assert_eq!(passwords.done(), before + 3);
        let stronger = of(20 * 1024);
        assert_eq!(
            stronger.verify(&secret("correct horse battery"), Some(&hash)).await.unwrap(),
            Verdict::RightAndWeak
        );
        let weaker = stronger.hash(&secret("correct horse battery"), &entropy).await.unwrap();
        assert_eq!(look("correct horse battery", Some(&weaker)).await, Verdict::Right);
    }

    /// A place is taken for the whole of the work, also of one that nobody waits for.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_so_many_are_at_work_at_once() {
        let passwords = of(19 * 1024);
        let all = passwords.0.places.available_permits();
        assert!((1..=MOST).contains(&all));
        let (began, waits) = std::sync::mpsc::channel::<()>();
        let work = {
            let passwords = passwords.clone();
            tokio::spawn(async move {
                passwords
                    .work(move |_| {
                        waits.recv().ok();
                        Ok(())
                    })
                    .await
            })
        };
        while passwords.done() == 0 {
            tokio::task::yield_now().await;
        }
        work.abort();
        assert!(work.await.unwrap_err().is_cancelled());
        assert_eq!(passwords.0.places.available_permits(), all - 1, "the thread still works");
        drop(began);
        while passwords.0.places.available_permits() < all {
            tokio::task::yield_now().await;
        }
    }
}
