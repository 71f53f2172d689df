//! A second factor: codes from an app (RFC 6238), and ten recovery codes for the day the phone is gone. For every account,
//! whoever vouches for it.
//!
//! A code is good once: the time step of the last one is kept, and none at or before it counts. Tries are counted for each
//! account. Only somebody who has shown the first factor can make them, and whoever has that can make the owner wait, but
//! for a quarter of an hour at most and not for recovery codes, which are counted apart and are too long to be guessed.

use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::BASE32_NOPAD;
use serde_json::json;
use sqlx::PgConnection;
use totp_rs::{Builder, Secret};

use super::Identity;
use super::account_letters::{AccountLetter, Notice, account_letter_post};
use super::accounts::account_by_id;
use super::arrive::Here;
use super::sessions::{session_is_fresh, session_is_live, session_revoke_others};
use super::tries::{self, Patience};
use crate::control_plane::audit::{Caller, audit_add};
use crate::control_plane::changes::{self, Change};
use crate::kernel::ids::AccountId;
use crate::kernel::seal::Use;
use crate::kernel::secret::sha256;
use crate::kernel::{Error, Result, codes};

/// 160 bits, as RFC 4226 recommends.
const SECRET: usize = 20;
const RECOVERY_CODES: usize = 10;
/// Three codes are good at a time, of a million: 96 tries a day find one in ten years.
const CODES: Patience = Patience {
    free: 5,
    first: TimeDelta::seconds(30),
    most: TimeDelta::minutes(15),
    forget: TimeDelta::hours(24),
};
const RECOVERIES: Patience = Patience {
    free: 10,
    first: TimeDelta::seconds(5),
    most: TimeDelta::seconds(60),
    forget: TimeDelta::hours(1),
};

/// Where a person's second factor stands.
#[derive(Clone, Debug, Default, sqlx::FromRow)]
pub struct SecondFactor {
    /// Since when it is asked for.
    pub since: Option<DateTime<Utc>>,
    /// A secret was made and not yet confirmed.
    pub begun: bool,
    /// Recovery codes that are not used.
    pub codes_left: i64,
}

/// What a person needs to set up their app.
pub struct Enrolment {
    /// `otpauth://totp/…`
    pub uri: String,
    /// The secret in groups of four, for typing.
    pub secret: String,
}

/// Whether this account is asked for a second factor.
pub(super) async fn second_factor_is_on(conn: &mut PgConnection, account: AccountId) -> Result<bool> {
    let on: Option<bool> = sqlx::query_scalar("SELECT totp_since IS NOT NULL FROM account WHERE id = $1")
        .bind(account)
        .fetch_optional(conn)
        .await?;
    Ok(on.unwrap_or(false))
}

/// For the account's page.
pub async fn second_factor_get(conn: &mut PgConnection, account: AccountId) -> Result<SecondFactor> {
    sqlx::query_as(
        "SELECT totp_since AS since, totp_secret IS NOT NULL AND totp_since IS NULL AS begun,
                (SELECT count(*) FROM account_recovery_code r WHERE r.account = a.id AND r.used_at IS NULL)
                    AS codes_left
           FROM account a WHERE id = $1 AND deleted_at IS NULL",
    )
    .bind(account)
    .fetch_optional(conn)
    .await?
    .ok_or_else(|| Error::new(&codes::NOT_FOUND))
}

/// What a person typed: a code of the app, or a recovery code.
#[derive(Debug, PartialEq, Eq)]
enum Typed {
    Code(String),
    Recovery([u8; 32]),
}

/// Spaces and hyphens are for the eye.
fn typed(text: &str) -> Typed {
    let plain: String = text.chars().filter(|c| !c.is_whitespace() && *c != '-').take(100).collect();
    if plain.len() == 6 && plain.bytes().all(|b| b.is_ascii_digit()) {
        return Typed::Code(plain);
    }
    Typed::Recovery(sha256(plain.to_ascii_lowercase().as_bytes()))
}

/// The time step that a code is of, if it is one of now, of the one before or of the one after.
fn step_of(secret: [u8; SECRET], code: &str, now: DateTime<Utc>) -> Option<i64> {
    let totp = Builder::new().with_secret(Secret::new_stack(secret)).build().ok()?;
    let seconds = u64::try_from(now.timestamp()).ok()?;
    totp.check(code, seconds).and_then(|step| i64::try_from(step).ok())
}

fn wrong() -> Error {
    Error::new(&codes::SIGN_IN_FAILED)
        .detail("that code is wrong, or was used already")
        .hint("wait for the next code of your app, or type a recovery code")
}

/// Takes a code for good: it does not work a second time.
///
/// # Errors
/// `sign_in_failed`. The caller rolls back.
pub(super) async fn second_factor_shown(
    identity: &Identity,
    conn: &mut PgConnection,
    account: AccountId,
    code: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    let taken = match typed(code) {
        Typed::Recovery(hash) => {
            sqlx::query(
                "UPDATE account_recovery_code SET used_at = $3
              WHERE account = $1 AND code_hash = $2 AND used_at IS NULL",
            )
            .bind(account)
            .bind(&hash[..])
            .bind(now)
            .execute(&mut *conn)
            .await?
        }
        Typed::Code(code) => {
            let secret = identity.secret_of(conn, account).await?.ok_or_else(wrong)?;
            let step = step_of(secret, &code, now).ok_or_else(wrong)?;
            sqlx::query("UPDATE account SET totp_step = $2 WHERE id = $1 AND totp_step < $2")
                .bind(account)
                .bind(step)
                .execute(&mut *conn)
                .await?
        }
    };
    if taken.rows_affected() == 1 { Ok(()) } else { Err(wrong()) }
}

impl Identity {
    /// Counts a try. Outside the transaction of what it is for: a try that fails stays counted.
    pub(super) async fn second_factor_try(
        &self,
        conn: &mut PgConnection,
        account: AccountId,
        code: &str,
        now: DateTime<Utc>,
    ) -> Result<()> {
        match typed(code) {
            Typed::Code(_) => tries::begin(conn, &format!("totp:{account}"), CODES, now).await,
            Typed::Recovery(_) => tries::begin(conn, &format!("recovery:{account}"), RECOVERIES, now).await,
        }
    }

    /// The second factor was good: tries are free again.
    pub(super) async fn second_factor_good(&self, account: AccountId) -> Result<()> {
        let mut conn = self.cp.db.acquire().await?;
        tries::good(&mut conn, &format!("totp:{account}")).await?;
        tries::good(&mut conn, &format!("recovery:{account}")).await
    }

    async fn secret_of(&self, conn: &mut PgConnection, account: AccountId) -> Result<Option<[u8; SECRET]>> {
        let sealed: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT totp_secret FROM account WHERE id = $1 AND deleted_at IS NULL")
                .bind(account)
                .fetch_optional(conn)
                .await?;
        let Some(sealed) = sealed.flatten() else { return Ok(None) };
        let plain = self.master.open(Use::Totp, account.to_string().as_bytes(), &sealed)?;
        plain.try_into().map(Some).map_err(|_| Error::internal("a second factor's secret of another length"))
    }

    /// Makes a secret; it is not asked for before a code of it was shown.
    ///
    /// # Errors
    /// `confirm_required` without a fresh sign-in; `state_conflict` when a second factor is on already.
    pub async fn second_factor_begin(&self, here: Here) -> Result<()> {
        let now = self.cp.clock.now();
        let secret: [u8; SECRET] = self.cp.entropy.bytes();
        let whose = here.account.to_string();
        let sealed = self.master.seal(Use::Totp, whose.as_bytes(), &self.cp.entropy, &secret);
        let mut tx = self.cp.db.begin().await?;
        session_is_fresh(&mut tx, here.account, here.session, now).await?;
        let begun = sqlx::query(
            "UPDATE account SET totp_secret = $2, totp_step = 0, updated_at = $3
              WHERE id = $1 AND totp_since IS NULL AND deleted_at IS NULL",
        )
        .bind(here.account)
        .bind(sealed)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        if begun.rows_affected() == 0 {
            return Err(Error::new(&codes::STATE_CONFLICT).detail("a second factor is on already"));
        }
        Ok(tx.commit().await?)
    }

    /// What was begun and not confirmed yet.
    ///
    /// # Errors
    /// `state_conflict` when nothing was.
    pub async fn second_factor_enrolment(&self, account: AccountId) -> Result<Enrolment> {
        let mut conn = self.cp.db.acquire().await?;
        let begun = second_factor_get(&mut conn, account).await?.begun;
        let secret = match begun {
            true => self.secret_of(&mut conn, account).await?,
            false => None,
        };
        let secret = secret.ok_or_else(|| {
            Error::new(&codes::STATE_CONFLICT).detail("no second factor is being set up").hint("begin again")
        })?;
        let person = account_by_id(&mut conn, account).await?;
        let secret = BASE32_NOPAD.encode(&secret);
        let (site, label) = (&self.cp.addresses.base_domain, person.email.unwrap_or(person.name));
        let uri = format!(
            "otpauth://totp/{site}:{label}?secret={secret}&issuer={site}&algorithm=SHA1&digits=6&period=30",
            site = percent(site),
            label = percent(&label),
        );
        let groups: Vec<&str> =
            secret.as_bytes().chunks(4).filter_map(|four| std::str::from_utf8(four).ok()).collect();
        Ok(Enrolment { uri, secret: groups.join(" ") })
    }

    /// Turns it on with a first code. Everywhere else the person is signed out: those sessions never showed it. Gives the
    /// recovery codes, this once.
    ///
    /// # Errors
    /// `sign_in_failed` for a wrong code; `state_conflict` when none is being set up; `rate_limited`; `sign_in_required`.
    pub async fn second_factor_confirm(
        &self,
        caller: &Caller,
        here: Here,
        code: &str,
    ) -> Result<Vec<String>> {
        let now = self.cp.clock.now();
        let mut conn = self.cp.db.acquire().await?;
        self.second_factor_try(&mut conn, here.account, code, now).await?;
        drop(conn);
        let mut tx = self.cp.db.begin().await?;
        self.still_signed_in(&mut tx, here, now).await?;
        if !second_factor_get(&mut tx, here.account).await?.begun {
            return Err(Error::new(&codes::STATE_CONFLICT).detail("no second factor is being set up"));
        }
        // A recovery code of earlier days confirms nothing.
        if matches!(typed(code), Typed::Recovery(_)) {
            return Err(wrong());
        }
        second_factor_shown(self, &mut tx, here.account, code, now).await?;
        sqlx::query("UPDATE account SET totp_since = $2, updated_at = $2 WHERE id = $1")
            .bind(here.account)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE session SET second_factor = true WHERE id = $1 OR parent = $1")
            .bind(here.session)
            .execute(&mut *tx)
            .await?;
        let codes = self.recovery_codes(&mut tx, here.account).await?;
        session_revoke_others(&mut tx, here.account, Some(here.session), now).await?;
        self.second_factor_changed(&mut tx, caller, here.account, Notice::SecondFactorOn, now).await?;
        tx.commit().await?;
        self.second_factor_good(here.account).await?;
        Ok(codes)
    }

    /// Turns it off, with a code.
    ///
    /// # Errors
    /// As [`Identity::second_factor_confirm`]; `state_conflict` when it is not on.
    pub async fn second_factor_off(&self, caller: &Caller, here: Here, code: &str) -> Result<()> {
        let now = self.cp.clock.now();
        let mut tx = self.second_factor_again(here, code, now).await?;
        sqlx::query(
            "UPDATE account SET totp_secret = NULL, totp_since = NULL, totp_step = 0, updated_at = $2 WHERE id = $1",
        )
        .bind(here.account)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM account_recovery_code WHERE account = $1")
            .bind(here.account)
            .execute(&mut *tx)
            .await?;
        self.second_factor_changed(&mut tx, caller, here.account, Notice::SecondFactorOff, now).await?;
        tx.commit().await?;
        self.second_factor_good(here.account).await
    }

    /// New recovery codes in place of the old, with a code.
    ///
    /// # Errors
    /// As [`Identity::second_factor_off`].
    pub async fn recovery_codes_renew(&self, caller: &Caller, here: Here, code: &str) -> Result<Vec<String>> {
        let now = self.cp.clock.now();
        let mut tx = self.second_factor_again(here, code, now).await?;
        let codes = self.recovery_codes(&mut tx, here.account).await?;
        self.second_factor_changed(&mut tx, caller, here.account, Notice::RecoveryCodes, now).await?;
        tx.commit().await?;
        self.second_factor_good(here.account).await?;
        Ok(codes)
    }

    /// A code of a person who is signed in and has a second factor.
    async fn second_factor_again(
        &self,
        here: Here,
        code: &str,
        now: DateTime<Utc>,
    ) -> Result<sqlx::Transaction<'static, sqlx::Postgres>> {
        let mut conn = self.cp.db.acquire().await?;
        self.second_factor_try(&mut conn, here.account, code, now).await?;
        drop(conn);
        let mut tx = self.cp.db.begin().await?;
        self.still_signed_in(&mut tx, here, now).await?;
        if !second_factor_is_on(&mut tx, here.account).await? {
            return Err(Error::new(&codes::STATE_CONFLICT).detail("no second factor is on"));
        }
        second_factor_shown(self, &mut tx, here.account, code, now).await?;
        Ok(tx)
    }

    async fn still_signed_in(&self, conn: &mut PgConnection, here: Here, now: DateTime<Utc>) -> Result<()> {
        match session_is_live(conn, here.account, here.session, now).await? {
            true => Ok(()),
            false => Err(Error::new(&codes::SIGN_IN_REQUIRED)),
        }
    }

    /// Ten new codes; the old ones are gone.
    async fn recovery_codes(&self, conn: &mut PgConnection, account: AccountId) -> Result<Vec<String>> {
        sqlx::query("DELETE FROM account_recovery_code WHERE account = $1")
            .bind(account)
            .execute(&mut *conn)
            .await?;
        let mut codes = Vec::with_capacity(RECOVERY_CODES);
        for _ in 0..RECOVERY_CODES {
            // 80 bits: nothing to stretch, nothing to guess.
            let code = self.cp.entropy.base32::<10>();
            sqlx::query("INSERT INTO account_recovery_code (account, code_hash) VALUES ($1, $2)")
                .bind(account)
                .bind(&sha256(code.as_bytes())[..])
                .execute(&mut *conn)
                .await?;
            codes.push(format!("{}-{}-{}-{}", &code[..4], &code[4..8], &code[8..12], &code[12..]));
        }
        Ok(codes)
    }

    async fn second_factor_changed(
        &self,
        conn: &mut PgConnection,
        caller: &Caller,
        account: AccountId,
        what: Notice,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let action = match what {
            Notice::SecondFactorOn => "second_factor.on",
            Notice::SecondFactorOff => "second_factor.off",
            _ => "second_factor.codes",
        };
        audit_add(&mut *conn, caller, now, action, None, &account.to_string(), json!({})).await?;
        changes::notify(&mut *conn, Change::Account(account)).await?;
        account_letter_post(conn, &AccountLetter::Notice { account, what, at: now }, now).await
    }
}

/// A text as a part of an address (RFC 3986): apps read a plus as a plus.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, in six digits.
    #[test]
    fn codes_are_those_of_the_standard() {
        let secret = *b"12345678901234567890";
        let at = |seconds: i64| DateTime::from_timestamp(seconds, 0).unwrap();
        for (seconds, code) in [(59, "287082"), (1_111_111_109, "081804"), (1_234_567_890, "005924")] {
            assert_eq!(step_of(secret, code, at(seconds)), Some(seconds / 30), "{code}");
            assert_eq!(step_of(secret, code, at(seconds + 30)), Some(seconds / 30), "one step late");
            assert_eq!(step_of(secret, code, at(seconds - 30)), Some(seconds / 30), "one step early");
            assert_eq!(step_of(secret, code, at(seconds + 60)), None, "two steps late");
            assert_eq!(step_of(*b"02345678901234567890", code, at(seconds)), None, "another secret");
        }
    }

    #[test]
    fn what_is_typed_is_read_with_a_kind_eye() {
        assert_eq!(typed(" 123 456 "), Typed::Code("123456".into()));
        assert_eq!(typed("ABCD-efgh"), typed("abcdefgh"));
        assert!(matches!(typed("12345"), Typed::Recovery(_)));
        assert!(matches!(typed("１２３４５６"), Typed::Recovery(_)), "other scripts' digits are no digits");
    }

    #[test]
    fn an_address_part_is_escaped() {
        assert_eq!(percent("a b+ä@x.org"), "a%20b%2B%C3%A4%40x.org");
    }
}
